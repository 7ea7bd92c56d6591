import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import Screen, make_split, run
from panmodal.evaluation import estimate_calibrate
from panmodal.evaluation.cost import (
    TICK,
    CostModel,
    Observation,
    Shape,
    added,
    context_steps,
    design_steps,
    fit_costs,
    metric_steps,
    prepare_steps,
    probe_steps,
    target_steps,
    write_steps,
)
from panmodal.evaluation.estimate import BUILT_IN, COLUMNS, estimate_plan, read_plan, working_set, write_plan
from panmodal.evaluation.estimate_calibrate import calibrated, calibration_path, read_timings, with_timings
from panmodal.evaluation.lite import restrict_plan
from panmodal.evaluation.metrics import metrics_for
from panmodal.evaluation.plan import make_plan
from panmodal.evaluation.store import Store
from panmodal.probes.base import probes

COUNT = st.integers(0, 3000)


@given(
    COUNT,
    COUNT,
    COUNT,
    st.integers(0, 5000),
    COUNT,
    st.sampled_from(["lfc", "deg"]),
    st.sampled_from(["knn", "lasso", "logistic", "new"]),
)
def test_no_work_is_negative_and_more_is_never_cheaper(n, m, rows, dims, t, response, probe):
    names = [x.name for x in metrics_for(response)]

    def steps(n, t):
        shape = Shape(n, m, rows, dims, t, response)
        return added(
            design_steps(n, m, dims), target_steps(n, t, response), probe_steps(shape, probe), metric_steps(rows, t, names, response),
            write_steps(rows, t, response), context_steps(n, t, response, names), prepare_steps(n, t, response),
        )  # fmt: skip

    seconds = BUILT_IN.seconds(steps(n, t))
    assert np.isfinite(seconds)
    assert seconds >= 0
    assert BUILT_IN.seconds(steps(n, t + 100)) >= seconds
    assert BUILT_IN.seconds(steps(n + 100, t)) >= seconds
    assert working_set(Shape(n, m, rows, dims, t, response)) >= 0


def synthetic(true, sizes, rng, noise=0.0, factor=1.0):
    found = []
    for n, d, t in sizes:
        for steps in (design_steps(n, n // 4, d), probe_steps(Shape(n, n // 4, n // 4, d, t, "lfc"), "lasso")):
            seconds = factor * true.seconds(steps) * (np.exp(noise * rng.standard_normal()) if noise else 1.0)
            found.append(Observation(steps, seconds, f"{n}-{d}-{t}"))
    return found


TRUE = CostModel({"design": 0.01, "design.gram": 0.04, "design.eigen": 0.2, "design.scores": 0.15, "design.passes": 2.0,
                  "lasso": 0.02, "lasso.products": 0.03, "lasso.values": 4.0, "lasso.coefficients": 0.1})  # fmt: skip
SIZES = [(n, d, t) for n in (100, 300, 900) for d in (32, 200, 1500) for t in (500, 5000)]


def test_prices_are_recovered_from_synthetic_times():
    model = fit_costs(synthetic(TRUE, SIZES, None))
    for step, price in TRUE.prices.items():
        assert model.prices[step] == pytest.approx(price, rel=0.02), step
    assert model.low == pytest.approx(1.0, abs=0.01)
    assert model.high == pytest.approx(1.0, abs=0.01)


def test_the_band_holds_nine_of_ten_times_of_other_sizes():
    rng = np.random.default_rng(0)
    model = fit_costs(synthetic(TRUE, SIZES * 6, rng, noise=0.3))
    others = [(n, d, t) for n in (150, 600) for d in (64, 700) for t in (800, 3000)] * 30
    ratios = np.array(
        [(o.seconds + TICK) / (model.seconds(o.steps) + TICK) for o in synthetic(TRUE, others, rng, noise=0.3)]
    )
    inside = np.mean((ratios >= model.low) & (ratios <= model.high))
    assert 0.8 <= inside <= 0.98


def test_recorded_times_of_a_slower_machine_move_all_prices():
    slow = [o for o in synthetic(TRUE, SIZES, None, factor=3.0) if "lasso" in o.steps]
    prior = CostModel({**TRUE.prices, "metrics.sorts": 3.0}, resident=1e8)
    model = fit_costs(slow, prior=prior)
    assert model.prices["lasso.products"] == pytest.approx(3 * TRUE.prices["lasso.products"], rel=0.05)
    # What the records say nothing about goes with the machine.
    assert model.prices["metrics.sorts"] == pytest.approx(9.0, rel=0.05)
    assert model.prices["design.gram"] == pytest.approx(3 * TRUE.prices["design.gram"], rel=0.05)
    assert model.resident == 1e8


def test_a_step_nobody_timed_costs_as_the_dearest_of_its_kind():
    assert BUILT_IN.price("new.products") == max(v for k, v in BUILT_IN.prices.items() if k.endswith(".products"))
    assert BUILT_IN.price("new") == max(v for k, v in BUILT_IN.prices.items() if k in probes())
    assert not BUILT_IN.timed(["new"])


def test_every_probe_and_metric_has_a_built_in_price():
    for response in ("lfc", "deg"):
        names = [m.name for m in metrics_for(response)]
        for probe in probes().values():
            shape = Shape(400, 100, 100, 64, 1000, response)
            steps = added(probe_steps(shape, probe.name), metric_steps(100, 1000, names, response), design_steps(400, 100, 64),
                          context_steps(500, 1000, response, names), write_steps(100, 1000, response), prepare_steps(500, 1000, response))  # fmt: skip
            assert not {s for s in steps if not BUILT_IN.timed([s])}, probe.name


def test_bad_times_and_models(refuses):
    refuses(["no measured times"], fit_costs, [])
    refuses(["above 0"], fit_costs, [Observation({"a": 1.0}, 0.0)])
    refuses(["'a'"], CostModel, {"a": -1.0})
    refuses(["band"], CostModel, {}, low=2.0)
    refuses(["cannot be negative"], Shape, -1, 0, 0, 0, 0, "lfc")
    refuses(["here.json", "--calibrate"], CostModel.from_record, {"prices": {"a": "x"}}, "here.json")
    assert CostModel.from_record(TRUE.to_record(), "here") == TRUE


# --- the calibration -------------------------------------------------------------------------------------------------


def test_the_calibration_is_kept_renewed_and_checked(tmp_path, refuses):
    calls = []

    def measure():
        calls.append(1)
        return TRUE

    assert calibrated(folder=tmp_path, seconds=measure) == TRUE
    assert calibrated(folder=tmp_path, seconds=measure) == TRUE
    assert len(calls) == 1
    calibrated(folder=tmp_path, seconds=measure, renew=True)
    assert len(calls) == 2
    calibration_path(tmp_path).write_text("{", encoding="utf-8")
    refuses(["not a calibration", "--calibrate"], calibrated, folder=tmp_path, seconds=measure)
    calibration_path(tmp_path).write_text(json.dumps({"prices": 3}), encoding="utf-8")
    refuses(["not a calibration"], calibrated, folder=tmp_path, seconds=measure)


def test_measuring_gives_a_price_to_every_step(monkeypatch):
    monkeypatch.setattr(
        estimate_calibrate, "SIZES", {"lfc": ((60, 12, 20, 50), (90, 30, 20, 80)), "deg": ((60, 8, 20, 30),)}
    )
    monkeypatch.setattr(estimate_calibrate, "RUNS", ((40, 1, 1),))
    monkeypatch.setattr(estimate_calibrate, "DESIGNS", ((80, 100, 20),))
    found = estimate_calibrate.measure()
    model = fit_costs(found)
    known = {s for s in BUILT_IN.prices if s not in ("trials",)}
    assert known - set(model.prices) <= {"knn.votes"}
    assert all(o.seconds > 0 for o in found)


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(toy):
    screen, embeddings = toy()
    return make_plan(screen, embeddings, make_split(screen.pert_ids, n_folds=3), probe_names=["knn", "lasso"])


def test_every_trial_has_a_row_and_the_sum_is_the_work(planned):
    found = estimate_plan(planned, BUILT_IN)
    table = found.trials
    assert list(table.columns) == COLUMNS
    assert sorted(table["trial"]) == sorted({t.digest for t in planned.trials})
    assert (table[["seconds", "shared_seconds", "memory_bytes", "disk_bytes"]] >= 0).all().all()
    assert (table["low_seconds"] <= table["seconds"] + table["shared_seconds"]).all()
    assert (table["high_seconds"] >= table["seconds"] + table["shared_seconds"]).all()
    work = (table["seconds"] + table["shared_seconds"]).sum()
    assert sum(j.seconds for j in found.jobs) == pytest.approx(work)
    assert found.seconds == pytest.approx(work + found.before + found.after)
    assert len(found.jobs) == len(planned.groups)
    assert found.unshared > found.seconds
    sizes = table[table["embedding"] == "part"].iloc[0]
    assert sizes["n_train"] < table[table["embedding"] == "full"].iloc[0]["n_train"]
    assert found.memory > BUILT_IN.resident
    assert found.disk > 0


def test_what_is_done_is_not_counted(planned, toy, tmp_path):
    done = {t.digest for t in planned.trials if t.embedding == "full"}
    whole, rest = estimate_plan(planned, BUILT_IN), estimate_plan(planned, BUILT_IN, done=done)
    assert rest.trials["done"].sum() == len(done)
    assert rest.seconds < whole.seconds
    assert len(rest.jobs) == len(whole.jobs) - 3
    assert (rest.trials.loc[rest.trials["done"], "shared_seconds"] == 0).all()
    none = estimate_plan(planned, BUILT_IN, done={t.digest for t in planned.trials})
    assert none.seconds == 0
    assert none.jobs == ()


def test_a_projection_is_counted_once_for_contexts_with_the_same_ids(planned, toy):
    screen, embeddings = toy()
    one = make_plan(screen.select(["A"]), embeddings, planned.split, probe_names=["knn", "lasso"])

    def shared(plan):
        table = estimate_plan(plan, BUILT_IN).trials
        return table[table["role"] == "embedding"]["shared_seconds"].sum()

    assert shared(planned) == pytest.approx(shared(one))


def test_a_probe_that_depends_on_the_data_has_a_wider_band(toy):
    screen, embeddings = toy()
    labels = Screen.from_arrays(
        np.sign(np.random.default_rng(0).integers(-1, 2, (60, 9))), screen.ids_in("A"), ["A"] * 60, [f"g{k}" for k in range(9)], name="s",
        response="deg",
    )  # fmt: skip
    plan = make_plan(labels, embeddings, make_split(labels.pert_ids, n_folds=3))
    found = estimate_plan(plan, BUILT_IN)
    width = (found.trials["high_seconds"] / found.trials["low_seconds"]).groupby(found.trials["probe"]).max()
    assert width["logistic"] > width["ridge_classifier"]
    assert any("logistic" in n for n in found.notes)


def test_recorded_times_of_a_run_are_read_and_fitted(toy, tmp_path, refuses):
    screen, embeddings = toy()
    results = run(screen, embeddings, tmp_path / "r", folds=3, probes=["knn", "lasso"], metrics=["L2"], n_jobs=1)
    found = read_timings(tmp_path / "r")
    # Two embeddings and the random control; oracles' vectors are not kept, baselines fit nothing.
    assert len(found) == 3 * 2 * 3 * 2
    assert sum("design" in o.steps for o in found) == 3 * 3
    store = Store(tmp_path / "r")
    recorded = [
        store.trial_record(t.digest)["seconds"] for t in results.plan.trials if t.role in ("embedding", "control")
    ]
    assert sorted(o.seconds for o in found) == pytest.approx(sorted(recorded))
    model = with_timings(BUILT_IN, [str(tmp_path / "r")])
    assert "recorded" in model.source
    # Loose on purpose: the estimate of the very trials it was fitted to.
    told = sum(model.seconds(o.steps) for o in found)
    assert 0.2 < sum(o.seconds for o in found) / told < 5
    few = read_timings(tmp_path / "r", most=12)
    assert 0 < len(few) <= 16
    run(screen, embeddings, tmp_path / "fresh", folds=3, probes=["knn"], metrics=["L2"], n_jobs=1)
    for path in (tmp_path / "fresh" / "trials").rglob("*.parquet"):
        path.unlink()
    refuses(["no trial of an embedding"], read_timings, tmp_path / "fresh")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_plan_is_written_and_read(planned, tmp_path, suffix, refuses):
    table = estimate_plan(planned, BUILT_IN).trials
    path = tmp_path / f"plan{suffix}"
    write_plan(table, path)
    assert read_plan(path) == frozenset(table["trial"])
    wanted = table.assign(lite=table["fold"] == 0)
    write_plan(wanted, path)
    digests = read_plan(path)
    assert digests == frozenset(table.loc[table["fold"] == 0, "trial"])
    assert {t.digest for t in restrict_plan(planned, digests).trials} == digests
    write_plan(wanted.assign(lite=False), path)
    refuses([path.name, "wants no trial"], read_plan, path)


def test_bad_plans(planned, tmp_path, refuses):
    refuses(["plan.txt"], write_plan, pd.DataFrame(), tmp_path / "plan.txt")
    refuses(["plan.txt"], read_plan, tmp_path / "plan.txt")
    refuses(["gone.csv", "cannot be read"], read_plan, tmp_path / "gone.csv")
    (tmp_path / "a.csv").write_text("x\n1\n", encoding="utf-8")
    refuses(["a.csv", "'trial'"], read_plan, tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("trial,lite\nabc,maybe\n", encoding="utf-8")
    refuses(["b.csv", "'maybe'"], read_plan, tmp_path / "b.csv")

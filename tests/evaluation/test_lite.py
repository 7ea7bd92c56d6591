import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal import make_split, run
from panmodal.evaluation.estimate import BUILT_IN, estimate_plan
from panmodal.evaluation.lite import (
    Costs,
    _greedy,
    choose,
    correlation,
    designs,
    expected_tau,
    parse_budget,
    random_subset,
    restrict_plan,
    weights_of,
)
from panmodal.evaluation.lite_plan import (
    grid_of_units,
    held_out_tau,
    make_lite,
    plan_units,
    read_like,
    simulated_scores,
    tau_of,
)
from panmodal.evaluation.lite_units import PARTS, Components, components_of, shrunk_covariance, unit_scores
from panmodal.evaluation.plan import make_plan
from panmodal.evaluation.published import import_scores

TRUTH = Components(
    method=0.4, context=0.2, fold=0.1, probe=0.05, context_fold=0.1, context_probe=0.05, fold_probe=0.02, noise=0.3
)


@pytest.fixture(scope="module")
def published(shared):
    path = shared.parent / "reference" / "published_scores.csv.gz"
    if not path.is_file():
        pytest.skip("the published scores (../shared/reference) are not here")
    return import_scores(path).scores


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_greedy_takes_at_each_step_the_unit_with_the_best_correlation(contexts, folds, probes, seed):
    units = grid_of_units(contexts, folds, probes)
    x = np.random.default_rng(seed).standard_normal((len(units), 2 * len(units)))
    covariance, expected = x @ x.T, []
    for _ in range(min(5, len(units))):
        gains = [-9.0 if k in expected else correlation([*expected, k], units, covariance) for k in range(len(units))]
        expected.append(int(np.argmax(gains)))
    assert _greedy(units, covariance, Costs.even(units), len(expected), False) == expected


@given(st.integers(2, 6), st.integers(2, 5), st.integers(1, 2), st.floats(0.02, 1.0), st.floats(0, 10))
def test_the_choice_keeps_to_the_budget_and_beats_the_plain_designs(contexts, folds, probes, share, shared):
    units = grid_of_units(contexts, folds, probes)
    covariance, costs = TRUTH.covariance(units), Costs.even(units, shared)
    budget = max(share * costs.total, 1.0 + shared)
    chosen = choose(units, covariance, costs, budget)
    assert costs.of(chosen) <= budget * (1 + 1e-8)
    assert len(set(chosen)) == len(chosen)
    best = correlation(chosen, units, covariance)
    for name, plain in designs(units):
        if costs.of(plain) <= budget:
            assert best >= correlation(plain, units, covariance) - 1e-9, name


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_covariances_of_the_model_are_valid_and_all_units_agree_with_themselves(variances):
    units = grid_of_units(3, 3, 2)
    parts = Components(*variances)
    covariance = parts.covariance(units)
    assert np.linalg.eigvalsh(covariance).min() >= -1e-9
    if sum(variances) > 1e-3:
        assert correlation(range(len(units)), units, covariance) == pytest.approx(1.0)
        assert abs(correlation([0], units, covariance)) <= 1 + 1e-9


def test_components_are_recovered():
    units = grid_of_units(12, 6, 3)
    found = components_of(simulated_scores(TRUTH, units, 4000, np.random.default_rng(0)))
    for part in PARTS:
        assert getattr(found, part) == pytest.approx(getattr(TRUTH, part), abs=0.06), part


def test_expected_tau_is_measured_in_simulation():
    units, rng = grid_of_units(10, 5, 2), np.random.default_rng(1)
    covariance, costs = TRUTH.covariance(units), Costs.even(units, 3.0)
    for share in (0.05, 0.2):
        chosen = choose(units, covariance, costs, share * costs.total)
        scores = simulated_scores(TRUTH, units, 1500, rng)
        assert tau_of(scores, chosen) == pytest.approx(expected_tau(correlation(chosen, units, covariance)), abs=0.04)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("contexts", [4, 12])
def test_lite_beats_random_parts_of_the_same_cost_in_simulation(share, contexts):
    # Known truth: effects of methods, their interactions with contexts, folds and probes, and noise. The agreement is that
    # expected under the truth; what is chosen is chosen without it, from the scores of 40 other methods.
    units, rng = grid_of_units(contexts, 5, 2), np.random.default_rng(2)
    costs, truth = Costs.even(units, 4.0), TRUTH.covariance(units)

    def tau(chosen):
        return expected_tau(correlation(chosen, units, truth))

    budget = share * costs.total
    learned = [
        tau(choose(units, shrunk_covariance(simulated_scores(TRUTH, units, 40, rng)), costs, budget)) for _ in range(6)
    ]
    drawn = [tau(random_subset(costs, budget, rng)) for _ in range(60)]
    assert np.mean(learned) > np.mean(drawn)
    assert tau(choose(units, truth, costs, budget)) >= np.mean(learned) - 0.01


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_the_structure_alone_beats_random_parts_where_effects_are_as_usual(share):
    units, rng = grid_of_units(10, 5, 2), np.random.default_rng(0)
    costs, usual = Costs.even(units, 4.0), Components()
    truth = Components(**{p: getattr(usual, p) * rng.uniform(0.6, 1.7) for p in PARTS}).covariance(units)
    chosen = choose(units, usual.covariance(units), costs, share * costs.total)
    drawn = [correlation(random_subset(costs, share * costs.total, rng), units, truth) for _ in range(60)]
    assert correlation(chosen, units, truth) > np.mean(drawn)


def test_units_that_say_nothing_are_left_out_when_earlier_results_tell():
    units, rng = grid_of_units(8, 5), np.random.default_rng(3)
    scores = simulated_scores(TRUTH, units, 100, rng)
    noisy = (units["context"] >= "c004").to_numpy()
    values = scores.values.copy()
    values[:, noisy] = rng.standard_normal((100, noisy.sum()))
    dull = type(scores)(scores.methods, units, values)
    chosen = choose(units, shrunk_covariance(dull), Costs.even(units), 6)
    assert np.mean(noisy[chosen]) < 0.5


@pytest.mark.parametrize(
    ("screen", "response"),
    [("essential (published)", "lfc"), ("essential (published)", "deg"), ("tahoe (published)", "deg")],
)
def test_lite_beats_random_parts_on_published_scores_of_held_out_methods(published, screen, response):
    scores = unit_scores(published[(published["screen"] == screen) & (published["response"] == response)])
    assert len(scores.methods) >= 25
    table = held_out_tau(scores, Costs.even(scores.units, 2.0), (0.2,), repeats=10).set_index("by")
    assert table.at["like", "tau"] > table.at["random", "tau"]
    assert table.at["like", "tau"] > 0.85


def test_weights_count_tasks_alike():
    units = grid_of_units(2, 3)
    assert weights_of([0, 1, 3], units).tolist() == [0.25, 0.25, 0.0, 0.5, 0.0, 0.0]


def test_scores_are_standardised_with_higher_better(make_scores, refuses):
    rng = np.random.default_rng(0)
    methods = {(f"e{k}", p): (rng.standard_normal(5) + 9 * k).tolist() for k in range(6) for p in ("knn", "lasso")}
    found = unit_scores(make_scores(methods))
    assert found.values.shape == (6, 10)
    assert np.allclose(found.values.mean(axis=0), 0)
    assert np.mean(found.values**2) == pytest.approx(1)
    # L2: lower is better.
    order = np.argsort(-found.values.mean(axis=1))
    assert [found.methods[k] for k in order] == [f"e{k}" for k in range(6)]
    part = {k: v for k, v in methods.items() if k != ("e5", "knn")}
    assert unit_scores(make_scores(part)).left_out == ("e5",)
    refuses(
        ["2 of 2 embeddings", "at least 3"],
        unit_scores,
        make_scores({k: v for k, v in methods.items() if k[0] in ("e0", "e1")}),
    )
    refuses(["no metric 'x'"], unit_scores, make_scores(methods), metric="x")
    refuses(["no scores of embeddings by MSE"], unit_scores, make_scores(methods), metric="MSE")


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(toy):
    screen, embeddings = toy(contexts=("A", "B", "C"))
    return make_plan(screen, embeddings, make_split(screen.pert_ids, n_folds=4), probe_names=["knn", "lasso"])


def test_a_lite_plan_runs_only_its_trials(toy, planned, tmp_path):
    estimate = estimate_plan(planned, BUILT_IN, metrics=["L2"])
    units, costs = plan_units(estimate.trials)
    assert len(units) == 3 * 4 * 2
    assert costs.total == pytest.approx((estimate.trials["seconds"] + estimate.trials["shared_seconds"]).sum())
    lite = make_lite(estimate, 0.3 * costs.total)
    assert lite.seconds <= 0.3 * costs.total * (1 + 1e-8)
    assert 0 < lite.tau < 1
    assert (lite.table["tau"] >= lite.table["tau_random"] - 1e-9).all()
    part = restrict_plan(planned, lite.wanted)
    assert {t.digest for t in part.trials} == lite.wanted
    assert part.sources == planned.sources
    assert all(g.trials for g in part.groups)
    roles = {(t.context, t.fold, t.role) for t in part.trials}
    assert all((c, f, "baseline") in roles and (c, f, "oracle") in roles for c, f, r in roles if r == "embedding")
    # The oracle's projection is counted by probe, and made whole for one.
    own = estimate_plan(part, BUILT_IN, metrics=["L2"])
    assert own.trials["seconds"].sum() + own.trials["shared_seconds"].sum() == pytest.approx(lite.seconds, rel=0.25)


def test_a_lite_plan_learns_from_earlier_results(toy, planned, tmp_path):
    screen, embeddings = toy(contexts=("A", "B", "C"))
    rng = np.random.default_rng(0)
    more = [
        type(embeddings[0])(
            embeddings[0].ids,
            rng.standard_normal((60, 4)),
            embeddings[0].card.model_copy(update={"name": f"r{k}", "dims": 4}),
        )
        for k in range(2)
    ]
    run(
        screen,
        [*embeddings, *more],
        tmp_path / "r",
        split=planned.split,
        probes=["knn", "lasso"],
        metrics=["L2"],
        n_jobs=1,
    )
    like = read_like(tmp_path / "r")
    assert len(like.methods) == 4
    estimate = estimate_plan(planned, BUILT_IN, metrics=["L2"])
    budget = 0.3 * plan_units(estimate.trials)[1].total
    lite = make_lite(estimate, budget, like=like)
    assert "same tasks" in lite.notes[0]
    other = make_plan(
        screen.select(["A", "B"]), embeddings, make_split(screen.pert_ids, n_folds=5), probe_names=["knn"]
    )
    lite = make_lite(estimate_plan(other, BUILT_IN), budget, like=like)
    assert "other tasks" in lite.notes[0]
    assert lite.held_out is None


def test_a_plan_of_other_inputs_is_refused(planned, refuses):
    digests = {t.digest for t in planned.trials}
    refuses(["1 of", "'nothing'", "Make the plan anew"], restrict_plan, planned, {*digests, "nothing"})
    refuses(["wants no trial"], restrict_plan, planned, [])
    assert restrict_plan(planned, digests).groups == planned.groups


def test_budgets(refuses):
    assert parse_budget("0.2", 100) == pytest.approx(20)
    assert parse_budget("20%", 100) == pytest.approx(20)
    assert parse_budget("3h", 100, 2) == 21600
    assert parse_budget("90m", 100) == 5400
    assert parse_budget(" 30 s", 100) == 30
    for bad in ("", "-1", "2", "0", "0h", "3 days", "150%", "nan"):
        refuses(["--lite"], parse_budget, bad, 100)
    units = grid_of_units(2, 2)
    refuses(["not enough", "the least is 1"], choose, units, TRUTH.covariance(units), Costs.even(units), 0.5)
    refuses(["positive"], choose, units, TRUTH.covariance(units), Costs.even(units), 0.0)
    refuses(["at least 0"], Components, -1.0)
    refuses(["cannot be negative"], Costs, np.array([-1.0]), {}, np.array([0]))
    refuses(
        ["at least 8"], held_out_tau, simulated_scores(TRUTH, units, 5, np.random.default_rng(0)), Costs.even(units)
    )
    assert random_subset(Costs.even(units), 0.5, np.random.default_rng(0)) == []

"""Predictions of unmeasured perturbations: the probe's own predictions, intervals that hold what they promise, and what is said."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, ProbeCV, Screen
from panmodal.evaluation.intervals import mean_arrays, outer_folds, predict_arrays
from panmodal.evaluation.predict import interval_coverage, predict_responses, write_predictions
from panmodal.probes.base import get_probe
from panmodal.probes.design import Targets
from panmodal.screens.splits import make_split


def planted(rng, n, *, t=12, dims=6, noise=1.0, uneven=False):
    """Responses linear in the vectors under noise, which with ``uneven`` grows with the first coordinate."""
    x = rng.standard_normal((n, dims))
    size = np.exp(0.7 * x[:, :1]) if uneven else 1.0
    return x, x @ np.ones((dims, t)) / np.sqrt(dims) + noise * size * rng.standard_normal((n, t))


@pytest.fixture(scope="module")
def known():
    """A screen of two contexts with 50 of 70 perturbations in A and 60 in B, and an embedding of all but the last four."""
    rng = np.random.default_rng(3)
    x, y = planted(rng, 70)
    ids = [f"P{k:02d}" for k in range(70)]
    screen = Screen.from_arrays(
        np.vstack([y[:50], y[:60] + 1]), ids[:50] + ids[:60], ["A"] * 50 + ["B"] * 60, [f"g{k}" for k in range(12)],
        name="known", response="lfc",
    )  # fmt: skip
    return screen, Embedding(tuple(ids[:66]), x[:66], Card(name="toy", modality="toy")), ids


@pytest.mark.parametrize("probe", ["ridge", "knn", "lasso"])
def test_values_are_those_of_the_probe(known, probe):
    screen, embedding, ids = known
    found = predict_responses(screen, embedding, ids[50:], context="A", probe=probe)
    measured, y = screen.responses("A")
    fitted = ProbeCV(probe).fit(embedding.matrix(measured), y)
    np.testing.assert_allclose(found.values[:16], fitted.predict(embedding.matrix(ids[50:66])), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.values[16:], np.tile(y.mean(axis=0), (4, 1)), rtol=1e-5, atol=1e-6)
    assert found.about["covered"].tolist() == [True] * 16 + [False] * 4
    assert found.ids == tuple(ids[50:])
    assert (found.lower <= found.values).all()
    assert (found.values <= found.upper).all()
    assert any("4 id(s) without a vector" in note for note in found.notes)
    assert found.settings["hyperparameters"][get_probe(probe).parameter] == fitted.selection_.value
    assert found.settings["alpha"] == 0.1


def test_nothing_depends_on_the_order_or_on_other_ids(known):
    screen, embedding, ids = known
    every = predict_responses(screen, embedding, ids[50:], context="A")
    some = predict_responses(screen, embedding, [ids[60], ids[52]], context="A")
    np.testing.assert_allclose(some.values, every.values[[10, 2]], rtol=1e-5)
    np.testing.assert_allclose(some.upper, every.upper[[10, 2]], rtol=1e-5)
    pd.testing.assert_frame_equal(some.about, every.about.iloc[[10, 2]].reset_index(drop=True))


def test_ids_are_all_that_are_not_measured_unless_given(known):
    screen, embedding, ids = known
    assert predict_responses(screen, embedding, context="A").ids == tuple(ids[50:66])
    assert predict_responses(screen, embedding, context="B").ids == tuple(ids[60:66])
    found = predict_responses(screen, embedding, [ids[0], ids[51]], context="A")
    assert found.ids == (ids[51],)
    assert any("measured in 'A'" in note and "P00" in note for note in found.notes)


def test_nearest_and_unlike(known):
    screen, embedding, _ = known
    near = Embedding(
        (*embedding.ids, "TWIN", "FAR"),
        np.vstack([embedding.vectors, embedding.vectors[7], 9 + embedding.vectors[7]]),
        embedding.card,
    )
    about = predict_responses(screen, near, ["TWIN", "FAR"], context="A").about.set_index("pert_id")
    assert about.loc["TWIN", "nearest"] == "P07"
    assert about.loc["TWIN", "distance"] == pytest.approx(0, abs=1e-6)
    assert about.loc["TWIN", "farther_than"] == 0
    assert about.loc["FAR", "farther_than"] == 1
    notes = predict_responses(screen, near, ["FAR"], context="A").notes
    assert any("Coverage is not promised" in note and "FAR" in note for note in notes)


def test_other_names_and_combinations():
    rng = np.random.default_rng(0)
    genes = [
        "TP53",
        "BRCA1",
        "MYC",
        "EGFR",
        "KRAS",
        "PTEN",
        "RB1",
        "ATM",
        "CHEK2",
        "CDK4",
        "CDK6",
        "MDM2",
        "BRCA2",
        "PALB2",
        "NF1",
        "VHL",
    ]
    x, y = planted(rng, 16, t=3)
    screen = Screen.from_arrays(y[:14], genes[:14], ["A"] * 14, ["g0", "g1", "g2"], name="genes", response="lfc")
    embedding = Embedding(tuple(genes), x, Card(name="e", modality="toy"))
    found = predict_responses(screen, embedding, ["P53", "NF1+VHL", "NF1"])
    assert found.ids == ("NF1+VHL", "NF1")  # P53 is TP53, which was measured
    assert found.about["covered"].all()
    assert any("P53" in note and "measured" in note for note in found.notes)
    alone = predict_responses(screen, embedding, ["VHL"])
    fitted = ProbeCV("ridge").fit(x[np.argsort(genes[:14])], y[np.argsort(genes[:14])].astype(np.float32))
    np.testing.assert_allclose(found.values[0], fitted.predict(x[14:15] + x[15:16])[0], rtol=1e-4)
    assert alone.ids == ("VHL",)


@pytest.mark.parametrize(
    ("intervals", "difficulty", "uneven"),
    [("cv+", "none", False), ("cv+", "neighbours", False), ("cv+", "neighbours", True), ("cv", "neighbours", True)],
)
def test_coverage_is_within_two_points_of_nominal(intervals, difficulty, uneven):
    """Pooled over simulated data sets of 60 perturbations: read-outs, and whole responses by the bound on their norm."""
    for alpha in (0.1, 0.2):
        inside, within = [], []
        for seed in range(30):
            x, y = planted(np.random.default_rng([seed, 5]), 160, uneven=uneven)
            made = predict_arrays(
                x[:60],
                Targets.of(y[:60]),
                x[60:],
                get_probe("ridge"),
                alpha=alpha,
                intervals=intervals,
                difficulty=difficulty,
            )
            inside.append(((made.lower <= y[60:]) & (y[60:] <= made.upper)).mean())
            within.append((np.linalg.norm(y[60:] - made.values, axis=1) <= made.bound).mean())
        assert np.mean(inside) == pytest.approx(1 - alpha, abs=0.02)
        assert np.mean(within) == pytest.approx(1 - alpha, abs=0.02)


@pytest.mark.parametrize("intervals", ["cv+", "cv"])
def test_coverage_of_the_train_mean_is_within_two_points(intervals):
    inside, within = [], []
    for seed in range(60):
        _, y = planted(np.random.default_rng([seed, 6]), 160)
        made = mean_arrays(Targets.of(y[:60]), 100, alpha=0.1, intervals=intervals)
        inside.append(((made.lower <= y[60:]) & (y[60:] <= made.upper)).mean())
        within.append((np.linalg.norm(y[60:] - made.values, axis=1) <= made.bound).mean())
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)
    assert np.mean(within) == pytest.approx(0.9, abs=0.02)


def test_cv_intervals_by_hand():
    """Errors of models without a fold, each with the hyper-parameter of the final fit."""
    from panmodal.evaluation.conformal import conformal_quantile
    from panmodal.probes.design import Design

    x, y = planted(np.random.default_rng(8), 90)
    probe, missed = get_probe("ridge"), np.empty((60, 12))
    made = predict_arrays(x[:60], Targets.of(y[:60]), x[60:], probe, difficulty="none")
    folds = outer_folds(60, 42)
    for k in range(5):
        design, targets = Design.build(x[:60][folds != k], x[:60][folds == k]), Targets.of(y[:60][folds != k])
        missed[folds == k] = np.abs(y[:60][folds == k] - probe.predict(design.final, targets, made.selection.value))
    np.testing.assert_allclose(made.upper - made.values, np.tile(conformal_quantile(missed, 0.1), (30, 1)))
    np.testing.assert_allclose(made.bound, conformal_quantile(np.linalg.norm(missed, axis=1), 0.1))


def test_neighbours_widen_intervals_where_errors_are_large():
    x, y = planted(np.random.default_rng(1), 600, dims=2, uneven=True)
    made = predict_arrays(x[:300], Targets.of(y[:300]), x[300:], get_probe("ridge"))
    error = np.linalg.norm(y[300:] - made.values, axis=1)
    assert np.corrcoef(made.expected, error)[0, 1] > 0.5
    hard = x[300:, 0] > np.quantile(x[300:, 0], 0.8)
    flat = predict_arrays(x[:300], Targets.of(y[:300]), x[300:], get_probe("ridge"), difficulty="none")

    def coverage(arrays):
        return ((arrays.lower <= y[300:]) & (y[300:] <= arrays.upper))[hard].mean()

    assert coverage(flat) + 0.05 < coverage(made)


def test_held_out_folds_check_coverage(known):
    screen, embedding, ids = known
    split = make_split(ids, n_folds=5, seed=1)
    table = interval_coverage(screen, embedding, split, context="B")
    assert sorted(table["pert_id"]) == ids[:60]
    assert table["share_inside"].mean() == pytest.approx(0.9, abs=0.06)
    assert (table["within_bound"] == (table["error"] <= table["error_bound"])).all()


def test_real_knockdowns_are_covered(shared):
    """Held-out folds of the real screen, K-562 on STRING: within two points at 90 %."""
    from panmodal.screens.splits import read_split

    screen = Screen.read(shared / "replogle2022_uprank.h5ad", response="rank_score")
    screen = Screen(screen.adata[:, ::100].copy(), screen.name, "rank_score")
    embedding = Embedding.read(next((shared / "embeddings").glob("*string*.h5ad")))
    split = read_split(shared / "replogle2022_uprank.splits.csv")
    for intervals in ("cv+", "cv"):
        table = interval_coverage(screen, embedding, split, context="K-562", intervals=intervals)
        assert table["share_inside"].mean() == pytest.approx(0.9, abs=0.02)
        assert table["within_bound"].mean() == pytest.approx(0.9, abs=0.02)


def test_files(known, tmp_path, refuses):
    screen, embedding, ids = known
    made = [predict_responses(screen, embedding, ids[60:], context=c) for c in "AB"]
    write_predictions(made, tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert adata.shape == (20, 12)
    np.testing.assert_array_equal(adata.X[:10], made[0].values)
    np.testing.assert_array_equal(adata.layers["upper"][10:], made[1].upper)
    assert adata.obs["pert_id"].tolist() == ids[60:] * 2
    assert adata.obs["cell_line"].tolist() == ["A"] * 10 + ["B"] * 10
    assert [r["context"] for r in json.loads(adata.uns["panmodal_prediction"])] == ["A", "B"]
    write_predictions(made, tmp_path / "p.csv")
    write_predictions(made, tmp_path / "p.parquet")
    frame = pd.read_csv(tmp_path / "p.csv")
    assert len(frame) == 240
    assert frame.columns.tolist() == ["context", "pert_id", "readout", "prediction", "lower", "upper"]
    row = frame.query("context == 'B' and pert_id == @ids[61] and readout == 'g3'").iloc[0]
    assert row["lower"] == pytest.approx(made[1].lower[1, 3], rel=1e-5)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), frame, check_dtype=False, rtol=1e-5)
    refuses([".h5ad, .csv or .parquet"], write_predictions, made, tmp_path / "p.txt")
    refuses(["at least one"], write_predictions, [], tmp_path / "p.csv")


def test_few_measured_say_so(known, refuses):
    screen, embedding, ids = known
    few = Screen.from_arrays(
        screen.responses("A")[1][:15], ids[:15], ["A"] * 15, screen.readouts, name="few", response="lfc"
    )
    found = predict_responses(few, embedding, ids[60:62], alpha=0.05)
    assert np.isinf(found.upper).all()
    assert any("too few for intervals" in note for note in found.notes)
    fewer = Screen.from_arrays(
        screen.responses("A")[1][:12], ids[:12], ["A"] * 12, screen.readouts, name="few", response="lfc"
    )
    refuses(["12 of the 12", "at least 13"], predict_responses, fewer, embedding, ids[60:62])


def test_wrong_input_is_refused(known, refuses):
    screen, embedding, ids = known
    refuses(["say which"], predict_responses, screen, embedding, ids[60:])
    refuses(["no context 'C'"], predict_responses, screen, embedding, ids[60:], context="C")
    refuses(["no probe 'tree'"], predict_responses, screen, embedding, ids[60:], context="A", probe="tree")
    refuses(
        ["does not predict lfc", "ridge"], predict_responses, screen, embedding, ids[60:], context="A", probe="logistic"
    )
    refuses(["no intervals"], predict_responses, screen, embedding, ids[60:], context="A", intervals="bootstrap")
    refuses(["no difficulty"], predict_responses, screen, embedding, ids[60:], context="A", difficulty="hard")
    refuses(["alpha"], predict_responses, screen, embedding, ids[60:], context="A", alpha=1.0)
    refuses(["control cells"], predict_responses, screen, embedding, ["DMSO", ids[60]], context="A")
    refuses(["number 2 is empty"], predict_responses, screen, embedding, [ids[60], " "], context="A")
    refuses(["list of ids"], predict_responses, screen, embedding, ids[60], context="A")
    refuses(["nothing is left", "all 2 ids"], predict_responses, screen, embedding, ids[:2], context="A")
    labels = Screen.from_arrays(
        np.sign(screen.responses("A")[1]).astype(int),
        ids[:50],
        ["A"] * 50,
        screen.readouts,
        name="degs",
        response="deg",
    )
    refuses(["deg labels", "intervals are for numbers"], predict_responses, labels, embedding, ids[60:])
    split = make_split(ids[:40], n_folds=4, seed=1)
    refuses(["no fold"], interval_coverage, screen, embedding, split, context="A")


def test_outer_folds_are_even_and_seeded():
    folds = outer_folds(23, 1)
    assert sorted(np.bincount(folds)) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(folds, outer_folds(23, 1))
    assert (folds != outer_folds(23, 2)).any()

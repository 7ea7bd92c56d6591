"""Handing out what is in a results folder."""

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal import Screen, Store, StoreError, run
from panmodal.evaluation.store_export import export_perturbations, export_predictions, export_scores


@pytest.fixture(scope="module")
def results(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("export") / "r"
    screen, embeddings = toy(n=30, genes=8)
    run(screen, embeddings[:1], out, probes=["ridge"], metrics=["L2", "Pearson"], folds=2, n_jobs=1)
    labels = np.random.default_rng(0).integers(-1, 2, (30, 8))
    labelled = Screen.from_arrays(labels, screen.pert_ids, ["A"] * 30, screen.readouts, name="labels", response="deg")
    run(labelled, embeddings[:1], out, probes=["ridge_classifier"], folds=2, n_jobs=1, keep_predictions=True)
    return out


def test_scores(results, tmp_path):
    own = Store(results).scores()
    pd.testing.assert_frame_equal(export_scores(results, tmp_path / "s.parquet"), own)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), own)
    export_scores(results, tmp_path / "s.csv", where={"metric": ["L2"], "embedding": None})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv", keep_default_na=False)[["value", "trial"]],
                                  own.loc[own["metric"] == "L2", ["value", "trial"]].reset_index(drop=True))  # fmt: skip
    wide = export_scores(results, tmp_path / "w.csv", wide=True, where={"screen": ["toy"]})
    long = own[own["screen"] == "toy"]
    assert len(wide) * 2 == len(long) and list(wide.columns[-2:]) == ["L2", "Pearson"] and "n_scored" not in wide
    key = ["context", "fold", "embedding", "probe", "fallback"]
    for metric in ("L2", "Pearson"):
        expected = long[long["metric"] == metric].set_index(key)["value"]
        np.testing.assert_array_equal(wide.set_index(key)[metric].loc[expected.index], expected)


def test_perturbations(results, tmp_path):
    store = Store(results)
    rows, scores = store.perturbations(), store.scores()
    places = scores[["trial", "context", "embedding"]].drop_duplicates()
    n = export_perturbations(results, tmp_path / "p.parquet", wide=True)
    wide = pd.read_parquet(tmp_path / "p.parquet")
    assert len(wide) == n == len(rows.merge(places[["trial"]])) and {"L2", "AUPRC", "screen", "pert_id"} <= set(wide)
    n = export_perturbations(
        results, tmp_path / "p.csv", where={"metric": ["L2"], "context": ["A"], "embedding": ["full"]}
    )
    long = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert len(long) == n == 30 and set(long["metric"]) == {"L2"} and set(long["context"]) == {"A"}
    expected = rows[rows["trial"].isin(long["trial"])].set_index(["trial", "pert_id"])["L2"]
    np.testing.assert_allclose(long.set_index(["trial", "pert_id"])["value"].loc[expected.index], expected, rtol=1e-12)


def test_predictions(results, tmp_path):
    store = Store(results)
    shape = export_predictions(
        results, tmp_path / "p.h5ad", where={"screen": ["toy"], "embedding": ["full"], "fold": [0]}
    )
    data = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert (
        data.shape == shape
        and list(data.var_names) == [f"g{k}" for k in range(8)]
        and set(data.obs["context"]) == {"A", "B"}
    )
    for digest, own in data.obs.groupby("trial", observed=True):
        found = store.read_trial(str(digest))
        part = data[own.index]
        assert list(part.obs["pert_id"]) == found.pert_ids
        np.testing.assert_array_equal(part.X, found.values)
        trial = next(t for t in store.trials() if t.digest == digest)
        ids, truth, _ = store.read_responses(trial.depends["responses"])
        np.testing.assert_array_equal(part.layers["truth"], truth[[ids.index(i) for i in found.pert_ids]])
    export_predictions(results, tmp_path / "l.h5ad", where={"response": ["deg"], "probe": ["ridge_classifier"]})
    data = anndata.read_h5ad(tmp_path / "l.h5ad")
    np.testing.assert_allclose(data.X, data.layers["up"] - data.layers["down"])
    assert set(np.unique(data.layers["truth"])) <= {-1, 0, 1}


def test_refused(results, tmp_path, refuses):
    refuses(["no embedding 'x'", "'full'"], export_scores, results, tmp_path / "s.csv", where={"embedding": ["x"]})
    refuses(
        ["nothing is left"], export_scores, results, tmp_path / "s.csv", where={"screen": ["labels"], "metric": ["L2"]}
    )
    refuses(["cannot choose by 'value'"], export_scores, results, tmp_path / "s.csv", where={"value": [1]})
    for function in (export_scores, export_perturbations):
        refuses([".xlsx"], function, results, tmp_path / "s.xlsx")
    refuses([".h5ad"], export_predictions, results, tmp_path / "s.csv")
    refuses(["only of genes"], export_perturbations, results, tmp_path / "s.csv", where={"metric": ["F1"]})
    refuses(["other read-outs or kinds"], export_predictions, results, tmp_path / "s.h5ad")
    refuses(["not a results folder"], export_scores, tmp_path, tmp_path / "s.csv", error=StoreError)
    assert not list(tmp_path.iterdir())
    Store(tmp_path / "empty", create=True)
    refuses(["no finished trial"], export_predictions, tmp_path / "empty", tmp_path / "s.h5ad")


def test_predictions_that_were_not_kept(toy, tmp_path, refuses):
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(
        screen,
        embeddings[:1],
        tmp_path / "r",
        probes=["ridge"],
        metrics=["L2"],
        folds=2,
        n_jobs=1,
        keep_predictions=False,
    )
    refuses(["were not kept"], export_predictions, tmp_path / "r", tmp_path / "p.h5ad", error=StoreError)

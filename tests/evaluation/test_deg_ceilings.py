"""Ceilings of DEG labels: from raw cells to the leaderboard, against the stored label draws scored by plain numpy."""

import io
import itertools
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

from panmodal import Card, Embedding, Screen, Store, rescore, run
from panmodal.cells.ceiling import CeilingOptions, make_ceilings
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells
from panmodal.evaluation.ceilings import find_ceilings, fold_ceilings
from panmodal.evaluation.class_metrics import bootstrap_weights
from panmodal.evaluation.compaction import gather_ceilings
from panmodal.evaluation.config import RunConfig
from panmodal.evaluation.metrics import metrics_for
from panmodal.insight.gaps import gap_table
from panmodal.screens.ceilings import Ceilings, ceilings_path
from panmodal.screens.reading import read_screen
from panmodal.screens.splits import make_split

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2")
OF_GENES = ["F1", "precision", "recall", "ROC_AUC", "average_precision", "F1_classwise", "F1_nans_are_zeros"]
COUNTED = ["F1", "precision", "recall", "F1_classwise", "F1_nans_are_zeros"]
OF_PERTURBATIONS = ["overlap_at_N", "precision_at_N", "direction_match", "MCC", "AUPRC"]
LABELS = ["screen", "context", "response", "split", "fold", "estimator", "pert_id"]
OPTIONS = {"outer": 1, "inner": 1, "halves": 1, "null_draws": 2}
CHEAP = {"folds": 2, "probes": ["ridge_classifier"], "n_jobs": 1}
FEW = 3
"""Perturbation with too few cells for labels in context one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deg-ceilings")


@pytest.fixture(scope="module")
def truth(folder):
    path = folder / "cells.h5ad"
    truth = simulate_cells(path, n_cells=2800, n_perturbations=22, n_genes=40, n_batches=2, umis=300.0, contexts=("one", "two"),
                           control_share=0.2, effect=2.0)  # fmt: skip
    data = anndata.read_h5ad(path)
    obs = data.obs.astype(str)
    own = np.flatnonzero((obs["perturbation"] == truth.pert_ids[FEW]) & (obs["cell_line"] == "one"))
    data[np.setdiff1d(np.arange(len(obs)), own[20:])].copy().write_h5ad(path)
    return truth


@pytest.fixture(scope="module")
def cells(folder, truth):
    return open_cells([folder / "cells.h5ad"], PrepareOptions(deg="pooled"))


@pytest.fixture(scope="module")
def prepared(folder, cells):
    """The screen's file with its ceilings beside it."""
    screen = prepare(cells, name="toy", n_jobs=1)
    screen.write(folder / "toy.h5ad")
    make_ceilings(cells, screen, ceilings_path(folder / "toy.h5ad"), CeilingOptions(**OPTIONS), n_jobs=1)
    return folder / "toy.h5ad"


@pytest.fixture(scope="module")
def screen(prepared):
    """The labels; some of the responses are lowered, some raised, and one pair was not tested."""
    screen = read_screen(prepared, response="deg")
    assert screen.adata.n_obs == 43 and {-1.0, 0.0, 1.0} == set(np.unique(screen.adata.X))
    return screen


@pytest.fixture(scope="module")
def embeddings(truth):
    return [Embedding(tuple(ids), vectors, Card(name=name)) for name, (ids, vectors) in truth.embeddings.items()
            if name in ("sim-full", "sim-unrelated")]  # fmt: skip


@pytest.fixture(scope="module")
def finished(folder, prepared, screen, embeddings):
    """A run by a config, which finds the ceilings beside the file (not to be changed)."""
    config = RunConfig(screen=str(prepared), embeddings=["e.h5ad"], out="o", response="deg")
    found = config.load_ceilings(screen)
    assert found.path == ceilings_path(prepared)
    return run(screen, embeddings, folder / "results", ceilings=found, **CHEAP)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.path, tmp_path / "copy")


# --- plain loops -----------------------------------------------------------------------------------------------------


def drawn(path, context):
    """Ids and label draws (perturbations x draws x genes) as they lie in the file."""
    with h5py.File(path) as handle:
        group = next(g for g in handle["contexts"].values() if g.attrs["context"] == context)
        return [v.decode() for v in group["pert_id"][:]], group["labels"][:].astype(int)


def mean_defined(values, axis=None):
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    return np.where(n > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(n, 1), np.nan)


def plain_genes(said, true, metrics=OF_GENES):
    """Totals of metrics of genes where labels are predicted for certain, from counts of each class and gene."""
    is_true, is_said = (np.stack([x == c for c in (-1, 0, 1)]) for x in (true, said))
    m, n_true, n_said, hits = len(true), is_true.sum(1), is_said.sum(1), (is_true & is_said).sum(1)
    present = n_true > 0

    def ratio(a, b):
        return np.where(b > 0, a / np.maximum(b, 1), 0.0)

    def macro(values):
        return np.where(present, values, 0).sum(0) / present.sum(0)

    found, exact, each = ratio(hits, n_true), ratio(hits, n_said), ratio(2 * hits, n_true + n_said)
    spared = 1 - ratio(n_said - hits, m - n_true)
    values = {
        "F1": macro(each), "precision": macro(exact), "recall": macro(found),
        # Two thresholds: those of the class, then all.
        "ROC_AUC": np.where(present.sum(0) > 1, macro((found + spared) / 2), np.nan),
        "average_precision": macro(found * exact + (1 - found) * n_true / m),
        "F1_nans_are_zeros": np.where(present, each, 0).mean(0),
    }  # fmt: skip
    totals = {name: float(mean_defined(own)) for name, own in values.items()}
    totals["F1_classwise"] = float(mean_defined(mean_defined(np.where(present, each, np.nan), axis=1)))
    return {name: totals[name] for name in metrics}


def correlation(y, p):
    """Correlation of indicators of three classes (Gorodkin 2004); 0 where one class is predicted."""
    a, b = (np.stack([x == c for c in (-1, 0, 1)]) - np.stack([[(x == c).mean()] for c in (-1, 0, 1)]) for x in (y, p))
    if not a.any():
        return np.nan
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) if b.any() else 0.0


def plain_rows(said, true):
    """Metrics of perturbations where labels are predicted for certain."""
    out = {name: [] for name in OF_PERTURBATIONS}
    for y, p in zip(true, said, strict=True):
        deg, called = y != 0, p != 0
        n, k, hits = deg.sum(), called.sum(), (deg & called).sum()
        # Genes tied at the N-th place share alike: among those called, or all of them and a share of the others.
        overlap = hits * min(1, n / max(k, 1)) + max(0, n - k) * (n - hits) / max(len(y) - k, 1)
        out["overlap_at_N"].append(overlap / n if n else np.nan)
        out["precision_at_N"].append(hits / k if k else (0.0 if n else np.nan))
        out["direction_match"].append(np.mean(0.5 + 0.5 * (y * p)[deg]) if n else np.nan)
        out["MCC"].append(correlation(y, p))
        out["AUPRC"].append(hits / n * hits / max(k, 1) + (1 - hits / n) * n / len(y) if n else np.nan)
    return {name: np.array(values) for name, values in out.items()}


def low(values):
    """The 0.1 quantile of the draws that are defined."""
    known = np.asarray(values)[~np.isnan(values)]
    return np.quantile(known, 0.1) if len(known) else np.nan


def of_fold(path, screen, split, context, fold):
    """Test ids of a fold, their labels, and their draws (draws x test x genes)."""
    ids, values = screen.responses(context)
    test = [i for i in ids if split.folds[i] == fold]
    known, draws = drawn(path, context)
    true = np.array([values[ids.index(i)] for i in test]).astype(int)
    return test, true, np.stack([draws[known.index(i)] for i in test], axis=1)


def assert_is_plain(table, path, screen, split, contexts=("one", "two"), metrics=(*OF_GENES, *OF_PERTURBATIONS)):
    of_genes = [m for m in OF_GENES if m in metrics]
    rows = 0
    for context, fold in itertools.product(contexts, split.numbers):
        test, true, draws = of_fold(path, screen, split, context, fold)
        own = table[(table["context"] == context) & (table["fold"] == fold)].set_index("pert_id")
        assert sorted(own.index) == sorted([*test, ""]) and (own["n_draws"] == len(draws)).all()
        assert set(own["estimator"]) == {"experimental_error"} and set(own["response"]) == {"deg"}
        totals = pd.DataFrame([plain_genes(said, true, of_genes) for said in draws])
        for name in of_genes:
            assert own.loc["", name] == pytest.approx(low(totals[name]), rel=1e-9), (context, fold, name)
            assert own.loc[test, name].isna().all()
        each = [plain_rows(said, true) for said in draws]
        for name in (m for m in OF_PERTURBATIONS if m in metrics):
            expected = [low(values) for values in np.stack([e[name] for e in each]).T]
            np.testing.assert_allclose(own.loc[test, name], expected, rtol=1e-9, atol=1e-12, err_msg=name)
            assert np.isnan(own.loc["", name])
        rows += len(own)
    assert len(table) == rows


def test_the_plain_loops_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true, said = rng.integers(-1, 2, (2, 12, 9))
    true[:, 0], true[:, 1] = 0, np.abs(true[:, 1])
    found = plain_genes(said, true)
    expected = {"F1": [], "ROC_AUC": [], "average_precision": []}
    for y, p in zip(true.T, said.T, strict=True):
        present = np.unique(y)
        expected["F1"].append(f1_score(y, p, labels=present, average="macro", zero_division=0))
        if len(present) > 1:
            expected["ROC_AUC"].append(np.mean([roc_auc_score(y == c, p == c) for c in present]))
        expected["average_precision"].append(np.mean([average_precision_score(y == c, p == c) for c in present]))
    rows = plain_rows(said, true)
    np.testing.assert_allclose(
        rows["MCC"], [matthews_corrcoef(y, p) for y, p in zip(true, said, strict=True)], atol=1e-12
    )
    areas = [average_precision_score(y != 0, p != 0) for y, p in zip(true, said, strict=True)]
    np.testing.assert_allclose(rows["AUPRC"], areas, rtol=1e-12)
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), rel=1e-12)


# --- values ----------------------------------------------------------------------------------------------------------


def test_ceilings_are_the_stored_draws_scored_by_plain_loops(finished, prepared, screen):
    table = Store(finished.path).ceilings()
    assert list(table.columns) == [*LABELS, "n_draws", *OF_PERTURBATIONS, *OF_GENES, "seed"]
    assert len(drawn(ceilings_path(prepared), "one")[1][0]) == 20
    assert_is_plain(table, ceilings_path(prepared), screen, finished.plan.split)
    totals = table[table["pert_id"] == ""]
    # Neither perfect nor worthless, so that the quantile matters; draws differ.
    assert totals[["F1", "recall", "ROC_AUC"]].stack().between(0.5, 0.999).all()
    assert not table["pert_id"].isin([""]).all() and table["MCC"].notna().any()


def test_ceilings_are_between_the_floor_and_one(finished):
    board = finished.leaderboard()
    assert set(board["ceiling_by"]) == {"experimental_error"} and (board["floor"] < board["ceiling"]).all()
    assert (board["ceiling"] < 1).all()


def test_resampled_ceilings_are_quantiles_over_draws_of_repeated_rows(finished, prepared, screen):
    table = Store(finished.path).resampled().query("estimator != ''")
    assert (table["trial"] == "").all() and set(table["estimator"]) == {"experimental_error"}
    assert set(table["metric"]) == set(COUNTED) and len(table) == 2 * 2 * len(COUNTED)
    assert table["draws"].map(len).eq(200).all() and set(table["screen"]) == {"toy"} and set(table["seed"]) == {42}
    drawn_by = table.set_index(["context", "fold", "metric"])["draws"]
    for context, fold, b in (("one", 0, 0), ("one", 1, 199), ("two", 1, 5)):
        test, true, draws = of_fold(ceilings_path(prepared), screen, finished.plan.split, context, fold)
        rows = np.repeat(np.arange(len(test)), bootstrap_weights(test)[:, b].astype(int))
        totals = pd.DataFrame([plain_genes(said[rows], true[rows], COUNTED) for said in draws])
        for metric in COUNTED:
            assert drawn_by[context, fold, metric][b] == pytest.approx(low(totals[metric]), rel=1e-9)


def test_methods_and_ceilings_are_resampled_together(finished):
    """A fold's samples repeat the same perturbations for all: what is hard for one is hard for the others."""
    table = Store(finished.path).resampled().query("metric == 'F1' and context == 'two' and fold == 0")
    labels = finished.scores.drop_duplicates("trial").set_index("trial")
    draws = {labels.loc[r.trial, "embedding"] if r.trial else "ceiling": r.draws for r in table.itertuples()
             if not r.trial or labels.loc[r.trial, "probe"] in ("no change", "ridge_classifier")}  # fmt: skip
    assert {"ceiling", "none", "sim-full", "idealised"} <= set(draws)
    assert np.corrcoef(draws["none"], draws["sim-unrelated"])[0, 1] > 0.3


def test_gap_closed_is_measured_to_the_ceiling(finished):
    board = finished.leaderboard(ceiling="experimental_error")
    table = Store(finished.path).ceilings()
    for context, own in board.groupby("context"):
        ceiling = table[(table["context"] == context) & (table["pert_id"] == "")]["F1"].mean()
        floor = own.loc[own["role"] == "baseline", "mean"].max()
        np.testing.assert_allclose(own["ceiling"], ceiling, rtol=1e-12)
        np.testing.assert_allclose(own["floor"], floor, rtol=1e-12)
        np.testing.assert_allclose(own["gap_closed"], (own["mean"] - floor) / (ceiling - floor), rtol=1e-9, atol=1e-12)
        assert own["gap_low"].notna().all() and (own["gap_low"] <= own["gap_high"]).all()
    other = finished.leaderboard(ceiling="idealised")
    assert set(other["ceiling_by"]) == {"idealised, ridge_classifier"}
    for metric in ("ROC_AUC", "average_precision"):  # sorted, hence not resampled
        board = finished.leaderboard(metric=metric)
        assert set(board["ceiling_by"]) == {"experimental_error"} and board["gap_low"].isna().all()
        assert board["gap_closed"].notna().all()


def test_gap_closed_of_metrics_of_perturbations_is_measured_to_the_ceiling_too(finished):
    board = finished.leaderboard(metric="MCC")
    table = Store(finished.path).ceilings().query("pert_id != ''")
    for context, own in board.groupby("context"):
        ceiling = table[table["context"] == context].groupby("fold")["MCC"].mean().mean()
        np.testing.assert_allclose(own["ceiling"], ceiling, rtol=1e-12)
        floor = own.loc[own["role"] == "baseline", "mean"].max()
        np.testing.assert_allclose(own["gap_closed"], (own["mean"] - floor) / (ceiling - floor), rtol=1e-9, atol=1e-12)
    assert board["gap_low"].notna().all()


def test_intervals_are_percentiles_of_the_samples_taken_together(finished):
    store = Store(finished.path)
    gaps = gap_table(store.scores(), **store.evidence(), metrics=["F1"]).query("estimator == 'experimental_error'")
    samples = store.resampled().query("metric == 'F1'")
    labels = store.scores()[["trial", "context", "embedding", "probe"]].drop_duplicates()
    own = samples.query("trial != ''").drop(columns="context").merge(labels, on="trial")
    for row in gaps.itertuples():

        def mean(table):
            return np.mean(np.stack(table["draws"].tolist()), axis=0)

        here = own[own["context"] == row.context]
        score = mean(here[(here["embedding"] == row.embedding) & (here["probe"] == row.probe)])
        floor = mean(here[(here["embedding"] == "none") & (here["probe"] == row.floor_by)])
        ceiling = mean(samples[(samples["trial"] == "") & (samples["context"] == row.context)])
        expected = np.quantile((score - floor) / (ceiling - floor), [0.025, 0.975])
        np.testing.assert_allclose([row.gap_low, row.gap_high], expected, rtol=1e-9, atol=1e-12)


# --- the results folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def none_computed(monkeypatch):
    def burst(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("panmodal.evaluation.ceilings.fold_ceilings", burst)


def test_a_second_run_reuses_the_ceilings(copy, screen, embeddings, prepared, finished, none_computed):
    run(screen, embeddings, copy, ceilings=Ceilings(ceilings_path(prepared)), **CHEAP)
    for read in (Store.ceilings, Store.resampled, Store.scores):
        pd.testing.assert_frame_equal(read(Store(copy)), read(Store(finished.path)), check_exact=True)


def test_a_run_without_ceilings_keeps_those_there(copy, screen, embeddings, finished):
    run(screen, embeddings, copy, **CHEAP)
    for read in (Store.ceilings, Store.resampled):
        pd.testing.assert_frame_equal(read(Store(copy)), read(Store(finished.path)), check_exact=True)


def test_a_flipped_bit_in_stored_ceilings_is_noticed_or_harmless(copy, finished):
    """What is noticed counts as absent until the next run; what is not must not change tables."""
    store, file = Store(copy), sorted((copy / "ceilings").glob("*.parquet"))[1]
    trials, whole = store.resampled().query("trial != ''"), file.read_bytes()
    expected_tables = [Store(finished.path).ceilings(), Store(finished.path).resampled()]
    for place in range(4, len(whole) - 8, len(whole) // 60):
        raw = bytearray(whole)
        raw[place] ^= 1
        file.write_bytes(bytes(raw))
        ceilings, samples = gather_ceilings(store, store.trials())
        store.write_table("ceilings", ceilings)
        store.write_table("resampled", pd.concat([trials, samples], ignore_index=True))
        tables = [store.ceilings(), store.resampled()]
        if len(tables[0]) == len(expected_tables[0]):
            for found, expected in zip(tables, expected_tables, strict=True):
                pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_metrics_may_be_added_later(tmp_path, screen, embeddings, prepared, finished):
    made = Ceilings(ceilings_path(prepared))
    for metrics in (["MCC"], ["F1", "ROC_AUC"]):
        run(screen, embeddings, tmp_path / "r", ceilings=made, metrics=metrics, **CHEAP)
        samples = Store(tmp_path / "r").resampled()
        assert (samples is None) == (metrics == ["MCC"])
    table = Store(tmp_path / "r").ceilings()
    assert_is_plain(table, made.path, screen, finished.plan.split, metrics=["MCC", "F1", "ROC_AUC"])
    # Trials that were done keep their metrics until they are scored again.
    assert set(samples["metric"]) == {"F1"} and set(samples["estimator"]) == {"experimental_error"}
    rescore(tmp_path / "r", ["MCC", "F1", "ROC_AUC"])
    pd.testing.assert_frame_equal(Store(tmp_path / "r").ceilings(), table)
    whole = Store(finished.path).resampled().query("metric == 'F1'").reset_index(drop=True)
    pd.testing.assert_frame_equal(Store(tmp_path / "r").resampled(), whole)


def test_results_do_not_depend_on_the_number_of_processes(tmp_path, screen, prepared, finished):
    made, split = Ceilings(ceilings_path(prepared)), finished.plan.split
    frame, samples = fold_ceilings(made, screen, split, "two", 1, metrics_for("deg"))
    stored = Store(finished.path).ceilings().query("context == 'two' and fold == 1").drop(columns="seed")
    pd.testing.assert_frame_equal(
        frame, stored.reset_index(drop=True)[frame.columns], check_exact=True, check_dtype=False
    )
    kept = Store(finished.path).resampled().query("context == 'two' and fold == 1 and estimator != ''")
    for row in kept.itertuples():
        assert samples["experimental_error"][row.metric] == list(row.draws)


def test_fold_changes_and_labels_of_one_file_in_one_folder(copy, prepared, embeddings, finished):
    changes = read_screen(prepared)
    assert changes.response == "lfc" and changes.name == "toy"
    both = run(changes, embeddings, copy, ceilings=Ceilings(ceilings_path(prepared)), folds=2, probes=["ridge"], n_jobs=1,
               metrics=["L2", "Pearson"])  # fmt: skip
    table = Store(copy).ceilings()
    deg = table[table["response"] == "deg"].dropna(axis=1, how="all").reset_index(drop=True)
    pd.testing.assert_frame_equal(deg, Store(finished.path).ceilings(), check_like=True)
    assert set(table.loc[table["response"] == "lfc", "estimator"]) > {"experimental_error", "disjoint_halves"}
    assert (table.loc[table["response"] == "lfc", "pert_id"] != "").all()
    board = both.leaderboard()
    own = board[board["response"] == "deg"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, finished.leaderboard(), rtol=1e-9)


def test_the_quality_of_perturbations_is_kept(finished, prepared):
    quality = pd.read_parquet(finished.path / "quality.parquet")
    assert set(quality["screen"]) == {"toy"} and len(quality) == 44
    labels = read_screen(prepared, response="deg")
    counted = {(c, i): int((v != 0).sum()) for c in labels.contexts for i, v in zip(*labels.responses(c), strict=True)}
    known = quality.dropna(subset=["n_deg"]).set_index(["context", "pert_id"])["n_deg"]
    assert known.to_dict() == counted and len(known) == 43  # the pair with few cells was not tested


def test_one_context_only(tmp_path, screen, embeddings, prepared, finished):
    made = Ceilings(ceilings_path(prepared))
    results = run(screen.select(["two"]), embeddings, tmp_path / "r", ceilings=made, **CHEAP, split=finished.plan.split)
    assert_is_plain(Store(results.path).ceilings(), made.path, screen, finished.plan.split, contexts=["two"])
    pd.testing.assert_frame_equal(
        results.leaderboard(), finished.leaderboard().query("context == 'two'").reset_index(drop=True), rtol=1e-9
    )


def test_contexts_without_ceilings_are_measured_by_the_oracle(tmp_path, cells, prepared, screen, embeddings):
    make_ceilings(
        cells, read_screen(prepared, contexts=["two"]), tmp_path / "two.h5", CeilingOptions(**OPTIONS), n_jobs=1
    )
    results = run(screen, embeddings, tmp_path / "r", ceilings=Ceilings(tmp_path / "two.h5"), **CHEAP)
    by = results.leaderboard().groupby("context")["ceiling_by"].unique().map(list).to_dict()
    assert by == {"one": ["idealised, ridge_classifier"], "two": ["experimental_error"]}
    assert set(Store(results.path).ceilings()["context"]) == {"two"}


# --- what is found and refused ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawless(folder, cells, prepared):
    """Ceilings of the same screen without draws of labels."""
    make_ceilings(
        cells, read_screen(prepared), folder / "drawless.h5", CeilingOptions(**OPTIONS, label_draws=0), n_jobs=1
    )
    return folder / "drawless.h5"


@pytest.fixture(scope="module")
def unlabelled(folder, truth):
    """A screen without labels beside its ceilings."""
    cells = open_cells([folder / "cells.h5ad"], PrepareOptions(deg="none"))
    screen = prepare(cells, name="toy", n_jobs=1)
    screen.write(folder / "unlabelled.h5ad")
    make_ceilings(cells, screen, ceilings_path(folder / "unlabelled.h5ad"), CeilingOptions(**OPTIONS), n_jobs=1)
    return folder / "unlabelled.h5ad"


@pytest.fixture(scope="module")
def voted(folder, truth):
    """The same cells, labels by the vote of batches: other labels of the same fold changes, and too few cells nearly everywhere."""
    cells = open_cells([folder / "cells.h5ad"], PrepareOptions(deg="vote"))
    screen = prepare(cells, name="toy", n_jobs=1)
    screen.write(folder / "voted.h5ad")
    make_ceilings(cells, screen, ceilings_path(folder / "voted.h5ad"), CeilingOptions(**OPTIONS), n_jobs=1)
    return folder / "voted.h5ad"


def test_ceilings_beside_the_file_are_found_for_labels(prepared, screen):
    found = find_ceilings(None, str(prepared), screen)
    assert found.path == ceilings_path(prepared) and found.has_labels
    assert find_ceilings(str(ceilings_path(prepared)), "elsewhere.h5ad", screen).path == found.path


def test_ceilings_without_draws_of_labels_do_not_apply(prepared, screen, drawless, tmp_path, refuses):
    alone = shutil.copy(prepared, tmp_path / "toy.h5ad")
    assert find_ceilings(None, str(alone), screen) is None
    shutil.copy(drawless, tmp_path / "toy.ceilings.h5")
    assert not Ceilings(drawless).has_labels
    assert find_ceilings(None, str(alone), screen) is None
    assert find_ceilings(None, str(alone), read_screen(alone)) is not None  # fold changes have theirs
    refuses(["has no draws of DEG labels", "DEG labels"], find_ceilings, str(drawless), str(alone), screen)
    refuses(["has no draws of DEG labels"], run, screen, [Embedding(tuple(screen.pert_ids), np.eye(22), Card(name="e"))],
            tmp_path / "r", ceilings=Ceilings(drawless), **CHEAP)  # fmt: skip
    refuses(["has no draws of DEG labels"], Ceilings(drawless).labels, "one")
    assert not (tmp_path / "r").exists()


def test_a_screen_without_labels_has_none(unlabelled, screen, refuses):
    refuses(["without DEG labels", "--deg pooled or vote"], read_screen, unlabelled, response="deg")
    assert find_ceilings(None, str(unlabelled), screen) is None
    refuses(["has no draws of DEG labels"], Ceilings(ceilings_path(unlabelled)).check, screen)


def test_ceilings_of_other_labels_are_refused(prepared, screen, voted, tmp_path, refuses):
    """The fold changes are the same, the labels are not."""
    other = Ceilings(ceilings_path(voted))
    other.check(read_screen(prepared))
    says = ["made for other responses than screen 'toy'", "'one'", "--no-ceilings"]
    refuses(says, other.check, screen)
    refuses(says, find_ceilings, str(other.path), str(prepared), screen)
    changed = Screen.from_arrays(-screen.adata.X, screen.adata.obs["pert_id"], screen.adata.obs["cell_line"], screen.readouts,
                                 name="toy", response="deg")  # fmt: skip
    refuses(says, find_ceilings, None, str(prepared), changed)
    refuses(says, run, changed, [Embedding(tuple(screen.pert_ids), np.eye(22), Card(name="e"))], tmp_path / "r",
            ceilings=Ceilings(ceilings_path(prepared)), **CHEAP)  # fmt: skip
    assert not (tmp_path / "r").exists()


def test_ceilings_of_none_of_the_contexts_are_refused(screen, prepared, refuses):
    ids, values = screen.responses("two")
    other = Screen.from_arrays(values, ids, ["three"] * len(ids), screen.readouts, name="toy", response="deg")
    refuses(["has ceilings of 'one', 'two'", "'three'"], Ceilings(ceilings_path(prepared)).check, other)


def test_labels_by_vote_have_ceilings_by_vote(voted, tmp_path, embeddings):
    labels = read_screen(voted, response="deg", contexts=["two"])
    assert 10 < labels.adata.n_obs <= 22
    made = find_ceilings(None, str(voted), labels)
    results = run(labels, embeddings[:1], tmp_path / "r", ceilings=made, **CHEAP)
    assert_is_plain(Store(results.path).ceilings(), made.path, labels, results.plan.split, contexts=["two"])


# --- the command line ------------------------------------------------------------------------------------------------


def test_cli_from_cells_to_the_leaderboard(cli, folder, truth, embeddings, tmp_path):
    """prepare, ceiling, run --response deg, leaderboard."""
    cli("prepare", folder / "cells.h5ad", "--out", tmp_path / "s.h5ad", "-j", 1)
    cli("ceiling", tmp_path / "s.h5ad", "--outer", 1, "--inner", 1, "--halves", 1, "--null-draws", 2, "-j", 1)
    embeddings[0].write(tmp_path / "e.h5ad")
    options = ["run", "--screen", tmp_path / "s.h5ad", "--response", "deg", "--embedding", tmp_path / "e.h5ad", "--folds", 2,
               "--probe", "ridge_classifier", "--jobs", 1, "--metric", "F1", "--metric", "MCC"]  # fmt: skip
    printed = cli(*options, "--out", tmp_path / "r")
    assert "ceiling: the experimental error ceiling" in printed and "1 pair(s) have too few cells" in printed
    made, screen = Ceilings(tmp_path / "s.ceilings.h5"), read_screen(tmp_path / "s.h5ad", response="deg")
    store = Store(tmp_path / "r")
    runs = [r for _, r in store.runs()]
    assert runs[0]["ceilings"] == str(made.path.resolve())
    split = make_split(screen.pert_ids, n_folds=2, seed=42)
    assert_is_plain(store.ceilings(), made.path, screen, split, metrics=["F1", "MCC"])
    csv, page = tmp_path / "b.csv", tmp_path / "b.html"
    printed = cli("leaderboard", tmp_path / "r", "--ceiling", "experimental_error", "--csv", csv, "--html", page)
    board = pd.read_csv(io.StringIO(csv.read_text()))
    assert set(board["ceiling_by"]) == {"experimental_error"} and board["gap_low"].notna().all()
    assert "ceiling experimental_error" in page.read_text(encoding="utf-8")
    assert "% of the gap to the experimental error ceiling" in " ".join(printed.split())
    printed = cli(*options, "--out", tmp_path / "n", "--no-ceilings")
    assert "ceiling: the idealised oracle" in printed and Store(tmp_path / "n").ceilings() is None

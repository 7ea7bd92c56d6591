"""Ceilings of a run: the values against plain numpy, and what is kept, reused, replaced and refused in a results folder."""

import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats

from panmodal import Card, Embedding, Screen, Store, make_split, run
from panmodal.cells.ceiling import CeilingOptions, make_ceilings
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells
from panmodal.evaluation.ceilings import fold_ceilings
from panmodal.evaluation.config import RunConfig, make_config
from panmodal.evaluation.metrics import metrics_for
from panmodal.insight.gaps import gap_table
from panmodal.screens.ceilings import Ceilings, ceilings_path

LABELS = ["screen", "context", "response", "split", "fold", "estimator", "pert_id"]
METRICS = ["L2", "MSE", "MAE", "Pearson", "Spearman", "Pearson_centred", "Spearman_centred", "cosine", "PDS_L1", "PDS_L2",
           "PDS_cosine"]  # fmt: skip
ERRORS = {"L2", "MSE", "MAE"}
PARTS = {"experimental_error": ("point", "bootstrap"), "disjoint_halves": ("half1", "half2"),
         "replicate_batches": ("side1", "side2"), "interpolated_duplicate": ("half1", "half2")}  # fmt: skip
CHEAP = {"folds": 3, "probes": ["ridge"], "n_jobs": 1}
OPTIONS = {"outer": 2, "inner": 3, "halves": 5, "label_draws": 1, "null_draws": 4}
ONE, TWO = 2, 5
"""Perturbations of which context one has one cell, and two cells in two batches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ceilings")


@pytest.fixture(scope="module")
def truth(folder):
    path = folder / "cells.h5ad"
    truth = simulate_cells(path, n_cells=3000, n_perturbations=24, n_genes=60, n_batches=3, umis=200.0, contexts=("one", "two"),
                           control_share=0.2)  # fmt: skip
    data = anndata.read_h5ad(path)
    obs = data.obs.astype(str)
    keep = np.ones(len(obs), dtype=bool)
    for k, n in ((ONE, 1), (TWO, 2)):
        own = np.flatnonzero((obs["perturbation"] == truth.pert_ids[k]) & (obs["cell_line"] == "one"))
        first = [own[obs["batch"].iloc[own] == b][0] for b in sorted(set(obs["batch"]))][:n]
        keep[np.setdiff1d(own, first)] = False
    data[keep].copy().write_h5ad(path)
    return truth


@pytest.fixture(scope="module")
def cells(folder, truth):
    return open_cells([folder / "cells.h5ad"], PrepareOptions(min_cells=1))


@pytest.fixture(scope="module")
def screen(folder, cells):
    screen = prepare(cells, name="toy", n_jobs=1)
    screen.write(folder / "toy.h5ad")
    return screen


@pytest.fixture(scope="module")
def file(folder, cells, screen):
    make_ceilings(cells, screen, ceilings_path(folder / "toy.h5ad"), CeilingOptions(**OPTIONS), n_jobs=1)
    return folder / "toy.ceilings.h5"


@pytest.fixture(scope="module")
def reseeded(folder, cells, screen):
    make_ceilings(cells, screen, folder / "reseeded.h5", CeilingOptions(**OPTIONS, seed=1), n_jobs=1)
    return folder / "reseeded.h5"


@pytest.fixture(scope="module")
def matched(folder, truth):
    """The same cells by another rule, under the same name: other responses and their ceilings."""
    cells = open_cells([folder / "cells.h5ad"], PrepareOptions(min_cells=1, rule="matched"))
    screen = prepare(cells, name="toy", n_jobs=1)
    make_ceilings(cells, screen, folder / "matched.h5", CeilingOptions(**OPTIONS), n_jobs=1)
    return screen, folder / "matched.h5"


@pytest.fixture(scope="module")
def embeddings(truth):
    ids, vectors = truth.embeddings["sim-full"]
    return [Embedding(tuple(ids), vectors, Card(name="full", modality="toy"))]


@pytest.fixture(scope="module")
def finished(folder, screen, file, embeddings):
    return run(screen, embeddings, folder / "results", ceilings=Ceilings(file), **CHEAP)


@pytest.fixture
def results(finished, tmp_path):
    return shutil.copytree(finished.path, tmp_path / "results")


# --- plain numpy -----------------------------------------------------------------------------------------------------


def arrays(path, context):
    with h5py.File(path) as handle:
        group = next(g for g in handle["contexts"].values() if g.attrs["context"] == context)
        return {k: v[:].astype(float) for k, v in group.items() if k not in ("pert_id", "quality", "labels")}


def correlation(a, b):
    if np.ptp(a) <= 1e-6 * np.abs(a).max() or np.ptp(b) <= 1e-6 * np.abs(b).max():
        return np.nan
    return np.corrcoef(a, b)[0, 1]


def spearman(a, b):
    return correlation(stats.rankdata(a), stats.rankdata(b))


def cos(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def discrimination(distances):
    """Share of the other rows that are farther off than the own one."""
    off = ~np.eye(len(distances), dtype=bool)
    return ((distances > np.diag(distances)[:, None]) & off).sum(axis=1) / off.sum(axis=1) if len(off) > 1 else [np.nan]


def plain_metrics(predicted, true, mean):
    """One value for each row and metric; centred metrics are 0 where the train mean is predicted."""
    pairs = list(zip(predicted, true, strict=True))
    flat = [np.abs(p - mean).max() < 1e-5 for p in predicted]
    differences = predicted[:, None] - true

    def unit(matrix):
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def rows(function):
        return np.array([function(p, t) for p, t in pairs])

    return {
        "L2": rows(lambda p, t: np.sqrt(((p - t) ** 2).sum())), "MSE": rows(lambda p, t: ((p - t) ** 2).mean()),
        "MAE": rows(lambda p, t: np.abs(p - t).mean()), "Pearson": rows(correlation),
        "Spearman": rows(spearman),
        "Pearson_centred": np.where(flat, 0.0, rows(lambda p, t: correlation(p - mean, t - mean))),
        "Spearman_centred": np.where(flat, 0.0, rows(lambda p, t: spearman(p - mean, t - mean))),
        "cosine": rows(cos),
        "PDS_L1": discrimination(np.abs(differences).sum(axis=2)),
        "PDS_L2": discrimination((differences**2).sum(axis=2)),
        "PDS_cosine": discrimination(-(unit(predicted) @ unit(true).T)),
    }  # fmt: skip


def plain(path, screen, context, split, fold, estimator):
    """Ceilings of a fold and estimator from the draws in the file."""
    held = arrays(path, context)
    ids, values = screen.responses(context)
    test = [k for k, i in enumerate(ids) if split.folds[i] == fold]
    mean = np.delete(values.astype(float), test, axis=0).mean(axis=0)
    truth, prediction = PARTS[estimator]
    n_draws = held[prediction].shape[1]
    found = {m: np.full((n_draws, len(test)), np.nan) for m in METRICS}
    counted = np.zeros(len(test), dtype=int)
    for draw in range(n_draws):
        t = values[test].astype(float) if truth == "point" else held[truth][test, draw]
        p = held[prediction][test, draw]
        if estimator == "interpolated_duplicate":
            w = held["shrink"][test, draw]
            p = w * p + (1 - w) * mean
        whole = ~np.isnan(t).any(axis=1) & ~np.isnan(p).any(axis=1)
        counted += whole
        if whole.any():
            for name, own in plain_metrics(p[whole], t[whole], mean).items():
                found[name][draw, whole] = own
    out = {"pert_id": [ids[k] for k in test], "n_draws": counted}
    for name, draws in found.items():
        column = []
        for own in draws.T:
            own = own[~np.isnan(own)]
            if not len(own):
                value = np.nan
            elif estimator == "experimental_error":
                value = np.quantile(own, 0.9 if name in ERRORS else 0.1)
            else:
                value = own.mean()
            halves = estimator in ("disjoint_halves", "replicate_batches")
            if halves and name in ("Pearson", "Pearson_centred", "cosine") and value > 0:
                value = 2 * value / (1 + value)
            column.append(value)
        out[name] = column
    return pd.DataFrame(out)


def assert_is_plain(table, path, screen, split, contexts=("one", "two"), metrics=METRICS):
    """A table of ceilings holds the values computed here for all contexts, folds and estimators, and nothing else."""
    rows = 0
    for context in contexts:
        for fold in split.numbers:
            for estimator in PARTS:
                own = table[(table["context"] == context) & (table["fold"] == fold) & (table["estimator"] == estimator)]
                expected = plain(path, screen, context, split, fold, estimator).set_index("pert_id")
                own = own.set_index("pert_id")
                assert sorted(own.index) == sorted(expected.index)
                own = own.loc[expected.index]
                np.testing.assert_array_equal(own["n_draws"], expected["n_draws"])
                np.testing.assert_allclose(
                    own[metrics].to_numpy(float), expected[metrics].to_numpy(float), rtol=2e-5, atol=2e-6,
                    err_msg=f"{context}, {fold}, {estimator}",
                )  # fmt: skip
                rows += len(own)
    assert len(table) == rows


def all_folds(path, screen, split, context="one"):
    frames = [
        fold_ceilings(Ceilings(path), screen, split, context, f, metrics_for(screen.response))[0] for f in split.numbers
    ]
    return pd.concat(frames, ignore_index=True)


# --- values ----------------------------------------------------------------------------------------------------------


def test_ceilings_of_a_run_are_those_of_plain_numpy(finished, file, screen):
    table = pd.read_parquet(finished.path / "ceilings.parquet")
    assert_is_plain(table, file, screen, finished.plan.split)
    assert list(table.columns) == [*LABELS, "n_draws", *METRICS, "seed"] and set(table["seed"]) == {42}
    assert set(table["screen"]) == {"toy"} and set(table["response"]) == {"lfc"}
    assert set(table["split"]) == {"unseen-perturbation"}
    assert not table.duplicated(LABELS).any()


def test_folds_and_their_train_means_matter(screen, file):
    """The same draws by other folds: metrics with the train mean differ, the others do not."""
    tables = [
        all_folds(file, screen, make_split(screen.pert_ids, n_folds=4, seed=s)).sort_values(["estimator", "pert_id"])
        for s in (0, 1)
    ]
    halves = [t[t["estimator"] == "disjoint_halves"].dropna() for t in tables]
    shrunk = [t[t["estimator"] == "interpolated_duplicate"].dropna() for t in tables]
    np.testing.assert_allclose(halves[0]["Pearson"], halves[1]["Pearson"], rtol=1e-12)
    np.testing.assert_allclose(halves[0]["L2"], halves[1]["L2"], rtol=1e-12)
    assert np.abs(halves[0]["Pearson_centred"].to_numpy() - halves[1]["Pearson_centred"].to_numpy()).max() > 1e-3
    assert np.abs(shrunk[0]["L2"].to_numpy() - shrunk[1]["L2"].to_numpy()).max() > 1e-4


def test_draws_without_cells_are_left_out_and_counted(finished, truth):
    table = pd.read_parquet(finished.path / "ceilings.parquet").query("context == 'one'").set_index("pert_id")
    one, two = truth.pert_ids[ONE], truth.pert_ids[TWO]
    n = table.set_index("estimator", append=True)["n_draws"]
    assert n[one].to_dict() == {"experimental_error": 6, "disjoint_halves": 0, "replicate_batches": 0,
                                "interpolated_duplicate": 0}  # fmt: skip
    assert 0 < n[two, "disjoint_halves"] < 5 and n[two, "replicate_batches"] > 0
    halves = table[table["estimator"] == "disjoint_halves"]
    assert halves.loc[one, METRICS].isna().all() and halves.drop(index=one)[METRICS].notna().all(axis=None)
    assert (halves.drop(index=[one, two])["n_draws"] == 5).all()


@pytest.fixture
def spoilt(file, screen, tmp_path):
    """Draws changed by hand: nothing but the train mean, a constant, and the opposite are predicted of three perturbations."""
    path = shutil.copy(file, tmp_path / "spoilt.h5")
    with h5py.File(path, "r+") as handle:
        group = next(g for g in handle["contexts"].values() if g.attrs["context"] == "one")
        group["shrink"][8] = 0
        group["shrink"][9, :3] = 0
        group["half2"][10, 1] = 0.5
        noise = np.random.default_rng(0).normal(size=group["half1"][11].shape)
        group["half2"][11] = -group["half1"][11] + noise
        group["side2"][11] = -group["side1"][11]
    return path


def test_undefined_draws_and_negative_correlations(spoilt, screen, file):
    split = make_split(screen.pert_ids, n_folds=3)
    table = all_folds(spoilt, screen, split)
    assert_is_plain(table, spoilt, screen, split, contexts=["one"])
    ids = screen.responses("one")[0]
    by = table.set_index(["estimator", "pert_id"])
    shrunk = by.loc["interpolated_duplicate"]
    centred = ["Pearson_centred", "Spearman_centred"]
    assert (shrunk.loc[ids[8], centred] == 0).all() and shrunk.loc[ids[8], "n_draws"] == 5
    partly = plain(spoilt, screen, "one", split, split.folds[ids[9]], "interpolated_duplicate").set_index("pert_id")
    assert abs(shrunk.loc[ids[9], "Pearson_centred"] - partly.loc[ids[9], "Pearson_centred"]) < 1e-5
    assert shrunk.loc[ids[9], "Pearson"] != 0
    halves, whole = by.loc["disjoint_halves"], all_folds(file, screen, split).set_index(["estimator", "pert_id"])
    # The constant draw is no draw of Pearson, but one of L2 and of the count.
    held = arrays(spoilt, "one")
    r = [np.corrcoef(held["half1"][10, d], held["half2"][10, d])[0, 1] for d in (0, 2, 3, 4)]
    assert halves.loc[ids[10], "Pearson"] == pytest.approx(2 * np.mean(r) / (1 + np.mean(r)), rel=1e-6)
    assert halves.loc[ids[10], "n_draws"] == 5
    assert halves.loc[ids[10], "L2"] != whole.loc[("disjoint_halves", ids[10]), "L2"]
    r = np.mean([np.corrcoef(held["half1"][11, d], held["half2"][11, d])[0, 1] for d in range(5)])
    assert r < -0.1 and halves.loc[ids[11], "Pearson"] == pytest.approx(r, rel=1e-6)
    assert by.loc[("replicate_batches", ids[11]), "Pearson"] == pytest.approx(-1)


def test_only_correlations_of_halves_are_stepped_up(screen, file):
    """Spearman-Brown by hand for one perturbation, so that the rule is written down once without the helper above."""
    split = make_split(screen.pert_ids, n_folds=3)
    ids = screen.responses("two")[0]
    k, held = 4, arrays(file, "two")
    table = all_folds(file, screen, split, "two").set_index(["estimator", "pert_id"])
    for estimator, a, b in (("disjoint_halves", "half1", "half2"), ("replicate_batches", "side1", "side2")):
        pairs = list(zip(held[a][k], held[b][k], strict=True))
        r = np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs])
        rank = np.mean([spearman(x, y) for x, y in pairs])
        error = np.mean([np.linalg.norm(x - y) for x, y in pairs])
        found = table.loc[(estimator, ids[k])]
        assert r > 0.05
        assert found["Pearson"] == pytest.approx(2 * r / (1 + r), rel=1e-6)
        assert found["Spearman"] == pytest.approx(rank, rel=1e-6)
        assert found["L2"] == pytest.approx(error, rel=1e-6)
    draws, point = held["bootstrap"][k], screen.responses("two")[1][k]
    errors = [np.linalg.norm(d - point) for d in draws]
    found = table.loc[("experimental_error", ids[k])]
    assert found["L2"] == pytest.approx(np.quantile(errors, 0.9), rel=1e-6)
    low = np.quantile([np.corrcoef(d, point)[0, 1] for d in draws], 0.1)
    assert found["Pearson"] == pytest.approx(low, rel=1e-6)


# --- the results folder ----------------------------------------------------------------------------------------------


def again(results, screen, embeddings, path, **options):
    return run(screen, embeddings, results, ceilings=Ceilings(path) if path else None, **{**CHEAP, **options})


def table_of(results):
    return pd.read_parquet(results / "ceilings.parquet")


def by_labels(table):
    return table.sort_values(LABELS, ignore_index=True)


@pytest.fixture
def none_computed(monkeypatch):
    def burst(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("panmodal.evaluation.ceilings.fold_ceilings", burst)


@pytest.fixture
def counted(monkeypatch):
    """Which (context, fold) are computed."""
    calls = []

    def count(ceilings, screen, split, context, fold, metrics):
        calls.append((context, fold))
        return fold_ceilings(ceilings, screen, split, context, fold, metrics)

    monkeypatch.setattr("panmodal.evaluation.ceilings.fold_ceilings", count)
    return calls


def test_a_second_run_reuses_the_ceilings(results, screen, embeddings, file, none_computed, tmp_path):
    before = table_of(results)
    again(results, screen, embeddings, file)
    pd.testing.assert_frame_equal(table_of(results), before, check_exact=True)
    with pytest.raises(AssertionError, match="computed again"):
        again(tmp_path / "fresh", screen, embeddings, file)


def test_a_run_without_ceilings_keeps_those_there(results, screen, embeddings):
    before = table_of(results)
    again(results, screen, embeddings, None)
    pd.testing.assert_frame_equal(table_of(results), before)


def test_results_do_not_depend_on_the_number_of_processes(results, tmp_path, screen, embeddings, file):
    other = again(tmp_path / "two", screen, embeddings, file, n_jobs=2)
    pd.testing.assert_frame_equal(by_labels(table_of(other.path)), by_labels(table_of(results)), check_exact=True)


def test_other_ceilings_replace_the_old_ones(results, screen, embeddings, reseeded, file):
    old = table_of(results)
    finished = again(results, screen, embeddings, reseeded)
    assert finished.computed == 0
    assert_is_plain(table_of(results), reseeded, screen, finished.plan.split)
    assert len(list((results / "ceilings").glob("*.parquet"))) == 6
    assert not np.allclose(by_labels(old)["L2"], by_labels(table_of(results))["L2"], equal_nan=True)


def test_a_new_metric_is_computed(tmp_path, screen, embeddings, file, counted):
    first = again(tmp_path / "r", screen, embeddings, file, metrics=["L2", "Pearson"])
    assert list(table_of(first.path).columns) == [*LABELS, "n_draws", "L2", "Pearson", "seed"]
    assert sorted(counted) == [(c, f) for c in ("one", "two") for f in range(3)]
    again(tmp_path / "r", screen, embeddings, file)
    assert len(counted) == 12
    assert_is_plain(table_of(first.path), file, screen, first.plan.split)


def test_a_run_with_fewer_metrics_keeps_the_ceilings_of_the_others(results, screen, embeddings, file):
    before = table_of(results)
    again(results, screen, embeddings, file, metrics=["L2"])
    assert set(Store(results).scores()["metric"]) == set(METRICS)
    assert list(table_of(results).columns) == list(before.columns)


def test_two_screens_in_one_folder_keep_both(results, screen, embeddings, file, reseeded):
    before = table_of(results)
    twin = Screen(screen.adata, "twin", "lfc")
    finished = again(results, twin, embeddings, reseeded)
    table = table_of(results)
    assert set(table["screen"]) == {"toy", "twin"}
    toy, other = (table[table["screen"] == n].drop(columns="screen") for n in ("toy", "twin"))
    assert_is_plain(other, reseeded, twin, finished.plan.split)
    sort = ["context", "fold", "estimator", "pert_id"]
    pd.testing.assert_frame_equal(toy.sort_values(sort, ignore_index=True),
                                  before.drop(columns="screen").sort_values(sort, ignore_index=True))  # fmt: skip
    board = finished.leaderboard(ceiling="disjoint_halves")
    assert board.groupby("screen")["ceiling"].nunique().to_dict() == {"toy": 2, "twin": 2}
    assert board["ceiling"].nunique() == 4


def test_two_seeds_in_one_folder_keep_the_ceilings_of_both(tmp_path, screen, embeddings, file):
    """Folds of another seed are other folds of the same name: the ceiling is the mean over the folds of both."""
    options = {"metrics": ["L2"]}
    expected = []
    for seed in (1, 2):
        finished = again(tmp_path / "both", screen, embeddings, file, seed=seed, **options)
        for fold in range(3):
            own = plain(file, screen, "two", finished.plan.split, fold, "disjoint_halves")
            expected.append(own["L2"].mean())
    store = Store(tmp_path / "both")
    gaps = gap_table(store.scores(), store.perturbations(), store.ceilings(), metrics=["L2"])
    own = gaps[(gaps["context"] == "two") & (gaps["estimator"] == "disjoint_halves")]
    assert own["ceiling"].to_numpy() == pytest.approx(np.mean(expected), rel=1e-6)


def test_ceilings_of_replaced_responses_are_replaced_too(results, embeddings, matched):
    other, path = matched
    finished = again(results, other, embeddings, path, overwrite="always")
    assert_is_plain(table_of(results), path, other, finished.plan.split)


def test_ceilings_of_a_replaced_context_are_dropped_and_others_stay(results, embeddings, matched, screen, file):
    other, _ = matched
    finished = again(results, other.select(["one"]), embeddings, None, overwrite="always", split=make_split(
        screen.pert_ids, n_folds=3))  # fmt: skip
    assert_is_plain(table_of(results), file, screen, finished.plan.split, contexts=["two"])


def test_ceilings_of_replaced_responses_are_dropped(results, embeddings, matched, screen):
    other, _ = matched
    # Where every perturbation is in every batch, both rules give the same.
    changed = {c for c in screen.contexts if other.digest(c) != screen.digest(c)}
    assert changed
    finished = again(results, other, embeddings, None, overwrite="always")
    assert finished.reused == 0
    found = Store(results).ceilings()
    assert found is None or not changed & set(found["context"])
    board = finished.leaderboard()
    assert set(board.loc[board["context"].isin(changed), "ceiling_by"]) == {"idealised, ridge"}


def test_the_table_of_ceilings_goes_with_the_last_of_them(results, embeddings, screen):
    altered = Screen.from_arrays(
        screen.adata.X + 1,
        screen.adata.obs["pert_id"],
        screen.adata.obs["cell_line"],
        screen.readouts,
        name="toy",
        response="lfc",
    )
    again(results, altered, embeddings, None, overwrite="always")
    assert Store(results).ceilings() is None and not (results / "ceilings.parquet").exists()


def test_ceilings_of_a_replaced_split_are_replaced(results, screen, embeddings, file):
    finished = again(results, screen, embeddings, file, folds=4, overwrite="always")
    assert finished.plan.split.numbers == [0, 1, 2, 3]
    assert_is_plain(table_of(results), file, screen, finished.plan.split)


def test_quality_is_written_and_replaced_by_screen(results, screen, embeddings, file, reseeded):
    def in_file(path, context, column):
        with h5py.File(path) as handle:
            group = next(g for g in handle["contexts"].values() if g.attrs["context"] == context)
            return group["quality"][column][:]

    def check(table, path):
        assert len(table) == 48 and list(table.groupby("context").size()) == [24, 24]
        for context, own in table.groupby("context"):
            assert list(own["pert_id"]) == screen.responses(context)[0]
            for column in ("n_cells", "response_norm", "null_norm", "norm_p", "reliability"):
                np.testing.assert_array_equal(own[column], in_file(path, context, column))

    quality = pd.read_parquet(results / "quality.parquet")
    assert set(quality["screen"]) == {"toy"}
    check(quality, file)
    norm = np.linalg.norm(screen.responses("one")[1].astype(float), axis=1)
    np.testing.assert_allclose(quality.query("context == 'one'")["response_norm"], norm, rtol=1e-5)
    again(results, Screen(screen.adata, "it's", "lfc"), embeddings, file, probes=["knn"])
    again(results, screen, embeddings, reseeded)
    both = pd.read_parquet(results / "quality.parquet")
    assert sorted(both["screen"].unique()) == ["it's", "toy"]
    check(both[both["screen"] == "it's"], file)
    check(both[both["screen"] == "toy"], reseeded)
    assert not np.array_equal(in_file(file, "one", "null_norm"), in_file(reseeded, "one", "null_norm"))


def test_ceilings_of_other_responses_are_refused(results, screen, embeddings, matched, refuses):
    before = table_of(results)
    refuses(["matched.h5", "made for other responses than screen 'toy'", "--no-ceilings"], again, results, screen, embeddings,
            matched[1])  # fmt: skip
    pd.testing.assert_frame_equal(table_of(results), before)


def test_ceilings_of_other_responses_are_refused_before_anything_is_computed(
    tmp_path, screen, embeddings, matched, refuses
):
    refuses(["made for other responses"], again, tmp_path / "r", screen, embeddings, matched[1])
    assert not (tmp_path / "r").exists()


def test_ceilings_of_none_of_the_contexts_are_refused(tmp_path, screen, embeddings, file, refuses):
    ids, values = screen.responses("one")
    other = Screen.from_arrays(values, ids, ["three"] * len(ids), screen.readouts, name="toy", response="lfc")
    refuses(["has ceilings of 'one', 'two'", "'three'"], again, tmp_path / "r", other, embeddings, file)


def test_contexts_without_ceilings_are_measured_by_the_oracle(tmp_path, cells, screen, embeddings):
    make_ceilings(cells, screen.select(["two"]), tmp_path / "two.h5", CeilingOptions(**OPTIONS), n_jobs=1)
    finished = again(tmp_path / "r", screen, embeddings, tmp_path / "two.h5")
    assert set(table_of(finished.path)["context"]) == {"two"}
    by = finished.leaderboard().groupby("context")["ceiling_by"].unique().map(list).to_dict()
    assert by == {"one": ["idealised, ridge"], "two": ["experimental_error"]}


@pytest.mark.parametrize("how", ["cut", "empty", "no parquet", "gone"])
def test_damaged_ceilings_are_computed_again(how, results, screen, embeddings, file, counted):
    before = table_of(results)
    damaged = sorted((results / "ceilings").glob("*.parquet"))[2]
    label = tuple(pd.read_parquet(damaged).loc[0, ["context", "fold"]])
    if how == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes({"cut": damaged.read_bytes()[:-30], "empty": b"", "no parquet": b"PAR1" * 20}[how])
    again(results, screen, embeddings, None)
    left = table_of(results)
    assert len(left) < len(before) and label not in set(zip(left["context"], left["fold"], strict=True))
    again(results, screen, embeddings, file)
    assert counted == [label]
    pd.testing.assert_frame_equal(table_of(results), before, check_exact=True)


def test_a_flipped_byte_in_the_values_of_a_ceiling_is_noticed_and_computed_again(
    results, screen, embeddings, file, counted
):
    before = table_of(results)
    damaged = sorted((results / "ceilings").glob("*.parquet"))[2]
    group = pq.ParquetFile(damaged).metadata.row_group(0)
    column = next(group.column(k) for k in range(group.num_columns) if group.column(k).path_in_schema == "MAE")
    raw = bytearray(damaged.read_bytes())
    raw[column.data_page_offset + column.total_compressed_size // 2 + 20] ^= 0xFF
    damaged.write_bytes(bytes(raw))
    with pytest.raises(OSError, match=r"."):
        pq.read_table(damaged, page_checksum_verification=True)
    again(results, screen, embeddings, file)
    assert len(counted) == 1
    pd.testing.assert_frame_equal(table_of(results), before, check_exact=True)


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(folder, file):
    """A config of the screen beside its ceilings."""

    def make(screen="toy.h5ad", **fields):
        path = str(folder / screen) if screen.endswith(".h5ad") else screen
        return RunConfig(screen=path, embeddings=["e.h5ad"], out="o", **fields)

    return make


def loaded(config):
    return config.load_ceilings(config.load_screen())


def test_ceilings_beside_the_screen_are_found(config, file):
    assert loaded(config()).path == file
    assert loaded(config(name="other", contexts=["two"])).path == file
    assert loaded(config(ceilings=True)).path == file


def test_ceilings_may_be_named_or_left_out(config, reseeded):
    assert loaded(config(ceilings=False)) is None
    assert loaded(config(ceilings=str(reseeded))).path == reseeded


def test_without_a_file_beside_there_are_none(config, folder, tmp_path):
    shutil.copy(folder / "toy.h5ad", tmp_path / "alone.h5ad")
    alone = RunConfig(screen=str(tmp_path / "alone.h5ad"), embeddings=["e.h5ad"], out="o")
    assert loaded(alone) is None


def test_ceilings_are_of_fold_changes_and_labels_only(config, reseeded):
    assert loaded(config(response="fitness")) is None
    assert (
        loaded(config(response="deg")).has_labels and loaded(config(response="deg", ceilings=str(reseeded))).has_labels
    )


def test_embedded_screens_have_none(config):
    assert loaded(config("simulated-perturbseq")) is None


def test_ceilings_that_do_not_fit_are_refused(config, folder, reseeded, matched, tmp_path, refuses):
    refuses(["nowhere.h5"], loaded, config(ceilings=str(tmp_path / "nowhere.h5")))
    refuses(["cannot be read as ceilings", "panmodal ceiling"], loaded, config(ceilings=str(folder / "cells.h5ad")))
    refuses(["made for other responses", "--no-ceilings"], loaded, config(ceilings=str(matched[1])))
    refuses(["made for other responses"], loaded, config(response="deg", ceilings=str(matched[1])))
    shutil.copy(folder / "toy.h5ad", tmp_path / "x.h5ad")
    shutil.copy(matched[1], tmp_path / "x.ceilings.h5")
    refuses(["x.ceilings.h5", "made for other responses"], loaded,
            RunConfig(screen=str(tmp_path / "x.h5ad"), embeddings=["e.h5ad"], out="o"))  # fmt: skip


def test_ceilings_in_the_config_file(config, refuses):
    assert "ceilings:" not in config().to_yaml() and "ceilings: false" in config(ceilings=False).to_yaml()
    refuses(["ceilings"], make_config, {"screen": "s", "embeddings": ["e"], "out": "o", "ceilings": 3.5}, "c.yaml")


def test_slow_metrics_score_some_of_the_draws(screen, file, monkeypatch):
    from scipy.stats import spearmanr

    from panmodal.evaluation import ceilings as module

    split, made = make_split(screen.pert_ids, n_folds=3), Ceilings(file)
    wanted = metrics_for("lfc", ["L2", "Spearman"])
    every = fold_ceilings(made, screen, split, "one", 0, wanted)[0]
    monkeypatch.setattr(module, "SLOW_DRAWS", 1)
    first = fold_ceilings(made, screen, split, "one", 0, wanted)[0]
    pd.testing.assert_series_equal(first["L2"], every["L2"])
    assert not first["Spearman"].equals(every["Spearman"])
    own = first[first["estimator"] == "experimental_error"].set_index("pert_id")
    ids, point = screen.responses("one")
    with h5py.File(file) as handle:
        group = next(g for g in handle["contexts"].values() if g.attrs["context"] == "one")
        draw = group["bootstrap"][:, 0, :].astype(float)
    for pert in own.index:
        k = ids.index(pert)
        assert own.loc[pert, "Spearman"] == pytest.approx(spearmanr(draw[k], point[k]).statistic, abs=1e-6)

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from panmodal.cells.prepare import PrepareOptions, open_cells
from panmodal.cells.simulate import simulate_cells
from panmodal.embeddings.builders.expression import build_coexpression, build_loadings
from panmodal.embeddings.control_cells import open_control_cells
from panmodal.embeddings.expression import correlation, covariance, nearest, symmetric_factors


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    simulate_cells(path, n_cells=900, n_perturbations=8, n_genes=40, n_batches=3, control_share=0.3, umis=500.0,
                   contexts=("A", "B"), batch_effect=0.5, seed=3)  # fmt: skip
    return path


def log_normalised(adata):
    """The protocol, written plainly."""
    counts = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, dtype=float)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def controls(path, column="perturbation", label="non-targeting"):
    adata = anndata.read_h5ad(path)
    return adata[(adata.obs[column] == label).to_numpy()].copy()


def same_up_to_sign(ours, theirs, atol):
    flip = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * flip, theirs, atol=atol)


def loadings_of(x, k):
    pca = PCA(n_components=k, svd_solver="full").fit(x)
    return pca.components_.T * np.sqrt(pca.explained_variance_)


# Parity


def test_loadings_are_those_of_scikit_learn(cells):
    adata = controls(cells)
    built = build_loadings(cells=(cells,), dims=6, min_cells=1)
    assert list(built.ids) == list(adata.var_names)
    assert built.vectors.dtype == np.float32
    same_up_to_sign(built.vectors, loadings_of(log_normalised(adata), 6), 2e-5)
    assert built.card == {"simulated": True, "trained_on": ("none",)}
    assert built.notes[0] == f"{adata.n_obs} control cells (non-targeting) of 900 in cells"


def test_loadings_of_real_cells_are_those_of_scanpy(shared):
    sc = pytest.importorskip("scanpy")
    path = shared / "papalexi2021_counts.h5ad"
    adata = controls(path, "target")
    built = build_loadings(cells=(path,), dims=10, min_cells=25)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    seen = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    assert set(built.left_out) == set(adata.var_names[seen < 25])
    adata = adata[:, seen >= 25].copy()
    sc.pp.pca(adata, n_comps=10, svd_solver="arpack")
    assert list(built.ids) == list(adata.var_names)
    expected = adata.varm["PCs"] * np.sqrt(adata.uns["pca"]["variance"])
    same_up_to_sign(built.vectors, expected, 2e-4)


def test_pearson_coexpression_is_pca_of_standardised_genes(cells):
    x = log_normalised(controls(cells))
    built = build_coexpression(cells=(cells,), dims=5, min_cells=1)
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    same_up_to_sign(built.vectors, loadings_of(z, 5), 2e-5)


def test_all_coexpression_dimensions_give_back_the_correlation(cells):
    x = log_normalised(controls(cells))
    full = build_coexpression(cells=(cells,), dims=40, min_cells=1).vectors.astype(float)
    np.testing.assert_allclose(full @ full.T, np.corrcoef(x.T), atol=2e-5)
    cosine = build_coexpression(cells=(cells,), dims=40, min_cells=1, similarity="cosine").vectors.astype(float)
    unit = x / np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(cosine @ cosine.T, unit.T @ unit, atol=2e-5)


@pytest.mark.parametrize("centre", ["batch", "context"])
def test_centring_is_within_groups(cells, centre):
    adata = controls(cells)
    groups = adata.obs["cell_line"].astype(str) + (adata.obs["batch"].astype(str) if centre == "batch" else "")
    x = pd.DataFrame(log_normalised(adata), index=adata.obs_names)
    x -= x.groupby(groups.to_numpy()).transform("mean")
    number = groups.nunique()
    c = x.to_numpy().T @ x.to_numpy() / (len(x) - number)
    built = build_loadings(cells=(cells,), dims=40, min_cells=1, centre=centre)
    full = built.vectors.astype(float)
    np.testing.assert_allclose(full @ full.T, c, atol=2e-5)
    assert f"centred within {number} groups of cells" in built.notes


# Which cells and genes


def test_control_cells_are_those_of_prepare(cells):
    layout = open_cells([cells], PrepareOptions()).layout
    with open_control_cells([cells]) as found:
        np.testing.assert_array_equal(found.used, layout.row >= layout.n_rows)


def test_contexts_choose_cells(cells):
    adata = controls(cells)
    one = adata[(adata.obs["cell_line"] == "B").to_numpy()]
    built = build_loadings(cells=(cells,), dims=3, min_cells=1, contexts=("B",))
    same_up_to_sign(built.vectors, loadings_of(log_normalised(one), 3), 2e-5)


def test_rare_and_constant_genes_are_left_out_with_the_reason(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (60, 6)).astype(np.int32)
    counts[:, 3] = 0
    counts[:4, 3] = 1
    counts[:, 4] = 0
    obs = pd.DataFrame({"gene": ["control"] * 40 + ["A"] * 20}, index=[f"c{k}" for k in range(60)])
    var = pd.DataFrame({"symbol": [f"S{k}" for k in range(6)]}, index=[f"ENSG{k}" for k in range(6)])
    anndata.AnnData(csr_matrix(counts), obs=obs, var=var).write_h5ad(tmp_path / "c.h5ad")
    built = build_loadings(cells=(tmp_path / "c.h5ad",), dims=10, gene_col="symbol")
    assert built.left_out == {
        "S3": "expressed in 4 of 40 control cells, fewer than 10",
        "S4": "expressed in 0 of 40 control cells, fewer than 10",
    }
    assert list(built.ids) == ["S0", "S1", "S2", "S5"]
    assert "4 dimensions, not 10: the rank is no larger" in built.notes


def test_a_gene_that_never_varies_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    x = np.log1p(rng.poisson(3.0, (30, 4)).astype(np.float32))
    x[:, 2] = 1.5
    anndata.AnnData(x, obs=pd.DataFrame(index=[f"c{k}" for k in range(30)])).write_h5ad(tmp_path / "n.h5ad")
    built = build_loadings(
        cells=(tmp_path / "n.h5ad",), only_controls=True, already_normalised=True, dims=3, min_cells=1
    )
    assert built.left_out == {"2": "does not vary over control cells"}
    assert built.notes[0] == "30 control cells of 30 in n"
    assert built.card["simulated"] is False
    kept = [0, 1, 3]
    same_up_to_sign(built.vectors, loadings_of(x[:, kept].astype(float), 3), 2e-5)


def test_all_cells_may_be_controls(cells):
    built = build_loadings(cells=(cells,), only_controls=True, dims=4, min_cells=1)
    same_up_to_sign(built.vectors, loadings_of(log_normalised(anndata.read_h5ad(cells)), 4), 2e-5)


def test_several_files_are_one_set_of_cells(cells, tmp_path):
    adata = anndata.read_h5ad(cells)
    (tmp_path / "more").mkdir()
    adata[:500, :35].copy().write_h5ad(tmp_path / "cells.h5ad")
    adata[500:].copy().write_h5ad(tmp_path / "more" / "cells.h5ad")
    built = build_loadings(cells=(tmp_path / "cells.h5ad", tmp_path / "more" / "cells.h5ad"), dims=4, min_cells=1)
    x = log_normalised(controls(cells))
    # Totals are over the genes that each file has.
    first = (adata.obs["perturbation"] == "non-targeting").to_numpy()[:500].sum()
    x[:first] = np.pad(log_normalised(controls(tmp_path / "cells.h5ad")), ((0, 0), (0, 5)))
    same_up_to_sign(built.vectors, loadings_of(x[:, :35], 4), 2e-5)
    assert set(built.left_out) == set(adata.var_names[35:])
    assert set(built.left_out.values()) == {"not measured in all files"}


# Same result whatever the memory


def test_chunks_and_reading_twice_change_nothing(cells, monkeypatch):
    with open_control_cells([cells]) as found:
        whole = covariance(found, min_cells=5)
        seen = []
        cut = covariance(found, min_cells=5, chunk_values=700, progress=lambda a, b: seen.append((a, b)))
        assert seen[-1] == (900, 900)
        np.testing.assert_allclose(cut.matrix, whole.matrix, atol=1e-12)
        readings = []
        normalised = found.normalised
        monkeypatch.setattr(found, "normalised", lambda *a: readings.append(a) or normalised(*a))
        monkeypatch.setattr("panmodal.embeddings.expression.GIB", 200_000)
        again = covariance(found, min_cells=5, chunk_values=700, memory=0.6)
        assert len(readings) == 2
        np.testing.assert_array_equal(again.matrix, cut.matrix)
        np.testing.assert_allclose(again.matrix, again.matrix.T)
        monkeypatch.setattr("panmodal.embeddings.expression.BLOCK_VALUES", 1000)
        np.testing.assert_allclose(covariance(found, min_cells=5).matrix, whole.matrix, atol=1e-12)


def test_the_order_of_cells_does_not_matter(cells, tmp_path):
    adata = anndata.read_h5ad(cells)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    adata[order].copy().write_h5ad(tmp_path / "cells.h5ad")
    one, two = (build_loadings(cells=(p,), dims=4, min_cells=1).vectors for p in (cells, tmp_path / "cells.h5ad"))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_building_twice_gives_the_same_bits(cells):
    one, two = (build_coexpression(cells=(cells,), dims=4, neighbours=5) for _ in range(2))
    np.testing.assert_array_equal(one.vectors, two.vectors)


# Factors


def test_iterated_factors_are_those_of_the_dense_decomposition(monkeypatch):
    x = np.random.default_rng(0).standard_normal((200, 60)) * np.linspace(3, 0.1, 60)
    c = np.asfortranarray(x.T @ x)
    dense, values = symmetric_factors(c, 7)
    monkeypatch.setattr("panmodal.embeddings.expression.DENSE", 10)
    iterated, same = symmetric_factors(c, 7)
    np.testing.assert_allclose(iterated, dense, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(same, values)
    assert (dense[np.abs(dense).argmax(axis=0), range(7)] > 0).all()


def test_factors_stop_at_the_rank():
    x = np.random.default_rng(0).standard_normal((9, 2))
    scores, values = symmetric_factors(x @ x.T, 5)
    assert scores.shape == (9, 2)
    np.testing.assert_allclose(scores @ scores.T, x @ x.T)
    assert symmetric_factors(np.zeros((3, 3)), 2)[0].shape == (3, 0)
    assert (values > 0).all()


def test_factors_of_an_indefinite_matrix_are_those_of_its_svd():
    a = np.random.default_rng(1).standard_normal((8, 8))
    a = a + a.T
    scores, values = symmetric_factors(a, 8)
    np.testing.assert_allclose(np.abs(values), np.linalg.svd(a)[1])
    np.testing.assert_allclose(scores @ np.diag(np.sign(values)) @ scores.T, a)


def test_nearest_keeps_the_strongest_of_each_row_and_mirrors_them():
    x = np.random.default_rng(2).standard_normal((50, 7))
    r = correlation(x.T @ x)
    assert (np.diag(r) == 1).all()
    kept = nearest(r, 2).toarray()
    strength = np.abs(r - np.eye(7))
    own = np.argsort(-strength, axis=1)[:, :2]
    wanted = np.eye(7, dtype=bool)
    for i, row in enumerate(own):
        wanted[i, row] = wanted[row, i] = True
    np.testing.assert_array_equal(kept, np.where(wanted, r, 0.0))
    np.testing.assert_array_equal(nearest(r, 99).toarray(), r)


def test_neighbours_are_counted_in_the_notes(cells):
    built = build_coexpression(cells=(cells,), dims=5, min_cells=1, neighbours=3)
    note = next(n for n in built.notes if n.startswith("pearson of 40 genes"))
    assert 3 <= float(note.split(", ")[1].split()[0]) <= 6


# What is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dims": 0}, ["--dims must be at least 1, not 0"]),
        ({"contexts": ("C",)}, ["no control cells of context 'C'", "'A', 'B'"]),
        ({"pert_col": "nope"}, ["nope"]),
        ({"control": ("x",)}, ["no label 'x' for --control"]),
        ({"control": ("x",), "only_controls": True}, ["--only-controls, not both"]),
        ({"centre": "batch", "batch_col": "none"}, ["no column of batches", "--batch-col"]),
        ({"min_cells": 10_000}, ["0 of 40 genes vary", "Lower --min-cells"]),
        ({"memory": 0.01}, ["the covariance of 40 genes needs 0.5 GiB", "--memory 0.01"]),
        ({"layer": "nope"}, ["no matrix 'nope'"]),
        ({"already_normalised": True}, ["cannot be log1p"]),
    ],
)
def test_bad_options_are_refused(cells, options, says, refuses):
    refuses(says, build_loadings, cells=(cells,), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"neighbours": -1}, ["--neighbours must not be negative"]),
        ({"similarity": "cosine", "centre": "batch"}, ["--centre is for the Pearson correlation"]),
    ],
)
def test_bad_options_of_coexpression_are_refused(cells, options, says, refuses):
    refuses(says, build_coexpression, cells=(cells,), **options)


def write(path, obs, values=None):
    counts = np.random.default_rng(0).poisson(3.0, (len(obs), 5)).astype(np.float32)
    if values is not None:
        counts[values[0]] = values[1]
    frame = pd.DataFrame(obs).set_axis([f"c{k}" for k in range(len(counts))])
    anndata.AnnData(csr_matrix(counts), obs=frame).write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"gene": ["control", "control", "A", "A"]}, {}, ["2 control cell(s); at least 3"]),
        (
            {"batch": ["x", "x", None, "y"]},
            {"centre": "batch"},
            ["column 'batch' (batch) is empty for 1 control cells", "'c2'"],
        ),
        ({"cell_line": ["x", None, "x", "y"]}, {"contexts": ("x",)}, ["1 control cells have no context", "'c1'"]),
        ({}, {"contexts": ("x",)}, ["no column of contexts", "--context-col"]),
        ({}, {"centre": "genes"}, ["no way of centring 'genes'"]),
    ],
)
def test_bad_annotation_is_refused(tmp_path, change, options, says, refuses):
    obs = pd.DataFrame({"gene": ["control", "control", "control", "A"], "batch": ["x", "x", "y", "y"], **change})
    path = write(tmp_path / "c.h5ad", obs)
    refuses(says, build_loadings, cells=(path,), **options)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "NaN"), (-1.0, "cannot be negative"), (0.5, "not raw counts")])
def test_values_that_are_no_counts_are_refused(tmp_path, value, says, refuses):
    obs = pd.DataFrame({"gene": ["control"] * 5})
    path = write(tmp_path / "c.h5ad", obs, ((1, 2), value))
    refuses([says, "'c1'", "gene '2'"], build_loadings, cells=(path,), min_cells=1)
    with open_control_cells([path]) as found:
        refuses([says, "'c1'", "gene '2'"], found.counts, np.arange(5))


def test_odd_values_of_perturbed_cells_do_not_matter(tmp_path):
    obs = pd.DataFrame({"gene": ["control"] * 6 + ["A"] * 2})
    path = write(tmp_path / "c.h5ad", obs, ((7, 2), 0.5))
    assert len(build_loadings(cells=(path,), min_cells=1, dims=2).ids) == 5


def test_raw_counts_of_chosen_cells(cells):
    adata = anndata.read_h5ad(cells)
    with open_control_cells([cells]) as found:
        chosen = np.flatnonzero(found.used)[::7]
        got = found.counts(chosen, chunk_values=700)
        np.testing.assert_array_equal(got.toarray(), adata.X[chosen].toarray())

import json

import anndata
import numpy as np
import pytest
from scipy import sparse, stats

from panmodal import Embedding
from panmodal.cells import planted, simulate
from panmodal.cells.simulate import expected_lfc, simulate_cells, write_embeddings

SMALL = {"n_cells": 3000, "n_perturbations": 20, "n_genes": 60, "n_batches": 3, "umis": 200.0, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def small(folder):
    truth = simulate_cells(folder / "small.h5ad", contexts=("one", "two"), **SMALL)
    return truth, anndata.read_h5ad(truth.path)


@pytest.fixture(scope="module")
def plates(folder):
    truth = simulate_cells(
        folder / "plates.h5ad", kind="plates", contexts=("one", "two"), **{**SMALL, "n_batches": 5, "efficiency": 0.0}
    )
    return truth, anndata.read_h5ad(truth.path)


def values(path):
    cells = anndata.read_h5ad(path)
    return cells.X.toarray(), cells.obs.astype(str)


def same(a, b):
    (x, one), (y, two) = values(a), values(b)
    return np.array_equal(x, y) and one.equals(two)


def log_normalised(counts, target_sum=1e4):
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return np.log1p(counts.toarray() * (target_sum / totals)[:, None])


# --- the file -------------------------------------------------------------------------------------------------------------


def test_the_file_opens_in_anndata(small):
    truth, cells = small
    assert cells.shape == (3000, 60)
    assert list(cells.var_names) == truth.genes and truth.genes[0] == "SIMG0001"
    assert cells.obs_names.is_unique and cells.obs_names[0] == "cell0000"
    assert sparse.isspmatrix_csr(cells.X) and cells.X.has_canonical_format and cells.X.dtype == np.int32
    assert cells.X.data.min() > 0
    assert list(cells.obs) == ["perturbation", "guide", "batch", "cell_line"]
    assert all(dtype == "category" for dtype in cells.obs.dtypes)
    assert cells.uns["panmodal_simulation"]["simulated"]
    parameters = json.loads(cells.uns["panmodal_simulation"]["parameters"])
    assert parameters == truth.parameters
    assert (parameters["seed"], parameters["cells_seed"], parameters["contexts"]) == (5, 5, ["one", "two"])


def test_cells_of_perturb_seq(small):
    truth, cells = small
    obs = cells.obs.astype(str)
    assert set(truth.pert_ids) <= set(truth.genes) and len(set(truth.pert_ids)) == 20
    assert set(obs["perturbation"]) == {*truth.pert_ids, "non-targeting"}
    assert (obs["guide"].str.rsplit("_", n=1).str[0] == obs["perturbation"]).all()
    guides = obs.groupby("perturbation")["guide"].nunique()
    assert guides["non-targeting"] > 2 and (guides.drop("non-targeting") == 2).all()
    assert 0.07 < (obs["perturbation"] == "non-targeting").mean() < 0.13
    assert (obs.groupby("perturbation")["batch"].nunique() == 3).all()
    assert list(obs["batch"].unique()) == truth.batches and obs["batch"].is_monotonic_increasing
    assert (obs["batch"].value_counts() == 1000).all()
    first = obs[obs["batch"] == truth.batches[0]]
    assert (first["perturbation"].to_numpy()[1:] != first["perturbation"].to_numpy()[:-1]).mean() > 0.8


def test_cells_of_plates(plates):
    truth, cells = plates
    obs = cells.obs.astype(str)
    assert list(obs) == ["drug", "plate", "cell_line"] and truth.control == "DMSO_TF"
    assert truth.pert_ids[0] == "SIMCPD001"
    on = obs.groupby("drug")["plate"].nunique()
    assert on["DMSO_TF"] == 5 and (on.drop("DMSO_TF") == 2).all()
    assert (obs.groupby("plate")["cell_line"].nunique() == 2).all()
    assert (truth.layout.sum(axis=0) == 8).all() and (truth.layout.sum(axis=1) == 2).all()
    for row, pert in zip(truth.layout, truth.pert_ids, strict=True):
        assert {truth.batches[b] for b in np.flatnonzero(row)} == set(obs.loc[obs["drug"] == pert, "plate"])


def truth_of(**given):
    parameters = {"kind": "plates", "n_perturbations": 20, "n_genes": 12, "contexts": ["a"], "n_batches": 4,
                  "responders": 1.0, "effect": 1.0, "umis": 100.0, "batch_effect": 0.1, "seed": 0}  # fmt: skip
    return planted.draw_truth("none.h5ad", {**parameters, **given})


@pytest.mark.parametrize("n_batches", [2, 3, 7, 20])
def test_every_plate_has_compounds(n_batches):
    layout = truth_of(n_batches=n_batches).layout
    assert (layout.sum(axis=1) == 2).all() and (layout.sum(axis=0) >= 1).all()


def test_batch_effects_have_mean_one():
    logs = np.log(truth_of(n_genes=5000, batch_effect=0.5).batch_effects)
    assert logs.std(axis=1) == pytest.approx(0.5, rel=0.05)
    assert np.exp(logs).mean(axis=1) == pytest.approx(1.0, abs=0.03)


def test_storage_changes_no_value(small, folder, monkeypatch):
    truth, _ = small
    for chunk, compression in ((1000, "gzip"), (7, None)):
        monkeypatch.setattr(simulate, "STORED_CHUNK", chunk)
        again = simulate_cells(folder / "again.h5ad", contexts=("one", "two"), compression=compression, **SMALL)
        assert same(truth.path, again.path)


def test_progress_and_a_stop_half_way(tmp_path):
    seen = []
    simulate_cells(tmp_path / "a.h5ad", progress=lambda *at: seen.append(at), **SMALL)
    assert seen == [(1000, 3000), (2000, 3000), (3000, 3000)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_cells(tmp_path / "b.h5ad", progress=stop, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


# --- seeds ----------------------------------------------------------------------------------------------------------------


def test_seeds(small, folder):
    truth, _ = small
    options = {"contexts": ("one", "two"), **SMALL}
    assert same(truth.path, simulate_cells(folder / "twice.h5ad", **options).path)
    replicate = simulate_cells(folder / "replicate.h5ad", cells_seed=6, **{**options, "n_cells": 4000})
    fresh = simulate_cells(folder / "fresh.h5ad", cells_seed=6, **options)
    assert not np.array_equal(values(truth.path)[0], values(fresh.path)[0])
    assert not values(truth.path)[1].equals(values(fresh.path)[1])
    assert replicate.pert_ids == truth.pert_ids
    for context in truth.contexts:
        assert np.array_equal(replicate.log_effects[context], truth.log_effects[context])
        assert np.array_equal(replicate.means[context], truth.means[context])
    assert np.array_equal(replicate.batch_effects, truth.batch_effects)
    assert all(np.array_equal(replicate.embeddings[k][1], truth.embeddings[k][1]) for k in truth.embeddings)
    other = simulate_cells(folder / "other.h5ad", **{**options, "seed": 6})
    assert not np.array_equal(other.log_effects["one"], truth.log_effects["one"])


def test_the_first_blocks_do_not_depend_on_the_number_of_cells(folder):
    options = {"n_perturbations": 2, "n_genes": 10, "n_batches": 1, "umis": 5.0}
    short, long = (simulate_cells(folder / f"{n}.h5ad", n_cells=n, **options) for n in (17_000, 34_000))
    (x, one), (y, two) = values(short.path), values(long.path)
    assert np.array_equal(x[:16384], y[:16384])
    assert one[:16384].reset_index(drop=True).equals(two[:16384].reset_index(drop=True))
    assert not np.array_equal(y[:16384], y[16384 : 2 * 16384])


def test_a_context_keeps_its_truth_in_other_company(small, folder):
    truth, _ = small
    alone = simulate_cells(folder / "alone.h5ad", contexts=("two",), **SMALL)
    assert np.array_equal(alone.log_effects["two"], truth.log_effects["two"])
    assert np.array_equal(alone.means["two"], truth.means["two"])


# --- the law --------------------------------------------------------------------------------------------------------------


def test_counts_follow_the_negative_binomial():
    rng, mu, r = np.random.default_rng(0), np.array([0.05, 1.0, 6.0]), 1.5
    library = np.tile([0.5, 1.8], 20_000)
    cell, gene, count = planted.draw_counts(rng, mu, library, r, 0.0)
    counts = sparse.coo_matrix((count, (cell, gene)), shape=(len(library), 3)).toarray()
    for s in (0.5, 1.8):
        drawn = counts[library == s]
        for g, m in enumerate(mu):
            law = stats.nbinom(r * s, r / (r + m))
            edges = np.arange(0, int(law.ppf(0.998)) + 1)
            expected = len(drawn) * np.append(law.pmf(edges), law.sf(edges[-1]))
            seen = np.append(
                np.bincount(drawn[:, g], minlength=edges[-1] + 1)[: edges[-1] + 1], (drawn[:, g] > edges[-1]).sum()
            )
            assert stats.chisquare(seen, expected, sum_check=False).pvalue > 1e-3
        assert np.abs(np.corrcoef(drawn.T)[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(len(drawn))
        # Neighbouring cells are independent, although their clusters are drawn together.
        assert abs(np.corrcoef(drawn[:-1, 2], drawn[1:, 2])[0, 1]) < 4 / np.sqrt(len(drawn))


def test_moments_of_control_like_cells(folder):
    truth = simulate_cells(folder / "moments.h5ad", kind="plates", n_cells=20_000, n_perturbations=2, n_genes=40,
                           n_batches=2, effect=0.0, batch_effect=0.0, umis=80.0, dispersion=1 / 3)  # fmt: skip
    counts = anndata.read_h5ad(truth.path).X.toarray().astype(float)
    mu, spread = truth.means["sim-line-A"], np.exp(0.3**2) - 1
    assert mu.sum() == pytest.approx(80.0)
    variance = mu + mu**2 / 3.0 + spread * mu**2
    n = len(counts)
    assert np.abs((counts.mean(axis=0) - mu) / np.sqrt(variance / n)).max() < 4.5
    kurtosis = ((counts - mu) ** 4).mean(axis=0) / variance**2
    assert np.abs((counts.var(axis=0) / variance - 1) / np.sqrt((kurtosis - 1) / n)).max() < 4.5
    # The library size is the cell's own: it makes the genes vary together.
    total = mu.sum() + (mu**2).sum() / 3.0 + spread * mu.sum() ** 2
    assert counts.sum(axis=1).var() == pytest.approx(total, rel=0.06)


def test_batch_effects_and_dropout_scale_the_means(folder):
    options = {"n_cells": 16_000, "n_perturbations": 2, "n_genes": 20, "n_batches": 2, "kind": "plates", "effect": 0.0,
               "umis": 100.0, "batch_effect": 0.5}  # fmt: skip
    full, lossy = (simulate_cells(folder / f"drop{d}.h5ad", dropout=d, **options) for d in (0.0, 0.4))
    for b in range(2):
        rows = slice(8000 * b, 8000 * (b + 1))
        x, y = (anndata.read_h5ad(t.path).X[rows] for t in (full, lossy))
        means = np.asarray(x.mean(axis=0)).ravel()
        assert means == pytest.approx(full.means["sim-line-A"] * full.batch_effects[b], rel=0.12)
        assert y.nnz / x.nnz == pytest.approx(0.6, rel=0.02)


def test_who_responds(small, plates):
    truth, _ = small
    idle = np.flatnonzero(truth.sizes == 0)
    assert len(idle) == round(0.33 * 20)
    columns = [truth.genes.index(p) for p in truth.pert_ids]
    for context in truth.contexts:
        effects = truth.log_effects[context]
        own = effects[np.arange(20), columns]
        assert own[idle] == pytest.approx(np.log(0.2))
        rest = effects.copy()
        rest[np.arange(20), columns] = 0
        assert not rest[idle].any()
        assert (np.delete(rest, idle, axis=0) != 0).mean() > 0.95
    compounds, _ = plates
    effects = compounds.log_effects["one"]
    assert not effects[compounds.sizes == 0].any()
    assert np.linalg.matrix_rank(effects, tol=1e-3) == planted.N_LATENT


def test_contexts_share_part_of_their_effects(plates):
    truth, _ = plates
    one, two = (truth.log_effects[c].ravel() for c in truth.contexts)
    assert 0.5 < np.corrcoef(one, two)[0, 1] < 0.85


def test_knock_down_and_escape_show_in_the_means(folder):
    truth = simulate_cells(folder / "knock.h5ad", n_cells=12_000, n_perturbations=2, n_genes=10, n_batches=1, effect=0.0,
                           umis=200.0, efficiency=0.6, batch_effect=0.0)  # fmt: skip
    cells = anndata.read_h5ad(truth.path)
    for p in truth.pert_ids:
        seen = cells[cells.obs["perturbation"] == p, p].X.toarray().mean()
        base = truth.means["sim-line-A"][truth.genes.index(p)]
        assert seen / base == pytest.approx(0.6 * 0.2 + 0.4, abs=0.06)


# --- known truth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["perturb-seq", "plates"])
def test_expected_lfc_is_what_a_large_pseudobulk_gives(folder, kind):
    truth = simulate_cells(folder / f"bulk-{kind}.h5ad", kind=kind, n_cells=24_000, n_perturbations=6, n_genes=30,
                           contexts=("one", "two"), n_batches=3, control_share=0.3, umis=150.0, efficiency=0.7,
                           dropout=0.1, effect=1.5, batch_effect=0.4, seed=2)  # fmt: skip
    cells = anndata.read_h5ad(truth.path)
    perturbation, batch = (
        cells.obs.iloc[:, 0].astype(str),
        cells.obs[{"plates": "plate"}.get(kind, "batch")].astype(str),
    )
    logs = log_normalised(cells.X)
    scores = []
    for context in truth.contexts:
        expected = expected_lfc(truth, context, n=6000)
        for p, pert in enumerate(truth.pert_ids):
            steps, variances = [], []
            for b in np.flatnonzero(truth.layout[p]):
                here = (cells.obs["cell_line"] == context) & (batch == truth.batches[b])
                a, c = (logs[(here & (perturbation == name)).to_numpy()] for name in (pert, truth.control))
                steps.append(a.mean(axis=0) - c.mean(axis=0))
                variances.append(a.var(axis=0) * (1 / len(a) + 0.5 / 6000) + c.var(axis=0) / len(c))
            error = np.sqrt(np.sum(variances, axis=0)) / len(steps)
            scores.append((np.mean(steps, axis=0) - expected[p]) / error)
    scores = np.array(scores)
    assert np.abs(scores).max() < 4.5
    assert 0.85 < np.sqrt((scores**2).mean()) < 1.15


def test_expected_lfc_of_some_perturbations_and_its_error(small, refuses):
    truth, _ = small
    wanted = [truth.pert_ids[7], truth.pert_ids[2]]
    everything = expected_lfc(truth, "two", n=300)
    assert np.array_equal(expected_lfc(truth, "two", n=300, perturbations=wanted), everything[[7, 2]])
    idle = np.flatnonzero(truth.sizes == 0)
    # Nothing but the error is left of most genes of perturbations that do nothing; the docstring bounds it.
    assert np.sqrt((everything[idle] ** 2).mean(axis=0)).min() < 1.5 * np.sqrt(5 / (4 * 300 * 3))
    own = [everything[k, truth.genes.index(p)] for k, p in enumerate(truth.pert_ids)]
    assert np.mean(own) < -0.3
    refuses(["no context 'three'", "'one'"], expected_lfc, truth, "three")
    refuses(["no such perturbation", "'nobody'"], expected_lfc, truth, "one", perturbations=["nobody"])
    refuses(["above 0"], expected_lfc, truth, "one", n=0)


# --- embeddings -----------------------------------------------------------------------------------------------------------


def held_out_r2(latents, vectors):
    train = np.arange(len(latents)) % 2 == 0
    design = np.hstack([vectors, np.ones((len(vectors), 1))]).astype(float)
    penalty = np.eye(design.shape[1])
    weights = np.linalg.solve(design[train].T @ design[train] + penalty, design[train].T @ latents[train])
    rest = latents[~train]
    return 1 - ((design[~train] @ weights - rest) ** 2).sum() / ((rest - latents[train].mean(axis=0)) ** 2).sum()


def test_embeddings_rank_as_planted(folder):
    truth = simulate_cells(
        folder / "ranks.h5ad", n_cells=1000, n_perturbations=300, n_genes=300, n_batches=1, umis=50.0
    )
    r2 = {name: held_out_r2(truth.latents, v) for name, (_, v) in truth.embeddings.items() if name != "sim-partial"}
    assert r2["sim-full"] > 0.98
    assert r2["sim-full"] > r2["sim-half"] > r2["sim-noisy"] > r2["sim-unrelated"]
    assert r2["sim-unrelated"] < 0.05
    assert len(truth.embeddings["sim-partial"][0]) == 180


def test_embeddings_are_written_with_their_cards(small, tmp_path):
    truth, _ = small
    paths = write_embeddings(truth, tmp_path / "embeddings")
    assert [p.name for p in paths] == [f"{name}.h5ad" for name in truth.embeddings]
    for path in paths:
        embedding = Embedding.read(path)
        ids, vectors = truth.embeddings[path.stem]
        assert embedding.name == path.stem and embedding.card.simulated
        assert np.array_equal(embedding.matrix(ids), vectors)


# --- bad arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"path": "cells.h5"}, [".h5ad"]),
        ({"kind": "bulk"}, ["'bulk'", "perturb-seq, plates"]),
        ({"kind": ["plates"]}, ["must be one of"]),
        ({"compression": "zip"}, ["'zip'", "lzf"]),
        ({"contexts": "line"}, ["sequence of names", "'line'"]),
        ({"contexts": None}, ["sequence of names"]),
        ({"contexts": ()}, ["one or more"]),
        ({"contexts": ("a", "a")}, ["different names"]),
        ({"contexts": ("a", " ")}, ["sequence of names"]),
        ({"n_perturbations": 61}, ["61 perturbations", "n_genes is 60", "more genes"]),
        ({"n_perturbations": 1}, ["n_perturbations is 1", "at least 2"]),
        ({"n_genes": 9}, ["n_genes is 9"]),
        ({"n_cells": 60}, ["n_cells is 60", "at least 150"]),
        ({"n_cells": 1e4}, ["n_cells is 10000.0", "whole number"]),
        ({"control_share": 0.001}, ["at least 15000"]),
        ({"control_share": 0}, ["control_share is 0"]),
        ({"control_share": 1.2}, ["control_share is 1.2", "from 0 to 1"]),
        ({"kind": "plates", "n_batches": 1}, ["plates", "at least 2"]),
        ({"kind": "plates", "n_batches": 21}, ["21 plates", "n_perturbations is 20"]),
        ({"n_batches": 0}, ["n_batches is 0"]),
        ({"efficiency": -0.1}, ["efficiency is -0.1"]),
        ({"responders": 1.5}, ["responders is 1.5"]),
        ({"dropout": "much"}, ["dropout is 'much'"]),
        ({"umis": 0}, ["umis is 0"]),
        ({"umis": float("nan")}, ["umis is nan"]),
        ({"dispersion": 0.0}, ["dispersion is 0.0", "from 1e-06"]),
        ({"effect": 9}, ["effect is 9", "from 0 to 3"]),
        ({"batch_effect": True}, ["batch_effect is True"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"cells_seed": 0.5}, ["cells_seed is 0.5"]),
    ],
)
def test_bad_arguments(tmp_path, refuses, given, says):
    options = {**SMALL, **given}
    refuses(says, simulate_cells, tmp_path / options.pop("path", "cells.h5ad"), **options)
    assert not list(tmp_path.iterdir())

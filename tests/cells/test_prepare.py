import gzip
import hashlib
import json
import re
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal import Screen
from panmodal.cells.aggregate import moment_groups, plan_memory
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.errors import InputError

KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:Some cells have zero counts")


def cells(n=150, genes=30, seed=0, perts=("G1", "G2", "G2+G3", "other"), batches=("1", "2", "3"), contexts=("x", "y")):
    """Random counts with depths and perturbations that matter; each (context, batch) has control cells."""
    rng = np.random.default_rng(seed)
    labels = ["ctrl", *perts]
    obs = pd.DataFrame({
        "perturbation": rng.choice(labels, n), "batch": rng.choice(batches, n), "cell_line": rng.choice(contexts, n),
    })  # fmt: skip
    sure = [("ctrl", b, c) for b in batches for c in contexts] + [(p, batches[0], c) for p in perts for c in contexts]
    obs.iloc[: len(sure)] = sure
    obs = obs.iloc[rng.permutation(n)].set_axis([f"cell{seed}-{k}" for k in range(n)])
    means = (
        rng.gamma(0.5, 3.0, genes)
        * rng.gamma(2, 0.5, (len(labels), 1, genes)) ** (np.arange(len(labels)) > 0)[:, None, None]
    )
    means = means[[labels.index(p) for p in obs["perturbation"]], 0] * rng.gamma(3, 0.3, (n, 1))
    x = rng.poisson(means)
    x[rng.integers(0, n, 3)] = 0
    x[:, 5] = 0
    var = pd.DataFrame(index=[f"G{k}" for k in range(genes)])
    return anndata.AnnData(x.astype(np.float64), obs=obs, var=var)


def stored(adata, folder, name="s.h5ad", kind="csr", dtype=np.float32):
    out = anndata.AnnData(KINDS[kind](adata.X.astype(dtype)), obs=adata.obs, var=adata.var)
    path = Path(folder) / name
    out.write_zarr(path) if path.suffix == ".zarr" else out.write_h5ad(path)
    return path


def normalised(adata):
    """Counts scaled to 1e4 per cell as scanpy does, and their logarithms."""
    import scanpy as sc

    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    linear = pd.DataFrame(copy.X.copy(), columns=copy.var_names)
    sc.pp.log1p(copy)
    return linear, pd.DataFrame(copy.X, columns=copy.var_names)


def plain_lfc(obs, logs, rule):
    """Fold changes by grouping: (context, perturbation) x genes."""
    keys = [obs[c].astype(str).to_numpy() for c in ("cell_line", "perturbation", "batch")]
    means = logs.groupby([pd.Series(k, name=n) for k, n in zip(keys, ("c", "p", "b"), strict=True)]).mean()
    out = {}
    for c, p in sorted({k[:2] for k in means.index if k[1] != "ctrl"}):
        here, control = means.loc[c, p], means.loc[c, "ctrl"]
        out[c, p] = (here - control.loc[here.index]).mean() if rule == "matched" else here.mean() - control.mean()
    return pd.DataFrame(out).T


def found(screen):
    index = pd.MultiIndex.from_arrays([screen.adata.obs["cell_line"], screen.adata.obs["pert_id"]])
    return pd.DataFrame(screen.adata.X, index=index, columns=screen.readouts)


def agree(screen, expected, atol=2e-6):
    values = found(screen)
    assert sorted(values.index) == sorted(expected.index)
    assert list(values.columns) == list(expected.columns)
    np.testing.assert_allclose(values.loc[expected.index].to_numpy(), expected.to_numpy(), rtol=1e-6, atol=atol)
    assert np.abs(values.to_numpy()).max() > 0.1


def made(path, n_jobs=1, **options):
    options = {"min_cells": 1, "batch_col": "batch", "deg": "pooled"} | options
    return prepare(
        open_cells([path] if isinstance(path, str | Path) else path, PrepareOptions(**options)), n_jobs=n_jobs
    )


@settings(max_examples=15)
@given(
    st.integers(0, 10**6), st.integers(40, 160), st.integers(8, 30), st.integers(1, 4), st.integers(1, 3),
    st.sampled_from(["pooled", "matched"]), st.sampled_from([*KINDS]),
)  # fmt: skip
def test_fold_changes_are_those_of_a_plain_computation(seed, n, genes, n_batches, n_contexts, rule, kind):
    adata = cells(n, genes, seed, batches=[*"1234"][:n_batches], contexts=[*"xyz"][:n_contexts])
    with tempfile.TemporaryDirectory() as folder:
        screen = made(stored(adata, folder, kind=kind), rule=rule)
    expected = plain_lfc(adata.obs, normalised(adata)[1], rule)
    agree(screen, expected)
    norms = np.sqrt((expected**2).sum(axis=1))
    facts = screen.adata.obs.set_index(["cell_line", "pert_id"]).loc[expected.index]
    np.testing.assert_allclose(facts["response_norm"], norms, rtol=1e-5)
    grouped = adata.obs.groupby(["cell_line", "perturbation"])
    assert facts["n_cells"].tolist() == grouped.size().loc[expected.index].tolist()
    assert facts["n_batches"].tolist() == grouped["batch"].nunique().loc[expected.index].tolist()


@pytest.mark.parametrize("rule", ["pooled", "matched"])
def test_batches_have_equal_weight_by_hand(tmp_path, rule):
    obs = pd.DataFrame({
        "perturbation": ["ctrl", "ctrl", "ctrl", "A", "A", "A"], "batch": list("112112"), "cell_line": "x",
    }, index=[f"c{k}" for k in range(6)])  # fmt: skip
    x = np.array([[1, 1], [1, 3], [1, 0], [3, 1], [1, 1], [0, 1]])
    adata = anndata.AnnData(x.astype(float), obs=obs, var=pd.DataFrame(index=["g", "h"]))
    v = np.log1p(1e4 * np.array([1 / 2, 1 / 4, 1, 3 / 4, 1 / 2, 0]))
    expected = ((v[3] + v[4]) / 2 + v[5]) / 2 - ((v[0] + v[1]) / 2 + v[2]) / 2
    assert made(stored(adata, tmp_path), rule=rule).adata.X[0, 0] == pytest.approx(expected, rel=1e-6)


def test_the_rules_differ_where_a_perturbation_misses_a_batch(tmp_path):
    adata = cells(seed=3)
    adata.obs.loc[adata.obs["perturbation"] == "G1", "batch"] = "1"
    path, logs = stored(adata, tmp_path), normalised(adata)[1]
    pooled, matched = made(path, rule="pooled"), made(path, rule="matched")
    agree(pooled, plain_lfc(adata.obs, logs, "pooled"))
    agree(matched, plain_lfc(adata.obs, logs, "matched"))
    assert np.abs(pooled.adata.X - matched.adata.X).max() > 0.01


def test_the_mean_of_the_controls_is_kept(tmp_path):
    adata = cells(seed=4)
    screen, logs = made(stored(adata, tmp_path)), normalised(adata)[1]
    for context in ("x", "y"):
        here = ((adata.obs["cell_line"] == context) & (adata.obs["perturbation"] == "ctrl")).to_numpy()
        expected = logs[here].groupby(adata.obs["batch"].to_numpy()[here]).mean().mean()
        np.testing.assert_allclose(
            screen.adata.varm["control_mean"][:, screen.provenance["contexts"].index(context)], expected, rtol=1e-6
        )


def test_cells_of_one_batch_and_one_context(tmp_path):
    adata = cells(seed=5)
    screen = made(stored(adata, tmp_path), batch_col="none", context="K-562")
    obs = adata.obs.assign(batch="1", cell_line="K-562")
    agree(screen, plain_lfc(obs, normalised(adata)[1], "pooled"))
    assert screen.contexts == ["K-562"]


def test_contexts_joined_of_two_columns_and_chosen(tmp_path):
    adata = cells(300, seed=6)
    adata.obs["day"] = np.where(np.arange(300) % 2, 7.0, 3.0)
    obs = adata.obs.assign(cell_line=adata.obs["cell_line"] + " | " + adata.obs["day"].astype(int).astype(str))
    expected = plain_lfc(obs, normalised(adata)[1], "pooled")
    path = stored(adata, tmp_path)
    agree(made(path, context_col=("cell_line", "day")), expected)
    chosen = made(path, context_col=("cell_line", "day"), contexts=("y | 3", "x | 7"))
    agree(chosen, expected.loc[["x | 7", "y | 3"]])


def test_conditions_on_cells(tmp_path):
    adata = cells(300, seed=7)
    adata.obs["dose"] = np.where(np.arange(300) % 3, 1.0, 10.0)
    used = adata[adata.obs["dose"] == 1].copy()
    screen = made(stored(adata, tmp_path), keep=("dose=1",))
    agree(screen, plain_lfc(used.obs, normalised(used)[1], "pooled"))
    assert screen.provenance["counts"]["cells_left_out"] == {"not dose=1": 100}


def test_a_subset_of_genes_has_totals_over_all(tmp_path):
    adata = cells(seed=8)
    wanted = ("G7", "absent", "G2", "G20")
    screen = made(stored(adata, tmp_path), genes=wanted)
    agree(screen, plain_lfc(adata.obs, normalised(adata)[1], "pooled")[["G2", "G7", "G20"]])
    notes = dict.fromkeys(open_cells([tmp_path / "s.h5ad"], PrepareOptions(genes=wanted)).stream.notes)
    assert any("1 of 4 genes asked for are not measured ('absent')" in note for note in notes)
    assert any("3 of 30 genes kept" in note for note in notes)


def test_genes_that_are_not_there_are_refused(tmp_path, refuses):
    refuses(["none of the 1 genes asked for"], made, stored(cells(), tmp_path), genes=("ENSG1",))


def test_files_as_contexts_keep_their_common_genes(tmp_path):
    one, two = (cells(120, seed=s, contexts=("-",)) for s in (10, 11))
    two = two[:, np.random.default_rng(0).permutation(30)].copy()
    one, two = one[:, :27].copy(), two[:, two.var_names != "G4"].copy()
    for adata in (one, two):
        del adata.obs["cell_line"]
    paths = [
        f"K-562={stored(one, tmp_path, 'one.h5ad')}",
        stored(two, tmp_path, "two.h5ad", kind="csc", dtype=np.int32),
    ]
    common = [g for g in one.var_names if g in set(two.var_names)]
    assert len(common) == 26
    parts = [
        plain_lfc(a.obs.assign(cell_line=n), normalised(a)[1], "pooled")[common]
        for a, n in ((one, "K-562"), (two, "two"))
    ]
    opened = open_cells(paths, PrepareOptions(min_cells=1, batch_col="batch"))
    assert opened.columns.context == ("file",)
    assert "26 genes are in all files and kept (K-562: 27, two: 29)" in opened.stream.notes
    agree(prepare(opened, n_jobs=2), pd.concat(parts))


@pytest.mark.parametrize("rule", ["pooled", "matched"])
def test_files_as_batches(tmp_path, rule):
    files, frames, logs = [], [], []
    for k, kind in enumerate(KINDS):
        adata = cells(90, seed=20 + k, batches=("-",))
        del adata.obs["batch"]
        files.append(stored(adata, tmp_path, f"lane{k}.h5ad", kind=kind))
        frames.append(adata.obs.assign(batch=f"lane{k}"))
        logs.append(normalised(adata)[1])
    opened = open_cells(files, PrepareOptions(min_cells=1, rule=rule))
    assert (opened.columns.batch, opened.columns.context) == ("file", ("cell_line",))
    agree(prepare(opened), plain_lfc(pd.concat(frames), pd.concat(logs, ignore_index=True), rule))


def test_files_of_other_genes_or_one_name_are_refused(tmp_path, refuses):
    one, two = stored(cells(), tmp_path, "one.h5ad"), cells(seed=1)
    two.var_names = [f"ENSG{k}" for k in range(30)]
    other = stored(two, tmp_path, "two.h5ad")
    refuses(
        [f"{other}: only 0 of 30 genes are in all files", "'ENSG0'", "'G0'", "--gene-col"], open_cells, [one, other]
    )
    refuses(["two files are named 'one'", "NAME=FILE"], open_cells, [one, one])
    refuses(["no file of cells given"], open_cells, [])


def bits(screen):
    obs = screen.adata.obs
    numbers = [
        screen.adata.X,
        screen.adata.layers["deg"],
        obs[["response_norm", "target_remaining"]].to_numpy(),
        obs["n_deg"].to_numpy(),
    ]
    return [list(obs.index), screen.readouts, *(np.ascontiguousarray(v).tobytes() for v in numbers),
            screen.adata.varm["control_mean"].tobytes()]  # fmt: skip


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Cells with enough of each perturbation for tests, and the screen that one thread makes of them in one pass."""
    adata = cells(700, seed=30, perts=("G1", "G2", "G2+G3", "other", "G9"), contexts=("x",))
    folder = tmp_path_factory.mktemp("big")
    screens = {
        (rule, deg): made(stored(adata, folder), rule=rule, deg=deg)
        for rule, deg in (("pooled", "pooled"), ("matched", "vote"))
    }
    assert all((s.adata.layers["deg"] != 0).sum() > 10 for s in screens.values())
    return adata, folder, screens


@pytest.mark.parametrize(("rule", "deg"), [("pooled", "pooled"), ("matched", "vote")])
@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("chunk_values", [1, 7, 1000])
def test_results_are_the_same_bits_for_any_threads_and_chunks(big, rule, deg, n_jobs, chunk_values):
    _, folder, screens = big
    opened = open_cells([folder / "s.h5ad"], PrepareOptions(min_cells=1, rule=rule, deg=deg))
    assert bits(prepare(opened, n_jobs=n_jobs, chunk_values=chunk_values)) == bits(screens[rule, deg])


def write_tenx_folder(adata, folder):
    x = sp.csr_matrix(adata.X)
    x.sort_indices()
    lines = [f"{g + 1} {c + 1} {x[c, g]:g}" for c in range(x.shape[0]) for g in x[c].indices]
    text = {
        "matrix.mtx": "\n".join(
            ["%%MatrixMarket matrix coordinate integer general", f"{x.shape[1]} {x.shape[0]} {x.nnz}", *lines]
        ),
        "barcodes.tsv": "\n".join(adata.obs_names),
        "features.tsv": "\n".join(f"{g}\t{g}\tGene Expression" for g in adata.var_names),
    }
    folder.mkdir()
    for name, content in text.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(f"{content}\n".encode()))
    adata.obs.to_csv(folder.with_suffix(".csv"), index_label="barcode")
    return folder


@pytest.mark.parametrize("name", ["csc.h5ad", "dense.h5ad", "dense.zarr", "tenx"])
def test_results_are_the_same_bits_for_any_format(big, tmp_path, name):
    adata, _, screens = big
    options = PrepareOptions(min_cells=1, rule="pooled", deg="pooled")
    if name == "tenx":
        path = write_tenx_folder(adata, tmp_path / name)
        options = PrepareOptions(min_cells=1, rule="pooled", deg="pooled", table=str(tmp_path / "tenx.csv"))
    else:
        path = stored(adata, tmp_path, name, kind=name.partition(".")[0], dtype=np.int64)
    for chunk_values in (None, 500):
        screen = prepare(open_cells([path], options), n_jobs=2, chunk_values=chunk_values)
        assert bits(screen) == bits(screens["pooled", "pooled"])


def smallest_memory(opened):
    """Smallest amount of memory (GiB) that is accepted, and the bounds of the passes with it."""

    def bounds(memory):
        return plan_memory(opened.stream, opened.layout, moment_groups(opened.layout, opened.test), memory)[1]

    low, high = 0.0, 4.0
    for _ in range(45):
        middle = (low + high) / 2
        try:
            bounds(middle)
            high = middle
        except InputError:
            low = middle
    return high, bounds(high)


@pytest.mark.parametrize(("rule", "deg"), [("pooled", "pooled"), ("matched", "vote"), ("pooled", "none")])
def test_results_are_the_same_bits_in_several_passes(big, rule, deg):
    _, folder, screens = big
    opened = open_cells([folder / "s.h5ad"], PrepareOptions(min_cells=1, rule=rule, deg=deg))
    memory, bounds = smallest_memory(opened)
    assert bounds[0] == 0
    assert bounds[-1] == opened.layout.n_rows
    assert len(bounds) >= 4
    said, steps = [], []
    screen = prepare(opened, memory=memory, n_jobs=2, say=said.append, progress=lambda *step: steps.append(step))
    if deg == "none":
        np.testing.assert_array_equal(screen.adata.X, screens["pooled", "pooled"].adata.X)
    else:
        assert bits(screen) == bits(screens[rule, deg])
    assert f"the cells were read {len(bounds) - 1} times" in said[-1]
    done = [d for d, _ in steps]
    assert done == sorted(done)
    assert steps[-1] == (700 * (len(bounds) - 1), 700 * (len(bounds) - 1))


def test_too_little_memory_is_refused_with_what_is_needed(big, refuses):
    _, folder, _ = big
    opened = open_cells([folder / "s.h5ad"], PrepareOptions(min_cells=1))
    refuses(["--memory 0.1 GiB is too little", "GiB (5 rows x 30 genes)", "--contexts"], prepare, opened, memory=0.1)
    with pytest.raises(InputError) as caught:
        prepare(opened, memory=0.1)
    needed = float(re.search(r"need ([\d.]+) GiB", str(caught.value))[1])
    assert needed == pytest.approx(smallest_memory(opened)[0], rel=0.05)


def test_the_memory_that_is_said_to_be_needed_suffices(big):
    _, folder, _ = big
    opened = open_cells([folder / "s.h5ad"], PrepareOptions(min_cells=1))
    with pytest.raises(InputError) as caught:
        prepare(opened, memory=0.1)
    needed = float(re.search(r"need ([\d.]+) GiB", str(caught.value))[1])
    assert prepare(opened, memory=needed, n_jobs=1).adata.n_obs == 5


@pytest.mark.parametrize("kind", KINDS)
def test_logarithms_give_the_same_as_their_counts(big, tmp_path, kind):
    adata, _, screens = big
    logs = anndata.AnnData(normalised(adata)[1].to_numpy(), obs=adata.obs, var=adata.var)
    screen = made(stored(logs, tmp_path, kind=kind), already_normalised=True)
    expected = screens["pooled", "pooled"]
    np.testing.assert_allclose(screen.adata.X, expected.adata.X, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(screen.adata.layers["deg"], expected.adata.layers["deg"])
    np.testing.assert_allclose(screen.adata.obs["target_remaining"], expected.adata.obs["target_remaining"], rtol=1e-5)
    assert "as given" in screen.description
    assert screen.provenance["options"]["already_normalised"] is True
    assert screen.provenance["counts"]["cells_empty"] == expected.provenance["counts"]["cells_empty"] == 3


def plain_remaining(obs, linear, context, pert):
    """Mean of the target in perturbed cells over that in control cells, batches with equal weight; the largest of the parts."""

    def mean(label, gene):
        here = ((obs["cell_line"] == context) & (obs["perturbation"] == label)).to_numpy()
        return linear.loc[here, gene].groupby(obs["batch"].to_numpy()[here]).mean().mean()

    genes = [g for g in pert.split("+") if g in linear and mean("ctrl", g) > 0]
    return max((mean(pert, g) / mean("ctrl", g) for g in genes), default=np.nan)


@pytest.mark.parametrize("rule", ["pooled", "matched"])
@pytest.mark.parametrize("seed", [40, 41])
def test_what_remains_of_the_target(tmp_path, seed, rule):
    # G5 has no count in any cell, and G99 is not measured.
    perts = ("G1", "G2+G3", "G5", "G99", "G1+G99", "G5+G7", "G2+G3+G8", "drug")
    adata = cells(400, seed=seed, perts=perts)
    screen, linear = made(stored(adata, tmp_path), rule=rule), normalised(adata)[0]
    table = screen.adata.obs.set_index(["cell_line", "pert_id"])["target_remaining"]
    assert len(table) == 2 * len(perts)
    for (context, pert), value in table.items():
        expected = plain_remaining(adata.obs, linear, context, pert)
        assert value == pytest.approx(expected, rel=1e-6, nan_ok=True), (context, pert)
    assert table.isna().groupby("pert_id").all().to_dict() == {p: p in ("G5", "G99", "drug") for p in perts}


def test_the_target_is_found_under_another_name_and_told(tmp_path):
    genes = ["MARCHF1", "TP53", "MYC", "HARS1", "EGFR", "KRAS", "PTEN", "CDK4"]
    adata = cells(200, genes=8, seed=3, perts=("G0", "G3", "G1"))
    names = {"G0": "MARCH1", "G3": "HARS", "G1": "TP53"}
    same = made(stored(adata, tmp_path, "same.h5ad")).adata.obs.replace({"pert_id": names})
    adata.var_names = genes
    adata.obs["perturbation"] = adata.obs["perturbation"].replace(names)
    told = []
    opened = open_cells([stored(adata, tmp_path)], PrepareOptions(min_cells=1, batch_col="batch", deg="pooled"))
    screen = prepare(opened, n_jobs=1, say=told.append)
    keys = ["cell_line", "pert_id"]
    values, expected = (t.set_index(keys)["target_remaining"].sort_index() for t in (screen.adata.obs, same))
    pd.testing.assert_series_equal(values, expected)
    assert values.notna().sum() >= 3  # the others have no count in control cells
    assert (
        "2 target genes are measured under another name: HARS = HARS1 (previous symbol), MARCH1 = MARCHF1"
        in " ".join(told)
    )


def test_what_remains_counts_all_genes_in_the_totals(tmp_path):
    adata = cells(200, seed=46, perts=("G1", "G2"))
    screen, linear = made(stored(adata, tmp_path), genes=("G1", "G9")), normalised(adata)[0]
    for context, pert, value in screen.adata.obs[["cell_line", "pert_id", "target_remaining"]].itertuples(index=False):
        if pert == "G1":
            assert value == pytest.approx(plain_remaining(adata.obs, linear, context, pert), rel=1e-6)


def test_what_remains_is_told_of_targets_that_are_not_kept(tmp_path):
    adata = cells(200, seed=46, perts=("G1", "G2"))
    screen, linear = made(stored(adata, tmp_path), genes=("G1", "G9")), normalised(adata)[0]
    for context, pert, value in screen.adata.obs[["cell_line", "pert_id", "target_remaining"]].itertuples(index=False):
        assert value == pytest.approx(plain_remaining(adata.obs, linear, context, pert), rel=1e-6)


def knocked_down():
    adata = cells(400, seed=43, perts=("G1", "G2", "G3", "drug"))
    labels = adata.obs["perturbation"].to_numpy()
    for gene, count in (("G1", 0), ("G2", 4), ("G3", 16)):
        place = adata.var_names.get_loc(gene)
        adata.X[labels == "ctrl", place] = 4
        adata.X[labels == gene, place] = count
    return adata


def test_pairs_without_knock_down_are_left_out_on_request(tmp_path):
    adata = knocked_down()
    path, linear = stored(adata, tmp_path), normalised(adata)[0]
    expected = plain_lfc(adata.obs, normalised(adata)[1], "pooled")
    remaining = pd.Series({(c, p): plain_remaining(adata.obs, linear, c, p) for c, p in expected.index})
    steps = np.sort(remaining.dropna().unique())
    assert len(steps) == 5
    for limit in (steps[1:] + steps[:-1]) / 2:
        weak, said = [pair for pair in expected.index if remaining[pair] > limit], []
        options = PrepareOptions(min_cells=1, max_remaining=float(limit))
        screen = prepare(open_cells([path], options), say=said.append, n_jobs=1)
        agree(screen, expected.drop(weak))
        assert screen.adata.layers["deg"].shape == (8 - len(weak), 30)
        assert screen.provenance["counts"]["pairs_left_out_knockdown"] == [f"{p} ({c})" for c, p in weak]
        assert screen.provenance["options"]["max_remaining"] == limit
        assert any(f"{len(weak)} pairs left out" in line and f"{weak[0][1]} ({weak[0][0]}): " in line for line in said)


def test_nothing_left_after_the_knock_down_check_is_refused(tmp_path, refuses):
    adata = knocked_down()
    path = stored(adata[adata.obs["perturbation"].isin(["ctrl", "G2", "G3"])].copy(), tmp_path)
    refuses(["no pair passes --max-remaining 0.3"], made, path, max_remaining=0.3)


def test_empty_cells_are_counted_and_count_as_zeros(tmp_path):
    adata, said = cells(100, seed=45), []
    adata.X[:] = np.where(adata.X.sum(axis=1, keepdims=True) == 0, 1, adata.X)
    adata.X[[3, 50]] = 0
    screen = prepare(open_cells([stored(adata, tmp_path)], PrepareOptions(min_cells=1)), say=said.append)
    agree(screen, plain_lfc(adata.obs, normalised(adata)[1], "pooled"))
    assert screen.provenance["counts"]["cells_empty"] == 2
    assert said == ["2 cells have no count at all; they are kept and count as zeros"]


def test_the_record_survives_writing_and_reading(tmp_path):
    adata = cells(200, seed=50)
    adata.obs.iloc[3, adata.obs.columns.get_loc("batch")] = None
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.loc[adata.obs_names[[0, 9]], "perturbation"] = "rare"
    adata.obs.loc[adata.obs_names[[11]], "perturbation"] = "DMSO"
    adata.obs.loc[adata.obs_names[[0, 9, 11]], "cell_line"] = "x"
    adata.obs.loc[adata.obs_names[[0, 9, 11]], "batch"] = "1"
    path = stored(adata, tmp_path)
    options = {
        "control": ("ctrl",),
        "min_cells": 3,
        "drop_unassigned": True,
        "genes": tuple(f"G{k}" for k in range(20)),
    }
    screen = made(path, **options)
    screen.write(tmp_path / "out.h5ad")
    read = Screen.read(tmp_path / "out.h5ad")
    assert read.provenance == screen.provenance
    assert (read.name, read.response, read.simulated) == ("s", "lfc", False)
    np.testing.assert_array_equal(found(read), found(screen))
    record = read.provenance
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["inputs"] == [{"name": "s", "path": str(path.resolve()), "sha256": digest}]
    assert record["made_by"].startswith("panmodal ")
    assert (record["rule"], record["deg"]) == ("pooled", "pooled")
    assert record["columns"] == {
        "perturbation": "perturbation",
        "controls": ["ctrl"],
        "batch": "batch",
        "context": ["cell_line"],
    }
    assert record["options"]["min_cells"] == 3
    assert record["options"]["genes"] == [f"G{k}" for k in range(20)]
    counts, used = (
        record["counts"],
        adata.obs[adata.obs["batch"].notna() & ~adata.obs["perturbation"].isin(["rare", "DMSO"])],
    )
    assert counts["cells"] == 200
    assert counts["cells_used"] == len(used)
    assert counts["control_cells"] == (used["perturbation"] == "ctrl").sum()
    assert counts["cells_left_out"] == {
        "no batch (batch)": 1, "other control 'DMSO'": 1, "fewer than 3 cells of a perturbation": 2,
    }  # fmt: skip
    assert counts["pairs_left_out_few_cells"] == {"rare (x)": 2}
    assert counts["genes"] == 20
    assert counts["pairs_left_out_knockdown"] == []
    assert json.loads(json.dumps(record)) == record


def test_the_digest_of_a_folder_is_of_its_files(tmp_path):
    folder = write_tenx_folder(cells(60, seed=51), tmp_path / "tenx")
    screen = made(folder, table=str(tmp_path / "tenx.csv"))
    lines = sorted(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in folder.iterdir())
    assert screen.provenance["inputs"][0]["sha256"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert screen.name == "tenx"


def test_labels_are_read_and_untested_pairs_left_out(big, tmp_path):
    adata = big[0]
    few = adata[(adata.obs["perturbation"] != "G9") | (np.cumsum(adata.obs["perturbation"] == "G9") <= 30)].copy()
    screen = made(stored(few, tmp_path))
    screen.write(tmp_path / "out.h5ad")
    read = Screen.read(tmp_path / "out.h5ad", response="deg")
    assert read.response == "deg"
    assert read.pert_ids == ["G1", "G2", "G2+G3", "other"]
    assert "1 pair(s) have too few cells for DEG labels and are left out" in read.notes
    rows = (screen.adata.obs["pert_id"] != "G9").to_numpy()
    np.testing.assert_array_equal(read.adata.X, screen.adata.layers["deg"][rows])
    assert set(np.unique(read.adata.X)) == {-1, 0, 1}
    assert Screen.read(tmp_path / "out.h5ad").pert_ids == ["G1", "G2", "G2+G3", "G9", "other"]


def test_labels_that_are_not_there_are_not_read(tmp_path, refuses):
    screen = made(stored(cells(), tmp_path), deg="none")
    screen.write(tmp_path / "out.h5ad")
    refuses(["without DEG labels", "--deg pooled or vote"], Screen.read, tmp_path / "out.h5ad", response="deg")
    assert screen.provenance["deg"] == "none"


def test_rare_perturbations_are_left_out(tmp_path):
    adata = cells(150, seed=60)
    sizes = adata.obs[adata.obs["perturbation"] != "ctrl"].groupby(["cell_line", "perturbation"]).size()
    limit = int(sizes.median())
    screen = made(stored(adata, tmp_path), min_cells=limit)
    expected = plain_lfc(adata.obs, normalised(adata)[1], "pooled").loc[sizes.index[sizes >= limit]]
    agree(screen, expected)
    assert 0 < len(expected) < len(sizes)
    left = {f"{p} ({c})": n for (c, p), n in sizes[sizes < limit].items()}
    assert screen.provenance["counts"]["pairs_left_out_few_cells"] == left


def test_combinations_written_either_way_are_one(tmp_path):
    adata = cells(seed=61)
    swapped = adata.copy()
    both = np.flatnonzero(adata.obs["perturbation"] == "G2+G3")
    swapped.obs.iloc[both[::2], 0] = "G3+G2"
    single = np.flatnonzero(adata.obs["perturbation"] == "G1")
    swapped.obs.iloc[single[::2], 0] = "ctrl+G1"
    agree(made(stored(swapped, tmp_path)), plain_lfc(adata.obs, normalised(adata)[1], "pooled"))


def test_facts_tell_what_was_found(tmp_path):
    adata = cells(150, seed=62)
    facts = open_cells([stored(adata, tmp_path)], PrepareOptions(min_cells=1)).facts()
    said = dict(facts)
    assert said["cells"] == "150 x 30 genes in s"
    assert "'perturbation': 4 ('G1', 'G2', 'G2+G3', ... (4 in all))" in said["perturbations"]
    assert said["controls"] == f"'ctrl': {(adata.obs['perturbation'] == 'ctrl').sum()} cells"
    assert "column 'cell_line': 2 ('x', 'y')" in said["contexts"]
    assert said["control rule"].startswith("pooled")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deg": "vote", "batch_col": "none"}, ["--deg vote needs at least two batches", "--deg pooled"]),
        ({"deg": "vote", "batch_col": "one"}, ["--deg vote needs at least two batches"]),
        ({"rule": "matched", "batch_col": "none"}, ["--rule matched compares within batches", "--batch-col"]),
        ({"rule": "nearest"}, ["no control rule 'nearest'", "pooled, matched or auto"]),
        ({"deg": "wilcoxon"}, ["no DEG test 'wilcoxon'", "pooled, vote, none or auto"]),
        ({"min_cells": 0}, ["--min-cells must be at least 1"]),
        ({"context": "x", "context_col": ("cell_line",)}, ["--context-col or one --context, not both"]),
        ({"control": ("DMSO",)}, ["no label 'DMSO' for --control"]),
        ({"layer": "counts"}, ["no matrix 'counts'", "--layer"]),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, says, refuses):
    adata = cells(60)
    adata.obs["one"] = "1"
    path = stored(adata, tmp_path)
    refuses(says, open_cells, [path], PrepareOptions(**{"min_cells": 1} | options))


def test_the_column_of_contexts_may_be_the_batch_of_one_context(tmp_path):
    adata = cells(seed=63)
    screen = made(stored(adata, tmp_path), context="all", batch_col="cell_line")
    obs = adata.obs.assign(batch=adata.obs["cell_line"], cell_line="all")
    agree(screen, plain_lfc(obs, normalised(adata)[1], "pooled"))

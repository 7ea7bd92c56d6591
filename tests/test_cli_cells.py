"""The command line for raw cells, end to end: simulate, prepare, ceiling, and what run and leaderboard make of it."""

import json
import shutil
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from panmodal import Screen, Store
from panmodal.cells.simulate import simulate_cells
from panmodal.cli import main
from panmodal.embeddings.reading import read_embedding
from panmodal.insight.gaps import gap_table
from panmodal.screens.ceilings import ESTIMATORS, Ceilings
from panmodal.screens.reading import read_screen

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2")
N, GENES = 12, 30
DRAWS = ["--outer", 2, "--inner", 2, "--halves", 2, "--label-draws", 1, "--null-draws", 3, "-j", 1]


def command(*args):
    """Run a command for a fixture."""
    before = sys.argv
    sys.argv = ["panmodal", *map(str, args)]
    try:
        main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def cells(folder):
    """Perturb-seq: two contexts, three batches."""
    simulate_cells(folder / "cells.h5ad", n_cells=2400, n_perturbations=N, n_genes=GENES, n_batches=3, umis=100.0,
                   contexts=("one", "two"), control_share=0.2)  # fmt: skip
    return folder / "cells.h5ad"


@pytest.fixture(scope="module")
def plates(folder):
    simulate_cells(folder / "plates.h5ad", kind="plates", n_cells=1500, n_perturbations=N, n_genes=GENES, n_batches=3,
                   umis=100.0, control_share=0.2)  # fmt: skip
    return folder / "plates.h5ad"


@pytest.fixture(scope="module")
def made(folder, cells):
    """A screen beside its ceilings (not to be changed)."""
    command("prepare", cells, "--out", folder / "screen.h5ad", "-j", 1)
    command("ceiling", folder / "screen.h5ad", *DRAWS)
    return folder / "screen.h5ad"


@pytest.fixture
def edited(cells, tmp_path):
    """Write a changed copy of the cells."""

    def write(change, name="edited.h5ad", source=cells):
        data = anndata.read_h5ad(source)
        data.obs = data.obs.astype(str)
        data = change(data) or data
        data.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


def plain_lfc(data, context, pert="perturbation", batch="batch", control="non-targeting", matched=False):
    """Log fold changes of a context by plain arrays: perturbation -> genes."""
    counts = np.asarray(data.X.toarray(), float)
    totals = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(1e4 * counts / np.where(totals > 0, totals, 1))
    obs = data.obs.astype(str)
    here = (obs["cell_line"] == context).to_numpy() if context else np.ones(len(obs), bool)
    means = pd.DataFrame(logs[here]).groupby([obs[pert].to_numpy()[here], obs[batch].to_numpy()[here]]).mean()
    base = means.loc[control]
    out = {}
    for p in means.index.get_level_values(0).unique():
        own = means.loc[p]
        out[p] = (own - base.loc[own.index]).mean() if matched else own.mean() - base.mean()
    del out[control]
    return {p: v.to_numpy() for p, v in out.items()}


def assert_is_plain(path, data, contexts=("one", "two"), name=None, **options):
    screen = read_screen(path)
    for context in contexts:
        expected = plain_lfc(data, context if name is None else None, **options)
        ids, values = screen.responses(name or context)
        assert ids == sorted(expected)
        np.testing.assert_allclose(values, np.stack([expected[i] for i in ids]), atol=2e-5)


# --- simulate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["perturb-seq", "plates"])
def test_simulate_passes_every_option_on(cli, tmp_path, kind):
    out = tmp_path / "deep" / "sim.h5ad"
    printed = cli("simulate", out, "--kind", kind, "--cells", 700, "--perturbations", 6, "--genes", 25, "--context", "x",
                  "--context", "y", "--batches", 2, "--control-share", 0.3, "--umis", 80, "--dispersion", 0.7, "--effect", 1.5,
                  "--responders", 0.5, "--efficiency", 0.6, "--dropout", 0.1, "--batch-effect", 0.2, "--seed", 5, "--cells-seed", 9)  # fmt: skip
    expected = {
        "kind": kind, "n_cells": 700, "n_perturbations": 6, "n_genes": 25, "contexts": ["x", "y"], "n_batches": 2,
        "control_share": 0.3, "umis": 80.0, "dispersion": 0.7, "effect": 1.5, "responders": 0.5, "efficiency": 0.6, "dropout": 0.1,
        "batch_effect": 0.2, "seed": 5, "cells_seed": 9,
    }  # fmt: skip
    data = anndata.read_h5ad(out)
    assert json.loads(data.uns["panmodal_simulation"]["parameters"]) == expected
    assert data.shape == (700, 25) and set(data.obs["cell_line"]) == {"x", "y"}
    said = printed.split(f"Wrote {out} (SIMULATED): ")[1].splitlines()[0]
    assert json.loads(said) == expected
    planted = sorted(p.name for p in (tmp_path / "deep" / "sim-embeddings").iterdir())
    assert planted == [f"sim-{n}.h5ad" for n in ("full", "half", "noisy", "partial", "unrelated")]
    full = read_embedding(tmp_path / "deep" / "sim-embeddings" / "sim-full.h5ad")
    column = "drug" if kind == "plates" else "perturbation"
    assert set(full.ids) == set(data.obs[column]) - {"DMSO_TF", "non-targeting"} and full.card.simulated
    assert f"Wrote 5 planted embeddings to {tmp_path / 'deep' / 'sim-embeddings'}" in printed


def test_simulate_with_the_defaults_is_the_function_with_its_defaults(cli, tmp_path):
    cli("simulate", tmp_path / "a.h5ad", "--cells", 600, "--perturbations", 5, "--genes", 20)
    simulate_cells(tmp_path / "b.h5ad", n_cells=600, n_perturbations=5, n_genes=20)
    a, b = (anndata.read_h5ad(tmp_path / f"{n}.h5ad") for n in "ab")
    assert a.uns["panmodal_simulation"]["parameters"] == b.uns["panmodal_simulation"]["parameters"]
    np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["sim.csv"], "sim.csv: simulated cells are written as .h5ad"),
        (["sim.h5ad", "--kind", "bulk"], "kind is 'bulk'"),
        (["sim.h5ad", "--efficiency", 2], "efficiency is 2.0"),
        (["sim.h5ad", "--cells", 20], "n_cells is 20, too few"),
        (["sim.h5ad", "--cells", 0], "Invalid value for '--cells'"),
        (["sim.h5ad", "--context", "x", "--context", "x"], "different names"),
    ],
)
def test_simulate_errors_leave_nothing(cli, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in cli("simulate", *args, code=2)
    assert not list(tmp_path.iterdir())


# --- prepare ---------------------------------------------------------------------------------------------------------


FACTS = ["cells", "perturbations", "controls", "contexts", "batches", "control rule", "DEG labels", "used"]


def test_prepare_shows_facts_and_writes_a_screen(cli, cells, tmp_path):
    out = cli("prepare", cells, "--out", tmp_path / "my.h5ad", "-j", 1)
    assert all(f"\n {f} " in out for f in FACTS), out
    assert "2400 x 30 genes in cells" in out and f"column 'perturbation': {N} (" in out
    assert "column 'batch': 3 ('batch1'" in out and "pooled: means over batches" in out
    assert f"Wrote {tmp_path / 'my.h5ad'}. Next: panmodal ceiling {tmp_path / 'my.h5ad'}" in out
    assert f"Screen('my', lfc, simulated: {N} perturbations x 2 context(s)" in out
    screen = read_screen(tmp_path / "my.h5ad")
    assert screen.name == "my" and screen.simulated
    assert_is_plain(tmp_path / "my.h5ad", anndata.read_h5ad(cells))


def test_dry_run_writes_nothing(cli, cells, tmp_path, monkeypatch):
    monkeypatch.setattr("panmodal.cells.prepare.prepare", lambda *_, **__: pytest.fail("not dry"))
    out = cli("prepare", cells, "--out", tmp_path / "s.h5ad", "--dry-run")
    assert all(f"\n {f} " in out for f in FACTS) and "Wrote" not in out
    assert not list(tmp_path.iterdir())


def test_facts_come_before_errors_and_errors_leave_no_file(both, edited, tmp_path):
    def halve(data):
        data.X = data.X.astype(np.float32) * 0.5

    path = edited(halve)
    printed = both("prepare", path, "--out", tmp_path / "s.h5ad", code=2)
    assert f"column 'perturbation': {N} (" in printed.out
    assert "not a whole number" in printed.err and "--already-normalised" in printed.err
    assert [p.name for p in tmp_path.iterdir()] == ["edited.h5ad"]


def prepared(tmp_path, command, path, *options):
    """Prepare, and make ceilings from what is recorded in the screen, which checks that both read the same."""
    out = tmp_path / "prepared.h5ad"
    command("prepare", *(path if isinstance(path, list) else [path]), "--out", out, "-j", 1, *options)
    command("ceiling", out, *DRAWS)
    return read_screen(out)


def test_columns_and_controls_may_be_named(cli, cells, edited, tmp_path):
    def rename(data):
        data.obs = data.obs.rename(columns={"perturbation": "what", "batch": "when", "cell_line": "where"})
        data.obs["what"] = data.obs["what"].replace("non-targeting", "plain")
        data.obs["half"] = np.where(np.arange(len(data)) % 2, "h1", "h2")
        data.obs = data.obs.drop(columns="guide")

    path = edited(rename)
    args = ("--pert-col", "what", "--control", "plain", "--batch-col", "when")
    screen = prepared(tmp_path, cli, path, *args, "--context-col", "where")
    assert_is_plain(tmp_path / "prepared.h5ad", anndata.read_h5ad(cells))
    assert screen.provenance["columns"] == {
        "perturbation": "what",
        "controls": ["plain"],
        "batch": "when",
        "context": ["where"],
    }
    joined = prepared(tmp_path, cli, path, *args, "--context-col", "where", "--context-col", "half", "--min-cells", 1)
    assert joined.contexts == ["one | h1", "one | h2", "two | h1", "two | h2"]
    for left_out, says in (("--pert-col", "--pert-col"), ("--control", "--control LABEL")):
        k = args.index(left_out)
        err = cli("prepare", path, "--out", tmp_path / "no.h5ad", *args[:k], *args[k + 2 :], code=2)
        assert says in err and not (tmp_path / "no.h5ad").exists()
    for flag in ("--pert-col", "--batch-col", "--context-col"):
        assert "no column 'absent' for the" in cli(
            "prepare", cells, "--out", tmp_path / "no.h5ad", flag, "absent", code=2
        )
    assert "no label 'absent'" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--control", "absent", code=2)


def test_several_controls_and_no_batches(cli, cells, edited, tmp_path):
    def two(data):
        own = data.obs["perturbation"] == "non-targeting"
        data.obs.loc[own & (np.arange(len(data)) % 2 == 0), "perturbation"] = "DMSO"

    path = edited(two)
    assert "several kinds of control" in cli("prepare", path, "--out", tmp_path / "no.h5ad", code=2)
    control = ("--control", "non-targeting", "--control", "DMSO")
    prepared(tmp_path, cli, path, *control)
    assert_is_plain(tmp_path / "prepared.h5ad", anndata.read_h5ad(cells))
    screen = prepared(tmp_path, cli, path, *control, "--batch-col", "none")
    assert set(screen.adata.obs["n_batches"]) == {1} and screen.provenance["columns"]["batch"] is None
    data = anndata.read_h5ad(cells)
    data.obs["batch"] = "all"
    assert_is_plain(tmp_path / "prepared.h5ad", data)
    alone = prepared(tmp_path, cli, path, "--control", "DMSO")
    assert alone.provenance["counts"]["cells_left_out"].keys() == {"other control 'non-targeting'"}


def test_one_context_by_name_and_only_some_contexts(cli, cells, tmp_path):
    data = anndata.read_h5ad(cells)
    assert prepared(tmp_path, cli, cells, "--context", "all of them").contexts == ["all of them"]
    assert_is_plain(tmp_path / "prepared.h5ad", data, contexts=["x"], name="all of them")
    assert prepared(tmp_path, cli, cells, "--contexts", "two").contexts == ["two"]
    assert_is_plain(tmp_path / "prepared.h5ad", data, contexts=["two"])
    err = cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--context", "x", "--context-col", "cell_line", code=2)
    assert "not both" in err
    assert "no context 'three'" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--contexts", "three", code=2)


def test_keep_filters_cells(cli, cells, tmp_path):
    data = anndata.read_h5ad(cells)
    prepared(tmp_path, cli, cells, "--keep", "batch=batch2", "--keep", "cell_line=one", "--min-cells", 1)
    kept = data[(data.obs["batch"] == "batch2") & (data.obs["cell_line"] == "one")]
    assert_is_plain(tmp_path / "prepared.h5ad", kept, contexts=["one"])
    assert "COLUMN=VALUE" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--keep", "batch", code=2)


def test_rule_and_deg_test(cli, cells, plates, tmp_path):
    data = anndata.read_h5ad(cells)
    matched = prepared(tmp_path, cli, cells, "--rule", "matched")
    assert_is_plain(tmp_path / "prepared.h5ad", data, matched=True)
    assert (matched.provenance["rule"], matched.provenance["deg"]) == ("matched", "vote")
    pooled = prepared(tmp_path, cli, cells, "--rule", "pooled", "--deg", "vote")
    assert (pooled.provenance["rule"], pooled.provenance["deg"]) == ("pooled", "vote")
    none = prepared(tmp_path, cli, cells, "--deg", "none")
    assert "deg" not in none.adata.layers and "deg" in pooled.adata.layers
    automatic = prepared(tmp_path, cli, plates)
    assert (automatic.provenance["rule"], automatic.provenance["deg"]) == ("matched", "vote")
    named = {"contexts": ["sim-line-A"], "pert": "drug", "batch": "plate", "control": "DMSO_TF"}
    assert_is_plain(tmp_path / "prepared.h5ad", anndata.read_h5ad(plates), **named, matched=True)
    prepared(tmp_path, cli, plates, "--rule", "pooled")
    assert_is_plain(tmp_path / "prepared.h5ad", anndata.read_h5ad(plates), **named)
    assert "no control rule 'odd'" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--rule", "odd", code=2)
    assert "no DEG test 'odd'" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--deg", "odd", code=2)


def test_few_cells_and_weak_knockdowns_are_left_out(cli, cells, tmp_path):
    sizes = anndata.read_h5ad(cells).obs.groupby(["cell_line", "perturbation"], observed=True).size()
    sizes = sizes.drop("non-targeting", level=1)
    limit = int(sizes.median()) + 1
    out = cli("prepare", cells, "--out", tmp_path / "many.h5ad", "--min-cells", limit)
    assert 0 < (sizes >= limit).sum() < len(sizes)
    many = read_screen(tmp_path / "many.h5ad").adata.obs
    assert set(zip(many["cell_line"], many["pert_id"], strict=True)) == set(sizes[sizes >= limit].index)
    assert f"{(sizes < limit).sum()} pairs with too few cells" in out
    cli("prepare", cells, "--out", tmp_path / "all.h5ad")
    remaining = read_screen(tmp_path / "all.h5ad").adata.obs["target_remaining"]
    limit = float(remaining.median())
    strong = prepared(tmp_path, cli, cells, "--max-remaining", limit)
    assert set(strong.adata.obs_names) == set(remaining[~(remaining > limit)].index) != set(remaining.index)
    assert "no pair passes --max-remaining 0" in cli(
        "prepare", cells, "--out", tmp_path / "no.h5ad", "--max-remaining", 0, code=2
    )
    assert "Invalid value" in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--min-cells", 0, code=2)
    assert not (tmp_path / "no.h5ad").exists()


def test_genes_are_chosen_by_a_file(cli, cells, tmp_path):
    data = anndata.read_h5ad(cells)
    wanted = [data.var_names[k] for k in (7, 3, 20)]
    (tmp_path / "genes.txt").write_text("\n".join([f"{wanted[0]}\tsome", wanted[1], "", f" {wanted[2]} ", "UNKNOWN"]))
    screen = prepared(tmp_path, cli, cells, "--genes", tmp_path / "genes.txt")
    assert screen.readouts == [data.var_names[k] for k in (3, 7, 20)]
    expected = plain_lfc(data, "one")  # totals are over all genes
    ids, values = screen.responses("one")
    np.testing.assert_allclose(values, np.stack([expected[i][[3, 7, 20]] for i in ids]), atol=2e-5)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    for name, says in (
        ("empty.txt", "no gene in it"),
        ("odd.txt", "cannot be read as a list"),
        ("gone.txt", "cannot be read"),
    ):
        assert says in cli("prepare", cells, "--out", tmp_path / "no.h5ad", "--genes", tmp_path / name, code=2)


def test_layers_gene_names_and_logarithms(cli, cells, edited, tmp_path):
    def change(data):
        data.layers["counts"] = data.X.copy()
        counts = data.X.toarray().astype(float)
        totals = counts.sum(axis=1, keepdims=True)
        data.X = np.log1p(1e4 * counts / np.where(totals > 0, totals, 1)).astype(np.float32)
        data.var["symbol"] = [f"S{k}" for k in range(GENES)]

    path, data = edited(change), anndata.read_h5ad(cells)
    screen = prepared(tmp_path, cli, path, "--layer", "counts", "--gene-col", "symbol")
    assert screen.readouts == [f"S{k}" for k in range(GENES)]
    assert_is_plain(tmp_path / "prepared.h5ad", data)
    screen = prepared(tmp_path, cli, path, "--already-normalised")
    assert screen.readouts == list(data.var_names)
    assert_is_plain(tmp_path / "prepared.h5ad", data)
    assert "not a whole number" in cli("prepare", path, "--out", tmp_path / "no.h5ad", code=2)
    assert "absent" in cli("prepare", path, "--out", tmp_path / "no.h5ad", "--layer", "absent", code=2)
    assert "absent" in cli("prepare", path, "--out", tmp_path / "no.h5ad", "--gene-col", "absent", code=2)


def test_annotation_from_a_table(cli, cells, edited, tmp_path):
    data = anndata.read_h5ad(cells)
    data.obs.astype(str).sample(frac=1, random_state=0).to_csv(tmp_path / "obs.csv")

    def bare(data):
        data.obs = data.obs[[]]

    path = edited(bare)
    prepared(tmp_path, cli, path, "--obs", tmp_path / "obs.csv")
    assert_is_plain(tmp_path / "prepared.h5ad", data)
    assert "--pert-col" in cli("prepare", path, "--out", tmp_path / "no.h5ad", code=2)


def test_unassigned_and_unmatched_cells(cli, cells, edited, tmp_path):
    def spoil(data):
        data.obs.iloc[:5, data.obs.columns.get_loc("perturbation")] = "nan"

    path = edited(spoil)
    assert "is empty for 5 of 2400 cells" in cli("prepare", path, "--out", tmp_path / "no.h5ad", code=2)
    screen = prepared(tmp_path, cli, path, "--drop-unassigned")
    assert screen.provenance["counts"]["cells_left_out"] == {"no perturbation (perturbation)": 5}
    assert_is_plain(tmp_path / "prepared.h5ad", anndata.read_h5ad(cells)[5:])

    def uncontrolled(data):
        out = (
            (data.obs["perturbation"] == "non-targeting")
            & (data.obs["batch"] == "batch1")
            & (data.obs["cell_line"] == "one")
        )
        return data[~out].copy()

    path = edited(uncontrolled, "bare.h5ad")
    assert "--drop-unmatched" in cli("prepare", path, "--out", tmp_path / "no.h5ad", "--rule", "matched", code=2)
    prepared(tmp_path, cli, path, "--rule", "matched", "--drop-unmatched", "--min-cells", 1)
    data = anndata.read_h5ad(path)
    kept = data[~((data.obs["batch"] == "batch1") & (data.obs["cell_line"] == "one"))]
    assert_is_plain(tmp_path / "prepared.h5ad", kept, matched=True)


def test_memory_jobs_and_name_reach_the_work(cli, cells, tmp_path, monkeypatch):
    asked = {}

    class Reached(Exception):
        pass

    def stop(_, **options):
        asked.update(options)
        raise Reached

    monkeypatch.setattr("panmodal.cells.prepare.prepare", stop)
    for args, expected in (
        (["--memory", 0.5, "-j", 3, "--name", "other"], (0.5, 3, "other")),
        (["--jobs", 2], (4.0, 2, "s")),
    ):
        with pytest.raises(Reached):
            cli("prepare", cells, "--out", tmp_path / "s.h5ad", *args)
        assert (asked["memory"], asked["n_jobs"], asked["name"]) == expected
    assert "Invalid value" in cli("prepare", cells, "--out", tmp_path / "s.h5ad", "--memory", 0.01, code=2)


def test_several_files_are_contexts_or_batches(cli, cells, edited, tmp_path):
    data = anndata.read_h5ad(cells)
    for column, values, options in (
        ("cell_line", ("one", "two"), ()),
        ("batch", ("batch1", "batch2", "batch3"), ("--batch-col", "file")),
    ):
        given = []
        for value in values:

            def part(whole, column=column, value=value):
                own = whole[whole.obs[column] == value].copy()
                own.obs = own.obs.drop(columns=column)
                return own

            given.append(f"{value}={edited(part, f'part-{value}.h5ad')}")
        screen = prepared(tmp_path, cli, given, *options)
        assert [i["name"] for i in screen.provenance["inputs"]] == list(values)
        assert_is_plain(tmp_path / "prepared.h5ad", data)
    twice = [f"x={cells}", f"x={cells}"]
    assert "two files are named 'x'" in cli("prepare", *twice, "--out", tmp_path / "no.h5ad", code=2)


@pytest.mark.parametrize("out", ["s.csv", "s", "s.h5"])
def test_only_h5ad_and_zarr_are_written(cli, cells, tmp_path, out):
    assert f"{out}: a screen is written as .h5ad or .zarr" in cli("prepare", cells, "--out", tmp_path / out, code=2)
    assert not list(tmp_path.iterdir())


def test_cells_are_not_overwritten_by_their_screen(cli, cells, tmp_path, monkeypatch):
    own = Path(shutil.copy(cells, tmp_path / "own.h5ad"))
    before = own.read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.h5ad").symlink_to(own)
    for out in (own, "own.h5ad", "link.h5ad"):
        assert "is the file of cells itself" in cli("prepare", own, "--out", out, code=2)
    assert "is the file of cells itself" in cli("prepare", f"x={cells}", f"y={own}", "--out", "./own.h5ad", code=2)
    assert own.read_bytes() == before


def test_zarr_is_written_once(cli, cells, tmp_path):
    cli("prepare", cells, "--out", tmp_path / "s.zarr", "-j", 1)
    assert_is_plain(tmp_path / "s.zarr", anndata.read_h5ad(cells))
    for more in ([], ["--dry-run"]):
        assert "s.zarr: exists already" in cli("prepare", cells, "--out", tmp_path / "s.zarr", *more, code=2)
    cli("ceiling", tmp_path / "s.zarr", *DRAWS)
    assert Ceilings(tmp_path / "s.ceilings.h5").contexts == ["one", "two"]


def test_missing_cells_are_named(cli, tmp_path):
    assert "gone.h5ad" in cli("prepare", tmp_path / "gone.h5ad", "--out", tmp_path / "s.h5ad", code=2)
    assert not list(tmp_path.iterdir())


# --- prepare --each --------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(cells, tmp_path):
    """The two contexts as files of their own."""
    data = anndata.read_h5ad(cells)
    for name in ("one", "two"):
        data[data.obs["cell_line"] == name].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    return [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]


def test_each_file_becomes_a_screen(cli, cells, parts, tmp_path):
    out = tmp_path / "screens"
    options = ("--dataset", "sim", "--min-cells", 3, "--rule", "matched")
    said = cli("prepare", *parts, "--each", "--out", out, "--jobs", 2, "--memory", 3, *options)
    assert "2 files at once, with 1.5 GiB of memory each" in said
    for path in parts:
        name = path.stem
        assert f"{path}: Screen('{name}', lfc, simulated: {N} " in said
        cli("prepare", path, "--out", tmp_path / "alone" / f"{name}.h5ad", *options)
        found, expected = (read_screen(folder / f"{name}.h5ad") for folder in (out, tmp_path / "alone"))
        assert found.name == name and found.datasets == ("sim",) and found.provenance == expected.provenance
        np.testing.assert_array_equal(found.adata.X, expected.adata.X)
        np.testing.assert_array_equal(found.adata.layers["deg"], expected.adata.layers["deg"])
        assert_is_plain(out / f"{name}.h5ad", anndata.read_h5ad(cells), contexts=[name], matched=True)
    assert "controls: 'non-targeting': " in said and "control rule: matched" in said
    assert f"2 of 2 screens are in {out}. Next: panmodal ceiling {out}/NAME.h5ad" in said
    again = cli("prepare", *parts, "--each", "--out", out, "-j", 1, *options)
    assert again.count("found done") == 2
    assert "found done" not in cli("prepare", *parts, "--each", "--out", out, "-j", 1)
    named = cli("prepare", parts[0], f"second={parts[1]}", "--each", "--out", out, "-j", 1, "--dry-run")
    assert f"{parts[1]}: cells: " in named and "genes in second" in named
    assert sorted(p.name for p in out.iterdir()) == ["one.h5ad", "two.h5ad"]
    cli("ceiling", out / "two.h5ad", *DRAWS)
    assert Ceilings(out / "two.ceilings.h5").contexts == ["two"]


def test_a_file_that_fails_is_named_and_the_others_are_made(both, parts, edited, tmp_path):
    bad = edited(lambda data: data[data.obs["perturbation"] != "non-targeting"].copy(), "bad.h5ad", parts[0])
    printed = both("prepare", bad, *parts, "--each", "--out", tmp_path / "out", "-j", 1, code=1)
    assert "1 of 3 files failed; the others are done." in printed.err and f"{bad}: InputError: {bad}" in printed.err
    assert "2 of 3 screens are in" in printed.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["one.h5ad", "two.h5ad"]
    printed = both("prepare", bad, "--each", "--out", tmp_path / "out", "--dry-run", "-j", 1, code=1)
    assert "bad.h5ad" in printed.err and "screens are in" not in printed.out


def test_each_refuses_what_would_lose_something(cli, parts, tmp_path):
    before = [p.read_bytes() for p in parts]
    for args, says in (
        ([*parts, "--each", "--out", tmp_path / "s.h5ad"], "with --each, --out is a folder"),
        ([*parts, "--each", "--out", parts[0]], "with --each, --out is a folder"),
        ([*parts, "--each", "--out", tmp_path], "one.h5ad: is, or lies in, the cells"),
        ([parts[0], tmp_path / "x" / "one.h5ad", "--each", "--out", tmp_path / "out"], "both be written to"),
        ([*parts, "--each", "--name", "x", "--out", tmp_path / "out"], "--name is for one screen"),
        ([*parts, "--dask", "local", "--out", tmp_path / "s.h5ad"], "it needs --each"),
        ([*parts, "--each", "--dask", tmp_path / "gone", "--jobs", 0, "--out", tmp_path / "out"], "Invalid value"),
        ([*parts, "--out", tmp_path / "out"], "--each writes one for each file into a folder"),
    ):
        assert says in cli("prepare", *args, code=2)
    assert [p.read_bytes() for p in parts] == before and sorted(tmp_path.iterdir()) == parts


# --- ceiling ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(made, tmp_path):
    """A copy of the screen without ceilings."""
    return Path(shutil.copy(made, tmp_path / "screen.h5ad"))


def test_ceilings_lie_beside_the_screen(cli, screen):
    out = cli("ceiling", screen, *DRAWS)
    beside = screen.with_name("screen.ceilings.h5")
    made = Ceilings(beside)
    assert made.contexts == ["one", "two"]
    assert [e.name for e in made.estimators("one")] == list(ESTIMATORS)
    assert f"Wrote {beside} (" in out and f"Next: panmodal run --screen {screen} --embedding" in out
    assert f"column 'perturbation': {N} (" in out and all(
        f"· {e.name}: {e.description}" in out for e in ESTIMATORS.values()
    )
    quality = made.quality("one")
    strong = (quality["norm_p"] <= 0.05).sum()
    assert f"one: {strong} of {N} responses are longer than those of as many control cells (p <= 0.05)" in out
    line = next(line for line in out.split("one: ")[1].splitlines() if "median" in line)
    assert f"{quality['n_cells'].median():.0f}" in line and f"{quality['response_norm'].median():.3f}" in line


def test_options_of_the_ceiling(cli, screen, tmp_path):
    out = tmp_path / "deep" / "c.h5"
    cli("ceiling", screen, "--out", out, "--outer", 3, "--inner", 4, "--halves", 2, "--label-draws", 5, "--null-draws", 6,
        "--separate-controls", "--seed", 7, "--memory", 1, "-j", 2)  # fmt: skip
    assert not (tmp_path / "screen.ceilings.h5").exists()
    made = Ceilings(out)
    asked = {
        "outer": 3,
        "inner": 4,
        "halves": 2,
        "label_draws": 5,
        "null_draws": 6,
        "separate_controls": True,
        "seed": 7,
    }
    assert asked.items() <= made.options.items()
    with h5py.File(out) as file:
        group = next(iter(file["contexts"].values()))
        shapes = {k: v.shape for k, v in group.items() if k not in ("pert_id", "quality")}
    assert shapes == {"bootstrap": (N, 12, GENES), "half1": (N, 2, GENES), "half2": (N, 2, GENES), "shrink": (N, 2, GENES),
                      "side1": (N, 2, GENES), "side2": (N, 2, GENES), "point": (N, 1, GENES), "labels": (N, 5, GENES)}  # fmt: skip
    assert made.quality("one")["norm_p"].min() >= 1 / 7 - 1e-12
    cli("ceiling", screen, *DRAWS)
    assert Ceilings(tmp_path / "screen.ceilings.h5").options["separate_controls"] is False


def test_only_some_estimators(cli, screen, tmp_path):
    out = cli("ceiling", screen, *DRAWS, "--estimator", "disjoint_halves", "--estimator", "replicate_batches")
    names = [e.name for e in Ceilings(tmp_path / "screen.ceilings.h5").estimators("two")]
    assert "experimental_error" not in names and {"disjoint_halves", "replicate_batches"} <= set(names)
    assert "· experimental_error" not in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--estimator", "halves"], "no ceiling estimator 'halves'; there are experimental_error"),
        (["--outer", 0], "Invalid value for '--outer'"),
        (["--cells", "a.h5ad", "--cells", "b.h5ad"], "was made from 1 file(s) of cells ('cells'), 2 given"),
        (["--cells", "nowhere.h5ad"], "nowhere.h5ad: the cells that"),
    ],
)
def test_ceiling_errors_leave_no_file(cli, screen, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in cli("ceiling", "screen.h5ad", *args, code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["screen.h5ad"]


def test_moved_cells_are_found_by_flag_and_others_refused(cli, cells, edited, tmp_path):
    old = Path(shutil.copy(cells, tmp_path / "old.h5ad"))
    cli("prepare", old, "--out", tmp_path / "s.h5ad", "-j", 1)
    moved = old.rename(tmp_path / "moved.h5ad")
    err = cli("ceiling", tmp_path / "s.h5ad", *DRAWS, code=2)
    assert f"{old}: the cells that" in err and "--cells" in err
    for given in (moved, f"old={moved}"):
        cli("ceiling", tmp_path / "s.h5ad", "--cells", given, *DRAWS)
        (tmp_path / "s.ceilings.h5").unlink()

    def touch(data):
        data.obs["other"] = "x"

    err = cli("ceiling", tmp_path / "s.h5ad", "--cells", edited(touch), *DRAWS, code=2)
    assert "edited.h5ad: is not the file that" in err and "SHA-256" in err
    shutil.copy(tmp_path / "edited.h5ad", old)  # another file where the cells were
    assert "is not the file that" in cli("ceiling", tmp_path / "s.h5ad", *DRAWS, code=2)
    assert not (tmp_path / "s.ceilings.h5").exists()


def test_cells_whose_name_holds_an_equals_sign(cli, cells, tmp_path):
    path = shutil.copy(cells, tmp_path / "dose=1.h5ad")
    cli("prepare", path, "--out", tmp_path / "s.h5ad", "-j", 1)
    cli("ceiling", tmp_path / "s.h5ad", *DRAWS)
    assert (tmp_path / "s.ceilings.h5").exists()


def test_a_screen_of_unknown_cells_has_no_ceilings(cli, tmp_path):
    rng = np.random.default_rng(0)
    other = Screen.from_arrays(rng.normal(size=(4, 3)), list("ABCD"), ["c"] * 4, list("xyz"), name="o", response="lfc")
    other.write(tmp_path / "o.h5ad")
    err = cli("ceiling", tmp_path / "o.h5ad", code=2)
    assert "does not say which cells it was made from" in err and "panmodal prepare" in err
    assert "nowhere.h5ad" in cli("ceiling", tmp_path / "nowhere.h5ad", code=2)


def test_replicate_batches_need_two(cli, cells, tmp_path):
    cli("prepare", cells, "--out", tmp_path / "s.h5ad", "--batch-col", "none", "-j", 1)
    err = cli("ceiling", tmp_path / "s.h5ad", "--estimator", "replicate_batches", *DRAWS, code=2)
    assert "replicate_batches needs at least two batches" in err and "--batch-col" in err
    assert not (tmp_path / "s.ceilings.h5").exists()
    cli("ceiling", tmp_path / "s.h5ad", *DRAWS)
    names = [e.name for e in Ceilings(tmp_path / "s.ceilings.h5").estimators("one")]
    assert names == ["experimental_error", "disjoint_halves", "interpolated_duplicate"]


# --- run, leaderboard, list ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedding(folder):
    """Vectors that tell something of the perturbations."""
    truth = simulate_cells(folder / "again.h5ad", n_cells=2400, n_perturbations=N, n_genes=GENES, n_batches=3, umis=100.0,
                           contexts=("one", "two"), control_share=0.2)  # fmt: skip
    frame = pd.DataFrame(truth.latents, index=pd.Index(truth.pert_ids, name="id"))
    frame.columns = [f"d{k}" for k in frame]
    frame.to_csv(folder / "latents.csv")
    return folder / "latents.csv"


@pytest.fixture
def run_args(embedding, tmp_path):
    def make(screen, out="r"):
        return ["run", "--screen", screen, "--embedding", embedding, "--out", tmp_path / out, "--folds", 6, "--probe", "ridge",
                "-j", 1, "--metric", "L2", "--metric", "Pearson_centred"]  # fmt: skip

    return make


def test_run_picks_up_ceilings_and_the_leaderboard_measures_to_them(cli, made, run_args, tmp_path):
    out = cli(*run_args(made))
    assert "ceiling: the experimental error ceiling" in out
    store = Store(tmp_path / "r")
    ceilings = store.ceilings()
    assert set(ceilings["estimator"]) == set(ESTIMATORS) and set(ceilings["context"]) == {"one", "two"}
    assert len(pd.read_parquet(tmp_path / "r" / "quality.parquet")) == 2 * N
    files = {k: tmp_path / f"board.{k}" for k in ("html", "csv", "parquet")}
    gaps = tmp_path / "gaps.csv"
    out = cli("leaderboard", tmp_path / "r", "--ceiling", "disjoint_halves", "--gaps", gaps,
              *(x for k, f in files.items() for x in (f"--{k}", f)))  # fmt: skip
    assert f"Wrote {gaps}" in out and "ceiling: the disjoint halves ceiling" in out
    board = pd.read_csv(files["csv"])
    assert set(board["ceiling_by"]) == {"disjoint_halves"} == set(pd.read_parquet(files["parquet"])["ceiling_by"])
    own = ceilings[(ceilings["context"] == "two") & (ceilings["estimator"] == "disjoint_halves")]
    mean = own.groupby("fold")["L2"].mean().mean()
    assert board.loc[board["context"] == "two", "ceiling"].to_numpy() == pytest.approx(mean)
    expected = gap_table(store.scores(), store.perturbations(), ceilings)
    found = pd.read_csv(gaps)
    assert set(found["metric"]) == {"L2", "Pearson_centred"} and set(found["estimator"]) == {*ESTIMATORS, "idealised"}
    np.testing.assert_allclose(found["gap_closed"], expected["gap_closed"])
    np.testing.assert_allclose(found["gap_low"], expected["gap_low"])
    page = files["html"].read_text(encoding="utf-8")
    assert "Gap closed by each ceiling" in page and "from the floor to the disjoint halves ceiling" in page
    assert "no ceiling 'halves'" in cli("leaderboard", tmp_path / "r", "--ceiling", "halves", code=2)
    assert f"0 trials computed, {store.scores()['trial'].nunique()} found done." in cli(*run_args(made))


def test_ceilings_may_be_named_or_left_out(cli, made, screen, run_args, tmp_path):
    moved = shutil.copy(made.with_name("screen.ceilings.h5"), tmp_path / "moved.h5")
    out = cli(*run_args(screen), "--no-ceilings")
    assert "ceiling: the idealised oracle" in out and not (tmp_path / "r" / "ceilings.parquet").exists()
    assert "ceiling: the experimental error ceiling" in cli(*run_args(screen), "--ceilings", moved)
    assert "ceilings: " in (tmp_path / "r" / "config.yaml").read_text()
    cli(*run_args(made, "other"), "--no-ceilings")
    assert not (tmp_path / "other" / "ceilings.parquet").exists()
    assert "ceilings: false" in (tmp_path / "other" / "config.yaml").read_text()
    assert "gone.h5" in cli(*run_args(screen, "third"), "--ceilings", tmp_path / "gone.h5", code=2)
    assert not (tmp_path / "third").exists()


def test_ceilings_of_another_screen_are_refused_before_anything_is_computed(cli, cells, made, run_args, tmp_path):
    cli("prepare", cells, "--out", tmp_path / "s.h5ad", "--keep", "batch=batch1", "-j", 1)
    shutil.copy(made.with_name("screen.ceilings.h5"), tmp_path / "s.ceilings.h5")
    err = cli(*run_args(tmp_path / "s.h5ad"), code=2)
    assert "s.ceilings.h5: made for other responses than screen 's'" in err and "--no-ceilings" in err
    assert not (tmp_path / "r").exists()


def test_a_screen_read_as_labels_uses_no_ceilings(cli, made, run_args):
    err = cli(*run_args(made), "--response", "deg", code=2)
    assert "'deg'" in err and "ceilings" not in err


def test_list_ceilings(cli):
    out = cli("list", "ceilings")
    assert all(e.name in out for e in ESTIMATORS.values()) and "two-stage bootstrap" in out
    assert "ridge" not in out and "experimental_error" in cli("list")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("prepare", ["--dry-run", "--drop-unmatched", "--already-normalised", "panmodal prepare cells.h5ad"]),
        ("ceiling", ["--separate-controls", "--estimator", "panmodal ceiling screen.h5ad"]),
        ("simulate", ["--cells-seed", "--batch-effect", "panmodal simulate sim/cells.h5ad"]),
    ],
)
def test_help_has_options_and_an_example(cli, monkeypatch, name, flags):
    monkeypatch.setenv("COLUMNS", "200")
    out = cli(name, "--help")
    assert all(f in out for f in flags), out

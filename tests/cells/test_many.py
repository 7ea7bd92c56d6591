import sys
from pathlib import Path

import anndata
import cloudpickle
import numpy as np
import pytest

from panmodal.cells import many
from panmodal.cells.many import FOUND_DONE, PrepareFile, plan_files, prepare_each, read_record
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells
from panmodal.errors import InputError
from panmodal.execution.faults import StopAll

cloudpickle.register_pickle_by_value(sys.modules[__name__])
OPTIONS = PrepareOptions(min_cells=2)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Three files, each the cells of one line."""
    folder = tmp_path_factory.mktemp("lines")
    for k, name in enumerate("abc"):
        simulate_cells(folder / f"{name}.h5ad", n_cells=300 + 50 * k, n_perturbations=5, n_genes=20, n_batches=2, umis=80.0,
                       contexts=(f"line-{name}",), control_share=0.3, seed=k)  # fmt: skip
    return [folder / f"{name}.h5ad" for name in "abc"]


@pytest.fixture(scope="module")
def alone(lines, tmp_path_factory):
    """The screen of each file by itself, with two threads and another bound on memory."""
    folder = tmp_path_factory.mktemp("alone")
    for path in lines:
        cells = open_cells([path], OPTIONS)
        prepare(cells, name=path.stem, datasets=["tahoe"], memory=3.0, n_jobs=2).write(folder / path.name)
    return folder


def assert_same(folder, alone, names="abc"):
    for name in names:
        one, other = (anndata.read_h5ad(Path(f) / f"{name}.h5ad") for f in (folder, alone))
        np.testing.assert_array_equal(one.X, other.X)
        np.testing.assert_array_equal(one.layers["deg"], other.layers["deg"])
        np.testing.assert_array_equal(one.varm["control_mean"], other.varm["control_mean"])
        assert one.obs.equals(other.obs) and one.var.equals(other.var)
        assert one.uns["panmodal"] == other.uns["panmodal"]


@pytest.mark.parametrize(("jobs", "dask"), [(1, None), (2, None), (2, "local")])
def test_each_file_is_prepared_as_if_alone(lines, alone, tmp_path, monkeypatch, jobs, dask):
    if dask:
        pytest.importorskip("distributed")
    monkeypatch.chdir(lines[0].parent)
    seen, said = [], []
    given = ["a.h5ad", str(lines[1]), "c=c.h5ad"]
    facts, faults = prepare_each(given, OPTIONS, tmp_path / "deep" / "out", datasets=["tahoe"], jobs=jobs, dask=dask,
                                 progress=lambda *n: seen.append(n), say=said.append)  # fmt: skip
    assert not faults and list(facts) == lines and seen == [(k, 3) for k in range(4)]
    assert all(f"Screen('{p.stem}', lfc, simulated: 5 " in t and "control rule: pooled" in t for p, t in facts.items())
    assert said == (["2 files at once, with 2 GiB of memory each"] if jobs == 2 else [])
    assert_same(tmp_path / "deep" / "out", alone)
    assert sorted(p.name for p in (tmp_path / "deep" / "out").iterdir()) == ["a.h5ad", "b.h5ad", "c.h5ad"]


def test_memory_is_divided_by_the_files_at_once(lines, tmp_path, monkeypatch):
    tasks = []

    def stop(task, *_, **__):
        tasks.append(task)
        return {}, {}

    monkeypatch.setattr("panmodal.execution.many.map_files", stop)
    for n, jobs, share in ((3, 2, 3.0), (3, 8, 2.0), (1, 8, 6.0), (3, 1, 6.0)):
        prepare_each([str(p) for p in lines[:n]], OPTIONS, tmp_path, memory=6.0, jobs=jobs)
        assert tasks[-1].memory == share and tasks[-1].folder == tmp_path


def test_too_little_memory_fails_the_file(lines, tmp_path):
    facts, faults = prepare_each([str(lines[0])], OPTIONS, tmp_path, memory=1e-6, jobs=1)
    assert not facts and "is too little" in faults[lines[0]].message and not list(tmp_path.iterdir())


def test_one_bad_file_does_not_stop_the_others(lines, alone, tmp_path):
    half = anndata.read_h5ad(lines[1])
    half.X = half.X.astype(np.float32) * 0.5
    half.write_h5ad(tmp_path / "b.h5ad")
    gone = tmp_path / "gone.h5ad"
    facts, faults = prepare_each([str(p) for p in (tmp_path / "b.h5ad", gone, lines[0], lines[2])], OPTIONS, tmp_path / "out",
                                 datasets=["tahoe"], jobs=1)  # fmt: skip
    assert list(facts) == [lines[0], lines[2]] and list(faults) == [tmp_path / "b.h5ad", gone]
    assert "not a whole number" in str(faults[tmp_path / "b.h5ad"]) and "gone.h5ad" in str(faults[gone])
    assert_same(tmp_path / "out", alone, "ac")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.h5ad", "c.h5ad"]


def test_what_is_done_is_left_and_what_changed_is_not(lines, tmp_path, monkeypatch):
    own = tmp_path / "a.h5ad"
    own.write_bytes(lines[0].read_bytes())
    out = tmp_path / "out" / "a.h5ad"

    def again(options=OPTIONS, **more):
        before = out.stat().st_mtime_ns if out.exists() else 0
        facts, faults = prepare_each([str(own)], options, out.parent, jobs=1, **more)
        assert not faults and (facts[own] == FOUND_DONE) == (out.stat().st_mtime_ns == before)
        return facts[own] == FOUND_DONE

    assert [again(), again()] == [False, True]
    assert [again(datasets=["x"]), again(datasets=["x"]), again()] == [False, True, False]
    three = PrepareOptions(min_cells=3, genes=tuple(anndata.read_h5ad(own).var_names[:4]))
    assert [again(three), again(three)] == [False, True]
    own.write_bytes(lines[1].read_bytes())
    assert [again(three), again(three)] == [False, True]
    # Only the path of a table is recorded: it may have changed.
    anndata.read_h5ad(own).obs.to_csv(tmp_path / "obs.csv")
    table = PrepareOptions(min_cells=3, table=tmp_path / "obs.csv")
    assert [again(table), again(table)] == [False, False]
    assert read_record(out)["options"]["table"] == str((tmp_path / "obs.csv").resolve())
    assert [again(), again()] == [False, True]
    monkeypatch.setattr(many, "__version__", "another")
    assert not again()


def test_a_retry_is_harmless(lines, alone, tmp_path, monkeypatch):
    task = PrepareFile(OPTIONS, tmp_path, ("tahoe",))
    write = anndata.AnnData.write_h5ad

    def dies(self, path, **options):
        write(self, path, **options)
        raise ConnectionError("stutters")

    with monkeypatch.context() as patch, pytest.raises(Exception, match="stutters"):
        patch.setattr(anndata.AnnData, "write_h5ad", dies)
        task(lines[0])
    assert not list(tmp_path.iterdir())
    assert task(lines[0], 1).startswith("Screen('a'") and task(lines[0], 2) == FOUND_DONE
    assert_same(tmp_path, alone, "a")


def test_dry_run_tells_and_writes_nothing(lines, tmp_path):
    facts, faults = prepare_each([str(lines[0])], OPTIONS, tmp_path / "out", jobs=1, dry_run=True)
    assert not faults and "cells: 300 x 20 genes" in facts[lines[0]] and "Screen(" not in facts[lines[0]]
    assert not (tmp_path / "out").exists()


def test_a_worker_that_does_not_see_the_folder_stops_everything(lines, tmp_path, refuses):
    refuses(["gone", "all workers share"], PrepareFile(OPTIONS, tmp_path / "gone"), lines[0], error=StopAll)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(lines, tmp_path, refuses):
    (tmp_path / "file").write_text("")
    refuses(["cannot be made"], prepare_each, [str(lines[0])], OPTIONS, tmp_path / "file" / "out", error=InputError)


def test_plan_refuses_to_lose_anything(lines, tmp_path, refuses):
    a, b, _ = map(str, lines)
    for folder in ("s.h5ad", "s.zarr", a):
        refuses(["--out is a folder"], plan_files, [b], tmp_path / folder)
    refuses([a, "x/a.h5ad", "both", "NAME=FILE"], plan_files, [a, "x/a.h5ad"], tmp_path)
    refuses(["both"], plan_files, [a, f"A={b}"], tmp_path)
    refuses(["given twice"], plan_files, [a, f"x={a}"], tmp_path)
    refuses(["'x/y' cannot be"], plan_files, [f"x/y={a}"], tmp_path)
    refuses(["a.h5ad: is", "themselves"], plan_files, [a], lines[0].parent)
    refuses(["b.h5ad: is", "themselves"], plan_files, [f"b={a}", f"other={b}"], lines[0].parent)
    refuses(["lies in"], plan_files, [str(tmp_path)], tmp_path / "out")
    (tmp_path / "link").symlink_to(lines[0].parent)
    refuses(["themselves"], plan_files, [a], tmp_path / "link")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.h5ad").write_bytes(lines[1].read_bytes())
    refuses(["own/a.h5ad: exists and was not made by panmodal prepare"], plan_files, [a], tmp_path / "own")
    assert plan_files([a, f"x={b}"], tmp_path) == {lines[0]: "a", lines[1]: "x"}

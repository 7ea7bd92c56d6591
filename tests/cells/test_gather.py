import tempfile

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from panmodal.cells import gather
from panmodal.cells.gather import GatheredCells
from panmodal.cells.prepare import PrepareOptions, open_cells

PERTS = [f"P{k}" for k in range(12)]
GIB = 2**30


def write(path, seed=0, n=500, genes=30, log=False, break_at=None, stored="csr"):
    """Counts of a few perturbations in two contexts and three batches; the order of cells is at random."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.4, 2.0, size=genes), size=(n, genes)).astype(np.float32)
    counts[n // 3] = 0
    obs = pd.DataFrame({
        "perturbation": rng.choice([*PERTS, "control"], p=[0.06] * 12 + [0.28], size=n),
        "batch": rng.choice(["b1", "b2", "b3"], p=[0.5, 0.3, 0.2], size=n), "cell_line": rng.choice(["x", "y"], size=n),
    }, index=[f"c{k}" for k in range(n)])  # fmt: skip
    obs.loc[["c0", "c1", "c2"], ["perturbation", "batch", "cell_line"]] = ["rare", "b2", "y"]
    if log:
        counts = normalised(counts).astype(np.float32)
    if break_at is not None:
        counts[break_at, 3] = 0.5
    matrix = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[stored](counts)
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"g{k}" for k in range(genes)])).write_h5ad(path)
    return counts, obs


def normalised(counts):
    totals = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p(counts * (1e4 / np.where(totals > 0, totals, 1.0)))


def size(counts):
    """Most of the bytes that the values take: with so much memory they go to files, but the controls of a context fit."""
    return 6 * int((counts > 0).sum())


def dense(group, width):
    return sparse.csr_matrix((group.values, group.genes, group.indptr), shape=(group.n_cells, width)).toarray()


def as_set(values):
    """Rows in an order of their own, so that two sets of cells can be compared."""
    return values[np.lexsort(np.round(values, 3).T)]


def holds(group, values, batch, names):
    """Check that a group has exactly these cells, batch after batch."""
    assert group.n_cells == len(values) > 0
    assert [names[b] for b in group.batches] == sorted(set(batch))
    np.testing.assert_array_equal(
        np.repeat(group.batches, np.diff(group.batch_start)), group.batches[group.batch_of_cell()]
    )
    own = dense(group, values.shape[1])
    assert group.indptr[-1] == (values > 0).sum()
    for k, b in enumerate(group.batches):
        mine = own[group.batch_start[k] : group.batch_start[k + 1]]
        np.testing.assert_allclose(as_set(mine), as_set(values[batch == names[b]]), rtol=1e-6)


def holds_all(held, layout, values, obs, rows=None):
    """Compare every row and the controls of every context with the plain matrix."""
    seen = 0
    for r in range(layout.n_rows) if rows is None else rows:
        own = ((obs["perturbation"] == layout.pert_ids[r]) & (obs["cell_line"] == layout.contexts[r])).to_numpy()
        holds(held.group([r]), values[own], obs["batch"].to_numpy()[own], layout.batch_names)
        seen += own.sum()
    for context in ("y", "x"):
        own = ((obs["perturbation"] == "control") & (obs["cell_line"] == context)).to_numpy()
        groups = (layout.n_rows + layout.controls_of(context)).tolist()
        holds(held.group(groups), values[own], obs["batch"].to_numpy()[own], layout.batch_names)
        seen += own.sum()
    return seen


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder that all temporary files go to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def tight(monkeypatch):
    """Bound on memory in bytes for the cells alone, small enough for small tests."""
    monkeypatch.setattr(gather, "FIXED", 0)
    monkeypatch.setattr(gather, "SMALLEST_CHUNK", 16)
    return lambda n_cells, room: (100 * n_cells + room) / GIB


@pytest.mark.parametrize(("chunk", "n_jobs"), [(1, 2), (40, 1), (1000, 3), (None, 2)])
@pytest.mark.parametrize("files", [False, True])
def test_cells_are_those_of_the_matrix(tmp_path, temporary, tight, files, chunk, n_jobs):
    counts, obs = write(tmp_path / "cells.h5ad")
    cells = open_cells([tmp_path / "cells.h5ad"], PrepareOptions(min_cells=8))
    room = size(counts)
    memory = tight(len(obs), room) if files else 4.0
    seen = []
    with GatheredCells(
        cells.stream, cells.layout, memory=memory, n_jobs=n_jobs, chunk_values=chunk, progress=lambda *at: seen.append(at),
    ) as held:  # fmt: skip
        assert held.in_memory != files
        assert bool(list(temporary.iterdir())) == files
        n = holds_all(held, cells.layout, normalised(counts), obs)
        # Again, and in another order, when other cells are held.
        assert holds_all(held, cells.layout, normalised(counts), obs, rows=[20, 3, 11, 3]) < n
    assert n == (cells.layout.row >= 0).sum() < len(obs)
    assert cells.layout.left_out["rare (y)"] == 3
    assert seen[-1] == (500, 500) and seen == sorted(seen) and len(seen) > (1 if chunk else 0)
    if chunk == 1:
        assert len(seen) == 500
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("stored", ["csc", "dense"])
def test_other_ways_to_store_the_matrix(tmp_path, temporary, tight, stored, files):
    # They do not tell how much each cell holds before they are read.
    counts, obs = write(tmp_path / "cells.h5ad", stored=stored)
    cells = open_cells([tmp_path / "cells.h5ad"])
    memory = tight(len(obs), size(counts)) if files else 4.0
    with GatheredCells(cells.stream, cells.layout, memory=memory, chunk_values=600) as held:
        assert held.in_memory != files
        holds_all(held, cells.layout, normalised(counts), obs)
    assert not list(temporary.iterdir())


def test_cells_of_several_files(tmp_path):
    parts = [write(tmp_path / f"{k}.h5ad", seed=k) for k in range(3)]
    cells = open_cells([tmp_path / f"{k}.h5ad" for k in range(3)], PrepareOptions(context_col=("cell_line",)))
    counts, obs = np.concatenate([c for c, _ in parts]), pd.concat([o for _, o in parts])
    with GatheredCells(cells.stream, cells.layout, chunk_values=700) as held:
        assert holds_all(held, cells.layout, normalised(counts), obs) == (cells.layout.row >= 0).sum()


@pytest.mark.parametrize("files", [False, True])
def test_genes_left_out_count_in_the_totals(tmp_path, tight, files):
    counts, obs = write(tmp_path / "cells.h5ad")
    kept = [f"g{k}" for k in range(29, 4, -3)]
    cells = open_cells([tmp_path / "cells.h5ad"], PrepareOptions(genes=tuple(kept)))
    columns = [int(g[1:]) for g in cells.stream.genes]
    assert columns == sorted(int(g[1:]) for g in kept)
    memory = tight(len(obs), size(counts)) if files else 4.0
    with GatheredCells(cells.stream, cells.layout, memory=memory, chunk_values=600) as held:
        assert held.in_memory != files
        holds_all(held, cells.layout, normalised(counts)[:, columns], obs)
    assert not np.allclose(normalised(counts[:, columns]), normalised(counts)[:, columns], rtol=0.1)


def test_logarithms_stay_as_they_are(tmp_path, refuses):
    values, obs = write(tmp_path / "cells.h5ad", log=True)
    cells = open_cells([tmp_path / "cells.h5ad"], PrepareOptions(already_normalised=True))
    with GatheredCells(cells.stream, cells.layout, log_input=True) as held:
        own = held.group([0])
        chosen = ((obs["perturbation"] == "P0") & (obs["cell_line"] == "x") & (obs["batch"] == "b1")).to_numpy()
        assert cells.layout.pert_ids[0] == "P0" and cells.layout.contexts[0] == "x"
        np.testing.assert_array_equal(as_set(dense(own, 30)[: own.batch_start[1]]), as_set(values[chosen]))
        holds_all(held, cells.layout, values, obs)
    refuses(["not raw counts", "--already-normalised"], GatheredCells, cells.stream, cells.layout)


@pytest.mark.parametrize("files", [False, True])
def test_nothing_is_left_after_an_error(tmp_path, temporary, tight, refuses, files):
    counts, _ = write(tmp_path / "cells.h5ad", break_at=444)
    cells = open_cells([tmp_path / "cells.h5ad"])
    there = []
    refuses(
        ["'c444'", "'g3' has 0.5"], GatheredCells, cells.stream, cells.layout, chunk_values=300, n_jobs=2,
        memory=tight(500, size(counts) if files else 10**9), progress=lambda *at: there.append(len(list(temporary.iterdir()))),
    )  # fmt: skip
    assert set(there) == {int(files)} and len(there) > 5
    assert not list(temporary.iterdir())


def test_nothing_is_left_after_a_stop(tmp_path, temporary, tight):
    counts, _ = write(tmp_path / "cells.h5ad")
    cells = open_cells([tmp_path / "cells.h5ad"])

    def stop(done, total):
        assert list(temporary.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GatheredCells(cells.stream, cells.layout, memory=tight(500, size(counts)), chunk_values=300, progress=stop)
    assert not list(temporary.iterdir())

    def use():
        with GatheredCells(cells.stream, cells.layout, memory=tight(500, size(counts))) as held:
            held.group([0])
            assert list(temporary.iterdir())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert not list(temporary.iterdir())


def test_too_little_memory(tmp_path, temporary, tight, refuses):
    write(tmp_path / "cells.h5ad")
    cells = open_cells([tmp_path / "cells.h5ad"])
    refuses(["--memory", "too little"], GatheredCells, cells.stream, cells.layout, memory=tight(500, -20_000))
    assert not list(temporary.iterdir())


def test_control_cells_that_do_not_fit_the_memory(tmp_path, tight, refuses):
    counts, obs = write(tmp_path / "cells.h5ad")
    controls = int(
        counts[((obs["perturbation"] == "control") & (obs["cell_line"] == "x")).to_numpy()].astype(bool).sum()
    )
    cells = open_cells([tmp_path / "cells.h5ad"])
    refuses(["--memory", "control"], GatheredCells, cells.stream, cells.layout, memory=tight(500, controls * 4 - 3000))

"""Deposits in a format of their own: turned into h5ad, with memory that does not grow with the number of counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panmodal._files import atomic_path
from panmodal._tables import require_exists
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

LINES = 5_000_000
"""Lines of a table of counts read at a time."""
NEEDED = ("cell_type", "product_name", "dose", "plate_oligo")


def convert_sciplex3(matrix: Path, cells: Path, genes: Path, out: Path, *, lines: int = LINES) -> None:
    """Turn the deposit GSM4150378 into an h5ad.

    Parameters
    ----------
    matrix
        Lines of gene, cell and count, separated by tabs; numbers start at 1, in any order.
    cells
        Annotation of the cells in the order of their numbers, separated by spaces.
    genes
        Ensembl ids and symbols of the genes in the order of their numbers, separated by spaces.
    out
        h5ad to write: counts as int32 CSR, genes named by their Ensembl ids, ``var['gene_name']``.
    lines
        Lines read at a time.

    Raises
    ------
    InputError
        A file is missing or not of this format, or a number is out of range.
    """
    import anndata
    from scipy.sparse import csr_array

    obs, var = _cells(cells), _genes(genes)
    counts = np.zeros(len(obs), dtype=np.int64)
    for g, c, _ in _triplets(matrix, len(obs), len(var), lines):
        counts += np.bincount(c, minlength=len(obs))
        del g
    indptr = np.concatenate([[0], np.cumsum(counts)])
    total = int(indptr[-1])
    if total == 0:
        raise InputError(f"{matrix}: no counts in it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as folder:
        indices = np.memmap(Path(folder) / "indices", dtype=np.int32, mode="w+", shape=(total,))
        values = np.memmap(Path(folder) / "values", dtype=np.int32, mode="w+", shape=(total,))
        free = indptr[:-1].copy()
        for g, c, v in _triplets(matrix, len(obs), len(var), lines):
            order = np.argsort(c, kind="stable")
            sorted_cells = c[order]
            first = np.searchsorted(sorted_cells, sorted_cells)
            place = free[sorted_cells] + np.arange(len(c)) - first
            indices[place], values[place] = g[order], v[order]
            free += np.bincount(c, minlength=len(obs))
        made = csr_array((values, indices, indptr), shape=(len(obs), len(var)))
        with atomic_path(out) as partial:
            anndata.AnnData(made, obs=obs, var=var).write_h5ad(partial)
        del indices, values, made


def _triplets(
    matrix: Path, n_cells: int, n_genes: int, lines: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    import pandas as pd

    try:
        reader = pd.read_csv(
            require_exists(matrix),
            sep="\t",
            header=None,
            names=["gene", "cell", "count"],
            dtype=np.int32,
            chunksize=lines,
        )
        for chunk in reader:
            gene, cell, count = (chunk[k].to_numpy() for k in ("gene", "cell", "count"))
            for what, number, most in (("gene", gene, n_genes), ("cell", cell, n_cells)):
                if number.min() < 1 or number.max() > most:
                    raise InputError(
                        f"{matrix}: holds {what} {int(number.max())}, but there are {most} of them (from 1)."
                    )
            yield gene - 1, cell - 1, count
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{matrix}: cannot be read as lines of gene, cell and count ({error}). Is it complete?"
        ) from error


def _cells(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(require_exists(path), sep=" ", low_memory=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table of cells ({error}). Is it complete?") from error
    missing = [c for c in NEEDED if c not in frame]
    if missing:
        raise InputError(f"{path}: no column {some(missing)}; there are {some(frame.columns, 30)}.")
    names = frame.get("cell", frame.index)
    kept = [c for c in (*NEEDED, "replicate", "culture_plate", "time_point", "n.umi") if c in frame]
    obs = frame[kept].copy()
    obs.index = pd.Index([str(n) for n in names])
    for column in obs.columns:
        if obs[column].dtype == object:
            obs[column] = obs[column].astype("category")
    return obs


def _genes(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(require_exists(path), sep=" ", header=0, names=["id", "gene_name"], dtype=str)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table of genes ({error}). Is it complete?") from error
    return pd.DataFrame({"gene_name": frame["gene_name"].to_numpy()}, index=pd.Index(frame["id"].tolist()))

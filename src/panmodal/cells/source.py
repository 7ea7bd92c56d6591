"""Counts of cells on disk, read a chunk of cells at a time whatever the file's format."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from panmodal._tables import require_exists, suffix
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
BYTES_PER_VALUE = 8
"""Of a non-zero value held in memory: float32 value and int32 gene."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive cells in compressed rows.

    Attributes
    ----------
    start
        Number of the first cell.
    indptr, genes, values
        CSR: cell ``start + k`` has ``values[indptr[k]:indptr[k + 1]]`` (float32 or int32) at ``genes[...]`` (int32).
    """

    start: int
    indptr: NDArray[np.int64]
    genes: NDArray[np.int32]
    values: NDArray[np.float32] | NDArray[np.int32]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1


class CountSource:
    """One file of cells: its annotation at once, its matrix by chunks.

    Attributes
    ----------
    path
        The file.
    obs
        Annotation of the cells, index = cell names.
    genes
        Names of the columns.
    row_nnz
        Stored values of each cell; None where the format does not tell before reading.
    notes
        What was left out or chosen in reading.
    """

    path: Path
    obs: pd.DataFrame
    genes: list[str]
    row_nnz: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    _handle: Any = None

    def chunks(self, max_values: int) -> Iterator[Chunk]:
        """Yield all cells in order, at most about ``max_values`` stored values at a time (never less than one cell)."""
        raise NotImplementedError

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.obs)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            with suppress(Exception):
                self._handle.close()


class CsrSource(CountSource):
    """Compressed rows in HDF5 or zarr: ``data``, ``indices`` and ``indptr`` that can be sliced.

    Parameters
    ----------
    kept_genes
        Columns to be kept (sorted numbers); all unless given. Values of other columns are not counts of genes
        (antibody or guide capture).
    """

    def __init__(self, path: Path, group: Any, obs: pd.DataFrame, genes: list[str], *, handle: Any = None,
                 kept_genes: NDArray[np.intp] | None = None, notes: Sequence[str] = ()) -> None:  # fmt: skip
        self.path, self.obs, self.notes, self._handle = path, obs, tuple(notes), handle
        self._data, self._indices, self._indptr = compressed(path, group)
        self.width = len(genes)
        self._column: NDArray[np.int32] | None = None
        self.genes = genes
        if kept_genes is not None:
            self._column = kept_columns(len(genes), kept_genes)
            self.genes = [genes[k] for k in kept_genes]
        if len(self._indptr) - 1 != len(obs):
            raise InputError(
                f"{path}: the matrix has {len(self._indptr) - 1} cells but there are {len(obs)} annotated cells."
            )
        self.row_nnz = np.diff(self._indptr)

    def chunks(self, max_values: int) -> Iterator[Chunk]:
        """Yield all cells in order."""
        for start, stop in spans(self._indptr, max_values):
            low, high = int(self._indptr[start]), int(self._indptr[stop])
            values, genes = (
                part(a, low, high, self.path, f"cells {start + 1} to {stop}") for a in (self._data, self._indices)
            )
            if len(genes) and (int(genes.max()) >= self.width or int(genes.min()) < 0):
                raise InputError(f"{self.path}: a value is stored for gene number {int(genes.max()) + 1}, but there are "
                                 f"{self.width} genes. Is the file damaged?")  # fmt: skip
            indptr = self._indptr[start : stop + 1] - low
            values = single(values, self.path)
            if self._column is not None:
                column = self._column[genes]
                keep = column >= 0
                indptr = np.concatenate([[0], np.cumsum(keep)])[indptr]
                genes, values = column[keep], values[keep]
            yield Chunk(start, indptr.astype(np.int64, copy=False), genes.astype(np.int32, copy=False), values)


class DenseSource(CountSource):
    """A dense matrix, cells x genes."""

    def __init__(self, path: Path, matrix: Any, obs: pd.DataFrame, genes: list[str], *, handle: Any = None) -> None:
        self.path, self.obs, self.genes, self._matrix, self._handle = path, obs, genes, matrix, handle
        if tuple(matrix.shape) != (len(obs), len(genes)):
            raise InputError(
                f"{path}: the matrix is {matrix.shape}, but there are {len(obs)} cells and {len(genes)} genes."
            )
        if np.dtype(matrix.dtype).kind not in "fiub":
            raise InputError(f"{path}: the matrix holds {matrix.dtype}, not numbers.")

    def chunks(self, max_values: int) -> Iterator[Chunk]:
        """Yield all cells in order; zeros are left out."""
        step = max(1, max_values // max(1, len(self.genes)))
        for start in range(0, self.n_cells, step):
            dense = part(self._matrix, start, start + step, self.path, f"cells from {start + 1} on")
            rows, genes = np.nonzero(dense)
            indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))]).astype(np.int64)
            yield Chunk(start, indptr, genes.astype(np.int32), single(dense[rows, genes], self.path))


def compressed(path: Path, group: Any) -> tuple[Any, Any, NDArray[np.int64]]:
    """Return ``data``, ``indices`` and the checked ``indptr`` of a compressed matrix in HDF5 or zarr."""
    missing = [name for name in ("data", "indices", "indptr") if name not in group]
    if missing:
        raise InputError(f"{path}: the matrix has no {some(missing)}. Is the file complete?")
    data, indices = group["data"], group["indices"]
    indptr = part(group["indptr"], 0, None, path, "the index of the matrix").astype(np.int64)
    stored = int(indptr[-1]) if len(indptr) else 0
    there = min(data.shape[0], indices.shape[0])
    if there < stored or indptr[:1].any() or (np.diff(indptr) < 0).any():
        raise InputError(
            f"{path}: the matrix is damaged: {stored} values announced, {there} there. Is the file complete?"
        )
    if np.dtype(data.dtype).kind not in "fiub":
        raise InputError(f"{path}: the matrix holds {data.dtype}, not numbers.")
    return data, indices, indptr


def kept_columns(width: int, kept: NDArray[np.intp]) -> NDArray[np.int32]:
    """Return for each of ``width`` columns its number among the kept ones, -1 where it is not kept."""
    out = np.full(width, -1, dtype=np.int32)
    out[kept] = np.arange(len(kept), dtype=np.int32)
    return out


def part(array: Any, low: int, high: int | None, path: Path, what: str) -> NDArray[Any]:
    """Read a slice of an array on disk; whatever the library raises on damage is an :class:`InputError`."""
    try:
        return np.asarray(array[low:high])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {what} cannot be read ({error}). Is it complete?") from error


def single(values: NDArray[Any], path: Path, *, keep_int: bool = True) -> NDArray[np.float32] | NDArray[np.int32]:
    """Return values in single precision (int32 as they are); counts too large for it are refused, not rounded."""
    if keep_int and values.dtype == np.int32:
        return values
    if values.dtype.itemsize > 2 and values.dtype != np.float32 and len(values):
        largest = values.max()
        if np.isfinite(largest) and largest > 2**24:
            raise InputError(f"{path}: a count of {largest:.0f} is not a UMI or read count of one gene in one cell.")
    return values.astype(np.float32, copy=False)


def spans(indptr: NDArray[np.int64], max_values: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of at most ``max_values`` stored values, or of one row."""
    start, rows = 0, len(indptr) - 1
    while start < rows:
        stop = int(np.searchsorted(indptr, indptr[start] + max_values, side="right")) - 1
        stop = min(max(stop, start + 1), rows)
        yield start, stop
        start = stop


def prefetched(items: Iterable[T], ahead: int = 1) -> Iterator[T]:
    """Yield ``items`` while a thread fetches the next ones, so that reading and computing overlap."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            with suppress(queue.Full):
                waiting.put(entry, timeout=0.1)
                return True
        return False

    def fetch() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if more:
                yield item
                continue
            if item is not None:
                raise item
            return
    finally:
        stop.set()
        thread.join()


def open_counts(path: str | Path, *, layer: str | None = None, gene_col: str | None = None,
                table: str | Path | None = None) -> CountSource:  # fmt: skip
    """Open a file of cells.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr`` (AnnData), a 10x ``.h5``, or a folder with a 10x ``matrix.mtx``.
    layer
        ``X`` unless given; the name of a layer, or ``raw``.
    gene_col
        Column of ``var`` that names the genes; the index unless given.
    table
        Annotation of the cells (csv, tsv, parquet; first column = cell names) for formats without one, or in addition.

    Raises
    ------
    InputError
        Not there, not readable, no such layer or column, gene names repeated.
    """
    path = require_exists(path)
    if path.is_dir() and suffix(path) != ".zarr":
        from panmodal.cells.tenx import open_mtx

        source = open_mtx(path, gene_col)
    elif suffix(path) == ".h5":
        from panmodal.cells.tenx import open_tenx_h5

        source = open_tenx_h5(path, gene_col)
    elif suffix(path) in (".h5ad", ".zarr"):
        source = _open_anndata(path, layer, gene_col)
    else:
        raise InputError(f"{path}: counts are read from .h5ad, .zarr, a 10x .h5 or a folder with a 10x matrix.mtx.")
    if layer and suffix(path) not in (".h5ad", ".zarr"):
        raise InputError(f"{path}: --layer is for h5ad and zarr; a 10x file has one matrix.")
    if source.n_cells == 0 or not source.genes:
        raise InputError(f"{path}: empty ({source.n_cells} cells, {len(source.genes)} genes).")
    names = np.asarray(source.genes, dtype=object)
    unique, counts = np.unique(names.astype(str), return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{path}: gene names {some(unique[counts > 1])} appear more than once. Take another column of var with "
            "--gene-col (such as the Ensembl ids), or make them unique."
        )
    if table is not None:
        source.obs = _annotated(source.obs, table, path)
    return source


def _open_anndata(path: Path, layer: str | None, gene_col: str | None) -> CountSource:
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    try:
        if suffix(path) == ".zarr":
            import zarr

            handle: Any = zarr.open_group(str(path), mode="r")
        else:
            import h5py

            handle = h5py.File(path, "r")
        raw = layer == "raw" and "raw/X" in handle
        place = "raw/X" if raw else f"layers/{layer.removeprefix('layers/')}" if layer and layer != "X" else "X"
        if place not in handle:
            layers = [*handle["layers"]] if "layers" in handle else []
            layers = [f"layers/{name}" if name in ("raw", "X") else name for name in layers]
            there = [*(["X"] if "X" in handle else []), *layers, *(["raw"] if "raw/X" in handle else [])]
            raise InputError(f"{path}: no matrix {layer or 'X'!r}; there are {some(there, 12)}. Choose with --layer.")
        obs, var = handle["obs"], handle["raw/var" if raw else "var"]
        if not (hasattr(obs, "keys") and hasattr(var, "keys")):
            raise InputError(
                f"{path}: written by anndata before 0.7, which kept annotation in another way. Write it again: "
                f"anndata.read_h5ad({path.name!r}).write_h5ad('new.h5ad')."
            )
        with warnings.catch_warnings():  # the layout of 2021 is read without harm
            warnings.filterwarnings("ignore", category=OldFormatWarning)
            obs, var = read_elem(obs), read_elem(var)
        matrix = handle[place]
        encoding = str(matrix.attrs.get("encoding-type", matrix.attrs.get("h5sparse_format", "")))
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as {suffix(path)[1:]} ({reason}). Is it complete?") from error
    genes = gene_names(var, gene_col, path)
    if not hasattr(matrix, "keys"):
        return DenseSource(path, matrix, obs, genes, handle=handle)
    if encoding.startswith("csr"):
        return CsrSource(path, matrix, obs, genes, handle=handle)
    if encoding.startswith("csc"):
        from panmodal.cells.transpose import CscSource

        return CscSource(path, matrix, obs, genes, handle=handle)
    raise InputError(
        f"{path}: the matrix is stored as {encoding or 'an unknown kind'!r}; write it as csr, csc or dense."
    )


def gene_names(var: pd.DataFrame, column: str | None, path: Path) -> list[str]:
    """Names of the genes: the index of ``var`` or one of its columns."""
    if column is None:
        return [str(v) for v in var.index]
    if column not in var.columns:
        raise InputError(
            f"{path}: var has no column {column!r}; it has {some(var.columns, 12)}. Give another --gene-col."
        )
    missing = np.flatnonzero(var[column].isna().to_numpy())
    if len(missing):
        raise InputError(
            f"{path}: column {column!r} of var is empty for {len(missing)} gene(s), first {var.index[missing[0]]!r}."
        )
    return [str(v) for v in var[column]]


def _annotated(obs: pd.DataFrame, table: str | Path, path: Path) -> pd.DataFrame:
    """Add the columns of a table of cells; every cell must be in it."""
    from panmodal._tables import read_frame, unique_ids

    frame = read_frame(table)
    first = frame.columns[0]
    names = frame[first].astype(str)
    unique_ids(names.tolist(), f"cell names (column {first!r})", str(table), "Keep one row for each cell.")
    frame = frame.drop(columns=first).set_axis(names, axis=0)
    missing = obs.index.astype(str).difference(frame.index)
    if len(missing):
        raise InputError(
            f"{table}: {len(missing)} of {len(obs)} cells of {path} are not in column {first!r}, such as {some(missing, 3)} "
            f"(the table has {some(frame.index[:3])}). Add them, or write the names alike."
        )
    joined = obs.copy()
    for column in frame.columns:
        joined[column] = frame[column].reindex(obs.index.astype(str)).to_numpy()
    return joined

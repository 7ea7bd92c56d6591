"""Cells of one perturbation after the other: gathered in one pass, in memory or in files of blocks of perturbations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.aggregate import CHUNK_VALUES, FIXED, GIB, HELD_CHUNKS, SMALLEST_CHUNK, Progress
from panmodal.cells.conditions import Layout
from panmodal.cells.kernels import new_report, normalise
from panmodal.cells.source import BYTES_PER_VALUE, prefetched
from panmodal.cells.stream import CellStream
from panmodal.errors import InputError

HEAD = np.dtype([("row", "<i4"), ("batch", "<i4"), ("length", "<i4")])


@dataclass(frozen=True)
class Group:
    """Cells of one row, or of all control groups of a context, sorted by batch.

    Attributes
    ----------
    indptr, genes, values
        CSR; values are log1p of counts scaled to 1e4 per cell.
    batches
        Numbers of the batches there are.
    batch_start
        First cell of each of them, and the end.
    """

    indptr: NDArray[np.int64]
    genes: NDArray[np.int32]
    values: NDArray[np.float32]
    batches: NDArray[np.int32]
    batch_start: NDArray[np.int64]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1

    def batch_of_cell(self) -> NDArray[np.int64]:
        """Position in ``batches`` of each cell."""
        return np.repeat(np.arange(len(self.batches)), np.diff(self.batch_start))


class GatheredCells:
    """Normalised cells by row; use as a context manager.

    Parameters
    ----------
    stream, layout
        The cells and where they belong. Cells of no row are not kept.
    log_input
        Values are log1p of normalised counts already.
    memory
        Bound, GiB. Cells are kept in memory if they take less than half of it, else in temporary files.
    progress
        Called with (cells read, cells to read).

    Raises
    ------
    InputError
        Values that are no counts; the control cells of one context do not fit the memory.
    """

    def __init__(self, stream: CellStream, layout: Layout, *, log_input: bool = False, memory: float = 4.0,
                 chunk_values: int | None = None, progress: Progress | None = None) -> None:  # fmt: skip
        self._layout, self._width = layout, len(stream.genes)
        room = int(memory * GIB) - FIXED - 64 * stream.n_cells
        self._bins, fits = self._plan(stream, max(room, 1))
        smallest = SMALLEST_CHUNK * BYTES_PER_VALUE * HELD_CHUNKS
        if room < 2 * smallest:
            need = (FIXED + 64 * stream.n_cells + 2 * smallest) / GIB
            raise InputError(f"--memory {memory:g} GiB is too little: at least {need:.2g} GiB are needed for the annotation and "
                             "one chunk of cells.")  # fmt: skip
        values = chunk_values or min(CHUNK_VALUES, max(SMALLEST_CHUNK, room // 4 // (BYTES_PER_VALUE * HELD_CHUNKS)))
        self._folder = (
            None if fits else tempfile.TemporaryDirectory(prefix="panmodal-cells-", ignore_cleanup_errors=True)
        )
        n_bins = int(self._bins.max()) + 1
        self._held: list[list[tuple[NDArray, NDArray, NDArray]]] = [[] for _ in range(n_bins)]
        self.in_memory = fits
        self._loaded: dict[int, tuple[NDArray, NDArray, NDArray, NDArray]] = {}
        try:
            for chunk, file in prefetched(stream.chunks(values)):
                span = slice(chunk.start, chunk.start + chunk.n_cells)
                report = new_report()
                scaled = np.empty(len(chunk.values), dtype=np.float32)
                normalise(chunk.indptr, chunk.values, scaled, log_input, report)
                stream.refuse_odd(report, chunk, file, log_input)
                self._add(
                    chunk.indptr, stream.gene_maps[file][chunk.genes], scaled, layout.row[span], layout.batch[span]
                )
                if progress:
                    progress(chunk.start + chunk.n_cells, stream.n_cells)
        except BaseException:
            self.close()
            raise

    def _plan(self, stream: CellStream, room: int) -> tuple[NDArray[np.int32], bool]:
        """Deal rows into bins that fit a quarter of the memory each; the control groups of a context share a bin."""
        layout = self._layout
        used = layout.row >= 0
        nnz = stream.row_nnz
        weight = np.full(len(layout.row), float(self._width)) if nnz is None else nnz.astype(float)
        sizes = np.bincount(layout.row[used], weights=weight[used], minlength=layout.n_groups) * BYTES_PER_VALUE
        if nnz is not None and sizes.sum() < room / 2:
            return np.zeros(layout.n_groups, dtype=np.int32), True
        bins = np.zeros(layout.n_groups, dtype=np.int32)
        number = 0
        for context in dict.fromkeys(layout.control_contexts):
            bins[layout.n_rows + layout.controls_of(context)] = number
            number += 1
        held, context = 0.0, layout.contexts[0]
        for r in range(layout.n_rows):
            if held and (held + sizes[r] > room / 4 or layout.contexts[r] != context):
                number, held = number + 1, 0.0
            bins[r], held, context = number, held + sizes[r], layout.contexts[r]
        return bins, False

    def _add(self, indptr: NDArray, genes: NDArray, values: NDArray, row: NDArray, batch: NDArray) -> None:
        length = np.diff(indptr)
        keep = genes >= 0
        cell = np.repeat(np.arange(len(row)), length)
        keep &= row[cell] >= 0
        where = np.where(row >= 0, self._bins[row], -1)
        if not keep.all():
            genes, values, cell = genes[keep], values[keep], cell[keep]
        length = np.bincount(cell, minlength=len(row)).astype(np.int32)
        dtype = np.uint16 if self._width <= 2**16 else np.int32
        heads = np.empty(len(row), dtype=HEAD)
        heads["row"], heads["batch"], heads["length"] = row, batch, length
        of_value = where[cell]
        for number in np.unique(where[where >= 0]).tolist():
            here = of_value == number
            part = (heads[where == number], genes[here].astype(dtype), values[here])
            if self._folder is None:
                self._held[number].append(part)
                continue
            for name, array in zip(("heads", "genes", "values"), part, strict=True):
                with (Path(self._folder.name) / f"{number}.{name}").open("ab") as stream:
                    array.tofile(stream)

    def _load(self, number: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Return the cells of a bin: heads sorted by row and batch, where their values begin, genes and values in file order."""
        if number in self._loaded:
            return self._loaded[number]
        if self._folder is None:
            parts = self._held[number]
            heads, genes, values = (np.concatenate([p[k] for p in parts]) for k in range(3))
            self._held[number] = []
        else:
            self._loaded.clear()
            folder = Path(self._folder.name)
            dtype = np.uint16 if self._width <= 2**16 else np.int32
            heads = np.fromfile(folder / f"{number}.heads", dtype=HEAD)
            genes = np.fromfile(folder / f"{number}.genes", dtype=dtype)
            values = np.fromfile(folder / f"{number}.values", dtype=np.float32)
        begins = np.concatenate([[0], np.cumsum(heads["length"], dtype=np.int64)])[:-1]
        order = np.lexsort((heads["batch"], heads["row"]))
        self._loaded[number] = (heads[order], begins[order], genes, values)
        return self._loaded[number]

    def group(self, rows: Sequence[int]) -> Group:
        """Return the cells of a row, or of the control groups of one context."""
        heads, begins, genes, values = self._load(int(self._bins[rows[0]]))
        low = np.searchsorted(heads["row"], min(rows), side="left")
        high = np.searchsorted(heads["row"], max(rows), side="right")
        own, begin = heads[low:high], begins[low:high]
        # Control groups are numbered by batch within a context; a row has its cells sorted by batch already.
        length = own["length"].astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum(length)])
        take = np.repeat(begin - indptr[:-1], length) + np.arange(indptr[-1])
        batches, counts = np.unique(own["batch"], return_counts=True)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Group(indptr, genes[take].astype(np.int32), values[take], batches.astype(np.int32), start)

    def by_bin(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Yield rows in runs that lie in one bin."""
        run: list[int] = []
        for r in rows:
            if run and self._bins[r] != self._bins[run[0]]:
                yield run
                run = []
            run.append(r)
        if run:
            yield run

    def close(self) -> None:
        """Let go of the memory and the temporary files."""
        self._held, self._loaded = [], {}
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> GatheredCells:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

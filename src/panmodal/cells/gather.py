"""Cells of one perturbation after the other: put in place in one pass, in memory or in a temporary file."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal.cells.aggregate import CHUNK_VALUES, FIXED, GIB, HELD_CHUNKS, SMALLEST_CHUNK, gib
from panmodal.cells.conditions import Layout
from panmodal.cells.kernels import new_report, place_cells
from panmodal.cells.source import BYTES_PER_VALUE, prefetched
from panmodal.cells.stream import CellStream
from panmodal.errors import InputError, StoreError


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

    Every cell has its place, sorted by row and batch, before anything is read; one pass over the file fills the places.

    Parameters
    ----------
    stream, layout
        The cells and where they belong. Cells of no row are not kept.
    log_input
        Values are log1p of normalised counts already.
    memory
        Bound, GiB. Cells that take more than half of it go into a temporary file.
    n_jobs
        Threads.
    chunk_values
        Stored values read at a time; chosen by the memory unless given.
    progress
        Called with (cells read, cells to read).

    Raises
    ------
    InputError
        Values that are no counts; too little memory for one chunk or for the control cells of a context.
    """

    def __init__(self, stream: CellStream, layout: Layout, *, log_input: bool = False, memory: float = 4.0, n_jobs: int = 1,
                 chunk_values: int | None = None, progress: Progress | None = None) -> None:  # fmt: skip
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._maps: list[Any] = []
        counts = stream.row_nnz
        if counts is None:
            counts = np.concatenate([np.diff(c.indptr) for c, _ in stream.chunks(CHUNK_VALUES)])
        used = np.flatnonzero(layout.row >= 0)
        order = used[np.lexsort((layout.batch[used], layout.row[used]))]
        self._row, self._batch = layout.row[order], layout.batch[order]
        self._begin = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
        self._length = np.zeros(len(order), dtype=np.int32)
        place = np.full(len(layout.row), -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        try:
            chunk = self._plan(stream, layout, memory, chunk_values)
            self._fill(stream, place, log_input, chunk, n_jobs, progress)
        except BaseException:
            self.close()
            raise

    def _plan(self, stream: CellStream, layout: Layout, memory: float, chunk_values: int | None) -> int:
        """Decide where the cells are kept and how many values are read at a time."""
        stored = int(self._begin[-1])
        # A control group is used at once, together with copies of its indices.
        controls = max(
            (self._size(layout.n_rows + layout.controls_of(c)) for c in set(layout.control_contexts)), default=0
        )
        fixed = FIXED + 96 * stream.n_cells
        largest = max(SMALLEST_CHUNK, *(len(s.genes) for s in stream.sources)) * BYTES_PER_VALUE * HELD_CHUNKS
        free = int(memory * GIB) - fixed
        controls += controls // 4  # and their weights
        if free < largest + controls:
            need = gib(fixed + largest + controls)
            raise InputError(f"--memory {memory:g} GiB is too little: the annotation, one chunk and the control cells of one context "
                             f"need {need} GiB.")  # fmt: skip
        self.in_memory = stored * BYTES_PER_VALUE <= free / 2
        if self.in_memory:
            self._genes: NDArray[np.int32] = np.empty(stored, dtype=np.int32)
            self._values: NDArray[np.float32] = np.empty(stored, dtype=np.float32)
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="panmodal-cells-", ignore_cleanup_errors=True)
            self._genes, self._values = (
                self._file(name, dtype, stored) for name, dtype in (("genes", np.int32), ("values", np.float32))
            )
        return chunk_values or min(CHUNK_VALUES, max(SMALLEST_CHUNK, free // 4 // (BYTES_PER_VALUE * HELD_CHUNKS)))

    def _size(self, rows: NDArray[np.intp]) -> int:
        low, high = np.searchsorted(self._row, [rows.min(), rows.max() + 1])
        return int(self._begin[high] - self._begin[low]) * BYTES_PER_VALUE

    def _file(self, name: str, dtype: type, size: int) -> Any:
        assert self._folder is not None
        path = Path(self._folder.name) / name
        total = max(1, size) * np.dtype(dtype).itemsize
        try:
            with path.open("wb") as stream:
                # Real blocks, so that a full disk is an error here and not a crash of a write to the map.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, total)
                else:
                    stream.truncate(total)
        except OSError as error:
            raise StoreError(
                f"{path.parent}: no room for {gib(total)} GiB of sorted cells ({error.strerror or error}). Free some space, name "
                "another folder with the environment variable TMPDIR, or give more --memory."
            ) from error
        array = np.memmap(path, dtype=dtype, mode="r+", shape=(max(1, size),))
        self._maps.append(array)
        return array

    def _release(self) -> None:
        """Let go of mapped pages, which would count as this process's memory; their content stays in the file."""
        for array in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)

    def _fill(self, stream: CellStream, place: NDArray[np.int64], log_input: bool, chunk_values: int, n_jobs: int,
              progress: Progress | None) -> None:  # fmt: skip
        with ThreadPoolExecutor(n_jobs) as pool:
            for chunk, file in prefetched(stream.chunks(chunk_values)):
                own = place[chunk.start : chunk.start + chunk.n_cells]
                bounds = np.linspace(0, chunk.n_cells, n_jobs + 1).astype(int)
                reports = [new_report() for _ in range(n_jobs)]
                work = [
                    pool.submit(place_cells, chunk.indptr, chunk.genes, chunk.values, bounds[k], bounds[k + 1], own,
                                stream.gene_maps[file], log_input, self._begin, self._genes, self._values, self._length, reports[k])
                    for k in range(n_jobs)
                ]  # fmt: skip
                for job in work:
                    job.result()
                for report in reports:
                    stream.refuse_odd(report, chunk, file, log_input)
                self._release()
                if progress:
                    progress(chunk.start + chunk.n_cells, stream.n_cells)

    def group(self, rows: Sequence[int]) -> Group:
        """Return the cells of a row, or of consecutive rows of one context (its control groups), sorted by batch."""
        low, high = np.searchsorted(self._row, [min(rows), max(rows) + 1])
        length = self._length[low:high].astype(np.int64)
        begin = self._begin[low:high]
        indptr = np.concatenate([[0], np.cumsum(length)])
        first, last = int(begin[0]), int(self._begin[high])
        if last - first == indptr[-1]:
            genes, values = np.asarray(self._genes[first:last]), np.asarray(self._values[first:last])
        else:  # genes were left out: cells have gaps behind them
            take = np.repeat(begin - indptr[:-1], length) + np.arange(indptr[-1])
            genes, values = np.asarray(self._genes[take]), np.asarray(self._values[take])
        if self._maps:
            genes, values = genes.copy(), values.copy()
            self._release()
        batches, counts = np.unique(self._batch[low:high], return_counts=True)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Group(indptr, genes, values, batches.astype(np.int32), start)

    def close(self) -> None:
        """Let go of the memory and the temporary files."""
        self._maps = []
        self._genes, self._values = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> GatheredCells:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

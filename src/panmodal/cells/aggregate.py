"""One pass over the cells: weighted means and moments of all groups, in bounded memory."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal.cells.conditions import Layout
from panmodal.cells.kernels import AT_CELL, EMPTY, add_cells, new_report
from panmodal.cells.source import BYTES_PER_VALUE, prefetched
from panmodal.cells.stream import CellStream
from panmodal.errors import InputError
from panmodal.perturbation_ids import parts

if TYPE_CHECKING:
    from panmodal.identifiers import Match

GIB = 2**30
CHUNK_VALUES = 2**23
"""Stored values of a chunk unless memory is short: large enough that the work outweighs the call."""
SMALLEST_CHUNK = 2**16
HELD_CHUNKS = 5
"""A chunk in use, one waiting, one being read, and the copies made in reading."""
FIXED = int(0.4 * GIB)
"""What the interpreter and the libraries take, bytes."""


@dataclass(frozen=True)
class MomentGroups:
    """Groups of cells whose sums and squares are kept for tests, sorted by row.

    Attributes
    ----------
    group
        For each cell its group, -1: none.
    row, batch
        Row (or control group) of each group, and its batch; -1: all batches together.
    n
        Cells of each group.
    """

    group: NDArray[np.int32]
    row: NDArray[np.int64]
    batch: NDArray[np.int64]
    n: NDArray[np.int64]


@dataclass(frozen=True)
class ControlSums:
    """Of each control group (context, batch): mean, sum and sum of squares over its cells (groups x genes).

    ``linear`` is the mean of 1e4 x / total of the target genes (groups x slots).
    """

    mean: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    linear: NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Sums of consecutive rows.

    Attributes
    ----------
    start, stop
        The rows.
    mean
        rows x genes: mean of log-normalised values, batches of a row with equal weight.
    groups
        Numbers of the moment groups of these rows.
    first, second
        Sums and sums of squares of these groups.
    own
        rows x parts: mean of 1e4 x / total of the row's target genes.
    targets
        rows x parts: slot of the target gene in ``controls.linear``, -1 where it is not measured.
    controls
        The control groups.
    empty
        Cells of these rows (with the first block, of the controls too) without any count.
    """

    start: int
    stop: int
    mean: NDArray[np.float64]
    groups: NDArray[np.intp]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    own: NDArray[np.float64]
    targets: NDArray[np.int32]
    controls: ControlSums
    empty: int


def moment_groups(layout: Layout, test: str) -> MomentGroups:
    """Return the groups for the DEG test: ``pooled`` (rows), ``vote`` (row and batch) or ``none``.

    Control groups are by batch always.
    """
    if test == "none":
        none = np.zeros(0, dtype=np.int64)
        return MomentGroups(np.full(len(layout.row), -1, dtype=np.int32), none, none, none)
    if test == "pooled":
        every = np.arange(layout.n_groups, dtype=np.int64)
        return MomentGroups(layout.row, every, np.full(len(every), -1, dtype=np.int64), layout.counts())
    row, batch, n = (layout.groups[c].to_numpy(np.int64) for c in ("row", "batch", "n"))
    return MomentGroups(layout.group_of_cell(), row, batch, n)


def plan_memory(
    stream: CellStream, layout: Layout, groups: MomentGroups, memory: float, result_bytes: int = 5
) -> tuple[int, list[int]]:
    """Divide the memory: stored values of a chunk, and the bounds of the blocks of rows that are summed in one pass each.

    Raises
    ------
    InputError
        Too little memory for one chunk and one row.
    """
    width = len(stream.genes)
    per_group = (
        np.bincount(groups.row, minlength=layout.n_groups) if len(groups.row) else np.zeros(layout.n_groups, dtype=int)
    )
    row_bytes = (8 + 16 * per_group) * width
    annotation = stream.n_cells * 64
    fixed = FIXED + annotation + int(row_bytes[layout.n_rows :].sum()) + result_bytes * layout.n_rows * width
    stored = stream.row_nnz
    largest_cell = max(len(s.genes) for s in stream.sources) if stored is None else int(stored.max(initial=1))
    smallest = max(SMALLEST_CHUNK, largest_cell) * BYTES_PER_VALUE * HELD_CHUNKS
    free = int(memory * GIB) - fixed
    need = smallest + int(row_bytes[: layout.n_rows].max())
    if free < need:
        raise InputError(
            f"--memory {memory:g} GiB is too little: annotation, control groups, results and one chunk of cells need "
            f"{gib(fixed + need)} GiB ({layout.n_rows} rows x {width} genes). Give more, or fewer --contexts or genes."
        )
    chunk = min(CHUNK_VALUES * BYTES_PER_VALUE * HELD_CHUNKS, max(smallest, free // 3))
    room = free - chunk
    bounds, held = [0], 0
    for r in range(layout.n_rows):
        if held + row_bytes[r] > room and held:
            bounds.append(r)
            held = 0
        held += int(row_bytes[r])
    return chunk // (BYTES_PER_VALUE * HELD_CHUNKS), [*bounds, layout.n_rows]


def aggregate(
    stream: CellStream, layout: Layout, groups: MomentGroups, *, log_input: bool = False, memory: float = 4.0,
    n_jobs: int | None = None, chunk_values: int | None = None, progress: Progress | None = None,
) -> Iterator[Block]:  # fmt: skip
    """Average cells by group; yield blocks of rows, one for each pass over the cells (one pass unless memory is short).

    Parameters
    ----------
    stream
        The cells.
    layout, groups
        Which cell belongs where.
    log_input
        Values are log1p of counts scaled to 1e4 per cell already.
    memory
        Bound on the process's memory, GiB.
    n_jobs
        Threads; as many as cores unless given.
    chunk_values
        Stored values of a chunk; chosen by the memory unless given.
    progress
        Called with (cells done, cells to do), over all passes.

    Raises
    ------
    InputError
        Values that are no counts; too little memory for one chunk and one row.
    """
    n_jobs = threads(n_jobs)
    width, n_rows, n_controls = len(stream.genes), layout.n_rows, layout.n_groups - layout.n_rows
    chosen, bounds = plan_memory(stream, layout, groups, memory)
    slots, targets = _targets(stream, layout)
    n_slots = int(targets.max(initial=-1)) + 1
    weight, cells = layout.weights(), layout.counts()
    control_group = np.flatnonzero(groups.row >= n_rows)
    tests = len(groups.row) > 0
    controls = ControlSums(np.zeros((n_controls, width)), np.zeros((len(control_group), width)), np.zeros((len(control_group), width)),
                           np.zeros((n_controls, n_slots)))  # fmt: skip
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        own_groups = np.flatnonzero((groups.row >= start) & (groups.row < stop))
        size = stop - start
        # The control groups are summed in the first pass, below the rows of its block.
        extra = n_controls if number == 0 else 0
        mean = np.zeros((size + extra, width))
        moments = [np.zeros((len(own_groups) + (len(control_group) if number == 0 else 0), width)) for _ in range(2)]
        own = np.zeros((size + extra, targets.shape[1]))
        local = np.full(layout.n_groups + 1, -1, dtype=np.int32)
        local[start:stop] = np.arange(size)
        local_group = np.full(len(groups.row) + 1, -1, dtype=np.int32)
        local_group[own_groups] = np.arange(len(own_groups))
        if number == 0:
            local[n_rows : layout.n_groups] = size + np.arange(n_controls)
            local_group[control_group] = len(own_groups) + np.arange(len(control_group))
        row = local[layout.row]
        group = local_group[groups.group] if tests else groups.group
        block_slots = np.concatenate([targets[start:stop], np.full((extra, targets.shape[1]), -1, dtype=np.int32)])
        numbers = [_genes_of_slots(slot, n_slots)[block_slots] for slot in slots]
        owner = _owners(np.concatenate([cells[start:stop], cells[n_rows:] if number == 0 else cells[:0]]), n_jobs)
        empty = 0
        with ThreadPoolExecutor(n_jobs) as pool:
            for chunk, file in prefetched(stream.chunks(chunk_values or chosen)):
                span = slice(chunk.start, chunk.start + chunk.n_cells)
                reports = [new_report() for _ in range(n_jobs)]
                own_row = row[span]
                # Stable: the cells of a row are added in the order of the file.
                order = np.argsort(own_row, kind="stable")
                order = order[np.searchsorted(own_row[order], 0) :]
                owned = owner[own_row[order]]
                work = [
                    pool.submit(add_cells, chunk.indptr, chunk.genes, chunk.values, order[owned == k], own_row, group[span],
                                weight[span], stream.gene_maps[file], log_input, mean, moments[0], moments[1], own, numbers[file],
                                slots[file], controls.linear, size, reports[k])
                    for k in range(n_jobs)
                ]  # fmt: skip
                for job in work:
                    job.result()
                # The first odd value of the file decides what is said, whichever thread met it.
                for report in sorted(reports, key=lambda r: r[AT_CELL] if r[AT_CELL] >= 0 else np.inf):
                    stream.refuse_odd(report, chunk, file, log_input)
                    empty += int(report[EMPTY])
                if progress:
                    progress(number * stream.n_cells + chunk.start + chunk.n_cells, (len(bounds) - 1) * stream.n_cells)
        if number == 0:
            controls.mean[:] = mean[size:]
            controls.first[:], controls.second[:] = (m[len(own_groups) :] for m in moments)
        yield Block(start, stop, mean[:size], own_groups, moments[0][: len(own_groups)], moments[1][: len(own_groups)], own[:size],
                    targets[start:stop], controls, empty)  # fmt: skip


def gib(size: float) -> str:
    """Write a number of bytes in GiB, rounded up, so that what is asked for is enough."""
    return f"{math.ceil(100 * size / GIB) / 100:.2f}"


def threads(n_jobs: int | None) -> int:
    """Return a number of threads: as many as cores unless given."""
    if n_jobs is not None and n_jobs < 1:
        raise InputError(f"n_jobs is {n_jobs}; it must be at least 1.")
    return n_jobs or os.cpu_count() or 1


def target_match(stream: CellStream, layout: Layout) -> Match:
    """Find the target genes of the perturbations among the measured genes, under other names too (``MARCH1`` is ``MARCHF1``)."""
    from panmodal.identifiers import match_ids

    return match_ids(sorted({t for p in layout.pert_ids for t in parts(p)}), list(stream.measured))


def _targets(stream: CellStream, layout: Layout) -> tuple[list[NDArray[np.int32]], NDArray[np.int32]]:
    """Slots of the genes of each file that are targets of a perturbation (kept or not), and of each row's targets.

    -1: no target; not measured.
    """
    names = [parts(p) for p in layout.pert_ids]
    found = target_match(stream, layout).pairs
    hit = set(found.values())
    slot = {g: k for k, g in enumerate(g for g in stream.measured if g in hit)}
    out = np.full((layout.n_rows, max(len(row) for row in names)), -1, dtype=np.int32)
    for r, row in enumerate(names):
        out[r, : len(row)] = [slot.get(found.get(name, ""), -1) for name in row]
    return stream.columns_of(list(slot)), out


def _genes_of_slots(slot: NDArray[np.int32], n_slots: int) -> NDArray[np.int32]:
    """Return the number in a file of the gene of each slot; the last entry (slot -1) is -1."""
    out = np.full(n_slots + 1, -1, dtype=np.int32)
    there = np.flatnonzero(slot >= 0)
    out[slot[there]] = there
    return out


def _owners(cells: NDArray[np.int64], n_jobs: int) -> NDArray[np.int64]:
    """Deal rows to threads so that each has about as many cells, the largest first."""
    owner = np.zeros(len(cells), dtype=np.int64)
    load = np.zeros(n_jobs)
    for r in np.argsort(-cells, kind="stable"):
        k = int(np.argmin(load))
        owner[r] = k
        load[k] += cells[r]
    return owner

"""The inner loops over the stored values of cells, compiled.

Every sum is added up cell by cell in the order of the file, and a row of a result belongs to one thread, so that results are
the same bits for any chunk size and any number of threads.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")

TABLE = 1024
"""Cells whose counts are all below this have their logarithms looked up in a table of the cell."""
AT_CELL, AT_VALUE, EMPTY, LARGEST = range(4)
"""Places in a report: chunk cell and position of the first value that is no count (-1 if none); cells without a count; the
largest value."""


def new_report() -> NDArray[np.float64]:
    """Return an empty report."""
    report = np.zeros(4)
    report[AT_CELL] = report[AT_VALUE] = -1
    return report


@compiled
def _look(indptr, values, cell, report, log_input):
    """Total and largest value of a cell; the first odd value is reported."""
    low, high = indptr[cell], indptr[cell + 1]
    total, largest, odd = 0.0, 0.0, False
    if log_input:
        for e in range(low, high):
            value = float(values[e])
            odd |= not value >= 0
            largest = max(largest, value)
            total += math.expm1(value)
    else:
        for e in range(low, high):
            value = float(values[e])
            odd |= not (value >= 0 and value == math.floor(value))
            largest = max(largest, value)
            total += value
    if odd or not math.isfinite(total):
        _report_odd(indptr, values, cell, report, log_input)
    if total == 0.0:
        report[EMPTY] += 1
    report[LARGEST] = max(report[LARGEST], largest)
    return total, largest


@compiled
def _report_odd(indptr, values, cell, report, log_input):
    # Cells are not visited in the order of the file: the first of it counts.
    if 0 <= report[AT_CELL] <= cell:
        return
    for e in range(indptr[cell], indptr[cell + 1]):
        value = float(values[e])
        if not math.isfinite(value) or value < 0 or (not log_input and value != math.floor(value)):
            report[AT_CELL] = cell
            report[AT_VALUE] = e
            return


@compiled
def _log_values(indptr, values, cell, report, log_input, table, out):
    """Write log1p(1e4 x / total) of a cell's values to ``out`` and return 1e4 / total.

    Counts are whole and mostly small: their logarithms are computed once a cell. The choice is made for the whole cell, because a
    choice for each value would be turned into computing both.
    """
    total, largest = _look(indptr, values, cell, report, log_input)
    scale = 1e4 / total if total > 0 else 0.0
    low, high = indptr[cell], indptr[cell + 1]
    if log_input:
        for e in range(low, high):
            out[e - low] = values[e]
    elif largest < len(table) and largest <= high - low and report[AT_CELL] < 0:
        for k in range(int(largest) + 1):
            table[k] = math.log1p(k * scale)
        for e in range(low, high):
            out[e - low] = table[int(values[e])]
    else:
        for e in range(low, high):
            out[e - low] = math.log1p(values[e] * scale)
    return scale


@compiled
def _longest(indptr):
    longest = 0
    for cell in range(len(indptr) - 1):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    return longest


@compiled
def place_cells(
    indptr, genes, values, low, high, place, gene_map, log_input, begin, to_genes, to_values, length, report
):
    """Write the normalised values of the cells low to high of a chunk to their places.

    ``place`` is the place of each cell of the chunk (-1: left out), ``begin`` where a place's values begin, ``length`` gets how many
    there are; genes mapped to -1 are left out, but count in the cell's total.
    """
    table, logs = np.empty(TABLE), np.empty(_longest(indptr))
    for cell in range(low, high):
        at = place[cell]
        if at < 0:
            continue
        _log_values(indptr, values, cell, report, log_input, table, logs)
        to = begin[at]
        for e in range(indptr[cell], indptr[cell + 1]):
            j = gene_map[genes[e]]
            if j >= 0:
                to_genes[to] = j
                to_values[to] = logs[e - indptr[cell]]
                to += 1
        length[at] = to - begin[at]


@compiled
def add_cells(indptr, genes, values, order, row, group, weight, gene_map, log_input, mean, first, second, own,
              row_targets, gene_slot, control_slots, n_rows, report):  # fmt: skip
    """Add cells to the sums of the rows that belong to this thread.

    Parameters
    ----------
    indptr, genes, values
        CSR of the chunk.
    order
        The cells to be added, those of a row one after the other, so that its sums stay in the cache.
    row, group, weight
        Of each cell: row of ``mean``, row of ``first`` and ``second`` (-1: none), weight in ``mean``.
    gene_map
        Column of the sums for each gene of the file, -1 for genes left out (they count in the cell's total).
    mean, first, second
        Sums of w v, v and v^2 with v = log1p(1e4 x / total).
    own
        rows x parts: weighted sum of 1e4 x / total of the row's own target genes.
    row_targets
        Numbers in the file of the row's target genes, -1: none.
    gene_slot, control_slots
        Slot of each gene of the file, -1: no target; sums of 1e4 x / total of control rows (number minus ``n_rows``) by slot.
    """
    table, logs = np.empty(TABLE), np.empty(_longest(indptr))
    every = len(gene_map) == mean.shape[1] and (gene_map == np.arange(len(gene_map))).all()
    for cell in order:
        r = row[cell]
        scale = _log_values(indptr, values, cell, report, log_input, table, logs)
        g, w = group[cell], weight[cell]
        low, high = indptr[cell], indptr[cell + 1]
        to = mean[r]
        if g < 0:
            for e in range(low, high):
                j = gene_map[genes[e]]
                if j >= 0:
                    to[j] += w * logs[e - low]
        elif every:
            one, two = first[g], second[g]
            for e in range(low, high):
                j, value = genes[e], logs[e - low]
                to[j] += w * value
                one[j] += value
                two[j] += value * value
        else:
            one, two = first[g], second[g]
            for e in range(low, high):
                j, value = gene_map[genes[e]], logs[e - low]
                if j >= 0:
                    to[j] += w * value
                    one[j] += value
                    two[j] += value * value
        if r >= n_rows:
            for e in range(low, high):
                slot = gene_slot[genes[e]]
                if slot >= 0:
                    control_slots[r - n_rows, slot] += w * (
                        math.expm1(logs[e - low]) if log_input else values[e] * scale
                    )
        else:
            for part in range(row_targets.shape[1]):
                gene = row_targets[r, part]
                if gene >= 0:
                    for e in range(low, high):
                        if genes[e] == gene:
                            own[r, part] += w * (math.expm1(logs[e - low]) if log_input else values[e] * scale)


@compiled
def add_group_sums(indptr, genes, values, order, group, first, second):
    """Add up values and squares of each group of cells; ``order`` lists the cells group by group."""
    for cell in order:
        g = group[cell]
        one, two = first[g], second[g]
        for e in range(indptr[cell], indptr[cell + 1]):
            j, value = genes[e], float(values[e])
            one[j] += value
            two[j] += value * value


@compiled
def add_draws(indptr, genes, values, weights, out):
    """Add weighted cells to all draws at once: out[j, d] += sum_c weights[c, d] v[c, j].

    ``weights`` is cells x draws and ``out`` genes x draws, so that the inner loop runs over neighbours in memory. Nothing is
    resampled: a cell drawn three times has three times the weight.
    """
    draws = weights.shape[1]
    for cell in range(len(indptr) - 1):
        w = weights[cell]
        for e in range(indptr[cell], indptr[cell + 1]):
            value = values[e]
            to = out[genes[e]]
            for d in range(draws):
                to[d] += w[d] * value


@compiled
def add_moments(indptr, genes, values, weights, first, second):
    """Add weighted values and squares: first[j, k] += w v, second[j, k] += w v^2, in double precision (see ``add_draws``)."""
    draws = weights.shape[1]
    for cell in range(len(indptr) - 1):
        w = weights[cell]
        for e in range(indptr[cell], indptr[cell + 1]):
            value = float(values[e])
            j = genes[e]
            for d in range(draws):
                part = w[d] * value
                first[j, d] += part
                second[j, d] += part * value


@compiled
def two_stage(batch_start, outer, inner, rng, weights, shares):
    """Weights of a two-stage bootstrap: batches with replacement, then the cells of each drawn batch with replacement.

    Parameters
    ----------
    batch_start
        First cell of each batch, and the end; cells are sorted by batch.
    outer, inner
        Resamplings of batches, and of cells for each of them; draw number ``o * inner + i``.
    weights
        cells x draws, zeros; gets the weight of each cell in the mean over drawn batches.
    shares
        batches x draws; gets how often a batch was drawn, over the number of batches.
    """
    n_batches = len(batch_start) - 1
    times = np.zeros(n_batches, dtype=np.int64)
    for o in range(outer):
        times[:] = 0
        for _ in range(n_batches):
            times[rng.integers(0, n_batches)] += 1
        for i in range(inner):
            d = o * inner + i
            for b in range(n_batches):
                low, size = batch_start[b], batch_start[b + 1] - batch_start[b]
                shares[b, d] = times[b] / n_batches
                for _ in range(times[b] * size):
                    weights[low + rng.integers(0, size), d] += 1.0 / (n_batches * size)


@compiled
def null_norms(indptr, genes, values, batch_start, drawn, drawn_start, weights, wanted, wanted_start, size_at, size_start, size_batch,
               n_genes, matched, out):  # fmt: skip
    """Norms of responses made of control cells only, one draw of all sizes.

    In each batch control cells are drawn with replacement, one after the other; the running mean after n cells stands for a
    perturbation with n cells there. A second resampling of all control cells of the batch is what it is compared with.

    Parameters
    ----------
    indptr, genes, values
        Control cells, normalised, sorted by batch.
    batch_start
        First cell of each batch, and the end.
    drawn, drawn_start
        Cells drawn one after the other, all batches after one another; where each batch begins, and the end.
    weights
        How often each cell is in the second resampling, over the number of cells of its batch.
    wanted, wanted_start
        Numbers of cells asked for in each batch, ascending, all batches one after the other; where each batch begins.
    size_at, size_start, size_batch
        For each response: positions in ``wanted`` of its cell numbers, where each response begins, and their batches.
    matched
        Difference within each batch rather than of the means over batches.
    out
        Norm for each response.
    """
    n_batches = len(batch_start) - 1
    snapshots = np.zeros((len(wanted), n_genes))
    controls = np.zeros((n_batches, n_genes))
    running = np.zeros(n_genes)
    for b in range(n_batches):
        running[:] = 0.0
        done = 0
        for k in range(wanted_start[b], wanted_start[b + 1]):
            while done < wanted[k]:
                cell = drawn[drawn_start[b] + done]
                for e in range(indptr[cell], indptr[cell + 1]):
                    running[genes[e]] += values[e]
                done += 1
            for j in range(n_genes):
                snapshots[k, j] = running[j] / done
        for cell in range(batch_start[b], batch_start[b + 1]):
            if weights[cell] > 0:
                for e in range(indptr[cell], indptr[cell + 1]):
                    controls[b, genes[e]] += weights[cell] * values[e]
    overall = np.zeros(n_genes)
    for b in range(n_batches):
        overall += controls[b] / n_batches
    for r in range(len(out)):
        parts = size_start[r + 1] - size_start[r]
        total = 0.0
        for j in range(n_genes):
            value = 0.0
            for k in range(size_start[r], size_start[r + 1]):
                value += snapshots[size_at[k], j]
                if matched:
                    value -= controls[size_batch[k], j]
            value /= parts
            if not matched:
                value -= overall[j]
            total += value * value
        out[r] = math.sqrt(total)

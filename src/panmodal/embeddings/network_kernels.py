"""The inner loops over networks, compiled.

Every result depends on the graph and the seed only: each column block, walk and row is the work of one thread.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
# Sums of single-precision terms may be re-ordered: of non-negative terms every order is as exact.
reordered = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})

u8 = np.uint64


@reordered
def sparse_times_dense(indptr: Any, indices: Any, data: Any, x: Any, out: Any) -> None:
    """Write the product of a sparse matrix (CSR) and a dense one of few columns into ``out``, four neighbours at a time."""
    columns = x.shape[1]
    for i in range(len(indptr) - 1):
        row = out[i]
        for k in range(columns):
            row[k] = 0
        e, end = indptr[i], indptr[i + 1]
        while e + 4 <= end:
            w0, w1, w2, w3 = data[e], data[e + 1], data[e + 2], data[e + 3]
            x0, x1, x2, x3 = x[indices[e]], x[indices[e + 1]], x[indices[e + 2]], x[indices[e + 3]]
            for k in range(columns):
                row[k] += w0 * x0[k] + w1 * x1[k] + w2 * x2[k] + w3 * x3[k]
            e += 4
        while e < end:
            w, other = data[e], x[indices[e]]
            for k in range(columns):
                row[k] += w * other[k]
            e += 1


@compiled
def _next(state: Any) -> Any:
    """Return the next state and 64 random bits of it: SplitMix64 (Steele, Lea and Flood 2014)."""
    state = state + u8(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> u8(30))) * u8(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u8(27))) * u8(0x94D049BB133111EB)
    return state, z ^ (z >> u8(31))


@compiled
def _uniform(bits: Any) -> float:
    """Return a number in [0, 1) from 64 random bits."""
    return float(bits >> u8(11)) * (1.0 / 9007199254740992.0)


@compiled
def _is_edge(indptr: Any, indices: Any, i: int, j: int) -> bool:
    low, high = indptr[i], indptr[i + 1]
    end = high
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < j:
            low = middle + 1
        else:
            high = middle
    return low < end and indices[low] == j


@compiled
def _draw(indptr: Any, cumulated: Any, i: int, share: float) -> int:
    """Return the place of a neighbour of ``i``, drawn by weight; ``cumulated`` starts anew at each row."""
    low, high = indptr[i], indptr[i + 1] - 1
    target = share * cumulated[high]
    while low < high:
        middle = (low + high) // 2
        if cumulated[middle] <= target:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def biased_walks(
    indptr: Any, indices: Any, cumulated: Any, starts: Any, length: int, p: float, q: float, seed: int, walks: Any
) -> None:
    """Fill ``walks`` (len(starts) x length) with second-order random walks (Grover and Leskovec, KDD 2016, section 3.2).

    A step from v, reached from t, goes to x with probability proportional to weight(v, x) times 1/p if x = t, 1 if x and t are
    neighbours, 1/q else; drawn by rejection. ``starts`` holds (node, number of the walk), from which each walk has its own seed.
    """
    largest = max(1.0, max(1.0 / p, 1.0 / q))
    for row in range(len(starts)):
        state = u8(seed)
        for part in starts[row]:
            state, bits = _next(state ^ u8(part))
            state = bits
        previous, node = -1, starts[row, 0]
        walks[row, 0] = node
        for step in range(1, length):
            while True:
                state, bits = _next(state)
                candidate = indices[_draw(indptr, cumulated, node, _uniform(bits))]
                if previous < 0:
                    break
                if candidate == previous:
                    bias = 1.0 / p
                elif _is_edge(indptr, indices, previous, candidate):
                    bias = 1.0
                else:
                    bias = 1.0 / q
                if bias >= largest:
                    break
                state, bits = _next(state)
                if _uniform(bits) * largest < bias:
                    break
            previous, node = node, candidate
            walks[row, step] = node


@compiled
def positive_pmi(
    walks: Any,
    order: Any,
    bounds: Any,
    low: int,
    high: int,
    window: int,
    totals: Any,
    shift: float,
    indices: Any,
    data: Any,
) -> NDArray[np.int64]:
    """Write the rows ``low`` to ``high`` of max(0, PMI - shift) one after the other; return the number of values of each.

    Parameters
    ----------
    walks
        Walks x length.
    order, bounds
        ``order[bounds[i] : bounds[i + 1]]`` are the places (in the flattened walks) where node i stands.
    totals
        In how many pairs of places at most ``window`` apart each node is; if empty, these are counted and written to ``data``.
    indices, data
        Space for the values.
    """
    length = walks.shape[1]
    nodes = len(bounds) - 1
    counts = np.zeros(nodes, np.int64)
    found = np.zeros(high - low, np.int64)
    counting = len(totals) == 0
    grand = 0.0
    for k in range(len(totals)):
        grand += totals[k]
    at = 0
    for node in range(low, high):
        seen = 0
        for e in range(bounds[node], bounds[node + 1]):
            walk, step = order[e] // length, order[e] % length
            first, last = max(0, step - window), min(length - 1, step + window)
            seen += last - first
            if not counting:
                for other in range(first, last + 1):
                    if other != step:
                        counts[walks[walk, other]] += 1
        if counting:
            data[node] = seen
            continue
        for other in range(nodes):
            if counts[other] > 0:
                value = math.log(counts[other] * grand / (totals[node] * totals[other])) - shift
                if value > 0:
                    indices[at], data[at] = other, value
                    at += 1
                    found[node - low] += 1
                counts[other] = 0
    return found


@compiled
def core_numbers(indptr: Any, indices: Any) -> NDArray[np.int64]:
    """Return the core number of each node: the largest k such that it is in a subgraph of degrees of at least k.

    Batagelj and Zaversnik 2003: nodes are taken off in the order of their degree among those left.
    """
    nodes = len(indptr) - 1
    degree = np.empty(nodes, np.int64)
    for i in range(nodes):
        degree[i] = indptr[i + 1] - indptr[i]
    most = degree.max()
    first = np.zeros(most + 2, np.int64)
    for i in range(nodes):
        first[degree[i] + 1] += 1
    for d in range(1, most + 2):
        first[d] += first[d - 1]
    place, order = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    free = first.copy()
    for i in range(nodes):
        place[i] = free[degree[i]]
        order[place[i]] = i
        free[degree[i]] += 1
    for k in range(nodes):
        node = order[k]
        for e in range(indptr[node], indptr[node + 1]):
            other = indices[e]
            if degree[other] > degree[node]:
                # To the front of the nodes of its degree, which then begin one later.
                front = max(first[degree[other]], k + 1)
                swapped = order[front]
                order[front], order[place[other]] = other, swapped
                place[swapped], place[other] = place[other], front
                first[degree[other]] = front + 1
                degree[other] -= 1
    return degree

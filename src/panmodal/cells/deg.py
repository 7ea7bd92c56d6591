"""Differential expression from sums alone: Welch's t-test of each gene, Benjamini-Hochberg, labels, votes of plates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
MIN_CELLS = 30
"""Perturbations with as many cells or fewer are not tested (pooled test)."""
MIN_CELLS_PLATE = 20
"""The same for the test of one plate."""

Array = NDArray[np.float64]


def welch(n1: Any, sum1: Array, squares1: Array, n0: Any, sum0: Array, squares0: Array) -> tuple[Array, Array]:
    """Welch's t-test from numbers, sums and sums of squares of two groups.

    t = (m1 - m0) / sqrt(v1/n1 + v0/n0) with unbiased variances; the degrees of freedom are
    (v1/n1 + v0/n0)^2 / ((v1/n1)^2/(n1-1) + (v0/n0)^2/(n0-1)) (Welch 1947). Two-sided p.

    Parameters
    ----------
    n1, n0
        Numbers of cells, scalars or arrays that fit the sums (for rows: k x 1).
    sum1, squares1, sum0, squares0
        Sums of the values and of their squares, genes along the last axis.

    Returns
    -------
    t, p
        t is 0 and p is 1 where the variances of both groups come out as exactly zero, as in scanpy.
    """
    t, freedom = _statistic(n1, sum1, squares1, n0, sum0, squares0)
    p = _two_sided(t, freedom)
    undefined = ~np.isfinite(p)
    return np.where(undefined, 0.0, t), np.where(undefined, 1.0, p)


def _statistic(n1: Any, sum1: Array, squares1: Array, n0: Any, sum0: Array, squares0: Array) -> tuple[Array, Array]:
    """Return t and the degrees of freedom of Welch's test; NaN where neither group varies."""
    n1, n0 = np.asarray(n1, dtype=np.float64), np.asarray(n0, dtype=np.float64)
    mean1, mean0 = sum1 / n1, sum0 / n0
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding can leave a variance of -1e-18.
        part1 = np.maximum(squares1 - n1 * mean1 * mean1, 0.0) / (n1 - 1.0) / n1
        part0 = np.maximum(squares0 - n0 * mean0 * mean0, 0.0) / (n0 - 1.0) / n0
        both = part1 + part0
        t = (mean1 - mean0) / np.sqrt(both)
        return t, both * both / (part1 * part1 / (n1 - 1.0) + part0 * part0 / (n0 - 1.0))


def _two_sided(t: Array, freedom: Array) -> Array:
    from scipy.special import stdtr

    return 2.0 * stdtr(freedom, -np.abs(t))


def adjust(p: Array) -> Array:
    """Benjamini-Hochberg adjusted p-values along the last axis: min over k >= rank of p_(k) n / k, at most 1.

    Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57.
    """
    order = np.argsort(p, axis=-1)
    n = p.shape[-1]
    scaled = np.take_along_axis(p, order, axis=-1) * (n / np.arange(1, n + 1))
    lowest = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.minimum(lowest, 1.0), axis=-1)
    return out


def labels(t: Array, adjusted: Array, alpha: float = ALPHA) -> NDArray[np.int8]:
    """Return -1, 0, +1: the sign of t where the adjusted p is at most alpha, else 0."""
    return np.where(adjusted <= alpha, np.sign(t), 0.0).astype(np.int8)


def deg_labels(
    n1: Any, sum1: Array, squares1: Array, n0: Any, sum0: Array, squares0: Array, alpha: float = ALPHA
) -> NDArray[np.int8]:
    """Return the labels of :func:`welch`, :func:`adjust` and :func:`labels`, without the p-values that cannot matter.

    Benjamini-Hochberg rejects nothing with p > alpha, and a t within the normal quantiles of alpha has p > alpha whatever its
    degrees of freedom; such genes keep their place behind the others and need no p.

    Parameters
    ----------
    n1, sum1, squares1, n0, sum0, squares0
        As in :func:`welch`; sums are rows x genes.
    """
    from scipy.special import ndtri

    t, freedom = _statistic(n1, sum1, squares1, n0, sum0, squares0)
    bound = -float(ndtri(alpha / 2.0)) * (1.0 - 1e-9)
    rows, genes = np.nonzero((np.abs(t) >= bound) & np.isfinite(freedom))
    p = _two_sided(t[rows, genes], freedom[rows, genes])
    order = np.lexsort((p, rows))
    rank = np.arange(1, len(rows) + 1) - np.searchsorted(rows, np.arange(len(t)))[rows]
    passed = order[p[order] * (t.shape[1] / rank) <= alpha]
    # All up to the last that passes are rejected.
    last = np.zeros(len(t))
    np.maximum.at(last, rows[passed], p[passed])
    rejected = p <= last[rows]
    rejected &= np.isin(rows, rows[passed])
    out = np.zeros(t.shape, dtype=np.int8)
    out[rows[rejected], genes[rejected]] = np.sign(t[rows[rejected], genes[rejected]])
    return out


def vote(votes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Majority over plates (first axis). Ties: (0, 1) -> 1, (0, -1) -> -1, (1, -1) and (-1, 0, 1) -> 0."""
    down, none, up = ((votes == label).sum(axis=0) for label in (-1, 0, 1))
    raised = (up > down) & (up >= none)
    lowered = (down > up) & (down >= none)
    return raised.astype(np.int8) - lowered.astype(np.int8)


def deg_of_groups(matrix: Any, groups: Sequence[str], control: str, *, alpha: float = ALPHA, min_cells: int = MIN_CELLS
                  ) -> pd.DataFrame:  # fmt: skip
    """DEG labels of groups of cells against control cells, all batches together, from a matrix in memory.

    Parameters
    ----------
    matrix
        Cells x genes, log-normalised; SciPy sparse or dense.
    groups
        Group of each cell.
    control
        Name of the control group.
    min_cells
        Groups with as many cells or fewer are left out.

    Returns
    -------
    pandas.DataFrame
        Groups (sorted) x genes (numbers), int8.

    Raises
    ------
    InputError
        No control cells, or fewer than two; numbers of cells that do not agree.
    """
    import pandas as pd
    from scipy import sparse

    from panmodal.cells.kernels import add_group_sums

    cells = sparse.csr_matrix(matrix)
    labelled = pd.Categorical(groups)
    names, code = np.asarray(labelled.categories.astype(str)), np.asarray(labelled.codes, dtype=np.int64)
    if len(code) != cells.shape[0] or (code < 0).any():
        raise InputError(f"{cells.shape[0]} cells but {int((code >= 0).sum())} of them have a group.")
    counts = np.bincount(code, minlength=len(names))
    base = int(np.argmax(names == control))
    if names[base] != control or counts[base] < 2:
        raise InputError(f"fewer than two cells of the control group {control!r}; there are {some(names)}.")
    first, second = np.zeros((len(names), cells.shape[1])), np.zeros((len(names), cells.shape[1]))
    order = np.argsort(code, kind="stable")
    add_group_sums(cells.indptr, cells.indices, cells.data, order, code, first, second)
    tested = np.flatnonzero((counts > min_cells) & (np.arange(len(names)) != base))
    out = np.empty((len(tested), cells.shape[1]), dtype=np.int8)
    for k, g in enumerate(tested):
        sums = first[g : g + 1], second[g : g + 1]
        out[k] = deg_labels(int(counts[g]), *sums, int(counts[base]), first[base], second[base], alpha)[0]
    return pd.DataFrame(out, index=names[tested])

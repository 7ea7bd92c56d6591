"""Differential expression from sums alone: Welch's t-test of each gene, Benjamini-Hochberg, labels, votes of plates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        t is 0 and p is 1 where neither group varies, as in scanpy.
    """
    from scipy.special import stdtr

    n1, n0 = np.asarray(n1, dtype=np.float64), np.asarray(n0, dtype=np.float64)
    mean1, mean0 = sum1 / n1, sum0 / n0
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding can leave a variance of -1e-18.
        part1 = np.maximum(squares1 - n1 * mean1 * mean1, 0.0) / (n1 - 1.0) / n1
        part0 = np.maximum(squares0 - n0 * mean0 * mean0, 0.0) / (n0 - 1.0) / n0
        both = part1 + part0
        t = (mean1 - mean0) / np.sqrt(both)
        freedom = both * both / (part1 * part1 / (n1 - 1.0) + part0 * part0 / (n0 - 1.0))
        p = 2.0 * stdtr(freedom, -np.abs(t))
    undefined = ~np.isfinite(p)
    return np.where(undefined, 0.0, t), np.where(undefined, 1.0, p)


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


def vote(votes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Majority over plates (first axis). Ties: (0, 1) -> 1, (0, -1) -> -1, (1, -1) and (-1, 0, 1) -> 0."""
    down, none, up = ((votes == label).sum(axis=0) for label in (-1, 0, 1))
    raised = (up > down) & (up >= none)
    lowered = (down > up) & (down >= none)
    return raised.astype(np.int8) - lowered.astype(np.int8)

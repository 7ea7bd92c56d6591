"""Average ranks of the rows of a matrix, fast where values are distinct."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rank each row from 1; equal values share the mean of their ranks (``scipy.stats.rankdata``'s "average").

    Parameters
    ----------
    values
        Finite matrix, m x t.
    """
    values = np.asarray(values)
    ranks = np.empty(values.shape)
    places = np.arange(1.0, values.shape[1] + 1)
    # Row by row everything stays in the cache, which beats calls on whole matrices.
    for row, out in zip(values, ranks, strict=True):
        _rank_row(row, places, out)
    return ranks


def rank_correlation(values: NDArray[np.floating], ranks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Correlate the average ranks of each row with given average ranks (Spearman); NaN where either row is constant.

    Parameters
    ----------
    values
        Finite matrix, m x t.
    ranks
        Average ranks of the rows to compare with, m x t.
    """
    values = np.asarray(values)
    m, t = values.shape
    places, own = np.arange(1.0, t + 1), np.empty(t)
    middle = (t + 1) / 2
    out = np.full(m, np.nan)
    for k in range(m):
        _rank_row(values[k], places, own)
        a, b = own - middle, np.asarray(ranks[k], dtype=np.float64) - middle
        norm = np.sqrt((a @ a) * (b @ b))
        if norm > 0:
            out[k] = min(1.0, max(-1.0, (a @ b) / norm))
    return out


def _rank_row(row: NDArray[np.floating], places: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write the average ranks of one row into ``out``."""
    order = np.argsort(row)
    ascending = row[order]
    equal = ascending[1:] == ascending[:-1]
    if not equal.any():
        out[order] = places
        return
    group = np.concatenate([[0], np.cumsum(~equal)])
    counts = np.bincount(group)
    ends = np.cumsum(counts)
    out[order] = (ends - (counts - 1) / 2)[group]

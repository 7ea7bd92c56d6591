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
    from scipy.stats import rankdata

    values = np.asarray(values)
    m, t = values.shape
    order = np.argsort(values, axis=1)
    ranks = np.empty((m, t))
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(1.0, t + 1), (m, t)), axis=1)
    ascending = np.take_along_axis(values, order, axis=1)
    tied = np.flatnonzero((ascending[:, 1:] == ascending[:, :-1]).any(axis=1))
    if len(tied):
        ranks[tied] = rankdata(values[tied], axis=1)
    return ranks

"""Tests of differences between methods: Friedman, signed ranks of all pairs at once, Holm, and what cannot be told apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError

Values = NDArray[np.float64]

EQUAL = 1e-6
"""Differences below this share of the values are none: predictions are kept in single precision."""
EXACT = 50
"""Up to so many untied differences the distribution of the signed-rank statistic is exact."""
EXACT_TIED = 25
"""The same for differences some of which are equally large."""


@dataclass(frozen=True)
class Friedman:
    """Result of :func:`friedman`.

    Attributes
    ----------
    statistic, p_chi2
        Friedman's chi-squared, corrected for ties, with k - 1 degrees of freedom.
    f, p
        Iman and Davenport's F, (n - 1) chi2 / (n (k - 1) - chi2), with k - 1 and (k - 1)(n - 1) degrees of freedom.
    average_ranks
        Of each method over blocks, 1 the best.
    n_blocks
        Blocks in which all methods have a value.
    """

    statistic: float
    p_chi2: float
    f: float
    p: float
    average_ranks: Values
    n_blocks: int


def ranks(values: Values, higher: bool) -> Values:
    """Rank the columns of each row, 1 the best; ties, within 1e-9 of the largest value, share the mean rank."""
    from scipy.stats import rankdata

    size = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    scaled = np.round(values / (size if size > 0 else 1.0), 9)
    return rankdata(-scaled if higher else scaled, axis=-1)


def friedman(values: Values, higher: bool = True) -> Friedman:
    """Test whether methods (columns) are ranked alike in all blocks (rows).

    Friedman 1937 with the correction for ties (Conover 1999, 5.8) and the F of Iman and Davenport 1980, which holds its level better
    with few blocks (Demšar 2006, 3.2.2). Blocks with an undefined value are left out. With fewer than two methods or two blocks
    all is NaN but the average ranks.

    Parameters
    ----------
    values
        n x k.
    higher
        Whether more is better; turns ranks round only.
    """
    from scipy.stats import chi2, f

    whole = values[np.isfinite(values).all(axis=1)]
    n, k = whole.shape
    if not n:
        return Friedman(np.nan, np.nan, np.nan, np.nan, np.full(k, np.nan), 0)
    given = ranks(whole, higher)
    average = given.mean(axis=0)
    if n < 2 or k < 2:
        return Friedman(np.nan, np.nan, np.nan, np.nan, average, n)
    spread = np.sum((given - (k + 1) / 2) ** 2)  # n k (k^2 - 1) / 12 without ties
    if spread == 0:
        return Friedman(0.0, 1.0, 0.0, 1.0, average, n)
    statistic = float((k - 1) * n * n * np.sum((average - (k + 1) / 2) ** 2) / spread)
    rest = n * (k - 1) - statistic
    ratio = (n - 1) * statistic / rest if rest > 1e-9 * n * k else np.inf
    p = float(f.sf(ratio, k - 1, (k - 1) * (n - 1)))
    return Friedman(statistic, float(chi2.sf(statistic, k - 1)), ratio, p, average, n)


@lru_cache(maxsize=64)
def _lower_tail(n: int) -> Values:
    """P(W <= w) for w = 0 ... n (n + 1) / 2, W the sum of those of the ranks 1 ... n whose fair coin shows heads."""
    return _tail(np.arange(1, n + 1))


def _tail(weights: NDArray[Any]) -> Values:
    """P(sum of a fair subset of whole weights <= s) for all s."""
    chance = np.zeros(int(weights.sum()) + 1)
    chance[0] = 1.0
    for w in weights:
        moved = np.zeros_like(chance)
        moved[w:] = chance[: len(chance) - w]
        chance = (chance + moved) / 2
    return np.minimum(np.cumsum(chance), 1.0)


def _differences(first: Values, others: Values) -> Values:
    """First row minus the others; 0 where equal within single precision or where one is undefined."""
    difference = first - others
    none = ~(np.abs(difference) > EQUAL * np.maximum(np.abs(first), np.abs(others)))
    difference[none] = 0.0
    return difference


def signed_rank_p(differences: Values) -> Values:
    """Two-sided p of Wilcoxon's signed-rank test of each column; zeros are left out.

    Exact where at most 50 differences are left (25 if some are equally large), else normal with the correction for ties and
    without continuity correction (Wilcoxon 1945; Conover 1999, 5.7). 1 where nothing is left.

    Parameters
    ----------
    differences
        n x pairs, finite.
    """
    return _signed_ranks(np.ascontiguousarray(differences.T, dtype=np.float64))[0]


def _signed_ranks(differences: Values) -> tuple[Values, Values]:
    """See :func:`signed_rank_p`; takes pairs x n, and returns with p the sign of the sum of signed ranks."""
    from scipy.special import ndtr

    pairs, n = differences.shape
    # Sorting bit patterns with the sign in the last bit gives ranks and signs in one sort of whole numbers.
    bits = np.abs(differences).view(np.int64) & ~np.int64(1)
    keys = np.sort(bits | (differences > 0), axis=1)
    positive = (keys & 1).astype(bool)
    sizes = keys >> 1
    zeros = (sizes == 0).sum(axis=1)
    left = n - zeros
    # A zero is not positive, so that ranks need only be shifted by the number of zeros.
    plus = positive @ np.arange(1.0, n + 1) - zeros * positive.sum(axis=1)
    same = (sizes[:, 1:] == sizes[:, :-1]) & (sizes[:, 1:] > 0)
    tied = np.flatnonzero(same.any(axis=1))
    correction = np.zeros(pairs)
    shared: dict[int, Values] = {}
    for k in tied:
        own = sizes[k, zeros[k] :]
        starts = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]]))
        counts = np.diff(np.append(starts, len(own)))
        average = np.repeat(starts + (counts + 1) / 2, counts)
        plus[k] = average[positive[k, zeros[k] :]].sum()
        correction[k] = np.sum(counts.astype(float) ** 3 - counts)
        if left[k] <= EXACT_TIED:
            shared[int(k)] = average
    p = np.ones(pairs)
    exact = (left <= EXACT) & (left > 0)
    exact[tied] = False
    for size in np.unique(left[exact]).tolist():
        own = np.flatnonzero(exact & (left == size))
        below = _lower_tail(size)
        least = np.minimum(plus[own], size * (size + 1) / 2 - plus[own]).astype(int)
        p[own] = np.minimum(2 * below[least], 1.0)
    for at, average in shared.items():
        doubled = np.rint(2 * average).astype(int)
        smaller = min(2 * plus[at], doubled.sum() - 2 * plus[at])
        p[at] = min(2 * _tail(doubled)[round(smaller)], 1.0)
    rest = (left > 0) & ~exact
    rest[list(shared)] = False
    m = left[rest].astype(float)
    variance = m * (m + 1) * (2 * m + 1) / 24 - correction[rest] / 48
    z = (plus[rest] - m * (m + 1) / 4) / np.sqrt(variance)
    p[rest] = np.minimum(2 * ndtr(-np.abs(z)), 1.0)
    return p, np.sign(plus - left * (left + 1.0) / 4)


def wilcoxon_pairs(values: Values) -> tuple[Values, Values]:
    """Test all pairs of columns by Wilcoxon's signed-rank test.

    Rows where one of the two is undefined, or where they are equal within single precision, do not count for the pair.

    Returns
    -------
    tuple of arrays
        p, k x k, symmetric, 1 on the diagonal; and 1 where the column of the row index tends to be larger, -1 where smaller, else 0.
    """
    k = values.shape[1]
    columns = np.ascontiguousarray(values.T)
    p, larger = np.ones((k, k)), np.zeros((k, k))
    for a in range(k - 1):
        found, sign = _signed_ranks(_differences(columns[a], columns[a + 1 :]))
        p[a, a + 1 :] = p[a + 1 :, a] = found
        larger[a, a + 1 :], larger[a + 1 :, a] = sign, -sign
    return p, larger


def bootstrap_pairs(scores: Values, samples: Values) -> Values:
    """Return two-sided p for all pairs by the normal approximation: difference of scores over its standard deviation in the samples.

    For scores that are not means over perturbations and have stored bootstrap samples only (Efron and Tibshirani 1993, 13.3 and 16.4).

    Parameters
    ----------
    scores
        k.
    samples
        draws x k, paired.
    """
    from scipy.special import ndtr

    k = len(scores)
    p = np.ones((k, k))
    for a in range(k - 1):
        difference = samples[:, [a]] - samples[:, a + 1 :]
        spread = difference.std(axis=0, ddof=1)
        gap = np.abs(scores[a] - scores[a + 1 :])
        size = np.maximum(np.abs(scores[a]), np.abs(scores[a + 1 :]))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = 2 * ndtr(-gap / spread)
        found[~(gap > EQUAL * size) | ~np.isfinite(spread)] = 1.0
        p[a, a + 1 :] = p[a + 1 :, a] = found
    return p


def corrected_t_pairs(fold_scores: Values, share: float) -> Values:
    """Return two-sided p of Nadeau and Bengio's corrected resampled t-test for all pairs of columns of folds x k.

    t = mean(d) / sqrt((1 / n + share) var(d)), n - 1 degrees of freedom, ``share`` = test ids / training ids: folds share training
    data, so that their differences d are not independent (Nadeau and Bengio 2003). NaN with fewer than two folds.
    """
    from scipy.stats import t

    n, k = fold_scores.shape
    p = np.ones((k, k))
    if n < 2:
        return np.where(np.eye(k, dtype=bool), 1.0, np.nan)
    for a in range(k - 1):
        difference = _differences(fold_scores[:, a], fold_scores[:, a + 1 :].T).T
        mean, spread = difference.mean(axis=0), difference.std(axis=0, ddof=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            statistic = np.abs(mean) / (spread * np.sqrt(1 / n + share))
        found = 2 * t.sf(statistic, n - 1)
        found[mean == 0] = 1.0
        p[a, a + 1 :] = p[a + 1 :, a] = found
    return p


def holm(p: Values) -> Values:
    """Adjust the p of all pairs (k x k, symmetric) by Holm 1979; undefined ones stay so and do not count."""
    k = len(p)
    above = np.triu_indices(k, 1)
    own = p[above]
    adjusted = np.full(len(own), np.nan)
    order = np.flatnonzero(np.isfinite(own))
    order = order[np.argsort(own[order], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(own[order] * factors), 1.0) if len(order) else []
    out = np.ones((k, k))
    out[above] = adjusted
    out.T[above] = adjusted
    return out


def least_p(n_blocks: int, k: int) -> float:
    """Smallest Holm-adjusted p that a signed-rank test can give the clearest pair: 2^(1 - n) times the number of pairs, at most 1."""
    return min(1.0, 2.0 ** (1 - n_blocks) * (k * (k - 1) / 2))


def groups(distinguishable: NDArray[np.bool_], order: NDArray[Any] | None = None) -> list[tuple[int, ...]]:
    """Find the maximal runs of neighbours in the order of which no two are distinguishable: the bars of a critical-difference plot.

    Two methods of one group are not distinguishable. The reverse need not hold: runs are without gaps, so that two methods with a
    distinguishable one between them share no group.

    Parameters
    ----------
    distinguishable
        k x k, symmetric.
    order
        Columns, best first; as they stand unless given.

    Returns
    -------
    list of tuples
        Columns of each group, best first; a method that differs from all others is a group of one.
    """
    k = len(distinguishable)
    order = np.arange(k) if order is None else np.asarray(order)
    if distinguishable.shape != (k, k) or sorted(order.tolist()) != list(range(k)):
        raise InputError(f"{distinguishable.shape} pairs and an order of {len(order)} do not fit.")
    found: list[tuple[int, ...]] = []
    end = 0  # a run that starts later reaches at least as far
    for start in range(k):
        stop = max(end, start + 1)
        while stop < k and not distinguishable[order[start:stop], order[stop]].any():
            stop += 1
        if stop > end:
            found.append(tuple(order[start:stop].tolist()))
        end = stop
    return found


def letters(found: list[tuple[int, ...]], k: int) -> list[str]:
    """Letters of the groups that each column is in: a for the first; methods that share one are not distinguishable."""
    names = [_letter(i) for i in range(len(found))]
    return [" ".join(name for name, group in zip(names, found, strict=True) if c in group) for c in range(k)]


def _letter(i: int) -> str:
    text = ""
    i += 1
    while i:
        i, rest = divmod(i - 1, 26)
        text = chr(97 + rest) + text
    return text

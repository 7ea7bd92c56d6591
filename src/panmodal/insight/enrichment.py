"""Does nearness in an embedding mean alike responses? Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.insight.representation import Indices, Matrix, nearest

RANKS = (1, 2, 5, 10, 20, 50)
"""Last ranks of the bands of neighbours: the 1st, the 2nd, the 3rd to 5th, ..., the 21st to 50th."""
TOP = 0.05
"""Share of the other ids whose responses count as the most alike."""
MIN_IDS = 20
DRAWS, PERMUTATIONS, LEVEL = 200, 99, 0.95
CURVE = ["rank_from", "rank", "enrichment", "low", "high", "permuted_low", "permuted_high"]


@dataclass(frozen=True)
class Enrichment:
    """How much more alike the responses of neighbours are than those of random pairs.

    Attributes
    ----------
    curve
        :data:`CURVE`: one row for each band of ranks.
    summary
        ``area`` with ``area_low``, ``area_high`` and ``area_p``; ``auroc`` with ``auroc_low`` and ``auroc_high``; ``random_pairs``
        (mean likeness of all pairs); ``n_ids``; ``n_undefined`` (ids left out because their response equals the mean).
    """

    curve: pd.DataFrame
    summary: dict[str, float]


def response_likeness(responses: NDArray[Any]) -> tuple[Matrix, NDArray[np.bool_]]:
    """Cosine of responses minus their mean, of all pairs (n x n), and which rows are defined (differ from the mean)."""
    y = np.asarray(responses, dtype=np.float64)
    y = y - y.mean(axis=0)
    norms = np.sqrt(np.einsum("ij,ij->i", y, y))
    defined = norms > 1e-9 * norms.max(initial=0.0)
    y = y / np.where(defined, norms, 1.0)[:, None]
    return np.clip(y @ y.T, -1.0, 1.0), defined


def neighbour_enrichment(
    z: Matrix, responses: NDArray[Any], *, ranks: Sequence[int] = RANKS, top: float = TOP, draws: int = DRAWS,
    permutations: int = PERMUTATIONS, seed: int = 0,
) -> Enrichment:  # fmt: skip
    """Compare the responses of neighbours in an embedding with those of random pairs.

    For each band of ranks: mean over ids i and their neighbours j of that rank of cos(y_i - m, y_j - m), minus the mean over all pairs
    i, j; m is the mean response of these ids. ``area`` is the mean over bands, which are about equally wide on a log scale.
    ``auroc``: for every id, how well nearness tells the share ``top`` of the other ids with the most alike responses from the rest
    (Mann-Whitney, ties one half), mean over ids; 0.5 is chance.

    Intervals are percentiles over ``draws`` bootstrap samples of the ids: a pair counts as often as the product of how often its two
    ids are drawn, so that an id which is neighbour of many is not taken for many witnesses; for ``auroc`` ids are resampled as
    queries. The permuted control deals the vectors to the wrong ids: its 95 % band, and
    ``area_p`` = (1 + permutations with an area at least as large) / (1 + permutations).

    Parameters
    ----------
    z
        Vectors as the probes see them, n x r.
    responses
        n x read-outs, rows of the same ids.
    ranks
        Last ranks of the bands, growing; those beyond half of the ids are left out.
    top
        Share of the other ids that count as most alike.
    draws, permutations, seed
        Of the bootstrap and the control.

    Raises
    ------
    InputError
        Rows do not fit, or fewer than 20 ids are there.
    """
    if len(z) != len(responses):
        raise InputError(f"{len(z)} vectors and {len(responses)} responses; rows must be the same ids.")
    if list(ranks) != sorted(set(ranks)) or min(ranks, default=0) < 1:
        raise InputError(f"ranks {list(ranks)} must grow from at least 1.")
    if not 0 < top < 1:
        raise InputError(f"top is {top}; it must be a share between 0 and 1.")
    if len(z) < MIN_IDS:
        raise InputError(f"{len(z)} ids with a vector are too few for neighbours; at least {MIN_IDS} are needed.")
    likeness, defined = response_likeness(responses)
    undefined = int((~defined).sum())
    if undefined:
        z, likeness = z[defined], likeness[np.ix_(defined, defined)]
    n = len(z)
    if n < MIN_IDS:
        raise InputError(
            f"{n} ids have a response of their own (others equal the mean); at least {MIN_IDS} are needed."
        )
    ends = [r for r in ranks if r <= (n - 1) // 2]
    starts = [1, *(r + 1 for r in ends[:-1])]
    near = nearest(z, ends[-1])
    rng = np.random.default_rng([seed, 5])
    observed = _bands(likeness, near, starts, ends)
    base = (likeness.sum() - np.trace(likeness)) / (n * (n - 1))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    sampled = _resampled(likeness, near, starts, ends, weights)
    low, high = _limits(sampled)
    control = np.empty((permutations, len(ends)))
    for k in range(permutations):
        order = rng.permutation(n)
        control[k] = _bands(likeness, near, starts, ends, order) - base
    permuted_low, permuted_high = _limits(control)
    curve = pd.DataFrame(
        dict(zip(CURVE, (starts, ends, observed - base, low, high, permuted_low, permuted_high), strict=True))
    )
    area = float((observed - base).mean())
    auc = _auroc(z, likeness, top)
    of_queries = (weights @ auc) / weights.sum(axis=1)
    area_limits, auc_limits = _limits(sampled.mean(axis=1)[:, None]), _limits(of_queries[:, None])
    beaten = int((control.mean(axis=1) >= area - 1e-12).sum())
    return Enrichment(curve, {
        "area": area, "area_low": float(area_limits[0][0]), "area_high": float(area_limits[1][0]),
        "area_p": (1 + beaten) / (1 + permutations) if permutations else float("nan"),
        "auroc": float(auc.mean()), "auroc_low": float(auc_limits[0][0]), "auroc_high": float(auc_limits[1][0]),
        "random_pairs": float(base), "n_ids": n, "n_undefined": undefined,
    })  # fmt: skip


def _bands(likeness: Matrix, near: Indices, starts: list[int], ends: list[int], order: Indices | None = None) -> Matrix:
    """Mean likeness of the neighbours in each band; with ``order`` the vectors belong to other ids."""
    own = np.arange(len(near)) if order is None else order
    values = likeness[own[:, None], own[near]]
    return np.array([values[:, a - 1 : b].mean() for a, b in zip(starts, ends, strict=True)])


def _resampled(likeness: Matrix, near: Indices, starts: list[int], ends: list[int], weights: Matrix) -> Matrix:
    """Enrichment of each band in every bootstrap sample (draws x bands); pairs are weighted by both of their ids."""
    from scipy.sparse import csr_array

    n = len(near)
    off = likeness.copy()
    np.fill_diagonal(off, 0.0)
    pairs = np.square(weights.sum(axis=1)) - np.square(weights).sum(axis=1)
    base = np.einsum("bi,bi->b", weights @ off, weights) / pairs
    out = np.empty((len(weights), len(ends)))
    for k, (a, b) in enumerate(zip(starts, ends, strict=True)):
        columns = near[:, a - 1 : b]
        rows = np.repeat(np.arange(n), columns.shape[1])
        place = (rows, columns.ravel())
        values = likeness[place]
        sums = np.einsum("bi,bi->b", weights @ csr_array((values, place), shape=(n, n)), weights)
        counts = np.einsum("bi,bi->b", weights @ csr_array((np.ones(len(rows)), place), shape=(n, n)), weights)
        out[:, k] = sums / np.where(counts > 0, counts, np.nan) - base
    return out


def _limits(values: Matrix) -> tuple[Matrix, Matrix]:
    """Percentile limits of each column; NaN without rows."""
    if not len(values):
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _auroc(z: Matrix, likeness: Matrix, top: float) -> Matrix:
    """Area under the ROC curve of nearness for the most alike responses, of each id as query."""
    from scipy.stats import rankdata

    n = len(z)
    positives = max(1, round(top * (n - 1)))
    norms = np.einsum("ij,ij->i", z, z)
    out = np.empty(n)
    for start in range(0, n, 512):
        rows = np.arange(start, min(start + 512, n))
        local = np.arange(len(rows))
        nearness = 2 * (z[rows] @ z.T) - norms[None, :]
        nearness[local, rows] = -np.inf  # lowest rank of all; taken off below
        wanted = likeness[rows].copy()
        wanted[local, rows] = -np.inf
        best = np.argpartition(-wanted, positives - 1, axis=1)[:, :positives]
        ranks = rankdata(nearness, axis=1) - 1
        sums = np.take_along_axis(ranks, best, axis=1).sum(axis=1)
        out[rows] = (sums - positives * (positives + 1) / 2) / (positives * (n - 1 - positives))
    return out

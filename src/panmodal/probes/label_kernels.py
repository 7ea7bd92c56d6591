"""The inner loops of the scores of three-class predictions, compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")

Floats = NDArray[np.float64]


@compiled
def add_pairs(pairs: NDArray[np.int8], hits: Floats, predicted: Floats, true: Floats) -> None:
    """Count the perturbations of each gene by their true and predicted class.

    Parameters
    ----------
    pairs
        genes x perturbations: 3 x number of the true class + number of the predicted class, numbers from 0.
    hits, predicted, true
        3 x genes, zeros; get the numbers of perturbations that are of each class in both, the prediction, the truth.
    """
    for g in range(pairs.shape[0]):
        for pair in pairs[g]:
            a, b = pair // 3, pair % 3
            true[a, g] += 1.0
            predicted[b, g] += 1.0
            if a == b:
                hits[a, g] += 1.0


@compiled
def add_weighted_pairs(
    pairs: NDArray[np.int8], weights: NDArray[np.float32], hits: Floats, predicted: Floats, true: Floats
) -> None:
    """Add up the weights of the perturbations of each gene by their true and predicted class.

    Parameters
    ----------
    pairs
        As for :func:`add_pairs`.
    weights
        perturbations x resamplings, so that the inner loop runs over neighbours in memory.
    hits, predicted, true
        3 x genes x resamplings; are overwritten.
    """
    n = weights.shape[1]
    sums = np.empty((9, n))
    for g in range(pairs.shape[0]):
        sums[:] = 0.0
        for p in range(pairs.shape[1]):
            # One sum for each pair of classes rather than three: a third of the additions, and nothing is subtracted.
            to, weight = sums[pairs[g, p]], weights[p]
            for k in range(n):
                to[k] += weight[k]
        for c in range(3):
            for k in range(n):
                hits[c, g, k] = sums[4 * c, k]
                true[c, g, k] = sums[3 * c, k] + sums[3 * c + 1, k] + sums[3 * c + 2, k]
                predicted[c, g, k] = sums[c, k] + sums[3 + c, k] + sums[6 + c, k]


@compiled
def scan_thresholds(
    scores: NDArray[Any], members: NDArray[Any], n_members: NDArray[np.int64], auc: Floats, precision: Floats
) -> None:
    """Compute area under the ROC curve and average precision of each row from sorted scores.

    Parameters
    ----------
    scores
        rows x n, ascending: scores of all items.
    members, n_members
        rows x n, ascending, of which the first ``n_members[r]`` hold: scores of the items that are of the class.
    auc, precision
        Length rows; get the results where they are defined and are left as they were elsewhere.
    """
    n = scores.shape[1]
    for r in range(scores.shape[0]):
        total = n_members[r]
        # Items from ``begin`` on have been passed, and ``found`` of them are of the class.
        begin, found, won, area = n, 0, 0.0, 0.0
        last = total - 1
        while last >= 0:
            threshold = members[r, last]
            here = 0
            while last >= 0 and members[r, last] == threshold:
                here += 1
                last -= 1
            while begin > 0 and scores[r, begin - 1] > threshold:
                begin -= 1
            above = n - begin
            while begin > 0 and scores[r, begin - 1] == threshold:
                begin -= 1
            reached = n - begin
            found += here
            equal = reached - above - here
            below = n - reached - (total - found)
            won += here * (below + 0.5 * equal)
            area += here * (found / reached)
        if total > 0:
            precision[r] = area / total
            if total < n:
                auc[r] = won / (total * (n - total))

"""Nearest neighbours: the mean response of the k training perturbations whose embeddings lie nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.base import CONTINUOUS, Probe
from panmodal.probes.design import Fold, Targets
from panmodal.probes.projection import Matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RELATIVE = 1e-12
"""Relative rounding allowed between equal squared distances; a larger value would merge embeddings that differ."""


def _tolerance(fold: Fold) -> float:
    """Squared distances that differ by no more than the rounding of the projection are the same distance."""
    return 1e-14 * float(np.einsum("ij,ij->i", fold.z_train, fold.z_train).max(initial=0.0))


def _tie_weights(distances: NDArray[np.float64], k: int, kth: float, slack: float) -> NDArray[np.float64]:
    """Weights of one row's neighbours: 1/k for the closer ones, an equal share of the rest for those at the k-th distance."""
    margin = slack + RELATIVE * kth
    closer = distances < kth - margin
    level = ~closer & (distances <= kth + margin)
    weights = np.where(closer, 1.0 / k, 0.0)
    weights[level] = (k - closer.sum()) / (k * level.sum())
    return weights


def row_errors(fold: Fold, targets: Targets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """L2 error of every row for every k in one pass over the neighbours, from the Gram matrix of the targets.

    With S the first k neighbours of row i, e_i^2 = G_ii - 2/k sum_{a in S} G_ia + 1/k^2 sum_{a, b in S} G_ab; the double
    sums for all k are cumulative sums over blocks of one gathered matrix. Rows with ties at the k-th place are weighted out in
    full instead.
    """
    ks = sorted({int(k) for k in grid})
    n = fold.z_train.shape[0]
    near, values = fold.nearest(min(n, ks[-1] + 1))
    slack = _tolerance(fold)
    own = targets.gram[fold.test, fold.test]
    starts = np.array([0, *ks[:-1]])
    size = np.array(ks, dtype=np.float64)
    squared = np.empty((len(ks), len(fold.test)))
    chosen = fold.train[near[:, : ks[-1]]]
    flat, width = targets.gram.reshape(-1), targets.gram.shape[1]
    step = max(1, 2**18 // ks[-1] ** 2)
    for start in range(0, len(chosen), step):
        idx = chosen[start : start + step]
        block = flat.take(idx[:, :, None] * width + idx[:, None, :])
        sums = np.add.reduceat(np.add.reduceat(block, starts, axis=1), starts, axis=2).cumsum(axis=1).cumsum(axis=2)
        across = flat.take(fold.test[start : start + step, None] * width + idx)
        cross = np.add.reduceat(across, starts, axis=1).cumsum(axis=1)
        part = own[start : start + step, None] - 2 * cross / size + np.einsum("ikk->ik", sums) / size**2
        squared[:, start : start + step] = part.T
    for row, k in enumerate(ks):
        if k >= n:
            continue
        tied = np.flatnonzero(values[:, k] - values[:, k - 1] <= slack + RELATIVE * values[:, k - 1])
        for i in tied:
            weights = _tie_weights(fold.distances[i], k, values[i, k - 1], slack)
            used = np.flatnonzero(weights)
            w, idx = weights[used], fold.train[used]
            quadratic = w @ targets.gram[np.ix_(idx, idx)] @ w
            squared[row, i] = own[i] - 2 * targets.gram[fold.test[i], idx] @ w + quadratic
    errors = np.sqrt(np.maximum(squared, 0.0))
    return errors[[ks.index(int(k)) for k in grid]]


def smoother(fold: Fold, k: int) -> csr_array:
    """Weights of the training rows for each test row (m x n): 1/k for the k nearest, those at the k-th distance share alike."""
    from scipy.sparse import csr_array

    n, m = fold.z_train.shape[0], fold.z_test.shape[0]
    if m == 0:
        return csr_array((0, n))
    near, values = fold.nearest(min(n, k + 1))
    slack = _tolerance(fold)
    columns, weights, counts = [], [], []
    for i in range(m):
        if k < n and values[i, k] - values[i, k - 1] <= slack + RELATIVE * values[i, k - 1]:
            dense = _tie_weights(fold.distances[i], k, values[i, k - 1], slack)
            idx = np.flatnonzero(dense)
            weight = dense[idx]
        else:
            idx = np.sort(near[i, :k])
            weight = np.full(k, 1.0 / k)
        columns.append(idx)
        weights.append(weight)
        counts.append(len(idx))
    pointers = np.concatenate([[0], np.cumsum(counts)])
    return csr_array((np.concatenate(weights), np.concatenate(columns), pointers), shape=(m, n))


def predict(fold: Fold, targets: Targets, value: float) -> Matrix:
    """Mean response of the k nearest training rows; rows at the k-th distance share its remaining weight equally."""
    return np.asarray(smoother(fold, int(value)) @ targets.values)


def candidates(grid: tuple[float, ...], n_train: int) -> tuple[float, ...]:
    """Leave out every k above floor(0.8 n) - 1; if none is left, that number itself is the only candidate."""
    most = int(0.8 * n_train) - 1
    return tuple(k for k in grid if k <= most) or (float(most),)


PROBE = Probe(
    name="knn",
    description="k nearest neighbours, uniform weights, Euclidean, after standardisation and PCA(100)",
    kinds=CONTINUOUS,
    parameter="k",
    grid=(20, 40, 60, 80, 100),
    errors=row_errors,
    predict=predict,
    candidates=candidates,
)

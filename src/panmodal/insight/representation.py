"""How alike two sets of vectors of the same ids are: CCA, CKA, neighbours in common, and correlation of distances.

All functions are pure functions of arrays whose rows are the same ids in the same order; none depends on a rotation or a common scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.probes.projection import Projection, n_components, principal_axes

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]

MEASURES = {"cca": "CCA", "cka": "CKA", "knn_overlap": "neighbours in common", "rsa": "RSA"}
"""Names in tables and in figures."""
COMPONENTS = 10
"""Principal components that enter the CCA, as published."""
NEIGHBOURS = 10
RSA_IDS = 500
"""Of more ids a sample of so many: distances of 500 ids are 124,750 pairs."""
MIN_IDS = 20
"""Fewest ids on which likeness is measured."""


@dataclass(frozen=True)
class Likeness:
    """One measure of one pair.

    Attributes
    ----------
    value
        As defined.
    expected
        Its mean where rows are dealt out at random.
    corrected
        Without what chance contributes: about 0 where nothing is shared, 1 for the same representation.
    held_out
        CCA only: mean correlation of the canonical pairs on ids that they were not fitted on; NaN otherwise.
    published
        CCA only: as the published figure has it; NaN otherwise.
    p
        (1 + permutations at least as large) / (1 + permutations); NaN without permutations.
    """

    value: float
    expected: float
    corrected: float
    held_out: float = float("nan")
    published: float = float("nan")
    p: float = float("nan")


def as_probes_see(vectors: NDArray[Any]) -> Matrix:
    """Standardise each dimension and project on the first min(100, dims, floor(0.8 n) - 1) principal components: n x r, centred."""
    x = np.asarray(vectors, dtype=np.float64)
    return Projection.fit(x, n_components(len(x), x.shape[1]))[1]


def orthonormal(z: Matrix, keep: int) -> Matrix:
    """Return an orthonormal basis (n x r, r <= keep) of the first principal components of the centred rows."""
    centred = z - z.mean(axis=0)
    scores = centred @ principal_axes(centred, keep)
    return scores / np.sqrt(np.einsum("ij,ij->j", scores, scores))


def cca_components(n: int) -> int:
    """Return the number of principal components for CCA: 10 as published, fewer below 100 ids (one for ten ids)."""
    return max(1, min(COMPONENTS, n // 10))


def cca(x: Matrix, y: Matrix, *, components: int | None = None, folds: int = 5, seed: int = 0) -> Likeness:
    """Mean squared canonical correlation of the first principal components, sum_i rho_i^2 / min(p, q).

    This is R^2_CCA of Kornblith et al. 2019. With orthonormal bases Q of the two, rho are the singular values of Qx' Qy. Of n ids,
    p and q components share max(p, q) / (n - 1) by chance (exact mean over permutations of the rows). ``corrected`` is
    (value - expected) / (1 - expected), the adjusted R^2 of Ezekiel; ``held_out`` fits the pairs on four fifths of the ids and takes
    their correlation (not squared, mean over pairs and folds) on the rest.

    ``published``: the figure of the paper standardises, keeps 10 principal components of each and takes ``CCA.score`` of scikit-learn.
    That predicts the second by the canonical scores of the first as they are, without shrinking them by rho, so that for as many
    orthogonal components on both sides it comes to 2 mean_i(rho_i) - 1: 1 for the same representation, -1 for none in common.
    """
    n = _same_rows(x, y)
    keep = cca_components(n) if components is None else components
    qx, qy = orthonormal(x, keep), orthonormal(y, keep)
    if 0 in (qx.shape[1], qy.shape[1]):
        return Likeness(*[float("nan")] * 3)
    rho = np.clip(np.linalg.svd(qx.T @ qy, compute_uv=False), 0.0, 1.0)
    value = float(np.square(rho).mean())
    expected = max(qx.shape[1], qy.shape[1]) / (n - 1)
    corrected = (value - expected) / (1 - expected) if expected < 1 else float("nan")
    return Likeness(value, expected, corrected, _held_out(qx, qy, folds, seed), float(2 * rho.mean() - 1))


def canonical_correlations(x: Matrix, y: Matrix) -> Matrix:
    """Return the canonical correlations of two sets of columns, largest first (Bjorck and Golub 1973)."""
    _same_rows(x, y)
    qx, qy = orthonormal(x, x.shape[1]), orthonormal(y, y.shape[1])
    return np.clip(np.linalg.svd(qx.T @ qy, compute_uv=False), 0.0, 1.0)


def _held_out(qx: Matrix, qy: Matrix, folds: int, seed: int) -> float:
    """Mean correlation of canonical pairs on ids they were not fitted on."""
    n = len(qx)
    fold = np.random.default_rng([seed, 3]).permutation(n) % folds
    found = []
    for k in range(folds):
        train, test = fold != k, fold == k
        if test.sum() < 3 or train.sum() <= max(qx.shape[1], qy.shape[1]) + 1:
            continue
        sides = []
        for q in (qx, qy):
            mean = q[train].mean(axis=0)
            u, s, vt = np.linalg.svd(q[train] - mean, full_matrices=False)
            ok = s > s[0] * 1e-10
            sides.append((u[:, ok], (q[test] - mean) @ (vt[ok].T / s[ok])))
        (ux, tx), (uy, ty) = sides
        a, _, bt = np.linalg.svd(ux.T @ uy, full_matrices=False)
        found.append(_column_correlation(tx @ a, ty @ bt.T))
    return float(np.nanmean(np.concatenate(found))) if found else float("nan")


def _column_correlation(a: Matrix, b: Matrix) -> Matrix:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = np.sqrt(np.einsum("ij,ij->j", a, a) * np.einsum("ij,ij->j", b, b))
    return np.einsum("ij,ij->j", a, b) / np.where(norms > 0, norms, np.nan)


def cka(x: Matrix, y: Matrix) -> Likeness:
    """Linear centred kernel alignment, |X'Y|^2 / (|X'X| |Y'Y|), Frobenius norms of centred columns (Kornblith et al. 2019).

    ``expected``: tr(K) tr(L) / ((n - 1) |K| |L|) with K = XX', L = YY', the exact mean over permutations of the rows. ``corrected``:
    the same ratio of unbiased estimates of HSIC (Song et al. 2012, eq. 5; Nguyen, Raghu and Kornblith 2021), which is about 0
    without anything in common whatever the numbers of ids and dimensions, and may be negative.
    """
    n = _same_rows(x, y)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    sx, sy = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    xy, xx, yy = (float(np.square(a.T @ b).sum()) for a, b in ((x, y), (x, x), (y, y)))
    if not xx or not yy:
        return Likeness(*[float("nan")] * 3)
    scale = np.sqrt(xx * yy)
    norm = _hsic(xx, sx, sx) * _hsic(yy, sy, sy) if n > 3 else 0.0
    corrected = _hsic(xy, sx, sy) / np.sqrt(norm) if norm > 0 else float("nan")
    return Likeness(float(xy / scale), float(sx.sum() * sy.sum() / ((n - 1) * scale)), float(corrected))


def _hsic(cross: float, sx: Matrix, sy: Matrix) -> float:
    """Unbiased HSIC of linear kernels from |X'Y|^2 and the squared norms of the centred rows.

    Song et al.'s estimator takes the kernels without their diagonals; for centred rows the rows of such a kernel sum to minus its
    diagonal, so that no n x n matrix is needed.
    """
    n = len(sx)
    trace = cross - sx @ sy
    return float((trace + sx.sum() * sy.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sx @ sy)) / (n * (n - 3)))


def nearest(z: Matrix, most: int) -> Indices:
    """Return the ``most`` nearest other rows of every row by Euclidean distance, nearest first (n x most)."""
    norms = np.einsum("ij,ij->i", z, z)
    out = np.empty((len(z), most), dtype=np.intp)
    for start in range(0, len(z), 1024):  # blocks, so that no n x n matrix is held
        rows = np.arange(start, min(start + 1024, len(z)))
        distances = norms[None, :] - 2 * (z[rows] @ z.T)
        distances[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distances, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(distances, near, axis=1), axis=1, kind="stable")
        out[rows] = np.take_along_axis(near, order, axis=1)
    return out


def knn_overlap(x: Matrix, y: Matrix, k: int = NEIGHBOURS) -> Likeness:
    """Mean share of the k nearest neighbours of an id that are the same in both; k / (n - 1) are by chance.

    ``corrected`` is (value - expected) / (1 - expected).
    """
    n = _same_rows(x, y)
    if not 1 <= k < n:
        raise InputError(f"{k} neighbours of {n} ids; k must be between 1 and {n - 1}.")
    return _overlap(nearest(x, k), _adjacency(nearest(y, k)))


def _adjacency(near: Indices) -> NDArray[np.bool_]:
    adjacent = np.zeros((len(near), len(near)), dtype=bool)
    np.put_along_axis(adjacent, near, True, axis=1)
    return adjacent


def _overlap(near: Indices, adjacent: NDArray[np.bool_]) -> Likeness:
    n, k = near.shape
    value = float(np.take_along_axis(adjacent, near, axis=1).mean())
    expected = k / (n - 1)
    return Likeness(value, expected, (value - expected) / (1 - expected) if k < n - 1 else float("nan"))


def rsa(x: Matrix, y: Matrix) -> Likeness:
    """Representational similarity analysis: Spearman correlation of the Euclidean distances of all pairs (Kriegeskorte et al. 2008).

    0 by chance, so that ``corrected`` is the value.
    """
    _same_rows(x, y)
    return _rank_correlation(distance_ranks(x), distance_ranks(y))


def _rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> Likeness:
    norm = np.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))
    value = float(np.vdot(a, b) / norm) if norm > 0 else float("nan")
    return Likeness(value, 0.0, value)


def distance_ranks(z: Matrix) -> NDArray[np.float32]:
    """Return centred average ranks of the distances of all pairs, n x n with an empty diagonal, scaled to at most one half."""
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import rankdata

    ranks = rankdata(pdist(z))
    ranks = (ranks - ranks.mean()) / max(1, len(ranks))
    return squareform(ranks.astype(np.float32), checks=False)


def compare(x: Matrix, y: Matrix, *, permutations: int = 99, k: int = NEIGHBOURS, seed: int = 0) -> dict[str, Likeness]:
    """All measures of one pair, with permutation tests.

    Parameters
    ----------
    x, y
        n x r and n x s, as the probes see them (:func:`as_probes_see`); rows are the same ids.
    permutations
        Random deals of the rows of y, the same for all measures; 0 for none. CKA is tested by its unbiased estimate.
    k
        Neighbours.
    seed
        Seed of the folds of the CCA, of the sample of ids for RSA and of the permutations.

    Returns
    -------
    dict
        Measure -> likeness.

    Raises
    ------
    InputError
        The rows do not fit, or there are fewer than 20 ids.
    """
    n = _same_rows(x, y)
    if n < MIN_IDS:
        raise InputError(f"{n} ids in common are too few to compare vectors; at least {MIN_IDS} are needed.")
    rng = np.random.default_rng([seed, 4])
    sample = np.arange(n) if n <= RSA_IDS else np.sort(rng.choice(n, RSA_IDS, replace=False))
    near, adjacent = nearest(x, min(k, n - 1)), _adjacency(nearest(y, min(k, n - 1)))
    ranks = distance_ranks(x[sample]), distance_ranks(y[sample])
    found = {"cca": cca(x, y, seed=seed), "cka": cka(x, y), "knn_overlap": _overlap(near, adjacent),
             "rsa": _rank_correlation(*ranks)}  # fmt: skip
    if not permutations:
        return found
    keep = cca_components(n)
    qx, qy = orthonormal(x, keep), orthonormal(y, keep)
    x32, y32 = ((z - z.mean(axis=0)).astype(np.float32) for z in (x, y))
    sx, sy = (np.einsum("ij,ij->i", z, z, dtype=np.float64) for z in (x32, y32))

    def statistics(order: Indices, part: Indices) -> tuple[float, ...]:
        """One number for each measure that grows with it; only what a permutation changes."""
        cross = float(np.square(x32.T @ y32[order], dtype=np.float64).sum())
        shared = adjacent[order[:, None], order[near]].sum()
        return (
            float(np.square(qx.T @ qy[order]).sum()),
            _hsic(cross, sx, sy[order]),
            float(shared),
            float(np.vdot(ranks[0], ranks[1][np.ix_(part, part)])),
        )

    observed = np.array(statistics(np.arange(n), np.arange(len(sample))))
    null = np.array([statistics(rng.permutation(n), rng.permutation(len(sample))) for _ in range(permutations)])
    # Differences below rounding are ties, and ties count against the pair.
    slack = 1e-6 * np.abs(observed)
    p = (1 + (null >= observed - slack).sum(axis=0)) / (1 + permutations)
    return {name: replace(own, p=float(p[j])) for j, (name, own) in enumerate(found.items())}


def _same_rows(x: NDArray[Any], y: NDArray[Any]) -> int:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InputError(f"representations must be matrices with the same number of rows, got {x.shape} and {y.shape}.")
    return len(x)

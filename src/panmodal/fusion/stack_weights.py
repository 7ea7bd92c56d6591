"""Weights of a stack: convex problems in the Gram matrices of each row's deviations.

Row i has a target r_i and k members d_i1 ... d_ik, all vectors of deviations from the same mean; Q_i is the Gram matrix of
(r_i, d_i1, ..., d_ik), so that |r_i - sum_k v_k d_ik|^2 = u' Q_i u with u = (1, -v).
"""

from __future__ import annotations

import numpy as np

from panmodal.errors import PanmodalError
from panmodal.probes.projection import Matrix

JITTER = 1e-9
"""Share of the mean diagonal added to it, so that members that are the same share their weight."""
ROUNDS = 500


def non_negative(gram: Matrix, cross: Matrix) -> Matrix:
    """Minimise v' H v / 2 - c' v over v >= 0 by the active set method of Lawson and Hanson, on Gram matrices.

    Solving Least Squares Problems (1974), chapter 23; in this form Bro and De Jong, J. Chemometrics 11:393 (1997).

    Parameters
    ----------
    gram
        H, k x k, positive definite (rows of zeros allowed: these members get no weight).
    cross
        c, length k.
    """
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise PanmodalError("out-of-fold predictions are not finite; some vectors hold values beyond double precision.")
    k = len(gram)
    weights, active = np.zeros(k), np.zeros(k, dtype=bool)
    usable = np.diag(gram) > 0
    tolerance = 1e-12 * float(np.abs(cross).max(initial=0.0))
    for _ in range(30 * k + 30):
        slope = np.where(active | ~usable, -np.inf, cross - gram @ weights)
        best = int(np.argmax(slope)) if k else 0
        if not k or slope[best] <= tolerance:
            return weights
        active[best] = True
        while True:
            at = np.flatnonzero(active)
            found = np.zeros(k)
            found[at] = np.linalg.solve(gram[np.ix_(at, at)], cross[at])
            if (found[at] > 0).all():
                weights = found
                break
            down = at[found[at] <= 0]
            if best in down and weights[best] == 0.0:
                # Rounding alone called for it.
                active[best] = usable[best] = False
                if not active.any():
                    weights = np.zeros(k)
                    break
                continue
            step = float((weights[down] / (weights[down] - found[down])).min())
            weights = weights + step * (found - weights)
            active &= weights > 1e-14 * weights.max()
            weights[~active] = 0.0
            if not active.any():
                break
    raise PanmodalError("weights of a stack were not found; its predictions may hold values beyond double precision.")


def _parts(total: Matrix) -> tuple[Matrix, Matrix]:
    """H and c of the least squares problem of a Gram matrix, with the jitter."""
    gram = total[1:, 1:].copy()
    gram[np.diag_indices_from(gram)] += JITTER * float(np.diag(gram).mean()) * (np.diag(gram) > 0)
    return gram, total[0, 1:]


def row_errors(grams: Matrix, weights: Matrix) -> Matrix:
    """Euclidean error of each row, length n."""
    u = np.concatenate([[1.0], -weights])
    half = (grams.reshape(-1, len(u)) @ u).reshape(len(grams), len(u))
    return np.sqrt(np.maximum(half @ u, 0.0))


def mean_error_weights(grams: Matrix, tol: float = 1e-10) -> tuple[Matrix, float]:
    """Minimise the mean over rows of the Euclidean error, over weights v >= 0 of any sum.

    The problem is convex. Each round minimises a quadratic that lies above it and touches it at the present weights: non-negative
    least squares with row weights 1 / e_i (Weiszfeld's algorithm), so that the error never grows. Errors are smoothed below 1e-6
    of the deviations, where their slope has a jump.

    Parameters
    ----------
    grams
        Q_i, n x (k + 1) x (k + 1).
    tol
        Relative gain of a round at which to stop.

    Returns
    -------
    weights, error
        Length k, and the mean error.
    """
    n, k = len(grams), grams.shape[1] - 1
    weights = np.zeros(k)
    start = float(np.sqrt(np.maximum(grams[:, 0, 0], 0.0)).mean()) if n else 0.0
    if start == 0.0 or k == 0:
        return weights, start
    grams = np.ascontiguousarray(grams, dtype=np.float64)
    flat = grams.reshape(n, -1)
    floor = (1e-6 * start) ** 2
    smoothed = np.sqrt(grams[:, 0, 0] + floor)
    last = float(smoothed.mean())
    for _ in range(ROUNDS):
        total = ((1.0 / smoothed) @ flat).reshape(k + 1, k + 1)
        proposed = non_negative(*_parts(total))
        smoothed = np.sqrt(row_errors(grams, proposed) ** 2 + floor)
        now = float(smoothed.mean())
        if now > last:
            break
        weights = proposed
        if last - now <= tol * last:
            break
        last = now
    return weights, float(row_errors(grams, weights).mean())


def convex_weights(total: Matrix) -> tuple[Matrix, float]:
    """Minimise u' Q u over weights v >= 0 whose sum is at most 1, exactly.

    If the minimum without the bound on the sum violates it, the sum is 1. Then Q turns into the Gram matrix E of the errors r - d_k,
    and min v' E v on the simplex has the direction of min v' E v + c (1' v - 1)^2 over v >= 0, for any c > 0: for a given direction
    the best length gives c q / (c + q), which grows with q = v' E v.

    Parameters
    ----------
    total
        Sum of the Q_i, (k + 1) x (k + 1).

    Returns
    -------
    weights, error
        Length k, and u' Q u.
    """
    gram, cross = _parts(total)
    weights = non_negative(gram, cross)
    if weights.sum() > 1.0:
        errors = total[0, 0] - total[0, 1:] - total[0, 1:, None] + gram
        scale = float(np.diag(errors).mean()) or 1.0
        weights = non_negative(errors + scale, np.full(len(gram), scale))
        weights /= weights.sum()
    u = np.concatenate([[1.0], -weights])
    return weights, float(u @ total @ u)

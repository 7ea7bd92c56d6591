"""Lasso with an intercept, in scikit-learn's objective: min |y - b - Z w|^2 / (2 n) + alpha |w|_1 for every read-out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import PanmodalError
from panmodal.probes.base import Probe
from panmodal.probes.design import Fold, Targets
from panmodal.probes.knn import LFC_KINDS
from panmodal.probes.projection import Matrix

BLOCK = 256
"""Targets solved together in coordinate descent: their coefficients stay in the cache."""


def soft_threshold(values: Matrix, threshold: float) -> Matrix:
    """Shrink towards zero: sign(v) max(|v| - threshold, 0)."""
    return values - np.clip(values, -threshold, threshold)


def lasso_coefficients(gram: Matrix, cross: Matrix, alpha: float, *, start: Matrix | None = None,
                       tol: float = 1e-10, max_sweeps: int = 20_000) -> Matrix:  # fmt: skip
    """Solve min w'Qw/2 - r'w + alpha |w|_1 for many targets by cyclic coordinate descent.

    Parameters
    ----------
    gram
        Q = Z'Z / n of centred features, r x r.
    cross
        R = Z'Y / n, r x t, one column for each target.
    alpha
        Penalty.
    start
        Coefficients to start from (r x t); zeros unless given.
    tol
        A target is done when no optimality condition is violated by more than ``tol`` times its largest |R|.
    max_sweeps
        Sweeps after which the problem counts as not solvable.

    Returns
    -------
    Matrix
        Coefficients, r x t.

    Raises
    ------
    PanmodalError
        Not converged.
    """
    coefficients = np.zeros_like(cross) if start is None else start.copy()
    diagonal = np.diag(gram).copy()
    usable = np.flatnonzero(diagonal > 1e-14 * diagonal.max(initial=0.0))
    coefficients[np.setdiff1d(np.arange(len(gram)), usable)] = 0.0
    scale = np.abs(cross).max(axis=0, initial=0.0)
    for begin in range(0, cross.shape[1], BLOCK):
        # Targets that cannot leave zero (|R| <= alpha everywhere) are answered at once.
        todo = begin + np.flatnonzero(scale[begin : begin + BLOCK] > alpha)
        still = np.setdiff1d(np.arange(begin, min(begin + BLOCK, cross.shape[1])), todo)
        coefficients[:, still] = 0.0
        w, r = np.ascontiguousarray(coefficients[:, todo]), np.ascontiguousarray(cross[:, todo])
        for _ in range(max_sweeps):
            if len(todo) == 0:
                break
            for j in usable:
                w[j] = soft_threshold(r[j] - gram[j] @ w + diagonal[j] * w[j], alpha) / diagonal[j]
            slope = (r - gram @ w)[usable]
            active = w[usable] != 0
            violation = np.where(active, np.abs(slope - alpha * np.sign(w[usable])), np.maximum(np.abs(slope) - alpha, 0.0))
            done = violation.max(axis=0) <= tol * scale[todo]
            if done.any():
                coefficients[:, todo[done]] = w[:, done]
                todo, w, r = todo[~done], np.ascontiguousarray(w[:, ~done]), np.ascontiguousarray(r[:, ~done])
        else:
            raise PanmodalError(f"lasso (alpha {alpha:g}) did not converge in {max_sweeps} sweeps.")
    return coefficients


def _path(fold: Fold, cross: Matrix, grid: tuple[float, ...]) -> dict[float, Matrix]:
    """Coefficients for every alpha: closed form on orthogonal columns, else coordinate descent from large alpha to small."""
    n = len(fold.z_train)
    gram = fold.gram / n
    if fold.orthogonal:
        diagonal = np.diag(gram)
        inverse = np.where(diagonal > 0, 1.0 / np.where(diagonal > 0, diagonal, 1.0), 0.0)[:, None]
        return {alpha: soft_threshold(cross, alpha) * inverse for alpha in grid}
    found: dict[float, Matrix] = {}
    warm: Matrix | None = None
    for alpha in sorted(grid, reverse=True):
        warm = found[alpha] = lasso_coefficients(gram, cross, alpha, start=warm)
    return found


def row_errors(fold: Fold, targets: Targets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """L2 error of every row for every alpha, without forming the predictions.

    e_i^2 = |y_i|^2 - 2 z_i (W y_i) + z_i (W W') z_i with y_i centred by the inner training mean.
    """
    train, test = fold.centred
    n = len(train)
    # Rows outside the fold get weight zero, which spares a copy of the targets.
    padded = np.zeros((len(targets.values), train.shape[1]))
    padded[fold.train] = train
    cross = padded.T @ targets.deviations / n
    held = targets.deviations[fold.test]
    held = held + held.sum(axis=0) / n
    base = np.einsum("ij,ij->i", held, held)
    errors = np.empty((len(grid), len(fold.test)))
    path = _path(fold, cross, grid)
    for k, alpha in enumerate(grid):
        w, y, z = path[alpha], held, test
        used = np.flatnonzero(w.any(axis=0))
        if len(used) < 0.7 * w.shape[1]:
            w, y = w[:, used], held[:, used]
        rows = np.flatnonzero(w.any(axis=1))
        if len(rows) < len(w):
            w, z = w[rows], test[:, rows]
        squared = base - 2 * np.einsum("ij,ij->i", z, y @ w.T) + np.einsum("ij,ij->i", z @ (w @ w.T), z)
        errors[k] = np.sqrt(np.maximum(squared, 0.0))
    return errors


def predict(fold: Fold, targets: Targets, value: float) -> Matrix:
    """Lasso predictions of the fold's test rows."""
    train, test = fold.centred
    cross = train.T @ targets.deviations / len(train)
    return targets.mean + test @ _path(fold, cross, (value,))[value]


PROBE = Probe(
    name="lasso",
    description="lasso, one alpha for all read-outs, scikit-learn's objective, after standardisation and PCA(100)",
    kinds=LFC_KINDS,
    parameter="alpha",
    grid=(1e-3, 1e-2, 1e-1, 1.0),
    row_errors=row_errors,
    predict=predict,
)

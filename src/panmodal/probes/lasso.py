"""Lasso with an intercept, in scikit-learn's objective: min |y - b - Z w|^2 / (2 n) + alpha |w|_1 for every read-out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import PanmodalError
from panmodal.probes.base import CONTINUOUS, Probe
from panmodal.probes.design import Fold, Targets
from panmodal.probes.projection import Matrix

BLOCK = 256
"""Targets solved together in coordinate descent: their coefficients stay in the cache."""
SWEEPS = 8
"""Sweeps between two Newton steps."""


def soft_threshold(values: Matrix, threshold: float) -> Matrix:
    """Shrink towards zero: sign(v) max(|v| - threshold, 0)."""
    return values - np.clip(values, -threshold, threshold)


def lasso_coefficients(gram: Matrix, cross: Matrix, alpha: float, *, start: Matrix | None = None,
                       tol: float = 1e-9, max_rounds: int = 500) -> Matrix:  # fmt: skip
    """Solve min w'Qw/2 - r'w + alpha |w|_1 for many targets by coordinate descent with Newton steps.

    Each round makes a few cyclic sweeps, which find the coefficients that are not zero and their signs, and then a Newton
    step within that orthant, cut short where a coefficient would change its sign. The step makes strongly correlated
    features converge, on which sweeps alone crawl.

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
    max_rounds
        Rounds after which the problem counts as not solvable.

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
    # Targets whose |R| nowhere exceeds alpha are zero at the optimum.
    coefficients[:, scale <= alpha] = 0.0
    open_targets = np.flatnonzero(scale > alpha)
    for begin in range(0, len(open_targets), BLOCK):
        todo = open_targets[begin : begin + BLOCK]
        w, r = coefficients[:, todo], cross[:, todo]
        for _ in range(max_rounds):
            for _ in range(SWEEPS):
                for j in usable:
                    w[j] = soft_threshold(r[j] - gram[j] @ w + diagonal[j] * w[j], alpha) / diagonal[j]
            done = _violation(gram, w, r, alpha, usable) <= tol * scale[todo]
            coefficients[:, todo[done]] = w[:, done]
            todo, w, r = todo[~done], w[:, ~done], r[:, ~done]
            if len(todo) == 0:
                break
            w = _newton(gram, w, r, alpha)
        else:
            raise PanmodalError(f"lasso (alpha {alpha:g}) did not converge in {max_rounds} rounds.")
    return coefficients


def _violation(gram: Matrix, w: Matrix, r: Matrix, alpha: float, usable: NDArray[np.intp]) -> Matrix:
    """Largest violation of the optimality conditions of each target: slope = alpha sign(w), or |slope| <= alpha at zero."""
    slope = (r - gram @ w)[usable]
    active = w[usable]
    return np.where(active != 0, np.abs(slope - alpha * np.sign(active)), np.maximum(np.abs(slope) - alpha, 0.0)).max(
        axis=0
    )


def _newton(gram: Matrix, w: Matrix, r: Matrix, alpha: float) -> Matrix:
    """Step towards the minimum over the non-zero coefficients with their signs held, as far as the signs last."""
    sign = np.sign(w).T
    active = sign != 0
    slope = np.where(active, (r - gram @ w).T - alpha * sign, 0.0)
    eye = np.eye(len(gram))
    # The small ridge keeps singular problems solvable; the step stays a descent direction.
    system = np.where(active[:, :, None] & active[:, None, :], gram, 0.0) + eye * np.where(
        active, 1e-12 * np.trace(gram), 1.0
    )[:, :, None]  # fmt: skip
    step = np.linalg.solve(system, slope[:, :, None])[:, :, 0].T
    crosses = w * (w + step) < 0
    ratio = np.where(crosses, -w / np.where(crosses, step, 1.0), 1.0)
    length = ratio.min(axis=0)
    moved = w + length * step
    moved[crosses & (ratio <= length)] = 0.0
    return moved


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
    kinds=CONTINUOUS,
    parameter="alpha",
    grid=(1e-3, 1e-2, 1e-1, 1.0),
    errors=row_errors,
    predict=predict,
)

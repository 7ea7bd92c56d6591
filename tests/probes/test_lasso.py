"""The general path of lasso: coordinate descent where columns are not orthogonal."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from panmodal.probes import Targets, get_probe
from panmodal.probes.design import Fold
from panmodal.probes.lasso import lasso_coefficients


def problem(n: int, r: int, t: int, mixing: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, r)) @ (np.eye(r) + mixing * rng.standard_normal((r, r)))
    y = z[:, :4] @ rng.standard_normal((4, t)) + rng.standard_normal((n, t))
    return z - z.mean(axis=0), y - y.mean(axis=0)


def objective(z: np.ndarray, y: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    return ((y - z @ w) ** 2).sum(axis=0) / (2 * len(z)) + alpha * np.abs(w).sum(axis=0)


@pytest.mark.parametrize("alpha", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize(("n", "r", "mixing"), [(80, 10, 0.0), (80, 10, 1.0), (40, 60, 0.3)])
def test_coordinate_descent_reaches_the_optimum(alpha: float, n: int, r: int, mixing: float) -> None:
    z, y = problem(n, r, 20, mixing)
    ours = lasso_coefficients(z.T @ z / n, z.T @ y / n, alpha)
    theirs = Lasso(alpha, fit_intercept=False, tol=1e-13, max_iter=500_000).fit(z, y).coef_.T
    assert (objective(z, y, ours, alpha) <= objective(z, y, theirs, alpha) * (1 + 1e-10)).all()
    slope = z.T @ (y - z @ ours) / n
    assert np.abs(slope).max() <= alpha + 1e-7
    np.testing.assert_allclose(slope[ours != 0], alpha * np.sign(ours[ours != 0]), atol=1e-7)
    if n > r:
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_correlated_columns_take_the_general_path_and_agree_with_scikit_learn() -> None:
    z, y = problem(70, 8, 15, 1.0)
    z, y = z + 3, y + 1
    fold = Fold(z[:50], z[50:], np.arange(50), np.arange(50, 70))
    assert not fold.orthogonal
    lasso, targets = get_probe("lasso"), Targets.of(y[:50])
    inner = lasso.errors(fold, Targets.of(y), lasso.grid)
    for k, alpha in enumerate(lasso.grid):
        theirs = Lasso(alpha, tol=1e-12, max_iter=200_000).fit(z[:50], y[:50]).predict(z[50:])
        np.testing.assert_allclose(lasso.predict(fold, targets, alpha), theirs, atol=1e-6)
        np.testing.assert_allclose(inner[k], np.linalg.norm(theirs - y[50:], axis=1), rtol=1e-7)


def test_warm_starts_do_not_change_the_answer_and_zero_is_exact() -> None:
    z, y = problem(60, 12, 10, 0.5)
    gram, cross = z.T @ z / 60, z.T @ y / 60
    far = lasso_coefficients(gram, cross, 0.01, start=np.full(cross.shape, 3.0))
    np.testing.assert_allclose(far, lasso_coefficients(gram, cross, 0.01), atol=1e-7)
    assert (lasso_coefficients(gram, cross, np.abs(cross).max(), start=far) == 0).all()


def test_a_column_of_zeros_gets_no_coefficient() -> None:
    z, y = problem(40, 5, 6, 0.5)
    z[:, 2] = 0
    w = lasso_coefficients(z.T @ z / 40, z.T @ y / 40, 0.01)
    assert (w[2] == 0).all() and np.isfinite(w).all()

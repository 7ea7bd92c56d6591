"""Weights of kernels, learned from the leave-one-out error of kernel ridge, which has a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from panmodal.errors import PanmodalError
from panmodal.probes.projection import Matrix

LOWEST, HIGHEST = -14.0, 10.0
"""Bounds of the log of a weight: its signal to noise variance."""
SCALES = np.arange(-8.0, 7.0, 2.0)
STEPS = 60
REACH = 4.0
"""By how much the log of all weights may change when they are fitted to all rows."""


@dataclass(frozen=True)
class Smoother:
    """Kernel ridge with an unpenalised bias: S = sum_k w_k K_k + diag(noise), A = S^-1 - S^-1 1 1' S^-1 / (1' S^-1 1).

    Predictions are b + K* A Y with the bias b = (1' S^-1 Y) / (1' S^-1 1), and leave-one-out residuals are (A Y)_i / A_ii
    (Cawley and Talbot, Neural Networks 17:1467, 2004).
    """

    inverse: Matrix

    @classmethod
    def of(cls, kernels: Sequence[Matrix], weights: Matrix, noise: Matrix) -> Smoother:
        """Combine kernels (n x n each) with weights and the noise variance of each row."""
        from scipy.linalg import lapack

        total = np.zeros((len(noise), len(noise)))
        for weight, kernel in zip(weights, kernels, strict=True):
            total += weight * kernel
        total[np.diag_indices_from(total)] += noise
        factor, failed = lapack.dpotrf(total, lower=True, overwrite_a=True)
        inverse, failed_too = lapack.dpotri(factor, lower=True, overwrite_c=True) if not failed else (factor, failed)
        if failed or failed_too:
            raise PanmodalError(
                "the sum of kernels is not positive definite; the vectors hold values beyond double precision."
            )
        inverse = np.tril(inverse)
        return cls(inverse + np.tril(inverse, -1).T)

    @cached_property
    def sums(self) -> Matrix:
        """Row sums of the inverse, S^-1 1."""
        return self.inverse.sum(axis=1)

    @cached_property
    def dual(self) -> Matrix:
        """A: the inverse with the bias taken out, n x n; its rows sum to zero."""
        return self.inverse - np.outer(self.sums, self.sums) / self.sums.sum()

    @property
    def bias(self) -> Matrix:
        """Weights of the training rows in the bias, summing to one."""
        return self.sums / self.sums.sum()


def leave_one_out(
    log_weights: Matrix, kernels: Sequence[Matrix], absent: Matrix, gram: Matrix, *, gradient: bool = True
) -> tuple[float, Matrix]:
    """Mean over rows of the L2 error when the row is left out, and its gradient.

    With h = diag(A G A) and a = diag(A), the error of row i is sqrt(h_i) / a_i. For a change dS, dA = -A dS A, hence the gradient
    with respect to S is -sym(A (2 diag(p) H + diag(q) A)) with H = A G A, p_i = 1 / (2 n a_i sqrt(h_i)), q_i = -sqrt(h_i) / (n a_i^2).

    Parameters
    ----------
    log_weights
        Logarithm of the weight of each kernel, length k.
    kernels
        k matrices n x n, zero where a row lacks the modality.
    absent
        1 where a row lacks a kernel's modality, k x n: it then does not know that part of its response, whose variance is the
        weight, and so counts as noisier by it.
    gram
        Gram matrix of the targets, n x n.
    """
    weights = np.exp(log_weights)
    dual = Smoother.of(kernels, weights, 1.0 + weights @ absent).dual
    half = dual @ gram
    n = len(gram)
    diagonal = np.diag(dual)
    if not gradient:
        squares = np.einsum("ij,ji->i", half, dual)
        return float((np.sqrt(np.maximum(squares, 0.0)) / diagonal).mean()), np.empty(0)
    inner = half @ dual
    squares = np.maximum(np.diag(inner), np.finfo(float).tiny)
    root = np.sqrt(squares)
    p, q = 1 / (2 * n * diagonal * root), -root / (n * diagonal**2)
    slope = -dual @ (2 * p[:, None] * inner + q[:, None] * dual)
    slope = (slope + slope.T) / 2
    flat = slope.ravel()
    # Products in the precision in which the kernels are kept.
    single = flat.astype(kernels[0].dtype, copy=False)
    found = np.array([float(np.dot(single, k.ravel())) for k in kernels]) + absent @ np.diag(slope)
    return float((root / diagonal).mean()), found * weights


def learn_weights(
    kernels: Sequence[Matrix], absent: Matrix, gram: Matrix, *, equal: bool = False
) -> tuple[Matrix, float]:
    """Choose weights by the leave-one-out error: log weights (length k) and the error.

    First the best common weight of a coarse grid, then descent in all of them (L-BFGS-B); ``equal`` keeps one common weight and
    refines it alone. Deterministic.
    """
    from scipy.optimize import minimize, minimize_scalar

    k = len(kernels)
    # In units of the responses, so that the steps of the search do not depend on them.
    unit = float(np.sqrt(np.diag(gram).mean())) or 1.0
    gram = gram / unit**2

    def error(scale: float) -> float:
        return leave_one_out(np.full(k, scale - np.log(k)), kernels, absent, gram, gradient=False)[0]

    errors = [error(s) for s in SCALES]
    best = int(np.argmin(errors))
    if equal or k == 1:
        low, high = SCALES[max(best - 1, 0)], SCALES[min(best + 1, len(SCALES) - 1)]
        found = minimize_scalar(error, bounds=(low, high), method="bounded", options={"xatol": 0.05, "maxiter": 20})
        scale, value = (found.x, found.fun) if found.fun < errors[best] else (SCALES[best], errors[best])
        return np.full(k, scale - np.log(k)), float(value) * unit
    start = np.full(k, SCALES[best] - np.log(k))
    result = minimize(leave_one_out, start, args=(kernels, absent, gram), jac=True, method="L-BFGS-B",
                      bounds=[(LOWEST, HIGHEST)] * k, options={"maxiter": STEPS, "ftol": 1e-7, "gtol": 1e-7})  # fmt: skip
    if result.fun > errors[best]:
        return start, float(errors[best]) * unit
    return result.x, float(result.fun) * unit


def rescale(log_weights: Matrix, kernels: Sequence[Matrix], absent: Matrix, gram: Matrix) -> tuple[Matrix, float]:
    """Choose the common scale of weights whose ratios were learned from some of the rows: log weights and leave-one-out error.

    Ratios are much the same for any number of rows, but how far to trust vectors that are noisy themselves depends on it.
    """
    from scipy.optimize import minimize_scalar

    def error(shift: float) -> float:
        return leave_one_out(log_weights + shift, kernels, absent, gram, gradient=False)[0]

    found = minimize_scalar(error, bounds=(-REACH, REACH), method="bounded", options={"xatol": 0.1, "maxiter": 12})
    unmoved = error(0.0)
    return (log_weights + found.x, float(found.fun)) if found.fun < unmoved else (log_weights, unmoved)

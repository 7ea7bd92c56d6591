"""L-BFGS for many softmax regressions at once, in array-API operations; genes that have converged leave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.softmax_ops import Search

MEMORY = 10
"""Pairs of steps and gradients that are remembered."""
FAINT = 4e-4
"""The bound is also held below this times the tolerance times what a gene gains over W = 0."""
ROUNDING = 1e-12
"""A bound below this share of the objective is rounding."""


@dataclass(frozen=True)
class Solution:
    """Coefficients in the basis (g x 2 x q), certified bounds of (f - optimum) / f, whether converged, iterations (g each)."""

    w: NDArray[Any]
    gaps: NDArray[Any]
    finished: NDArray[np.bool_]
    iterations: NDArray[np.int32]


@dataclass(frozen=True)
class Problem:
    """Genes of a block: rows with a one appended (n x q), labels in each gene's own order (g x n), class weights (g x 3)."""

    rows: Any
    labels: Any
    weights: Any
    three: Any

    @classmethod
    def of(cls, rows: Any, labels: Any, place: Any, counts: Any, n_classes: Any) -> Problem:
        """Lay out genes: rows with a one appended (n x q), labels (n x g), place of each class (g x 3), counts (g x 3)."""
        own = np.ascontiguousarray(np.take_along_axis(place, labels.T.astype(np.int64) + 1, axis=1))
        weights = np.zeros(counts.shape)
        # Equal shares for the classes that occur, equal shares for the rows of a class: n / (3 n_c) normalised to a sum of one.
        np.put_along_axis(weights, place.astype(np.int64), 1.0 / (n_classes[:, None] * np.maximum(counts, 1)), axis=1)
        return cls(rows, own, weights, (n_classes == 3).astype(np.float64))

    def take(self, genes: Any) -> Problem:
        """Return the problem of some genes."""
        return Problem(self.rows, self.labels[genes], self.weights[genes], self.three[genes])

    def on(self, dtype: Any, device: str) -> Problem:
        """Move to a device; NumPy arrays stay NumPy arrays for ``cpu``."""
        if device == "cpu":
            return Problem(
                np.ascontiguousarray(self.rows, dtype),
                self.labels,
                self.weights.astype(dtype),
                self.three.astype(dtype),
            )
        import torch

        wide = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
        move = partial(torch.asarray, dtype=wide, device=device)
        return Problem(move(self.rows), torch.asarray(self.labels, device=device), move(self.weights), move(self.three))


def minimise(
    problem: Problem, start: Any, signal: Any, penalty: float, search: Search, tolerance: float, most: int
) -> Solution:
    """Minimise the objectives of a block by L-BFGS (Nocedal and Wright 2006, alg. 7.4); genes that have converged leave it.

    Parameters
    ----------
    problem
        On the device and in the precision to compute in.
    start
        Coefficients in the basis, g x 2 x q, NumPy.
    signal
        Squared norm of the gradient by W at zero, g, NumPy. With a large penalty, signal / (4 penalty) is what a gene gains over
        W = 0; the bound must be small against that too, or its predictions are not those of the optimum.
    penalty, search, tolerance, most
        Of |W|^2; line search; relative gap; iterations.

    Returns
    -------
    Solution
        As NumPy arrays.
    """
    from array_api_compat import array_namespace, device

    rows, labels, weights, three = problem.rows, problem.labels, problem.weights, problem.three
    xp = array_namespace(rows)
    g, q, n = labels.shape[0], rows.shape[1], rows.shape[0]
    w = xp.asarray(start, dtype=rows.dtype, device=device(rows), copy=True)
    ridge = xp.full((q,), 2.0 * penalty, dtype=rows.dtype, device=device(rows))
    ridge[-1] = 0.0
    # The second derivatives at W = 0 on average over genes; L-BFGS scales them for each gene.
    metric = 1.0 / (xp.mean(rows * rows, axis=0) / 3.0 + ridge)
    columns = xp.asarray(rows.T, copy=True)
    out_w, out_gap, out_n = np.array(start, copy=True), np.full(g, np.inf, start.dtype), np.zeros(g, np.int32)
    index, finished = np.arange(g), np.zeros(g, bool)

    def dot(a: Any, b: Any) -> Any:
        # For NumPy in one pass without the product in memory.
        return np.einsum("gij,gij->g", a, b) if isinstance(a, np.ndarray) else xp.sum(xp.sum(a * b, axis=2), axis=1)

    def gradient() -> Any:
        k = w.shape[0]
        return xp.reshape(xp.reshape(residuals, (2 * k, n)) @ rows, (k, 2, q)) + ridge * w

    logits = xp.reshape(xp.reshape(w, (2 * g, q)) @ columns, (g, 2, n))
    residuals, none = xp.empty_like(logits), xp.zeros_like(three)
    norms = xp.sum(rows[:, :-1] * rows[:, :-1], axis=1)
    _, losses, curvatures = search(
        labels, norms, weights, three, logits, xp.zeros_like(logits), residuals, none, none, none, penalty
    )
    grad = gradient()
    pairs: list[tuple[Any, Any, Any]] = []
    for iteration in range(most + 1):
        f = losses + penalty * dot(w[:, :, :-1], w[:, :, :-1])
        inner = grad[:, :, :-1]
        gap = _to_numpy(_bound(xp, dot(inner, inner), grad[:, :, -1], curvatures, penalty))
        value = _to_numpy(f)
        allowed = tolerance * np.minimum(value, FAINT * signal[index] / (4.0 * penalty))
        done, gap = gap <= np.maximum(allowed, ROUNDING * value), gap / value
        last = iteration == most or done.all()
        # Leaving costs a copy of those that stay, so that they leave a few at a time.
        if last or done.sum() >= max(1, len(index) // 8):
            leaving = np.flatnonzero(done) if not last else np.arange(len(index))
            out_w[index[leaving]] = _to_numpy(w)[leaving]
            out_gap[index[leaving]], out_n[index[leaving]] = gap[leaving], iteration
            finished[index[leaving]] = done[leaving]
            if last:
                break
            stay = np.flatnonzero(~done)
            index = index[stay]
            kept = xp.asarray(stay, device=device(rows))
            labels, weights, three, logits, w, grad = (a[kept] for a in (labels, weights, three, logits, w, grad))
            pairs = [(s[kept], y[kept], r[kept]) for s, y, r in pairs]
            residuals = residuals[: len(stay)]
        direction = -_two_loop(grad, pairs, metric, dot)
        slope = dot(direction, grad)
        if xp.any(slope >= 0):
            # Rounding has spoilt the history of these genes: steepest descent in the metric.
            uphill = (slope >= 0)[:, None, None]
            direction = xp.where(uphill, -grad * metric, direction)
            slope = dot(direction, grad)
        k = len(index)
        turned = xp.reshape(xp.reshape(direction, (2 * k, q)) @ columns, (k, 2, n))
        along, square = dot(w[:, :, :-1], direction[:, :, :-1]), dot(direction[:, :, :-1], direction[:, :, :-1])
        step, losses, curvatures = search(
            labels, norms, weights, three, logits, turned, residuals, along, square, slope, penalty
        )
        moved = direction * step[:, None, None]
        w = w + moved
        before, grad = grad, gradient()
        change = grad - before
        product = dot(moved, change)
        # A pair without positive curvature is remembered as nothing.
        inverse = xp.where(product > 0, 1.0 / xp.where(product > 0, product, 1.0), 0.0)
        pairs = [*pairs[-(MEMORY - 1) :], (moved, change, inverse)]
    return Solution(out_w, out_gap, finished, out_n)


def _bound(xp: Any, square: Any, bias: Any, curvatures: Any, penalty: float) -> Any:
    """Bound how far each gene's objective lies above its optimum.

    With the second derivatives H_bb by the biases, half of g' H^-1 g is half of D = g_b' H_bb^-1 g_b plus that of the rest, whose
    second derivatives are at least 2 penalty and whose gradient is g_W - H_Wb H_bb^-1 g_b; the norm of the latter term is at most the
    square root of D times the sum over rows of trace and squared norm (Cauchy and Schwarz).

    Parameters
    ----------
    square, bias
        Squared norm of g_W (g) and g_b (g x 2).
    curvatures
        As :class:`panmodal.probes.softmax_ops.Search` returns them (4 x g).
    """
    uu, uv, vv, spread = (curvatures[k, ...] for k in range(4))
    # With two classes there is no v: no gradient and no curvature by it.
    two = vv <= 0
    vv = xp.where(two, xp.ones_like(vv), vv)
    least = 1e-30 + 1e-6 * uu * vv
    determinant = xp.where(uu * vv - uv * uv > least, uu * vv - uv * uv, least)
    gu, gv = bias[:, 0], xp.where(two, xp.zeros_like(vv), bias[:, 1])
    decrement = (vv * gu * gu - 2.0 * uv * gu * gv + uu * gv * gv) / determinant
    decrement = xp.where(decrement > 0, decrement, xp.zeros_like(decrement))
    norm = xp.sqrt(square) + xp.sqrt(decrement * spread)
    return decrement / 2.0 + norm * norm / (4.0 * penalty)


def signal_of(problem: Problem, search: Search) -> NDArray[Any]:
    """Squared norm of the gradient by W at W = 0, of each gene."""
    from array_api_compat import array_namespace, device

    rows = problem.rows
    xp = array_namespace(rows)
    g, q, n = problem.labels.shape[0], rows.shape[1], rows.shape[0]
    logits = xp.zeros((g, 2, n), dtype=rows.dtype, device=device(rows))
    residuals, none = xp.empty_like(logits), xp.zeros_like(problem.three)
    norms = xp.zeros_like(rows[:, 0])
    search(problem.labels, norms, problem.weights, problem.three, logits, logits, residuals, none, none, none, 1.0)
    grad = xp.reshape(xp.reshape(residuals, (2 * g, n)) @ rows, (g, 2, q))[:, :, :-1]
    return _to_numpy(xp.sum(xp.sum(grad * grad, axis=2), axis=1))


def _two_loop(grad: Any, pairs: list[tuple[Any, Any, Any]], metric: Any, dot: Any) -> Any:
    """Multiply the gradient by the inverse Hessian that L-BFGS remembers."""
    q, shares = grad, []
    for s, y, rho in reversed(pairs):
        share = rho * dot(s, q)
        shares.append(share)
        q = q - share[:, None, None] * y
    r = q * metric
    if pairs:
        s, y, rho = pairs[-1]
        size = dot(y, y * metric) * rho
        positive = size > 0
        r = r * (positive / (size + ~positive))[:, None, None]
        r = r + (q * metric) * (~positive)[:, None, None]
    for (s, y, rho), share in zip(pairs, reversed(shares), strict=True):
        r = r + (share - rho * dot(y, r))[:, None, None] * s
    return r


def _to_numpy(x: Any) -> NDArray[Any]:
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()

"""One line search of many softmax regressions at once, in array-API operations (softmax_kernel.py has it compiled).

A gene's three class logits sum to zero and are kept as two numbers (u, v) in an orthonormal basis of that plane,

    l0 = u / sqrt 2 + v / sqrt 6,   l1 = -u / sqrt 2 + v / sqrt 6,   l2 = -2 v / sqrt 6,

so that the penalty |W|^2 is the same in both. With two classes l2 does not exist and v stays 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

U, V = 1 / math.sqrt(2), 1 / math.sqrt(6)
ENOUGH = 0.25
"""A line search ends where the slope is below this share of the slope at its start."""
TRIALS = 12
"""Steps tried at most in one line search."""
LARGEST = 80.0
"""Differences of logits are clipped here: e^80 is still a number in single precision, and 1 / (1 + e^80) is 0."""


class Search(Protocol):
    """Search along directions; the logits move to where the search ends and the residuals are those of that point.

    Parameters
    ----------
    labels
        Classes 0, 1, 2 of each gene in its own order, present ones first (g x n, int8).
    norms
        Squared norm of each row without the one for the bias (n).
    weights
        Weight of a row of each class (g x 3).
    three
        Whether a gene has three classes, 1 or 0 (g).
    logits, directions, residuals
        In the basis (g x 2 x n). Residuals are the derivatives of the loss by the logits.
    along, square
        <W, d> and <d, d> without the bias (g).
    slope
        Derivative at the start (g).
    penalty
        Of |W|^2.

    Returns
    -------
    steps, losses, curvatures
        Length of each step; the loss without penalty where it ends (g each); and four curvatures there (4 x g): the second derivatives
        of the loss by the biases (uu, uv, vv), and the sum over rows of the trace of a row's part of them times its norm.
    """

    def __call__(self, labels: Any, norms: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any,
                 square: Any, slope: Any, penalty: float) -> tuple[Any, Any, Any]:  # fmt: skip
        """Search (see the class)."""
        ...


def next_step(
    step: Any, slope: Any, curvature: Any, low: Any, slope_low: Any, high: Any, slope_high: Any, xp: Any
) -> Any:
    """Newton's step to the root of the slope, kept inside the bracket (low, high); high is 0 while there is none."""
    newton = step - slope / curvature
    width = high - low
    inside = (newton > low + 0.05 * width) & (newton < high - 0.05 * width)
    share = xp.clip(-slope_low / (slope_high - slope_low), 0.1, 0.9)
    bracketed = xp.where(inside, newton, low + width * share)
    return xp.where(high > 0, bracketed, xp.clip(newton, 1.2 * step, 8.0 * step))


def _evaluate(
    xp: Any, labels: Any, norms: Any, weights: Any, three: Any, logits: Any, directions: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Residuals (g x 2 x n), slope, second derivative along the directions, loss (g each) and curvatures (4 x g)."""
    is_class = [labels == c for c in range(3)]
    basis = [(U, -U, 0.0), (V, V, -2.0 * V)]
    zero = xp.zeros_like(logits[:, 0, :])

    def pick(values: Sequence[Any]) -> Any:
        return xp.where(is_class[0], values[0], xp.where(is_class[1], values[1], values[2]))

    own = [basis[0][c] * logits[:, 0, :] + basis[1][c] * logits[:, 1, :] for c in range(3)]
    reference = pick(own)
    weight = pick([weights[:, c : c + 1] + zero for c in range(3)])
    odds = []
    for c in range(3):
        e = xp.where(is_class[c], zero, xp.exp(xp.clip(own[c] - reference, -LARGEST, LARGEST)))
        odds.append(e * three[:, None] if c == 2 else e)
    others = odds[0] + odds[1] + odds[2]
    share = 1.0 / (1.0 + others)
    p = [e * share for e in odds]
    r = [xp.where(is_class[c], -others * share, p[c]) for c in range(3)]
    residuals = xp.stack([weight * sum(r[c] * side[c] for c in range(3)) for side in basis], axis=1)
    slope = xp.sum(xp.sum(residuals * directions, axis=2), axis=1)
    # Second derivatives by (u, v), from differences to the row's own class so that nothing cancels.
    turns = []
    for side in basis:
        base = pick([side[c] + zero for c in range(3)])
        turns.append([side[c] - base for c in range(3)])
    means = [sum(p[c] * turn[c] for c in range(3)) for turn in turns]

    def second(a: int, b: int) -> Any:
        return weight * (sum(p[c] * turns[a][c] * turns[b][c] for c in range(3)) - means[a] * means[b])

    uu, uv, vv = second(0, 0), second(0, 1), second(1, 1)
    du, dv = directions[:, 0, :], directions[:, 1, :]
    curvature = xp.sum(uu * du * du + 2.0 * uv * du * dv + vv * dv * dv, axis=1)
    curvatures = xp.stack([xp.sum(h, axis=1) for h in (uu, uv, vv, (uu + vv) * norms)], axis=0)
    return residuals, slope, curvature, xp.sum(weight * xp.log1p(others), axis=1), curvatures


def array_search(labels: Any, norms: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any,
                 square: Any, slope: Any, penalty: float) -> tuple[Any, Any, Any]:  # fmt: skip
    """Search with array-API operations, on any device (see :class:`Search`)."""
    from array_api_compat import array_namespace, device

    xp = array_namespace(logits)
    g = logits.shape[0]
    step = xp.ones(g, dtype=logits.dtype, device=device(logits))
    low, high, slope_high = xp.zeros_like(step), xp.zeros_like(step), xp.zeros_like(step)
    slope_low, losses = slope + xp.zeros_like(step), xp.zeros_like(step)
    curvatures = xp.zeros((4, g), dtype=logits.dtype, device=device(logits))
    todo = xp.arange(g, device=device(logits))
    for trial in range(TRIALS):
        at = logits[todo] + step[todo][:, None, None] * directions[todo]
        found = _evaluate(xp, labels[todo], norms, weights[todo], three[todo], at, directions[todo])
        residuals[todo], losses[todo], curvatures[:, todo] = found[0], found[3], found[4]
        s1 = found[1] + 2.0 * penalty * (along[todo] + step[todo] * square[todo])
        s2 = found[2] + 2.0 * penalty * square[todo]
        more = xp.abs(s1) > ENOUGH * xp.abs(slope[todo])
        if trial == TRIALS - 1 or not xp.any(more):
            break
        todo, s1, s2 = todo[more], s1[more], s2[more]
        beyond, own = s1 > 0, step[todo]
        high[todo], slope_high[todo] = xp.where(beyond, own, high[todo]), xp.where(beyond, s1, slope_high[todo])
        low[todo], slope_low[todo] = xp.where(beyond, low[todo], own), xp.where(beyond, slope_low[todo], s1)
        step[todo] = next_step(own, s1, s2, low[todo], slope_low[todo], high[todo], slope_high[todo], xp)
    logits += step[:, None, None] * directions
    return step, losses, curvatures

"""One line search of many softmax regressions at once, in array-API operations (softmax_kernel.py has it compiled).

A gene's three class logits sum to zero and are kept as two numbers (u, v) in an orthonormal basis of that plane,

    l0 = u / sqrt 2 + v / sqrt 6,   l1 = -u / sqrt 2 + v / sqrt 6,   l2 = -2 v / sqrt 6,

so that the penalty |W|^2 is the same in both. With two classes l2 does not exist and v stays 0.
"""

from __future__ import annotations

import math
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
        Length of each step; the loss without penalty and the mean second derivative by a bias where it ends (g each).
    """

    def __call__(self, labels: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any,
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


def _evaluate(xp: Any, labels: Any, weights: Any, three: Any, logits: Any, directions: Any) -> tuple[Any, ...]:
    """Residuals (g x 2 x n), slope, second derivative along the directions, loss and curvature of the bias (g each)."""
    is_class = [labels == c for c in range(3)]

    def pick(values: list[Any]) -> Any:
        return xp.where(is_class[0], values[0], xp.where(is_class[1], values[1], values[2]))

    def classes(two: Any) -> list[Any]:
        u, v = two[:, 0, :] * U, two[:, 1, :] * V
        return [v + u, v - u, -2.0 * v]

    own = classes(logits)
    reference = pick(own)
    weight = pick([weights[:, c : c + 1] + xp.zeros_like(reference) for c in range(3)])
    odds = []
    for c in range(3):
        e = xp.exp(xp.clip(own[c] - reference, -LARGEST, LARGEST))
        e = xp.where(is_class[c], xp.zeros_like(e), e)
        odds.append(e * three[:, None] if c == 2 else e)
    others = odds[0] + odds[1] + odds[2]
    share = 1.0 / (1.0 + others)
    p = [e * share for e in odds]
    r = [xp.where(is_class[c], -others * share, p[c]) for c in range(3)]
    residuals = xp.stack([weight * (r[0] - r[1]) * U, weight * (r[0] + r[1] - 2.0 * r[2]) * V], axis=1)
    slope = xp.sum(xp.sum(residuals * directions, axis=2), axis=1)
    turns = classes(directions)
    base = pick(turns)
    first = [p[c] * (turns[c] - base) for c in range(3)]
    mean = first[0] + first[1] + first[2]
    second = sum(first[c] * (turns[c] - base) for c in range(3)) - mean * mean
    spread = share * (1.0 - share) + sum(q * (1.0 - q) for q in p)
    losses = xp.sum(weight * xp.log1p(others), axis=1)
    return residuals, slope, xp.sum(weight * second, axis=1), losses, xp.sum(weight * spread, axis=1) / (1.0 + three)


def array_search(labels: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any,
                 square: Any, slope: Any, penalty: float) -> tuple[Any, Any, Any]:  # fmt: skip
    """Search with array-API operations, on any device (see :class:`Search`)."""
    from array_api_compat import array_namespace, device

    xp = array_namespace(logits)
    g = logits.shape[0]
    step = xp.ones(g, dtype=logits.dtype, device=device(logits))
    low, high, slope_high = xp.zeros_like(step), xp.zeros_like(step), xp.zeros_like(step)
    slope_low = slope + xp.zeros_like(step)
    losses, curvatures = xp.zeros_like(step), xp.zeros_like(step)
    todo = xp.arange(g, device=device(logits))
    for _ in range(TRIALS):
        at = logits[todo] + step[todo][:, None, None] * directions[todo]
        found = _evaluate(xp, labels[todo], weights[todo], three[todo], at, directions[todo])
        residuals[todo], losses[todo], curvatures[todo] = found[0], found[3], found[4]
        s1 = found[1] + 2.0 * penalty * (along[todo] + step[todo] * square[todo])
        s2 = found[2] + 2.0 * penalty * square[todo]
        more = xp.abs(s1) > ENOUGH * xp.abs(slope[todo])
        if not xp.any(more):
            break
        todo, s1, s2 = todo[more], s1[more], s2[more]
        beyond, own = s1 > 0, step[todo]
        high[todo], slope_high[todo] = xp.where(beyond, own, high[todo]), xp.where(beyond, s1, slope_high[todo])
        low[todo], slope_low[todo] = xp.where(beyond, low[todo], own), xp.where(beyond, slope_low[todo], s1)
        step[todo] = next_step(own, s1, s2, low[todo], slope_low[todo], high[todo], slope_high[todo], xp)
    logits += step[:, None, None] * directions
    return step, losses, curvatures

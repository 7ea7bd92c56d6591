"""The line search of many softmax regressions, compiled for the processor in single precision (see softmax_ops.py).

The loops over rows hold no call and no branch, so that the compiler can work on many rows at once; exponential and logarithm are
polynomials for that reason.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from panmodal.probes.softmax_ops import ENOUGH, LARGEST, TRIALS, U, V

# Sums of single-precision terms may be re-ordered (reassoc) and multiplied and added in one (contract); there are no NaNs (nnan).
compiled = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp", "nnan"}
)
inlined = numba.njit(inline="always", fastmath={"reassoc", "contract", "nsz", "arcp", "nnan"})

f4, i4 = np.float32, np.int32
# Chebyshev interpolation of these degrees is exact to single precision on these short intervals.
_HALF = math.log(2) / 2
_EXP = Chebyshev.interpolate(np.exp, 6, domain=[-_HALF, _HALF]).convert(kind=Polynomial).coef


def _log_ratio(m: Any) -> Any:
    """log(1 + m) / m."""
    safe = np.where(m == 0, 1.0, m)
    return np.where(m == 0, 1.0, np.log1p(safe) / safe)


_LOG = (
    Chebyshev.interpolate(_log_ratio, 10, domain=[math.sqrt(0.5) - 1, math.sqrt(2) - 1]).convert(kind=Polynomial).coef
)
E0, E1, E2, E3, E4, E5, E6 = (f4(c) for c in _EXP)
L0, L1, L2, L3, L4, L5, L6, L7, L8, L9, L10 = (f4(c) for c in _LOG)
# ln 2 in two parts, the first with so few digits that its product with a small whole number is exact.
LN2_HIGH = f4(round(math.log(2) * 1024) / 1024)
LN2_LOW = f4(math.log(2) - round(math.log(2) * 1024) / 1024)
LOG2E, ROOT2 = f4(1 / math.log(2)), f4(math.sqrt(2))
U4, V4, LARGEST4, ENOUGH4 = f4(U), f4(V), f4(LARGEST), f4(ENOUGH)
ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)


@inlined
def fast_exp(x: Any) -> Any:
    """Exponential of a number within +-80: 2^k e^r with |r| <= ln 2 / 2."""
    k = np.floor(x * LOG2E + HALF)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = E0 + r * (E1 + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6)))))
    return p * i4((i4(k) + i4(127)) << i4(23)).view(np.float32)


@inlined
def fast_log(x: Any) -> Any:
    """Logarithm of a number of at least 1: e ln 2 + log(1 + m) with 1 + m between the roots of a half and of two."""
    bits = f4(x).view(np.int32)
    exponent = f4((bits >> i4(23)) - i4(127))
    mantissa = i4((bits & i4(0x007FFFFF)) | i4(0x3F800000)).view(np.float32)
    large = mantissa > ROOT2
    exponent = exponent + ONE if large else exponent
    m = mantissa * HALF - ONE if large else mantissa - ONE
    high = L6 + m * (L7 + m * (L8 + m * (L9 + m * L10)))
    p = L0 + m * (L1 + m * (L2 + m * (L3 + m * (L4 + m * (L5 + m * high)))))
    return (exponent * LN2_LOW + m * p) + exponent * LN2_HIGH


@compiled
def approximate(x: Any) -> Any:
    """Exponentials of x and logarithms of 1 + |x|, for tests."""
    out = np.empty((2, x.size), np.float32)
    for i in range(x.size):
        out[0, i] = fast_exp(x[i])
        out[1, i] = fast_log(ONE + abs(x[i]))
    return out


@compiled
def _one_gene(labels: Any, norms: Any, w0: Any, w1: Any, w2: Any, third: Any, step: Any, u: Any, v: Any, du: Any, dv: Any,
              ru: Any, rv: Any) -> Any:  # fmt: skip
    """Residuals of one gene at a step; returns slope, second derivative, loss, and the four curvatures of softmax_ops.Search."""
    s1, s2, loss, cuu, cuv, cvv, spread = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(labels.size):
        a, b = (u[i] + step * du[i]) * U4, (v[i] + step * dv[i]) * V4
        l0, l1, l2 = b + a, b - a, -TWO * b
        c = labels[i]
        own = l0 if c == 0 else (l1 if c == 1 else l2)
        w = w0 if c == 0 else (w1 if c == 1 else w2)
        e0 = ZERO if c == 0 else fast_exp(min(max(l0 - own, -LARGEST4), LARGEST4))
        e1 = ZERO if c == 1 else fast_exp(min(max(l1 - own, -LARGEST4), LARGEST4))
        e2 = ZERO if c == 2 else third * fast_exp(min(max(l2 - own, -LARGEST4), LARGEST4))
        others = e0 + e1 + e2
        share = ONE / (ONE + others)
        missed = others * share
        p0, p1, p2 = e0 * share, e1 * share, e2 * share
        r0 = -missed if c == 0 else p0
        r1 = -missed if c == 1 else p1
        r2 = -missed if c == 2 else p2
        ru[i] = w * (r0 - r1) * U4
        rv[i] = w * (r0 + r1 - TWO * r2) * V4
        s1 += ru[i] * du[i] + rv[i] * dv[i]
        # Second derivatives by (u, v), from differences to the row's own class so that nothing cancels.
        bu = U4 if c == 0 else (-U4 if c == 1 else ZERO)
        bv = -TWO * V4 if c == 2 else V4
        u0, u1, u2 = U4 - bu, -U4 - bu, -bu
        v01, v2 = V4 - bv, -TWO * V4 - bv
        mu, mv = p0 * u0 + p1 * u1 + p2 * u2, (p0 + p1) * v01 + p2 * v2
        huu = w * (p0 * u0 * u0 + p1 * u1 * u1 + p2 * u2 * u2 - mu * mu)
        huv = w * ((p0 * u0 + p1 * u1) * v01 + p2 * u2 * v2 - mu * mv)
        hvv = w * ((p0 + p1) * v01 * v01 + p2 * v2 * v2 - mv * mv)
        s2 += huu * du[i] * du[i] + TWO * huv * du[i] * dv[i] + hvv * dv[i] * dv[i]
        loss += w * fast_log(ONE + others)
        cuu += huu
        cuv += huv
        cvv += hvv
        spread += (huu + hvv) * norms[i]
    return s1, s2, loss, cuu, cuv, cvv, spread


@compiled
def _search(labels: Any, norms: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any, square: Any,
            slope: Any, penalty: Any, out: Any) -> None:  # fmt: skip
    double = TWO * f4(penalty)
    for j in range(labels.shape[0]):
        low, high, slope_low, slope_high = ZERO, ZERO, slope[j], ZERO
        step, n = ONE, labels.shape[1]
        for _ in range(TRIALS):
            s1, s2, loss, cuu, cuv, cvv, spread = _one_gene(
                labels[j], norms, weights[j, 0], weights[j, 1], weights[j, 2], three[j], step, logits[j, 0], logits[j, 1],
                directions[j, 0], directions[j, 1], residuals[j, 0], residuals[j, 1],
            )  # fmt: skip
            out[0, j], out[1, j], out[2, j], out[3, j], out[4, j], out[5, j] = step, loss, cuu, cuv, cvv, spread
            s1 += double * (along[j] + step * square[j])
            s2 += double * square[j]
            if abs(s1) <= ENOUGH4 * abs(slope[j]):
                break
            if s1 > 0:
                high, slope_high = step, s1
            else:
                low, slope_low = step, s1
            newton = step - s1 / s2
            if high > 0:
                width = high - low
                if newton > low + f4(0.05) * width and newton < high - f4(0.05) * width:
                    step = newton
                else:
                    step = low + width * min(max(-slope_low / (slope_high - slope_low), f4(0.1)), f4(0.9))
            else:
                step = min(max(newton, f4(1.2) * step), f4(8.0) * step)
        step = out[0, j]
        for i in range(n):
            logits[j, 0, i] += step * directions[j, 0, i]
            logits[j, 1, i] += step * directions[j, 1, i]


def compiled_search(labels: Any, norms: Any, weights: Any, three: Any, logits: Any, directions: Any, residuals: Any, along: Any,
                    square: Any, slope: Any, penalty: float) -> tuple[Any, Any, Any]:  # fmt: skip
    """Search with compiled loops; arrays are NumPy's, single precision (see :class:`panmodal.probes.softmax_ops.Search`)."""
    out = np.empty((6, len(labels)), np.float32)
    _search(labels, norms, weights, three, logits, directions, residuals, along, square, slope, penalty, out)
    return out[0], out[1], out[2:]

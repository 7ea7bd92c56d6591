"""Intervals for responses not measured yet, by conformal prediction from cross-validation residuals: pure functions of arrays.

What is promised is marginal: over draws of both the measured perturbations and the new one, if they are exchangeable (the new one
might as well have been among the measured). It does not hold for each perturbation, nor for ids chosen because they differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError

Matrix = NDArray[np.float64]


def check_alpha(alpha: float) -> None:
    """Refuse a share of misses that is not between 0 and 1."""
    if not 0 < alpha < 1:
        raise InputError(
            f"alpha is {alpha}; it is the share of intervals that may miss, between 0 and 1, such as 0.1 for 90 % intervals."
        )


def allowed_beyond(n: int, alpha: float) -> int:
    """How many of n scores, counted from the largest, bound a 1 - alpha interval: floor(alpha (n + 1)); 0 means unbounded."""
    return math.floor(alpha * (n + 1) + 1e-9)


def conformal_quantile(scores: NDArray[np.floating], alpha: float) -> Any:
    """Return the ceil((1 - alpha)(n + 1))-th smallest of n scores along the first axis; infinite where that exceeds n.

    For scores of rows that the model has not seen, a new score is at most that with probability 1 - alpha or more (split conformal
    prediction: Vovk et al. 2005; Lei et al. 2018). With scores from cross-validation, whose models have each seen a little less than
    the final one, it is the usual approximation, without a guarantee for unstable models.
    """
    check_alpha(alpha)
    n = len(scores)
    beyond = allowed_beyond(n, alpha)
    if beyond == 0:
        return np.full(np.shape(scores)[1:], np.inf)[()]
    return np.partition(np.asarray(scores, dtype=np.float64), n - beyond, axis=0)[n - beyond]


def cv_plus(
    scores: NDArray[np.floating], folds: NDArray[np.integer], centres: NDArray[np.floating], alpha: float,
    scales: NDArray[np.floating] | None = None,
) -> tuple[Matrix, Matrix]:  # fmt: skip
    """Compute CV+ intervals of new rows for every read-out (Barber, Candes, Ramdas and Tibshirani 2021, section 3).

    With K models, each fitted without one fold, the score of measured row i is R_i = |y_i - p_k(i)(x_i)| / s_k(i)(x_i), from the model
    that has not seen it. The interval of a new x goes from the floor(alpha (n + 1))-th smallest of p_k(i)(x) - s_k(i)(x) R_i to the
    ceil((1 - alpha)(n + 1))-th smallest of p_k(i)(x) + s_k(i)(x) R_i over the measured rows i. It holds the new response of a
    read-out with probability 1 - 2 alpha - sqrt(2 / n) or more for any exchangeable rows and any model; where the models
    agree, the share is close to 1 - alpha, and above it rather than below.

    Parameters
    ----------
    scores
        R, n x t, not negative.
    folds
        Number (0 to K - 1) of the model that has not seen the row, length n.
    centres
        Predictions of the new rows by each model, K x m x t.
    alpha
        Share of misses.
    scales
        Difficulty s of the new rows by each model, K x m, positive; all 1 unless given.

    Returns
    -------
    lower, upper
        m x t; infinite where n is below 1 / alpha - 1.

    Raises
    ------
    InputError
        Shapes that do not fit, alpha outside (0, 1), negative scores or scales that are not positive.
    """
    check_alpha(alpha)
    scores, centres, folds = np.asarray(scores, np.float64), np.asarray(centres), np.asarray(folds)
    k, m, t = centres.shape if centres.ndim == 3 else (0, 0, 0)
    scales = np.ones((k, m)) if scales is None else np.asarray(scales, np.float64)
    if not k or scores.ndim != 2 or scores.shape[1] != t or folds.shape != (len(scores),) or scales.shape != (k, m):
        raise InputError(f"scores {scores.shape}, folds {folds.shape}, centres {centres.shape} and scales {scales.shape} do not fit: "
                         "n x t, n, K x m x t and K x m.")  # fmt: skip
    if len(folds) and (folds.min() < 0 or folds.max() >= k):
        raise InputError(
            f"folds number the {k} models from 0, but there is {folds.max() if folds.max() >= k else folds.min()}."
        )
    if not (scores >= 0).all() or not (scales > 0).all():
        raise InputError("scores must be 0 or more, and scales more than 0.")
    beyond = allowed_beyond(len(scores), alpha)
    if beyond == 0:
        return np.full((m, t), -np.inf), np.full((m, t), np.inf)
    sizes = np.bincount(folds, minlength=k)
    # The largest scores of each model first; what pads the shorter lists is never reached.
    ordered = np.full((k, min(int(sizes.max()), beyond), t), -np.inf)
    for fold in range(k):
        own = -np.sort(-scores[folds == fold], axis=0)[: ordered.shape[1]]
        ordered[fold, : len(own)] = own
    ordered = np.ascontiguousarray(ordered.transpose(2, 0, 1))
    lower, upper = np.empty((m, t)), np.empty((m, t))
    merge = _compiled()
    merge(ordered, np.ascontiguousarray(centres, np.float64), scales, beyond, upper)
    merge(ordered, np.ascontiguousarray(-centres, np.float64), scales, beyond, lower)
    return -lower, upper


_MERGE: list[Callable[..., None]] = []


def _compiled() -> Callable[..., None]:
    """Compile the merge when it is first needed."""
    if not _MERGE:
        import numba

        _MERGE.append(numba.njit(nogil=True, cache=True)(_merge))
    return _MERGE[0]


def _merge(ordered, centres, scales, beyond, out):  # type: ignore[no-untyped-def]
    """Walk down K sorted lists together to the ``beyond``-th largest of centre + scale x score."""
    t, k, longest = ordered.shape
    at = np.zeros(k, np.int64)
    for i in range(out.shape[0]):
        for g in range(t):
            at[:] = 0
            value = np.inf
            for _ in range(beyond):
                best, value = -1, -np.inf
                for f in range(k):
                    if at[f] < longest:
                        here = centres[f, i, g] + scales[f, i] * ordered[g, f, at[f]]
                        if best < 0 or here > value:
                            best, value = f, here
                at[best] += 1
            out[i, g] = value

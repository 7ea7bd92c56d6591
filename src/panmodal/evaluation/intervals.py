"""A probe's predictions with intervals, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panmodal.evaluation.conformal import conformal_quantile, cv_plus
from panmodal.probes.base import Probe, Selection, select
from panmodal.probes.design import INNER_SEED, Design, Fold, Targets

Matrix = NDArray[np.float64]

OUTER_FOLDS = 5
NEAR, SHRINK = 20, 10.0
"""Expected errors are means over so many nearest measured perturbations, with the overall mean counted in so many times."""
DIFFICULTY = ("neighbours", "none")
"""Ways to scale intervals."""
INTERVALS = ("cv", "cv+")
"""Ways to make them: the quantile of the cross-validation errors around the prediction, or CV+, which has a guarantee."""


@dataclass(frozen=True)
class Intervals:
    """Arrays of :func:`predict_arrays`: ``values, lower, upper`` (m x t), ``expected`` and ``bound`` (m), the choice, the space."""

    values: Matrix
    lower: Matrix
    upper: Matrix
    expected: Matrix
    bound: Matrix
    selection: Selection | None
    space: Fold | None


def predict_arrays(
    x: Matrix, targets: Targets, new: Matrix, probe: Probe, *, alpha: float = 0.1, intervals: str = "cv",
    difficulty: str = "neighbours", seed: int = INNER_SEED,
) -> Intervals:  # fmt: skip
    """Fit a probe on x (n x dims) and its targets, and predict new rows (m x dims) with intervals.

    CV+ needs models that choose their own hyper-parameter, each without a fold. Quantiles of errors around the final prediction
    (``cv``, and the bound on the whole error) come from models with the final value: one that jumps to another would have other
    errors.
    """
    n, m = len(x), len(new)
    folds = outer_folds(n, seed)
    final = _Fit(x, targets, np.arange(n), new, probe)
    selection = final.select()
    values, expected = final.at(selection.value)
    scaled = difficulty != "none"
    scores, centres = np.empty(targets.values.shape), np.empty((OUTER_FOLDS, *values.shape))
    errors, scales = np.empty(n), np.ones((OUTER_FOLDS, m))
    for k in range(OUTER_FOLDS):
        out = np.flatnonzero(folds == k)
        fit = _Fit(x, targets, np.flatnonzero(folds != k), np.vstack([x[out], new]), probe)
        held, near = fit.at(selection.value)
        missed = np.abs(targets.values[out] - held[: len(out)])
        errors[out] = np.linalg.norm(missed, axis=1) / (near[: len(out)] if scaled else 1.0)
        if intervals == "cv+":
            held, near = fit.at(fit.select().value)
            missed = np.abs(targets.values[out] - held[: len(out)])
            centres[k] = held[len(out) :]
            if scaled:
                scales[k] = near[len(out) :]
        scores[out] = missed / (near[: len(out), None] if scaled else 1.0)
    own = expected if scaled else np.ones(m)
    if intervals == "cv+":
        lower, upper = cv_plus(scores, folds, centres, alpha, scales)
    else:
        reach = own[:, None] * conformal_quantile(scores, alpha)
        lower, upper = values - reach, values + reach
    bound = own * conformal_quantile(errors, alpha)
    # The centre is fitted on more rows than the models behind the interval and lies outside only where these agree poorly.
    lower, upper = np.minimum(lower, values), np.maximum(upper, values)
    return Intervals(values, lower, upper, expected, bound, selection, final.design.final)


def mean_arrays(
    targets: Targets, m: int, *, alpha: float = 0.1, intervals: str = "cv", seed: int = INNER_SEED
) -> Intervals:
    """Predict the mean response for m rows of which nothing is known, with intervals."""
    n, t = targets.values.shape
    folds = outer_folds(n, seed)
    centres = np.stack([targets.values[folds != k].mean(axis=0) for k in range(OUTER_FOLDS)])
    missed = np.abs(targets.values - centres[folds])
    errors = np.linalg.norm(missed, axis=1)
    if intervals == "cv+":
        lower, upper = cv_plus(missed, folds, centres[:, None], alpha)
    else:
        reach = conformal_quantile(missed, alpha)[None]
        lower, upper = targets.mean - reach, targets.mean + reach
    ends = [np.minimum(lower, targets.mean), np.maximum(upper, targets.mean)]
    rows = [np.broadcast_to(v, (m, t)) for v in (targets.mean[None], *ends)]
    return Intervals(
        rows[0], rows[1], rows[2], np.full(m, errors.mean()), np.full(m, conformal_quantile(errors, alpha)), None, None
    )


def outer_folds(n: int, seed: int) -> NDArray[np.intp]:
    """Fold of each of n rows: shuffled and dealt out."""
    return np.random.default_rng(seed).permutation(np.arange(n) % OUTER_FOLDS)


class _Fit:
    """A probe on some rows and what it says of new ones."""

    def __init__(self, x: Matrix, targets: Targets, rows: NDArray[np.intp], new: Matrix, probe: Probe) -> None:
        self.probe, self.design = probe, Design.build(x[rows], new)
        self.targets = Targets(targets.values[rows], targets.gram[np.ix_(rows, rows)])
        self._near = self.design.final.nearest(min(NEAR, len(rows)))[0]
        self._known: dict[float, tuple[Matrix, Matrix]] = {}

    def select(self) -> Selection:
        """Choose the hyper-parameter by the inner cross-validation."""
        return select(self.probe, self.design, self.targets)

    def at(self, value: float) -> tuple[Matrix, Matrix]:
        """Return predictions (m x t) and expected L2 errors (m) of the new rows.

        The expected error of a row is the mean inner error (cross-validated within the rows fitted on) of the nearest of them, so
        that it depends on nothing else and may scale conformal scores.
        """
        if value not in self._known:
            inner = np.empty(len(self.targets.values))
            for fold in self.design.inner:
                inner[fold.test] = self.probe.errors(fold, self.targets, (value,))[0]
            near = self._near
            expected = (inner[near].sum(axis=1) + SHRINK * inner.mean()) / (near.shape[1] + SHRINK)
            predicted = self.probe.predict(self.design.final, self.targets, value)
            self._known[value] = predicted, np.maximum(expected, np.finfo(float).tiny)
        return self._known[value]

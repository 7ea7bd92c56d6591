"""Ridge regression on class indicators, lifted for rare classes: a fast baseline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.base import CLASSES, Probe
from panmodal.probes.design import Fold, LabelTargets
from panmodal.probes.labels import balance, one_minus_f1
from panmodal.probes.projection import Matrix
from panmodal.probes.ridge import PROBE as RIDGE
from panmodal.probes.ridge import rotated


def _scores(fold: Fold, targets: LabelTargets, alphas: tuple[float, ...]) -> list[tuple[NDArray[np.float32], ...]]:
    """Balanced scores of -1 and of +1 for every alpha: the regression estimates shares of the classes (m x t each)."""
    train, test, norms = rotated(fold)
    products = [train.T.astype(np.float32) @ (targets.labels == c).astype(np.float32) for c in (-1, 1)]
    t = targets.labels.shape[1]

    def estimate(shrunk: Matrix, k: int) -> NDArray[np.float32]:
        return targets.prior[k * t : (k + 1) * t] + shrunk.astype(np.float32) @ products[k]

    every = (test / (norms + alpha) for alpha in alphas)
    return [balance(estimate(shrunk, 0), estimate(shrunk, 1), targets.prior) for shrunk in every]


def errors(fold: Fold, targets: LabelTargets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """One minus the mean over genes of F1 on the inner test fold, for every alpha (grid x 1)."""
    true = targets.labels[fold.test]
    return np.array([[one_minus_f1(true, *each)] for each in _scores(fold, targets.part(fold.train), grid)])


def predict(fold: Fold, targets: LabelTargets, value: float) -> NDArray[np.float32]:
    """Balanced scores of -1 and of +1 of the fold's test rows (m x 2t)."""
    return np.concatenate(_scores(fold, targets, (value,))[0], axis=1)


PROBE = Probe(
    name="ridge_classifier",
    description="ridge regression on class indicators, estimates over the roots of the shares in training, after "
    "standardisation and PCA(100)",
    kinds=CLASSES,
    parameter="alpha",
    grid=RIDGE.grid,
    errors=errors,
    predict=predict,
)

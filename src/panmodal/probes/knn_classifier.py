"""Nearest neighbours for classes: shares of the k nearest training perturbations, lifted for rare classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.base import CLASSES, Probe
from panmodal.probes.design import Fold, LabelTargets
from panmodal.probes.knn import PROBE as KNN
from panmodal.probes.knn import smoother
from panmodal.probes.labels import balance, one_minus_f1


def _votes(
    weights: Any, labels: NDArray[np.int8], prior: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], ...]:
    """Shares of the neighbours that are -1 and +1, with the prior as one more neighbour, balanced: m x t each.

    The prior as a neighbour decides between classes with equal votes.
    """
    shares = [(weights @ (labels == c).astype(np.float32)) for c in (-1, 1)]
    t = labels.shape[1]
    mixed = [(k * share + part) / (k + 1) for share, part in zip(shares, (prior[:t], prior[t:]), strict=True)]
    return balance(mixed[0], mixed[1], prior)


def errors(fold: Fold, targets: LabelTargets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """One minus the mean over genes of F1 on the inner test fold, for every k (grid x 1)."""
    part, true = targets.part(fold.train), targets.labels[fold.test]
    votes = (_votes(smoother(fold, int(k)), part.labels, part.prior, int(k)) for k in grid)
    return np.array([[one_minus_f1(true, *each)] for each in votes])


def predict(fold: Fold, targets: LabelTargets, value: float) -> NDArray[np.float32]:
    """Balanced vote shares of -1 and of +1 of the fold's test rows (m x 2t)."""
    return np.concatenate(_votes(smoother(fold, int(value)), targets.labels, targets.prior, int(value)), axis=1)


PROBE = Probe(
    name="knn_classifier",
    description="class frequencies among the k nearest neighbours over the roots of their shares in training, after "
    "standardisation and PCA(100)",
    kinds=CLASSES,
    parameter="k",
    grid=KNN.grid,
    errors=errors,
    predict=predict,
    candidates=KNN.candidates,
)

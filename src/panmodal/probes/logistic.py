"""Logistic regression of three classes, one for each gene, class-balanced: the published probe of DEG labels."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.base import CLASSES, Probe
from panmodal.probes.design import Fold, LabelTargets
from panmodal.probes.labels import one_minus_f1
from panmodal.probes.softmax import Coefficients, fit_path

GRID = (1.0, 1e3, 1e5, 1e7)


def _fit(fold: Fold, targets: LabelTargets, grid: tuple[float, ...]) -> dict[float, Coefficients]:
    """Coefficients for each C, fitted from the smallest to the largest.

    The published objective is the mean over genes of the weighted cross-entropy + |W|_F^2 / C with the weights of all genes in W,
    so that the penalty of a gene is (number of genes) / C.
    """
    ascending = sorted(set(grid))
    fitted = fit_path(fold.z_train, targets.labels, [targets.labels.shape[1] / c for c in ascending], device=targets.device,
                      threads=targets.threads)  # fmt: skip
    unfinished = sum(f.n_unfinished for f in fitted)
    if unfinished:
        from sklearn.exceptions import ConvergenceWarning

        warnings.warn(f"logistic: {unfinished} of {len(fitted) * targets.labels.shape[1]} fits did not reach the tolerance.",
                      ConvergenceWarning, stacklevel=2)  # fmt: skip
    return dict(zip(ascending, fitted, strict=True))


def errors(fold: Fold, targets: LabelTargets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """One minus the mean over genes of F1 on the inner test fold, for every C (grid x 1)."""
    fitted = _fit(fold, targets.part(fold.train), grid)
    true = targets.labels[fold.test]
    return np.array([[one_minus_f1(true, *fitted[c].probabilities(fold.z_test))] for c in grid])


def predict(fold: Fold, targets: LabelTargets, value: float) -> NDArray[np.float32]:
    """Probabilities of -1 and of +1 of the fold's test rows (m x 2t)."""
    fitted = _fit(fold, targets, (*(c for c in GRID if c < value), value))
    return np.concatenate(fitted[value].probabilities(fold.z_test), axis=1)


PROBE = Probe(
    name="logistic",
    description="three-class logistic regression for each gene, class-balanced, after standardisation and PCA(100)",
    kinds=CLASSES,
    parameter="C",
    grid=GRID,
    errors=errors,
    predict=predict,
)

"""Ridge regression with an unpenalised intercept: min |y - b - Z w|^2 + alpha |w|^2 for every read-out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.probes.base import CONTINUOUS, Probe
from panmodal.probes.design import Fold, Targets
from panmodal.probes.projection import Matrix


def rotated(fold: Fold) -> tuple[Matrix, Matrix, NDArray[np.float64]]:
    """Rotate to principal axes of the training scores (ridge does not see rotations): train, test, squared norms."""
    train, test = fold.centred
    values, axes = np.linalg.eigh(fold.gram)
    return train @ axes, test @ axes, np.maximum(values, 0.0)


def row_errors(fold: Fold, targets: Targets, grid: tuple[float, ...]) -> NDArray[np.float64]:
    """L2 error of every row for every alpha, from the Gram matrix of the targets alone.

    With the rotated scores Z (training), z_i (row i) and D = 1 / (s^2 + alpha), the prediction deviates from the training
    mean by z_i D Z' Y, so that e_i^2 = |y_i - mean|^2 - 2 z_i D (Z' Y y_i) + z_i D (Z' G Z) D z_i.
    """
    train, test, norms = rotated(fold)
    within = targets.gram[np.ix_(fold.train, fold.train)]
    across = targets.gram[np.ix_(fold.test, fold.train)]
    mean_cross = across.mean(axis=1)
    mean_square = within.mean()
    base = targets.gram[fold.test, fold.test] - 2 * mean_cross + mean_square
    # Z' Y (y_i - mean) for each row i, and Z' G Z; the columns of Z sum to zero, so Y needs no centring there.
    projected = (across - within.mean(axis=0)) @ train
    inner = train.T @ within @ train
    errors = np.empty((len(grid), len(fold.test)))
    for k, alpha in enumerate(grid):
        shrunk = test / (norms + alpha)
        squared = base - 2 * np.einsum("ij,ij->i", shrunk, projected) + np.einsum("ij,ij->i", shrunk @ inner, shrunk)
        errors[k] = np.sqrt(np.maximum(squared, 0.0))
    return errors


def predict(fold: Fold, targets: Targets, value: float) -> Matrix:
    """Ridge predictions of the fold's test rows."""
    train, test, norms = rotated(fold)
    return targets.mean + (test / (norms + value)) @ (train.T @ targets.values)


PROBE = Probe(
    name="ridge",
    description="ridge regression, one alpha for all read-outs, after standardisation and PCA(100)",
    kinds=CONTINUOUS,
    parameter="alpha",
    grid=tuple(10.0**e for e in range(-2, 7)),
    errors=row_errors,
    predict=predict,
)

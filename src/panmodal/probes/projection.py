"""Standardise, then PCA: the projection that every probe shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

MAX_COMPONENTS = 100


def n_components(n_train: int, dims: int) -> int:
    """Return the number of components kept, min(100, dims, floor(0.8 n) - 1).

    The last term is the rank that the smallest inner training fold (4/5 of n, centred) can have, so that the inner
    folds and the final fit use spaces of the same size.
    """
    return max(0, min(MAX_COMPONENTS, dims, int(0.8 * n_train) - 1))


def principal_axes(centred: Matrix, keep: int) -> Matrix:
    """Return the first principal axes (dims x r) of a centred matrix (n x dims), r = min(keep, rank).

    Exact and deterministic: eigenvectors of the smaller of the two Gram matrices, refined by the SVD of the scores (which
    restores the orthogonality that squaring loses). Axes with a singular value below 1e-7 of the largest count as absent.
    The entry of largest magnitude of each axis is positive.
    """
    from scipy.linalg import eigh, svd

    n, dims = centred.shape
    keep = min(keep, n, dims)
    if keep == 0:
        return np.zeros((dims, 0))
    wide = dims > n
    gram = centred @ centred.T if wide else centred.T @ centred
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=(size - keep, size - 1), driver="evx", overwrite_a=True,
                           check_finite=False)  # fmt: skip
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[0] <= 0:
        return np.zeros((dims, 0))
    present = values > values[0] * 1e-14
    axes = vectors[:, present]
    if wide:
        axes = centred.T @ (axes / np.sqrt(values[present]))
        axes, _ = np.linalg.qr(axes)
    _, singular, rotation = svd(centred @ axes, full_matrices=False, check_finite=False)
    axes = axes @ rotation[singular > singular[0] * 1e-7].T
    peak = np.abs(axes).argmax(axis=0)
    return axes * np.where(axes[peak, np.arange(axes.shape[1])] < 0, -1.0, 1.0)


@dataclass(frozen=True)
class Projection:
    """A fitted projection: x -> ((x - mean) / scale) @ axes."""

    mean: Matrix
    scale: Matrix
    axes: Matrix

    @classmethod
    def fit(cls, x: Matrix, keep: int, *, standardise: bool = True) -> tuple[Projection, Matrix]:
        """Fit on training rows (n x dims); return the projection and their scores (n x r).

        Standardisation divides by the population standard deviation. Columns that are constant on the training rows carry
        nothing and are left out: by the rule of scikit-learn's StandardScaler, or because their deviation is below 1e-10 of
        the largest column's, which is rounding dust that scaling would blow up.
        """
        mean = x.mean(axis=0)
        centred = x - mean
        variance = np.einsum("ij,ij->j", centred, centred) / len(x)
        eps = np.finfo(np.float64).eps
        constant = variance <= len(x) * eps * variance + (len(x) * mean * eps) ** 2
        constant |= variance <= 1e-20 * variance.max(initial=0.0)
        scale = np.sqrt(np.where(constant | (not standardise), 1.0, variance))
        centred /= scale
        # Rounding leaves dust in constant columns; it must not become a component.
        centred[:, constant] = 0.0
        axes = principal_axes(centred, keep)
        return cls(mean, scale, axes), centred @ axes

    def transform(self, x: Matrix) -> Matrix:
        """Project rows (m x dims) to scores (m x r)."""
        return ((x - self.mean) / self.scale) @ self.axes

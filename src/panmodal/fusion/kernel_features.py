"""Kernels of a modality: how alike two ids are by its vectors, on the scale of the training ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panmodal.errors import InputError
from panmodal.probes.projection import Matrix, principal_axes

KINDS = ("linear", "linear_raw", "cosine", "cosine_raw", "gaussian", "gaussian_raw")
"""Kernels: ``raw`` ones see centred vectors, the others z-scored ones; ``cosine`` and ``gaussian`` scale vectors to unit length."""


@dataclass(frozen=True)
class Features:
    """A modality's vectors made ready for its kernels: x -> ((x - mean) / scale) @ axes, then to unit length if ``unit``.

    Values beyond those that training saw in a column are cut to its range: a column that hardly varies in training may else hold
    a test value hundreds of deviations away, which throws a linear prediction anywhere.

    Attributes
    ----------
    mean, scale
        Of the training ids, as are ``low`` and ``high``; columns that do not vary there are left out (``kept``).
    axes
        Principal axes, or None to keep all columns.
    """

    kept: Matrix
    low: Matrix
    high: Matrix
    mean: Matrix
    scale: Matrix
    axes: Matrix | None
    unit: bool

    @classmethod
    def fit(cls, x: Matrix, *, standardise: bool, unit: bool, components: int | None = None) -> Features:
        """Fit on the vectors of training ids (n x dims).

        Raises
        ------
        InputError
            No column varies.
        """
        mean = x.mean(axis=0)
        centred = x - mean
        variance = np.einsum("ij,ij->j", centred, centred) / len(x)
        # The rule of the probes' projection: rounding dust is no variation.
        dust = (len(x) * mean * np.finfo(np.float64).eps) ** 2
        kept = variance > np.maximum(dust, 1e-20 * variance.max(initial=0.0))
        if not kept.any():
            raise InputError(f"all {len(x)} training vectors of a modality are the same; leave it out.")
        scale = np.sqrt(variance[kept]) if standardise else np.ones(int(kept.sum()))
        z = centred[:, kept] / scale
        axes = principal_axes(z, components) if components is not None else None
        seen = x[:, kept]
        return cls(kept, seen.min(axis=0), seen.max(axis=0), mean[kept], scale, axes, unit)

    def transform(self, x: Matrix) -> Matrix:
        """Return features of vectors (m x dims) that are all there."""
        z = (np.clip(x[:, self.kept], self.low, self.high) - self.mean) / self.scale
        if self.axes is not None:
            z = z @ self.axes
        if not self.unit:
            return z
        length = np.linalg.norm(z, axis=1, keepdims=True)
        return z / np.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class Kernel:
    """One kernel of one modality.

    ``linear`` and ``cosine``: f'g of the features; ``gaussian``: exp((f'g - 1) / width), which is a Gaussian of the distance of unit
    vectors, |f - g|^2 = 2 - 2 f'g. Divided by ``norm``, so that its mean over the diagonal of the training ids is 1.
    """

    kind: str
    features: Features
    width: float
    train: Matrix
    norm: float

    @classmethod
    def fit(cls, kind: str, x: Matrix, *, width: float = 0.5, components: int | None = None) -> Kernel:
        """Fit on the vectors of training ids (n x dims)."""
        shape = kind.removesuffix("_raw")
        features = Features.fit(x, standardise=not kind.endswith("_raw"), unit=shape != "linear", components=components)
        train = features.transform(x)
        found = cls(shape, features, width, train, 1.0)
        return cls(shape, features, width, train, float(found.diagonal(train).mean()))

    def _shape(self, products: Matrix) -> Matrix:
        return np.exp((products - 1) / self.width) if self.kind == "gaussian" else products

    def gram(self) -> Matrix:
        """Kernel among the training ids, n x n."""
        return self._shape(self.train @ self.train.T) / self.norm

    def across(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Kernel of vectors (m x dims) against the training ids (m x n), and with themselves (length m)."""
        features = self.features.transform(x)
        return self._shape(features @ self.train.T) / self.norm, self.diagonal(features)

    def diagonal(self, features: Matrix) -> Matrix:
        """Kernel of each row of features with itself."""
        return self._shape(np.einsum("ij,ij->i", features, features)) / self.norm

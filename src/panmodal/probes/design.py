"""The design of a trial: what depends on the embedding alone, shared by all probes and contexts with the same ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.probes.projection import Matrix, Projection, n_components

Indices = NDArray[np.intp]

INNER_FOLDS = 5
INNER_SEED = 42
MIN_TRAIN = 10
"""Fewest training ids with which the inner cross-validation means anything."""


@dataclass(frozen=True)
class Fold:
    """Scores of training rows and of the rows to predict.

    Attributes
    ----------
    z_train, z_test
        Projected rows (n x r, m x r).
    train, test
        Their positions among the rows of the design; ``test`` is empty for the final fit.
    """

    z_train: Matrix
    z_test: Matrix
    train: Indices
    test: Indices

    @cached_property
    def distances(self) -> Matrix:
        """Squared Euclidean distances, m x n."""
        from scipy.spatial.distance import cdist

        return cdist(self.z_test, self.z_train, "sqeuclidean")

    def nearest(self, most: int) -> tuple[Indices, Matrix]:
        """Return positions and squared distances of the ``most`` nearest training rows, nearest first (m x most each)."""
        if self._sorted[0].shape[1] < most:
            self.__dict__["_sorted"] = self._sort(most)
        near, values = self._sorted
        return near[:, :most], values[:, :most]

    @cached_property
    def _sorted(self) -> tuple[Indices, Matrix]:
        return self._sort(min(101, len(self.z_train)))

    def _sort(self, most: int) -> tuple[Indices, Matrix]:
        near = np.argpartition(self.distances, most - 1, axis=1)[:, :most]
        values = np.take_along_axis(self.distances, near, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1), np.take_along_axis(values, order, axis=1)

    @cached_property
    def centred(self) -> tuple[Matrix, Matrix]:
        """Training and test scores minus the training mean."""
        mean = self.z_train.mean(axis=0)
        return self.z_train - mean, self.z_test - mean

    @cached_property
    def gram(self) -> Matrix:
        """Gram matrix of the centred training scores, r x r."""
        return self.centred[0].T @ self.centred[0]

    @cached_property
    def orthogonal(self) -> bool:
        """Whether the centred training scores are orthogonal columns, so that lasso has a closed form."""
        norms = np.sqrt(np.diag(self.gram))
        scaled = np.abs(self.gram) / np.maximum(np.outer(norms, norms), np.finfo(float).tiny)
        np.fill_diagonal(scaled, 0.0)
        return bool(scaled.max(initial=0.0) <= 1e-9)


@dataclass(frozen=True)
class Design:
    """Inner folds and final fit of one (embedding, training ids, test ids).

    Attributes
    ----------
    inner
        Five folds over the training rows, each with its own scaler and PCA.
    final
        All training rows against the test rows.
    projection
        The projection of the final fit.
    """

    inner: tuple[Fold, ...]
    final: Fold
    projection: Projection

    @classmethod
    def build(cls, x_train: Matrix, x_test: Matrix, *, standardise: bool = True) -> Design:
        """Project training (n x dims) and test rows (m x dims).

        The inner folds are scikit-learn's ``KFold(5, shuffle=True, random_state=42)`` over the rows in the given order
        (the callers sort them by id). Scaler and PCA are fitted on training rows only, in each fold anew.

        Parameters
        ----------
        x_train, x_test
            Vectors.
        standardise
            False for the idealised oracle, whose dimensions are principal components and carry their scale.

        Raises
        ------
        InputError
            Fewer than 10 training rows.
        """
        from sklearn.model_selection import KFold

        n = len(x_train)
        if n < MIN_TRAIN:
            raise InputError(
                f"{n} training rows with a vector are too few for a probe; at least {MIN_TRAIN} are needed."
            )
        keep = n_components(n, x_train.shape[1])
        inner = []
        for train, test in KFold(INNER_FOLDS, shuffle=True, random_state=INNER_SEED).split(np.empty((n, 0))):
            fitted, z = Projection.fit(x_train[train], keep, standardise=standardise)
            inner.append(Fold(z, fitted.transform(x_train[test]), train, test))
        fitted, z = Projection.fit(x_train, keep, standardise=standardise)
        final = Fold(z, fitted.transform(x_test), np.arange(n), np.empty(0, dtype=np.intp))
        return cls(tuple(inner), final, fitted)


@dataclass(frozen=True)
class Targets:
    """Training responses of one context, in the row order of the design.

    Attributes
    ----------
    values
        Responses, n x t.
    gram
        ``values @ values.T``, n x n. Squared row errors of a linear smoother whose weights sum to one follow from it:
        e_i^2 = G_ii - 2 w_i . G_i + w_i G w_i, with a relative error of about 1e-16 (|y_i| / e_i)^2.
    """

    values: Matrix
    gram: Matrix

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Targets:
        """Compute the Gram matrix as well."""
        wide = np.asarray(values, dtype=np.float64)
        return cls(wide, wide @ wide.T)

    @cached_property
    def mean(self) -> Matrix:
        """Mean response of the training rows, length t."""
        return self.values.mean(axis=0)

    @cached_property
    def deviations(self) -> Matrix:
        """Responses minus their mean, n x t."""
        return self.values - self.mean


@dataclass(frozen=True)
class LabelTargets:
    """Training labels of one context, in the row order of the design.

    Attributes
    ----------
    labels
        -1, 0, 1; n x t, int8.
    device
        Where probes that can use an accelerator compute: ``cpu`` or a torch device.
    threads
        Threads they may use on the CPU.
    """

    labels: NDArray[np.int8]
    device: str = "cpu"
    threads: int = 1

    def part(self, rows: Indices) -> LabelTargets:
        """Return the targets of some rows."""
        return replace(self, labels=self.labels[rows])

    @cached_property
    def prior(self) -> NDArray[np.float32]:
        """Share of the training rows that are -1 and share that are +1, length 2t."""
        return class_prior(self.labels)


def class_prior(labels: NDArray[np.int8]) -> NDArray[np.float32]:
    """Share of the rows (n x t) that are -1, then share that are +1, of each gene: length 2t, single precision."""
    shares = [np.mean(labels == c, axis=0, dtype=np.float64) for c in (-1, 1)]
    return np.concatenate(shares).astype(np.float32)

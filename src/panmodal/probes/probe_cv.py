"""A probe as an estimator: fit and predict on plain arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from panmodal.errors import InputError
from panmodal.probes.base import Selection, get_probe, select
from panmodal.probes.design import Design, Fold, Targets
from panmodal.probes.projection import Matrix


class ProbeCV:
    """Fit a probe with its hyper-parameter chosen by the inner 5-fold cross-validation of the protocol.

    Parameters
    ----------
    probe
        Name of a probe (``knn``, ``lasso``, ``ridge``).

    Attributes
    ----------
    selection_
        Chosen value, candidates and their inner errors.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 5)); y = x @ rng.normal(size=(5, 30))
    >>> ProbeCV("ridge").fit(x[:50], y[:50]).predict(x[50:]).shape
    (10, 30)
    """

    selection_: Selection

    def __init__(self, probe: str = "knn") -> None:
        self.probe = probe

    def fit(self, x: ArrayLike, y: ArrayLike) -> ProbeCV:
        """Fit on embeddings x (n x dims) and responses y (n x t)."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise InputError(f"x and y must be matrices with the same number of rows, got {x.shape} and {y.shape}.")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError("x and y must be finite.")
        self._design = Design.build(x, x[:0])
        self._targets = Targets.of(y)
        self.selection_ = select(get_probe(self.probe), self._design, self._targets)
        return self

    def predict(self, x: ArrayLike) -> Matrix:
        """Predict responses (m x t) of embeddings x (m x dims)."""
        final, projection = self._design.final, self._design.projection
        z = projection.transform(np.asarray(x, dtype=np.float64))
        fold = Fold(final.z_train, z, final.train, final.test)
        return get_probe(self.probe).predict(fold, self._targets, self.selection_.value)

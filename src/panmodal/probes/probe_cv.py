"""A probe as an estimator: fit and predict on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from panmodal.errors import InputError
from panmodal.probes.base import CLASSES, Selection, get_probe, select
from panmodal.probes.design import Design, Fold, LabelTargets, Targets
from panmodal.probes.labels import CLASSES as LABELS
from panmodal.probes.labels import decide
from panmodal.probes.softmax import check_device


class ProbeCV:
    """Fit a probe with its hyper-parameter chosen by the inner 5-fold cross-validation of the protocol.

    Parameters
    ----------
    probe
        Name of a probe: ``knn``, ``lasso``, ``ridge`` for numbers; ``logistic``, ``knn_classifier``, ``ridge_classifier`` for
        the classes -1, 0, 1.
    device
        Where probes that can use an accelerator compute: ``cpu`` or a torch device.
    threads
        Threads they may use on the CPU.

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
    >>> labels = np.where(abs(y) > 3, np.sign(y), 0).astype(int)
    >>> ProbeCV("logistic").fit(x[:50], labels[:50]).predict_proba(x[50:]).shape
    (10, 3, 30)
    """

    selection_: Selection

    def __init__(self, probe: str = "knn", device: str = "cpu", threads: int = 1) -> None:
        self.probe, self.device, self.threads = probe, device, threads

    def fit(self, x: ArrayLike, y: ArrayLike) -> ProbeCV:
        """Fit on embeddings x (n x dims) and responses y (n x t; integers -1, 0, 1 for classes)."""
        probe = get_probe(self.probe)
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not y.shape[1]:
            raise InputError(f"x and y must be matrices with the same number of rows, got {x.shape} and {y.shape}.")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError("x and y must be finite.")
        self._design = Design.build(x, x[:0])
        self._targets: Targets | LabelTargets
        if probe.kinds == CLASSES:
            known = np.isin(y, LABELS)
            if not known.all():
                raise InputError(f"probe {self.probe!r} learns the labels -1, 0, 1, but y holds {y[~known][0]:g}.")
            check_device(self.device)
            self._targets = LabelTargets(y.astype(np.int8), self.device, self.threads)
        else:
            self._targets = Targets.of(y)
        self.selection_ = select(probe, self._design, self._targets)
        return self

    def predict(self, x: ArrayLike) -> NDArray[Any]:
        """Predict responses (m x t; labels for classes) of embeddings x (m x dims)."""
        predicted = self._predict(x)
        if isinstance(self._targets, Targets):
            return predicted
        t = self._targets.labels.shape[1]
        return decide(predicted[:, :t], predicted[:, t:])

    def predict_proba(self, x: ArrayLike) -> NDArray[Any]:
        """Predict the probabilities of -1, 0 and 1 (m x 3 x t) of embeddings x (m x dims).

        Raises
        ------
        InputError
            The probe predicts numbers, not classes.
        """
        if isinstance(self._targets, Targets):
            raise InputError(f"probe {self.probe!r} predicts numbers; probabilities are for probes of classes.")
        t = self._targets.labels.shape[1]
        predicted = self._predict(x)
        down, up = predicted[:, :t], predicted[:, t:]
        return np.stack([down, np.maximum(1 - down - up, 0), up], axis=1)

    def _predict(self, x: ArrayLike) -> NDArray[Any]:
        final, projection = self._design.final, self._design.projection
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(projection.mean) or not np.isfinite(x).all():
            raise InputError(
                f"x must be a finite matrix with {len(projection.mean)} columns, as in fit, got {x.shape}."
            )
        z = projection.transform(x)
        fold = Fold(final.z_train, z, final.train, final.test)
        return get_probe(self.probe).predict(fold, self._targets, self.selection_.value)

"""A fusion as an estimator: fit and predict on plain arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from panmodal._threads import math_threads
from panmodal.errors import InputError, some
from panmodal.fusion.base import ContextTargets, Fitted, Fused, Fusion, Modalities, Setting, fit_fusion, get_fusion
from panmodal.fusion.ensemble import ensemble
from panmodal.probes.base import CLASSES, CONTINUOUS
from panmodal.probes.design import MIN_TRAIN, LabelTargets, Targets
from panmodal.probes.labels import decide
from panmodal.probes.softmax import check_device

COLUMNS = ("what", "context", "modality", "part", "value")
Responses = ArrayLike | Mapping[str, ArrayLike]


class FusionCV:
    """Fit a model of several embeddings at once, with everything it chooses chosen within the training ids.

    Parameters
    ----------
    fusion
        Name of a fusion (``panmodal list fusions``), or the fusion itself.
    options
        Its options.
    members
        Above 1, the mean of as many fits; see :func:`panmodal.fusion.ensemble.ensemble`.
    seed
        Of everything that is drawn.
    device
        Where what can use an accelerator computes: ``cpu`` or a torch device.
    threads
        Threads on the CPU.

    Attributes
    ----------
    weights_
        What the fit learned of its modalities: a table of ``what``, ``context`` (empty for all), ``modality``, ``part`` and ``value``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = {"string": rng.normal(size=(60, 5)), "text": rng.normal(size=(60, 4))}
    >>> y = np.hstack(list(x.values())) @ rng.normal(size=(9, 30))
    >>> x["text"][::7] = np.nan  # ids without a text
    >>> train, test = {k: v[:50] for k, v in x.items()}, {k: v[50:] for k, v in x.items()}
    >>> model = FusionCV("stack").fit(train, y[:50])
    >>> model.predict(test).shape
    (10, 30)
    >>> sorted(set(model.weights_["modality"]))
    ['string', 'text']
    """

    weights_: pd.DataFrame

    def __init__(
        self,
        fusion: str | Fusion = "kernels",
        options: Mapping[str, Any] | None = None,
        members: int = 1,
        seed: int = 42,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.fusion, self.options, self.members = fusion, options, members
        self.seed, self.device, self.threads = seed, device, threads

    def fit(self, x: Mapping[str, ArrayLike], y: Responses, *, classes: bool | None = None) -> FusionCV:
        """Fit on embeddings and responses of the same ids.

        Parameters
        ----------
        x
            One matrix for each modality, n x dims; rows of NaN for ids that it lacks.
        y
            Responses, n x t, or one such matrix for each context; rows of NaN for ids not measured there.
        classes
            Whether responses are the labels -1, 0 and 1; by default if they are integers.

        Raises
        ------
        InputError
            What cannot be fitted, and what to do.
        """
        fusion = get_fusion(self.fusion) if isinstance(self.fusion, str) else self.fusion
        if self.members < 1:
            raise InputError(f"members is the number of fits to average, at least 1, not {self.members}.")
        fusion = ensemble(fusion, self.members) if self.members > 1 else fusion
        chosen = fusion.settings(self.options)
        check_device(self.device)
        given = _modalities(x)
        by_context = {str(k): np.asarray(v) for k, v in y.items()} if isinstance(y, Mapping) else {"": np.asarray(y)}
        if not by_context:
            raise InputError("no context to fit; give y as a matrix, or as a matrix for each context.")
        kinds = {v.dtype.kind in "iu" if classes is None else classes for v in by_context.values()}
        if len(kinds) > 1:
            raise InputError(
                "some contexts hold integers and some do not; say classes=True for labels, or give floats."
            )
        self._classes = kinds.pop()
        serves = CLASSES if self._classes else CONTINUOUS
        if not set(serves) & set(fusion.kinds):
            raise InputError(f"fusion {fusion.name!r} does not serve {'labels' if self._classes else 'numbers'}; choose "
                             "another, or say with classes= what the responses are.")  # fmt: skip
        self._dims = dict(zip(given.names, (v.shape[1] for v in given.values), strict=True))
        contexts = {c: self._targets(c, v, given) for c, v in by_context.items()}
        self._fill = {c: own.targets.prior if isinstance(own.targets, LabelTargets) else own.targets.mean
                      for c, own in contexts.items()}  # fmt: skip
        setting = Setting(seed=self.seed, device=self.device, threads=self.threads)
        self._fitted: dict[str, Fitted] = {}
        with math_threads(self.threads):
            if fusion.joint:
                joint = fit_fusion(fusion, given, contexts, chosen, setting)
                self._fitted = dict.fromkeys(contexts, joint)
                tables = joint.tables()
            else:
                self._fitted = {c: fit_fusion(fusion, given, {c: own}, chosen, setting) for c, own in contexts.items()}
                tables = [row for fitted in self._fitted.values() for row in fitted.tables()]
        self.weights_ = pd.DataFrame(tables, columns=list(COLUMNS))
        self._fusion, self._alone = fusion, isinstance(y, Mapping) and not fusion.joint
        return self

    @property
    def hyperparameters_(self) -> dict[str, Any]:
        """What was chosen; by context where each was fitted alone. Some fusions choose on as they predict."""
        self._check_fitted()
        each = {c: fitted.hyperparameters for c, fitted in self._fitted.items()}
        return each if self._alone else next(iter(each.values()))

    def covered(self, x: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
        """Tell which ids (rows of ``x``) have a vector in some modality; the others can only be predicted by the training mean."""
        return self._given(x).covered

    def predict(self, x: Mapping[str, ArrayLike], context: str | None = None) -> NDArray[Any]:
        """Predict responses (m x t; labels for classes) in a context.

        Ids without a vector in any modality get the training mean (for classes the commonest label), with a warning; see
        :meth:`covered`.

        Parameters
        ----------
        x
            One matrix for each modality of the fit, m x dims; rows of NaN for ids that it lacks.
        context
            One of those fitted; may be left out if there is one.
        """
        values = self._predict(x, context)[0]
        if not self._classes:
            return values
        t = values.shape[1] // 2
        return decide(values[:, :t], values[:, t:])

    def predict_proba(self, x: Mapping[str, ArrayLike], context: str | None = None) -> NDArray[Any]:
        """Predict the probabilities of -1, 0 and 1 (m x 3 x t); ids without any vector get the shares in training.

        Raises
        ------
        InputError
            The fit was to numbers, not classes.
        """
        self._check_fitted()
        if not self._classes:
            raise InputError("this model was fitted to numbers; probabilities are for labels. Use predict.")
        values = self._predict(x, context)[0]
        t = values.shape[1] // 2
        down, up = values[:, :t], values[:, t:]
        return np.stack([down, np.maximum(1 - down - up, 0), up], axis=1)

    def predict_variance(self, x: Mapping[str, ArrayLike], context: str | None = None) -> NDArray[Any]:
        """Predict the variance of each response (m x t), or of the probabilities of -1 and +1 (m x 2 x t); NaN without any vector.

        Raises
        ------
        InputError
            The fusion tells no variance.
        """
        variance = self._predict(x, context)[1]
        if variance is None:
            raise InputError(f"fusion {self._fusion.name!r} tells no variance; an ensemble does, as with members=5.")
        return variance.reshape(len(variance), 2, -1) if self._classes else variance

    def _predict(self, x: Mapping[str, ArrayLike], context: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
        given = self._given(x)
        context = self._context(context)
        covered, fill = given.covered, self._fill[context]
        if not covered.all():
            missing = int((~covered).sum())
            warnings.warn(f"{missing} of {len(covered)} ids have no vector in any modality and get the training mean; covered() tells "
                          "which.", UserWarning, stacklevel=3)  # fmt: skip
        values = np.tile(fill, (len(covered), 1))
        variance = None if covered.any() else np.full(values.shape, np.nan)
        if covered.any():
            with math_threads(self.threads):
                found: Fused = self._fitted[context].predict(given.part(covered), context)
            values[covered] = found.values
            if found.variance is not None:
                variance = np.full(values.shape, np.nan)
                variance[covered] = found.variance
        return values, variance

    def _check_fitted(self) -> None:
        if not hasattr(self, "_fitted"):
            raise InputError("this model is not fitted yet; call fit first.")

    def _context(self, context: str | None) -> str:
        if context is None and len(self._fitted) == 1:
            return next(iter(self._fitted))
        if context not in self._fitted:
            said = "no context given" if context is None else f"no context {context!r}"
            raise InputError(f"{said}; fitted were {some(self._fitted)}.")
        return context

    def _given(self, x: Mapping[str, ArrayLike]) -> Modalities:
        """Check modalities to predict from, and bring them into the order of the fit."""
        self._check_fitted()
        if not isinstance(x, Mapping):
            raise InputError("x is one matrix for each modality: give {name: matrix}.")
        missing, unknown = [k for k in self._dims if k not in x], [k for k in x if k not in self._dims]
        if missing:
            raise InputError(
                f"modality {some(missing)} of the fit is not given; give a matrix with rows of NaN for ids it lacks."
            )
        if unknown:
            raise InputError(f"modality {some(unknown)} was not in the fit; leave it out, or fit with it.")
        given = _modalities({k: x[k] for k in self._dims})
        for (name, dims), values in zip(self._dims.items(), given.values, strict=True):
            if values.shape[1] != dims:
                raise InputError(f"modality {name!r} was fitted with {dims} dims, but now has {values.shape[1]}.")
        return given

    def _targets(self, context: str, y: NDArray[Any], given: Modalities) -> ContextTargets:
        """Check the responses of a context, and take those measured."""
        where = f"context {context!r}: " if context else ""
        if y.ndim != 2 or not y.shape[1] or len(y) != len(given):
            raise InputError(f"{where}y must be a matrix with {len(given)} rows, as x has, not of shape {y.shape}.")
        if y.dtype.kind not in "iuf":
            raise InputError(f"{where}y must hold numbers, not {y.dtype}.")
        absent = np.isnan(y).all(axis=1)
        bad = ~absent & ~np.isfinite(y).all(axis=1)
        if bad.any():
            raise InputError(f"{where}row {int(np.flatnonzero(bad)[0])} of y holds NaN or infinite values; a row that is not "
                             "measured is all NaN.")  # fmt: skip
        lost = int((~absent & ~given.covered).sum())
        if lost:
            warnings.warn(f"{where}{lost} of {int((~absent).sum())} training ids have no vector in any modality; nothing is "
                          "learned from them.", UserWarning, stacklevel=3)  # fmt: skip
        rows = np.flatnonzero(~absent)
        if len(rows) < MIN_TRAIN:
            raise InputError(f"{where}{len(rows)} rows of y are measured; a fusion needs at least {MIN_TRAIN}.")
        if not self._classes:
            return ContextTargets(rows, Targets.of(y[rows]))
        known = np.isin(y[rows], (-1, 0, 1))
        if not known.all():
            raise InputError(f"{where}labels are -1, 0 or 1, but y holds {y[rows][~known][0]:g}; numbers are given as floats, or "
                             "with classes=False.")  # fmt: skip
        return ContextTargets(rows, LabelTargets(y[rows].astype(np.int8), self.device, self.threads))


def _modalities(x: Mapping[str, ArrayLike]) -> Modalities:
    if not isinstance(x, Mapping):
        raise InputError("x is one matrix for each modality: give {name: matrix}.")
    found = {}
    for name, values in x.items():
        try:
            found[str(name)] = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(f"modality {name!r} is no matrix of numbers.") from None
    return Modalities.of(found)

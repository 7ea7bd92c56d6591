"""What the attention fusion learns from, as plain arrays: scaled inputs, rows, targets, held-out ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.fusion.attention_options import Hyper
from panmodal.fusion.base import ContextTargets
from panmodal.probes.design import Indices, LabelTargets
from panmodal.probes.projection import Matrix, Projection, principal_axes

Singles = NDArray[np.float32]
LARGEST = 10.0
"""Largest standardised value: columns that hardly vary in training can be enormous elsewhere."""


@dataclass(frozen=True)
class Scaler:
    """How the vectors of one modality become inputs: fitted on the training ids that have it.

    ``raw`` leaves them; ``l2`` divides rows by their Euclidean norm; ``zscore`` subtracts the mean and divides by the population
    standard deviation of each column, constant columns becoming 0, and clips at +-10; ``pca`` is the probes' projection
    (standardise, principal axes), its rows then divided by their root mean square, so that an outlier is no longer than others.
    """

    how: str
    dims: int
    projection: Projection | None = None

    @classmethod
    def fit(cls, x: Matrix, how: str, components: int) -> Scaler:
        """Fit on training rows (n x dims)."""
        if how in ("raw", "l2"):
            return cls(how, x.shape[1])
        keep = min(components, len(x) - 1, x.shape[1]) if how == "pca" else 0
        fitted, _ = Projection.fit(x, max(keep, 0))
        if how == "pca" and fitted.axes.shape[1]:
            return cls(how, x.shape[1], fitted)
        # Constant columns have no axis; their scale is made infinite so that they give 0.
        spread = np.abs(x - fitted.mean).max(axis=0, initial=0.0)
        flat = spread <= 1e-10 * np.maximum(1.0, np.abs(fitted.mean))
        return cls("zscore", x.shape[1], Projection(fitted.mean, np.where(flat, np.inf, fitted.scale), fitted.axes))

    def __call__(self, x: Matrix) -> Singles:
        """Scale rows (m x dims); rows of NaN (ids without a vector) become 0."""
        absent = np.asarray(np.isnan(x).any(axis=1))
        x = np.where(absent[:, None], 0.0, x)
        if self.how == "l2":
            x = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-8)
        elif self.how == "zscore":
            assert self.projection is not None
            x = np.clip((x - self.projection.mean) / self.projection.scale, -LARGEST, LARGEST)
        elif self.how == "pca":
            assert self.projection is not None
            x = self.projection.transform(x)
            x = x / np.maximum(np.sqrt(np.mean(x**2, axis=1, keepdims=True)), 1e-12)
        x[absent] = 0.0
        return x.astype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Responses of all contexts, one row for each (id, context) measured.

    Attributes
    ----------
    contexts
        Names, in the order given.
    ids, context
        Position among the training ids, and position of the context, of each row.
    values
        Responses, rows x t: float64, or int8 labels.
    """

    contexts: tuple[str, ...]
    ids: Indices
    context: Indices
    values: NDArray[Any]

    @classmethod
    def of(cls, contexts: Mapping[str, ContextTargets]) -> Rows:
        """Put the responses of all contexts into one matrix.

        Raises
        ------
        InputError
            Contexts with different numbers of read-outs, or numbers in one and labels in another.
        """
        blocks = {n: c.targets.labels if isinstance(c.targets, LabelTargets) else c.targets.values
                  for n, c in contexts.items()}  # fmt: skip
        widths = {n: x.shape[1] for n, x in blocks.items()}
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{n}: {w}" for n, w in widths.items())
            raise InputError(f"attention is trained on all contexts together, and these have different numbers of read-outs "
                             f"({shown}); keep the read-outs that all share, or run the contexts one by one.")  # fmt: skip
        if len({isinstance(c.targets, LabelTargets) for c in contexts.values()}) > 1:
            raise InputError("attention is trained on all contexts together, and some hold labels, some numbers.")
        return cls(
            tuple(contexts),
            np.concatenate([c.rows for c in contexts.values()]),
            np.repeat(np.arange(len(contexts)), [len(c.rows) for c in contexts.values()]),
            np.concatenate(list(blocks.values())),
        )

    @property
    def classes(self) -> bool:
        """Whether the responses are labels."""
        return self.values.dtype == np.int8


def hold_out(rows: Rows, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the rows held out for validation: a share of the ids with all their contexts, at least one id.

    Every context keeps at least half of its rows for fitting: drawn again until it is so.

    Raises
    ------
    InputError
        A share so large that no draw leaves so many.
    """
    rng = np.random.default_rng([seed, 11])
    measured = np.unique(rows.ids)
    count = max(1, round(share * len(measured)))
    for _ in range(100):
        held = np.isin(rows.ids, rng.permutation(measured)[:count])
        kept = [np.mean(~held[rows.context == c]) for c in range(len(rows.contexts))]
        if min(kept) >= min(0.5, 1 - share) * 0.999:
            return np.asarray(held)
    raise InputError(f"validation {share:g} of the training ids leaves a context with too few for fitting; lower it.")


@dataclass(frozen=True)
class Goal:
    """What the model is to predict for some rows, and how to come back from it.

    A response is ``mean[context] + scale * (out @ basis)``; without a basis ``mean[context] + scale * out``. The basis is
    orthonormal, so that the distance from a response y to a prediction is
    ``sqrt(|scale * out - basis y|^2 + rest)``, where ``rest`` is the squared length of what the basis cannot tell of y:
    training needs no matrix as wide as the read-outs. For classes the response is the logits, three for each read-out.

    Attributes
    ----------
    mean
        Contexts x t, for classes contexts x 3t (zeros where nothing is subtracted).
    scale
        Of outputs.
    basis
        Coordinates x t (3t), orthonormal rows, or None.
    weights
        Of the classes of each read-out, t x 3; None for numbers.
    """

    mean: Matrix
    scale: float
    basis: Matrix | None
    weights: Singles | None = None

    @classmethod
    def fit(cls, rows: Rows, use: NDArray[np.bool_], hyper: Hyper) -> Goal:
        """Fit mean, scale and basis on the rows to be used.

        For classes the mean is the logarithm of weight times share of each class in the context, and the basis that of the
        gradients of the loss there, weight (p - indicator).
        """
        if rows.classes:
            return cls._of_classes(rows, use, hyper)
        t = rows.values.shape[1]
        mean = np.zeros((len(rows.contexts), t))
        if not (hyper.centre or hyper.rank):
            return cls(mean, 1.0, None)
        if hyper.centre:
            for c in range(len(mean)):
                mean[c] = rows.values[use & (rows.context == c)].mean(axis=0)
        deviations = rows.values[use] - mean[rows.context[use]]
        basis = _basis(deviations, hyper.rank)
        scale = 1.0
        if hyper.centre:
            size = deviations if basis is None else deviations @ basis.T
            scale = float(np.sqrt(np.mean(size**2))) or 1.0
        return cls(mean, scale, basis)

    @classmethod
    def _of_classes(cls, rows: Rows, use: NDArray[np.bool_], hyper: Hyper) -> Goal:
        labels = rows.values[use]
        n, t = labels.shape
        weights = class_weights(labels, hyper.weighting)
        mean = np.zeros((len(rows.contexts), 3 * t))
        if not (hyper.centre or hyper.rank):
            return cls(mean, 1.0, None, weights)
        context = rows.context[use]
        start = np.full((len(mean), t, 3), 1 / 3)
        if hyper.centre:
            for c in range(len(mean)):
                own = labels[context == c]
                counts = np.stack([(own == k).sum(axis=0) for k in (-1, 0, 1)], axis=1) + 0.5
                odds = counts / counts.sum(axis=1, keepdims=True) * np.where(weights > 0, weights, 1.0)
                start[c] = odds / odds.sum(axis=1, keepdims=True)
                mean[c] = np.log(start[c]).ravel()
        if not hyper.rank:
            return cls(mean, 1.0, None, weights)
        # A residual as wide as 3t for each row; single precision keeps it small.
        residual = np.empty((n, t, 3), dtype=np.float32)
        for k in range(3):
            residual[:, :, k] = (labels == k - 1) - start[context, :, k]
        residual *= np.take_along_axis(weights[None], (labels + 1)[..., None].astype(np.intp), axis=2)
        basis = _basis(residual.reshape(n, 3 * t).astype(np.float64), hyper.rank)
        # An output of 1 then moves logits by about 1.
        return cls(mean, float(np.sqrt(3 * t)) if hyper.centre else 1.0, basis, weights)

    @property
    def width(self) -> int:
        """Number of outputs of the model."""
        return self.mean.shape[1] if self.basis is None else len(self.basis)

    def targets(self, rows: Rows) -> tuple[Singles, Singles]:
        """Return what the outputs should be (rows x width, in units of ``scale``) and ``rest`` (in the same units, squared)."""
        deviations = rows.values - self.mean[rows.context]
        if self.basis is None:
            return (deviations / self.scale).astype(np.float32), np.zeros(len(deviations), dtype=np.float32)
        inside = deviations @ self.basis.T
        rest = np.einsum("ij,ij->i", deviations, deviations) - np.einsum("ij,ij->i", inside, inside)
        return (inside / self.scale).astype(np.float32), (np.maximum(rest, 0.0) / self.scale**2).astype(np.float32)

    def response(self, out: NDArray[Any], context: int) -> NDArray[Any]:
        """Turn outputs (m x width) into responses (m x t; of classes the logits, m x 3t), single precision."""
        own = (self.mean[context]).astype(np.float32)
        out = np.float32(self.scale) * out
        return own + (out if self.basis is None else out @ self.basis.astype(np.float32))


def _basis(deviations: Matrix, rank: int) -> Matrix | None:
    """Return the first principal axes of deviations (axes x read-outs); None without a rank."""
    if not rank:
        return None
    found = principal_axes(deviations, rank).T
    return found if len(found) else np.eye(1, deviations.shape[1])


def class_weights(labels: NDArray[np.int8], power: float = 1.0) -> Singles:
    """Return the weight of each class of each gene, (n / (3 n_c))^power; 0 for a class that no row has (t x 3; -1, 0, 1)."""
    counts = np.stack([(labels == c).sum(axis=0) for c in (-1, 0, 1)], axis=1)
    return np.where(counts > 0, (len(labels) / (3.0 * np.maximum(counts, 1))) ** power, 0.0).astype(np.float32)

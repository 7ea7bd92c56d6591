"""Fusions by kernels: concatenation, concatenation of principal components, and multiple kernel ridge with learned weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from panmodal.errors import InputError
from panmodal.fusion.base import ContextTargets, Fused, Fusion, Modalities, Options, Setting, only_context
from panmodal.fusion.kernel_features import Kernel
from panmodal.fusion.kernel_weights import HIGHEST, LOWEST, SCALES, Smoother, learn_weights, leave_one_out, rescale
from panmodal.probes.base import CLASSES, CONTINUOUS
from panmodal.probes.design import LabelTargets
from panmodal.probes.labels import balance
from panmodal.probes.projection import Matrix

Kind = Literal["linear", "linear_raw", "cosine", "cosine_raw", "gaussian", "gaussian_raw"]
SINGLE_ABOVE = 2**29
"""Bytes of all kernels in double precision above which they are kept in single precision."""


class KernelOptions(Options):
    """Options of ``kernels``.

    Attributes
    ----------
    kinds
        Kernels of each modality; see :data:`panmodal.fusion.kernel_features.KINDS`.
    width
        Of the Gaussian ones: exp((cosine - 1) / width).
    most
        Training ids from which the ratios of weights are learned at most, drawn by the seed; their scale, and the fit, use all.
    """

    kinds: tuple[Kind, ...] = Field(default=("linear", "gaussian", "gaussian_raw"), min_length=1)
    width: float = Field(default=0.5, gt=0)
    most: int = Field(default=1000, ge=50)


class ConcatOptions(Options):
    """Options of ``concat``.

    Attributes
    ----------
    unit
        Scale every vector to unit length after z-scoring: its direction alone then counts.
    most
        As for ``kernels``.
    """

    unit: bool = False
    most: int = Field(default=1000, ge=50)


class PcaConcatOptions(ConcatOptions):
    """Options of ``pca_concat``.

    Attributes
    ----------
    components
        Principal components of each modality, at most its rank.
    """

    components: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class _Part:
    """A kernel with its place: modality, and which training rows it is made of."""

    modality: int
    kind: str
    kernel: Kernel
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class KernelFit:
    """Kernel ridge over several kernels, fitted in one context."""

    names: tuple[str, ...]
    parts: tuple[_Part, ...]
    weights: Matrix
    smoother: Smoother
    responses: NDArray[Any]
    prior: NDArray[np.float32] | None
    noise: Matrix | None
    importance: Mapping[str, float]
    context: str
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Ratio of signal to noise variance, leave-one-out error, and whether a weight is at its upper bound."""
        return dict(self.chosen)

    def tables(self) -> list[dict[str, Any]]:
        """Shares of the weights, and by how much the leave-one-out error grows without a modality (weights else unchanged)."""
        total = self.weights.sum()
        rows = [{"what": "weight", "context": self.context, "modality": self.names[p.modality], "part": p.kind,
                 "value": float(w / total)} for p, w in zip(self.parts, self.weights, strict=True)]  # fmt: skip
        return rows + [
            {"what": "importance", "context": self.context, "modality": name, "part": "", "value": value}
            for name, value in self.importance.items()
        ]

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict; a modality that an id lacks adds nothing but variance.

        The variance is that of the Gaussian process whose kernel is the weighted sum, with the noise of each read-out from its
        leave-one-out residuals: noise_t (1 + k** - k*' S^-1 k* + (1 - 1' S^-1 k*)^2 / (1' S^-1 1)). Classes have none.
        """
        if context != self.context:
            raise InputError(f"this fusion was fitted in context {self.context!r}, not {context!r}.")
        cross = np.zeros((len(test), len(self.responses)))
        own = np.ones(len(test))
        for part, weight in zip(self.parts, self.weights, strict=True):
            has = test.present[:, part.modality]
            own[~has] += weight
            if has.any():
                values, diagonal = part.kernel.across(test.values[part.modality][has])
                cross[np.ix_(has, part.rows)] += weight * values
                own[has] += weight * diagonal
        smooth = cross @ self.smoother.dual + self.smoother.bias
        values = smooth.astype(self.responses.dtype, copy=False) @ self.responses
        if self.prior is not None:
            t = len(self.prior) // 2
            return Fused(np.concatenate(balance(values[:, :t], values[:, t:], self.prior), axis=1))
        assert self.noise is not None
        solved = cross @ self.smoother.inverse
        left = 1 - solved.sum(axis=1)
        spread = own - np.einsum("ij,ij->i", solved, cross) + left**2 / self.smoother.sums.sum()
        return Fused(values, np.outer(np.maximum(spread, 0.0), self.noise))


def _fit(train: Modalities, contexts: Mapping[str, ContextTargets], kinds: Mapping[str, dict[str, Any]], *, equal: bool,
         most: int, setting: Setting) -> KernelFit:  # fmt: skip
    """Fit one context; ``kinds`` maps a kernel's name to what :meth:`Kernel.fit` takes."""
    context, own = only_context(contexts)
    here = train.part(own.rows)
    parts = []
    for k, name in enumerate(here.names):
        rows = np.flatnonzero(here.present[:, k])
        if len(rows) < 2:
            continue  # nothing to learn of it in this context
        for kind, how in kinds.items():
            try:
                parts.append(_Part(k, kind, Kernel.fit(x=here.values[k][rows], **how), rows))
            except InputError as error:
                raise InputError(f"modality {name!r}: {error}") from None
    absent = np.array([~here.present[:, p.modality] for p in parts], dtype=np.float64)
    responses, gram, prior = _targets(own)
    n = len(here)
    learn = np.arange(n)
    if n > most:
        learn = np.sort(np.random.default_rng([setting.seed, 7]).choice(n, most, replace=False))
    kernels = _matrices(parts, learn, n)
    few = gram[np.ix_(learn, learn)]
    centred = few - few.mean(axis=0) - few.mean(axis=1)[:, None] + few.mean()
    log_weights, loo = learn_weights(kernels, absent[:, learn], centred, equal=equal)
    importance = {name: _without(k, parts, log_weights, kernels, absent[:, learn], centred) - loo
                  for k, name in enumerate(here.names)} if len(here.names) > 1 else {}  # fmt: skip
    if len(learn) < n:
        kernels = _matrices(parts, np.arange(n), n)
        whole = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
        log_weights, loo = rescale(log_weights, kernels, absent, whole)
    weights = np.exp(log_weights)
    smoother = Smoother.of(kernels, weights, 1.0 + weights @ absent)
    noise = None
    if prior is None:
        residual = smoother.dual @ responses
        noise = np.einsum("ij,ij,i->j", residual, residual, 1 / np.diag(smoother.dual)) / n
    edge = SCALES[-1] - np.log(len(parts)) if equal else HIGHEST
    lowest = SCALES[0] - np.log(len(parts)) if equal else LOWEST
    chosen = {"signal": float(weights.sum()), "loo_error": loo, "learned_on": len(learn), "kernels": len(parts),
              "at_edge": bool((log_weights >= edge - 1e-6).any() or (log_weights <= lowest + 1e-6).all())}  # fmt: skip
    return KernelFit(here.names, tuple(parts), weights, smoother, responses, prior, noise, importance, context, chosen)


def _targets(own: ContextTargets) -> tuple[NDArray[Any], Matrix, NDArray[np.float32] | None]:
    """Responses to smooth, the Gram matrix by which weights are learned, and for classes their prior.

    For classes: indicators of -1 and +1; in the Gram matrix each is divided by the root of its share, so that rare classes count as
    much as frequent ones.
    """
    if not isinstance(own.targets, LabelTargets):
        return own.targets.values, own.targets.gram, None
    labels, prior = own.targets.labels, own.targets.prior
    indicators = np.concatenate([labels == -1, labels == 1], axis=1).astype(np.float32)
    scaled = indicators * np.where(prior > 0, 1 / np.sqrt(np.maximum(prior, 1e-6)), 0.0).astype(np.float32)
    return indicators, (scaled @ scaled.T).astype(np.float64), prior


def _matrices(parts: list[_Part], learn: NDArray[np.intp], n: int) -> list[Matrix]:
    """Kernels among the rows ``learn``, zero for rows without the modality."""
    dtype = np.float32 if len(parts) * len(learn) ** 2 * 8 > SINGLE_ABOVE else np.float64
    place = np.full(n, -1)
    place[learn] = np.arange(len(learn))
    found = []
    for part in parts:
        inside = place[part.rows] >= 0
        at = place[part.rows[inside]]
        whole = np.zeros((len(learn), len(learn)), dtype=dtype)
        whole[np.ix_(at, at)] = part.kernel.gram()[np.ix_(inside, inside)]
        found.append(whole)
    return found


def _without(
    modality: int, parts: list[_Part], log_weights: Matrix, kernels: list[Matrix], absent: Matrix, gram: Matrix
) -> float:
    """Leave-one-out error without the kernels of a modality."""
    keep = [k for k, p in enumerate(parts) if p.modality != modality]
    if len(keep) in (0, len(parts)):
        return leave_one_out(log_weights, kernels, absent, gram, gradient=False)[0] if keep else float("nan")
    return leave_one_out(log_weights[keep], [kernels[k] for k in keep], absent[keep], gram, gradient=False)[0]


def _kernels(
    train: Modalities, contexts: Mapping[str, ContextTargets], options: KernelOptions, setting: Setting
) -> KernelFit:
    kinds: dict[str, dict[str, Any]] = {kind: {"kind": kind, "width": options.width} for kind in options.kinds}
    return _fit(train, contexts, kinds, equal=False, most=options.most, setting=setting)


def _concat(
    train: Modalities, contexts: Mapping[str, ContextTargets], options: ConcatOptions, setting: Setting
) -> KernelFit:
    how = {"kind": "cosine" if options.unit else "linear"}
    return _fit(train, contexts, {"": how}, equal=True, most=options.most, setting=setting)


def _pca_concat(
    train: Modalities, contexts: Mapping[str, ContextTargets], options: PcaConcatOptions, setting: Setting
) -> KernelFit:
    how = {"kind": "cosine" if options.unit else "linear", "components": options.components}
    return _fit(train, contexts, {"": how}, equal=True, most=options.most, setting=setting)


FUSIONS = (
    Fusion(
        name="concat",
        description="ridge regression on the z-scored vectors side by side, each modality with the same weight",
        kinds=(*CONTINUOUS, *CLASSES),
        fit=_concat,
        options=ConcatOptions,
    ),
    Fusion(
        name="pca_concat",
        description="ridge regression on the principal components of each modality side by side, with the same weight",
        kinds=(*CONTINUOUS, *CLASSES),
        fit=_pca_concat,
        options=PcaConcatOptions,
    ),
    Fusion(
        name="kernels",
        description="kernel ridge regression on a sum of kernels of the modalities, weights learned from leave-one-out errors",
        kinds=(*CONTINUOUS, *CLASSES),
        fit=_kernels,
        options=KernelOptions,
    ),
)

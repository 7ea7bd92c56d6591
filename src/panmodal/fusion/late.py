"""Late averaging: the mean of the predictions of one probe for each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from panmodal.errors import InputError
from panmodal.fusion.base import ContextTargets, Fused, Fusion, Modalities, Options, Setting, only_context
from panmodal.fusion.experts import (
    KINDS,
    Expert,
    average_weights,
    check_kind,
    check_test,
    fit_expert,
    probes_for,
    sources_of,
    weighted_sum,
)
from panmodal.probes.design import LabelTargets, Targets


class LateOptions(Options):
    """Options of ``late``.

    Attributes
    ----------
    probe
        Probe fitted on each modality; by default ``ridge``, for classes ``ridge_classifier``.
    """

    probe: Annotated[str, AfterValidator(check_kind)] | None = None


@dataclass(frozen=True)
class LateFit:
    """A fitted late average, in one context."""

    names: tuple[str, ...]
    context: str
    experts: tuple[Expert, ...]
    targets: Targets | LabelTargets

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The probe, and the hyper-parameter chosen on each modality."""
        return describe(self.experts)

    def tables(self) -> list[dict[str, Any]]:
        """Give the weight of each modality for an id that has them all: the same."""
        return [{"what": "weight", "context": self.context, "modality": e.name, "part": e.probe.name,
                 "value": 1 / len(self.experts)} for e in self.experts]  # fmt: skip

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict the mean over the modalities that an id has; for classes the mean of their probabilities."""
        check_context(self.context, context)
        check_test(self.names, self.experts, test)
        weights = average_weights(self.experts, test.present)
        return Fused(weighted_sum(self.experts, weights, no_base(self.targets), test, self.targets))


def describe(experts: tuple[Expert, ...]) -> dict[str, Any]:
    """Hyper-parameters by probe and modality, and whether any lies at an end of its grid."""
    found: dict[str, Any] = {}
    for e in experts:
        found.setdefault(e.probe.name, {}).setdefault(e.probe.parameter, {})[e.name] = float(e.selection.value)
    return {**found, "at_edge": any(e.selection.at_edge for e in experts)}


def check_context(fitted: str, asked: str) -> None:
    """Refuse to predict another context than the fitted one."""
    if asked != fitted:
        raise InputError(f"this fusion was fitted in context {fitted!r}, not {asked!r}.")


def no_base(targets: Targets | LabelTargets) -> NDArray[np.float64]:
    """Zeros: what weights that sum to one leave out."""
    return np.zeros(2 * targets.labels.shape[1] if isinstance(targets, LabelTargets) else targets.values.shape[1])


def _fit(train: Modalities, contexts: Mapping[str, ContextTargets], options: LateOptions, setting: Setting) -> LateFit:
    context, own = only_context(contexts)
    default = "ridge_classifier" if isinstance(own.targets, LabelTargets) else "ridge"
    (probe,) = probes_for([options.probe or default], own.targets)
    sources = sources_of(train, own, shared=False)
    experts = []
    for k, source in enumerate(sources):
        experts.append(fit_expert(k, source, probe, own.targets))
        if setting.progress:
            setting.progress(k + 1, len(sources))
    return LateFit(train.names, context, tuple(experts), own.targets)


FUSION = Fusion(
    name="late",
    description="mean over the modalities of the predictions of one probe fitted on each",
    kinds=KINDS,
    fit=_fit,
    options=LateOptions,
)

"""Stacking: probes on each modality, weighted by what they predict out of fold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from panmodal.errors import InputError, some
from panmodal.fusion.base import ContextTargets, Fused, Fusion, Modalities, Options, Setting, only_context
from panmodal.fusion.experts import (
    KINDS,
    Expert,
    average_weights,
    check_kind,
    check_test,
    fit_expert,
    fold_numbers,
    probes_for,
    sources_of,
    weighted_sum,
)
from panmodal.fusion.late import check_context, describe
from panmodal.fusion.oof import LINEAR, error_grams, turned, uniform_prior
from panmodal.fusion.stack_weights import convex_weights, mean_error_weights
from panmodal.probes.design import Indices, LabelTargets, Targets
from panmodal.probes.projection import Matrix

FEWEST_ROWS = 10
"""Training ids that have all modalities of a pattern, below which its weights are not fitted."""
NUMBERS, LABELS = ("ridge", "knn"), ("ridge_classifier", "knn_classifier")

Pattern = tuple[bool, ...]


def _split(given: Any) -> Any:
    """Take ``ridge+knn`` for the names of two probes."""
    return tuple(filter(None, re.split(r"[+,\s]+", given))) if isinstance(given, str) else given


def _once(given: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise InputError(f"{some(twice)} is given twice; each probe is a member once.")
    return given


class StackOptions(Options):
    """Options of ``stack``.

    Attributes
    ----------
    probes
        Probes fitted on each modality, also written ``ridge+knn``; by default ``ridge`` and ``knn``, for classes
        ``ridge_classifier`` and ``knn_classifier``.
    """

    probes: (
        Annotated[
            tuple[Annotated[str, AfterValidator(check_kind)], ...],
            BeforeValidator(_split),
            AfterValidator(_once),
            Field(min_length=1),
        ]
        | None
    ) = None


@dataclass(frozen=True)
class StackFit:
    """A fitted stack, in one context; weights are fitted for each pattern of modalities when first asked for.

    Attributes
    ----------
    names, context
        Modalities, and the context.
    experts
        The members.
    targets
        All training responses of the context.
    base
        What deviations are from: the training mean (length t), or for classes the prior (2t).
    grams, has
        Gram matrices of the out-of-fold deviations, and which members predict which training row; see
        :func:`panmodal.fusion.oof.error_grams`.
    own
        Which modalities each training row has.
    """

    names: tuple[str, ...]
    context: str
    experts: tuple[Expert, ...]
    targets: Targets | LabelTargets
    base: NDArray[np.floating]
    grams: NDArray[np.float32]
    has: NDArray[np.bool_]
    own: NDArray[np.bool_]
    fitted: dict[Pattern, tuple[Matrix, float] | None] = field(default_factory=dict)

    def weights_of(self, pattern: Pattern) -> tuple[Matrix, float] | None:
        """Weights of all members for ids with a pattern of modalities, and their out-of-fold error.

        Fitted on all training ids that have at least these modalities; None where fewer than 10 do.
        """
        if pattern not in self.fitted:
            members = self._members(pattern)
            rows = np.flatnonzero(self.has[:, members].all(axis=1))
            self.fitted[pattern] = self._solve(rows, members) if len(rows) >= FEWEST_ROWS else None
        return self.fitted[pattern]

    def _members(self, pattern: Pattern) -> Indices:
        return np.flatnonzero([pattern[e.modality] for e in self.experts])

    def _solve(self, rows: Indices, members: Indices) -> tuple[Matrix, float]:
        """Fit the weights of some members on some training rows; the others get none."""
        inner = np.concatenate([[0], members + 1])
        grams = self.grams[np.ix_(rows, inner, inner)].astype(np.float64)
        if isinstance(self.targets, LabelTargets):
            found, error = convex_weights(grams.sum(axis=0))
            error /= len(rows) * self.targets.labels.shape[1]
        else:
            found, error = mean_error_weights(grams)
        weights = np.zeros(len(self.experts))
        weights[members] = found
        return weights, error

    @property
    def usual(self) -> Pattern:
        """All modalities if at least 10 training ids have them, otherwise the commonest pattern among the training ids."""
        everything = (True,) * len(self.names)
        if self.weights_of(everything) is not None:
            return everything
        patterns, counts = np.unique(self.own, axis=0, return_counts=True)
        return tuple(map(bool, patterns[int(np.argmax(counts))]))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Hyper-parameters of the members, the out-of-fold error of the usual pattern, and how many patterns have weights.

        ``patterns`` counts the patterns met so far, ``averaged`` those of them that are averaged for want of training ids. The error
        is the L2 error, or the class-balanced Brier score.
        """
        found = self.weights_of(self.usual)
        return {
            **describe(self.experts),
            "oof_error": None if found is None else found[1],
            "patterns": len(self.fitted),
            "averaged": sum(w is None for w in self.fitted.values()),
        }

    def tables(self) -> list[dict[str, Any]]:
        """Weights for ids with the usual pattern, and by how much the out-of-fold error grows without a modality.

        Weights may sum to more than one, but not for classes. The error without a modality is that of newly fitted weights, on the
        same training ids; it is told where there are several modalities.
        """
        usual = self.usual
        found = self.weights_of(usual)
        weights = average_weights(self.experts, np.array([usual]))[0] if found is None else found[0]
        rows = [{"what": "weight", "context": self.context, "modality": e.name, "part": e.probe.name, "value": float(w)}
                for e, w in zip(self.experts, weights, strict=True) if usual[e.modality]]  # fmt: skip
        if found is None or sum(usual) < 2:
            return rows
        complete = np.flatnonzero(self.has[:, self._members(usual)].all(axis=1))
        for k in np.flatnonzero(usual):
            without = (*usual[:k], False, *usual[k + 1 :])
            grown = self._solve(complete, self._members(without))[1] - found[1]
            rows.append(
                {"what": "importance", "context": self.context, "modality": self.names[k], "part": "", "value": grown}
            )
        return rows

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict ``mean + sum_k v_k (p_k - mean)``, with the weights of the pattern of modalities that an id has.

        Ids with a pattern that fewer than 10 training ids have (at least) get the mean of the predictions of the members they have.
        """
        check_context(self.context, context)
        check_test(self.names, self.experts, test)
        weights = np.zeros((len(test), len(self.experts)))
        for pattern, rows in test.patterns().items():
            found = self.weights_of(pattern)
            weights[rows] = average_weights(self.experts, test.present[rows]) if found is None else found[0]
        return Fused(weighted_sum(self.experts, weights, self.base, test, self.targets))


def _fit(
    train: Modalities, contexts: Mapping[str, ContextTargets], options: StackOptions, setting: Setting
) -> StackFit:
    context, own = only_context(contexts)
    targets = own.targets
    default = LABELS if isinstance(targets, LabelTargets) else NUMBERS
    probes = probes_for(options.probes or default, targets)
    sources = sources_of(train, own, shared=True)
    # Linear probes are chosen by the Gram matrix; turned responses are narrower.
    narrow = turned(targets) if isinstance(targets, Targets) and all(p.name in LINEAR for p in probes) else targets
    experts = tuple(fit_expert(k, source, probe, narrow) for k, source in enumerate(sources) for probe in probes)
    grams, has = error_grams(sources, probes, narrow, fold_numbers(len(own.rows)), setting.progress)
    base = uniform_prior(targets.labels) if isinstance(targets, LabelTargets) else targets.mean
    return StackFit(train.names, context, experts, targets, base, grams, has, train.present[own.rows])


FUSION = Fusion(
    name="stack",
    description="probes on each modality, with non-negative weights by their nested out-of-fold predictions",
    kinds=KINDS,
    fit=_fit,
    options=StackOptions,
)

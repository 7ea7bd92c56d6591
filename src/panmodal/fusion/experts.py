"""Experts: a probe fitted on one modality, by the protocol of the probes; what late averages and stacks are made of."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.fusion.base import ContextTargets, Modalities, part_of
from panmodal.probes.base import CLASSES, CONTINUOUS, Probe, Selection, get_probe, select
from panmodal.probes.design import INNER_FOLDS, INNER_SEED, MIN_TRAIN, Design, Fold, Indices, LabelTargets, Targets
from panmodal.probes.projection import Matrix, Projection, n_components

FEWEST = 5
"""Training ids of an inner fold below which a modality tells nothing of that fold."""
CACHE_BYTES = 2**28
"""Projected vectors kept for the next fit on the same ids (another context, or another fusion)."""

Row = NDArray[np.floating]


def probes_for(names: Sequence[str], targets: Targets | LabelTargets) -> tuple[Probe, ...]:
    """Look up probes that serve the kind of the targets.

    Raises
    ------
    InputError
        An unknown probe, or one for another kind of response.
    """
    labels = isinstance(targets, LabelTargets)
    found = tuple(get_probe(name) for name in names)
    wrong = [p.name for p in found if (p.kinds == CLASSES) != labels]
    if wrong:
        want, fitting = ("classes", "ridge_classifier") if labels else ("numbers", "ridge")
        raise InputError(
            f"probe {some(wrong)} does not serve responses that are {want}; choose one that does, as {fitting}."
        )
    return found


def fold_numbers(n: int) -> Indices:
    """Return the inner fold of each of n rows: those of ``KFold(5, shuffle=True, random_state=42)``, as in a probe's design."""
    from sklearn.model_selection import KFold

    numbers = np.empty(n, dtype=np.intp)
    for k, (_, test) in enumerate(KFold(INNER_FOLDS, shuffle=True, random_state=INNER_SEED).split(np.empty((n, 0)))):
        numbers[test] = k
    return numbers


@dataclass(frozen=True)
class Source:
    """A modality in one context.

    Attributes
    ----------
    name
        Of the modality.
    rows
        Positions among the context's training rows of those that it has.
    folds
        Their inner folds.
    design
        Their design; folds in which the modality has fewer than 5 training ids, or no id to predict, are left out.
    even
        The design by which hyper-parameters are chosen: the same, or with folds over the modality's own rows if one is left out.
    """

    name: str
    rows: Indices
    folds: Indices
    design: Design
    even: Design

    def choose(self, probe: Probe, targets: Targets | LabelTargets) -> Selection:
        """Choose a probe's hyper-parameter by the inner folds, for the targets of the modality's own rows."""
        n = len(self.rows)
        smallest = min(len(fold.train) for fold in self.even.inner)
        # Folds shared by all modalities may be uneven for one; its grid then is that of as few rows as the smallest part allows.
        grid = probe.candidates(probe.grid, n if smallest >= int(0.8 * n) else int(smallest / 0.8))
        chosen = select(replace(probe, grid=grid, candidates=lambda g, n: g), self.even, targets)
        forget_distances(self.even.inner)
        return chosen


def forget_distances(folds: Sequence[Fold]) -> None:
    """Drop the distances that folds remember (n x n in all); the order of neighbours is kept."""
    for fold in folds:
        fold.__dict__.pop("distances", None)


def sources_of(train: Modalities, own: ContextTargets, *, shared: bool) -> list[Source]:
    """Build the design of every modality in one context.

    Parameters
    ----------
    shared
        Whether inner folds are drawn over all training ids, the same in all modalities; otherwise over each modality's own, as where
        it is evaluated alone. The two are the same for a modality that has every id.

    Raises
    ------
    InputError
        A modality with fewer than 10 training ids.
    """
    numbers = fold_numbers(len(own.rows))
    found = []
    for k, name in enumerate(train.names):
        rows = np.flatnonzero(train.present[own.rows, k])
        if len(rows) < MIN_TRAIN:
            raise InputError(
                f"modality {name!r} has a vector for {len(rows)} of {len(own.rows)} training ids; at least {MIN_TRAIN} are "
                "needed. Leave it out."
            )
        x, alone = train.values[k][own.rows[rows]], fold_numbers(len(rows))
        folds = numbers[rows] if shared else alone
        design = folded_design(x, folds)
        even = design if len(design.inner) == INNER_FOLDS else folded_design(x, alone)
        found.append(Source(name, rows, folds, design, even))
    return found


_kept: OrderedDict[str, Design] = OrderedDict()


def folded_design(x: Matrix, folds: Indices) -> Design:
    """Project the rows of a modality (n x dims), in each inner fold anew, as :meth:`panmodal.probes.Design.build` does.

    Designs of the same vectors and folds are kept up to :data:`CACHE_BYTES`: contexts with the same ids share them.
    """
    key = hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16)
    key.update(repr(x.shape).encode() + folds.tobytes())
    name = key.hexdigest()
    design = _kept.pop(name, None) or _build(x, folds)
    _kept[name] = design
    while len(_kept) > 1 and sum(map(_bytes, _kept.values())) > CACHE_BYTES:
        _kept.popitem(last=False)
    # New folds, so that what a fit remembers of them goes with it.
    fresh = [Fold(f.z_train, f.z_test, f.train, f.test) for f in (*design.inner, design.final)]
    return Design(tuple(fresh[:-1]), fresh[-1], design.projection)


def forget_designs() -> None:
    """Let go of the designs that are kept."""
    _kept.clear()


def _build(x: Matrix, folds: Indices) -> Design:
    n = len(x)
    keep = n_components(n, x.shape[1])
    inner = []
    for number in range(INNER_FOLDS):
        train, test = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        if len(train) >= FEWEST and len(test):
            fitted, z = Projection.fit(x[train], keep)
            inner.append(Fold(z, fitted.transform(x[test]), train, test))
    fitted, z = Projection.fit(x, keep)
    return Design(tuple(inner), Fold(z, z[:0], np.arange(n), np.empty(0, dtype=np.intp)), fitted)


def _bytes(design: Design) -> int:
    return (
        sum(f.z_train.nbytes + f.z_test.nbytes for f in (*design.inner, design.final)) + design.projection.axes.nbytes
    )


@dataclass(frozen=True)
class Expert:
    """A probe fitted on one modality.

    Attributes
    ----------
    modality
        Position of the modality.
    rows
        Positions among the context's training rows of those that it has.
    z, projection
        Their projected vectors, and the projection.
    """

    modality: int
    name: str
    probe: Probe
    selection: Selection
    rows: Indices
    z: Matrix
    projection: Projection

    @classmethod
    def of(cls, modality: int, source: Source, probe: Probe, selection: Selection) -> Expert:
        """Take a modality's final design."""
        final = source.design.final
        return cls(modality, source.name, probe, selection, source.rows, final.z_train, source.design.projection)

    def predict(self, x: Matrix, targets: Targets | LabelTargets) -> NDArray[np.floating]:
        """Predict rows of the modality (m x dims) from the targets of all training rows of the context."""
        fold = Fold(self.z, self.projection.transform(x), np.arange(len(self.z)), np.empty(0, dtype=np.intp))
        if isinstance(targets, LabelTargets):
            own: Targets | LabelTargets = targets if len(self.rows) == len(targets.labels) else targets.part(self.rows)
        elif len(self.rows) == len(targets.values):
            own = targets
        else:
            own = Targets(targets.values[self.rows], targets.gram[:0, :0])
        return self.probe.predict(fold, own, self.selection.value)


def fit_expert(modality: int, source: Source, probe: Probe, targets: Targets | LabelTargets) -> Expert:
    """Choose a probe's hyper-parameter on one modality, from the targets of all training rows of the context."""
    whole = len(source.rows) == len(targets.labels if isinstance(targets, LabelTargets) else targets.values)
    return Expert.of(modality, source, probe, source.choose(probe, targets if whole else part_of(targets, source.rows)))


def weighted_sum(
    experts: Sequence[Expert], weights: Matrix, base: Row, test: Modalities, targets: Targets | LabelTargets
) -> NDArray[Any]:
    """Predict ``base + sum_k w_ik (p_ik - base)`` for each row i, m x t (classes: m x 2t, probabilities of -1 and of +1).

    Parameters
    ----------
    weights
        One for each row and expert (m x k); 0 where the row lacks the expert's modality.
    base
        Length t (2t).
    """
    labels = isinstance(targets, LabelTargets)
    values: NDArray[Any] = np.outer(1.0 - weights.sum(axis=1), base).astype(np.float32 if labels else np.float64)
    for k, expert in enumerate(experts):
        rows = np.flatnonzero(weights[:, k])
        if len(rows):
            predicted = expert.predict(test.values[expert.modality][rows], targets)
            values[rows] += weights[rows, k, None].astype(values.dtype) * predicted
    if labels:
        # Rounding may leave a probability below 0 by the last digit.
        np.clip(values, 0.0, 1.0, out=values)
    return values


def average_weights(experts: Sequence[Expert], present: NDArray[np.bool_]) -> Matrix:
    """Weights of the mean over the experts whose modality a row has (m x modalities -> m x experts)."""
    has = present[:, [e.modality for e in experts]].astype(np.float64)
    return has / np.maximum(has.sum(axis=1, keepdims=True), 1.0)


def check_test(names: Sequence[str], experts: Sequence[Expert], test: Modalities) -> None:
    """Check that ids to predict come with the modalities of the fit.

    Raises
    ------
    InputError
        Other modalities, another number of dims, or an id that no modality has.
    """
    if test.names != tuple(names):
        raise InputError(f"fitted on the modalities {', '.join(names)}, asked to predict from {', '.join(test.names)}; give the "
                         "same, in the same order, with NaN rows for ids without a vector.")  # fmt: skip
    for expert in experts:
        given, dims = test.values[expert.modality].shape[1], len(expert.projection.mean)
        if given != dims:
            raise InputError(f"modality {expert.name!r} was fitted with {dims} dims, but now has {given}.")
    if not test.covered.all():
        row = int(np.flatnonzero(~test.covered)[0])
        raise InputError(f"row {row} has no vector in any modality; predict only ids that one has.")


def check_kind(name: str) -> str:
    """Return the name of a probe that exists, for options."""
    return get_probe(name).name


KINDS = (*CONTINUOUS, *CLASSES)

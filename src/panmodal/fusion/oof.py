"""Out-of-fold predictions of probes on each modality: what the weights of a stack are fitted on.

Nested: the prediction of a training id comes from a probe that was fitted, and whose hyper-parameter was chosen, on the other inner
folds alone. Within these the choice is made by another KFold(5, shuffle=True, random_state=42), in the projection of that part (which
knows no responses), so that nothing is projected anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.fusion.base import part_of
from panmodal.fusion.experts import Source, forget_distances
from panmodal.probes.base import Probe, select
from panmodal.probes.design import INNER_FOLDS, INNER_SEED, Design, Fold, Indices, LabelTargets, Targets
from panmodal.probes.projection import Matrix

LINEAR = ("ridge", "knn")
"""Probes that predict weighted sums of training responses: turned responses give turned predictions."""
BLOCK = 2048
"""Read-outs predicted at a time."""
GENES = 512
"""Genes by which a probe of classes chooses its hyper-parameter within an inner fold, evenly spaced."""


@dataclass(frozen=True)
class _Inside(Fold):
    """A fold within the training rows of another; distances are taken from those between all of them."""

    pairs: Callable[[], Matrix] = field(repr=False)

    @cached_property
    def distances(self) -> Matrix:
        """Squared Euclidean distances, m x n."""
        return self.pairs()[np.ix_(self.test, self.train)]


def inside(design: Design, fold: Fold) -> Design:
    """Return the design by which hyper-parameters are chosen within the training part of an inner fold."""
    from sklearn.model_selection import KFold

    z = fold.z_train

    @cache
    def pairs() -> Matrix:
        squares = np.einsum("ij,ij->i", z, z)
        return np.maximum(squares[:, None] + squares - 2 * (z @ z.T), 0.0)

    splits = KFold(INNER_FOLDS, shuffle=True, random_state=INNER_SEED).split(z)
    inner = tuple(_Inside(z[train], z[test], train, test, pairs) for train, test in splits)
    return replace(design, inner=inner, final=fold)


@dataclass(frozen=True)
class Held:
    """A member ready to predict the rows of one inner fold.

    Attributes
    ----------
    member
        Its position.
    value
        Hyper-parameter, chosen within the training part.
    train, test
        Positions among the context's training rows.
    """

    member: int
    probe: Probe
    value: float
    fold: Fold
    train: Indices
    test: Indices

    def predict(self, targets: Targets | LabelTargets, genes: slice) -> NDArray[np.floating]:
        """Predict some read-outs of the fold's rows: m x b, or for classes m x 2b."""
        if isinstance(targets, LabelTargets):
            return self.probe.predict(self.fold, replace(targets, labels=targets.labels[self.train, genes]), self.value)
        return self.probe.predict(
            self.fold, Targets(targets.values[self.train, genes], targets.gram[:0, :0]), self.value
        )


def held_out(
    sources: Sequence[Source], probes: Sequence[Probe], targets: Targets | LabelTargets, folds: Indices
) -> Iterator[tuple[int, list[Held]]]:
    """Yield the members of each inner fold; member ``s * len(probes) + p`` is probe p on modality s."""
    few = targets
    if isinstance(targets, LabelTargets) and targets.labels.shape[1] > GENES:
        few = replace(
            targets, labels=targets.labels[:, np.linspace(0, targets.labels.shape[1] - 1, GENES).round().astype(int)]
        )
    for number in range(INNER_FOLDS):
        members = []
        for s, source in enumerate(sources):
            for fold in source.design.inner:
                if folds[source.rows[fold.test[0]]] != number:
                    continue
                train, test = source.rows[fold.train], source.rows[fold.test]
                part, within = part_of(few, train), inside(source.design, fold)
                for p, probe in enumerate(probes):
                    value = select(probe, within, part).value
                    members.append(Held(s * len(probes) + p, probe, value, fold, train, test))
        yield number, members
        forget_distances([h.fold for h in members])


def out_of_fold(
    sources: Sequence[Source], probes: Sequence[Probe], targets: Targets | LabelTargets, folds: Indices
) -> NDArray[np.floating]:
    """Return all out-of-fold predictions at once, members x n x t (2t), NaN where a row lacks the modality: for small problems."""
    labels = isinstance(targets, LabelTargets)
    width = 2 * targets.labels.shape[1] if isinstance(targets, LabelTargets) else targets.values.shape[1]
    found = np.full((len(sources) * len(probes), len(folds), width), np.nan, np.float32 if labels else np.float64)
    for _, members in held_out(sources, probes, targets, folds):
        for h in members:
            found[h.member, h.test] = h.predict(targets, slice(None))
    return found


def turned(targets: Targets) -> Targets:
    """Turn responses into as many read-outs as there are rows at most, keeping the Gram matrix of their deviations.

    By the pivoted Cholesky decomposition of that matrix. Errors and products of weighted sums of rows stay the same, and with them
    all that is chosen of the probes in :data:`LINEAR`.
    """
    from scipy.linalg import lapack

    gram = targets.gram - targets.gram.mean(axis=0) - targets.gram.mean(axis=1)[:, None] + targets.gram.mean()
    if targets.values.shape[1] <= len(gram):
        return Targets(targets.deviations, gram)
    factor, pivots, rank, _ = lapack.dpstrf(gram, lower=1)
    values = np.zeros((len(gram), max(rank, 1)))
    values[pivots - 1, :rank] = np.tril(factor)[:, :rank]
    return Targets(values, gram)


def error_grams(
    sources: Sequence[Source],
    probes: Sequence[Probe],
    targets: Targets | LabelTargets,
    folds: Indices,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Accumulate each row's Gram matrix of (target, members), as deviations from the mean or prior of the fold's training rows.

    Only the members of one fold, and of a block of read-outs, are in memory at once. For classes the deviations are those of all
    three probabilities, each (row, gene) weighted by n / (3 n_c) with the share n_c / n of its true label among all training rows, so
    that the quadratic form is the class-balanced Brier score.

    Returns
    -------
    grams, has
        n x (k + 1) x (k + 1), zero where a row lacks a member; and which members predict a row, n x k.
    """
    n, k = len(folds), len(sources) * len(probes)
    t = targets.labels.shape[1] if isinstance(targets, LabelTargets) else targets.values.shape[1]
    grams, has = np.zeros((n, k + 1, k + 1), dtype=np.float32), np.zeros((n, k), dtype=bool)
    for number, members in held_out(sources, probes, targets, folds):
        rows = np.flatnonzero(folds == number)
        place = np.full(n, -1)
        place[rows] = np.arange(len(rows))
        for h in members:
            has[h.test, h.member] = True
        for low in range(0, t, BLOCK):
            genes = slice(low, min(low + BLOCK, t))
            deviations = _deviations(members, targets, rows, place, genes, k)
            grams[rows] += deviations @ deviations.transpose(0, 2, 1)
        if progress:
            progress(number + 1, INNER_FOLDS)
    return grams, has


def _deviations(
    members: Sequence[Held], targets: Targets | LabelTargets, rows: Indices, place: Indices, genes: slice, k: int
) -> NDArray[np.float32]:
    """Deviations of the truth and of all members in some read-outs, rows x (k + 1) x b (2b)."""
    others = np.setdiff1d(np.arange(len(place)), rows)
    if isinstance(targets, LabelTargets):
        labels = targets.labels[:, genes]
        base: NDArray[Any] = uniform_prior(labels[others])
        truth: NDArray[Any] = np.concatenate([labels[rows] == -1, labels[rows] == 1], axis=1).astype(np.float32)
        scale = np.sqrt(class_weights(labels)[labels[rows] + 1, np.arange(labels.shape[1])])
    else:
        base = targets.values[others, genes].mean(axis=0)
        truth = targets.values[rows, genes]
        scale = None
    found = np.zeros((len(rows), k + 1, truth.shape[1]), dtype=np.float32)
    found[:, 0] = _weighted(truth - base, scale)
    for h in members:
        at = place[h.test]
        found[at, h.member + 1] = _weighted(h.predict(targets, genes) - base, None if scale is None else scale[at])
    return found


def _weighted(deviations: NDArray[np.floating], scale: NDArray[np.float32] | None) -> NDArray[np.floating]:
    """For classes: two numbers for each gene whose squares sum to the weighted squares of the three deviations.

    With a of -1, b of +1 and -(a + b) of 0: a^2 + b^2 + (a + b)^2 = 2 (a + b/2)^2 + 3/2 b^2.
    """
    if scale is None:
        return deviations
    t = scale.shape[1]
    down, up = deviations[:, :t], deviations[:, t:]
    return np.concatenate([scale * (2**0.5) * (down + up / 2), scale * (1.5**0.5) * up], axis=1)


def uniform_prior(labels: NDArray[np.int8]) -> NDArray[np.float32]:
    """Prior of class-balanced probabilities: the same for all classes that a gene has among the rows; length 2t."""
    has = np.stack([(labels == c).any(axis=0) for c in (-1, 0, 1)])
    share = has / np.maximum(has.sum(axis=0), 1)
    return np.concatenate([share[0], share[2]]).astype(np.float32)


def class_weights(labels: NDArray[np.int8]) -> NDArray[np.float32]:
    """Weights n / (3 n_c) of each class (-1, 0, 1) and gene, 0 where it is absent: 3 x t."""
    counts = np.stack([np.count_nonzero(labels == c, axis=0) for c in (-1, 0, 1)])
    return np.where(counts > 0, len(labels) / (3 * np.maximum(counts, 1)), 0.0).astype(np.float32)

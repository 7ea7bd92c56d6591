"""Predictors that cheat: they know nothing of how perturbations differ, or one read-out only, and are scored like any other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.evaluation.class_metrics import LabelComparison, totals
from panmodal.evaluation.compare import compare, fill_row, has_classes
from panmodal.evaluation.metrics import metrics_for, score_rows
from panmodal.evaluation.ranks import average_ranks
from panmodal.perturbation_ids import parts
from panmodal.probes.base import CLASSES, CONTINUOUS

GUESS, ANSWER = "guess", "answer"
"""Kinds of shortcuts: made from training responses alone; or with the true response of one read-out."""


@dataclass(frozen=True)
class Shortcut:
    """A way to cheat.

    Attributes
    ----------
    name, description
        What it is.
    function
        One fold -> predictions m x t (labels: m x 2t, the probabilities of -1 and of +1).
    kinds
        Kinds of response it is for.
    kind
        ``guess`` or ``answer``.
    needs_target
        Whether it needs perturbations that are read-outs themselves.
    """

    name: str
    description: str
    function: Callable[[_Fold], NDArray[Any]]
    kinds: tuple[str, ...]
    kind: str = GUESS
    needs_target: bool = False


@dataclass(eq=False)
class _Fold:
    """What a shortcut may look at: training responses, and its own target's true response if it is an ``answer``."""

    response: str
    ids: tuple[str, ...]
    values: NDArray[Any]
    test: NDArray[np.intp]
    targets: list[list[int]]
    seed: int

    @cached_property
    def train(self) -> NDArray[np.intp]:
        return np.setdiff1d(np.arange(len(self.ids)), self.test)

    @cached_property
    def filled(self) -> NDArray[np.float32]:
        """Train mean, or class prior."""
        return fill_row(self.response, self.values, self.train)

    @property
    def true(self) -> NDArray[Any]:
        return self.values[self.test]

    def rows(self, row: NDArray[Any]) -> NDArray[np.float32]:
        """Return the same prediction for every test id."""
        return np.tile(np.asarray(row, dtype=np.float32), (len(self.test), 1))

    def encode(self, value: Any) -> list[float]:
        """Write a response as predictions do: the number, or the probabilities of -1 and of +1."""
        return [float(value == -1), float(value == 1)] if has_classes(self.response) else [float(value)]

    def put(self, predicted: NDArray[Any], row: int, readout: int, values: Sequence[float]) -> None:
        """Write one read-out of one prediction."""
        t = self.values.shape[1]
        for block, value in enumerate(values):
            predicted[row, block * t + readout] = value


def _scaled(factor: float) -> Callable[[_Fold], NDArray[Any]]:
    def predict(fold: _Fold) -> NDArray[Any]:
        return fold.rows(factor * fold.filled)

    return predict


def _all(label: int) -> Callable[[_Fold], NDArray[Any]]:
    def predict(fold: _Fold) -> NDArray[Any]:
        t = fold.values.shape[1]
        return fold.rows(np.repeat([float(label == -1), float(label == 1)], t))

    return predict


def _stratified(fold: _Fold) -> NDArray[Any]:
    """Draw the label of every gene and test perturbation with the gene's training shares."""
    content = json.dumps([fold.seed, [fold.ids[k] for k in fold.test]])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big"))
    lowered, raised = np.split(fold.filled.astype(np.float64), 2)
    drawn = rng.random((len(fold.test), fold.values.shape[1]))
    return np.concatenate([drawn < lowered, drawn >= 1 - raised], axis=1).astype(np.float32)


def _typical_target(fold: _Fold) -> NDArray[Any]:
    """Fill in the train mean (or class prior), and for the target what targets of training perturbations do on average."""
    predicted = fold.rows(fold.filled)
    own = [fold.encode(fold.values[k, g]) for k in fold.train for g in fold.targets[k]]
    if own:
        typical = np.mean(own, axis=0)
        for row, k in enumerate(fold.test):
            for g in fold.targets[k]:
                fold.put(predicted, row, g, typical)
    return predicted


def _target_only(fold: _Fold) -> NDArray[Any]:
    """Predict no change but for the target, whose true response is copied."""
    predicted = fold.rows(np.zeros_like(fold.filled))
    for row, k in enumerate(fold.test):
        for g in fold.targets[k]:
            fold.put(predicted, row, g, fold.encode(fold.values[k, g]))
    return predicted


SHORTCUTS = {
    shortcut.name: shortcut
    for shortcut in (
        Shortcut("train mean x 0.5", "the mean training response, halved", _scaled(0.5), CONTINUOUS),
        Shortcut("train mean x 1.5", "the mean training response, half as much again", _scaled(1.5), CONTINUOUS),
        Shortcut("all lowered", "every gene lowered by every perturbation", _all(-1), CLASSES),
        Shortcut("all raised", "every gene raised by every perturbation", _all(1), CLASSES),
        Shortcut("stratified guess", "labels drawn at random with each gene's training shares", _stratified, CLASSES),
        Shortcut("typical target", "train mean or class prior, but for the target gene, which responds as targets of training "
                 "perturbations do on average", _typical_target, CONTINUOUS + CLASSES, needs_target=True),
        Shortcut("target only", "no change but for the target gene, whose true response is copied", _target_only,
                 CONTINUOUS + CLASSES, ANSWER, needs_target=True),
    )
}  # fmt: skip
"""Shortcuts by name. The baselines (no change, train mean, class prior, most frequent) are run with every benchmark anyway."""


def targets(ids: Sequence[str], readouts: Sequence[str]) -> list[list[int]]:
    """Columns of the read-outs that each perturbation targets: those of the same name as the id or one of its parts."""
    place = {name: k for k, name in enumerate(readouts)}
    return [[place[p] for p in parts(i) if p in place] for i in ids]


def shortcut_scores(
    response: str, ids: Sequence[str], values: NDArray[Any], readouts: Sequence[str], folds: Mapping[Hashable, Sequence[str]], *,
    metrics: Sequence[str] | None = None, names: Sequence[str] | None = None, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Score every shortcut on every fold of one context.

    Parameters
    ----------
    response
        Kind of response.
    ids, values, readouts
        Measured responses: ``values`` is ids x read-outs.
    folds
        Key of a fold -> its test ids. All other ids are its training ids.
    metrics
        All of the kind of response unless given.
    names
        Shortcuts; all that serve the kind unless given. Those that need targets are left out where no perturbation is a read-out.
    seed
        Seed of the random guesses.

    Returns
    -------
    pandas.DataFrame
        ``shortcut, kind, fold, pert_id`` (``fold`` is the key) and one column for each metric, NaN where undefined. Metrics of genes
        stand in one more row of each fold, whose ``pert_id`` is empty.

    Raises
    ------
    InputError
        Unknown shortcut, or a fold with an id that is not there, without test ids or without training ids.
    """
    unknown = sorted(set(names or ()) - set(SHORTCUTS))
    if unknown:
        raise InputError(f"no shortcut {some(unknown)}; there are {', '.join(SHORTCUTS)}.")
    values = np.asarray(values)
    if values.shape != (len(ids), len(readouts)):
        raise InputError(f"responses of shape {values.shape} do not fit {len(ids)} ids and {len(readouts)} read-outs.")
    aimed = targets(ids, readouts)
    chosen = [s for s in SHORTCUTS.values() if response in s.kinds and (names is None or s.name in names)
              and (any(aimed) or not s.needs_target)]  # fmt: skip
    serving = metrics_for(response, metrics)
    of_genes = [m for m in serving if m.axis == "gene"]
    place = {name: k for k, name in enumerate(ids)}
    frames = []
    for key, test in folds.items():
        missing = [i for i in test if i not in place]
        if missing or not 0 < len(test) < len(ids):
            raise InputError(f"fold {key}: " + (f"test ids {some(missing)} have no responses." if missing else
                             f"{len(test)} of {len(ids)} ids are test ids; both sides need some."))  # fmt: skip
        fold = _Fold(response, tuple(ids), values, np.array([place[i] for i in test]), aimed, seed)
        known = _ranks(fold, serving)
        for shortcut in chosen:
            comparison = compare(response, shortcut.function(fold), fold.true, fold.filled, **known)
            found = pd.DataFrame(
                {"pert_id": list(test), **{n: np.asarray(v) for n, v in score_rows(comparison, serving).items()}}
            )
            if of_genes and isinstance(comparison, LabelComparison):
                whole = {name: total.value for name, total in totals(comparison, of_genes).items()}
                found = pd.concat([found, pd.DataFrame([{"pert_id": "", **whole}])], ignore_index=True)
            frames.append(found.assign(shortcut=shortcut.name, kind=shortcut.kind, fold=[key] * len(found)))
    columns = ["shortcut", "kind", "fold", "pert_id", *(m.name for m in serving)]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _ranks(fold: _Fold, serving: Sequence[Any]) -> dict[str, NDArray[np.float64]]:
    """Rank the truth once for all shortcuts of a fold."""
    wanted = {m.name for m in serving}
    true, known = fold.true, {}
    if "Spearman" in wanted:
        known["true_ranks"] = average_ranks(true.astype(np.float64))
    if "Spearman_centred" in wanted:
        known["true_centred_ranks"] = average_ranks(true.astype(np.float64) - fold.filled.astype(np.float64))
    return known

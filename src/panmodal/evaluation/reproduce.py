"""Running one trial of a results folder again, from what the folder holds, and comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._threads import math_threads
from panmodal.embeddings.controls import idealised_embedding
from panmodal.errors import PanmodalError, StoreError, some
from panmodal.evaluation.compute import compute_group, named
from panmodal.evaluation.plan import Group
from panmodal.evaluation.provenance import differences, environment
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import RULES, Predictions, Trial
from panmodal.evaluation.workspace import (
    FusionData,
    SourceData,
    Workspace,
    close_matrices,
    lay_out_context,
    work_folder,
)
from panmodal.fusion.base import fusion_of
from panmodal.probes.base import probes
from panmodal.screens.splits import Split, read_split

TOLERANCE = 1e-5
"""Largest difference, relative to the largest prediction, that another machine's arithmetic may make."""


@dataclass(frozen=True)
class Reproduction:
    """What running a trial again gave.

    Attributes
    ----------
    trial
        The trial.
    same
        Whether ids, coverage and every number are the same to the last bit.
    difference
        Largest absolute difference of a prediction, and ``scale`` the largest prediction; NaN where predictions were not kept.
    environment
        What differs between the environment of then and this one, one line each.
    then, now
        Records of both computations.
    notes
        What could not be compared.
    """

    trial: Trial
    same: bool
    difference: float
    scale: float
    environment: tuple[str, ...]
    then: Mapping[str, Any]
    now: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def reproduced(self) -> bool:
        """Whether the numbers are the same, or as near as another machine's arithmetic allows."""
        return self.same or self.difference <= TOLERANCE * max(self.scale, np.finfo(float).tiny)


def find_trials(store: Store, *, trial: str | None = None, **labels: Any) -> list[Trial]:
    """Return the finished trials whose digest begins with ``trial`` and whose labels (embedding, probe, context, fold) are these.

    Raises
    ------
    StoreError
        There is none.
    """
    every = store.trials()
    wanted = {k: v for k, v in labels.items() if v is not None}
    found = [
        t for t in every if t.digest.startswith(trial or "") and all(getattr(t, k) == v for k, v in wanted.items())
    ]
    done = [t for t in found if store.has_trial(t.digest)]
    if not done:
        asked = ", ".join(f"{k} {v}" for k, v in ({"trial": trial} | wanted).items() if v is not None) or "any"
        raise StoreError(f"{store.path}: no finished trial ({asked}); {len(found)} such trial(s) are planned. The scores table "
                         "names trials in its column 'trial'.")  # fmt: skip
    return done


def reproduce(path: str | Path, trial: Trial | str) -> Reproduction:
    """Compute a trial again from the responses, vectors and folds that its results folder holds.

    Parameters
    ----------
    path
        Results folder.
    trial
        The trial, or the beginning of its digest.

    Raises
    ------
    StoreError
        No such trial, something that it was computed from is gone or damaged, or it was computed by rules that this version does not
        have.
    """
    store = Store(path)
    if isinstance(trial, str):
        found = {t.digest: t for t in find_trials(store, trial=trial)}
        if len(found) > 1:
            raise StoreError(
                f"{path}: {len(found)} trials begin with {trial!r} ({some(found, 3)}); give more of the digest."
            )
        (trial,) = found.values()
    then = store.read_trial(trial.digest)
    _check_rules(trial, str(then.record.get("version")), store.path)
    # One thread, as in a run: another number sums in another order.
    with math_threads(1), work_folder() as folder:
        workspace, source = _workspace(store, trial, folder)
        group = Group(source, trial.fold, (trial,))
        (made,) = compute_group(group, workspace, standardise=bool(trial.depends.get("standardise", True)))
        close_matrices()
    if made.result is None:
        assert made.failure is not None
        raise named(trial, made.failure)
    return _compared(store, trial, then, made.result)


def _compared(store: Store, trial: Trial, then: Predictions, again: Predictions) -> Reproduction:
    old = store.read_environment(str(then.record.get("environment")))
    notes: tuple[str, ...] = () if old is not None else ("the environment of then is not recorded",)
    changed = tuple(differences(old, environment())) if old is not None else ()
    if then.pert_ids != again.pert_ids or not np.array_equal(then.covered, again.covered):
        raise PanmodalError(
            f"trial {trial.digest}: the test ids or the ids covered are not those of then; the folder is damaged."
        )
    old_values, new_values = then.values, again.values
    if old_values is None or new_values is None:
        notes += ("predictions were not kept; only the train mean can be compared",)
        old_values, new_values = then.train_mean, again.train_mean
    fresh = np.asarray(new_values, dtype=np.float32)
    gap, scale = float(np.abs(old_values - fresh).max(initial=0.0)), float(np.abs(fresh).max(initial=0.0))
    same = gap == 0.0 and np.array_equal(then.train_mean, again.train_mean)
    return Reproduction(trial, same, gap, scale, changed, then.record, again.record, notes)


def _check_rules(trial: Trial, version: str, path: Path) -> None:
    """Refuse a trial that this version would compute otherwise."""
    method = trial.depends["probe"]
    name = str(method["name"])
    if "fusion" in method:
        known = fusion_of(name)
        mine = known.rule if known is not None else None
    elif trial.role == "baseline":
        mine = 1
    else:
        mine = probes()[name].rule if name in probes() else None
    if trial.depends.get("rules") != RULES or mine != method.get("rule"):
        raise StoreError(
            f"{path}: trial {trial.digest} was computed by rules that this version does not have. Use panmodal {version}."
        )


def _workspace(store: Store, trial: Trial, folder: Path) -> tuple[Workspace, int]:
    """Lay out what the trial was computed from; return it with the number of its source."""

    def save(name: str, matrix: NDArray[Any]) -> str:
        target = folder / f"{name}.npy"
        np.save(target, matrix)
        return str(target)

    method = trial.depends["probe"]
    responses = dict(method.get("contexts") or {trial.context: trial.depends["responses"]})
    contexts: dict[str, Any] = {}
    oracle: tuple[list[str], NDArray[Any]] | None = None
    for k, (context, digest) in enumerate(responses.items()):
        ids, values, _ = store.read_responses(digest)
        typed = values.astype(np.int8) if trial.response == "deg" else values
        contexts[context] = lay_out_context(save, k, ids, typed, trial.response)
        oracle = (ids, typed) if context == trial.context else oracle
    split = _split(store, trial)
    members: list[tuple[str, SourceData]] = []
    if trial.depends["embedding"] is None:
        return Workspace(trial.response, split, contexts, {}), 0
    if "fusion" in method:
        asked, names = _fusion(store, trial)
        for k, (name, digest) in enumerate(names):
            ids, vectors = store.read_vectors(digest)
            members.append((name, SourceData(tuple(ids), save(f"source{k}", vectors.astype(np.float64)))))
        joint = "contexts" in method
        data = FusionData(asked, tuple(members), tuple(responses) if joint else tuple(contexts), joint)
        return Workspace(trial.response, split, contexts, {}, {0: data}), 0
    if trial.role == "oracle":
        assert oracle is not None
        made = idealised_embedding(*oracle)
        ids, vectors = list(made.ids), made.vectors
    else:
        ids, vectors = store.read_vectors(trial.depends["embedding"])
    source = SourceData(tuple(ids), save("source", np.asarray(vectors, dtype=np.float64)))
    return Workspace(trial.response, split, contexts, {0: source}), 0


def _fusion(store: Store, trial: Trial) -> tuple[dict[str, Any], Sequence[tuple[str, str]]]:
    """Return what was asked for of a fusion, and name and digest of its members."""
    for _, run in store.runs():
        for entry in run.get("fusions", ()):
            if entry["digest"] == trial.depends["embedding"] and entry["method"] == trial.probe:
                name, _, members = str(trial.probe).partition(" x")
                options = trial.depends["probe"]["fusion"]
                asked = {"method": name, "options": options, "members": int(members or 1)}
                return asked, list(zip(entry["of"], entry["members"], strict=True))
    raise StoreError(f"{store.path}: no run says what fusion {trial.embedding!r} was made of.")


def _split(store: Store, trial: Trial) -> Split:
    wanted = trial.depends["split"]
    for path in sorted((store.path / "splits").glob(f"*-{wanted[:8]}.csv")):
        split = read_split(path)
        if split.digest == wanted:
            return split
    raise StoreError(
        f"{store.path}: the folds of trial {trial.digest} (split {trial.split!r}, digest {wanted}) are not in splits/."
    )

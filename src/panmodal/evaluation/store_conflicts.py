"""Why results folders cannot be merged: what is not the same under the same name, and where the difference lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panmodal.embeddings.controls import PERMUTED_SUFFIX
from panmodal.errors import InputError, PanmodalError, StoreError, some
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.parquet import read_parquet
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Trial, describe_conflicts
from panmodal.screens.splits import Split, read_split


@dataclass(frozen=True)
class Folder:
    """One of the folders that are merged.

    Attributes
    ----------
    store
        The results folder.
    plans
        Records of its plans, renamed, with the name of each file and its time of change (ns), oldest first.
    trials
        Its trials, renamed, each label once.
    renamed
        New names of embeddings by their old ones.
    """

    store: Store
    plans: tuple[tuple[str, int, dict[str, Any]], ...]
    trials: tuple[Trial, ...]
    renamed: Mapping[str, str]

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.store.path)


def open_folder(path: str | Path, renamed: Mapping[str, str] | None = None) -> Folder:
    """Read the plans of a results folder and rename embeddings in them.

    Raises
    ------
    InputError
        There is no embedding of that name, there is one of the new name already, or a fusion is made of it.
    StoreError
        Not a results folder, one of another format, or a plan is damaged.
    """
    renamed = dict(renamed or {})
    store = Store(path)
    trials = store.trials()
    names = {t.embedding for t in trials if t.role == "embedding"}
    missing = [n for n in renamed if n not in names]
    if missing:
        raise InputError(f"--rename: {store.path} has no embedding {some(missing)}; it has {some(sorted(names), 12)}.")
    taken = [new for new in renamed.values() if new in {t.embedding for t in trials} or new.endswith(PERMUTED_SUFFIX)]
    if taken or len(set(renamed.values())) < len(renamed):
        raise InputError(
            f"--rename: {store.path} has an embedding or control named {some(taken or renamed.values())} already."
        )
    plans = []
    for file, run in store.runs():
        fused = {m for fusion in run.get("fusions", ()) for m in fusion.get("of", ())} & renamed.keys()
        if fused:
            raise InputError(
                f"--rename: {store.path} has a fusion of {some(sorted(fused))}; what it learned names it so."
            )
        plans.append((file.name, file.stat().st_mtime_ns, _renamed_run(run, renamed) if renamed else run))
    return Folder(store, tuple(plans), tuple(_renamed(t, renamed) for t in trials), renamed)


def _new_name(name: str, renamed: Mapping[str, str]) -> str:
    bare = name.removesuffix(PERMUTED_SUFFIX)
    return renamed.get(bare, bare) + name[len(bare) :]


def _renamed(trial: Trial, renamed: Mapping[str, str]) -> Trial:
    return replace(trial, embedding=_new_name(trial.embedding, renamed)) if renamed else trial


def _renamed_run(run: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Rename embeddings in the record of a plan: names are no part of a trial's digest."""
    trials = [{**r, "embedding": _new_name(r["embedding"], renamed)} for r in run["trials"]]
    entries = [
        {**e, "card": {**e["card"], "name": _new_name(e["card"]["name"], renamed)}} for e in run.get("embeddings", ())
    ]
    return {**run, "trials": trials, "embeddings": entries}


def reasons_against(folders: Sequence[Folder]) -> list[str]:
    """Say why folders cannot be merged, each reason with what to do; empty if they can."""
    found = [*_rules(folders), *_tasks(folders), *_splits(folders), *_imported(folders)]
    # What hangs on other responses or folds was said; to list its trials would say it again.
    return found or [*_trials(folders)]


def _rules(folders: Sequence[Folder]) -> Iterator[str]:
    """Find rules that trials depend on, and versions of probes, that are not one over all folders."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for folder in folders:
        for trial in folder.trials:
            for rule, version in trial.depends["rules"].items():
                seen[f"rule of {rule!r}"].setdefault(str(version), folder.name)
            seen[f"version of probe {trial.probe!r} for {trial.response}"].setdefault(
                str(trial.depends["probe"].get("rule")), folder.name
            )
    for what, versions in seen.items():
        if len(versions) > 1:
            own = "; ".join(f"{version} in {where}" for version, where in versions.items())
            yield (f"the {what} differs ({own}): results of two versions of a rule cannot be compared. Give the runs of "
                   "the folder with the older one again with this version of panmodal.")  # fmt: skip


def _tasks(folders: Sequence[Folder]) -> Iterator[str]:
    """Find responses that differ under the same screen, context and kind."""
    seen: dict[tuple[str, str, str], tuple[str, Folder]] = {}
    for folder in folders:
        own = {(t.screen, t.context, t.response): t.depends["responses"] for t in folder.trials}
        for key, digest in own.items():
            first, where = seen.setdefault(key, (digest, folder))
            if first != digest:
                yield (f"the responses of screen {key[0]!r}, context {key[1]!r} ({key[2]}) differ between {where.name} and "
                       f"{folder.name}: {_responses_differ(where.store, first, folder.store, digest)}. They are two tasks: use "
                       "the same screen file, or name one apart (--name) and give its run again.")  # fmt: skip


def _responses_differ(a: Store, first: str, b: Store, second: str) -> str:
    try:
        ids_a, values_a, readouts_a = a.read_responses(first)
        ids_b, values_b, readouts_b = b.read_responses(second)
    except StoreError as error:
        return f"where, cannot be told ({error})"
    for what, left, right in (("perturbations", ids_a, ids_b), ("read-outs", readouts_a, readouts_b)):
        if set(left) != set(right):
            only = [f"{some(sorted(set(x) - set(y)), 3)} only in the {n}" for n, x, y in
                    (("first", left, right), ("second", right, left)) if set(x) - set(y)]  # fmt: skip
            return f"{len(left)} and {len(right)} {what}, {', '.join(only)}"
    if readouts_a != readouts_b:
        return "the order of the read-outs"
    where = {i: k for k, i in enumerate(ids_b)}
    gap = np.abs(values_a.astype(np.float64) - values_b[[where[i] for i in ids_a]])
    rows = int((gap > 0).any(axis=1).sum())
    return f"values of {rows} of {len(ids_a)} perturbations, by up to {gap.max():.3g}"


def _splits(folders: Sequence[Folder]) -> Iterator[str]:
    """Find folds that differ under the same name for the same screen."""
    seen: dict[tuple[str, str], tuple[str, Folder]] = {}
    for folder in folders:
        own = {(t.screen, t.split): t.depends["split"] for t in folder.trials}
        for key, digest in own.items():
            first, where = seen.setdefault(key, (digest, folder))
            if first != digest:
                yield (f"split {key[1]!r} of screen {key[0]!r} differs between {where.name} and {folder.name}: "
                       f"{_splits_differ(where.store, first, folder.store, digest)}. Share one file of folds (panmodal split, "
                       "--splits) and give one of the runs again.")  # fmt: skip


def _imported(folders: Sequence[Folder]) -> Iterator[str]:
    """Find screens that one folder has run and another has imported."""
    for folder in folders:
        for path in sorted((folder.store.path / "imported").glob("*.scores.parquet")):
            try:
                screens = set(read_parquet(path)[0].to_pandas()["screen"])
            except StoreError:
                continue  # damaged, and left out
            for other in folders:
                clash = sorted(screens & {t.screen for t in other.trials})
                if clash:
                    yield (f"{path} has imported scores of screen {some(clash)}, which {other.name} has results of. Import them with "
                           "another mark (panmodal import --mark).")  # fmt: skip


def find_split(store: Store, digest: str) -> Split | None:
    """Return the folds of a digest, if a folder still has them."""
    for path in sorted((store.path / "splits").glob(f"*-{digest[:8]}.csv")):
        try:
            split = read_split(path)
        except PanmodalError:
            continue
        if split.digest == digest:
            return split
    return None


def _splits_differ(a: Store, first: str, b: Store, second: str) -> str:
    one, other = find_split(a, first), find_split(b, second)
    if one is None or other is None:
        return "where, cannot be told, since the folds are not kept"
    if one.folds.keys() != other.folds.keys():
        return f"{len(one.folds)} and {len(other.folds)} perturbations"
    moved = sorted(i for i, f in one.folds.items() if other.folds[i] != f)
    if not moved:
        return f"what it promises ({one.unseen} and {other.unseen})"
    return f"{len(moved)} of {len(one.folds)} perturbations lie in other folds, such as {some(moved, 3)}"


def _trials(folders: Sequence[Folder]) -> Iterator[str]:
    """Find trials that differ under the same labels."""
    seen: dict[Any, tuple[Trial, Folder]] = {}
    pairs: dict[tuple[str, str], list[tuple[Trial, Trial]]] = defaultdict(list)
    for folder in folders:
        for trial in folder.trials:
            first, where = seen.setdefault(trial.key, (trial, folder))
            if first.digest != trial.digest:
                pairs[where.name, folder.name].append((first, trial))
    for (a, b), conflicts in pairs.items():
        names = sorted({new.embedding for old, new in conflicts
                        if new.role == "embedding" and old.depends["embedding"] != new.depends["embedding"]})  # fmt: skip
        todo = (f"Keep both under two names: --rename '{b}:{names[0]}=OTHER NAME'" if names
                else "Give the runs of one of them again with the other's inputs")  # fmt: skip
        yield (f"{len(conflicts)} trial(s) of {a} and {b} go by the same names but are not the same: "
               f"{describe_conflicts(conflicts)} differ. {todo}.")  # fmt: skip


def outdated_rules(rules: Mapping[str, int]) -> list[str]:
    """Metrics whose formula has another version now."""
    return [m for m, rule in rules.items() if m in METRICS and METRICS[m].rule != rule]

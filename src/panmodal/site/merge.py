"""Sources as one set of tasks: what may stand on one board, what is the same, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from panmodal.errors import InputError, some
from panmodal.insight.evidence import Task
from panmodal.insight.gaps import TASK
from panmodal.insight.report_methods import short_path
from panmodal.site.sources import Identity, Made, Source, is_imported

KEY = ["fold", "embedding", "probe", "seed"]
LABELS = [*TASK, *KEY, "role", "trial"]


@dataclass(frozen=True)
class Place:
    """A task as a source has it: number of the source, its labels there, its digests, positions of its rows in the scores."""

    source: int
    labels: Task
    digests: tuple[str, str]
    rows: Any


@dataclass
class Entry:
    """An embedding on the site: one name, one content on every task.

    ``name`` is what it is called here; ``given`` (source, name there). ``made`` are its cards with digests, source by source.
    """

    name: str
    published: bool
    role: str
    digests: dict[tuple[Task, int], set[str]]
    given: list[tuple[int, str]]
    made: list[tuple[int, Made]] = field(default_factory=list)

    @property
    def card(self) -> Mapping[str, Any]:
        """Its card, the first there is; empty where there is none."""
        return self.made[0][1].card if self.made else {}


@dataclass
class Merged:
    """Sources, their tasks in order, embeddings, and what was done to bring them together."""

    sources: Sequence[Source]
    places: dict[Task, list[Place]]
    entries: list[Entry]
    names: dict[tuple[int, str], str]
    notes: list[str]

    def published(self, task: Task) -> bool:
        """Whether the scores of a task are published ones that were not rerun."""
        return not self.places[task][0].digests[0]


def merge(sources: Sequence[Source]) -> Merged:
    """Decide which tasks and embeddings of several sources are the same.

    A task is the same where the digests of responses and split are; it goes by its name in the first source. Embeddings of the same
    name are the same if their vectors are on a task they share, or if their cards are where they share none; otherwise the later
    one is called ``NAME [SOURCE]``.

    Raises
    ------
    InputError
        Two sources of one name; a task of the same name with other responses or another split; trials without a record; trials of
        the same embedding and probe that were computed otherwise.
    """
    called = [s.name for s in sources]
    twice = sorted({n for n in called if called.count(n) > 1})
    if twice:
        raise InputError(f"two sources are called {some(twice)}; give them names in site.yaml (sources: path, name).")
    if not sources:
        raise InputError("no source; give a results folder or a submission.")
    merged = Merged(sources, {}, [], {}, [])
    by_digest: dict[tuple[str, str], Task] = {}
    for number, source in enumerate(sources):
        trials = source.scores[LABELS].drop_duplicates()
        own = _tasks(source, trials)
        renamed = _place(merged, number, own, by_digest)
        _name(
            merged, number, trials.assign(**{c: trials[c].astype(str) for c in ("embedding", "trial", "role")}), renamed
        )
    return merged


def _tasks(source: Source, trials: pd.DataFrame) -> dict[Task, tuple[str, str]]:
    """Digests of responses and split of each task of a source; empty for published scores."""
    found: dict[Task, tuple[str, str]] = {}
    for labels, own in trials.groupby(TASK, sort=False, observed=True):
        task: Task = tuple(map(str, labels))  # type: ignore[assignment]
        digests = set()
        for trial in map(str, own["trial"].unique()):
            if is_imported(trial):
                digests.add(("", ""))
            elif trial in source.identities:
                digests.add(source.identities[trial][:2])
            else:
                raise InputError(
                    f"source {source.name!r}: no record of trial {trial} on {told(task)}; what it was computed on is "
                    "not known, so that it cannot be shown."
                )
        if len(digests) > 1:
            raise InputError(
                f"source {source.name!r}: {told(task)} has trials on {len(digests)} different responses or splits; "
                "run all of them on one (panmodal run --overwrite always)."
            )
        found[task] = digests.pop()
    return found


def _place(
    merged: Merged, number: int, own: Mapping[Task, tuple[str, str]], by_digest: dict[tuple[str, str], Task]
) -> dict[Task, Task]:
    """Find each task of a source among those there are, or add it; return what its tasks are called."""
    source = merged.sources[number]
    indices = source.scores.groupby(TASK, sort=False, observed=True).indices
    rows = {tuple(map(str, k)): v for k, v in indices.items()}
    renamed: dict[Task, Task] = {}
    for task, digests in own.items():
        here = task
        before = merged.places.get(task)
        if before:
            _same_task(merged, source, task, digests, before[0])
        elif digests in by_digest and digests[0] and by_digest[digests] not in own:
            here = by_digest[digests]
            merged.notes.append(f"{told(task)} of source {source.name} is {told(here)}: the same responses and split.")
        merged.places.setdefault(here, []).append(Place(number, task, digests, rows[task]))
        renamed[task] = here
    for task, digests in own.items():
        by_digest.setdefault(digests, renamed[task])
    return renamed


def _same_task(merged: Merged, source: Source, task: Task, digests: tuple[str, str], before: Place) -> None:
    other = merged.sources[before.source]
    if digests == before.digests and digests[0]:
        return
    both = f"sources {other.name!r} and {source.name!r} both have {told(task)}"
    if digests == before.digests:
        labels = [
            set(map(str, s.scores["trial"].iloc[r]))
            for s, r in (
                (other, before.rows),
                (source, (source.scores[TASK].astype(str) == list(task)).all(axis=1).to_numpy().nonzero()[0]),
            )
        ]
        if labels[0] & labels[1]:
            return  # the scores that both have are compared when the task is read
        raise InputError(
            f"{both} with published scores of which none is in both, so that nothing tells whether they are of the same "
            "perturbations and folds. Import one of them with another mark (--mark)."
        )
    if not (digests[0] and before.digests[0]):
        raise InputError(
            f"{both}, one of them as published scores: whether responses and folds are the same cannot be checked. "
            "Import those with a mark (panmodal import-scores --mark)."
        )
    what = [w for w, a, b in zip(("responses", "split"), before.digests, digests, strict=True) if a != b]
    pairs = "; ".join(
        f"{w} {a} in {other.name!r}, {b} in {source.name!r}"
        for w, a, b in zip(("responses", "split"), before.digests, digests, strict=True)
        if a != b
    )
    raise InputError(
        f"{both}, but with other {' and '.join(what)} ({pairs}). Scores on different data do not compare: run both on the "
        "same screen file and folds, or give one screen another name."
    )


def _name(merged: Merged, number: int, trials: pd.DataFrame, renamed: Mapping[Task, Task]) -> None:
    """Find each embedding of a source among those there are, or add it under a name of its own."""
    source = merged.sources[number]
    cards: dict[str, list[Made]] = {}
    for made in source.embeddings:
        cards.setdefault(str(made.card.get("name")), []).append(made)
    fresh: list[Entry] = []
    for embedding, own in trials.groupby("embedding", sort=False, observed=True):
        given, digests, published, role = str(embedding), {}, False, str(own["role"].iloc[0])
        if role == "baseline":
            merged.names[number, given] = given
            continue
        roles = sorted(set(own["role"]))
        if len(roles) > 1:
            raise InputError(
                f"source {source.name!r}: {given!r} stands as {' and as '.join(roles)}; give one of them another name."
            )
        for labels, part in own.groupby([*TASK, "seed"], sort=False, observed=True):
            task: Task = renamed[tuple(map(str, labels[:4]))]  # type: ignore[index]
            found = {source.identities[t].embedding for t in part["trial"] if t in source.identities}
            published = published or not found
            digests[task, int(labels[4])] = found
        entry = Entry(given, published, role, digests, [(number, given)], [(number, m) for m in cards.get(given, ())])
        known = [e for e in merged.entries if e.given[0][1] == given and e.published == published]
        same = next((e for e in known if _same_embedding(e, entry)), None) or _same_vectors(merged.entries, entry)
        if same is not None:
            for key, found in digests.items():
                same.digests.setdefault(key, set()).update(found)
            same.given.append((number, given))
            same.made += entry.made
            if same.name != given and same.given[0][1] != given and role == "embedding":
                merged.notes.append(
                    f"Embedding {given} of source {source.name} has the vectors of {same.name}, and stands as that."
                )
            merged.names[number, given] = same.name
            continue
        taken = {e.name for e in (*merged.entries, *fresh) if e.published == published}
        if given in taken:
            entry.name = f"{given} [{source.name}]"
            while entry.name in taken:
                entry.name += "*"
            if role == "embedding":
                merged.notes.append(
                    f"Embedding {given} of source {source.name} is another one than {given} of source "
                    f"{merged.sources[known[0].given[0][0]].name if known else source.name}, and stands as {entry.name}."
                )
        fresh.append(entry)
        merged.names[number, given] = entry.name
    merged.entries += fresh


def _same_embedding(one: Entry, other: Entry) -> bool:
    """Whether two sources mean the same embedding by a name."""
    if one.role != other.role:
        return False
    shared = [k for k in other.digests if k in one.digests]
    if shared and not one.published:
        return any(one.digests[k] & other.digests[k] for k in shared)
    return one.published or one.role != "embedding" or _about(one.card) == _about(other.card)


def _same_vectors(entries: Sequence[Entry], entry: Entry) -> Entry | None:
    """Find an embedding of another name with the same vectors wherever both were run."""
    for one in entries if not entry.published else ():
        shared = [k for k in entry.digests if k in one.digests]
        if (
            one.role == entry.role
            and len(shared) == len(entry.digests)
            and all(entry.digests[k] <= one.digests[k] for k in shared)
        ):
            return one
    return None


def _about(card: Mapping[str, Any]) -> str:
    """Return what a card says of an embedding whatever the screen it is used on."""
    recipe = card.get("recipe")
    if isinstance(recipe, Mapping):
        recipe = {
            "builder": recipe.get("builder"),
            "rule": recipe.get("rule"),
            "options": recipe.get("options"),
            "sources": [s.get("sha256") for s in recipe.get("sources", ()) if isinstance(s, Mapping)],
        }
    kept = ("modality", "description", "licence", "citation", "url", "trained_on", "simulated")
    return json.dumps(
        [{k: card.get(k) for k in kept}, short_path(card.get("source") or ""), recipe], sort_keys=True, default=str
    )


def told(task: Task) -> str:
    """Name a task in a sentence."""
    return " · ".join(task)


def differs(one: Identity | None, other: Identity | None) -> str:
    """Say what two trials differ in."""
    if one is None or other is None:
        return "where they come from"
    return (
        ", ".join(f for f in Identity._fields if getattr(one, f) != getattr(other, f))
        or "standardisation or the seed of the controls"
    )

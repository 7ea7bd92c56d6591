"""Which perturbations a context of a screen does not hold, and which of them an embedding has vectors for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from panmodal.embeddings.align import align
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.plan import own_compounds
from panmodal.identifiers import match_ids
from panmodal.perturbation_ids import canonical, control_family, parts
from panmodal.screens.screen import Screen


@dataclass(frozen=True)
class Joined:
    """An embedding under the ids of a screen and of wanted perturbations.

    Attributes
    ----------
    embedding
        With rows for matched ids.
    measured
        Ids measured in the context that have a vector, sorted.
    wanted
        Ids asked for and not measured, in their order; ``covered`` are those of them with a vector.
    notes
        What was left out or matched by another name.
    """

    embedding: Embedding
    measured: list[str]
    wanted: list[str]
    covered: frozenset[str]
    notes: tuple[str, ...]


def chosen_context(screen: Screen, context: str | None) -> str:
    """Return the context given, or the only one there is."""
    if context is None:
        if len(screen.contexts) > 1:
            raise InputError(f"screen {screen.name!r} has contexts {some(screen.contexts, 12)}; say which (--context).")
        return screen.contexts[0]
    if context not in screen.contexts:
        raise InputError(f"screen {screen.name!r} has no context {context!r}; it has {some(screen.contexts, 12)}.")
    return context


def join(screen: Screen, embedding: Embedding, ids: Sequence[str] | None, context: str, match: str = "auto") -> Joined:
    """Bring the measured ids of a context, wanted ids and an embedding together.

    Parameters
    ----------
    screen, embedding, context
        What is measured where, and vectors.
    ids
        Wanted perturbations; all of the embedding that are not measured unless given; an empty list for none.
    match
        As in a run: ``auto``, ``genes``, ``compounds``, ``exact``.

    Raises
    ------
    InputError
        Empty ids, control cells among them, or all of them measured.
    """
    measured = screen.ids_in(context)
    compounds = own_compounds(screen)
    every = ids is None
    given = [i for i in embedding.ids if not _control(i)] if ids is None else _cleaned(ids)
    joined, found = align(embedding, measured, match, compounds)
    own = set(measured)
    taken = own | ({there for wanted, there in found.pairs.items() if wanted in own} if every else set())
    known = [i for i in given if i in taken]
    left = [i for i in given if i not in taken]
    notes = []
    if left and not every:
        same = match_ids(left, measured, kind=match, compounds=compounds)
        again = [i for i in left if i in same.pairs]
        known += again
        left = [i for i in left if i not in same.pairs]
        joined, asked = align(joined, left, match, compounds)
        if asked.resolved:
            notes.append(f"{len(asked.resolved)} id(s) were found under other names: {_pairs(asked.resolved)}.")
    if known and not every:
        notes.append(f"{len(known)} id(s) were measured in {context!r} and are left out: {some(known, 3)}.")
    if not left and (ids is None or len(given)):
        raise InputError(
            f"nothing is left to predict or to choose: all {len(given)} ids were measured in {context!r} of screen {screen.name!r}."
        )
    if found.resolved:
        notes.append(f"{len(found.resolved)} measured id(s) were found under other names: {_pairs(found.resolved)}.")
    return Joined(
        joined, list(joined.coverage(measured).covered), left, frozenset(joined.coverage(left).covered), tuple(notes)
    )


def _pairs(resolved: dict[str, tuple[str, str]]) -> str:
    return some([f"{wanted} as {there}" for wanted, (there, _) in resolved.items()], 3)


def _control(text: str) -> bool:
    return any(control_family(p) for p in parts(text))


def _cleaned(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise InputError(f"ids must be a list of ids, not the text {ids!r}.")
    empty = [k for k, i in enumerate(ids) if not isinstance(i, str) or not i.strip()]
    if empty:
        raise InputError(f"ids: number {empty[0] + 1} is empty or no text.")
    given = list(dict.fromkeys(canonical(i) for i in ids))
    controls = [i for i in given if _control(i)]
    if controls:
        raise InputError(f"ids: {some(controls)} name control cells; a response is measured against them. Remove them.")
    return given

"""What a fusion is made from: several embeddings under the ids of a screen, and which perturbations are to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from panmodal.embeddings.align import align
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.candidates import _cleaned, _control, _pairs
from panmodal.evaluation.modalities import check_names
from panmodal.evaluation.plan import own_compounds
from panmodal.identifiers import CompoundResolver, match_ids
from panmodal.screens.screen import Screen

OF_SCREEN = "screen"
"""In place of ids: all of the screen, each in the contexts in which it was not measured."""


@dataclass(frozen=True)
class Gathered:
    """Embeddings under the ids of a screen and of wanted perturbations.

    Attributes
    ----------
    embeddings
        With rows for matched ids.
    wanted
        Context -> ids to predict in it, none of which was measured there, in the order given.
    notes
        What was matched by another name.
    left_out
        Context -> what was asked for and left out, as a sentence; empty if nothing.
    """

    embeddings: tuple[Embedding, ...]
    wanted: dict[str, list[str]]
    notes: tuple[str, ...]
    left_out: dict[str, str]


def chosen_contexts(screen: Screen, contexts: Sequence[str] | str | None) -> list[str]:
    """Return the contexts given, each once, or all of the screen."""
    if contexts is None:
        return screen.contexts
    given = list(dict.fromkeys([contexts] if isinstance(contexts, str) else contexts))
    unknown = [c for c in given if c not in screen.contexts]
    if unknown or not given:
        what = f"no context {some(unknown)}" if unknown else "contexts, but none was chosen"
        raise InputError(f"screen {screen.name!r} has {what}; it has {some(screen.contexts, 12)}.")
    return given


def gather(
    screen: Screen, embeddings: Sequence[Embedding], contexts: Sequence[str],
    ids: Sequence[str] | Literal["screen"] | None, match: str = "auto",
) -> Gathered:  # fmt: skip
    """Bring the ids of a screen, wanted ids and several embeddings together.

    Parameters
    ----------
    screen, embeddings, contexts
        What is measured where, vectors, and where predictions are wanted.
    ids
        Wanted perturbations. None: all that an embedding has a vector for, each perturbation once although embeddings may name it
        differently (under the name of the screen, else that of the first embedding that has it). ``screen``: all of the screen.
        Those measured in a context, under this or another name, are not wanted there. An empty list for none.
    match
        As in a run: ``auto``, ``genes``, ``compounds``, ``exact``.

    Raises
    ------
    InputError
        No embedding, two of one name, one that shares no id with the screen; empty ids, control cells among them, or all of them
        measured in all contexts.
    """
    check_names(embeddings)
    known, compounds = screen.pert_ids, own_compounds(screen)
    joined, notes = [], []
    for embedding in embeddings:
        one, found = align(embedding, known, match, compounds)
        if not one.coverage(known).covered:
            raise InputError(f"embedding {embedding.name!r} shares no id with screen {screen.name!r}: the embedding has "
                             f"{some(embedding.ids, 4)}, the screen {some(known, 4)}. Do its ids mean the same things?")  # fmt: skip
        if found.resolved:
            notes.append(f"{embedding.name!r}: {len(found.resolved)} measured id(s) were found under other names: "
                         f"{_pairs(found.resolved)}.")  # fmt: skip
        joined.append(one)
    if ids is None:
        given = _every(joined, known, match, compounds)
    elif isinstance(ids, str) and ids == OF_SCREEN:
        given = known
    else:
        given = _cleaned(ids)
    asked = ids is not None and not isinstance(ids, str)
    wanted: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for context in contexts:
        # Other ids bear the screen's names already where they are the same.
        doubtful = given if asked else known
        wanted[context], own = _unmeasured(given, screen.ids_in(context), match, compounds, doubtful)
        left_out[context] = (
            f"{len(own)} id(s) were measured in {context!r} and are left out: {some(own, 3)}." if own and asked else ""
        )
    if given and not any(wanted.values()):
        raise InputError(f"nothing is left to predict: all {len(given)} ids were measured in {some(contexts)} of screen "
                         f"{screen.name!r}.")  # fmt: skip
    new = [i for i in dict.fromkeys(i for own in wanted.values() for i in own) if i not in set(known)]
    for k in range(len(joined) if new else 0):
        joined[k], found = align(joined[k], new, match, compounds)
        if found.resolved:
            notes.append(f"{joined[k].name!r}: {len(found.resolved)} id(s) were found under other names: "
                         f"{_pairs(found.resolved)}.")  # fmt: skip
    return Gathered(tuple(joined), wanted, tuple(notes), left_out)


def _every(
    embeddings: Sequence[Embedding], known: Sequence[str], match: str, compounds: CompoundResolver | None
) -> list[str]:
    """All ids with a vector, each perturbation once: first those of the screen, then those that the embeddings add."""
    found = list(known)
    for embedding in embeddings:
        own = set(found)
        new = [i for i in embedding.ids if i not in own and not _control(i)]
        same = match_ids(new, found, kind=match, compounds=compounds).pairs if new else {}
        found += [i for i in new if i not in same]
    covered = {i for e in embeddings for i in e.coverage(found).covered}
    return [i for i in found if i in covered]


def _unmeasured(
    given: Sequence[str], measured: Sequence[str], match: str, compounds: CompoundResolver | None, doubtful: Sequence[str]
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Part ids into those not measured and those measured, which of the doubtful ones may be under another name."""
    own, unsure = set(measured), set(doubtful)
    looked_up = [i for i in given if i not in own and i in unsure]
    if looked_up:
        same = match_ids(looked_up, measured, kind=match, compounds=compounds).pairs
        own |= {i for i in looked_up if i in same}
    return [i for i in given if i not in own], [i for i in given if i in own]

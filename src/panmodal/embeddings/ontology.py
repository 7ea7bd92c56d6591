"""The ontology above the terms: reading OBO files, giving genes the terms above their terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from panmodal.embeddings.annotations import ASPECTS, Annotations
from panmodal.embeddings.texts import read_lines
from panmodal.errors import InputError, some


@dataclass(frozen=True)
class Ontology:
    """Terms and what lies directly above them.

    Attributes
    ----------
    parents
        Term -> terms that it ``is_a`` or is ``part_of``.
    namespace
        Term -> ``biological_process``, ...
    primary
        Secondary id -> its term.
    obsolete
        Terms that are no longer used.
    """

    parents: dict[str, tuple[str, ...]]
    namespace: dict[str, str]
    primary: dict[str, str]
    obsolete: frozenset[str]

    def above(self, terms: Iterable[str]) -> dict[str, frozenset[str]]:
        """Return each term with all terms above it, itself included.

        Raises
        ------
        InputError
            The relations form a circle.
        """
        done: dict[str, frozenset[str]] = {}
        for start in terms:
            stack, open_terms = [start], {start}
            while stack:
                term = stack[-1]
                waiting = [p for p in self.parents.get(term, ()) if p not in done]
                circle = next((p for p in waiting if p in open_terms), None)
                if circle is not None:
                    raise InputError(f"ontology: {circle!r} lies above itself, through {term!r}. Use go-basic.obo.")
                if waiting:
                    stack.append(waiting[0])
                    open_terms.add(waiting[0])
                else:
                    done[term] = frozenset({term}).union(*(done[p] for p in self.parents.get(term, ())))
                    open_terms.discard(stack.pop())
        return done


def read_obo(path: str | Path) -> Ontology:
    """Read the terms of an OBO file (``go-basic.obo``), with the relations ``is_a`` and ``part_of``.

    Raises
    ------
    InputError
        The file cannot be read or has no terms.
    """
    parents: dict[str, tuple[str, ...]] = {}
    namespace: dict[str, str] = {}
    primary: dict[str, str] = {}
    obsolete: set[str] = set()
    stanza, term = "", ""
    for number, line in enumerate(read_lines(path), 1):
        line = line.partition(" ! ")[0].strip()
        if line.startswith("["):
            stanza, term = line, ""
        elif stanza == "[Term]" and ": " in line:
            key, value = line.split(": ", 1)
            if key == "id":
                term = value
                parents[term] = ()
            elif not term:
                raise InputError(f"{path}, line {number}: a [Term] must begin with its id.")
            elif key == "namespace":
                namespace[term] = value
            elif key == "alt_id":
                primary[value] = term
            elif key == "is_obsolete" and value == "true":
                obsolete.add(term)
            elif key == "is_a" or (key == "relationship" and value.startswith("part_of ")):
                parents[term] = (*parents[term], value.removeprefix("part_of ").split()[0])
    if not parents:
        raise InputError(f"{path}: no [Term] in it; is it an OBO file?")
    return Ontology(parents, namespace, primary, frozenset(obsolete))


def propagate(annotations: Annotations, path: str | Path, *, aspect: str = "all") -> Annotations:
    """Give each gene also the terms above its terms (the true path rule), by the ontology in the OBO file ``path``.

    Secondary ids are replaced; obsolete terms, and terms that the ontology does not have, are left out and counted. Of
    ``BP``, ``MF`` or ``CC`` only terms of that aspect are kept: a function may be part of a process.
    """
    ontology = read_obo(path)
    terms = annotations.pairs["term"].map(lambda t: ontology.primary.get(t, t))
    unknown = ~terms.isin(list(ontology.parents))
    old = terms.isin(list(ontology.obsolete))
    notes = [
        f"{annotations.pairs.loc[which, 'term'].nunique()} terms are {what} and left out ({some(terms[which].unique(), 3)})"
        for which, what in ((unknown, "not in the ontology"), (old, "obsolete"))
        if which.any()
    ]
    kept = annotations.pairs.assign(term=terms)[~(unknown | old)]
    if kept.empty:
        raise InputError(f"{path}: none of the {len(set(terms))} terms is in it ({some(terms.unique())}).")
    above = ontology.above(kept["term"].unique())
    if aspect != "all":
        wanted = ASPECTS[aspect][1]
        above = {t: frozenset(a for a in up if ontology.namespace.get(a, wanted) == wanted) for t, up in above.items()}
    spread = kept.assign(term=kept["term"].map(lambda t: sorted(above[t]))).explode("term").dropna()
    spread = spread.drop_duplicates().sort_values(["gene", "term"], ignore_index=True)
    lost = dict.fromkeys(
        sorted(set(annotations.pairs["gene"]) - set(spread["gene"])), "none of its terms is in the ontology"
    )
    notes.append(f"with the terms above by is_a and part_of: {len(spread)} pairs from {len(annotations.pairs)}")
    return Annotations(spread, {**annotations.left_out, **lost}, (*annotations.notes, *notes))

"""Joining an embedding to the ids of a screen: the same ids first, then the same genes or compounds under other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from panmodal.embeddings.embedding import Embedding

if TYPE_CHECKING:
    from panmodal.identifiers import CompoundResolver, Match


def align(
    embedding: Embedding, ids: Sequence[str], kind: str = "auto", compounds: CompoundResolver | None = None
) -> tuple[Embedding, Match]:
    """Give the vectors of an embedding the names that ``ids`` use.

    Rows that have the wanted name stay what they are. A wanted id without such a row gets the vector of the row that is the
    same gene or compound under another name; the original row stays too, so nothing is lost.

    Parameters
    ----------
    embedding
        Vectors under names of any kind (symbols, Ensembl, ...).
    ids
        Perturbation ids of a screen; combinations without a vector of their own are looked up by their parts.
    kind
        ``auto``, ``genes``, ``compounds`` or ``exact``; see :func:`panmodal.identifiers.match_ids`.

    compounds
        Resolver of the screen's own compounds, if it says their structures or CIDs.

    Returns
    -------
    The embedding, with further rows where names differ, and the report of the match.
    """
    from panmodal.identifiers import match_ids

    row = {name: k for k, name in enumerate(embedding.ids)}

    def identical(a: str, b: str) -> bool:
        return bool((embedding.vectors[row[a]] == embedding.vectors[row[b]]).all())

    found = match_ids(ids, embedding.ids, kind=kind, compounds=compounds, identical=identical)
    added = {wanted: there for wanted, there in found.pairs.items() if wanted not in row}
    if not added or not found.resolved:
        return embedding, found
    rows = [*range(len(embedding.ids)), *(row[there] for there in added.values())]
    names = (*embedding.ids, *added)
    return Embedding(names, embedding.vectors[rows], embedding.card, combine=embedding.combine), found

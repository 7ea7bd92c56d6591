"""Bring two lists of ids together, whatever identifiers they use: the join behind screens and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from panmodal._tables import text_ids, unique_ids
from panmodal.errors import InputError
from panmodal.identifiers.compound_names import plain_name, without_salt
from panmodal.identifiers.compound_table import INCHIKEY
from panmodal.identifiers.compounds import CompoundResolver, default_compounds
from panmodal.identifiers.genes import GeneResolver, default_genes
from panmodal.identifiers.match_report import Match, MatchRow
from panmodal.identifiers.report import Resolved
from panmodal.identifiers.structures import has_rdkit, looks_like_smiles
from panmodal.perturbation_ids import canonical, control_family, is_control, parts

MATCH_KINDS = ("auto", "genes", "compounds", "exact")
"""What ids may be said to be in :func:`match_ids`."""

Resolver = GeneResolver | CompoundResolver


def match_ids(
    wanted: Sequence[str],
    available: Sequence[str],
    *,
    kind: str = "auto",
    genes: GeneResolver | None = None,
    compounds: CompoundResolver | None = None,
    identical: Callable[[str, str], bool] | None = None,
) -> Match:
    """Find each wanted id among the available ones: as it is, and else as the same gene or compound under another identifier.

    Parameters
    ----------
    wanted
        Ids asked for, e.g. of a screen; repeated ones count once.
    available
        Ids that there are, e.g. of an embedding; unique.
    kind
        ``genes``, ``compounds``, ``exact`` (no resolver), or ``auto``: genes if more than half of both lists resolve as genes, else
        compounds if more than half of both do (by name, CID, InChIKey), else exact.
    genes, compounds
        Resolvers with other tables than the shipped ones.
    identical
        Tells whether two available ids stand for the same thing (the same vector): then either will do.

    Returns
    -------
    Match
        Ids that are available as they are, are never touched. Of several available ids of one gene the surest wins (current
        symbol or accession, then previous symbol, then alias), of one compound that with the same name, then that with the same
        name but for the salt; equally sure ones are ambiguous. Several wanted ids of one gene share the available one. A
        combination ``A+B`` that is not available, under any identifiers of its parts, has its parts looked up as additional
        wanted ids (``part`` in the rows): rename the available rows to the wanted parts (:attr:`Match.pairs`) and they can be
        composed.

    Raises
    ------
    InputError
        An id is empty, an available id is repeated, or ``kind`` is unknown.
    """
    if kind not in MATCH_KINDS:
        raise InputError(f"no kind of ids {kind!r}; there are {', '.join(MATCH_KINDS)}.")
    asked = list(dict.fromkeys(text_ids(list(wanted), "the id", "wanted ids")))
    there = text_ids(list(available), "the id", "available ids")
    unique_ids(there, "id", "available ids", "Keep one row for each id.")
    standard = {canonical(a): a for a in reversed(there)}
    exact = set(there)

    def same(text: str) -> str:
        return text if text in exact else standard.get(canonical(text), "")

    left = [w for w in asked if not same(w)]
    pieces = list(dict.fromkeys(p for w in left if len(parts(w)) > 1 for p in parts(w) if p not in asked))
    pending = [w for w in (*left, *pieces) if not same(w) and not is_control(w)]
    finder = _Finder(there, pending, _resolver(kind, asked, there, genes, compounds) if pending else None, identical)
    rows: dict[str, MatchRow] = {}
    for text in (*asked, *pieces):
        if found := same(text):
            rows[text] = MatchRow(text, "same", found, "the same id", part=text in pieces)
        elif control_family(text) and not finder.known(text):
            rows[text] = MatchRow(text, "control", hint="Unperturbed cells.", part=text in pieces)
        else:
            rows[text] = finder.find(text, part=text in pieces)
    needed: set[str] = set()
    for text in left:
        of = parts(text)
        if len(of) > 1 and rows[text].status == "not found":
            needed.update(of)
            lost = [p for p in of if not rows[p].available]
            if lost:
                hint = f"Not available as a combination, and of its parts {', '.join(lost)} neither."
                rows[text] = MatchRow(text, "not found", hint=hint)
            else:
                rows[text] = MatchRow(text, "by parts", "+".join(rows[p].available for p in of), "its parts")
    kept = tuple(row for text, row in rows.items() if not row.part or text in needed)
    return Match(kept, finder.kind, finder.duplicates(kept))


class _Finder:
    """Available ids by the gene or compound that they mean."""

    def __init__(
        self,
        available: list[str],
        wanted: list[str],
        resolver: Resolver | None,
        identical: Callable[[str, str], bool] | None,
    ) -> None:
        self.resolver = resolver
        self.kind = "exact" if resolver is None else "genes" if isinstance(resolver, GeneResolver) else "compounds"
        self.identical = identical
        self._known: dict[str, Resolved] = {}
        self.by_key: dict[str, list[tuple[int, str]]] = {}
        self.by_skeleton: dict[str, list[str]] = {}
        self.several: dict[str, tuple[str, ...]] = {}
        if resolver is None:
            return
        self._resolve([p for ids in (available, wanted) for i in ids for p in parts(i)])
        for a in available:
            key, level, _ = self.key(a)
            if key:
                self.by_key.setdefault(key, []).append((level, a))
                if INCHIKEY.match(key):
                    self.by_skeleton.setdefault(key[:14], []).append(a)

    def _resolve(self, ids: list[str]) -> None:
        new = [i for i in dict.fromkeys(ids) if i not in self._known]
        if new and self.resolver is not None:
            self._known.update(zip(new, self.resolver.resolve(new), strict=True))

    def known(self, text: str) -> bool:
        """Tell whether the resolver knows a text that also looks like a control (``NT3`` is an alias)."""
        if self.resolver is None:
            return False
        self._resolve([text])
        return self._known[text].status in ("mapped", "ambiguous")

    def key(self, text: str) -> tuple[str, int, str]:
        """Return what a text means, how sure that is, and how it is known; of a combination those of its parts."""
        pieces = parts(text)
        self._resolve(list(pieces))
        keys, levels, hows = [], [], []
        for piece in pieces:
            row = self._known[piece]
            if row.status == "mapped":
                keys.append(row.key)
                levels.append(row.level)
                hows.append(row.how)
            elif (
                self.kind == "compounds"
                and row.status == "not found"
                and row.kind == "name"
                and not looks_like_smiles(piece)
            ):
                bare, salts = without_salt(piece)
                keys.append(f"name:{plain_name(bare)}")
                levels.append(2 if salts else 1)
                hows.append("name without salt" if salts else "name")
            else:
                return "", 0, ""
        return "+".join(sorted(keys)), max(levels), hows[levels.index(max(levels))]

    def find(self, text: str, part: bool) -> MatchRow:
        if self.resolver is None:
            return MatchRow(text, "not found", part=part)
        key, _, how = self.key(text)
        found = self.by_key.get(key, []) if key else []
        if self.kind == "compounds" and len(found) > 1:
            # Of one compound, that of the same name rather than another salt.
            found = [(_unlike(text, a), a) for _, a in found]
        found = sorted(found)
        if not found:
            return self._absent(text, key, part)
        best = [a for level, a in found if level == found[0][0]]
        if len(found) > 1:
            self.several[text] = tuple(a for _, a in found)
        if len(best) > 1 and not (self.identical and all(self.identical(best[0], a) for a in best[1:])):
            hint = "Several available ids are the same; keep the one that is meant."
            return MatchRow(text, "ambiguous", candidates=tuple(best), hint=hint, part=part)
        return MatchRow(text, "matched", best[0], self._why(how, self.key(best[0])[2]), part=part)

    def _absent(self, text: str, key: str, part: bool) -> MatchRow:
        """Say why a text was not found: it is not available, or not understood."""
        row = self._known[parts(text)[0]] if len(parts(text)) == 1 else None
        if row is not None and row.status not in ("mapped", "control"):
            return MatchRow(text, row.status, candidates=row.candidates, hint=row.hint, part=part)
        hint = f"{row.label or row.key} is not available." if row is not None and row.key and row.label != text else ""
        near = self.by_skeleton.get(key[:14], []) if self.kind == "compounds" else []
        if near:
            hint += f" Stereo differs or is not given: {', '.join(near[:3])}; CompoundResolver(stereo=False) takes them as one."
        return MatchRow(text, "not found", hint=hint.strip(), part=part)

    @staticmethod
    def _why(wanted: str, available: str) -> str:
        plain = ("symbol", "name")
        if wanted == available or available in plain:
            return wanted
        return available if wanted in plain else f"{wanted}, {available}"

    def duplicates(self, rows: tuple[MatchRow, ...]) -> dict[str, tuple[str, ...]]:
        shared: dict[str, list[str]] = {}
        for row in rows:
            if row.available and row.status != "by parts":
                shared.setdefault(row.available, []).append(row.wanted)
        out = {a: tuple(ids) for a, ids in shared.items() if len(ids) > 1}
        return {**out, **{w: ids for w, ids in self.several.items() if any(r.wanted == w for r in rows)}}


def _unlike(one: str, other: str) -> int:
    """Return 0 for one name, spelt alike; 1 for the same but for the salt; else 2."""
    if plain_name(one) == plain_name(other):
        return 0
    return 1 if plain_name(without_salt(one)[0]) == plain_name(without_salt(other)[0]) else 2


def _resolver(
    kind: str, wanted: list[str], available: list[str], genes: GeneResolver | None, compounds: CompoundResolver | None
) -> Resolver | None:
    if kind == "exact":
        return None
    if kind in ("auto", "genes"):
        by_gene = genes or default_genes()
        if kind == "genes" or all(_share(by_gene, ids) > 0.5 for ids in (wanted, available)):
            return by_gene
    by_compound = compounds or default_compounds()
    if kind == "compounds" or all(_share(by_compound, ids) > 0.5 for ids in (wanted, available)):
        return by_compound
    return None


def _share(resolver: Resolver, ids: list[str]) -> float:
    """Return the share of ids that a resolver knows, controls aside; SMILES do not count where RDKit is needed to read them."""
    single = [p for p in dict.fromkeys(p for i in ids for p in parts(i)) if not control_family(p)]
    if not single:
        return 0.0
    if isinstance(resolver, CompoundResolver) and not has_rdkit():
        single = [i for i in single if not looks_like_smiles(i)] or single
    return sum(row.status in ("mapped", "ambiguous") for row in resolver.resolve(single)) / len(single)

"""Which compound an identifier means: names, PubChem CIDs, InChIKeys, SMILES; salts stripped, stereo never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._tables import text_ids
from panmodal.errors import InputError
from panmodal.identifiers.compound_names import in_brackets, plain_name, unsure_salt, without_salt
from panmodal.identifiers.compound_table import CHEMBL_ID, CID, INCHIKEY, CompoundTable
from panmodal.identifiers.report import MISSING, MISSING_TEXTS, Resolution, Resolved
from panmodal.identifiers.structures import NEEDS_RDKIT, has_rdkit, looks_like_smiles, structure
from panmodal.perturbation_ids import control_family, is_control

KINDS = ("auto", "name", "PubChem CID", "InChIKey", "SMILES")
"""What identifiers may be said to be."""


class CompoundResolver:
    """Say which compound each identifier means.

    Parameters
    ----------
    table
        A :class:`CompoundTable`, a frame or a file for it (any of the columns name, pubchem_cid, smiles, inchikey, synonyms);
        default the shipped approved drugs of ChEMBL (names and structures, no CIDs).
    stereo
        Keep stereo apart (default). Without it the key is the first block of the InChIKey, the skeleton, and stereoisomers are
        one compound.

    Notes
    -----
    The key is the InChIKey of the compound without salts and neutral; of a compound whose structure is not known ``CID:...`` or
    ``name:...``. SMILES and InChIKeys that are not in the table are mapped, for they say what the compound is; names and CIDs that
    are not in it are not found.
    """

    def __init__(self, table: CompoundTable | pd.DataFrame | str | Path | None = None, stereo: bool = True) -> None:
        self._given = table
        self.stereo = stereo

    @property
    def table(self) -> CompoundTable:
        """The table of compounds, loaded on first use."""
        if not isinstance(self._given, CompoundTable):
            if self._given is None:
                self._given = CompoundTable.embedded()
            elif isinstance(self._given, pd.DataFrame):
                self._given = CompoundTable(self._given)
            else:
                self._given = CompoundTable.read(self._given)
        return self._given

    def resolve(self, ids: Iterable[Any], kind: str = "auto") -> Resolution:
        """Resolve identifiers, one row each, in order.

        Parameters
        ----------
        ids
            Text or numbers (numbers are PubChem CIDs, also ``46912230.0``); may repeat.
        kind
            What they are, one of :data:`KINDS`; default is to tell for each. SMILES of plain letters (``CCO``) are told from names
            only if said to be SMILES.

        Raises
        ------
        InputError
            An id is empty or missing, or ``kind`` is unknown.
        """
        if kind not in KINDS:
            raise InputError(f"no kind of compound identifier {kind!r}; there are {', '.join(KINDS)}.")
        if isinstance(ids, str):
            raise InputError(f"give a list of ids, not the text {ids!r}.")
        texts = text_ids(list(ids), "the id", "compound identifiers")
        seen = {text: self._one(text, kind) for text in dict.fromkeys(texts)}
        return Resolution(tuple(seen[text] for text in texts), "compound", "name")

    # -- one id ------------------------------------------------------------------------------------------------------------

    def _one(self, text: str, kind: str) -> Resolved:
        if is_control(text):
            return Resolved(text, "control", "control", how="control", hint="Untreated or vehicle, not a compound.")
        if text.lower() in MISSING_TEXTS and text not in self.table.by_exact_name:
            return Resolved(text, "missing", "not found", hint=MISSING)
        if kind == "name":
            return self._name(text)
        if kind == "PubChem CID" or (kind == "auto" and CID.fullmatch(text)):
            return self._cid(text)
        if kind == "InChIKey" or (kind == "auto" and INCHIKEY.fullmatch(text.upper())):
            return self._inchikey(text)
        if kind == "SMILES":
            return self._smiles(text)
        if CHEMBL_ID.fullmatch(text.upper()):
            return self._found(text, "ChEMBL id", self.table.by_chembl.get(text.upper(), ()), "ChEMBL id")
        if text not in self.table.by_exact_name and looks_like_smiles(text):
            return self._smiles(text)
        return self._name(text)

    def _found(self, given: str, kind: str, keys: Iterable[str], how: str, hint: str = "", level: int = 0) -> Resolved:
        """One compound is mapped, several are ambiguous, none is not found."""
        merged: dict[str, str] = {}
        for key in keys:
            merged.setdefault(self._cut(key), key)
        if not merged:
            text = hint or f"{given} is not in {self.table.source}."
            return Resolved(given, kind, "not found", hint=text)
        labels = tuple(self.table.labels.get(key, key) for key in merged.values())
        if len(merged) == 1:
            return Resolved(given, kind, "mapped", next(iter(merged)), labels[0], how, labels, hint, level)
        if len(set(labels)) < len(labels):
            labels = tuple(f"{label} ({key})" for label, key in zip(labels, merged, strict=True))
        hint = f"By {how} several compounds of {self.table.source}; give the SMILES, CID or InChIKey. {hint}".strip()
        return Resolved(given, kind, "ambiguous", how=how, candidates=labels, hint=hint, level=level)

    def _cut(self, key: str) -> str:
        return key[:14] if not self.stereo and INCHIKEY.match(key) else key

    def _cid(self, text: str) -> Resolved:
        match = CID.fullmatch(text)
        if match is None:
            return Resolved(text, "PubChem CID", "not found", hint="Not a PubChem CID: a number, with or without CID:.")
        return self._found(text, "PubChem CID", self.table.by_cid.get(str(int(match[1])), ()), "PubChem CID")

    def _inchikey(self, text: str) -> Resolved:
        key = text.upper()
        if not INCHIKEY.fullmatch(key):
            hint = "Not an InChIKey: 14, 10 and 1 capital letters joined by hyphens, e.g. BSYNRYMUTXBXSQ-UHFFFAOYSA-N."
            return Resolved(text, "InChIKey", "not found", hint=hint)
        keys = self.table.by_inchikey.get(key, ())
        if keys:
            hint = "" if any(k.startswith(key) for k in keys) else "The InChIKey of a salt; its compound is meant."
            return self._found(text, "InChIKey", keys, "InChIKey", hint)
        hint = f"Not in {self.table.source}; an InChIKey is its own key (salts cannot be stripped from it)."
        return Resolved(text, "InChIKey", "mapped", self._cut(key), "", "InChIKey", hint=hint)

    def _smiles(self, text: str) -> Resolved:
        if not has_rdkit():
            return Resolved(text, "SMILES", "not found", hint=f"Looks like a SMILES; reading it {NEEDS_RDKIT}.")
        try:
            found = structure(text)
        except InputError as error:
            return Resolved(text, "SMILES", "not found", hint=str(error))
        hint = f"Stripped: {', '.join(found.stripped)}." if found.stripped else ""
        if found.mixture:
            hint = f"{hint} A mixture or a salt whose ions may act: kept together.".strip()
        keys = self.table.by_inchikey.get(found.inchikey, ())
        candidates = tuple(self.table.labels.get(key, key) for key in keys)
        label = candidates[0] if len(keys) == 1 else ""
        if len(keys) > 1:
            hint = f"{hint} Without stereo the structure of {', '.join(candidates)}.".strip()
        return Resolved(text, "SMILES", "mapped", self._cut(found.inchikey), label, "SMILES", candidates, hint)

    def _name(self, text: str) -> Resolved:
        table = self.table
        if keys := table.by_exact_name.get(text):
            return self._found(text, "name", keys, "name")
        if keys := table.by_name.get(plain_name(text)):
            return self._found(text, "name", keys, "name", level=1)
        bare, salts = without_salt(text)
        keys = table.by_bare_name.get(plain_name(bare), ())
        if keys:
            hint = f"Without {' '.join(salts)}." if salts else "The table has it as a salt or hydrate."
            return self._found(text, "name", keys, "name without salt", hint, 2)
        pieces = in_brackets(bare)
        found = [keys for piece in pieces if (keys := table.by_bare_name.get(plain_name(without_salt(piece)[0])))]
        if found:
            common = set(found[0]).intersection(*found[1:])
            chosen = [k for k in found[0] if k in common] or list(dict.fromkeys(k for keys in found for k in keys))
            return self._found(text, "name", chosen, "one of two names", f"Read as {' and '.join(pieces)}.", 2)
        if control_family(text):
            return Resolved(text, "control", "control", how="control", hint="Untreated or vehicle, not a compound.")
        word = unsure_salt(text)
        near = table.by_bare_name.get(plain_name(text[: text.lower().rfind(word)]), ()) if word else ()
        if near:
            labels = tuple(table.labels.get(key, key) for key in near)
            hint = f"{word!r} may be a salt or a part of the molecule; if it is a salt write {' or '.join(labels)}."
            return Resolved(text, "name", "ambiguous", how="name", candidates=labels, hint=hint)
        if looks_like_smiles(text):
            return Resolved(text, "name", "not found", hint="Looks like a SMILES, but was said to be a name.")
        return Resolved(text, "name", "not found")


@lru_cache(maxsize=1)
def default_compounds() -> CompoundResolver:
    """Return the resolver with the shipped table (one for the whole process)."""
    return CompoundResolver()

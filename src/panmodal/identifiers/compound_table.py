"""The table of compounds behind the resolver: shipped, or the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal._tables import plain_text, read_frame
from panmodal.errors import InputError
from panmodal.identifiers.compound_names import SALTS, UNSURE, plain_name, without_salt
from panmodal.identifiers.structures import has_rdkit, looks_like_smiles, structure

NAME_COLUMNS = ("name", "pref_name", "compound_name", "compound", "perturbagen", "drug", "pert_id", "pert_name", "pert_iname",
                "original_pert_name", "cmap_name", "synonyms")  # fmt: skip
"""Columns that hold names; the first one that is there gives the label. ``synonyms`` may hold several, joined by ``|``."""

CID_COLUMNS, SMILES_COLUMNS = ("pubchem_cid", "cid"), ("smiles", "canonical_smiles", "isomeric_smiles")
KEY_COLUMNS, CHEMBL_COLUMNS = ("inchikey", "inchi_key", "standard_inchi_key"), ("molecule_chembl_id", "chembl_id")

CID = re.compile(r"(?:(?:pubchem[ _:]?)?(?:cid)?[ _:]*)(\d+)(?:\.0+)?", re.IGNORECASE)
"""A PubChem CID: 123, 123.0, CID:123, pubchem:123."""

INCHIKEY = re.compile(r"[A-Z]{14}-[A-Z]{8}[SN][A-Z]-[A-Z]")
"""An InChIKey: skeleton, stereo and version, protonation."""

CHEMBL_ID = re.compile(r"CHEMBL\d+")


GAPS = ("nan", "none", "na", "n/a", "<na>", "null")
"""How gaps look where a table was turned into text."""


class CompoundTable:
    """Compounds with names, CIDs and structures; rows of one structure (salts stripped) are one compound.

    Parameters
    ----------
    frame
        One row per compound or salt; columns of :data:`NAME_COLUMNS`, ``pubchem_cid``, ``smiles``, ``inchikey``,
        ``molecule_chembl_id``, in any letter case, whichever are there.
    source
        Where it is from, for messages.

    Raises
    ------
    InputError
        None of the columns is there, or a CID or InChIKey is not one.

    Notes
    -----
    Rows whose structure leaves stereo open are one compound only if they share a name (salts aside) or a CID: without stereo,
    doxorubicin and epirubicin have one structure.

    A row's key is the InChIKey of its SMILES without salts (needs RDKit), else its InChIKey, else that of another row with its CID,
    else ``CID:...`` or ``name:...``. :attr:`problems` lists the SMILES that could not be read.
    """

    def __init__(self, frame: pd.DataFrame, source: str = "the table of compounds") -> None:
        self.source = source
        column = {str(c).strip().lower(): c for c in frame.columns}
        name_columns = [column[c] for c in NAME_COLUMNS if c in column]
        self.problems: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        cids = _cells(frame, column, CID_COLUMNS)
        smiles = _cells(frame, column, SMILES_COLUMNS)
        given = [key.upper() for key in _cells(frame, column, KEY_COLUMNS)]
        self._chembl = [c.upper() for c in _cells(frame, column, CHEMBL_COLUMNS)]
        if not (name_columns or any(cids) or any(smiles) or any(given)):
            raise InputError(
                f"{source}: no column of compounds among {', '.join(map(str, frame.columns[:12]))}. Name them, whichever "
                "there are: name, pubchem_cid, smiles, inchikey, synonyms."
            )
        self._cids = [self._check(c, CID, "pubchem_cid", k) for k, c in enumerate(cids)]
        self._given = [self._check(c, INCHIKEY, "inchikey", k) for k, c in enumerate(given)]
        names: list[list[str]] = [[] for _ in range(len(frame))]
        for head in name_columns:
            split = str(head).lower() == "synonyms"
            for k, cell in enumerate(_texts(frame[head])):
                names[k] += [n.strip() for n in (cell.split("|") if split else [cell]) if n.strip()]
        self._names = names
        parents = [self._parent(s, g) for s, g in zip(smiles, self._given, strict=True)]
        by_cid: dict[str, set[str]] = {}
        for cid, key in zip(self._cids, parents, strict=True):
            if cid and key:
                by_cid.setdefault(cid, set()).add(key)
        self.keys = []
        for k, (key, cid) in enumerate(zip(parents, self._cids, strict=True)):
            others = by_cid.get(cid, set()) if cid else set()
            name = f"name:{plain_name(names[k][0])}" if names[k] else f"row {k + 1} of {source}"
            self.keys.append(key or (next(iter(others)) if len(others) == 1 else f"CID:{cid}" if cid else name))
        self._part_stereoisomers(smiles)
        salt: dict[str, str] = {}
        for key, row in zip(self.keys, names, strict=True):
            if row:  # the name of the compound rather than of a salt of it
                (salt if without_salt(row[0])[1] else self.labels).setdefault(key, row[0])
        self.labels = {**salt, **self.labels}

    @classmethod
    def read(cls, path: str | Path) -> CompoundTable:
        """Read a csv, tsv or Parquet file."""
        columns = (*NAME_COLUMNS, *CID_COLUMNS, *SMILES_COLUMNS, *KEY_COLUMNS, *CHEMBL_COLUMNS)
        return cls(read_frame(path, text_columns=columns), str(path))

    @classmethod
    def embedded(cls) -> CompoundTable:
        """Return the shipped table: approved drugs of ChEMBL with names and structures (loaded once)."""
        return _embedded()

    def __len__(self) -> int:
        return len(self.keys)

    def _check(self, text: str, pattern: re.Pattern[str], column: str, row: int) -> str:
        if not text:
            return ""
        match = pattern.fullmatch(text)
        if match is None:
            raise InputError(
                f"{self.source}: column {column!r} holds {text!r} in row {row + 1}, which is no {column}. Correct it."
            )
        return str(int(match[1])) if match.groups() else text

    def _parent(self, smiles: str, given: str) -> str:
        if not smiles or (given and not has_rdkit()):
            return given
        if not has_rdkit():
            self.problems[smiles] = "reading SMILES needs RDKit: pip install 'panmodal[chem]'"
            return ""
        try:
            return structure(smiles).inchikey
        except InputError as error:
            self.problems[smiles] = str(error)
            return given

    def _part_stereoisomers(self, smiles: list[str]) -> None:
        """Give rows of one structure with open stereo keys of their own, unless they share a name or a CID."""
        groups: dict[str, list[int]] = {}
        for k, key in enumerate(self.keys):
            groups.setdefault(key, []).append(k)
        for key, rows in groups.items():
            readable = [smiles[k] for k in rows if smiles[k] and smiles[k] not in self.problems]
            if len(rows) == 1 or not readable or not has_rdkit() or not structure(readable[0]).open_stereo:
                continue
            sets: list[tuple[set[str], list[int]]] = []
            for k in rows:
                # That phosphate is a salt here is seen from the structure: an ester would have another.
                marks = {plain_name(without_salt(n, SALTS | UNSURE)[0]) for n in self._names[k]} | (
                    {f"CID:{self._cids[k]}"} if self._cids[k] else set()
                )
                joined = [s for s in sets if s[0] & marks]
                sets = [s for s in sets if not s[0] & marks]
                sets.append((marks.union(*(s[0] for s in joined)), sorted([k, *(i for s in joined for i in s[1])])))
            if len(sets) > 1:
                for marks, members in sets:
                    for k in members:
                        self.keys[k] = f"{key}/{min(marks, default='')}"

    def _index(self, texts: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
        out: dict[str, dict[str, None]] = {}
        for key, row in zip(self.keys, texts, strict=True):
            for text in row:
                if text:
                    out.setdefault(text, {})[key] = None
        return {text: tuple(keys) for text, keys in out.items()}

    @cached_property
    def by_exact_name(self) -> dict[str, tuple[str, ...]]:
        """Names as they are written -> keys."""
        return self._index(self._names)

    @cached_property
    def by_name(self) -> dict[str, tuple[str, ...]]:
        """Names without case, spaces and punctuation -> keys; names that are SMILES are left out."""
        return self._index([plain_name(n) for n in row if not looks_like_smiles(n)] for row in self._names)

    @cached_property
    def by_bare_name(self) -> dict[str, tuple[str, ...]]:
        """The same without words for salts; a name that needs no stripping beats those that do."""
        bare = [[without_salt(n)[0] for n in row if not looks_like_smiles(n)] for row in self._names]
        return {**self._index([plain_name(n) for n in row] for row in bare), **self.by_name}

    @cached_property
    def by_cid(self) -> dict[str, tuple[str, ...]]:
        """PubChem CID -> keys."""
        return self._index([cid] for cid in self._cids)

    @cached_property
    def by_chembl(self) -> dict[str, tuple[str, ...]]:
        """ChEMBL id -> keys."""
        return self._index([c] for c in self._chembl)

    @cached_property
    def by_inchikey(self) -> dict[str, tuple[str, ...]]:
        """InChIKey, of the compound or as the table gives it (of a salt) -> keys."""
        bare = [key.split("/")[0] for key in self.keys]
        return self._index([b if INCHIKEY.fullmatch(b) else "", g] for b, g in zip(bare, self._given, strict=True))


def _texts(values: pd.Series) -> list[str]:
    return ["" if v is None or v is pd.NA or v != v else plain_text(v).strip() for v in values.tolist()]


def _cells(frame: pd.DataFrame, column: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    head = next((column[n] for n in names if n in column), None)
    if head is None:
        return [""] * len(frame)
    # A gap that was written as text: no CID, structure or key is spelt so.
    return ["" if cell.lower() in GAPS else cell for cell in _texts(frame[head])]


@lru_cache(maxsize=1)
def _embedded() -> CompoundTable:
    data = files("panmodal.data")
    with data.joinpath("chembl_approved_drugs.parquet").open("rb") as stream:
        drugs = pd.read_parquet(stream)
    with data.joinpath("chembl_approved_keys.parquet").open("rb") as stream:
        keys = pd.read_parquet(stream)
    if not np.array_equal(drugs["molecule_chembl_id"], keys["molecule_chembl_id"]):
        raise InputError("the shipped drugs and their InChIKeys do not go together; make them again.")
    frame = drugs[["pref_name", "molecule_chembl_id"]].assign(inchikey=keys["inchikey"].to_numpy())
    return CompoundTable(frame, "the shipped table of approved drugs")

"""Tables of compounds: which structure (SMILES) each id means, from any common file."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._tables import TEXT_SUFFIXES, plain_text, read_frame, require_exists, suffix, text_ids
from panmodal.errors import InputError, some

COMPOUND_COLUMNS = (
    "pert_id", "perturbation", "perturbagen", "compound", "compound_name", "drug", "drug_name", "drugname", "treatment",
    "pref_name", "pert_iname", "cmap_name", "name", "sm_name", "id", "compound_id", "drug_id", "chembl_id",
    "molecule_chembl_id", "broad_id", "pubchem_cid", "cid", "inchikey",
)  # fmt: skip
"""Names (lower case) under which the ids of compounds are looked for, in this order."""

SMILES_COLUMNS = (
    "smiles",
    "canonical_smiles",
    "isomeric_smiles",
    "smiles_canonical",
    "structure_smiles",
    "cxsmiles",
    "structure",
)
"""Names (lower case) under which structures are looked for, in this order."""

SMI_SUFFIXES = (".smi", ".smiles")
MISSING = frozenset({"", "nan", "none", "na", "n/a", "<na>", "null", "-", "-666", "restricted", "unknown"})
"""Texts (lower case) that stand for no value; -666 and ``restricted`` are those of the Connectivity Map."""

INDEX = "__index__"
"""Column that holds ``obs_names`` of an h5ad or zarr file."""


@dataclass(frozen=True)
class Compounds:
    """What a table of compounds says.

    Attributes
    ----------
    smiles
        Id -> SMILES as written, in the order of the file.
    left_out
        Id -> why it has no SMILES.
    notes
        What a reader should know, one line each.
    """

    smiles: dict[str, str]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()


def read_annotation(path: str | Path, text_columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a csv, tsv or Parquet table, or the ``obs`` of an h5ad or zarr file (``obs_names`` become column :data:`INDEX`).

    Only ``obs`` is read, however large the matrix.
    """
    path = require_exists(path)
    kind = suffix(path)
    if kind not in (".h5ad", ".zarr"):
        return read_frame(path, text_columns)
    from anndata.io import read_elem

    try:
        if kind == ".zarr":
            import zarr

            obs = read_elem(zarr.open_group(str(path), mode="r")["obs"])
        else:
            import h5py

            with h5py.File(path, "r") as handle:
                obs = read_elem(handle["obs"])
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: its obs cannot be read ({reason}). Is it a complete {kind[1:]} file?") from error
    obs = obs.astype({c: object for c in obs.columns if isinstance(obs[c].dtype, pd.CategoricalDtype)})
    obs.insert(0, INDEX, obs.index.astype(str))
    return obs.reset_index(drop=True)


def find_column(
    frame: pd.DataFrame, given: str | None, names: Sequence[str], what: str, where: str, option: str
) -> str | None:
    """Return the column ``given``, or the first of ``names`` (letter case aside) that is there, or None.

    Raises
    ------
    InputError
        The column ``given`` is not there.
    """
    shown = [c for c in frame.columns if c != INDEX]
    if given is not None:
        if given not in frame:
            raise InputError(f"{where}: no column {given!r} for {what}; there are {some(shown, 12)}. Correct {option}.")
        return given
    lower = {str(c).lower(): c for c in reversed(shown)}
    return next((str(lower[n]) for n in names if n in lower), None)


def compound_ids(frame: pd.DataFrame, where: str, id_col: str | None = None, other: Sequence[str] = ()) -> list[str]:
    """Return the ids of the compounds, one for each row; the column is detected unless named.

    Raises
    ------
    InputError
        There is no such column, or an id is missing.
    """
    column = find_column(frame, id_col, COMPOUND_COLUMNS, "the compounds", where, "id_col")
    if column is None and INDEX in frame:
        column = INDEX
    if column is None:
        rest = [c for c in frame.columns if c not in other]
        if len(rest) != 1:
            raise InputError(
                f"{where}: cannot tell which column names the compounds; there are {some(frame.columns, 12)}. Give id_col."
            )
        column = rest[0]
    # A compound may be filed under a name such as "unknown".
    empty = [k + 1 for k, v in enumerate(frame[column]) if absent(v, ("", "nan", "<na>"))]
    if empty:
        known = [c for c in frame.columns if str(c).lower() in COMPOUND_COLUMNS and c != column]
        better = [c for c in known if not any(absent(v) for v in frame[c])]
        hint = f" Or name another column with id_col: {some(better)}." if better and id_col is None else ""
        raise InputError(
            f"{where}: column {column!r} (the compounds) is empty in row(s) {some(empty)}. Fill it or remove them.{hint}"
        )
    return text_ids(frame[column].tolist(), f"the compound ({column})", where)


def absent(value: Any, words: Container[str] = MISSING) -> bool:
    """Tell whether a cell stands for no value: empty, NaN, or one of ``words``."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and value.strip().lower() in words


def read_compound_table(
    path: str | Path,
    *,
    id_col: str | None = None,
    smiles_col: str | None = None,
    same: Callable[[str], str] | None = None,
) -> Compounds:
    """Read the structure of each compound.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, ``.txt`` (tab), ``.parquet``; ``.smi``, ``.smiles`` (SMILES, white space, id; text files also
        ``.gz``); or a screen (``.h5ad``, ``.zarr``) whose ``obs`` has a column of SMILES.
    id_col, smiles_col
        Columns of the ids and structures; detected by name (:data:`COMPOUND_COLUMNS`, :data:`SMILES_COLUMNS`) unless given.
    same
        Maps a SMILES to a key that is equal for equal structures (empty if it is not valid), such as
        :func:`panmodal.embeddings.fingerprints.structure_key`. Rows of one id whose SMILES differ as text but have one key
        are one compound, and the SMILES with the fewest fragments, the shortest, the first in the alphabet is taken.
        Without it, SMILES are compared as text.

    Returns
    -------
    Compounds
        An id whose rows name different structures is left out, with the structures in the reason.

    Raises
    ------
    InputError
        The file cannot be read, has no such columns, an id is empty, or no id has a SMILES.
    """
    path = require_exists(path)
    where = str(path)
    if suffix(path) in SMI_SUFFIXES:
        ids, structures = _read_smi(path)
    elif suffix(path) in (*TEXT_SUFFIXES, ".parquet", ".h5ad", ".zarr"):
        named = [c.lower() for c in (id_col, smiles_col) if c]
        frame = read_annotation(path, [*named, *COMPOUND_COLUMNS, *SMILES_COLUMNS])
        column = find_column(frame, smiles_col, SMILES_COLUMNS, "the structures", where, "smiles_col")
        if column is None:
            shown = [c for c in frame.columns if c != INDEX]
            raise InputError(f"{where}: no column of SMILES found among {some(shown, 12)}. Give smiles_col.")
        ids = compound_ids(frame, where, id_col, (column,))
        structures = ["" if absent(v) else plain_text(v).strip() for v in frame[column]]
    else:
        raise InputError(
            f"{where}: {suffix(path) or 'no suffix'} is no format of compounds (csv, tsv, txt, parquet, smi, h5ad, zarr)."
        )
    found: dict[str, list[str]] = {}
    for i, text in zip(ids, structures, strict=True):
        told = found.setdefault(i, [])
        if text and text not in told:
            told.append(text)
    return _settle(found, where, same)


def read_compounds(
    path: str | Path, *, id_col: str | None = None, smiles_col: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return id -> SMILES and id -> why it has none; see :func:`read_compound_table`, which also compares structures."""
    table = read_compound_table(path, id_col=id_col, smiles_col=smiles_col)
    return table.smiles, table.left_out


def _settle(found: dict[str, list[str]], where: str, same: Callable[[str], str] | None) -> Compounds:
    """Choose one SMILES for each id."""
    smiles: dict[str, str] = {}
    left_out: dict[str, str] = {}
    alike = []
    for i, texts in found.items():
        if not texts:
            left_out[i] = "no SMILES"
            continue
        keys = {t: same(t) for t in texts} if same and len(texts) > 1 else dict(zip(texts, texts, strict=True))
        valid = [t for t in texts if keys[t]] or texts
        if len({keys[t] for t in valid}) > 1:
            left_out[i] = f"{len(valid)} different structures: {some(sorted(valid))}. Keep one row for it"
            continue
        smiles[i] = min(valid, key=lambda t: (t.count("."), len(t), t))
        if len(texts) > 1:
            alike.append(i)
    if not smiles:
        raise InputError(
            f"{where}: none of the {len(found)} compounds has a SMILES that can be used ({_first(left_out)})."
        )
    notes: tuple[str, ...] = ()
    if alike:
        notes = (f"{len(alike)} compound(s) written with several SMILES of one structure: {some(sorted(alike))}.",)
    return Compounds(smiles, left_out, notes)


def _first(left_out: dict[str, str]) -> str:
    i, why = next(iter(left_out.items()))
    return f"{i!r}: {why}"


def _read_smi(path: Path) -> tuple[list[str], list[str]]:
    """Read SMILES and the id behind it from each line; a line of names of columns may come first."""
    from panmodal.embeddings.texts import read_lines

    ids: list[str] = []
    structures: list[str] = []
    unnamed = []
    for number, line in enumerate(read_lines(path), 1):
        pieces = line.strip().split(maxsplit=1)
        if not pieces or (not ids and pieces[0].lower() in SMILES_COLUMNS):
            continue
        if len(pieces) == 2 and pieces[1].startswith("|"):  # an extension of ChemAxon stands before the name
            pieces = [pieces[0], pieces[1][1:].partition("|")[2].strip()]
        if len(pieces) < 2 or not pieces[1].strip():
            unnamed.append(number)
            continue
        structures.append(pieces[0])
        ids.append(pieces[1].strip())
    if unnamed:
        raise InputError(f"{path}: no id behind the SMILES in line(s) {some(unnamed)}. Write SMILES, a space, the id.")
    if not ids:
        raise InputError(f"{path}: the file is empty.")
    return ids, structures

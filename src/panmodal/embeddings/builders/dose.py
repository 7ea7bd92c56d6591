"""Dose: vectors of compounds, told apart by how much was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._tables import text_ids
from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.compound_table import absent, find_column, read_annotation
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import parts

MICROMOLAR = {"M": 1e6, "mM": 1e3, "uM": 1.0, "nM": 1e-3, "pM": 1e-6}
"""How many µmol/l one unit is."""

ID_COLUMNS = ("pert_id", "perturbation", "id", "ids", "condition", "pert", "sample", "key")
DRUG_COLUMNS = ("compound", "compound_name", "drug", "drug_name", "drugname", "perturbagen", "treatment", "name")
DOSE_COLUMNS = ("dose", "dose_value", "dosage", "concentration", "conc", "drug_conc", "pert_dose", "dose_um", "dose_nm")
UNIT_COLUMNS = ("dose_unit", "unit", "units", "concentration_unit", "conc_unit", "pert_dose_unit")

_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
_UNIT = r"(?:[munpUNP]M|[unp]m|M)"
_SPELT = (
    re.compile(rf"(?P<drug>.+?)\s*@\s*(?P<dose>{_NUMBER})\s*(?P<unit>{_UNIT})?"),
    re.compile(rf"\[?\(\s*'(?P<drug>.+)',\s*(?P<dose>{_NUMBER}),\s*'(?P<unit>{_UNIT})'\s*\)\]?"),
    re.compile(rf"(?P<drug>.+?)[-_ |:]+\(?(?P<dose>{_NUMBER})\s*(?P<unit>{_UNIT})\)?"),
    re.compile(rf"(?P<drug>.+)_(?P<dose>{_NUMBER})(?P<unit>)"),
)
"""``drug@10uM`` (the unit may lack), ``[('drug', 10.0, 'uM')]`` as Tahoe-100M writes it, ``drug-10uM``, ``drug_10.0``."""


def parse_dose(text: str, unit: str = "uM") -> tuple[str, float] | None:
    """Return compound and dose (µmol/l) of an id, or None if it names no dose.

    >>> parse_dose("trametinib@100nM"), parse_dose("JQ1_0.5"), parse_dose("TL_HRAS26")
    (('trametinib', 0.1), ('JQ1', 0.5), None)
    """
    for pattern in _SPELT:
        match = pattern.fullmatch(text.strip().replace("µ", "u").replace("μ", "u"))
        if match:
            return match["drug"].strip(), float(match["dose"]) * factor(match["unit"] or unit, f"id {text!r}")
    return None


def factor(unit: str, where: str) -> float:
    """Return how many µmol/l one ``unit`` is; only ``M`` and ``mM`` must have their letter case."""
    plain = unit.strip().replace("µ", "u").replace("μ", "u")
    known = MICROMOLAR | {name.lower(): MICROMOLAR[name] for name in ("uM", "nM", "pM")}
    value = known.get(plain, known.get(plain.lower()) if plain.lower() in ("um", "nm", "pm") else None)
    if value is None:
        raise InputError(f"{where}: dose in {unit!r}; want one of {', '.join(MICROMOLAR)}. Convert it first.")
    return value


def build_dose(
    *,
    embedding: Annotated[Path, "embedding of the compounds (FILE.h5ad#KEY takes obsm[KEY])"],
    doses: Annotated[
        Path | None,
        "table of id, compound, dose (and unit), or a screen with these in obs; read from the ids unless given",
    ] = None,
    unit: Annotated[Literal["M", "mM", "uM", "nM", "pM"], "unit of doses that name none"] = "uM",
    form: Annotated[
        Literal["log", "one-hot", "scale"],
        "append log10 of the dose; append one dimension for each dose; or multiply the vector by ln(1 + dose)",
    ] = "log",
    copies: Annotated[
        int, "times that the appended dimensions are repeated, since probes standardise every dimension"
    ] = 1,
    id_col: Annotated[str | None, "column of the ids in the table; detected unless given"] = None,
    compound_col: Annotated[str | None, "column of the compounds; detected, else read from the ids"] = None,
    dose_col: Annotated[str | None, "column of the doses; detected, else read from the ids"] = None,
    unit_col: Annotated[str | None, "column of the units; detected unless given"] = None,
    ids: Sequence[str] | None = None,
) -> Built:
    """Give every (compound, dose) a vector: that of the compound, and the dose in µmol/l.

    ``log`` appends log10(dose); ``one-hot`` appends an indicator of each dose that there is, in ascending order; ``scale``
    multiplies the vector by ln(1 + dose), the logarithmic dose response of the compositional perturbation autoencoder
    (Lotfollahi et al., Mol Syst Biol 2023) without its fitted slope.
    """
    from panmodal.embeddings.reading import read_embedding
    from panmodal.identifiers import match_ids

    if copies < 1:
        raise InputError(f"copies is {copies}; it must be 1 or more.")
    if doses is None and ids is None:
        raise InputError("dose: which ids? Give doses (a table), or the ids of a screen that name a dose (drug@10uM).")
    base = read_embedding(embedding)
    if doses is not None:
        given, left_out = _from_table(doses, unit, id_col, compound_col, dose_col, unit_col)
    else:
        given, left_out = _from_ids(ids or (), unit, set(base.ids))
    for i, (_, dose) in list(given.items()):
        if not (np.isfinite(dose) and dose > 0):
            left_out[i] = f"its dose is {dose:g}; want a positive number"
            del given[i]
    compounds = sorted({compound for compound, _ in given.values()})
    found: dict[str, str] = {}
    if compounds:
        for kind in ("auto", "compounds"):
            found |= match_ids(compounds, base.ids, kind=kind).pairs
    for i, (compound, _) in list(given.items()):
        if compound not in found:
            left_out[i] = f"its compound {compound!r} has no vector in {base.name!r}"
            del given[i]
    if not given:
        first, why = next(iter(left_out.items()), ("-", "there are no ids"))
        raise InputError(f"dose: no id has a compound with a vector and a dose. The first, {first!r}: {why}.")
    row = {i: k for k, i in enumerate(base.ids)}
    vectors = base.vectors[[row[found[compound]] for compound, _ in given.values()]].astype(np.float64)
    made, note = _with_dose(vectors, np.array([dose for _, dose in given.values()]), form, copies)
    described = {"log": "log10 of the dose appended", "one-hot": "one dimension for each dose appended",
                 "scale": "multiplied by ln(1 + dose)"}  # fmt: skip
    card = {
        "modality": f"{base.card.modality}+dose", "description": f"{base.name}, {described[form]} (µmol/l)",
        "trained_on": base.card.trained_on, "licence": base.card.licence, "simulated": base.card.simulated,
    }  # fmt: skip
    return Built(list(given), made.astype(np.float32), left_out=left_out, notes=(note,), card=card)


def _with_dose(
    vectors: NDArray[np.float64], doses: NDArray[np.float64], form: str, copies: int
) -> tuple[NDArray[Any], str]:
    """Return vectors that know the dose, and a note."""
    # Doses that differ in the last bits only (100 nM, 0.1 uM) are one.
    rounded = np.array([float(f"{d:.9g}") for d in doses])
    levels = np.unique(rounded)
    note = f"{len(levels)} dose(s), in µmol/l: {', '.join(f'{d:g}' for d in levels[:40])}{', ...' if len(levels) > 40 else ''}"
    if form == "scale":
        return vectors * np.log1p(rounded)[:, None], note
    extra = np.log10(rounded)[:, None] if form == "log" else (rounded[:, None] == levels).astype(np.float64)
    return np.hstack([vectors, *[extra] * copies]), note


def _from_ids(ids: Sequence[str], unit: str, known: set[str]) -> tuple[dict[str, tuple[str, float]], dict[str, str]]:
    """Read compound and dose of every id, and of the parts of combinations."""
    given, left_out = {}, {}
    for i in dict.fromkeys(piece for name in ids for piece in parts(name)):
        told = parse_dose(i, unit)
        if told is None or (i in known and told[0] not in known):
            left_out[i] = "names no dose (as drug@10uM, drug_10.0 or drug-10uM do)"
        else:
            given[i] = told
    return given, left_out


def _from_table(
    path: Path, unit: str, id_col: str | None, compound_col: str | None, dose_col: str | None, unit_col: str | None
) -> tuple[dict[str, tuple[str, float]], dict[str, str]]:
    """Read compound and dose of every id of a table; what has no column is read from the id.

    Without a column of ids these are ``COMPOUND@DOSEuM``.
    """
    where = str(path)
    named = [c.lower() for c in (id_col, compound_col, unit_col) if c]
    frame = read_annotation(path, [*named, *ID_COLUMNS, *DRUG_COLUMNS, *UNIT_COLUMNS])
    own = find_column(frame, id_col, [c for c in ID_COLUMNS if c != compound_col], "the ids", where, "id_col")
    rest = frame.drop(columns=[c for c in (own,) if c is not None and c != compound_col])
    drug = find_column(rest, compound_col, DRUG_COLUMNS, "the compounds", where, "compound_col")
    dose = find_column(frame, dose_col, DOSE_COLUMNS, "the doses", where, "dose_col")
    units = find_column(frame, unit_col, UNIT_COLUMNS, "the units", where, "unit_col")
    if own is None and drug is None:
        raise InputError(
            f"{where}: no column of ids or compounds among {some(frame.columns, 12)}. Give id_col or compound_col."
        )
    if own is None and dose is None:
        raise InputError(f"{where}: no column of doses among {some(frame.columns, 12)}. Give dose_col.")
    if dose is not None and dose.lower() in ("dose_um", "dose_nm"):
        unit = "uM" if dose.lower() == "dose_um" else "nM"
    drugs = None if drug is None else text_ids(frame[drug].tolist(), f"the compound ({drug})", where)
    names = drugs if own is None else text_ids(frame[own].tolist(), f"the id ({own})", where)
    assert names is not None
    given: dict[str, tuple[str, float]] = {}
    left_out: dict[str, str] = {}
    for k, name in enumerate(names):
        value = None if dose is None else _number(frame[dose].iloc[k], frame, units, k, unit, where, name)
        if dose is not None and value is None:
            left_out[name] = "no dose"
        elif own is None:
            given[f"{name}@{value:g}uM"] = (name, float(value or 0))
        else:
            for i in parts(name) if drugs is None else (name,):
                told = parse_dose(i, unit)
                if told is None and dose is None:
                    left_out[i] = f"{path.name} has no column of doses and the id names none"
                    continue
                compound = drugs[k] if drugs is not None else told[0] if told is not None else i
                meant = (compound, told[1] if told is not None and value is None else float(value or 0))
                if given.setdefault(i, meant) != meant:
                    raise InputError(
                        f"{where}: id {i!r} has two meanings, {given[i][0]!r} at {given[i][1]:g} uM and {meant[0]!r} at "
                        f"{meant[1]:g} uM. Give each compound and dose its own id, or name the column of ids with id_col."
                    )
    return given, {i: why for i, why in left_out.items() if i not in given}


def _number(cell: Any, frame: pd.DataFrame, units: str | None, k: int, unit: str, where: str, i: str) -> float | None:
    """Return a dose in µmol/l: a number, or a number with its unit."""
    if absent(cell):
        return None
    text = str(cell).strip().replace("µ", "u").replace("μ", "u")
    match = re.fullmatch(rf"(-?{_NUMBER})\s*([A-Za-z/]*)", text)
    if not match:
        raise InputError(
            f"{where}: dose {text!r} of id {i!r} is no number. Correct it, or name the column with dose_col."
        )
    given = match[2] or ("" if units is None or absent(frame[units].iloc[k]) else str(frame[units].iloc[k]))
    return float(match[1]) * factor(given or unit, f"{where}, id {i!r}")


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    vectors = pd.DataFrame(rng.standard_normal((6, 5)).round(3), columns=list("abcde"))
    vectors.insert(0, "compound", [f"drug{k}" for k in range(6)])
    vectors.to_csv(folder / "compounds.csv", index=False)
    rows = [(f"drug{k}@{dose}uM", f"drug{k}", dose) for k in range(7) for dose in (0.1, 1, 10)]
    pd.DataFrame(rows, columns=["pert_id", "compound", "dose"]).to_csv(folder / "doses.csv", index=False)
    return {"embedding": folder / "compounds.csv", "doses": folder / "doses.csv"}


BUILDERS = (
    Builder(
        name="dose",
        modality="dose",
        description="vector of each compound with its dose appended, or scaled by it",
        function=build_dose,
        example=_example,
        id_namespace="compound at a dose, as in the source",
    ),
)
"""Records of this module."""

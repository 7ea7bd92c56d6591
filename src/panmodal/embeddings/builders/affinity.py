"""Predicted or measured binding affinities: a compound as its values for a panel of proteins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from panmodal._tables import plain_text, read_frame, require_exists, text_ids
from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.compound_table import COMPOUND_COLUMNS, find_column
from panmodal.errors import InputError, some

BOLTZ_VALUES = ("affinity_probability_binary", "affinity_pred_value")
"""What Boltz-2 predicts: probability of binding (0 to 1), and log10 of the IC50 in µmol/l (lower is stronger)."""

PROTEIN_COLUMNS = (
    "protein", "protein_id", "target", "target_id", "gene", "gene_symbol", "symbol", "uniprot", "uniprot_id", "receptor", "chain",
)  # fmt: skip
"""Names (lower case) under which proteins are looked for, in this order."""

LIGAND_COLUMNS = ("ligand", "ligand_id", "molecule", "mol_id", *COMPOUND_COLUMNS)
"""Names (lower case) under which compounds are looked for, in this order."""


def read_boltz(folder: Path, pattern: str, value: str) -> pd.DataFrame:
    """Read the output of ``boltz predict``: compound, protein and ``value`` of each ``affinity_NAME.json`` below ``folder``.

    Boltz writes ``predictions/NAME/affinity_NAME.json`` for an input ``NAME.yaml``. The name must say which compound and
    protein it is, as ``pattern`` tells.

    Raises
    ------
    InputError
        No such files, an input without prediction, a name that does not fit the pattern in one way, or no such value.
    """
    files = sorted(folder.rglob("affinity_*.json"))
    if not files:
        raise InputError(f"{folder}: no affinity_*.json below it. Give the folder that boltz predict wrote.")
    name_of = _name_parser(pattern)
    # One folder for each input lies in "predictions", or side by side in the folder given.
    parents = sorted({file.parent.parent for file in files} & {folder, *folder.rglob("predictions")})
    inputs = [p for parent in parents for p in sorted(parent.iterdir()) if p.is_dir() and p.name != "predictions"]
    without = [p.name for p in inputs if not any(p.glob("affinity_*.json"))]
    if without:
        raise InputError(
            f"{folder}: inputs without affinity: {some(without)}. Predict them again, or move their folders away."
        )
    rows = []
    for file in files:
        compound, protein = name_of(file.stem.removeprefix("affinity_"), str(file))
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read as JSON ({error}). Is it complete?") from error
        numbers = {k: v for k, v in told.items() if type(v) in (int, float)} if isinstance(told, dict) else {}
        if value not in numbers or not np.isfinite(numbers[value]):
            raise InputError(f"{file}: no finite number {value!r}; its numbers are {some(numbers) or 'none'}.")
        rows.append((compound, protein, float(numbers[value])))
    return pd.DataFrame(rows, columns=["compound", "protein", value])


def _name_parser(pattern: str) -> Any:
    """Return the function from the name of an input to (compound, protein)."""
    fields = re.findall(r"\{(\w+)\}", pattern)
    between = re.fullmatch(r"(.*)\{\w+\}(.+)\{\w+\}(.*)", pattern)
    if sorted(fields) != ["compound", "protein"] or between is None:
        raise InputError(
            f"name_pattern is {pattern!r}; it must hold {{compound}} and {{protein}} once each, with text between them."
        )
    before, separator, after = between.groups()

    def split(name: str, where: str) -> tuple[str, str]:
        inner = name[len(before) : len(name) - len(after)]
        fits = name.startswith(before) and name.endswith(after) and inner.count(separator) == 1
        pieces = inner.split(separator)
        if not fits or not all(pieces):
            raise InputError(
                f"{where}: the name {name!r} does not fit {pattern!r} in exactly one way. Give name_pattern, with a separator "
                "that is in no name of a compound or protein, or a table with columns compound, protein and value."
            )
        told = dict(zip(fields, pieces, strict=True))
        return told["compound"], told["protein"]

    return split


def read_affinities(
    path: Path, value: str, compound_col: str | None, protein_col: str | None, pattern: str
) -> pd.DataFrame:
    """Return a table compound, protein, value with a row for each measurement; NaN values are kept."""
    if require_exists(path).is_dir():
        return read_boltz(path, pattern, value).rename(columns={value: "value"})
    where = str(path)
    named = [c.lower() for c in (compound_col, protein_col) if c]
    frame = read_frame(path, [*named, *LIGAND_COLUMNS, *PROTEIN_COLUMNS])
    compound = find_column(frame, compound_col, LIGAND_COLUMNS, "the compounds", where, "compound_col")
    protein = find_column(frame.drop(columns=[c for c in (compound,) if c]), protein_col, PROTEIN_COLUMNS, "the proteins", where,
                          "protein_col")  # fmt: skip
    for what, found, option in (("compounds", compound, "compound_col"), ("proteins", protein, "protein_col")):
        if found is None:
            raise InputError(f"{where}: no column of {what} found among {some(frame.columns, 12)}. Give {option}.")
    if value not in frame:
        rest = [c for c in frame.columns if c not in (compound, protein) and frame[c].dtype.kind in "fiu"]
        raise InputError(
            f"{where}: no column {value!r} of values; numbers are in {some(rest, 12) or 'no column'}. Give value."
        )
    numbers = pd.to_numeric(frame[value], errors="coerce")
    bad = np.flatnonzero(
        (numbers.isna() & frame[value].notna()).to_numpy() | np.isinf(numbers.to_numpy(float, na_value=np.nan))
    )
    if len(bad):
        raise InputError(
            f"{where}: column {value!r} holds {str(frame[value].iloc[bad[0]])!r} in row {bad[0] + 1}, no finite number."
        )
    return pd.DataFrame({
        "compound": text_ids(frame[compound].tolist(), f"the compound ({compound})", where),
        "protein": text_ids([plain_text(v) if v == v else v for v in frame[protein]], f"the protein ({protein})", where),
        "value": numbers.to_numpy(float, na_value=np.nan),
    })  # fmt: skip


def build_affinity(
    *,
    affinities: Annotated[
        Path, "long table compound, protein, value (csv, tsv, parquet), or the folder that boltz predict wrote"
    ],
    value: Annotated[
        str, "column, or field of Boltz's files; affinity_pred_value is log10 of the IC50 in µmol/l"
    ] = BOLTZ_VALUES[0],
    missing: Annotated[
        Literal["error", "drop-protein", "drop-compound", "mean"],
        "pairs without a value: refuse, leave out these proteins or these compounds, or take the mean of the protein",
    ] = "error",
    repeats: Annotated[
        Literal["error", "mean"], "pairs with several different values: refuse, or take their mean"
    ] = "error",
    name_pattern: Annotated[str, "how Boltz's inputs were named"] = "{compound}__{protein}",
    compound_col: Annotated[str | None, "column of the compounds; detected unless given"] = None,
    protein_col: Annotated[str | None, "column of the proteins; detected unless given"] = None,
) -> Built:
    """Pivot affinities to compound x protein; dimensions are the proteins in alphabetical order."""
    table = read_affinities(affinities, value, compound_col, protein_col, name_pattern)
    where = str(affinities)
    notes: list[str] = []
    groups = table.dropna(subset=["value"]).groupby(["compound", "protein"], sort=True)["value"]
    spread = groups.nunique()
    several = spread.index[spread > 1]
    if len(several):
        if repeats == "error":
            told = some(f"{c} x {p}" for c, p in several)
            raise InputError(
                f"{where}: {len(several)} pair(s) have different values: {told}. Keep one, or give repeats mean."
            )
        notes.append(f"{len(several)} pair(s) with several values have their mean")
    # Sorted before adding up: the mean must not depend on the order of rows.
    means = groups.apply(lambda v: float(np.mean(np.sort(v.to_numpy()))))
    if means.empty:
        raise InputError(f"{where}: no pair has a value in {value!r}.")
    matrix = means.unstack("protein")
    order = [c for c in dict.fromkeys(table["compound"]) if c in matrix.index]
    left_out = {c: "no value for any protein" for c in dict.fromkeys(table["compound"]) if c not in matrix.index}
    unknown = sorted(set(table["protein"]) - set(matrix.columns))
    if unknown:
        notes.append(f"left out {len(unknown)} protein(s) without any value: {some(unknown)}")
    matrix = matrix.loc[order]
    matrix = _complete(matrix, missing, where, left_out, notes)
    notes.append(f"dimensions, in this order: {some(matrix.columns, 12)}")
    card = {"description": f"{value} of each compound for {matrix.shape[1]} proteins"}
    vectors = matrix.to_numpy(np.float32)
    return Built(matrix.index.tolist(), vectors, left_out=left_out, notes=tuple(notes), card=card)


def _complete(
    matrix: pd.DataFrame, missing: str, where: str, left_out: dict[str, str], notes: list[str]
) -> pd.DataFrame:
    """Deal with pairs that have no value."""
    gaps = matrix.isna()
    total = int(gaps.to_numpy().sum())
    if not total:
        return matrix
    if missing == "error":
        told = some(f"{matrix.index[i]} x {matrix.columns[j]}" for i, j in np.argwhere(gaps.to_numpy())[:50])
        raise InputError(
            f"{where}: {total} of {matrix.size} pairs have no value: {told}. Complete them, or say with missing what to do "
            "(drop-protein, drop-compound or mean)."
        )
    if missing == "mean":
        notes.append(
            f"{total} of {matrix.size} pairs had no value and got the mean of the protein over its other compounds"
        )
        return matrix.fillna(matrix.mean(axis=0))
    axis = 0 if missing == "drop-compound" else 1
    kept = matrix.dropna(axis=axis)
    if kept.empty:
        raise InputError(
            f"{where}: nothing is left with missing {missing}: {total} of {matrix.size} pairs have no value."
        )
    if axis == 0:
        for compound in matrix.index.difference(kept.index, sort=False):
            left_out[compound] = f"no value for {some(matrix.columns[gaps.loc[compound]])}"
    else:
        gone = matrix.columns.difference(kept.columns)
        notes.append(f"left out {len(gone)} protein(s) without a value for some compound: {some(gone)}")
    return kept


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    predictions = folder / "boltz_results" / "predictions"
    fields: Mapping[str, int] = {v: k for k, v in enumerate(BOLTZ_VALUES)}
    for drug in range(12):
        for protein in ("EGFR", "BRAF", "CDK4"):
            name = f"drug{drug}__{protein}"
            (predictions / name).mkdir(parents=True)
            told = {field: round(float(rng.uniform(k * -3, 1)), 4) for field, k in fields.items()}
            (predictions / name / f"affinity_{name}.json").write_text(json.dumps(told), encoding="utf-8")
    return {"affinities": folder / "boltz_results"}


BUILDERS = (
    Builder(
        name="affinity",
        modality="binding affinity",
        description="binding of each compound to a panel of proteins, read from predictions (Boltz-2) or measurements",
        function=build_affinity,
        example=_example,
        id_namespace="compound, as in the source",
        citation="Passaro et al., bioRxiv 2025 (Boltz-2)",
        url="https://github.com/jwohlwend/boltz",
    ),
)
"""Records of this module."""

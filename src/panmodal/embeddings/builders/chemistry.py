"""Embeddings of chemical structures: fingerprints and RDKit descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.embeddings.builders.base import Builder, Built, Progress, select
from panmodal.embeddings.compound_table import read_compound_table
from panmodal.embeddings.fingerprints import KINDS, KindName, fingerprint, molecule, structure_key
from panmodal.errors import InputError, some
from panmodal.studies import NONE

Table = Annotated[Path, "compounds with SMILES: csv, tsv, parquet, smi, or a screen (h5ad) with SMILES in obs"]
IdCol = Annotated[str | None, "column of the compounds; detected unless given"]
SmilesCol = Annotated[str | None, "column of the SMILES; detected unless given"]
Strip = Annotated[bool, "leave counter-ions and solvents out and neutralise charges, as they rarely act themselves"]
LOGGED = frozenset({"Ipc"})
"""Descriptors that grow exponentially with the size of the molecule (up to 1e70): ln(1 + value) is taken."""


def wanted_compounds(
    table: Path, id_col: str | None, smiles_col: str | None, strip_salts: bool, ids: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return id -> SMILES of the compounds that serve ``ids``, id -> why there is none, and notes.

    SMILES of one id that are written differently are compared as structures.
    """

    def same(smiles: str) -> str:
        return structure_key(smiles, strip_salts=strip_salts)

    read = read_compound_table(table, id_col=id_col, smiles_col=smiles_col, same=same)
    names = list(read.smiles)
    # Both readings of the ids: the caller chooses among what is built.
    chosen = {*select(names, ids), *select(names, ids, kind="compounds")} if ids is not None else set(names)
    if not chosen:
        raise InputError(
            f"{table}: none of its {len(read.smiles)} compounds with SMILES is among the {len(ids or ())} wanted ids."
        )
    return {i: text for i, text in read.smiles.items() if i in chosen}, dict(read.left_out), list(read.notes)


def build_fingerprint(
    *,
    compounds: Table,
    kind: Annotated[
        KindName, "which fingerprint; topological is RDKit's of paths, torsion that of topological torsions"
    ] = "ecfp",
    bits: Annotated[int | None, "length; default 2048 (avalon 512; maccs and erg always have 166 and 315)"] = None,
    radius: Annotated[int | None, "radius in bonds of ecfp, fcfp (default 2, as in ECFP4) and secfp (3)"] = None,
    counts: Annotated[bool, "how often each feature occurs, instead of whether"] = False,
    chirality: Annotated[bool, "tell stereoisomers apart"] = False,
    strip_salts: Strip = True,
    id_col: IdCol = None,
    smiles_col: SmilesCol = None,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Compute one fingerprint for each compound; see :func:`panmodal.embeddings.fingerprints.fingerprint`."""
    smiles, left_out, notes = wanted_compounds(compounds, id_col, smiles_col, strip_salts, ids)
    names, texts = list(smiles), list(smiles.values())
    settings = {"chirality": chirality, "strip_salts": strip_salts}
    matrix, failures = fingerprint(texts, kind, bits, radius, counts, **settings, progress=progress)
    left_out.update({names[k]: why for k, why in failures.items()})
    kept = [i for k, i in enumerate(names) if k not in failures]
    if not kept:
        raise InputError(f"{compounds}: no SMILES parses; the first: {left_out[names[0]]}.")
    empty = [kept[k] for k in np.flatnonzero(~matrix.any(axis=1))]
    if empty:
        notes.append(f"{len(empty)} compound(s) have no feature of this fingerprint, all zeros: {some(sorted(empty))}")
    notes += tie_notes(kept, matrix, smiles, strip_salts)
    about = KINDS[kind]
    r = about.radius if radius is None else radius
    told = [f"{matrix.shape[1]} {'counts' if counts else 'dimensions'}", *([f"radius {r}"] if r is not None else [])]
    card = {"description": f"{about.description}; {', '.join(told)}", "citation": about.citation}
    return Built(kept, matrix.astype(np.float32), left_out=left_out, notes=tuple(notes), card=card)


def tie_notes(ids: Sequence[str], matrix: NDArray[Any], smiles: Mapping[str, str], strip_salts: bool) -> list[str]:
    """Name compounds that no probe can tell apart: the same structure under several ids, and different ones with one vector."""
    _, group = np.unique(matrix, axis=0, return_inverse=True)
    group = group.ravel()
    shared = np.flatnonzero(np.bincount(group) > 1)
    same, alike = [], []
    for g in shared:
        members = [ids[int(k)] for k in np.flatnonzero(group == g)]
        keys = {i: structure_key(smiles[i], strip_salts=strip_salts) or smiles[i] for i in members}
        by_key: dict[str, list[str]] = {}
        for i in members:
            by_key.setdefault(keys[i], []).append(i)
        same += [" = ".join(sorted(names)) for names in by_key.values() if len(names) > 1]
        if len(by_key) > 1:
            alike.append(" ~ ".join(sorted(names[0] for names in by_key.values())))
    notes = []
    if same:
        notes.append(f"{len(same)} structure(s) under several ids, which have one vector: {some(sorted(same))}")
    if alike:
        notes.append(
            f"{len(alike)} group(s) of different structures (often stereoisomers) with one vector: {some(sorted(alike))}"
        )
    return notes


def build_descriptors(
    *,
    compounds: Table,
    undefined: Annotated[
        Literal["drop-descriptor", "drop-compound"],
        "a descriptor that is not a finite number for some compound: leave out the descriptor, or those compounds",
    ] = "drop-descriptor",
    strip_salts: Strip = True,
    id_col: IdCol = None,
    smiles_col: SmilesCol = None,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Compute all RDKit 2D descriptors of each compound, in RDKit's units, in RDKit's order.

    Nothing is filled in. ``Ipc`` is replaced by ln(1 + Ipc). Descriptors without a finite value for some compound are left
    out (or the compounds, by ``undefined``), and so are those with one value for all compounds; the notes name them.
    """
    smiles, left_out, notes = wanted_compounds(compounds, id_col, smiles_col, strip_salts, ids)
    kept, values, columns = descriptor_table(smiles, strip_salts, left_out, progress)
    if not kept:
        raise InputError(f"{compounds}: no SMILES parses; the first: {left_out[next(iter(smiles))]}.")
    finite = np.isfinite(values)
    never = ~finite.any(axis=0)
    if undefined == "drop-compound" and not finite[:, ~never].all():
        bad = ~finite[:, ~never].all(axis=1)
        shown = np.array(columns)[~never]
        for k in np.flatnonzero(bad):
            left_out[kept[k]] = f"RDKit descriptors without a finite value: {some(shown[~finite[k, ~never]])}"
        kept = [kept[k] for k in np.flatnonzero(~bad)]
        values, finite = values[~bad], finite[~bad]
        if not kept:
            raise InputError(f"{compounds}: no compound has all descriptors; take undefined drop-descriptor.")
    labels = np.array([f"ln(1 + {c})" if c in LOGGED else c for c in columns])
    gone = np.asarray(~finite.all(axis=0))
    if gone.any():
        who = [kept[k] for k in np.flatnonzero(~finite.all(axis=1))]
        names = labels[gone].tolist()
        notes.append(f"left out {len(names)} descriptor(s) without a finite value for {some(who)}: {', '.join(names)}")
    constant = ~gone
    constant[~gone] = np.ptp(values[:, constant], axis=0) == 0
    if constant.any() and len(kept) > 1:
        names = labels[constant].tolist()
        notes.append(f"left out {len(names)} descriptor(s) with one value for all compounds: {', '.join(names)}")
        gone |= constant
    if gone.all():
        raise InputError(f"{compounds}: the {len(kept)} compounds do not differ in any descriptor.")
    matrix = values[:, ~gone]
    notes += tie_notes(kept, matrix, smiles, strip_salts)
    notes.append(f"dimensions, in RDKit's order: {some(labels[~gone], 12)}")
    card = {"description": f"{matrix.shape[1]} RDKit 2D descriptors, not standardised (every probe standardises)"}
    return Built(kept, matrix, left_out=left_out, notes=tuple(notes), card=card)


def descriptor_table(
    smiles: Mapping[str, str], strip_salts: bool, left_out: dict[str, str], progress: Progress | None = None
) -> tuple[list[str], NDArray[np.float64], list[str]]:
    """Return ids, values (NaN or infinite where RDKit gives none) and names; ids that do not parse go to ``left_out``."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import Descriptors

    functions = list(Descriptors.descList)
    kept, rows = [], []
    with rdBase.BlockLogs():
        for done, (i, text) in enumerate(smiles.items(), 1):
            mol, why = molecule(text, strip_salts=strip_salts)
            if mol is None:
                left_out[i] = why
            else:
                # Read again from its canonical SMILES: sums over atoms depend on their order in the last bits.
                mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol)) or mol
                kept.append(i)
                rows.append([_value(function, mol) for _, function in functions])
            if progress is not None:
                progress(done, len(smiles))
    columns = [name for name, _ in functions]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))
    for k, name in enumerate(columns):
        if name in LOGGED:
            values[:, k] = np.log1p(values[:, k])
    return kept, values, columns


def _value(function: Any, mol: Any) -> float:
    """Return one descriptor; NaN where RDKit cannot compute it (unknown parameters of an element, division by zero)."""
    try:
        return float(function(mol))
    except (ArithmeticError, ValueError, RuntimeError, KeyError, IndexError):
        return float("nan")


def _example(folder: Path) -> dict[str, Any]:
    chains = ["C" * k + end for k in range(2, 8) for end in ("O", "N", "C(=O)O")]
    rings = ["c1ccccc1" + end for end in ("O", "N", "C(=O)O", "Cl", "CCN.Cl", "C(=O)[O-].[Na+]")]
    rows = {"compound": [f"drug{k}" for k in range(26)], "smiles": [*chains, *rings, "C1CC", None]}
    path = folder / "toy.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return {"compounds": path}


def _example_bits(folder: Path) -> dict[str, Any]:
    return {**_example(folder), "bits": 128}


_CHEMISTRY: dict[str, Any] = {
    "modality": "chemistry",
    "id_namespace": "compound, as in the source",
    "extra": "chem",
    "needs": ("rdkit",),
    "url": "https://www.rdkit.org",
    "trained_on": (NONE,),
}

BUILDERS = (
    Builder(
        name="fingerprint",
        description="molecular fingerprint of each compound: ECFP, FCFP, MACCS, Avalon, ErG, topological, atom pairs, SECFP, ...",
        function=build_fingerprint,
        example=_example_bits,
        **_CHEMISTRY,
    ),
    Builder(
        name="descriptors",
        description="RDKit 2D descriptors of each compound: weight, logP, surface, charges, counts of groups, ...",
        function=build_descriptors,
        example=_example,
        citation="Landrum, RDKit",
        **_CHEMISTRY,
    ),
)
"""Records of this module."""

"""Embeddings of drugs by the genes that they act on: a table drug -> targets, or the mean of the targets' vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.compound_table import (
    COMPOUND_COLUMNS,
    INDEX,
    absent,
    compound_ids,
    find_column,
    read_annotation,
)
from panmodal.errors import InputError, some

TARGET_COLUMNS = (
    "targets", "target", "target_genes", "target_gene", "gene_targets", "target_symbol", "target_symbols", "target_name",
    "genes", "gene", "gene_symbol", "symbol", "protein", "uniprot",
)  # fmt: skip
"""Names (lower case) under which targets are looked for, in this order."""

NAMED = 40
"""Names written out in a note."""

_SEPARATORS = re.compile(r"[,;|]")

Table = Annotated[
    Path, "drugs and their targets: one row for each drug (targets separated by , ; or |) or for each pair"
]
IdCol = Annotated[str | None, "column of the drugs; detected unless given"]
TargetCol = Annotated[str | None, "column of the targets; detected unless given"]
WeightCol = Annotated[
    str | None, "column of weights: one number for each row, or one for each target, separated likewise"
]
Resolve = Annotated[
    bool, "read targets as human genes (symbols old and new, Ensembl, Entrez, UniProt); false: as written"
]


@dataclass(frozen=True)
class Targets:
    """Which drug acts on which gene.

    Attributes
    ----------
    pairs
        Drug -> target -> weight (1 without a column of weights).
    left_out
        Drug -> why it has no target.
    notes
        What a reader should know, one line each.
    """

    pairs: dict[str, dict[str, float]]
    left_out: dict[str, str]
    notes: tuple[str, ...]


def read_targets(
    path: Path,
    *,
    id_col: str | None = None,
    target_col: str | None = None,
    weight_col: str | None = None,
    resolve: bool = True,
) -> Targets:
    """Read the targets of each drug.

    A drug may have several rows; a pair listed twice counts once. Names that are no known gene are left out of the targets,
    and are noted. Lists of Parquet columns are taken as they are.

    Raises
    ------
    InputError
        No such column, a weight that is no finite number or is zero, a pair with two weights, or no drug with a target.
    """
    where = str(path)
    named = [c.lower() for c in (id_col, target_col) if c]
    frame = read_annotation(path, [*named, *COMPOUND_COLUMNS, *TARGET_COLUMNS])
    column = find_column(frame, target_col, TARGET_COLUMNS, "the targets", where, "target_col")
    if column is None:
        shown = [c for c in frame.columns if c != INDEX]
        raise InputError(f"{where}: no column of targets found among {some(shown, 12)}. Give target_col.")
    weights = find_column(frame, weight_col, (), "the weights", where, "weight_col")
    drugs = compound_ids(frame, where, id_col, tuple(c for c in (column, weights) if c))
    raw: dict[str, dict[str, float]] = {}
    for row, drug in enumerate(drugs):
        names = _split(frame[column].iloc[row])
        given = _weights(frame[weights].iloc[row], len(names), where, drug, weights) if weights else [1.0] * len(names)
        held = raw.setdefault(drug, {})
        for name, weight in zip(names, given, strict=True):
            _add(held, name, weight, where, drug)
    return _known(raw, where, resolve)


def _split(cell: Any) -> list[str]:
    """Return the targets of a cell, each once; a cell may be a list or text."""
    if isinstance(cell, list | tuple | np.ndarray):
        pieces = ["" if absent(c) else str(c) for c in cell]
    elif absent(cell):
        pieces = []
    else:
        pieces = _SEPARATORS.split(str(cell).strip().strip("[]"))
    return [name for p in pieces if not absent(name := p.strip().strip("'\"").strip())]


def _weights(cell: Any, n: int, where: str, drug: str, column: str) -> list[float]:
    """Return the weight of each of ``n`` targets."""
    pieces = (
        list(cell) if isinstance(cell, list | tuple | np.ndarray) else _SEPARATORS.split(str(cell).strip().strip("[]"))
    )
    try:
        numbers = [float(p) for p in pieces]
    except (TypeError, ValueError):
        numbers = [float("nan")]
    if n and (not np.isfinite(numbers).all() or 0.0 in numbers):
        raise InputError(
            f"{where}: column {column!r} of drug {drug!r} is {cell!r}: want finite numbers that are not 0."
        )
    if n and len(numbers) not in (1, n):
        raise InputError(f"{where}: drug {drug!r} has {n} targets but {len(numbers)} weights in column {column!r}.")
    return numbers * n if len(numbers) == 1 else numbers[:n]


def _add(held: dict[str, float], name: str, weight: float, where: str, drug: str) -> None:
    if held.setdefault(name, weight) != weight:
        raise InputError(
            f"{where}: target {name!r} of drug {drug!r} has two weights, {held[name]:g} and {weight:g}. Keep one."
        )


def _known(raw: dict[str, dict[str, float]], where: str, resolve: bool) -> Targets:
    """Name targets by current symbols; say which are no known gene and which drugs are left without."""
    names = sorted({name for held in raw.values() for name in held})
    symbols, notes = {name: name for name in names}, []
    if resolve and names:
        from panmodal.identifiers import GeneResolver

        resolution = GeneResolver().resolve(names)
        symbols = dict(resolution.labels)
        lost = [row for row in resolution.rows if row.status != "mapped"]
        if lost:
            told = [f"{row.id!r} ({row.status}{': ' + row.hint.rstrip('.') if row.hint else ''})" for row in lost]
            notes.append(
                f"{len(lost)} of {len(names)} target name(s) are no known gene and were left out: {_list(told)}"
            )
        renamed = [f"{old} -> {new}" for old, new in symbols.items() if old != new]
        if renamed:
            notes.append(f"{len(renamed)} target name(s) were read as the current symbol: {_list(renamed)}")
    pairs: dict[str, dict[str, float]] = {}
    left_out = {}
    for drug, held in raw.items():
        found: dict[str, float] = {}
        for name, weight in held.items():
            if name in symbols:
                _add(found, symbols[name], weight, where, drug)
        if found:
            pairs[drug] = found
        else:
            left_out[drug] = f"none of its targets ({some(sorted(held))}) is a known gene" if held else "no targets"
    if not pairs:
        raise InputError(f"{where}: none of the {len(raw)} drugs has a target that is a known gene.")
    return Targets(pairs, left_out, tuple(notes))


def _list(texts: Sequence[str]) -> str:
    rest = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f", ... and {rest} more" if rest > 0 else "")


def build_targets(
    *,
    targets: Table,
    weighting: Annotated[
        Literal["binary", "idf", "share", "column"],
        "value of a target: 1; rarer targets more (idf); 1 / number of targets of the drug; or the column of weights",
    ] = "binary",
    min_drugs: Annotated[int, "targets of fewer drugs are no dimension"] = 1,
    id_col: IdCol = None,
    target_col: TargetCol = None,
    weight_col: WeightCol = None,
    resolve: Resolve = True,
) -> Built:
    """Write the drug x target matrix; dimensions are the targets in alphabetical order.

    idf is ln((1 + n) / (1 + n_target)) + 1, n drugs of which n_target have the target, as in scikit-learn's TfidfTransformer.
    """
    if (weighting == "column") != (weight_col is not None):
        raise InputError("weighting 'column' and weight_col belong together: give both or neither.")
    if min_drugs < 1:
        raise InputError(f"min_drugs is {min_drugs}; it must be 1 or more.")
    read = read_targets(targets, id_col=id_col, target_col=target_col, weight_col=weight_col, resolve=resolve)
    drugs, left_out, notes = list(read.pairs), dict(read.left_out), list(read.notes)
    number = pd.Series([gene for held in read.pairs.values() for gene in held]).value_counts()
    genes = sorted(number.index[number >= min_drugs])
    if not genes:
        raise InputError(f"{targets}: no target is one of {min_drugs} drugs; the most frequent is of {number.max()}.")
    place = {gene: k for k, gene in enumerate(genes)}
    matrix = np.zeros((len(drugs), len(genes)), np.float32)
    for row, held in enumerate(read.pairs.values()):
        for gene, weight in held.items():
            if gene in place:
                matrix[row, place[gene]] = {"column": weight, "share": 1 / len(held)}.get(weighting, 1.0)
    if weighting == "idf":
        matrix *= (np.log((1 + len(drugs)) / (1 + number[genes].to_numpy())) + 1).astype(np.float32)
    held_any = np.asarray(matrix.any(axis=1))
    bare = (~held_any).tolist()
    left_out |= {
        drug: f"its targets are of fewer than {min_drugs} drugs" for drug, b in zip(drugs, bare, strict=True) if b
    }
    if len(genes) < len(number):
        notes.append(f"{len(number) - len(genes)} target(s) of fewer than {min_drugs} drugs are no dimension")
    notes.append(f"dimensions, in this order: {some(genes, 12)}")
    kept = [drug for drug, b in zip(drugs, bare, strict=True) if not b]
    card = {"description": f"{len(genes)} target genes, {weighting} values"}
    return Built(kept, matrix[held_any], left_out=left_out, notes=tuple(notes), card=card)


def build_targets_mean(
    *,
    targets: Table,
    embedding: Annotated[Path, "embedding of genes to average (FILE.h5ad#KEY takes obsm[KEY])"],
    id_col: IdCol = None,
    target_col: TargetCol = None,
    weight_col: WeightCol = None,
    resolve: Resolve = True,
) -> Built:
    """Average the vectors of the targets of each drug: sum(w v) / sum(w) over the targets that have a vector."""
    from panmodal.embeddings.reading import read_embedding
    from panmodal.identifiers import match_ids

    read = read_targets(targets, id_col=id_col, target_col=target_col, weight_col=weight_col, resolve=resolve)
    genes = read_embedding(embedding)
    names = sorted({gene for held in read.pairs.values() for gene in held})
    found = match_ids(names, genes.ids, kind="genes" if resolve else "exact").pairs
    row = {i: k for k, i in enumerate(genes.ids)}
    kept, vectors, left_out = [], [], dict(read.left_out)
    for drug, held in read.pairs.items():
        if min(held.values()) < 0:
            raise InputError(f"{targets}: drug {drug!r} has a negative weight; a mean needs positive ones.")
        with_vector = [gene for gene in sorted(held) if gene in found]
        if not with_vector:
            left_out[drug] = f"none of its targets ({some(sorted(held))}) has a vector in {genes.name!r}"
            continue
        weights = np.array([held[gene] for gene in with_vector])
        rows = genes.vectors[[row[found[gene]] for gene in with_vector]].astype(np.float64)
        kept.append(drug)
        vectors.append(weights @ rows / weights.sum())
    if not kept:
        raise InputError(f"{targets}: none of the {len(names)} targets has a vector in {embedding}: {some(names)}.")
    notes = list(read.notes)
    lost = [gene for gene in names if gene not in found]
    if lost:
        partly = sum(1 for drug in kept if set(read.pairs[drug]) & set(lost))
        notes.append(
            f"{len(lost)} of {len(names)} targets have no vector in {genes.name!r} and were left out of the means of {partly} "
            f"drug(s): {_list(lost)}"
        )
    card = {
        "description": f"mean of {genes.name} ({genes.card.modality}) over target genes" + (", weighted" if weight_col else ""),
        "trained_on": genes.card.trained_on, "licence": genes.card.licence, "simulated": genes.card.simulated,
    }  # fmt: skip
    return Built(kept, np.array(vectors, dtype=np.float32), left_out=left_out, notes=tuple(notes), card=card)


_GENES = ("EGFR", "ERBB2", "KRAS", "TP53", "MTOR", "AKT1", "JAK1", "JAK2", "BRAF", "MAP2K1", "PARP1", "CDK4", "CDK6")


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    chosen = [rng.choice(len(_GENES), 1 + k % 3, replace=False) for k in range(20)]
    texts = [", ".join(_GENES[i] for i in sorted(row)) for row in chosen]
    path = folder / "toy.csv"
    drugs = [f"drug{k}" for k in range(22)]
    pd.DataFrame({"drug": drugs, "targets": [*texts, None, "NOSUCHGENE"]}).to_csv(path, index=False)
    return {"targets": path}


def _example_mean(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.standard_normal((len(_GENES) - 1, 6)).round(3), columns=list("abcdef"))
    frame.insert(0, "gene", _GENES[:-1])
    frame.to_csv(folder / "genes.csv", index=False)
    return {**_example(folder), "embedding": folder / "genes.csv"}


BUILDERS = (
    Builder(
        name="targets",
        modality="drug targets",
        description="which genes each drug acts on: one dimension for each target",
        function=build_targets,
        example=_example,
        id_namespace="compound, as in the source",
    ),
    Builder(
        name="targets-mean",
        modality="drug targets",
        description="mean of a gene embedding over the targets of each drug",
        function=build_targets_mean,
        example=_example_mean,
        id_namespace="compound, as in the source",
    ),
)
"""Records of this module."""

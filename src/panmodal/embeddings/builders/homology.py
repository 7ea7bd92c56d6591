"""Homology embeddings: which proteins have a similar sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.homology import homology_vectors, read_homology
from panmodal.errors import InputError
from panmodal.studies import NONE


def homology(
    *,
    edges: Annotated[Path, "pairs of homologs: tabular output of BLAST, DIAMOND or MMseqs2 (m8), or a table a, b, id"],
    identity: Annotated[
        Literal["auto", "fraction", "percent"], "unit of the identities; auto: percent if any is above 1"
    ] = "auto",
    min_identity: Annotated[float, "pairs of a smaller fraction of identical residues (0 to 1) are left out"] = 0.0,
    max_evalue: Annotated[float | None, "pairs of a larger E-value are left out"] = None,
    dims: Annotated[int, "dimensions kept"] = 128,
) -> Built:
    """Factorise the matrix of sequence identities by truncated SVD."""
    if not 0 <= min_identity <= 1:
        raise InputError(f"min_identity is {min_identity:g}; it is a fraction, 0 to 1.")
    table, unit = read_homology(edges, identity=identity)
    keep = (table["id"] > 0) & (table["id"] >= min_identity) & (table["a"] != table["b"])
    if max_evalue is not None:
        if table["evalue"].isna().any():
            raise InputError(f"{edges}: has no E-values; leave max_evalue out.")
        keep &= table["evalue"] <= max_evalue
    if not keep.any():
        raise InputError(f"{edges}: none of the {len(table)} pairs of homologs is left. Lower the demands.")
    ids, vectors = homology_vectors(table[keep], dims)
    lost = sorted({*table["a"], *table["b"]} - set(ids))
    note = f"identities were read as {unit}; {int(keep.sum())} of {len(table)} rows used"
    return Built(ids, vectors.astype(np.float32), left_out=dict.fromkeys(lost, "no homolog"), notes=(note,))


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 24, (2, 80))
    path = folder / "toy.tsv"
    rows = {"a": [f"GENE{k}" for k in a], "b": [f"GENE{k}" for k in b], "id": rng.uniform(0.3, 1, 80).round(3)}
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return {"edges": path, "dims": 4}


BUILDERS = (
    Builder(
        name="homology",
        modality="protein",
        description="truncated SVD of the matrix of sequence identities; ids without homolog have none",
        function=homology,
        example=_example,
        trained_on=(NONE,),
    ),
)
"""Records of this module."""

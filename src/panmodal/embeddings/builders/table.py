"""Vectors that somebody else computed, taken from a file as they are: the way to give them a card and the ids of a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from panmodal.embeddings.builders.base import Builder, Built


def table(
    *,
    vectors: Annotated[
        Path, "file with a vector for each id: h5ad (FILE.h5ad#KEY for obsm), parquet, csv, tsv, npz, pt"
    ],
    column: Annotated[str | None, "column of the ids in that file; detected unless given"] = None,
    allow_pickle: Annotated[bool, "open .pt and .pkl files, which can run code; only for files that you trust"] = False,
) -> Built:
    """Read vectors from a file; the card that the file brings is kept."""
    from panmodal.embeddings.reading import read_embedding

    read = read_embedding(vectors, id_col=column, allow_pickle=allow_pickle)
    said = read.card.model_dump(exclude={"name", "dims", "recipe", "notes"}, exclude_defaults=True)
    return Built(read.ids, read.vectors, card=said | {"notes": read.card.notes})


def _example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.embedding import Embedding

    names = ["TP53", "MYC", "BRCA1", "EGFR", "KRAS", "PTEN", "CDK4", "CDK6", "MTOR", "AKT1", "STAT3", "JAK2"]
    rng = np.random.default_rng(0)
    made = Embedding.from_dict({n: rng.normal(size=4).tolist() for n in names}, name="mine", trained_on=("none",))
    made.write(folder / "mine.csv")
    return {"vectors": folder / "mine.csv"}


BUILDERS = (
    Builder(
        name="table",
        modality="any",
        description="vectors from a file, as they are, with a card and the ids of your screen",
        function=table,
        example=_example,
    ),
)

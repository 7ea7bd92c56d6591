"""Embeddings made of other embeddings: ``concat``, ``pca-concat`` and ``mean``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.combine import Combined, Names, concat, mean, pca_concat
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.studies import NONE

Files = Annotated[tuple[Path, ...], "Embedding files to combine, two or more (FILE.h5ad#KEY takes obsm[KEY])"]
Standardise = Annotated[bool, "Z-score the columns of each embedding over its rows"]
Weight = Annotated[bool, "Scale each embedding to a total variance of 1, so that all weigh the same"]
Missing = Annotated[
    Literal["intersect", "zero", "mean"],
    "Ids that some embeddings lack: leave out, or fill with zeros or the embedding's mean",
]


def read_all(paths: Sequence[Path], ids: Sequence[str] | None, match_as: str) -> tuple[list[Embedding], Names | None]:
    """Read embeddings, and find which of their ids the wanted ids are (None if no ids are given).

    Raises
    ------
    InputError
        A file is given twice, or cannot be read.
    """
    from panmodal.identifiers import match_ids

    twice = sorted({str(p) for p in paths if list(paths).count(p) > 1})
    if twice:
        raise InputError(f"{twice[0]} is given twice; name each embedding once.")
    read = [Embedding.read(p) for p in paths]
    return read, None if ids is None else [match_ids(ids, e.ids, kind=match_as).pairs for e in read]


def shared_card(embeddings: Sequence[Embedding], how: str) -> dict[str, Any]:
    """Fields of the card of a combination: what its parts were trained on and come from is true of it too."""
    cards = [e.card for e in embeddings]

    def union(values: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(v for v in values if v and v != "unknown"))

    # "none" says that no screen was seen: true of the whole only if every part says so.
    seen = union([t for c in cards for t in c.trained_on])
    if any(c.trained_on != (NONE,) for c in cards):
        seen = [t for t in seen if t != NONE]
    spaces = union([c.id_namespace for c in cards])
    return {
        "modality": "+".join(union([c.modality for c in cards])) or "unknown",
        "description": f"{how} of {', '.join(c.name for c in cards)}",
        "source": "; ".join(union([c.source for c in cards])),
        "licence": "; ".join(union([c.licence for c in cards])),
        "id_namespace": spaces[0] if len(spaces) == 1 else "unknown",
        "trained_on": tuple(seen),
        "simulated": any(c.simulated for c in cards),
    }


def _built(made: Combined, embeddings: Sequence[Embedding], how: str) -> Built:
    silent = [e.name for e in embeddings if not e.card.trained_on]
    told = len(silent) < len(embeddings)
    notes = (*made.notes, f"not said what it was trained on: {some(silent)}") if silent and told else made.notes
    return Built(
        made.ids,
        made.vectors.astype(np.float32),
        left_out=made.left_out,
        notes=notes,
        card=shared_card(embeddings, how),
    )


def build_concat(*, embeddings: Files, standardise: Standardise = True, equal_weight: Weight = True, missing: Missing = "intersect",
                 ids: Sequence[str] | None = None,
                 match_as: str = "auto") -> Built:  # fmt: skip
    """Write vectors side by side; see :func:`panmodal.embeddings.combine.concat`."""
    read, names = read_all(embeddings, ids, match_as)
    made = concat(read, standardise=standardise, equal_weight=equal_weight, missing=missing, names=names)
    return _built(made, read, "concatenation")


def build_pca_concat(
    *, embeddings: Files, each: Annotated[int, "Principal components of each embedding, at most its rank"] = 64,
    final: Annotated[int | None, "Principal components of the result; all columns unless given"] = None,
    standardise: Standardise = True, equal_weight: Weight = True, missing: Missing = "intersect", ids: Sequence[str] | None = None,
    match_as: str = "auto",
) -> Built:  # fmt: skip
    """Write principal components side by side; see :func:`panmodal.embeddings.combine.pca_concat`."""
    read, names = read_all(embeddings, ids, match_as)
    made = pca_concat(
        read, each=each, final=final, standardise=standardise, equal_weight=equal_weight, missing=missing, names=names
    )
    return _built(made, read, f"concatenation of the first {each} principal components")


def build_mean(
    *, embeddings: Files, dims: Annotated[int | None, "Dimensions; the smallest rank of the embeddings unless given"] = None,
    align: Annotated[bool, "Rotate each embedding to their consensus; without it coordinates are averaged as they are"] = True,
    standardise: Standardise = True, equal_weight: Weight = True,
    missing: Annotated[Literal["intersect", "zero", "mean"],
                       "Ids that some embeddings lack: leave out, count as zeros, or average those that have them"] = "intersect",
    ids: Sequence[str] | None = None,
    match_as: str = "auto",
) -> Built:  # fmt: skip
    """Average vectors in a common space; see :func:`panmodal.embeddings.combine.mean`."""
    read, names = read_all(embeddings, ids, match_as)
    made = mean(
        read, dims=dims, align=align, standardise=standardise, equal_weight=equal_weight, missing=missing, names=names
    )
    return _built(made, read, "mean in a common space" if align else "mean")


def _example(folder: Path) -> dict[str, Any]:
    """Write two embeddings of overlapping ids."""
    from panmodal.embeddings.card import Card

    rng = np.random.default_rng(0)
    latent = rng.standard_normal((30, 3))
    names = [f"G{k:02d}" for k in range(30)]
    for name, modality, low, high, dims in (("left", "text", 0, 26, 6), ("right", "network", 4, 30, 5)):
        vectors = latent[low:high] @ rng.standard_normal((3, dims)) + 0.3 * rng.standard_normal((high - low, dims))
        Embedding(tuple(names[low:high]), vectors, Card(name=name, modality=modality)).write(folder / f"{name}.npz")
    return {"embeddings": (folder / "left.npz", folder / "right.npz")}


BUILDERS = (
    Builder(
        "concat", "fusion", "vectors of several embeddings side by side, each standardised and of equal weight", build_concat,
        _example,
    ),
    Builder(
        "pca-concat", "fusion", "the first principal components of several embeddings side by side", build_pca_concat, _example,
    ),
    Builder(
        "mean", "fusion", "mean of several embeddings after PCA and rotation to a common space", build_mean, _example,
        citation="Schoenemann 1966, Psychometrika 31:1 (orthogonal Procrustes rotation)",
    ),
)  # fmt: skip

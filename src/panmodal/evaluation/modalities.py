"""Vectors of several embeddings side by side for the same ids: what a fusion is fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.fusion.base import Modalities


def modalities_of(embeddings: Sequence[Embedding], ids: Sequence[str]) -> Modalities:
    """Lay out the vectors of several embeddings for the same ids, one row for each.

    Embeddings must have been aligned to the ids (:func:`panmodal.embeddings.align.align`); combinations without a vector of their
    own are composed from their parts, as each embedding says.

    Parameters
    ----------
    embeddings
        M embeddings with unique names.
    ids
        n perturbation ids, unique.

    Returns
    -------
    Modalities
        One matrix (n x dims, float64) for each embedding in the order given; rows of ids that it lacks are NaN.

    Raises
    ------
    InputError
        No embedding, two of one name, or repeated ids.
    """
    check_names(embeddings)
    ids = list(ids)
    if len(set(ids)) < len(ids):
        raise InputError(f"two ids are {some(i for i in dict.fromkeys(ids) if ids.count(i) > 1)}. Keep each once.")
    present = np.zeros((len(ids), len(embeddings)), bool)
    values = []
    for k, embedding in enumerate(embeddings):
        known = set(embedding.coverage(ids).covered)
        present[:, k] = [i in known for i in ids]
        rows = np.full((len(ids), embedding.dims), np.nan)
        rows[present[:, k]] = embedding.matrix([i for i in ids if i in known])
        values.append(rows)
    return Modalities(tuple(e.name for e in embeddings), tuple(values), present)


def check_names(embeddings: Sequence[Embedding]) -> None:
    """Refuse an empty list of embeddings, and two of one name."""
    names = [e.name for e in embeddings]
    if not names:
        raise InputError("no embedding to fuse; give at least one.")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"two embeddings are named {some(twice)}. Name them apart: --embedding NAME=FILE.")


def coverage_words(modalities: Modalities, ids: Sequence[str], what: str = "perturbations") -> list[str]:
    """Say how many ids have vectors in how many modalities, and which modality lacks which.

    Parameters
    ----------
    modalities
        n ids x M modalities.
    ids
        The n ids.
    what
        What the ids are, in the plural.

    Returns
    -------
    list of str
        One sentence on the numbers of modalities, then one for each modality that lacks something.
    """
    if len(ids) != len(modalities):
        raise InputError(f"{len(ids)} ids for {len(modalities)} rows of modalities.")
    n, m = modalities.present.shape
    if not n:
        return [f"There are no {what}."]
    every = "the one modality" if m == 1 else f"all {m} modalities"
    have = np.bincount(modalities.present.sum(axis=1), minlength=m + 1)
    counted = [f"{have[k]} in {every if k == m else k or 'none'}" for k in range(m, -1, -1) if have[k]]
    out = [f"{n} {what} with a vector: {', '.join(counted)}."]
    for name, own in zip(modalities.names, modalities.present.T, strict=True):
        lacking = [i for i, has in zip(ids, own, strict=True) if not has]
        if lacking:
            out.append(f"{name!r} lacks {len(lacking)} of {n}: {some(lacking, 4)}.")
    return out

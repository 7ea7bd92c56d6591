"""Embeddings that know nothing: ``random``, ``permuted`` and ``noise``; what a real one must beat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.controls import RANDOM_DIMS, noise_embedding, permuted_embedding, random_embedding
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError
from panmodal.studies import NONE

Seed = Annotated[int, "Seed of the draw"]


def build_random(
    *, dims: Annotated[int, "Dimensions"] = RANDOM_DIMS,
    like: Annotated[Path | None, "Embedding file whose ids get a vector, if no ids are given"] = None,
    seed: Seed = 0, ids: Sequence[str] | None = None,
) -> Built:  # fmt: skip
    """Draw independent standard normal vectors; they depend on the set of ids, the seed and the dims."""
    if dims < 1:
        raise InputError(f"--dims must be at least 1, not {dims}.")
    if ids is not None and like is not None:
        raise InputError("give the ids (--ids) or an embedding to take them from (--like), not both.")
    if like is not None:
        ids = Embedding.read(like).ids
    if ids is None:
        raise InputError(
            "random vectors need ids: give those of a screen with --ids, or an embedding to take them from with --like."
        )
    made = random_embedding(list(dict.fromkeys(ids)), _checked(seed), dims)
    return Built(
        made.ids, made.vectors.astype(np.float32), card={"description": made.card.description, "trained_on": (NONE,)}
    )


def build_permuted(
    *,
    embedding: Annotated[Path, "Embedding file"],
    seed: Seed = 0,
    ids: Sequence[str] | None = None,
    match_as: str = "auto",
) -> Built:
    """Deal the vectors of an embedding to the wrong ids, among the wanted ids that it covers (all its ids if none are given).

    Combinations of the wanted ids are composed first and have rows of their own, as in the control that a run makes itself.
    """
    read = Embedding.read(embedding)
    if ids is not None:
        from panmodal.embeddings.align import align

        read, _ = align(read, ids, match_as)
        if not read.coverage(ids).covered:
            raise InputError(
                f"{embedding}: none of the {len(ids)} wanted ids has a vector, so there is nothing to permute."
            )
    made = permuted_embedding(read, ids if ids is not None else read.ids, _checked(seed))
    return Built(made.ids, made.vectors, card=_card(made) | {"modality": "control"})


def build_noise(
    *, embedding: Annotated[Path, "Embedding file whose ids, dimensions and distribution the noise has"],
    correlated: Annotated[bool, "Same covariance; otherwise the mean and deviation of each dimension only"] = True, seed: Seed = 0,
) -> Built:  # fmt: skip
    """Draw Gaussian noise with the moments of an embedding; see :func:`panmodal.embeddings.controls.noise_embedding`."""
    made = noise_embedding(Embedding.read(embedding), _checked(seed), correlated=correlated)
    return Built(made.ids, made.vectors.astype(np.float32), card=_card(made))


def _checked(seed: int) -> int:
    if seed < 0:
        raise InputError(f"--seed must not be negative, but is {seed}.")
    return seed


def _card(made: Embedding) -> dict[str, Any]:
    """Fields of the card that stay true of a control: its vectors or moments are those of the embedding."""
    kept = ("description", "modality", "source", "licence", "trained_on", "simulated")
    return {name: value for name in kept if (value := getattr(made.card, name))}


def _example(folder: Path) -> dict[str, Any]:
    """Write an embedding of 20 ids."""
    from panmodal.embeddings.card import Card

    vectors = np.random.default_rng(0).standard_normal((20, 6)) @ np.diag([5, 3, 1, 1, 1, 0.5])
    Embedding(tuple(f"G{k:02d}" for k in range(20)), vectors, Card(name="real")).write(folder / "real.npz")
    return {"embedding": folder / "real.npz"}


def _example_of_ids(folder: Path) -> dict[str, Any]:
    return {"like": _example(folder)["embedding"], "dims": 5}


BUILDERS = (
    Builder("random", "control", "independent standard normal vectors", build_random, _example_of_ids),
    Builder("permuted", "control", "vectors of an embedding under the wrong ids", build_permuted, _example),
    Builder("noise", "control", "Gaussian noise with the mean and covariance of an embedding", build_noise, _example),
)

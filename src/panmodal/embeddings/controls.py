"""Control embeddings, run beside the real ones: what no information, and all of it, would score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding

RANDOM = "random"
IDEALISED = "idealised"
PERMUTED_SUFFIX = " (permuted)"
RANDOM_DIMS = 100
"""Dimensions of the random embedding, as in the published benchmark."""


def random_embedding(ids: Sequence[str], seed: int, dims: int = RANDOM_DIMS) -> Embedding:
    """Independent standard normal vectors: no information, full coverage.

    A vector depends on the seed, the dims and the sorted set of ids, not on their order.
    """
    ordered = sorted(ids)
    rng = np.random.default_rng([seed, 0])
    card = Card(name=RANDOM, modality="control", description=f"independent normal vectors, seed {seed}")
    return Embedding(tuple(ordered), rng.standard_normal((len(ordered), dims)), card, combine="none")


def permuted_embedding(embedding: Embedding, ids: Sequence[str], seed: int) -> Embedding:
    """Deal the same vectors to the wrong ids: same coverage, distribution and dims, no information.

    Only the covered ids among ``ids`` are kept, so that the coverage of a screen stays the same.
    """
    covered = sorted(embedding.coverage(ids).covered)
    order = np.random.default_rng([seed, 1]).permutation(len(covered))
    card = embedding.card.model_copy(
        update={
            "name": embedding.name + PERMUTED_SUFFIX,
            "description": f"rows permuted, seed {seed}: {embedding.card.description}".rstrip(": "),
        }
    )
    return Embedding(tuple(covered), embedding.matrix(covered)[order], card, combine="none")


def idealised_embedding(ids: Sequence[str], responses: NDArray[np.floating], n_components: int = 100) -> Embedding:
    """PCA of the responses themselves, test rows included: an oracle, never ranked with the embeddings.

    Parameters
    ----------
    ids
        Perturbation ids, length n.
    responses
        Responses, n x read-outs.
    n_components
        Components kept, at most the rank.

    Notes
    -----
    The components keep their scale: unlike embeddings they are not standardised before the probe's own PCA, which only
    rotates them (to the principal axes of the training rows). Distances are those of the published baseline, which
    hands the components to the probe as they are.
    """
    from panmodal.probes.projection import principal_axes

    centred = np.asarray(responses, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    axes = principal_axes(centred, n_components)
    scores = centred @ axes
    if scores.shape[1] == 0:
        scores = np.zeros((len(ids), 1))
    card = Card(name=IDEALISED, modality="oracle", description="PCA of the responses themselves, test rows included")
    return Embedding(tuple(ids), scores, card, combine="none")

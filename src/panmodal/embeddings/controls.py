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
NOISE_SUFFIX = " (noise)"
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


def noise_embedding(embedding: Embedding, seed: int, *, correlated: bool = True) -> Embedding:
    """Gaussian noise with the mean and covariance of an embedding: same ids, dims and spectrum, no information.

    x = m + z diag(s) V' / sqrt(n - 1) with z standard normal and U diag(s) V' the SVD of the n centred vectors: the columns of x have
    the sample covariance of the embedding. If not ``correlated``, every column has its own mean and deviation (n - 1) only. A vector
    depends on the seed and the set of ids and vectors, not on the order of rows.
    """
    order = sorted(range(len(embedding.ids)), key=embedding.ids.__getitem__)
    vectors = embedding.vectors[order].astype(np.float64)
    n, dims = vectors.shape
    mean = vectors.mean(axis=0)
    rng = np.random.default_rng([seed, 2])
    if correlated:
        _, s, vt = np.linalg.svd(vectors - mean, full_matrices=False)
        peak = np.abs(vt).argmax(axis=1)
        vt *= np.where(vt[np.arange(len(vt)), peak] < 0, -1.0, 1.0)[:, None]
        drawn = mean + rng.standard_normal((n, len(s))) @ ((s / np.sqrt(max(1, n - 1)))[:, None] * vt)
    else:
        drawn = mean + rng.standard_normal((n, dims)) * (vectors.std(axis=0, ddof=1) if n > 1 else np.zeros(dims))
    what = "mean and covariance" if correlated else "means and deviations"
    card = embedding.card.model_copy(
        update={
            "name": embedding.name + NOISE_SUFFIX,
            "modality": "control",
            "description": f"Gaussian noise with the {what} of {embedding.name}, seed {seed}",
        }
    )
    return Embedding(tuple(embedding.ids[i] for i in order), drawn, card, combine=embedding.combine)


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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from panmodal.embeddings.card import Card
from panmodal.embeddings.controls import (
    IDEALISED,
    PERMUTED_SUFFIX,
    RANDOM,
    RANDOM_DIMS,
    idealised_embedding,
    permuted_embedding,
    random_embedding,
)
from panmodal.embeddings.embedding import Embedding

IDS = [f"G{k}" for k in range(30)]


def rows(vectors):
    return sorted(map(tuple, np.asarray(vectors, dtype=float).tolist()))


@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_random_vectors_do_not_depend_on_the_order_of_ids(random, seed):
    ids = random.sample(IDS, len(IDS))
    assert random_embedding(ids, seed).digest == random_embedding(IDS, seed).digest


def test_random_vectors_are_standard_normal_and_follow_the_seed():
    embedding = random_embedding([f"G{k}" for k in range(400)], seed=0)
    assert (embedding.name, embedding.dims, embedding.card.modality) == (RANDOM, RANDOM_DIMS, "control")
    assert abs(embedding.vectors.mean()) < 0.02
    assert abs(embedding.vectors.std() - 1) < 0.02
    assert embedding.digest != random_embedding(embedding.ids, seed=1).digest
    assert random_embedding(IDS, 0, dims=3).dims == 3


def test_random_covers_combinations_with_vectors_of_their_own():
    embedding = random_embedding(["A", "B", "A+B"], seed=0)
    assert embedding.coverage(["A+B"]).composed == ()
    assert embedding.combine == "none"


@given(st.integers(2, 12), st.integers(0, 20))
def test_permuted_keeps_the_multiset_of_vectors(n, seed):
    embedding = Embedding(tuple(IDS[:n]), np.random.default_rng(seed).standard_normal((n, 2)), Card(name="e"))
    permuted = permuted_embedding(embedding, IDS[:n], seed)
    assert rows(permuted.vectors) == rows(embedding.vectors)
    assert set(permuted.ids) == set(embedding.ids)


def test_permuted_moves_vectors_and_is_marked():
    embedding = Embedding(tuple(IDS), np.eye(30), Card(name="e", description="d", modality="text", source="s"))
    permuted = permuted_embedding(embedding, IDS, 0)
    assert (permuted.matrix(IDS) != embedding.matrix(IDS)).any(axis=1).mean() > 0.8
    assert permuted.name == "e" + PERMUTED_SUFFIX
    assert permuted.card.description == "rows permuted, seed 0: d"
    assert (permuted.card.modality, permuted.card.source) == ("text", "s")
    assert permuted.digest == permuted_embedding(embedding, IDS[::-1], 0).digest
    assert permuted.digest != permuted_embedding(embedding, IDS, 1).digest


def test_permuted_keeps_the_coverage_and_composes_first():
    embedding = Embedding(("A", "B", "unused"), np.array([[1.0], [2.0], [9.0]]), Card(name="e"))
    permuted = permuted_embedding(embedding, ["A", "A+B", "B", "missing"], 0)
    assert permuted.ids == ("A", "A+B", "B")
    assert rows(permuted.vectors) == [(1.0,), (2.0,), (3.0,)]
    assert permuted.card.description == "rows permuted, seed 0"


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_idealised_keeps_all_distances_at_full_rank(shape):
    responses = np.random.default_rng(0).standard_normal(shape)
    embedding = idealised_embedding(IDS[: shape[0]], responses)
    assert (embedding.name, embedding.card.modality, embedding.combine) == (IDEALISED, "oracle", "none")
    np.testing.assert_allclose(pdist(embedding.vectors), pdist(responses))
    np.testing.assert_allclose(embedding.vectors.mean(axis=0), 0, atol=1e-12)


def test_idealised_keeps_the_leading_components():
    responses = np.random.default_rng(0).standard_normal((20, 6)) * [9, 5, 1, 1, 1, 1]
    centred = responses - responses.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    embedding = idealised_embedding(IDS[:20], responses.astype(np.float32), n_components=2)
    np.testing.assert_allclose(np.abs(embedding.vectors), np.abs(u[:, :2] * s[:2]), rtol=1e-4, atol=1e-4)


def test_idealised_of_equal_responses_says_nothing():
    np.testing.assert_array_equal(idealised_embedding(IDS, np.ones((30, 4))).vectors, np.zeros((30, 1)))

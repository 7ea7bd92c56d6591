import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import Card, Embedding
from panmodal.embeddings.builders.controls import build_noise, build_permuted, build_random
from panmodal.embeddings.controls import noise_embedding, permuted_embedding, random_embedding
from panmodal.embeddings.embed import make_embedding, regenerate

IDS = tuple(f"G{k:02d}" for k in range(30))


def rows(vectors):
    return sorted(map(tuple, np.asarray(vectors, dtype=float).tolist()))


@pytest.fixture
def real(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((30, 4)) * [5, 2, 1, 0.5] + 3
    card = Card(name="real", modality="text", trained_on=("x",), licence="CC0", simulated=True)
    embedding = Embedding(IDS, vectors, card)
    embedding.write(tmp_path / "real.npz")
    return tmp_path / "real.npz"


# Random


def test_random_is_that_of_a_run(real):
    made = make_embedding("random", ids=["A", "B", "A+B"], seed=3, dims=7)
    assert made.embedding.ids == ("A", "B", "A+B")
    expected = random_embedding(["A", "B", "A+B"], 3, 7)
    np.testing.assert_array_equal(made.embedding.matrix(expected.ids), expected.vectors.astype(np.float32))
    assert made.embedding.card.modality == "control"
    assert made.embedding.card.description == "independent normal vectors, seed 3"
    assert regenerate(made.embedding).embedding.digest == made.embedding.digest


def test_random_may_take_the_ids_of_an_embedding(real):
    built = build_random(like=real, dims=3, seed=1)
    np.testing.assert_array_equal(built.vectors, random_embedding(IDS, 1, 3).vectors.astype(np.float32))


def test_random_needs_ids(real, refuses):
    refuses(["--ids", "--like"], build_random)
    refuses(["not both"], build_random, ids=["A"], like=real)
    refuses(["--dims must be at least 1"], build_random, ids=["A"], dims=0)
    refuses(["--seed must not be negative"], build_random, ids=["A"], seed=-1)


# Permuted


def test_permuted_is_that_of_a_run(real):
    wanted = ["G03", "G01+G02", "absent", "G20", "G07"]
    made = make_embedding("permuted", ids=wanted, embedding=real, seed=2)
    embedding = Embedding.read(real)
    expected = permuted_embedding(embedding, wanted, 2)
    assert set(made.embedding.ids) == {"G03", "G01+G02", "G20", "G07"}
    np.testing.assert_array_equal(made.embedding.matrix(expected.ids), expected.vectors)
    assert rows(made.embedding.vectors) == rows(embedding.matrix(["G03", "G01+G02", "G20", "G07"]))
    card = made.embedding.card
    assert (card.modality, card.trained_on, card.simulated) == ("control", ("x",), True)
    assert regenerate(made.embedding).embedding.digest == made.embedding.digest


@given(st.integers(2, 15), st.integers(0, 30))
def test_permuted_has_the_same_rows(tmp_path_factory, n, seed):
    path = tmp_path_factory.mktemp("e") / "e.npz"
    vectors = np.random.default_rng(seed).standard_normal((n, 2))
    Embedding(IDS[:n], vectors, Card(name="e")).write(path)
    built = build_permuted(embedding=path, seed=seed)
    assert set(built.ids) == set(IDS[:n])
    assert rows(built.vectors) == rows(vectors)


def test_permuted_matches_other_names(tmp_path):
    ids = ["ENSG00000141510", "ENSG00000136997", "ENSG00000133703"]
    Embedding(tuple(ids), np.arange(6.0).reshape(3, 2), Card(name="e")).write(tmp_path / "e.npz")
    made = make_embedding("permuted", ids=["TP53", "MYC"], embedding=tmp_path / "e.npz")
    assert set(made.embedding.ids) == {"TP53", "MYC"}
    assert rows(made.embedding.vectors) == [(0.0, 1.0), (2.0, 3.0)]


def test_permuted_needs_a_covered_id(real, refuses):
    refuses(["none of the 2 wanted ids has a vector"], build_permuted, embedding=real, ids=["X", "Y"])


# Noise


@given(st.integers(2, 12), st.integers(1, 15), st.integers(0, 30), st.booleans(), st.randoms(use_true_random=False))
def test_noise_has_ids_and_shape_and_no_order(n, dims, seed, correlated, random):
    vectors = np.random.default_rng(seed).standard_normal((n, dims))
    embedding = Embedding(IDS[:n], vectors, Card(name="e"))
    noise = noise_embedding(embedding, seed, correlated=correlated)
    assert set(noise.ids) == set(embedding.ids)
    assert noise.vectors.shape == (n, dims)
    order = random.sample(range(n), n)
    shuffled = Embedding(tuple(IDS[k] for k in order), vectors[order], Card(name="e"))
    assert noise_embedding(shuffled, seed, correlated=correlated).digest == noise.digest
    assert noise_embedding(embedding, seed + 1, correlated=correlated).digest != noise.digest


@pytest.mark.parametrize("correlated", [True, False])
def test_noise_has_the_moments(correlated):
    rng = np.random.default_rng(0)
    n = 20_000
    vectors = rng.exponential(1.0, (n, 3)) @ np.array([[3.0, 1, 0], [0, 2, 1], [0, 0, 0.5]]) + [7, 0, -2]
    noise = noise_embedding(Embedding(tuple(map(str, range(n))), vectors, Card(name="e")), 0, correlated=correlated)
    np.testing.assert_allclose(noise.vectors.mean(axis=0), vectors.mean(axis=0), atol=0.1)
    expected = np.cov(vectors.T) if correlated else np.diag(vectors.var(axis=0, ddof=1))
    np.testing.assert_allclose(np.cov(noise.vectors.T), expected, atol=0.2)
    assert abs(np.corrcoef(noise.matrix(tuple(map(str, range(n))))[:, 0], vectors[:, 0])[0, 1]) < 0.03


def test_noise_stays_in_the_span_of_few_vectors():
    vectors = np.random.default_rng(0).standard_normal((4, 9))
    noise = noise_embedding(Embedding(IDS[:4], vectors, Card(name="e")), 0).vectors
    assert np.linalg.matrix_rank(np.vstack([noise, vectors]) - vectors.mean(axis=0)) == 3
    one = Embedding(("A",), vectors[:1], Card(name="one"))
    for correlated in (True, False):
        np.testing.assert_array_equal(noise_embedding(one, 0, correlated=correlated).vectors, vectors[:1])


def test_noise_is_marked(real):
    made = make_embedding("noise", embedding=real, seed=4, ids=["G01", "G02"])
    card = made.embedding.card
    assert card.description == "Gaussian noise with the mean and covariance of real, seed 4"
    assert (card.modality, card.trained_on, card.licence) == ("control", ("x",), "CC0")
    assert regenerate(made.embedding).embedding.digest == made.embedding.digest
    whole = build_noise(embedding=real, seed=4)
    np.testing.assert_array_equal(made.embedding.matrix(["G01", "G02"]), whole.vectors[1:3])
    assert "means and deviations" in build_noise(embedding=real, correlated=False).card["description"]

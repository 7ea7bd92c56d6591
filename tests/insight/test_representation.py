"""Likeness of vectors: parity with scikit-learn and closed forms, invariances, and what chance gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from panmodal.insight.representation import (
    MEASURES,
    RSA_IDS,
    as_probes_see,
    canonical_correlations,
    cca,
    cca_components,
    cka,
    compare,
    distance_ranks,
    knn_overlap,
    nearest,
    rsa,
)


def pair(n=150, dims=(20, 25), shared=6, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, shared))
    return [common @ rng.standard_normal((shared, d)) + noise * rng.standard_normal((n, d)) for d in dims]


def rotated(z, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((z.shape[1], z.shape[1])))
    return 3.5 * z @ q + 7


# --- CCA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_cca_is_the_published_score(seed):
    """The published figure: StandardScaler, PCA of 10 components, scikit-learn's CCA.score."""
    x, y = pair(seed=seed)
    a, b = (PCA(10).fit_transform(StandardScaler().fit_transform(v)) for v in (x, y))
    theirs = CCA(n_components=10, max_iter=100_000, tol=1e-12).fit(a, b).score(a, b)
    scaled = [StandardScaler().fit_transform(v) for v in (x, y)]
    assert cca(*scaled).published == pytest.approx(theirs, abs=1e-6)
    assert cca(*(as_probes_see(v) for v in (x, y))).published == pytest.approx(theirs, abs=1e-6)


def test_cca_is_how_much_a_regression_explains():
    """Mean over the components of one of the R^2 of a linear regression on those of the other."""
    x, y = pair()
    a, b = (PCA(10).fit_transform(v) for v in (x, y))
    explained = LinearRegression().fit(a, b / b.std(axis=0)).score(a, b / b.std(axis=0))
    assert cca(x, y).value == pytest.approx(explained)


def test_canonical_correlations_are_those_of_scikit_learn():
    x, y = pair(n=80, dims=(4, 6), shared=3)
    u, v = CCA(n_components=4, max_iter=100_000, tol=1e-12).fit_transform(x, y)
    theirs = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(4)]
    np.testing.assert_allclose(canonical_correlations(x, y), sorted(theirs, reverse=True), atol=1e-6)
    assert cca(x, y, components=6).value == pytest.approx(np.mean(np.square(theirs)), abs=1e-6)


def test_what_cca_gives_by_chance_is_the_mean_over_permutations():
    x, y = pair(n=60, dims=(5, 9), shared=3)
    own = cca(x, y, components=9)
    rng = np.random.default_rng(0)
    null = [cca(x, y[rng.permutation(60)], components=9).value for _ in range(400)]
    assert own.expected == pytest.approx(9 / 59) == pytest.approx(np.mean(null), abs=0.01)
    n, p = 60, 9  # the adjusted R^2 of Ezekiel
    assert own.corrected == pytest.approx(1 - (1 - own.value) * (n - 1) / (n - p - 1))


def test_unrelated_vectors_share_nothing_after_correction():
    found = [
        compare(*pair(n=200, noise=1.0, shared=3, seed=k)[:1], pair(n=200, shared=3, seed=100 + k)[1], permutations=0)
        for k in range(8)
    ]
    for measure in MEASURES:
        assert abs(np.mean([f[measure].corrected for f in found])) < 0.03, measure
    assert abs(np.mean([f["cca"].held_out for f in found])) < 0.05
    x, y = np.random.default_rng(0).standard_normal((2, 40, 60))
    assert cka(x, y).value > 0.5 and abs(cka(x, y).corrected) < 0.1  # the biased one does not tell


def test_held_out_correlations_are_below_those_of_the_fit_but_there():
    x, y = pair(n=300, shared=6, noise=0.5)
    own = cca(x, y)
    assert 0.3 < own.held_out < np.sqrt(own.value) + 0.1


@pytest.mark.parametrize(("n", "keep"), [(20, 2), (99, 9), (100, 10), (5000, 10), (7, 1)])
def test_fewer_components_for_few_ids(n, keep):
    assert cca_components(n) == keep


# --- CKA -------------------------------------------------------------------------------------------------------------


def unbiased(k, el):
    """Song et al. 2012, eq. 5, as it is written."""
    n = len(k)
    k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
    one = np.ones(n)
    return (
        np.trace(k @ el) + (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ el @ one)
    ) / (n * (n - 3))


def test_cka_is_its_closed_form():
    x, y = pair(n=40, dims=(7, 11))
    h = np.eye(40) - 1 / 40
    k, el = h @ x @ x.T @ h, h @ y @ y.T @ h
    own = cka(x, y)
    assert own.value == pytest.approx(np.sum(k * el) / (np.linalg.norm(k) * np.linalg.norm(el)))
    k, el = x @ x.T, y @ y.T
    assert own.corrected == pytest.approx(unbiased(k, el) / np.sqrt(unbiased(k, k) * unbiased(el, el)))


def test_what_cka_gives_by_chance_is_the_mean_over_permutations():
    x, y = pair(n=50, dims=(7, 11))
    rng = np.random.default_rng(1)
    null = [cka(x, y[rng.permutation(50)]).value for _ in range(400)]
    assert cka(x, y).expected == pytest.approx(np.mean(null), rel=0.03)


# --- neighbours, distances -------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_scikit_learn_also_in_blocks():
    z = np.random.default_rng(0).standard_normal((1500, 6))
    theirs = NearestNeighbors(n_neighbors=8).fit(z).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest(z, 8), theirs)


def test_neighbours_in_common():
    x, y = pair(n=60)
    sets = [NearestNeighbors(n_neighbors=10).fit(v).kneighbors(return_distance=False) for v in (x, y)]
    own = knn_overlap(x, y)
    assert own.value == pytest.approx(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*sets, strict=True)]))
    assert own.expected == pytest.approx(10 / 59)
    assert own.corrected == pytest.approx((own.value - 10 / 59) / (1 - 10 / 59))


def test_rsa_is_spearman_of_distances():
    x, y = pair(n=50)
    assert rsa(x, y).value == pytest.approx(spearmanr(pdist(x), pdist(y)).statistic, abs=1e-5)
    ranks = distance_ranks(x)
    assert ranks.shape == (50, 50) and (np.diag(ranks) == 0).all() and (ranks == ranks.T).all()


# --- all together ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(20, 60))
def test_rotation_scale_and_order_of_ids_change_nothing(seed, n):
    x, y = pair(n=n, dims=(5, 6), shared=3, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    plain = compare(x, y, permutations=0)
    for other in (
        compare(rotated(x), y, permutations=0),
        compare(x[order], y[order], permutations=0),
        compare(y, x, permutations=0),
    ):
        for measure in MEASURES:
            assert other[measure].value == pytest.approx(plain[measure].value, abs=1e-4)


def test_the_same_representation_is_entirely_alike():
    x, _ = pair()
    for own in compare(x, rotated(x), permutations=19).values():
        assert own.value == pytest.approx(1, abs=1e-5) and own.corrected == pytest.approx(1, abs=1e-5)
        assert own.p == pytest.approx(1 / 20)


def test_permutation_tests_keep_their_level_and_find_what_is_there():
    rng = np.random.default_rng(0)
    null = [
        compare(rng.standard_normal((30, 4)), rng.standard_normal((30, 4)), permutations=19, seed=k) for k in range(100)
    ]
    for measure in MEASURES:
        assert np.mean([f[measure].p <= 0.05 for f in null]) < 0.13
    there = compare(*pair(n=60, noise=0.5), permutations=99)
    assert all(own.p == pytest.approx(0.01) for own in there.values())


def test_distances_of_many_ids_are_sampled_with_the_seed():
    x, y = pair(n=RSA_IDS + 100, dims=(5, 5))
    one, two = (compare(x, y, permutations=0, seed=s)["rsa"].value for s in (0, 1))
    assert one != two and one == pytest.approx(rsa(x, y).value, abs=0.05)
    assert one == compare(x, y, permutations=0, seed=0)["rsa"].value


def test_vectors_as_the_probes_see_them():
    x = np.random.default_rng(0).standard_normal((50, 200)) * np.arange(1, 201)
    z = as_probes_see(x)
    assert z.shape == (50, 39)  # floor(0.8 n) - 1
    np.testing.assert_allclose(np.abs(z), np.abs(PCA(39).fit_transform(StandardScaler().fit_transform(x))), atol=1e-8)


def test_vectors_that_do_not_differ_are_undefined():
    flat, x = np.ones((30, 3)), pair(n=30)[0]
    assert np.isnan(cca(flat, x).value) and np.isnan(cka(flat, x).value) and np.isnan(rsa(flat, x).value)


def test_refusals(refuses):
    x = np.zeros((30, 2))
    refuses(["same number of rows", "(30, 2)", "(29, 2)"], compare, x, x[1:])
    refuses(["19 ids", "at least 20"], compare, x[:19], x[:19])
    refuses(["30 neighbours of 30 ids", "between 1 and 29"], knn_overlap, x, x, 30)

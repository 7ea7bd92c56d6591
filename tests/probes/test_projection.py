"""The projection against scikit-learn's StandardScaler and PCA."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from panmodal.probes.projection import Projection, n_components, principal_axes


@pytest.mark.parametrize(("n", "dims", "keep"), [(80, 10, 10), (80, 10, 4), (30, 200, 23), (50, 50, 39), (30, 3, 0)])
def test_scores_equal_those_of_scikit_learn_up_to_sign(n: int, dims: int, keep: int) -> None:
    rng = np.random.default_rng(n + dims)
    x = rng.standard_normal((n, dims)) @ rng.standard_normal((dims, dims))
    new = rng.standard_normal((7, dims))
    projection, z = Projection.fit(x, keep)
    assert z.shape == (n, keep)
    if keep == 0:
        return
    scaler = StandardScaler().fit(x)
    pca = PCA(keep, svd_solver="full").fit(scaler.transform(x))
    np.testing.assert_allclose(np.abs(z), np.abs(pca.transform(scaler.transform(x))), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        np.abs(projection.transform(new)), np.abs(pca.transform(scaler.transform(new))), rtol=1e-7, atol=1e-8
    )
    np.testing.assert_allclose(z, projection.transform(x), atol=1e-10)


def test_rank_deficient_tables_keep_their_rank_and_orthogonal_scores() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 40))
    _, z = Projection.fit(x, 30)
    assert z.shape[1] == 5
    gram = z.T @ z
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())


def test_axes_are_orthonormal_ordered_and_have_fixed_signs() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 90)) * np.logspace(0, -5, 90)
    x -= x.mean(axis=0)
    axes = principal_axes(x, 20)
    np.testing.assert_allclose(axes.T @ axes, np.eye(20), atol=1e-10)
    spread = ((x @ axes) ** 2).sum(axis=0)
    assert (np.diff(spread) <= 0).all()
    np.testing.assert_array_equal(principal_axes(x.copy(), 20), axes)
    peak = axes[np.abs(axes).argmax(axis=0), range(20)]
    assert (peak > 0).all()


def test_a_constant_table_has_no_axes() -> None:
    assert principal_axes(np.zeros((10, 4)), 3).shape == (4, 0)


@pytest.mark.parametrize(
    ("n", "dims", "kept"), [(1909, 2560, 100), (113, 2000, 89), (50, 8, 8), (10, 100, 7), (1, 5, 0)]
)
def test_the_number_of_components(n: int, dims: int, kept: int) -> None:
    assert n_components(n, dims) == kept

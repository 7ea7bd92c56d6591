"""Average ranks against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata, spearmanr

from panmodal.evaluation.ranks import average_ranks, rank_correlation


def test_ties_share_the_mean_of_their_ranks():
    values = np.array([[10.0, 30.0, 20.0], [1.0, 1.0, 0.0], [5.0, 5.0, 5.0]])
    expected = [[1.0, 3.0, 2.0], [2.5, 2.5, 1.0], [2.0, 2.0, 2.0]]
    np.testing.assert_array_equal(average_ranks(values), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distinct", [3, 10**6])
def test_same_as_scipy_with_and_without_ties(dtype, distinct):
    values = np.random.default_rng(0).integers(distinct, size=(20, 31)).astype(dtype)
    np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=1))


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-3, 3, width=16))
)
def test_same_as_scipy_on_any_matrix(values):
    np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=1))


def test_input_is_left_as_it_was():
    values = np.array([[3.0, 1.0, 1.0]])
    average_ranks(values)
    np.testing.assert_array_equal(values, [[3.0, 1.0, 1.0]])


@pytest.mark.parametrize("shape", [(0, 4), (3, 1)])
def test_degenerate_shapes(shape):
    np.testing.assert_array_equal(average_ranks(np.zeros(shape)), np.ones(shape))


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_rank_correlation_is_spearmans(distinct):
    a, b = np.random.default_rng(0).integers(distinct, size=(2, 15, 21)).astype(float)
    expected = [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, average_ranks(b)), expected, atol=1e-14)


def test_rank_correlation_of_a_constant_row_is_undefined():
    values, ranks = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    assert np.isnan(rank_correlation(values, ranks)).all()

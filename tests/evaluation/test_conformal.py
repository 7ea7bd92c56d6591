"""Conformal quantiles and CV+ intervals against their definitions, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.evaluation.conformal import allowed_beyond, conformal_quantile, cv_plus


def by_definition(scores, folds, centres, alpha, scales):
    """CV+ by sorting everything, as the paper writes it."""
    n = len(scores)
    values = scales[folds][:, :, None] * scores[:, None, :]
    upper = np.sort(centres[folds] + values, axis=0)
    lower = np.sort(centres[folds] - values, axis=0)
    high = int(np.ceil(np.round((1 - alpha) * (n + 1), 9)))
    low = int(np.floor(np.round(alpha * (n + 1), 9)))
    return lower[low - 1], upper[high - 1]


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(10, 40), st.sampled_from([0.1, 0.2, 0.25, 0.5]))
def test_cv_plus_is_its_definition(seed, k, n, alpha):
    rng = np.random.default_rng(seed)
    folds = rng.permutation(np.arange(n) % k)
    scores = np.abs(rng.standard_normal((n, 3))).round(int(rng.integers(0, 6)))  # ties too
    centres, scales = rng.standard_normal((k, 4, 3)), rng.uniform(0.5, 2.0, (k, 4))
    found = cv_plus(scores, folds, centres, alpha, scales)
    for ours, theirs in zip(found, by_definition(scores, folds, centres, alpha, scales), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.1, 5), st.floats(-5, 5))
def test_intervals_have_no_unit_and_no_origin(seed, scale, shift):
    rng = np.random.default_rng(seed)
    folds = np.arange(30) % 5
    scores, centres = np.abs(rng.standard_normal((30, 2))), rng.standard_normal((5, 3, 2))
    low, high = cv_plus(scores, folds, centres, 0.2)
    moved_low, moved_high = cv_plus(scale * scores, folds, scale * centres + shift, 0.2)
    np.testing.assert_allclose(moved_low, scale * low + shift, atol=1e-9)
    np.testing.assert_allclose(moved_high, scale * high + shift, atol=1e-9)
    wider = cv_plus(scores, folds, centres, 0.1)
    assert (wider[0] <= low).all()
    assert (wider[1] >= high).all()


def test_equal_models_give_the_conformal_quantile():
    rng = np.random.default_rng(0)
    scores, centre = np.abs(rng.standard_normal((50, 6))), rng.standard_normal((3, 6))
    low, high = cv_plus(scores, np.arange(50) % 5, np.tile(centre, (5, 1, 1)), 0.1)
    width = conformal_quantile(scores, 0.1)
    np.testing.assert_allclose(high, centre + width)
    np.testing.assert_allclose(low, centre - width)


def test_too_few_scores_bound_nothing():
    scores = np.ones((8, 2))
    assert allowed_beyond(8, 0.1) == 0
    assert allowed_beyond(9, 0.1) == 1
    assert allowed_beyond(29, 0.1) == 3  # 0.1 * 30 is a little more or less than 3 in binary
    assert np.isinf(conformal_quantile(scores, 0.1)).all()
    assert conformal_quantile(np.ones(8), 0.1) == np.inf
    low, high = cv_plus(scores, np.arange(8) % 2, np.zeros((2, 3, 2)), 0.1)
    assert (low == -np.inf).all()
    assert (high == np.inf).all()


def test_split_conformal_coverage_is_exact():
    """P(new <= quantile) = ceil((1 - alpha)(n + 1)) / (n + 1) for continuous scores."""
    rng = np.random.default_rng(1)
    scores, new = rng.exponential(size=(29, 40_000)), rng.exponential(size=40_000)
    assert np.mean(new <= conformal_quantile(scores, 0.1)) == pytest.approx(27 / 30, abs=0.006)


def test_wrong_input_is_refused(refuses):
    scores, folds, centres = np.ones((10, 2)), np.arange(10) % 2, np.zeros((2, 3, 2))
    for alpha in (0, 1, -0.1, 1.5):
        refuses(["alpha", "between 0 and 1"], cv_plus, scores, folds, centres, alpha)
        refuses(["alpha"], conformal_quantile, scores, alpha)
    refuses(["do not fit", "(10, 3)"], cv_plus, np.ones((10, 3)), folds, centres, 0.1)
    refuses(["do not fit"], cv_plus, scores, folds[:9], centres, 0.1)
    refuses(["do not fit"], cv_plus, scores, folds, centres[0], 0.1)
    refuses(["from 0", "3"], cv_plus, scores, np.full(10, 3), centres, 0.1)
    refuses(["0 or more"], cv_plus, -scores, folds, centres, 0.1)
    refuses(["more than 0"], cv_plus, scores, folds, centres, 0.1, np.zeros((2, 3)))

"""Metrics against scipy and scikit-learn, worked examples, undefined rows and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity, paired_euclidean_distances

from panmodal.errors import InputError
from panmodal.evaluation import metrics as table
from panmodal.evaluation.metrics import CONTINUOUS, Comparison, metrics_for, score_rows
from panmodal.evaluation.ranks import average_ranks

METRICS = {m.name: m for m in table.METRICS.values() if "lfc" in m.kinds}

DISTANCES = {
    "PDS_L1": lambda p, y: np.abs(p - y).sum(),
    "PDS_L2": lambda p, y: ((p - y) ** 2).sum(),
    "PDS_cosine": lambda p, y: 1 - p @ y / np.sqrt((p @ p) * (y @ y)) if p.any() and y.any() else 1.0,
}
ERRORS = ["L2", "MSE", "MAE"]
PLAIN = ["Pearson", "Spearman"]
CENTRED = ["Pearson_centred", "Spearman_centred"]


def draw(seed=0, m=12, t=25, ties=False):
    """Random predicted, true and train mean that single precision holds exactly, so that rounding makes no ties."""
    rng = np.random.default_rng(seed)
    low, high, unit = (-2, 3, 1) if ties else (-4000, 4000, 64)
    return (
        rng.integers(low, high, (m, t)) / unit,
        rng.integers(low, high, (m, t)) / unit,
        rng.integers(low, high, t) / unit,
    )


def score(name, predicted, true, mean=None):
    predicted, true = np.atleast_2d(predicted), np.atleast_2d(true)
    return METRICS[name].function(Comparison(predicted, true, np.zeros(true.shape[1]) if mean is None else mean))


# --- parity with other people's implementations ----------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("MSE", mean_squared_error),
        ("MAE", mean_absolute_error),
        ("L2", lambda p, y: paired_euclidean_distances([p], [y])[0]),
        ("cosine", lambda p, y: cosine_similarity([p], [y])[0, 0]),
        ("Pearson", lambda p, y: stats.pearsonr(p, y).statistic),
        ("Spearman", lambda p, y: stats.spearmanr(p, y).statistic),
    ],
)
def test_same_as_scipy_and_scikit_learn(name, other, ties):
    predicted, true, mean = draw(ties=ties)
    expected = [other(p, y) for p, y in zip(predicted, true, strict=True)]
    np.testing.assert_allclose(score(name, predicted, true, mean), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("name", "other"), [("Pearson_centred", stats.pearsonr), ("Spearman_centred", stats.spearmanr)]
)
def test_centred_correlations_are_those_of_the_deviations(name, other, ties):
    predicted, true, mean = draw(ties=ties)
    expected = [other(p - mean, y - mean).statistic for p, y in zip(predicted, true, strict=True)]
    np.testing.assert_allclose(score(name, predicted, true, mean), expected, rtol=1e-10, atol=1e-12)


def test_known_ranks_are_used_and_change_nothing():
    predicted, true, mean = draw(ties=True)
    ranks, centred = average_ranks(true).astype(np.float32), average_ranks(true - mean).astype(np.float32)
    known = Comparison(predicted, true, mean, ranks, centred)
    flipped = Comparison(predicted, true, mean, 26 - ranks, 26 - centred)
    for name in ("Spearman", "Spearman_centred"):
        plain = score(name, predicted, true, mean)
        np.testing.assert_allclose(METRICS[name].function(known), plain, rtol=1e-12)
        np.testing.assert_allclose(METRICS[name].function(flipped), -plain, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "predicted", "true", "mean", "expected"),
    [
        ("L2", [4, 6, 3], [1, 2, 3], None, 5),
        ("MSE", [4, 6, 3], [1, 2, 3], None, 25 / 3),
        ("MAE", [4, 6, 3], [1, 2, 3], None, 7 / 3),
        ("cosine", [3, 4], [4, 3], None, 24 / 25),
        ("Pearson", [1, 2, 3], [1, 3, 2], None, 0.5),
        ("Spearman", [1, 2, 9], [1, 3, 2], None, 0.5),
        ("Pearson_centred", [2, 4, 6], [2, 5, 5], [1, 2, 3], 0.5),  # deviations 1 2 3 and 1 3 2
        ("Spearman_centred", [2, 4, 12], [2, 5, 5], [1, 2, 3], 0.5),  # deviations 1 2 9 and 1 3 2
    ],
)
def test_worked_examples(name, predicted, true, mean, expected):
    assert score(name, predicted, true, mean) == pytest.approx([expected], abs=1e-14)


# --- perturbation discrimination -------------------------------------------------------------------------------------


def naive_discrimination(distance, predicted, true):
    values = []
    for i, p in enumerate(predicted):
        own, points = distance(p, true[i]), 0.0
        for j, y in enumerate(true):
            if j != i:
                other = distance(p, y)
                points += 0.5 if abs(other - own) < 1e-9 else float(other > own)
        values.append(points / (len(true) - 1))
    return values


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_discrimination_is_the_double_loop(name, ties):
    predicted, true, _ = draw(m=20, t=4, ties=ties)
    expected = naive_discrimination(DISTANCES[name], predicted, true)
    np.testing.assert_allclose(score(name, predicted, true), expected, rtol=1e-14)


def test_discrimination_worked_example():
    # Distances to the truths 0, 1, 10: (0.9, 0.1, 9.1), (1, 0, 9), (0.4, 0.6, 9.6); the own one is on the diagonal.
    assert score("PDS_L1", [[0.9], [1.0], [0.4]], [[0.0], [1.0], [10.0]]).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("name", DISTANCES)
def test_discrimination_counts_a_tie_as_one_half(name):
    true = [[1.0, 0.0], [0.0, 1.0]]
    assert score(name, [[1.0, 1.0], [1.0, 1.0]], true).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_that_differ_by_rounding_only_are_ties(name):
    rng = np.random.default_rng(0)
    row = rng.normal(size=200)
    true = np.stack([rng.permutation(row) for _ in range(9)])
    np.testing.assert_array_equal(score(name, np.ones((9, 200)), true), 0.5)


@pytest.mark.parametrize("constant", ["zero", "mean", "far"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", DISTANCES)
def test_constant_predictions_discriminate_at_chance(name, ties, constant):
    _, true, _ = draw(m=23, t=5, ties=ties)
    row = {"zero": np.zeros(5), "mean": true.mean(axis=0), "far": np.full(5, 1e4)}[constant]
    assert score(name, np.tile(row, (23, 1)), true).mean() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("name", DISTANCES)
def test_perfect_predictions_discriminate_perfectly(name):
    _, true, _ = draw()
    np.testing.assert_array_equal(score(name, true, true), 1.0)


@pytest.mark.parametrize("name", DISTANCES)
def test_discrimination_needs_two_test_responses(name):
    assert np.isnan(score(name, [[1.0, 2.0]], [[1.0, 2.0]])).tolist() == [True]


@pytest.mark.parametrize("name", DISTANCES)
def test_a_zero_prediction_or_truth_is_never_an_error(name):
    true = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
    np.testing.assert_allclose(
        score(name, np.zeros((3, 2)), true), naive_discrimination(DISTANCES[name], np.zeros((3, 2)), true)
    )


# --- undefined rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e7])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("swap", [False, True])
def test_correlation_with_a_constant_row_is_undefined_and_others_stand(name, swap, constant):
    rows = np.array([[constant] * 3, [1.0, 2.0, 3.0]], dtype=np.float32)
    other = np.array([[1.0, 3.0, 2.0]] * 2, dtype=np.float32)
    values = score(name, other, rows) if swap else score(name, rows, other)
    np.testing.assert_allclose(values, [np.nan, 0.5])


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_a_row_constant_up_to_rounding_is_undefined(name, swap):
    other, deviation = np.array([1.0, 3.0, 2.0]), np.array([0.0, 1.0, -1.0])
    flat, small = ((other, 0.1 + d) if swap else (0.1 + d, other) for d in (1e-9 * deviation, 1e-3 * deviation))
    assert np.isnan(score(name, *flat))[0] and np.isfinite(score(name, *small))[0]


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_predicting_the_train_mean_up_to_rounding_leaves_centred_metrics_undefined(name, size):
    rng = np.random.default_rng(0)
    mean, true = size * rng.normal(size=40), size * rng.normal(size=(2, 40))
    rounded = mean.astype(np.float32)
    assert (rounded != mean).any()
    values = score(name, np.stack([rounded, rounded + size * rng.normal(size=40)]), true, mean)
    assert np.isnan(values).tolist() == [True, False]


@pytest.mark.parametrize("name", CENTRED)
def test_a_constant_shift_of_the_train_mean_is_no_prediction(name):
    assert np.isnan(score(name, [2.0, 3.0, 4.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0]))[0]


def test_cosine_of_a_zero_row_is_undefined():
    np.testing.assert_array_equal(score("cosine", [[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [3.0, 0.0]]), [np.nan, 1.0])


def test_only_centred_metrics_have_a_no_skill_value():
    assert {m.name for m in METRICS.values() if m.no_skill is not None} == set(CENTRED)
    assert all(METRICS[name].no_skill == 0.0 for name in CENTRED)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 4), (5, 4)])
def test_values_are_finite_or_nan_for_any_size(name, size, shape):
    rng = np.random.default_rng(0)
    predicted, true, mean = (size * rng.normal(size=s) for s in (shape, shape, shape[1]))
    values = score(name, predicted.astype(np.float32), true.astype(np.float32), mean.astype(np.float32))
    assert values.shape == shape[:1] and not np.isinf(values).any()
    if name in ERRORS or (name == "cosine" and size > 0):
        assert np.isfinite(values).all()
    if name in PLAIN + CENTRED and (size == 0 or shape[1] == 1):
        assert np.isnan(values).all()


# --- invariances -----------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
whole = st.integers(-50, 50)


def whole_numbers(seed, m=5, t=7):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-9, 10, (m, t)).astype(float),
        rng.integers(-9, 10, (m, t)).astype(float),
        rng.integers(-9, 10, t),
    )


@given(seed=seeds, shift=st.lists(whole, min_size=7, max_size=7))
@pytest.mark.parametrize("name", [*ERRORS, *CENTRED, "PDS_L1", "PDS_L2"])
def test_shifting_everything_by_one_vector_changes_nothing(name, seed, shift):
    predicted, true, mean = whole_numbers(seed)
    shifted = score(name, predicted + shift, true + np.array(shift), mean + np.array(shift))
    np.testing.assert_allclose(shifted, score(name, predicted, true, mean), atol=1e-9)


@given(seed=seeds, scale=st.floats(0.01, 100), offset=whole)
@pytest.mark.parametrize("name", PLAIN)
def test_plain_correlations_ignore_scale_and_offset_of_the_prediction(name, seed, scale, offset):
    predicted, true, _ = whole_numbers(seed)
    np.testing.assert_allclose(score(name, scale * predicted + offset, true), score(name, predicted, true), atol=1e-9)


@given(seed=seeds, power=st.integers(-3, 3))
@pytest.mark.parametrize("name", CENTRED)
def test_centred_correlations_ignore_the_size_of_the_predicted_deviation(name, seed, power):
    predicted, true, mean = whole_numbers(seed)
    scaled = mean + 2.0**power * (predicted - mean)
    np.testing.assert_allclose(score(name, scaled, true, mean), score(name, predicted, true, mean), atol=1e-9)


@given(seed=seeds, power=st.integers(-6, 6))
def test_scaling_everything(seed, power):
    predicted, true, mean = whole_numbers(seed)
    scale = 2.0**power  # exact, so that ties stay ties
    before = score_rows(Comparison(predicted, true, mean), list(METRICS.values()))
    after = score_rows(Comparison(scale * predicted, scale * true, scale * mean), list(METRICS.values()))
    factors = {"L2": scale, "MAE": scale, "MSE": scale**2}
    for name, values in before.items():
        np.testing.assert_allclose(after[name], factors.get(name, 1.0) * values, rtol=1e-9, atol=1e-9, err_msg=name)


@given(seed=seeds)
def test_order_of_rows_and_read_outs_does_not_matter(seed):
    predicted, true, mean = whole_numbers(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(5), rng.permutation(7)
    before = score_rows(Comparison(predicted, true, mean), list(METRICS.values()))
    shuffled = Comparison(predicted[rows][:, columns], true[rows][:, columns], mean[columns])
    for name, values in score_rows(shuffled, list(METRICS.values())).items():
        np.testing.assert_allclose(values, before[name][rows], atol=1e-9, err_msg=name)


@given(seed=seeds)
def test_bounds_and_perfect_predictions(seed):
    predicted, true, mean = whole_numbers(seed)
    values = score_rows(Comparison(predicted, true, mean), list(METRICS.values()))
    perfect = score_rows(Comparison(true, true, mean), list(METRICS.values()))
    for name, metric in METRICS.items():
        low = 0.0 if name in (*ERRORS, *DISTANCES) else -1.0
        high = 1.0 if metric.higher_is_better else np.inf
        assert np.nanmin(values[name]) >= low and np.nanmax(values[name]) <= high, name
        if name not in DISTANCES:
            np.testing.assert_allclose(perfect[name], 1.0 if metric.higher_is_better else 0.0, atol=1e-12, err_msg=name)


# --- the table -------------------------------------------------------------------------------------------------------


def test_input_arrays_are_left_as_they_were():
    predicted, true, mean = draw()
    copies = predicted.copy(), true.copy(), mean.copy()
    score_rows(Comparison(predicted, true, mean), list(METRICS.values()))
    for before, after in zip(copies, (predicted, true, mean), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("true", "mean"), [((2, 4), (3,)), ((3, 3), (3,)), ((2, 3), (2,))])
def test_shapes_that_do_not_fit_are_refused(true, mean):
    with pytest.raises(InputError, match="do not fit"):
        Comparison(np.zeros((2, 3)), np.zeros(true), np.zeros(mean))


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_metrics_of_a_kind_are_all_or_the_named_ones_and_l2_is_primary(kind):
    assert [m.name for m in metrics_for(kind)] == list(METRICS)
    assert metrics_for(kind)[0].name == "L2"
    assert {m.name for m in metrics_for(kind, ["MAE", "L2"])} == {"MAE", "L2"}


def test_metrics_of_continuous_responses_do_not_serve_labels():
    assert not {m.name for m in metrics_for("deg")} & {m.name for m in metrics_for("lfc")}
    assert metrics_for("deg")[0].name == "F1"


def test_unknown_metric_is_named_with_what_there_is():
    with pytest.raises(InputError, match=r"no metric 'R2'; there are L2, MSE"):
        metrics_for("lfc", ["L2", "R2"])


@pytest.mark.parametrize("name", table.METRICS)
def test_every_metric_says_its_formula_in_one_line(name):
    assert len(table.METRICS[name].formula) > 20 and "\n" not in table.METRICS[name].formula

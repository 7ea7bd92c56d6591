"""Ranking scores of labels against scikit-learn, worked examples, undefined rows and invariances."""

import warnings
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, matthews_corrcoef, precision_score, roc_auc_score

from panmodal.evaluation import class_ranks
from panmodal.evaluation.class_ranks import (
    de_average_precision,
    direction_match,
    mcc,
    overlap_at_n,
    precision_at_n,
    ranking_scores,
)
from panmodal.probes.labels import CLASSES, decide

FROM_PROBABILITIES = [overlap_at_n, direction_match, de_average_precision]
FROM_LABELS = [precision_at_n, mcc]
DTYPES = [np.float32, np.float64]


def draw(seed=0, m=17, t=40, *, levels=6, dtype=np.float32, by_row=False):
    """Labels and probabilities in sixths or finer; some genes (or perturbations) lack classes or are constant."""
    rng = np.random.default_rng(seed)
    if by_row:
        true, lowered, raised = draw(seed, t, m, levels=levels, dtype=dtype)
        return true.T.copy(), lowered.T.copy(), raised.T.copy()
    true = rng.integers(-1, 2, (m, t))
    absent = rng.integers(-1, 2, t)
    true[:, ::3] = np.where(true == absent, 0, true)[:, ::3]
    true[:, 1::7] = absent[1::7]
    parts = rng.multinomial(levels, [1 / 3] * 3, size=(m, t)) / levels
    parts[:, 2::9] = parts[:1, 2::9]
    return true.astype(np.int8), parts[..., 0].astype(dtype), parts[..., 2].astype(dtype)


def exact(seed, m=7, t=9):
    """Labels and probabilities that sums and differences hold exactly."""
    return draw(seed, m, t, levels=8, dtype=np.float64)


def of_scikit_learn(score, label, values):
    """The score of one column or row, NaN where it is undefined."""
    of_class = label.any() and (score is average_precision_score or not label.all())
    return score(label, values) if of_class else np.nan


# --- one class against the rest, over perturbations ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 6, 10**6])
@pytest.mark.parametrize("m", [1, 2, 17, 150])
def test_ranking_scores_are_those_of_scikit_learn(m, levels, dtype):
    true, lowered, raised = draw(m=m, levels=levels, dtype=dtype)
    found = ranking_scores(true, lowered, raised)
    for values, score in zip(found, (roc_auc_score, average_precision_score), strict=True):
        expected = [
            [of_scikit_learn(score, y == label, s) for y, s in zip(true.T, scores.T, strict=True)]
            for label, scores in zip(CLASSES, (lowered, 1 - lowered - raised, raised), strict=True)
        ]
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3, 39, 40])
def test_genes_are_sorted_in_chunks(monkeypatch, rows):
    whole = ranking_scores(*draw())
    monkeypatch.setattr(class_ranks, "CHUNK", 17 * rows)
    np.testing.assert_array_equal(ranking_scores(*draw()), whole)


def test_ranking_worked_example():
    # Raised is true of the 1st and 3rd; of pairs (true, other) 0.9 > 0.3, 0.9 > 0.1, 0.3 = 0.3, 0.3 > 0.1.
    true = np.array([[1, 0, 1, 0]], np.int8).T
    auc, ap = ranking_scores(true, np.zeros((4, 1)), np.array([[0.9, 0.3, 0.3, 0.1]]).T)
    np.testing.assert_array_equal(auc[:, 0], [np.nan, 3.5 / 4, 3.5 / 4])
    np.testing.assert_allclose(ap[:, 0], [np.nan, 0.5 * 1 + 0.5 * 2 / 3, 0.5 * 1 + 0.5 * 2 / 3])


def test_genes_of_one_class_have_no_area_but_full_precision():
    auc, ap = ranking_scores(np.ones((3, 2), np.int8), *draw(m=3, t=2)[1:])
    assert np.isnan(auc).all()
    np.testing.assert_array_equal(ap, [[np.nan] * 2, [np.nan] * 2, [1.0] * 2])


def test_constant_scores_are_chance():
    true = draw()[0]
    auc, ap = ranking_scores(true, np.full(true.shape, 0.2), np.full(true.shape, 0.3))
    share = np.array([(true == label).mean(axis=0) for label in CLASSES])
    np.testing.assert_array_equal(auc, np.where((share > 0) & (share < 1), 0.5, np.nan))
    np.testing.assert_allclose(ap, np.where(share > 0, share, np.nan))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_without_perturbations_or_genes(shape):
    true, values = np.zeros(shape, np.int8), np.zeros(shape)
    for scores in ranking_scores(true, values, values):
        assert scores.shape == (3, shape[1]) and np.isnan(scores).all()
    for function in FROM_PROBABILITIES:
        assert function(true, values, values).shape == shape[:1] and np.isnan(function(true, values, values)).all()
    for function in FROM_LABELS:
        assert function(true, true).shape == shape[:1] and np.isnan(function(true, true)).all()


# --- over genes, for each perturbation -------------------------------------------------------------------------------


def naive_overlap(true, scores):
    """Mean over all orders of the genes of the share of DEGs among the first N of a stable descending sort."""
    n, shares = np.count_nonzero(true), []
    for order in map(list, permutations(range(len(true)))):
        top = np.argsort(-scores[order], kind="stable")[:n]
        shares.append(np.count_nonzero(true[order][top]) / n)
    return np.mean(shares)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_overlap_is_the_mean_over_all_orders_of_genes(levels, dtype):
    true, lowered, raised = draw(m=20, t=6, levels=levels, dtype=dtype, by_row=True)
    expected = [
        naive_overlap(y, s) if y.any() else np.nan for y, s in zip(true, (lowered + raised).astype(float), strict=True)
    ]
    np.testing.assert_allclose(overlap_at_n(true, lowered, raised), expected, rtol=1e-12)
    assert np.isfinite(expected).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [1, 2, 40, 300])
def test_scores_over_genes_are_those_of_scikit_learn(t, dtype):
    true, lowered, raised = draw(m=30, t=t, dtype=dtype, by_row=True)
    predicted = decide(lowered, raised)
    predicted[3::8] = predicted[3::8, :1]
    de = lowered + raised
    rows = list(zip(true, predicted, de, strict=True))
    np.testing.assert_allclose(
        de_average_precision(true, lowered, raised),
        [of_scikit_learn(average_precision_score, y != 0, s) for y, _, s in rows],
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        precision_at_n(true, predicted),
        [precision_score(y != 0, p != 0) if p.any() else np.nan for y, p, _ in rows],
        rtol=1e-12,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single label
        expected = [
            matthews_corrcoef(y, p) if np.ptp(y) and np.ptp(p) else np.nan  # undefined there, 0 in scikit-learn
            for y, p, _ in rows
        ]
    np.testing.assert_allclose(mcc(true, predicted), expected, rtol=1e-12, atol=1e-14)


def test_worked_examples_over_genes():
    true = np.array([[-1, 1, 1, 0, 0]], np.int8)
    lowered = np.array([[0.5, 0.25, 0.125, 0.25, 0.0]])
    raised = np.array([[0.25, 0.25, 0.25, 0.25, 0.375]])
    # Being DE: 0.75, 0.5, 0.375, 0.5, 0.375: three places, two of them for 0.75 and the one DEG of the two at 0.5.
    assert overlap_at_n(true, lowered, raised).tolist() == [2 / 3]
    assert direction_match(true, lowered, raised).tolist() == [2.5 / 3]
    assert de_average_precision(true, lowered, raised) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    assert precision_at_n(true, np.array([[1, 0, 1, 1, 0]])).tolist() == [2 / 3]


def test_places_left_are_shared_by_the_genes_tied():
    true, zeros = np.array([[1, -1, 0, 0, 0]]), np.zeros((1, 5))
    assert overlap_at_n(true, zeros, zeros).tolist() == [2 / 5]
    assert overlap_at_n(true, np.array([[0.0, 0, 0.5, 0, 0]]), zeros).tolist() == [(1 / 4) * 2 / 2]


def test_direction_counts_true_degs_only_and_equals_one_half():
    true = np.array([[1, -1, 0], [0, 0, 0], [1, -1, 0]])
    up, down = np.array([[0.6, 0.6, 0.6], [0.6, 0.6, 0.6], [0.2, 0.2, 0.9]]), np.full((3, 3), 0.2)
    np.testing.assert_array_equal(direction_match(true, down, up), [0.5, np.nan, 0.5])
    np.testing.assert_array_equal(direction_match(true, up, down), [0.5, np.nan, 0.5])
    np.testing.assert_array_equal(direction_match(np.abs(true), down, up), [1.0, np.nan, 0.5])


def test_values_are_undefined_without_degs_or_with_one_class():
    none, every = np.zeros((1, 4), np.int8), np.array([[1, -1, 1, 1]], np.int8)
    _, lowered, raised = draw(m=1, t=4)
    for function in FROM_PROBABILITIES:
        assert np.isnan(function(none, lowered, raised)).all()
    assert de_average_precision(every, lowered, raised).tolist() == [1.0]
    assert overlap_at_n(every, lowered, raised).tolist() == [1.0]
    assert np.isnan(precision_at_n(every, none)).all() and precision_at_n(none, every).tolist() == [0.0]
    assert np.isnan(mcc(none, every)).all() and np.isnan(mcc(every, none)).all() and np.isnan(mcc(none, none)).all()


def test_correlation_of_many_genes_does_not_overflow():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(-1, 2, (2, 1, 300_000))
    assert mcc(true, predicted) == pytest.approx([matthews_corrcoef(true[0], predicted[0])], rel=1e-9)
    assert mcc(true, true).tolist() == [1.0]


# --- invariances -----------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds)
def test_order_of_perturbations_and_genes_does_not_matter(seed):
    true, lowered, raised = draw(seed, m=7, t=9)
    rng = np.random.default_rng(seed)
    rows, genes = rng.permutation(7), rng.permutation(9)
    mixed = [a[rows][:, genes] for a in (true, lowered, raised)]
    for before, after in zip(ranking_scores(true, lowered, raised), ranking_scores(*mixed), strict=True):
        np.testing.assert_array_equal(after, before[:, genes])
    for function in FROM_PROBABILITIES:
        np.testing.assert_array_equal(function(*mixed), function(true, lowered, raised)[rows])
    for function in FROM_LABELS:
        np.testing.assert_array_equal(
            function(mixed[0], decide(*mixed[1:])), function(true, decide(lowered, raised))[rows]
        )


@given(seed=seeds, power=st.integers(-4, 4))
def test_increasing_transforms_of_scores_change_nothing(seed, power):
    true, lowered, raised = exact(seed)
    plain, curved = ranking_scores(true, lowered, raised), ranking_scores(true, np.exp(lowered), raised**3 - 2)
    scaled = ranking_scores(true, lowered * 2.0**power, raised * 2.0**power)
    for before, bent, larger in zip(plain, curved, scaled, strict=True):
        np.testing.assert_array_equal(bent[[0, 2]], before[[0, 2]])
        np.testing.assert_array_equal(larger, before)  # all three classes: exact, so that equal stays equal
    for function in FROM_PROBABILITIES:
        np.testing.assert_array_equal(
            function(true, lowered * 2.0**power, raised * 2.0**power), function(true, lowered, raised)
        )
    np.testing.assert_array_equal(
        direction_match(true, np.exp(lowered), np.exp(raised)), direction_match(true, lowered, raised)
    )


@given(seed=seeds)
def test_lowered_and_raised_are_treated_alike(seed):
    true, lowered, raised = exact(seed)
    for before, after in zip(
        ranking_scores(true, lowered, raised), ranking_scores(-true, raised, lowered), strict=True
    ):
        np.testing.assert_array_equal(after[::-1], before)
    for function in FROM_PROBABILITIES:
        np.testing.assert_array_equal(function(-true, raised, lowered), function(true, lowered, raised))
    predicted = decide(lowered, raised)
    for function in FROM_LABELS:
        np.testing.assert_array_equal(function(-true, -predicted), function(true, predicted))


@given(seed=seeds)
def test_reversing_scores_reverses_areas_and_directions(seed):
    true, lowered, raised = exact(seed)
    auc, _ = ranking_scores(true, lowered, raised)
    np.testing.assert_allclose(ranking_scores(true, -lowered, -raised)[0], 1 - auc, atol=1e-14)
    np.testing.assert_allclose(
        direction_match(true, raised, lowered), 1 - direction_match(true, lowered, raised), atol=1e-14
    )


@given(seed=seeds)
def test_bounds_and_perfect_predictions(seed):
    true, lowered, raised = draw(seed, m=7, t=9, by_row=True)
    sure = (true < 0).astype(np.float32), (true > 0).astype(np.float32)
    found = [*ranking_scores(true, lowered, raised), *(f(true, lowered, raised) for f in FROM_PROBABILITIES)]
    perfect = [*ranking_scores(true, *sure), *(f(true, *sure) for f in FROM_PROBABILITIES)]
    found += [f(true, decide(lowered, raised)) for f in FROM_LABELS]
    perfect += [f(true, decide(*sure)) for f in FROM_LABELS]
    for values, best in zip(found, perfect, strict=True):
        inside = values[np.isfinite(values)]
        assert ((inside >= (-1 if values is found[-1] else 0)) & (inside <= 1)).all()
        assert (best[np.isfinite(best)] == 1.0).all()


def test_input_arrays_are_left_as_they_were_and_may_be_views():
    arrays = draw()
    copies = [a.copy() for a in arrays]
    plain = [ranking_scores(*arrays), *(f(*arrays) for f in FROM_PROBABILITIES)]
    for before, after in zip(copies, arrays, strict=True):
        np.testing.assert_array_equal(before, after)
    views = [np.asfortranarray(np.repeat(a, 2, axis=1))[:, ::2] for a in arrays]
    for values, again in zip(plain, [ranking_scores(*views), *(f(*views) for f in FROM_PROBABILITIES)], strict=True):
        np.testing.assert_array_equal(values, again)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [ranking_scores, *FROM_PROBABILITIES])
def test_bad_probabilities_or_shapes_are_refused(function, refuses):
    true, lowered, raised = draw()
    refuses(["do not fit", "(17, 39)"], function, true[:, 1:], lowered, raised)
    refuses(["do not fit"], function, true, lowered[1:], raised)
    refuses(["do not fit"], function, true, lowered[1:], raised[1:])
    refuses(["both float32 or both float64"], function, true, lowered, raised.astype(np.float64))
    refuses(["labels are -1, 0 or 1"], function, true * 2, lowered, raised)
    refuses(["matrix of integers"], function, true.astype(float), lowered, raised)
    lowered[2, 3] = np.nan
    refuses(["lowered[2, 3] is nan"], function, true, lowered, raised)


@pytest.mark.parametrize("function", FROM_LABELS)
def test_bad_labels_are_refused(function, refuses):
    true, lowered, raised = draw()
    predicted = decide(lowered, raised)
    refuses(["do not fit"], function, true[1:], predicted)
    refuses(["labels are -1, 0 or 1"], function, true, predicted * 3)
    refuses(["matrix of integers"], function, true, lowered)

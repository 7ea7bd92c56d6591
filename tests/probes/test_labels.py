"""Scores of labels against scikit-learn and torchmetrics, worked examples, resampling weights and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from panmodal.probes.labels import (
    CLASSES,
    count,
    count_chunks,
    decide,
    f1,
    f1_nans_are_zeros,
    f1_of_classes,
    precision,
    recall,
)

MACRO = {"f1": (f1, f1_score), "precision": (precision, precision_score), "recall": (recall, recall_score)}
SCORES = [f1, precision, recall, f1_of_classes, f1_nans_are_zeros]


def draw(seed=0, m=13, t=40):
    """Labels of which some genes lack a class, or have one only, in the truth, the prediction or both."""
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(-1, 2, (2, m, t))
    for labels, start in ((true, 0), (predicted, 4)):
        absent = rng.integers(-1, 2, t)
        labels[:, start::3] = np.where(labels == absent, 0, labels)[:, start::3]
        labels[:, start::7] = absent[start::7]
    true[:, 5::11] = predicted[:, 5::11]
    return true.astype(np.int8), predicted.astype(np.int8)


def probabilities(seed=0, m=13, t=40, dtype=np.float32):
    """Probabilities with many ties between classes, exact and by rounding."""
    rng = np.random.default_rng(seed)
    thirds = rng.multinomial(6, [1 / 3] * 3, size=(m, t)) / 6
    return thirds[..., 0].astype(dtype), thirds[..., 2].astype(dtype)


# --- the predicted class ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lowered", "raised", "label"),
    [
        (0.5, 0.25, -1),
        (0.25, 0.25, 0),
        (0.25, 0.5, 1),
        (0.5, 0.0, -1),  # as probable as unchanged
        (0.0, 0.5, 0),
        (0.5, 0.5, -1),
        (0.0, 0.0, 0),
        (1.0, 0.0, -1),
        (0.0, 1.0, 1),
    ],
)
def test_most_probable_class_and_the_first_of_equals(lowered, raised, label):
    assert decide(np.array([[lowered]]), np.array([[raised]])).tolist() == [[label]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_the_argmax_in_the_dtype_of_the_probabilities(seed, dtype):
    lowered, raised = probabilities(seed, dtype=dtype)
    unchanged = 1 - lowered - raised
    assert unchanged.dtype == dtype and (lowered == raised).any()
    found = decide(lowered, raised)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, np.argmax([lowered, unchanged, raised], axis=0) - 1)


def test_decisions_of_no_perturbations():
    assert decide(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)


# --- parity with other people's implementations ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 13, 200])
@pytest.mark.parametrize("name", MACRO)
def test_same_as_scikit_learn_over_the_classes_present(name, m):
    ours, theirs = MACRO[name]
    true, predicted = draw(m=m)
    expected = [
        theirs(y, p, labels=np.unique(y), average="macro", zero_division=0)
        for y, p in zip(true.T, predicted.T, strict=True)
    ]
    np.testing.assert_allclose(ours(count(true, predicted)), expected, rtol=1e-12)


@pytest.mark.parametrize("m", [1, 13, 200])
def test_published_forms_of_f1_are_those_of_scikit_learn(m):
    true, predicted = draw(m=m)
    expected = np.array([
        f1_score(y, p, labels=CLASSES, average=None, zero_division=0) for y, p in zip(true.T, predicted.T, strict=True)
    ]).T  # fmt: skip
    counts = count(true, predicted)
    np.testing.assert_allclose(f1_nans_are_zeros(counts), expected.mean(axis=0), rtol=1e-12)
    expected[[[label not in y for y in true.T] for label in CLASSES]] = np.nan
    np.testing.assert_allclose(f1_of_classes(counts), expected, rtol=1e-12)
    np.testing.assert_allclose(f1(counts), np.nanmean(expected, axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [1, 13])
def test_same_as_torchmetrics_from_probabilities_with_ties(m, dtype):
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.functional import classification as other

    true, _ = draw(m=m)
    lowered, raised = probabilities(m=m, dtype=dtype)
    stacked = torch.from_numpy(np.stack([lowered, 1 - lowered - raised, raised], axis=1))
    labels = torch.from_numpy(true.astype(np.int64) + 1)
    counts = count(true, decide(lowered, raised))
    absent = np.array([[label not in y for y in true.T] for label in CLASSES])
    for name, (ours, _) in MACRO.items():
        theirs = getattr(other, f"multiclass_{name}" + "_score" * (name == "f1"))
        expected = np.stack([
            theirs(stacked[:, :, g], labels[:, g], num_classes=3, average=None).numpy() for g in range(true.shape[1])
        ], axis=1)  # fmt: skip
        if name == "f1":
            np.testing.assert_allclose(f1_nans_are_zeros(counts), expected.mean(axis=0), rtol=1e-6)
        expected[absent] = np.nan
        np.testing.assert_allclose(ours(counts), np.nanmean(expected, axis=0), rtol=1e-6)


def test_worked_example():
    # Truth - - 0 0 +, prediction - 0 0 + 0: hits 1 1 0, predicted 1 3 1, true 2 2 1.
    counts = count(np.array([[-1, -1, 0, 0, 1]]).T, np.array([[-1, 0, 0, 1, 0]]).T)
    assert [values[:, 0].tolist() for values in (counts.hits, counts.predicted, counts.true)] == [
        [1, 1, 0],
        [1, 3, 1],
        [2, 2, 1],
    ]
    assert recall(counts) == pytest.approx([(1 / 2 + 1 / 2 + 0) / 3])
    assert precision(counts) == pytest.approx([(1 + 1 / 3 + 0) / 3])
    assert f1(counts) == f1_nans_are_zeros(counts) == pytest.approx([(2 / 3 + 2 / 5 + 0) / 3])
    assert f1_of_classes(counts)[:, 0] == pytest.approx([2 / 3, 2 / 5, 0])


def test_a_class_that_is_absent_from_the_truth_is_left_out_or_counts_zero():
    counts = count(np.zeros((4, 1), np.int8), np.array([[0, 0, 0, 1]]).T)
    assert (precision(counts)[0], recall(counts)[0]) == (1, 0.75)
    assert f1(counts) == pytest.approx([6 / 7]) and f1_nans_are_zeros(counts) == pytest.approx([2 / 7])
    np.testing.assert_allclose(f1_of_classes(counts)[:, 0], [np.nan, 6 / 7, np.nan])


def test_without_perturbations_nothing_is_defined():
    counts = count(np.zeros((0, 3), np.int8), np.zeros((0, 3), np.int8))
    for score in (f1, precision, recall, f1_of_classes):
        assert np.isnan(score(counts)).all() and score(counts).shape[-1] == 3
    assert f1_nans_are_zeros(counts).tolist() == [0, 0, 0]


def test_without_genes_there_is_nothing():
    empty = np.zeros((5, 0), np.int8)
    assert f1(count(empty, empty)).shape == (0,)
    assert f1(count(empty, empty, np.ones((5, 2), np.float32))).shape == (0, 2)
    assert list(count_chunks(empty, empty)) == []


# --- weights ---------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, m=st.integers(1, 9))
def test_whole_weights_are_repeated_rows(seed, m):
    true, predicted = draw(seed, m=m, t=11)
    weights = np.random.default_rng(seed).integers(0, 4, (m, 5))
    counts = count(true, predicted, weights.astype(np.float32))
    for b, times in enumerate(weights.T):
        repeated = count(np.repeat(true, times, axis=0), np.repeat(predicted, times, axis=0))
        for name in ("hits", "predicted", "true"):
            np.testing.assert_array_equal(getattr(counts, name)[..., b], getattr(repeated, name))
        for score in SCORES:
            np.testing.assert_array_equal(score(counts)[..., b], score(repeated))


@given(seed=seeds, m=st.integers(1, 9))
def test_weights_of_one_are_no_weights(seed, m):
    true, predicted = draw(seed, m=m, t=11)
    weighted, plain = count(true, predicted, np.ones((m, 2), np.float32)), count(true, predicted)
    for score in SCORES:
        np.testing.assert_array_equal(score(weighted), np.stack([score(plain)] * 2, axis=-1))


@given(seed=seeds, m=st.integers(2, 9))
def test_rows_of_weight_zero_are_not_there(seed, m):
    true, predicted = draw(seed, m=m, t=11)
    rng = np.random.default_rng(seed)
    weights = (rng.random((m, 3)) * rng.integers(0, 2, (m, 3))).astype(np.float32)
    counts = count(true, predicted, weights)
    for b, weight in enumerate(weights.T):
        kept = weight > 0
        left = count(true[kept], predicted[kept], weight[kept, None])
        present = np.array([[label in gene for gene in true[kept].T] for label in CLASSES])
        np.testing.assert_array_equal(np.isnan(f1_of_classes(counts)[..., b]), ~present)
        for score in SCORES:
            np.testing.assert_array_equal(score(counts)[..., b], score(left)[..., 0])


@given(seed=seeds)
def test_any_weights_are_sums(seed):
    true, predicted = draw(seed, m=9, t=11)
    weights = np.random.default_rng(seed).random((9, 3), dtype=np.float32)
    counts = count(true, predicted, weights)
    for k, label in enumerate(CLASSES):
        for found, mask in (
            (counts.hits, (true == label) & (predicted == label)),
            (counts.predicted, predicted == label),
            (counts.true, true == label),
        ):
            np.testing.assert_allclose(found[k], mask.T @ weights.astype(np.float64), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 40, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_are_the_whole(weighted, size):
    true, predicted = draw()
    weights = np.random.default_rng(0).random((13, 3), dtype=np.float32) if weighted else None
    whole, covered = count(true, predicted, weights), []
    for genes, part in count_chunks(true, predicted, weights, size):
        covered += range(genes.start, genes.stop)
        for name in ("hits", "predicted", "true"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, genes])
    assert covered == list(range(40))


# --- invariances -----------------------------------------------------------------------------------------------------


@given(seed=seeds, m=st.integers(1, 9))
def test_order_of_perturbations_and_genes_does_not_matter(seed, m):
    true, predicted = draw(seed, m=m, t=11)
    rng = np.random.default_rng(seed)
    rows, genes = rng.permutation(m), rng.permutation(11)
    plain, shuffled = count(true, predicted), count(true[rows][:, genes], predicted[rows][:, genes])
    for score in SCORES:
        np.testing.assert_array_equal(score(shuffled), score(plain)[..., genes])


@given(seed=seeds, m=st.integers(1, 9))
def test_bounds_and_perfect_predictions(seed, m):
    true, predicted = draw(seed, m=m, t=11)
    weights = np.random.default_rng(seed).random((m, 2), dtype=np.float32)
    for w in (None, weights):
        counts, perfect = count(true, predicted, w), count(true, true, w)
        for score in SCORES:
            assert np.nanmin(score(counts)) >= 0 and np.nanmax(score(counts)) <= 1
        for score in (f1, precision, recall):
            np.testing.assert_array_equal(score(perfect), 1.0)
        assert np.nanmin(f1_of_classes(perfect)) == 1.0


@given(seed=seeds, m=st.integers(1, 9))
def test_swapping_truth_and_prediction_swaps_precision_and_recall_where_all_classes_are_there(seed, m):
    true, predicted = (np.concatenate([[[label] * 11 for label in CLASSES], a]) for a in draw(seed, m=m, t=11))
    forward, backward = count(true, predicted), count(predicted, true)
    np.testing.assert_array_equal(precision(forward), recall(backward))
    np.testing.assert_array_equal(f1(forward), f1(backward))
    np.testing.assert_array_equal(f1(forward), f1_nans_are_zeros(forward))


def test_input_arrays_are_left_as_they_were_and_may_be_views():
    true, predicted = draw()
    weights = np.random.default_rng(0).random((13, 6), dtype=np.float32)
    copies = true.copy(), predicted.copy(), weights.copy()
    f1_of_classes(count(true, predicted, weights))
    for before, after in zip(copies, (true, predicted, weights), strict=True):
        np.testing.assert_array_equal(before, after)
    apart = count(true[::-2, ::3], predicted[::-2, ::3], weights[::-2, ::2])
    together = count(true[::-2, ::3].copy(), predicted[::-2, ::3].copy(), weights[::-2, ::2].copy())
    np.testing.assert_array_equal(f1(apart), f1(together))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [2, -2, -128, 127])
def test_other_labels_are_refused(bad, refuses):
    true, predicted = draw()
    for place in (true, predicted):
        place[3, 4], kept = bad, place[3, 4]
        refuses(["labels are -1, 0 or 1", str(bad)], count, true, predicted)
        place[3, 4] = kept


@pytest.mark.parametrize("good", [np.int64, np.int32, np.int8])
def test_labels_of_other_integers_are_the_same(good):
    true, predicted = draw()
    np.testing.assert_array_equal(f1(count(true.astype(good), predicted.astype(good))), f1(count(true, predicted)))


def test_labels_that_would_wrap_around_are_refused(refuses):
    refuses(["labels are -1, 0 or 1", "257"], count, np.array([[257]]), np.array([[1]]))


@pytest.mark.parametrize("bad", [np.zeros(3, np.int8), np.zeros((2, 3)), np.zeros((2, 3, 1), np.int8)])
def test_labels_are_a_matrix_of_integers(bad, refuses):
    refuses(["matrix of integers", str(bad.shape)], count, bad, bad)


@pytest.mark.parametrize("function", [count, count_chunks])
def test_shapes_that_do_not_fit_are_refused(function, refuses):
    true, predicted = draw()
    refuses(["do not fit", "(13, 40)", "(13, 39)"], function, true, predicted[:, 1:])
    for shape in ((12, 2), (13,), (13, 2, 2)):
        refuses(["weights", "13 perturbations"], function, true, predicted, np.ones(shape, np.float32))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_refused(bad, refuses):
    true, predicted = draw()
    weights = np.ones((13, 2), np.float32)
    weights[5, 1] = bad
    refuses(["weight", "negative or not finite"], count, true, predicted, weights)


def test_chunks_without_genes_are_refused(refuses):
    refuses(["at least one gene", "0"], count_chunks, *draw(), None, 0)


def test_probabilities_that_do_not_fit_are_refused(refuses):
    lowered, raised = probabilities()
    refuses(["do not fit"], decide, lowered, raised[1:])
    refuses(["both float32 or both float64"], decide, lowered, raised.astype(np.float64))
    refuses(["both float32 or both float64"], decide, lowered[0], raised[0])
    refuses(["both float32 or both float64", "int64"], decide, np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_are_finite(bad, refuses):
    lowered, raised = probabilities()
    raised[3, 4] = bad
    refuses(["raised[3, 4]", str(bad)], decide, lowered, raised)

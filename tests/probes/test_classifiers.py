"""Probes of classes against their protocols written out naively, scikit-learn, and laws of their scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score

from panmodal import InputError, ProbeCV
from panmodal._digest import digest_json
from panmodal.probes import Design, get_probe, probes, select
from panmodal.probes.base import CLASSES, CONTINUOUS
from panmodal.probes.design import Fold, LabelTargets
from panmodal.probes.labels import balance, decide, one_minus_f1
from panmodal.probes.logistic import GRID
from panmodal.probes.softmax import fit_path

NAMES = [p.name for p in probes().values() if p.kinds == CLASSES]
LOGISTIC, KNN, RIDGE = (get_probe(name) for name in ("logistic", "knn_classifier", "ridge_classifier"))


def data(n=90, dims=8, t=12, m=15, seed=0):
    """Embeddings and labels that depend on them; the last four genes lack classes or have a single row of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + m, dims)) * rng.lognormal(size=dims)
    scores = x / x.std(axis=0) @ rng.standard_normal((dims, t)) + rng.standard_normal((n + m, t))
    low, high = np.quantile(scores, [0.15, 0.8], axis=0)
    labels = (scores > high).astype(np.int8) - (scores < low)
    labels[:, -4] = np.abs(labels[:, -4])
    labels[:, -3] = np.where(labels[:, -3] == 0, 1, labels[:, -3])
    labels[:, -2] = 0
    labels[3, -2] = 1
    labels[:, -1] = -1
    return x[:n], labels[:n], x[n:]


def trial(**options):
    x, labels, x_test = data(**options)
    return Design.build(x, x_test), LabelTargets(labels)


def argmax(scores):
    """Labels of largest probability from -1 and +1 side by side; the first of equals."""
    t = scores.shape[1] // 2
    lowered, raised = scores[:, :t], scores[:, t:]
    return np.argmax([lowered, 1 - lowered - raised, raised], axis=0) - 1


def mean_f1(true, predicted):
    """Mean over genes of scikit-learn's macro F1 over the classes present in the truth."""
    return np.mean([
        f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
        for y, p in zip(true.T, predicted.T, strict=True)
    ])  # fmt: skip


def inside(fold):
    """The fold as a final fit, whose targets are those of its training rows."""
    return Fold(fold.z_train, fold.z_test, np.arange(len(fold.train)), fold.test)


# --- what all of them keep to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_inner_errors_are_those_of_explicit_predictions(name):
    probe, (design, targets) = get_probe(name), trial()
    grid = probe.candidates(probe.grid, len(targets.labels))
    for fold in design.inner:
        found = probe.errors(fold, targets, grid)
        assert found.shape == (len(grid), 1)
        for k, value in enumerate(grid):
            scores = probe.predict(inside(fold), LabelTargets(targets.labels[fold.train]), value)
            expected = 1 - mean_f1(targets.labels[fold.test], argmax(scores))
            np.testing.assert_allclose(found[k, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_inner_test_rows_do_not_touch_the_fit(name):
    probe, (design, targets) = get_probe(name), trial()
    grid = probe.candidates(probe.grid, len(targets.labels))
    fold = design.inner[2]
    other = targets.labels.copy()
    other[fold.test] = -other[fold.test][::-1]
    found = probe.errors(fold, LabelTargets(other), grid)
    for k, value in enumerate(grid):
        scores = probe.predict(inside(fold), targets.part(fold.train), value)
        np.testing.assert_allclose(found[k, 0], 1 - mean_f1(other[fold.test], argmax(scores)), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_mean_error_is_chosen(name):
    probe, (design, targets) = get_probe(name), trial()
    chosen = select(probe, design, targets)
    assert chosen.candidates == probe.candidates(probe.grid, len(targets.labels))
    mean = np.mean([probe.errors(fold, targets, chosen.candidates)[:, 0] for fold in design.inner], axis=0)
    np.testing.assert_allclose(chosen.errors, mean, rtol=1e-12)
    assert chosen.value == chosen.candidates[int(np.argmin(mean))]


@pytest.mark.parametrize("name", NAMES)
def test_of_equal_candidates_the_first_is_chosen(name):
    probe, (design, targets) = get_probe(name), trial()
    chosen = select(probe, design, LabelTargets(np.ones_like(targets.labels)))
    assert chosen.value == chosen.candidates[0] and set(chosen.errors) == {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_probabilities_of_lowered_then_of_raised(name):
    probe, (design, targets) = get_probe(name), trial()
    value = probe.grid[1]
    scores = probe.predict(design.final, targets, value)
    t = targets.labels.shape[1]
    assert scores.shape == (15, 2 * t) and scores.dtype == np.float32
    assert scores.min() >= 0 and (scores[:, :t] + scores[:, t:]).max() <= 1 + 1e-6
    mirrored = probe.predict(design.final, LabelTargets(-targets.labels), value)
    np.testing.assert_allclose(mirrored, np.roll(scores, t, axis=1), atol=5e-3 if probe is LOGISTIC else 1e-5)
    absent = [c not in y for c in (-1, 1) for y in targets.labels.T]
    np.testing.assert_array_equal(scores[:, absent], 0.0)
    np.testing.assert_array_equal(scores[:, t - 1], 1.0)  # a gene of one class


@pytest.mark.parametrize("name", NAMES)
def test_test_rows_are_predicted_one_by_one(name):
    probe, (design, targets) = get_probe(name), trial()
    value = probe.grid[0]
    scores = probe.predict(design.final, targets, value)
    x, _, x_test = data()
    x_test[1:] *= 1e3
    other = probe.predict(Design.build(x, x_test).final, targets, value)
    np.testing.assert_allclose(other[0], scores[0], rtol=1e-5, atol=1e-7)
    none = probe.predict(Design.build(x, x_test[:0]).final, targets, value)
    assert none.shape == (0, scores.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_test_rows_only_is_never_predicted(name):
    probe, (design, targets) = get_probe(name), trial()
    fold = design.inner[0]
    labels = targets.labels.copy()
    labels[:, 0] = 0
    labels[fold.test, 0] = 1
    labels[fold.train[::3], 1] = 0
    labels[fold.train, 1] = np.abs(labels[fold.train, 1])
    labels[fold.test, 1] = -1
    one = LabelTargets(labels[:, :2])
    np.testing.assert_array_equal(probe.errors(fold, one, probe.grid[:1]), 1.0)
    scores = probe.predict(inside(fold), one.part(fold.train), probe.grid[0])
    np.testing.assert_array_equal(scores[:, [0, 1, 2]], 0.0)


# --- logistic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [*GRID, 10.0, 1e6])
def test_logistic_predicts_from_the_path_to_its_c(c):
    design, targets = trial()
    t = targets.labels.shape[1]
    path = [*(each for each in GRID if each < c), c]
    found = fit_path(design.final.z_train, targets.labels, [t / each for each in path])[-1]
    expected = np.concatenate(found.probabilities(design.final.z_test), axis=1)
    np.testing.assert_array_equal(LOGISTIC.predict(design.final, targets, c), expected)


def test_the_order_of_the_grid_does_not_matter_to_logistic():
    design, targets = trial()
    fold = design.inner[1]
    plain = LOGISTIC.errors(fold, targets, GRID)
    np.testing.assert_array_equal(LOGISTIC.errors(fold, targets, GRID[::-1]), plain[::-1])
    np.testing.assert_array_equal(LOGISTIC.errors(fold, targets, (GRID[0], *GRID)), plain[[0, 0, 1, 2, 3]])


@pytest.mark.parametrize("c", [30.0, 1e3, 1e5])
@pytest.mark.parametrize("kept", [1, 3, 6])
def test_the_penalty_is_the_number_of_genes_over_c(c, kept):
    design, targets = trial()
    t = targets.labels.shape[1]
    whole = LOGISTIC.predict(design.final, targets, c)
    part = LOGISTIC.predict(design.final, LabelTargets(targets.labels[:, :kept]), c * kept / t)
    np.testing.assert_allclose(part, np.concatenate([whole[:, :kept], whole[:, t : t + kept]], axis=1), atol=5e-3)
    other = LOGISTIC.predict(design.final, LabelTargets(targets.labels[:, :kept]), c)
    assert np.abs(other - part).max() > 0.02


def test_logistic_of_a_torch_device_and_of_threads_is_the_same():
    pytest.importorskip("torch")
    design, targets = trial()
    plain = LOGISTIC.predict(design.final, targets, 1e3)
    threads = LOGISTIC.predict(design.final, LabelTargets(targets.labels, threads=2), 1e3)
    np.testing.assert_array_equal(threads, plain)
    torch = LOGISTIC.predict(design.final, LabelTargets(targets.labels, device="cpu:0"), 1e3)
    np.testing.assert_allclose(torch, plain, atol=5e-3)
    assert LabelTargets(targets.labels, "cpu:0", 3).part(np.arange(4)).device == "cpu:0"


# --- nearest neighbours ----------------------------------------------------------------------------------------------


def naive_balance(shares, prior):
    """Shares of -1, 0, 1 over the roots of their shares in training, in sum one; absent classes at 0."""
    present = np.array(prior) > 0
    parts = np.where(present, np.maximum(shares, 0) / np.sqrt(np.where(present, prior, 1)), 0)
    return parts / parts.sum() if parts.sum() > 0 else np.array(prior)


def naive_knn(z, labels, z_test, k):
    """Shares of the k nearest, those at the k-th distance alike, and the prior as one more neighbour."""
    out = np.empty((len(z_test), 2 * labels.shape[1]))
    for i, row in enumerate(z_test):
        distance = np.round(((z - row) ** 2).sum(axis=1), 9)
        kth = np.sort(distance)[k - 1]
        closer, level = distance < kth, distance == kth
        weight = np.where(closer, 1.0, np.where(level, (k - closer.sum()) / level.sum(), 0.0))
        for g, y in enumerate(labels.T):
            prior = [np.mean(y == c) for c in (-1, 0, 1)]
            votes = [(weight[y == c].sum() + p) / (k + 1) for c, p in zip((-1, 0, 1), prior, strict=True)]
            out[i, [g, labels.shape[1] + g]] = naive_balance(votes, prior)[[0, 2]]
    return out


@pytest.mark.parametrize("k", [20, 40, 60])
def test_neighbours_vote_as_the_naive_ones(k):
    design, targets = trial()
    z, z_test = design.final.z_train, design.final.z_test
    found = KNN.predict(design.final, targets, k)
    np.testing.assert_allclose(found, naive_knn(z, targets.labels, z_test, k), atol=1e-6)


def test_tied_neighbours_share_alike_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(3)
    x = np.repeat(rng.integers(0, 3, size=(20, 4)).astype(float), 5, axis=0)
    labels, x_test = rng.integers(-1, 2, (100, 6)).astype(np.int8), rng.integers(0, 3, size=(12, 4)).astype(float)
    order = rng.permutation(100)
    design, shuffled = Design.build(x, x_test), Design.build(x[order], x_test)
    for k in (20, 23, 60):
        found = KNN.predict(design.final, LabelTargets(labels), k)
        expected = naive_knn(design.final.z_train, labels, design.final.z_test, k)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(KNN.predict(shuffled.final, LabelTargets(labels[order]), k), found, atol=1e-6)


def test_the_prior_decides_between_equal_votes():
    # Of the 20 nearest, 10 are 0 and 10 are +1; in all of training, +1 is the rarer, and so the more telling.
    x = np.concatenate([np.zeros(20), np.full(40, 100.0)])[:, None] + 1e-3 * np.arange(60)[:, None]
    labels = np.zeros((60, 1), np.int8)
    labels[:10] = 1
    design = Design.build(x, x[:1])
    assert decide(*np.split(KNN.predict(design.final, LabelTargets(labels), 20), 2, axis=1)).tolist() == [[1]]
    lowered, raised = KNN.predict(design.final, LabelTargets(labels), 20)[0]
    shares = np.array([(10 + 50 / 60) / 21, (10 + 10 / 60) / 21]) / np.sqrt([50 / 60, 10 / 60])
    assert lowered == 0 and raised == pytest.approx(shares[1] / shares.sum(), rel=1e-5)


# --- ridge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-2, 1.0, 1e2, 1e6])
def test_ridge_estimates_are_those_of_scikit_learn(alpha):
    design, targets = trial()
    z, z_test = design.final.z_train, design.final.z_test
    found = RIDGE.predict(design.final, targets, alpha)
    t = targets.labels.shape[1]
    for g, y in enumerate(targets.labels.T):
        onehot = (y[:, None] == np.array([-1, 0, 1])).astype(np.float64)
        shares = Ridge(alpha).fit(z, onehot).predict(z_test)
        expected = np.array([naive_balance(share, onehot.mean(axis=0)) for share in shares])
        np.testing.assert_allclose(found[:, [g, t + g]], expected[:, [0, 2]], atol=2e-5)


# --- balance ---------------------------------------------------------------------------------------------------------

shares = st.floats(-2, 2, width=32)
counts = st.tuples(*[st.integers(0, 50)] * 3).filter(lambda c: sum(c) > 0)


def balanced(lowered, raised, n):
    prior = (np.array([n[0], n[2]]) / sum(n)).astype(np.float32)
    out = balance(np.array([[lowered]], np.float32), np.array([[raised]], np.float32), prior)
    assert [a.dtype for a in out] == [np.float32] * 2 and [a.shape for a in out] == [(1, 1)] * 2
    return float(out[0][0, 0]), float(out[1][0, 0])


@given(shares, shares, counts)
def test_balanced_shares_are_the_naive_ones(lowered, raised, n):
    found = balanced(lowered, raised, n)
    unchanged = float(np.float32(1) - np.float32(lowered) - np.float32(raised))
    expected = naive_balance(np.array([lowered, unchanged, raised]), np.array(n) / sum(n))
    np.testing.assert_allclose(found, expected[[0, 2]], atol=1e-5)
    assert min(found) >= 0 and sum(found) <= 1 + 1e-6
    for share, of in zip(found, (n[0], n[2]), strict=True):
        assert of or share == 0
    if not n[1]:
        assert sum(found) == pytest.approx(1, abs=1e-6)


@given(shares, shares, shares, counts)
def test_a_larger_estimate_has_no_smaller_share(one, other, raised, n):
    small, large = (balanced(each, raised, n)[0] for each in sorted((one, other)))
    assert small <= large + 1e-6
    small, large = (balanced(raised, each, n)[1] for each in sorted((one, other)))
    assert small <= large + 1e-6


def test_balanced_shares_of_a_worked_example():
    # 0.2, 0.7, 0.1 over the roots of 0.04, 0.92, 0.04: 1, 0.7298, 0.5.
    found = balanced(0.2, 0.1, (4, 92, 4))
    total = 1 + 0.7 / np.sqrt(0.92) + 0.5
    assert found == pytest.approx((1 / total, 0.5 / total), rel=1e-5)


def test_where_all_estimates_fall_on_absent_classes_the_prior_is_the_answer():
    assert balanced(-0.2, -0.1, (30, 0, 10)) == pytest.approx((0.75, 0.25))
    assert balanced(0.0, 1.5, (30, 10, 0)) == pytest.approx((0.75, 0.0))
    assert balanced(1.0, 0.0, (0, 10, 30)) == pytest.approx((0.0, 0.75))
    assert balanced(1.0, 0.0, (0, 10, 0)) == (0.0, 0.0)
    # Negative estimates are none, not the prior, where another class is estimated.
    assert balanced(-0.2, -0.1, (30, 1, 10)) == (0.0, 0.0)


# --- as estimators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_most_probable_classes(name):
    x, labels, x_test = data()
    fitted = ProbeCV(name).fit(x, labels)
    predicted, p = fitted.predict(x_test), fitted.predict_proba(x_test)
    assert predicted.shape == (15, 12) and predicted.dtype == np.int8 and p.shape == (15, 3, 12)
    np.testing.assert_array_equal(predicted, p.argmax(axis=1) - 1)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(p[:, :, -1], [[1, 0, 0]] * 15)
    # Better than chance where there is something to learn.
    assert 1 - one_minus_f1(labels, *np.moveaxis(fitted.predict_proba(x)[:, [0, 2]], 1, 0)) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_not_negative(name):
    x, labels, x_test = data(t=40)
    assert ProbeCV(name).fit(x, labels).predict_proba(x_test).min() >= -1e-6


@pytest.mark.parametrize("name", NAMES)
def test_fits_are_deterministic_whatever_the_type_of_the_labels(name):
    x, labels, x_test = data(n=50, t=6)
    first = ProbeCV(name).fit(x, labels)
    for y in (labels, labels.astype(np.float64), labels.astype(np.float32), labels.astype(np.int64), labels.tolist()):
        again = ProbeCV(name).fit(x, y)
        assert again.selection_ == first.selection_
        np.testing.assert_array_equal(again.predict_proba(x_test), first.predict_proba(x_test))


@pytest.mark.parametrize("name", NAMES)
def test_other_labels_are_refused(name, refuses):
    x, labels, _ = data(n=30, t=6)
    for bad, says in ((0.5, ["learns the labels -1, 0, 1", "0.5"]), (2.0, ["learns the labels -1, 0, 1", "2"])):
        y = labels.astype(np.float64)
        y[4, 1] = bad
        refuses(says, ProbeCV(name).fit, x, y)
    y[4, 1] = np.nan
    refuses(["finite"], ProbeCV(name).fit, x, y)
    refuses(["same number of rows"], ProbeCV(name).fit, x, labels[1:])
    refuses(["too few"], ProbeCV(name).fit, x[:9], labels[:9])


@pytest.mark.parametrize("name", NAMES)
def test_vectors_that_are_nan_get_no_labels(name):
    x, labels, x_test = data(n=30, t=6)
    fitted = ProbeCV(name).fit(x, labels)
    x_test[2, 1] = np.nan
    with pytest.raises(InputError, match="finite"):
        fitted.predict(x_test)
    with pytest.raises(InputError, match="columns, as in fit"):
        fitted.predict(x_test[:, 1:])


@pytest.mark.parametrize("name", [p.name for p in probes().values() if p.kinds == CONTINUOUS])
def test_probes_of_numbers_have_no_probabilities(name, refuses):
    x, labels, x_test = data(n=30, t=6)
    fitted = ProbeCV(name).fit(x, labels + 0.5)
    refuses([name, "predicts numbers"], fitted.predict_proba, x_test)


def test_an_embedding_without_any_variation_knows_the_prior_only():
    _, labels, _ = data(n=40)
    for name in NAMES:
        p = ProbeCV(name).fit(np.ones((40, 3)), labels).predict_proba(np.ones((2, 3)))
        assert np.isfinite(p).all()
        np.testing.assert_array_equal(p[0], p[1])
        for g, y in enumerate(labels.T):
            assert set(np.flatnonzero(p[0, :, g] < 1e-6)) == {c + 1 for c in (-1, 0, 1) if c not in y}


# --- the registry ----------------------------------------------------------------------------------------------------


def test_the_probes_of_classes():
    assert NAMES == ["knn_classifier", "logistic", "ridge_classifier"]
    assert all(get_probe(name).kinds == ("deg",) for name in NAMES)
    assert all(p.kinds in (CLASSES, CONTINUOUS) for p in probes().values())


def test_identities_are_stable():
    expected = {
        "knn_classifier": {"name": "knn_classifier", "parameter": "k", "grid": [20, 40, 60, 80, 100], "rule": 1},
        "logistic": {"name": "logistic", "parameter": "C", "grid": [1.0, 1e3, 1e5, 1e7], "rule": 1},
        "ridge_classifier": {
            "name": "ridge_classifier",
            "parameter": "alpha",
            "grid": [10.0**e for e in range(-2, 7)],
            "rule": 1,
        },
    }
    assert {name: get_probe(name).identity() for name in NAMES} == expected
    assert digest_json(get_probe("logistic").identity()) == "bb995400e7a316f4565413a83f6ccd5b"

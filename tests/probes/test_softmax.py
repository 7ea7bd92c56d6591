"""Softmax regressions against independent optimisers, their certificates, invariances, backends and refusals."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from panmodal.probes import Design, get_probe, softmax
from panmodal.probes.design import LabelTargets
from panmodal.probes.softmax import BLOCK, TOLERANCE, check_device, fit_path, objective
from panmodal.probes.softmax_kernel import approximate, compiled_search
from panmodal.probes.softmax_ops import _evaluate, array_search

PENALTIES = (1e4, 1e2, 1.0, 0.1, 1e-3, 1e-5)
WORST = 1e-4
"""How far above the optimum an objective may be, as a share of it."""


# --- problems --------------------------------------------------------------------------------------------------------


def cut(z, t, share, rng):
    """Labels that depend on z; ``share`` of the rows of each gene are -1 and as many +1."""
    scores = z / z.std(axis=0) @ rng.standard_normal((z.shape[1], t)) + rng.standard_normal((len(z), t))
    low, high = np.quantile(scores, [share, 1 - share], axis=0)
    return ((scores > high).astype(np.int8) - (scores < low)).astype(np.int8)


def plain(n, r, t=5, share=0.25, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, r))
    return z, cut(z, t, share, rng)


def rare(n=100):
    """Three and two classes down to a single row."""
    z, _ = plain(n, 6, seed=1)
    labels = np.zeros((n, 6), np.int8)
    labels[0, :5], labels[1, :4] = 1, -1
    labels[5:9, 2:4] = 1
    labels[10:60, 3] = -1
    labels[10:60, 5] = 1
    return z, labels


def two(n=90):
    """Two classes, each pair of them."""
    z, labels = plain(n, 5, t=6, share=0.3, seed=2)
    labels[:, :2] = np.abs(labels[:, :2])
    labels[:, 2:4] = -np.abs(labels[:, 2:4])
    labels[:, 4:] = np.where(labels[:, 4:] == 0, 1, labels[:, 4:])
    return z, labels


def separable(n=80):
    z, _ = plain(n, 5, seed=3)
    return z, np.concatenate([np.sign(z[:, :2]), np.round(z[:, 2:]).clip(-1, 1)], axis=1).astype(np.int8)


def scales(n=100):
    z, labels = plain(n, 8, share=0.2, seed=4)
    return z * 10.0 ** np.linspace(-3, 3, 8), labels


def twins(n=100):
    """Every feature twice, and a constant one."""
    z, labels = plain(n, 4, share=0.2, seed=5)
    return np.concatenate([z, z, np.ones((n, 1))], axis=1), labels


def shifted(n=150):
    z, labels = plain(n, 6, share=0.1, seed=6)
    return z + 3, labels


def wide(n=30):
    return plain(n, 40, t=2, share=0.3, seed=7)


def lever(n=40):
    """A feature that is constant and large, so that weights can do the work of a bias, and classes of one row."""
    z = np.concatenate([np.random.default_rng(0).standard_normal((n, 10)), np.full((n, 1), 30.0)], axis=1)
    labels = np.zeros((n, 8), np.int8)
    labels[np.arange(8), np.arange(8)], labels[np.arange(8) + 1, np.arange(8)] = 1, -1
    return z, labels


def outlying(n=150):
    """Features of heavy tails, centred."""
    rng = np.random.default_rng(8)
    z = rng.standard_t(1.5, (n, 4))
    z -= z.mean(axis=0)
    return z, cut(z, 5, 0.2, rng)


PROBLEMS = {
    "one feature": plain(40, 1),
    "small": plain(60, 5),
    "many features": plain(120, 30),
    "middle": plain(300, 12),
    "rare": rare(),
    "two": two(),
    "separable": separable(),
    "scales": scales(),
    "twins": twins(),
    "shifted": shifted(),
    "wide": wide(),
    "outlying": outlying(),
}


def mixed(n=60, t=600, r=5, seed=9):
    """Many genes of three classes, two and one, in a random order."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, r))
    labels = np.concatenate([cut(z, t // 2, 0.2, rng), cut(z, t - t // 2, 0.05, rng)], axis=1)
    kind = rng.integers(0, 12, t)
    labels[:, kind == 0] = np.abs(labels[:, kind == 0])
    labels[:, kind == 1] = -np.abs(labels[:, kind == 1])
    for k, label in ((2, -1), (3, 0), (4, 1)):
        labels[:, kind == k] = label
    return z, labels


# --- other people's optimisers ---------------------------------------------------------------------------------------


def parts(y):
    """Classes of a gene, one-hot labels, and weights of the rows: equal for classes, equal within, in sum one."""
    classes = np.unique(y)
    onehot = (y[:, None] == classes).astype(np.float64)
    return classes, onehot, (onehot / onehot.sum(axis=0)).sum(axis=1) / len(classes)


def optimum(z, y, penalty):
    """Smallest objective of one gene, by a trust region with exact second derivatives; the last bias is held at 0."""
    classes, onehot, weight = parts(y)
    k, (n, r) = len(classes), z.shape
    extended = np.c_[z, np.ones(n)]
    free = np.array([c * (r + 1) + j for c in range(k) for j in range(r + 1)][:-1])

    def full(x):
        w = np.append(x, 0.0).reshape(k, r + 1)
        logits = extended @ w.T
        return w, logits - logsumexp(logits, axis=1)[:, None]

    def value(x):
        w, logs = full(x)
        slope = (weight[:, None] * (np.exp(logs) - onehot)).T @ extended
        slope[:, :r] += 2 * penalty * w[:, :r]
        return -weight @ (logs * onehot).sum(axis=1) + penalty * (w[:, :r] ** 2).sum(), slope.ravel()[:-1]

    def second(x):
        p = np.exp(full(x)[1])
        h = np.zeros((k, r + 1, k, r + 1))
        for a in range(k):
            for b in range(k):
                h[a, :, b, :] = extended.T @ (extended * (weight * p[:, a] * ((a == b) - p[:, b]))[:, None])
            h[a, range(r), a, range(r)] += 2 * penalty
        return h.reshape(k * (r + 1), -1)[np.ix_(free, free)]

    found = minimize(value, np.zeros(len(free)), jac=True, hess=second, method="trust-exact",
                     options={"gtol": 1e-10, "maxiter": 500})  # fmt: skip
    left = found.jac @ np.linalg.solve(second(found.x), found.jac) / 2
    assert left <= 1e-9 * found.fun, "the other optimiser has not converged"
    return found.fun


def optima(z, labels, penalty):
    return np.array([optimum(z, y, penalty) for y in labels.T])


@pytest.mark.parametrize("name", PROBLEMS)
def test_objectives_are_those_of_an_independent_optimiser(name):
    z, labels = PROBLEMS[name]
    for penalty, found in zip(PENALTIES, fit_path(z, labels, PENALTIES), strict=True):
        best = optima(z, labels, penalty)
        ours = objective(z, labels, found.weights, found.biases, penalty)
        assert found.n_unfinished == 0 and found.gaps.max() <= TOLERANCE
        np.testing.assert_array_less(ours, best * (1 + WORST))
        np.testing.assert_array_less(best * (1 - 1e-8), ours)


@pytest.mark.parametrize("penalty", [10.0, 0.1, 1e-3])
def test_objectives_and_predictions_are_those_of_scikit_learn(penalty):
    for name in ("small", "rare", "two", "separable"):
        z, labels = PROBLEMS[name]
        found = fit_path(z, labels, [penalty])[0]
        ours = objective(z, labels, found.weights, found.biases, penalty)
        lowered, raised = found.probabilities(z)
        for g, y in enumerate(labels.T):
            classes, _, weight = parts(y)
            # Two classes have one vector v of weights there, and |W|^2 = |v|^2 / 2 here.
            c = 1 / (2 * penalty) if len(classes) == 3 else 1 / penalty
            theirs = LogisticRegression(C=c, tol=1e-7, max_iter=10_000).fit(z, y, sample_weight=weight)
            w, b = theirs.coef_, theirs.intercept_
            if len(classes) == 2:
                w, b = np.stack([-w[0], w[0]]) / 2, np.array([-b[0], b[0]]) / 2
            weights, biases = np.zeros((1, 3, z.shape[1])), np.full((1, 3), -np.inf)
            weights[0, classes + 1], biases[0, classes + 1] = w, b
            assert ours[g] <= objective(z, y[:, None], weights, biases, penalty)[0] * (1 + WORST)
            p = dict(zip(classes, theirs.predict_proba(z).T, strict=True))
            for label, column in ((-1, lowered), (1, raised)):
                np.testing.assert_allclose(column[:, g], p.get(label, np.zeros(len(z))), atol=0.02)


def published(torch, z, labels, weights, biases, c):
    """The published objective: mean over genes of the weighted cross-entropy, and |W|^2 / C over the weights of all."""
    z, labels = torch.from_numpy(z), torch.from_numpy(labels.astype(np.int64) + 1)
    losses = []
    for g in range(labels.shape[1]):
        counts = torch.bincount(labels[:, g], minlength=3)
        weight = torch.where(counts > 0, len(z) / (3 * counts.double().clip(min=1)), 0)
        losses.append(torch.nn.functional.cross_entropy(z @ weights[g].T + biases[g], labels[:, g], weight=weight))
    return torch.stack(losses).mean() + (weights**2).sum() / c


@pytest.mark.parametrize("c", [1.0, 1e3, 1e5])
def test_the_mean_over_genes_is_the_published_objective_at_its_optimum(c):
    torch = pytest.importorskip("torch")
    z = PROBLEMS["small"][0][:, :3].copy()
    labels = np.concatenate([PROBLEMS["small"][1][:, :2], two(60)[1][:, [0, 4]], np.zeros((60, 1), np.int8)], axis=1)
    t = labels.shape[1]
    found = fit_path(z, labels, [t / c])[0]
    w, b = (torch.from_numpy(a.astype(np.float64)) for a in (found.weights, found.biases))
    ours = published(torch, z, labels, w, b, c)
    np.testing.assert_allclose(objective(z, labels, w, b, t / c).mean(), ours, rtol=1e-10)

    w, b = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((t, 3, 3), (t, 3)))
    solver = torch.optim.LBFGS([w, b], max_iter=200, max_eval=250, history_size=20, tolerance_grad=1e-7,
                               tolerance_change=1e-12, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        solver.zero_grad()
        loss = published(torch, z, labels, w, b, c)
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        theirs = published(torch, z, labels, w, b, c)
    # From below, too: a class that does not occur takes them an ever lower bias, which they reach only in part.
    assert float(theirs) * (1 - WORST) <= float(ours) <= float(theirs) * (1 + WORST)


# --- the objective and the coefficients ------------------------------------------------------------------------------


def test_the_objective_is_the_published_one_and_absent_classes_have_no_probability():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for name in ("small", "rare", "two", "scales"):
        z, labels = PROBLEMS[name]
        t = labels.shape[1]
        weights, biases = rng.standard_normal((t, 3, z.shape[1])), rng.standard_normal((t, 3))
        for g, y in enumerate(labels.T):
            absent = np.setdiff1d([-1, 0, 1], y) + 1
            weights[g, absent], biases[g, absent] = 0, -np.inf
        for g in range(t):
            one = slice(g, g + 1)
            w, b = torch.from_numpy(weights[one]), torch.from_numpy(biases[one])
            expected = published(torch, z, labels[:, one], w, b, 1 / 0.3)
            ours = objective(z, labels[:, one], weights[one], biases[one], 0.3)
            np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_absent_classes_have_weight_zero_bias_minus_infinity_and_probability_zero():
    z, labels = PROBLEMS["two"]
    found = fit_path(z, labels, [1e-3])[0]
    lowered, raised = found.probabilities(z * 100)
    assert np.isfinite(lowered).all() and np.isfinite(raised).all()
    for g, y in enumerate(labels.T):
        absent = np.setdiff1d([-1, 0, 1], y)
        for c in absent:
            assert found.biases[g, c + 1] == -np.inf and not found.weights[g, c + 1].any()
            p = {-1: lowered[:, g], 1: raised[:, g]}.get(c, 1 - lowered[:, g] - raised[:, g])
            np.testing.assert_allclose(p, 0, atol=0 if c else 1e-6)


def test_weights_and_biases_of_the_classes_sum_to_zero():
    z, labels = PROBLEMS["small"]
    found = fit_path(z, labels, [0.01])[0]
    np.testing.assert_allclose(found.weights.sum(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found.biases.sum(axis=1), 0, atol=1e-5)


def test_probabilities_are_the_softmax_of_the_logits():
    z, labels = mixed(t=4 * BLOCK + 100)
    found = fit_path(z, labels, [0.1])[0]
    rows = np.random.default_rng(0).standard_normal((7, z.shape[1])) * 30
    lowered, raised = found.probabilities(rows)
    logits = np.einsum("mr,gcr->mgc", rows, found.weights.astype(np.float64)) + found.biases
    expected = np.exp(logits - logsumexp(logits, axis=2, keepdims=True))
    assert lowered.dtype == raised.dtype == np.float32
    np.testing.assert_allclose(lowered, expected[..., 0], atol=1e-4)
    np.testing.assert_allclose(raised, expected[..., 2], atol=1e-4)
    empty = found.probabilities(rows[:0])
    assert empty[0].shape == empty[1].shape == (0, len(found.weights))


def test_genes_of_one_class_are_answered_by_it_in_any_company():
    z, labels = plain(50, 4, t=7)
    labels[:, [0, 3, 6]] = np.array([-1, 0, 1])
    rows = np.random.default_rng(1).standard_normal((9, 4)) * 1e3
    alone = np.repeat(np.array([[-1, 0, 1, 0]], np.int8), 50, axis=0)
    for y, genes in ((labels, [0, 3, 6]), (alone, [0, 1, 2]), (alone[:, 1:2], [None, 0, None])):
        for found in fit_path(z, y, [10.0, 1e-3]):
            lowered, raised = found.probabilities(rows)
            for c, g in zip((-1, 0, 1), genes, strict=True):
                if g is None:
                    continue
                np.testing.assert_array_equal(lowered[:, g], float(c == -1))
                np.testing.assert_array_equal(raised[:, g], float(c == 1))
                assert not found.weights[g].any() and found.gaps[g] == 0 and found.iterations[g] == 0
            assert found.n_unfinished == 0
            np.testing.assert_array_equal(objective(z, y, found.weights, found.biases, 1.0)[g], 0.0)


def test_a_single_row_is_a_gene_of_one_class():
    found = fit_path(np.ones((1, 2)), np.array([[1, -1]], np.int8), [1.0])[0]
    lowered, raised = found.probabilities(np.zeros((2, 2)))
    assert lowered.tolist() == [[0, 1]] * 2 and raised.tolist() == [[1, 0]] * 2


def test_without_genes_or_features_there_is_little_to_do():
    z, labels = PROBLEMS["rare"]
    none = fit_path(z, labels[:, :0], [1.0, 0.1])
    assert len(none) == 2 and none[1].weights.shape == (0, 3, 6) and none[1].n_unfinished == 0
    assert none[0].probabilities(z)[0].shape == (100, 0)
    found = fit_path(z[:, :0], labels, [1.0])[0]
    assert found.n_unfinished == 0
    # Balanced classes without features: every class that occurs is as probable.
    lowered, raised = found.probabilities(z[:2, :0])
    for g, y in enumerate(labels.T):
        share = 1 / len(np.unique(y))
        assert lowered[0, g] == pytest.approx(share if -1 in y else 0, abs=1e-6)
        assert raised[0, g] == pytest.approx(share if 1 in y else 0, abs=1e-6)


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "many features", "rare", "two", "separable", "scales"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-8])
def test_the_tolerance_is_respected(name, tolerance):
    z, labels = PROBLEMS[name]
    for penalty in (1.0, 1e-3):
        found = fit_path(z, labels, [penalty], tolerance=tolerance)[0]
        exact = fit_path(z, labels, [penalty], tolerance=1e-11)[0]
        assert found.gaps.max() <= tolerance and found.n_unfinished == 0 == exact.n_unfinished
        assert found.iterations.sum() <= exact.iterations.sum()
        ours, best = (objective(z, labels, f.weights, f.biases, penalty) for f in (found, exact))
        # Second derivatives by the biases are those where it ends, hence the 1.2; coefficients are of single precision.
        np.testing.assert_array_less(ours / best - 1, 1.2 * found.gaps + 1e-7)


def test_gaps_bound_the_distance_from_the_optimum():
    z, labels = lever()
    for penalty in (1e-3, 1e-4):
        found = fit_path(z, labels, [penalty])[0]
        assert found.n_unfinished == 0
        ours = objective(z, labels, found.weights, found.biases, penalty)
        np.testing.assert_array_less(ours / optima(z, labels, penalty) - 1, found.gaps + 1e-6)


# --- paths and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "many features", "rare", "two", "scales"])
def test_a_path_ends_where_each_penalty_ends_alone(name):
    z, labels = PROBLEMS[name]
    path = (10.0, 0.1, 0.1, 1e-3)
    found = fit_path(z, labels, path)
    assert len(found) == 4
    for penalty, own in zip(path, found, strict=True):
        alone = fit_path(z, labels, [penalty])[0]
        ours, theirs = (objective(z, labels, f.weights, f.biases, penalty) for f in (own, alone))
        np.testing.assert_allclose(ours, theirs, rtol=WORST)
    assert found[2].iterations.max() == 0  # nothing to do where the penalty is that of before


def test_inputs_stay_as_they_were_and_may_be_views_of_other_types():
    z, labels = PROBLEMS["small"]
    z_copy, labels_copy = z.copy(), labels.copy()
    first = fit_path(z, labels, [0.1])[0]
    np.testing.assert_array_equal(z, z_copy)
    np.testing.assert_array_equal(labels, labels_copy)
    view_z, view_labels = np.repeat(z, 2, axis=1)[::-1, ::2][::-1], np.asfortranarray(labels.astype(np.int64))
    second = fit_path(view_z, view_labels, [0.1])[0]
    np.testing.assert_array_equal(first.weights, second.weights)
    third = fit_path(z.astype(np.float32), labels, [0.1])[0]
    np.testing.assert_allclose(third.weights, first.weights, atol=1e-5)


@pytest.mark.parametrize("path", [[], [0.0], [-1.0], [0.1, 1.0], [1.0, 0.1, 0.2], [1.0, 0.0]])
def test_penalties_are_positive_and_descend(path, refuses):
    refuses(["positive, finite and in descending order"], fit_path, *PROBLEMS["small"], path)


@pytest.mark.parametrize("path", [[np.nan], [np.inf], [1.0, np.nan]])
def test_penalties_are_finite(path, refuses):
    refuses(["positive, finite and in descending order"], fit_path, *PROBLEMS["small"], path)


def test_shapes_and_labels_are_checked(refuses):
    z, labels = PROBLEMS["small"]
    for bad in ((z[1:], labels), (z[:, 0], labels), (z, labels[:, 0]), (z[:0], labels[:0]), (z[None], labels)):
        refuses(["do not fit", str(bad[0].shape)], fit_path, *bad, [1.0])
    for bad in (labels + 1, labels * 0.5, np.where(labels == 1, np.nan, labels), labels - 1):
        refuses(["labels must be -1, 0 or 1"], fit_path, z, bad, [1.0])


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(odd, refuses):
    z, labels = PROBLEMS["small"]
    z = z.copy()
    z[3, 1] = odd
    refuses(["rows must be finite"], fit_path, z, labels, [1.0, 0.1])


def test_penalties_that_no_usual_scale_of_rows_goes_with_are_refused(refuses):
    z, labels = PROBLEMS["small"]
    refuses(["out of range", "usual scale"], fit_path, 1e-20 * z, labels, [1.0])
    assert fit_path(z, labels, np.array([1.0, 0.1]))[0].n_unfinished == 0


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_units_of_the_features_do_not_matter(scale):
    z, labels = PROBLEMS["small"]
    plainly, scaled = fit_path(z, labels, [0.1])[0], fit_path(z * scale, labels, [0.1 * scale**2])[0]
    np.testing.assert_allclose(scaled.weights * scale, plainly.weights, atol=1e-2)
    assert scaled.n_unfinished == 0


@pytest.mark.parametrize("scale", [1e-22, 1e20])
def test_units_of_the_features_do_not_matter_at_all(scale):
    z, labels = PROBLEMS["small"]
    assert fit_path(z * scale, labels, [0.1 * scale**2])[0].n_unfinished == 0


# --- invariances -----------------------------------------------------------------------------------------------------


def same(z, labels, penalty, one, other, atol=1e-2):
    """Whether two fits are as good as each other and predict the same."""
    a, b = (objective(z, labels, f.weights, f.biases, penalty) for f in (one, other))
    np.testing.assert_allclose(a, b, rtol=WORST, atol=1e-12)
    for p, q in zip(one.probabilities(z), other.probabilities(z), strict=True):
        np.testing.assert_allclose(p, q, atol=atol)


def take(found, genes):
    """Coefficients of some genes."""
    return type(found)(**{name: getattr(found, name)[genes] for name in found.__dataclass_fields__})


def test_threads_give_the_same_bits():
    z, labels = mixed(t=3 * BLOCK)
    n_classes = [len(np.unique(y)) for y in labels.T]
    assert set(n_classes) == {1, 2, 3}
    one, more = fit_path(z, labels, [1.0, 0.01]), fit_path(z, labels, [1.0, 0.01], threads=2)
    for a, b in zip(one, more, strict=True):
        assert a.n_unfinished == 0
        for name in a.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_genes_of_several_blocks_are_those_of_single_fits_in_any_order():
    z, labels = mixed(t=BLOCK + 60)
    together = fit_path(z, labels, [0.05])[0]
    order = np.random.default_rng(2).permutation(labels.shape[1])
    back = np.argsort(order)
    shuffled = take(fit_path(z, labels[:, order], [0.05])[0], back)
    same(z, labels, 0.05, together, shuffled)
    for g in range(0, labels.shape[1], 17):
        same(z, labels[:, [g]], 0.05, take(together, [g]), fit_path(z, labels[:, [g]], [0.05])[0])


def test_the_order_of_rows_does_not_matter():
    z, labels = mixed(t=100)
    order = np.random.default_rng(3).permutation(len(z))
    for penalty in (10.0, 0.05):
        same(z, labels, penalty, fit_path(z, labels, [penalty])[0], fit_path(z[order], labels[order], [penalty])[0])


def test_mirrored_labels_have_the_mirrored_solution():
    z, labels = mixed(t=100)
    for penalty in (10.0, 0.05):
        found, mirror = (fit_path(z, y, [penalty])[0] for y in (labels, -labels))
        swapped = type(mirror)(**{**vars(mirror), "weights": mirror.weights[:, ::-1], "biases": mirror.biases[:, ::-1]})
        same(z, labels, penalty, found, swapped)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), times=st.integers(2, 6), label=st.sampled_from([None, -1, 0, 1]))
def test_rows_of_a_class_may_be_repeated(seed, times, label):
    rng = np.random.default_rng(seed)
    z, y = rng.standard_normal((25, 3)), rng.integers(-1, 2, (25, 1)).astype(np.int8)
    counts = np.where((y[:, 0] == label) | (label is None), times, 1)
    more_z, more_y = np.repeat(z, counts, axis=0), np.repeat(y, counts, axis=0)
    w, b = rng.standard_normal((1, 3, 3)), rng.standard_normal((1, 3))
    np.testing.assert_allclose(objective(more_z, more_y, w, b, 0.1), objective(z, y, w, b, 0.1), rtol=1e-12)
    once, more = fit_path(z, y, [0.03])[0], fit_path(more_z, more_y, [0.03])[0]
    same(z, y, 0.03, once, more)


# --- backends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu:0", "cuda"])
@pytest.mark.parametrize("name", ["small", "many features", "rare", "two", "separable"])
def test_torch_computes_what_the_compiled_loops_compute(name, device):
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no cuda device")
    z, labels = PROBLEMS[name]
    labels = np.concatenate([labels, np.ones((len(z), 1), np.int8)], axis=1)
    path = (100.0, 1.0, 0.1)
    for ours, theirs in zip(fit_path(z, labels, path), fit_path(z, labels, path, device=device), strict=True):
        assert theirs.n_unfinished == 0 and theirs.weights.dtype == np.float32
        for p, q in zip(ours.probabilities(z), theirs.probabilities(z), strict=True):
            np.testing.assert_allclose(p, q, atol=1e-4)
    hard = [fit_path(z, labels, [1.0, 1e-4], device=d)[-1] for d in ("cpu", device)]
    a, b = (objective(z, labels, f.weights, f.biases, 1e-4) for f in hard)
    np.testing.assert_allclose(a, b, rtol=WORST, atol=1e-12)


def line(seed, size, turn, genes=40, n=60):
    """A line to search: logits of this size, directions of that one, for genes of two classes and of three."""
    rng = np.random.default_rng(seed)
    labels, three = rng.integers(0, 3, (genes, n)).astype(np.int8), (rng.random(genes) < 0.5).astype(np.float64)
    labels[three == 0] %= 2
    weights, penalty, norms = rng.random((genes, 3)) / n, 10.0 ** rng.uniform(-5, 1), rng.random(n)
    logits, directions = rng.standard_normal((2, genes, 2, n))
    logits, directions = logits * size, directions * turn
    logits[three == 0, 1] = directions[three == 0, 1] = 0
    along, square = rng.standard_normal(genes) * turn, (rng.random(genes) + 1e-3) * turn**2
    slope = _evaluate(np, labels, norms, weights, three, logits, directions)[1] + 2 * penalty * along
    downhill = np.where(slope > 0, -1.0, 1.0)
    return (labels, norms, weights, three, logits, directions * downhill[:, None, None], np.empty_like(logits),
            along * downhill, square, slope * downhill, penalty)  # fmt: skip


def single(problem):
    return tuple(a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in problem)


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 200.0])
@pytest.mark.parametrize("turn", [1e-4, 1.0, 100.0])
def test_compiled_and_array_line_search_are_the_same(size, turn):
    double = line(int(size), size, turn)
    ours = single(double)
    with np.errstate(all="raise", under="ignore"):
        expected, found = array_search(*double), compiled_search(*ours)
    # Left aside: genes where rounding ended one search and not the other.
    residuals = _evaluate(np, *double[:6])[0]
    ended = np.abs(double[6] - residuals).max(axis=(1, 2)) < 1e-12
    like = np.abs(found[0] / expected[0] - 1) < 1e-3
    # Long steps that differ by rounding end at points that differ.
    moved = np.abs(found[0] - expected[0]) * np.abs(double[5]).max(axis=(1, 2))
    like &= moved < 1e-2
    assert ended.mean() >= 0.5 and like[ended].mean() >= 0.95
    keep = ended & like
    for a, b in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(a[keep], b[keep], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found[2][:, keep], expected[2][:, keep], rtol=0.02, atol=1e-6)
    rounding = 1e-6 * max(1, size)
    np.testing.assert_allclose(ours[6][keep], double[6][keep], atol=rounding)
    np.testing.assert_allclose(ours[4][keep], double[4][keep], rtol=1e-3, atol=1e-2)
    for logits in (ours[4], double[4]):
        assert not logits[double[3] == 0, 1].any()  # two classes stay two


@pytest.mark.parametrize(("search", "size", "turn"), [
    (compiled_search, 1.0, 1.0), (compiled_search, 1.0, 1e-12), (compiled_search, 200.0, 1.0), (array_search, 1.0, 1.0),
    (array_search, 1.0, 1e-12), (array_search, 200.0, 1.0),
])  # fmt: skip
def test_a_line_search_ends_where_it_has_evaluated(search, size, turn):
    problem = line(200, size, turn)
    problem = single(problem) if search is compiled_search else problem
    _, losses, curvatures = search(*problem)
    residuals, _, _, loss, curvature = _evaluate(np, *problem[:6])
    np.testing.assert_allclose(problem[6], residuals, atol=1e-6)
    np.testing.assert_allclose(losses, loss, rtol=1e-4)
    np.testing.assert_allclose(curvatures, curvature, rtol=1e-3, atol=1e-7)


def test_fast_exponentials_and_logarithms():
    x = np.linspace(-80, 80, 200_001).astype(np.float32)
    exponential, logarithm = approximate(x)
    np.testing.assert_allclose(exponential, np.exp(x.astype(np.float64)), rtol=5e-7)
    # The sum is rounded before the logarithm is taken.
    np.testing.assert_allclose(logarithm, np.log((1 + np.abs(x)).astype(np.float64)), rtol=5e-7)
    large = np.exp(np.linspace(0, 80, 10_001)).astype(np.float32)
    np.testing.assert_allclose(approximate(large)[1], np.log(1 + large.astype(np.float64)), rtol=5e-7)
    assert approximate(np.zeros(1, np.float32)).tolist() == [[1.0], [0.0]]


def test_devices_that_cannot_be_used_are_refused(refuses, monkeypatch):
    check_device("cpu")
    torch = pytest.importorskip("torch")
    check_device("cpu:0")
    for name in ("nonsense", "", "cuda:99", *(() if torch.cuda.is_available() else ("cuda",))):
        refuses([f"device {name!r} cannot be used"], check_device, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    check_device("cpu")
    refuses(["needs PyTorch", "panmodal[deep]"], check_device, "cuda")


def test_a_device_without_data_is_refused(refuses):
    pytest.importorskip("torch")
    refuses(["cannot be used"], check_device, "meta")


# --- double precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("most", [1, 3])
def test_genes_that_need_more_iterations_go_on_in_double_precision(monkeypatch, device, most):
    if device != "cpu":
        pytest.importorskip("torch")
    z, labels = PROBLEMS["small"]
    whole = fit_path(z, labels, [0.1])[0]
    monkeypatch.setattr(softmax, "MAX_ITERATIONS", most)
    found = fit_path(z, labels, [0.1], device=device)[0]
    assert found.n_unfinished == 0 and found.gaps.max() <= TOLERANCE
    assert found.iterations.max() > most and found.iterations.max() <= 11 * most
    same(z, labels, 0.1, whole, found)


def test_what_is_left_in_double_precision_starts_where_single_precision_ended(monkeypatch):
    calls, real = [], softmax.minimise

    def spy(*args):
        out = real(*args)
        calls.append((args, replace(out, finished=out.finished.copy(), iterations=out.iterations.copy())))
        return out

    monkeypatch.setattr(softmax, "minimise", spy)
    monkeypatch.setattr(softmax, "MAX_ITERATIONS", 6)
    z, labels = PROBLEMS["rare"]
    found = fit_path(z, labels, [0.1])[0]
    (first, one), (second, two) = calls
    assert first[0].rows.dtype == np.float32 and second[0].rows.dtype == np.float64
    assert first[-1] == 6 and second[-1] == 60
    left = np.flatnonzero(~one.finished)
    assert 0 < len(second[0].labels) == len(left) < labels.shape[1]
    assert found.iterations.sum() == one.iterations.sum() + two.iterations.sum() and found.n_unfinished == 0
    assert (two.iterations > 0).all()


def test_fits_that_do_not_end_are_counted_and_said(monkeypatch):
    z, labels = PROBLEMS["many features"]
    design, targets, logistic = Design.build(z, z[:3]), LabelTargets(labels), get_probe("logistic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic.predict(design.final, targets, 1e5)
    monkeypatch.setattr(softmax, "MAX_ITERATIONS", 1)
    found = fit_path(z, labels, [1e-5])[0]
    assert found.n_unfinished == labels.shape[1] and found.gaps.min() > TOLERANCE
    assert (found.iterations == 11).all() and np.isfinite(found.weights).all()
    with pytest.warns(ConvergenceWarning, match=r"logistic: \d+ of 15 fits did not reach the tolerance"):
        predicted = logistic.predict(design.final, targets, 1e5)
    assert np.isfinite(predicted).all()
    with pytest.warns(ConvergenceWarning, match=r"logistic: \d+ of 20 fits"):
        logistic.errors(design.inner[0], targets, logistic.grid)

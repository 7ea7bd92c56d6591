import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from panmodal.errors import PanmodalError
from panmodal.fusion import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.fusion.experts import fold_numbers, sources_of
from panmodal.fusion.oof import class_weights, error_grams, out_of_fold, turned, uniform_prior
from panmodal.fusion.stack_weights import convex_weights, mean_error_weights, non_negative, row_errors
from panmodal.probes import ProbeCV, Targets, get_probe
from panmodal.probes.design import LabelTargets

STACK, LATE = get_fusion("stack"), get_fusion("late")


def problem(n=60, m=15, t=20, dims=(6, 4, 130), missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n + m, 5))
    values, has = {}, rng.random((n + m, len(dims))) >= missing
    has[~has.any(axis=1), 0] = True
    for k, d in enumerate(dims):
        x = latents @ rng.standard_normal((5, d)) + rng.standard_normal((n + m, d))
        x[~has[:, k]] = np.nan
        values["abc"[k]] = x
    return Modalities.of(values), latents @ rng.standard_normal((5, t)) + 0.5 * rng.standard_normal((n + m, t))


def labels_of(y):
    return np.where(np.abs(y) > 2, np.sign(y), 0).astype(np.int8)


def targets_of(y):
    return LabelTargets(y) if y.dtype == np.int8 else Targets.of(y)


def fit(train, y, fusion=STACK, **options):
    train = train if isinstance(train, Modalities) else Modalities.of(train)
    own = ContextTargets(np.arange(len(train)), targets_of(y))
    return fit_fusion(fusion, train, {"A": own}, fusion.settings(options), Setting())


def l2(predicted, true):
    return np.linalg.norm(predicted - true, axis=1)


def grams_of(rng, n, k, t, noise=1.0):
    """Gram matrices of n rows' target and k members."""
    members = rng.standard_normal((k, n, t))
    target = np.einsum("k,knt->nt", rng.random(k) * (rng.random(k) < 0.6), members) + noise * rng.standard_normal(
        (n, t)
    )
    vectors = np.concatenate([target[None], members]).transpose(1, 0, 2)
    return vectors @ vectors.transpose(0, 2, 1)


# Weights


@given(k=st.integers(1, 7), rows=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_non_negative_least_squares_agree_with_scipy(k, rows, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rows, k)), rng.standard_normal(rows)
    gram = a.T @ a + 1e-6 * np.eye(k)
    found = non_negative(gram, a.T @ b)
    root = np.linalg.cholesky(gram).T
    expected, _ = nnls(root, np.linalg.solve(root.T, a.T @ b))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    slope = a.T @ b - gram @ found
    assert (found >= 0).all() and slope.max() <= 1e-8 and abs(slope @ found) <= 1e-8


@given(k=st.integers(1, 5), n=st.integers(1, 30), t=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_mean_error_is_the_smallest_there_is(k, n, t, seed):
    grams = grams_of(np.random.default_rng(seed), n, k, t)
    weights, error = mean_error_weights(grams)
    assert (weights >= 0).all() and error == pytest.approx(row_errors(grams, weights).mean())
    plain = min(
        minimize(lambda v: row_errors(grams, v).mean(), np.full(k, start), bounds=[(0, None)] * k, method="SLSQP",
                 options={"ftol": 1e-12, "maxiter": 500}).fun
        for start in (0.0, 0.5)
    )  # fmt: skip
    assert error <= plain * (1 + 1e-5) + 1e-5 * np.sqrt(grams[:, 0, 0]).mean()


def test_mean_error_weights_on_a_grid():
    grams = grams_of(np.random.default_rng(3), 40, 2, 5)
    weights, _ = mean_error_weights(grams)
    steps = np.linspace(0, 1.5, 151)
    errors = np.array([[row_errors(grams, np.array([a, b])).mean() for b in steps] for a in steps])
    best = np.unravel_index(errors.argmin(), errors.shape)
    np.testing.assert_allclose(weights, steps[list(best)], atol=0.011)


def test_an_exact_fit_is_found():
    rng = np.random.default_rng(0)
    grams = grams_of(rng, 30, 3, 6, noise=0.0)
    error = mean_error_weights(grams)[1]
    assert error < 1e-4 * np.sqrt(grams[:, 0, 0]).mean()


@given(k=st.integers(1, 5), seed=st.integers(0, 10**6), scale=st.sampled_from([0.3, 1.0, 3.0]))
def test_convex_weights_agree_with_a_plain_solver(k, seed, scale):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((k + 1, 12))
    vectors[0] = scale * (rng.random(k) @ vectors[1:]) + 0.5 * vectors[0]
    total = vectors @ vectors.T
    weights, error = convex_weights(total)

    def objective(v):
        u = np.concatenate([[1.0], -v])
        return u @ total @ u

    plain = minimize(objective, np.full(k, 0.5 / k), bounds=[(0, 1)] * k, method="SLSQP",
                     constraints={"type": "ineq", "fun": lambda v: 1 - v.sum()}, options={"ftol": 1e-13})  # fmt: skip
    assert (weights >= 0).all() and weights.sum() <= 1 + 1e-12
    assert error == pytest.approx(plain.fun, rel=1e-5, abs=1e-7)


def test_degenerate_weights():
    assert mean_error_weights(np.zeros((5, 3, 3)))[0].tolist() == [0, 0]
    assert convex_weights(np.zeros((3, 3)))[0].tolist() == [0, 0]
    only_target = np.zeros((5, 3, 3))
    only_target[:, 0, 0] = 4
    weights, error = mean_error_weights(only_target)
    assert weights.tolist() == [0, 0] and error == pytest.approx(2)
    same = np.ones((4, 3, 3))  # two members that are the target
    np.testing.assert_allclose(mean_error_weights(same)[0], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(convex_weights(same.sum(axis=0))[0], [0.5, 0.5], atol=1e-6)
    with pytest.raises(PanmodalError, match="not finite"):
        non_negative(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([np.nan, np.nan]))


# Out-of-fold predictions


def pieces(x, y, probes):
    own = ContextTargets(np.arange(len(x)), targets_of(y))
    return sources_of(x, own, shared=True), [get_probe(p) for p in probes], own.targets, fold_numbers(len(x))


def test_out_of_fold_predictions_agree_with_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    x, y = problem(n=80, m=0, dims=(6,), missing=0)
    found = out_of_fold(*pieces(x, y, ["ridge", "knn"]))

    def score(model, a, b):
        return -l2(model.predict(a), b).mean()

    folds = KFold(5, shuffle=True, random_state=42)
    for train, test in folds.split(y):
        scaler = StandardScaler().fit(x.values[0][train])
        a, b = scaler.transform(x.values[0][train]), scaler.transform(x.values[0][test])
        for k, (model, grid) in enumerate([(Ridge(), {"alpha": get_probe("ridge").grid}),
                                           (KNeighborsRegressor(), {"n_neighbors": [20, 40]})]):  # fmt: skip
            search = GridSearchCV(model, grid, cv=folds, scoring=score).fit(a, y[train])
            np.testing.assert_allclose(found[k, test], search.predict(b), atol=1e-9)


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_a_prediction_out_of_fold_does_not_know_its_own_response(kind):
    x, y = problem(n=60, m=0, dims=(6, 4))
    y = labels_of(y) if kind == "classes" else y
    probes = ["ridge_classifier", "knn_classifier"] if kind == "classes" else ["ridge", "knn"]
    folds = fold_numbers(60)
    before = out_of_fold(*pieces(x, y, probes))
    for fold in (0, 3):
        changed = y.copy()
        changed[folds == fold] = np.random.default_rng(1).permuted(changed[folds == fold], axis=0)[::-1] * -1
        after = out_of_fold(*pieces(x, changed, probes))
        np.testing.assert_array_equal(after[:, folds == fold], before[:, folds == fold])
        assert not np.allclose(np.nan_to_num(after), np.nan_to_num(before))


@pytest.mark.parametrize(("probes", "t"), [(["ridge", "knn"], 20), (["ridge", "knn"], 90), (["lasso"], 5)])
def test_gram_matrices_are_those_of_the_deviations(probes, t):
    x, y = problem(n=60, m=0, t=t, dims=(6, 4))
    y = y + 5
    sources, probes, targets, folds = pieces(x, y, probes)
    plain = out_of_fold(sources, probes, targets, folds)
    narrow = turned(targets) if probes[0].name == "ridge" else targets
    told = []
    grams, has = error_grams(sources, probes, narrow, folds, lambda a, b: told.append((a, b)))
    assert told == [(k, 5) for k in range(1, 6)]
    np.testing.assert_array_equal(has, ~np.isnan(plain[:, :, 0]).T)
    for i in range(60):
        mean = y[folds != folds[i]].mean(axis=0)
        vectors = np.nan_to_num(np.vstack([y[i] - mean, plain[:, i] - mean]))
        np.testing.assert_allclose(grams[i], vectors @ vectors.T, rtol=1e-4, atol=1e-3)


def test_turned_responses_keep_their_gram_matrix():
    y = np.random.default_rng(0).standard_normal((12, 30))
    y[3] = y[4]
    made = turned(Targets.of(y + 7))
    assert made.values.shape[1] <= 12
    centred = y - y.mean(axis=0)
    np.testing.assert_allclose(made.gram, centred @ centred.T, atol=1e-9)
    np.testing.assert_allclose(made.values @ made.values.T, made.gram, atol=1e-9)
    np.testing.assert_allclose(turned(Targets.of(np.ones((12, 30)))).values, 0, atol=1e-9)


def test_the_quadratic_form_of_classes_is_the_balanced_brier_score():
    x, y = problem(n=60, m=0, dims=(6, 4))
    labels = labels_of(y)
    labels[:, 0] = 0
    sources, probes, targets, folds = pieces(x, labels, ["ridge_classifier"])
    plain = out_of_fold(sources, probes, targets, folds)
    grams, has = error_grams(sources, probes, targets, folds)
    rows = np.flatnonzero(has.all(axis=1))
    v = np.array([0.3, 0.5])
    found = (row_errors(grams[rows].astype(float), v) ** 2).sum()
    expected = 0.0
    for i in rows:
        prior = uniform_prior(labels[folds != folds[i]])
        p = prior + sum(w * (q[i] - prior) for w, q in zip(v, plain, strict=True))
        three = np.stack([p[:20], 1 - p[:20] - p[20:], p[20:]])
        for g in range(20):
            weight = 60 / (3 * (labels[:, g] == labels[i, g]).sum())
            expected += weight * ((three[:, g] - (np.arange(-1, 2) == labels[i, g])) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-4)
    assert class_weights(labels)[:, 0] == pytest.approx([0, 1 / 3, 0])
    assert uniform_prior(labels)[[0, 20]].tolist() == [0, 0]


def test_genes_beyond_those_that_choose_are_predicted_as_well(monkeypatch):
    from panmodal.fusion import oof

    x, y = problem(n=60, m=0, dims=(6,))
    whole = out_of_fold(*pieces(x, labels_of(y), ["ridge_classifier"]))
    monkeypatch.setattr(oof, "GENES", 7)
    few = out_of_fold(*pieces(x, labels_of(y), ["ridge_classifier"]))
    assert few.shape == whole.shape and np.isfinite(few[0, :, [0, 19]]).any()
    monkeypatch.setattr(oof, "BLOCK", 6)  # blocks of read-outs change nothing
    sources, probes, targets, folds = pieces(x, labels_of(y), ["ridge_classifier"])
    blocks, _ = error_grams(sources, probes, targets, folds)
    monkeypatch.setattr(oof, "BLOCK", 2048)
    np.testing.assert_allclose(blocks, error_grams(sources, probes, targets, folds)[0], rtol=1e-4, atol=1e-4)


# The stack


def test_complementary_halves_add_up():
    rng = np.random.default_rng(0)
    n, m, t = 200, 100, 60
    a, b = rng.standard_normal((2, n + m, 8))
    y = a @ rng.standard_normal((8, t)) + b @ rng.standard_normal((8, t)) + rng.standard_normal((n + m, t))
    fitted = fit({"a": a[:n], "b": b[:n]}, y[:n])
    predicted = fitted.predict(Modalities.of({"a": a[n:], "b": b[n:]}), "A").values
    joint = ProbeCV("ridge").fit(np.hstack([a, b])[:n], y[:n]).predict(np.hstack([a, b])[n:])
    floor = l2(y[:n].mean(axis=0), y[n:]).mean()
    share = (floor - l2(predicted, y[n:]).mean()) / (floor - l2(joint, y[n:]).mean())
    assert share >= 0.9
    total = sum(r["value"] for r in fitted.tables() if r["what"] == "weight")
    assert total > 1.5
    assert all(r["value"] > 0.5 for r in fitted.tables() if r["what"] == "importance")


def test_noise_is_not_worse_than_the_best_modality_alone():
    rng = np.random.default_rng(1)
    n, m, t = 150, 150, 40
    a, noise = rng.standard_normal((n + m, 8)), rng.standard_normal((n + m, 20))
    y = a @ rng.standard_normal((8, t)) + 2 * rng.standard_normal((n + m, t))
    fitted = fit({"a": a[:n], "noise": noise[:n]}, y[:n])
    ours = l2(fitted.predict(Modalities.of({"a": a[n:], "noise": noise[n:]}), "A").values, y[n:])
    alone = l2(ProbeCV("ridge").fit(a[:n], y[:n]).predict(a[n:]), y[n:])
    apart = ours - alone
    assert apart.mean() - 2 * apart.std(ddof=1) / np.sqrt(m) <= 0
    weights = {(r["modality"], r["part"]): r["value"] for r in fitted.tables() if r["what"] == "weight"}
    assert weights["noise", "ridge"] + weights["noise", "knn"] < 0.2


def test_the_stack_is_what_a_plain_solver_makes_of_the_predictions():
    x, y = problem(n=70, m=10, dims=(6, 4), missing=0)
    train, test = x.part(np.arange(70)), x.part(np.arange(70, 80))
    sources, probes, targets, folds = pieces(train, y[:70], ["ridge", "knn"])
    held = out_of_fold(sources, probes, targets, folds)
    means = np.stack([y[:70][folds != f].mean(axis=0) for f in folds])
    found = minimize(lambda v: l2(means + np.tensordot(v, held - means, axes=1), y[:70]).mean(), np.full(4, 0.25),
                     bounds=[(0, None)] * 4, method="SLSQP", options={"ftol": 1e-13}).x  # fmt: skip
    mean = y[:70].mean(axis=0)
    alone = np.stack(
        [ProbeCV(p.name).fit(train.values[k], y[:70]).predict(test.values[k]) for k in (0, 1) for p in probes]
    )
    expected = mean + np.tensordot(found, alone - mean, axes=1)
    np.testing.assert_allclose(fit(train, y[:70]).predict(test, "A").values, expected, atol=2e-3)


@settings(max_examples=8)
@given(scale=st.floats(1e-2, 1e2), shift=st.floats(-20, 20), seed=st.integers(0, 3))
def test_predictions_follow_scale_and_shift_of_the_responses(scale, shift, seed):
    x, y = problem(n=40, m=8, dims=(4, 3), t=50, seed=seed)
    train, test = x.part(np.arange(40)), x.part(np.arange(40, 48))
    before = fit(train, y[:40]).predict(test, "A").values
    after = fit(train, scale * y[:40] + shift).predict(test, "A").values
    np.testing.assert_allclose((after - shift) / scale, before, atol=2e-3)


@settings(max_examples=8)
@given(seed=st.integers(0, 20), kind=st.sampled_from(["numbers", "classes"]))
def test_weights_are_not_negative_and_a_modality_twice_changes_little(seed, kind):
    x, y = problem(n=40, m=8, dims=(4, 3), seed=seed)
    y = labels_of(y) if kind == "classes" else y
    train, test = x.part(np.arange(40)), x.part(np.arange(40, 48))

    def twice(m):
        return Modalities((*m.names, "again"), (*m.values, m.values[0]), np.column_stack([m.present, m.present[:, 0]]))

    one, two = fit(train, y[:40]), fit(twice(train), y[:40])
    np.testing.assert_allclose(two.predict(twice(test), "A").values, one.predict(test, "A").values, atol=5e-3)
    for fitted in (one, two):
        weights = [r["value"] for r in fitted.tables() if r["what"] == "weight"]
        assert min(weights) >= 0
        assert kind == "numbers" or sum(weights) <= 1 + 1e-9


def test_each_pattern_of_modalities_has_its_own_weights():
    rng = np.random.default_rng(0)
    n, t = 120, 30
    a, b = rng.standard_normal((2, n + 6, 5))
    y = a @ rng.standard_normal((5, t)) + b @ rng.standard_normal((5, t)) + 0.3 * rng.standard_normal((n + 6, t))
    copy = a + 0.05 * rng.standard_normal(a.shape)
    a[:30], b[30:60] = np.nan, np.nan
    a[n : n + 2], b[n + 2 : n + 4] = np.nan, np.nan
    x = Modalities.of({"a": a, "b": b, "copy": copy})
    fitted = fit(x.part(np.arange(n)), y[:n], probes="ridge")
    predicted = fitted.predict(x.part(np.arange(n, n + 6)), "A").values
    share = l2(predicted, y[n:]) / l2(y[:n].mean(axis=0), y[n:])
    assert (share[[0, 1, 4, 5]] < 0.5).all() and (share[2:4] < 1).all()
    everything, _ = fitted.weights_of((True, True, True))
    without, _ = fitted.weights_of((False, True, True))
    assert without[0] == 0 and without[2] > everything[2]
    assert without[2] == pytest.approx(everything[0] + everything[2], abs=0.1)
    told = fitted.hyperparameters
    assert (told["patterns"], told["averaged"]) == (3, 0)
    json.dumps(told)
    # Ids with all modalities are predicted as the weights say.
    members = [e.predict(x.values[e.modality][n + 4 :], fitted.targets) for e in fitted.experts]
    mean = y[:n].mean(axis=0)
    by_hand = mean + sum(w * (p - mean) for w, p in zip(everything, members, strict=True))
    np.testing.assert_allclose(predicted[4:], by_hand, atol=1e-10)


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_a_pattern_of_few_training_ids_is_averaged(kind):
    x, y = problem(n=60, m=15, dims=(6, 4), missing=0)
    y = labels_of(y) if kind == "classes" else y
    values = [v.copy() for v in x.values]
    values[0][:26], values[1][34:60] = np.nan, np.nan  # 8 training ids have both
    x = Modalities.of(dict(zip("ab", values, strict=True)))
    probe = "ridge_classifier" if kind == "classes" else "ridge"
    fitted = fit(x.part(np.arange(60)), y[:60], probes=[probe])
    test = x.part(np.arange(60, 75))
    ours = fitted.predict(test, "A").values
    members = [e.predict(test.values[e.modality], fitted.targets) for e in fitted.experts]
    np.testing.assert_allclose(ours, np.mean(members, axis=0), atol=1e-6)
    assert (fitted.hyperparameters["averaged"], fitted.hyperparameters["patterns"]) == (1, 2)
    assert sum(fitted.usual) == 1  # as many training ids have the one as the other
    assert [(r["what"], r["modality"]) for r in fitted.tables()] == [("weight", "ab"[fitted.usual.index(True)])]


def test_all_patterns_too_rare_for_weights():
    x, y = problem(n=30, m=0, dims=(4, 3, 5), missing=0)
    values = [v.copy() for v in x.values]
    own = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 10))
    pairs = np.stack([own != 0, own != 1, own != 2], axis=1)  # each id has two modalities, none all three
    for k in range(3):
        values[k][~pairs[:, k]] = np.nan
    x = Modalities.of(dict(zip("abc", values, strict=True)))
    fitted = fit(x, y, probes="ridge")
    assert sum(fitted.usual) == 2
    assert np.isfinite(fitted.predict(x.part([0]), "A").values).all()


def test_a_modality_with_ten_ids_in_one_fold_is_fitted():
    x, y = problem(n=60, m=5, dims=(6, 4), missing=0)
    values = [v.copy() for v in x.values]
    few = np.flatnonzero(fold_numbers(60) == 2)[:10]  # nothing is left to predict that fold from
    values[1][np.setdiff1d(np.arange(60), few)] = np.nan
    x = Modalities.of(dict(zip("ab", values, strict=True)))
    with_knn = fit(x.part(few.tolist() + [k for k in range(60) if k not in few]), y[:60])
    assert np.isfinite(with_knn.predict(x.part(np.arange(60, 65)), "A").values).all()
    fitted = fit(x.part(np.arange(60)), y[:60], probes="ridge")
    assert not fitted.has[few, 1].any()
    assert np.isfinite(fitted.predict(x.part(np.arange(60, 65)), "A").values).all()


def test_degenerate_problems():
    x, y = problem(n=40, m=6, dims=(4, 3), missing=0)
    train, test = x.part(np.arange(40)), x.part(np.arange(40, 46))
    constant = fit(train, np.full((40, 3), 2.5))
    np.testing.assert_allclose(constant.predict(test, "A").values, 2.5, atol=1e-6)
    flat = Modalities.of({"flat": np.ones((40, 3))})
    values = fit(flat, y[:40]).predict(Modalities.of({"flat": np.ones((6, 3))}), "A").values
    # Neighbours at the same distance all count, so this is the mean as well.
    np.testing.assert_allclose(values, np.tile(y[:40].mean(axis=0), (6, 1)), atol=1e-8)
    one = fit(train.only(["a"]), y[:40], probes="ridge")
    ((weight, _),) = [one.weights_of((True,))]
    alone = ProbeCV("ridge").fit(train.values[0], y[:40]).predict(test.values[0])
    mean = y[:40].mean(axis=0)
    np.testing.assert_allclose(one.predict(test.only(["a"]), "A").values, mean + weight[0] * (alone - mean), atol=1e-9)
    assert [r["what"] for r in one.tables()] == ["weight"]
    smallest = fit(x.part(np.arange(10)), y[:10])
    assert np.isfinite(smallest.predict(test, "A").values).all()


def test_classes_are_predicted_by_probabilities_that_are_better_than_the_average_of_noise_and_signal():
    rng = np.random.default_rng(0)
    n, m, t = 150, 80, 30
    a, noise = rng.standard_normal((n + m, 6)), rng.standard_normal((n + m, 12))
    labels = labels_of(a @ rng.standard_normal((6, t)) + 0.5 * rng.standard_normal((n + m, t)))
    labels[:, 0], labels[:, 1] = 0, np.abs(labels[:, 1])
    train = Modalities.of({"a": a[:n], "noise": noise[:n]})
    test = Modalities.of({"a": a[n:], "noise": noise[n:]})
    brier = {}
    for fusion in (STACK, LATE):
        fitted = fit(train, labels[:n], fusion=fusion)
        p = fitted.predict(test, "A").values
        assert p.dtype == np.float32 and p.min() >= 0 and (p[:, :t] + p[:, t:]).max() <= 1 + 1e-6
        assert (p[:, 0] < 1e-6).all() and (p[:, 1] < 1e-6).all()  # classes that training lacks
        three = np.stack([p[:, :t], 1 - p[:, :t] - p[:, t:], p[:, t:]])
        hit = np.stack([labels[n:] == c for c in (-1, 0, 1)])
        each = class_weights(labels[:n])[labels[n:] + 1, np.arange(t)]
        brier[fusion.name] = (each * ((three - hit) ** 2).sum(axis=0)).mean()
        if fusion is STACK:
            assert fitted.hyperparameters["oof_error"] == pytest.approx(brier["stack"], rel=0.15)
            weights = {(r["modality"], r["part"]): r["value"] for r in fitted.tables() if r["what"] == "weight"}
            assert sum(weights.values()) <= 1 + 1e-9
            assert weights["noise", "ridge_classifier"] + weights["noise", "knn_classifier"] < 0.1
    assert brier["stack"] < brier["late"]


def test_options(refuses):
    assert STACK.settings({"probes": "ridge+lasso"}).probes == ("ridge", "lasso")
    assert STACK.settings({"probes": ["knn"]}).probes == ("knn",)
    assert STACK.settings().probes is None
    refuses(["no probe 'foo'", "Its options are: probes"], STACK.settings, {"probes": "ridge+foo"})
    refuses(["probes"], STACK.settings, {"probes": ""})
    refuses(["twice", "'ridge'"], STACK.settings, {"probes": "ridge+ridge"})
    x, y = problem(n=40, m=0, dims=(4, 3))
    refuses(["'logistic'", "numbers"], fit, x, y, probes="ridge+logistic")
    refuses(["'A'", "not 'B'"], fit(x, y).predict, x, "B")


def test_beats_the_best_modality_on_real_responses(shared):
    import anndata
    import pandas as pd

    screen = anndata.read_h5ad(shared / "replogle2022_uprank.h5ad")
    screen = screen[screen.obs["cell_line"] == "K-562"]
    folds = pd.read_csv(shared / "replogle2022_uprank.splits.csv", index_col=0)["fold"]
    names = {"string": "network_string_netmf128", "text": "text_ncbi_lsa128"}
    tables = {k: anndata.read_h5ad(shared / "embeddings" / f"{v}.h5ad").to_df() for k, v in names.items()}
    ids = list(screen.obs["pert_id"])
    x = Modalities.of({k: t.reindex(ids).to_numpy(dtype=float) for k, t in tables.items()})
    y = screen.X[:, ::40].toarray().astype(float)
    test = (folds.loc[ids].to_numpy() == 0) & x.present.all(axis=1)
    train = (folds.loc[ids].to_numpy() != 0) & x.covered
    error = {}
    for names in (["string"], ["text"], ["string", "text"]):
        some = x.only(names)
        own = train & some.covered
        fitted = fit(some.part(own), y[own], probes="ridge")
        error[len(names), names[0]] = l2(fitted.predict(some.part(test), "A").values, y[test]).mean()
    assert error[2, "string"] < min(error[1, "string"], error[1, "text"])

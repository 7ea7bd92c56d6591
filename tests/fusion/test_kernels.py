"""Kernel fusions: closed forms against refits, scikit-learn, and what they must show on planted data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from panmodal.errors import InputError
from panmodal.fusion import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.fusion.kernel_features import KINDS, Kernel
from panmodal.fusion.kernel_weights import Smoother, learn_weights, leave_one_out
from panmodal.probes import LabelTargets, ProbeCV, Targets

RNG = np.random.default_rng(3)


def fit(name, x, y, **options):
    fusion = get_fusion(name)
    targets = LabelTargets(y) if y.dtype == np.int8 else Targets.of(y)
    modalities = x if isinstance(x, Modalities) else Modalities.of(x)
    return fit_fusion(
        fusion, modalities, {"c": ContextTargets(np.arange(len(y)), targets)}, fusion.settings(options), Setting()
    )


def predict(fitted, x):
    return fitted.predict(x if isinstance(x, Modalities) else Modalities.of(x), "c")


def halves(n=300, t=60, noise=0.5, seed=0, missing=0.0):
    """Responses to which two modalities contribute one half each, of vectors that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    x = {k: rng.normal(size=(n, 8)) for k in ("a", "b")}
    y = sum(v @ rng.normal(size=(8, t)) / np.sqrt(8) for v in x.values()) + noise * rng.normal(size=(n, t))
    for k in x:
        x[k][rng.random(n) < missing] = np.nan
    return x, y


def problem(n=25, k=3, t=7, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    present = rng.random((k, n)) >= missing
    kernels = []
    for own in present:
        z = rng.normal(size=(n, 4)) * own[:, None]
        kernels.append(z @ z.T / 4)
    return kernels, (~present).astype(float), rng.normal(size=(n, t))


def test_leave_one_out_is_what_refitting_gives() -> None:
    kernels, absent, y = problem()
    log_weights = np.array([-0.5, 0.3, -1.0])
    weights = np.exp(log_weights)
    noise = 1 + weights @ absent
    loo, _ = leave_one_out(log_weights, kernels, absent, y @ y.T)
    errors = []
    for i in range(len(y)):
        keep = np.delete(np.arange(len(y)), i)
        smoother = Smoother.of([k[np.ix_(keep, keep)] for k in kernels], weights, noise[keep])
        cross = sum(w * k[i, keep] for w, k in zip(weights, kernels, strict=True))
        errors.append(np.linalg.norm(y[i] - (cross @ smoother.dual + smoother.bias) @ y[keep]))
    assert loo == pytest.approx(np.mean(errors), rel=1e-9)


@settings(max_examples=12)
@given(seed=st.integers(0, 50), missing=st.sampled_from([0.0, 0.4]))
def test_the_gradient_is_that_of_the_error(seed, missing) -> None:
    kernels, absent, y = problem(seed=seed, missing=missing)
    gram = y @ y.T
    start = np.random.default_rng(seed).normal(size=3)
    wrong = check_grad(
        lambda w: leave_one_out(w, kernels, absent, gram)[0],
        lambda w: leave_one_out(w, kernels, absent, gram)[1],
        start,
        epsilon=1e-6,
    )
    assert wrong < 1e-5


def test_a_constant_response_is_a_constant_prediction() -> None:
    x, y = halves(n=60)
    found = predict(fit("kernels", x, np.ones_like(y) * 3.5), x)
    np.testing.assert_allclose(found.values, 3.5, atol=1e-9)


@pytest.mark.parametrize("name", ["concat", "kernels"])
@settings(max_examples=8)
@given(scale=st.floats(0.1, 100), shift=st.floats(-50, 50))
def test_predictions_follow_units_and_origin_of_the_response(name, scale, shift) -> None:
    x, y = halves(n=50, t=12, noise=1.0)
    plain = predict(fit(name, x, y), x)
    moved = predict(fit(name, x, scale * y + shift), x)
    np.testing.assert_allclose(moved.values, scale * plain.values + shift, rtol=1e-3, atol=2e-3 * scale)
    np.testing.assert_allclose(moved.variance, scale**2 * plain.variance, rtol=1e-2)


def test_the_order_of_ids_and_of_modalities_does_not_matter() -> None:
    x, y = halves(n=80, missing=0.2)
    order = RNG.permutation(80)
    new = {k: v[:9] for k, v in halves(n=80, seed=5)[0].items()}
    plain = predict(fit("kernels", x, y), new).values
    shuffled = predict(fit("kernels", {k: x[k][order] for k in ("b", "a")}, y[order]), {k: new[k] for k in ("b", "a")})
    np.testing.assert_allclose(plain, shuffled.values, rtol=1e-3, atol=1e-3)
    again = predict(fit("kernels", x, y), new).values
    assert (plain == again).all()


def test_concatenation_is_ridge_on_the_columns_side_by_side() -> None:
    from sklearn.linear_model import Ridge

    x, y = halves(n=70, t=9)
    fitted = fit("concat", x, y)
    new = {k: v[:20] * 0.5 for k, v in x.items()}
    blocks, tests = [], []
    for k in x:
        mean, sd = x[k].mean(axis=0), x[k].std(axis=0)
        z = (x[k] - mean) / sd
        scale = np.sqrt(fitted.weights[0] / (z**2).sum(axis=1).mean())
        blocks.append(z * scale)
        tests.append((new[k] - mean) / sd * scale)
    theirs = Ridge(alpha=1.0).fit(np.hstack(blocks), y).predict(np.hstack(tests))
    np.testing.assert_allclose(predict(fitted, new).values, theirs, rtol=1e-8, atol=1e-8)


def test_mean_and_variance_are_those_of_a_gaussian_process() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel as Base

    x, y = halves(n=40, t=3)
    fitted = fit("kernels", x, y, kinds=["gaussian"])
    new = {k: v[:6] for k, v in halves(n=40, seed=2)[0].items()}

    class Sum(Base):
        """The weighted sum, with a broad constant in place of the bias."""

        def __init__(self):
            pass

        def __call__(self, a, b=None, eval_gradient=False):
            values = np.full((len(a), len(a if b is None else b)), 1e7)
            for part, weight in zip(fitted.parts, fitted.weights, strict=True):
                at = slice(0, 8) if part.modality == 0 else slice(8, 16)
                f, g = (
                    part.kernel.features.transform(a[:, at]),
                    part.kernel.features.transform((a if b is None else b)[:, at]),
                )
                values += weight * np.exp((f @ g.T - 1) / part.kernel.width) / part.kernel.norm
            return values

        def diag(self, a):
            return np.diag(self(a))

        def is_stationary(self):
            return False

    process = GaussianProcessRegressor(Sum(), alpha=1.0, optimizer=None).fit(np.hstack([x["a"], x["b"]]), y)
    mean, sd = process.predict(np.hstack([new["a"], new["b"]]), return_std=True)
    found = predict(fitted, new)
    np.testing.assert_allclose(found.values, mean, rtol=1e-4, atol=1e-4)
    # Theirs is of the function, ours of a measurement: one unit of noise more.
    np.testing.assert_allclose(
        found.variance / fitted.noise,
        (sd**2)[:, :1].repeat(3, 1) + 1 if sd.ndim == 2 else sd[:, None] ** 2 + 1,
        rtol=1e-3,
    )


def test_an_id_that_lacks_a_modality_is_told_by_the_others_and_less_sure() -> None:
    x, y = halves(n=200, missing=0.3)
    fitted = fit("kernels", x, y)
    new = halves(n=50, seed=0)[0]
    whole = predict(fitted, new)
    lacking = {"a": new["a"], "b": np.full_like(new["b"], np.nan)}
    half = predict(fitted, lacking)
    assert (half.variance > whole.variance).all()
    assert np.isfinite(half.values).all()
    # What it lacks has no say: any vector could stand there.
    only = Modalities.of({"a": new["a"], "b": np.full_like(new["b"], np.nan)})
    only.values[1][:] = 1e9
    assert (predict(fitted, only).values == half.values).all()


def test_a_training_id_that_lacks_a_modality_counts_less() -> None:
    x, y = halves(n=60, t=4)
    y[:10] += 20 * RNG.normal(size=(10, 4))  # nonsense
    lacking = {"a": x["a"], "b": x["b"].copy()}
    lacking["b"][:10] = np.nan
    fitted = fit("kernels", lacking, y, kinds=["cosine"])
    noise = 1 / np.diag(fitted.smoother.inverse)
    assert noise[:10].mean() > noise[10:].mean()


def joint_gap(x, y, new, true, prediction) -> float:
    floor = np.linalg.norm(true - y.mean(axis=0), axis=1).mean()
    joint = ProbeCV("ridge").fit(np.hstack(list(x.values())), y).predict(np.hstack(list(new.values())))
    best = np.linalg.norm(true - joint, axis=1).mean()
    return (floor - np.linalg.norm(true - prediction, axis=1).mean()) / (floor - best)


@pytest.mark.parametrize("name", ["kernels", "concat", "pca_concat"])
def test_complementary_halves_are_put_together(name) -> None:
    x, y = halves(n=500)
    train, new = ({k: v[s] for k, v in x.items()} for s in (slice(0, 400), slice(400, None)))
    found = predict(fit(name, train, y[:400]), new).values
    singles = [ProbeCV("ridge").fit(train[k], y[:400]).predict(new[k]) for k in x]
    assert joint_gap(train, y[:400], new, y[400:], found) > 0.9
    assert max(joint_gap(train, y[:400], new, y[400:], s) for s in singles) < 0.6


def test_a_modality_of_noise_gets_next_to_no_weight_and_does_no_harm() -> None:
    x, y = halves(n=400)
    x["noise"] = RNG.normal(size=(400, 20))
    train, new = ({k: v[s] for k, v in x.items()} for s in (slice(0, 300), slice(300, None)))
    fitted = fit("kernels", train, y[:300])
    share = {r["modality"]: 0.0 for r in fitted.tables()}
    for row in fitted.tables():
        if row["what"] == "weight":
            share[row["modality"]] += row["value"]
    assert share["noise"] < 0.05
    importance = {r["modality"]: r["value"] for r in fitted.tables() if r["what"] == "importance"}
    assert abs(importance["noise"]) < 0.02 * importance["a"]
    without = predict(fit("kernels", {k: train[k] for k in "ab"}, y[:300]), {k: new[k] for k in "ab"}).values
    errors = [np.linalg.norm(y[300:] - p, axis=1) for p in (predict(fitted, new).values, without)]
    assert errors[0].mean() < 1.01 * errors[1].mean()


def test_the_predictive_variance_is_the_error() -> None:
    x, y = halves(n=500, missing=0.3)
    train, new = (Modalities.of({k: v[s] for k, v in x.items()}) for s in (slice(0, 400), slice(400, None)))
    keep = new.covered
    rows = train.covered
    found = predict(fit("kernels", train.part(rows), y[:400][rows]), new.part(keep))
    error = ((y[400:][keep] - found.values) ** 2).mean(axis=1)
    told = found.variance.mean(axis=1)
    assert 0.85 < error.mean() / told.mean() < 1.15
    lacking = ~new.part(keep).present.all(axis=1)
    assert (
        0.8 < (error[lacking].mean() / error[~lacking].mean()) / (told[lacking].mean() / told[~lacking].mean()) < 1.25
    )


def test_a_value_that_training_never_saw_throws_nothing() -> None:
    x, y = halves(n=100)
    x["a"][:, 0] = 0.0
    x["a"][0, 0] = 1e-3  # hardly varies in training
    fitted = fit("concat", x, y)
    new = {k: v[:5].copy() for k, v in x.items()}
    plain = predict(fitted, new).values
    new["a"][:, 0] = 1e3
    assert np.abs(predict(fitted, new).values - plain).max() < 2 * np.abs(y).max()


def test_labels_are_told_by_probabilities() -> None:
    x, y = halves(n=400, t=30, noise=0.3)
    labels = np.where(np.abs(y) > 1.2, np.sign(y), 0).astype(np.int8)
    train, new = ({k: v[s] for k, v in x.items()} for s in (slice(0, 300), slice(300, None)))
    found = predict(fit("kernels", train, labels[:300], kinds=["cosine"]), new)
    assert found.variance is None and found.values.shape == (100, 60)
    assert (found.values >= 0).all() and (found.values[:, :30] + found.values[:, 30:] <= 1 + 1e-6).all()
    from panmodal.probes.labels import one_minus_f1

    def f1(p):
        return 1 - one_minus_f1(labels[300:], p[:, :30].astype(np.float32), p[:, 30:].astype(np.float32))

    single = ProbeCV("ridge_classifier").fit(train["a"], labels[:300]).predict_proba(new["a"])
    assert f1(found.values) > f1(np.concatenate([single[:, 0], single[:, 2]], axis=1)) + 0.05


def test_weights_learned_from_a_part_are_near_those_of_all() -> None:
    x, y = halves(n=400)
    x["noise"] = RNG.normal(size=(400, 20))
    few, whole = fit("kernels", x, y, most=150), fit("kernels", x, y)
    assert few.hyperparameters["learned_on"] == 150 and len(few.responses) == 400
    shares = [f.weights / f.weights.sum() for f in (few, whole)]
    assert np.abs(shares[0] - shares[1]).max() < 0.12


def test_weights_learned_are_no_worse_than_equal_ones() -> None:
    kernels, absent, y = problem(n=60, k=4, t=20)
    equal, common = learn_weights(kernels, absent, y @ y.T, equal=True)
    _, found = learn_weights(kernels, absent, y @ y.T)
    assert found <= common + 1e-6 and len(set(equal)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_have_a_mean_diagonal_of_one_and_no_negative_eigenvalue(kind) -> None:
    x = RNG.normal(size=(30, 6)) * np.array([1, 1, 1, 1, 1, 0.0]) + 4
    kernel = Kernel.fit(kind, x)
    gram = kernel.gram()
    assert np.diag(gram).mean() == pytest.approx(1)
    assert np.linalg.eigvalsh(gram).min() > -1e-9
    across, own = kernel.across(x)
    np.testing.assert_allclose(across, gram, atol=1e-12)
    np.testing.assert_allclose(own, np.diag(gram), atol=1e-12)


def test_one_modality_is_enough() -> None:
    x, y = halves(n=60, t=4)
    fitted = fit("kernels", {"a": x["a"]}, y)
    assert [r for r in fitted.tables() if r["what"] == "importance"] == []
    assert predict(fitted, {"a": x["a"][:3]}).values.shape == (3, 4)


def test_bad_input_is_refused(refuses) -> None:
    x, y = halves(n=40, t=3)
    refuses(["'flat'", "are the same"], fit, "kernels", {"a": x["a"], "flat": np.ones((40, 3))}, y)
    refuses(["'b'", "leave it out"], fit, "kernels", {"a": x["a"], "b": np.full((40, 2), np.nan)}, y)
    refuses(["context 'c'", "at least 10"], fit, "kernels", {"a": x["a"][:9]}, y[:9])
    refuses(["kinds", "kernels", "width"], fit, "kernels", x, y, kinds=["cubic"])
    refuses(["Extra inputs", "options are: kinds"], fit, "kernels", x, y, cubic=1)
    fitted = fit("kernels", x, y)
    with pytest.raises(InputError, match="fitted in context 'c'"):
        fitted.predict(Modalities.of(x), "d")
    refuses(["no fusion 'sum'", "kernels"], get_fusion, "sum")


def test_modalities_are_checked(refuses) -> None:
    refuses(["at least one"], Modalities.of, {})
    refuses(["'a'", "ids x dims"], Modalities.of, {"a": np.zeros(3)})
    refuses(["'a': row 1", "all NaN"], Modalities.of, {"a": np.array([[1.0, 2.0], [np.nan, 1.0]])})
    refuses(["a: 2, b: 3", "same ids"], Modalities.of, {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})
    made = Modalities.of({"a": np.array([[1.0], [np.nan], [np.nan]]), "b": np.array([[1.0], [2.0], [np.nan]])})
    assert made.covered.tolist() == [True, True, False]
    assert {k: v.tolist() for k, v in made.patterns().items()} == {
        (True, True): [0],
        (False, True): [1],
        (False, False): [2],
    }
    assert made.only(["b"]).names == ("b",) and len(made.part(np.array([0, 2]))) == 2

"""Probes against scikit-learn and against the protocol written out naively."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Lasso, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from panmodal import InputError, ProbeCV
from panmodal.probes import Design, Targets, get_probe, probes, select
from panmodal.probes.base import CONTINUOUS, Probe


def data(n: int = 150, dims: int = 12, t: int = 40, m: int = 30, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + m, dims)) * rng.lognormal(size=dims)
    y = np.tanh(x @ rng.standard_normal((dims, t)) / 3) + 0.3 * rng.standard_normal((n + m, t)) + 5
    return x[:n], y[:n], x[n:], y[n:]


def responses(name: str, y: np.ndarray) -> np.ndarray:
    """Responses of the kind that a probe serves: y, or labels of it."""
    if get_probe(name).kinds == CONTINUOUS:
        return y
    z = (y - y.mean(axis=0)) / y.std(axis=0)
    return np.where(np.abs(z) > 1, np.sign(z), 0)


def l2(true: np.ndarray, predicted: np.ndarray) -> float:
    return -float(np.linalg.norm(true - predicted, axis=1).mean())


MODELS = {
    "knn": (KNeighborsRegressor(), "n_neighbors"),
    "lasso": (Lasso(tol=1e-10, max_iter=100_000), "alpha"),
    "ridge": (Ridge(), "alpha"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("n", "dims"), [(150, 12), (150, 130), (40, 60), (60, 1)])
def test_a_probe_equals_the_scikit_learn_grid_search(name: str, n: int, dims: int) -> None:
    x, y, x_test, _ = data(n, dims)
    keep = min(100, dims, int(0.8 * n) - 1)
    ours = ProbeCV(name).fit(x, y)
    model, parameter = MODELS[name]
    grid = [int(v) if name == "knn" else v for v in ours.selection_.candidates]
    theirs = GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("pca", PCA(keep, svd_solver="full")), ("probe", model)]),
        {f"probe__{parameter}": grid}, cv=KFold(5, shuffle=True, random_state=42), scoring=make_scorer(l2),
    ).fit(x, y)  # fmt: skip
    np.testing.assert_allclose(ours.selection_.errors, -theirs.cv_results_["mean_test_score"], rtol=1e-8)
    assert ours.selection_.value == theirs.best_params_[f"probe__{parameter}"]
    np.testing.assert_allclose(ours.predict(x_test), theirs.predict(x_test), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [p.name for p in probes().values() if p.kinds == CONTINUOUS])
def test_inner_errors_equal_those_of_explicit_predictions(name: str) -> None:
    x, y, _, _ = data(n=120)
    design, targets, probe = Design.build(x, x[:0]), Targets.of(y), get_probe(name)
    grid = probe.candidates(probe.grid, len(x))
    for fold in design.inner:
        quick = probe.errors(fold, targets, grid)
        part = Targets.of(y[fold.train])
        for k, value in enumerate(grid):
            explicit = np.linalg.norm(probe.predict(type(fold)(fold.z_train, fold.z_test, np.arange(len(fold.train)), fold.test), part, value)
                                      - y[fold.test], axis=1)  # fmt: skip
            np.testing.assert_allclose(quick[k], explicit, rtol=1e-9)


def naive_knn(z: np.ndarray, y: np.ndarray, z_test: np.ndarray, k: int) -> np.ndarray:
    """The protocol's rule: neighbours at the k-th distance share its remaining weight equally."""
    out = []
    for row in z_test:
        distance = np.round(((z - row) ** 2).sum(axis=1), 9)
        kth = np.sort(distance)[k - 1]
        closer, level = distance < kth, distance == kth
        out.append((y[closer].sum(axis=0) + (k - closer.sum()) * y[level].mean(axis=0)) / k)
    return np.array(out)


def test_tied_neighbours_share_the_weight_and_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    x = np.repeat(rng.integers(0, 3, size=(30, 4)).astype(float), 5, axis=0)
    y, x_test = rng.standard_normal((150, 7)), rng.integers(0, 3, size=(25, 4)).astype(float)
    design, knn = Design.build(x, x_test), get_probe("knn")
    targets = Targets.of(y)
    for k in (20, 40, 60):
        predicted = knn.predict(design.final, targets, k)
        np.testing.assert_allclose(predicted, naive_knn(design.final.z_train, y, design.final.z_test, k), atol=1e-12)
        order = rng.permutation(150)
        shuffled = Design.build(x[order], x_test)
        np.testing.assert_allclose(knn.predict(shuffled.final, Targets.of(y[order]), k), predicted, atol=1e-12)
    for fold in design.inner:
        errors = knn.errors(fold, targets, (20, 40, 60, 80, 100))
        for row, k in enumerate((20, 40, 60, 80, 100)):
            explicit = naive_knn(fold.z_train, y[fold.train], fold.z_test, k) - y[fold.test]
            np.testing.assert_allclose(errors[row], np.linalg.norm(explicit, axis=1), rtol=1e-10)


def test_k_is_cut_to_what_the_inner_folds_allow() -> None:
    knn = get_probe("knn")
    assert knn.candidates(knn.grid, 200) == (20, 40, 60, 80, 100)
    assert knn.candidates(knn.grid, 60) == (20, 40)
    assert knn.candidates(knn.grid, 20) == (15,)


def test_select_takes_the_first_of_equal_candidates() -> None:
    flat = Probe(
        "flat",
        "",
        ("lfc",),
        "a",
        (3.0, 1.0, 2.0),
        lambda f, t, g: np.ones((len(g), len(f.test))),
        lambda f, t, v: np.zeros((0, 0)),
    )
    x, y, _, _ = data(n=30)
    chosen = select(flat, Design.build(x, x[:0]), Targets.of(y))
    assert chosen.value == 3.0 and chosen.at_edge


@pytest.mark.parametrize("name", probes())
def test_test_rows_do_not_touch_the_fit(name: str) -> None:
    x, y, x_test, _ = data(n=60)
    fitted = ProbeCV(name).fit(x, responses(name, y))
    alone = np.vstack([fitted.predict(row[None]) for row in x_test])
    np.testing.assert_allclose(alone, fitted.predict(x_test), rtol=1e-9)


@pytest.mark.parametrize("name", probes())
def test_constant_and_empty_dimensions_carry_nothing(name: str) -> None:
    x, y, x_test, _ = data(n=60, dims=4)
    padded = [np.hstack([a, np.full((len(a), 1), 7.3), np.zeros((len(a), 2))]) for a in (x, x_test)]
    np.testing.assert_allclose(
        ProbeCV(name).fit(padded[0], responses(name, y)).predict(padded[1]),
        ProbeCV(name).fit(x, responses(name, y)).predict(x_test), rtol=1e-8,
    )  # fmt: skip


def test_rounding_dust_is_not_blown_up_by_standardisation() -> None:
    x, y, x_test, _ = data(n=60, dims=4)
    dust = np.random.default_rng(0).standard_normal((60, 1)) * 1e-17
    fitted = ProbeCV("ridge").fit(np.hstack([x, dust]), y)
    odd = np.hstack([x_test, np.ones((len(x_test), 1))])
    assert np.abs(fitted.predict(odd)).max() < 100


def test_an_embedding_without_any_variation_predicts_the_mean() -> None:
    _, y, _, _ = data(n=40)
    for name in ("ridge", "lasso"):
        predicted = ProbeCV(name).fit(np.ones((40, 3)), y).predict(np.ones((2, 3)))
        np.testing.assert_allclose(predicted, np.tile(y.mean(axis=0), (2, 1)), rtol=1e-10)
    tied = ProbeCV("knn").fit(np.ones((40, 3)), y).predict(np.ones((2, 3)))
    np.testing.assert_allclose(tied, np.tile(y.mean(axis=0), (2, 1)), rtol=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-50, 50), st.floats(0.1, 10))
def test_shifted_and_rescaled_targets_shift_and_rescale_knn_and_ridge(seed: int, shift: float, scale: float) -> None:
    x, y, x_test, _ = data(n=50, dims=5, t=6, seed=seed)
    for name in ("knn", "ridge"):
        plain, moved = ProbeCV(name).fit(x, y), ProbeCV(name).fit(x, scale * y + shift)
        assert plain.selection_.value == moved.selection_.value
        np.testing.assert_allclose(moved.predict(x_test), scale * plain.predict(x_test) + shift, rtol=1e-6, atol=1e-6)


def test_bad_arrays_are_refused() -> None:
    x, y, _, _ = data(n=30)
    with pytest.raises(InputError, match="same number of rows"):
        ProbeCV("knn").fit(x, y[:-1])
    with pytest.raises(InputError, match="finite"):
        ProbeCV("knn").fit(np.where(x == x[0, 0], np.nan, x), y)
    with pytest.raises(InputError, match="too few"):
        ProbeCV("knn").fit(x[:9], y[:9])
    with pytest.raises(InputError, match="no probe 'forest'; there are knn"):
        ProbeCV("forest").fit(x, y)

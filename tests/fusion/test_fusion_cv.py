import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from panmodal.fusion import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.fusion.fusion_cv import FusionCV
from panmodal.probes import Targets


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((70, 4))
    x = {
        k: latents @ rng.standard_normal((4, d)) + rng.standard_normal((70, d)) for k, d in (("string", 6), ("text", 5))
    }
    x["text"][::6] = np.nan
    y = latents @ rng.standard_normal((4, 15)) + 0.3 * rng.standard_normal((70, 15))
    return x, y


def part(x, rows):
    return {k: v[rows] for k, v in x.items()}


TRAIN, TEST = slice(0, 55), slice(55, 70)


@pytest.mark.parametrize("name", ["late", "stack", "concat", "kernels"])
def test_predicts_as_the_fusion_does(data, name):
    x, y = data
    model = FusionCV(name).fit(part(x, TRAIN), y[TRAIN])
    fusion = get_fusion(name)
    fitted = fit_fusion(fusion, Modalities.of(part(x, TRAIN)), {"": ContextTargets(np.arange(55), Targets.of(y[TRAIN]))},
                        fusion.settings(), Setting())  # fmt: skip
    expected = fitted.predict(Modalities.of(part(x, TEST)), "")
    np.testing.assert_allclose(model.predict(part(x, TEST)), expected.values)
    assert list(model.weights_.columns) == ["what", "context", "modality", "part", "value"]
    assert model.hyperparameters_.keys() == fitted.hyperparameters.keys()
    if name in ("late", "stack"):
        assert model.hyperparameters_ == fitted.hyperparameters
    pd.testing.assert_frame_equal(model.weights_, pd.DataFrame(fitted.tables()))
    swapped = dict(reversed(part(x, TEST).items()))
    np.testing.assert_array_equal(model.predict(swapped), model.predict(part(x, TEST)))
    assert np.linalg.norm(model.predict(part(x, TEST)) - y[TEST]) < 0.9 * np.linalg.norm(
        y[TEST] - y[TRAIN].mean(axis=0)
    )


def test_labels(data, refuses):
    x, y = data
    labels = np.where(np.abs(y) > 1, np.sign(y), 0).astype(int)
    model = FusionCV("stack").fit(part(x, TRAIN), labels[TRAIN])
    proba = model.predict_proba(part(x, TEST))
    assert proba.shape == (15, 3, 15)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    found = model.predict(part(x, TEST))
    assert found.dtype == np.int8 and set(np.unique(found)) <= {-1, 0, 1}
    assert (found == labels[TEST]).mean() > 0.5
    as_floats = FusionCV("stack").fit(part(x, TRAIN), labels[TRAIN].astype(float), classes=True)
    np.testing.assert_array_equal(as_floats.predict(part(x, TEST)), found)
    assert FusionCV("late").fit(part(x, TRAIN), labels[TRAIN], classes=False).predict(part(x, TEST)).dtype == np.float64
    refuses(["-1, 0 or 1", "holds 2", "floats"], FusionCV("late").fit, part(x, TRAIN), labels[TRAIN] * 2)
    several = FusionCV("late", members=2).fit(part(x, TRAIN), labels[TRAIN])
    assert several.predict_variance(part(x, TEST)).shape == (15, 2, 15)


def test_contexts_are_fitted_alone_or_jointly(data):
    x, y = data
    other = np.full(y.shape, np.nan)
    other[10:] = 2 * y[10:]
    both = {"A": y[TRAIN], "B": other[TRAIN]}
    model = FusionCV("stack").fit(part(x, TRAIN), both)
    alone = FusionCV("stack").fit(part(x, slice(10, 55)), other[10:55])
    np.testing.assert_allclose(model.predict(part(x, TEST), "B"), alone.predict(part(x, TEST)), atol=1e-9)
    assert set(model.weights_["context"]) == {"A", "B"} == set(model.hyperparameters_)
    seen = []

    def fit(train, contexts, options, setting):
        seen.append({c: own.rows.tolist() for c, own in contexts.items()})
        return get_fusion("late").fit(train, {"A": contexts["A"]}, get_fusion("late").settings(), setting)

    joint = replace(get_fusion("late"), fit=fit, joint=True)
    model = FusionCV(joint).fit(part(x, TRAIN), both)
    assert seen == [{"A": list(range(55)), "B": list(range(10, 55))}]
    assert "ridge" in model.hyperparameters_


def test_ids_without_any_modality_are_told(data):
    x, y = data
    x["string"][[3, 57, 60]] = np.nan
    x["text"][[3, 57, 60]] = np.nan
    with pytest.warns(UserWarning, match="1 of 55 training ids"):
        model = FusionCV("late", members=2).fit(part(x, TRAIN), y[TRAIN])
    test = part(x, TEST)
    covered = model.covered(test)
    assert np.flatnonzero(~covered).tolist() == [2, 5]
    with pytest.warns(UserWarning, match=r"2 of 15 ids .*covered\(\)"):
        found = model.predict(test)
    np.testing.assert_allclose(found[~covered], np.tile(y[TRAIN].mean(axis=0), (2, 1)))
    with pytest.warns(UserWarning):
        variance = model.predict_variance(test)
    assert np.isnan(variance[~covered]).all() and (variance[covered] >= 0).all()
    nothing = {k: np.full((2, v.shape[1]), np.nan) for k, v in x.items()}
    with pytest.warns(UserWarning, match="2 of 2"):
        assert np.isnan(model.predict_variance(nothing)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(model.predict(part(test, covered))).all()


def test_options_seed_and_members(data):
    x, y = data
    lasso = FusionCV("late", {"probe": "knn"}).fit(part(x, TRAIN), y[TRAIN])
    assert "knn" in lasso.hyperparameters_
    one, two, three = (
        FusionCV("late", members=2, seed=s).fit(part(x, TRAIN), y[TRAIN]).predict(part(x, TEST)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, three)


def test_errors(data, refuses):
    x, y = data
    train, test = part(x, TRAIN), part(x, TEST)
    late = FusionCV("late")
    refuses(["not fitted", "call fit"], late.predict, test)
    refuses(["not fitted"], late.predict_proba, test)
    refuses(["not fitted"], lambda: late.hyperparameters_)
    refuses(["no fusion 'foo'", "late"], FusionCV("foo").fit, train, y[TRAIN])
    refuses(["at least 1"], FusionCV("late", members=0).fit, train, y[TRAIN])
    refuses(["{name: matrix}"], late.fit, y[TRAIN], y[TRAIN])
    refuses(["'text'", "numbers"], late.fit, {**train, "text": [["a"]]}, y[TRAIN])
    refuses(["55 rows", "(70, 15)"], late.fit, train, y)
    refuses(["55 rows", "(55,)"], late.fit, train, y[TRAIN, 0])
    refuses(["numbers, not"], late.fit, train, np.full((55, 2), "x"))
    refuses(["no context"], late.fit, train, {})
    partly = y[TRAIN].copy()
    partly[4, 2] = np.nan
    refuses(["context 'A'", "row 4", "all NaN"], late.fit, train, {"A": partly})
    refuses(["'B'", "5 rows", "10"], late.fit, train, {"B": np.where(np.arange(55)[:, None] < 5, y[TRAIN], np.nan)})
    refuses(["integers", "classes=True"], late.fit, train, {"A": y[TRAIN], "B": np.ones((55, 3), dtype=int)})
    numbers = replace(get_fusion("late"), kinds=("lfc",))
    refuses(["'late'", "labels", "classes="], FusionCV(numbers).fit, train, np.ones((55, 3), dtype=int))
    model = late.fit(train, {"A": y[TRAIN], "B": y[TRAIN]})
    refuses(["no context given", "'A', 'B'"], model.predict, test)
    refuses(["'C'", "'A', 'B'"], model.predict, test, "C")
    refuses(["{name: matrix}"], model.predict, y)
    refuses(["'text'", "not given", "NaN"], model.predict, {"string": test["string"]}, "A")
    refuses(["'more'", "leave it out"], model.predict, {**test, "more": test["text"]}, "A")
    refuses(["'text'", "5 dims", "has 6"], model.predict, {**test, "text": test["string"]}, "A")
    refuses(["numbers", "predict"], model.predict_proba, test, "A")
    refuses(["'late'", "no variance", "members=5"], model.predict_variance, test, "A")
    refuses(["members"], FusionCV("stack", {"members": 3}).fit, train, y[TRAIN])

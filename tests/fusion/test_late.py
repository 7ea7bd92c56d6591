import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.fusion import ContextTargets, Modalities, Setting, experts, fit_fusion, get_fusion
from panmodal.fusion.experts import fold_numbers, folded_design
from panmodal.fusion.stack import FUSION as STACK
from panmodal.probes import Design, ProbeCV, Targets
from panmodal.probes.design import LabelTargets

LATE, SETTING = get_fusion("late"), Setting()


def problem(n=60, m=15, t=20, dims=(6, 4, 130), missing=0.2, seed=0):
    """Modalities and responses of n + m ids; some ids lack some modalities, none all."""
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


def fit(train, targets, setting=SETTING, fusion=LATE, **options):
    targets = LabelTargets(targets) if targets.dtype == np.int8 else Targets.of(targets)
    own = ContextTargets(np.arange(len(train)), targets)
    return fit_fusion(fusion, train, {"A": own}, fusion.settings(options), setting)


@pytest.mark.parametrize("probe", ["ridge", "knn", "lasso"])
def test_is_the_mean_of_what_each_modality_predicts_alone(probe):
    x, y = problem()
    fitted = fit(x.part(np.arange(60)), y[:60], probe=probe)
    predicted = fitted.predict(x.part(np.arange(60, 75)), "A")
    total, count = np.zeros((15, 20)), np.zeros(15)
    for k in range(3):
        own, test = x.present[:60, k], x.present[60:, k]
        alone = ProbeCV(probe).fit(x.values[k][:60][own], y[:60][own])
        assert fitted.hyperparameters[probe][alone_parameter(probe)]["abc"[k]] == alone.selection_.value
        total[test] += alone.predict(x.values[k][60:][test])
        count += test
    np.testing.assert_allclose(predicted.values, total / count[:, None], atol=1e-10)
    assert predicted.variance is None


def alone_parameter(probe):
    return {"knn": "k"}.get(probe, "alpha")


def test_classes_average_their_probabilities():
    x, y = problem()
    labels = labels_of(y)
    fitted = fit(x.part(np.arange(60)), labels[:60])
    values = fitted.predict(x.part(np.arange(60, 75)), "A").values
    assert values.shape == (15, 40) and values.dtype == np.float32
    total, count = np.zeros((15, 40)), np.zeros(15)
    for k in range(3):
        own, test = x.present[:60, k], x.present[60:, k]
        proba = (
            ProbeCV("ridge_classifier")
            .fit(x.values[k][:60][own], labels[:60][own])
            .predict_proba(x.values[k][60:][test])
        )
        total[test] += np.concatenate([proba[:, 0], proba[:, 2]], axis=1)
        count += test
    np.testing.assert_allclose(values, total / count[:, None], atol=1e-6)
    assert values.min() >= 0 and (values[:, :20] + values[:, 20:]).max() <= 1 + 1e-6


@settings(max_examples=12)
@given(order=st.permutations([0, 1, 2]), seed=st.integers(0, 5))
def test_the_order_of_modalities_does_not_matter(order, seed):
    x, y = problem(n=30, m=6, dims=(3, 4, 5), seed=seed)
    names = ["abc"[k] for k in order]
    one = fit(x.part(np.arange(30)), y[:30]).predict(x.part(np.arange(30, 36)), "A").values
    other = fit(x.only(names).part(np.arange(30)), y[:30]).predict(x.only(names).part(np.arange(30, 36)), "A").values
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_context_may_have_some_of_the_ids_in_any_order():
    x, y = problem()
    rows = np.random.default_rng(0).permutation(60)[:40]
    own = ContextTargets(rows, Targets.of(y[rows]))
    test = x.part(np.arange(60, 75))
    some = fit_fusion(LATE, x.part(np.arange(60)), {"A": own}, LATE.settings(), Setting()).predict(test, "A").values
    np.testing.assert_allclose(some, fit(x.part(rows), y[rows]).predict(test, "A").values, atol=1e-12)


def test_tells_equal_weights_and_what_it_chose():
    x, y = problem()
    told = []
    fitted = fit(x.part(np.arange(60)), y[:60], Setting(progress=lambda done, todo: told.append((done, todo))))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [(r["modality"], r["part"], r["context"]) for r in fitted.tables()] == [(k, "ridge", "A") for k in "abc"]
    assert all(r["value"] == pytest.approx(1 / 3) and r["what"] == "weight" for r in fitted.tables())
    assert set(json.loads(json.dumps(fitted.hyperparameters))) == {"ridge", "at_edge"}


@pytest.mark.parametrize("shape", [(40, 6), (23, 50), (130, 110)])
def test_designs_are_those_of_the_protocol_and_are_shared(shape, monkeypatch):
    x = np.random.default_rng(0).standard_normal(shape)
    ours, theirs = folded_design(x, fold_numbers(len(x))), Design.build(x, x[:0])
    for a, b in zip((*ours.inner, ours.final), (*theirs.inner, theirs.final), strict=True):
        for name in ("z_train", "z_test", "train", "test"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    monkeypatch.setattr(experts, "_build", lambda *_: pytest.fail("built again"))
    again = folded_design(x, fold_numbers(len(x)))
    assert again.inner[0].z_train is ours.inner[0].z_train and again.inner[0] is not ours.inner[0]


def test_no_more_designs_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(experts, "CACHE_BYTES", 1)
    rng = np.random.default_rng(1)
    for _ in range(3):
        folded_design(rng.standard_normal((20, 3)), fold_numbers(20))
    assert len(experts._kept) == 1
    experts.forget_designs()
    assert not experts._kept


def test_errors(refuses):
    x, y = problem(missing=0)
    train, test = x.part(np.arange(60)), x.part(np.arange(60, 75))
    few = Modalities.of({"a": train.values[0], "b": np.where(np.arange(60)[:, None] < 9, train.values[1], np.nan)})
    for fusion in (LATE, STACK):
        refuses(["'b'", "9 of 60", "Leave it out"], fit, few, y[:60], fusion=fusion)
    refuses(["no probe 'rigde'", "Its options are: probe"], LATE.settings, {"probe": "rigde"})
    refuses(["'logistic'", "numbers", "ridge"], fit, train, y[:60], probe="logistic")
    refuses(["'knn'", "classes", "ridge_classifier"], fit, train, labels_of(y[:60]), probe="knn")
    fitted = fit(train, y[:60])
    refuses(["'A'", "not 'B'"], fitted.predict, test, "B")
    refuses(["a, b, c", "b, a, c", "same"], fitted.predict, test.only(["b", "a", "c"]), "A")
    wide = Modalities.of({"a": np.ones((2, 7)), "b": np.ones((2, 4)), "c": np.ones((2, 130))})
    refuses(["'a'", "6 dims", "has 7"], fitted.predict, wide, "A")
    absent = Modalities.of({k: np.full((2, d), np.nan) for k, d in zip("abc", (6, 4, 130), strict=True)})
    refuses(["row 0", "no vector"], fitted.predict, absent, "A", error=InputError)

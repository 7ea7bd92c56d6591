"""The attention fusion: what it learns, that it repeats itself, and how it fails."""

import numpy as np
import pytest

from panmodal.errors import InputError, PanmodalError
from panmodal.fusion.base import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.probes.design import LabelTargets, Targets

torch = pytest.importorskip("torch")
FUSION = get_fusion("attention")
QUICK = {"d_model": 16, "heads": 2, "layers": 1, "epochs": 6, "warmup": 1, "head_width": 16, "learning_rate": 0.01}


def make(n=80, t=12, seed=0, contexts=("A", "B"), classes=False):
    """Ids with a good modality, a poor one and a useless one; the second lacks every fifth id."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 4))
    poor = np.c_[z[:, :2], rng.standard_normal((n, 4))] @ rng.standard_normal((6, 7))
    poor[::5] = np.nan
    values = {"good": z @ rng.standard_normal((4, 9)), "poor": poor, "none": rng.standard_normal((n, 5))}
    shared = rng.standard_normal((4, t))
    responses = {
        c: z @ (shared + 0.3 * rng.standard_normal((4, t))) + k + 0.2 * rng.standard_normal((n, t))
        for k, c in enumerate(contexts)
    }
    if classes:
        responses = {c: np.digitize(y, [-1.5, 2.0]).astype(np.int8) - 1 for c, y in responses.items()}
    return Modalities.of(values), responses


def targets(responses, rows):
    own = {}
    for c, y in responses.items():
        own[c] = ContextTargets(rows, LabelTargets(y[rows]) if y.dtype == np.int8 else Targets.of(y[rows]))
    return own


def fit(data, responses, n=60, setting=None, **options):
    rows = np.arange(n)
    how = FUSION.settings({**QUICK, **options})
    return fit_fusion(FUSION, data.part(rows), targets(responses, rows), how, setting or Setting())


def error(fitted, data, y, context, rows):
    return np.linalg.norm(fitted.predict(data.part(rows), context).values - y[rows], axis=1).mean()


def test_it_learns_and_tells_which_modality_matters():
    data, responses = make(n=160)
    fitted = fit(data, responses, n=120, epochs=40, average=0.9, learning_rate=0.02)
    rows = np.arange(120, 160)
    for context, y in responses.items():
        floor = np.linalg.norm(y[rows] - y[:120].mean(axis=0), axis=1).mean()
        assert error(fitted, data, y, context, rows) < 0.6 * floor
    table = fitted.tables()
    lost = {(r["context"], r["modality"]): r["value"] for r in table if r["what"] == "importance"}
    for context in responses:
        assert lost[context, "good"] > max(0.3, 3 * abs(lost[context, "none"]))
    assert {r["part"] for r in table if r["what"] == "attention"} == {"layer 1", "rollout"}
    assert all(0 <= r["value"] <= 1 for r in table if r["what"] == "attention")
    told = fitted.hyperparameters
    assert told["validation_ids"] == 24 and 1 <= told["best_epoch"] <= told["epochs"] <= 40 and told["parameters"] > 0


def test_attention_of_each_id():
    data, responses = make()
    fitted = fit(data, responses, layers=2, context="token")
    attention = fitted.attention(data, "B")
    assert attention.shape == (80, 3, 3) and fitted.parts == ("layer 1", "layer 2", "rollout")
    assert (attention[::5, :, 1] == 0).all() and (attention[1::5, :2, 1] > 0).all()
    assert (attention.sum(axis=2) < 1).all()


@pytest.mark.parametrize("preset", ["small", "simple", "full"])
@pytest.mark.parametrize("classes", [False, True])
def test_every_preset_fits_numbers_and_classes(preset, classes):
    data, responses = make(n=30, classes=classes)
    fitted = fit(data, responses, n=24, preset=preset, epochs=2)
    found = fitted.predict(data, "A").values
    assert np.isfinite(found).all() and found.shape == (30, 24 if classes else 12)
    if classes:
        lowered, raised = found[:, :12], found[:, 12:]
        assert (found >= 0).all() and (lowered + raised <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    "options",
    [{"inputs": i} for i in ("raw", "l2", "zscore", "pca")]
    + [{"context": c, "norm": "post"} for c in ("added", "token", "head")]
    + [
        {"rank": 0},
        {"centre": False},
        {"centre": False, "rank": 0},
        {"rank": 3, "activation": "relu", "weight_decay": 0.0, "schedule": "constant"},
        {"reconstruction": 1.0, "token_norm": True, "average": 0.0},
        {"modality_dropout": 0.9, "input_dropout": 0.5, "refit": False},
        {"head_layers": 0},
    ],
    ids=str,
)
def test_every_option_works(options):
    data, responses = make(n=30)
    fitted = fit(data, responses, n=24, **{**options, "epochs": 2})
    assert np.isfinite(fitted.predict(data, "B").values).all()


def test_classes_are_learned():
    data, responses = make(n=160, classes=True)
    fitted = fit(data, responses, n=120, epochs=25, average=0.9, learning_rate=0.02)
    rows, y = np.arange(120, 160), responses["A"]
    found = fitted.predict(data.part(rows), "A").values
    p = np.stack([found[:, :12], 1 - found[:, :12] - found[:, 12:], found[:, 12:]], axis=2)
    recall = np.mean([(p.argmax(axis=2) - 1 == y[rows])[y[rows] == c].mean() for c in (-1, 0, 1)])
    assert recall > 0.6
    assert fitted.hyperparameters["validation_loss"] < np.log(3)


def test_a_class_that_training_lacks_is_no_trouble():
    data, responses = make(n=30, classes=True)
    responses = {c: np.where(y == 1, 0, y).astype(np.int8) for c, y in responses.items()}
    responses["A"][:, 0] = 0
    assert np.isfinite(fit(data, responses, n=24).predict(data, "A").values).all()


def test_contexts_may_have_different_ids():
    data, responses = make()
    some = np.arange(0, 60, 2)
    own = {"A": targets(responses, np.arange(60))["A"], "B": targets(responses, some)["B"]}
    fitted = fit_fusion(FUSION, data.part(np.arange(60)), own, FUSION.settings(QUICK), Setting())
    assert np.isfinite(fitted.predict(data, "B").values).all()


def test_the_order_of_other_rows_does_not_change_a_prediction():
    data, responses = make()
    fitted = fit(data, responses)
    whole = fitted.predict(data, "A").values
    rows = np.array([70, 3, 41])
    np.testing.assert_allclose(fitted.predict(data.part(rows), "A").values, whole[rows], rtol=1e-4, atol=1e-5)


def test_what_absent_rows_hold_does_not_matter():
    data, responses = make()
    fitted = fit(data, responses)
    hidden = Modalities(data.names, tuple(np.where(p[:, None], x, 7e5) for x, p in zip(data.values, data.present.T, strict=True)),
                        data.present)  # fmt: skip
    np.testing.assert_array_equal(fitted.predict(hidden, "A").values, fitted.predict(data, "A").values)


def test_one_modality_only():
    data, responses = make()
    fitted = fit(data.only(["good"]), responses)
    assert np.isfinite(fitted.predict(data.only(["good"]), "A").values).all()
    assert not [r for r in fitted.tables() if r["what"] == "importance"]


def test_a_constant_modality_tells_nothing():
    data, responses = make()
    flat = Modalities.of({"good": data.values[0], "flat": np.full((80, 3), 2.5)})
    for inputs in ("zscore", "pca"):
        assert np.isfinite(fit(flat, responses, inputs=inputs).predict(flat, "A").values).all()


def test_outliers_stay_within_reach():
    data, responses = make()
    fitted = fit(data, responses, inputs="zscore")
    far = data.values[0].copy()
    far[70:] *= 1e9
    wild = Modalities((*data.names,), (far, *data.values[1:]), data.present)
    assert np.abs(fitted.predict(wild, "A").values).max() < 1e3


def test_progress_is_told():
    data, responses = make(n=30)
    for refit in (False, True):
        calls = []
        fit(
            data,
            responses,
            n=24,
            refit=refit,
            patience=2,
            setting=Setting(progress=lambda *c, calls=calls: calls.append(c)),
        )
        done = [d for d, _ in calls]
        assert done == sorted(done) and len(set(done)) == len(done) and all(d <= total for d, total in calls)
        assert len({total for _, total in calls}) == 1


def test_refusals(refuses):
    data, responses = make(n=30)
    fitted = fit(data, responses, n=24)
    refuses(["context 'C'", "'A', 'B'"], fitted.predict, data, "C")
    refuses(["modalities", "'none', 'good'", "same order"], fitted.predict, data.only(["none", "good"]), "A")
    nowhere = Modalities.of({n: np.where(np.arange(30)[:, None] == 4, np.nan, x)
                             for n, x in zip(data.names, data.values, strict=True)})  # fmt: skip
    refuses(["row 4", "no modality"], fitted.predict, nowhere, "A")
    refuses(["row 4", "no modality"], fitted.attention, nowhere, "A")
    wide = Modalities.of({n: np.c_[x, x] for n, x in zip(data.names, data.values, strict=True)})
    refuses(["'good' has 18 dims", "9 in training"], fitted.predict, wide, "A")
    uneven = {"A": responses["A"], "B": responses["B"][:, :5]}
    refuses(["A: 12", "B: 5", "one by one"], fit, data, uneven, n=24)
    mixed = {"A": responses["A"], "B": np.zeros((30, 12), dtype=np.int8)}
    refuses(["some hold labels"], fit, data, mixed, n=24)
    refuses(["device 'nowhere'", "use 'cpu'"], fit, data, responses, n=24, setting=Setting(device="nowhere"))
    refuses(["validation 0.99"], fit, data, responses, n=24, validation=0.99)


def test_a_loss_that_is_no_number_stops_the_fit():
    data, responses = make()
    with pytest.raises(PanmodalError, match=r"loss of epoch \d+ is (nan|inf).*lower learning_rate") as caught:
        fit(data, responses, learning_rate=1e30, warmup=0, clip=1e30, weight_decay=0.0)
    assert not isinstance(caught.value, InputError)
    huge = Modalities.of({"good": data.values[0] * 1e200})
    with pytest.raises(PanmodalError, match=r"epoch 1 .*another scaling"), np.errstate(over="ignore"):
        fit(huge, responses, inputs="raw")

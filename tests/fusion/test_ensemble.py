import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from panmodal.fusion import ContextTargets, Fused, Modalities, Setting, fit_fusion, get_fusion
from panmodal.fusion.ensemble import drawn, ensemble
from panmodal.probes import Targets
from panmodal.probes.design import LabelTargets

SETTING = Setting()


class Drawn:
    """A fit that predicts what its seed draws, and tells how it was fitted."""

    def __init__(self, train, contexts, setting, variance):
        self.ids = train.values[0][:, 0]
        self.contexts = {c: (own.rows, own.targets.values[:, 0], own.targets.gram) for c, own in contexts.items()}
        self.setting, self.variance = setting, variance
        self.hyperparameters = {"seed": setting.seed}

    def tables(self):
        rows = [
            {"what": "weight", "context": "", "modality": "a", "part": p, "value": float(self.setting.seed)}
            for p in "xy"
        ]
        return rows if self.setting.seed % 2 else rows[:1]

    def predict(self, test, context):
        values = np.random.default_rng(self.setting.seed).standard_normal((len(test), 3))
        return Fused(values, np.full(values.shape, self.variance) if self.variance is not None else None)


def fake(name="fake", variance=None):
    def fit(train, contexts, options, setting):
        if setting.progress:
            setting.progress(1, 2)
            setting.progress(2, 2)
        return Drawn(train, contexts, setting, variance)

    return replace(get_fusion("late"), name=name, fit=fit, joint=True)


def contexts_of(n):
    y = np.arange(n, dtype=float)[:, None] + np.zeros((1, 2))
    return {
        "A": ContextTargets(np.arange(n), Targets.of(y)),
        "B": ContextTargets(np.arange(0, n, 2), Targets.of(y[::2])),
    }


def fit_fake(fusion, setting=SETTING, n=50):
    train = Modalities.of({"a": np.arange(n, dtype=float)[:, None]})
    return fit_fusion(fusion, train, contexts_of(n), fusion.options(), setting)


def test_members_differ_in_their_seed_and_folder():
    told = []
    setting = Setting(seed=7, folder=Path("here"), progress=lambda done, todo: told.append((done, todo)))
    fusion = ensemble(fake("attention"), 3)
    assert fusion.name == "attention x3" and "3 seeds" in fusion.description and fusion.joint
    fitted = fit_fake(fusion, setting)
    assert [m.setting.seed for m in fitted.members] == [7, 8, 9]
    assert [m.setting.folder for m in fitted.members] == [Path(f"here/member-{k}") for k in range(3)]
    assert told == [(k, 6) for k in range(1, 7)]
    assert all(len(m.ids) == 50 for m in fitted.members)
    assert json.loads(json.dumps(fitted.hyperparameters)) == {"members": [{"seed": 7}, {"seed": 8}, {"seed": 9}]}
    assert [(r["part"], r["value"]) for r in fitted.tables()] == [("x", 8.0), ("y", 8.0)]


def test_members_of_a_fusion_without_seed_see_other_training_ids():
    fitted = fit_fake(ensemble(fake(), 4), Setting(seed=1))
    seen = [set(m.ids) for m in fitted.members]
    assert all(len(s) == 40 for s in seen) and len(set(map(frozenset, seen))) == 4
    for k, member in enumerate(fitted.members):
        np.testing.assert_array_equal(member.ids, drawn(50, 1 + k))
        for name, whole in contexts_of(50).items():
            rows, y, gram = member.contexts[name]
            # Responses stay with their ids, and no id enters or leaves a context.
            np.testing.assert_array_equal(member.ids[rows], y)
            assert set(y) == set(whole.rows) & set(member.ids)
            np.testing.assert_allclose(gram, 2 * np.outer(y, y))
    again = fit_fake(ensemble(fake(), 4), Setting(seed=1))
    assert [set(m.ids) for m in again.members] == seen


@pytest.mark.parametrize("own", [None, 0.5])
def test_mean_and_variance_over_members(own):
    fitted = fit_fake(ensemble(fake("attention", own), 5))
    test = Modalities.of({"a": np.ones((6, 1))})
    draws = np.stack([np.random.default_rng(42 + k).standard_normal((6, 3)) for k in range(5)])
    found = fitted.predict(test, "A")
    np.testing.assert_allclose(found.values, draws.mean(axis=0))
    np.testing.assert_allclose(found.variance, draws.var(axis=0, ddof=1) + (own or 0))


def test_errors_and_identity(refuses):
    late = get_fusion("late")
    refuses(["at least 2", "not 1"], ensemble, late, 1)
    refuses(["late x2", "already"], ensemble, ensemble(late, 2))
    assert ensemble(late).identity(late.settings()) != late.identity(late.settings())
    assert ensemble(late, 2).identity(late.settings()) != ensemble(late, 3).identity(late.settings())
    refuses(["context 'A'", "8 of 8"], fit_fusion, ensemble(late, 2), Modalities.of({"a": np.ones((10, 2))}),
            {"A": ContextTargets(np.arange(10), Targets.of(np.ones((10, 2))))}, late.settings(), Setting())  # fmt: skip


def test_can_be_sent_to_a_worker():
    import pickle

    assert pickle.loads(pickle.dumps(ensemble(get_fusion("stack"), 3))).name == "stack x3"


def test_classes_keep_valid_probabilities():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    labels = np.sign(np.round(x @ rng.standard_normal((4, 12)))).astype(np.int8)
    fusion = ensemble(get_fusion("stack"), 3)
    fitted = fit_fusion(fusion, Modalities.of({"a": x[:50]}), {"A": ContextTargets(np.arange(50), LabelTargets(labels[:50]))},
                        fusion.settings(), Setting())  # fmt: skip
    found = fitted.predict(Modalities.of({"a": x[50:]}), "A")
    assert found.values.dtype == np.float32 and found.values.min() >= 0
    assert (found.values[:, :12] + found.values[:, 12:]).max() <= 1 + 1e-6
    assert found.variance.shape == found.values.shape and found.variance.min() >= 0


@pytest.mark.parametrize("name", ["late", "stack"])
def test_variance_tells_which_ids_are_predicted_badly(name):
    rng = np.random.default_rng(0)
    n, m, t, d = 150, 120, 20, 30
    latents = rng.standard_normal((n + m, 4))
    coefficients = rng.standard_normal((4, t))
    y = latents @ coefficients + 0.5 * rng.standard_normal((n + m, t))
    x = {}
    for k in "ab":
        x[k] = latents @ rng.standard_normal((4, d)) + 0.3 * rng.standard_normal((n + m, d))
    lost = np.arange(n + m - 40, n + m)
    for k in x:  # the vectors of these test ids are noise of the same size
        x[k][lost] = x[k].std() * rng.standard_normal((40, d))
    fusion = ensemble(get_fusion(name), 5)
    fitted = fit_fusion(fusion, Modalities.of({k: v[:n] for k, v in x.items()}),
                        {"A": ContextTargets(np.arange(n), Targets.of(y[:n]))}, fusion.settings(), Setting())  # fmt: skip
    found = fitted.predict(Modalities.of({k: v[n:] for k, v in x.items()}), "A")
    spread = found.variance.sum(axis=1)
    error = np.linalg.norm(found.values - y[n:], axis=1)
    assert spearmanr(spread, error).statistic > 0.3
    assert np.median(spread[-40:]) > 1.5 * np.median(spread[:-40])

"""Fusions in a run: planned, stored, resumed, compared and refused like any trial."""

import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, InputError, Screen, Store, run
from panmodal.evaluation.config import RunConfig, make_config
from panmodal.evaluation.evidence import read_evidence
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.evaluation.rescoring import rescore
from panmodal.fusion import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.probes import Targets

CHEAP = {"probes": ["ridge"], "metrics": ["L2", "Pearson"], "n_jobs": 1}


@pytest.mark.parametrize(("text", "expected"), [
    ("kernels", {"method": "kernels"}),
    ("best=stack:string,text", {"method": "stack", "name": "best", "of": ("string", "text")}),
    ("kernels(width=0.3, kinds=[linear, cosine])", {"method": "kernels", "options": {"width": 0.3, "kinds": ["linear", "cosine"]}}),
    ("net = attention(preset=simple, members=5):a", {"method": "attention", "name": "net", "options": {"preset": "simple"}, "of": ("a",),
                                                       "members": 5}),
    ("attention(layers=null)", {"method": "attention", "options": {"layers": None}}),
])  # fmt: skip
def test_the_short_form_is_read(text, expected) -> None:
    assert FusionInput.parse(text) == FusionInput(**expected)


@pytest.mark.parametrize(
    "text", ["", "a=b=c", "kernels(width)", "kernels(members=0)", "kernels(members=two)", "kernels(width=[)", "(x=1)"]
)
def test_another_form_is_refused(text) -> None:
    with pytest.raises(InputError, match="--fusion"):
        FusionInput.parse(text)


def test_fusions_are_trials_like_any_other(toy, tmp_path) -> None:
    screen, embeddings = toy()
    results = run(screen, embeddings, tmp_path / "r", fusions=["kernels", "one=concat:full"], permuted=True, **CHEAP)
    scores = results.scores
    own = scores[scores["modality"] == "fusion"]
    assert set(zip(own["embedding"], own["probe"], own["role"], strict=True)) == {
        ("fusion", "kernels", "embedding"), ("fusion (permuted)", "kernels", "control"),
        ("one", "concat", "embedding"), ("one (permuted)", "concat", "control"),
    }  # fmt: skip
    assert own["value"].notna().all() and (own["n_covered"] == own["n_test"]).all()
    store = Store(tmp_path / "r")
    trial = next(t for t in results.plan.trials if t.embedding == "fusion")
    found = store.read_trial(trial.digest)
    assert found.expected_error is not None and (found.expected_error[found.covered] > 0).all()
    assert {r["what"] for r in store.read_fusion(trial.digest)} == {"weight", "importance"}
    table = store.fusions()
    assert table is not None and set(table["embedding"]) == {"fusion", "fusion (permuted)", "one", "one (permuted)"}
    shares = table[table["what"] == "weight"].groupby("trial")["value"].sum()
    np.testing.assert_allclose(shares, 1)
    pd.testing.assert_frame_equal(table, read_evidence(tmp_path / "r").fusions)
    assert [f["name"] for f in next(store.runs())[1]["fusions"]] == [
        "fusion",
        "fusion (permuted)",
        "one",
        "one (permuted)",
    ]
    board = results.leaderboard()
    assert {"fusion", "one"} <= set(board.loc[board["role"] == "embedding", "embedding"])
    again = run(screen, embeddings, tmp_path / "r", fusions=["kernels", "one=concat:full"], permuted=True, **CHEAP)
    assert again.computed == 0


def test_a_fusion_predicts_what_fitting_by_hand_does(toy, tmp_path) -> None:
    screen, embeddings = toy()
    results = run(screen, embeddings, tmp_path / "r", fusions=["kernels"], **CHEAP)
    trial = next(t for t in results.plan.trials if t.embedding == "fusion" and t.fold == 1)
    found = Store(tmp_path / "r").read_trial(trial.digest)
    ids, values = screen.responses(trial.context)
    train, test = results.plan.split.sides(ids, 1)

    def modalities(wanted):
        out = {}
        for e in embeddings:
            x = np.full((len(wanted), e.dims), np.nan)
            has = [k for k, i in enumerate(wanted) if i in e.ids]
            x[has] = e.matrix([wanted[k] for k in has])
            out[e.name] = x
        return Modalities.of(out)

    fusion = get_fusion("kernels")
    y = values[[ids.index(i) for i in train]]
    fitted = fit_fusion(
        fusion,
        modalities(train),
        {"c": ContextTargets(np.arange(len(train)), Targets.of(y))},
        fusion.settings(),
        Setting(),
    )
    expected = fitted.predict(modalities(test), "c")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.expected_error, np.sqrt(expected.variance.sum(axis=1)), rtol=1e-4)


def test_processes_interruption_and_rescoring_change_nothing(toy, tmp_path) -> None:
    screen, embeddings = toy()
    one = run(screen, embeddings, tmp_path / "a", fusions=["kernels", "concat"], **CHEAP)
    run(screen, embeddings, tmp_path / "b", fusions=["concat"], **{**CHEAP, "n_jobs": 2})
    two = run(screen, embeddings, tmp_path / "b", fusions=["kernels", "concat"], **{**CHEAP, "n_jobs": 2})
    key = ["context", "fold", "embedding", "probe", "fallback", "metric"]
    a, b = (r.scores.sort_values(key)[[*key, "value", "trial"]].reset_index(drop=True) for r in (one, two))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    pd.testing.assert_frame_equal(rescore(tmp_path / "a")[[*key, "value"]], one.scores[[*key, "value"]])


def test_ids_that_no_member_has_are_filled_in(toy, tmp_path) -> None:
    screen, (full, part) = toy()
    few = [Embedding(e.ids[:-6], e.vectors[:-6], e.card) for e in (full, part)]
    results = run(screen, few, tmp_path / "r", fusions=["kernels"], **CHEAP)
    gone = set(screen.pert_ids) - {i for e in few for i in e.ids}
    assert gone
    store, seen = Store(tmp_path / "r"), set()
    for trial in (t for t in results.plan.trials if t.embedding == "fusion"):
        found = store.read_trial(trial.digest)
        missing = [k for k, i in enumerate(found.pert_ids) if i in gone]
        assert (~found.covered[missing]).all() and np.isnan(found.expected_error[missing]).all()
        assert (found.values[missing] == found.train_mean).all()
        seen |= {found.pert_ids[k] for k in missing}
    assert seen == gone


def test_what_changes_a_fusion_changes_its_digest(toy, tmp_path) -> None:
    screen, embeddings = toy()
    digests = [
        {
            t.digest
            for t in run(screen, embeddings, tmp_path / f"r{k}", fusions=[f], **CHEAP).plan.trials
            if t.embedding == "fusion"
        }
        for k, f in enumerate(["kernels", "kernels(width=0.4)", "kernels:full", "concat"])
    ]
    assert all(not a & b for k, a in enumerate(digests) for b in digests[:k])


def test_a_fusion_has_seen_what_a_member_has(toy, tmp_path) -> None:
    screen, (full, part) = toy()
    screen.datasets = ("replogle2022",)
    cards = [Card(name=n, modality="toy", trained_on=[t]) for n, t in (("full", "replogle2022"), ("part", "none"))]
    embeddings = [Embedding(e.ids, e.vectors, c) for e, c in zip((full, part), cards, strict=True)]
    scores = run(screen, embeddings, tmp_path / "r", fusions=["concat", "clean=concat:part"], **CHEAP).scores
    assert scores.groupby("embedding")["seen"].first()[["fusion", "clean", "full", "part"]].tolist() == [
        "yes",
        "no",
        "yes",
        "no",
    ]


def test_what_cannot_be_fused_is_refused(toy, tmp_path, refuses) -> None:
    screen, embeddings = toy()

    def ask(*fusions):
        return run(screen, embeddings, tmp_path / "r", fusions=fusions, **CHEAP)

    refuses(["no fusion 'sum'", "kernels"], ask, "sum")
    refuses(["Extra inputs", "width"], ask, "kernels(depth=3)")
    refuses(["no embedding is named 'text'", "full, part"], ask, "kernels:full,text")
    refuses(["named twice"], ask, "kernels:full,full")
    refuses(["two fusions are named 'fusion (kernels)'", "NAME=METHOD"], ask, "kernels", "kernels(width=0.3)")
    refuses(["'full' is the name of an embedding and of a fusion"], ask, "full=kernels")
    refuses(["'random' is the name of a control"], ask, "random=kernels")
    fields = {"screen": "s", "embeddings": "e", "out": "o", "fusions": [{"methods": "kernels"}]}
    refuses(["fusions.0.methods", "run.yaml"], make_config, fields, "run.yaml")


def test_a_config_holds_fusions(tmp_path) -> None:
    config = RunConfig(
        screen="s", embeddings=("e",), out="o", fusions=("kernels", {"method": "stack", "name": "n", "of": "e"})
    )
    assert [f.method for f in config.fusions] == ["kernels", "stack"] and config.fusions[1].of == ("e",)
    import yaml

    assert RunConfig(**yaml.safe_load(config.to_yaml())) == config


def test_fusions_of_labels(toy, tmp_path) -> None:
    screen, embeddings = toy()
    parts = [screen.responses(c) for c in screen.contexts]
    labels = np.vstack([np.where(np.abs(v) > 1.5, np.sign(v), 0) for _, v in parts])
    ids = [i for own, _ in parts for i in own]
    contexts = [c for c, (own, _) in zip(screen.contexts, parts, strict=True) for _ in own]
    deg = Screen.from_arrays(labels, ids, contexts, screen.readouts, name="toy", response="deg")
    asked = {"probes": ["ridge_classifier"], "metrics": ["F1"], "n_jobs": 1}
    results = run(deg, embeddings, tmp_path / "r", fusions=["kernels", "concat"], **asked)
    own = results.scores[results.scores["modality"] == "fusion"]
    assert set(own["probe"]) == {"kernels", "concat"} and own["value"].between(0, 1).all()
    prior = results.scores.query("probe == 'class prior' and fallback == 'filled'")["value"].mean()
    assert own.query("probe == 'kernels' and fallback == 'filled'")["value"].mean() > prior + 0.05

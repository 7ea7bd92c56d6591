"""Trials run again from what a results folder holds, and the record of where results come from."""

import json

import numpy as np
import pytest

from panmodal import Screen, Store, StoreError, run
from panmodal.evaluation import reproduce as module
from panmodal.evaluation.provenance import Meter, differences, environment, environment_digest, git_state
from panmodal.evaluation.reproduce import find_trials, reproduce

CHEAP = {"probes": ["ridge", "knn"], "metrics": ["L2"], "n_jobs": 1}


@pytest.fixture(scope="module")
def done(toy, tmp_path_factory):
    screen, embeddings = toy(n=40)
    out = tmp_path_factory.mktemp("reproduce") / "r"
    return run(screen, embeddings, out, fusions=["kernels", "concat"], permuted=True, folds=3, **CHEAP), out


def test_every_kind_of_trial_is_reproduced_to_the_last_bit(done) -> None:
    results, out = done
    kinds = {}
    for trial in results.plan.trials:
        kinds.setdefault((trial.embedding, trial.probe, trial.role), trial)
    assert {r for _, _, r in kinds} == {"baseline", "embedding", "control", "oracle"}
    for trial in kinds.values():
        found = reproduce(out, trial)
        assert found.same and found.difference == 0.0 and found.reproduced and found.environment == (), trial.key


def test_labels_are_reproduced(toy, tmp_path) -> None:
    screen, embeddings = toy(n=40)
    ids, values = screen.responses("A")
    labels = np.where(np.abs(values) > 1.5, np.sign(values), 0)
    deg = Screen.from_arrays(labels, ids, ["A"] * len(ids), screen.readouts, name="toy", response="deg")
    results = run(
        deg,
        embeddings,
        tmp_path / "r",
        probes=["ridge_classifier"],
        metrics=["F1"],
        n_jobs=1,
        fusions=["kernels"],
        folds=3,
    )
    for trial in results.plan.trials[::3]:
        assert reproduce(tmp_path / "r", trial.digest).same


def test_a_trial_that_was_changed_is_not_reproduced(done, tmp_path) -> None:
    import dataclasses
    import shutil

    _, out = done
    shutil.copytree(out, tmp_path / "r")
    store = Store(tmp_path / "r")
    trial = find_trials(store, embedding="full", probe="ridge")[0]
    held = store.read_trial(trial.digest)
    store.write_trial(trial.digest, dataclasses.replace(held, values=held.values * 1.01))
    found = reproduce(tmp_path / "r", trial)
    assert not found.same and not found.reproduced and found.difference > 0


def test_what_cannot_be_reproduced_says_why(done, tmp_path, monkeypatch, refuses) -> None:
    import shutil

    _, out = done
    store = Store(out)
    trial = find_trials(store, embedding="full", probe="ridge", fold=1, context="B")[0]
    assert trial.fold == 1 and trial.context == "B"
    refuses(["no finished trial", "embedding text"], find_trials, store, embedding="text", error=StoreError)
    refuses(["trials begin with ''", "more of the digest"], reproduce, out, "", error=StoreError)
    monkeypatch.setattr(module, "RULES", {"projection": 9})
    refuses(["rules that this version does not have", "panmodal 0."], reproduce, out, trial, error=StoreError)
    monkeypatch.undo()
    shutil.copytree(out, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "splits")
    refuses(["splits/"], reproduce, tmp_path / "r", trial, error=StoreError)
    shutil.rmtree(tmp_path / "r" / "embeddings")
    shutil.copytree(out / "splits", tmp_path / "r" / "splits")
    refuses(["vectors", "not there"], reproduce, tmp_path / "r", trial, error=StoreError)


def test_trials_say_what_they_took(done) -> None:
    results, out = done
    store = Store(out)
    for trial in results.plan.trials[::7]:
        record = store.read_trial(trial.digest).record
        assert record["seconds"] >= 0 and record["cpu_seconds"] >= 0 and record["peak_memory_mb"] > 10
        assert store.read_environment(record["environment"]) == json.loads(json.dumps(environment()))
    (call,) = store.invocations()
    assert call["state"] == "finished" and call["computed"] == results.computed and call["failed"] == 0
    assert (out / "runs" / f"{call['run']}.json").exists() and call["started"] <= call["ended"]


def test_an_environment_names_no_person_and_no_path() -> None:
    import getpass
    import platform

    text = json.dumps(environment())
    assert "/" not in json.dumps({k: v for k, v in environment().items() if k != "cpu"})
    assert platform.node() not in text or not platform.node()
    assert f'"{getpass.getuser()}"' not in text
    assert {"numpy", "pandas", "scikit-learn"} <= set(environment()["packages"])
    assert len(environment_digest()) >= 16
    changed = {
        **environment(),
        "python": "CPython 2.7",
        "packages": {**environment()["packages"], "numpy": "0.1", "gone": "1"},
    }
    lines = list(differences(changed, environment()))
    assert len(lines) == 3 and any("packages gone: 1 then, absent here" in line for line in lines)


def test_git_is_told_where_there_is_one(tmp_path) -> None:
    assert git_state(tmp_path) is None


def test_a_meter_measures() -> None:
    meter = Meter()
    sum(range(10**6))
    found = meter.stop()
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0


def test_the_command_line(done, cli, tmp_path) -> None:
    _, out = done
    said = cli(
        "reproduce", out, "--embedding", "fusion", "--probe", "kernels", "--sample", 2, "--out", tmp_path / "r.json"
    )
    assert "2 of 2 reproduced, 2 to the last bit; 6 trials fit" in said
    assert [r["same"] for r in json.loads((tmp_path / "r.json").read_text())] == [True, True]
    assert "written as .json" in cli("reproduce", out, "--out", "r.txt", code=2)

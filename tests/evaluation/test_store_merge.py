"""Merging results folders: what one folder with all runs would hold, or a refusal that says what differs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, Screen, Store, StoreError, make_split, rescore, run
from panmodal.evaluation import store_merge
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.imported import Imported, complete, write_imported
from panmodal.evaluation.store_files import files_of
from panmodal.evaluation.store_merge import merge_stores
from panmodal.evaluation.store_verify import verify_store
from panmodal.insight.leaderboard import leaderboard

CHEAP = {"folds": 2, "n_jobs": 1, "probes": ["ridge"], "metrics": ["L2", "Pearson"]}
TABLES = ("scores", "perturbations", "ceilings", "resampled")


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy):
    """Folders of one screen: ``a`` and ``b`` with an embedding each, ``both`` with the two."""
    out = tmp_path_factory.mktemp("merge")
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(screen, embeddings[:1], out / "a", **CHEAP)
    run(screen, embeddings[1:], out / "b", **CHEAP)
    run(screen, embeddings, out / "both", **CHEAP)
    for name in ("a", "b", "both"):
        compile_tables(Store(out / name))
    return out


@pytest.fixture
def two(made, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def contents(folder):
    return {
        f.place: f.path.read_bytes()
        for f in files_of(folder)
        if f.kind not in ("segment", "run", "environment", "invocation")
    }


def tables(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES if (folder / f"{name}.parquet").exists()}


def change(folder, **of_trial):
    """Change what the trials of a folder depend on in its plans, and rename its files accordingly."""
    store = Store(folder)
    for path, record in list(store.runs()):
        for entry in record["trials"]:
            old = entry["trial"]
            entry["depends"].update({k: v(entry["depends"]) for k, v in of_trial.items()})
            from panmodal.evaluation.trials import Trial

            entry["trial"] = Trial.from_record(entry).digest
            if store.has_trial(old):
                store.write_trial(entry["trial"], store.read_trial(old))
                store.write_rows(entry["trial"], *store.read_rows(old))
        path.write_text(json.dumps(record))


def test_merged_folders_are_one_with_all_runs(made, two, tmp_path):
    a, b = two
    before = contents(a), contents(b)
    out = tmp_path / "c"
    checked = merge_stores([a, b], out, dry_run=True)
    assert not out.exists()
    done = merge_stores([a, b], out)
    assert (done.copied, done.same) == (checked.copied, checked.same) and not done.notes
    trials = {t.digest for t in Store(out).trials()}
    assert done.copied == len(trials) and done.same == len(list(a.glob("trials/*/*"))) + len(
        list(b.glob("trials/*/*"))
    ) - len(trials)
    assert tables(out) == tables(made / "both")
    assert verify_store(out, full=True).empty
    assert (contents(a), contents(b)) == before
    assert set(leaderboard(Store(out).scores())["embedding"]) >= {"full", "part"}
    first = contents(out)
    again = merge_stores([a, b], out)
    assert again.files == 0 and again.copied == 0 and contents(out) == first
    other = tmp_path / "d"
    merge_stores([b, a], other)
    assert tables(other) == tables(out)
    merge_stores([a, b], a)  # into one of them
    assert tables(a) == tables(out) and verify_store(a, full=True).empty


def test_a_merge_that_was_killed_is_finished_by_the_same_command(made, two, tmp_path, monkeypatch):
    real, calls = store_merge._copy, []

    def dying(source, target):
        calls.append(target)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(store_merge, "_copy", dying)
    with pytest.raises(KeyboardInterrupt):
        merge_stores(two, tmp_path / "c")
    monkeypatch.undo()
    assert not (tmp_path / "c" / "runs").exists()  # plans come last
    merge_stores(two, tmp_path / "c")
    assert tables(tmp_path / "c") == tables(made / "both")


def refused(folders, into, *says, **options):
    with pytest.raises(StoreError) as caught:
        merge_stores(folders, into, **options)
    text = str(caught.value)
    assert "nothing was written" in text and all(s in text for s in says), text
    return text


def test_other_responses_are_refused_with_what_differs(two, toy, tmp_path):
    a, _ = two
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    ids, values = screen.responses("A")
    values = values.copy()
    values[3, 2] += 0.5
    for k, (own_ids, own, readouts, says) in enumerate((
        (ids, values, screen.readouts, ("values of 1 of 30 perturbations, by up to 0.5",)),
        (ids[:-1], values[:-1], screen.readouts, ("30 and 29 perturbations", "'P029' only in the first")),
        (ids, values, [*screen.readouts[:-1], "new"], ("8 and 8 read-outs", "'new' only in the second")),
        (ids, values[:, ::-1], screen.readouts[::-1], ("the order of the read-outs",)),
    )):  # fmt: skip
        other = Screen.from_arrays(own, own_ids, ["A"] * len(own_ids), readouts, name="toy", response="lfc")
        run(other, embeddings[:1], tmp_path / f"o{k}", **CHEAP)
        refused([a, tmp_path / f"o{k}"], tmp_path / "c", "screen 'toy', context 'A' (lfc)", "--name", *says)
        assert not (tmp_path / "c").exists()
    shutil.rmtree(a / "responses")
    refused([a, tmp_path / "o0"], tmp_path / "c", "cannot be told")


def test_other_folds_are_refused_with_what_differs(two, toy, tmp_path):
    a, _ = two
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    split = make_split(screen.pert_ids, n_folds=2, seed=42)
    moved = sorted(split.folds)[0]
    folds = {**split.folds, moved: 1 - split.folds[moved]}
    run(screen, embeddings[1:], tmp_path / "b2", split=replace(split, folds=folds), **CHEAP)
    refused(
        [a, tmp_path / "b2"], tmp_path / "c", "1 of 30 perturbations lie in other folds", repr(moved), "panmodal split"
    )
    run(screen, embeddings[1:], tmp_path / "b3", split=replace(split, folds={**folds, "more": 0}), **CHEAP)
    refused([a, tmp_path / "b3"], tmp_path / "c", "30 and 31 perturbations")
    shutil.rmtree(tmp_path / "b3" / "splits")
    refused([a, tmp_path / "b3"], tmp_path / "c", "the folds are not kept")


def test_an_embedding_of_the_same_name_is_refused_or_renamed(two, toy, tmp_path, refuses):
    a, b = two
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(screen, [Embedding(embeddings[1].ids, embeddings[1].vectors, Card(name="full", modality="toy"))], tmp_path / "x",
        permuted=True, **CHEAP)  # fmt: skip
    out = tmp_path / "c"
    text = refused([a, tmp_path / "x"], out, "2 trial(s)", "the embedding 'full' differ", "--rename")
    assert f"'{tmp_path / 'x'}:full=OTHER NAME'" in text
    done = merge_stores([a, tmp_path / "x"], out, rename={str(tmp_path / "x"): {"full": "theirs"}})
    assert done.copied and verify_store(out, full=True).empty
    names = set(Store(out).scores()["embedding"])
    assert {"full", "theirs", "theirs (permuted)"} <= names and "full (permuted)" not in names
    cards = {(e["card"]["name"], e["digest"]) for _, r in Store(out).runs() for e in r["embeddings"]}
    assert {n for n, _ in cards} >= {"full", "theirs", "theirs (permuted)"}
    before = contents(out)
    assert merge_stores([a, tmp_path / "x"], out, rename={str(tmp_path / "x"): {"full": "theirs"}}).files == 0
    assert contents(out) == before
    store = Store(out)
    own = leaderboard(store.scores())
    assert len(own)
    for names_, says in ((("none there", "y"), "no embedding 'none there'"), (("full", "random"), "'random' already"),
                         (("full", "y (permuted)"), "already")):  # fmt: skip
        refuses([says], merge_stores, [a, b], tmp_path / "d", rename={str(a): dict([names_])})
    refuses(["not among the folders"], merge_stores, [a], tmp_path / "d", rename={"z": {"x": "y"}})
    path = next((a / "runs").iterdir())
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "fusions": [{"of": ["full"]}]}))
    refuses(["fusion of 'full'"], merge_stores, [a, b], tmp_path / "d", rename={str(a): {"full": "y"}})


def test_other_rules_are_refused(two, tmp_path):
    a, b = two
    change(b, rules=lambda d: {**d["rules"], "projection": 0})
    refused([a, b], tmp_path / "c", "rule of 'projection' differs", f"1 in {a}", f"0 in {b}")


def test_other_probes_are_refused(two, tmp_path):
    a, b = two
    change(b, probe=lambda d: {**d["probe"], "rule": 99})
    refused([a, b], tmp_path / "c", "version of probe 'ridge' for lfc differs", f"99 in {b}")


def test_another_grid_is_refused(made, tmp_path):
    shutil.copytree(made / "a", tmp_path / "x")
    change(tmp_path / "x", probe=lambda d: {**d["probe"], "grid": [1]})
    refused([made / "a", tmp_path / "x"], tmp_path / "c", "the probe", "inputs")


def test_the_same_trial_with_other_predictions(two, tmp_path):
    a, b = two
    shared = next(t for t in Store(a).trials() if t.role == "control")
    store = Store(b)
    found = store.read_trial(shared.digest)
    store.write_trial(shared.digest, replace(found, values=found.values + np.float32(2e-6)))
    done = merge_stores([a, b], tmp_path / "c")
    assert len(done.notes) == 1 and "differ by up to" in done.notes[0] and "random" in done.notes[0]
    kept = Store(tmp_path / "c").read_trial(shared.digest)
    assert kept.content == Store(a).read_trial(shared.digest).content
    store.write_trial(shared.digest, replace(found, values=found.values + np.float32(1e-2)))
    refused([a, b], tmp_path / "d", "predictions differ by up to 0.01", "--overwrite always")
    store.write_trial(shared.digest, replace(found, values=found.values * np.nan))
    refused([a, b], tmp_path / "d", "more than")
    store.write_trial(shared.digest, replace(found, covered=~found.covered))
    refused([a, b], tmp_path / "d", "other coverage")
    store.write_trial(shared.digest, replace(found, values=found.values[:, :3]))
    refused([a, b], tmp_path / "d", "predictions of 8 and 3 numbers")
    store.write_trial(shared.digest, replace(found, values=None))
    merge_stores([b, a], tmp_path / "e")  # those that were kept are taken
    assert Store(tmp_path / "e").read_trial(shared.digest).values is not None
    assert verify_store(tmp_path / "e", full=True).empty


def test_damaged_files_are_left_out_and_noted(made, two, tmp_path):
    a, b = two
    shared = next(t for t in Store(a).trials() if t.role == "control")
    Store(a)._trial_path(shared.digest).write_bytes(b"damaged")
    next((a / "responses").iterdir()).write_bytes(b"damaged")
    done = merge_stores([a, b], tmp_path / "c")
    assert len(done.notes) == 2 and all("left out" in n for n in done.notes)
    assert tables(tmp_path / "c") == tables(made / "both")  # the other folder has both
    own = next(t for t in Store(a).trials() if t.role == "embedding")
    Store(a)._trial_path(own.digest).write_bytes(b"damaged")
    merge_stores([a, b], tmp_path / "d")
    assert own.digest not in set(Store(tmp_path / "d").scores()["trial"])


def test_scores_come_with_the_predictions_that_are_kept(two, tmp_path):
    a, b = two
    rescore(b)  # all metrics, where a has two
    done = merge_stores([a, b], tmp_path / "c")
    assert not done.notes
    scores = Store(tmp_path / "c").scores()
    assert scores[scores["embedding"] == "random"]["metric"].nunique() > 2
    own = next(t for t in Store(a).trials() if t.role == "embedding")
    rows, rules = Store(a).read_rows(own.digest)
    Store(a).write_rows(own.digest, rows, {**rules, "L2": 0})  # of an older formula: computed again
    merge_stores([a, b], tmp_path / "d")
    found = Store(a).read_trial(own.digest)
    Store(a).write_trial(own.digest, replace(found, values=None))
    refused([a, b], tmp_path / "e", "predictions were not kept")


def test_failures_come_along_where_no_folder_has_a_result(two, tmp_path):
    a, b = two
    shared = next(t for t in Store(a).trials() if t.role == "control")
    own = next(t for t in Store(a).trials() if t.role == "embedding")
    for trial in (shared, own):
        Store(a)._trial_path(trial.digest).unlink()
        Store(a).write_failure(trial.digest, {"trial": trial.digest, "error": "no"})
    merge_stores([a, b], tmp_path / "c")
    assert [r["trial"] for r in Store(tmp_path / "c").failures()] == [own.digest]
    assert len(Store(tmp_path / "c").invocations()) == 2


def ceilings(folder, key="k", fold=0):
    store = Store(folder)
    trial = store.trials()[0]
    frame = pd.DataFrame({"screen": "toy", "context": "A", "response": "lfc", "split": trial.split, "fold": fold,
                          "estimator": "halves", "pert_id": ["P000"], "n_draws": 1, "L2": 0.5, "seed": 42})  # fmt: skip
    about = {"key": key, "responses": trial.depends["responses"], "split": trial.depends["split"], "metrics": {"L2": 1}}
    store.write_ceilings(["toy", "A", "lfc", trial.split, fold, 42], about, frame)
    store.write_quality("toy", pd.DataFrame({"context": ["A"], "pert_id": ["P000"], "n_cells": [fold]}))


def test_ceilings_and_facts(two, tmp_path):
    a, b = two
    ceilings(a), ceilings(b, fold=1)
    merge_stores([a, b], tmp_path / "c")
    store = Store(tmp_path / "c")
    assert sorted(store.ceilings()["fold"]) == [0, 1] and store.quality()["n_cells"].tolist() == [0]
    ceilings(b, key="other")
    refused([a, b], tmp_path / "d", "other cells or with other options")


def test_imported_scores(two, tmp_path):
    a, b = two
    score = {"screen": "theirs", "context": "A", "response": "lfc", "fold": 0, "embedding": "e", "probe": "p", "metric": "L2",
             "value": 1.0, "role": "embedding"}  # fmt: skip

    def table(**changes):
        return Imported(complete(pd.DataFrame([{**score, **changes}])), None, ())

    write_imported(table(), a, "paper")
    write_imported(table(), tmp_path / "only", "paper")
    merge_stores([a, b, tmp_path / "only"], tmp_path / "c")
    assert "theirs" in set(Store(tmp_path / "c").scores()["screen"])
    merge_stores([tmp_path / "only"], tmp_path / "d")
    assert set(Store(tmp_path / "d").scores()["screen"]) == {"theirs"}
    write_imported(table(value=2.0), tmp_path / "only", "paper")
    refused([a, tmp_path / "only"], tmp_path / "e", "other imported scores under the same name")
    write_imported(table(screen="toy"), tmp_path / "toy", "paper2")
    refused([b, tmp_path / "toy"], tmp_path / "e", "imported scores of screen 'toy'", "--mark")


def test_folders_that_are_none(two, tmp_path, refuses):
    a, _ = two
    refuses(["not a results folder"], merge_stores, [a, tmp_path], tmp_path / "c", error=StoreError)
    refuses(["not empty"], merge_stores, [a], tmp_path, error=StoreError)
    refuses(["no folder"], merge_stores, [], tmp_path / "c")
    (a / "panmodal.json").write_text(json.dumps({"format": 1, "version": "0"}))
    refuses(["written in format 1"], merge_stores, [a], tmp_path / "c", error=StoreError)


def test_many_reasons_are_counted():
    text = store_merge._refusal([f"reason {k}" for k in range(12)])
    assert "10. reason 9" in text and "and 2 more" in text and "reason 10" not in text

"""Removing what no plan needs: never what one needs, nothing young, nothing of the user's."""

import json
import os
import shutil

import pandas as pd
import pytest

from panmodal import Store, StoreError, run
from panmodal._digest import digest_json
from panmodal.evaluation import store_gc
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.store_files import file_time, files_of
from panmodal.evaluation.store_gc import collect_garbage
from panmodal.evaluation.store_verify import verify_store

CHEAP = {"folds": 2, "n_jobs": 1, "probes": ["ridge"], "metrics": ["L2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("gc") / "r"
    screen, embeddings = toy(n=30, genes=8)
    run(screen, embeddings[:1], out, **CHEAP)
    run(screen.select(["A"]), embeddings[1:], out, **CHEAP)
    return out


@pytest.fixture
def results(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "r")
    compile_tables(Store(tmp_path / "r"))
    return tmp_path / "r"


def places(results):
    return {f.place for f in files_of(results)}


def forget(results, name="part"):
    """Remove the plan of an embedding by hand; return its trials."""
    for path in (results / "runs").iterdir():
        record = json.loads(path.read_text())
        if any(e["card"]["name"] == name for e in record["embeddings"]):
            before = {t.digest for t in Store(results).trials()}
            path.unlink()
            return before - {t.digest for t in Store(results).trials()}
    raise AssertionError


def test_all_that_is_planned_stays(results):
    before = places(results)
    assert collect_garbage(results, delete=True, margin=0).empty and places(results) == before


def test_what_no_plan_needs_goes(results):
    trials = forget(results)
    before = places(results)
    found = collect_garbage(results, margin=0)
    assert places(results) == before and not found["removed"].any()
    assert {p.split("/")[-1].split(".")[0] for p in found.loc[found["kind"] == "predictions", "place"]} == trials
    assert set(found["kind"]) == {"predictions", "rows", "vectors"}  # responses and folds are shared
    assert (found["bytes"] == [(results / p).stat().st_size for p in found["place"]]).all()
    gone = collect_garbage(results, delete=True, margin=0)
    pd.testing.assert_frame_equal(gone.drop(columns="removed"), found.drop(columns="removed"))
    assert gone["removed"].all() and places(results) == before - set(found["place"])
    assert collect_garbage(results, margin=0).empty
    compile_tables(Store(results))
    assert verify_store(results, full=True).empty
    for path in (results / "runs").iterdir():
        path.unlink()
    assert {"responses", "split", "segment"} <= set(collect_garbage(results, delete=True, margin=0)["kind"])
    left = {f.kind for f in files_of(results)}
    assert left == {"manifest", "table", "environment", "invocation"}


def test_young_files_stay_by_the_clock_of_the_file_system(results, monkeypatch):
    forget(results)
    assert collect_garbage(results, delete=True).empty
    old = next(f for f in files_of(results) if f.place in set(collect_garbage(results, margin=0)["place"]))
    now = file_time(results)
    os.utime(old.path, (now - 4000, now - 4000))
    assert collect_garbage(results)["place"].tolist() == [old.place]
    # A clock of the file system that is an hour behind makes everything an hour younger.
    monkeypatch.setattr(store_gc, "file_time", lambda _: now - 3600)
    assert collect_garbage(results).empty


def test_a_plan_that_is_recorded_meanwhile_is_respected(results, monkeypatch):
    saved = {p: p.read_bytes() for p in (results / "runs").iterdir()}
    forget(results)
    before = places(results)
    real = store_gc.files_of

    def beside(root):
        for k, file in enumerate(list(real(root))):
            if k == 0:
                for path, raw in saved.items():
                    path.write_bytes(raw)
            yield file

    monkeypatch.setattr(store_gc, "files_of", beside)
    found = collect_garbage(results, delete=True, margin=0)
    assert not found["removed"].any() and before <= places(results)


def test_leftovers_segments_ceilings_and_files_of_others(results):
    store = Store(results)
    trial = store.trials()[0]
    frame = pd.DataFrame({"screen": "toy", "context": "A", "response": "lfc", "split": trial.split, "fold": 0,
                          "estimator": "halves", "pert_id": ["P000"], "n_draws": 1, "L2": 0.5, "seed": 42})  # fmt: skip
    about = {"key": "k", "responses": trial.depends["responses"], "split": trial.depends["split"], "metrics": {"L2": 1}}
    store.write_ceilings(["toy", trial.context, "lfc", trial.split, 0, 42], about, frame.assign(context=trial.context))
    store.write_ceilings(["gone"], about, frame.assign(screen="gone"))
    (results / "ceilings" / f"{'d' * 32}.parquet").write_bytes(b"damaged")
    for name in ("trials/.partial-x.parquet", "mine.html", "imported/x.scores.parquet"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_text("")
    segment = next((results / "compact").glob("*.trials.parquet"))
    stem = segment.name.split(".")[0]
    for part in ("trials", "rows"):
        shutil.copy(segment.with_name(f"{stem}.{part}.parquet"),
                    segment.with_name(f"{stem.partition('-')[0]}-{'0' * 32}.{part}.parquet"))  # fmt: skip
        os.utime(segment.with_name(f"{stem.partition('-')[0]}-{'0' * 32}.{part}.parquet"), (1e9, 1e9))
    mark = digest_json({k: v for k, v in trial.depends.items() if k != "responses"})
    for name in (trial.digest, mark, "0" * 32):
        (results / "checkpoints" / name).mkdir(parents=True)
        (results / "checkpoints" / name / "phase.npz").write_text("")
    found = collect_garbage(results, margin=0).set_index("place")["why"]
    assert found.pop(f"checkpoints/{'0' * 32}/phase.npz") == "of a fit that no recorded plan has"
    assert "killed" in found["trials/.partial-x.parquet"] and "newer segment" in " ".join(found)
    assert len(found) == 4 and sum("ceilings/" in p for p in found.index) == 1


def test_refused(results, refuses, tmp_path):
    refuses(["negative"], collect_garbage, results, margin=-1)
    refuses(["not a results folder"], collect_garbage, tmp_path, error=StoreError)
    next((results / "runs").iterdir()).write_text("{")
    before = places(results)
    refuses(["damaged"], collect_garbage, results, delete=True, margin=0, error=StoreError)
    assert places(results) == before

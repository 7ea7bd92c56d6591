"""Checking a results folder: every kind of damage is found, named and repaired where that is safe."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from panmodal import Card, Embedding, Screen, Store, StoreError, rescore, run
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.store_files import files_of, kind_of
from panmodal.evaluation.store_verify import verify_store

CHEAP = {"folds": 2, "n_jobs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("verify") / "r"
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(screen, embeddings, out, probes=["ridge"], **CHEAP)
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (30, 8))
    labelled = Screen.from_arrays(labels, screen.pert_ids, ["A"] * 30, screen.readouts, name="labels", response="deg")
    run(labelled, embeddings[:1], out, probes=["ridge_classifier"], **CHEAP)
    compile_tables(Store(out))
    return out


@pytest.fixture
def results(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "r")
    compile_tables(Store(tmp_path / "r"))
    return tmp_path / "r"


def problems(results, **options):
    found = verify_store(results, **options)
    return found[found["level"] == "problem"].reset_index(drop=True)


def one(results, place, *says, **options):
    """Check that there is a problem of one file, and what is said of it."""
    found = problems(results, **options)
    own = found[found["place"] == place]
    assert len(own) and all(s in " ".join(own["problem"] + own["todo"]) for s in says), found.to_string()
    return found


def place_of(results, kind, which=0):
    return [f.place for f in files_of(results) if f.kind == kind][which]


def test_a_whole_folder_has_no_problem(results):
    assert verify_store(results, full=True).empty
    kinds = {f.kind for f in files_of(results)}
    assert kinds == {
        "manifest", "environment", "invocation", "run", "split", "responses", "vectors", "predictions", "rows", "genes", "table",
        "segment",
    }  # fmt: skip
    seen = []
    verify_store(results, progress=lambda k, n: seen.append((k, n)))
    assert seen[-1][0] == seen[-1][1] == len(list(files_of(results)))


@pytest.mark.parametrize(
    "kind", ["rows", "genes", "segment", "table", "predictions", "responses", "vectors", "split", "environment"]
)
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_damage_is_found_and_repaired(results, kind, harm):
    place = place_of(results, kind)
    path = results / place
    raw = bytearray(path.read_bytes())
    whole = pq.read_table(path) if path.suffix == ".parquet" else None
    if harm == "flip":
        raw[len(raw) // 4 if path.suffix == ".parquet" else -4] ^= 0x01
    path.write_bytes(raw if harm == "flip" else raw[: len(raw) // 2])
    before = {f.place for f in files_of(results)}
    found = problems(results)
    if kind == "segment":  # found by its entries
        place = place.replace(".rows.", ".trials.")
    if harm == "flip" and place not in set(found["place"]):
        # No checksum covers the statistics in a Parquet file; then what is read is what was written.
        assert pq.read_table(path).equals(whole)
        return
    assert place in set(found["place"])
    assert not found["repaired"].any() and {f.place for f in files_of(results)} == before
    derived = kind in ("rows", "genes", "segment", "table")
    found = one(results, place, repair=True)
    assert found.loc[found["place"] == place, "repaired"].all() == derived == (not path.exists())
    found = one(results, place, repair=True, force=True) if not derived else found
    assert not path.exists()
    if kind in ("rows", "genes", "segment", "table"):
        rescore(results)
        assert problems(results, full=True).empty


def test_the_same_run_computes_what_was_removed(results, toy):
    for kind in ("predictions", "responses", "vectors", "split", "environment"):
        (results / place_of(results, kind)).write_bytes(b"damaged")
    problems(results, repair=True, force=True)
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(screen, embeddings, results, probes=["ridge"], **CHEAP)
    labels = np.random.default_rng(0).integers(-1, 2, (30, 8))
    labelled = Screen.from_arrays(labels, screen.pert_ids, ["A"] * 30, screen.readouts, name="labels", response="deg")
    run(labelled, embeddings[:1], results, probes=["ridge_classifier"], **CHEAP)
    compile_tables(Store(results))
    assert verify_store(results, full=True).empty


def test_predictions_against_everything_else(results):
    store = Store(results)
    trial = next(t for t in store.trials() if t.response == "lfc" and t.role == "embedding")
    place = f"trials/{trial.digest[:2]}/{trial.digest}.parquet"
    kept = (results / place).read_bytes()
    good = store.read_trial(trial.digest)

    def with_(**changes):
        from dataclasses import replace

        store.write_trial(trial.digest, replace(good, **changes))
        return place

    one(results, with_(pert_ids=[f"Q{i}" for i in good.pert_ids]), "test perturbations that are not the")
    one(results, with_(pert_ids=[good.pert_ids[0]] * len(good.pert_ids)), "twice")
    one(results, with_(values=good.values * np.nan), "not finite")
    one(results, with_(train_mean=good.train_mean * np.inf), "train mean that is not finite")
    one(results, with_(values=good.values[:, :3], train_mean=good.train_mean[:3]), "3 numbers", "need 8")
    other = next(t for t in store.trials() if t.digest != trial.digest)
    shutil.copy(results / f"trials/{other.digest[:2]}/{other.digest}.parquet", results / place)
    one(results, place, "was renamed")
    (results / place).write_bytes(kept)
    (results / "trials" / "zz").mkdir()
    (results / "trials" / "00").mkdir(exist_ok=True)
    shutil.copy(results / place, results / "trials" / "00" / f"{trial.digest}.parquet")
    if trial.digest[:2] != "00":
        one(results, f"trials/00/{trial.digest}.parquet", "wrong folder")
    (results / "trials" / "00" / f"{trial.digest}.parquet").unlink()
    assert problems(results).empty


def test_scores_against_predictions(results):
    store = Store(results)
    trial = next(t for t in store.trials() if t.response == "lfc")
    place = f"scores/{trial.digest[:2]}/{trial.digest}.parquet"
    rows, rules = store.read_rows(trial.digest)
    for changed, own, says in (
        (rows.iloc[1:], rules, "other perturbations"), (rows.assign(covered=~rows["covered"]), rules, "or coverage"),
        (rows.assign(L2=np.inf), rules, "not finite"), (rows.assign(mine=1.0), rules, "version of mine"),
    ):  # fmt: skip
        store.write_rows(trial.digest, changed, own)
        one(results, place, says)
    store.write_rows(trial.digest, rows.assign(L2=rows["L2"] + 1), rules)
    one(results, "scores.parquet", "value is not what", full=True)
    one(results, "perturbations.parquet", "L2 is not what", full=True)
    store.write_rows(trial.digest, rows, rules)
    deg = next(t for t in store.trials() if t.response == "deg")
    table, about = store.read_genes(deg.digest)
    store.write_genes(deg.digest, table.iloc[1:], {k: v for k, v in about.items() if k != "trial"})
    one(results, f"scores/{deg.digest[:2]}/{deg.digest}.genes.parquet", "7 genes and the responses 8")
    for kind in ("rows", "genes"):
        first, second = place_of(results, kind, 0), place_of(results, kind, 1)
        shutil.copy(results / first, results / second)
        one(results, second, "holds the scores of trial")


def test_compiled_tables(results):
    scores, rows = pd.read_parquet(results / "scores.parquet"), Store(results).perturbations()
    store = Store(results)
    store.write_table("scores", scores.assign(probe="other"))
    one(results, "scores.parquet", "column probe is not what")
    store.write_table("scores", scores.iloc[1:])
    one(results, "scores.parquet", "not compiled since")
    store.write_table("scores", pd.concat([scores, scores.iloc[:1].assign(screen="gone")]))
    one(results, "scores.parquet", "no finished trial is planned")
    (results / "scores.parquet").unlink()
    one(results, "scores.parquet", "is not there")
    rescore(results)
    store.write_table("perturbations", rows.iloc[1:])
    one(results, "perturbations.parquet", "not compiled since", full=True)
    store.write_table("perturbations", rows.drop(columns="L2"))
    one(results, "perturbations.parquet", "does not have L2", full=True)
    store.write_table("perturbations", pd.concat([rows, rows.iloc[:2].assign(trial="other")]))
    one(results, "perturbations.parquet", "rows and the finished trials", full=True)


def test_plans(results):
    path = sorted((results / "runs").iterdir())[0]
    run_ = json.loads(path.read_text())
    changed = json.loads(path.read_text())
    changed["trials"][0]["depends"]["fold"] = 7
    path.write_text(json.dumps(changed))
    one(results, f"runs/{path.name}", "another digest", "changed by hand")
    path.write_text(json.dumps(run_))
    from panmodal.evaluation.trials import Trial

    moved = Trial.from_record(run_["trials"][0])
    moved.depends["seed"] = 99
    (results / "runs" / f"{'f' * 32}.json").write_text(json.dumps({"trials": [moved.to_record()]}))
    one(results, f"runs/{'f' * 32}.json", "names of other trials")
    path.write_text("{")
    found = one(results, f"runs/{path.name}", "damaged")
    problems(results, repair=True, force=True)
    assert path.exists() and "run" not in set(found["place"])  # a plan is never removed


def test_failures_and_calls(results):
    store = Store(results)
    trial = store.trials()[0]
    store._trial_path(trial.digest).unlink()
    store._rows_path(trial.digest).unlink()
    store.write_failure(trial.digest, {"trial": trial.digest, "error": "no"})
    rescore(results)
    found = verify_store(results)
    assert set(found["level"]) == {"note"} and "1 of them raised an error" in set(found["problem"])
    (results / place_of(results, "failure")).write_text("{")
    (results / place_of(results, "invocation")).write_text("{")
    assert problems(results, repair=True)["repaired"].all() and problems(results).empty


def test_what_is_planned_and_absent_and_what_should_not_be_there(results):
    store = Store(results)
    trial = store.trials()[0]
    store._trial_path(trial.digest).unlink()
    store._rows_path(trial.digest).unlink()
    (results / place_of(results, "responses")).unlink()
    store._rows_path(store.trials()[1].digest).unlink()
    (results / "board.html").write_text("mine")
    (results / "trials" / "notes").write_text("mine")
    fresh, old = results / "scores" / ".partial-new.parquet", results / ".partial-old"
    fresh.write_text("")
    old.write_text("")
    os.utime(old, (1e9, 1e9))
    found = verify_store(results, repair=True)
    notes = found[found["level"] == "note"].set_index("place")["problem"]
    assert (
        "1 of " in notes["trials"] and notes["board.html"] == notes["trials/notes"] == "not a file of a results folder"
    )
    bad = found[found["level"] == "problem"].set_index("place")["problem"]
    assert "responses of planned trials are not there" in bad[bad.index.str.startswith("responses/")].iloc[0]
    assert "have no scores" in bad["scores"] and "killed" in bad[".partial-old"]
    assert fresh.exists() and not old.exists() and (results / "board.html").exists()


def test_trials_of_no_plan_are_notes(results):
    runs = sorted((results / "runs").iterdir())
    runs[0].unlink()
    rescore(results)
    found = verify_store(results, full=True)
    assert set(found["level"]) == {"note"} and "no recorded plan needs it" in set(found["problem"])


def test_other_files(results):
    store = Store(results)
    trial = next(t for t in store.trials() if t.response == "lfc" and t.context == "A")
    frame = pd.DataFrame({"screen": "toy", "context": "A", "response": "lfc", "split": trial.split, "fold": 0,
                          "estimator": "halves", "pert_id": ["P000"], "n_draws": 1, "L2": 0.5, "seed": 42})  # fmt: skip
    about = {"key": "k", "responses": trial.depends["responses"], "split": trial.depends["split"], "metrics": {"L2": 1}}
    labels = ["toy", "A", "lfc", trial.split, 0, 42]
    store.write_ceilings(labels, about, frame)
    store.write_common(trial.digest, {"key": "k"})
    rescore(results)
    assert problems(results, full=True).empty
    store.write_ceilings(labels, about, frame.assign(fold=1))
    one(results, place_of(results, "ceilings"), "ceilings of something else")
    common = place_of(results, "common")
    (results / common).write_text("{")
    one(results, common, repair=True)
    split = place_of(results, "split")
    (results / split).unlink()
    one(results, split.removesuffix(".csv") + ".split.yaml", "folds (.csv) are not there")
    (results / "imported").mkdir()
    (results / "imported" / "x.scores.parquet").write_bytes(b"")
    one(results, "imported/x.scores.parquet", "Import it again")
    fusion = results / "fusions" / trial.digest[:2] / f"{trial.digest}.json"
    fusion.parent.mkdir(parents=True)
    fusion.write_text(json.dumps({"trial": "other", "rows": []}))
    one(results, fusion.relative_to(results).as_posix(), "learned", repair=True, force=True)
    assert not fusion.exists()


def test_folders_that_are_none(tmp_path, results, refuses):
    refuses(["not a results folder"], verify_store, tmp_path, error=StoreError)
    refuses(["--repair"], verify_store, results, force=True)
    (results / "panmodal.json").write_text("{")
    refuses(["damaged"], verify_store, results, error=StoreError)


def test_kinds():
    digest = "0" * 32
    for place, kind in {
        "panmodal.json": "manifest", "config.yaml": "config", f"trials/00/{digest}.parquet": "predictions",
        f"trials/00/.partial-{digest}.parquet": "leftover", f"responses/rank_score-{digest}.parquet": "responses",
        f"fusions/00/{digest}.json": "fusion", f"trials/{digest}.parquet": "unknown", "splits/5 folds-0123abcd.csv": "split",
    }.items():  # fmt: skip
        assert kind_of(place)[0] == kind, place


def test_vectors_that_are_not_finite(results):
    embedding = Embedding.from_dict({"a": [1.0, 2.0], "b": [3.0, 4.0]}, name="e")
    store = Store(results)
    store.write_vectors("1" * 32, ["a", "a"], embedding.vectors)
    one(results, f"embeddings/{'1' * 32}.parquet", "twice")
    assert Card(name="e").name == "e"

"""Compiling a folder task by task: the tables that reading everything at once gives, whatever is cached, damaged or running beside."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from panmodal import METRICS, Card, Embedding, Screen, Store, StoreError, run
from panmodal.evaluation import compaction, segments
from panmodal.evaluation.compaction import compile_results, compile_tables, table_writer
from panmodal.evaluation.gene_scores import compile_resampled, compile_totals
from panmodal.evaluation.imported import Imported, complete, keep_imported, write_imported
from panmodal.evaluation.scores import tidy_scores
from panmodal.evaluation.segments import Segments, read_segment, read_values, task_of

TABLES = ("scores", "perturbations", "ceilings", "resampled")


def labels_screen(seed=0):
    """Return a screen of labels, and embeddings of which two have gaps, so that ids in common are computed from predictions."""
    rng = np.random.default_rng(seed)
    ids = [f"P{k:03d}" for k in range(50)]
    latents = rng.standard_normal((50, 4))
    shift = latents @ rng.standard_normal((4, 15))
    labels = (shift > 1.5).astype(int) - (shift < -1.8)
    screen = Screen.from_arrays(labels, ids, ["A"] * 50, [f"g{g}" for g in range(15)], name="labels", response="deg")

    def part(name, left_out):
        kept = [k for k in range(50) if k % left_out]
        return Embedding(tuple(ids[k] for k in kept), latents[kept], Card(name=name, modality="toy"))

    return screen, [part("fifths", 5), part("sevenths", 7)]


def at_once(store):
    """Gather everything in memory, in the straightforward way: scores, rows, bootstrap samples."""
    records = {t.digest: store.trial_record(t.digest) for t in store.trials()}
    done = {t.digest: t for t in store.trials() if records[t.digest]}
    stored = {d: read_values(store, t) for d, t in done.items()}
    rows = pd.concat([pd.DataFrame(v[0]) for v in stored.values()], ignore_index=True)
    entries = {d: v[1] for d, v in stored.items()}
    about = {d: e.of_genes for d, e in entries.items() if e.of_genes}
    trials = pd.DataFrame([
        {k: v for k, v in t.to_record().items() if k != "depends"}
        | {"hyperparameters": records[t.digest]["hyperparameters"]}
        for t in store.trials() if t.digest in done
    ])  # fmt: skip
    scores = tidy_scores(rows, trials, compile_totals(store, trials, rows, about, done))
    available = pd.DataFrame([(d, m) for d, e in entries.items() for m in e.rules], columns=["trial", "metric"])
    return scores.merge(available, on=["trial", "metric"]), rows, compile_resampled(trials, about)


def contents(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES if (folder / f"{name}.parquet").exists()}


def agree(store):
    """Check that the folder's tables are what reading everything at once gives."""
    scores, rows, samples = at_once(store)
    pd.testing.assert_frame_equal(store.scores(), scores, check_exact=True)
    key = ["trial", "pert_id"]
    own = store.perturbations()
    assert list(own.columns) == [*key, "covered", *(m for m in METRICS if m in own)]
    pd.testing.assert_frame_equal(
        own.sort_values(key, ignore_index=True),
        rows.sort_values(key, ignore_index=True)[list(own.columns)],
        check_exact=True,
    )
    found = store.resampled()
    if len(samples):
        key = ["trial", "screen", "context", "fold", "metric"]
        found = found[found["trial"] != ""]
        for a, b in zip(found.sort_values(key)["draws"], samples.sort_values(key)["draws"], strict=True):
            np.testing.assert_array_equal(a, b)
    for task, own in scores.groupby(["screen", "context", "response", "split"]):
        trials = own["trial"].unique()
        assert set(store.rows().of(task, trials, ["L2"])["trial"]) == set(trials)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy):
    """Two kinds of response, several contexts, controls, an embedding of the same content under two names."""
    out = tmp_path_factory.mktemp("compaction") / "r"
    screen, embeddings = toy(n=30, genes=8)
    twin = Embedding(embeddings[0].ids, embeddings[0].vectors, Card(name="twin", modality="other"))
    run(screen, [*embeddings, twin], out, probes=["ridge"], folds=2, permuted=True, n_jobs=1)
    renamed = Screen.from_arrays(np.vstack([screen.responses("A")[1]]), screen.responses("A")[0], ["A"] * 30, screen.readouts,
                                 name="another name", response="lfc")  # fmt: skip
    run(renamed, embeddings[:1], out, probes=["ridge"], metrics=["L2", "Pearson"], folds=2, n_jobs=1)
    run(*labels_screen(), out, probes=["ridge_classifier"], folds=2, n_jobs=1)
    return out


@pytest.fixture
def store(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "r")
    return Store(tmp_path / "r")


def test_tables_are_those_of_reading_everything_at_once(store):
    returned = compile_results(store)
    pd.testing.assert_frame_equal(returned, store.scores(), check_exact=True)
    agree(store)
    assert set(store.scores()["response"]) == {"lfc", "deg"}
    assert (
        store.scores()
        .query("embedding == 'twin'")["trial"]
        .isin(store.scores().query("embedding == 'full'")["trial"])
        .all()
    )


def test_only_new_trials_are_read_from_their_files(store, monkeypatch):
    compile_results(store)
    first, listed = contents(store.path), sorted((store.path / "compact").iterdir())
    read = []
    monkeypatch.setattr(Store, "read_rows", lambda *a: read.append(a))
    compile_tables(store)
    assert not read and contents(store.path) == first and sorted((store.path / "compact").iterdir()) == listed
    monkeypatch.undo()
    victim = store.trials()[0]
    store._trial_path(victim.digest).unlink()
    compile_results(store)  # without it
    agree(store)
    assert victim.digest not in set(store.scores()["trial"])
    shutil.copytree(store.path.parent / "r", store.path.parent / "copy")  # inodes change: everything is read again
    compile_results(Store(store.path.parent / "copy"))
    assert contents(store.path.parent / "copy") == contents(store.path)


def test_tables_depend_on_the_set_of_trials_alone(folder, tmp_path):
    made = []
    for k, order in enumerate((False, True)):
        out = tmp_path / str(k)
        shutil.copytree(folder, out)
        for n, path in enumerate(sorted((out / "runs").iterdir(), reverse=order)):
            os.utime(path, (1e9 + n, 1e9 + n))
        for name in TABLES:
            (out / f"{name}.parquet").unlink(missing_ok=True)
        compile_tables(Store(out))
        made.append((contents(out), sorted(p.name for p in (out / "compact").iterdir())))
    assert made[0] == made[1]


@pytest.mark.parametrize("part", [".rows.parquet", ".trials.parquet"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_segment_is_made_again(store, part, harm):
    compile_results(store)
    first = contents(store.path)
    for path in (store.path / "compact").glob(f"*{part}"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 3] ^= 0xFF
        path.unlink() if harm == "gone" else path.write_bytes(raw if harm == "flip" else raw[:-20])
    compile_results(store)
    assert contents(store.path) == first
    for path in (store.path / "compact").glob("*.trials.parquet"):
        read_segment(path)


def test_scores_that_are_absent_damaged_or_outdated_are_computed_again(store):
    compile_results(store)
    first = contents(store.path)
    by_kind = {t.response: t for t in store.trials()}
    for trial in by_kind.values():
        store._rows_path(trial.digest).unlink()
    store._genes_path(by_kind["deg"].digest).write_bytes(b"damaged")
    old = next(t for t in store.trials() if t.probe == "train mean")
    rows, rules = store.read_rows(old.digest)
    store.write_rows(old.digest, rows.assign(L2=-1.0), {**rules, "L2": 0})
    compile_results(store)
    assert contents(store.path) == first
    victim = store.trials()[0].digest
    from dataclasses import replace

    store.write_trial(victim, replace(store.read_trial(victim), values=None))
    store._rows_path(victim).unlink()
    with pytest.raises(StoreError, match="without keeping predictions"):
        compile_results(store)
    assert contents(store.path) == first  # as they were


def test_rescored_values_replace_those_in_the_segment(store):
    compile_results(store)
    trial = next(t for t in store.trials() if t.response == "lfc")
    rows, rules = store.read_rows(trial.digest)
    store.write_rows(trial.digest, rows.assign(L2=rows["L2"] + 1), rules)
    compile_results(store)
    agree(store)


def test_imported_scores_and_ceilings_stay(store):
    score = {"screen": "theirs", "context": "A", "response": "lfc", "fold": 0, "embedding": "e", "probe": "p", "metric": "L2",
             "value": 1.0, "role": "embedding"}  # fmt: skip
    write_imported(Imported(complete(pd.DataFrame([score])), None, ()), store.path)
    returned = compile_results(store)
    assert "theirs" not in set(returned["screen"]) and "theirs" in set(store.scores()["screen"])
    frame = pd.DataFrame({"screen": "toy", "context": "A", "response": "lfc", "split": store.trials()[0].split, "fold": 0,
                          "estimator": "halves", "pert_id": ["P000"], "n_draws": 1, "L2": 0.5})  # fmt: skip
    trial = next(t for t in store.trials() if t.screen == "toy" and t.context == "A")
    about = {"key": "k", "responses": trial.depends["responses"], "split": trial.depends["split"], "metrics": {"L2": 1},
             "draws": {"halves": {"F1": [0.1, 0.2]}}}  # fmt: skip
    store.write_ceilings(["toy", "A", "lfc", trial.split, 0, 42], about, frame.assign(seed=42))
    store.write_ceilings(["x", "A", "lfc", trial.split, 0, 42], about, frame.assign(seed=42, screen="of no plan"))
    compile_results(store)
    assert store.ceilings()["screen"].tolist() == ["toy"]
    assert store.resampled().query("estimator == 'halves'")["draws"].map(list).tolist() == [[0.1, 0.2]]
    keep_imported(store)


def test_nothing_finished_and_progress(store):
    seen = []
    compile_tables(store, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and all(done <= total for done, total in seen)
    shutil.rmtree(store.path / "trials")
    before = contents(store.path)
    with pytest.raises(StoreError, match="no finished trial"):
        compile_tables(store)
    assert contents(store.path) == before


def test_a_segment_says_what_it_holds(store, monkeypatch):
    compile_tables(store)
    path = next((store.path / "compact").glob("*.trials.parquet"))
    other = path.with_name(path.name.replace("-", "-f", 1).replace(".trials", "", 1)[:65] + ".trials.parquet")
    for name in (".rows.parquet", ".trials.parquet"):
        shutil.copy(str(path).replace(".trials.parquet", name), str(other).replace(".trials.parquet", name))
    with pytest.raises(StoreError, match="another digest"):
        read_segment(other)
    trial = store.trials()[0]
    own = [t for t in store.trials() if task_of(t) == task_of(trial)]
    real = segments.read_parquet

    def broken(path, *columns):
        if "compact" in str(path):
            raise StoreError("always damaged")
        return real(path, *columns)

    monkeypatch.setattr(segments, "read_parquet", broken)
    values = Segments(store).read(task_of(trial), own)  # from the trials' files
    assert set(values.entries) == {t.digest for t in own}


def test_a_table_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "t.parquet"
    with table_writer(path) as table:
        table.append(pd.DataFrame({"a": [1]}))
        table.append(pd.DataFrame({"a": []}))
    with pytest.raises(ZeroDivisionError), table_writer(path) as table:
        table.append(pd.DataFrame({"a": [2]}))
        raise ZeroDivisionError
    assert pd.read_parquet(path)["a"].tolist() == [1] and len(list(tmp_path.iterdir())) == 1
    with table_writer(path):
        pass
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, random, shutil, signal, sys, time, traceback
from pathlib import Path
import numpy as np
from panmodal import Card, Embedding, Screen, Store, run
from panmodal.evaluation.compaction import compile_tables

rng = np.random.default_rng(0)
ids = [f"P{k:03d}" for k in range(40)]
latents = rng.standard_normal((40, 4))
screen = Screen.from_arrays(latents @ rng.standard_normal((4, 6)), ids, ["A"] * 40, list("abcdef"), name="s", response="lfc")
made = {n: Embedding(tuple(ids), latents + k * rng.standard_normal((40, 4)), Card(name=n, modality="toy")) for k, n in enumerate("wxyz")}

def go(which, out):
    run(screen, [made[n] for n in which], out, folds=3, n_jobs=1, probes=["ridge", "knn"])

def start(work, *given):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work(*given)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def end(*pids):
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert set(codes) <= {0, -signal.SIGKILL}, codes
    return codes

out = Path(sys.argv[1])

assert end(start(go, "wxy", out / "two"), start(go, "zyx", out / "two")) == [0, 0]
chance = random.Random(0)
for k in range(2):
    folder = out / f"killed{k}"

    victim, other = start(go, "wxyz", folder), start(go, "zw", folder)
    while not list(folder.glob("trials/*/*")):
        time.sleep(0.002)
    time.sleep(chance.random() * 0.5)
    os.kill(victim, signal.SIGKILL)
    assert end(victim, other)[1] == 0
    assert end(start(go, "wxyz", folder)) == [0]
go("wxyz", out / "one")
for folder in out.iterdir():
    compile_tables(Store(folder))
shutil.copytree(out / "one", out / "compiled")
for _ in range(3):
    shutil.rmtree(out / "compiled" / "compact")
    assert end(start(compile_tables, Store(out / "compiled")), start(compile_tables, Store(out / "compiled"))) == [0, 0]
"""


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """Folders that several processes wrote at once, some of them killed; ``one`` was left in peace."""
    out = tmp_path_factory.mktemp("disturbed")
    done = subprocess.run([sys.executable, "-c", SCRIPT, out], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", ["two", "killed0", "killed1", "compiled"])
def test_processes_at_once_and_killed_ones_leave_what_one_leaves(disturbed, name):
    assert contents(disturbed / name) == contents(disturbed / "one")
    trials = {p.name for p in (disturbed / "one").glob("trials/*/*")}
    assert {p.name for p in (disturbed / name).glob("trials/*/*.parquet") if not p.name.startswith(".")} == trials
    agree(Store(disturbed / name))


def test_a_compiler_survives_another_that_takes_its_segments(store, monkeypatch):
    compile_tables(store)
    first = contents(store.path)
    real = compaction.Compiler.tables

    def robbed(self, task):
        shutil.rmtree(store.path / "compact", ignore_errors=True)
        return real(self, task)

    monkeypatch.setattr(compaction.Compiler, "tables", robbed)
    compile_tables(store)
    assert contents(store.path) == first

"""What a run survives: kills, full disks, trials that raise; and that it does not matter who computes it."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from panmodal import Store, run

CHEAP = {"probes": ["ridge"], "metrics": ["L2", "Pearson"], "n_jobs": 1}


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def files(tmp_path: Path, toy) -> list[str]:
    screen, embeddings = toy(n=100, genes=400)
    screen.write(tmp_path / "s.h5ad")
    for embedding in embeddings:
        embedding.write(tmp_path / f"{embedding.name}.h5ad")
    return [
        sys.executable, "-m", "panmodal", "run", "--screen", str(tmp_path / "s.h5ad"), "--embedding", str(tmp_path / "full.h5ad"),
        "--embedding", str(tmp_path / "part.h5ad"), "--jobs", "1",
    ]  # fmt: skip


def test_a_kill_at_any_moment_loses_at_most_the_trial_in_flight(toy, tmp_path) -> None:
    command = files(tmp_path, toy)
    subprocess.run([*command, "--out", str(tmp_path / "calm")], check=True, capture_output=True)
    total = len(list((tmp_path / "calm" / "trials").rglob("[0-9a-f]*.parquet")))
    out = tmp_path / "killed"
    done = 0
    for goal in (1, 15, 60):
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((out / "trials").rglob("[0-9a-f]*.parquet"))) >= goal:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        store = Store(out)
        whole = [p for p in (out / "trials").rglob("[0-9a-f]*.parquet") if store.has_trial(p.stem)]
        assert len(whole) == len(list((out / "trials").rglob("[0-9a-f]*.parquet"))), "a stored file is not whole"
        assert done <= len(whole) < total
        done = len(whole)
    finished = subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, text=True)
    assert f"{total - done} trials computed, {done} found done." in finished.stdout
    same(Store(out).scores(), Store(tmp_path / "calm").scores())


def test_a_disk_that_refuses_to_grow_is_reported_and_the_run_goes_on_later(toy, tmp_path) -> None:
    command = files(tmp_path, toy)

    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    out = tmp_path / "r"
    stopped = subprocess.run(
        [*command, "--out", str(out)], preexec_fn=small_files_only, capture_output=True, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert stopped.returncode == 2, stopped.stderr
    assert "could not be written" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not list(out.rglob(".partial-*"))
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    subprocess.run([*command, "--out", str(tmp_path / "calm")], check=True, capture_output=True)
    same(Store(out).scores(), Store(tmp_path / "calm").scores())


def broken_probes(monkeypatch, error):
    from panmodal.probes import base

    def burst(*_):
        raise error

    # The same grid and rule, and thus the same trials.
    broken = {**base.probes(), "ridge": replace(base.probes()["ridge"], errors=burst, predict=burst)}
    monkeypatch.setattr(base, "probes", lambda: broken)


def test_a_probe_that_fails_names_its_trial(toy, tmp_path, monkeypatch) -> None:
    from panmodal import PanmodalError

    broken_probes(monkeypatch, FloatingPointError("no"))
    screen, embeddings = toy()
    with pytest.raises(PanmodalError, match=r"toy, A, fold 0, \w+, ridge: FloatingPointError: no"):
        run(screen, embeddings, tmp_path / "r", fail_fast=True, **CHEAP)


def test_a_trial_that_fails_is_recorded_and_does_not_stop_the_rest(toy, tmp_path, monkeypatch) -> None:
    screen, embeddings = toy()
    both = {**CHEAP, "probes": ["ridge", "knn"]}
    with monkeypatch.context() as patch:
        broken_probes(patch, FloatingPointError("no"))
        results = run(screen, embeddings, tmp_path / "r", **both)
        store = Store(tmp_path / "r")
        ridge = {t.digest for t in results.plan.trials if t.probe == "ridge"}
        assert {r["trial"] for r in results.failed} == ridge == {r["trial"] for r in store.failures()}
        assert results.computed == len(results.plan.trials) - len(ridge) and results.reused == 0
        one = results.failed[0]
        assert (one["type"], one["message"], one["probe"]) == ("FloatingPointError", "no", "ridge") and "burst" in one[
            "traceback"
        ]
        assert set(results.scores.query("role == 'embedding'")["probe"]) == {"knn"}
        (call,) = store.invocations()
        assert (call["state"], call["failed"]) == ("finished", len(ridge))
    healed = run(screen, embeddings, tmp_path / "r", **both)
    assert healed.failed == () and healed.computed == len(ridge) and store.failures() == []
    assert not list((tmp_path / "r" / "failures").rglob("*.json"))
    same(
        healed.scores.drop(columns="version", errors="ignore"),
        run(screen, embeddings, tmp_path / "calm", **both).scores,
    )


def test_a_run_of_which_nothing_is_left_says_why(toy, tmp_path, monkeypatch) -> None:
    from panmodal import PanmodalError
    from panmodal.evaluation import execute

    def burst(*_, **__):
        raise FloatingPointError("no")

    monkeypatch.setattr(execute, "store_scores", burst)
    screen, embeddings = toy()
    with pytest.raises(
        PanmodalError, match=r"all \d+ trials failed, .* in fold \d by FloatingPointError: no. Tracebacks are in"
    ):
        run(screen, embeddings, tmp_path / "r", **CHEAP)


def test_a_full_disk_stops_everything_and_says_so(toy, tmp_path, monkeypatch) -> None:
    from panmodal import PanmodalError

    broken_probes(monkeypatch, OSError(28, "No space left on device"))
    screen, embeddings = toy()
    with pytest.raises(PanmodalError, match="free some space and run the same command again"):
        run(screen, embeddings, tmp_path / "r", **CHEAP)
    (call,) = Store(tmp_path / "r").invocations()
    assert call["state"] == "failed" and "disk" in call["error"]
    monkeypatch.undo()
    assert run(screen, embeddings, tmp_path / "r", **CHEAP).failed == ()


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_behind(toy, tmp_path) -> None:
    (tmp_path / "tmp").mkdir()
    command = [*files(tmp_path, toy), "--jobs", "2", "--out", str(tmp_path / "r")]
    surroundings = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                               env=surroundings)  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "r" / "trials").rglob("[0-9a-f]*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Interrupted. Finished trials are kept; run the same command again to go on." in said
    assert not list((tmp_path / "tmp").glob("panmodal-*"))
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings)
    assert "found done" in again.stdout and " 0 found done" not in again.stdout


def test_the_work_folder_of_a_killed_run_is_cleared_away_and_that_of_a_living_one_is_not(tmp_path, monkeypatch) -> None:
    from panmodal.evaluation.workspace import work_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with work_folder() as mine:
        dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
        dead.mkdir()
        other = tmp_path / "panmodal-elsewhere-1-x"
        other.mkdir()
        with work_folder() as second:
            assert mine.exists() and second.exists() and other.exists() and not dead.exists()
    assert not mine.exists() and not second.exists()


@pytest.mark.parametrize("executor", ["local", "dask:local"])
def test_everybody_computes_the_same_bits(executor, toy, tmp_path) -> None:
    if executor.startswith("dask"):
        pytest.importorskip("distributed")
    screen, embeddings = toy()
    what = {"fusions": ["kernels", "late"], "permuted": True, "probes": ["ridge", "knn", "lasso"]}
    alone = run(screen, embeddings, tmp_path / "a", executor="serial", **what)
    other = run(screen, embeddings, tmp_path / "b", executor=executor, n_jobs=2, **what)
    assert other.computed == alone.computed > 100
    key = ["context", "fold", "embedding", "probe", "fallback", "metric"]
    same(alone.scores.sort_values(key, ignore_index=True), other.scores.sort_values(key, ignore_index=True))
    for trial in alone.plan.trials:
        one, two = (Store(tmp_path / k).read_trial(trial.digest) for k in "ab")
        assert one.values.tobytes() == two.values.tobytes() and one.train_mean.tobytes() == two.train_mean.tobytes()
        assert one.record["hyperparameters"] == two.record["hyperparameters"]


def test_a_file_system_that_is_full_loses_nothing(toy, tmp_path) -> None:
    """A file system of its own, of 700 KB, in a mount namespace of its own; then it grows."""
    command = files(tmp_path, toy)
    out = tmp_path / "r"
    out.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(out)], capture_output=True).returncode:
        pytest.skip("needs to mount a file system of its own")
    script = """
        mount -t tmpfs -o size=700k none "$0"
        "$@"; echo "ended with $?"
        find "$0" -name '.partial-*'
        "$@"; echo "ended with $?"
        mount -o remount,size=100m "$0"
        "$@"; echo "ended with $?"
        cp "$0/scores.parquet" "$0.parquet"
    """
    every = [*command, "--out", str(out)]
    found = subprocess.run(["unshare", "-rm", "sh", "-c", script, str(out), *every], capture_output=True, text=True)
    ends = [line for line in found.stdout.splitlines() if line.startswith("ended with")]
    assert ends == ["ended with 2", "ended with 2", "ended with 0"], found
    assert found.stderr.count("No space left on device") == 2 and "Traceback" not in found.stderr, found.stderr
    assert ".partial-" not in found.stdout
    assert " 0 found done" not in found.stdout.splitlines()[-1]
    subprocess.run([*command, "--out", str(tmp_path / "calm")], check=True, capture_output=True)
    key = ["context", "fold", "embedding", "probe", "fallback", "metric"]
    survived, calm = (pd.read_parquet(p) for p in (out.with_suffix(".parquet"), tmp_path / "calm" / "scores.parquet"))
    same(survived.sort_values(key, ignore_index=True), calm.sort_values(key, ignore_index=True))

"""Values of perturbations on disk, a task at a time; and the evidence that reads them."""

import numpy as np
import pandas as pd
import pytest

from panmodal.errors import StoreError
from panmodal.evaluation.rows import StoredRows, task_groups, write_rows
from panmodal.insight.evidence import Evidence
from panmodal.insight.gaps import gap_table
from panmodal.insight.rows import TableRows, as_rows, matrices

TASKS = [("s", "a", "lfc", "u"), ("s", "b", "lfc", "u")]


@pytest.fixture
def tables():
    """Two tasks that share a trial: trials, rows."""
    labels = [
        (*TASKS[0], 0, "e", "knn", "t0"), (*TASKS[0], 1, "e", "knn", "t1"), (*TASKS[1], 0, "e", "knn", "t2"),
        (*TASKS[1], 0, "same as e", "knn", "t0"),
    ]  # fmt: skip
    trials = pd.DataFrame(
        labels, columns=["screen", "context", "response", "split", "fold", "embedding", "probe", "trial"]
    )
    rng = np.random.default_rng(0)
    rows = [
        {"trial": t, "pert_id": f"{t[1]}-{k}", "covered": k > 0, "L2": v}
        for t in ("t0", "t1", "t2")
        for k, v in enumerate(rng.random(4))
    ]
    return trials, pd.DataFrame(rows)


def stored(tables, path):
    trials, rows = tables
    home, tasks = task_groups(trials)
    write_rows(path, (rows[rows["trial"].map(home) == k] for k in range(2)), tasks)
    return StoredRows(path)


def test_a_task_is_read_alone_and_as_in_memory(tables, tmp_path):
    on_disk, in_memory = stored(tables, tmp_path / "p.parquet"), TableRows(tables[1])
    assert on_disk.metrics == in_memory.metrics == ["L2"]
    for task, trials in ((TASKS[0], ["t0", "t1"]), (TASKS[1], ["t2", "t0"]), (TASKS[0], ["t1"]), (TASKS[1], [])):
        ours = on_disk.of(task, trials, ["L2", "no such metric"]).astype({"trial": object, "pert_id": object})
        theirs = in_memory.of(task, trials, ["L2", "no such metric"])
        key = ["trial", "pert_id"]
        pd.testing.assert_frame_equal(
            ours.sort_values(key, ignore_index=True), theirs.sort_values(key, ignore_index=True), check_dtype=False
        )
    pd.testing.assert_frame_equal(on_disk.whole(), tables[1], check_dtype=False)
    assert as_rows(on_disk) is on_disk


def test_groups_of_tasks(tables):
    home, tasks = task_groups(tables[0])
    assert home.to_dict() == {"t0": 0, "t1": 0, "t2": 1}
    assert tasks == [{"task": list(TASKS[0]), "groups": [0]}, {"task": list(TASKS[1]), "groups": [0, 1]}]


def test_a_file_without_groups_is_read_whole(tables, tmp_path):
    tables[1].to_parquet(tmp_path / "old.parquet", index=False)
    assert len(StoredRows(tmp_path / "old.parquet").of(TASKS[1], ["t2"], ["L2"])) == 4


def test_damage_is_named(tables, tmp_path):
    path = tmp_path / "p.parquet"
    stored(tables, path)
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match="damaged"):
        StoredRows(path).of(TASKS[0], ["t0"], ["L2"])


def test_matrices_hold_what_pivots_hold(tables):
    trials, rows = tables
    labels = trials.assign(seed=42, method=[0, 0, 1, 2])[["trial", "fold", "seed", "method"]]
    made = matrices(rows, labels, "L2", 3)
    assert list(made) == [(0, 42), (1, 42)]
    for (fold, _), (names, table) in made.items():
        own = rows.merge(labels[labels["fold"] == fold], on="trial")
        wide = own.pivot_table(index="pert_id", columns="method", values="L2").reindex(columns=range(3))
        assert list(names) == list(wide.index)
        np.testing.assert_array_equal(table, wide.to_numpy())


def test_evidence_reads_rows_whole_only_when_looked_at(tables, tmp_path, make_scores):
    scores = make_scores(
        {
            ("a", "ridge"): [1.0, 2.0],
            ("none", "train mean", "baseline"): [3.0, 3.0],
            ("idealised", "ridge", "oracle"): [0.5, 0.5],
        }
    )
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([
        {"trial": t, "pert_id": f"P{f}{k}", "covered": True, "L2": v + rng.normal()}
        for t, f, v in scores[["trial", "fold", "value"]].drop_duplicates().itertuples(index=False) for k in range(5)
    ])  # fmt: skip
    _, tasks = task_groups(scores)
    write_rows(tmp_path / "p.parquet", [rows], tasks)
    lazy, eager = Evidence(scores, StoredRows(tmp_path / "p.parquet")), Evidence(scores, rows)
    assert "_table" not in lazy.__dict__
    task = lazy.tasks[0]
    key = ["embedding", "fold", "pert_id"]
    pd.testing.assert_frame_equal(
        lazy.per_perturbation(task, "L2").sort_values(key, ignore_index=True),
        eager.per_perturbation(task, "L2").sort_values(key, ignore_index=True), check_dtype=False,
    )  # fmt: skip
    assert "_table" not in lazy.__dict__
    pd.testing.assert_frame_equal(lazy.rows, rows, check_dtype=False)
    assert Evidence(scores).rows is None and Evidence(scores).per_perturbation(task, "L2").empty
    assert lazy.per_perturbation(task, "no such metric").empty
    pd.testing.assert_frame_equal(gap_table(scores, lazy.source), gap_table(scores, rows))


def test_marks_are_computed_once_for_a_state_of_the_folder(tmp_path, monkeypatch):
    import panmodal.insight.calibration as calibration
    from panmodal import Embedding, Screen, run
    from panmodal.evaluation.evidence import read_marks
    from panmodal.insight.leaderboard import leaderboard, summary
    from panmodal.insight.terminal import task_title

    rng = np.random.default_rng(0)
    ids, latent = [f"G{k:02d}" for k in range(60)], rng.normal(size=(60, 3))
    screen = Screen.from_arrays(latent @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(60, 12)), ids, ["line"] * 60,
                                [f"R{k}" for k in range(12)], name="s", response="lfc")  # fmt: skip
    embedding = Embedding.from_dict(dict(zip(ids, latent, strict=True)), name="e", trained_on=("none",))
    run(screen, [embedding], tmp_path / "r", probes=["ridge"], permuted=True, n_jobs=1)
    calls, real = [], calibration.marks
    monkeypatch.setattr(calibration, "marks", lambda e: calls.append(1) or real(e))
    first, second = read_marks(tmp_path / "r"), read_marks(tmp_path / "r")
    pd.testing.assert_frame_equal(first, second)
    assert len(calls) == 1 and set(first["verdict"]) <= {"pass", "weak", "fail", "unknown"}
    (tmp_path / "r" / "marks.parquet").write_bytes(b"damaged")
    read_marks(tmp_path / "r")
    assert len(calls) == 2
    scores = pd.read_parquet(tmp_path / "r" / "scores.parquet")
    board = leaderboard(scores, marks=first.assign(verdict="fail", why="nothing tells them apart"))
    assert "METRIC FAILS HERE" in task_title(board)
    assert "beware: L2 fails here: nothing tells them apart" in summary(board)[0]
    assert set(leaderboard(scores)["verdict"]) == {"unknown"} and "beware" not in summary(leaderboard(scores))[0]

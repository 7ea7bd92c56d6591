"""What a page shows of more tasks and methods than it has room for."""

import numpy as np
import pandas as pd
import pytest

from panmodal.insight.evidence import Evidence
from panmodal.insight.leaderboard import leaderboard
from panmodal.insight.report import make_report
from panmodal.insight.report_narrow import MOST_METHODS, MOST_TASKS, narrow
from panmodal.insight.report_write import LIMIT, write_page


def board_of(n_tasks, n_embeddings):
    rng = np.random.default_rng(0)
    scores, rows = [], []
    names = [(f"e{k:03d}", "ridge", "embedding", 5 + 0.01 * k) for k in range(n_embeddings)]
    names += [(f"e{k:03d} (permuted)", "ridge", "control", 6.0) for k in range(n_embeddings)]
    names += [("none", "train mean", "baseline", 6.0), ("idealised", "ridge", "oracle", 3.0)]
    for task in range(n_tasks):
        for fold in range(2):
            for number, (embedding, probe, role, level) in enumerate(names):
                trial = f"{task}-{fold}-{number}"
                values = level + 0.1 * rng.standard_normal(4)
                rows += [(trial, f"P{fold}{k}", True, v) for k, v in enumerate(values)]
                scores.append((f"s{task:02d}", "c", "lfc", "u", fold, embedding, probe, 42, "filled", "L2", values.mean(), 4, 4, "{}", trial,
                               role, "toy", False, "no", 4, 0))  # fmt: skip
    columns = ["screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "fallback", "metric", "value",
               "n_test", "n_covered", "hyperparameters", "trial", "role", "modality", "simulated", "seen", "n_scored", "n_undefined"]  # fmt: skip
    return Evidence(
        pd.DataFrame(scores, columns=columns), pd.DataFrame(rows, columns=["trial", "pert_id", "covered", "L2"])
    )


def test_what_fits_is_shown_whole():
    evidence = board_of(2, 3)
    board = leaderboard(evidence.scores, rows=evidence.source)
    assert narrow(evidence, board) == (evidence, board, "") or narrow(evidence, board)[0] is evidence


@pytest.fixture(scope="module")
def many():
    return board_of(MOST_TASKS + 8, MOST_METHODS + 10)


def test_the_leading_methods_of_some_tasks_are_chosen(many):
    board = leaderboard(many.scores, rows=many.source)
    few, shown, said = narrow(many, board)
    assert len(few.tasks) == MOST_TASKS and few.tasks[0] == many.tasks[0] and few.tasks[-1] == many.tasks[-1]
    ranked = shown[shown["role"] == "embedding"]
    assert ranked["embedding"].nunique() == MOST_METHODS
    assert set(shown.loc[shown["role"] == "control", "embedding"]) == {f"{e} (permuted)" for e in ranked["embedding"]}
    assert {"none", "idealised"} <= set(shown["embedding"])
    assert (
        f"{MOST_TASKS + 8} tasks and {MOST_METHODS + 10} methods" in said
        and f"{MOST_METHODS} methods of the best" in said
    )
    assert set(few.rows["trial"]) == set(few.scores["trial"])
    task = few.tasks[3]
    key = ["embedding", "fold", "pert_id"]
    ours = few.per_perturbation(task, "L2").sort_values(key, ignore_index=True)
    all_ = many.per_perturbation(task, "L2")
    theirs = all_[all_["embedding"].isin(ours["embedding"])].sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(ours, theirs)


def test_the_page_stays_small_and_says_what_it_left_out(many, tmp_path):
    made = make_report(many, sections=[])
    size = write_page(made, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert size < LIMIT and "too many for one page" in text
    assert len(made.tables["leaderboard"]) == (MOST_TASKS + 8) * (2 * (MOST_METHODS + 10) + 2)

"""Tables for the terminal."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from panmodal.insight.leaderboard import leaderboard
from panmodal.insight.terminal import number, overall_table, task_tables, task_title

METHODS = {
    ("[bold]x", "knn"): [6.0, 6.5, 7.0],
    ("alpha", "knn"): [5.0, 5.5, 6.0],
    ("undefined", "knn"): [np.nan] * 3,
    ("none", "train mean", "baseline"): [8.0, 8.5, 9.0],
    ("random", "knn", "control"): [8.1, 8.4, 9.1],
    ("idealised", "knn", "oracle"): [4.0, 4.5, 5.0],
}


def text(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def cells(table):
    return [[str(c) for c in line] for line in zip(*(column.cells for column in table.columns), strict=True)]


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(1.23456, 3, "1.235"), (1.23456, 2, "1.23"), (np.nan, 3, "–"), (None, 3, "–"), (pd.NA, 3, "–"), (-0.5, 1, "-0.5")],
)
def test_number(value, digits, expected):
    assert number(value, digits) == expected


@pytest.mark.parametrize(("metric", "direction"), [("L2", "lower is better"), ("Pearson", "higher is better")])
@pytest.mark.parametrize("simulated", [False, True])
def test_title_says_task_metric_direction_and_whether_simulated(make_scores, metric, direction, simulated):
    title = task_title(leaderboard(make_scores(METHODS, metric=metric, simulated=simulated), metric=metric))
    assert title.startswith(f"screen · ctx · lfc · unseen — {metric}, {direction}")
    assert title.endswith("SIMULATED") == simulated


def test_rows_of_a_task(make_scores):
    (table,) = task_tables(leaderboard(make_scores(METHODS, covered={"alpha": 6})))
    assert [column.header for column in table.columns] == [
        "rank", "embedding", "probe", "L2", "± sd", "gap closed", "above floor", "coverage", "common"
    ]  # fmt: skip
    assert cells(table) == [
        ["", "idealised (oracle)", "knn", "4.500", "0.500", "1.000", "3/3", "100 %", "4.500"],
        ["1", "alpha", "knn", "5.500", "0.500", "0.750", "3/3", "60 %", "5.500"],
        ["2", "\\[bold]x", "knn", "6.500", "0.500", "0.500", "3/3", "100 %", "6.500"],
        ["", "none", "train mean", "8.500", "0.500", "0.000", "0/3", "", "8.500"],
        ["", "random (control)", "knn", "8.533", "0.513", "-0.008", "1/3", "100 %", "8.533"],
        ["", "undefined", "knn", "–", "–", "–", "0/0", "100 %", "–"],
    ]


def test_markup_in_names_is_shown_as_it_is(make_scores):
    board = leaderboard(make_scores(METHODS, screen="[red]s"))
    assert "[bold]x" in text(task_tables(board)[0]) and "[red]s" in text(task_tables(board)[0])
    assert "[bold]x" in text(overall_table(board))


def test_one_table_for_each_task(make_scores):
    board = leaderboard(pd.concat([make_scores(METHODS), make_scores(METHODS, context="other")]))
    assert ["ctx" in t.title for t in task_tables(board)] == [True, False]


@pytest.mark.parametrize(
    ("limit", "shown"), [(1, ["alpha"]), (2, ["alpha", "\\[bold]x"]), (None, ["alpha", "\\[bold]x"])]
)
def test_limit_is_on_ranked_embeddings_only(make_scores, limit, shown):
    (table,) = task_tables(leaderboard(make_scores(METHODS)), limit)
    assert [c[1] for c in cells(table) if c[0]] == shown
    assert {"idealised (oracle)", "none", "random (control)"} <= {c[1] for c in cells(table)}


def test_fallback_common_shows_filled_beside_it(make_scores):
    (table,) = task_tables(leaderboard(make_scores(METHODS), fallback="common"))
    assert table.columns[-1].header == "filled"


def test_overall_table_marks_simulated_tasks(make_scores):
    board = leaderboard(pd.concat([make_scores(METHODS), make_scores(METHODS, context="sim", simulated=True)]))
    rows = cells(overall_table(board))
    assert rows[0] == ["alpha", "knn", "toy", "1", "0.00", "1", "0.750", "1/1", "100 %"]
    assert [r[2] for r in rows] == ["toy"] * 3 + ["toy · simulated"] * 3

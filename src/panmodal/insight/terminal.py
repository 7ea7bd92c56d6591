"""The leaderboard as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import ORACLE, TASK
from panmodal.insight.leaderboard import ceiling_name, overall

if TYPE_CHECKING:
    from rich.table import Table

SEEN = " (trained on this data set)"
"""Mark of an embedding that has seen the responses it is tested on."""

STYLES = {"embedding": "", "baseline": "dim", "control": "dim", "oracle": "dim italic"}
NOTE = (
    "gap closed: 0 is the floor (the best baseline without an embedding), 1 the ceiling, not clipped, with a 95 % interval over "
    "perturbations. Baselines, controls and oracles are not ranked. 'common': test ids that every embedding covers."
)
ORACLE_NOTE = (
    " The idealised oracle, where it is the ceiling, has seen the answers; panmodal ceiling makes noise ceilings."
)


def note_for(board: pd.DataFrame) -> str:
    """Say how to read a leaderboard."""
    oracle = board["ceiling_by"].astype(str).str.startswith(f"{ORACLE}, ").any()
    return NOTE + (ORACLE_NOTE if oracle else "") + silent_note(board)


def silent_note(board: pd.DataFrame) -> str:
    """Say how many embeddings do not tell whether they have seen a data set; nothing if all do."""
    ranked = board[board["role"] == "embedding"]
    silent = ranked.loc[ranked["seen"] == "unknown", "embedding"].nunique()
    if not silent:
        return ""
    return (
        f" Of {silent} embedding(s) it is not known whether they were trained on a data set here: their cards (trained_on) or the "
        "screen (--dataset) do not say."
    )


def interval(row: Any) -> str:
    """Format the interval of the gap closed; nothing where there is none."""
    low, high = (row["gap_low"], row["gap_high"]) if isinstance(row, dict) else (row.gap_low, row.gap_high)
    return "" if pd.isna(low) else f"{number(low, 2)} … {number(high, 2)}"


def number(value: float, digits: int = 3) -> str:
    """Format a number; undefined values show as a dash."""
    if pd.isna(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def share(value: float) -> str:
    """Format a share in percent; "unknown" where it is not known."""
    return "unknown" if pd.isna(value) else f"{100 * value:.0f} %"


def task_title(rows: pd.DataFrame) -> str:
    """One line naming the task of some leaderboard rows."""
    first = rows.iloc[0]
    arrow = "higher is better" if METRICS[first["metric"]].higher_is_better else "lower is better"
    marked = " · SIMULATED" if first["simulated"] else ""
    verdict = {"fail": " · METRIC FAILS HERE", "weak": " · metric is weak here"}.get(first["verdict"], "")
    task = " · ".join(str(first[column]) for column in TASK)
    return f"{task} — {first['metric']}, {arrow}{marked}{verdict}"


def task_tables(board: pd.DataFrame, limit: int | None = None) -> list[Table]:
    """One table per task."""
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for _, rows in board.groupby(TASK, sort=False):
        first = rows.iloc[0]
        intervals = ["95 % interval"] if rows["gap_low"].notna().any() else []
        other = "common" if first["fallback"] == "filled" else "filled"
        table = Table(title=escape(task_title(rows)), title_justify="left", title_style="bold", header_style="bold")
        table.add_column("rank", justify="right")
        table.add_column("embedding", overflow="fold")
        table.add_column("probe")
        for column in (str(first["metric"]), "± sd", "gap closed", *intervals, "above floor", "coverage", other):
            table.add_column(column, justify="right")
        shown = (
            rows if limit is None else pd.concat([rows[rows["rank"].notna()].head(limit), rows[rows["rank"].isna()]])
        )
        shown = shown.sort_index() if limit is not None else shown
        for row in shown.itertuples():
            note = {"oracle": " (oracle)", "control": " (control)"}.get(row.role, "")
            note += SEEN if row.seen == "yes" else ""
            between = [interval(row)] if intervals else []
            table.add_row(
                "" if pd.isna(row.rank) else str(row.rank), escape(f"{row.embedding}{note}"), escape(str(row.probe)),
                number(row.mean), number(row.sd), number(row.gap_closed), *between,
                f"{row.folds_above_floor}/{row.n_folds}", "" if row.role == "baseline" else share(row.coverage),
                number(getattr(row, other)),
                style=STYLES.get(row.role, ""),
            )  # fmt: skip
        if first["ceiling_by"]:
            table.caption = escape(f"ceiling: {ceiling_name(first['ceiling_by'])}, {number(first['ceiling'])}; "
                                   f"floor: {first['floor_by']}, {number(first['floor'])}")  # fmt: skip
            table.caption_justify = "left"
        tables.append(table)
    return tables


def overall_table(board: pd.DataFrame) -> Table:
    """Lay out the table over tasks."""
    from rich.markup import escape
    from rich.table import Table

    summary = overall(board)
    table = Table(title="Over tasks", title_justify="left", title_style="bold", header_style="bold")
    table.add_column("embedding", overflow="fold")
    table.add_column("probe")
    table.add_column("modality")
    for column in ("tasks", "mean rank", "wins", "mean gap closed", "above floor", "coverage"):
        table.add_column(column, justify="right")
    previous = None
    for row in summary.itertuples():
        if previous not in (None, row.screens):
            table.add_section()  # ranks of methods run on different screens do not compare
        previous = row.screens
        marked = " · simulated" if row.simulated else ""
        seen = f" (trained on {row.tasks_seen} of the tasks)" if row.tasks_seen else ""
        table.add_row(
            escape(f"{row.embedding}{seen}"), escape(str(row.probe)), escape(f"{row.modality}{marked}"), str(row.tasks),
            number(row.mean_rank, 2), str(row.wins), number(row.mean_gap_closed), f"{row.tasks_above_floor}/{row.tasks}",
            share(row.mean_coverage),
        )  # fmt: skip
    return table

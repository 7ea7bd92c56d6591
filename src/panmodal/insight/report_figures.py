"""Figures of the leaderboard that a report opens with: progress bars of the gap closed, scores of folds, and a map over tasks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panmodal.insight.display import Display
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import ceiling_name, leaderboard, overall
from panmodal.insight.plots import COLOURS, INK, fold_plot
from panmodal.insight.terminal import task_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from panmodal.insight.evidence import Evidence

GREY = "#8a939c"
MOST_BARS = 40
"""Progress bars of a task that are drawn; the table has all."""


def report_board(
    evidence: Evidence, *, metric: str | None = None, fallback: str = "filled", ceiling: str | None = None,
    marks: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the leaderboard of all that the evidence holds (see :func:`panmodal.insight.leaderboard.leaderboard`)."""
    return leaderboard(
        evidence.scores, metric=metric, fallback=fallback, rows=evidence.source, ceilings=evidence.ceilings,
        resampled=evidence.resampled, ceiling=ceiling, marks=marks,
    )  # fmt: skip


def best_probes(board: pd.DataFrame) -> pd.DataFrame:
    """Return the best row of each embedding and control on each task, best first: the probe that suits it best."""
    shown = board[board["role"].isin(["embedding", "control"]) & board["mean"].notna()]
    return shown.drop_duplicates([*TASK, "embedding", "role"]).reset_index(drop=True)


def shown_bars(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one task that get a bar: those with a gap closed, embeddings before controls where there are too many."""
    defined = rows[rows["gap_closed"].notna()]
    if len(defined) <= MOST_BARS:
        return defined
    kept = pd.concat([defined[defined["role"] == role] for role in ("embedding", "control")]).head(MOST_BARS)
    return kept.sort_index()


def tasks_of(board: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each task, tasks in the order of the table."""
    return [rows for _, rows in board.groupby(TASK, sort=False)]


def task_labels(board: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Return the shortest label that tells the tasks apart: screen and context, with response and split only where they differ."""
    tasks = board[TASK].drop_duplicates()
    extra = [c for c in ("response", "split") if tasks.groupby("screen")[c].nunique().gt(1).any()]
    return {tuple(map(str, t)): " · ".join(str(t[TASK.index(c)]) for c in ("screen", "context", *extra))
            for t in tasks.itertuples(index=False, name=None)}  # fmt: skip


def gap_display(board: pd.DataFrame) -> Display:
    """Show how far each embedding gets from floor to ceiling, a bar for each, task by task."""
    unused = ["sd", "n_test", "filled", "covered", "common", "n_undefined"]
    return Display(
        "gap-closed", "Gap closed", best_probes(board).drop(columns=unused),
        "From the floor (0, the best baseline without an embedding) to the ceiling (1), never clipped, with the 95 % interval over "
        "perturbations. Of each embedding the probe that did best on the task is shown, which flatters all of them alike; controls "
        "are grey.", draw=gap_plot,
    )  # fmt: skip


def gap_plot(table: pd.DataFrame) -> Figure:
    """Draw progress bars of the gap closed, a panel for each task (table of :func:`gap_display`)."""
    from matplotlib.figure import Figure

    parts = [(rows, shown_bars(rows)) for rows in tasks_of(table)]
    heights = [1.0 + 0.24 * max(1, len(own)) for _, own in parts]
    figure = Figure(figsize=(7.2, sum(heights)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (rows, own) in zip(panels, parts, strict=True):
        axes.set_title(task_title(rows), fontsize=9, loc="left", color=INK)
        _progress(axes, own)
    return figure


def _progress(axes: Axes, own: pd.DataFrame) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_xlim(*bar_range(own))
    if own.empty:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "undefined: no ceiling that is better than the floor", ha="center", va="center", color=INK, fontsize=8,
                  transform=axes.transAxes)  # fmt: skip
        return
    at = np.arange(len(own))
    axes.barh(at, 1.0, height=0.7, color="#8a939c", alpha=0.22)
    colours = [COLOURS[0] if role == "embedding" else GREY for role in own["role"]]
    axes.barh(at, own["gap_closed"], height=0.7, color=colours)
    known = own["gap_low"].notna().to_numpy()
    axes.hlines(at[known], own["gap_low"][known], own["gap_high"][known], color=INK, linewidth=1)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(at, [f"{e}, {p}" for e, p in zip(own["embedding"], own["probe"], strict=True)], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(own) - 0.4, -0.6)
    axes.set_xlabel(f"gap closed, from the floor ({own.iloc[0]['floor_by']}) to {ceiling_name(own.iloc[0]['ceiling_by'])}", fontsize=8,
                    color=INK)  # fmt: skip


def bar_range(own: pd.DataFrame) -> tuple[float, float]:
    """Return the axis of progress bars: floor to ceiling, a little more where values reach beyond, never more than -1 to 1.5."""
    ends = own[["gap_closed", "gap_low", "gap_high"]].to_numpy(np.float64)
    ends = ends[np.isfinite(ends)]
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 1.0)
    return max(-1.0, min(-0.03, low - 0.02)), min(1.5, max(1.03, high + 0.02))


def fold_displays(evidence: Evidence, board: pd.DataFrame) -> list[Display]:
    """Show the scores of every fold, a display for each task."""
    made = []
    for number, rows in enumerate(tasks_of(board), 1):
        first = rows.iloc[0]
        scores = evidence.scores
        own = scores[(scores[TASK] == first[TASK]).all(axis=1) & (scores["metric"] == first["metric"])
                     & (scores["fallback"] == first["fallback"])]  # fmt: skip
        columns = [*TASK, "fold", "seed", *METHOD, "role", "metric", "fallback", "value", "n_test", "n_covered"]
        made.append(Display(
            f"folds-{number}", f"Folds: {task_title(rows)}", own[columns].reset_index(drop=True),
            "A box over folds and a dot for each fold. Dashed: the floor; dotted: the ceiling, or an arrow where it lies far off.",
            draw=partial(fold_plot, board=rows),
        ))  # fmt: skip
    return made


def over_tasks(board: pd.DataFrame) -> pd.DataFrame:
    """Return gap closed of each embedding by its best probe: embeddings x tasks, best mean first; undefined values are NaN."""
    best = best_probes(board)
    best = best[best["role"] == "embedding"]
    labels = task_labels(board)
    best = best.assign(task=[labels[tuple(map(str, t))] for t in best[TASK].itertuples(index=False, name=None)])
    wide = best.pivot_table(index="embedding", columns="task", values="gap_closed", aggfunc="first", dropna=False)
    wide = wide.reindex(columns=[name for name in labels.values() if name in wide.columns]).dropna(axis=1, how="all")
    return wide.loc[wide.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def map_display(board: pd.DataFrame) -> Display | None:
    """Show gap closed of embeddings by tasks as a heat map; None where there are fewer than two of either."""
    wide = over_tasks(board)
    if min(wide.shape) < 2:
        return None
    return Display(
        "gap-map", "Gap closed over tasks", wide.reset_index(),
        "Share of the way from floor to ceiling that each embedding closes with its best probe; empty where it was not run or where "
        "the ceiling is not better than the floor. Ceilings of different kinds do not compare between columns.", draw=map_plot,
    )  # fmt: skip


def map_plot(table: pd.DataFrame) -> Figure:
    """Draw the map of :func:`map_display`."""
    from matplotlib.figure import Figure

    values = table.drop(columns="embedding")
    numbers = values.to_numpy(np.float64)
    n, m = numbers.shape
    figure = Figure(figsize=(2.8 + 0.8 * m, 1.8 + 0.28 * n), layout="constrained")
    axes = figure.subplots()
    bound = max(0.05, float(np.nanmax(np.abs(numbers))))
    image = axes.imshow(numbers, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
        dark = abs(numbers[row, column]) > 0.6 * bound
        axes.text(column, row, f"{numbers[row, column]:.2f}", ha="center", va="center", fontsize=7,
                  color="#ffffff" if dark else "#1b1f24")  # fmt: skip
    axes.set_xticks(range(m), list(values.columns), rotation=35, ha="right", fontsize=8, color=INK, parse_math=False)
    axes.set_yticks(range(n), list(table["embedding"]), fontsize=8, color=INK, parse_math=False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("gap closed", color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=7)
    return figure


def board_displays(evidence: Evidence, board: pd.DataFrame) -> list[Display]:
    """Return the displays of the leaderboard itself: the tables, gap closed, the map over tasks, and folds of every task."""
    extra = map_display(board)
    return [
        Display("leaderboard", "Leaderboard", board, "One row for each task and method, best first."),
        Display("over-tasks", "Over tasks", overall(board), "One row for each method."),
        gap_display(board),
        *([extra] if extra else []),
        *fold_displays(evidence, board),
    ]

"""Figures of ranks: intervals, critical differences, chances, duels, coverage, families. Drawn from tables, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panmodal.insight.plots import COLOURS, INK, set_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 30
"""At most so many methods are drawn; tables hold all."""


def names(table: pd.DataFrame) -> list[str]:
    """Name methods by embedding and probe; by the embedding alone where a column of probes is empty or tells of folds."""
    one_each = table["embedding"].is_unique
    return [
        e if one_each or not p else f"{e}, {p}"
        for e, p in table[["embedding", "probe"]].itertuples(index=False, name=None)
    ]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes: Axes, *, y: Sequence[str] = ()) -> None:
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(y):
        axes.set_yticks(range(len(y)), y)
        axes.set_ylim(len(y) - 0.4, -0.6)


def _colours(modalities: pd.Series) -> dict[str, str]:
    """Colour of each modality: in alphabetical order, so that all figures of a report agree where their modalities do."""
    return {m: COLOURS[k % len(COLOURS)] for k, m in enumerate(sorted(set(modalities)))}


def interval_plot(table: pd.DataFrame) -> Figure:
    """Draw a rank table: rank with its interval on the left, score (over tasks: mean gap closed) on the right, best first.

    The chance of being best stands at the right edge; colours are modalities.
    """
    over = "mean_rank" in table
    own = table.head(SHOWN)
    value = "mean_gap_closed" if over else "score"
    figure = _figure(7.2, 1.5 + 0.23 * len(own))
    left, right = figure.subplots(1, 2, sharey=True)
    colours = _colours(own["modality"])
    y = np.arange(len(own))
    for axes, column in ((left, "rank"), (right, value)):
        for modality, colour in colours.items():
            at = (own["modality"] == modality).to_numpy()
            axes.hlines(y[at], own[f"{column}_low"][at], own[f"{column}_high"][at], color=colour, linewidth=2)
            axes.plot(own[column][at], y[at], "o", color=colour, markersize=4.5, markeredgewidth=0,
                      label=modality if axes is left else None)  # fmt: skip
        _plain(axes, y=names(own))
    left.set_xlim(0.5, max(2, len(table)) + 0.5)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("rank of the mean rank over tasks" if over else "rank", fontsize=8)
    right.set_xlabel("mean gap closed" if over else f"{table['metric'].iloc[0]} (95 % interval)", fontsize=8)
    for k, p in enumerate(own["p_best"]):
        text = "" if pd.isna(p) else f"{_percent(p)} %"
        right.text(1.01, k, text, transform=right.get_yaxis_transform(), va="center", fontsize=7)
    right.set_title("chance of best", fontsize=7, loc="right", pad=3)
    if len(table) > len(own):
        left.set_title(f"the first {len(own)} of {len(table)}", fontsize=8, loc="left", pad=3)
    figure.legend(loc="outside lower center", ncols=min(5, len(colours)), frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def _percent(p: float) -> str:
    """Whole per cent, which are 0 and 100 only where nothing is left."""
    return "<1" if 0 < p < 0.005 else ">99" if 0.995 <= p < 1 else f"{100 * p:.0f}"


def critical_plot(table: pd.DataFrame) -> Figure:
    """Draw average ranks on an axis, and a bar over every group of methods that are not distinguishable (Demšar 2006, figure 1).

    Parameters
    ----------
    table
        ``embedding, probe, average_rank, groups`` (letters), lowest average rank first.
    """
    own = table.head(SHOWN).reset_index(drop=True)
    k, labels, at = len(own), names(own), own["average_rank"].to_numpy(float)
    members: dict[str, list[int]] = {}
    for row, letters in enumerate(own["groups"]):
        for letter in letters.split():
            members.setdefault(letter, []).append(row)
    bars = [rows for rows in members.values() if len(rows) > 1]
    half = (k + 1) // 2
    figure = _figure(7.2, 0.9 + 0.2 * half + 0.11 * len(bars))
    axes = figure.subplots()
    low, high = np.floor(np.nanmin(at)), np.ceil(np.nanmax(at))
    high = max(high, low + 1)
    reach = 0.04 * (high - low)
    gap = 0.55  # between two bars
    start = -0.6 - gap * max(len(bars), 1)
    axes.hlines(0, low, high, color=INK, linewidth=1)
    ticks = np.arange(low, high + 1, max(1, round((high - low) / 12)))
    for tick in ticks:
        axes.vlines(tick, 0, 0.3, color=INK, linewidth=1)
        axes.text(tick, 0.45, f"{tick:.0f}", ha="center", va="bottom", fontsize=8)
    for row in range(k):
        left = row < half
        depth = start - (row if left else k - 1 - row)
        edge = low - reach if left else high + reach
        axes.plot([at[row], at[row], edge], [0, depth, depth], color=INK, linewidth=0.7, solid_joinstyle="miter")
        axes.text(edge - reach / 4 if left else edge + reach / 4, depth, f"{labels[row]}  {at[row]:.2f}" if left else
                  f"{at[row]:.2f}  {labels[row]}", ha="right" if left else "left", va="center", fontsize=8)  # fmt: skip
    for place, rows in enumerate(bars):
        axes.hlines(
            -0.5 - gap * place, at[rows].min() - reach / 5, at[rows].max() + reach / 5, color=COLOURS[0], linewidth=3
        )
    axes.set_ylim(start - half - 0.2, 2.2)
    axes.set_title("average rank (1 is best); bars join methods that are not distinguishable", fontsize=8, loc="left")
    axes.axis("off")
    set_ink(figure)
    return figure


def _map(values: Any, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """Draw chances as a shaded table."""
    values = np.asarray(values, dtype=float)
    figure = _figure(min(10.0, 2.6 + 0.5 * len(columns)), 1.7 + 0.24 * len(rows))
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_facecolor("#bbbbbb")  # where there is nothing
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    set_ink(figure)
    if values.size <= 400:
        for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
            # Numbers stand on shades, whose contrast does not depend on the page.
            text = axes.text(j, i, _percent(values[i, j]), ha="center", va="center", fontsize=7)
            text.set_color("white" if values[i, j] > 0.6 else "black")
    axes.set_title(label, fontsize=8, loc="left").set_color(INK)
    figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(colors=INK, labelsize=7)
    return figure


def chance_plot(table: pd.DataFrame) -> Figure:
    """Draw the chance of being best for embeddings (rows) and tasks (columns) from a long table ``embedding, task, p_best``."""
    wide = table.pivot_table(index="embedding", columns="task", values="p_best", sort=False, dropna=False)
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False, kind="stable").index].head(SHOWN)
    return _map(wide.to_numpy(), list(wide.index), list(wide.columns), "chance of being the best, in %")


def duel_plot(table: pd.DataFrame) -> Figure:
    """Draw in what share of bootstrap draws the row beats the column, from a table of pairs with the better one first."""
    pairs = table.assign(
        first=_pair_names(table, "embedding", "probe"), second=_pair_names(table, "other", "other_probe")
    )
    order = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))[:SHOWN]
    place = {name: k for k, name in enumerate(order)}
    values = np.full((len(order), len(order)), np.nan)
    for a, b, p in pairs[["first", "second", "p_beats"]].itertuples(index=False, name=None):
        if a in place and b in place:
            values[place[a], place[b]], values[place[b], place[a]] = p, 1 - p
    return _map(values, order, order, "share of bootstrap draws in which the row beats the column, in %")


def _pair_names(table: pd.DataFrame, name: str, probe: str) -> list[str]:
    return [f"{e}, {p}" if p else e for e, p in table[[name, probe]].itertuples(index=False, name=None)]


def coverage_plot(table: pd.DataFrame) -> Figure:
    """Draw ranks on all ids beside ranks on the ids in common, a panel for each task (six at most)."""
    tasks = list(dict.fromkeys(table["task"]))[:6]
    most = max(int((table["task"] == t).sum()) for t in tasks)
    columns = min(2, len(tasks))
    deep = -(-len(tasks) // columns)
    figure = _figure(7.2, deep * (1.0 + 0.17 * min(most, SHOWN)))
    panels = np.atleast_1d(figure.subplots(deep, columns, squeeze=False)).ravel()
    for axes in panels[len(tasks) :]:
        axes.axis("off")
    for axes, task in zip(panels, tasks, strict=False):
        own = table[table["task"] == task].sort_values("rank_filled", kind="stable").head(SHOWN)
        for k, row in enumerate(own.itertuples()):
            moved = row.rank_filled != row.rank_common
            colour = COLOURS[1] if moved else COLOURS[0]
            axes.plot(
                [0, 1],
                [row.rank_filled, row.rank_common],
                "o-",
                color=colour,
                markersize=3,
                linewidth=1.4 if moved else 0.8,
            )
            label = f"{names(own)[k]} ({100 * row.coverage:.0f} %)"
            axes.text(-0.04, row.rank_filled, label, ha="right", va="center", fontsize=6.5)
        axes.set_xticks([0, 1], ["all ids", "common ids"])
        axes.set_xlim(-1.6, 1.2)
        axes.set_ylim(len(own) + 0.5, 0.3)
        axes.set_yticks([])
        axes.set_title(task, fontsize=8, loc="left")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    set_ink(figure)
    return figure


def family_plot(table: pd.DataFrame) -> Figure:
    """Draw best and mean member of each modality with intervals, and the chance of holding the best beside the fair share."""
    own = table.reset_index(drop=True)
    figure = _figure(7.2, 1.6 + 0.34 * len(own))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    y = np.arange(len(own))
    for column, shift, marker, colour, label in (
        ("best", -0.14, "o", COLOURS[0], "best member"), ("mean", 0.14, "s", COLOURS[1], "mean member"),
    ):  # fmt: skip
        left.hlines(y + shift, own[f"{column}_low"], own[f"{column}_high"], color=colour, linewidth=2)
        left.plot(own[column], y + shift, marker, color=colour, markersize=5, markeredgewidth=0, label=label)
    right.barh(y, own["p_best"], height=0.5, color=COLOURS[5], label="chance of holding the best")
    right.plot(own["share"], y, "|", color=INK, markersize=14, markeredgewidth=1.5, label="by number of embeddings")
    members = [f"{m} ({n})" for m, n in own[["modality", "embeddings"]].itertuples(index=False, name=None)]
    _plain(left, y=members)
    _plain(right)
    right.set_xlim(0, 1)
    left.set_xlabel(str(own["scale"].iloc[0]), fontsize=8)
    right.set_xlabel("chance of holding the best", fontsize=8)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    set_ink(figure)
    return figure

"""Figures of fusions: gains with intervals, weights of modalities, missing modalities. Drawn from tables, without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panmodal.insight.boards import task_name
from panmodal.insight.fusion_parts import FUSION
from panmodal.insight.fusion_words import BESIDE
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.plots import COLOURS, INK, set_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TASKS, SHOWN = 8, 12
"""At most so many tasks, and fusions of each, are drawn; tables hold all."""
VERDICTS = {"better": COLOURS[2], "not told apart": COLOURS[0], "worse": COLOURS[1], "no interval": "#999999"}
MARKERS = {"better": "o", "not told apart": "s", "worse": "X", "no interval": "D"}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _bare(axes: Axes, labels: list[str] | None = None) -> None:
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if labels is not None:
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)


def _names(own: pd.DataFrame) -> list[str]:
    """Name fusions by method; by bundle too where that was given a name."""
    return [str(p) if e == FUSION else f"{e}: {p}" for e, p in own[METHOD].itertuples(index=False, name=None)]


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    tasks = list(table[TASK].drop_duplicates().itertuples(index=False, name=None))
    found = []
    for task in tasks[:TASKS]:
        own = table[(table[TASK] == list(task)).all(axis=1)]
        found.append((task_name(task, tasks) + (" (simulated)" if own["simulated"].any() else ""), own))
    return found


def gain_plot(table: pd.DataFrame) -> Figure:
    """Draw the gain of each fusion with its interval, a row of panels for each task: primary metric, and discrimination beside it.

    Hollow marks are of methods over one embedding.
    """
    tasks = _panels(table)
    chosen = []
    for title, own in tasks:
        first = own[own["primary"]] if own["primary"].any() else own[own["metric"] == own["metric"].iloc[0]]
        beside = next((m for m in BESIDE if m in set(own["metric"]) - {first["metric"].iloc[0]}), None)
        second = (
            own[own["metric"] == beside]
            .set_index(METHOD)
            .reindex(pd.MultiIndex.from_frame(first[METHOD]))
            .reset_index()
        )
        chosen.append((title, first.head(SHOWN), second.head(SHOWN) if beside else None))
    columns = 2 if any(s is not None for _, _, s in chosen) else 1
    sizes = [1.9 + len(first) for _, first, _ in chosen]
    figure = _figure(7.2, 0.7 + sum(0.24 * s for s in sizes))
    grid = figure.subplots(len(chosen), columns, squeeze=False, height_ratios=sizes)
    for panels, (title, first, second) in zip(grid, chosen, strict=True):
        names = _names(first)
        for k, own in enumerate((first, second)[:columns]):
            axes = panels[k]
            if own is None:
                axes.axis("off")
                continue
            for y, row in enumerate(own.itertuples()):
                if not isinstance(row.verdict, str):
                    continue  # has no score of this metric
                colour = VERDICTS[row.verdict]
                axes.plot([row.gain_low, row.gain_high], [y, y], "-", color=colour, linewidth=1.6)
                filled = "none" if row.n_members == 1 else colour  # hollow: the method over one embedding
                axes.plot(row.gain, y, MARKERS[row.verdict], color=colour, markersize=5, markerfacecolor=filled)
                if np.isfinite(row.gain_common) and row.n_common < row.n_perturbations:
                    axes.plot(row.gain_common, y, "|", color=INK, markersize=9, markeredgewidth=1.2)
            axes.axvline(0.0, color=INK, linestyle="--", linewidth=1)
            _bare(axes, names if k == 0 else [""] * len(names))
            metric = own["metric"].dropna().iloc[0]
            axes.set_xlabel(f"gain in {metric}", fontsize=8)
            axes.locator_params(axis="x", nbins=6)
        row = first.iloc[0]
        panels[0].set_title(f"{title}, against {row['single']} with {row['single_probe']}", fontsize=9, loc="left")
    _verdict_legend(figure, table)
    set_ink(figure)
    return figure


def _verdict_legend(figure: Figure, table: pd.DataFrame) -> None:
    from matplotlib.lines import Line2D

    there = set(table["verdict"])
    handles = [
        Line2D([], [], color=VERDICTS[v], marker=MARKERS[v], markeredgewidth=0, label=v) for v in VERDICTS if v in there
    ]
    if (table["n_common"].between(1, table["n_perturbations"] - 1)).any():
        handles.append(
            Line2D([], [], color=INK, marker="|", markersize=9, linestyle="", label="on ids that both cover")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def weight_plot(table: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Draw bars for the modalities of each fusion (colours) on each task, with a point for every fit; not for equal shares.

    Parameters
    ----------
    table
        Rows of :func:`panmodal.insight.fusion.fusion_weights` of one ``what``.
    fits
        The fits behind them (:func:`panmodal.insight.fusion.fusion_fits`).
    """
    spread = table.groupby([*TASK, *METHOD], sort=False)["share"].transform(np.ptp)
    table = table[~(spread < 1e-9)] if (spread >= 1e-9).any() else table  # rules that weigh all alike need no bars
    tasks = _panels(table)
    modalities = sorted(set(table["modality"]))
    colours = {m: COLOURS[k % len(COLOURS)] for k, m in enumerate(modalities)}
    column = "share" if table["share"].notna().any() else "value"
    sizes = [1.5 + 0.8 * min(SHOWN, own[METHOD].drop_duplicates().shape[0]) for _, own in tasks]
    figure = _figure(7.2, 0.8 + sum(0.42 * s for s in sizes))
    grid = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=sizes, sharex=column == "share")[:, 0]
    step = 0.8 / max(1, len(modalities))
    for axes, (title, own) in zip(grid, tasks, strict=True):
        methods = own[METHOD].drop_duplicates().head(SHOWN)
        place = {key: k for k, key in enumerate(methods.itertuples(index=False, name=None))}
        of_task = fits[(fits[TASK] == list(own[TASK].iloc[0])).all(axis=1)]
        for k, modality in enumerate(modalities):
            shift = (k - (len(modalities) - 1) / 2) * step
            bars = own[own["modality"] == modality]
            at = [place[key] + shift for key in bars[METHOD].itertuples(index=False, name=None) if key in place]
            shown = [key in place for key in bars[METHOD].itertuples(index=False, name=None)]
            axes.barh(
                at, bars.loc[shown, column], height=0.9 * step, color=colours[modality], alpha=0.55, label=modality
            )
            points = of_task[of_task["modality"] == modality]
            shown = [key in place for key in points[METHOD].itertuples(index=False, name=None)]
            at = [place[key] + shift for key in points.loc[shown, METHOD].itertuples(index=False, name=None)]
            axes.plot(points.loc[shown, column], at, "o", color=colours[modality], markersize=2.6, markeredgewidth=0)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        _bare(axes, _names(methods))
        axes.set_title(title, fontsize=9, loc="left")
    what = str(table["what"].iloc[0])
    grid[-1].set_xlabel(f"share of {what}" if column == "share" else "growth of the error without the modality" if what == "importance"
                        else what, fontsize=8)  # fmt: skip
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def missing_plot(table: pd.DataFrame) -> Figure:
    """Draw the gain of each task's first fusion by which modalities perturbations have, with intervals."""
    tasks = [(title, own[(own[METHOD] == list(own[METHOD].iloc[0])).all(axis=1)]) for title, own in _panels(table)]
    sizes = [1.9 + len(own) for _, own in tasks]
    figure = _figure(7.2, 0.5 + sum(0.24 * s for s in sizes))
    grid = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (title, own) in zip(grid, tasks, strict=True):
        for y, row in enumerate(own.itertuples()):
            colour = COLOURS[1] if row.lacks else COLOURS[0]
            axes.plot([row.gain_low, row.gain_high], [y, y], "-", color=colour, linewidth=1.6)
            axes.plot(row.gain, y, "o", color=colour, markersize=4.5, markeredgewidth=0)
        axes.axvline(0.0, color=INK, linestyle="--", linewidth=1)
        _bare(axes, [f"{r.group} ({r.n_perturbations})" for r in own.itertuples()])
        first = own.iloc[0]
        axes.set_title(f"{title}, {_names(own.head(1))[0]} against {first['single']} with {first['single_probe']}",
                       fontsize=9, loc="left")  # fmt: skip
        axes.set_xlabel(f"gain in {first['metric']}", fontsize=8)
    set_ink(figure)
    return figure

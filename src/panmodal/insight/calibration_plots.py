"""Figures of how metrics behave: verdicts, controls, shortcuts, agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import TASK
from panmodal.insight.plots import COLOURS, INK, set_ink
from panmodal.insight.terminal import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICT_COLOURS = {"pass": COLOURS[2], "weak": COLOURS[4], "fail": COLOURS[1], "unknown": "#999999"}
VERDICT_MARKERS = {"pass": "o", "weak": "s", "fail": "X", "unknown": "D"}
GREY = "#999999"
SHORTCUT_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")


def _figure(width: float, height: float, **layout: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**layout)


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", alpha=0.25)


def _in_order(metrics: pd.Series) -> list[str]:
    there = set(metrics)
    return [m for m in METRICS if m in there]


def _titles(tasks: pd.DataFrame) -> list[str]:
    """Name tasks as short as tells them apart."""
    varying = [c for c in TASK if tasks[c].nunique() > 1] or ["context"]
    return [", ".join(map(str, row)) for row in tasks[varying].itertuples(index=False, name=None)]


def verdict_plot(found: pd.DataFrame) -> Figure:
    """Draw verdicts as a grid, metrics by tasks, with the dynamic range fraction in each cell."""
    tasks = found[TASK].drop_duplicates().reset_index(drop=True)
    titles, metrics = _titles(tasks), _in_order(found["metric"])
    longest = max(map(len, titles))
    figure, axes = _figure(2.4 + 0.75 * len(tasks), 1.2 + 0.24 * len(metrics) + 0.045 * longest)
    column = {tuple(t): k for k, t in enumerate(tasks.itertuples(index=False, name=None))}
    for row in found.itertuples():
        x, y = column[tuple(getattr(row, c) for c in TASK)], metrics.index(row.metric)
        colour = VERDICT_COLOURS[row.verdict]
        axes.add_patch(_box(x, y, colour, "//" if row.verdict == "fail" else None))
        text = "?" if row.verdict == "unknown" else f"{row.drf:.2f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5)
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set_xticks(range(len(tasks)), titles, rotation=40, ha="right", rotation_mode="anchor")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    _verdict_legend(figure, found["verdict"].unique())
    set_ink(figure)
    return figure


def _box(x: float, y: float, colour: str, hatch: str | None) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x - 0.46, y - 0.43), 0.92, 0.86, facecolor=colour, alpha=0.45, edgecolor=colour, hatch=hatch, linewidth=0.6
    )


def _verdict_legend(figure: Figure, there: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=VERDICT_COLOURS[v], marker=VERDICT_MARKERS[v], linestyle="", label=v)
               for v in VERDICT_COLOURS if v in set(there)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _symbol(j: int) -> dict[str, Any]:
    """Marker and colour of the j-th of several series."""
    return {"marker": SHORTCUT_MARKERS[j % len(SHORTCUT_MARKERS)], "color": COLOURS[j % len(COLOURS)], "linestyle": ""}


def _symbol_legend(figure: Figure, names: list[str], ncols: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **_symbol(j)) for j, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(ncols, len(names)), frameon=False, fontsize=8)


def calibration_plot(table: pd.DataFrame) -> Figure:
    """Draw one task: dynamic range fraction and probability that the positive is better, for each metric, with intervals.

    The judged pair of controls is coloured by the verdict; other positive controls (against the same negative) are grey.

    Parameters
    ----------
    table
        Rows of :func:`panmodal.insight.calibration_tables.calibration` with ``verdict``.
    """
    judged = table[table["judged"].astype(bool)].set_index("metric")
    metrics = _in_order(table["metric"])
    figure, both = _figure(7.2, 1.5 + 0.26 * len(metrics), ncols=2, sharey=True)
    sides = (("drf", "drf_low", "drf_high", 0.0, "dynamic range fraction"),
             ("p_better", "p_low", "p_high", 0.5, "share of perturbations where the positive is better"))  # fmt: skip
    for axes, (value, low, high, none, label) in zip(both, sides, strict=True):
        axes.axvline(none, color=INK, linewidth=1, linestyle="--")
        for y, metric in enumerate(metrics):
            row = judged.loc[metric]
            others = table[
                (table["metric"] == metric)
                & (table["positive"] != row["positive"])
                & (table["negative"] == row["negative"])
            ]
            axes.plot(np.clip(others[value], -1, 1), np.full(len(others), y), "|", color=GREY, markersize=7)
            colour = VERDICT_COLOURS[row["verdict"]]
            if np.isfinite(row[low]):
                axes.plot(np.clip([row[low], row[high]], -1, 1), [y, y], color=colour, linewidth=2.2, alpha=0.7)
            axes.plot(np.clip(row[value], -1, 1), y, VERDICT_MARKERS[row["verdict"]], color=colour, markersize=5.5)
        axes.set_xlabel(
            label if (table["unit"] == "perturbations").any() else label.replace("perturbations", "folds"), fontsize=8.5
        )
        _bare(axes)
    both[0].set_yticks(range(len(metrics)), metrics)
    both[0].set_ylim(len(metrics) - 0.5, -0.5)
    both[1].set_xlim(-0.03, 1.03)
    first = table.iloc[0]
    names = ", ".join(p.replace("_", " ") for p in judged["positive"].unique())
    figure.suptitle(f"{first['screen']}, {first['context']} ({first['response']}): {names} against the best without information",
                    fontsize=10, x=0.01, ha="left")  # fmt: skip
    _verdict_legend(figure, judged["verdict"].unique())
    set_ink(figure)
    return figure


def shortcut_plot(table: pd.DataFrame) -> Figure:
    """Draw how far shortcuts come from the floor to the positive control, one panel for each task; beyond -0.5 and 1.5 at the edge."""
    groups = list(table.groupby(TASK, sort=False))
    titles = _titles(pd.DataFrame([g for g, _ in groups], columns=TASK))
    metrics = {k: _in_order(own["metric"]) for k, (_, own) in enumerate(groups)}
    ncols = min(3, len(groups))
    nrows = -(-len(groups) // ncols)
    tallest = max(map(len, metrics.values()))
    figure, grid = _figure(
        2.6 + 2.5 * ncols, 0.9 + nrows * (0.6 + 0.22 * tallest), ncols=ncols, nrows=nrows, squeeze=False
    )
    names = list(dict.fromkeys(table["shortcut"]))
    for k, axes in enumerate(grid.ravel()):
        if k >= len(groups):
            axes.set_visible(False)
            continue
        own = groups[k][1]
        axes.axvline(0, color=INK, linestyle="--", linewidth=1)
        axes.axvline(1, color=INK, linestyle=":", linewidth=1)
        for j, name in enumerate(names):
            mine = own[own["shortcut"] == name]
            axes.plot(np.clip(mine["share_of_gap"], -0.5, 1.5), [metrics[k].index(m) for m in mine["metric"]],
                      markersize=4.5, alpha=0.8, **_symbol(j))  # fmt: skip
        axes.set_yticks(range(len(metrics[k])), metrics[k])
        axes.set_ylim(len(metrics[k]) - 0.5, -0.5)
        axes.set_xlim(-0.55, 1.55)
        axes.set_title(titles[k], fontsize=9, loc="left")
        _bare(axes)
    figure.supxlabel("way from the floor (0) to the positive control (1)", fontsize=9)
    _symbol_legend(figure, names, 5)
    set_ink(figure)
    return figure


def agreement_plot(table: pd.DataFrame) -> Figure:
    """Draw rank correlations between metrics as a heat map for each kind of response, alike metrics side by side.

    Parameters
    ----------
    table
        Pooled rows of :func:`panmodal.insight.agreement.agreement`: ``response, metric_a, metric_b, spearman``.
    """
    from panmodal.insight.agreement import cluster, square

    kinds = list(dict.fromkeys(table["response"]))
    matrices = [square(table[table["response"] == kind]) for kind in kinds]
    sizes = [len(m) for m in matrices]
    figure, axes = _figure(1.6 + sum(0.42 * s + 1.3 for s in sizes), 1.6 + 0.36 * max(sizes), ncols=len(kinds), squeeze=False,
                           width_ratios=sizes)  # fmt: skip
    image = None
    for one, kind, matrix in zip(axes[0], kinds, matrices, strict=True):
        ordered = matrix.loc[(order := cluster(matrix)), order]
        image = one.imshow(ordered, vmin=-1, vmax=1, cmap="PuOr_r", alpha=0.65)
        for y, x in np.ndindex(ordered.shape):
            value = ordered.iat[y, x]
            if np.isfinite(value):
                one.text(x, y, number(value, 2), ha="center", va="center", fontsize=6)
        one.set_xticks(range(len(order)), order, rotation=50, ha="right", rotation_mode="anchor")
        one.set_yticks(range(len(order)), order)
        one.set_title(kind, fontsize=9, loc="left")
        one.tick_params(length=0)
    if image is not None:
        figure.colorbar(image, ax=axes[0].tolist(), shrink=0.6, label="rank correlation over methods")
    set_ink(figure)
    return figure


def leader_plot(table: pd.DataFrame) -> Figure:
    """Draw ranks by every metric against ranks by the primary metric, one panel for each metric, tasks together (0 best, 1 worst).

    Parameters
    ----------
    table
        :func:`panmodal.insight.agreement.rank_shares`.
    """
    panels = list(table.groupby("metric", sort=False))
    ncols = min(5, len(panels))
    nrows = -(-len(panels) // ncols)
    figure, grid = _figure(
        0.7 + 1.5 * ncols, 0.8 + 1.65 * nrows, ncols=ncols, nrows=nrows, squeeze=False, sharex=True, sharey=True
    )
    tasks = {t: k for k, t in enumerate(table[TASK].drop_duplicates().itertuples(index=False, name=None))}
    for k, axes in enumerate(grid.ravel()):
        if k >= len(panels):
            axes.set_visible(False)
            continue
        own = panels[k][1]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        for task, part in own.groupby(TASK, sort=False):
            axes.plot(
                part["primary_share"],
                part["share"],
                markersize=3.5,
                alpha=0.75,
                markeredgewidth=0,
                **_symbol(tasks[task]),
            )
        axes.set_title(own.iloc[0]["metric"], fontsize=8, loc="left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xticks([0, 1])
        axes.set_yticks([0, 1])
    figure.supxlabel("rank by the primary metric (0 first, 1 last)", fontsize=9)
    figure.supylabel("rank by the metric named", fontsize=9)
    titles = _titles(pd.DataFrame(list(tasks), columns=TASK))
    _symbol_legend(figure, titles, 3)
    set_ink(figure)
    return figure

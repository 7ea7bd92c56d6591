"""Figures of the patterns: what goes with being predicted, what is solved, and how probes and embeddings interact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import TASK
from panmodal.insight.plots import COLOURS, INK, set_ink

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#8a8a8a"
COLUMNS = 2
"""Panels beside each other."""


def _panels(table: pd.DataFrame, height: float = 2.7) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Return a figure with one panel for each task."""
    from matplotlib.figure import Figure

    parts = [own for _, own in table.groupby(TASK, sort=False)]
    columns = min(COLUMNS, max(len(parts), 1))
    rows = max(1, -(-len(parts) // columns))
    figure = Figure(figsize=(7.2, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[len(parts) :]:
        spare.set_visible(False)
    for axis, own in zip(axes, parts, strict=False):
        axis.set_title(_wrapped(_title(own, table)), fontsize=9, loc="left")
        _bare(axis)
    return figure, list(zip(axes, parts, strict=False))


def _title(own: pd.DataFrame, table: pd.DataFrame) -> str:
    first = own.iloc[0]
    kind = f", {first['response']}" if table["response"].nunique() > 1 else ""
    return f"{first['screen']}, {first['context']}{kind}"


def _wrapped(title: str, limit: int = 30) -> str:
    """Break a title that is longer than a panel is wide."""
    return title if len(title) <= limit else title.replace(", ", ",\n", 1)


def _bare(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def measure(metric: str) -> str:
    """Name the scale of an improvement by a metric."""
    return f"{metric} gained" if METRICS[metric].higher_is_better else f"share of {metric} taken away"


def gain_scatter(table: pd.DataFrame) -> Figure:
    """Draw what the embeddings add on each perturbation against its effect size, or how distinct it is where all effects are equal."""
    figure, panels = _panels(table)
    for axis, own in panels:
        name = next(
            (c for c in ("effect_size", "distinctness") if c in own and own[c].nunique() > max(2, len(own) / 10)), None
        )
        if name is None:
            axis.text(0.5, 0.5, "effect sizes are not known", transform=axis.transAxes, ha="center", fontsize=8)
            continue
        x, y = own[name].to_numpy(np.float64), own["added"].to_numpy(np.float64)
        axis.plot(x, y, "o", color=COLOURS[0], markersize=3, alpha=0.5, markeredgewidth=0)
        middle = _running_median(x, y)
        axis.plot(*middle, "-", color=COLOURS[1], linewidth=1.8, label="running median")
        axis.axhline(0, color=INK, linestyle="--", linewidth=1, label="no better than the controls")
        known = x[np.isfinite(x) & (x > 0)]
        if len(known) == len(x) and known.max() > 10 * known.min():
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")  # mathematical text is off in these figures
            axis.xaxis.set_minor_formatter("")
        names = {"effect_size": "effect size", "distinctness": "distance from the mean response"}
        axis.set_xlabel(names[name], fontsize=8)
        axis.set_ylabel(measure(own["metric"].iloc[0]), fontsize=8)
    _legend(figure, panels)
    set_ink(figure)
    return figure


def _running_median(x: np.ndarray, y: np.ndarray, bins: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Medians of both in bins of equal number along x."""
    known = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[known], kind="stable")
    parts = [p for p in np.array_split(order, min(bins, max(1, known.sum() // 8))) if len(p)]
    return (
        np.array([np.median(x[known][p]) for p in parts]),
        np.array([np.median(y[known][p]) for p in parts]),
    )


def _legend(figure: Figure, panels: list[tuple[Axes, pd.DataFrame]]) -> None:
    """Put one legend below all panels."""
    entries: dict[str, Artist] = {}
    for axis, _ in panels:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False, fontsize=8
        )


NAMES = {
    "effect_size": "effect size", "distinctness": "distance from mean", "nearest_training": "nearest training "
                                                                                            "response", "n_cells": "cells",
    "n_deg": "DEGs", "reliability": "reliability",
}  # fmt: skip
"""Names of covariates in figures and sentences."""


def covariate_plot(table: pd.DataFrame) -> Figure:
    """Draw each correlation with its interval, and that of the controls' improvement beside it."""
    figure, panels = _panels(table, 2.3)
    for axis, every in panels:
        own = every[every["rho"].notna()]
        at = np.arange(len(own))
        rho, low, high = (own[c].to_numpy(np.float64) for c in ("rho", "low", "high"))
        axis.hlines(at, low, high, color=COLOURS[0], linewidth=2)
        axis.plot(rho, at, "o", color=COLOURS[0], markersize=5, label="what embeddings add (95 % interval)")
        axis.plot(own["rho_control"], at, "x", color=GREY, markersize=5, label="improvement of the controls")
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_yticks(at, [NAMES.get(c, c) for c in own["covariate"]])
        axis.set_ylim(max(1, len(own)) - 0.5, -0.5)
        axis.set_xlim(-1, 1)
        axis.set_xlabel("Spearman correlation", fontsize=8)
    _legend(figure, panels)
    set_ink(figure)
    return figure


def group_plot(table: pd.DataFrame, top: int = 8) -> Figure:
    """Draw the groups that are predicted better and worse than the others, most certain first."""
    parts = []
    for _, own in table.groupby(TASK, sort=False):
        parts += [own[own["auc"] > 0.5].head(top), own[own["auc"] < 0.5].head(top // 2)]
    shown = pd.concat(parts)
    most = max((len(own) for _, own in shown.groupby(TASK, sort=False)), default=1)
    figure, panels = _panels(shown, 0.8 + 0.2 * most)
    for axis, rows in panels:
        own = rows.sort_values("auc")
        at = np.arange(len(own))
        sure = (own["q"] <= 0.05).to_numpy()
        colours = np.where(own["auc"] > 0.5, COLOURS[0], COLOURS[1])
        axis.hlines(at, 0.5, own["auc"], color=colours, linewidth=2)
        for flag, fill in ((True, None), (False, "none")):
            for k in np.flatnonzero(sure == flag):
                axis.plot(
                    own["auc"].iloc[k], at[k], "o", color=colours[k], markersize=5, markerfacecolor=fill or colours[k]
                )
        labels = [
            f"{_short(g)}: {_short(m, 16)} ({n})"
            for g, m, n in zip(own["group"], own["members"], own["n"], strict=True)
        ]
        axis.set_yticks(at, labels)
        axis.axvline(0.5, color=INK, linewidth=1)
        axis.set_xlim(0, 1)
        axis.set_xlabel("AUC", fontsize=8)
    set_ink(figure)
    for axis, _ in panels:
        axis.tick_params(axis="y", labelsize=6.5)
    return figure


def _short(text: str, limit: int = 26) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip(", ") + "…"


def readout_histogram(table: pd.DataFrame) -> Figure:
    """Draw how the read-outs' correlations are distributed, for each method and a control."""
    figure, panels = _panels(table)
    for axis, own in panels:
        number = 0
        for (embedding, probe, role), rows in own.groupby(["embedding", "probe", "role"], sort=False):
            known, name = rows.dropna(subset=["low"]), f"{embedding}, {probe}"
            if not known["n_readouts"].sum():
                axis.plot([], [], color=GREY, label=f"{name} (predicts no deviation)")
                continue
            edges = [*known["low"], known["high"].iloc[-1]]
            if role == "control":
                axis.stairs(known["share"], edges, color=GREY, alpha=0.35, fill=True, label=name)
            else:
                axis.stairs(known["share"], edges, color=COLOURS[number % len(COLOURS)], linewidth=1.4, label=name)
                number += 1
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_xlabel("correlation over perturbations", fontsize=8)
        axis.set_ylabel("share of read-outs", fontsize=8)
        axis.legend(frameon=False, fontsize=6.5, loc="upper right")
    set_ink(figure)
    return figure


def variance_plot(table: pd.DataFrame) -> Figure:
    """Draw the share of the train mean's error taken away against the read-outs' variance, in bins."""
    figure, panels = _panels(table, 2.4)
    for axis, own in panels:
        number = 0
        for (embedding, probe, role), rows in own.groupby(["embedding", "probe", "role"], sort=False):
            colour = GREY if role == "control" else COLOURS[number % len(COLOURS)]
            number += role != "control"
            axis.plot(
                rows["variance"],
                rows["median_r2"],
                "o-",
                color=colour,
                markersize=3.5,
                linewidth=1.4,
                label=f"{embedding}, {probe}",
            )
        axis.axhline(0, color=INK, linestyle="--", linewidth=1)
        axis.set_xlabel("variance of the read-out over perturbations", fontsize=8)
        axis.set_ylabel("R² (median of the bin)", fontsize=8)
        axis.legend(frameon=False, fontsize=6.5, loc="upper left")
    set_ink(figure)
    return figure


def saturation_bars(table: pd.DataFrame) -> Figure:
    """Draw which share of the perturbations is solved by the floor, by all embeddings, by some, by none: one bar per task."""
    from matplotlib.figure import Figure

    from panmodal.insight.saturation import CLASSES

    figure = Figure(figsize=(7.2, 1.2 + 0.42 * len(table)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(table))
    at = np.arange(len(table))
    shades = (GREY, COLOURS[2], COLOURS[5], "#e6e6e6")
    for name, shade in zip(CLASSES, shades, strict=True):
        width = table[name].fillna(0).to_numpy(np.float64)
        axis.barh(at, width, left=left, color=shade, height=0.7, label=name)
        for k in np.flatnonzero(width >= 0.06):
            axis.text(left[k] + width[k] / 2, at[k], f"{100 * width[k]:.0f} %", ha="center", va="center", fontsize=8)
        left += width
    axis.set_yticks(at, [_title(table.iloc[[k]], table) for k in at])
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the perturbations", fontsize=8)
    _bare(axis)
    axis.grid(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def saturation_curves(table: pd.DataFrame) -> Figure:
    """Draw how many perturbations are solved for every threshold that one might have chosen."""
    figure, panels = _panels(table, 2.4)
    styles = {"floor": (GREY, "--", "floor"), "best": (COLOURS[0], "-", "best method"), "any": (COLOURS[2], "-", "any embedding"),
              "all": (COLOURS[1], "-", "all embeddings")}  # fmt: skip
    for axis, own in panels:
        for column, (colour, line, label) in styles.items():
            axis.plot(own["threshold"], own[column], line, color=colour, label=label, linewidth=1.5)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("share of the way that counts as solved", fontsize=8)
        axis.set_ylabel("share solved", fontsize=8)
    _legend(figure, panels)
    set_ink(figure)
    return figure


def subset_plot(table: pd.DataFrame) -> Figure:
    """Draw the ranks of embeddings on all perturbations and on those that the floor finds hard."""
    ranked = table[table["role"] == "embedding"]
    figure, panels = _panels(ranked, 3.0)
    for axis, own in panels:
        own = own[own["rank"].notna()]
        names = list(dict.fromkeys(own["subset"]))
        wide = own.pivot_table(
            index=["embedding", "probe"], columns="subset", values="rank", aggfunc="first", sort=False
        )
        wide = wide.astype(float).reindex(columns=names).sort_values(names[0], kind="stable").head(10)
        for k, (_, ranks) in enumerate(wide.iterrows()):
            axis.plot(range(len(names)), ranks, "o-", color=COLOURS[k % len(COLOURS)], markersize=4, linewidth=1.3)
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.15, len(names) - 0.85)
        axis.set_yticks(wide.iloc[:, 0], [f"{e}, {p}" for e, p in wide.index])
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0)
    set_ink(figure)
    for axis, _ in panels:
        axis.tick_params(axis="y", labelsize=7)
    return figure


def interaction_heatmap(table: pd.DataFrame) -> Figure:
    """Draw what is left of each score when the effects of embedding and probe are taken away; the rank is written in."""
    from matplotlib.colors import LinearSegmentedColormap

    most = max((own["embedding"].nunique() for _, own in table.groupby(TASK, sort=False)), default=1)
    figure, panels = _panels(table, 0.9 + 0.28 * most)
    colours = LinearSegmentedColormap.from_list("interaction", [COLOURS[1], "#ffffff", COLOURS[0]])
    for axis, own in panels:
        embeddings, probes = list(dict.fromkeys(own["embedding"])), list(dict.fromkeys(own["probe"]))
        shape = (len(embeddings), len(probes))
        left, ranks = own["interaction"].to_numpy().reshape(shape), own["rank"].to_numpy().reshape(shape)
        order = np.argsort(ranks.mean(axis=1), kind="stable")
        limit = float(np.abs(left).max()) or 1.0
        image = axis.imshow(left[order], cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
        for i, k in enumerate(order):
            for j in range(shape[1]):
                axis.text(j, i, f"{ranks[k, j]}", ha="center", va="center", fontsize=8)
        long = sum(map(len, probes)) > 24
        axis.set_xticks(range(len(probes)), probes, rotation=20 if long else 0, ha="right" if long else "center")
        axis.set_yticks(range(len(embeddings)), [embeddings[k] for k in order])
        axis.grid(False)
        bar = figure.colorbar(image, ax=axis, shrink=0.8)
        bar.ax.set_title(own["metric"].iloc[0], fontsize=7)
        bar.ax.tick_params(labelsize=7)
    set_ink(figure)
    return figure

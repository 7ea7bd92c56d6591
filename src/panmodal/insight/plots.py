"""Figures of the leaderboard, drawn with matplotlib without a display."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panmodal.evaluation.compare import has_classes
from panmodal.insight.leaderboard import METHOD, TASK, ceiling_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#010203"
"""Stands for the page's text colour; :func:`to_svg` turns it into ``currentColor``."""


def fold_plot(scores: pd.DataFrame, board: pd.DataFrame) -> Figure:
    """Draw one task: a box over folds and a dot per fold for every embedding and probe, with floor and ceiling as lines.

    Parameters
    ----------
    scores
        The tidy score table.
    board
        Leaderboard rows of one task.
    """
    from matplotlib.figure import Figure

    first = board.iloc[0]
    here = scores[(scores[TASK] == first[TASK]).all(axis=1) & (scores["metric"] == first["metric"])
                  & (scores["fallback"] == first["fallback"])]  # fmt: skip
    shown = board[board["role"].isin(["embedding", "control"])]
    names = list(dict.fromkeys(shown["embedding"]))
    probes = sorted(set(shown["probe"]))
    height = 1.3 + 0.2 * max(1, len(names) * len(probes)) + 0.1 * len(names)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    values = {key: rows["value"].dropna().to_numpy() for key, rows in here.groupby(METHOD)}
    offsets = np.linspace(-0.3, 0.3, len(probes)) if len(probes) > 1 else [0.0]
    for k, probe in enumerate(probes):
        colour = COLOURS[k % len(COLOURS)]
        for y, name in enumerate(names):
            points = values.get((name, probe), np.empty(0))
            if len(points) == 0:
                continue
            at = y + offsets[k]
            axes.boxplot(
                points, positions=[at], orientation="horizontal", widths=0.5 / len(probes), showfliers=False, manage_ticks=False,
                boxprops={"color": colour}, whiskerprops={"color": colour}, capprops={"color": colour},
                medianprops={"color": colour, "linewidth": 1.6},
            )  # fmt: skip
            axes.plot(points, np.full(len(points), at), "o", color=colour, markersize=3, alpha=0.7, markeredgewidth=0)
        axes.plot([], [], "o-", color=colour, label=probe)
    if np.isfinite(first["floor"]):
        axes.axvline(first["floor"], color=INK, linestyle="--", linewidth=1, label=f"floor ({first['floor_by']})")
    if np.isfinite(first["ceiling"]):
        _mark_ceiling(axes, float(first["ceiling"]), ceiling_name(first["ceiling_by"]).removeprefix("the "))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    filler = "class prior" if has_classes(first["response"]) else "train mean"
    rule = f"{filler} where not covered" if first["fallback"] == "filled" else "ids covered by all embeddings"
    axes.set_xlabel(f"{first['metric']} per fold ({rule})")
    marked = " (simulated)" if first["simulated"] else ""
    axes.set_title(f"{first['screen']}, {first['context']}{marked}", fontsize=10, loc="left", pad=14)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(5, len(probes) + 2), frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def _mark_ceiling(axes: Axes, ceiling: float, name: str) -> None:
    """Draw the ceiling as a line, or point to it where showing it would squeeze everything else."""
    low, high = axes.get_xlim()
    if low - (high - low) / 2 <= ceiling <= high + (high - low) / 2:
        axes.axvline(ceiling, color=INK, linestyle=":", linewidth=1, label=name)
        return
    axes.set_xlim(low, high)
    left = ceiling < low
    text = f"◀ {name} {ceiling:.3g}" if left else f"{name} {ceiling:.3g} ▶"
    axes.text(0.01 if left else 0.99, 1.0, text, transform=axes.transAxes, ha="left" if left else "right", va="bottom",
              fontsize=8)  # fmt: skip


def set_ink(figure: Figure) -> None:
    """Write all text of a figure in the colour of ink."""
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(colors=INK, labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(INK)
    for text in figure.findobj(Text):
        text.set_color(INK)
        text.set_parse_math(False)  # a name may hold dollar signs


def to_svg(figure: Figure, title: str) -> str:
    """Return a figure as an inline SVG that takes its text colour from the page and is the same for the same data."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # One page holds many figures; ids must not clash between them.
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" xmlns="http://www.w3.org/2000/svg" '
                  r'xmlns:xlink="http://www.w3.org/1999/xlink" role="img" class="plot">', svg, count=1)  # fmt: skip

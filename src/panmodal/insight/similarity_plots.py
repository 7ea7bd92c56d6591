"""Figures of what embeddings share: clustered heat maps and curves, drawn with matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.insight.gaps import TASK
from panmodal.insight.plots import COLOURS, INK, set_ink
from panmodal.insight.representation import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Figure = Any

Matrix = NDArray[np.float64]
NUMBERS = 16
"""Up to so many rows a heat map shows its numbers."""
METHODS = 18
"""With more methods a figure shows the best probe of each embedding."""
PANELS = 12
STYLES = ("-", "--", ":", "-.")


def cluster(similarity: Matrix) -> tuple[Matrix, list[int]]:
    """Cluster by average linkage of 1 - similarity, the most alike leaves side by side (Bar-Joseph et al. 2001).

    Parameters
    ----------
    similarity
        Symmetric, n x n; undefined pairs count as 0.

    Returns
    -------
    The linkage of scipy (n - 1 x 4) and the order of rows.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - np.clip(np.nan_to_num(similarity, nan=0.0), 0.0, 1.0)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0.0)
    if len(distance) < 2:
        return np.empty((0, 4)), list(range(len(distance)))
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return tree, [int(k) for k in leaves_list(tree)]


def square(pairs: pd.DataFrame, a: Sequence[str], b: Sequence[str], column: str, names: Sequence[str]) -> Matrix:
    """Put a column of a table of pairs into a symmetric matrix with ones on the diagonal."""
    place = {name: k for k, name in enumerate(names)}
    out = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(out, 1.0)
    for one, two, value in zip(a, b, pairs[column], strict=True):
        if one in place and two in place:
            out[place[one], place[two]] = out[place[two], place[one]] = value
    return out


def likeness_plot(table: pd.DataFrame) -> Figure:
    """Draw the heat maps of all measures of one screen in the order of one clustering (by unbiased CKA), with its tree."""
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    matrices = {}
    for measure in MEASURES:
        own = table[table["measure"] == measure]
        matrices[measure] = square(
            own, list(own["a"]), list(own["b"]), "value" if measure == "rsa" else "corrected", names
        )
    titles = {"cca": "CCA, mean ρ², corrected", "cka": "CKA, unbiased", "knn_overlap": "shared neighbours, corrected",
              "rsa": "RSA, rank correlation of distances"}  # fmt: skip
    return _heat_maps([matrices[m] for m in MEASURES], [titles[m] for m in MEASURES], names, matrices["cka"])


def predictions_plot(table: pd.DataFrame, best: Mapping[str, str] | None = None) -> Figure:
    """Draw how alike predictions are and how far gains over the floor go together, means over the tasks of a table.

    Parameters
    ----------
    table
        See :func:`panmodal.insight.similarity_predictions.prediction_pairs`; of several tasks with the same methods.
    best
        Embedding -> probe, shown where there are too many methods.
    """
    a = [f"{e}, {p}" for e, p in zip(table["embedding_a"], table["probe_a"], strict=True)]
    b = [f"{e}, {p}" for e, p in zip(table["embedding_b"], table["probe_b"], strict=True)]
    names = list(dict.fromkeys([*a, *b]))
    if len(names) > METHODS and best:
        names = [name for name in names if name in {f"{e}, {p}" for e, p in best.items()}]
    keyed = table.assign(a=a, b=b).groupby(["a", "b"], sort=False)[["predictions", "gains"]].mean().reset_index()
    first, second = (square(keyed, list(keyed["a"]), list(keyed["b"]), c, names) for c in ("predictions", "gains"))
    shown, titles = [first], ["correlation of centred predictions"]
    if np.isfinite(second[~np.eye(len(names), dtype=bool)]).any():
        shown.append(second)
        titles.append(f"correlation of gains over the floor ({table['metric'].iloc[0]})")
    return _heat_maps(shown, titles, names, first)


def _heat_maps(matrices: Sequence[Matrix], titles: Sequence[str], names: Sequence[str], by: Matrix) -> Figure:
    """Draw matrices in rows of two, all in the order of the clustering of ``by``, whose tree stands at the left."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    tree, order = cluster(by)
    n = len(names)
    cell = 0.34 if n <= NUMBERS else 0.24
    side = max(2.2, cell * n)
    rows = (len(matrices) + 1) // 2
    wide = min(2, len(matrices))
    label = 0.075 * max(map(len, names), default=1)
    figure = Figure(
        figsize=(0.8 + label + wide * (side + 0.25) + 0.9, rows * (side + 0.45) + label + 0.1), layout="constrained"
    )
    axes = figure.subplots(rows, 1 + wide, squeeze=False, width_ratios=[0.28 * max(1.0, 2.2 / side)] + [1.0] * wide)
    # Pale, so that dark numbers can be read on every cell.
    pale = LinearSegmentedColormap.from_list("pale", ["#FFFFFF", "#D5E6F3", "#8FBFDF", "#56A0D0"])
    colours = pale.with_extremes(bad="#DDDDDD")
    image, numbers = None, []
    for k, own in enumerate([*axes.ravel()]):
        row, column = divmod(k, 1 + wide)
        if column == 0:
            _draw_tree(own, tree, n)
            continue
        at = row * wide + column - 1
        if at >= len(matrices):
            own.set_axis_off()
            continue
        shown = matrices[at][np.ix_(order, order)]
        image = own.imshow(
            np.ma.masked_invalid(shown), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        own.set_title(titles[at], fontsize=9, loc="left")
        ticks = [names[j] for j in order]
        own.set_yticks(range(n), ticks if column == 1 else [""] * n)
        own.set_xticks(range(n), ticks if row == rows - 1 else [""] * n, rotation=90)
        own.tick_params(length=0)
        if n <= NUMBERS:
            numbers += [own.text(x, y, _short(shown[y, x]), ha="center", va="center", fontsize=6.5)
                        for y in range(n) for x in range(n) if x != y]  # fmt: skip
    if image is not None:
        figure.colorbar(image, ax=axes[:, -1].tolist(), shrink=0.7, label="0: nothing shared, 1: the same")
    set_ink(figure)
    for text in numbers:
        text.set_color("#111111")  # cells are pale on any page
    return figure


def _short(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text else text


def _draw_tree(axes: Axes, tree: Matrix, n: int) -> None:
    """Draw a linkage with leaves at the rows of a heat map, root at the left."""
    axes.set_axis_off()
    if not len(tree):
        return
    from scipy.cluster.hierarchy import dendrogram

    drawn = dendrogram(tree, no_plot=True)
    for across, height in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        axes.plot(-np.asarray(height), (np.asarray(across) - 5) / 10, color=INK, linewidth=1)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xlim(-max(float(tree[:, 2].max()), 1e-9) * 1.02, 0)


def enrichment_plot(table: pd.DataFrame) -> Figure:
    """Draw one panel for each task: enrichment by rank of the neighbour, a line and band for every embedding, the control in grey."""
    from matplotlib.figure import Figure

    tasks = table[TASK].drop_duplicates()
    count = min(len(tasks), PANELS)
    columns = min(count, 2 if count <= 4 else 3)
    rows = -(-count // columns)
    names = list(dict.fromkeys(table["embedding"]))
    figure = Figure(figsize=(0.6 + 3.3 * columns, 2.6 * rows + 0.25 * -(-len(names) // 4) + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for k, axes in enumerate(grid.ravel()):
        if k >= count:
            axes.set_axis_off()
            continue
        task = tasks.iloc[k]
        own = table[(table[TASK] == task).all(axis=1)]
        control = own.groupby("rank")[["permuted_low", "permuted_high"]].agg(
            {"permuted_low": "min", "permuted_high": "max"}
        )
        axes.fill_between(
            control.index, control["permuted_low"], control["permuted_high"], color="#999999", alpha=0.35, linewidth=0
        )
        for j, name in enumerate(names):
            line = own[own["embedding"] == name]
            colour = COLOURS[j % len(COLOURS)]
            style = STYLES[j // len(COLOURS) % len(STYLES)]
            axes.fill_between(line["rank"], line["low"], line["high"], color=colour, alpha=0.13, linewidth=0)
            axes.plot(line["rank"], line["enrichment"], style, marker="o", markersize=3, color=colour, linewidth=1.3)
        axes.set_xscale("log")
        bands = own.drop_duplicates("rank").sort_values("rank")
        axes.set_xticks(bands["rank"], [_band(a, b) for a, b in zip(bands["rank_from"], bands["rank"], strict=True)])
        axes.xaxis.set_minor_locator(_none())
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_title(f"{task['screen']}, {task['context']} ({task['response']})", fontsize=9, loc="left")
        axes.grid(axis="y", alpha=0.25)
        if k % columns == 0:
            axes.set_ylabel("cosine of responses over random pairs", fontsize=8)
        if k >= count - columns:
            axes.set_xlabel("rank of the neighbour", fontsize=8)
            axes.tick_params(labelbottom=True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for j, name in enumerate(names):
        grid[0, 0].plot([], [], STYLES[j // len(COLOURS) % len(STYLES)], marker="o", markersize=3, color=COLOURS[j % len(COLOURS)],
                        label=name)  # fmt: skip
    grid[0, 0].fill_between([], [], [], color="#999999", alpha=0.35, label="permuted (95 %)")
    figure.legend(loc="outside lower center", ncols=min(4, len(names) + 1), frameon=False, fontsize=8)
    if len(tasks) > count:
        figure.suptitle(f"The first {count} of {len(tasks)} tasks; the table has all.", fontsize=8)
    set_ink(figure)
    return figure


def _band(start: int, end: int) -> str:
    return str(end) if start == end else f"{start}–{end}"


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def curve_plot(summary: pd.DataFrame) -> Figure:
    """Draw learning curves: a row for each task, a column for each sweep, each embedding with its best probe.

    Bars are one standard deviation over folds.

    Parameters
    ----------
    summary
        See :func:`panmodal.insight.curves.curve_summary`.
    """
    from matplotlib.figure import Figure

    tasks, sweeps = summary[TASK].drop_duplicates(), list(dict.fromkeys(summary["sweep"]))
    count = min(len(tasks), PANELS // 2)
    names = list(dict.fromkeys(summary.loc[summary["role"] != "baseline", "embedding"]))
    figure = Figure(
        figsize=(0.7 + 3.4 * len(sweeps), 2.6 * count + 0.25 * -(-len(names) // 3) + 0.3), layout="constrained"
    )
    grid = figure.subplots(count, len(sweeps), squeeze=False, sharey="row")
    for row, task in enumerate(tasks.iloc[:count].itertuples(index=False)):
        for column, sweep in enumerate(sweeps):
            own = summary[(summary[TASK] == list(task)).all(axis=1) & (summary["sweep"] == sweep)]
            _draw_curves(grid[row, column], own, sweep, names)
            if column == 0:
                grid[row, 0].set_ylabel(str(own["metric"].iloc[0]) if len(own) else "", fontsize=8)
                grid[row, 0].set_title(f"{task.screen}, {task.context} ({task.response})", fontsize=9, loc="left")
    for j, name in enumerate(names):
        grid[0, 0].plot([], [], STYLES[j // len(COLOURS) % len(STYLES)], marker="o", markersize=3, color=COLOURS[j % len(COLOURS)],
                        label=name)  # fmt: skip
    grid[0, 0].plot([], [], "--", color=INK, linewidth=1, label="best baseline")
    figure.legend(loc="outside lower center", ncols=min(4, len(names) + 1), frameon=False, fontsize=8)
    if len(tasks) > count:
        figure.suptitle(f"The first {count} of {len(tasks)} tasks; the table has all.", fontsize=8)
    set_ink(figure)
    return figure


def _draw_curves(axes: Axes, own: pd.DataFrame, sweep: str, names: Sequence[str]) -> None:
    """Draw one task and sweep; of each embedding the probe with the largest gain at the last point."""
    at = own[sweep].astype(float)
    ticks = sorted(at.dropna().unique())
    for j, name in enumerate(names):
        lines = own[own["embedding"] == name].assign(at=at)
        ends = lines[lines["gain"].notna()].sort_values("at", kind="stable").drop_duplicates("probe", keep="last")
        if ends.empty:
            continue
        line = lines[lines["probe"] == ends.loc[ends["gain"].idxmax(), "probe"]].sort_values("at", kind="stable")
        # A little aside, so that bars do not cover each other.
        x = line["at"] * (1 + 0.025 * (j - (len(names) - 1) / 2))
        style = STYLES[j // len(COLOURS) % len(STYLES)]
        axes.errorbar(x, line["mean"], yerr=line["sd"].fillna(0), fmt=style, marker="o", markersize=3,
                      color=COLOURS[j % len(COLOURS)], linewidth=1.3, elinewidth=0.7)  # fmt: skip
    floors = own[own["role"] == "baseline"].assign(at=at)
    if len(floors):
        floor = floors.loc[floors.groupby("at")["gain"].idxmax().dropna()].sort_values("at")
        axes.plot(floor["at"], floor["mean"], "--", color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * v:g} %" if sweep == "fraction" else f"{v:g}" for v in ticks])
    axes.xaxis.set_minor_locator(_none())
    axes.set_xlabel("share of the training perturbations" if sweep == "fraction" else "dimensions", fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

"""Interactive figures as data: what plotly.js draws, with colours named by the page's CSS variables so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from panmodal.insight.display import Display
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import ceiling_name
from panmodal.insight.report_figures import bar_range, shown_bars
from panmodal.insight.terminal import interval, number

Spec = dict[str, Any]
"""``data`` and ``layout`` of a plotly figure; strings ``var(--NAME)`` are colours that the page fills in."""

SERIES = 8
"""Colours of series that the page defines: ``--c0`` to ``--c7``."""
MOST_BOXES = 30
"""Embeddings whose folds are drawn; the table has all."""
MOST_DOTS = 60
"""Rows of a rank plot; the table has all."""
LONGEST = 34
"""Letters of a label; longer ones are cut, with the whole name on hovering."""


def plain(text: Any) -> str:
    """Return text that plotly shows as it is (it reads some HTML tags and entities otherwise)."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(text: Any) -> str:
    """Return a short label of an axis."""
    whole = str(text)
    return plain(whole if len(whole) <= LONGEST else whole[: LONGEST - 1] + "…")


def numbers(values: Any, digits: int = 5) -> list[float | None]:
    """Return numbers of so many significant digits; None where undefined."""
    return [None if not math.isfinite(v) else float(f"{v:.{digits}g}") for v in np.asarray(values, dtype=np.float64)]


def colour(k: int) -> str:
    """Name the colour of a series."""
    return f"var(--c{k % SERIES})"


def _names_axis(names: Sequence[str]) -> dict[str, Any]:
    """Make an axis of names from top to bottom."""
    return {"tickvals": list(range(len(names))), "ticktext": [label(n) for n in names], "range": [len(names) - 0.4, -0.6],
            "automargin": True, "zeroline": False, "showgrid": False, "fixedrange": True}  # fmt: skip


def gap_bars(rows: pd.DataFrame) -> Spec | None:
    """Draw progress bars of one task (rows of :func:`panmodal.insight.report_figures.gap_display`); None where no gap is defined."""
    own = shown_bars(rows)
    if own.empty:
        return None
    gaps = own["gap_closed"].to_numpy(np.float64)
    high, low = own["gap_high"].to_numpy(np.float64) - gaps, gaps - own["gap_low"].to_numpy(np.float64)
    told = [
        f"<b>{plain(r.embedding)}</b>, {plain(r.probe)}<br>gap closed {number(r.gap_closed)}"
        + (f" ({interval(r)})" if interval(r) else "")
        + f"<br>{plain(r.metric)} {number(r.mean, 4)}, floor {number(r.floor, 4)}, ceiling {number(r.ceiling, 4)}"
        + f"<br>covers {100 * r.coverage:.0f} % of the test perturbations"
        + ("<br>a control without information" if r.role == "control" else "")
        for r in own.itertuples()
    ]
    marks = ["var(--bar)" if role == "embedding" else "var(--control)" for role in own["role"]]
    track = {"type": "bar", "orientation": "h", "x": [1] * len(own), "y": list(range(len(own))), "hoverinfo": "skip", "width": 0.66,
             "marker": {"color": "var(--track)"}}  # fmt: skip
    bars = {
        "type": "bar", "orientation": "h", "x": numbers(gaps), "y": list(range(len(own))), "width": 0.66, "hovertext": told,
        "hovertemplate": "%{hovertext}<extra></extra>", "marker": {"color": marks},
        "error_x": {"type": "data", "symmetric": False, "array": numbers(high), "arrayminus": numbers(low), "color": "var(--ink)",
                    "thickness": 1.2, "width": 3},
    }  # fmt: skip
    names = [f"{e}, {p}" for e, p in zip(own["embedding"], own["probe"], strict=True)]
    return {
        "data": [track, bars],
        "layout": {
            "height": 96 + 26 * len(own), "barmode": "overlay", "showlegend": False, "yaxis": _names_axis(names),
            "xaxis": {"range": list(bar_range(own)), "tickformat": ".0%", "zeroline": True, "zerolinecolor": "var(--ink)",
                      "title": {"text": "gap closed"}},
        },
    }  # fmt: skip


def fold_boxes(table: pd.DataFrame, rows: pd.DataFrame) -> Spec:
    """Draw boxes over folds with a dot for each fold: ``table`` of ``fold_displays``, ``rows`` of the leaderboard for one task.

    At most :data:`MOST_BOXES` embeddings, the best.
    """
    shown = rows[rows["role"].isin(["embedding", "control"])]
    names = list(dict.fromkeys(shown["embedding"]))[:MOST_BOXES]
    probes = sorted(set(shown["probe"]))
    at = {name: k for k, name in enumerate(names)}
    own = table[table["role"].isin(["embedding", "control"]) & table["value"].notna() & table["embedding"].isin(names)]
    several = table["seed"].nunique() > 1
    data: list[dict[str, Any]] = []
    for k, probe in enumerate(probes):
        part = own[own["probe"] == probe]
        told = [f"<b>{plain(r.embedding)}</b>, {plain(probe)}<br>fold {plain(r.fold)}" + (f", seed {r.seed}" if several else "")
                + f": {r.value:.4g}"
                for r in part.itertuples()]  # fmt: skip
        data.append({
            "type": "box", "orientation": "h", "name": plain(probe), "x": numbers(part["value"]),
            "y": [at[e] for e in part["embedding"]],
            "boxpoints": "all", "jitter": 0.35, "pointpos": 0, "hovertext": told, "hoveron": "points", "hoverinfo": "text",
            "marker": {"color": colour(k), "size": 5, "opacity": 0.8}, "line": {"width": 1.3}, "fillcolor": "rgba(128,128,128,0.08)",
        })  # fmt: skip
    first = rows.iloc[0]
    shapes, notes = [], []
    values = np.asarray(own["value"], dtype=np.float64)
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    lines = [("floor", first["floor"], f"floor ({first['floor_by']})", "dash"),
             ("ceiling", first["ceiling"], ceiling_name(str(first["ceiling_by"])).removeprefix("the "), "dot")]  # fmt: skip
    span = max(high - low, 1e-9)
    for name, value, text, dash in lines:
        if not np.isfinite(value):
            continue
        near = low - span / 2 <= value <= high + span / 2
        if near:
            shapes.append({"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1,
                           "line": {"color": "var(--ink)", "width": 1.2, "dash": dash}})  # fmt: skip
        side = "left" if value < low else "right"
        arrow = f"◀ {text} {value:.3g}" if side == "left" else f"{text} {value:.3g} ▶"
        notes.append({
            "text": plain(f"{text} {value:.4g}" if near else arrow), "x": value if near else float(side == "right"),
            "xref": "x" if near else "paper", "xanchor": "auto" if near else side, "yref": "paper", "y": 1, "yanchor": "bottom",
            "yshift": 15 if name == "floor" else 0, "showarrow": False, "font": {"size": 11, "color": "var(--soft)"},
        })  # fmt: skip
    return {
        "data": data,
        "layout": {
            "height": 150 + max(26, 15 * len(probes)) * len(names), "boxmode": "group", "yaxis": _names_axis(names), "shapes": shapes,
            "annotations": notes, "margin": {"t": 52},
            "xaxis": {"title": {"text": plain(f"{first['metric']} per fold")}, "zeroline": False},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        },
    }  # fmt: skip


def heat_map(table: pd.DataFrame, value: str, *, diverging: bool = True) -> Spec:
    """Draw a table whose first column names the rows and whose other columns are numbers."""
    names, columns = [str(v) for v in table.iloc[:, 0]], [str(c) for c in table.columns[1:]]
    z = table.iloc[:, 1:].to_numpy(np.float64)
    bound = max(1e-9, float(np.nanmax(np.abs(z)))) if np.isfinite(z).any() else 1.0
    told = [[f"<b>{plain(n)}</b><br>{plain(c)}<br>{plain(value)} {number(v)}" for c, v in zip(columns, line, strict=True)]
            for n, line in zip(names, z, strict=True)]  # fmt: skip
    heat: dict[str, Any] = {
        "type": "heatmap", "z": [numbers(line, 4) for line in z], "x": list(range(len(columns))), "y": list(range(len(names))),
        "hovertext": told, "hovertemplate": "%{hovertext}<extra></extra>", "xgap": 1, "ygap": 1, "hoverongaps": False,
        "colorbar": {"title": {"text": plain(value), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "colorscale": [[0, "var(--heat-low)"], [0.5, "var(--heat-mid)"], [1, "var(--heat-high)"]], "zmin": -bound, "zmax": bound,
    }  # fmt: skip
    if not diverging:
        heat |= {
            "colorscale": [[0, "var(--heat-mid)"], [1, "var(--heat-high)"]],
            "zmin": float(np.nanmin(z)),
            "zmax": float(np.nanmax(z)),
        }
    if z.size <= 240:
        heat["texttemplate"] = "%{z:.2f}"
    return {
        "data": [heat],
        "layout": {
            "height": 150 + max(20, min(30, 900 // max(1, len(names)))) * len(names),
            "yaxis": _names_axis(names) | {"range": [len(names) - 0.5, -0.5]},
            "xaxis": {"tickvals": list(range(len(columns))), "ticktext": [label(c) for c in columns], "automargin": True,
                      "showgrid": False, "zeroline": False, "tickangle": -35 if len(columns) > 3 else 0, "fixedrange": True},
        },
    }  # fmt: skip


def interval_dots(table: pd.DataFrame, names: Sequence[str], value: str, low: str, high: str, title: str) -> Spec:
    """Draw a dot with an interval for each row, named by its columns ``names``; controls and baselines grey."""
    mid, left, right = (table[c].to_numpy(np.float64) for c in (value, low, high))
    full = [", ".join(str(v) for v in row) for row in table[list(names)].itertuples(index=False, name=None)]
    told = [f"<b>{plain(n)}</b><br>{plain(title)} {number(m, 3)} ({number(a, 3)} … {number(b, 3)})"
            for n, m, a, b in zip(full, mid, left, right, strict=True)]  # fmt: skip
    roles = table["role"] if "role" in table else ["embedding"] * len(table)
    marks = ["var(--bar)" if r == "embedding" else "var(--control)" for r in roles]
    dots = {
        "type": "scatter", "mode": "markers", "x": numbers(mid), "y": list(range(len(table))), "hovertext": told,
        "hovertemplate": "%{hovertext}<extra></extra>", "marker": {"color": marks, "size": 9},
        "error_x": {"type": "data", "symmetric": False, "array": numbers(right - mid), "arrayminus": numbers(mid - left),
                    "color": "var(--soft)", "thickness": 1.4, "width": 4},
    }  # fmt: skip
    return {
        "data": [dots],
        "layout": {"height": 96 + 24 * len(table), "showlegend": False, "xaxis": {"title": {"text": plain(title)}, "zeroline": False},
                   "yaxis": _names_axis(full)},
    }  # fmt: skip


MATRICES = {"chance-of-best": ("embedding", "task", "p_best")}
"""Displays whose table is a matrix in long form: the columns of its rows, columns and values."""


def widen(table: pd.DataFrame, row: str, column: str, value: str) -> pd.DataFrame | None:
    """Return a long table as a matrix whose first column names the rows; None if it is none (columns missing, pairs twice)."""
    if not {row, column, value} <= set(table.columns) or table.duplicated([row, column]).any():
        return None
    names, columns = list(dict.fromkeys(table[row])), list(dict.fromkeys(table[column]))
    wide = table.pivot(index=row, columns=column, values=value).reindex(index=names, columns=columns)
    return wide.reset_index()


def matrix(display: Display) -> bool:
    """Whether the table of a display is a matrix: a first column of different names, then numbers only."""
    table = display.table
    return (
        table.shape[1] >= 4 and len(table) >= 3 and table.iloc[:, 0].is_unique and not pd.api.types.is_numeric_dtype(table.iloc[:, 0])
        and all(pd.api.types.is_float_dtype(t) for t in table.dtypes.iloc[1:])
    )  # fmt: skip


def interactive(display: Display) -> list[tuple[str, Spec]]:
    """Make interactive figures of a display where its table is a matrix or holds ranks with intervals: (title, figure).

    Returns
    -------
    list
        One for each task where the table has several; empty where the display's own figure says it better.
    """
    table = display.table
    if display.draw is None:
        return []
    if display.name in MATRICES:
        wide = widen(table, *MATRICES[display.name])
        if wide is not None and min(wide.shape) > 1:
            signed = bool((wide.iloc[:, 1:].to_numpy(np.float64) < 0).any())
            return [("", heat_map(wide, MATRICES[display.name][2].replace("_", " "), diverging=signed))]
    if matrix(display) and list(map(str, table.iloc[:, 0])) == [str(c) for c in table.columns[1:]]:
        signed = bool((table.iloc[:, 1:].to_numpy(np.float64) < 0).any())
        return [("", heat_map(table, display.title, diverging=signed))]
    if not {*METHOD, "rank", "rank_low", "rank_high"} <= set(table.columns):
        return []
    keys = [c for c in (*TASK, "metric", "fallback") if c in table and table[c].nunique() > 1]
    groups = list(table.groupby(keys, sort=False)) if keys else [((), table)]
    made = []
    for key, part in groups:
        part = part[part["rank"].notna()]
        if len(part) < 3 or part.duplicated(METHOD).any():
            return []
        names = METHOD if (part["probe"].astype(str) != "").any() else METHOD[:1]
        title = " · ".join(str(k) for k in (key if isinstance(key, tuple) else (key,)))
        made.append(
            (
                title,
                interval_dots(part.head(MOST_DOTS), names, "rank", "rank_low", "rank_high", "rank, with its interval"),
            )
        )
    return made

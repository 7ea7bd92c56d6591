"""Figures of the paper and what they say: each drawn from a table of :mod:`panmodal.insight.paper`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.display import Display
from panmodal.insight.paper import (
    FUSION,
    MANY,
    context_table,
    fusion_table,
    part,
    protocol_table,
)
from panmodal.insight.paper_ranks import family_table, groups, rank_table
from panmodal.insight.plots import COLOURS, INK, set_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, then Tol's muted one; markers tell families apart in print.
PALETTE = (*COLOURS, "#882255", "#332288", "#999933", "#117733", "#AA4499", "#44AA99", "#661100")
MARKERS = "osD^vP*Xhd<>p"
GREY = "#777777"
SURE, LIKELY = 0.95, 0.8
ABOUT = {
    "contexts": "A box over folds and a dot per fold for every method, by family; dashed the floor (best baseline), dotted the "
    "experimental error. Oracles and controls are grey.",
    "ranks": "Mean rank over contexts as a share (0 best, 1 worst) with a 95 % interval (bootstrap over folds and contexts); each "
    "screen and kind of response counts the same. Small marks: each of them by itself. Only embeddings that all of them have.",
    "families": "Mean over the embeddings of a family of their mean ranks (0 best, 1 worst), with a 95 % interval (bootstrap over "
    "folds and contexts; folds share training data and contexts share perturbations, so it is rough). How often it is first of all "
    "families, and of those with several embeddings.",
    "fusion": "Gap closed from the best baseline (0) to the experimental error (1), of medians over folds, with a 95 % interval "
    "(bootstrap over folds; cut at the frame). The best single embedding is chosen on the folds it is shown on, which flatters it.",
}


def _styles(families: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each family; the same families, the same styles."""
    return {f: (PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]) for k, f in enumerate(sorted(set(families)))}


def _plain(axes: Axes, grid: str = "x") -> None:
    axes.grid(axis=grid, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def context_figure(table: pd.DataFrame) -> Figure:
    """Draw figure 1 from :func:`~panmodal.insight.paper.context_table`: one panel for each context, methods grouped by family."""
    from matplotlib.figure import Figure

    shown = str(table["shown"].iloc[0])
    higher = shown.startswith("gap closed") or METRICS[shown].higher_is_better
    method = table["embedding"].where(table["role"] != "oracle", table["embedding"] + " (oracle)")
    method = method.where(table["role"] != "control", table["embedding"] + " (control)")
    table = table.assign(method=method)
    # Best family first, by its median over methods; within it the best method first; controls and oracles below.
    # Relative to the floor: not every method is in every context.
    above = table.assign(value=(table["value"] - table["floor"]) * (-1 if higher else 1))
    above["value"] /= above.groupby("context")["value"].transform(lambda v: v.abs().max() or 1.0)
    medians = above.groupby(["method", "modality", "role"])["value"].median().reset_index()
    medians["apart"] = medians["role"].map({"embedding": 0, "control": 1, "oracle": 2})
    medians["family"] = medians.groupby("modality")["value"].transform("median")
    order = medians.sort_values(["apart", "family", "modality", "value"])
    place = {m: k for k, m in enumerate(order["method"])}
    styles = _styles(list(order.loc[order["role"] == "embedding", "modality"]))
    contexts = sorted(table["context"].unique())
    figure = Figure(figsize=(3.2 + 2.3 * max(2, len(contexts)), 1.6 + 0.19 * len(place)), layout="constrained")
    panels = figure.subplots(1, len(contexts), sharey=True, squeeze=False)[0]
    for axes, context in zip(panels, contexts, strict=True):
        own = table[table["context"] == context]
        for name, rows in own.groupby("method"):
            colour = styles.get(rows["modality"].iloc[0], (GREY, "o"))[0]
            values = rows["value"].dropna().to_numpy()
            line = {"color": colour}
            axes.boxplot(
                values, positions=[place[name]], orientation="horizontal", widths=0.62, showfliers=False, manage_ticks=False,
                boxprops=line, whiskerprops=line, capprops=line, medianprops={"color": colour, "linewidth": 1.8},
            )  # fmt: skip
            if len(values) <= 10:
                axes.plot(
                    values,
                    np.full(len(values), place[name]),
                    "o",
                    color=colour,
                    markersize=2.5,
                    alpha=0.7,
                    markeredgewidth=0,
                )
        first = own.iloc[0]
        axes.axvline(first["floor"], color=INK, linestyle="--", linewidth=1)
        if np.isfinite(first["ceiling"]):
            axes.axvline(first["ceiling"], color=INK, linestyle=":", linewidth=1.3)
        axes.set_title(str(context), fontsize=9, loc="left")
        axes.set_xlabel(shown + ("" if higher else " (lower is better)"), fontsize=8)
        _plain(axes)
    panels[0].set_yticks(list(place.values()), list(place), fontsize=7)
    panels[0].set_ylim(len(place) - 0.5, -0.5)
    for family, (colour, _) in styles.items():
        panels[0].plot([], [], color=colour, linewidth=3, label=family)
    panels[0].plot([], [], color=INK, linestyle="--", label=f"floor ({table['floor_by'].iloc[0]})")
    panels[0].plot([], [], color=INK, linestyle=":", label="experimental error")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def rank_figure(table: pd.DataFrame) -> Figure:
    """Draw figure 2 from :func:`~panmodal.insight.paper_ranks.rank_table`: mean ranks with intervals, coloured by family."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(table["set"]))
    sizes = [table.loc[table["set"] == s, "embedding"].nunique() for s in sets]
    figure = Figure(figsize=(8.2, 1.2 + sum(0.24 * n + 0.9 for n in sizes)), layout="constrained")
    panels = figure.subplots(len(sets), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 2 for n in sizes]})[:, 0]
    styles = _styles(list(table["modality"]))
    small = "x+1234|_"
    single: dict[str, str] = {}
    for axes, name in zip(panels, sets, strict=True):
        own = table[table["set"] == name]
        alone = [g for g in dict.fromkeys(own["group"]) if g != "all"]
        main = own[own["group"] == ("all" if "all" in set(own["group"]) else alone[0])].sort_values(
            "mean_rank", kind="stable"
        )
        place = {e: k for k, e in enumerate(main["embedding"])}
        if len(alone) > 1:
            for k, group in enumerate(alone):
                rows = own[own["group"] == group]
                single[group] = mark = small[k % len(small)]
                axes.plot(
                    rows["mean_rank"],
                    rows["embedding"].map(place),
                    mark,
                    color=GREY,
                    markersize=5,
                    markeredgewidth=1,
                    zorder=2,
                )
        for row in main.itertuples():
            colour, marker = styles[row.modality]
            axes.plot([row.low, row.high], [place[row.embedding]] * 2, color=colour, linewidth=2, zorder=3)
            axes.plot(row.mean_rank, place[row.embedding], marker, color=colour, markersize=7, zorder=4)
        axes.set_yticks(range(len(place)), list(place), fontsize=7.5)
        axes.set_ylim(len(place) - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xlabel("mean rank over contexts (0 best, 1 worst)", fontsize=8)
        _plain(axes)
        for k, group in enumerate(alone if len(alone) > 1 else ()):
            axes.plot([], [], small[k % len(small)], color=GREY, label=group)
        if len(alone) > 1:
            axes.legend(loc="lower left", fontsize=7, frameon=False)
    for family, (colour, marker) in styles.items():
        panels[0].plot([], [], marker + "-", color=colour, label="_" + family)
    handles = [panels[0].lines[-len(styles) + k] for k in range(len(styles))]
    figure.legend(handles, list(styles), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    set_ink(figure)
    return figure


def family_figure(table: pd.DataFrame) -> Figure:
    """Draw the families' mean ranks with intervals, one panel for each screen and kind of response."""
    from matplotlib.figure import Figure

    parts = list(table.groupby(["screen", "response"], sort=False))
    sizes = [len(rows) for _, rows in parts]
    figure = Figure(figsize=(7.2, 0.6 + sum(0.26 * n + 0.75 for n in sizes)), layout="constrained")
    panels = figure.subplots(
        len(parts), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [n + 1 for n in sizes]}
    )[:, 0]
    styles = _styles(list(table["family"]))
    for axes, ((screen, response), rows) in zip(panels, parts, strict=True):
        for k, row in enumerate(rows.itertuples()):
            colour, marker = styles[row.family]
            axes.plot([row.low, row.high], [k, k], color=colour, linewidth=2)
            axes.plot(row.typical, k, marker, color=colour, markersize=7)
            axes.plot(row.best_rank, k, "|", color=INK, markersize=10)
        names = [f"{r.family} ({r.n_embeddings})" for r in rows.itertuples()]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_title(f"{screen}, {response}", fontsize=9, loc="left")
        _plain(axes)
    panels[-1].set_xlabel("mean rank of a family's embeddings (0 best, 1 worst); bar: its best embedding", fontsize=8)
    set_ink(figure)
    return figure


def fusion_figure(table: pd.DataFrame) -> Figure:
    """Draw figure 5 from :func:`~panmodal.insight.paper.fusion_table`: gap closed by the best single embedding and by models."""
    from matplotlib.figure import Figure

    parts = list(table.groupby(["screen", "response"], sort=False))
    figure = Figure(figsize=(8.2, 0.4 + 2.5 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
    for axes, ((screen, response), rows) in zip(panels, parts, strict=True):
        methods = list(dict.fromkeys(rows["method"]))
        kinds = dict(zip(rows["method"], rows["kind"], strict=True))
        contexts = sorted(rows["context"].unique())
        together = len(contexts) > MANY
        width = 0.84 / len(methods)
        colours = iter(PALETTE[2:])
        for k, method in enumerate(methods):
            own = rows[rows["method"] == method].set_index("context")["gap_closed"].reindex(contexts)
            colour = (
                GREY
                if kinds[method] == "single"
                else COLOURS[0]
                if (kinds[method], k) == ("fusion", 1)
                else next(colours)
            )
            style: dict[str, Any] = {
                "width": width * 0.92,
                "color": colour,
                "label": f"{method}{' (best single)' if k == 0 else ''}",
            }
            at = np.arange(1 if together else len(contexts)) + (k - (len(methods) - 1) / 2) * width
            if together:
                axes.bar(at, [own.median()], alpha=0.75, **style)
                spread = at[0] + np.linspace(-0.35, 0.35, len(own)) * width
                axes.plot(spread, own.to_numpy(), "o", color=INK, markersize=2.2, alpha=0.7, markeredgewidth=0)
                continue
            axes.bar(at, own.to_numpy(), alpha=0.85, **style)
            limits = rows[rows["method"] == method].set_index("context")[["low", "high"]].reindex(contexts)
            axes.vlines(at, limits["low"], limits["high"], color=INK, linewidth=1)
        values = rows["gap_closed"].dropna()
        low, high = (
            (values.min(), values.max()) if together else (rows["gap_closed"].min(), rows["high"].clip(upper=3).max())
        )
        axes.set_ylim(min(-0.1, max(low, -1.0) * 1.1), max(1.1, high * 1.05))
        axes.axhline(0, color=INK, linestyle="--", linewidth=1)
        axes.axhline(1, color=INK, linestyle=":", linewidth=1.3)
        undefined = rows.loc[rows["gap_closed"].isna(), "context"].unique()
        for context in () if together else undefined:
            axes.text(contexts.index(context), 0.05, "ceiling below floor", ha="center", fontsize=7)
        labels = [f"{len(contexts)} contexts (median, dots)"] if together else contexts
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylabel("gap closed", fontsize=8)
        axes.set_title(f"{screen}, {response} ({rows['metric'].iloc[0]})", fontsize=9, loc="left")
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _plain(axes, "y")
    set_ink(figure)
    return figure


# --- what they say ---------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    if 0 < share < 0.005 or 0.995 < share < 1:
        return "less than 1 %" if share < 0.5 else "more than 99 %"
    return f"{100 * share:.0f} %"


def _how_sure(share: float) -> str:
    return "clearly" if share >= SURE else "probably" if share >= LIKELY else "by a lead that is not reliable"


def family_sentences(table: pd.DataFrame) -> list[str]:
    """Say which family leads on each screen and kind of response, and how sure that is."""
    found = []
    for (screen, response), rows in table.groupby(["screen", "response"], sort=False):
        several = rows[rows["n_embeddings"] > 1]
        text = f"{screen}, {response}: "
        if len(several) < 2:
            text += "fewer than two families have several embeddings, so that families cannot be compared"
        else:
            first, second = several.iloc[0], several.iloc[1]
            share = first["first_of_several"]
            text += (
                f"{first['family']} ({first['n_embeddings']} embeddings) comes first {_how_sure(share)} of the families with several "
                f"embeddings: mean rank {first['typical']:.2f} (95 % interval {first['low']:.2f} to {first['high']:.2f}; first in "
                f"{_percent(share)} of resampled folds and contexts); then {second['family']} ({second['typical']:.2f})"
            )
        best = rows.loc[rows["best_rank"].idxmin()]
        text += f"; the best embedding is {best['best']} ({best['family']}), and in {_percent(best['leads'])} of the resamples the "
        text += "best is of its family"
        if rows["n_contexts"].iloc[0] == 1:
            text += "; there is one context, so that nothing is said of others"
        found.append(text + ".")
    return found


def rank_sentences(table: pd.DataFrame) -> list[str]:
    """Say which embedding has the best mean rank of each set, and how sure that is."""
    found = []
    for name, rows in table.groupby("set", sort=False):
        whole = rows[rows["group"] == "all"] if (rows["group"] == "all").any() else rows
        first, often = whole.iloc[0], whole.loc[whole["first"].idxmax()]
        text = (
            f"{name}: {first['embedding']} ({first['modality']}) comes first {_how_sure(first['first'])}: it has the best mean rank "
            f"of {len(whole)} embeddings ({first['mean_rank']:.2f}, 95 % interval {first['low']:.2f} to {first['high']:.2f}) and is "
            f"first in {_percent(first['first'])} of resampled folds and contexts"
        )
        if often["first"] > first["first"]:
            text += f", {often['embedding']} in {_percent(often['first'])}"
        found.append(text + ".")
    return found


def fusion_sentences(table: pd.DataFrame) -> list[str]:
    """Say in how many contexts and folds the best fusion beats the best single embedding, and by how much."""
    found = []
    for (screen, response), rows in table.groupby(["screen", "response"], sort=False):
        fused = rows[rows["kind"] == "fusion"]
        others = fused if len(fused) else rows[rows["kind"] == "model"]
        single = rows[rows["kind"] == "single"].set_index("context")
        wins = others.groupby("method")["better"].sum()
        name = str(wins.idxmax())
        own = others[others["method"] == name].set_index("context")
        higher = METRICS[rows["metric"].iloc[0]].higher_is_better
        ahead = own["value"] > single["value"] if higher else own["value"] < single["value"]
        text = (
            f"{screen}, {response}: {name} beats the best single embedding ({single['method'].iloc[0]}) in {int(ahead.sum())} of "
            f"{len(own)} contexts by the median over folds, and in {int(own['better'].sum())} of {int(own['n_folds'].sum())} folds"
        )
        defined = own["gap_closed"].notna() & single["gap_closed"].notna()
        if defined.any():
            text += (
                f"; gap closed {own.loc[defined, 'gap_closed'].median():.2f} against {single.loc[defined, 'gap_closed'].median():.2f} "
                f"(median over {int(defined.sum())} contexts)"
            )
        if (~defined).any():
            text += f"; in {int((~defined).sum())} the ceiling is no better than the floor"
        found.append(text + ".")
    return found


def displays(evidence: Any) -> list[Display]:
    """Draw the paper's figures from the tables of a results folder (``scores`` and ``ceilings`` of the evidence)."""
    scores, ceilings = evidence.scores, evidence.ceilings
    made = []
    for screen, response in groups(scores):
        table = context_table(scores, ceilings, screen, response)
        name = "".join(c if c.isalnum() else "-" for c in f"contexts-{screen}-{response}".lower()).replace("--", "-")
        made.append(Display(name, f"Scores of {screen}, {response}", table, ABOUT["contexts"], (), context_figure))
        fused = part(scores, screen, response)
        fused = fused.loc[fused["modality"].isin(FUSION), "embedding"].unique()
        own = protocol_table(
            scores, ceilings, screen=screen, response=response, single=None, fused=None if len(fused) == 0 else fused[0]
        )
        made.append(Display(name.replace("contexts", "protocol", 1), f"Floor, best embedding and ceiling of {screen}, {response}",
                            own.reset_index(names="")))  # fmt: skip
    joined = rank_table(scores)
    made.append(
        Display("ranks", "Ranks of embeddings", joined, ABOUT["ranks"], tuple(rank_sentences(joined)), rank_figure)
    )
    families = family_table(scores)
    sentences = tuple(family_sentences(families))
    made.append(Display("families", "Ranks of families", families, ABOUT["families"], sentences, family_figure))
    try:
        fusion = fusion_table(scores, ceilings)
    except InputError:
        return made
    made.append(Display("fusion", "Fusion and the best single embedding", fusion, ABOUT["fusion"], tuple(fusion_sentences(fusion)),
                        fusion_figure))  # fmt: skip
    return made

"""The leaderboard as one self-contained HTML page that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from panmodal._version import __version__
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import ORACLE, TASK, gap_table
from panmodal.insight.leaderboard import ceiling_name, leaderboard, overall, summary
from panmodal.insight.plots import fold_plot, to_svg
from panmodal.insight.terminal import interval, note_for, number, share, task_title
from panmodal.screens.ceilings import ESTIMATORS


def render_page(
    scores: pd.DataFrame,
    *,
    metric: str | None = None,
    fallback: str = "filled",
    probes: Sequence[str] | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
    rows: pd.DataFrame | None = None,
    ceilings: pd.DataFrame | None = None,
    resampled: pd.DataFrame | None = None,
    ceiling: str | None = None,
    marks: pd.DataFrame | None = None,
    title: str = "panmodal leaderboard",
) -> str:
    """Render the leaderboard page.

    Parameters
    ----------
    scores
        The tidy score table.
    metric, fallback, probes, rows, ceilings, resampled, ceiling, marks
        As in :func:`panmodal.insight.leaderboard.leaderboard`.
    runs
        Records of the runs behind the table (cards, split, screen), for the methods section.
    title
        Title of the page.
    """
    import jinja2

    board = leaderboard(
        scores,
        metric=metric,
        fallback=fallback,
        probes=probes,
        rows=rows,
        ceilings=ceilings,
        resampled=resampled,
        ceiling=ceiling,
        marks=marks,
    )
    used = list(dict.fromkeys(board["metric"]))
    gaps = None
    if rows is not None:
        gaps = gap_table(scores, rows, ceilings, resampled=resampled, metrics=used, fallback=fallback, probes=probes)
    other = "common" if fallback == "filled" else "filled"
    tasks = []
    for number_, (_, rows) in enumerate(board.groupby(TASK, sort=False)):
        heading = task_title(rows)
        tasks.append({
            "anchor": f"task-{number_ + 1}", "title": heading, "metric": rows.iloc[0]["metric"],
            "simulated": bool(rows.iloc[0]["simulated"]),
            "verdict": rows.iloc[0]["verdict"], "why": rows.iloc[0]["why"], "rows": rows.to_dict("records"),
            "figure": to_svg(fold_plot(scores, rows), f"task-{number_ + 1}"), "figure_title": f"Folds: {heading}",
            "ceiling": ceiling_name(str(rows.iloc[0]["ceiling_by"])) if rows.iloc[0]["ceiling_by"] else "",
            "gaps": _gap_rows(gaps, rows),
        })  # fmt: skip
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = number
    environment.filters["interval"] = interval
    environment.filters["share"] = share
    environment.filters["recipe"] = _recipe
    template = environment.from_string(files("panmodal.insight").joinpath("page.html.j2").read_text(encoding="utf-8"))
    cards, screens, splits = _inputs(runs)
    downloads = [("leaderboard.csv", _data_uri(board)), ("overall.csv", _data_uri(overall(board)))]
    if gaps is not None:
        downloads.append(("gaps.csv", _data_uri(gaps)))
    return template.render(
        title=title, version=__version__, tasks=tasks, overall=overall(board).to_dict("records"), other=other,
        fallback=fallback, sentences=summary(board), note=note_for(board), cards=cards, screens=screens, splits=splits,
        metrics=[METRICS[m] for m in used], simulated=bool(board["simulated"].any()),
        downloads=downloads, estimators=[ESTIMATORS[e] for e in (ceilings["estimator"].unique() if ceilings is not None else ())],
    )  # fmt: skip


def _recipe(recipe: Any) -> str:
    """Say in a few words how an embedding was made."""
    if isinstance(recipe, Mapping):
        return f"panmodal embed {recipe['builder']}, rule {recipe['rule']}"
    return str(recipe)


def _gap_rows(gaps: pd.DataFrame | None, board: pd.DataFrame) -> dict[str, Any]:
    """Gap closed of a task's ranked methods by every ceiling, best methods first; empty where there is one ceiling only."""
    if gaps is None:
        return {}
    first = board.iloc[0]
    own = gaps[(gaps[TASK] == first[TASK]).all(axis=1) & (gaps["metric"] == first["metric"])]
    names = [e for e in dict.fromkeys(own["estimator"]) if own.loc[own["estimator"] == e, "ceiling"].notna().any()]
    if len(names) < 2:
        return {}
    order = board[board["role"] == "embedding"]
    methods = list(zip(order["embedding"], order["probe"], strict=True))
    cells = {(r.embedding, r.probe, r.estimator): r for r in own.itertuples()}
    heads = [(e, ceiling_name(own.loc[own["estimator"] == e, "ceiling_by"].iloc[0]).removeprefix("the ").removesuffix(" ceiling"),
              float(own.loc[own["estimator"] == e, "ceiling"].iloc[0])) for e in names]  # fmt: skip
    return {
        "heads": heads,
        "rows": [(e, p, [cells[e, p, name] for name in names]) for e, p in methods],
        "oracle": ORACLE in names,
    }


def _data_uri(frame: pd.DataFrame) -> str:
    text = frame.to_csv(index=False)
    return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()


def _inputs(runs: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
    """Cards, screens and splits of the runs, each once."""
    cards: dict[str, Any] = {}
    screens: dict[str, Any] = {}
    splits: dict[str, Any] = {}
    for run in runs:
        for entry in run.get("embeddings", []):
            if entry["role"] == "embedding":
                cards[f"{entry['card']['name']} {entry['digest']}"] = {**entry["card"], "digest": entry["digest"]}
        if "screen" in run:
            screens[run["screen"]["name"]] = run["screen"]
        if "split" in run:
            splits[run["split"]["digest"]] = run["split"]
    return list(cards.values()), list(screens.values()), list(splits.values())

"""The report: what results say, with figures, tables, checks and provenance, as one page or a folder that need no network."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from panmodal.errors import InputError, PanmodalError
from panmodal.insight import report_methods as of_methods
from panmodal.insight.display import Display
from panmodal.insight.leaderboard import ceiling_name, overall, summary
from panmodal.insight.report_explorer import explorer
from panmodal.insight.report_figures import board_displays, map_display, over_tasks, report_board, task_labels, tasks_of
from panmodal.insight.report_narrow import narrow
from panmodal.insight.report_parts import (
    figure_html,
    json_in_html,
    picture_html,
    table_html,
)
from panmodal.insight.report_specs import MOST_BOXES, Spec, fold_boxes, gap_bars, heat_map, interactive
from panmodal.insight.report_summary import headline
from panmodal.insight.sections import SECTIONS
from panmodal.insight.terminal import note_for, number, task_title

if TYPE_CHECKING:
    from panmodal.insight.evidence import Evidence

LEADERBOARD = "leaderboard"
"""Section of the leaderboard's own figures."""
CHECKS = "checks"
"""Section of the checks, which the page lays out in its own way."""
FIGURES = 3_000_000
"""Letters of all figures that are not interactive; the heaviest become pictures beyond it."""


@dataclass
class Block:
    """What the page shows of a display: figures (interactive, or SVG), sentences, the table, and its download."""

    anchor: str
    title: str
    about: str = ""
    sentences: Sequence[str] = ()
    charts: list[tuple[str, str, int]] = field(default_factory=list)
    svg: str = ""
    problem: str = ""
    table: str = ""


@dataclass
class Report:
    """All that a page shows, before it is laid out.

    ``sections`` is name -> (title, blocks or why there are none); ``displays`` the same of displays, for figures as files.
    """

    title: str
    board: pd.DataFrame
    sections: dict[str, tuple[str, list[Block] | str]]
    parts: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def collect(
    evidence: Evidence, board: pd.DataFrame, names: Sequence[str] | None = None
) -> dict[str, list[Display] | str]:
    """Return the displays of the leaderboard and of all sections (or those named), or why a section has none.

    Raises
    ------
    InputError
        A section of that name does not exist.
    """
    known = [LEADERBOARD, *(s.name for s in SECTIONS)]
    unknown = [n for n in names or () if n not in known]
    if unknown:
        raise InputError(f"no section {unknown[0]!r}; there are {', '.join(known)}.")
    found: dict[str, list[Display] | str] = {}
    if names is None or LEADERBOARD in names:
        found[LEADERBOARD] = board_displays(evidence, board)
    for section in SECTIONS:
        if names is not None and section.name not in names:
            continue
        try:
            made = importlib.import_module(section.module).displays(evidence)
        except PanmodalError as error:
            found[section.name] = str(error)
        except ModuleNotFoundError as error:
            found[section.name] = f"This section needs {error.name}, which is not installed."
        else:
            found[section.name] = made or "These results hold nothing to say here."
    return found


def make_report(
    evidence: Evidence, *, metric: str | None = None, fallback: str = "filled", ceiling: str | None = None,
    sections: Sequence[str] | None = None, marks: pd.DataFrame | None = None, title: str = "panmodal report",
) -> Report:  # fmt: skip
    """Draw all conclusions and lay them out in blocks.

    Parameters
    ----------
    evidence
        The results.
    metric, fallback, ceiling, marks
        As in :func:`panmodal.insight.leaderboard.leaderboard`; for the leaderboard, folds and explorer.
    sections
        Only these sections beside the leaderboard; all unless given.
    title
        Title of the page.
    """
    whole = report_board(evidence, metric=metric, fallback=fallback, ceiling=ceiling, marks=marks)
    evidence, board, narrowed = narrow(evidence, whole)
    wanted = [s.name for s in SECTIONS] if sections is None else list(sections)
    drawn = collect(evidence, board, [LEADERBOARD, *(name for name in wanted if name != CHECKS)])
    own = drawn.pop(LEADERBOARD)
    assert not isinstance(own, str)
    of_board = {d.name: d for d in own}
    tables = {d.name: d.table for d in own} | {"leaderboard": whole, "over-tasks": overall(whole)}
    checks = _checks(evidence) if CHECKS in wanted else {"summary": []}
    if "frame" in checks:
        tables[CHECKS] = checks["frame"]
    blocks: dict[str, tuple[str, list[Block] | str]] = {}
    drawings: dict[str, Display] = {}
    for section in SECTIONS:
        name, displays = section.name, drawn.get(section.name, [])
        if name not in wanted:
            continue
        if isinstance(displays, str):
            blocks[name] = (section.title, displays)
            continue
        blocks[name] = (section.title, [_block(d, f"{name}-{d.name}") for d in displays])
        drawings.update({f"{name}-{d.name}": d for d in displays})
        tables.update({f"{name}-{d.name}": d.table for d in displays})
    _lighten([b for _, made in blocks.values() if not isinstance(made, str) for b in made], drawings)
    explored, own_tables = explorer(evidence, board)
    tables.update(own_tables)
    labels = task_labels(board).values()
    parts = {
        "summary": headline(whole), "advice": _first_sentences(drawn.get("advice")), "checks": checks,
        "tasks": [
            _task(k, rows, of_board, short) for k, (rows, short) in enumerate(zip(tasks_of(board), labels, strict=True), 1)
        ], "map": _map(board),
        "overall": table_html(tables["over-tasks"], "Over tasks"), "note": f"{narrowed} {note_for(whole)}".strip(),
        "explorer": explored,
        "methods": of_methods.methods(evidence, board), "citations": of_methods.citations(evidence, board),
        "provenance": [(name, table_html(table, name.capitalize())) for name, table in of_methods.provenance(evidence).items()],
        "configs": of_methods.configs(evidence), "simulated": bool(board["simulated"].any()),
    }  # fmt: skip
    return Report(title, board, blocks, parts, tables)


def _chart(title: str, spec: Spec) -> tuple[str, str, int]:
    return title, json_in_html(spec), int(spec["layout"]["height"])


def _block(display: Display, anchor: str) -> Block:
    """Lay a display out; a figure that cannot be drawn is named with the reason, its table stays."""
    block = Block(anchor, display.title, display.about, display.sentences)
    block.charts = [_chart(title, spec) for title, spec in interactive(display)]
    if not block.charts and display.draw is not None:
        try:
            block.svg = figure_html(display, anchor)
        except Exception as error:
            block.problem = f"The figure could not be drawn ({type(error).__name__}: {error})."
    block.table = table_html(display.table, display.title)
    return block


def _lighten(blocks: list[Block], drawings: dict[str, Display]) -> None:
    """Replace the heaviest figures by pictures until all together weigh no more than :data:`FIGURES`."""
    weight = sum(len(b.svg) for b in blocks)
    for block in sorted(blocks, key=lambda b: -len(b.svg)):
        if weight <= FIGURES:
            return
        if block.svg.startswith("<svg"):
            picture = picture_html(drawings[block.anchor])
            weight -= max(0, len(block.svg) - len(picture))
            block.svg = min(block.svg, picture, key=len)


def _task(k: int, rows: pd.DataFrame, of_board: dict[str, Display], short: str) -> dict[str, Any]:
    """Lay one task out: heading, sentences, progress bars, folds, table."""
    first = rows.iloc[0]
    gaps = of_board["gap-closed"].table
    own = tasks_of_one(gaps, rows)
    bars = gap_bars(own)
    folds = of_board[f"folds-{k}"]
    ranked = rows[(rows["role"] == "embedding") & rows["mean"].notna()]
    leader = ranked.sort_values("rank", kind="stable").iloc[0].to_dict() if len(ranked) else None
    return {
        "anchor": f"task-{k}", "title": task_title(rows), "short": short, "rows": rows.to_dict("records"),
        "metric": str(first["metric"]), "simulated": bool(first["simulated"]), "sentences": summary(rows), "leader": leader,
        "verdict": str(first["verdict"]), "why": str(first["why"]),
        "other": "common" if first["fallback"] == "filled" else "filled", "bars": _chart("", bars) if bars else None,
        "ceiling": ceiling_name(str(first["ceiling_by"])) if first["ceiling_by"] else "",
        "folds": _chart("", fold_boxes(folds.table, rows)), "folds_about": folds.about + _left_out(rows),
        "gap_about": _gap_about(first, of_board["gap-closed"].about),
    }  # fmt: skip


def _gap_about(first: pd.Series, about: str) -> str:
    """Say what 0 and 1 are on this task, and how to read the bars."""
    ends = f"0 is the floor ({first['floor_by']}, {number(first['floor'])}), 100 % is {ceiling_name(str(first['ceiling_by']))} "
    return f"{ends}({number(first['ceiling'])}). {about}"


def _left_out(rows: pd.DataFrame) -> str:
    """Say how many embeddings are drawn where there are too many."""
    n = rows.loc[rows["role"].isin(["embedding", "control"]), "embedding"].nunique()
    return f" The best {MOST_BOXES} of {n} embeddings and controls; the table has all." if n > MOST_BOXES else ""


def tasks_of_one(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that belong to the task of some leaderboard rows."""
    keys = ["screen", "context", "response", "split"]
    return table[(table[keys] == rows.iloc[0][keys]).all(axis=1)]


def _map(board: pd.DataFrame) -> dict[str, Any] | None:
    display = map_display(board)
    if display is None:
        return None
    chart = _chart("", heat_map(over_tasks(board).reset_index(), "gap closed"))
    return {"chart": chart, "about": display.about}


def _first_sentences(displays: list[Display] | str | None) -> list[str]:
    """Return what the first display of advice says first."""
    said = [] if displays is None or isinstance(displays, str) else [d.sentences for d in displays if d.sentences]
    return list(said[0][:4]) if said else []


def _checks(evidence: Evidence) -> dict[str, Any]:
    """Run the checks; say why where they cannot run."""
    try:
        from panmodal.insight.checks import run_checks

        found = run_checks(evidence)
    except PanmodalError as error:
        return {"problem": str(error), "summary": []}
    frame, skipped = found.frame(), found.skipped()
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found.findings:
        check = found.records[one.code]
        group = groups.setdefault((one.code, one.severity), {
            "code": one.code, "name": check.name, "severity": one.severity, "title": check.title, "why": check.why,
            "advice": check.advice, "found": [],
        })  # fmt: skip
        group["found"].append((one.place, one.what))
    passed = [(code, found.records[code].title) for code in found.passed]
    return {
        "problem": "",
        "frame": frame, "summary": list(found.summary())[:1], "groups": list(groups.values()), "passed": passed,
        "skipped": table_html(skipped, "Checks that could not be made everywhere") if len(skipped) else "",
    }  # fmt: skip

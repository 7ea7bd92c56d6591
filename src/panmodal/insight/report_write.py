"""Writing a report: one page, a folder, or its figures as files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from panmodal._files import atomic_path, write_text
from panmodal._version import __version__
from panmodal.errors import InputError, PanmodalError, some
from panmodal.insight.report import LEADERBOARD, Report, collect
from panmodal.insight.report_figures import report_board
from panmodal.insight.report_parts import PLAIN, download, pack, pack_json, to_bytes
from panmodal.insight.terminal import interval, number

if TYPE_CHECKING:
    from panmodal.insight.evidence import Evidence

LIMIT = 10_000_000
"""Bytes that a page should stay below."""
ASSETS = ("style.css", "app.js", "charts.js", "explorer.js")


class FigureError(PanmodalError):
    """A figure could not be drawn."""


@cache
def plotly_js() -> str:
    """Return plotly.js as the plotly package brings it.

    Raises
    ------
    InputError
        The package is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("a report needs plotly for its interactive figures: pip install plotly.") from None
    return get_plotlyjs()


def _percents(row: dict[str, Any]) -> str:
    """Say the interval of a gap closed in percent; nothing where there is none."""
    low, high = row["gap_low"], row["gap_high"]
    return "" if pd.isna(low) else f"95 % interval {number(100 * low, 0)} to {number(100 * high, 0)} %"


def _asset(name: str) -> str:
    return files("panmodal.insight").joinpath("report", name).read_text(encoding="utf-8")


def _lay_out(report: Report, *, folder: bool, links: dict[str, tuple[str, str]], pictures: dict[str, list[str]]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "interval": interval, "percents": _percents}
    assets = {} if folder else {name: _asset(name) for name in ASSETS}
    return environment.from_string(_asset("report.html.j2")).render(
        report=report, **report.parts, version=__version__, folder=folder, assets=assets, downloads=links, pictures=pictures,
        explorer_data=pack_json(report.parts["explorer"]),
        plotly="" if folder else pack(plotly_js().encode()),
    )  # fmt: skip


def render_report(report: Report) -> str:
    """Return the report as one page that loads nothing from elsewhere.

    Where the page would be larger than :data:`LIMIT`, the largest tables are left out of its downloads, which it says.
    """
    links = {name: download(name, table) for name, table in report.tables.items()}
    page = _lay_out(report, folder=False, links=links, pictures={})
    excess = len(page.encode()) - LIMIT
    if excess <= 0:
        return page
    for name in sorted(links, key=lambda n: -len(links[n][1])):
        if excess <= 0 or len(links[name][1]) <= PLAIN:
            break
        excess -= len(links[name][1])
        links[name] = ("", "")
    return _lay_out(report, folder=False, links=links, pictures={})


def write_page(report: Report, target: str | Path) -> int:
    """Write the report as one page; return its size in bytes."""
    text = render_report(report)
    write_text(Path(target), text)
    return len(text.encode())


def write_folder(
    report: Report, evidence: Evidence, target: str | Path, formats: Sequence[str] = ("png", "svg", "pdf")
) -> list[Path]:
    """Write the report as a folder: ``index.html``, ``assets``, ``tables`` (CSV of every table) and ``figures``.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        The folder holds other files.
    """
    folder = Path(target)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "index.html").is_file()):
        raise InputError(f"{folder}: exists and is no report; give a new folder, or a file that ends in .html.")
    written = []
    for name in ASSETS:
        written.append(_write(folder / "assets" / name, _asset(name)))
    written.append(_write(folder / "assets" / "plotly.min.js", plotly_js()))
    links = {}
    for name, table in report.tables.items():
        written.append(_write(folder / "tables" / f"{name}.csv", table.to_csv(index=False)))
        links[name] = (f"{name}.csv", f"tables/{name}.csv")
    names = [LEADERBOARD, *report.sections]
    pictures: dict[str, list[str]] = {}
    with contextlib.suppress(FigureError):  # the page says which, and why
        for path, _ in write_figures(evidence, folder / "figures", formats=formats, sections=names, board=report.board):
            written.append(path)
            pictures.setdefault(path.stem, []).append(path.name)
    written.append(_write(folder / "index.html", _lay_out(report, folder=True, links=links, pictures=pictures)))
    return written


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def write_figures(
    evidence: Evidence, target: str | Path, *, formats: Sequence[str] = ("png", "svg", "pdf"), sections: Sequence[str] | None = None,
    board: pd.DataFrame | None = None,
) -> Iterator[tuple[Path, str]]:  # fmt: skip
    """Write every figure as files for papers; yield each path with the title of its figure.

    Raises
    ------
    InputError
        Unknown format or section.
    FigureError
        Some figures could not be drawn; raised when all others are written.
    """
    unknown = [f for f in formats if f not in ("png", "svg", "pdf")]
    if unknown:
        raise InputError(f"no format {some(unknown)}; there are png, svg, pdf.")
    board = report_board(evidence) if board is None else board
    failed: list[str] = []
    for section, displays in collect(evidence, board, sections).items():
        if isinstance(displays, str):
            continue
        for display in displays:
            if display.draw is None:
                continue
            try:
                files_of = {kind: to_bytes(display, kind) for kind in formats}
            except Exception as error:
                failed.append(f"{section}-{display.name} ({type(error).__name__}: {error})")
                continue
            for kind, data in files_of.items():
                path = Path(target) / f"{section}-{display.name}.{kind}"
                with atomic_path(path, durable=False) as partial:
                    partial.write_bytes(data)
                yield path, display.title
    if failed:
        raise FigureError(f"{len(failed)} figure(s) could not be drawn, the others are written: {'; '.join(failed)}.")

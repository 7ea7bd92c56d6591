"""The command line for what results say: report, figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panmodal._console import console_for, plain
from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.insight.evidence import Evidence

Results = Annotated[Path, typer.Argument(help="Results folder.")]
Metric = Annotated[str | None, typer.Option("--metric", help="Metric to rank by; the primary one unless given.")]
Ceiling = Annotated[str | None, typer.Option(help="Ceiling of the gap closed; see panmodal list ceilings.")]
Sections = Annotated[
    list[str] | None, typer.Option("--section", help="Only this section (repeat): ranks, calibration, patterns, ...")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(report)
    app.command()(figures)


def report(
    results: Results,
    out: Annotated[Path, typer.Option(help="Page (ends in .html) or folder to write.")] = Path("report.html"),
    metric: Metric = None,
    fallback: Annotated[
        str, typer.Option(help="filled: all test ids; common: ids covered by all embeddings.")
    ] = "filled",
    ceiling: Ceiling = None,
    section: Sections = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:
    """Write what results say as one page, or as a folder with figures and tables; it needs no network.

    Example: `panmodal report results/ --out report.html`
    """
    from panmodal.evaluation.evidence import read_marks
    from panmodal.insight.report import make_report
    from panmodal.insight.report_write import LIMIT, write_folder, write_page

    console = console_for()
    evidence = _evidence(results)
    made = make_report(evidence, metric=metric, fallback=fallback, ceiling=ceiling, sections=section, marks=read_marks(results),
                       title=title or f"{results.resolve().name}: report")  # fmt: skip
    for sentences in made.parts["summary"].values():
        for sentence in sentences:
            console.print(f"· {plain(sentence)}", highlight=False)
    if out.suffix == ".html":
        size = write_page(made, out)
        console.print(f"Wrote {out} ({size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)
        if size > LIMIT:
            console.print(
                f"[yellow]The page is larger than {LIMIT / 1e6:.0f} MB; a folder (--out FOLDER) loads faster.[/]",
                highlight=False,
            )
    elif out.suffix:
        raise InputError(f"{out}: a report is a file that ends in .html, or a folder.")
    else:
        written = write_folder(made, evidence, out)
        console.print(f"Wrote {out / 'index.html'} and {len(written) - 1} more files", highlight=False, soft_wrap=True)


def figures(
    results: Results,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("figures"),
    format: Annotated[
        list[str] | None, typer.Option("--format", help="png, svg, pdf (repeat); all unless given.")
    ] = None,
    section: Sections = None,
    metric: Metric = None,
    fallback: Annotated[
        str, typer.Option(help="filled: all test ids; common: ids covered by all embeddings.")
    ] = "filled",
    ceiling: Ceiling = None,
) -> None:
    """Write every figure as files for papers.

    Example: `panmodal figures results/ --out figures --format pdf --section leaderboard`
    """
    from panmodal.insight.report_figures import report_board
    from panmodal.insight.report_write import write_figures

    if out.is_file():
        raise InputError(f"{out}: is a file; give a folder.")
    evidence = _evidence(results)
    board = report_board(evidence, metric=metric, fallback=fallback, ceiling=ceiling)
    written = [
        path
        for path, _ in write_figures(
            evidence, out, formats=format or ("png", "svg", "pdf"), sections=section, board=board
        )
    ]
    console = console_for()
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    if not written:
        raise InputError(f"{results}: these sections have no figures for these results.")


def _evidence(results: Path) -> Evidence:
    """Read results; their runs tell when their records were written."""
    from panmodal.evaluation.evidence import read_evidence
    from panmodal.evaluation.store import Store

    evidence = read_evidence(results)
    dated = []
    for path, record in Store(results).runs():
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
        dated.append({**record, "recorded": when})
    return replace(evidence, runs=dated)

"""The command line for submissions: bundle, validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panmodal._console import console_for, plain

if TYPE_CHECKING:
    from panmodal.submissions.findings import Report

COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(bundle)
    app.command()(validate)


def bundle(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    out: Annotated[Path, typer.Option(help="File to write (.zip).")],
    embedding: Annotated[
        list[str] | None, typer.Option(help="Only these embeddings or fusions (repeat); all unless given.")
    ] = None,
    with_predictions: Annotated[
        bool, typer.Option("--with-predictions", help="Put the predictions in, so that metrics can be computed again.")
    ] = False,
    title: Annotated[str, typer.Option(help="One line on what is submitted.")] = "",
    contact: Annotated[str, typer.Option(help="Who may be asked.")] = "",
    notes: Annotated[str, typer.Option(help="What a maintainer should know.")] = "",
    date: Annotated[str, typer.Option(help="YYYY-MM-DD, if the file should say one.")] = "",
) -> None:
    """Put results into one file that others can check and merge.

    Example: `panmodal bundle results/ --embedding esm2 --out esm2.panmodal.zip`
    """
    from panmodal.submissions import bundle as make

    made = make(results, out, embeddings=embedding, with_predictions=with_predictions, title=title, contact=contact, notes=notes,
                date=date)  # fmt: skip
    console = console_for()
    for note in made.notes:
        console.print(f"· {plain(note)}", highlight=False)
    console.print(f"Wrote {plain(str(made.path))}: {made.trials} trials, {made.bytes} bytes, digest {made.digest}", highlight=False,
                  soft_wrap=True)  # fmt: skip


def validate(
    file: Annotated[Path, typer.Argument(help="Submission that panmodal bundle wrote.")],
    against: Annotated[
        str | None,
        typer.Option(
            help="Results folder or screen (file or name) at hand: tasks, baselines and predictions are checked."
        ),
    ] = None,
    response: Annotated[
        str | None, typer.Option(help="Kind of response of that screen, where its file does not say.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the findings as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make a submission invalid as well.")] = False,
) -> None:
    """Check a submission without trusting its sender. Ends with 0 if it is valid and with 1 if not.

    Example: `panmodal validate esm2.panmodal.zip --against results/`
    """
    from panmodal._files import write_text
    from panmodal.submissions import validate as check

    report = check(file, against=against, response=response)
    if json is not None:
        write_text(json, report.to_json())
    valid = report.valid and not (strict and any(f.severity == "warning" for f in report.findings))
    _show(report, valid)
    if not valid:
        raise typer.Exit(1)


def _show(report: Report, valid: bool) -> None:
    from rich.table import Table

    console = console_for()
    facts = report.facts
    if facts:
        console.print(f"{plain(str(facts['title'] or report.path.name))}: {facts['trials']} trials, {facts['scores']} scores, digest "
                      f"{report.digest}", highlight=False)  # fmt: skip
        for what in ("embeddings", "tasks"):
            console.print(f"{what}: {plain('; '.join(facts[what]))}", highlight=False)
    if report.findings:
        table = Table(title="findings", title_justify="left", title_style="bold")
        for column in ("code", "", "what", "where"):
            table.add_column(column, overflow="fold")
        for found in report.findings:
            style = COLOURS[found.severity]
            table.add_row(
                found.code, f"[{style}]{found.severity}[/]", plain(_visible(found.what)), plain(_visible(found.where))
            )
        console.print(table)
    for code, more in report.more.items():
        console.print(f"{code}: {more} more", highlight=False)
    console.print("[green]valid[/]" if valid else "[red]not valid[/]", highlight=False)


def _visible(text: str) -> str:
    """Show control characters of a stranger's text as escapes, so that they do not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""The command line for checks: check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panmodal._console import console_for, plain
from panmodal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from panmodal.insight.checks import CheckReport, Knowledge

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(check)


def check(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    ignore: Annotated[list[str] | None, typer.Option(help="Code or name of a check to leave out (repeat).")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Threshold: NAME=NUMBER (repeat); see docs/checks.")
    ] = None,
    compounds: Annotated[
        Path | None, typer.Option(help="Structures of compounds: a table of names and SMILES, or a screen with them.")
    ] = None,
    batches: Annotated[Path | None, typer.Option(help="Table pert_id, batch and perhaps context.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write one row for each finding as csv.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if an error is found.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="List what was not checked place by place.")] = False,
) -> None:
    """Look for reasons to doubt results: leakage, collapsed predictions, weak screens, comparisons that chance decides.

    Example: `panmodal check results/ --ignore PM020 --csv findings.csv`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.evidence import read_evidence
    from panmodal.insight.checks import run_checks

    for target, suffix in ((json, ".json"), (csv, ".csv")):
        if target is not None and target.suffix != suffix:
            raise InputError(f"{target}: a file written with --{suffix[1:]} must end in {suffix}.")
    report = run_checks(
        read_evidence(results), ignore or (), _options(set_ or ()), knowledge=_knowledge(compounds, batches)
    )
    console = console_for()
    show(console, report, verbose)
    for target, text in ((json, report.to_json()), (csv, report.frame().to_csv(index=False))):
        if target is not None:
            write_text(target, text)
            console.print(f"Wrote {target}", highlight=False, soft_wrap=True)
    if strict and report.failed():
        raise typer.Exit(1)


def _options(given: list[str] | tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"--set {text}: must be NAME=NUMBER.") from None
    return found


def _knowledge(compounds: Path | None, batches: Path | None) -> Knowledge:
    from panmodal._tables import read_frame, text_ids
    from panmodal.embeddings.compound_table import read_compounds
    from panmodal.insight.checks import Knowledge

    table = None
    if batches is not None:
        table = read_frame(batches, ["pert_id", "batch", "context"])
        for column in ("pert_id", "batch"):
            if column not in table:
                raise InputError(
                    f"{batches}: no column {column!r}; a table of batches has pert_id, batch and perhaps context."
                )
            table[column] = text_ids(table[column].tolist(), column, str(batches))
    return Knowledge(read_compounds(compounds)[0] if compounds is not None else None, table)


def show(console: Console, report: CheckReport, verbose: bool = False) -> None:
    """Print a report: findings by check, each with why and what to do, then what passed and what was not checked."""
    for code in dict.fromkeys(f.code for f in report.findings):
        record = report.records[code]
        own = [f for f in report.findings if f.code == code]
        # Findings are sorted by severity, so that the first is the gravest.
        console.print(
            f"[{STYLES[own[0].severity]}]{own[0].severity}[/] [bold]{code} {record.name}[/] · {plain(record.title)}",
            highlight=False,
        )
        for f in own:
            mark = "" if f.severity == own[0].severity else f" ({f.severity})"
            console.print(f"  · [dim]{plain(f.place)}{mark}[/] {plain(f.what)}", highlight=False)
        console.print(
            f"  [dim]why:[/] {plain(record.why)}\n  [dim]do:[/]  {plain(record.advice)} [dim](docs/{record.page})[/]\n",
            highlight=False,
        )
    status = report.status().set_index("status")["code"]
    for word in ("passed", "ignored"):
        codes = status[status.index == word].tolist()
        if codes:
            console.print(
                f"[bold]{word}[/] {', '.join(f'{c} {report.records[c].name}' for c in codes)}", highlight=False
            )
    skipped = report.skipped()
    if len(skipped):
        console.print("[bold]not checked[/]")
    for row in skipped.itertuples():
        places = row.where.split("; ")
        where = row.where if verbose or len(places) <= 2 else f"{places[0]} and {len(places) - 1} more"
        console.print(
            f"  · {row.code} {row.name}: {plain(row.reason)}" + (f" [dim]({plain(where)})[/]" if where else ""),
            highlight=False,
        )
    console.print(plain(report.summary()[0]), highlight=False)

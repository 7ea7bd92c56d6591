"""The command line for results folders: leaderboard, rescore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError

MetricName = Annotated[str | None, typer.Option("--metric", help="Metric to rank by; the primary one unless given.")]
Fallback = Annotated[
    str,
    typer.Option(
        help="filled: all test ids, train mean (class prior) where not covered; common: ids covered by all embeddings."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(leaderboard)
    app.command()(rescore)


def leaderboard(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    metric: MetricName = None,
    fallback: Fallback = "filled",
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes (repeat).")] = None,
    ceiling: Annotated[str | None, typer.Option(help="Ceiling of the gap closed; see panmodal list ceilings.")] = None,
    top: Annotated[int | None, typer.Option(help="Show only the best few embeddings of each task.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as csv.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the table as Parquet.")] = None,
    gaps: Annotated[
        Path | None, typer.Option(help="Write the gap closed by every metric and ceiling, with intervals (csv).")
    ] = None,
) -> None:
    """Show who leads, per task and over tasks.

    Example: `panmodal leaderboard results/ --metric Pearson_centred --html board.html`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.api import write_leaderboard
    from panmodal.evaluation.evidence import read_marks
    from panmodal.evaluation.store import Store
    from panmodal.insight.gaps import gap_table
    from panmodal.insight.leaderboard import leaderboard as make_board
    from panmodal.insight.leaderboard import summary
    from panmodal.insight.terminal import note_for, overall_table, task_tables

    store = Store(results)
    scores, evidence = store.scores(), store.evidence()
    board = make_board(scores, metric=metric, fallback=fallback, probes=probe, ceiling=ceiling,
                       marks=read_marks(results), **evidence)  # fmt: skip
    console = console_for()
    for table in task_tables(board, top):
        console.print(table)
    console.print(overall_table(board))
    for sentence in summary(board):
        console.print(f"· {plain(sentence)}", highlight=False)
    console.print(f"[dim]{plain(note_for(board))}[/]", highlight=False)
    for target, suffix in ((html, ".html"), (csv, ".csv"), (parquet, ".parquet")):
        if target is not None:
            if target.suffix != suffix:
                raise InputError(f"{target}: a file written with --{suffix[1:]} must end in {suffix}.")
            write_leaderboard(results, target, metric=metric, fallback=fallback, probes=probe, ceiling=ceiling)
            console.print(f"Wrote {target}", highlight=False, soft_wrap=True)
    if gaps is not None:
        if gaps.suffix != ".csv":
            raise InputError(f"{gaps}: a file written with --gaps must end in .csv.")
        table = gap_table(scores, fallback=fallback, probes=probe, **evidence)
        write_text(gaps, table.to_csv(index=False))
        console.print(f"Wrote {gaps}", highlight=False, soft_wrap=True)


def rescore(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    metric: Annotated[list[str] | None, typer.Option(help="Only these metrics (repeat); all unless given.")] = None,
) -> None:
    """Compute scores again from stored predictions, without fitting anything.

    Example: `panmodal rescore results/`
    """
    from panmodal.evaluation.rescoring import rescore as again

    with trial_progress() as report:
        scores = again(results, metric, report)
    console_for().print(f"{scores['trial'].nunique()} trials, {len(scores)} scores in {results / 'scores.parquet'}",
                     highlight=False, soft_wrap=True)  # fmt: skip

"""The command line for scores that others computed: import-scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from panmodal._console import console_for, plain


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="import-scores")(import_scores_command)


def import_scores_command(
    file: Annotated[Path, typer.Argument(help="Table of scores: the published format, or a tidy score table.")],
    out: Annotated[
        Path, typer.Option(help="Results folder (new, or with results to stand beside), or a table (.csv, .parquet).")
    ],
    errors: Annotated[Path | None, typer.Option(help="Experimental error of each perturbation, for ceilings.")] = None,
    columns: Annotated[
        Path | None, typer.Option(help="Layout (YAML): what the columns of another wide table are.")
    ] = None,
    mark: Annotated[
        str | None, typer.Option(help="Put into the names of screens; published or imported unless given.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the paper's figures and tables, drawn from the scores.")
    ] = None,
) -> None:
    """Read scores that others computed, to stand beside your own.

    Example: `panmodal import-scores published_scores.csv.gz --out results/ --errors published_experimental_error.csv.gz`
    """
    from panmodal._tables import stem
    from panmodal.evaluation.imported import write_imported
    from panmodal.evaluation.layouts import read_layout
    from panmodal.evaluation.published import import_scores
    from panmodal.evaluation.store import safe_name

    layout = None if columns is None else read_layout(columns)
    imported = import_scores(file, layout=layout, errors=errors, mark=mark)
    written = write_imported(imported, out, safe_name(stem(file)))
    console = console_for()
    scores = imported.scores
    console.print(
        f"{scores['trial'].nunique()} results of {scores['embedding'].nunique()} methods: {len(scores)} scores on "
        f"{plain(', '.join(scores['screen'].unique()))}",
        highlight=False,
        soft_wrap=True,
    )
    for note in imported.notes:
        console.print(f"· {plain(note)}", highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"Wrote {plain(str(path))}", highlight=False, soft_wrap=True)
    if figures is not None:
        from panmodal.insight.evidence import Evidence
        from panmodal.insight.paper_figures import displays

        for display in displays(Evidence(scores, ceilings=imported.ceilings)):
            _write(display, figures)
            for sentence in display.sentences:
                console.print(f"· {plain(sentence)}", highlight=False, soft_wrap=True)
        console.print(f"Wrote figures and tables to {plain(str(figures))}", highlight=False, soft_wrap=True)


def _write(display: object, folder: Path) -> None:
    """Write a display's table as csv and its figure, if it has one, as svg and png."""
    from panmodal._files import atomic_path, write_text
    from panmodal.insight.display import Display

    assert isinstance(display, Display)
    write_text(folder / f"{display.name}.csv", display.frame().to_csv(index=False))
    if display.draw is None:
        return
    figure = display.plot()
    for kind in ("svg", "png"):
        with atomic_path(folder / f"{display.name}.{kind}", durable=False) as partial:
            figure.savefig(partial, format=kind, dpi=150)

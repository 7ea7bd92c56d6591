"""The command line: parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal import (
    cli_advise,
    cli_cells,
    cli_check,
    cli_curve,
    cli_data,
    cli_embed,
    cli_import,
    cli_report,
    cli_results,
)
from panmodal._console import console_for, plain, trial_progress
from panmodal._version import __version__
from panmodal.cli_cells import show_facts
from panmodal.errors import InputError, PanmodalError

if TYPE_CHECKING:
    from rich.console import Console

    from panmodal.evaluation.plan import Plan
    from panmodal.screens.screen import Screen

app = typer.Typer(
    name="panmodal", no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="The benchmark of perturbation embeddings: which representation of a gene or a molecule best predicts how cells "
    "respond?\n\nStart with `panmodal demo`, then `panmodal run --screen S.h5ad --embedding E.h5ad --out results/`.",
)  # fmt: skip

Response = Annotated[
    str | None,
    typer.Option(help="Kind of response: lfc, deg, rank_score, fitness, continuous. Needed unless the file says."),
]
PertCol = Annotated[
    str | None, typer.Option(help="Column of the perturbation; 'index' takes the row names. Detected unless given.")
]
ContextCol = Annotated[
    list[str] | None, typer.Option(help="Column of the context (repeat to join several). Detected unless given.")
]
ContextName = Annotated[str | None, typer.Option(help="Name of the one context of a screen without such a column.")]
IdCol = Annotated[str | None, typer.Option(help="Column of the ids in embedding files. Detected unless given.")]
DropControls = Annotated[
    bool | None, typer.Option(help="Remove rows that name control cells instead of refusing them.")
]
Alpha = Annotated[
    float | None, typer.Option(help="Of a table of tests: largest adjusted p of a DEG; 0.05 unless given.")
]
MinEffect = Annotated[
    float | None, typer.Option(help="Of a table of tests: smallest absolute effect of a DEG; 0 unless given.")
]
Missing = Annotated[
    str | None, typer.Option(help="Of a table of tests: genes without a test are an error (default) or zero.")
]
AllowPickle = Annotated[
    bool | None, typer.Option(help="Open .pt and .pkl files, which can run code; only for files that you trust.")
]
cli_cells.register(app)
cli_embed.register(app)
cli_data.register(app)
cli_report.register(app)
cli_results.register(app)
cli_advise.register(app)
cli_check.register(app)
cli_curve.register(app)
cli_import.register(app)


def main() -> None:
    """Run the command line; errors that panmodal raises on purpose are printed without a traceback."""
    try:
        # Without standalone mode the parser hands exit codes back; 130 is its word for Ctrl-C.
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except PanmodalError as error:
        console_for(stderr=True).print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # Usage errors of the parser know how to show themselves.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        code = error.exit_code
    if code == 130:
        console_for(stderr=True).print("\nInterrupted. Finished trials are kept; run the same command again to go on.")
    if code:
        sys.exit(code)


def _show_plan(console: Console) -> Callable[[Plan], None]:
    def show(plan: Plan) -> None:
        for note in plan.notes:
            console.print(f"  [dim]· {plain(note)}[/]", highlight=False)
        console.print(
            f"  {len(plan.trials)} trials: {len(plan.sources)} embeddings, controls and baselines, "
            f"{len(plan.split.numbers)} folds of split {plain(plan.split.name)} ({plan.split.digest[:8]})",
            highlight=False,
        )

    return show


@app.command()
def run(
    screen: Annotated[
        str | None,
        typer.Option(help="Screen: h5ad, zarr, csv, tsv, parquet, or the name of a shipped one or a fetched data set."),
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="Embedding: FILE, NAME=FILE, FILE.h5ad#KEY (#* for all), a shipped one or DATASET/NAME. Repeat."
        ),
    ] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(
            help="Also fuse the embeddings: METHOD, as kernels or stack (panmodal list fusions), or "
            "NAME=METHOD(KEY=VALUE, ...):EMBEDDING,EMBEDDING. Repeat."
        ),
    ] = None,
    id_col: IdCol = None,
    out: Annotated[
        str | None, typer.Option(help="Results folder; finished trials in it are not computed again.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same options; flags win over it.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the screen in tables; the file's stem unless given.")
    ] = None,
    response: Response = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    context: ContextName = None,
    contexts: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    drop_controls: DropControls = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Study that the screen is from, such as replogle2022 (repeat).")
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="How ids of embeddings are matched: auto (default), genes, compounds, exact.")
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help="Given folds: csv with pert_id and fold, or 'published' for those of a data set.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, 5 unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of folds and controls, 42 unless given.")] = None,
    unseen: Annotated[
        str | None, typer.Option(help="Promise of the split: perturbation, or part (each part of a combination).")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="Only these probes (repeat); see panmodal list probes.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only these metrics (repeat); see panmodal list metrics.")
    ] = None,
    permuted: Annotated[bool | None, typer.Option(help="Also run a row-permuted copy of each embedding.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; all cores unless given.")] = None,
    overwrite: Annotated[str | None, typer.Option(help="never, missing (default) or always.")] = None,
    keep_predictions: Annotated[
        bool | None, typer.Option(help="Store predictions (default), so that new metrics need no refitting.")
    ] = None,
    allow_pickle: AllowPickle = None,
    ceilings: Annotated[
        str | None, typer.Option(help="Ceilings made by panmodal ceiling; those beside the screen's file unless given.")
    ] = None,
    no_ceilings: Annotated[bool, typer.Option("--no-ceilings", help="Use no ceilings.")] = False,
    alpha: Alpha = None,
    min_effect: MinEffect = None,
    missing: Missing = None,
    device: Annotated[
        str | None, typer.Option(help="cpu (default), or a torch device such as cuda, for the logistic probe.")
    ] = None,
) -> None:
    """Benchmark embeddings on a screen.

    Example: `panmodal run --screen screen.h5ad --embedding string.h5ad --embedding esm=esm2.parquet --out results/`
    """
    from panmodal.evaluation.api import run_config
    from panmodal.evaluation.config import make_config, read_config
    from panmodal.insight.terminal import task_tables

    fields: dict[str, Any] = read_config(config) if config else {}
    given = {
        "screen": screen, "embeddings": embedding, "fusions": fusion, "id_col": id_col, "out": out, "name": name, "response": response,
        "pert_col": pert_col, "context_col": context_col, "context": context, "contexts": contexts,
        "drop_controls": drop_controls, "datasets": dataset, "match": match,
        "splits": splits, "folds": folds, "seed": seed, "unseen": unseen,
        "probes": probe, "metrics": metric, "permuted": permuted, "n_jobs": jobs, "overwrite": overwrite,
        "keep_predictions": keep_predictions, "allow_pickle": allow_pickle,
        "ceilings": False if no_ceilings else ceilings, "alpha": alpha, "min_effect": min_effect, "missing": missing,
        "device": device,
    }  # fmt: skip
    fields |= {key: value for key, value in given.items() if value is not None and value != []}
    needed = [f"--{key.removesuffix('s')}" for key in ("screen", "embeddings", "out") if key not in fields]
    if needed:
        raise InputError(
            f"missing {', '.join(needed)}. Example: panmodal run --screen S.h5ad --embedding A.h5ad --out results/"
        )
    settings = make_config(fields, str(config) if config else "options")
    console = console_for()

    def show_screen(read: Screen) -> None:
        console.print(plain(repr(read)), highlight=False)

    with trial_progress() as report:
        results = run_config(settings, progress=report, on_screen=show_screen, on_plan=_show_plan(console))
    console.print(f"{results.computed} trials computed, {results.reused} found done.", highlight=False)
    board = results.leaderboard()
    ran = results.plan.screen
    for table in task_tables(board[(board["screen"] == ran.name) & (board["response"] == ran.response)]):
        console.print(table)
    console.print(f"Scores: {results.path / 'scores.parquet'}. Page: panmodal leaderboard {results.path} --html board.html",
                  highlight=False, soft_wrap=True)  # fmt: skip


def _calling(alpha: float | None, min_effect: float | None, missing: str | None) -> dict[str, Any]:
    """Options of tables of tests that were given."""
    given = {"alpha": alpha, "min_effect": min_effect, "missing": missing}
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def inspect(
    file: Annotated[
        list[str],
        typer.Argument(help="Screen, embedding (also FILE.h5ad#KEY) or results folder. Several may be given."),
    ],
    screen: Annotated[str | None, typer.Option(help="Screen whose coverage by the embedding is of interest.")] = None,
    id_col: IdCol = None,
    response: Response = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    context: ContextName = None,
    drop_controls: DropControls = None,
    alpha: Alpha = None,
    min_effect: MinEffect = None,
    missing: Missing = None,
    allow_pickle: AllowPickle = None,
) -> None:
    """Tell what a file is and what would be used of it.

    Example: `panmodal inspect esm2.parquet --screen screen.h5ad`
    """
    from panmodal.evaluation.config import load_screen
    from panmodal.inspect import describe

    options = {"response": response, "pert_col": pert_col, "context_col": context_col, "context": context,
               "drop_controls": bool(drop_controls), **_calling(alpha, min_effect, missing)}  # fmt: skip
    against = load_screen(screen, **options) if screen else None
    console = console_for()
    for path in file:
        for facts in describe(
            path, against, allow_pickle=bool(allow_pickle), id_col=id_col, **({} if against else options)
        ):
            show_facts(console, path, facts)


@app.command(name="list")
def list_(
    what: Annotated[
        str, typer.Argument(help="probes, fusions, metrics, ceilings, screens, embeddings, builders or all.")
    ] = "all",
) -> None:
    """List what there is: probes, fusions, metrics, ceilings, shipped screens and embeddings, builders of embeddings.

    Example: `panmodal list metrics`
    """
    from rich.table import Table

    from panmodal.embeddings.builders import builders
    from panmodal.embeddings.embedded import EMBEDDED
    from panmodal.evaluation.metrics import METRICS
    from panmodal.fusion.base import fusions
    from panmodal.probes.base import probes
    from panmodal.screens.ceilings import ESTIMATORS
    from panmodal.screens.embedded import EMBEDDED_SCREENS

    tables: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
        "probes": (("probe", "responses", "what", "parameter", "grid"),
                   [(p.name, ", ".join(p.kinds), p.description, p.parameter, " ".join(f"{v:g}" for v in p.grid))
                    for p in probes().values()]),
        "fusions": (("fusion", "responses", "what", "options", "needs"),
                    [(f.name, ", ".join(f.kinds), f.description, ", ".join(f.options.model_fields),
                      f"panmodal[{f.extra}]" if f.extra else "") for f in fusions().values()]),
        "metrics": (("metric", "responses", "of each", "better", "what"),
                    [(m.name, ", ".join(m.kinds), m.axis, "higher" if m.higher_is_better else "lower", m.formula)
                     for m in METRICS.values()]),
        "ceilings": (("ceiling", "what"), [(e.name, e.description) for e in ESTIMATORS.values()]),
        "screens": (("screen", "response", "what", "licence"),
                    [(s.name, s.response, s.description, s.licence) for s in EMBEDDED_SCREENS.values()]),
        "embeddings": (("embedding", "modality", "what", "licence"),
                       [(e.card.name, e.card.modality, e.card.description, e.card.licence) for e in EMBEDDED.values()]),
        "builders": (("builder", "modality", "what", "needs"),
                     [(b.name, b.modality, b.description, f"panmodal[{b.extra}]" if b.extra else "")
                      for b in (builders().values() if what in ("all", "builders") else ())]),
    }  # fmt: skip
    if what != "all" and what not in tables:
        raise InputError(f"nothing to list of {what!r}; give one of {', '.join(tables)} or all.")
    console = console_for()
    for title, (header, rows) in tables.items():
        if what in ("all", title):
            table = Table(title=title, title_justify="left", title_style="bold")
            for column in header:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*map(plain, row))
            console.print(table)


@app.command()
def split(
    screen: Annotated[str, typer.Option(help="Screen whose perturbations are to be dealt into folds.")],
    out: Annotated[Path, typer.Option(help="csv file to write (pert_id, fold), with its side-car.")],
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 42,
    unseen: Annotated[
        str, typer.Option(help="perturbation, or part (no part of a test combination is trained on).")
    ] = "perturbation",
    groups: Annotated[
        Path | None, typer.Option(help="Table with pert_id and group; ids of a group stay together.")
    ] = None,
    response: Response = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    drop_controls: DropControls = None,
    missing: Missing = None,
) -> None:
    """Make folds once and save them, to be used with --splits.

    Example: `panmodal split --screen screen.h5ad --out folds.csv --folds 5 --seed 42`
    """
    from panmodal.evaluation.config import load_screen
    from panmodal.screens.splits import audit, make_split, read_groups

    read = load_screen(
        screen, response=response, pert_col=pert_col, context_col=context_col, drop_controls=bool(drop_controls),
        **_calling(None, None, missing),
    )  # fmt: skip
    made = make_split(
        read.pert_ids, n_folds=folds, seed=seed, unseen=unseen, groups=read_groups(groups) if groups else None
    )
    audit(made, read.pert_ids, f"screen {read.name!r}")
    made.write(out)
    sizes = [sum(f == k for f in made.folds.values()) for k in made.numbers]
    console_for().print(f"Wrote {out}: {len(made.folds)} perturbations in folds of {sizes}, digest {made.digest}",
                     highlight=False, soft_wrap=True)  # fmt: skip


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("panmodal-demo"),
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; all cores unless given.")] = None,
) -> None:
    """Run the benchmark on the shipped data, with no file and no network, in a minute or two.

    Example: `panmodal demo --out panmodal-demo`
    """
    from panmodal.demo import run_demo
    from panmodal.insight.leaderboard import summary
    from panmodal.insight.terminal import task_tables

    console = console_for()
    with trial_progress() as report:
        results = run_demo(
            out, n_jobs=jobs, say=lambda line: console.print(plain(line), highlight=False), progress=report
        )
    board = results.leaderboard()
    for table in task_tables(board):
        console.print(table)
    for sentence in summary(board):
        console.print(f"· {plain(sentence)}", highlight=False)
    console.print(f"Report: {(out / 'leaderboard.html').resolve()}", highlight=False, soft_wrap=True)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"panmodal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass

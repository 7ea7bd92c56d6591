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
    cli_fuse,
    cli_import,
    cli_look,
    cli_plan,
    cli_report,
    cli_reproduce,
    cli_results,
    cli_site,
    cli_store,
    cli_submit,
)
from panmodal._console import console_for, plain, trial_progress
from panmodal._version import __version__
from panmodal.cli_options import (
    AllowPickle,
    Alpha,
    ContextCol,
    ContextName,
    DropControls,
    IdCol,
    MinEffect,
    Missing,
    PertCol,
    Response,
)
from panmodal.errors import InputError, PanmodalError, some
from panmodal.execution.signals import sigterm_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from panmodal.evaluation.plan import Plan
    from panmodal.evaluation.run import Results
    from panmodal.screens.screen import Screen

app = typer.Typer(
    name="panmodal", no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="The benchmark of perturbation embeddings: which representation of a gene or a molecule best predicts how cells "
    "respond?\n\nStart with `panmodal demo`, then `panmodal run --screen S.h5ad --embedding E.h5ad --out results/`.",
)  # fmt: skip


def main() -> None:
    """Run the command line; errors that panmodal raises on purpose are printed without a traceback."""
    try:
        # Without standalone mode the parser hands exit codes back; 130 is its word for Ctrl-C.
        with sigterm_interrupts():
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
    dask: Annotated[
        str | None, typer.Option(help="Run on a Dask cluster: its address, its scheduler file (.json), or local.")
    ] = None,
    retries: Annotated[int | None, typer.Option(help="How often lost work is given again, 2 unless given.")] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="Only the trials of a plan that panmodal plan wrote (those of --lite, if it has them)."),
    ] = None,
    fail_fast: Annotated[
        bool | None, typer.Option("--fail-fast", help="Stop at the first trial that fails, instead of recording it.")
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
        "device": device, "dask": dask, "plan": plan, "retries": retries, "fail_fast": fail_fast,
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
        results = run_config(
            settings, progress=report, on_screen=show_screen, on_plan=_show_plan(console),
            say=lambda line: console.print(plain(line), highlight=False),
        )  # fmt: skip
    console.print(f"{results.computed} trials computed, {results.reused} found done.", highlight=False)
    _show_failures(console, results)
    board = results.leaderboard()
    ran = results.plan.screen
    for table in task_tables(board[(board["screen"] == ran.name) & (board["response"] == ran.response)]):
        console.print(table)
    console.print(f"Scores: {results.path / 'scores.parquet'}. Page: panmodal leaderboard {results.path} --html board.html",
                  highlight=False, soft_wrap=True)  # fmt: skip
    if results.failed:
        raise typer.Exit(1)


def _show_failures(console: Console, results: Results) -> None:
    """Say which trials have no result, and why."""
    if not results.failed:
        return
    console.print(
        f"[bold red]{len(results.failed)} trial(s) failed[/] and are left out of what follows:", highlight=False
    )
    reasons: dict[str, list[str]] = {}
    for r in results.failed:
        label = f"{r['context']}, fold {r['fold']}, {r['embedding']}, {r['probe']}"
        reasons.setdefault(f"{r['type']}: {r['message']}", []).append(label)
    for reason, labels in reasons.items():
        console.print(f"  · {plain(reason)} [dim]({plain(some(labels, 3))})[/]", highlight=False, soft_wrap=True)
    console.print(f"  Tracebacks are in {results.path / 'failures'}; the same command tries them again.", highlight=False,
                  soft_wrap=True)  # fmt: skip


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("panmodal-demo"),
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; all cores unless given.")] = None,
    dask: Annotated[str | None, typer.Option(help="Dask cluster, as for `panmodal run`.")] = None,
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
            out, n_jobs=jobs, executor=f"dask:{dask}" if dask else "local",
            say=lambda line: console.print(plain(line), highlight=False), progress=report,
        )  # fmt: skip
    board = results.leaderboard()
    for table in task_tables(board):
        console.print(table)
    for sentence in summary(board):
        console.print(f"· {plain(sentence)}", highlight=False)
    console.print(f"Report: {(out / 'leaderboard.html').resolve()}", highlight=False, soft_wrap=True)


cli_look.register(app)
cli_cells.register(app)
cli_embed.register(app)
cli_data.register(app)
cli_plan.register(app)
cli_report.register(app)
cli_results.register(app)
cli_reproduce.register(app)
cli_advise.register(app)
cli_fuse.register(app)
cli_check.register(app)
cli_curve.register(app)
cli_import.register(app)
cli_store.register(app)
cli_submit.register(app)
cli_site.register(app)


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

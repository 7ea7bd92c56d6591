"""The command line for looking after results folders: verify, gc, merge, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Results = Annotated[Path, typer.Argument(help="Results folder.")]
store_app = typer.Typer(
    name="store", no_args_is_help=True, rich_markup_mode="markdown",
    help="Look after results folders: check, clean, merge, export.",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(store_app)


@store_app.command()
def verify(
    results: Results,
    full: Annotated[
        bool, typer.Option("--full", help="Compare the compiled tables for all tasks, not for a few.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged files that are computed from others, and leftovers.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --repair: damaged predictions, responses, vectors and folds too.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the findings as csv.")] = None,
) -> None:
    """Check every file of a results folder; the exit code is 1 where there are problems.

    Example: `panmodal store verify results/ --full`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.store_verify import verify_store

    with trial_progress("files") as report:
        found = verify_store(results, full=full, repair=repair, force=force, progress=report)
    console = console_for()
    problems = found[found["level"] == "problem"]
    for row in found.itertuples():
        done = " [green]Removed.[/]" if row.repaired else f" {plain(row.todo)}"
        mark = "[bold red]problem[/]" if row.level == "problem" else "[dim]note[/]"
        console.print(f"{mark} {plain(row.place)}: {plain(row.problem)}.{done}", highlight=False, soft_wrap=True)
    if csv is not None:
        write_text(csv, found.to_csv(index=False))
        console.print(f"Wrote {csv}", highlight=False, soft_wrap=True)
    if problems.empty:
        console.print(f"[green]No problem[/] in {plain(str(results))}.", highlight=False, soft_wrap=True)
        return
    fixed = int(problems["repaired"].sum())
    console.print(f"{len(problems)} problem(s), {fixed} removed.", highlight=False)
    raise typer.Exit(1)


@store_app.command()
def gc(
    results: Results,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the files; otherwise they are only listed.")] = False,
    hours: Annotated[float, typer.Option(help="Keep files that are younger, since a run may be writing them.")] = 1.0,
    csv: Annotated[Path | None, typer.Option(help="Write the list as csv.")] = None,
) -> None:
    """Find, and with `--yes` remove, files that no recorded plan needs.

    Example: `panmodal store gc results/ --yes`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.store_gc import collect_garbage

    found = collect_garbage(results, delete=yes, margin=3600 * hours)
    console = console_for()
    for (kind, why), own in found.groupby(["kind", "why"]):
        console.print(f"{len(own)} {kind}, {_size(own)}: {why}", highlight=False)
    if csv is not None:
        write_text(csv, found.to_csv(index=False))
        console.print(f"Wrote {csv}", highlight=False, soft_wrap=True)
    if found.empty:
        console.print(f"Nothing to remove in {plain(str(results))}.", highlight=False, soft_wrap=True)
    elif yes:
        console.print(
            f"Removed {int(found['removed'].sum())} files, {_size(found[found['removed']])}.", highlight=False
        )
    else:
        console.print(f"{len(found)} files, {_size(found)}, can be removed: give --yes.", highlight=False)


@store_app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Results folders.")],
    into: Annotated[Path, typer.Option(help="Target: a new folder, or a results folder that takes in the others.")],
    rename: Annotated[
        list[str] | None, typer.Option(help="FOLDER:OLD=NEW gives an embedding of a folder another name (repeat).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only, write nothing.")] = False,
) -> None:
    """Merge results folders; what is not the same under the same name is refused and explained.

    Example: `panmodal store merge mine/ yours/ --into ours/`
    """
    from panmodal.evaluation.store_merge import merge_stores

    renames: dict[str, dict[str, str]] = {}
    for text in rename or ():
        folder, old, new = _rename(text, folders)
        renames.setdefault(folder, {})[old] = new
    with trial_progress("files") as report:
        done = merge_stores(folders, into, rename=renames, dry_run=dry_run, progress=report)
    console = console_for()
    for note in done.notes:
        console.print(f"[dim]· {plain(note)}[/]", highlight=False, soft_wrap=True)
    verb = "can be copied" if dry_run else "copied"
    end = "" if dry_run else f", {done.files} files written to {into}"
    console.print(f"{done.copied} trials {verb}, {done.same} found again{plain(end)}.", highlight=False, soft_wrap=True)


def _rename(text: str, folders: list[Path]) -> tuple[str, str, str]:
    """Take FOLDER:OLD=NEW apart; the folder is one of those given, since names may hold a colon too."""
    for folder in folders:
        for spelt in (str(folder), f"{folder}/"):
            old, equals, new = text.removeprefix(f"{spelt}:").partition("=")
            if text.startswith(f"{spelt}:") and old and equals and new:
                return str(folder), old, new
    raise InputError(f"--rename {text}: must be FOLDER:OLD=NEW with a folder that is merged.")


@store_app.command()
def export(
    results: Results,
    out: Annotated[Path, typer.Option(help="File to write: .csv or .parquet; predictions as .h5ad.")],
    what: Annotated[str, typer.Option(help="scores, perturbations (values of each), or predictions.")] = "scores",
    wide: Annotated[bool, typer.Option("--wide", help="One column for each metric.")] = False,
    screen: Annotated[list[str] | None, typer.Option(help="Only these screens (repeat).")] = None,
    context: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    response: Annotated[list[str] | None, typer.Option(help="Only these kinds of response (repeat).")] = None,
    embedding: Annotated[list[str] | None, typer.Option(help="Only these embeddings (repeat).")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes (repeat).")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only these metrics (repeat).")] = None,
    fallback: Annotated[list[str] | None, typer.Option(help="Only filled, covered or common (repeat).")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Only these folds (repeat).")] = None,
) -> None:
    """Write scores, values of perturbations or predictions to a file.

    Example: `panmodal store export results/ --out scores.csv --wide --metric L2 --metric Pearson`
    """
    from panmodal.evaluation import store_export

    where: dict[str, Any] = {"screen": screen, "context": context, "response": response, "embedding": embedding,
                             "probe": probe, "metric": metric, "fallback": fallback, "fold": fold}  # fmt: skip
    if what not in store_export.WHATS:
        raise InputError(f"--what {what}: must be one of {', '.join(store_export.WHATS)}.")
    if what == "predictions":
        if metric or fallback or wide:
            raise InputError("predictions have no --metric, --fallback or --wide.")
        rows, readouts = store_export.export_predictions(results, out, where=where)
        size = f"{rows} predictions of {readouts} read-outs"
    elif what == "perturbations":
        if fallback:
            raise InputError("values of perturbations have no --fallback.")
        size = f"{store_export.export_perturbations(results, out, wide=wide, where=where)} rows"
    else:
        size = f"{len(store_export.export_scores(results, out, wide=wide, where=where))} rows"
    console_for().print(f"Wrote {plain(str(out))}: {size}", highlight=False, soft_wrap=True)


def _size(files: pd.DataFrame) -> str:
    size = float(files["bytes"].sum())
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

"""The command line for a public leaderboard: site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from panmodal._console import console_for, plain, trial_progress


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(site)


def site(
    sources: Annotated[list[Path] | None, typer.Argument(help="Results folders and submissions.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("site"),
    title: Annotated[str | None, typer.Option(help="Title of the leaderboard.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Where it will stand, for links to it: https://...")] = None,
    config: Annotated[
        Path | None, typer.Option(help="site.yaml: title, intro, submit, sources with names and dates.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date that the pages show (2026-01-31); none unless given.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Rank by it where a task has it; else by the primary metric.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option(help="The site before, or its index.json: changes.json tells what is new.")
    ] = None,
) -> None:
    """Write a public leaderboard as static pages from results folders and submissions.

    Example: `panmodal site results/ submission.zip --out site/ --title "Our leaderboard" --date 2026-01-31`
    """
    from panmodal.errors import InputError
    from panmodal.site.config import SiteConfig, make_config, read_config
    from panmodal.site.write import build_site

    read = SiteConfig() if config is None else read_config(config)
    given = {"title": title, "base_url": base_url, "date": date, "metric": metric}
    fields = {**read.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    settings = make_config(fields, "options of panmodal site")
    if not sources and not settings.sources:
        raise InputError("no source; give results folders or submissions, or sources in site.yaml (--config).")
    with trial_progress("tasks") as report:
        made = build_site(sources or [], out, config=settings, previous=previous, progress=report)
    console = console_for()
    for note in made.tables.merged.notes:
        console.print(f"· {plain(note)}", highlight=False)
    console.print(
        f"{len(made.entries)} embeddings, {len(made.tables.pages)} tasks: wrote {plain(str(out / 'index.html'))}",
        highlight=False,
        soft_wrap=True,
    )

"""From a config to results: what the command line and scripts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from panmodal._console import Progress
from panmodal._files import write_text
from panmodal.errors import InputError
from panmodal.evaluation.config import RunConfig
from panmodal.evaluation.estimate import read_plan
from panmodal.evaluation.plan import Plan
from panmodal.evaluation.run import Results, run
from panmodal.screens.screen import Screen


def run_config(config: RunConfig, *, progress: Progress | None = None, on_screen: Callable[[Screen], None] | None = None,
               on_plan: Callable[[Plan], None] | None = None, say: Callable[[str], None] | None = None) -> Results:  # fmt: skip
    """Read the inputs that a config names and run it; the config is written beside the results.

    Parameters
    ----------
    config
        What to run.
    progress, on_plan, say
        As in :func:`panmodal.evaluation.run.run`.
    on_screen
        Called with the screen once it is read.
    """
    screen = config.load_screen()
    if on_screen:
        on_screen(screen)
    embeddings = config.load_embeddings()
    results = run(
        screen, embeddings, config.out, split=config.load_split(screen), seed=config.seed, probes=config.probes,
        metrics=config.metrics, permuted=config.permuted, n_jobs=config.n_jobs, overwrite=config.overwrite,
        keep_predictions=config.keep_predictions, progress=progress, on_plan=on_plan,
        about={"config": config.model_dump(mode="json", exclude_defaults=True)}, ceilings=config.load_ceilings(screen),
        device=config.device, match=config.match, fusions=config.fusions,
        executor=f"dask:{config.dask}" if config.dask else "local", retries=config.retries, say=say,
        only=read_plan(config.plan) if config.plan else None, fail_fast=config.fail_fast,
    )  # fmt: skip
    write_text(Path(config.out) / "config.yaml", config.to_yaml())
    return results


def write_leaderboard(
    path: str | Path,
    out: str | Path,
    *,
    metric: str | None = None,
    fallback: str = "filled",
    probes: Sequence[str] | None = None,
    ceiling: str | None = None,
) -> None:
    """Write the leaderboard of a results folder as ``.html``, ``.csv`` or ``.parquet``, by the suffix of ``out``."""
    from panmodal.evaluation.evidence import read_marks
    from panmodal.evaluation.store import Store
    from panmodal.insight.leaderboard import leaderboard
    from panmodal.insight.page import render_page

    store, out = Store(path), Path(out)
    scores = store.scores()
    options: dict[str, Any] = {
        "metric": metric,
        "fallback": fallback,
        "probes": probes,
        "ceiling": ceiling,
        "marks": read_marks(path),
        **store.evidence(),
    }
    if out.suffix == ".html":
        runs = [r for _, r in store.runs()]
        write_text(out, render_page(scores, runs=runs, **options))
        return
    board = leaderboard(scores, **options)
    if out.suffix == ".csv":
        write_text(out, board.to_csv(index=False))
    elif out.suffix == ".parquet":
        from panmodal._files import atomic_path

        with atomic_path(out) as partial:
            board.to_parquet(partial, index=False)
    else:
        raise InputError(f"{out}: a leaderboard is written as .html, .csv or .parquet.")

"""The demonstration: real fitness data and simulated raw cells, shipped and planted embeddings, no file and no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from panmodal._console import Progress
from panmodal.embeddings.embedded import EMBEDDED, embedded_embedding
from panmodal.embeddings.embedding import Embedding
from panmodal.evaluation.run import Results, run
from panmodal.screens.ceilings import Ceilings, ceilings_path
from panmodal.screens.embedded import embedded_screen
from panmodal.screens.screen import Screen

CELLS = {
    "n_cells": 30_000, "n_perturbations": 120, "n_genes": 500, "contexts": ("sim-line-A", "sim-line-B"), "n_batches": 3,
    "umis": 4000.0, "effect": 1.3, "batch_effect": 0.1,
}  # fmt: skip
"""Size of the simulated experiment."""


def simulated_experiment(folder: str | Path, *, n_jobs: int | None = None, say: Callable[[str], None] = print
                         ) -> tuple[Screen, Ceilings, list[Embedding]]:  # fmt: skip
    """Simulate raw cells and go the road of a real experiment: prepare the screen, draw its noise ceilings.

    Returns
    -------
    screen, ceilings, embeddings
        The prepared screen, what its noise allows, and planted embeddings of known worth. All files stay in ``folder``.
    """
    from panmodal.cells.ceiling import make_ceilings
    from panmodal.cells.prepare import open_cells, prepare
    from panmodal.cells.simulate import planted_embeddings, simulate_cells

    folder = Path(folder)
    truth = simulate_cells(folder / "cells.h5ad", **CELLS)  # type: ignore[arg-type]
    cells = open_cells([truth.path])
    say(
        "Simulated raw counts: "
        + "; ".join(f"{what} {value}" for what, value in cells.facts() if what in ("cells", "used"))
    )
    screen = prepare(cells, name="simulated-cells", n_jobs=n_jobs)
    path = folder / "screen.h5ad"
    screen.write(path)
    make_ceilings(cells, screen, ceilings_path(path), n_jobs=n_jobs)
    cells.stream.close()
    return screen, Ceilings(ceilings_path(path)), planted_embeddings(truth)


def run_demo(out: str | Path, *, n_jobs: int | None = None, executor: str = "local", say: Callable[[str], None] = print,
             progress: Progress | None = None) -> Results:  # fmt: skip
    """Run the demonstration into ``out`` and write ``leaderboard.html`` and ``leaderboard.csv`` there.

    Parameters
    ----------
    out
        Results folder.
    n_jobs
        Processes.
    executor
        Who computes trials, as in :func:`panmodal.evaluation.run.run`.
    say
        Called with a line on each step.
    progress
        As in :func:`panmodal.evaluation.run.run`.
    """
    from panmodal.evaluation.api import write_leaderboard

    say("Building embeddings from the shipped tables: " + ", ".join(EMBEDDED))
    embeddings = [embedded_embedding(name) for name in EMBEDDED]
    depmap = embedded_screen("depmap-fitness")
    say(f"{depmap!r}")
    run(depmap, embeddings, out, n_jobs=n_jobs, progress=progress, executor=executor, about={"demo": True})
    screen, ceilings, planted = simulated_experiment(Path(out) / "simulated", n_jobs=n_jobs, say=say)
    say(f"{screen!r}")
    run(
        screen,
        planted,
        out,
        n_jobs=n_jobs,
        progress=progress,
        executor=executor,
        about={"demo": True},
        ceilings=ceilings,
    )
    labels = screen.labelled().select(screen.contexts[:1])  # one context shows it; both would take a minute more
    say(f"{labels!r}")
    results = run(
        labels,
        planted,
        out,
        n_jobs=n_jobs,
        progress=progress,
        executor=executor,
        about={"demo": True},
        ceilings=ceilings,
    )
    for name in ("leaderboard.html", "leaderboard.csv"):
        write_leaderboard(out, Path(out) / name)
    return results

"""The demonstration: both shipped screens, shipped and planted embeddings, no file and no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedded import EMBEDDED, embedded_embedding
from panmodal.embeddings.embedding import Embedding
from panmodal.evaluation.run import Progress, Results, run
from panmodal.screens.embedded import embedded_screen
from panmodal.screens.simulate import PLANTED, simulate_responses


def planted_embeddings(seed: int = 0) -> list[Embedding]:
    """Embeddings of known worth for the simulated screen."""
    _, planted = simulate_responses(seed=seed)
    return [
        Embedding(
            tuple(ids), vectors,
            Card(name=name, modality="planted latents", id_namespace="simulated", licence="Apache-2.0",
                 source="panmodal.screens.simulate", description=f"SIMULATED: {PLANTED[name]}", simulated=True),
        )
        for name, (ids, vectors) in planted.items()
    ]  # fmt: skip


def run_demo(out: str | Path, *, n_jobs: int | None = None, say: Callable[[str], None] = print,
             progress: Progress | None = None) -> Results:  # fmt: skip
    """Run the demonstration into ``out`` and write ``leaderboard.html`` and ``leaderboard.csv`` there.

    Parameters
    ----------
    out
        Results folder.
    n_jobs
        Processes.
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
    run(depmap, embeddings, out, n_jobs=n_jobs, progress=progress, about={"demo": True})
    simulated = embedded_screen("simulated-perturbseq")
    say(f"{simulated!r}")
    results = run(simulated, planted_embeddings(), out, n_jobs=n_jobs, progress=progress, about={"demo": True})
    for name in ("leaderboard.html", "leaderboard.csv"):
        write_leaderboard(out, Path(out) / name)
    return results

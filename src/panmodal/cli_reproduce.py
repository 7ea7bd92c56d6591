"""The command line that runs stored trials again: reproduce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.evaluation.reproduce import Reproduction


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(reproduce)


def reproduce(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    trial: Annotated[
        str | None, typer.Option(help="Digest of a trial, or its beginning (column trial of scores).")
    ] = None,
    embedding: Annotated[str | None, typer.Option(help="Only trials of this embedding or fusion.")] = None,
    probe: Annotated[str | None, typer.Option(help="Only trials of this probe.")] = None,
    context: Annotated[str | None, typer.Option(help="Only trials of this context.")] = None,
    fold: Annotated[int | None, typer.Option(help="Only trials of this fold.")] = None,
    sample: Annotated[int, typer.Option(help="At most so many of the trials that fit, drawn by the seed.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the record of each as JSON.")] = None,
) -> None:
    """Run a trial again from what its results folder holds, and compare every number.

    Ends with exit code 1 if one is not reproduced.

    Example: `panmodal reproduce results/ --embedding string --probe ridge --sample 5`
    """
    import random

    from panmodal._files import write_text
    from panmodal.evaluation.reproduce import find_trials
    from panmodal.evaluation.reproduce import reproduce as again
    from panmodal.evaluation.store import Store

    if out is not None and out.suffix != ".json":
        raise InputError(f"{out}: the record is written as .json.")
    found = find_trials(Store(results), trial=trial, embedding=embedding, probe=probe, context=context, fold=fold)
    chosen = (
        sorted(found, key=lambda t: t.digest) if len(found) <= sample else random.Random(seed).sample(found, sample)
    )
    console, done = console_for(), []
    with trial_progress() as progress:
        for k, one in enumerate(chosen):
            progress(k, len(chosen))
            done.append(again(results, one))
        progress(len(chosen), len(chosen))
    for made in done:
        console.print(plain(_words(made)), highlight=False, soft_wrap=True)
        for line in (*made.notes, *made.environment):
            console.print(f"  [dim]· {plain(line)}[/]", highlight=False, soft_wrap=True)
    good = sum(r.reproduced for r in done)
    console.print(f"{good} of {len(done)} reproduced, {sum(r.same for r in done)} to the last bit; {len(found)} trials fit.",
                  highlight=False)  # fmt: skip
    if out is not None:
        write_text(out, json.dumps([_record(r) for r in done], indent=1, ensure_ascii=False))
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)
    if good < len(done):
        raise typer.Exit(1)


def _words(found: Reproduction) -> str:
    t = found.trial
    label = f"{t.digest[:12]} {t.screen}, {t.context}, fold {t.fold}, {t.embedding}, {t.probe}"
    if found.same:
        return f"{label}: the same to the last bit"
    verdict = "reproduced" if found.reproduced else "NOT reproduced"
    return f"{label}: {verdict}, largest difference {found.difference:.3g} where the largest prediction is {found.scale:.3g}"


def _record(found: Reproduction) -> dict[str, object]:
    return {
        "trial": found.trial.to_record(), "same": found.same, "reproduced": found.reproduced, "difference": found.difference,
        "scale": found.scale, "environment": list(found.environment), "notes": list(found.notes), "then": dict(found.then),
        "now": dict(found.now),
    }  # fmt: skip

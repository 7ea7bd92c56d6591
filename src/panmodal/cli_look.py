"""The command line that looks at what there is: inspect, list, and split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from panmodal._console import console_for, plain
from panmodal.cli_cells import show_facts
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
    calling,
)
from panmodal.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(inspect)
    app.command(name="list")(list_)
    app.command()(split)


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
               "drop_controls": bool(drop_controls), **calling(alpha, min_effect, missing)}  # fmt: skip
    against = load_screen(screen, **options) if screen else None
    console = console_for()
    for path in file:
        for facts in describe(
            path, against, allow_pickle=bool(allow_pickle), id_col=id_col, **({} if against else options)
        ):
            show_facts(console, path, facts)


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
        **calling(None, None, missing),
    )  # fmt: skip
    made = make_split(
        read.pert_ids, n_folds=folds, seed=seed, unseen=unseen, groups=read_groups(groups) if groups else None
    )
    audit(made, read.pert_ids, f"screen {read.name!r}")
    made.write(out)
    sizes = [sum(f == k for f in made.folds.values()) for k in made.numbers]
    console_for().print(f"Wrote {out}: {len(made.folds)} perturbations in folds of {sizes}, digest {made.digest}",
                     highlight=False, soft_wrap=True)  # fmt: skip

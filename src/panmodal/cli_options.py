"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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


def calling(alpha: float | None, min_effect: float | None, missing: str | None) -> dict[str, Any]:
    """Options of tables of tests that were given."""
    given = {"alpha": alpha, "min_effect": min_effect, "missing": missing}
    return {name: value for name, value in given.items() if value is not None}

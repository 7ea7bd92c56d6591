"""Screens that need no file: one shipped with the package, one simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from panmodal.errors import InputError
from panmodal.screens.screen import Screen
from panmodal.screens.simulate import simulate_responses


@dataclass(frozen=True)
class EmbeddedScreen:
    """A named screen: what it is, its licence, and how it is made."""

    name: str
    response: str
    description: str
    source: str
    licence: str
    build: Callable[[], Screen]
    simulated: bool = False


def _depmap() -> Screen:
    with files("panmodal.data").joinpath("depmap_fitness_3465x121.parquet").open("rb") as stream:
        frame = pd.read_parquet(stream)
    genes = [str(g) for g in frame.index]
    return Screen.from_arrays(
        frame.to_numpy("float32"), genes, ["121 cell lines"] * len(genes), list(map(str, frame.columns)), name="depmap-fitness",
        response="fitness", description="effect of knocking out a gene on the growth of 121 cell lines (DepMap 25Q2 CRISPR); "
        "the read-outs are cell lines, not genes; 0.8 % of the values were missing and are filled",
        datasets=("depmap",),
    )  # fmt: skip


EMBEDDED_SCREENS = {
    entry.name: entry
    for entry in (
        EmbeddedScreen("depmap-fitness", "fitness", "3465 gene knockouts x 121 cell lines, growth effect (not transcriptome)",
                       "DepMap 25Q2", "CC BY 4.0", _depmap),
        EmbeddedScreen("simulated-perturbseq", "lfc", "300 simulated perturbations x 600 genes in 2 contexts, planted structure",
                       "panmodal.screens.simulate", "Apache-2.0", lambda: simulate_responses()[0], simulated=True),
    )
}  # fmt: skip
"""Shipped screens by name."""


def embedded_screen(name: str) -> Screen:
    """Return a shipped screen by name."""
    if name not in EMBEDDED_SCREENS:
        raise InputError(f"no shipped screen {name!r}; there are {', '.join(EMBEDDED_SCREENS)}.")
    return EMBEDDED_SCREENS[name].build()

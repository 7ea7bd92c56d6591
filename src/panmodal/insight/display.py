"""A conclusion: a table, the picture of it, and what it says in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Display:
    """A table with its picture.

    Attributes
    ----------
    name
        Stem of its files: lower case, digits and hyphens.
    title
        What it shows.
    table
        The numbers.
    about
        How to read it: what the columns are and how they are computed, in one or two sentences.
    sentences
        What it says, each true of the numbers.
    draw
        Makes the figure from the table; None where a table says it best.
    """

    name: str
    title: str
    table: pd.DataFrame
    about: str = ""
    sentences: tuple[str, ...] = ()
    draw: Callable[[pd.DataFrame], Figure] | None = None

    def frame(self) -> pd.DataFrame:
        """Return the table."""
        return self.table

    def plot(self) -> Figure:
        """Return the figure, which matplotlib shows or saves."""
        if self.draw is None:
            raise ValueError(f"{self.name} has no figure; it is a table.")
        return self.draw(self.table)

"""Values of perturbations, a task at a time: a table in memory, or one that is too large to be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@runtime_checkable
class Rows(Protocol):
    """One row for each trial and test perturbation: ``trial``, ``pert_id``, ``covered`` and a column for each metric."""

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that there are."""

    def of(self, task: Sequence[str], trials: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the rows of some trials of a task, with the columns of these metrics (those that there are)."""

    def whole(self) -> pd.DataFrame:
        """Return all rows and columns."""


class TableRows:
    """Rows in memory."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that there are."""
        return [c for c in self.table.columns if c not in ("trial", "pert_id", "covered")]

    def whole(self) -> pd.DataFrame:
        """Return the table."""
        return self.table

    @cached_property
    def _places(self) -> dict[str, NDArray[np.intp]]:
        return self.table.groupby("trial", sort=False, observed=True).indices

    def of(self, task: Sequence[str], trials: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the rows of some trials; the task is not needed to find them."""
        places = [self._places[t] for t in dict.fromkeys(trials) if t in self._places]
        chosen = np.sort(np.concatenate(places)) if places else np.empty(0, dtype=np.intp)
        columns = ["trial", "pert_id", "covered", *(m for m in metrics if m in self.table)]
        return self.table[columns].iloc[chosen]


def as_rows(rows: Any) -> Rows:
    """Return rows as they are, or a table of them as rows."""
    return TableRows(rows) if isinstance(rows, pd.DataFrame) else rows


def matrices(
    rows: pd.DataFrame, labels: pd.DataFrame, metric: str, n_methods: int
) -> dict[tuple[Any, Any], tuple[NDArray[Any], NDArray[np.float64]]]:
    """Lay out the values of a metric as perturbations x methods for each fold and seed.

    Parameters
    ----------
    rows
        ``trial``, ``pert_id`` and the metric.
    labels
        ``trial``, ``fold``, ``seed`` and ``method`` (number of the column); a trial may stand under several names.
    n_methods
        Number of columns.

    Returns
    -------
    dict
        (fold, seed), sorted -> sorted perturbation ids and the matrix, NaN where there is no value.
    """  # fmt: skip
    codes, names = pd.factorize(rows["pert_id"], sort=True)
    trial_codes, trials = pd.factorize(rows["trial"])
    order = np.argsort(trial_codes, kind="stable")
    starts = np.searchsorted(trial_codes[order], np.arange(len(trials) + 1))
    number = {name: k for k, name in enumerate(trials)}
    values, perts = rows[metric].to_numpy(np.float64)[order], codes[order]
    made = {}
    for key, unit in labels.groupby(["fold", "seed"], sort=True):
        own = [(number[t], m) for t, m in zip(unit["trial"], unit["method"], strict=True) if t in number]
        if not own:
            continue
        spans = [(slice(starts[t], starts[t + 1]), m) for t, m in own]
        present = np.unique(np.concatenate([perts[span] for span, _ in spans]))
        place = np.full(len(names), -1)
        place[present] = np.arange(len(present))
        table = np.full((len(present), n_methods), np.nan)
        for span, method in spans:
            table[place[perts[span]], method] = values[span]
        made[key] = (np.asarray(names)[present], table)
    return made

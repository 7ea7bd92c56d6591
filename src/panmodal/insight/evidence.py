"""What conclusions are drawn from: the tables of a results folder, and the arrays behind them, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import StoreError
from panmodal.insight.gaps import TASK
from panmodal.insight.leaderboard import check_scores
from panmodal.insight.rows import Rows, as_rows

Task = tuple[str, str, str, str]
"""Screen, context, kind of response, split."""


@dataclass(frozen=True)
class Truth:
    """Measured responses of a context: ``values`` is ids x read-outs (labels -1, 0, 1 for DEG), float32."""

    ids: tuple[str, ...]
    values: NDArray[np.float32]
    readouts: tuple[str, ...]

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each id."""
        return {name: k for k, name in enumerate(self.ids)}


@dataclass(frozen=True)
class Predicted:
    """Predictions of one trial for the test ids of its fold.

    ``values`` is ids x read-outs (DEG: ids x 2 read-outs, probabilities of -1 and of +1); ``covered`` tells which ids the embedding
    had a vector for, the others hold the train mean, which is ``fallback``.
    """

    ids: tuple[str, ...]
    covered: NDArray[np.bool_]
    values: NDArray[np.float32]
    fallback: NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """Vectors of an embedding for the ids of a screen that it covers, with the fields of its card."""

    ids: tuple[str, ...]
    values: NDArray[Any]
    card: Mapping[str, Any] = field(default_factory=dict)


def _absent(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise StoreError(f"{what} are not there: these conclusions need a results folder, not tables alone.")

    return refuse


class _Table:
    """A field that takes a table, or rows that are read as one when first looked at."""

    def __get__(self, owner: Any, _: Any = None) -> pd.DataFrame | None:
        if owner is None:
            return None  # the default of the field
        held = owner.__dict__["_rows"]
        if not isinstance(held, Rows):
            return held
        if "_table" not in owner.__dict__:
            owner.__dict__["_table"] = held.whole()
        return owner.__dict__["_table"]

    def __set__(self, owner: Any, value: pd.DataFrame | Rows | None) -> None:
        owner.__dict__["_rows"] = value


@dataclass(frozen=True)
class Evidence:
    """Tables of results and readers of the arrays behind them.

    Attributes
    ----------
    scores
        The tidy score table (``scores.parquet``; docs/formats.md).
    rows, ceilings, resampled, quality
        ``perturbations.parquet`` (trial, pert_id, covered and a column for each metric), ``ceilings.parquet``, ``resampled.parquet``
        and ``quality.parquet``; None where there are none. Rows may be given as :class:`~panmodal.insight.rows.Rows`: then
        ``rows`` reads them whole when it is looked at, and :meth:`per_perturbation` a task at a time.
    runs
        Records of the runs: cards, screens with their data sets, splits.
    read_truth, read_predictions, read_vectors
        Readers by task, by digest of a trial (column ``trial`` of scores), and by name of an embedding and screen.
    fusions
        What fusions learned of their members (``fusions.parquet``); None where no fusion was run.
    """

    scores: pd.DataFrame
    rows: pd.DataFrame | None = _Table()
    ceilings: pd.DataFrame | None = None
    resampled: pd.DataFrame | None = None
    quality: pd.DataFrame | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    read_truth: Callable[[Task], Truth] = field(default=_absent("responses"), repr=False)
    read_predictions: Callable[[str], Predicted] = field(default=_absent("predictions"), repr=False)
    read_vectors: Callable[[str, str], Vectors] = field(default=_absent("embeddings"), repr=False)
    fusions: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", check_scores(self.scores))

    @cached_property
    def source(self) -> Rows | None:
        """The values of perturbations, read a task at a time; None where there are none."""
        held = self.__dict__["_rows"]
        return None if held is None else as_rows(held)

    @cached_property
    def tasks(self) -> list[Task]:
        """Tasks in the order of the table."""
        return [tuple(map(str, task)) for task in self.scores[TASK].drop_duplicates().itertuples(index=False)]  # type: ignore[misc]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row for each trial and name: task, fold, embedding, probe, seed, role, modality, seen, trial, hyperparameters."""
        columns = [
            *TASK,
            "fold",
            "embedding",
            "probe",
            "seed",
            "role",
            "modality",
            "simulated",
            "seen",
            "hyperparameters",
            "trial",
        ]
        return self.scores[[c for c in columns if c in self.scores]].drop_duplicates().reset_index(drop=True)

    def of(self, task: Task, table: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the rows of a task in the scores, or in another table that has its columns."""
        table = self.scores if table is None else table
        return table[(table[TASK] == list(task)).all(axis=1)]

    def per_perturbation(self, task: Task, metric: str) -> pd.DataFrame:
        """Return the values of a metric for each trial and test perturbation of a task.

        Returns
        -------
        pandas.DataFrame
            ``embedding, probe, role, seed, fold, pert_id, covered, value``; empty where the values of perturbations are not kept.
        """
        columns = ["embedding", "probe", "role", "seed", "fold", "pert_id", "covered", "value"]
        source = self.source
        if source is None or metric not in source.metrics:
            return pd.DataFrame(columns=columns)
        trials = self.of(task, self.trials)[["embedding", "probe", "role", "seed", "fold", "trial"]]
        own = source.of(task, trials["trial"].tolist(), [metric]).astype({"trial": object, "pert_id": object})
        return own.merge(trials, on="trial").rename(columns={metric: "value"})[columns]

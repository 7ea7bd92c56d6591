"""What checks look at: the evidence, what is known of its ids, the thresholds, and tables that several checks share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.checks.knowledge import Knowledge
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import METHOD, TASK, gap_table
from panmodal.insight.leaderboard import leaderboard

Group = tuple[str, str, str]
"""Screen, kind of response, split: tasks that share their folds."""

Method = tuple[str, str]
"""Embedding and probe."""


class Paired(NamedTuple):
    """Mean advantage of one method over another (positive: the first is better), its standard error, and over how many."""

    advantage: float
    error: float
    n: int

    def apart(self, z: float) -> bool:
        """Whether the first is better by more than z standard errors."""
        return bool(self.advantage > z * self.error)


@dataclass(frozen=True)
class Case:
    """Evidence with what checks need beside it.

    Attributes
    ----------
    evidence
        Tables of results and readers of arrays.
    knowledge
        What the ids are.
    options
        Thresholds of all checks by name.
    """

    evidence: Evidence
    knowledge: Knowledge
    options: Mapping[str, float]

    def option(self, name: str) -> float:
        """Return a threshold."""
        return self.options[name]

    # -- places -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def at(task: Task, **more: str) -> dict[str, str]:
        """Return the place of a task."""
        return {**dict(zip(TASK, task, strict=True)), **more}

    @staticmethod
    def at_group(group: Group) -> dict[str, str]:
        """Return the place of tasks that share their folds."""
        return dict(zip(("screen", "response", "split"), group, strict=True))

    @cached_property
    def groups(self) -> dict[Group, list[Task]]:
        """Tasks by what they share their folds with."""
        found: dict[Group, list[Task]] = {}
        for task in self.evidence.tasks:
            found.setdefault((task[0], task[2], task[3]), []).append(task)
        return found

    # -- scores -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _boards(self) -> dict[Hashable, pd.DataFrame]:
        board = leaderboard(self.evidence.scores)
        return {task: own.reset_index(drop=True) for task, own in board.groupby(TASK, sort=False)}

    def board(self, task: Task) -> pd.DataFrame:
        """Return the leaderboard of a task by its primary metric, best first."""
        return self._boards[task]

    def ranked(self, task: Task) -> pd.DataFrame:
        """Return the embeddings of a leaderboard that have a score, best first."""
        board = self.board(task)
        return board[(board["role"] == "embedding") & board["mean"].notna()]

    def metric(self, task: Task) -> str:
        """Name of the metric that a task is ranked by."""
        return str(self.board(task)["metric"].iloc[0])

    def sign(self, metric: str) -> float:
        """Return +1 where higher is better, else -1."""
        return 1.0 if METRICS[metric].higher_is_better else -1.0

    def floor(self, task: Task) -> Method | None:
        """Return the better baseline of a task."""
        board = self.board(task)
        own = board[(board["role"] == "baseline") & board["mean"].notna()]
        return None if own.empty else (str(own.iloc[0]["embedding"]), str(own.iloc[0]["probe"]))

    @cached_property
    def _gaps(self) -> dict[Task, pd.DataFrame]:
        return {}

    def gaps(self, task: Task) -> pd.DataFrame:
        """Return the gap table of a task by its primary metric, without intervals; needs the values of perturbations."""
        if task not in self._gaps:
            evidence = self.evidence
            assert evidence.rows is not None
            own, metric = evidence.of(task), self.metric(task)
            self._gaps[task] = gap_table(own, evidence.rows, evidence.ceilings, metrics=[metric], draws=2)
        return self._gaps[task]

    # -- perturbations ------------------------------------------------------------------------------------------------------

    def folds(self, task: Task) -> pd.DataFrame:
        """Return ``seed, fold, pert_id`` of the tests of a task, each once; empty where values of perturbations are not kept."""
        if task not in self._folds:
            rows, trials = self.evidence.rows, self.evidence.of(task, self.evidence.trials)
            found = pd.DataFrame(columns=["seed", "fold", "pert_id"])
            if rows is not None:
                own = rows.loc[rows["trial"].isin(trials["trial"]), ["trial", "pert_id"]]
                found = own.merge(trials[["trial", "seed", "fold"]].drop_duplicates(), on="trial")[
                    ["seed", "fold", "pert_id"]
                ]
            self._folds[task] = found.drop_duplicates().sort_values(["seed", "pert_id", "fold"], ignore_index=True)
        return self._folds[task]

    @cached_property
    def _folds(self) -> dict[Task, pd.DataFrame]:
        return {}

    def group_folds(self, group: Group) -> pd.DataFrame:
        """Return ``seed, fold, pert_id`` of the tests in all contexts of a group, each once."""
        tables = [self.folds(task) for task in self.groups[group]]
        return pd.concat(tables).drop_duplicates().sort_values(["seed", "pert_id", "fold"], ignore_index=True)

    def row_metric(self, task: Task) -> str | None:
        """Name of the primary metric, or of the first metric of perturbations where that is one of genes; None if there is none."""
        rows = self.evidence.rows
        primary = self.metric(task)
        names = [primary, *(m for m in METRICS if task[2] in METRICS[m].kinds)]
        return next((m for m in names if METRICS[m].axis == "perturbation" and rows is not None and m in rows), None)

    @cached_property
    def _wide(self) -> dict[Task, pd.DataFrame]:
        return {}

    def wide(self, task: Task) -> pd.DataFrame | None:
        """Return the values of :meth:`row_metric`: (seed, fold, pert_id) x (embedding, probe); None where they are not kept."""
        if task not in self._wide:
            metric = self.row_metric(task)
            if metric is None:
                return None
            own = self.evidence.per_perturbation(task, metric)
            no_skill = METRICS[metric].no_skill
            if no_skill is not None:
                own["value"] = own["value"].fillna(no_skill)
            index = ["seed", "fold", "pert_id"]
            self._wide[task] = own.pivot_table(
                index=index, columns=METHOD, values="value", dropna=False, aggfunc="first"
            )
            self._wide[task] = self._wide[task].dropna(how="all")
        return self._wide[task]

    # -- comparisons --------------------------------------------------------------------------------------------------------

    def paired(self, task: Task, first: Method, second: Method) -> Paired | None:
        """Compare two methods by the primary metric on the same perturbations; None where nothing tells how sure that is.

        Metrics of perturbations: the mean over folds of the mean difference; its error is that of a mean of differences
        around their fold's mean, averaged over seeds. Metrics of genes: the deviation of the difference over the stored
        bootstrap samples.
        """
        metric = self.metric(task)
        if METRICS[metric].axis == "gene":
            return self._paired_samples(task, first, second, metric)
        wide = self.wide(task)
        if wide is None or self.row_metric(task) != metric or first not in wide or second not in wide:
            return None
        difference = (self.sign(metric) * (wide[first] - wide[second])).dropna()
        if len(difference) < 3:
            return None
        folds = difference.groupby(level=["seed", "fold"])
        around = (difference - folds.transform("mean")).groupby(level="pert_id").mean().to_numpy()
        freedom = max(len(around) - folds.ngroups / difference.index.get_level_values("seed").nunique(), 1)
        error = float(np.sqrt((around**2).sum() / freedom / len(around)))
        return Paired(float(folds.mean().mean()), error, len(around))

    def _paired_samples(self, task: Task, first: Method, second: Method, metric: str) -> Paired | None:
        samples = self.evidence.resampled
        if samples is None:
            return None
        own = samples[(samples["metric"] == metric) & (samples["trial"] != "")]
        sides: list[NDArray[np.float64]] = []
        for name, probe in (first, second):
            trials = self.evidence.of(task, self.evidence.trials)
            trials = trials.loc[(trials["embedding"] == name) & (trials["probe"] == probe), ["trial", "fold", "seed"]]
            found = own.merge(trials.drop_duplicates(), on=["trial", "fold", "seed"]).drop_duplicates(
                ["trial", "fold", "seed"]
            )
            if found.empty or len(found) < len(trials):
                return None
            sides.append(np.stack(found.sort_values(["seed", "fold"])["draws"].to_list()).mean(axis=0))
        means = self.board(task).set_index(METHOD)["mean"]
        advantage = self.sign(metric) * float(means[first] - means[second])
        drawn = (sides[0] - sides[1])[np.isfinite(sides[0] - sides[1])]
        n = int(self.board(task)["n_test"].iloc[0])
        return Paired(advantage, float(drawn.std(ddof=1)), n) if len(drawn) > 1 and np.isfinite(advantage) else None

    # -- remainder ----------------------------------------------------------------------------------------------------------

    def remainder(self, task: Task, leaky: pd.DataFrame) -> pd.DataFrame | None:
        """Score every method on all test ids, on those that are leaky, and on the clean remainder.

        Parameters
        ----------
        leaky
            ``seed, pert_id`` of the leaky test ids.

        Returns
        -------
        pandas.DataFrame
            ``context, embedding, probe, role, metric, all, clean, leaky, n_clean, n_leaky, rank_all, rank_clean``: means over folds
            of means over test ids; ranks are of embeddings. None where values of perturbations are not kept.
        """
        wide, metric = self.wide(task), self.row_metric(task)
        if wide is None or metric is None:
            return None
        marked = pd.MultiIndex.from_frame(leaky[["seed", "pert_id"]])
        hit = wide.index.droplevel("fold").isin(marked)
        columns = {}
        for name, mask in (("all", np.ones(len(wide), bool)), ("clean", ~hit), ("leaky", hit)):
            columns[name] = wide[mask].groupby(level=["seed", "fold"]).mean().mean()
        table = pd.DataFrame(columns).reset_index()
        roles = self.board(task)[[*METHOD, "role"]].drop_duplicates(METHOD)
        table = table.merge(roles, on=METHOD).assign(context=task[1], metric=metric)
        ids = wide.index.get_level_values("pert_id")
        table["n_clean"], table["n_leaky"] = ids[~hit].nunique(), ids[hit].nunique()
        ranked = table["role"] == "embedding"
        for side in ("all", "clean"):
            table[f"rank_{side}"] = (
                table.loc[ranked, side].rank(method="min", ascending=self.sign(metric) < 0).astype("Int64")
            )
        order = [
            "context",
            *METHOD,
            "role",
            "metric",
            "all",
            "clean",
            "leaky",
            "n_clean",
            "n_leaky",
            "rank_all",
            "rank_clean",
        ]
        return table.sort_values(["rank_all", *METHOD], kind="stable", ignore_index=True)[order]


def percent(part: float, whole: float = 1.0) -> str:
    """Format a share in per cent."""
    value = 100 * part / whole if whole else 0.0
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def named(method: Sequence[str] | pd.Series) -> str:
    """Name a method in a sentence."""
    name, probe = method
    return f"{name} with {probe}"

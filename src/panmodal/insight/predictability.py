"""Which perturbations are predicted, and what sets them apart from those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, StoreError
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import METHOD, TASK

COVARIATES = ("effect_size", "distinctness", "nearest_training", "n_cells", "n_deg", "reliability")
"""Facts of a perturbation that what embeddings add is held against."""
NO_EMBEDDING = "none"
"""Stands for the best embedding where none is better than the floor."""


@dataclass(frozen=True)
class Panel:
    """Values of one metric for every perturbation and method of a task.

    Attributes
    ----------
    task, metric
        What they are of.
    methods
        One row per method: ``embedding``, ``probe``, ``role``.
    units
        One row for each test of a perturbation: ``seed``, ``fold``, ``pert_id``. With several seeds a perturbation is tested
        once in each.
    unit_values, unit_covered
        Units x methods; NaN where the metric is undefined (no skill counted as such) or the trial is not there.
    fallback
        ``filled`` (all test ids) or ``common`` (those that every embedding covers).
    """

    task: Task
    metric: str
    methods: pd.DataFrame
    units: pd.DataFrame
    unit_values: NDArray[np.float64] = field(repr=False)
    unit_covered: NDArray[np.bool_] = field(repr=False)
    fallback: str = "filled"

    @property
    def higher(self) -> bool:
        """Whether a higher value is better."""
        return METRICS[self.metric].higher_is_better

    @property
    def ids(self) -> list[str]:
        """Perturbations, sorted."""
        return sorted(set(self.units["pert_id"]))

    def mean_over_folds(self) -> NDArray[np.float64]:
        """Mean of each method: over folds (of all seeds) of means over perturbations, as in the leaderboard."""
        return self._collapse(self.unit_values, ["seed", "fold"]).mean(axis=0).to_numpy()

    def over_seeds(self) -> pd.DataFrame:
        """Perturbations (sorted) x methods: the value, or its mean over seeds."""
        return self._collapse(self.unit_values, ["pert_id"])

    def covering(self) -> pd.DataFrame:
        """Perturbations (sorted) x methods: whether the embedding has a vector (in any seed)."""
        return self._collapse(self.unit_covered.astype(float), ["pert_id"]) > 0

    def _collapse(self, values: NDArray[np.float64], by: list[str]) -> pd.DataFrame:
        return pd.DataFrame(values).groupby([self.units[c].to_numpy() for c in by], sort=True).mean()

    def common(self) -> Panel:
        """Return the panel of the ids that every embedding covers; refuse where there are none."""
        keep = self.unit_covered[:, self.where("embedding")].all(axis=1)
        if not keep.any():
            raise InputError(
                f"{' · '.join(self.task)}: no id is covered by every embedding, so fallback 'common' is empty."
            )
        units, values = self.units[keep].reset_index(drop=True), self.unit_values[keep]
        return Panel(self.task, self.metric, self.methods, units, values, self.unit_covered[keep], "common")

    def where(self, role: str) -> NDArray[np.int64]:
        """Positions of the methods of a role."""
        return np.flatnonzero((self.methods["role"] == role).to_numpy())

    def best(self, role: str) -> int | None:
        """Position of the method of a role with the best mean over folds; None if there is none."""
        means = self.mean_over_folds()
        known = [k for k in self.where(role) if np.isfinite(means[k])]
        if not known:
            return None
        return int(max(known, key=lambda k: means[k]) if self.higher else min(known, key=lambda k: means[k]))

    def need_floor(self) -> int:
        """Position of the floor, the better of the baselines in the mean over folds; refuse where there is none."""
        floor = self.best("baseline")
        if floor is None:
            raise InputError(
                f"{' · '.join(self.task)}: no baseline by {self.metric}, so nothing to hold gains against."
            )
        return floor

    def name(self, method: int) -> str:
        """Name a method in a sentence: its embedding and probe, or the baseline's own name."""
        row = self.methods.iloc[method]
        return str(row["probe"]) if row["role"] == "baseline" else f"{row['embedding']} with {row['probe']}"


def metric_of_perturbations(evidence: Evidence, task: Task) -> str:
    """Name the first metric of the task's kind of response that has a value for each perturbation.

    For labels this is not the primary metric, F1, which belongs to genes.
    """
    if evidence.rows is None:
        raise InputError("the values of perturbations are not there: patterns need perturbations.parquet.")
    own = evidence.of(task, evidence.trials)["trial"]
    rows = evidence.rows[evidence.rows["trial"].isin(own)]
    for metric in metrics_for(task[2]):
        if metric.axis == "perturbation" and metric.name in rows and rows[metric.name].notna().any():
            return metric.name
    raise InputError(f"{' · '.join(task)}: no metric has values of perturbations.")


def panel(evidence: Evidence, task: Task, metric: str | None = None, fallback: str = "filled") -> Panel:
    """Set the values of a metric side by side: one row per test of a perturbation, one column per method.

    Parameters
    ----------
    evidence, task
        Results and one task of them.
    metric
        A metric of perturbations; the first there is unless given.
    fallback
        ``filled`` or ``common``; ``covered`` would compare different ids.

    Raises
    ------
    InputError
        Unknown fallback, a metric without values of perturbations.
    """
    if fallback not in ("filled", "common"):
        raise InputError(f"no fallback {fallback!r} for patterns; use filled or common.")
    metric = metric or metric_of_perturbations(evidence, task)
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}.")
    long = evidence.per_perturbation(task, metric)
    if METRICS[metric].no_skill is not None:
        long = long.assign(value=long["value"].fillna(METRICS[metric].no_skill))
    if long["value"].notna().sum() == 0:
        raise InputError(f"{' · '.join(task)}: metric {metric!r} has no values of perturbations.")
    methods = long[[*METHOD, "role"]].drop_duplicates().reset_index(drop=True)
    units = long[["seed", "fold", "pert_id"]].drop_duplicates().sort_values(["seed", "fold", "pert_id"])
    units = units.reset_index(drop=True)
    row = pd.MultiIndex.from_frame(units).get_indexer(pd.MultiIndex.from_frame(long[["seed", "fold", "pert_id"]]))
    column = pd.MultiIndex.from_frame(methods).get_indexer(pd.MultiIndex.from_frame(long[[*METHOD, "role"]]))
    values = np.full((len(units), len(methods)), np.nan)
    covered = np.ones(values.shape, dtype=bool)
    values[row, column], covered[row, column] = long["value"].to_numpy(np.float64), long["covered"].to_numpy(bool)
    found = Panel(task, metric, methods, units, values, covered)
    return found.common() if fallback == "common" else found


def improvement(values: Any, floor: Any, higher_is_better: bool) -> Any:
    """Gain over the floor that compares between perturbations.

    Errors: (floor - value) / floor, 1 for a perfect prediction, 0 for one as good as the floor, NaN where the floor has no
    error. Metrics where higher is better have a scale of their own: value - floor.
    """
    if higher_is_better:
        return values - floor
    return (floor - values) / np.where(floor > 0, floor, np.nan)


def facts(evidence: Evidence, found: Panel) -> tuple[pd.DataFrame, list[str]]:
    """Describe perturbations: what they did, and how well it was measured.

    Returns
    -------
    pandas.DataFrame
        Index ``pert_id`` (sorted) and those of :data:`COVARIATES` that are known. ``effect_size``: Euclidean norm of the
        response, for labels the number of DEGs; ``distinctness``: Euclidean distance from the mean response of the context;
        ``nearest_training``: largest Pearson correlation of its deviation from that mean with the deviation of a response in
        the training folds; and ``n_cells``, ``n_deg`` and ``reliability`` of ``quality.parquet``.
    list of str
        What is not known, and why.
    """
    ids, notes = found.ids, []
    table = pd.DataFrame(index=pd.Index(ids, name="pert_id"))
    try:
        truth = evidence.read_truth(found.task)
    except StoreError as error:
        notes.append(f"effect sizes are not known: {error}")
    else:
        lost = [i for i in ids if i not in truth.row]
        if lost:
            raise InputError(f"{' · '.join(found.task)}: no measured response of tested id {lost[0]!r}.")
        values = np.asarray(truth.values[[truth.row[i] for i in ids]], dtype=np.float32)
        norms = (values != 0).sum(axis=1) if has_classes(found.task[2]) else np.linalg.norm(values, axis=1)
        deviations = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)
        # Where responses are scaled alike (rank scores), what differs is rounding and no effect.
        norms = norms.astype(np.float64)
        table["effect_size"] = np.median(norms) if np.ptp(norms) <= 1e-4 * np.abs(norms).max() else norms
        table["distinctness"] = np.linalg.norm(deviations, axis=1).astype(np.float64)
        table["nearest_training"] = _nearest_training(deviations, ids, found.units)
    quality = evidence.quality
    if quality is None:
        notes.append(
            "cells, DEGs and reliability of perturbations are not known (no quality.parquet: panmodal ceiling makes it)"
        )
        return table, notes
    own = quality[(quality["screen"] == found.task[0]) & (quality["context"] == found.task[1])]
    own = own.drop_duplicates("pert_id").set_index("pert_id").reindex(ids)
    for column in ("n_cells", "n_deg", "reliability"):
        if column in own and own[column].notna().any():
            known = own[column].astype(float)
            table[column] = known.where(known >= 0) if column == "n_deg" else known  # -1: not tested
    return table, notes


def _nearest_training(deviations: NDArray[np.float32], ids: Sequence[str], units: pd.DataFrame) -> NDArray[np.float64]:
    """Largest correlation with a response of another fold, the mean over seeds; NaN for a constant response or a single fold."""
    centred = deviations - deviations.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    alike = unit @ unit.T
    best = []
    for _, own in units.groupby("seed", sort=True):
        fold = own.drop_duplicates("pert_id").set_index("pert_id")["fold"].reindex(list(ids)).to_numpy(np.float64)
        other = (fold[:, None] != fold[None, :]) & np.isfinite(fold)[None, :] & np.isfinite(fold)[:, None]
        nearest = np.where(other, alike, -np.inf).max(axis=1, initial=-np.inf)
        best.append(np.where(np.isfinite(nearest) & (norms[:, 0] > 0), nearest, np.nan))
    table = np.stack(best)
    known = np.isfinite(table)
    return np.where(known.any(axis=0), np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def perturbation_table(evidence: Evidence, found: Panel) -> tuple[pd.DataFrame, list[str]]:
    """Tell for each perturbation how well it is predicted, by what, and what it is like.

    Returns
    -------
    pandas.DataFrame
        One row per perturbation, best predicted first: task, ``metric``, ``fallback``, ``rank`` (by ``added``, ties share the
        lower), ``pert_id``, ``improvement`` (see :func:`improvement`; the mean over embeddings and probes),
        ``control_improvement`` (the same over the controls; NaN without), ``added`` (what the embeddings know: improvement of
        the mean over embeddings and probes on the mean over the controls instead of the floor; the improvement on the floor
        where no controls were run), ``gain`` (floor minus value, signs so that positive is better, in units of the metric; mean
        over embeddings and probes), ``share_better`` (of embeddings and probes, those better than the floor),
        ``best_embedding`` and ``best_probe`` with ``best_gain`` (the largest of many noisy values; ``none`` where nothing beats
        the floor), ``n_methods``, ``n_covering`` (methods whose embedding has a vector), and the facts of :func:`facts`.
    list of str
        What is not known, and why.
    """
    wide, floor = found.over_seeds(), found.need_floor()
    ranked = found.where("embedding")
    if not len(ranked):
        raise InputError(
            f"{' · '.join(found.task)}: no embedding to look for patterns in; only baselines or controls were run."
        )
    values, base = wide.to_numpy(), wide.to_numpy()[:, [floor]]
    sign = 1.0 if found.higher else -1.0
    gains = sign * (values - base)
    relative = improvement(values, base, found.higher)
    own = gains[:, ranked]
    tested = np.isfinite(own)
    best = np.where(tested, own, -np.inf).argmax(axis=1)
    best_gain = np.where(tested.any(axis=1), own[np.arange(len(own)), best], np.nan)
    chosen = found.methods.iloc[ranked[best]]
    helped = best_gain > 0
    table = pd.DataFrame({
        "pert_id": wide.index, "improvement": _row_mean(relative[:, ranked]),
        "control_improvement": _row_mean(relative[:, found.where("control")]), "gain": _row_mean(own),
        "share_better": np.where(tested.any(axis=1), (own > 0).sum(axis=1) / np.maximum(tested.sum(axis=1), 1), np.nan),
        "best_embedding": np.where(helped, chosen["embedding"], NO_EMBEDDING), "best_probe": np.where(helped, chosen["probe"], ""),
        "best_gain": best_gain, "n_methods": tested.sum(axis=1),
        "n_covering": found.covering().to_numpy()[:, ranked].sum(axis=1),
    })  # fmt: skip
    # Of the floor, a baseline, one may be far off for reasons that have nothing to do with embeddings; controls share them.
    controls = _row_mean(values[:, found.where("control")])
    added = pd.Series(improvement(_row_mean(values[:, ranked]), controls, found.higher), index=table.index)
    added = added if np.isfinite(controls).any() else table["improvement"]
    table.insert(3, "added", added)
    known, notes = facts(evidence, found)
    table = table.merge(known.reset_index(), on="pert_id")
    table.insert(0, "rank", table["added"].rank(method="min", ascending=False).astype("Int64"))
    table = table.sort_values(["rank", "pert_id"], na_position="last", kind="stable")
    return labelled(found.task, table, metric=found.metric, fallback=found.fallback), notes


def best_for(table: pd.DataFrame) -> pd.DataFrame:
    """Count on how many perturbations each embedding is the best one.

    Returns
    -------
    pandas.DataFrame
        Task, ``embedding`` (``none``: nothing beats the floor), ``n_best``, ``share``; most first.
    """
    counts = table.groupby([*TASK, "metric", "best_embedding"], sort=False).size().rename("n_best").reset_index()
    counts["share"] = counts["n_best"] / counts.groupby(TASK, sort=False)["n_best"].transform("sum")
    counts = counts.rename(columns={"best_embedding": "embedding"})
    order = {task: k for k, task in enumerate(table[TASK].drop_duplicates().itertuples(index=False, name=None))}
    counts["_task"] = [order[t] for t in counts[TASK].itertuples(index=False, name=None)]
    counts = counts.sort_values(["_task", "n_best", "embedding"], ascending=[True, False, True], kind="stable")
    return counts.drop(columns="_task").reset_index(drop=True)


def _row_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over columns where defined; NaN where nothing is."""
    known = np.isfinite(values)
    n = known.sum(axis=1)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(n, 1), np.nan)


def labelled(task: Task, table: pd.DataFrame, **more: Any) -> pd.DataFrame:
    """Put the columns of the task, and others that are the same in all rows, before a table."""
    head = pd.DataFrame({**dict(zip(TASK, task, strict=True)), **more}, index=table.index)
    return pd.concat([head, table], axis=1).reset_index(drop=True)

"""How alike the predictions of two methods are, and whether they are good at the same perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, StoreError
from panmodal.evaluation.metrics import FLAT, METRICS, metrics_for
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.fusion_parts import fused
from panmodal.insight.gaps import METHOD, TASK

Matrix = NDArray[np.float64]
COLUMNS = [*TASK, "embedding_a", "probe_a", "embedding_b", "probe_b", "n", "predictions", "metric", "errors", "gains", "gain_a",
           "gain_b"]  # fmt: skip


def error_metric(task: Task, there: Sequence[str]) -> str | None:
    """Return the first metric of perturbations that a task's rows have; None if there is none."""
    return next((m.name for m in metrics_for(task[2]) if m.axis == "perturbation" and m.name in there), None)


def prediction_pairs(evidence: Evidence, task: Task, *, probes: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare the predictions of every two methods (embedding and probe) of a task, on the test ids that both cover.

    Parameters
    ----------
    evidence
        With predictions.
    task
        One of ``evidence.tasks``; of several seeds the first is taken.
    probes
        Only these.

    Returns
    -------
    pandas.DataFrame
        :data:`COLUMNS`, one row for each pair. ``predictions``: correlation over read-outs of p - m and q - m, m the train mean (class
        shares), mean over perturbations; those where either equals m are left out. ``errors``: Pearson correlation over
        perturbations of the values of ``metric``; ``gains``: the same of the values minus those of the floor (the best baseline), so
        that perturbations which are hard for everyone do not make all methods look alike. ``gain_a``, ``gain_b``: mean gain over the
        floor on these ids, positive where better.

    Raises
    ------
    InputError
        No such probe.
    StoreError
        The predictions were not kept.
    """
    trials = evidence.of(task, evidence.trials)
    trials = trials[(trials["role"] == "embedding") & ~fused(trials) & (trials["seed"] == trials["seed"].min())]
    if probes:
        unknown = sorted(set(probes) - set(trials["probe"]))
        if unknown:
            known = ", ".join(sorted(set(trials["probe"])))
            raise InputError(f"no results for probe {unknown[0]!r}; there are {known}.")
        trials = trials[trials["probe"].isin(probes)]
    methods = trials[METHOD].drop_duplicates().reset_index(drop=True)
    if len(methods) < 2:
        return pd.DataFrame(columns=COLUMNS)
    number, correlation = _correlations(evidence, task, trials, methods)
    metric = None if evidence.rows is None else error_metric(task, list(evidence.rows))
    errors, gains, means = _errors(evidence, task, methods, metric, int(trials["seed"].min()))
    a, b = np.triu_indices(len(methods), 1)
    return pd.DataFrame({
        **dict(zip(TASK, task, strict=True)),
        **{f"{column}_{side}": methods[column].to_numpy()[k] for side, k in (("a", a), ("b", b)) for column in METHOD},
        "n": number[a, b], "predictions": correlation[a, b], "metric": metric or "", "errors": errors[a, b], "gains": gains[a, b],
        "gain_a": means[a, b], "gain_b": means[b, a],
    })[COLUMNS]  # fmt: skip


def _correlations(
    evidence: Evidence, task: Task, trials: pd.DataFrame, methods: pd.DataFrame
) -> tuple[NDArray[np.int64], Matrix]:
    """Of pairs of methods: how many test ids both cover, and the mean correlation of their centred predictions there."""
    size = len(methods)
    number, defined, total = np.zeros((size, size), np.int64), np.zeros((size, size)), np.zeros((size, size))
    for fold, of_fold in trials.groupby("fold", sort=True):
        digests = of_fold.set_index(METHOD)["trial"]
        held = {k: evidence.read_predictions(str(digests[key])) for k, key in enumerate(methods.itertuples(index=False, name=None))
                if key in digests.index}  # fmt: skip
        first = next(iter(held.values()))
        if any(own.ids != first.ids for own in held.values()):
            raise StoreError(f"task {' · '.join(task)}, fold {fold}: trials have different test ids.")
        for row in range(len(first.ids)):
            there = [k for k, own in held.items() if own.covered[row]]
            if not there:
                continue
            found = row_correlation(np.array([held[k].values[row] for k in there]), first.fallback)
            place = np.ix_(there, there)
            number[place] += 1
            defined[place] += np.isfinite(found)
            total[place] += np.nan_to_num(found)
    return number, np.where(defined > 0, total / np.maximum(defined, 1), np.nan)


def row_correlation(values: NDArray[Any], centre: NDArray[Any]) -> Matrix:
    """Pearson correlation of all pairs of rows after the centre is taken off; NaN for rows that equal it within single precision.

    Computed in the precision of the values: predictions are kept in single precision, and it halves the time.
    """
    magnitude = np.abs(values).max(axis=1, initial=0.0) + np.abs(centre).max(initial=0.0)
    rows = values - centre
    flat = np.abs(rows).max(axis=1, initial=0.0) <= FLAT * magnitude
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    flat |= norms <= FLAT * magnitude
    rows = rows / np.where(flat, 1.0, norms)[:, None]
    found = np.clip((rows @ rows.T).astype(np.float64), -1.0, 1.0)
    found[flat] = np.nan
    found[:, flat] = np.nan
    return found


def _errors(
    evidence: Evidence, task: Task, methods: pd.DataFrame, metric: str | None, seed: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Correlate values of a metric over perturbations, and gains over the floor; mean gain of the first of each pair."""
    nothing = np.full((len(methods), len(methods)), np.nan)
    if metric is None:
        return nothing, nothing, nothing
    values = evidence.per_perturbation(task, metric)
    values = values[values["seed"] == seed]
    kept = values[(values["role"] == "embedding") & values["covered"].astype(bool)]
    wide = kept.pivot_table(index="pert_id", columns=METHOD, values="value", aggfunc="first")
    wide = wide.reindex(columns=pd.MultiIndex.from_frame(methods))
    errors = _correlation(wide)
    baselines = values[values["role"] == "baseline"]
    floors = baselines.pivot_table(index="pert_id", columns="probe", values="value", aggfunc="first")
    if floors.empty:
        return errors, nothing, nothing
    means, higher = floors.mean(), METRICS[metric].higher_is_better
    floor = floors[means.idxmax() if higher else means.idxmin()].reindex(wide.index)
    gains = wide.sub(floor, axis=0) * (1.0 if higher else -1.0)
    known = gains.notna().to_numpy(dtype=np.float64)
    both = known.T @ known
    sums = gains.fillna(0.0).to_numpy().T @ known
    return errors, _correlation(gains), np.where(both > 0, sums / np.maximum(both, 1), np.nan)


def _correlation(wide: pd.DataFrame) -> Matrix:
    """Pearson correlation of columns over the rows that both have; NaN below three or where one is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return wide.corr(min_periods=3).to_numpy(dtype=np.float64)


def best_probes(evidence: Evidence, tasks: Sequence[Task]) -> dict[str, str]:
    """Return for each embedding the probe with the best mean rank, by the primary metric on all test ids, over tasks."""
    ranks = []
    for task in tasks:
        own = evidence.of(task)
        name = next((m.name for m in metrics_for(task[2]) if m.name in set(own["metric"])), None)
        own = own[(own["metric"] == name) & (own["role"] == "embedding") & (own["fallback"] == "filled")]
        if name is not None and not own.empty:
            mean = own.groupby(METHOD)["value"].mean()
            ranks.append(mean.groupby("embedding").rank(ascending=not METRICS[name].higher_is_better))
    if not ranks:
        return {}
    board = pd.concat(ranks, axis=1).mean(axis=1).reset_index(name="rank").sort_values(["embedding", "rank", "probe"])
    return dict(board.drop_duplicates("embedding")[METHOD].itertuples(index=False, name=None))

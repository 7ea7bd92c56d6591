"""How far from the floor to each ceiling a method comes, with an interval: a pure function of the tables of a results folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import mark_common
from panmodal.insight.rows import Rows, as_rows, matrices

TASK = ["screen", "context", "response", "split"]
METHOD = ["embedding", "probe"]
DRAWS = 1000
LEVEL = 0.95
ORACLE = "idealised"
"""Name under which the idealised oracle stands among the estimators of the ceiling."""
COLUMNS = [*TASK, *METHOD, "role", "metric", "fallback", "estimator", "mean", "floor", "floor_by", "ceiling", "ceiling_by",
           "gap_closed", "gap_low", "gap_high", "n_perturbations"]  # fmt: skip


@dataclass
class _Unit:
    """One fold (of one seed): perturbations x methods, and perturbations x estimators."""

    values: NDArray[np.float64]
    ceilings: NDArray[np.float64]


def gap_table(
    scores: pd.DataFrame, rows: pd.DataFrame | Rows, ceilings: pd.DataFrame | None = None, *, resampled: pd.DataFrame | None = None,
    metrics: Sequence[str] | None = None, fallback: str = "filled", probes: Sequence[str] | None = None, draws: int = DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """Put every method on the floor-to-ceiling scale, for every metric and every estimator of the ceiling.

    Gap closed is (floor - score) / (floor - ceiling), never clipped; the floor is the better baseline of the task, all three are means
    over folds of means over perturbations. The interval is the percentile bootstrap over perturbations, resampled within
    folds, the same perturbations for floor, score and ceiling (Efron and Tibshirani 1993, ch. 13). It says what another sample of
    perturbations from the same experiment would give; folds and training sets stay as they are.

    Parameters
    ----------
    scores, rows, ceilings, resampled
        ``scores.parquet``, ``perturbations.parquet`` (the table, or :class:`~panmodal.insight.rows.Rows` that are read a task at a
        time), ``ceilings.parquet`` and ``resampled.parquet`` of a results folder. Metrics of
        genes take their means from the first and their bootstrap samples from the last; without it, and for ``common``, they
        have no interval.
    metrics
        All unless given.
    fallback
        ``filled`` or ``common`` (ids that all embeddings cover, whatever their probe).
    probes
        Keep only these probes (baselines always stay).
    draws
        Bootstrap draws.

    Returns
    -------
    pandas.DataFrame
        One row for each task, method, metric and estimator; ``estimator`` ``idealised`` is the best oracle. ``gap_low`` and
        ``gap_high`` bound the 95 % interval; NaN where in more than 5 % of the draws the ceiling is not better than the floor.
        ``n_perturbations`` counts those that are averaged; 0 where only scores of folds are known, which then have no interval.
    """
    if fallback not in ("filled", "common"):
        raise InputError(f"no fallback {fallback!r}; use filled or common.")
    source = as_rows(rows)
    tables = []
    for task, every in scores.groupby(TASK, sort=False, observed=True):
        trials = every[[*TASK, *METHOD, "role", "fold", "seed", "trial"]].drop_duplicates()
        wanted = [m for m in metrics or METRICS if m in source.metrics]
        own = source.of(task, trials["trial"].tolist(), wanted)
        if fallback == "common":
            own = own[mark_common(own, trials.drop_duplicates("trial")).to_numpy()]
        if probes:
            trials = trials[trials["probe"].isin(probes) | (trials["role"] == "baseline")]
            own = own[own["trial"].isin(trials["trial"]).to_numpy()]
        bounds = None
        if ceilings is not None:
            bounds = ceilings[(ceilings[TASK] == list(task)).all(axis=1)]
        of_task = every[every["trial"].isin(trials["trial"])]
        there = set(of_task["metric"])
        known = {
            m for m in METRICS if m in there or (task[2] in METRICS[m].kinds and m in own and own[m].notna().any())
        }
        methods = trials[[*METHOD, "role"]].drop_duplicates().reset_index(drop=True)
        for metric in (m for m in metrics or METRICS if m in known):
            # Of imported results only the scores of folds are known.
            if METRICS[metric].axis == "gene" or metric not in own or not own[metric].notna().any():
                samples = resampled if fallback == "filled" else None
                folds = own.merge(trials[["trial", "fold", "seed"]].drop_duplicates("trial"), on="trial")
                n_test = len(folds[["fold", "seed", "pert_id"]].drop_duplicates())
                evidence = _of_genes(of_task, methods, bounds, samples, metric, fallback, n_test)
            else:
                evidence = _of_perturbations(task, trials, own, methods, bounds, metric, draws)
            tables.append(_one(task, methods, evidence, metric).assign(metric=metric, fallback=fallback))
    if not tables:
        known = {m for m in METRICS if m in source.metrics} | set(scores["metric"])
        raise InputError(f"no values of metric {', '.join(metrics or [])}; there are {', '.join(sorted(known))}.")
    return pd.concat(tables, ignore_index=True)[COLUMNS]


@dataclass
class _Evidence:
    """Means over folds of one metric on one task, and the same in bootstrap samples.

    ``means`` (methods) and ``limits`` (estimators) come with ``mean_draws`` and ``limit_draws`` (draws x them).
    """

    means: NDArray[np.float64]
    limits: NDArray[np.float64]
    mean_draws: NDArray[np.float64]
    limit_draws: NDArray[np.float64]
    estimators: list[str]
    n_perturbations: int


def _of_perturbations(task: tuple[str, ...], trials: pd.DataFrame, rows: pd.DataFrame, methods: pd.DataFrame,
                      bounds: pd.DataFrame | None, metric: str, draws: int) -> _Evidence:  # fmt: skip
    """Resample the values of perturbations within folds."""
    number = methods.reset_index(names="method")
    estimators = list(dict.fromkeys(bounds["estimator"])) if bounds is not None and metric in bounds else []
    units = []
    own = rows[["trial", "pert_id", metric]]
    no_skill = METRICS[metric].no_skill
    if no_skill is not None:
        own = own.assign(**{metric: own[metric].fillna(no_skill)})
    labels = trials.merge(number, on=[*METHOD, "role"])
    for (fold, seed), (names, wide) in matrices(own, labels, metric, len(methods)).items():
        limits = np.full((len(wide), len(estimators)), np.nan)
        if bounds is not None and estimators:
            of_fold = bounds[(bounds["fold"] == fold) & (bounds["seed"] == seed)]
            of_fold = of_fold.pivot_table(
                index="pert_id", columns="estimator", values=metric, dropna=False, aggfunc="first"
            )
            limits = of_fold.reindex(index=names, columns=estimators).to_numpy(np.float64)
        units.append(_Unit(wide, limits))
    entropy = int.from_bytes(hashlib.sha256("\x00".join([*map(str, task), metric]).encode()).digest()[:8], "big")
    means, limits = _means(units, None)
    rng = np.random.default_rng(entropy)
    weights = [
        rng.multinomial(len(u.values), np.full(len(u.values), 1 / len(u.values)), size=draws).astype(float)
        for u in units
    ]
    return _Evidence(means[0], limits[0], *_means(units, weights), estimators, sum(len(u.values) for u in units))


def _of_genes(scores: pd.DataFrame, methods: pd.DataFrame, bounds: pd.DataFrame | None, resampled: pd.DataFrame | None, metric: str,
              fallback: str, n_test: int) -> _Evidence:  # fmt: skip
    """Take the scores of folds and their bootstrap samples as they were stored."""
    own = scores[(scores["metric"] == metric) & (scores["fallback"] == fallback)]
    folds = list(
        own[["fold", "seed"]].drop_duplicates().sort_values(["fold", "seed"]).itertuples(index=False, name=None)
    )
    estimators: list[str] = []
    if bounds is not None and metric in bounds:
        bounds = bounds[(bounds["pert_id"] == "") & bounds[metric].notna()]
        estimators = list(dict.fromkeys(bounds["estimator"]))
    place = {(e, p, r): k for k, (e, p, r) in enumerate(methods.itertuples(index=False, name=None))}
    at = {fold: k for k, fold in enumerate(folds)}
    values = np.full((len(folds), len(methods)), np.nan)
    limits = np.full((len(folds), len(estimators)), np.nan)
    for row in own.itertuples():
        values[at[row.fold, row.seed], place[row.embedding, row.probe, row.role]] = row.value
    if bounds is not None:
        for fold, seed, name, value in bounds[["fold", "seed", "estimator", metric]].itertuples(index=False, name=None):
            if (fold, seed) in at and name in estimators:
                limits[at[fold, seed], estimators.index(name)] = value
    samples = None if resampled is None else resampled[resampled["metric"] == metric]
    width = 1 if samples is None or samples.empty else len(samples.iloc[0]["draws"])
    value_draws = np.full((len(folds), width, len(methods)), np.nan)
    limit_draws = np.full((len(folds), width, len(estimators)), np.nan)
    if samples is not None:
        drawn = {
            (t, f, s): d
            for t, f, s, d in samples[["trial", "fold", "seed", "draws"]].itertuples(index=False, name=None)
        }
        for row in own.itertuples():
            if (row.trial, row.fold, row.seed) in drawn:
                value_draws[at[row.fold, row.seed], :, place[row.embedding, row.probe, row.role]] = drawn[
                    row.trial, row.fold, row.seed
                ]
        of_task = samples[(samples["trial"] == "") & (samples[TASK] == scores.iloc[0][TASK]).all(axis=1)]
        for fold, seed, name, found in of_task[["fold", "seed", "estimator", "draws"]].itertuples(
            index=False, name=None
        ):
            if (fold, seed) in at and name in estimators:
                limit_draws[at[fold, seed], :, estimators.index(name)] = found
    return _Evidence(
        defined_mean(values),
        defined_mean(limits),
        defined_mean(value_draws),
        defined_mean(limit_draws),
        estimators,
        n_test,
    )


def _one(task: tuple[str, ...], methods: pd.DataFrame, evidence: _Evidence, metric: str) -> pd.DataFrame:
    means, limits, mean_draws, limit_draws = evidence.means, evidence.limits, evidence.mean_draws, evidence.limit_draws
    higher, draws = METRICS[metric].higher_is_better, len(evidence.mean_draws)
    floor = _best(methods["role"] == "baseline", means, higher)
    oracle = _best(methods["role"] == "oracle", means, higher)
    tables = []
    choices = [(e, limits[k], limit_draws[:, k], e) for k, e in enumerate(evidence.estimators)]
    if oracle is not None:
        by = f"{methods['embedding'][oracle]}, {methods['probe'][oracle]}"
        choices.append((ORACLE, means[oracle], mean_draws[:, oracle], by))
    for name, ceiling, ceiling_draws, by in choices or [(ORACLE, np.nan, np.full(draws, np.nan), "")]:
        base = means[floor] if floor is not None else np.nan
        base_draws = mean_draws[:, floor] if floor is not None else np.full(draws, np.nan)
        gap = gap_closed(means, base, ceiling, higher)
        low, high = _interval(gap_closed(mean_draws, base_draws[:, None], ceiling_draws[:, None], higher))
        tables.append(methods.assign(
            **dict(zip(TASK, task, strict=True)), estimator=name, mean=means, floor=base, ceiling=ceiling, ceiling_by=by,
            floor_by=methods["probe"][floor] if floor is not None else "", gap_closed=gap, gap_low=low, gap_high=high,
            n_perturbations=evidence.n_perturbations,
        ))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _best(wanted: pd.Series, means: NDArray[np.float64], higher: bool) -> int | None:
    candidates = np.flatnonzero(wanted.to_numpy() & np.isfinite(means))
    if not len(candidates):
        return None
    return int(candidates[np.argmax(means[candidates]) if higher else np.argmin(means[candidates])])


def _means(
    units: list[_Unit], weights: list[NDArray[np.float64]] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over folds of (weighted) means over perturbations where defined: draws x methods and draws x estimators."""
    parts: tuple[list[Any], list[Any]] = ([], [])
    for k, unit in enumerate(units):
        w = np.ones((1, len(unit.values))) if weights is None else weights[k]
        for side, table in enumerate((unit.values, unit.ceilings)):
            defined = np.isfinite(table)
            if defined.all():  # counts of draws are whole numbers, so that this is the same to the last bit
                parts[side].append((w @ table) / w.sum(axis=1, keepdims=True))
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                parts[side].append((w @ np.where(defined, table, 0.0)) / (w @ defined))
    return defined_mean(np.stack(parts[0])), defined_mean(np.stack(parts[1]))


def gap_closed(score: Any, floor: Any, ceiling: Any, higher_is_better: bool) -> Any:
    """Share of the way from floor to ceiling: (floor - score) / (floor - ceiling), never clipped.

    Arrays or series that fit each other. The sign of numerator and denominator flips together for metrics where higher is better.
    Undefined (NaN) where floor or ceiling is, and where the ceiling is not better than the floor.
    """
    sign = -1.0 if higher_is_better else 1.0
    span = sign * (floor - ceiling)
    return sign * (floor - score) / np.where(span > 0, span, np.nan)


def _interval(gaps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of each column; NaN where more than 5 % of the draws are undefined."""
    out = np.full((2, gaps.shape[1]), np.nan)
    enough = np.isfinite(gaps).mean(axis=0) >= LEVEL
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    whole = np.isfinite(gaps).all(axis=0)
    if whole.any():
        out[:, whole] = np.quantile(gaps[:, whole], tails, axis=0)
    for k in np.flatnonzero(enough & ~whole):
        own = gaps[np.isfinite(gaps[:, k]), k]
        out[:, k] = np.quantile(own, tails)
    return out[0], out[1]

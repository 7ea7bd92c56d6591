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
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import mark_common

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
    scores: pd.DataFrame, rows: pd.DataFrame, ceilings: pd.DataFrame | None = None, *, metrics: Sequence[str] | None = None,
    fallback: str = "filled", probes: Sequence[str] | None = None, draws: int = DRAWS,
) -> pd.DataFrame:  # fmt: skip
    """Put every method on the floor-to-ceiling scale, for every metric and every estimator of the ceiling.

    Gap closed is (floor - score) / (floor - ceiling), never clipped; the floor is the better baseline of the task, all three are means
    over folds of means over perturbations. The interval is the percentile bootstrap over perturbations, resampled within
    folds, the same perturbations for floor, score and ceiling (Efron and Tibshirani 1993, ch. 13). It says what another sample of
    perturbations from the same experiment would give; folds and training sets stay as they are.

    Parameters
    ----------
    scores, rows, ceilings
        ``scores.parquet``, ``perturbations.parquet`` and ``ceilings.parquet`` of a results folder.
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
        ``n_perturbations`` counts those that are averaged.
    """
    if fallback not in ("filled", "common"):
        raise InputError(f"no fallback {fallback!r}; use filled or common.")
    labels = scores[[*TASK, *METHOD, "role", "fold", "seed", "trial"]].drop_duplicates()
    tables = []
    for task, trials in labels.groupby(TASK, sort=False):
        own = rows[rows["trial"].isin(trials["trial"])]
        if fallback == "common":
            own = own[mark_common(own, trials.drop_duplicates("trial")).to_numpy()]
        if probes:
            trials = trials[trials["probe"].isin(probes) | (trials["role"] == "baseline")]
            own = own[own["trial"].isin(trials["trial"])]
        bounds = None
        if ceilings is not None:
            bounds = ceilings[(ceilings[TASK] == list(task)).all(axis=1)]
        for metric in metrics or [m for m in METRICS if m in rows]:
            if metric in own:
                tables.append(_one(task, trials, own, bounds, metric, draws).assign(metric=metric, fallback=fallback))
    if not tables:
        raise InputError(
            f"no values of metric {', '.join(metrics or [])}; there are {', '.join(m for m in METRICS if m in rows)}."
        )
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def _one(task: tuple[str, ...], trials: pd.DataFrame, rows: pd.DataFrame, bounds: pd.DataFrame | None, metric: str, draws: int
         ) -> pd.DataFrame:  # fmt: skip
    methods = trials[[*METHOD, "role"]].drop_duplicates().reset_index(drop=True)
    number = methods.reset_index(names="method")
    estimators = list(dict.fromkeys(bounds["estimator"])) if bounds is not None and metric in bounds else []
    units = []
    own = rows[["trial", "pert_id", metric]].merge(trials.merge(number, on=[*METHOD, "role"]), on="trial")
    no_skill = METRICS[metric].no_skill
    if no_skill is not None:
        own[metric] = own[metric].fillna(no_skill)
    for (fold, seed), part in own.groupby(["fold", "seed"], sort=True):
        wide = part.pivot_table(index="pert_id", columns="method", values=metric, dropna=False, aggfunc="first")
        wide = wide.reindex(columns=range(len(methods)))
        limits = np.full((len(wide), len(estimators)), np.nan)
        if bounds is not None and estimators:
            of_fold = bounds[(bounds["fold"] == fold) & (bounds["seed"] == seed)]
            of_fold = of_fold.pivot_table(
                index="pert_id", columns="estimator", values=metric, dropna=False, aggfunc="first"
            )
            limits = of_fold.reindex(index=wide.index, columns=estimators).to_numpy(np.float64)
        units.append(_Unit(wide.to_numpy(np.float64), limits))
    higher = METRICS[metric].higher_is_better
    entropy = int.from_bytes(hashlib.sha256("\x00".join([*map(str, task), metric]).encode()).digest()[:8], "big")
    means, limits = _means(units, None)
    rng = np.random.default_rng(entropy)
    weights = [
        rng.multinomial(len(u.values), np.full(len(u.values), 1 / len(u.values)), size=draws).astype(float)
        for u in units
    ]
    mean_draws, limit_draws = _means(units, weights)
    floor = _best(methods["role"] == "baseline", means[0], higher)
    oracle = _best(methods["role"] == "oracle", means[0], higher)
    tables = []
    choices = [(e, limits[0, k], limit_draws[:, k], e) for k, e in enumerate(estimators)]
    if oracle is not None:
        by = f"{methods['embedding'][oracle]}, {methods['probe'][oracle]}"
        choices.append((ORACLE, means[0, oracle], mean_draws[:, oracle], by))
    count = sum(len(u.values) for u in units)
    for name, ceiling, ceiling_draws, by in choices or [(ORACLE, np.nan, np.full(draws, np.nan), "")]:
        base = means[0, floor] if floor is not None else np.nan
        base_draws = mean_draws[:, floor] if floor is not None else np.full(draws, np.nan)
        gap = gap_closed(means[0], base, ceiling, higher)
        low, high = _interval(gap_closed(mean_draws, base_draws[:, None], ceiling_draws[:, None], higher))
        tables.append(methods.assign(
            **dict(zip(TASK, task, strict=True)), estimator=name, mean=means[0], floor=base, ceiling=ceiling, ceiling_by=by,
            floor_by=methods["probe"][floor] if floor is not None else "", gap_closed=gap, gap_low=low, gap_high=high,
            n_perturbations=count,
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
            with np.errstate(invalid="ignore", divide="ignore"):
                parts[side].append((w @ np.where(defined, table, 0.0)) / (w @ defined))
    out: list[NDArray[np.float64]] = []
    for part in parts:
        stacked = np.stack(part)
        known = np.isfinite(stacked)
        with np.errstate(invalid="ignore", divide="ignore"):
            out.append(np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0))
    return out[0], out[1]


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
    for k in np.flatnonzero(enough):
        own = gaps[np.isfinite(gaps[:, k]), k]
        out[:, k] = np.quantile(own, tails)
    return out[0], out[1]

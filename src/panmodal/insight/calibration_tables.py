"""How well each metric tells a positive control from a prediction without information, and what cheats earn by it: tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, StoreError
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.evaluation.shortcuts import shortcut_scores
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import LEVEL, METHOD, ORACLE, TASK, gap_closed

REPLICATE, RESAMPLED, SEEN_ANSWERS = "replicate", "resampled cells", "oracle"
POSITIVES = {"interpolated_duplicate": REPLICATE, "disjoint_halves": REPLICATE, "replicate_batches": REPLICATE,
             "experimental_error": RESAMPLED, ORACLE: SEEN_ANSWERS}  # fmt: skip
"""Positive controls, the one to judge by first, and what they are. Only replicates are independent of the truth they predict."""
DRAWS = 500
CHANCE = {"Pearson": 0.0, "Spearman": 0.0, "Pearson_centred": 0.0, "Spearman_centred": 0.0, "cosine": 0.0, "MCC": 0.0, "PDS_L1": 0.5,
          "PDS_L2": 0.5, "PDS_cosine": 0.5, "direction_match": 0.5, "ROC_AUC": 0.5}  # fmt: skip
"""What no skill scores, for metrics whose value is read by itself; the others are read against the floor only."""
COLUMNS = [*TASK, "metric", "positive", "positive_kind", "negative", "negative_kind", "positive_mean", "negative_mean", "drf",
           "drf_low", "drf_high", "drf_median", "p_better", "p_low", "p_high", "n", "unit", "judged"]  # fmt: skip
SHORTCUT_COLUMNS = [*TASK, "metric", "shortcut", "kind", "mean", "positive", "positive_mean", "chance", "floor", "floor_by",
                    "share_of_range", "share_of_gap", "best_embedding", "best_embedding_mean", "beats_embeddings"]  # fmt: skip
FOLD = ["fold", "seed"]
ByMethod = dict[Any, pd.DataFrame] | None
"""Values of perturbations (fold, seed, pert_id x metrics) of each method; None where they are not kept."""


@dataclass
class _Side:
    """Values of a control by one metric: a series over (fold, seed, pert_id), or over (fold, seed, "") for metrics of folds."""

    name: str
    kind: str
    mean: float
    values: pd.Series
    draws: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)


def calibration(
    evidence: Evidence, *, draws: int = DRAWS, seed: int = 0, tasks: Sequence[Task] | None = None
) -> pd.DataFrame:
    """Compare positive with negative controls by every metric of every task.

    With P the mean of the positive control, N of the negative one and B the best possible value (0 for errors, else 1), means over
    folds of means over perturbations, the dynamic range fraction is (P - N) / (B - N): the share of the range above an uninformative
    prediction that a repeated experiment would reach (Miller et al. 2025, doi:10.1101/2025.10.20.683304, who take it for each
    perturbation, clipped to -1 to 1; the median of that is ``drf_median``). ``p_better`` is the probability that the positive beats
    the negative for the same perturbation, ties one half (the bound discrimination score of Vollenweider and Buehlmann 2026,
    doi:10.64898/2026.04.20.719650). Intervals are percentile bootstraps over perturbations within folds, at 95 %.

    Controls made of halves of the cells are brought to the truth of all cells first (see :func:`whole_truth`), because that is
    what the negative controls are scored against.

    Parameters
    ----------
    evidence
        Tables of a results folder. Without values of perturbations, folds take their place and there is no interval.
    draws, seed
        Bootstrap draws, and their seed.
    tasks
        All unless given.

    Returns
    -------
    pandas.DataFrame
        One row for each task, metric, positive control (:data:`POSITIVES`) and negative control (the best baseline; the best of the
        random and permuted embeddings). ``n`` counts ``unit``, perturbations or folds, that are compared. ``judged`` marks the pair
        that decides: the first positive there is against the stronger negative.
    """
    by_task = dict(iter(evidence.trials.groupby(TASK, sort=False)))
    scores = dict(iter(evidence.scores.groupby(TASK, sort=False)))
    bounds = {} if evidence.ceilings is None else dict(iter(evidence.ceilings.groupby(TASK, sort=False)))
    resampled = {} if evidence.resampled is None else dict(iter(evidence.resampled.groupby(TASK, sort=False)))
    records: list[dict[str, Any]] = []
    for task in evidence.tasks if tasks is None else tasks:
        own = scores[task]
        own = own[own["fallback"] == "filled"]
        values: ByMethod = None
        weights = _Weights(task, draws, seed)
        if evidence.rows is not None:
            wanted = by_task[task].query("role != 'embedding'")[[*METHOD, "role", *FOLD, "trial"]]
            rows = evidence.rows[evidence.rows["trial"].isin(wanted["trial"])].merge(wanted, on="trial")
            rows = rows.drop_duplicates([*METHOD, *FOLD, "pert_id"])
            values = {m: part.set_index([*FOLD, "pert_id"]) for m, part in rows.groupby(METHOD, sort=False)}
        there = set(own["metric"])
        for metric in (m.name for m in metrics_for(task[2]) if m.name in there):
            of_metric = own[own["metric"] == metric]
            positives = _positives(of_metric, values, bounds.get(task), resampled.get(task), metric)
            negatives = _negatives(of_metric, values, resampled.get(task), metric)
            pairs = [_pair(p, n, metric, weights) for p in positives for n in negatives]
            pairs = [p for p in pairs if p["n"]]
            if pairs:
                # The first positive, and of its pairs the one with the stronger negative.
                first = [p for p in pairs if p["positive"] == pairs[0]["positive"]]
                strongest = (max if METRICS[metric].higher_is_better else min)(first, key=lambda p: p["negative_mean"])
                records += [
                    {**dict(zip(TASK, task, strict=True)), "metric": metric, **p, "judged": p is strongest}
                    for p in pairs
                ]
    return pd.DataFrame(records, columns=COLUMNS)


class _Weights:
    """How often each of n perturbations of a fold is drawn in each bootstrap sample (draws x n); the same for all metrics."""

    def __init__(self, task: Task, draws: int, seed: int) -> None:
        self.label, self.draws, self.seed = "\x00".join(task), draws, seed
        self.known: dict[Any, NDArray[np.float64]] = {}

    def __call__(self, fold: Any, n: int) -> NDArray[np.float64]:
        if (fold, n) not in self.known:
            content = f"{self.label}\x00{fold}\x00{self.seed}".encode()
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:8], "big"))
            self.known[fold, n] = rng.multinomial(n, np.full(n, 1 / n), size=self.draws).astype(np.float64)
        return self.known[fold, n]


def perfect(metric: str) -> float:
    """Best possible value: 0 for errors, 1 for the rest."""
    return 1.0 if METRICS[metric].higher_is_better else 0.0


def _method(scores: pd.DataFrame, role: str, metric: str) -> tuple[str, str] | None:
    """Embedding and probe of the best method of a role, by its mean over folds."""
    means = scores[scores["role"] == role].groupby(METHOD, sort=False)["value"].mean().dropna()
    if means.empty:
        return None
    return means.idxmax() if METRICS[metric].higher_is_better else means.idxmin()


def _side(scores: pd.DataFrame, values: ByMethod, resampled: pd.DataFrame | None, method: tuple[str, str], name: str,
          kind: str, metric: str) -> _Side:  # fmt: skip
    own = scores[(scores["embedding"] == method[0]) & (scores["probe"] == method[1])]
    mean, rule = float(own["value"].mean()), METRICS[metric]
    if rule.axis == "perturbation" and values is not None and method in values and metric in values[method]:
        series = values[method][metric]
        return _Side(name, kind, mean, series if rule.no_skill is None else series.fillna(rule.no_skill))
    draws = {}
    if resampled is not None:
        drawn = resampled[(resampled["metric"] == metric) & resampled["trial"].isin(own["trial"])]
        draws = {(f, s): np.asarray(d, float) for f, s, d in drawn[[*FOLD, "draws"]].itertuples(index=False, name=None)}
    return _Side(name, kind, mean, own.assign(pert_id="").set_index([*FOLD, "pert_id"])["value"], draws)


def _negatives(scores: pd.DataFrame, values: ByMethod, resampled: pd.DataFrame | None, metric: str) -> list[_Side]:
    """Return the best baseline, and the best embedding without information."""
    found = []
    for role in ("baseline", "control"):
        best = _method(scores, role, metric)
        if best is not None:
            name = best[1] if role == "baseline" else f"{best[0]}, {best[1]}"
            found.append(_side(scores, values, resampled, best, name, role, metric))
    return found


def _positives(scores: pd.DataFrame, values: ByMethod, bounds: pd.DataFrame | None, resampled: pd.DataFrame | None,
               metric: str) -> list[_Side]:  # fmt: skip
    """Return every positive control there is, the one to judge by first."""
    found = {}
    if bounds is not None and metric in bounds:
        axis = METRICS[metric].axis
        whole = whole_truth(bounds, metric)
        defined = bounds.assign(value=whole)[(bounds["pert_id"] == "").eq(axis == "gene") & whole.notna()]
        for name, own in defined.groupby("estimator", sort=False):
            series = own.set_index([*FOLD, "pert_id"])["value"]
            draws = {}
            if axis == "gene" and resampled is not None:
                drawn = resampled[
                    (resampled["trial"] == "") & (resampled["estimator"] == name) & (resampled["metric"] == metric)
                ]
                draws = {
                    (f, s): np.asarray(d, float)
                    for f, s, d in drawn[[*FOLD, "draws"]].itertuples(index=False, name=None)
                }
            found[str(name)] = _Side(str(name), POSITIVES.get(str(name), RESAMPLED), float(series.groupby(FOLD).mean().mean()),
                                     series, draws)  # fmt: skip
    best = _method(scores, "oracle", metric)
    if best is not None:
        found[ORACLE] = _side(scores, values, resampled, best, ORACLE, SEEN_ANSWERS, metric)
    order = {name: k for k, name in enumerate(POSITIVES)}
    return sorted(found.values(), key=lambda side: order.get(side.name, len(order)))


def whole_truth(bounds: pd.DataFrame, metric: str) -> pd.Series:
    """Bring positive controls that are scored against half of the cells to the truth of all cells.

    Let e be the error of a prediction against one half of the cells, and d that of one half against the other. The noise of a half is
    twice that of the whole, so that against an independent measurement with all cells the mean squared error is e^2 - d^2 / 4; ``MSE``
    and ``L2`` follow, ``MAE`` is scaled as ``L2`` is. A correlation with a half of reliability r is divided by sqrt((1 + r) / 2),
    Spearman's correction for attenuation (1904) from the half to the whole. Those that are stepped up by Spearman-Brown already, and
    perturbation discrimination, stay as they are; the latter is then lower than with all cells.

    Parameters
    ----------
    bounds
        ``ceilings.parquet``.
    metric
        Its column.

    Returns
    -------
    pandas.Series
        The values, with the index of ``bounds``.
    """
    rule, out = METRICS[metric], bounds[metric].astype(float).copy()
    key = [*TASK, *FOLD, "pert_id"]
    for name, halves in (("interpolated_duplicate", "disjoint_halves"), ("disjoint_halves", "disjoint_halves"),
                         ("replicate_batches", "replicate_batches")):  # fmt: skip
        own = bounds[(bounds["estimator"] == name).to_numpy() & (bounds["pert_id"] != "").to_numpy()]
        base = bounds[bounds["estimator"] == halves]
        if own.empty or base.empty:
            continue
        needed = list(dict.fromkeys(m for m in (metric, "L2", "MSE") if m in bounds))
        paired = own[key].merge(base[[*key, *needed]].drop_duplicates(key), on=key, how="left").set_index(own.index)
        mine = own[metric].astype(float)
        if metric == "MSE" or metric == "L2" or (metric == "MAE" and "L2" in bounds):
            squared, half = (mine, paired["MSE"] / 4) if metric == "MSE" else (own["L2"] ** 2, paired["L2"] ** 2 / 4)
            left = np.maximum(squared - half, 0.0)
            new = {"MSE": left, "L2": np.sqrt(left)}.get(metric, mine * np.sqrt(left / squared.where(squared > 0)))
        elif metric in ("Spearman", "Spearman_centred") or (rule.reliability and name == "interpolated_duplicate"):
            r = paired[metric]
            # Stored reliabilities are stepped up, R = 2r / (1 + r).
            r = r / (2 - r) if rule.reliability else r
            new = (mine / np.sqrt((1 + r.clip(0, 1)) / 2)).clip(-1, 1)
        else:
            continue
        out.loc[own.index] = new.where(new.notna(), mine)
    return out


def _pair(positive: _Side, negative: _Side, metric: str, weights: _Weights) -> dict[str, Any]:
    """Compare two controls: means, dynamic range fraction, probability that the first is better."""
    both = (
        pd.concat([positive.values.rename("p"), negative.values.rename("n")], axis=1, join="inner")
        .dropna()
        .sort_index()
    )
    best, sign = perfect(metric), 1.0 if METRICS[metric].higher_is_better else -1.0
    folds = METRICS[metric].axis == "gene" or (both.index.get_level_values("pert_id") == "").all()
    difference = sign * (both["p"] - both["n"])
    # Differences within rounding are ties.
    tie = difference.abs() <= 1e-9 * np.maximum(both.abs().max(axis=1), 1e-300)
    both["win"] = np.where(tie, 0.5, difference > 0)
    units = {tuple(map(int, fold)): part.to_numpy() for fold, part in both.groupby(FOLD, sort=True)}
    found = {
        "positive": positive.name, "positive_kind": positive.kind, "negative": negative.name, "negative_kind": negative.kind,
        "n": len(both), "unit": "folds" if folds else "perturbations", "drf_low": np.nan, "drf_high": np.nan, "p_low": np.nan,
        "p_high": np.nan, "drf_median": np.nan,
    }  # fmt: skip
    if not units:
        return found
    means = np.mean([part.mean(axis=0) for part in units.values()], axis=0)
    found |= {
        "positive_mean": means[0],
        "negative_mean": means[1],
        "p_better": means[2],
        "drf": float(_fraction(means[0], means[1], best)),
    }
    if not folds:
        each = _fraction(both["p"].to_numpy(), both["n"].to_numpy(), best)
        if np.isfinite(each).any():
            found["drf_median"] = float(np.nanmedian(np.clip(each, -1, 1)))
        drawn = np.mean([weights(fold, len(u)) @ u / len(u) for fold, u in units.items()], axis=0)
        found["p_low"], found["p_high"] = _interval(drawn[:, 2])
        found["drf_low"], found["drf_high"] = _interval(_fraction(drawn[:, 0], drawn[:, 1], best))
    elif positive.draws and negative.draws and set(positive.draws) == set(negative.draws):
        drawn = np.mean([[positive.draws[k], negative.draws[k]] for k in positive.draws], axis=0)
        found["drf_low"], found["drf_high"] = _interval(_fraction(drawn[0], drawn[1], best))
    return found


def _fraction(positive: Any, negative: Any, best: float) -> Any:
    """(P - N) / (B - N); NaN where the negative is perfect."""
    span = best - negative
    return (positive - negative) / np.where(np.abs(span) > 1e-12, span, np.nan)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval; NaN where more than 5 % of the draws are undefined."""
    defined = values[np.isfinite(values)]
    if len(defined) < LEVEL * len(values):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def shortcut_table(evidence: Evidence, judged: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Score predictors that cheat by every metric, and say what part of the positive control's gain they reach.

    Parameters
    ----------
    evidence
        Tables, and where there is a results folder the responses, on which the shortcuts of
        :data:`panmodal.evaluation.shortcuts.SHORTCUTS` are scored; otherwise the baselines alone are looked at.
    judged
        Rows of :func:`calibration` that are ``judged``: the positive controls.
    seed
        Seed of the random guesses.

    Returns
    -------
    pandas.DataFrame
        One row for each task, metric and shortcut: ``kind`` (``baseline``; ``guess``, made from training responses; ``answer``, with
        the true response of the target), ``mean`` over folds, ``share_of_range`` = (shortcut - chance) / (positive - chance) where
        the metric has a value of chance, ``share_of_gap`` = (shortcut - floor) / (positive - floor), NaN where the positive is not
        better, and whether it beats the best embedding (method of the best mean).
    """
    records: list[dict[str, Any]] = []
    for task in evidence.tasks:
        scores = evidence.of(task)
        scores = scores[scores["fallback"] == "filled"]
        means = scores.groupby(["metric", "role", *METHOD], sort=False)["value"].mean().dropna().reset_index()
        baselines = means[means["role"] == "baseline"].assign(shortcut=lambda t: t["probe"], kind="baseline")
        parts = [
            baselines[["metric", "shortcut", "kind", "value"]],
            _computed(evidence, task, set(means["metric"]), seed),
        ]
        cheats = pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else parts[0]
        positives = judged[(judged[TASK] == list(task)).all(axis=1)].set_index("metric")
        for metric, own in cheats.groupby("metric", sort=False):
            higher, chance = METRICS[metric].higher_is_better, CHANCE.get(metric, np.nan)
            by, top = ("", np.nan)
            if metric in positives.index:
                by, top = positives.at[metric, "positive"], positives.at[metric, "positive_mean"]
            floor, floor_by = _best(means[(means["metric"] == metric) & (means["role"] == "baseline")], higher)
            best, best_by = _best(means[(means["metric"] == metric) & (means["role"] == "embedding")], higher)
            for name, kind, value in own[["shortcut", "kind", "value"]].itertuples(index=False, name=None):
                records.append({
                    **dict(zip(TASK, task, strict=True)), "metric": metric, "shortcut": name, "kind": kind, "mean": value,
                    "positive": by, "positive_mean": top, "chance": chance, "floor": floor, "floor_by": floor_by[1],
                    "share_of_range": float(gap_closed(value, chance, top, higher)) + 0.0,
                    "share_of_gap": float(gap_closed(value, floor, top, higher)) + 0.0,
                    "best_embedding": ", ".join(best_by).strip(", "),
                    "best_embedding_mean": best, "beats_embeddings": bool(value > best if higher else value < best),
                })  # fmt: skip
    return pd.DataFrame(records, columns=SHORTCUT_COLUMNS)


def _best(means: pd.DataFrame, higher: bool) -> tuple[float, tuple[str, str]]:
    if means.empty:
        return np.nan, ("", "")
    row = means.loc[means["value"].idxmax() if higher else means["value"].idxmin()]
    return float(row["value"]), (str(row["embedding"]), str(row["probe"]))


def _computed(evidence: Evidence, task: Task, metrics: set[str], seed: int) -> pd.DataFrame:
    """Score the shortcuts of a task on its responses; nothing where these are not kept."""
    empty = pd.DataFrame(columns=["metric", "shortcut", "kind", "value"])
    if evidence.rows is None:
        return empty
    try:
        truth = evidence.read_truth(task)
    except (StoreError, InputError):
        return empty
    trials = evidence.of(task, evidence.trials).drop_duplicates(FOLD)
    tested = evidence.rows.loc[evidence.rows["trial"].isin(trials["trial"]), ["trial", "pert_id"]].merge(
        trials[["trial", *FOLD]]
    )
    folds = {key: part["pert_id"].tolist() for key, part in tested.groupby(FOLD, sort=True)}
    wanted = [m.name for m in metrics_for(task[2]) if m.name in metrics]
    found = shortcut_scores(task[2], truth.ids, truth.values, truth.readouts, folds, metrics=wanted, seed=seed)
    if found.empty:
        return empty
    found[wanted] = found[wanted].astype(float)
    fill = {m: v for m in wanted if (v := METRICS[m].no_skill) is not None}
    is_row = found["pert_id"] != ""
    found.loc[is_row, list(fill)] = found.loc[is_row, list(fill)].fillna(fill)
    means = (
        found.groupby(["shortcut", "kind", "fold"], sort=False)[wanted]
        .mean()
        .groupby(["shortcut", "kind"], sort=False)
        .mean()
    )
    return means.reset_index().melt(["shortcut", "kind"], var_name="metric", value_name="value").dropna(subset="value")

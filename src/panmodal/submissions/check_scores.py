"""Scores: are they the means of the values of perturbations, and can those values be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.evaluation.compare import CLASS_PRIOR, TRAIN_MEAN
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import FALLBACKS, LABELS, tidy_scores
from panmodal.screens.ceilings import ESTIMATORS
from panmodal.submissions.check_trials import name_of
from panmodal.submissions.content import Content
from panmodal.submissions.findings import Report, first
from panmodal.submissions.schema import CEILINGS, DRAWS, RANGES, ROWS

AGREE = 1e-6
"""Relative to one or to the value, whichever is larger."""
SLACK = 1e-9
KEY = [*LABELS, "fallback", "metric"]
OF_TRIALS = [*LABELS, "trial", "role", "modality", "simulated", "seen", "hyperparameters"]
TASK = ["screen", "context", "response", "split", "fold", "seed"]


def differ(a: Any, b: Any, tolerance: float = AGREE) -> NDArray[np.bool_]:
    """Tell where two arrays of values differ; undefined equals undefined."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lost = np.isnan(a) | np.isnan(b)
    with np.errstate(invalid="ignore"):
        far = np.abs(a - b) > tolerance * np.maximum(1.0, np.abs(b))
    return np.where(lost, np.isnan(a) != np.isnan(b), far)


def outside(values: Any, metric: str) -> NDArray[np.bool_]:
    """Tell which values lie outside the range of a metric; undefined ones do not."""
    low, high = RANGES[metric]
    values = np.asarray(values, dtype=np.float64)
    return (values < low - SLACK) | (values > high + SLACK)


def check_values(content: Content, report: Report) -> None:
    """Check metrics of perturbations: V060 to V062, V066, V067."""
    metrics = [c for c in content.rows if c not in ROWS]
    values = {m: content.rows[m].to_numpy() for m in metrics}
    for name, column in values.items():
        if METRICS[name].axis != "perturbation":
            report.add("V060", f"{name} is a metric of genes", "perturbations.parquet")
        if (bad := outside(column, name)).any():
            row = int(np.flatnonzero(bad)[0])
            report.add(
                "V062",
                f"{name} {column[row]:g} of {content.rows['pert_id'].iloc[row]!r}",
                f"perturbations.parquet, row {row}",
            )
    readouts = {t.responses: t.n_readouts for t in content.manifest.tasks}
    for digest, trial in content.by_digest.items():
        where = name_of(trial)
        known = [m for m in trial.rules if m in METRICS and trial.response in METRICS[m].kinds]
        if len(known) < len(trial.rules) or not known:
            report.add(
                "V060",
                f"{first(sorted(set(trial.rules) - set(known)))} are no metrics of {trial.response[:40]!r}",
                where,
            )
        if old := [m for m in known if trial.rules[m] != METRICS[m].rule]:
            report.add("V061", f"{first(old)} by another version of the formula", where)
        rows = content.rows_of.get(digest)
        if rows is None:
            continue
        own = {m: values[m][rows] for m in values}
        stray = [m for m in own if m not in trial.rules and not np.isnan(own[m]).all()]
        absent = [m for m in known if METRICS[m].axis == "perturbation" and m not in own]
        if stray or absent:
            report.add(
                "V060", f"values of {first(stray or absent)}, which it {'does not have' if stray else 'lacks'}", where
            )
        if "L2" in own and "MSE" in own:
            n = readouts.get(str(trial.depends.get("responses")), 0)
            if differ(own["MSE"] * n, own["L2"] ** 2).any():
                report.add("V066", f"MSE is not the squared L2 over {n} read-outs", where)
        if "L2" in own and "MAE" in own and (own["MAE"] * np.sqrt(readouts.get(str(trial.depends.get("responses")), 0))
                                             > own["L2"] * (1 + AGREE) + SLACK).any():  # fmt: skip
            report.add("V066", "MAE is larger than L2 allows", where)
    _check_fill(content, values, report)


def _check_fill(content: Content, values: Mapping[str, NDArray[np.float64]], report: Report) -> None:
    """Compare ids that are not covered with the baseline that they are filled in with, whose values they must have."""
    covered = content.rows["covered"].to_numpy()
    floors = {(t.depends.get("responses"), t.depends.get("split"), t.fold): t.trial
              for t in content.records if t.role == "baseline" and t.probe in (TRAIN_MEAN, CLASS_PRIOR)}  # fmt: skip
    for digest, trial in content.by_digest.items():
        rows = content.rows_of.get(digest)
        floor = floors.get((trial.depends.get("responses"), trial.depends.get("split"), trial.fold))
        if rows is None or floor is None or floor not in content.rows_of:
            continue
        filled, base = ~covered[rows], content.rows_of[floor]
        if not filled.any() or len(base) != len(rows):
            continue
        for metric in values:
            if metric in trial.rules and differ(values[metric][rows][filled], values[metric][base][filled], 1e-5).any():
                report.add("V067", f"{metric} of an id not covered is not that of the train mean", name_of(trial))
                break


def check_means(content: Content, report: Report) -> None:
    """Compute the tidy table again and compare: V060, V062 to V065."""
    scores = content.scores
    where = "scores.parquet"
    unknown = sorted(set(scores["metric"]) - set(METRICS))
    if unknown:
        report.add("V060", f"no metric {first(unknown)}", where)
    if odd := sorted(set(scores["fallback"]) - set(FALLBACKS)):
        report.add("V064", f"no fallback {first(odd)}", where)
    for metric in set(scores["metric"]) - set(unknown):
        own = scores.loc[scores["metric"] == metric, "value"]
        if (bad := outside(own, metric)).any():
            report.add("V062", f"{metric} {own[bad].iloc[0]:g}", f"{where}, row {own.index[bad][0]}")
    if scores.duplicated(KEY).any():
        report.add("V064", f"row {int(np.flatnonzero(scores.duplicated(KEY))[0])} is there twice", where)
        return
    known = [t for t in content.records if t.trial in content.rows_of]
    if not known:
        return
    trials = pd.DataFrame([{k: getattr(t, k) for k in OF_TRIALS} for t in known]).drop_duplicates(LABELS)
    rules = [(t.trial, m) for t in content.by_digest.values() for m in t.rules if m in METRICS]
    computed = tidy_scores(content.rows[content.rows["trial"].isin(set(trials["trial"]))], trials)
    computed = computed.merge(pd.DataFrame(rules, columns=["trial", "metric"]), on=["trial", "metric"])
    of_genes = scores["metric"].map(lambda m: m in METRICS and METRICS[m].axis == "gene").astype(bool)
    joined = scores[~of_genes].merge(computed, on=KEY, how="outer", suffixes=("", " again"), indicator=True)
    if len(lost := joined[joined["_merge"] != "both"]):
        row = lost.iloc[0]
        what = "missing" if row["_merge"] == "right_only" else "of no trial, or of a metric that it does not have"
        report.add(
            "V064",
            f"{len(lost)} row(s): {row['metric']} of {row['embedding'][:40]}, {row['probe'][:40]}, fold {row['fold']} is {what}",
            where,
        )
    both = joined[joined["_merge"] == "both"]
    _compare(both, report, where)
    _check_gene_scores(content, scores[of_genes], trials, computed, report)


def _compare(both: pd.DataFrame, report: Report, where: str) -> None:
    def told(mask: NDArray[np.bool_], code: str, what: str) -> None:
        for row in both[mask].head(report.limit + 1).itertuples():
            report.add(code, f"{row.metric} ({row.fallback}): {what}", f"{where}: {row.context[:40]}, fold {row.fold}, "
                       f"{row.embedding[:40]}, {row.probe[:40]}")  # fmt: skip

    told(differ(both["value"], both["value again"]), "V063", "is not the mean over perturbations.parquet")
    for column in ("n_test", "n_covered", "n_scored", "n_undefined"):
        told(
            (both[column] != both[f"{column} again"]).to_numpy(),
            "V065",
            f"{column} is not what perturbations.parquet says",
        )
    for column in ("trial", "role", "modality", "simulated", "seen", "hyperparameters"):
        told((both[column] != both[f"{column} again"]).to_numpy(), "V064", f"{column} is not that of the trial")


def _check_gene_scores(
    content: Content, scores: pd.DataFrame, trials: pd.DataFrame, computed: pd.DataFrame, report: Report
) -> None:
    """Metrics of genes cannot be averaged again, but there must be one for each trial, and numbers of genes must agree."""
    where = "scores.parquet"
    rules = [
        (t.trial, m) for t in content.by_digest.values() for m in t.rules if m in METRICS and METRICS[m].axis == "gene"
    ]
    wanted = trials.merge(pd.DataFrame(rules, columns=["trial", "metric"]), on="trial").merge(
        pd.DataFrame({"fallback": FALLBACKS}), how="cross"
    )
    joined = scores.merge(wanted, on=KEY, how="outer", suffixes=("", " again"), indicator=True)
    if len(lost := joined[joined["_merge"] != "both"]):
        row = lost.iloc[0]
        what = "missing" if row["_merge"] == "right_only" else "of no trial, or of a metric that it does not have"
        report.add(
            "V064",
            f"{len(lost)} row(s): {row['metric']} of {row['embedding'][:40]}, fold {row['fold']} is {what}",
            where,
        )
    both = joined[joined["_merge"] == "both"]
    for column in ("trial", "role", "modality", "simulated", "seen", "hyperparameters"):
        if (both[column] != both[f"{column} again"]).any():
            report.add("V064", f"{column} of a metric of genes is not that of the trial", where)
    sizes = {(t.screen, t.context, t.response, t.split): t.n_readouts for t in content.manifest.tasks}
    genes = [sizes.get(key, 0) for key in both[TASK[:4]].itertuples(index=False, name=None)]
    total = both["n_scored"].to_numpy() + both["n_undefined"].to_numpy()
    unknown = (
        (total == 0) & both["value"].isna().to_numpy() & (both["fallback"] == "common").to_numpy()
    )  # predictions not kept
    negative = (both[["n_scored", "n_undefined"]] < 0).any(axis=1).to_numpy()
    if (((total != np.array(genes)) & ~unknown) | negative).any():
        report.add("V065", "genes scored and undefined are not as many as there are read-outs", where)
    if ((both["n_scored"] > 0).to_numpy() != both["value"].notna().to_numpy()).any():
        report.add("V065", "a metric of genes has a value exactly if some gene was scored", where)
    counts = computed.drop_duplicates(LABELS)[[*LABELS, "n_test", "n_covered"]]
    told = both.merge(counts, on=LABELS, suffixes=("", " of rows"))
    if (told["n_test"] != told["n_test of rows"]).any() or (told["n_covered"] != told["n_covered of rows"]).any():
        report.add("V065", "n_test or n_covered is not what perturbations.parquet says", where)
    same = both[both["n_covered"] == both["n_test"]].pivot_table(
        index=[*LABELS, "metric"], columns="fallback", values="value"
    )
    if {"filled", "covered"} <= set(same) and differ(same["filled"], same["covered"]).any():
        report.add("V063", "a metric of genes differs between filled and covered although all ids are covered", where)


def check_limits(content: Content, report: Report) -> None:
    """Check ceilings and bootstrap samples: V062, V068."""
    ceilings, drawn = content.ceilings, content.resampled
    places = {(t.screen, t.context, t.response, t.split, t.fold, t.seed) for t in content.records}
    if len(ceilings):
        where = "ceilings.parquet"
        _check_places(ceilings, places, report, where)
        if odd := sorted(set(ceilings["estimator"]) - set(ESTIMATORS)):
            report.add("V068", f"no ceiling {first(odd)}", where)
        if ceilings.duplicated([*TASK, "estimator", "pert_id"]).any() or (ceilings["n_draws"] < 0).any():
            report.add("V068", "a row is there twice, or of less than no draws", where)
        tests = _tests(content)
        for key, own in ceilings[ceilings["pert_id"] != ""].groupby([*TASK, "estimator"], sort=False):
            if key[:6] in tests and set(own["pert_id"]) != tests[key[:6]]:
                report.add("V068", "ceilings of other ids than the test ids", f"{where}: {key[:6]!s}"[:200])
        for metric in [c for c in ceilings if c not in CEILINGS]:
            if outside(ceilings[metric], metric).any():
                report.add("V062", f"{metric} of a ceiling", where)
    if len(drawn):
        where = "resampled.parquet"
        _check_places(drawn, places, report, where)
        known = {(t.trial, t.screen, t.context, t.response, t.split, t.fold, t.seed) for t in content.records}
        named = set(drawn[["trial", *TASK]].itertuples(index=False, name=None))
        if any(n not in known for n in named if n[0]):
            report.add("V068", "bootstrap samples of an unknown trial", where)
        if ((drawn["trial"] == "") == (drawn["estimator"] == "")).any() or not set(drawn["estimator"]) <= {
            "",
            *ESTIMATORS,
        }:
            report.add("V068", "bootstrap samples are of a trial or of a ceiling", where)
        if odd := [m for m in sorted(set(drawn["metric"])) if m not in METRICS or not METRICS[m].from_counts]:
            report.add("V060", f"bootstrap samples of {first(odd)}", where)
        elif any(outside(drawn.loc[drawn["metric"] == m, [*DRAWS]], m).any() for m in set(drawn["metric"])):
            report.add("V062", "a bootstrap sample", where)
        if drawn.duplicated([*TASK, "trial", "estimator", "metric"]).any():
            report.add("V068", "bootstrap samples that are there twice", where)
        _check_samples(content, drawn, report)


def _check_samples(content: Content, drawn: pd.DataFrame, report: Report) -> None:
    """Bootstrap samples lie around the score that they are of."""
    own = content.scores[content.scores["fallback"] == "filled"].merge(drawn, on=["trial", *TASK, "metric"])
    samples = own[[*DRAWS]].to_numpy()
    with np.errstate(invalid="ignore"):
        apart = (own["value"].to_numpy() - np.nanmean(samples, axis=1, where=True)) if len(own) else np.array([])
    if (np.abs(apart) > 0.5).any():
        report.add("V068", "bootstrap samples lie far from their score", "resampled.parquet")


def _check_places(frame: pd.DataFrame, places: set[Any], report: Report, where: str) -> None:
    if odd := sorted(set(frame[TASK].itertuples(index=False, name=None)) - places):
        report.add("V068", f"no trials of {odd[0]!s}"[:200], where)


def _tests(content: Content) -> dict[Any, set[str]]:
    ids = content.rows["pert_id"].to_numpy()
    out: dict[Any, set[str]] = {}
    for trial in content.records:
        key = (trial.screen, trial.context, trial.response, trial.split, trial.fold, trial.seed)
        if key not in out and trial.trial in content.rows_of:
            out[key] = set(ids[content.rows_of[trial.trial]])
    return out

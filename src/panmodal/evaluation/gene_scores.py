"""Metrics of genes in the results folder: values of each gene, totals under every coverage rule, bootstrap samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._digest import digest_json
from panmodal.errors import StoreError
from panmodal.evaluation.class_metrics import LabelComparison, Total, bootstrap_weights, defined_mean, resample, totals
from panmodal.evaluation.compare import compare
from panmodal.evaluation.metrics import METRICS, Metric
from panmodal.evaluation.scores import FOLD_OF_TASK, mark_common
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions, Trial

TOTALS = ["trial", *FOLD_OF_TASK, "fallback", "metric", "value", "n_scored", "n_undefined"]


def gene_table(comparison: LabelComparison, metrics: Sequence[Metric]) -> pd.DataFrame:
    """One row per gene, one column per metric (NaN where undefined; the mean over classes of metrics given for each)."""
    return pd.DataFrame({m.name: defined_mean(np.atleast_2d(m.function(comparison))) for m in metrics})


def store_gene_scores(
    store: Store, digest: str, result: Predictions, comparison: LabelComparison, metrics: Sequence[Metric]
) -> None:
    """Compute the metrics of genes of a trial and store them: of all test ids, of the covered ones, and resampled."""
    found = {"filled": totals(comparison, metrics)}
    found["covered"] = found["filled"] if result.covered.all() else totals(comparison.part(result.covered), metrics)
    counted = [m for m in metrics if m.from_counts]
    draws = resample(comparison.true, comparison.labels, bootstrap_weights(result.pert_ids), counted) if counted else {}
    about = {
        "rules": {m.name: m.rule for m in metrics},
        "totals": {rule: {name: asdict(total) for name, total in own.items()} for rule, own in found.items()},
        "draws": {name: values.tolist() for name, values in draws.items()},
    }
    store.write_genes(digest, gene_table(comparison, metrics), about)


def compile_totals(store: Store, trials: pd.DataFrame, rows: pd.DataFrame, about: Mapping[str, dict[str, Any]],
                   responses: Mapping[str, Trial]) -> pd.DataFrame:  # fmt: skip
    """Gather the totals of every trial and place (task and fold) under every coverage rule.

    The ids in common depend on the embeddings of a task; where they are neither all test ids nor the covered ones, the metrics are
    computed from the stored predictions, once for each set of ids.

    Parameters
    ----------
    trials, rows
        As in :func:`panmodal.evaluation.scores.tidy_scores`.
    about
        Stored records of the trials with metrics of genes, by digest.
    responses
        Trials by digest.

    Returns
    -------
    pandas.DataFrame
        :data:`TOTALS`; values are NaN where predictions would be needed and were not kept.
    """
    places = trials.loc[trials["trial"].isin(about), ["trial", *FOLD_OF_TASK]].drop_duplicates().reset_index(drop=True)
    if places.empty:
        return pd.DataFrame(columns=TOTALS)
    places["place"] = np.arange(len(places))
    keyed = trials.merge(places, on=["trial", *FOLD_OF_TASK])
    own = rows[["trial", "pert_id", "covered"]].merge(places[["trial", "place"]], on="trial")
    own["common"] = mark_common(own, keyed, "place").to_numpy()
    of_place = dict(iter(own.groupby("place", sort=False)))
    records = []
    for place in places.itertuples():
        part, record = of_place[place.place], about[place.trial]
        common = part["common"].to_numpy()
        if common.all():
            shared = record["totals"]["filled"]
        elif (common == part["covered"].to_numpy()).all():
            shared = record["totals"]["covered"]
        else:
            shared = _common(store, responses[place.trial], part["pert_id"].to_numpy(), common, record["rules"])
        labels = {name: getattr(place, name) for name in ("trial", *FOLD_OF_TASK)}
        for rule, found in (*record["totals"].items(), ("common", shared)):
            records += [{**labels, "fallback": rule, "metric": metric, **total} for metric, total in found.items()]
    return pd.DataFrame(records, columns=TOTALS)


def _common(
    store: Store, trial: Trial, ids: NDArray[Any], common: NDArray[np.bool_], rules: dict[str, int]
) -> dict[str, Any]:
    """Totals over the ids in common, from the predictions; remembered beside the trial's values."""
    key = digest_json({"ids": sorted(ids[common].tolist()), "rules": rules})
    known = store.read_common(trial.digest)
    if known.get("key") == key:
        return dict(known["totals"])
    metrics = [METRICS[m] for m in rules if m in METRICS]
    try:
        found = store.read_trial(trial.digest)
    except StoreError:
        found = None
    if found is None or found.values is None:
        return {m.name: asdict(Total(float("nan"), 0, 0)) for m in metrics}
    comparison = trial_comparison(store, trial, found)
    where = dict(zip(ids.tolist(), common.tolist(), strict=True))
    mask = np.array([where[i] for i in found.pert_ids])
    made = {name: asdict(total) for name, total in totals(comparison.part(mask), metrics).items()}
    store.write_common(trial.digest, {"key": key, "totals": made})
    return made


def trial_comparison(store: Store, trial: Trial, found: Predictions) -> Any:
    """Set a trial's stored predictions beside the stored truth."""
    assert found.values is not None
    ids, values, _ = store.read_responses(trial.depends["responses"])
    where = {i: k for k, i in enumerate(ids)}
    return compare(trial.response, found.values, values[[where[i] for i in found.pert_ids]], found.train_mean)


def compile_resampled(trials: pd.DataFrame, about: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """Gather the bootstrap samples of the trials: one row per trial, place and metric, ``draws`` a list."""
    places = trials[["trial", *FOLD_OF_TASK, "seed"]].drop_duplicates()
    records = [
        {
            **{k: getattr(place, k) for k in ("trial", *FOLD_OF_TASK, "seed")},
            "estimator": "",
            "metric": metric,
            "draws": draws,
        }
        for place in places[places["trial"].isin(about)].itertuples()
        for metric, draws in about[place.trial]["draws"].items()
    ]
    return pd.DataFrame(records, columns=["trial", *FOLD_OF_TASK, "seed", "estimator", "metric", "draws"])

"""From values per perturbation to the tidy score table: what is averaged over which ids."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.evaluation.metrics import METRICS

FALLBACKS = ("filled", "covered", "common")
"""Which test ids a score averages over: all with the train mean filled in for the uncovered; the covered; those covered by
every embedding of the task."""

LABELS = ["screen", "context", "response", "split", "fold", "embedding", "probe", "seed"]
COLUMNS = [
    *LABELS, "fallback", "metric", "value", "n_test", "n_covered", "hyperparameters", "trial",
    "role", "modality", "simulated", "seen", "n_scored", "n_undefined",
]  # fmt: skip
FOLD_OF_TASK = ["screen", "context", "response", "split", "fold"]


def mark_common(rows: pd.DataFrame, trials: pd.DataFrame, key: str = "trial") -> pd.Series:
    """Tell for each row (trial, pert_id) whether every embedding of its task and fold covers that id.

    ``key`` is the column that joins rows to trials; a value of it belongs to one task and fold.
    """
    ranked = trials.loc[trials["role"] == "embedding", [key, *FOLD_OF_TASK]].drop_duplicates()
    covered = rows[[key, "pert_id", "covered"]].merge(ranked, on=key)
    everywhere = (
        covered.groupby([*FOLD_OF_TASK, "pert_id"], sort=False, observed=True)["covered"]
        .all()
        .rename("common")
        .reset_index()
    )
    keyed = rows[[key, "pert_id"]].merge(trials[[key, *FOLD_OF_TASK]].drop_duplicates(key), on=key, how="left")
    merged = keyed.merge(everywhere, on=[*FOLD_OF_TASK, "pert_id"], how="left")
    # Where no embedding was run (controls only), all ids are common.
    return merged["common"].astype("boolean").fillna(True).astype(bool).set_axis(rows.index)


def tidy_scores(rows: pd.DataFrame, trials: pd.DataFrame, totals: pd.DataFrame | None = None) -> pd.DataFrame:
    """Aggregate values per perturbation to one row per trial, fallback and metric, and add those of metrics of genes.

    Parameters
    ----------
    rows
        Columns ``trial``, ``pert_id``, ``covered`` and one per metric (NaN where undefined).
    trials
        One row per trial: :data:`LABELS`, ``trial``, ``role``, ``modality``, ``simulated``, ``seen``, ``hyperparameters``. Two
        rows may share a trial when the same content goes by two names, in one task or in two.
    totals
        Values of metrics of genes: ``trial``, :data:`FOLD_OF_TASK`, ``fallback``, ``metric``, ``value``, ``n_scored`` and
        ``n_undefined`` (these count genes).

    Returns
    -------
    pandas.DataFrame
        :data:`COLUMNS`; ``value`` is the mean over the ``n_scored`` rows where the metric is defined (or has a no-skill
        value) and null if there is none; ``n_undefined`` counts the undefined ones.
    """
    metrics = [m for m in METRICS if m in rows.columns]
    # A trial that lies in two tasks is averaged in each: the ids in common differ.
    places = trials[["trial", *FOLD_OF_TASK]].drop_duplicates()
    places = places.assign(place=np.arange(len(places)))
    trials = trials.merge(places, on=["trial", *FOLD_OF_TASK])
    rows = rows.merge(places[["trial", "place"]], on="trial")
    masks = {"filled": np.ones(len(rows), dtype=bool), "covered": rows["covered"].to_numpy(dtype=bool),
             "common": mark_common(rows, trials, "place").to_numpy()}  # fmt: skip
    counts = rows.groupby("place", sort=False)["covered"].agg(n_test="size", n_covered="sum").reset_index()
    values = rows[metrics].astype(np.float64)
    undefined = values.isna()
    filled = values.fillna({m: v for m in metrics if (v := METRICS[m].no_skill) is not None})
    pieces = []
    for fallback, mask in masks.items():
        key = rows.loc[mask, "place"]
        index = pd.Index(rows["place"].unique(), name="place")
        mean = filled[mask].groupby(key, sort=False).mean().reindex(index)
        scored = filled[mask].notna().groupby(key, sort=False).sum().reindex(index, fill_value=0)
        unknown = undefined[mask].groupby(key, sort=False).sum().reindex(index, fill_value=0)
        piece = mean.reset_index().melt("place", var_name="metric", value_name="value")
        piece["n_scored"] = scored.reset_index().melt("place")["value"].astype(np.int64)
        piece["n_undefined"] = unknown.reset_index().melt("place")["value"].astype(np.int64)
        pieces.append(piece.assign(fallback=fallback))
    if totals is not None and len(totals):
        pieces.append(totals.merge(places, on=["trial", *FOLD_OF_TASK])[list(pieces[0].columns)])
    table = trials.merge(pd.concat(pieces), on="place").merge(counts, on="place")
    table = table.astype({"n_test": np.int64, "n_covered": np.int64, "fold": np.int64, "seed": np.int64})
    order = {name: k for k, name in enumerate(METRICS)}
    table = table.assign(
        _m=table["metric"].map(order), _f=table["fallback"].map({f: k for k, f in enumerate(FALLBACKS)})
    )
    table = table.sort_values([*LABELS, "_f", "_m"], kind="stable")
    return table[COLUMNS].reset_index(drop=True)

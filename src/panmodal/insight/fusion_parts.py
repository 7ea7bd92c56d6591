"""Which trials are fusions, what their fits learned of their modalities, and perturbations that some modalities lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.evaluation.metrics import metrics_for
from panmodal.insight.boards import PERTURBATIONS, Board, read_boards, task_columns
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import METHOD, TASK

FUSION = "fusion"
"""Modality of fusions in the score table (published tables write it with a capital)."""
NONE = (
    "no fusion was run on these results; give the same `panmodal run` again with --fusion kernels, or with another that "
    "`panmodal list fusions` names."
)
ALPHA = 0.05
FITS = [*TASK, "simulated", *METHOD, "seed", "fold", "what", "modality", "value", "share"]
WEIGHTS = [*TASK, "simulated", *METHOD, "what", "modality", "share", "share_sd", "share_low", "share_high", "value", "value_sd",
           "n_fits"]  # fmt: skip
MISSING = [*TASK, "simulated", *METHOD, "metric", "group", "n_modalities", "lacks", "n_perturbations", "value", "single",
           "single_probe", "single_value", "floor_value", "gain", "gain_low", "gain_high", "gain_over_floor"]  # fmt: skip


def fused(scores: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of a table with ``role`` and ``modality`` are of fusions that are ranked."""
    modality = scores["modality"].astype("string").fillna("").str.lower()
    return np.asarray((scores["role"] == "embedding") & (modality == FUSION), dtype=bool)


def with_fusions(evidence: Evidence) -> Evidence:
    """Keep the tasks that have fusions."""
    is_fused = fused(evidence.scores)
    if not is_fused.any():
        raise InputError(NONE)
    tasks = evidence.scores.loc[is_fused, TASK].drop_duplicates()
    kept = evidence.scores.merge(tasks, on=TASK)
    return evidence if len(kept) == len(evidence.scores) else replace(evidence, scores=kept, rows=evidence.source)


def best_of(board: Board, candidates: NDArray[np.intp]) -> int | None:
    """Best of some columns, among those with a score in as many folds as any has."""
    if not len(candidates):
        return None
    folds = np.isfinite(board.fold_scores[:, candidates]).sum(axis=0)
    whole = candidates[folds == folds.max()]
    scores = board.scores[whole]
    return int(whole[np.argmax(scores) if board.higher else np.argmin(scores)])


def members(evidence: Evidence) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return what each fusion (screen, embedding, probe) was made of, as the runs or the fits tell it."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    learned = getattr(evidence, "fusions", None)
    if learned is not None and len(learned):
        own = learned[learned["modality"].astype(str) != ""]
        for key, part in own.groupby(["screen", *METHOD], sort=False, observed=True):
            found[tuple(map(str, key))] = tuple(dict.fromkeys(part["modality"].astype(str)))
    for run in evidence.runs:
        for one in run.get("fusions") or ():
            found[str(run.get("screen", {}).get("name")), str(one["name"]), str(one["method"])] = tuple(
                map(str, one["of"])
            )
    return found


def fusion_fits(evidence: Evidence) -> pd.DataFrame:
    """Sum up what each fit learned of each modality.

    Returns
    -------
    pandas.DataFrame
        :data:`FITS`, a row for each trial of a fusion, ``what`` (``weight``, ``attention``, ``importance``, ...) and modality:
        ``value`` is the sum over parts (kernels, probes, heads), ``share`` that over the sum of all modalities of the fit. Shares
        are NaN for importances and where a value is negative. Empty where fits told nothing.
    """
    learned = getattr(evidence, "fusions", None)
    if learned is None or learned.empty:
        return pd.DataFrame(columns=FITS)
    trials = evidence.trials[fused(evidence.trials)]
    labels = [*TASK, *METHOD, "seed", "fold"]
    own = learned[
        learned["of_context"].isin([""]) | (learned["of_context"] == learned["context"]) | learned["of_context"].isna()
    ]
    own = own[own["modality"].astype(str) != ""].merge(
        trials[[*labels, "simulated"]].drop_duplicates(labels), on=labels
    )
    if own.empty:
        return pd.DataFrame(columns=FITS)
    fits = (
        own.groupby([*labels, "simulated", "what", "modality"], sort=False, observed=True)["value"].sum().reset_index()
    )
    shared = fits["what"] != "importance"
    # A modality of which a fit says nothing has no weight in it.
    wide = fits[shared].pivot_table(
        index=[*labels, "simulated"], columns=["what", "modality"], values="value", sort=False
    )
    pieces = [fits[~shared].assign(share=np.nan)]
    for what in dict.fromkeys(fits.loc[shared, "what"]):
        kept = wide[what].dropna(how="all")
        for _, part in kept.groupby(level=[*TASK, *METHOD], sort=False):
            part = part.dropna(axis=1, how="all").fillna(0.0)
            total = part.sum(axis=1).where((part >= 0).all(axis=1))
            share = part.div(total.where(total > 0), axis=0)
            long = part.reset_index().melt([*labels, "simulated"], var_name="modality", value_name="value")
            long["share"] = share.to_numpy().T.ravel()
            pieces.append(long.assign(what=what))
    table = pd.concat([p for p in pieces if len(p)], ignore_index=True)
    order = {what: k for k, what in enumerate(dict.fromkeys(fits["what"]))}
    table = table.assign(_o=table["what"].map(order)).sort_values("_o", kind="stable")
    return table.reset_index(drop=True)[FITS]


def fusion_weights(evidence: Evidence) -> pd.DataFrame:
    """Summarise over folds and seeds what fits learned of their modalities.

    Returns
    -------
    pandas.DataFrame
        :data:`WEIGHTS`, a row for each task, fusion, ``what`` and modality, largest first: mean, standard deviation and range over
        the ``n_fits`` of the share (weights and attention add up to 1 in a fit) and of the value itself. Importances have no
        share: they are what the error of left-out perturbations grows by without the modality.
    """
    fits = fusion_fits(evidence)
    if fits.empty:
        return pd.DataFrame(columns=WEIGHTS)
    keys = [*TASK, "simulated", *METHOD, "what", "modality"]
    table = fits.groupby(keys, sort=False, observed=True).agg(
        share=("share", "mean"), share_sd=("share", "std"), share_low=("share", "min"), share_high=("share", "max"),
        value=("value", "mean"), value_sd=("value", "std"), n_fits=("value", "count"),
    ).reset_index()  # fmt: skip
    parts = [own.sort_values(["share", "value"], ascending=False, kind="stable")
             for _, own in table.groupby(keys[:-1], sort=False, observed=True)]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[WEIGHTS]


def missing_modalities(evidence: Evidence) -> pd.DataFrame:
    """Split the test perturbations by how many and which of the fused embeddings have a vector for them.

    Returns
    -------
    pandas.DataFrame
        :data:`MISSING`: for each task and fusion a row for each number of modalities (``n_modalities``), and for each modality
        that some perturbations lack (``lacks``), over these perturbations: the metric of the fusion, of the best single
        embedding, and of the floor; ``gain`` over the single one with a 95 % interval (Student's t over perturbations, each row
        by itself); ``gain_over_floor``. The primary metric, or the first with values of perturbations. Empty where every
        perturbation has all modalities, or members are not among the embeddings of the results.
    """
    own = with_fusions(evidence)
    known, tables = members(own), []
    there = () if own.source is None else own.source.metrics
    read: dict[str, dict[Task, Board]] = {}
    for task in own.tasks:
        scored = set(own.of(task)["metric"]).intersection(there)
        metric = next((m.name for m in metrics_for(task[2]) if m.axis == "perturbation" and m.name in scored), None)
        if metric is None:
            continue
        if metric not in read:
            read[metric] = {b.task: b for b in read_boards(own, metric=metric)}
        board = read[metric].get(task)
        if board is None or board.by != PERTURBATIONS:
            continue
        is_fused = fused(board.methods)
        single = best_of(board, np.flatnonzero(~is_fused))
        if single is None:
            continue
        has = _who_has(own, task, metric)
        for k in np.flatnonzero(is_fused).tolist():
            names = known.get((task[0], *board.keys[k]), ())
            if len(names) > 1 and all(n in has for n in names):
                tables += _by_modalities(board, k, single, names, has)
    return pd.concat(tables, ignore_index=True)[MISSING] if tables else pd.DataFrame(columns=MISSING)


def _who_has(evidence: Evidence, task: Task, metric: str) -> dict[str, set[str]]:
    """Test ids that each embedding has a vector for."""
    values = evidence.per_perturbation(task, metric)
    values = values[values["role"] == "embedding"]
    return {
        name: set(part.loc[part["covered"].astype(bool), "pert_id"])
        for name, part in values.groupby("embedding", observed=True)
    }


def _by_modalities(
    board: Board, k: int, single: int, names: Sequence[str], has: Mapping[str, set[str]]
) -> list[pd.DataFrame]:
    from scipy.stats import t

    sign, m = 1.0 if board.higher else -1.0, len(board.methods)
    ids = np.concatenate([b.ids for b in board.blocks])
    values = np.vstack([b.values[:, [k, single, m]] for b in board.blocks])
    own = np.array([[i in has[n] for n in names] for i in ids], dtype=bool)
    count = own.sum(axis=1)
    if (count == len(names)).all():
        return []
    groups = [(f"{c} of {len(names)}", float(c), "", count == c) for c in sorted(set(count.tolist()), reverse=True)]
    groups += [(f"without {n}", np.nan, n, ~own[:, j]) for j, n in enumerate(names) if not own[:, j].all()]
    row, alone = board.methods.iloc[k], board.methods.iloc[single]
    records = []
    for name, number, lacks, at in groups:
        gain = sign * (values[at, 0] - values[at, 1])
        gain = gain[np.isfinite(gain)]
        reach = t.isf(ALPHA / 2, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        mean = float(gain.mean()) if len(gain) else np.nan
        value, of_single, floor = defined_mean(values[at])
        records.append({
            **task_columns(board.task), "simulated": bool(row["simulated"]), "embedding": row["embedding"], "probe": row["probe"],
            "metric": board.metric, "group": name, "n_modalities": number, "lacks": lacks, "n_perturbations": int(at.sum()),
            "value": value, "single": alone["embedding"], "single_probe": alone["probe"], "single_value": of_single,
            "floor_value": floor, "gain": mean, "gain_low": mean - reach, "gain_high": mean + reach,
            "gain_over_floor": sign * (value - floor),
        })  # fmt: skip
    return [pd.DataFrame(records)]

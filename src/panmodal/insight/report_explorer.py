"""Perturbations and read-outs one by one: which are predicted, by what, and how much better than the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panmodal.errors import StoreError
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.report_figures import best_probes, task_labels, tasks_of
from panmodal.insight.report_specs import numbers

if TYPE_CHECKING:
    from panmodal.insight.evidence import Evidence, Task

TOP = 5
"""Embeddings whose gains stand in the table of perturbations."""
TOP_OF_GENES = 3
MOST_GENES = 2000
RANKED = "rank_score"
MOST_PERTURBATIONS = 5000


def method_name(embedding: str, probe: str) -> str:
    """Name a method."""
    return f"{embedding}, {probe}"


def leaders(rows: pd.DataFrame, top: int) -> list[tuple[str, str]]:
    """Return the best embeddings of a task, each with its best probe."""
    best = best_probes(rows)
    best = best[best["role"] == "embedding"].head(top)
    return list(zip(best["embedding"].astype(str), best["probe"].astype(str), strict=True))


def values_of(evidence: Evidence, task: Task, wanted: str) -> tuple[str, pd.DataFrame] | None:
    """Return the metric of the leaderboard, or the first with values for perturbations of the task, and them; None if none has."""
    if evidence.source is None:
        return None
    for name in dict.fromkeys([wanted, *(m.name for m in metrics_for(task[2]))]):
        if METRICS[name].axis == "perturbation" and name in evidence.source.metrics:
            own = evidence.per_perturbation(task, name)
            if own["value"].notna().any():
                return name, own
    return None


def perturbation_table(
    evidence: Evidence, rows: pd.DataFrame, top: int = TOP
) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Compare methods on each perturbation of a task.

    Parameters
    ----------
    evidence
        The results.
    rows
        Leaderboard rows of the task.
    top
        Embeddings (each with its best probe) that get columns.

    Returns
    -------
    tuple or None
        A table with ``pert_id``, ``effect`` (Euclidean norm of the measured response; of rank scores, which are scaled alike, the
        distance from the mean response; of labels the number of genes that change),
        ``floor`` (value of the floor's method), ``best`` (the embedding and probe with the largest gain, of all that were run),
        ``best_gain``, and for each leader ``gain: METHOD`` (how much better than the floor, positive is better, in units of the
        metric) and ``covered: METHOD``; and what it is about: ``metric``, ``higher_is_better``, ``floor_by``, ``methods``.
        None where the
        values of perturbations are not kept.
    """
    first = rows.iloc[0]
    task: Task = tuple(str(first[c]) for c in TASK)  # type: ignore[assignment]
    found = values_of(evidence, task, str(first["metric"]))
    if found is None:
        return None
    metric, own = found
    own = own[own["role"].isin(["embedding", "baseline"])]
    if own.empty:
        return None
    no_skill = METRICS[metric].no_skill
    if no_skill is not None:
        own = own.assign(value=own["value"].fillna(no_skill))
    grouped = own.groupby(["pert_id", *METHOD], sort=True)
    wide, covered = grouped["value"].mean().unstack(METHOD), grouped["covered"].min().unstack(METHOD)
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    baselines = list(own.loc[own["role"] == "baseline", METHOD].drop_duplicates().itertuples(index=False, name=None))
    floor, floor_by = _floor(wide, baselines, str(first["floor_by"]), sign)
    table = pd.DataFrame({"pert_id": wide.index.astype(str)})
    table["effect"] = _effects(evidence, task, table["pert_id"])
    table["floor"] = floor
    methods = [m for m in wide.columns if m not in set(baselines)]
    gains = sign * (wide[methods].to_numpy(np.float64) - floor[:, None])
    defined = np.isfinite(gains).any(axis=1)
    best = np.zeros(len(gains), dtype=int)
    best[defined] = np.nanargmax(gains[defined], axis=1)
    names = np.array([method_name(*m) for m in methods], dtype=object)
    table["best"] = np.where(defined, names[best] if len(names) else "", "")
    table["best_gain"] = np.where(defined, gains[np.arange(len(gains)), best], np.nan)
    chosen = [m for m in leaders(rows, top) if m in methods]
    for m in chosen:
        table[f"gain: {method_name(*m)}"] = gains[:, methods.index(m)]
        table[f"covered: {method_name(*m)}"] = covered[m].to_numpy().astype(bool)
    about = {"metric": metric, "higher_is_better": METRICS[metric].higher_is_better, "floor_by": floor_by,
             "methods": [method_name(*m) for m in chosen]}  # fmt: skip
    return table, about


def _floor(wide: pd.DataFrame, baselines: list[Any], named: str, sign: float) -> tuple[np.ndarray[Any, Any], str]:
    """Values of the floor's baseline: the one that the leaderboard names, if it is there, else the best in the mean."""
    if not baselines:
        return np.full(len(wide), np.nan), ""
    means = {b: sign * float(wide[b].mean()) for b in baselines}
    fitting = [b for b in baselines if b[1] == named and np.isfinite(means[b])]
    known = [b for b in baselines if np.isfinite(means[b])]
    if not known:
        return np.full(len(wide), np.nan), ""
    chosen = fitting[0] if fitting else max(known, key=lambda b: means[b])
    return wide[chosen].to_numpy(np.float64), str(chosen[1])


def _effects(evidence: Evidence, task: Task, ids: pd.Series) -> np.ndarray[Any, Any]:
    """Size of each measured response; NaN where responses are not kept."""
    try:
        truth = evidence.read_truth(task)
    except StoreError:
        return np.full(len(ids), np.nan)
    values = truth.values
    if has_classes(task[2]):
        size = (values != 0).sum(axis=1).astype(float)
    else:
        size = np.linalg.norm(values - values.mean(axis=0) if task[2] == RANKED else values, axis=1).astype(float)
    at = [truth.row.get(i, -1) for i in ids]
    return np.where(np.array(at) >= 0, size[at], np.nan)


def gene_table(evidence: Evidence, rows: pd.DataFrame, top: int = TOP_OF_GENES, most: int = MOST_GENES
               ) -> tuple[pd.DataFrame, dict[str, Any]] | None:  # fmt: skip
    """Say how well each read-out is predicted over the test perturbations of all folds.

    Returns
    -------
    tuple or None
        A table with ``readout``, ``sd`` (of the measured response over perturbations) and for each leader ``removed: METHOD``, the
        share of the squared error of the train mean that the method removes, 1 - sum (p - y)^2 / sum (m - y)^2, uncovered
        perturbations included (they hold the train mean); the read-outs of largest ``sd``, at most ``most``. None for labels and where
        predictions are not kept.
    """
    first = rows.iloc[0]
    task: Task = tuple(str(first[c]) for c in TASK)  # type: ignore[assignment]
    if has_classes(task[2]):
        return None
    trials = evidence.of(task, evidence.trials)
    try:
        truth = evidence.read_truth(task)
        sd = truth.values.std(axis=0, dtype=np.float64)
        kept = np.sort(np.argsort(-sd, kind="stable")[:most])
        removed = {}
        for embedding, probe in leaders(rows, top):
            own = trials[(trials["embedding"] == embedding) & (trials["probe"] == probe)].drop_duplicates("trial")
            errors, base = np.zeros(len(kept)), np.zeros(len(kept))
            for digest in own["trial"]:
                predicted = evidence.read_predictions(str(digest))
                rows_of = np.array([truth.row[i] for i in predicted.ids])
                true = truth.values[np.ix_(rows_of, kept)].astype(np.float64)
                errors += ((predicted.values[:, kept] - true) ** 2).sum(axis=0)
                base += ((predicted.fallback[kept] - true) ** 2).sum(axis=0)
            removed[method_name(embedding, probe)] = 1 - errors / np.where(base > 0, base, np.nan)
    except StoreError:
        return None
    if not removed:
        return None
    table = pd.DataFrame({"readout": np.asarray(truth.readouts, dtype=object)[kept], "sd": sd[kept]})
    for name, values in removed.items():
        table[f"removed: {name}"] = values
    order = (
        table[f"removed: {next(iter(removed))}"].sort_values(ascending=False, kind="stable", na_position="last").index
    )
    return table.loc[order].reset_index(drop=True), {"methods": list(removed), "n_readouts": len(sd)}


def explorer(evidence: Evidence, board: pd.DataFrame) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Collect the tables of all tasks: as columns for the page, and as they are for downloading."""
    labels = task_labels(board)
    tables: dict[str, pd.DataFrame] = {}
    perturbations, genes = [], []
    for k, rows in enumerate(tasks_of(board), 1):
        first = rows.iloc[0]
        title = labels[tuple(str(first[c]) for c in TASK)] + (" (simulated)" if first["simulated"] else "")
        found = perturbation_table(evidence, rows)
        if found is not None:
            table, about = found
            tables[f"perturbations-{k}"] = table
            perturbations.append({"title": title, "effect": _effect_name(str(first["response"])), **about,
                                  "total": len(table), "columns": _columns(_shown(table), about["methods"])})  # fmt: skip
        found = gene_table(evidence, rows)
        if found is not None:
            table, about = found
            tables[f"readouts-{k}"] = table
            columns = {"id": table["readout"].astype(str).tolist(), "sd": numbers(table["sd"], 4)}
            columns["gains"] = [numbers(table[f"removed: {m}"], 4) for m in about["methods"]]
            genes.append({"title": title, **about, "total": about["n_readouts"], "columns": columns})
    return {"perturbations": perturbations, "readouts": genes}, tables


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Perturbations that the page lists: those of largest effect where there are very many."""
    if len(table) <= MOST_PERTURBATIONS:
        return table
    return table.sort_values("effect", ascending=False, kind="stable").head(MOST_PERTURBATIONS).sort_index()


def _effect_name(response: str) -> str:
    if has_classes(response):
        return "genes that change"
    return (
        "distance from the mean response (Euclidean)"
        if response == RANKED
        else "size of the measured response (Euclidean norm)"
    )


def _columns(table: pd.DataFrame, methods: list[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(table["best"]))
    at = {name: k for k, name in enumerate(names)}
    return {
        "id": table["pert_id"].tolist(), "effect": numbers(table["effect"], 4), "floor": numbers(table["floor"], 4),
        "names": names, "best": [at[b] for b in table["best"]], "bestGain": numbers(table["best_gain"], 4),
        "gains": [numbers(table[f"gain: {m}"], 4) for m in methods],
        "covered": ["".join("1" if c else "0" for c in table[f"covered: {m}"]) for m in methods],
    }  # fmt: skip

"""Which read-outs (measured genes) are predicted: over the test perturbations of all folds, read-out by read-out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from panmodal.errors import InputError
from panmodal.evaluation.compare import has_classes
from panmodal.insight.evidence import Evidence, Task, Truth
from panmodal.insight.gaps import LEVEL
from panmodal.insight.predictability import Panel, labelled

BLOCK = 1024
"""Read-outs worked on at a time."""
BINS = 10
Values = NDArray[np.float64]


def chosen_methods(found: Panel, top: int = 3) -> list[int]:
    """Positions of the methods to look at: the best probe of each of the best embeddings, then the permuted copy of the first.

    ``random`` stands in for the permuted copy where it was not run.
    """
    means = found.mean_over_folds()
    sign = -1.0 if found.higher else 1.0
    ranked = sorted((k for k in found.where("embedding") if np.isfinite(means[k])), key=lambda k: sign * means[k])
    methods = found.methods
    best = {methods["embedding"][k]: k for k in reversed(ranked)}
    chosen = sorted(best.values(), key=lambda k: sign * means[k])[:top]
    if not chosen:
        return []
    probe = methods["probe"][chosen[0]]
    for control in (f"{methods['embedding'][chosen[0]]} (permuted)", "random"):
        twin = [k for k in found.where("control") if (methods["embedding"][k], methods["probe"][k]) == (control, probe)]
        if twin:
            return [*map(int, chosen), int(twin[0])]
    return [int(k) for k in chosen]


def readout_table(evidence: Evidence, task: Task, methods: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Hold predicted against measured values of every read-out, over the test perturbations of all folds and seeds.

    Both are taken as deviations from the mean training response m of their fold: y - m and p - m. (Correlating p and y
    themselves over folds would charge every method with the differences between the training means, which make the train mean
    correlate negatively with what it predicts.) The train mean itself then predicts no deviation: its correlation is undefined
    and its R2 is 0. Labels are -1, 0 and 1, predicted as the probability of +1 minus that of -1, and the class prior takes the
    place of the train mean. Ids that an embedding does not cover are filled in with m.

    Parameters
    ----------
    methods
        (embedding, probe), looked for in all roles.

    Returns
    -------
    pandas.DataFrame
        One row per method and read-out: task, ``embedding``, ``probe``, ``role``, ``readout``, ``n`` (pairs), ``r`` (Pearson;
        undefined where either side does not vary), ``r2`` (1 - sum (p - y)^2 / sum (m - y)^2: share of the train mean's error
        taken away, negative where it is made larger), ``q`` (one-sided test that r > 0, t distribution with n - 2 degrees of
        freedom, Benjamini-Hochberg over read-outs; perturbations are taken as independent), ``variance`` (of the measured
        deviations) and ``r2_no_change`` (r2 of predicting zero). Expression in control cells is not kept in results and not
        given.

    Raises
    ------
    InputError
        A method without trials on this task.
    StoreError
        Predictions or responses were not kept.
    """
    truth = evidence.read_truth(task)
    trials = evidence.of(task, evidence.trials)
    tables = []
    for embedding, probe in methods:
        own = trials[(trials["embedding"] == embedding) & (trials["probe"] == probe)]
        if own.empty:
            raise InputError(f"{' · '.join(task)}: no trials of {embedding} with {probe}.")
        sums = np.zeros((7, truth.values.shape[1]))
        n = 0
        for trial in own["trial"]:
            n += _add(sums, evidence, task, str(trial), truth)
        table = _summarise(sums, n, truth.readouts)
        tables.append(labelled(task, table, embedding=embedding, probe=probe, role=own["role"].iloc[0]))
    return pd.concat(tables, ignore_index=True)


def _add(sums: Values, evidence: Evidence, task: Task, trial: str, truth: Truth) -> int:
    """Add a trial's sums of p, y, p^2, y^2, py, (p - y)^2 (deviations from m) and (y + m)^2 to those of each read-out."""
    found = evidence.read_predictions(trial)
    lost = [i for i in found.ids if i not in truth.row]
    if lost:
        raise InputError(f"{' · '.join(task)}, trial {trial}: no measured response of tested id {lost[0]!r}.")
    rows = [truth.row[i] for i in found.ids]
    t = truth.values.shape[1]
    width = 2 * t if has_classes(task[2]) else t
    if found.values.shape != (len(rows), width) or found.fallback.shape != (width,):
        raise InputError(
            f"{' · '.join(task)}, trial {trial}: predictions {found.values.shape} do not fit {t} read-outs."
        )
    for start in range(0, t, BLOCK):
        block = slice(start, min(start + BLOCK, t))
        predicted, mean = found.values[:, block].astype(np.float64), found.fallback[block].astype(np.float64)
        if width > t:
            raised = slice(block.start + t, block.stop + t)
            predicted, mean = found.values[:, raised] - predicted, found.fallback[raised] - mean
        true = truth.values[rows, block].astype(np.float64)
        p, y = predicted - mean, true - mean
        sums[:, block] += [
            p.sum(0),
            y.sum(0),
            (p * p).sum(0),
            (y * y).sum(0),
            (p * y).sum(0),
            ((p - y) ** 2).sum(0),
            (true**2).sum(0),
        ]
    return len(rows)


def _summarise(sums: Values, n: int, readouts: Sequence[str]) -> pd.DataFrame:
    p, y, pp, yy, py, error, zero = sums
    spread_p, spread_y = pp - p * p / max(n, 1), yy - y * y / max(n, 1)
    # What single precision cannot tell from constant is constant.
    varied = (spread_p > 1e-10 * pp) & (spread_y > 1e-10 * yy)
    r = np.full(len(p), np.nan)
    np.divide(py - p * y / max(n, 1), np.sqrt(np.maximum(spread_p * spread_y, 0.0)), out=r, where=varied)
    r = np.clip(r, -1.0, 1.0)
    r2, none = np.full(len(p), np.nan), np.full(len(p), np.nan)
    np.divide(yy - error, yy, out=r2, where=yy > 0)
    np.divide(yy - zero, yy, out=none, where=yy > 0)
    q = np.full(len(p), np.nan)
    known = np.isfinite(r)
    if n > 2 and known.any():
        t = r[known] * np.sqrt((n - 2) / np.maximum(1 - r[known] ** 2, 1e-12))
        q[known] = stats.false_discovery_control(stats.t.sf(t, n - 2))
    return pd.DataFrame({"readout": list(readouts), "n": n, "r": r, "r2": r2, "q": q, "variance": spread_y / max(n, 1),
                         "r2_no_change": none})  # fmt: skip


def _median(values: pd.Series) -> float:
    """Median of what is defined; NaN where nothing is."""
    known = values.dropna()
    return float(known.median()) if len(known) else np.nan


def readout_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise read-outs by method.

    Returns
    -------
    pandas.DataFrame
        Task, ``embedding``, ``probe``, ``role``, ``n_readouts``, ``n_undefined`` (no correlation), ``median_r``, ``median_r2``,
        ``share_above_mean`` (r2 > 0), ``share_predicted`` (q <= 0.05, of all read-outs) and ``rho_variance`` (Spearman of r and
        the read-out's variance; read-outs go together, so no interval is given).
    """
    from panmodal.insight.pattern_associations import spearman

    records = []
    keys = ["screen", "context", "response", "split", "embedding", "probe", "role"]
    for labels, own in table.groupby(keys, sort=False):
        r, r2 = own["r"], own["r2"]
        rho = spearman(r.to_numpy(), own["variance"].to_numpy(), draws=0)[0]
        records.append((*labels, len(own), int(r.isna().sum()), _median(r), _median(r2), float((r2 > 0).mean()),
                        float((own["q"] <= 1 - LEVEL + 1e-12).mean()), rho))  # fmt: skip
    return pd.DataFrame(records, columns=[*keys, "n_readouts", "n_undefined", "median_r", "median_r2", "share_above_mean",
                                          "share_predicted", "rho_variance"])  # fmt: skip


def readout_bins(table: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Count read-outs by their correlation, for a histogram.

    Returns
    -------
    pandas.DataFrame
        Task, ``embedding``, ``probe``, ``role``, ``low`` and ``high`` (bounds of r), ``n_readouts``, ``share`` (of all
        read-outs). Read-outs without a correlation stand in a row with undefined bounds.
    """
    keys = ["screen", "context", "response", "split", "embedding", "probe", "role"]
    least = table["r"].dropna()
    edges = np.linspace(np.floor(10 * min(least.min(), 0.0)) / 10 if len(least) else 0.0, 1.0, bins + 1)
    parts = []
    for labels, own in table.groupby(keys, sort=False):
        counts = [*np.histogram(own["r"].dropna(), edges)[0], int(own["r"].isna().sum())]
        part = pd.DataFrame({"low": [*edges[:-1], np.nan], "high": [*edges[1:], np.nan], "n_readouts": counts})
        part["share"] = part["n_readouts"] / len(own)
        parts.append(part.assign(**dict(zip(keys, labels, strict=True)))[[*keys, "low", "high", "n_readouts", "share"]])
    return pd.concat(parts, ignore_index=True)


def by_variance(table: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Summarise read-outs in bins of equal number by their variance over perturbations.

    Returns
    -------
    pandas.DataFrame
        Task, ``embedding``, ``probe``, ``role``, ``bin`` (1: least variance), ``n_readouts``, ``variance`` (median),
        ``median_r``, ``median_r2`` and ``share_predicted``.
    """
    keys = ["screen", "context", "response", "split", "embedding", "probe", "role"]
    place = table.groupby(keys, sort=False)["variance"].rank(method="first") - 1
    size = table.groupby(keys, sort=False)["variance"].transform("size")
    own = table.assign(bin=(place * bins // size).astype(int) + 1, predicted=table["q"] <= 1 - LEVEL + 1e-12)
    found = own.groupby([*keys, "bin"], sort=False).agg(
        n_readouts=("readout", "size"), variance=("variance", _median), median_r=("r", _median), median_r2=("r2", _median),
        share_predicted=("predicted", "mean"),
    ).reset_index()  # fmt: skip
    number = found.groupby(keys, sort=False).ngroup()
    return found.assign(_n=number).sort_values(["_n", "bin"], kind="stable").drop(columns="_n").reset_index(drop=True)

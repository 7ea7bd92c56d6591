"""Whether it depends on the probe which embedding is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.fusion_parts import fused
from panmodal.insight.leaderboard import primary_metric
from panmodal.insight.predictability import labelled

LINEAR = ("lasso", "ridge", "logistic", "ridge_classifier")
"""Probes whose scores are linear in the embedding; all others are local or nonlinear."""
DRAWS = 2000
SOURCES = ("embedding", "probe", "interaction", "fold", "residual")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Scores of a task, embeddings x probes x folds (of all seeds), without gaps; better is larger.

    Scores where lower is better are held negative (``sign`` -1). ``left_out`` says which embeddings and probes are not in, and
    why.
    """

    task: Task
    metric: str
    embeddings: tuple[str, ...]
    probes: tuple[str, ...]
    values: Values = field(repr=False)
    sign: float
    left_out: tuple[str, ...] = ()


def grid(evidence: Evidence, task: Task, metric: str | None = None, fallback: str = "filled") -> Grid:
    """Arrange the scores of all embeddings with all probes in all folds.

    A probe that fewer than half of the embeddings were run with is left out first, then embeddings without a score for every
    kept probe and fold; both are named in ``left_out``. Controls are not in it.

    Raises
    ------
    InputError
        Unknown metric or fallback; fewer than two embeddings, probes or folds are complete.
    """
    if fallback not in ("filled", "common"):
        raise InputError(f"no fallback {fallback!r} for patterns; use filled or common.")
    own = evidence.of(task)
    there = set(own["metric"])
    metric = metric or next((m for m in METRICS if m in there), primary_metric(task[2]))
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}.")
    own = own[(own["metric"] == metric) & (own["fallback"] == fallback) & (own["role"] == "embedding") & ~fused(own)]
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    wide = own.assign(value=sign * own["value"]).pivot_table(
        index=["embedding", "probe"], columns=["seed", "fold"], values="value", aggfunc="first", sort=False
    )
    complete = wide.notna().all(axis=1).unstack("probe", fill_value=False)
    left_out = []
    for probe in list(complete):
        if complete[probe].sum() * 2 < len(complete):
            left_out.append(f"probe {probe} ({int(complete[probe].sum())} of {len(complete)} embeddings)")
            complete = complete.drop(columns=probe)
    whole = complete.all(axis=1) if complete.shape[1] else pd.Series(False, index=complete.index)
    left_out += [f"embedding {name} (not with every probe and fold)" for name in complete.index[~whole]]
    embeddings, probes = tuple(complete.index[whole]), tuple(complete)
    if min(len(embeddings), len(probes), wide.shape[1]) < 2:
        raise InputError(
            f"{' · '.join(task)}: {len(embeddings)} embedding(s), {len(probes)} probe(s) and {wide.shape[1]} fold(s) are "
            f"complete by "
            f"{metric}; two of each are needed to tell whether the order depends on the probe."
        )
    index = pd.MultiIndex.from_product([embeddings, probes])
    values = wide.reindex(index).to_numpy(np.float64).reshape(len(embeddings), len(probes), -1)
    return Grid(task, metric, embeddings, probes, values, sign, tuple(left_out))


def decompose(found: Grid) -> pd.DataFrame:
    """Split the variation of the scores over embeddings, probes, their interaction, folds and the rest.

    Two-way analysis of variance with folds as blocks: y_ijk = mean + embedding_i + probe_j + interaction_ij + fold_k +
    residual_ijk (Montgomery, Design and Analysis of Experiments, ch. 5). The design is balanced, so the sums of squares add up
    to the total.

    Returns
    -------
    pandas.DataFrame
        One row for each of :data:`SOURCES`: task, ``metric``, ``source``, ``df``, ``sum_sq``, ``share`` (of the total),
        ``share_of_means`` (of embedding, probe and interaction together; NaN for the others), ``share_without_folds`` (of the
        total without that of folds, which all methods share), ``excess`` (share of the total beyond what the residual explains,
        omega squared, never below 0; NaN for the residual), ``f`` and ``p``. Folds share training data, so that p is a guide
        and no proof.
    """
    y = found.values
    i, j, k = y.shape
    mean = y.mean()
    a, b, c = y.mean(axis=(1, 2)) - mean, y.mean(axis=(0, 2)) - mean, y.mean(axis=(0, 1)) - mean
    cell = y.mean(axis=2) - mean - a[:, None] - b[None, :]
    rest = y - mean - a[:, None, None] - b[None, :, None] - cell[:, :, None] - c[None, None, :]
    sums = np.array([j * k * a @ a, i * k * b @ b, k * (cell**2).sum(), i * j * c @ c, (rest**2).sum()])
    df = np.array([i - 1, j - 1, (i - 1) * (j - 1), k - 1, (i * j - 1) * (k - 1)])
    total, noise = float(sums.sum()), float(sums[-1] / df[-1])
    # Differences within rounding of the scores are none.
    total = total if total > 1e-20 * y.size * max(float((y**2).mean()), np.finfo(float).tiny) else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        share, aside = sums / total, np.where(np.arange(5) == 3, np.nan, sums / (total - sums[3]))
        of_means = np.where(np.arange(5) < 3, sums / sums[:3].sum(), np.nan)
        excess = np.maximum(sums - df * noise, 0.0) / (total + noise)
        f = np.where(np.arange(5) < 4, sums / df / noise, np.nan)
    excess[-1] = np.nan
    p = np.where(np.isfinite(f), stats.f.sf(f, df, df[-1]), np.where(np.isposinf(f), 0.0, np.nan))
    table = pd.DataFrame({
        "source": SOURCES, "df": df, "sum_sq": sums, "share": share, "share_of_means": of_means, "share_without_folds": aside,
        "excess": excess, "f": f, "p": p,
    })  # fmt: skip
    return labelled(found.task, table, metric=found.metric)


def cells(found: Grid) -> pd.DataFrame:
    """Mean score of each embedding with each probe, and what is left when the embedding's and the probe's own effects are taken away.

    Returns
    -------
    pandas.DataFrame
        Task, ``metric``, ``embedding``, ``probe``, ``mean`` (as scored), ``rank`` (among embeddings with that probe, 1 best,
        ties share the lower), ``interaction`` (positive: better with this probe than embedding and probe alone suggest),
        ``standard_error`` (of the interaction, from folds).
    """
    means = found.values.mean(axis=2)
    rows, columns = means.mean(axis=1, keepdims=True), means.mean(axis=0, keepdims=True)
    left = means - rows - columns + means.mean()
    y = found.values
    per_fold = y - y.mean(axis=1, keepdims=True) - y.mean(axis=0, keepdims=True) + y.mean(axis=(0, 1), keepdims=True)
    error = per_fold.std(axis=2, ddof=1) / np.sqrt(y.shape[2])
    ranks = stats.rankdata(-means, axis=0, method="min")
    index = pd.MultiIndex.from_product([found.embeddings, found.probes], names=["embedding", "probe"])
    table = pd.DataFrame({"mean": found.sign * means.ravel(), "rank": ranks.ravel().astype(int), "interaction": left.ravel(),
                          "standard_error": error.ravel()}, index=index).reset_index()  # fmt: skip
    return labelled(found.task, table, metric=found.metric)


def kendall_w(ranked: Values) -> float:
    """Kendall's coefficient of concordance of m raters (rows) over n items, corrected for ties (Kendall and Gibbons 1990, ch. 6).

    W = 12 S / (m^2 (n^3 - n) - m sum_T), S the squared deviations of the items' rank sums and T = t^3 - t for each group of t
    ties. 1: all raters agree; 0: no more than by chance at the most even. NaN where every rater ties everything.
    """
    ranks = stats.rankdata(ranked, axis=1)
    m, n = ranks.shape
    ties = sum(float((t**3 - t).sum()) for row in ranks for t in [np.unique(row, return_counts=True)[1].astype(float)])
    below = m**2 * (n**3 - n) - m * ties
    spread = ((ranks.sum(axis=0) - m * (n + 1) / 2) ** 2).sum()
    return float(12 * spread / below) if below > 0 else np.nan


def agreement(found: Grid, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Ask how far the order of embeddings is the same with every probe.

    Returns
    -------
    pandas.DataFrame
        One row: task, ``metric``, ``n_embeddings``, ``n_probes``, ``n_folds``, ``w`` (Kendall's W of the mean scores, probes as
        raters), ``p`` (share of ``draws`` in which each probe's order is shuffled and W is at least as large; small: the probes
        agree more than by chance), ``mean_rho`` (Spearman correlation of the orders of two probes, the mean over pairs of
        probes: (m W - 1) / (m - 1)), ``rho_folds`` (the same of two halves of the folds with one probe, averaged over probes
        and splits: what noise allows; NaN with fewer than four folds), ``lowest_rho`` and ``lowest_pair`` (the two probes whose
        orders agree least, Spearman), ``crossings`` (pairs of embeddings of which one is better with one probe and the other
        with another, each in all folds), ``n_pairs``, ``leaders`` (the best embedding with each probe).
    """
    y = found.values
    means = y.mean(axis=2)
    w = kendall_w(means.T)
    rng = np.random.default_rng(seed)
    ranks = stats.rankdata(means.T, axis=1)
    # Ties stay what they are when orders are shuffled, so that W grows with the squared rank sums alone.
    shuffled = rng.permuted(np.broadcast_to(ranks, (draws, *ranks.shape)), axis=2).sum(axis=1)
    at_least = int(((shuffled**2).sum(axis=1) >= (ranks.sum(axis=0) ** 2).sum() * (1 - 1e-12)).sum())
    pairs = list(combinations(range(len(found.probes)), 2))
    order = stats.rankdata(means, axis=0)
    rho = np.corrcoef(order.T) if (np.ptp(order, axis=0) > 0).all() else np.full((len(found.probes),) * 2, np.nan)
    known = [(rho[a, b], a, b) for a, b in pairs if np.isfinite(rho[a, b])]
    low = min(known) if known else (np.nan, 0, 0)
    row = {
        "n_embeddings": y.shape[0], "n_probes": y.shape[1], "n_folds": y.shape[2], "w": w,
        "p": (1 + at_least) / (1 + draws) if np.isfinite(w) else np.nan,
        "mean_rho": (y.shape[1] * w - 1) / (y.shape[1] - 1), "rho_folds": _between_folds(y),
        "lowest_rho": float(low[0]), "lowest_pair": " and ".join(found.probes[k] for k in low[1:]) if known else "",
        "crossings": len(crossings(found)), "n_pairs": y.shape[0] * (y.shape[0] - 1) // 2,
        "leaders": ", ".join(f"{found.embeddings[int(means[:, k].argmax())]} ({p})" for k, p in enumerate(found.probes)),
    }  # fmt: skip
    return labelled(found.task, pd.DataFrame([row]), metric=found.metric)


def _between_folds(y: Values) -> float:
    """Mean over probes and splits of the folds into halves of the rank correlation of the two halves' orders (2 W - 1)."""
    k = y.shape[2]
    if k < 4:
        return np.nan
    halves = list(combinations(range(k), k // 2))[:50]
    found = []
    for one in halves:
        other = [f for f in range(k) if f not in one]
        a, b = y[:, :, list(one)].mean(axis=2), y[:, :, other].mean(axis=2)
        found += [2 * kendall_w(np.stack([a[:, p], b[:, p]])) - 1 for p in range(y.shape[1])]
    known = [rho for rho in found if np.isfinite(rho)]
    return float(np.mean(known)) if known else np.nan


def crossings(found: Grid) -> pd.DataFrame:
    """List pairs of embeddings whose order turns with the probe, in every fold.

    Returns
    -------
    pandas.DataFrame
        Task, ``metric``, ``embedding_a`` (better with ``probe_a`` in all folds) and ``embedding_b`` (better with ``probe_b`` in
        all folds), ``difference_a`` and ``difference_b`` (mean over folds of a minus b with either probe, positive: a is
        better).
    """
    y = found.values
    difference = y[:, None] - y[None, :]
    ahead = np.asarray((difference > 0).all(axis=3))
    behind, mean = np.asarray((difference < 0).all(axis=3)), difference.mean(axis=3)
    records = []
    for a, b in combinations(range(y.shape[0]), 2):
        if ahead[a, b].any() and behind[a, b].any():
            one = int(np.argmax(np.where(ahead[a, b], mean[a, b], -np.inf)))
            two = int(np.argmin(np.where(behind[a, b], mean[a, b], np.inf)))
            records.append((found.embeddings[a], found.embeddings[b], found.probes[one], found.probes[two], mean[a, b, one],
                            mean[a, b, two]))  # fmt: skip
    columns = ["embedding_a", "embedding_b", "probe_a", "probe_b", "difference_a", "difference_b"]
    return labelled(found.task, pd.DataFrame(records, columns=columns), metric=found.metric)


def probe_need(found: Grid, linear: Sequence[str] = LINEAR) -> pd.DataFrame:
    """Compare each embedding's best local or nonlinear probe with its best linear one.

    The best of either kind is chosen by the mean over folds of all embeddings' scores, the same for every embedding, so that
    an embedding cannot gain by picking.

    Returns
    -------
    pandas.DataFrame
        One row per embedding, the largest advantage first: task, ``metric``, ``embedding``, ``local_probe``, ``linear_probe``,
        ``advantage`` (local minus linear, positive: local is better; mean over folds), ``sd``, ``folds_local_better``,
        ``n_folds``, ``relative`` (advantage beyond the mean of all embeddings: positive where this one needs it more than
        others) and ``needs`` (``local`` or ``linear`` where that kind is better in all folds, else empty). Empty where the
        probes are all of one kind.
    """
    columns = [
        "embedding",
        "local_probe",
        "linear_probe",
        "advantage",
        "sd",
        "folds_local_better",
        "n_folds",
        "relative",
        "needs",
    ]
    straight = [k for k, p in enumerate(found.probes) if p in linear]
    local = [k for k, p in enumerate(found.probes) if p not in linear]
    if not straight or not local:
        return labelled(found.task, pd.DataFrame(columns=columns), metric=found.metric)
    level = found.values.mean(axis=(0, 2))
    one, two = max(local, key=lambda k: level[k]), max(straight, key=lambda k: level[k])
    gain = found.values[:, one] - found.values[:, two]
    better = (gain > 0).sum(axis=1)
    table = pd.DataFrame({
        "embedding": found.embeddings, "local_probe": found.probes[one], "linear_probe": found.probes[two],
        "advantage": gain.mean(axis=1), "sd": gain.std(axis=1, ddof=1), "folds_local_better": better, "n_folds": gain.shape[1],
        "relative": gain.mean(axis=1) - gain.mean(),
        "needs": np.where((gain > 0).all(axis=1), "local", np.where((gain < 0).all(axis=1), "linear", "")),
    })[columns]  # fmt: skip
    table = table.sort_values(["advantage", "embedding"], ascending=[False, True], kind="stable")
    return labelled(found.task, table, metric=found.metric)


def interactions(evidence: Evidence, tasks: Sequence[Task] | None = None, metric: str | None = None,
                 fallback: str = "filled") -> tuple[list[Grid], list[str]]:  # fmt: skip
    """Return the grids of the tasks that have one, and why the others have none."""
    found, notes = [], []
    for task in evidence.tasks if tasks is None else tasks:
        try:
            found.append(grid(evidence, task, metric, fallback))
        except InputError as error:
            notes.append(str(error))
    return found, notes

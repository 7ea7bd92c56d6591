"""Do metrics tell the same story? Rank correlation between metrics over embeddings, and who leads by which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import bootstrap_weights, defined_mean
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import LEVEL, METHOD, TASK
from panmodal.insight.leaderboard import primary_metric

FEWEST = 4
"""Fewer methods cannot be said to be ranked alike or not."""
PAIRS = [*TASK, "metric_a", "metric_b", "spearman", "spearman_low", "spearman_high", "kendall", "n_methods"]
LEADERS = [*TASK, "metric", "embedding", "probe", "p_first", "primary", "primary_embedding", "primary_probe", "place_by_primary",
           "p_over_primary", "spearman", "spearman_low", "spearman_high", "n_methods", "story"]  # fmt: skip
SAME, OTHER, OPPOSITE = "same leader", "another leader", "opposite ranking"
Draws = NDArray[np.float64]


def _signed(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Means over folds, methods x metrics, signed so that more is better; embeddings only."""
    own = scores[(scores["role"] == "embedding") & (scores["fallback"] == "filled")]
    wide = own.groupby([*METHOD, "metric"], sort=False)["value"].mean().unstack("metric")
    wide = wide[[m.name for m in metrics_for(kind) if m.name in wide]]
    return wide * [1.0 if METRICS[m].higher_is_better else -1.0 for m in wide]


def _draws(evidence: Evidence, task: Task, wide: pd.DataFrame) -> Draws | None:
    """Return the same means in 200 bootstrap samples of the perturbations of each fold: draws x methods x metrics.

    The samples are those for which metrics of genes are kept, so that all metrics see the same perturbations. NaN where a metric
    cannot be resampled; None without values of perturbations.
    """
    if evidence.rows is None:
        return None
    trials = evidence.of(task, evidence.trials)
    place = {method: k for k, method in enumerate(wide.index)}
    trials = trials[trials["role"] == "embedding"]
    trials = trials.assign(method=[place.get(m, -1) for m in trials[METHOD].itertuples(index=False, name=None)])
    trials = trials[trials["method"] >= 0]
    of_rows = [m for m in wide if METRICS[m].axis == "perturbation" and m in evidence.rows]
    own = evidence.rows.loc[evidence.rows["trial"].isin(trials["trial"]), ["trial", "pert_id", *of_rows]]
    own = own.merge(trials[["trial", "method", "fold", "seed"]], on="trial")
    own = own.fillna({m: v for m in of_rows if (v := METRICS[m].no_skill) is not None})
    kept = {}
    if evidence.resampled is not None:
        drawn = evidence.resampled[evidence.resampled["trial"].isin(trials["trial"])]
        kept = {
            (t, m): np.asarray(d, float)
            for t, m, d in drawn[["trial", "metric", "draws"]].itertuples(index=False, name=None)
        }
    units = []
    for (fold, seed), part in own.groupby(["fold", "seed"], sort=True):
        here = trials[(trials["fold"] == fold) & (trials["seed"] == seed)]
        ids = part.loc[part["trial"] == part["trial"].iloc[0], "pert_id"].drop_duplicates().tolist()
        weights = bootstrap_weights(ids).T.astype(np.float64)
        unit = np.full((weights.shape[0], len(wide), wide.shape[1]), np.nan)
        if of_rows:
            rows = part["pert_id"].map({i: k for k, i in enumerate(ids)})
            if rows.isna().any():
                raise InputError(f"{' · '.join(task)}: the trials of fold {fold} do not have the same test ids.")
            cube = np.full((len(ids), len(wide), len(of_rows)), np.nan)
            cube[rows.to_numpy(int), part["method"].to_numpy()] = part[of_rows].to_numpy(float)
            flat = cube.reshape(len(ids), -1)
            defined = np.isfinite(flat)
            with np.errstate(invalid="ignore", divide="ignore"):
                means = (weights @ np.where(defined, flat, 0.0)) / (weights @ defined)
            unit[:, :, [wide.columns.get_loc(m) for m in of_rows]] = means.reshape(
                len(weights), len(wide), len(of_rows)
            )
        for k, metric in enumerate(wide):
            if METRICS[metric].axis == "gene":
                for row in here.itertuples():
                    if (row.trial, metric) in kept:
                        unit[:, row.method, k] = kept[row.trial, metric]
        units.append(unit * [1.0 if METRICS[m].higher_is_better else -1.0 for m in wide])
    return defined_mean(np.stack(units)) if units else None


def _correlations(draws: Draws) -> Draws:
    """Spearman correlation between metrics over methods in every draw: draws x metrics x metrics; NaN where one is undefined."""
    from scipy.stats import rankdata

    whole = np.isfinite(draws).all(axis=1, keepdims=True)
    ranks = rankdata(np.where(whole, draws, 0.0), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    unit = ranks / np.where((norm > 0) & whole, norm, np.nan)
    return np.clip(np.einsum("dma,dmb->dab", unit, unit), -1, 1)


def _interval(values: Draws) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if len(values) == 0 or len(defined) < LEVEL * len(values):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def agreement(evidence: Evidence) -> pd.DataFrame:
    """Correlate every two metrics over the embeddings (with their probes) of each task.

    Metrics are signed so that more is better; means over folds, all test ids (``filled``). Baselines, controls and oracles take no
    part: they would make any two metrics agree.

    Returns
    -------
    pandas.DataFrame
        One row for each task and pair of metrics: Spearman's and Kendall's (tau-b) correlation over ``n_methods``, and the 95 %
        percentile bootstrap interval of the first over perturbations. Tasks with fewer than :data:`FEWEST` methods are left out.
    """
    return _stack([_agreement(*found) for found in _ranked(evidence)], PAIRS)


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _ranked(evidence: Evidence) -> list[tuple[Task, pd.DataFrame, Draws | None]]:
    """Tasks with enough methods: signed means and their draws."""
    found = []
    for task in evidence.tasks:
        wide = _signed(evidence.of(task), task[2])
        if len(wide) >= FEWEST:
            found.append((task, wide, _draws(evidence, task, wide)))
    return found


def _agreement(task: Task, wide: pd.DataFrame, draws: Draws | None) -> pd.DataFrame:
    from scipy.stats import kendalltau, rankdata

    by_draw = _correlations(draws) if draws is not None else np.empty((0, wide.shape[1], wide.shape[1]))
    records = []
    for a, first in enumerate(wide):
        for b in range(a + 1, wide.shape[1]):
            both = wide.iloc[:, [a, b]].dropna()
            x, y = both.to_numpy().T
            spearman = kendall = np.nan
            if len(both) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0:
                spearman = float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
                kendall = float(kendalltau(x, y).statistic)
            low, high = _interval(by_draw[:, a, b])
            records.append([*task, first, wide.columns[b], spearman, low, high, kendall, len(both)])
    return pd.DataFrame(records, columns=PAIRS)


def pooled(pairs: pd.DataFrame) -> pd.DataFrame:
    """Average the correlations of :func:`agreement` over the tasks of a kind of response, each task counting the same.

    Returns
    -------
    pandas.DataFrame
        ``response, metric_a, metric_b``, mean ``spearman`` and ``kendall``, ``lowest`` and ``highest`` Spearman of a task,
        ``n_tasks``.
    """
    grouped = pairs.dropna(subset="spearman").groupby(["response", "metric_a", "metric_b"], sort=False)
    return grouped.agg(spearman=("spearman", "mean"), kendall=("kendall", "mean"), lowest=("spearman", "min"),
                       highest=("spearman", "max"), n_tasks=("spearman", "count")).reset_index()  # fmt: skip


def square(pairs: pd.DataFrame) -> pd.DataFrame:
    """Lay pairs of metrics out as a symmetric matrix of Spearman correlations with ones on the diagonal."""
    there = {*pairs["metric_a"], *pairs["metric_b"]}
    names = [m for m in METRICS if m in there]
    out = pd.DataFrame(np.eye(len(names)), names, names).replace(0.0, np.nan)
    for a, b, value in pairs[["metric_a", "metric_b", "spearman"]].itertuples(index=False, name=None):
        out.loc[a, b] = out.loc[b, a] = value
    return out


def cluster(matrix: pd.DataFrame) -> list[str]:
    """Order metrics so that alike ones lie side by side: average linkage on 1 - correlation, undefined ones as uncorrelated."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(matrix.columns)
    distance = 1.0 - matrix.fillna(0.0).to_numpy()
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [matrix.columns[k] for k in leaves_list(tree)]


def leaders(evidence: Evidence) -> pd.DataFrame:
    """Say which embedding leads by each metric of each task, and whether that is what the primary metric says.

    Returns
    -------
    pandas.DataFrame
        One row for each task and metric: the leader, ``p_first`` (share of bootstrap samples of the perturbations in which it leads
        too), the leader by the primary metric and ``place_by_primary`` (the place of this metric's leader there), ``p_over_primary``
        (share of samples in which this metric puts its leader before the primary's; NaN where they are the same), the
        correlation with the primary metric, and ``story``: ``same leader``, ``another leader``, or ``opposite ranking`` where the
        correlation is negative, and its interval if there is one.
    """
    return _stack([_leaders(*found, _agreement(*found)) for found in _ranked(evidence)], LEADERS)


def _leaders(task: Task, wide: pd.DataFrame, draws: Draws | None, pairs: pd.DataFrame) -> pd.DataFrame:
    primary = primary_metric(task[2])
    if primary not in wide or wide[primary].isna().all():
        return pd.DataFrame(columns=LEADERS)
    main = wide.columns.get_loc(primary)
    top = int(np.nanargmax(wide[primary]))
    places = wide[primary].rank(ascending=False, method="min")
    records = []
    for k, metric in enumerate(wide):
        if wide[metric].isna().all():
            continue
        # Of equals, the one that the primary metric puts first.
        ties = np.flatnonzero(wide[metric].to_numpy() == np.nanmax(wide[metric]))
        first = int(ties[np.argmin(places.iloc[ties].fillna(np.inf))])
        record: dict[str, Any] = dict(zip(TASK, task, strict=True)) | {
            "metric": metric, "embedding": wide.index[first][0], "probe": wide.index[first][1], "primary": primary,
            "primary_embedding": wide.index[top][0], "primary_probe": wide.index[top][1], "place_by_primary": places.iloc[first],
            "n_methods": int(wide[metric].notna().sum()),
        }  # fmt: skip
        if draws is not None and np.isfinite(draws[:, :, k]).all():
            own = draws[:, :, k]
            record["p_first"] = float(np.mean(own[:, first] >= own.max(axis=1)))
            if first != top:
                record["p_over_primary"] = float(np.mean(own[:, first] > own[:, top]))
        ends = {metric, primary}
        pair = pairs[pairs["metric_a"].isin(ends) & pairs["metric_b"].isin(ends)]
        if k != main and len(pair):
            record |= pair.iloc[0][["spearman", "spearman_low", "spearman_high"]].to_dict()
        high = record.get("spearman_high", np.nan)
        opposite = float(record.get("spearman", np.nan) if np.isnan(high) else high) < 0
        record["story"] = OPPOSITE if opposite else SAME if first == top else OTHER
        records.append(record)
    return pd.DataFrame(records).reindex(columns=LEADERS)


def rank_shares(evidence: Evidence) -> pd.DataFrame:
    """Place methods by every metric and by the primary one (0 first, 1 last), for each task.

    Returns
    -------
    pandas.DataFrame
        Task columns, ``embedding, probe, metric, share, primary_share``; the primary metric itself is left out.
    """
    tables = []
    for task in evidence.tasks:
        wide = _signed(evidence.of(task), task[2])
        primary = primary_metric(task[2])
        if len(wide) < FEWEST or primary not in wide:
            continue
        shares = (wide.rank(ascending=False) - 1) / (wide.notna().sum() - 1).clip(lower=1)
        long = (
            shares.rename_axis(columns=None)
            .reset_index()
            .melt([*METHOD, primary], var_name="metric", value_name="share")
        )
        long = long.rename(columns={primary: "primary_share"})
        tables.append(long.assign(**dict(zip(TASK, task, strict=True))))
    columns = [*TASK, *METHOD, "metric", "share", "primary_share"]
    return _stack(tables, columns)[columns]


def displays(evidence: Evidence, verdicts: pd.DataFrame | None = None) -> list[Display]:
    """Draw how metrics agree; nothing where no task has enough methods.

    Parameters
    ----------
    evidence
        Tables of a results folder.
    verdicts
        Of :func:`panmodal.insight.calibration.verdicts`, to be shown beside the leaders.
    """
    from panmodal.insight import calibration_plots as plots

    ranked = _ranked(evidence)
    pairs = [_agreement(*found) for found in ranked]
    over = pooled(_stack(pairs, PAIRS))
    if over.empty:
        return []
    first = _stack([_leaders(*found, own) for found, own in zip(ranked, pairs, strict=True)], LEADERS)
    shares = rank_shares(evidence)
    if verdicts is not None:
        first = first.merge(verdicts[[*TASK, "metric", "verdict"]], on=[*TASK, "metric"], how="left")
    return [
        Display(
            "metric-agreement", "Do metrics rank embeddings alike?", over,
            "Spearman and Kendall correlation between metrics over embeddings with their probes, signed so that more is better, "
            "averaged over the tasks of a kind of response.", tuple(agreement_sentences(over)), plots.agreement_plot,
        ),
        Display(
            "metric-leaders", "Who leads by which metric?", first,
            "p_first: share of bootstrap samples of the perturbations in which the leader leads too; p_over_primary: in which this "
            "metric puts its leader before that of the primary metric. spearman: with the primary metric.",
            tuple(leader_sentences(first)), lambda _: plots.leader_plot(shares),
        ),
    ]  # fmt: skip


def agreement_sentences(over: pd.DataFrame) -> list[str]:
    """Say which metrics rank most and least as the primary one does."""
    out = []
    for kind, own in over.groupby("response", sort=False):
        primary = primary_metric(str(kind))
        mine = own[(own["metric_a"] == primary) | (own["metric_b"] == primary)]
        if mine.empty:
            continue
        other = mine["metric_b"].where(mine["metric_a"] == primary, mine["metric_a"])
        order = mine.assign(other=other).sort_values("spearman", kind="stable")
        least, most = order.iloc[0], order.iloc[-1]
        tasks = f"{most['n_tasks']} task{'s' if most['n_tasks'] > 1 else ''}"
        text = f"{kind}: {most['other']} ranks embeddings most like {primary} (rank correlation {most['spearman']:.2f} over {tasks})"
        if len(order) > 1:
            text += f", {least['other']} least ({least['spearman']:.2f})"
        out.append(text + ".")
    return out


def leader_sentences(first: pd.DataFrame) -> list[str]:
    """Say by which metrics another embedding leads than by the primary one, and how sure that is."""
    out = []
    for task, own in first.groupby(TASK, sort=False):
        row = own.iloc[0]
        others = own[(own["embedding"] != row["primary_embedding"]) & (own["metric"] != row["primary"])]
        name = f"{task[0]}, {task[1]} ({task[2]})"
        leader = row["primary_embedding"]
        n = int((own["metric"] != row["primary"]).sum())
        if others.empty:
            text = f"{name}: {leader} leads by {row['primary']} and by all {n} other metrics"
        else:
            parts = [f"{e} by {', '.join(part['metric'])}" for e, part in others.groupby("embedding", sort=False)]
            text = f"{name}: {leader} leads by {row['primary']}, but another embedding by {len(others)} of {n} other metrics "
            text += f"({'; '.join(parts)})"
            sure = others[others["p_over_primary"] >= LEVEL]
            if len(sure):
                text += f", surely so (in at least {round(100 * LEVEL)} % of bootstrap samples) by {', '.join(sure['metric'])}"
            elif others["p_over_primary"].notna().any():
                text += ", none of them surely"
        opposite = own[own["story"] == OPPOSITE]
        if len(opposite):
            text += f"; {', '.join(opposite['metric'])} rank{'s' if len(opposite) == 1 else ''} the other way round"
        out.append(text + ".")
    return out

"""The leaderboard: a pure function of the tidy score table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from panmodal.errors import InputError, some
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.evaluation.scores import FALLBACKS
from panmodal.insight.gaps import METHOD, ORACLE, TASK, gap_closed, gap_table
from panmodal.insight.rows import Rows, as_rows

NEEDED = [
    *TASK,
    *METHOD,
    "fold",
    "seed",
    "fallback",
    "metric",
    "value",
    "n_test",
    "n_covered",
    "role",
    "modality",
    "simulated",
]


FEW = 50
"""Below so many perturbations a summary warns."""


def check_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table if it has the columns of ``scores.parquet``; say which are missing otherwise."""
    missing = [c for c in NEEDED if c not in scores]
    if missing:
        raise InputError(
            f"score table: no column(s) {some(missing, 12)}; is it the scores.parquet of a results folder?"
        )
    if scores.empty:
        raise InputError("score table: no rows.")
    # Tables, or parts of them, from before embeddings declared what they were trained on.
    return scores.assign(seen=scores["seen"].fillna("unknown") if "seen" in scores else "unknown")


def primary_metric(response: str) -> str:
    """Name of the metric by which tasks of a kind of response are ranked unless another is asked for."""
    serving = metrics_for(response)
    if not serving:
        raise InputError(f"score table: this version has no metric for responses of kind {response!r}.")
    return serving[0].name


def first_metric(response: str, there: set[str]) -> str:
    """Return the primary metric, or the first there is where it was not computed."""
    primary = primary_metric(response)
    return next((m.name for m in metrics_for(response) if m.name in there), primary)


def ceiling_name(by: str) -> str:
    """Name a ceiling in a sentence."""
    return "the idealised oracle" if by.startswith(f"{ORACLE}, ") else f"the {by.replace('_', ' ')} ceiling"


def _better(score: pd.Series, floor: pd.Series, higher_is_better: bool) -> pd.Series:
    """Whether scores beat a floor; False where either is undefined."""
    return score > floor if higher_is_better else score < floor


def _above_floor(rows: pd.DataFrame) -> pd.Series:
    """Whether leaderboard rows, which may be of several metrics, beat their floors in the mean."""
    higher = rows["metric"].map(lambda name: METRICS[name].higher_is_better).astype(bool)
    return _better(rows["mean"], rows["floor"], True).where(higher, _better(rows["mean"], rows["floor"], False))


def leaderboard(
    scores: pd.DataFrame, *, metric: str | None = None, fallback: str = "filled", probes: Sequence[str] | None = None,
    rows: pd.DataFrame | Rows | None = None, ceilings: pd.DataFrame | None = None, resampled: pd.DataFrame | None = None,
    ceiling: str | None = None, marks: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Rank embeddings on every task.

    Parameters
    ----------
    scores
        The tidy score table.
    metric
        Metric to rank by; the primary one of each kind of response unless given.
    fallback
        ``filled`` (all test ids, train mean or class prior for the uncovered) or ``common`` (ids that all embeddings cover).
        ``covered`` is refused: it compares different ids.
    probes
        Keep only these probes (baselines always stay).
    rows, ceilings, resampled
        ``perturbations.parquet``, ``ceilings.parquet`` and ``resampled.parquet``. With rows (and resampled, for metrics of genes),
        the gap closed has an interval; with ceilings too, it is measured to a noise ceiling rather than to the idealised oracle.
    ceiling
        Estimator of the ceiling; the first there is (``experimental_error``, ..., else ``idealised``) unless given.

    marks
        Which metrics can be trusted on which task (:func:`panmodal.insight.calibration.marks`).

    Returns
    -------
    pandas.DataFrame
        One row per task and method, best first: task columns, ``embedding``, ``probe``, ``role``, ``modality``, ``seen`` (whether the
        embedding was trained on the data set: ``yes``, ``no``, ``unknown``), ``rank`` (embeddings with a score in every fold;
        ties share the lower rank), ``mean`` and ``sd`` over folds, ``n_folds`` (folds with a score, of all seeds),
        ``folds_above_floor`` (folds in which it beats that fold's floor), ``gap_closed`` with its 95 % interval
        ``gap_low`` to ``gap_high`` (see :func:`panmodal.insight.gaps.gap_table`), ``floor``, ``ceiling``, ``floor_by`` and
        ``ceiling_by`` (which method they are of), ``coverage`` (covered share of the test ids), ``n_test`` (perturbations tested, in
        all folds), both null where they are not known, and ``filled``, ``covered``, ``common`` (the mean under each rule; ``covered``
        is for reading one row, never for comparing two), ``n_undefined``, ``verdict`` and ``why`` (of the metric on this screen:
        ``pass``, ``weak``, ``fail``, or ``unknown``).

    Raises
    ------
    InputError
        Unknown metric, fallback or probe.
    """
    scores = check_scores(scores)
    if fallback == "covered":
        raise InputError(
            "fallback 'covered' scores each embedding on other ids, which cannot be ranked; use filled or common."
        )
    if fallback not in FALLBACKS:
        raise InputError(f"no fallback {fallback!r}; use filled or common.")
    if metric is not None and metric not in METRICS:
        raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}.")
    if ceiling is not None and rows is None:
        raise InputError("a ceiling can be chosen where the values of perturbations are given too (rows).")
    every = scores
    if probes:
        unknown = sorted(set(probes) - set(scores["probe"]))
        if unknown:
            raise InputError(f"no results for probe {some(unknown)}; there are {some(scores['probe'].unique(), 12)}.")
        scores = scores[scores["probe"].isin(probes) | (scores["role"] == "baseline")]
    boards = []
    source = None if rows is None else as_rows(rows)
    whole = dict(list(every.groupby(TASK, sort=False, observed=True)))
    for task, own in scores.groupby(TASK, sort=False, observed=True):
        response = str(task[2])
        name = metric or first_metric(response, set(own["metric"]))
        chosen = own[own["metric"] == name]
        if (chosen["fallback"] == fallback).any():
            board = _one_task(chosen, name, fallback)
            if source is not None:
                board = _with_gaps(
                    board,
                    gap_table(
                        whole[task],
                        source,
                        ceilings,
                        resampled=resampled,
                        metrics=[name],
                        fallback=fallback,
                        probes=probes,
                    ),
                    ceiling,
                )
            boards.append(board)
    if not boards:
        raise InputError(
            f"no scores of metric {metric!r} with fallback {fallback!r}; there are {some(scores['metric'].unique(), 20)}."
        )
    board = pd.concat(boards, ignore_index=True)
    if marks is None:
        return board.assign(verdict="unknown", why="")
    board = board.merge(marks[[*TASK, "metric", "verdict", "why"]], on=[*TASK, "metric"], how="left")
    return board.fillna({"verdict": "unknown", "why": ""})


def _with_gaps(board: pd.DataFrame, gaps: pd.DataFrame, ceiling: str | None) -> pd.DataFrame:
    """Put the chosen ceiling's columns into the leaderboard of one task."""
    there = list(dict.fromkeys(gaps["estimator"]))
    if ceiling is not None and ceiling not in there:
        raise InputError(
            f"no ceiling {ceiling!r} for {board.iloc[0]['screen']}, {board.iloc[0]['context']}; there are {some(there)}."
        )
    defined = [e for e in there if gaps.loc[gaps["estimator"] == e, "ceiling"].notna().any()]
    chosen = gaps[gaps["estimator"] == (ceiling or (defined or there)[0])]
    columns = ["ceiling", "ceiling_by", "gap_closed", "gap_low", "gap_high"]
    kept = board.drop(columns=columns).merge(chosen[[*METHOD, "role", *columns]], on=[*METHOD, "role"], how="left")
    return kept[board.columns]


def _one_task(rows: pd.DataFrame, name: str, fallback: str) -> pd.DataFrame:
    higher = METRICS[name].higher_is_better
    keys = [*TASK, *METHOD, "role", "modality", "simulated", "seen"]
    means = rows.groupby([*keys, "fallback"], sort=False)["value"].mean().unstack("fallback")
    means = means.reindex(columns=list(FALLBACKS))
    used = rows[rows["fallback"] == fallback]
    grouped = used.groupby(keys, sort=False, observed=True)
    board = grouped["value"].agg(mean="mean", sd="std", n_folds="count")
    # Of imported results it may not be known what was tested and covered.
    board["coverage"] = grouped["n_covered"].sum(min_count=1) / grouped["n_test"].sum(min_count=1)
    tested = used.drop_duplicates(["fold", "seed"])["n_test"].sum(min_count=1)
    board["n_test"] = pd.array(
        [pd.NA if pd.isna(tested) else int(tested) // used["seed"].nunique()] * len(board), dtype="Int64"
    )
    board["n_undefined"] = grouped["n_undefined"].sum().astype(int) if "n_undefined" in used else 0
    board = board.join(means, how="left").reset_index()
    best = np.nanargmax if higher else np.nanargmin

    def anchor(role: str) -> tuple[float, str]:
        candidates = board[(board["role"] == role) & board["mean"].notna()]
        if candidates.empty:
            return np.nan, ""
        row = candidates.iloc[int(best(candidates["mean"].to_numpy()))]
        return float(row["mean"]), str(row["probe"] if role == "baseline" else f"{row['embedding']}, {row['probe']}")

    (floor, floor_by), (ceiling, ceiling_by) = anchor("baseline"), anchor("oracle")
    board["metric"], board["fallback"] = name, fallback
    board["floor"], board["floor_by"], board["ceiling"], board["ceiling_by"] = floor, floor_by, ceiling, ceiling_by
    board["gap_closed"] = gap_closed(board["mean"], board["floor"], board["ceiling"], higher)
    board["gap_low"] = board["gap_high"] = np.nan
    # Fold 0 of another seed holds other ids.
    baseline = used[used["role"] == "baseline"].groupby(["fold", "seed"])["value"]
    per_fold = (baseline.max() if higher else baseline.min()).rename("reference")
    used = used.merge(per_fold.reset_index(), on=["fold", "seed"], how="left")
    ahead = used.assign(ahead=_better(used["value"], used["reference"], higher))
    above = ahead.groupby(METHOD, sort=False)["ahead"].sum().rename("folds_above_floor")
    board = board.merge(above.reset_index(), on=METHOD, how="left")
    # A mean over easier folds must not win: what lacks folds is shown without a rank.
    ranked = (board["role"] == "embedding") & (board["n_folds"] == board["n_folds"].max())
    board["rank"] = board.loc[ranked, "mean"].rank(method="min", ascending=not higher)
    board["rank"] = board["rank"].astype("Int64")
    board = board.sort_values("mean", ascending=not higher, na_position="last", kind="stable")
    columns = [
        *TASK, *METHOD, "role", "modality", "simulated", "seen", "metric", "fallback", "rank", "mean", "sd", "n_folds",
        "folds_above_floor", "gap_closed", "gap_low", "gap_high", "floor", "floor_by", "ceiling", "ceiling_by", "coverage", "n_test",
        "filled", "covered", "common", "n_undefined",
    ]  # fmt: skip
    return board[columns]


def overall(board: pd.DataFrame) -> pd.DataFrame:
    """Summarise a leaderboard over its tasks: one row per ranked method.

    Returns
    -------
    pandas.DataFrame
        ``screens`` (which it was run on), ``embedding``, ``probe``, ``modality``, ``simulated``, ``tasks`` (number of tasks it
        has a score on), ``mean_rank`` (rank as a share of the methods ranked on the task, 0 best and 1 worst, averaged),
        ``wins`` (tasks ranked first), ``mean_gap_closed``, ``tasks_above_floor`` (in the mean over folds), ``tasks_seen`` (tasks of
        data sets that it was trained on), ``mean_coverage``.
        Methods run on the same screens stand together, best mean rank first; ranks of methods run on different screens do
        not compare. Simulated screens come last.
    """
    ranked = board[board["role"] == "embedding"].copy()
    if ranked.empty:
        return pd.DataFrame(columns=["screens", "embedding", "probe", "modality", "simulated", "tasks", "mean_rank", "wins",
                                     "mean_gap_closed", "tasks_above_floor", "tasks_seen", "mean_coverage"])  # fmt: skip
    size = ranked.groupby(TASK)["rank"].transform("count")
    ranked["share"] = (ranked["rank"].astype(float) - 1) / (size - 1).where(size > 1, 1)
    ranked["above"] = _above_floor(ranked)
    ranked["first"], ranked["trained"] = ranked["rank"] == 1, ranked["seen"] == "yes"
    table = ranked.groupby([*METHOD, "modality", "simulated"], sort=False).agg(
        screens=("screen", lambda s: ", ".join(sorted(set(s)))),
        tasks=("mean", "count"), mean_rank=("share", "mean"), wins=("first", "sum"),
        mean_gap_closed=("gap_closed", "mean"), tasks_above_floor=("above", "sum"), tasks_seen=("trained", "sum"),
        mean_coverage=("coverage", lambda c: c.mean(skipna=False)),
    ).reset_index()  # fmt: skip
    table.insert(0, "screens", table.pop("screens"))
    return table.sort_values(["simulated", "screens", "mean_rank", "mean_gap_closed"], ascending=[True, True, True, False],
                             kind="stable").reset_index(drop=True)  # fmt: skip


def summary(board: pd.DataFrame) -> list[str]:
    """Say in sentences what a leaderboard shows, task by task."""
    sentences = []
    for task, rows in board.groupby(TASK, sort=False):
        ranked = rows[(rows["role"] == "embedding") & rows["rank"].notna()]
        if ranked.empty:
            continue
        lacking = rows[(rows["role"] == "embedding") & rows["rank"].isna() & rows["mean"].notna()]
        best = ranked.sort_values("rank", kind="stable").iloc[0]
        metric, n = best["metric"], int(best["n_folds"])
        marked = " (simulated data)" if best["simulated"] else ""
        text = f"{task[0]}, {task[1]}{marked}: {best['embedding']} with {best['probe']} comes first by {metric} ({best['mean']:.4g}"
        text += f", floor {best['floor']:.4g} by {best['floor_by']})" if np.isfinite(best["floor"]) else ")"
        text += _trained(ranked, best)
        if best["verdict"] in ("fail", "weak"):
            text += f"; beware: {metric} {'fails' if best['verdict'] == 'fail' else 'is weak'} here: {best['why']}"
        above = int(best["folds_above_floor"])
        if np.isfinite(best["floor"]):
            if above == n:
                text += f"; it beats the floor in all {n} folds"
            elif above == 0:
                text += f"; it beats the floor in none of {n} folds"
                text += "" if ranked["folds_above_floor"].any() else ": no embedding here is better than nothing"
            else:
                text += f"; it beats the floor in {above} of {n} folds only, which is weak evidence"
            worse = int((~_above_floor(ranked)).sum())
            if worse:
                text += f"; {worse} of {len(ranked)} methods are no better than the floor on average"
            text += _fooled(rows, n)
        if np.isfinite(best["gap_closed"]):
            text += f"; {round(100 * best['gap_closed'])} % of the gap to {ceiling_name(best['ceiling_by'])} is closed"
            if np.isfinite(best["gap_low"]):
                text += f" (95 % interval {round(100 * best['gap_low'])} to {round(100 * best['gap_high'])} %"
                text += ", which holds the floor)" if best["gap_low"] <= 0 <= best["gap_high"] else ")"
        elif np.isfinite(best["floor"]) and np.isfinite(best["ceiling"]):
            text += (f"; gap closed is undefined: {ceiling_name(best['ceiling_by'])} ({best['ceiling']:.4g}) is not better than the "
                     "floor, the noise being as large as the responses")  # fmt: skip
        if pd.notna(best["n_test"]) and best["n_test"] < FEW:
            text += f"; only {best['n_test']} perturbations were tested, which cannot tell methods with overlapping intervals apart"
        if len(lacking):
            one = lacking.iloc[0]
            text += f"; {len(lacking)} method(s) have no score in some folds and so no rank, such as {one['embedding']} with "
            text += f"{one['probe']} ({one['n_folds']} of {n} folds)"
        sentences.append(text + ".")
    return sentences


def _trained(ranked: pd.DataFrame, best: pd.Series) -> str:
    """Say which embeddings have seen the data set, and which comes first of those that are not known to."""
    names = list(dict.fromkeys(ranked.loc[ranked["seen"] == "yes", "embedding"]))
    if not names:
        return ""
    if best["seen"] != "yes":
        return f"; beware: {some(names, 3)} {'was' if len(names) == 1 else 'were'} trained on this data set"
    text = f"; beware: {best['embedding']} was trained on this data set"
    others = ranked[ranked["seen"] != "yes"].sort_values("rank", kind="stable")
    if others.empty:
        return text + ", as all were"
    first = others.iloc[0]
    return text + f"; of the others {first['embedding']} with {first['probe']} comes first ({first['mean']:.4g})"


def _fooled(rows: pd.DataFrame, n_folds: int) -> str:
    """Say which control beats the floor, in every fold or by its interval: it carries no information and should not."""
    controls = rows[(rows["role"] == "control") & ((rows["folds_above_floor"] == n_folds) | (rows["gap_low"] > 0))]
    controls = controls[_above_floor(controls)]
    if controls.empty:
        return ""
    higher = METRICS[controls.iloc[0]["metric"]].higher_is_better
    one = controls.sort_values("mean", ascending=not higher, kind="stable").iloc[0]
    folds = f"in {one['folds_above_floor']} of {n_folds} folds"
    return (
        f"; beware: {one['embedding']} with {one['probe']}, a control without information, beats the floor too "
        f"({one['mean']:.4g}, {folds}), so that beating it is no evidence here: compare with the control"
    )

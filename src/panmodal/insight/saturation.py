"""How much of a task the floor has solved already, and who leads on what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.compare import NO_CHANGE
from panmodal.evaluation.scores import tidy_scores
from panmodal.insight.evidence import Evidence
from panmodal.insight.gaps import METHOD
from panmodal.insight.leaderboard import leaderboard
from panmodal.insight.predictability import Panel, labelled

THRESHOLD = 0.5
"""Share of the way from 'no change' to a perfect prediction that counts as solved where there is no ceiling."""
SUBSETS = ("all", "resistant", "hardest half")
CLASSES = ("solved by the floor", "by all embeddings", "by some embeddings", "by none")
FEWEST = 5
"""Fewest perturbations of a subset that a leaderboard is made for."""


@dataclass(frozen=True)
class Solved:
    """Which perturbations are solved, by a rule that holds for all methods alike.

    ``way`` is the share of the way to the target, 1 and more being solved by a ceiling (target: the ceiling) and ``threshold``
    and more without (target: a perfect prediction); perturbations (``ids``) x methods, NaN where it cannot be told.
    """

    ids: tuple[str, ...]
    way: NDArray[np.float64]
    solved: NDArray[np.bool_]
    known: NDArray[np.bool_]
    rule: str
    estimator: str


def solved(evidence: Evidence, found: Panel, *, threshold: float = THRESHOLD, estimator: str | None = None) -> Solved:
    """Tell which perturbations each method solves.

    With a ceiling, a perturbation is solved if the prediction is at least as good as the ceiling's value for that perturbation:
    the experiment repeated would do no better. Without one it is solved if at least ``threshold`` of the way from predicting no
    change to a perfect prediction (error 0, otherwise value 1) is gone.

    Parameters
    ----------
    threshold
        Above 0, at most 1; used where there is no ceiling.
    estimator
        Of the ceiling; the first with values of the metric unless given.

    Raises
    ------
    InputError
        Threshold out of range, unknown estimator, neither a ceiling nor a 'no change' baseline.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold {threshold!r}: give a share above 0 and at most 1.")
    wide = found.over_seeds()
    values, ids = wide.to_numpy(), tuple(wide.index)
    sign = 1.0 if found.higher else -1.0
    start = _no_change(found, values)
    bounds = _bounds(evidence, found, estimator)
    if bounds is not None:
        name, of_ids = bounds
        target = of_ids.reindex(list(ids)).to_numpy(np.float64)[:, None]
        known = np.isfinite(values) & np.isfinite(target)
        with np.errstate(invalid="ignore"):
            done = known & (sign * (values - target) >= -1e-9 * np.abs(target))
        rule = f"at least as good as the {name.replace('_', ' ')} ceiling of that perturbation"
    else:
        name, target = "", np.full((len(ids), 1), 1.0 if found.higher else 0.0)
        if start is None:
            raise InputError(
                f"{' · '.join(found.task)}: neither a ceiling nor the baseline '{NO_CHANGE}' to say what is solved."
            )
        known = np.isfinite(values) & np.isfinite(start)
        done = known.copy()
    way = np.full(values.shape, np.nan)
    if start is not None:
        span = sign * (target - start)
        np.divide(sign * (values - start), span, out=way, where=known & (span > 0))
        if bounds is None:
            # A response of zero is predicted perfectly by no change: solved by what is as good.
            done &= np.where(span > 0, np.nan_to_num(way, nan=-np.inf) >= threshold, sign * (values - target) >= 0)
            rule = f"at least {round(100 * threshold)} % of the way from '{NO_CHANGE}' to a perfect prediction"
    return Solved(ids, way, done, known, rule, name)


def _no_change(found: Panel, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Values of the 'no change' baseline (a column); undefined ones of metrics where higher is better are no skill, 0."""
    at = [k for k in found.where("baseline") if found.methods["probe"][k] == NO_CHANGE]
    if not at:
        return None
    start = values[:, at[:1]]
    return np.nan_to_num(start, nan=0.0) if found.higher else start


def _bounds(evidence: Evidence, found: Panel, estimator: str | None) -> tuple[str, pd.Series] | None:
    """Name of the estimator and ceiling of each perturbation, the mean over seeds; None where there is none."""
    table = evidence.ceilings
    own = None
    if table is not None and found.metric in table:
        own = evidence.of(found.task, table)
        own = own[(own["pert_id"] != "") & own[found.metric].notna()]
    there = [] if own is None else list(dict.fromkeys(own["estimator"]))
    if estimator is not None and estimator not in there:
        known = f"there are {', '.join(there)}" if there else "there is none"
        raise InputError(f"{' · '.join(found.task)}: no ceiling {estimator!r} of {found.metric}; {known}.")
    if own is None or not there:
        return None
    name = estimator or there[0]
    return name, own[own["estimator"] == name].groupby("pert_id")[found.metric].mean()


def representatives(found: Panel) -> list[int]:
    """Position of each embedding's best probe, by its mean over folds."""
    means = found.mean_over_folds()
    sign = -1.0 if found.higher else 1.0
    best: dict[str, int] = {}
    for k in found.where("embedding"):
        name = str(found.methods["embedding"][k])
        if np.isfinite(means[k]) and (name not in best or sign * means[k] < sign * means[best[name]]):
            best[name] = int(k)
    return list(best.values())


def saturation(found: Panel, status: Solved) -> pd.DataFrame:
    """Count perturbations by who solves them.

    Every embedding stands with its best probe. The four classes exclude each other, in this order.

    Returns
    -------
    pandas.DataFrame
        One row: task, ``metric``, ``fallback``, ``rule``, ``floor_by``, ``n`` (perturbations where it can be told),
        ``n_unknown``, ``n_embeddings``, the shares ``solved by the floor``, ``by all embeddings`` (not by the floor), ``by some
        embeddings`` (not by the floor, not by all) and ``by none``; and, each for itself: ``best`` and ``best_share`` (the
        leader of the task and the share that it solves), ``control_share`` (the control that solves most), ``oracle_share``
        (NaN without).
    """
    floor, chosen = found.need_floor(), representatives(found)
    if not chosen:
        raise InputError(f"{' · '.join(found.task)}: no embedding was run; only baselines or controls.")
    told = np.asarray(status.known[:, [floor, *chosen]].all(axis=1))
    done = status.solved[told]
    n = len(done)
    by_floor = done[:, floor]
    every, some = done[:, chosen].all(axis=1) & ~by_floor, done[:, chosen].any(axis=1) & ~by_floor
    leader = found.best("embedding")
    oracle = found.best("oracle")

    def share(flags: NDArray[np.bool_]) -> float:
        return float(flags.mean()) if n else np.nan

    shares = [share(by_floor), share(every), share(some & ~every), share(~by_floor & ~some)]
    controls = [share(done[:, k]) for k in found.where("control")]
    row = {
        "fallback": found.fallback, "rule": status.rule, "floor_by": found.name(floor), "n": n, "n_unknown": len(told) - n,
        "n_embeddings": len(chosen), **dict(zip(CLASSES, shares, strict=True)),
        "best": "" if leader is None else found.name(leader), "best_share": np.nan if leader is None else share(done[:, leader]),
        "control_share": max(controls, default=np.nan), "oracle_share": np.nan if oracle is None else share(done[:, oracle]),
    }  # fmt: skip
    return labelled(found.task, pd.DataFrame([row]), metric=found.metric)


def subsets(found: Panel, status: Solved) -> dict[str, list[str]]:
    """Perturbations of each of :data:`SUBSETS`, chosen by the floor alone.

    ``resistant``: not solved by the floor. ``hardest half``: those that the floor scores worse than its median; left out where
    that is less than a quarter of them (the floor scoring most alike).
    """
    floor = found.need_floor()
    told = status.known[:, floor]
    ids = np.array(status.ids, dtype=object)
    chosen = {"all": list(ids[told]), "resistant": list(ids[told & ~status.solved[:, floor]])}
    value = (1.0 if found.higher else -1.0) * found.over_seeds().to_numpy()[:, floor]
    hard = told & (value < np.median(value[told])) if told.any() else told
    if hard.sum() >= max(FEWEST, 0.25 * told.sum()):
        chosen["hardest half"] = list(ids[hard])
    return chosen


def boards(evidence: Evidence, found: Panel, chosen: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Make the leaderboard again on subsets of the perturbations: means over folds of means over those that are left.

    Parameters
    ----------
    chosen
        Name of a subset -> perturbations; subsets of fewer than 5 are passed over.

    Returns
    -------
    pandas.DataFrame
        Leaderboard rows (:func:`panmodal.insight.leaderboard.leaderboard`) with ``subset`` and ``n_perturbations`` in front and
        ``rank_all``, the rank among all perturbations, behind ``rank``. Baselines, controls and oracles are there, unranked.
    """
    if evidence.rows is None:
        raise InputError("the values of perturbations are not there: a board of a subset needs perturbations.parquet.")
    trials = evidence.of(found.task, evidence.trials)
    if "hyperparameters" not in trials:
        trials = trials.assign(hyperparameters="{}")
    rows = evidence.rows.loc[
        evidence.rows["trial"].isin(trials["trial"]), ["trial", "pert_id", "covered", found.metric]
    ]
    tables: list[pd.DataFrame] = []
    for name, ids in chosen.items():
        if len(ids) < FEWEST:
            continue
        own = rows[rows["pert_id"].isin(list(ids))]
        parts = []
        # An id in common is one of its fold, and folds of different seeds hold different ids.
        for _, of_seed in trials.groupby("seed", sort=False):
            of_rows = own[own["trial"].isin(of_seed["trial"])]
            if len(of_rows):
                parts.append(tidy_scores(of_rows, of_seed))
        board = leaderboard(pd.concat(parts, ignore_index=True), metric=found.metric, fallback=found.fallback)
        board.insert(0, "n_perturbations", len(ids))
        board.insert(0, "subset", name)
        tables.append(board)
    if not tables:
        raise InputError(f"{' · '.join(found.task)}: no subset has {FEWEST} perturbations or more.")
    table = pd.concat(tables, ignore_index=True)
    overall = table[table["subset"] == "all"].set_index(METHOD)["rank"]
    everywhere = overall.reindex(pd.MultiIndex.from_frame(table[METHOD])).to_numpy()
    table.insert(list(table).index("rank") + 1, "rank_all", pd.array(everywhere, dtype="Int64"))
    return table


def curve(found: Panel, status: Solved, steps: int = 21) -> pd.DataFrame:
    """Share of perturbations that would count as solved, for every threshold between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        Task, ``metric``, ``threshold`` (share of the way from 'no change' to the target: the ceiling, or without one a perfect
        prediction), and the shares that the ``floor``, the ``best`` method, ``any`` and ``all`` embeddings (best probe of each)
        have come.
    """
    floor, chosen, leader = found.need_floor(), representatives(found), found.best("embedding")
    if leader is None:
        raise InputError(f"{' · '.join(found.task)}: no embedding was run; only baselines or controls.")
    way = status.way[np.isfinite(status.way[:, [floor, *chosen]]).all(axis=1)]
    records = []
    for threshold in np.linspace(0, 1, steps):
        gone = way >= threshold - 1e-12
        flags = (gone[:, floor], gone[:, leader], gone[:, chosen].any(axis=1), gone[:, chosen].all(axis=1))
        records.append((threshold, *(float(f.mean()) if len(way) else np.nan for f in flags), len(way)))
    table = pd.DataFrame(records, columns=["threshold", "floor", "best", "any", "all", "n"])
    return labelled(found.task, table, metric=found.metric)

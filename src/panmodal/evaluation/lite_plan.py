"""A lite part of an estimated plan, how well it should rank, and the checks of that by held-out methods and by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from panmodal.errors import InputError
from panmodal.evaluation.estimate import Estimate
from panmodal.evaluation.lite import Costs, choose, correlation, designs, expected_tau, random_subset, weights_of
from panmodal.evaluation.lite_units import (
    UNIT,
    Components,
    UnitScores,
    Values,
    blended,
    components_of,
    shrunk_covariance,
    unit_scores,
)

SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the work for which the expected agreement is told."""


@dataclass(frozen=True)
class Lite:
    """A chosen part of a plan.

    Attributes
    ----------
    wanted
        Digests of its trials.
    units
        The contexts, folds and probes it runs.
    seconds
        Work of it, without the serial parts.
    tau
        Expected Kendall's tau of its ranking with that of the whole plan.
    table
        Tau by share of the work, chosen and at random: ``share, tau, tau_random`` (means of random subsets of the same cost).
    rivals
        Plain designs within the budget: ``design, seconds, tau``.
    held_out
        With earlier results: the same by methods held out, measured (:func:`held_out_tau`); None otherwise.
    notes
        What it was chosen by.
    """

    wanted: frozenset[str]
    units: pd.DataFrame
    seconds: float
    tau: float
    table: pd.DataFrame
    rivals: pd.DataFrame
    held_out: pd.DataFrame | None
    notes: tuple[str, ...]


def plan_units(trials: pd.DataFrame) -> tuple[pd.DataFrame, Costs]:
    """Return the units of a plan's embeddings and what they cost; baselines and fusions go with their context and fold.

    Parameters
    ----------
    trials
        Rows of :attr:`Estimate.trials`.
    """
    probed = trials[(trials["role"] != "baseline") & (trials["modality"] != "fusion")]
    named = probed[probed["role"] == "embedding"]
    if named.empty:
        raise InputError("the plan has no embedding, so that there is no ranking to preserve.")
    units = named[UNIT].drop_duplicates().reset_index(drop=True)
    todo = trials[~trials["done"]]
    # What a group shares goes with the fold; that of groups of one context (oracles) with the context.
    alone = todo.groupby("group")["context"].transform("nunique") == 1
    if todo["context"].nunique() > 1:
        moved = todo["shared_seconds"].where(alone, 0.0)
        todo = todo.assign(seconds=todo["seconds"] + moved, shared_seconds=todo["shared_seconds"] - moved)
    place = ["screen", "response", "context", "fold"]
    own = todo[todo["trial"].isin(probed["trial"])].groupby(UNIT)["seconds"].sum()
    beside = todo[~todo["trial"].isin(probed["trial"])].groupby(place)["seconds"].sum()
    n_probes = units.groupby(place)["probe"].transform("size").to_numpy()
    seconds = own.reindex(pd.MultiIndex.from_frame(units)).fillna(0.0).to_numpy()
    if len(beside):
        seconds = seconds + beside.reindex(pd.MultiIndex.from_frame(units[place])).fillna(0.0).to_numpy() / n_probes
    fold = units.groupby(["screen", "fold"], sort=False).ngroup().to_numpy()
    number = dict(zip(zip(units["screen"], units["fold"], strict=True), fold.tolist(), strict=True))
    shared = todo.groupby(["screen", "fold"])["shared_seconds"].sum()
    return units, Costs(seconds, {number[k]: float(v) for k, v in shared.items() if k in number}, fold)


def make_lite(estimate: Estimate, budget: float, *, like: UnitScores | None = None, seed: int = 0) -> Lite:
    """Choose the part of a plan that best preserves the ranking of its embeddings within a budget.

    Parameters
    ----------
    estimate
        Of the whole plan.
    budget
        Seconds of work; the serial parts (reading, laying out, gathering) come on top.
    like
        Scores of other embeddings: of the same units, or of others from which the variances of the parts are taken.
    seed
        Of the random subsets that it is compared with.
    """
    units, costs = plan_units(estimate.trials)
    covariance, note = _covariance(units, like)
    chosen = choose(units, covariance, costs, budget)
    rng = np.random.default_rng(seed)
    rows = []
    for share in SHARES:
        try:
            picked = choose(units, covariance, costs, share * costs.total)
        except InputError:
            continue  # less than one unit
        drawn = [random_subset(costs, share * costs.total, rng) for _ in range(20)]
        taus = [expected_tau(correlation(d, units, covariance)) for d in drawn if d]
        rows.append(
            {"share": share, "tau": expected_tau(correlation(picked, units, covariance)), "tau_random": np.mean(taus)}
        )
    rivals = [{"design": name, "seconds": costs.of(c), "tau": expected_tau(correlation(c, units, covariance))}
              for name, c in designs(units) if costs.of(c) <= budget * (1 + 1e-9)]  # fmt: skip
    table = pd.DataFrame(rivals, columns=["design", "seconds", "tau"]).sort_values(
        "tau", ascending=False, ignore_index=True
    )
    held_out = None
    if like is not None and len(like.methods) >= 8:
        held_out = held_out_tau(like, Costs.even(like.units, _sharing(costs)), (budget / costs.total,), seed=seed)
    part = units.iloc[sorted(chosen)].reset_index(drop=True)
    return Lite(_trials_of(estimate.trials, part), part, costs.of(chosen), expected_tau(correlation(chosen, units, covariance)),
                pd.DataFrame(rows, columns=["share", "tau", "tau_random"]), table, held_out, (note,))  # fmt: skip


def _sharing(costs: Costs) -> float:
    """Cost of a fold in units of the mean cost of a unit."""
    mean = float(costs.own.mean())
    return float(np.mean(list(costs.shared.values()) or [0.0])) / mean if mean > 0 else 0.0


def _covariance(units: pd.DataFrame, like: UnitScores | None) -> tuple[Values, str]:
    if like is None:
        return Components().covariance(units), (
            "chosen from the structure alone, with variances of effects as in published scores; give --like with results of other "
            "embeddings on these tasks to learn them"
        )
    theirs = {tuple(row): k for k, row in enumerate(like.units[UNIT].itertuples(index=False))}
    places = [theirs.get(tuple(row)) for row in units[UNIT].itertuples(index=False)]
    gone = f", {len(like.left_out)} left out for want of scores" if like.left_out else ""
    if all(p is not None for p in places):
        found = shrunk_covariance(like)[np.ix_(places, places)]  # type: ignore[arg-type]
        return found, f"chosen by the scores of {len(like.methods)} embeddings on the same tasks{gone}"
    return blended(components_of(like), len(like.methods)).covariance(units), (
        f"chosen from the structure, with variances of effects as in the scores of {len(like.methods)} embeddings on other tasks{gone}"
    )


def _trials_of(trials: pd.DataFrame, units: pd.DataFrame) -> frozenset[str]:
    """Digests of the trials of the units, and of what goes with their contexts and folds (baselines, fusions)."""
    place = ["screen", "response", "context", "fold"]
    keys = set(units[UNIT].itertuples(index=False, name=None))
    places = set(units[place].itertuples(index=False, name=None))
    probed = (trials["role"] != "baseline") & (trials["modality"] != "fusion")
    of_unit = np.array([k in keys for k in trials[UNIT].itertuples(index=False, name=None)], dtype=bool)
    of_place = np.array([k in places for k in trials[place].itertuples(index=False, name=None)], dtype=bool)
    return frozenset(trials.loc[np.where(probed, of_unit, of_place), "trial"])


# --- checks ----------------------------------------------------------------------------------------------------------


def tau_of(scores: UnitScores, chosen: Sequence[int]) -> float:
    """Kendall's tau (b) between the results of methods by some units and by all."""
    from scipy.stats import kendalltau

    part = scores.values @ weights_of(chosen, scores.units)
    whole = scores.values @ weights_of(range(len(scores.units)), scores.units)
    return float(kendalltau(part, whole).statistic)


def held_out_tau(scores: UnitScores, costs: Costs, shares: Sequence[float] = SHARES, *, repeats: int = 10, draws: int = 5,
                 seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Choose units by half of the methods and measure the agreement of the rankings on the other half, again and again.

    Returns
    -------
    pandas.DataFrame
        One row per share of the cost and way of choosing (``like``: by the first half's scores; ``structure``: without scores;
        ``random``): ``share, by, tau, sd, n`` with mean and standard deviation over the repeats.

    Raises
    ------
    InputError
        Fewer than eight methods.
    """
    if len(scores.methods) < 8:
        raise InputError(f"{len(scores.methods)} methods are too few to hold half of them out; at least 8 are needed.")
    rng = np.random.default_rng(seed)
    found: dict[tuple[float, str], list[float]] = {}
    structure = Components().covariance(scores.units)
    for _ in range(repeats):
        order = rng.permutation(len(scores.methods))
        seen, unseen = scores.part(order[: len(order) // 2]), scores.part(order[len(order) // 2 :])
        learned = shrunk_covariance(seen)
        for share in shares:
            budget = share * costs.total
            try:
                chosen = {
                    "like": choose(scores.units, learned, costs, budget),
                    "structure": choose(scores.units, structure, costs, budget),
                }
            except InputError:
                continue  # less than one unit
            for by, picked in chosen.items():
                found.setdefault((share, by), []).append(tau_of(unseen, picked))
            for _ in range(draws):
                found.setdefault((share, "random"), []).append(tau_of(unseen, random_subset(costs, budget, rng)))
    rows = [{"share": s, "by": by, "tau": np.mean(t), "sd": np.std(t), "n": len(t)} for (s, by), t in found.items()]
    return pd.DataFrame(rows, columns=["share", "by", "tau", "sd", "n"])


def simulated_scores(components: Components, units: pd.DataFrame, methods: int, rng: np.random.Generator) -> UnitScores:
    """Draw scores of methods from the model of :class:`Components`."""
    values, vectors = np.linalg.eigh(components.covariance(units))
    x = rng.standard_normal((methods, len(units))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return UnitScores(tuple(f"m{k}" for k in range(methods)), units, np.asarray(x))


def grid_of_units(contexts: int, folds: int, probes: int = 1) -> pd.DataFrame:
    """Units of a full design, with made-up names."""
    rows = [
        ("simulated", "lfc", f"c{c:03d}", f, f"p{p}")
        for c in range(contexts)
        for f in range(folds)
        for p in range(probes)
    ]
    return pd.DataFrame(rows, columns=UNIT)


def read_like(path: str | Path, *, metric: str | None = None) -> UnitScores:
    """Read scores of other embeddings: a results folder, a tidy score table, or a table of published scores.

    Raises
    ------
    InputError
        Neither, or too few embeddings with all scores.
    StoreError
        A results folder without scores.
    """
    if Path(path).is_dir():
        from panmodal.evaluation.store import Store

        return unit_scores(Store(path).scores(), metric=metric)
    from panmodal.evaluation.published import import_scores

    return unit_scores(import_scores(path).scores, metric=metric)

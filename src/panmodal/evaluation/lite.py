"""A part of a plan that ranks the embeddings as the whole would: which contexts, folds and probes to run on a budget.

Scores are standardised: in each unit (task, fold, probe) the mean over methods is subtracted, and the deviations of a task divided by
their standard deviation. A method's result is the mean over tasks of its mean over the units of a task. A subset is as good as its
result agrees with that of all units over methods drawn from the same population; with the covariance S of the units over methods, and
weights u (subset) and v (all), that is the correlation u'Sv / sqrt(u'Su v'Sv), and for normal scores Kendall's tau is
2/pi asin of it (Greiner's relation).

Folds share their test perturbations and their projections over contexts and probes: a further context of a fold that is run already
costs less than a new fold, and tells less that is new.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.evaluation.lite_units import TASK, Values
from panmodal.evaluation.plan import Plan


def weights_of(chosen: Sequence[int] | NDArray[np.intp], units: pd.DataFrame) -> Values:
    """Weights with which units make a method's result: tasks alike, and within a task its units alike."""
    u, task = np.zeros(len(units)), units.groupby(TASK, sort=False).ngroup().to_numpy()
    own, sizes = np.unique(task[np.asarray(chosen)], return_counts=True)
    share = dict(zip(own.tolist(), (1.0 / (len(own) * sizes)).tolist(), strict=True))
    for k in chosen:
        u[k] = share[int(task[k])]
    return u


def correlation(chosen: Sequence[int] | NDArray[np.intp], units: pd.DataFrame, covariance: Values) -> float:
    """Return the expected correlation of the results of some units with those of all, over methods."""
    u, v = weights_of(chosen, units), weights_of(range(len(units)), units)
    scale = float(u @ covariance @ u) * float(v @ covariance @ v)
    return float(u @ covariance @ v) / np.sqrt(scale) if scale > 0 else 0.0


def expected_tau(r: float) -> float:
    """Kendall's tau of normal variables with correlation r (Greiner's relation)."""
    return float(2 / np.pi * np.arcsin(np.clip(r, -1.0, 1.0)))


@dataclass(frozen=True)
class Costs:
    """Seconds of each unit (``own``, in the order of units) and those of each fold that its units share (by number)."""

    own: Values
    shared: dict[int, float]
    fold: NDArray[np.intp]

    def __post_init__(self) -> None:
        if (self.own < 0).any() or min(self.shared.values(), default=0.0) < 0:
            raise InputError("costs of units cannot be negative.")

    def of(self, chosen: Sequence[int] | NDArray[np.intp]) -> float:
        """Seconds of some units."""
        chosen = np.asarray(chosen, dtype=int)
        return float(self.own[chosen].sum()) + sum(self.shared.get(int(f), 0.0) for f in np.unique(self.fold[chosen]))

    @property
    def total(self) -> float:
        """Seconds of all units."""
        return self.of(range(len(self.own)))

    @classmethod
    def even(cls, units: pd.DataFrame, shared: float = 0.0) -> Costs:
        """Every unit costs 1, and each fold ``shared`` beside."""
        fold = units.groupby(["screen", "fold"], sort=False).ngroup().to_numpy()
        return cls(np.ones(len(units)), {int(f): shared for f in np.unique(fold)}, fold)


def choose(units: pd.DataFrame, covariance: Values, costs: Costs, budget: float) -> list[int]:
    """Choose units within a budget so that the expected correlation with the whole is largest.

    Greedy forward selection by the gain for each second and by the gain alone, among all folds and among the first one, two, ...
    (a greedy choice does not see that a fold pays only with many units), and the plain designs (:func:`designs`); the best of them
    within the budget is taken.

    Parameters
    ----------
    units
        Columns :data:`UNIT`.
    covariance
        Of the units over methods.
    costs
        Seconds.
    budget
        Seconds that may be spent.

    Returns
    -------
    list of int
        Positions of the chosen units, in the order in which they were chosen.

    Raises
    ------
    InputError
        The budget is not enough for any unit.
    """
    if not np.isfinite(budget) or budget <= 0:
        raise InputError(f"a budget of {budget:g} s; it must be a positive number.")
    rank = units.groupby("screen", sort=False)["fold"].transform(lambda f: pd.factorize(f, sort=True)[0]).to_numpy()
    found = [_greedy(units, covariance, costs, budget, by_cost, rank < k)
             for by_cost in (True, False) for k in range(1, rank.max() + 2)]  # fmt: skip
    found += [c for _, c in designs(units) if costs.of(c) <= budget]
    found = [f for f in found if f]
    if not found:
        least = min(costs.of([k]) for k in range(len(units)))
        raise InputError(
            f"a budget of {budget:.3g} s is not enough for any context, fold and probe; the least is {least:.3g} s."
        )
    return max(found, key=lambda c: correlation(c, units, covariance))


def _greedy(units: pd.DataFrame, covariance: Values, costs: Costs, budget: float, by_cost: bool,
            free: NDArray[np.bool_] | None = None) -> list[int]:  # fmt: skip
    task = units.groupby(TASK, sort=False).ngroup().to_numpy()
    n, n_tasks, whole_weights = len(units), task.max() + 1, weights_of(range(len(units)), units)
    towards, own = covariance @ whole_weights, np.diag(covariance)
    whole = float(whole_weights @ towards)
    # Of the mean of a task's chosen units: covariance with every unit, with the means of the tasks, and with the whole.
    sums, inner = np.zeros((n_tasks, n)), np.zeros((n_tasks, n_tasks))
    sizes, toward, all_sums = np.zeros(n_tasks), np.zeros(n_tasks), np.zeros(n)
    chosen: list[int] = []
    paid: set[int] = set()
    spent, best = 0.0, 0.0
    free = np.ones(n, dtype=bool) if free is None else free.copy()
    fixed = np.array([costs.shared.get(int(f), 0.0) for f in costs.fold])
    while True:
        extra = costs.own + fixed
        able = np.flatnonzero(free & (spent + extra <= budget * (1 + 1e-9)))
        if not len(able):
            return chosen
        c = task[able]
        share, across, count = sizes[c] / (sizes[c] + 1), inner.sum(axis=1), (sizes > 0).sum() + (sizes[c] == 0)
        crossed = share * (across[c] - np.diag(inner)[c]) + (1 - share) * (all_sums[able] - sums[c, able])
        within = share**2 * np.diag(inner)[c] + 2 * share * (1 - share) * sums[c, able] + (1 - share) ** 2 * own[able]
        variance = (inner.sum() - 2 * across[c] + np.diag(inner)[c] + 2 * crossed + within) / count**2
        common = (toward.sum() - toward[c] + share * toward[c] + (1 - share) * towards[able]) / count
        gain = common / np.sqrt(np.maximum(variance * whole, 1e-300)) - best
        pick = int(np.argmax(gain / np.maximum(extra[able], 1e-12) if by_cost and (gain > 0).any() else gain))
        k, t = int(able[pick]), int(c[pick])
        s = sizes[t] / (sizes[t] + 1)
        row = s * inner[t] + (1 - s) * sums[:, k]
        row[t] = s**2 * inner[t, t] + 2 * s * (1 - s) * sums[t, k] + (1 - s) ** 2 * own[k]
        inner[t], inner[:, t] = row, row
        changed = s * sums[t] + (1 - s) * covariance[k]
        all_sums += changed - sums[t]
        sums[t], toward[t] = changed, s * toward[t] + (1 - s) * towards[k]
        best += float(gain[pick])
        sizes[t] += 1
        spent += float(extra[k])
        if int(costs.fold[k]) not in paid:
            paid.add(int(costs.fold[k]))
            fixed[costs.fold == costs.fold[k]] = 0.0
        free[k] = False
        chosen.append(k)


def designs(units: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """Plain ways of doing less: the first folds only, with all probes or one; every so-manyth context, with all folds or one."""
    fold = units.groupby("screen", sort=False)["fold"].transform(lambda f: pd.factorize(f, sort=True)[0]).to_numpy()
    task = units.groupby(TASK, sort=False).ngroup().to_numpy()
    probe = pd.factorize(units["probe"])[0]
    made: dict[str, NDArray[np.bool_]] = {}
    for k in range(1, fold.max() + 2):
        made[f"{k} fold(s), all contexts and probes"] = fold < k
        for p in range(probe.max() + 1 if probe.max() else 0):
            made[f"{k} fold(s), all contexts, {units['probe'][probe == p].iloc[0]}"] = (fold < k) & (probe == p)
    step = 2
    while step <= task.max():
        made[f"every {step}th context, all folds and probes"] = task % step == 0
        made[f"every {step}th context, one fold, all probes"] = (task % step == 0) & (fold == 0)
        step *= 2
    return [(name, np.flatnonzero(mask).tolist()) for name, mask in made.items() if mask.any() and not mask.all()]


def random_subset(costs: Costs, budget: float, rng: np.random.Generator) -> list[int]:
    """Units in random order, each taken if the budget still allows it."""
    chosen: list[int] = []
    for k in rng.permutation(len(costs.own)).tolist():
        if costs.of([*chosen, k]) <= budget:
            chosen.append(k)
    return chosen


def restrict_plan(plan: Plan, digests: Collection[str]) -> Plan:
    """Return the plan with only those trials; sources keep their numbers, and groups without a trial go.

    Raises
    ------
    InputError
        A digest is not one of the plan's trials: inputs or options have changed since it was written. Or there are none.
    """
    wanted = frozenset(digests)
    known = {t.digest for t in plan.trials}
    unknown = sorted(wanted - known)
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(wanted)} trials of the given plan ({some(unknown, 3)}) are not among those of these inputs: "
            "the screen, "
            "an embedding, the split, a probe or the version has changed. Make the plan anew with panmodal plan and the same options."
        )
    if not wanted:
        raise InputError("the given plan wants no trial.")
    kept = [replace(g, trials=tuple(t for t in g.trials if t.digest in wanted)) for g in plan.groups]
    note = f"{len(wanted)} of {len(known)} trials, as the given plan wants"
    return replace(plan, groups=tuple(g for g in kept if g.trials), notes=(*plan.notes, note))


def parse_budget(text: str, seconds: float, workers: float = 1.0) -> float:
    """Read a budget: a share of the work (``0.2``, ``20%``), or time on the workers (``3h``, ``90m``, ``600s``); in seconds of work.

    Parameters
    ----------
    text
        What was given.
    seconds
        Work of the whole plan.
    workers
        Workers that are busy in that time.

    Raises
    ------
    InputError
        Neither; or a share that is not above 0 and at most 1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|h|m|min|s)?\s*", text)
    if not found:
        raise InputError(f"--lite {text!r}: give a share of the work (0.2 or 20%) or a time (3h, 90m, 600s).")
    number, unit = float(found[1]), found[2]
    if unit in (None, "%"):
        share = number / (100 if unit else 1)
        if not 0 < share <= 1:
            raise InputError(
                f"--lite {text!r}: a share of the work is above 0 and at most 1; times have a unit (3h, 90m, 600s)."
            )
        return share * seconds
    budget = number * {"h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}[unit] * workers
    if budget <= 0:
        raise InputError(f"--lite {text!r}: the time must be above 0.")
    return budget

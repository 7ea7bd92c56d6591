"""What is known of scores before they are there: how methods' effects vary over contexts, folds and probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError

TASK = ["screen", "response", "context"]
UNIT = [*TASK, "fold", "probe"]
PARTS = ("method", "context", "fold", "probe", "context_fold", "context_probe", "fold_probe", "noise")
"""What a score is the sum of, beside the mean of its unit: the method's effect, and its interactions."""
PRIOR = 20
"""So many methods count the usual variances of the parts beside those estimated."""
_SAME = ((), ("c",), ("f",), ("p",), ("c", "f"), ("c", "p"), ("f", "p"), ("c", "f", "p"))

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Variances of the parts of a standardised score; ``context`` is that of method x context, and so on.

    Unless given: about the means over the published scores of the Essential, sci-Plex 3 and Tahoe screens, but for ``context``, which
    is 0.01 there and set higher here, since contexts of other screens may differ more.
    """

    method: float = 0.56
    context: float = 0.03
    fold: float = 0.20
    probe: float = 0.10
    context_fold: float = 0.09
    context_probe: float = 0.02
    fold_probe: float = 0.10
    noise: float = 0.03

    def __post_init__(self) -> None:
        values = [getattr(self, p) for p in PARTS]
        if min(values) < 0 or not np.isfinite(values).all():
            raise InputError("variances of the parts of a score must be numbers of at least 0.")

    def covariance(self, units: pd.DataFrame) -> Values:
        """Covariance of units (columns :data:`UNIT`) over methods."""
        same = _same(units)
        total = np.zeros((len(units), len(units)))
        for part, keys in zip(PARTS, _SAME, strict=True):
            where = np.ones_like(total, dtype=bool)
            for key in keys:
                where &= same[key]
            total += getattr(self, part) * where
        return total


def _same(units: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Whether two units share their context, fold and probe."""
    codes = {"c": units.groupby(TASK, sort=False).ngroup().to_numpy(),
             "f": units.groupby(["screen", "fold"], sort=False).ngroup().to_numpy(),
             "p": pd.factorize(units["probe"])[0]}  # fmt: skip
    return {k: v[:, None] == v[None, :] for k, v in codes.items()}


@dataclass(frozen=True)
class UnitScores:
    """Standardised scores: ``values`` are methods x units, higher is better; ``left_out`` are methods that lack a unit."""

    methods: tuple[str, ...]
    units: pd.DataFrame
    values: Values
    left_out: tuple[str, ...] = ()

    def part(self, rows: Sequence[int] | NDArray[np.intp]) -> UnitScores:
        """Return some of the methods, standardised among themselves."""
        rows = np.asarray(rows)
        return UnitScores(tuple(self.methods[k] for k in rows), self.units, _standard(self.values[rows], self.units))


def unit_scores(scores: pd.DataFrame, *, metric: str | None = None, fallback: str = "filled") -> UnitScores:
    """Read standardised scores of embeddings from a tidy score table.

    Parameters
    ----------
    scores
        Tidy score table (``scores.parquet`` or imported scores).
    metric
        Metric; the primary one of each kind of response unless given.
    fallback
        Coverage rule.

    Raises
    ------
    InputError
        Columns are missing, or fewer than three methods have every unit.
    """
    from panmodal.evaluation.metrics import METRICS
    from panmodal.insight.leaderboard import check_scores, first_metric

    table = check_scores(scores)
    table = table[(table["role"] == "embedding") & (table["fallback"] == fallback)]
    if metric is not None:
        if metric not in METRICS:
            raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}.")
        table = table[table["metric"] == metric]
    else:
        there = table.groupby("response")["metric"].agg(set)
        table = table[table["metric"] == table["response"].map({r: first_metric(r, m) for r, m in there.items()})]
    if table.empty:
        raise InputError(f"no scores of embeddings {f'by {metric} ' if metric else ''}to learn from.")
    sign = table["metric"].map(lambda m: 1.0 if METRICS[m].higher_is_better else -1.0)
    wide = table.assign(value=table["value"] * sign).pivot_table("value", "embedding", UNIT, aggfunc="mean", sort=False)
    # What few methods have run (an own model as probe) is no unit of a comparison.
    wide = wide.loc[:, wide.notna().mean() >= 0.5]
    whole = wide.dropna()
    if len(whole) < 3 or whole.shape[1] == 0:
        raise InputError(
            f"{len(whole)} of {len(wide)} embeddings have a score in each of the {wide.shape[1]} units (context, fold, probe); at "
            "least 3 are needed to learn which units tell embeddings apart."
        )
    units = whole.columns.to_frame(index=False)
    gone = tuple(str(m) for m in wide.index if m not in whole.index)
    return UnitScores(tuple(map(str, whole.index)), units, _standard(whole.to_numpy(dtype=np.float64), units), gone)


def _standard(values: Values, units: pd.DataFrame) -> Values:
    centred = values - values.mean(axis=0)
    task = units.groupby(TASK, sort=False).ngroup().to_numpy()
    scale = np.sqrt(np.array([np.mean(centred[:, task == k] ** 2) for k in range(task.max() + 1)]))
    return np.asarray(centred / np.where(scale > 0, scale, 1.0)[task])


def components_of(scores: UnitScores) -> Components:
    """Estimate the variances of the parts from the mean covariances of pairs of units that share what they share (moments, NNLS)."""
    from scipy.optimize import nnls

    same, covariance = _same(scores.units), scores.values.T @ scores.values / max(1, len(scores.methods) - 1)
    rows, means, weights = [], [], []
    for c in (False, True):
        for f in (False, True):
            for p in (False, True):
                where = (same["c"] == c) & (same["f"] == f) & (same["p"] == p)
                if where.any():
                    shared = {k for k, on in (("c", c), ("f", f), ("p", p)) if on}
                    rows.append([float(set(keys) <= shared) for keys in _SAME])
                    means.append(float(covariance[where].mean()))
                    weights.append(np.sqrt(np.sqrt(where.sum())))
    w = np.array(weights)
    found, _ = nnls(np.array(rows) * w[:, None], np.array(means) * w)
    return Components(**dict(zip(PARTS, map(float, found), strict=True)))


def blended(found: Components, methods: int) -> Components:
    """Draw variances that were estimated from few methods towards the usual ones, which count as :data:`PRIOR` methods."""
    usual, share = Components(), methods / (methods + PRIOR)
    return Components(**{p: share * getattr(found, p) + (1 - share) * getattr(usual, p) for p in PARTS})


def shrunk_covariance(scores: UnitScores) -> Values:
    """Covariance of the units over methods, drawn towards that of the components as far as few methods make it uncertain.

    The weight is that of Ledoit and Wolf (2004) with the components in place of the identity.
    """
    x, n = scores.values, len(scores.methods)
    sample, target = x.T @ x / n, blended(components_of(scores), n).covariance(scores.units)
    spread = float(np.sum((x**2).T @ (x**2) / n - sample**2)) / n
    weight = min(1.0, spread / max(float(np.sum((sample - target) ** 2)), 1e-12))
    return weight * target + (1 - weight) * sample

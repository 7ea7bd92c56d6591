"""Rank correlations with bootstrap intervals: what goes with being predicted well."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.insight.gaps import LEVEL, TASK
from panmodal.insight.predictability import COVARIATES

DRAWS = 1000
FEWEST = 10
"""Below so many pairs no correlation is given."""
Values = NDArray[np.float64]


def spearman(x: Values, y: Values, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Spearman correlation with a 95 % percentile bootstrap interval over pairs.

    Ranks are taken anew in every bootstrap sample: the rank of a value in a sample is the number of drawn values below it plus
    half of those equal to it plus one half, so that each draw costs a cumulative sum and no sort.

    Returns
    -------
    tuple
        Correlation, lower and upper bound; NaN with fewer than 10 pairs or where either side is constant.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"two series of one length are needed, not {x.shape} and {y.shape}.")
    known = np.isfinite(x) & np.isfinite(y)
    n = int(known.sum())
    if n < FEWEST:
        return np.nan, np.nan, np.nan
    weights = np.concatenate([np.ones((1, n)), _weights(n, draws, seed)])
    found = _correlation(_ranks(x[known], weights), _ranks(y[known], weights), weights)
    return _with_interval(found)


def _weights(n: int, draws: int, seed: int) -> Values:
    """How often each of n pairs is drawn in each bootstrap sample (draws x n)."""
    picked = np.random.default_rng([seed, n]).integers(n, size=(draws, n))
    picked += n * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _ranks(values: Values, weights: Values) -> Values:
    """Average ranks in each weighted sample (draws x n); a pair that is not drawn has the rank that it would have."""
    codes = np.unique(values, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(tied, axis=1) - tied / 2 + 0.5)[:, codes]


def _correlation(a: Values, b: Values, weights: Values) -> Values:
    """Weighted Pearson correlation of the ranks of each draw; NaN where either is constant."""
    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    a, b = a - middle, b - middle
    together = np.einsum("ij,ij,ij->i", weights, a, b)
    spread = np.einsum("ij,ij,ij->i", weights, a, a) * np.einsum("ij,ij,ij->i", weights, b, b)
    return np.clip(np.divide(together, np.sqrt(spread), out=np.full(len(a), np.nan), where=spread > 0), -1.0, 1.0)


def _with_interval(found: Values) -> tuple[float, float, float]:
    """Split into the value (first) and the percentile interval of the draws; none where more than 5 % are undefined."""
    drawn = found[1:][np.isfinite(found[1:])]
    if not np.isfinite(found[0]) or len(drawn) < LEVEL * (len(found) - 1) or not len(drawn):
        return float(found[0]), np.nan, np.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(found[0]), float(low), float(high)


def correlations(
    table: pd.DataFrame, covariates: Sequence[str] = COVARIATES, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Correlate what embeddings add on each perturbation with what they are like.

    Parameters
    ----------
    table
        Of :func:`panmodal.insight.predictability.perturbation_table`, of one task or more.
    covariates
        Columns to hold it against; those that are not there are left out.

    Returns
    -------
    pandas.DataFrame
        One row per task, fallback and covariate: ``n`` (perturbations), ``rho`` (Spearman, of ``added``: the improvement on the
        controls), ``low`` and ``high`` (95 % bootstrap over perturbations, which are taken as independent),
        ``rho_given_effect`` (partial rank correlation with ``effect_size`` held fixed: (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1
        - r_yz^2))), ``rho_improvement`` (of the improvement over the floor), ``rho_control`` (of the controls' improvement:
        what the metric and the floor do by themselves) and ``rho_gain`` (of the gain in units of the metric, which for errors
        grows with the error to be made).
    """
    unknown = [c for c in covariates if c not in COVARIATES and c not in table]
    if unknown:
        raise InputError(f"table of perturbations: no column {unknown[0]!r} to correlate with.")
    records = []
    for keys, own in table.groupby([*TASK, "fallback"], sort=False):
        task, fallback = keys[:-1], keys[-1]
        entropy = _entropy(keys, seed)
        for name in covariates:
            if name not in own or not own[name].notna().any():
                continue
            x, y = own[name].to_numpy(np.float64), own["added"].to_numpy(np.float64)
            rho, low, high = spearman(x, y, draws=draws, seed=entropy)
            given = np.nan
            if name != "effect_size" and "effect_size" in own:
                given = _partial(x, y, own["effect_size"].to_numpy(np.float64))
            records.append({
                **dict(zip(TASK, task, strict=True)), "metric": own["metric"].iloc[0], "fallback": fallback, "covariate": name,
                "n": int((np.isfinite(x) & np.isfinite(y)).sum()), "rho": rho, "low": low, "high": high, "rho_given_effect": given,
                "rho_improvement": _rho(x, own["improvement"].to_numpy(np.float64)),
                "rho_control": _rho(x, own["control_improvement"].to_numpy(np.float64)), "rho_gain": _rho(x, own["gain"].to_numpy()),
            })  # fmt: skip
    columns = [*TASK, "metric", "fallback", "covariate", "n", "rho", "low", "high", "rho_given_effect", "rho_improvement",
               "rho_control", "rho_gain"]  # fmt: skip
    return pd.DataFrame(records, columns=columns)


def across_tasks(table: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Ask whether the same perturbations are predicted well in two tasks.

    Returns
    -------
    pandas.DataFrame
        One row for each pair of tasks with 10 perturbations or more in common: ``task_a`` and ``task_b``, ``n``, ``rho``
        (Spearman of ``added``) with ``low`` and ``high``, and ``rho_control`` (of the controls' improvement).
    """
    records = []
    tasks = [(task, own.set_index("pert_id")) for task, own in table.groupby(TASK, sort=False)]
    for (a, left), (b, right) in combinations(tasks, 2):
        shared = left.index.intersection(right.index)
        if len(shared) < FEWEST:
            continue
        x, y = (side.loc[shared, "added"].to_numpy(np.float64) for side in (left, right))
        rho, low, high = spearman(x, y, draws=draws, seed=_entropy((*a, *b), seed))
        controls = [side.loc[shared, "control_improvement"].to_numpy(np.float64) for side in (left, right)]
        records.append((" · ".join(map(str, a)), " · ".join(map(str, b)), len(shared), rho, low, high, _rho(*controls)))
    return pd.DataFrame(records, columns=["task_a", "task_b", "n", "rho", "low", "high", "rho_control"])


def _rho(x: Values, y: Values) -> float:
    return spearman(x, y, draws=0)[0]


def _partial(x: Values, y: Values, z: Values) -> float:
    """Partial Spearman correlation of x and y given z, over rows where all are known."""
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    xy, xz, yz = (_rho(a[known], b[known]) for a, b in ((x, y), (x, z), (y, z)))
    left = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / np.sqrt(left)) if np.isfinite(left) and left > 1e-12 else np.nan


def _entropy(task: Sequence[object], seed: int) -> int:
    """Seed of a task's draws, so that tasks do not depend on each other."""
    return int.from_bytes(hashlib.sha256("\x00".join([*map(str, task), str(seed)]).encode()).digest()[:6], "big")

"""What a trial costs, in steps with physical meaning: amounts of work, and a model that turns them into seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import RESAMPLINGS
from panmodal.evaluation.metrics import METRICS
from panmodal.probes.base import CLASSES, probes
from panmodal.probes.design import INNER_FOLDS
from panmodal.probes.projection import n_components

Steps = dict[str, float]
"""Amount of work by step, in billions of elementary operations (``files``, ``trials``, ``groups``: in pieces)."""

GIGA = 1e-9
UNKNOWN = 60.0
"""Seconds for a billion operations of a step that nobody has timed, and no step like it: slow on purpose."""
DATA_DEPENDENT = {"logistic": (0.2, 8.0)}
"""Factors by which times of the same size differ with the data: separable labels take many more steps of the solver."""
UNTIMED = (0.1, 10.0)
"""Factors for a probe that nobody has timed."""
TICK = 1e-3
"""Seconds below which errors do not count: they are added to both sides of a relative error."""


@dataclass(frozen=True)
class Shape:
    """Size of a trial: training and test perturbations with a vector, all test perturbations, dims of the embedding, read-outs."""

    n_train: int
    n_test: int
    rows: int
    dims: int
    readouts: int
    response: str

    def __post_init__(self) -> None:
        sizes = (self.n_train, self.n_test, self.rows, self.dims, self.readouts)
        if min(sizes) < 0 or not all(np.isfinite(sizes)):
            raise InputError(f"a trial of {self}: sizes are counts and cannot be negative.")


def added(*parts: Mapping[str, float]) -> Steps:
    """Sum of several amounts of work."""
    total: Steps = {}
    for part in parts:
        for step, amount in part.items():
            total[step] = total.get(step, 0.0) + amount
    return total


def design_steps(n: int, m: int, dims: int) -> Steps:
    """Scaling and PCA of five inner folds and the final fit: Gram matrix of the smaller side, its eigenvectors, SVD of the scores."""
    r = n_components(n, dims)
    inner = (1 - 1 / INNER_FOLDS) * n
    sizes = [(inner, n / INNER_FOLDS)] * INNER_FOLDS + [(float(n), float(m))]
    small = [min(a, dims) for a, _ in sizes]
    return {
        "design.gram": GIGA * sum(a * dims * s for (a, _), s in zip(sizes, small, strict=True)),
        "design.eigen": GIGA * sum(s**3 for s in small),
        "design.scores": GIGA * sum((2 * a + b) * dims * r + 4 * a * r * r + (dims * r * r if dims > a else 0) for a, b in sizes),
        "design.passes": GIGA * sum((a + b) * dims for a, b in sizes),
        "design": 1.0,
    }  # fmt: skip


def target_steps(n: int, readouts: int, response: str) -> Steps:
    """Take the training responses of a context, and their Gram matrix, out of the mapped files."""
    return {"targets": GIGA * (n * readouts + (0 if response in CLASSES else n * n))}


def probe_steps(shape: Shape, probe: str) -> Steps:
    """Choose the hyper-parameter over the inner folds, fit, predict.

    Kinds of work: ``products`` of scores and responses (n r t), ``values`` predicted or compared (n t), ``rows``: distances and
    smoothers (n^2 r), ``neighbours`` (n k^2 of the Gram matrix), ``votes`` (n k t), ``coefficients`` (r^2 t). The known probes do
    some of them; of a probe that is not in the table all are assumed, each with its own price.
    """
    n, m, t = shape.n_train, shape.n_test, shape.readouts
    r = n_components(n, shape.dims)
    known = probes().get(probe)
    grid = known.candidates(known.grid, n) if known else (1.0,) * 5
    folds, of_k = INNER_FOLDS, [min(n, int(k)) for k in grid] if known and known.parameter == "k" else [0]
    every = {
        "products": {"lasso": (folds + 1 + 0.5 * len(grid)) * n * r * t, "ridge": n * r * t + m * r * t,
                     "logistic": (folds + 1) * len(grid) * n * r * t, "knn": 0.0}.get(probe, (folds + 1) * n * r * t),
        "values": {"ridge": m * t, "knn": m * t}.get(probe, (len(grid) * n + m) * t),
        "rows": (n * n + n * m) * (r + 1),
        "neighbours": n * max(of_k) ** 2,
        "votes": {"knn": m * of_k[0] * t}.get(probe, (n * sum(of_k) + m * of_k[0]) * t),
        "coefficients": folds * len(grid) * r * r * t,
    }  # fmt: skip
    kinds = WORK.get(probe, tuple(every))
    return {f"{probe}.{kind}": GIGA * every[kind] for kind in kinds if every[kind]} | {probe: 1.0}


WORK = {
    "knn": ("rows", "neighbours", "votes", "values"),
    "lasso": ("products", "values", "coefficients"),
    "ridge": ("rows", "products", "values"),
    "knn_classifier": ("rows", "values", "votes"),
    "ridge_classifier": ("rows", "products", "values"),
    "logistic": ("products",),
}
"""Kinds of work that the probes do, where they are known."""


def metric_steps(rows: int, readouts: int, metrics: Sequence[str], response: str) -> Steps:
    """Score predictions: passes over m x t values, sorts of t (or m) values, comparisons of all pairs of rows (m^2 t)."""
    m, t = rows, readouts
    values = GIGA * m * t
    own = [METRICS[name] for name in metrics if name in METRICS]
    if response in CLASSES:
        by_gene = sum(x.name in ("ROC_AUC", "average_precision") for x in own)
        by_row = sum(x.name in ("AUPRC", "overlap_at_N", "precision_at_N") for x in own)
        return {
            "labels.passes": values * (1 + len(own)),
            "labels.sorts": values * (6 * by_gene * np.log2(m + 1) + by_row * np.log2(t + 1)),
            "labels.draws": values * RESAMPLINGS * any(x.from_counts for x in own),
        }
    pairs = {x.name for x in own if x.name.startswith("PDS")}
    return {
        "metrics.passes": values * (1 + len(own)),
        "metrics.sorts": values * np.log2(t + 1) * sum("Spearman" in x.name for x in own),
        "metrics.pairs": values * m * ("PDS_L1" in pairs),
        "metrics.products": values * m * len(pairs - {"PDS_L1"}),
    }


def write_steps(rows: int, readouts: int, response: str, keep: bool = True) -> Steps:
    """Pack, compress and write predictions (bytes, in billions) and values of perturbations; ``files``: those made."""
    made = rows * readouts * (8 if response in CLASSES else 4)
    return {"write.bytes": GIGA * made * (1.0 if keep else 0.25), "files": 3.0 if response in CLASSES else 2.0}


def context_steps(n: int, readouts: int, response: str, metrics: Sequence[str]) -> Steps:
    """Lay out a context once for all: Gram matrix of the responses and their ranks, written and mapped; responses kept."""
    values = GIGA * n * readouts
    ranks = any("Spearman" in name for name in metrics) and response not in CLASSES
    return {
        "layout.gram": 0.0 if response in CLASSES else values * n,
        "layout.sorts": 2 * values * np.log2(readouts + 1) * ranks,
        "layout.bytes": values * 4 * (2 + 2 * ranks),
        "contexts": 1.0,
    }


def prepare_steps(n: int, readouts: int, response: str) -> Steps:
    """Keep the responses of a context in the results folder, and make its oracle: principal components of the responses."""
    small = min(n, readouts)
    return {
        "write.bytes": GIGA * 4 * n * readouts,
        "files": 1.0,
        "design.gram": GIGA * n * readouts * small,
        "design.eigen": GIGA * small**3,
    }


@dataclass(frozen=True)
class CostModel:
    """Seconds for each unit of work.

    Attributes
    ----------
    prices
        Seconds by step.
    low, high
        Factors: nine of ten measured times lie between ``low`` and ``high`` times the estimate.
    source
        Where the prices come from.
    resident
        Bytes of a process that has loaded its libraries.
    start
        Seconds that a worker needs to come up.
    """

    prices: Mapping[str, float]
    low: float = 0.5
    high: float = 2.0
    source: str = "given"
    resident: float = 300e6
    start: float = 3.0
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        bad = [s for s, p in self.prices.items() if not np.isfinite(p) or p < 0]
        if bad:
            raise InputError(
                f"cost model ({self.source}): the price of {bad[0]!r} is {self.prices[bad[0]]}; want 0 or more."
            )
        if not 0 < self.low <= 1 <= self.high:
            raise InputError(
                f"cost model ({self.source}): the band {self.low:g} to {self.high:g} must hold 1 and be above 0."
            )

    def price(self, step: str) -> float:
        """Seconds for a unit of a step; of one nobody has timed: the dearest price of the same kind of work."""
        if step in self.prices:
            return self.prices[step]
        _, dot, kind = step.partition(".")
        like = [p for s, p in self.prices.items() if dot and s.partition(".")[2] == kind]
        if not dot:
            like = [p for s, p in self.prices.items() if s in probes()]
        return max(like) if like else UNKNOWN

    def seconds(self, steps: Mapping[str, float]) -> float:
        """Seconds that amounts of work take."""
        return float(sum(self.price(step) * amount for step, amount in steps.items()))

    def timed(self, steps: Iterable[str]) -> bool:
        """Whether all of these steps have a price of their own."""
        return all(step in self.prices for step in steps)

    def to_record(self) -> dict[str, Any]:
        """Return the model as plain values."""
        return {"prices": dict(self.prices), "low": self.low, "high": self.high, "source": self.source,
                "resident": self.resident, "start": self.start, "notes": list(self.notes)}  # fmt: skip

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> CostModel:
        """Rebuild a model from :meth:`to_record`; ``where`` is named where it is not one."""
        try:
            return cls(**{**record, "prices": {str(k): float(v) for k, v in record["prices"].items()},
                          "notes": tuple(record.get("notes", ()))})  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: not a calibration ({error}). Remove it, or renew it with --calibrate."
            ) from error


@dataclass(frozen=True)
class Observation:
    """A measured time and the work that was done in it; ``group`` tells which observations share a size (held out together)."""

    steps: Steps
    seconds: float
    group: str = ""


def fit_costs(observations: Sequence[Observation], *, prior: CostModel | None = None, weight: float = 0.05,
              source: str = "fitted") -> CostModel:  # fmt: skip
    """Fit prices that are not negative by least squares of relative errors (NNLS; Lawson and Hanson 1974).

    Parameters
    ----------
    observations
        Measured times.
    prior
        Prices to lean on: those of another fit, all multiplied by the factor (median) by which times differ here. They stand for
        what the observations say nothing about.
    weight
        How much they count, as a share of the observations.
    source
        Recorded in the model.

    Returns
    -------
    CostModel
        Its band is that of the 5 % and 95 % quantiles of measured over estimated times, each group estimated from the others.

    Raises
    ------
    InputError
        No observation, or a time that is not a positive number.
    """
    if not observations:
        raise InputError("no measured times to fit costs to.")
    bad = [o for o in observations if not np.isfinite(o.seconds) or o.seconds <= 0]
    if bad:
        raise InputError(f"a measured time of {bad[0].seconds} s ({', '.join(bad[0].steps)}); times are above 0.")
    if prior is not None:
        ratio = float(np.median([(o.seconds + TICK) / (prior.seconds(o.steps) + TICK) for o in observations]))
        prior = CostModel({s: p * ratio for s, p in prior.prices.items()}, prior.low, prior.high, prior.source,
                          prior.resident, prior.start, prior.notes)  # fmt: skip
    prices = _solve(observations, prior, weight)
    ratios = _held_out(observations, prior, weight)
    low, high = np.quantile(ratios, [0.05, 0.95]) if len(ratios) else (0.5, 2.0)
    known = dict(prior.prices) if prior else {}
    more: dict[str, Any] = {"resident": prior.resident, "start": prior.start} if prior else {}
    return CostModel(
        {**known, **prices}, float(np.clip(low, 0.01, 1.0)), float(np.clip(high, 1.0, 100.0)), source, **more
    )


def _solve(observations: Sequence[Observation], prior: CostModel | None, weight: float) -> Steps:
    from scipy.optimize import nnls

    steps = sorted({s for o in observations for s, amount in o.steps.items() if amount > 0})
    seconds = np.array([o.seconds for o in observations])
    x = np.array([[o.steps.get(s, 0.0) for s in steps] for o in observations]) / (seconds + TICK)[:, None]
    scale = np.linalg.norm(x, axis=0)
    scale[scale == 0] = 1.0
    x, y = x / scale, seconds / (seconds + TICK)
    if prior is not None:
        # One pseudo-observation for each price: that it is the prior's.
        expected = np.array([prior.price(s) for s in steps]) * scale
        held = np.sqrt(weight * len(observations)) / np.maximum(expected, 1e-6)
        x, y = np.vstack([x, np.diag(held)]), np.append(y, held * expected)
    found, _ = nnls(x, y, maxiter=50 * len(steps) + 1000)
    return {s: float(v) for s, v in zip(steps, found / scale, strict=True)}


def _held_out(observations: Sequence[Observation], prior: CostModel | None, weight: float) -> list[float]:
    """Measured over estimated times, each group of observations estimated from the others."""
    groups = sorted({o.group for o in observations})
    folds = [groups[k::5] for k in range(min(5, len(groups)))]
    ratios: list[float] = []
    for fold in folds if len(folds) > 1 else [[]]:
        kept = [o for o in observations if o.group not in fold]
        test = [o for o in observations if o.group in fold] or list(observations)
        known = dict(prior.prices) if prior else {}
        model = CostModel({**known, **_solve(kept, prior, weight)})
        ratios += [(o.seconds + TICK) / (model.seconds(o.steps) + TICK) for o in test if model.timed(o.steps)]
    return ratios

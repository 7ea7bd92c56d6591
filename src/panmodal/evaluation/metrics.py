"""All metrics as one declarative table, and those of continuous responses: one value for every test perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation import class_metrics as of_classes
from panmodal.evaluation.ranks import average_ranks, rank_correlation
from panmodal.probes.base import CLASSES, CONTINUOUS

Matrix = NDArray[np.float64]
Rows = NDArray[np.float64]

FLAT = 1e-6
"""A row whose deviations are below this share of its magnitude is constant within single precision."""


@dataclass(eq=False)
class Comparison:
    """Predicted and true responses of the test perturbations of one (context, fold), and what metrics share.

    Parameters
    ----------
    predicted, true
        m x t, rows are perturbations.
    train_mean
        Mean training response, length t.
    true_ranks, true_centred_ranks
        Average ranks of the rows of ``true`` and of ``true - train_mean`` where they are known already.
    """

    predicted: NDArray[Any]
    true: NDArray[Any]
    train_mean: NDArray[Any]
    true_ranks: NDArray[np.floating] | None = None
    true_centred_ranks: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        self.predicted = np.asarray(self.predicted, dtype=np.float64)
        self.true = np.asarray(self.true, dtype=np.float64)
        self.train_mean = np.asarray(self.train_mean, dtype=np.float64)
        if self.predicted.shape != self.true.shape or self.train_mean.shape != self.true.shape[1:]:
            raise InputError(
                f"predicted {self.predicted.shape}, true {self.true.shape} and train mean {self.train_mean.shape} do not fit."
            )

    @cached_property
    def difference(self) -> Matrix:
        """Predicted minus true."""
        return self.predicted - self.true

    @cached_property
    def predicted_deviation(self) -> Matrix:
        """Predicted minus the train mean; exactly zero in rows that equal it within single precision."""
        deviation = self.predicted - self.train_mean
        magnitude = np.abs(self.predicted).max(axis=1, initial=0.0) + np.abs(self.train_mean).max(initial=0.0)
        deviation[np.abs(deviation).max(axis=1, initial=0.0) <= FLAT * magnitude] = 0.0
        return deviation

    @cached_property
    def true_deviation(self) -> Matrix:
        """True minus the train mean."""
        return self.true - self.train_mean


def _correlation(a: Matrix, b: Matrix) -> Rows:
    """Pearson correlation of paired rows; NaN where either row is constant."""
    flat = _flat(a) | _flat(b)
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    return _cosine(a, b, flat)


def _flat(rows: Matrix) -> NDArray[np.bool_]:
    return np.ptp(rows, axis=1) <= FLAT * np.abs(rows).max(axis=1, initial=0.0)


def _cosine(a: Matrix, b: Matrix, undefined: NDArray[np.bool_] | None = None) -> Rows:
    norms = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    bad = norms == 0 if undefined is None else undefined | (norms == 0)
    out = np.full(len(a), np.nan)
    np.divide(np.einsum("ij,ij->i", a, b), norms, out=out, where=~bad)
    return np.clip(out, -1.0, 1.0)


def l2(c: Comparison) -> Rows:
    """Euclidean error of a row: sqrt(sum_g (p_g - y_g)^2)."""
    return np.sqrt(np.einsum("ij,ij->i", c.difference, c.difference))


def mse(c: Comparison) -> Rows:
    """Mean squared error of a row: mean_g (p_g - y_g)^2."""
    return np.einsum("ij,ij->i", c.difference, c.difference) / c.true.shape[1]


def mae(c: Comparison) -> Rows:
    """Mean absolute error of a row: mean_g |p_g - y_g|."""
    return np.abs(c.difference).mean(axis=1)


def pearson(c: Comparison) -> Rows:
    """Pearson correlation of p and y over read-outs; undefined for a constant row."""
    return _correlation(c.predicted, c.true)


def _spearman(predicted: Matrix, true: Matrix, ranks: NDArray[np.floating] | None) -> Rows:
    out = rank_correlation(predicted, average_ranks(true) if ranks is None else ranks)
    out[_flat(predicted) | _flat(true)] = np.nan
    return out


def spearman(c: Comparison) -> Rows:
    """Spearman correlation: Pearson of average ranks; undefined for a constant row."""
    return _spearman(c.predicted, c.true, c.true_ranks)


def pearson_centred(c: Comparison) -> Rows:
    """Pearson correlation of p - m and y - m, m the mean training response, so that variation shared by all is removed.

    Undefined where p equals m (no deviation is predicted).
    """
    return _correlation(c.predicted_deviation, c.true_deviation)


def spearman_centred(c: Comparison) -> Rows:
    """Spearman correlation of p - m and y - m, m the mean training response; undefined where p equals m."""
    return _spearman(c.predicted_deviation, c.true_deviation, c.true_centred_ranks)


def cosine(c: Comparison) -> Rows:
    """Cosine of p and y: p.y / (|p| |y|); undefined for a zero row."""
    return _cosine(c.predicted, c.true)


def _discrimination(distances: Matrix) -> Rows:
    """Share of the other test responses that lie farther from the prediction than the true one; ties count one half."""
    m = len(distances)
    if m < 2:
        return np.full(m, np.nan)
    own = np.diag(distances)[:, None]
    slack = 1e-12 * np.abs(distances).max(axis=1, keepdims=True)
    farther = (distances > own + slack).sum(axis=1)
    equal = (np.abs(distances - own) <= slack).sum(axis=1) - 1
    return (farther + 0.5 * equal) / (m - 1)


def discrimination_l1(c: Comparison) -> Rows:
    """Perturbation discrimination with L1 distance: normalised rank of the true response among all test responses of the fold.

    1: the prediction lies nearest to its own truth; 0.5: chance, also the mean over rows of any constant prediction. Ties
    count one half; undefined with a single test response.
    """
    from scipy.spatial.distance import cdist

    return _discrimination(cdist(c.predicted, c.true, "cityblock"))


def discrimination_l2(c: Comparison) -> Rows:
    """Perturbation discrimination (see ``PDS_L1``) with Euclidean distance."""
    # |p|^2 is the same for all candidates and would only cost precision.
    return _discrimination(np.einsum("ij,ij->i", c.true, c.true) - 2 * c.predicted @ c.true.T)


def discrimination_cosine(c: Comparison) -> Rows:
    """Perturbation discrimination (see ``PDS_L1``) with cosine distance; a zero row is equally far from all."""
    norms = np.sqrt(np.einsum("ij,ij->i", c.true, c.true))
    own = np.sqrt(np.einsum("ij,ij->i", c.predicted, c.predicted))[:, None]
    products = c.predicted @ c.true.T
    return _discrimination(1.0 - products / np.maximum(norms * own, np.finfo(float).tiny))


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes
    ----------
    name
        Name in tables.
    function
        Comparison (or LabelComparison) -> one value for each test perturbation, NaN where undefined; for ``axis`` ``gene`` one value
        for each gene, or for each class and gene. Its docstring is the formula.
    higher_is_better
        Direction.
    kinds
        Kinds of response it is defined for.
    no_skill
        Value that an undefined row contributes to a mean: 0 for metrics that are undefined exactly where no deviation
        from the train mean is predicted (else leaving ids uncovered would raise the filled-in score). None: undefined
        rows are left out and counted.
    reliability
        Whether it is a correlation of the values themselves, so that the Spearman-Brown formula holds for it.
    axis
        What a value belongs to: ``perturbation``, or ``gene`` for metrics over the test perturbations of a fold.
    from_counts
        Whether a metric of genes needs counts of labels only, so that it can be resampled quickly.
    slow
        Whether it sorts read-outs or compares all pairs of rows; ceilings then score fewer draws.
    rule
        Version of the formula.
    """

    name: str
    function: Callable[[Any], Rows] = field(repr=False)
    higher_is_better: bool
    kinds: tuple[str, ...] = CONTINUOUS
    no_skill: float | None = None
    reliability: bool = False
    axis: str = "perturbation"
    from_counts: bool = False
    slow: bool = False
    rule: int = 1

    @property
    def formula(self) -> str:
        """First paragraph of the function's docstring."""
        return " ".join((self.function.__doc__ or "").split("\n\n")[0].split())


def _of_genes(name: str, function: Callable[[Any], Rows], from_counts: bool = True) -> Metric:
    return Metric(name, function, higher_is_better=True, kinds=CLASSES, axis="gene", from_counts=from_counts)


def _of_perturbations(name: str, function: Callable[[Any], Rows]) -> Metric:
    return Metric(name, function, higher_is_better=True, kinds=CLASSES)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("L2", l2, higher_is_better=False),
        Metric("MSE", mse, higher_is_better=False),
        Metric("MAE", mae, higher_is_better=False),
        Metric("Pearson", pearson, higher_is_better=True, reliability=True),
        Metric("Spearman", spearman, higher_is_better=True, slow=True),
        Metric("Pearson_centred", pearson_centred, higher_is_better=True, no_skill=0.0, reliability=True),
        Metric("Spearman_centred", spearman_centred, higher_is_better=True, no_skill=0.0, slow=True),
        Metric("cosine", cosine, higher_is_better=True, reliability=True),
        Metric("PDS_L1", discrimination_l1, higher_is_better=True, slow=True),
        Metric("PDS_L2", discrimination_l2, higher_is_better=True),
        Metric("PDS_cosine", discrimination_cosine, higher_is_better=True),
        _of_genes("F1", of_classes.f1),
        _of_genes("precision", of_classes.precision),
        _of_genes("recall", of_classes.recall),
        _of_genes("ROC_AUC", of_classes.roc_auc, from_counts=False),
        _of_genes("average_precision", of_classes.average_precision, from_counts=False),
        _of_genes("F1_classwise", of_classes.f1_classwise),
        _of_genes("F1_nans_are_zeros", of_classes.f1_nans_are_zeros),
        _of_perturbations("overlap_at_N", of_classes.overlap_at_n),
        _of_perturbations("precision_at_N", of_classes.precision_at_n),
        _of_perturbations("direction_match", of_classes.direction_match),
        _of_perturbations("MCC", of_classes.mcc),
        _of_perturbations("AUPRC", of_classes.auprc),
    )
}
"""All metrics by name; the first of a kind is its primary metric."""


def metrics_for(kind: str, names: Sequence[str] | None = None) -> list[Metric]:
    """Return the metrics of a kind of response, all or the named ones."""
    serving = [m for m in METRICS.values() if kind in m.kinds]
    if names is None:
        return serving
    unknown = [n for n in names if n not in METRICS]
    if unknown:
        raise InputError(f"no metric {unknown[0]!r}; there are {', '.join(METRICS)}.")
    return [m for m in serving if m.name in names]


def score_rows(comparison: Comparison | of_classes.LabelComparison, metrics: Sequence[Metric]) -> dict[str, Rows]:
    """Compute each metric of perturbations for each test perturbation (NaN where undefined)."""
    return {metric.name: metric.function(comparison) for metric in metrics if metric.axis == "perturbation"}

"""Metrics of class responses (DEG labels): of each gene over perturbations, and of each perturbation over genes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation import class_ranks
from panmodal.probes import labels
from panmodal.probes.labels import Counts, count, count_chunks, decide

if TYPE_CHECKING:
    from panmodal.evaluation.metrics import Metric

Values = NDArray[np.float64]
RESAMPLINGS = 200
"""Bootstrap samples of the test perturbations for which count metrics are kept."""


@dataclass(eq=False)
class LabelComparison:
    """Predicted probabilities and true labels of the test perturbations of one (context, fold), and what metrics share.

    Parameters
    ----------
    predicted
        m x 2t: probabilities of -1, then those of +1.
    true
        m x t: -1, 0, 1.
    """

    predicted: NDArray[Any]
    true: NDArray[Any]

    def __post_init__(self) -> None:
        self.predicted, self.true = np.asarray(self.predicted), np.asarray(self.true)
        shape = (len(self.true), 2 * self.true.shape[1]) if self.true.ndim == 2 else ()
        if self.predicted.shape != shape:
            raise InputError(
                f"probabilities {self.predicted.shape} do not fit labels {self.true.shape}: m x 2t and m x t."
            )
        whole = self.true.astype(np.int8)
        if (whole != self.true).any():
            raise InputError(f"labels are -1, 0 or 1, but there is {self.true[whole != self.true][0]:g}.")
        self.true = whole

    def part(self, rows: NDArray[np.bool_]) -> LabelComparison:
        """Return the comparison of some perturbations."""
        return LabelComparison(self.predicted[rows], self.true[rows])

    @property
    def lowered(self) -> NDArray[Any]:
        """Probabilities of -1, m x t."""
        return self.predicted[:, : self.true.shape[1]]

    @property
    def raised(self) -> NDArray[Any]:
        """Probabilities of +1, m x t."""
        return self.predicted[:, self.true.shape[1] :]

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """Predicted labels, m x t."""
        return decide(self.lowered, self.raised)

    @cached_property
    def counts(self) -> Counts:
        """Counts of every gene and class."""
        return count(self.true, self.labels)

    @cached_property
    def ranking(self) -> tuple[Values, Values]:
        """ROC AUC and average precision of every class and gene, 3 x t each."""
        return class_ranks.ranking_scores(self.true, self.lowered, self.raised)


def f1(c: LabelComparison) -> Values:
    """F1 = 2 hits / (true + predicted) of each class over perturbations, mean over the classes in the gene's test truth."""
    return labels.f1(c.counts)


def precision(c: LabelComparison) -> Values:
    """Precision = hits / predicted of each class (0 if never predicted), mean over the classes in the gene's test truth."""
    return labels.precision(c.counts)


def recall(c: LabelComparison) -> Values:
    """Recall = hits / true of each class, mean over the classes in the gene's test truth; always 1/k with k classes for a constant."""
    return labels.recall(c.counts)


def f1_classwise(c: LabelComparison) -> Values:
    """F1 of each class, mean over the genes whose test truth has the class, then mean over the three classes."""
    return labels.f1_of_classes(c.counts)


def f1_nans_are_zeros(c: LabelComparison) -> Values:
    """F1 of each class, 0 for a class that is not in the gene's test truth, mean over the three classes."""
    return labels.f1_nans_are_zeros(c.counts)


def roc_auc(c: LabelComparison) -> Values:
    """Area under the ROC curve of each class against the rest, ties one half, mean over the classes in the gene's test truth.

    Undefined for a gene with one class.
    """
    return defined_mean(c.ranking[0])


def average_precision(c: LabelComparison) -> Values:
    """Average precision, sum of (R_k - R_k-1) P_k over thresholds, of each class, mean over the classes in the gene's test truth."""
    return defined_mean(c.ranking[1])


def defined_mean(values: Values) -> Values:
    """Mean over the first axis of what is finite; NaN where nothing is."""
    defined = np.isfinite(values)
    n = defined.sum(axis=0)
    return np.where(n > 0, np.where(defined, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)


def overlap_at_n(c: LabelComparison) -> Values:
    """Share of a perturbation's N true DEGs among the N genes with the largest predicted probability of being DE (ties share alike).

    Undefined without true DEGs.
    """
    return class_ranks.overlap_at_n(c.true, c.lowered, c.raised)


def precision_at_n(c: LabelComparison) -> Values:
    """Share of the N genes predicted to be DE that are; 0 if none is predicted although there are true DEGs.

    Undefined with neither.
    """
    values = class_ranks.precision_at_n(c.true, c.labels)
    return np.where(np.isnan(values) & (c.true != 0).any(axis=1), 0.0, values)


def direction_match(c: LabelComparison) -> Values:
    """Share of a perturbation's true DEGs whose direction is given the larger probability of the two (equal: one half).

    Undefined without true DEGs; 0.5 is chance.
    """
    return class_ranks.direction_match(c.true, c.lowered, c.raised)


def mcc(c: LabelComparison) -> Values:
    """Matthews correlation of three classes over genes (Gorodkin 2004), corrected for chance; 0 where one class only is predicted.

    Undefined where the truth is of one class.
    """
    values = class_ranks.mcc(c.true, c.labels)
    varied = (c.true != c.true[:, :1]).any(axis=1)
    return np.where(np.isnan(values) & varied, 0.0, values)


def auprc(c: LabelComparison) -> Values:
    """Average precision over genes of being DE, scored by the predicted probability of it; undefined without true DEGs.

    The share of DEGs is chance.
    """
    return class_ranks.de_average_precision(c.true, c.lowered, c.raised)


@dataclass(frozen=True)
class Total:
    """A metric of genes for a whole fold: the mean, and of how many genes it is defined."""

    value: float
    n_scored: int
    n_undefined: int


def totals(comparison: LabelComparison, metrics: Sequence[Metric]) -> dict[str, Total]:
    """Average metrics of genes: the mean over genes where defined, of each class first where a metric is given for each."""
    out = {}
    for metric in metrics:
        values = (
            np.atleast_2d(metric.function(comparison))
            if len(comparison.true)
            else np.full((1, comparison.true.shape[1]), np.nan)
        )
        scored = int(np.isfinite(values).any(axis=0).sum())
        sums, counts = _sums(values)
        out[metric.name] = Total(_mean_of_means(sums, counts), scored, values.shape[1] - scored)
    return out


def _sums(values: Values) -> tuple[Values, Values]:
    """Sum over genes (axis 1) where defined, and of how many."""
    defined = np.isfinite(values)
    return np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64)


def _mean_of_means(sums: Values, counts: Values) -> Any:
    """Mean over genes of each class, then over the classes where there is one (axis 0)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = defined_mean(sums / counts)
    return float(mean) if mean.ndim == 0 else mean


def bootstrap_weights(pert_ids: Sequence[str]) -> NDArray[np.float32]:
    """How often each test perturbation is drawn in each of 200 bootstrap samples (m x 200).

    The same ids give the same samples, so that methods and ceilings of a fold are resampled together.
    """
    entropy = int.from_bytes(hashlib.sha256(json.dumps(list(pert_ids)).encode()).digest()[:8], "big")
    m = len(pert_ids)
    return np.random.default_rng(entropy).multinomial(m, np.full(m, 1 / m), size=RESAMPLINGS).T.astype(np.float32)


def resample(
    true: NDArray[np.int8], predicted: NDArray[np.int8], weights: NDArray[np.float32], metrics: Sequence[Metric]
) -> dict[str, Values]:
    """Average count metrics over genes in every bootstrap sample of the perturbations.

    Parameters
    ----------
    true, predicted
        Labels, m x t.
    weights
        m x B.
    metrics
        Those that need counts only.

    Returns
    -------
    dict
        Name -> B values.
    """
    sums: dict[str, Any] = {}
    for _, counts in count_chunks(true, predicted, weights):
        for metric in metrics:
            values = metric.function(SimpleNamespace(counts=counts))
            part = _sums(values if values.ndim == 3 else values[None])
            known = sums.get(metric.name)
            sums[metric.name] = part if known is None else (known[0] + part[0], known[1] + part[1])
    return {name: _mean_of_means(*found) for name, found in sums.items()}

"""Scores of three-class predictions that rank: perturbations for each gene, and genes for each perturbation.

Labels are -1 (lowered), 0 (unchanged) and 1 (raised); a gene is differentially expressed (DE, a DEG) where its label is not 0.
``lowered`` and ``raised`` are predicted probabilities of -1 and 1, float32 or float64; other values are computed in their dtype
(unchanged: ``1 - lowered - raised``, DE: ``lowered + raised``), which decides what is equal. All matrices are m x t, perturbations
x genes. Every function raises InputError where shapes do not fit, labels are not -1, 0 or 1, or a probability is not finite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.probes.label_kernels import scan_thresholds
from panmodal.probes.labels import CLASSES, Labels, Probabilities, Scores, as_labels, as_probabilities, count

CHUNK = 2**20
"""Scores that are sorted at a time."""


def _check(true: Labels, lowered: Probabilities, raised: Probabilities) -> tuple[Labels, Probabilities, Probabilities]:
    (true,) = as_labels(true)
    lowered, raised = as_probabilities(lowered, raised)
    if true.shape != lowered.shape:
        raise InputError(f"labels of shape {true.shape} and probabilities of shape {lowered.shape} do not fit.")
    return true, lowered, raised


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> Scores:
    """Ratios, NaN where the denominator is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _rank(scores: Probabilities, member: NDArray[np.bool_], auc: Scores, precision: Scores) -> None:
    """Write AUC and average precision of each row of ``scores`` where they are defined."""
    # Values are sorted, those of the class once more by themselves: much faster than sorting places.
    members = np.where(member, scores, scores.dtype.type(np.inf))
    members.sort(axis=1)
    scan_thresholds(np.sort(scores, axis=1), members, np.count_nonzero(member, axis=1), auc, precision)


def ranking_scores(true: Labels, lowered: Probabilities, raised: Probabilities) -> tuple[Scores, Scores]:
    """One class against the rest over a gene's perturbations: area under the ROC curve, and sum_k (R_k - R_(k-1)) P_k (AP).

    The area is the share of pairs of one perturbation of the class and one of another in which the first has the larger
    probability of the class, equal ones counting one half (Fawcett 2006). Average precision sums over descending distinct
    thresholds k, with recall R and precision P of the perturbations at or above k, without interpolation; both as in
    scikit-learn's ``roc_auc_score`` and ``average_precision_score``.

    Returns
    -------
    auc, ap
        3 (classes -1, 0, 1) x t. NaN where the class is absent from the gene's truth; ``auc`` also where every perturbation
        is of the class.
    """
    true, lowered, raised = _check(true, lowered, raised)
    m, t = true.shape
    auc, ap = np.full((2, len(CLASSES), t), np.nan)
    step = max(1, CHUNK // max(1, m))
    for low in range(0, t, step):
        genes = slice(low, low + step)
        down, up = np.ascontiguousarray(lowered[:, genes].T), np.ascontiguousarray(raised[:, genes].T)
        labels = np.ascontiguousarray(true[:, genes].T)
        for k, (label, scores) in enumerate(zip(CLASSES, (down, 1 - down - up, up), strict=True)):
            _rank(scores, labels == label, auc[k, genes], ap[k, genes])
    return auc, ap


def overlap_at_n(true: Labels, lowered: Probabilities, raised: Probabilities) -> Scores:
    """Share of a perturbation's N true DEGs that are among the N genes with the largest predicted probability of being DE.

    Genes tied at the N-th place share the places left equally (expected value over their orders), so that the order of genes
    does not matter. R-precision of information retrieval (Manning, Raghavan & Schuetze 2008). NaN without true DEGs; length m.
    """
    true, lowered, raised = _check(true, lowered, raised)
    m, t = true.shape
    if t == 0:
        return np.full(m, np.nan)
    deg, scores = true != 0, lowered + raised
    n = np.count_nonzero(deg, axis=1)
    nth = np.take_along_axis(np.sort(scores, axis=1), np.minimum(t - n, t - 1)[:, None], axis=1)
    above, tied = scores > nth, scores == nth
    left = n - np.count_nonzero(above, axis=1)
    share = left / np.count_nonzero(tied, axis=1)
    return _share(np.count_nonzero(above & deg, axis=1) + share * np.count_nonzero(tied & deg, axis=1), n)


def precision_at_n(true: Labels, predicted: Labels) -> Scores:
    """Share of the N genes predicted to be DE, in whichever direction, that truly are DE.

    Precision of being DE (Fawcett 2006) over the genes of a perturbation. NaN where no gene is predicted to be DE; length m.
    """
    true, predicted = as_labels(true, predicted)
    called = predicted != 0
    return _share(np.count_nonzero(called & (true != 0), axis=1), np.count_nonzero(called, axis=1))


def direction_match(true: Labels, lowered: Probabilities, raised: Probabilities) -> Scores:
    """Share of a perturbation's true DEGs whose true direction has the larger of the probabilities lowered and raised.

    Equal probabilities count one half, so that chance is 0.5. NaN without true DEGs; length m.
    """
    true, lowered, raised = _check(true, lowered, raised)
    deg = true != 0
    right = np.where(true > 0, raised > lowered, lowered > raised) & deg
    equal = (lowered == raised) & deg
    points = np.count_nonzero(right, axis=1) + 0.5 * np.count_nonzero(equal, axis=1)
    return _share(points, np.count_nonzero(deg, axis=1))


def mcc(true: Labels, predicted: Labels) -> Scores:
    """Matthews correlation of three classes over t genes: (t c - sum_k p_k y_k) / sqrt((t^2 - sum_k p_k^2) (t^2 - sum_k y_k^2)).

    c genes are predicted rightly, p_k are predicted to be and y_k truly are of class k: R_K of Gorodkin (2004), as in
    scikit-learn's ``matthews_corrcoef``. NaN where truth or prediction is of one class only (there scikit-learn says 0);
    length m.
    """
    true, predicted = as_labels(true, predicted)
    counts = count(true.T, predicted.T)
    t = true.shape[1]
    # Whole numbers, exact in double precision below 90 million genes.
    covariance = t * counts.hits.sum(axis=0) - (counts.predicted * counts.true).sum(axis=0)
    of_predicted = t**2 - (counts.predicted**2).sum(axis=0)
    of_true = t**2 - (counts.true**2).sum(axis=0)
    # The root of the product, not the product of roots: a perfect prediction then has exactly 1.
    return _share(covariance, np.sqrt(of_predicted * of_true))


def de_average_precision(true: Labels, lowered: Probabilities, raised: Probabilities) -> Scores:
    """Average precision of being DE over a perturbation's genes: sum_k (R_k - R_(k-1)) P_k over thresholds of lowered + raised.

    R and P are recall and precision of the genes at or above the k-th largest distinct value, as in scikit-learn's
    ``average_precision_score``. NaN where no gene is DE, 1 where all are; length m.
    """
    true, lowered, raised = _check(true, lowered, raised)
    auc, ap = np.full((2, len(true)), np.nan)
    _rank(lowered + raised, true != 0, auc, ap)
    return ap

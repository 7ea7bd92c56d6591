"""Three-class labels (differential expression: -1 lowered, 0 unchanged, 1 raised) and their scores for each gene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.probes.label_kernels import add_pairs, add_weighted_pairs

Labels = NDArray[np.int8]
Probabilities = NDArray[np.floating[Any]]
Scores = NDArray[np.float64]

CLASSES = (-1, 0, 1)
"""Labels in the order of the class axis; where classes tie, the first is predicted."""


def as_labels(*matrices: NDArray[Any]) -> list[Labels]:
    """Check matrices of labels, perturbations x genes, and return them as int8.

    Raises
    ------
    InputError
        If one is no matrix of the integers -1, 0 and 1, or their shapes differ.
    """
    found = []
    for values in map(np.asarray, matrices):
        if values.ndim != 2 or values.dtype.kind not in "iu":
            raise InputError(
                f"labels are a matrix of integers, perturbations x genes, not {values.dtype} of shape {values.shape}."
            )
        if values.min(initial=0) < -1 or values.max(initial=0) > 1:
            raise InputError(f"labels are -1, 0 or 1, but there are {values.min()} to {values.max()}.")
        found.append(values.astype(np.int8, copy=False))
    _check_shapes(*found)
    return found


def as_probabilities(lowered: Probabilities, raised: Probabilities) -> tuple[Probabilities, Probabilities]:
    """Check the probabilities of -1 and of 1, perturbations x genes.

    Raises
    ------
    InputError
        If they are no matrices of float32 or float64, of one dtype and shape, or a value is not finite.
    """
    lowered, raised = np.asarray(lowered), np.asarray(raised)
    if lowered.ndim != 2 or lowered.dtype != raised.dtype or lowered.dtype not in (np.float32, np.float64):
        raise InputError(
            "probabilities are two matrices, both float32 or both float64, perturbations x genes, "
            f"not {lowered.dtype} and {raised.dtype} of shapes {lowered.shape} and {raised.shape}."
        )
    _check_shapes(lowered, raised)
    for name, values in (("lowered", lowered), ("raised", raised)):
        if not np.isfinite(values).all():
            row, gene = np.argwhere(~np.isfinite(values))[0]
            raise InputError(f"the probability {name}[{row}, {gene}] is {values[row, gene]}.")
    return lowered, raised


def _check_shapes(*arrays: NDArray[Any]) -> None:
    if len({a.shape for a in arrays}) > 1:
        raise InputError(f"shapes of labels or probabilities do not fit: {', '.join(str(a.shape) for a in arrays)}.")


def decide(lowered: Probabilities, raised: Probabilities) -> Labels:
    """Predict the class of largest probability; where classes tie, the first of -1, 0, 1 (as argmax does).

    Parameters
    ----------
    lowered, raised
        Probabilities of -1 and of 1, m x t, float32 or float64; that of 0 is ``1 - lowered - raised`` in their dtype.

    Returns
    -------
    numpy.ndarray
        m x t, int8.

    Raises
    ------
    InputError
        See :func:`as_probabilities`.
    """
    lowered, raised = as_probabilities(lowered, raised)
    unchanged = 1 - lowered - raised
    out = ((raised > lowered) & (raised > unchanged)).astype(np.int8)
    out[(lowered >= unchanged) & (lowered >= raised)] = -1
    return out


@dataclass(frozen=True, eq=False)
class Counts:
    """How many perturbations of each gene are of each class: what all scores of labels are made of.

    Attributes
    ----------
    hits, predicted, true
        3 (:data:`CLASSES`) x t, or 3 x t x B for B resamplings: number, or summed weight, of the perturbations that are
        of the class in both truth and prediction; in the prediction; in the truth.
    """

    hits: Scores
    predicted: Scores
    true: Scores


def count(true: Labels, predicted: Labels, weights: NDArray[np.float32] | None = None) -> Counts:
    """Count hits, predicted and true perturbations of each class for each gene.

    Parameters
    ----------
    true, predicted
        Labels, m x t.
    weights
        m x B: how often each perturbation counts in each of B resamplings, used in single precision (whole numbers are
        exact). The result has 9 t B numbers of double precision; see :func:`count_chunks` where that is too many.

    Raises
    ------
    InputError
        If shapes do not fit, labels are not -1, 0 or 1, or a weight is negative or not finite.
    """
    true, predicted, weights = _check(true, predicted, weights)
    return _count(true, predicted, weights)


def count_chunks(
    true: Labels, predicted: Labels, weights: NDArray[np.float32] | None = None, size: int = 64
) -> Iterator[tuple[slice, Counts]]:
    """Count as :func:`count` does for ``size`` genes at a time, so that memory stays small with many resamplings.

    Yields
    ------
    slice, Counts
        Which genes, and their counts.

    Raises
    ------
    InputError
        As for :func:`count`, at the call; or if ``size`` is below 1.
    """
    true, predicted, weights = _check(true, predicted, weights)
    if size < 1:
        raise InputError(f"a chunk has at least one gene, not {size}.")
    chunks = (slice(low, min(low + size, true.shape[1])) for low in range(0, true.shape[1], size))
    return ((genes, _count(true[:, genes], predicted[:, genes], weights)) for genes in chunks)


def _check(
    true: Labels, predicted: Labels, weights: NDArray[np.float32] | None
) -> tuple[Labels, Labels, NDArray[np.float32] | None]:
    true, predicted = as_labels(true, predicted)
    if weights is None:
        return true, predicted, None
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    if weights.ndim != 2 or len(weights) != len(true):
        raise InputError(f"weights of shape {weights.shape} do not fit {len(true)} perturbations: give m x B.")
    if not (np.isfinite(weights).all() and weights.min(initial=0) >= 0):
        raise InputError("a weight is negative or not finite.")
    return true, predicted, weights


def _count(true: Labels, predicted: Labels, weights: NDArray[np.float32] | None) -> Counts:
    pairs = np.ascontiguousarray((3 * true + predicted + 4).T)
    genes = len(pairs)
    if weights is None:
        hits, n_predicted, n_true = np.zeros((3, 3, genes))
        add_pairs(pairs, hits, n_predicted, n_true)
    else:
        hits, n_predicted, n_true = np.empty((3, 3, genes, weights.shape[1]))
        add_weighted_pairs(pairs, weights, hits, n_predicted, n_true)
    return Counts(hits, n_predicted, n_true)


def _ratio(above: Scores, below: Scores) -> Scores:
    """Ratios, 0 where the denominator is."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _over_present(values: Scores, counts: Counts) -> Scores:
    """Mean over the classes present in the truth; absent ones have no hits and thus add nothing to the sum."""
    present = np.count_nonzero(counts.true, axis=0)
    return np.divide(values.sum(axis=0), present, out=np.full(present.shape, np.nan), where=present > 0)


def precision(counts: Counts) -> Scores:
    """Mean over the classes present in a gene's truth of hits / predicted, 0 for a class that is never predicted.

    Macro average (Sokolova & Lapalme 2009) over the perturbations of one gene, t or t x B; NaN where no class is present.
    """
    return _over_present(_ratio(counts.hits, counts.predicted), counts)


def recall(counts: Counts) -> Scores:
    """Mean over the classes present in a gene's truth of hits / true.

    Macro average (Sokolova & Lapalme 2009) over the perturbations of one gene, t or t x B; NaN where no class is present.
    """
    return _over_present(_ratio(counts.hits, counts.true), counts)


def f1(counts: Counts) -> Scores:
    """Mean over the classes present in a gene's truth of F1 = 2 hits / (true + predicted).

    F1 is the harmonic mean of precision and recall (van Rijsbergen 1979); it is computed for each class and then averaged
    (scikit-learn's ``average="macro"`` with the classes present as ``labels``), t or t x B; NaN where no class is present.
    """
    return _over_present(_f1(counts), counts)


def f1_of_classes(counts: Counts) -> Scores:
    """F1 = 2 hits / (true + predicted) of each class; undefined where the class is absent from the gene's truth.

    3 x t or 3 x t x B, NaN where undefined. The published ``f1_classwise`` is the mean over classes of the mean over genes.
    """
    values = _f1(counts)
    values[counts.true == 0] = np.nan
    return values


def f1_nans_are_zeros(counts: Counts) -> Scores:
    """Mean over all three classes of F1 = 2 hits / (true + predicted), 0 for a class absent from the gene's truth.

    t or t x B; published as ``f1_score_nans_are_zeros``. At most 1/3 for a gene whose truth is of one class.
    """
    return _f1(counts).sum(axis=0) / len(CLASSES)


def _f1(counts: Counts) -> Scores:
    return _ratio(2 * counts.hits, counts.true + counts.predicted)


def one_minus_f1(true: Labels, lowered: Probabilities, raised: Probabilities) -> float:
    """One minus the mean over genes of :func:`f1` of the labels decided from probabilities: what probes are chosen by."""
    return 1.0 - float(np.mean(f1(count(true, decide(lowered, raised)))))


def balance(
    lowered: Probabilities, raised: Probabilities, prior: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Divide estimated shares of the classes by the square roots of their shares in training, and scale them to a sum of one.

    Plain shares hardly ever call a rare class; shares divided by the prior call it far too often. The geometric mean of the
    two lies between (no published rule).

    Parameters
    ----------
    lowered, raised
        Estimated shares of -1 and +1, m x t; negative estimates (also of 0) count as 0.
    prior
        Training shares of -1, then of +1, length 2t; classes absent in training stay at 0.

    Returns
    -------
    lowered, raised
        m x t each, single precision.
    """
    t = lowered.shape[1]
    priors = prior[:t], 1 - prior[:t] - prior[t:], prior[t:]
    # The difference of rounded shares leaves dust where a class is absent.
    factors = [np.where(p > 1e-6, 1 / np.sqrt(np.maximum(p, 1e-6)), 0.0) for p in priors]
    parts = [
        np.maximum(share, 0.0) * f for share, f in zip((lowered, 1 - lowered - raised, raised), factors, strict=True)
    ]
    total = parts[0] + parts[1] + parts[2]
    # Nothing is known where all estimates fall on absent classes: the class prior.
    known = total > 0
    out = [
        np.where(known, part / np.where(known, total, 1.0), p)
        for part, p in ((parts[0], priors[0]), (parts[2], priors[2]))
    ]
    return out[0].astype(np.float32), out[1].astype(np.float32)

"""Predictions beside the truth: what a kind of response is filled in with, predicted by a baseline, and compared as."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.evaluation.class_metrics import LabelComparison
from panmodal.evaluation.metrics import Comparison
from panmodal.probes.base import CLASSES
from panmodal.probes.design import class_prior

NO_CHANGE, TRAIN_MEAN = "no change", "train mean"
CLASS_PRIOR, MOST_FREQUENT = "class prior", "most frequent"


def has_classes(response: str) -> bool:
    """Whether responses of this kind are classes; predictions then hold the probabilities of -1 and of +1."""
    return response in CLASSES


def baselines(response: str) -> tuple[str, ...]:
    """Names of the baselines that use no embedding."""
    return (NO_CHANGE, CLASS_PRIOR, MOST_FREQUENT) if has_classes(response) else (NO_CHANGE, TRAIN_MEAN)


def train_mean(values: NDArray[np.floating], rows: Any) -> NDArray[np.float32]:
    """Mean training response (length t), rounded to single precision as predictions are."""
    return np.asarray(values)[rows].mean(axis=0, dtype=np.float64).astype(np.float32)


def fill_row(response: str, values: NDArray[np.floating], rows: Any) -> NDArray[np.float32]:
    """Return what uncovered ids are predicted by: the train mean (length t), or the class prior (length 2t)."""
    if has_classes(response):
        return class_prior(np.asarray(values)[rows])
    return train_mean(values, rows)


def baseline_row(name: str, filled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Prediction of a baseline for every id, from the row that uncovered ids are filled in with."""
    if name == NO_CHANGE:
        return np.zeros_like(filled)  # for classes: certainly 0
    if name == MOST_FREQUENT:
        down, up = filled[: len(filled) // 2].astype(np.float64), filled[len(filled) // 2 :].astype(np.float64)
        # Shares that differ by the rounding of single precision are a tie, and the first class has it.
        label = np.argmax(np.round([down, 1 - down - up, up], 6), axis=0) - 1
        return np.concatenate([label == -1, label == 1]).astype(np.float32)
    return filled


def compare(
    response: str, predicted: NDArray[Any], true: NDArray[Any], filled: NDArray[Any], **known: Any
) -> Comparison | LabelComparison:
    """Set predictions beside the truth; ``known`` are ranks of the truth where they are known already."""
    if has_classes(response):
        return LabelComparison(predicted, true)
    return Comparison(predicted, true, filled, **known)

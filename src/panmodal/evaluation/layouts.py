"""How tables of scores of others are written: names of columns, and what their methods are in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from panmodal._files import read_yaml
from panmodal.errors import InputError, some


@dataclass(frozen=True)
class Layout:
    """How a wide table of scores is written: one row for each fold and method, one column for each metric.

    Names of columns; ``=TEXT`` stands for a constant, None for a column that is not there.

    Attributes
    ----------
    screen, response, context, fold, method, probe
        The task, the fold (a whole number) and the method; an empty probe is a method with its own model.
    label, family
        What to call a method, and its modality.
    table
        Which table a row was taken from, if several were put together.
    metrics
        Column -> metric of ours with the same definition.
    left_out
        Column -> why its values are not taken.
    baselines
        Method -> the name of the baseline it is (``train mean``, ...).
    controls, oracles
        Method -> the name of the negative control or oracle it is.
    control_families
        Families whose methods are controls.
    ceilings
        Method -> the estimator of the ceiling it is.
    split
        Name of the folds.
    mark
        Put into the names of screens, so that imported rows are known as such.
    """

    screen: str = "dataset"
    response: str = "task"
    context: str = "cell_line"
    fold: str = "fold_id"
    method: str = "method"
    probe: str | None = None
    label: str | None = None
    family: str | None = None
    table: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    oracles: Mapping[str, str] = field(default_factory=dict)
    control_families: tuple[str, ...] = ()
    ceilings: Mapping[str, str] = field(default_factory=dict)
    split: str = "published"
    mark: str = "published"


PUBLISHED = Layout(
    probe="probe", label="label", family="family", table="source_table",
    metrics={"L2": "L2", "MSE": "MSE", "MAE": "MAE", "Spearman": "Spearman", "Pearson": "Pearson", "f1_score": "F1",
             "recall": "recall", "precision": "precision", "f1_classwise": "F1_classwise",
             "f1_score_nans_are_zeros": "F1_nans_are_zeros", "average_precision": "average_precision"},
    left_out={"roc_auc": "it counts absent classes as 0, ROC_AUC leaves them out"},
    baselines={"no change baseline": "no change", "context mean baseline": "train mean", "no_change": "no change",
               "prior": "class prior", "most_frequent": "most frequent"},
    controls={"random": "random"}, oracles={"pca": "idealised"}, control_families=("Negative Control",),
    ceilings={"Experimental error (quantile 0.9)": "experimental_error", "experimental_error": "experimental_error",
              "Experimental error (quantile 0.1)": "experimental_error"},
)  # fmt: skip
"""The published table of per-fold scores (genbio-ai/foundation-models-perturbation, results)."""


def read_layout(path: str | Path) -> Layout:
    """Read a layout from YAML; unknown fields are refused."""
    path = Path(path)
    given = read_yaml(path, "fields of a layout")
    known = {f.name: getattr(Layout(), f.name) for f in fields(Layout)}
    unknown = [k for k in given if k not in known]
    if unknown:
        raise InputError(f"{path}: no field {some(unknown)}; there are {', '.join(known)}.")
    made: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(known[name], dict):
            if not isinstance(value, dict):
                raise InputError(f"{path}: {name} must be a mapping, not {value!r}.")
            made[name] = {str(k): str(v) for k, v in value.items()}
        elif isinstance(known[name], tuple):
            if not isinstance(value, list):
                raise InputError(f"{path}: {name} must be a list, not {value!r}.")
            made[name] = tuple(map(str, value))
        elif isinstance(value, str) or (value is None and known[name] is None):
            made[name] = value
        else:
            raise InputError(f"{path}: {name} must be text, not {value!r}.")
    return Layout(**made)

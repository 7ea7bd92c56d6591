"""What a probe is, where probes are found, and how their hyper-parameter is chosen."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.probes.design import Design, Fold, LabelTargets, Targets

Errors = Callable[[Fold, Any, tuple[float, ...]], NDArray[np.float64]]
Predict = Callable[[Fold, Any, float], NDArray[Any]]


CONTINUOUS = ("lfc", "rank_score", "fitness", "continuous")
"""Kinds of response that are numbers, not classes; probes of these get :class:`Targets`."""
CLASSES = ("deg",)
"""Kinds of response that are the classes -1, 0, 1; probes of these get :class:`LabelTargets`."""


@dataclass(frozen=True)
class Probe:
    """A small model from embedding to response.

    Attributes
    ----------
    name, description
        Short name and one line.
    kinds
        Kinds of response it serves.
    parameter, grid
        Hyper-parameter and its candidates.
    errors
        (fold, targets, grid) -> errors of the inner test fold for each candidate, to be averaged over the last axis: the L2 error of
        each row (grid x m), or one minus the mean F1 of the genes (grid x 1).
    predict
        (fold, targets, value) -> predictions of the fold's test rows: m x t, or for classes the probabilities of -1 and then those
        of +1, m x 2t.
    candidates
        Restricts the grid to what n training rows allow.
    rule
        Version of the rule by which results are computed; raised whenever results change.
    """

    name: str
    description: str
    kinds: tuple[str, ...]
    parameter: str
    grid: tuple[float, ...]
    errors: Errors = field(repr=False)
    predict: Predict = field(repr=False)
    candidates: Callable[[tuple[float, ...], int], tuple[float, ...]] = field(default=lambda g, n: g, repr=False)
    rule: int = 1

    def identity(self) -> dict[str, Any]:
        """Return what a trial's digest holds of the probe."""
        return {"name": self.name, "parameter": self.parameter, "grid": list(self.grid), "rule": self.rule}


@dataclass(frozen=True)
class Selection:
    """Chosen hyper-parameter and the inner errors it was chosen by (see :class:`Probe`; lower is better)."""

    value: float
    candidates: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def at_edge(self) -> bool:
        """Whether the choice lies at an end of its grid."""
        return len(self.candidates) > 1 and self.value in (self.candidates[0], self.candidates[-1])


def select(probe: Probe, design: Design, targets: Targets | LabelTargets) -> Selection:
    """Choose the hyper-parameter: the smallest mean over inner folds of the mean error.

    Ties go to the candidate that comes first in the grid, as in scikit-learn's ``GridSearchCV``.
    """
    grid = probe.candidates(probe.grid, len(design.final.z_train))
    per_fold = np.stack([probe.errors(fold, targets, grid).mean(axis=1) for fold in design.inner])
    errors = per_fold.mean(axis=0)
    return Selection(grid[int(np.argmin(errors))], grid, tuple(float(e) for e in errors))


@cache
def probes() -> dict[str, Probe]:
    """All probes by name: every module of this package that defines ``PROBE``."""
    import panmodal.probes as package

    found: dict[str, Probe] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        probe = getattr(importlib.import_module(f"panmodal.probes.{module}"), "PROBE", None)
        if isinstance(probe, Probe):
            found[probe.name] = probe
    return found


def get_probe(name: str) -> Probe:
    """Look up a probe by name."""
    if name not in probes():
        raise InputError(f"no probe {name!r}; there are {', '.join(probes())}.")
    return probes()[name]

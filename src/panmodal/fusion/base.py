"""What a fusion is: a model of the response from several embeddings at once. Fusions know arrays only, as probes do."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from panmodal.errors import InputError, some
from panmodal.probes.design import MIN_TRAIN, Indices, LabelTargets, Targets
from panmodal.probes.projection import Matrix

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is to do."""


@dataclass(frozen=True)
class Modalities:
    """Vectors of several embeddings (modalities) for the same ids.

    Attributes
    ----------
    names
        One for each modality, unique.
    values
        One matrix for each modality, ids x its dims; the rows of ids that it lacks are NaN, so that none is used by mistake.
    present
        Whether a modality has a vector for an id, ids x modalities.
    """

    names: tuple[str, ...]
    values: tuple[Matrix, ...]
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Mapping[str, NDArray[Any]]) -> Modalities:
        """Take matrices (ids x dims) by name; a row that is all NaN is an id without a vector.

        Raises
        ------
        InputError
            No modality, different numbers of rows, no columns, infinite values, or rows that are NaN in part.
        """
        if not values:
            raise InputError("no modality to fuse; give at least one.")
        made, present = [], []
        for name, given in values.items():
            x = np.array(given, dtype=np.float64)
            if x.ndim != 2 or not x.shape[1]:
                raise InputError(f"modality {name!r}: shape {x.shape}; want ids x dims.")
            absent = np.isnan(x).all(axis=1)
            if not np.isfinite(x[~absent]).all():
                row = int(np.flatnonzero(~absent & ~np.isfinite(x).all(axis=1))[0])
                raise InputError(
                    f"modality {name!r}: row {row} holds NaN or infinite values; an absent row is all NaN."
                )
            made.append(x)
            present.append(~absent)
        if len({len(x) for x in made}) > 1:
            shown = ", ".join(f"{n}: {len(x)}" for n, x in zip(values, made, strict=True))
            raise InputError(f"modalities with different numbers of rows ({shown}); rows are the same ids in all.")
        return cls(tuple(values), tuple(made), np.stack(present, axis=1))

    def __len__(self) -> int:
        return len(self.present)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Ids that at least one modality has."""
        return np.asarray(self.present.any(axis=1))

    def part(self, rows: Indices | NDArray[np.bool_]) -> Modalities:
        """Return some ids, by position or mask."""
        return Modalities(self.names, tuple(x[rows] for x in self.values), self.present[rows])

    def only(self, names: Sequence[str]) -> Modalities:
        """Return some modalities, in the order given."""
        at = [self.names.index(n) for n in names]
        return Modalities(tuple(names), tuple(self.values[k] for k in at), self.present[:, at])

    def patterns(self) -> dict[tuple[bool, ...], Indices]:
        """Which modalities an id has -> positions of the ids that have just these."""
        found: dict[tuple[bool, ...], list[int]] = {}
        for row, own in enumerate(self.present):
            found.setdefault(tuple(map(bool, own)), []).append(row)
        return {pattern: np.array(rows) for pattern, rows in found.items()}


@dataclass(frozen=True)
class ContextTargets:
    """Training responses of one context: ``rows`` are the positions among the training ids of the rows of ``targets``."""

    rows: Indices
    targets: Targets | LabelTargets


@dataclass(frozen=True)
class Setting:
    """How and where a fusion is fitted.

    Attributes
    ----------
    seed
        Of everything that is drawn.
    device, threads
        Where what can use an accelerator computes (``cpu`` or a torch device), and threads on the CPU.
    folder
        Where a long fit keeps checkpoints, from which it goes on after an interruption; None for none.
    progress
        Called as a long fit goes on.
    """

    seed: int = 42
    device: str = "cpu"
    threads: int = 1
    folder: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Fused:
    """What a fusion predicts for m ids.

    Attributes
    ----------
    values
        Predictions: m x t; for classes m x 2t, the probabilities of -1 and then of +1.
    variance
        Predictive variance of each value, same shape, or None where the fusion tells none.
    """

    values: NDArray[Any]
    variance: NDArray[Any] | None = None


class Fitted(Protocol):
    """A fitted fusion."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What was chosen in fitting; plain values that JSON can hold."""
        ...

    def tables(self) -> list[dict[str, Any]]:
        """Tell what the fit learned of its modalities, one row for each number.

        Keys: ``what`` (``weight``, ``attention``, ``importance``, ...), ``context`` (or ``""`` for all), ``modality``, ``part`` (a
        kernel, a probe, a head, or ``""``) and ``value``.
        """
        ...

    def predict(self, test: Modalities, context: str) -> Fused:
        """Predict the responses in a context of ids of which at least one modality has a vector."""
        ...


class Options(BaseModel):
    """Options of a fusion: a frozen record; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Fit = Callable[[Modalities, Mapping[str, ContextTargets], Any, Setting], Fitted]


@dataclass(frozen=True)
class Fusion:
    """A way of fusing embeddings. Adding one is adding a module to this folder that defines ``FUSION`` or ``FUSIONS``.

    Attributes
    ----------
    name, description
        Short name and one line.
    kinds
        Kinds of response it serves.
    fit
        (training ids, responses of each context, options, setting) -> fitted. Every training id has at least one modality, and every
        context at least 10 training ids.
    options
        Its options with their defaults.
    joint
        Fitted on all contexts at once; otherwise on each alone.
    extra
        Optional dependency group that it needs, and ``module`` by which its presence is told.
    rule
        Version of the rule by which results are computed; raised whenever results change.
    """

    name: str
    description: str
    kinds: tuple[str, ...]
    fit: Fit = field(repr=False)
    options: type[Options] = Options
    joint: bool = False
    extra: str = ""
    module: str = ""
    rule: int = 1

    def missing(self) -> bool:
        """Tell whether what it needs is not installed."""
        return bool(self.module) and importlib.util.find_spec(self.module) is None

    def require(self) -> None:
        """Raise an InputError that says what to install, if something is missing."""
        if self.missing():
            raise InputError(f"fusion {self.name!r} needs {self.module}: pip install 'panmodal[{self.extra}]'.")

    def settings(self, given: Mapping[str, Any] | None = None) -> Options:
        """Check options given by a user, and fill in the defaults.

        Raises
        ------
        InputError
            An unknown option, or a value that it does not take.
        """
        try:
            return self.options(**(given or {}))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or self.name}: {e['msg']}" for e in error.errors()]
            known = ", ".join(self.options.model_fields) or "none"
            raise InputError(f"fusion {self.name!r}: {'; '.join(problems)}. Its options are: {known}.") from None

    def identity(self, options: Options) -> dict[str, Any]:
        """Return what a trial's digest holds of the fusion."""
        return {"name": self.name, "fusion": options.model_dump(mode="json"), "rule": self.rule}


@cache
def fusions() -> dict[str, Fusion]:
    """All fusions by name."""
    import panmodal.fusion as package

    found: dict[str, Fusion] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        loaded = importlib.import_module(f"panmodal.fusion.{module}")
        for fusion in (getattr(loaded, "FUSION", None), *getattr(loaded, "FUSIONS", ())):
            if isinstance(fusion, Fusion):
                found[fusion.name] = fusion
    return found


def get_fusion(name: str) -> Fusion:
    """Look up a fusion by name."""
    if name not in fusions():
        raise InputError(f"no fusion {name!r}; there are {', '.join(fusions())}.")
    return fusions()[name]


def fusion_of(label: str) -> Fusion | None:
    """Return the fusion by its name in the probe column, where an ensemble of k members is ``NAME xk``; None if there is none."""
    found = fusions().get(label)
    name, _, members = label.rpartition(" x")
    if found is not None or not members.isdigit() or name not in fusions() or int(members) < 2:
        return found
    from panmodal.fusion.ensemble import ensemble

    return ensemble(fusions()[name], int(members))


def fit_fusion(
    fusion: Fusion, train: Modalities, contexts: Mapping[str, ContextTargets], options: Options, setting: Setting
) -> Fitted:
    """Fit a fusion after checking what all fusions rely on: training ids without any modality are left out.

    Raises
    ------
    InputError
        What the fusion needs is not installed; a modality without a vector for any training id, or a context with fewer than 10
        training ids that a modality has.
    """
    fusion.require()
    empty = [n for n, any_ in zip(train.names, np.asarray(train.present.any(axis=0)), strict=True) if not any_]
    if empty:
        raise InputError(f"modality {some(empty)} has no vector for any training id; leave it out.")
    covered = train.covered
    place = np.cumsum(covered) - 1
    kept = {}
    for name, own in contexts.items():
        use = covered[own.rows]
        if int(use.sum()) < MIN_TRAIN:
            raise InputError(f"context {name!r}: {int(use.sum())} of {len(use)} training ids have a vector in some modality; a "
                             f"fusion needs at least {MIN_TRAIN}.")  # fmt: skip
        kept[name] = (
            own if use.all() and covered.all() else ContextTargets(place[own.rows[use]], part_of(own.targets, use))
        )
    return fusion.fit(train if covered.all() else train.part(covered), kept, options, setting)


def part_of(targets: Targets | LabelTargets, rows: Indices | NDArray[np.bool_]) -> Targets | LabelTargets:
    """Return the targets of some rows."""
    if isinstance(targets, LabelTargets):
        return replace(targets, labels=targets.labels[rows])
    at = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows
    return Targets(targets.values[at], targets.gram[np.ix_(at, at)])


def only_context(contexts: Mapping[str, ContextTargets]) -> tuple[str, ContextTargets]:
    """Return the one context of a fusion that is fitted on each alone."""
    ((name, own),) = contexts.items()
    return name, own

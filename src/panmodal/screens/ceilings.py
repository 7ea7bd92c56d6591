"""Ceilings: what the experiment's own noise allows, kept as draws so that every metric gets its own.

A file ``SCREEN.ceilings.h5`` beside the screen holds, for each context, pairs of responses (truth, prediction) that an experiment
repeated would give. An estimator says which arrays make up its pairs; a metric scores them like any prediction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal._digest import digest_json
from panmodal._tables import require_exists
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

    from panmodal.screens.screen import Screen

FORMAT = 1
SUFFIX = ".ceilings.h5"


@dataclass(frozen=True)
class Estimator:
    """A way to estimate what the experiment's noise allows.

    Attributes
    ----------
    name, description
        What it is.
    truth, prediction
        Arrays of draws (perturbations x draws x read-outs) that stand for truth and prediction; truth ``point`` is the screen's own
        responses (or the array ``point`` where truth and draws share no control cell).
    shrink
        Array of weights in [0, 1]: the prediction is weight x prediction + (1 - weight) x train mean.
    quantile
        Quantile over draws that counts (of errors; 1 - quantile of metrics where higher is better); None: the mean.
    half_size
        Truth and prediction come from half of the cells each: reliabilities are stepped up to full size by Spearman-Brown.
    """

    name: str
    description: str
    truth: str
    prediction: str
    shrink: str | None = None
    quantile: float | None = None
    half_size: bool = False

    @property
    def arrays(self) -> tuple[str, ...]:
        """Arrays that must be there."""
        named = (self.truth if self.truth != "point" else None, self.prediction, self.shrink)
        return tuple(name for name in named if name)


ESTIMATORS = {
    estimator.name: estimator
    for estimator in (
        Estimator("experimental_error", "two-stage bootstrap of batches and cells against the measured response, or labels of "
                  "resampled cells against the measured labels; 0.9 quantile of errors (published)", "point", "bootstrap",
                  quantile=0.9),
        Estimator("disjoint_halves", "one half of the cells predicts the other, no cell and no control in common", "half1", "half2",
                  half_size=True),
        Estimator("replicate_batches", "one half of the batches predicts the other", "side1", "side2", half_size=True),
        Estimator("interpolated_duplicate", "a half replicate, each gene shrunk to the train mean by its p, predicts the other half",
                  "half1", "half2", shrink="shrink"),
    )
}  # fmt: skip
"""Estimators by name, the leaderboard's choice first."""


def spearman_brown(r: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Reliability 2 r / (1 + r) of the whole from the correlation r of its halves; r itself where it is not positive.

    Spearman 1910, Brown 1910. It holds for correlations of parallel measurements, not for errors or ranks.
    """
    r = np.asarray(r, dtype=np.float64)
    return np.where(r > 0, 2 * r / (1 + np.maximum(r, 0)), r)


def ceilings_path(screen: str | Path) -> Path:
    """Where the ceilings of a screen's file lie: beside it."""
    path = Path(screen)
    return path.with_name(path.stem + SUFFIX)


class Ceilings:
    """A file of ceilings, read when asked.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        Not there, not such a file, or of another format.
    """

    def __init__(self, path: str | Path) -> None:
        import h5py

        self.path = require_exists(path)
        try:
            with h5py.File(self.path, "r") as handle:
                version = int(handle.attrs["format"])
                if version != FORMAT:
                    raise InputError(f"{self.path}: written in format {version}; this version reads {FORMAT}. Make it again with "
                                     "panmodal ceiling.")  # fmt: skip
                self.options: dict[str, Any] = json.loads(handle.attrs["options"])
                self.readouts = [v.decode() for v in handle["readouts"][:]]
                self._contexts: dict[str, str] = {}
                self._ids: dict[str, list[str]] = {}
                self._arrays: dict[str, dict[str, tuple[int, ...]]] = {}
                self._digests: dict[str, str] = {}
                self._labels: dict[str, str] = {}
                for key, group in sorted(handle["contexts"].items(), key=lambda item: int(item[0])):
                    name = str(group.attrs["context"])
                    self._contexts[name] = key
                    self._digests[name] = str(group.attrs["responses"])
                    self._labels[name] = str(group.attrs.get("labels", ""))
                    self._ids[name] = [v.decode() for v in group["pert_id"][:]]
                    self._arrays[name] = {k: v.shape for k, v in group.items() if hasattr(v, "shape")}
        except InputError:
            raise
        # A damaged file can make the library raise anything.
        except Exception as error:
            raise InputError(
                f"{self.path}: cannot be read as ceilings ({error}). Make them with panmodal ceiling."
            ) from error

    @property
    def contexts(self) -> list[str]:
        """Contexts that have ceilings."""
        return list(self._contexts)

    def responses(self, context: str) -> str:
        """Digest of the responses that the ceilings of a context belong to."""
        return self._digests[context]

    @property
    def has_labels(self) -> bool:
        """Whether there are draws of DEG labels."""
        return any("labels" in held for held in self._arrays.values())

    def digest(self, context: str) -> str:
        """Tell what the ceilings of a context depend on: responses, options, seed and version of the rules."""
        return digest_json({"responses": self._digests[context], "options": self.options, "format": FORMAT})

    def pert_ids(self, context: str) -> list[str]:
        """Perturbations of a context, sorted."""
        return list(self._ids[context])

    def estimators(self, context: str) -> list[Estimator]:
        """Estimators whose draws are there."""
        held = self._arrays[context]
        return [e for e in ESTIMATORS.values() if all(held.get(a, (0, 0))[1] for a in e.arrays)]

    def n_draws(self, context: str, estimator: Estimator) -> int:
        """Return the number of draws of an estimator."""
        return int(self._arrays[context][estimator.prediction][1])

    def check(self, screen: Screen) -> None:
        """Refuse to be used with responses that the draws were not made for."""
        shared = [c for c in screen.contexts if c in self._contexts]
        if not shared:
            raise InputError(
                f"{self.path}: has ceilings of {some(self.contexts)}, none of the contexts {some(screen.contexts)}."
            )
        digests = self._labels if screen.response == "deg" else self._digests
        if screen.response == "deg" and not self.has_labels:
            raise InputError(
                f"{self.path}: has no draws of DEG labels; make the ceilings from a screen with DEG labels."
            )
        for context in shared:
            if screen.digest(context) != digests[context]:
                raise InputError(
                    f"{self.path}: made for other responses than screen {screen.name!r} has in context {context!r}. Make the "
                    "ceilings again with panmodal ceiling, or run without them (--no-ceilings)."
                )

    def pairs(self, context: str, estimator: Estimator, ids: list[str], point: NDArray[np.floating],
              train_mean: NDArray[np.floating]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:  # fmt: skip
        """Yield (truth, prediction) of each draw, perturbations x read-outs; rows are NaN where a draw is undefined.

        Parameters
        ----------
        ids
            Perturbations wanted, each one of the context.
        point
            Their measured responses.
        train_mean
            What shrinking estimators shrink to.
        """
        import h5py

        place = {i: k for k, i in enumerate(self._ids[context])}
        rows = np.array([place[i] for i in ids])
        order = np.argsort(rows)
        back = np.argsort(order)
        with h5py.File(self.path, "r") as handle:
            group = handle["contexts"][self._contexts[context]]

            def read(name: str, draw: int) -> NDArray[np.float64]:
                return group[name][rows[order], draw, :][back].astype(np.float64)

            truth = point.astype(np.float64)
            if estimator.truth == "point" and "point" in group:
                truth = read("point", 0)
            for draw in range(self.n_draws(context, estimator)):
                prediction = read(estimator.prediction, draw)
                if estimator.shrink:
                    weight = read(estimator.shrink, draw)
                    prediction = weight * prediction + (1.0 - weight) * train_mean
                yield (truth if estimator.truth == "point" else read(estimator.truth, draw)), prediction

    def labels(self, context: str, ids: list[str] | None = None) -> NDArray[np.int8]:
        """DEG labels recomputed from resampled cells: perturbations x draws x read-outs; all zero where not tested.

        Parameters
        ----------
        ids
            Perturbations wanted, all of the context unless given.
        """
        import h5py

        with h5py.File(self.path, "r") as handle:
            group = handle["contexts"][self._contexts[context]]
            if "labels" not in group:
                raise InputError(
                    f"{self.path}: has no draws of DEG labels; make the ceilings from a screen with DEG labels."
                )
            if ids is None:
                return group["labels"][:]
            place = {i: k for k, i in enumerate(self._ids[context])}
            return np.stack([group["labels"][place[i]] for i in ids])

    def quality(self, context: str) -> pd.DataFrame:
        """Facts of each perturbation of a context (see :func:`panmodal.cells.ceiling.make_ceilings`)."""
        import h5py
        import pandas as pd

        with h5py.File(self.path, "r") as handle:
            table = handle["contexts"][self._contexts[context]]["quality"]
            frame = pd.DataFrame({name: table[name][:] for name in table.attrs["columns"]})
        frame.insert(0, "pert_id", self._ids[context])
        frame.insert(0, "context", context)
        return frame


def read_beside(screen: str | Path) -> Ceilings | None:
    """Return the ceilings beside a screen's file, if there are any."""
    path = ceilings_path(screen)
    return Ceilings(path) if path.exists() else None

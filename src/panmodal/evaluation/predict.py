"""Predicted responses of perturbations that were not measured, with intervals whose coverage can be checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._files import atomic_path
from panmodal._tables import suffix
from panmodal._threads import limit_threads
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.candidates import chosen_context, join
from panmodal.evaluation.compare import TRAIN_MEAN
from panmodal.evaluation.conformal import check_alpha
from panmodal.evaluation.intervals import (
    DIFFICULTY,
    INTERVALS,
    OUTER_FOLDS,
    Intervals,
    mean_arrays,
    predict_arrays,
)
from panmodal.probes.base import CONTINUOUS, Probe, get_probe, probes
from panmodal.probes.design import INNER_SEED, Fold, Targets
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split

Matrix = NDArray[np.float64]

FEWEST = 13
"""Fewest measured perturbations: each model is fitted on four fifths of them, and a probe needs 10."""


@dataclass(frozen=True)
class Prediction:
    """Predicted responses of one context.

    Attributes
    ----------
    context, readouts
        Context, and names of the t read-outs.
    values, lower, upper
        Predictions and the ends of their intervals, m x t, float32.
    about
        One row for each predicted id: ``pert_id``; ``covered`` (False: no vector, the train mean is predicted); ``nearest``,
        ``distance`` and ``farther_than`` (the nearest measured perturbation, its Euclidean distance in the space of the probe,
        and the share of measured perturbations whose own nearest is closer: above 0.95 the id is unlike those measured);
        ``expected_error`` (L2) and ``error_bound`` (L2 error of the whole response that is not exceeded with probability 1 -
        alpha).
    alpha
        Share of intervals that may miss.
    settings
        What it was made with, as plain values.
    notes
        What a reader should know: ids left out, matched by other names, intervals without an end, ...
    """

    context: str
    readouts: tuple[str, ...]
    values: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    about: pd.DataFrame
    alpha: float
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Predicted ids in the order of the rows."""
        return tuple(self.about["pert_id"])

    def frame(self) -> pd.DataFrame:
        """Return one row for each id and read-out: ``context, pert_id, readout, prediction, lower, upper``."""
        m, t = self.values.shape
        return pd.DataFrame({
            "context": self.context, "pert_id": np.repeat(np.array(self.ids, dtype=object), t),
            "readout": np.tile(np.array(self.readouts, dtype=object), m), "prediction": self.values.ravel(),
            "lower": self.lower.ravel(), "upper": self.upper.ravel(),
        })  # fmt: skip


@limit_threads
def predict_responses(
    screen: Screen, embedding: Embedding, ids: Sequence[str] | None = None, *, probe: str = "ridge", context: str | None = None,
    alpha: float = 0.1, intervals: str = "cv", difficulty: str = "neighbours", match: str = "auto", seed: int = INNER_SEED,
) -> Prediction:  # fmt: skip
    """Predict responses of perturbations that a context of the screen does not hold, with conformal intervals.

    The probe is fitted as in the benchmark (standardise, PCA, hyper-parameter by the inner 5-fold cross-validation) on all
    measured perturbations that the embedding covers; five more fits without one fold each give the intervals.

    Parameters
    ----------
    screen, embedding
        Measured responses (numbers, not labels) and vectors.
    ids
        Perturbations to predict; all of the embedding that are not measured unless given. Ids are joined like in a run
        (:func:`panmodal.embeddings.align.align`), and combinations are composed from their parts. Those measured in the context,
        under this or another name, are left out and named in the notes; those without a vector get the train mean, with its own
        intervals.
    probe
        Name of a probe for numbers.
    context
        Context; needed if the screen has several.
    alpha
        Share of intervals that may miss: 0.1 for 90 % intervals.
    intervals
        ``cv``: the prediction plus and minus the quantile of cross-validation errors, the usual approximation of split conformal
        prediction, here within about a point of 1 - alpha. ``cv+``: never below 1 - 2 alpha or nearly, whatever the probe, and
        somewhat too wide where the five models disagree; slower.
    difficulty
        ``neighbours``: intervals are wider where the nearest measured perturbations are predicted badly (normalised conformal
        scores). ``none``: those of a read-out are about equally wide for all ids. The promise is the same.
    match
        ``auto``, ``genes``, ``compounds`` or ``exact``.
    seed
        Of the folds behind the intervals.

    Returns
    -------
    Prediction
        Intervals are marginal: over perturbations like the measured ones, about a share 1 - alpha of them hold the response that
        would be measured, noise included (:func:`panmodal.evaluation.conformal.cv_plus` says what is proved of CV+). They promise
        nothing for one id, and less for ids unlike those measured; see ``farther_than``.

    Raises
    ------
    InputError
        Labels instead of numbers, an unknown probe, context or option, control cells among the ids, nothing to predict, or fewer
        than 13 measured perturbations with a vector.
    """
    chosen = _check(screen, probe, alpha, intervals, difficulty)
    context = chosen_context(screen, context)
    found = join(screen, embedding, ids, context, match)
    measured, responses = screen.responses(context)
    row = {name: k for k, name in enumerate(measured)}
    values = responses.astype(np.float64)
    whole = Targets.of(values)
    rows = [row[i] for i in found.measured]
    if len(rows) < FEWEST:
        raise InputError(f"embedding {embedding.name!r} has vectors for {len(rows)} of the {len(measured)} perturbations measured in "
                         f"{context!r}; at least {FEWEST} are needed. Do its ids mean the same things?")  # fmt: skip
    m, t = len(found.wanted), values.shape[1]
    out = [np.empty((m, t), np.float32) for _ in range(3)]
    expected, bound = np.empty(m), np.empty(m)
    covered = np.array([i in found.covered for i in found.wanted], bool)
    notes = list(found.notes)
    settings = _settings(screen, embedding, chosen, alpha, intervals, difficulty, seed, len(rows))
    nearest, distance, farther = np.full(m, "", object), np.full(m, np.nan), np.full(m, np.nan)
    parts: list[tuple[NDArray[np.bool_], Intervals]] = []
    if covered.any():
        new = [i for i in found.wanted if i in found.covered]
        targets = Targets(values[rows], whole.gram[np.ix_(rows, rows)])
        made = predict_arrays(found.embedding.matrix(found.measured), targets, found.embedding.matrix(new), chosen, alpha=alpha,
                              intervals=intervals, difficulty=difficulty, seed=seed)  # fmt: skip
        parts.append((covered, made))
        assert made.selection is not None and made.space is not None
        settings["hyperparameters"] = {
            chosen.parameter: made.selection.value,
            "components": made.space.z_train.shape[1],
        }
        if made.selection.at_edge:
            notes.append(f"{chosen.parameter} {made.selection.value:g} of {probe} lies at an edge of its grid.")
        at, distance[covered], farther[covered] = _unlike(made.space)
        nearest[covered] = np.array(found.measured, dtype=object)[at]
        odd = [i for i, f in zip(new, farther[covered], strict=True) if f > 0.95]
        if len(odd) > 0.1 * len(new):
            notes.append(f"{len(odd)} of {len(new)} ids lie farther from what is measured than 95 % of the measured lie from each "
                         f"other: {some(odd, 3)}. Coverage is not promised for them.")  # fmt: skip
    if not covered.all():
        parts.append((~covered, mean_arrays(whole, int((~covered).sum()), alpha=alpha, intervals=intervals, seed=seed)))
        names = [i for i in found.wanted if i not in found.covered]
        notes.append(f"{len(names)} id(s) without a vector in {embedding.name!r} get the train mean: {some(names, 3)}.")
    for which, made in parts:
        for target, source in zip(out, (made.values, made.lower, made.upper), strict=True):
            target[which] = source
        expected[which], bound[which] = made.expected, made.bound
    if np.isinf(bound).any():
        notes.append(
            f"{len(rows)} measured perturbations are too few for intervals with alpha {alpha:g}: some have no end."
        )
    about = pd.DataFrame({
        "pert_id": list(found.wanted), "covered": covered, "nearest": nearest, "distance": distance, "farther_than": farther,
        "expected_error": expected, "error_bound": bound,
    })  # fmt: skip
    return Prediction(context, tuple(screen.readouts), out[0], out[1], out[2], about, alpha, settings, tuple(notes))


@limit_threads
def interval_coverage(
    screen: Screen, embedding: Embedding, split: Split, *, probe: str = "ridge", context: str | None = None, alpha: float = 0.1,
    intervals: str = "cv", difficulty: str = "neighbours", match: str = "auto", seed: int = INNER_SEED,
) -> pd.DataFrame:  # fmt: skip
    """Hold out each fold in turn, predict it with intervals, and compare with what was measured.

    Returns
    -------
    pandas.DataFrame
        One row for each covered perturbation: ``pert_id, fold``; ``share_inside`` (share of its read-outs inside their intervals:
        the mean over rows is the coverage, to be compared with 1 - alpha), ``width`` (mean over read-outs), ``error`` (L2),
        ``expected_error``, ``error_bound`` and ``within_bound``.
    """
    chosen = _check(screen, probe, alpha, intervals, difficulty)
    context = chosen_context(screen, context)
    found = join(screen, embedding, [], context, match)
    ids, responses = screen.responses(context)
    row = {name: k for k, name in enumerate(ids)}
    unknown = [i for i in found.measured if i not in split.folds]
    if unknown:
        raise InputError(
            f"split {split.name!r}: no fold for perturbation(s) {some(unknown)} of screen {screen.name!r}."
        )
    values = responses[[row[i] for i in found.measured]].astype(np.float64)
    vectors, whole = found.embedding.matrix(found.measured), Targets.of(values)
    fold_of = np.array([split.folds[i] for i in found.measured])
    tables = []
    for fold in split.numbers:
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if not len(test):
            continue
        if len(train) < FEWEST:
            raise InputError(
                f"split {split.name!r}: fold {fold} leaves {len(train)} perturbations to train on; at least {FEWEST} are needed."
            )
        targets = Targets(values[train], whole.gram[np.ix_(train, train)])
        made = predict_arrays(vectors[train], targets, vectors[test], chosen, alpha=alpha, intervals=intervals,
                              difficulty=difficulty, seed=seed)  # fmt: skip
        error = np.linalg.norm(values[test] - made.values, axis=1)
        tables.append(pd.DataFrame({
            "pert_id": [found.measured[i] for i in test], "fold": fold,
            "share_inside": ((made.lower <= values[test]) & (values[test] <= made.upper)).mean(axis=1),
            "width": (made.upper - made.lower).mean(axis=1), "error": error, "expected_error": made.expected,
            "error_bound": made.bound, "within_bound": error <= made.bound,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def check_target(path: str | Path) -> str:
    """Return the suffix of a file that predictions can be written to; refuse others."""
    kind = suffix(path)
    if kind not in (".h5ad", ".csv", ".parquet"):
        raise InputError(f"{path}: predictions are written as .h5ad, .csv or .parquet.")
    return kind


def write_predictions(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Write predictions of one or several contexts of a screen.

    ``.h5ad`` (AnnData): ``X`` the prediction, layers ``lower`` and ``upper``, ``obs`` what is known of each id with ``pert_id``
    and ``cell_line``, ``uns['panmodal_prediction']`` (JSON) settings and notes. ``.csv`` or ``.parquet``:
    :meth:`Prediction.frame`.

    Raises
    ------
    InputError
        Another suffix, nothing to write, or contexts with different read-outs.
    """
    path, kind = Path(path), check_target(path)
    if not predictions or any(p.readouts != predictions[0].readouts for p in predictions):
        raise InputError(f"{path}: predictions to be written together must be of the same read-outs, and at least one.")
    if kind != ".h5ad":
        frame = pd.concat([p.frame() for p in predictions], ignore_index=True)
        with atomic_path(path) as partial:
            frame.to_csv(partial, index=False) if kind == ".csv" else frame.to_parquet(partial, index=False)
        return
    import anndata

    tables = [p.about.assign(cell_line=p.context, index=[f"{p.context}|{i}" for i in p.ids]) for p in predictions]
    obs = pd.concat(tables, ignore_index=True).set_index("index")
    obs.index.name = None
    adata = anndata.AnnData(np.vstack([p.values for p in predictions]), obs=obs,
                            var=pd.DataFrame(index=list(predictions[0].readouts)))  # fmt: skip
    for layer in ("lower", "upper"):
        adata.layers[layer] = np.vstack([getattr(p, layer) for p in predictions])
    record = [{"context": p.context, **p.settings, "notes": list(p.notes)} for p in predictions]
    adata.uns["panmodal_prediction"] = json.dumps(record)
    with atomic_path(path) as partial:
        adata.write_h5ad(partial, compression="gzip")


def _unlike(space: Fold) -> tuple[NDArray[np.intp], Matrix, Matrix]:
    """Nearest training row of each new row, its distance, and the share of training rows whose own nearest is closer."""
    from scipy.spatial.distance import cdist

    near, squared = space.nearest(1)
    among = cdist(space.z_train, space.z_train)
    np.fill_diagonal(among, np.inf)
    own = np.sort(among.min(axis=1))
    distance = np.sqrt(np.maximum(squared[:, 0], 0.0))
    return near[:, 0], distance, np.searchsorted(own, distance * (1 - 1e-9)) / len(own)


def _check(screen: Screen, probe: str, alpha: float, intervals: str, difficulty: str) -> Probe:
    check_alpha(alpha)
    if difficulty not in DIFFICULTY:
        raise InputError(f"no difficulty {difficulty!r}; there are {', '.join(DIFFICULTY)}.")
    if intervals not in INTERVALS:
        raise InputError(f"no intervals {intervals!r}; there are {', '.join(INTERVALS)}.")
    if screen.response not in CONTINUOUS:
        raise InputError(f"screen {screen.name!r} holds {screen.response} labels; intervals are for numbers. Give its fold changes "
                         "(--response lfc), or fit labels with panmodal.ProbeCV.")  # fmt: skip
    chosen = get_probe(probe)
    if screen.response not in chosen.kinds:
        able = [p.name for p in probes().values() if screen.response in p.kinds]
        raise InputError(f"probe {probe!r} does not predict {screen.response}; use {', '.join(able)}.")
    return chosen


def _settings(
    screen: Screen, embedding: Embedding, probe: Probe, alpha: float, intervals: str, difficulty: str, seed: int, n: int
) -> dict[str, Any]:
    return {
        "screen": screen.name, "response": screen.response, "simulated": screen.simulated, "embedding": embedding.name,
        "embedding_digest": embedding.digest, "probe": probe.name, "alpha": alpha, "difficulty": difficulty, "seed": seed,
        "intervals": f"{intervals}, {OUTER_FOLDS} folds", "n_measured": n, "not_covered": TRAIN_MEAN,
    }  # fmt: skip

"""A fusion of several embeddings fitted on everything that a screen measured, and what it predicts of what was not measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._digest import digest_json
from panmodal._files import atomic_path
from panmodal._threads import limit_threads
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, PanmodalError, some
from panmodal.evaluation.compare import CLASS_PRIOR, TRAIN_MEAN, fill_row, has_classes
from panmodal.evaluation.fuse_inputs import chosen_contexts, gather
from panmodal.evaluation.modalities import coverage_words, modalities_of
from panmodal.evaluation.predict import check_target
from panmodal.fusion.base import (
    ContextTargets,
    Fitted,
    Fusion,
    Modalities,
    Options,
    Progress,
    Setting,
    fit_fusion,
    fusions,
    get_fusion,
)
from panmodal.probes.design import LabelTargets, Targets
from panmodal.probes.labels import decide
from panmodal.screens.screen import Screen

UNS_KEY = "panmodal_fusion"
CHUNK = 2048
"""Ids predicted at a time."""


@dataclass(frozen=True)
class FusedPrediction:
    """What a fusion predicts in one context.

    Attributes
    ----------
    context, readouts, response
        Context, names of the t read-outs, kind of response.
    values
        m x t, float32; for DEG labels m x 2t, the probabilities of -1 and then of +1 (labels: :meth:`layers`).
    variance
        Predictive variance of each value, same shape, NaN for ids that are not covered; None where the fusion tells none.
    about
        One row for each predicted id: ``pert_id``; ``covered`` (False: no modality has a vector, and the train mean or class prior
        is predicted); ``n_modalities`` and ``modalities`` (their names, with ``; `` between); where there is a variance of numbers,
        ``sd``: the root of its sum over read-outs, to be compared with L2 errors.
    weights
        What the fusion learned of its modalities: ``what, context, modality, part, value`` (:meth:`Fitted.tables`).
    settings, notes
        What it was made with, as plain values, and what a reader should know.
    """

    context: str
    readouts: tuple[str, ...]
    response: str
    values: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    about: pd.DataFrame
    weights: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Predicted ids in the order of the rows."""
        return tuple(self.about["pert_id"])

    def layers(self) -> dict[str, NDArray[Any]]:
        """Return m x t matrices by name: ``prediction`` (numbers, or labels as int8) and ``sd``, or for labels ``p_down, p_up``."""
        t = len(self.readouts)
        sd = None if self.variance is None else np.sqrt(np.maximum(self.variance, 0))
        out: dict[str, NDArray[Any]] = {"prediction": self.values}
        if not has_classes(self.response):
            return out if sd is None else {**out, "sd": sd}
        down, up = self.values[:, :t], self.values[:, t:]
        out = {"prediction": decide(down, up), "p_down": down, "p_up": up}
        return out if sd is None else {**out, "p_down_sd": sd[:, :t], "p_up_sd": sd[:, t:]}

    def frame(self) -> pd.DataFrame:
        """Return one row for each id and read-out: ``context, pert_id, readout`` and the :meth:`layers`."""
        m, t = len(self.about), len(self.readouts)
        return pd.DataFrame({
            "context": self.context, "pert_id": np.repeat(np.array(self.ids, dtype=object), t),
            "readout": np.tile(np.array(self.readouts, dtype=object), m),
            **{name: values.ravel() for name, values in self.layers().items()},
        })  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A fusion with everything that is needed to fit it."""

    fusion: Fusion
    options: Options
    setting: Setting
    members: int = 1

    @classmethod
    def of(
        cls, screen: Screen, fusion: str | Fusion, options: Mapping[str, Any] | None, members: int, setting: Setting
    ) -> Method:
        """Look up and check; raise an InputError for what cannot be fitted to the screen."""
        chosen = get_fusion(fusion) if isinstance(fusion, str) else fusion
        if screen.response not in chosen.kinds:
            able = [f.name for f in fusions().values() if screen.response in f.kinds]
            raise InputError(
                f"fusion {chosen.name!r} does not predict {screen.response}; use {', '.join(able) or 'another'}."
            )
        if members < 1:
            raise InputError(f"a fusion has at least one member, not {members}.")
        checked = chosen.settings(options)
        chosen.require()
        if setting.device != "cpu":
            from panmodal.probes.softmax import check_device

            check_device(setting.device)
        if members > 1:
            from panmodal.fusion.ensemble import ensemble

            chosen = ensemble(chosen, members)
        return cls(chosen, checked, setting, members)

    def fit(self, embeddings: Sequence[Embedding], measured: Mapping[str, Measured]) -> dict[str, Fitted]:
        """Fit what was measured in some contexts: all at once if the fusion is joint (then each has the same fit), or each alone."""
        if self.fusion.joint:
            one = self._fit(embeddings, measured)
            return dict.fromkeys(measured, one)
        return {context: self._fit(embeddings, {context: own}) for context, own in measured.items()}

    def _fit(self, embeddings: Sequence[Embedding], measured: Mapping[str, Measured]) -> Fitted:
        ids = sorted({i for own in measured.values() for i in own.ids})
        place = {i: k for k, i in enumerate(ids)}
        contexts = {
            c: ContextTargets(np.array([place[i] for i in own.ids]), own.targets) for c, own in measured.items()
        }
        setting = self.setting
        if setting.folder is not None:
            # Checkpoints of something else are never gone on from.
            depends = {"fusion": self.fusion.identity(self.options), "members": self.members, "seed": setting.seed,
                       "embeddings": {e.name: e.digest for e in embeddings},
                       "responses": {c: [own.digest, *own.ids] for c, own in measured.items()}}  # fmt: skip
            setting = replace(setting, folder=setting.folder / digest_json(depends)[:16])
        try:
            return fit_fusion(self.fusion, modalities_of(embeddings, ids), contexts, self.options, setting)
        except InputError as error:
            where = "" if self.fusion.joint else f"context {next(iter(measured))!r}: "
            raise InputError(f"{where}{error}") from None


@dataclass(frozen=True)
class Measured:
    """Responses of a context that may be learned from: ids, targets in their order, digest of the context's responses."""

    ids: tuple[str, ...]
    targets: Targets | LabelTargets
    digest: str

    @classmethod
    def of(cls, screen: Screen, context: str, setting: Setting) -> Measured:
        """Take all responses of a context."""
        ids, values = screen.responses(context)
        if has_classes(screen.response):
            targets: Targets | LabelTargets = LabelTargets(values.astype(np.int8), setting.device, setting.threads)
        else:
            targets = Targets.of(values)
        return cls(tuple(ids), targets, screen.digest(context))


@limit_threads
def fuse(
    screen: Screen, embeddings: Sequence[Embedding], fusion: str | Fusion = "kernels", *, options: Mapping[str, Any] | None = None,
    ids: Sequence[str] | Literal["screen"] | None = None, members: int = 1, contexts: Sequence[str] | str | None = None,
    match: str = "auto", seed: int = 42, device: str = "cpu", threads: int = 1, folder: str | Path | None = None,
    progress: Progress | None = None,
) -> list[FusedPrediction]:  # fmt: skip
    """Fit a fusion on all that was measured, and predict perturbations that were not.

    Parameters
    ----------
    screen, embeddings
        Measured responses (numbers or DEG labels), and vectors. Embeddings may cover different ids.
    fusion, options
        Name of a fusion (:func:`panmodal.fusion.base.fusions`) or a fusion, and its options.
    ids
        Perturbations to predict. None: all that any embedding has a vector for, each once although embeddings may name it
        differently; ``screen``: all of the screen; both where they were not measured. Ids are joined like in a run
        (:func:`panmodal.embeddings.align.align`), and combinations are composed from their parts. Those measured in a context, under
        this or another name, are left out there and named in the notes; those without a vector in any embedding get the train mean
        (labels: the class prior). An empty list predicts nothing: fitted for the weights alone.
    members
        Above 1, the mean of as many fits with seeds of their own (:func:`panmodal.fusion.ensemble.ensemble`).
    contexts
        Contexts to predict in; all unless given. Joint fusions learn from all contexts of the screen in any case.
    match
        ``auto``, ``genes``, ``compounds`` or ``exact``.
    seed, device, threads, folder, progress
        See :class:`panmodal.fusion.base.Setting`; every fit keeps its checkpoints in a folder of its own within ``folder``.

    Returns
    -------
    list of FusedPrediction
        One for each context in which something was left to predict, in the order asked for; the notes name the others.

    Raises
    ------
    InputError
        A fusion that is unknown, not installed or does not serve this kind of response; wrong options; an unknown context or
        device; an embedding that shares no id with the screen or with a context; control cells among the ids; nothing to predict;
        fewer than 10 measured perturbations with a vector.
    """
    setting = Setting(seed, device, threads, None if folder is None else Path(folder), progress)
    method = Method.of(screen, fusion, options, members, setting)
    chosen = chosen_contexts(screen, contexts)
    found = gather(screen, embeddings, chosen, ids, match)
    asked = any(found.wanted.values())
    predicted = [c for c in chosen if found.wanted[c] or not asked]
    common = list(found.notes)
    skipped = [c for c in chosen if c not in predicted]
    if skipped:
        common.append(f"nothing is left to predict in {some(skipped)}: all was measured there.")
    measured = {
        c: Measured.of(screen, c, setting) for c in (screen.contexts if method.fusion.joint else predicted)
    }  # fmt: skip
    fitted = method.fit(found.embeddings, measured)
    out = []
    for context in predicted:
        notes = [*common, *([found.left_out[context]] if found.left_out[context] else [])]
        wanted = found.wanted[context]
        test = modalities_of(found.embeddings, wanted)
        filled = fill_row(screen.response, screen.responses(context)[1], slice(None))
        values, variance = predict_rows(fitted[context], test, context, filled, method.fusion.name)
        about = _about(wanted, test)
        if variance is not None and not has_classes(screen.response):
            about["sd"] = np.sqrt(variance.sum(axis=1, dtype=np.float64))
        train = modalities_of(found.embeddings, measured[context].ids)
        notes += _notes(
            about, train, measured[context].ids, TRAIN_MEAN if not has_classes(screen.response) else CLASS_PRIOR
        )
        weights = weight_table(fitted[context], context, method.fusion.joint)
        settings = _settings(screen, method, found.embeddings, fitted[context], train)
        settings["coverage"] = [*coverage_words(train, measured[context].ids, "measured perturbations"),
                                *coverage_words(test, wanted, "perturbations to predict")]  # fmt: skip
        out.append(FusedPrediction(context, tuple(screen.readouts), screen.response, values, variance, about, weights,
                                   settings, tuple(notes)))  # fmt: skip
    return out


def predict_rows(
    fitted: Fitted, test: Modalities, context: str, filled: NDArray[np.float32], name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Predict rows, a few thousand at a time; those without any modality get ``filled`` and no variance (NaN).

    Raises
    ------
    PanmodalError
        The fusion predicts NaN or infinite values.
    """
    values = np.tile(filled, (len(test), 1)).astype(np.float32)
    variance: NDArray[np.float32] | None = None
    covered = np.flatnonzero(test.covered)
    for start in range(0, len(covered), CHUNK):
        rows = covered[start : start + CHUNK]
        made = fitted.predict(test.part(rows), context)
        if made.variance is not None:
            if variance is None:
                variance = np.full(values.shape, np.nan, np.float32)
            variance[rows] = made.variance
        values[rows] = made.values
        if not np.isfinite(values[rows]).all() or (made.variance is not None and np.isnan(made.variance).any()):
            raise PanmodalError(
                f"fusion {name!r} predicts NaN or infinite values in context {context!r}; its fit failed."
            )
    return values, variance


def weight_table(fitted: Fitted, context: str, joint: bool) -> pd.DataFrame:
    """Tell what a fusion learned of its modalities in one context, or in all at once (``context`` is then empty)."""
    rows = [{**row, "context": row["context"] or ("" if joint else context)} for row in fitted.tables()]
    kept = [row for row in rows if row["context"] in ("", context)]
    return pd.DataFrame(kept, columns=["what", "context", "modality", "part", "value"])


def _about(ids: Sequence[str], test: Modalities) -> pd.DataFrame:
    return pd.DataFrame({
        "pert_id": list(ids), "covered": test.covered, "n_modalities": test.present.sum(axis=1),
        "modalities": ["; ".join(n for n, has in zip(test.names, own, strict=True) if has) for own in test.present],
    })  # fmt: skip


def _notes(about: pd.DataFrame, train: Modalities, measured: Sequence[str], filler: str) -> list[str]:
    notes = []
    unused = [i for i, has in zip(measured, train.covered, strict=True) if not has]
    if unused:
        notes.append(f"{len(unused)} of {len(measured)} measured perturbations have no vector in any embedding and are not "
                     f"learned from: {some(unused, 3)}.")  # fmt: skip
    lost = about.loc[~about["covered"], "pert_id"].tolist()
    if lost:
        notes.append(f"{len(lost)} id(s) without a vector in any embedding get the {filler}: {some(lost, 3)}.")
    return notes


def _settings(
    screen: Screen, method: Method, embeddings: Sequence[Embedding], fitted: Fitted, train: Modalities
) -> dict[str, Any]:
    return {
        "screen": screen.name, "response": screen.response, "simulated": screen.simulated, "fusion": method.fusion.name,
        "options": method.options.model_dump(mode="json"), "rule": method.fusion.rule, "members": method.members,
        "joint": method.fusion.joint, "embeddings": [{"name": e.name, "digest": e.digest} for e in embeddings],
        "seed": method.setting.seed, "n_measured": len(train), "n_trained_on": int(train.covered.sum()),
        "hyperparameters": fitted.hyperparameters,
        "not_covered": CLASS_PRIOR if has_classes(screen.response) else TRAIN_MEAN,
    }  # fmt: skip


def write_fused(predictions: Sequence[FusedPrediction], path: str | Path) -> None:
    """Write what a fusion predicts in one or several contexts.

    ``.h5ad`` (AnnData): ``X`` the prediction (of DEG labels the label), further :meth:`FusedPrediction.layers` as layers (``sd``;
    ``p_down, p_up``), ``obs`` what is known of each id with ``pert_id`` and ``cell_line``, ``uns['panmodal_fusion']`` (JSON)
    settings, weights and notes of each context. ``.csv`` or ``.parquet``: :meth:`FusedPrediction.frame`.

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
    layers = [p.layers() for p in predictions]
    names = dict.fromkeys(name for own in layers for name in own)
    # Where no id of a context is covered there is no variance.
    stacked = {name: np.vstack([own.get(name, np.full(own["prediction"].shape, np.nan)) for own in layers]).astype(np.float32)
               for name in names}  # fmt: skip
    adata = anndata.AnnData(stacked.pop("prediction"), obs=obs, var=pd.DataFrame(index=list(predictions[0].readouts)))
    for name, values in stacked.items():
        adata.layers[name] = values
    record = [{"context": p.context, **p.settings, "weights": _plain(p.weights), "notes": list(p.notes)}
              for p in predictions]  # fmt: skip
    adata.uns[UNS_KEY] = json.dumps(record)
    with atomic_path(path) as partial:
        adata.write_h5ad(partial, compression="gzip")


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows that JSON can hold: what is undefined is null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")

"""Rehearsing a fusion: each fold of what was measured is held out in turn and predicted, beside each embedding alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._threads import limit_threads
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, PanmodalError, some
from panmodal.evaluation.compare import CLASS_PRIOR, TRAIN_MEAN, fill_row, has_classes
from panmodal.evaluation.fuse import Measured, Method, predict_rows
from panmodal.evaluation.fuse_inputs import chosen_contexts, gather
from panmodal.evaluation.modalities import modalities_of
from panmodal.fusion.base import Fusion, Modalities, Progress, Setting, part_of
from panmodal.probes.base import get_probe, select
from panmodal.probes.design import MIN_TRAIN, Design
from panmodal.probes.labels import one_minus_f1
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, audit

FUSION, SINGLE, BASELINE = "fusion", "embedding", "baseline"
"""Roles of methods in a rehearsal."""


@limit_threads
def rehearse(
    screen: Screen, embeddings: Sequence[Embedding], split: Split, fusion: str | Fusion = "kernels", *,
    options: Mapping[str, Any] | None = None, members: int = 1, contexts: Sequence[str] | str | None = None, match: str = "auto",
    seed: int = 42, device: str = "cpu", threads: int = 1, folder: str | Path | None = None, progress: Progress | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Hold out each fold in turn, and predict it by the fusion, by each embedding alone, and by the train mean.

    Embeddings alone are probed by ridge (DEG labels: ``ridge_classifier``) as in a run; test perturbations that one lacks get the
    train mean (the class prior), as those that all lack do from the fusion. Where an embedding has fewer than 10 training
    perturbations its values are NaN.

    Parameters
    ----------
    split
        Folds over all perturbations of the screen.
    progress
        Called with (folds done, folds) over contexts.
    screen, embeddings, fusion, options, members, contexts, match, seed, device, threads, folder
        As in :func:`panmodal.evaluation.fuse.fuse`.

    Returns
    -------
    pandas.DataFrame
        Numbers: one row for each perturbation, context and method, with its L2 error. Labels: one row for each fold, context and
        method, with the mean over genes of the macro F1 over the fold's perturbations, as in a run. Columns: ``context, fold,
        pert_id`` (empty for labels), ``method, role`` (``fusion``, ``embedding``, ``baseline``), ``metric, value``;
        ``n_modalities`` (of the perturbation; NaN for labels); ``sd`` (of the fusion on numbers, where it tells a variance: root of
        its sum over read-outs).

    Raises
    ------
    InputError
        As for :func:`panmodal.evaluation.fuse.fuse`; a perturbation has no fold, or a fold holds nothing of a context.
    LeakError
        The split breaks its promise.
    """
    method = Method.of(
        screen, fusion, options, members, Setting(seed, device, threads, None if folder is None else Path(folder))
    )
    chosen = chosen_contexts(screen, contexts)
    found = gather(screen, embeddings, chosen, [], match)
    audit(split, screen.pert_ids, f"screen {screen.name!r}")
    learned = screen.contexts if method.fusion.joint else chosen
    whole = {c: Measured.of(screen, c, method.setting) for c in learned}
    vectors = {c: modalities_of(found.embeddings, whole[c].ids) for c in chosen}
    name = method.fusion.name
    name = f"{name} (fusion)" if name in {e.name for e in embeddings} else name
    tables = []
    fold_of = {c: np.array([split.folds[i] for i in own.ids]) for c, own in whole.items()}
    for c in chosen:
        empty = [f for f in split.numbers if f not in fold_of[c]]
        if empty:
            raise InputError(
                f"split {split.name!r}: fold {some(empty)} holds no perturbation of context {c!r}; use fewer folds."
            )
    for done, fold in enumerate(split.numbers):
        train = {c: own != fold for c, own in fold_of.items()}
        try:
            fitted = method.fit(found.embeddings, {c: _part(own, train[c]) for c, own in whole.items()})
            fused = {
                c: predict_rows(fitted[c], vectors[c].part(~train[c]), c, _filled(screen, c, train[c]), name)
                for c in chosen
            }
        except PanmodalError as error:
            raise type(error)(f"fold {fold} held out: {error}") from None
        for k, context in enumerate(chosen):
            own, inside = _part(whole[context], train[context]), train[context]
            ids, responses = screen.responses(context)
            test, held = vectors[context].part(~inside), np.flatnonzero(~inside)
            filled = _filled(screen, context, inside)
            values, variance = fused[context]
            predicted = {(name, FUSION): values}
            for at, embedding in enumerate(found.embeddings):
                one = _single(vectors[context], at, inside, own, filled, screen.response)
                predicted[embedding.name, SINGLE] = one
            baseline = CLASS_PRIOR if has_classes(screen.response) else TRAIN_MEAN
            predicted[baseline, BASELINE] = np.tile(filled, (len(held), 1))
            sd = np.full(len(held), np.nan) if variance is None else np.sqrt(variance.sum(axis=1, dtype=np.float64))
            for (label, role), made in predicted.items():
                table = _scored(screen.response, made, responses[held], [ids[i] for i in held], test)
                table["sd"] = sd if role == FUSION and not has_classes(screen.response) else np.nan
                tables.append(table.assign(context=context, fold=fold, method=label, role=role))
            if progress:
                progress(done * len(chosen) + k + 1, len(split.numbers) * len(chosen))
    columns = ["context", "fold", "pert_id", "method", "role", "metric", "value", "n_modalities", "sd"]
    return pd.concat(tables, ignore_index=True)[columns]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the fusion of a :func:`rehearse` with each embedding alone and the baseline.

    Returns
    -------
    pandas.DataFrame
        One row for each context and method, the fusion first, then embeddings from the best: ``mean`` over perturbations (labels:
        over folds), ``n`` of them; ``gain`` of the fusion over the method (positive: the fusion is better) with ``low, high``, and
        ``best``, which marks the best embedding alone. ``sd_correlation``: of the fusion's row, Spearman's rank correlation of its
        sd with its error.

    Notes
    -----
    95 % intervals of the mean paired difference d by Student's t. Over n perturbations with the standard error s/sqrt(n); over k
    folds with s sqrt(1/k + 1/(k-1)), since folds share training data (Nadeau and Bengio, Machine Learning 52:239, 2003). The best
    embedding is chosen by the values that it is compared by, which flatters it, not the fusion.
    """
    rows: list[dict[str, Any]] = []
    for context, part in table.groupby("context", sort=False):
        folds = part["metric"].iloc[0] != "L2"
        wide = part.set_index(["fold", "pert_id", "method"])["value"].unstack("method")
        roles = part.drop_duplicates("method").set_index("method")["role"]
        (fusion,) = roles.index[roles == FUSION]
        means = wide.mean(skipna=False)
        better = -1.0 if folds else 1.0  # of errors the smaller is better
        singles = (better * means[roles.index[roles == SINGLE]]).sort_values(na_position="last", kind="stable")
        best = singles.index[0] if singles.notna().any() else None
        for label in (fusion, *singles.index, *roles.index[roles == BASELINE]):
            gain, low, high = (
                (np.nan,) * 3 if label == fusion else _paired(better * (wide[label] - wide[fusion]), folds)
            )
            own = part[part["method"] == label]
            rows.append({
                "context": context, "method": label, "role": roles[label], "metric": part["metric"].iloc[0], "mean": means[label],
                "n": len(wide), "gain": gain, "low": low, "high": high, "best": label == best,
                "sd_correlation": _rank_correlation(own["sd"], own["value"]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _filled(screen: Screen, context: str, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    return fill_row(screen.response, screen.responses(context)[1], rows)


def _part(own: Measured, rows: NDArray[np.bool_]) -> Measured:
    ids = tuple(i for i, kept in zip(own.ids, rows, strict=True) if kept)
    return Measured(ids, part_of(own.targets, rows), own.digest)


def _single(
    vectors: Modalities, at: int, inside: NDArray[np.bool_], own: Measured, filled: NDArray[np.float32], response: str
) -> NDArray[np.float32]:
    """Predict the test rows of a context by one embedding alone; NaN where it has too few training rows."""
    has, values = vectors.present[:, at], vectors.values[at]
    out = np.tile(filled, (int((~inside).sum()), 1)).astype(np.float32)
    if int((has & inside).sum()) < MIN_TRAIN:
        return np.full_like(out, np.nan)
    covered = has[~inside]
    if covered.any():
        probe = get_probe("ridge_classifier" if has_classes(response) else "ridge")
        design = Design.build(values[has & inside], values[has & ~inside])
        targets = part_of(own.targets, has[inside])
        out[covered] = probe.predict(design.final, targets, select(probe, design, targets).value)
    return out


def _scored(
    response: str, predicted: NDArray[np.float32], true: NDArray[np.float32], ids: Sequence[str], test: Modalities
) -> pd.DataFrame:
    if has_classes(response):
        t = true.shape[1]
        known = not np.isnan(predicted).any()
        value = 1 - one_minus_f1(true.astype(np.int8), predicted[:, :t], predicted[:, t:]) if known else np.nan
        return pd.DataFrame({"pert_id": [""], "metric": "F1", "value": value, "n_modalities": np.nan})
    error = np.linalg.norm(true.astype(np.float64) - predicted.astype(np.float64), axis=1)
    return pd.DataFrame(
        {"pert_id": list(ids), "metric": "L2", "value": error, "n_modalities": test.present.sum(axis=1)}
    )


def _paired(difference: pd.Series, folds: bool) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval; see :func:`summarise`."""
    from scipy.stats import t

    n = len(difference)
    gain = float(difference.mean(skipna=False))
    if n < 2:
        return gain, np.nan, np.nan
    share = 1 / n + 1 / (n - 1) if folds else 1 / n
    reach = float(t.ppf(0.975, n - 1) * difference.std(skipna=False) * np.sqrt(share))
    return gain, gain - reach, gain + reach


def _rank_correlation(sd: pd.Series, error: pd.Series) -> float:
    """Spearman's correlation over what has an sd; NaN where that is less than three, or either is constant."""
    from scipy.stats import spearmanr

    has = sd.notna() & error.notna()
    if has.sum() < 3 or sd[has].nunique() < 2 or error[has].nunique() < 2:
        return float("nan")
    return float(spearmanr(sd[has], error[has]).statistic)

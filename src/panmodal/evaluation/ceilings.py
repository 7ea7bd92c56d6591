"""From draws to ceilings: every metric of every estimator, for each test perturbation of each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._digest import digest_json
from panmodal.evaluation.class_metrics import LabelComparison, bootstrap_weights, resample, totals
from panmodal.evaluation.compare import has_classes, train_mean
from panmodal.evaluation.metrics import METRICS, Comparison, Metric, metrics_for, score_rows
from panmodal.evaluation.store import Store
from panmodal.screens.ceilings import ESTIMATORS, Ceilings, Estimator, spearman_brown
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split

TASK_COLUMNS = ("screen", "context", "response", "split", "fold", "estimator", "pert_id")
SLOW_DRAWS = 10
"""Draws that slow metrics score; averaged over perturbations, ten are enough."""
RULE = 1
"""Version of how draws become a ceiling; raise it when results change."""
Draws = dict[str, dict[str, list[float]]]
"""Bootstrap samples of metrics of genes, by estimator and metric."""


def summarise(values: NDArray[np.float64], metric: Metric, estimator: Estimator) -> NDArray[np.float64]:
    """Ceiling of each perturbation from its values over draws (draws x perturbations); NaN where no draw is defined.

    Estimators with a quantile q take the q quantile of errors, and 1 - q of metrics where higher is better; the others the mean,
    stepped up by Spearman-Brown for correlations where both sides come from half of the cells.
    """
    out = np.full(values.shape[1], np.nan)
    for k in np.flatnonzero(~np.isnan(values).all(axis=0)):
        own = values[:, k][~np.isnan(values[:, k])]
        if estimator.quantile is None:
            out[k] = own.mean()
        else:
            out[k] = np.quantile(own, 1 - estimator.quantile if metric.higher_is_better else estimator.quantile)
    return spearman_brown(out) if metric.reliability and estimator.half_size else out


def fold_ceilings(
    ceilings: Ceilings, screen: Screen, split: Split, context: str, fold: int, metrics: Sequence[Metric]
) -> tuple[pd.DataFrame, Draws]:
    """Score the draws of one context and fold: one row for each estimator and test perturbation.

    Returns
    -------
    pandas.DataFrame
        :data:`TASK_COLUMNS`, ``n_draws`` (draws in which it is defined) and one column for each metric. Metrics of genes stand in
        one more row with an empty ``pert_id``.
    dict
        Estimator -> metric of genes -> its values in bootstrap samples of the test perturbations.
    """
    if has_classes(screen.response):
        return _label_ceilings(ceilings, screen, split, context, fold, metrics)
    ids, values = screen.responses(context)
    train, test = split.sides(ids, fold)
    place = {i: k for k, i in enumerate(ids)}
    mean = train_mean(values, [place[i] for i in train])
    point = values[[place[i] for i in test]]
    frames = []
    for estimator in ceilings.estimators(context):
        draws: list[dict[str, NDArray[np.float64]]] = []
        counted = np.zeros(len(test), dtype=np.int64)
        n_draws = ceilings.n_draws(context, estimator)
        # One of each resampling of batches, with another resampling of cells each.
        few = set(np.linspace(0, n_draws - 1, min(n_draws, SLOW_DRAWS)).round().astype(int).tolist())
        for number, (truth, prediction) in enumerate(ceilings.pairs(context, estimator, test, point, mean)):
            chosen = [m for m in metrics if not m.slow or number in few]
            whole = np.isfinite(truth).all(axis=1) & np.isfinite(prediction).all(axis=1)
            scored = {m.name: np.full(len(test), np.nan) for m in metrics}
            if whole.any():
                for name, own in score_rows(Comparison(prediction[whole], truth[whole], mean), chosen).items():
                    # Undefined because no deviation is predicted is no skill; a draw without cells does not count at all.
                    scored[name][whole] = (
                        own if (known := METRICS[name].no_skill) is None else np.nan_to_num(own, nan=known)
                    )
            counted += whole
            draws.append(scored)
        columns = {m.name: summarise(np.stack([d[m.name] for d in draws]), m, estimator) for m in metrics}
        labels = (screen.name, context, screen.response, split.name, fold, estimator.name)
        frame = pd.DataFrame(dict(zip(TASK_COLUMNS, labels, strict=False)), index=range(len(test)))
        frames.append(frame.assign(pert_id=test, n_draws=counted, **columns))
    return pd.concat(frames, ignore_index=True), {}


def _label_ceilings(
    ceilings: Ceilings, screen: Screen, split: Split, context: str, fold: int, metrics: Sequence[Metric]
) -> tuple[pd.DataFrame, Draws]:
    """Score labels of resampled cells against the measured labels: the 0.1 quantile over draws, as published.

    Metrics of perturbations take it for each perturbation, metrics of genes for the whole fold.
    """
    estimator = ESTIMATORS["experimental_error"]
    ids, values = screen.responses(context)
    _, test = split.sides(ids, fold)
    place = {i: k for k, i in enumerate(ids)}
    truth = values[[place[i] for i in test]].astype(np.int8)
    of_genes = [m for m in metrics if m.axis == "gene"]
    of_rows = [m for m in metrics if m.axis == "perturbation"]
    counted = [m for m in of_genes if m.from_counts]
    weights = bootstrap_weights(test)
    rows: list[dict[str, NDArray[np.float64]]] = []
    whole: list[dict[str, float]] = []
    samples: list[dict[str, NDArray[np.float64]]] = []
    drawn = ceilings.labels(context, test)
    for number in range(drawn.shape[1]):
        draw = drawn[:, number]
        predicted = np.concatenate([draw == -1, draw == 1], axis=1).astype(np.float32)
        comparison = LabelComparison(predicted, truth)
        rows.append(score_rows(comparison, of_rows))
        whole.append({name: total.value for name, total in totals(comparison, of_genes).items()})
        samples.append(resample(truth, draw, weights, counted))

    def over_draws(found: list[dict[str, NDArray[np.float64]]], metric: Metric) -> NDArray[np.float64]:
        return summarise(np.stack([f[metric.name] for f in found]), metric, estimator)

    labels = dict(
        zip(TASK_COLUMNS, (screen.name, context, screen.response, split.name, fold, estimator.name), strict=False)
    )
    frame = pd.DataFrame(labels, index=range(len(test) + 1)).assign(pert_id=[*test, ""], n_draws=drawn.shape[1])
    for metric in of_rows:
        frame[metric.name] = [*over_draws(rows, metric), np.nan]
    for metric in of_genes:
        own = np.array([[w[metric.name]] for w in whole])
        frame[metric.name] = [*np.full(len(test), np.nan), summarise(own, metric, estimator)[0]]
    return frame, {estimator.name: {m.name: over_draws(samples, m).tolist() for m in counted}}


def store_ceilings(
    store: Store, ceilings: Ceilings, screen: Screen, split: Split, seed: int, metrics: Sequence[str], n_jobs: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Compute the ceilings of every (context, fold) that the folder does not hold yet.

    Raises
    ------
    InputError
        The ceilings were made for other responses.
    """
    from joblib import Parallel, delayed

    ceilings.check(screen)
    wanted = {m.name: m.rule for m in metrics_for(screen.response) if m.name in metrics}
    todo = []
    for context in (c for c in screen.contexts if c in ceilings.contexts):
        for fold in split.numbers:
            labels = (screen.name, context, screen.response, split.name, fold, seed)
            key = digest_json({"ceilings": ceilings.digest(context), "split": split.digest, "fold": fold, "rule": RULE})
            there = store.ceiling_metrics(labels, key)
            if any(there.get(name) != rule for name, rule in wanted.items()):
                # What other metrics there are stays.
                todo.append((labels, key, [m for m in metrics_for(screen.response) if m.name in {*there, *wanted}]))
    if progress:
        progress(0, len(todo))
    results = Parallel(n_jobs=min(n_jobs, max(1, len(todo))), return_as="generator")(
        delayed(fold_ceilings)(ceilings, screen, split, labels[1], labels[4], chosen) for labels, _, chosen in todo
    )
    for done, ((labels, key, chosen), (frame, draws)) in enumerate(zip(todo, results, strict=True)):
        about = {
            "key": key,
            "responses": screen.digest(labels[1]),
            "split": split.digest,
            "metrics": {m.name: m.rule for m in chosen},
            "draws": draws,
        }
        store.write_ceilings(labels, about, frame.assign(seed=seed))
        if progress:
            progress(done + 1, len(todo))
    quality = pd.concat([ceilings.quality(c) for c in screen.contexts if c in ceilings.contexts], ignore_index=True)
    store.write_quality(screen.name, quality)


def find_ceilings(given: str | None, screen_path: str, screen: Screen) -> Ceilings | None:
    """Return the ceilings asked for, or those beside the screen's file; None if there are none.

    Raises
    ------
    InputError
        Not there, or made for other responses. Ceilings are for log fold changes and DEG labels: those beside a file read as
        something else, or beside DEG labels but without draws of labels, do not apply.
    """
    from panmodal.screens.ceilings import read_beside

    if given is None and (screen.response not in ("lfc", "deg") or not Path(screen_path).exists()):
        return None
    found = Ceilings(given) if given else read_beside(screen_path)
    if found is None or (given is None and has_classes(screen.response) and not found.has_labels):
        return None
    found.check(screen)
    return found

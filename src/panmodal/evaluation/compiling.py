"""Gathering the values of all finished trials into the tables of a results folder, and scoring again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._console import Progress
from panmodal.errors import StoreError
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.execute import store_scores
from panmodal.evaluation.gene_scores import compile_resampled, compile_totals, trial_comparison
from panmodal.evaluation.imported import keep_imported
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.evaluation.scores import tidy_scores
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Trial


def compile_scores(store: Store) -> pd.DataFrame:
    """Gather the values of all finished trials into ``scores.parquet`` and ``perturbations.parquet``.

    Trials whose values are absent, damaged or of an older formula are scored again from their predictions.
    """
    known = store.trials()
    records = {d: record for d in {t.digest for t in known} if (record := store.trial_record(d)) is not None}
    planned = [t for t in known if t.digest in records]
    done = {t.digest: t for t in planned}
    stored = {digest: _read_values(store, trial) for digest, trial in done.items()}
    # What was lost is scored by the metrics that the other trials of its kind have.
    usual: dict[str, set[str]] = {}
    for digest, values in stored.items():
        if values is not None:
            usual.setdefault(done[digest].response, set()).update(values.rules)
    frames, available, about = [], [], {}
    for digest, trial in done.items():
        found = stored[digest]
        if found is None or any(METRICS[m].rule != r for m, r in found.rules.items() if m in METRICS):
            names = usual.get(trial.response) if found is None else set(found.rules)
            rescore_trial(store, trial, [m.name for m in metrics_for(trial.response) if not names or m.name in names])
            found = _read_values(store, trial)
        assert found is not None
        frames.append(found.rows)
        available += [(digest, metric) for metric in found.rules]
        if found.of_genes is not None:
            about[digest] = found.of_genes
    labels = []
    for trial in planned:
        record = trial.to_record()
        record.pop("depends")
        labels.append({**record, "hyperparameters": records[trial.digest]["hyperparameters"]})
    if not frames:
        raise StoreError(f"{store.path}: no finished trial. Run panmodal run first.")
    rows, trials = pd.concat(frames, ignore_index=True), pd.DataFrame(labels)
    scores = tidy_scores(rows, trials, compile_totals(store, trials, rows, about, done))
    scores = scores.merge(pd.DataFrame(available, columns=["trial", "metric"]), on=["trial", "metric"])
    store.write_perturbations(rows, trials)
    store.compile_ceilings(compile_resampled(trials, about))
    store.compile_fusions(trials)
    store.write_table("scores", scores)
    keep_imported(store)
    return scores


@dataclass(frozen=True)
class _Values:
    """What is stored of a trial's scores: values of perturbations, versions of all formulae, record of the metrics of genes."""

    rows: pd.DataFrame
    rules: dict[str, int]
    of_genes: dict[str, Any] | None


def _read_values(store: Store, trial: Trial) -> _Values | None:
    """Read the scores of a trial; None if a part is absent or damaged."""
    rows = store.read_rows(trial.digest)
    if rows is None:
        return None
    if not has_classes(trial.response):
        return _Values(*rows, None)
    genes = store.read_genes(trial.digest)
    return None if genes is None else _Values(rows[0], {**rows[1], **genes[1]["rules"]}, genes[1])


def rescore_trial(store: Store, trial: Trial, metrics: Sequence[str]) -> None:
    """Compute metrics of a trial from its stored predictions and the stored responses.

    Raises
    ------
    StoreError
        The predictions were not kept.
    """
    found = store.read_trial(trial.digest)
    if found.values is None:
        raise StoreError(
            f"{store.path}: trial {trial.digest} ({trial.embedding}, {trial.probe}) was run without keeping predictions; "
            "run it again with --overwrite always, and keep them, to compute metrics."
        )
    store_scores(store, trial.digest, found, trial_comparison(store, trial, found), metrics)


def rescore(path: str | Path, metrics: Sequence[str] | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Recompute scores from stored predictions, without fitting anything; return the new score table.

    Parameters
    ----------
    path
        Results folder.
    metrics
        Metrics to compute; all that serve each trial's kind of response unless given.
    progress
        Called with (trials done, trials to do).
    """
    from threadpoolctl import threadpool_limits

    store = Store(path)
    trials = {t.digest: t for t in store.trials() if store.has_trial(t.digest)}
    with threadpool_limits(limits=1):
        for k, trial in enumerate(trials.values()):
            if progress:
                progress(k, len(trials))
            rescore_trial(store, trial, [m.name for m in metrics_for(trial.response, metrics)])
    if progress:
        progress(len(trials), len(trials))
    return compile_scores(store)

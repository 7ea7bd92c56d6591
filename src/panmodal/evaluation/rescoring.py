"""Scoring trials again from their stored predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from panmodal._console import Progress
from panmodal._threads import math_threads
from panmodal.evaluation.compaction import compile_results, rescore_trial
from panmodal.evaluation.metrics import metrics_for
from panmodal.evaluation.store import Store


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
    store = Store(path)
    trials = {t.digest: t for t in store.trials() if store.has_trial(t.digest)}
    with math_threads(1):
        for k, trial in enumerate(trials.values()):
            if progress:
                progress(k, len(trials))
            rescore_trial(store, trial, [m.name for m in metrics_for(trial.response, metrics)])
    if progress:
        progress(len(trials), len(trials))
    return compile_results(store)

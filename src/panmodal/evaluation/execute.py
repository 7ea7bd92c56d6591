"""Running groups of trials, in this process or in several."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from panmodal._version import __version__
from panmodal.errors import PanmodalError
from panmodal.evaluation.class_metrics import LabelComparison
from panmodal.evaluation.compare import baseline_row, compare, fill_row, has_classes
from panmodal.evaluation.execute_fusion import FusionJob, expected_error, tables_of
from panmodal.evaluation.gene_scores import store_gene_scores
from panmodal.evaluation.metrics import METRICS, Comparison, score_rows
from panmodal.evaluation.plan import Group
from panmodal.evaluation.scores import as_row_table
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions, Trial
from panmodal.evaluation.workspace import ContextData, SourceData, Workspace, close_matrices, open_matrix
from panmodal.fusion.base import Fitted
from panmodal.probes.base import get_probe, select
from panmodal.probes.design import Design, LabelTargets, Targets


@dataclass(frozen=True)
class Options:
    """What every worker must know beside its trials."""

    store: Path
    metrics: tuple[str, ...]
    standardise: tuple[bool, ...]
    keep_predictions: bool = True
    device: str = "cpu"


def run_groups(groups: Sequence[Group], workspace: Workspace, options: Options, n_jobs: int) -> Iterator[int]:
    """Run groups and yield the number of trials finished, group by group, in the order of completion.

    Every process computes with one BLAS thread, so that results do not depend on the number of processes and the cores
    are not over-subscribed.
    """
    if n_jobs == 1 or len(groups) == 1:
        for group in groups:
            yield run_group(group, workspace, options)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=min(n_jobs, len(groups)), return_as="generator_unordered", batch_size=1)(
            delayed(run_group)(group, workspace, options) for group in groups
        )


def run_group(group: Group, workspace: Workspace, options: Options) -> int:
    """Run and store the trials of one embedding and fold; projections are shared by contexts with the same ids."""
    from threadpoolctl import threadpool_limits

    store = Store(options.store)
    by_context: dict[str, list[Trial]] = {}
    for trial in group.trials:
        by_context.setdefault(trial.context, []).append(trial)
    designs: dict[tuple[tuple[str, ...], tuple[str, ...]], Design] = {}
    done = 0
    if group.source in workspace.fusions:
        return run_fusion(group, workspace, options, by_context)
    with threadpool_limits(limits=1):
        for context, trials in by_context.items():
            job = _ContextJob(workspace, context, group.fold, options.device)
            source = workspace.sources.get(group.source)
            for trial, result in _predictions(job, source, trials, designs, options.standardise[group.source]):
                store.write_trial(trial.digest, _kept(result, options.keep_predictions))
                store_scores(store, trial.digest, result, job.comparison(result), options.metrics)
                done += 1
    # loky restarts workers whose memory grows: pages of maps must not look like a leak.
    close_matrices()
    return done


def run_fusion(group: Group, workspace: Workspace, options: Options, by_context: dict[str, list[Trial]]) -> int:
    """Run and store the trials of one fusion and fold: one of each context."""
    from threadpoolctl import threadpool_limits

    store, data = Store(options.store), workspace.fusions[group.source]
    here = data.contexts if data.joint else tuple(by_context)
    jobs = {c: _ContextJob(workspace, c, group.fold, options.device) for c in here}
    fusion = FusionJob(
        data, {c: j.train for c, j in jobs.items()}, {c: j.targets for c, j in jobs.items()}, options.device,
        store.path / "checkpoints",
    )  # fmt: skip
    fitted: Fitted | None = None
    with threadpool_limits(limits=1):
        for context, (trial,) in by_context.items():
            started = time.perf_counter()
            job = jobs[context]
            with _told_of(trial):
                if fitted is None or not data.joint:
                    fitted = fusion.fit(here if data.joint else (context,), trial)
                covered, found = fusion.predict(fitted, context, job.test)
            values = np.tile(job.filled, (len(job.test), 1))
            if found is not None:
                values[covered] = found.values
            record = _record(trial, fitted.hyperparameters, time.perf_counter() - started)
            result = Predictions(list(job.test), covered, values, job.filled, record, expected_error(found, covered))
            store.write_fusion(trial.digest, tables_of(fitted, context))
            store.write_trial(trial.digest, _kept(result, options.keep_predictions))
            store_scores(store, trial.digest, result, job.comparison(result), options.metrics)
    close_matrices()
    return len(by_context)


@contextmanager
def _told_of(trial: Trial) -> Iterator[None]:
    """Name the trial in which an error occurred."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, PanmodalError) else f"{type(error).__name__}: {error}"
        raise PanmodalError(
            f"{trial.screen}, {trial.context}, fold {trial.fold}, {trial.embedding}, {trial.probe}: {reason}"
        ) from error


class _ContextJob:
    """One context and fold: its ids, responses and truth."""

    def __init__(self, workspace: Workspace, context: str, fold: int, device: str) -> None:
        self.response, self.device = workspace.response, device
        self.data: ContextData = workspace.contexts[context]
        self.train, self.test = workspace.split.sides(self.data.ids, fold)
        self.row = {i: k for k, i in enumerate(self.data.ids)}
        self.values = open_matrix(self.data.values)
        self.test_rows = [self.row[i] for i in self.test]
        self.filled = fill_row(self.response, self.values, [self.row[i] for i in self.train])

    def targets(self, ids: Sequence[str]) -> Targets | LabelTargets:
        rows = [self.row[i] for i in ids]
        if has_classes(self.response):
            return LabelTargets(self.values[rows].astype(np.int8), self.device)
        gram = open_matrix(self.data.gram)
        return Targets(self.values[rows].astype(np.float64), np.asarray(gram[np.ix_(rows, rows)]))

    def comparison(self, result: Predictions) -> Comparison | LabelComparison:
        """Set predictions beside the truth: the only place where the responses of test ids are read."""
        assert result.values is not None
        paths = {"true_ranks": self.data.ranks, "true_centred_ranks": self.data.centred_ranks}
        known = {name: open_matrix(path)[self.test_rows] for name, path in paths.items() if path}
        return compare(self.response, result.values, self.values[self.test_rows], self.filled, **known)


def store_scores(
    store: Store, digest: str, result: Predictions, comparison: Comparison | LabelComparison, metrics: Sequence[str]
) -> None:
    """Compute metrics of a trial and store them with the versions of their formulae."""
    chosen = [METRICS[m] for m in metrics]
    scored = score_rows(comparison, chosen)
    rows = as_row_table(digest, result.pert_ids, result.covered, scored)
    store.write_rows(digest, rows, {m: METRICS[m].rule for m in scored})
    if isinstance(comparison, LabelComparison):
        store_gene_scores(store, digest, result, comparison, [m for m in chosen if m.axis == "gene"])


def _kept(result: Predictions, keep: bool) -> Predictions:
    return result if keep else replace(result, values=None)


def _predictions(
    job: _ContextJob,
    source: SourceData | None,
    trials: Sequence[Trial],
    designs: dict[tuple[tuple[str, ...], tuple[str, ...]], Design],
    standardise: bool,
) -> Iterator[tuple[Trial, Predictions]]:
    """Predict the test responses of one context for each trial (baselines, or probes on an embedding)."""
    filled = np.tile(job.filled, (len(job.test), 1))
    if source is None:
        everywhere = np.ones(len(job.test), bool)
        for trial in trials:
            values = np.tile(baseline_row(trial.probe, job.filled), (len(job.test), 1))
            yield trial, Predictions(list(job.test), everywhere, values, job.filled, _record(trial, {}, 0.0))
        return
    where = {i: k for k, i in enumerate(source.ids)}
    train = tuple(i for i in job.train if i in where)
    test = tuple(i for i in job.test if i in where)
    started = time.perf_counter()
    if (train, test) not in designs:
        vectors = open_matrix(source.vectors)
        designs[train, test] = Design.build(
            np.asarray(vectors[[where[i] for i in train]]),
            np.asarray(vectors[[where[i] for i in test]]),
            standardise=standardise,
        )
    design = designs[train, test]
    targets = job.targets(train)
    covered = np.array([i in where for i in job.test])
    for trial in trials:
        with _told_of(trial):
            probe = get_probe(trial.probe)
            selection = select(probe, design, targets)
            values = filled.copy()
            values[covered] = probe.predict(design.final, targets, selection.value)
        chosen = {
            probe.parameter: selection.value,
            "components": int(design.final.z_train.shape[1]),
            "at_edge": selection.at_edge,
        }
        now = time.perf_counter()
        yield trial, Predictions(list(job.test), covered, values, job.filled, _record(trial, chosen, now - started))
        started = time.perf_counter()


def _record(trial: Trial, hyperparameters: dict[str, Any], seconds: float) -> dict[str, Any]:
    labels = {k: v for k, v in trial.to_record().items() if k != "trial"}
    return {
        **labels,
        "hyperparameters": json.dumps(hyperparameters),
        "seconds": round(seconds, 6),
        "version": __version__,
    }

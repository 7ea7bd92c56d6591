"""Computing the trials of a group: predictions of probes, baselines and fusions, nothing stored."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panmodal._version import __version__
from panmodal.errors import PanmodalError
from panmodal.evaluation.class_metrics import LabelComparison
from panmodal.evaluation.compare import baseline_row, compare, fill_row, has_classes
from panmodal.evaluation.execute_fusion import FusionJob, expected_error, tables_of
from panmodal.evaluation.metrics import Comparison
from panmodal.evaluation.plan import Group
from panmodal.evaluation.provenance import Meter
from panmodal.evaluation.trials import Predictions, Trial
from panmodal.evaluation.workspace import ContextData, SourceData, Workspace, open_matrix
from panmodal.execution.faults import kind_of
from panmodal.fusion.base import Fitted
from panmodal.probes.base import get_probe, select
from panmodal.probes.design import Design, LabelTargets, Targets


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result."""

    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Take what an exception says."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Attempt:
    """A trial that was computed: its predictions and what they are compared with, or why there are none.

    ``learned`` is what a fusion tells of its members, None for others.
    """

    trial: Trial
    result: Predictions | None = None
    job: ContextJob | None = None
    learned: list[dict[str, Any]] | None = None
    failure: Failure | None = None


class ContextJob:
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
        """Return the training responses of ids."""
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


def compute_group(
    group: Group, workspace: Workspace, *, standardise: bool, device: str = "cpu", folder: Path | None = None
) -> Iterator[Attempt]:
    """Compute the trials of one source and fold, one after the other; projections are shared by contexts with the same ids.

    An error of one trial is its own; errors that may pass (lost files, memory, a full disk) are raised, so that the group is tried
    again.

    Parameters
    ----------
    standardise
        Whether the vectors of the source are standardised before the PCA.
    folder
        Where long fits keep checkpoints.
    """
    by_context: dict[str, list[Trial]] = {}
    for trial in group.trials:
        by_context.setdefault(trial.context, []).append(trial)
    if group.source in workspace.fusions:
        yield from _fusion(group, workspace, by_context, device, folder)
        return
    designs: dict[tuple[tuple[str, ...], tuple[str, ...]], Design] = {}
    source = workspace.sources.get(group.source)
    for context, trials in by_context.items():
        job = ContextJob(workspace, context, group.fold, device)
        if source is None:
            for trial in trials:
                values = np.tile(baseline_row(trial.probe, job.filled), (len(job.test), 1))
                everywhere = np.ones(len(job.test), bool)
                yield Attempt(
                    trial,
                    Predictions(list(job.test), everywhere, values, job.filled, record_of(trial, {}, Meter())),
                    job,
                )
            continue
        yield from _probes(job, source, trials, designs, standardise)


def _raise_unless_own(error: Exception) -> None:
    """Raise errors that are not the trial's own."""
    if kind_of(error) != "error":
        raise error


def _probes(
    job: ContextJob,
    source: SourceData,
    trials: Sequence[Trial],
    designs: dict[tuple[tuple[str, ...], tuple[str, ...]], Design],
    standardise: bool,
) -> Iterator[Attempt]:
    """Predict the test responses of one context by probes on an embedding."""
    where = {i: k for k, i in enumerate(source.ids)}
    train = tuple(i for i in job.train if i in where)
    test = tuple(i for i in job.test if i in where)
    meter = Meter()
    try:
        if (train, test) not in designs:
            vectors = open_matrix(source.vectors)
            designs[train, test] = Design.build(
                np.asarray(vectors[[where[i] for i in train]]),
                np.asarray(vectors[[where[i] for i in test]]),
                standardise=standardise,
            )
        design = designs[train, test]
        targets = job.targets(train)
    except Exception as error:
        _raise_unless_own(error)
        for trial in trials:
            yield Attempt(trial, failure=Failure.of(error))
        return
    filled = np.tile(job.filled, (len(job.test), 1))
    covered = np.array([i in where for i in job.test])
    for trial in trials:
        try:
            probe = get_probe(trial.probe)
            selection = select(probe, design, targets)
            values = filled.copy()
            values[covered] = probe.predict(design.final, targets, selection.value)
        except Exception as error:
            _raise_unless_own(error)
            yield Attempt(trial, failure=Failure.of(error))
            continue
        chosen = {
            probe.parameter: selection.value,
            "components": int(design.final.z_train.shape[1]),
            "at_edge": selection.at_edge,
        }
        yield Attempt(
            trial, Predictions(list(job.test), covered, values, job.filled, record_of(trial, chosen, meter)), job
        )
        meter = Meter()


def _fusion(
    group: Group, workspace: Workspace, by_context: dict[str, list[Trial]], device: str, folder: Path | None
) -> Iterator[Attempt]:
    """Predict by one fusion: one trial of each context, all from one fit where the fusion is joint."""
    data = workspace.fusions[group.source]
    here = data.contexts if data.joint else tuple(by_context)
    jobs = {c: ContextJob(workspace, c, group.fold, device) for c in here}
    fusion = FusionJob(
        data, {c: j.train for c, j in jobs.items()}, {c: j.targets for c, j in jobs.items()}, device, folder
    )
    fitted: Fitted | None = None
    for context, (trial,) in by_context.items():
        meter, job = Meter(), jobs[context]
        try:
            if fitted is None or not data.joint:
                fitted = fusion.fit(here if data.joint else (context,), trial)
            covered, found = fusion.predict(fitted, context, job.test)
        except Exception as error:
            _raise_unless_own(error)
            yield Attempt(trial, failure=Failure.of(error))
            continue
        values = np.tile(job.filled, (len(job.test), 1))
        if found is not None:
            values[covered] = found.values
        record = record_of(trial, fitted.hyperparameters, meter)
        result = Predictions(list(job.test), covered, values, job.filled, record, expected_error(found, covered))
        yield Attempt(trial, result, job, tables_of(fitted, context))


def record_of(trial: Trial, hyperparameters: dict[str, Any], meter: Meter) -> dict[str, Any]:
    """Return what is stored with the predictions of a trial."""
    labels = {k: v for k, v in trial.to_record().items() if k != "trial"}
    return {**labels, "hyperparameters": json.dumps(hyperparameters), **meter.stop(), "version": __version__}


def named(trial: Trial, failure: Failure) -> PanmodalError:
    """Return an error that names the trial that failed."""
    what = (
        failure.message
        if failure.type.endswith("Error") and failure.type in PANMODAL
        else f"{failure.type}: {failure.message}"
    )
    return PanmodalError(
        f"{trial.screen}, {trial.context}, fold {trial.fold}, {trial.embedding}, {trial.probe}: {what}"
    )


PANMODAL = ("PanmodalError", "InputError", "LeakError", "StoreError")

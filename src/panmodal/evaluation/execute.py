"""Running groups of trials: computed, stored and scored, in this process or in several."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from panmodal._threads import math_threads
from panmodal.evaluation.class_metrics import LabelComparison
from panmodal.evaluation.compute import Attempt, compute_group, named
from panmodal.evaluation.gene_scores import store_gene_scores
from panmodal.evaluation.metrics import METRICS, Comparison, score_rows
from panmodal.evaluation.plan import Group
from panmodal.evaluation.provenance import environment, environment_digest, now, reset_peak
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions
from panmodal.evaluation.workspace import Workspace, close_matrices, load_workspace


@dataclass(frozen=True)
class Options:
    """What every worker must know beside its trials.

    ``fail_fast`` raises the first error of a trial instead of recording it.
    """

    store: Path
    metrics: tuple[str, ...]
    standardise: tuple[bool, ...]
    keep_predictions: bool = True
    device: str = "cpu"
    fail_fast: bool = False


@dataclass(frozen=True)
class GroupDone:
    """What became of a group: how many trials are finished, and the digests of those that failed."""

    done: int
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunGroup:
    """Runs a group in a worker, which reads the workspace by path and digest, once for all groups."""

    path: str
    digest: str
    options: Options

    def __call__(self, group: Group, attempt: int = 0) -> GroupDone:
        """Run a group; a repeated one skips what its earlier attempt has finished."""
        workspace = load_workspace(self.path, self.digest).localised(group.source)
        return run_group(group, workspace, self.options, attempt)


def run_group(group: Group, workspace: Workspace, options: Options, attempt: int = 0) -> GroupDone:
    """Run and store the trials of one source and fold; an error of a trial is recorded, and the others go on.

    Computes with one BLAS thread, so that results do not depend on the number of processes and the cores are not over-subscribed.
    """
    store = Store(options.store)
    if attempt:
        group = replace(group, trials=tuple(t for t in group.trials if not store.has_trial(t.digest)))
    store.write_environment(environment_digest(), environment())
    reset_peak()
    done, failed = 0, []
    with math_threads(1):
        for made in compute_group(
            group, workspace, standardise=options.standardise[group.source], device=options.device,
            folder=store.path / "checkpoints",
        ):  # fmt: skip
            if made.result is None:
                _fail(store, made, options.fail_fast)
                failed.append(made.trial.digest)
                continue
            _keep(store, made, options)
            done += 1
    # loky restarts workers whose memory grows: pages of maps must not look like a leak.
    close_matrices()
    return GroupDone(done, tuple(failed))


def _keep(store: Store, made: Attempt, options: Options) -> None:
    """Store predictions and scores of a trial."""
    trial, result, job = made.trial, made.result, made.job
    assert result is not None and job is not None
    if made.learned is not None:
        store.write_fusion(trial.digest, made.learned)
    kept = result if options.keep_predictions else replace(result, values=None)
    # The predictions come last: their presence means that the trial is done.
    store_scores(store, trial.digest, result, job.comparison(result), options.metrics)
    store.write_trial(trial.digest, kept)


def _fail(store: Store, made: Attempt, fail_fast: bool) -> None:
    """Record why a trial has no result, or raise it."""
    assert made.failure is not None
    if fail_fast:
        raise named(made.trial, made.failure)
    store.write_failure(made.trial.digest, {
        **made.trial.to_record(), "type": made.failure.type, "message": made.failure.message, "traceback": made.failure.traceback,
        "when": now(), "host": platform.node(), "environment": environment_digest(),
    })  # fmt: skip


def store_scores(
    store: Store, digest: str, result: Predictions, comparison: Comparison | LabelComparison, metrics: Sequence[str]
) -> None:
    """Compute metrics of a trial and store them with the versions of their formulae."""
    chosen = [METRICS[m] for m in metrics]
    scored = score_rows(comparison, chosen)
    labels = {"pert_id": np.asarray(result.pert_ids, dtype=object), "covered": result.covered}
    store.write_rows(digest, {**labels, **scored}, {m: METRICS[m].rule for m in scored})
    if isinstance(comparison, LabelComparison):
        store_gene_scores(store, digest, result, comparison, [m for m in chosen if m.axis == "gene"])

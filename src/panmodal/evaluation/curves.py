"""Learning curves: how scores depend on how much is trained on, and on how many dimensions an embedding may use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal._threads import math_threads
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.class_metrics import LabelComparison, totals
from panmodal.evaluation.compare import baseline_row, baselines, compare, fill_row, has_classes
from panmodal.evaluation.metrics import METRICS, Comparison, Metric, metrics_for, score_rows
from panmodal.evaluation.plan import make_plan
from panmodal.evaluation.trials import BASELINE
from panmodal.evaluation.workspace import (
    ContextData,
    SourceData,
    Workspace,
    close_matrices,
    lay_out,
    open_matrix,
    work_folder,
)
from panmodal.probes.base import get_probe, select
from panmodal.probes.design import MIN_TRAIN, Design, Fold, LabelTargets, Targets
from panmodal.probes.projection import MAX_COMPONENTS, Projection
from panmodal.probes.softmax import check_device
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, make_split

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
DIMS = (8, 16, 32, 64, 128)
SWEEPS = ("fraction", "dims")
COLUMNS = ["sweep", "screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "role", "modality", "simulated",
           "seen", "fraction", "dims", "n_train", "fallback", "metric", "value", "n_test", "n_scored"]  # fmt: skip


@dataclass(frozen=True)
class _Point:
    """A setting: the share of the training ids, and the largest number of components (None: as in a run)."""

    sweep: str
    fraction: float
    dims: int | None


@dataclass(frozen=True)
class _Labels:
    """What stands in the table for a source."""

    embedding: str
    role: str
    modality: str
    seen: str


@dataclass(frozen=True)
class _Job:
    """One source and fold, all contexts and points."""

    source: int
    fold: int
    labels: _Labels
    contexts: tuple[str, ...]


@dataclass(frozen=True)
class _Shared:
    """What all jobs need."""

    workspace: Workspace
    screen: str
    simulated: bool
    probes: tuple[str, ...]
    metrics: tuple[str, ...]
    points: tuple[_Point, ...]
    seed: int
    device: str


def learning_curves(
    screen: Screen,
    embeddings: Sequence[Embedding],
    *,
    fractions: Sequence[float] = FRACTIONS,
    dims: Sequence[int] = DIMS,
    split: Split | None = None,
    folds: int = 5,
    seed: int = 42,
    probes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    match: str = "auto",
    n_jobs: int | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Refit every probe with less to train on, and with fewer dimensions, and score it on the same test ids.

    *Fractions.* In every fold the training ids are shuffled once with the seed; a fraction takes the first of them (of each context,
    rounded up), so that a smaller set is part of every larger one and all embeddings learn from the same ids. An embedding uses those
    that it covers. Uncovered test ids hold the mean response (DEG labels: class shares) of the smaller set.

    *Dimensions.* The first d principal components of the standardised training vectors, instead of the first 100, in the inner folds
    too: what a common dimension would leave of each embedding. No response is used to choose them. Where an embedding has no more
    components than d nothing changes.

    In both, fraction 1 and d of at least 100 are the run itself, with the same scores. Centred correlations are about the mean of all
    training ids of the fold at every point, so that the yardstick stays the same.

    Parameters
    ----------
    screen, embeddings, split, folds, seed, probes, metrics, match, n_jobs, progress, device
        As in :func:`panmodal.evaluation.run.run`; jobs, one for each embedding and fold, count for ``progress``.
    fractions
        Shares of the training ids, above 0 and at most 1; empty for none.
    dims
        Numbers of components, at least 1; empty for none.

    Returns
    -------
    pandas.DataFrame
        :data:`COLUMNS`, one row for each point, task, fold, embedding, probe, fallback (``filled``: all test ids; ``common``:
        those that all embeddings cover) and metric. ``sweep`` is ``fraction`` or ``dims``; ``dims`` holds the components asked for
        (empty in the first sweep), ``n_train`` the training ids used. ``value`` is empty where fewer than 10 training
        ids are left, or where the metric is undefined. Baselines are there, and the random embedding.

    Raises
    ------
    InputError
        A fraction or number of dimensions that is none, or what :func:`panmodal.evaluation.plan.make_plan` refuses.
    """
    points = _points(fractions, dims)
    check_device(device)
    if not embeddings:
        raise InputError("no embedding to draw curves of; give at least one (--embedding FILE).")
    if n_jobs is not None and n_jobs < 1:
        raise InputError(f"n_jobs is {n_jobs}; it must be at least 1.")
    chosen = metrics_for(screen.response, metrics)
    if not chosen:
        raise InputError(f"no metric of {some(metrics or ())} serves responses of kind {screen.response!r}.")
    plan = make_plan(screen, embeddings, split or make_split(screen.pert_ids, n_folds=folds, seed=seed), probe_names=probes, seed=seed,
                     match=match)  # fmt: skip
    first = {group.source: group.trials[0] for group in plan.groups}
    kept = {k: _Labels(t.embedding, t.role, t.modality, t.seen) for k, t in first.items() if t.role != "oracle"}
    names = tuple(dict.fromkeys(t.probe for t in plan.trials if t.role != "baseline"))
    jobs = [
        _Job(g.source, g.fold, kept[g.source], plan.sources[g.source].contexts) for g in plan.groups if g.source in kept
    ]
    covered = [set(s.embedding.ids) for s in plan.sources if s.embedding is not None and s.role == "embedding"]
    common = set.intersection(*covered)
    with work_folder() as folder:
        workspace = lay_out(plan, folder, contexts=set(screen.contexts), sources=set(kept),
                            ranks=any("Spearman" in m.name for m in chosen))  # fmt: skip
        shared = _Shared(
            workspace, screen.name, screen.simulated, names, tuple(m.name for m in chosen), points, seed, device
        )
        records: list[dict[str, Any]] = []
        if progress:
            progress(0, len(jobs))
        for done, found in enumerate(
            _run(jobs, shared, common, (n_jobs or os.cpu_count() or 1) if device == "cpu" else 1), 1
        ):
            records += found
            if progress:
                progress(done, len(jobs))
        close_matrices()
    table = pd.DataFrame(records).assign(split=plan.split.name)[COLUMNS].astype({"dims": "Int64"})
    keys = ["sweep", "context", "fold", "embedding", "probe", "fraction", "dims", "fallback"]
    order = {m.name: k for k, m in enumerate(chosen)}
    table = table.assign(_s=table["sweep"].map(SWEEPS.index), _m=table["metric"].map(order))
    return table.sort_values(["_s", *keys[1:], "_m"], kind="stable")[COLUMNS].reset_index(drop=True)


def _points(fractions: Sequence[float], dims: Sequence[int]) -> tuple[_Point, ...]:
    wrong: list[object] = [f for f in fractions if not 0 < f <= 1]
    if wrong:
        raise InputError(f"fraction(s) {some(wrong)}; a fraction of the training ids lies above 0 and is at most 1.")
    wrong = [d for d in dims if d != int(d) or d < 1]
    if wrong:
        raise InputError(f"dimension(s) {some(wrong)}; a number of dimensions is whole and at least 1.")
    if not len(fractions) and not len(dims):
        raise InputError("neither fractions nor dims: there is no point to compute.")
    return (*(_Point("fraction", f, None) for f in sorted({float(f) for f in fractions})),
            *(_Point("dims", 1.0, d) for d in sorted({int(d) for d in dims})))  # fmt: skip


def _run(jobs: Sequence[_Job], shared: _Shared, common: set[str], n_jobs: int) -> Iterator[list[dict[str, Any]]]:
    if n_jobs == 1 or len(jobs) == 1:
        for job in jobs:
            yield _run_job(job, shared, common)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=min(n_jobs, len(jobs)), return_as="generator_unordered", batch_size=1)(
            delayed(_run_job)(job, shared, common) for job in jobs
        )


def _run_job(job: _Job, shared: _Shared, common: set[str]) -> list[dict[str, Any]]:
    order = training_order(shared.workspace.split, job.fold, shared.seed)
    designs: dict[tuple[tuple[str, ...], tuple[str, ...]], Design] = {}
    records = []
    with math_threads(1):
        for context in job.contexts:
            side = _Side(shared, context, job.fold, order)
            for point in shared.points:
                records += _score_point(job, shared, side, point, designs, common)
    return records


def training_order(split: Split, fold: int, seed: int) -> dict[str, int]:
    """Place of each training id of a fold in the seeded shuffle; a fraction takes the first places."""
    ids = sorted(i for i, f in split.folds.items() if f != fold)
    places = np.random.default_rng([seed, 7, fold]).permutation(len(ids))
    return {i: int(p) for i, p in zip(ids, places, strict=True)}


def subset(train: Sequence[str], order: dict[str, int], fraction: float) -> list[str]:
    """Return ceil(fraction x n) of the training ids, the first in the shuffle, in the order of ``train``."""
    size = int(np.ceil(round(fraction * len(train), 9)))
    kept = set(sorted(train, key=order.__getitem__)[:size])
    return [i for i in train if i in kept]


class _Side:
    """One context and fold: ids, responses, truth."""

    def __init__(self, shared: _Shared, context: str, fold: int, order: dict[str, int]) -> None:
        self.response, self.context, self.order = shared.workspace.response, context, order
        self.data: ContextData = shared.workspace.contexts[context]
        self.train, self.test = shared.workspace.split.sides(self.data.ids, fold)
        self.row = {i: k for k, i in enumerate(self.data.ids)}
        self.values = open_matrix(self.data.values)
        self.test_rows = [self.row[i] for i in self.test]
        self.centre = self.fill(self.train)

    def fill(self, ids: Sequence[str]) -> NDArray[np.float32]:
        return fill_row(self.response, self.values, [self.row[i] for i in ids])

    def targets(self, ids: Sequence[str], device: str) -> Targets | LabelTargets:
        rows = [self.row[i] for i in ids]
        if has_classes(self.response):
            return LabelTargets(self.values[rows].astype(np.int8), device)
        gram = open_matrix(self.data.gram)
        return Targets(self.values[rows].astype(np.float64), np.asarray(gram[np.ix_(rows, rows)]))

    def comparison(self, predicted: NDArray[np.float32]) -> Comparison | LabelComparison:
        """Set predictions beside the truth; the only place where responses of test ids are read."""
        paths = {"true_ranks": self.data.ranks, "true_centred_ranks": self.data.centred_ranks}
        known = {name: open_matrix(path)[self.test_rows] for name, path in paths.items() if path}
        return compare(self.response, predicted, self.values[self.test_rows], self.centre, **known)


def _score_point(
    job: _Job, shared: _Shared, side: _Side, point: _Point, designs: dict[Any, Design], common: set[str]
) -> list[dict[str, Any]]:
    """Fit and score all probes (or baselines) at one point."""
    train = subset(side.train, side.order, point.fraction)
    filled = side.fill(train)
    source: SourceData | None = shared.workspace.sources.get(job.source)
    known = {
        "sweep": point.sweep, "screen": shared.screen, "context": side.context, "response": side.response, "fold": job.fold,
        "embedding": job.labels.embedding, "seed": shared.seed, "role": job.labels.role, "modality": job.labels.modality,
        "simulated": shared.simulated, "seen": job.labels.seen, "fraction": point.fraction, "dims": point.dims,
        "n_test": len(side.test),
    }  # fmt: skip
    chosen, mask = [METRICS[m] for m in shared.metrics], np.array([i in common for i in side.test])
    rows = []
    if job.labels.embedding == BASELINE or source is None:
        for name in baselines(side.response):
            values = np.tile(baseline_row(name, filled), (len(side.test), 1))
            rows += _scored({**known, "probe": name, "n_train": len(train)}, side.comparison(values), chosen, mask)
        return rows
    where = {i: k for k, i in enumerate(source.ids)}
    own = tuple(i for i in train if i in where)
    test = tuple(i for i in side.test if i in where)
    covered = np.array([i in where for i in side.test])
    if len(own) < MIN_TRAIN:
        return [{**known, "probe": probe, "n_train": len(own), "fallback": fallback, "metric": m.name, "value": np.nan, "n_scored": 0}
                for probe in shared.probes for fallback in ("filled", "common") for m in chosen]  # fmt: skip
    if (own, test) not in designs:
        vectors = open_matrix(source.vectors)
        sides = (np.asarray(vectors[[where[i] for i in ids]]) for ids in (own, test))
        designs[own, test] = Design.build(*sides)
    design = designs[own, test] if point.dims is None else truncated(designs[own, test], point.dims)
    targets = side.targets(own, shared.device)
    for name in shared.probes:
        probe = get_probe(name)
        values = np.tile(filled, (len(side.test), 1))
        values[covered] = probe.predict(design.final, targets, select(probe, design, targets).value)
        rows += _scored({**known, "probe": name, "n_train": len(own)}, side.comparison(values), chosen, mask)
    return rows


def truncated(design: Design, dims: int) -> Design:
    """Return the design with the first ``dims`` principal components only, in the inner folds too; itself if it has no more."""
    if dims >= MAX_COMPONENTS:
        return design

    def cut(fold: Fold) -> Fold:
        return (
            fold
            if fold.z_train.shape[1] <= dims
            else Fold(fold.z_train[:, :dims], fold.z_test[:, :dims], fold.train, fold.test)
        )

    whole: Projection = design.projection
    return Design(tuple(cut(f) for f in design.inner), cut(design.final), replace(whole, axes=whole.axes[:, :dims]))


def _scored(
    known: dict[str, Any],
    comparison: Comparison | LabelComparison,
    metrics: Sequence[Metric],
    common: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """Average each metric over all test ids and over those in common, by the rules of the score table."""
    rows = []
    for name, values in score_rows(comparison, metrics).items():
        no_skill = METRICS[name].no_skill
        values = pd.Series(values if no_skill is None else np.where(np.isnan(values), no_skill, values))
        for fallback, own in (("filled", values), ("common", values[common])):
            # The score table averages by groups, which adds up differently in the last bits.
            mean = own.groupby(np.zeros(len(own), dtype=int)).mean()
            value = float(mean.iloc[0]) if len(mean) else float("nan")
            rows.append({**known, "fallback": fallback, "metric": name, "value": value, "n_scored": int(own.count())})
    of_genes = [m for m in metrics if m.axis == "gene"]
    if of_genes and isinstance(comparison, LabelComparison):
        for fallback, part in (
            ("filled", comparison),
            ("common", comparison if common.all() else comparison.part(common)),
        ):
            for name, total in totals(part, of_genes).items():
                rows.append(
                    {**known, "fallback": fallback, "metric": name, "value": total.value, "n_scored": total.n_scored}
                )
    return rows

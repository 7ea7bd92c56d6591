"""Compiling a results folder: the values of finished trials into its tables, in the memory of one task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._console import Progress
from panmodal._files import atomic_path
from panmodal.errors import StoreError
from panmodal.evaluation.execute import store_scores
from panmodal.evaluation.gene_scores import TOTALS, compile_resampled, compile_totals, trial_comparison
from panmodal.evaluation.imported import keep_imported
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.evaluation.parquet import read_parquet
from panmodal.evaluation.rows import task_groups, write_rows
from panmodal.evaluation.scores import COLUMNS, FOLD_OF_TASK, tidy_scores
from panmodal.evaluation.segments import Entry, Segments, Task, in_order, task_of
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Trial

RESAMPLED = ["trial", *FOLD_OF_TASK, "seed", "estimator", "metric", "draws"]
"""Columns of ``resampled.parquet``."""


def compile_results(store: Store, progress: Progress | None = None) -> pd.DataFrame:
    """Gather the values of all finished trials into the tables of the folder; return its scores (without imported ones).

    The tables depend on the set of finished trials and their labels alone, in one order. Trials whose values are absent, damaged or
    of an older formula are scored again from their predictions. What was gathered is kept (:mod:`panmodal.evaluation.segments`), so
    that only new trials are read file by file.

    Parameters
    ----------
    store
        The results folder.
    progress
        Called with (trials gathered, trials planned).

    Raises
    ------
    StoreError
        No trial is finished, or one must be scored again and its predictions were not kept.
    """
    compile_own(store, progress)
    scores = store.scores()
    keep_imported(store)
    return scores


def compile_tables(store: Store, progress: Progress | None = None) -> None:
    """Do what :func:`compile_results` does without reading the scores: memory does not grow with the table."""
    compile_own(store, progress)
    keep_imported(store)


def compile_own(store: Store, progress: Progress | None = None) -> None:
    """Write ``perturbations``, ``ceilings``, ``resampled``, ``fusions`` and ``scores`` of the folder, each whole or absent."""
    compiler = Compiler(store)
    compiler.prepare(progress)
    columns = compiler.metrics
    labels = compiler.labels()
    home, tasks = task_groups(labels)
    limits, samples = gather_ceilings(store, compiler.trials)
    with table_writer(store.path / "scores.parquet") as scores, table_writer(store.path / "resampled.parquet") as drawn:
        fused: list[pd.DataFrame] = []

        def groups() -> Iterator[pd.DataFrame]:
            done = 0
            for number, task in enumerate(compiler.tasks):
                tables = compiler.tables(task)
                scores.append(tables.scores)
                drawn.append(tables.resampled)
                fused.append(tables.labels[tables.labels["modality"] == "fusion"])
                order = {trial: k for k, trial in enumerate(dict.fromkeys(tables.labels["trial"]))}
                own = tables.rows[(tables.rows["trial"].map(home) == number).to_numpy()]
                own = own.iloc[own["trial"].map(order).to_numpy(dtype=int).argsort(kind="stable")]
                yield own.reindex(columns=["trial", "pert_id", "covered", *columns])
                done += len(order)
                if progress:
                    progress(done, max(done, compiler.planned))

        write_rows(store.path / "perturbations.parquet", groups(), tasks)
        drawn.append(samples)
        if len(limits):
            store.write_table("ceilings", limits)
        else:
            (store.path / "ceilings.parquet").unlink(missing_ok=True)
        store.compile_fusions(pd.concat(fused, ignore_index=True))


@dataclass(frozen=True)
class TaskTables:
    """What a task puts into the tables of the folder.

    Attributes
    ----------
    labels
        One row per finished trial and its labels, in the order of the tables.
    rows, scores, resampled
        Values of perturbations, tidy scores, bootstrap samples.
    """

    labels: pd.DataFrame
    rows: pd.DataFrame
    scores: pd.DataFrame
    resampled: pd.DataFrame


class Compiler:
    """The finished trials of a folder, task by task.

    Parameters
    ----------
    store
        The results folder.
    cached
        Use and keep segments. Without it everything is read from the trials' files and nothing is written but, if
        :meth:`prepare` is called, scores that were lost.
    """

    def __init__(self, store: Store, *, cached: bool = True) -> None:
        self.store = store
        self.trials = store.trials()
        self.planned = len({t.digest for t in self.trials})
        self._segments = Segments(store, cached=cached)
        dealt: dict[Task, list[Trial]] = defaultdict(list)
        for trial in self.trials:
            dealt[task_of(trial)].append(trial)
        self._of_task = {
            task: sorted(dealt[task], key=lambda t: (t.fold, t.embedding, t.probe, t.seed)) for task in sorted(dealt)
        }
        self._finished: dict[Task, set[str]] = {}
        self._metrics: set[str] = set()

    @property
    def tasks(self) -> list[Task]:
        """Tasks with finished trials, sorted."""
        return [task for task in self._of_task if self._finished.get(task)]

    def prepare(self, progress: Progress | None = None) -> None:
        """Find the finished trials, and score again those whose values are absent, damaged or of an older formula.

        Raises
        ------
        StoreError
            No trial is finished, or predictions were not kept.
        """
        lost: dict[Task, dict[str, Entry | None]] = {}
        usual: dict[str, set[str]] = defaultdict(set)
        done = 0
        for task, trials in self._of_task.items():
            found, missing = self._segments.refresh(task, trials)
            if missing:
                lost[task] = missing
            for entry in (*found.values(), *(e for e in missing.values() if e)):
                usual[task[2]].update(entry.rules)
            self._finished[task] = set(found)
            done += len(self._finished[task])
            if progress:
                progress(0, max(self.planned, done))
        for task, missing in lost.items():
            known = {t.digest: t for t in self._of_task[task]}
            for digest, old in missing.items():
                # What was lost is scored by the metrics that the other trials of its kind have.
                names = set(old.rules) if old else usual.get(task[2])
                chosen = [m.name for m in metrics_for(task[2]) if not names or m.name in names]
                rescore_trial(self.store, known[digest], chosen)
                if not names:
                    usual[task[2]].update(chosen)
        if lost:
            self._segments.look()
            for task in lost:
                found, still = self._segments.refresh(task, self._of_task[task])
                self._finished[task] = set(found)
                if still:
                    raise StoreError(
                        f"{self.store.path}: the scores of {len(still)} trial(s) cannot be kept; see that the disk is not full "
                        "and run the same command again."
                    )
        self._metrics = {m for names in usual.values() for m in names}
        if not any(self._finished.values()):
            raise StoreError(f"{self.store.path}: no finished trial. Run panmodal run first.")

    def look(self) -> None:
        """Find the finished trials by their files alone, and write nothing."""
        for task, trials in self._of_task.items():
            self._finished[task] = self._segments.done(trials)

    @property
    def metrics(self) -> list[str]:
        """Metrics of perturbations that any trial has after :meth:`prepare`, in the order of the tables."""
        return [m for m in in_order(self._metrics) if m not in METRICS or METRICS[m].axis == "perturbation"]

    def labels(self) -> pd.DataFrame:
        """Task and trial of every finished trial, in the order of the tables."""
        records = [
            (*task, t.digest) for task in self.tasks for t in self._of_task[task] if t.digest in self._finished[task]
        ]
        return pd.DataFrame(records, columns=["screen", "context", "response", "split", "trial"])

    def tables(self, task: Task) -> TaskTables:
        """Make the tables of one task."""
        values = self._segments.read(task, self._of_task[task])
        finished = self._finished[task]
        if values.entries.keys() != finished:  # another process removed a trial, or finished one, meanwhile
            rows = values.rows[values.rows["trial"].isin(set(finished)).to_numpy()]
        else:
            rows = values.rows
        entries = {d: e for d, e in values.entries.items() if d in finished}
        own = [t for t in self._of_task[task] if t.digest in entries]
        labels = pd.DataFrame([_labels(t, entries[t.digest].hyperparameters) for t in own])
        about = {d: e.of_genes for d, e in entries.items() if e.of_genes is not None}
        done = {t.digest: t for t in own}
        totals = compile_totals(self.store, labels, rows, about, done) if about else pd.DataFrame(columns=TOTALS)
        scores = tidy_scores(rows, labels, totals)
        available = [(digest, metric) for digest, entry in entries.items() for metric in entry.rules]
        scores = scores.merge(pd.DataFrame(available, columns=["trial", "metric"]), on=["trial", "metric"])[COLUMNS]
        return TaskTables(labels, rows, scores, compile_resampled(labels, about))


def _labels(trial: Trial, hyperparameters: str) -> dict[str, Any]:
    own = {name: value for name, value in vars(trial).items() if name not in ("depends", "digest")}
    return {**own, "trial": trial.digest, "hyperparameters": hyperparameters}


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


def gather_ceilings(store: Store, trials: Sequence[Trial]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gather the ceilings that belong to the trials planned, and their bootstrap samples (:data:`RESAMPLED`)."""
    names = ["screen", "context", "response", "split", "fold", "seed"]
    valid = {tuple(getattr(t, n) for n in names): (t.depends["responses"], t.depends["split"]) for t in trials}
    frames, samples = [], []
    for path in sorted((store.path / "ceilings").glob("*.parquet")):
        try:
            table, about = read_parquet(path)
        except StoreError:
            continue  # as good as absent; the next run computes it again
        frame = table.to_pandas()
        labels = tuple(frame.loc[0, names])
        if valid.get(labels) == (about["responses"], about["split"]):
            frames.append(frame)
            own = dict(zip(names, labels, strict=True))
            samples += [{**own, "trial": "", "estimator": estimator, "metric": metric, "draws": draws}
                        for estimator, found in about.get("draws", {}).items() for metric, draws in found.items()]  # fmt: skip
    limits = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return limits, pd.DataFrame(samples, columns=RESAMPLED)


class TableWriter:
    """A Parquet table that is written part after part."""

    def __init__(self, partial: Path) -> None:
        self._partial = partial
        self._writer: Any = None
        self._schema: Any = None

    @property
    def empty(self) -> bool:
        """Whether nothing was written."""
        return self._writer is None

    def append(self, frame: pd.DataFrame) -> None:
        """Write some rows; the first decide on columns and types."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if frame.empty:
            return
        try:
            table = pa.Table.from_pandas(frame, schema=self._schema, preserve_index=False)
            if self._writer is None:
                self._schema = table.schema
                self._writer = pq.ParquetWriter(
                    self._partial, self._schema, compression="zstd", write_page_checksum=True
                )
            self._writer.write_table(table)
        except pa.ArrowException as error:
            raise OSError(getattr(error, "errno", None) or 5, str(error)) from error

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


class _NothingToWriteError(Exception):
    pass


@contextmanager
def table_writer(path: Path) -> Iterator[TableWriter]:
    """Yield a writer whose table replaces ``path`` when the block ends well; without any rows the table is removed."""
    try:
        with atomic_path(path) as partial:
            writer = TableWriter(partial)
            try:
                yield writer
            finally:
                writer.close()
            if writer.empty:
                raise _NothingToWriteError
    except _NothingToWriteError:
        path.unlink(missing_ok=True)

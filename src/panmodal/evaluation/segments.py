"""Values of a task's trials gathered in one file, so that thousands of small files are read once: a cache beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._digest import LENGTH, digest_json
from panmodal._files import PARTIAL
from panmodal.errors import StoreError
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.parquet import META, read_parquet, write_parquet
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Trial

FOLDER = "compact"
"""Folder of the segments in a results folder; may be removed at any time."""
RULE = 1
"""Version of what a segment holds; raise it when that changes."""
TRIALS = ".trials.parquet"
ROWS = ".rows.parquet"
Task = tuple[str, str, str, str]
"""Screen, context, kind of response, split."""


@dataclass(frozen=True)
class Entry:
    """What is kept of a finished trial beside its rows.

    ``stamp`` tells the state of the trial's files: sizes, times and inodes. ``of_genes`` is the record of its metrics of genes.
    """

    trial: str
    stamp: str
    hyperparameters: str
    rules: dict[str, int]
    of_genes: dict[str, Any] | None = None

    @property
    def outdated(self) -> bool:
        """Whether a formula has changed since."""
        return any(METRICS[m].rule != rule for m, rule in self.rules.items() if m in METRICS)


@dataclass(frozen=True)
class Values:
    """The finished trials of a task: rows (``trial``, ``pert_id``, ``covered``, metrics; by trial) and entries by trial."""

    rows: pd.DataFrame
    entries: dict[str, Entry]


Columns = Mapping[str, NDArray[Any]]
"""Rows of one trial, column by column: thousands of small frames take long to make, and much memory."""
Fresh = tuple[Columns, Entry]
"""What was read from the files of a trial."""


def task_of(trial: Trial) -> Task:
    """Return the task of a trial."""
    return (trial.screen, trial.context, trial.response, trial.split)


def task_digest(task: Task) -> str:
    """Digest of a task's labels, the first half of the name of its segments."""
    return digest_json([RULE, *task])


def content_digest(values: Values) -> str:
    """Digest of rows and entries without stamps: the same trials give the same on every machine."""
    entries = [[e.trial, e.hyperparameters, e.rules, e.of_genes] for e in values.entries.values()]
    state = hashlib.sha256(json.dumps([list(values.rows.columns), entries], sort_keys=True).encode())
    for name in values.rows.columns:
        column = values.rows[name]
        # What is text is separated by a byte that no label can hold.
        data = column.to_numpy().tobytes() if column.dtype != object else "\0".join(column).encode()
        state.update(data)
    return state.hexdigest()[:LENGTH]


def stamps(store: Store, folder: str) -> dict[str, str]:
    """State of each file in the shards of a folder (``trials``, ``scores``), by its name."""
    found = {}
    root = store.path / folder
    for shard in sorted(root.iterdir()) if root.is_dir() else ():
        if not shard.is_dir():
            continue
        with os.scandir(shard) as entries:
            for entry in entries:
                if not entry.name.startswith(PARTIAL):
                    try:
                        about = entry.stat()
                    except FileNotFoundError:
                        continue  # removed by another process meanwhile
                    found[entry.name] = f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}"
    return found


class Segments:
    """Reads the values of trials, a task at a time: from the task's segment what is in it, the rest from the trials' files.

    A segment is ``compact/TASK-CONTENT.rows.parquet`` and ``.trials.parquet``, named by what they hold. An entry is believed where
    its stamp is that of the trial's files now. Any number of processes may do this at once: segments are whole or absent, one
    that is gone or damaged is made again, and what is returned depends on the trials' files alone.

    Parameters
    ----------
    store
        The results folder.
    cached
        Without it no segment is read or written.
    """

    def __init__(self, store: Store, *, cached: bool = True) -> None:
        self.store, self.cached = store, cached
        self.look()
        self._found: dict[str, list[Path]] = defaultdict(list)
        if cached and (store.path / FOLDER).is_dir():
            for path in sorted((store.path / FOLDER).glob(f"*{TRIALS}")):
                self._found[path.name.partition("-")[0]].append(path)

    def look(self) -> None:
        """Take down the state of all files of trials; trials first, so that what they come with is seen too."""
        self._trials = stamps(self.store, "trials")
        self._scores = stamps(self.store, "scores")

    def _stamp(self, trial: Trial) -> str | None:
        """State of a trial's files; None where it is not done."""
        done = self._trials.get(f"{trial.digest}.parquet")
        if done is None:
            return None
        genes = self._scores.get(f"{trial.digest}.genes.parquet", "") if has_classes(trial.response) else ""
        return f"{done} {self._scores.get(f'{trial.digest}.parquet', '')} {genes}"

    def refresh(self, task: Task, trials: Sequence[Trial]) -> tuple[dict[str, Entry], dict[str, Entry | None]]:
        """Bring a task's segment up to date.

        Returns
        -------
        Entries of the trials whose values are there (without ``of_genes``), and those that must be scored again: their entry if a
        formula has changed, None if values are absent or damaged.
        """
        entries, lost, fresh, values = self._gathered(task, trials, whole=False)
        own = {d: e for d, (_, e) in entries.items()} | {e.trial: e for _, e in fresh}
        return own if values is None else dict(values.entries), lost

    def read(self, task: Task, trials: Sequence[Trial]) -> Values:
        """Return the values of a task's finished trials that need no scoring."""
        values = self._gathered(task, trials, whole=True)[3]
        assert values is not None
        return values

    def done(self, trials: Sequence[Trial]) -> set[str]:
        """Digests of the trials whose predictions are there, by their files alone."""
        return {t.digest for t in trials if f"{t.digest}.parquet" in self._trials}

    def _gathered(
        self, task: Task, trials: Sequence[Trial], *, whole: bool
    ) -> tuple[dict[str, tuple[Path, Entry]], dict[str, Entry | None], list[Fresh], Values | None]:
        """Return what :meth:`_look_up` does, and all values together where they are asked for or make a new segment."""
        for _ in range(2):
            entries, lost, fresh = self._look_up(task, trials)
            if not whole and not (fresh and self.cached):
                return entries, lost, fresh, None
            try:
                values = self._combined(entries, fresh)
            except StoreError:  # a segment was damaged, or taken away by another process
                self._found[task_digest(task)].clear()
                continue
            if fresh and self.cached:
                self._write(task, values)
            return entries, lost, fresh, values
        raise StoreError(f"{self.store.path / FOLDER}: cannot be read. Remove it and run the same command again.")

    def _look_up(
        self, task: Task, trials: Sequence[Trial]
    ) -> tuple[dict[str, tuple[Path, Entry]], dict[str, Entry | None], list[Fresh]]:
        """Entries that segments have, trials to be scored again, and the values read from files of trials."""
        now = {t.digest: stamp for t in trials if (stamp := self._stamp(t)) is not None}
        entries: dict[str, tuple[Path, Entry]] = {}
        for path in list(self._found[task_digest(task)]):
            try:
                for entry in _entries(path, with_genes=False):
                    if now.get(entry.trial) == entry.stamp and not entry.outdated:
                        entries.setdefault(entry.trial, (path, entry))
            except StoreError:
                self._found[task_digest(task)].remove(path)
        lost: dict[str, Entry | None] = {}
        fresh = []
        for trial in {t.digest: t for t in trials}.values():
            stamp = now.get(trial.digest)
            if stamp is None or trial.digest in entries:
                continue
            record = self.store.trial_record(trial.digest)
            if record is None:
                continue
            found = read_values(self.store, trial, stamp, str(record["hyperparameters"]))
            if found is None:
                lost[trial.digest] = None
            elif found[1].outdated:
                lost[trial.digest] = found[1]
            else:
                fresh.append(found)
        return entries, lost, fresh

    def _combined(self, entries: dict[str, tuple[Path, Entry]], fresh: Sequence[Fresh]) -> Values:
        """Put together what segments hold and what was read from files, by trial."""
        frames: list[pd.DataFrame | Columns] = [columns for columns, _ in fresh]
        whole = {e.trial: e for _, e in fresh}
        of_path: dict[Path, list[str]] = defaultdict(list)
        for digest, (path, _) in entries.items():
            of_path[path].append(digest)
        for path, digests in of_path.items():
            wanted = set(digests)
            rows = read_parquet(path.with_name(path.name.removesuffix(TRIALS) + ROWS))[0].to_pandas()
            keep = rows["trial"].isin(wanted).to_numpy()
            frames.append(rows if keep.all() else rows[keep])
            whole |= {e.trial: e for e in _entries(path, with_genes=True) if e.trial in wanted}
        return Values(_stacked(frames), dict(sorted(whole.items())))

    def _write(self, task: Task, values: Values) -> None:
        """Keep values as the segment of a task, and remove those that they replace."""
        import pyarrow as pa

        digest = task_digest(task)
        stem = f"{digest}-{content_digest(values)}"
        target = self.store.path / FOLDER / f"{stem}{TRIALS}"
        about = {META: json.dumps({"task": list(task), "rule": RULE}).encode()}
        rows = pa.Table.from_pandas(values.rows, preserve_index=False)
        listed = list(values.entries.values())
        entries = pa.table({
            "trial": pa.array([e.trial for e in listed], pa.string()),
            "stamp": pa.array([e.stamp for e in listed], pa.string()),
            "hyperparameters": pa.array([e.hyperparameters for e in listed], pa.string()),
            "rules": pa.array([json.dumps(e.rules) for e in listed], pa.string()),
            "of_genes": pa.array([e.of_genes and json.dumps(e.of_genes) for e in listed], pa.large_string()),
        })  # fmt: skip
        # Entries last: where they are, the rows are.
        write_parquet(rows.replace_schema_metadata({**(rows.schema.metadata or {}), **about}),
                      target.with_name(f"{stem}{ROWS}"))  # fmt: skip
        write_parquet(entries.replace_schema_metadata(about), target)
        for path in self._found[digest]:
            if path != target:
                remove_segment(path)
        self._found[digest] = [target]


def read_values(store: Store, trial: Trial, stamp: str = "", hyperparameters: str = "{}") -> Fresh | None:
    """Read the scores of a trial from its own files; None if a part is absent or damaged."""
    found = store.read_row_columns(trial.digest)
    if found is None:
        return None
    of_genes, (columns, rules) = None, found
    if has_classes(trial.response):
        genes = store.read_genes(trial.digest)
        if genes is None:
            return None
        of_genes, rules = genes[1], {**rules, **genes[1]["rules"]}
    return columns, Entry(trial.digest, stamp, hyperparameters, rules, of_genes)


def remove_segment(path: Path) -> None:
    """Remove a segment by the path of its entries: these first, so that there are none without rows."""
    path.unlink(missing_ok=True)
    path.with_name(path.name.removesuffix(TRIALS) + ROWS).unlink(missing_ok=True)


def read_segment(path: Path) -> Values:
    """Read a segment by the path of its entries, and check that it holds what its name says.

    Raises
    ------
    StoreError
        It is damaged, or holds something else.
    """
    entries = {e.trial: e for e in _entries(path, with_genes=True)}
    values = Values(read_parquet(path.with_name(path.name.removesuffix(TRIALS) + ROWS))[0].to_pandas(), entries)
    if path.name.removesuffix(TRIALS).partition("-")[2] != content_digest(values):
        raise StoreError(f"{path}: damaged (its content has another digest than its name says).")
    return values


def _entries(path: Path, *, with_genes: bool) -> Iterator[Entry]:
    columns = ["trial", "stamp", "hyperparameters", "rules", *(["of_genes"] if with_genes else [])]
    found = read_parquet(path, columns)[0].to_pydict()
    genes: Iterable[str | None] = found["of_genes"] if with_genes else [None] * len(found["trial"])
    known: dict[str, dict[str, int]] = {}  # the same few rules for thousands of trials
    for trial, stamp, chosen, rules, about in zip(
        found["trial"], found["stamp"], found["hyperparameters"], found["rules"], genes, strict=True
    ):
        shared = known.setdefault(rules, json.loads(rules) if rules not in known else {})
        yield Entry(trial, stamp, chosen, shared, json.loads(about) if about else None)


def _stacked(frames: Sequence[pd.DataFrame | Columns]) -> pd.DataFrame:
    """Put rows below each other, by trial; metrics that some trials do not have are NaN there."""
    if not frames:
        return pd.DataFrame(
            {"trial": np.array([], object), "pert_id": np.array([], object), "covered": np.array([], bool)}
        )
    there = {c for frame in frames for c in frame}
    columns = ["trial", "pert_id", "covered", *in_order(there)]
    data = {}
    for name in columns:
        kind = object if name in ("trial", "pert_id") else bool if name == "covered" else np.float64
        parts = [np.asarray(f[name], kind) if name in f else np.full(len(f["trial"]), np.nan) for f in frames]
        data[name] = np.concatenate(parts)
    order = np.argsort(data["trial"], kind="stable")
    return pd.DataFrame({name: values[order] for name, values in data.items()})


def in_order(columns: Iterable[str]) -> list[str]:
    """Return the metrics among the columns of rows: in the order of :data:`METRICS`, then those that this version does not know."""
    own = set(columns) - {"trial", "pert_id", "covered"}
    return [m for m in METRICS if m in own] + sorted(own - set(METRICS))

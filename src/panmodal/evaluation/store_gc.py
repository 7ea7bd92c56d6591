"""Removing from a results folder what no recorded plan needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._digest import digest_json
from panmodal.errors import InputError, StoreError
from panmodal.evaluation.parquet import read_parquet
from panmodal.evaluation.segments import task_digest, task_of
from panmodal.evaluation.store import Store
from panmodal.evaluation.store_files import (
    OF_TRIAL,
    StoreFile,
    file_time,
    files_of,
    labels_of_ceilings,
    valid_ceilings,
)

MARGIN = 3600.0
"""Seconds during which a file is never removed: its writer may not have recorded its plan yet."""
COLUMNS = ["place", "kind", "bytes", "why", "removed"]
_DIGEST = re.compile(r"[0-9a-f]{32}")


def collect_garbage(path: str | Path, *, delete: bool = False, margin: float = MARGIN) -> pd.DataFrame:
    """Find, and with ``delete`` remove, files that no recorded plan needs, and those that killed processes left.

    A file is kept if a recorded plan mentions its digest in any way, if it is younger than ``margin`` by the clock of the file
    system, or if what it is cannot be told. Plans are looked at again before every removal, so that one recorded meanwhile is
    respected. Imported tables, plans, the config and tables at the top of the folder are never touched.

    Parameters
    ----------
    path
        Results folder.
    delete
        Remove the files; otherwise they are only listed.
    margin
        Seconds.

    Returns
    -------
    pandas.DataFrame
        One row per file: ``place`` (within the folder), ``kind``, ``bytes``, ``why``, ``removed``.

    Raises
    ------
    StoreError
        Not a results folder, or a recorded plan is damaged: what it needs cannot be told.
    """
    if margin < 0:
        raise InputError(f"the margin is {margin:g} s; it must not be negative.")
    store = Store(path)
    needed = _Needed(store)
    now = file_time(store.path)
    records = []
    for file in files_of(store.path):
        why = needed.why_not(file)
        if not why:
            continue
        try:
            about = file.path.stat()
        except FileNotFoundError:
            continue  # removed by another process
        if now - about.st_mtime < margin:
            continue
        removed = False
        if delete and needed.why_not(file, again=True):
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"{file.path}: cannot be removed ({error.strerror or error}).") from error
            removed = True
        records.append((file.place, file.kind, about.st_size, why, removed))
    return pd.DataFrame(records, columns=COLUMNS)


@dataclass(frozen=True)
class _State:
    """What the recorded plans say: their files, all digests that they mention, the beginnings of those, tasks, ceilings, fits."""

    files: tuple[tuple[str, int, int], ...]
    digests: frozenset[str]
    short: frozenset[str]
    tasks: frozenset[str]
    ceilings: dict[tuple[Any, ...], tuple[str, str]]
    fits: frozenset[str]


class _Needed:
    """What the recorded plans need; read again when plans were added or changed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._state = self._read()
        self._tests: dict[str, Callable[[StoreFile], str]] = {
            "split": self._split, "responses": self._mentioned, "vectors": self._mentioned, "segment": self._segment,
            "ceilings": self._ceilings, "checkpoint": self._checkpoint, "leftover": lambda _: "left by a process that was killed",
            **dict.fromkeys(OF_TRIAL, self._mentioned),
        }  # fmt: skip

    def _listing(self) -> tuple[tuple[str, int, int], ...]:
        def about() -> Iterator[tuple[str, int, int]]:
            for path in sorted((self.store.path / "runs").glob("*.json")):
                found = path.stat()
                yield path.name, found.st_size, found.st_mtime_ns

        return tuple(about())

    def _read(self) -> _State:
        files = self._listing()
        trials = self.store.trials()
        digests: set[str] = set()
        for name, _, _ in files:
            digests.update(_DIGEST.findall((self.store.path / "runs" / name).read_text(encoding="utf-8")))
        return _State(files, frozenset(digests), frozenset(d[:8] for d in digests),
                      frozenset(task_digest(task_of(t)) for t in trials), valid_ceilings(trials),
                      # A fit of all contexts at once is named by what a trial depends on but for the responses.
                      frozenset(digest_json({k: v for k, v in t.depends.items() if k != "responses"}) for t in trials))  # fmt: skip

    def why_not(self, file: StoreFile, *, again: bool = False) -> str:
        """Say why a file is not needed; empty if it is, or that cannot be told."""
        if again and self._listing() != self._state.files:
            self._state = self._read()
        test = self._tests.get(file.kind)
        return test(file) if test else ""

    def _mentioned(self, file: StoreFile) -> str:
        own = file.digest.rpartition("-")[2]
        return "" if own in self._state.digests else "no recorded plan mentions it"

    def _checkpoint(self, file: StoreFile) -> str:
        own = _DIGEST.findall(file.place)
        return (
            "" if not own or (self._state.digests | self._state.fits) & {*own} else "of a fit that no recorded plan has"
        )

    def _split(self, file: StoreFile) -> str:
        return "" if file.digest in self._state.short else "no recorded plan mentions it"

    def _segment(self, file: StoreFile) -> str:
        if file.digest not in self._state.tasks:
            return "no recorded plan has its task"
        # What was written last is what the next compilation looks for; it makes anew what is missing.
        others = [p for p in file.path.parent.glob(f"{file.digest}-*.trials.parquet") if p.exists()]
        newest = max(others, key=lambda p: (p.stat().st_mtime_ns, p.name), default=None)
        stem = file.path.name.split(".")[0]
        return "" if newest is not None and newest.name.split(".")[0] == stem else "replaced by a newer segment"

    def _ceilings(self, file: StoreFile) -> str:
        try:
            table, about = read_parquet(file.path)
            labels = tuple(labels_of_ceilings(table.to_pandas()))
        except (StoreError, KeyError, IndexError):
            return ""  # damaged: for panmodal store verify
        needed = self._state.ceilings.get(labels) == (about.get("responses"), about.get("split"))
        return "" if needed else "of responses or a split that no recorded plan has"

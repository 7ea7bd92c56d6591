"""What each file of a results folder is, told by its place and name."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._files import PARTIAL
from panmodal.errors import StoreError
from panmodal.evaluation.trials import Trial

_DIGEST = "(?P<digest>[0-9a-f]{32})"
_SHARD = "[0-9a-f]{2}"
KINDS = {
    "manifest": r"panmodal\.json",
    "config": r"config\.yaml",
    "run": rf"runs/{_DIGEST}\.json",
    "split": r"splits/(?P<stem>.+-(?P<digest>[0-9a-f]{8}))\.(csv|split\.yaml)",
    "responses": r"responses/(?P<digest>[a-z_]+-[0-9a-f]{32})\.parquet",
    "vectors": rf"embeddings/{_DIGEST}\.parquet",
    "predictions": rf"trials/{_SHARD}/{_DIGEST}\.parquet",
    "rows": rf"scores/{_SHARD}/{_DIGEST}\.parquet",
    "genes": rf"scores/{_SHARD}/{_DIGEST}\.genes\.parquet",
    "common": rf"scores/{_SHARD}/{_DIGEST}\.common\.json",
    "fusion": rf"fusions/{_SHARD}/{_DIGEST}\.json",
    "failure": rf"failures/{_SHARD}/{_DIGEST}\.json",
    "environment": rf"environments/{_DIGEST}\.json",
    "invocation": r"invocations/[^/]+\.json",
    "checkpoint": r"checkpoints/.+",
    "work": r"work/.+",
    "ceilings": rf"ceilings/{_DIGEST}\.parquet",
    "imported": r"imported/[^/]+\.(scores|ceilings)\.parquet",
    "segment": rf"compact/{_DIGEST}-[0-9a-f]{{32}}\.(rows|trials)\.parquet",
    "table": r"(scores|perturbations|ceilings|resampled|quality|marks|fusions)\.parquet",
}
"""Pattern of the path of each kind of file within a results folder. Others are ``leftover`` of killed processes or ``unknown``."""
DERIVED = ("rows", "genes", "common", "segment", "table", "leftover", "failure", "invocation")
"""Kinds that are computed from the others, or are records that no result needs, and may be removed."""
OF_TRIAL = ("predictions", "rows", "genes", "common", "fusion", "failure")
"""Kinds of which each trial has at most one file."""
_COMPILED = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}


@dataclass(frozen=True)
class StoreFile:
    """A file of a results folder: its path, its place within the folder, its kind (``unknown``) and the digest in its name."""

    path: Path
    place: str
    kind: str
    digest: str


def kind_of(place: str) -> tuple[str, str]:
    """Return the kind of a file by its place within the folder (with ``/``), and the digest in its name."""
    if place.rpartition("/")[2].startswith(PARTIAL):
        return "leftover", ""
    for kind, pattern in _COMPILED.items():
        if found := pattern.fullmatch(place):
            return kind, found.groupdict().get("digest") or ""
    return "unknown", ""


def files_of(root: Path) -> Iterator[StoreFile]:
    """All files below a results folder, sorted by place."""
    for folder, inner, names in os.walk(root):
        inner.sort()
        for name in sorted(names):
            path = Path(folder) / name
            place = path.relative_to(root).as_posix()
            yield StoreFile(path, place, *kind_of(place))


def file_time(folder: Path) -> float:
    """Return the time now by the clock of the file system (seconds): that of a file written this moment.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=PARTIAL, dir=folder) as stream:
            return os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        raise StoreError(f"{folder}: cannot write there ({error.strerror or error}).") from error


def labels_of_ceilings(frame: pd.DataFrame) -> list[Any]:
    """Return what names the ceilings of a task's fold: screen, context, response, split, fold, seed."""
    first = frame.iloc[0]
    return [
        *(str(first[c]) for c in ("screen", "context", "response", "split")),
        int(first["fold"]),
        int(first["seed"]),
    ]


def valid_ceilings(trials: list[Trial]) -> dict[tuple[Any, ...], tuple[str, str]]:
    """Digests of responses and split that the ceilings of each task's fold must belong to, by their labels."""
    return {(t.screen, t.context, t.response, t.split, t.fold, t.seed): (t.depends["responses"], t.depends["split"])
            for t in trials}  # fmt: skip

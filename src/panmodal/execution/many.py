"""One function over many files: all are tried, and those that fail are named together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panmodal._console import Progress
from panmodal.errors import InputError, PanmodalError, some
from panmodal.execution.base import Executor
from panmodal.execution.faults import Fault


class FilesFailed(PanmodalError, RuntimeError):
    """Some of many files failed; ``faults`` says why each did."""

    def __init__(self, message: str, faults: dict[Path, Fault]) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(frozen=True)
class _OnPath:
    """The function without its attempt number."""

    function: Callable[[Path], Any]

    def __call__(self, path: Path, attempt: int) -> Any:
        return self.function(path)


def map_files(
    function: Callable[[Path], Any], paths: Sequence[str | Path], executor: Executor, *, progress: Progress | None = None,
    refuse: bool = True,
) -> tuple[dict[Path, Any], dict[Path, Fault]]:  # fmt: skip
    """Call a function for each file.

    Parameters
    ----------
    function
        Called with one path in a worker; it writes its output (atomically) and returns something small.
    paths
        The files; each once.
    executor
        From :func:`panmodal.execution.base.make_executor`.
    progress
        Called with (files done, files to do).
    refuse
        Raise if any file failed, after all were tried; otherwise faults are only returned.

    Returns
    -------
    values, faults
        What the function returned, and why it failed, by path in the given order.

    Raises
    ------
    InputError
        A path is given twice, or none.
    FilesFailed
        Some failed and ``refuse`` was asked for.
    """
    files = [Path(p) for p in paths]
    twice = [p for p, n in Counter(files).items() if n > 1]
    if twice or not files:
        raise InputError(f"{some(twice)} is given twice." if twice else "no file given.")
    found: dict[int, Any] = {}
    faults: dict[int, Fault] = {}
    if progress:
        progress(0, len(files))
    for outcome in executor.map(_OnPath(function), files):
        if outcome.fault is None:
            found[outcome.index] = outcome.value
        else:
            faults[outcome.index] = outcome.fault
        if progress:
            progress(len(found) + len(faults), len(files))
    failed = {files[k]: faults[k] for k in sorted(faults)}
    if failed and refuse:
        raise FilesFailed(failures(failed, len(files)), failed)
    return {files[k]: found[k] for k in sorted(found)}, failed


def failures(faults: dict[Path, Fault], n: int) -> str:
    """Say which files failed and why, one a line."""
    lines = [f"  {path}: {fault}" for path, fault in list(faults.items())[:20]]
    more = [f"  ... and {len(faults) - 20} more"] if len(faults) > 20 else []
    return "\n".join([f"{len(faults)} of {n} files failed; the others are done.", *lines, *more])

"""Inputs that travel once per machine, and are what the sender wrote."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from panmodal._files import PARTIAL
from panmodal.execution.calls import this_worker
from panmodal.execution.faults import StopAll

SCRATCH = "PANMODAL_SCRATCH"
"""Environment variable of workers: a folder on a fast disk of their own machine."""
PATIENCE = 3.0
"""Seconds in which a file that was just written elsewhere may become visible (network file systems remember absences)."""
BLOCK = 2**22


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def localised(path: str | Path, digest: str, folder: str | Path | None = None) -> Path:
    """Return where this process reads an input: a copy on this machine, or the shared file; both verified.

    The first call in a process reads the file; later ones cost nothing.

    Parameters
    ----------
    path
        The shared file.
    digest
        From :func:`file_digest`, by the process that wrote it.
    folder
        Where copies are kept, by digest, for all processes of this machine; the variable ``PANMODAL_SCRATCH`` unless given. Without
        either the shared file is read where it is.

    Raises
    ------
    StopAll
        This worker does not see the file, or sees another content.
    """
    chosen = folder or os.environ.get(SCRATCH) or None
    return _localised(str(path), digest, str(chosen) if chosen else None)


@lru_cache(maxsize=4096)
def _localised(path: str, digest: str, folder: str | None) -> Path:
    shared = Path(path)
    size = _visible(shared)
    if folder is None:
        _verify(shared, file_digest(shared), digest)
        return shared
    target = Path(folder) / "panmodal-inputs" / digest[:2] / f"{digest}{shared.suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            # A copy that is there already was whole when it was named; the disk may have changed it since.
            if not (target.is_file() and target.stat().st_size == size and file_digest(target) == digest):
                _verify(shared, _copy(shared, target, digest), digest)
    except OSError as error:
        # A full scratch disk must not stop a run that can do without it.
        warnings.warn(
            f"{folder}: no copy of {shared.name} can be kept there ({error.strerror or error}); the shared file is read instead",
            stacklevel=3,
        )
        _verify(shared, file_digest(shared), digest)
        return shared
    return target


def _visible(path: Path) -> int:
    """Return the size of a file, which may need a moment to appear."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return path.stat().st_size
        except OSError as error:
            if time.monotonic() > end:
                raise StopAll(
                    f"{path}: not visible from worker {this_worker()} ({error.strerror}). The results folder (--out) must "
                    "lie on a file system that all workers see, under the same path."
                ) from error
        with suppress(OSError):  # listing makes network file systems look again
            os.listdir(path.parent)  # noqa: PTH208
        time.sleep(0.2)


def _verify(path: Path, found: str, digest: str) -> None:
    if found != digest:
        raise StopAll(
            f"{path}: worker {this_worker()} reads another content (SHA-256 {found[:12]}) than was written ({digest[:12]}). Is it the "
            "same file system under that path? If so, run the same command again."
        )


def _copy(shared: Path, target: Path, digest: str) -> str:
    """Copy a file and return the digest of what was read; the copy is kept only if that is right."""
    handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=target.parent)
    state = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as written, shared.open("rb") as read:
            while block := read.read(BLOCK):
                state.update(block)
                written.write(block)
        if state.hexdigest() == digest:
            Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
    return state.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time through; a killed one lets go."""
    try:
        import fcntl
    except ImportError:  # without locks two processes may both copy; the copies are the same
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def clear_scratch(folder: str | Path) -> int:
    """Remove all copies that :func:`localised` keeps in ``folder``; return the bytes freed."""
    freed = 0
    for path in (Path(folder) / "panmodal-inputs").glob("*/*"):
        size = path.stat().st_size
        with suppress(OSError):
            path.unlink()
            freed += size
    return freed


def forget_inputs() -> None:
    """Verify inputs again at their next use in this process."""
    _localised.cache_clear()

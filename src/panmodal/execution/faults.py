"""What can go wrong with a task, and which of it heals by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from panmodal.errors import PanmodalError

KINDS = ("error", "lost", "memory", "disk", "transient")
"""Kinds of faults: an exception; the worker died; not enough memory; full disk; one that usually heals but did not."""

TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EAGAIN", "EINTR", "ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED",
        "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "EBUSY", "EPIPE", "ENFILE", "EREMOTEIO", "ENOLCK",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""System errors of network file systems and connections that often heal by themselves."""
DISK = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name))
"""System errors after which no task can store anything."""
DISK_WORDS = ("No space left on device", "Disk quota exceeded", "Read-only file system")
LONGEST = 20_000
"""Characters kept of a message or traceback."""


@dataclass(frozen=True)
class Fault:
    """Why a task has no value.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    type, message
        Class of the exception, and its text.
    traceback
        Of the worker, as text; empty where a worker died.
    attempts
        How many times the task was started.
    worker
        Where it ran last: machine and process.
    """

    kind: str
    type: str
    message: str
    traceback: str = ""
    attempts: int = 1
    worker: str = ""

    def __str__(self) -> str:
        return self.message if self.kind == "lost" else f"{self.type}: {self.message}"


@dataclass(frozen=True)
class Outcome:
    """What became of the task at ``index``: its value, or a fault."""

    index: int
    value: Any = None
    fault: Fault | None = None


class StopAll(PanmodalError, RuntimeError):
    """No task can go on: the disk is full, or a worker does not see the files.

    A function that is mapped may raise it; the executor passes it on.
    """


class ClusterError(PanmodalError, RuntimeError):
    """The cluster cannot be used, or was lost."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__


def kind_of(error: BaseException) -> str:
    """Return the kind of fault that an exception is; the first one that tells in its chain of causes decides.

    ``disk`` and ``stop`` (:class:`StopAll`) end everything, ``memory`` and ``transient`` may be tried again, ``error`` may not.
    """
    for step in chain(error):
        if isinstance(step, StopAll):
            return "stop"
        if isinstance(step, MemoryError) or type(step).__name__ == "OutOfMemoryError":
            return "memory"
        # Libraries that write files themselves do not always hand the number on.
        if isinstance(step, (OSError, RuntimeError)) and any(words in str(step) for words in DISK_WORDS):
            return "disk"
        if isinstance(step, OSError):
            if step.errno in DISK:
                return "disk"
            if step.errno in TRANSIENT or isinstance(step, (ConnectionError, TimeoutError)):
                return "transient"
    return "error"


def disk_full(message: str) -> StopAll:
    """Return the error for a full disk."""
    return StopAll(
        f"the disk is full, or cannot be written: {message.rstrip('.')}. Everything was stopped. What is finished is kept: free some "
        "space and run the same command again."
    )

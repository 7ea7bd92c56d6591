"""What a worker does with a task: call the function, and answer with its value or what went wrong."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from panmodal._version import __version__
from panmodal.execution.faults import LONGEST, chain, kind_of

VERSIONS = (__version__, f"{sys.version_info[0]}.{sys.version_info[1]}")
"""What must be the same everywhere, since functions travel as pickles: panmodal, and Python's minor version."""


@dataclass(frozen=True)
class Answer:
    """A worker's answer: the value, or (``kind`` is not empty) what went wrong as text, so that no exception need be pickled."""

    value: Any = None
    kind: str = ""
    type: str = ""
    message: str = ""
    traceback: str = ""
    worker: str = ""


def this_worker() -> str:
    """Name this process for a message."""
    return f"{platform.node()}, process {os.getpid()}"


def call(function: Callable[[Any, int], Any], task: Any, attempt: int) -> Answer:
    """Call a function; whatever it raises becomes part of the answer."""
    try:
        return Answer(function(task, attempt), worker=this_worker())
    except KeyboardInterrupt:
        return Answer(kind="interrupt", worker=this_worker())
    except (Exception, SystemExit) as error:
        return failed(error)


def failed(error: BaseException) -> Answer:
    """Describe an exception."""
    kind = kind_of(error)
    told: BaseException = error
    if kind == "stop":
        told = next(step for step in chain(error) if kind_of(step) == "stop")
    # The first frame is this module's own.
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    lines = traceback.format_exception(type(error), error, inner or error.__traceback__)
    return Answer(
        None, kind, type(error).__name__, str(told)[:LONGEST], "".join(lines)[-LONGEST:], this_worker(),
    )  # fmt: skip


def packed(value: Any) -> bytes:
    """Pickle by cloudpickle: functions of scripts and notebooks travel by value."""
    import cloudpickle

    return cloudpickle.dumps(value)


def answer_bytes(function: Callable[[Any, int], Any], task: bytes, attempt: int) -> bytes:
    """Unpack a task, call the function and pack the answer; values that cannot be pickled are faults like others."""
    import pickle

    try:
        given = pickle.loads(task)
    except Exception as error:
        return packed(failed(error))
    answer = call(function, given, attempt)
    del given
    try:
        return packed(answer)
    except Exception as error:
        return packed(failed(error))


def limit_threads(n: int = 1) -> None:
    """Compute with so many threads from now on in this process; results must not depend on the number of cores."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=n)
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))

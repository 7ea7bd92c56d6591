"""A worker process of the local executor: reads tasks from a pipe, answers into it, and never outlives who started it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import FrameType
from typing import Any

from panmodal.execution.calls import answer_bytes, failed, limit_threads, packed, this_worker

READY = b"ready"
GRACE = 2.0
"""Seconds in which a task may clear up before its process is killed."""
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)  # fmt: skip
"""Variables set to 1 for workers: results must not depend on the number of cores, which the workers fill already."""


class _Stop(BaseException):
    """Raised in the main thread of a worker that is asked to stop, so that files half written are removed."""


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def _read(pipe: Connection, inbox: SimpleQueue[Any]) -> None:
    """Pass messages on; stop the process when the other side is gone, even in the middle of a task."""
    try:
        while (message := pickle.loads(pipe.recv_bytes())) is not None:
            inbox.put(message)
        inbox.put(None)
    except (EOFError, OSError):
        inbox.put(None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)


def serve(pipe: Connection, threads: int = 1) -> None:
    """Answer messages until the pipe says None or closes.

    Messages are pickled tuples: ("function", its pickle), then ("task", its pickle, attempt), each answered with a pickled
    :class:`~panmodal.execution.calls.Answer`.
    """
    # Ctrl-C reaches the whole group of processes; the one that started the workers decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: SimpleQueue[Any] = SimpleQueue()
    with suppress(_Stop):
        signal.signal(signal.SIGTERM, _stop)
        threading.Thread(target=_read, args=(pipe, inbox), daemon=True).start()
        _answer(pipe, inbox, threads)
    # A signal that comes late must not disturb the exit.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _answer(pipe: Connection, inbox: SimpleQueue[Any], threads: int) -> None:
    function: Callable[[Any, int], Any] | None = None
    broken = b""
    pipe.send_bytes(READY + this_worker().encode())
    while (message := inbox.get()) is not None:
        if message[0] == "function":
            function, broken = None, b""
            try:
                function = pickle.loads(message[1])
                limit_threads(threads)
            except Exception as error:
                broken = packed(failed(error))
            continue
        answer = broken if function is None else answer_bytes(function, message[1], message[2])
        # A pipe that is closed on the other side has been noticed by the reader.
        with suppress(OSError):
            pipe.send_bytes(answer)
        del answer, message

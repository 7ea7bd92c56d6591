"""What runs on a Dask worker: functions that were sent there once, and the call of one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

from panmodal.execution.calls import VERSIONS, Answer, answer_bytes, failed, limit_threads, packed, this_worker

_lock = threading.Lock()
_sent: dict[str, bytes] = {}
_ready: dict[str, Callable[[Any, int], Any]] = {}


def keep(name: str, function: bytes) -> None:
    """Keep a function (its pickle) for later calls."""
    with _lock:
        _sent[name] = function


def forget(name: str) -> None:
    """Let go of a function."""
    with _lock:
        _sent.pop(name, None)
        _ready.pop(name, None)


def make_plugin(name: str, function: bytes) -> Any:
    """Make the Dask plugin that keeps a function on every worker, those that join later too."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class SendFunction(WorkerPlugin):
        # It travels by value: only what its methods import is looked up on the worker.
        idempotent = True

        def setup(self, worker: Any) -> None:
            from panmodal.execution import remote

            remote.keep(name, function)

        def teardown(self, worker: Any) -> None:
            from panmodal.execution import remote

            remote.forget(name)

    return SendFunction()


def run_remote(name: str, task: bytes, attempt: int, versions: tuple[str, str]) -> bytes:
    """Call a function kept under ``name``; return a pickled answer."""
    if versions != VERSIONS:  # pickles of one version may mean something else in another
        found = f"panmodal {VERSIONS[0]} and Python {VERSIONS[1]}"
        return pickle.dumps(Answer(kind="stop", message=wrong_versions({this_worker(): found}, versions)))
    try:
        function = _function(name)
    except KeyError:
        return pickle.dumps(Answer(kind="transient", type="KeyError", message="the function has not arrived on this worker yet",
                                   worker=this_worker()))  # fmt: skip
    except Exception as error:
        return packed(failed(error))
    return answer_bytes(function, task, attempt)


def _function(name: str) -> Callable[[Any, int], Any]:
    with _lock:
        if name not in _ready:
            _ready[name] = pickle.loads(_sent[name])
            limit_threads()
        return _ready[name]


def wrong_versions(found: dict[str, str], versions: tuple[str, str] = VERSIONS) -> str:
    """Say which workers have other versions."""
    named = "; ".join(f"{where}: {what}" for where, what in list(found.items())[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f"workers have other versions than this process (panmodal {versions[0]} and Python {versions[1]}): {named}{more}. Start the "
        "scheduler and its workers in the same environment as this command."
    )

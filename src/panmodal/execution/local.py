"""Tasks in processes of this machine, each with a pipe of its own.

A process that dies takes with it the one task that it was running, known for certain, and nothing else: queues shared by workers
(as those of process pools) can be left locked or half written by a killed process, and leave open which task killed it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from panmodal.errors import InputError, PanmodalError
from panmodal.execution.attempts import Attempts
from panmodal.execution.calls import Answer, failed, packed
from panmodal.execution.faults import Outcome
from panmodal.execution.signals import sigterm_interrupts
from panmodal.execution.worker import GRACE, READY, THREADS, serve

Task = TypeVar("Task")
POLL = 1.0
"""Seconds between looks at the processes themselves (a child of a dead worker may hold its pipe open)."""


class _Worker:
    """A process and what it is doing."""

    def __init__(self, threads: int) -> None:
        from loky.backend import get_context

        self.pipe, theirs = Pipe()
        # loky: a fresh interpreter that does not import the script again, with an environment of its own.
        self.process = get_context("loky").Process(
            target=serve, args=(theirs, threads), env=dict.fromkeys(THREADS, str(threads))
        )
        try:
            self.process.start()
        finally:
            theirs.close()
        self.name = ""
        self.ready = False
        self.knows = -1
        self.task: int | None = None

    def send(self, message: Any) -> None:
        self.pipe.send_bytes(pickle.dumps(message))

    def kill(self) -> None:
        """End the process at once (processes of loky have no such method)."""
        with suppress(OSError):
            os.kill(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.join(timeout=GRACE)

    def ending(self) -> str:
        """Say how the process ended."""
        self.process.join(timeout=1.0)
        code = self.process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


class LocalExecutor:
    """Tasks in processes of this machine.

    Parameters
    ----------
    workers
        Processes; as many as this process may use cores unless given.
    retries, seed, pause
        As in :class:`panmodal.execution.attempts.Attempts`.
    threads
        Threads that each process computes with in BLAS, OpenMP and Numba.
    """

    name = "local"

    def __init__(
        self, workers: int | None = None, *, retries: int = 2, seed: int = 0, pause: float = 0.2, threads: int = 1
    ) -> None:
        import loky  # registers its clearing up before ours, which must run first

        self.workers = loky.cpu_count() if workers is None else workers
        if self.workers < 1:
            raise InputError(f"workers (--jobs) must be at least 1, not {workers}.")
        self._options: dict[str, Any] = {"retries": retries, "seed": seed, "pause": pause}
        Attempts(0, **self._options)
        self._threads = threads
        self._team: list[_Worker] = []
        self._maps = 0
        self._stillborn = 0.0
        self._open = False
        atexit.register(self.close)

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [w.process.pid for w in self._team if w.process.pid is not None]

    def map(self, function: Callable[[Task, int], Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield the outcome of each task; see :class:`panmodal.execution.base.Executor`."""
        if self._open:
            raise RuntimeError("this executor is mapping already; use up its outcomes first")
        self._maps += 1
        self._open = True
        try:
            with sigterm_interrupts():
                yield from self._map(packed(function), tasks, Attempts(len(tasks), **self._options))
        except KeyboardInterrupt:
            self._stop(self._team)
            raise
        finally:
            self._open = False
            self._stop([w for w in self._team if w.task is not None])

    def _map(self, function: bytes, tasks: Sequence[Any], attempts: Attempts) -> Iterator[Outcome]:
        self._stillborn = 0.0
        while not attempts.done:
            self._size(attempts)
            yield from self._hand_out(function, tasks, attempts)
            if attempts.done:
                return
            pause = attempts.wait()
            ready = wait([w.pipe for w in self._team], POLL if pause is None else min(POLL, pause))
            dead = [] if ready else [w for w in self._team if not w.process.is_alive()]
            for worker in [w for w in self._team if w.pipe in ready or w in dead]:
                outcome = self._hear(worker, attempts)
                if outcome is not None:
                    yield outcome

    def _size(self, attempts: Attempts) -> None:
        """Start as many processes as there is work for; a task that must be alone is not to share its machine with idle ones."""
        wanted = 1 if attempts.only_alone_left else min(self.workers, attempts.left)
        idle = [w for w in self._team if w.task is None]
        surplus = len(self._team) - wanted
        if attempts.only_alone_left and surplus > 0:
            self._dismiss(idle[:surplus])
        while len(self._team) < wanted:
            self._team.append(_Worker(self._threads))

    def _hand_out(self, function: bytes, tasks: Sequence[Any], attempts: Attempts) -> Iterator[Outcome]:
        """Give every idle worker a task; yield outcomes of tasks that cannot be sent."""
        for worker in list(self._team):
            while worker.ready and worker.task is None and (taken := attempts.take()) is not None:
                index, attempt = taken
                try:
                    task = packed(tasks[index])
                except Exception as error:
                    outcome = attempts.settle(index, failed(error))
                    if outcome is not None:
                        yield outcome
                    continue
                try:
                    if worker.knows != self._maps:
                        worker.send(("function", function))
                        worker.knows = self._maps
                    worker.send(("task", task, attempt))
                    worker.task = index
                except OSError:  # it died while idle: no task is to blame
                    attempts.put_back(index)
                    self._bury(worker)
                    break

    def _hear(self, worker: _Worker, attempts: Attempts) -> Outcome | None:
        """Read what a worker says, or take note of its death."""
        try:
            said = worker.pipe.recv_bytes() if worker.pipe.poll() else b""
        except (EOFError, OSError):
            said = b""
        if said.startswith(READY):
            worker.ready, worker.name, self._stillborn = True, said.removeprefix(READY).decode(), 0.0
            return None
        index, worker.task = worker.task, None
        if not said:
            self._bury(worker)
            if index is None:
                if not worker.ready:
                    self._give_up(worker)
                return None
            return attempts.lost(index, f"the process that ran it {worker.ending()}", worker.name)
        assert index is not None
        try:
            answer: Answer = pickle.loads(said)
        except Exception as error:  # a value that can be pickled but not unpickled
            answer = failed(error)
        return attempts.settle(index, answer)

    def _give_up(self, worker: _Worker) -> None:
        ending = worker.ending()
        # What kills from outside may hit young workers again and again; an error at the start is there to stay.
        self._stillborn += 0.1 if ending.startswith("was killed") else 1.0
        if self._stillborn > 2 * self.workers + 3:
            raise PanmodalError(
                f"worker processes cannot be started: too many in a row died before their first task (the last one {ending}). "
                "Ask for fewer --jobs, or --jobs 1 to see the reason."
            )

    def _bury(self, worker: _Worker) -> None:
        self._team.remove(worker)
        worker.pipe.close()
        # It may only have closed its pipe.
        if worker.process.is_alive():
            worker.process.join(timeout=0.2)
        if worker.process.is_alive():
            worker.kill()

    def _dismiss(self, workers: Sequence[_Worker]) -> None:
        """Let idle workers go."""
        for worker in workers:
            with suppress(OSError):
                worker.send(None)
            self._team.remove(worker)
        self._wait(workers)

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """Stop workers: ask, so that files half written are removed, then kill."""
        workers = list(workers)
        for worker in workers:
            worker.process.terminate()
            self._team.remove(worker)
        self._wait(workers)

    @staticmethod
    def _wait(workers: Sequence[_Worker]) -> None:
        try:
            end = time.monotonic() + GRACE
            for worker in workers:
                worker.process.join(timeout=max(0.0, end - time.monotonic()))
        finally:
            for worker in workers:
                if worker.process.is_alive():
                    worker.kill()
                worker.pipe.close()

    def close(self) -> None:
        """Stop all processes."""
        atexit.unregister(self.close)
        self._dismiss([w for w in self._team if w.task is None and w.ready])
        self._stop(self._team)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

"""Which task to start next, and whether one that failed is tried again."""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from panmodal.errors import InputError
from panmodal.execution.calls import Answer
from panmodal.execution.faults import Fault, Outcome, StopAll, disk_full

CROWD = 2
"""A task whose worker died so often while others were running is run alone from then on."""
LONGEST_WAIT = 30.0


@dataclass
class _History:
    starts: int = 0
    transient: int = 0
    losses: int = 0
    memory: int = 0


class Attempts:
    """The tasks of one map.

    Fresh tasks are started in the given order. A transient error is tried again after a pause that doubles every time, with jitter
    from the seed. A task that ran out of memory, or whose worker died :data:`CROWD` times, is put back to the end, where it
    runs while nothing else does: what was killed for its neighbours' memory passes there, and what kills its worker by itself is
    known for certain.

    Parameters
    ----------
    n
        Number of tasks.
    retries
        How often a transient error, or a worker lost while the task ran alone, is tried again.
    seed, pause
        Jitter, and the first pause in seconds.
    """

    def __init__(self, n: int, *, retries: int = 2, seed: int = 0, pause: float = 0.2,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        if retries < 0:
            raise InputError(f"retries must be at least 0, not {retries}.")
        self.n, self.retries, self.seed, self.pause, self.clock = n, retries, seed, pause, clock
        self.running: set[int] = set()
        self.finished = 0
        self.alone = False
        self._fresh = 0
        self._paused: list[tuple[float, int]] = []
        self._again: deque[int] = deque()
        self._last: deque[int] = deque()
        self._history: dict[int, _History] = {}

    @property
    def done(self) -> bool:
        """Whether every task has its outcome."""
        return self.finished == self.n

    @property
    def left(self) -> int:
        """Number of tasks without an outcome."""
        return self.n - self.finished

    @property
    def only_alone_left(self) -> bool:
        """Whether all that is left, running or not, must run alone."""
        return self.alone or (
            bool(self._last) and not (self.running or self._paused or self._again or self._fresh < self.n)
        )

    def take(self) -> tuple[int, int] | None:
        """Return (task, attempt) to start now; None if there is none at present (:meth:`wait` says for how long)."""
        if self.alone:
            return None
        if self._again:
            return self._start(self._again.popleft())
        if self._paused and self._paused[0][0] <= self.clock():
            return self._start(heapq.heappop(self._paused)[1])
        if self._fresh < self.n:
            self._fresh += 1
            return self._start(self._fresh - 1)
        if self.only_alone_left:
            self.alone = True
            return self._start(self._last.popleft())
        return None

    def _start(self, index: int) -> tuple[int, int]:
        self.running.add(index)
        history = self._history.get(index)
        if history is None:
            return index, 0
        history.starts += 1
        return index, history.starts

    def wait(self) -> float | None:
        """Return the seconds until a paused task is due; None if none is paused."""
        return max(0.0, self._paused[0][0] - self.clock()) if self._paused and not self.alone else None

    def put_back(self, index: int) -> None:
        """Take note that a task was not started after all."""
        self._stopped(index)
        if index in self._history:
            self._history[index].starts -= 1
        self._again.appendleft(index)

    def settle(self, index: int, answer: Answer) -> Outcome | None:
        """Take note of a worker's answer; return the outcome, or None if the task is tried again.

        Raises
        ------
        StopAll
            No task can go on.
        """
        if answer.kind == "interrupt":
            raise KeyboardInterrupt
        if answer.kind == "stop":
            raise StopAll(answer.message)
        if answer.kind == "disk":
            raise disk_full(answer.message)
        was_alone = self._stopped(index)
        if not answer.kind:
            return self._finish(Outcome(index, answer.value))
        history = self._history.setdefault(index, _History())
        if answer.kind == "transient" and history.transient < self.retries:
            history.transient += 1
            # Seeded by task and attempt: the same pauses whatever ran in between.
            jitter = random.Random(f"{self.seed} {index} {history.transient}").uniform(0.5, 1.5)
            pause = min(LONGEST_WAIT, self.pause * 2 ** (history.transient - 1)) * jitter
            heapq.heappush(self._paused, (self.clock() + pause, index))
            return None
        if answer.kind == "memory" and not history.memory and not was_alone:
            history.memory += 1
            self._last.append(index)
            return None
        fault = Fault(answer.kind, answer.type, answer.message, answer.traceback, history.starts + 1, answer.worker)
        return self._finish(Outcome(index, fault=fault))

    def lost(self, index: int, why: str, worker: str = "", times: int = 1) -> Outcome | None:
        """Take note that the worker of a task died (``times`` times); return the outcome, or None if the task is tried again."""
        was_alone = self._stopped(index)
        history = self._history.setdefault(index, _History())
        history.losses += times
        history.starts += times - 1
        if was_alone and history.losses > CROWD + self.retries:
            message = (
                f"{why}, {history.losses} times, the last while nothing else was running. Probably it needs more memory than "
                "there is: ask for fewer --jobs, or a machine with more memory."
            )
            fault = Fault("lost", "WorkerLost", message, "", history.starts + 1, worker)
            return self._finish(Outcome(index, fault=fault))
        (self._again if history.losses < CROWD else self._last).append(index)
        return None

    def _stopped(self, index: int) -> bool:
        self.running.discard(index)
        was, self.alone = self.alone, False
        return was

    def _finish(self, outcome: Outcome) -> Outcome:
        self._history.pop(outcome.index, None)
        self.finished += 1
        return outcome

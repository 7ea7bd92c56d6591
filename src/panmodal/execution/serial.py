"""Tasks one after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from panmodal.execution.attempts import Attempts
from panmodal.execution.calls import call
from panmodal.execution.faults import Outcome
from panmodal.execution.signals import sigterm_interrupts

Task = TypeVar("Task")


class SerialExecutor:
    """Tasks one after the other in this process; nothing is pickled. A task that kills the process kills all of it."""

    name = "serial"
    workers = 1

    def __init__(self, *, retries: int = 2, seed: int = 0, pause: float = 0.2) -> None:
        self._options: dict[str, Any] = {"retries": retries, "seed": seed, "pause": pause}
        Attempts(0, **self._options)

    def map(self, function: Callable[[Task, int], Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield the outcome of each task; see :class:`panmodal.execution.base.Executor`."""
        attempts = Attempts(len(tasks), **self._options)
        with sigterm_interrupts():
            while not attempts.done:
                taken = attempts.take()
                if taken is None:
                    time.sleep(attempts.wait() or 0.0)
                    continue
                index, attempt = taken
                outcome = attempts.settle(index, call(function, tasks[index], attempt))
                if outcome is not None:
                    yield outcome

    def close(self) -> None:
        """Do nothing; there is nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

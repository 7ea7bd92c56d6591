"""One small interface to whatever runs tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from panmodal.errors import InputError
from panmodal.execution.faults import Outcome

Task = TypeVar("Task")


class Executor(Protocol):
    """Maps a function over tasks.

    Attributes
    ----------
    name
        ``serial``, ``local`` or ``dask``.
    workers
        How many tasks run at once; on a cluster the threads of its workers now.
    """

    name: str

    @property
    def workers(self) -> int:
        """How many tasks run at once."""

    def map(self, function: Callable[[Task, int], Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome for each task, in the order of completion; tasks are started in the given order.

        Parameters
        ----------
        function
            Called with (task, attempt): attempt 0 is the first, so that a later one can skip what is done already. It must be
            harmless to run a task twice. It travels once to each worker; tasks travel one by one.
        tasks
            Read one by one: a lazy sequence keeps the memory flat.

        Raises
        ------
        StopAll
            No task can go on (full disk). What is finished was yielded before.
        ClusterError
            The cluster was lost, or its workers have other versions.
        KeyboardInterrupt
            Ctrl-C or SIGTERM; the tasks that were running were stopped.
        """

    def close(self) -> None:
        """Let go of workers."""

    def __enter__(self) -> Self:
        """Return itself; the end of the block closes it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def make_executor(text: str = "local", *, workers: int | None = None, retries: int = 2, seed: int = 0, pause: float = 0.2,
                  say: Callable[[str], None] | None = None) -> Executor:  # fmt: skip
    """Make an executor.

    Parameters
    ----------
    text
        ``serial`` (in this process), ``local`` (processes of this machine), ``dask:local`` (Dask on this machine),
        ``dask:tcp://HOST:PORT`` (a scheduler's address) or ``dask:FILE`` (its scheduler file).
    workers
        Processes; as many as this process may use cores unless given. The workers of a running cluster are taken as they are.
    retries
        How often a transient error or a lost worker is tried again.
    seed, pause
        Of the pauses before transient errors are tried again, which begin with ``pause`` seconds and double.
    say
        Called with what is worth telling (waiting for workers).

    Raises
    ------
    InputError
        No such executor, or a package that it needs is absent.
    ClusterError
        The cluster cannot be reached.
    """
    from panmodal.execution.local import LocalExecutor
    from panmodal.execution.serial import SerialExecutor

    if text == "serial":
        return SerialExecutor(retries=retries, seed=seed, pause=pause)
    if text == "local":
        return LocalExecutor(workers, retries=retries, seed=seed, pause=pause)
    if text.startswith("dask:") and text != "dask:":
        from panmodal.execution.cluster import DaskExecutor

        return DaskExecutor(text.removeprefix("dask:"), workers, retries=retries, seed=seed, pause=pause, say=say)
    raise InputError(
        f"no executor {text!r}; there are serial, local, dask:local, dask:tcp://HOST:PORT and dask:SCHEDULER-FILE.json."
    )

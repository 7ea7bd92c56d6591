"""Tasks on a Dask cluster: one that runs already, by its address or scheduler file, or processes of this machine."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from panmodal.errors import InputError
from panmodal.execution.attempts import Attempts
from panmodal.execution.calls import VERSIONS, Answer, failed, packed
from panmodal.execution.faults import ClusterError, Outcome
from panmodal.execution.remote import make_plugin, run_remote, wrong_versions
from panmodal.execution.signals import sigterm_interrupts

Task = TypeVar("Task")
AHEAD = 2
"""Tasks submitted for each thread of the cluster: one that runs and one that waits on the worker."""
REFRESH = 2.0
"""Seconds between looks at which workers there are."""
REACH = 60.0
"""Seconds to wait for a scheduler, or its file."""


class DaskExecutor:
    """Tasks on a Dask cluster.

    Parameters
    ----------
    where
        ``local``, the address of a scheduler (``tcp://HOST:PORT``), or its scheduler file.
    workers
        Processes of a local cluster; as many as this process may use cores unless given. Of others it must not be given.
    retries, seed, pause
        As in :class:`panmodal.execution.attempts.Attempts`.
    say
        Called with what is worth telling.
    reach
        Seconds to wait for the scheduler.

    Raises
    ------
    InputError
        Dask is not installed.
    ClusterError
        The scheduler cannot be reached; its workers have another version of panmodal or Python.
    """

    name = "dask"

    def __init__(self, where: str, workers: int | None = None, *, retries: int = 2, seed: int = 0, pause: float = 0.2,
                 say: Callable[[str], None] | None = None, reach: float = REACH) -> None:  # fmt: skip
        self._options: dict[str, Any] = {"retries": retries, "seed": seed, "pause": pause}
        Attempts(0, **self._options)
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise InputError("--dask needs Dask: pip install 'panmodal[cluster]'.") from error
        self.where, self._say = where, say or (lambda line: None)
        self._client: Any = None
        self._cluster: Any = None
        self._uid, self._maps = uuid.uuid4().hex[:12], 0
        self._connect(workers, reach)
        try:
            self._check_versions()
        except BaseException:
            self.close()
            raise

    def _connect(self, workers: int | None, reach: float) -> None:
        import dask
        from distributed import Client, LocalCluster

        if self.where == "local":
            import loky

            # A worker's death is counted by us, and must not be answered by starting its task again behind our back.
            with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
                self._cluster = LocalCluster(
                    n_workers=workers or loky.cpu_count(), threads_per_worker=1, processes=True, dashboard_address=None,
                    memory_limit=0, silence_logs=logging.CRITICAL,
                )  # fmt: skip
            self._client = Client(self._cluster, set_as_default=False)
            return
        if workers is not None:
            self._say(
                f"the workers of {self.where} are taken as they are (--jobs {workers} is for processes of this machine)"
            )
        is_file = "://" not in self.where
        if is_file:
            end = time.monotonic() + reach
            while not Path(self.where).exists():
                if time.monotonic() > end:
                    raise ClusterError(
                        f"{self.where}: no such scheduler file after {reach:.0f} s. Start the scheduler with dask scheduler "
                        f"--scheduler-file {self.where}, or give --dask local or --dask tcp://HOST:PORT."
                    )
                time.sleep(0.2)
        try:
            given = {"scheduler_file": self.where} if is_file else {"address": self.where}
            self._client = Client(**given, timeout=reach, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no scheduler answers at {self.where} ({error}). Is dask scheduler running there, and the port open from here?"
            ) from error

    def _check_versions(self) -> None:
        try:
            found = self._client.get_versions(packages=["panmodal"])["workers"]
        except Exception as error:
            raise ClusterError(f"{self.where}: the versions on the workers cannot be read ({error}).") from error
        wrong = {}
        for address, about in found.items():
            python = ".".join(str(about["packages"].get("python", "?")).split(".")[:2])
            own = about["packages"].get("panmodal")
            if (own, python) != VERSIONS:
                wrong[address] = f"{f'panmodal {own}' if own else 'no panmodal'} and Python {python}"
        if wrong:
            raise ClusterError(wrong_versions(wrong))

    @property
    def workers(self) -> int:
        """Threads of the cluster's workers now."""
        return sum(self._client.nthreads().values()) if self._alive() else 0

    def _alive(self) -> bool:
        return self._client is not None and self._client.status == "running"

    def map(self, function: Callable[[Task, int], Any], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield the outcome of each task; see :class:`panmodal.execution.base.Executor`."""
        if self._client is None:
            raise RuntimeError("this executor is closed")
        self._maps += 1
        name = f"panmodal-{self._uid}-{self._maps}"
        going = _Map(self, name, tasks, Attempts(len(tasks), **self._options), self._say)
        try:
            with sigterm_interrupts():
                self._ask(lambda: self._client.register_plugin(make_plugin(name, packed(function)), name=name))
                yield from going.outcomes()
        finally:
            going.cancel()
            if self._alive():
                with suppress(Exception):
                    self._client.unregister_worker_plugin(name)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Ask the scheduler something."""
        try:
            return call()
        except (OSError, TimeoutError) as error:
            raise self.lost() from error

    def lost(self) -> ClusterError:
        """Return the error for a cluster that is not there any more."""
        return ClusterError(
            f"the Dask scheduler ({self.where}) was lost. What is finished is kept: start the cluster and run the same command again."
        )

    def close(self) -> None:
        """Leave the cluster; stop it if it was started here."""
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        for each in (client, cluster):
            if each is not None:
                with suppress(Exception):
                    each.close(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Map:
    """One map: futures under way, and what became of them."""

    def __init__(
        self, owner: DaskExecutor, name: str, tasks: Sequence[Any], attempts: Attempts, say: Callable[[str], None]
    ) -> None:
        self.owner, self.client, self.name, self.tasks, self.attempts, self.say = (
            owner,
            owner._client,
            name,
            tasks,
            attempts,
            say,
        )
        self.going: dict[str, tuple[int, Any]] = {}
        self.ended: SimpleQueue[str] = SimpleQueue()
        self.submitted = 0
        self.limit = 0
        self.looked = -REFRESH
        self.without = time.monotonic()

    def outcomes(self) -> Iterator[Outcome]:
        while not self.attempts.done:
            self._look()
            while len(self.going) < self.limit and (taken := self.attempts.take()) is not None:
                outcome = self._submit(*taken)
                if outcome is not None:
                    yield outcome
            if self.attempts.done:
                return
            yield from self._settle(self._wait())

    def _look(self) -> None:
        """See which workers there are, now and then."""
        now = time.monotonic()
        if now - self.looked < REFRESH:
            return
        threads = sum(self.owner._ask(self.client.nthreads).values())
        self.looked, self.limit = now, max(1, AHEAD * threads)
        if threads:
            self.without = now
        elif now - self.without > 10:
            self.say(f"no worker is connected to {self.owner.where}; waiting until one joins")
            self.without = now + 3600

    def _submit(self, index: int, attempt: int) -> Outcome | None:
        try:
            task = packed(self.tasks[index])
        except Exception as error:
            return self.attempts.settle(index, failed(error))
        self.submitted += 1
        key = f"{self.name}-{self.submitted}"
        future = self.owner._ask(
            lambda: self.client.submit(run_remote, self.name, task, attempt, VERSIONS, key=key, pure=False, retries=0)
        )
        self.going[key] = (index, future)
        future.add_done_callback(lambda ended: self.ended.put(ended.key))
        return None

    def _wait(self) -> list[str]:
        """Return the keys of futures that ended, after a while at the latest."""
        pause = self.attempts.wait()
        found: list[str] = []
        with suppress(Empty):
            found.append(self.ended.get(timeout=0.5 if pause is None else min(0.5, pause)))
            while True:
                found.append(self.ended.get_nowait())
        if not self.owner._alive():
            raise self.owner.lost()
        return [key for key in found if key in self.going]

    def _settle(self, keys: Sequence[str]) -> Iterator[Outcome]:
        fine = [key for key in keys if self.going[key][1].status == "finished"]
        values = dict(zip(fine, self._gather([self.going[key][1] for key in fine]), strict=True))
        for key in keys:
            index, future = self.going.pop(key)
            if key in values:
                outcome = self.attempts.settle(index, _answer(values[key]))
            elif future.status == "error":
                outcome = self._error(index, future.exception())
            else:
                if not self.owner._alive():
                    raise self.owner.lost()
                outcome = self.attempts.lost(index, "the cluster cancelled it")
            if outcome is not None:
                yield outcome

    def _gather(self, futures: Sequence[Any]) -> list[bytes]:
        from distributed import CancelledError

        if not futures:
            return []
        try:
            return list(self.owner._ask(lambda: self.client.gather(list(futures))))
        except CancelledError as error:
            raise self.owner.lost() from error

    def _error(self, index: int, error: BaseException) -> Outcome | None:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            # A scheduler that we did not start has begun the task again by itself before it gave up.
            where = str(error.last_worker.address)
            return self.attempts.lost(
                index, f"the worker that ran it ({where}) died", where, error.allowed_failures + 1
            )
        return self.attempts.settle(index, failed(error))

    def cancel(self) -> None:
        """Take back what has not begun; what runs is finished by its worker, and stored."""
        if self.going and self.owner._alive():
            with suppress(Exception):
                self.client.cancel([future for _, future in self.going.values()], force=True)
        self.going.clear()


def _answer(said: bytes) -> Answer:
    import pickle

    try:
        return pickle.loads(said)
    except Exception as error:
        return failed(error)

"""The record of one call of the program: who may ask years later what was run finds it here."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from panmodal.evaluation.provenance import environment, environment_digest, git_state, now, peak_memory
from panmodal.evaluation.store import Store


class Invocation:
    """Command, config, environment, machine, begin and end of one call, kept in ``invocations/`` of a results folder.

    Written when the work begins and again when it ends, so that a call that was killed can be told (``state: running``).
    """

    def __init__(self, store: Store, about: dict[str, Any]) -> None:
        self.store = store
        self.started = time.perf_counter()
        began = now()
        # Clocks of two machines may agree, and so may their process numbers; and one process may call twice within a second.
        self.name = f"{began.replace(':', '')}-{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.record: dict[str, Any] = {
            **about,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "folder_git": git_state(Path.cwd()),
            "environment": environment_digest(),
            "host": platform.node(),
            "started": began,
            "state": "running",
        }
        store.write_environment(environment_digest(), environment())
        self._write()

    def note(self, **facts: Any) -> None:
        """Add what came of it."""
        self.record |= facts

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write how the work ended: ``finished``, ``interrupted`` or ``failed`` with the error."""
        try:
            yield
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        except BaseException as error:
            self._end("failed", error=f"{type(error).__name__}: {error}")
            raise
        self._end("finished")

    def _end(self, state: str, **facts: Any) -> None:
        times = os.times()
        self.note(state=state, ended=now(), seconds=round(time.perf_counter() - self.started, 3),
                  cpu_seconds=round(times.user + times.system + times.children_user + times.children_system, 3),
                  peak_memory_mb=peak_memory(), **facts)  # fmt: skip
        self._write()

    def _write(self) -> None:
        self.store.write_invocation(self.name, self.record)

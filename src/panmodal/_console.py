"""What the command line prints with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
"""Called with (done, to do)."""


def console_for(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    # Into a file or a pipe there is no width to fit; tables must not be cut to 80 columns.
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def trial_progress(what: str = "trials") -> Iterator[Progress]:
    """Show a progress bar over trials (or ``what``) with the time left, where there is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    console = console_for(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            # With nothing to do the bar is full at once.
            bar.update(task, completed=done if total else 1, total=total or 1)

        yield report

"""Threads of the linear algebra libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_known: tuple[int, Any] = (-1, None)


@contextmanager
def math_threads(limit: int) -> Iterator[None]:
    """Let the linear algebra libraries of this process use so many threads.

    Finding the libraries takes milliseconds, as much as a small trial; they are looked for again only after something was imported.
    """
    import scipy.linalg  # noqa: F401 - brings a library of its own, which must be there to be limited
    from threadpoolctl import ThreadpoolController

    global _known
    modules = len(sys.modules)
    if _known[0] != modules:
        _known = (modules, ThreadpoolController())
    with _known[1].limit(limits=max(1, limit)):
        yield


def limit_threads(function: Callable[P, R]) -> Callable[P, R]:
    """Let linear algebra in a function use as many threads as its keyword ``threads`` says, or one.

    Many small matrices take ten times as long with a thread for every core, and sums in another order have other last bits on
    another machine.
    """

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        threads = kwargs.get("threads", 1)
        with math_threads(threads if isinstance(threads, int) else 1):
            return function(*args, **kwargs)

    return limited

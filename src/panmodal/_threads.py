"""Threads of the linear algebra libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def limit_threads(function: Callable[P, R]) -> Callable[P, R]:
    """Let linear algebra in a function use as many threads as its keyword ``threads`` says, or one.

    Many small matrices take ten times as long with a thread for every core, and sums in another order have other last bits on
    another machine.
    """

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        from threadpoolctl import threadpool_limits

        threads = kwargs.get("threads", 1)
        with threadpool_limits(limits=threads if isinstance(threads, int) and threads > 0 else 1):
            return function(*args, **kwargs)

    return limited

"""Errors that a user may meet: each says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class PanmodalError(Exception):
    """Base of every error that panmodal raises on purpose."""


class InputError(PanmodalError, ValueError):
    """A file, table or option given by the user cannot be used as it is."""


class LeakError(InputError):
    """A test perturbation, or a part of one, is also on the training side of a split."""


class StoreError(PanmodalError, RuntimeError):
    """A results folder cannot be used, or does not hold what was asked of it."""


def some(items: Iterable[object], limit: int = 5) -> str:
    """Name the first few of ``items`` and how many there are in all, for a message."""
    listed = list(items)
    head = ", ".join(repr(str(item)) for item in listed[:limit])
    return head if len(listed) <= limit else f"{head}, ... ({len(listed)} in all)"

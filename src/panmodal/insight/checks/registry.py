"""Finding checks: every module of this folder that has a ``CHECKS``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from panmodal.errors import InputError
from panmodal.insight.checks.record import Check

RECORDS = "CHECKS"
"""Name of the sequence of records in a module of this folder."""


@cache
def checks() -> dict[str, Check]:
    """Return all checks by code, in order.

    Raises
    ------
    InputError
        Two checks share a code, a name or an option.
    """
    import panmodal.insight.checks as package

    records: list[Check] = []
    for module in pkgutil.iter_modules(package.__path__):
        records += getattr(importlib.import_module(f"{package.__name__}.{module.name}"), RECORDS, ())
    return collect(records)


def collect(records: Iterable[Check]) -> dict[str, Check]:
    """Return records by code, in order; refuse codes, names and options that occur twice."""
    found: dict[str, Check] = {}
    owner: dict[str, str] = {}
    for record in sorted(records, key=lambda c: c.code):
        for word in (record.code, record.name, *record.options):
            if word in owner:
                raise InputError(
                    f"two checks have {word!r}: {owner[word]} and {record.code} ({record.name}). Rename one."
                )
            owner[word] = f"{record.code} ({record.name})"
        found[record.code] = record
    return found


def get_check(name: str) -> Check:
    """Return a check by code (any case) or name."""
    known = {word: c for c in checks().values() for word in (c.code, c.name)}
    if name in known or name.upper() in known:
        return known.get(name) or known[name.upper()]
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"no check {name!r}. {hint}There are {', '.join(f'{c.code} ({c.name})' for c in checks().values())}."
    )


def settings(given: dict[str, float] | None = None) -> dict[str, float]:
    """Return the thresholds of all checks: the defaults, and those given in their place.

    Raises
    ------
    InputError
        No check has such an option, or its value is no number.
    """
    known = {name: option.default for check in checks().values() for name, option in check.options.items()}
    for name, value in (given or {}).items():
        if name not in known:
            raise InputError(f"no option {name!r} of a check; there are {', '.join(known)}.")
        try:
            known[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"option {name!r} of a check is {value!r}; it must be a number.") from None
    return known

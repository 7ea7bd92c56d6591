"""Finding builders: every module of this folder, and every package that declares the entry point."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from panmodal.embeddings.builders.base import Builder
from panmodal.errors import InputError

ENTRY_POINT = "panmodal.builders"
"""Entry-point group under which other packages name a Builder, or a sequence of them."""

RECORDS = "BUILDERS"
"""Name of the sequence of records in a module of this folder."""


@cache
def builders() -> dict[str, Builder]:
    """Return all builders by name, in the order of modality and name.

    Raises
    ------
    InputError
        Two builders have the same name, or an entry point names something else.
    """
    import panmodal.embeddings.builders as package

    found: dict[str, tuple[Builder, str]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        path = f"{package.__name__}.{module.name}"
        for record in getattr(importlib.import_module(path), RECORDS, ()):
            _add(found, record, path)
    for point in entry_points(group=ENTRY_POINT):
        named = point.load()
        for record in [named] if isinstance(named, Builder) else named:
            _add(found, record, f"entry point {point.value}")
    ordered = sorted((record for record, _ in found.values()), key=lambda b: (b.modality.lower(), b.name))
    return {record.name: record for record in ordered}


def _add(found: dict[str, tuple[Builder, str]], record: object, where: str) -> None:
    if not isinstance(record, Builder):
        raise InputError(f"{where}: {record!r} is no panmodal.embeddings.builders.Builder.")
    if record.name in found:
        raise InputError(f"two builders are named {record.name!r}: {found[record.name][1]} and {where}. Rename one.")
    found[record.name] = (record, where)


def get_builder(name: str) -> Builder:
    """Return a builder by name."""
    known = builders()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"no builder {name!r}. {hint}There are {', '.join(known)}.")
    return known[name]

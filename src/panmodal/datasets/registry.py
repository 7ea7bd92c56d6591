"""All data sets by name: those of the package, and those of the folders that a variable names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from panmodal._files import read_yaml
from panmodal.datasets.record import KINDS, Dataset, make_dataset
from panmodal.errors import InputError

FOLDERS = "PANMODAL_DATASETS"
"""Variable with further folders (or files) of records, separated as in PATH."""


def shipped_records() -> Path:
    """Return the folder of the records that come with the package."""
    return Path(str(files("panmodal.datasets").joinpath("records")))


def own_records() -> list[Path]:
    """Return the folders (or files) named by the variable ``PANMODAL_DATASETS``."""
    return [Path(part).expanduser() for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part.strip()]


def read_record(path: Path) -> Dataset:
    """Read one record (YAML)."""
    return make_dataset(read_yaml(path, "fields of a data set (name, title, kind, files, ...)"), str(path))


def datasets() -> dict[str, Dataset]:
    """Return all data sets by name, sorted.

    Raises
    ------
    InputError
        A record is not valid, two have the same name, or a folder named by ``PANMODAL_DATASETS`` is not there.
    """
    found: list[tuple[Path, Dataset]] = [(path, record) for path, record in _shipped()]
    for place in own_records():
        if not place.exists():
            raise InputError(f"{place}: no such folder or file; the variable {FOLDERS} names it.")
        found += [(path, read_record(path)) for path in _yaml(place)]
    return _by_name(found)


@lru_cache(maxsize=1)
def _shipped() -> tuple[tuple[Path, Dataset], ...]:
    return tuple((path, read_record(path)) for path in _yaml(shipped_records()))


def _yaml(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(p for p in place.iterdir() if p.suffix in (".yaml", ".yml"))


def _by_name(found: Iterable[tuple[Path, Dataset]]) -> dict[str, Dataset]:
    records: dict[str, Dataset] = {}
    where: dict[str, Path] = {}
    for path, record in found:
        if record.name in records:
            raise InputError(f"{path}: a data set {record.name!r} is also in {where[record.name]}. Rename one of them.")
        records[record.name], where[record.name] = record, path
    return dict(sorted(records.items(), key=lambda item: (KINDS.index(item[1].kind), item[0])))


def dataset(name: str) -> Dataset:
    """Return a data set by name.

    Raises
    ------
    InputError
        There is none of that name; close ones are named.
    """
    records = datasets()
    if name in records:
        return records[name]
    near = get_close_matches(name, records, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" There are {', '.join(records)}."
    raise InputError(f"no data set {name!r}.{hint} `panmodal data list` shows all.")

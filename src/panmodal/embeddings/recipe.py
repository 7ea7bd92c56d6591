"""The recipe of an embedding: all that is needed to make it again, kept in its card."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from panmodal._tables import require_exists
from panmodal.errors import InputError

SHIPPED = "panmodal:"
"""Prefix of a table that the package ships: ``panmodal:go_bp_gene_terms.parquet``."""

PACKAGES = ("panmodal", "numpy", "scipy", "scikit-learn", "pandas")
"""Packages whose versions every recipe names; those of the builder's extra come on top."""


class Source(BaseModel):
    """A file, or a folder of files, that a builder read.

    ``path`` is as the user gave it; ``sha256`` is of the bytes (of a folder: of the names and digests of its files).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    option: str
    path: str
    sha256: str
    bytes: int


class Recipe(BaseModel):
    """How an embedding was made.

    Attributes
    ----------
    builder, rule
        Name of the builder and the version of its rule.
    options
        All options, those left at their defaults too; files are in ``sources``.
    sources
        Files read, with digests.
    models
        Model -> digest of its weights, or its revision.
    selected, match
        Whether the vectors are those of given ids (which are then the ids of the embedding), and how they were matched.
    packages
        Versions of the packages that did the work.
    result
        Digest of the ids and vectors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    builder: str
    rule: int
    options: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    models: dict[str, str] = Field(default_factory=dict)
    selected: bool = False
    match: str = "auto"
    packages: dict[str, str] = Field(default_factory=dict)
    result: str = ""

    def __str__(self) -> str:
        told = [f"{name}={value}" for name, value in self.options.items() if value is not None]
        told += [f"{s.option}={s.path} (sha256 {s.sha256[:12]})" for s in self.sources]
        return f"panmodal embed {self.builder}, rule {self.rule}: {', '.join(told) or 'no options'}"


def packages(extra: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the versions of Python and of the packages that a recipe names."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *extra):
        module = sys.modules.get(name)
        try:
            found[name] = version(name.replace("_", "-"))
        except PackageNotFoundError:
            found[name] = str(getattr(module, "__version__", "unknown"))
    return found


def locate(text: str) -> tuple[Path, str]:
    """Return the file or folder that ``text`` names, and the ``#KEY`` behind it if it has one.

    ``panmodal:TABLE`` is a table that the package ships; ``data:NAME/FILE`` is a file of a named data set that has been
    fetched.

    Raises
    ------
    InputError
        There is no such file.
    """
    if text.startswith(SHIPPED):
        name = text.removeprefix(SHIPPED)
        path = Path(str(files("panmodal.data").joinpath(name)))
        if not path.is_file():
            tables = sorted(p.name for p in path.parent.glob("*.parquet"))
            raise InputError(f"{text}: the package ships no such table; it has {', '.join(tables)}.")
        return path, ""
    if Path(text).exists():
        return Path(text), ""
    plain, hash_, key = text.partition("#")
    if plain.startswith("data:"):
        from panmodal.datasets import cached_file

        return cached_file(plain.removeprefix("data:")), hash_ + key
    return require_exists(plain), hash_ + key


def digest_of(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size in bytes of a file, or of all files in a folder by their names."""
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        state, total = hashlib.sha256(), 0
        for file in inside:
            digest, size = digest_of(file)
            state.update(f"{file.relative_to(path).as_posix()}\0{digest}\n".encode())
            total += size
        return state.hexdigest(), total
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error

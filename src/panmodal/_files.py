"""Small files: written so that a reader sees all of a file or nothing, and read with errors that name them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from panmodal.errors import InputError, StoreError

PARTIAL = ".partial-"
"""Prefix of a file that is still being written; such files are never read."""


@contextlib.contextmanager
def atomic_path(target: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces it when the block ends well.

    A killed process leaves the old file or the new one. With ``durable`` the data is flushed to the disk before the rename,
    so that a power cut does too; without it, the reader must be able to tell a damaged file. On any error the temporary file
    is removed. A full disk is reported as a :class:`~panmodal.errors.StoreError`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise StoreError(f"{target.parent}: cannot write there ({error.strerror or error}).") from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        if durable:
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
        # mkstemp makes files private; a results folder is shared with the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"{target}: could not be written ({error.strerror or error}). Nothing of it was kept; free some space "
            "or choose another folder, and run the same command again: what is finished is not computed twice."
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_yaml(path: Path, fields: str) -> dict[str, Any]:
    """Read a YAML mapping; ``fields`` says in a message what it should be a mapping of.

    Raises
    ------
    InputError
        Not readable, not YAML, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error}).") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: must be a mapping of {fields}.")
    return loaded


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` to ``target`` in UTF-8, atomically."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")

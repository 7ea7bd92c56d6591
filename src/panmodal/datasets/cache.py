"""The cache: a folder for each data set, and an index with the digest that every file had when it was first seen."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from panmodal._files import write_text
from panmodal.datasets.record import DataFile, Dataset
from panmodal.errors import StoreError

VARIABLE = "PANMODAL_CACHE"
"""Variable that moves the cache."""
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What is remembered of a file.

    Attributes
    ----------
    url
        Where it came from; empty if somebody put it there.
    sha256, size
        Digest and number of bytes when it was first seen.
    date
        When that was (UTC).
    mtime_ns
        Time of its last change then: an unchanged file is not hashed again at every use.
    accepted
        The user accepted this digest although another one was known.
    """

    url: str
    sha256: str
    size: int
    date: str
    mtime_ns: int = 0
    accepted: bool = False


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache: ``folder``, else the variable ``PANMODAL_CACHE``, else the usual place of the system."""
    given = folder or os.environ.get(VARIABLE, "").strip()
    if given:
        return Path(given).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("panmodal"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on ``path`` (a file of its own) so that one process at a time goes on; nothing where locks are not known."""
    try:
        import fcntl
    except ImportError:  # Windows: the atomic replacement of files still keeps each of them whole
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise StoreError(
            f"{path.parent}: cannot be written to ({error.strerror or error}). Name another folder with {VARIABLE}."
        ) from error
    with stream:
        # Some network file systems know no locks; go on without one there.
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Cache:
    """The files of data sets on this machine.

    Parameters
    ----------
    folder
        See :func:`cache_folder`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = cache_folder(folder)

    @property
    def index_path(self) -> Path:
        """The index: a JSON file."""
        return self.folder / "index.json"

    def path(self, data: Dataset, file: DataFile) -> Path:
        """Where a file lies, or will."""
        return self.folder / data.name / file.path

    def entries(self) -> dict[str, Entry]:
        """Read the index.

        Raises
        ------
        StoreError
            It is damaged, or written by a later version.
        """
        try:
            loaded: Any = json.loads(self.index_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.index_path}: the index of the cache cannot be read ({error}). Remove it, and `panmodal data verify NAME` "
                "records the digests of the files that are there; they are then no longer compared with the first download."
            ) from error
        if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
            raise StoreError(
                f"{self.index_path}: not an index of format {FORMAT}; it belongs to another version of panmodal."
            )
        try:
            return {key: Entry(**fields) for key, fields in loaded["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.index_path}: the index of the cache is damaged ({error}).") from error

    def entry(self, data: Dataset, file: DataFile) -> Entry | None:
        """Return what is remembered of a file."""
        return self.entries().get(f"{data.name}/{file.path}")

    def remember(self, data: Dataset, file: DataFile, *, sha256: str, url: str, accepted: bool = False,
                 keep_date: str | None = None) -> Entry:  # fmt: skip
        """Write a file that lies in its place into the index."""
        status = self.path(data, file).stat()
        entry = Entry(
            url,
            sha256,
            status.st_size,
            keep_date or datetime.now(UTC).isoformat(timespec="seconds"),
            status.st_mtime_ns,
            accepted,
        )
        with locked(self.folder / ".index.lock"):
            entries = self.entries()
            entries[f"{data.name}/{file.path}"] = entry
            text = json.dumps(
                {"format": FORMAT, "files": {k: asdict(v) for k, v in sorted(entries.items())}},
                indent=1,
                ensure_ascii=False,
            )
            write_text(self.index_path, text + "\n")
        return entry

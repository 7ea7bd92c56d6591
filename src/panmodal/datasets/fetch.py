"""Having the files of a data set: from the cache if they are there, else downloaded, and always the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from panmodal.datasets.cache import VARIABLE, Cache, Entry, locked
from panmodal.datasets.download import FetchError, Refused, Unreachable, discard, download, part_path
from panmodal.datasets.record import DataFile, Dataset
from panmodal.datasets.registry import dataset
from panmodal.errors import InputError, StoreError, some

__all__ = ["FetchError", "Status", "address", "cached_paths", "fetch", "verify"]

MIRROR = "PANMODAL_MIRROR"
"""Variable: address that takes the place of the scheme and host of every address."""
HUB = "https://huggingface.co"
HUB_MIRROR = "HF_ENDPOINT"
HUB_TOKEN = "HF_TOKEN"
FileProgress = Callable[[DataFile, int, int | None], None]
"""Called with (file, bytes done, bytes in all or None)."""


def address(data: Dataset, file: DataFile, base_url: str | None = None) -> str:
    """Return the address of a file as it is requested.

    ``base_url``, else the variable ``PANMODAL_MIRROR``, takes the place of scheme and host (the path stays); ``HF_ENDPOINT`` that of
    https://huggingface.co.
    """
    url = data.address(file)
    mirror = base_url or os.environ.get(MIRROR, "").strip()
    if mirror:
        parts = urlsplit(url)
        return mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")
    hub = os.environ.get(HUB_MIRROR, "").strip()
    return hub.rstrip("/") + url[len(HUB) :] if hub and url.startswith(HUB + "/") else url


def _headers(data: Dataset, file: DataFile, url: str) -> dict[str, str]:
    """Return the token of the Hugging Face hub, for that hub (or the mirror of it that the user names) only."""
    token = os.environ.get(HUB_TOKEN, "").strip()
    homes = {urlsplit(HUB).netloc, urlsplit(os.environ.get(HUB_MIRROR, "")).netloc} - {""}
    wanted = data.address(file).startswith(HUB + "/") and urlsplit(url).netloc in homes
    return {"Authorization": f"Bearer {token}"} if token and wanted else {}


def fetch(
    name: str | Dataset,
    *,
    files: Sequence[str] | None = None,
    cache: str | Path | None = None,
    progress: FileProgress | None = None,
    retries: int = 3,
    base_url: str | None = None,
    force: bool = False,
    accept_new_digest: bool = False,
) -> list[Path]:
    """Return the files of a data set, downloaded if they are not in the cache.

    A file whose digest is known, from its record or from its first download, is refused if it has another one. What is in the cache
    needs no network.

    Parameters
    ----------
    name
        Name of the data set (``panmodal data list``), or a record.
    files
        Only these (path, file name, or short name of an embedding); all unless given.
    cache
        Folder; see :func:`panmodal.datasets.cache.cache_folder`.
    progress
        Called with (file, bytes done, bytes in all or None).
    retries
        Tries after a failure without progress.
    base_url
        Takes the place of scheme and host in every address.
    force
        Download again what is in the cache.
    accept_new_digest
        Download again and take what comes, whatever digest was known.

    Raises
    ------
    InputError
        No such data set or file of it.
    FetchError
        Not reachable, not there, or not the file that it should be; the message says how to get it by hand.
    StoreError
        No space, or the cache cannot be written to.
    """
    data = name if isinstance(name, Dataset) else dataset(name)
    wanted = list(data.files) if files is None else list(dict.fromkeys(data.file(f) for f in files))
    store = Cache(cache)
    return [_have(store, data, f, progress, retries, base_url, force, accept_new_digest) for f in wanted]


def cached_paths(name: str | Dataset, *, cache: str | Path | None = None) -> list[Path]:
    """Return the files of a data set that are in the cache; nothing is downloaded or checked."""
    data = name if isinstance(name, Dataset) else dataset(name)
    store = Cache(cache)
    return [p for p in (store.path(data, f) for f in data.files) if p.is_file()]


def cached_file(text: str, *, cache: str | Path | None = None) -> Path:
    """Return a file of a data set that lies in the cache; nothing is downloaded.

    Parameters
    ----------
    text
        ``NAME`` of a data set of one file, or ``NAME/FILE``.

    Raises
    ------
    InputError
        No such data set or file, or it has not been fetched.
    """
    name, _, part = text.partition("/")
    data = dataset(name)
    if not part and len(data.files) > 1:
        raise InputError(
            f"data set {name!r} has {len(data.files)} files; say which: {some([f.path for f in data.files], 6)}."
        )
    file = data.file(part) if part else data.files[0]
    path = Cache(cache).path(data, file)
    if not path.is_file():
        raise InputError(f"{file.path} of data set {name!r} is not on this machine yet: panmodal data fetch {name}.")
    return path


def _have(store: Cache, data: Dataset, file: DataFile, progress: FileProgress | None, retries: int, base_url: str | None,
          force: bool, accept: bool) -> Path:  # fmt: skip
    target = store.path(data, file)
    if target.is_file() and not force and not accept:
        return _check(store, data, file)
    with locked(target.with_name(f".{target.name}.lock")):
        # Another process may have brought it while this one waited.
        if target.is_file() and not force and not accept:
            return _check(store, data, file)
        _bring(store, data, file, progress, retries, base_url, force or accept, accept)
    return target


def _check(store: Cache, data: Dataset, file: DataFile) -> Path:
    """Check a file in the cache against what is known of it; one never seen before is recorded."""
    target = store.path(data, file)
    status, entry = target.stat(), store.entry(data, file)
    unchanged = entry is not None and (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)
    if unchanged and entry is not None and _agrees(file, entry.sha256, None, entry):
        return target
    sha256 = _digest(target, "sha256")
    md5 = _digest(target, "md5") if file.md5 and not file.sha256 else None
    if not _agrees(file, sha256, md5, entry) or (entry is not None and entry.sha256 != sha256):
        raise FetchError(
            f"{target}: is not the file that it should be: its SHA-256 is {sha256}, but {_known(file, entry)}. Download it again with "
            f"`panmodal data fetch {data.name} --file {_quoted(file.path)} --force`; if the change is meant, `--accept-new-digest` "
            "downloads it and takes what comes."
        )
    _record(store, data, file, sha256, entry)
    return target


def _record(store: Cache, data: Dataset, file: DataFile, sha256: str, entry: Entry | None) -> None:
    """Remember a file found in its place; a cache that may not be written to is used as it is."""
    try:
        store.remember(data, file, sha256=sha256, url=entry.url if entry else "", accepted=bool(entry and entry.accepted),
                       keep_date=entry.date if entry else None)  # fmt: skip
    except StoreError:
        if os.access(store.folder, os.W_OK):
            raise


def _bring(store: Cache, data: Dataset, file: DataFile, progress: FileProgress | None, retries: int, base_url: str | None,
           again: bool, accept: bool) -> None:  # fmt: skip
    """Download a file, check it, and only then give it its name."""
    target, url = store.path(data, file), address(data, file, base_url)
    part = part_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if again:
            discard(part)
    except OSError as error:
        raise StoreError(
            f"{target.parent}: cannot be written to ({error.strerror or error}). Name another folder with the variable {VARIABLE}."
        ) from error
    report = (lambda done, total: progress(file, done, total)) if progress else None
    try:
        got = download(
            url,
            part,
            size=None if accept else file.size,
            headers=_headers(data, file, url),
            report=report,
            retries=retries,
        )
    except Refused as error:
        raise FetchError(_refusal(error, data, file, target)) from error
    except Unreachable as error:
        kept = " What came is kept, and the same command goes on from there." if part.is_file() else ""
        raise FetchError(f"{error}{kept} {by_hand(data, file, target)}") from error
    sha256, entry = _digest(part, "sha256"), store.entry(data, file)
    if got.sha256 is not None and got.sha256 != sha256:
        discard(part)
        raise FetchError(
            f"{url}: was damaged on its way: its SHA-256 is {sha256}, but the server says {got.sha256}. Nothing was kept; run the "
            "same command again."
        )
    md5 = _digest(part, "md5") if file.md5 and not file.sha256 else None
    known = _agrees(file, sha256, md5, None) and (entry is None or entry.sha256 == sha256)
    if not known and not accept:
        discard(part)
        raise FetchError(
            f"{url}: is not the file that it should be: its SHA-256 is {sha256}, but {_known(file, entry)}. Nothing was kept. If it "
            f"was damaged on its way, run the command again with --force. If its publisher changed it (see {data.url}), results "
            "made with it cannot be compared with earlier ones; `--accept-new-digest` takes it all the same."
        )
    part.replace(target)
    discard(part)
    store.remember(data, file, sha256=sha256, url=url, accepted=not known)


def _agrees(file: DataFile, sha256: str, md5: str | None, entry: Entry | None) -> bool:
    """Whether digests fit those of the record; a digest that the user accepted stands above the record's."""
    if entry is not None and entry.accepted and entry.sha256 == sha256:
        return True
    if file.sha256 is not None:
        return file.sha256 == sha256
    return file.md5 is None or md5 is None or file.md5 == md5


def _known(file: DataFile, entry: Entry | None) -> str:
    said = (
        [f"its record says {file.sha256}"] if file.sha256 else [f"its record says MD5 {file.md5}"] if file.md5 else []
    )
    if entry is not None:
        said.append(f"the file first seen on {entry.date} had {entry.sha256}")
    return " and ".join(said) or "nothing is known of it"


def _refusal(error: Refused, data: Dataset, file: DataFile, target: Path) -> str:
    if error.status in (401, 403):
        hub = data.address(file).startswith(HUB + "/")
        what = (
            f"If the data set asks for consent, give it at {data.url}, make a token at {HUB}/settings/tokens, set it as {HUB_TOKEN}."
            if hub
            else f"It may want a login or refuse programs; look at {data.url}."
        )
        return f"{error} {what} {by_hand(data, file, target)}"
    if error.status in (404, 410):
        return (
            f"{error} It was moved or removed; look for it at {data.url}. Found under another address, it can still be used. "
            f"{by_hand(data, file, target)}"
        )
    return f"{error} Look at {data.url}. {by_hand(data, file, target)}"


def by_hand(data: Dataset, file: DataFile, target: Path) -> str:
    """Say how to get a file without this program."""
    more = f" {data.manual.strip()}" if data.manual else ""
    return (
        f"By hand: open {data.address(file)} in a browser, on another computer if need be (see {data.url}); put it at {target} ; "
        f"then run `panmodal data verify {data.name}`.{more}"
    )


def _digest(path: Path, algorithm: str) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg=algorithm))


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


@dataclass(frozen=True)
class Status:
    """What :func:`verify` found of a file.

    Attributes
    ----------
    file, path
        The file and where it lies.
    state
        ``ok``, ``recorded`` (seen for the first time, digest remembered), ``changed`` or ``missing``.
    sha256
        Its digest; None if it is missing.
    known
        What was known of it, in words.
    """

    file: DataFile
    path: Path
    state: str
    sha256: str | None
    known: str


def verify(name: str | Dataset, *, files: Sequence[str] | None = None, cache: str | Path | None = None) -> list[Status]:
    """Compute the digests of the files of a data set that are in the cache again, and compare them with what is known.

    Files that somebody put into the cache are recorded.

    Raises
    ------
    InputError
        No such data set, or no file of it is there.
    """
    data = name if isinstance(name, Dataset) else dataset(name)
    store = Cache(cache)
    wanted = list(data.files) if files is None else [data.file(f) for f in files]
    out = []
    for file in wanted:
        path, entry = store.path(data, file), store.entry(data, file)
        if not path.is_file():
            out.append(Status(file, path, "missing", None, _known(file, entry)))
            continue
        sha256 = _digest(path, "sha256")
        md5 = _digest(path, "md5") if file.md5 and not file.sha256 else None
        same = _agrees(file, sha256, md5, entry) and (entry is None or entry.sha256 == sha256)
        if same:
            _record(store, data, file, sha256, entry)
        stated = file.sha256 is not None or md5 is not None
        state = "changed" if not same else "ok" if entry is not None or stated else "recorded"
        out.append(Status(file, path, state, sha256, _known(file, entry)))
    if all(s.state == "missing" for s in out):
        first = out[0]
        raise InputError(
            f"data set {data.name!r}: none of its files is in {store.folder / data.name}. Fetch it with `panmodal data fetch "
            f"{data.name}`. {by_hand(data, first.file, first.path)}"
        )
    return out

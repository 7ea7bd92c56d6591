"""Downloading one file over HTTP: resumed where it was cut, tried again, and complete or refused."""

from __future__ import annotations

import email.utils
import errno
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from panmodal._files import write_text
from panmodal._version import __version__
from panmodal.datasets.cache import VARIABLE
from panmodal.errors import StoreError

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 17
"""Bytes read at a time; those of an unfinished read are lost in a cut."""
TIMEOUT = (20.0, 60.0)
"""Seconds to connect, and between two bytes."""
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may well succeed."""
LONGEST_WAIT = 60.0
"""Seconds waited at most before another try, whatever the server asks for."""

Report = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all, if known)."""


class FetchError(StoreError):
    """A file of a data set cannot be had, or is not the file that it should be."""


class Unreachable(FetchError):
    """No answer from the network, or none that is of use, after all tries."""


class Refused(FetchError):
    """The server answers, but does not give the file; ``status`` is its answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Cut(Exception):
    """The transfer broke off or must be started again; ``wait`` is what the server asks for (seconds)."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Received:
    """What a finished download is.

    Attributes
    ----------
    size
        Bytes.
    sha256
        Digest that the server itself states (Hugging Face does), else None.
    """

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class _State:
    """What an unfinished file is a part of: without a validator the rest cannot be asked for safely."""

    url: str
    validator: str
    size: int | None


def part_path(target: Path) -> Path:
    """Return the name of the unfinished file beside ``target``."""
    return target.with_name(target.name + ".part")


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Remove an unfinished file and what was known of it."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    headers: dict[str, str] | None = None,
    report: Report | None = None,
    retries: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> Received:
    """Download ``url`` into ``part``, going on where an earlier call was cut.

    The rest of a file is asked for with ``Range`` and ``If-Range``, so that a file that changed meanwhile is sent anew from its
    beginning. A server that knows no ranges sends all of it, and a part is only gone on with if its server gave an ETag or a date.

    Parameters
    ----------
    url
        http(s) address.
    part
        File to write; what it is a part of stands in a ``.json`` beside it.
    size
        Exact number of bytes, if known.
    headers
        Sent with the request (a token), not to hosts that it is redirected to.
    report
        Called with (bytes done, bytes in all or None).
    retries
        Tries after a failure without progress; a try that brought some bytes starts the count again.
    sleep
        Waits; replaced by tests.

    Raises
    ------
    Unreachable
        No connection, or it broke off too often; the part stays.
    Refused
        The server does not give the file (404, 401, ...).
    FetchError
        The file has another size than it should.
    StoreError
        No space left, or the folder cannot be written to; the part stays.
    """
    import requests

    failures, best = 0, _size(part)
    with requests.Session() as session:
        session.headers.update({"User-Agent": f"panmodal/{__version__}", "Accept-Encoding": "identity"})
        while True:
            try:
                return _attempt(session, url, part, size, headers or {}, report)
            except (_Cut, requests.exceptions.RequestException) as error:
                if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
                    raise FetchError(f"{url}: not an address that can be requested ({error}).") from error
                # Further than ever before, so that a server that always begins anew is not asked for ever.
                failures, best = (1, _size(part)) if _size(part) > best else (failures + 1, best)
                if failures > retries:
                    tries = "1 try" if failures == 1 else f"{failures} tries"
                    raise Unreachable(f"{url}: {_reason(error)} ({tries} without progress).") from error
                asked = error.wait if isinstance(error, _Cut) else None
                sleep(min(LONGEST_WAIT, asked if asked is not None else 2.0 ** (failures - 1)))


def _attempt(session: requests.Session, url: str, part: Path, size: int | None, headers: dict[str, str],
             report: Report | None) -> Received:  # fmt: skip
    """Make one request and write what it brings; ``_Cut`` says to try again."""
    state = _read_state(part)
    offset = _size(part) if state and state.url == url else 0
    sent = dict(headers)
    if offset and state:
        sent |= {"Range": f"bytes={offset}-", "If-Range": state.validator}
    with session.get(url, headers=sent, stream=True, timeout=TIMEOUT) as answer:
        status = answer.status_code
        if status == 416 and offset:
            total = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", "").strip())
            if total and int(total[1]) == offset and state and state.size in (None, offset):
                return _finished(offset, size, url, answer)
            discard(part)
            raise _Cut("the server does not know the rest of the file")
        if status in AGAIN:
            raise _Cut(f"the server answers {status} {answer.reason}", _retry_after(answer))
        if status not in (200, 206):
            raise Refused(f"the server answers {status} {answer.reason} for {url}.", status)
        if status == 206:
            start, total_size = _content_range(answer.headers.get("Content-Range", ""))
            etag = answer.headers.get("ETag", "")
            changed = state is not None and state.validator.startswith('"') and etag not in ("", state.validator)
            if start != offset or (offset and changed):
                discard(part)
                raise _Cut(
                    "the file changed meanwhile"
                    if changed
                    else f"the server sent bytes from {start}, not from {offset}"
                )
        else:
            offset, total_size = 0, _length(answer)
        if size is not None and total_size is not None and total_size != size:
            discard(part)
            raise FetchError(
                f"{url}: has {total_size} bytes, but {size} are expected. It is another file, or another version."
            )
        total_size = total_size if total_size is not None else size
        _require_space(part, None if total_size is None else total_size - offset, total_size)
        _write_state(part, url, answer, total_size)
        done = _receive(answer, part, offset, total_size, report)
        if total_size is not None and done != total_size:
            if done > total_size:
                discard(part)
            raise _Cut(f"{done} of {total_size} bytes came")
        return _finished(done, size, url, answer)


def _finished(done: int, size: int | None, url: str, answer: requests.Response) -> Received:
    if size is not None and done != size:
        raise FetchError(f"{url}: has {done} bytes, but {size} are expected. It is another file, or another version.")
    said = [a.headers.get("X-Linked-Etag", "").strip('"') for a in (*answer.history, answer)]
    return Received(done, next((s for s in said if re.fullmatch(r"[0-9a-f]{64}", s)), None))


def _receive(answer: requests.Response, part: Path, offset: int, total: int | None, report: Report | None) -> int:
    """Write the body at ``offset``; return the size of the part then."""
    done = offset
    if report:
        report(done, total)
    try:
        with part.open("r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            for block in _blocks(answer):
                stream.write(block)
                done += len(block)
                if report:
                    report(done, total)
    except OSError as error:
        # Failures of the network are OSErrors too in requests; those have no bare errno of the disk.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(part.parent, None if total is None else total - done) from error
        if type(error) in (PermissionError, IsADirectoryError, FileNotFoundError) or error.errno == errno.EROFS:
            raise StoreError(
                f"{part.parent}: cannot be written to ({error.strerror}). Name another folder with {VARIABLE}."
            ) from error
        raise
    return done


def _require_space(part: Path, needed: int | None, total: int | None) -> None:
    if needed is None:
        return
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise _no_space(part.parent, needed, free, total)


def _no_space(folder: Path, needed: int | None, free: int | None = None, total: int | None = None) -> StoreError:
    what = f"{in_bytes(needed)} are needed" if needed is not None else "more space is needed"
    if total is not None and total != needed:
        what += f" (the rest of {in_bytes(total)})"
    if free is not None:
        what += f", {in_bytes(free)} are free"
    return StoreError(
        f"{folder}: no space left: {what}. Free some space, or name a folder on another disk with the variable {VARIABLE}; then "
        "run the same command again, which goes on where it stopped (in the same folder)."
    )


def in_bytes(number: int) -> str:
    """Write a number of bytes for people: ``1.5 GB``."""
    size = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection (the certificate is not accepted)"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "no connection"
    return str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _length(answer: requests.Response) -> int | None:
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdigit() and not _unpacked(answer) else None


def _unpacked(answer: requests.Response) -> bool:
    """Whether the body is packed for the way only, and is unpacked on arrival; a file that is itself a ``.gz`` stays as it is."""
    coded = answer.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")
    return coded and not urlsplit(answer.request.url or "").path.lower().endswith(".gz")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Yield the body: unpacked if it was packed for the way, else the bytes as they are sent."""
    import urllib3

    if _unpacked(answer):
        yield from answer.iter_content(CHUNK)
        return
    try:
        yield from answer.raw.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.ReadTimeoutError as error:
        raise _Cut("no answer in time") from error
    except urllib3.exceptions.HTTPError as error:
        raise _Cut("the connection was cut") from error


def _content_range(text: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", text.strip())
    if not found:
        raise _Cut(f"the server sent a part of the file without saying which (Content-Range {text!r})")
    return int(found[1]), None if found[3] == "*" else int(found[3])


def _retry_after(answer: requests.Response) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    said = answer.headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    try:
        when = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _read_state(part: Path) -> _State | None:
    try:
        loaded: Any = json.loads(_state_path(part).read_text(encoding="utf-8"))
        return _State(str(loaded["url"]), str(loaded["validator"]), loaded["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_state(part: Path, url: str, answer: requests.Response, size: int | None) -> None:
    """Remember what the part belongs to; without a strong validator it cannot be gone on with."""
    etag = answer.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else ""
    validator = strong or answer.headers.get("Last-Modified", "")
    if validator and not _unpacked(answer):
        write_text(_state_path(part), json.dumps(asdict(_State(url, validator, size))))
    else:
        _state_path(part).unlink(missing_ok=True)

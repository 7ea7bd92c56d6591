"""Embeddings from a service that speaks like OpenAI's: POST {url}/embeddings. The key comes from the environment only."""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import json
import math
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError, some

OPENAI_HOST, OPENAI_KEY = "api.openai.com", "OPENAI_API_KEY"

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may be sent again."""

LONGEST_WAIT = 300.0
"""Seconds; a service that asks for more is reported instead."""

REQUEST_CHARACTERS = 200_000
"""Characters of the texts of one request: services limit their tokens too."""

sleep = time.sleep
clock = time.time


class Secret:
    """A key that is not shown by print, repr or a traceback with values."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key, for the header of a request only."""
        return self._value

    def hide(self, text: str) -> str:
        """Return ``text`` without the key."""
        return text.replace(self._value, "***") if self._value else text

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class Answer:
    """Vectors in the order of the texts, the name that the service gives to its model, and what was used."""

    vectors: NDArray[np.float32]
    model: str
    tokens: int
    requests: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, for which model, and how patiently. Made by :meth:`at`."""

    address: str
    host: str
    model: str
    dims: int | None
    batch: int
    retries: int
    timeout: float
    key: Secret = field(repr=False)

    @classmethod
    def at(
        cls,
        url: str,
        model: str,
        *,
        key_env: str | None = None,
        dims: int | None = None,
        batch: int = 64,
        retries: int = 5,
        timeout: float = 60.0,
    ) -> Endpoint:
        """Check the settings and read the key.

        Parameters
        ----------
        url
            ``https://HOST/v1``, ``https://HOST`` (``/v1`` is added), or the whole address up to ``/embeddings``.
        model
            Name of the model at the service.
        key_env
            Environment variable that holds the key. Unless given, ``OPENAI_API_KEY`` for api.openai.com and no key for any other
            host: a key is never sent to a place that it was not meant for.
        dims
            Asks for vectors of this length.
        batch, retries, timeout
            Texts of a request at most; repetitions; seconds.

        Raises
        ------
        InputError
            Not an http(s) address, an address with a password or key in it, a number out of range, no key in the variable, or a
            key that would travel without encryption.
        """
        parts = _address(url)
        local = _is_local(parts.hostname or "")
        if not model.strip():
            raise InputError("model is empty: give the name of the model at the service.")
        if batch < 1 or retries < 0 or not (timeout > 0 and math.isfinite(timeout)) or (dims is not None and dims < 1):
            raise InputError(
                f"batch is {batch}, retries {retries}, timeout {timeout:g}, dims {dims}; want at least 1, at least 0, above 0, "
                "at least 1."
            )
        if key_env is None and parts.hostname == OPENAI_HOST:
            key_env = OPENAI_KEY
        key = _read_key(key_env) if key_env is not None else Secret("")
        if key.reveal() and parts.scheme == "http" and not local:
            raise InputError(f"{url}: a key is not sent without encryption. Use https.")
        address = urlunsplit((parts.scheme, parts.netloc, parts.path, parts.query, ""))
        return cls(address, parts.netloc, model, dims, batch, retries, timeout, key)

    def embed(self, texts: Mapping[str, str], *, progress: Callable[[int, int], None] | None = None) -> Answer:
        """Ask for the vectors of texts (id -> text); equal texts are asked for once, in an order of their own.

        Raises
        ------
        InputError
            A text is empty; the service refuses, does not answer, or answers anything else than one vector of finite numbers, all
            of one length, for each text.
        """
        empty = [name for name, text in texts.items() if not text.strip()]
        if empty or not texts:
            raise InputError(f"the texts of {some(empty)} are empty. Remove them." if empty else "no texts to encode.")
        distinct = sorted(set(texts.values()))
        vectors: list[NDArray[np.float32]] = []
        names: list[str] = []
        tokens = requests = done = 0
        while done < len(distinct):
            part = _take(distinct, done, self.batch)
            found, name, used = self._vectors(part)
            if vectors and found.shape[1] != vectors[0].shape[1]:
                raise self._wrong(f"vectors of {found.shape[1]} and of {vectors[0].shape[1]} numbers")
            vectors.append(found)
            names.append(name)
            tokens, requests, done = tokens + used, requests + 1, done + len(part)
            if progress is not None:
                progress(done, len(distinct))
        row = {text: k for k, text in enumerate(distinct)}
        matrix = np.concatenate(vectors)[[row[text] for text in texts.values()]]
        return Answer(matrix, ", ".join(dict.fromkeys(names)), tokens, requests)

    def _vectors(self, part: Sequence[str]) -> tuple[NDArray[np.float32], str, int]:
        asked: dict[str, Any] = {"model": self.model, "input": list(part)}
        if self.dims is not None:
            asked["dimensions"] = self.dims
        raw = self._send(json.dumps(asked).encode())
        try:
            answer = json.loads(raw)
        except ValueError:
            raise self._wrong(f"no JSON: {raw[:80]!r}. Is the address right?") from None
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise self._wrong("no list 'data' of objects")
        if len(data) != len(part):
            raise self._wrong(f"{len(data)} vectors for {len(part)} texts")
        places = [item.get("index") for item in data]
        if any(type(p) is not int for p in places) or sorted(places) != list(range(len(part))):
            raise self._wrong(f"vectors whose 'index' is {some(places)} instead of 0 to {len(part) - 1}, once each")
        rows: list[Any] = [None] * len(part)
        for place, item in zip(places, data, strict=True):
            rows[place] = item.get("embedding")
        numbers = all(isinstance(r, list) and r and all(type(x) in (int, float) for x in r) for r in rows)
        lengths = {len(r) for r in rows} if numbers else set()
        if len(lengths) != 1:
            raise self._wrong("an 'embedding' that is no list of numbers, or lists of several lengths")
        with np.errstate(over="ignore"):
            matrix = np.asarray(rows, dtype=np.float64).astype(np.float32)
        if not np.isfinite(matrix).all():
            raise self._wrong("a number that is not finite")
        if self.dims is not None and matrix.shape[1] != self.dims:
            raise self._wrong(f"vectors of {matrix.shape[1]} numbers, not {self.dims}: it cannot change dims")
        usage = answer.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else 0
        name = answer.get("model")
        return matrix, name if isinstance(name, str) and name else self.model, used if type(used) is int else 0

    def _send(self, body: bytes) -> bytes:
        """Send a request, again after a while if the service is busy."""
        handlers: list[Any] = [_NoRedirect()]
        if _is_local(urlsplit(self.address).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "panmodal"}
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.address, body, headers, method="POST")
            if self.key.reveal():
                request.add_unredirected_header("Authorization", f"Bearer {self.key.reveal()}")
            wait = min(2.0**attempt, 60.0)
            try:
                with opener.open(request, timeout=self.timeout) as stream:
                    return stream.read()
            except urllib.error.HTTPError as error:
                with error:
                    told = self._told(error)
                    asked = _retry_after(error.headers.get("Retry-After"))
                problem = f"{self.address}: answered {error.code} ({told})"
                if error.code not in BUSY or "insufficient_quota" in told:
                    raise InputError(f"{problem}. {self._hint(error.code)}") from None
                wait = wait if asked is None else asked
            except (TimeoutError, ConnectionResetError, http.client.HTTPException, urllib.error.URLError) as error:
                reason = getattr(error, "reason", error)
                problem = f"{self.address}: no answer ({self.key.hide(str(reason) or type(reason).__name__)})"
                passing = not isinstance(error, urllib.error.URLError) or isinstance(
                    reason, TimeoutError | ConnectionResetError
                )
                if not passing:
                    raise InputError(f"{problem}. Is the service running, and the address right?") from None
            if wait > LONGEST_WAIT:
                raise InputError(f"{problem}; it asks to wait {wait:.0f} s. Try again later.")
            if attempt < self.retries:
                sleep(wait)
        raise InputError(
            f"{problem}, {self.retries + 1} times. Try again later, or with a smaller batch or a longer timeout."
        )

    def _told(self, error: urllib.error.HTTPError) -> str:
        """Return what the service says of an error, without the key."""
        try:
            raw = error.read(100_000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            raw = ""
        try:
            problem = json.loads(raw)["error"]
            text = f"{problem['message']} {problem.get('code') or ''}" if isinstance(problem, dict) else str(problem)
        except (ValueError, KeyError, TypeError):
            text = raw or str(error.reason)
        return " ".join(self.key.hide(text).split())[:300]

    def _hint(self, code: int) -> str:
        if code in (401, 403):
            return (
                "Is the key valid, and for this service?" if self.key.reveal()
                else "It wants a key: put it into an environment variable and give its name as key_env."
            )  # fmt: skip
        if 300 <= code < 400:
            return "It redirects, which is not followed (the key would travel along): give the final address."
        if code in (404, 405):
            return "Check the address (does it end in /v1?) and the name of the model."
        return "Check model, dims, and the length of the texts."

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self.address}: the answer is not like OpenAI's: {self.key.hide(what)}.")


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise InputError(f"url {url!r} is no address ({error}).") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "url holds a user or password, which would be stored. Give the key in an environment variable."
        )
    strange = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if name.lower() != "api-version"]
    if strange:
        raise InputError(
            f"url holds parameters ({some(strange)}), which would be stored. Only api-version may stand there."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"url {url!r} must begin with http:// or https:// and name a host.")
    path = parts.path.rstrip("/")
    if not path.endswith("/embeddings"):
        path = f"{path or '/v1'}/embeddings"
    return parts._replace(path=path, fragment="")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read_key(name: str) -> Secret:
    # A key given by mistake in place of the name is not repeated.
    shown = f" {name}" if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", name) else ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InputError("key_env must be the name of an environment variable, not the key itself.")
    value = os.environ.get(name, "").strip()
    if not value:
        raise InputError(
            f"the environment variable{shown} that key_env names is not set. Put the key into it (export NAME=...)."
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        raise InputError(f"the environment variable{shown} holds characters that no key has.")
    return Secret(value)


def _take(texts: Sequence[str], start: int, batch: int) -> list[str]:
    taken, characters = [texts[start]], len(texts[start])
    for text in texts[start + 1 : start + batch]:
        characters += len(text)
        if characters > REQUEST_CHARACTERS:
            break
        taken.append(text)
    return taken


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header names, as a number or a date; None if it says nothing of use."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - clock()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def serve(dims: int = 8) -> str:
    """Start a service in a thread of this process that counts letters, for examples; return its address."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Letters(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rows = [[sum(ord(c) % dims == d for c in text) / len(text) for d in range(dims)] for text in asked["input"]]
            data = [{"object": "embedding", "index": k, "embedding": row} for k, row in enumerate(rows)]
            told = json.dumps(
                {"object": "list", "data": data, "model": asked["model"], "usage": {"total_tokens": len(rows)}}
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(told.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Letters)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"

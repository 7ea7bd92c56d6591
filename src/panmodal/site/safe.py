"""What others wrote, made safe to show: text, names of files, links, cells of a table, JSON in a script."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from panmodal.errors import InputError

NAME = 120
"""Letters of a name that a page shows; tables to download have all."""
TEXT = 4000
"""Letters of other text."""
LINK = 2000
"""Letters of a link; longer ones are shown as text."""
STEM = 48
"""Letters of a name that its page is called by."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")
"""What a cell of text must not begin with where a spreadsheet reads it."""
_TURNING = {
    "\u061c",
    "\u200b",
    "\u200e",
    "\u200f",
    "\u2028",
    "\u2029",
    "\u2060",
    "\ufeff",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}


def shown(value: Any, limit: int = TEXT) -> str:
    """Return text as a page may show it; it must still be escaped.

    Control characters and marks that turn the direction of text, by which a name can pass for another, become U+FFFD; text longer
    than ``limit`` is cut, which it says by an ellipsis.
    """
    text = "" if value is None or (isinstance(value, float) and pd.isna(value)) else str(value)
    kept = "".join(c if c in "\n\t" or not _odd(c) else "\ufffd" for c in text[: limit + 1])
    return kept if len(text) <= limit else kept[: limit - 1].rstrip() + "…"


def name(value: Any) -> str:
    """Return a name in one line."""
    return " ".join(shown(value, NAME).split()) or "(no name)"


def _odd(c: str) -> bool:
    return c in _TURNING or unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn")


def slug(*parts: str) -> str:
    """Return the name of a page: lower-case letters, digits and hyphens, ending in a digest of the parts.

    The same parts always have the same name, whatever else there is; see :func:`slugs` for names that must differ.
    """
    plain = unicodedata.normalize("NFKD", " ".join(parts)[:400]).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:STEM].strip("-")
    return f"{stem or 'x'}-{_digest(parts)[:10]}"


def slugs(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return a name of a page for each key; no two are the same, also where letters' case does not count."""
    found: dict[str, tuple[str, ...]] = {}
    for key in dict.fromkeys(keys):
        made = slug(*key)
        if made in found:  # 40 bits that agree are no accident
            raise InputError(
                f"{' · '.join(map(name, key))!r} and {' · '.join(map(name, found[made]))!r} would be one page, {made}; rename one."
            )
        found[made] = key
    return {key: made for made, key in found.items()}


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def link(value: Any) -> str:
    """Return an address that a page may link to: http or https with a host; empty for all others."""
    text = str(value or "").strip()
    if not text or len(text) > LINK or any(_odd(c) or c.isspace() or c in "\"'<>\\^`{|}" for c in text):
        return ""
    try:
        parts = urlsplit(text)
        there = bool(parts.hostname) and parts.port != 0  # a port that is no number is refused here
    except ValueError:
        return ""
    return text if there and parts.scheme in ("http", "https") and "@" not in parts.netloc else ""


def for_script(value: Any) -> str:
    """Return JSON in ASCII that can stand in a script, in an element or a file: no end tag, no line separator, no comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def for_file(value: Mapping[str, Any]) -> str:
    """Return JSON for a file of its own: a line for each field, and within lists and objects a line for each entry."""
    lines = []
    for key, field in value.items():
        inner = (
            [_compact(v) for v in field] if isinstance(field, list) else [f"{_compact(k)}: {_compact(v)}" for k, v in field.items()]
            if isinstance(field, dict) else []
        )  # fmt: skip
        ends = "[]" if isinstance(field, list) else "{}"
        body = f"{ends[0]}\n  " + ",\n  ".join(inner) + f"\n {ends[1]}" if inner else _compact(field)
        lines.append(f" {_compact(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def cell(value: Any) -> Any:
    """Return text that no spreadsheet takes for a formula: an apostrophe stands before what could begin one.

    Text that begins with an apostrophe gets one too, so that taking the first away gives back what was written.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: numbers of ten digits, text without formulas, undefined cells empty."""
    plain = table.copy()
    for column in plain.columns:
        if not (pd.api.types.is_numeric_dtype(plain[column]) or pd.api.types.is_bool_dtype(plain[column])):
            plain[column] = plain[column].map(cell)
    return plain.to_csv(index=False, float_format="%.10g", lineterminator="\n")

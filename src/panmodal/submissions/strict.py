"""Reading a stranger's text: JSON without its liberties, csv of folds, and what a name may hold."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from panmodal.submissions.findings import first, refuse
from panmodal.submissions.limits import LIMITS, Limits

STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
TAG = re.compile(r"<[A-Za-z/!?]")
LINK = re.compile(r"https?://[^\s\"'<>]+", re.IGNORECASE)
BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Marks that turn the direction of writing, so that a reader sees another text than there is."""


def read_json(raw: bytes, where: str, limits: Limits = LIMITS) -> Any:
    """Parse JSON: UTF-8, no key twice, finite numbers, bounded depth and text.

    Raises
    ------
    Refused
        V020, and V025 for text that is not clean.
    """
    if len(raw) > limits.json:
        refuse("V002", f"{len(raw)} bytes; at most {limits.json} are read", where)
    if _depth(raw) > limits.depth:
        refuse("V020", f"nested deeper than {limits.depth} levels", where)

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(found)
        if len(out) < len(found):
            keys = [k for k, _ in found]
            refuse("V020", f"key {first([next(k for k in keys if keys.count(k) > 1)])} is there twice", where)
        return out

    def constant(name: str) -> Any:
        refuse("V020", f"{name} is no number of JSON", where)

    def real(text: str) -> float:
        value = float(text)
        return value if np.isfinite(value) else constant(text[:40])

    def whole(text: str) -> int:
        return int(text) if len(text) <= limits.number else constant(f"{text[:20]}... with {len(text)} digits")

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant, parse_float=real,
                           parse_int=whole)  # fmt: skip
    except (ValueError, RecursionError) as error:
        refuse("V020", f"not JSON ({str(error)[:200]})", where)
    _check_texts(found, where, limits)
    return found


def _depth(raw: bytes) -> int:
    """Levels of brackets outside of text; told without parsing, which would recurse."""
    bare = np.frombuffer(STRING.sub(b"", raw), dtype=np.uint8)
    opened = np.isin(bare, np.frombuffer(b"[{", np.uint8)).astype(np.int64)
    closed = np.isin(bare, np.frombuffer(b"]}", np.uint8)).astype(np.int64)
    return int(np.cumsum(opened - closed).max(initial=0))


def _check_texts(value: Any, where: str, limits: Limits) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, str) and (problem := text_problem(item, limits.text)):
            refuse("V025", f"{item[:60]!r}: {problem}", where)


def text_problem(text: str, longest: int = LIMITS.text) -> str:
    """Say what is wrong with free text; empty if nothing is. Line breaks and tabs are allowed."""
    if len(text) > longest:
        return f"{len(text)} characters; at most {longest} are read"
    if text.isascii():
        odd = [c for c in text if not c.isprintable() and c not in "\n\t"]
    else:
        odd = [
            c
            for c in text
            if c in BIDIRECTIONAL or (c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"))
        ]
    return f"holds the control character U+{ord(odd[0]):04X}" if odd else ""


def label_problem(text: str, longest: int = LIMITS.label) -> str:
    """Say what is wrong with a name or id: one line, no markup, not empty, no blanks around it; empty if nothing is."""
    if problem := text_problem(text, longest):
        return problem
    if text != text.strip() or not text or "\n" in text or "\t" in text:
        return "is empty, has blanks around it, or several lines"
    if TAG.search(text):
        return "holds markup"
    return ""


def name_problem(text: str, longest: int = LIMITS.label) -> str:
    """As :func:`label_problem`, for names that are shown in tables: these must not begin as a formula of a spreadsheet does."""
    return label_problem(text, longest) or ("begins as a formula does" if text[0] in "=+-@" else "")


def link_problem(text: str) -> str:
    """Say what is wrong with a link; empty if nothing is or there is none."""
    return "" if not text or LINK.fullmatch(text) else "is no link of http or https"


def read_folds(raw: bytes, where: str, limits: Limits = LIMITS) -> dict[str, int]:
    """Parse ``pert_id,fold``: text and a whole number in each row.

    Raises
    ------
    Refused
        V022 or V025.
    """
    try:
        rows = csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True)
        if next(rows, None) != ["pert_id", "fold"]:
            refuse("V022", "a split begins with the line pert_id,fold", where)
        folds: dict[str, int] = {}
        for number, row in enumerate(rows):
            if len(row) != 2 or not re.fullmatch("[0-9]{1,4}", row[1]) or not row[1].isascii() or row[0] in folds:
                refuse("V022", f"row {number + 1} is no id and fold, or of an id that was there before", where)
            if problem := label_problem(row[0], limits.label):
                refuse("V025", f"{row[0][:60]!r} {problem}", where)
            folds[row[0]] = int(row[1])
    except (ValueError, csv.Error) as error:
        refuse("V022", f"no csv ({str(error)[:200]})", where)
    return folds


Problem = Callable[[str], str]

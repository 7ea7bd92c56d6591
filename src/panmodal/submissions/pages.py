"""Parquet files of flat tables, decoded in the few ways in which a bundle's are written.

Libraries that read all of Parquet allocate what a file asks for and may end the process on a footer that contradicts itself; a
validator can afford neither. See parquet.thrift and Encodings.md of Apache Parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from panmodal.submissions.findings import first, refuse
from panmodal.submissions.limits import LIMITS, Limits
from panmodal.submissions.thrift import Compact

BOOLEAN, INT64, DOUBLE, BYTE_ARRAY = 0, 2, 5, 6
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
DATA_PAGE, DICTIONARY_PAGE = 0, 2
MAGIC = b"PAR1"
FOOTER = 4 * 2**20
"""Bytes of a footer at most."""
Clean = Callable[[str, str], None]
"""Called with the column and each of its words before they are used; refuses what no bundle may hold."""


@dataclass(frozen=True)
class Column:
    """A column by the schema: its name, physical type, whether it is text and whether it may be null."""

    name: str
    kind: int
    text: bool
    nullable: bool


class Table:
    """A flat table in a Parquet file: PLAIN numbers, text in dictionaries, no compression, no metadata.

    Raises
    ------
    Refused
        V030 (damaged), V031 (metadata), V032 (nested or odd columns), V033 (too large, compressed, other encodings).
    """

    def __init__(self, raw: bytes, where: str, limits: Limits = LIMITS) -> None:
        self.raw, self.where = raw, where
        length = int.from_bytes(raw[-8:-4], "little")
        self.data_end = len(raw) - 8 - length
        if raw[:4] != MAGIC or raw[-4:] != MAGIC or len(raw) < 12 or self.data_end < 4:
            refuse("V030", "no Parquet file", where)
        if length > FOOTER:
            refuse("V033", f"a footer of {length} bytes", where)
        try:
            reader = Compact(raw, self.data_end, len(raw) - 8)
            about = reader.struct()
            if reader.at != len(raw) - 8:
                raise ValueError("its footer has another length")
            if 5 in about:
                keys = first(k.get(1, b"").decode("utf-8", "replace") for k in about[5])
                refuse("V031", f"has metadata ({keys}); a bundle's tables have none", where)
            self.rows, self.groups = _whole(about[3]), about[4]
            self.columns = [*_schema(about[2], where)]
            if set(about) - {1, 2, 3, 4, 6, 7}:
                raise ValueError("its footer has fields that a bundle's have not")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            self._damaged(error)
        width = len(self.columns)
        if self.rows > limits.rows or width > limits.columns or self.rows * width > limits.cells:
            refuse("V033", f"{self.rows} rows and {width} columns, more than are read", where)

    def _damaged(self, error: Exception) -> NoReturn:
        refuse("V030", f"cannot be read ({str(error)[:200] or type(error).__name__})", self.where)

    def read(self, clean: Clean) -> dict[str, NDArray[Any]]:
        """Decode all columns: text as objects, whole numbers, flags, and numbers with NaN where null."""
        if not self.rows:
            return {c.name: _empty(c) for c in self.columns}
        parts: dict[str, list[NDArray[Any]]] = {c.name: [] for c in self.columns}
        at, seen = len(MAGIC), 0
        try:
            for group in self.groups:
                rows, chunks = _whole(group[3]), group[1]
                seen += rows
                if len(chunks) != len(self.columns) or seen > self.rows:
                    raise ValueError("a part has other columns or more rows than the table")
                for column, chunk in zip(self.columns, chunks, strict=True):
                    length = self._check_chunk(column, chunk, rows, at)
                    parts[column.name] += self._pages(column, at, at + length, rows, clean)
                    at += length
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            self._damaged(error)
        if at != self.data_end or seen != self.rows:
            refuse("V030", "its parts do not fill it, or have other rows than it says", self.where)
        return {c.name: np.concatenate([_empty(c), *parts[c.name]]) for c in self.columns}

    def _check_chunk(self, column: Column, chunk: Any, rows: int, at: int) -> int:
        about = chunk[3]
        if set(chunk) - {2, 3} or about[1] != column.kind or about[3] != [column.name.encode()]:
            raise ValueError("a part lies elsewhere, or is not of its column")
        if about[4] != 0:
            refuse("V033", f"column {column.name[:60]!r} is compressed", self.where)
        length = _whole(about[7])
        begin = about.get(11, about[9])
        if begin != at or about[6] != length or about[5] != rows or at + length > self.data_end:
            raise ValueError("a part of a column does not lie where it should, or is not as long")
        return length

    def _pages(self, column: Column, at: int, end: int, rows: int, clean: Clean) -> Iterator[NDArray[Any]]:
        words: NDArray[np.object_] | None = None
        while at < end:
            reader = Compact(self.raw, at, end)
            page = reader.struct()
            size = _whole(page[3])
            at = reader.at + size
            if page[2] != size or at > end:
                raise ValueError("a page says another size than it has")
            body = self.raw[reader.at : at]
            if page[1] == DICTIONARY_PAGE and column.text and words is None and page[7][2] in (PLAIN, PLAIN_DICTIONARY):
                words = _words(body, _whole(page[7][1]), column.name, clean)
                continue
            if page[1] != DATA_PAGE:
                refuse("V033", f"column {column.name[:60]!r} has a page of kind {page[1]}", self.where)
            about = page[5]
            count, encoding = _whole(about[1]), about[2]
            rows -= count
            wanted = (RLE_DICTIONARY, PLAIN_DICTIONARY) if column.text else (PLAIN,)
            if encoding not in wanted or about[3] != RLE:
                refuse(
                    "V033",
                    f"column {column.name[:60]!r} is encoded otherwise ({encoding}) than a bundle's are",
                    self.where,
                )
            if rows < 0:
                raise ValueError("pages hold more values than there are rows")
            yield _decoded(body, count, column, words)
        if rows:
            raise ValueError("pages hold fewer values than there are rows")


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number is negative, or none")
    return value


def _schema(elements: Any, where: str) -> Iterator[Column]:
    root, *leaves = elements
    if root.get(5) != len(leaves):
        refuse("V032", "has nested columns", where)
    names = set()
    for leaf in leaves:
        name = leaf[4].decode("utf-8")
        text = leaf.get(6) == 0 and leaf.get(10) == {1: {}}
        if set(leaf) - {1, 3, 4, 6, 10} or leaf[3] not in (0, 1) or (not text and {6, 10} & set(leaf)) or name in names:
            refuse("V032", f"column {name[:60]!r} is nested, there twice, or of an unusual type", where)
        names.add(name)
        yield Column(name, leaf[1], text, leaf[3] == 1)


def _empty(column: Column) -> NDArray[Any]:
    types: Mapping[int, Any] = {BOOLEAN: np.bool_, INT64: np.int64, DOUBLE: np.float64, BYTE_ARRAY: object}
    return np.empty(0, types[column.kind])


def _words(body: bytes, count: int, column: str, clean: Clean) -> NDArray[np.object_]:
    """Decode a dictionary of text: 4 bytes of length and UTF-8 each."""
    at, found = 0, []
    for _ in range(count):
        length = int.from_bytes(body[at : at + 4], "little")
        if at + 4 + length > len(body):
            raise ValueError("a dictionary is cut off")
        word = body[at + 4 : at + 4 + length].decode("utf-8")
        clean(column, word)
        found.append(word)
        at += 4 + length
    if at != len(body):
        raise ValueError("a dictionary has more than its words")
    out = np.empty(count, dtype=object)
    out[:] = found
    return out


def _decoded(body: bytes, count: int, column: Column, words: NDArray[np.object_] | None) -> NDArray[Any]:
    there = None
    if column.nullable:
        length = int.from_bytes(body[:4], "little")
        there = hybrid(body[4 : 4 + length], 1, count).astype(bool)
        body = body[4 + length :]
        present = int(there.sum())
    else:
        present = count
    if column.text:
        codes = hybrid(body[1:], body[0], present) if present else np.empty(0, np.int64)
        if words is None or (len(codes) and codes.max() >= len(words)):
            raise ValueError("text that is not in its dictionary")
        values: NDArray[Any] = words[codes]
    elif column.kind == BOOLEAN:
        if len(body) != (present + 7) // 8:
            raise ValueError("a page has another length than its values")
        values = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")[:present].astype(bool)
    else:
        values = np.frombuffer(body, "<i8" if column.kind == INT64 else "<f8")
        if len(values) != present:
            raise ValueError("a page has another length than its values")
    if there is None:
        return values
    if column.kind != DOUBLE:
        raise ValueError("only numbers may be null")
    if not np.isfinite(values).all():
        refuse("V034", "holds NaN or infinity; what is undefined is null", f"column {column.name[:60]!r}")
    out = np.full(count, np.nan)
    out[there] = values
    return out


def hybrid(body: bytes, width: int, count: int) -> NDArray[np.int64]:
    """Decode ``count`` whole numbers of ``width`` bits in runs of repeated and of packed ones (RLE/bit-packing hybrid).

    Raises
    ------
    ValueError
        Runs hold fewer or more, or have no end.
    """
    if width > 32:
        raise ValueError(f"numbers of {width} bits")
    reader, parts, left = Compact(body), [], count
    while left > 0:
        head = reader.varint()
        size = head >> 1
        if not size:
            raise ValueError("a run of nothing")
        if head & 1:
            n = size * width
            packed = body[reader.at : reader.at + n]
            if len(packed) < n or (size - 1) * 8 >= left:
                raise ValueError("a run is cut off, or longer than it may be")
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(size * 8, width)
            parts.append((bits[:left] @ (1 << np.arange(width, dtype=np.int64))).astype(np.int64))
            left -= min(left, size * 8)
        else:
            n = (width + 7) // 8
            if size > left or reader.at + n > len(body):
                raise ValueError("a run is cut off, or longer than it may be")
            parts.append(np.full(size, int.from_bytes(body[reader.at : reader.at + n], "little"), np.int64))
            left -= size
        reader.at += n
    if reader.at != len(body):
        raise ValueError("a page has more than its values")
    return np.concatenate(parts) if parts else np.empty(0, np.int64)

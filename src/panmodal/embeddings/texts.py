"""Texts of genes or compounds (summaries, descriptions): reading id -> text from any common file."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from panmodal._tables import TEXT_SUFFIXES, plain_text, read_frame, require_exists, suffix
from panmodal.embeddings.reading import ID_COLUMNS
from panmodal.errors import InputError, some

TEXT_COLUMNS = (
    "text", "summary", "gene_summary", "description", "abstract", "gene_description", "sentence", "prompt", "full_name",
    "name", "gene_name",
)  # fmt: skip
"""Names (lower case) that a column of texts is looked for under, in this order."""

GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: str | Path) -> Iterator[str]:
    r"""Yield lines of a UTF-8 text file, plain, gzipped or alone in a zip archive, without their ends (``\n``, ``\r\n`` or ``\r``).

    Raises
    ------
    InputError
        The file is missing, truncated, or not text.
    """
    path = require_exists(path)
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == GZIP_MAGIC
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                if len(archive.namelist()) != 1:
                    raise InputError(
                        f"{path}: holds {some(archive.namelist())}; unpack it and give the one that is meant."
                    )
                with archive.open(archive.namelist()[0]) as inner:
                    for line in io.TextIOWrapper(inner, encoding="utf-8-sig"):
                        yield line.rstrip("\n")
            return
        opened: Any = gzip.open if packed else open
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            for line in stream:
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error}).") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}). Is it complete?") from error


def read_texts(
    path: str | Path, *, id_col: str | None = None, text_col: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Read one text for each id.

    Parameters
    ----------
    path
        - ``.json``: an object id -> text (or id -> record), or a list of records;
        - ``.jsonl``, ``.ndjson``: one record a line;
        - ``.csv``, ``.tsv``, ``.txt`` (tab), ``.parquet``: one row for each id.

        All but Parquet may be gzipped.
    id_col, text_col
        Column, or field of a record, of the ids and of the texts; detected by name unless given.

    Returns
    -------
    tuple
        id -> text in the order of the file, and id -> why it has no text (it is empty).

    Raises
    ------
    InputError
        The file cannot be read, has no such column, an id is empty, or an id has two different texts.
    """
    path = require_exists(path)
    kind = suffix(path)
    if kind == ".json":
        pairs = _from_json(path, id_col, text_col)
    elif kind in (".jsonl", ".ndjson"):
        records = [(n, _load(path, line, n)) for n, line in enumerate(read_lines(path), 1) if line.strip()]
        pairs = _from_records(path, records, "line", id_col, text_col)
    elif kind in (*TEXT_SUFFIXES, ".parquet"):
        frame = read_frame(path, [c.lower() for c in (id_col, text_col, *ID_COLUMNS, *TEXT_COLUMNS) if c])
        names, texts = _columns(path, list(frame.columns), id_col, text_col)
        pairs = list(zip(frame[names].tolist(), frame[texts].tolist(), strict=True))
    else:
        raise InputError(
            f"{path}: {kind or 'no suffix'} is no format of texts (json, jsonl, csv, tsv, txt, these with .gz, parquet)."
        )
    return _collect(path, pairs)


def _load(path: Path, text: str, line: int | None = None) -> Any:
    where = path if line is None else f"{path}, line {line}"

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # json keeps the last of two equal keys silently.
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made and made[key] != value:
                raise InputError(f"{where}: {key!r} appears more than once with different values. Keep one.")
            made[key] = value
        return made

    try:
        return json.loads(text, object_pairs_hook=no_repeats)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: not valid JSON ({error}).") from error


def _from_json(path: Path, id_col: str | None, text_col: str | None) -> list[tuple[Any, Any]]:
    loaded = _load(path, "\n".join(read_lines(path)))
    if isinstance(loaded, list):
        return _from_records(path, list(enumerate(loaded, 1)), "record", id_col, text_col)
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: must hold an object id -> text or a list of records, not {type(loaded).__name__}.")
    if not any(isinstance(value, dict) for value in loaded.values()):
        return list(loaded.items())
    records = [(key, {"__id__": key, **value} if isinstance(value, dict) else value) for key, value in loaded.items()]
    return _from_records(path, records, "id", id_col or "__id__", text_col)


def _from_records(
    path: Path, records: list[tuple[Any, Any]], what: str, id_col: str | None, text_col: str | None
) -> list[tuple[Any, Any]]:
    """Return (id, text) of records, each with where it stands in the file."""
    for where, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{path}, {what} {where}: must be an object with an id and a text, not {record!r:.60}.")
    fields = list(dict.fromkeys(key for _, record in records for key in record))
    if not fields:
        return []
    names, texts = _columns(path, fields, id_col, text_col)
    lacking = [where for where, record in records if names not in record]
    if lacking:
        raise InputError(f"{path}: no {names!r} in {what} {some(lacking)}. Every record needs an id.")
    return [(record[names], record.get(texts)) for _, record in records]


def _columns(path: Path, columns: list[str], id_col: str | None, text_col: str | None) -> tuple[str, str]:
    """Return the columns of the ids and of the texts."""
    for given in (id_col, text_col):
        if given is not None and given not in columns:
            raise InputError(f"{path}: no column {given!r}; it has {some((c for c in columns if c != '__id__'), 12)}.")
    lower = {column.lower(): column for column in reversed(columns)}
    ids = id_col or next((lower[c] for c in ID_COLUMNS if c in lower and lower[c] != text_col), None)
    rest = [column for column in columns if column != ids]
    texts = text_col or next((lower[c] for c in TEXT_COLUMNS if c in lower and lower[c] in rest), None)
    if texts is None and len(rest) == 1:
        texts = rest[0]
    if ids is None and texts is not None and len(columns) == 2:
        ids = next((c for c in columns if c != texts), None)
    for what, found, option in (("ids", ids, "id_col"), ("texts", texts, "text_col")):
        if found is None:
            raise InputError(
                f"{path}: cannot tell which column holds the {what}; it has {some(columns, 12)}. Give {option}."
            )
    if ids == texts:
        raise InputError(f"{path}: column {ids!r} cannot hold both ids and texts. Give id_col and text_col.")
    return str(ids), str(texts)


def _collect(path: Path, pairs: Iterable[tuple[Any, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for row, (raw_id, raw) in enumerate(pairs, 1):
        name = "" if _absent(raw_id) else plain_text(raw_id).strip()
        if not name:
            raise InputError(f"{path}: the id of row {row} is empty. Fill it or remove the row.")
        if not (_absent(raw) or isinstance(raw, str)):
            raise InputError(f"{path}: the text of {name!r} is {type(raw).__name__} ({raw!r:.60}), not text.")
        text = "" if _absent(raw) else raw.strip()
        if not text:
            left_out[name] = "its text is empty"
        elif texts.setdefault(name, text) != text:
            raise InputError(f"{path}: id {name!r} has two different texts (row {row}). Keep or join them beforehand.")
    if not texts:
        raise InputError(f"{path}: no texts ({len(left_out)} ids with empty text).")
    return texts, {name: why for name, why in left_out.items() if name not in texts}


def _absent(value: Any) -> bool:
    return value is None or (not isinstance(value, str | list | dict) and bool(value != value))

"""Reading edge lists: STRING and BioGRID files as downloaded, and any table with two columns of ids."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._tables import require_exists, suffix
from panmodal.errors import InputError, some

PAIRS = (
    ("a", "b"), ("entity1", "entity2"), ("source", "target"), ("gene1", "gene2"), ("gene_a", "gene_b"),
    ("protein1", "protein2"), ("protein_a", "protein_b"), ("node1", "node2"), ("from", "to"), ("id1", "id2"),
    ("official symbol interactor a", "official symbol interactor b"),
)  # fmt: skip
"""Names of the two columns of ids, lower case, that are known without being named."""
SCORES = ("combined_score", "score", "weight", "w", "confidence")
"""Names of the column of scores, lower case, in the order in which they are looked for."""
NAME_COLUMNS = ("preferred_name", "symbol", "gene_symbol", "gene_name", "name", "alias")
ALIAS_SOURCES = ("Ensembl_HGNC_symbol", "BioMart_HUGO")
"""Sources of a STRING aliases file that are gene symbols, best first."""
_TAXON = re.compile(r"^(\d+\.)[A-Za-z]")


@dataclass(frozen=True)
class EdgeList:
    """Edges as read from a file.

    Attributes
    ----------
    frame
        Columns ``a`` and ``b`` (categorical ids with the same categories) and, if a column of scores was read, ``score``.
    left_out
        Id -> why no edge of it is left.
    notes
        What was done to the ids and which columns were taken.
    """

    frame: pd.DataFrame
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_edges(
    path: str | Path,
    *,
    a: str | None = None,
    b: str | None = None,
    score: str | None = None,
    min_score: float | None = None,
    names: str | Path | None = None,
    only: Sequence[str] = (),
) -> EdgeList:
    """Read an edge list; edges of a node with itself are left out, whatever has no edge left is reported.

    Parameters
    ----------
    path
        Text (comma, tab or space between the columns, with a header; also ``.gz``, or a ``.zip`` of one file) or Parquet: the
        links file of STRING, tab3 of BioGRID, or any table with two columns of ids.
    a, b
        Columns of the ids; detected (:data:`PAIRS`, else the first two columns) unless given.
    score
        Column of scores, "auto" to detect it (:data:`SCORES`); not read if None and there is no ``min_score``.
    min_score
        Edges of a lower score are left out (STRING: 0 to 1000).
    names
        Table id -> name: ``protein.info`` or ``protein.aliases`` of STRING, or any with the ids in its first column. Ids without
        a name in it keep their own; ids of one name become one node.
    only
        Rows to keep, as ``COLUMN=VALUE``; all must hold.

    Raises
    ------
    InputError
        The file cannot be read; a column is missing; an id is empty, a score no number; no edge is left.
    """
    path = require_exists(path)
    columns = _columns(path)
    first, second = _id_columns(columns, a, b, path)
    wanted = _score_column(columns, score, path) if score or min_score is not None else None
    rules = [_rule(text, columns, path) for text in only]
    table = _read(path, [first, second], wanted, [column for column, _ in rules])
    notes = [f"ids from columns {first!r} and {second!r} of {path.name}"]
    ids, codes = _codes(table, (first, second), path)
    keep = np.ones(len(codes[0]), bool)
    for column, value in rules:
        keep &= _equals(table[column], value)
    left_out = _lost(ids, codes, np.ones(len(keep), bool), keep, f"no row with {', '.join(only)}")
    scores = None
    if wanted:
        scores = _scores(table[wanted], keep, wanted, path)
        if min_score is not None:
            above = keep & (scores >= min_score)
            if not above.any():
                raise InputError(
                    f"{path}: no edge has a {wanted!r} of {min_score:g} or more; they go from {scores[keep].min():g} to "
                    f"{scores[keep].max():g}. Lower min_score."
                )
            left_out |= _lost(ids, codes, keep, above, f"no edge with {wanted} >= {min_score:g}")
            keep = above
    apart = keep & (codes[0] != codes[1])
    left_out |= _lost(ids, codes, keep, apart, "its only edges are with itself")
    if not apart.any():
        raise InputError(f"{path}: no edge between two different ids is left.")
    unique, merged, more = _named(ids, names)
    low, high = merged[codes[0][apart]], merged[codes[1][apart]]
    frame = pd.DataFrame({"a": pd.Categorical.from_codes(low, unique), "b": pd.Categorical.from_codes(high, unique)})
    if scores is not None:
        frame["score"] = scores[apart]
    loops = low == high
    if loops.any():  # two ids of one name
        frame = frame[~loops].reset_index(drop=True)
        if not len(frame):
            raise InputError(f"{path}: every edge is between two ids of one name in {names}.")
    present = set(np.unique(np.concatenate([low[~loops], high[~loops]])).tolist())
    # Under their names, unless another id of the same name has an edge.
    at = dict(zip(ids, merged.tolist(), strict=True))
    lost = {unique[at[name]]: why for name, why in left_out.items() if at[name] not in present}
    for k in sorted(set(merged.tolist()) - present):
        lost.setdefault(unique[k], "its only edges are with another id of the same name")
    return EdgeList(frame, lost, (*notes, *more))


def _open(path: Path) -> IO[bytes]:
    """Open a text file for reading bytes, through gzip or zip."""
    if path.suffix.lower() == ".zip":
        archive = zipfile.ZipFile(path)
        inside = [name for name in archive.namelist() if not name.endswith("/")]
        if len(inside) != 1:
            raise InputError(f"{path}: holds {len(inside)} files ({some(inside, 3)}). Unpack it and name one of them.")
        return archive.open(inside[0])
    import pyarrow as pa

    return pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else None)


def _line(path: Path) -> tuple[str, str]:
    """Return the first line of a text file and its separator."""
    try:
        with _open(path) as stream:
            head = stream.read(2**16).decode("utf-8-sig").split("\n")[0].rstrip("\r")
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}). Is it complete?") from error
    if not head.strip():
        raise InputError(f"{path}: its first line is empty. It must name the columns.")
    found = next((s for s in ("\t", ",", ";", " ") if s in head), None)
    if found is None:
        raise InputError(f"{path}: its first line ({head[:80]!r}) names one column. An edge needs two ids.")
    return head, found


def _columns(path: Path) -> list[str]:
    if suffix(path) == ".parquet":
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except Exception as error:
            raise InputError(f"{path}: cannot be read as parquet ({error}). Is it complete?") from error
    head, separator = _line(path)
    cells = [cell.strip().strip('"') if separator in ",;" else cell for cell in head.split(separator)]
    numbers = [cell for cell in cells if re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", cell.strip(), re.I)]
    if numbers:
        raise InputError(
            f"{path}: its first line ({head[:80]!r}) looks like an edge, not like the names of columns. Put a header above it."
        )
    repeated = sorted({cell for cell in cells if cells.count(cell) > 1})
    if repeated:
        raise InputError(f"{path}: columns {some(repeated)} appear more than once. Rename or remove the repeated ones.")
    return cells


def _id_columns(columns: list[str], a: str | None, b: str | None, path: Path) -> tuple[str, str]:
    missing = [name for name in (a, b) if name is not None and name not in columns]
    if missing:
        raise InputError(f"{path}: no column(s) {some(missing)}; it has {some(columns, 12)}.")
    if (a is None) != (b is None) or (a is not None and a == b):
        raise InputError(f"{path}: name both columns of ids (a and b), two different ones, or neither.")
    if a is not None and b is not None:
        return a, b
    lower = {name.strip().lstrip("#").lower(): name for name in columns}
    for one, other in PAIRS:
        if one in lower and other in lower:
            return lower[one], lower[other]
    if len(columns) < 2:
        raise InputError(f"{path}: only column {columns[0]!r}. An edge needs two ids.")
    return columns[0], columns[1]


def _score_column(columns: list[str], score: str | None, path: Path) -> str:
    if score not in (None, "auto"):
        if score not in columns:
            raise InputError(f"{path}: no column {score!r}; it has {some(columns, 12)}.")
        return str(score)
    lower = {name.strip().lower(): name for name in columns}
    for name in SCORES:
        if name in lower:
            return lower[name]
    raise InputError(f"{path}: no column of scores ({', '.join(SCORES)}) among {some(columns, 12)}. Name it (score).")


def _rule(text: str, columns: list[str], path: Path) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not sign or column not in columns:
        raise InputError(f"{path}: {text!r} must be COLUMN=VALUE with one of the columns {some(columns, 12)}.")
    return column, value


def _read(path: Path, ids: list[str], score: str | None, texts: list[str]) -> Any:
    """Read the columns needed: ids and texts as dictionaries, the score as numbers."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys([*ids, *([score] if score else []), *texts]))
    if score in (*ids, *texts):
        raise InputError(f"{path}: column {score!r} cannot hold both scores and ids.")
    try:
        if suffix(path) == ".parquet":
            table = pq.read_table(path, columns=wanted)
            for column in wanted:
                if column != score:
                    at = table.column_names.index(column)
                    table = table.set_column(at, column, _as_text(table[column], column, path))
            return table
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as parquet ({error}). Is it complete?") from error
    _, separator = _line(path)
    kinds = {c: pa.float64() if c == score else pa.dictionary(pa.int32(), pa.string()) for c in wanted}
    # Files of STRING and BioGRID hold quotation marks that quote nothing.
    parse = csv.ParseOptions(delimiter=separator, quote_char='"' if separator in ",;" else False)
    convert = csv.ConvertOptions(include_columns=wanted, column_types=kinds, quoted_strings_can_be_null=False)
    for threads in (True, False):  # the number of a bad row is known to the single thread only
        try:
            with _open(path) as stream:
                table = csv.read_csv(stream, csv.ReadOptions(use_threads=threads), parse, convert)
            break
        except Exception as error:
            if not threads:
                raise InputError(f"{path}: {_complaint(str(error), separator, score)}") from error
    if not table.num_rows:
        raise InputError(f"{path}: no edges below its header.")
    return table


def _complaint(text: str, separator: str, score: str | None) -> str:
    where = re.search(r"Row #(\d+): ", text)
    row = f"row {int(where[1]) - 1}: " if where else ""
    if "conversion error to double" in text and score:
        value = re.search(r"invalid value '(.*)'", text)
        return f"column {score!r} holds text: {row}{value[1] if value else text!r}. Write numbers only, or name another column."
    shape = re.search(r"Expected (\d+) columns, got (\d+): (.*)", text)
    if shape:
        return f"{row}{shape[2]} cells separated by {separator!r} where the header names {shape[1]}: {shape[3][:80]!r}."
    return f"cannot be read ({text}). Is it complete?"


def _as_text(column: Any, name: str, path: Path) -> Any:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{path}: column {name!r} holds {kind}, not ids. Name the columns of the ids (a and b).")
    return column.cast(pa.string()).dictionary_encode()


def _codes(table: Any, columns: tuple[str, str], path: Path) -> tuple[list[str], tuple[NDArray[Any], NDArray[Any]]]:
    """Return the sorted ids of both columns and the place of each row's ids among them."""
    places, words = [], []
    for column in columns:
        chunk = table[column].unify_dictionaries().combine_chunks()
        chunk = chunk.chunk(0) if hasattr(chunk, "chunk") else chunk
        places.append(chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False))
        words.append([str(word).strip() for word in chunk.dictionary.to_pylist()])
    ids = sorted({word for part in words for word in part if word})
    where = {name: k for k, name in enumerate(ids)}
    codes = []
    for column, place, part in zip(columns, places, words, strict=True):
        code = np.array([where.get(word, -1) for word in part] + [-1], np.int32)[place]
        empty = np.flatnonzero(code < 0)
        if len(empty):
            raise InputError(
                f"{path}: column {column!r} is empty in row(s) {some(int(i) + 1 for i in empty)}. Fill it or remove them."
            )
        codes.append(code)
    return ids, (codes[0], codes[1])


def _equals(column: Any, value: str) -> NDArray[np.bool_]:
    """Which rows of a dictionary column hold a value."""
    parts = []
    for chunk in column.chunks:
        same = np.array([str(word).strip() == value for word in chunk.dictionary.to_pylist()] + [False])
        parts.append(same[chunk.indices.fill_null(len(same) - 1).to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)


def _scores(column: Any, keep: NDArray[np.bool_], name: str, path: Path) -> NDArray[np.float64]:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"{path}: column {name!r} holds {column.type}, not scores. Name another (score).")
    values = column.cast(pa.float64()).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values) & keep)
    if len(bad):
        raise InputError(
            f"{path}: column {name!r} has no finite number in row(s) {some(int(i) + 1 for i in bad)}. Remove them."
        )
    return values


def _lost(
    ids: list[str], codes: tuple[NDArray[Any], NDArray[Any]], before: NDArray[Any], after: NDArray[Any], why: str
) -> dict[str, str]:
    """Which ids had an edge before a step and have none after it."""
    if before.sum() == after.sum():
        return {}
    had, has = (
        np.bincount(np.concatenate([c[rows] for c in codes]), minlength=len(ids)) > 0 for rows in (before, after)
    )
    return {ids[k]: why for k in np.flatnonzero(had & ~has)}


def _named(ids: list[str], names: str | Path | None) -> tuple[list[str], NDArray[np.int32], list[str]]:
    """Return the names, sorted, the place of each id among them, and notes."""
    taxa = {match[1] if (match := _TAXON.match(name)) else "" for name in ids}
    prefix = taxa.pop() if len(taxa) == 1 else ""
    bare = [name.removeprefix(prefix) for name in ids]
    notes = []
    if prefix:
        notes.append(f"the taxon {prefix!r} before each id was taken off")
    if names is not None:
        known = _read_names(require_exists(names))
        short = {key.removeprefix(prefix): value for key, value in known.items()}
        found = [known.get(name, short.get(stripped)) for name, stripped in zip(ids, bare, strict=True)]
        without = [stripped for stripped, name in zip(bare, found, strict=True) if name is None]
        if len(without) == len(ids):
            raise InputError(f"{names}: names none of the ids ({some(ids, 3)}); its own are {some(known, 3)}.")
        if without:
            notes.append(
                f"{len(without)} of {len(ids)} ids have no name in {Path(names).name} and keep their own: {some(without, 3)}"
            )
        bare = [name or stripped for name, stripped in zip(found, bare, strict=True)]
    unique = sorted(set(bare))
    if len(unique) < len(bare):
        twice = pd.Series(bare)
        twice = twice[twice.duplicated()].unique()
        notes.append(f"ids that share a name are one node: {some(twice)}")
    where = {name: k for k, name in enumerate(unique)}
    return unique, np.array([where[name] for name in bare], np.int32), notes


def _read_names(path: Path) -> dict[str, str]:
    """Read id -> name from a STRING protein.info or protein.aliases file, or a table of two columns."""
    columns = _columns(path)
    lower = {name.strip().lstrip("#").lower(): name for name in columns}
    key = lower.get("string_protein_id", columns[0])
    value = next((lower[c] for c in NAME_COLUMNS if c in lower and lower[c] != key), columns[1])
    if value == key:
        raise InputError(f"{path}: the ids are in its second column, {key!r}. Put them first, and the names second.")
    source = lower.get("source") if value == lower.get("alias") else None
    table = _read(path, [key, value], None, [source] if source else []).to_pandas().astype(str)
    table[[key, value]] = table[[key, value]].apply(lambda column: column.str.strip())
    table = table[(table[key] != "") & (table[value] != "")]
    if source:
        rank = {name: k for k, name in enumerate(ALIAS_SOURCES)}
        # Older releases list all sources of an alias in one cell.
        best = table[source].map(lambda cell: min((rank.get(s, 99) for s in cell.split()), default=99))
        table = table.assign(best=best).query("best < 99").sort_values(["best", value], kind="stable")
        if not len(table):
            raise InputError(
                f"{path}: no alias is from {' or '.join(ALIAS_SOURCES)}, the gene symbols. Use the protein.info file."
            )
        table = table.drop_duplicates(key)
    pairs = table[[key, value]].drop_duplicates()
    twice = pairs[pairs[key].duplicated()]
    if len(twice):
        raise InputError(f"{path}: ids {some(twice[key].unique())} have more than one name. Keep one of each.")
    return dict(zip(pairs[key], pairs[value], strict=True))

"""Reading plain tables (csv, tsv, parquet) and checking that numbers are numbers."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def suffix(path: str | Path) -> str:
    """Return the suffix that tells the format, lower case, without a trailing ``.gz``."""
    name = Path(path)
    return (Path(name.stem).suffix if name.suffix.lower() == ".gz" else name.suffix).lower()


def stem(path: str | Path) -> str:
    """Return the name of a file without the suffix that tells its format (``net.v2.csv.gz`` is ``net.v2``)."""
    name = Path(path)
    return Path(name.stem).stem if name.suffix.lower() == ".gz" else name.stem


def require_exists(path: str | Path) -> Path:
    """Return ``path`` or say that it is not there, and what lies beside it with the same stem."""
    found = Path(path)
    try:
        if found.exists():
            return found
        near = sorted(p.name for p in found.parent.glob(f"{glob.escape(found.stem[:6])}*"))
    except OSError as error:  # e.g. a name that is too long
        raise InputError(f"{found}: cannot be opened ({error.strerror or error}).") from error
    hint = f" Did you mean {some(near, 3)}?" if near else ""
    raise InputError(f"{found}: no such file.{hint}")


def read_frame(path: str | Path, text_columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a csv, tsv (both also ``.gz``) or Parquet file; a labelled index becomes the first column.

    Parameters
    ----------
    path
        The file.
    text_columns
        Names (lower case) of columns to be read as text whatever they hold, so that the ids ``007`` and ``1-Mar``
        stay as they are. The first column of a text file is always read so.

    Raises
    ------
    InputError
        The file is missing, truncated, empty or of another format.
    """
    path = require_exists(path)
    kind = suffix(path)
    try:
        if kind == ".parquet":
            frame = pd.read_parquet(path)
            if not isinstance(frame.index, pd.RangeIndex) or frame.index.name is not None:
                frame = frame.reset_index()
        elif kind in TEXT_SUFFIXES:
            separator = TEXT_SUFFIXES[kind]
            header = pd.read_csv(path, sep=separator, nrows=0)
            wanted = set(text_columns)
            as_text: dict[Any, Any] = {c: str for c in header.columns if str(c).lower() in wanted}
            if len(header.columns):
                as_text[header.columns[0]] = str
            # pandas renames repeated columns silently ("A", "A.1"): look at the header as it is written.
            raw = pd.read_csv(path, sep=separator, nrows=1, header=None, dtype=str, keep_default_na=False)
            names = pd.Series(raw.iloc[0])
            if names.duplicated().any():
                raise InputError(
                    f"{path}: columns {some(names[names.duplicated()].unique())} appear more than once. Rename or "
                    "remove the repeated ones."
                )
            frame = pd.read_csv(path, sep=separator, dtype=as_text, keep_default_na=False, na_values=[""],
                                low_memory=False, float_precision="round_trip")  # fmt: skip
            if isinstance(frame.index, pd.MultiIndex) or not isinstance(frame.index, pd.RangeIndex):
                raise InputError(f"{path}: rows have more cells than the header names. Name every column.")
        else:
            raise InputError(
                f"{path}: {kind or 'no suffix'} is not a table format (csv, tsv, txt, these with .gz, parquet)."
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as {kind[1:]} ({error}). Is it complete?") from error
    frame.columns = [str(c) for c in frame.columns]
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InputError(f"{path}: the table is empty ({frame.shape[0]} rows, {frame.shape[1]} columns).")
    return frame


def text_ids(values: Sequence[Any], what: str, where: str) -> list[str]:
    """Return ids as text; refuse missing and empty ones, naming the rows."""
    series = pd.Series(list(values), dtype=object)
    text = series.map(lambda v: "" if v is None or v is pd.NA or v != v else plain_text(v)).astype(str).str.strip()
    empty = np.flatnonzero((text == "").to_numpy())
    if len(empty):
        raise InputError(
            f"{where}: {what} is empty in row(s) {some(int(i) + 1 for i in empty)}. Fill it or remove them."
        )
    return text.tolist()


def plain_text(value: Any) -> str:
    """Write a label as text; 46912230.0 in a column with gaps is the identifier 46912230."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def unique_ids(ids: Sequence[str], what: str, where: str, advice: str) -> None:
    """Refuse repeated ids, naming the first few."""
    series = pd.Series(list(ids))
    twice = series[series.duplicated()].unique()
    if len(twice):
        raise InputError(f"{where}: {what} {some(twice)} appear(s) more than once. {advice}")


def number_columns(frame: pd.DataFrame, columns: Sequence[str], where: str, ids: Sequence[str]) -> NDArray[np.float64]:
    """Return ``frame[columns]`` as numbers; a cell of text is refused with its row, id and column."""
    for column in columns:
        values = frame[column]
        kind = values.dtype.kind
        if kind in "cmM":
            raise InputError(f"{where}: column {column!r} holds {values.dtype}, not numbers. Remove it or convert it.")
        if pd.api.types.is_numeric_dtype(values):
            continue
        parsed = pd.to_numeric(values, errors="coerce")
        bad = np.flatnonzero((parsed.isna() & values.notna()).to_numpy())
        if len(bad):
            row = int(bad[0])
            raise InputError(
                f"{where}: column {column!r} holds text: {str(values.iloc[row])!r} in row {row + 1} (id {ids[row]!r}); "
                f"{len(bad)} such cell(s). Write numbers only, or remove the column."
            )
    return frame[list(columns)].to_numpy(dtype=np.float64, na_value=np.nan)


def require_finite(values: NDArray[Any], ids: Sequence[str], columns: Sequence[str], where: str, what: str) -> None:
    """Refuse NaN and infinite values, naming the first rows and columns that hold them."""
    if not np.issubdtype(values.dtype, np.floating):
        return
    step = max(1, 2**24 // max(1, values.shape[1]))
    total, rows, first = 0, [], None
    for start in range(0, len(values), step):
        bad = ~np.isfinite(values[start : start + step])
        if bad.any():
            total += int(bad.sum())
            hit = np.flatnonzero(bad.any(axis=1))
            rows += [ids[start + int(i)] for i in hit]
            if first is None:
                column = int(np.flatnonzero(bad[hit[0]])[0])
                first = (ids[start + int(hit[0])], columns[column], values[start + int(hit[0]), column])
    if first is not None:
        raise InputError(
            f"{where}: {total} {what} value(s) are NaN or infinite, first {first[2]} at id {first[0]!r}, column "
            f"{first[1]!r}; rows {some(rows)}. Remove these rows or columns, or fill them knowingly beforehand."
        )

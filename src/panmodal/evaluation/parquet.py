"""Parquet files of the results folder: a record in the metadata, matrices as lists, each file whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._files import atomic_path
from panmodal.errors import StoreError

META = b"panmodal"
"""Key of the record in a file's metadata."""
CHECK = b"panmodal-sha256"
"""Key of the digest of the record: Parquet has checksums of pages, but none of the footer where the record lies."""


def packed(matrix: NDArray[Any], *, exact: bool = False) -> Any:
    """One row of a matrix in each cell of a column, in single precision; with ``exact`` in double where values need it."""
    import pyarrow as pa

    flat = np.ascontiguousarray(matrix, dtype=np.float32)
    if exact and not np.array_equal(flat, matrix):
        flat = np.ascontiguousarray(matrix, dtype=np.float64)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def unpacked(table: Any, column: str) -> NDArray[Any]:
    """Undo :func:`packed`."""
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, -1)


def write_parquet(table: Any, target: Path) -> None:
    """Write a table atomically, matrices so that they compress well, with checksums of pages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = dict(table.schema.metadata or {})
    if META in meta:
        table = table.replace_schema_metadata({**meta, CHECK: hashlib.sha256(meta[META]).hexdigest().encode()})
    # Thousands of small files: no flush for each, since footer and page checksums tell a damaged one from a whole one.
    with atomic_path(target, durable=False) as partial:
        try:
            # Splitting the bytes of single-precision matrices makes them smaller and quicker to write.
            matrices = [f"{f.name}.list.element" for f in table.schema if pa.types.is_fixed_size_list(f.type)]
            pq.write_table(
                table,
                partial,
                compression="zstd",
                write_page_checksum=True,
                use_dictionary=[f.name for f in table.schema if not pa.types.is_fixed_size_list(f.type)],
                use_byte_stream_split=matrices,
            )
        except pa.ArrowException as error:
            raise OSError(getattr(error, "errno", None) or 5, str(error)) from error


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read a table and the record in its metadata.

    Raises
    ------
    StoreError
        Not there, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise StoreError(f"{path}: missing. Run the same command again to compute it.")
    try:
        # Not read_table, whose search for a data set of many files takes longer than reading a small one.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=columns, use_threads=file.metadata.num_rows > 100_000)
        meta = table.schema.metadata or {}
        known = META in meta or CHECK in meta
        if known and meta.get(CHECK) != hashlib.sha256(meta.get(META, b"")).hexdigest().encode():
            raise ValueError("its record has another digest than when it was written")
        record = json.loads(meta.get(META, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{path}: damaged ({error}). Remove it and run the same command again.") from error
    return table, record


def write_rows_of(
    path: Path, ids: Sequence[str], column: str, values: NDArray[Any], record: dict[str, Any], *, exact: bool = False
) -> None:
    """Write a matrix (ids x columns; precision as for :func:`packed`) with the ids of its rows, unless the file is there."""
    import pyarrow as pa

    if path.exists():
        with contextlib.suppress(OSError):
            os.utime(path)  # in use: not to be cleared away as old
    else:
        table = pa.table({"pert_id": pa.array(list(ids), pa.string()), column: packed(values, exact=exact)})
        write_parquet(table.replace_schema_metadata({META: json.dumps(record).encode()}), path)


def read_rows_of(path: Path, column: str) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    """Return ids, matrix and record of :func:`write_rows_of`."""
    table, record = read_parquet(path)
    return table["pert_id"].to_pylist(), unpacked(table, column), record

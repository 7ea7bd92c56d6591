"""Tables of a bundle: Parquet without metadata, compression or nesting, so that a small file cannot be a large table."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pandas as pd

from panmodal.submissions.findings import first, refuse
from panmodal.submissions.limits import LIMITS, Limits
from panmodal.submissions.pages import BOOLEAN, BYTE_ARRAY, DOUBLE, INT64, Table
from panmodal.submissions.strict import label_problem, text_problem

TEXT, LABEL, WHOLE, FLAG, NUMBER = "text", "label", "whole number", "flag", "number"
"""Types of columns: free text, names, int64, bool, and double (null where undefined)."""
PHYSICAL = {TEXT: BYTE_ARRAY, LABEL: BYTE_ARRAY, WHOLE: INT64, FLAG: BOOLEAN, NUMBER: DOUBLE}
DTYPES = {TEXT: object, LABEL: object, WHOLE: np.int64, FLAG: bool, NUMBER: np.float64}


def write_frame(frame: pd.DataFrame, columns: Mapping[str, str]) -> bytes:
    """Write the columns of a table as Parquet: the same values are the same bytes (with the same version of pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {TEXT: pa.string(), LABEL: pa.string(), WHOLE: pa.int64(), FLAG: pa.bool_(), NUMBER: pa.float64()}
    arrays = [pa.array(frame[c], types[kind], from_pandas=True) for c, kind in columns.items()]
    schema = pa.schema([pa.field(c, types[kind], nullable=kind == NUMBER) for c, kind in columns.items()])
    stream = io.BytesIO()
    # Text stays in dictionaries however many words there are: pages of a bundle are read in this way only.
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema), stream, compression="none", store_schema=False, data_page_version="1.0",
        use_dictionary=[c for c, kind in columns.items() if kind in (TEXT, LABEL)], row_group_size=2**20, version="2.6",
        write_statistics=False, dictionary_pagesize_limit=2**30,
    )  # fmt: skip
    return stream.getvalue()


def read_frame(
    raw: bytes, where: str, required: Mapping[str, str], optional: Mapping[str, str], limits: Limits = LIMITS
) -> pd.DataFrame:
    """Read a table of known columns from a stranger's Parquet file (:class:`panmodal.submissions.pages.Table`).

    Parameters
    ----------
    raw
        The file.
    where
        Its name, for messages.
    required, optional
        Column -> type, in any order.

    Raises
    ------
    Refused
        V025, V030 to V034.
    """
    table = Table(raw, where, limits)
    known = {**required, **optional}
    kinds = {c.name: known.get(c.name, "") for c in table.columns}
    if unknown := [n for n, kind in kinds.items() if not kind]:
        refuse("V032", f"a column that such a table does not have: {first(unknown)}", where)
    if missing := [c for c in required if c not in kinds]:
        refuse("V032", f"no column {first(missing)}", where)
    for column in table.columns:
        kind = kinds[column.name]
        right = column.kind == PHYSICAL[kind] and column.text == (kind in (TEXT, LABEL))
        if not right or column.nullable != (kind == NUMBER):
            refuse("V032", f"column {column.name!r} must hold a {kind} in every row", where)

    def clean(column: str, word: str) -> None:
        label = kinds[column] == LABEL
        if what := label_problem(word, limits.label) if label else text_problem(word, limits.text):
            refuse("V025", f"column {column!r}: {word[:60]!r} {what}", where)

    found = table.read(clean)
    return pd.DataFrame({c: values.astype(DTYPES[kinds[c]], copy=False) for c, values in found.items()})

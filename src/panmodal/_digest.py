"""Content digests: what two people must share for their numbers to be comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 32
"""Hexadecimal digits kept of a SHA-256 (128 bits: no accidental collision in any real store)."""


def digest_json(value: Any) -> str:
    """Digest a JSON-like value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def digest_table(ids: Sequence[str], columns: Sequence[str], values: NDArray[Any], dtype: str) -> str:
    """Digest a labelled matrix independently of the order of its rows.

    Parameters
    ----------
    ids
        Row labels, unique, length n.
    columns
        Column labels, length d; their order counts.
    values
        Matrix n x d.
    dtype
        NumPy type (with byte order) in which the values are hashed, e.g. ``"<f4"``.
    """
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    state = hashlib.sha256()
    state.update(digest_json([[ids[i] for i in order], list(columns), dtype]).encode())
    step = max(1, 2**22 // max(1, values.shape[1]))
    for start in range(0, len(order), step):
        block = np.ascontiguousarray(values[order[start : start + step]], dtype=dtype)
        # Negative zero and zero are the same number but not the same bytes.
        state.update((block + np.zeros((), dtype=dtype)).tobytes())
    return state.hexdigest()[:LENGTH]

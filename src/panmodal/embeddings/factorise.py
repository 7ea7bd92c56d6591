"""Truncated factorisations shared by the builders of network, annotation and homology embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError


def truncated_svd(matrix: Any, dims: int) -> NDArray[np.float64]:
    """Return U sqrt(S) of the ``dims`` largest singular values of a sparse or dense matrix (rows x columns).

    Deterministic: ARPACK starts from a fixed vector, and the entry of largest magnitude of each column is positive.

    Raises
    ------
    InputError
        The matrix has not more than ``dims`` rows or columns.
    """
    from scipy.sparse.linalg import svds

    if min(matrix.shape) <= dims:
        raise InputError(f"a matrix of shape {matrix.shape} has no {dims} dimensions to keep; ask for fewer.")
    u, s, _ = svds(matrix.astype(np.float64), k=dims, v0=np.ones(min(matrix.shape)), return_singular_vectors="u")
    order = np.argsort(-s)
    scores = u[:, order] * np.sqrt(s[order])
    # A dimension may live on one component of a graph only; elsewhere it is zero, not the dust of the iteration.
    scores[np.abs(scores) < 1e-10 * np.abs(scores).max()] = 0.0
    peak = np.abs(scores).argmax(axis=0)
    return scores * np.where(scores[peak, np.arange(dims)] < 0, -1.0, 1.0)

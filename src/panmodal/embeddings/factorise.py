"""Truncated factorisations shared by the builders of network, annotation and homology embeddings."""

from __future__ import annotations

from collections.abc import Callable
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

    require_dims(matrix.shape, dims)
    u, s, _ = svds(matrix.astype(np.float64), k=dims, v0=np.ones(min(matrix.shape)), return_singular_vectors="u")
    order = np.argsort(-s)
    scores = u[:, order] * np.sqrt(s[order])
    # A dimension may live on one component of a graph only; elsewhere it is zero, not the dust of the iteration.
    scores[np.abs(scores) < 1e-10 * np.abs(scores).max()] = 0.0
    return positive_peaks(scores)


def require_dims(shape: tuple[int, ...], dims: int) -> None:
    """Refuse more dimensions than a matrix has to give."""
    if min(shape) <= dims or dims < 1:
        raise InputError(f"a matrix of shape {shape} has no {dims} dimensions to keep; ask for fewer.")


def positive_peaks(vectors: NDArray[Any]) -> NDArray[Any]:
    """Turn the sign of each column so that its entry of largest magnitude is positive."""
    # Of entries that are equal but for rounding the first counts.
    size = np.abs(vectors)
    peak = (size >= size.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
    return vectors * np.where(vectors[peak, np.arange(vectors.shape[1])] < 0, -1, 1).astype(vectors.dtype)


def symmetric_svd(
    product: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    nodes: int,
    dims: int,
    *,
    block: int = 64,
    tolerance: float = 1e-4,
    rounds: int = 40,
    seed: int = 0,
) -> tuple[NDArray[np.float32], float]:
    """Return U sqrt(S) as :func:`truncated_svd`, of a symmetric matrix that is known by its products only.

    Block Lanczos with full reorthogonalisation (Golub and Underwood 1977; Musco and Musco 2015 for a random start): few passes
    over the matrix, each a product with ``block`` vectors. The singular vectors of a symmetric matrix are its eigenvectors, the
    singular values the magnitudes of its eigenvalues.

    Parameters
    ----------
    product
        Multiplies the matrix (nodes x nodes) with vectors (nodes x at most ``block``), in single precision.
    nodes, dims
        Size of the matrix and number of dimensions.
    tolerance
        Ends when ``|M u - lambda u| <= tolerance |lambda|`` for each of the ``dims`` vectors, or after ``rounds`` products.

    Returns
    -------
    vectors
        nodes x dims.
    residual
        Largest ``|M u - lambda u| / |lambda|`` at the end.
    """
    require_dims((nodes, nodes), dims)
    block = min(block, nodes)
    rng = np.random.default_rng(seed)
    newest = np.linalg.qr(rng.standard_normal((nodes, block), dtype=np.float32))[0]
    room = min(max(rounds * block, dims), nodes)
    basis = np.empty((nodes, room), np.float32, order="F")
    basis[:, :block] = newest
    small = np.zeros((room, room))
    width, residual = block, np.inf
    rounds_done = 0
    while True:
        image = product(newest)
        rounds_done += 1
        used = basis[:, :width]
        here = slice(width - newest.shape[1], width)
        weights = used.T @ image
        image -= used @ weights
        again = used.T @ image  # a second time, against rounding
        image -= used @ again
        small[:width, here] = weights + again
        newest, bridge = np.linalg.qr(image)
        more = min(newest.shape[1], room - width)
        # Looking is dear on a wide basis, a round too many is not.
        if width >= dims and (more == 0 or rounds_done <= 8 or rounds_done % 4 == 0):
            inner = small[:width, :width]
            values, turn = np.linalg.eigh(np.triu(inner) + np.triu(inner, 1).T)
            top = np.argsort(-np.abs(values), kind="stable")[:dims]
            # What is left of M u after the part within the basis lies along the next block.
            errors = np.linalg.norm(bridge.astype(np.float64) @ turn[here, :][:, top], axis=0)
            residual = float((errors / np.maximum(np.abs(values[top]), 1e-30)).max())
        if residual <= tolerance or more == 0:
            break
        # Directions of a block that has nothing new are noise: these too must be orthogonal to what there is.
        newest = np.linalg.qr(newest[:, :more] - used @ (used.T @ newest[:, :more]))[0]
        basis[:, width : width + more] = newest
        width += more
    size = np.abs(values[top])
    vectors = (basis[:, :width] @ turn[:, top].astype(np.float32)) * np.sqrt(size).astype(np.float32)
    # A dimension may live on one component of a graph only; elsewhere it is zero, not the dust of the iteration.
    vectors[np.abs(vectors) < 1e-7 * np.abs(vectors).max()] = 0.0
    return positive_peaks(vectors), residual

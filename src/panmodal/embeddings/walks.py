"""node2vec by factorising what its random walks meet; and what is known of a node from its degree alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.factorise import require_dims, symmetric_svd
from panmodal.embeddings.network import cores
from panmodal.errors import InputError

DEGREE_FEATURES = ("degree", "strength", "core")
"""What :func:`degree_vectors` knows."""


def node2vec_vectors(
    graph: Any,
    dims: int = 128,
    *,
    p: float = 1.0,
    q: float = 1.0,
    walks: int = 10,
    length: int = 80,
    window: int = 10,
    negative: float = 1.0,
    seed: int = 0,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Biased random walks (Grover and Leskovec, KDD 2016), then the factorisation that skip-gram does implicitly.

    The counts of pairs of nodes at most ``window`` steps apart are turned into max(0, PMI - log b), the matrix that skip-gram
    with b negative samples factorises (Levy and Goldberg, NIPS 2014), and U sqrt(S) of its truncated SVD is returned. Unlike
    stochastic training this has no order of updates, learning rate or epochs: the walks are the only chance in it.

    Parameters
    ----------
    graph
        Symmetric sparse matrix of positive weights, nodes x nodes, every node with an edge.
    dims
        Dimensions.
    p, q
        Return and in-out parameter.
    walks, length, window
        Walks from each node, nodes of a walk, and how far apart two nodes are a pair.
    negative
        Number b of negative samples.
    seed
        Of the walks; each walk has its own stream, so that the result does not depend on the number of threads.

    Returns
    -------
    vectors
        nodes x dims.
    notes
        Size of the matrix, and its residual if the factorisation did not converge.
    """
    from panmodal.embeddings.network_kernels import sparse_times_dense

    require_dims(graph.shape, dims)
    positive = {"p": p, "q": q, "walks": walks, "length": length - 1, "window": window, "negative": negative}
    bad = [name for name, value in positive.items() if not (value > 0 and math.isfinite(value))]
    if bad:
        raise InputError(f"node2vec: {', '.join(bad)} must be above 0 (length above 1).")
    nodes = graph.shape[0]
    with ThreadPoolExecutor(cores()) as pool:
        paths = random_walks(graph, p=p, q=q, walks=walks, length=length, seed=seed, pool=pool)
        indptr, indices, data = _pmi_matrix(paths, nodes, window, math.log(negative), pool)
        if not len(data):
            raise InputError(f"node2vec: no pair of nodes is met more often than by chance (negative {negative:g}).")
        cuts = np.linspace(0, nodes, 4 * cores() + 1).astype(int)

        def product(x: NDArray[np.float32]) -> NDArray[np.float32]:
            out = np.empty_like(x)

            def part(k: int) -> None:
                low, high = cuts[k], cuts[k + 1]
                sparse_times_dense(indptr[low : high + 1], indices, data, x, out[low:high])

            list(pool.map(part, range(len(cuts) - 1)))
            return out

        vectors, residual = symmetric_svd(product, nodes, dims, seed=seed)
    notes = [f"{len(data)} pairs of nodes met more often than by chance on {len(paths)} walks"]
    if residual > 1e-3:
        notes.append(f"the factorisation did not converge: largest relative residual {residual:.1e}")
    return vectors, tuple(notes)


def random_walks(
    graph: Any, *, p: float, q: float, walks: int, length: int, seed: int, pool: ThreadPoolExecutor
) -> NDArray[np.int32]:
    """Return walks from every node, (nodes * walks) x length places of nodes."""
    from panmodal.embeddings.network_kernels import biased_walks

    nodes = graph.shape[0]
    cumulated = np.cumsum(graph.data, dtype=np.float64)
    before = np.concatenate([[0.0], cumulated])[graph.indptr[:-1]]
    cumulated -= np.repeat(before, np.diff(graph.indptr))
    starts = np.stack([np.repeat(np.arange(nodes), walks), np.tile(np.arange(walks), nodes)], axis=1)
    paths = np.empty((len(starts), length), np.int32)

    def part(low: int) -> None:
        rows = slice(low, low + 1000)
        biased_walks(graph.indptr, graph.indices, cumulated, starts[rows], length, p, q, seed, paths[rows])

    list(pool.map(part, range(0, len(starts), 1000)))
    return paths


def _pmi_matrix(
    paths: NDArray[np.int32], nodes: int, window: int, shift: float, pool: ThreadPoolExecutor
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return max(0, PMI - shift) of the nodes of walks as the three arrays of a CSR matrix."""
    from panmodal.embeddings.network_kernels import positive_pmi

    flat = paths.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(nodes + 1))
    totals = np.zeros(nodes)
    nothing = np.empty(0, np.int32)
    positive_pmi(paths, order, bounds, 0, nodes, window, np.empty(0), shift, nothing, totals)
    step = 256

    def part(low: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        high = min(low + step, nodes)
        indices, data = np.empty((high - low) * nodes, np.int32), np.empty((high - low) * nodes)
        found = positive_pmi(paths, order, bounds, low, high, window, totals, shift, indices, data)
        used = int(found.sum())
        return found, indices[:used].copy(), data[:used].astype(np.float32)

    parts = list(pool.map(part, range(0, nodes, step)))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([found for found, _, _ in parts]))])
    return indptr, np.concatenate([i for _, i, _ in parts]), np.concatenate([d for _, _, d in parts])


def degree_vectors(graph: Any, features: Sequence[str] = DEGREE_FEATURES) -> NDArray[np.float64]:
    """Return log(1 + feature) of each node, nodes x features.

    Parameters
    ----------
    graph
        Symmetric sparse matrix of positive weights, every node with an edge.
    features
        ``degree``: number of neighbours; ``strength``: sum of weights; ``core``: core number (the largest k such that the node is
        in a subgraph where all have k neighbours).
    """
    from panmodal.embeddings.network_kernels import core_numbers

    odd = [name for name in features if name not in DEGREE_FEATURES]
    if odd or not features:
        raise InputError(f"degree: no feature {', '.join(map(repr, odd))}; there are {', '.join(DEGREE_FEATURES)}.")
    made = {
        "degree": lambda: np.diff(graph.indptr),
        "strength": lambda: np.asarray(graph.sum(axis=1)).ravel(),
        "core": lambda: core_numbers(graph.indptr, graph.indices),
    }
    return np.log1p(np.column_stack([made[name]() for name in features]).astype(np.float64))

"""Network embeddings: from who interacts with whom to a vector for each gene."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import positive_peaks, require_dims, symmetric_svd, truncated_svd
from panmodal.errors import InputError

SPARSE_ENTRIES = 8_000_000
"""NetMF matrices of at most so many entries are factorised as sparse matrices in double precision."""
RESERVE = 0.75
"""GiB of the memory that are not for the matrix: graph, basis, interpreter."""
_COLUMNS, _ROWS = 64, 512


def adjacency(edges: pd.DataFrame, a: str = "a", b: str = "b", weight: str | None = None) -> tuple[list[str], Any]:
    """Return sorted node names and the symmetric sparse adjacency matrix of an edge list; loops are left out.

    A pair listed twice (in either direction) counts once, with its largest weight.

    Raises
    ------
    InputError
        A column is missing, a node has no name, a weight is not a positive number, or there are no edges.
    """
    from scipy.sparse import csr_array

    missing = [c for c in (a, b, weight) if c is not None and c not in edges]
    if missing:
        raise InputError(f"edge list: no column(s) {missing}; it has {list(edges.columns)}.")
    unnamed = int(edges[[a, b]].isna().any(axis=1).sum())
    if unnamed:
        raise InputError(f"edge list: {unnamed} row(s) have an empty {a!r} or {b!r}. Remove them.")
    words, codes = [], []
    for column in (a, b):
        # Rows first, words later: a long list has few names.
        code, unique = pd.factorize(edges[column])
        words.append([str(name) for name in unique])
        codes.append(code)
    every = sorted(set(words[0]) | set(words[1]))
    where = {name: k for k, name in enumerate(every)}
    one, other = (np.array([where[w] for w in part], np.int64)[code] for part, code in zip(words, codes, strict=True))
    apart = one != other
    one, other = one[apart], other[apart]
    values = pd.to_numeric(edges[weight], errors="coerce").to_numpy(float)[apart] if weight else np.ones(len(one))
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"edge list: weights {weight!r} must be positive numbers. Remove the other edges.")
    if not len(one):
        raise InputError("edge list: no edges.")
    pair = np.minimum(one, other) * len(every) + np.maximum(one, other)
    order = np.lexsort((-values, pair))
    pair, values = pair[order], values[order]
    first = np.concatenate([[True], pair[1:] != pair[:-1]])
    used, ends = np.unique(np.concatenate(np.divmod(pair[first], len(every))), return_inverse=True)
    low, high = np.split(ends, 2)
    half = csr_array((values[first], (low, high)), shape=(len(used), len(used)))
    graph = csr_array(half + half.T)
    graph.sort_indices()
    return [every[k] for k in used], graph


def netmf(edges: pd.DataFrame, card: Card, *, dims: int = 128, window: int = 3, weight: str | None = None) -> Embedding:
    """NetMF of an edge list (see :func:`netmf_vectors`).

    Parameters
    ----------
    edges
        Columns ``a`` and ``b`` (and ``weight``): undirected edges.
    card
        Card of the result.
    dims, window
        Dimensions and window.
    """
    names, graph = adjacency(edges, weight=weight)
    vectors, _ = netmf_vectors(graph, dims, window=window)
    return Embedding(tuple(names), vectors, card)


def netmf_vectors(
    graph: Any,
    dims: int = 128,
    *,
    window: int = 3,
    negative: float = 1.0,
    method: Literal["auto", "sparse", "blocks"] = "auto",
    memory: float = 4.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Factorise the matrix that DeepWalk factorises implicitly.

    M = log max(1, vol / (b T) sum_{r=1..T} (D^-1 A)^r D^-1) with window T and b negative samples, then U sqrt(S) of its
    truncated SVD (Qiu et al., WSDM 2018, equation 2 and algorithm 3).

    Parameters
    ----------
    graph
        Symmetric sparse matrix of positive weights, nodes x nodes, every node with an edge.
    dims, window, negative
        Dimensions, T and b.
    method
        ``sparse``: M as a sparse matrix in double precision, its SVD by ARPACK. ``blocks``: M in single precision, a block of
        columns at a time, kept as far as the memory allows and computed again in each pass beyond that; its SVD by
        :func:`~panmodal.embeddings.factorise.symmetric_svd`. ``auto``: sparse up to :data:`SPARSE_ENTRIES` entries. Both are the
        literal formula; they differ by rounding.
    memory
        GiB that may be used; changes the time, not the result.

    Returns
    -------
    vectors
        nodes x dims.
    notes
        Which method was taken, and its residual if it did not converge.
    """
    require_dims(graph.shape, dims)
    if window < 1 or negative <= 0:
        raise InputError(f"NetMF: window {window} must be at least 1 and negative {negative:g} above 0.")
    entries = _entries_within(graph, window)
    if method == "auto":
        method = "sparse" if entries <= SPARSE_ENTRIES else "blocks"
    if method == "sparse":
        matrix = _netmf_sparse(graph, window, negative)
        return truncated_svd(matrix, dims).astype(np.float32), ("NetMF matrix as a whole, in double precision",)
    with _NetmfBlocks(graph, window, negative, memory, progress) as blocks:
        vectors, residual = symmetric_svd(blocks.product, graph.shape[0], dims)
    notes = ["NetMF matrix in blocks, in single precision"]
    if residual > 1e-3:
        notes.append(f"the factorisation did not converge: largest relative residual {residual:.1e}")
    return vectors, tuple(notes)


def _entries_within(graph: Any, steps: int, sample: int = 64) -> float:
    """Estimate the number of pairs of nodes at most ``steps`` apart, from those around some of the nodes."""
    nodes = graph.shape[0]
    drawn = np.sort(np.random.default_rng(0).permutation(nodes)[:sample])
    pattern = (graph != 0).astype(np.float32)
    power = total = pattern[drawn]
    for _ in range(steps - 1):
        power = power @ pattern
        power.data[:] = 1.0
        total = total + power
    return float(total.nnz) * nodes / len(drawn)


def _netmf_sparse(graph: Any, window: int, negative: float) -> Any:
    from scipy.sparse import csr_array, diags_array

    degree = np.asarray(graph.sum(axis=1)).ravel()
    walk = csr_array(diags_array(1.0 / degree) @ graph)
    power = total = walk
    for _ in range(window - 1):
        power = walk @ power
        total = total + power
    total = csr_array(total @ diags_array(degree.sum() / (negative * window * degree)))
    # Entries up to 1 have logarithm 0 under the maximum: the matrix stays sparse.
    total.data = np.log(np.maximum(total.data, 1.0))
    total.eliminate_zeros()
    return total


class _NetmfBlocks:
    """The NetMF matrix, rows of it at a time; as it is symmetric, a block of its columns is a block of its rows."""

    def __init__(
        self, graph: Any, window: int, negative: float, memory: float, progress: Callable[[int, int], None] | None
    ) -> None:
        degree = np.asarray(graph.sum(axis=1)).ravel()
        self.nodes, self.window, self.progress = graph.shape[0], window, progress
        self.graph, self.inverse = graph, 1.0 / degree
        self.weights = (graph.data / np.repeat(degree, np.diff(graph.indptr))).astype(np.float32)
        self.factor = np.float32(degree.sum() / (negative * window))
        room = max(0.0, memory - RESERVE) * 2**30 / (4 * self.nodes)
        most = self.nodes if room >= self.nodes else int(room) // _ROWS * _ROWS
        self.kept = np.empty((most, self.nodes), np.float32)
        self.passes = 0
        self.pool = ThreadPoolExecutor(cores())

    def __enter__(self) -> _NetmfBlocks:
        return self

    def __exit__(self, *problem: object) -> None:
        self.pool.shutdown()

    def product(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty((self.nodes, x.shape[1]), np.float32)
        spare = np.empty((_ROWS, self.nodes), np.float32)
        for low in range(0, self.nodes, _ROWS):
            high = min(low + _ROWS, self.nodes)
            keep = high <= len(self.kept)
            rows = self.kept[low:high] if keep else spare[: high - low]
            if not (keep and self.passes):
                list(self.pool.map(lambda at, r=rows, lo=low: self._fill(r, lo, at), range(0, high - low, _COLUMNS)))
            out[low:high] = rows @ x
            if self.progress and not self.passes:
                self.progress(high, self.nodes)
        self.passes += 1
        return out

    def _fill(self, rows: NDArray[np.float32], low: int, at: int) -> None:
        from panmodal.embeddings.network_kernels import sparse_times_dense

        columns = range(low + at, min(low + at + _COLUMNS, low + len(rows)))
        start = np.zeros((self.nodes, len(columns)), np.float32)
        indptr, indices = self.graph.indptr, self.graph.indices
        for k, column in enumerate(columns):
            near = slice(indptr[column], indptr[column + 1])
            start[indices[near], k] = self.graph.data[near] * self.inverse[indices[near]] * self.inverse[column]
        # With P = D^-1 A and s = P D^-1: s + P s + P P s + ... by Horner's scheme.
        total, spare = start.copy() if self.window > 2 else start, np.empty_like(start)
        for step in range(self.window - 1):
            sparse_times_dense(indptr, indices, self.weights, total, spare)
            total, spare = spare, (np.empty_like(start) if step == 0 and total is start else total)
            total += start
        total *= self.factor
        np.log(np.maximum(total, 1.0, out=total), out=total)
        rows[at : at + len(columns)] = total.T


def spectral_vectors(
    graph: Any,
    dims: int = 128,
    *,
    kind: Literal["laplacian", "normalised", "adjacency"] = "laplacian",
    regularise: float = 1.0,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Leading eigenvectors of a graph, found component by component.

    Parameters
    ----------
    graph
        Symmetric sparse matrix of positive weights, nodes x nodes, every node with an edge.
    kind
        - ``laplacian``: Laplacian eigenmaps (Belkin and Niyogi 2003): eigenvectors of I - D^-1 A of the smallest eigenvalues,
          without the constant one of each component, scaled so that y' D y = sum of D.
        - ``normalised``: U sqrt(|S|) of D^-1/2 A D^-1/2, by largest magnitude.
        - ``adjacency``: U sqrt(|S|) of A, by largest magnitude (adjacency spectral embedding, Sussman et al. 2012).
    regularise
        D + tau I instead of D, with tau this many mean degrees (Qin and Rohe 2013 take 1): without it (0) many leading
        eigenvectors are those of a few nodes at the rim. Not for ``adjacency``.

    Returns
    -------
    vectors
        nodes x dims, the leading dimension first; zero for nodes of a component that has no part in any.
    """
    from scipy.sparse import csr_array, diags_array

    require_dims(graph.shape, dims)
    if regularise < 0:
        raise InputError(f"spectral: regularise {regularise:g} must not be negative.")
    degree = np.asarray(graph.sum(axis=1)).ravel()
    degree = degree + regularise * degree.mean()
    scale = diags_array(1.0 / np.sqrt(degree))
    matrix = csr_array(graph if kind == "adjacency" else scale @ graph @ scale)
    labels, sizes = components(graph)
    skip = int(kind == "laplacian")
    if graph.shape[0] - skip * len(sizes) < dims:
        raise InputError(
            f"a network of {graph.shape[0]} nodes in {len(sizes)} components has no {dims} dimensions to keep; ask for fewer."
        )
    found = []
    for component in range(len(sizes)):
        members = np.flatnonzero(labels == component)
        part = matrix if len(sizes) == 1 else matrix[members][:, members]
        values, vectors = _eigenpairs(part, min(dims + skip, len(members)), kind != "laplacian", seed)
        found += [(value, members, vectors[:, k]) for k, value in enumerate(values) if k >= skip]
    found.sort(key=lambda pair: -pair[0] if kind == "laplacian" else -abs(pair[0]))
    out = np.zeros((graph.shape[0], dims))
    for k, (value, members, vector) in enumerate(found[:dims]):
        if kind == "laplacian":
            out[members, k] = vector * np.sqrt(degree.sum() / degree[members])
        else:
            out[members, k] = vector * np.sqrt(abs(value))
    return positive_peaks(out)


def _eigenpairs(
    matrix: Any, count: int, by_magnitude: bool, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading eigenpairs of a symmetric sparse matrix, the largest (or of largest magnitude) first."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    if matrix.shape[0] <= max(500, 2 * count):
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(matrix.shape[0])
        try:
            values, vectors = eigsh(matrix, k=count, which="LM" if by_magnitude else "LA", v0=start)
        except ArpackNoConvergence as error:
            raise InputError(
                f"the eigenvectors of this network were not found ({error}). Ask for other dims."
            ) from error
    order = np.argsort(-np.abs(values) if by_magnitude else -values, kind="stable")[:count]
    return values[order], vectors[:, order]


def components(graph: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the component of each node and the sizes of the components, the largest first."""
    from scipy.sparse.csgraph import connected_components

    count, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return place[labels], sizes[order]


def cores() -> int:
    """How many processors this process may use."""
    from joblib import cpu_count

    return int(cpu_count())

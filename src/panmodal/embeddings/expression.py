"""Gene vectors from untreated cells: what varies together in control cells, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.control_cells import CHUNK_VALUES
from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.embeddings.control_cells import ControlCells

GIB = 2**30
BLOCK_VALUES = 2**23
"""Values of a dense block of cells (64 MiB)."""
DENSE = 1500
"""Up to this many genes all eigenvectors are computed, which is exact and quicker than iterating."""


@dataclass(frozen=True)
class Covariance:
    """Covariance of genes over control cells.

    Attributes
    ----------
    genes
        The genes kept, in the order of the file.
    matrix
        genes x genes, float64, divided by ``freedom``.
    left_out
        Gene -> why it is left out.
    n_cells, freedom
        Control cells; cells less the groups centred apart (all cells where nothing is centred).
    """

    genes: list[str]
    matrix: NDArray[np.float64]
    left_out: dict[str, str]
    n_cells: int
    freedom: int


def covariance(
    cells: ControlCells, *, min_cells: int = 10, centred: bool = True, memory: float = 4.0, chunk_values: int = CHUNK_VALUES,
    progress: Callable[[int, int], None] | None = None,
) -> Covariance:  # fmt: skip
    """Covariance of the log-normalised expression of genes over control cells.

    Two passes: the first counts and averages, the second adds up products of centred values in double precision, a dense block
    of cells at a time. Memory: 8 genes^2 bytes for the matrix and about 0.5 GiB; the sparse values of the control cells are kept
    from the first pass to the second if they fit beside it, else the files are read twice.

    Parameters
    ----------
    cells
        Control cells; they are centred within their groups.
    min_cells
        Genes expressed in fewer control cells are left out, as are those that do not vary.
    centred
        Subtract means; without it the matrix holds mean products.
    memory
        Bound, GiB.
    chunk_values, progress
        Stored values read at a time; called with (cells read, cells to read) in the first pass.

    Raises
    ------
    InputError
        Fewer than two genes are left; too little memory.
    """
    from scipy.linalg.blas import dsyrk
    from scipy.sparse import csr_array

    width, n_groups = len(cells.stream.genes), cells.n_groups
    held: list[tuple[Any, NDArray[np.intp]]] | None = []
    size, seen = 0, np.zeros(width, dtype=np.int64)
    sums, number = np.zeros((n_groups, width)), np.bincount(cells.group[cells.used], minlength=n_groups)
    for block, rows in cells.normalised(chunk_values, progress):
        seen += np.bincount(block.indices[block.data > 0], minlength=width)
        group = cells.group[rows]
        member = csr_array((np.ones(len(rows)), (group, np.arange(len(rows)))), shape=(n_groups, len(rows)))
        sums += (member @ block).toarray()
        size += block.data.nbytes + block.indices.nbytes + block.indptr.nbytes
        if size > 0.4 * memory * GIB:
            held = None
        elif held is not None:
            held.append((block, rows))
    n = cells.n_cells
    few = seen < max(1, min_cells)
    left_out = {cells.stream.genes[j]: f"expressed in {seen[j]} of {n} control cells, fewer than {max(1, min_cells)}"
                for j in np.flatnonzero(few)}  # fmt: skip
    kept = np.flatnonzero(~few)
    _enough(cells, kept, min_cells)
    need = 8 * len(kept) ** 2 + (size if held is not None else 0) + GIB // 2
    if need > memory * GIB and held is not None:
        held, need = None, need - size
    if need > memory * GIB:
        raise InputError(
            f"the covariance of {len(kept)} genes needs {need / GIB:.1f} GiB, more than --memory {memory:g}. Give more, or keep fewer "
            f"genes with a larger --min-cells ({min_cells} now)."
        )
    means = sums[:, kept] / number[:, None] if centred else np.zeros((n_groups, len(kept)))
    matrix = np.zeros((len(kept), len(kept)), order="F")
    step = max(16, BLOCK_VALUES // max(1, len(kept)))
    for block, rows in held if held is not None else cells.normalised(chunk_values):
        own = block[:, kept] if few.any() else block
        for start in range(0, own.shape[0], step):
            dense = own[start : start + step].toarray().astype(np.float64)
            dense -= means[cells.group[rows[start : start + step]]]
            matrix = dsyrk(1.0, dense.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
    freedom = n - n_groups if centred else n
    _mirror(matrix)
    matrix /= max(1, freedom)
    still = np.diag(matrix) <= 1e-12 * np.diag(matrix).max(initial=0.0)
    if still.any():
        left_out |= {cells.stream.genes[j]: "does not vary over control cells" for j in kept[still]}
        kept, matrix = kept[~still], np.asfortranarray(matrix[np.ix_(~still, ~still)])
    _enough(cells, kept, min_cells)
    return Covariance([cells.stream.genes[j] for j in kept], matrix, left_out, n, freedom)


def _enough(cells: ControlCells, kept: NDArray[np.intp], least: int) -> None:
    if len(kept) < 2:
        raise InputError(
            f"{', '.join(map(str, cells.stream.paths))}: {len(kept)} of {len(cells.stream.genes)} genes vary and are expressed in "
            f"at least {least} of {cells.n_cells} control cells; at least 2 are needed. Lower --min-cells."
        )


def _mirror(lower: NDArray[np.float64]) -> None:
    """Copy the lower triangle of a matrix to the upper one, in place."""
    size, step = len(lower), 1024
    for a in range(0, size, step):
        b = min(a + step, size)
        corner = np.tril(lower[a:b, a:b])
        lower[a:b, a:b] = corner + np.tril(corner, -1).T
        lower[a:b, b:] = lower[b:, a:b].T


def symmetric_factors(matrix: Any, dims: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return U sqrt|w| (n x r) and w (r) of the eigenvalues of largest magnitude of a symmetric matrix, r = min(dims, rank).

    Of a positive semi-definite matrix these are the eigenvectors scaled by the square roots of the eigenvalues; of others, U sqrt(S)
    of the truncated SVD. Deterministic; the entry of largest magnitude of each column is positive. Eigenvalues below 1e-10 of the
    largest count as zero.
    """
    from scipy.linalg import eigh
    from scipy.sparse import issparse
    from scipy.sparse.linalg import eigsh

    size = matrix.shape[0]
    if size <= DENSE or 3 * dims >= size:
        values, vectors = eigh(matrix.toarray() if issparse(matrix) else matrix)
    else:
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = eigsh(matrix, k=dims, which="LM", v0=start)
    order = np.argsort(-np.abs(values), kind="stable")[:dims]
    order = order[np.abs(values[order]) > 1e-10 * np.abs(values[order[0]])] if np.any(values) else order[:0]
    scores = vectors[:, order] * np.sqrt(np.abs(values[order]))
    peak = np.abs(scores).argmax(axis=0)
    return scores * np.where(scores[peak, np.arange(len(order))] < 0, -1.0, 1.0), values[order]


def correlation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide a covariance by the deviations, in place: r_ij = c_ij / sqrt(c_ii c_jj), with a diagonal of exactly 1."""
    scale = 1.0 / np.sqrt(np.diag(matrix))
    matrix *= scale[:, None]
    matrix *= scale[None, :]
    np.fill_diagonal(matrix, 1.0)
    return matrix


def nearest(similarity: NDArray[np.float64], neighbours: int) -> Any:
    """Keep of each row the ``neighbours`` entries of largest magnitude beside the diagonal (CSR), and their mirror images.

    Of equal entries at the boundary the first in the order of the columns stay.
    """
    from scipy.sparse import csr_array

    size = len(similarity)
    keep = min(neighbours, size - 1)
    columns = np.empty((size, keep), dtype=np.int64)
    for i in range(size):
        strength = np.abs(similarity[i])
        strength[i] = -1.0
        columns[i] = np.argsort(-strength, kind="stable")[:keep]
    rows = np.repeat(np.arange(size), keep)
    both = np.concatenate([rows * size + columns.ravel(), columns.ravel() * size + rows, np.arange(size) * (size + 1)])
    first, second = np.divmod(np.unique(both), size)
    return csr_array((similarity[first, second], (first, second)), shape=(size, size))

"""Network embeddings: from who interacts with whom to a vector for each gene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.errors import InputError


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
    pairs = edges[edges[a] != edges[b]]
    low, high = (
        np.minimum(pairs[a].astype(str), pairs[b].astype(str)),
        np.maximum(pairs[a].astype(str), pairs[b].astype(str)),
    )
    values = pd.to_numeric(pairs[weight], errors="coerce").to_numpy(float) if weight else np.ones(len(pairs))
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"edge list: weights {weight!r} must be positive numbers. Remove the other edges.")
    once = pd.DataFrame({"a": low, "b": high, "w": values}).groupby(["a", "b"], sort=True)["w"].max().reset_index()
    names = sorted(set(once["a"]) | set(once["b"]))
    if not names:
        raise InputError("edge list: no edges.")
    where = {n: k for k, n in enumerate(names)}
    rows, columns = once["a"].map(where).to_numpy(), once["b"].map(where).to_numpy()
    half = csr_array((once["w"].to_numpy(), (rows, columns)), shape=(len(names), len(names)))
    return names, half + half.T


def netmf(edges: pd.DataFrame, card: Card, *, dims: int = 128, window: int = 3, weight: str | None = None) -> Embedding:
    """NetMF: factorise the matrix that DeepWalk factorises implicitly.

    M = log max(1, vol / (b T) sum_{r=1..T} (D^-1 A)^r D^-1) with window T and b = 1 negative sample, then U sqrt(S) of its
    truncated SVD (Qiu et al., WSDM 2018, equation 2).

    Parameters
    ----------
    edges
        Columns ``a`` and ``b`` (and ``weight``): undirected edges.
    card
        Card of the result.
    dims, window
        Dimensions and window.
    """
    from scipy.sparse import csr_array, diags_array

    names, graph = adjacency(edges, weight=weight)
    degree = np.asarray(graph.sum(axis=1)).ravel()
    walk = csr_array(diags_array(1.0 / degree) @ graph)
    power = total = walk
    for _ in range(window - 1):
        power = walk @ power
        total = total + power
    total = csr_array(total @ diags_array(degree.sum() / (window * degree)))
    # Entries up to 1 have logarithm 0 under the maximum: the matrix stays sparse.
    total.data = np.log(np.maximum(total.data, 1.0))
    total.eliminate_zeros()
    return Embedding(tuple(names), truncated_svd(total, dims).astype(np.float32), card)

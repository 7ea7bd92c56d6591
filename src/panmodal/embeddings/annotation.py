"""Annotation embeddings: from what is known of a gene (terms, pathways) to a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.errors import InputError

SCALES = ("sqrt", "full", "none")
"""What the left singular vectors U are multiplied by: sqrt(S), S (as scikit-learn's TruncatedSVD), or nothing."""


def scaled_svd(matrix: Any, dims: int, scale: str = "sqrt") -> NDArray[np.float64]:
    """Return the ``dims`` first left singular vectors of a matrix, scaled by their singular values (rows x dims).

    ``scale`` is ``sqrt`` (U sqrt(S)), ``full`` (U S, as scikit-learn's TruncatedSVD) or ``none`` (U).
    """
    if scale not in SCALES:
        raise InputError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}.")
    scores = truncated_svd(matrix, dims)
    # The columns of U have length 1, those of U sqrt(S) the root of their singular value.
    lengths = np.linalg.norm(scores, axis=0)
    if scale == "full":
        return scores * lengths
    # A matrix of lower rank has columns of zeros: nothing to scale.
    return scores / np.where(lengths > 0, lengths, 1.0) if scale == "none" else scores


def annotation_vectors(
    pairs: pd.DataFrame,
    dims: int = 128,
    *,
    gene: str = "gene",
    term: str = "term",
    min_genes: int = 2,
    max_share: float = 1.0,
    idf: bool = True,
    unit_norm: bool = True,
    scale: str = "sqrt",
) -> tuple[list[str], NDArray[np.float64], dict[str, str]]:
    """Factorise the gene x term matrix by truncated SVD.

    Parameters
    ----------
    pairs
        Columns ``gene`` and ``term``; the order of rows, and repeated rows, make no difference.
    dims
        Dimensions kept.
    gene, term
        Names of the columns.
    min_genes, max_share
        Terms of fewer genes, or of more than this share of all genes (0 to 1), are left out.
    idf
        Weight terms by ln((1 + n) / (1 + n_term)) + 1, as scikit-learn's TfidfTransformer; 1 otherwise.
    unit_norm
        Scale the row of each gene to length 1, so that much-studied genes do not lead.
    scale
        See :func:`scaled_svd`.

    Returns
    -------
    tuple
        Genes (sorted), vectors (genes x dims), and gene -> why it has no vector.

    Raises
    ------
    InputError
        A column is missing, has empty cells, an option is out of range, or the matrix has not more than ``dims`` rows or
        columns.
    """
    from scipy.sparse import csr_array, diags_array

    missing = [c for c in (gene, term) if c not in pairs]
    if missing:
        raise InputError(f"annotation: no column(s) {missing}; it has {list(pairs.columns)}.")
    empty = int(pairs[[gene, term]].isna().any(axis=1).sum())
    if empty:
        raise InputError(f"annotation: {empty} row(s) have an empty {gene!r} or {term!r}. Remove them.")
    if min_genes < 1 or not 0 < max_share <= 1:
        raise InputError(
            f"annotation: min_genes is {min_genes}, max_share {max_share:g}; want at least 1, and above 0 up to 1."
        )
    unique = pairs[[gene, term]].astype({gene: str}).drop_duplicates()
    named = unique.groupby(gene).size()
    size = unique.groupby(term)[gene].transform("size")
    unique = unique[(size >= min_genes) & (size <= max_share * len(named))]
    genes, g = np.unique(unique[gene].to_numpy(), return_inverse=True)
    terms, t = np.unique(unique[term].to_numpy(), return_inverse=True)
    weights = np.ones(len(terms))
    if idf:
        weights = np.log((1 + len(genes)) / (1 + np.bincount(t, minlength=len(terms)))) + 1
    matrix = csr_array((weights[t], (g, t)), shape=(len(genes), len(terms)))
    if unit_norm:
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix = diags_array(1.0 / norms) @ matrix
    limits = f"{min_genes} genes or more" + (f" and {100 * max_share:g} % of them or fewer" if max_share < 1 else "")
    left_out = {str(i): f"none of its {n} term(s) has {limits}" for i, n in named.drop(genes).items()}
    return genes.tolist(), scaled_svd(matrix.tocsr(), dims, scale), left_out


def annotation_svd(
    pairs: pd.DataFrame, card: Card, *, dims: int = 128, gene: str = "gene", term: str = "term"
) -> Embedding:
    """Embed genes by :func:`annotation_vectors` with its defaults: idf weights, unit norm, terms of two genes or more."""
    ids, vectors, _ = annotation_vectors(pairs, dims, gene=gene, term=term)
    return Embedding(tuple(ids), vectors.astype(np.float32), card)

"""Annotation embeddings: from what is known of a gene (terms, pathways) to a vector."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.errors import InputError


def annotation_svd(
    pairs: pd.DataFrame, card: Card, *, dims: int = 128, gene: str = "gene", term: str = "term"
) -> Embedding:
    """Factorise the gene x term matrix, terms weighted by inverse document frequency, genes scaled to unit norm.

    idf = ln((1 + n) / (1 + n_term)) + 1 as in scikit-learn's TfidfTransformer. Terms of a single gene are left out, and
    genes that have no other term with them.
    """
    from scipy.sparse import csr_array, diags_array

    missing = [c for c in (gene, term) if c not in pairs]
    if missing:
        raise InputError(f"annotation: no column(s) {missing}; it has {list(pairs.columns)}.")
    empty = int(pairs[[gene, term]].isna().any(axis=1).sum())
    if empty:
        raise InputError(f"annotation: {empty} row(s) have an empty {gene!r} or {term!r}. Remove them.")
    unique = pairs[[gene, term]].astype({gene: str}).drop_duplicates()
    unique = unique[unique.groupby(term)[gene].transform("size") > 1]
    genes, g = np.unique(unique[gene].to_numpy(), return_inverse=True)
    terms, t = np.unique(unique[term].to_numpy(), return_inverse=True)
    counts = np.bincount(t, minlength=len(terms))
    idf = np.log((1 + len(genes)) / (1 + counts)) + 1
    matrix = csr_array((idf[t], (g, t)), shape=(len(genes), len(terms)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = diags_array(1.0 / norms) @ matrix
    return Embedding(tuple(genes.tolist()), truncated_svd(matrix.tocsr(), dims).astype(np.float32), card)

"""Homology embeddings: from the similarity of protein sequences to a vector for each gene."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.embeddings.network import adjacency


def homology_svd(edges: pd.DataFrame, card: Card, *, dims: int = 128, identity: str = "id") -> Embedding:
    """Factorise the matrix of sequence identities (1 on the diagonal) by truncated SVD.

    Parameters
    ----------
    edges
        Columns ``a``, ``b`` and ``identity`` (fraction identical, 0 to 1). Genes without any homolog get no vector.
    card
        Card of the result.
    """
    from scipy.sparse import eye_array

    names, graph = adjacency(edges, weight=identity)
    similarity = graph + eye_array(len(names))
    return Embedding(tuple(names), truncated_svd(similarity.tocsr(), dims).astype(np.float32), card)

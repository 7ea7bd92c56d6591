"""Embeddings that panmodal can make with nothing but the tables it ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from panmodal.embeddings.annotation import annotation_svd
from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.homology import homology_svd
from panmodal.embeddings.network import netmf
from panmodal.errors import InputError


@dataclass(frozen=True)
class EmbeddedEmbedding:
    """A named embedding and the function that makes it from a shipped table."""

    card: Card
    table: str
    build: Callable[[pd.DataFrame, Card], Embedding]


def _as_is(frame: pd.DataFrame, card: Card) -> Embedding:
    return Embedding(tuple(map(str, frame.index)), frame.to_numpy("float32"), card)


EMBEDDED = {
    entry.card.name: entry
    for entry in (
        EmbeddedEmbedding(
            Card(name="string-netmf", modality="network", id_namespace="hgnc_symbol", licence="CC BY 4.0",
                 source="STRING v12, physical links, score >= 900", url="https://string-db.org",
                 description="NetMF (window 3, 128 dims) of the STRING physical interaction network",
                 recipe="panmodal.embeddings.network.netmf(edges, dims=128, window=3)"),
            "string_physical_900_edges.parquet", netmf,
        ),
        EmbeddedEmbedding(
            Card(name="go-svd", modality="annotation", id_namespace="hgnc_symbol", licence="CC BY 4.0",
                 source="Gene Ontology, biological process", url="https://geneontology.org",
                 description="truncated SVD (128 dims) of idf-weighted gene x GO biological process terms",
                 recipe="panmodal.embeddings.annotation.annotation_svd(pairs, dims=128)"),
            "go_bp_gene_terms.parquet", annotation_svd,
        ),
        EmbeddedEmbedding(
            Card(name="gene-name-minilm", modality="text", id_namespace="hgnc_symbol", licence="CC0 names, Apache-2.0 model",
                 source="HGNC gene names through all-MiniLM-L6-v2",
                 url="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
                 description="sentence embedding of the HGNC gene name (not of its literature), PCA to 128 dims",
                 recipe="shipped as a table"),
            "text_minilm_names_pca128.parquet", _as_is,
        ),
        EmbeddedEmbedding(
            Card(name="homology-svd", modality="protein", id_namespace="hgnc_symbol", licence="see NOTICE",
                 source="protein sequence homology (fraction of identical residues)",
                 description="truncated SVD (128 dims) of the matrix of sequence identities; genes without homolog have none",
                 recipe="panmodal.embeddings.homology.homology_svd(edges, dims=128)"),
            "protein_homology_edges.parquet", homology_svd,
        ),
    )
}  # fmt: skip
"""Shipped embeddings by name."""


def embedded_embedding(name: str) -> Embedding:
    """Build a shipped embedding by name."""
    if name not in EMBEDDED:
        raise InputError(f"no shipped embedding {name!r}; there are {', '.join(EMBEDDED)}.")
    entry = EMBEDDED[name]
    with files("panmodal.data").joinpath(entry.table).open("rb") as stream:
        frame = pd.read_parquet(stream)
    return entry.build(frame, entry.card)

"""Embeddings that panmodal can make with nothing but the tables it ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError
from panmodal.studies import NONE


@dataclass(frozen=True)
class EmbeddedEmbedding:
    """A named embedding: its builder, the options (shipped tables as ``panmodal:TABLE``) and the fields of its card."""

    name: str
    builder: str
    options: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def card(self) -> Card:
        """The card as far as it is known before anything is made."""
        return Card(name=self.name, id_namespace="hgnc_symbol", trained_on=(NONE,), **self.fields)

    def build(self) -> Embedding:
        """Make the embedding."""
        from panmodal.embeddings.embed import embed

        return embed(self.builder, card=self.card.model_dump(exclude_defaults=True), **self.options)


EMBEDDED = {
    entry.name: entry
    for entry in (
        EmbeddedEmbedding(
            "string-netmf", "netmf", {"edges": "panmodal:string_physical_900_edges.parquet"},
            {"modality": "network", "licence": "CC BY 4.0", "source": "STRING v12, physical links, score >= 900",
             "url": "https://string-db.org",
             "description": "NetMF (window 3, 128 dims) of the STRING physical interaction network"},
        ),
        EmbeddedEmbedding(
            "go-svd", "annotation", {"terms": "panmodal:go_bp_gene_terms.parquet"},
            {"modality": "annotation", "licence": "CC BY 4.0", "source": "Gene Ontology, biological process",
             "url": "https://geneontology.org",
             "description": "truncated SVD (128 dims) of idf-weighted gene x GO biological process terms"},
        ),
        EmbeddedEmbedding(
            "gene-name-minilm", "table", {"vectors": "panmodal:text_minilm_names_pca128.parquet"},
            {"modality": "text", "licence": "CC0 names, Apache-2.0 model",
             "source": "HGNC gene names through all-MiniLM-L6-v2",
             "url": "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
             "description": "sentence embedding of the HGNC gene name (not of its literature), PCA to 128 dims"},
        ),
        EmbeddedEmbedding(
            "homology-svd", "homology", {"edges": "panmodal:protein_homology_edges.parquet"},
            {"modality": "protein", "licence": "see NOTICE",
             "source": "protein sequence homology (fraction of identical residues)",
             "description": "truncated SVD (128 dims) of the matrix of sequence identities; genes without homolog have none"},
        ),
    )
}  # fmt: skip
"""Shipped embeddings by name."""


def embedded_embedding(name: str) -> Embedding:
    """Make a shipped embedding by name."""
    if name not in EMBEDDED:
        raise InputError(f"no shipped embedding {name!r}; there are {', '.join(EMBEDDED)}.")
    return EMBEDDED[name].build()

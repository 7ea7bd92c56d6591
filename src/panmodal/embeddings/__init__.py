"""What stands for a perturbation: embeddings, their cards and files."""

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Coverage, Embedding
from panmodal.embeddings.reading import read_embedding, write_embedding

__all__ = ["Card", "Coverage", "Embedding", "read_embedding", "write_embedding"]

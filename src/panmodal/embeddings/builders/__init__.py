"""Builders: how embeddings are made. One module or more for each modality; the registry finds their records."""

from panmodal.embeddings.builders.base import Builder, Built, Option, Progress, select
from panmodal.embeddings.builders.registry import builders, get_builder

__all__ = ["Builder", "Built", "Option", "Progress", "builders", "get_builder", "select"]

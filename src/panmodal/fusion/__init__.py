"""Fusions: models that predict a response from several embeddings at once. They know arrays only."""

from panmodal.fusion.base import (
    ContextTargets,
    Fitted,
    Fused,
    Fusion,
    Modalities,
    Options,
    Setting,
    fit_fusion,
    fusions,
    get_fusion,
)

__all__ = [
    "ContextTargets",
    "Fitted",
    "Fused",
    "Fusion",
    "Modalities",
    "Options",
    "Setting",
    "fit_fusion",
    "fusions",
    "get_fusion",
]

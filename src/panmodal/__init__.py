"""panmodal: the benchmark of perturbation embeddings.

Which representation of a gene or a molecule best predicts how cells respond when that gene is knocked out or that molecule is
added?

>>> import panmodal
>>> screen = panmodal.Screen.read("screen.h5ad")            # doctest: +SKIP
>>> mine = panmodal.Embedding.read("mine.parquet")          # doctest: +SKIP
>>> results = panmodal.run(screen, [mine], "results/")      # doctest: +SKIP
>>> results.leaderboard()                                   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from panmodal._version import __version__

if TYPE_CHECKING:
    from panmodal.cells.ceiling import CeilingOptions, make_ceilings
    from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
    from panmodal.cells.simulate import simulate_cells
    from panmodal.embeddings import Card, Embedding, read_embedding
    from panmodal.embeddings.builders import Builder, Built, builders
    from panmodal.embeddings.embed import embed, make_embedding, regenerate
    from panmodal.errors import InputError, LeakError, PanmodalError, StoreError
    from panmodal.evaluation.api import run_config, write_leaderboard
    from panmodal.evaluation.config import RunConfig
    from panmodal.evaluation.fuse import fuse
    from panmodal.evaluation.metrics import METRICS
    from panmodal.evaluation.reproduce import reproduce
    from panmodal.evaluation.rescoring import rescore
    from panmodal.evaluation.run import Results, run
    from panmodal.evaluation.store import Store
    from panmodal.fusion.fusion_cv import FusionCV
    from panmodal.identifiers import CompoundResolver, GeneResolver, match_ids
    from panmodal.insight.gaps import gap_table
    from panmodal.insight.leaderboard import leaderboard, overall
    from panmodal.probes import ProbeCV
    from panmodal.screens import Screen, Split, make_split, read_screen, read_split
    from panmodal.screens.ceilings import Ceilings

# Loaded on first use, so that importing panmodal is quick.
_WHERE = {
    "Card": "embeddings", "Embedding": "embeddings", "read_embedding": "embeddings",
    "Builder": "embeddings.builders", "Built": "embeddings.builders", "builders": "embeddings.builders",
    "embed": "embeddings.embed", "make_embedding": "embeddings.embed", "regenerate": "embeddings.embed",
    "CompoundResolver": "identifiers", "GeneResolver": "identifiers", "match_ids": "identifiers",
    "InputError": "errors", "LeakError": "errors", "PanmodalError": "errors", "StoreError": "errors",
    "run_config": "evaluation.api", "write_leaderboard": "evaluation.api", "RunConfig": "evaluation.config",
    "METRICS": "evaluation.metrics", "Results": "evaluation.run", "rescore": "evaluation.rescoring", "run": "evaluation.run",
    "Store": "evaluation.store", "fuse": "evaluation.fuse", "reproduce": "evaluation.reproduce", "FusionCV": "fusion.fusion_cv",
    "leaderboard": "insight.leaderboard", "overall": "insight.leaderboard",
    "gap_table": "insight.gaps", "ProbeCV": "probes", "Ceilings": "screens.ceilings",
    "CeilingOptions": "cells.ceiling", "make_ceilings": "cells.ceiling", "PrepareOptions": "cells.prepare",
    "open_cells": "cells.prepare", "prepare": "cells.prepare", "simulate_cells": "cells.simulate",
    "Screen": "screens", "Split": "screens", "make_split": "screens", "read_screen": "screens", "read_split": "screens",
}  # fmt: skip

__all__ = [
    "METRICS", "Builder", "Built", "Card", "CeilingOptions", "Ceilings", "CompoundResolver", "Embedding", "FusionCV", "GeneResolver",
    "InputError", "LeakError", "PanmodalError",
    "PrepareOptions", "ProbeCV", "Results", "RunConfig", "Screen", "Split", "Store", "StoreError",
    "__version__", "builders", "embed", "fuse", "gap_table", "leaderboard", "make_ceilings", "make_embedding",
    "make_split", "match_ids", "open_cells", "overall",
    "prepare", "read_embedding", "read_screen", "read_split", "regenerate", "reproduce", "rescore", "run", "run_config",
    "simulate_cells",
    "write_leaderboard",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"panmodal.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'panmodal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

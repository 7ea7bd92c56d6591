"""What a report consists of: where each section's conclusions are drawn."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from panmodal.errors import PanmodalError
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence


@dataclass(frozen=True)
class Section:
    """A section: its name, its heading as a question, and the module whose ``displays(evidence)`` answers it."""

    name: str
    title: str
    module: str


SECTIONS = (
    Section("ranks", "How sure is the ranking?", "panmodal.insight.ranks"),
    Section("checks", "What should make one doubt?", "panmodal.insight.checks"),
    Section("calibration", "Can the metrics be trusted here?", "panmodal.insight.calibration"),
    Section("patterns", "Which responses are predicted, and which are not?", "panmodal.insight.patterns"),
    Section("similarity", "What do the embeddings share?", "panmodal.insight.similarity"),
    Section("fusion", "Does it help to combine embeddings?", "panmodal.insight.fusion"),
    Section("advice", "What should one do?", "panmodal.insight.advice"),
)
"""Sections in the order of the report; adding one is adding a row and a module."""


def displays(evidence: Evidence, names: Sequence[str] | None = None) -> dict[str, list[Display] | str]:
    """Draw the conclusions of all sections, or of those named.

    Returns
    -------
    dict
        Name of the section -> its displays, or why there are none (what these results lack for it).
    """
    found: dict[str, list[Display] | str] = {}
    for section in SECTIONS:
        if names is not None and section.name not in names:
            continue
        try:
            made = importlib.import_module(section.module).displays(evidence)
        except PanmodalError as error:
            found[section.name] = str(error)
        else:
            found[section.name] = made or "These results hold nothing to say here."
    return found

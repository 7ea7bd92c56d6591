"""Coded checks of results: what was found, why it matters, what to do; ``panmodal check``."""

from panmodal.insight.checks.knowledge import Knowledge
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.checks.registry import checks, get_check
from panmodal.insight.checks.run import CheckReport, displays, run_checks

__all__ = [
    "Check",
    "CheckReport",
    "Finding",
    "Knowledge",
    "Option",
    "Unchecked",
    "checks",
    "displays",
    "get_check",
    "run_checks",
]

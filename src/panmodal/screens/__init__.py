"""What was measured: screens, their reading, and splits of their perturbations."""

from panmodal.screens.reading import read_screen, write_screen
from panmodal.screens.screen import RESPONSE_KINDS, ResponseKind, Screen
from panmodal.screens.splits import Split, audit, make_split, read_split

__all__ = [
    "RESPONSE_KINDS",
    "ResponseKind",
    "Screen",
    "Split",
    "audit",
    "make_split",
    "read_screen",
    "read_split",
    "write_screen",
]

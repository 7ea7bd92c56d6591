"""Checkpoints of a training: written whole or not at all, and believed only if they are of the same inputs and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from panmodal._files import atomic_path

FORMAT = 1
EVERY = 5
"""Epochs between two checkpoints."""


class Checkpoint:
    """The checkpoint of one phase of a training.

    Parameters
    ----------
    folder
        Where it is kept; None for nowhere.
    digest
        Of everything that the result depends on.
    phase
        Part of the file's name.
    """

    def __init__(self, folder: Path | None, digest: str, phase: str) -> None:
        self.digest, self.phase = digest, phase
        self.path = None if folder is None else Path(folder) / f"attention-{digest[:16]}-{phase}.pt"

    def write(self, state: dict[str, Any]) -> None:
        """Write a state of tensors and plain values."""
        if self.path is not None:
            with atomic_path(self.path, durable=False) as partial:
                torch.save({"format": FORMAT, "digest": self.digest, "phase": self.phase, "state": state}, partial)

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state; None if there is none, or it is damaged or of another training. Only tensors and plain values load."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            found = torch.load(self.path, map_location=device, weights_only=True)
        except Exception:
            # A damaged file may fail in any way; it is as good as none.
            return None
        if not isinstance(found, dict):
            return None
        own = (found.get("format"), found.get("digest"), found.get("phase"))
        state = found.get("state")
        return state if own == (FORMAT, self.digest, self.phase) and isinstance(state, dict) else None

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

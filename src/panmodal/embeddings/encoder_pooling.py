"""From states of tokens to one vector for each text: windows over long texts, batches, pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """One input of the model: tokens ``start`` to ``stop`` of text ``owner``, one of ``of`` windows over it."""

    owner: int
    start: int
    stop: int
    of: int


def windows(owner: int, size: int, room: int, overlap: int) -> Iterator[Window]:
    """Yield the fewest windows of ``room`` tokens that overlap by ``overlap`` at least, spread evenly over ``size`` tokens."""
    if size <= room:
        yield Window(owner, 0, size, 1)
        return
    count = -((overlap - size) // (room - overlap))
    for k in range(count):
        start = k * (size - room) // (count - 1)
        yield Window(owner, start, start + room, count)


def take(order: list[Window], done: int, budget: int, extra: int, *, same_length: bool) -> list[Window]:
    """Take the next windows whose tokens, padded to the longest, stay within the budget (at least one)."""
    longest = order[done].stop - order[done].start
    batch = order[done : done + max(1, budget // (longest + extra))]
    # A model that takes no mask must see no padding.
    return [w for w in batch if w.stop - w.start == longest] if same_length else batch


class Pool:
    """Turns states of windows into one vector for each text."""

    def __init__(
        self,
        pooling: str,
        special: bool,
        before: list[int],
        after: list[int],
        tokens: list[NDArray[np.int64]],
        plan: list[Window],
    ) -> None:
        self.pooling, self.special, self.before, self.after, self.tokens = pooling, special, before, after, tokens
        self.extra = len(before) + len(after)
        self.share: dict[int, NDArray[np.float64]] = {}  # 1 / number of windows over each token of a long text
        for window in plan:
            if window.of > 1:
                count = self.share.setdefault(window.owner, np.zeros(len(tokens[window.owner])))
                count[window.start : window.stop] += 1
        for owner, count in self.share.items():
            self.share[owner] = 1.0 / count
        self.sums: NDArray[np.float64] | None = None

    def inputs(self, batch: list[Window]) -> list[list[int]]:
        """Return the tokens of each window, special ones included."""
        return [[*self.before, *self.tokens[w.owner][w.start : w.stop].tolist(), *self.after] for w in batch]

    def weights(self, window: Window) -> NDArray[np.float64]:
        """Return what each token of the input counts in the mean over the text; they add up to one over all its windows."""
        size = len(self.tokens[window.owner])
        share = self.share.get(window.owner)
        middle = np.ones(window.stop - window.start) if share is None else share[window.start : window.stop]
        edge = 1.0 / window.of if self.special else 0.0
        total = size + self.extra * bool(self.special)
        return np.concatenate([np.full(len(self.before), edge), middle, np.full(len(self.after), edge)]) / total

    def add(self, batch: list[Window], states: Any) -> None:
        """Add the states of a batch, batch x tokens x dims."""
        import torch

        lengths = [w.stop - w.start + self.extra for w in batch]
        weights = np.zeros(states.shape[:2])
        for k, window in enumerate(batch):
            if self.pooling == "first":
                weights[k, 0] = 1.0 / window.of
            elif self.pooling == "last":
                weights[k, lengths[k] - 1] = 1.0 / window.of
            else:
                weights[k, : lengths[k]] = self.weights(window)
        matrix = torch.as_tensor(weights, dtype=torch.float32, device=states.device)[:, :, None]
        if self.pooling == "max":
            found = torch.where(matrix > 0, states, -math.inf).amax(dim=1)
        else:
            # Padding may hold anything, NaN included.
            found = (torch.where(matrix > 0, states, 0.0) * matrix).sum(dim=1)
        values = found.cpu().numpy().astype(np.float64)
        owners = [w.owner for w in batch]
        if self.sums is None:
            self.sums = np.full((len(self.tokens), values.shape[1]), -np.inf if self.pooling == "max" else 0.0)
        (np.maximum if self.pooling == "max" else np.add).at(self.sums, owners, values)

    def result(self) -> NDArray[np.float32]:
        """Return one vector for each text."""
        assert self.sums is not None
        return self.sums.astype(np.float32)

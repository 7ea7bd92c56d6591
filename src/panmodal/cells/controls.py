"""Draws of control means, drawn once for all perturbations of a context."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.gather import Group
from panmodal.cells.kernels import add_draws
from panmodal.cells.resample import Scheme, Weights, draw_weights, generator, mean_weights, resampled

Matrix = NDArray[np.float32]
POOL = 10
"""Pooled rule: times as many control resamplings as a perturbation uses, of which each takes its own choice. Drawn anew for every
perturbation they would cost most of the time; all the same for all, their chance would not average out over perturbations."""


def apply(group: Group, weights: Matrix, width: int) -> Matrix:
    """Weighted sums of cells for all columns at once: genes x columns."""
    out = np.zeros((width, weights.shape[1]), dtype=np.float32)
    add_draws(group.indptr, group.genes, group.values, np.ascontiguousarray(weights), out)
    return out


def all_cells(group: Group) -> Weights:
    """Weights of the mean over batches of the mean over all cells of each."""
    every = np.ones((group.n_cells, 1), dtype=bool)
    return Weights(*mean_weights(group, every), every[:, :0])


class ControlDraws:
    """Draws of the control means of one context.

    Parameters
    ----------
    group
        Its control cells.
    scheme
        Columns.
    matched
        Controls by batch, or (pooled) the mean over batches.
    separate
        The bootstrap uses other control cells than the point column (see :func:`panmodal.cells.resample.draw_weights`).
    seed, name
        Seed, and name of the context.

    Attributes
    ----------
    second
        cells x halves: which control cells are in the second halves.
    """

    def __init__(
        self, group: Group, scheme: Scheme, width: int, *, matched: bool, separate: bool, seed: int, name: str
    ) -> None:
        self._width, self._matched, self._separate = width, matched, separate
        self._scheme = scheme if matched else replace(scheme, outer=POOL * scheme.outer)
        self._used = scheme
        self._seed, self._name = seed, name
        self._parts = {-1: group}
        if matched:
            bounds = zip(
                group.batches.tolist(), group.batch_start[:-1].tolist(), group.batch_start[1:].tolist(), strict=True
            )
            self._parts = {b: slice_group(group, low, high, b) for b, low, high in bounds}
        self._draws: dict[int, Matrix] = {}
        self._whole: dict[int, Matrix] = {}
        self._again: dict[tuple[int, int], Matrix] = {}
        self._lock = threading.Lock()
        self._second: dict[int, NDArray[np.bool_]] = {}
        for batch, part in self._parts.items():
            rng = generator(seed, name, "control", str(batch))
            weights = draw_weights(part, self._scheme, rng, only_second=separate)
            self._draws[batch] = apply(part, weights.cells, width)
            self._draws[batch][:, np.isnan(weights.shares).any(axis=0)] = np.nan
            self._whole[batch] = apply(part, all_cells(part).cells, width)
            self._second[batch] = weights.second
        # Parts follow one another as the cells of the group do.
        self.second = np.concatenate(list(self._second.values()))

    def _repeated(self, batch: int, times: int) -> Matrix:
        """Bootstrap draws of a batch that was drawn several times: its control cells are resampled each time.

        The mean of m resamplings of n cells is one of m n cells. Made when first asked for; the random numbers are its own.
        """
        with self._lock:
            if (batch, times) not in self._again:
                part, rng = self._parts[batch], generator(self._seed, self._name, "control", str(batch), f"x{times}")
                used = self._second[batch][:, 0] if self._separate else np.ones(part.n_cells, dtype=bool)
                draws = self._scheme.outer * self._scheme.inner
                self._again[batch, times] = apply(part, resampled(used, times, draws, rng), self._width)
                if not used.any():
                    self._again[batch, times][:] = np.nan
            return self._again[batch, times]

    def _chosen(self, pert_id: str) -> NDArray[np.intp]:
        """Columns of the control draws that a perturbation is compared with (pooled rule)."""
        every = np.arange(self._scheme.width)
        if self._scheme.outer == self._used.outer:
            return every
        rng = generator(self._seed, self._name, "control", "chosen", pert_id)
        outer = rng.choice(self._scheme.outer, size=self._used.outer, replace=False)
        at = self._scheme.columns["bootstrap"]
        own = at.start + (outer[:, None] * self._scheme.inner + np.arange(self._scheme.inner)).ravel()
        return np.concatenate([every[: at.start], own, every[at.stop :]])

    def response(self, group: Group, weights: Weights, pert_id: str) -> Matrix:
        """Draws of a response: perturbed minus control, genes x columns; NaN where a column has no cell on one side."""
        out = apply(group, weights.cells, self._width)
        if self._matched:
            at = self._scheme.columns["bootstrap"]
            for k, batch in enumerate(group.batches.tolist()):
                share = weights.shares[k].astype(np.float32)
                used = np.flatnonzero(share > 0)
                out[:, used] -= share[used] * self._draws[batch][:, used]
                times = np.rint(share[at] * len(group.batches)).astype(int)
                for m in np.unique(times[times > 1]).tolist():
                    again = np.flatnonzero(times == m)
                    other = self._repeated(batch, m)[:, again] - self._draws[batch][:, at.start + again]
                    out[:, at.start + again] -= share[at.start + again] * other
        else:
            out -= self._draws[-1][:, self._chosen(pert_id)]
        out[:, np.isnan(weights.shares).any(axis=0)] = np.nan
        return out

    def point(self, group: Group) -> Matrix:
        """Return the response of all cells as they are, length genes."""
        weights = all_cells(group)
        out = apply(group, weights.cells, self._width)[:, 0]
        if not self._matched:
            return out - self._whole[-1][:, 0]
        shares = weights.shares[:, 0].astype(np.float32)
        return out - sum(s * self._whole[b][:, 0] for s, b in zip(shares, group.batches.tolist(), strict=True))


def slice_group(group: Group, low: int, high: int, batch: int) -> Group:
    """Return the cells low to high, all of one batch."""
    first, last = int(group.indptr[low]), int(group.indptr[high])
    return Group(group.indptr[low : high + 1] - first, group.genes[first:last], group.values[first:last],
                 np.array([batch], dtype=np.int32), np.array([0, high - low], dtype=np.int64))  # fmt: skip

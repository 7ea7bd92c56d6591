"""DEG labels of resampled cells, and how sure a half replicate is of each gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.deg import MIN_CELLS, MIN_CELLS_PLATE, adjust, deg_labels, vote, welch
from panmodal.cells.gather import Group
from panmodal.cells.kernels import add_moments

Array = NDArray[np.float64]


def moments(group: Group, weights: Array, width: int) -> tuple[Array, Array]:
    """Weighted sums of values and of their squares: columns x genes."""
    first, second = np.zeros((width, weights.shape[1])), np.zeros((width, weights.shape[1]))
    add_moments(group.indptr, group.genes, group.values, np.ascontiguousarray(weights, dtype=np.float64), first, second)
    return first.T, second.T


@dataclass(frozen=True)
class ControlMoments:
    """Sums over the control cells of a context.

    Attributes
    ----------
    n, first, second
        Of each batch: number of cells, sums and sums of squares (batches x genes).
    batches
        Numbers of the batches.
    half_n, half_first, half_second
        The same of the second half of each split (splits x genes).
    """

    n: NDArray[np.int64]
    first: Array
    second: Array
    batches: NDArray[np.int32]
    half_n: NDArray[np.int64]
    half_first: Array
    half_second: Array

    @classmethod
    def of(cls, controls: Group, second_half: NDArray[np.bool_], width: int) -> ControlMoments:
        """Sum up control cells; ``second_half`` is cells x splits."""
        by_batch = controls.batch_of_cell()[:, None] == np.arange(len(controls.batches))
        first, second = moments(controls, by_batch.astype(np.float64), width)
        half = moments(controls, second_half.astype(np.float64), width)
        return cls(np.diff(controls.batch_start), first, second, controls.batches, second_half.sum(axis=0), *half)


def label_draws(group: Group, controls: ControlMoments, n_draws: int, rng: np.random.Generator, width: int, *, by_batch: bool
                ) -> NDArray[np.int8]:  # fmt: skip
    """Resample the perturbed cells and compute the labels again: draws x genes.

    Control cells stay as they are. Pooled test: all cells together; with ``by_batch`` each batch by itself, then the vote.
    """
    if not by_batch:
        if group.n_cells <= MIN_CELLS:
            return np.zeros((n_draws, width), dtype=np.int8)
        drawn = _multiplicities(0, group.n_cells, group.n_cells, n_draws, rng)
        own = moments(group, drawn, width)
        pooled = (controls.n.sum(), controls.first.sum(axis=0), controls.second.sum(axis=0))
        return deg_labels(group.n_cells, *own, *pooled)
    votes = []
    for k, batch in enumerate(group.batches.tolist()):
        low, high = int(group.batch_start[k]), int(group.batch_start[k + 1])
        c = int(np.searchsorted(controls.batches, batch))
        if (
            high - low <= MIN_CELLS_PLATE
            or c == len(controls.batches)
            or controls.batches[c] != batch
            or controls.n[c] < 2
        ):
            continue
        own = moments(group, _multiplicities(low, high, group.n_cells, n_draws, rng), width)
        votes.append(deg_labels(high - low, *own, controls.n[c], controls.first[c], controls.second[c]))
    return vote(np.stack(votes)) if votes else np.zeros((n_draws, width), dtype=np.int8)


def _multiplicities(low: int, high: int, n_cells: int, n_draws: int, rng: np.random.Generator) -> Array:
    """How often each of the cells low to high is drawn when as many are drawn with replacement: cells x draws."""
    size = high - low
    drawn = rng.integers(0, size, size=(n_draws, size)) + np.arange(n_draws)[:, None] * size
    out = np.zeros((n_cells, n_draws))
    out[low:high] = np.bincount(drawn.ravel(), minlength=n_draws * size).reshape(n_draws, size).T
    return out


def shrink_weights(group: Group, second_half: NDArray[np.bool_], controls: ControlMoments, width: int) -> Array:
    """1 - adjusted p of each gene in the second half of the cells against the second half of the controls: genes x splits.

    All batches together. 0 where a side has fewer than two cells: nothing is known of the gene, and the mean predicts it.
    """
    n, n0 = second_half.sum(axis=0), controls.half_n
    first, second = moments(group, second_half.astype(np.float64), width)
    out = np.zeros((second_half.shape[1], width))
    enough = (n >= 2) & (n0 >= 2)
    if enough.any():
        _, p = welch(n[enough][:, None], first[enough], second[enough], n0[enough][:, None], controls.half_first[enough],
                     controls.half_second[enough])  # fmt: skip
        out[enough] = 1.0 - adjust(p)
    return out.T

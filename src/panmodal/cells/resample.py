"""Weights of cells in resampled responses: a resampled mean is a weight matrix times the cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.gather import Group
from panmodal.cells.kernels import two_stage


@dataclass(frozen=True)
class Scheme:
    """Numbers of draws.

    Attributes
    ----------
    outer, inner
        Two-stage bootstrap: resamplings of batches, and of cells for each.
    halves
        Random splits of the cells in two.
    replicates
        Splits of the batches in two, as (first side, second side) of batch numbers.
    """

    outer: int
    inner: int
    halves: int
    replicates: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def columns(self) -> dict[str, slice]:
        """Where each kind of draw stands among the columns of a weight matrix; ``point`` is all cells as they are."""
        sizes = {"point": 1, "bootstrap": self.outer * self.inner, "half1": self.halves, "half2": self.halves,
                 "side1": len(self.replicates), "side2": len(self.replicates)}  # fmt: skip
        out, start = {}, 0
        for name, size in sizes.items():
            out[name] = slice(start, start + size)
            start += size
        return out

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1 + self.outer * self.inner + 2 * self.halves + 2 * len(self.replicates)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on names only, not on what else is computed or by whom."""
    key = hashlib.sha256("\x00".join(names).encode()).digest()[:16]
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(key, "big")]))


def halves(group: Group, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Split the cells of each batch in two at random, n times; the odd cell of a batch goes to either side by chance.

    Returns
    -------
    cells x n
        Whether a cell is in the second half.
    """
    batch = group.batch_of_cell()
    sizes = np.diff(group.batch_start)
    out = np.empty((group.n_cells, n), dtype=bool)
    for k in range(n):
        order = np.lexsort((rng.random(group.n_cells), batch))
        rank = np.empty(group.n_cells, dtype=np.int64)
        rank[order] = np.arange(group.n_cells) - group.batch_start[batch[order]]
        first = (sizes + rng.integers(0, 2, size=len(sizes))) // 2
        out[:, k] = rank >= first[batch]
    return out


def replicate_sides(
    n_batches: int, n: int, rng: np.random.Generator
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Split batches into two sides of equal size (one more on a side if odd), up to n different ways; none for one batch."""
    if n_batches < 2:
        return ()
    found: dict[frozenset[int], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for _ in range(20 * n):
        order = rng.permutation(n_batches).tolist()
        one, two = tuple(sorted(order[: n_batches // 2])), tuple(sorted(order[n_batches // 2 :]))
        found.setdefault(frozenset((frozenset(one), frozenset(two))), (one, two))  # type: ignore[arg-type]
        if len(found) == n:
            break
    return tuple(found.values())


def mean_weights(group: Group, used: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Weights of the mean over batches (equal) of the mean over the used cells of each.

    Parameters
    ----------
    used
        cells x columns.

    Returns
    -------
    weights
        cells x columns.
    shares
        batches x columns: weight of each batch; NaN throughout a column without any cell.
    """
    counts = np.add.reduceat(used.astype(np.int64), group.batch_start[:-1], axis=0)
    present = (counts > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(counts > 0, 1.0 / present, 0.0)
        per_cell = np.where(counts > 0, shares / counts, 0.0)
    weights = (used * per_cell[group.batch_of_cell()]).astype(np.float32)
    shares[:, present == 0] = np.nan
    return weights, shares


def resampled(used: NDArray[np.bool_], times: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Weights of the mean of ``times`` resamplings of the used cells: cells x draws."""
    cells = np.flatnonzero(used)
    out = np.zeros((len(used), draws), dtype=np.float32)
    if len(cells):
        share = np.full(len(cells), 1.0 / len(cells))
        out[cells] = (rng.multinomial(times * len(cells), share, size=draws) / (times * len(cells))).T
    return out


@dataclass(frozen=True)
class Weights:
    """Weight matrix of one group of cells.

    Attributes
    ----------
    cells
        cells x columns of the scheme, float32.
    shares
        batches of the group x columns: share of each batch in the mean.
    second
        cells x halves: whether a cell is in the second half.
    """

    cells: NDArray[np.float32]
    shares: NDArray[np.float64]
    second: NDArray[np.bool_]


def draw_weights(group: Group, scheme: Scheme, rng: np.random.Generator, *, only_second: bool = False) -> Weights:
    """Draw the weights of all columns of a scheme.

    Parameters
    ----------
    only_second
        The bootstrap resamples the second half of the first split only (of control cells: the point column is then the mean of the
        first half), so that truth and draws share no control cell.
    """
    cells = np.zeros((group.n_cells, scheme.width), dtype=np.float32)
    shares = np.zeros((len(group.batches), scheme.width))
    at = scheme.columns
    second = halves(group, max(scheme.halves, int(only_second)), rng)
    whole = ~second[:, :1] if only_second else np.ones((group.n_cells, 1), dtype=bool)
    cells[:, at["point"]], shares[:, at["point"]] = mean_weights(group, whole)
    if scheme.outer:
        if only_second:
            _bootstrap_part(group, second[:, 0], scheme, rng, cells[:, at["bootstrap"]], shares[:, at["bootstrap"]])
        else:
            two_stage(
                group.batch_start,
                scheme.outer,
                scheme.inner,
                rng,
                cells[:, at["bootstrap"]],
                shares[:, at["bootstrap"]],
            )
    if scheme.halves:
        cells[:, at["half1"]], shares[:, at["half1"]] = mean_weights(group, ~second[:, : scheme.halves])
        cells[:, at["half2"]], shares[:, at["half2"]] = mean_weights(group, second[:, : scheme.halves])
    if scheme.replicates:
        for side in (0, 1):
            inside = np.stack([np.isin(group.batches, sides[side]) for sides in scheme.replicates], axis=1)
            name = f"side{side + 1}"
            cells[:, at[name]], shares[:, at[name]] = mean_weights(group, inside[group.batch_of_cell()])
    return Weights(cells, shares, second)


def _bootstrap_part(group: Group, part: NDArray[np.bool_], scheme: Scheme, rng: np.random.Generator, cells: NDArray[np.float32],
                    shares: NDArray[np.float64]) -> None:  # fmt: skip
    """Two-stage bootstrap of some of the cells of a group."""
    if not part.any():
        shares[:] = np.nan
        return
    counts = np.add.reduceat(part.astype(np.int64), group.batch_start[:-1])
    there = counts > 0
    start = np.concatenate([[0], np.cumsum(counts[there])]).astype(np.int64)
    own = np.zeros((int(part.sum()), cells.shape[1]), dtype=np.float32)
    share = np.zeros((int(there.sum()), cells.shape[1]))
    two_stage(start, scheme.outer, scheme.inner, rng, own, share)
    cells[part], shares[there] = own, share

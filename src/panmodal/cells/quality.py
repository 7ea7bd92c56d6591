"""How strong and how repeatable a measured response is."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.conditions import Layout
from panmodal.cells.gather import Group
from panmodal.cells.kernels import null_norms
from panmodal.cells.resample import generator


def null_norms_of(layout: Layout, rows: Sequence[int], controls: Group, width: int, n_draws: int, seed: int, name: str,
                  pool: ThreadPoolExecutor) -> NDArray[np.float64]:  # fmt: skip
    """Norms of responses of control cells: for each row as many as it has, in the same batches, by the same rule.

    Parameters
    ----------
    layout, rows
        Rows of one context.
    controls
        Control cells of the context.
    n_draws, seed, name
        Number of draws, seed and name of the context. The cells drawn for a row do not depend on what other rows there are.

    Returns
    -------
    draws x rows
        NaN where none of a row's batches has control cells.
    """
    place = {int(b): k for k, b in enumerate(controls.batches)}
    position = {r: k for k, r in enumerate(rows)}
    table = layout.groups[layout.groups["row"].isin(rows) & layout.groups["batch"].isin(place)]
    row = table["row"].map(position).to_numpy(np.int64)
    batch = table["batch"].map(place).to_numpy(np.int64)
    size = table["n"].to_numpy(np.int64)
    # Numbers of cells asked for in each batch, each once, ascending.
    span = int(size.max(initial=0)) + 1
    keys, inverse = np.unique(batch * span + size, return_inverse=True)
    wanted = (keys % span).astype(np.int64)
    wanted_start = np.searchsorted(keys // span, np.arange(len(controls.batches) + 1)).astype(np.int64)
    order = np.argsort(row, kind="stable")
    size_at, size_batch = inverse[order].astype(np.int64), batch[order]
    size_start = np.searchsorted(row[order], np.arange(len(rows) + 1)).astype(np.int64)
    bounds = list(zip(controls.batch_start[:-1].tolist(), controls.batch_start[1:].tolist(), strict=True))
    most = [int(wanted[wanted_start[b] : wanted_start[b + 1]].max(initial=0)) for b in range(len(bounds))]
    drawn_start = np.concatenate([[0], np.cumsum(most)]).astype(np.int64)

    def one(draw: int) -> NDArray[np.float64]:
        drawn, weights = np.empty(int(drawn_start[-1]), dtype=np.int64), np.empty(controls.n_cells)
        for b, (low, high) in enumerate(bounds):
            key = (name, "null", str(draw), str(int(controls.batches[b])))
            # Uniform numbers, so that more cells are the same ones and some more.
            uniform = generator(seed, *key).random(most[b])
            drawn[drawn_start[b] : drawn_start[b + 1]] = low + np.minimum(
                uniform * (high - low), high - low - 1
            ).astype(np.int64)
            again = generator(seed, *key, "controls").integers(0, high - low, size=high - low)
            weights[low:high] = np.bincount(again, minlength=high - low) / (high - low)
        out = np.empty(len(rows))
        null_norms(controls.indptr, controls.genes, controls.values, controls.batch_start, drawn, drawn_start, weights, wanted,
                   wanted_start, size_at, size_start, size_batch, width, layout.matched, out)  # fmt: skip
        return out

    norms = np.stack(list(pool.map(one, range(n_draws))))
    norms[:, np.diff(size_start) == 0] = np.nan
    return norms

"""Experimental error: panmodal's weight matrices against gathering resampled cells, the published way.

The published way, for every perturbation: draw batches with replacement, draw the cells of each drawn batch with replacement, gather
them, average; the control cells likewise; 10 x 10 times. Here it gathers rows of a sparse and of a dense matrix (normalised, in
memory, sorted by perturbation and batch beforehand), and the faster of the two counts. panmodal's side counts everything from the
file on disk: reading, normalising, sorting cells, drawing, writing the draws. Both use one thread.

The distributions must agree: on a smaller screen both sides draw 500 times for each perturbation; means and 0.9 quantiles of the
distance to the measured response must agree within 3 % over perturbations, and a Kolmogorov-Smirnov test must not tell the sides
apart more often than chance. (panmodal draws the control means once for all perturbations, of which each takes a tenth at random;
gathering draws them anew for each. For one perturbation the distribution is the same.)

    python benchmarks/ceiling.py
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy import stats

from panmodal.cells.ceiling import CeilingOptions, make_ceilings
from panmodal.cells.controls import POOL, apply
from panmodal.cells.gather import GatheredCells, Group
from panmodal.cells.prepare import Cells, PrepareOptions, open_cells, prepare
from panmodal.cells.resample import Scheme, draw_weights, generator
from panmodal.cells.simulate import simulate_cells
from panmodal.screens.ceilings import ESTIMATORS, Ceilings


def gathered_draws(matrix, starts: list[np.ndarray], rng: np.random.Generator, outer: int, inner: int) -> np.ndarray:
    """Means of resampled cells: draws x genes. ``starts`` holds the cells of each batch."""
    out = []
    for _ in range(outer):
        drawn = rng.integers(0, len(starts), size=len(starts))
        for _ in range(inner):
            means = []
            for b in drawn:
                cells = rng.choice(starts[b], size=len(starts[b]), replace=True)
                means.append(np.asarray(matrix[cells].mean(axis=0)).ravel())
            out.append(np.mean(means, axis=0))
    return np.array(out)


def batches(group: Group) -> list[np.ndarray]:
    """Cells of each batch."""
    return [np.arange(a, b) for a, b in itertools.pairwise(group.batch_start)]


def matrix_of(group: Group, genes: int) -> sp.csr_matrix:
    return sp.csr_matrix((group.values, group.genes, group.indptr), shape=(group.n_cells, genes))


def gather_some(cells: Cells, rows: list[int]) -> tuple[dict[int, Group], Group]:
    """Cells of some rows and of the controls."""
    layout = cells.layout
    with GatheredCells(cells.stream, layout) as held:
        groups = {r: held.group([r]) for r in rows}
        return groups, held.group((layout.n_rows + layout.controls_of(layout.contexts[0])).tolist())


def speed(folder: Path, n_cells: int, genes: int, perturbations: int, gathered: int) -> None:
    path, out = folder / "cells.h5ad", folder / "screen.ceilings.h5"
    simulate_cells(path, n_cells=n_cells, n_perturbations=perturbations, n_genes=genes, umis=3000.0, seed=3)
    cells = open_cells([path], PrepareOptions())
    screen = prepare(cells)
    wanted = CeilingOptions(estimators=("experimental_error",), outer=10, inner=10, label_draws=0, null_draws=0)
    make_ceilings(cells, screen, out, wanted, n_jobs=1)
    start = time.perf_counter()
    make_ceilings(cells, screen, out, wanted, n_jobs=1)
    each = (time.perf_counter() - start) / cells.layout.n_rows

    rows = np.linspace(0, cells.layout.n_rows - 1, gathered).astype(int).tolist()
    groups, controls = gather_some(cells, rows)
    start = time.perf_counter()
    for r in rows:
        apply(groups[r], draw_weights(groups[r], Scheme(10, 10, 0), generator(1, str(r))).cells, genes)
    alone = (time.perf_counter() - start) / len(rows)
    start = time.perf_counter()
    apply(controls, draw_weights(controls, Scheme(10 * POOL, 10, 0), generator(1, "control")).cells, genes)
    alone += (time.perf_counter() - start) / cells.layout.n_rows

    sparse = {r: matrix_of(g, genes) for r, g in {**groups, -1: controls}.items()}
    seconds = {}
    for form, matrices in (("sparse", sparse), ("dense", {r: m.toarray() for r, m in sparse.items()})):
        rng = np.random.default_rng(7)
        start = time.perf_counter()
        for r in rows:
            gathered_draws(matrices[r], batches(groups[r]), rng, 10, 10)
            gathered_draws(matrices[-1], batches(controls), rng, 10, 10)
        seconds[form] = (time.perf_counter() - start) / len(rows)
    best = min(seconds.values())
    share = 100 * sparse[-1].nnz / np.prod(sparse[-1].shape)
    print(f"== speed: {n_cells} cells x {genes} genes ({share:.0f} % of the values above zero), {cells.layout.n_rows} perturbations, "
          f"{controls.n_cells} control cells, {len(controls.batches)} batches, 10 x 10 draws, one thread")  # fmt: skip
    print(f"gathering: sparse {seconds['sparse']:.2f} s, dense {seconds['dense']:.2f} s for each perturbation")
    print(f"panmodal, from the file to the stored draws: {each:.4f} s for each; ratio {best / each:.0f}")
    print("panmodal, the bootstrap alone (cells in memory as for gathering, control draws counted in): "
          f"{alone:.4f} s for each; ratio {best / alone:.0f}", flush=True)  # fmt: skip


def agreement(folder: Path, draws: int = 500) -> None:
    """Compare the distributions of the distance to the measured response, one resampling of cells for each of batches."""
    path, out = folder / "small.h5ad", folder / "small.ceilings.h5"
    simulate_cells(path, n_cells=6000, n_perturbations=20, n_genes=300, umis=1000.0, n_batches=5, seed=4)
    cells = open_cells([path], PrepareOptions())
    screen = prepare(cells)
    wanted = CeilingOptions(estimators=("experimental_error",), outer=draws, inner=1, label_draws=0, null_draws=0)
    make_ceilings(cells, screen, out, wanted)
    layout = cells.layout
    ids, point = screen.responses(screen.contexts[0])
    pairs = Ceilings(out).pairs(screen.contexts[0], ESTIMATORS["experimental_error"], ids, point, point.mean(axis=0))
    ours = np.array([np.sqrt(((t - p) ** 2).sum(axis=1)) for t, p in pairs])
    rows = list(range(layout.n_rows))
    groups, controls = gather_some(cells, rows)
    control = matrix_of(controls, 300).toarray()
    print(
        f"\n== agreement: {layout.n_rows} perturbations, {draws} draws on each side: distance of a draw to the measured response"
    )
    ratios, p_values = [], []
    for r in rows:
        rng = np.random.default_rng([8, r])
        k = ids.index(layout.pert_ids[r])
        drawn = gathered_draws(matrix_of(groups[r], 300).toarray(), batches(groups[r]), rng, draws, 1)
        drawn = drawn - gathered_draws(control, batches(controls), rng, draws, 1)
        theirs = np.sqrt(((drawn - point[k]) ** 2).sum(axis=1))
        ratios.append([ours[:, k].mean() / theirs.mean(), np.quantile(ours[:, k], 0.9) / np.quantile(theirs, 0.9)])
        p_values.append(stats.ks_2samp(ours[:, k], theirs).pvalue)
    mean, below = np.mean(ratios, axis=0), int((np.array(p_values) < 0.05).sum())
    print(f"panmodal / gathering: mean distance {mean[0]:.4f}, 0.9 quantile {mean[1]:.4f} (means over perturbations); "
          f"Kolmogorov-Smirnov p below 0.05 for {below} of {len(rows)}, median {np.median(p_values):.2f}")  # fmt: skip
    if np.abs(mean - 1).max() > 0.03 or below > 0.25 * len(rows):
        raise SystemExit("the distributions differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60_000)
    parser.add_argument("--genes", type=int, default=4_000)
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--gathered", type=int, default=6, help="perturbations done the published way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="panmodal-bench-") as name:
        speed(Path(name), options.cells, options.genes, options.perturbations, options.gathered)
        agreement(Path(name))


if __name__ == "__main__":
    main()

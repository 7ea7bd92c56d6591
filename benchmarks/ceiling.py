"""Experimental error: panmodal's weight matrices against gathering resampled cells, the published way.

The published way, for every perturbation: draw batches with replacement, draw the cells of each drawn batch with replacement, gather
them, average; the control cells likewise; 10 x 10 times. Here it gathers rows of a sparse and of a dense matrix (normalised, in
memory, sorted by perturbation and batch beforehand), and the faster of the two counts. panmodal's side counts everything from the
file on disk: reading, normalising, sorting cells, drawing, writing the draws. Both use one thread.

The distributions must agree: for each perturbation, both sides give 100 distances to the measured response; means and 0.9 quantiles
must agree within their Monte Carlo error, and a Kolmogorov-Smirnov test must not tell the sides apart more often than chance.

    python benchmarks/ceiling.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy import stats

from panmodal.cells.ceiling import CeilingOptions, apply, make_ceilings
from panmodal.cells.gather import GatheredCells
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.resample import Scheme, draw_weights, generator
from panmodal.cells.simulate import simulate_cells
from panmodal.screens.ceilings import ESTIMATORS, Ceilings

OUTER, INNER = 10, 10


def gathered_draws(matrix, starts: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means of resampled cells: draws x genes. ``starts`` holds the cells of each batch."""
    out = []
    for _ in range(OUTER):
        drawn = rng.integers(0, len(starts), size=len(starts))
        for _ in range(INNER):
            means = []
            for b in drawn:
                cells = rng.choice(starts[b], size=len(starts[b]), replace=True)
                means.append(np.asarray(matrix[cells].mean(axis=0)).ravel())
            out.append(np.mean(means, axis=0))
    return np.array(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60_000)
    parser.add_argument("--genes", type=int, default=4_000)
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--gathered", type=int, default=6, help="perturbations done the published way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="panmodal-bench-") as name:
        folder = Path(name)
        path = folder / "cells.h5ad"
        simulate_cells(
            path,
            n_cells=options.cells,
            n_perturbations=options.perturbations,
            n_genes=options.genes,
            umis=3000.0,
            seed=3,
        )
        cells = open_cells([path], PrepareOptions())
        screen = prepare(cells)
        wanted = CeilingOptions(
            estimators=("experimental_error",), outer=OUTER, inner=INNER, label_draws=0, null_draws=0
        )
        out = folder / "screen.ceilings.h5"
        make_ceilings(cells, screen, out, wanted, n_jobs=1)
        start = time.perf_counter()
        make_ceilings(cells, screen, out, wanted, n_jobs=1)
        ours = time.perf_counter() - start

        context = screen.contexts[0]
        ids, point = screen.responses(context)
        ceilings = Ceilings(out)
        pairs = ceilings.pairs(context, ESTIMATORS["experimental_error"], ids, point, point.mean(axis=0))
        distances = np.array([np.sqrt(((t - p) ** 2).sum(axis=1)) for t, p in pairs])

        layout = cells.layout
        chosen = np.linspace(0, layout.n_rows - 1, options.gathered).astype(int).tolist()
        with GatheredCells(cells.stream, layout) as held:
            groups = {r: held.group([r]) for r in chosen}
            controls = held.group((layout.n_rows + layout.controls_of(context)).tolist())
        sparse = {
            r: sp.csr_matrix((g.values, g.genes, g.indptr), shape=(g.n_cells, options.genes)) for r, g in groups.items()
        }
        sparse[-1] = sp.csr_matrix(
            (controls.values, controls.genes, controls.indptr), shape=(controls.n_cells, options.genes)
        )
        forms = {"sparse": sparse, "dense": {r: m.toarray() for r, m in sparse.items()}}
        starts = {r: [np.arange(a, b) for a, b in zip(g.batch_start[:-1], g.batch_start[1:], strict=True)]
                  for r, g in {**groups, -1: controls}.items()}  # fmt: skip
        seconds, found = {}, {}
        for form, matrices in forms.items():
            rng = np.random.default_rng(7)
            start = time.perf_counter()
            found = {
                r: gathered_draws(matrices[r], starts[r], rng) - gathered_draws(matrices[-1], starts[-1], rng)
                for r in chosen
            }
            seconds[form] = (time.perf_counter() - start) / len(chosen)
        density = sparse[-1].nnz / np.prod(sparse[-1].shape)
        print(f"{options.cells} cells x {options.genes} genes ({100 * density:.0f} % of the values above zero), {layout.n_rows} "
              f"perturbations, {controls.n_cells} control cells, {len(controls.batches)} batches, {OUTER} x {INNER} draws, one thread")  # fmt: skip
        print(f"gathering: sparse {seconds['sparse']:.2f} s, dense {seconds['dense']:.2f} s for each perturbation")
        each = ours / layout.n_rows
        start = time.perf_counter()
        for r in chosen:
            weights = draw_weights(groups[r], Scheme(OUTER, INNER, 0), generator(1, str(r)))
            apply(groups[r], weights.cells, options.genes)
        alone = (time.perf_counter() - start) / len(chosen)
        start = time.perf_counter()
        apply(controls, draw_weights(controls, Scheme(OUTER, INNER, 0), generator(1, "control")).cells, options.genes)
        alone += (time.perf_counter() - start) / layout.n_rows
        print(f"panmodal, from the file to the stored draws: {ours:.1f} s for all {layout.n_rows}, {each:.4f} s for each; "
              f"ratio {min(seconds.values()) / each:.0f}")  # fmt: skip
        print(f"panmodal, the bootstrap alone (cells in memory, as for gathering; controls shared by all): {alone:.4f} s for each; "
              f"ratio {min(seconds.values()) / alone:.0f}")  # fmt: skip
        print("perturbation  cells  mean distance (gathering, panmodal)  0.9 quantile (gathering, panmodal)   KS p")
        ratios, ks = [], []
        for r in chosen:
            k = ids.index(layout.pert_ids[r])
            own = np.sqrt(((found[r] - point[k]) ** 2).sum(axis=1))
            pair = [f(x) for f in (np.mean, lambda v: np.quantile(v, 0.9)) for x in (own, distances[:, k])]
            # The draws of one resampling of batches share it: compare the ten means, not the hundred draws.
            p = stats.ks_2samp(
                own.reshape(OUTER, INNER).mean(axis=1), distances[:, k].reshape(OUTER, INNER).mean(axis=1)
            ).pvalue
            ratios.append([pair[1] / pair[0], pair[3] / pair[2]])
            ks.append(p)
            print(
                f"{layout.pert_ids[r]:>12} {groups[r].n_cells:6d} {pair[0]:18.3f} {pair[1]:8.3f} {pair[2]:24.3f} {pair[3]:8.3f} {p:14.2f}"
            )
        mean = np.mean(ratios, axis=0)
        print(f"panmodal / gathering: mean distance {mean[0]:.3f}, 0.9 quantile {mean[1]:.3f}")
        if np.abs(mean - 1).max() > 0.08 or np.median(ks) < 0.05:
            raise SystemExit("the distributions differ")


if __name__ == "__main__":
    main()

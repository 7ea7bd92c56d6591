"""The truth of a simulated experiment and the random draws of its cells; :mod:`panmodal.cells.simulate` states the model."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal.screens.simulate import N_LATENT, plant_embeddings, plant_latents, plant_mask

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS = {"perturb-seq": "non-targeting", "plates": "DMSO_TF"}
"""Kinds of experiment and the name of their control."""
LIBRARY_SIGMA, GENE_SIGMA, CONTEXT_SIGMA, SIZE_SIGMA = 0.3, 1.3, 0.5, 0.4
LOADING, SHARED = 0.12, 0.7
KNOCK_DOWN = math.log(0.2)
GUIDES, CONTROL_GUIDES = 2, 6


@dataclass(frozen=True, eq=False)
class SimulatedCells:
    """The truth behind a simulated file.

    Attributes
    ----------
    path
        The file.
    kind, control
        Kind of experiment and name of its control.
    pert_ids, genes, contexts, batches
        Names; ``batches`` are the plates in kind ``plates``.
    log_effects
        Context -> float32 matrix perturbations x genes: natural-log change of the mean in an efficient cell, with the
        knock-down.
    sizes
        Effect sizes; 0 of perturbations that do nothing (but for the knock-down).
    latents
        Matrix perturbations x 12.
    embeddings
        Name -> (ids, vectors), of known worth; see :func:`panmodal.screens.simulate.plant_embeddings`.
    means
        Context -> expected UMIs of each gene in a control cell of library size 1, without the batch effect.
    batch_effects
        Matrix batches x genes of multipliers.
    layout
        Boolean matrix perturbations x batches: which may occur where.
    parameters
        Arguments of :func:`~panmodal.cells.simulate.simulate_cells`, as in the file.
    """

    path: Path
    kind: str
    control: str
    pert_ids: list[str]
    genes: list[str]
    contexts: tuple[str, ...]
    batches: list[str]
    log_effects: dict[str, NDArray[np.float32]]
    sizes: Floats
    latents: Floats
    embeddings: dict[str, tuple[list[str], NDArray[np.float32]]]
    means: dict[str, Floats]
    batch_effects: Floats
    layout: NDArray[np.bool_]
    parameters: dict[str, Any]

    def rates(self, context: str, batch: int, perturbation: int | None = None) -> Floats:
        """Return mu: expected UMIs of each gene in an efficient cell (by default a control cell) of library size 1."""
        mu = self.means[context] * self.batch_effects[batch]
        return mu if perturbation is None else mu * np.exp(self.log_effects[context][perturbation].astype(np.float64))


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """Return the random stream of that name, independent of all others and of the order in which they are used."""
    spawn = tuple(k if isinstance(k, int) else zlib.crc32(k.encode()) for k in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn))


def draw_truth(path: Path, parameters: dict[str, Any]) -> SimulatedCells:
    """Draw everything that is not a cell.

    Parameters
    ----------
    path
        The file that the truth will belong to.
    parameters
        Checked arguments of :func:`panmodal.cells.simulate.simulate_cells`.
    """
    seed, n, n_genes, n_batches = (parameters[k] for k in ("seed", "n_perturbations", "n_genes", "n_batches"))
    plates = parameters["kind"] == "plates"
    genes = [f"SIMG{g + 1:0{max(4, len(str(n_genes)))}d}" for g in range(n_genes)]
    targets = np.sort(stream(seed, "targets").choice(n_genes, size=n, replace=False)) if not plates else np.array([])
    compounds = [f"SIMCPD{k + 1:0{max(3, len(str(n)))}d}" for k in range(n)]
    ids = compounds if plates else [genes[g] for g in targets]

    latents = plant_latents(stream(seed, "latents"), n)
    rng = stream(seed, "sizes")
    sizes = rng.lognormal(0.0, SIZE_SIGMA, n)
    sizes[rng.permutation(n)[: round((1 - parameters["responders"]) * n)]] = 0.0
    rng = stream(seed, "loadings")
    mask, shared = plant_mask(rng, n_genes), rng.standard_normal((N_LATENT, n_genes))
    base = GENE_SIGMA * stream(seed, "means").standard_normal(n_genes)
    log_effects, means = {}, {}
    for context in parameters["contexts"]:
        rng = stream(seed, "context", context)
        own = rng.standard_normal((N_LATENT, n_genes))
        weights = LOADING * mask * (math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * own)
        beta = parameters["effect"] * sizes[:, None] * (latents @ weights)
        if not plates:
            beta[np.arange(n), targets] += KNOCK_DOWN
        log_effects[context] = beta.astype(np.float32)
        mean = np.exp(base + CONTEXT_SIGMA * rng.standard_normal(n_genes))
        means[context] = parameters["umis"] * mean / mean.sum()

    sigma = parameters["batch_effect"]
    normal = [stream(seed, "batch", b).standard_normal(n_genes) for b in range(n_batches)]
    layout = np.ones((n, n_batches), dtype=bool)
    if plates:
        rank = stream(seed, "layout").permutation(n)
        first = rank % n_batches
        second = (first + 1 + rank // n_batches % (n_batches - 1)) % n_batches
        layout = (np.arange(n_batches) == first[:, None]) | (np.arange(n_batches) == second[:, None])
    word = "plate" if plates else "batch"
    return SimulatedCells(
        path=path, kind=parameters["kind"], control=KINDS[parameters["kind"]], pert_ids=ids, genes=genes,
        contexts=tuple(parameters["contexts"]),
        batches=[f"{word}{b + 1:0{len(str(n_batches))}d}" for b in range(n_batches)],
        log_effects=log_effects, sizes=sizes, latents=latents,
        embeddings=plant_embeddings(stream(seed, "embeddings"), ids, latents),
        means=means, batch_effects=np.exp(sigma * np.array(normal) - sigma**2 / 2), layout=layout, parameters=parameters,
    )  # fmt: skip


def draw_library(rng: np.random.Generator, n: int) -> Floats:
    """Draw the library sizes of ``n`` cells (mean 1)."""
    return rng.lognormal(-(LIBRARY_SIGMA**2) / 2, LIBRARY_SIGMA, n)


def piece_size(truth: SimulatedCells) -> int:
    """Cells drawn at a time, so that neither their clusters nor their dense counts grow large."""
    return max(1, int(1e6 / max(len(truth.genes), truth.parameters["umis"])))


def draw_counts(
    rng: np.random.Generator, mu: Floats, library: Floats, size: float, dropout: float
) -> tuple[Ints, Ints, Ints]:
    """Draw the counts above zero of cells that share their rates.

    Parameters
    ----------
    rng
        Random stream.
    mu
        Expected UMIs of each gene in a cell of library size 1.
    library
        Library size of each cell.
    size
        Size r of the negative binomial (the inverse dispersion) in a cell of library size 1.
    dropout
        Probability that a count above zero is lost.

    Returns
    -------
    cell, gene, count
        Three arrays as long as there are counts, sorted by cell and then gene.
    """
    clusters = rng.poisson(library.sum() * size * np.log1p(mu / size))
    edges = np.cumsum(library)
    # Rounding may carry a number below 1 onto the last edge.
    cell = np.searchsorted(edges, rng.random(clusters.sum()) * edges[-1], side="right").clip(max=len(library) - 1)
    umis = rng.logseries(np.repeat(mu / (mu + size), clusters))
    key = cell * len(mu) + np.repeat(np.arange(len(mu)), clusters)
    dense = np.bincount(key, weights=umis, minlength=len(library) * len(mu))
    kept = np.flatnonzero(dense)
    if dropout:
        kept = kept[rng.random(len(kept)) >= dropout]
    return kept // len(mu), kept % len(mu), dense[kept].astype(np.int64)


def draw_blocks(truth: SimulatedCells) -> Iterator[tuple[dict[str, NDArray[Any]], csr_matrix]]:
    """Yield the codes and the counts of some thousand cells at a time, batch after batch."""
    known = truth.parameters
    # Blocks are part of the law of the random numbers: their size may depend on the truth, not on the number of cells.
    size = int(np.clip(1e7 / min(len(truth.genes), known["umis"]), 256, 16384))
    for batch in range(len(truth.batches)):
        n = known["n_cells"] * (batch + 1) // len(truth.batches) - known["n_cells"] * batch // len(truth.batches)
        for k, start in enumerate(range(0, n, size)):
            rng = stream(known["cells_seed"], "cells", batch, k)
            yield _block(rng, truth, batch, min(size, n - start))


def _block(
    rng: np.random.Generator, truth: SimulatedCells, batch: int, n: int
) -> tuple[dict[str, NDArray[Any]], csr_matrix]:
    """Draw ``n`` cells of one batch."""
    from scipy.sparse import csr_matrix

    known, n_pert, n_genes = truth.parameters, len(truth.pert_ids), len(truth.genes)
    present = np.flatnonzero(truth.layout[:, batch])
    control = rng.random(n) < known["control_share"]
    pert = np.where(control, n_pert, present[rng.integers(len(present), size=n)])
    context = rng.integers(len(truth.contexts), size=n)
    guide = pert * GUIDES + rng.integers(np.where(control, CONTROL_GUIDES, GUIDES))
    library = draw_library(rng, n)
    acting = pert
    if truth.kind == "perturb-seq":
        acting = np.where(rng.random(n) < known["efficiency"], pert, n_pert)

    group = acting * len(truth.contexts) + context
    order = np.argsort(group, kind="stable")
    stops = np.append(np.flatnonzero(np.diff(group[order])) + 1, n)
    per_cell = np.zeros(n + 1, dtype=np.int64)
    genes, counts, start, piece = [], [], 0, piece_size(truth)
    for stop in stops:
        p, c = divmod(int(group[order[start]]), len(truth.contexts))
        mu = truth.rates(truth.contexts[c], batch, None if p == n_pert else p)
        for left in range(start, stop, piece):
            some_cells = library[order[left : min(left + piece, stop)]]
            cell, gene, count = draw_counts(rng, mu, some_cells, 1.0 / known["dispersion"], known["dropout"])
            per_cell[left + 1 : left + 1 + len(some_cells)] = np.bincount(cell, minlength=len(some_cells))
            genes.append(gene.astype(np.int32))
            counts.append(count.astype(np.int32))
        start = stop
    indptr = np.cumsum(per_cell)
    by_group = csr_matrix((np.concatenate(counts), np.concatenate(genes), indptr), shape=(n, n_genes))
    codes = {"pert": pert, "guide": guide, "batch": np.full(n, batch), "context": context}
    return {name: values.astype(np.int32) for name, values in codes.items()}, by_group[np.argsort(order)]


def mean_log(rng: np.random.Generator, truth: SimulatedCells, mu: Floats, n: int, target_sum: float) -> Floats:
    """Mean over ``n`` cells drawn of log(1 + target_sum count / total of the cell), a value for each gene."""
    known, total, piece = truth.parameters, np.zeros(len(mu)), piece_size(truth)
    for start in range(0, n, piece):
        library = draw_library(rng, min(piece, n - start))
        cell, gene, count = draw_counts(rng, mu, library, 1.0 / known["dispersion"], known["dropout"])
        depth = np.bincount(cell, weights=count, minlength=len(library))
        total += np.bincount(gene, weights=np.log1p(target_sum * count / depth[cell]), minlength=len(mu))
    return total / n

"""Gene vectors from control cells: ``expression-loadings`` and ``expression-coexpression``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from panmodal.embeddings.builders.base import Builder, Built, Progress
from panmodal.embeddings.control_cells import ControlCells, open_control_cells
from panmodal.embeddings.expression import correlation, covariance, nearest, symmetric_factors
from panmodal.errors import InputError
from panmodal.studies import NONE

CellFiles = Annotated[
    tuple[Path, ...], "Files of raw counts of single cells (h5ad, zarr, 10x h5, folder with matrix.mtx)"
]
PertCol = Annotated[str | None, "Column of obs with the perturbations; found unless given"]
Control = Annotated[tuple[str, ...], "Labels that name control cells; found unless given"]
OnlyControls = Annotated[bool, "All cells are untreated; no column of perturbations is needed"]
BatchCol = Annotated[str | None, "Column of obs with the batches; found unless given"]
ContextCol = Annotated[tuple[str, ...], "Columns of obs that make up the context; found unless given"]
Contexts = Annotated[tuple[str, ...], "Use control cells of these contexts only; all unless given"]
Layer = Annotated[str | None, "Layer with the counts, or raw; X unless given"]
GeneCol = Annotated[str | None, "Column of var that names the genes; its index unless given"]
CellTable = Annotated[Path | None, "Table with annotation of the cells (first column: cell names)"]
Normalised = Annotated[bool, "Values are log1p of counts scaled to 1e4 per cell, not counts"]
Centre = Annotated[
    Literal["all", "context", "batch"],
    "Subtract the mean of all control cells, of each context, or of each batch of each context",
]
Dims = Annotated[int, "Dimensions, at most the rank"]
MinCells = Annotated[int, "Leave out genes expressed in fewer control cells"]
Memory = Annotated[float, "Bound on memory in GiB; the covariance takes 8 bytes times genes squared"]
CITATION = "Hotelling 1933, J Educ Psychol 24:417 (principal components)"


def build_loadings(
    *, cells: CellFiles, pert_col: PertCol = None, control: Control = (), only_controls: OnlyControls = False,
    batch_col: BatchCol = None, context_col: ContextCol = (), contexts: Contexts = (), layer: Layer = None, gene_col: GeneCol = None,
    table: CellTable = None, already_normalised: Normalised = False, centre: Centre = "all", min_cells: MinCells = 10,
    dims: Dims = 128, memory: Memory = 4.0, progress: Progress | None = None,
) -> Built:  # fmt: skip
    """Compute the loadings of genes on the principal components of control cells.

    With C = V L V' the covariance (n - 1, or n less the groups centred apart) of log1p(1e4 x / total) over control cells, gene g
    has the vector (V sqrt(L))_g: inner products are covariances. Genes that vary together have like vectors.
    """
    _checked(dims)
    with open_control_cells(
        cells, pert_col=pert_col, control=control, batch_col=batch_col, context_col=context_col, contexts=contexts,
        only_controls=only_controls, centre=centre, layer=layer, gene_col=gene_col, table=table,
        already_normalised=already_normalised,
    ) as opened:  # fmt: skip
        found = covariance(opened, min_cells=min_cells, memory=memory, progress=progress)
        total = float(np.trace(found.matrix))
        vectors, values = symmetric_factors(found.matrix, dims)
        share = f"{vectors.shape[1]} components hold {100 * values.sum() / total:.1f} % of the variance of {len(found.genes)} genes"
        return _built(opened, found.genes, vectors, found.left_out, dims, share)


def build_coexpression(
    *, cells: CellFiles, pert_col: PertCol = None, control: Control = (), only_controls: OnlyControls = False,
    batch_col: BatchCol = None, context_col: ContextCol = (), contexts: Contexts = (), layer: Layer = None, gene_col: GeneCol = None,
    table: CellTable = None, already_normalised: Normalised = False, centre: Centre = "all",
    similarity: Annotated[Literal["pearson", "cosine"], "Correlation, or cosine of the values as they are"] = "pearson",
    neighbours: Annotated[int, "Keep only the strongest partners of each gene; 0 keeps all"] = 0,
    min_cells: MinCells = 10, dims: Dims = 128, memory: Memory = 4.0, progress: Progress | None = None,
) -> Built:  # fmt: skip
    """Factorise the gene-gene correlation over control cells.

    R is the Pearson correlation of log1p(1e4 x / total) over control cells (centred within groups), or the cosine of the values as
    they are. With ``neighbours`` = k an entry stays if it is among the k of largest magnitude of its row or its column, and the
    diagonal stays. R = U S V' is truncated, and gene g has the vector (U sqrt(S))_g. With all entries kept and Pearson, these are the
    loadings of a PCA of z-scored genes: unlike those of ``expression-loadings``, highly expressed genes do not outweigh the others.
    """
    _checked(dims)
    if neighbours < 0:
        raise InputError(f"--neighbours must not be negative, but is {neighbours}.")
    if similarity == "cosine" and centre != "all":
        raise InputError("the cosine is of values as they are; --centre is for the Pearson correlation.")
    with open_control_cells(
        cells, pert_col=pert_col, control=control, batch_col=batch_col, context_col=context_col, contexts=contexts,
        only_controls=only_controls, centre=centre, layer=layer, gene_col=gene_col, table=table,
        already_normalised=already_normalised,
    ) as opened:  # fmt: skip
        found = covariance(
            opened, min_cells=min_cells, centred=similarity == "pearson", memory=memory, progress=progress
        )
        matrix: Any = correlation(found.matrix)
        kept = f"{similarity} of {len(found.genes)} genes"
        if neighbours:
            matrix = nearest(matrix, neighbours)
            kept += f", {(matrix.nnz - len(found.genes)) / len(found.genes):.1f} partners of a gene kept on average"
        vectors, _ = symmetric_factors(matrix, dims)
        return _built(opened, found.genes, vectors, found.left_out, dims, kept)


def cells_notes(cells: ControlCells) -> list[str]:
    """Say which cells were used."""
    named = f" ({', '.join(cells.labels)})" if cells.labels else ""
    return [
        f"{cells.n_cells} control cells{named} of {cells.stream.n_cells} in {', '.join(cells.stream.names)}",
        *cells.notes,
    ]


def _built(
    cells: ControlCells, genes: list[str], vectors: np.ndarray, left_out: dict[str, str], dims: int, note: str
) -> Built:
    notes = [*cells_notes(cells), note]
    if cells.n_groups > 1:
        notes.append(f"centred within {cells.n_groups} groups of cells")
    if vectors.shape[1] < dims:
        notes.append(f"{vectors.shape[1]} dimensions, not {dims}: the rank is no larger")
    return Built(
        genes,
        vectors.astype(np.float32),
        left_out=left_out | cells.not_common(),
        notes=tuple(notes),
        card={"simulated": cells.simulated, "trained_on": (NONE,)},
    )


def _checked(dims: int) -> None:
    if dims < 1:
        raise InputError(f"--dims must be at least 1, not {dims}.")


def example(folder: Path) -> dict[str, Any]:
    """Write 300 simulated cells of 30 genes."""
    from panmodal.cells.simulate import simulate_cells

    simulate_cells(folder / "cells.h5ad", n_cells=300, n_perturbations=6, n_genes=30, n_batches=2, control_share=0.4, umis=400.0,
                   seed=1)  # fmt: skip
    return {"cells": (folder / "cells.h5ad",), "dims": 5, "min_cells": 3}


BUILDERS = (
    Builder(
        "expression-loadings", "expression", "loadings of genes on the principal components of control cells", build_loadings, example,
        citation=CITATION,
    ),
    Builder(
        "expression-coexpression", "expression", "truncated SVD of the correlation of genes over control cells", build_coexpression,
        example,
    ),
)  # fmt: skip

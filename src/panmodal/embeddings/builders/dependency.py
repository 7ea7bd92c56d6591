"""Dependency embeddings: how the loss of a gene changes the fitness of each cell line (DepMap)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._tables import number_columns, read_frame, text_ids, unique_ids
from panmodal.embeddings.builders.base import Builder, Built
from panmodal.errors import InputError, some

GENE = re.compile(r"^(?P<symbol>\S.*?) \((?P<entrez>\d+|unknown|nan)\)$", re.IGNORECASE)
"""A gene as DepMap writes it: ``A1BG (1)``."""

LINE = re.compile(r"^ACH-\d{6}$")
"""A cell line as DepMap writes it."""


def dependency(
    *,
    effects: Annotated[
        Path, "gene effects: CRISPRGeneEffect.csv of DepMap as downloaded, or any table of genes and cell lines"
    ],
    genes: Annotated[
        Literal["auto", "rows", "columns"], "where the genes are; auto: by names such as 'A1BG (1)' and 'ACH-000001'"
    ] = "auto",
    gene_id: Annotated[Literal["symbol", "entrez"], "which part of 'A1BG (1)' is the id"] = "symbol",
    missing: Annotated[
        Literal["error", "mean", "drop-lines", "drop-genes"],
        "what becomes of missing values: refuse, fill with the mean of the gene, leave out those cell lines or genes",
    ] = "error",
    standardise: Annotated[
        Literal["none", "lines", "genes"], "scale to mean 0 and variance 1: each cell line, or gene"
    ] = "none",
    dims: Annotated[int | None, "principal components kept; none: the cell lines themselves"] = None,
) -> Built:
    """Fitness effects of the knockout of each gene in each cell line."""
    ids, lines, values = _read(effects, genes, gene_id)
    notes = [f"{len(ids)} genes x {len(lines)} cell lines"]
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise InputError(f"{effects}: the effect of {ids[row]!r} in {lines[column]!r} is infinite. Remove it.")
    ids, lines, values, left_out, said = _without_gaps(effects, ids, lines, values, missing)
    notes += said
    if standardise == "lines":
        values = _standard(values, lines, "cell line", effects)
    elif standardise == "genes":
        values = _standard(values.T, ids, "gene", effects).T
    if dims is not None:
        values, share = _components(values, dims, effects)
        notes.append(f"{dims} principal components hold {100 * share:.1f} % of the variance")
    card: dict[str, Any] = {"trained_on": ("depmap",)}
    if gene_id == "entrez":
        card["id_namespace"] = "entrez"
    return Built(ids, values.astype(np.float32), left_out=left_out, notes=tuple(notes), card=card)


def _read(path: Path, genes: str, gene_id: str) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Return genes, cell lines and effects (genes x lines, NaN where missing)."""
    frame = read_frame(path)
    rows = text_ids(frame.iloc[:, 0].tolist(), f"column {frame.columns[0]!r}", str(path))
    columns = list(frame.columns[1:])
    if not columns:
        raise InputError(f"{path}: only one column, {frame.columns[0]!r}; want names and numbers.")
    values = number_columns(frame, columns, str(path), rows)
    in_rows = _genes_in_rows(path, rows, columns) if genes == "auto" else genes == "rows"
    names, lines = (rows, columns) if in_rows else (columns, rows)
    unique_ids(lines, "cell line", str(path), "Keep one of each.")
    parsed = [GENE.match(name) for name in names]
    if gene_id == "entrez":
        plain = [n for n, m in zip(names, parsed, strict=True) if m is None or not m["entrez"].isdigit()]
        if plain:
            raise InputError(f"{path}: {some(plain)} name(s) no Entrez id as 'A1BG (1)' does; use gene_id symbol.")
    ids = [name if m is None else m[gene_id] for name, m in zip(names, parsed, strict=True)]
    unique_ids(ids, f"gene {gene_id}", str(path), "Keep one of each, or choose the other gene_id.")
    return ids, lines, values if in_rows else values.T


def _genes_in_rows(path: Path, rows: Sequence[str], columns: Sequence[str]) -> bool:
    """Tell where the genes are from how names are written."""

    def most(names: Sequence[str], pattern: re.Pattern[str]) -> bool:
        return 2 * sum(bool(pattern.match(n)) for n in names) > len(names)

    votes = {most(rows, GENE) or most(columns, LINE), not (most(columns, GENE) or most(rows, LINE))}
    if len(votes) > 1:
        raise InputError(
            f"{path}: cannot tell whether genes are rows ({some(rows, 3)}) or columns ({some(columns, 3)}). "
            "Give genes: rows or columns."
        )
    return votes.pop()


def _without_gaps(
    path: Path, ids: list[str], lines: list[str], values: NDArray[np.float64], missing: str
) -> tuple[list[str], list[str], NDArray[np.float64], dict[str, str], list[str]]:
    gaps = np.isnan(values)
    if not gaps.any():
        return ids, lines, values, {}, []
    some_genes = [ids[k] for k in np.flatnonzero(gaps.any(axis=1))]
    some_lines = [lines[k] for k in np.flatnonzero(gaps.any(axis=0))]
    count = f"{int(gaps.sum())} values ({100 * gaps.mean():.2g} %) are missing"
    if missing == "error":
        raise InputError(
            f"{path}: {count}, of genes {some(some_genes, 3)} and cell lines {some(some_lines, 3)}. Choose with missing: "
            f"mean (fill with the gene's mean), drop-lines (leaves {len(lines) - len(some_lines)} of {len(lines)} lines) "
            f"or drop-genes (leaves {len(ids) - len(some_genes)} of {len(ids)} genes)."
        )
    if missing == "mean":
        present = (~gaps).sum(axis=1)
        left_out = {ids[k]: "no cell line has a value" for k in np.flatnonzero(present == 0)}
        kept = np.flatnonzero(present > 0)
        means = np.where(gaps, 0.0, values)[kept].sum(axis=1) / present[kept]
        filled = np.where(gaps[kept], means[:, None], values[kept])
        note = f"{count}; {int(gaps[kept].sum())} were filled with the mean of the gene"
        ids, values = [ids[k] for k in kept], filled
    elif missing == "drop-lines":
        full = np.flatnonzero(~gaps.any(axis=0))
        left_out, note = {}, f"{count}; {len(lines) - len(full)} of {len(lines)} cell lines are left out for it"
        lines, values = [lines[k] for k in full], values[:, full]
    else:
        full = np.flatnonzero(~gaps.any(axis=1))
        per_gene = gaps.sum(axis=1)
        left_out = {ids[k]: f"{per_gene[k]} values are missing" for k in np.flatnonzero(per_gene)}
        note = f"{count}; {len(ids) - len(full)} of {len(ids)} genes are left out for it"
        ids, values = [ids[k] for k in full], values[full]
    if 0 in values.shape:
        raise InputError(f"{path}: {note}: nothing is left. Choose another way with missing.")
    return ids, lines, values, left_out, [note]


def _standard(values: NDArray[np.float64], names: Sequence[str], what: str, path: Path) -> NDArray[np.float64]:
    """Scale columns to mean 0 and variance 1."""
    spread = values.std(axis=0)
    flat = [names[k] for k in np.flatnonzero(spread == 0).tolist()]
    if flat:
        raise InputError(f"{path}: {what}(s) {some(flat)} have one value only and cannot be standardised. Remove them.")
    return (values - values.mean(axis=0)) / spread


def _components(values: NDArray[np.float64], dims: int, path: Path) -> tuple[NDArray[np.float64], float]:
    """Return the first principal components and their share of the variance."""
    from sklearn.decomposition import PCA

    if not 1 <= dims <= min(values.shape):
        raise InputError(
            f"{path}: {values.shape[0]} genes x {values.shape[1]} lines have no {dims} principal components."
        )
    pca = PCA(dims, svd_solver="full")
    return pca.fit_transform(values), float(pca.explained_variance_ratio_.sum())


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 20)) + rng.standard_normal((12, 20)) / 4
    frame = pd.DataFrame(values.round(6), [f"ACH-{k:06d}" for k in range(12)], [f"GENE{k} ({k})" for k in range(20)])
    frame.iloc[3, 5] = np.nan
    path = folder / "CRISPRGeneEffect.csv"
    frame.to_csv(path)
    return {"effects": path, "missing": "mean", "dims": 4}


BUILDERS = (
    Builder(
        name="dependency",
        modality="dependency",
        description="fitness effects of the knockout of each gene in cancer cell lines (DepMap)",
        function=dependency,
        example=_example,
        id_namespace="hgnc_symbol",
        citation="Tsherniak et al., Cell 2017, doi:10.1016/j.cell.2017.06.010",
        url="https://depmap.org",
    ),
)
"""Records of this module."""

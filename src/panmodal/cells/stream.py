"""Several files of cells as one stream with common genes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal._tables import stem
from panmodal.cells.columns import FILE
from panmodal.cells.kernels import AT_CELL, AT_VALUE, LARGEST
from panmodal.cells.source import Chunk, CountSource, open_counts
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

LOG_LARGEST = float(np.log1p(1e6)) + 0.1
"""Natural log of a normalised value cannot be larger: one gene would be all of a cell with 1e6 counts."""


class CellStream:
    """Cells of one or several files, one after the other.

    Parameters
    ----------
    paths
        Files; ``NAME=FILE`` or (name, file) names a file, otherwise its stem does.
    layer, gene_col, table
        As in :func:`panmodal.cells.source.open_counts`.
    genes
        Keep only these (totals of cells are over all genes all the same).

    Attributes
    ----------
    obs
        Annotation of all cells, with a column ``file`` where there are several files.
    measured, genes
        Genes that all files have, in the order of the first file; those of them that were asked for.
    gene_maps
        For each file and gene of it the column in ``genes``, -1 if it is left out.
    notes
        What was noticed.
    """

    def __init__(self, paths: Sequence[str | Path | tuple[str, Path]], *, layer: str | None = None, gene_col: str | None = None,
                 table: str | Path | None = None, genes: Sequence[str] | None = None) -> None:  # fmt: skip
        if not paths:
            raise InputError("no file of cells given.")
        named = [named_path(p) for p in paths]
        names = [n for n, _ in named]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InputError(f"two files are named {some(twice)}. Name them apart: NAME=FILE.")
        self.names, self.paths = names, [p for _, p in named]
        self.sources: list[CountSource] = []
        try:
            for path in self.paths:
                self.sources.append(open_counts(path, layer=layer, gene_col=gene_col, table=table))
            self.notes = [note for s in self.sources for note in s.notes]
            self.measured = self._common_genes()
            self.genes = self.measured if genes is None else self._chosen(genes)
        except BaseException:
            self.close()
            raise
        self.starts = np.concatenate([[0], np.cumsum([s.n_cells for s in self.sources])]).astype(np.int64)
        self.obs = self._annotation()
        self.gene_maps = self.columns_of(self.genes)

    def _annotation(self) -> pd.DataFrame:
        import pandas as pd

        if len(self.sources) == 1:
            return self.sources[0].obs
        frames = [s.obs.assign(**{FILE: n}) for s, n in zip(self.sources, self.names, strict=True)]
        return pd.concat(frames, join="outer")

    def columns_of(self, genes: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return for each file the position in ``genes`` of each of the file's genes, -1 where it is not among them."""
        column = {g: k for k, g in enumerate(genes)}
        return [np.array([column.get(g, -1) for g in s.genes], dtype=np.int32) for s in self.sources]

    def _common_genes(self) -> list[str]:
        sets = [set(s.genes) for s in self.sources]
        common = set.intersection(*sets)
        smallest = min(sets, key=len)
        if len(common) < 0.5 * len(smallest):
            k = next(
                k
                for k, s in enumerate(sets)
                if len(s & sets[0]) < 0.5 * min(len(s), len(sets[0])) or k == len(sets) - 1
            )
            raise InputError(
                f"{self.paths[k]}: only {len(common)} of {len(smallest)} genes are in all files (it has "
                f"{some(self.sources[k].genes, 3)}, "
                f"{self.paths[0]} has {some(self.sources[0].genes, 3)}). Use the same identifiers (--gene-col)."
            )
        if len(sets) > 1 and any(len(s) > len(common) for s in sets):
            said = ", ".join(f"{n}: {len(s)}" for n, s in zip(self.names, sets, strict=True))
            self.notes.append(f"{len(common)} genes are in all files and kept ({said})")
        return [g for g in self.sources[0].genes if g in common]

    def _chosen(self, asked: Sequence[str]) -> list[str]:
        genes, wanted = self.measured, set(asked)
        absent = wanted.difference(genes)
        kept = [g for g in genes if g in wanted]
        if not kept:
            raise InputError(
                f"{self.paths[0]}: none of the {len(wanted)} genes asked for is there ({some(asked, 3)}; it has "
                f"{some(genes, 3)})."
            )
        if absent:
            self.notes.append(
                f"{len(absent)} of {len(wanted)} genes asked for are not measured ({some(sorted(absent), 3)})"
            )
        self.notes.append(f"{len(kept)} of {len(genes)} genes kept (asked for); totals of cells are over all genes")
        return kept

    @property
    def n_cells(self) -> int:
        """Number of cells of all files."""
        return int(self.starts[-1])

    @property
    def row_nnz(self) -> NDArray[np.int64] | None:
        """Stored values of each cell, where all formats tell before reading."""
        parts = [s.row_nnz for s in self.sources]
        return None if any(p is None for p in parts) else np.concatenate([p for p in parts if p is not None])

    def chunks(self, max_values: int) -> Iterator[tuple[Chunk, int]]:
        """Yield (chunk, number of its file), cells numbered over all files."""
        for number, source in enumerate(self.sources):
            for chunk in source.chunks(max_values):
                yield Chunk(chunk.start + int(self.starts[number]), chunk.indptr, chunk.genes, chunk.values), number

    def refuse_odd(self, report: NDArray[np.float64], chunk: Chunk, number: int, log_input: bool) -> None:
        """Raise if a chunk held values that are no counts (or no logarithms of normalised counts)."""
        source = self.sources[number]
        if report[AT_CELL] >= 0:
            value = chunk.values[int(report[AT_VALUE])]
            cell = source.obs.index[chunk.start - int(self.starts[number]) + int(report[AT_CELL])]
            place = f"{source.path}: cell {str(cell)!r}, gene {source.genes[int(chunk.genes[int(report[AT_VALUE])])]!r} has {value:g}"
            if not np.isfinite(value):
                raise InputError(
                    f"{place}: NaN or infinite values. Remove these cells, or fill them knowingly beforehand."
                )
            if value < 0:
                raise InputError(f"{place}: counts cannot be negative, nor normalised logarithms. Was the matrix scaled? Give the raw "
                                 "counts (--layer NAME or raw).")  # fmt: skip
            raise InputError(
                f"{place}, which is not a whole number: these are not raw counts. Give the raw counts (--layer NAME or raw); if they "
                "are lost and the values are log1p of counts scaled to 1e4 per cell, say so with --already-normalised."
            )
        if log_input and report[LARGEST] > LOG_LARGEST:
            raise InputError(f"{source.path}: values up to {report[LARGEST]:g} cannot be log1p of counts scaled to 1e4 per "
                             "cell. Leave out --already-normalised if they are counts.")  # fmt: skip

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file (of a folder: of the names and digests of its files), as ``sha256sum`` prints it."""
        return {name: file_digest(path) for name, path in zip(self.names, self.paths, strict=True)}

    def close(self) -> None:
        """Let go of all files."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> CellStream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def named_path(given: str | Path | tuple[str, Path]) -> tuple[str, Path]:
    """Return name and path of ``NAME=FILE``, of a file (its stem is the name), or of such a pair as it is."""
    if isinstance(given, tuple):
        return given
    text = str(given)
    name, equals, path = text.partition("=")
    if equals and name and not Path(text).exists():
        return name, Path(path)
    return stem(text) if not Path(text).is_dir() else Path(text).stem, Path(text)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, of the sorted lines ``DIGEST  NAME`` of its files."""
    if path.is_dir():
        lines = sorted(f"{file_digest(p)}  {p.relative_to(path).as_posix()}" for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

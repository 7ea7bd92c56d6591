"""Control cells of files of counts: which they are, and their values a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd

    from panmodal.cells.stream import CellStream

CHUNK_VALUES = 2**23
"""Stored values read at a time; no result depends on it beyond rounding."""
GROUPS = ("all", "context", "batch")
"""Cells are centred together, within each context, or within each batch of each context."""
STAND_IN = "panmodal cells"
"""Column that says "control" of every cell, where all are controls."""


@dataclass
class ControlCells:
    """Control cells of opened files: which they are, and their values a chunk at a time.

    Attributes
    ----------
    stream
        The cells; use this object as a context manager to let go of the files.
    used
        For each cell of the stream whether it is a control cell that is used.
    group
        For each cell the number of the group that it is centred with, -1 where it is not used.
    labels
        Labels that name control cells; none where all cells are controls.
    log_input
        Values are log1p of counts scaled to 1e4 per cell.
    notes
        What was chosen in reading.
    """

    stream: CellStream
    used: NDArray[np.bool_]
    group: NDArray[np.int64]
    labels: tuple[str, ...] = ()
    log_input: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def n_cells(self) -> int:
        """Number of control cells."""
        return int(self.used.sum())

    @property
    def n_groups(self) -> int:
        """Number of groups that are centred apart."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def simulated(self) -> bool:
        """Whether a file says that its counts are simulated."""
        import h5py

        for path in self.stream.paths:
            if path.suffix == ".h5ad":
                with h5py.File(path, "r") as handle:
                    if "uns/panmodal_simulation" in handle:
                        return True
        return False

    def not_common(self) -> dict[str, str]:
        """Genes that only some of several files have -> the reason why they are left out."""
        common = set(self.stream.measured)
        every = dict.fromkeys(g for source in self.stream.sources for g in source.genes)
        return {g: "not measured in all files" for g in every if g not in common}

    def normalised(self, chunk_values: int = CHUNK_VALUES, progress: Callable[[int, int], None] | None = None
                   ) -> Iterator[tuple[Any, NDArray[np.intp]]]:  # fmt: skip
        """Yield log1p(1e4 x / total) of control cells (CSR, cells x genes, float32) and the numbers of the cells.

        Raises
        ------
        InputError
            Values that are no counts (or, of log input, no logarithms of normalised counts).
        """
        from scipy.sparse import csr_matrix

        from panmodal.cells.kernels import new_report, place_cells
        from panmodal.cells.source import prefetched

        width = len(self.stream.genes)
        for chunk, file in prefetched(self.stream.chunks(chunk_values)):
            rows = np.flatnonzero(self.used[chunk.start : chunk.start + chunk.n_cells])
            place = np.full(chunk.n_cells, -1, dtype=np.int64)
            place[rows] = np.arange(len(rows))
            begin = np.concatenate([[0], np.cumsum(np.diff(chunk.indptr)[rows])]).astype(np.int64)
            genes, values = np.empty(int(begin[-1]), dtype=np.int32), np.empty(int(begin[-1]), dtype=np.float32)
            length, report = np.zeros(len(rows), dtype=np.int32), new_report()
            place_cells(chunk.indptr, chunk.genes, chunk.values, 0, chunk.n_cells, place, self.stream.gene_maps[file],
                        self.log_input, begin, genes, values, length, report)  # fmt: skip
            self.stream.refuse_odd(report, chunk, file, self.log_input)
            if progress:
                progress(chunk.start + chunk.n_cells, self.stream.n_cells)
            if not len(rows):
                continue
            indptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
            if indptr[-1] < begin[-1]:  # genes were left out: cells have gaps behind them
                take = np.repeat(begin[:-1] - indptr[:-1], length) + np.arange(indptr[-1])
                genes, values = genes[take], values[take]
            yield csr_matrix((values, genes, indptr), shape=(len(rows), width)), chunk.start + rows

    def counts(self, cells: NDArray[np.intp], chunk_values: int = CHUNK_VALUES) -> Any:
        """Return the raw counts of some cells (CSR, float32), in the order of the stream.

        Raises
        ------
        InputError
            Values that are no counts.
        """
        from scipy.sparse import csr_matrix, vstack

        from panmodal.cells.kernels import AT_CELL, AT_VALUE, new_report
        from panmodal.cells.source import prefetched

        wanted = np.zeros(self.stream.n_cells, dtype=bool)
        wanted[cells] = True
        parts = []
        for chunk, file in prefetched(self.stream.chunks(chunk_values)):
            rows = np.flatnonzero(wanted[chunk.start : chunk.start + chunk.n_cells])
            if not len(rows):
                continue
            entry = np.repeat(np.arange(chunk.n_cells), np.diff(chunk.indptr))
            kept = wanted[chunk.start : chunk.start + chunk.n_cells][entry]
            odd = np.flatnonzero(kept & ~((chunk.values >= 0) & (chunk.values == np.floor(chunk.values))))
            if len(odd):
                report = new_report()
                report[AT_CELL], report[AT_VALUE] = entry[odd[0]], odd[0]
                self.stream.refuse_odd(report, chunk, file, False)
            genes = self.stream.gene_maps[file][chunk.genes]
            kept &= genes >= 0
            row = np.searchsorted(rows, entry[kept])
            shape = (len(rows), len(self.stream.genes))
            parts.append(csr_matrix((chunk.values[kept].astype(np.float32), (row, genes[kept])), shape=shape))
        return vstack(parts, format="csr")

    def __enter__(self) -> ControlCells:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stream.close()


def open_control_cells(
    paths: Sequence[str | Path | tuple[str, Path]], *, pert_col: str | None = None, control: Sequence[str] = (),
    batch_col: str | None = None, context_col: Sequence[str] = (), contexts: Sequence[str] = (), only_controls: bool = False,
    centre: str = "all", layer: str | None = None, gene_col: str | None = None, table: str | Path | None = None,
    already_normalised: bool = False,
) -> ControlCells:  # fmt: skip
    """Open files of cells and find the control cells, by the rules of ``panmodal prepare``; no count is read yet.

    Parameters
    ----------
    paths
        Files of one experiment, as for :class:`panmodal.cells.stream.CellStream`; files of one stem are numbered.
    pert_col, control, batch_col, context_col
        As in :func:`panmodal.cells.columns.find_columns`; found in the annotation unless given.
    contexts
        Use control cells of these contexts only.
    only_controls
        Every cell is a control cell; no column of perturbations is looked for.
    centre
        One of :data:`GROUPS`.
    layer, gene_col, table, already_normalised
        As in :class:`panmodal.cells.prepare.PrepareOptions`.

    Raises
    ------
    InputError
        No control cells; no such column or context; a control cell without the label of context or batch that is needed.
    """
    from panmodal.cells.columns import find_columns, texts
    from panmodal.cells.stream import CellStream, named_path

    if centre not in GROUPS:
        raise InputError(f"no way of centring {centre!r}; give one of {', '.join(GROUPS)}.")
    if only_controls and control:
        raise InputError("give --control LABEL or --only-controls, not both.")
    named = [named_path(p) for p in paths]
    names = [n for n, _ in named]
    named = [(n if names.count(n) == 1 else f"{n}-{k + 1}", p) for k, (n, p) in enumerate(named)]
    stream = CellStream(named, layer=layer, gene_col=gene_col, table=table)
    try:
        obs, where = stream.obs, ", ".join(str(p) for p in stream.paths)
        notes = list(stream.notes)
        if only_controls:
            obs, pert_col, control = obs.assign(**{STAND_IN: "control"}), STAND_IN, ("control",)
        columns = find_columns(
            obs, where, pert_col=pert_col, controls=control, batch_col=batch_col, context_col=tuple(context_col),
            several_files=len(stream.paths) > 1,
        )  # fmt: skip
        notes += columns.notes
        labels, code = texts(obs[columns.perturbation])
        used = np.isin(code, [labels.index(c) for c in columns.controls])
        group = np.zeros(len(obs), dtype=np.int64)
        if contexts or centre != "all":
            used, group = _by_context(obs, columns.context, contexts, used, where)
        if centre == "batch":
            group = _by_batch(obs, columns.batch, used, group, where)
        elif centre == "all":
            group[:] = 0
        if used.sum() < 3:
            raise InputError(f"{where}: {int(used.sum())} control cell(s); at least 3 are needed.")
        _, group[used] = np.unique(group[used], return_inverse=True)
        group[~used] = -1
    except BaseException:
        stream.close()
        raise
    return ControlCells(stream, used, group, () if only_controls else columns.controls, already_normalised, notes)


def _by_context(obs: pd.DataFrame, columns: Sequence[str], wanted: Sequence[str], used: NDArray[np.bool_], where: str
                ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:  # fmt: skip
    """Keep control cells of the wanted contexts; return them and the number of each cell's context."""
    from panmodal.cells.columns import texts

    if not columns:
        if wanted:
            raise InputError(f"{where}: no column of contexts found for --contexts. Name it with --context-col.")
        return used, np.zeros(len(obs), dtype=np.int64)
    coded = [texts(obs[c]) for c in columns]
    codes = np.stack([code for _, code in coded], axis=1)
    missing = used & (codes < 0).any(axis=1)
    if missing.any():
        raise InputError(
            f"{where}: {int(missing.sum())} control cells have no context (column {' | '.join(columns)!r}), first "
            f"{str(obs.index[int(np.flatnonzero(missing)[0])])!r}. Fill the column, or leave these cells out of the file."
        )
    found, number = np.unique(codes[used], axis=0, return_inverse=True)
    names = [" | ".join(coded[k][0][int(c)] for k, c in enumerate(row)) for row in found]
    unknown = [c for c in wanted if c not in names]
    if unknown:
        raise InputError(f"{where}: no control cells of context {some(unknown)}; there are {some(names, 12)}.")
    group = np.full(len(obs), -1, dtype=np.int64)
    group[used] = number.ravel()
    if wanted:
        used = used & np.isin(group, [names.index(c) for c in wanted])
    return used, group


def _by_batch(
    obs: pd.DataFrame, column: str | None, used: NDArray[np.bool_], context: NDArray[np.int64], where: str
) -> NDArray[np.int64]:
    """Return the number of each control cell's (context, batch)."""
    from panmodal.cells.columns import texts

    if column is None:
        raise InputError(f"{where}: no column of batches found to centre within. Name it with --batch-col.")
    labels, code = texts(obs[column])
    missing = used & (code < 0)
    if missing.any():
        raise InputError(
            f"{where}: column {column!r} (batch) is empty for {int(missing.sum())} control cells, first "
            f"{str(obs.index[int(np.flatnonzero(missing)[0])])!r}. Fill it, or choose another --centre."
        )
    return context * max(1, len(labels)) + code

"""Cells from a matrix stored by genes (CSC): turned once on disk, with bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panmodal.cells.source import Chunk, CountSource, compressed, part, single, spans
from panmodal.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ENTRY = np.dtype([("cell", "<u4"), ("gene", "<i4"), ("value", "<f4")])


class CscSource(CountSource):
    """Compressed columns in HDF5 or zarr. Entries are dealt into files by range of cells, which are then read one by one."""

    def __init__(self, path: Path, group: Any, obs: pd.DataFrame, genes: list[str], *, handle: Any = None) -> None:
        self.path, self.obs, self.genes, self._handle = path, obs, genes, handle
        self._data, self._indices, self._indptr = compressed(path, group)
        if len(self._indptr) - 1 != len(genes):
            raise InputError(f"{path}: the matrix has {len(self._indptr) - 1} genes but {len(genes)} are named.")
        shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
        if shape is not None and int(shape[0]) != len(obs):
            raise InputError(f"{path}: the matrix has {int(shape[0])} cells but there are {len(obs)} annotated cells.")
        self.notes = (
            f"{path.name}: the matrix is stored by genes (csc); it is turned on disk first, which takes longer than csr",
        )

    def chunks(self, max_values: int) -> Iterator[Chunk]:
        """Yield all cells in order."""
        counts = np.zeros(self.n_cells, dtype=np.int64)
        for start, stop in spans(self._indptr, max_values):
            cells = self._read(self._indices, start, stop)
            if len(cells) and (int(cells.max()) >= self.n_cells or int(cells.min()) < 0):
                raise InputError(
                    f"{self.path}: a value is stored for cell number {int(cells.max()) + 1} of {self.n_cells}. Damaged?"
                )
            counts += np.bincount(cells, minlength=self.n_cells)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        ranges = list(spans(indptr, max_values))
        bucket = np.repeat(np.arange(len(ranges)), [b - a for a, b in ranges])
        with tempfile.TemporaryDirectory(prefix="panmodal-csc-") as folder:
            self._deal(Path(folder), bucket, max_values // 4 + 1)
            for number, (start, stop) in enumerate(ranges):
                entries = np.fromfile(Path(folder) / str(number), dtype=ENTRY)
                # Stable, so that the genes of a cell stay in order.
                order = np.argsort(entries["cell"], kind="stable")
                yield Chunk(
                    start, indptr[start : stop + 1] - indptr[start], entries["gene"][order], entries["value"][order]
                )
                (Path(folder) / str(number)).unlink()

    def _read(self, array: Any, start: int, stop: int) -> Any:
        return part(array, int(self._indptr[start]), int(self._indptr[stop]), self.path, f"genes {start + 1} to {stop}")

    def _deal(self, folder: Path, bucket: np.ndarray, max_values: int) -> None:
        for number in range(int(bucket[-1]) + 1):
            (folder / str(number)).touch()
        for start, stop in spans(self._indptr, max_values):
            entries = np.empty(int(self._indptr[stop] - self._indptr[start]), dtype=ENTRY)
            entries["cell"] = self._read(self._indices, start, stop)
            entries["gene"] = np.repeat(np.arange(start, stop), np.diff(self._indptr[start : stop + 1]))
            entries["value"] = single(self._read(self._data, start, stop), self.path, keep_int=False)
            where = bucket[entries["cell"]]
            order = np.argsort(where, kind="stable")
            bounds = np.searchsorted(where[order], np.arange(int(bucket[-1]) + 2))
            entries = entries[order]
            for number in np.flatnonzero(np.diff(bounds)).tolist():
                with (folder / str(number)).open("ab") as stream:
                    entries[bounds[number] : bounds[number + 1]].tofile(stream)

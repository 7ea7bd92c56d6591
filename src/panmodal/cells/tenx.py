"""Counts in the formats of 10x Genomics' Cell Ranger: feature-barcode matrices as HDF5 or as a folder of text files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal.cells.source import Chunk, CountSource, CsrSource, gene_names, kept_columns, single
from panmodal.errors import InputError, some

GENES = "Gene Expression"


def _kept(var: pd.DataFrame, name: str) -> tuple[np.ndarray | None, list[str]]:
    """Columns that are genes; antibodies and guides captured beside them are no part of a cell's total."""
    kinds = var.get("feature_types")
    if kinds is None or (kinds == GENES).all():
        return None, []
    others = kinds[kinds != GENES].value_counts()
    said = ", ".join(f"{n} {k!r}" for k, n in others.items())
    return np.flatnonzero((kinds == GENES).to_numpy()), [f"{name}: features that are not genes left out: {said}"]


def open_tenx_h5(path: Path, gene_col: str | None = None) -> CountSource:
    """Open a ``filtered_feature_bc_matrix.h5`` (Cell Ranger 3 and later; group ``matrix``).

    Genes are named by ``gene_ids`` unless ``gene_col`` is ``gene_symbols``, which are often not unique.
    """
    import h5py

    try:
        handle = h5py.File(path, "r")
        if "matrix" not in handle:
            raise InputError(
                f"{path}: no group 'matrix'; it has {some(handle, 6)}. Is it a Cell Ranger file, version 3 or later?"
            )
        group = handle["matrix"]
        features = group["features"]

        def text(item: Any) -> list[str]:
            return [v.decode() for v in item[:]]

        var = pd.DataFrame({"gene_symbols": text(features["name"]), "feature_types": text(features["feature_type"])},
                           index=text(features["id"]))  # fmt: skip
        var["gene_ids"] = var.index
        obs = pd.DataFrame(index=text(group["barcodes"]))
    except InputError:
        raise
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a 10x HDF5 matrix ({error}). Is it complete?") from error
    kept, notes = _kept(var, path.name)
    # Columns of the stored matrix are barcodes: its compressed columns are compressed rows of cells.
    return CsrSource(path, group, obs, gene_names(var, gene_col, path), handle=handle, kept_genes=kept, notes=notes)


class MtxSource(CountSource):
    """A ``matrix.mtx`` (features x barcodes, sorted by barcode, as Cell Ranger writes it), read as text."""

    def __init__(self, path: Path, matrix: Path, obs: pd.DataFrame, names: list[str], kept: np.ndarray | None,
                 notes: list[str]) -> None:  # fmt: skip
        self.path, self.obs, self.notes, self._matrix = path, obs, tuple(notes), matrix
        used = np.arange(len(names)) if kept is None else kept
        self._column = kept_columns(len(names), used)
        self.genes = [names[k] for k in used]
        self._skip, self._stored = self._header(len(names))

    def _header(self, width: int) -> tuple[int, int]:
        lines = 0
        try:
            with _text(self._matrix) as stream:
                for line in stream:
                    lines += 1
                    if lines == 1 and not line.startswith("%%MatrixMarket matrix coordinate"):
                        raise InputError(
                            f"{self._matrix}: not a MatrixMarket coordinate file (first line {line[:40]!r})."
                        )
                    if not line.startswith("%"):
                        rows, columns, stored = (int(v) for v in line.split())
                        break
                else:
                    raise InputError(f"{self._matrix}: has no size line. Is it complete?")
        except InputError:
            raise
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise InputError(f"{self._matrix}: cannot be read ({error}). Is it complete?") from error
        if (rows, columns) != (width, len(self.obs)):
            raise InputError(f"{self._matrix}: {rows} features x {columns} barcodes, but {width} features and {len(self.obs)} "
                             "barcodes are named beside it.")  # fmt: skip
        return lines, stored

    def chunks(self, max_values: int) -> Iterator[Chunk]:
        """Yield all cells in order."""
        held: list[pd.DataFrame] = []
        done, seen, last = 0, 0, 0
        try:
            types = {"gene": np.int64, "cell": np.int64, "value": np.float64}
            reader = pd.read_csv(self._matrix, sep=r"\s+", skiprows=self._skip, header=None, names=list(types), dtype=types,
                                 chunksize=max(1, max_values))  # fmt: skip
            for piece in reader:
                if piece.empty:
                    continue
                if piece.isna().to_numpy().any():
                    raise InputError(
                        f"{self._matrix}: an entry near number {seen + len(piece)} has no value. Is the file complete?"
                    )
                cells = piece["cell"].to_numpy()
                seen += len(piece)
                if (np.diff(cells) < 0).any() or cells[0] < last or cells[0] < 1:
                    raise InputError(f"{self._matrix}: entries are not sorted by cell near entry {seen}; write it by cells "
                                     "(as Cell Ranger does), or convert it to h5ad.")  # fmt: skip
                last = int(cells[-1])
                if last > self.n_cells or piece["gene"].max() > len(self._column) or piece["gene"].min() < 1:
                    raise InputError(
                        f"{self._matrix}: an entry near number {seen} lies outside the matrix. Is it damaged?"
                    )
                held.append(piece)
                if last - 1 > done:  # the last cell may go on in the next piece
                    frame = pd.concat(held)
                    whole = frame["cell"] < last
                    yield self._chunk(frame[whole], done, last - 1)
                    done, held = last - 1, [frame[~whole]]
        except InputError:
            raise
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise InputError(f"{self._matrix}: cannot be read near entry {seen} ({error}). Is it complete?") from error
        if seen != self._stored:
            raise InputError(f"{self._matrix}: {self._stored} entries announced, {seen} there. Is it complete?")
        if done < self.n_cells:
            empty = pd.DataFrame({"gene": [], "cell": [], "value": []}, dtype=np.int64)
            yield self._chunk(pd.concat(held) if held else empty, done, self.n_cells)

    def _chunk(self, frame: pd.DataFrame, start: int, stop: int) -> Chunk:
        genes = self._column[frame["gene"].to_numpy(np.int64) - 1]
        keep = genes >= 0
        counts = np.bincount(frame["cell"].to_numpy(np.int64)[keep] - 1 - start, minlength=stop - start)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Chunk(start, indptr, genes[keep], single(frame["value"].to_numpy(np.float64)[keep], self.path))


def _text(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.exists():
                return candidate
    raise InputError(
        f"{folder}: no {' or '.join(names)} (also .gz) in it; a 10x folder holds matrix.mtx, barcodes.tsv, features.tsv."
    )


def open_mtx(folder: Path, gene_col: str | None = None) -> CountSource:
    """Open a folder with ``matrix.mtx``, ``barcodes.tsv`` and ``features.tsv`` (or ``genes.tsv``), plain or gzipped."""
    matrix, barcodes = _find(folder, "matrix.mtx"), _find(folder, "barcodes.tsv")
    features = _find(folder, "features.tsv", "genes.tsv")
    try:
        obs = pd.DataFrame(
            index=pd.read_csv(barcodes, sep="\t", header=None, dtype=str, keep_default_na=False)[0]
            .astype(str)
            .rename(None)
        )
        var = pd.read_csv(features, sep="\t", header=None, dtype=str, keep_default_na=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{folder}: barcodes or features cannot be read ({error}). Is it complete?") from error
    columns = ["gene_ids", "gene_symbols", "feature_types"]
    var = var.iloc[:, :3].set_axis(columns[: var.shape[1]], axis=1).set_index("gene_ids", drop=False)
    kept, notes = _kept(var, folder.name)
    return MtxSource(folder, matrix, obs, gene_names(var, gene_col, folder), kept, notes)

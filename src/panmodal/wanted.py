"""Reading which ids are wanted: those of a screen, an embedding, a table or a list."""

from __future__ import annotations

from pathlib import Path

from panmodal._anndata import read_anndata
from panmodal._tables import TEXT_SUFFIXES, read_frame, require_exists, suffix, text_ids
from panmodal.embeddings.reading import ID_COLUMNS
from panmodal.embeddings.recipe import locate
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, is_control
from panmodal.screens.columns import PERTURBATION_COLUMNS, find_column
from panmodal.screens.embedded import EMBEDDED_SCREENS, embedded_screen

COLUMNS = tuple(dict.fromkeys((*PERTURBATION_COLUMNS, *ID_COLUMNS)))


def read_ids(path: str | Path, column: str | None = None) -> list[str]:
    """Return the unique perturbation ids that a file names, sorted; names of control cells are no perturbations.

    Parameters
    ----------
    path
        A screen or an embedding (``.h5ad``, ``.zarr``: a column of ``obs``, else its row names), a table (``.csv``,
        ``.tsv``, ``.parquet``), a list (``.txt``, one id in a line), or the name of a shipped screen.
    column
        Column of the ids; detected unless given; ``index`` means the row names of an h5ad.

    Raises
    ------
    InputError
        No such file or column, or no id in it.
    """
    if str(path) in EMBEDDED_SCREENS and not Path(path).exists():
        return list(embedded_screen(str(path)).pert_ids)
    if str(path).startswith("data:"):
        path = locate(str(path))[0]
    path = require_exists(path)
    where, kind = str(path), suffix(path)
    if kind in (".h5ad", ".zarr"):
        adata = read_anndata(path)
        found = (
            None if column == "index" else find_column(adata.obs.columns, COLUMNS, column, "id", "--ids-col", where)[0]
        )
        values = list(adata.obs_names) if found is None else adata.obs[found].tolist()
    elif kind == ".txt" and column is None:
        try:
            values = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a list of ids ({error}).") from error
    elif kind in TEXT_SUFFIXES or kind == ".parquet":
        frame = read_frame(path, {*COLUMNS, *([column.lower()] if column else [])})
        found = find_column(frame.columns, COLUMNS, column, "id", "--ids-col", where)[0]
        if found is None and len(frame.columns) > 1:
            raise InputError(f"{path}: no column of ids found among {some(frame.columns, 12)}. Name it with --ids-col.")
        values = frame[found or frame.columns[0]].tolist()
    else:
        raise InputError(f"{path}: ids are read from h5ad, zarr, csv, tsv, parquet or txt (one id in a line).")
    ids = sorted({canonical(i) for i in text_ids(values, "the id", where)})
    ids = [i for i in ids if not is_control(i)]
    if not ids:
        raise InputError(f"{path}: names no perturbation.")
    return ids

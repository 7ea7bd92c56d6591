"""Original deposits: from their files to the options of ``panmodal prepare``."""

from __future__ import annotations

import ast
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panmodal._files import atomic_path
from panmodal._tables import plain_text
from panmodal.cells.prepare import PrepareOptions
from panmodal.datasets.cache import Cache
from panmodal.datasets.convert import convert_sciplex3
from panmodal.datasets.load import read_obs
from panmodal.datasets.record import CellsHow, Dataset, Keep
from panmodal.datasets.registry import dataset
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

KEPT = "panmodal_keep"
PERTURBATION = "panmodal_perturbation"


def cells_set(name: str | Dataset) -> tuple[Dataset, CellsHow]:
    """Return a data set of raw cells and how to use it; refuse those of another kind."""
    data = name if isinstance(name, Dataset) else dataset(name)
    if data.cells is None:
        raise InputError(f"data set {data.name!r} holds {data.kind}, not raw cells.")
    return data, data.cells


def cell_files(name: str | Dataset, cache: str | Path | None = None) -> list[str]:
    """Return what ``panmodal prepare`` is given: paths in the cache, ``CONTEXT=PATH`` where each file is one context."""
    data, how = cells_set(name)
    store = Cache(cache)
    if how.convert:
        return [str(store.folder / data.name / f"{data.name}.h5ad")]
    if how.contexts:
        return [f"{context}={store.path(data, data.file(path))}" for context, path in how.contexts.items()]
    return [str(store.path(data, data.file(path))) for path in how.files or [f.path for f in data.files]]


def table_path(name: str | Dataset, cache: str | Path | None = None) -> Path | None:
    """Return where the table of cells lies that stands for conditions which ``panmodal prepare`` cannot express; None without any."""
    data, how = cells_set(name)
    return Cache(cache).folder / data.name / f"{data.name}.cells.parquet" if how.keep or how.joined_by else None


def prepare_options(name: str | Dataset, *, cache: str | Path | None = None) -> PrepareOptions:
    """Return the options of :func:`panmodal.cells.prepare.open_cells` for a data set of raw cells."""
    data, how = cells_set(name)
    table = table_path(data, cache)
    return PrepareOptions(
        pert_col=PERTURBATION if how.joined_by else how.pert_col, control=how.control, batch_col=how.batch_col,
        context_col=how.context_col, context=how.context, keep=(f"{KEPT}=yes",) if how.keep else (), rule=how.rule, deg=how.deg,
        min_cells=how.min_cells, gene_col=how.gene_col, table=str(table) if table else None, drop_unassigned=how.drop_unassigned,
    )  # fmt: skip


def prepare_command(name: str | Dataset, *, cache: str | Path | None = None, out: str = "screen.h5ad") -> str:
    """Return the command line that makes a screen of a data set of raw cells."""
    data, _ = cells_set(name)
    options = prepare_options(data, cache=cache)
    words = ["panmodal", "prepare", *cell_files(data, cache), "--out", out]
    words += [word for study in data.contains for word in ("--dataset", study)]
    for field in fields(options):
        value: Any = getattr(options, field.name)
        flag = "--obs" if field.name == "table" else "--" + field.name.replace("_", "-")
        if value == field.default or value is None:
            continue
        if value is True:
            words.append(flag)
        for each in value if isinstance(value, tuple) else [] if value is True else [value]:
            words += [flag, str(each)]
    return shlex.join(words)


def make_ready(name: str | Dataset, *, cache: str | Path | None = None) -> list[Path]:
    """Convert fetched files and write the table of cells, as far as a data set needs either; return what was written.

    Raises
    ------
    InputError
        A file is not there, or a column that the record names is not in it.
    """
    data, how = cells_set(name)
    written = []
    sources = [Path(text.partition("=")[2] if how.contexts else text) for text in cell_files(data, cache)]
    if how.convert and not sources[0].exists():
        store = Cache(cache)
        matrix, cells, genes = (store.path(data, f) for f in data.files)
        convert_sciplex3(matrix, cells, genes, sources[0])
        written.append(sources[0])
    table = table_path(data, cache)
    if table is not None and (
        not table.exists() or any(table.stat().st_mtime_ns < s.stat().st_mtime_ns for s in sources)
    ):
        _write_table(how, sources, table)
        written.append(table)
    return written


def _write_table(how: CellsHow, sources: list[Path], table: Path) -> None:
    """Write one row for each cell: its name, whether it is kept, and the perturbation with ``+`` between its parts."""
    import pandas as pd

    frames = []
    for source in sources:
        obs = read_obs(source)
        frame = pd.DataFrame({"cell": obs.index.astype(str)})
        if how.keep:
            kept = np.ones(len(obs), dtype=bool)
            for condition in how.keep:
                kept &= keeps(obs, condition, str(source))
            frame[KEPT] = np.where(kept, "yes", "no")
        if how.joined_by:
            labels = _column(obs, how.pert_col, str(source)).astype(str)
            frame[PERTURBATION] = [label.replace(how.joined_by, "+") for label in labels]
        frames.append(frame)
    with atomic_path(table) as partial:
        pd.concat(frames, ignore_index=True).to_parquet(partial, index=False)


def keeps(obs: pd.DataFrame, condition: Keep, where: str) -> NDArray[np.bool_]:
    """Tell which cells meet a condition.

    Raises
    ------
    InputError
        No such column, none of the values in it, or a dose that cannot be read.
    """
    import pandas as pd

    column = _column(obs, condition.column, where)
    # Few distinct values stand for many cells: each is read once.
    coded = pd.Categorical(column.astype(object))
    levels = [plain_text(c).strip() for c in coded.categories]
    wanted: list[bool]
    if condition.dose:
        wanted = [_dose(level, condition.column, where) in {float(v) for v in condition.values} for level in levels]
    elif condition.without:
        wanted = [level not in condition.without for level in levels]
    else:
        accepted = {plain_text(v) for v in condition.values}
        wanted = [level in accepted or _number(level) in accepted for level in levels]
    if not any(wanted):
        raise InputError(
            f"{where}: no cell meets the condition on column {condition.column!r}; it has {some(levels, 8)}."
        )
    return np.array([*wanted, bool(condition.without)], dtype=bool)[coded.codes]


def _number(text: str) -> str:
    """Write the text of a number as a label: ``10000.0`` is ``10000``."""
    try:
        return plain_text(float(text))
    except ValueError:
        return text


def _dose(text: str, column: str, where: str) -> float:
    """Read the dose of ``[('Trametinib', 5.0, 'uM')]``; one compound only."""
    try:
        found = ast.literal_eval(text)
        (_, dose, _), *more = found
        if more:
            return float("nan")
        return float(dose)
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(
            f"{where}: column {column!r} holds {text!r}, of which no dose can be read ({error})."
        ) from error


def _column(obs: pd.DataFrame, name: str, where: str) -> pd.Series:
    if name not in obs:
        raise InputError(f"{where}: obs has no column {name!r}; it has {some(obs.columns, 12)}.")
    return obs[name]

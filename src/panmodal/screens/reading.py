"""Reading and writing screens: h5ad, zarr and plain tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panmodal._anndata import read_anndata
from panmodal._files import atomic_path
from panmodal._tables import number_columns, read_frame, require_exists, stem, suffix, text_ids
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, is_control
from panmodal.screens.columns import ANNOTATION_COLUMNS, CONTEXT_COLUMNS, PERTURBATION_COLUMNS, find_column
from panmodal.screens.screen import RESPONSE_KINDS, UNS_KEY, Screen, response_kind, take_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

INDEX = "index"
"""Given as ``pert_col``, it means the row names (obs_names)."""


def read_screen(
    path: str | Path,
    *,
    name: str | None = None,
    response: str | None = None,
    pert_col: str | None = None,
    context_col: str | Sequence[str] | None = None,
    context: str | None = None,
    contexts: Sequence[str] | None = None,
    drop_controls: bool = False,
    datasets: Sequence[str] | None = None,
    alpha: float = 0.05,
    min_effect: float = 0.0,
    missing: str = "error",
) -> Screen:
    """Read perturbation responses.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr`` (AnnData), or a table ``.csv``, ``.tsv`` (``.gz``), ``.parquet`` with one row per
        (perturbation, context) and one column per read-out, or with one row per test of differential expression (see
        :mod:`panmodal.screens.deg_tables`).
    name
        Name of the screen; the file's stem unless given.
    response
        Kind of response (``lfc``, ``deg``, ``rank_score``, ``fitness``, ``continuous``). Needed unless the file says.
    pert_col
        Column of the perturbation; detected among the usual names unless given; ``index`` means the row names.
    context_col
        Column(s) of the context, joined by `` | `` when several; detected unless given.
    context
        Name of the one context of a file without such a column.
    contexts
        Keep only these contexts.
    drop_controls
        Remove rows that name control cells (they are counted in the notes) instead of refusing them.
    datasets
        Names of the studies it is from, for marking embeddings trained on them; those that the file names unless given.
    alpha, min_effect
        Of a table of tests: the largest adjusted p and the smallest absolute effect of a DEG.
    missing
        Of a table of tests: whether genes without a test are an ``error`` or get the label ``zero``.

    Raises
    ------
    InputError
        The file cannot be read, a column is missing, or the content is not a valid screen; ``alpha`` outside (0, 1],
        ``min_effect`` below 0, another ``missing``.
    """
    from panmodal.screens.deg_columns import find_deg_columns
    from panmodal.screens.deg_tables import CallingRule, read_deg_table

    rule = CallingRule(alpha, min_effect, missing)
    path = require_exists(path)
    where = str(path)
    notes: list[str] = []
    if suffix(path) in (".h5ad", ".zarr"):
        adata = read_anndata(path)
    else:
        columns = find_deg_columns(path, pert_col, context_col, response)
        if columns is not None:
            screen = read_deg_table(
                path, columns, rule, name=name, context=context, contexts=contexts, drop_controls=drop_controls
            )
            screen.datasets = tuple(datasets or ())
            return screen
        adata = _table_to_anndata(path, pert_col, context_col, notes)
    own = _own_record(adata)
    kind, description = _response(own, adata, response, where)
    if kind == "deg" and own.get("response") == "lfc":
        adata, untested = take_labels(adata, where)
        if untested:
            notes.append(f"{untested} pair(s) have too few cells for DEG labels and are left out")
    obs = adata.obs.copy()

    pert, others = (INDEX, []) if pert_col == INDEX else find_column(
        obs.columns, PERTURBATION_COLUMNS, pert_col, "perturbation", "--pert-col", where
    )  # fmt: skip
    if pert is None:
        raise InputError(
            f"{where}: no perturbation column found among {some(obs.columns, 12)}. Name it with --pert-col "
            f"(--pert-col {INDEX} takes the row names, such as {some(adata.obs_names, 3)})."
        )
    if others:
        notes.append(f"perturbations from column {pert!r}; also present: {', '.join(others)} (choose with --pert-col)")
    raw = text_ids(list(adata.obs_names) if pert == INDEX else obs[pert].tolist(), "the perturbation", where)
    ids = [canonical(i) for i in raw]
    changed = {a: b for a, b in zip(raw, ids, strict=True) if a != b}
    if changed:
        shown = ", ".join(f"{a} -> {b}" for a, b in list(changed.items())[:3])
        notes.append(f"{len(changed)} perturbation id(s) written in canonical form ({shown})")

    line = row_contexts(obs, context_col, context, where, notes)
    adata = adata.copy() if adata.is_view else adata
    obs["pert_id"], obs["cell_line"] = ids, line
    adata.obs = obs
    control = np.array([is_control(i) for i in ids])
    if drop_controls and control.any():
        notes.append(f"{int(control.sum())} control row(s) removed ({some(dict.fromkeys(np.array(ids)[control]), 3)})")
        adata = adata[~control].copy()
    try:
        screen = Screen(
            adata,
            name=name or own.get("name") or stem(path),
            response=kind,
            description=description,
            simulated=bool(own.get("simulated", False)),
            notes=notes,
            provenance=json.loads(own.get("provenance", "{}")),
            datasets=tuple(datasets or json.loads(own.get("datasets", "[]"))),
        )
        return screen.select(contexts) if contexts else screen
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _table_to_anndata(
    path: Path, pert_col: str | None, context_col: str | Sequence[str] | None, notes: list[str]
) -> AnnData:
    import anndata
    import pandas as pd

    given = [pert_col] if pert_col else []
    given += [context_col] if isinstance(context_col, str) else list(context_col or [])
    labels = {*PERTURBATION_COLUMNS, *CONTEXT_COLUMNS, *(g.lower() for g in given)}
    frame = read_frame(path, labels)
    if pert_col == INDEX:
        pert: str | None = frame.columns[0]
        frame = frame.set_index(frame.columns[0])
        frame.index = frame.index.astype(str)
        ids = text_ids(frame.index.tolist(), "the perturbation", str(path))
    else:
        pert, _ = find_column(frame.columns, PERTURBATION_COLUMNS, pert_col, "perturbation", "--pert-col", str(path))
        if pert is None:
            raise InputError(
                f"{path}: no perturbation column found among {some(frame.columns, 12)}. Name it with --pert-col "
                f"(--pert-col {INDEX} takes the first column)."
            )
        ids = text_ids(frame[pert].tolist(), "the perturbation", str(path))
    about: list[str] = []
    for column in frame.columns:
        if (
            column.lower() in labels | ANNOTATION_COLUMNS
            or column in given
            or (
                not pd.api.types.is_numeric_dtype(frame[column])
                and pd.to_numeric(frame[column], errors="coerce").isna().all()
            )
        ):
            about.append(column)
    readouts = [c for c in frame.columns if c not in about]
    extra = [c for c in about if c.lower() not in labels]
    if extra:
        notes.append(f"columns taken as annotation, not as read-outs: {', '.join(extra)}")
    if not readouts:
        raise InputError(f"{path}: no numeric column is left for the read-outs; columns are {some(frame.columns, 12)}.")
    values = number_columns(frame, readouts, str(path), ids)
    obs = frame[about].copy()
    obs.index = pd.Index([str(i) for i in (ids if pert_col == INDEX else range(len(frame)))])
    return anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=readouts))


def _own_record(adata: AnnData) -> dict[str, Any]:
    record = adata.uns.get(UNS_KEY, {})
    return dict(record) if isinstance(record, dict) else {}


def _response(own: dict[str, Any], adata: AnnData, given: str | None, where: str) -> tuple[str, str]:
    """Decide the kind of response: what the user says, else what the file says, else an error."""
    said = [own.get("response"), adata.uns.get("response")]
    text = next((s.strip() for s in said if isinstance(s, str) and s.strip()), "")
    description = str(own.get("description") or (text if text.lower() not in RESPONSE_KINDS else ""))
    if given:
        return response_kind(given, where).name, description
    if not text:
        raise InputError(
            f"{where}: the file does not say what its values are. Give --response with one of "
            f"{', '.join(RESPONSE_KINDS)}."
        )
    first = text.split()[0].strip(":,;.").lower().replace("-", "_")
    # A free text that does not begin with a known kind describes some other continuous response.
    return (first if first in RESPONSE_KINDS else "continuous"), description


def row_contexts(
    obs: pd.DataFrame, column: str | Sequence[str] | None, name: str | None, where: str, notes: list[str]
) -> list[str]:
    """Return the context of each row: of the columns named, else the one name given, else a column found, else ``all``."""
    if name is not None and column:
        raise InputError(f"{where}: give a context column or one context name, not both.")
    if name is not None:
        return [name] * len(obs)
    if not column:
        found, others = find_column(obs.columns, CONTEXT_COLUMNS, None, "context", "--context-col", where)
        if found is None:
            notes.append("no context column found: all rows are one context, 'all' (name it with --context)")
            return ["all"] * len(obs)
        if others:
            notes.append(
                f"contexts from column {found!r}; also present: {', '.join(others)} (choose with --context-col)"
            )
        columns = [found]
    else:
        columns = [column] if isinstance(column, str) else list(column)
        for each in columns:
            find_column(obs.columns, (), each, "context", "--context-col", where)
    texts = [text_ids(obs[c].tolist(), f"the context ({c})", where) for c in columns]
    return [" | ".join(row) for row in zip(*texts, strict=True)]


def write_screen(screen: Screen, path: str | Path) -> None:
    """Write a screen as h5ad or zarr with its own record in ``uns['panmodal']``."""
    path = Path(path)
    adata = screen.adata.copy()
    adata.uns[UNS_KEY] = {
        "name": screen.name,
        "response": screen.response,
        "description": screen.description,
        "simulated": screen.simulated,
    }
    if screen.datasets:
        adata.uns[UNS_KEY]["datasets"] = json.dumps(list(screen.datasets))
    if screen.provenance:
        adata.uns[UNS_KEY]["provenance"] = json.dumps(screen.provenance)
    if suffix(path) == ".h5ad":
        with atomic_path(path) as partial:
            adata.write_h5ad(partial, compression="gzip")
    elif suffix(path) == ".zarr":
        if path.exists():
            raise InputError(f"{path}: exists already; remove it or choose another name.")
        adata.write_zarr(path)
    else:
        raise InputError(f"{path}: a screen is written as .h5ad or .zarr.")

"""Which column of the cells' annotation is what, and which labels name control cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from panmodal._tables import plain_text
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import control_family
from panmodal.screens.columns import BATCH_COLUMNS, CONTEXT_COLUMNS, PERTURBATION_COLUMNS, find_column

if TYPE_CHECKING:
    import pandas as pd

FILE = "file"
"""Given as a column, it means the file that a cell comes from."""
MISSING = frozenset({"", "nan", "none", "na", "n/a", "<na>", "null", "unassigned", "unknown"})
RULES = ("pooled", "matched")
VARYING = ("dose", "dose_value", "dosage", "concentration", "time", "timepoint", "time_point")


@dataclass(frozen=True)
class Columns:
    """Which column of the annotation is what.

    Attributes
    ----------
    perturbation, batch
        Column names; no batch column means one batch.
    context
        Columns joined by `` | ``; none means one context.
    controls
        Labels of the perturbation column that name control cells.
    notes
        What was chosen among several possibilities.
    """

    perturbation: str
    controls: tuple[str, ...]
    batch: str | None = None
    context: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def texts(series: pd.Series) -> tuple[list[str], NDArray[np.int32]]:
    """Return the distinct labels of a column, sorted, and each cell's code; -1 where the label is missing."""
    import pandas as pd

    found = pd.Categorical(series) if not isinstance(series.dtype, pd.CategoricalDtype) else series.cat
    # A category that no cell has is not there.
    live = np.bincount(np.asarray(found.codes)[np.asarray(found.codes) >= 0], minlength=len(found.categories)) > 0
    raw = [plain_text(c).strip() if there else "" for c, there in zip(found.categories, live, strict=True)]
    labels = sorted({t for t in raw if t.lower() not in MISSING})
    where = {label: k for k, label in enumerate(labels)}
    lookup = np.array([*(where.get(t, -1) for t in raw), -1], dtype=np.int32)
    return labels, lookup[np.asarray(found.codes)]


def find_columns(
    obs: pd.DataFrame, where: str, *, pert_col: str | None = None, controls: Sequence[str] = (), batch_col: str | None = None,
    context_col: Sequence[str] = (), several_files: bool = False, one_context: bool = False,
) -> Columns:  # fmt: skip
    """Find the columns of perturbation, batch and context and the control labels; what is given is only checked.

    With ``one_context`` all cells are of one context, and no column is looked for.

    Raises
    ------
    InputError
        No perturbation column; no control label, or labels of several kinds of control; a given column or label is absent.
    """
    notes = []
    pert, others = find_column(obs.columns, PERTURBATION_COLUMNS, pert_col, "perturbation", "--pert-col", where)
    if pert is None:
        raise InputError(
            f"{where}: no perturbation column found among {some(obs.columns, 12)}. Name it with --pert-col."
        )
    if others:
        notes.append(f"perturbations from column {pert!r}; also present: {', '.join(others)} (choose with --pert-col)")
    batch, others = find_column(
        obs.columns, BATCH_COLUMNS, batch_col if batch_col != "none" else None, "batch", "--batch-col", where
    )
    if batch_col == "none":
        batch, others = None, []
    if others:
        notes.append(f"batches from column {batch!r}; also present: {', '.join(others)} (choose with --batch-col)")
    for column in context_col:
        find_column(obs.columns, (), column, "context", "--context-col", where)
    context = tuple(context_col)
    if not context and not one_context:
        found, others = find_column(obs.columns, CONTEXT_COLUMNS, None, "context", "--context-col", where)
        context = (found,) if found else (FILE,) if several_files and batch != FILE else ()
        if others:
            notes.append(
                f"contexts from column {found!r}; also present: {', '.join(others)} (choose with --context-col)"
            )
    if several_files and FILE not in context and batch is None and batch_col is None:
        batch = FILE
        notes.append("no batch column found: the files are the batches (--batch-col none for one batch)")
    if batch in context:
        raise InputError(
            f"{where}: column {batch!r} is both batch and context. Choose with --batch-col or --context-col."
        )
    labels, codes = texts(obs[pert])
    for column in VARYING:
        if column in obs and column not in context and column != pert and obs[column].nunique() > 1:
            notes.append(f"column {column!r} varies; its values are averaged (--context-col {column} keeps them apart)")
    return Columns(pert, _control_labels(labels, codes, controls, pert, where), batch, context, tuple(notes))


def _control_labels(
    labels: list[str], codes: NDArray[np.int32], given: Sequence[str], column: str, where: str
) -> tuple[str, ...]:
    cells = np.bincount(codes[codes >= 0], minlength=len(labels))
    if given:
        unknown = [g for g in given if g not in labels]
        if unknown:
            raise InputError(
                f"{where}: column {column!r} has no label {some(unknown)} for --control; it has {some(labels, 8)}."
            )
        return tuple(given)
    families: dict[str, list[str]] = {}
    for label in labels:
        family = control_family(label)
        if family:
            families.setdefault(family, []).append(label)
    if not families:
        raise InputError(
            f"{where}: no control cells found: no label of column {column!r} is known as a control (it has {some(labels, 8)}). "
            "Name them with --control LABEL (repeat for several)."
        )
    if len(families) > 1:
        said = ", ".join(f"{some(v, 2)} ({sum(cells[labels.index(x)] for x in v)} cells)" for v in families.values())
        raise InputError(
            f"{where}: column {column!r} has labels of several kinds of control: {said}. Say which are meant with --control "
            "LABEL (repeat to use them together)."
        )
    return tuple(next(iter(families.values())))


def choose_rule(rule: str, columns: Columns) -> str:
    """Return the control rule: ``auto`` is matched where the batches are plates, else pooled."""
    if rule == "auto":
        return "matched" if columns.batch and "plate" in columns.batch.lower() else "pooled"
    if rule not in RULES:
        raise InputError(f"no control rule {rule!r}; give one of {', '.join(RULES)} or auto.")
    return rule

"""Which cell is what: filters with their counts, and the groups that are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from panmodal.cells.columns import Columns, texts
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, control_family, is_control

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Layout:
    """Groups of cells.

    Attributes
    ----------
    pert_ids, contexts
        Of each row (perturbation, context) of the screen, sorted by context and id.
    control_contexts, control_batches, control_cells
        Of each control group (context, batch): labels and number of cells.
    row
        For each cell its row; control group k is row ``len(pert_ids) + k``; -1: left out.
    batch
        For each cell the number of its batch.
    batch_names
        Labels of batches.
    groups
        One row for each (row, batch) with its number of cells ``n``.
    dropped
        Reason -> number of cells left out.
    left_out
        Perturbations (with context) left out for too few cells, with their number of cells.
    matched
        Control rule.
    """

    pert_ids: tuple[str, ...]
    contexts: tuple[str, ...]
    control_contexts: tuple[str, ...]
    control_batches: NDArray[np.int32]
    control_cells: NDArray[np.int64]
    row: NDArray[np.int32]
    batch: NDArray[np.int32]
    batch_names: tuple[str, ...]
    groups: pd.DataFrame
    matched: bool
    dropped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of (perturbation, context) pairs."""
        return len(self.pert_ids)

    @property
    def n_groups(self) -> int:
        """Rows and control groups together."""
        return len(self.pert_ids) + len(self.control_contexts)

    def counts(self) -> NDArray[np.int64]:
        """Cells of each row and control group."""
        kept = self.row[self.row >= 0]
        return np.bincount(kept, minlength=self.n_groups)

    def controls_of(self, context: str) -> NDArray[np.intp]:
        """Numbers of the control groups of a context."""
        return np.array([k for k, c in enumerate(self.control_contexts) if c == context], dtype=np.intp)

    def group_of_cell(self) -> NDArray[np.int32]:
        """Position in ``groups`` (sorted by row and batch) of each cell, -1: left out."""
        size = len(self.batch_names)
        keys = self.groups["row"].to_numpy(np.int64) * size + self.groups["batch"].to_numpy(np.int64)
        used = self.row >= 0
        out = np.full(len(self.row), -1, dtype=np.int32)
        out[used] = np.searchsorted(keys, self.row[used].astype(np.int64) * size + self.batch[used])
        return out

    def weights(self) -> NDArray[np.float64]:
        """Weight of each cell in the mean of its row: 1 / (batches of the row x cells of the row in the batch)."""
        batches = self.groups.groupby("row")["n"].transform("size").to_numpy()
        group = self.group_of_cell()
        return np.where(group >= 0, (1.0 / (batches * self.groups["n"].to_numpy()))[group], 0.0)


def lay_out(
    obs: pd.DataFrame, columns: Columns, where: str, *, rule: str = "pooled", context_name: str = "all", contexts: Sequence[str] = (),
    keep: Sequence[str] = (), min_cells: int = 1, drop_unassigned: bool = False, drop_unmatched: bool = False,
) -> Layout:  # fmt: skip
    """Sort cells into (perturbation, context) rows and control groups, and count what is left out.

    Parameters
    ----------
    obs
        Annotation of all cells.
    rule
        ``pooled`` or ``matched`` (control cells of the same batch).
    context_name
        Name of the one context where no column tells.
    contexts
        Keep only these.
    keep
        Conditions ``COLUMN=VALUE`` on cells.
    min_cells
        Fewest cells of a (perturbation, context) pair.
    drop_unassigned
        Leave out cells without a perturbation, batch or context, instead of refusing them.
    drop_unmatched
        With the matched rule: leave out cells of batches without control cells, instead of refusing them.

    Raises
    ------
    InputError
        Missing labels; a context without control cells; a batch without control cells; nothing left.
    """
    import pandas as pd

    n = len(obs)
    used = np.ones(n, dtype=bool)
    dropped: dict[str, int] = {}

    def leave(out: NDArray[np.bool_], reason: str) -> None:
        if (out & used).any():
            dropped[reason] = dropped.get(reason, 0) + int((out & used).sum())
            used[out] = False

    for condition in keep:
        leave(~_condition(obs, condition, where), f"not {condition}")
    labels, label_code = texts(obs[columns.perturbation])
    names = [*(("context", c) for c in columns.context), *([("batch", columns.batch)] if columns.batch else [])]
    coded = [(what, *texts(obs[column])) for what, column in names]
    checks = [
        ("perturbation", columns.perturbation, label_code),
        *((w, c, k[2]) for (w, c), k in zip(names, coded, strict=True)),
    ]
    for what, column, codes in checks:
        missing = (codes < 0) & used
        if missing.any() and not drop_unassigned:
            raise InputError(
                f"{where}: column {column!r} ({what}) is empty for {int(missing.sum())} of {n} cells, first "
                f"{str(obs.index[int(np.flatnonzero(missing)[0])])!r}. Leave them out with --drop-unassigned, or fill the column."
            )
        leave(missing, f"no {what} ({column})")
    parts = [(levels, codes) for what, levels, codes in coded if what == "context"]
    context_names, context_code = _joined(parts, n, context_name)
    batch_names, batch_code = next(
        ((tuple(v), c) for w, v, c in coded if w == "batch"), (("",), np.zeros(n, dtype=np.int32))
    )
    if contexts:
        unknown = [c for c in contexts if c not in context_names]
        if unknown:
            raise InputError(f"{where}: no context {some(unknown)}; there are {some(context_names, 12)}.")
        leave(~np.isin(context_code, [context_names.index(c) for c in contexts]), "other contexts")
    control = np.isin(label_code, [labels.index(c) for c in columns.controls])
    for k, label in enumerate(labels):
        if label not in columns.controls and (control_family(label) or is_control(canonical(label))):
            leave(label_code == k, f"other control {label!r}")
    ids = [canonical(label) for label in labels]
    id_names = sorted({i for i, label in zip(ids, labels, strict=True) if label not in columns.controls})
    position = {i: k for k, i in enumerate(id_names)}
    id_code = np.array([*(position.get(i, -1) for i in ids), -1], dtype=np.int64)[label_code]
    n_batches = len(batch_names)

    has_control = np.zeros((len(context_names), n_batches), dtype=bool)
    has_control[context_code[control & used], batch_code[control & used]] = True
    for k, name in enumerate(context_names):
        if (used & ~control & (context_code == k)).any() and not has_control[k].any():
            raise InputError(f"{where}: context {name!r} has no control cells ({some(columns.controls, 3)}). Leave it out with "
                             "--contexts, or name other controls with --control.")  # fmt: skip
    if rule == "matched":
        bare = used & ~control & ~has_control[context_code, batch_code]
        if bare.any() and not drop_unmatched:
            first = int(np.flatnonzero(bare)[0])
            places = sorted(
                {
                    f"{batch_names[b]} ({context_names[c]})"
                    for b, c in zip(batch_code[bare], context_code[bare], strict=True)
                }
            )
            raise InputError(
                f"{where}: {int(bare.sum())} perturbed cells, such as those of {labels[label_code[first]]!r}, lie in batches without "
                f"control cells: {some(places, 4)}. The matched rule compares within a batch; leave these cells out with "
                "--drop-unmatched, or use --rule pooled."
            )
        leave(bare, "batch without control cells")
    pair = context_code.astype(np.int64) * max(1, len(id_names)) + id_code
    perturbed = used & ~control
    pairs, inverse, sizes = np.unique(pair[perturbed], return_inverse=True, return_counts=True)
    few = sizes < min_cells
    left_out = {
        f"{id_names[p % len(id_names)]} ({context_names[p // len(id_names)]})": int(s)
        for p, s in zip(pairs[few], sizes[few], strict=True)
    }
    row = np.full(n, -1, dtype=np.int32)
    new = np.where(few, -1, np.cumsum(~few) - 1).astype(np.int32)
    row[perturbed] = new[inverse]
    if few.any():
        dropped[f"fewer than {min_cells} cells of a perturbation"] = int(sizes[few].sum())
    kept = pairs[~few]
    if not len(kept):
        raise InputError(
            f"{where}: no perturbation is left ({', '.join(f'{v} cells: {k}' for k, v in dropped.items()) or 'no perturbed cells'})."
        )
    here = {context_names[int(p // len(id_names))] for p in kept}
    live = np.array([c in here for c in context_names])
    group_key = context_code.astype(np.int64) * n_batches + batch_code
    keys, inverse, control_cells = np.unique(
        group_key[control & used & live[context_code]], return_inverse=True, return_counts=True
    )
    leave(control & ~live[context_code], "control cells of contexts without perturbations")
    row[control & used] = len(kept) + inverse
    own = pd.DataFrame({"row": row[row >= 0], "batch": batch_code[row >= 0]})
    groups = own.groupby(["row", "batch"], sort=True).size().rename("n").reset_index()
    return Layout(
        pert_ids=tuple(id_names[int(p % len(id_names))] for p in kept),
        contexts=tuple(context_names[int(p // len(id_names))] for p in kept),
        control_contexts=tuple(context_names[int(k // n_batches)] for k in keys), control_batches=(keys % n_batches).astype(np.int32),
        control_cells=control_cells.astype(np.int64), row=row, batch=batch_code.astype(np.int32), batch_names=tuple(batch_names),
        groups=groups, matched=rule == "matched", dropped=dropped, left_out=left_out,
    )  # fmt: skip


def _condition(obs: pd.DataFrame, condition: str, where: str) -> NDArray[np.bool_]:
    column, equals, value = condition.partition("=")
    if not equals or column not in obs:
        raise InputError(
            f"{where}: --keep {condition!r} must be COLUMN=VALUE with one of the columns {some(obs.columns, 12)}."
        )
    labels, codes = texts(obs[column])
    if value not in labels:
        raise InputError(f"{where}: column {column!r} has no value {value!r}; it has {some(labels, 8)}.")
    return codes == labels.index(value)


def _joined(parts: list[tuple[list[str], NDArray[np.int32]]], n: int, name: str) -> tuple[list[str], NDArray[np.int32]]:
    """Labels and codes of contexts that several columns make up together."""
    if not parts:
        return [name], np.zeros(n, dtype=np.int32)
    levels, codes = parts[0]
    for more, code in parts[1:]:
        both = codes.astype(np.int64) * len(more) + code
        both[(codes < 0) | (code < 0)] = -1
        found, inverse = np.unique(both, return_inverse=True)
        names = ["" if k < 0 else f"{levels[int(k) // len(more)]} | {more[int(k) % len(more)]}" for k in found]
        shift = int(found[0] < 0)
        levels, codes = names[shift:], (inverse - shift).astype(np.int32)
    return levels, codes


def restrict(layout: Layout, rows: Sequence[int]) -> Layout:
    """Return the layout with cells of other rows left out (numbers of rows stay); control cells stay."""
    wanted = np.zeros(layout.n_groups + 1, dtype=bool)
    wanted[list(rows)] = True
    wanted[layout.n_rows : layout.n_groups] = True
    return replace(layout, row=np.where(wanted[layout.row], layout.row, -1).astype(np.int32))

"""From raw cells to a screen: log fold changes and DEG labels after the protocol, with a record of how."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal._version import __version__
from panmodal.cells.aggregate import Block, MomentGroups, aggregate, moment_groups, target_match, threads
from panmodal.cells.columns import Columns, choose_rule, find_columns
from panmodal.cells.conditions import Layout, lay_out
from panmodal.cells.deg import ALPHA, MIN_CELLS, MIN_CELLS_PLATE, deg_labels, vote
from panmodal.cells.stream import CellStream
from panmodal.errors import InputError, some
from panmodal.screens.screen import Screen

TESTS = {
    "pooled": "Welch's t-test, cells of all batches together",
    "vote": "Welch's t-test in each batch, majority",
    "none": "none",
}


@dataclass(frozen=True)
class PrepareOptions:
    """How cells become responses; stored with the screen, so that the ceiling can read the same cells in the same way.

    Attributes
    ----------
    pert_col, control, batch_col, context_col, context, contexts, keep
        As in :func:`panmodal.cells.conditions.lay_out`; found in the annotation unless given.
    rule
        ``pooled``, ``matched`` or ``auto``.
    deg
        ``pooled``, ``vote``, ``none`` or ``auto`` (vote where the rule is matched and there are several batches).
    min_cells
        Fewest cells of a (perturbation, context) pair.
    max_remaining
        Leave out pairs whose target gene keeps more than this share of its expression in control cells; pairs whose target is not
        measured stay.
    layer, gene_col, table, genes
        As in :class:`panmodal.cells.stream.CellStream`.
    already_normalised
        Values are log1p of counts scaled to 1e4 per cell.
    drop_unassigned, drop_unmatched
        Leave such cells out instead of refusing them.
    """

    pert_col: str | None = None
    control: tuple[str, ...] = ()
    batch_col: str | None = None
    context_col: tuple[str, ...] = ()
    context: str | None = None
    contexts: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    rule: str = "auto"
    deg: str = "auto"
    min_cells: int = 10
    max_remaining: float | None = None
    layer: str | None = None
    gene_col: str | None = None
    table: str | Path | None = None
    genes: tuple[str, ...] | None = None
    already_normalised: bool = False
    drop_unassigned: bool = False
    drop_unmatched: bool = False


@dataclass
class Cells:
    """Opened cells with their columns and groups: what is shown before anything long starts.

    Attributes
    ----------
    stream, columns, layout
        The cells, which column is what, and which cell belongs where.
    rule, test
        Control rule and DEG test, decided.
    options
        As asked for.
    """

    stream: CellStream
    columns: Columns
    layout: Layout
    rule: str
    test: str
    options: PrepareOptions
    paths: tuple[str, ...] = field(default=())

    def facts(self) -> list[tuple[str, str]]:
        """Tell what was found, as (what, value) pairs."""
        layout, columns = self.layout, self.columns
        n_controls = int(layout.control_cells.sum())
        kept = int((layout.row >= 0).sum())
        contexts, ids, batches = list(dict.fromkeys(layout.contexts)), sorted(set(layout.pert_ids)), layout.batch_names
        named = f"column {' | '.join(columns.context)!r}: " if columns.context else ""
        facts = [
            ("cells", f"{self.stream.n_cells} x {len(self.stream.genes)} genes in {', '.join(self.stream.names)}"),
            ("perturbations", f"column {columns.perturbation!r}: {len(ids)} ({some(ids, 3)})"),
            ("controls", f"{some(columns.controls, 4)}: {n_controls} cells"),
            ("contexts", f"{named}{len(contexts)} ({some(contexts, 3)})"),
            ("batches", f"column {columns.batch!r}: {len(batches)} ({some(batches, 3)})" if columns.batch else "none"),
            ("control rule", f"{self.rule}: " + ("within each batch" if self.rule == "matched" else "means over batches")),
            ("DEG labels", TESTS[self.test]),
            ("used", f"{kept} cells: {kept - n_controls} in {layout.n_rows} (perturbation, context) pairs, {n_controls} controls"),
        ]  # fmt: skip
        facts += [("left out", f"{n} cells: {reason}") for reason, n in layout.dropped.items()]
        if layout.left_out:
            facts.append(
                (
                    "left out",
                    f"{len(layout.left_out)} pairs with too few cells: {some([f'{k}: {n}' for k, n in layout.left_out.items()], 4)}",
                )
            )
        return facts + [("note", note) for note in (*self.stream.notes, *columns.notes)]


def open_cells(paths: Sequence[str | Path | tuple[str, Path]], options: PrepareOptions | None = None) -> Cells:
    """Open files of cells, find their columns and sort the cells into groups; no count is read yet.

    Raises
    ------
    InputError
        See :func:`panmodal.cells.columns.find_columns` and :func:`panmodal.cells.conditions.lay_out`.
    """
    options = options or PrepareOptions()
    if options.deg not in (*TESTS, "auto"):
        raise InputError(f"no DEG test {options.deg!r}; give one of {', '.join(TESTS)} or auto.")
    if options.min_cells < 1:
        raise InputError("--min-cells must be at least 1.")
    if options.context and options.context_col:
        raise InputError("give --context-col or one --context, not both.")
    stream = CellStream(paths, layer=options.layer, gene_col=options.gene_col, table=options.table, genes=options.genes)
    try:
        return _sort_cells(stream, options)
    except BaseException:
        stream.close()
        raise


def _sort_cells(stream: CellStream, options: PrepareOptions) -> Cells:
    """Find columns, controls, rule, test and groups."""
    where = ", ".join(str(p) for p in stream.paths)
    columns = find_columns(
        stream.obs, where, pert_col=options.pert_col, controls=options.control, batch_col=options.batch_col,
        context_col=options.context_col, several_files=len(stream.paths) > 1, one_context=options.context is not None,
    )  # fmt: skip
    rule = choose_rule(options.rule, columns)
    layout = lay_out(
        stream.obs, columns, where, rule=rule, context_name=options.context or "all", contexts=options.contexts, keep=options.keep,
        min_cells=options.min_cells, drop_unassigned=options.drop_unassigned, drop_unmatched=options.drop_unmatched,
    )  # fmt: skip
    several = len(layout.batch_names) > 1
    if rule == "matched" and columns.batch is None:
        raise InputError(
            f"{where}: --rule matched compares within batches, but there is no batch column. Name it with --batch-col."
        )
    test = options.deg if options.deg != "auto" else "vote" if rule == "matched" and several else "pooled"
    if test == "vote" and not several:
        raise InputError(
            f"{where}: --deg vote needs at least two batches, but there is one. Use --deg pooled, or name the --batch-col."
        )
    return Cells(stream, columns, layout, rule, test, options, tuple(str(p) for p in stream.paths))


def control_mean(layout: Layout, means: NDArray[np.float64], context: str) -> NDArray[np.float64]:
    """Mean over the batches of a context's control cells, each with equal weight."""
    return means[layout.controls_of(context)].mean(axis=0)


def lfc_rows(layout: Layout, block: Block) -> NDArray[np.float64]:
    """Log fold changes of a block's rows: perturbed minus control mean by the layout's rule (natural log units)."""
    out = block.mean.copy()
    pooled = {c: control_mean(layout, block.controls.mean, c) for c in set(layout.contexts[block.start : block.stop])}
    batches = layout.groups.groupby("row")["batch"].apply(lambda s: s.to_numpy()) if layout.matched else None
    for r in range(block.start, block.stop):
        context = layout.contexts[r]
        if batches is None:
            out[r - block.start] -= pooled[context]
            continue
        own = layout.controls_of(context)
        where = {int(layout.control_batches[k]): k for k in own}
        out[r - block.start] -= block.controls.mean[[where[int(b)] for b in batches[r]]].mean(axis=0)
    return out


def deg_rows(layout: Layout, groups: MomentGroups, block: Block, alpha: float = ALPHA, n_jobs: int = 1
             ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:  # fmt: skip
    """DEG labels of a block's rows, and whether a row has enough cells to be tested (labels are 0 where not)."""
    size, width = block.stop - block.start, block.mean.shape[1]
    out, tested = np.zeros((size, width), dtype=np.int8), np.zeros(size, dtype=bool)
    control_group = np.flatnonzero(groups.row >= layout.n_rows)
    number = groups.row[control_group] - layout.n_rows
    by_batch = bool((groups.batch >= 0).any())
    least = MIN_CELLS_PLATE if by_batch else MIN_CELLS
    base: dict[tuple[str, int], tuple[int, NDArray[np.float64], NDArray[np.float64]]] = {}
    for context in set(layout.contexts[block.start : block.stop]):
        own = np.isin(number, layout.controls_of(context))
        for batch in set(groups.batch[control_group[own]].tolist()) if by_batch else [-1]:
            used = own & (groups.batch[control_group] == batch) if by_batch else own
            n0 = int(groups.n[control_group[used]].sum())
            base[context, batch] = (n0, block.controls.first[used].sum(axis=0), block.controls.second[used].sum(axis=0))
    bounds = np.searchsorted(groups.row[block.groups], np.arange(block.start, block.stop + 1))

    def one(k: int) -> None:
        votes = []
        for g in range(bounds[k], bounds[k + 1]):
            group = block.groups[g]
            n, batch = int(groups.n[group]), int(groups.batch[group]) if by_batch else -1
            n0, first0, second0 = base.get((layout.contexts[block.start + k], batch), (0, None, None))
            if n > least and n0 >= 2 and first0 is not None and second0 is not None:
                sums = block.first[g : g + 1], block.second[g : g + 1]
                votes.append(deg_labels(n, *sums, n0, first0, second0, alpha)[0])
        if votes:
            tested[k] = True
            out[k] = votes[0] if len(votes) == 1 else vote(np.stack(votes))

    with ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(one, range(size)))
    return out, tested


def remaining_expression(layout: Layout, block: Block) -> NDArray[np.float64]:
    """Share of its expression in control cells that the target gene keeps, the largest over the parts of a combination.

    Means of 1e4 x / total (not logarithms), batches with equal weight, over those of the context's control cells. NaN where no
    target is measured, or is not expressed in control cells.
    """
    out = np.full(block.stop - block.start, np.nan)
    for k, r in enumerate(range(block.start, block.stop)):
        slots = block.targets[k]
        measured = np.flatnonzero(slots >= 0)
        base = block.controls.linear[layout.controls_of(layout.contexts[r])][:, slots[measured]].mean(axis=0)
        shares = block.own[k, measured][base > 0] / base[base > 0]
        out[k] = shares.max() if len(shares) else np.nan
    return out


def prepare(cells: Cells, *, name: str | None = None, datasets: Sequence[str] = (), memory: float = 4.0, n_jobs: int | None = None,
            chunk_values: int | None = None, progress: Progress | None = None,
            say: Callable[[str], None] | None = None) -> Screen:  # fmt: skip
    """Turn cells into a screen: LFC in ``X``, DEG labels in ``layers['deg']``, facts of each row in ``obs``.

    Parameters
    ----------
    cells
        From :func:`open_cells`.
    name
        Name of the screen; the stem of the first file unless given.
    datasets
        Names of the studies that the cells are from (:mod:`panmodal.studies`).
    memory, n_jobs, chunk_values, progress
        As in :func:`panmodal.cells.aggregate.aggregate`.
    say
        Called with what is worth telling (several passes, cells without counts).

    Returns
    -------
    Screen
        Kind ``lfc``. ``obs`` has ``n_cells``, ``n_batches``, ``response_norm`` (Euclidean), ``target_remaining`` (share of its
        expression that the target gene keeps), ``deg_tested`` and ``n_deg``; ``varm['control_mean']`` the mean log-normalised
        expression of control cells, a column for each of ``provenance['contexts']``; ``provenance`` how it was made.

    Raises
    ------
    InputError
        Values that are no counts; too little memory; nothing left after the knock-down check.
    """
    import anndata
    import pandas as pd

    stream, layout, options = cells.stream, cells.layout, cells.options
    groups = moment_groups(layout, cells.test)
    digests: dict[str, str] = {}
    hashing = threading.Thread(target=lambda: digests.update(stream.digests()), daemon=True)
    hashing.start()
    width = len(stream.genes)
    lfc = np.empty((layout.n_rows, width), dtype=np.float32)
    deg = np.zeros((layout.n_rows, width), dtype=np.int8)
    tested, remaining, empty, passes = np.zeros(layout.n_rows, dtype=bool), np.full(layout.n_rows, np.nan), 0, 0
    controls = None
    for block in aggregate(stream, layout, groups, log_input=options.already_normalised, memory=memory, n_jobs=n_jobs,
                           chunk_values=chunk_values, progress=progress):  # fmt: skip
        rows = slice(block.start, block.stop)
        lfc[rows] = lfc_rows(layout, block)
        if cells.test != "none":
            deg[rows], tested[rows] = deg_rows(layout, groups, block, n_jobs=threads(n_jobs))
        remaining[rows] = remaining_expression(layout, block)
        empty, passes, controls = empty + block.empty, passes + 1, block.controls
    assert controls is not None
    hashing.join()
    if say and (renamed := target_match(stream, layout).resolved):
        shown = [f"{t} = {gene} ({how})" for t, (gene, how) in renamed.items()]
        say(
            f"{len(renamed)} target genes are measured under another name: {', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''}"
        )
    if empty and say:
        say(f"{empty} cells have no count at all; they are kept and count as zeros")
    if passes > 1 and say:
        say(f"the cells were read {passes} times, because sums of all groups do not fit the memory at once")
    weak = np.zeros(layout.n_rows, dtype=bool) if options.max_remaining is None else remaining > options.max_remaining
    if weak.any() and say:
        shown = [f"{layout.pert_ids[r]} ({layout.contexts[r]}): {remaining[r]:.2f}" for r in np.flatnonzero(weak)]
        say(
            f"{int(weak.sum())} pairs left out, whose target gene keeps more than {options.max_remaining:g} of its expression: "
            f"{some(shown, 4)}"
        )
    if weak.all():
        raise InputError(f"no pair passes --max-remaining {options.max_remaining:g}.")
    table = pd.DataFrame({
        "pert_id": list(layout.pert_ids), "cell_line": list(layout.contexts), "n_cells": layout.counts()[: layout.n_rows],
        "n_batches": layout.groups[layout.groups["row"] < layout.n_rows].groupby("row").size().to_numpy(),
        "response_norm": np.sqrt(np.einsum("ij,ij->i", lfc, lfc, dtype=np.float64)), "target_remaining": remaining,
    }, index=[f"{c}|{p}" for c, p in zip(layout.contexts, layout.pert_ids, strict=True)])  # fmt: skip
    if cells.test != "none":
        table["deg_tested"], table["n_deg"] = tested, np.where(tested, (deg != 0).sum(axis=1), -1)
    adata = anndata.AnnData(lfc, obs=table, var=pd.DataFrame(index=pd.Index(stream.genes)))
    if cells.test != "none":
        adata.layers["deg"] = deg
    contexts = sorted(set(layout.contexts))
    adata.varm["control_mean"] = np.stack([control_mean(layout, controls.mean, c) for c in contexts], axis=1).astype(
        np.float32
    )
    if weak.any():
        adata = adata[~weak].copy()
    screen = Screen(adata, name or stream.names[0], "lfc", description=_describe(cells), simulated=_simulated(cells),
                    datasets=tuple(datasets))  # fmt: skip
    screen.provenance = _provenance(cells, digests, empty, weak)
    return screen


def _describe(cells: Cells) -> str:
    source = "log1p values as given" if cells.options.already_normalised else "counts scaled to 1e4 per cell, log1p"
    return f"pseudobulk log fold change from {source}; {cells.rule} controls"


def _simulated(cells: Cells) -> bool:
    import h5py

    for path in cells.stream.paths:
        if path.suffix == ".h5ad":
            with h5py.File(path, "r") as handle:
                if "uns/panmodal_simulation" in handle:
                    return True
    return False


def asked_for(options: PrepareOptions) -> dict[str, Any]:
    """Return the options that say something, as they are recorded in a screen."""
    asked = {k: v for k, v in options.__dict__.items() if not (v is None or v is False or v == ())}
    if options.genes is not None:
        asked["genes"] = list(options.genes)
    if options.table is not None:
        asked["table"] = str(Path(options.table).resolve())
    recorded: dict[str, Any] = json.loads(json.dumps(asked))
    return recorded


def _provenance(cells: Cells, digests: dict[str, str], empty: int, weak: NDArray[np.bool_]) -> dict[str, Any]:
    layout = cells.layout
    return {
        "made_by": f"panmodal {__version__} prepare",
        "inputs": [{"name": n, "path": str(Path(p).resolve()), "sha256": digests.get(n, "")}
                   for n, p in zip(cells.stream.names, cells.stream.paths, strict=True)],
        "options": asked_for(cells.options),
        "columns": {"perturbation": cells.columns.perturbation, "controls": list(cells.columns.controls), "batch": cells.columns.batch,
                    "context": list(cells.columns.context)},
        "rule": cells.rule, "deg": cells.test, "contexts": sorted(set(layout.contexts)),
        "counts": {
            "cells": cells.stream.n_cells, "cells_used": int((layout.row >= 0).sum()),
            "control_cells": int(layout.control_cells.sum()), "cells_empty": empty,
            "cells_left_out": layout.dropped, "pairs_left_out_few_cells": layout.left_out,
            "pairs_left_out_knockdown": [f"{layout.pert_ids[r]} ({layout.contexts[r]})" for r in np.flatnonzero(weak)],
            "genes": len(cells.stream.genes),
        },
    }  # fmt: skip

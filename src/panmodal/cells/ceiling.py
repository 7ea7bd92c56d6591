"""Draws of responses that an experiment repeated would give, and facts on the quality of each perturbation's response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal._files import atomic_path
from panmodal._version import __version__
from panmodal.cells.aggregate import threads
from panmodal.cells.conditions import Layout, restrict
from panmodal.cells.controls import ControlDraws
from panmodal.cells.gather import GatheredCells, Group
from panmodal.cells.labels import ControlMoments, label_draws, shrink_weights
from panmodal.cells.prepare import Cells
from panmodal.cells.quality import null_norms_of
from panmodal.cells.resample import Scheme, draw_weights, generator, replicate_sides
from panmodal.errors import InputError, some
from panmodal.screens.ceilings import ESTIMATORS, FORMAT, spearman_brown
from panmodal.screens.screen import Screen

TOLERANCE = 1e-3
"""Largest difference allowed between a screen's responses and those of the cells given, natural log units."""
QUALITY = ("n_cells", "n_batches", "response_norm", "null_norm", "norm_p", "n_deg", "reliability")


@dataclass(frozen=True)
class CeilingOptions:
    """What to draw; stored with the draws.

    Attributes
    ----------
    estimators
        Names of :data:`panmodal.screens.ceilings.ESTIMATORS`; all that the cells allow unless given.
    outer, inner
        Of the two-stage bootstrap; ``inner`` is 10 for the pooled rule and 20 for the matched one unless given (as published).
    halves
        Random splits of the cells; and the most splits of the batches.
    label_draws
        Resamplings for DEG labels.
    null_draws
        Draws of control cells that response norms are compared with.
    separate_controls
        ``experimental_error``: truth against one half of the control cells, draws against the other. Published: all control cells
        on both sides, which correlate.
    seed
        Seed; every perturbation has random numbers of its own.
    """

    estimators: tuple[str, ...] = ()
    outer: int = 10
    inner: int | None = None
    halves: int = 10
    label_draws: int = 20
    null_draws: int = 200
    separate_controls: bool = False
    seed: int = 42


@dataclass
class _Context:
    """What the rows of one context share."""

    name: str
    rows: list[int]
    scheme: Scheme
    controls: Group
    draws: ControlDraws
    moments: ControlMoments


def choose(options: CeilingOptions, n_batches: int, where: str) -> tuple[str, ...]:
    """Estimators to draw for; all that the cells allow unless named.

    Raises
    ------
    InputError
        Unknown estimator; replicate batches asked for with one batch.
    """
    unknown = [e for e in options.estimators if e not in ESTIMATORS]
    if unknown:
        raise InputError(f"no ceiling estimator {some(unknown)}; there are {', '.join(ESTIMATORS)}.")
    if "replicate_batches" in options.estimators and n_batches < 2:
        raise InputError(f"{where}: replicate_batches needs at least two batches with control cells, but there is {n_batches}. Name "
                         "the --batch-col when preparing, or use disjoint_halves.")  # fmt: skip
    names = options.estimators or tuple(ESTIMATORS)
    return tuple(n for n in names if n != "replicate_batches" or n_batches >= 2)


def make_ceilings(cells: Cells, screen: Screen, out: str | Path, options: CeilingOptions | None = None, *, memory: float = 4.0,
                  n_jobs: int | None = None, chunk_values: int | None = None, progress: Progress | None = None) -> None:  # fmt: skip
    """Draw what the experiment's noise allows, and write it beside the screen.

    Parameters
    ----------
    cells
        The cells that the screen was made from, opened with the same options.
    screen
        The screen, kind ``lfc``.
    out
        File to write (``.h5``).
    options
        What to draw.
    memory
        Bound on memory, GiB; beyond it cells go through temporary files.
    n_jobs
        Threads; results do not depend on it.
    progress
        Called with (perturbations done, perturbations to do).

    Raises
    ------
    InputError
        The cells are not those of the screen; an estimator is not possible; too little memory.
    """
    import h5py

    options = options or CeilingOptions()
    layout, where = cells.layout, ", ".join(cells.paths)
    wanted = _rows_of(screen, layout, where)
    layout = restrict(layout, wanted)
    width = len(cells.stream.genes)
    if cells.stream.genes != screen.readouts:
        raise InputError(
            f"{where}: the cells' genes are not the screen's read-outs. Was the screen prepared with other options?"
        )
    inner = options.inner or (20 if layout.matched else 10)
    n_jobs = threads(n_jobs)
    recorded = {
        **asdict(options),
        "estimators": list(options.estimators),
        "inner": inner,
        "rule": cells.rule,
        "deg": cells.test,
    }
    has_labels = cells.test != "none" and "deg_tested" in screen.adata.obs
    labels = screen.labelled() if has_labels and screen.adata.obs["deg_tested"].any() else None
    done = 0
    with (
        GatheredCells(
            cells.stream,
            layout,
            log_input=cells.options.already_normalised,
            memory=memory,
            n_jobs=n_jobs,
            chunk_values=chunk_values,
        ) as held,
        atomic_path(out) as partial,
        h5py.File(partial, "w") as file,
        ThreadPoolExecutor(n_jobs) as pool,
    ):
        file.attrs.update(format=FORMAT, made_by=f"panmodal {__version__} ceiling", options=json.dumps(recorded))
        file["readouts"] = np.array([r.encode() for r in screen.readouts])
        for number, name in enumerate(screen.contexts):
            rows = [r for r in wanted if layout.contexts[r] == name]
            context = _open_context(held, layout, name, rows, options, inner, width, where)
            ids, point = screen.responses(name)
            file_group = file.create_group(f"contexts/{number}")
            file_group.attrs.update(context=name, responses=screen.digest(name))
            file_group["pert_id"] = np.array([i.encode() for i in ids])
            labelled = None
            if has_labels:
                labelled = set(labels.ids_in(name)) if labels is not None else set()
                if labelled and labels is not None:
                    file_group.attrs["labels"] = labels.digest(name)
            arrays = _create(file_group, context.scheme, len(ids), width, options, labelled is not None)
            order = {i: k for k, i in enumerate(ids)}
            facts = {k: np.full(len(ids), np.nan) for k in QUALITY}

            def one(r: int, context: _Context = context, labelled: set[str] | None = labelled) -> dict[str, Any]:
                pert_id = layout.pert_ids[r]
                known = None if labelled is None else pert_id in labelled
                return _one_row(held.group([r]), pert_id, context, options, width, cells.test, known)

            for r, result in _in_order(pool, one, rows, n_jobs):
                k = order[layout.pert_ids[r]]
                _check_point(result.pop("whole"), point[k], layout.pert_ids[r], name, where)
                facts["n_cells"][k], facts["n_batches"][k] = result.pop("sizes")
                facts["reliability"][k] = result.pop("reliability")
                for what, values in result.items():
                    arrays[what][k] = values
                done += 1
                if progress:
                    progress(done, len(wanted))
            _quality(facts, context, layout, screen, name, point, order, options, pool, width)
            table = file_group.create_group("quality")
            table.attrs["columns"] = list(QUALITY)
            for what, column in facts.items():
                table[what] = column


def _rows_of(screen: Screen, layout: Layout, where: str) -> list[int]:
    """Rows of the layout that the screen holds."""
    if screen.response != "lfc":
        raise InputError(
            f"screen {screen.name!r} holds {screen.response}; ceilings are drawn for log fold changes (its DEG labels too)."
        )
    place = {(p, c): r for r, (p, c) in enumerate(zip(layout.pert_ids, layout.contexts, strict=True))}
    asked = [(p, c) for c in screen.contexts for p in screen.ids_in(c)]
    absent = [f"{p} ({c})" for p, c in asked if (p, c) not in place]
    if absent:
        raise InputError(f"{where}: the cells have no {some(absent)}, which the screen {screen.name!r} has. Are they the cells that "
                         "it was prepared from?")  # fmt: skip
    return sorted(place[pair] for pair in asked)


def _open_context(held: GatheredCells, layout: Layout, name: str, rows: list[int], options: CeilingOptions, inner: int, width: int,
                  where: str) -> _Context:  # fmt: skip
    groups = (layout.n_rows + layout.controls_of(name)).tolist()
    controls = held.group(groups)
    names = choose(options, len(controls.batches), f"{where}: context {name!r}" if where else name)
    splits = options.halves if {"disjoint_halves", "interpolated_duplicate"} & set(names) else 0
    sides: tuple[Any, ...] = ()
    if "replicate_batches" in names:
        found = replicate_sides(len(controls.batches), options.halves, generator(options.seed, name, "sides"))
        sides = tuple(tuple(tuple(int(controls.batches[b]) for b in side) for side in pair) for pair in found)
    outer = options.outer if "experimental_error" in names else 0
    scheme = Scheme(outer, inner, splits, sides)
    draws = ControlDraws(
        controls,
        scheme,
        width,
        matched=layout.matched,
        separate=options.separate_controls,
        seed=options.seed,
        name=name,
    )
    moments = ControlMoments.of(controls, draws.second[:, : scheme.halves], width)
    return _Context(name, rows, scheme, controls, draws, moments)


def _create(group: Any, scheme: Scheme, n: int, width: int, options: CeilingOptions, labels: bool) -> dict[str, Any]:
    """Make the arrays of a context: perturbations x draws x genes, half precision (its rounding is far below the noise drawn)."""
    sizes = {k: s.stop - s.start for k, s in scheme.columns.items() if k != "point"}
    if scheme.halves:
        sizes["shrink"] = scheme.halves
    if options.separate_controls and scheme.outer:
        sizes["point"] = 1
    arrays = {k: group.create_dataset(k, (n, size, width), dtype="<f2") for k, size in sizes.items() if size}
    if labels and scheme.outer and options.label_draws:
        arrays["labels"] = group.create_dataset("labels", (n, options.label_draws, width), dtype="i1")
    return arrays


def _one_row(group: Group, pert_id: str, context: _Context, options: CeilingOptions, width: int, test: str, tested: bool | None
             ) -> dict[str, Any]:  # fmt: skip
    """Draw everything of one perturbation; ``tested`` is None where the screen has no DEG labels."""
    scheme, rng = context.scheme, generator(options.seed, context.name, "perturbed", pert_id)
    weights = draw_weights(group, scheme, rng)
    drawn = context.draws.response(group, weights, pert_id)
    at = scheme.columns
    out: dict[str, Any] = {
        k: drawn[:, s].T.astype(np.float16) for k, s in at.items() if k != "point" and s.stop > s.start
    }
    if options.separate_controls and scheme.outer:
        out["point"] = drawn[:, at["point"]].T.astype(np.float16)
    out["whole"] = context.draws.point(group)
    out["sizes"] = (group.n_cells, len(group.batches))
    out["reliability"] = np.nan
    if scheme.halves:
        out["shrink"] = shrink_weights(group, weights.second[:, : scheme.halves], context.moments, width).T.astype(
            np.float16
        )
        out["reliability"] = float(spearman_brown(_mean_correlation(drawn[:, at["half1"]], drawn[:, at["half2"]])))
    if scheme.outer and options.label_draws and tested is not None:
        out["labels"] = np.zeros((options.label_draws, width), dtype=np.int8)
        if tested:
            own = generator(options.seed, context.name, "labels", pert_id)
            out["labels"] = label_draws(
                group, context.moments, options.label_draws, own, width, by_batch=test == "vote"
            )
    return out


def _mean_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean over columns of the Pearson correlation of two matrices; NaN if no column is defined."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    defined = np.isfinite(scale) & (scale > 0)
    return float(((a * b).sum(axis=0)[defined] / scale[defined]).mean()) if defined.any() else float("nan")


def _check_point(own: NDArray[np.float32], stored: NDArray[np.float32], pert_id: str, context: str, where: str) -> None:
    worst = float(np.abs(own - stored).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise InputError(
            f"{where}: the cells of {pert_id!r} in context {context!r} give another response than the screen holds (they differ by up "
            f"to {worst:.3g}). Are they the cells that it was prepared from?"
        )


def _in_order(pool: ThreadPoolExecutor, work: Any, rows: Sequence[int], n_jobs: int) -> Iterator[tuple[int, Any]]:
    """Yield (row, result) in order, with few results waiting at a time."""
    ahead = 2 * n_jobs
    waiting = [pool.submit(work, r) for r in rows[:ahead]]
    for k, r in enumerate(rows):
        result = waiting.pop(0).result()
        if k + ahead < len(rows):
            waiting.append(pool.submit(work, rows[k + ahead]))
        yield r, result


def _quality(facts: dict[str, NDArray[np.float64]], context: _Context, layout: Layout, screen: Screen, name: str,
             point: NDArray[np.float32], order: dict[str, int], options: CeilingOptions, pool: ThreadPoolExecutor, width: int
             ) -> None:  # fmt: skip
    norms = np.sqrt(np.einsum("ij,ij->i", point, point, dtype=np.float64))
    facts["response_norm"][:] = norms
    if "n_deg" in screen.adata.obs:
        for pert, line, n in screen.adata.obs[["pert_id", "cell_line", "n_deg"]].itertuples(index=False):
            if line == name and n >= 0:
                facts["n_deg"][order[pert]] = n
    if not options.null_draws:
        return
    nulls = null_norms_of(layout, context.rows, context.controls, width, options.null_draws, options.seed, name, pool)
    for k, r in enumerate(context.rows):
        at = order[layout.pert_ids[r]]
        own = nulls[:, k]
        if np.isfinite(own).all():
            facts["null_norm"][at] = own.mean()
            facts["norm_p"][at] = (1 + (own >= norms[at]).sum()) / (1 + len(own))

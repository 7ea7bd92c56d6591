"""Comparing the compiled tables of a results folder with what its trials give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd

from panmodal.errors import StoreError
from panmodal.evaluation.compaction import Compiler
from panmodal.evaluation.imported import PREFIX
from panmodal.evaluation.segments import Task
from panmodal.evaluation.store import Store

SAMPLED = 3
"""Tasks that are compared where not all are."""
TASK = ["screen", "context", "response", "split"]
KEY = [*TASK, "fold", "embedding", "probe", "seed", "fallback", "metric"]


def compare_tables(store: Store, *, full: bool) -> Iterator[tuple[str, str]]:
    """Yield (place, problem) where ``scores`` or ``perturbations`` are not what the files of the trials give.

    Tasks are read from the files of their trials, one after the other, not from segments; the first, the last and one between
    unless ``full``. Tables that cannot be read are left to the check of files.
    """
    compiler = Compiler(store, cached=False)
    compiler.look()
    tasks = compiler.tasks
    absent = [n for n in ("scores.parquet", "perturbations.parquet") if not (store.path / n).exists()]
    if absent:
        yield from ((name, "is not there, and there are finished trials") for name in absent if tasks)
        return
    try:
        scores, rows = store.scores(), store.rows()
        counted = rows.size
    except StoreError:
        return
    scores = scores[~scores["trial"].astype(str).str.startswith(PREFIX)]
    chosen = (
        tasks
        if full
        else [tasks[k] for k in sorted({*np.linspace(0, len(tasks) - 1, SAMPLED).astype(int)})]
        if tasks
        else []
    )
    there = {tuple(t): frame for t, frame in scores.groupby(TASK, sort=False, observed=True)}
    stale = [t for t in there if t not in set(tasks)]
    if stale:
        yield "scores.parquet", f"has scores of {' · '.join(map(str, stale[0]))}, of which no finished trial is planned"
    expected = 0
    for task in chosen:
        tables = compiler.tables(task)
        problem = _scores_differ(there.get(task), tables.scores)
        if problem:
            yield "scores.parquet", f"{' · '.join(task)}: {problem}"
        expected += len(tables.rows)
        with suppress(StoreError):  # said of the file
            problem = _rows_differ(rows.of(task, tables.rows["trial"].unique(), rows.metrics), tables.rows)
            if problem:
                yield "perturbations.parquet", f"{' · '.join(task)}: {problem}"
    if full and not _shares_trials(compiler, tasks) and counted != expected:
        yield "perturbations.parquet", f"has {counted} rows and the finished trials {expected}"


def _scores_differ(found: pd.DataFrame | None, made: pd.DataFrame) -> str:
    if found is None or len(found) != len(made):
        return f"has {0 if found is None else len(found)} scores and its finished trials {len(made)}; it was not compiled since"
    a, b = (f.sort_values(KEY, kind="stable", ignore_index=True) for f in (found[made.columns], made))
    return _different(a, b, [c for c in made.columns if c != "value"], ["value"])


def _rows_differ(found: pd.DataFrame, made: pd.DataFrame) -> str:
    if len(found) != len(made):
        return f"has {len(found)} rows and its finished trials {len(made)}; it was not compiled since"
    metrics = [c for c in made.columns if c not in ("trial", "pert_id", "covered")]
    missing = [m for m in metrics if m not in found]
    if missing:
        return f"does not have {', '.join(missing)}"
    found = found.astype({"trial": object, "pert_id": object})
    a, b = (f.sort_values(["trial", "pert_id"], kind="stable", ignore_index=True) for f in (found, made))
    return _different(a, b, ["trial", "pert_id", "covered"], metrics)


def _different(a: pd.DataFrame, b: pd.DataFrame, labels: list[str], values: list[str]) -> str:
    """Say in which column two tables of the same order differ; empty if in none."""
    for name in labels:
        if not (a[name].to_numpy() == b[name].to_numpy()).all():
            return f"column {name} is not what the files of the trials give"
    for name in values:
        x, y = a[name].to_numpy(np.float64), b[name].to_numpy(np.float64)
        if not np.array_equal(x, y, equal_nan=True):
            gap = np.nanmax(np.abs(x - y), initial=0.0)
            return f"{name} is not what the files of the trials give (largest difference {gap:.3g})"
    return ""


def _shares_trials(compiler: Compiler, tasks: list[Task]) -> bool:
    labels = compiler.labels()
    return bool(labels[["trial", *TASK]].drop_duplicates()["trial"].duplicated().any())

"""Scores that others computed: from their tables to ours, marked as imported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from panmodal._tables import number_columns, read_frame
from panmodal.errors import InputError, some
from panmodal.evaluation.imported import LABELS, TASK, UNSTATED, Imported, complete
from panmodal.evaluation.layouts import PUBLISHED, Layout
from panmodal.evaluation.metrics import METRICS
from panmodal.probes.base import CLASSES, CONTINUOUS

OWN_MODEL = "own model"
"""Probe of methods that bring their own model (fusion, fine-tuning, GEARS, ...)."""
TIDY = ["screen", "context", "response", "fold", "embedding", "probe", "metric", "value"]
"""Columns that a table must have to be taken for a tidy score table."""
AGREE = 0.01
"""Ceilings of perturbations belong to those of folds if their means differ by no more than this share."""


def import_scores(path: str | Path, *, layout: Layout | None = None, errors: str | Path | None = None,
                  mark: str | None = None) -> Imported:  # fmt: skip
    """Read a table of scores that others computed.

    Parameters
    ----------
    path
        Table (csv, tsv, parquet): the published format, one that ``layout`` describes, or a tidy score table of panmodal.
    layout
        How the table is written; recognised by its columns unless given.
    errors
        Experimental error of each perturbation and quantile (``dataset, cell_line, pert_id, quantile`` and metrics), for ceilings of
        more metrics and to tell which context ceilings without one belong to.
    mark
        Put into the names of screens in place of the layout's (tidy tables: ``imported``).

    Raises
    ------
    InputError
        Columns are missing, or a value cannot be what it should be; the message names it.
    """
    frame = read_frame(path)
    where = str(path)
    if layout is None and set(TIDY) <= set(frame.columns):
        if errors is not None:
            raise InputError(f"{errors}: goes with a table of the published format; {where} is a tidy score table.")
        return _from_tidy(frame, mark or "imported", where)
    if layout is None:
        layout = PUBLISHED
        if not {layout.screen, layout.response, layout.context, layout.fold, layout.method} <= set(frame.columns):
            raise InputError(
                f"{where}: neither a tidy score table ({', '.join(TIDY)}) nor of the published format ({layout.screen}, "
                f"{layout.response}, {layout.context}, {layout.fold}, {layout.method}, ... and metrics). Describe its columns "
                "in a layout (--columns)."
            )
    if mark is not None:
        layout = replace(layout, mark=mark)
    return _from_layout(frame, layout, None if errors is None else _read_errors(errors, layout), where)


# --- wide tables -----------------------------------------------------------------------------------------------------


def _from_layout(frame: pd.DataFrame, layout: Layout, limits: pd.DataFrame | None, where: str) -> Imported:
    notes: list[str] = []
    table, metrics = _flatten(frame, layout, where, notes)
    table["dataset"], table["screen"] = table["screen"], _screens(table, layout, metrics, notes)
    is_ceiling = table["method"].isin(layout.ceilings)
    scores = table[~is_ceiling]
    nowhere = scores[scores["context"] == ""]
    if len(nowhere):
        raise InputError(
            f"{where}: {len(nowhere)} row(s) have no {layout.context} (methods {some(nowhere['method'].unique())}). Fill it."
        )
    if scores.empty:
        raise InputError(f"{where}: no scores of methods, only ceilings.")
    scores = _named(_once(scores, metrics, where, notes), layout, where, notes)
    ceilings = _ceilings(table[is_ceiling], scores, layout, metrics, limits, where, notes)
    long = scores.melt([c for c in scores if c not in metrics], var_name="metric", value_name="value")
    empty = long["value"].isna()
    served = long["metric"].map(lambda m: METRICS[m].kinds)
    defined = np.array([r in kinds for r, kinds in zip(long["response"], served, strict=True)])
    absent = long[empty & defined]
    if len(absent):
        counted = absent["metric"].value_counts().sort_index()
        notes.append(
            "Not given, and so without a row: " + ", ".join(f"{m} of {n} results" for m, n in counted.items()) + "."
        )
    return Imported(complete(long[~empty]), ceilings, tuple(notes))


def _flatten(frame: pd.DataFrame, layout: Layout, where: str, notes: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Bring the layout's columns under fixed names, metrics under ours."""

    def take(what: str, column: str | None) -> pd.Series:
        if column is None:
            return pd.Series("", index=frame.index)
        if column.startswith("="):
            return pd.Series(column[1:], index=frame.index)
        if column not in frame:
            raise InputError(f"{where}: no column {column!r} ({what}); there are {some(frame.columns, 20)}.")
        return frame[column].map(lambda v: "" if pd.isna(v) else str(v).strip())

    parts = ("screen", "response", "context", "method", "probe", "label", "family", "table")
    table = pd.DataFrame({what: take(what, getattr(layout, what)) for what in parts})
    for what in ("screen", "response", "method"):
        blank = np.flatnonzero(table[what] == "")
        if len(blank):
            raise InputError(f"{where}: {getattr(layout, what)} is empty in row(s) {some(blank + 1)}. Fill it.")
    there = {c: m for c, m in layout.metrics.items() if c in frame}
    if not there:
        raise InputError(f"{where}: no column of a metric; the layout names {some(layout.metrics, 20)}.")
    unknown = [m for m in there.values() if m not in METRICS]
    if unknown:
        raise InputError(f"{where}: the layout names metric {some(unknown)}; there are {', '.join(METRICS)}.")
    ids = [f"{m}, {c}" for m, c in zip(table["method"], table["context"], strict=True)]
    values = number_columns(frame, list(there), where, ids)
    bad = np.argwhere(np.isinf(values))
    if len(bad):
        raise InputError(
            f"{where}: column {list(there)[bad[0, 1]]!r} is infinite in row {bad[0, 0] + 1} ({ids[bad[0, 0]]})."
        )
    table = table.assign(**dict(zip(there.values(), values.T, strict=True)))
    folds = pd.to_numeric(take("fold", layout.fold), errors="coerce")
    wrong = np.flatnonzero(folds.isna() | (folds % 1 != 0) | (folds < 0))
    if len(wrong):
        raise InputError(
            f"{where}: column {layout.fold!r} holds no fold (0, 1, 2, ...) in row {wrong[0] + 1} ({ids[wrong[0]]})."
        )
    table["fold"] = folds.astype(np.int64)
    for kind in table["response"].unique():
        if kind not in (*CONTINUOUS, *CLASSES):
            raise InputError(f"{where}: no kind of response {kind!r}; there are {', '.join((*CONTINUOUS, *CLASSES))}.")
        for metric in there.values():
            if kind not in METRICS[metric].kinds and table.loc[table["response"] == kind, metric].notna().any():
                raise InputError(f"{where}: {metric} is given for {kind} responses, for which it is not defined.")
    for column, why in layout.left_out.items():
        if column in frame and frame[column].notna().any():
            notes.append(f"Left out: {frame[column].notna().sum()} values of {column} ({why}).")
    return table, list(there.values())


def _screens(table: pd.DataFrame, layout: Layout, metrics: list[str], notes: list[str]) -> pd.Series:
    """Name the screen of each row; a table with other values for the baselines is about other perturbations, and a screen apart."""
    names = table["screen"] + f" ({layout.mark})"
    key = ["context", "fold", "method", "probe"]
    for (screen, response), own in table.groupby(["screen", "response"], sort=False):
        sizes = own.groupby("table", sort=True).size().sort_values(ascending=False, kind="stable")
        main = own[own["table"] == sizes.index[0]]
        for other in sizes.index[1:]:
            rows = own[own["table"] == other]
            floors = rows[rows["method"].isin(layout.baselines)].merge(main, on=key, suffixes=("", "_main"))
            same = len(floors) > 0 and _equal(floors, metrics, "_main").all()
            if not same:
                names[rows.index] = f"{screen} ({layout.mark}, {other})"
                both = sorted(set(rows["method"]) & set(main["method"]) - set(layout.baselines))
                why = "has other values for the same baselines" if len(floors) else "shares no baseline"
                notes.append(
                    f"{other} {why} as {main['table'].iloc[0]}: its {response} results are kept apart as screen "
                    f"{f'{screen} ({layout.mark}, {other})'!r} ({len(both)} methods stand in both)."
                )
    return names


def _equal(rows: pd.DataFrame, metrics: list[str], suffix: str) -> pd.Series:
    pairs = [np.isclose(rows[m], rows[m + suffix], rtol=1e-6, atol=0, equal_nan=True) for m in metrics]
    return pd.Series(np.all(pairs, axis=0), index=rows.index)


def _once(table: pd.DataFrame, metrics: list[str], where: str, notes: list[str]) -> pd.DataFrame:
    """Merge results given twice with the same values; name those with different ones after their tables."""
    key = ["screen", "response", "context", "fold", "probe", "method"]
    twice = table.duplicated([*key, *metrics])
    if twice.any():
        notes.append(f"Given twice with the same values, taken once: {int(twice.sum())} results.")
        table = table[~twice]
    again = table.duplicated(key, keep=False)
    if not again.any():
        return table
    split = table[again]
    inside = split[split.duplicated([*key, "table"], keep=False)]
    if len(inside):
        first = inside.iloc[0]
        raise InputError(
            f"{where}: {first['method']} with {first['probe'] or OWN_MODEL} has different values for fold {first['fold']} of "
            f"{first['context']} ({len(inside)} such rows). Remove one, or give them different names."
        )
    # Everywhere, not only in the folds that differ: a method is one thing.
    methods = split[["screen", "response", "method", "probe"]].drop_duplicates()
    apart = table.merge(methods.assign(apart=True), how="left", on=list(methods))["apart"].notna().to_numpy()
    label = table["label"].where(table["label"] != "", table["method"]) + " (" + table["table"] + ")"
    notes.append(
        f"Different values in several tables, kept apart by the name of the table: {some(methods['method'].unique(), 12)}."
    )
    return table.assign(label=label.where(apart, table["label"]))


def _named(table: pd.DataFrame, layout: Layout, where: str, notes: list[str]) -> pd.DataFrame:
    """Give each row its embedding, probe, role and modality in our words."""
    method, label = table["method"], table["label"].where(table["label"] != "", table["method"])
    key = ["screen", "response", "context", "fold", "probe"]
    shared = table.assign(label=label).duplicated([*key, "label"], keep=False)
    if shared.any():
        notes.append(
            f"Several methods under one label, told apart by their names: {some(sorted(set(label[shared])), 12)}."
        )
        several = label.isin(set(label[shared]))
        label = label.where(~several, label + " [" + method + "]")
    of_family = table["family"].isin(layout.control_families)
    role = pd.Series(np.where(of_family | method.isin(layout.controls), "control", "embedding"), index=table.index)
    role[method.isin(layout.oracles)] = "oracle"
    role[method.isin(layout.baselines)] = "baseline"
    embedding = method.map({**layout.controls, **layout.oracles}).fillna(label).where(role != "baseline", "none")
    probe = method.map(layout.baselines).fillna(table["probe"].where(table["probe"] != "", OWN_MODEL))
    modality = table["family"].where(table["family"] != "", UNSTATED).where(role == "embedding", role)
    named = table.assign(embedding=embedding, probe=probe, role=role, modality=modality, split=layout.split)
    stated = named[named["role"] == "embedding"].groupby(["screen", "response", "embedding"])["modality"].nunique()
    if (stated > 1).any():
        raise InputError(
            f"{where}: {some(e for _, _, e in stated[stated > 1].index)} has several families. Give it one."
        )
    silent = named.loc[named["modality"] == UNSTATED, "embedding"].nunique()
    if silent:
        notes.append(f"{silent} methods have no family; their modality is {UNSTATED!r}.")
    return named.drop(columns=["dataset", "method", "label", "family", "table"])


# --- ceilings --------------------------------------------------------------------------------------------------------


def _read_errors(path: str | Path, layout: Layout) -> pd.DataFrame:
    """Mean over perturbations of the 0.9 quantile of errors (0.1 where higher is better), by data set and context."""
    frame = read_frame(path, ["pert_id"])
    key = ["dataset", "cell_line", "pert_id", "quantile"]
    missing = [c for c in key if c not in frame]
    columns = {c: m for c, m in layout.metrics.items() if c in frame}
    if missing or not columns:
        raise InputError(f"{path}: no column {some(missing or layout.metrics)}; there are {some(frame.columns, 20)}.")
    twice = frame[frame.duplicated(key)]
    if len(twice):
        raise InputError(f"{path}: {len(twice)} row(s) appear more than once, first {twice.iloc[0][key].to_dict()}.")
    values = number_columns(frame, ["quantile", *columns], str(path), frame["pert_id"].astype(str).tolist())
    frame = frame.assign(**dict(zip(["quantile", *columns], values.T, strict=True)))
    means = frame.groupby(["dataset", "cell_line", "quantile"])[list(columns)].mean()
    found = {}
    for column, metric in columns.items():
        quantile = 0.1 if METRICS[metric].higher_is_better else 0.9
        here = np.isclose(means.index.get_level_values("quantile"), quantile)
        found[metric] = means[here].droplevel("quantile")[column]
    return pd.DataFrame(found)


def _ceilings(rows: pd.DataFrame, scores: pd.DataFrame, layout: Layout, metrics: list[str], limits: pd.DataFrame | None, where: str,
              notes: list[str]) -> pd.DataFrame | None:  # fmt: skip
    """Lay out ceilings of folds; those without a context are placed where that is beyond doubt, else left out and reported."""
    placed = []
    for (screen, response), own in rows.groupby(["screen", "response"], sort=False):
        contexts = scores.loc[(scores["screen"] == screen) & (scores["response"] == response), "context"].unique()
        known, lost = own[own["context"] != ""], own[own["context"] == ""]
        if len(lost):
            lost = _place(lost, list(contexts), metrics, limits, f"{screen}, {response}", notes)
        placed.append(pd.concat([known, lost]) if len(lost) else known)
    found = pd.concat(placed) if placed else rows
    if found.empty:
        return None
    found = found.assign(
        estimator=found["method"].map(layout.ceilings), split=layout.split, seed=0, pert_id="", n_draws=np.nan
    )
    if found.duplicated([*TASK, "fold", "estimator"]).any():
        raise InputError(
            f"{where}: ceilings ({some(found['method'].unique())}) appear more than once for a fold of a context."
        )
    if limits is not None:
        found = _filled(found, limits, layout, metrics, notes)
    order = [*TASK, "fold", "seed", "estimator", "pert_id", "n_draws", *(m for m in metrics if found[m].notna().any())]
    return found[order].reset_index(drop=True)


def _filled(
    found: pd.DataFrame, limits: pd.DataFrame, layout: Layout, metrics: list[str], notes: list[str]
) -> pd.DataFrame:
    """Take ceilings of further metrics from the means over all perturbations, where a metric given for folds agrees with its mean."""
    found, filled = found.copy(), []
    for (dataset, screen, response, context), own in found.groupby(
        ["dataset", "screen", "response", "context"], sort=False
    ):
        # A screen apart has other perturbations.
        if screen != f"{dataset} ({layout.mark})" or (dataset, context) not in limits.index:
            continue
        mean = limits.loc[(dataset, context)]
        both = [m for m in metrics if own[m].notna().all() and pd.notna(mean.get(m))]
        extra = [m for m in metrics if response in METRICS[m].kinds and own[m].isna().all() and pd.notna(mean.get(m))]
        if extra and both and all(abs(own[m].mean() / mean[m] - 1) <= AGREE for m in both):
            found.loc[own.index, extra] = mean[extra].to_numpy()
            filled.append(f"{screen}, {context} ({', '.join(extra)})")
    if filled:
        notes.append(f"Ceilings of all perturbations, not of the fold's, the same in every fold: {'; '.join(filled)}.")
    return found


def _place(lost: pd.DataFrame, contexts: list[str], metrics: list[str], limits: pd.DataFrame | None, task: str,
           notes: list[str]) -> pd.DataFrame:  # fmt: skip
    """Tell which contexts ceilings without one belong to: the only one, or those whose means over perturbations are theirs."""
    block = lost.groupby("fold").cumcount()
    if len(contexts) == 1 and block.max() == 0:
        notes.append(f"Ceilings of {task} name no context; there is one, {contexts[0]}, to which they are given.")
        return lost.assign(context=contexts[0])
    dataset = lost["dataset"].iloc[0]
    there = limits is not None and dataset in limits.index.get_level_values(0)
    metric = next((m for m in metrics if there and limits is not None and m in limits and lost[m].notna().all()), None)
    if metric is not None and limits is not None:
        known = limits.loc[dataset, metric].reindex(contexts).dropna()
        means = lost.groupby(block)[metric].mean()
        distance = np.abs(means.to_numpy()[:, None] / known.to_numpy()[None, :] - 1)
        nearest = distance.argmin(axis=1)
        second = np.sort(distance, axis=1)[:, 1] if distance.shape[1] > 1 else np.full(len(means), np.inf)
        if len(set(nearest)) == len(means) and (distance.min(axis=1) <= AGREE).all() and (second > 2 * AGREE).all():
            of_block = dict(zip(means.index, known.index[nearest], strict=True))
            notes.append(
                f"Ceilings of {task} name no context; by their means over perturbations they are, in the order of the file, "
                f"{', '.join(of_block.values())}."
            )
            return lost.assign(context=block.map(of_block))
    notes.append(
        f"Left out: {len(lost)} ceilings of {task}, which name no context of {', '.join(contexts)}. The experimental error of the "
        "perturbations (--errors) can tell."
    )
    return lost.iloc[:0]


# --- tidy tables -----------------------------------------------------------------------------------------------------


def _from_tidy(frame: pd.DataFrame, mark: str, where: str) -> Imported:
    """Take a tidy score table; what it does not say is unknown."""
    notes = []
    text = ["screen", "context", "response", "embedding", "probe", "metric"]
    for column in text:
        blank = np.flatnonzero(frame[column].isna())
        if len(blank):
            raise InputError(f"{where}: column {column!r} is empty in row(s) {some(blank + 1)}. Fill it.")
    unknown = sorted(set(frame["metric"].astype(str)) - set(METRICS))
    if unknown:
        raise InputError(f"{where}: no metric {some(unknown)}; there are {', '.join(METRICS)}.")
    frame = frame.assign(**{c: frame[c].astype(str) for c in text})
    ids = frame["embedding"].tolist()
    numbers = ["value", *(c for c in ("fold", "seed", "n_test", "n_covered", "n_scored", "n_undefined") if c in frame)]
    values = number_columns(frame, numbers, where, ids)
    bad = np.argwhere(np.isinf(values))
    if len(bad):
        raise InputError(
            f"{where}: column {numbers[bad[0, 1]]!r} is infinite in row {bad[0, 0] + 1} ({ids[bad[0, 0]]!r})."
        )
    frame = frame.assign(**dict(zip(numbers, values.T, strict=True)))
    wrong = np.flatnonzero(frame["fold"].isna() | (frame["fold"] % 1 != 0))
    if len(wrong):
        raise InputError(
            f"{where}: column 'fold' holds no fold (0, 1, 2, ...) in row {wrong[0] + 1} ({ids[wrong[0]]!r})."
        )
    if "role" not in frame:
        frame = frame.assign(role=np.where(frame["embedding"] == "none", "baseline", "embedding"))
        notes.append("No column role: rows with embedding 'none' are baselines, all others embeddings.")
    silent = [
        c
        for c in ("split", "seed", "fallback", "modality", "simulated", "seen", "n_test", "n_covered")
        if c not in frame
    ]
    if silent:
        notes.append(
            f"No column(s) {', '.join(silent)}: taken as not known (coverage as filled in, data as not simulated)."
        )
    screen = frame["screen"].where(frame["screen"].str.endswith(f"({mark})"), frame["screen"] + f" ({mark})")
    made = complete(frame.assign(screen=screen))
    twice = made[made.duplicated(LABELS)]
    if len(twice):
        raise InputError(
            f"{where}: {len(twice)} score(s) appear more than once, first {twice.iloc[0][LABELS].to_dict()}."
        )
    return Imported(made, None, tuple(notes))

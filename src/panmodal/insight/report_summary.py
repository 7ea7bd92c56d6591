"""What a report says first: sentences about a whole leaderboard, each computed from its numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.fusion_parts import fused
from panmodal.insight.gaps import METHOD, ORACLE, TASK
from panmodal.insight.leaderboard import ceiling_name


def counted(n: int, thing: str) -> str:
    """Say a number of things."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing[:-1] + 'ies' if thing.endswith('y') else thing + 's'}"


def span(values: pd.Series, unit: str = "", scale: float = 1.0) -> str:
    """Say from which to which value some numbers lie."""
    low, high = (round(scale * float(f(values))) for f in (np.min, np.max))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def headline(board: pd.DataFrame) -> dict[str, list[str]]:
    """Say what a leaderboard shows over its tasks.

    Parameters
    ----------
    board
        See :func:`panmodal.insight.leaderboard.leaderboard`.

    Returns
    -------
    dict
        ``measured`` and ``simulated`` -> sentences about the tasks of each, where there are any.
    """
    found = {}
    for name, simulated in (("measured", False), ("simulated", True)):
        own = board[board["simulated"].astype(bool) == simulated]
        ranked = own[(own["role"] == "embedding") & own["mean"].notna()]
        if not ranked.empty:
            found[name] = _of(own, ranked, " of simulated data" if simulated else "")
    return found


def _of(own: pd.DataFrame, ranked: pd.DataFrame, marked: str) -> list[str]:
    tasks = [rows for _, rows in ranked.groupby(TASK, sort=False)]
    n = len(tasks)
    first = ranked[ranked["rank"] == 1]
    several = fused(ranked)
    single, n_fused = ranked[~several], len(ranked.loc[several, METHOD].drop_duplicates())
    tested = f"{counted(single['embedding'].nunique(), 'embedding')} with {counted(single['probe'].nunique(), 'probe')}"
    tested += f" and {counted(n_fused, 'fusion')}" if n_fused else ""
    sentences = [
        f"{tested} were tested on {counted(n, 'task')}{marked}, with {span(ranked['n_test'])} perturbations each."
    ]
    wins = first.groupby(METHOD, sort=False).size().sort_values(ascending=False, kind="stable")
    if n == 1:
        told = [f"{e} with {p}" for e, p in wins.index]
        sentences.append(f"{' and '.join(told[:3])} {'come' if len(told) > 1 else 'comes'} first.")
    else:
        sentences.append(_winners(wins, n))
    sentences += _floors(tasks, n, marked)
    sentences += _gaps(first.drop_duplicates(TASK), n, marked)
    sentences += _coverage(tasks, ranked, n)
    sentences += _controls(own, marked)
    return sentences


def _winners(wins: pd.Series, n: int) -> str:
    """Say which methods come first on how many of several tasks."""
    told = [f"{e} with {p} comes first on {k} of {n}" if j == 0 else f"{e} with {p} on {k}"
            for j, ((e, p), k) in enumerate(wins.head(3).items())]  # fmt: skip
    text = f"{told[0]} tasks" + "".join(f", {t}" for t in told[1:])
    if len(wins) > 3:
        text += f"; {counted(len(wins) - 3, 'other method')} {'leads' if len(wins) == 4 else 'lead'} elsewhere"
    return f"{text}."


def _floors(tasks: list[pd.DataFrame], n: int, marked: str) -> list[str]:
    known = [rows for rows in tasks if np.isfinite(rows.iloc[0]["floor"])]
    if not known:
        return []
    every = sum(_first(rows)["folds_above_floor"] == _first(rows)["n_folds"] for rows in known)
    none = sum(not _better(rows).any() for rows in known)
    where = "On the task" if n == 1 else f"On {every} of {n} tasks{marked}"
    text = f"{where} the leader beats the floor, the best baseline without an embedding, in every fold"
    if n == 1 and not every:
        best = _first(known[0])
        text = "The leader beats the floor, the best baseline without an embedding, in "
        text += f"{best['folds_above_floor']} of {best['n_folds']} folds"
    if none:
        text += "; no embedding beats it in the mean" if n == 1 else f"; on {none} no embedding beats it in the mean"
    return [text + "."]


def _gaps(first: pd.DataFrame, n: int, marked: str) -> list[str]:
    defined = first[first["gap_closed"].notna()]
    if defined.empty:
        return []
    kinds = sorted(
        {ceiling_name(f"{ORACLE}, " if str(c).startswith(f"{ORACLE}, ") else str(c)) for c in defined["ceiling_by"]}
    )
    text = (
        f"The leader closes {span(defined['gap_closed'], ' %', 100)} of the way from the floor to {' or '.join(kinds)}"
    )
    if n > 1:
        text = (
            text.replace("The leader closes", "The leaders close")
            + f" on the {len(defined)} tasks{marked} where it is defined"
        )
    if any("idealised" in k for k in kinds):
        text += "; the idealised oracle has seen the answers"
    return [text + "."]


def _coverage(tasks: list[pd.DataFrame], ranked: pd.DataFrame, n: int) -> list[str]:
    if ranked["coverage"].min() >= 1:
        return []
    other = "common" if ranked.iloc[0]["fallback"] == "filled" else "filled"
    changed = sum(_leader(rows, other) != _leader(rows, "mean") for rows in tasks)
    rule = "perturbations that all embeddings cover" if other == "common" else "all test perturbations"
    text = f"Embeddings cover {span(ranked['coverage'], ' %', 100)} of the test perturbations"
    if ranked.iloc[0]["fallback"] == "filled":
        text += "; where they do not, the training mean (class prior) counts as their prediction"
    if n == 1:
        return [f"{text}. On {rule} the leader is {'another' if changed else 'the same'}."]
    return [f"{text}. On {rule} another method leads in {changed} of {n} tasks."]


def _controls(own: pd.DataFrame, marked: str) -> list[str]:
    controls = own[(own["role"] == "control") & own["mean"].notna()]
    if controls.empty:
        return []
    sure = (controls["folds_above_floor"] == controls["n_folds"]) | (controls["gap_low"] > 0)
    fooled = controls[_better(controls) & sure]
    n, k = len(controls[TASK].drop_duplicates()), len(fooled[TASK].drop_duplicates())
    told = "in every fold or by its 95 % interval"
    if not k:
        return [
            f"No control without information (random or permuted) beats the floor{' on any task' if n > 1 else ''}, {told}."
        ]
    where = "" if n == 1 else f" on {k} of {n} tasks{marked}"
    return [f"Beware: a control without information beats the floor{where}, {told}; compare with the control."]


def _first(rows: pd.DataFrame) -> pd.Series:
    return rows.sort_values("rank", kind="stable").iloc[0]


def _better(rows: pd.DataFrame) -> pd.Series:
    higher = METRICS[rows.iloc[0]["metric"]].higher_is_better if rows["metric"].nunique() == 1 else None
    if higher is None:
        sign = rows["metric"].map(lambda m: 1.0 if METRICS[m].higher_is_better else -1.0)
        return sign * rows["mean"] > sign * rows["floor"]
    return rows["mean"] > rows["floor"] if higher else rows["mean"] < rows["floor"]


def _leader(rows: pd.DataFrame, column: str) -> tuple[str, str]:
    higher = METRICS[rows.iloc[0]["metric"]].higher_is_better
    best = rows.sort_values(column, ascending=not higher, kind="stable", na_position="last").iloc[0]
    return str(best["embedding"]), str(best["probe"])

"""Which modality wins: best and mean member of each family of embeddings, on every task and over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import comb

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.insight import rank_tests as tests
from panmodal.insight.boards import Board, Values, task_columns
from panmodal.insight.ranking import Panel, _gaps, _share, bounds, chance_of_best, whole

GAP, RANK = "gap closed", "scaled rank (1 best, 0 worst)"
"""Scales of families: gap closed where floor and ceiling are known, else how many of the others a method beats."""
COLUMNS = ["modality", "embeddings", "share", "best_embedding", "best", "best_low", "best_high", "mean", "mean_low", "mean_high",
           "best_of", "best_of_size", "p_best", "p_best_mean", "p_best_of", "rank_best", "rank_mean", "scale"]  # fmt: skip


def expected_best(values: Values, size: int) -> Values:
    """Compute the expected best of ``size`` members drawn without replacement from all columns, more being better.

    With x_(1) >= ... >= x_(k), sum over i of x_(i) C(k - i, size - 1) / C(k, size): x_(i) is the best if it is drawn and none
    of the i - 1 better ones is. ``size`` 1 is the mean, ``size`` k the best.

    Parameters
    ----------
    values
        Any shape; the last axis are the members.
    """
    k = values.shape[-1]
    if not 1 <= size <= k:
        raise InputError(f"the best of {size} cannot be drawn from {k} members.")
    weights = comb(k - np.arange(1, k + 1), size - 1) / comb(k, size)
    return np.asarray(-np.sort(-values, axis=-1) @ weights)


def task_families(board: Board, samples: Values) -> pd.DataFrame:
    """Compare modalities on one task.

    Parameters
    ----------
    board, samples
        Made with ``unit="embedding"``, so that a family counts its embeddings and not their probes.

    Returns
    -------
    pandas.DataFrame
        One row for each modality, that with the best embedding first: task columns, ``metric``, ``modality``, ``embeddings`` (its
        number, k), ``share`` (of all embeddings: the chance of holding the best if modality meant nothing), ``best_embedding``,
        ``best`` and ``mean`` (of the best and of the mean member, in units of ``scale``) with intervals, ``best_of`` (expected
        best of ``best_of_size`` members, as many as the smallest family has, so that large families have no more chances),
        ``p_best``, ``p_best_mean``, ``p_best_of`` (share of bootstrap draws in which the family comes first by its best member, its
        mean member, and ``best_of``), ``rank_best`` and ``rank_mean`` (of its members among all embeddings, in the scores).

    Notes
    -----
    ``best`` is the best member chosen on the same perturbations: the more members, the more it flatters; its interval takes the
    best of
    each draw. Intervals are about other perturbations, not about other embeddings of the modality.
    """
    _of_embeddings(board)
    m = len(board.methods)
    point, drawn, scale = _scaled(board, samples)
    return _families(board.methods, point[None], drawn[:, None], scale, tests.ranks(board.scores[None, :m], board.higher)).assign(
        **task_columns(board.task), metric=board.metric
    )[[*task_columns(board.task), "metric", *COLUMNS]]  # fmt: skip


def families_over_tasks(panel: Panel) -> pd.DataFrame:
    """Compare modalities over the tasks of a panel, in columns as :func:`task_families` has them.

    Values are means over tasks of those of the tasks; ``best`` takes the best member of each task. A family's ``p_best`` is the
    share of
    draws in which the mean over tasks of its best member is highest. ``wins`` counts tasks whose best embedding is of the family,
    with an interval. The scale is gap closed where it is defined on all tasks, else scaled ranks.
    """
    for board in panel.boards:
        _of_embeddings(board)
    m = len(panel.table)
    found = [_scaled(b, s) for b, s in zip(panel.boards, panel.samples, strict=True)]
    if len({scale for _, _, scale in found}) > 1:
        found = [_scaled(b, s, RANK) for b, s in zip(panel.boards, panel.samples, strict=True)]
    points, drawn = np.stack([p for p, _, _ in found]), np.stack([d for _, d, _ in found], axis=1)
    given = np.vstack([tests.ranks(b.scores[None, :m], b.higher) for b in panel.boards])
    table = _families(panel.boards[0].methods, points, drawn, found[0][2], given)
    own = panel.boards[0].methods["modality"].to_numpy()
    wins, low, high = {}, {}, {}
    draws = whole(drawn.reshape(len(drawn), -1)).reshape(-1, *drawn.shape[1:])
    for modality in table["modality"]:
        at = own == modality
        wins[modality] = _wins(points[None], at).sum()
        bound = bounds(_wins(draws, at).sum(axis=1)[:, None])
        low[modality], high[modality] = bound[0][0], bound[1][0]
    return table.assign(tasks=len(panel.boards), wins=table["modality"].map(wins), wins_low=table["modality"].map(low),
                        wins_high=table["modality"].map(high))[["tasks", *COLUMNS, "wins", "wins_low", "wins_high"]]  # fmt: skip


def _of_embeddings(board: Board) -> None:
    if board.unit != "embedding" and not board.methods["embedding"].is_unique:
        raise InputError("families count embeddings, not their probes: read boards with unit='embedding'.")


def _wins(values: Values, at: NDArray[np.bool_]) -> Values:
    """Share of the best places that fall to some columns: draws x tasks."""
    first = values >= values.max(axis=-1, keepdims=True)
    return first[..., at].sum(axis=-1) / first.sum(axis=-1)


def _scaled(board: Board, samples: Values, scale: str = "") -> tuple[Values, Values, str]:
    """Values of embeddings and of their draws, more being better, on a scale that tasks share, and its name."""
    m = len(board.methods)
    if scale != RANK:
        gaps = _gaps(board, board.scores)
        if np.isfinite(gaps).all():
            return gaps, _gaps(board, samples), GAP
    point = 1 - _share(tests.ranks(board.scores[None, :m], board.higher))[0]
    drawn = np.full((len(samples), m), np.nan)
    good = np.isfinite(samples[:, :m]).all(axis=1)
    if good.any():
        drawn[good] = 1 - _share(tests.ranks(samples[good, :m], board.higher))
    return point, drawn, RANK


def _families(methods: pd.DataFrame, points: Values, drawn: Values, scale: str, given: Values) -> pd.DataFrame:
    """Sum up the members of each modality.

    ``points`` and ``given`` (ranks) are tasks x embeddings, ``drawn`` draws x tasks x embeddings.
    """
    own = methods["modality"].to_numpy()
    modalities = list(dict.fromkeys(own))
    size = min(int((own == f).sum()) for f in modalities)
    records, of_draws = [], {"best": [], "mean": [], "best_of": []}  # type: ignore[var-annotated]
    for modality in modalities:
        at = np.flatnonzero(own == modality)
        part, part_drawn = points[:, at], drawn[:, :, at]
        sums = {}
        for name, count in (("best", len(at)), ("mean", 1), ("best_of", size)):
            sums[name] = float(np.mean(expected_best(part, count)))
            of_draws[name].append(np.mean(expected_best(part_drawn, count), axis=1))
        first = at[int(np.argmax(defined_mean(part)))]
        records.append({
            "modality": modality, "embeddings": len(at), "share": len(at) / len(own),
            "best_embedding": methods["embedding"].iloc[first],
            **sums, "best_of_size": size, "rank_best": given[:, at].min(axis=1).mean(), "rank_mean": given[:, at].mean(),
            "scale": scale,
        })  # fmt: skip
    table = pd.DataFrame(records)
    stacked = {name: np.stack(parts, axis=1) for name, parts in of_draws.items()}
    for name in ("best", "mean"):
        table[f"{name}_low"], table[f"{name}_high"] = bounds(stacked[name])
    for name, column in (("best", "p_best"), ("mean", "p_best_mean"), ("best_of", "p_best_of")):
        good = whole(stacked[name])
        table[column] = chance_of_best(tests.ranks(good, True)) if len(good) else np.nan
    return table.sort_values("best", ascending=False, kind="stable").reset_index(drop=True)[COLUMNS]


def family_sentences(table: pd.DataFrame, where: str) -> list[str]:
    """Say which modality wins by its best and by its mean member, and how sure that is."""
    if len(table) < 2:
        return [f"{where}: all embeddings are of one modality ({table['modality'].iloc[0]})."]
    first = table.iloc[0]
    text = f"{where}: {first['modality']} holds the best embedding ({first['best_embedding']}, {_value(first, 'best')})"
    if "tasks" in table:
        member = f"{first['best_embedding']} the best of them on average"
        text = f"{where}: the best member of {first['modality']} is ahead ({_value(first, 'best')}; {member})"
    if np.isfinite(first["p_best"]):
        text += f", in {_chance(first['p_best'])} of the bootstrap draws"
    text += f"; it has {first['embeddings']} of {int(table['embeddings'].sum())} embeddings"
    sentences = [text + "."]
    mean = table.sort_values("mean", ascending=False, kind="stable").iloc[0]
    if mean["modality"] == first["modality"]:
        sentences.append(f"{where}: its mean member is ahead too ({_value(mean, 'mean')}).")
    else:
        chance = f" in {_chance(mean['p_best_mean'])} of the draws" if np.isfinite(mean["p_best_mean"]) else ""
        sentences.append(
            f"{where}: by the mean member {mean['modality']} is ahead ({_value(mean, 'mean')}{chance}; {first['modality']}: "
            f"{_value(first, 'mean')}), so that the order depends on which member stands for a modality."
        )
    alone = table.loc[table["embeddings"] == 1, "modality"]
    if len(alone):
        sentences.append(f"{where}: {', '.join(alone)} {'has' if len(alone) == 1 else 'have'} one embedding, "
                         "which says little about the modality as a whole.")  # fmt: skip
    return sentences


def _value(row: pd.Series, name: str) -> str:
    text = f"{row['scale'].split(' (')[0]} {row[name]:.2f}"
    if np.isfinite(row[f"{name}_low"]):
        text += f", 95 % interval {row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}"
    return text


def _chance(p: float) -> str:
    return (
        "all"
        if p == 1
        else "none"
        if p == 0
        else "more than 99 %"
        if p >= 0.995
        else "less than 1 %"
        if p < 0.005
        else f"{100 * p:.0f} %"
    )


def families(boards: Sequence[Board], samples: Sequence[Values]) -> pd.DataFrame:
    """Stack :func:`task_families` of all tasks that have two modalities at least."""
    found = [task_families(b, s) for b, s in zip(boards, samples, strict=True) if b.methods["modality"].nunique() > 1]
    if not found:
        raise InputError("no task has embeddings of two modalities; nothing to compare.")
    return pd.concat(found, ignore_index=True)

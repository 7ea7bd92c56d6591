"""Ranks with intervals, on every task and over tasks: pure functions of boards and their bootstrap samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.insight import rank_tests as tests
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES, Board, Values, task_columns
from panmodal.insight.gaps import LEVEL, gap_closed

ALPHA = 0.05
RULE = {
    PERTURBATIONS: "Wilcoxon over perturbations",
    SAMPLES: "bootstrap of the difference",
    FOLDS: "Wilcoxon over folds",
}
"""The test of a pair by what can be resampled."""


@dataclass(frozen=True)
class Comparison:
    """Methods compared with each other; matrices are methods x methods in the order of the table beside it.

    Attributes
    ----------
    p
        Holm-adjusted p of the test of each pair.
    p_folds
        Unadjusted p of the t-test over folds, corrected for shared training data; NaN over tasks.
    beats
        Share of bootstrap draws in which the row is better than the column, ties one half.
    distinguishable
        Pairs with p < alpha, where the test and the scores agree on who is better and, with more than two methods, Friedman's test
        finds a difference at all.
    contradictory
        Number of pairs that the test tells apart the other way round than the scores: typical and mean values disagree.
    test, n_blocks, least_p
        Name of the test, what it had to go on, and the smallest p that it can give.
    friedman
        Over the same blocks (where samples were stored: over folds).
    """

    p: Values
    p_folds: Values
    beats: Values
    distinguishable: NDArray[np.bool_]
    contradictory: int
    test: str
    n_blocks: int
    least_p: float
    friedman: tests.Friedman
    alpha: float = ALPHA

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Maximal runs of neighbours of which no two are distinguishable."""
        return tests.groups(self.distinguishable)

    @property
    def letters(self) -> list[str]:
        """Letters of the groups of each method."""
        return tests.letters(self.groups, len(self.p))


def compare(board: Board, samples: Values, *, alpha: float = ALPHA) -> Comparison:
    """Compare the methods of one task.

    Wilcoxon's test takes the perturbations of all folds; where there are no values for perturbations but stored samples, the
    difference
    of the scores is set against its bootstrap standard deviation; else folds are the blocks. Perturbations of a fold share a
    fitted model, and folds share training data: p is about another sample of perturbations for the models as they were
    fitted. ``p_folds`` is the more cautious answer, about training again.
    """
    m = len(board.methods)
    sign = 1.0 if board.higher else -1.0
    scores, folds = sign * board.scores[:m], sign * board.fold_scores[:, :m]
    if board.by == PERTURBATIONS:
        blocks = sign * np.vstack([b.values[:, :m] for b in board.blocks])
    else:
        blocks = folds
    overall = tests.friedman(blocks)
    if board.by == SAMPLES:
        raw, larger = tests.bootstrap_pairs(scores, samples[:, :m]), np.sign(scores[:, None] - scores)
        least, gate = 0.0, True
    else:
        raw, larger = tests.wilcoxon_pairs(blocks)
        least, gate = tests.least_p(len(blocks), m), m <= 2 or overall.p < alpha
    n = len({b.fold for b in board.blocks})
    corrected = tests.corrected_t_pairs(folds, 1 / (n - 1) if n > 1 else np.nan)
    lead = np.sign(scores[:, None] - scores)
    return _decide(raw, larger, lead, corrected, beats(sign * samples[:, :m]), RULE[board.by], board.n_ids or len(blocks), least,
                   overall, gate, alpha)  # fmt: skip


def _decide(raw: Values, larger: Values, lead: Values, corrected: Values, won: Values, test: str, n: int, least: float,
            overall: tests.Friedman, gate: bool, alpha: float) -> Comparison:  # fmt: skip
    p = tests.holm(raw)
    clear = p < alpha
    against = clear & (larger * lead < 0)
    return Comparison(
        p, corrected, won, clear & (larger * lead > 0) & gate, int(against.sum()) // 2, test, n, least, overall, alpha
    )


def beats(samples: Values) -> Values:
    """Share of draws in which the row is better (larger) than the column, ties one half; draws with undefined values are left out."""
    k = samples.shape[1]
    own = whole(samples)
    out = np.full((k, k), np.nan)
    if len(own):
        size = np.abs(own).max(initial=0.0)
        own = np.ascontiguousarray(np.round(own / (size if size > 0 else 1.0), 9).T)
        for a in range(k):
            out[a] = (own[a] > own).mean(axis=1) + 0.5 * (own[a] == own).mean(axis=1)
    np.fill_diagonal(out, 0.5)
    return out


def whole(samples: Values) -> Values:
    """Draws in which all is defined; none if these are fewer than 95 %."""
    good = np.isfinite(samples).all(axis=1)
    return samples[good] if len(samples) and good.mean() >= LEVEL else samples[:0]


def bounds(samples: Values) -> tuple[Values, Values]:
    """95 % percentile interval of each column; NaN where more than 5 % of the draws are undefined."""
    out = np.full((2, samples.shape[1]), np.nan)
    if len(samples):
        enough = np.isfinite(samples).mean(axis=0) >= LEVEL
        if enough.any():
            out[:, enough] = np.nanquantile(samples[:, enough], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return out[0], out[1]


def chance_of_best(given: Values) -> Values:
    """Share of draws in which each column has the lowest rank, shared among ties; NaN without draws."""
    if not len(given):
        return np.full(given.shape[1], np.nan)
    first = given == given.min(axis=1, keepdims=True)
    return (first / first.sum(axis=1, keepdims=True)).mean(axis=0)


def rank_table(board: Board, samples: Values, comparison: Comparison) -> pd.DataFrame:
    """Rank the methods of one task, with intervals.

    Returns
    -------
    pandas.DataFrame
        One row for each method, best first: task, ``metric``, ``fallback``, ``by`` (what was resampled), ``embedding``, ``probe``,
        ``modality``, ``seen``, ``simulated``, ``rank`` (ties share the lower), ``rank_low`` to ``rank_high`` (95 % of the bootstrap
        draws), ``score`` with its interval, ``p_best`` (share of draws in which it is the best), ``groups`` (letters; methods
        that share one are not distinguishable), ``at_best`` and ``at_worst`` (ranks that the tests leave open: one more than
        the methods distinguishably better, and the number of methods less those distinguishably worse; Mogstad and others 2024
        build confidence sets of ranks so), ``p_leader`` (Holm-adjusted p against the leader), ``p_leader_folds`` (the t-test
        over folds,
        corrected for shared training data, unadjusted), ``coverage``, ``n_perturbations``, ``n_folds``.
    """
    m = len(board.methods)
    scores, own = board.scores[:m], samples[:, :m]
    given = tests.ranks(whole(own), board.higher) if len(whole(own)) else np.empty((0, m))
    low, high = bounds(own)
    rank_low, rank_high = bounds(given)
    better = comparison.distinguishable & (_sign(board) * (scores[:, None] - scores) > 0)
    table = board.methods.assign(
        **task_columns(board.task), metric=board.metric, fallback=board.fallback, by=board.by,
        rank=_lowest(tests.ranks(scores[None], board.higher)[0]), rank_low=rank_low, rank_high=rank_high, score=scores, score_low=low,
        score_high=high, p_best=chance_of_best(given), groups=comparison.letters, at_best=1 + better.sum(axis=0),
        at_worst=m - better.sum(axis=1), p_leader=_against_leader(comparison.p), p_leader_folds=_against_leader(comparison.p_folds),
        n_perturbations=board.n_ids, n_folds=len(board.blocks),
    )  # fmt: skip
    return table[[
        *task_columns(board.task), "metric", "fallback", "by", "embedding", "probe", "modality", "seen", "simulated", "rank",
        "rank_low",
        "rank_high", "score", "score_low", "score_high", "p_best", "groups", "at_best", "at_worst", "p_leader", "p_leader_folds",
        "coverage", "n_perturbations", "n_folds",
    ]]  # fmt: skip


def _sign(board: Board) -> float:
    return 1.0 if board.higher else -1.0


def _against_leader(p: Values) -> Values:
    return np.concatenate([[np.nan], p[0, 1:]])


def _lowest(average: Values) -> NDArray[np.int64]:
    """Ranks where ties share the lowest, from ranks where they share the mean."""
    return np.array([1 + int((average < a - 0.25).sum()) for a in average], dtype=np.int64)


@dataclass(frozen=True)
class Panel:
    """Methods that were run on the same tasks, compared over these.

    ``boards`` and ``samples`` hold these methods only, in the order of ``table``; ``apart`` names ranked methods with other tasks.
    """

    boards: list[Board]
    samples: list[Values]
    table: pd.DataFrame
    comparison: Comparison
    rank_samples: Values
    apart: tuple[str, ...] = field(default=())

    @property
    def where(self) -> str:
        """How many tasks of which screens."""
        screens = list(dict.fromkeys(b.task[0] for b in self.boards))
        named = ", ".join(screens[:3]) if len(screens) <= 3 else f"{len(screens)} screens"
        return f"{len(self.boards)} tasks of {named}"


def over_tasks(boards: Sequence[Board], samples: Sequence[Values], *, alpha: float = ALPHA) -> list[Panel]:
    """Compare methods over tasks, those together that have a score on the same ones.

    Only methods run on the same tasks compare, so that each set of tasks is a panel of its own, and ranks are among its methods. Tasks
    count the same. In every bootstrap draw, methods are ranked on each task, ranks are scaled to 0 (best) to 1 (worst) and averaged; a
    draw takes the same perturbations in all contexts of a screen. Pairs are tested over folds of tasks: differences are divided by
    the standard deviation of the task's values about the means of its folds, since tasks have different units.

    Returns
    -------
    list of Panel
        Those with two tasks and two methods at least, most tasks times methods first. Columns of ``table``: ``embedding``, ``probe``
        (empty where the unit is the embedding), ``modality``, ``seen_on`` (tasks of data sets that it was trained on),
        ``tasks``, ``rank``
        with ``rank_low`` to ``rank_high``, ``mean_rank`` with its interval (scaled), ``p_best``, ``wins`` with its interval
        (tasks ranked first, shared among ties), ``mean_gap_closed`` with its interval (over the ``gap_tasks`` where it is defined),
        ``average_rank`` (over blocks, 1 the best), ``groups``, ``at_best``, ``at_worst``, ``mean_coverage``, ``least_coverage``.
    """
    homes: dict[tuple[str, ...], list[int]] = {}
    for k, board in enumerate(boards):
        for key in board.keys:
            homes.setdefault(key, []).append(k)
    panels: dict[tuple[int, ...], list[tuple[str, ...]]] = {}
    for key, tasks in homes.items():
        panels.setdefault(tuple(tasks), []).append(key)
    found = [_panel([boards[t] for t in tasks], [samples[t] for t in tasks], keys, alpha)
             for tasks, keys in panels.items() if len(tasks) > 1 and len(keys) > 1]  # fmt: skip
    found.sort(key=lambda p: -len(p.boards) * len(p.table))
    out = []
    for panel in found:
        inside = set(panel.boards[0].keys)
        apart = tuple(" with ".join(key) for key in homes if key not in inside)
        out.append(Panel(panel.boards, panel.samples, panel.table, panel.comparison, panel.rank_samples, apart))
    return out


def _panel(boards: list[Board], samples: list[Values], keys: list[tuple[str, ...]], alpha: float) -> Panel:
    boards, samples = _aligned(boards, samples, keys)
    m = len(keys)
    shares = np.stack([_share(tests.ranks(b.scores[None, :m], b.higher))[0] for b in boards])
    mean, gaps = shares.mean(axis=0), np.stack([_gaps(b, b.scores) for b in boards])
    order = np.lexsort((-np.nan_to_num(defined_mean(gaps), nan=-np.inf), mean))
    boards, samples = _aligned(boards, samples, [keys[k] for k in order])
    shares, gaps, mean = shares[:, order], gaps[:, order], mean[order]
    good = np.all([np.isfinite(s[:, :m]).all(axis=1) for s in samples], axis=0)
    drawn = [s[good] if good.mean() >= LEVEL else s[:0] for s in samples]
    given = [
        tests.ranks(s[:, :m], b.higher) if len(s) else np.empty((0, m)) for b, s in zip(boards, drawn, strict=True)
    ]
    means = np.mean([_share(g) for g in given], axis=0)
    won = np.sum([_wins(g) for g in given], axis=0)
    gap_draws = _mean_gaps(boards, samples, gaps)
    comparison = _compare_over(boards, -mean, -means, alpha)
    better = comparison.distinguishable & (mean[:, None] < mean)
    placed = tests.ranks(means, False) if len(means) else means
    columns = {}
    for name, point, draws in (("rank", _lowest(tests.ranks(mean[None], False)[0]), placed), ("mean_rank", mean, means),
                               ("wins", np.sum([_wins(tests.ranks(b.scores[None, :m], b.higher))[0] for b in boards], axis=0), won),
                               ("mean_gap_closed", defined_mean(gaps), gap_draws)):  # fmt: skip
        columns[name] = point
        columns[f"{name}_low"], columns[f"{name}_high"] = bounds(draws)
    coverage = np.stack([b.methods["coverage"].to_numpy(np.float64) for b in boards])
    seen = np.sum([(b.methods["seen"] == "yes").to_numpy() for b in boards], axis=0)
    about = boards[0].methods
    table = pd.DataFrame({
        "embedding": about["embedding"], "probe": about["probe"] if boards[0].unit == "method" else "", "modality": about["modality"],
        "seen_on": seen, "tasks": len(boards), **columns, "p_best": chance_of_best(placed), "gap_tasks": np.isfinite(gaps).sum(axis=0),
        "average_rank": comparison.friedman.average_ranks, "groups": comparison.letters, "at_best": 1 + better.sum(axis=0),
        "at_worst": m - better.sum(axis=1), "mean_coverage": coverage.mean(axis=0), "least_coverage": coverage.min(axis=0),
    })  # fmt: skip
    return Panel(boards, samples, table, comparison, means)


def _aligned(boards: Sequence[Board], samples: Sequence[Values],
             keys: list[tuple[str, ...]]) -> tuple[list[Board], list[Values]]:  # fmt: skip
    """Bring the columns of all boards into the order of the keys."""
    out, drawn = [], []
    for board, sample in zip(boards, samples, strict=True):
        where = {key: k for k, key in enumerate(board.keys)}
        at = [where[key] for key in keys]
        m = len(board.methods)
        out.append(board.pick(at))
        drawn.append(sample[:, [*at, m, m + 1]])
    return out, drawn


def _share(given: Values) -> Values:
    return (given - 1) / max(given.shape[1] - 1, 1)


def _wins(given: Values) -> Values:
    if not len(given):
        return given
    first = given == given.min(axis=1, keepdims=True)
    return first / first.sum(axis=1, keepdims=True)


def _gaps(board: Board, scores: Values) -> Values:
    """Gap closed of each method, from scores that end in floor and ceiling; any shape."""
    return gap_closed(scores[..., :-2], scores[..., [-2]], scores[..., [-1]], board.higher)


def _mean_gaps(boards: list[Board], samples: list[Values], gaps: Values) -> Values:
    """Mean gap closed over the tasks where it is defined: draws x methods."""
    used = [k for k in range(len(boards)) if np.isfinite(gaps[k]).any()]
    if not used:
        return np.empty((0, gaps.shape[1]))
    return np.mean([_gaps(boards[k], samples[k]) for k in used], axis=0)


def standardised(board: Board) -> Values:
    """Scale the scores of folds so that tasks compare: folds x methods, more being better.

    Differences from the mean of the fold, over the standard deviation of all of them.
    """
    values = board.fold_scores[:, : len(board.methods)] * _sign(board)
    centred = values - defined_mean(values.T)[:, None]
    spread = float(np.sqrt(defined_mean(centred.ravel() ** 2)))
    return centred / spread if spread > 0 else centred


def _compare_over(boards: list[Board], scores: Values, samples: Values, alpha: float) -> Comparison:
    """Test all pairs over folds of tasks; ``scores`` and ``samples`` are mean ranks, turned so that more is better."""
    blocks = np.vstack([standardised(b)[np.isfinite(b.fold_scores[:, : len(b.methods)]).all(axis=1)] for b in boards])
    k = blocks.shape[1]
    overall = tests.friedman(blocks)
    raw, larger = tests.wilcoxon_pairs(blocks)
    lead = np.sign(scores[:, None] - scores)
    gate = bool(k <= 2 or overall.p < alpha)
    return _decide(raw, larger, lead, np.full((k, k), np.nan), beats(samples), "Wilcoxon over folds of tasks", len(blocks),
                   tests.least_p(len(blocks), k), overall, gate, alpha)  # fmt: skip


def pair_table(methods: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """List all pairs, the better one first: names, ``p_beats``, ``p`` (Holm), ``p_folds``, ``distinguishable``."""
    k = len(methods)
    if k != len(comparison.p):
        raise InputError(f"{k} methods and {len(comparison.p)} in the comparison do not fit.")
    a, b = np.triu_indices(k, 1)
    names = methods[["embedding", "probe"]]
    return pd.DataFrame({
        "embedding": names["embedding"].to_numpy()[a], "probe": names["probe"].to_numpy()[a],
        "other": names["embedding"].to_numpy()[b], "other_probe": names["probe"].to_numpy()[b],
        "p_beats": comparison.beats[a, b], "p": comparison.p[a, b], "p_folds": comparison.p_folds[a, b],
        "distinguishable": comparison.distinguishable[a, b],
    })  # fmt: skip

"""Does it help to combine embeddings: gains of fusions over the best single embedding, what fits weigh, missing modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.insight import fusion_plots as plots
from panmodal.insight import fusion_words as words
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES, Block, Board, Values, read_boards, task_columns
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.fusion_parts import (
    ALPHA,
    best_of,
    fused,
    fusion_fits,
    fusion_weights,
    members,
    missing_modalities,
    with_fusions,
)
from panmodal.insight.gaps import METHOD, TASK, gap_closed
from panmodal.insight.leaderboard import first_metric
from panmodal.insight.rank_tests import EQUAL, corrected_t_pairs
from panmodal.insight.resample import sample

DRAWS = 4000
"""More than elsewhere: intervals of several fusions together look at the outermost draws."""
GAINS = [
    *TASK, "simulated", *METHOD, "n_members", "members", "metric", "primary", "by", "value", "single", "single_probe", "single_seen",
    "single_value", "gain", "gain_low", "gain_high", "verdict", "p_folds", "improved", "worsened", "gap_closed", "single_gap_closed",
    "coverage", "single_coverage", "gain_common", "common_low", "common_high", "n_common", "n_perturbations", "n_folds", "n_fusions",
    "top", "top_probe", "top_value", "alone", "alone_value", "gain_alone", "alone_low", "alone_high",
]  # fmt: skip


def fusion_gains(
    evidence: Evidence, metrics: Sequence[str] | None = None, draws: int = DRAWS, seed: int = 0, *, alpha: float = ALPHA
) -> pd.DataFrame:
    """Set every fusion beside the best single embedding of its task.

    The single embedding (and its probe) is the one that is best on these very results by the primary metric, which flatters it: the
    comparison is conservative. All test ids count, the fallback standing for those that a method does not cover.

    Parameters
    ----------
    evidence
        Results with fusions (role ``embedding``, modality ``fusion``).
    metrics
        The primary one of each kind of response and those of perturbation discrimination (labels: MCC), unless given.
    draws, seed
        Of the bootstrap over perturbations within folds, paired (:func:`panmodal.insight.resample.sample`).
    alpha
        Intervals hold with probability 1 - ``alpha`` for all fusions of a task together (Bonferroni).

    Returns
    -------
    pandas.DataFrame
        One row for each task, fusion and metric, best fusion first: ``value`` and ``single_value`` (means over folds), ``gain``
        (positive: the fusion is better) from ``gain_low`` to ``gain_high``; ``verdict`` (``better``, ``worse``, ``not told apart``,
        or ``no interval``); ``p_folds`` (t-test over folds, corrected for shared training data, unadjusted); ``improved`` and
        ``worsened`` (shares of perturbations); ``gap_closed`` of both; ``gain_common`` with its interval on the ``n_common``
        perturbations that both cover, since a fusion covers more ids than one embedding; ``top`` is the single embedding that is
        best by this metric. ``members`` names what is fused, where that is known. ``alone`` is the same method over one embedding
        (the best, if it was run over several so), and ``gain_alone`` with its interval what combining gains over it: the rest
        of ``gain`` is due to the method.

    Notes
    -----
    Percentiles of the draws where there are values of perturbations. Metrics of genes (F1) have few stored bootstrap samples: their
    standard deviation times a normal quantile; they have no shares of perturbations and no ``gain_common`` (NaN). Where only
    scores of folds are known: Student's t with the variance of Nadeau and Bengio 2003, (1 / n + 1 / (n - 1)) times that of the
    differences of n folds. Intervals are about other perturbations, for models as they were fitted.

    Raises
    ------
    InputError
        No fusion, or none with a single embedding beside it; an unknown metric.
    """
    unknown = [m for m in metrics or () if m not in METRICS]
    if unknown:
        raise InputError(f"no metric {some(unknown)}; there are {', '.join(METRICS)}.")
    own = with_fusions(evidence)
    known = members(own)
    pairs: list[_Pairs] = []
    boards = _boards(own, metrics)
    for task in own.tasks:
        first = boards[task, ""]
        is_fused = fused(first.methods)
        single = best_of(first, np.flatnonzero(~is_fused))
        if single is None:
            continue
        keys = [first.keys[k] for k in np.flatnonzero(is_fused)]
        for (of, name), board in boards.items():
            place = {key: k for k, key in enumerate(board.keys)}
            if of == task and name and first.keys[single] in place:
                at = [place[key] for key in keys if key in place]
                alone = place[first.keys[single]]
                pairs.append(
                    _Pairs(board, _paired(own, board, at, alone, known), alone, tuple(at), board.metric == first.metric)
                )
    pairs = [p for p in pairs if p.at]
    if not pairs:
        raise InputError("these results hold no single embedding beside a fusion to compare it with.")
    drawn = sample([p.paired for p in pairs], draws=draws, seed=seed)
    table = pd.concat([_gains(p, d, known, alpha) for p, d in zip(pairs, drawn, strict=True)], ignore_index=True)
    # Tasks as they stand, fusions from the best to the worst by the primary metric, then metrics.
    order = {
        key: k for k, key in enumerate(table[[*TASK, *METHOD]].drop_duplicates().itertuples(index=False, name=None))
    }
    at_row = [order[key] for key in table[[*TASK, *METHOD]].itertuples(index=False, name=None)]
    return table.iloc[np.argsort(at_row, kind="stable")].reset_index(drop=True)[GAINS]


@dataclass(frozen=True)
class _Pairs:
    """Fusions of a task by one metric, and the single embedding beside each.

    ``board`` holds all methods, ``single`` and ``at`` are columns of it; ``paired`` is made by :func:`_paired`.
    """

    board: Board
    paired: Board
    single: int
    at: tuple[int, ...]
    primary: bool


def _boards(evidence: Evidence, metrics: Sequence[str] | None) -> dict[tuple[Task, str], Board]:
    """Boards by task and metric; that of the primary metric also under the empty name."""
    there = {task: set(evidence.of(task)["metric"]) for task in evidence.tasks}
    first = {task: first_metric(task[2], names) for task, names in there.items()}
    read = {m: {b.task: b for b in read_boards(evidence, metric=m)} for m in dict.fromkeys(first.values())}
    found: dict[tuple[Task, str], Board] = {(t, ""): read[m][t] for t, m in first.items() if t in read[m]}
    for task, names in there.items():
        for name in metrics or [first[task], *_beside(task, names)]:
            if name not in read and name in names:
                read[name] = {b.task: b for b in read_boards(evidence, metric=name)}
            if task in read.get(name, {}):
                found[task, name] = read[name][task]
    return found


def _beside(task: Task, there: set[str]) -> list[str]:
    """Metrics that tell whether predictions differ between perturbations as responses do."""
    return [m.name for m in metrics_for(task[2]) if m.name in there and (m.name.startswith("PDS_") or m.name == "MCC")]


def _paired(
    evidence: Evidence, board: Board, at: Sequence[int], single: int, known: Mapping[tuple[str, ...], tuple[str, ...]]
) -> Board:
    """Lay out a board of pairs.

    Columns: fusions; the single embedding once for each; both again, on the ids that both cover; the same method over one embedding
    (NaN where that was not run); floor and ceiling. A fold in which one of a pair has no score counts for neither.
    """
    k, m = len(at), len(board.methods)
    covered = _covered(evidence, board, [*at, single]) if board.by == PERTURBATIONS else {}
    alone = [_alone(board, at, j, known) for j in at]
    blocks: list[Block] = []
    for block in board.blocks:
        there = np.asarray(np.isfinite(block.values).any(axis=0))
        gone = np.asarray(~(there[list(at)] & there[single]))
        both = np.zeros((len(block.values), k), dtype=bool)
        if (block.fold, block.seed) in covered:
            has = covered[block.fold, block.seed]
            both = has[:, :-1] & has[:, [-1]]
        values = _side_by_side(block.values, at, single, alone, gone, both)
        stored = block.drawn
        if stored is not None:
            stored = _side_by_side(stored, at, single, alone, gone, np.zeros((len(stored), k), dtype=bool))
            stored = np.hstack([stored, block.drawn[:, m:]])  # type: ignore[index]
        blocks.append(replace(block, values=np.hstack([values, block.values[:, m:]]), drawn=stored))
    return replace(board, methods=board.methods.iloc[list(at)].reset_index(drop=True), blocks=tuple(blocks))


def _side_by_side(values: Values, at: Sequence[int], single: int, alone: Sequence[int | None], gone: NDArray[np.bool_],
                  both: NDArray[np.bool_]) -> Values:  # fmt: skip
    """Fusions, single, both where ``both`` holds, and alone: rows x 5 k."""
    first, second = values[:, list(at)], np.repeat(values[:, [single]], len(at), axis=1)
    other = np.stack([np.full(len(values), np.nan) if a is None else values[:, a] for a in alone], axis=1)
    first, second, other = (np.where(gone, np.nan, x) for x in (first, second, other))
    return np.hstack([first, second, np.where(both, first, np.nan), np.where(both, second, np.nan), other])


def _alone(board: Board, at: Sequence[int], j: int, known: Mapping[tuple[str, ...], tuple[str, ...]]) -> int | None:
    """Column of the best run of a fusion's method over one of its members, with a score in as many folds as the fusion has."""
    of = {k: known.get((board.task[0], *board.keys[k]), ()) for k in at}
    if len(of[j]) < 2:
        return None
    folds = np.isfinite(board.fold_scores)
    found = [k for k in at if len(of[k]) == 1 and of[k][0] in of[j] and board.keys[k][1] == board.keys[j][1]
             and (folds[:, k] | ~folds[:, j]).all()]  # fmt: skip
    return best_of(board, np.array(found, dtype=np.intp))


def _covered(evidence: Evidence, board: Board, columns: Sequence[int]) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """Which ids of each fold methods have a vector for: ids x methods."""
    values = evidence.per_perturbation(board.task, board.metric)
    values = values[(values["role"] == "embedding") & values["covered"].astype(bool)]
    by = {
        key: set(part["pert_id"]) for key, part in values.groupby([*METHOD, "fold", "seed"], sort=False, observed=True)
    }
    keys = [board.keys[c] for c in columns]
    return {
        (b.fold, b.seed): np.array([[i in by.get((*key, b.fold, b.seed), ()) for key in keys] for i in b.ids], dtype=bool)
        for b in board.blocks if len(b.ids)
    }  # fmt: skip


def _gains(
    pairs: _Pairs, drawn: Values, known: Mapping[tuple[str, ...], tuple[str, ...]], alpha: float
) -> pd.DataFrame:
    board, paired, k = pairs.board, pairs.paired, len(pairs.at)
    sign, tail = 1.0 if board.higher else -1.0, alpha / 2 / k
    parts = np.split(paired.scores, np.arange(1, 6) * k)
    value, alone, value_common, alone_common, other, (floor, ceiling) = parts
    gain = sign * (value - alone)
    low, high = _interval(paired, sign * (drawn[:, :k] - drawn[:, k : 2 * k]), gain, tail, sign)
    common_low, common_high = _percentiles(sign * (drawn[:, 2 * k : 3 * k] - drawn[:, 3 * k : 4 * k]), tail)
    alone_low, alone_high = _interval(
        paired, sign * (drawn[:, :k] - drawn[:, 4 * k : 5 * k]), sign * (value - other), tail, sign, beside=4
    )
    row, about = board.methods.iloc[pairs.single], paired.methods
    best = best_of(board, np.flatnonzero(~fused(board.methods)))
    top = pairs.single if best is None else best
    improved, worsened, n_common = _shares(paired, k, sign)
    names = [known.get((board.task[0], e, p), ()) for e, p in about[METHOD].itertuples(index=False, name=None)]
    return about[METHOD].assign(
        **task_columns(board.task), simulated=about["simulated"].astype(bool), n_members=[float(len(n)) or np.nan for n in names],
        members=[", ".join(n) for n in names], metric=board.metric, primary=pairs.primary, by=board.by, value=value,
        single=row["embedding"], single_probe=row["probe"], single_seen=row["seen"], single_value=alone, gain=gain, gain_low=low,
        gain_high=high, verdict=[_verdict(a, b) for a, b in zip(low, high, strict=True)], p_folds=_p_folds(paired, k),
        improved=improved, worsened=worsened, gap_closed=gap_closed(value, floor, ceiling, board.higher),
        single_gap_closed=gap_closed(alone, floor, ceiling, board.higher), coverage=about["coverage"],
        single_coverage=row["coverage"], gain_common=sign * (value_common - alone_common), common_low=common_low,
        common_high=common_high, n_common=n_common, n_perturbations=board.n_ids,
        n_folds=[int(np.isfinite(paired.fold_scores[:, [j, k + j]]).all(axis=1).sum()) for j in range(k)], n_fusions=k,
        top=board.methods["embedding"].iloc[top], top_probe=board.methods["probe"].iloc[top], top_value=board.scores[top],
        alone=[_name_of(_alone(board, pairs.at, j, known), board, known) for j in pairs.at],
        alone_value=other, gain_alone=sign * (value - other),
        alone_low=alone_low, alone_high=alone_high,
    )  # fmt: skip


def _name_of(column: int | None, board: Board, known: Mapping[tuple[str, ...], tuple[str, ...]]) -> str:
    return "" if column is None else known[board.task[0], *board.keys[column]][0]


def _verdict(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "no interval"
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _interval(
    paired: Board, drawn: Values, gain: Values, tail: float, sign: float, beside: int = 1
) -> tuple[Values, Values]:
    """Interval of each gain by what can be resampled; ``beside`` is the part of the columns that it is a gain over."""
    from scipy.stats import norm, t

    if paired.by == PERTURBATIONS:
        return _percentiles(drawn, tail)
    k = len(gain)
    reach = np.full(k, np.nan)
    if paired.by == SAMPLES:
        reach = norm.isf(tail) * drawn.std(axis=0, ddof=1)
    elif paired.by == FOLDS:
        differences = sign * (paired.fold_scores[:, :k] - paired.fold_scores[:, beside * k : (beside + 1) * k])
        n_numbers = len({b.fold for b in paired.blocks})
        for j in range(k):
            own = differences[np.isfinite(differences[:, j]), j]
            if len(own) > 1 and n_numbers > 1:
                reach[j] = t.isf(tail, len(own) - 1) * np.sqrt((1 / len(own) + 1 / (n_numbers - 1)) * own.var(ddof=1))
    return gain - reach, gain + reach


def _percentiles(drawn: Values, tail: float) -> tuple[Values, Values]:
    """Percentile interval of each column; NaN where more than 5 % of the draws are undefined."""
    out = np.full((2, drawn.shape[1]), np.nan)
    good = np.isfinite(drawn).mean(axis=0) >= 1 - ALPHA
    if good.any():
        out[:, good] = np.nanquantile(drawn[:, good], [tail, 1 - tail], axis=0)
    return out[0], out[1]


def _p_folds(paired: Board, k: int) -> Values:
    folds = paired.fold_scores
    n = len({b.fold for b in paired.blocks})
    share = 1 / (n - 1) if n > 1 else np.nan
    out = np.full(k, np.nan)
    for j in range(k):
        own = folds[:, [j, k + j]]
        out[j] = corrected_t_pairs(own[np.isfinite(own).all(axis=1)], share)[0, 1]
    return out


def _shares(paired: Board, k: int, sign: float) -> tuple[Values, Values, NDArray[np.int64]]:
    """Shares of perturbations with a better and with a worse value, and how many perturbations both cover."""
    if paired.by != PERTURBATIONS:
        return np.full(k, np.nan), np.full(k, np.nan), np.zeros(k, dtype=np.int64)
    values = np.vstack([b.values for b in paired.blocks])
    first, second = values[:, :k], values[:, k : 2 * k]
    defined = np.isfinite(first) & np.isfinite(second)
    with np.errstate(invalid="ignore"):
        difference = np.where(defined, sign * (first - second), 0.0)
        larger = EQUAL * np.fmax(np.abs(first), np.abs(second))
        up, down = (difference > larger) & defined, (difference < -larger) & defined
    n = np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)
    both = np.isfinite(values[:, 2 * k : 3 * k]) & np.isfinite(values[:, 3 * k : 4 * k])
    return up.sum(axis=0) / n, down.sum(axis=0) / n, both.sum(axis=0)


def displays(evidence: Evidence, *, draws: int = DRAWS, seed: int = 0) -> list[Display]:
    """Draw the conclusions: gains over the best single embedding, what fits weigh, and what missing modalities do.

    Raises
    ------
    InputError
        No fusion was run, or there is no single embedding beside it.
    """
    gains = fusion_gains(evidence, draws=draws, seed=seed)
    found = [Display("fusion-gains", "What fusions gain over the best single embedding", gains, words.ABOUT_GAINS,
                     tuple(words.gain_sentences(gains)), plots.gain_plot)]  # fmt: skip
    fits, weights = fusion_fits(evidence), fusion_weights(evidence)
    for what in dict.fromkeys(weights["what"]):
        own = weights[weights["what"] == what].reset_index(drop=True)
        title = words.TITLES.get(what, f"What fits tell of their modalities: {what}")
        found.append(Display(words.stem(f"fusion-{what}"), title, own, words.ABOUT.get(what, words.ABOUT["weight"]),
                             tuple(words.weight_sentences(own)),
                             partial(plots.weight_plot, fits=fits[fits["what"] == what])))  # fmt: skip
    missing = missing_modalities(evidence)
    if len(missing):
        found.append(Display("fusion-missing", "Perturbations that some modalities lack", missing, words.ABOUT_MISSING,
                             tuple(words.missing_sentences(missing)), plots.missing_plot))  # fmt: skip
    return found

"""What the pages show: a board for each task, standings over tasks, and the scores by every metric and fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import FALLBACKS
from panmodal.insight.boards import FOLDS, Board, read_boards
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import DRAWS, LEVEL, METHOD, ORACLE, TASK, gap_closed
from panmodal.insight.leaderboard import first_metric, leaderboard
from panmodal.insight.resample import sample
from panmodal.site.merge import Merged
from panmodal.site.pool import Pool

Progress = Callable[[int, int], None]
Values = NDArray[np.float64]
KINDS = ("measured", "published", "simulated")
"""Kinds of task, which are never averaged together: run here, published scores that were not rerun, simulated data."""
PRIMARY = "primary"
"""The metric by which each task is ranked."""
MethodKey = tuple[str, str, str]
"""Embedding, probe, kind."""


@dataclass
class TaskPage:
    """A task: its board, that over the ids in common, and the means of every metric.

    ``means``: ``embedding, probe, role``, then ``METRIC|FALLBACK``; ``anchors``: metric -> floor and ceiling (filled).
    """

    task: Task
    kind: str
    metric: str
    board: pd.DataFrame
    common: pd.DataFrame | None
    means: pd.DataFrame
    anchors: dict[str, tuple[float, float]]
    sources: tuple[int, ...]
    trials: pd.DataFrame = field(repr=False)


@dataclass
class Tables:
    """All of a site's numbers. ``intervals``: method and screen ("" for all) -> 95 % interval of its mean gap closed."""

    merged: Merged
    pages: list[TaskPage]
    intervals: dict[tuple[MethodKey, str], tuple[float, float]]


def make_tables(
    merged: Merged, *, metric: str | None = None, draws: int = DRAWS, progress: Progress | None = None
) -> Tables:
    """Compute all tables, one task in memory at a time.

    Parameters
    ----------
    merged
        The sources.
    metric
        Rank by it where a task has it, else by the primary metric of the kind of response.
    draws
        Bootstrap draws of the intervals.
    progress
        Called with (tasks done, tasks).

    Raises
    ------
    InputError
        Sources contradict each other, or no task has an embedding.
    """
    pool = Pool(merged)
    tasks = list(merged.places)
    pages: list[TaskPage] = []
    marks: dict[int, pd.DataFrame | None] = {}
    gaps = _Gaps(draws)
    for screen in dict.fromkeys(t[0] for t in tasks):
        boards: list[tuple[str, Board]] = []
        for task in (t for t in tasks if t[0] == screen):
            page, board = _page(pool, task, metric, marks)
            pages.append(page)
            if board is not None and board.by != FOLDS:
                boards.append((page.kind, board))
            if progress:
                progress(len(pages), len(tasks))
        gaps.add(screen, boards)
    ranked = any((p.board["role"] == "embedding").any() for p in pages)
    if not ranked:
        raise InputError("the sources hold no scores of embeddings, only baselines and controls.")
    return Tables(merged, pages, gaps.intervals(pages))


def _page(
    pool: Pool, task: Task, metric: str | None, marks: dict[int, pd.DataFrame | None]
) -> tuple[TaskPage, Board | None]:
    merged = pool.merged
    scores = pool.scores(task)
    there = set(scores["metric"])
    name = metric if metric is not None and metric in there else first_metric(task[2], there)
    simulated, published = bool(scores["simulated"].any()), merged.published(task)
    ceilings, resampled = pool.ceilings(task), pool.resampled(task)
    own = scores[scores["metric"] == name].drop(columns="source")
    options: dict[str, Any] = {"metric": name, "rows": pool, "ceilings": ceilings, "resampled": resampled}
    board = leaderboard(own, marks=pool.marks(task, marks), **options)
    common = None
    if own.loc[(own["fallback"] == "common") & (own["role"] == "embedding"), "value"].notna().any():
        common = leaderboard(own, fallback="common", **options)
    means = (
        scores.groupby([*METHOD, "role", "metric", "fallback"], sort=False)["value"]
        .mean()
        .unstack(["metric", "fallback"])
    )
    means.columns = [f"{m}|{f}" for m, f in means.columns]
    means = means[sorted(means.columns, key=_order)].reset_index()
    page = TaskPage(
        task,
        "simulated" if simulated else "published" if published else "measured",
        name,
        board,
        common,
        means,
        {m: _anchor(means, ceilings, m) for m in there},
        tuple(p.source for p in merged.places[task]),
        scores.drop_duplicates([*METHOD, "fold", "seed", "trial"])[
            [*METHOD, "role", "fold", "seed", "trial", "source"]
        ],
    )
    ids = own["trial"].unique().tolist()
    rows = pool.of(task, ids, [name]) if METRICS[name].axis != "gene" else None
    try:
        boards = read_boards(Evidence(own, rows, ceilings, resampled), metric=name)
    except InputError:  # no embedding has a score
        return page, None
    return page, boards[0]


def _order(column: str) -> tuple[int, int]:
    metric, fallback = column.split("|")
    return list(METRICS).index(metric), FALLBACKS.index(fallback)


def _anchor(means: pd.DataFrame, ceilings: pd.DataFrame | None, metric: str) -> tuple[float, float]:
    """Floor and ceiling of a metric on all test ids: the best baseline; the first noise ceiling, else the best oracle."""
    higher, column = METRICS[metric].higher_is_better, f"{metric}|filled"

    def best(role: str) -> float:
        found = means.loc[means["role"] == role, column].dropna() if column in means else pd.Series(dtype=float)
        return float("nan") if found.empty else float(found.max() if higher else found.min())

    if ceilings is not None and metric in ceilings:
        own = ceilings[((ceilings["pert_id"] == "") == (METRICS[metric].axis == "gene")) & ceilings[metric].notna()]
        if len(own):
            first = own[own["estimator"] == own["estimator"].iloc[0]]
            return best("baseline"), float(first.groupby(["fold", "seed"])[metric].mean().mean())
    return best("baseline"), best("oracle")


class _Gaps:
    """Bootstrap draws of gaps closed, added up over tasks."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self.sums: dict[tuple[MethodKey, str], Values] = {}
        self.counts: dict[tuple[MethodKey, str], int] = {}

    def add(self, screen: str, boards: Sequence[tuple[str, Board]]) -> None:
        """Draw the tasks of a screen together: contexts share their perturbations."""
        samples = sample([b for _, b in boards], draws=self.draws) if boards else []
        for (kind, board), drawn in zip(boards, samples, strict=True):
            gaps = gap_closed(drawn[:, :-2], drawn[:, [-2]], drawn[:, [-1]], board.higher)
            known = np.isfinite(gap_closed(board.scores[:-2], board.scores[-2], board.scores[-1], board.higher))
            keys = board.keys
            for k in np.flatnonzero(known).tolist():
                embedding, probe = keys[k]
                for where in ("", screen):
                    key = ((embedding, probe, kind), where)
                    self.sums[key] = self.sums[key] + gaps[:, k] if key in self.sums else gaps[:, k].copy()
                    self.counts[key] = self.counts.get(key, 0) + 1

    def intervals(self, pages: Iterable[TaskPage]) -> dict[tuple[MethodKey, str], tuple[float, float]]:
        """Return percentile intervals; none where a task counts whose draws are not known or 5 % of the draws are undefined."""
        needed: dict[tuple[MethodKey, str], int] = {}
        for page in pages:
            own = page.board[(page.board["role"] == "embedding") & page.board["gap_closed"].notna()]
            for embedding, probe in own[METHOD].itertuples(index=False, name=None):
                for where in ("", page.task[0]):
                    key = ((embedding, probe, page.kind), where)
                    needed[key] = needed.get(key, 0) + 1
        found = {}
        for key, total in self.sums.items():
            mean = total / self.counts[key]
            defined = mean[np.isfinite(mean)]
            if self.counts[key] == needed.get(key) and len(defined) >= LEVEL * self.draws:
                low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
                found[key] = (float(low), float(high))
        return found


# --- standings -------------------------------------------------------------------------------------------------------


def cells(tables: Tables, metric: str = PRIMARY, fallback: str = "filled") -> pd.DataFrame:
    """Return the scores of ranked methods (those with a score in every fold) on every task by a metric and fallback.

    Returns
    -------
    pandas.DataFrame
        ``task`` (number of the page), ``embedding, probe, kind, modality, seen, mean, rank, gap, low, high, coverage, above``. Gaps
        have intervals for the primary metric; for others they are known on all test ids only. ``rank`` is missing for fallback
        ``covered``, whose scores are of other ids for each embedding.
    """
    parts = []
    for number, page in enumerate(tables.pages):
        name = page.metric if metric == PRIMARY else metric
        board = page.common if fallback == "common" and name == page.metric else page.board
        column = f"{name}|{fallback}"
        if board is None or column not in page.means:
            continue
        own = board.loc[
            board["role"] == "embedding",
            [*METHOD, "modality", "seen", "coverage", "gap_closed", "gap_low", "gap_high", "n_folds"],
        ]
        own = own.rename(columns={"gap_closed": "gap", "gap_low": "low", "gap_high": "high"})
        own = own.merge(page.means[[*METHOD, column]].rename(columns={column: "mean"}), on=METHOD, how="left")
        higher = METRICS[name].higher_is_better
        floor, ceiling = page.anchors.get(name, (np.nan, np.nan))
        if name != page.metric or fallback == "covered":
            own = own.assign(gap=np.nan, low=np.nan, high=np.nan)
            if fallback == "filled":
                own["gap"] = gap_closed(own["mean"], floor, ceiling, higher)
        own["above"] = (own["mean"] > floor if higher else own["mean"] < floor) if fallback == "filled" else False
        # As on the leaderboard: a mean over a part of the folds takes no part.
        own = own[own["mean"].notna() & (own["n_folds"] == board["n_folds"].max())].copy()
        own["rank"] = np.nan if fallback == "covered" else own["mean"].rank(method="min", ascending=not higher)
        parts.append(own.assign(task=number, kind=page.kind))
    columns = ["task", *METHOD, "kind", "modality", "seen", "mean", "rank", "gap", "low", "high", "coverage", "above"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def standings(tables: Tables, found: pd.DataFrame | None = None) -> pd.DataFrame:
    """Sum up every method over its tasks; only methods run on the same tasks are placed against each other.

    Returns
    -------
    pandas.DataFrame
        ``group`` (number; methods of one kind run on the same tasks, most tasks first, measured before published before simulated),
        ``place`` within the group, ``embedding, probe, kind, modality, tasks`` (numbers of the pages), ``mean_rank`` (0 best, 1 worst
        among all methods ranked on a task), ``wins``, ``mean_gap`` with ``low`` and ``high``, ``above`` (tasks above the floor),
        ``seen`` (tasks of data sets it was trained on), ``coverage``.
    """
    found = cells(tables) if found is None else found
    sizes = found.groupby("task")["rank"].transform("count")
    share = (found["rank"] - 1) / (sizes - 1).where(sizes > 1, 1)
    grouped = found.assign(share=share, first=found["rank"] == 1, trained=found["seen"] == "yes").groupby(
        [*METHOD, "kind"], sort=False
    )
    table = grouped.agg(
        modality=("modality", "first"),
        tasks=("task", lambda t: tuple(sorted(t))),
        mean_rank=("share", "mean"),
        wins=("first", "sum"),
        mean_gap=("gap", "mean"),
        above=("above", "sum"),
        seen=("trained", "sum"),
        coverage=("coverage", lambda c: c.mean(skipna=False)),
    ).reset_index()
    bounds = [tables.intervals.get(((r.embedding, r.probe, r.kind), ""), (np.nan, np.nan)) for r in table.itertuples()]
    table["low"], table["high"] = [b[0] for b in bounds], [b[1] for b in bounds]
    keys = [(KINDS.index(k), -len(t), t) for k, t in zip(table["kind"], table["tasks"], strict=True)]
    order = {key: n for n, key in enumerate(sorted(set(keys)))}
    table.insert(0, "group", [order[k] for k in keys])
    by = ["group", "mean_rank", "mean_gap", "embedding", "probe"]
    table = table.sort_values(by, ascending=[True, True, False, True, True], kind="stable").reset_index(drop=True)
    table.insert(1, "place", table.groupby("group")["mean_rank"].rank(method="min").astype(int))
    return table


def long_board(tables: Tables) -> pd.DataFrame:
    """Return the boards of all tasks in one table."""
    parts = [p.board.assign(published=p.kind == "published") for p in tables.pages]
    found = pd.concat([p.astype(dict.fromkeys(("floor_by", "ceiling_by"), object)) for p in parts], ignore_index=True)
    return found[[*TASK, "published", *[c for c in found.columns if c not in (*TASK, "published")]]]


def is_oracle(ceiling_by: str) -> bool:
    """Whether a ceiling is the idealised oracle rather than a noise ceiling."""
    return str(ceiling_by).startswith(f"{ORACLE}, ")

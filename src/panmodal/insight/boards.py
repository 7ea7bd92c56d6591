"""Methods side by side on the same perturbations, task by task: what is compared and resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError, some
from panmodal.evaluation.class_metrics import defined_mean
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import FALLBACKS
from panmodal.insight.evidence import Evidence, Task
from panmodal.insight.gaps import METHOD, ORACLE, TASK
from panmodal.insight.leaderboard import first_metric

Values = NDArray[np.float64]

PERTURBATIONS, SAMPLES, FOLDS = "perturbations", "samples", "folds"
"""What is resampled: values of perturbations; bootstrap samples that were stored (metrics of genes); scores of folds."""


@dataclass(frozen=True)
class Block:
    """One fold of one seed: ids x (methods, floor, ceiling), NaN where undefined.

    A metric without values for each perturbation has one row, and its stored bootstrap samples in ``drawn`` (samples x columns).
    """

    fold: int
    seed: int
    ids: NDArray[np.object_]
    values: Values
    drawn: Values | None = None


@dataclass(frozen=True)
class Board:
    """Methods of one task, paired.

    Attributes
    ----------
    methods
        ``embedding, probe, role, modality, seen, simulated, coverage``; a row for each column of the blocks but the last two, which
        are the floor and the ceiling.
    by
        What can be resampled: ``perturbations``, ``samples`` or ``folds``.
    left_out
        Methods that have no score here.
    unit
        What a column is: a ``method``, or an ``embedding`` with the probe chosen for each fold.
    """

    task: Task
    metric: str
    fallback: str
    by: str
    methods: pd.DataFrame
    blocks: tuple[Block, ...]
    floor_by: str
    ceiling_by: str
    left_out: tuple[str, ...] = ()
    unit: str = "method"

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """Names by which methods are the same on different tasks."""
        names = METHOD if self.unit == "method" else METHOD[:1]
        return list(self.methods[names].itertuples(index=False, name=None))

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return METRICS[self.metric].higher_is_better

    @property
    def fold_scores(self) -> Values:
        """Means over perturbations where defined: folds x (methods, floor, ceiling)."""
        return np.stack([defined_mean(block.values) for block in self.blocks])

    @property
    def scores(self) -> Values:
        """Means over folds."""
        return defined_mean(self.fold_scores)

    @property
    def n_ids(self) -> int:
        """Perturbations averaged; 0 where only scores of folds are known."""
        return sum(len(block.ids) for block in self.blocks)

    def pick(self, columns: Sequence[int]) -> Board:
        """Return the board of some methods, floor and ceiling kept."""
        m = len(self.methods)
        at = [*columns, m, m + 1]
        blocks = tuple(
            replace(b, values=b.values[:, at], drawn=None if b.drawn is None else b.drawn[:, at]) for b in self.blocks
        )
        return replace(self, methods=self.methods.iloc[list(columns)].reset_index(drop=True), blocks=blocks)


class _Rows:
    """``perturbations.parquet``, found by trial."""

    def __init__(self, rows: pd.DataFrame | None) -> None:
        self.rows = rows if rows is not None and "trial" in rows else None
        if self.rows is None:
            return
        codes, trials = pd.factorize(self.rows["trial"])
        self.order = np.argsort(codes, kind="stable")
        self.place = {t: k for k, t in enumerate(trials)}
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(trials)))])
        self.codes, ids = pd.factorize(self.rows["pert_id"], sort=True)
        self.ids = np.asarray(ids, dtype=object)
        self.covered = self.rows["covered"].to_numpy(dtype=bool)

    def has(self, metric: str) -> bool:
        return self.rows is not None and metric in self.rows

    def at(self, trial: str) -> NDArray[np.intp]:
        """Positions of a trial's rows."""
        k = self.place.get(trial)
        return np.empty(0, np.intp) if k is None else self.order[self.starts[k] : self.starts[k + 1]]

    def block(self, trials: pd.DataFrame, column: NDArray[np.intp], m: int, metric: str, values: Values,
              common: bool) -> tuple[NDArray[np.object_], Values]:  # fmt: skip
        """Ids of a fold, and ids x methods."""
        parts = [self.at(t) for t in trials["trial"]]
        found = np.unique(np.concatenate([self.codes[p] for p in parts]))
        out = np.full((len(found), m), np.nan)
        everywhere = np.ones(len(found), dtype=bool)
        no_skill = METRICS[metric].no_skill
        for part, k, role in zip(parts, column, trials["role"], strict=True):
            where = np.searchsorted(found, self.codes[part])
            own = values[part]
            if k >= 0:
                out[where, k] = own if no_skill is None else np.where(np.isnan(own), no_skill, own)
            if role == "embedding":
                has = np.zeros(len(found), dtype=bool)
                has[where] = self.covered[part]
                everywhere &= has
        if common:
            found, out = found[everywhere], out[everywhere]
        return self.ids[found], out


def read_boards(
    evidence: Evidence, *, metric: str | None = None, fallback: str = "filled", probes: Sequence[str] | None = None,
    unit: str = "method", roles: Sequence[str] = ("embedding",), ceiling: str | None = None,
) -> list[Board]:  # fmt: skip
    """Set methods side by side on every task.

    Parameters
    ----------
    evidence
        Tables of results.
    metric
        The primary one of each kind of response unless given; tasks without it are left out.
    fallback
        ``filled`` or ``common`` (ids that all embeddings cover, whatever their probe).
    probes
        Keep these probes only (baselines stay).
    unit
        ``method`` (embedding and probe), or ``embedding``: in each fold the probe that is best in the mean of the *other* folds of the
        seed. The best probe of the same fold would flatter embeddings with probes that differ by luck.
    roles
        Which methods are ranked.
    ceiling
        Estimator of the ceiling; unless given, the first there is, else the idealised oracle.

    Returns
    -------
    list of Board
        One for each task, its methods best first.

    Raises
    ------
    InputError
        Unknown metric, fallback, probe or unit; no scores; ``unit="embedding"`` where a seed has one fold and an embedding several
        probes.
    """
    if metric is not None and metric not in METRICS:
        raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}.")
    if fallback not in FALLBACKS or fallback == "covered":
        raise InputError(f"methods cannot be compared by fallback {fallback!r}; use filled or common.")
    if unit not in ("method", "embedding"):
        raise InputError(f"no unit {unit!r}; use method or embedding.")
    unknown = sorted(set(probes or ()) - set(evidence.scores["probe"]))
    if unknown:
        raise InputError(
            f"no results for probe {some(unknown)}; there are {some(evidence.scores['probe'].unique(), 12)}."
        )
    rows = _Rows(evidence.rows)
    found = []
    for task in evidence.tasks:
        own = evidence.of(task)
        name = metric or first_metric(task[2], set(own["metric"]))
        own = own[(own["metric"] == name) & (own["fallback"] == fallback)]
        if own.empty:
            continue
        board = _read(evidence, rows, task, own, name, fallback, probes, tuple(roles), ceiling)
        if board is not None:
            found.append(_best_first(_by_embedding(board) if unit == "embedding" else board))
    if not found:
        raise InputError(
            f"no scores of metric {metric or 'any'} for {', '.join(roles)}; there are {some(evidence.scores['metric'].unique(), 20)}."
        )
    return found


def _read(evidence: Evidence, rows: _Rows, task: Task, scores: pd.DataFrame, metric: str, fallback: str,
          probes: Sequence[str] | None, roles: tuple[str, ...], ceiling: str | None) -> Board | None:  # fmt: skip
    kept = scores if not probes else scores[scores["probe"].isin(probes) | (scores["role"] == "baseline")]
    about = kept.groupby([*METHOD, "role"], sort=False).agg(
        modality=("modality", "first"), simulated=("simulated", "first"), seen=("seen", "first"), n=("n_test", "sum"),
        covered=("n_covered", "sum"), defined=("value", "count"),
    ).reset_index()  # fmt: skip
    about["modality"] = about["modality"].fillna("unknown").astype(str)
    about["coverage"] = about["covered"] / about["n"].where(about["n"] > 0)
    place = {key: k for k, key in enumerate(about[[*METHOD, "role"]].itertuples(index=False, name=None))}
    column = np.array(
        [place.get(key, -1) for key in scores[[*METHOD, "role"]].itertuples(index=False, name=None)], np.intp
    )
    ranked = about["role"].isin(roles).to_numpy()
    with_trial = scores if "trial" in scores else scores.assign(trial="")
    by, drawn = _how(evidence, rows, task, with_trial, metric, fallback, ranked[column] & (column >= 0))
    values = evidence.rows[metric].to_numpy(np.float64) if by == PERTURBATIONS and evidence.rows is not None else None
    blocks = []
    for (fold, seed), at in with_trial.reset_index(drop=True).groupby(["fold", "seed"], sort=True).indices.items():
        part, where = with_trial.iloc[at], column[at]
        ids, stored = np.empty(0, dtype=object), None
        if values is not None:
            ids, table = rows.block(part, where, len(about), metric, values, fallback == "common")
        else:
            table = np.full((1, len(about)), np.nan)
            table[0, where[where >= 0]] = part["value"].to_numpy(np.float64)[where >= 0]
            if by == SAMPLES:
                pairs = [
                    (k, drawn[t, fold, seed])
                    for t, k in zip(part["trial"], where, strict=True)
                    if k >= 0 and (t, fold, seed) in drawn
                ]
                stored = np.full((len(pairs[0][1]), len(about)), np.nan)
                for k, sample in pairs:
                    stored[:, k] = sample
        blocks.append(Block(int(fold), int(seed), ids, table, stored))
    return _anchored(evidence, task, metric, fallback, by, about, ranked, blocks, ceiling)


def _how(evidence: Evidence, rows: _Rows, task: Task, scores: pd.DataFrame, metric: str, fallback: str,
         ranked: NDArray[np.bool_]) -> tuple[str, dict[tuple[str, int, int], Values]]:  # fmt: skip
    """Tell what can be resampled for all ranked methods alike, and return the stored samples."""
    needed = scores[ranked & scores["value"].notna().to_numpy()]
    if METRICS[metric].axis != "gene":
        whole = rows.has(metric) and all(len(rows.at(t)) for t in scores["trial"].unique())
        return (PERTURBATIONS if whole else FOLDS), {}
    if evidence.resampled is None or fallback != "filled":
        return FOLDS, {}
    own = evidence.of(task, evidence.resampled)
    own = own[(own["metric"] == metric) & (own["trial"] != "")]
    drawn = {(t, int(f), int(s)): np.asarray(d, np.float64)
             for t, f, s, d in own[["trial", "fold", "seed", "draws"]].itertuples(index=False, name=None)}  # fmt: skip
    whole = all(key in drawn for key in needed[["trial", "fold", "seed"]].itertuples(index=False, name=None))
    return (SAMPLES, drawn) if whole and len(needed) else (FOLDS, {})


def _anchored(evidence: Evidence, task: Task, metric: str, fallback: str, by: str, about: pd.DataFrame, ranked: NDArray[np.bool_],
              blocks: list[Block], ceiling: str | None) -> Board | None:  # fmt: skip
    """Keep the ranked methods that have a score, and put floor and ceiling beside them."""
    scores = defined_mean(np.stack([defined_mean(b.values) for b in blocks]))
    higher = METRICS[metric].higher_is_better

    def best(role: str) -> int | None:
        there = np.flatnonzero((about["role"] == role).to_numpy() & np.isfinite(scores))
        return None if not len(there) else int(there[np.argmax(scores[there]) if higher else np.argmin(scores[there])])

    keep = np.flatnonzero(ranked & np.isfinite(scores))
    if not len(keep):
        return None
    gone = about[ranked & ~np.isfinite(scores)]
    floor, oracle = best("baseline"), best("oracle")
    bounds, estimator = _bounds(evidence, task, metric, ceiling)
    made = []
    for block in blocks:
        nothing = np.full((len(block.values), 1), np.nan)
        low = nothing if floor is None else block.values[:, [floor]]
        high = nothing if oracle is None else block.values[:, [oracle]]
        stored = block.drawn
        if stored is not None:
            empty = np.full((len(stored), 1), np.nan)
            drawn_low = empty if floor is None else stored[:, [floor]]
            drawn_high = empty if oracle is None else stored[:, [oracle]]
        if estimator:
            high = _bound(bounds, block, metric)
            if stored is not None:
                drawn_high = _bound_samples(evidence, task, metric, estimator, block, len(stored))
        values = np.hstack([block.values[:, keep], low, high])
        made.append(replace(block, values=values,
                            drawn=None if stored is None else np.hstack([stored[:, keep], drawn_low, drawn_high])))  # fmt: skip
    floor_by = "" if floor is None else str(about["probe"][floor])
    oracle_by = "" if oracle is None else f"{about['embedding'][oracle]}, {about['probe'][oracle]}"
    columns = [*METHOD, "role", "modality", "seen", "simulated", "coverage"]
    return Board(
        task, metric, fallback, by, about.loc[keep, columns].reset_index(drop=True), tuple(made), floor_by, estimator or oracle_by,
        tuple(f"{e} with {p}" for e, p in gone[METHOD].itertuples(index=False, name=None)),
    )  # fmt: skip


def _bounds(evidence: Evidence, task: Task, metric: str, ceiling: str | None) -> tuple[pd.DataFrame, str]:
    """Rows of the chosen estimator of the ceiling, and its name; empty for the oracle."""
    own = pd.DataFrame()
    if evidence.ceilings is not None and metric in evidence.ceilings:
        own = evidence.of(task, evidence.ceilings)
        own = own[(own["pert_id"] == "") == (METRICS[metric].axis == "gene")]
    there = list(dict.fromkeys(own.loc[own[metric].notna(), "estimator"])) if len(own) else []
    if ceiling not in (None, ORACLE, *there):
        raise InputError(f"no ceiling {ceiling!r} for {task[0]}, {task[1]}; there are {some([*there, ORACLE])}.")
    chosen = "" if ceiling == ORACLE else ceiling or (there[0] if there else "")
    return (own[own["estimator"] == chosen], chosen) if chosen else (own, "")


def _bound(bounds: pd.DataFrame, block: Block, metric: str) -> Values:
    own = bounds[(bounds["fold"] == block.fold) & (bounds["seed"] == block.seed)]
    if not len(block.ids):
        return np.full((1, 1), own[metric].mean() if len(own) else np.nan)
    return own.drop_duplicates("pert_id").set_index("pert_id")[metric].reindex(block.ids).to_numpy(np.float64)[:, None]


def _bound_samples(evidence: Evidence, task: Task, metric: str, estimator: str, block: Block, width: int) -> Values:
    table = evidence.resampled
    assert table is not None
    own = evidence.of(task, table[(table["trial"] == "") & (table["estimator"] == estimator) & (table["metric"] == metric)
                                  & (table["fold"] == block.fold) & (table["seed"] == block.seed)])  # fmt: skip
    return np.asarray(own["draws"].iloc[0], np.float64)[:, None] if len(own) else np.full((width, 1), np.nan)


def _best_first(board: Board) -> Board:
    scores = board.scores[: len(board.methods)]
    return board.pick(np.argsort(-scores if board.higher else scores, kind="stable").tolist())


def _by_embedding(board: Board) -> Board:
    """Make one column for each embedding: in each fold, its probe that is best in the mean of the other folds of the seed."""
    sign = 1.0 if board.higher else -1.0
    folds = board.fold_scores
    keys = board.methods[["embedding", "role"]].apply(tuple, axis=1)
    m = len(board.methods)
    choice, about = [], []
    for key in dict.fromkeys(keys):
        own = np.flatnonzero((keys == key).to_numpy())
        chosen = np.full(len(board.blocks), own[0])
        for k, block in enumerate(board.blocks) if len(own) > 1 else ():
            others = [j for j, b in enumerate(board.blocks) if b.seed == block.seed and j != k]
            if not others:
                raise InputError(f"{board.task[0]}, {board.task[1]}: seed {block.seed} has one fold, so that the probe of "
                                 f"{key[0]!r} cannot be chosen on others; use unit='method' or name one probe.")  # fmt: skip
            means = sign * defined_mean(folds[others][:, own])
            chosen[k] = own[np.argmax(np.where(np.isfinite(means), means, -np.inf))]
        probes = pd.Series(board.methods["probe"].to_numpy()[chosen]).value_counts()
        label = (
            str(probes.index[0]) if len(probes) == 1 else ", ".join(f"{p} in {n}" for p, n in sorted(probes.items()))
        )
        choice.append(chosen)
        about.append(board.methods.iloc[[own[0]]].assign(probe=label))
    at = np.stack(choice, axis=1)
    blocks = []
    for k, block in enumerate(board.blocks):
        columns = [*at[k], m, m + 1]
        blocks.append(replace(block, values=block.values[:, columns],
                              drawn=None if block.drawn is None else block.drawn[:, columns]))  # fmt: skip
    return replace(board, methods=pd.concat(about, ignore_index=True), blocks=tuple(blocks), unit="embedding")


def task_name(task: Task, others: Sequence[Task]) -> str:
    """Name a task by what tells it from the others: screen and context, then response and split where they differ."""
    parts = [task[k] for k in range(4) if k < 2 or len({t[k] for t in others}) > 1]
    return ", ".join(parts)


def task_columns(task: Task) -> dict[str, str]:
    """Columns that name a task."""
    return dict(zip(TASK, task, strict=True))

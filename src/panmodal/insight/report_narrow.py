"""What a page shows of results that are too many for one: the leading methods on some of the tasks, with the whole board beside."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.embeddings.controls import PERMUTED_SUFFIX
from panmodal.insight.evidence import Evidence
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import overall
from panmodal.insight.rows import TableRows

MOST_METHODS, MOST_TASKS = 60, 12
"""Methods and tasks up to which a page shows everything."""


def narrow(evidence: Evidence, board: pd.DataFrame) -> tuple[Evidence, pd.DataFrame, str]:
    """Return the evidence and the board that a page has room for, and a sentence that says what was chosen; all, if it fits.

    Tasks are taken at even steps through the table, embeddings by their mean rank over all tasks. Ranks on the board stay those among
    all methods.
    """
    tasks = evidence.tasks
    methods = overall(board).drop_duplicates(METHOD)
    if len(tasks) <= MOST_TASKS and len(methods) <= MOST_METHODS:
        return evidence, board, ""
    steps = np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), MOST_TASKS)).round().astype(int))
    chosen = [tasks[k] for k in steps]
    leading = methods.sort_values("mean_rank", kind="stable").head(MOST_METHODS)
    pairs = set(map(tuple, leading[METHOD].itertuples(index=False)))
    names = {name for name, _ in pairs}

    def kept(table: pd.DataFrame) -> pd.Series:
        of_task = pd.MultiIndex.from_frame(table[TASK].astype(str)).isin(chosen)
        ranked = table["role"] == "embedding"
        copy = table["embedding"].astype(str)
        other_copy = copy.str.endswith(PERMUTED_SUFFIX) & ~copy.str.removesuffix(PERMUTED_SUFFIX).isin(names)
        best = pd.MultiIndex.from_frame(table[METHOD]).isin(pairs)
        return of_task & np.where(ranked, best, ~other_copy)

    scores = evidence.scores[kept(evidence.scores)].reset_index(drop=True)
    rows = None
    if evidence.source is not None:
        trials = scores[[*TASK, "trial"]].drop_duplicates().astype(dict.fromkeys(TASK, str))
        parts = [
            evidence.source.of(task, own["trial"].tolist(), evidence.source.metrics).astype(
                {"trial": object, "pert_id": object}
            )
            for task, own in trials.groupby(TASK, sort=False)
        ]
        rows = TableRows(pd.concat(parts, ignore_index=True).drop_duplicates(["trial", "pert_id"], ignore_index=True))
    few = Evidence(
        scores, rows.table if rows is not None else None, evidence.ceilings, evidence.resampled, evidence.quality, evidence.runs,
        evidence.read_truth, evidence.read_predictions, evidence.read_vectors,
    )  # fmt: skip
    said = (
        f"These results hold {len(tasks)} tasks and {len(methods)} methods, too many for one page: what follows the table over tasks "
        f"is drawn from the {len(leading)} methods of the best mean rank on {len(chosen)} tasks, taken at even steps; ranks on the "
        "leaderboard are those among all methods."
    )
    return few, board[kept(board)].reset_index(drop=True), said

"""What learning curves say: whether more perturbations would help, and how many dimensions an embedding needs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from panmodal.errors import InputError, some
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.insight.display import Display
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.similarity_plots import curve_plot

NEEDED = ["sweep", *TASK, "fold", *METHOD, "role", "fraction", "dims", "n_train", "fallback", "metric", "value"]
POINT = ["fraction", "dims"]
SUMMARY = [
    "sweep",
    *TASK,
    "metric",
    "fallback",
    *METHOD,
    "role",
    *POINT,
    "n_train",
    "mean",
    "sd",
    "n_folds",
    "gain",
    "share",
]
ABOUT = (
    "Mean and standard deviation over folds; the test ids are the same at every point. 'fraction': share of the training ids "
    "(nested subsets; n_train is what the embedding covers of them, mean over folds). 'dims': the first principal components "
    "that the probe may use, with all training ids. 'gain' is the distance to the best baseline of the whole training set, "
    "positive where better; 'share' the part of it that the whole run has."
)


def curve_summary(table: pd.DataFrame, *, metric: str | None = None, fallback: str = "filled") -> pd.DataFrame:
    """Average learning curves over folds.

    Parameters
    ----------
    table
        See :func:`panmodal.evaluation.curves.learning_curves`.
    metric
        The first there is of each kind of response unless given.
    fallback
        ``filled`` or ``common``.

    Returns
    -------
    pandas.DataFrame
        :data:`SUMMARY`: one row for each point, task and method. ``share`` is empty where the whole run does not beat the floor, or is
        not among the points of its sweep.

    Raises
    ------
    InputError
        Columns are missing, or there are no values of that metric and fallback.
    """
    missing = [c for c in NEEDED if c not in table]
    if missing:
        raise InputError(f"learning curves: no column(s) {some(missing, 12)}; is it a table that panmodal curve wrote?")
    tables = []
    for task, own in table[table["fallback"] == fallback].groupby(TASK, sort=False):
        there = set(own["metric"])
        name = metric or next((m.name for m in metrics_for(str(task[2])) if m.name in there), None)
        if name in there and name is not None:
            tables.append(_one_task(own[own["metric"] == name], name))
    if not tables:
        raise InputError(f"learning curves: no values of metric {metric or ''} with fallback {fallback!r}; there are metrics "
                         f"{some(table['metric'].unique(), 20)} and fallbacks {some(table['fallback'].unique())}.")  # fmt: skip
    return pd.concat(tables, ignore_index=True).assign(fallback=fallback)[SUMMARY]


def _one_task(own: pd.DataFrame, metric: str) -> pd.DataFrame:
    groups = own.groupby(["sweep", *TASK, "metric", *METHOD, "role", *POINT], sort=False, dropna=False)
    board = groups.agg(
        n_train=("n_train", "mean"), mean=("value", "mean"), sd=("value", "std"), n_folds=("value", "count")
    )
    board = board.reset_index()
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    floors = board[(board["role"] == "baseline") & (board["fraction"] == 1)]
    floor = sign * (sign * floors["mean"]).max() if len(floors) else np.nan
    board["gain"] = sign * (board["mean"] - floor)
    # The last point of the whole training set with the most dimensions is the run itself.
    size = board["dims"].astype("Float64").fillna(np.inf).astype(float)
    whole = board.assign(_size=size)[board["fraction"] == 1].sort_values("_size", kind="stable")
    full = whole.drop_duplicates(["sweep", *METHOD], keep="last").set_index(["sweep", *METHOD])["gain"]
    of_run = full.reindex(pd.MultiIndex.from_frame(board[["sweep", *METHOD]])).to_numpy(dtype=float)
    board["share"] = board["gain"] / np.where(of_run > 0, of_run, np.nan)
    board.loc[board["role"] == "baseline", "share"] = np.nan
    return board


def curve_sentences(summary: pd.DataFrame) -> list[str]:
    """Say for each task what the best method has at smaller fractions and with fewer dimensions, and which points were not fitted."""
    said = []
    for task, own in summary.groupby(TASK, sort=False):
        label = f"{task[0]}, {task[1]} ({task[2]})"
        metric = own["metric"].iloc[0]
        for sweep in ("fraction", "dims"):
            line = _best_line(own, sweep)
            if line is None or len(line) < 2:
                continue
            last, name = line.iloc[-1], f"{line.iloc[0]['embedding']}, {line.iloc[0]['probe']}"
            if not last["gain"] > 0:
                said.append(f"{label}: no embedding beats the floor in {metric} with all training perturbations.")
                break
            if sweep == "fraction":
                parts = [
                    f"{100 * p.fraction:g} % of the training perturbations give {_part(p.share)}"
                    for p in line[:-1].itertuples()
                ]
                said.append(f"{label}: of the gain of {name} over the floor ({metric}), {', '.join(parts)}.")
            else:
                enough = line[line["share"] >= 0.9].iloc[0]
                said.append(
                    f"{label}: {name} has at least 90 % of its gain over the floor ({metric}) with {int(enough['dims'])} of "
                    f"{int(last['dims'])} dimensions."
                )
    unfitted = summary[(summary["role"] == "embedding") & (summary["n_folds"] == 0)]
    if len(unfitted):
        points = unfitted[["embedding", "fraction"]].drop_duplicates()
        said.append("Not fitted, because fewer than 10 training perturbations with a vector are left: "
                    + ", ".join(f"{e} at {100 * f:g} %" for e, f in points.itertuples(index=False)) + ".")  # fmt: skip
    return said


def _part(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0 else "none"


def _best_line(own: pd.DataFrame, sweep: str) -> pd.DataFrame | None:
    """Return the points, in order, of the embedding and probe with the largest gain at the last of a sweep."""
    lines = own[(own["sweep"] == sweep) & (own["role"] == "embedding") & own["gain"].notna()].sort_values(
        POINT, kind="stable"
    )
    if lines.empty:
        return None
    ends = lines.drop_duplicates(METHOD, keep="last")
    ends = ends[ends[sweep] == lines[sweep].max()]
    best = ends.loc[ends["gain"].idxmax()]
    return lines[(lines[METHOD] == best[METHOD]).all(axis=1)]


def curve_display(table: pd.DataFrame, *, metric: str | None = None, fallback: str = "filled") -> Display:
    """Draw the conclusions of learning curves; see :func:`curve_summary` for the parameters."""
    summary = curve_summary(table, metric=metric, fallback=fallback)
    filled = "class prior" if all(has_classes(r) for r in summary["response"]) else "train mean"
    rule = (
        f"All test ids, {filled} where not covered." if fallback == "filled" else "Test ids that all embeddings cover."
    )
    return Display("learning-curves", "Would more perturbations, or more dimensions, help?", summary, f"{ABOUT} {rule}",
                   tuple(curve_sentences(summary)), curve_plot)  # fmt: skip

"""Can the metrics be trusted on this screen? Verdicts on each metric of each task, for every table that shows it."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pandas as pd

from panmodal.errors import some
from panmodal.insight import agreement
from panmodal.insight import calibration_plots as plots
from panmodal.insight.calibration_tables import (
    ORACLE,
    REPLICATE,
    RESAMPLED,
    SEEN_ANSWERS,
    calibration,
    shortcut_table,
)
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence
from panmodal.insight.gaps import TASK
from panmodal.insight.leaderboard import primary_metric

PASS, WEAK, FAIL, UNKNOWN = "pass", "weak", "fail", "unknown"
RANGE, BETTER = 0.1, 0.6
"""A metric is weak with a smaller dynamic range fraction, or probability that the positive beats the negative."""
OF_RANGE, OF_GAP = 0.5, 0.25
"""A metric is gamed where a shortcut reaches such a share of the way from chance, or from the floor, to the positive control."""
VERDICTS = [*TASK, "metric", "verdict", "why", "positive", "positive_kind", "negative", "drf", "drf_low", "drf_high", "p_better",
            "gamed_by", "gamed_share"]  # fmt: skip
MARKS = [*TASK, "metric", "verdict", "why"]
NAMES = {"interpolated_duplicate": "the interpolated duplicate", "disjoint_halves": "one half of the cells",
         "replicate_batches": "one half of the batches", "experimental_error": "a resampling of the cells",
         ORACLE: "the idealised oracle"}  # fmt: skip
"""Positive controls in sentences."""
ORACLE_ONLY = (
    "The positive control is the idealised oracle, which has seen the answers, and no replicate: that a metric passes says that it "
    "rewards knowledge, not that the measurement is good enough (panmodal ceiling makes replicates)."
)
_known: dict[int, tuple[weakref.ref[Evidence], tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]] = {}


def marks(evidence: Evidence) -> pd.DataFrame:
    """Say of each metric of each task whether it can be trusted there.

    Returns
    -------
    pandas.DataFrame
        ``screen, context, response, split, metric, verdict, why``; see :func:`verdicts`.
    """
    return judge(evidence)[2][MARKS]


def judge(evidence: Evidence) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the tables of calibration, shortcuts and verdicts; computed once as long as the evidence lives."""
    held = _known.get(id(evidence))
    if held is not None and held[0]() is evidence:
        return held[1]
    table = calibration(evidence)
    cheats = shortcut_table(evidence, table[table["judged"].astype(bool)])
    found = table, cheats, verdicts(table, cheats)
    _known[id(evidence)] = weakref.ref(evidence, partial(_forget, id(evidence))), found
    return found


def _forget(key: int, _: object) -> None:
    _known.pop(key, None)


def gamed(cheats: pd.DataFrame) -> pd.DataFrame:
    """Return the shortcuts that game their metric, with the share they reach and what it is a share of.

    A shortcut games a metric if it reaches :data:`OF_GAP` of the way from the floor to the positive control; if, made without answers,
    it reaches :data:`OF_RANGE` of the way from chance to it, so that the bare value of the metric flatters; or if, made without
    answers, it beats the floor and every embedding.
    """
    honest = (cheats["kind"] != "answer").to_numpy()
    gap = (cheats["share_of_gap"] >= OF_GAP).to_numpy()
    span = (cheats["share_of_range"] >= OF_RANGE).to_numpy() & honest
    ahead = (cheats["beats_embeddings"].astype(bool) & (cheats["share_of_gap"] > 0)).to_numpy()
    ahead &= honest & (cheats["kind"] != "baseline").to_numpy()
    gaps, spans = cheats["share_of_gap"].to_numpy(float), cheats["share_of_range"].to_numpy(float)
    of = np.select([gap, span, ahead], ["gap", "range", "embeddings"], "")
    share = np.where(of == "range", spans, gaps)
    return cheats.assign(of=of, share=share)[of != ""]


def verdicts(table: pd.DataFrame, cheats: pd.DataFrame) -> pd.DataFrame:
    """Judge each metric of each task by its judged pair of controls and by the shortcuts.

    ``fail``: the positive control is not shown to beat the negative one (the interval of the dynamic range fraction holds 0 or that of
    the probability one half; without intervals the values themselves), or a shortcut without answers does as well as the
    positive. ``weak``: the dynamic range fraction is below :data:`RANGE`, the probability below :data:`BETTER`, or a shortcut
    games it (:func:`gamed`). ``unknown``: a control is missing. ``pass`` otherwise. The thresholds are ours.

    Parameters
    ----------
    table, cheats
        From :func:`panmodal.insight.calibration_tables.calibration` and ``shortcut_table``.

    Returns
    -------
    pandas.DataFrame
        One row for each task and metric: ``verdict``, ``why`` in words, the controls it was judged by, and the shortcut that games it
        most (``gamed_by``, ``gamed_share``).
    """
    key = [*TASK, "metric"]
    judged = table[table["judged"].astype(bool)].set_index(key)
    # Of shortcuts that earn the same, the simplest.
    order = {"baseline": 0, "guess": 1, "answer": 2}
    cheating = gamed(cheats).assign(_share=lambda t: -t["share"].round(2), _kind=lambda t: t["kind"].map(order))
    by_metric = dict(iter(cheating.sort_values(["_share", "_kind"], kind="stable").groupby(key, sort=False)))
    records = []
    for labels in pd.concat([table[key], cheats[key]]).drop_duplicates().itertuples(index=False, name=None):
        record = dict(zip(key, labels, strict=True))
        worst = by_metric.get(labels)
        if labels not in judged.index:
            records.append(
                record
                | {"verdict": UNKNOWN, "why": "there is no positive control, or no prediction without information"}
            )
            continue
        row = judged.loc[labels]
        names = ["positive", "positive_kind", "negative", "drf", "drf_low", "drf_high", "p_better"]
        verdict, why = _separates(row)
        if worst is not None:
            first = worst.iloc[0]
            record |= {"gamed_by": first["shortcut"], "gamed_share": first["share"]}
            beaten = ((worst["kind"] != "answer") & (worst["of"] == "gap") & (worst["share"] >= 1)).any()
            verdict = FAIL if beaten or verdict == FAIL else WEAK
            why += "; " + _gaming(first)
        records.append(record | {"verdict": verdict, "why": why} | row[names].to_dict())
    return pd.DataFrame(records, columns=VERDICTS)


def _separates(row: pd.Series) -> tuple[str, str]:
    """Judge a pair of controls."""
    positive, negative = control_name(row["positive"]), str(row["negative"])
    fraction = row["drf"] if np.isnan(row["drf_low"]) else row["drf_low"]
    chance = row["p_better"] if np.isnan(row["p_low"]) else row["p_low"]
    share = (
        f"for {percent(row['p_better'])} % of perturbations"
        if row["unit"] == "perturbations"
        else f"in {percent(row['p_better'])} % of folds"
    )
    numbers = f"{share}, dynamic range fraction {row['drf']:.2f}"
    if not (fraction > 0 and chance > 0.5):
        return FAIL, f"{positive} is not shown to beat {negative} (better {numbers})"
    if row["drf"] < RANGE or row["p_better"] < BETTER:
        return WEAK, f"{positive} hardly beats {negative} (better {numbers})"
    return PASS, f"{positive} beats {negative} ({numbers})"


def _gaming(row: pd.Series) -> str:
    """Say what a shortcut earns."""
    answer = ", which copies the target's true response," if row["kind"] == "answer" else ""
    if row["of"] == "embeddings":
        return f"shortcut '{row['shortcut']}' beats every embedding"
    way = "from the floor" if row["of"] == "gap" else "from chance"
    return f"shortcut '{row['shortcut']}'{answer} reaches {percent(row['share'])} % of the way {way} to the positive control"


def percent(share: float) -> int:
    """Round a share to per cent."""
    return round(100 * float(share))


def control_name(name: str) -> str:
    """Name a positive control in a sentence."""
    return NAMES.get(name, name.replace("_", " "))


def task_name(task: tuple[str, ...]) -> str:
    """Name a task in a sentence."""
    return f"{task[0]}, {task[1]} ({task[2]})"


def sentences(found: pd.DataFrame) -> list[str]:
    """Say what the verdicts of one task come to.

    Parameters
    ----------
    found
        Rows of :func:`verdicts` of one task.
    """
    task = tuple(found.iloc[0][TASK])
    names = {v: found.loc[found["verdict"] == v, "metric"].tolist() for v in (PASS, WEAK, FAIL, UNKNOWN)}
    known = len(found) - len(names[UNKNOWN])
    if not known:
        return [f"{task_name(task)}: no metric can be judged, because there is no positive control."]
    text = f"{task_name(task)}: {len(names[PASS])} of {known} metrics tell knowledge from none and resist the shortcuts tried"
    for verdict, word in ((WEAK, "weak"), (FAIL, "failing")):
        text += f"; {word}: {', '.join(names[verdict])}" if names[verdict] else ""
    out = [text + "."]
    kinds = found.loc[found["verdict"] != UNKNOWN, "positive_kind"].unique().tolist()
    if kinds == [SEEN_ANSWERS]:
        out.append(ORACLE_ONLY)
    elif RESAMPLED in kinds and REPLICATE not in kinds:
        out.append(
            "The positive control is made of the same cells as the truth, so that it beats noise too: a pass is an upper bound."
        )
    own = found[found["verdict"] == PASS]
    if len(own):
        best = own.loc[own["drf"].idxmax()]
        reached = f"{control_name(best['positive'])} comes {percent(best['drf'])} % of the way from {best['negative']}"
        out.append(f"{best['metric']} has the widest range of those that pass: {reached} to a perfect score.")
    for row in found[found["verdict"].isin([WEAK, FAIL])].itertuples():
        out.append(f"{row.metric} is {'weak' if row.verdict == WEAK else 'not to be trusted'} here: {row.why}.")
    first = found[found["metric"] == primary_metric(str(task[2]))]
    if len(first) and first.iloc[0]["verdict"] in (WEAK, FAIL):
        word = {WEAK: "is weak", FAIL: "fails"}[first.iloc[0]["verdict"]]
        better = f"; {some(names[PASS], 3)} would be safer" if names[PASS] else "; no other metric passes either"
        out.append(f"The ranking is by {first.iloc[0]['metric']}, which {word}{better}.")
    return out


def displays(evidence: Evidence) -> list[Display]:
    """Draw the conclusions on metrics: verdicts, controls of each task, shortcuts, agreement between metrics."""
    table, cheats, found = judge(evidence)
    every = found.groupby(TASK, sort=False)
    shown = [Display(
        "metric-verdicts", "Which metrics can be trusted on which task", found,
        "A metric passes where the positive control (a replicate; without raw cells the idealised oracle) clearly beats the best "
        f"prediction without information: dynamic range fraction (P - N) / (perfect - N) of at least {RANGE}, better for at least "
        f"{percent(BETTER)} % of perturbations, and no shortcut that reaches {percent(OF_GAP)} % of the way from the floor, or "
        f"{percent(OF_RANGE)} % of that from chance, to the positive. Numbers are dynamic range fractions.",
        tuple(s for _, own in every for s in sentences(own)[:1]), plots.verdict_plot,
    )]  # fmt: skip
    for number, (task, own) in enumerate(every, 1):
        pairs = table[(table[TASK] == list(task)).all(axis=1)]
        if pairs.empty:
            continue
        shown.append(Display(
            f"calibration-{number}", f"Positive and negative controls: {task_name(task)}",
            pairs.merge(own[[*TASK, "metric", "verdict"]], on=[*TASK, "metric"]),
            "Each positive control against the best baseline and the best embedding without information. drf: (P - N) / (perfect - "
            "N) of means over folds, after Miller et al. 2025 (doi:10.1101/2025.10.20.683304); drf_median: of each perturbation, "
            "clipped, as published. p_better: how often the positive is better for the same perturbation. judged: the pair that "
            "decides. 95 % intervals over perturbations. Controls made of half of the cells are brought to the truth of all.",
            tuple(sentences(own)[1:]), plots.calibration_plot,
        ))  # fmt: skip
    if len(cheats):
        shown.append(Display(
            "shortcuts", "What cheating earns", cheats,
            "share_of_gap: (shortcut - floor) / (positive control - floor); share_of_range: the same from chance. Kind answer: has "
            "seen the true response of one read-out, the target.",
            tuple(shortcut_sentences(cheats)), plots.shortcut_plot,
        ))  # fmt: skip
    return shown + agreement.displays(evidence, found)


def shortcut_sentences(cheats: pd.DataFrame) -> list[str]:
    """Say which metrics reward which shortcut, or that none does."""
    cheating = gamed(cheats)
    out = []
    for task, own in cheats.groupby(TASK, sort=False):
        mine = cheating[(cheating[TASK] == list(task)).all(axis=1)]
        tried = own["shortcut"].nunique()
        if mine.empty:
            out.append(f"{task_name(task)}: none of {tried} shortcuts games a metric.")
            continue
        parts = [f"'{name}' games {', '.join(part['metric'])}" for name, part in mine.groupby("shortcut", sort=False)]
        out.append(f"{task_name(task)}: of {tried} shortcuts, {'; '.join(parts)}.")
    return out

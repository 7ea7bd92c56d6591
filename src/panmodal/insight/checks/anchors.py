"""Checks against floor, ceiling and controls: what a score is worth."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from panmodal.errors import some
from panmodal.insight.checks.case import Case, Method, named
from panmodal.insight.checks.comparison import UNSURE
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.checks.relations import NO_ROWS
from panmodal.insight.evidence import Task
from panmodal.insight.gaps import METHOD, ORACLE
from panmodal.insight.leaderboard import ceiling_name

NO_FLOOR = "there is no baseline (no change, train mean, ...) among the results"
NO_CONTROL = "there is no control (random, permuted) among the results; give --permuted"


def _ceilings(case: Case, task: Task) -> pd.DataFrame | Unchecked:
    """One row of the gap table for each estimator of the ceiling of a task."""
    if case.evidence.rows is None:
        return Unchecked(case.at(task), NO_ROWS)
    table = case.gaps(task)
    table = table[table["ceiling"].notna()]
    if table.empty:
        return Unchecked(case.at(task), "there is no ceiling: neither an oracle nor noise ceilings (panmodal ceiling)")
    return table


def _no_noise(case: Case, task: Task, table: pd.DataFrame) -> Iterator[Unchecked]:
    if set(table["estimator"]) == {ORACLE}:
        yield Unchecked(
            case.at(task),
            "there are no noise ceilings (panmodal ceiling makes them from raw cells); only the oracle was looked at",
        )


def floor_above_ceiling(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the better baseline with every ceiling of the task, by the metric of the leaderboard.

    Both are means over folds of means over perturbations, as in the gap table. Where there are no noise ceilings only
    the idealised oracle is looked at, and the rest is listed as not checked.
    """
    for task in case.evidence.tasks:
        table = _ceilings(case, task)
        if isinstance(table, Unchecked):
            yield table
            continue
        sign = case.sign(case.metric(task))
        each = table.drop_duplicates("estimator")[
            ["context", "metric", "estimator", "floor", "floor_by", "ceiling", "ceiling_by"]
        ]
        if each["floor"].isna().all():
            yield Unchecked(case.at(task), NO_FLOOR)
            continue
        bad = each[sign * each["ceiling"] <= sign * each["floor"]]
        if len(bad):
            one = bad.iloc[0]
            names = ", ".join(f"{ceiling_name(str(r.ceiling_by))} {r.ceiling:.4g}" for r in bad.itertuples())
            text = f"By {one['metric']} the floor ({one['floor_by']}, {one['floor']:.4g}) is as good as {names}: "
            text += "the gap closed is undefined there."
            yield Finding(case.at(task), text, each.reset_index(drop=True))
        yield from _no_noise(case, task, table)


def above_ceiling(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for embeddings whose mean score is better than a ceiling (gap closed above 1).

    Ceilings that are no better than the floor are left to the check of those. A warning for the idealised oracle; an
    info for noise ceilings, of which the experimental error (a 0.9 quantile) and the halves (half of the cells) are
    known to be pessimistic.
    """
    for task in case.evidence.tasks:
        table = _ceilings(case, task)
        if isinstance(table, Unchecked):
            yield table
            continue
        beyond = table[(table["role"] == "embedding") & (table["gap_closed"] > 1)]
        for is_oracle, own in beyond.groupby(beyond["estimator"] == ORACLE):
            best = own.sort_values("gap_closed", ascending=False, kind="stable").iloc[0]
            methods = own.drop_duplicates(METHOD)
            names = list(dict.fromkeys(ceiling_name(str(c)) for c in own["ceiling_by"]))
            text = (
                f"{len(methods)} method(s) score better than {' or '.join(names)}: {named(best[METHOD])} {best['mean']:.4g} by "
                f"{best['metric']}, ceiling {best['ceiling']:.4g}."
            )
            columns = ["context", *METHOD, "metric", "estimator", "mean", "floor", "ceiling", "gap_closed"]
            yield Finding(case.at(task), text, own[columns].reset_index(drop=True), "warning" if is_oracle else "info")
        yield from _no_noise(case, task, table)


def fooled(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare every control (random, permuted) with the floor on the same perturbations, by the metric of the leaderboard.

    A control beats the floor where its mean advantage exceeds as many standard errors as a normal variable exceeds
    with probability `alpha` divided by the number of controls in all tasks (Bonferroni), so that some control is named
    by chance in at most a share `alpha` of results. Standard errors are those of close leaders (PM013).
    """
    from scipy.stats import norm

    controls = {
        t: case.board(t)[(case.board(t)["role"] == "control") & case.board(t)["mean"].notna()]
        for t in case.evidence.tasks
    }
    z = float(norm.isf(case.option("alpha") / max(sum(map(len, controls.values())), 1)))
    for task, own in controls.items():
        floor = case.floor(task)
        if floor is None or own.empty:
            yield Unchecked(case.at(task), NO_FLOOR if floor is None else NO_CONTROL)
            continue
        table = _against(case, task, list(own[METHOD].itertuples(index=False, name=None)), [floor] * len(own), z)
        if table is None:
            yield Unchecked(case.at(task), UNSURE)
            continue
        bad = table[table["better"]].sort_values("advantage", ascending=False, kind="stable")
        if len(bad):
            one = bad.iloc[0]
            size = f"{one['advantage']:.3g} ± {one['error']:.2g}"
            text = f"{len(bad)} of {len(table)} controls beat the floor ({floor[1]}) by {case.metric(task)}, most "
            text += f"{named(one[METHOD])} (by {size}): beating the floor is no evidence of knowledge here."
            yield Finding(case.at(task), text, table)


def no_better_than_control(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare every embedding that beats the floor with the best control of the same probe, on the same perturbations.

    Controls are the random embedding and the embedding's own permuted copy. An embedding is told from its control where
    its mean advantage exceeds `z_control` standard errors, which are those of close leaders (PM013).
    """
    for task in case.evidence.tasks:
        board = case.board(task)
        controls = board[(board["role"] == "control") & board["mean"].notna()]
        if controls.empty or case.floor(task) is None:
            yield Unchecked(case.at(task), NO_CONTROL if controls.empty else NO_FLOOR)
            continue
        sign = case.sign(case.metric(task))
        above = case.ranked(task)
        above = above[sign * above["mean"] > sign * above["floor"]]
        first: list[Method] = []
        second: list[Method] = []
        for name, probe in above[METHOD].itertuples(index=False, name=None):
            own = controls[(controls["probe"] == probe) & controls["embedding"].isin(["random", f"{name} (permuted)"])]
            if len(own):
                first.append((name, probe))
                second.append(tuple(own.iloc[0][METHOD]))  # the board is sorted, best first
        if not first:
            continue
        table = _against(case, task, first, second, case.option("z_control"))
        if table is None:
            yield Unchecked(case.at(task), UNSURE)
            continue
        bad = table[~table["better"]]
        if len(bad):
            names = some([f"{r.embedding} with {r.probe}" for r in bad.itertuples()], 3)
            text = f"{len(bad)} of {len(table)} methods beat the floor but not their control (random or permuted vectors) by "
            text += f"more than chance: {names}."
            yield Finding(case.at(task), text, table)


def _against(case: Case, task: Task, first: list[Method], second: list[Method], z: float) -> pd.DataFrame | None:
    rows = []
    for one, other in zip(first, second, strict=True):
        paired = case.paired(task, one, other)
        if paired is not None:
            about = {"embedding": one[0], "probe": one[1], "against": named(other)}
            better = paired.apart(z)
            rows.append(
                {**about, "advantage": paired.advantage, "error": paired.error, "n": paired.n, "better": better}
            )
    return pd.DataFrame(rows) if rows else None


def nothing_beats_the_floor(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for tasks where no embedding has a better mean score than the better baseline, by the metric of the leaderboard."""
    for task in case.evidence.tasks:
        ranked = case.ranked(task)
        if case.floor(task) is None or ranked.empty:
            yield Unchecked(
                case.at(task), NO_FLOOR if len(ranked) else "there is no embedding with a score among the results"
            )
            continue
        sign = case.sign(case.metric(task))
        if not (sign * ranked["mean"] > sign * ranked["floor"]).any():
            best = ranked.iloc[0]
            text = f"None of {len(ranked)} methods beats the floor ({best['floor_by']}, {best['floor']:.4g}) by {best['metric']}: "
            text += f"the best, {named(best[METHOD])}, has {best['mean']:.4g}."
            yield Finding(
                case.at(task), text, ranked[["context", *METHOD, "metric", "mean", "floor"]].reset_index(drop=True)
            )


CHECKS = (
    Check(
        code="PM015",
        name="floor-above-ceiling",
        title="Is there room between floor and ceiling?",
        severity="warning",
        why="Where predicting the mean is as good as repeating the experiment, the metric measures noise. No embedding "
        "can be shown to be good or bad, and the gap closed is undefined.",
        advice="Use another metric (a centred correlation, perturbation discrimination), keep only perturbations with a "
        "response (PM021), or say that the screen cannot rank by this metric.",
        function=floor_above_ceiling,
    ),
    Check(
        code="PM016",
        name="above-ceiling",
        title="Is a score too good to be true?",
        severity="warning",
        why="Better than the best achievable points to a leak, to an embedding that has seen the responses, or to a "
        "ceiling that is too low.",
        advice="Look at PM001 to PM006 first. If nothing leaks, the ceiling is pessimistic: use another estimator "
        "(panmodal leaderboard --ceiling).",
        function=above_ceiling,
    ),
    Check(
        code="PM017",
        name="control-beats-floor",
        title="Do vectors without information beat the floor?",
        severity="warning",
        why="Random and permuted vectors know nothing. If they beat the baselines the metric can be gained without "
        "knowledge, by shrinking or by calling rare classes, and beating the floor proves nothing.",
        advice="Compare embeddings with the control instead of the floor (PM018), and report another metric.",
        function=fooled,
        options={"alpha": Option(0.05, "probability that a control of all results is named by chance")},
    ),
    Check(
        code="PM018",
        name="no-better-than-control",
        title="Do embeddings beat the same vectors dealt to the wrong ids?",
        severity="warning",
        why="An embedding that beats the floor by no more than its permuted copy owes that to the probe or the metric, "
        "not to what it knows of the perturbations.",
        advice="Do not report such an embedding as better than the floor on this task.",
        function=no_better_than_control,
        options={"z_control": Option(1.96, "standard errors by which an embedding must beat its control")},
    ),
    Check(
        code="PM019",
        name="nothing-beats-floor",
        title="Does any embedding beat the floor?",
        severity="warning",
        why="If predicting the mean is best, the ranks are an order among failures.",
        advice="Do not rank here. Look at whether the screen has a signal (PM021), and at metrics that the mean does not "
        "win by default.",
        function=nothing_beats_the_floor,
    ),
)
"""Records of this module."""

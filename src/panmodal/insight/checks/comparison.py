"""Checks of comparisons: whether the same folds are compared, and whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.checks.case import Case, named, percent
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.gaps import METHOD

UNSURE = (
    "nothing tells how sure a difference is (no values of perturbations, or no bootstrap samples of metrics of genes)"
)


def unequal_folds(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the folds and seeds of which each method has a score with those that any method of the task has."""
    for task in case.evidence.tasks:
        own = case.evidence.of(task)
        own = own[(own["metric"] == case.metric(task)) & (own["fallback"] == "filled")]
        every = own[["fold", "seed"]].drop_duplicates()
        there = own.groupby(METHOD, sort=False).apply(
            lambda t: len(t[["fold", "seed"]].drop_duplicates()), include_groups=False
        )
        lacking = there[there < len(every)].sort_values(kind="stable")
        if len(lacking):
            table = lacking.rename("folds").reset_index().assign(of=len(every))
            names = ", ".join(f"{named(r)} {n}" for r, n in lacking.head(4).items())
            text = f"{len(lacking)} of {len(there)} methods lack folds: {names} of {len(every)}. "
            text += "Their means are over other test ids than the rest."
            yield Finding(case.at(task), text, table)


def few(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the number of perturbations that were tested, in all folds together, with `min_tested`."""
    for task in case.evidence.tasks:
        n = int(case.board(task)["n_test"].iloc[0])
        if n < case.option("min_tested"):
            numbers = case.board(task)[["context", *METHOD, "n_test", "mean", "sd"]].reset_index(drop=True)
            text = f"{n} perturbations were tested, fewer than {case.option('min_tested'):.0f}: methods that are close cannot "
            yield Finding(case.at(task), text + "be told apart.", numbers)


def close(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the leader with the best method of each other embedding on the same perturbations.

    By the metric of the leaderboard. Two methods are told apart if their mean difference exceeds `z_apart` standard errors.
    Metrics of perturbations: the error of the mean of paired differences around their fold's mean. Metrics of genes: the
    deviation over bootstrap samples of the test perturbations. Folds and training sets stay as they are.
    """
    for task in case.evidence.tasks:
        ranked = case.ranked(task).drop_duplicates("embedding")
        if len(ranked) < 2:
            continue
        first = tuple(ranked.iloc[0][METHOD])
        rows = []
        for other in ranked.iloc[1:][METHOD].itertuples(index=False, name=None):
            paired = case.paired(task, first, other)
            if paired is not None:
                rows.append({"embedding": other[0], "probe": other[1], "advantage": paired.advantage, "error": paired.error,
                             "apart": paired.apart(case.option("z_apart"))})  # fmt: skip
        if not rows:
            yield Unchecked(case.at(task), UNSURE)
            continue
        table = pd.DataFrame(rows)
        near = table[~table["apart"]]
        if len(near):
            text = f"{named(first)} leads by {case.metric(task)}, but {len(near)} of the {len(table)} other embeddings cannot "
            text += "be told from it: "
            shown = ", ".join(
                f"{r.embedding} with {r.probe} ({r.advantage:.3g} ± {r.error:.2g} worse)"
                for r in near.head(3).itertuples()
            )
            yield Finding(case.at(task), text + shown + ".", table)


def undefined(case: Case) -> Iterator[Finding | Unchecked]:
    """Count the covered test perturbations (metrics of genes: the genes) for which a metric of an embedding is undefined.

    A metric is named where that is so for at least the share `max_undefined` of them. Centred correlations count such rows
    as 0; other metrics leave them out, so that methods may be averaged over different ids.
    """
    for task in case.evidence.tasks:
        own = case.evidence.of(task)
        own = own[(own["role"] == "embedding") & (own["fallback"] == "covered")]
        if "n_undefined" not in own or "n_scored" not in own:
            yield Unchecked(
                case.at(task), "the score table does not count undefined values (it is from an older version)"
            )
            continue
        sums = own.groupby(["metric", *METHOD], sort=False)[["n_scored", "n_undefined"]].sum().reset_index()
        counted = sums["metric"].map(
            lambda m: m in METRICS and METRICS[m].no_skill is not None
        )  # undefined rows are scored too
        sums["n"] = sums["n_scored"] + sums["n_undefined"].where(~counted, 0)
        sums["share"] = sums["n_undefined"] / sums["n"].where(sums["n"] > 0)
        bad = sums[sums["share"] >= max(case.option("max_undefined"), 1e-12)]
        if len(bad):
            pieces = []
            for metric, rows in bad.groupby("metric", sort=False):
                worst = rows.sort_values("share", ascending=False, kind="stable").iloc[0]
                pieces.append(
                    f"{metric} for {len(rows)} method(s), most for {named(worst[METHOD])} ({percent(worst['share'])})"
                )
            numbers = bad.sort_values("share", ascending=False, ignore_index=True)
            yield Finding(
                case.at(task),
                f"Undefined for at least {percent(case.option('max_undefined'))} of what is averaged: {'; '.join(pieces)}.",
                numbers,
            )


def one_seed(case: Case) -> Iterator[Finding | Unchecked]:
    """Count the seeds and folds of each task.

    A finding where there is one seed; a warning where there are fewer than `min_folds` folds.
    """
    for group, tasks in case.groups.items():
        own = pd.concat([case.evidence.of(task, case.evidence.trials) for task in tasks])
        seeds, folds = sorted(set(own["seed"])), sorted(set(own["fold"]))
        few_folds = len(folds) < case.option("min_folds")
        if len(seeds) == 1 or few_folds:
            text = f"One seed ({seeds[0]})" if len(seeds) == 1 else f"{len(seeds)} seeds"
            text += f" and {len(folds)} fold(s): how much scores depend on the draw of folds is not known."
            numbers = own[["screen", "context", "seed", "fold"]].drop_duplicates().reset_index(drop=True)
            yield Finding(case.at_group(group), text, numbers, "warning" if few_folds else "")


CHECKS = (
    Check(
        code="PM011",
        name="unequal-folds",
        title="Has every method been tested on the same folds?",
        severity="error",
        why="Folds differ in difficulty. A mean over some of them is compared with a mean over all, and a rank may come "
        "from the folds that are missing.",
        advice="Finish the run (the same panmodal run command computes what is missing), or leave the unfinished methods "
        "out.",
        function=unequal_folds,
    ),
    Check(
        code="PM012",
        name="few-perturbations",
        title="Are there enough perturbations to tell methods apart?",
        severity="warning",
        why="The score of a method is a mean over test perturbations that differ widely. With few of them the order of "
        "close methods is chance.",
        advice="Do not rank; say which methods beat the floor, with intervals, or pool with other contexts or screens.",
        function=few,
        options={"min_tested": Option(50, "smallest number of tested perturbations")},
    ),
    Check(
        code="PM013",
        name="close-leaders",
        title="Is the leader ahead by more than chance?",
        severity="info",
        why="A rank hides how small a difference is. Another sample of perturbations could put another embedding first.",
        advice="Name the embeddings that share the lead instead of one winner.",
        function=close,
        options={"z_apart": Option(1.96, "standard errors by which two methods must differ to be told apart")},
    ),
    Check(
        code="PM014",
        name="undefined-metrics",
        title="Are metrics defined for all that they average?",
        severity="warning",
        why="A correlation with a constant prediction is undefined, and so is recall without positives. Left out, such "
        "rows make the mean one over other ids than that of the rival; often they are the failures.",
        advice="Rank by a metric that is defined everywhere (L2, MSE, PDS_L2), or look at why predictions are constant "
        "(PM007).",
        function=undefined,
        options={"max_undefined": Option(0.1, "share of undefined values from which a metric is named")},
    ),
    Check(
        code="PM020",
        name="one-seed",
        title="Are there several draws of the folds?",
        severity="info",
        why="Which perturbations fall into one fold is chance; another draw gives other scores and sometimes another "
        "leader.",
        advice="Run again with other seeds into the same folder (--seed), above all where leaders are close (PM013).",
        function=one_seed,
        options={"min_folds": Option(3, "fewer folds are a warning")},
    ),
)
"""Records of this module."""

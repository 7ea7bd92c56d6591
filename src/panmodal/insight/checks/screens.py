"""Checks of the screen and its folds: whether there is a signal, and whether anything but the perturbation makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import PanmodalError
from panmodal.insight.checks.case import Case, Group, percent
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.checks.relations import every_group, fold_of
from panmodal.insight.evidence import Task

PERMUTATIONS = 199
"""Permutations of labels or of the order."""
WINDOW = 3
"""Ids at most so far apart in the order are neighbours."""
BATCHES = ("batch", "plate", "gem_group", "lane", "donor", "bio_rep")
"""Columns of the facts of perturbations that tell a batch."""


def weak_screen(case: Case) -> Iterator[Finding | Unchecked]:
    """Count the responses that are longer than those of as many control cells; without raw cells, compare contexts.

    With the facts of perturbations that come with noise ceilings: the share with `norm_p` at most 0.05 (200 responses
    of control cells each) must be at least `min_responding`; under no effect at all it is 0.05. Without them: a
    perturbation's response, minus the mean of its context, must be more like its response in another context than
    like the others' there. The mean over perturbations and ordered pairs of contexts of the share of the others that
    are less alike (Pearson correlation) is 0.5 by chance; a finding where it is not at least `z_contexts` standard
    errors (deviation over perturbations) above it. Contexts may differ for biological reasons, so that agreement
    shows a signal but its lack is only a hint.
    """
    quality = case.evidence.quality
    for group, tasks in case.groups.items():
        left = []
        for task in tasks:
            own = _facts(quality, task)
            tested = own["norm_p"].dropna() if own is not None and "norm_p" in own else pd.Series(dtype=float)
            if tested.empty:
                left.append(task)
                continue
            strong = int((tested <= 0.05).sum())
            if strong < case.option("min_responding") * len(tested):
                text = f"{strong} of {len(tested)} responses ({percent(strong, len(tested))}) are longer than those of as many "
                text += "control cells (p <= 0.05)"
                if own is not None and "reliability" in own and own["reliability"].notna().any():
                    text += f"; the median reliability is {own['reliability'].median():.2f}"
                yield Finding(case.at(task), text + ". The others are noise, which no embedding can predict.", own)
        if left:
            yield from _replicates(case, group, left)


def _facts(quality: pd.DataFrame | None, task: Task) -> pd.DataFrame | None:
    """Rows of the facts of perturbations of the task's screen and context; None where there are none."""
    if quality is None or "context" not in quality:
        return None
    own = quality[quality["context"] == task[1]]
    if "screen" in own:
        own = own[own["screen"] == task[0]]
    return own.reset_index(drop=True) if len(own) else None


def _replicates(case: Case, group: Group, tasks: Sequence[Task]) -> Iterator[Finding | Unchecked]:
    where = case.at_group(group)
    every = case.groups[group]
    if len(every) < 2:
        reason = (
            "there are no noise ceilings (panmodal ceiling makes them from raw cells) and there is one context only"
        )
        yield Unchecked(case.at(every[0]), reason)
        return
    try:
        truths = [case.evidence.read_truth(task) for task in every]
    except PanmodalError as error:
        yield Unchecked(where, str(error))
        return
    names = sorted(set.intersection(*(set(t.readouts) for t in truths)))
    rows = []
    for k, one in enumerate(truths):
        for m, other in enumerate(truths):
            ids = sorted(set(one.ids) & set(other.ids))
            if k == m or len(ids) < 10 or len(names) < 3:
                continue
            sides = []
            for truth in (one, other):
                column = {r: c for c, r in enumerate(truth.readouts)}
                values = truth.values[np.ix_([truth.row[i] for i in ids], [column[r] for r in names])].astype(
                    np.float64
                )
                sides.append(_standard(values - values.mean(axis=0)))
            alike = sides[0] @ sides[1].T
            own = np.diag(alike)[:, None]
            share = ((alike < own).sum(axis=1) + 0.5 * ((alike == own).sum(axis=1) - 1)) / (len(ids) - 1)
            rows.append(
                pd.DataFrame(
                    {
                        "context": every[k][1],
                        "other": every[m][1],
                        "pert_id": ids,
                        "correlation": own[:, 0],
                        "rank": share,
                    }
                )
            )
    if not rows:
        yield Unchecked(
            where, "there are no noise ceilings, and the contexts share fewer than 10 perturbations or 3 read-outs"
        )
        return
    table = pd.concat(rows, ignore_index=True)
    each = table.groupby("pert_id")["rank"].mean()
    spread = float(each.std(ddof=1) / np.sqrt(len(each)))
    if each.mean() - 0.5 < case.option("z_contexts") * spread:
        text = "A response is no more like that of the same perturbation in another context than like others': "
        text += (
            f"{percent(each.mean())} of the others are less alike (chance 50 %, standard error {100 * spread:.1f} %, "
        )
        text += f"{len(each)} perturbations, {len(every)} contexts)."
        yield Finding(where, text, table)
    reason = (
        "whether responses are above the noise of cells: there are no noise ceilings (panmodal ceiling makes them); "
    )
    reason += "only agreement of contexts was looked at"
    yield Unchecked(where, reason)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre rows and scale them to length one; constant rows become zero."""
    values = values - values.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)


def confounding(case: Case) -> Iterator[Finding | Unchecked]:
    """Ask whether the number of cells, or the batch, of a perturbation tells its response.

    Cells: Spearman correlation of the length of the response with the number of cells, from the facts of
    perturbations; a finding where it is at least `max_cells` in absolute value and its p at most 0.01. Batches (of a
    table of the user, or a column of those facts): the share of the variance of responses that lies between batches,
    for perturbations of one batch each, against 199 permutations of the batches (seed 0); a finding where p is at
    most 0.01 and the share exceeds that of permuted batches by `max_batch`. Results do not hold batches by
    themselves.
    """
    for task in case.evidence.tasks:
        facts = _facts(case.evidence.quality, task)
        if facts is None or not {"n_cells", "response_norm"} <= set(facts):
            yield Unchecked(
                case.at(task), "numbers of cells: there are no facts of perturbations (they come with panmodal ceiling)"
            )
        else:
            own = facts[["pert_id", "n_cells", "response_norm"]].dropna()
            if len(own) >= 10 and own["n_cells"].nunique() > 1 and own["response_norm"].nunique() > 1:
                from scipy.stats import spearmanr

                found = spearmanr(own["n_cells"], own["response_norm"])
                if abs(found.statistic) >= case.option("max_cells") and found.pvalue <= 0.01:
                    kind = "fewer" if found.statistic < 0 else "more"
                    text = f"Responses of {kind} cells are longer (Spearman correlation {found.statistic:.2f} over {len(own)} "
                    text += "perturbations)"
                    text += ": much of their length is noise." if found.statistic < 0 else "."
                    yield Finding(case.at(task), text, own.reset_index(drop=True))
        batch = _batches(case, task, facts)
        if isinstance(batch, Unchecked):
            yield batch
            continue
        try:
            truth = case.evidence.read_truth(task)
        except PanmodalError as error:
            yield Unchecked(case.at(task), f"batches: {error}")
            continue
        ids = [i for i in truth.ids if i in batch]
        codes = pd.factorize(pd.Series([batch[i] for i in ids], dtype=object))[0]
        counts = np.bincount(codes) if len(codes) else np.zeros(0, int)
        if len(counts) < 2 or len(ids) - len(counts) < 5:
            reason = (
                f"batches: {len(ids)} perturbations of one batch each in {len(counts)} batch(es) cannot be compared"
            )
            yield Unchecked(case.at(task), reason)
            continue
        share, chance, p = between(truth.values[[truth.row[i] for i in ids]], codes)
        if p <= 0.01 and share - chance >= case.option("max_batch"):
            text = f"The batch explains {percent(share)} of the variance of responses ({percent(chance)} by chance, p {p:.3f}; "
            text += f"{len(ids)} perturbations in {len(counts)} batches)."
            yield Finding(case.at(task), text, pd.DataFrame({"pert_id": ids, "batch": [batch[i] for i in ids]}))


def _batches(case: Case, task: Task, facts: pd.DataFrame | None) -> dict[str, str] | Unchecked:
    """Return the batch of each perturbation that has one only."""
    table = case.knowledge.batches
    if table is not None:
        table = table[table["context"].astype(str) == task[1]] if "context" in table else table
        column = "batch"
    else:
        column = next((c for c in BATCHES if facts is not None and c in facts), "")
        table = facts
    if not column or table is None or table.empty:
        return Unchecked(
            case.at(task),
            "batches: results do not say in which batch or plate a perturbation was; give a table (--batches)",
        )
    pairs = table[["pert_id", column]].dropna().astype(str).drop_duplicates()
    single = pairs[~pairs["pert_id"].duplicated(keep=False)]
    return dict(zip(single["pert_id"], single[column], strict=True))


def between(values: NDArray[np.float32], codes: NDArray[np.int64], seed: int = 0) -> tuple[float, float, float]:
    """Share of the variance of rows (rows x read-outs) between groups, its mean over permutations, and the one-sided p.

    The share is sum_g n_g |mean_g - mean|^2 / sum_i |y_i - mean|^2 (eta squared); p is (1 + permutations at least as
    large) / (1 + permutations).
    """
    rows = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    gram = rows @ rows.T
    total = float(np.trace(gram))
    if total <= 0:
        return 0.0, 0.0, 1.0
    groups = np.eye(int(codes.max()) + 1)[codes]
    sizes = groups.sum(axis=0)

    def share(order: NDArray[np.int64]) -> float:
        own = groups[order]
        return float((np.einsum("ig,ig->g", own, gram @ own) / sizes).sum() / total)

    rng = np.random.default_rng(seed)
    observed = share(np.arange(len(rows)))
    drawn = np.array([share(rng.permutation(len(rows))) for _ in range(PERMUTATIONS)])
    return observed, float(drawn.mean()), float((1 + (drawn >= observed - 1e-12).sum()) / (1 + PERMUTATIONS))


def row_order(case: Case) -> Iterator[Finding | Unchecked]:
    """Ask whether ids that stand side by side in the order of ids respond alike.

    Mean correlation of responses (minus the mean of the context) of ids at most three places apart, against 199
    random orders (seed 0); a finding where p is at most 0.01 and the mean exceeds that of random orders by
    `max_order`. Pairs whose names begin alike (letters before the first digit, at least three) are gene families and
    left out if enough others remain. Results are stored sorted by id, the order of rows of the original file is not
    known, so that this looks at numbered names (plates, wells, libraries) only.
    """
    for task in case.evidence.tasks:
        try:
            truth = case.evidence.read_truth(task)
        except PanmodalError as error:
            yield Unchecked(case.at(task), str(error))
            continue
        order = np.argsort(np.array(truth.ids, dtype=object), kind="stable")
        ids = [truth.ids[k] for k in order]
        if len(ids) < 20:
            yield Unchecked(case.at(task), f"{len(ids)} perturbations are too few for an order to show")
            continue
        values = truth.values[order].astype(np.float64)
        rows = _standard(values - values.mean(axis=0))
        pairs = np.array([(i, j) for i in range(len(ids)) for j in range(i + 1, min(i + 1 + WINDOW, len(ids)))])
        stems = [re.match(r"[A-Za-z]*", i).group()[:3].casefold() for i in ids]  # type: ignore[union-attr]
        other = np.array([not (len(stems[i]) == 3 and stems[i] == stems[j]) for i, j in pairs])
        if other.sum() >= max(30, 0.1 * len(pairs)):
            pairs = pairs[other]
        gram = rows @ rows.T
        observed = float(gram[pairs[:, 0], pairs[:, 1]].mean())
        rng = np.random.default_rng(0)
        drawn = np.empty(PERMUTATIONS)
        for k in range(PERMUTATIONS):
            shuffled = rng.permutation(len(ids))[pairs]
            drawn[k] = gram[shuffled[:, 0], shuffled[:, 1]].mean()
        p = (1 + (drawn >= observed).sum()) / (1 + PERMUTATIONS)
        if p <= 0.01 and observed - drawn.mean() >= case.option("max_order"):
            text = f"Ids that are neighbours in the sorted list respond alike: mean correlation {observed:.3f}, {drawn.mean():.3f} "
            text += f"in random orders (p {p:.3f}, {len(pairs)} pairs)."
            numbers = pd.DataFrame(
                {
                    "first": [ids[i] for i in pairs[:, 0]],
                    "second": [ids[j] for j in pairs[:, 1]],
                    "correlation": gram[pairs[:, 0], pairs[:, 1]],
                }
            )
            yield Finding(case.at(task), text, numbers)


def folds(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the sizes of folds, and ask whether they follow the order of ids.

    A finding where the largest fold has more than `max_sizes` times as many test ids as the smallest, or where more than the
    share `max_runs` of the ids are in the fold of the id before them in the sorted list: at random that is about one over the
    number of folds, for blocks cut from the list nearly all.
    """
    for group, tested in every_group(case):
        if isinstance(tested, Unchecked):
            yield tested
            continue
        sizes = tested.groupby(["seed", "fold"]).size().rename("n_test").reset_index()
        ratio = float((sizes.groupby("seed")["n_test"].max() / sizes.groupby("seed")["n_test"].min()).max())
        if ratio > case.option("max_sizes"):
            text = (
                f"The largest fold has {ratio:.1f} times as many test ids as the smallest ({sizes['n_test'].max()} and "
            )
            text += f"{sizes['n_test'].min()}): scores are means over folds, in which ids of small folds count more."
            yield Finding(case.at_group(group), text, sizes)
        ids = sorted(tested["pert_id"].unique())
        fold = fold_of(tested, ids)
        fold = fold[fold >= 0]
        same = float((fold[1:] == fold[:-1]).mean()) if len(fold) > 1 else 0.0
        if len(np.unique(fold)) > 1 and same > case.option("max_runs"):
            text = f"Folds follow the order of ids: {percent(same)} of the ids are in the fold of the id before them."
            yield Finding(case.at_group(group), text, pd.DataFrame({"pert_id": ids, "fold": fold_of(tested, ids)}))


CHECKS = (
    Check(
        code="PM021",
        name="weak-screen",
        title="Do the perturbations have an effect that can be measured?",
        severity="warning",
        why="Where responses are no longer than those of control cells, truth is noise. Scores then compare who shrinks "
        "best, and averages over all perturbations hide the few that respond.",
        advice="Look at the perturbations that respond (quality.parquet, norm_p) on their own; prepare again with more "
        "cells per perturbation; run panmodal ceiling where raw cells are at hand.",
        function=weak_screen,
        options={
            "min_responding": Option(0.5, "smallest share of responses above the noise of cells"),
            "z_contexts": Option(2.0, "standard errors above chance at which contexts agree"),
        },
    ),
    Check(
        code="PM022",
        name="confounding",
        title="Is a response made by the batch or by the number of cells?",
        severity="warning",
        why="If perturbations of one plate respond alike because of the plate, an embedding whose vectors follow the "
        "library layout is rewarded for it. If responses are longer where there are fewer cells, errors such as L2 "
        "measure cell numbers.",
        advice="Prepare with the matched control rule (controls of the same batch), keep batches in one fold, ask for more "
        "cells per perturbation (panmodal prepare --min-cells), and prefer metrics that do not depend on the "
        "length.",
        function=confounding,
        options={
            "max_cells": Option(
                0.5, "absolute Spearman correlation of length and number of cells from which it is said"
            ),
            "max_batch": Option(0.05, "share of variance between batches, beyond chance, from which it is said"),
        },
    ),
    Check(
        code="PM023",
        name="row-order",
        title="Does the name of a perturbation tell its response?",
        severity="warning",
        why="Numbered names mostly follow plates or libraries. If neighbours respond alike, position on the plate is "
        "part of the signal, and anything that kept the order (row numbers, sorted files, vectors trained in order) "
        "can predict it.",
        advice="Look for the batch behind the names and prepare with controls of the same batch; keep blocks of names in "
        "one fold.",
        function=row_order,
        options={"max_order": Option(0.03, "mean correlation of neighbours, beyond chance, from which it is said")},
    ),
    Check(
        code="PM024",
        name="folds",
        title="Are the folds of equal size and dealt at random?",
        severity="warning",
        why="Folds cut from a sorted list hold out blocks: gene families, plates, doses. That is another question than "
        "a random perturbation, and its answer depends on names. In unequal folds an id counts more or less by "
        "chance.",
        advice="Make folds with panmodal split (shuffled, of equal size). Where blocks are meant, say so: panmodal split "
        "--groups FILE.",
        function=folds,
        options={
            "max_sizes": Option(1.5, "largest ratio of the sizes of two folds"),
            "max_runs": Option(0.7, "largest share of ids in the fold of the id before them"),
        },
    ),
)
"""Records of this module."""

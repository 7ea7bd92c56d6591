"""Checks of single methods: what they predict, how they were tuned, what their vectors are, what they cover."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import PanmodalError, some
from panmodal.evaluation.compare import has_classes
from panmodal.insight.checks.case import Case, named, percent
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.evidence import Task
from panmodal.insight.fusion_parts import fused
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import leaderboard


def collapsed(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare how much predictions differ between perturbations with how much the responses do.

    For each embedding and probe: the root of the variance over test ids, averaged over read-outs, of the predictions,
    divided by the same of the responses; test ids that the embedding covers, in the first `folds_read` folds. Labels:
    probabilities against 0 and 1 of each class. A method is collapsed below `min_spread`: it says nearly the same of
    all perturbations. Good predictions of noisy responses spread less than these, so that a low ratio alone is no
    fault.
    """
    for task in case.evidence.tasks:
        trials = case.evidence.of(task, case.evidence.trials)
        trials = trials[trials["role"] == "embedding"].drop_duplicates([*METHOD, "fold", "seed"])
        order = trials.groupby(METHOD).cumcount()
        rows = []
        try:
            truth = case.evidence.read_truth(task)
            for trial in trials[order < case.option("folds_read")].itertuples():
                predicted = case.evidence.read_predictions(str(trial.trial))
                kept = np.flatnonzero(predicted.covered)
                if len(kept) < 2:
                    continue
                true = truth.values[[truth.row[predicted.ids[k]] for k in kept]]
                spread = _spread(predicted.values[kept], true, task)
                rows.append(
                    {"embedding": trial.embedding, "probe": trial.probe, "fold": trial.fold, "n": len(kept), **spread}
                )
        except PanmodalError as error:
            yield Unchecked(case.at(task), str(error))
            continue
        if not rows:
            yield Unchecked(case.at(task), "no embedding covers two test ids of a fold that was read")
            continue
        table = (
            pd.DataFrame(rows).groupby(METHOD, sort=False).mean(numeric_only=True).drop(columns="fold").reset_index()
        )
        flat = table[table["ratio"] < case.option("min_spread")].sort_values("ratio", ignore_index=True)
        if len(flat):
            low = flat.iloc[0]
            constant = int((flat["ratio"] == 0).sum())
            text = (
                f"{len(flat)} of {len(table)} methods predict nearly the same for all perturbations: {named(low[METHOD])} spreads "
                f"{percent(low['ratio'])} as much as the responses"
            )
            text += f"; {constant} of them predict exactly one response for all" if constant else ""
            yield Finding(case.at(task), text + ".", table.sort_values("ratio", ignore_index=True))


def _spread(predicted: NDArray[Any], true: NDArray[Any], task: Task) -> dict[str, float]:
    """Root mean variance between rows of predictions and of truth, and their ratio (NaN where the truth is constant)."""
    if has_classes(task[2]):
        true = np.concatenate([true == -1, true == 1], axis=1)
    sides = []
    for rows in (predicted, true):
        rows = rows.astype(np.float64)
        deviation = rows - rows.mean(axis=0)
        # A column whose rows are equal within single precision is constant.
        deviation[:, np.ptp(rows, axis=0) <= 1e-6 * np.abs(rows).max(axis=0, initial=0.0)] = 0.0
        sides.append(float(np.sqrt((deviation**2).mean())))
    return {"sd_predicted": sides[0], "sd_true": sides[1], "ratio": sides[0] / sides[1] if sides[1] else np.nan}


def grid_edge(case: Case) -> Iterator[Finding | Unchecked]:
    """Count the folds in which the chosen hyper-parameter lies at an end of its grid.

    As the trials recorded it (`at_edge` in the column `hyperparameters`). A method is named where that is so in at
    least the share `max_edge` of its folds; which end it is, is told from the grid of the probe.
    """
    for task in case.evidence.tasks:
        trials = case.evidence.of(task, case.evidence.trials)
        trials = trials[trials["role"] == "embedding"] if "hyperparameters" in trials else trials.iloc[:0]
        told = [_chosen(t, p) for t, p in zip(trials.get("hyperparameters", ()), trials["probe"], strict=False)]
        known = [k for k, t in enumerate(told) if t is not None]
        if not known:
            yield Unchecked(case.at(task), "the trials do not say which hyper-parameters were chosen")
            continue
        table = trials.iloc[known][METHOD].reset_index(drop=True).assign(**pd.DataFrame([told[k] for k in known]))
        table["end"] = [_end(r.probe, r.value) if r.at_edge else "" for r in table.itertuples()]
        counts = table.groupby(METHOD, sort=False).agg(
            parameter=("parameter", "first"), folds=("at_edge", "size"), at_edge=("at_edge", "sum"),
            smallest=("end", lambda e: int((e == "smallest").sum())), largest=("end", lambda e: int((e == "largest").sum())),
            chosen=("value", "median"),
        ).reset_index()  # fmt: skip
        bad = counts[counts["at_edge"] >= case.option("max_edge") * counts["folds"]]
        bad = bad[bad["at_edge"] > 0]
        if len(bad):
            pieces, share = [], percent(case.option("max_edge"))
            for (probe, parameter), own in bad.groupby(["probe", "parameter"], sort=False):
                low, high = (int((own[end] > 0).sum()) for end in ("smallest", "largest"))
                ends = [f"{n} at the {end} value" for n, end in ((low, "smallest"), (high, "largest")) if n]
                pieces.append(
                    f"{parameter or 'a hyper-parameter'} of {probe} for {some(own['embedding'], 3)}"
                    + (f" ({', '.join(ends)})" if ends else "")
                )
            text = (
                f"{len(bad)} of {len(counts)} methods chose the end of their grid in at least {share} of their folds: "
            )
            yield Finding(case.at(task), text + "; ".join(pieces) + ".", counts)


def _chosen(text: Any, probe: str) -> dict[str, Any] | None:
    """Return parameter, value (of probes; fusions choose several) and whether it is at the edge; None where the text does not say."""
    from panmodal.probes.base import probes

    try:
        told = json.loads(text)
    except (TypeError, ValueError):
        return None
    if not isinstance(told, dict) or "at_edge" not in told:
        return None
    found = probes().get(probe)
    name = found.parameter if found else ""
    return {"parameter": name, "value": told.get(name, np.nan), "at_edge": bool(told["at_edge"])}


def _end(probe: str, value: float) -> str:
    """Which end of the probe's grid a value is; the upper one may be lower than the grid's where training ids are few."""
    from panmodal.probes.base import probes

    found = probes().get(probe)
    if found is None or value not in found.grid:
        return ""
    return "smallest" if value == min(found.grid) else "largest"


def vectors(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for ids that share one vector, and for dimensions that are constant, in the vectors that were used.

    Over the ids of the screen that the embedding covers. A warning where at least the share `max_shared` of the ids
    have a vector that another id has too; an info where at least the share `max_constant` of the dimensions are
    constant.
    """
    pairs = case.evidence.trials
    pairs = pairs.loc[(pairs["role"] == "embedding") & ~fused(pairs), ["screen", "embedding"]].drop_duplicates()
    for screen, own in pairs.groupby("screen", sort=False):
        rows = []
        for name in own["embedding"]:
            try:
                found = case.evidence.read_vectors(str(name), str(screen))
            except PanmodalError as error:
                yield Unchecked({"screen": str(screen), "embedding": str(name)}, str(error))
                continue
            rows.append({"embedding": name, **_alike(found.ids, np.ascontiguousarray(found.values))})
        table = pd.DataFrame(rows, columns=["embedding", "ids", "dims", "sharing", "constant", "example"])
        lists = (
            ("sharing", "ids", "max_shared", "ids that share their vector with another id", ""),
            ("constant", "dims", "max_constant", "dimensions that are the same for all ids and carry nothing", "info"),
        )
        for column, whole, option, what, severity in lists:
            bad = table[(table[column] > 0) & (table[column] >= case.option(option) * table[whole])]
            if len(bad):
                shown = [f"{r['embedding']} {percent(r[column], r[whole])}" for _, r in bad.head(6).iterrows()]
                text = f"{len(bad)} of {len(table)} embeddings have {what}: {', '.join(shown)}."
                text += f" E.g. in {bad.iloc[0]['embedding']} {bad.iloc[0]['example']}." if column == "sharing" else ""
                yield Finding({"screen": str(screen)}, text, table, severity)


def _alike(ids: Sequence[str], values: NDArray[Any]) -> dict[str, Any]:
    """Count the ids that share a vector, and the constant dimensions."""
    _, inverse, counts = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    place = np.ravel(inverse)
    example = some([ids[int(k)] for k in np.flatnonzero(place == np.argmax(counts))], 3) if len(counts) else ""
    constant = int((np.ptp(values, axis=0) == 0).sum()) if len(values) else 0
    return {"ids": len(values), "dims": values.shape[1], "sharing": int((counts[place] > 1).sum()), "constant": constant,
            "example": example}  # fmt: skip


def coverage(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare the share of the test ids that each embedding covers with `min_coverage`.

    The finding tells whether the same method leads on the ids that all embeddings cover (`common`).
    """
    common = leaderboard(case.evidence.scores, fallback="common")
    for task in case.evidence.tasks:
        ranked = case.ranked(task)
        each = ranked.groupby("embedding", sort=False)["coverage"].min()
        low = each[each < case.option("min_coverage")].sort_values()
        if low.empty:
            continue
        names = ", ".join(f"{name} {percent(share)}" for name, share in low.head(4).items())
        share = percent(case.option("min_coverage"))
        text = f"{len(low)} of {len(each)} embeddings cover less than {share} of the test ids: {names}. "
        other = common[
            (common[TASK] == list(task)).all(axis=1) & (common["role"] == "embedding") & common["mean"].notna()
        ]
        if other.empty:
            text += "No id is covered by all embeddings."
        elif other.iloc[0][METHOD].tolist() == ranked.iloc[0][METHOD].tolist():
            text += f"On the ids that all cover {named(ranked.iloc[0][METHOD])} leads too."
        else:
            text += f"On the ids that all cover {named(other.iloc[0][METHOD])} leads, on all ids {named(ranked.iloc[0][METHOD])}."
        columns = ["context", *METHOD, "coverage", "rank", "metric", "filled", "covered", "common"]
        yield Finding(case.at(task), text, ranked[columns].reset_index(drop=True))


CHECKS = (
    Check(
        code="PM007",
        name="collapsed",
        title="Do predictions differ between perturbations?",
        severity="warning",
        why="A probe that cannot use an embedding retreats to the mean. Errors such as L2 reward that on noisy screens, "
        "and the method looks as good as the best while it tells nothing of any single perturbation.",
        advice="Judge such a method by centred correlations or perturbation discrimination, not by L2. Look at its "
        "hyper-parameter (PM008) and at the scale of its vectors.",
        function=collapsed,
        options={
            "min_spread": Option(0.05, "smaller spreads of predictions relative to the responses are collapsed"),
            "folds_read": Option(1, "folds of each method whose predictions are read"),
        },
    ),
    Check(
        code="PM008",
        name="grid-edge",
        title="Does the best hyper-parameter lie at the end of the grid?",
        severity="info",
        why="A better value may lie beyond the grid. The largest penalty or number of neighbours also means that the "
        "probe found little to use, the smallest that it is held back.",
        advice="At the end towards the mean (largest k or alpha) expect a method close to the floor. At the other end try "
        "the probe on its own with a wider grid before calling the embedding weak.",
        function=grid_edge,
        options={"max_edge": Option(0.5, "share of folds at an end of the grid from which a method is named")},
    ),
    Check(
        code="PM009",
        name="vectors",
        title="Does every id have a vector of its own, and every dimension a use?",
        severity="warning",
        why="Ids with one vector cannot be told apart: the embedding does not know them, whatever its coverage says, or "
        "a default was filled in. If they lie in training and test, one is looked up for the other.",
        advice="Look at how the vectors were made: missing entries filled with zeros, doses or isoforms mapped to one "
        "name. Leave such ids out rather than giving them a vector. Constant dimensions are harmless and can be "
        "dropped.",
        function=vectors,
        options={
            "max_shared": Option(
                0.02, "share of ids with a vector that is not theirs alone from which it is a warning"
            ),
            "max_constant": Option(0.5, "share of constant dimensions from which it is said"),
        },
    ),
    Check(
        code="PM010",
        name="coverage",
        title="Does each embedding cover the test ids?",
        severity="warning",
        why="Ids without a vector are predicted by the mean of the training responses. A method that covers little is "
        "judged by the mean for the rest, and one that covers only well-studied genes is judged on other genes than "
        "its rivals.",
        advice="Read the ranks on the ids in common beside those on all ids (panmodal leaderboard --fallback common), and "
        "match ids by another namespace if they were lost in translation (panmodal resolve).",
        function=coverage,
        options={"min_coverage": Option(0.8, "smallest share of test ids that an embedding should cover")},
    ),
)
"""Records of this module."""

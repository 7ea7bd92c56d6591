"""Responses at hand: are these the tasks, do the baselines score so, and do the predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.evaluation.class_metrics import totals
from panmodal.evaluation.compare import baseline_row, compare, fill_row, has_classes
from panmodal.evaluation.metrics import METRICS, score_rows
from panmodal.evaluation.scores import LABELS, mark_common
from panmodal.evaluation.store import MANIFEST, Store
from panmodal.evaluation.trials import Predictions
from panmodal.submissions.check_scores import differ
from panmodal.submissions.check_trials import name_of
from panmodal.submissions.content import Content
from panmodal.submissions.findings import Report, first
from panmodal.submissions.schema import TaskRecord, TrialRecord, task_of

SAME = 1e-6
FITTED = 1e-3
"""Scores of the same trial may differ by so much between machines."""
Truth = tuple[list[str], NDArray[Any], list[str]]


@dataclass(frozen=True)
class Reference:
    """What a maintainer has: responses by digest, the names of tasks, and for results their splits and scores."""

    where: str
    tasks: dict[str, set[tuple[str, str, str]]]
    read: Callable[[str], Truth] = field(repr=False)
    splits: dict[str, set[str]] | None = None
    scores: Callable[[], pd.DataFrame] | None = field(default=None, repr=False)


def open_reference(path: str | Path, response: str | None = None) -> Reference:
    """Read a results folder, or a screen (a file, or the name of a shipped or fetched one), to compare with.

    Raises
    ------
    InputError, StoreError
        It cannot be read.
    """
    if (Path(path) / MANIFEST).exists():
        return _of_results(Store(path))
    from panmodal.evaluation.config import load_screen

    options: dict[str, Any] = {"response": response} if response else {}
    screens = [load_screen(str(path), **options)]
    with contextlib.suppress(InputError):  # only prepared screens have labels beside the fold changes
        screens.append(screens[0].labelled())
    found = {s.digest(c): (s, c) for s in screens for c in s.contexts}

    def read(digest: str) -> Truth:
        screen, context = found[digest]
        ids, values = screen.responses(context)
        return ids, values, list(screen.readouts)

    return Reference(str(path), {d: {(s.name, c, s.response)} for d, (s, c) in found.items()}, read)


def _of_results(store: Store) -> Reference:
    tasks: dict[str, set[tuple[str, str, str]]] = {}
    splits: dict[str, set[str]] = {}
    for trial in store.trials():
        digest = trial.depends["responses"]
        tasks.setdefault(digest, set()).add((trial.screen, trial.context, trial.response))
        splits.setdefault(digest, set()).add(trial.depends["split"])
    if not tasks:
        raise InputError(f"{store.path}: no trials of its own to compare with.")
    return Reference(str(store.path), tasks, store.read_responses, splits, store.scores)


def check_predictions(content: Content, report: Report) -> None:
    """Check predictions by themselves: V080 to V082, V084 for ids not covered and V085."""
    if not content.manifest.predictions:
        if content.predicted:
            report.add("V080", "predictions are there, and the manifest says that they are not", "manifest.json")
        report.add("V085", "bundle them with --with-predictions to have metrics computed again", "manifest.json")
        return
    if odd := sorted(set(content.predicted) ^ set(content.by_digest)):
        report.add("V080", f"predictions and trials are not the same: {first(odd)}", "predictions/")
    fills: dict[Any, bytes] = {}
    for digest in sorted(set(content.predicted) & set(content.by_digest)):
        trial, found = content.by_digest[digest], content.predictions(digest)
        where, place = name_of(trial), (trial.depends.get("responses"), trial.depends.get("split"), trial.fold)
        if found.content != trial.content:
            report.add("V081", f"have the digest {found.content}", where)
        for what in _impossible(trial, found):
            report.add("V082", what, where)
        if fills.setdefault(place, found.train_mean.tobytes()) != found.train_mean.tobytes():
            report.add("V084", "another train mean than in other trials of the fold", where)
        assert found.values is not None
        if trial.role == "baseline":
            right = np.broadcast_to(baseline_row(trial.probe, found.train_mean), found.values.shape)
        else:
            right = np.where(found.covered[:, None], found.values, found.train_mean)
        if not np.array_equal(found.values, right, equal_nan=True):
            report.add("V084", "an id not covered, or of a baseline, is not predicted as it must be", where)


def _impossible(trial: TrialRecord, found: Predictions) -> list[str]:
    values = found.values
    assert values is not None
    out = [] if np.isfinite(values).all() and np.isfinite(found.train_mean).all() else ["are not finite"]
    if not out and has_classes(trial.response):
        half = values.shape[1] // 2
        if values.min(initial=0) < -1e-6 or (values[:, :half] + values[:, half:]).max(initial=0) > 1 + 1e-5:
            out.append("are no probabilities")
    expected = found.expected_error
    if expected is not None and (np.isinf(expected).any() or (expected < 0).any()):
        out.append("expect an error that cannot be")
    return out


def check_against(content: Content, reference: Reference | None, report: Report) -> None:
    """Compare tasks, baselines and predictions with responses at hand: V083, V084, V090 to V096."""
    if reference is None:
        report.add("V096", "give --against RESULTS or SCREEN", "file")
        return
    for task in content.manifest.tasks:
        if _check_task(task, reference, report):
            ids, values, readouts = reference.read(task.responses)
            _check_truth(content, task, ids, values, readouts, report)
    _check_same_trials(content, reference, report)


def _check_task(task: TaskRecord, reference: Reference, report: Report) -> bool:
    where = " · ".join(task_of(task))[:200]
    names = reference.tasks.get(task.responses)
    if names is None:
        same = any((task.screen, task.context, task.response) in found for found in reference.tasks.values())
        report.add(
            "V090", "other responses than those of this name here" if same else "responses that are not here", where
        )
        return False
    if (task.screen, task.context, task.response) not in names:
        report.add("V094", f"is called {first(' · '.join(n) for n in sorted(names))} here", where)
    if reference.splits is not None and task.split_digest not in reference.splits[task.responses]:
        report.add("V091", f"split {task.split_digest[:12]} was not used here", where)
    return True


def _check_truth(
    content: Content,
    task: TaskRecord,
    ids: Sequence[str],
    values: NDArray[Any],
    readouts: Sequence[str],
    report: Report,
) -> None:
    """Check the test ids of every fold, the baselines, and all predictions that there are."""
    where = " · ".join(task_of(task))[:200]
    split, place = content.splits.get(task.split_digest), {i: k for k, i in enumerate(ids)}
    if len(readouts) != task.n_readouts or len(ids) != task.n_perturbations:
        report.add(
            "V092",
            f"{task.n_perturbations} perturbations and {task.n_readouts} read-outs, not {len(ids)} and {len(readouts)}",
            where,
        )
        return
    if split is None or any(i not in split.folds for i in ids):
        report.add("V092", "the split lacks ids of the responses", where)
        return
    for fold in task.folds:
        train, test = split.sides(ids, fold)
        filled = fill_row(task.response, values, [place[i] for i in train])
        truth = values[[place[i] for i in test]]
        for trial in (t for t in content.records if task_of(t) == task_of(task) and t.fold == fold):
            rows = content.rows_of.get(trial.trial)
            if rows is None:
                continue
            frame = content.rows.iloc[rows]
            if frame["pert_id"].tolist() != test:
                report.add("V092", f"fold {fold} has other test ids than the responses here", name_of(trial))
                continue
            if trial.role == "baseline":
                known = np.tile(baseline_row(trial.probe, filled), (len(test), 1))
                _recompute(content, trial, frame, known, truth, filled, report, "V093")
            elif trial.trial in set(content.predicted):
                found = content.predictions(trial.trial)
                assert found.values is not None
                if not np.allclose(found.train_mean, filled, rtol=1e-6, atol=1e-7):
                    report.add("V084", "the train mean is not that of the responses here", name_of(trial))
                _recompute(content, trial, frame, found.values, truth, filled, report, "V083")


def _recompute(
    content: Content, trial: TrialRecord, frame: pd.DataFrame, values: NDArray[Any], truth: NDArray[Any], filled: NDArray[Any],
    report: Report, code: str,
) -> None:  # fmt: skip
    """Score predictions and compare, metric by metric; metrics of genes by their totals under every coverage rule."""
    chosen = [METRICS[m] for m in trial.rules if m in METRICS and trial.response in METRICS[m].kinds]
    comparison = compare(trial.response, values, truth, filled)
    for metric, own in score_rows(comparison, chosen).items():
        if metric in frame and differ(frame[metric].to_numpy(), own, SAME).any():
            report.add(
                code,
                f"{metric} is another for {int(differ(frame[metric].to_numpy(), own, SAME).sum())} id(s)",
                name_of(trial),
            )
    of_genes = [m for m in chosen if m.axis == "gene"]
    if not of_genes:
        return
    masks = {
        "filled": np.ones(len(frame), bool),
        "covered": frame["covered"].to_numpy(),
        "common": _common(content, trial, frame),
    }
    scores = content.scores
    for rule, mask in masks.items():
        made = totals(comparison.part(mask), of_genes)  # type: ignore[union-attr]
        own = scores[(scores["trial"] == trial.trial) & (scores["fallback"] == rule)]
        own = own[(own[list(LABELS)] == [getattr(trial, k) for k in LABELS]).all(axis=1)].set_index("metric")["value"]
        wrong = [m for m, total in made.items() if m in own.index and differ(own[m], total.value, SAME).any()]
        if rule == "common":
            wrong = [m for m in wrong if not np.isnan(own[m])]  # not known where predictions were not kept
        if wrong:
            report.add(code, f"{first(wrong)} ({rule}) of genes", name_of(trial))


def _common(content: Content, trial: TrialRecord, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which test ids every embedding of the task and fold covers."""
    own = [
        t
        for t in content.records
        if task_of(t) == task_of(trial) and t.fold == trial.fold and t.trial in content.rows_of
    ]
    trials = pd.DataFrame([{"trial": t.trial, "role": t.role, **{k: getattr(t, k) for k in LABELS[:5]}} for t in own])
    rows = content.rows[content.rows["trial"].isin(set(trials["trial"]))]
    marked = mark_common(rows, trials.drop_duplicates(["trial", "role"]))
    return marked[rows["trial"] == trial.trial].to_numpy()


def _check_same_trials(content: Content, reference: Reference, report: Report) -> None:
    """Compare scores of the same trials, which may differ by what machines differ by: V095."""
    if reference.scores is None:
        return
    key = ["trial", "context", "fold", "fallback", "metric"]
    here = reference.scores()
    here = here[here["trial"].isin(set(content.by_digest)) & (here["fallback"] != "common")].drop_duplicates(key)
    both = content.scores.drop_duplicates(key).merge(here, on=key, suffixes=("", " here"))
    for row in both[differ(both["value"], both["value here"], FITTED)].head(report.limit + 1).itertuples():
        place = f"{row.context[:40]}, fold {row.fold}, {row.embedding[:40]}, {row.probe[:40]}"
        report.add("V095", f"{row.metric} ({row.fallback}) is {row.value:g}", place)
    report.facts["trials compared"] = int(both["trial"].nunique())

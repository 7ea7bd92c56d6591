"""Trials: are they what they say they are, and are they all there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from panmodal._digest import digest_json
from panmodal.embeddings.controls import IDEALISED, PERMUTED_SUFFIX, RANDOM
from panmodal.errors import PanmodalError
from panmodal.evaluation.compare import baselines
from panmodal.evaluation.trials import BASELINE, RULES
from panmodal.perturbation_ids import canonical
from panmodal.probes.base import CLASSES, CONTINUOUS, probes
from panmodal.screens.splits import audit
from panmodal.submissions.content import Content
from panmodal.submissions.findings import Report, first
from panmodal.submissions.schema import TrialRecord, key_of, task_of
from panmodal.submissions.strict import label_problem, name_problem, read_json

BASELINE_MODALITY, FUSION = "baseline", "fusion"
LONGEST = 30 * 24 * 3600.0
"""Seconds that no trial takes."""
DEPENDS = {"responses", "split", "fold", "embedding", "probe", "standardise", "seed", "rules"}


def name_of(trial: TrialRecord) -> str:
    """Say which trial is meant."""
    return f"trial {trial.trial[:12]} ({trial.context[:40]}, fold {trial.fold}, {trial.embedding[:40]}, {trial.probe[:40]})"


def check_trials(content: Content, report: Report) -> None:
    """Check every trial by itself: V025, V041, V042, V044 to V046."""
    for trial in content.records:
        where = name_of(trial)
        for what in ("screen", "context", "response", "split", "embedding", "probe", "modality"):
            if problem := name_problem(str(getattr(trial, what))):
                report.add("V025", f"{what} {problem}", where)
        try:
            same = digest_json(trial.depends) == trial.trial
        except (ValueError, TypeError, UnicodeEncodeError):
            same = False
        if not same:
            report.add("V041", "is not the digest of what stands in depends", where)
        for what in _labels(trial):
            report.add("V042", what, where)
        for what in _rules(trial):
            report.add("V044", what, where)
        for what in _role(trial):
            report.add("V045", what, where)
        if not 0 <= trial.seconds <= LONGEST or (trial.role != "baseline" and trial.seconds == 0):
            report.add("V046", f"{trial.seconds:g} seconds", where)


def _labels(trial: TrialRecord) -> Iterator[str]:
    depends = trial.depends
    if missing := DEPENDS - set(depends):
        yield f"depends says no {first(sorted(missing))}"
        return
    if depends["fold"] != trial.fold:
        yield f"fold {trial.fold} and depends {depends['fold']!r}"
    probe = depends["probe"]
    if not isinstance(probe, dict) or probe.get("name") != trial.probe:
        yield "the probe is not that of depends"
    if not isinstance(depends["responses"], str) or depends["responses"].rpartition("-")[0] != trial.response:
        yield f"response {trial.response!r} and depends {str(depends['responses'])[:60]!r}"
    none = trial.role == "baseline"
    if none != (depends["embedding"] is None) or not isinstance(depends["embedding"], str | None):
        yield "a baseline depends on no embedding, and every other trial on one"
    if depends["seed"] != (0 if none else trial.seed):
        yield f"seed {trial.seed} and depends {depends['seed']!r}"
    if depends["standardise"] is not (trial.role != "oracle"):
        yield "vectors are standardised but for the oracle"


def _rules(trial: TrialRecord) -> Iterator[str]:
    depends, identity = trial.depends, trial.depends.get("probe")
    if depends.get("rules") != RULES:
        yield "the rules of the run are of another version of panmodal"
    if extra := set(depends) - DEPENDS:
        yield f"depends on {first(sorted(extra))}, which this version does not know"
    if not isinstance(identity, dict):
        return
    if trial.role == "baseline":
        if trial.probe not in baselines(trial.response) or identity != {"name": trial.probe, "rule": 1}:
            yield f"{trial.probe[:40]!r} is no baseline of this kind of response, or of another version"
    elif trial.modality == FUSION:
        yield from _fusion_rules(trial, identity)
    else:
        known = probes().get(trial.probe)
        if known is None or trial.response not in known.kinds:
            yield f"{trial.probe[:40]!r} is no probe of this kind of response"
        elif identity != known.identity():
            yield f"probe {trial.probe!r} has another grid or version here"


def _fusion_rules(trial: TrialRecord, identity: dict[str, Any]) -> Iterator[str]:
    from panmodal.fusion.base import fusion_of

    known = fusion_of(trial.probe)
    if known is None:
        yield f"{trial.probe[:40]!r} is no fusion that this version knows"
    elif identity.get("rule") != known.rule or trial.response not in known.kinds:
        yield f"fusion {trial.probe!r} is of another version here, or does not serve this kind of response"


def _role(trial: TrialRecord) -> Iterator[str]:
    expected = {BASELINE: "baseline", RANDOM: "control", IDEALISED: "oracle"}.get(trial.embedding)
    if expected is None:
        expected = "control" if trial.embedding.endswith(PERMUTED_SUFFIX) else "embedding"
    if trial.role != expected:
        yield f"{trial.embedding[:40]!r} is a {expected}, not a {trial.role}"
    if (trial.modality == BASELINE_MODALITY) != (trial.role == "baseline"):
        yield f"modality {trial.modality[:40]!r} of a {trial.role}"
    if trial.role != "embedding" and trial.seen != "no":
        yield f"a {trial.role} has seen nothing"
    if trial.response not in (*CONTINUOUS, *CLASSES):
        yield f"no kind of response {trial.response[:40]!r}"


def check_choices(content: Content, report: Report) -> None:
    """Check that hyper-parameters are candidates of the probe for as many training ids as there are: V047."""
    covered = content.rows["covered"].to_numpy()
    here = {d: int(covered[rows].sum()) for d, rows in content.rows_of.items()}
    method: dict[Any, int] = {}
    for trial in content.records:
        key = (*task_of(trial), trial.embedding, trial.probe, trial.seed)
        method[key] = method.get(key, 0) + here.get(trial.trial, 0)
    for trial in content.records:
        # What is covered in the other folds is what it was trained on.
        n_train = method[(*task_of(trial), trial.embedding, trial.probe, trial.seed)] - here.get(trial.trial, 0)
        for what in _hyperparameters(trial, n_train, content):
            report.add("V047", what, name_of(trial))


def _hyperparameters(trial: TrialRecord, n_train: int, content: Content) -> Iterator[str]:
    found = read_json(trial.hyperparameters.encode("utf-8", "replace"), name_of(trial), content.archive.limits)
    known = probes().get(trial.probe)
    if not isinstance(found, dict):
        yield "are no mapping"
    elif trial.role == "baseline":
        if found:
            yield "a baseline has none"
    elif known is not None and trial.modality != FUSION:
        value = found.get(known.parameter)
        if set(found) != {known.parameter, "components", "at_edge"} or not isinstance(found["at_edge"], bool):
            yield f"want {known.parameter}, components and at_edge"
        elif not isinstance(value, int | float) or not np.isclose(known.candidates(known.grid, n_train), value).any():
            yield f"{known.parameter} {json.dumps(value)[:40]} is not in its grid for {n_train} training ids"
        elif not isinstance(found["components"], int) or not 1 <= found["components"] <= n_train:
            yield f"{found['components']!r} components of {n_train} training ids"[:200]


def check_completeness(content: Content, report: Report) -> None:
    """Check that trials go by names that mean one thing, and that none is missing: V043, V048, V050 to V054, V027."""
    _check_names(content, report)
    _check_splits(content, report)
    _check_tasks(content, report)
    _check_ids(content, report)


def _check_names(content: Content, report: Report) -> None:
    seen: dict[Any, str] = {}
    meanings: dict[Any, set[Any]] = {}
    for trial in content.records:
        if key_of(trial) in seen:
            report.add("V043", "goes by the name of another trial", name_of(trial))
        seen[key_of(trial)] = trial.trial
        depends = trial.depends
        for what, name in (("responses", task_of(trial)[:3]), ("split", (trial.screen, trial.split))):
            meanings.setdefault((what, name), set()).add(str(depends.get(what)))
        if trial.role != "oracle":
            meanings.setdefault(("embedding", (trial.screen, trial.embedding, trial.seed)), set()).add(
                str(depends.get("embedding"))
            )
        meanings.setdefault(("simulated", trial.screen), set()).add(trial.simulated)
        meanings.setdefault(("modality", trial.embedding), set()).add((trial.role, trial.modality))
    for (what, name), found in meanings.items():
        if len(found) > 1:
            report.add("V048", f"{len(found)} different {what}", str(name)[:200])
    for digest, trial in content.by_digest.items():
        for other in (t for t in content.records if t.trial == digest and t is not trial):
            shared = ("content", "hyperparameters", "rules", "expected_error", "probe", "fold", "response")
            if any(getattr(other, k) != getattr(trial, k) for k in shared):
                report.add("V043", "has another outcome than the same trial under another name", name_of(other))


def _check_splits(content: Content, report: Report) -> None:
    used = {str(t.depends.get("split")) for t in content.records}
    for digest in sorted(used ^ set(content.splits)):
        what = "no folds of this split" if digest in used else "folds that no trial uses"
        report.add("V054", what, f"splits/{digest[:32]}.csv")
    for digest, split in content.splits.items():
        where = f"splits/{digest}.csv"
        if split.digest != digest:
            report.add("V054", f"its folds have the digest {split.digest}", where)
        if any(canonical(i) != i for i in split.folds):
            report.add("V054", "ids are not in their canonical form", where)
        try:
            audit(split, split.folds, "split")
        except PanmodalError as error:
            report.add("V054", str(error)[:300], where)


def _check_tasks(content: Content, report: Report) -> None:
    """Every task of the manifest, and none else, has every method in every fold, and what a board needs as floor."""
    listed = {task_of(t): t for t in content.manifest.tasks}
    found: dict[Any, list[TrialRecord]] = {}
    for trial in content.records:
        found.setdefault(task_of(trial), []).append(trial)
    for name in sorted(set(listed) ^ set(found)):
        report.add("V027", "a task of the manifest without trials, or the other way round", str(name)[:200])
    for name, own in found.items():
        if name not in listed:
            continue
        task, where = listed[name], " · ".join(name)[:200]
        split = content.splits.get(task.split_digest)
        said = (task.responses, task.split_digest, task.simulated, tuple(task.seeds))
        are = {
            (t.depends.get("responses"), t.depends.get("split"), t.simulated, tuple(sorted({o.seed for o in own})))
            for t in own
        }
        if are != {said}:
            report.add("V027", "responses, split, seeds or simulated are not those of its trials", where)
        folds = sorted({t.fold for t in own})
        if folds != task.folds or (split is not None and folds != split.numbers):
            report.add("V050", f"folds {folds} of {split.numbers if split else task.folds}", where)
        methods: dict[tuple[Any, ...], set[int]] = {}
        for trial in own:
            methods.setdefault((trial.embedding, trial.probe, trial.seed), set()).add(trial.fold)
        for method, there in methods.items():
            if sorted(there) != folds:
                report.add("V050", f"{method[0][:40]}, {method[1][:40]} has folds {sorted(there)} of {folds}", where)
        for seed in task.seeds:
            _check_floor({m[:2] for m in methods if m[2] == seed}, own, f"{where}, seed {seed}", report)
    roles = {t.embedding for t in content.records if t.role == "embedding"}
    if sorted(roles) != content.manifest.embeddings or not roles:
        report.add("V027", "embeddings are not those of the trials", "manifest.json")
    if content.manifest.simulated != any(t.simulated for t in content.records):
        report.add("V027", "simulated is not that of the trials", "manifest.json")


def _check_floor(methods: set[tuple[str, str]], own: list[TrialRecord], where: str, report: Report) -> None:
    for name in baselines(own[0].response):
        if (BASELINE, name) not in methods:
            report.add("V053", f"no baseline {name!r}", where)
    used = {t.probe for t in own if t.role == "embedding" and t.modality != FUSION}
    for control in (RANDOM, IDEALISED):
        for probe in sorted(used):
            if (control, probe) not in methods:
                report.add("V053", f"no {control!r} with probe {probe[:40]!r}", where)


def _check_ids(content: Content, report: Report) -> None:
    """Trials of a fold have the same test ids, and those are what the split says: V051, V052, V055, V056."""
    if missing := [d for d in content.by_digest if d not in content.rows_of]:
        report.add("V056", f"no rows of trial(s) {first(missing)}", "perturbations.parquet")
    if extra := [d for d in content.rows_of if d not in content.by_digest]:
        report.add("V056", f"rows of unknown trial(s) {first(extra)}", "perturbations.parquet")
    ids, covered = content.rows["pert_id"].to_numpy(), content.rows["covered"].to_numpy()
    tests: dict[Any, tuple[str, ...]] = {}
    coverage: dict[Any, Any] = {}
    for trial in content.records:
        rows = content.rows_of.get(trial.trial)
        if rows is None:
            continue
        own = tuple(ids[rows])
        place = (*task_of(trial), trial.fold)
        if len(set(own)) < len(own):
            report.add("V056", "an id is there twice", name_of(trial))
        if tests.setdefault(place, own) != own:
            report.add("V051", "other test ids, or another order, than the first trial of its fold", name_of(trial))
        mask = covered[rows]
        if trial.role in ("baseline", "oracle") or trial.embedding == RANDOM:
            if not mask.all():
                report.add("V055", f"{trial.embedding[:40]!r} covers every id", name_of(trial))
        elif coverage.setdefault((*place, trial.embedding, trial.seed), mask.tolist()) != mask.tolist():
            report.add("V055", "covers other ids than another probe on the same embedding", name_of(trial))
    sizes: dict[Any, list[str]] = {}
    folds = {task_of(t): content.splits.get(t.split_digest) for t in content.manifest.tasks}
    for place, own in tests.items():
        split = folds.get(place[:4])
        if split is not None and (odd := [i for i in own if split.folds.get(i) != place[4]]):
            report.add("V052", f"fold {place[4]}: {first(odd)} are not in it", str(place[:4])[:200])
        sizes.setdefault(place[:4], []).extend(own)
    for task in content.manifest.tasks:
        if len(sizes.get(task_of(task), [])) != task.n_perturbations:
            report.add("V052", f"{len(sizes.get(task_of(task), []))} test ids in all folds of {task.n_perturbations}",
                       str(task_of(task))[:200])  # fmt: skip
    for name in ("title", "contact"):
        text = getattr(content.manifest, name)
        if text and (problem := label_problem(text)):
            report.add("V025", f"{name} {problem}", "manifest.json")

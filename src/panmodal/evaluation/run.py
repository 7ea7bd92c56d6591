"""The main job: benchmark embeddings on a screen, store everything, and resume where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._console import Progress
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, StoreError
from panmodal.evaluation.ceilings import store_ceilings
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.execute import Options, run_groups, store_scores
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.evaluation.gene_scores import compile_resampled, compile_totals, trial_comparison
from panmodal.evaluation.imported import keep_imported
from panmodal.evaluation.metrics import METRICS, metrics_for
from panmodal.evaluation.plan import Plan, make_plan
from panmodal.evaluation.scores import tidy_scores
from panmodal.evaluation.store import Store, safe_name
from panmodal.evaluation.trials import Trial, describe_conflicts
from panmodal.evaluation.workspace import lay_out, work_folder
from panmodal.probes.softmax import check_device
from panmodal.screens.ceilings import Ceilings
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, make_split

OVERWRITE = ("never", "missing", "always")


@dataclass(frozen=True)
class Results:
    """A results folder that was run.

    Attributes
    ----------
    path
        The folder.
    plan
        What was asked for.
    computed, reused
        Trials computed now, and found done already.
    """

    path: Path
    plan: Plan
    computed: int
    reused: int

    @property
    def scores(self) -> pd.DataFrame:
        """The tidy score table of the folder: one row per trial, fallback and metric."""
        return Store(self.path).scores()

    @property
    def perturbations(self) -> pd.DataFrame:
        """One row per trial and test perturbation, one column per metric."""
        return Store(self.path).perturbations()

    def leaderboard(self, **options: Any) -> pd.DataFrame:
        """Make the leaderboard of the folder; see :func:`panmodal.insight.leaderboard.leaderboard`."""
        from panmodal.insight.leaderboard import leaderboard

        store = Store(self.path)
        return leaderboard(store.scores(), **store.evidence(), **options)

    def genes(self, trial: str) -> pd.DataFrame:
        """Metrics of each gene (read-out) of a trial on classes, all test ids, by the trial's digest (column ``trial`` of scores).

        Raises
        ------
        StoreError
            The folder has no such trial, or it is none on classes.
        """
        store = Store(self.path)
        found = store.read_genes(trial)
        known = {t.digest: t for t in store.trials()}
        if found is None or trial not in known:
            raise StoreError(f"{self.path}: no values of genes for trial {trial!r}; trials on classes (deg) have them.")
        return found[0].assign(readout=store.read_responses(known[trial].depends["responses"])[2]).set_index("readout")


def run(
    screen: Screen,
    embeddings: Sequence[Embedding],
    out: str | Path,
    *,
    split: Split | None = None,
    folds: int = 5,
    seed: int = 42,
    probes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    permuted: bool = False,
    n_jobs: int | None = None,
    overwrite: str = "missing",
    keep_predictions: bool = True,
    progress: Progress | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    about: dict[str, Any] | None = None,
    ceilings: Ceilings | None = None,
    device: str = "cpu",
    match: str = "auto",
    fusions: Sequence[FusionInput | str] = (),
) -> Results:
    """Benchmark embeddings on a screen.

    For every context, fold, embedding and probe the probe is fitted on the training perturbations and predicts the
    held-out ones. Baselines (no change, train mean), a random embedding and the idealised oracle are always run too.

    Parameters
    ----------
    screen, embeddings
        What was measured, and what is to be compared.
    out
        Results folder; made if absent. What is done in it already is not computed again.
    split
        Folds; ``make_split(screen.pert_ids, n_folds=folds, seed=seed)`` unless given.
    probes, metrics
        Names; all that serve the kind of response unless given.
    permuted
        Also run a row-permuted copy of each embedding.
    n_jobs
        Processes; as many as there are cores unless given.
    overwrite
        ``missing`` computes what is not there; ``never`` refuses a folder that holds trials; ``always`` computes all
        trials of this plan anew and replaces those of the same name whose inputs differ.
    keep_predictions
        Store predictions, so that new metrics need no refitting.
    progress
        Called with (trials done, trials to do).
    on_plan
        Called with the plan before anything is computed.
    about
        Recorded with the run (config, files).
    ceilings
        What the experiment's noise allows (``panmodal ceiling``); scored with the same metrics and kept in the folder.
    device
        Where probes that can use an accelerator compute: ``cpu``, or a torch device such as ``cuda`` (then in one process).
    match
        How ids of embeddings that the screen writes otherwise are found: ``auto``, ``genes``, ``compounds`` or ``exact`` (not).
    fusions
        Fusions of the embeddings to be run beside them, such as ``kernels`` (see :meth:`FusionInput.parse`).

    Raises
    ------
    InputError
        Something about the inputs; see :func:`panmodal.evaluation.plan.make_plan`.
    StoreError
        The folder is of another format, cannot be written, or holds other results under the same names.
    """
    if overwrite not in OVERWRITE:
        raise InputError(f"overwrite is {overwrite!r}; it must be one of {', '.join(OVERWRITE)}.")
    check_device(device)
    if not embeddings:
        raise InputError("no embedding to benchmark; give at least one (--embedding FILE).")
    chosen = [m.name for m in metrics_for(screen.response, metrics)]
    if ceilings is not None:
        ceilings.check(screen)
    split = split or make_split(screen.pert_ids, n_folds=folds, seed=seed)
    asked = [FusionInput.parse(f) if isinstance(f, str) else f for f in fusions]
    plan = make_plan(
        screen, embeddings, split, probe_names=probes, seed=seed, permuted=permuted, match=match, fusions=asked
    )
    if on_plan:
        on_plan(plan)
    store = Store(out, create=True)
    _settle(store, plan.trials, overwrite)
    split.write(store.path / "splits" / f"{safe_name(split.name)}-{split.digest[:8]}.csv")
    readouts = screen.readouts
    for context in screen.contexts:
        ids, values = screen.responses(context)
        store.write_responses(screen.digest(context), ids, values, readouts)
    for source in plan.sources:
        if source.embedding is not None and source.role in ("embedding", "control"):
            store.write_vectors(source.embedding.digest, source.embedding.ids, source.embedding.vectors)
    inputs = _inputs(plan) | ({"ceilings": str(ceilings.path.resolve())} if ceilings else {})
    store.save_run(plan.trials, {**(about or {}), **inputs})
    # Processes would each hold their own copy of the accelerator's library.
    computed = _execute(
        plan, store, chosen, overwrite, n_jobs if device == "cpu" else 1, keep_predictions, progress, device
    )
    if ceilings is not None:
        store_ceilings(store, ceilings, screen, split, seed, chosen, n_jobs or os.cpu_count() or 1)
    compile_scores(store)
    return Results(store.path, plan, computed, len(plan.trials) - computed)


def _settle(store: Store, trials: Sequence[Trial], overwrite: str) -> None:
    """Apply the overwrite mode; refuse to mix trials that only share their names."""
    if overwrite == "never":
        if store.trials():
            raise StoreError(f"{store.path}: holds trials already and --overwrite is never. Give another --out.")
        return
    conflicts = store.conflicts(trials)
    if conflicts and overwrite == "missing":
        raise StoreError(
            f"{store.path}: {len(conflicts)} trial(s) go by the same names but are not the same: {describe_conflicts(conflicts)} "
            "changed. Rename what changed (--name, --embedding NAME=FILE), give another --out, or replace the old "
            "trials with --overwrite always."
        )
    if conflicts:
        store.forget(old for old, _ in conflicts)


def _execute(
    plan: Plan,
    store: Store,
    metrics: list[str],
    overwrite: str,
    n_jobs: int | None,
    keep: bool,
    progress: Progress | None,
    device: str,
) -> int:
    """Compute the trials that are wanted and not there; return their number."""
    seen: set[str] = set()
    todo = []
    for group in plan.groups:
        wanted = []
        for trial in group.trials:
            if trial.digest not in seen and (overwrite == "always" or not store.has_trial(trial.digest)):
                wanted.append(trial)
            seen.add(trial.digest)
        if wanted:
            todo.append(replace(group, trials=tuple(wanted)))
    total = sum(len(g.trials) for g in todo)
    if progress:
        progress(0, total)
    if not todo:
        return 0
    # The widest embeddings take longest; started first, they do not hold up the end.
    todo.sort(key=lambda g: -_width(plan, g.source))
    contexts = {t.context for g in todo for t in g.trials}
    with work_folder() as folder:
        workspace = lay_out(plan, folder, contexts=contexts, sources={g.source for g in todo},
                            ranks=any("Spearman" in m for m in metrics))  # fmt: skip
        options = Options(
            store.path.resolve(), tuple(metrics), tuple(s.standardise for s in plan.sources), keep, device
        )
        done = 0
        for finished in run_groups(todo, workspace, options, n_jobs or os.cpu_count() or 1):
            done += finished
            if progress:
                progress(done, total)
    return total


def _width(plan: Plan, source: int) -> int:
    embedding, fusion = plan.sources[source].embedding, plan.sources[source].fusion
    if fusion is not None:
        return 10**6 + fusion.dims
    return 0 if embedding is None else embedding.dims


def _inputs(plan: Plan) -> dict[str, Any]:
    screen = plan.screen
    return {
        "screen": {
            "name": screen.name, "response": screen.response, "description": screen.description,
            "simulated": screen.simulated, "datasets": list(screen.datasets),
            "digests": {c: screen.digest(c) for c in screen.contexts},
        },
        "split": {"name": plan.split.name, "digest": plan.split.digest, "unseen": plan.split.unseen, "seed": plan.split.seed},
        "embeddings": [
            {"card": s.embedding.card.model_dump(mode="json"), "digest": s.embedding.digest, "role": s.role,
             "covered": len(s.embedding.ids), "asked": len(screen.pert_ids)}
            for s in plan.sources if s.embedding is not None
        ],
        "fusions": [{**s.fusion.record(), "role": s.role} for s in plan.sources if s.fusion is not None],
    }  # fmt: skip


def compile_scores(store: Store) -> pd.DataFrame:
    """Gather the values of all finished trials into ``scores.parquet`` and ``perturbations.parquet``.

    Trials whose values are absent, damaged or of an older formula are scored again from their predictions.
    """
    known = store.trials()
    records = {d: record for d in {t.digest for t in known} if (record := store.trial_record(d)) is not None}
    planned = [t for t in known if t.digest in records]
    done = {t.digest: t for t in planned}
    stored = {digest: _read_values(store, trial) for digest, trial in done.items()}
    # What was lost is scored by the metrics that the other trials of its kind have.
    usual: dict[str, set[str]] = {}
    for digest, values in stored.items():
        if values is not None:
            usual.setdefault(done[digest].response, set()).update(values.rules)
    frames, available, about = [], [], {}
    for digest, trial in done.items():
        found = stored[digest]
        if found is None or any(METRICS[m].rule != r for m, r in found.rules.items() if m in METRICS):
            names = usual.get(trial.response) if found is None else set(found.rules)
            rescore_trial(store, trial, [m.name for m in metrics_for(trial.response) if not names or m.name in names])
            found = _read_values(store, trial)
        assert found is not None
        frames.append(found.rows)
        available += [(digest, metric) for metric in found.rules]
        if found.of_genes is not None:
            about[digest] = found.of_genes
    labels = []
    for trial in planned:
        record = trial.to_record()
        record.pop("depends")
        labels.append({**record, "hyperparameters": records[trial.digest]["hyperparameters"]})
    if not frames:
        raise StoreError(f"{store.path}: no finished trial. Run panmodal run first.")
    rows, trials = pd.concat(frames, ignore_index=True), pd.DataFrame(labels)
    scores = tidy_scores(rows, trials, compile_totals(store, trials, rows, about, done))
    scores = scores.merge(pd.DataFrame(available, columns=["trial", "metric"]), on=["trial", "metric"])
    store.write_perturbations(rows, trials)
    store.compile_ceilings(compile_resampled(trials, about))
    store.compile_fusions(trials)
    store.write_table("scores", scores)
    keep_imported(store)
    return scores


@dataclass(frozen=True)
class _Values:
    """What is stored of a trial's scores: values of perturbations, versions of all formulae, record of the metrics of genes."""

    rows: pd.DataFrame
    rules: dict[str, int]
    of_genes: dict[str, Any] | None


def _read_values(store: Store, trial: Trial) -> _Values | None:
    """Read the scores of a trial; None if a part is absent or damaged."""
    rows = store.read_rows(trial.digest)
    if rows is None:
        return None
    if not has_classes(trial.response):
        return _Values(*rows, None)
    genes = store.read_genes(trial.digest)
    return None if genes is None else _Values(rows[0], {**rows[1], **genes[1]["rules"]}, genes[1])


def rescore_trial(store: Store, trial: Trial, metrics: Sequence[str]) -> None:
    """Compute metrics of a trial from its stored predictions and the stored responses.

    Raises
    ------
    StoreError
        The predictions were not kept.
    """
    found = store.read_trial(trial.digest)
    if found.values is None:
        raise StoreError(
            f"{store.path}: trial {trial.digest} ({trial.embedding}, {trial.probe}) was run without keeping predictions; "
            "run it again with --overwrite always, and keep them, to compute metrics."
        )
    store_scores(store, trial.digest, found, trial_comparison(store, trial, found), metrics)


def rescore(path: str | Path, metrics: Sequence[str] | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Recompute scores from stored predictions, without fitting anything; return the new score table.

    Parameters
    ----------
    path
        Results folder.
    metrics
        Metrics to compute; all that serve each trial's kind of response unless given.
    progress
        Called with (trials done, trials to do).
    """
    from threadpoolctl import threadpool_limits

    store = Store(path)
    trials = {t.digest: t for t in store.trials() if store.has_trial(t.digest)}
    with threadpool_limits(limits=1):
        for k, trial in enumerate(trials.values()):
            if progress:
                progress(k, len(trials))
            rescore_trial(store, trial, [m.name for m in metrics_for(trial.response, metrics)])
    if progress:
        progress(len(trials), len(trials))
    return compile_scores(store)

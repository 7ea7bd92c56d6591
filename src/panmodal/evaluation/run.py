"""The main job: benchmark embeddings on a screen, store everything, and resume where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import loky
import pandas as pd

from panmodal._console import Progress
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, PanmodalError, StoreError
from panmodal.evaluation.ceilings import store_ceilings
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.execute import GroupDone, Options, RunGroup
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.evaluation.invocation import Invocation
from panmodal.evaluation.lite import restrict_plan
from panmodal.evaluation.metrics import metrics_for
from panmodal.evaluation.plan import Group, Plan, make_plan
from panmodal.evaluation.provenance import now
from panmodal.evaluation.store import Store, safe_name
from panmodal.evaluation.trials import Trial, describe_conflicts
from panmodal.evaluation.workspace import lay_out, save_workspace, work_folder
from panmodal.execution.base import Executor, Outcome, make_executor
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
    failed
        Trials that have no result, and why: labels, ``type``, ``message`` and ``traceback`` of each.
    """

    path: Path
    plan: Plan
    computed: int
    reused: int
    failed: tuple[dict[str, Any], ...] = ()

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
    executor: str | Executor = "local",
    retries: int = 2,
    fail_fast: bool = False,
    only: Collection[str] | None = None,
    say: Callable[[str], None] | None = None,
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
    executor
        ``local`` (processes of this machine), ``serial`` (this process), ``dask:ADDRESS`` or ``dask:local``.
    retries
        How often work is given again that was lost or met an error that may pass (a worker killed, a network file system).
    fail_fast
        Stop at the first trial that raises; otherwise it is recorded, and the others go on.
    only
        Digests of the trials to run, of those that the inputs make (``panmodal plan``); all unless given.
    say
        Called with what is worth telling meanwhile, such as that no worker of a cluster is there yet.

    Raises
    ------
    InputError
        Something about the inputs; see :func:`panmodal.evaluation.plan.make_plan`.
    StoreError
        The folder is of another format, cannot be written, or holds other results under the same names.
    PanmodalError
        Every trial failed.
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
    if only is not None:
        plan = restrict_plan(plan, only)
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
    record = store.save_run(plan.trials, {**(about or {}), **inputs})
    log = Invocation(store, {**(about or {}), "run": record.stem})
    # Processes would each hold their own copy of the accelerator's library.
    cores = n_jobs or loky.cpu_count()
    workers = cores if device == "cpu" else 1
    todo = _todo(plan, store, overwrite)
    options = Options(
        store.path.resolve(),
        tuple(chosen),
        tuple(s.standardise for s in plan.sources),
        keep_predictions,
        device,
        fail_fast,
    )
    with log.kept():
        computed = execute(plan, todo, store, options, _executor(executor, workers, len(todo), retries, say), progress)
        failed = _failed(store, plan.trials)
        log.note(computed=computed, reused=len(plan.trials) - computed - len(failed), failed=len(failed))
    if failed and len(failed) == len(plan.trials):
        one = failed[0]
        raise PanmodalError(f"all {len(failed)} trials failed, {one['embedding']} with {one['probe']} in fold {one['fold']} by "
                            f"{one['type']}: {one['message']}. Tracebacks are in {store.path / 'failures'}.")  # fmt: skip
    if ceilings is not None:
        store_ceilings(store, ceilings, screen, split, seed, chosen, cores)
    compile_tables(store)
    return Results(store.path, plan, computed, len(plan.trials) - computed - len(failed), tuple(failed))


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


def _todo(plan: Plan, store: Store, overwrite: str) -> list[Group]:
    """Return the groups with trials that are wanted and not there, those that take longest first."""
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
    # Started first, the widest embeddings do not hold up the end.
    return sorted(todo, key=lambda g: -_width(plan, g.source))


def _executor(
    asked: str | Executor, workers: int, groups: int, retries: int, say: Callable[[str], None] | None
) -> Executor:
    if not isinstance(asked, str):
        return asked
    if asked == "local" and min(workers, groups) <= 1:
        asked = "serial"  # a process of its own would only cost its start
    return make_executor(asked, workers=min(workers, max(groups, 1)), retries=retries, say=say)


def execute(
    plan: Plan,
    todo: Sequence[Group],
    store: Store,
    options: Options,
    executor: Executor,
    progress: Progress | None = None,
) -> int:
    """Compute groups of trials; return how many trials are finished.

    Trials whose worker is lost again and again are recorded as failed, like those that raise.
    """
    total, done = sum(len(g.trials) for g in todo), 0
    if progress:
        progress(0, total)
    if not todo:
        return 0
    shared = executor.name.startswith("dask")
    contexts = {t.context for g in todo for t in g.trials}
    # Workers on other machines see the results folder, and not this machine's folder for temporary files.
    with executor, work_folder(store.path / "work" if shared else None) as folder:
        workspace = lay_out(plan, folder.resolve(), contexts=contexts, sources={g.source for g in todo},
                            ranks=any("Spearman" in m for m in options.metrics), digests=shared)  # fmt: skip
        task = RunGroup(*save_workspace(workspace, folder.resolve()), options)
        finished = 0
        for outcome in executor.map(task, todo):
            finished += len(todo[outcome.index].trials)
            done += _settled(outcome, todo[outcome.index], store, options.fail_fast)
            if progress:
                progress(finished, total)
    return done


def _settled(outcome: Outcome, group: Group, store: Store, fail_fast: bool) -> int:
    """Return how many trials of a group are finished; record the others if the group as a whole has failed."""
    if outcome.fault is None:
        assert isinstance(outcome.value, GroupDone)
        return outcome.value.done
    fault = outcome.fault
    if fail_fast:
        raise PanmodalError(fault.message)
    left = [t for t in group.trials if not store.has_trial(t.digest)]
    for trial in left:
        store.write_failure(trial.digest, {
            **trial.to_record(), "type": fault.type, "message": fault.message, "traceback": fault.traceback, "when": now(),
            "host": fault.worker, "attempts": fault.attempts,
        })  # fmt: skip
    return len(group.trials) - len(left)


def _failed(store: Store, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the records of the trials of a plan that have no result."""
    wanted = {t.digest for t in trials}
    return [r for r in store.failures() if r["trial"] in wanted]


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

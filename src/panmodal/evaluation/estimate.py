"""What a plan costs before it is run: seconds, memory and disk of every trial, and how long it takes on many workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from panmodal.errors import InputError
from panmodal.evaluation.cost import (
    DATA_DEPENDENT,
    UNTIMED,
    CostModel,
    Shape,
    added,
    context_steps,
    design_steps,
    metric_steps,
    prepare_steps,
    probe_steps,
    target_steps,
    write_steps,
)
from panmodal.evaluation.metrics import metrics_for
from panmodal.evaluation.plan import Group, Plan, Source
from panmodal.evaluation.schedule import Job
from panmodal.evaluation.trials import Trial
from panmodal.probes.base import CLASSES
from panmodal.probes.projection import n_components

LABELS = ["screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "role", "modality"]
COLUMNS = ["trial", "group", *LABELS, "n_train", "n_test", "dims", "readouts", "seconds", "shared_seconds", "low_seconds",
           "high_seconds", "memory_bytes", "disk_bytes", "done"]  # fmt: skip
"""Columns of a written plan; ``lite`` is added where a subset was chosen."""

BUILT_IN = CostModel(
    {
        "compile": 0.04, "compile.trials": 0.0016, "contexts": 0.005, "design": 0.0011, "design.eigen": 0.06, "design.gram": 0.03,
        "design.passes": 0.0, "design.scores": 0.22, "files": 0.0012, "groups": 0.003, "knn": 0.0015, "knn.neighbours": 2.5,
        "knn.rows": 0.3, "knn.values": 1.0, "knn.votes": 0.4, "knn_classifier": 0.002, "knn_classifier.rows": 0.7,
        "knn_classifier.values": 40.0, "knn_classifier.votes": 0.4, "labels.draws": 1.2, "labels.passes": 5.0, "labels.sorts": 1.4,
        "lasso": 0.0007, "lasso.coefficients": 0.07, "lasso.products": 0.02, "lasso.values": 5.0, "layout.bytes": 1.0,
        "layout.gram": 0.023, "layout.sorts": 3.6, "logistic": 0.05, "logistic.products": 5.0, "metrics.pairs": 0.28,
        "metrics.passes": 0.95, "metrics.products": 0.05, "metrics.sorts": 3.5, "plan": 0.01, "plan.trials": 0.0004, "ridge": 0.0013,
        "ridge.products": 0.1, "ridge.rows": 0.5, "ridge.values": 1.0, "ridge_classifier": 0.006, "ridge_classifier.products": 0.3,
        "ridge_classifier.rows": 0.1, "ridge_classifier.values": 15.0, "targets": 0.5, "trials": 0.0005, "write.bytes": 6.0,
    }, low=0.4, high=3.0, source="built-in prices of a server processor (no calibration: expect a factor of 3)",
)  # fmt: skip
"""Prices of another machine (``python -m panmodal.evaluation.estimate_calibrate`` prints those of this one)."""


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Attributes
    ----------
    trials
        One row per trial that is not a repetition of another: :data:`COLUMNS`. ``seconds`` is the trial's own work and
        ``shared_seconds`` its share of what its group does once, so that their sum over all rows is the work of all workers;
        ``low_seconds`` and ``high_seconds`` are the band of both.
    jobs
        The groups as jobs for :func:`panmodal.evaluation.schedule.simulate`, without what is done already.
    before, after
        Seconds of the parts that one process does: reading and laying out, and gathering the scores.
    unshared
        Seconds that all of it would take if every trial did the shared work for itself.
    model
        The prices.
    memory
        Bytes that the largest worker needs for itself.
    mapped
        Bytes of inputs that are mapped, and that the workers of a machine share.
    disk, scratch
        Bytes of the results, and of the temporary folder while it runs.
    notes
        What a reader should know.
    """

    trials: pd.DataFrame
    jobs: tuple[Job, ...]
    before: float
    after: float
    unshared: float
    model: CostModel
    memory: float
    mapped: float
    disk: float
    scratch: float
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Work of all workers that is still to be done, the serial parts included."""
        todo = self.trials[~self.trials["done"]]
        return float(todo["seconds"].sum() + todo["shared_seconds"].sum()) + self.before + self.after


def estimate_plan(
    plan: Plan, model: CostModel, *, metrics: Sequence[str] | None = None, keep_predictions: bool = True,
    done: Collection[str] = (),
) -> Estimate:  # fmt: skip
    """Estimate every trial of a plan.

    Parameters
    ----------
    plan
        What is to be run (:func:`panmodal.evaluation.plan.make_plan`).
    model
        Prices.
    metrics
        As for the run; all that serve the kind of response unless given.
    keep_predictions
        As for the run.
    done
        Digests of trials that are there already.
    """
    return _Estimator(
        plan, model, [m.name for m in metrics_for(plan.screen.response, metrics)], keep_predictions, done
    ).estimate()


class _Estimator:
    """Walks through the groups of a plan as the executor does."""

    def __init__(self, plan: Plan, model: CostModel, metrics: list[str], keep: bool, done: Collection[str]) -> None:
        self.plan, self.model, self.metrics, self.keep = plan, model, metrics, keep
        self.done = frozenset(done)
        self.response, self.readouts = plan.screen.response, len(plan.screen.readouts)
        self.ids = {c: tuple(plan.screen.ids_in(c)) for c in plan.screen.contexts}
        self.sides: dict[tuple[tuple[str, ...], int], tuple[list[str], list[str]]] = {}
        self.covered: dict[int, frozenset[str]] = {}
        self.matched: dict[tuple[int, tuple[str, ...], int], tuple[int, int, int, int]] = {}
        self.rows: list[dict[str, object]] = []
        self.seen: set[str] = set()
        self.unshared = 0.0
        self.guessed: set[str] = set()

    def estimate(self) -> Estimate:
        jobs = [job for group in self.plan.groups if (job := self._group(group)) is not None]
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        todo = table[~table["done"].astype(bool)]
        contexts = sorted(set(todo["context"]))
        laid = [context_steps(len(self.ids[c]), self.readouts, self.response, self.metrics) for c in contexts]
        kept_ids = [len(self.ids[c]) for c in self.plan.screen.contexts]
        planned = added(
            {"plan": 1.0, "plan.trials": float(len(table))},
            *[prepare_steps(n, self.readouts, self.response) for n in kept_ids],
        )
        before = self.model.seconds(added(planned, *laid)) if len(todo) else 0.0
        after = self.model.seconds({"compile": 1.0, "compile.trials": float(len(table))}) if len(todo) else 0.0
        scratch = float(sum(self._input_bytes(c) for c in contexts)) + sum(
            self._source_bytes(k) for k in {g.source for g in self.plan.groups}
        )
        kept = sum(len(self.ids[c]) * self.readouts * 4.0 for c in contexts)
        memory = float(todo["memory_bytes"].max()) if len(todo) else 0.0
        notes = [f"{p}: nobody has timed this probe or fusion; its times may be off by a factor of {UNTIMED[1]:g}. Give --timings "
                 "of a folder that has run it." for p in sorted(self.guessed)]  # fmt: skip
        notes += [f"{p}: times depend on the data (separable labels take longer), by a factor of {DATA_DEPENDENT[p][1]:g} or so."
                  for p in sorted(set(todo["probe"]) & set(DATA_DEPENDENT))]  # fmt: skip
        gathered = float(table["n_test"].sum()) * 8.0 * (len(self.metrics) + 4)
        if gathered > 4e9:
            notes.append(f"gathering the scores holds about {gathered / 1e9:.0f} GB in one process.")
        return Estimate(
            table.astype({"done": bool}), tuple(jobs), before, after, self.unshared + before + after, self.model, memory, scratch,
            float(todo["disk_bytes"].sum()) + kept, scratch, tuple(notes),
        )  # fmt: skip

    def _group(self, group: Group) -> Job | None:
        source = self.plan.sources[group.source]
        fresh = [t for t in group.trials if t.digest not in self.seen]
        self.seen |= {t.digest for t in fresh}
        todo = [t for t in fresh if t.digest not in self.done]
        built: set[tuple[tuple[str, ...], int]] = set()
        own: list[tuple[Trial, float, Shape]] = []
        shared = self.model.seconds({"groups": 1.0})
        alone, files, written, inputs = 0.0, 0.0, 0.0, {f"source {group.source}": self._source_bytes(group.source)}
        for trial in fresh:
            shape = self._shape(group.source, source, trial)
            seconds = self._trial_seconds(source, trial, shape)
            own.append((trial, seconds, shape))
            if trial.digest in self.done:
                continue
            design = 0.0
            if self._has_design(source):
                design = self.model.seconds(design_steps(shape.n_train, shape.n_test, shape.dims))
                if (key := (self.ids[trial.context], trial.fold)) not in built:
                    built.add(key)
                    shared += design
            alone += seconds + design + self.model.seconds(
                context_steps(len(self.ids[trial.context]), self.readouts, self.response, self.metrics)
            )  # fmt: skip
            steps = write_steps(shape.rows, shape.readouts, self.response, self.keep)
            files, written = files + steps["files"], written + steps["write.bytes"] * 1e9
            inputs[f"context {trial.context}"] = self._input_bytes(trial.context)
        self.unshared += alone
        for trial, seconds, shape in own:
            part = shared / len(todo) if todo and trial.digest not in self.done else 0.0
            self._add(group, source, trial, seconds, part, shape)
        if not todo:
            return None
        name = f"{todo[0].embedding}, fold {group.fold}"
        total = sum(s for t, s, _ in own if t.digest not in self.done) + shared
        return Job(name, total, inputs, files, written)

    def _add(self, group: Group, source: Source, trial: Trial, seconds: float, shared: float, shape: Shape) -> None:
        low, high = self.model.low, self.model.high
        if trial.probe in DATA_DEPENDENT:
            low, high = min(low, DATA_DEPENDENT[trial.probe][0]), max(high, DATA_DEPENDENT[trial.probe][1])
        if source.role != "baseline" and not self.model.timed([trial.probe]):
            self.guessed.add(trial.probe)
            low, high = min(low, UNTIMED[0]), max(high, UNTIMED[1])
        labels = {name: getattr(trial, name) for name in LABELS}
        self.rows.append({
            "trial": trial.digest, "group": f"{group.source}-{group.fold}", **labels, "n_train": shape.n_train,
            "n_test": shape.rows, "dims": shape.dims, "readouts": shape.readouts, "seconds": seconds, "shared_seconds": shared,
            "low_seconds": low * (seconds + shared), "high_seconds": high * (seconds + shared),
            "memory_bytes": self.model.resident + working_set(shape),
            "disk_bytes": 1e9 * write_steps(shape.rows, shape.readouts, self.response, self.keep)["write.bytes"]
            + shape.rows * 8.0 * (len(self.metrics) + 3) + 6000.0,
            "done": trial.digest in self.done,
        })  # fmt: skip

    def _has_design(self, source: Source) -> bool:
        return source.embedding is not None and getattr(source, "fusion", None) is None

    def _shape(self, number: int, source: Source, trial: Trial) -> Shape:
        ids = self.ids[trial.context]
        if (key := (number, ids, trial.fold)) not in self.matched:
            train, test = self._sides(ids, trial.fold)
            known = self._known(number, source)
            n = len(train) if known is None else sum(i in known for i in train)
            m = len(test) if known is None else sum(i in known for i in test)
            self.matched[key] = n, m, len(test), self._dims(source)
        n, m, rows, dims = self.matched[key]
        return Shape(n, m, rows, dims, self.readouts, self.response)

    def _sides(self, ids: tuple[str, ...], fold: int) -> tuple[list[str], list[str]]:
        if (ids, fold) not in self.sides:
            self.sides[ids, fold] = self.plan.split.sides(ids, fold)
        return self.sides[ids, fold]

    def _known(self, number: int, source: Source) -> frozenset[str] | None:
        if source.embedding is None:
            return None
        if number not in self.covered:
            self.covered[number] = frozenset(source.embedding.coverage(self.plan.screen.pert_ids).covered)
        return self.covered[number]

    def _dims(self, source: Source) -> int:
        fusion = getattr(source, "fusion", None)
        if fusion is not None:
            return int(sum(e.dims for e in fusion.embeddings))
        return 0 if source.embedding is None else source.embedding.dims

    def _trial_seconds(self, source: Source, trial: Trial, shape: Shape) -> float:
        steps = added(metric_steps(shape.rows, shape.readouts, self.metrics, self.response),
                      write_steps(shape.rows, shape.readouts, self.response, self.keep), {"trials": 1.0},
                      target_steps(shape.n_train, shape.readouts, self.response))  # fmt: skip
        if source.role != "baseline":
            steps = added(steps, probe_steps(shape, trial.probe))
        return self.model.seconds(steps)

    def _source_bytes(self, number: int) -> float:
        embedding = self.plan.sources[number].embedding
        return 0.0 if embedding is None else 8.0 * len(embedding.ids) * embedding.dims

    def _input_bytes(self, context: str) -> float:
        n, ranks = len(self.ids[context]), any("Spearman" in m for m in self.metrics)
        return n * self.readouts * 4.0 * (3 if ranks else 1) + (0 if self.response in CLASSES else n * n * 8.0)


def working_set(shape: Shape) -> float:
    """Bytes that a worker holds at most beside its libraries and the mapped inputs: responses, predictions, projections, products."""
    n, m, rows, t = shape.n_train, shape.n_test, shape.rows, shape.readouts
    r = n_components(n, shape.dims)
    design = 8.0 * (3 * n * shape.dims + 2 * min(n, shape.dims) ** 2 + 6 * (n + m) * r + n * (n + m))
    if shape.response in CLASSES:
        return design + n * t * 6.0 + 8.0 * 4 * 4 * r * t + rows * t * 4.0 * 10
    return design + 8.0 * (2 * n * t + n * n + 3 * r * t) + 8.0 * rows * t * 8


def write_plan(table: pd.DataFrame, out: str | Path) -> None:
    """Write the trials of a plan as ``.csv``, ``.json`` (records) or ``.parquet``, by the suffix of ``out``.

    Raises
    ------
    InputError
        Another suffix.
    """
    from panmodal._files import atomic_path, write_text

    out = Path(out)
    if out.suffix == ".csv":
        write_text(out, table.to_csv(index=False, float_format="%.6g"))
    elif out.suffix == ".json":
        write_text(out, table.to_json(orient="records", indent=1, double_precision=9) + "\n")
    elif out.suffix == ".parquet":
        with atomic_path(out) as partial:
            table.to_parquet(partial, index=False)
    else:
        raise InputError(f"{out}: a plan is written as .csv, .json or .parquet.")


def read_plan(path: str | Path) -> frozenset[str]:
    """Return the digests of the trials that a written plan wants: all, or those with a true ``lite``.

    Raises
    ------
    InputError
        Not readable, no column ``trial``, or it wants nothing.
    """
    path = Path(path)
    readers = {".csv": lambda p: pd.read_csv(p, dtype={"trial": str}), ".parquet": pd.read_parquet,
               ".json": lambda p: pd.read_json(p, dtype={"trial": str})}  # fmt: skip
    if path.suffix not in readers:
        raise InputError(f"{path}: a plan is a .csv, .json or .parquet file (panmodal plan --out).")
    try:
        table = readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a plan ({error}).") from error
    if "trial" not in table or table["trial"].isna().any():
        raise InputError(f"{path}: no column 'trial' without gaps; is it a table of panmodal plan --out?")
    if "lite" in table:
        wanted = table["lite"].astype(str).str.lower()
        odd = sorted(set(wanted) - {"true", "false"})
        if odd:
            raise InputError(f"{path}: column 'lite' holds {odd[0]!r}; want true or false.")
        table = table[(wanted == "true").to_numpy()]
    if table.empty:
        raise InputError(f"{path}: the plan wants no trial.")
    return frozenset(table["trial"].astype(str))

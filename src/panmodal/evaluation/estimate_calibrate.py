"""Where prices come from: a short calibration on this machine, kept in the user's cache, and the times that results folders record.

``python -m panmodal.evaluation.estimate_calibrate`` prints the prices that are built in.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from panmodal._digest import digest_json
from panmodal._files import write_text
from panmodal._threads import math_threads
from panmodal._version import __version__
from panmodal.errors import InputError, StoreError
from panmodal.evaluation.cost import (
    CostModel,
    Observation,
    Shape,
    Steps,
    added,
    context_steps,
    design_steps,
    fit_costs,
    metric_steps,
    probe_steps,
    target_steps,
    write_steps,
)
from panmodal.evaluation.metrics import metrics_for
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Trial
from panmodal.probes.base import CLASSES, get_probe, probes, select
from panmodal.probes.design import Design, LabelTargets, Targets

SIZES = {
    "lfc": ((90, 24, 40, 300), (150, 90, 40, 1200), (200, 300, 50, 700), (320, 64, 80, 400), (360, 600, 90, 1000),
            (240, 40, 60, 2500), (700, 150, 175, 1500), (150, 1500, 40, 300)),
    "deg": ((400, 20, 100, 100), (600, 40, 150, 60), (150, 90, 40, 400), (320, 64, 80, 150), (500, 150, 120, 120),
            (200, 300, 40, 600)),
}  # fmt: skip
"""Training rows, dims, test rows and read-outs of the calibration, by kind of response."""
DESIGNS = ((500, 1500, 125), (1000, 600, 250), (1000, 200, 250), (900, 1300, 225))
"""Training rows, dims and test rows of further projections."""
RUNS = ((40, 1, 2), (40, 3, 4), (80, 2, 2), (60, 4, 3))
"""Perturbations, contexts and embeddings of the small runs."""
SLOW = 0.4
"""A probe of which a fit took longer than so many seconds is not timed on the sizes that follow."""
SAMPLED = 600
"""Most trials of a results folder whose times are read."""


def fingerprint() -> str:
    """Digest of what times depend on: processor, cores, Python, numpy, version of panmodal."""
    names = [platform.machine(), _processor(), os.cpu_count(), platform.python_version(), np.__version__, __version__]
    return digest_json([str(n) for n in names])[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())


def calibration_path(folder: str | Path | None = None) -> Path:
    """Where the calibration of this machine is kept: ``folder``, or the cache of panmodal."""
    from panmodal.datasets.cache import cache_folder

    return cache_folder(folder) / "calibration" / f"{fingerprint()}.json"


def calibrated(*, renew: bool = False, folder: str | Path | None = None, seconds: Callable[[], CostModel] | None = None
               ) -> CostModel:  # fmt: skip
    """Return the calibration of this machine, measured now (some ten seconds) unless it was before.

    Raises
    ------
    InputError
        The kept calibration is damaged.
    """
    path = calibration_path(folder)
    if path.exists() and not renew:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a calibration ({error}). Remove it, or renew it with --calibrate."
            ) from error
        return CostModel.from_record(record, str(path))
    model = (seconds or calibrate)()
    write_text(path, json.dumps(model.to_record(), indent=1) + "\n")
    return model


def calibrate() -> CostModel:
    """Measure every step on synthetic data with one thread, and a small run for what a trial and a group cost beside."""
    return fit_costs(measure(), source=f"calibration of this machine ({_processor()}, one thread)")


def _timed(call: Callable[[], Any], again: int = 2) -> float:
    """Shortest time of a few calls, of the processor, so that other work on the machine does not count."""
    best = np.inf
    for _ in range(again):
        started = time.process_time()
        call()
        best = min(best, max(time.process_time() - started, 1e-6))
        if best > 0.2:
            break
    return float(best)


def measure() -> list[Observation]:
    """Time projections, probes, metrics, writing and small runs; the times of one size share a group."""
    found: list[Observation] = []
    with math_threads(1), tempfile.TemporaryDirectory(prefix="panmodal-calibration-") as folder:
        for response, sizes in SIZES.items():
            # Whatever is loaded or compiled at first use is not to be counted.
            (warm := Path(folder) / "warm").mkdir(exist_ok=True)
            list(_steps_of(response, 30, 8, 10, 40, 0, set(), warm))
            slow: set[str] = set()
            for number, size in enumerate(sizes):
                found += _steps_of(response, *size, number, slow, Path(folder))
        for n, dims, m in DESIGNS:
            x, x_test, *_ = _data("lfc", n, dims, m, 1)
            spent = _timed(lambda x=x, x_test=x_test: Design.build(x, x_test), 1)  # type: ignore[misc]
            found.append(Observation(design_steps(n, m, dims), spent, f"design-{n}-{dims}"))
        found += list(_small_runs(Path(folder)))
    return found


def _data(response: str, n: int, dims: int, m: int, t: int) -> tuple[Any, Any, Any, Any]:
    """Vectors and responses of training and test rows."""
    rng = np.random.default_rng(n + dims + t)
    latent = rng.standard_normal((n + m, 20))
    x = latent @ rng.standard_normal((20, dims)) + 2.0 * rng.standard_normal((n + m, dims))
    y = latent @ rng.standard_normal((20, t)) * 0.3 + rng.standard_normal((n + m, t))
    if response in CLASSES:
        y = (np.sign(y) * (np.abs(y) > 1.9)).astype(np.int8)
    return x[:n], x[n:], y[:n], y[n:]


def _steps_of(response: str, n: int, dims: int, m: int, t: int, number: int, slow: set[str], folder: Path
              ) -> Iterator[Observation]:  # fmt: skip
    from panmodal.evaluation.compare import fill_row
    from panmodal.evaluation.execute import store_scores
    from panmodal.evaluation.metrics import score_rows
    from panmodal.evaluation.ranks import average_ranks
    from panmodal.evaluation.trials import Predictions
    from panmodal.evaluation.workspace import _gram

    names = [metric.name for metric in metrics_for(response)]
    x, x_test, y, y_test = _data(response, n, dims, m, t)
    shape, group = Shape(n, m, m, dims, t, response), f"{response}-{number}"
    spent = _timed(lambda: Design.build(x, x_test))
    design = Design.build(x, x_test)
    if response not in CLASSES:
        yield Observation(design_steps(n, m, dims), spent, group)
        everything = np.vstack([y, y_test]).astype(np.float32)
        laid = context_steps(n + m, t, response, names)
        for step, call in (("layout.gram", lambda: _gram(everything)), ("layout.sorts", lambda: average_ranks(everything)),
                           ("layout.bytes", lambda: np.save(folder / "laid.npy", everything))):  # fmt: skip
            share = {
                "layout.gram": 1.0,
                "layout.sorts": 0.5,
                "layout.bytes": 1e-9 * everything.nbytes / laid["layout.bytes"],
            }[step]
            yield Observation({step: share * laid[step]}, _timed(call), group)
    targets = LabelTargets(y) if response in CLASSES else Targets.of(y)
    predicted: Any = None
    for probe in probes().values():
        if response not in probe.kinds or probe.name in slow:
            continue
        fresh = Design.build(x, x_test)  # distances and Gram matrices are remembered: each probe pays for its own
        started = time.process_time()
        own = LabelTargets(y) if response in CLASSES else Targets(y.astype(np.float64), targets.gram[:, :])  # type: ignore[union-attr]
        predicted = probe.predict(fresh.final, own, select(probe, fresh, own).value)
        spent = max(time.process_time() - started, 1e-6)
        if spent > SLOW:
            slow.add(probe.name)
        yield Observation(added(probe_steps(shape, probe.name), target_steps(n, t, response)), spent, group)
    del design
    fill = fill_row(response, np.concatenate([y, y_test]), list(range(n)))
    values = predicted.astype(np.float32)
    store = Store(folder / "store", create=True)
    result = Predictions([f"P{k}" for k in range(m)], np.ones(m, bool), values, fill, {"made": "calibration"})
    digest = f"{number:02d}{response}"
    spent = _timed(lambda: store.write_trial(digest, result), 3)
    yield Observation({"write.bytes": write_steps(m, t, response)["write.bytes"], "files": 1.0}, spent, group)
    # Some metrics by themselves, so that the prices of sorts and of pairs can be told apart.
    for some in ([names[0]], *([k] for k in names if k in TELLING), names):
        chosen = metrics_for(response, some)
        score: Callable[..., Any]
        if response in CLASSES:
            score = partial(store_scores, store, digest, result, metrics=some)
        else:
            score = partial(score_rows, metrics=chosen)
        spent = _timed(partial(_compared, score, response, values, y_test, fill), 1)
        files = {"files": 2.0} if response in CLASSES else {}
        yield Observation(added(metric_steps(m, t, some, response), files), spent, group)


def _compared(score: Callable[..., Any], response: str, values: Any, y_test: Any, fill: Any) -> None:
    """Score predictions, what metrics share included."""
    from panmodal.evaluation.compare import compare

    score(comparison=compare(response, values, y_test, fill))


TELLING = ("Spearman", "PDS_L1", "PDS_cosine", "ROC_AUC", "AUPRC")
"""Metrics that are timed by themselves."""


def _small_runs(folder: Path) -> Iterator[Observation]:
    """Whole runs of small screens: what planning, a group, a trial and gathering cost beside the work."""
    from panmodal.embeddings.card import Card
    from panmodal.embeddings.embedding import Embedding
    from panmodal.evaluation.run import run
    from panmodal.screens.screen import Screen

    for number, (n, contexts, embeddings) in enumerate(RUNS):
        rng = np.random.default_rng(number)
        ids, t = [f"P{k:03d}" for k in range(n)], 60
        names = [f"c{k}" for k in range(contexts)]
        screen = Screen.from_arrays(
            rng.standard_normal((n * contexts, t)), ids * contexts, [c for c in names for _ in ids], [f"g{k}" for k in range(t)],
            name=f"calibration-{number}", response="lfc", simulated=True,
        )  # fmt: skip
        given = [
            Embedding(
                tuple(ids), rng.standard_normal((n, 16)), Card(name=f"e{k}", modality="simulated", simulated=True)
            )
            for k in range(embeddings)
        ]
        marks: list[tuple[str, float, int]] = [("start", time.process_time(), 0)]
        plans: list[Any] = []

        def seen(plan: Any, marks: Any = marks, plans: Any = plans) -> None:
            plans.append(plan)
            marks.append(("plan", time.process_time(), 0))

        def progress(done: int, total: int, marks: Any = marks) -> None:
            marks.append(("done", time.process_time(), done))

        run(
            screen,
            given,
            folder / f"run{number}",
            folds=3,
            probes=["knn"],
            metrics=["L2"],
            n_jobs=1,
            on_plan=seen,
            progress=progress,
        )
        end, trials, m = time.process_time(), len(plans[0].trials), n // 3
        group = f"run-{number}"
        begun, planned = marks[0][1], marks[1][1]
        ready, last = marks[2][1], marks[-1][1]
        yield Observation({"plan.trials": float(trials), "plan": 1.0}, ready - begun, group)
        shape, from_embedding = Shape(n - m, m, m, 16, t, "lfc"), (trials - 6 * contexts) // 1
        work = [
            *([added(probe_steps(shape, "knn"), target_steps(n - m, t, "lfc"))] * from_embedding),
            *([added(metric_steps(m, t, ["L2"], "lfc"), write_steps(m, t, "lfc"), {"trials": 1.0})] * trials),
            *([added(design_steps(n - m, m, 16), {"groups": 1.0})] * len(plans[0].groups)),
            *([context_steps(n, t, "lfc", ["L2"])] * contexts),
        ]
        yield Observation(added(*work), last - ready, group)
        yield Observation({"compile.trials": float(trials), "compile": 1.0}, end - last, group)
        del planned


# --- recorded times --------------------------------------------------------------------------------------------------


def read_timings(path: str | Path, most: int = SAMPLED) -> list[Observation]:
    """Read the times that the trials of a results folder record: fitting and predicting, the first of a design with its projection.

    Baselines and oracles (whose vectors are not kept) are left out, as are trials of which something is not there.

    Raises
    ------
    StoreError
        Not a results folder.
    InputError
        It holds no trial with a time.
    """
    store = Store(path)
    responses: dict[str, tuple[list[str], int]] = {}
    vectors: dict[str, tuple[set[str], int]] = {}
    built: set[tuple[Any, ...]] = set()
    found: list[Observation] = []
    trials = [t for t in store.trials() if t.role in ("embedding", "control") and t.depends.get("embedding")]
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(
            (trial.depends["embedding"], trial.depends["split"], trial.fold, trial.screen, trial.response), []
        ).append(trial)
    kept = list(groups.items())
    if len(trials) > most:
        kept = [kept[k] for k in np.linspace(0, len(kept) - 1, max(1, most * len(kept) // len(trials))).astype(int)]
    for key, own in kept:
        for trial in own:
            try:
                done = store.read_trial(trial.digest)
                if (digest := trial.depends["responses"]) not in responses:
                    ids, values, _ = store.read_responses(digest)
                    responses[digest] = ids, values.shape[1]
                if (source := trial.depends["embedding"]) not in vectors:
                    names, matrix = store.read_vectors(source)
                    vectors[source] = set(names), matrix.shape[1]
            except StoreError:
                continue
            test, (ids, t), (known, dims) = set(done.pert_ids), responses[digest], vectors[source]
            train = tuple(i for i in ids if i not in test and i in known)
            covered = int(np.count_nonzero(done.covered))
            shape = Shape(len(train), covered, len(test), dims, t, trial.response)
            steps: Steps = added(probe_steps(shape, trial.probe), target_steps(len(train), t, trial.response))
            if (*key, train) not in built:
                built.add((*key, train))
                steps = added(steps, design_steps(len(train), covered, dims))
            if (seconds := float(done.record.get("seconds", 0.0))) > 0:
                found.append(Observation(steps, seconds, f"{source}-{trial.fold}"))
    if not found:
        raise InputError(
            f"{path}: no trial of an embedding with a recorded time; give a results folder of panmodal run."
        )
    return found


def with_timings(model: CostModel, paths: list[str]) -> CostModel:
    """Fit the prices to the times recorded in results folders; ``model`` stands for what they say nothing about."""
    observations = [o for path in paths for o in read_timings(path)]
    fitted = fit_costs(observations, prior=model, source=f"{len(observations)} recorded trials and {model.source}")
    # Metrics and writing are not recorded: the band of what was calibrated holds for them.
    return CostModel(
        fitted.prices,
        min(fitted.low, model.low),
        max(fitted.high, model.high),
        fitted.source,
        model.resident,
        model.start,
    )


def main() -> None:
    """Print the prices of this machine, as they are built in."""
    model = calibrate()
    lines = [f'    "{step}": {price:.3g},' for step, price in sorted(model.prices.items())]
    sys.stdout.write("\n".join(["{", *lines, "}", f"low {model.low:.3g}, high {model.high:.3g}", ""]))


if __name__ == "__main__":
    get_probe("knn")
    main()

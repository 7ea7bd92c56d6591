"""How a sweep scales over workers: measured on this machine, and simulated for 600 embeddings x 49 contexts x 5 folds x 2 probes.

(a) A simulated screen is run with one worker and with two. The time that panmodal plan would have told before (from the calibration of
this machine) is set beside the time it took, and so is the time that the scheduler's simulation tells from the groups' measured times.

(b) The prices of the calibration (time of the processor) make the jobs of the large sweep; the simulation adds what workers share:
a file system of 2 GB/s (0.5 GB/s for each worker, 5 ms latency, 5000 new files a second), a scheduler (2 ms for each job), stragglers
(lognormal, 0.2), workers that come up within a minute, and the parts that one process does (planning, laying out, gathering).

    python benchmarks/scaling.py             # two minutes or so
    python benchmarks/scaling.py --only-simulate
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from panmodal import Card, Embedding, Screen, run
from panmodal.evaluation.cost import (
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
from panmodal.evaluation.estimate import BUILT_IN, Estimate, estimate_plan
from panmodal.evaluation.estimate_calibrate import calibrate, read_timings, with_timings
from panmodal.evaluation.plan import Plan
from panmodal.evaluation.schedule import Cluster, Job, Simulation, scaling, simulate

PROBES = ("knn", "lasso")
METRICS = (
    "L2",
    "MSE",
    "MAE",
    "Pearson",
    "Spearman",
    "Pearson_centred",
    "Spearman_centred",
    "cosine",
    "PDS_L1",
    "PDS_L2",
    "PDS_cosine",
)


def make_inputs(contexts: int, n: int, genes: int, dims: list[int], seed: int = 0) -> tuple[Screen, list[Embedding]]:
    """Make a screen of low rank plus noise, and embeddings that see its latents through noise."""
    rng = np.random.default_rng(seed)
    latents, ids = rng.standard_normal((n, 30)), [f"G{k:05d}" for k in range(n)]
    blocks = [
        latents @ rng.standard_normal((30, genes)) * 0.02 + 0.06 * rng.standard_normal((n, genes))
        for _ in range(contexts)
    ]
    names = [f"line{c}" for c in range(contexts)]
    screen = Screen.from_arrays(np.vstack(blocks).astype(np.float32), ids * contexts, [c for c in names for _ in ids],
                                [f"g{g}" for g in range(genes)], name="scaling", response="lfc", simulated=True)  # fmt: skip
    made = [
        Embedding(tuple(ids), (latents @ rng.standard_normal((30, d)) + 4 * rng.standard_normal((n, d))).astype(np.float32),
                  Card(name=f"e{k}-{d}", modality="simulated", simulated=True))
        for k, d in enumerate(dims)
    ]  # fmt: skip
    return screen, made


class Watch:
    """Takes the times of a run's phases and of its groups."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.cpu: list[float] = []
        self.plan: Plan | None = None

    def seen(self, plan: Plan) -> None:
        """Keep the plan."""
        self.plan = plan

    def progress(self, done: int, total: int) -> None:
        """Note the time."""
        self.marks.append(time.perf_counter())
        self.cpu.append(time.process_time())


def measured_run(
    screen: Screen, embeddings: list[Embedding], out: Path, jobs: int
) -> tuple[float, float, list[float], float, Watch]:
    """Seconds before the groups, of the groups in all, of each group (one worker), and after them."""
    watch, started = Watch(), time.perf_counter()
    watch.cpu.append(time.process_time())
    run(screen, embeddings, out, probes=PROBES, n_jobs=jobs, on_plan=watch.seen, progress=watch.progress)
    ended = time.perf_counter()
    watch.cpu.append(time.process_time())
    steps = np.diff(watch.marks).tolist()
    return watch.marks[0] - started, watch.marks[-1] - watch.marks[0], steps, ended - watch.marks[-1], watch


def told(name: str, estimate: Estimate, trials: float, before: float, after: float) -> None:
    own = float((estimate.trials["seconds"] + estimate.trials["shared_seconds"]).sum())
    print(f"  {name:50} trials {own:7.1f} s ({trials / max(own, 1e-9):4.2f}), planning and laying out {estimate.before:5.2f} s "
          f"({before / max(estimate.before, 1e-9):4.2f}), gathering {estimate.after:5.2f} s "
          f"({after / max(estimate.after, 1e-9):4.2f})")  # fmt: skip


def measure(arguments: argparse.Namespace) -> CostModel:
    """Run (a) for real, and print what would have been told of it before."""
    print(f"(a) measured: {arguments.contexts} contexts x {arguments.perturbations} perturbations x {arguments.genes} genes, "
          f"embeddings of {arguments.dims} dims, 5 folds, {' and '.join(PROBES)}, all metrics; {os.cpu_count()} cores")  # fmt: skip
    screen, embeddings = make_inputs(arguments.contexts, arguments.perturbations, arguments.genes, arguments.dims)
    started = time.perf_counter()
    calibrated = calibrate()  # this loads the libraries as well
    print(f"  calibration {time.perf_counter() - started:.1f} s, band {calibrated.low:.2f} to {calibrated.high:.2f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = measured_run(screen, embeddings, folder / "one", 1)
        two = measured_run(screen, embeddings, folder / "two", 2)
        plan = one[4].plan
        assert plan is not None
        before, trials, groups, after, _ = one
        # The first group's time holds the laying out, which is not the trials'.
        laying = calibrated.seconds(
            added(*[context_steps(arguments.perturbations, arguments.genes, "lfc", METRICS)] * arguments.contexts)
        )
        before, trials, groups = before + laying, trials - laying, [max(0.0, groups[0] - laying), *groups[1:]]
        print(
            f"  one worker: planning and laying out {before:.2f} s, trials {trials:.1f} s "
            f"({len(plan.trials)} in {len(groups)} groups), gathering {after:.2f} s"
        )
        # Estimates are of a machine that does nothing else: processor time is what they are to be held against.
        cpu = one[4].cpu
        busy = cpu[1] - cpu[0] + laying, cpu[-2] - cpu[1] - laying, cpu[-1] - cpu[-2]
        print(
            f"  of that, time of the processor: {busy[0]:.2f} s, {busy[1]:.1f} s, {busy[2]:.2f} s (the rest is waiting for it)"
        )
        print("  estimated (in brackets: measured time of the processor / estimated):")
        told("built-in prices", estimate_plan(plan, BUILT_IN), busy[1], busy[0], busy[2])
        estimate = estimate_plan(plan, calibrated)
        told("calibrated", estimate, busy[1], busy[0], busy[2])
        fitted = with_timings(calibrated, [str(folder / "one")])
        told("fitted to its recorded times (not the processor's)", estimate_plan(plan, fitted), trials, before, after)
        recorded = [sum(o.seconds for o in read_timings(folder / k)) for k in ("one", "two")]
    contention = max(0.0, recorded[1] / recorded[0] - 1)
    jobs = [Job(str(k), s) for k, s in enumerate(groups)]
    start = max(0.0, calibrated.start)
    print(
        f"  two workers: planning {two[0]:.2f} s, trials {two[1]:.1f} s, gathering {two[3]:.2f} s; "
        f"fits take {1 + contention:.2f} times as long as alone"
    )
    wholes = [sum((r[0], r[1], r[3])) for r in (one, two)]
    print("  simulated from the groups' times (makespan, in brackets measured / simulated):")
    for w, whole in zip((1, 2), wholes, strict=True):
        base = Cluster(w, before=before, after=after, start=0.0 if w == 1 else start, per_machine=w, dispatch=0.002)
        plain, slowed = simulate(jobs, base), simulate(jobs, replace(base, contention=contention))
        print(f"    {w} worker(s): measured {whole:6.1f} s; simulated {plain.makespan:6.1f} s ({whole / plain.makespan:.2f}), "
              f"with the measured slowing-down {slowed.makespan:6.1f} s ({whole / slowed.makespan:.2f})")  # fmt: skip
    print(
        f"  speed-up of two workers: measured {wholes[0] / wholes[1]:.2f} in all, {one[1] / two[1]:.2f} in the trials"
    )
    return calibrated


def large_jobs(model: CostModel, embeddings: int, contexts: int, folds: int, n: int, genes: int, metrics: tuple[str, ...],
               seed: int = 0) -> tuple[list[Job], float, float, int]:  # fmt: skip
    """Make the jobs of the large sweep, one for each embedding and fold, oracles too; serial seconds before and after; trials."""
    dims = np.exp(np.random.default_rng(seed).uniform(np.log(64), np.log(4096), embeddings)).astype(int).tolist()
    m, train = n // folds, n - n // folds
    inputs = {f"context {c}": n * genes * 12.0 + n * n * 8.0 for c in range(contexts)}
    around = added(
        metric_steps(m, genes, metrics, "lfc"),
        write_steps(m, genes, "lfc"),
        {"trials": 1.0},
        target_steps(train, genes, "lfc"),
    )
    jobs, trials = [], 0

    def job(name: str, d: int, own: dict[str, float]) -> Job:
        shape, k = Shape(train, m, m, d, genes, "lfc"), len(own)
        spent = model.seconds(added(design_steps(train, m, d), {"groups": 1.0}))
        spent += k * sum(model.seconds(added(around, probe_steps(shape, p))) for p in PROBES)
        written = k * len(PROBES) * m * genes * 4.0
        return Job(name, spent, {**own, name.rpartition(",")[0]: 8.0 * n * d}, 2.0 * k * len(PROBES), written)

    for fold in range(folds):
        for k, d in enumerate([*dims, 128]):
            jobs.append(job(f"embedding {k} ({d} dims), fold {fold}", d, inputs))
        jobs += [job(f"oracle of {c}, fold {fold}", 100, {c: size}) for c, size in inputs.items()]
        trials += (len(dims) + 2) * contexts * len(PROBES) + 2 * contexts
    before = model.seconds(
        added(
            {"plan": 1.0, "plan.trials": float(trials)},
            *[added(context_steps(n, genes, "lfc", metrics), prepare_steps(n, genes, "lfc"))] * contexts,
        )
    )
    return jobs, before, model.seconds({"compile": 1.0, "compile.trials": float(trials)}), trials


def show(jobs: list[Job], before: float, after: float, cluster: Cluster, workers: list[int], title: str) -> Simulation:
    cluster = replace(cluster, before=before, after=after)
    table = scaling(jobs, cluster, workers)
    print(f"\n{title}")
    print(table.to_string(index=False, formatters={
        "hours": "{:.2f}".format, "speed_up": "{:.1f}".format, "efficiency": "{:.1%}".format, "utilisation": "{:.1%}".format,
        "wasted": "{:.1%}".format,
    }))  # fmt: skip
    found = simulate(jobs, replace(cluster, workers=64))
    limits = ", ".join(f"{k} {v / 60:.1f} min" for k, v in sorted(found.limits.items(), key=lambda x: -x[1]))
    lost = ", ".join(f"{k} {100 * v:.1f} %" for k, v in sorted(found.lost.items(), key=lambda x: -x[1]) if v > 0.001)
    print(
        f"at 64 workers: {found.makespan / 60:.0f} min, efficiency {found.efficiency:.1%}; no quicker than: {limits}; lost: {lost}"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, default=2)
    parser.add_argument("--perturbations", type=int, default=600)
    parser.add_argument("--genes", type=int, default=2500)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--only-simulate", action="store_true", help="with the built-in prices, without (a)")
    arguments = parser.parse_args()
    pd.set_option("display.width", 200)
    model = BUILT_IN if arguments.only_simulate else measure(arguments)
    workers = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    cluster = Cluster(1, latency=0.005, bandwidth=2e9, per_worker=0.5e9, files_per_second=5000, dispatch=0.002, overhead=0.02,
                      straggle=0.2, late=60.0, start=model.start)  # fmt: skip
    for n, genes, what in (
        (380, 2000, "as many compounds as Tahoe-100M"),
        (2386, 6640, "as many knockdowns as the Essential screen"),
    ):
        jobs, before, after, trials = large_jobs(model, 600, 49, 5, n, genes, METRICS)
        work = sum(j.seconds for j in jobs) + before + after
        title = (f"(b) simulated: 600 embeddings x 49 contexts x 5 folds x 2 probes, {n} perturbations x {genes} read-outs ({what}): "
                 f"{trials} trials in {len(jobs)} jobs, {work / 3600:.0f} core-hours; "
                 f"{sum(j.written for j in jobs) / 1e12:.2f} TB of predictions")  # fmt: skip
        show(jobs, before, after, cluster, workers, title)
        print(
            f"of the time, one process alone plans and lays out for {before / 60:.1f} min and gathers for {after / 60:.1f} min; "
            "without these:"
        )
        alone = simulate(jobs, replace(cluster, workers=64))
        print(
            f"at 64 workers: {alone.makespan / 60:.0f} min, efficiency {alone.efficiency:.1%}, "
            f"bound by {alone.bound}, most lost to {alone.waste}"
        )


if __name__ == "__main__":
    main()

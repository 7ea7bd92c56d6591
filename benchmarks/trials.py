"""Ten thousand small trials: what a run costs beyond the work itself, and whether memory is flat.

The work is what cannot be left out: fitting, predicting and computing the metrics of every trial, in one process, in a plain loop
with nothing stored. The same trials are then run as `panmodal run` does, by one process, by two and on Dask (--dask): plan, laying
out, workers, files of scores and predictions, records, the compiled tables. Each side runs in a process of its own.

- overhead: (workers x seconds - work) / trials, and the same of the processor's time; with two workers both work and overhead
  suffer from the neighbour on the memory bus, the processor's time as well;
- memory: peak of the main process and of the largest worker, with a fifth of the trials and with all;
- the score tables of all ways must be equal, exactly.

    python benchmarks/trials.py
    python benchmarks/trials.py --trials 2000 --dask
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CONTEXTS, FOLDS, PROBES, PERTURBATIONS, READOUTS, DIMS = 10, 5, ("knn", "ridge"), 60, 50, 16
LABELS = ["context", "embedding", "probe", "fold", "fallback", "metric"]


def inputs(trials: int) -> tuple[Any, list[Any]]:
    """Make a small screen, and embeddings for so many trials."""
    from panmodal import Card, Embedding, Screen

    rng = np.random.default_rng(0)
    latents = rng.standard_normal((PERTURBATIONS, DIMS))
    every = [latents @ rng.standard_normal((DIMS, READOUTS)) for _ in range(CONTEXTS)]
    y = np.vstack([one + rng.standard_normal(one.shape) for one in every])
    ids = tuple(f"P{k:02d}" for k in range(PERTURBATIONS))
    lines = [f"line{c}" for c in range(CONTEXTS) for _ in ids]
    genes = [f"g{k}" for k in range(READOUTS)]
    screen = Screen.from_arrays(y, ids * CONTEXTS, lines, genes, name="small", response="lfc")
    count = -(-trials // (CONTEXTS * FOLDS * len(PROBES)))
    return screen, [
        Embedding(ids, latents + rng.standard_normal(latents.shape), Card(name=f"e{k:05d}", modality="toy"))
        for k in range(count)
    ]


def spent() -> float:
    """Processor time of this process and of those that it has started, seconds."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def work(trials: int) -> dict[str, Any]:
    """Fit, predict and score in a plain loop."""
    from threadpoolctl import threadpool_limits

    from panmodal import make_split
    from panmodal.evaluation.compute import compute_group
    from panmodal.evaluation.metrics import metrics_for, score_rows
    from panmodal.evaluation.plan import make_plan
    from panmodal.evaluation.workspace import lay_out, load_workspace, save_workspace

    screen, embeddings = inputs(trials)
    plan = make_plan(screen, embeddings, make_split(screen.pert_ids, n_folds=FOLDS, seed=42), probe_names=PROBES)
    chosen = list(metrics_for(screen.response, None))
    with tempfile.TemporaryDirectory() as name, threadpool_limits(limits=1):
        sources = {g.source for g in plan.groups}
        laid = lay_out(plan, Path(name), contexts=set(screen.contexts), sources=sources, ranks=True, digests=False)
        workspace = load_workspace(*save_workspace(laid, Path(name)))
        began, cpu, count = time.perf_counter(), spent(), 0
        for group in plan.groups:
            for made in compute_group(group, workspace, standardise=plan.sources[group.source].standardise):
                score_rows(made.job.comparison(made.result), chosen)
                count += 1
        return {"trials": count, "seconds": time.perf_counter() - began, "cpu": spent() - cpu}


def ran(trials: int, how: str, out: Path) -> dict[str, Any]:
    """Run by an executor into a folder."""
    from panmodal import run

    screen, embeddings = inputs(trials)
    began, cpu = time.perf_counter(), spent()
    workers = 1 if how == "serial" else 2
    found = run(screen, embeddings, out, probes=PROBES, folds=FOLDS, executor=how, n_jobs=workers)
    return {
        "trials": found.computed, "seconds": time.perf_counter() - began, "cpu": spent() - cpu, "workers": workers,
        "main": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }  # fmt: skip


def apart(*words: str) -> dict[str, Any]:
    """Do a part in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--part", *words], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "scores.parquet").sort_values(LABELS).reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--dask", action="store_true", help="on a Dask cluster of two processes too")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        what, trials, *rest = given.part
        found = work(int(trials)) if what == "work" else ran(int(trials), what, Path(rest[0]))
        print(json.dumps(found))
        return
    bare = apart("work", str(given.trials))
    own = bare["trials"]
    print(f"the work alone: {own} trials, {bare['seconds']:.1f} s, {1000 * bare['seconds'] / own:.2f} ms for each, "
          f"CPU {bare['cpu']:.1f} s", flush=True)  # fmt: skip
    expected = None
    with tempfile.TemporaryDirectory() as name:
        for how in ("serial", "local", *(["dask:local"] if given.dask else [])):
            small = apart(how, str(given.trials // 5), f"{name}/{how}-small")
            out = Path(name) / how
            found = apart(how, str(given.trials), str(out))
            n = found["trials"]
            wall = 1000 * (found["workers"] * found["seconds"] - bare["seconds"]) / n
            print(f"{how:10}: {n} trials in {found['seconds']:.1f} s with {found['workers']} worker(s); overhead {wall:.2f} ms for "
                  f"each, of the processor {1000 * (found['cpu'] - bare['cpu']) / n:.2f} ms; peak memory of the main process "
                  f"{found['main']:.0f} MB (of {small['trials']} trials {small['main']:.0f} MB)"
                  + (f", of a worker {found['worker']:.0f} MB ({small['worker']:.0f} MB)" if how != "serial" else ""),
                  flush=True)  # fmt: skip
            scores = table(out)
            if expected is not None:
                pd.testing.assert_frame_equal(scores, expected, check_exact=True)
                print(f"            {len(scores)} scores equal those of one process")
            expected = scores


if __name__ == "__main__":
    main()

"""The results folder with very many small trials: overhead of each trial, and compiling them against reading all at once.

1. Trials of 20 perturbations x 50 read-outs are written as a run writes them (scores, predictions), and looked up as a resumed run
   does: milliseconds for each trial.
2. They are compiled in processes of their own: the straightforward way (all rows in one table), task by task without segments, again
   with them, and after 100 trials more. Peak memory is taken from the kernel.
3. Scores and values of perturbations of both ways must be the same numbers.

    python benchmarks/store.py
    python benchmarks/store.py --trials 100000 --tasks 100 --skip-straightforward
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions, Trial, dependencies

PERTURBATIONS, READOUTS, FOLDS = 20, 50, 5
NAMES = ["L2", "MSE", "MAE", "Pearson", "Spearman", "Pearson_centred", "cosine", "PDS_L1"]
MEMORY = """
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))
"""
STRAIGHTFORWARD = (
    """
import json, sys, time
import pandas as pd
from panmodal.evaluation.scores import tidy_scores
from panmodal.evaluation.store import Store
store = Store(sys.argv[1])
start = time.perf_counter(), time.process_time()
planned = {t.digest: t for t in store.trials()}
records = {d: record for d in planned if (record := store.trial_record(d))}
stored = {d: store.read_rows(d) for d in records}
rows = pd.concat([frame for frame, _ in stored.values()], ignore_index=True)
labels = []
for digest, trial in planned.items():
    if digest in records:
        record = trial.to_record()
        record.pop("depends")
        labels.append({**record, "hyperparameters": records[digest]["hyperparameters"]})
trials = pd.DataFrame(labels)
scores = tidy_scores(rows, trials)
rows.to_parquet(store.path / "perturbations.parquet")
store.write_table("scores", scores)
seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
"""
    + MEMORY
)
COMPACT = (
    """
import json, sys, time
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.store import Store
start = time.perf_counter(), time.process_time()
compile_tables(Store(sys.argv[1]))
seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
"""
    + MEMORY
)


def plan(n_trials: int, n_tasks: int) -> list[Trial]:
    """Lay out trials of embeddings, a fifth of them in each fold, the same number in each task."""
    trials = []
    for k in range(n_trials):
        task, rest = k % n_tasks, k // n_tasks
        name, fold = f"embedding {rest // FOLDS}", rest % FOLDS
        depends = dependencies(
            responses=f"lfc-{task:032x}", split=f"{0:032x}", fold=fold, embedding=f"{rest // FOLDS:032x}", standardise=True,
            probe={"name": "ridge", "grid": [0.1, 1.0, 10.0], "rule": 1}, seed=42,
        )  # fmt: skip
        trials.append(Trial(
            screen=f"screen {task // 4}", context=f"context {task % 4}", response="lfc", split="5 folds", fold=fold, embedding=name,
            probe="ridge", seed=42, role="embedding", modality="drawn", simulated=True, depends=depends,
        ))  # fmt: skip
    return trials


def write(store: Store, trials: list[Trial]) -> dict[str, float]:
    """Write trials; return milliseconds for each."""
    rng = np.random.default_rng(0)
    covered = np.ones(PERTURBATIONS, bool)
    rules = {name: METRICS[name].rule for name in NAMES}
    spent = {"scores": 0.0, "predictions": 0.0, "looking up": 0.0}
    cpu = time.process_time()
    drawing = 0.0
    for trial in trials:
        before = time.process_time()
        ids = [f"P{trial.fold}-{k}" for k in range(PERTURBATIONS)]
        values = rng.random((PERTURBATIONS, READOUTS), dtype=np.float32)
        record = {"hyperparameters": json.dumps({"alpha": 1.0, "components": 20}), "seconds": 0.01}
        rows = {"pert_id": np.array(ids, object), "covered": covered, **{n: rng.random(PERTURBATIONS) for n in NAMES}}
        drawing += time.process_time() - before
        start = time.perf_counter()
        store.write_rows(trial.digest, rows, rules)
        middle = time.perf_counter()
        store.write_trial(trial.digest, Predictions(ids, covered, values, values[0], record))
        end = time.perf_counter()
        assert store.has_trial(trial.digest)
        spent["scores"] += middle - start
        spent["predictions"] += end - middle
        spent["looking up"] += time.perf_counter() - end
    return {
        what: 1000 * seconds / len(trials)
        for what, seconds in {**spent, "all": sum(spent.values()), "CPU": time.process_time() - cpu - drawing}.items()
    }


def child(script: str, folder: Path) -> dict[str, float]:
    """Run a script on the folder in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Write, compile, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--more", type=int, default=100)
    parser.add_argument("--skip-straightforward", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "results", create=True)
        trials = plan(options.trials + options.more, options.tasks)
        first, more = trials[: options.trials], trials[options.trials :]
        store.save_run(first, {"drawn": True})
        spent = write(store, first)
        print(f"{options.trials} trials, {options.tasks} tasks; milliseconds for each trial: "
              + ", ".join(f"{what} {ms:.2f}" for what, ms in spent.items()))  # fmt: skip
        nothing = child("import json, time, panmodal.evaluation.run\nseconds = cpu = 0" + MEMORY, store.path)
        print(f"{'no compilation, imports only':34} {'':25} {nothing['peak']:8.0f} MB")

        def show(what: str, script: str) -> None:
            found = child(script, store.path)
            print(f"{what:34} {found['seconds']:8.2f} s {found['cpu']:8.2f} s CPU {found['peak']:8.0f} MB", flush=True)

        expected = None
        if not options.skip_straightforward:
            show("all at once", STRAIGHTFORWARD)
            expected = store.scores(), store.perturbations()
        show("task by task, from the files", COMPACT)
        if expected is not None:
            agree(expected, store)
        show("task by task, again", COMPACT)
        store.save_run(more, {"drawn": True})
        write(store, more)
        show(f"task by task, {options.more} trials more", COMPACT)
        if expected is not None:
            shutil.rmtree(store.path / "compact")
            scores, rows = store.scores(), store.perturbations()
            show(f"all at once, {options.more} trials more", STRAIGHTFORWARD)
            agree((store.scores(), store.perturbations()), None, (scores, rows))


def agree(
    expected: tuple[pd.DataFrame, pd.DataFrame],
    store: Store | None,
    found: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> None:
    """Check that scores and rows are the same numbers."""
    if found is None:
        assert store is not None
        found = store.scores(), store.perturbations()
    key = ["trial", "pert_id"]
    pd.testing.assert_frame_equal(found[0], expected[0], check_exact=True)
    own, others = (t.sort_values(key, ignore_index=True)[sorted(t.columns)] for t in (found[1], expected[1]))
    pd.testing.assert_frame_equal(own, others, check_exact=True)
    print(f"{'':34} {len(found[0])} scores and {len(found[1])} rows agree")


if __name__ == "__main__":
    main()

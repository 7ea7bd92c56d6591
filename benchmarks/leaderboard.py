"""The leaderboard of very many trials: 500 methods x 100 tasks x 5 folds x 500 perturbations, 125 million values of perturbations.

1. Tables of this size are drawn (a truth for each method, noise for each perturbation) and written as a results folder has them:
   scores.parquet and perturbations.parquet, the rows of a task together.
2. The leaderboard, with bootstrap intervals of the gap closed over perturbations, is made in a process of its own; peak memory is
   taken from the kernel.
3. The whole report is made in another process, which draws its sections from the leading methods on some of the tasks.
4. A few tasks are made again in the straightforward way, pandas on the whole table with pivots, and must agree.

    python benchmarks/leaderboard.py
    python benchmarks/leaderboard.py --methods 50 --tasks 10
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from panmodal.evaluation.rows import StoredRows, task_groups, write_rows
from panmodal.insight.gaps import METHOD, TASK

CHILD = """
import json, sys, time
import pandas as pd
from pathlib import Path
from panmodal.evaluation.rows import StoredRows
from panmodal.insight.leaderboard import leaderboard, overall
folder = Path(sys.argv[1])
start = time.perf_counter()
board = leaderboard(pd.read_parquet(folder / "scores.parquet"), rows=StoredRows(folder / "perturbations.parquet"))
over = overall(board)
seconds = time.perf_counter() - start
board.to_parquet(folder / "board.parquet")
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20
print(json.dumps({"seconds": seconds, "peak": peak, "rows": len(board)}))
"""

REPORT = """
import json, sys, time
import pandas as pd
from pathlib import Path
from panmodal.evaluation.rows import StoredRows
from panmodal.insight.evidence import Evidence
from panmodal.insight.report import make_report
from panmodal.insight.report_write import write_page
folder = Path(sys.argv[1])
start = time.perf_counter()
evidence = Evidence(pd.read_parquet(folder / "scores.parquet"), StoredRows(folder / "perturbations.parquet"))
size = write_page(make_report(evidence), folder / "report.html")
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20
print(json.dumps({"seconds": seconds, "peak": peak, "size": size}))
"""


def draw(folder: Path, n_methods: int, n_tasks: int, n_folds: int, n_perts: int) -> None:
    """Write the tables, a task in memory at a time."""
    rng = np.random.default_rng(0)
    names = [(f"embedding-{k // 2:03d}", ("knn", "ridge")[k % 2], "embedding") for k in range(n_methods - 3)]
    names += [("none", "train mean", "baseline"), ("random", "ridge", "control"), ("idealised", "ridge", "oracle")]
    embedding, probe, role = map(np.array, zip(*names, strict=True))
    truth = 5 + 0.3 * rng.standard_normal(n_methods)
    truth[-3:] = 6.0, 6.05, 3.0
    ids = np.array([f"PERT{k:05d}" for k in range(n_perts)])
    fold_of = np.arange(n_perts) % n_folds
    labels, scores = [], []
    for task in range(n_tasks):
        trial = np.array([[f"{task:04d}{fold:02d}{m:026d}" for m in range(n_methods)] for fold in range(n_folds)])
        for fold in range(n_folds):
            labels.append(pd.DataFrame({
                "screen": f"screen-{task // 4:03d}", "context": f"line-{task % 4}", "response": "lfc", "split": "unseen", "fold": fold,
                "embedding": embedding, "probe": probe, "role": role, "trial": trial[fold],
            }))  # fmt: skip
    trials = pd.concat(labels, ignore_index=True)
    _, tasks = task_groups(trials)
    per_task = n_folds * n_methods

    def groups():
        for task in range(n_tasks):
            hard = rng.gamma(8, 1 / 8, n_perts)
            parts, own = [], trials.iloc[task * per_task : (task + 1) * per_task]
            for fold in range(n_folds):
                there = np.flatnonzero(fold_of == fold)
                values = hard[there] * truth[:, None] + 0.4 * rng.standard_normal((n_methods, len(there)))
                scores.append(values.mean(axis=1))
                parts.append(pd.DataFrame({
                    "trial": np.repeat(own["trial"].to_numpy()[fold * n_methods : (fold + 1) * n_methods], len(there)),
                    "pert_id": np.tile(ids[there], n_methods), "covered": True, "L2": values.ravel(),
                }))  # fmt: skip
            yield pd.concat(parts, ignore_index=True)

    write_rows(folder / "perturbations.parquet", groups(), tasks)
    counts = np.bincount(fold_of, minlength=n_folds)[trials["fold"]]
    table = trials.assign(value=np.concatenate(scores), seed=42, metric="L2", n_test=counts, n_covered=counts, modality="toy",
                          simulated=True, seen="no", hyperparameters="{}", n_scored=counts, n_undefined=0)  # fmt: skip
    pd.concat([table.assign(fallback=f) for f in ("filled", "covered", "common")]).to_parquet(folder / "scores.parquet")


def straightforward(rows: pd.DataFrame, trials: pd.DataFrame, draws: int = 1000) -> pd.DataFrame:
    """Gap closed and its interval of one task, as one would write it with pivots and a loop over draws."""
    table = rows.merge(trials, on="trial")
    wide = table.pivot_table(index=["fold", "pert_id"], columns=METHOD, values="L2")
    rng = np.random.default_rng(1)

    def gap(frame: pd.DataFrame) -> pd.Series:
        means = frame.groupby(level="fold").mean().mean()
        floor, ceiling = means["none", "train mean"], means["idealised", "ridge"]
        return (floor - means) / (floor - ceiling)

    folds = [part for _, part in wide.groupby(level="fold")]
    drawn = [gap(pd.concat([f.iloc[rng.integers(0, len(f), len(f))] for f in folds])) for _ in range(draws)]
    low, high = np.quantile(np.stack([d.to_numpy() for d in drawn]), [0.025, 0.975], axis=0)
    return pd.DataFrame({"gap_closed": gap(wide), "gap_low": low, "gap_high": high})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--perturbations", type=int, default=500, help="in each fold")
    parser.add_argument("--keep", type=Path, help="folder to write the tables to, and to keep them in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        perturbations = options.perturbations * options.folds
        draw(folder, options.methods, options.tasks, options.folds, perturbations)
        size = (folder / "perturbations.parquet").stat().st_size / 2**20
        n = options.methods * options.tasks * perturbations
        print(
            f"{n / 1e6:.0f} million values of perturbations, {size:.0f} MiB, written in {time.perf_counter() - start:.0f} s"
        )
        done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        board = pd.read_parquet(folder / "board.parquet")
        print(
            f"leaderboard of {found['rows']} rows, with intervals: {found['seconds']:.1f} s, peak memory {found['peak']:.2f} GiB"
        )
        done = subprocess.run([sys.executable, "-c", REPORT, str(folder)], check=True, capture_output=True, text=True)
        page = json.loads(done.stdout)
        print(f"report: {page['size'] / 1e6:.1f} MB, {page['seconds']:.1f} s, peak memory {page['peak']:.2f} GiB")
        trials = pd.read_parquet(folder / "scores.parquet").query("fallback == 'filled'")
        stored, seconds = StoredRows(folder / "perturbations.parquet"), []
        for task, own in list(trials.groupby(TASK, sort=False))[:2]:
            rows = stored.of(task, own["trial"].tolist(), ["L2"]).astype({"trial": str, "pert_id": str})
            start = time.perf_counter()
            plain = straightforward(rows, own[["trial", "fold", *METHOD]])
            seconds.append(time.perf_counter() - start)
            ours = board[(board[TASK] == list(task)).all(axis=1)].set_index(METHOD).loc[plain.index]
            np.testing.assert_allclose(ours["gap_closed"], plain["gap_closed"], rtol=1e-9, atol=1e-9)
            spread = (plain["gap_high"] - plain["gap_low"]).to_numpy()
            for side in ("gap_low", "gap_high"):  # other random draws: the bounds agree within their own error
                apart = np.abs(ours[side] - plain[side])[spread > 0] / spread[spread > 0]
                assert apart.max() < 0.15, apart.max()
        per_task = float(np.mean(seconds))
        print(
            f"straightforward, of {len(seconds)} tasks: {per_task:.1f} s a task, reading not counted; the answers agree"
        )
        print(f"ratio {per_task * options.tasks / found['seconds']:.0f}")


if __name__ == "__main__":
    main()

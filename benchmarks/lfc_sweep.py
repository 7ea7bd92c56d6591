"""The LFC sweep at the size of the published Essential screen: panmodal against scikit-learn's GridSearchCV.

Both sides run in this process, on the same trials, with one thread each, and must agree: same chosen hyper-parameter,
L2 within 1e-6. Libraries are imported and warmed up before the clock starts. scikit-learn's side is the protocol as one
would write it: a Pipeline of StandardScaler, PCA and the probe in a GridSearchCV with KFold(5, shuffle=True,
random_state=42), scored by the mean row-wise L2 error.

Then panmodal runs the whole sweep (all contexts, folds, embeddings, controls; all metrics; predictions stored) and its
wall time and peak memory over all processes are printed. The responses are simulated; speed does not depend on that.

    python benchmarks/lfc_sweep.py            # the published size; scikit-learn takes most of the time
    python benchmarks/lfc_sweep.py --scale 0.2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from panmodal import Card, Embedding, Screen, make_split, run
from panmodal.probes import Design, Targets, get_probe, select

PROBES = ("knn", "lasso")


def make_screen(contexts: int, perturbations: int, genes: int, seed: int = 0) -> tuple[Screen, np.ndarray]:
    """Responses of low rank plus noise, and the latents behind them."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((perturbations, 30))
    ids = [f"G{k:05d}" for k in range(perturbations)]
    blocks = [
        (latents @ rng.standard_normal((30, genes)) * 0.02 + 0.05 * rng.standard_normal(genes)
         + 0.06 * rng.standard_normal((perturbations, genes))).astype(np.float32)
        for _ in range(contexts)
    ]  # fmt: skip
    names = [f"line{c}" for c in range(contexts)]
    screen = Screen.from_arrays(
        np.vstack(blocks), ids * contexts, [n for n in names for _ in ids], [f"g{g}" for g in range(genes)],
        name="essential-sized", response="lfc", simulated=True,
    )  # fmt: skip
    return screen, latents


def make_embeddings(screen: Screen, latents: np.ndarray, dims: list[int], seed: int = 1) -> list[Embedding]:
    """Rotated noisy latents of several widths, each covering 95 % of the ids."""
    rng = np.random.default_rng(seed)
    made = []
    for d in dims:
        vectors = latents @ rng.standard_normal((30, d)) + 4.0 * rng.standard_normal((len(latents), d))
        kept = np.sort(rng.choice(len(latents), int(0.95 * len(latents)), replace=False))
        card = Card(name=f"dims-{d}", modality="simulated", simulated=True)
        made.append(Embedding(tuple(screen.pert_ids[k] for k in kept), vectors[kept].astype(np.float32), card))
    return made


def with_sklearn(probe: str, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> tuple[float, np.ndarray]:
    """Run the protocol as written with scikit-learn; return the chosen value and the predictions."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Lasso
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    def l2(true: np.ndarray, predicted: np.ndarray) -> float:
        return -float(np.linalg.norm(true - predicted, axis=1).mean())

    model, name = {"knn": (KNeighborsRegressor(), "n_neighbors"), "lasso": (Lasso(), "alpha")}[probe]
    pipeline = Pipeline([("scale", StandardScaler()), ("pca", PCA(100, svd_solver="full")), ("probe", model)])
    grid = [int(v) if probe == "knn" else v for v in get_probe(probe).grid]
    search = GridSearchCV(pipeline, {f"probe__{name}": grid}, cv=KFold(5, shuffle=True, random_state=42),
                          scoring=make_scorer(l2))  # fmt: skip
    search.fit(x, y)
    return float(search.best_params_[f"probe__{name}"]), search.predict(x_test)


def same_trials(screen: Screen, embeddings: list[Embedding], contexts: int) -> float:
    """Run one fold of every context, embedding and probe on both sides; return scikit-learn's seconds per trial."""
    split = make_split(screen.pert_ids)
    warm = np.random.default_rng(0).standard_normal((200, 110))
    for probe in PROBES:
        select(get_probe(probe), Design.build(warm, warm), Targets.of(warm))
        with_sklearn(probe, warm, warm, warm)
    names = screen.contexts[:contexts]
    ours = theirs = 0.0
    print(
        f"{'embedding':12} {'context':8} {'probe':6} {'chosen':>7} {'panmodal s':>11} {'sklearn s':>10} {'L2 rel. diff':>13}"
    )
    grams = {}
    for context in names:
        ids, values = screen.responses(context)
        started = time.perf_counter()
        grams[context] = Targets.of(values).gram
        spent = time.perf_counter() - started
        ours += spent
        print(f"{'':12} {context:8} {'Gram':6} {'':7} {spent:11.2f}")
    train_ids, test_ids = split.sides(ids, split.numbers[0])
    row = {i: k for k, i in enumerate(ids)}
    for embedding in embeddings:
        train = list(embedding.coverage(train_ids).covered)
        test = list(embedding.coverage(test_ids).covered)
        rows, test_rows = [row[i] for i in train], [row[i] for i in test]
        x, x_test = embedding.matrix(train), embedding.matrix(test)
        started = time.perf_counter()
        design = Design.build(x, x_test)
        spent = time.perf_counter() - started
        ours += spent
        print(f"{embedding.name:12} {'all':8} {'design':6} {'':7} {spent:11.2f}")
        for context in names:
            values = screen.responses(context)[1]
            y, y_test = values[rows].astype(np.float64), values[test_rows]
            for probe in PROBES:
                started = time.perf_counter()
                targets = Targets(y, grams[context][np.ix_(rows, rows)])
                selection = select(get_probe(probe), design, targets)
                mine = get_probe(probe).predict(design.final, targets, selection.value)
                a = time.perf_counter() - started
                started = time.perf_counter()
                value, their = with_sklearn(probe, x, y, x_test)
                b = time.perf_counter() - started
                errors = [np.linalg.norm(p - y_test, axis=1).mean() for p in (mine, their)]
                apart = abs(errors[0] / errors[1] - 1)
                assert selection.value == value, f"{probe}: chose {selection.value}, scikit-learn {value}"
                assert apart < 1e-6, f"{probe}: L2 {errors[0]} against {errors[1]}"
                ours, theirs = ours + a, theirs + b
                print(
                    f"{embedding.name:12} {context:8} {probe:6} {value:7g} {a:11.2f} {b:10.1f} {apart:13.1e}",
                    flush=True,
                )
    trials = len(embeddings) * len(names) * len(PROBES)
    print(
        f"{trials} trials, all work included: panmodal {ours:.1f} s, scikit-learn {theirs:.1f} s, ratio {theirs / ours:.0f}"
    )
    return theirs / trials


class PeakMemory(threading.Thread):
    """Largest sum over this process and its children of memory they do not share, plus shared memory counted once (PSS)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.stopped = 0, threading.Event()

    def run(self) -> None:
        """Sample four times a second until stopped."""
        while not self.stopped.wait(0.25):
            self.peak = max(self.peak, sum(map(self._pss, self._family(os.getpid()))))

    def _family(self, pid: int) -> list[int]:
        found = [pid]
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [p for child in task.read_text().split() for p in self._family(int(child))]
            except OSError:
                continue
        return found

    @staticmethod
    def _pss(pid: int) -> int:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of perturbations and genes")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 640, 2560])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--contexts", type=int, default=4, help="contexts that scikit-learn runs too")
    parser.add_argument("--skip-sklearn", action="store_true")
    arguments = parser.parse_args()
    size = int(2386 * arguments.scale), int(6640 * arguments.scale)
    screen, latents = make_screen(4, *size)
    embeddings = make_embeddings(screen, latents, arguments.dims)
    print(
        f"4 contexts x {size[0]} perturbations x {size[1]} genes, embeddings of {arguments.dims} dims, {os.cpu_count()} cores"
    )
    with threadpool_limits(limits=1):
        per_trial = None if arguments.skip_sklearn else same_trials(screen, embeddings, arguments.contexts)
    with tempfile.TemporaryDirectory() as folder:
        memory = PeakMemory()
        memory.start()
        started = time.perf_counter()
        results = run(screen, embeddings, Path(folder) / "results", probes=PROBES, n_jobs=arguments.jobs)
        wall = time.perf_counter() - started
        memory.stopped.set()
        trials = 4 * 5 * len(PROBES) * len(embeddings)
        print(f"whole sweep: {results.computed} trials ({trials} of the embeddings), all metrics, predictions stored: "
              f"{wall:.0f} s, peak memory {memory.peak / 2**30:.2f} GiB over all processes")  # fmt: skip
        if per_trial is not None:
            estimate = per_trial * trials
            print(
                f"scikit-learn at its measured mean of {per_trial:.0f} s per trial and core: {estimate / 3600:.1f} core hours "
                f"for the {trials} trials of the embeddings alone; panmodal: {wall * arguments.jobs / 3600:.2f} core hours "
                "for the whole sweep"
            )


if __name__ == "__main__":
    main()

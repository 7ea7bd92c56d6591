"""Fusions that need no deep learning, at the size of the published Essential screen; `stack` against scikit-learn.

First a check on a small problem: `stack` as one would write it with scikit-learn (for each modality and probe a Pipeline of
StandardScaler, PCA and a GridSearchCV, its out-of-fold predictions by cross_val_predict over KFold(5, shuffle=True,
random_state=42), weights by scipy's SLSQP on the mean row-wise L2 error) must give the same predictions. Both run in this process
with one thread each; libraries are imported and warmed up before the clock starts. Seconds are of processor time.

Then every fusion without an optional dependency is fitted once on all modalities: 1900 training ids, 475 to predict, 6640 read-outs,
20 modalities of 128 to 2560 dims, some ids without some of them. The responses are simulated; speed does not depend on that.
`stack` is timed twice: alone, and on the projections that `late` has left.

    python benchmarks/fusion_linear.py
    python benchmarks/fusion_linear.py --scale 0.2 --fusions late stack
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from panmodal.fusion import ContextTargets, Modalities, Setting, fit_fusion, fusions, get_fusion
from panmodal.fusion import experts as shared
from panmodal.probes import Targets, get_probe
from panmodal.probes.projection import n_components

DIMS = [128, 128, 128, 256, 384, 512, 512, 640, 768, 768, 768, 1024, 1024, 1280, 1280, 1280, 1536, 2048, 2560, 2560]


def make_problem(n: int, t: int, dims: list[int], missing: float, seed: int = 0) -> tuple[Modalities, np.ndarray]:
    """Make modalities that each see some of the latents behind the responses; every third one lacks no id."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n, 30))
    y = latents @ rng.standard_normal((30, t)) * 0.02 + 0.06 * rng.standard_normal((n, t))
    values = {}
    for k, d in enumerate(dims):
        seen = rng.random((30, 1)) < 0.4
        x = latents @ (seen * rng.standard_normal((30, d))) + 3 * rng.standard_normal((n, d))
        x[rng.random(n) < missing * (k % 3)] = np.nan
        values[f"modality-{k}"] = x
    return Modalities.of(values), y


def l2(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.linalg.norm(predicted - true, axis=1)


def with_sklearn(x: Modalities, y: np.ndarray, n: int) -> np.ndarray:
    """Stack ridge and kNN of every modality as written with scikit-learn and SciPy; predict the rows from n on."""
    from scipy.optimize import minimize
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(5, shuffle=True, random_state=42)
    held, final = [], []
    for values in x.values:
        for model, grid in (
            (Ridge(), {"alpha": get_probe("ridge").grid}),
            (KNeighborsRegressor(), {"n_neighbors": get_probe("knn").grid}),
        ):
            search = GridSearchCV(model, grid, cv=folds, scoring=lambda m, a, b: -l2(m.predict(a), b).mean())
            keep = n_components(n, values.shape[1])
            pipeline = Pipeline([("scale", StandardScaler()), ("pca", PCA(keep, svd_solver="full")), ("probe", search)])
            held.append(cross_val_predict(pipeline, values[:n], y[:n], cv=folds))
            # For the final fit the projection too is made anew in each fold, as for a probe alone.
            grid = {f"probe__{name}": candidates for name, candidates in grid.items()}
            pipeline = Pipeline([("scale", StandardScaler()), ("pca", PCA(keep, svd_solver="full")), ("probe", model)])
            search = GridSearchCV(pipeline, grid, cv=folds, scoring=lambda m, a, b: -l2(m.predict(a), b).mean())
            final.append(search.fit(values[:n], y[:n]).predict(values[n:]))
    means = np.empty((n, y.shape[1]))
    for train, test in folds.split(y[:n]):
        means[test] = y[train].mean(axis=0)
    target, members = y[:n] - means, np.stack(held) - means

    def error(v: np.ndarray) -> tuple[float, np.ndarray]:
        residual = target - np.tensordot(v, members, axes=1)
        size = np.linalg.norm(residual, axis=1)
        return size.mean(), -np.einsum("knt,nt->k", members, residual / size[:, None]) / n

    start = np.full(len(members), 1 / len(members))
    found = minimize(error, start, jac=True, bounds=[(0, None)] * len(members), method="SLSQP", options={"ftol": 1e-12})
    mean = y[:n].mean(axis=0)
    return mean + np.tensordot(found.x, np.stack(final) - mean, axes=1)


def with_panmodal(name: str, x: Modalities, y: np.ndarray, n: int) -> tuple[np.ndarray, float, float]:
    """Fit on the first n rows, predict the others; return predictions, and seconds of fitting and of predicting."""
    fusion = get_fusion(name)
    started = time.process_time()
    own = ContextTargets(np.arange(n), Targets.of(y[:n]))
    fitted = fit_fusion(fusion, x.part(np.arange(n)), {"": own}, fusion.settings(), Setting())
    between = time.process_time()
    values = fitted.predict(x.part(np.arange(n, len(x))), "").values
    return values, between - started, time.process_time() - between


def check(n: int, t: int, dims: list[int]) -> None:
    """Compare `stack` with scikit-learn."""
    for size in (60, n):  # the first is for warming up
        x, y = make_problem(size + size // 4, t if size == n else 10, dims if size == n else [4, 5], missing=0.0)
        shared.forget_designs()
        started = time.process_time()
        ours = with_panmodal("stack", x, y, size)[0]
        between = time.process_time()
        if size == n:
            theirs = with_sklearn(x, y, size)
            seconds = between - started, time.process_time() - between
    apart = np.abs(ours - theirs).max() / np.abs(theirs - y[:n].mean(axis=0)).max()
    errors = l2(ours, y[n:]).mean(), l2(theirs, y[n:]).mean()
    assert apart < 1e-3, f"predictions differ by {apart:.1e} of their size"
    print(f"stack, {n} training ids, {t} read-outs, {len(dims)} modalities of {min(dims)} to {max(dims)} dims: "
          f"panmodal {seconds[0]:.1f} s, "
          f"scikit-learn {seconds[1]:.1f} s, ratio {seconds[1] / seconds[0]:.0f}; L2 {errors[0]:.5f} and {errors[1]:.5f}, predictions "
          f"apart by {apart:.1e} of their size")  # fmt: skip


def timed(names: list[str], x: Modalities, y: np.ndarray, n: int) -> None:
    """Time fusions, and print how well they predict."""
    floor = l2(y[:n].mean(axis=0), y[n:]).mean()
    print(f"{'fusion':24} {'fit s':>8} {'predict s':>10} {'L2 / train mean':>16} {'peak GiB':>9}")

    def show(label: str, run: Callable[[], tuple[np.ndarray, float, float]]) -> None:
        values, fit, predict = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{label:24} {fit:8.1f} {predict:10.1f} {l2(values, y[n:]).mean() / floor:16.4f} {peak:9.1f}", flush=True)

    for name in names:
        shared.forget_designs()
        show(name, lambda name=name: with_panmodal(name, x, y, n))
        if name == "late" and "stack" in names:
            show("stack after late", lambda: with_panmodal("stack", x, y, n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of ids, read-outs and dims")
    parser.add_argument("--modalities", type=int, default=len(DIMS), help="how many, from the narrowest")
    parser.add_argument(
        "--missing", type=float, default=0.03, help="share of ids that the second of three modalities lacks"
    )
    parser.add_argument("--fusions", nargs="+", default=[k for k, f in fusions().items() if not f.module])
    parser.add_argument("--skip-sklearn", action="store_true")
    arguments = parser.parse_args()
    with threadpool_limits(limits=1):
        if not arguments.skip_sklearn:
            check(300, 500, [32, 64, 128, 300])
        n, m, t = (int(size * arguments.scale) for size in (1900, 475, 6640))
        dims = [max(2, int(d * arguments.scale)) for d in DIMS[: arguments.modalities]]
        x, y = make_problem(n + m, t, dims, arguments.missing)
        print(
            f"{n} training ids, {m} to predict, {t} read-outs, {len(dims)} modalities of {min(dims)} to {max(dims)} dims, one thread"
        )
        timed(arguments.fusions, x, y, n)


if __name__ == "__main__":
    main()

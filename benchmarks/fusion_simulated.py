"""Fusions where the truth is known: two modalities that know a half each, and one of noise beside one that knows.

Responses are planted latents times loadings, plus noise; vectors are rotations of latents with noise of their own. The gap is
that between the training mean and ridge regression on all latents at once, which no modality holds alone.

1. Halves: which share of the gap a fusion closes, and what the better half closes by ridge. At least 0.9 is asked for.
2. Noise: L2 error less that of ridge on the modality that knows, with the 95 % interval over test perturbations. It must not lie
   above 0: a useless modality must do no harm.

    python benchmarks/fusion_simulated.py                  # all fusions that are installed
    python benchmarks/fusion_simulated.py --seeds 5 --fusion kernels --fusion attention
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from panmodal import FusionCV, ProbeCV
from panmodal.fusion.base import fusions

TRAIN, TEST, LATENTS, READOUTS = 400, 200, 16, 300


def l2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Error of each perturbation."""
    return np.linalg.norm(predicted - truth, axis=1)


def rotated(latents: np.ndarray, dims: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Vectors that hold latents in other coordinates."""
    mixed = latents @ rng.standard_normal((latents.shape[1], dims)) / np.sqrt(latents.shape[1])
    return mixed + noise * rng.standard_normal(mixed.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fusion", action="append", default=[])
    given = parser.parse_args()
    names = given.fusion or [n for n, f in fusions().items() if not f.missing()]
    print(
        f"{TRAIN} training and {TEST} test perturbations, {LATENTS} latents, {READOUTS} read-outs, {given.seeds} seeds\n"
    )
    print(
        "| fusion | halves: gap closed | better half alone | noise: L2 less that of the one that knows | harm | seconds |"
    )
    print("|---|---|---|---|---|---|")
    for name in names:
        closed, single, apart, seconds = [], [], [], 0.0
        for seed in range(given.seeds):
            rng = np.random.default_rng(seed)
            latents = rng.standard_normal((TRAIN + TEST, LATENTS))
            y = latents @ rng.standard_normal((LATENTS, READOUTS)) + 2 * rng.standard_normal((TRAIN + TEST, READOUTS))
            fit, new = slice(0, TRAIN), slice(TRAIN, None)
            floor = l2(y[fit].mean(axis=0), y[new]).mean()
            joint = l2(ProbeCV("ridge").fit(latents[fit], y[fit]).predict(latents[new]), y[new]).mean()
            half = LATENTS // 2
            x = {"one": rotated(latents[:, :half], 32, 0.05, rng), "two": rotated(latents[:, half:], 48, 0.05, rng)}
            began = time.perf_counter()
            found = (
                FusionCV(name).fit({k: v[fit] for k, v in x.items()}, y[fit]).predict({k: v[new] for k, v in x.items()})
            )
            seconds += time.perf_counter() - began
            closed.append((floor - l2(found, y[new]).mean()) / (floor - joint))
            alone = [l2(ProbeCV("ridge").fit(v[fit], y[fit]).predict(v[new]), y[new]).mean() for v in x.values()]
            single.append((floor - min(alone)) / (floor - joint))
            x = {"knows": rotated(latents, 32, 0.2, rng), "noise": rng.standard_normal((TRAIN + TEST, 64))}
            found = (
                FusionCV(name).fit({k: v[fit] for k, v in x.items()}, y[fit]).predict({k: v[new] for k, v in x.items()})
            )
            best = ProbeCV("ridge").fit(x["knows"][fit], y[fit]).predict(x["knows"][new])
            apart.append(l2(found, y[new]) - l2(best, y[new]))
        every = np.concatenate(apart)
        mean, half_width = every.mean(), 1.96 * every.std(ddof=1) / np.sqrt(len(every))
        harm = "yes" if mean - half_width > 0 else "no"
        print(f"| {name} | {np.mean(closed):.2f} ({min(closed):.2f} to {max(closed):.2f}) | {np.mean(single):.2f} | "
              f"{mean:+.2f} ({mean - half_width:+.2f} to {mean + half_width:+.2f}) of {l2(best, y[new]).mean():.1f} | {harm} | "
              f"{seconds / given.seeds:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""Scores of three-class predictions for each gene: panmodal against a loop over genes with scikit-learn.

F1, precision and recall (macro over the classes present in the gene's truth), and ROC AUC and average precision of each class
against the rest, from single-precision probabilities of simulated genes, one thread. Both score the same genes; the answers must
agree, and both ran once before. Then panmodal alone on a full screen, also with resampling weights.

    python benchmarks/deg_metrics.py                     # 400 perturbations x 1,000 genes against the loop
    python benchmarks/deg_metrics.py --genes 6640        # the loop on the full screen
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from panmodal.evaluation.class_ranks import ranking_scores
from panmodal.probes.labels import CLASSES, count, count_chunks, decide, f1, precision, recall


def simulate(m: int, t: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, most of them 0, and probabilities of -1 and 1 that know something of them; m x t."""
    rng = np.random.default_rng(seed)
    rate = rng.beta(0.5, 6.0, t)
    true = np.where(rng.random((m, t)) < rate, rng.choice([-1, 1], (m, t)), 0).astype(np.int8)
    logits = 1.5 * rng.standard_normal((3, m, t)) + 1.5 * np.array([true == label for label in CLASSES])
    shares = np.exp(logits + np.array([-1.5, 0.0, -1.5])[:, None, None])
    lowered, _, raised = (shares / shares.sum(axis=0)).astype(np.float32)
    # One gene in ten is predicted from few neighbours: many ties.
    for values in (lowered, raised):
        values[:, ::10] = np.floor(values[:, ::10] * 8) / 8
    return true, lowered, raised


def compiled(true: np.ndarray, lowered: np.ndarray, raised: np.ndarray) -> dict[str, np.ndarray]:
    counts = count(true, decide(lowered, raised))
    auc, ap = ranking_scores(true, lowered, raised)
    return {"f1": f1(counts), "precision": precision(counts), "recall": recall(counts), "auc": auc, "ap": ap}


def loop(true: np.ndarray, lowered: np.ndarray, raised: np.ndarray) -> dict[str, np.ndarray]:
    t = true.shape[1]
    scores = np.stack([lowered, 1 - lowered - raised, raised])
    predicted = scores.argmax(axis=0) - 1
    out = {name: np.full(t, np.nan) for name in ("f1", "precision", "recall")}
    out |= {name: np.full((3, t), np.nan) for name in ("auc", "ap")}
    for g in range(t):
        truth = true[:, g]
        present = np.unique(truth)
        for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            out[name][g] = score(truth, predicted[:, g], labels=present, average="macro", zero_division=0)
        for k, label in enumerate(CLASSES):
            of_class = truth == label
            if of_class.any():
                out["ap"][k, g] = average_precision_score(of_class, scores[k, :, g])
                if not of_class.all():
                    out["auc"][k, g] = roc_auc_score(of_class, scores[k, :, g])
    return out


def fastest(function: Callable[..., Any], *arguments: Any, times: int = 3) -> tuple[float, Any]:
    """Fewest seconds of some calls, and what the last returned."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def resampled(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.mean([f1(counts).mean(axis=0) for _, counts in count_chunks(true, predicted, weights)], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perturbations", type=int, default=400)
    parser.add_argument("--genes", type=int, default=1_000, help="genes of the comparison")
    parser.add_argument("--full", type=int, default=6_640, help="genes of the full screen, panmodal only")
    parser.add_argument("--resamplings", type=int, default=200)
    options = parser.parse_args()
    m = options.perturbations

    data = simulate(m, options.genes, seed=1)
    few = tuple(a[:, :2] for a in data)
    compiled(*few), loop(*few)
    ours, found = fastest(compiled, *data)
    theirs, expected = fastest(loop, *data, times=1)
    print(f"== F1, precision, recall, ROC AUC and AP of {m} perturbations x {options.genes} genes")
    print(f"scikit-learn, gene by gene {theirs:.2f} s, panmodal {ours:.4f} s, ratio {theirs / ours:.0f}")
    for name, values in expected.items():
        if not np.array_equal(np.isnan(found[name]), np.isnan(values)):
            raise SystemExit(f"{name} is undefined elsewhere")
        worst = np.nanmax(np.abs(found[name] - values))
        print(f"  {name:10s} largest difference {worst:.1e}, mean {np.nanmean(found[name]):.4f}")
        if worst > 1e-12:
            raise SystemExit(f"{name} differs")

    true, lowered, raised = simulate(m, options.full, seed=2)
    seconds, _ = fastest(compiled, true, lowered, raised)
    print(f"\n== panmodal on {m} perturbations x {options.full} genes: {seconds:.3f} s")
    drawn = np.random.default_rng(3).multinomial(m, np.full(m, 1 / m), size=options.resamplings)
    weights, predicted = np.ascontiguousarray(drawn.T, dtype=np.float32), decide(lowered, raised)
    resampled(true[:, :2], predicted[:, :2], weights)
    seconds, _ = fastest(resampled, true, predicted, weights)
    print(f"F1 in {options.resamplings} resamplings of perturbations: {seconds:.3f} s")


if __name__ == "__main__":
    main()

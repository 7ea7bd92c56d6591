"""Results made by hand: truth, predictions, vectors, facts and ceilings, of which single parts can be spoilt."""

import functools
import json
import zlib

import numpy as np
import pandas as pd
import pytest

from panmodal.errors import StoreError
from panmodal.evaluation.metrics import METRICS, Comparison, score_rows
from panmodal.evaluation.scores import tidy_scores
from panmodal.insight.checks import Knowledge, run_checks
from panmodal.insight.evidence import Evidence, Predicted, Truth, Vectors
from panmodal.screens.splits import make_split

METHODS = {
    ("none", "no change"): "baseline", ("none", "train mean"): "baseline", ("good", "ridge"): "embedding", ("fair", "ridge"): "embedding",
    ("random", "ridge"): "control", ("good (permuted)", "ridge"): "control", ("idealised", "ridge"): "oracle",
}  # fmt: skip
METRIC_NAMES = ("L2", "Pearson_centred", "PDS_L2")


class World:
    """Two contexts, two seeds, a clear order of methods and nothing to complain of, until something is changed.

    ``predict[method]`` takes (truth, train mean, rng) of the test rows; ``chosen`` are hyper-parameters by method; ``edit`` changes the
    score table at the end.
    """

    def __init__(self, ids, *, genes=30, contexts=("A", "B"), seeds=(1, 2), n_folds=3, kind="lfc", seed=0):
        rng = np.random.default_rng(seed)
        self.ids, self.kind, self.contexts, self.rng = sorted(ids), kind, contexts, rng
        n = len(self.ids)
        shared = rng.standard_normal((n, genes))
        self.readouts = tuple(f"g{g}" for g in range(genes))
        self.truth = {c: (shared + 0.5 * rng.standard_normal((n, genes)) + 1.0).astype(np.float32) for c in contexts}
        self.folds = {s: dict(make_split(self.ids, n_folds=n_folds, seed=s).folds) for s in seeds}
        self.seen, self.covered, self.dropped, self.chosen = {}, {}, set(), {}
        self.predict = {
            ("none", "no change"): lambda t, m, r: np.zeros_like(t),
            ("none", "train mean"): lambda t, m, r: np.tile(m, (len(t), 1)),
            ("good", "ridge"): lambda t, m, r: t + 0.5 * r.standard_normal(t.shape),
            ("fair", "ridge"): lambda t, m, r: t + 0.8 * r.standard_normal(t.shape),
            ("random", "ridge"): lambda t, m, r: m + 0.5 * r.standard_normal(t.shape),
            ("good (permuted)", "ridge"): lambda t, m, r: m + 0.5 * r.standard_normal(t.shape),
            ("idealised", "ridge"): lambda t, m, r: t + 0.1 * r.standard_normal(t.shape),
        }
        self.vectors = {name: rng.standard_normal((n, 12)) for name in ("good", "fair")}
        self.ceiling = 0.2
        self.quality = pd.concat([pd.DataFrame({
            "screen": "screen", "context": c, "pert_id": self.ids, "n_cells": rng.permutation(n) + 100.0, "n_batches": 3.0,
            "response_norm": rng.uniform(2, 3, n), "null_norm": 1.0, "norm_p": 0.005, "n_deg": 5.0, "reliability": 0.8,
        }) for c in contexts])  # fmt: skip
        self.batches = pd.DataFrame(
            {"pert_id": self.ids, "batch": rng.permutation([f"plate{k % 5}" for k in range(n)])}
        )
        self.runs = [{"screen": {"name": "screen"}, "split": {"name": "unseen", "unseen": "perturbation"}}]
        self.smiles = None
        self.edit = lambda scores: scores

    def at(self, task):
        return {"screen": "screen", "response": self.kind, "split": "unseen", "context": task}

    def evidence(self, **missing):
        rows, trials, predictions, ceilings = [], [], {}, []
        for context in self.contexts:
            truth = self.truth[context].astype(np.float64)
            for seed, folds in self.folds.items():
                for fold in sorted(set(folds.values())):
                    test = np.array([folds[i] == fold for i in self.ids])
                    ids = [i for i, t in zip(self.ids, test, strict=True) if t]
                    mean = truth[~test].mean(axis=0)
                    for method, role in METHODS.items():
                        if (method, fold, seed) in self.dropped or method not in self.predict:
                            continue
                        trial = f"{context}-{seed}-{fold}-{method[0]}-{method[1]}"
                        covered = np.array([i not in self.covered.get(method[0], ()) for i in ids])
                        rng = np.random.default_rng([seed, fold, zlib.crc32(f"{context}{method}".encode())])
                        predicted = self.predict[method](truth[test], mean, rng)
                        predicted[~covered] = mean
                        predictions[trial] = Predicted(
                            tuple(ids), covered, predicted.astype(np.float32), mean.astype(np.float32)
                        )
                        scored = score_rows(
                            Comparison(predicted, truth[test], mean), [METRICS[m] for m in METRIC_NAMES]
                        )
                        rows.append(pd.DataFrame({"trial": trial, "pert_id": ids, "covered": covered, **scored}))
                        chosen = self.chosen.get(method, {"alpha": 1.0, "components": 10, "at_edge": False})
                        trials.append({
                            **self.at(context), "fold": fold, "seed": seed, "embedding": method[0], "probe": method[1], "role": role, "trial": trial,
                            "modality": "toy", "simulated": False, "seen": self.seen.get(method[0], "no"),
                            "hyperparameters": json.dumps(chosen if role != "baseline" else {}),
                        })  # fmt: skip
                    noise = np.full(len(ids), self.ceiling * np.sqrt(truth.shape[1]))
                    ceilings.append(
                        pd.DataFrame(
                            {
                                **self.at(context),
                                "fold": fold,
                                "seed": seed,
                                "estimator": "experimental_error",
                                "pert_id": ids,
                                "L2": noise,
                            }
                        )
                    )
        rows = pd.concat(rows, ignore_index=True)
        scores = self.edit(tidy_scores(rows, pd.DataFrame(trials)))

        def read_truth(task):
            return Truth(tuple(self.ids), self.truth[task[1]], self.readouts)

        def read_vectors(name, screen):
            return Vectors(tuple(self.ids), self.vectors[name])

        parts = {
            "rows": rows, "ceilings": pd.concat(ceilings), "quality": self.quality, "runs": self.runs, "read_truth": read_truth,
            "read_predictions": predictions.__getitem__, "read_vectors": read_vectors,
        }  # fmt: skip
        return Evidence(scores, **{k: v for k, v in parts.items() if k not in missing})

    def check(self, *ignore, options=None, without=(), **knowledge):
        known = Knowledge(self.smiles, self.batches, **knowledge)
        return run_checks(self.evidence(**dict.fromkeys(without)), ignore, options, knowledge=known)


@functools.cache
def lone_genes():
    """Genes without homolog and without partner among themselves, from the shipped tables."""
    known = Knowledge()
    symbols = [s for s in known.genes.table.symbols if s[0] in "ABCDEFGHIK" and s.isalnum()]
    tables = [known._table(name) for name in known._given]
    linked = {}
    for table in tables:
        for a, b in zip(table["a"], table["b"], strict=True):
            linked.setdefault(a, set()).add(b)
            linked.setdefault(b, set()).add(a)
    chosen, blocked = [], set()
    for symbol in symbols:
        if symbol not in blocked and known.genes.table.by_symbol[0].get(symbol):
            chosen.append(symbol)
            blocked |= linked.get(symbol, set())
        if len(chosen) == 3000:
            break
    return chosen


@pytest.fixture(scope="session")
def genes():
    return [str(g) for g in np.random.default_rng(3).permutation(lone_genes())[:120]]


@pytest.fixture
def world(genes):
    return World(genes)


@pytest.fixture(scope="session")
def make_world():
    return World


@pytest.fixture(scope="session")
def absent():
    def reader(*_):
        raise StoreError("not there.")

    return reader

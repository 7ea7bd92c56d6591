"""Time and memory of the attention fusion: one fold, trained on all contexts, and predicted.

The responses are simulated (low rank plus noise) unless a screen is given; speed does not depend on that. Sizes:

- default: that of the shared Replogle task (585 ids, 2 contexts, 7225 read-outs, 4 modalities of 128 dims, some missing);
- ``--essential``: that of the published Essential screen (2386 ids, 4 contexts, 6640 read-outs, 20 modalities of 128 to 1536 dims);
- ``--screen FILE --embedding FILE ...``: a real screen and embeddings; ids are split at random, and the L2 error is printed.

    python benchmarks/attention_fusion.py
    python benchmarks/attention_fusion.py --preset simple --threads 2
    python benchmarks/attention_fusion.py --essential --preset full --epochs 3 --device cuda
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from panmodal.fusion.base import ContextTargets, Modalities, Setting, fit_fusion, get_fusion
from panmodal.probes.design import LabelTargets, Targets


def simulated(ids: int, contexts: int, readouts: int, dims: list[int], seed: int = 0):
    """Responses of each context, and modalities that know their latents with noise and lack a tenth of the ids."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((ids, 30))
    values = {}
    for k, p in enumerate(dims):
        x = np.c_[latents + rng.standard_normal((ids, 30)), rng.standard_normal((ids, 30))] @ rng.standard_normal(
            (60, p)
        )
        x[rng.random(ids) < 0.1] = np.nan
        values[f"modality{k + 1}"] = x
    responses = {
        f"line{c + 1}": latents @ rng.standard_normal((30, readouts)) * 0.02
        + 0.05 * rng.standard_normal(readouts)
        + 0.06 * rng.standard_normal((ids, readouts))
        for c in range(contexts)
    }
    return Modalities.of(values), responses, [np.arange(ids)] * contexts


def real(screen_path: str, embedding_paths: list[str]):
    """Take a screen and embeddings from files."""
    from panmodal import Embedding, Screen

    screen = Screen.read(screen_path)
    ids = sorted({i for c in screen.contexts for i in screen.ids_in(c)})
    where = {i: k for k, i in enumerate(ids)}
    values = {}
    for path in embedding_paths:
        embedding = Embedding.read(path)
        x = np.full((len(ids), embedding.vectors.shape[1]), np.nan)
        for i, vector in zip(embedding.ids, embedding.vectors, strict=True):
            if i in where:
                x[where[i]] = vector
        values[embedding.card.name] = x
    responses, rows = {}, []
    for context in screen.contexts:
        own, measured = screen.responses(context)
        rows.append(np.array([where[i] for i in own]))
        responses[context] = measured.astype(np.float64)
    return Modalities.of(values), responses, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screen")
    parser.add_argument("--embedding", action="append", default=[])
    parser.add_argument("--essential", action="store_true")
    parser.add_argument(
        "--classes", action="store_true", help="labels (the outer thirds of each read-out) instead of numbers"
    )
    parser.add_argument("--preset", default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    own = parser.parse_args()
    import torch

    if own.screen:
        data, responses, rows = real(own.screen, own.embedding)
    elif own.essential:
        data, responses, rows = simulated(2386, 4, 6640, [128, 256, 512, 1024, 1536] * 4)
    else:
        data, responses, rows = simulated(585, 2, 7225, [128] * 4)
    covered = np.flatnonzero(data.covered)
    order = np.random.default_rng(own.seed).permutation(covered)
    test, train = np.sort(order[: len(order) // 5]), np.sort(order[len(order) // 5 :])
    place = np.full(len(data), -1)
    place[train] = np.arange(len(train))
    contexts, truth = {}, {}
    for (context, y), at in zip(responses.items(), rows, strict=True):
        use = place[at] >= 0
        if own.classes:
            low, high = np.quantile(y[use], [1 / 3, 2 / 3], axis=0)
            y = ((y > high).astype(np.int8) - (y < low)).astype(np.int8)
        # The fusion reads no Gram matrix; a wide screen's is not made here.
        own_targets = (
            LabelTargets(y[use]) if own.classes else Targets(y[use].astype(np.float64), np.eye(int(use.sum())))
        )
        contexts[context] = ContextTargets(place[at[use]], own_targets)
        there = np.isin(at, test)
        truth[context] = (at[there], y[there], y[use].mean(axis=0))
    options = {"preset": own.preset} | ({"epochs": own.epochs} if own.epochs else {})
    ticks: list[float] = []
    fusion = get_fusion("attention")
    setting = Setting(seed=own.seed, device=own.device, threads=own.threads,
                      progress=lambda done, total: ticks.append(time.perf_counter()))  # fmt: skip
    started = time.perf_counter()
    fitted = fit_fusion(fusion, data.part(train), contexts, fusion.settings(options), setting)
    took = time.perf_counter() - started
    told = fitted.hyperparameters
    device = torch.cuda.get_device_name(own.device) if own.device.startswith("cuda") else f"CPU, {own.threads} threads"
    print(f"{own.preset} on {device}: {len(train)} ids x {len(contexts)} contexts, {len(data.names)} modalities, "
          f"{told['parameters']:,} parameters")  # fmt: skip
    print(f"fit {took:.1f} s, {len(ticks)} epochs (best {told['best_epoch']}), before the first epoch ended "
          f"{ticks[0] - started:.2f} s, then {np.median(np.diff(ticks)):.3f} s per epoch")  # fmt: skip
    for context, (at, y, mean) in truth.items():
        started = time.perf_counter()
        found = fitted.predict(data.part(at), context).values
        line = f"{context}: predicted {len(at)} ids in {time.perf_counter() - started:.3f} s"
        if not own.classes:
            l2, floor = (np.linalg.norm(x - y, axis=1).mean() for x in (found, mean))
            line += f", L2 {l2:.3f} (training mean {floor:.3f})"
        print(line)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", end="")
    if own.device.startswith("cuda"):
        print(f", on the device {torch.cuda.max_memory_allocated(own.device) / 2**30:.2f} GiB", end="")
    print()


if __name__ == "__main__":
    main()

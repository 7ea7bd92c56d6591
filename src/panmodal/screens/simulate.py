"""A small simulated Perturb-seq screen (responses, not cells) with planted structure, and embeddings of known worth.

The planted structure. Every perturbation i has a latent vector z_i of 12 numbers: the centre of one of 15 modules plus
individual variation of half its size. In context c its response is

    y_i = s_i z_i W_c + m_c + noise,

where W_c (12 x genes) is sparse (each gene listens to 3 of the 12 latents), seven tenths of its variance is shared by the
contexts and the rest is the context's own; s_i is an effect size (log-normal, a third of the perturbations near zero); m_c
is a response common to all perturbations (what "train mean" can predict) and the noise is Gaussian. No gene, drug or
database has any part in it: ids are SIM001, SIM002, ...

The planted embeddings are random rotations into 64 dims of: all latents (``sim-full``); the first half of them
(``sim-half``); all latents under noise of twice their size (``sim-noisy``); all latents, but for a random 60 % of the
ids only (``sim-partial``); other latents drawn anew (``sim-unrelated``). Effect sizes are in none of them. By construction a fair
benchmark ranks sim-full > sim-half > sim-unrelated and puts sim-unrelated at the floor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError
from panmodal.screens.screen import Screen

N_LATENT = 12
MODULES = 15
DIMS = 64
PLANTED = {
    "sim-full": "all planted latents, rotated",
    "sim-half": "half of the planted latents, rotated",
    "sim-noisy": "planted latents under noise of twice their size, rotated",
    "sim-partial": "all planted latents, for 60 % of the ids only",
    "sim-unrelated": "latents that have nothing to do with the responses",
}
"""Planted embeddings and what they know."""


def simulate_responses(
    *, n_perturbations: int = 300, n_genes: int = 600, contexts: tuple[str, ...] = ("sim-line-A", "sim-line-B"), seed: int = 0,
    noise: float = 0.12,
) -> tuple[Screen, dict[str, tuple[list[str], NDArray[np.float32]]]]:  # fmt: skip
    """Simulate responses and planted embeddings (see the module's text for the model).

    Parameters
    ----------
    n_perturbations, n_genes, contexts
        Size.
    seed
        Seed of everything.
    noise
        Standard deviation of the measurement noise, natural log units.

    Returns
    -------
    screen
        Kind ``lfc``, marked simulated.
    embeddings
        Name -> (ids, vectors).
    """
    if n_perturbations < MODULES or n_genes < 10:
        raise InputError(f"a simulated screen needs at least {MODULES} perturbations and 10 genes.")
    rng = np.random.default_rng([seed, 2])
    ids = [f"SIM{k + 1:0{max(3, len(str(n_perturbations)))}d}" for k in range(n_perturbations)]
    latents = plant_latents(rng, n_perturbations)
    size = np.where(rng.random(n_perturbations) < 1 / 3, 0.1, 1.0) * rng.lognormal(0.0, 0.4, n_perturbations)
    mask = plant_mask(rng, n_genes)
    shared = rng.standard_normal((N_LATENT, n_genes))
    blocks = []
    for _ in contexts:
        own = rng.standard_normal((N_LATENT, n_genes))
        weights = mask * (np.sqrt(0.7) * shared + np.sqrt(0.3) * own) * 0.12
        common = 0.08 * rng.standard_normal(n_genes)
        blocks.append(
            size[:, None] * (latents @ weights) + common + noise * rng.standard_normal((n_perturbations, n_genes))
        )
    screen = Screen.from_arrays(
        np.vstack(blocks), ids * len(contexts), [c for c in contexts for _ in ids],
        [f"simgene{g + 1}" for g in range(n_genes)],
        name="simulated-perturbseq", response="lfc", simulated=True,
        description=f"SIMULATED log fold changes with planted latent structure, seed {seed}",
    )  # fmt: skip
    return screen, plant_embeddings(rng, ids, latents)


def plant_latents(rng: np.random.Generator, n_perturbations: int) -> NDArray[np.float64]:
    """Draw latent vectors (n_perturbations x 12): module centre plus individual variation of half its size."""
    centres = rng.standard_normal((MODULES, N_LATENT))
    return centres[rng.integers(MODULES, size=n_perturbations)] + 0.5 * rng.standard_normal((n_perturbations, N_LATENT))


def plant_mask(rng: np.random.Generator, n_genes: int) -> NDArray[np.float64]:
    """Draw which 3 of the 12 latents each gene listens to (12 x n_genes; 1 where it does, else 0)."""
    listens = np.argsort(rng.random((n_genes, N_LATENT)), axis=1)[:, :3]
    mask = np.zeros((N_LATENT, n_genes))
    mask[listens.ravel(), np.repeat(np.arange(n_genes), 3)] = 1.0
    return mask


def plant_embeddings(
    rng: np.random.Generator, ids: list[str], latents: NDArray[np.float64]
) -> dict[str, tuple[list[str], NDArray[np.float32]]]:
    """Make the embeddings of known worth (see the module's text) of perturbations with these latents.

    Parameters
    ----------
    rng
        Source of the rotations, the noise, and the choice of ids.
    ids
        Perturbation ids.
    latents
        Matrix ids x 12.

    Returns
    -------
    dict
        Name -> (ids, vectors ids x 64).
    """
    n = len(ids)

    def rotated(z: NDArray[np.float64]) -> NDArray[np.float32]:
        return (z @ rng.standard_normal((z.shape[1], DIMS)) / np.sqrt(z.shape[1])).astype(np.float32)

    some = np.sort(rng.choice(n, size=int(0.6 * n), replace=False))
    return {
        "sim-full": (ids, rotated(latents)),
        "sim-half": (ids, rotated(latents[:, : N_LATENT // 2])),
        "sim-noisy": (ids, rotated(latents + 2.0 * latents.std() * rng.standard_normal(latents.shape))),
        "sim-partial": ([ids[k] for k in some], rotated(latents[some])),
        "sim-unrelated": (ids, rotated(rng.standard_normal(latents.shape))),
    }

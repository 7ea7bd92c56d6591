"""Simulated raw counts of single cells with a known truth, any number of cells, streamed to disk.

The truth depends on ``seed`` only. Cell c of library size s_c (log-normal, mean 1, sigma 0.3) in context k and batch b has,
of gene g,

    x_cg ~ NB(mean s_c mu_g, variance s_c mu_g (1 + mu_g / r)),    mu_g = m_kg f_bg exp(beta_pkg),

1 / r being ``dispersion``, as in edgeR and DESeq2 at library size 1 (0 would be Poisson).

- Base means m_kg: log-normal over genes (sigma 1.3) times a log-normal of each context (sigma 0.5), scaled to a sum of
  ``umis``. Batch effects f_bg: log-normal, mean 1, sigma ``batch_effect``, the same for all perturbations and contexts.
- Effects: beta_pkg = effect * size_p * (z_p . W_k)_g, natural log. z_p are the 12 latents of
  :mod:`panmodal.screens.simulate` (centres of 15 modules plus individual variation); W_k is sparse (each gene listens to 3
  latents), seven tenths of its variance is shared by the contexts; size_p is log-normal (sigma 0.4), and exactly 0 for a
  share 1 - ``responders`` of the perturbations.
- ``perturb-seq``: the perturbation ids are names of genes; the targeted gene's own mean is further multiplied by 0.2. A
  perturbed cell escapes with probability 1 - ``efficiency`` and is then like a control cell.
- ``plates``: the ids are compounds, each on two plates; the control is on all plates, and so are all contexts.
- Dropout: every count above zero is lost with probability ``dropout``.

The negative binomial is drawn exactly, at a cost proportional to the number of UMIs, as a compound Poisson distribution: of
gene g, cell c has Poisson(s_c lambda_g) clusters, lambda_g = r log(1 + mu_g / r), each of Logarithmic(p_g) UMIs,
p_g = mu_g / (mu_g + r) (Quenouille, Biometrics 5:162, 1949). For cells that share mu, the clusters of gene g are
Poisson(lambda_g sum_c s_c) in all, and each falls to cell c with probability s_c / sum_c s_c, which is the same law.

Cells are drawn in blocks, each from a random stream of its own, so that memory does not grow with their number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._files import atomic_path
from panmodal.cells.planted import (
    CONTROL_GUIDES,
    GUIDES,
    KINDS,
    Floats,
    SimulatedCells,
    draw_blocks,
    draw_truth,
    mean_log,
    stream,
)
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    from panmodal.embeddings.embedding import Embedding

UNS_KEY = "panmodal_simulation"
"""Key in ``uns`` of what the file was simulated with."""
RANGES = {
    "control_share": (0.0, 1.0), "responders": (0.0, 1.0), "efficiency": (0.0, 1.0), "dropout": (0.0, 1.0),
    "effect": (0.0, 3.0), "batch_effect": (0.0, 1.0), "umis": (1.0, 1e6), "dispersion": (1e-6, 100.0),
}  # fmt: skip
"""Smallest and largest value of a parameter; beyond the largest effects single genes would fill the cell."""
STORED_CHUNK = 2**18
"""Values in a chunk of the file; no result depends on it."""


def simulate_cells(
    path: str | Path, *, kind: str = "perturb-seq", n_cells: int = 20_000, n_perturbations: int = 60, n_genes: int = 500,
    contexts: Sequence[str] = ("sim-line-A",), n_batches: int = 4, control_share: float = 0.1, umis: float = 1500.0,
    dispersion: float = 0.5, effect: float = 1.0, responders: float = 0.67, efficiency: float = 0.85,
    dropout: float = 0.0, batch_effect: float = 0.15, seed: int = 0, cells_seed: int | None = None,
    compression: Literal["lzf", "gzip"] | None = "lzf", progress: Callable[[int, int], None] | None = None,
) -> SimulatedCells:  # fmt: skip
    """Simulate raw counts of single cells into an h5ad file (see the module's text for the model).

    The file holds int32 counts in compressed rows, batch after batch with the perturbations shuffled within, and in ``obs``
    ``perturbation``, ``guide``, ``batch``, ``cell_line`` (``perturb-seq``) or ``drug``, ``plate``, ``cell_line`` (``plates``).
    ``uns['panmodal_simulation']`` holds ``parameters`` (JSON) and ``simulated`` (True). Every cell is assigned at random:
    control with probability ``control_share``, else one of the perturbations of its batch; context and guide likewise.

    Parameters
    ----------
    path
        File to write, ending in ``.h5ad``; replaced only when all is written.
    kind
        ``perturb-seq`` (knock-down of genes, control ``non-targeting``) or ``plates`` (compounds, control ``DMSO_TF``).
    n_cells, n_perturbations, n_genes, contexts, n_batches
        Size of the experiment; ``n_batches`` is the number of plates in kind ``plates``.
    control_share
        Probability that a cell is a control (above 0, below 1).
    umis
        Expected UMIs of a control cell (1 to 1e6).
    dispersion
        Of the negative binomial (1e-6 to 100): variance = mean (1 + dispersion mean) in a cell of library size 1.
    effect
        Factor on all effects but the knock-down (0 to 3).
    responders
        Share of the perturbations that have an effect.
    efficiency
        Probability that a perturbed cell does not escape (``perturb-seq`` only).
    dropout
        Probability that a count above zero is lost.
    batch_effect
        Sigma of the batch effects, natural log units.
    seed
        Seed of the truth. Files of one seed and different ``cells_seed`` or ``n_cells`` are replicates of one experiment.
    cells_seed
        Seed of the cells and counts; ``seed`` if not given.
    compression
        ``lzf``, ``gzip`` or None.
    progress
        Called with the number of cells written and of all cells.

    Returns
    -------
    SimulatedCells
        The truth.

    Raises
    ------
    InputError
        An argument out of its range, or too few cells for the groups asked for.
    StoreError
        The file cannot be written.
    """
    parameters: dict[str, Any] = {
        "kind": kind, "n_cells": n_cells, "n_perturbations": n_perturbations, "n_genes": n_genes, "contexts": contexts,
        "n_batches": n_batches, "control_share": control_share, "umis": umis, "dispersion": dispersion, "effect": effect,
        "responders": responders, "efficiency": efficiency, "dropout": dropout, "batch_effect": batch_effect, "seed": seed,
        "cells_seed": seed if cells_seed is None else cells_seed,
    }  # fmt: skip
    parameters = _checked(path, parameters, compression)
    truth = draw_truth(Path(path), parameters)
    _write(truth, compression, progress)
    return truth


def _checked(path: str | Path, given: dict[str, Any], compression: str | None) -> dict[str, Any]:
    """Return the parameters as plain numbers and text, or say which cannot be used."""
    if Path(path).suffix != ".h5ad":
        raise InputError(f"{path}: simulated cells are written as .h5ad; give a path with that ending.")
    if given["kind"] not in list(KINDS):
        raise InputError(f"kind is {given['kind']!r}; it must be one of {', '.join(KINDS)}.")
    if compression not in ("lzf", "gzip", None):
        raise InputError(f"compression is {compression!r}; it must be 'lzf', 'gzip' or None.")
    contexts = given["contexts"]
    named = isinstance(contexts, Sequence) and not isinstance(contexts, str)
    if not named or not all(isinstance(c, str) and c.strip() for c in contexts):
        raise InputError(f"contexts must be a sequence of names, such as ('sim-line-A',); got {contexts!r}.")
    if not len(contexts) or len(set(contexts)) < len(contexts):
        raise InputError(f"contexts must be one or more different names; got {some(contexts)}.")
    plates = given["kind"] == "plates"
    whole = {"n_cells": 1, "n_perturbations": 2, "n_genes": 10, "n_batches": 1 + plates, "seed": 0, "cells_seed": 0}
    known: dict[str, Any] = {"kind": given["kind"], "contexts": [str(c) for c in contexts]}
    for name, low in whole.items():
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            what = "n_batches (the number of plates)" if plates and name == "n_batches" else name
            raise InputError(f"{what} is {value!r}; it must be a whole number of at least {low}.")
        known[name] = int(value)
    for name, (least, most) in RANGES.items():
        value = given[name]
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise InputError(f"{name} is {value!r}; it must be a number from {least:g} to {most:g}.")
        known[name] = float(value)
    share, n, batches = known["control_share"], known["n_perturbations"], known["n_batches"]
    if share in (0, 1):
        raise InputError(
            f"control_share is {share:g}; it must lie between 0 and 1, for there to be both kinds of cells."
        )
    if plates and n < batches:
        raise InputError(f"{batches} plates need at least as many compounds; n_perturbations is {n}.")
    if not plates and n > known["n_genes"]:
        raise InputError(
            f"each of the {n} perturbations targets a gene, but n_genes is {known['n_genes']}: simulate more genes or fewer "
            "perturbations."
        )
    groups = len(contexts) * n * (2 if plates else batches)
    need = math.ceil(max(groups / (1 - share), 5 * len(contexts) * batches / share))
    if known["n_cells"] < need:
        raise InputError(
            f"n_cells is {known['n_cells']}, too few for {n} perturbations, {len(contexts)} context(s), {batches} batches and a "
            f"control share of {share:g}: at least {need} are needed for one cell in each group and five controls."
        )
    return known


def _write(truth: SimulatedCells, compression: str | None, progress: Callable[[int, int], None] | None) -> None:
    """Draw all cells into the file, block after block."""
    import h5py
    from anndata.io import write_elem

    n_cells = truth.parameters["n_cells"]
    codes: dict[str, list[NDArray[np.int32]]] = {}
    with atomic_path(truth.path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        matrix.attrs["shape"] = np.array([n_cells, len(truth.genes)], dtype=np.int64)
        columns = {
            name: matrix.create_dataset(
                name, shape=(0,), maxshape=(None,), dtype=np.int32, chunks=(STORED_CHUNK,), compression=compression,
                shuffle=compression is not None,
            )
            for name in ("data", "indices")
        }  # fmt: skip
        indptr, done = np.zeros(n_cells + 1, dtype=np.int64), 0
        for block_codes, block in draw_blocks(truth):
            stored = int(indptr[done])
            for name, dataset in columns.items():
                dataset.resize((stored + block.nnz,))
                dataset[stored:] = getattr(block, name)
            indptr[done + 1 : done + 1 + block.shape[0]] = stored + block.indptr[1:].astype(np.int64)
            for name, values in block_codes.items():
                codes.setdefault(name, []).append(values)
            done += block.shape[0]
            if progress is not None:
                progress(done, n_cells)
        matrix.create_dataset("indptr", data=indptr)
        write_elem(file, "obs", _obs(truth, {name: np.concatenate(parts) for name, parts in codes.items()}))
        write_elem(file, "var", pd.DataFrame(index=pd.Index(truth.genes)))
        write_elem(file, "uns", {UNS_KEY: {"parameters": json.dumps(truth.parameters), "simulated": True}})
        for empty in ("layers", "obsm", "obsp", "varm", "varp"):
            write_elem(file, empty, {})


def _obs(truth: SimulatedCells, codes: dict[str, NDArray[np.int32]]) -> pd.DataFrame:
    """Name what the cells are."""
    perts = [*truth.pert_ids, truth.control]
    guides = [f"{p}_g{k + 1}" for p in truth.pert_ids for k in range(GUIDES)]
    guides += [f"{truth.control}_g{k + 1}" for k in range(CONTROL_GUIDES)]
    pert, batch = ("drug", "plate") if truth.kind == "plates" else ("perturbation", "batch")
    columns = {pert: ("pert", perts), "guide": ("guide", guides), batch: ("batch", truth.batches),
               "cell_line": ("context", list(truth.contexts))}  # fmt: skip
    if truth.kind == "plates":
        del columns["guide"]
    n = len(codes["pert"])
    return pd.DataFrame(
        {
            column: pd.Categorical.from_codes(codes[name], categories).remove_unused_categories()
            for column, (name, categories) in columns.items()
        },
        index=pd.Index([f"cell{c:0{len(str(n))}d}" for c in range(n)]),
    )


def expected_lfc(
    truth: SimulatedCells, context: str, *, n: int = 4000, seed: int = 0, perturbations: Sequence[str] | None = None,
    target_sum: float = 1e4,
) -> Floats:  # fmt: skip
    """Compute the true log fold changes by Monte Carlo: what a pseudobulk of infinitely many cells would give.

    That is E[log(1 + target_sum x / total)] of the cells of a perturbation, escaped cells among them, minus that of the control
    cells of the same batch, averaged with equal weight over the batches that have the perturbation.

    The standard error of an entry is about efficiency * sd * sqrt(5 / (4 n B)), sd being the standard deviation over cells of
    the normalised value (usually 0.3 to 1.5) and B the number of batches: 0.003 to 0.013 with n = 4000 and 4 batches. A
    fifth of its variance is that of the controls, the same for all perturbations.

    Parameters
    ----------
    truth
        From :func:`simulate_cells`.
    context
        One of its contexts.
    n
        Efficient cells drawn per perturbation and batch; of controls four times as many. Memory does not depend on it.
    seed
        Seed of the cells drawn. The row of a perturbation does not depend on which others are asked for.
    perturbations
        Ids wanted; all by default.
    target_sum
        Total to which cells are normalised.

    Returns
    -------
    ndarray
        Perturbations x genes, natural-log units.

    Raises
    ------
    InputError
        Unknown context or perturbation, or no cells to draw.
    """
    row = {i: k for k, i in enumerate(truth.pert_ids)}
    wanted = list(truth.pert_ids if perturbations is None else perturbations)
    unknown = [i for i in wanted if i not in row]
    if context not in truth.contexts:
        raise InputError(f"no context {context!r} was simulated; there are {some(truth.contexts)}.")
    if unknown:
        raise InputError(f"no such perturbation was simulated: {some(unknown)}.")
    if n < 1 or target_sum <= 0:
        raise InputError(f"n is {n!r} and target_sum {target_sum!r}; both must be above 0.")
    rows = [row[i] for i in wanted]
    total = np.zeros((len(wanted), len(truth.genes)))
    for batch in range(len(truth.batches)):
        here = [k for k, p in enumerate(rows) if truth.layout[p, batch]]
        if not here:
            continue
        rng = stream(seed, "expected", context, batch)
        base = mean_log(rng, truth, truth.rates(context, batch), 4 * n, target_sum)
        for k in here:
            rng = stream(seed, "expected", context, batch, wanted[k])
            total[k] += mean_log(rng, truth, truth.rates(context, batch, rows[k]), n, target_sum) - base
    # Escaped cells are control cells: in expectation they shrink the difference by their share.
    acting = truth.parameters["efficiency"] if truth.kind == "perturb-seq" else 1.0
    return acting * total / truth.layout[rows].sum(axis=1, keepdims=True)


def planted_embeddings(truth: SimulatedCells) -> list[Embedding]:
    """Return the planted embeddings, with cards that mark them as simulated."""
    from panmodal.embeddings.card import Card
    from panmodal.embeddings.embedding import Embedding
    from panmodal.screens.simulate import PLANTED

    made = []
    for name, (ids, vectors) in truth.embeddings.items():
        card = Card(
            name=name, modality="planted latents", id_namespace="simulated", licence="Apache-2.0",
            source="panmodal.cells.simulate", description=f"SIMULATED: {PLANTED[name]}", simulated=True,
            trained_on=("none",),
        )  # fmt: skip
        made.append(Embedding(tuple(ids), vectors, card))
    return made


def write_embeddings(truth: SimulatedCells, folder: str | Path) -> list[Path]:
    """Write the planted embeddings as ``NAME.h5ad`` into ``folder`` and return the files."""
    paths = []
    for embedding in planted_embeddings(truth):
        paths.append(Path(folder) / f"{embedding.name}.h5ad")
        embedding.write(paths[-1])
    return paths

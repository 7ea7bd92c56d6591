"""Softmax regression of many genes at once, to the optimum: batched L-BFGS with a certificate for every gene.

For each gene, with classes c that occur among its n labels (k of them), minimise

    f(W, b) = sum_i w_{y_i} CE(softmax(W z_i + b), y_i) / sum_i w_{y_i}  +  penalty |W|_F^2,    w_c = n / (3 n_c),

that is, the mean over the present classes of the mean cross-entropy of their rows. A class that does not occur weighs nothing; its
bias goes to minus infinity, and it is left out. Biases are not penalised. With ``penalty`` = genes / C the mean of f over all genes
is the published objective, mean cross-entropy + |W|_F^2 / C over the weights of all genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._threads import math_threads
from panmodal.errors import InputError
from panmodal.probes.lbfgs import Problem, Solution, minimise, signal_of
from panmodal.probes.softmax_ops import Search, U, V, array_search

TOLERANCE = 5e-5
"""Largest certified distance of a gene's objective from its optimum, as a share of the objective."""
MAX_ITERATIONS = 400
"""Iterations in single precision; genes that need more go on in double precision, up to ten times as many."""
BLOCK = 256
"""Genes solved together on a processor, so that they stay in its cache."""
BLOCK_DEVICE = 16384
"""Genes solved together on an accelerator."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Coefficients:
    """Weights and biases of every gene for one penalty.

    Attributes
    ----------
    weights
        Genes x 3 x r; zero for classes that do not occur.
    biases
        Genes x 3; minus infinity for classes that do not occur.
    gaps
        Certified bound of (f - optimum) / f of each gene.
    iterations, finished
        Of each gene; whether it reached the tolerance.
    """

    weights: Array
    biases: Array
    gaps: Array
    iterations: NDArray[np.int32]
    finished: NDArray[np.bool_]

    @property
    def n_unfinished(self) -> int:
        """Genes that did not reach the tolerance."""
        return int((~self.finished).sum())

    def probabilities(self, z: NDArray[np.floating]) -> tuple[Array, Array]:
        """Return the probabilities of -1 and of +1 for rows z (m x r): m x genes each."""
        lowered = np.empty((len(z), len(self.weights)), np.float32)
        raised = np.empty_like(lowered)
        z = np.ascontiguousarray(z, dtype=np.float32)
        for start in range(0, len(self.weights), 4 * BLOCK):
            part = slice(start, start + 4 * BLOCK)
            logits = [z @ self.weights[part, c].T + self.biases[part, c] for c in range(3)]
            top = np.maximum(np.maximum(logits[0], logits[1]), logits[2])
            down, none, up = (np.exp(each - top) for each in logits)
            total = down + none + up
            lowered[:, part], raised[:, part] = down / total, up / total
        return lowered, raised


def objective(
    z: NDArray[np.floating], labels: NDArray[np.int8], weights: Any, biases: Any, penalty: float
) -> NDArray[np.float64]:
    """Objective f of each gene in double precision (see the module's text).

    Parameters
    ----------
    z
        Rows, n x r.
    labels
        n x genes, in -1, 0, 1.
    weights, biases
        Genes x 3 x r and genes x 3.
    """
    z = np.asarray(z, dtype=np.float64)
    out = np.empty(labels.shape[1])
    for g in range(labels.shape[1]):
        logits = z @ np.asarray(weights[g], np.float64).T + np.asarray(biases[g], np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(z)), labels[:, g] + 1]
        present = [losses[labels[:, g] == c].mean() for c in (-1, 0, 1) if (labels[:, g] == c).any()]
        out[g] = np.mean(present) + penalty * np.square(np.asarray(weights[g], np.float64)).sum()
    return out


def check_device(device: str) -> None:
    """Refuse a device that cannot be used.

    Raises
    ------
    InputError
        PyTorch is not installed, or it has no such device.
    """
    if device == "cpu":
        return
    try:
        import torch
    except ImportError:
        raise InputError(f"device {device!r} needs PyTorch; install panmodal[deep], or compute on cpu.") from None
    try:
        torch.zeros(1, device=device).cpu().numpy()
    except (RuntimeError, AssertionError, ImportError) as error:  # a missing back end can be any of them
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def fit_path(
    z: NDArray[np.floating], labels: NDArray[np.int8], penalties: Sequence[float], *, device: str = "cpu", threads: int = 1,
    tolerance: float = TOLERANCE,
) -> list[Coefficients]:  # fmt: skip
    """Fit all genes for each penalty, each from the one before.

    Parameters
    ----------
    z
        Training rows, n x r. Features may differ in scale: the solver is preconditioned by their mean squares.
    labels
        n x genes, in -1, 0, 1.
    penalties
        Positive, in descending order.
    device
        ``cpu`` (compiled loops), or a torch device such as ``cuda``.
    threads
        Threads that share the genes, on the CPU.
    tolerance
        Share of the objective that a gene may be away from its optimum (and, more strictly, of what it gains over W = 0). The bound is
        half of g' H^-1 g with the least second derivatives that f can have: 2 penalty for W, because f is strongly convex in it (Boyd
        and Vandenberghe 2004, 9.1.2), and those of the biases as they are.

    Returns
    -------
    list of Coefficients
        One for each penalty.

    Raises
    ------
    InputError
        Shapes that do not fit, labels other than -1, 0, 1, rows that are not finite, or penalties that are not positive and
        descending.
    """
    z, labels, penalties = np.asarray(z, dtype=np.float64), np.asarray(labels), [float(p) for p in penalties]
    if z.ndim != 2 or labels.ndim != 2 or len(z) != len(labels) or not len(z):
        raise InputError(f"rows {z.shape} and labels {labels.shape} do not fit.")
    if not np.isin(np.unique(labels), (-1, 0, 1)).all():
        raise InputError("labels must be -1, 0 or 1.")
    positive = bool(penalties) and np.isfinite(penalties).all() and min(penalties) > 0
    if not positive or penalties != sorted(penalties, reverse=True):
        raise InputError(f"penalties must be positive, finite and in descending order, got {penalties}.")
    if not np.isfinite(z).all():
        raise InputError("rows must be finite.")
    # Centred rows keep biases and weights apart, and a scale of one keeps single precision in its range.
    centre = z.mean(axis=0)
    scale = float(np.sqrt(np.square(z - centre).mean())) if z.shape[1] else 1.0
    scale = scale if scale > 0 else 1.0
    scaled = [p / scale**2 for p in penalties]
    if not 1e-30 < min(scaled) <= max(scaled) < 1e30:
        raise InputError(
            f"penalties {penalties} are out of range for rows with deviation {scale:g}; bring rows to a usual scale."
        )
    rows = np.concatenate([(z - centre) / scale, np.ones((len(z), 1))], axis=1)
    genes = labels.shape[1]
    # Class c of a gene stands at place[g, c] in its own order: classes that occur come first.
    counts = np.stack([(labels == c).sum(axis=0) for c in (-1, 0, 1)], axis=1)
    order = np.argsort(counts == 0, axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable").astype(np.int8)
    n_classes = (counts > 0).sum(axis=1)
    several = np.flatnonzero(n_classes > 1)
    # Genes of like class counts need like numbers of iterations and leave their block together.
    several = several[np.argsort(-counts[several].max(axis=1), kind="stable")]
    size = BLOCK if device == "cpu" else BLOCK_DEVICE
    out = [_empty(genes, z.shape[1], counts) for _ in penalties]

    def work(start: int) -> None:
        own = several[start : start + size]
        problem = Problem.of(rows, labels[:, own], place[own], counts[own], n_classes[own])
        for result, found in zip(out, _solve_path(problem, scaled, device, tolerance), strict=True):
            _unpack(result, own, order[own], n_classes[own], found)

    starts = range(0, len(several), size)
    if threads == 1 or len(starts) <= 1 or device != "cpu":
        for start in starts:
            work(start)
    else:
        with math_threads(1), ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    for result in out:
        result.weights[:] /= scale
        result.biases[:] -= result.weights @ centre
    return out


def _empty(genes: int, r: int, counts: NDArray[np.int64]) -> Coefficients:
    """Coefficients that answer a gene with one class by that class."""
    biases = np.where(counts > 0, 0.0, -np.inf).astype(np.float32)
    return Coefficients(
        np.zeros((genes, 3, r), np.float32),
        biases,
        np.zeros(genes, np.float32),
        np.zeros(genes, np.int32),
        np.ones(genes, bool),
    )


def _unpack(
    result: Coefficients, genes: NDArray[np.intp], order: NDArray[np.intp], n_classes: NDArray[np.intp], found: Solution
) -> None:
    """Write solutions in the basis into the coefficients of their genes."""
    u, v = found.w[:, 0] * np.float32(U), found.w[:, 1] * np.float32(V)
    own = np.stack([v + u, v - u, -2 * v], axis=1)
    for slot in range(3):
        use = np.flatnonzero(slot < n_classes)
        g, c = genes[use], order[use, slot]
        result.weights[g, c] = own[use, slot, :-1]
        result.biases[g, c] = own[use, slot, -1]
    result.gaps[genes], result.iterations[genes], result.finished[genes] = found.gaps, found.iterations, found.finished


def _solve_path(problem: Problem, penalties: Sequence[float], device: str, tolerance: float) -> list[Solution]:
    """Solve one block for each penalty."""
    search: Search = array_search
    if device == "cpu":
        from panmodal.probes.softmax_kernel import compiled_search

        search = compiled_search
    g, q = len(problem.labels), problem.rows.shape[1]
    single, start = problem.on(np.float32, device), np.zeros((g, 2, q), np.float32)
    signal = signal_of(single, search)
    found = []
    for penalty in penalties:
        solution = minimise(single, start, signal, penalty, search, tolerance, MAX_ITERATIONS)
        left = np.flatnonzero(~solution.finished)
        if len(left):
            double, at = problem.take(left).on(np.float64, device), solution.w[left].astype(np.float64)
            more = minimise(double, at, signal[left], penalty, array_search, tolerance, 10 * MAX_ITERATIONS)
            solution.w[left], solution.gaps[left], solution.finished[left] = more.w, more.gaps, more.finished
            solution.iterations[left] += more.iterations
        found.append(solution)
        start = solution.w
    return found

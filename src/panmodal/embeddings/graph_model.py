"""A graph neural network that learns to tell links from pairs without one, trained with early stopping (needs torch-geometric)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.errors import InputError


@dataclass(frozen=True)
class Training:
    """How the encoder is built and trained.

    Attributes
    ----------
    encoder
        ``gcn`` (Kipf and Welling 2017) or ``gin`` (Xu et al. 2019).
    dims, hidden, layers, dropout
        Size of the vectors and of the layers between, number of layers, share of units dropped in training.
    learning_rate, epochs, patience
        Of Adam; at most so many epochs; ends after ``patience`` epochs without a better validation AUC.
    validation
        Share of links that are held out: neither predicted nor passed along in training.
    negatives
        How pairs without a link are drawn: ``uniform``, or by ``degree`` (ends as frequent as among links, so that telling them
        apart takes more than the degree).
    batch
        Links scored in one step; all of one epoch if 0.
    seed, device
        Of everything that is drawn; ``cpu``, ``cuda`` or ``auto``.
    """

    encoder: Literal["gcn", "gin"] = "gcn"
    dims: int = 128
    hidden: int = 256
    layers: int = 2
    dropout: float = 0.2
    learning_rate: float = 0.01
    epochs: int = 300
    patience: int = 30
    validation: float = 0.1
    negatives: Literal["uniform", "degree"] = "uniform"
    batch: int = 0
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Trained:
    """Vectors of the best epoch, and how training went: validation AUC of every epoch, the best of them (from 1)."""

    vectors: NDArray[np.float32]
    auc: tuple[float, ...]
    best: int
    stopped: bool


def train_encoder(
    graph: Any,
    inputs: NDArray[np.float32] | None,
    how: Training,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train an encoder so that the dot product of two vectors tells whether their nodes are linked.

    Parameters
    ----------
    graph
        Symmetric sparse matrix of positive weights, nodes x nodes; weights are used by ``gcn`` when messages are passed.
    inputs
        Features of the nodes, nodes x features; a learned vector of each node if None.

    Notes
    -----
    Training passes messages along training links only. The vectors returned are those of the epoch of the best validation AUC,
    with messages along all links.
    """
    import warnings

    with warnings.catch_warnings():
        # torch says of every sparse matrix that it may change, and that it was not checked; ours are.
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return _train(graph, inputs, how, progress)


def _train(
    graph: Any, inputs: NDArray[np.float32] | None, how: Training, progress: Callable[[int, int], None] | None
) -> Trained:
    import torch

    _check(how, graph)
    device = _device(how.device)
    low, high, weight = _links(graph)
    if how.encoder == "gin":
        weight = np.ones_like(weight)
    rng = np.random.default_rng(how.seed)
    order = rng.permutation(len(low))
    held = order[: max(1, round(how.validation * len(low)))]
    train = np.sort(order[len(held) :])
    known = low.astype(np.int64) * graph.shape[0] + high
    ends = np.concatenate([low, high])
    draw = _Negatives(graph.shape[0], np.sort(known), ends if how.negatives == "degree" else None)
    false_held = draw(len(held), rng)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(how.seed)
        model = _model(graph.shape[0], inputs, how).to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=how.learning_rate)
        passed = _messages(low[train], high[train], weight[train], graph.shape[0], device)
        best, state, history = 0, _copy(model), []
        for epoch in range(1, how.epochs + 1):
            model.train()
            shuffled = rng.permutation(train)
            size = how.batch or len(shuffled)
            for start in range(0, len(shuffled), size):
                part = shuffled[start : start + size]
                true = np.stack([low[part], high[part]])
                pairs = np.concatenate([true, draw(len(part), rng)], axis=1)
                optimiser.zero_grad()
                vectors = model(passed)
                scores = _scores(vectors, pairs, device)
                target = torch.zeros_like(scores)
                target[: len(part)] = 1.0
                torch.nn.functional.binary_cross_entropy_with_logits(scores, target).backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                vectors = model(passed)
                right = _scores(vectors, np.stack([low[held], high[held]]), device).cpu().numpy()
                wrong = _scores(vectors, false_held, device).cpu().numpy()
            history.append(auc(right, wrong))
            if epoch == 1 or history[-1] > history[best - 1]:
                best, state = epoch, _copy(model)
            if progress:
                progress(epoch, how.epochs)
            if epoch - best >= how.patience:
                break
        model.load_state_dict(state)
        model.eval()
        with torch.no_grad():
            vectors = model(_messages(low, high, weight, graph.shape[0], device)).float().cpu().numpy()
    if not np.isfinite(vectors).all():
        raise InputError("graph-encoder: training diverged (NaN or infinite vectors). Ask for a lower learning_rate.")
    return Trained(vectors, tuple(history), best, len(history) < how.epochs)


def auc(right: NDArray[Any], wrong: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a link scores above a pair without one, ties counted half (Mann-Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([right, wrong]))[: len(right)]
    return float((ranks.sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


def _check(how: Training, graph: Any) -> None:
    positive = ("dims", "hidden", "layers", "learning_rate", "epochs", "patience")
    bad = [name for name in positive if not getattr(how, name) > 0]
    if bad:
        raise InputError(f"graph-encoder: {', '.join(bad)} must be above 0.")
    if not 0 < how.validation < 1 or not 0 <= how.dropout < 1 or how.batch < 0:
        raise InputError(
            "graph-encoder: validation must be between 0 and 1, dropout from 0 to below 1, batch 0 or more."
        )
    nodes, links = graph.shape[0], graph.nnz // 2
    if links < 10:
        raise InputError(
            f"graph-encoder: {links} links are too few to train on and to hold some out. Give a larger network."
        )
    if links > nodes * (nodes - 1) // 4:
        raise InputError(
            f"graph-encoder: {links} of {nodes * (nodes - 1) // 2} pairs are linked; there are too few pairs without a link. "
            "Set a higher min_score."
        )


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"graph-encoder: device {name!r} cannot be used ({str(error).splitlines()[0]}).") from error
    return device


def _links(graph: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    from scipy.sparse import coo_array, triu

    half = coo_array(triu(graph, 1))
    order = np.lexsort((half.col, half.row))
    return half.row[order].astype(np.int64), half.col[order].astype(np.int64), half.data[order].astype(np.float32)


class _Negatives:
    """Draws pairs of different nodes without a link."""

    def __init__(self, nodes: int, known: NDArray[np.int64], ends: NDArray[np.int64] | None) -> None:
        self.nodes, self.known, self.ends = nodes, known, ends

    def __call__(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        parts, have = [], 0
        for _ in range(1000):
            size = 2 * (count - have) + 16
            drawn = rng.integers(0, self.nodes, (2, size)) if self.ends is None else rng.choice(self.ends, (2, size))
            low, high = drawn.min(axis=0), drawn.max(axis=0)
            key = low * self.nodes + high
            place = np.minimum(np.searchsorted(self.known, key), len(self.known) - 1)
            fresh = (low != high) & (self.known[place] != key)
            parts.append(np.stack([low[fresh], high[fresh]]))
            have += int(fresh.sum())
            if have >= count:
                return np.concatenate(parts, axis=1)[:, :count]
        raise InputError(
            "graph-encoder: too few pairs without a link between nodes of many links. Use negatives 'uniform'."
        )


def _messages(low: NDArray[Any], high: NDArray[Any], weight: NDArray[Any], nodes: int, device: Any) -> Any:
    """Return the links in both directions as a sparse matrix, along which torch-geometric passes messages."""
    import torch
    from scipy.sparse import csr_array

    half = csr_array((weight, (low, high)), shape=(nodes, nodes))
    both = csr_array(half + half.T)
    arrays = [
        torch.from_numpy(part.copy())
        for part in (both.indptr.astype(np.int64), both.indices.astype(np.int64), both.data)
    ]
    return torch.sparse_csr_tensor(*arrays, size=(nodes, nodes), check_invariants=True).to(device)


def _scores(vectors: Any, pairs: NDArray[np.int64], device: Any) -> Any:
    import torch

    one, other = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in pairs)
    return (vectors.index_select(0, one) * vectors.index_select(0, other)).sum(dim=1)


def _copy(model: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _model(nodes: int, inputs: NDArray[np.float32] | None, how: Training) -> Any:
    import torch
    from torch_geometric.nn import GCNConv, GINConv

    class Encoder(torch.nn.Module):
        """Layers of one kind with ReLU and dropout between them."""

        def __init__(self) -> None:
            super().__init__()
            if inputs is None:
                self.inputs = torch.nn.Parameter(torch.randn(nodes, how.hidden) / how.hidden**0.5)
            else:
                self.register_buffer("inputs", torch.from_numpy(np.array(inputs, np.float32)))
            sizes = [self.inputs.shape[1], *[how.hidden] * (how.layers - 1), how.dims]
            self.layers = torch.nn.ModuleList(self.layer(a, b) for a, b in pairwise(sizes))

        def layer(self, a: int, b: int) -> Any:
            if how.encoder == "gcn":
                return GCNConv(a, b)
            inner = torch.nn.Sequential(
                torch.nn.Linear(a, how.hidden),
                torch.nn.BatchNorm1d(how.hidden),
                torch.nn.ReLU(),
                torch.nn.Linear(how.hidden, b),
            )
            return GINConv(inner, train_eps=True)

        def forward(self, links: Any) -> Any:
            x = self.inputs
            for k, layer in enumerate(self.layers):
                if k:
                    x = torch.relu(x)
                x = torch.nn.functional.dropout(x, how.dropout, self.training)
                x = layer(x, links)
            return x

    return Encoder()

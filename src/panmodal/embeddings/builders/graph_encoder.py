"""A graph neural network trained to predict links: the learned embedding of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.builders.base import Builder, Built, Progress
from panmodal.embeddings.builders.networks import (
    ColumnA,
    ColumnB,
    Dims,
    Edges,
    MinScore,
    Names,
    Network,
    Only,
    Score,
    Weighted,
    example_links,
    read_network,
)
from panmodal.embeddings.graph_model import Training, train_encoder
from panmodal.embeddings.walks import degree_vectors
from panmodal.errors import InputError, some


def build_graph_encoder(
    *,
    edges: Edges,
    a: ColumnA = None,
    b: ColumnB = None,
    score: Score = None,
    min_score: MinScore = None,
    names: Names = None,
    only: Only = (),
    weighted: Weighted = False,
    encoder: Annotated[Literal["gcn", "gin"], "graph convolution (GCN) or graph isomorphism network (GIN)"] = "gcn",
    inputs: Annotated[
        Literal["learned", "random", "degree"], "what a node enters with: a learned vector, a random one, or its degree"
    ] = "learned",
    features: Annotated[Path | None, "embedding file whose vectors the nodes enter with, instead of inputs"] = None,
    dims: Dims = 128,
    hidden: Annotated[int, "units of the layers between, and size of learned and random inputs"] = 256,
    layers: Annotated[int, "number of layers"] = 2,
    dropout: Annotated[float, "share of units dropped in training"] = 0.2,
    learning_rate: Annotated[float, "learning rate of Adam"] = 0.01,
    epochs: Annotated[int, "at most so many epochs"] = 300,
    patience: Annotated[int, "stop after so many epochs without a better validation AUC"] = 30,
    validation: Annotated[float, "share of the links held out to tell when to stop"] = 0.1,
    negatives: Annotated[
        Literal["uniform", "degree"], "draw pairs without a link uniformly, or as often as nodes are in links"
    ] = "uniform",
    batch: Annotated[int, "links of a training step; 0: all"] = 0,
    seed: Annotated[int, "seed of weights, held-out links and negatives"] = 0,
    device: Annotated[str, "cpu, cuda or auto"] = "cpu",
    progress: Progress | None = None,
) -> Built:
    """Build an embedding by training a graph neural network to predict links."""
    network = read_network(edges, a=a, b=b, score=score, min_score=min_score, names=names, only=only, weighted=weighted)
    how = Training(
        encoder=encoder, dims=dims, hidden=hidden, layers=layers, dropout=dropout, learning_rate=learning_rate,
        epochs=epochs, patience=patience, validation=validation, negatives=negatives, batch=batch, seed=seed, device=device,
    )  # fmt: skip
    given, notes = _inputs(network, inputs, features, hidden, seed)
    trained = train_encoder(network.graph, given, how, progress)
    done = len(trained.auc)
    end = (
        f"stopped after {patience} epochs without a better one"
        if trained.stopped
        else "not stopped early: all epochs run"
    )
    notes.append(
        f"validation AUC {trained.auc[trained.best - 1]:.4f} at epoch {trained.best} of {done} ({end}); "
        f"negatives drawn {'uniformly' if negatives == 'uniform' else 'by degree'}"
    )
    notes.append(f"{len(network.names)} nodes, {network.graph.nnz // 2} edges")
    return Built(
        network.names, trained.vectors, network.left_out, (*network.notes, *notes), {**network.card, "trained_on": ()}
    )


def _inputs(
    network: Network, inputs: str, features: Path | None, hidden: int, seed: int
) -> tuple[NDArray[np.float32] | None, list[str]]:
    """Return what the nodes enter with (None: learned vectors), and notes."""
    nodes = len(network.names)
    if features is not None:
        from panmodal.embeddings.reading import read_embedding

        embedding = read_embedding(features)
        where = {name: k for k, name in enumerate(embedding.ids)}
        at = np.array([where.get(name, -1) for name in network.names])
        if (at < 0).all():
            raise InputError(
                f"{features}: has none of the nodes ({some(network.names, 3)}); its ids are {some(embedding.ids, 3)}."
            )
        vectors = np.asarray(embedding.vectors, np.float64)[np.maximum(at, 0)]
        known = at >= 0
        centre, spread = vectors[known].mean(axis=0), vectors[known].std(axis=0)
        # A node without a vector enters with the mean, and a mark that says so.
        scaled = np.where(known[:, None], (vectors - centre) / np.where(spread > 0, spread, 1.0), 0.0)
        note = f"nodes enter with {embedding.card.name!r}; {int((~known).sum())} of {nodes} are not in it and enter with its mean"
        return np.column_stack([scaled, known]).astype(np.float32), [note]
    if inputs == "learned":
        return None, ["nodes enter with learned vectors"]
    if inputs == "random":
        drawn = np.random.default_rng(seed).standard_normal((nodes, hidden)) / hidden**0.5
        return drawn.astype(np.float32), ["nodes enter with random vectors"]
    degree = degree_vectors(network.graph, ("degree", "strength"))
    spread = degree.std(axis=0)
    scaled = (degree - degree.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled.astype(np.float32), ["nodes enter with their degree"]


def _example(folder: Path) -> dict[str, Any]:
    return {**example_links(folder), "dims": 8, "hidden": 16, "epochs": 5, "patience": 3}


BUILDERS = (
    Builder(
        name="graph-encoder", modality="network", function=build_graph_encoder, example=_example,
        description="graph neural network (GCN or GIN) trained to predict the links of an interaction network",
        citation="Kipf and Welling, ICLR 2017; Xu et al., ICLR 2019", url="https://arxiv.org/abs/1609.02907",
        extra="graph", needs=("torch", "torch_geometric"),
    ),
)  # fmt: skip

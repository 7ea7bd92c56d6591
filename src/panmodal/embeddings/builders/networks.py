"""Embeddings of networks, from any edge list: NetMF, spectral, node2vec, and the degree alone as a control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.builders.base import Builder, Built, Progress
from panmodal.embeddings.edges import read_edges
from panmodal.embeddings.network import adjacency, components, netmf_vectors, spectral_vectors
from panmodal.embeddings.walks import DEGREE_FEATURES, degree_vectors, node2vec_vectors
from panmodal.errors import InputError

Edges = Annotated[
    Path,
    "edge list: links file of STRING, tab3 of BioGRID, or any csv, tsv or Parquet table with two columns of ids",
]
ColumnA = Annotated[str | None, "column of the first id; detected unless given"]
ColumnB = Annotated[str | None, "column of the second id; detected unless given"]
Score = Annotated[str | None, "column of scores; detected where one is needed"]
MinScore = Annotated[float | None, "edges of a lower score are left out (STRING: 0 to 1000)"]
Names = Annotated[Path | None, "table id -> name, such as protein.info of STRING"]
Only = Annotated[tuple[str, ...], "keep the rows of which all these hold, each COLUMN=VALUE"]
Weighted = Annotated[bool, "use the scores as weights of the edges"]
Dims = Annotated[int, "number of dimensions"]
Components = Annotated[Literal["largest", "all"], "embed the nodes of the largest connected component, or all"]


@dataclass(frozen=True)
class Network:
    """A network read from an edge list: sorted names, symmetric sparse matrix, and what was left out on the way."""

    names: list[str]
    graph: Any
    left_out: dict[str, str]
    notes: tuple[str, ...]

    @property
    def card(self) -> dict[str, Any]:
        """What the ids tell of themselves."""
        proteins = all(name.startswith("ENSP") and name[4:].isdigit() for name in self.names)
        return {"id_namespace": "ensembl_protein"} if proteins else {}

    def largest(self) -> Network:
        """Return the largest connected component."""
        labels, sizes = components(self.graph)
        if len(sizes) == 1:
            return self
        inside = np.flatnonzero(labels == 0)
        lost = {
            self.names[k]: f"its component has {sizes[labels[k]]} nodes, the largest {sizes[0]}"
            for k in np.flatnonzero(labels)
        }
        note = f"largest of {len(sizes)} components: {sizes[0]} of {len(self.names)} nodes"
        graph = self.graph[inside][:, inside]
        graph.sort_indices()
        return Network([self.names[k] for k in inside], graph, {**self.left_out, **lost}, (*self.notes, note))

    def built(self, vectors: NDArray[Any], notes: tuple[str, ...] = ()) -> Built:
        """Pair names and vectors; nodes of components that have no part in any dimension are left out."""
        labels, sizes = components(self.graph)
        # A component with a part has a whole vector of its own in some dimension; what others hold is dust of the iteration.
        largest = np.zeros(len(sizes))
        np.maximum.at(largest, labels, np.abs(vectors).max(axis=1))
        part = largest >= 1e-3 * np.linalg.norm(vectors[:, -1]) / np.sqrt(sizes)
        inside = np.flatnonzero(part[labels])
        lost = {
            self.names[k]: f"its component of {sizes[labels[k]]} nodes has no part in the {vectors.shape[1]} dimensions"
            for k in np.flatnonzero(~part[labels])
        }
        size = f"{len(self.names)} nodes, {self.graph.nnz // 2} edges"
        return Built(
            ids=[self.names[k] for k in inside],
            vectors=vectors[inside].astype(np.float32),
            left_out={**self.left_out, **lost},
            notes=(*self.notes, size, *notes),
            card=self.card,
        )


def read_network(
    edges: Path,
    *,
    a: str | None = None,
    b: str | None = None,
    score: str | None = None,
    min_score: float | None = None,
    names: Path | None = None,
    only: tuple[str, ...] = (),
    weighted: bool = False,
) -> Network:
    """Read an edge list (see :func:`~panmodal.embeddings.edges.read_edges`) as a network."""
    read = read_edges(
        edges, a=a, b=b, score=score or ("auto" if weighted else None), min_score=min_score, names=names, only=only
    )
    if weighted and not (read.frame["score"] > 0).all():
        raise InputError(
            f"{edges}: weights must be above 0, and some scores are not. Set min_score, or leave out weighted."
        )
    nodes, graph = adjacency(read.frame, weight="score" if weighted else None)
    return Network(nodes, graph, read.left_out, read.notes)


def build_netmf(
    *,
    edges: Edges,
    a: ColumnA = None,
    b: ColumnB = None,
    score: Score = None,
    min_score: MinScore = None,
    names: Names = None,
    only: Only = (),
    weighted: Weighted = False,
    dims: Dims = 128,
    window: Annotated[int, "steps of the random walk that are summed"] = 3,
    negative: Annotated[float, "number of negative samples of the implicit skip-gram"] = 1.0,
    method: Annotated[
        Literal["auto", "sparse", "blocks"],
        "the matrix as a whole, or in blocks in single precision; auto: by its size",
    ] = "auto",
    memory: Annotated[float, "GiB that may be used by blocks; changes the time, not the result"] = 4.0,
    progress: Progress | None = None,
) -> Built:
    """Build a NetMF embedding of a network."""
    network = read_network(edges, a=a, b=b, score=score, min_score=min_score, names=names, only=only, weighted=weighted)
    vectors, notes = netmf_vectors(
        network.graph, dims, window=window, negative=negative, method=method, memory=memory, progress=progress
    )
    return network.built(vectors, notes)


def build_spectral(
    *,
    edges: Edges,
    a: ColumnA = None,
    b: ColumnB = None,
    score: Score = None,
    min_score: MinScore = None,
    names: Names = None,
    only: Only = (),
    weighted: Weighted = False,
    dims: Dims = 128,
    kind: Annotated[
        Literal["laplacian", "normalised", "adjacency"],
        "eigenvectors of the random-walk Laplacian (eigenmaps), of the normalised adjacency, or of the adjacency",
    ] = "laplacian",
    regularise: Annotated[
        float, "mean degrees added to each degree, so that a few nodes at the rim do not lead; 0: none"
    ] = 1.0,
    component: Components = "largest",
    seed: Annotated[int, "seed of the iteration's first vector"] = 0,
) -> Built:
    """Build a spectral embedding of a network."""
    network = read_network(edges, a=a, b=b, score=score, min_score=min_score, names=names, only=only, weighted=weighted)
    network = network.largest() if component == "largest" else network
    return network.built(spectral_vectors(network.graph, dims, kind=kind, regularise=regularise, seed=seed))


def build_node2vec(
    *,
    edges: Edges,
    a: ColumnA = None,
    b: ColumnB = None,
    score: Score = None,
    min_score: MinScore = None,
    names: Names = None,
    only: Only = (),
    weighted: Weighted = False,
    dims: Dims = 128,
    p: Annotated[float, "return parameter: above 1 the walk seldom turns back"] = 1.0,
    q: Annotated[float, "in-out parameter: below 1 the walk goes outward"] = 1.0,
    walks: Annotated[int, "walks from each node"] = 10,
    length: Annotated[int, "nodes of a walk"] = 80,
    window: Annotated[int, "nodes at most so many steps apart are a pair"] = 10,
    negative: Annotated[float, "number of negative samples of the implicit skip-gram"] = 1.0,
    seed: Annotated[int, "seed of the walks"] = 0,
) -> Built:
    """Build a node2vec embedding of a network."""
    network = read_network(edges, a=a, b=b, score=score, min_score=min_score, names=names, only=only, weighted=weighted)
    vectors, notes = node2vec_vectors(
        network.graph, dims, p=p, q=q, walks=walks, length=length, window=window, negative=negative, seed=seed
    )
    return network.built(vectors, notes)


def build_degree(
    *,
    edges: Edges,
    a: ColumnA = None,
    b: ColumnB = None,
    score: Score = None,
    min_score: MinScore = None,
    names: Names = None,
    only: Only = (),
    weighted: Weighted = False,
    features: Annotated[
        tuple[str, ...], "which of degree, strength (sum of weights), core (number), each as log(1 + value)"
    ] = DEGREE_FEATURES,
) -> Built:
    """Build the control that knows of a node only how many neighbours it has."""
    network = read_network(edges, a=a, b=b, score=score, min_score=min_score, names=names, only=only, weighted=weighted)
    notes: tuple[str, ...] = (f"dimensions: {', '.join(features)}",)
    if not weighted and {"degree", "strength"} <= set(features):
        features = tuple(f for f in features if f != "strength")
        notes = (f"dimensions: {', '.join(features)}; strength is the degree, as edges have no weights",)
    vectors = degree_vectors(network.graph, features)
    size = f"{len(network.names)} nodes, {network.graph.nnz // 2} edges"
    return Built(
        network.names, vectors.astype(np.float32), network.left_out, (*network.notes, size, *notes), network.card
    )


def example_links(folder: Path) -> dict[str, Any]:
    """Write a links file as STRING does: 36 proteins in three groups, and one that has only a poor link."""
    rng = np.random.default_rng(0)
    lines = ["protein1 protein2 combined_score"]
    for i in range(36):
        for j in range(i):
            near = i % 3 == j % 3
            if rng.random() < (0.6 if near else 0.1) or i == j + 1:
                level = int(rng.integers(500, 999) if near else rng.integers(400, 700))
                pair = f"9606.ENSP{i:011d}", f"9606.ENSP{j:011d}"
                lines += [f"{pair[0]} {pair[1]} {level}", f"{pair[1]} {pair[0]} {level}"]
    lines.append(f"9606.ENSP{36:011d} 9606.ENSP{0:011d} 150")
    links, info = folder / "9606.protein.links.txt", folder / "9606.protein.info.txt"
    links.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [
        "#string_protein_id\tpreferred_name\tannotation",
        *(f"9606.ENSP{k:011d}\tG{k:02d}\tnone" for k in range(37)),
    ]
    info.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"edges": links, "names": info, "min_score": 400.0}


def _with(**more: Any) -> Any:
    return lambda folder: {**example_links(folder), **more}


BUILDERS = (
    Builder(
        name="netmf", modality="network", function=build_netmf, example=_with(dims=8),
        description="NetMF of an interaction network: what DeepWalk factorises implicitly, factorised",
        citation="Qiu et al., WSDM 2018", url="https://doi.org/10.1145/3159652.3159706",
    ),
    Builder(
        name="spectral", modality="network", function=build_spectral, example=_with(dims=8),
        description="leading eigenvectors of an interaction network",
        citation="Belkin and Niyogi, Neural Computation 2003", url="https://doi.org/10.1162/089976603321780317",
    ),
    Builder(
        name="node2vec", modality="network", function=build_node2vec, example=_with(dims=8, p=0.5, q=2.0, walks=5, length=20),
        description="node2vec of an interaction network: biased random walks, positive PMI, truncated SVD",
        citation="Grover and Leskovec, KDD 2016; Levy and Goldberg, NIPS 2014", url="https://doi.org/10.1145/2939672.2939754",
    ),
    Builder(
        name="degree", modality="network", function=build_degree, example=_with(weighted=True),
        description="control: how many interactions a node has, and nothing of with whom",
    ),
)  # fmt: skip

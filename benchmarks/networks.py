"""NetMF of a network of the size of STRING at score >= 400, against the straightforward way; and reading its links file.

1. A network is drawn: 19,000 nodes, at least 1,000,000 edges, communities, and degrees as uneven as those of STRING.
2. Its links file (both directions of each pair, and as many rows again of a poor score) is read by read_edges and by pandas.
3. NetMF (window 3, 128 dims) in a process of its own, peak memory taken from the kernel. "straightforward": powers of the
   sparse matrix in double precision, then scipy's svds; it needs the whole matrix several times over, and is run on the part of
   the network that the first nodes span (--straight 0: on all of it). "panmodal": whatever netmf_vectors chooses.
4. The answers must agree: of the part, vectors times their transposes; of the whole, M U = U S on rows of M computed by scipy in
   double precision.

    python benchmarks/networks.py
    python benchmarks/networks.py --nodes 5000 --edges 150000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix, diags_array, save_npz

from panmodal.embeddings.edges import read_edges
from panmodal.embeddings.network import adjacency, components

CHILD = """
import json, sys, time
import numpy as np
from scipy.sparse import csr_array, diags_array, load_npz
graph, what = csr_array(load_npz(sys.argv[1])), sys.argv[2]
if what == "straightforward":
    from scipy.sparse.linalg import svds
    start = time.perf_counter()
    degree = graph.sum(axis=1)
    walk = csr_array(diags_array(1 / degree) @ graph)
    power = total = walk
    for _ in range(2):
        power = walk @ power
        total = total + power
    total = csr_array(total @ diags_array(degree.sum() / (3 * degree)))
    total.data = np.log(np.maximum(total.data, 1.0))
    total.eliminate_zeros()
    u, s, _ = svds(total, k=128, v0=np.ones(total.shape[0]))
    vectors = u[:, ::-1] * np.sqrt(s[::-1])
else:
    from panmodal.embeddings.network import netmf_vectors, spectral_vectors
    from panmodal.embeddings.walks import node2vec_vectors
    make = {"panmodal": netmf_vectors, "1 GiB": lambda g: netmf_vectors(g, memory=1.0),
            "spectral": lambda g: (spectral_vectors(g), 0), "node2vec": node2vec_vectors}[what]
    start = time.perf_counter()
    vectors, _ = make(graph)
seconds = time.perf_counter() - start
np.save(sys.argv[3], vectors)
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, peak / 2**20]))
"""


def draw(nodes: int, edges: int, seed: int = 0) -> pd.DataFrame:
    """Edges among ``nodes``: half within communities, ends drawn by propensities with a heavy tail."""
    rng = np.random.default_rng(seed)
    weight = np.minimum(rng.pareto(2.0, nodes) + 0.3, 30)
    community = rng.integers(0, max(2, nodes // 125), nodes)
    order = np.argsort(community, kind="stable")
    share = np.cumsum(weight[order])
    first = np.searchsorted(community[order], np.arange(community.max() + 2))
    edge = np.concatenate([[0.0], share])
    found = np.empty(0, np.int64)
    while len(found) < edges:
        size = edges // 2
        a = order[np.minimum(np.searchsorted(share, rng.random(size) * share[-1]), nodes - 1)]
        low, high = edge[first[community[a]]], edge[first[community[a] + 1]]
        near = rng.random(size) < 0.5
        target = np.where(near, low + rng.random(size) * (high - low), rng.random(size) * share[-1])
        b = order[np.minimum(np.searchsorted(share, target), nodes - 1)]
        pair = (np.minimum(a, b) * nodes + np.maximum(a, b))[a != b]
        found = np.unique(np.concatenate([found, pair]))
    a, b = np.divmod(rng.permutation(found)[:edges], nodes)
    return pd.DataFrame({"a": a, "b": b})


def write_links(edges: pd.DataFrame, nodes: int, path: Path, seed: int = 1) -> None:
    """Write a links file as STRING does."""
    rng = np.random.default_rng(seed)
    poor = pd.DataFrame({"a": rng.integers(0, nodes, len(edges)), "b": rng.integers(0, nodes, len(edges))})
    both = pd.concat(
        [edges.assign(s=rng.integers(400, 1000, len(edges))), poor.assign(s=rng.integers(150, 400, len(edges)))]
    )
    both = pd.concat([both, both.rename(columns={"a": "b", "b": "a"})])
    ids = np.array([f"9606.ENSP{k:011d}" for k in range(nodes)])
    table = pd.DataFrame(
        {"protein1": ids[both["a"]], "protein2": ids[both["b"]], "combined_score": both["s"].to_numpy()}
    )
    table.to_csv(path, sep=" ", index=False, compression={"method": "gzip", "compresslevel": 1})


def reading(path: Path) -> csr_array:
    start = time.perf_counter()
    frame = pd.read_csv(path, sep=" ")
    frame = frame[frame["combined_score"] >= 400]
    theirs = time.perf_counter() - start
    start = time.perf_counter()
    read = read_edges(path, min_score=400)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    names, graph = adjacency(read.frame)
    matrix = time.perf_counter() - start
    if len(read.frame) != int((frame["protein1"] != frame["protein2"]).sum()):
        raise SystemExit("edges differ")
    labels, sizes = components(graph)
    degree = np.diff(graph.indptr)
    print(
        f"links file: pandas.read_csv {theirs:.1f} s, read_edges {ours:.1f} s, ratio {theirs / ours:.1f}; adjacency {matrix:.1f} s"
    )
    print(f"network: {len(names)} nodes, {graph.nnz // 2} edges, largest component {sizes[0]}, degree "
          f"{degree.min()} to {degree.max()}, median {np.median(degree):.0f}, mean {degree.mean():.0f}", flush=True)  # fmt: skip
    inside = labels == 0
    return csr_array(graph[inside][:, inside])


def apart(graph: csr_array, what: str, folder: Path) -> tuple[np.ndarray, float, float]:
    """Vectors, seconds and peak GiB of one way in a process of its own."""
    save_npz(folder / "g.npz", csr_matrix(graph))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "g.npz"), what, str(folder / "v.npy")],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return np.load(folder / "v.npy").astype(np.float64), seconds, peak


def against_rows(graph: csr_array, vectors: np.ndarray, rows: int = 200) -> float:
    """Relative error of M U = U S on rows of M computed by scipy."""
    degree = graph.sum(axis=1)
    walk = csr_array(diags_array(1 / degree) @ graph)
    drawn = np.sort(np.random.default_rng(3).permutation(graph.shape[0])[:rows])
    power = total = walk[drawn]
    for _ in range(2):
        power = power @ walk
        total = total + power
    matrix = np.log(np.maximum(total.toarray() * (degree.sum() / (3 * degree)), 1.0))
    size = (vectors**2).sum(axis=0)
    image, expected = matrix @ vectors, vectors[drawn] * size
    sign = np.sign((image * expected).sum(axis=0))
    return float(np.linalg.norm(image - expected * sign) / np.linalg.norm(expected))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=19_000)
    parser.add_argument("--edges", type=int, default=1_050_000)
    parser.add_argument("--straight", type=int, default=6_000, help="nodes for the straightforward way; 0: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="panmodal-bench-") as name:
        folder = Path(name)
        write_links(draw(options.nodes, options.edges), options.nodes, folder / "links.txt.gz")
        graph = reading(folder / "links.txt.gz")
        apart(
            csr_array(
                graph[:300][:, :300] + diags_array(np.ones(299), offsets=1) + diags_array(np.ones(299), offsets=-1)
            ),
            "node2vec",
            folder,
        )
        # What is in use at the straightforward way's own size.
        part = graph if not options.straight else csr_array(graph[: options.straight][:, : options.straight])
        labels, _ = components(part)
        part = csr_array(part[labels == 0][:, labels == 0])
        print(
            f"\n== NetMF of {part.shape[0]} nodes, {part.nnz // 2} edges\n{'':16} seconds  peak GiB  relative error",
            flush=True,
        )
        theirs, slow, peak = apart(part, "straightforward", folder)
        print(f"{'straightforward':16} {slow:7.1f} {peak:9.2f}", flush=True)
        gram = theirs @ theirs.T
        worst = 0.0
        for what in ("panmodal", "1 GiB"):
            ours, seconds, peak = apart(part, what, folder)
            error = float(np.linalg.norm(ours @ ours.T - gram) / np.linalg.norm(gram))
            worst = max(worst, error)
            print(f"{what:16} {seconds:7.1f} {peak:9.2f}  {error:.1e}, ratio {slow / seconds:.1f}", flush=True)
        print(
            f"\n== {graph.shape[0]} nodes, {graph.nnz // 2} edges\n{'':16} seconds  peak GiB  relative error of M U = U S",
            flush=True,
        )
        for what in ("panmodal", "1 GiB"):
            ours, seconds, peak = apart(graph, what, folder)
            error = against_rows(graph, ours)
            worst = max(worst, error)
            print(f"NetMF, {what:9} {seconds:7.1f} {peak:9.2f}  {error:.1e}", flush=True)
        for what in ("spectral", "node2vec"):
            _, seconds, peak = apart(graph, what, folder)
            print(f"{what:16} {seconds:7.1f} {peak:9.2f}", flush=True)
    if worst > 1e-3:
        raise SystemExit("answers differ")


if __name__ == "__main__":
    main()

"""Preparing a screen from raw cells: against merely reading the file, against scanpy, and its memory.

1. Simulated cells are streamed to disk (panmodal simulate), uncompressed and gzipped, and read once by plain h5py in slices:
   the time that any program must take. Then panmodal prepare runs on the same file in a process of its own, whose peak memory is
   taken from the kernel. Both are run once before the clock, so that the file is in the page cache for both. Three sizes show how
   time grows.
2. DEG labels: panmodal's whole prepare (reading, normalising, LFC and tests) against scanpy.tl.rank_genes_groups alone, with cells
   already normalised and in memory. Labels must be equal.
3. LFC: against scanpy's normalize_total and log1p and pandas means; they must agree within 1e-5.

    python benchmarks/prepare.py                     # 1,000,000 cells x 5,000 genes
    python benchmarks/prepare.py --cells 100000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells

CHILD = """
import json, resource, sys, time
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
import numba, scipy.special, anndata
start = time.perf_counter()
screen = prepare(open_cells([sys.argv[1]], PrepareOptions()), memory=float(sys.argv[2]), n_jobs=int(sys.argv[3]))
seconds = time.perf_counter() - start
if len(sys.argv) > 4:
    screen.write(sys.argv[4])
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, int((screen.adata.layers["deg"] != 0).sum())]))
"""


def read_only(path: Path, step: int = 2**23) -> float:
    """Seconds to read the matrix in slices, and nothing else."""
    start = time.perf_counter()
    with h5py.File(path, "r") as handle:
        group = handle["X"]
        for name in ("data", "indices"):
            for low in range(0, len(group[name]), step):
                group[name][low : low + step]
    return time.perf_counter() - start


def prepare_apart(path: Path, memory: float, jobs: int) -> tuple[float, float, int]:
    """Seconds, peak GiB and number of DEGs of panmodal prepare in a process of its own."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(memory), str(jobs)], check=True, capture_output=True, text=True
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def recompress(source: Path, target: Path, compression: str | None) -> None:
    with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
        for key in old:
            if key != "X":
                old.copy(key, new)
        new.attrs.update(old.attrs)
        group = new.create_group("X")
        group.attrs.update(old["X"].attrs)
        for name in ("data", "indices", "indptr"):
            data = old["X"][name]
            out = group.create_dataset(
                name, data.shape, data.dtype, chunks=(2**18,) if len(data) > 2**18 else None, compression=compression
            )
            for low in range(0, len(data), 2**22):
                out[low : low + 2**22] = data[low : low + 2**22]


def scale(folder: Path, cells: int, genes: int, perturbations: int, memory: float, jobs: int) -> None:
    print(
        f"\n== prepare, {genes} genes, {perturbations} perturbations, --memory {memory:g}, {jobs} threads", flush=True
    )
    print(
        f"{'cells':>9} {'stored as':>12} {'values':>13} {'file MiB':>9} {'read s':>8} {'prepare s':>10} {'ratio':>6} {'GiB':>9}  DEGs"
    )
    for n in (cells // 4, cells // 2, cells):
        made = folder / f"cells{n}.h5ad"
        simulate_cells(made, n_cells=n, n_perturbations=perturbations, n_genes=genes, umis=800.0, seed=1)
        for compression in (None, "gzip"):
            if compression and n != cells:
                continue
            path = folder / f"{compression}{n}.h5ad"
            recompress(made, path, compression)
            with h5py.File(path) as handle:
                values = len(handle["X/data"])
            read_only(path)
            prepare_apart(path, memory, jobs)
            read = min(read_only(path) for _ in range(3))
            runs = [prepare_apart(path, memory, jobs) for _ in range(2)]
            seconds, peak, degs = min(r[0] for r in runs), max(r[1] for r in runs), runs[0][2]
            mib = path.stat().st_size / 2**20
            print(f"{n:9d} {compression or 'uncompressed':>12} {values:13d} {mib:9.0f} {read:8.1f} {seconds:10.1f} "
                  f"{seconds / read:6.2f} {peak:9.2f}  {degs}", flush=True)  # fmt: skip
            path.unlink()
        made.unlink()


def against_scanpy(folder: Path, cells: int = 40_000, genes: int = 2_000, perturbations: int = 100) -> None:
    import anndata
    import pandas as pd
    import scanpy as sc

    path = folder / "small.h5ad"
    simulate_cells(path, n_cells=cells, n_perturbations=perturbations, n_genes=genes, umis=1500.0, seed=2)
    prepare(open_cells([path], PrepareOptions()), n_jobs=1)
    start = time.perf_counter()
    screen = prepare(open_cells([path], PrepareOptions()), n_jobs=1)
    own = time.perf_counter() - start

    adata = anndata.read_h5ad(path)
    start = time.perf_counter()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    normalising = time.perf_counter() - start
    start = time.perf_counter()
    sc.tl.rank_genes_groups(adata, "perturbation", reference="non-targeting", method="t-test")
    testing = time.perf_counter() - start
    different = 0
    for row, pert in enumerate(screen.adata.obs["pert_id"]):
        found = sc.get.rank_genes_groups_df(adata, pert).set_index("names").loc[screen.readouts]
        labels = np.where(found["pvals_adj"] <= 0.05, np.sign(found["scores"]), 0)
        tested = screen.adata.obs["deg_tested"].iloc[row]
        different += int((labels != screen.adata.layers["deg"][row]).sum()) if tested else 0
    print(f"\n== DEG labels, {cells} cells x {genes} genes x {perturbations} perturbations, one thread")
    print(f"panmodal prepare, all of it {own:.2f} s; scanpy.tl.rank_genes_groups alone {testing:.1f} s (normalising before it "
          f"{normalising:.1f} s); ratio {testing / own:.1f}; labels that differ: {different}", flush=True)  # fmt: skip
    if different:
        raise SystemExit("labels differ")

    frame = pd.DataFrame(adata.X.toarray().astype(np.float64), columns=screen.readouts)
    keys = [adata.obs["perturbation"].astype(str).to_numpy(), adata.obs["batch"].astype(str).to_numpy()]
    means = frame.groupby(keys).mean().groupby(level=0).mean()
    lfc = means - means.loc["non-targeting"]
    worst = float(np.abs(lfc.loc[screen.adata.obs["pert_id"]].to_numpy() - screen.adata.X).max())
    print(f"LFC against scanpy and pandas: largest difference {worst:.1e}")
    if worst > 1e-5:
        raise SystemExit("responses differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--perturbations", type=int, default=1_000)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB given to panmodal prepare")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="panmodal-bench-") as folder:
        against_scanpy(Path(folder))
        scale(Path(folder), options.cells, options.genes, options.perturbations, options.memory, options.jobs)


if __name__ == "__main__":
    main()

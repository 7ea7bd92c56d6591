"""Preparing a screen from raw cells: against merely reading the file, against scanpy, and its memory.

1. Simulated cells are streamed to disk (panmodal simulate) and read once by plain h5py in slices: the time that any program must
   take. Then panmodal prepare (reading, digest of the file, normalising, LFC, DEG labels) runs on the same file in a process of its
   own, whose peak memory is taken from the kernel. "disk": the file is dropped from the page cache before each; "memory": it is
   there. Stored as panmodal simulate and scanpy write files (lzf, gzip), and without compression, where reading from memory is but
   copying. Three sizes show how time grows.
2. DEG labels from normalised cells in memory, one thread: deg_of_groups against scanpy.tl.rank_genes_groups (t-test). Labels must be
   equal. Both ran once before.
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
import warnings
from pathlib import Path

import h5py
import numpy as np

from panmodal.cells.deg import deg_of_groups
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells

CHILD = """
import json, sys, time
from panmodal.cells.deg import deg_of_groups
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
import numba, scipy.special, anndata
start = time.perf_counter()
screen = prepare(open_cells([sys.argv[1]], PrepareOptions()), memory=float(sys.argv[2]), n_jobs=int(sys.argv[3]))
seconds = time.perf_counter() - start
if len(sys.argv) > 4:
    screen.write(sys.argv[4])
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, peak / 2**20, int((screen.adata.layers["deg"] != 0).sum())]))
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


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scale(folder: Path, cells: int, genes: int, perturbations: int, memory: float, jobs: int) -> None:
    print(
        f"\n== prepare, {genes} genes, {perturbations} perturbations, --memory {memory:g}, {jobs} threads", flush=True
    )
    print("  cells  stored  read from      values  file MiB  read s  prepare s  ratio  peak GiB     DEGs", flush=True)
    for n in (cells // 4, cells // 2, cells):
        made = folder / f"cells{n}.h5ad"
        simulate_cells(made, n_cells=n, n_perturbations=perturbations, n_genes=genes, umis=800.0, seed=1)
        for compression in ("lzf", "gzip", None) if n == cells else ("lzf",):
            path = made if compression == "lzf" else folder / f"{compression}{n}.h5ad"
            if path != made:
                recompress(made, path, compression)
            with h5py.File(path) as handle:
                values = len(handle["X/data"])
            prepare_apart(path, memory, jobs)
            for place in ("disk", "memory"):
                reads, runs = [], []
                for _ in range(2):
                    if place == "disk":
                        drop_from_cache(path)
                    reads.append(read_only(path))
                    if place == "disk":
                        drop_from_cache(path)
                    runs.append(prepare_apart(path, memory, jobs))
                read, (seconds, peak, degs) = min(reads), min(runs)
                print(f"{n:7d}  {compression or 'plain':>6}  {place:>9} {values:11d} {path.stat().st_size / 2**20:9.0f} {read:7.1f} "
                      f"{seconds:10.1f} {seconds / read:6.2f} {peak:9.2f} {degs:8d}", flush=True)  # fmt: skip
            if path != made:
                path.unlink()
        made.unlink()


def against_scanpy(folder: Path, cells: int, genes: int, perturbations: int) -> None:
    import anndata
    import pandas as pd
    import scanpy as sc

    warnings.simplefilter("ignore")
    path = folder / "small.h5ad"
    simulate_cells(path, n_cells=cells, n_perturbations=perturbations, n_genes=genes, umis=1500.0, seed=2)
    screen = prepare(open_cells([path], PrepareOptions()), n_jobs=1)
    adata = anndata.read_h5ad(path)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    times: dict[str, float] = {}
    for _ in range(2):
        start = time.perf_counter()
        sc.tl.rank_genes_groups(adata, "perturbation", reference="non-targeting", method="t-test")
        times["scanpy"] = time.perf_counter() - start
        start = time.perf_counter()
        labels = deg_of_groups(adata.X, adata.obs["perturbation"], "non-targeting")
        times["panmodal"] = time.perf_counter() - start
    different = 0
    tested = screen.adata.obs["deg_tested"].to_numpy()
    for row, pert in enumerate(screen.adata.obs["pert_id"]):
        if tested[row]:
            found = sc.get.rank_genes_groups_df(adata, pert).set_index("names").loc[screen.readouts]
            theirs = np.where(found["pvals_adj"] <= 0.05, np.sign(found["scores"]), 0)
            different += int((theirs != labels.loc[pert]).sum() + (theirs != screen.adata.layers["deg"][row]).sum())
    print(f"\n== DEG labels, {cells} cells x {genes} genes x {perturbations} perturbations, one thread")
    print(f"scanpy.tl.rank_genes_groups {times['scanpy']:.2f} s, panmodal {times['panmodal']:.2f} s, ratio "
          f"{times['scanpy'] / times['panmodal']:.1f}; labels that differ: {different}", flush=True)  # fmt: skip
    if different:
        raise SystemExit("labels differ")
    frame = pd.DataFrame(adata.X.toarray(), columns=screen.readouts).astype(np.float64)
    keys = [adata.obs["perturbation"].astype(str).to_numpy(), adata.obs["batch"].astype(str).to_numpy()]
    means = frame.groupby(keys).mean().groupby(level=0).mean()
    lfc = means - means.loc["non-targeting"]
    worst = float(np.abs(lfc.loc[screen.adata.obs["pert_id"]].to_numpy() - screen.adata.X).max())
    print(f"LFC against scanpy and pandas: largest difference {worst:.1e}", flush=True)
    if worst > 1e-5:
        raise SystemExit("responses differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--perturbations", type=int, default=1_000)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB given to panmodal prepare")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["deg", "prepare"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="panmodal-bench-") as folder:
        if options.only != "prepare":
            against_scanpy(Path(folder), 40_000, 3_000, 500)
            against_scanpy(Path(folder), 60_000, 5_000, 1_000)
        if options.only != "deg":
            scale(Path(folder), options.cells, options.genes, options.perturbations, options.memory, options.jobs)


if __name__ == "__main__":
    main()

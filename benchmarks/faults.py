"""Runs that are disturbed: workers, the main process and (with --dask) the scheduler are killed at random times.

1. A small simulated screen is run undisturbed; its score table is what all others must equal, exactly.
2. In each round the same command is started into a new folder, and processes are killed at random times: a worker (SIGKILL), the main
   process (SIGKILL, SIGTERM or SIGINT), the Dask scheduler (SIGKILL). A command that ended is given again, as a user would. In every
   third round a second command writes into the same folder at the same time and is left in peace; it must end well, unless the
   scheduler that it used was killed.
3. After a few disturbances the command is left in peace. The score table is compared, and what was left behind is counted.

    python benchmarks/faults.py                            # 100 rounds, processes of this machine (half an hour)
    python benchmarks/faults.py --rounds 20 --dask         # a Dask cluster of two processes
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal import Screen

BAD = ("FAILED IN PEACE", "HUNG", "SECOND COMMAND FAILED")
LABELS = ["screen", "context", "embedding", "probe", "fold", "fallback", "metric"]


def make_inputs(folder: Path, n: int, genes: int, dims: int, n_embeddings: int) -> list[str]:
    """Write a screen and embeddings of it; return the options that name them."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n, 8))
    ids, contexts = [f"P{k:04d}" for k in range(n)], ("line-A", "line-B")
    blocks = [latents @ rng.standard_normal((8, genes)) + rng.standard_normal((n, genes)) for _ in contexts]
    screen = Screen.from_arrays(
        np.vstack(blocks), ids * len(contexts), [c for c in contexts for _ in ids], [f"g{k}" for k in range(genes)], name="faults",
        response="lfc", simulated=True,
    )  # fmt: skip
    screen.write(folder / "screen.h5ad")
    options = ["--screen", str(folder / "screen.h5ad")]
    for k in range(n_embeddings):
        vectors = np.hstack([latents, k * rng.standard_normal((n, 8)), rng.standard_normal((n, dims - 16))])
        path = folder / f"embedding{k}.csv"
        pd.DataFrame(vectors, index=pd.Index(ids, name="pert_id"), columns=[f"d{j}" for j in range(dims)]).to_csv(path)
        options += ["--embedding", str(path)]
    return options


def table(out: Path) -> pd.DataFrame:
    """Return the score table in an order of its own."""
    return pd.read_parquet(out / "scores.parquet").sort_values(LABELS).reset_index(drop=True)


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def is_worker(pid: int) -> bool:
    """Whether a process runs tasks (and is no helper, as the tracker of resources)."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return False
    return "popen_loky" in words or "spawn_main" in words


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Cluster:
    """A Dask scheduler and two workers, each with a nanny that starts it again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Start it, or all of it again."""
        self.stop()
        self.file.unlink(missing_ok=True)
        named = ["--scheduler-file", str(self.file)]
        self._begin("dask_scheduler", *named, "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        for _ in range(2):
            self._begin(
                "dask_worker", *named, "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder)
            )

    def _begin(self, name: str, *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *options]
        with Path(os.devnull).open("w") as null:
            self.processes.append(subprocess.Popen(command, stdout=null, stderr=null))

    def workers(self) -> list[int]:
        """Process ids of what runs tasks."""
        return [p for each in self.processes[1:] for p in children(each.pid) if is_worker(p)]

    def stop(self) -> None:
        """Kill all of it."""
        for process in self.processes:
            for pid in [*children(process.pid), process.pid]:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        self.processes = []


class Disturbed:
    """One command, started again and again, and what happened to it."""

    def __init__(
        self,
        options: list[str],
        out: Path,
        cluster: Cluster | None,
        rng: random.Random,
        seconds: float,
        *,
        rival: bool = False,
    ) -> None:
        self.command = [sys.executable, "-m", "panmodal", "run", *options, "--out", str(out)]
        self.cluster, self.rng, self.seconds, self.with_rival = cluster, rng, seconds, rival
        self.log = out.with_suffix(".log")
        self.seen: set[int] = set()

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)

    def disturb(self, process: subprocess.Popen[bytes]) -> str:
        """Kill something; return what."""
        kinds = ["worker", "worker", "SIGKILL", "SIGTERM", "SIGINT"] + ["scheduler"] * (self.cluster is not None)
        kind = self.rng.choice(kinds)
        mine = children(process.pid)
        self.seen |= set(mine)
        if kind == "worker":
            team = self.cluster.workers() if self.cluster else [p for p in mine if is_worker(p)]
            if not team:
                return "too early or late"
            with suppress(OSError):
                os.kill(self.rng.choice(team), signal.SIGKILL)
        elif kind == "scheduler":
            assert self.cluster is not None
            self.cluster.start()
        elif kind == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, kind))
        return kind

    def run(self, times: int) -> Counter[str]:
        """Give the command until it has been disturbed so often, then once in peace."""
        counts: Counter[str] = Counter()
        process = self.start()
        rival = self.start() if self.with_rival else None
        while times > 0:
            times -= 1
            try:
                process.wait(timeout=self.rng.uniform(0, self.seconds))
                counts["finished in between"] += process.returncode == 0
            except subprocess.TimeoutExpired:
                counts[self.disturb(process)] += 1
            if process.poll() is None and self.rng.random() < 0.5:
                continue  # the next disturbance meets the same process
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=8 * self.seconds)
            if process.poll() is None:
                counts["HUNG"] += 1
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process = self.start()
            counts["given again"] += 1
        if process.wait():  # of the last disturbance
            counts["given again"] += 1
            counts["FAILED IN PEACE"] += self.start().wait() != 0
        if rival is not None:
            counts["a second command ended well"] += rival.wait() == 0
            counts["SECOND COMMAND FAILED"] += rival.returncode != 0 and not counts["scheduler"]
        time.sleep(0.5)
        counts["processes left"] += sum(alive(p) for p in self.seen)
        return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--disturbances", type=int, default=3, help="most of a round")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dask", action="store_true", help="on a Dask cluster of two processes")
    parser.add_argument("--perturbations", type=int, default=300)
    parser.add_argument("--genes", type=int, default=400)
    parser.add_argument("--embeddings", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, totals, wrong = random.Random(asked.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = make_inputs(folder, asked.perturbations, asked.genes, 64, asked.embeddings)
        options += ["--jobs", str(asked.jobs)]
        calm = Disturbed(options, folder / "calm", None, rng, 0.0)
        began = time.perf_counter()
        if calm.start().wait():
            sys.exit(calm.log.read_text())
        seconds = time.perf_counter() - began
        expected = table(folder / "calm")
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} scores", flush=True)
        cluster = Cluster(folder) if asked.dask else None
        if cluster:
            options += ["--dask", str(cluster.file)]
        try:
            for k in range(asked.rounds):
                out = folder / f"round{k}"
                disturbed = Disturbed(options, out, cluster, rng, seconds, rival=k % 3 == 2)
                counts = disturbed.run(rng.randint(1, asked.disturbances))
                same = (out / "scores.parquet").exists() and table(out).equals(expected)
                counts["partial files left"] = sum(1 for _ in out.rglob(".partial-*"))
                totals += counts
                wrong += not same
                print(f"round {k}: {'equal' if same else 'NOT EQUAL'}; {told(counts)}", flush=True)
                if not same or any(counts[what] for what in BAD):
                    print(disturbed.log.read_text()[-4000:], flush=True)
        finally:
            if cluster:
                cluster.stop()
    print(f"{asked.rounds} rounds, {asked.rounds - wrong} score tables equal to the undisturbed one; {told(totals)}")
    sys.exit(bool(wrong))


def told(counts: Counter[Any]) -> str:
    return ", ".join(f"{what} {n}" for what, n in sorted(counts.items()) if n)


if __name__ == "__main__":
    main()

"""How long jobs take on many workers: a discrete-event simulation of what is shared and what is waited for."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from panmodal.errors import InputError


@dataclass(frozen=True)
class Job:
    """What one worker does in one go.

    Attributes
    ----------
    name
        Shown where it is the longest.
    seconds
        Time of computing.
    inputs
        Bytes of the inputs it reads by their names; a worker that has read one keeps it.
    files
        Files it makes.
    written
        Bytes it writes.
    """

    name: str
    seconds: float
    inputs: dict[str, float] = field(default_factory=dict)
    files: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.seconds, self.files, self.written, *self.inputs.values())
        if not all(np.isfinite(v) and v >= 0 for v in sizes):
            raise InputError(f"job {self.name!r}: seconds, bytes and files must be numbers of at least 0.")


@dataclass(frozen=True)
class Cluster:
    """The workers and what they share.

    Attributes
    ----------
    workers
        Their number.
    latency, bandwidth
        Seconds before an input or output starts to flow, and bytes a second of the file system, shared by all.
    per_worker
        Bytes a second that one worker can take.
    files_per_second
        Files that the file system's metadata server makes.
    dispatch
        Seconds the scheduler needs for each job, one job after the other.
    overhead
        Seconds a worker loses on each job.
    straggle
        Standard deviation of the logarithm of a job's slowness (lognormal with mean 1).
    late
        Workers start one after the other, the last after so many seconds.
    start
        Seconds each needs to come up.
    before, after
        Seconds of work that only one process does, before the jobs and after them.
    contention
        How much longer computing takes for each further worker on the same machine (0.1: 10 %).
    per_machine
        Workers on one machine.
    seed
        Of the stragglers.
    """

    workers: int
    latency: float = 0.0
    bandwidth: float = np.inf
    per_worker: float = np.inf
    files_per_second: float = np.inf
    dispatch: float = 0.0
    overhead: float = 0.0
    straggle: float = 0.0
    late: float = 0.0
    start: float = 0.0
    before: float = 0.0
    after: float = 0.0
    contention: float = 0.0
    per_machine: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.per_machine < 1:
            raise InputError(f"{self.workers} workers, {self.per_machine} on a machine: at least 1 of each is needed.")
        if min(self.bandwidth, self.per_worker, self.files_per_second) <= 0:
            raise InputError("bytes and files a second must be above 0.")
        waits = (
            self.latency,
            self.dispatch,
            self.overhead,
            self.straggle,
            self.late,
            self.start,
            self.before,
            self.after,
        )
        if min(*waits, self.contention) < 0 or not np.isfinite([*waits, self.contention]).all():
            raise InputError("times, straggle and contention of a cluster must be numbers of at least 0.")

    @property
    def slowdown(self) -> float:
        """Factor by which computing takes longer because workers share machines."""
        return 1.0 + self.contention * (min(self.workers, self.per_machine) - 1)


@dataclass(frozen=True)
class Simulation:
    """What came of it.

    Attributes
    ----------
    makespan
        Seconds from the start to the end, serial parts included.
    work
        Seconds that one worker without any of the costs would take, serial parts included.
    efficiency
        work / (workers x makespan).
    utilisation
        Share of the workers' time spent computing.
    lost
        Share of the workers' time by what it went to: ``serial``, ``starting``, ``scheduler``, ``inputs``, ``writing``, ``files``,
        ``stragglers and contention``, ``idle at the end``.
    limits
        Seconds below which each of these cannot go: ``computing``, ``longest job``, ``file system``, ``metadata``, ``scheduler``,
        ``serial``; where the time is spent in parts, they add up with ``serial``.
    """

    workers: int
    makespan: float
    work: float
    utilisation: float
    longest: str
    lost: dict[str, float]
    limits: dict[str, float]

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that goes into the work itself."""
        return self.work / (self.workers * self.makespan) if self.makespan else 1.0

    @property
    def bound(self) -> str:
        """The largest of the limits: what to change for it to be quicker."""
        return max(self.limits, key=lambda k: self.limits[k])

    @property
    def waste(self) -> str:
        """What most of the lost time goes to."""
        return max(self.lost, key=lambda k: self.lost[k])


def simulate(jobs: Sequence[Job], cluster: Cluster, *, longest_first: bool = True) -> Simulation:
    """Run jobs on workers, each free worker taking the next job; the longest come first, as in a run.

    A job waits for the scheduler, then for those of its inputs that its worker has not read yet, computes, and writes its files. The
    scheduler, the file system's bandwidth and its metadata server serve one request at a time, in the order in which they come.

    Raises
    ------
    InputError
        No jobs.
    """
    if not jobs:
        raise InputError("no jobs to schedule.")
    queue = sorted(jobs, key=lambda j: -j.seconds) if longest_first else list(jobs)
    w, rng = cluster.workers, np.random.default_rng(cluster.seed)
    slow = np.full(len(queue), cluster.slowdown)
    if cluster.straggle:
        slow *= rng.lognormal(-(cluster.straggle**2) / 2, cluster.straggle, len(queue))
    spread = np.linspace(0.0, cluster.late, w) if w > 1 else np.zeros(1)
    spent = dict.fromkeys(("starting", "scheduler", "inputs", "writing", "files"), 0.0)
    spent["starting"] = float(spread.sum()) + cluster.start * w
    held: list[set[str]] = [set() for _ in range(w)]
    scheduler, pipe, metadata = _Server(), _Server(), _Server()
    # Events in the order of time: a worker (its number) is about to do the next step of its job.
    events = [(float(spread[k]) + cluster.start, k, k, "ask", -1) for k in range(w)]
    heapq.heapify(events)
    count, following, computing, end = w, 0, 0.0, 0.0
    while events:
        now, _, worker, step, number = heapq.heappop(events)
        end = max(end, now) if number >= 0 else end
        if step == "ask":
            if following == len(queue):
                continue
            number, following = following, following + 1
            later = scheduler.serve(now, cluster.dispatch) + cluster.overhead
            spent["scheduler"] += later - now
            after = "read"
        elif step == "read":
            new = {k: v for k, v in queue[number].inputs.items() if k not in held[worker]}
            held[worker] |= set(new)
            later = _transfer(pipe, now, sum(new.values()), len(new), cluster)
            spent["inputs"] += later - now
            after = "compute"
        elif step == "compute":
            later = now + queue[number].seconds * float(slow[number])
            computing += later - now
            after = "write"
        elif step == "write":
            written = queue[number].written
            later = _transfer(pipe, now, written, 1 if written else 0, cluster)
            spent["writing"] += later - now
            after = "files"
        else:
            later = metadata.serve(now, queue[number].files / cluster.files_per_second)
            spent["files"] += later - now
            after = "ask"
        count += 1
        end = max(end, later)
        heapq.heappush(events, (later, count, worker, after, number))
    return _told(queue, cluster, end, computing, spent, scheduler, pipe, metadata)


class _Server:
    """Serves one request at a time."""

    def __init__(self) -> None:
        self.free = self.busy = 0.0

    def serve(self, now: float, seconds: float) -> float:
        if seconds == 0:
            return now
        self.free = max(self.free, now) + seconds
        self.busy += seconds
        return self.free


def _transfer(pipe: _Server, now: float, size: float, pieces: int, cluster: Cluster) -> float:
    """Return when so many bytes have passed the shared file system and the worker's own connection."""
    if not pieces:
        return now
    shared = pipe.serve(now + cluster.latency * pieces, size / cluster.bandwidth)
    return max(shared, now + cluster.latency * pieces + size / cluster.per_worker)


def _told(queue: Sequence[Job], cluster: Cluster, end: float, computing: float, spent: dict[str, float], scheduler: _Server,
          pipe: _Server, metadata: _Server) -> Simulation:  # fmt: skip
    w, serial = cluster.workers, cluster.before + cluster.after
    makespan = end + serial
    base = float(sum(j.seconds for j in queue))
    total = w * makespan or 1.0
    idle = max(0.0, w * end - computing - sum(spent.values()))
    lost = {
        "serial": (w - 1) * serial,
        **spent,
        "stragglers and contention": max(0.0, computing - base),
        "idle at the end": idle,
    }
    longest = max(queue, key=lambda j: j.seconds)
    limits = {
        "computing": computing / w, "longest job": longest.seconds * cluster.slowdown, "file system": pipe.busy,
        "metadata": metadata.busy, "scheduler": scheduler.busy, "serial": serial,
    }  # fmt: skip
    return Simulation(w, makespan, base + serial, (computing + serial) / total, longest.name,
                      {k: v / total for k, v in lost.items()}, limits)  # fmt: skip


def scaling(jobs: Sequence[Job], cluster: Cluster, workers: Sequence[int]) -> pd.DataFrame:
    """Simulate several numbers of workers: ``workers, hours, speed_up, efficiency, utilisation, bound, waste, wasted``.

    ``speed_up`` is against one worker without any of the costs of sharing.
    """
    rows = []
    for w in workers:
        found = simulate(jobs, replace(cluster, workers=w))
        rows.append({
            "workers": w, "hours": found.makespan / 3600, "speed_up": found.work / found.makespan if found.makespan else 1.0,
            "efficiency": found.efficiency, "utilisation": found.utilisation, "bound": found.bound, "waste": found.waste,
            "wasted": found.lost[found.waste],
        })  # fmt: skip
    return pd.DataFrame(rows)

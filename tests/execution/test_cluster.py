"""The same promises on a Dask cluster of two processes."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest

from panmodal.errors import InputError, StoreError
from panmodal.execution.base import make_executor
from panmodal.execution.faults import ClusterError, StopAll

pytest.importorskip("distributed")
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")


def play(task, attempt):
    what, number = task
    if what == "error":
        raise ValueError(f"number {number}")
    if what == "heals" and attempt < number:
        raise OSError(errno.ESTALE, "stale file handle")
    if what == "memory":
        raise MemoryError("too big")
    if what == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kills once" and not attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "disk":
        raise StoreError("scores could not be written") from OSError(errno.ENOSPC, "No space left on device")
    if what == "where":
        time.sleep(0.02)
        return os.getpid()
    return number**2


@pytest.fixture(scope="module")
def cluster():
    with make_executor("dask:local", workers=2, pause=0.01) as made:
        yield made


def told(outcomes):
    return sorted(
        (o.index, o.value, o.fault.kind if o.fault else None, o.fault.attempts if o.fault else 0) for o in outcomes
    )


def test_results_are_those_of_other_executors(cluster):
    assert cluster.workers == 2
    tasks = [("fine", k) for k in range(30)] + [("error", 1), ("heals", 1), ("heals", 9), ("memory", 0)]
    found = list(cluster.map(play, tasks))
    for other in ("serial", "local"):
        with make_executor(other, workers=2, pause=0.01) as executor:
            assert told(executor.map(play, tasks)) == told(found)
    fault = next(o.fault for o in found if o.index == 30)
    assert (fault.type, fault.message) == ("ValueError", "number 1") and "in play" in fault.traceback


def test_a_full_disk_stops_everything(cluster):
    with pytest.raises(StopAll, match="disk is full"):
        list(cluster.map(play, [("fine", 1), ("disk", 0)] + [("where", 1)] * 50))
    assert [o.value for o in cluster.map(play, [("fine", 3)])] == [9]


def test_lost_workers(cluster):
    tasks = [("where", 0)] * 10 + [("kills once", 3), ("kills", 0)] + [("where", 0)] * 10
    outcomes = {o.index: o for o in cluster.map(play, tasks)}
    assert len(outcomes) == len(tasks)
    assert [k for k, o in outcomes.items() if o.fault] == [11]
    assert outcomes[10].value == 9 and outcomes[11].fault.kind == "lost"


def test_killing_a_worker_from_outside_harms_no_task(cluster):
    pids = {o.value for o in cluster.map(play, [("where", 0)] * 6)}
    timer = threading.Timer(0.3, os.kill, (next(iter(pids)), signal.SIGKILL))
    timer.start()
    outcomes = list(cluster.map(play, [("where", 0)] * 60))
    timer.join()
    assert len(outcomes) == 60 and all(o.fault is None for o in outcomes)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_scheduler_file_late_workers_and_a_scheduler_that_is_lost(tmp_path):
    path = tmp_path / "scheduler.json"
    begun = [
        start("dask_scheduler", "--scheduler-file", str(path), "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
    ]
    worker = ("dask_worker", "--scheduler-file", str(path), "--nthreads", "1", "--no-dashboard", "--no-nanny",
              "--local-directory", str(tmp_path))  # fmt: skip
    try:
        said = []
        with make_executor(f"dask:{path}", workers=7, say=said.append) as executor:
            assert executor.workers == 0 and "taken as they are" in said[0]
            going = executor.map(play, [("where", 0)] * 2000)
            begun.append(start(*worker))
            seen = {next(going).value}
            begun.append(start(*worker))
            for outcome in going:
                seen.add(outcome.value)
                if len(seen) == 2:
                    break
            assert len(seen) == 2, "a worker that joins later gets work"
            begun[0].kill()
            with pytest.raises(ClusterError, match=r"scheduler.*lost.*kept.*same command"):
                list(going)
    finally:
        for process in begun:
            process.kill()
            process.wait()


def test_other_versions_are_refused_before_any_work(cluster, monkeypatch):
    from panmodal.execution import cluster as module
    from panmodal.execution.calls import VERSIONS
    from panmodal.execution.remote import run_remote

    monkeypatch.setattr(module, "VERSIONS", ("9.9", "3.99"))
    with pytest.raises(ClusterError, match=r"other versions.*same environment"):
        cluster._check_versions()
    with pytest.raises(StopAll, match=r"9\.9 and Python 3\.99"):
        list(cluster.map(play, [("fine", 1)]))  # a worker that joined later
    import pickle

    assert pickle.loads(run_remote("unknown", b"", 0, VERSIONS)).kind == "transient"


def test_no_scheduler(tmp_path):
    from panmodal.execution.cluster import DaskExecutor

    with pytest.raises(ClusterError, match="no scheduler answers"):
        DaskExecutor("tcp://127.0.0.1:9", reach=0.5)
    with pytest.raises(ClusterError, match="no such scheduler file"):
        DaskExecutor(str(tmp_path / "no.json"), reach=0.1)


def test_dask_is_not_needed_by_others(monkeypatch, refuses):
    code = "import sys, panmodal.execution.cluster, panmodal.execution.remote; sys.exit('distributed' in sys.modules or 'dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    monkeypatch.setitem(sys.modules, "distributed", None)
    refuses(["panmodal[cluster]"], make_executor, "dask:local", error=InputError)

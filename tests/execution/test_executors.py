"""The same promises of every executor."""

import errno
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.errors import InputError, PanmodalError, StoreError
from panmodal.execution.base import make_executor
from panmodal.execution.faults import StopAll

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def play(task, attempt):
    """Do what the task says."""
    what, number = task
    if what == "error":
        raise ValueError(f"number {number}")
    if what == "heals" and attempt < number:
        raise OSError(errno.ESTALE, "stale file handle")
    if what == "flaky":
        raise ConnectionResetError("again")
    if what == "memory" or (what == "memory once" and not attempt):
        raise MemoryError("too big")
    if what == "exit":
        sys.exit(number)
    if what == "unpicklable":
        return threading.Lock()
    return number**2


PLAN = st.lists(
    st.tuples(
        st.sampled_from(["fine", "fine", "error", "heals", "flaky", "memory", "memory once", "exit"]), st.integers(0, 2)
    ),
    max_size=15,
)


def expected(what, number):
    kind = {"error": "error", "flaky": "transient", "memory": "memory", "exit": "error"}.get(what)
    return (None, kind) if kind else (number**2, None)


@pytest.fixture(scope="module", params=["serial", "local"])
def executor(request):
    with make_executor(request.param, workers=2, pause=0.001) as made:
        yield made


@settings(max_examples=12)
@given(PLAN)
def test_each_task_has_one_outcome(executor, plan):
    outcomes = list(executor.map(play, plan))
    assert sorted(o.index for o in outcomes) == list(range(len(plan)))
    for outcome in outcomes:
        value, kind = expected(*plan[outcome.index])
        assert outcome.value == value and (outcome.fault.kind if outcome.fault else None) == kind


def test_faults_carry_the_traceback_of_the_worker(executor):
    (outcome,) = executor.map(play, [("error", 5)])
    fault = outcome.fault
    assert (fault.kind, fault.type, fault.message, fault.attempts) == ("error", "ValueError", "number 5", 1)
    assert "in play" in fault.traceback and "process" in fault.worker


def test_transient_errors_are_tried_again_and_told_how_often(executor):
    outcomes = {o.index: o for o in executor.map(play, [("heals", 2), ("heals", 3), ("flaky", 0)])}
    assert outcomes[0].value == 4
    assert outcomes[1].fault.attempts == outcomes[2].fault.attempts == 3


def disk_full(task, attempt):
    if task == 3:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise StoreError("scores could not be written") from error
    return task


def test_a_full_disk_stops_everything_but_what_was_done_is_kept(executor):
    kept = []
    with pytest.raises(StopAll, match=r"disk is full.*scores could not be written.*kept.*same command"):
        for outcome in executor.map(disk_full, range(1000)):
            kept.append(outcome.value)
    assert set(kept) >= {0, 1} and len(kept) < 20
    assert [o.value for o in executor.map(play, [("fine", 3)])] == [9], "the executor can be used again"


def stops(task, attempt):
    raise StopAll("the worker does not see the folder")


def test_a_function_may_stop_everything(executor):
    with pytest.raises(StopAll, match="does not see"):
        list(executor.map(stops, [1, 2]))


def test_no_task_no_outcome(executor):
    assert list(executor.map(play, [])) == []


class Lazy:
    """Tasks made when they are asked for."""

    def __init__(self, n):
        self.n, self.made = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        if not 0 <= k < self.n:
            raise IndexError(k)
        self.made += 1
        return bytes(10_000)


def length(task, attempt):
    return len(task)


def test_memory_is_flat_with_many_tasks(executor):
    import tracemalloc

    tasks = Lazy(4000)
    going = executor.map(length, tasks)
    next(going)
    tracemalloc.start()
    for k, outcome in enumerate(going):
        assert outcome.value == 10_000
        assert tasks.made - k <= executor.workers + 2, "tasks are read as they are needed"
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_overhead_for_each_task(executor):
    started = time.perf_counter()
    assert sum(o.value for o in executor.map(play, [("fine", 1)] * 2000)) == 2000
    each = (time.perf_counter() - started) / 2000
    assert each < (0.001 if executor.name == "serial" else 0.005), (
        f"{1e3 * each:.2f} ms"
    )  # 2 ms, on a machine that is not busy


def threads(task, attempt):
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return {i["num_threads"] for i in threadpool_info()}, os.environ["OMP_NUM_THREADS"]


@pytest.fixture(scope="module")
def local():
    with make_executor("local", workers=3, pause=0.001) as made:
        yield made


def test_workers_compute_with_one_thread(local):
    assert all(o.value == ({1}, "1") for o in local.map(threads, range(4)))


def kills(task, attempt):
    if task == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "segfault":
        os._exit(11)
    if task == "once" and not attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return task


def test_a_task_that_kills_its_worker_is_told_and_others_finish(local):
    tasks = ["fine"] * 5 + ["bad", "once", "segfault"] + ["fine"] * 20
    outcomes = {o.index: o for o in local.map(kills, tasks)}
    assert len(outcomes) == len(tasks)
    faults = {k: o.fault for k, o in outcomes.items() if o.fault}
    assert set(faults) == {5, 7}
    assert {f.kind for f in faults.values()} == {"lost"} and {f.attempts for f in faults.values()} == {5}
    assert "SIGKILL" in str(faults[5]) and "exit code 11" in str(faults[7]) and "--jobs" in str(faults[5])


def alone(task, attempt):
    """Die while a neighbour runs (as for want of memory), finish alone."""
    folder, hungry = task
    mark = folder / f"{os.getpid()}"
    if hungry and any(path.name.isdigit() for path in folder.iterdir()):
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()
    time.sleep(0.1)
    mark.unlink()
    return attempt


def test_what_dies_beside_neighbours_runs_alone_at_last(local, tmp_path):
    tasks = [(tmp_path, False)] * 4 + [(tmp_path, True)] + [(tmp_path, False)] * 8
    outcomes = {o.index: o for o in local.map(alone, tasks)}
    assert [o for o in outcomes.values() if o.fault] == [] and outcomes[4].value >= 1


def slow(task, attempt):
    time.sleep(0.02)
    return task


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killing_workers_at_random_harms_no_task(local, seed):
    rng, over = random.Random(seed), threading.Event()
    killed = []

    def killer():
        while len(killed) < 6 and not over.wait(rng.uniform(0.05, 0.4)):
            if team := local.processes:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(team), signal.SIGKILL)
                    killed.append(1)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        outcomes = sorted(local.map(slow, range(100)), key=lambda o: o.index)
    finally:
        over.set()
        thread.join()
    assert [o.value for o in outcomes] == list(range(100)) and killed


def huge(task, attempt):
    return bytes(30_000_000)


def test_a_worker_killed_in_the_middle_of_its_answer_is_noticed(local):
    over = threading.Event()

    def killer():
        for _ in range(3):
            if over.wait(0.2):
                return
            for pid in local.processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        assert all(len(o.value) == 30_000_000 for o in local.map(huge, range(12)))
    finally:
        over.set()
        thread.join()


def test_what_cannot_be_pickled_is_a_fault(local):
    outcomes = {o.index: o for o in local.map(play, [("unpicklable", 0), ("fine", 2)])}
    assert outcomes[0].fault.type == "TypeError" and "pickle" in outcomes[0].fault.message and outcomes[1].value == 4
    outcomes = {o.index: o for o in local.map(play, [threading.Lock(), ("fine", 2)])}
    assert outcomes[0].fault.type == "TypeError" and outcomes[1].value == 4


class Unloadable:
    def __reduce__(self):
        return (int, ("no number",))


def gives_unloadable(task, attempt):
    return Unloadable()


def test_what_cannot_be_unpickled_is_a_fault(local):
    outcomes = list(local.map(play, [Unloadable()] * 2))
    assert {o.fault.type for o in outcomes} == {"ValueError"}
    assert [o.fault.type for o in local.map(gives_unloadable, [1])] == ["ValueError"]


def test_outcomes_left_unread_stop_their_tasks(local):
    going = local.map(slow, range(10_000))
    next(going)
    with pytest.raises(RuntimeError, match="mapping already"):
        next(local.map(slow, [1]))
    going.close()
    assert [o.value for o in local.map(play, [("fine", 3)])] == [9]


def deaf(task, attempt):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0 if task == 0 else 60)
    return os.getpid()


def test_a_task_that_does_not_hear_is_killed():
    with make_executor("local", workers=2) as made:
        list(made.map(play, [("fine", 1)] * 8))
        going = made.map(deaf, [1, 0])
        next(going)
        team = made.processes
        began = time.monotonic()
        going.close()
        made.close()
        assert 1 < time.monotonic() - began < 10
        for pid in team:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def dies_at_once(pipe, threads):
    os._exit(3)


def test_workers_that_cannot_start_are_told(monkeypatch):
    monkeypatch.setattr("panmodal.execution.local.serve", dies_at_once)
    with make_executor("local", workers=1) as made, pytest.raises(PanmodalError, match="exit code 3"):
        list(made.map(play, [("fine", 1)]))


def test_close_leaves_no_process():
    made = make_executor("local", workers=2)
    list(made.map(play, [("fine", 1)] * 4))
    team = made.processes
    assert len(team) == 2
    made.close()
    for pid in team:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_refusals(refuses):
    refuses(["'dusk:local'", "dask:local"], make_executor, "dusk:local")
    refuses(["'dask:'"], make_executor, "dask:")
    refuses(["--jobs", "0"], make_executor, "local", workers=0)
    refuses(["retries"], make_executor, "serial", retries=-1, error=InputError)

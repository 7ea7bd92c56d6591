import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.evaluation.schedule import Cluster, Job, scaling, simulate

TIMES = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40)


def jobs_of(times):
    return [Job(f"job {k}", s) for k, s in enumerate(times)]


@given(TIMES, st.integers(1, 12))
def test_no_schedule_beats_the_work_or_the_longest_job_and_greedy_is_near(times, workers):
    found = simulate(jobs_of(times), Cluster(workers))
    assert found.makespan >= sum(times) / workers - 1e-9
    assert found.makespan >= max(times) - 1e-9
    # Graham (1966): list scheduling.
    assert found.makespan <= sum(times) / workers + (1 - 1 / workers) * max(times) + 1e-9
    assert found.work == pytest.approx(sum(times))
    assert 0 < found.efficiency <= 1 + 1e-9
    assert found.utilisation == pytest.approx(found.efficiency)


@given(TIMES, st.integers(1, 12))
def test_a_further_worker_never_makes_independent_jobs_slower(times, workers):
    jobs = jobs_of(times)
    assert simulate(jobs, Cluster(workers + 1)).makespan <= simulate(jobs, Cluster(workers)).makespan + 1e-9


@given(
    TIMES, st.integers(1, 6), st.floats(0, 1), st.floats(0, 1), st.floats(0, 5), st.floats(0.5, 50), st.floats(0, 0.5),
    st.floats(0, 3),
)  # fmt: skip
def test_the_time_of_the_workers_is_accounted_for(times, workers, dispatch, overhead, late, rate, straggle, serial):
    jobs = [Job(str(k), s, {"shared": 10.0, f"own {k}": 3.0}, files=2, written=4.0) for k, s in enumerate(times)]
    cluster = Cluster(workers, latency=0.01, bandwidth=rate, per_worker=7.0, files_per_second=rate, dispatch=dispatch, overhead=overhead,
                      late=late, straggle=straggle, before=serial, after=serial)  # fmt: skip
    found = simulate(jobs, cluster)
    busy = found.utilisation + sum(v for k, v in found.lost.items() if k != "stragglers and contention")
    assert busy == pytest.approx(1.0, abs=1e-6)
    assert all(v >= 0 for v in found.lost.values())
    inherent = {k: v for k, v in found.limits.items() if k != "serial"}
    assert found.makespan >= found.limits["serial"] + max(v for k, v in inherent.items() if k != "longest job") - 1e-6
    assert (
        found.makespan
        >= simulate(jobs, Cluster(workers, before=serial, after=serial)).makespan * (1 - 2 * straggle) - 1e-6
        or straggle
    )


def test_what_bounds_it_is_told():
    many = jobs_of([1.0] * 64)
    assert simulate(many, Cluster(4)).bound == "computing"
    assert simulate([*many, Job("long", 50.0)], Cluster(64)).bound == "longest job"
    assert simulate([*many, Job("long", 50.0)], Cluster(64)).longest == "long"
    assert simulate(many, Cluster(64, after=10.0)).bound == "serial"
    assert simulate(many, Cluster(64, after=10.0)).waste == "serial"
    assert simulate(many, Cluster(64, dispatch=1.0)).bound == "scheduler"
    heavy = [Job(str(k), 1.0, {"all": 100.0}, files=50) for k in range(64)]
    assert simulate(heavy, Cluster(64, bandwidth=100.0)).bound == "file system"
    assert simulate(heavy, Cluster(64, files_per_second=10.0)).bound == "metadata"


def test_an_input_goes_to_each_worker_once():
    jobs = [Job(str(k), 1.0, {"all": 10.0}) for k in range(20)]
    assert simulate(jobs, Cluster(1, bandwidth=10.0)).makespan == pytest.approx(21.0)
    assert simulate(jobs, Cluster(2, bandwidth=10.0)).limits["file system"] == pytest.approx(2.0)


def test_requests_are_served_in_the_order_of_time():
    # Four workers ask for a file each at the same moment; the server takes a second for each.
    found = simulate(
        jobs_of([0.0] * 0) + [Job(str(k), 5.0, files=1) for k in range(4)], Cluster(4, files_per_second=1.0)
    )
    assert found.makespan == pytest.approx(9.0)


def test_stragglers_keep_the_mean_and_are_the_same_for_the_same_seed():
    jobs = jobs_of([1.0] * 4000)
    found = simulate(jobs, Cluster(1, straggle=0.5))
    assert found.makespan == pytest.approx(4000, rel=0.05)
    assert found.makespan == simulate(jobs, Cluster(1, straggle=0.5)).makespan
    assert found.makespan != simulate(jobs, Cluster(1, straggle=0.5, seed=1)).makespan


def test_workers_of_one_machine_slow_each_other_down():
    jobs = jobs_of([1.0] * 8)
    assert simulate(jobs, Cluster(2, contention=0.5, per_machine=2)).makespan == pytest.approx(6.0)
    assert simulate(jobs, Cluster(2, contention=0.5)).makespan == pytest.approx(4.0)


def test_longest_first_is_what_a_run_does_and_can_be_left():
    jobs = jobs_of([1.0, 1.0, 1.0, 1.0, 4.0])
    assert simulate(jobs, Cluster(2)).makespan == pytest.approx(4.0)
    assert simulate(jobs, Cluster(2), longest_first=False).makespan == pytest.approx(6.0)


def test_the_table_of_scaling():
    table = scaling(jobs_of([1.0] * 100), Cluster(1, after=5.0), [1, 10, 100])
    assert table["efficiency"].is_monotonic_decreasing
    assert table["speed_up"].tolist() == pytest.approx([1.0, 105 / 15, 105 / 6])
    assert np.allclose(table["hours"] * 3600, [105, 15, 6])


def test_bad_input(refuses):
    refuses(["no jobs"], simulate, [], Cluster(2))
    refuses(["0 workers"], Cluster, 0)
    refuses(["above 0"], Cluster, 1, bandwidth=0.0)
    refuses(["at least 0"], Cluster, 1, late=-1.0)
    refuses(["job 'a'"], Job, "a", -1.0)
    refuses(["job 'a'"], Job, "a", 1.0, {"x": float("nan")})

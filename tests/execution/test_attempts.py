"""The laws of trying again, without any process."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import InputError, StoreError
from panmodal.execution.attempts import CROWD, Attempts
from panmodal.execution.calls import Answer, call
from panmodal.execution.faults import Fault, StopAll, kind_of

ENDS = ("fine", "error", "transient", "memory", "lost")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.lists(st.sampled_from(ENDS), max_size=7), max_size=12),
    st.integers(1, 4),
    st.integers(0, 3),
    st.randoms(),
)
def test_each_task_ends_once_whatever_happens(stories, workers, retries, random):
    """Workers that answer in any order; story k says how the starts of task k end (fine at last)."""
    clock = Clock()
    attempts = Attempts(len(stories), retries=retries, clock=clock)
    running, ended, starts, most = [], {}, [0] * len(stories), 0
    first = []
    while not attempts.done:
        while len(running) < workers and (taken := attempts.take()) is not None:
            index, attempt = taken
            assert attempt == starts[index] and index not in ended
            assert not attempts.alone or not running
            if attempt == 0:
                first.append(index)
            starts[index] += 1
            running.append(index)
        most = max(most, len(running))
        assert attempts.running == set(running)
        if not running:
            pause = attempts.wait()
            assert pause is not None, "nothing runs, nothing is paused and it is not done"
            clock.now += pause
            continue
        index = running.pop(random.randrange(len(running)))
        story = stories[index]
        end = story[starts[index] - 1] if starts[index] <= len(story) else "fine"
        outcome = (
            attempts.lost(index, "it died")
            if end == "lost"
            else attempts.settle(index, Answer(7, "" if end == "fine" else end))
        )
        if outcome is not None:
            assert outcome.index == index and index not in ended
            ended[index] = outcome
    assert attempts.take() is None and sorted(ended) == list(range(len(stories)))
    assert first == sorted(first), "tasks are started in the given order"
    for k, story in enumerate(stories):
        fault = ended[k].fault
        seen = [*story, "fine"][: starts[k]]
        assert (fault is None) == (seen[-1] == "fine")
        assert seen.count("transient") <= retries + 1 and seen.count("memory") <= 2
        assert seen.count("lost") <= CROWD + retries + 1
        if fault:
            assert fault.kind == seen[-1] and fault.attempts == starts[k]


def test_pauses_double_and_are_seeded():
    def pauses(seed):
        clock = Clock()
        attempts = Attempts(1, retries=4, seed=seed, pause=1.0, clock=clock)
        found = []
        for _ in range(4):
            assert attempts.take()[0] == 0
            assert attempts.settle(0, Answer(kind="transient")) is None
            found.append(attempts.wait())
            clock.now += found[-1]
        return found

    assert pauses(1) == pauses(1) != pauses(2)
    assert all(0.5 * 2**k <= p <= 1.5 * 2**k for k, p in enumerate(pauses(1)))


def test_a_scheduler_that_tried_several_times_is_counted_so():
    attempts = Attempts(1, retries=2)
    attempts.take()
    assert attempts.lost(0, "it died", times=4) is None
    assert attempts.take() == (0, 4)
    fault = attempts.lost(0, "it died", "w", times=4).fault
    assert (fault.kind, fault.attempts, fault.worker) == ("lost", 8, "w") and "--jobs" in str(fault)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), "error"), (OSError(errno.EACCES, "x"), "error"), (OSError(errno.EIO, "x"), "transient"),
        (OSError(errno.ESTALE, "x"), "transient"), (TimeoutError("x"), "transient"), (ConnectionResetError(), "transient"),
        (MemoryError(), "memory"), (OSError(errno.ENOSPC, "x"), "disk"), (OSError(errno.EDQUOT, "x"), "disk"),
        (OSError(errno.EROFS, "x"), "disk"), (OSError("could not write: errno 28: No space left on device"), "disk"),
        (StopAll("x"), "stop"), (SystemExit(3), "error"),
    ],
)  # fmt: skip
def test_kinds_of_errors(error, kind):
    assert kind_of(error) == kind
    try:
        try:
            raise error
        except BaseException as cause:
            raise StoreError("could not be written") from cause
    except StoreError as wrapped:
        assert kind_of(wrapped) == kind


def test_an_answer_tells_the_function_not_the_executor():
    def function(task, attempt):
        raise KeyError(task)

    answer = call(function, "gene", 0)
    assert (answer.kind, answer.type, answer.message) == ("error", "KeyError", "'gene'")
    assert "in function" in answer.traceback and "calls.py" not in answer.traceback
    fault = Fault(answer.kind, answer.type, answer.message, answer.traceback)
    assert str(fault) == "KeyError: 'gene'"


def test_negative_retries_are_refused(refuses):
    refuses(["retries", "-1"], Attempts, 3, retries=-1, error=InputError)

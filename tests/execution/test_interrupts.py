"""Ctrl-C, SIGTERM and SIGKILL of the process that started the workers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from panmodal._files import atomic_path
from panmodal.execution.base import make_executor

folder = Path(sys.argv[1])

def work(task, attempt):
    with atomic_path(folder / f"{task}.txt") as partial:
        partial.write_text("half")
        (folder / f"started-{task}").touch()
        time.sleep(60)

with make_executor("local", workers=2) as executor:
    print(*(o.value for o in executor.map(lambda t, a: __import__("os").getpid(), range(20))), flush=True)
    try:
        for outcome in executor.map(work, range(5)):
            print(outcome)
    except KeyboardInterrupt as stop:
        print(type(stop).__name__, flush=True)
        raise
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    ("number", "name"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated"), ("SIGKILL", "")]
)
def test_no_process_and_no_partial_file_is_left(tmp_path, number, name):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "out"
    folder.mkdir()
    # A group of its own, so that the signal reaches the workers too, as Ctrl-C does.
    child = subprocess.Popen(
        [sys.executable, script, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        pids = {int(p) for p in child.stdout.readline().split()}
        assert pids
        end = time.monotonic() + 20
        while len(list(folder.glob("started-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        began = time.monotonic()
        if number == "SIGINT":
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.send_signal(getattr(signal, number))
        said = child.stdout.read()  # ends when every process that holds the pipe is gone
        assert child.wait(timeout=20) != 0
        assert time.monotonic() - began < 5
        assert said.strip() == name
        end = time.monotonic() + 5
        while any(alive(p) for p in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert [p for p in pids if alive(p)] == []
        assert [p.name for p in folder.glob(".partial*")] == [] and list(folder.glob("*.txt")) == []
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.stderr.close()

import os
import shutil
import sys
import time

import cloudpickle
import pytest

from panmodal.execution import inputs
from panmodal.execution.base import make_executor
from panmodal.execution.faults import StopAll
from panmodal.execution.inputs import clear_scratch, file_digest, forget_inputs, localised

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def shared_file(tmp_path, monkeypatch):
    monkeypatch.delenv(inputs.SCRATCH, raising=False)
    monkeypatch.setattr(inputs, "PATIENCE", 0.1)
    forget_inputs()
    path = tmp_path / "shared" / "values.npy"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1_000_000))
    return path


def test_without_scratch_the_shared_file_is_read_and_verified_once(shared_file):
    digest = file_digest(shared_file)
    assert localised(str(shared_file), digest) == shared_file
    shared_file.unlink()
    began = time.perf_counter()
    for _ in range(1000):
        assert localised(str(shared_file), digest) == shared_file
    assert (time.perf_counter() - began) / 1000 < 1e-4


def test_a_copy_is_made_once_reused_and_repaired(shared_file, tmp_path, monkeypatch):
    digest, scratch = file_digest(shared_file), tmp_path / "scratch"
    monkeypatch.setenv(inputs.SCRATCH, str(scratch))
    copy = localised(shared_file, digest)
    assert copy.is_relative_to(scratch) and copy.suffix == ".npy" and copy.read_bytes() == shared_file.read_bytes()
    assert localised(shared_file, digest, scratch) == copy
    stamp = copy.stat().st_mtime_ns
    forget_inputs()
    assert localised(shared_file, digest) == copy and copy.stat().st_mtime_ns == stamp
    copy.write_bytes(b"x" * shared_file.stat().st_size)
    forget_inputs()
    assert localised(shared_file, digest).read_bytes() == shared_file.read_bytes()
    assert not list(copy.parent.glob(".partial*"))
    assert clear_scratch(scratch) >= 1_000_000 and not copy.exists()


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_another_content_and_an_invisible_file_stop_everything(shared_file, tmp_path, scratch):
    folder = tmp_path / scratch if scratch else None
    with pytest.raises(StopAll, match=r"values\.npy: worker .* another content"):
        localised(shared_file, "0" * 64, folder)
    assert not list(tmp_path.glob("scratch/**/*.npy"))
    shared_file.unlink()
    with pytest.raises(StopAll, match=r"not visible from worker .*--out.*all workers see"):
        localised(shared_file, "1" * 64, folder)


def test_a_full_scratch_disk_is_done_without(shared_file, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inputs, "_copy", full)
    with pytest.warns(UserWarning, match="shared file is read instead"):
        assert localised(shared_file, file_digest(shared_file), tmp_path / "scratch") == shared_file


def use(task, attempt):
    from panmodal.execution.inputs import localised

    path, digest, scratch = task
    return str(localised(path, digest, scratch))


def test_several_processes_share_one_copy(shared_file, tmp_path):
    task = (str(shared_file), file_digest(shared_file), str(tmp_path / "scratch"))
    with make_executor("local", workers=3) as executor:
        found = {o.value for o in executor.map(use, [task] * 9)}
    assert len(found) == 1 and len(list((tmp_path / "scratch").glob("**/*.npy"))) == 1
    shutil.rmtree(tmp_path / "scratch")

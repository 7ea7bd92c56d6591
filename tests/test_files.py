import errno
import os
import stat
import tempfile

import pytest

from panmodal._files import PARTIAL, atomic_path, write_text
from panmodal.errors import StoreError


def partials(folder):
    return [p for p in folder.rglob("*") if p.name.startswith(PARTIAL)]


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    return path


def test_write_text_replaces(old):
    write_text(old, "new: µ")
    assert old.read_text(encoding="utf-8") == "new: µ"
    assert not partials(old.parent)


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_the_temporary_file_keeps_the_suffix_and_lies_beside(old):
    with atomic_path(old) as partial:
        assert (partial.suffix, partial.parent) == (".csv", old.parent)
        partial.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_an_error_leaves_the_old_file_and_no_partial(old, error):
    with pytest.raises(error), atomic_path(old) as partial:
        partial.write_text("half")
        raise error
    assert old.read_text() == "old"
    assert not partials(old.parent)


def test_an_error_leaves_no_new_file(tmp_path):
    with pytest.raises(ValueError), atomic_path(tmp_path / "new.csv") as partial:
        partial.write_text("half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_writing(old, refuses):
    def write():
        with atomic_path(old) as partial:
            partial.write_text("half")
            full_disk()

    refuses([str(old), "No space left on device", "free some space"], write, error=StoreError)
    assert old.read_text() == "old"
    assert not partials(old.parent)


def test_a_disk_that_fills_at_the_flush(old, refuses, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    refuses([str(old), "No space left on device"], write_text, old, "new", error=StoreError)
    assert old.read_text() == "old"
    assert not partials(old.parent)


def test_a_folder_without_permission(tmp_path, refuses, monkeypatch):
    def denied(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    refuses(
        [str(tmp_path), "cannot write there", "Permission denied"], write_text, tmp_path / "a", "x", error=StoreError
    )


def test_a_parent_that_is_a_file(old, refuses):
    refuses([str(old), "cannot write there"], write_text, old / "below.txt", "x", error=StoreError)


def test_a_target_that_is_a_folder(tmp_path, refuses):
    (tmp_path / "d").mkdir()
    refuses([str(tmp_path / "d"), "could not be written"], write_text, tmp_path / "d", "x", error=StoreError)
    assert not partials(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode

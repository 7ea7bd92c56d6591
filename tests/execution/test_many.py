import sys
from pathlib import Path

import cloudpickle
import pytest

from panmodal.errors import InputError
from panmodal.execution.base import make_executor
from panmodal.execution.many import FilesFailed, map_files

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def count(path):
    text = path.read_text()
    if "bad" in text:
        raise InputError(f"{path.name}: is bad; mend it.")
    path.with_suffix(".out").write_text(text.upper())
    return len(text)


@pytest.mark.parametrize("name", ["serial", "local"])
def test_all_files_are_tried_and_failures_named(tmp_path, name):
    paths = [tmp_path / f"{k}.txt" for k in range(5)]
    for k, path in enumerate(paths):
        path.write_text("bad" if k == 2 else "x" * k)
    seen = []
    with make_executor(name, workers=2) as executor:
        with pytest.raises(
            FilesFailed, match=r"(?s)1 of 5 files failed; the others are done.*2\.txt: InputError: .*mend it"
        ) as caught:
            map_files(count, paths, executor, progress=lambda done, total: seen.append((done, total)))
        assert list(caught.value.faults) == [paths[2]] and seen == [(k, 5) for k in range(6)]
        values, faults = map_files(count, [str(p) for p in paths], executor, refuse=False)
    assert values == {p: k for k, p in enumerate(paths) if k != 2} and list(faults) == [paths[2]]
    assert all(p.with_suffix(".out").exists() == (p != paths[2]) for p in paths)


def test_refusals(refuses):
    with make_executor("serial") as executor:
        refuses(["'a.txt' is given twice"], map_files, count, ["a.txt", Path("a.txt")], executor)
        refuses(["no file"], map_files, count, [], executor)

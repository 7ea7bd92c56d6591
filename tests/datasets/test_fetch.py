"""Downloads against a local server: resumed, tried again, refused, explained."""

import errno
import gzip
import hashlib
import json
import os
import random
import socket
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from panmodal.datasets.cache import Cache, cache_folder
from panmodal.datasets.download import FetchError, Refused, download, in_bytes, part_path
from panmodal.datasets.fetch import address, cached_paths, fetch, verify
from panmodal.datasets.record import Dataset
from panmodal.errors import InputError, StoreError

CONTENT = bytes(range(256)) * 9000  # 2.3 MB: more than one block
Usage = namedtuple("Usage", "total used free")


def record(**changes):
    file = {"path": "folder/data_(D=2).bin", **changes.pop("file", {})}
    return Dataset(
        name="toy", title="Toy", kind="annotation", description="made up", licence="CC0", citation="nobody",
        url="https://example.org/toy", base_url="https://example.org/deposit", files=(file,), **changes,
    )  # fmt: skip


PATH = "/deposit/folder/data_(D=2).bin"


@pytest.fixture
def toy(site):
    site.sha256 = site.put(PATH, CONTENT)
    return record()


def target():
    return cache_folder() / "toy" / "folder" / "data_(D=2).bin"


def nothing_left():
    """Only locks and the index may be left."""
    left = [p.name for p in cache_folder().rglob("*") if p.is_file()]
    return [n for n in left if not n.endswith(".lock") and n != "index.json"]


def test_first_download_is_recorded_and_then_needs_no_network(site, toy):
    seen = []
    (path,) = fetch(toy, progress=lambda file, done, total: seen.append((file.path, done, total)))
    assert path == target() and path.read_bytes() == CONTENT
    assert seen[0][1:] == (0, len(CONTENT)) and seen[-1][1:] == (len(CONTENT), len(CONTENT)) and len(seen) > 3
    entry = json.loads((cache_folder() / "index.json").read_text())["files"]["toy/folder/data_(D=2).bin"]
    assert (entry["sha256"], entry["size"]) == (site.sha256, len(CONTENT)) and entry["url"].endswith(
        "data_%28D%3D2%29.bin"
    )
    assert entry["date"].startswith("20")
    asked = len(site.asked)
    assert fetch(toy) == [path] == cached_paths(toy)
    assert len(site.asked) == asked
    assert nothing_left() == ["data_(D=2).bin"]


def test_a_cut_is_gone_on_with_by_itself(site, toy):
    site.then(("cut", 1_500_000))
    (path,) = fetch(toy)
    assert path.read_bytes() == CONTENT
    first, second = site.sent_ranges
    assert first is None and 0 < int(second[6:-1]) <= 1_500_000
    assert site.asked[1][1]["If-Range"] == site.etags[PATH]
    assert site.naps == [1.0]


def test_a_cut_is_gone_on_with_by_the_next_call(site, toy):
    site.then(("cut", 1_500_000))
    with pytest.raises(FetchError, match="goes on from there"):
        fetch(toy, retries=0)
    kept = part_path(target()).stat().st_size
    assert 0 < kept <= 1_500_000 and not target().exists()
    done = []
    fetch(toy, progress=lambda file, n, total: done.append(n))
    assert target().read_bytes() == CONTENT
    assert site.sent_ranges == [None, f"bytes={kept}-"] and done[0] == kept
    assert nothing_left() == ["data_(D=2).bin"]


def test_tries_that_bring_something_do_not_count(site, toy):
    site.then(*[("cut", 200_000)] * 8)
    assert fetch(toy, retries=1)[0].read_bytes() == CONTENT
    assert len(site.asked) == 9


def test_any_cuts_give_the_same_file(site, monkeypatch):
    monkeypatch.setattr("panmodal.datasets.download.CHUNK", 500)
    rng = random.Random(0)
    for k in range(25):
        content = rng.randbytes(rng.randrange(1, 20_000))
        digest = site.put(f"/deposit/{k}", content)
        site.then(*[("cut", rng.randrange(len(content) + 1)) for _ in range(rng.randrange(6))])
        data = record(file={"path": str(k), "sha256": digest})
        assert fetch(data, retries=9)[0].read_bytes() == content
        site.next.clear()


def test_a_server_that_always_begins_anew_is_not_asked_for_ever(site, toy):
    site.ranges = False
    site.then(*[("cut", n) for n in (1_500_000, 1_900_000, 1_400_000, 1_800_000, 1_300_000, 1_700_000, 1_600_000)])
    with pytest.raises(FetchError, match="4 tries"):
        fetch(toy)


def test_packed_for_the_way(site):
    packed = gzip.compress(CONTENT)
    site.extra = {"Content-Encoding": "gzip"}
    for path, expected in (("/deposit/a.txt.gz", packed), ("/deposit/a.txt", CONTENT)):
        site.put(path, packed)
        site.then(("cut", 2000))
        data = record(file={"path": path.rpartition("/")[2], "sha256": hashlib.sha256(expected).hexdigest()})
        assert fetch(data)[0].read_bytes() == expected


def test_a_server_without_ranges_sends_all_again(site, toy):
    site.ranges = False
    site.then(("cut", 1_000_000))
    assert fetch(toy)[0].read_bytes() == CONTENT


def test_a_server_without_validators_is_not_asked_for_the_rest(site, toy):
    site.validators = False
    site.then(("cut", 1_000_000))
    assert fetch(toy)[0].read_bytes() == CONTENT
    assert site.sent_ranges == [None, None]


@pytest.mark.parametrize("careless", [False, True])
def test_a_file_that_changed_meanwhile_starts_anew(site, toy, careless):
    site.then(("cut", 1_000_000))
    with pytest.raises(FetchError):
        fetch(toy, retries=0)
    new = CONTENT[::-1]
    site.put(PATH, new)
    if careless:  # the server gives the rest although the file is another one
        site.then(("careless",))
    assert fetch(toy)[0].read_bytes() == new


def test_a_part_from_the_wrong_place_starts_anew(site, toy):
    site.then(("cut", 1_000_000), ("shifted",))
    assert fetch(toy)[0].read_bytes() == CONTENT
    assert site.sent_ranges[2] is None


def test_a_part_that_is_whole_is_taken(site, toy):
    site.then(("cut", 1_000_000))
    with pytest.raises(FetchError):
        fetch(toy, retries=0)
    part_path(target()).write_bytes(CONTENT)
    assert fetch(toy)[0].read_bytes() == CONTENT
    assert site.sent_ranges[1] == f"bytes={len(CONTENT)}-"


def test_a_part_longer_than_the_file_starts_anew(site, toy):
    site.then(("cut", 1_000_000))
    with pytest.raises(FetchError):
        fetch(toy, retries=0)
    part_path(target()).write_bytes(CONTENT + b"more")
    assert fetch(toy)[0].read_bytes() == CONTENT


def test_a_part_of_another_address_starts_anew(site, toy):
    site.then(("cut", 1_000_000))
    with pytest.raises(FetchError):
        fetch(toy, retries=0)
    site.put("/copy" + PATH, CONTENT)
    assert fetch(toy, base_url=site.url + "/copy")[0].read_bytes() == CONTENT
    assert site.sent_ranges == [None, None]


def test_too_short_a_body(site, toy):
    site.then(*[("length", len(CONTENT) + 5)] * 3)
    with pytest.raises(FetchError, match="By hand"):
        fetch(toy, retries=1)
    assert not target().exists()


@pytest.mark.parametrize(
    ("answer", "nap"),
    [
        (("status", 503), 1.0), (("status", 500), 1.0), (("status", 429, {"Retry-After": "7"}), 7.0),
        (("status", 429, {"Retry-After": "999999"}), 60.0), (("status", 503, {"Retry-After": "soon"}), 1.0),
        (("status", 503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), 0.0),
    ],
)  # fmt: skip
def test_busy_servers_are_asked_again(site, toy, answer, nap):
    site.then(answer)
    assert fetch(toy)[0].read_bytes() == CONTENT
    assert site.naps == [nap]


def test_servers_that_stay_busy(site, toy):
    site.then(*[("status", 503)] * 9)
    with pytest.raises(
        FetchError, match=r"503.*4 tries.*By hand: open https://example.org/deposit/folder/data_%28D%3D2%29.bin"
    ):
        fetch(toy)
    assert site.naps == [1.0, 2.0, 4.0]


def test_not_found_names_the_address_and_the_page(site, toy, refuses):
    del site.files[PATH]
    refuses(
        ["404", site.url, "https://example.org/toy", str(target()), "panmodal data verify toy"],
        fetch,
        toy,
        error=FetchError,
    )
    assert len(site.asked) == 1 and nothing_left() == []


@pytest.mark.parametrize("status", [401, 403])
def test_gated(site, refuses, hub, status):
    data = record(file={"url": "https://huggingface.co" + hub + "x.h5ad"})
    site.then(("status", status))
    refuses([str(status), "HF_TOKEN", "https://example.org/toy"], fetch, data, error=FetchError)
    site.then(("status", status))
    refuses([str(status), "login", "By hand"], fetch, record(), error=FetchError)


def test_other_answers(site, toy, refuses):
    site.then(("status", 202))
    refuses(["202", "By hand"], fetch, toy, error=FetchError)


def test_no_network(monkeypatch, tmp_path, refuses, site):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PANMODAL_MIRROR", f"http://127.0.0.1:{port}")
    refuses(["no connection", "4 tries", "By hand", "another computer", "https://example.org/deposit/folder/", str(target()),
             "panmodal data verify toy"], fetch, record(manual="Or ask the authors."), error=FetchError)  # fmt: skip
    refuses(["Or ask the authors."], fetch, record(manual="Or ask the authors."), error=FetchError)


def test_put_there_by_hand(site, toy, monkeypatch):
    monkeypatch.setenv("PANMODAL_MIRROR", "http://127.0.0.1:9")
    target().parent.mkdir(parents=True)
    target().write_bytes(CONTENT)
    (status,) = verify(toy)
    assert (status.state, status.sha256) == ("recorded", site.sha256)
    assert fetch(toy) == [target()]
    assert verify(toy)[0].state == "ok"


def test_wrong_digest_of_the_record(site, refuses):
    site.sha256 = site.put(PATH, CONTENT)
    data = record(file={"sha256": "0" * 64})
    refuses(
        [site.sha256, "0" * 64, "--force", "--accept-new-digest", "https://example.org/toy"],
        fetch,
        data,
        error=FetchError,
    )
    assert nothing_left() == []
    (path,) = fetch(data, accept_new_digest=True)
    assert path.read_bytes() == CONTENT and fetch(data) == [path] and verify(data)[0].state == "ok"


def test_md5_of_the_record(site, refuses):
    site.put(PATH, CONTENT)
    good, bad = record(file={"md5": hashlib.md5(CONTENT).hexdigest()}), record(file={"md5": "0" * 32})
    refuses(["MD5 " + "0" * 32], fetch, bad, error=FetchError)
    assert fetch(good)[0].read_bytes() == CONTENT and verify(good)[0].state == "ok"
    assert fetch(good)[0].read_bytes() == CONTENT
    target().write_bytes(b"other")
    refuses(["is not the file"], fetch, good, error=FetchError)


def test_digest_of_the_first_download_holds_ever_after(site, toy, refuses):
    fetch(toy)
    new = site.put(PATH, b"new content")
    refuses([new, site.sha256, "first seen", "Nothing was kept"], fetch, toy, force=True, error=FetchError)
    assert target().read_bytes() == CONTENT, "the good file stays"
    fetch(toy, accept_new_digest=True)
    assert target().read_bytes() == b"new content"
    assert Cache().entry(toy, toy.files[0]).sha256 == new
    target().unlink()
    fetch(toy)
    assert verify(toy)[0].state == "ok"


def test_force_downloads_the_same_again(site, toy):
    fetch(toy)
    fetch(toy, force=True)
    assert len(site.asked) == 2 and target().read_bytes() == CONTENT


def test_a_file_damaged_in_the_cache_is_refused(site, toy, refuses):
    fetch(toy)
    target().write_bytes(CONTENT[:-1] + b"!")
    refuses([str(target()), site.sha256, "--force"], fetch, toy, error=FetchError)
    assert verify(toy)[0].state == "changed"
    fetch(toy, force=True)
    assert verify(toy)[0].state == "ok"


def test_a_copied_cache_is_hashed_once(site, toy):
    fetch(toy)
    os.utime(target(), (1, 1))
    assert fetch(toy) == [target()]
    assert Cache().entry(toy, toy.files[0]).mtime_ns == 1_000_000_000


def test_the_digest_that_the_server_states(site, toy, refuses):
    site.extra = {"X-Linked-Etag": f'"{"1" * 64}"'}
    refuses(["damaged on its way", "1" * 64, site.sha256], fetch, toy, error=FetchError)
    assert nothing_left() == []
    site.extra = {"X-Linked-Etag": f'"{site.sha256}"'}
    fetch(toy)


def test_a_known_size_is_checked_before_anything_is_written(site, refuses):
    site.put(PATH, CONTENT)
    refuses(["2304000", "2304001", "another version"], fetch, record(file={"size": len(CONTENT) + 1}), error=FetchError)
    assert nothing_left() == []
    fetch(record(file={"size": len(CONTENT)}))


def test_disk_too_small(site, toy, refuses, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda p: Usage(10**7, 10**7 - 1000, 1000))
    refuses(["2.3 MB", "1.0 kB are free", "PANMODAL_CACHE", str(target().parent)], fetch, toy, error=StoreError)
    assert nothing_left() == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_while_writing(site, toy, refuses, monkeypatch, code):
    opened = Path.open

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.stream.close()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def write(self, block):
            if self.stream.tell() > 0:
                raise OSError(code, "No space left on device")
            return self.stream.write(block)

    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda p, *a, **k: Full(opened(p, *a, **k)) if p.suffix == ".part" else opened(p, *a, **k)
        )
        refuses(["no space left", "are needed", "PANMODAL_CACHE", str(target().parent)], fetch, toy, error=StoreError)
    kept = part_path(target()).stat().st_size
    assert 0 < kept < len(CONTENT)
    assert fetch(toy)[0].read_bytes() == CONTENT
    assert site.sent_ranges == [None, f"bytes={kept}-"], "it goes on where the disk was full"


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="needs a folder that cannot be written to",
)
def test_folder_without_permission(site, toy, refuses):
    cache_folder().mkdir(parents=True)
    cache_folder().chmod(0o500)
    try:
        refuses(["cannot be written to", "PANMODAL_CACHE"], fetch, toy, error=StoreError)
    finally:
        cache_folder().chmod(0o700)


def test_cache_that_is_a_file(site, toy, refuses):
    cache_folder().write_text("")
    refuses(["cannot be written to", "PANMODAL_CACHE"], fetch, toy, error=StoreError)


def test_two_at_once_download_once(site, toy):
    site.then(("cut", 1_000_000))
    threads = [threading.Thread(target=fetch, args=(toy,)) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert target().read_bytes() == CONTENT and verify(toy)[0].state == "ok"
    assert len(site.asked) == 2


def test_the_index_keeps_what_others_write(site):
    names = [f"f{k}" for k in range(12)]
    for name in names:
        site.put(f"/deposit/{name}", name.encode())
    data = record().model_copy(update={"files": tuple(record(file={"path": n}).files[0] for n in names)})
    threads = [threading.Thread(target=fetch, args=(data,), kwargs={"files": [n]}) for n in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(Cache().entries()) == 12


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": {"odd": 1}}}', '{"format": 1}']
)
def test_damaged_index(site, toy, refuses, text):
    cache_folder().mkdir(parents=True)
    (cache_folder() / "index.json").write_text(text)
    refuses(["index"], fetch, toy, error=StoreError)


def test_no_such_file_of_a_data_set(site, toy, refuses):
    refuses(["toy", "nothing", "data_(D=2).bin"], fetch, toy, files=["nothing"])


def test_verify_without_files(site, toy, refuses):
    refuses(["none of its files", "panmodal data fetch toy", "By hand"], verify, toy)


def test_addresses(monkeypatch):
    for variable in ("PANMODAL_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    plain, query = record(), record(file={"url": "https://a.org/get?acc=1&file=x"})
    hub = record(file={"url": "https://huggingface.co/datasets/x/resolve/main/y"})
    assert address(plain, plain.files[0]) == "https://example.org/deposit/folder/data_%28D%3D2%29.bin"
    assert address(plain, plain.files[0], "http://m/p/") == "http://m/p/deposit/folder/data_%28D%3D2%29.bin"
    assert address(query, query.files[0], "http://m") == "http://m/get?acc=1&file=x"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.org/")
    assert address(hub, hub.files[0]) == "https://mirror.org/datasets/x/resolve/main/y"
    assert address(plain, plain.files[0]).startswith("https://example.org/")
    monkeypatch.setenv("PANMODAL_MIRROR", "http://own")
    assert address(hub, hub.files[0]) == "http://own/datasets/x/resolve/main/y"


def test_the_token_goes_to_its_hub_only(site, toy, monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", "secret")
    site.put(hub + "x", b"x")
    data = record(file={"path": "x", "url": "https://huggingface.co" + hub + "x"})
    fetch(data)
    fetch(toy)
    assert all("Authorization" not in headers for _, headers in site.asked), "a mirror of one's own does not get it"
    monkeypatch.delenv("PANMODAL_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    fetch(data, force=True)
    assert site.asked[-1][1]["Authorization"] == "Bearer secret"


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PANMODAL_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a" and cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("PANMODAL_CACHE")
    assert cache_folder().name == "panmodal" and cache_folder().is_absolute()


def test_download_alone(site, tmp_path):
    site.put("/x", b"123")
    assert download(site.url + "/x", tmp_path / "x.part").size == 3
    with pytest.raises(Refused) as caught:
        download(site.url + "/y", tmp_path / "y.part")
    assert caught.value.status == 404
    with pytest.raises(FetchError, match="not an address"):
        download("nonsense", tmp_path / "z.part")


def test_in_bytes():
    assert [in_bytes(n) for n in (0, 999, 1500, 698680199, 3 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "698.7 MB",
        "3.0 TB",
    ]


def test_unknown_name(site, refuses):
    refuses(["no data set 'essential-lcf'", "essential-lfc"], fetch, "essential-lcf", error=InputError)

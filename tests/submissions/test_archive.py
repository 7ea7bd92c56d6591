"""What a zip file can do to its reader, and what ours does not let it do."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.submissions import Limits, validate
from panmodal.submissions.archive import CENTRAL, END, Archive, write_archive
from panmodal.submissions.findings import Refused


def refused(path, **options):
    report = validate(path, **options)
    assert not report.valid
    return {f.code for f in report.errors}


def entry(name="scores.parquet", **attributes):
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.create_system, made.external_attr, made.compress_type = 3, 0o100644 << 16, zipfile.ZIP_DEFLATED
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def foreign(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def edited_central(path, **changes):
    """Change fields of the first entry of the central directory."""
    raw = bytearray(path.read_bytes())
    start = END.unpack(raw[-END.size :])[6]
    names = ["mark", "made", "needed", "flags", "method", "time", "date", "checksum", "packed", "size", "n_name", "n_extra",
             "n_comment", "disk", "inner", "outer", "header"]  # fmt: skip
    fields = dict(zip(names, CENTRAL.unpack_from(raw, start), strict=True))
    raw[start : start + CENTRAL.size] = CENTRAL.pack(*{**fields, **changes}.values())
    path.write_bytes(raw)
    return path


@pytest.fixture
def copy(bundled, tmp_path):
    path = tmp_path / "copy.zip"
    path.write_bytes(bundled.read_bytes())
    return path


def test_what_is_written_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    files = [("manifest.json", b""), ("scores.parquet", rng.bytes(700_000)), ("trials.json", bytes(300_000))]
    write_archive(tmp_path / "a.zip", files)
    archive = Archive(tmp_path / "a.zip")
    assert [(n, archive.read(n)) for n in archive.members] == files
    with zipfile.ZipFile(tmp_path / "a.zip") as other:
        assert other.testzip() is None and other.namelist() == [n for n, _ in files]


@pytest.mark.parametrize(("name", "code"), [
    ("../scores.parquet", "V006"), ("runs/../../x.json", "V006"), ("/etc/passwd", "V006"), ("C:scores.parquet", "V006"),
    ("runs\\x.json", "V006"), ("scöres.parquet", "V006"), ("sco\nres.parquet", "V006"), ("", "V006"),
    ("inner.zip", "V008"), ("runs/x.tar.gz", "V008"), ("readme.txt", "V009"), ("runs/x.json", "V009"),
    ("predictions/" + 32 * "G" + ".f32", "V009"), ("scores.parquet ", "V009"), ("runs/" + 32 * "a" + ".json\n", "V006"),
])  # fmt: skip
def test_names_that_no_bundle_has(tmp_path, name, code):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry(name), b"x")
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw)
    # Names outside of ASCII also set a flag; the name is what is told.
    assert refused(tmp_path / "a.zip") == {code}


def test_names_twice_also_by_case(tmp_path):
    for names in (("scores.parquet", "scores.parquet"), ("SCORES.parquet", "scores.parquet")):
        with pytest.warns(UserWarning) if names[0] == names[1] else zipfile.ZipFile(io.BytesIO(), "w"):
            write_archive(tmp_path / "a.zip", [(n, b"x") for n in names])
        assert refused(tmp_path / "a.zip") == {"V007"}


def test_links_devices_and_folders(tmp_path):
    for mode, name in (
        (0o120777, "scores.parquet"),
        (0o020644, "scores.parquet"),
        (0o040755, "runs/"),
        (0o060644, "trials.json"),
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(entry(name, external_attr=mode << 16), b"/etc/passwd")
        assert refused(tmp_path / "a.zip") == {"V005"}


def test_encrypted_or_packed_otherwise(copy, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry(compress_type=zipfile.ZIP_LZMA), b"x")
    assert refused(tmp_path / "a.zip") == {"V004"}
    assert refused(foreign(tmp_path / "b.zip", (entry(compress_type=zipfile.ZIP_STORED), b"x"))) == {"V004"}
    assert refused(edited_central(copy, flags=1)) == {"V004"}


def test_bombs(tmp_path):
    write_archive(tmp_path / "a.zip", [("scores.parquet", bytes(50 * 2**20))])
    assert (tmp_path / "a.zip").stat().st_size < 2**17
    assert refused(tmp_path / "a.zip") == {"V003"}
    write_archive(tmp_path / "b.zip", [("trials.json", b" " * 2**20)])
    assert refused(tmp_path / "b.zip", limits=Limits(json=2**19)) == {"V002"}
    assert refused(tmp_path / "b.zip", limits=Limits(total=2**19)) == {"V002"}
    assert refused(tmp_path / "b.zip", limits=Limits(file=100)) == {"V002"}
    write_archive(tmp_path / "c.zip", [("manifest.json", b"{}"), ("trials.json", b"[]")])
    assert refused(tmp_path / "c.zip", limits=Limits(members=1)) == {"V002"}


def test_a_member_never_unpacks_beyond_what_it_says(tmp_path):
    """A bomb whose directory says that it is small: both headers lie alike."""
    content = bytes(30 * 2**20)
    write_archive(tmp_path / "a.zip", [("scores.parquet", content)])
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    start = END.unpack(raw[-END.size :])[6]
    small = struct.pack("<L", 1000)
    raw[22:26] = raw[start + 24 : start + 28] = small
    (tmp_path / "a.zip").write_bytes(raw)
    archive = Archive(tmp_path / "a.zip")
    with pytest.raises(Refused) as caught:
        archive.read("scores.parquet")
    assert caught.value.finding.code == "V011"


def test_sizes_and_checksums_that_lie(copy):
    assert refused(edited_central(copy, size=7)) == {"V010"}  # local header says otherwise
    raw = bytearray(copy.read_bytes())
    raw[22] ^= 1
    copy.write_bytes(raw)
    assert refused(copy) <= {"V010", "V011"}


def test_data_behind_the_end_of_a_member(tmp_path):
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = packed.compress(b"{}") + packed.flush() + b"hidden"
    name = b"manifest.json"
    common = (20, 0, 8, 0, 33, zlib.crc32(b"{}"), len(data), 2, len(name), 0)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *common) + name + data
    central = CENTRAL.pack(b"PK\1\2", 3 << 8 | 20, *common, 0, 0, 0, 0o100644 << 16, 0) + name
    end = END.pack(b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    (tmp_path / "a.zip").write_bytes(local + central + end)
    assert refused(tmp_path / "a.zip") & {"V011"} or "V023" in refused(tmp_path / "a.zip")
    with pytest.raises(Refused, match="more behind"):
        Archive(tmp_path / "a.zip").read("manifest.json")


def test_members_that_overlap_or_leave_gaps(copy, tmp_path, bundled):
    assert refused(edited_central(copy, header=5)) == {"V010"}
    # One member, twice in the directory, as bombs of overlapping members are.
    raw = bundled.read_bytes()
    count, length, start = END.unpack(raw[-END.size :])[4:7]
    first_name = CENTRAL.unpack_from(raw, start)[10]
    first = raw[start : start + CENTRAL.size + first_name]
    doubled = bytearray(first)
    doubled[CENTRAL.size :] = b"cards.jsom"[: len(first) - CENTRAL.size]
    central = raw[start : start + length] + first
    (tmp_path / "o.zip").write_bytes(
        raw[:start] + central + END.pack(b"PK\5\6", 0, 0, count + 1, count + 1, len(central), start, 0)
    )
    assert refused(tmp_path / "o.zip") == {"V007"}
    gap = raw[:start] + b"gap" + raw[start : -END.size] + END.pack(b"PK\5\6", 0, 0, count, count, length, start + 3, 0)
    (tmp_path / "g.zip").write_bytes(gap)
    assert refused(tmp_path / "g.zip") == {"V010"}


def test_cut_off_prepended_and_appended(copy, bundled):
    raw = bundled.read_bytes()
    for changed in (
        b"",
        raw[:10],
        raw[: len(raw) // 2],
        raw[:-1],
        raw + b"x",
        b"x" + raw,
        b"#!/bin/sh\n" + raw,
        b"PK\5\6" + raw[-18:],
    ):
        copy.write_bytes(changed)
        assert refused(copy) <= {"V001", "V010"}
    copy.write_bytes(raw[:-2] + b"\x03\x00abc")
    assert refused(copy) == {"V001"}
    copy.write_bytes(END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    assert refused(copy) == {"V001"}
    copy.write_bytes(END.pack(b"PK\5\6", 0, 0, 50000, 50000, 0, 0, 0))
    assert refused(copy) == {"V001"}


def test_zip_files_that_others_wrote(tmp_path, bundled):
    with zipfile.ZipFile(bundled) as archive:
        members = [(n, archive.read(n)) for n in archive.namelist()]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(entry(name, date_time=(2020, 2, 2, 2, 2, 2)), content)
    assert refused(tmp_path / "a.zip") == {"V012"}
    write_archive(tmp_path / "b.zip", members[::-1])
    assert refused(tmp_path / "b.zip") == {"V012"}
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr(entry(comment=b"hello"), b"x")
    assert refused(tmp_path / "c.zip") == {"V012"}


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused_or_changes_nothing(bundled, tmp_path_factory, place, bit):
    raw = bytearray(bundled.read_bytes())
    raw[int(place * len(raw))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flip") / "a.zip"
    path.write_bytes(raw)
    report, sound = validate(path), Archive(bundled)
    if report.valid:  # padding of a packed stream
        assert {n: Archive(path).read(n) for n in sound.members} == {n: sound.read(n) for n in sound.members}


@settings(max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_any_cut_is_refused(bundled, tmp_path_factory, cut):
    raw = bundled.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "a.zip"
    path.write_bytes(raw[: int(cut * len(raw))])
    assert not validate(path).valid


@settings(max_examples=60)
@given(junk=st.binary(max_size=300))
def test_junk_is_refused_and_never_a_crash(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "a.zip"
    for raw in (junk, junk + END.pack(b"PK\5\6", 0, 0, 1, 1, len(junk), 0, 0), b"PK\3\4" + junk):
        path.write_bytes(raw)
        assert not validate(path).valid

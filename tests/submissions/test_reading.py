"""Strict JSON, clean text and Parquet files that a library would rather not have opened."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.submissions.findings import Refused
from panmodal.submissions.pages import hybrid
from panmodal.submissions.strict import label_problem, link_problem, name_problem, read_folds, read_json, text_problem
from panmodal.submissions.tables import FLAG, LABEL, NUMBER, WHOLE, read_frame, write_frame
from panmodal.submissions.thrift import Compact

COLUMNS = {"name": LABEL, "n": WHOLE, "flag": FLAG, "x": NUMBER}
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", min_codepoint=32), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc\"\\[{", max_size=5), inner, max_size=4), max_leaves=12,
)  # fmt: skip


def code_of(function, *args):
    with pytest.raises(Refused) as caught:
        function(*args)
    return caught.value.finding.code


@given(plain)
def test_json_is_read_as_json_reads_it(value):
    assert read_json(json.dumps(value).encode(), "x") == value


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(raw):
    try:
        found = read_json(raw, "x")
    except Refused as refused:
        assert refused.finding.code in ("V020", "V025")
    else:
        assert found == json.loads(raw)


def test_brackets_in_text_are_no_depth():
    assert read_json(json.dumps(["[" * 100, '"[{' * 50, "\\"]).encode(), "x")
    assert code_of(read_json, b"[" * 25 + b"]" * 25, "x") == "V020"


@pytest.mark.parametrize(("text", "clean"), [
    ("TP53", True), ("Ca2+", True), ("(+)-JQ1", True), ("a < b", True), ("Ä ö", True), ("β-estradiol", True), ("", False),
    (" a", False), ("a\nb", False), ("<b>", False), ("</b>", False), ("<!--", False), ("a\x00", False), ("a\u2066", False),
    ("\ud800", False), ("a" * 301, False), ("a\u2028b", False),
])  # fmt: skip
def test_labels(text, clean):
    assert (label_problem(text) == "") == clean


def test_names_text_and_links():
    assert name_problem("=1+1") and name_problem("@x") and not name_problem("x=1")
    assert not text_problem("two\nlines\tand <b>") and text_problem("\r") and text_problem("\x7f")
    assert not link_problem("") and not link_problem("https://example.org/a?b=c")
    for bad in (
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://x",
        "https://a b",
        'https://a"onclick=',
        "//example.org",
        " https://a",
    ):
        assert link_problem(bad), bad


def test_folds():
    assert read_folds(b'pert_id,fold\n"A,B",0\nC,1\n', "s") == {"A,B": 0, "C": 1}
    for raw in (b"", b"a,b\n", b"pert_id,fold\nA\n", b"pert_id,fold\nA,-1\n", b"pert_id,fold\nA,1.0\n", b"pert_id,fold\nA,0\nA,1\n",
                b'pert_id,fold\n"A,0\n', b"pert_id,fold\n\xff,0\n", b"pert_id,fold\nA,99999\n", "pert_id,fold\nA,\u0661\n".encode()):  # fmt: skip
        assert code_of(read_folds, raw, "s") == "V022"
    assert code_of(read_folds, b"pert_id,fold\n<b>,0\n", "s") == "V025"


def table(n=50):
    return pd.DataFrame({"name": [f"n{k % 7}" for k in range(n)], "n": np.arange(n), "flag": np.arange(n) % 2 == 0,
                         "x": np.where(np.arange(n) % 5, np.arange(n) / 3, np.nan)})  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 50, 30_000])
def test_tables_come_back(n):
    raw = write_frame(table(n), COLUMNS)
    assert raw == write_frame(table(n), COLUMNS)
    pd.testing.assert_frame_equal(read_frame(raw, "t", COLUMNS, {}), table(n), check_dtype=n > 0)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bits_never_crash(place, bit):
    raw = bytearray(write_frame(table(), COLUMNS))
    raw[int(place * len(raw))] ^= 1 << bit
    try:
        found = read_frame(bytes(raw), "t", COLUMNS, {})
    except Refused as refused:
        assert refused.finding.code in ("V025", "V030", "V031", "V032", "V033", "V034")
    else:
        assert len(found) == 50 and list(found) == list(COLUMNS)


def test_a_dictionary_that_would_fill_the_memory():
    """One long text and a run of a million rows that all are it: refused by its length, before it is repeated."""
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["a" * 100_000]))
    stream = io.BytesIO()
    schema = pa.schema([pa.field("name", words.type, nullable=False)])
    pq.write_table(
        pa.Table.from_arrays([words], schema=schema),
        stream,
        compression="none",
        store_schema=False,
        write_statistics=False,
    )
    raw = stream.getvalue()
    assert len(raw) < 200_000
    assert code_of(read_frame, raw, "t", {"name": LABEL}, {}) == "V025"


@given(st.lists(st.tuples(st.text(st.characters(min_codepoint=65, max_codepoint=126), min_size=1, max_size=5), st.integers(-(2**62), 2**62),
                          st.booleans(), st.none() | st.floats(allow_nan=False, allow_infinity=False)), max_size=60))  # fmt: skip
def test_tables_are_read_as_pyarrow_reads_them(rows):
    frame = pd.DataFrame(rows, columns=[*COLUMNS]).astype(
        {"n": np.int64, "flag": bool, "x": np.float64, "name": object}
    )
    raw = write_frame(frame, COLUMNS)
    theirs = pq.read_table(io.BytesIO(raw)).to_pandas()
    pd.testing.assert_frame_equal(
        read_frame(raw, "t", COLUMNS, {}), theirs.astype(frame.dtypes), check_dtype=bool(rows)
    )


def test_many_words_and_parts_are_read_as_pyarrow_reads_them():
    n = 2**20 + 77_000
    frame = pd.DataFrame({"name": [f"{k * 7919 % 100_003:x}" for k in range(n)], "n": np.arange(n) % 1000})
    raw = write_frame(frame, {"name": LABEL, "n": WHOLE})
    found = read_frame(raw, "t", {"name": LABEL, "n": WHOLE}, {})
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    assert pq.ParquetFile(io.BytesIO(raw)).metadata.num_row_groups == 2


def test_every_flipped_bit_of_the_footer_is_survived():
    """Among them are footers that end the process of a library that reads all of Parquet."""
    raw = write_frame(table(), COLUMNS)
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for place in range(start, len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            try:
                found = read_frame(bytes(changed), "t", COLUMNS, {})
            except Refused as refused:
                assert refused.finding.code in ("V025", "V030", "V031", "V032", "V033", "V034")
            else:
                assert len(found) == 50


def test_runs_of_numbers():
    assert hybrid(bytes([2 << 1, 5]), 3, 2).tolist() == [5, 5]
    assert hybrid(bytes([1 << 1 | 1, 0b10001000, 0b11000110, 0b11111010]), 3, 8).tolist() == list(
        range(8)
    )  # Encodings.md
    assert hybrid(bytes([1 << 1 | 1, 0b10001000, 0b11000110, 0b11111010]), 3, 5).tolist() == list(range(5))
    assert hybrid(b"", 3, 0).tolist() == [] and hybrid(bytes([4, 0, 1]), 9, 2).tolist() == [256, 256]
    for body, width, count in ((b"", 3, 1), (bytes([2 << 1, 5]), 3, 1), (bytes([2 << 1, 5]), 3, 3), (bytes([0, 5]), 3, 1),
                               (bytes([2 << 1, 5, 5]), 3, 2), (bytes([3, 1]), 3, 8), (bytes([4, 0]), 33, 2),
                               (b"\xff" * 12, 3, 8), (bytes([2 << 1 | 1, 0, 0]), 1, 8)):  # fmt: skip
        with pytest.raises(ValueError):
            hybrid(body, width, count)


@given(st.binary(max_size=80))
def test_junk_between_the_marks_is_refused(junk):
    for length in (len(junk), len(junk) // 2, 2**31):
        raw = b"PAR1" + junk + length.to_bytes(4, "little") + b"PAR1"
        assert code_of(read_frame, raw, "t", COLUMNS, {}) in ("V030", "V031", "V032", "V033")


@pytest.mark.parametrize(
    "junk", [b"\x1c" * 5000, b"\x19" * 5000, b"\xff" * 100, b"\x18" + b"\xff" * 9, b"\x19\xf5" + b"\xff" * 4 + b"\x0f"]
)
def test_structs_that_go_deep_or_on(junk):
    with pytest.raises(ValueError):
        Compact(junk).struct()

import gzip

import numpy as np
import pandas as pd
import pytest

from panmodal._tables import (
    number_columns,
    read_frame,
    require_exists,
    require_finite,
    stem,
    suffix,
    text_ids,
    unique_ids,
)


@pytest.fixture
def written(tmp_path):
    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "end", "start"),
    [
        ("a/net.h5ad", ".h5ad", "net"), ("E.CSV", ".csv", "E"), ("net.v2.csv.gz", ".csv", "net.v2"),
        ("net.v2.csv", ".csv", "net.v2"), ("t.tsv.GZ", ".tsv", "t"), ("none", "", "none"), ("x.gz", "", "x"),
    ],
)  # fmt: skip
def test_suffix_and_stem(name, end, start):
    assert (suffix(name), stem(name)) == (end, start)


def test_a_missing_file_names_its_neighbours(tmp_path, refuses):
    (tmp_path / "string_v1.csv").touch()
    refuses(["string_v2.csv: no such file", "Did you mean 'string_v1.csv'"], require_exists, tmp_path / "string_v2.csv")


@pytest.mark.parametrize("name", ["none/none.csv", "**x.csv", "[a.csv"])
def test_a_missing_file_without_neighbours(tmp_path, name, refuses):
    (tmp_path / "other.csv").touch()
    refuses([f"{name}: no such file."], require_exists, tmp_path / name)
    with pytest.raises(ValueError) as caught:
        require_exists(tmp_path / name)
    assert "Did you mean" not in str(caught.value)


def test_a_name_that_is_too_long(tmp_path, refuses):
    refuses(["aaa.csv", "cannot be opened"], require_exists, tmp_path / ("a" * 300 + ".csv"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t.csv.gz", "t.tsv.gz", "t.parquet"])
def test_read_frame_reads_every_format(tmp_path, name):
    frame = pd.DataFrame({"id": ["007", "1-Mar", "NA"], "x": [1.5, 0.1, 3.0]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in name else "\t", index=False)
    read = read_frame(path)
    assert read["id"].tolist() == ["007", "1-Mar", "NA"]
    assert read["x"].tolist() == [1.5, 0.1, 3.0]


def test_a_labelled_parquet_index_is_the_first_column(tmp_path):
    pd.DataFrame({"x": [1.0]}, index=pd.Index(["A"], name="gene")).to_parquet(tmp_path / "t.parquet")
    assert read_frame(tmp_path / "t.parquet").columns.tolist() == ["gene", "x"]


def test_columns_asked_for_are_text(written):
    read = read_frame(written("x,Gene,y\n1,007,01\n2,NA,02\n"), {"gene"})
    assert read["Gene"].tolist() == ["007", "NA"]
    assert read["y"].tolist() == [1, 2]


def test_a_byte_order_mark_is_no_part_of_the_first_name(written):
    assert read_frame(written("\ufeffid,x\nA,1\n")).columns.tolist() == ["id", "x"]


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("id,x,x\nA,1,2\n", "t.csv", ["t.csv: columns 'x'", "more than once"]),
        ("id\tx\ty\tx\nA\t1\t2\t3\n", "t.tsv", ["t.tsv: columns 'x'", "more than once"]),
        ("id,x\nA,1,2\n", "t.csv", ["t.csv: rows have more cells than the header"]),
        ("id,x\nA,1\nB,1,2\n", "t.csv", ["t.csv: cannot be read as csv", "line 3"]),
        ("id,x\n", "t.csv", ["t.csv: the table is empty (0 rows, 2 columns)"]),
        ("", "t.csv", ["t.csv: cannot be read as csv", "No columns"]),
        (b"id,x\n\xff\xfe,1\n", "t.csv", ["t.csv: cannot be read as csv", "utf-8"]),
        ("id,x\nA,1\n", "t.csv.gz", ["t.csv.gz: cannot be read as csv", "gzip"]),
        (gzip.compress(b"id,x\n" + b"A,1\n" * 999, mtime=0)[:-12], "t.csv.gz", ["t.csv.gz: cannot be read as csv", "Is it complete?"]),
        (b"PAR1 and no more", "t.parquet", ["t.parquet: cannot be read as parquet", "Is it complete?"]),
        ("id,x\nA,1\n", "t.xlsx", ["t.xlsx: .xlsx is not a table format (csv,"]),
        ("id,x\nA,1\n", "t", ["no suffix is not a table format"]),
    ],
)  # fmt: skip
def test_read_frame_refuses(written, content, name, says, refuses):
    refuses(says, read_frame, written(content, name))


def test_read_frame_refuses_truncated_parquet(tmp_path, refuses):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": ["A"] * 99, "x": range(99)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    refuses(["t.parquet: cannot be read as parquet", "Is it complete?"], read_frame, path)


def test_read_frame_refuses_parquet_without_rows(tmp_path, refuses):
    pd.DataFrame({"id": [], "x": []}).to_parquet(tmp_path / "t.parquet")
    refuses(["t.parquet: the table is empty (0 rows, 2 columns)"], read_frame, tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("given", "text"),
    [(["A", " B "], ["A", "B"]), ([7, np.int64(8)], ["7", "8"]), ([46912230.0, 1.5], ["46912230", "1.5"]),
     (["007", "NA", "nan"], ["007", "NA", "nan"])],
)  # fmt: skip
def test_text_ids(given, text):
    assert text_ids(given, "the id", "t.csv") == text


@pytest.mark.parametrize("empty", [None, np.nan, pd.NA, "", "  "])
def test_text_ids_refuses_empty_ones(empty, refuses):
    refuses(["t.csv: the gene is empty in row(s) '2', '4'"], text_ids, ["A", empty, "B", empty], "the gene", "t.csv")


def test_unique_ids_names_the_repeated(refuses):
    refuses(["t.csv: id 'B', 'C'", "more than once. Merge."], unique_ids, list("ABBCCD"), "id", "t.csv", "Merge.")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1.0, "high", "low"], ["column 'x' holds text: 'high' in row 2 (id 'B'); 2 such cell(s)"]),
        (["1", "2", "n/a"], ["column 'x' holds text: 'n/a' in row 3 (id 'C'); 1 such cell(s)"]),
        (pd.Categorical(["u", "v", "u"]), ["column 'x' holds text: 'u' in row 1 (id 'A')"]),
        ([np.array([1.0, 2.0])] * 3, ["column 'x'", "row 1 (id 'A')"]),
        (pd.to_datetime(["2020-01-01"] * 3), ["column 'x' holds datetime64", "not numbers"]),
        (pd.to_timedelta([1, 2, 3]), ["column 'x' holds timedelta64", "not numbers"]),
        ([1j, 2j, 3j], ["column 'x' holds complex128", "not numbers"]),
    ],
)  # fmt: skip
def test_number_columns_refuses_what_is_no_number(values, says, refuses):
    frame = pd.DataFrame({"ok": [1, 2, 3], "x": values})
    refuses(["t.csv: ", *says], number_columns, frame, ["ok", "x"], "t.csv", list("ABC"))


@pytest.mark.parametrize(
    "values", [[1, 0], [True, False], ["1", "0.0"], pd.array([1, 0], dtype="Int64"), np.array([1, 0], np.float16)]
)
def test_number_columns_takes_any_number(values):
    numbers = number_columns(pd.DataFrame({"x": values}), ["x"], "t.csv", ["A", "B"])
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [[1.0], [0.0]]


def test_number_columns_keeps_gaps_for_the_check_of_finite_values():
    frame = pd.DataFrame({"x": pd.array([1, None], dtype="Int64"), "y": ["2", None]})
    np.testing.assert_array_equal(number_columns(frame, ["x", "y"], "t", ["A", "B"]), [[1, 2], [np.nan, np.nan]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_require_finite_names_the_first(bad, refuses):
    values = np.zeros((4, 3), np.float32)
    values[2, 1] = values[3, 0] = bad
    refuses(
        ["t.csv: 2 response value(s)", f"first {bad} at id 'C', column 'y'", "rows 'C', 'D'"],
        require_finite, values, list("ABCD"), list("xyz"), "t.csv", "response",
    )  # fmt: skip


def test_require_finite_looks_beyond_the_first_block(refuses):
    values = np.zeros((5, 2**23), np.float16)  # two rows to a block
    values[4, 7] = np.inf
    columns = range(values.shape[1])
    refuses(["1 x value(s)", "id 'E', column 7"], require_finite, values, list("ABCDE"), columns, "t", "x")


def test_whole_numbers_are_finite():
    require_finite(np.zeros((1, 1), int), ["A"], ["x"], "t", "x")

import gzip
import json
import zipfile

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.embeddings.texts import read_lines, read_texts

TEXTS = {"TP53": "Tumour suppressor.", "007": "An agent, not a number.", "SEPT1": 'A "septin"\nof two lines.'}


def write(path, texts, id_col="gene", text_col="summary"):
    frame = pd.DataFrame({id_col: list(texts), "chromosome": ["17"] * len(texts), text_col: list(texts.values())})
    name = path.name.removesuffix(".gz")
    if name.endswith(".json"):
        data = json.dumps(texts)
    elif name.endswith(("l", "ndjson")):
        data = "\n".join(json.dumps(r) for r in frame.to_dict("records"))
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
        return path
    else:
        data = frame.to_csv(index=False, sep="," if name.endswith(".csv") else "\t")
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())
    return path


@pytest.mark.parametrize(
    "name",
    ["t.json", "t.json.gz", "t.jsonl", "t.jsonl.gz", "t.ndjson", "t.csv", "t.csv.gz", "t.tsv", "t.txt", "t.parquet"],
)
def test_every_format_gives_the_same_texts(tmp_path, name):
    assert read_texts(write(tmp_path / name, TEXTS)) == (TEXTS, {})


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_columns_may_be_named(tmp_path, name):
    path = write(tmp_path / name, TEXTS, "who", "what")
    assert read_texts(path, id_col="who", text_col="what") == (TEXTS, {})


@pytest.mark.parametrize(("id_col", "text_col"), [("Gene", "TEXT"), ("symbol", "anything"), ("anything", "summary")])
def test_of_two_columns_one_known_name_is_enough(tmp_path, id_col, text_col):
    path = tmp_path / "t.csv"
    pd.DataFrame({id_col: list(TEXTS), text_col: list(TEXTS.values())}).to_csv(path, index=False)
    assert read_texts(path)[0] == TEXTS


def test_json_may_hold_records(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"gene": "A", "summary": "a"}, {"gene": "B", "summary": None}]))
    assert read_texts(path) == ({"A": "a"}, {"B": "its text is empty"})
    path.write_text(json.dumps({"A": {"summary": "a", "name": "x"}, "B": {"name": "y"}}))
    assert read_texts(path) == ({"A": "a"}, {"B": "its text is empty"})
    assert read_texts(path, text_col="name")[0] == {"A": "x", "B": "y"}


def test_empty_texts_are_told_and_equal_ones_count_once(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("gene,text\nA,one\nB,\nC,  \nA,one\nD,NA\n")
    assert read_texts(path) == ({"A": "one", "D": "NA"}, {"B": "its text is empty", "C": "its text is empty"})


@given(st.dictionaries(st.text(min_size=1).filter(str.strip).map(str.strip), st.text().map(str.strip), min_size=1))
def test_json_loses_nothing(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("texts") / "t.json"
    path.write_text(json.dumps(texts))
    if not any(texts.values()):
        return
    found, left_out = read_texts(path)
    assert found == {k: v for k, v in texts.items() if v}
    assert set(left_out) == {k for k, v in texts.items() if not v}


@pytest.mark.parametrize(
    ("name", "text", "options", "says"),
    [
        ("t.json", "{", {}, ["t.json", "not valid JSON"]),
        ("t.json", '"text"', {}, ["object id -> text or a list", "str"]),
        ("t.json", '{"A": "a", "A": "b"}', {}, ["'A' appears more than once"]),
        ("t.json", '{"A": 3}', {}, ["the text of 'A' is int (3)"]),
        ("t.json", '{"A": ["a"]}', {}, ["the text of 'A' is list"]),
        ("t.json", '{"A": {"summary": "a"}, "B": "b"}', {}, ["id B", "must be an object"]),
        ("t.json", '{"A": ""}', {}, ["no texts (1 ids with empty text)"]),
        ("t.json", '{" ": "a"}', {}, ["the id of row 1 is empty"]),
        ("t.json", "[]", {}, ["no texts"]),
        ("t.json", '[{"gene": "A", "text": "a"}, {"text": "b"}]', {}, ["no 'gene' in record '2'"]),
        ("t.json", '[{"gene": "A", "text": "a"}, "b"]', {}, ["record 2", "must be an object"]),
        ("t.jsonl", '{"gene": "A", "text": "a"}\nnonsense', {}, ["t.jsonl, line 2", "not valid JSON"]),
        ("t.csv", "gene,text\nA,a\nA,b\n", {}, ["id 'A' has two different texts (row 2)"]),
        ("t.csv", "gene,text\n,a\n", {}, ["the id of row 1 is empty"]),
        ("t.csv", "gene,text\nA,a\n", {"id_col": "who"}, ["no column 'who'", "'gene', 'text'"]),
        ("t.csv", "gene,text\nA,a\n", {"text_col": "what"}, ["no column 'what'"]),
        ("t.csv", "gene,text\nA,a\n", {"id_col": "gene", "text_col": "gene"}, ["cannot hold both"]),
        ("t.csv", "gene,x,y\nA,a,b\n", {}, ["which column holds the texts", "Give text_col"]),
        ("t.csv", "x,summary,y\nA,a,b\n", {}, ["which column holds the ids", "Give id_col"]),
        ("t.csv", "gene,text\nA,3\n", {}, []),
        ("t.docx", "x", {}, [".docx is no format of texts"]),
    ],
)
def test_a_bad_file_is_refused(tmp_path, name, text, options, says, refuses):
    path = tmp_path / name
    path.write_text(text)
    if says:
        refuses(says, read_texts, path, **options)
    else:
        assert read_texts(path)[0] == {"A": "3"}


def test_real_summaries(shared):
    texts, left_out = read_texts(shared / "knowledge" / "ncbi_gene_summaries.json.gz")
    assert (len(texts), left_out) == (1915, {})
    assert "KLHL17" in texts["KLHL17"]


def test_lines_of_a_zip_of_one_file(tmp_path, refuses):
    with zipfile.ZipFile(tmp_path / "one.txt.zip", "w") as archive:
        archive.writestr("one.txt", "a\r\nb")
    assert list(read_lines(tmp_path / "one.txt.zip")) == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one.txt", "a")
        archive.writestr("two.txt", "b")
    refuses(["'one.txt', 'two.txt'", "unpack it"], list, read_lines(tmp_path / "two.zip"))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "two.zip").read_bytes()[:40])
    refuses(["cut.zip", "Is it complete?"], list, read_lines(tmp_path / "cut.zip"))

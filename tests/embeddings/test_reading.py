import pickle
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from panmodal._files import PARTIAL
from panmodal.embeddings.card import CARD_KEY, Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.reading import obsm_keys, read_embedding
from panmodal.errors import StoreError

ODD = ("007", "1-Mar", "NA", "(+)-JQ1", "Ca2+", "A+B", "nan", "1e5", 'a "b", c')
FORMATS = ["e.h5ad", "e.parquet", "e.csv", "e.tsv", "e.csv.gz", "e.tsv.gz", "e.npz"]


@pytest.fixture
def file(tmp_path):
    def write(content, name="e.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "e.npz", **arrays)
        return tmp_path / "e.npz"

    return write


@pytest.fixture
def h5ad(tmp_path):
    def write(values=None, obs=None, obsm=None, uns=None, index=("A", "B"), name="e.h5ad"):
        adata = anndata.AnnData(values, obs=pd.DataFrame(obs or {}, index=list(index)), obsm=obsm or {}, uns=uns or {})
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


def odd_embedding(dtype="float32"):
    vectors = np.random.default_rng(0).standard_normal((len(ODD), 3)).astype(dtype)
    card = Card(name="odd µ", modality="text", source="a: b", trained_on=("x", "y"), simulated=True)
    return Embedding(ODD, vectors, card)


# Round trips


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8"])
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(tmp_path, name, dtype):
    embedding = odd_embedding(dtype)
    embedding.write(tmp_path / name)
    read = Embedding.read(tmp_path / name)
    assert read.ids == embedding.ids
    assert read.card == embedding.card
    assert read.digest == embedding.digest
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(PARTIAL)]


def test_a_card_lies_beside_text_and_inside_the_rest(tmp_path):
    for name in FORMATS:
        odd_embedding().write(tmp_path / name)
    cards = sorted(p.name for p in tmp_path.glob("*.card.yaml"))
    assert cards == [f"e.{kind}.card.yaml" for kind in ("csv", "csv.gz", "tsv", "tsv.gz")]


@pytest.mark.parametrize("name", ["e.pkl", "e.xlsx", "e"])
def test_other_formats_are_not_written(tmp_path, name, refuses):
    refuses(
        [f"{name}: an embedding is written as h5ad, parquet, csv, tsv or npz"], odd_embedding().write, tmp_path / name
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_fills_keeps_the_old_file(tmp_path, name, refuses, monkeypatch):
    odd_embedding().write(tmp_path / name)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    other = Embedding.from_dict({"X": [1.0]}, "other")
    refuses([name, "No space left on device"], other.write, tmp_path / name, error=StoreError)
    assert read_embedding(tmp_path / name).digest == odd_embedding().digest
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(PARTIAL)]


# Tables


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,x,y\nA,1,2\nB,3,high\n", ["column 'y' holds text: 'high' in row 2 (id 'B'); 1 such cell(s)"]),
        ("id,x,y\nA,1,2\nB,3,NaN\n", ["column 'y' holds text: 'NaN' in row 2 (id 'B')"]),
        ("id,x,y\nA,1,2\nB,3,\n", ["1 embedding value(s)", "nan at id 'B', column 'y'"]),
        ("id,x,y\nA,1,-inf\nB,3,1\n", ["1 embedding value(s)", "-inf at id 'A', column 'y'"]),
        ("id,x\nA,1\nB,1\nA,2\n", ["id 'A' appear(s) more than once"]),
        ("id,x\nA+B,1\nB+A,2\n", ["id 'A+B' appear(s) more than once"]),
        ("id,x,x\nA,1,2\n", ["columns 'x' appear more than once"]),
        ("id,x\nA,1\n,2\n", ["the id (id) is empty in row(s) '2'"]),
        ("id,x\n", ["the table is empty (0 rows, 2 columns)"]),
        ("id\nA\n", ["no column but 'id': there are no vectors"]),
        ("A,0.5,-1.25\nB,0.1,0.2\n", ["the first line ('A', '0.5', '-1.25') looks like a vector", "Add a header"]),
        ("", ["cannot be read as csv"]),
        (b"PK\x03\x04 not a csv \xff", ["cannot be read as csv"]),
    ],
)
def test_a_bad_table_is_refused(file, text, says, refuses):
    refuses(["e.csv: ", *says], read_embedding, file(text))


def test_a_missing_id_column_is_named(tmp_path, file, refuses):
    refuses(["e.csv: no column 'zz' for the ids", "'id', 'x'"], read_embedding, file("id,x\nA,1\n"), id_col="zz")
    pd.DataFrame({"x": [1.0], "y": [2.0]}).to_parquet(tmp_path / "e.parquet")
    refuses(["no column of ids found among 'x', 'y'", "--id-col"], read_embedding, tmp_path / "e.parquet")


@pytest.mark.parametrize(
    ("text", "options", "ids"),
    [
        ("id,0,1\n007,1,2\n1-Mar,3,4\nNA,5,6\n", {}, ("007", "1-Mar", "NA")),
        ("anything,0,1\n007,1,2\nNA,3,4\n", {}, ("007", "NA")),
        ("0,gene_symbol\n1,NA\n2,B\n", {}, ("NA", "B")),
        ("0,Mine\n1,007\n2,B\n", {"id_col": "Mine"}, ("007", "B")),
        ("id,0.5,0.25\nA,1,2\n", {}, ("A",)),
        ("id,0\nB + A,1\nC+ctrl,2\nCa2+,3\n(+)-JQ1,4\n", {}, ("A+B", "C", "Ca2+", "(+)-JQ1")),
    ],
)
def test_ids_are_found_and_stay_text(file, text, options, ids):
    assert read_embedding(file(text), **options).ids == ids


def test_parquet_ids_may_be_an_index_or_numbers(tmp_path):
    path = tmp_path / "e.parquet"
    pd.DataFrame({"x": [1.0, 2.0]}, index=["007", "NA"]).to_parquet(path)
    assert read_embedding(path).ids == ("007", "NA")
    pd.DataFrame({"id": [46912230.0, 7.0], "x": [1.0, 2.0]}).to_parquet(path)
    assert read_embedding(path).ids == ("46912230", "7")


def test_a_parquet_column_of_lists_is_refused(tmp_path, refuses):
    pd.DataFrame({"id": ["A", "B"], "v": [[1.0, 2.0], [3.0, 4.0]]}).to_parquet(tmp_path / "e.parquet")
    refuses(["e.parquet: column 'v'", "(id 'A')"], read_embedding, tmp_path / "e.parquet")


# npz


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"ids": np.array(["A", "B"], object), "vectors": np.ones((2, 2))}, ["holds Python objects", "dtype=str"]),
        ({"ids": ["A", "B"], "vectors": np.array([[1, None]], object)}, ["holds Python objects"]),
        ({"ids": [1, 2], "vectors": np.ones((2, 2))}, ["needs arrays 'ids' (text) and 'vectors'", "'ids', 'vectors'"]),
        ({"ids": ["A", "B"]}, ["needs arrays 'ids' (text) and 'vectors'"]),
        ({"vectors": np.ones((2, 2))}, ["needs arrays 'ids' (text) and 'vectors'"]),
        ({"ids": ["A"], "vectors": np.ones((2, 2))}, ["1 ids but vectors of shape (2, 2)"]),
        ({"ids": ["A", "A"], "vectors": np.ones((2, 2))}, ["id 'A' appear(s) more than once"]),
        ({"ids": ["A", ""], "vectors": np.ones((2, 2))}, ["the id is empty in row(s) '2'"]),
        ({"ids": ["A", "B"], "vectors": np.full((2, 1), np.nan)}, ["2 embedding value(s)", "nan at id 'A'"]),
        ({"ids": ["A"], "vectors": np.ones((1, 0))}, ["empty (1 ids, 0 dimensions)"]),
        ({"ids": ["A"], "vectors": [["x"]]}, ["vectors hold <U1, not numbers"]),
        ({"A": np.ones(2), "B": np.ones(3), "C": np.ones(2)}, ["vectors of different lengths (2: 'A', 'C'; 3: 'B')"]),
        ({}, ["needs arrays 'ids' (text) and 'vectors'"]),
    ],
)
def test_a_bad_npz_is_refused(npz, arrays, says, refuses):
    refuses(["e.npz: ", *says], read_embedding, npz(**arrays))


def test_npz_of_either_shape_is_read(npz):
    assert read_embedding(npz(genes=np.array([b"B+A", b"C"]), X=np.eye(2))).ids == ("A+B", "C")
    one_each = read_embedding(npz(A=np.array([1, 2]), B=np.array([[3, 4]])))
    assert one_each.ids == ("A", "B")
    np.testing.assert_array_equal(one_each.vectors, [[1, 2], [3, 4]])


def test_a_single_array_is_no_npz(tmp_path, refuses):
    with (tmp_path / "e.npz").open("wb") as stream:
        np.save(stream, np.ones((2, 2)))
    refuses(
        ["e.npz: cannot be read as npz (it is no zip archive)", "numpy.savez(..., ids=ids"],
        read_embedding,
        tmp_path / "e.npz",
    )


# AnnData


def test_x_obsm_and_id_column(h5ad):
    path = h5ad(np.eye(2), {"gene": ["007", "NA"]}, {"net": np.ones((2, 3)), "text": csr_matrix(np.eye(2))})
    assert obsm_keys(path) == ["net", "text"]
    assert read_embedding(path).ids == ("A", "B")
    assert read_embedding(path, id_col="gene").ids == ("007", "NA")
    net = read_embedding(f"{path}#net")
    assert (net.name, net.dims) == ("e#net", 3)
    np.testing.assert_array_equal(read_embedding(f"{path}#text").vectors, np.eye(2))
    assert read_embedding(f"{path}#net", name="mine").name == "mine"


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_zarr_is_read_as_h5ad_is(tmp_path):
    adata = anndata.AnnData(np.eye(2), obs=pd.DataFrame(index=["007", "B+A"]), obsm={"net": np.ones((2, 3))})
    adata.write_zarr(tmp_path / "e.zarr")
    assert read_embedding(tmp_path / "e.zarr").ids == ("007", "A+B")
    assert read_embedding(f"{tmp_path / 'e.zarr'}#net").dims == 3


def test_the_card_inside_is_used_but_for_obsm_names(h5ad):
    card = Card(name="inside", modality="text", dims=2).model_dump_json()
    path = h5ad(np.eye(2), obsm={"net": np.ones((2, 3))}, uns={CARD_KEY: card})
    assert read_embedding(path).name == "inside"
    net = read_embedding(f"{path}#net")
    assert (net.name, net.card.modality, net.dims) == ("e#net", "text", 3)


@pytest.mark.parametrize(
    ("content", "key", "options", "says"),
    [
        ({"values": np.eye(2)}, "#net", {}, ["obsm has no 'net'; it has nothing"]),
        ({"values": np.eye(2), "obsm": {"a": np.eye(2)}}, "#net", {}, ["obsm has no 'net'; it has 'a'"]),
        ({"obsm": {"a": np.eye(2)}}, "", {}, ["X is empty", "give e.h5ad#a"]),
        ({}, "", {}, ["X is empty."]),
        ({"values": np.eye(2)}, "", {"id_col": "zz"}, ["obs has no column 'zz' for the ids"]),
        ({"values": np.eye(2), "obs": {"g": ["A", None]}}, "", {"id_col": "g"}, ["the id is empty in row(s) '2'"]),
        ({"values": np.eye(2), "index": ("A", "A")}, "", {}, ["id 'A' appear(s) more than once"]),
        ({"values": np.array([[1, 2], [np.inf, 1]])}, "", {}, ["1 embedding value(s)", "inf at id 'B', column '0'"]),
        ({"values": np.eye(2), "obsm": {"a": np.full((2, 1), np.nan)}}, "#a", {}, ["2 embedding value(s)"]),
        ({"obsm": {"a": pd.DataFrame({"x": ["u", "v"]}, index=["A", "B"])}}, "#a", {}, ["vectors hold object"]),
        ({"values": np.eye(2), "uns": {CARD_KEY: "[1]"}}, "", {}, ["its panmodal_card must be a mapping"]),
        ({"values": np.eye(2), "uns": {CARD_KEY: '{"dims": 9}'}}, "", {}, ["the card says 9 dimensions"]),
        ({"values": np.eye(2), "uns": {CARD_KEY: '{"x": 9}'}}, "", {}, ["the card is not valid (x: "]),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_bad_h5ad_is_refused(h5ad, content, key, options, says, refuses):
    refuses(["e.h5ad: ", *says], read_embedding, f"{h5ad(**content)}{key}", **options)


# Pickles


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["e.pkl", "e.pickle", "e.pt", "e.pth", "e.npz", "e.csv", "e.h5ad", "e.parquet"])
def test_a_pickle_is_not_opened_without_leave(tmp_path, file, name, refuses):
    path = file(pickle.dumps({"A": Touches(tmp_path / "ran")}), name)
    refuses([f"{name}: "], read_embedding, path)
    assert not (tmp_path / "ran").exists()


def test_objects_in_an_npz_are_not_unpickled(tmp_path, npz, refuses):
    refuses(["holds Python objects"], read_embedding, npz(ids=np.array([Touches(tmp_path / "ran")], object)))
    assert not (tmp_path / "ran").exists()


def test_the_trap_would_have_sprung(tmp_path, file, refuses):
    path = file(pickle.dumps({"A": Touches(tmp_path / "ran")}), "e.pkl")
    refuses(["the value of id 'A' is no vector"], read_embedding, path, allow_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["e.pkl", "e.pt"])
def test_the_refusal_of_a_pickle_says_what_to_do(file, name, refuses):
    refuses(["can run code when it is opened", "--allow-pickle", "numpy.savez"], read_embedding, file(b"", name))


def test_a_trusted_pickle_is_read(file):
    path = file(pickle.dumps({"007": [1.0, 2.0], "B+A": np.array([3, 4]), 5: (5, 6)}), "e.pkl")
    read = read_embedding(path, allow_pickle=True)
    assert read.ids == ("007", "A+B", "5")
    np.testing.assert_array_equal(read.vectors, [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], ["holds a list; want a dictionary"]),
        ({}, ["holds a dict; want a dictionary"]),
        ({"A": [1], "B": [1, 2]}, ["vectors of different lengths (1: 'A'; 2: 'B')"]),
        ({"A": [[1], [1, 2]]}, ["the value of id 'A' is no vector"]),
        ({1: [1], "1": [2]}, ["id '1' appears more than once"]),
        ({"A": "text"}, ["not numbers"]),
        ({"A": [np.nan]}, ["1 embedding value(s)", "nan at id 'A'"]),
    ],
)
def test_a_bad_pickle_is_refused(file, content, says, refuses):
    refuses(["e.pkl: ", *says], read_embedding, file(pickle.dumps(content), "e.pkl"), allow_pickle=True)


def test_torch_is_asked_for_by_name(file, refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    refuses(["e.pt: reading .pt needs PyTorch", "panmodal[deep]"], read_embedding, file(b"", "e.pt"), allow_pickle=True)


def test_torch_dictionaries_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"A": torch.ones(2, dtype=torch.bfloat16), "B": torch.zeros(2)}, tmp_path / "e.pt")
    read = read_embedding(tmp_path / "e.pt", allow_pickle=True)
    np.testing.assert_array_equal(read.vectors, [[1, 1], [0, 0]])


# Any file


@pytest.mark.parametrize("share", [0.2, 0.95])
@pytest.mark.parametrize("name", ["e.h5ad", "e.parquet", "e.csv.gz", "e.tsv.gz", "e.npz", "e.pkl"])
def test_a_truncated_file_is_refused(tmp_path, name, share, refuses):
    path = tmp_path / name
    embedding = Embedding(
        tuple(f"G{k}" for k in range(50)), np.random.default_rng(0).standard_normal((50, 4)), Card(name="e")
    )
    if name == "e.pkl":
        path.write_bytes(pickle.dumps(dict(zip(embedding.ids, embedding.vectors, strict=True))))
    else:
        embedding.write(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuses([f"{name}: cannot be "], read_embedding, path, allow_pickle=True)


@pytest.mark.parametrize("name", ["e.xlsx", "e.gz", "e"])
def test_a_wrong_suffix_lists_the_formats(file, name, refuses):
    refuses(
        [f"{name}: ", "is no format of embeddings (h5ad, zarr, parquet, csv"], read_embedding, file("id,x\nA,1\n", name)
    )


def test_a_missing_file_is_refused(file, refuses):
    path = file("id,x\nA,1\n", "string_1.csv")
    refuses(["string_2.csv: no such file", "'string_1.csv'"], read_embedding, path.with_name("string_2.csv"))
    refuses(["none.h5ad: no such file"], read_embedding, f"{path.with_name('none.h5ad')}#key")


def test_a_key_needs_a_file_of_several_embeddings(file, refuses):
    refuses(["e.csv#net: only h5ad and zarr"], read_embedding, f"{file('id,x')}#net")


def test_a_name_may_hold_a_hash_and_dots(file):
    assert read_embedding(file("id,x\nA,1\n", "net#1.v2.csv")).name == "net#1.v2"


def test_a_bad_side_car_stops_the_reading(file, refuses):
    path = file("id,x\nA,1\n")
    path.with_name("e.card.yaml").write_text("dims: 7")
    refuses(["e.csv: embedding 'e': the card says 7 dimensions, the vectors have 1"], read_embedding, path)
    path.with_name("e.card.yaml").write_text("dims: many")
    refuses(["e.csv: the card is not valid (dims: "], read_embedding, path)


@pytest.mark.parametrize("combine", ["sum", "none"])
def test_the_rule_of_composition_is_passed_on(file, combine):
    covered = read_embedding(file("id,x\nA,1\nB,2\n"), combine=combine).coverage(["A+B"]).covered
    assert covered == (("A+B",) if combine == "sum" else ())


@pytest.mark.parametrize(
    ("name", "dims"),
    [("annotation_go_svd128", 128), ("compound_ecfp2000", 2000), ("network_humap_netmf128", 128),
     ("network_string_netmf128", 128), ("text_ncbi_lsa128", 128)],
)  # fmt: skip
def test_real_embeddings_are_read(shared, name, dims):
    embedding = read_embedding(shared / "embeddings" / f"{name}.h5ad")
    assert embedding.dims == dims
    assert embedding.card.modality != "unknown"

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from panmodal import Card, Embedding
from panmodal.embeddings.builders.targets import build_targets, build_targets_mean, read_targets

ROWS = [
    ("a", "EGFR, ERBB2"),
    ("b", "EGFR;KRAS"),
    ("c", "ZAK|EGFR"),
    ("d", None),
    ("e", "proteasome"),
    ("f", "proteasome, TP53"),
]


def write(path, rows=ROWS, columns=("drug", "targets")):
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "t.csv")


@pytest.fixture
def genes(tmp_path):
    ids = ("EGFR", "ERBB2", "TP53", "MAP3K20")
    vectors = np.arange(12.0).reshape(4, 3)
    card = Card(name="net", modality="network", trained_on=("screen1",))
    Embedding(ids, vectors, card).write(tmp_path / "net.parquet")
    return tmp_path / "net.parquet"


class TestReading:
    def test_names_become_symbols(self, table):
        read = read_targets(table)
        assert {d: sorted(held) for d, held in read.pairs.items()} == {
            "a": ["EGFR", "ERBB2"], "b": ["EGFR", "KRAS"], "c": ["EGFR", "MAP3K20"], "f": ["TP53"],
        }  # fmt: skip
        assert read.left_out == {"d": "no targets", "e": "none of its targets ('proteasome') is a known gene"}
        assert any("'proteasome'" in n and "left out" in n for n in read.notes)
        assert any("ZAK -> MAP3K20" in n for n in read.notes)

    def test_as_written(self, table):
        read = read_targets(table, resolve=False)
        assert read.pairs["c"] == {"ZAK": 1.0, "EGFR": 1.0}
        assert read.left_out == {"d": "no targets"}
        assert not read.notes

    def test_long_and_lists(self, tmp_path):
        long = [("a", "EGFR"), ("b", "KRAS"), ("a", "ERBB2"), ("a", "EGFR"), ("c", "")]
        read = read_targets(write(tmp_path / "l.csv", long, ("compound", "gene")))
        assert read.pairs == {"a": {"EGFR": 1.0, "ERBB2": 1.0}, "b": {"KRAS": 1.0}}
        assert read.left_out == {"c": "no targets"}
        frame = pd.DataFrame({"drug": ["a", "b", "c"], "targets": [["EGFR", "ERBB2"], ["KRAS"], None]})
        frame.to_parquet(tmp_path / "l.parquet")
        assert read_targets(tmp_path / "l.parquet") == read
        rows = [("a", "['EGFR', 'ERBB2']"), ("b", "[KRAS]"), ("c", "[]")]
        assert read_targets(write(tmp_path / "m.csv", rows)) == read

    def test_weights(self, tmp_path):
        rows = [("a", "EGFR, ERBB2", "0.5, 2"), ("b", "EGFR, KRAS", "3"), ("c", None, None)]
        read = read_targets(write(tmp_path / "w.csv", rows, ("drug", "targets", "w")), weight_col="w")
        assert read.pairs == {"a": {"EGFR": 0.5, "ERBB2": 2.0}, "b": {"EGFR": 3.0, "KRAS": 3.0}}

    def test_refusals(self, tmp_path, table, refuses):
        columns = ("drug", "targets", "w")

        def weighted(*rows):
            return write(tmp_path / "w.csv", list(rows), columns)

        refuses(["2 targets but 3 weights", "'a'"], read_targets, weighted(("a", "EGFR,KRAS", "1,2,3")), weight_col="w")
        refuses(["finite", "'x'"], read_targets, weighted(("a", "EGFR", "x")), weight_col="w")
        refuses(["finite"], read_targets, weighted(("a", "EGFR", None)), weight_col="w")
        refuses(["not 0"], read_targets, weighted(("a", "EGFR", 0)), weight_col="w")
        refuses(["two weights"], read_targets, weighted(("a", "EGFR", 1), ("a", "EGFR", 2)), weight_col="w")
        refuses(["two weights", "MAP3K20"], read_targets, weighted(("a", "ZAK,MAP3K20", "1,2")), weight_col="w")
        refuses(["no column 'nix'", "weight_col"], read_targets, table, weight_col="nix")
        refuses(["no column of targets"], read_targets, write(tmp_path / "x.csv", [("a", 1)], ("drug", "x")))
        refuses(["none of the 1 drugs"], read_targets, write(tmp_path / "y.csv", [("a", "proteasome")]))


class TestTargets:
    def test_binary(self, table):
        built = build_targets(targets=table)
        assert list(built.ids) == ["a", "b", "c", "f"]
        # columns: EGFR, ERBB2, KRAS, MAP3K20, TP53
        np.testing.assert_array_equal(
            built.vectors, [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
        )
        assert set(built.left_out) == {"d", "e"}

    def test_weightings(self, table, tmp_path):
        binary = build_targets(targets=table).vectors
        share = build_targets(targets=table, weighting="share").vectors
        np.testing.assert_allclose(share.sum(axis=1), 1)
        idf = build_targets(targets=table, weighting="idf").vectors
        np.testing.assert_allclose(idf, TfidfTransformer(norm=None).fit_transform(binary).toarray(), rtol=1e-6)
        path = write(tmp_path / "w.csv", [("a", "EGFR,KRAS", "-1,2")], ("drug", "targets", "w"))
        built = build_targets(targets=path, weighting="column", weight_col="w")
        np.testing.assert_array_equal(built.vectors, [[-1, 2]])

    def test_min_drugs(self, table, refuses):
        built = build_targets(targets=table, min_drugs=2)
        assert built.vectors.shape == (3, 1)
        assert "fewer than 2 drugs" in built.left_out["f"]
        assert any("4 target(s) of fewer than 2" in n for n in built.notes)
        refuses(["no target is one of 9 drugs", "is of 3"], build_targets, targets=table, min_drugs=9)
        refuses(["min_drugs is 0"], build_targets, targets=table, min_drugs=0)
        refuses(["belong together"], build_targets, targets=table, weighting="column")

    def test_order_of_rows_does_not_matter(self, tmp_path, table):
        one = build_targets(targets=table, weighting="idf")
        two = build_targets(targets=write(tmp_path / "r.csv", ROWS[::-1]), weighting="idf")
        order = [list(two.ids).index(i) for i in one.ids]
        np.testing.assert_array_equal(one.vectors, two.vectors[order])


class TestTargetsMean:
    def test_mean(self, table, genes):
        built = build_targets_mean(targets=table, embedding=genes)
        vectors = dict(zip(built.ids, built.vectors, strict=True))
        np.testing.assert_allclose(vectors["a"], [1.5, 2.5, 3.5])
        np.testing.assert_allclose(vectors["b"], [0, 1, 2])  # KRAS has no vector
        np.testing.assert_allclose(vectors["c"], [4.5, 5.5, 6.5])
        assert any("1 of 5 targets have no vector" in n and "KRAS" in n and "1 drug(s)" in n for n in built.notes)
        assert built.card["trained_on"] == ("screen1",)

    def test_weighted(self, tmp_path, genes, refuses):
        columns = ("drug", "targets", "w")
        path = write(tmp_path / "w.csv", [("a", "EGFR,ERBB2,KRAS", "1,3,100"), ("b", "KRAS", "1")], columns)
        built = build_targets_mean(targets=path, embedding=genes, weight_col="w")
        np.testing.assert_allclose(built.vectors, [[2.25, 3.25, 4.25]])
        assert "has a vector in 'net'" in built.left_out["b"]
        path = write(tmp_path / "n.csv", [("a", "EGFR,ERBB2", "1,-1")], columns)
        refuses(["negative", "'a'"], build_targets_mean, targets=path, embedding=genes, weight_col="w")
        path = write(tmp_path / "o.csv", [("a", "KRAS")])
        refuses(["none of the 1 targets has a vector"], build_targets_mean, targets=path, embedding=genes)

    def test_mean_of_a_single_target_is_its_vector(self, tmp_path, genes):
        path = write(tmp_path / "s.csv", [(g.lower(), g) for g in ("EGFR", "TP53")])
        built = build_targets_mean(targets=path, embedding=genes)
        np.testing.assert_array_equal(built.vectors, [[0, 1, 2], [6, 7, 8]])


def test_tahoe(shared):
    built = build_targets(targets=shared / "knowledge" / "tahoe_drugs.parquet")
    assert built.vectors.shape == (264, 279)
    assert len(built.left_out) == 115
    assert any("WNV NS2B-NS3" in n for n in built.notes)

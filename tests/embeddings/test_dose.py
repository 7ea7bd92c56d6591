import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import Card, Embedding
from panmodal.embeddings.builders.dose import build_dose, factor, parse_dose
from panmodal.errors import InputError


@pytest.fixture
def base(tmp_path):
    card = Card(name="ecfp", modality="chemistry", trained_on=("t",))
    Embedding(("JQ1", "drug A"), np.array([[1.0, 2.0], [3.0, 4.0]]), card).write(tmp_path / "e.parquet")
    return tmp_path / "e.parquet"


def table(path, rows, columns):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trametinib@100nM", ("trametinib", 0.1)), ("JQ1@10", ("JQ1", 10)), ("drug A @ 1e-2 mM", ("drug A", 10)),
        ("JQ1_0.5", ("JQ1", 0.5)), ("MK-2206_10.0", ("MK-2206", 10)), ("trametinib-10uM", ("trametinib", 10)),
        ("AZD 1480 (5 µM)", ("AZD 1480", 5)), ("[('8-Hydroxyquinoline', 0.05, 'uM')]", ("8-Hydroxyquinoline", 0.05)),
        ("a@2M", ("a", 2e6)), ("a@.5pM", ("a", 5e-7)),
        ("TL_HRAS26", None), ("AMD-070 (hydrochloride)", None), ("BMS-265246", None), ("ABT737", None), ("a_10m", None),
        ("5-(9-Isopropyl-8-methyl-2-morpholino-9H-purin-6-yl)pyrimidin-2-amine", None),
    ],
)  # fmt: skip
def test_parse_dose(text, told):
    found = parse_dose(text)
    assert found == (None if told is None else (told[0], pytest.approx(told[1])))


@given(st.floats(1e-6, 1e6), st.sampled_from(["M", "mM", "uM", "nM", "pM"]))
def test_every_unit_is_read_back(dose, unit):
    assert parse_dose(f"my drug-2@{dose!r}{unit}") == ("my drug-2", dose * factor(unit, "here"))
    assert parse_dose(f"x@{dose!r}", unit) == ("x", dose * factor(unit, "here"))


def test_units(refuses):
    assert factor("µM", "x") == factor("uM", "x") == factor("um", "x") == 1
    for unit in ("mm", "m", "mg/ml", ""):
        refuses(["here", "M, mM, uM"], factor, unit, "here")


class TestForms:
    IDS = ("JQ1@10uM", "JQ1@100nM", "drug A@10")

    def test_log(self, base):
        built = build_dose(embedding=base, ids=self.IDS)
        assert tuple(built.ids) == self.IDS
        np.testing.assert_allclose(built.vectors, [[1, 2, 1], [1, 2, -1], [3, 4, 1]])
        assert built.card["trained_on"] == ("t",)
        assert built.card["modality"] == "chemistry+dose"
        assert "2 dose(s), in µmol/l: 0.1, 10" in built.notes[0]
        three = build_dose(embedding=base, ids=self.IDS, copies=3).vectors
        np.testing.assert_array_equal(three[:, 2:], built.vectors[:, [2, 2, 2]])

    def test_one_hot(self, base):
        made = build_dose(embedding=base, ids=self.IDS, form="one-hot").vectors
        np.testing.assert_array_equal(made, [[1, 2, 0, 1], [1, 2, 1, 0], [3, 4, 0, 1]])

    def test_scale(self, base):
        made = build_dose(embedding=base, ids=self.IDS, form="scale").vectors
        np.testing.assert_allclose(made, np.array([[1, 2], [1, 2], [3, 4]]) * np.log1p([[10], [0.1], [10]]), rtol=1e-6)

    def test_one_dose_in_two_units_is_one(self, base):
        made = build_dose(embedding=base, ids=["JQ1@300nM", "drug A@0.3uM", "drug A@1uM"], form="one-hot").vectors
        assert made.shape[1] == 4


class TestIds:
    def test_combinations_and_what_is_left_out(self, base):
        built = build_dose(embedding=base, ids=["JQ1@1uM+drug A@2uM", "nobody@1uM", "JQ1", "JQ1@0", "JQ1_3"])
        assert list(built.ids) == ["JQ1@1uM", "drug A@2uM", "JQ1_3"]
        assert "no vector in 'ecfp'" in built.left_out["nobody@1uM"]
        assert "names no dose" in built.left_out["JQ1"]
        assert "positive" in built.left_out["JQ1@0"]

    def test_refusals(self, base, refuses):
        refuses(["which ids"], build_dose, embedding=base)
        refuses(["copies is 0"], build_dose, embedding=base, ids=["JQ1@1"], copies=0)
        refuses(["'JQ1'", "names no dose"], build_dose, embedding=base, ids=["JQ1"])


class TestTable:
    def test_id_compound_dose_unit(self, base, tmp_path):
        rows = [
            ("p1", "JQ1", 10, "nM"),
            ("p2", "JQ1", 1, None),
            ("p3", "drug A", None, "uM"),
            ("p4", "x", 1, "uM"),
            ("p1", "JQ1", 10, "nM"),
        ]
        path = table(tmp_path / "d.csv", rows, ["pert_id", "compound", "dose", "dose_unit"])
        built = build_dose(embedding=base, doses=path)
        assert list(built.ids) == ["p1", "p2"]
        np.testing.assert_allclose(built.vectors, [[1, 2, -2], [1, 2, 0]], atol=1e-7)
        assert built.left_out["p3"] == "no dose"
        assert "'x'" in built.left_out["p4"]

    def test_fewer_columns(self, base, tmp_path):
        only_ids = table(tmp_path / "a.csv", [("JQ1_10",), ("JQ1",)], ["pert_id"])
        built = build_dose(embedding=base, doses=only_ids)
        assert list(built.ids) == ["JQ1_10"]
        assert list(built.left_out) == ["JQ1"]
        by_name = table(tmp_path / "b.csv", [("JQ1", "10 nM"), ("JQ1", "1")], ["drug", "concentration"])
        assert list(build_dose(embedding=base, doses=by_name).ids) == ["JQ1@0.01uM", "JQ1@1uM"]
        in_name = table(tmp_path / "c.csv", [("JQ1", 10)], ["pert_id", "dose_nM"])
        np.testing.assert_allclose(build_dose(embedding=base, doses=in_name).vectors, [[1, 2, -2]])

    def test_screen(self, base, tmp_path):
        obs = pd.DataFrame(
            {"pert_id": ["JQ1@1", "JQ1@10"], "compound": ["JQ1"] * 2, "dose": [1.0, 10.0]}, index=["a", "b"]
        )
        ad.AnnData(np.zeros((2, 1), np.float32), obs=obs).write_h5ad(tmp_path / "s.h5ad")
        np.testing.assert_allclose(
            build_dose(embedding=base, doses=tmp_path / "s.h5ad").vectors, [[1, 2, 0], [1, 2, 1]]
        )

    def test_refusals(self, base, tmp_path, refuses):
        path = table(tmp_path / "d.csv", [("JQ1", 1), ("JQ1", 10)], ["pert_id", "dose"])
        refuses(["two meanings", "id_col"], build_dose, embedding=base, doses=path)
        path = table(tmp_path / "e.csv", [("JQ1", "high")], ["pert_id", "dose"])
        refuses(["'high'", "no number"], build_dose, embedding=base, doses=path)
        path = table(tmp_path / "f.csv", [("JQ1", 1, "mg/ml")], ["pert_id", "dose", "unit"])
        refuses(["mg/ml", "Convert"], build_dose, embedding=base, doses=path)
        path = table(tmp_path / "g.csv", [(1, 2)], ["x", "y"])
        refuses(["no column of ids or compounds"], build_dose, embedding=base, doses=path)
        refuses(
            ["no column of doses"],
            build_dose,
            embedding=base,
            doses=table(tmp_path / "h.csv", [("a", 2)], ["drug", "y"]),
        )
        refuses(["no column 'nix'"], build_dose, embedding=base, doses=path, dose_col="nix")

    def test_negative_and_zero(self, base, tmp_path):
        rows = [("a", "JQ1", 0), ("b", "JQ1", -1), ("c", "JQ1", 1)]
        built = build_dose(embedding=base, doses=table(tmp_path / "d.csv", rows, ["id", "drug", "dose"]))
        assert list(built.ids) == ["c"]
        assert set(built.left_out) == {"a", "b"}


def test_doc_example():
    with pytest.raises(InputError):
        factor("grain", "x")

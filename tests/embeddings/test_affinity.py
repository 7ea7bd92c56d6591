import json

import numpy as np
import pandas as pd
import pytest

from panmodal.embeddings.builders.affinity import BOLTZ_VALUES, build_affinity

VALUES = {
    ("a", "EGFR"): 0.1,
    ("a", "BRAF"): 0.9,
    ("b", "EGFR"): 0.3,
    ("b", "BRAF"): 0.4,
    ("c", "EGFR"): 0.5,
    ("c", "BRAF"): 0.6,
}


def write(path, values=VALUES, columns=("compound", "protein", BOLTZ_VALUES[0])):
    pd.DataFrame([(c, p, v) for (c, p), v in values.items()], columns=list(columns)).to_csv(path, index=False)
    return path


def boltz(folder, names, told=None):
    for k, name in enumerate(names):
        inner = folder / "predictions" / name
        inner.mkdir(parents=True)
        fields = {BOLTZ_VALUES[0]: 0.1 * k, BOLTZ_VALUES[1]: -float(k), BOLTZ_VALUES[1] + "1": 0.0}
        (inner / f"affinity_{name}.json").write_text(json.dumps(fields if told is None else told))
        (inner / f"confidence_{name}_model_0.json").write_text("{}")
    (folder / "processed").mkdir(exist_ok=True)
    return folder


class TestTable:
    def test_pivot(self, tmp_path):
        built = build_affinity(affinities=write(tmp_path / "t.csv"))
        assert list(built.ids) == ["a", "b", "c"]
        np.testing.assert_allclose(built.vectors, [[0.9, 0.1], [0.4, 0.3], [0.6, 0.5]], rtol=1e-6)
        assert "'BRAF', 'EGFR'" in built.notes[-1]

    def test_other_columns(self, tmp_path):
        write(tmp_path / "t.csv", columns=("lig", "UniProt", "pKd"))
        built = build_affinity(affinities=tmp_path / "t.csv", value="pKd", compound_col="lig")
        assert built.vectors.shape == (3, 2)
        pd.read_csv(tmp_path / "t.csv").to_parquet(tmp_path / "t.parquet")
        again = build_affinity(affinities=tmp_path / "t.parquet", value="pKd", compound_col="lig")
        np.testing.assert_array_equal(built.vectors, again.vectors)

    def test_missing(self, tmp_path, refuses):
        values = {**VALUES, ("c", "BRAF"): np.nan, ("d", "EGFR"): np.nan}
        path = write(tmp_path / "t.csv", values)
        refuses(["1 of 6 pairs", "'c x BRAF'", "drop-protein"], build_affinity, affinities=path)
        proteins = build_affinity(affinities=path, missing="drop-protein")
        assert proteins.vectors.shape == (3, 1)
        assert any("'BRAF'" in n for n in proteins.notes)
        assert proteins.left_out == {"d": "no value for any protein"}
        compounds = build_affinity(affinities=path, missing="drop-compound")
        assert list(compounds.ids) == ["a", "b"]
        assert "'BRAF'" in compounds.left_out["c"]
        filled = build_affinity(affinities=path, missing="mean")
        np.testing.assert_allclose(filled.vectors[2], [0.65, 0.5], rtol=1e-6)
        assert any("mean of the protein" in n for n in filled.notes)
        lone = {("a", "EGFR"): 1.0, ("b", "BRAF"): 1.0}
        for missing in ("drop-protein", "drop-compound"):
            refuses(["nothing is left"], build_affinity, affinities=write(tmp_path / "u.csv", lone), missing=missing)

    def test_repeats(self, tmp_path, refuses):
        frame = pd.DataFrame([(c, p, v) for (c, p), v in VALUES.items()], columns=["compound", "protein", "v"])
        same = pd.concat([frame, frame.iloc[:2]])
        same.to_csv(tmp_path / "same.csv", index=False)
        assert build_affinity(affinities=tmp_path / "same.csv", value="v").vectors.shape == (3, 2)
        other = pd.concat([frame, frame.iloc[:1].assign(v=0.3), frame.iloc[:1].assign(v=0.2)])
        vectors = []
        for k, table in enumerate((other, other.iloc[::-1])):
            path = tmp_path / f"other{k}.csv"
            table.to_csv(path, index=False)
            refuses(["'a x EGFR'", "repeats"], build_affinity, affinities=path, value="v")
            built = build_affinity(affinities=path, value="v", repeats="mean")
            vectors.append(built.vectors[list(built.ids).index("a")])
        np.testing.assert_array_equal(*vectors)
        np.testing.assert_allclose(vectors[0][1], 0.2, rtol=1e-6)

    def test_refusals(self, tmp_path, refuses):
        path = write(tmp_path / "t.csv")
        refuses(["no column 'nix'", BOLTZ_VALUES[0]], build_affinity, affinities=path, value="nix")
        refuses(["no column 'nix'", "protein_col"], build_affinity, affinities=path, protein_col="nix")
        refuses(
            ["no column of proteins"], build_affinity, affinities=write(tmp_path / "u.csv", columns=("drug", "x", "v"))
        )
        bad = write(tmp_path / "b.csv", {("a", "EGFR"): "strong"})
        refuses(["'strong'", "row 1"], build_affinity, affinities=bad)
        refuses(["'inf'"], build_affinity, affinities=write(tmp_path / "i.csv", {("a", "EGFR"): np.inf}))
        refuses(["no pair has a value"], build_affinity, affinities=write(tmp_path / "n.csv", {("a", "EGFR"): np.nan}))
        refuses(["no such file"], build_affinity, affinities=tmp_path / "absent.csv")


class TestBoltz:
    NAMES = ("drug_1__EGFR", "drug_1__BRAF", "b__EGFR", "b__BRAF")

    def test_folder(self, tmp_path):
        folder = boltz(tmp_path / "out", self.NAMES)
        built = build_affinity(affinities=folder)
        assert dict(zip(built.ids, built.vectors.tolist(), strict=True)) == {
            "drug_1": pytest.approx([0.1, 0.0]), "b": pytest.approx([0.3, 0.2])
        }  # fmt: skip
        other = build_affinity(affinities=folder / "predictions", value="affinity_pred_value")
        assert other.vectors.min() == -3

    def test_names(self, tmp_path, refuses):
        folder = boltz(tmp_path / "out", ["run_EGFR-x_y_v1"])
        built = build_affinity(affinities=folder, name_pattern="run_{protein}-{compound}_v1")
        assert list(built.ids) == ["x_y"]
        refuses(["run_EGFR-x_y_v1", "exactly one way"], build_affinity, affinities=folder)
        refuses(["exactly one way"], build_affinity, affinities=folder, name_pattern="{compound}_{protein}")
        for pattern in ("{compound}{protein}", "{compound}", "{compound}_{protein}_{protein}"):
            refuses(["name_pattern"], build_affinity, affinities=folder, name_pattern=pattern)

    def test_refusals(self, tmp_path, refuses):
        (tmp_path / "empty").mkdir()
        refuses(["no affinity_*.json"], build_affinity, affinities=tmp_path / "empty")
        folder = boltz(tmp_path / "failed", self.NAMES)
        (folder / "predictions" / "c__EGFR").mkdir()
        refuses(["without affinity", "'c__EGFR'"], build_affinity, affinities=folder)
        folder = boltz(tmp_path / "fields", ["a__b"], {"x": 1.0, "y": True, BOLTZ_VALUES[0]: "0.1"})
        refuses(["no finite number", "'x'"], build_affinity, affinities=folder)
        folder = boltz(tmp_path / "cut", ["a__b"])
        (folder / "predictions" / "a__b" / "affinity_a__b.json").write_text('{"aff')
        refuses(["JSON", "complete"], build_affinity, affinities=folder)

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.embeddings.builders.chemistry import build_descriptors, build_fingerprint
from panmodal.embeddings.compound_table import read_compound_table, read_compounds
from panmodal.errors import InputError

pytest.importorskip("rdkit")

from panmodal.embeddings.fingerprints import KINDS, fingerprint, structure_key

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "metformin": "CN(C)C(=N)NC(=N)N",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "thalidomide": "O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1",
    "lenalidomide": "Nc1cccc2c1CN(C1CCC(=O)NC1=O)C2=O",
}
SMILES = list(DRUGS.values())


def write(path, rows, columns=("compound", "smiles")):
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "drugs.csv", list(DRUGS.items()))


class TestReadCompounds:
    @pytest.mark.parametrize("name", ["drugs.csv", "drugs.tsv", "drugs.csv.gz", "drugs.parquet"])
    def test_formats(self, tmp_path, name):
        frame = pd.DataFrame({"x": 1, "Drug": list(DRUGS), "Canonical_SMILES": SMILES})
        path = tmp_path / name
        if name.endswith("parquet"):
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
        assert read_compounds(path) == (DRUGS, {})

    @pytest.mark.parametrize("zipped", [False, True])
    def test_smi(self, tmp_path, zipped):
        lines = ["smiles name", *(f"{s}\t{n} one" for n, s in DRUGS.items()), "", "CCO |$;;$| ethanol\r"]
        path = tmp_path / ("d.smi.gz" if zipped else "d.smi")
        data = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if zipped else data)
        assert read_compounds(path)[0] == {**{f"{n} one": s for n, s in DRUGS.items()}, "ethanol": "CCO"}

    def test_smi_without_id(self, tmp_path, refuses):
        (tmp_path / "d.smi").write_text("CCO ethanol\nCCC\n")
        refuses(["line(s) '2'", "d.smi"], read_compounds, tmp_path / "d.smi")
        (tmp_path / "e.smi").write_text("\n")
        refuses(["empty"], read_compounds, tmp_path / "e.smi")

    @pytest.mark.filterwarnings("ignore:Writing zarr v2")
    @pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
    def test_obs_of_a_screen(self, tmp_path, suffix):
        obs = pd.DataFrame(
            {"pert_id": ["a", "a", "b", "c"], "smiles": pd.Categorical(["CCO", "CCO", "CCC", "nan"])},
            index=["A|a", "B|a", "A|b", "A|c"],
        )
        adata = ad.AnnData(np.zeros((4, 2), np.float32), obs=obs)
        path = tmp_path / f"screen.{suffix}"
        adata.write_h5ad(path) if suffix == "h5ad" else adata.write_zarr(path)
        assert read_compounds(path) == ({"a": "CCO", "b": "CCC"}, {"c": "no SMILES"})
        adata.obs = obs.drop(columns="pert_id").iloc[:, :1]
        adata.write_h5ad(tmp_path / "by_name.h5ad")
        assert list(read_compounds(tmp_path / "by_name.h5ad")[0]) == ["A|a", "B|a", "A|b"]

    def test_one_id_with_two_structures(self, tmp_path):
        rows = [("a", "CCO"), ("a", "CCC"), ("b", "CCO"), ("b", "CCO"), ("c", None), ("c", "CC"), ("d", " ")]
        smiles, left_out = read_compounds(write(tmp_path / "t.csv", rows))
        assert smiles == {"b": "CCO", "c": "CC"}
        assert "2 different structures: 'CCC', 'CCO'" in left_out["a"]
        assert left_out["d"] == "no SMILES"

    def test_one_structure_in_two_spellings(self, tmp_path):
        rows = [
            ("salt", "CCN.Cl"), ("salt", "NCC"), ("tautomer", "c1ccc2[nH]ncc2c1"), ("tautomer", "c1ccc2n[nH]cc2c1"),
            ("broken", "C1CC"), ("broken", "CCC"), ("two", "CCO"), ("two", "CCCO"),
        ]  # fmt: skip
        for order in (rows, rows[::-1]):
            read = read_compound_table(write(tmp_path / "t.csv", order), same=structure_key)
            assert read.smiles == {"salt": "NCC", "tautomer": "c1ccc2[nH]ncc2c1", "broken": "CCC"}
            assert list(read.left_out) == ["two"]
            assert "3 compound(s) written with several SMILES" in read.notes[0]

    def test_ids_stay_text(self, tmp_path):
        path = write(tmp_path / "t.csv", [("007", "CCO"), ("1-Mar", "CCC")], ("drug", "smiles"))
        assert list(read_compounds(path)[0]) == ["007", "1-Mar"]
        path = tmp_path / "t.parquet"
        pd.DataFrame({"pubchem_cid": [46912230.0, 5.0], "smiles": ["CCO", "CCC"]}).to_parquet(path)
        assert list(read_compounds(path)[0]) == ["46912230", "5"]

    def test_refusals(self, tmp_path, refuses):
        path = write(tmp_path / "t.csv", [("a", "CCO"), (None, "CCC")])
        refuses(["row(s) '2'", "'compound'"], read_compounds, path)
        path = write(tmp_path / "u.csv", [(None, "x1", "CCO")], ("name", "chembl_id", "smiles"))
        refuses(["'name'", "id_col: 'chembl_id'"], read_compounds, path)
        refuses(["no column 'nix'", "id_col"], read_compounds, path, id_col="nix")
        refuses(["no column 'nix'", "smiles_col"], read_compounds, path, smiles_col="nix")
        refuses(["no column of SMILES"], read_compounds, write(tmp_path / "v.csv", [("a", 1)], ("drug", "x")))
        path = write(tmp_path / "w.csv", [("a", "b", "CCO")], ("x", "y", "smiles"))
        refuses(["cannot tell which column", "id_col"], read_compounds, path)
        refuses(["none of the 1 compounds"], read_compounds, write(tmp_path / "z.csv", [("a", "n/a")]))
        (tmp_path / "t.sdf").write_text("x")
        refuses([".sdf", "smi"], read_compounds, tmp_path / "t.sdf")
        (tmp_path / "broken.h5ad").write_bytes(b"no")
        refuses(["broken.h5ad", "complete"], read_compounds, tmp_path / "broken.h5ad")
        refuses(["no such file"], read_compounds, tmp_path / "absent.csv")


class TestFingerprint:
    def test_ecfp_is_rdkits(self):
        from rdkit import Chem
        from rdkit.Chem import rdFingerprintGenerator

        for radius, bits in ((2, 2048), (1, 2000), (3, 333)):
            generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
            mols = [Chem.MolFromSmiles(s) for s in SMILES]
            made, failures = fingerprint(SMILES, bits=bits, radius=radius)
            assert not failures
            assert made.dtype == np.uint8
            np.testing.assert_array_equal(made, [list(generator.GetFingerprint(m)) for m in mols])
            counted, _ = fingerprint(SMILES, bits=bits, radius=radius, counts=True)
            np.testing.assert_array_equal(counted, [generator.GetCountFingerprintAsNumPy(m) for m in mols])
            np.testing.assert_array_equal(counted > 0, made == 1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind(self, kind):
        about = KINDS[kind]
        made, failures = fingerprint(SMILES, kind)
        assert made.shape == (len(SMILES), about.bits)
        assert not failures
        assert (made.any(axis=1)).all()
        assert len(np.unique(made, axis=0)) == len(SMILES)
        again, _ = fingerprint(SMILES[::-1], kind, threads=1)
        np.testing.assert_array_equal(again[::-1], made)
        if not about.fixed:
            assert fingerprint(SMILES, kind, bits=96)[0].shape == (len(SMILES), 96)

    def test_maccs_keys_are_from_1(self):
        from rdkit import Chem
        from rdkit.Chem import MACCSkeys

        made, _ = fingerprint(SMILES, "maccs")
        theirs = np.array([list(MACCSkeys.GenMACCSKeys(Chem.MolFromSmiles(s))) for s in SMILES])
        assert not theirs[:, 0].any()
        np.testing.assert_array_equal(made, theirs[:, 1:])

    @given(st.permutations(range(len(SMILES))), st.sampled_from(list(KINDS)), st.integers(0, 2**32))
    def test_does_not_depend_on_how_a_structure_is_written(self, order, kind, seed):
        from rdkit import Chem

        texts = [SMILES[k] for k in order]
        written = [
            Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 1, randomSeed=seed % 2**31)[0] for text in texts
        ]
        if kind == "erg":  # sums of real numbers
            np.testing.assert_allclose(fingerprint(written, kind)[0], fingerprint(texts, kind)[0], atol=1e-9)
        elif kind != "secfp":  # takes kekulised rings of SMILES as they come
            np.testing.assert_array_equal(fingerprint(written, kind)[0], fingerprint(texts, kind)[0])

    def test_batches_and_progress(self, monkeypatch):
        whole = fingerprint(SMILES)[0]
        monkeypatch.setattr("panmodal.embeddings.fingerprints.BATCH", 4)
        told = []
        texts = [SMILES[0], "C1CC", *SMILES[1:], "nonsense"]
        made, failures = fingerprint(texts, progress=lambda *a: told.append(a))
        np.testing.assert_array_equal(made, whole)
        assert sorted(failures) == [1, 7]
        assert told == [(4, 8), (8, 8)]

    def test_what_does_not_parse(self, capfd):
        texts = ["CCO", "C1CC", "CC(C)(C)(C)C", "CCO ethanol", "", "CCO |$;;A$|", "[Xx]"]
        made, failures = fingerprint(texts)
        assert len(made) == 2
        assert sorted(failures) == [1, 2, 3, 4, 6]
        assert "'C1CC' does not parse" in failures[1]
        assert "valence" in failures[2]
        assert "white space" in failures[3]
        assert "no atoms" in failures[4]
        assert capfd.readouterr().err == ""
        made, failures = fingerprint(["C1CC"])
        assert made.shape == (0, 2048)
        assert list(failures) == [0]

    def test_salts(self):
        salts = ["CCN.Cl", "CC(=O)[O-].[Na+]", "[Na+].O=C([O-])c1ccccc1Nc1ccccc1", "CCN"]
        parents = ["CCN", "CC(=O)[O-].[Na+]", "O=C(O)c1ccccc1Nc1ccccc1", "CCN"]
        kept, _ = fingerprint(salts)
        stripped, _ = fingerprint(salts, strip_salts=True)
        np.testing.assert_array_equal(stripped[[0, 2, 3]], fingerprint([parents[k] for k in (0, 2, 3)])[0])
        assert (kept[[0, 2]] != stripped[[0, 2]]).any(axis=1).all()
        np.testing.assert_array_equal(kept[3], stripped[3])
        assert structure_key("CCN.Cl") == structure_key("CCN") != structure_key("CCN.Cl", strip_salts=False)
        assert structure_key("C1CC") == ""

    def test_chirality(self):
        pair = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"]
        for kind, about in KINDS.items():
            same, _ = fingerprint(pair, kind)
            assert (same[0] == same[1]).all()
            if about.chirality:
                told, _ = fingerprint(pair, kind, chirality=True)
                assert (told[0] != told[1]).any(), kind

    def test_refusals(self, refuses):
        refuses(["no kind", "'nix'", "ecfp"], fingerprint, SMILES, "nix")
        refuses(["166"], fingerprint, SMILES, "maccs", bits=167)
        refuses(["no radius", "secfp"], fingerprint, SMILES, "avalon", radius=2)
        refuses(["no counts"], fingerprint, SMILES, "maccs", counts=True)
        refuses(["no chirality"], fingerprint, SMILES, "topological", chirality=True)
        refuses(["bits is 2"], fingerprint, SMILES, bits=2)
        refuses(["radius is -1"], fingerprint, SMILES, radius=-1)


class TestBuilders:
    def test_left_out_and_ties(self, tmp_path):
        extra = [
            ("salt of aspirin", "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"), ("L", "C[C@H](N)C(=O)O"), ("D", "C[C@@H](N)C(=O)O"),
            ("bad", "C1CC"), ("none", None),
        ]  # fmt: skip
        built = build_fingerprint(compounds=write(tmp_path / "t.csv", [*DRUGS.items(), *extra]))
        assert list(built.ids) == [*DRUGS, "salt of aspirin", "L", "D"]
        assert built.vectors.dtype == np.float32
        assert set(built.left_out) == {"bad", "none"}
        assert "C1CC" in built.left_out["bad"]
        assert any("1 structure(s) under several ids" in n and "aspirin = salt of aspirin" in n for n in built.notes)
        assert any("different structures" in n and "D ~ L" in n for n in built.notes)
        assert "radius 2" in built.card["description"]
        raw = build_fingerprint(compounds=tmp_path / "t.csv", strip_salts=False, kind="torsion")
        assert any("D ~ L" in n for n in raw.notes)
        assert not any("several ids" in n for n in raw.notes)

    def test_only_wanted(self, table):
        whole = build_fingerprint(compounds=table)
        some = build_fingerprint(compounds=table, ids=["caffeine", "imatinib+aspirin", "absent"])
        assert list(some.ids) == ["aspirin", "caffeine", "imatinib"]
        np.testing.assert_array_equal(some.vectors, whole.vectors[[0, 1, 3]])
        with pytest.raises(InputError, match="none of its 6 compounds"):
            build_fingerprint(compounds=table, ids=["absent"])

    def test_nothing_parses(self, tmp_path, refuses):
        path = write(tmp_path / "t.csv", [("a", "C1CC"), ("b", "XX")])
        for build in (build_fingerprint, build_descriptors):
            refuses(["no SMILES parses", "C1CC"], build, compounds=path)

    def test_descriptors_are_rdkits(self, table):
        from rdkit import Chem
        from rdkit.Chem import Descriptors

        built = build_descriptors(compounds=table)
        gone = set(next(n for n in built.notes if "one value" in n).partition(": ")[2].split(", "))
        names = [n for n, _ in Descriptors.descList if n not in gone]
        assert built.vectors.shape == (len(DRUGS), len(names))
        theirs = [Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(s)) for s in SMILES]
        for row, told in zip(built.vectors, theirs, strict=True):
            told["Ipc"] = np.log1p(told["Ipc"])
            np.testing.assert_allclose(row, [told[n] for n in names], rtol=1e-9)
        assert "fr_azide" in gone

    def test_descriptors_do_not_depend_on_the_writing(self, tmp_path):
        from rdkit import Chem

        rows = list(DRUGS.items())
        for seed in range(3):
            rows += [
                (f"{n} {seed}", Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(s), 1, randomSeed=seed)[0])
                for n, s in DRUGS.items()
            ]
        built = build_descriptors(compounds=write(tmp_path / "t.csv", rows))
        for k in range(1, 4):
            np.testing.assert_array_equal(built.vectors[:6], built.vectors[6 * k : 6 * k + 6])

    def test_undefined_descriptors(self, tmp_path):
        path = write(tmp_path / "t.csv", [*DRUGS.items(), ("cisplatin", "N[Pt](N)(Cl)Cl")])
        dropped = build_descriptors(compounds=path)
        assert np.isfinite(dropped.vectors).all()
        assert "cisplatin" in dropped.ids
        note = next(n for n in dropped.notes if "without a finite value" in n)
        assert "'cisplatin'" in note
        assert "BCUT2D_MWHI" in note
        kept = build_descriptors(compounds=path, undefined="drop-compound")
        assert "cisplatin" not in kept.ids
        assert "BCUT2D_MWHI" in kept.left_out["cisplatin"]
        assert kept.vectors.shape[1] > dropped.vectors.shape[1]


class TestRealData:
    def test_golden_fingerprints(self, shared):
        golden = ad.read_h5ad(shared / "embeddings" / "compound_ecfp2000.h5ad")
        smiles, left_out = read_compounds(shared / "op3_lfc.h5ad")
        assert list(smiles) == list(golden.obs_names)
        assert len(left_out) == 3
        for strip in (False, True):
            made, failures = fingerprint(list(smiles.values()), bits=2000, radius=1, strip_salts=strip)
            assert not failures
            np.testing.assert_array_equal(made, golden.X)

    @pytest.mark.parametrize(
        ("file", "n", "lost"), [("compounds.csv", 678, 0), ("tahoe_drugs.parquet", 377, 2)], ids=["csv", "parquet"]
    )
    def test_tables(self, shared, file, n, lost):
        read = read_compound_table(shared / "knowledge" / file, same=structure_key)
        assert (len(read.smiles), len(read.left_out)) == (n, lost)

    def test_approved_drugs_all_parse(self, shared):
        table = read_compound_table(shared / "embedded" / "chembl_approved_drugs.parquet", id_col="molecule_chembl_id")
        made, failures = fingerprint(list(table.smiles.values()))
        assert made.shape == (2628, 2048)
        assert not failures

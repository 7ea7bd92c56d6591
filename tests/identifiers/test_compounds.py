import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.identifiers import (
    CompoundResolver,
    CompoundTable,
    canonical_smiles,
    compound_table,
    compounds,
    inchikey,
    structures,
)
from panmodal.identifiers.compound_names import in_brackets, plain_name, without_salt

ASPIRIN, ASPIRIN_KEY = "CC(=O)Oc1ccccc1C(=O)O", "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
DRUGS = CompoundTable.embedded()
RESOLVER = CompoundResolver()

TABLE = pd.DataFrame({
    "name": ["Aspirin", "Lapatinib ditosylate", "Doxorubicin", "Epirubicin (hydrochloride)", "(R)-Verapamil", "verapamil", "GSK-J4", "1,2-X9", "12-X9", "AZ-1"],
    "pubchem_cid": [2244.0, 11557040.0, 31703.0, 65348.0, 170014.0, 2520.0, np.nan, np.nan, np.nan, np.nan],
    "smiles": [
        ASPIRIN,
        "CC1=CC=C(C=C1)S(=O)(=O)O.CC1=CC=C(C=C1)S(=O)(=O)O.CS(=O)(=O)CCNCC1=CC=C(O1)C2=CC3=C(C=C2)N=CN=C3NC4=CC(=C(C=C4)OCC5=CC(=CC=C5)F)Cl.O",
        "CC1C(C(CC(O1)OC2CC(CC3=C2C(=C4C(=C3O)C(=O)C5=C(C4=O)C(=CC=C5)OC)O)(C(=O)CO)O)N)O",
        "CC1C(C(CC(O1)OC2CC(CC3=C2C(=C4C(=C3O)C(=O)C5=C(C4=O)C(=CC=C5)OC)O)(C(=O)CO)O)N)O.Cl",
        "CC(C)[C@](CCCN(C)CCC1=CC(=C(C=C1)OC)OC)(C#N)C2=CC(=C(C=C2)OC)OC",
        "CC(C)C(CCCN(C)CCC1=CC(=C(C=C1)OC)OC)(C#N)C2=CC(=C(C=C2)OC)OC",
        None, None, None, None,
    ],
    "synonyms": ["acetylsalicylic acid|ASA", None, None, None, None, None, None, None, None, None],
})  # fmt: skip


@pytest.fixture(scope="module")
def mine():
    pytest.importorskip("rdkit")
    return CompoundResolver(TABLE)


# id, status, name or candidates, part of how, part of the hint
NASTY = [
    ("aspirin", "mapped", "Aspirin", "name", ""),
    ("ACETYLSALICYLIC-ACID", "mapped", "Aspirin", "name", ""),
    ("asa", "mapped", "Aspirin", "name", ""),
    ("2244", "mapped", "Aspirin", "PubChem CID", ""),
    ("2244.0", "mapped", "Aspirin", "PubChem CID", ""),
    ("CID:2244", "mapped", "Aspirin", "PubChem CID", ""),
    ("pubchem:2244", "mapped", "Aspirin", "PubChem CID", ""),
    ("999", "not found", "", "", "999 is not in"),
    (ASPIRIN, "mapped", "Aspirin", "SMILES", ""),
    ("OC(=O)c1ccccc1OC(C)=O", "mapped", "Aspirin", "SMILES", ""),
    ("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", "mapped", "Aspirin", "SMILES", "Stripped: sodium"),
    ("CC(=O)Oc1ccccc1C(=O)O[K]", "mapped", "Aspirin", "SMILES", "Stripped: potassium"),
    (ASPIRIN_KEY, "mapped", "Aspirin", "InChIKey", ""),
    (ASPIRIN_KEY.lower(), "mapped", "Aspirin", "InChIKey", ""),
    ("XXXXXXXXXXXXXX-UHFFFAOYSA-N", "mapped", "", "InChIKey", "Not in"),
    ("lapatinib", "mapped", "Lapatinib ditosylate", "name without salt", "salt or hydrate"),
    ("Lapatinib (tosylate)", "mapped", "Lapatinib ditosylate", "name without salt", "Without tosylate"),
    ("lapatinib phosphate", "ambiguous", ("Lapatinib ditosylate",), "", "may be a salt or a part"),
    ("Foo-1 (lapatinib)", "mapped", "Lapatinib ditosylate", "one of two names", "Read as Foo-1 and lapatinib"),
    ("verapamil", "mapped", "verapamil", "name", ""),
    ("(R)-verapamil", "mapped", "(R)-Verapamil", "name", ""),
    ("(S)-verapamil", "not found", "", "", ""),
    ("doxorubicin HCl", "mapped", "Doxorubicin", "name without salt", ""),
    ("epirubicin", "mapped", "Epirubicin (hydrochloride)", "name without salt", ""),
    ("gsk j4", "mapped", "GSK-J4", "name", ""),
    ("1 2 X9", "mapped", "1,2-X9", "name", ""),
    ("12X9", "mapped", "12-X9", "name", ""),
    ("FCCP", "not found", "", "", ""),  # letters of a SMILES, but a name
    ("C1=CC=", "not found", "", "", "no valid SMILES"),
    ("DMSO", "control", "", "control", ""),
    ("DMSO_1", "control", "", "control", ""),
    ("nan", "not found", "", "", "missing value"),
]  # fmt: skip


@pytest.mark.parametrize(("given_id", "status", "means", "how", "hint"), NASTY, ids=[row[0] for row in NASTY])
def test_nasty_ids(mine, given_id, status, means, how, hint):
    row = mine.resolve([given_id]).rows[0]
    assert row.status == status, row
    assert (row.label if status == "mapped" else row.candidates) == (means or (() if status != "mapped" else ""))
    assert how in row.how
    assert hint in row.hint


def test_stereo_is_never_guessed(mine):
    table = mine.table
    keys = dict(zip(TABLE["name"], table.keys, strict=True))
    assert (
        keys["Doxorubicin"] != keys["Epirubicin (hydrochloride)"]
    )  # one structure without stereo, two names, two CIDs
    flat = mine.resolve([TABLE["smiles"][2]]).rows[0]
    assert flat.status == "mapped" and "Doxorubicin, Epirubicin" in flat.hint
    assert keys["(R)-Verapamil"] != keys["verapamil"]
    loose = CompoundResolver(table, stereo=False).resolve(["(R)-verapamil", "verapamil", TABLE["smiles"][5]])
    assert set(loose.keys.values()) == {"SGTNSNPWRIOYBX"}
    assert loose.duplicates() == {"(R)-Verapamil": ("(R)-verapamil", "verapamil", TABLE["smiles"][5])}


def test_same_structure_or_same_name_joins_rows():
    pytest.importorskip("rdkit")
    table = CompoundTable(pd.DataFrame({"name": ["X", "Y", "Z", "Z", "W"], "smiles": ["CCO", "OCC", "CCCl", "CCBr", None], "pubchem_cid": [1, 1, 2, 3, 1]}))  # fmt: skip
    assert table.keys[0] == table.keys[1] == table.keys[4]  # the row without a structure has the CID of those
    assert CompoundResolver(table).resolve(["z", "1"]).frame()["status"].tolist() == ["ambiguous", "mapped"]


def test_canonical_smiles(refuses):
    pytest.importorskip("rdkit")
    assert canonical_smiles("C(C)O") == "CCO"
    assert canonical_smiles("OC[C@H](N)C(=O)O.Cl") == "N[C@@H](CO)C(=O)O"
    assert canonical_smiles("CC[NH3+].[Cl-]") == "CCN"
    assert canonical_smiles("CC[NH3+].[Cl-]", strip_salts=False) == "CC[NH3+].[Cl-]"
    assert (
        canonical_smiles("CN(C)C(=N)N=C(N)N.O=C(O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O") == "CN(C)C(=N)N=C(N)N"
    )
    assert canonical_smiles("CC(=O)[O-].[Na+].O") == "CC(=O)O"
    for whole in ("[Cl-].[Na+]", "[Li+].[Li+].O=C([O-])[O-]", "N.N.Cl[Pt]Cl", "C1CNCCN1.O=C(O)CC(O)(CC(=O)O)C(=O)O"):
        assert structures.structure(whole).mixture
        assert canonical_smiles(whole).count(".") == whole.count(".")
    two = structures.structure("CN(C)CCOC(c1ccccc1)c1ccccc1.Cn1c(=O)c2[nH]c(Cl)nc2n(C)c1=O.Cl")
    assert two.mixture and two.stripped == ("chloride",)
    assert inchikey(ASPIRIN) == ASPIRIN_KEY
    assert inchikey(ASPIRIN, stereo=False) == ASPIRIN_KEY[:14]
    for bad in ("", "  ", "no smiles", "C1CC", None, 5):
        refuses(("SMILES",), canonical_smiles, bad)


@given(
    st.sampled_from(range(0, 2628, 3)),
    st.sampled_from(["Cl", "[Na+].[OH-]", "O", "CS(=O)(=O)O", "OC(=O)/C=C/C(=O)O", "OS(=O)(=O)O"]),
)
def test_structures_of_drugs(row, salt):
    pytest.importorskip("rdkit")
    smiles, key = SMILES["smiles"].iloc[row], DRUGS.keys[row]
    found = structures.structure(smiles)
    assert found.inchikey == key  # as shipped
    assert canonical_smiles(found.smiles) == found.smiles  # idempotent
    assert inchikey(found.smiles) == key
    large = found.smiles.count("C") + found.smiles.count("c") > 10
    if not found.mixture and large:  # salts do not matter
        assert structures.structure(f"{smiles}.{salt}").inchikey == key
        assert structures.structure(f"{salt}.{smiles}").smiles == found.smiles


SMILES = pd.read_parquet(compound_table.files("panmodal.data").joinpath("chembl_approved_drugs.parquet"))


@given(st.lists(st.one_of(st.sampled_from([r[0] for r in NASTY]), st.sampled_from(list(SMILES["pref_name"].dropna())), st.text(min_size=1))), st.randoms())  # fmt: skip
def test_order_and_company_do_not_matter(ids, random):
    ids = [i for i in ids if i.strip()]
    there = RESOLVER.resolve(ids)
    assert len(there.frame()) == len(ids)
    shuffled = list(ids)
    random.shuffle(shuffled)
    again = RESOLVER.resolve(shuffled)
    assert all(again[i.strip()] == there[i.strip()] == RESOLVER.resolve([i]).rows[0] for i in ids)


def test_shipped_drugs():
    names = SMILES["pref_name"].dropna()
    found = RESOLVER.resolve(names)
    assert set(found.frame()["status"]) <= {"mapped", "ambiguous"}
    assert len(found.keys) > 0.97 * names.nunique()
    assert RESOLVER.resolve(["CHEMBL2", "imatinib", "Imatinib Mesylate"]).labels == {"CHEMBL2": "PRAZOSIN", "imatinib": "IMATINIB", "Imatinib Mesylate": "IMATINIB"}  # fmt: skip


@given(st.text())
def test_names_settle(name):
    assert plain_name(plain_name(name)) == plain_name(name)
    rest, gone = without_salt(name)
    assert (rest == name) == (not gone)
    assert in_brackets(name) == () or len(in_brackets(name)) == 2


def test_names_keep_what_matters():
    different = ["(+)-JQ1", "(-)-JQ1", "JQ1", "(±)-JQ1", "1,2-X", "12-X", "3'-X", "3-X", "(R)-X", "(S)-X", "α-X", "β-X"]
    assert len({plain_name(n) for n in different}) == len(different)
    assert plain_name("β-estradiol") == plain_name("Beta Estradiol")
    assert without_salt("chloral hydrate") == ("chloral hydrate", ())
    assert without_salt("X-12 hydrochloride (hydrate)") == ("X-12", ("hydrochloride", "hydrate"))
    assert in_brackets("Verapamil (R,S)") == in_brackets("X (E)") == in_brackets("Foo (sodium salt)") == ()


def test_without_rdkit(monkeypatch, refuses):
    for module in (structures, compounds, compound_table):
        monkeypatch.setattr(module, "has_rdkit", lambda: False)
    refuses(("needs RDKit", "pip install 'panmodal[chem]'"), canonical_smiles, "CCO")
    row = RESOLVER.resolve([ASPIRIN]).rows[0]
    assert row.status == "not found" and "panmodal[chem]" in row.hint
    table = CompoundTable(TABLE)
    assert table.keys[0] == "CID:2244" and len(table.problems) == 6
    found = CompoundResolver(table).resolve(["lapatinib", "2244", "doxorubicin hydrochloride", "GSKJ4"])
    assert found.keys == {"lapatinib": "CID:11557040", "2244": "CID:2244", "doxorubicin hydrochloride": "CID:31703", "GSKJ4": "name:gskj4"}  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"dose": [1]}, ("no column of compounds", "inchikey")),
        ({"pubchem_cid": ["x1"]}, ("'x1' in row 1",)),
        ({"name": ["a", "b"], "inchikey": [ASPIRIN_KEY, "AAA"]}, ("'AAA' in row 2",)),
    ],
)
def test_bad_tables(frame, says, refuses):
    refuses(says, CompoundTable, pd.DataFrame(frame), "drugs.csv")


def test_kinds_and_errors(refuses, tmp_path):
    refuses(("no kind", "SMILES"), RESOLVER.resolve, ["x"], kind="cas")
    refuses(("give a list",), RESOLVER.resolve, "x")
    refuses(("the id is empty in row",), RESOLVER.resolve, ["x", np.nan])
    refuses(("no such file",), lambda: CompoundResolver(tmp_path / "none.csv").table)
    assert RESOLVER.resolve(["BAD-KEY"], kind="InChIKey").rows[0].hint.startswith("Not an InChIKey")
    assert RESOLVER.resolve(["x"], kind="PubChem CID").rows[0].hint.startswith("Not a PubChem CID")
    assert "said to be a name" in RESOLVER.resolve([ASPIRIN], kind="name").rows[0].hint
    path = tmp_path / "drugs.csv"
    TABLE.to_csv(path, index=False)
    assert CompoundResolver(path).resolve(["gskj4"]).labels == {"gskj4": "GSK-J4"}
    pytest.importorskip("rdkit")
    assert RESOLVER.resolve(["CCO"], kind="SMILES").rows[0].status == "mapped"
    bad = CompoundTable(pd.DataFrame({"name": ["a"], "smiles": ["C1CC"]}))
    assert "C1CC" in bad.problems and bad.keys == ["name:a"]


def test_real_compounds(shared):
    pytest.importorskip("rdkit")
    ad = pytest.importorskip("anndata")
    resolver = CompoundResolver(shared / "knowledge" / "compounds.csv")
    assert not resolver.table.problems
    obs = ad.read_h5ad(shared / "op3_lfc.h5ad", backed="r").obs.astype(str).drop_duplicates("pert_id")
    for column, least in (("pert_id", 139), ("pubchem_cid", 138), ("smiles", 138)):
        ids = obs[column][obs[column].str.strip() != ""]
        assert len(resolver.resolve(ids).frame().query("status == 'mapped'")) >= least
    known = obs[(obs["smiles"].str.strip() != "") & (obs["pubchem_cid"] != "nan")]
    by_cid, by_smiles = resolver.resolve(known["pubchem_cid"]), resolver.resolve(known["smiles"])
    agree = [a.key.split("/")[0] == b.key for a, b in zip(by_cid, by_smiles, strict=True) if a.key and b.key]
    assert len(agree) >= 138 and np.mean(agree) > 0.98

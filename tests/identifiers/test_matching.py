import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.identifiers import CompoundResolver, GeneTable, match_ids

GENES = GeneTable.embedded().genes
CODING = GENES[(GENES["name"] != "") & (GENES["ensembl_id"] != "") & (GENES["symbol"] != "CTRL")]
PREVIOUS = GeneTable.embedded().by_symbol[1]


def test_genes():
    wanted = ["MARCH1", "TP53", "KRAS", "1-Mar", "Trp53", "ctrl", "FOOBAR", "WARS"]
    match = match_ids(wanted, ["KRAS", "MARCHF1", "ENSG00000141510.3", "BRAF"])
    assert match.kind == "genes"
    assert match.pairs == {"MARCH1": "MARCHF1", "TP53": "ENSG00000141510.3", "KRAS": "KRAS"}
    assert match.exact == ("KRAS",)
    assert match.resolved == {
        "MARCH1": ("MARCHF1", "previous symbol"),
        "TP53": ("ENSG00000141510.3", "Ensembl gene id"),
    }
    assert match.ambiguous == {"1-Mar": ("MARCHF1", "MTARC1")}
    assert match.missing == ("Trp53", "FOOBAR", "WARS")
    frame = match.frame().set_index("wanted")
    assert frame.index.tolist() == wanted
    assert frame["status"].to_dict() == {
        "MARCH1": "matched", "TP53": "matched", "KRAS": "same", "1-Mar": "ambiguous", "Trp53": "refused", "ctrl": "control",
        "FOOBAR": "not found", "WARS": "not found",
    }  # fmt: skip
    assert frame.loc["WARS", "hint"] == "WARS1 is not available."
    assert str(match) == (
        "8 ids: 1 the same, 2 matched by identifier (MARCH1 = MARCHF1 (previous symbol), TP53 = ENSG00000141510.3 (Ensembl gene id)), "
        "1 ambiguous (1-Mar: MARCHF1 or MTARC1), 2 not found (FOOBAR, WARS), 1 refused (Trp53: Looks like a mouse or rat symbol. "
        "Map to human orthologues first), 1 control"
    )


def test_available_ids_are_never_changed():
    """An old symbol that is available as it is stays, though its gene has another row."""
    match = match_ids(["MARCH1", "DEC1", "TP53"], ["MARCH1", "MARCHF1", "DEC1", "TP53"])
    assert match.pairs == {"MARCH1": "MARCH1", "DEC1": "DEC1", "TP53": "TP53"}
    assert match.kind == "exact"  # nothing was left for a resolver


def test_several_available():
    match = match_ids(["HGNC:26077", "7157"], ["MARCH1", "MARCHF1", "P04637", "ENSG00000141510"])
    assert match.resolved["HGNC:26077"] == ("MARCHF1", "HGNC id")  # a current symbol is surer than a previous one
    assert match.ambiguous == {"7157": ("ENSG00000141510", "P04637")}
    assert match.duplicates == {"HGNC:26077": ("MARCHF1", "MARCH1"), "7157": ("ENSG00000141510", "P04637")}
    either = match_ids(["7157", "672"], ["P04637", "ENSG00000141510"], identical=lambda a, b: True)
    assert either.pairs == {"7157": "ENSG00000141510"}
    assert "more than once (7157: ENSG00000141510, P04637)" in either.summary()


def test_several_wanted_share():
    match = match_ids(["MARCH1", "MARCHF1", "55016"], ["MARCHF1", "TP53"])
    assert match.pairs == {"MARCH1": "MARCHF1", "MARCHF1": "MARCHF1", "55016": "MARCHF1"}
    assert match.duplicates == {"MARCHF1": ("MARCH1", "MARCHF1", "55016")}


def test_combinations():
    wanted = ["TP53+KRAS", "MARCH1+SEPT2", "MARCH3+BRAF", "BRAF+NOPE", "AARS+ctrl", "BRAF"]
    match = match_ids(wanted, ["KRAS+TP53", "MARCHF1+SEPTIN2", "MARCHF3", "BRAF", "AARS1"])
    assert match.pairs == {
        "TP53+KRAS": "KRAS+TP53", "MARCH1+SEPT2": "MARCHF1+SEPTIN2", "AARS+ctrl": "AARS1", "BRAF": "BRAF", "MARCH3": "MARCHF3",
    }  # fmt: skip
    assert match.composed == {"MARCH3+BRAF": ("BRAF", "MARCHF3")}
    assert match.missing == ("BRAF+NOPE", "NOPE")
    frame = match.frame()
    assert frame.loc[frame["part"], "wanted"].tolist() == ["MARCH3", "NOPE"]
    assert frame["wanted"].tolist()[:6] == wanted
    assert "NOPE neither" in frame.set_index("wanted").loc["BRAF+NOPE", "hint"]
    assert "parts of combinations: 1 of 2 found, 1 by identifier (MARCH3 = MARCHF3 (previous symbol))" in str(match)


def test_kinds(refuses):
    assert match_ids(["MARCH1"], ["MARCHF1"], kind="exact").missing == ("MARCH1",)
    assert match_ids(["MARCH1"], ["MARCHF1"], kind="genes").exact == ()
    assert match_ids(["A", "B"], ["C"]).kind in ("genes", "compounds", "exact")
    assert match_ids(["P001", "P002"], ["P003", "P002"]).kind == "exact"
    assert match_ids(["imatinib mesylate", "gefitinib"], ["Gefitinib", "IMATINIB"]).kind == "compounds"
    assert match_ids([], ["TP53"]).summary() == "0 ids"
    assert match_ids(["TP53"], []).missing == ("TP53",)
    refuses(("no kind", "auto"), match_ids, ["A"], ["B"], kind="drugs")
    refuses(("'A' appear(s) more than once", "available ids"), match_ids, ["A"], ["A", "A"])
    refuses(("wanted ids: the id is empty",), match_ids, ["A", ""], ["A"])
    refuses(("available ids: the id is empty",), match_ids, ["A"], ["A", None])


def test_controls():
    match = match_ids(["ctrl", "non-targeting_001", "MARCH1"], ["MARCHF1"])
    assert [r.status for r in match.rows] == ["control", "control", "matched"]
    assert match_ids(["NT3"], ["SORT1", "TP53"], kind="genes").pairs == {
        "NT3": "SORT1"
    }  # an alias that looks like a control
    assert match_ids(["ctrl"], ["ctrl"]).exact == ("ctrl",)


def test_compounds_by_name():
    match = match_ids(
        ["Lapatinib (ditosylate)", "GSK-J4", "Foo-12 hydrochloride", "(S)-Bar", "DMSO", "bar"],
        ["lapatinib", "gsk j4", "foo 12", "(R)-Bar", "Bar hydrate", "Bar HCl"], kind="compounds",
    )  # fmt: skip
    assert match.pairs == {"Lapatinib (ditosylate)": "lapatinib", "GSK-J4": "gsk j4", "Foo-12 hydrochloride": "foo 12"}
    assert match.resolved["Foo-12 hydrochloride"] == ("foo 12", "name without salt")
    assert match.ambiguous == {"bar": ("Bar HCl", "Bar hydrate")}
    assert match.missing == ("(S)-Bar",)


def test_compounds_by_structure():
    pytest.importorskip("rdkit")
    table = pd.DataFrame({
        "name": ["R-verapamil", "verapamil", "aspirin", "Crizotinib", "Crizotinib (hydrochloride)"], "pubchem_cid": [170014, 2520, 2244, 1, 2],
        "smiles": ["CC(C)[C@](CCCN(C)CCC1=CC(=C(C=C1)OC)OC)(C#N)C2=CC(=C(C=C2)OC)OC",
                   "CC(C)C(CCCN(C)CCC1=CC(=C(C=C1)OC)OC)(C#N)C2=CC(=C(C=C2)OC)OC", "CC(=O)Oc1ccccc1C(=O)O", "CCCNCC", "CCCNCC.Cl"],
    })  # fmt: skip
    resolver = CompoundResolver(table)
    match = match_ids(["R-verapamil", "2244", "crizotinib"], ["2520.0", "OC(=O)c1ccccc1OC(C)=O", "Crizotinib", "Crizotinib (hydrochloride)"],
                      compounds=resolver)  # fmt: skip
    assert match.kind == "compounds"
    assert match.pairs == {"2244": "OC(=O)c1ccccc1OC(C)=O", "crizotinib": "Crizotinib"}
    assert "Stereo differs or is not given: 2520.0" in match.rows[0].hint
    loose = match_ids(["R-verapamil"], ["2520"], kind="compounds", compounds=CompoundResolver(table, stereo=False))
    assert loose.pairs == {"R-verapamil": "2520"}


@given(st.lists(st.sampled_from(range(len(CODING))), min_size=1, max_size=20, unique=True), st.data())
def test_any_identifiers_of_the_same_genes_match(rows, data):
    genes = CODING.iloc[rows]
    columns = ["symbol", "ensembl_id", "entrez", "hgnc_id"]
    pick = st.lists(st.sampled_from(columns), min_size=len(rows), max_size=len(rows))
    wanted, there = ([genes.iloc[k][c] for k, c in enumerate(data.draw(pick))] for _ in range(2))
    order = data.draw(st.permutations(range(len(rows))))
    match = match_ids(wanted, [there[k] for k in order], kind="genes")
    assert match.pairs == dict(zip(wanted, there, strict=True))
    assert not match.duplicates


@given(
    st.lists(st.text(min_size=1).filter(str.strip)),
    st.lists(st.text(min_size=1).filter(str.strip), unique_by=str.strip),
)
def test_nothing_is_lost(wanted, available):
    for kind in ("auto", "genes", "compounds", "exact"):
        match = match_ids(wanted, available, kind=kind)
        asked = list(dict.fromkeys(w.strip() for w in wanted))
        frame = match.frame()
        assert frame.loc[~frame["part"], "wanted"].tolist() == asked
        assert set(match.pairs.values()) <= {a.strip() for a in available}
        assert all(match.pairs[w] == w for w in asked if w in {a.strip() for a in available})
        assert match.summary()


def test_real_embeddings(shared):
    ad = pytest.importorskip("anndata")
    wanted = ad.read_h5ad(shared / "replogle2022_uprank.h5ad", backed="r").obs["pert_id"].astype(str)
    for path in sorted((shared / "embeddings").glob("[!c]*.h5ad")):
        available = list(ad.read_h5ad(path, backed="r").obs_names)
        match = match_ids(wanted, available)
        assert len(match.exact) == len(set(wanted) & set(available))
        assert len(match.frame()) == wanted.nunique() == 585
        assert not match.ambiguous
    current = GENES["ensembl_id"][GENES["ensembl_id"] != ""]
    assert len(match_ids(wanted, list(current)).resolved) == 585


def test_it_is_quick():
    genes = CODING.iloc[:19_000]
    match_ids(genes["symbol"][:10], list(genes["ensembl_id"][:10]), kind="genes")  # loads the table
    start = time.perf_counter()
    match = match_ids(genes["symbol"], list(genes["ensembl_id"].sample(frac=1, random_state=0)))
    assert time.perf_counter() - start < 10  # about 1 s on a free machine
    assert len(match.resolved) == len(genes) and np.unique(list(match.pairs.values())).size == len(genes)


def test_nothing_heavy_is_imported():
    code = "import sys, panmodal.identifiers as i; i.match_ids(['TP53'], ['TP53']); print([m for m in ('rdkit', 'torch') if m in sys.modules], i.matching.default_genes.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 0"

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.identifiers import GeneResolver, GeneTable
from panmodal.identifiers.dates import symbols_behind

RESOLVER = GeneResolver()
GENES = GeneTable.embedded().genes
CODING = GENES[GENES["name"] != ""]
SYMBOLS = [s for s in CODING["symbol"] if s != "CTRL"]

# id, status, symbol or candidates, part of how, part of the hint
NASTY = [
    ("TP53", "mapped", "TP53", "symbol", ""),
    (" TP53 ", "mapped", "TP53", "symbol", ""),
    ("MARCH1", "mapped", "MARCHF1", "previous symbol", ""),
    ("MARCHF1", "mapped", "MARCHF1", "symbol", ""),
    ("SEPT2", "mapped", "SEPTIN2", "previous symbol", "Also alias of SEPTIN6"),
    ("SEP15", "mapped", "SELENOF", "alias", ""),
    ("DEC1", "mapped", "DELEC1", "previous symbol", "Also alias of BHLHE40"),
    ("AARS", "mapped", "AARS1", "previous symbol", ""),
    ("QARS", "mapped", "QARS1", "previous symbol", "Earlier also of EPRS1"),
    ("FCGR3", "ambiguous", ("FCGR3A", "FCGR3B"), "previous symbol", "write which one"),
    ("OCT1", "ambiguous", ("POU2F1", "SLC22A1"), "alias", "write which one"),
    ("CAD", "mapped", "CAD", "symbol", "Also alias of"),
    ("1-Mar", "ambiguous", ("MARCHF1", "MTARC1"), "behind a date", "restore the symbols"),
    ("Mar-02", "ambiguous", ("MARCHF2", "MTARC2"), "behind a date", "MARCH2 or MARC2"),
    ("3-Mar", "mapped", "MARCHF3", "behind a date", "MARCH3"),
    ("Sep-02", "mapped", "SEPTIN2", "previous symbol behind a date", "SEPT2"),
    ("2-Sep", "mapped", "SEPTIN2", "previous symbol behind a date", "SEPT2"),
    ("09/02/2019", "mapped", "SEPTIN2", "behind a date", ""),
    ("09/03/2019", "ambiguous", ("MARCHF9", "SEPTIN3"), "behind a date", ""),
    ("2001-03-01", "ambiguous", ("MARCHF1", "MTARC1"), "behind a date", ""),
    ("2005-03-01", "ambiguous", ("MARCHF1", "MTARC1", "MARCHF5"), "behind a date", ""),
    ("2019-03-05 00:00:00", "mapped", "MARCHF5", "behind a date", ""),
    ("1-Dec", "mapped", "DELEC1", "behind a date", ""),
    ("Dec-01", "mapped", "DELEC1", "behind a date", ""),
    ("30-Jul", "not found", "", "", "A date"),
    ("ENSG00000141510.17", "mapped", "TP53", "Ensembl gene id", "Version 17 ignored"),
    ("ENSG00000182378.15_PAR_Y", "mapped", "PLCXD1", "Ensembl gene id", ""),
    ("ENSGR0000182378.5", "mapped", "PLCXD1", "Ensembl gene id", ""),
    ("ensembl:ENSG00000141510", "mapped", "TP53", "Ensembl gene id", ""),
    ("ENSG00000999999", "not found", "", "", "No gene of"),
    ("ENSMUSG00000059552", "refused", "", "", "mouse"),
    ("ENST00000269305.9", "not found", "", "", "not of a gene"),
    ("7157", "mapped", "TP53", "Entrez", ""),
    ("7157.0", "mapped", "TP53", "Entrez", ""),
    ("entrez:7157", "mapped", "TP53", "Entrez", ""),
    ("LOC7157", "mapped", "TP53", "Entrez", ""),
    ("TP53 (7157)", "mapped", "TP53", "Entrez", ""),
    ("TP53 (672)", "ambiguous", ("BRCA1", "TP53"), "Entrez", "write which one"),
    ("TP53 (99999999)", "not found", "", "", "Entrez id 99999999"),
    ("P04637", "mapped", "TP53", "UniProt", ""),
    ("P04637-2", "mapped", "TP53", "UniProt", "Isoform 2 ignored"),
    ("P2RY11", "mapped", "P2RY11", "symbol", ""),  # spelt like a UniProt accession
    ("HGNC:5", "mapped", "A1BG", "HGNC id", ""),
    ("HGNC:6", "mapped", "UBA1", "HGNC id", ""),  # withdrawn, merged into another
    ("U2AF1L5", "not found", "", "", "withdrawn"),
    ("Trp53", "refused", "", "", "orthologues"),
    ("Actb", "refused", ("ACTB",), "", "mouse"),
    ("Gapdh", "refused", ("GAPDH",), "", "write GAPDH"),
    ("Tpp1", "refused", ("TPP1", "ACD"), "", "mouse"),  # an alias of ACD, but also how mouse data write TPP1
    ("tp53", "refused", ("TP53",), "", "small letters"),
    ("1700001C02Rik", "refused", "", "", "mouse"),
    ("Gm12345", "refused", "", "", "mouse"),
    ("C1orf112", "mapped", "FIRRM", "previous symbol", ""),
    ("C1ORF112", "mapped", "FIRRM", "letter case", "Letter case differs"),
    ("c1orf112", "refused", ("FIRRM",), "", "small letters"),
    ("C9orf72", "mapped", "C9orf72", "symbol", ""),
    ("HLA-A", "mapped", "HLA-A", "symbol", ""),
    ("HLA.A", "mapped", "HLA-A", "dots for hyphens", "R writes"),
    ("HLA–A", "mapped", "HLA-A", "symbol", "Read as 'HLA-A'"),
    ("MALAT1", "mapped", "MALAT1", "symbol", ""),
    ("TP53-1", "not found", "", "", "made unique"),
    ("ctrl", "control", "", "control", ""),
    ("non-targeting_0012", "control", "", "control", ""),
    ("CTRL", "control", "", "control", "kind='symbol'"),
    ("TP53+KRAS", "not found", "", "", "resolve its parts KRAS and TP53"),
    ("225", "mapped", "ABCD2", "Entrez", ""),  # also an alias of EGR1
    ("nan", "not found", "", "", "missing value"),
    ("NA", "not found", "", "", "missing value"),  # also a previous symbol of XK
    ("FOOBAR", "not found", "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("given_id", "status", "means", "how", "hint"), NASTY, ids=[row[0] for row in NASTY])
def test_nasty_ids(given_id, status, means, how, hint):
    row = RESOLVER.resolve([given_id]).rows[0]
    assert row.status == status, row
    assert (row.label if status == "mapped" else row.candidates) == (means or ())
    assert how in row.how
    assert hint in row.hint
    assert bool(row.key) == (status == "mapped")


def test_families_of_renames():
    old = {f"MARCH{k}": f"MARCHF{k}" for k in range(1, 12)}
    old |= {f"SEPT{k}": f"SEPTIN{k}" for k in (*range(1, 13), 14)}
    old |= {
        "MARC1": "MTARC1",
        "MARC2": "MTARC2",
        "HIST1H1C": "H1-2",
        "HIST1H4A": "H4C1",
        "PHB": "PHB1",
        "WDR61": "SKIC8",
    }
    old |= {f"{a}ARS": f"{a}ARS1" for a in "CDEGHIKLMNRSTVWYQ" if a not in "KCDE"} | {
        "EPRS": "EPRS1",
        "CARS": "CARS1",
        "KARS": "KARS1",
    }
    assert RESOLVER.resolve(old).labels == old


def test_frame_has_every_id_once_per_row():
    ids = ["TP53", "TP53", "FOOBAR", "1-Mar", "ctrl", "Trp53", 7157, 672.0]
    resolution = RESOLVER.resolve(ids)
    frame = resolution.frame()
    assert frame["id"].tolist() == ["TP53", "TP53", "FOOBAR", "1-Mar", "ctrl", "Trp53", "7157", "672"]
    assert frame["status"].tolist() == [
        "mapped",
        "mapped",
        "not found",
        "ambiguous",
        "control",
        "refused",
        "mapped",
        "mapped",
    ]
    assert frame.columns.tolist() == ["id", "status", "key", "symbol", "how", "kind", "candidates", "hint"]
    assert frame.loc[3, "candidates"] == "MARCHF1 | MTARC1"
    assert resolution.duplicates() == {"TP53": ("TP53", "7157")}
    assert resolution["1-Mar"].status == "ambiguous"
    assert len(RESOLVER.resolve([])) == 0
    assert RESOLVER.resolve([]).summary() == "0 gene ids"


def test_summary_and_require(refuses):
    resolution = RESOLVER.resolve(["TP53", "7157", "MARCH1", "1-Mar", "FOOBAR", "Actb", "ctrl"])
    text = str(resolution)
    assert text.startswith("7 gene ids: 3 mapped (1 by symbol, 1 by Entrez gene id, 1 by previous symbol), 1 ambiguous")
    for part in (
        "'1-Mar' (MARCHF1 or MTARC1)",
        "not found: 'FOOBAR'",
        "refused: 'Actb'",
        "controls: 'ctrl'",
        "TP53 = TP53, 7157",
    ):
        assert part in text
    refuses(("3 of 7", "1-Mar", "FOOBAR", "Actb", "Correct them"), resolution.require)
    assert RESOLVER.resolve(["TP53", "ctrl"]).require() == {"TP53": "HGNC:11998"}
    assert RESOLVER.symbol("MARCH3") == "MARCHF3"
    refuses(("FOOBAR",), RESOLVER.symbol, "FOOBAR")
    refuses(("among the 7 ids",), resolution.__getitem__, "KRAS")
    refuses(("no status", "mapped"), resolution.with_status, "lost")


@pytest.mark.parametrize("bad", [[""], ["TP53", None], [np.nan], ["  "], [pd.NA]])
def test_empty_ids_are_refused(bad, refuses):
    refuses(("the id is empty in row",), RESOLVER.resolve, bad)


def test_kinds(refuses):
    assert RESOLVER.resolve(["CTRL"], kind="symbol").labels == {"CTRL": "CTRL"}
    assert RESOLVER.resolve(["7157"], kind="symbol").rows[0].status == "not found"
    assert RESOLVER.resolve(["5"], kind="HGNC").labels == {"5": "A1BG"}
    assert RESOLVER.resolve(["ENSG00000141510.1"], kind="Ensembl").labels == {"ENSG00000141510.1": "TP53"}
    assert RESOLVER.resolve(["ENSMUSG00000059552"], kind="Ensembl").rows[0].status == "refused"
    assert RESOLVER.resolve(["P04637-3"], kind="UniProt").labels == {"P04637-3": "TP53"}
    refuses(("no kind", "Entrez"), RESOLVER.resolve, ["5"], kind="RefSeq")
    refuses(("give a list",), RESOLVER.resolve, "TP53")


@given(st.lists(st.sampled_from(range(len(CODING))), max_size=30))
def test_round_trips(rows):
    genes = CODING.iloc[[r for r in rows if CODING["symbol"].iloc[r] != "CTRL"]]
    keys = dict(zip(genes["symbol"], genes["hgnc_id"], strict=True))
    assert RESOLVER.resolve(genes["symbol"]).keys == keys
    with_ensembl = genes[genes["ensembl_id"] != ""]
    for ids in (
        with_ensembl["ensembl_id"],
        with_ensembl["ensembl_id"] + ".3",
        with_ensembl["hgnc_id"],
        with_ensembl["entrez"],
    ):
        assert [r.label for r in RESOLVER.resolve(ids)] == with_ensembl["symbol"].tolist()
    single = genes[genes["uniprot_id"].str.fullmatch(r"\w+")]
    for row, symbol in zip(RESOLVER.resolve(single["uniprot_id"]), single["symbol"], strict=True):
        assert symbol in row.candidates
        assert row.status == "mapped" or len(row.candidates) > 1


@given(
    st.lists(st.one_of(st.sampled_from(SYMBOLS), st.sampled_from([r[0] for r in NASTY]), st.text(min_size=1))),
    st.randoms(),
)
def test_order_and_company_do_not_matter(ids, random):
    ids = [i for i in ids if i.strip()]
    there = RESOLVER.resolve(ids)
    assert len(there.frame()) == len(ids)
    shuffled = list(ids)
    random.shuffle(shuffled)
    again = RESOLVER.resolve(shuffled)
    assert all(again[i.strip()] == there[i.strip()] for i in ids)
    assert all(RESOLVER.resolve([i]).rows[0] == there[i.strip()] for i in ids)
    there.summary()


@given(
    st.sampled_from([f"{w}{n}" for w in ("MARCH", "SEPT") for n in range(1, 13)]),
    st.sampled_from(["d-b", "b-d", "iso", "year"]),
)
def test_symbols_are_among_those_behind_their_dates(symbol, form):
    month, word, number = (3, "Mar", int(symbol[5:])) if symbol.startswith("M") else (9, "Sep", int(symbol[4:]))
    text = {"d-b": f"{number}-{word}", "b-d": f"{word}-{number:02d}", "iso": f"2021-{month:02d}-{number:02d}",
            "year": f"20{number:02d}-{month:02d}-01"}[form]  # fmt: skip
    assert symbol in symbols_behind(text)


@pytest.mark.parametrize(
    "text", ["", "TP53", "32-Mar", "0-Mar", "1-Foo", "2019-13-01", "1-1", "March", "MARCH1", "Mar1", "12.5"]
)
def test_no_dates(text):
    assert symbols_behind(text) == ()


COMPLETE = (
    "hgnc_id\tsymbol\tname\tlocus_type\tstatus\talias_symbol\tprev_symbol\tentrez_id\tensembl_gene_id\tuniprot_ids\n"
    "HGNC:1\tAAA1\tgene a\tgene with protein product\tApproved\t\"AA|a-1\"\tOLD1\t11\tENSG00000000011\tP11111|P11112\n"
    "HGNC:2\tBBB2\tgene b\tRNA, long non-coding\tApproved\tAA\t\"OLD2|AAA1\"\t12.0\t\t\n"
    "HGNC:3\tCCC3\tsymbol withdrawn, see [HGNC:2](x)\tunknown\tSymbol Withdrawn\t\t\t\t\t\n"
    "HGNC:4\tDDD4\tgene d\tunknown\tEntry Withdrawn\t\t\t\t\t\n"
)  # fmt: skip


@pytest.mark.parametrize("name", ["hgnc_complete_set.txt", "hgnc.tsv.gz"])
def test_complete_set(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(COMPLETE.encode()) if name.endswith("gz") else COMPLETE.encode())
    ids = ["AAA1", "AA", "a-1", "OLD2", "CCC3", "DDD4", "HGNC:3", "P11112", "11", "12", "ENSG00000000011.4", "TP53"]
    found = GeneResolver(path).resolve(ids)
    assert [r.label for r in found] == [
        "AAA1",
        "",
        "AAA1",
        "BBB2",
        "BBB2",
        "",
        "BBB2",
        "AAA1",
        "AAA1",
        "BBB2",
        "AAA1",
        "",
    ]
    assert found["AA"].candidates == ("AAA1", "BBB2")
    assert "previous symbol of BBB2" in found["AAA1"].hint
    assert "withdrawn" in found["DDD4"].hint
    assert GeneTable.read(path).genes["locus"].tolist() == ["gene with protein product", "RNA, long non-coding"]


def test_custom_download_and_plain_table(tmp_path):
    custom = tmp_path / "custom.tsv"
    custom.write_text(
        "HGNC ID\tApproved symbol\tStatus\tAlias symbols\tPrevious symbols\tNCBI Gene ID(supplied by NCBI)\nHGNC:1\tA\tApproved\tX, Y\tZ\t5\n"
    )
    assert GeneResolver(custom).resolve(["X", "Y", "Z", "5"]).labels == dict.fromkeys(["X", "Y", "Z", "5"], "A")
    plain = tmp_path / "plain.csv"
    plain.write_text("symbol,ensembl_id\nKin1,ENSG00000000001\n")
    assert GeneResolver(GeneTable.read(plain)).resolve(["ENSG00000000001", "Kin1"]).keys == {
        "ENSG00000000001": "Kin1",
        "Kin1": "Kin1",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gene,x\nA,1\n", ("no column 'symbol'", "hgnc_complete_set.txt")),
        ("hgnc_id,symbol\nHGNC:1,\n", ("'symbol' is empty in row 1",)),
        ("hgnc_id,symbol\nHGNC:1,A\n1,B\n", ("'HGNC:1' appears more than once",)),
        ("hgnc_id,symbol,status\nHGNC:1,A,Entry Withdrawn\n", ("no approved gene",)),
    ],
)
def test_bad_tables(tmp_path, refuses, text, says):
    path = tmp_path / "genes.csv"
    path.write_text(text)
    refuses((*says, "genes.csv"), GeneTable.read, path)


def test_shipped_table_agrees_with_the_data(shared):
    mine = pd.read_parquet(shared / "embedded" / "hgnc_protein_coding.parquet").fillna("")
    columns = ["hgnc_id", "symbol", "ensembl_id", "entrez", "uniprot_id"]
    assert (CODING[columns].to_numpy() == mine[columns].to_numpy()).all()


def test_real_screens_resolve(shared):
    ad = pytest.importorskip("anndata")
    screen = ad.read_h5ad(shared / "replogle2022_uprank.h5ad", backed="r")
    ids = screen.obs["pert_id"].astype(str).unique()
    assert len(RESOLVER.resolve(ids).keys) == len(ids) == 585
    readouts = RESOLVER.resolve(screen.var_names)
    assert len(readouts.keys) > 0.99 * len(readouts)
    fitness = pd.read_parquet(shared / "embedded" / "depmap_fitness_3465x121.parquet").index
    assert len(RESOLVER.resolve(fitness).keys) == len(fitness) == 3465
    targets = ad.read_h5ad(shared / "papalexi2021_counts.h5ad", backed="r").obs["target"].astype(str).unique()
    statuses = RESOLVER.resolve(targets).frame()["status"].value_counts()
    assert statuses.to_dict() == {"mapped": 25, "control": 1}


def test_ncbi_agrees(shared):
    """NCBI knows nearly all previous symbols of HGNC as synonyms of the same gene."""
    ncbi = pd.read_csv(
        shared / "knowledge" / "ncbi_gene_info_human.tsv.gz", sep="\t", dtype=str, comment="#", header=None, usecols=[1, 2, 4],
        names=["entrez", "symbol", "synonyms"], keep_default_na=False,
    )  # fmt: skip
    by_symbol = RESOLVER.resolve(ncbi["symbol"], kind="symbol")
    by_entrez = RESOLVER.resolve(ncbi["entrez"], kind="Entrez")
    both = [(a.label, b.label) for a, b in zip(by_symbol, by_entrez, strict=True) if a.how == "symbol" and b.label]
    assert len(both) > 15_000
    assert np.mean([a == b for a, b in both]) > 0.99  # the file is of 2015: tRNA genes were renumbered
    synonyms = {
        e: {x.upper() for x in (symbol, *text.split("|"))}
        for e, symbol, text in zip(ncbi["entrez"], ncbi["symbol"], ncbi["synonyms"], strict=True)
    }
    table = GeneTable.embedded()
    entrez = dict(zip(CODING["hgnc_id"], CODING["entrez"], strict=True))
    previous = table.aliases[(table.aliases["kind"] == "previous") & table.aliases["hgnc_id"].isin(entrez)]
    known = [
        a.upper() in synonyms[entrez[g]]
        for a, g in zip(previous["alias"], previous["hgnc_id"], strict=True)
        if entrez[g] in synonyms
    ]
    assert len(known) > 5_000
    assert np.mean(known) > 0.9

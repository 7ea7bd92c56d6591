import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from panmodal.embeddings.annotation import annotation_vectors, scaled_svd
from panmodal.embeddings.annotations import EVIDENCE, evidence_codes, read_annotations
from panmodal.embeddings.builders.annotation import annotation
from panmodal.embeddings.ontology import propagate, read_obo


def gaf_row(gene, term, evidence="IDA", aspect="P", qualifier="involved_in", taxon="taxon:9606", accession="P1"):
    return "\t".join(["UniProtKB", accession, gene, qualifier, term, "PMID:1", evidence, "", aspect, "", "", "protein", taxon,
                      "20260101", "UniProt", "", ""])  # fmt: skip


ROWS = [
    gaf_row("TP53", "GO:1"),
    gaf_row("TP53", "GO:1", "IMP"),
    gaf_row("TP53", "GO:2", "IEA", "F"),
    gaf_row("BRCA1", "GO:1", "TAS", accession="P2"),
    gaf_row("BRCA1", "GO:3", "IPI", "C", accession="P2"),
    gaf_row("ACTB", "GO:1", qualifier="NOT|involved_in", accession="P3"),
    gaf_row("MYC", "GO:8150", "ND", accession="P4"),
]
HEAD = ["!gaf-version: 2.2", "! a comment", ""]


@pytest.fixture
def file(tmp_path):
    def write(name, lines, end="\n"):
        data = (end.join(lines) + end).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def pairs_of(found):
    return sorted(map(tuple, found.pairs[["gene", "term"]].to_numpy().tolist()))


# GAF


@pytest.mark.parametrize(("name", "end"), [("goa.gaf", "\n"), ("goa.gaf.gz", "\r\n")])
def test_a_gaf_gives_its_pairs_and_says_what_is_left_out(file, name, end):
    found = read_annotations(file(name, HEAD + ROWS, end))
    assert pairs_of(found) == [("BRCA1", "GO:1"), ("BRCA1", "GO:3"), ("TP53", "GO:1"), ("TP53", "GO:2")]
    assert set(found.left_out) == {"ACTB", "MYC"}
    assert found.notes == ("left out: 1 rows with the qualifier NOT, 1 rows of evidence ND (no data)",)


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"aspect": "BP"}, [("BRCA1", "GO:1"), ("TP53", "GO:1")]),
        ({"aspect": "MF"}, [("TP53", "GO:2")]),
        ({"aspect": "CC"}, [("BRCA1", "GO:3")]),
        ({"evidence": ("experimental",)}, [("BRCA1", "GO:3"), ("TP53", "GO:1")]),
        ({"evidence": ("IMP",)}, [("TP53", "GO:1")]),
        ({"evidence": ("author", "IEA")}, [("BRCA1", "GO:1"), ("TP53", "GO:2")]),
        ({"id_field": "accession", "aspect": "BP"}, [("P1", "GO:1"), ("P2", "GO:1")]),
        ({"taxon": 9606, "aspect": "CC"}, [("BRCA1", "GO:3")]),
    ],
)
def test_rows_of_a_gaf_are_chosen(file, options, pairs):
    assert pairs_of(read_annotations(file("goa.gaf", HEAD + ROWS), **options)) == pairs


def test_a_taxon_must_be_chosen_if_there_are_several(file, refuses):
    path = file("goa.gaf", [*ROWS, gaf_row("Trp53", "GO:1", taxon="taxon:10090|taxon:9606")])
    refuses(["genes of 2 taxa ('10090', '9606')", "Give taxon"], read_annotations, path)
    found = read_annotations(path, taxon=10090)
    assert pairs_of(found) == [("Trp53", "GO:1")]
    assert "7 rows of another taxon" in found.notes[0]


def test_groups_of_evidence_codes():
    assert evidence_codes(("all", "IDA")) is None
    assert evidence_codes(("experimental", "TAS")) == {*EVIDENCE["experimental"], "TAS"}


@pytest.mark.parametrize(
    ("lines", "options", "says"),
    [
        (["a\tb\tc"], {}, ["line 1", "3 column(s)", "a GAF has at least 15"]),
        ([*HEAD, gaf_row("", "GO:1")], {}, ["line 4", "column 3 (gene) is empty"]),
        ([gaf_row("A", "")], {}, ["line 1", "column 5 (term) is empty"]),
        ([gaf_row("A", "GO:1", aspect="X")], {}, ["line 1", "column 9 (aspect) is 'X'"]),
        (HEAD, {}, ["no annotation is left (the file has none)"]),
        (ROWS[:1], {"aspect": "CC"}, ["no annotation is left (1 rows of another aspect)"]),
        (ROWS, {"aspect": "bp"}, ["aspect is 'bp'", "BP, MF, CC"]),
        (ROWS, {"evidence": ("good",)}, ["evidence 'good' is no group", "experimental", "IDA"]),
        (ROWS, {"evidence": ()}, ["evidence is empty"]),
        (ROWS, {"id_field": "name"}, ["id_field is 'name'"]),
        (ROWS, {"format": "gpad"}, ["format is 'gpad'"]),
    ],
)
def test_a_bad_gaf_is_refused(file, lines, options, says, refuses):
    refuses(says, read_annotations, file("goa.gaf", lines), **options)


# Gene sets


def test_a_gmt_gives_its_pairs(file):
    path = file("sets.gmt", ["A\thttp://x\tTP53\tMYC", "B\t\tTP53,1.0\t\tACTB\t", "C\tempty"])
    found = read_annotations(path)
    assert pairs_of(found) == [("ACTB", "B"), ("MYC", "A"), ("TP53", "A"), ("TP53", "B")]
    assert found.notes == ("left out: 1 gene sets without genes",)


def test_reactome_is_known_by_its_pathways(file):
    lines = [
        "7157\tR-HSA-1\thttps://x\tApoptosis\tTAS\tHomo sapiens",
        "22059\tR-MMU-1\thttps://x\tApoptosis\tIEA\tMus musculus",
    ]
    found = read_annotations(file("NCBI2Reactome.txt", lines))
    assert pairs_of(found) == [("7157", "R-HSA-1")]
    assert found.notes == ("left out: 1 rows of other species than human",)


@pytest.mark.parametrize(
    ("name", "lines", "options", "says"),
    [
        ("s.gmt", ["A\tx\tTP53", "A\tx\tMYC"], {}, ["line 2", "'A' is also in line 1"]),
        ("s.gmt", ["\tx\tTP53"], {}, ["line 1", "no name"]),
        ("s.gmt", ["A"], {}, ["line 1", "1 column(s) where a GMT"]),
        ("s.gmt", ["A\tx\tTP53"], {"aspect": "BP"}, ["gmt file has no aspects"]),
        ("s.gmt", ["A\tx\tTP53"], {"evidence": ("IDA",)}, ["evidence and taxon are of GAF files"]),
        ("s.gmt", ["A\tx\tTP53"], {"taxon": 9606}, ["evidence and taxon are of GAF files"]),
        ("s.gmt", ["A\tx"], {}, ["no annotation is left (1 gene sets without genes)"]),
        ("s.txt", ["\tR-HSA-1\tu\tn\tTAS\tHomo sapiens"], {}, ["line 1", "the gene or the pathway is empty"]),
        ("s.xyz", ["A"], {}, [".xyz tells no format", "gaf, gmt"]),
        ("s.csv", ["gene,what", "A,x"], {}, ["no column of terms", "'gene', 'what'", "Give term_col"]),
        ("s.csv", ["who,term", "A,x"], {}, ["no column of genes", "Give gene_col"]),
        ("s.csv", ["gene,term", "A,x"], {"gene_col": "who"}, ["no column 'who'"]),
        ("s.csv", ["gene,term", "A,x", ",y"], {}, ["column 'gene' is empty in row(s) '2'"]),
        ("s.csv", ["gene,term", "A,x"], {"aspect": "BP"}, ["no column of aspects"]),
        ("s.csv", ["gene,term,aspect", "A,x,Q"], {"aspect": "BP"}, ["'aspect' holds 'q'"]),
    ],
)
def test_bad_gene_sets_are_refused(file, name, lines, options, says, refuses):
    refuses(says, read_annotations, file(name, lines), **options)


# Tables


@pytest.mark.parametrize("name", ["p.csv", "p.tsv.gz", "p.parquet"])
def test_a_table_of_pairs(tmp_path, name):
    frame = pd.DataFrame({"gene": ["TP53", "1-Mar", "TP53"], "term": [3, 3, 3]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if "csv" in name else "\t")
    assert pairs_of(read_annotations(path)) == [("1-Mar", "3"), ("TP53", "3")]


@pytest.mark.parametrize(("aspect", "pairs"), [
    ("all", [("A", "GO:1"), ("B", "GO:1"), ("C", "GO:2")]), ("BP", [("A", "GO:1"), ("B", "GO:1")]), ("MF", [("C", "GO:2")]),
])  # fmt: skip
def test_a_table_of_terms_with_their_genes(file, aspect, pairs):
    lines = ["go_id\tgo_domain\tgene_symbols", "GO:1\tbiological_process\tA|B", "GO:2\tmolecular_function\tC"]
    found = read_annotations(file("go.tsv", lines), aspect=aspect)
    assert pairs_of(found) == pairs
    assert set(found.left_out) == {"A", "B", "C"} - {gene for gene, _ in pairs}


def test_columns_of_a_table_may_be_named(file):
    found = read_annotations(file("t.csv", ["x,y", "a,b"]), gene_col="y", term_col="x")
    assert pairs_of(found) == [("b", "a")]


# Ontology

OBO = """format-version: 1.2

[Term]
id: GO:0
name: biological_process
namespace: biological_process

[Term]
id: GO:1
namespace: biological_process
alt_id: GO:11
is_a: GO:0 ! biological_process

[Term]
id: GO:2
namespace: biological_process
relationship: part_of GO:1 ! x
relationship: regulates GO:5 ! not followed

[Term]
id: GO:3
namespace: molecular_function
is_a: GO:4
relationship: part_of GO:2

[Term]
id: GO:4
namespace: molecular_function

[Term]
id: GO:5
is_obsolete: true

[Typedef]
id: part_of
is_a: nothing
"""


def test_genes_get_the_terms_above(file):
    obo = file("go.obo", OBO.split("\n"))
    rows = [
        gaf_row("A", "GO:2"),
        gaf_row("B", "GO:11"),
        gaf_row("C", "GO:5"),
        gaf_row("C", "GO:99"),
        gaf_row("D", "GO:3", aspect="F"),
    ]
    found = read_annotations(file("goa.gaf", rows))
    spread = propagate(found, obo)
    assert pairs_of(spread) == [("A", "GO:0"), ("A", "GO:1"), ("A", "GO:2"), ("B", "GO:0"), ("B", "GO:1"),
                                ("D", "GO:0"), ("D", "GO:1"), ("D", "GO:2"), ("D", "GO:3"), ("D", "GO:4")]  # fmt: skip
    assert spread.left_out == {"C": "none of its terms is in the ontology"}
    said = " ".join(spread.notes)
    assert "1 terms are not in the ontology and left out ('GO:99')" in said
    assert "1 terms are obsolete and left out ('GO:5')" in said
    assert "10 pairs from 5" in said
    function = propagate(read_annotations(file("goa.gaf", rows), aspect="MF"), obo, aspect="MF")
    assert pairs_of(function) == [("D", "GO:3"), ("D", "GO:4")]


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_what_lies_above_is_the_transitive_closure(tmp_path_factory, edges):
    path = tmp_path_factory.mktemp("obo") / "o.obo"
    edges = [(max(e), min(e)) for e in edges if e[0] != e[1]]
    stanzas = [f"[Term]\nid: T:{k}\n" + "".join(f"is_a: T:{b}\n" for a, b in edges if a == k) for k in range(12)]
    path.write_text("\n".join(stanzas))
    reach = np.eye(12, dtype=bool)
    for a, b in edges:
        reach[a, b] = True
    for _ in range(4):
        reach = reach @ reach
    above = read_obo(path).above(f"T:{k}" for k in range(12))
    assert above == {f"T:{k}": {f"T:{j}" for j in np.flatnonzero(reach[k])} for k in range(12)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[Term]\nid: A\nis_a: B\n[Term]\nid: B\nis_a: A\n", ["lies above itself", "go-basic.obo"]),
        ("[Term]\nname: A\nid: B\n", ["line 2", "begin with its id"]),
        ("gene,term\n", ["no [Term]"]),
        ("[Term]\nid: Z\n", ["none of the 1 terms is in it ('A')"]),
    ],
)
def test_a_bad_ontology_is_refused(file, text, says, refuses):
    found = read_annotations(file("p.csv", ["gene,term", "g,A"]))
    refuses(says, propagate, found, file("o.obo", [text]))


# Factorisation


def random_pairs(seed=0):
    table = np.random.default_rng(seed).random((40, 25)) < 0.2
    table[:, 0] = True
    g, t = np.nonzero(table)
    return pd.DataFrame({"gene": [f"G{k:02d}" for k in g], "term": [f"T{k:02d}" for k in t]}), table.astype(float)


@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("scale", ["full", "sqrt", "none"])
def test_vectors_are_those_of_scikit_learn(idf, unit_norm, scale):
    pairs, table = random_pairs()
    ids, vectors, left_out = annotation_vectors(pairs, 4, idf=idf, unit_norm=unit_norm, scale=scale)
    weighted = TfidfTransformer(norm="l2" if unit_norm else None, use_idf=idf).fit_transform(table)
    svd = TruncatedSVD(4, algorithm="arpack", random_state=0)
    expected = svd.fit_transform(weighted) / svd.singular_values_ ** {"full": 0, "sqrt": 0.5, "none": 1}[scale]
    np.testing.assert_allclose(vectors, expected * np.sign((expected * vectors).sum(axis=0)), atol=1e-8)
    assert (ids, left_out) == ([f"G{k:02d}" for k in range(40)], {})


def test_rare_and_common_terms_are_left_out():
    pairs, _ = random_pairs()
    pairs = pd.concat([pairs, pd.DataFrame({"gene": ["X", "X", "Y"], "term": ["only X", "T00", "T00"]})])
    _, _, none = annotation_vectors(pairs, 3, min_genes=1)
    assert none == {}
    ids, _, left_out = annotation_vectors(pairs, 3, max_share=0.9)
    assert left_out["X"] == "none of its 2 term(s) has 2 genes or more and 90 % of them or fewer"
    assert left_out["Y"] == "none of its 1 term(s) has 2 genes or more and 90 % of them or fewer"
    assert not {"X", "Y"} & set(ids)


def test_the_order_of_pairs_makes_no_difference():
    pairs, _ = random_pairs()
    ids, vectors, _ = annotation_vectors(pairs, 4)
    again, same, _ = annotation_vectors(pd.concat([pairs[::3], pairs]).sample(frac=1, random_state=1), 4)
    assert ids == again
    np.testing.assert_array_equal(vectors, same)


def test_options_out_of_range_are_refused(refuses):
    pairs, _ = random_pairs()
    refuses(["min_genes is 0"], annotation_vectors, pairs, 3, min_genes=0)
    refuses(["max_share 1.5"], annotation_vectors, pairs, 3, max_share=1.5)
    refuses(["scale is 'half'", "sqrt, full, none"], scaled_svd, np.eye(5), 3, "half")
    assert scaled_svd(np.ones((5, 4)), 2, "none")[0, 0] == pytest.approx(5**-0.5)


# Builder


def test_the_builder_tells_what_it_left_out(file):
    rows = [gaf_row(f"G{k}", f"GO:{t}") for k in range(12) for t in {k % 4, k % 3 + 4}]
    rows += [gaf_row("NOT", "GO:1", qualifier="NOT|x"), gaf_row("LONE", "GO:77")]
    built = annotation(terms=file("goa.gaf", rows), dims=3)
    assert built.vectors.shape == (12, 3)
    assert built.vectors.dtype == np.float32
    assert set(built.left_out) == {"NOT", "LONE"}
    assert built.notes == ("8 terms of 13 genes", "left out: 1 rows with the qualifier NOT")


def test_the_builder_follows_the_ontology(file):
    obo = file("go.obo", OBO.split("\n"))
    rows = [gaf_row(f"G{k}", f"GO:{1 + k % 4}", aspect="P" if k % 4 < 2 else "F") for k in range(12)]
    built = annotation(terms=file("goa.gaf", rows), ontology=obo, dims=2, idf=False)
    assert len(built.ids) == 12
    assert any("is_a and part_of" in note for note in built.notes)


def test_the_builder_gives_the_golden_vectors(shared):
    anndata = pytest.importorskip("anndata")
    built = annotation(
        terms=shared / "knowledge" / "go_direct_experimental.tsv.gz",
        dims=16,
        min_genes=1,
        idf=False,
        unit_norm=False,
        scale="full",
    )
    golden = anndata.read_h5ad(shared / "embeddings" / "annotation_go_svd128.h5ad")
    ours = pd.DataFrame(built.vectors, list(built.ids)).loc[list(golden.obs_names)].to_numpy()
    theirs = golden.X[:, :16]
    np.testing.assert_allclose(ours, theirs * np.sign((ours * theirs).sum(axis=0)), atol=1e-3)


def test_a_gmt_alone_in_a_zip(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "sets.gmt.zip", "w") as archive:
        archive.writestr("sets.gmt", "S1\tx\tA\tB\nS2\tx\tB\tC\n")
    read = read_annotations(tmp_path / "sets.gmt.zip")
    assert set(map(tuple, read.pairs.to_numpy().tolist())) == {("A", "S1"), ("B", "S1"), ("B", "S2"), ("C", "S2")}

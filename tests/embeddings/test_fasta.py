import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.embeddings.fasta import FastaRecord, read_fasta, sequences_by_id

PROTEIN = "MEEPQSDPSVEPPLSQETFSDLWKLLPENNVLSPLPSQAMDDLMLSPDDIEQWFTEDPGP"


@pytest.fixture
def fasta(tmp_path):
    def write(text, name="s.fasta"):
        path = tmp_path / name
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def header(text):
    return FastaRecord(text.split()[0], text, "")


# Headers


@pytest.mark.parametrize(
    ("text", "gene", "accession"),
    [
        ("sp|P04637|P53_HUMAN Cellular tumor antigen p53 OS=Homo sapiens OX=9606 GN=TP53 PE=1 SV=4", "TP53", "P04637"),
        ("tr|A0A024|A0A024_HUMAN Some GN=HLA-A", "HLA-A", "A0A024"),
        ("sp|P04637-2|P53_HUMAN Isoform 2 of p53 OS=Homo sapiens OX=9606 GN=TP53", "TP53", "P04637-2"),
        ("sp|Q00001|X_YEAST A protein OS=Yeast GN=ORF SGC-1 PE=1 SV=1", "ORF SGC-1", "Q00001"),
        ("sp|Q00002|Y_HUMAN Putative protein OS=Homo sapiens OX=9606 PE=5 SV=1", None, "Q00002"),
        (
            "ENSP00000269305.4 pep chromosome:GRCh38:17:7661779:7687550:-1 gene:ENSG00000141510.18 "
            "transcript:ENST00000269305.9 gene_biotype:protein_coding gene_symbol:TP53 description:tumor protein p53",
            "TP53", "ENSP00000269305.4",
        ),
        ("ENSP00000488240.1 pep gene:ENSG00000282253.1 transcript:ENST1.1", "ENSG00000282253", "ENSP00000488240.1"),
        ("ENSMUSP1.1 pep gene:ENSMUSG00000059552.14", "ENSMUSG00000059552", "ENSMUSP1.1"),
        (
            "ENSP00000269305.4|ENST00000269305.9|ENSG00000141510.18|OTTHUMG00000162125.10|OTTHUMT00000367397.1|TP53-201|TP53|393",
            "TP53", "ENSP00000269305.4",
        ),
        ("ENST00000269305.9|ENSG00000141510.18|-|-|TP53-201|TP53|2512|protein_coding|", "TP53", "ENST00000269305.9"),
        ("ENSP1|ENST2", None, "ENSP1"),
        ("lcl|NC_000017.11_cds_NP_000537.3_1 [gene=TP53] [protein_id=NP_000537.3]", "TP53", "lcl|NC_000017.11_cds_NP_000537.3_1"),
        ("NP_000537.3 TP53 [organism=Homo sapiens] [GeneID=7157] [isoform=a]", "TP53", "NP_000537.3"),
        ("NP_000537.3 cellular tumor antigen p53 isoform a [Homo sapiens]", None, "NP_000537.3"),
        ("x1 gene_name=\"TP53\"; more", "TP53", "x1"),
        ("TP53", None, "TP53"),
        ("TP53 the guardian", None, "TP53"),
        ("|odd", None, "|odd"),
    ],
)  # fmt: skip
def test_headers_of_all_sources_are_understood(text, gene, accession):
    assert (header(text).gene, header(text).accession) == (gene, accession)


# Files


@pytest.mark.parametrize("name", ["s.fasta", "s.fa.gz", "s.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_wrapping_case_line_ends_and_compression_make_no_difference(fasta, name, end):
    text = end.join(
        [";old comment", ">A first", PROTEIN[:20].lower(), PROTEIN[20:40] + " ", "", PROTEIN[40:] + "*", ">B", "MK"]
    )
    first, second = read_fasta(fasta(text, name), "protein")
    assert (first.id, first.header, first.sequence) == ("A", "A first", PROTEIN)
    assert (second.id, second.sequence) == ("B", "MK")


def test_a_byte_order_mark_is_no_letter(fasta):
    assert read_fasta(fasta(b"\xef\xbb\xbf>A\nMK\n"), "protein")[0].id == "A"


def test_rna_is_read_as_dna(fasta):
    assert read_fasta(fasta(">A\nacguN\n"), "dna")[0].sequence == "ACGTN"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9]{0,6}", fullmatch=True),
                       st.text("ACDEFHIKLMPQRSVWXY", min_size=1, max_size=50), min_size=1), st.integers(1, 60))  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory, made, width):
    path = tmp_path_factory.mktemp("fasta") / "s.fa"
    # A protein of A and C alone could be nucleotides.
    made = {name: sequence + "W" * (1 + len(sequence)) for name, sequence in made.items()}
    wrapped = {n: "\n".join(s[k : k + width] for k in range(0, len(s), width)) for n, s in made.items()}
    path.write_text("".join(f">{n} more\n{s}\n" for n, s in wrapped.items()))
    sequences, left_out, notes = sequences_by_id(path, alphabet="protein")
    assert sequences == made
    assert list(sequences) == sorted(made)
    assert (left_out, notes) == ({}, [])


@pytest.mark.parametrize(
    ("text", "alphabet", "says"),
    [
        ("MKV\n>A\nMK", "protein", ["line 1", "not FASTA", "'MKV'"]),
        ("", "protein", ["no sequences"]),
        (">A\nMK\n>\nMK", "protein", ["line 3", "without an id"]),
        (">A\nMK\n>B\nMK1W", "protein", ["record 'B'", "'1' at position 3", "no letter of protein"]),
        (">A\nMK--V", "protein", ["record 'A'", "'-' at position 3", "Gaps of an alignment"]),
        (">A\nACGTEF", "dna", ["record 'A'", "'E' at position 5", "no letter of DNA", "Is this protein"]),
        (">A\n" + "ACGTTN" * 20, "protein", ["s.fasta", "100 % of the letters", "nucleotides", "builder of DNA"]),
        (b">A\nMK\xff\xfe", "protein", ["not a text file"]),
    ],
)
def test_a_bad_file_is_refused(fasta, text, alphabet, says, refuses):
    refuses(says, read_fasta, fasta(text), alphabet)


def test_missing_truncated_and_unknown_are_refused(fasta, tmp_path, refuses):
    refuses(["no such file", "Did you mean 's.fasta'"], read_fasta, fasta(">A\nMK").with_name("s.fast"), "protein")
    whole = gzip.compress((">A\n" + PROTEIN * 50).encode())
    path = tmp_path / "cut.fa.gz"
    path.write_bytes(whole[: len(whole) // 2])
    refuses(["cut.fa.gz", "Is it complete"], read_fasta, path, "protein")
    refuses(["alphabet is 'rna'"], read_fasta, path, "rna")
    refuses(["id_field is 'name'", "accession"], sequences_by_id, path, alphabet="protein", id_field="name")
    refuses(["pick is 'any'"], sequences_by_id, path, alphabet="protein", pick="any")


# One sequence for each id

ISOFORMS = """>sp|P1|A_HUMAN a GN=TP53 PE=1
MKW
>sp|P1-2|A_HUMAN a GN=TP53 PE=1
MKWL
>sp|P1-3|A_HUMAN a GN=TP53 PE=1
MKWI
>sp|P2|B_HUMAN b GN=EMPTY PE=1
>sp|P3|C_HUMAN c
MMW
>sp|P4|D_HUMAN d GN=SAME PE=1
WWW
>sp|P5|D_HUMAN d GN=SAME PE=1
www
"""


def test_the_longest_sequence_stands_for_a_gene(fasta):
    sequences, left_out, notes = sequences_by_id(fasta(ISOFORMS), alphabet="protein")
    assert sequences == {"P3": "MMW", "SAME": "WWW", "TP53": "MKWI"}
    assert left_out == {"EMPTY": "its sequence is empty"}
    assert "6 of 7 headers name; 1 name none: the accession is the id" in notes[0]
    assert "1 ids have several sequences ('TP53'): the longest stands for each, 2 are unused" in notes[1]


def test_the_first_may_stand_for_it(fasta):
    assert sequences_by_id(fasta(ISOFORMS), alphabet="protein", pick="first")[0]["TP53"] == "MKW"


def test_records_without_gene_are_left_out_where_genes_are_asked_for(fasta):
    sequences, left_out, _ = sequences_by_id(fasta(ISOFORMS), alphabet="protein", id_field="gene")
    assert list(sequences) == ["SAME", "TP53"]
    assert left_out["sp|P3|C_HUMAN"] == "its header names no gene"


def test_other_fields_may_be_the_id(fasta):
    path = fasta(ISOFORMS)
    assert list(sequences_by_id(path, alphabet="protein", id_field="accession")[0]) == [
        "P1",
        "P1-2",
        "P1-3",
        "P3",
        "P4",
        "P5",
    ]
    assert "sp|P1|A_HUMAN" in sequences_by_id(path, alphabet="protein", id_field="first-word")[0]


def test_files_without_genes_or_letters_are_refused(fasta, refuses):
    refuses(
        ["no header names a gene", "'A'", "first-word"],
        sequences_by_id,
        fasta(">A\nMK"),
        alphabet="protein",
        id_field="gene",
    )
    refuses(["all 2 sequences are empty"], sequences_by_id, fasta(">A\n>B\n"), alphabet="dna")


@given(st.permutations(range(4)))
def test_the_order_of_records_makes_no_difference(tmp_path_factory, order):
    records = [">A.1 gene=G\nMKW\n", ">A.2 gene=G\nMKL\n", ">A.3 gene=G\nMW\n", ">B\nWWW\n"]
    path = tmp_path_factory.mktemp("fasta") / "s.fa"
    path.write_text("".join(records[k] for k in order))
    assert sequences_by_id(path, alphabet="protein")[0] == {"B": "WWW", "G": "MKL"}

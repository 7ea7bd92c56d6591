from collections import Counter
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.embeddings.builders.homology import homology
from panmodal.embeddings.builders.sequence import (
    BASES,
    RESIDUES,
    dna_gc,
    dna_kmers,
    kmer_counts,
    protein_kmers,
    protein_length,
    strand_classes,
)
from panmodal.embeddings.homology import homology_vectors, read_homology

COMPLEMENT = str.maketrans("ACGT", "TGCA")
dna = st.text("ACGTN", max_size=60)


def words(letters, k):
    return ["".join(word) for word in product(letters, repeat=k)]


def reverse_complement(sequence):
    return sequence.translate(COMPLEMENT)[::-1]


@pytest.fixture
def fasta(tmp_path):
    def write(sequences):
        path = tmp_path / "s.fa"
        path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
        return path

    return write


# Counting


@given(st.text(RESIDUES + "XU*", max_size=60), st.integers(1, 3))
def test_counts_are_those_of_a_plain_loop(sequence, k):
    counted = Counter(sequence[i : i + k] for i in range(len(sequence) - k + 1))
    assert kmer_counts(sequence, k, RESIDUES).tolist() == [counted[word] for word in words(RESIDUES, k)]


@given(dna, st.integers(1, 6))
def test_dna_counts_are_those_of_a_plain_loop(sequence, k):
    counted = Counter(sequence[i : i + k] for i in range(len(sequence) - k + 1))
    assert kmer_counts(sequence, k, BASES).tolist() == [counted[word] for word in words(BASES, k)]


@pytest.mark.parametrize(("k", "number"), [(1, 2), (2, 10), (3, 32), (4, 136), (5, 512), (6, 2080)])
def test_a_word_and_its_reverse_complement_are_one_class(k, number):
    classes = strand_classes(k)
    where = dict(zip(words(BASES, k), classes.tolist(), strict=True))
    assert set(where.values()) == set(range(number))
    assert all(where[word] == where[reverse_complement(word)] for word in where)
    assert max(Counter(where.values()).values()) <= 2


@given(dna, st.integers(1, 6))
def test_the_strand_makes_no_difference(sequence, k):
    one, other = (
        np.bincount(strand_classes(k), weights=kmer_counts(s, k, BASES))
        for s in (sequence, reverse_complement(sequence))
    )
    np.testing.assert_array_equal(one, other)


# Builders

PROTEINS = {"A": "MKWVTFISLLFLFSSAYSRGVF", "B": "MDDDIAALVVDNGSGMCKAGFAGXXX", "C": "M", "D": "XXXX", "E": ""}


@pytest.mark.parametrize(("k", "dims", "left"), [(1, 20, "DE"), (2, 400, "CDE"), (3, 8000, "CDE")])
def test_frequencies_of_words_of_residues(fasta, k, dims, left):
    built = protein_kmers(fasta=fasta(PROTEINS), k=k)
    assert built.vectors.shape == (5 - len(left), dims)
    np.testing.assert_allclose(built.vectors.sum(axis=1), 1, rtol=1e-6)
    assert set(built.left_out) == set(left)
    assert "sequence of 4" in built.left_out["D"]
    assert built.left_out["E"] == "its sequence is empty"
    assert "1 ids have some ('B')" in built.notes[-1]


def test_frequencies_of_words_of_bases(fasta):
    made = {"A": "AACCGTAC", "B": "GTACGGTT", "N": "NNNNNNNN"}  # B is the other strand of A
    built = dna_kmers(fasta=fasta(made), k=3)
    assert built.vectors.shape == (2, 32)
    np.testing.assert_array_equal(built.vectors[0], built.vectors[1])
    assert set(built.left_out) == {"N"}
    given_strand = dna_kmers(fasta=fasta(made), k=3, canonical=False)
    assert given_strand.vectors.shape == (2, 64)
    assert (given_strand.vectors[0] != given_strand.vectors[1]).any()


def test_lengths(fasta):
    built = protein_length(fasta=fasta(PROTEINS))
    assert list(built.ids) == ["A", "B", "C", "D"]
    np.testing.assert_allclose(built.vectors[:, 0], np.log10([22, 26, 1, 4]), rtol=1e-6)
    assert built.left_out == {"E": "its sequence is empty"}


def test_share_of_g_and_c(fasta):
    built = dna_gc(fasta=fasta({"A": "GGGA", "B": "ATNNNNNNNN", "C": "NN"}))
    np.testing.assert_allclose(built.vectors, [[np.log10(4), 0.75], [1, 0]], rtol=1e-6)
    assert set(built.left_out) == {"C"}


@pytest.mark.parametrize(
    ("function", "sequences", "options", "says"),
    [
        (protein_kmers, PROTEINS, {"k": 4}, ["k is 4", "1, 2 or 3"]),
        (dna_kmers, {"A": "ACGT"}, {"k": 7}, ["k is 7", "1 to 6"]),
        (dna_kmers, {"A": "ACG"}, {"k": 4}, ["s.fa", "no sequence has a word of 4 letters of ACGT"]),
        (dna_gc, {"A": "NN"}, {}, ["s.fa", "no sequence has a letter of ACGT"]),
        (dna_kmers, PROTEINS, {}, ["'A'", "Is this protein"]),
        (protein_kmers, {"A": "ACGT" * 9}, {}, ["nucleotides"]),
        (protein_length, PROTEINS, {"id_field": "gene"}, ["no header names a gene"]),
    ],
)
def test_bad_input_is_refused(fasta, function, sequences, options, says, refuses):
    refuses(says, function, fasta=fasta(sequences), **options)


# Homology

M8 = [("A", "B", 90.0, 1e-50), ("B", "A", 88.0, 1e-49), ("A", "A", 100.0, 0), ("B", "C", 40.0, 1e-5), ("C", "D", 35.0, 0.1),
      ("E", "E", 100.0, 0), ("A", "C", 30.0, 1e-3)]  # fmt: skip


def write_m8(path, factor=1.0, name=str):
    rows = [[name(a), name(b), p * factor, 100, 5, 0, 1, 100, 1, 100, e, 200] for a, b, p, e in M8]
    path.write_text("# a comment\n" + "\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(("factor", "unit"), [(1.0, "percent"), (0.01, "fraction")])
def test_tabular_output_of_aligners(tmp_path, factor, unit):
    table, found = read_homology(write_m8(tmp_path / "hits.m8", factor))
    assert found == unit
    np.testing.assert_allclose(table["id"], [p / 100 for _, _, p, _ in M8])
    np.testing.assert_allclose(table["evalue"], [e for *_, e in M8])
    assert list(table["a"]) == [a for a, *_ in M8]


def test_uniprot_names_become_accessions(tmp_path):
    table, _ = read_homology(write_m8(tmp_path / "hits.m8", name=lambda a: f"sp|P{ord(a)}|{a}_HUMAN"))
    assert table["a"].tolist()[:2] == ["P65", "P66"]


@pytest.mark.parametrize("names", [("a", "b", "id"), ("query", "target", "fident"), ("qseqid", "sseqid", "pident")])
@pytest.mark.parametrize("name", ["e.csv", "e.tsv.gz", "e.parquet"])
def test_tables_of_homologs(tmp_path, names, name):
    scale = 1.0 if names[2] == "pident" else 0.01
    frame = pd.DataFrame([(a, b, p * scale) for a, b, p, _ in M8], columns=list(names))
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if "csv" in name else "\t")
    table, unit = read_homology(path)
    assert unit == ("percent" if scale == 1 else "fraction")
    np.testing.assert_allclose(table["id"], [p / 100 for _, _, p, _ in M8])
    assert table["evalue"].isna().all()


def test_the_unit_may_be_told(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("a,b,id\nA,B,0.9\nB,C,0.5\n")
    assert read_homology(path, identity="percent")[0]["id"].tolist() == pytest.approx([0.009, 0.005])


def test_the_homology_builder(tmp_path):
    path = write_m8(tmp_path / "hits.m8")
    built = homology(edges=path, dims=2)
    assert list(built.ids) == ["A", "B", "C", "D"]
    assert built.left_out == {"E": "no homolog"}
    dense = np.eye(4)
    for i, j, value in [(0, 1, 0.9), (1, 2, 0.4), (2, 3, 0.35), (0, 2, 0.3)]:
        dense[i, j] = dense[j, i] = value
    u, s, _ = np.linalg.svd(dense)
    expected = u[:, :2] * np.sqrt(s[:2])
    np.testing.assert_allclose(built.vectors, expected * np.sign((expected * built.vectors).sum(axis=0)), atol=1e-6)
    assert built.notes == ("identities were read as percent; 5 of 7 rows used",)
    assert homology(edges=path, dims=2, min_identity=0.31).notes[0].endswith("4 of 7 rows used")
    assert homology(edges=path, dims=1, max_evalue=1e-4).left_out == {"D": "no homolog", "E": "no homolog"}


def test_the_order_of_pairs_makes_no_difference(tmp_path):
    table, _ = read_homology(write_m8(tmp_path / "hits.m8"))
    names, vectors = homology_vectors(table, 2)
    again, same = homology_vectors(table[::-1].rename(columns={"a": "b", "b": "a"}), 2)
    assert names == again
    np.testing.assert_array_equal(vectors, same)


@pytest.mark.parametrize(
    ("name", "text", "options", "says"),
    [
        ("h.m8", "A B 90\n", {}, ["h.m8, line 1", "tabs between"]),
        ("h.m8", "A\tB\thigh\n", {}, ["line 1", "not tabular output"]),
        ("h.m8", "# nothing\n", {}, ["no pairs"]),
        ("h.m8", "A\tB\t101\n", {}, ["identity 101.0 of 'A' and 'B' is no percent (0 to 100)"]),
        ("h.m8", "A\tB\tnan\n", {}, ["is no fraction"]),
        ("h.csv", "a,b,id\nA,B,90\n", {"identity": "fraction"}, ["identity 90.0", "no fraction (0 to 1)"]),
        ("h.csv", "a,b,id\nA,B,x\n", {}, ["'id' holds text"]),
        ("h.csv", "a,b,id\nA,,0.5\n", {}, ["column 'b' is empty in row(s) '1'"]),
        ("h.csv", "a,b,score\nA,B,1\n", {}, ["needs columns 'a', 'b'", "'score'", "h.m8"]),
        ("h.csv", "a,b,id\nA,B,0.5\n", {"identity": "ratio"}, ["identity is 'ratio'"]),
        ("h.csv", "a,b,id\nA,B,0.5\n", {"min_identity": 50.0}, ["min_identity is 50", "0 to 1"]),
        ("h.csv", "a,b,id\nA,B,0.5\n", {"min_identity": 0.9}, ["none of the 1 pairs"]),
        ("h.csv", "a,b,id\nA,A,0.5\n", {}, ["none of the 1 pairs"]),
        ("h.csv", "a,b,id\nA,B,0.5\n", {"max_evalue": 1.0}, ["has no E-values"]),
        ("h.xlsx", "x", {}, [".xlsx is no table of homologs"]),
    ],
)
def test_bad_tables_of_homologs_are_refused(tmp_path, name, text, options, says, refuses):
    path = tmp_path / name
    path.write_text(text)
    refuses(says, homology, edges=path, **options)


def test_the_shipped_homologs_are_read(shared):
    table, unit = read_homology(shared / "embedded" / "protein_homology_edges.parquet")
    assert (unit, len(table)) == ("fraction", 112_818)

"""Sequence controls: what the composition of a sequence, or no more than its length, tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.fasta import sequences_by_id
from panmodal.errors import InputError, some
from panmodal.studies import NONE

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 standard amino acids, in the order of the dimensions."""

BASES = "ACGT"

IdField = Annotated[
    Literal["auto", "gene", "accession", "first-word"],
    "what of the header is the id; auto: the gene it names, else the accession",
]
Pick = Annotated[Literal["longest", "first"], "which of several sequences of an id stands for it"]


def kmer_counts(sequence: str, k: int, letters: str) -> NDArray[np.int64]:
    """Count the words of ``k`` letters in a sequence; words with any other letter are not counted.

    Returns
    -------
    numpy.ndarray
        len(letters) ** k counts, words in the order of :func:`itertools.product`.
    """
    size = len(letters)
    if len(sequence) < k:
        return np.zeros(size**k, dtype=np.int64)
    table = np.full(256, -1, dtype=np.int64)
    table[list(letters.encode("ascii"))] = np.arange(size)
    codes = table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
    windows = np.lib.stride_tricks.sliding_window_view(codes, k)
    words = windows @ size ** np.arange(k - 1, -1, -1)
    return np.bincount(words[(windows >= 0).all(axis=1)], minlength=size**k)


def strand_classes(k: int) -> NDArray[np.int64]:
    """Give numbers to the words of ``k`` bases so that a word and its reverse complement share one.

    Returns
    -------
    numpy.ndarray
        A number for each of the 4 ** k words in the order of :func:`itertools.product`; 0, 1, ... without gaps.
    """
    words = np.arange(4**k)
    turned, rest = np.zeros_like(words), words.copy()
    for _ in range(k):  # the complement of base b is 3 - b; the last base comes first
        turned = 4 * turned + (3 - rest % 4)
        rest //= 4
    return np.unique(np.minimum(words, turned), return_inverse=True)[1]


def protein_kmers(
    *,
    fasta: Annotated[Path, "protein sequences (UniProt, Ensembl, GENCODE, any FASTA)"],
    k: Annotated[int, "length of the words: 1, 2 or 3 residues (20, 400 or 8000 dimensions)"] = 2,
    id_field: IdField = "auto",
    pick: Pick = "longest",
) -> Built:
    """Frequencies of words of standard residues."""
    if k not in (1, 2, 3):
        raise InputError(f"k is {k}; words of proteins have 1, 2 or 3 residues.")
    return _frequencies(fasta, "protein", id_field, pick, lambda s: kmer_counts(s, k, RESIDUES), k, RESIDUES)


def dna_kmers(
    *,
    fasta: Annotated[Path, "nucleotide sequences (genes, transcripts, promoters) in FASTA; U is read as T"],
    k: Annotated[int, "length of the words: 1 to 6 bases"] = 4,
    canonical: Annotated[bool, "count a word together with its reverse complement, as the strand is unknown"] = True,
    id_field: IdField = "auto",
    pick: Pick = "longest",
) -> Built:
    """Frequencies of words of bases."""
    if k not in range(1, 7):
        raise InputError(f"k is {k}; words of DNA have 1 to 6 bases.")
    classes = strand_classes(k) if canonical else np.arange(4**k)

    def count(sequence: str) -> NDArray[Any]:
        return np.bincount(classes, weights=kmer_counts(sequence, k, BASES))

    return _frequencies(fasta, "dna", id_field, pick, count, k, BASES)


def protein_length(
    *,
    fasta: Annotated[Path, "protein sequences (UniProt, Ensembl, GENCODE, any FASTA)"],
    id_field: IdField = "auto",
    pick: Pick = "longest",
) -> Built:
    """Logarithm of the length: what is left of a protein model when the sequence is taken away."""
    sequences, left_out, notes = sequences_by_id(fasta, alphabet="protein", id_field=id_field, pick=pick)
    vectors = np.log10([[len(s)] for s in sequences.values()]).astype(np.float32)
    return Built(list(sequences), vectors, left_out=left_out, notes=(*notes, "log10 of the number of residues"))


def dna_gc(
    *,
    fasta: Annotated[Path, "nucleotide sequences (genes, transcripts, promoters) in FASTA; U is read as T"],
    id_field: IdField = "auto",
    pick: Pick = "longest",
) -> Built:
    """Logarithm of the length, and share of G and C."""
    sequences, left_out, notes = sequences_by_id(fasta, alphabet="dna", id_field=id_field, pick=pick)
    counts = {name: kmer_counts(s, 1, BASES) for name, s in sequences.items()}
    ids = [name for name, c in counts.items() if c.sum()]
    left_out.update(dict.fromkeys((i for i in counts if not counts[i].sum()), "no A, C, G or T in its sequence"))
    if not ids:
        raise InputError(f"{fasta}: no sequence has a letter of {BASES}.")
    rows = [[np.log10(len(sequences[i])), counts[i][[1, 2]].sum() / counts[i].sum()] for i in ids]
    notes += ["log10 of the number of bases; share of G and C among A, C, G and T"]
    return Built(ids, np.array(rows, dtype=np.float32), left_out=left_out, notes=tuple(notes))


def _frequencies(
    fasta: Path,
    alphabet: Literal["protein", "dna"],
    id_field: str,
    pick: Literal["longest", "first"],
    count: Callable[[str], NDArray[Any]],
    k: int,
    letters: str,
) -> Built:
    """Build the frequencies of counted words, one row for each id that has any."""
    sequences, left_out, notes = sequences_by_id(fasta, alphabet=alphabet, id_field=id_field, pick=pick)
    ids: list[str] = []
    table = np.empty((len(sequences), len(count(""))), dtype=np.float32)
    strange: list[str] = []
    drop = str.maketrans("", "", letters)
    for name, sequence in sequences.items():
        counts = count(sequence)
        total = counts.sum()
        if not total:
            left_out[name] = f"no word of {k} letters of {letters} in its sequence of {len(sequence)}"
            continue
        if sequence.translate(drop):
            strange.append(name)
        table[len(ids)] = counts / total
        ids.append(name)
    if not ids:
        raise InputError(f"{fasta}: no sequence has a word of {k} letters of {letters}.")
    if strange:
        notes.append(
            f"words with other letters than {letters} are not counted; {len(strange)} ids have some ({some(strange, 3)})"
        )
    return Built(ids, table[: len(ids)], left_out=left_out, notes=tuple(notes))


def _toy(folder: Path, letters: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    path = folder / "toy.fasta"
    records = [f">GENE{n} toy\n{''.join(rng.choice(list(letters), 20 + 3 * n))}\n" for n in range(20)]
    path.write_text("".join(records), encoding="utf-8")
    return {"fasta": path}


def _toy_protein(folder: Path) -> dict[str, Any]:
    return _toy(folder, RESIDUES)


def _toy_dna(folder: Path) -> dict[str, Any]:
    return _toy(folder, BASES)


BUILDERS = (
    Builder(
        name="protein-kmers",
        modality="protein",
        description="control: frequencies of words of 1 to 3 residues of the protein",
        function=protein_kmers,
        example=_toy_protein,
        trained_on=(NONE,),
    ),
    Builder(
        name="protein-length",
        modality="protein",
        description="control: logarithm of the length of the protein, nothing else",
        function=protein_length,
        example=_toy_protein,
        trained_on=(NONE,),
    ),
    Builder(
        name="dna-kmers",
        modality="DNA",
        description="control: frequencies of words of 1 to 6 bases of a gene's DNA",
        function=dna_kmers,
        example=_toy_dna,
        trained_on=(NONE,),
    ),
    Builder(
        name="dna-gc",
        modality="DNA",
        description="control: logarithm of the length and share of G and C of a gene's DNA",
        function=dna_gc,
        example=_toy_dna,
        trained_on=(NONE,),
    ),
)
"""Records of this module."""

"""FASTA files: reading sequences, finding the gene in a header, one sequence for each id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from panmodal.embeddings.texts import read_lines
from panmodal.errors import InputError, some

ID_FIELDS = ("auto", "gene", "accession", "first-word")
"""What may stand for a record: see :func:`sequences_by_id`."""

LETTERS = {"protein": "ACDEFGHIKLMNPQRSTVWYBJOUXZ*", "dna": "ACGTRYSWKMBDHVN"}
"""Letters of each alphabet, ambiguity codes of the IUPAC included (and selenocysteine U, pyrrolysine O, stop *)."""

NUCLEOTIDE_SHARE = 0.95
"""A file with more than this share of A, C, G, T, U and N is not taken for protein."""

_NAMES = {"protein": "protein", "dna": "DNA"}
_UNIPROT = re.compile(r"^(?:sp|tr)\|([^|\s]+)\|")
_GENE = (
    re.compile(r"\sGN=(.+?)(?=\s[A-Z]{2}=|\s*$)"),  # UniProt
    re.compile(r"\sgene_(?:symbol|name)[:=]\"?([^\s\";\]]+)"),  # Ensembl
    re.compile(r"\[gene=([^\]]+)\]"),  # NCBI, coding sequences
    re.compile(r"^\S+\s+(\S+)\s+\[organism=[^\]]*\]\s+\[GeneID="),  # NCBI datasets
    re.compile(r"\sgene[:=]\"?([^\s\";\]]+)"),  # Ensembl, without a symbol: the gene's id
)
_VERSIONED_GENE = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+$")


@dataclass(frozen=True)
class FastaRecord:
    """One record of a FASTA file.

    Attributes
    ----------
    id
        First word of the header.
    header
        The header without ``>``.
    sequence
        Upper case, without white space; without the final ``*`` of a protein, and with T for the U of RNA.
    """

    id: str
    header: str
    sequence: str

    @property
    def accession(self) -> str:
        """The second field of a UniProt header, the first of a GENCODE one (``ENSP...|ENST...|``), else the first word."""
        found = _UNIPROT.match(self.header)
        if found:
            return found.group(1)
        return self.id.split("|")[0] if self.id.startswith("ENS") else self.id

    @property
    def gene(self) -> str | None:
        """The gene that the header names: its symbol, else its Ensembl id without version; None if it names none.

        UniProt ``GN=``, Ensembl ``gene_symbol:`` and ``gene:``, NCBI ``[gene=]``, NCBI datasets (second word), GENCODE (the
        field with bars before the length).
        """
        for pattern in _GENE:
            found = pattern.search(self.header)
            if found:
                return _VERSIONED_GENE.sub(r"\1", found.group(1).strip())
        if self.id.startswith("ENS") and "|" in self.id:
            fields = self.id.split("|")
            length = next((k for k, field in enumerate(fields) if field.isdigit()), 0)
            return fields[length - 1] if length > 1 else None
        return None


def read_fasta(path: str | Path, alphabet: Literal["protein", "dna"]) -> list[FastaRecord]:
    """Read a FASTA file, plain or gzipped; sequences may be wrapped, in lower case, and empty.

    Raises
    ------
    InputError
        The file cannot be read, is no FASTA, holds letters of another alphabet, or nucleotides where protein is wanted.
    """
    if alphabet not in LETTERS:
        raise InputError(f"alphabet is {alphabet!r}; it must be one of {', '.join(LETTERS)}.")
    records: list[FastaRecord] = []
    header: str | None = None
    pieces: list[str] = []

    def finish() -> None:
        if header is not None:
            records.append(FastaRecord(header.split()[0], header, _clean("".join(pieces), alphabet)))

    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(">"):
            finish()
            header, pieces = line[1:].strip(), []
            if not header:
                raise InputError(f"{path}, line {number}: a header without an id ('>' alone).")
        elif line.startswith(";") or not line.strip():
            continue
        elif header is None:
            raise InputError(f"{path}, line {number}: not FASTA: no '>' header before {line.strip()!r:.40}.")
        else:
            pieces.append(line)
    finish()
    if not records:
        raise InputError(f"{path}: no sequences ('>' headers) in it.")
    _check_letters(records, alphabet, str(path))
    return records


def sequences_by_id(
    path: str | Path,
    *,
    alphabet: Literal["protein", "dna"],
    id_field: str = "auto",
    pick: Literal["longest", "first"] = "longest",
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Read one sequence for each id.

    Parameters
    ----------
    path
        FASTA file.
    alphabet
        ``protein`` or ``dna`` (RNA is read as DNA).
    id_field
        What of the header is the id: ``gene`` (its symbol, else the Ensembl id of the gene), ``accession`` (``P04637``,
        ``ENSP00000269305.4``), ``first-word``, or ``auto``: the gene where the header names one, else the accession.
    pick
        Which of several different sequences of an id stands for it: the ``longest`` (of equally long ones the first in the
        alphabet, so that the order of records does not matter) or the ``first``.

    Returns
    -------
    tuple
        id -> sequence, sorted by id; id -> why it has none; notes. Sequences that were not picked are counted in the notes:
        their id has a sequence.

    Raises
    ------
    InputError
        As :func:`read_fasta`; or no record has the field, or all sequences are empty.
    """
    if id_field not in ID_FIELDS:
        raise InputError(f"id_field is {id_field!r}; it must be one of {', '.join(ID_FIELDS)}.")
    if pick not in ("longest", "first"):
        raise InputError(f"pick is {pick!r}; it must be longest or first.")
    records = read_fasta(path, alphabet)
    if id_field == "gene" and all(record.gene is None for record in records):
        raise InputError(
            f"{path}: no header names a gene (GN=, gene_symbol:, gene:, [gene=]), as in {records[0].header!r:.80}. "
            "Choose another id_field: accession or first-word."
        )
    name: Callable[[FastaRecord], str | None] = {
        "auto": lambda r: r.gene or r.accession, "gene": lambda r: r.gene, "accession": lambda r: r.accession,
        "first-word": lambda r: r.id,
    }[id_field]  # fmt: skip
    groups: dict[str, list[FastaRecord]] = {}
    left_out: dict[str, str] = {}
    for record in records:
        found = name(record)
        if found is None:
            left_out[record.id] = "its header names no gene"
        else:
            groups.setdefault(found, []).append(record)
    sequences: dict[str, str] = {}
    several: list[str] = []
    unused = 0
    for found in sorted(groups):
        distinct = list(dict.fromkeys(r.sequence for r in groups[found] if r.sequence))
        if not distinct:
            left_out[found] = "its sequence is empty"
            continue
        sequences[found] = distinct[0] if pick == "first" else min(distinct, key=lambda s: (-len(s), s))
        if len(distinct) > 1:
            several.append(found)
            unused += len(distinct) - 1
    if not sequences:
        raise InputError(f"{path}: all {len(records)} sequences are empty.")
    notes = []
    if id_field == "auto":
        named = sum(record.gene is not None for record in records)
        if named:
            rest = "" if named == len(records) else f"; {len(records) - named} name none: the accession is the id"
            notes.append(f"ids are the genes that {named} of {len(records)} headers name{rest}")
    if several:
        notes.append(
            f"{len(several)} ids have several sequences ({some(several, 3)}): the {pick} stands for each, {unused} are unused"
        )
    return sequences, {k: why for k, why in left_out.items() if k not in sequences}, notes


def _clean(sequence: str, alphabet: str) -> str:
    sequence = "".join(sequence.split()).upper()
    return sequence.removesuffix("*") if alphabet == "protein" else sequence.replace("U", "T")


def _check_letters(records: Iterable[FastaRecord], alphabet: str, where: str) -> None:
    drop = str.maketrans("", "", LETTERS[alphabet])
    nucleotides = letters = 0
    for record in records:
        strange = record.sequence.translate(drop)
        if strange:
            place = record.sequence.index(strange[0])
            raise InputError(
                f"{where}: record {record.id!r} holds {strange[0]!r} at position {place + 1}, which is no letter of "
                f"{_NAMES[alphabet]} ({LETTERS[alphabet]}).{_hint(strange, alphabet)}"
            )
        letters += len(record.sequence)
        nucleotides += sum(map(record.sequence.count, "ACGTUN"))
    if alphabet == "protein" and nucleotides > NUCLEOTIDE_SHARE * letters:
        raise InputError(
            f"{where}: {100 * nucleotides / letters:.0f} % of the letters are A, C, G, T, U or N: these are nucleotides. "
            "Give the protein sequences, or choose a builder of DNA."
        )


def _hint(strange: str, alphabet: str) -> str:
    if set(strange) & set("-."):
        return " Gaps of an alignment must be removed."
    if alphabet == "dna" and set(strange) <= set(LETTERS["protein"]):
        return " Is this protein? Give nucleotide sequences, or choose a builder of proteins."
    return ""

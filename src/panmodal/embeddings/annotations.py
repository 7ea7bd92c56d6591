"""Annotations of genes: reading GAF, GMT, Reactome and tables as pairs of gene and term."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from panmodal._tables import TEXT_SUFFIXES, read_frame, require_exists, suffix, text_ids
from panmodal.embeddings.texts import read_lines
from panmodal.errors import InputError, some

FORMATS = ("auto", "gaf", "gmt", "reactome", "table")
"""Formats of :func:`read_annotations`."""

ASPECTS = {"BP": ("P", "biological_process"), "MF": ("F", "molecular_function"), "CC": ("C", "cellular_component")}
"""Aspects of the Gene Ontology: their letter in GAF, their name in the ontology."""

EVIDENCE = {
    "experimental": ("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "HTP", "HDA", "HMP", "HGI", "HEP"),
    "phylogenetic": ("IBA", "IBD", "IKR", "IRD"),
    "computational": ("ISS", "ISO", "ISA", "ISM", "IGC", "RCA"),
    "author": ("TAS", "NAS"),
    "curator": ("IC",),
    "electronic": ("IEA",),
}
"""Groups of evidence codes (geneontology.org/docs/guide-go-evidence-codes). ND (no data) is never used."""

GENE_COLUMNS = (
    "gene",
    "gene_symbol",
    "symbol",
    "gene_symbols",
    "genes",
    "gene_name",
    "hgnc_symbol",
    "gene_id",
    "gene_ids",
)
TERM_COLUMNS = ("term", "go_id", "term_id", "pathway", "pathway_id", "gene_set", "geneset", "set", "annotation")
ASPECT_COLUMNS = ("aspect", "domain", "go_domain", "namespace", "ontology")


@dataclass(frozen=True)
class Annotations:
    """Which gene has which term.

    Attributes
    ----------
    pairs
        Columns ``gene`` and ``term``, each pair once, sorted.
    left_out
        Gene -> why it has no term, for genes that the file names.
    notes
        What was left out, counted.
    """

    pairs: pd.DataFrame
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_annotations(
    path: str | Path,
    *,
    format: str = "auto",
    aspect: str = "all",
    evidence: Sequence[str] = ("all",),
    taxon: int | None = None,
    id_field: str = "symbol",
    gene_col: str | None = None,
    term_col: str | None = None,
) -> Annotations:
    """Read annotations of genes.

    Parameters
    ----------
    path
        - ``.gaf``: gene association file 1 or 2 (geneontology.org). Rows with the qualifier NOT and of evidence ND are left out;
        - ``.gmt``: a gene set a line: name, description, genes, with tabs between (MSigDB, Enrichr, Reactome);
        - ``NCBI2Reactome.txt`` and the like: gene, pathway, URL, name, evidence, species, without header;
        - ``.csv``, ``.tsv``, ``.txt``, ``.parquet``: a row for each pair, or for each term with its genes separated by ``|``.

        All but Parquet may be gzipped; a ``.gaf`` or ``.gmt`` may be alone in a ``.zip``.
    format
        ``gaf``, ``gmt``, ``reactome``, ``table``, or ``auto``: by the suffix.
    aspect
        ``BP``, ``MF``, ``CC`` or ``all``; for GAF, and for tables with a column of it (``aspect``, ``go_domain``, ...).
    evidence
        ``all``, or names of groups (``experimental``, ``author``, ...) and codes (``IDA``); for GAF.
    taxon
        NCBI taxon of the genes; needed if a GAF names several.
    id_field
        ``symbol`` or ``accession`` (``DB Object ID``) of a GAF.
    gene_col, term_col
        Columns of a table; detected by name unless given.

    Raises
    ------
    InputError
        The file cannot be read as that, an option does not fit it, or nothing is left.
    """
    path = require_exists(path)
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}.")
    if aspect not in ("all", *ASPECTS):
        raise InputError(f"aspect is {aspect!r}; it must be all, {', '.join(ASPECTS)}.")
    if id_field not in ("symbol", "accession"):
        raise InputError(f"id_field is {id_field!r}; it must be symbol or accession.")
    codes = evidence_codes(evidence)
    kind = format if format != "auto" else _format(path)
    if kind != "gaf" and (codes is not None or taxon is not None):
        raise InputError(f"{path}: evidence and taxon are of GAF files; this is read as {kind}.")
    if kind in ("gmt", "reactome") and aspect != "all":
        raise InputError(f"{path}: a {kind} file has no aspects; use aspect all.")
    if kind == "gaf":
        rows, seen, left = _read_gaf(path, aspect, codes, taxon, 2 if id_field == "symbol" else 1)
    elif kind == "gmt":
        rows, seen, left = _read_gmt(path)
    elif kind == "reactome":
        rows, seen, left = _read_reactome(path)
    else:
        rows, seen, left = _read_table(path, aspect, gene_col, term_col)
    if not rows:
        raise InputError(f"{path}: no annotation is left ({_counted(left) or 'the file has none'}).")
    pairs = (
        pd.DataFrame(rows, columns=["gene", "term"]).drop_duplicates().sort_values(["gene", "term"], ignore_index=True)
    )
    have = set(pairs["gene"])
    left_out = dict.fromkeys(sorted(seen - have), "all its annotations are left out by the options")
    notes = (f"left out: {_counted(left)}",) if left else ()
    return Annotations(pairs, left_out, notes)


def evidence_codes(evidence: Sequence[str]) -> frozenset[str] | None:
    """Return the evidence codes that groups and codes stand for; None for all of them."""
    known = {code for group in EVIDENCE.values() for code in group}
    codes: set[str] = set()
    for name in evidence:
        if name == "all":
            return None
        if name not in EVIDENCE and name not in known:
            raise InputError(
                f"evidence {name!r} is no group ({', '.join(['all', *EVIDENCE])}) and no code ({', '.join(sorted(known))})."
            )
        codes.update(EVIDENCE.get(name, (name,)))
    if not codes:
        raise InputError("evidence is empty; give all, or groups and codes.")
    return frozenset(codes)


Rows = tuple[list[tuple[str, str]], set[str], Counter[str]]
"""Pairs of gene and term, all genes that the file names, and what was left out, counted by reason."""


def _counted(left: Counter[str]) -> str:
    return ", ".join(f"{n} {why}" for why, n in left.items())


def _format(path: Path) -> str:
    kind = suffix(path.with_suffix("") if path.suffix.lower() == ".zip" else path)
    if kind in (".gaf", ".gmt"):
        return kind[1:]
    if kind not in (*TEXT_SUFFIXES, ".parquet"):
        raise InputError(f"{path}: {kind or 'no suffix'} tells no format; give format: {', '.join(FORMATS[1:])}.")
    if kind != ".parquet":
        first = next(read_lines(path), "").split("\t")
        if len(first) == 6 and re.match(r"R-[A-Z]{3}-\d+$", first[1]):
            return "reactome"
    return "table"


def _cells(path: Path, comment: str, least: int, what: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of the lines of a tab-separated file that are neither comment nor blank."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or (comment and line.startswith(comment)):
            continue
        cells = line.split("\t")
        if len(cells) < least:
            raise InputError(
                f"{path}, line {number}: {len(cells)} column(s) where {what} has at least {least}: {line!r:.60}."
            )
        yield number, cells


def _read_gaf(path: Path, aspect: str, codes: frozenset[str] | None, taxon: int | None, column: int) -> Rows:
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    left: Counter[str] = Counter()
    taxa: set[str] = set()
    letters = {letter for letter, _ in ASPECTS.values()}
    for number, cells in _cells(path, "!", 15, "a GAF"):
        name, term, code, letter = cells[column].strip(), cells[4].strip(), cells[6].strip(), cells[8].strip()
        for what, value in (("gene", name), ("term", term)):
            if not value:
                raise InputError(
                    f"{path}, line {number}: column {column + 1 if what == 'gene' else 5} ({what}) is empty."
                )
        if letter not in letters:
            raise InputError(f"{path}, line {number}: column 9 (aspect) is {letter!r}; it must be P, F or C.")
        # Of "taxon:9606|taxon:10376" the second is an interacting organism.
        organism = cells[12].split("|")[0].removeprefix("taxon:").strip()
        if taxon is not None and organism != str(taxon):
            left["rows of another taxon"] += 1
            continue
        taxa.add(organism)
        seen.add(name)
        if "NOT" in cells[3].split("|"):
            left["rows with the qualifier NOT"] += 1
        elif code == "ND":
            left["rows of evidence ND (no data)"] += 1
        elif aspect != "all" and letter != ASPECTS[aspect][0]:
            left["rows of another aspect"] += 1
        elif codes is not None and code not in codes:
            left["rows of other evidence"] += 1
        else:
            rows.append((name, term))
    if len(taxa) > 1:
        raise InputError(
            f"{path}: genes of {len(taxa)} taxa ({some(sorted(taxa), 8)}). Give taxon, e.g. 9606 for human."
        )
    return rows, seen, left


def _read_gmt(path: Path) -> Rows:
    rows: list[tuple[str, str]] = []
    left: Counter[str] = Counter()
    lines: dict[str, int] = {}
    for number, cells in _cells(path, "", 2, "a GMT (name, description, genes)"):
        name = cells[0].strip()
        if not name:
            raise InputError(f"{path}, line {number}: the gene set has no name.")
        if name in lines:
            raise InputError(
                f"{path}, line {number}: gene set {name!r} is also in line {lines[name]}. Keep or rename one."
            )
        lines[name] = number
        genes = [cell.strip() for cell in cells[2:] if cell.strip()]
        left["gene sets without genes"] += not genes
        # Some libraries of Enrichr write a weight behind the gene: "TP53,1.0".
        rows += [(gene.partition(",")[0], name) for gene in genes]
    return rows, {gene for gene, _ in rows}, +left


def _read_reactome(path: Path) -> Rows:
    rows: list[tuple[str, str]] = []
    left: Counter[str] = Counter()
    for number, cells in _cells(path, "#", 6, "a file of Reactome"):
        if not cells[0].strip() or not cells[1].strip():
            raise InputError(f"{path}, line {number}: the gene or the pathway is empty.")
        if cells[1].startswith("R-HSA-"):
            rows.append((cells[0].strip(), cells[1].strip()))
        else:
            left["rows of other species than human"] += 1
    return rows, {gene for gene, _ in rows}, left


def _read_table(path: Path, aspect: str, gene_col: str | None, term_col: str | None) -> Rows:
    frame = read_frame(path, [c.lower() for c in (gene_col, term_col, *GENE_COLUMNS, *TERM_COLUMNS) if c])
    lower = {c.lower(): c for c in reversed(frame.columns)}
    found: list[str] = []
    for given, known, option in ((gene_col, GENE_COLUMNS, "gene_col"), (term_col, TERM_COLUMNS, "term_col")):
        if given is not None and given not in frame:
            raise InputError(f"{path}: no column {given!r}; it has {some(frame.columns, 12)}.")
        name = given or next((lower[c] for c in known if c in lower), None)
        if name is None:
            raise InputError(
                f"{path}: no column of {option[:4]}s ({', '.join(known)}); it has {some(frame.columns, 12)}. Give {option}."
            )
        found.append(name)
    genes, terms = (text_ids(frame[name].tolist(), f"column {name!r}", str(path)) for name in found)
    keep = [True] * len(frame)
    if aspect != "all":
        column = next((lower[c] for c in ASPECT_COLUMNS if c in lower), None)
        if column is None:
            raise InputError(f"{path}: no column of aspects ({', '.join(ASPECT_COLUMNS)}); use aspect all.")
        accepted = {aspect.lower(), *(name.lower() for name in ASPECTS[aspect])}
        values = [str(value).strip().lower().replace(" ", "_") for value in frame[column]]
        known_values = {name.lower() for key, names in ASPECTS.items() for name in (key, *names)}
        strange = sorted(set(values) - known_values)
        if strange:
            raise InputError(f"{path}: column {column!r} holds {some(strange)}, no aspect of the Gene Ontology.")
        keep = [value in accepted for value in values]
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    for listed, term, wanted in zip(genes, terms, keep, strict=True):
        members = [gene.strip() for gene in listed.split("|") if gene.strip()]
        seen.update(members)
        if wanted:
            rows += [(gene, term) for gene in members]
    dropped = keep.count(False)
    return rows, seen, Counter({"rows of another aspect": dropped} if dropped else {})

"""The table of genes behind the resolver: HGNC, shipped with the package or read from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

from panmodal._tables import read_frame
from panmodal.errors import InputError

GENE_COLUMNS = ("hgnc_id", "symbol", "name", "ensembl_id", "entrez", "uniprot_id", "locus")
"""Columns of :attr:`GeneTable.genes`; a cell of ``uniprot_id`` may hold several accessions."""

LEVELS = ("symbol", "previous symbol", "alias")
"""How a symbol names a gene, the surest first; a surer one beats the others."""

_ACCEPTED = {
    "hgnc_id": ("hgnc_id", "hgnc id"),
    "symbol": ("symbol", "approved symbol"),
    "name": ("name", "approved name"),
    "status": ("status",),
    "alias": ("alias_symbol", "alias symbols", "alias symbol", "synonyms"),
    "previous": ("prev_symbol", "previous symbols", "previous symbol"),
    "ensembl_id": ("ensembl_gene_id", "ensembl_id", "ensembl gene id", "ensembl id"),
    "entrez": ("entrez_id", "entrez", "ncbi gene id", "entrez gene id"),
    "uniprot_id": ("uniprot_ids", "uniprot_id", "uniprot id"),
    "locus": ("locus_type", "locus type", "locus_group", "locus group", "locus"),
}


@dataclass(frozen=True, eq=False)
class GeneTable:
    """Genes, and the other names they have or had.

    Parameters
    ----------
    genes
        One row per gene, columns :data:`GENE_COLUMNS`, text, empty where unknown.
    aliases
        Columns ``alias``, ``kind`` and ``hgnc_id``. Kinds: ``previous``; ``last``, a previous symbol which of several genes this
        one was the last to have; ``alias``; ``withdrawn id``; ``withdrawn``, an entry that HGNC has withdrawn without a successor.
    source
        Where it is from, for messages.
    """

    genes: pd.DataFrame
    aliases: pd.DataFrame
    source: str

    @classmethod
    def embedded(cls) -> GeneTable:
        """Return the shipped table: every approved HGNC gene, its previous symbols and aliases (loaded once)."""
        return _embedded()

    @classmethod
    def read(cls, path: str | Path) -> GeneTable:
        """Read ``hgnc_complete_set.txt``, a custom download of HGNC, or any table with a column ``symbol``.

        Needed: ``symbol``. Used where there: ``hgnc_id, name, status, alias_symbol, prev_symbol, ensembl_gene_id, entrez_id,
        uniprot_ids, locus_type`` (or the headings of a custom download, ``Approved symbol`` ...). Rows whose status is not
        ``Approved`` are kept as withdrawn names. Without ``hgnc_id`` the symbol is the key.

        Raises
        ------
        InputError
            The file cannot be read, has no symbols, or holds an HGNC id twice.
        """
        frame = read_frame(path, text_columns=[name for names in _ACCEPTED.values() for name in names])
        heads = {re.sub(r"\s*\(.*\)$", "", str(c)).strip().lower(): c for c in frame.columns}
        column = {field: next((heads[n] for n in names if n in heads), None) for field, names in _ACCEPTED.items()}
        if column["symbol"] is None:
            raise InputError(
                f"{path}: no column 'symbol' among {', '.join(map(str, frame.columns[:12]))}. Give hgnc_complete_set.txt of HGNC, "
                "or a table with the columns hgnc_id, symbol and, where known, ensembl_gene_id, entrez_id, uniprot_ids, "
                "prev_symbol, alias_symbol (several in a cell joined by |)."
            )
        cells = {field: _text(frame, name) for field, name in column.items()}
        if (cells["symbol"] == "").any():
            row = int((cells["symbol"] == "").to_numpy().argmax()) + 1
            raise InputError(f"{path}: column {column['symbol']!r} is empty in row {row}. Fill it or remove the row.")
        cells["entrez"] = cells["entrez"].str.replace(r"\.0$", "", regex=True)
        if column["hgnc_id"] is None:
            cells["hgnc_id"] = cells["symbol"]
        cells["hgnc_id"] = cells["hgnc_id"].where(~cells["hgnc_id"].str.fullmatch(r"\d+"), "HGNC:" + cells["hgnc_id"])
        approved = (cells["status"].str.lower() == "approved") | (cells["status"] == "")
        # A custom download joins names with ", ", the complete set with "|".
        custom = column["previous"] in (None, "prev_symbol") and column["alias"] in (None, "alias_symbol")
        separator = r"\|" if custom else r", |\|"
        rows: list[tuple[str, str, str]] = []
        for kind in ("previous", "alias"):
            for gene, text in zip(cells["hgnc_id"][approved], cells[kind][approved], strict=True):
                rows += [(name.strip(), kind, gene) for name in re.split(separator, text.strip('"')) if name.strip()]
        for gene, symbol, name in zip(*(cells[c][~approved] for c in ("hgnc_id", "symbol", "name")), strict=True):
            successors = [s for s in re.findall(r"HGNC:\d+", name) if s != gene]
            for successor in dict.fromkeys(successors):
                rows += [(symbol, "previous", successor), (gene, "withdrawn id", successor)]
            if not successors:
                rows.append((symbol, "withdrawn", gene))
        genes = pd.DataFrame({c: cells[c][approved] for c in GENE_COLUMNS}).reset_index(drop=True)
        return cls.build(genes, pd.DataFrame(rows, columns=["alias", "kind", "hgnc_id"]), str(path))

    @classmethod
    def build(cls, genes: pd.DataFrame, aliases: pd.DataFrame, source: str) -> GeneTable:
        """Make a table of these frames, checked."""
        twice = genes["hgnc_id"][genes["hgnc_id"].duplicated()]
        if len(twice):
            raise InputError(f"{source}: gene {twice.iloc[0]!r} appears more than once. Keep one row for each gene.")
        if not len(genes):
            raise InputError(f"{source}: no approved gene in the table.")
        known = aliases["hgnc_id"].isin(set(genes["hgnc_id"])) | (aliases["kind"] == "withdrawn")
        return cls(genes, aliases[known].drop_duplicates().reset_index(drop=True), source)

    def __len__(self) -> int:
        return len(self.genes)

    @cached_property
    def ids(self) -> list[str]:
        """HGNC id of each gene."""
        return self.genes["hgnc_id"].tolist()

    @cached_property
    def symbols(self) -> list[str]:
        """Current symbol of each gene."""
        return self.genes["symbol"].tolist()

    @cached_property
    def by_symbol(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """For each of :data:`LEVELS`: text -> rows of the genes that it names."""
        return (
            _index((s, k) for k, s in enumerate(self.symbols)),
            {**self._of("previous"), **self._of("last")},
            self._of("alias"),
        )

    @cached_property
    def earlier(self) -> dict[str, tuple[int, ...]]:
        """Previous symbols -> rows of all genes that had them, also those that were not the last to."""
        return self._of("previous")

    def _of(self, kind: str) -> dict[str, tuple[int, ...]]:
        chosen = self.aliases[self.aliases["kind"] == kind]
        return _index(zip(chosen["alias"], (self._row[g] for g in chosen["hgnc_id"]), strict=True))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {gene: k for k, gene in enumerate(self.ids)}

    @cached_property
    def by_upper(self) -> dict[str, list[tuple[int, int]]]:
        """Text in upper case -> (level, row) of the genes that it names in any letter case."""
        out: dict[str, list[tuple[int, int]]] = {}
        for level, names in enumerate(self.by_symbol):
            for text, rows in names.items():
                out.setdefault(text.upper(), []).extend((level, row) for row in rows)
        return out

    @cached_property
    def accessions(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """For ``HGNC``, ``Ensembl``, ``Entrez`` and ``UniProt``: accession -> rows of genes."""
        row = self._row
        old = self.aliases[self.aliases["kind"] == "withdrawn id"]
        return {
            "HGNC": _index([*row.items(), *((a, row[g]) for a, g in zip(old["alias"], old["hgnc_id"], strict=True))]),
            "Ensembl": _index((e, k) for k, e in enumerate(self.genes["ensembl_id"]) if e),
            "Entrez": _index((e, k) for k, e in enumerate(self.genes["entrez"]) if e),
            "UniProt": _index(
                (accession, k)
                for k, cell in enumerate(self.genes["uniprot_id"])
                if cell
                for accession in re.split(r"[|,\s]+", cell)
            ),
        }

    @cached_property
    def withdrawn(self) -> frozenset[str]:
        """Symbols of entries that HGNC has withdrawn without a successor."""
        return frozenset(self.aliases["alias"][self.aliases["kind"] == "withdrawn"])


def _text(frame: pd.DataFrame, name: str | None) -> pd.Series:
    if name is None:
        return pd.Series([""] * len(frame), index=frame.index, dtype=object)
    values = frame[name]
    return values.astype(object).where(values.notna(), "").astype(str).str.strip()


def _index(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    out: dict[str, tuple[int, ...]] = {}
    for text, row in pairs:
        known = out.get(text)
        if known is None:
            out[text] = (row,)
        elif row not in known:
            out[text] = (*known, row)
    return out


@lru_cache(maxsize=1)
def _embedded() -> GeneTable:
    data = files("panmodal.data")

    def load(name: str) -> pd.DataFrame:
        with data.joinpath(name).open("rb") as stream:
            return pd.read_parquet(stream)

    coding, others, aliases = (load(f"hgnc_{n}.parquet") for n in ("protein_coding", "other_genes", "aliases"))
    coding = coding.assign(locus="gene with protein product")
    # To save space the two other tables hold numbers: 5 for HGNC:5, 121410 for ENSG00000121410.
    others = pd.DataFrame({
        "hgnc_id": "HGNC:" + others["hgnc"].astype(str),
        "symbol": others["symbol"],
        "name": "",
        "ensembl_id": ("ENSG" + others["ensembl"].astype(str).str.zfill(11)).where(others["ensembl"] > 0, ""),
        "entrez": others["entrez"].astype(str).where(others["entrez"] > 0, ""),
        "uniprot_id": "",
        "locus": others["locus"].astype(str),
    })  # fmt: skip
    genes = pd.concat([coding[list(GENE_COLUMNS)], others], ignore_index=True).astype(object)
    genes = genes.where(genes.notna(), "")
    names = pd.DataFrame({
        "alias": aliases["alias"],
        "kind": aliases["kind"].astype(str),
        "hgnc_id": "HGNC:" + aliases["hgnc"].astype(str),
    })  # fmt: skip
    return GeneTable.build(genes, names, "the shipped HGNC table")

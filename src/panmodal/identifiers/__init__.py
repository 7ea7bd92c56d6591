"""Identifiers of genes and compounds: which one is meant, said for every id, never guessed."""

from panmodal.identifiers.compound_table import CompoundTable
from panmodal.identifiers.compounds import CompoundResolver
from panmodal.identifiers.gene_table import GeneTable
from panmodal.identifiers.genes import GeneResolver
from panmodal.identifiers.match_report import Match
from panmodal.identifiers.matching import match_ids
from panmodal.identifiers.report import Resolution, Resolved
from panmodal.identifiers.structures import canonical_smiles, inchikey

__all__ = [
    "CompoundResolver", "CompoundTable", "GeneResolver", "GeneTable", "Match", "Resolution", "Resolved", "canonical_smiles",
    "inchikey", "match_ids",
]  # fmt: skip

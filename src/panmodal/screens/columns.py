"""Finding the columns of other people's files: which holds the perturbation, which the context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from panmodal.errors import InputError, some

PERTURBATION_COLUMNS = (
    "pert_id", "perturbation", "perturbation_id", "perturbation_name", "pert", "pert_name", "pert_iname", "condition",
    "target_gene", "gene_target", "target", "gene", "gene_id", "gene_symbol", "gene_name", "symbol", "guide_target",
    "drug", "compound", "compound_name", "drug_name", "product_name", "treatment", "pubchem_cid", "sm_name",
)  # fmt: skip
"""Names of a perturbation column, the most explicit first; upper and lower case are the same."""

CONTEXT_COLUMNS = (
    "cell_line", "context", "cell_type", "celltype", "cellline", "cell_line_name", "cell_line_id", "cell", "cells",
)  # fmt: skip
"""Names of a context column, the most explicit first."""

BATCH_COLUMNS = (
    "batch", "gem_group", "gemgroup", "plate", "plate_id", "plate_name", "bio_rep", "biorep", "replicate", "rep", "batch_id",
    "sequencing_batch", "lane", "channel", "library", "library_id", "donor_id", "donor", "orig.ident", "sample", "sample_id",
)  # fmt: skip
"""Names of a batch or plate column of cells, the most explicit first."""

ANNOTATION_COLUMNS = frozenset(
    {"smiles", "canonical_smiles", "pubchem_cid", "dose", "dose_value", "concentration", "time", "timepoint", "batch",
     "plate", "n_cells", "ncells", "cell_count", "num_cells", "fold", "test_split", "split", "moa", "targets", "row",
     "moa-broad", "moa-fine", "inchikey", "entrez", "ensembl"}
    | {f"fold_{k}" for k in range(10)}
)  # fmt: skip
"""Columns of a plain table that describe a row and are not read-outs."""


def find_column(
    columns: Iterable[str], candidates: Sequence[str], given: str | None, what: str, flag: str, where: str
) -> tuple[str | None, list[str]]:
    """Return the column to use and the other columns that could have been meant.

    Raises
    ------
    InputError
        ``given`` is not among the columns.
    """
    present = [str(c) for c in columns]
    if given is not None:
        if given in present:
            return given, []
        raise InputError(
            f"{where}: no column {given!r} for the {what}; there are {some(present, 12)}. Give another {flag}."
        )
    by_lower: dict[str, str] = {}
    for column in present:
        by_lower.setdefault(column.lower(), column)
    found = [by_lower[name] for name in candidates if name in by_lower]
    return (found[0], found[1:]) if found else (None, [])

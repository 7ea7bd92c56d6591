"""Telling a long table of differential-expression tests from other tables, and which of its columns mean what."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from panmodal._tables import TEXT_SUFFIXES, suffix
from panmodal.errors import InputError, some
from panmodal.screens.columns import CONTEXT_COLUMNS, PERTURBATION_COLUMNS, find_column
from panmodal.screens.reading import INDEX
from panmodal.screens.screen import response_kind

READOUT_COLUMNS = ("feature", "variable", "response_id")
"""Gene columns of tests by pdex, pertpy, sceptre: with one of these, a column ``gene`` can only be the perturbation."""

GENE_COLUMNS = (
    *READOUT_COLUMNS, "names", "gene", "gene_name", "gene_symbol", "symbol", "gene_id", "gene_names", "gene_ids",
)  # fmt: skip
"""Names of the gene column. In this and the next, capitals and signs make no difference: ``adj.P.Val`` is ``adj_p_val``."""

TESTED_COLUMNS = (
    *(c for c in PERTURBATION_COLUMNS if c not in GENE_COLUMNS), "grna_target", "group", "contrast", "cluster",
)  # fmt: skip
"""Names of the perturbation column of a table of tests: as elsewhere, then those of sceptre, scanpy, pertpy and Seurat."""

RATIO_COLUMN = "fold_change"
"""An effect that is a ratio (pdex 0.1); used only where there is no other effect."""

EFFECT_COLUMNS = (
    "log2_fold_change", "log_2_fold_change", "log2_fc", "logfoldchanges", "avg_log2fc", "log_fc", "avg_logfc",
    "log_fold_change", "lfc", RATIO_COLUMN,
)  # fmt: skip
"""Names of effects: pdex and DESeq2; sceptre; scanpy; Seurat; edgeR, limma and pertpy; Seurat before version 4."""

ADJUSTED_COLUMNS = (
    "fdr", "padj", "pvals_adj", "p_val_adj", "adj_p_val", "adj_p_value", "p_adj", "p_value_adj", "adjusted_p_value", "fwer",
    "q_value", "q_val",
)  # fmt: skip
"""Names of adjusted p-values: pdex and edgeR; DESeq2; scanpy; Seurat; limma; pertpy; others (edgeR writes FWER after Holm)."""

RAW_COLUMNS = ("p_value", "pvals", "p_val")
"""Names of p-values that are not adjusted: pdex, DESeq2, edgeR, limma, pertpy, sceptre; scanpy; Seurat."""


@dataclass(frozen=True)
class DegColumns:
    """Which columns of a table of tests mean what; ``spare`` are those that could have been meant too."""

    names: list[str]
    perturbation: str
    gene: str
    effect: str
    p: str
    adjusted: bool
    contexts: list[str]
    contexts_given: list[str]
    spare: list[str]

    @property
    def ratio(self) -> bool:
        """Whether the effect is a ratio, to be taken as log2."""
        return _key(self.effect) == _key(RATIO_COLUMN)

    @property
    def note(self) -> str:
        """What was chosen."""
        text = (
            f"a table of tests: perturbations from column {self.perturbation!r}, genes from {self.gene!r}, effects from "
            f"{self.effect!r}{' (ratios, taken as log2)' * self.ratio}, {'adjusted ' * self.adjusted}p from {self.p!r}"
        )
        return text + (f"; also present: {', '.join(self.spare)}" if self.spare else "")


def find_deg_columns(
    path: Path, pert_col: str | None, context_col: str | Sequence[str] | None, response: str | None
) -> DegColumns | None:
    """Tell whether a file is a long table of tests, and which columns it has; None for any other table.

    It is one if it has a gene column, an effect column and a column of p-values besides the perturbation. Only the names of
    the columns are read. Parameters are those of :func:`panmodal.screens.reading.read_screen`.

    Raises
    ------
    InputError
        It is one, but no column is left for the perturbation, a named column is not there or one is repeated, or a response
        other than ``deg`` is asked for.
    """
    where, names = str(path), _column_names(path)
    given = [context_col] if isinstance(context_col, str) else list(context_col or [])
    tested = [names[0]] if pert_col == INDEX and names else [pert_col] if pert_col else []
    free = [n for n in names if n not in (*tested, *given)]
    genes, effects = _present(free, GENE_COLUMNS), _present(free, EFFECT_COLUMNS)
    adjusted, raw = _present(free, ADJUSTED_COLUMNS), _present(free, RAW_COLUMNS)
    if not (genes and effects and (adjusted or raw)):
        return None
    gene, effect, p = genes[0], effects[0], [*adjusted, *raw][0]
    if not tested:
        # Beside ``names`` a gene_symbol is scanpy's, beside ``gene`` a gene_name is an annotation: no perturbations.
        fallback = GENE_COLUMNS if _key(gene) in map(_key, READOUT_COLUMNS) else ()
        tested = _present([n for n in free if n != gene], (*TESTED_COLUMNS, *fallback))
    is_deg = response is None or response_kind(response, where).name == "deg"
    looks = f"{where}: columns {gene!r}, {effect!r} and {p!r} make it a table of tests, "
    if not tested and is_deg:
        raise InputError(
            f"{looks}but none says which perturbation was tested. Add one, such as 'perturbation', or name it with --pert-col. "
            "(If every row is a perturbation and the columns are read-outs, say so with --response.)"
        )
    if not tested:
        return None
    if not is_deg:
        raise InputError(
            f"{looks}which gives DEG labels, not {response!r}. Leave --response out, or rename the columns."
        )
    find_column(names, (), tested[0], "perturbation", "--pert-col", where)
    for each in given:
        find_column(names, (), each, "context", "--context-col", where)
    others = [n for n in names if n not in (tested[0], gene, effect, p)]
    found, _ = find_column(others, CONTEXT_COLUMNS, None, "context", "--context-col", where)
    contexts = list(dict.fromkeys(given)) or ([found] if found else [])
    twice = [n for n in (tested[0], gene, effect, p, *contexts) if names.count(n) > 1]
    if twice:
        raise InputError(f"{where}: columns {some(twice)} appear more than once. Rename or remove the repeated ones.")
    spare = [n for n in dict.fromkeys((*tested, *genes, *effects, *adjusted)) if n in others and n not in contexts]
    return DegColumns(names, tested[0], gene, effect, p, bool(adjusted), contexts, given, spare)


def _key(name: str) -> str:
    """Return what stays of a name when capitals and signs make no difference: ``adj.P.Val`` is ``adj_p_val``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _present(names: Iterable[str], candidates: Iterable[str]) -> list[str]:
    """Return the names that are among the candidates, in the order of those."""
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(_key(name), name)
    return [by_key[key] for key in dict.fromkeys(map(_key, candidates)) if key in by_key]


def _column_names(path: Path) -> list[str]:
    """Read the names of the columns only; none if they cannot be read (reading the table then says why)."""
    import pyarrow.parquet

    kind = suffix(path)
    try:
        if kind == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
            index = [n for n in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(n, str)]
            return [*index, *(n for n in schema.names if n not in index)]
        if kind in TEXT_SUFFIXES:
            opened = gzip.open if path.suffix.lower() == ".gz" else open
            with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
                return next(filter(None, csv.reader(lines, delimiter=TEXT_SUFFIXES[kind])), [])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error, pa.ArrowException):
        pass
    return []

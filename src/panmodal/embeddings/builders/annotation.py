"""Annotation embeddings: what is known of a gene (Gene Ontology, Reactome, any gene sets)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from panmodal.embeddings.annotation import annotation_vectors
from panmodal.embeddings.annotations import read_annotations
from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.ontology import propagate


def annotation(
    *,
    terms: Annotated[Path, "gaf, gmt, NCBI2Reactome.txt (and the like), or a csv, tsv or parquet of genes and terms"],
    format: Annotated[
        Literal["auto", "gaf", "gmt", "reactome", "table"], "what the file is; auto goes by its suffix"
    ] = "auto",
    aspect: Annotated[Literal["all", "BP", "MF", "CC"], "aspect of the Gene Ontology"] = "all",
    evidence: Annotated[
        tuple[str, ...], "of a gaf: all, or groups (experimental, author, electronic, ...) and codes (IDA, ...)"
    ] = ("all",),
    taxon: Annotated[int | None, "of a gaf: NCBI taxon, needed if it names several (9606 is human)"] = None,
    id_field: Annotated[Literal["symbol", "accession"], "of a gaf: what stands for the gene"] = "symbol",
    gene_col: Annotated[str | None, "of a table: column of genes (may hold several with | between)"] = None,
    term_col: Annotated[str | None, "of a table: column of terms"] = None,
    ontology: Annotated[Path | None, "OBO file (go-basic.obo): genes get the terms above theirs, too"] = None,
    dims: Annotated[int, "dimensions kept"] = 128,
    min_genes: Annotated[int, "terms of fewer genes are left out"] = 2,
    max_share: Annotated[float, "terms of more than this share of all genes (0 to 1) are left out"] = 1.0,
    idf: Annotated[bool, "weight terms by inverse document frequency"] = True,
    unit_norm: Annotated[bool, "scale genes to unit norm before the factorisation"] = True,
    scale: Annotated[Literal["sqrt", "full", "none"], "vectors are U sqrt(S), U S or U"] = "sqrt",
) -> Built:
    """Factorise the gene x term matrix by truncated SVD."""
    found = read_annotations(
        terms, format=format, aspect=aspect, evidence=evidence, taxon=taxon, id_field=id_field, gene_col=gene_col,
        term_col=term_col,
    )  # fmt: skip
    if ontology is not None:
        found = propagate(found, ontology, aspect=aspect)
    ids, vectors, left_out = annotation_vectors(
        found.pairs, dims, min_genes=min_genes, max_share=max_share, idf=idf, unit_norm=unit_norm, scale=scale
    )
    notes = (f"{found.pairs['term'].nunique()} terms of {found.pairs['gene'].nunique()} genes", *found.notes)
    return Built(ids, vectors.astype(np.float32), left_out={**found.left_out, **left_out}, notes=notes)


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lines = ["!gaf-version: 2.2"]
    for k in range(30):
        for t in sorted({k % 6, *rng.integers(0, 12, 3).tolist()}):
            cells = ["UniProtKB", f"P{k:05d}", f"GENE{k}", "involved_in", f"GO:{t:07d}", "PMID:1", "IDA", "", "P", "", "",
                     "protein", "taxon:9606", "20260101", "Toy", "", ""]  # fmt: skip
            lines.append("\t".join(cells))
    path = folder / "toy.gaf"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"terms": path, "dims": 4}


BUILDERS = (
    Builder(
        name="annotation",
        modality="annotation",
        description="truncated SVD of gene x term: Gene Ontology, Reactome or any gene sets",
        function=annotation,
        example=_example,
        id_namespace="as in the source",
        citation="Gene Ontology Consortium, Genetics 2023, doi:10.1093/genetics/iyad031",
        url="https://geneontology.org",
    ),
)
"""Records of this module."""

"""Homology embeddings: from the similarity of protein sequences to a vector for each gene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._tables import TEXT_SUFFIXES, number_columns, read_frame, require_exists, suffix, text_ids
from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.embeddings.fasta import FastaRecord
from panmodal.embeddings.network import adjacency
from panmodal.embeddings.texts import read_lines
from panmodal.errors import InputError, some

M8_SUFFIXES = (".m8", ".tab", ".blast", ".b6", ".outfmt6")
"""Suffixes of the tabular output of BLAST, DIAMOND and MMseqs2, which has no header."""

ENDS = (("a", "b"), ("query", "target"), ("qseqid", "sseqid"), ("source", "target"), ("gene1", "gene2"))
IDENTITY = ("identity", "id", "pident", "fident", "fraction_identical", "percent_identity", "pid")


def homology_vectors(
    edges: pd.DataFrame, dims: int = 128, *, identity: str = "id"
) -> tuple[list[str], NDArray[np.float64]]:
    """Factorise the matrix of sequence identities (1 on the diagonal) by truncated SVD.

    Parameters
    ----------
    edges
        Columns ``a``, ``b`` and ``identity`` (fraction identical, above 0 up to 1). The order of rows and of the ends of an
        edge makes no difference; of a pair listed twice the larger identity counts.
    dims
        Dimensions kept.
    identity
        Name of the column.

    Returns
    -------
    tuple
        Ids that have a homolog (sorted), and their vectors.
    """
    from scipy.sparse import eye_array

    names, graph = adjacency(edges, weight=identity)
    similarity = graph + eye_array(len(names))
    return names, truncated_svd(similarity.tocsr(), dims)


def homology_svd(edges: pd.DataFrame, card: Card, *, dims: int = 128, identity: str = "id") -> Embedding:
    """Embed genes by :func:`homology_vectors`. Genes without any homolog get no vector."""
    names, vectors = homology_vectors(edges, dims, identity=identity)
    return Embedding(tuple(names), vectors.astype(np.float32), card)


def read_homology(path: str | Path, *, identity: str = "auto") -> tuple[pd.DataFrame, str]:
    """Read pairs of homologous sequences.

    Parameters
    ----------
    path
        - ``.m8``, ``.tab``, ``.b6``, ... (gz): tabular output of BLAST (``-outfmt 6``), DIAMOND or MMseqs2, without header:
          query, target, identity, ..., the 11th column the E-value. UniProt names (``sp|P04637|P53_HUMAN``) become accessions;
        - ``.parquet``, ``.csv``, ``.tsv`` (gz): columns ``a``, ``b`` (or ``query``, ``target``; ``qseqid``, ``sseqid``) and
          ``id`` (``identity``, ``pident``, ``fident``), perhaps ``evalue``.
    identity
        Unit: ``fraction`` (0 to 1, MMseqs2), ``percent`` (0 to 100, BLAST and DIAMOND) or ``auto``: percent if any value is
        above 1.

    Returns
    -------
    tuple
        Columns ``a``, ``b``, ``id`` (fraction), ``evalue`` (NaN where there is none); and the unit found.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column, or an identity is out of range.
    """
    path = require_exists(path)
    kind = suffix(path)
    if identity not in ("auto", "fraction", "percent"):
        raise InputError(f"identity is {identity!r}; it must be auto, fraction or percent.")
    if kind in M8_SUFFIXES:
        found = _read_m8(path)
    elif kind in (*TEXT_SUFFIXES, ".parquet"):
        found = _read_table(path)
    else:
        raise InputError(
            f"{path}: {kind or 'no suffix'} is no table of homologs ({', '.join(M8_SUFFIXES)}, csv, tsv, parquet)."
        )
    values = found["id"].to_numpy(float)
    unit = identity if identity != "auto" else "percent" if (values > 1).any() else "fraction"
    top = 100.0 if unit == "percent" else 1.0
    bad = np.flatnonzero(~((values >= 0) & (values <= top)))
    if len(bad):
        row = found.iloc[int(bad[0])]
        raise InputError(
            f"{path}: identity {row['id']} of {row['a']!r} and {row['b']!r} is no {unit} (0 to {top:g}); "
            f"{len(bad)} such row(s)."
        )
    found["id"] = values / top
    return found, unit


def _read_m8(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        try:
            e_value = float(cells[10]) if len(cells) > 10 else np.nan
            rows.append((_name(cells[0]), _name(cells[1]), float(cells[2]), e_value))
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}, line {number}: not tabular output (query, target, identity, ...; tabs between): {line!r:.60}."
            ) from error
    if not rows:
        raise InputError(f"{path}: no pairs in it.")
    return pd.DataFrame(rows, columns=["a", "b", "id", "evalue"])


def _read_table(path: Path) -> pd.DataFrame:
    frame = read_frame(path, [end for pair in ENDS for end in pair])
    lower = {c.lower(): c for c in reversed(frame.columns)}
    ends = next((pair for pair in ENDS if set(pair) <= set(lower)), None)
    score = next((lower[c] for c in IDENTITY if c in lower), None)
    if ends is None or score is None:
        raise InputError(
            f"{path}: needs columns 'a', 'b' (or query, target) and 'id' (or pident, fident); it has "
            f"{some(frame.columns, 12)}. Files without header: name them {path.stem}.m8."
        )
    a, b = (
        [_name(i) for i in text_ids(frame[lower[end]].tolist(), f"column {lower[end]!r}", str(path))] for end in ends
    )
    columns = [score, lower["evalue"]] if "evalue" in lower else [score]
    numbers = number_columns(frame, columns, str(path), a)
    return pd.DataFrame({"a": a, "b": b, "id": numbers[:, 0], "evalue": numbers[:, 1] if len(columns) > 1 else np.nan})


def _name(text: str) -> str:
    """Return the accession of a UniProt name; other names as they are."""
    text = text.strip()
    return FastaRecord(text, text, "").accession if text.startswith(("sp|", "tr|")) else text

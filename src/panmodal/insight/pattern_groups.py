"""Groups of perturbations or genes that are predicted better, or worse, than the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy import sparse, stats

from panmodal.errors import InputError
from panmodal.identifiers import GeneResolver
from panmodal.perturbation_ids import parts

SMALLEST = 5
"""Groups with fewer members among the ids are not tested."""
COLUMNS = ["group", "n", "auc", "median", "median_others", "p", "q", "members", "same_as"]


@cache
def _terms() -> pd.DataFrame:
    with files("panmodal").joinpath("data/go_bp_gene_terms.parquet").open("rb") as handle:
        return pd.read_parquet(handle)


@cache
def _resolver() -> GeneResolver:
    return GeneResolver()


def gene_terms(ids: Sequence[str]) -> pd.DataFrame:
    """Biological processes (Gene Ontology, the shipped table) of those ids that name human genes.

    A combination ``A+B`` has the terms of its parts. The shipped table numbers the terms and does not name them; a table with
    names (Reactome, CORUM, GO) can be given in its place wherever groups are asked for.

    Returns
    -------
    pandas.DataFrame
        ``pert_id``, ``group``; empty where fewer than half of the ids name genes (compounds, simulated genes).
    """
    pieces = [(i, part) for i in ids for part in parts(i)]
    symbols = _resolver().resolve([part for _, part in pieces]).labels if pieces else {}
    named = pd.DataFrame([(i, symbols[p]) for i, p in pieces if p in symbols], columns=["pert_id", "gene"])
    if named["pert_id"].nunique() * 2 < len(set(ids)):
        return pd.DataFrame(columns=["pert_id", "group"])
    found = named.merge(_terms(), on="gene")
    found["group"] = "GO BP no. " + found["term"].astype(str)
    return found[["pert_id", "group"]].drop_duplicates().reset_index(drop=True)


def enrichment(values: pd.Series, groups: pd.DataFrame, *, smallest: int = SMALLEST) -> pd.DataFrame:
    """Test for each group whether its members have larger, or smaller, values than all others.

    Two-sided Mann-Whitney test in the normal approximation with tie and continuity correction (Mann and Whitney 1947), all
    groups at once, then Benjamini-Hochberg over the groups. It uses ranks only, so that a permutation of the values would give
    the same null distribution; members of a group are taken as independent, which paralogues and partners of one complex are
    not.

    Parameters
    ----------
    values
        Index: ids; undefined values are left out.
    groups
        Columns ``pert_id`` and ``group``; ids without a value are passed over.
    smallest
        Fewest members with a value; groups that hold more than half of the ids are not tested either.

    Returns
    -------
    pandas.DataFrame
        One row per tested group, smallest p first: ``group``, ``n`` (members), ``auc`` (probability that a member has a larger
        value than another id), ``median`` and ``median_others``, ``p``, ``q`` (BH), ``members`` (those with the largest values,
        up to 6), ``same_as`` (other groups with the same members among the ids, which are not tested again).
    """
    missing = [c for c in ("pert_id", "group") if c not in groups]
    if missing:
        raise InputError(f"table of groups: no column {missing[0]!r}; it needs pert_id and group.")
    if not values.index.is_unique:
        raise InputError("values to test groups with: an id occurs twice.")
    values = values.dropna().astype(float)
    n = len(values)
    pairs = groups.loc[groups["pert_id"].isin(values.index), ["pert_id", "group"]].drop_duplicates()
    size = pairs.groupby("group", sort=False)["pert_id"].transform("size")
    pairs = pairs[(size >= smallest) & (size <= n / 2)]
    if pairs.empty:
        return pd.DataFrame(columns=COLUMNS)
    names = sorted(set(pairs["group"]))
    row, column = pd.Index(names).get_indexer(pairs["group"]), values.index.get_indexer(pairs["pert_id"])
    member = sparse.csr_matrix((np.ones(len(pairs)), (row, column)), shape=(len(names), n))
    member.sort_indices()
    sets: dict[bytes, list[int]] = {}
    for k in range(len(names)):
        sets.setdefault(member.indices[member.indptr[k] : member.indptr[k + 1]].tobytes(), []).append(k)
    first = np.array([same[0] for same in sets.values()])
    member = member[first]
    ranks = stats.rankdata(values.to_numpy())
    m = np.asarray(member.sum(axis=1)).ravel()
    u = member @ ranks - m * (m + 1) / 2
    ties = np.unique(ranks, return_counts=True)[1].astype(float)
    spread = np.sqrt(m * (n - m) / 12 * (n + 1 - (ties**3 - ties).sum() / (n * (n - 1))))
    away = np.maximum(np.abs(u - m * (n - m) / 2) - 0.5, 0.0)
    p = np.minimum(2 * stats.norm.sf(np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)), 1.0)
    ordered, ids = values.to_numpy(), values.index.to_numpy()
    records = []
    for k, same in enumerate(sets.values()):
        own = member.indices[member.indptr[k] : member.indptr[k + 1]]
        rest = np.ones(n, dtype=bool)
        rest[own] = False
        top = own[np.argsort(-ordered[own], kind="stable")][:6]
        records.append((
            names[same[0]], len(own), u[k] / (m[k] * (n - m[k])), np.median(ordered[own]), np.median(ordered[rest]), p[k], np.nan,
            ", ".join(map(str, ids[top])), ", ".join(names[j] for j in same[1:]),
        ))  # fmt: skip
    table = pd.DataFrame(records, columns=COLUMNS)
    table["q"] = stats.false_discovery_control(table["p"].to_numpy())
    return table.sort_values(["p", "group"], kind="stable").reset_index(drop=True)

"""Checks for near-duplicates: test perturbations that have a relative in training, and the scores without them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.errors import some
from panmodal.insight.checks.case import Case
from panmodal.insight.checks.knowledge import COMPOUNDS, GENES
from panmodal.insight.checks.record import Check, Finding, Option, Unchecked
from panmodal.insight.checks.relations import across_folds, every_group, relate_ids, report_leak
from panmodal.perturbation_ids import parts

SKELETON, SCAFFOLD, SIMILAR = "same skeleton", "same scaffold", "similar"
NOT_GENES = "most perturbations are no genes that the shipped tables know"
NOT_COMPOUNDS = "most perturbations are no compounds that the shipped table, or a given one (--compounds), knows"
BLOCK = 2048
"""Rows of the matrix of similarities that are held at once."""


def homologs(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for test genes with a homolog (paralog) in training.

    Homologs are pairs of human proteins of the shipped table whose fraction of identical residues is at least
    `min_identity` (the table has 0.3 and more). A combination has one if a part of it has. Every method is scored
    again on the test ids that have none: means over folds of means over test ids, by the metric of the leaderboard
    (responses that are labels: by the first metric of perturbations). It is an info where less than `min_leaky` of
    the test ids are concerned and neither the leader nor whether the floor is beaten changes.
    """
    t = case.option("min_identity")
    for group, folds in every_group(case):
        if isinstance(folds, Unchecked):
            yield folds
            continue
        ids = sorted(folds["pert_id"].unique())
        if case.knowledge.kind(ids) != GENES:
            yield Unchecked(case.at_group(group), NOT_GENES)
            continue
        pairs = case.knowledge.homologs(ids)
        leaks = across_folds(folds, relate_ids(ids, pairs[pairs["id"] >= t].rename(columns={"id": "identity"})))
        what = f"have a homolog with at least {100 * t:.0f} % identical residues in training"
        found = report_leak(case, group, folds, leaks, what, "warning", "identity")
        if found is not None:
            yield found


def partners(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for test genes whose protein binds one in training, or is in one complex with it.

    Pairs are those of the shipped STRING v12 network of physical interactions with a score of at least 900. Scores
    with and without these test ids are computed as for homologs.
    """
    for group, folds in every_group(case):
        if isinstance(folds, Unchecked):
            yield folds
            continue
        ids = sorted(folds["pert_id"].unique())
        if case.knowledge.kind(ids) != GENES:
            yield Unchecked(case.at_group(group), NOT_GENES)
            continue
        leaks = across_folds(folds, relate_ids(ids, case.knowledge.partners(ids)))
        found = report_leak(case, group, folds, leaks, "have a physical interaction partner in training", "info")
        if found is not None:
            yield found


def similar_compounds(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for test compounds of which training has a near-duplicate.

    Salts are stripped and charges neutralised. Near-duplicates are compounds of one skeleton (first block of the
    InChIKey: stereoisomers, other salts), of one Bemis-Murcko scaffold of at least `min_scaffold` heavy atoms, or
    whose ECFP4 (Morgan fingerprint of radius 2, 2048 bits) has a Tanimoto coefficient of at least `min_tanimoto`.
    Structures come from a table of the user, from ids that are SMILES, or from the shipped approved drugs of ChEMBL
    by name; ids without are listed as not checked. Scores with and without these test ids are computed as for
    homologs. Needs RDKit.
    """
    for group, folds in every_group(case):
        if isinstance(folds, Unchecked):
            yield folds
            continue
        ids, where = sorted(folds["pert_id"].unique()), case.at_group(group)
        if case.knowledge.kind(ids) != COMPOUNDS:
            yield Unchecked(where, NOT_COMPOUNDS)
            continue
        if find_spec("rdkit") is None:
            yield Unchecked(where, "comparing structures needs RDKit: pip install 'panmodal[chem]'")
            continue
        pairs, known = similar_pairs(
            case.knowledge.structures(ids), case.option("min_tanimoto"), int(case.option("min_scaffold"))
        )
        lost = [i for i in ids if not set(parts(i)) & set(known)]
        if lost:
            reason = f"{len(lost)} of {len(ids)} compounds, of which no structure is known ({some(lost, 3)})"
            yield Unchecked(where, reason + "; give a table of names and SMILES (--compounds)")
        leaks = across_folds(folds, relate_ids(ids, pairs))
        counts = {kind: leaks.loc[leaks["kind"] == kind, "pert_id"].nunique() for kind in (SKELETON, SCAFFOLD, SIMILAR)}
        told = f"same skeleton {counts[SKELETON]}, same scaffold {counts[SCAFFOLD]}, "
        told += f"else Tanimoto >= {case.option('min_tanimoto'):g} {counts[SIMILAR]}"
        found = report_leak(
            case, group, folds, leaks, f"have a near-duplicate in training ({told})", "warning", "tanimoto"
        )
        if found is not None:
            yield found


def similar_pairs(smiles: dict[str, str], t: float, min_scaffold: int) -> tuple[pd.DataFrame, list[str]]:
    """Return pairs of near-duplicates, each once: ``a, b, tanimoto, kind``; and the names whose structure could be read."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from panmodal.embeddings.fingerprints import fingerprint
    from panmodal.identifiers.structures import structure

    names = sorted(smiles)
    bits, failed = fingerprint([smiles[n] for n in names], "ecfp", 2048, 2, strip_salts=True)
    names = [n for k, n in enumerate(names) if k not in failed]
    skeleton: list[Any] = []
    scaffold: list[Any] = []
    with rdBase.BlockLogs():
        for k, name in enumerate(names):
            parent = structure(smiles[name])
            skeleton.append(parent.inchikey[:14])
            core = MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(parent.smiles))
            # Single rings, and no ring at all, are no common scaffold: each gets its own number.
            scaffold.append(
                Chem.MolToSmiles(core, isomericSmiles=False) if core.GetNumHeavyAtoms() >= min_scaffold else k
            )
    codes = [pd.factorize(pd.Series(column, dtype=object))[0] for column in (skeleton, scaffold)]
    tables = []
    for start in range(0, len(names), BLOCK):
        rows = slice(start, start + BLOCK)
        tanimoto = _tanimoto(bits[rows], bits)
        same = [code[rows][:, None] == code[None, :] for code in codes]
        i, j = np.nonzero((tanimoto >= t) | same[0] | same[1])
        keep = i + start < j
        i, j = i[keep], j[keep]
        kind = np.where(same[0][i, j], SKELETON, np.where(same[1][i, j], SCAFFOLD, SIMILAR))
        tables.append(
            pd.DataFrame(
                {
                    "a": [names[k + start] for k in i],
                    "b": [names[k] for k in j],
                    "tanimoto": tanimoto[i, j],
                    "kind": kind,
                }
            )
        )
    empty = pd.DataFrame(columns=["a", "b", "tanimoto", "kind"])
    return pd.concat(tables, ignore_index=True) if tables else empty, names


def _tanimoto(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Tanimoto coefficients of rows of bits: shared bits over all bits; 0 where there are none (Rogers and Tanimoto 1960)."""
    left, right = a.astype(np.float32), b.astype(np.float32)
    shared = (left @ right.T).astype(np.float64)
    union = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


CHECKS = (
    Check(
        code="PM003",
        name="homologs",
        title="Do test genes have a paralog in training?",
        severity="warning",
        why="Paralogs often respond alike, and embeddings of sequence or text place them side by side: the probe looks "
        "the answer up. The score then tells how well families are recognised, not how well a new gene is "
        "predicted.",
        advice="Report the score on the clean remainder beside the full one. To train without them keep families in one "
        "fold (panmodal split --groups FILE).",
        function=homologs,
        options={
            "min_identity": Option(0.5, "smallest fraction of identical residues of homologs (0.3 to 1)"),
            "min_leaky": Option(
                0.05, "smaller shares of leaky test ids are an info unless a verdict changes (PM003 to PM005)"
            ),
            "min_clean": Option(50, "with fewer clean test ids the remainder is said to tell nothing (PM002 to PM005)"),
        },
    ),
    Check(
        code="PM004",
        name="similar-compounds",
        title="Do test compounds have a near-duplicate in training?",
        severity="warning",
        why="Salts, stereoisomers and analogues of one series mostly act alike. A fingerprint finds the analogue, and "
        "the score says nothing of new chemistry.",
        advice="Report the score on the clean remainder beside the full one. To train without them keep scaffolds in one "
        "fold (panmodal split --groups FILE). Give structures (--compounds) where names do not tell them.",
        function=similar_compounds,
        options={
            "min_tanimoto": Option(0.7, "smallest Tanimoto coefficient (ECFP4) of near-duplicates"),
            "min_scaffold": Option(10, "smaller scaffolds (heavy atoms) do not make compounds alike"),
        },
    ),
    Check(
        code="PM005",
        name="partners",
        title="Do the partners of test genes lie in training?",
        severity="info",
        why="Members of one complex mostly respond alike, and networks know the complexes. That is real knowledge, but "
        "the score holds for genes with a partner in training and not for orphans.",
        advice="Say for which genes the result holds: compare the scores with and without partners.",
        function=partners,
    ),
)
"""Records of this module."""

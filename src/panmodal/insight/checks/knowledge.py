"""What is known of the ids that were perturbed: which gene or compound they mean, which are alike, which batch.

The tables are those shipped with the package; structures and batches of the user's own can be handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files

import pandas as pd

from panmodal.errors import InputError
from panmodal.identifiers import CompoundResolver, CompoundTable, GeneResolver
from panmodal.identifiers.compounds import default_compounds
from panmodal.identifiers.genes import default_genes
from panmodal.identifiers.report import Resolved
from panmodal.perturbation_ids import control_family, is_control, parts

GENES, COMPOUNDS = "genes", "compounds"


class Knowledge:
    """Facts about ids.

    Parameters
    ----------
    smiles
        Id (or name of a compound) -> SMILES, in addition to the shipped approved drugs.
    batches
        Columns ``pert_id``, ``batch`` and, if it differs between contexts, ``context``: where each perturbation was measured.
        Several rows of one perturbation are several batches.
    homologs, interactions
        Tables ``a, b, id`` (fraction of identical residues) and ``a, b`` in place of the shipped ones.
    """

    def __init__(
        self,
        smiles: Mapping[str, str] | None = None,
        batches: pd.DataFrame | None = None,
        *,
        homologs: pd.DataFrame | None = None,
        interactions: pd.DataFrame | None = None,
    ) -> None:
        self.smiles = dict(smiles or {})
        self.batches = batches
        missing = [c for c in ("pert_id", "batch") if batches is not None and c not in batches]
        if missing:
            raise InputError(
                f"batches: no column {missing[0]!r}; a table of batches has pert_id, batch and perhaps context."
            )
        self._given = {"protein_homology_edges": homologs, "string_physical_900_edges": interactions}
        self._kinds: dict[frozenset[str], str] = {}

    @cached_property
    def genes(self) -> GeneResolver:
        """The resolver of genes."""
        return default_genes()

    @cached_property
    def compounds(self) -> CompoundResolver:
        """The resolver of compounds: by the structures given, or by the shipped drugs."""
        if not self.smiles:
            return default_compounds()
        frame = pd.DataFrame({"name": list(self.smiles), "smiles": list(self.smiles.values())})
        return CompoundResolver(CompoundTable(frame, "the structures given"))

    def kind(self, ids: Iterable[str]) -> str:
        """Tell what ids are: ``genes`` or ``compounds`` where more than half of their parts resolve so, else empty."""
        single = frozenset(p for i in ids for p in parts(i) if not control_family(p))
        if single not in self._kinds:
            self._kinds[single] = next(
                (k for k in (GENES, COMPOUNDS) if len(self._resolved(single, k)) > 0.5 * len(single) > 0), ""
            )
            if not self._kinds[single] and single & set(self.smiles):
                self._kinds[single] = COMPOUNDS
        return self._kinds[single]

    def _resolved(self, single: Iterable[str], kind: str) -> dict[str, Resolved]:
        ordered = sorted(p for p in single if not is_control(p))
        if not ordered:
            return {}
        resolver = self.genes if kind == GENES else self.compounds
        found = {row.id: row for row in resolver.resolve(ordered) if row.status == "mapped"}
        left = [p for p in ordered if p not in found]
        if kind == COMPOUNDS and self.smiles and left:  # what the structures given do not name, the shipped drugs may
            found |= {row.id: row for row in default_compounds().resolve(left) if row.status == "mapped"}
        return found

    def meaning(self, ids: Sequence[str]) -> dict[str, Resolved]:
        """Return what each part of the ids means, where it is known."""
        kind = self.kind(ids)
        return self._resolved({p for i in ids for p in parts(i)}, kind) if kind else {}

    def _table(self, name: str) -> pd.DataFrame:
        given = self._given[name]
        return _shipped(name) if given is None else given

    def _edges(self, name: str, ids: Sequence[str]) -> pd.DataFrame:
        """Return the rows of a table whose two ends are parts of the ids, with these in place of the ends."""
        meaning = self.meaning(ids)
        by_key: dict[str, list[str]] = {}
        for part, row in meaning.items():
            by_key.setdefault(row.key, []).append(part)
        table = self._table(name)
        # Only symbols of the ids, and those of the table that are not current, need be looked up.
        ends = pd.unique(pd.concat([table["a"], table["b"]]).astype(str))
        current = self.genes.table.by_symbol[0]
        wanted = {row.label for row in meaning.values()} | set(meaning)
        keys = {
            e: r.key for e, r in self._resolved([e for e in ends if e in wanted or e not in current], GENES).items()
        }
        own = {e: by_key[k] for e, k in keys.items() if k in by_key}
        table = table[table["a"].isin(own) & table["b"].isin(own)]
        table = table.assign(a=table["a"].map(own), b=table["b"].map(own)).explode("a").explode("b")
        return table[table["a"] != table["b"]].reset_index(drop=True)

    def homologs(self, ids: Sequence[str]) -> pd.DataFrame:
        """Return pairs of parts whose proteins have a similar sequence: ``a, b, id`` (fraction identical, 0.3 and more)."""
        return self._edges("protein_homology_edges", ids)

    def partners(self, ids: Sequence[str]) -> pd.DataFrame:
        """Return pairs of parts whose proteins bind or are in one complex (STRING v12 physical, score >= 900): ``a, b``."""
        return self._edges("string_physical_900_edges", ids)

    def structures(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the SMILES of those parts of the ids whose structure is given or shipped, or that are SMILES themselves."""
        from panmodal.identifiers.structures import looks_like_smiles

        single = sorted({p for i in ids for p in parts(i) if not is_control(p)})
        found = {p: self.smiles[p] for p in single if p in self.smiles}
        left = [p for p in single if p not in found]
        meaning = self._resolved(left, COMPOUNDS)
        for part in left:
            if part not in meaning:
                continue
            text = part if looks_like_smiles(part) else self._drugs.get(meaning[part].key, "")
            if text:
                found[part] = text
        return found

    @cached_property
    def _drugs(self) -> dict[str, str]:
        # The resolver's table has the rows of the shipped one, in its order.
        smiles = _shipped("chembl_approved_drugs")["smiles"].fillna("").astype(str)
        return dict(zip(CompoundTable.embedded().keys, smiles, strict=True))


@lru_cache(maxsize=4)
def _shipped(name: str) -> pd.DataFrame:
    with files("panmodal.data").joinpath(f"{name}.parquet").open("rb") as stream:
        return pd.read_parquet(stream)

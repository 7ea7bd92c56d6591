"""A run joins ids by identifier where names differ, says so, and leaves exact names alone."""

import numpy as np
import pandas as pd
import pytest

from panmodal import Embedding, Screen, make_split
from panmodal.evaluation.plan import make_plan, own_compounds

GENES = [
    "TP53", "MYC", "BRCA1", "EGFR", "KRAS", "PTEN", "CDK4", "CDK6", "MTOR", "AKT1", "STAT3", "JAK2", "MDM2", "RB1", "E2F1",
    "ATM", "ATR", "CHEK1", "CHEK2", "WEE1", "PLK1", "AURKA", "AURKB", "TOP2A", "PCNA", "MCM2", "MCM3", "MCM4", "RPA1", "RPA2",
]  # fmt: skip


def screen_of(ids, **obs):
    values = np.random.default_rng(0).normal(size=(len(ids), 5))
    screen = Screen.from_arrays(values, ids, ["line"] * len(ids), list("abcde"), name="s", response="lfc")
    for column, cells in obs.items():
        screen.adata.obs[column] = cells
    return screen


def plan_of(screen, vectors, **options):
    rng = np.random.default_rng(1)
    embedding = Embedding.from_dict({v: rng.normal(size=3) for v in vectors}, name="e")
    return embedding, make_plan(screen, [embedding], make_split(screen.pert_ids), **options)


def kept(plan):
    return next(s.embedding for s in plan.sources if s.role == "embedding")


def test_other_names_of_genes_are_joined_and_told():
    screen = screen_of([*GENES, "MARCH1", "HARS"])
    embedding, plan = plan_of(screen, [*GENES, "MARCHF1", "HARS1"])
    np.testing.assert_array_equal(kept(plan).matrix(["MARCH1", "HARS"]), embedding.matrix(["MARCHF1", "HARS1"]))
    (note,) = [n for n in plan.notes if "matched by identifier" in n]
    assert "MARCH1 = MARCHF1 (previous symbol)" in note
    _, exact = plan_of(screen, [*GENES, "MARCHF1", "HARS1"], match="exact")
    assert set(kept(exact).ids) == set(GENES) and not any("identifier" in n for n in exact.notes)


def test_names_that_agree_are_left_alone_and_cost_nothing():
    screen = screen_of(GENES)
    _, plan = plan_of(screen, GENES)
    _, exact = plan_of(screen, GENES, match="exact")
    assert [t.digest for t in plan.trials] == [t.digest for t in exact.trials]
    assert not any("identifier" in n for n in plan.notes)


def test_ensembl_ids_with_versions_are_joined():
    from panmodal.identifiers import GeneResolver

    table = GeneResolver().table.genes.set_index("symbol")["ensembl_id"]
    _, plan = plan_of(screen_of(GENES), [f"{table[g]}.3" for g in GENES])
    assert set(kept(plan).ids) == set(GENES)


@pytest.fixture
def drugs():
    return pd.DataFrame({"name": [f"DRUG-{k}" for k in range(20)], "cid": [str(1000 + k) for k in range(20)]})


def test_compounds_are_joined_by_what_the_screen_says_of_them(drugs):
    screen = screen_of(drugs["name"].tolist(), pubchem_cid=[f"{c}.0" for c in drugs["cid"]])
    embedding, plan = plan_of(screen, drugs["cid"].tolist())
    np.testing.assert_array_equal(kept(plan).matrix(["DRUG-3"]), embedding.matrix(["1003"]))


def test_a_wrong_cid_is_told_and_does_not_stop_the_run(drugs):
    screen = screen_of(drugs["name"].tolist(), pubchem_cid=["no cid", *drugs["cid"][1:]])
    _, plan = plan_of(screen, drugs["name"].tolist())
    assert any("'no cid'" in n for n in plan.notes)
    assert own_compounds(screen_of(GENES)) is None


def test_gaps_written_as_text_are_no_identifiers(drugs):
    pytest.importorskip("rdkit")
    screen = screen_of(
        drugs["name"].tolist(), pubchem_cid=["nan", *drugs["cid"][1:]], smiles=["C" * (k + 1) for k in range(20)]
    )
    found = own_compounds(screen).resolve(["DRUG-0", "1001"])
    assert [row.status for row in found] == ["mapped", "mapped"]

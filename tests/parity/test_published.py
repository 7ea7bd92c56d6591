"""From the published per-fold scores the published numbers, figures and conclusions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.layouts import PUBLISHED
from panmodal.evaluation.published import import_scores
from panmodal.insight.evidence import Evidence
from panmodal.insight.paper import best_single, fusion_table, part, protocol_table
from panmodal.insight.paper_figures import displays
from panmodal.insight.paper_ranks import family_table, rank_table

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
SCORES = REFERENCE / "published_scores.csv.gz"
ERRORS = REFERENCE / "published_experimental_error.csv.gz"
pytestmark = pytest.mark.skipif(not SCORES.exists(), reason="the published scores are not beside this checkout")

LINES = ["Hep-G2", "Jurkat", "K-562", "hTERT-RPE1"]
FACTS = {
    "no change": [7.317, 6.675, 5.087, 8.528],
    "train mean": [7.088, 6.528, 4.959, 7.584],
    "STRING WaveGC": [6.688, 6.298, 4.660, 7.035],
    "STRING WaveGC: gap closed": [0.618, 1.252, 0.768, 0.335],
    "Fusion (Full)": [6.531, 6.206, 4.561, 6.715],
    "Fusion (Full): gap closed": [0.861, 1.753, 1.022, 0.530],
    "experimental error": [6.440, 6.345, 4.570, 5.944],
    "idealised": [5.735, 5.578, 4.040, 5.508],
}
"""Human Essential screens, median over five folds, kNN, L2."""


@pytest.fixture(scope="module")
def published():
    return import_scores(SCORES, errors=ERRORS)


def test_the_facts_published_for_the_essential_screens(published):
    table = protocol_table(published.scores, published.ceilings)
    assert list(table.index) == list(FACTS)
    for name, numbers in FACTS.items():
        assert [round(float(v), 3) for v in table.loc[name, LINES]] == numbers, name


def test_the_best_single_embedding_is_the_published_one(published):
    assert best_single(part(published.scores, "essential (published)")) == "STRING WaveGC"


def test_no_value_is_lost(published):
    given = pd.read_csv(SCORES, low_memory=False)
    assert len(given) == 14637
    is_ceiling = given["method"].isin(PUBLISHED.ceilings)
    values = given[list(PUBLISHED.metrics)].notna().sum(axis=1)
    assert len(published.scores) == values[~is_ceiling].sum()
    known = published.ceilings
    from_folds = known[["L2", "F1", "precision", "recall", "F1_classwise", "F1_nans_are_zeros", "average_precision"]]
    assert from_folds.notna().sum().sum() == values[is_ceiling].sum()
    assert f"{given['roc_auc'].notna().sum()} values of roc_auc" in published.notes[0]


def test_the_smaller_essential_set_is_a_screen_apart(published):
    apart = published.scores[published.scores["screen"] == "essential (published, advanced_essential_lfc)"]
    assert {"GEARS", "STRING WaveGC", "Flow Matching (PCA 50)"} <= set(apart["embedding"])
    assert set(published.scores["screen"]) == {
        "essential (published)", "essential (published, advanced_essential_lfc)", "norman (published)", "sciplex (published)",
        "tahoe (published)",
    }  # fmt: skip


def test_ceilings_of_sciplex_find_their_lines(published):
    own = published.ceilings[
        (published.ceilings["screen"] == "sciplex (published)") & (published.ceilings["response"] == "lfc")
    ]
    errors = pd.read_csv(ERRORS).query("dataset == 'sciplex' and quantile == 0.9").groupby("cell_line")["L2"].mean()
    pd.testing.assert_series_equal(own.groupby("context")["L2"].mean(), errors, rtol=0.01, check_names=False)


def test_prior_knowledge_leads_on_the_essential_screens(published):
    table = family_table(published.scores).set_index(["screen", "response", "family"])
    for response in ("lfc", "deg"):
        own = table.loc["essential (published)", response]
        assert own.loc["Prior Knowledge", "first_of_several"] > 0.99
        assert own.loc["Prior Knowledge", "high"] < own.loc[["Protein", "Expression"], "low"].min()
    # One embedding, level with the best of prior knowledge.
    assert table.loc[("essential (published)", "lfc", "Network"), "n_embeddings"] == 1
    assert table.loc[("essential (published)", "lfc", "Prior Knowledge"), "leads"] < 0.95


def test_ranks_over_screens(published):
    table = rank_table(published.scores)
    whole = table[table["group"] == "all"].groupby("set").first()
    assert whole.loc["essential (published), norman (published)", "embedding"] == "STRING WaveGC"
    assert set(table["set"]) == {"essential (published), norman (published)", "sciplex (published), tahoe (published)"}


def test_fusion_beats_the_best_single_embedding_on_fold_changes(published):
    table = fusion_table(published.scores, published.ceilings)
    own = table[
        (table["screen"] == "essential (published)")
        & (table["response"] == "lfc")
        & (table["method"] == "Fusion (Full)")
    ]
    assert own["better"].tolist() == [5] * 4
    np.testing.assert_allclose(
        own.set_index("context")["gap_closed"][LINES], FACTS["Fusion (Full): gap closed"], atol=0.0006
    )


def test_the_figures_are_drawn(published):
    made = {d.name: d for d in displays(Evidence(published.scores, ceilings=published.ceilings))}
    assert {"contexts-essential-published-lfc", "contexts-tahoe-published-deg", "ranks", "families", "fusion"} <= set(
        made
    )
    for display in made.values():
        if display.draw is not None:
            assert display.plot().axes
    assert len(made["families"].sentences) == 6

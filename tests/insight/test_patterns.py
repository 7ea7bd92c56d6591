"""The section on patterns: from a real run of a small screen to tables, figures and sentences."""

import re

import numpy as np
import pandas as pd
import pytest

from panmodal.errors import InputError
from panmodal.evaluation.evidence import read_evidence
from panmodal.evaluation.run import run
from panmodal.insight import pattern_sentences as say
from panmodal.insight import patterns
from panmodal.insight.evidence import Evidence

GROUPS = pd.DataFrame({"pert_id": [f"P{k:03d}" for k in range(40)], "group": ["first"] * 12 + ["second"] * 28})
NAMES = ["predictability", "best-embedding", "predictability-covariates", "predictability-across-tasks", "predictability-groups",
         "readouts", "readout-histogram", "readouts-by-variance", "best-readouts", "saturation", "saturation-curves",
         "resistant-board", "interaction", "interaction-shares", "probe-agreement", "probe-need"]  # fmt: skip


@pytest.fixture(scope="module")
def evidence(toy, tmp_path_factory):
    screen, embeddings = toy()
    out = tmp_path_factory.mktemp("results")
    run(screen, embeddings, out, probes=["knn", "ridge"], permuted=True, metrics=["L2"], n_jobs=1)
    return read_evidence(out)


@pytest.fixture(scope="module")
def shown(evidence):
    return {d.name: d for d in patterns.displays(evidence, GROUPS)}


def test_all_displays_are_there_with_tables_and_figures(shown):
    assert [n for n in shown if n != "crossings"] == NAMES
    for display in shown.values():
        assert re.fullmatch(r"[a-z0-9-]+", display.name) and display.title and display.about.endswith(".")
        assert len(display.frame()) and all(s.endswith(".") for s in display.sentences)
        if display.draw is not None:
            figure = display.plot()
            figure.canvas.draw()
            assert figure.axes


def test_sentences_of_perturbations_hold(shown):
    display = shown["predictability"]
    for (_, own), text in zip(display.table.groupby("context", sort=False), display.sentences, strict=False):
        better, n = map(int, re.search(r": (\d+) of (\d+) perturbations", text).groups())
        assert n == len(own) and better == (own["share_better"] > 0.5).sum()
        beyond = int(re.search(r"beat the controls on (\d+)", text).group(1))
        assert beyond == (own["added"] > 0).sum()
        controls = int(re.search(r"beat it on (\d+) in their mean", text).group(1))
        assert controls == (own["control_improvement"] > 0).sum()
        assert ", ".join(own["pert_id"].head(3)) in text and f"({own['added'].max():.2f}:" in text
        none = re.search(r"on (\d+) no method", text)
        assert (int(none.group(1)) if none else 0) == (own["best_embedding"] == "none").sum()
        missing = int(re.search(r"(\d+) are not covered", text).group(1))
        assert missing == (own["n_covering"] < own["n_methods"]).sum() == 12
    assert sum("quality.parquet" in s for s in display.sentences) == 1  # said once for both contexts


def test_sentences_of_correlations_hold(shown):
    display = shown["predictability-covariates"]
    filled = display.table[display.table["fallback"] == "filled"]
    assert set(display.table["fallback"]) == {"filled", "common"}
    for (_, own), text in zip(filled.groupby("context", sort=False), display.sentences, strict=True):
        sure = own[(own["low"] > 0) | (own["high"] < 0)]
        for row in sure.itertuples():
            assert f"(Spearman {row.rho:.2f}, {row.low:.2f} to {row.high:.2f})" in text
        assert (
            text.count("grows with") == (sure["rho"] > 0).sum() and text.count("falls with") == (sure["rho"] < 0).sum()
        )


def test_sentences_of_saturation_and_subsets_hold(shown):
    display = shown["saturation"]
    filled = display.table[display.table["fallback"] == "filled"]
    assert (display.table[display.table["fallback"] == "common"]["n"] == 48).all()
    for row, text in zip(filled.itertuples(), display.sentences, strict=True):
        assert f"({row.floor_by}) solves {say.percent(filled.loc[row.Index, 'solved by the floor'])} of {row.n}" in text
        assert f"{say.percent(filled.loc[row.Index, 'by none'])} are solved by none" in text and row.rule in text
    board = shown["resistant-board"]
    for (_, own), text in zip(board.table.groupby("context", sort=False), board.sentences, strict=True):
        first = own[(own["subset"] == "all") & (own["rank"] == 1)].iloc[0]
        assert f"{first['embedding']} with {first['probe']} leads on all 60 perturbations" in text
        hard = own[(own["subset"] == "hardest half") & (own["rank"] == 1)].iloc[0]
        now = f"{hard['embedding']} with {hard['probe']} (overall rank {hard['rank_all']})"
        assert (now in text) or ("also on the 30" in text and hard["rank_all"] == 1)


def test_sentences_of_readouts_and_groups_hold(shown):
    display = shown["readouts"]
    for (_, own), text in zip(display.table.groupby("context", sort=False), display.sentences, strict=True):
        first = own.iloc[0]
        assert (
            f"{first['embedding']} with {first['probe']} predicts {say.percent(first['share_predicted'])} of 25 read-outs"
            in text
        )
        assert f"{first['median_r2']:.3f}" in text and "(permuted)" in text
    best = shown["best-readouts"].table
    assert (best.groupby("context")["r2"].apply(lambda v: v.is_monotonic_decreasing)).all() and len(best) == 40
    groups = shown["predictability-groups"]
    for (_, own), text in zip(groups.table.groupby("context", sort=False), groups.sentences, strict=True):
        sure = own[own["q"] <= 0.05]
        assert text.split(": of ")[1].startswith(f"2 groups tested, {(sure['auc'] > 0.5).sum()} are predicted better")


def test_sentences_of_interaction_hold(shown):
    order = shown["probe-agreement"].table
    for row, text in zip(order.itertuples(), shown["interaction"].sentences, strict=True):
        assert f"Kendall's W {row.w:.2f}" in text and f"rank correlation {row.mean_rho:.2f}" in text
        how = "nearly the same" if row.mean_rho >= 0.8 else "similar" if row.mean_rho >= 0.5 else "not the same"
        assert f"embeddings is {how} with all 2 probes" in text
    parts = shown["interaction-shares"]
    for (_, own), text in zip(parts.table.groupby("context", sort=False), parts.sentences, strict=True):
        share = own.set_index("source")
        assert f"{say.percent(share.loc['fold', 'share'])} of the variation of L2 lies between folds" in text
        assert f"{say.percent(share.loc['interaction', 'share_without_folds'])} in how the two go together" in text
    for (_, own), text in zip(
        shown["probe-need"].table.groupby("context", sort=False), shown["probe-need"].sentences, strict=True
    ):
        for row in own[own["needs"] == "linear"].itertuples():
            assert f"{row.linear_probe} beats {row.local_probe} in every fold" in text and row.embedding in text


def test_tasks_are_limited_and_this_is_said(evidence):
    one = {d.name: d for d in patterns.displays(evidence, GROUPS, most=1)}
    assert one["predictability"].table["context"].nunique() == 1 and "predictability-across-tasks" not in one
    assert "Of 2 tasks, patterns are shown for the first 1." in one["predictability"].sentences


def test_tables_alone_give_what_they_can(evidence):
    bare = Evidence(evidence.scores, evidence.rows)
    found = {d.name: d for d in patterns.displays(bare)}
    assert set(found) == set(NAMES) - {
        "readouts",
        "readout-histogram",
        "readouts-by-variance",
        "best-readouts",
        "predictability-groups",
    }
    found["predictability"].plot().canvas.draw()


def test_scores_alone_have_no_patterns(evidence):
    with pytest.raises(InputError, match=r"perturbations\.parquet"):
        patterns.displays(Evidence(evidence.scores))


def test_the_same_results_give_the_same_tables(evidence, shown):
    again = patterns.displays(evidence, GROUPS)
    for display in again:
        pd.testing.assert_frame_equal(display.table, shown[display.name].table)
        assert display.sentences == shown[display.name].sentences


def test_genes_have_the_shipped_terms(evidence):
    from panmodal.insight.pattern_groups import _terms

    symbols = sorted(set(_terms()["gene"]))[:60]
    rename = {f"P{k:03d}": s for k, s in enumerate(symbols)}
    rows = evidence.rows.assign(pert_id=evidence.rows["pert_id"].map(rename))
    found = {d.name: d for d in patterns.displays(Evidence(evidence.scores, rows))}["predictability-groups"]
    assert found.table["group"].str.startswith("GO BP no. ").all() and "numbers and does not name" in found.about
    assert (found.table["n_tested"] >= found.table.groupby("context")["group"].transform("size")).all()


# --- sentences of special cases --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.004, "0.4 %"), (0.0001, "under 0.1 %"), (0.99999, "over 99.9 %"), (0.995, "99.5 %"), (0.5, "50 %")],
)  # fmt: skip
def test_shares_are_never_rounded_to_all_or_nothing(share, text):
    assert say.percent(share) == text


def rows(**columns):
    task = {"screen": "s", "context": "c", "response": "lfc", "split": "u"}
    n = max(len(np.atleast_1d(v)) for v in columns.values())
    return pd.DataFrame({**{k: [v] * n for k, v in task.items()}, **columns})


def test_one_pair_of_tasks_and_many():
    pair = pd.DataFrame({"task_a": ["x"], "task_b": ["y"], "n": [30], "rho": [0.5], "low": [0.2], "high": [0.7]})
    assert "between x and y by 0.50 (Spearman, 30 perturbations; 95 % interval 0.20 to 0.70)" in say.of_pairs(pair)[0]
    assert (
        "by 0.10 to 0.50 (Spearman, 2 pairs, median 0.30)" in say.of_pairs(pd.concat([pair, pair.assign(rho=0.1)]))[0]
    )
    assert say.of_pairs(pair.head(0)) == [] and say.of_pairs(pair.assign(rho=np.nan)) == []


def test_unclear_and_constant_facts_are_said():
    table = rows(
        fallback="filled",
        covariate=["effect_size", "n_cells"],
        rho=[np.nan, 0.1],
        low=[np.nan, -0.1],
        high=[np.nan, 0.3],
    )
    (text,) = say.of_correlations(table)
    assert "no fact of the perturbations goes clearly" in text and "effect size does not vary" in text
    (text,) = say.of_correlations(table.assign(rho=[0.5, 0.1], low=[0.3, -0.1], high=[0.6, 0.3]))
    assert "grows with effect size (Spearman 0.50, 0.30 to 0.60); no clear relation to the number of cells." in text


def test_noise_is_named_as_the_reason_for_another_order():
    table = rows(n_embeddings=[3], n_probes=3, n_folds=5, w=0.4, mean_rho=0.1, rho_folds=0.2, leaders="a (knn), b (lasso), a (ridge)",
                 crossings=0, n_pairs=3)  # fmt: skip
    (text,) = say.of_agreement(table)
    assert (
        "is not the same with all 3 probes" in text
        and "noise may be the reason" in text
        and "the leaders are a (knn), b (lasso)" in text
    )
    (text,) = say.of_agreement(table.assign(rho_folds=0.9, crossings=2, leaders="a (knn), a (lasso), a (ridge)"))
    assert (
        "noise" not in text
        and "a leads with every probe" in text
        and "2 of 3 pairs of embeddings change places" in text
    )
    assert "score the same" in say.of_agreement(table.assign(w=np.nan))[0]


def test_wins_that_are_shared_or_missing():
    table = rows(embedding=["a", "b", "none"], n_best=[4, 4, 2], share=[0.4, 0.4, 0.2])
    assert "a and b are each the best on 40 % of the perturbations" in say.of_best(table)[0]
    assert "no embedding is better" in say.of_best(table[table["embedding"] == "none"])[0]


def test_a_control_that_predicts_is_warned_of():
    table = rows(embedding=["a", "a (permuted)"], probe="knn", role=["embedding", "control"], n_readouts=100, share_predicted=[0.5, 0.3],
                 share_above_mean=0.6, median_r2=0.1, rho_variance=[np.nan, np.nan])  # fmt: skip
    (text,) = say.of_readouts(table)
    assert (
        "the control a (permuted) predicts 30 %, so that its share should be taken off" in text
        and "variance" not in text
    )
    assert "taken off" not in say.of_readouts(table.assign(share_predicted=[0.5, 0.01]))[0]

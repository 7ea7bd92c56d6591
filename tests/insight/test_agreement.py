"""Agreement between metrics, on boards whose rankings are known, and against scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, rankdata, spearmanr

from panmodal.evaluation.class_metrics import bootstrap_weights
from panmodal.evaluation.scores import tidy_scores
from panmodal.insight.agreement import (
    LEADERS,
    OPPOSITE,
    OTHER,
    PAIRS,
    SAME,
    agreement,
    agreement_sentences,
    cluster,
    displays,
    leader_sentences,
    leaders,
    pooled,
    rank_shares,
    square,
)
from panmodal.insight.evidence import Evidence

NAMES = ["a", "b", "c", "d", "e", "f"]
TASK = {"screen": "s", "response": "lfc", "split": "u"}


def board(levels, *, contexts=("x",), noise=0.05, folds=2, n=30, seed=0, roles=None):
    """Evidence of methods with given levels by each metric: {metric: one level per method}."""
    rng = np.random.default_rng(seed)
    trials, rows = [], []
    for context in contexts:
        for fold in range(folds):
            for k, name in enumerate(NAMES[: len(next(iter(levels.values())))]):
                trial = f"{context}-{name}-{fold}"
                trials.append(TASK | {"context": context, "fold": fold, "embedding": name, "probe": "knn", "seed": 42, "trial": trial,
                                      "role": (roles or {}).get(name, "embedding"), "modality": "toy", "simulated": False,
                                      "seen": "no", "hyperparameters": "{}"})  # fmt: skip
                values = {m: own[k] + noise * rng.standard_normal(n) for m, own in levels.items()}
                rows.append(
                    pd.DataFrame(
                        {"trial": trial, "pert_id": [f"P{fold}.{i}" for i in range(n)], "covered": True, **values}
                    )
                )
    rows = pd.concat(rows, ignore_index=True)
    return Evidence(tidy_scores(rows, pd.DataFrame(trials)), rows)


LEVELS = {
    "L2": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "MSE": [1.1, 2.1, 3.1, 4.1, 5.1, 6.1],
    "Pearson": [0.6, 0.5, 0.4, 0.3, 0.2, 0.1],  # higher is better: the same order
    "PDS_L2": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # the opposite order
    "cosine": [0.5, 0.6, 0.4, 0.3, 0.2, 0.1],  # the first two change places
}


@pytest.fixture(scope="module")
def known():
    return board(LEVELS, noise=0.01)


def pick(table, a, b):
    (row,) = table[(table["metric_a"] == a) & (table["metric_b"] == b)].itertuples()
    return row


def test_metrics_are_signed_so_that_more_is_better(known):
    table = agreement(known)
    assert list(table.columns) == PAIRS and len(table) == 10
    assert pick(table, "L2", "MSE").spearman == pytest.approx(1) and pick(
        table, "L2", "Pearson"
    ).kendall == pytest.approx(1)
    assert pick(table, "L2", "PDS_L2").spearman == pytest.approx(-1)
    swapped = pick(table, "L2", "cosine")
    assert swapped.spearman == pytest.approx(1 - 6 * 2 / (6 * 35)) and swapped.kendall == pytest.approx(13 / 15)
    assert swapped.n_methods == 6


def test_correlations_and_intervals_are_those_of_scipy():
    rng = np.random.default_rng(1)
    evidence = board({m: rng.random(6) for m in ("L2", "Pearson", "PDS_L2")}, noise=1.5, n=20)
    table = agreement(evidence)
    means = evidence.scores.query("fallback == 'filled'").groupby(["embedding", "metric"])["value"].mean().unstack()
    row = pick(table, "L2", "Pearson")
    assert row.spearman == pytest.approx(spearmanr(-means["L2"], means["Pearson"]).statistic)
    assert row.kendall == pytest.approx(kendalltau(-means["L2"], means["Pearson"]).statistic)
    total = np.zeros((200, 6, 2))
    for fold in range(2):
        ids = [f"P{fold}.{i}" for i in range(20)]
        weights = bootstrap_weights(ids).T.astype(float) / 20
        for k, name in enumerate(NAMES):
            own = evidence.rows[evidence.rows["trial"] == f"x-{name}-{fold}"].set_index("pert_id").loc[ids]
            total[:, k] += weights @ (own[["L2", "Pearson"]].to_numpy() * [-1, 1])
    found = [np.corrcoef(rankdata(draw, axis=0).T)[0, 1] for draw in total]
    np.testing.assert_allclose([row.spearman_low, row.spearman_high], np.quantile(found, [0.025, 0.975]), atol=1e-12)


def test_baselines_controls_and_oracles_take_no_part():
    evidence = board(LEVELS, roles={"a": "baseline", "f": "oracle"})
    assert (agreement(evidence)["n_methods"] == 4).all()
    assert agreement(board(LEVELS, roles={"a": "baseline", "e": "control", "f": "oracle"})).empty


def test_leaders(known):
    table = leaders(known).set_index("metric")
    assert list(table.reset_index().columns[:4]) != [] and set(LEADERS) == {*table.columns, "metric"}
    assert table.loc["MSE", "story"] == SAME and table.loc["MSE", "embedding"] == "a"
    assert table.loc["cosine", "story"] == OTHER and table.loc["cosine", "embedding"] == "b"
    assert table.loc["cosine", "place_by_primary"] == 2 and table.loc["cosine", "p_over_primary"] == 1
    assert table.loc["PDS_L2", "story"] == OPPOSITE and table.loc["PDS_L2", "place_by_primary"] == 6
    assert (
        (table["primary"] == "L2").all() and (table["primary_embedding"] == "a").all() and (table["p_first"] == 1).all()
    )
    assert np.isnan(table.loc["MSE", "p_over_primary"]) and np.isnan(table.loc["L2", "spearman"])


def test_a_tie_is_given_to_the_leader_by_the_primary_metric():
    evidence = board({"L2": [2.0, 1.0, 3.0, 4.0], "PDS_L2": [0.7, 0.7, 0.2, 0.1]}, noise=0.0)
    row = leaders(evidence).set_index("metric").loc["PDS_L2"]
    assert row["embedding"] == "b" and row["story"] == SAME


def test_uncertain_leaders_are_not_sure():
    evidence = board({"L2": [1.0, 1.01, 2.0, 3.0], "Pearson": [0.50, 0.505, 0.2, 0.1]}, noise=0.5)
    table = leaders(evidence)
    assert table["p_first"].between(0.02, 0.98).all()


def test_pooling_averages_over_tasks():
    evidence = board(LEVELS, contexts=("x", "y", "z"), noise=2.0)
    pairs = agreement(evidence)
    row = pooled(pairs).query("metric_a == 'L2' and metric_b == 'Pearson'").iloc[0]
    own = pairs.query("metric_a == 'L2' and metric_b == 'Pearson'")["spearman"]
    assert row["spearman"] == pytest.approx(own.mean()) and row["n_tasks"] == 3
    assert (row["lowest"], row["highest"]) == (own.min(), own.max())


def test_the_matrix_is_symmetric_and_alike_metrics_lie_together(known):
    matrix = square(pooled(agreement(known)))
    np.testing.assert_array_equal(matrix, matrix.T)
    assert (np.diag(matrix) == 1).all()
    order = cluster(matrix)
    assert sorted(order) == sorted(LEVELS) and order.index("PDS_L2") in (0, len(order) - 1)
    assert cluster(matrix.iloc[:2, :2]) == list(matrix.columns[:2])


def test_rank_shares(known):
    table = rank_shares(known)
    own = table[table["metric"] == "PDS_L2"]
    np.testing.assert_allclose(own["share"], 1 - own["primary_share"])
    assert set(table["metric"]) == set(LEVELS) - {"L2"} and own["share"].min() == 0 and own["share"].max() == 1


def test_a_metric_that_is_undefined_somewhere():
    evidence = board({"L2": [1.0, 2.0, 3.0, 4.0, 5.0], "Pearson": [np.nan, 0.5, 0.4, 0.3, 0.2], "cosine": [np.nan] * 5})
    row = pick(agreement(evidence), "L2", "Pearson")
    assert row.n_methods == 4 and row.spearman == pytest.approx(1) and np.isnan(row.spearman_low)
    assert np.isnan(pick(agreement(evidence), "L2", "cosine").spearman)
    assert "cosine" not in set(leaders(evidence)["metric"])


def test_tables_alone_have_no_interval(known):
    evidence = Evidence(known.scores)
    assert agreement(evidence)["spearman_low"].isna().all() and leaders(evidence)["p_first"].isna().all()


def test_displays_and_their_sentences(known):
    shown = {d.name: d for d in displays(known)}
    assert list(shown) == ["metric-agreement", "metric-leaders"]
    for display in shown.values():
        display.plot().canvas.draw()
    (said,) = shown["metric-agreement"].sentences
    assert "most like L2 (rank correlation 1.00 over 1 task), PDS_L2 least (-1.00)." in said
    (said,) = shown["metric-leaders"].sentences
    assert said == (
        "s, x (lfc): a leads by L2, but another embedding by 2 of 4 other metrics (b by cosine; f by PDS_L2), surely so (in at least "
        "95 % of bootstrap samples) by cosine, PDS_L2; PDS_L2 ranks the other way round."
    )
    assert displays(board({"L2": [1.0, 2.0, 3.0]})) == []


def test_sentences_without_rivals_or_certainty():
    same = leaders(board({k: LEVELS[k] for k in ("L2", "MSE", "Pearson")}))
    assert leader_sentences(same) == ["s, x (lfc): a leads by L2 and by all 2 other metrics."]
    near = leaders(board({"L2": [1.0, 1.01, 2.0, 3.0], "Pearson": [0.50, 0.51, 0.2, 0.1]}, noise=0.01))
    unsure = near.assign(p_over_primary=np.where(near["metric"] == "Pearson", 0.6, np.nan))
    assert "none of them surely" in leader_sentences(unsure)[0]
    assert "surely" not in leader_sentences(near.assign(p_over_primary=np.nan))[0]
    assert agreement_sentences(pooled(agreement(board({k: LEVELS[k] for k in ("L2", "MSE")})))) == [
        "lfc: MSE ranks embeddings most like L2 (rank correlation 1.00 over 1 task)."
    ]


def test_the_verdict_stands_beside_the_leader(known):
    verdicts = leaders(known)[["screen", "context", "response", "split", "metric"]].assign(verdict="weak")
    shown = displays(known, verdicts)[1]
    assert (shown.table["verdict"] == "weak").all()

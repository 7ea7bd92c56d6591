"""Probe x embedding: additive and crossing boards."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from panmodal.insight.evidence import Evidence
from panmodal.insight.interaction import (
    Grid,
    agreement,
    cells,
    crossings,
    decompose,
    grid,
    interactions,
    kendall_w,
    probe_need,
)

TASK = ("screen", "ctx", "lfc", "unseen")
PROBES = ("knn", "lasso", "ridge")


def board(y, make_scores, metric="Pearson", probes=PROBES, **more):
    methods = {(f"e{i}", p): y[i, j] for i in range(y.shape[0]) for j, p in enumerate(probes)}
    return Evidence(make_scores({**methods, ("random", "knn", "control"): y[0, 0]}, metric=metric, **more))


def additive(noise=0.0, seed=0, n=4, folds=5):
    rng = np.random.default_rng(seed)
    y = np.arange(n)[::-1, None, None] * 0.1 + np.array([0.0, 0.05, 0.02])[:, None] + 0.3 * rng.standard_normal(folds)
    return y + noise * rng.standard_normal(y.shape)


def crossing():
    y = additive(0.001)
    y[0, 0] -= 0.5  # the best with linear probes is the worst with knn
    return y


def test_an_additive_board_has_no_interaction(make_scores):
    found = grid(board(additive(), make_scores), TASK)
    assert found.embeddings == ("e0", "e1", "e2", "e3") and found.probes == PROBES
    own = decompose(found).set_index("source")
    assert own["share"].sum() == pytest.approx(1) and own.loc[["interaction", "residual"], "share"].max() < 1e-12
    assert own["share_without_folds"].sum() == pytest.approx(1) and np.isnan(own.loc["fold", "share_without_folds"])
    row = agreement(found).iloc[0]
    assert row["w"] == pytest.approx(1) and row["mean_rho"] == pytest.approx(1) and row["crossings"] == 0
    assert row["leaders"] == "e0 (knn), e0 (lasso), e0 (ridge)" and row["lowest_rho"] == pytest.approx(1)
    assert np.allclose(cells(found)["interaction"], 0) and crossings(found).empty


def test_sums_of_squares_are_those_of_regression(make_scores):
    y = additive(0.05, seed=3)
    own = decompose(grid(board(y, make_scores), TASK)).set_index("source")
    i, j, k = (a.ravel() for a in np.indices(y.shape))

    def rest(*factors):
        design = np.concatenate([np.eye(f.max() + 1)[f] for f in factors], axis=1)
        return ((y.ravel() - design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]) ** 2).sum()

    everything = rest(i * 3 + j, k)
    assert own.loc["residual", "sum_sq"] == pytest.approx(everything)
    assert own.loc["interaction", "sum_sq"] == pytest.approx(rest(i, j, k) - everything)
    assert own.loc["fold", "sum_sq"] == pytest.approx(rest(i * 3 + j) - everything)
    assert own.loc["embedding", "sum_sq"] == pytest.approx(rest(j, k) - rest(i, j, k))
    assert own.loc["probe", "sum_sq"] == pytest.approx(rest(i, k) - rest(i, j, k))
    f = own.loc["interaction", "sum_sq"] / 6 / (everything / 44)
    assert own.loc["interaction", "f"] == pytest.approx(f) and own.loc["interaction", "df"] == 6
    assert own.loc["interaction", "p"] == pytest.approx(stats.f.sf(f, 6, 44))
    assert own.loc["interaction", "excess"] >= 0


def test_noise_alone_is_rarely_called_an_interaction(make_scores):
    p = [decompose(Grid(TASK, "L2", tuple("abcd"), PROBES, additive(0.05, s), 1.0)).set_index("source").loc["interaction", "p"]
         for s in range(200)]  # fmt: skip
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1


def test_a_crossing_board_has_one(make_scores):
    found = grid(board(crossing(), make_scores), TASK)
    own = decompose(found).set_index("source")
    assert own.loc["interaction", "share_of_means"] > 0.3 and own.loc["interaction", "p"] < 1e-6
    row = agreement(found).iloc[0]
    assert row["w"] < 0.9 and row["crossings"] == 3 and row["n_pairs"] == 6 and row["rho_folds"] > 0.95
    turned = crossings(found)
    assert set(turned["embedding_a"]) == {"e0"} and set(turned["embedding_b"]) == {"e1", "e2", "e3"}
    assert (
        set(turned["probe_b"]) == {"knn"} and (turned["difference_a"] > 0).all() and (turned["difference_b"] < 0).all()
    )
    left = cells(found)
    worst = left.loc[left["interaction"].idxmin()]
    assert (worst["embedding"], worst["probe"], worst["rank"]) == ("e0", "knn", 4)
    assert left["interaction"].groupby(left["probe"]).sum().abs().max() < 1e-12


def test_errors_are_turned_round(make_scores):
    y = crossing()
    up, down = grid(board(y, make_scores), TASK), grid(board(-y, make_scores, metric="L2"), TASK)
    np.testing.assert_allclose(up.values, down.values)
    assert cells(down)["mean"].tolist() == pytest.approx((-cells(up)["mean"]).tolist())
    assert cells(down)["rank"].tolist() == cells(up)["rank"].tolist()


def test_who_needs_a_local_probe(make_scores):
    y = additive(0.001)
    y[2, 0] += 0.5
    y[1, 0] -= 0.5
    own = probe_need(grid(board(y, make_scores), TASK)).set_index("embedding")
    assert own["needs"].to_dict() == {"e2": "local", "e3": "linear", "e0": "linear", "e1": "linear"}
    assert own.index[0] == "e2" and own.loc["e2", "advantage"] == pytest.approx(0.45, abs=0.01)
    assert own["relative"].sum() == pytest.approx(0) and own.loc["e2", "folds_local_better"] == 5
    assert (own["linear_probe"] == "lasso").all() and (own["local_probe"] == "knn").all()
    linear = grid(board(y[:, 1:], make_scores, probes=PROBES[1:]), TASK)
    assert probe_need(linear).empty


def test_incomplete_probes_and_embeddings_are_named(make_scores):
    y = additive(0.01)
    evidence = board(y, make_scores)
    scores = evidence.scores
    gone = ((scores["embedding"] == "e3") & (scores["probe"] == "knn")) | (
        (scores["probe"] == "ridge") & scores["embedding"].isin(["e0", "e1", "e2"])
    )
    found = grid(Evidence(scores[~gone]), TASK)
    assert found.probes == ("knn", "lasso") and found.embeddings == ("e0", "e1", "e2")
    assert found.left_out == ("probe ridge (1 of 4 embeddings)", "embedding e3 (not with every probe and fold)")


def test_what_cannot_be_compared_is_refused(make_scores, refuses):
    evidence = board(additive(), make_scores)
    refuses(["no fallback 'covered'"], grid, evidence, TASK, None, "covered")
    refuses(["no metric 'R2'"], grid, evidence, TASK, "R2")
    for y in (additive(n=1), additive()[:, :1], additive(folds=1)):
        own = board(y, make_scores, probes=PROBES[: y.shape[1]])
        refuses(["screen · ctx", "two of each"], grid, own, TASK)
        grids, notes = interactions(own)
        assert grids == [] and "two of each" in notes[0]


def test_equal_scores_have_no_order():
    found = Grid(TASK, "L2", ("a", "b"), ("knn", "ridge"), np.ones((2, 2, 5)), 1.0)
    assert decompose(found)["share"].isna().all()
    row = agreement(found).iloc[0]
    assert np.isnan(row[["w", "p", "rho_folds", "lowest_rho"]].astype(float)).all() and row["lowest_pair"] == ""
    assert np.isnan(
        agreement(Grid(TASK, "L2", ("a", "b"), ("knn", "ridge"), np.ones((2, 2, 3)), 1.0))["rho_folds"].iloc[0]
    )


@given(arrays(np.float64, (3, 6), elements=st.integers(0, 4).map(float)))
def test_w_is_friedmans_statistic_and_the_mean_correlation(values):
    w = kendall_w(values)
    if np.isnan(w):
        assert (np.ptp(values, axis=1) == 0).all()
        return
    friedman = stats.friedmanchisquare(*values.T).statistic  # items as treatments, raters as blocks
    assert w == pytest.approx(friedman / (3 * 5)) and -1e-12 <= w <= 1 + 1e-12
    ranks = stats.rankdata(values, axis=1)
    if all(len(np.unique(r)) == 6 for r in ranks):
        rho = np.corrcoef(ranks)[np.triu_indices(3, 1)].mean()
        assert (3 * w - 1) / 2 == pytest.approx(rho)


def test_p_is_small_for_agreement_and_not_for_noise():
    rng = np.random.default_rng(0)
    order = np.arange(6)[:, None, None] + 0.01 * rng.standard_normal((6, 3, 5))
    noise = rng.standard_normal((6, 3, 5))
    made = [
        agreement(Grid(TASK, "L2", tuple("abcdef"), PROBES, y, 1.0), draws=300)["p"].iloc[0] for y in (order, noise)
    ]
    assert made[0] < 0.01 < made[1]
    assert pd.Series(made).between(0, 1).all()

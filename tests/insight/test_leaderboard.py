"""The leaderboard on score tables made by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.insight.gaps import gap_closed
from panmodal.insight.leaderboard import NEEDED, check_scores, leaderboard, overall, primary_metric, summary

LOWER = {
    ("good", "knn"): [6, 6, 6],  # closes half of the gap
    ("worse", "knn"): [9, 9, 9],  # below the floor
    ("none", "train mean", "baseline"): [8, 8, 8],
    ("none", "no change", "baseline"): [10, 10, 10],
    ("random", "knn", "control"): [5, 5, 5],
    ("idealised", "knn", "oracle"): [4, 4, 4],
    ("idealised", "ridge", "oracle"): [7, 7, 7],
}


def row(board, embedding, probe="knn"):
    chosen = board[(board["embedding"] == embedding) & (board["probe"] == probe)]
    assert len(chosen) == 1
    return chosen.iloc[0]


@pytest.fixture(params=[False, True], ids=["lower is better", "higher is better"])
def board(request, make_scores):
    """The same board for an error and, mirrored, for a correlation."""
    if not request.param:
        return leaderboard(make_scores(LOWER), metric="L2")
    mirrored = {method: [-v for v in values] for method, values in LOWER.items()}
    return leaderboard(make_scores(mirrored, metric="Pearson"), metric="Pearson")


# --- gap closed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "floor", "ceiling", "higher", "expected"),
    [
        (8, 8, 4, False, 0.0),
        (4, 8, 4, False, 1.0),
        (5, 8, 4, False, 0.75),
        (3, 8, 4, False, 1.25),
        (10, 8, 4, False, -0.5),
        (0.3, 0.1, 0.5, True, 0.5),
        (0.6, 0.1, 0.5, True, 1.25),
        (0.0, 0.1, 0.5, True, -0.25),
        (5, 4, 8, False, np.nan),
        (5, 4, 4, False, np.nan),
        (5, 8, 4, True, np.nan),
        (5, np.nan, 4, False, np.nan),
        (5, 8, np.nan, False, np.nan),
        (np.nan, 8, 4, False, np.nan),
    ],
)
def test_gap_closed(score, floor, ceiling, higher, expected):
    value = gap_closed(*(pd.Series([float(x)]) for x in (score, floor, ceiling)), higher)
    np.testing.assert_allclose(value, [expected])


@given(st.tuples(*[st.floats(-100, 100)] * 3))
def test_gap_closed_of_mirrored_scores_is_the_same(numbers):
    plain = [pd.Series([x]) for x in numbers]
    np.testing.assert_array_equal(gap_closed(*plain, False), gap_closed(*(-s for s in plain), True))


def test_gap_closed_of_the_board(board):
    assert row(board, "good")["gap_closed"] == 0.5
    assert row(board, "worse")["gap_closed"] == -0.25
    assert row(board, "none", "train mean")["gap_closed"] == 0
    assert row(board, "idealised")["gap_closed"] == 1
    assert row(board, "none", "no change")["gap_closed"] == -0.5


def test_gap_closed_is_undefined_where_the_oracle_is_no_better_than_the_floor(make_scores):
    methods = {("a", "knn"): [1], ("none", "train mean", "baseline"): [2], ("idealised", "knn", "oracle"): [2]}
    assert leaderboard(make_scores(methods))["gap_closed"].isna().all()


# --- floor, ceiling, ranks -------------------------------------------------------------------------------------------


def test_floor_is_the_better_baseline_and_ceiling_the_better_oracle(board):
    assert set(board["floor_by"]) == {"train mean"} and set(board["floor"].abs()) == {8.0}
    assert set(board["ceiling_by"]) == {"idealised, knn"} and set(board["ceiling"].abs()) == {4.0}


def test_only_embeddings_are_ranked(board):
    assert board.loc[board["rank"].notna(), "role"].unique().tolist() == ["embedding"]
    assert row(board, "good")["rank"] == 1 and row(board, "worse")["rank"] == 2


def test_best_comes_first(board):
    assert board["embedding"].tolist() == ["idealised", "random", "good", "idealised", "none", "worse", "none"]


def test_folds_above_the_floor(board):
    assert row(board, "good")["folds_above_floor"] == 3 and row(board, "good")["n_folds"] == 3
    assert row(board, "worse")["folds_above_floor"] == 0
    assert row(board, "none", "train mean")["folds_above_floor"] == 0


def test_each_fold_has_its_own_floor(make_scores):
    methods = {
        ("a", "knn"): [1, 5, 3],
        ("none", "train mean", "baseline"): [2, 4, 4],
        ("none", "no change", "baseline"): [3, 6, 2],
    }
    assert row(leaderboard(make_scores(methods)), "a")["folds_above_floor"] == 1  # floors are 2, 4, 2


def test_ties_share_the_lower_rank(make_scores):
    methods = {("a", "knn"): [2], ("b", "knn"): [1], ("c", "knn"): [2], ("d", "knn"): [3]}
    board = leaderboard(make_scores(methods))
    assert dict(zip(board["embedding"], board["rank"], strict=True)) == {"b": 1, "a": 2, "c": 2, "d": 4}


def test_mean_and_sd_over_folds(make_scores):
    found = row(leaderboard(make_scores({("a", "knn"): [1, 2, 6]})), "a")
    assert (found["mean"], found["n_folds"]) == (3, 3) and found["sd"] == pytest.approx(np.sqrt(7))


def test_scores_of_a_part_of_the_folds_are_shown_without_a_rank(make_scores):
    board = leaderboard(make_scores({("a", "knn"): [np.nan, 2, 4], ("b", "knn"): [np.nan] * 3, ("c", "knn"): [9] * 3}))
    assert (row(board, "a")["mean"], row(board, "a")["n_folds"]) == (3, 2) and pd.isna(row(board, "a")["rank"])
    assert row(board, "c")["rank"] == 1
    assert board["embedding"].tolist() == ["a", "c", "b"]
    (text,) = summary(board)
    assert "c with knn comes first" in text
    assert "1 method(s) have no score in some folds and so no rank, such as a with knn (2 of 3 folds)" in text
    assert pd.isna(row(board, "b")["mean"]) and pd.isna(row(board, "b")["rank"]) and row(board, "b")["n_folds"] == 0


def test_coverage_is_a_share_of_all_test_ids(make_scores):
    board = leaderboard(make_scores({("a", "knn"): [1, 1], ("b", "knn"): [2, 2]}, covered={"a": 6}))
    assert row(board, "a")["coverage"] == 0.6 and row(board, "b")["coverage"] == 1


def test_without_baseline_or_oracle_there_is_no_floor_or_ceiling(make_scores):
    board = leaderboard(make_scores({("a", "knn"): [1, 2]}))
    assert board[["floor", "ceiling", "gap_closed"]].isna().all(axis=None)
    assert row(board, "a")["folds_above_floor"] == 0 and row(board, "a")["rank"] == 1


def test_folds_of_two_seeds_are_compared_with_the_floor_of_their_seed(make_scores):
    """Fold 0 of another seed holds other ids."""
    first = make_scores({("a", "knn"): [4, 4], ("none", "train mean", "baseline"): [5, 5]}, seed=1)
    second = make_scores({("a", "knn"): [2, 4], ("none", "train mean", "baseline"): [3, 3]}, seed=2)
    found = row(leaderboard(pd.concat([first, second])), "a")
    assert (found["n_folds"], found["folds_above_floor"]) == (4, 3)


# --- options ---------------------------------------------------------------------------------------------------------


def test_primary_metric_unless_another_is_asked_for(make_scores):
    both = pd.concat([make_scores(LOWER), make_scores(LOWER, metric="Pearson")])
    assert set(leaderboard(both)["metric"]) == {"L2"} == {primary_metric("lfc")}
    assert leaderboard(both, metric="Pearson")["embedding"].iloc[0] == "none"


def test_fallback_decides_by_which_ids_the_embeddings_are_ranked(make_scores):
    scores = make_scores({("a", "knn"): [1.0], ("b", "knn"): [2.0], ("none", "train mean", "baseline"): [3.0]})
    scores.loc[(scores["embedding"] == "a") & (scores["fallback"] == "common"), "value"] = 9.0
    scores.loc[(scores["embedding"] == "a") & (scores["fallback"] == "covered"), "value"] = 0.5
    filled, common = leaderboard(scores), leaderboard(scores, fallback="common")
    assert row(filled, "a")["rank"] == 1 and row(common, "a")["rank"] == 2
    assert row(common, "a")["mean"] == 9 and set(common["fallback"]) == {"common"}
    for board in (filled, common):
        assert row(board, "a")[["filled", "covered", "common"]].tolist() == [1.0, 0.5, 9.0]


def test_probes_may_be_chosen_and_baselines_stay(make_scores):
    scores = make_scores(LOWER | {("good", "ridge"): [1, 1, 1]})
    board = leaderboard(scores, probes=["knn"])
    assert set(board["probe"]) == {"knn", "train mean", "no change"} and set(board["ceiling"]) == {4.0}
    assert set(leaderboard(scores, probes=["ridge"])["ceiling"]) == {7.0}


def test_tasks_are_ranked_apart(make_scores):
    other = {("good", "knn"): [2], ("worse", "knn"): [1]}
    board = leaderboard(pd.concat([make_scores(LOWER), make_scores(other, context="other")]))
    assert [rows["embedding"].iloc[0] for _, rows in board.groupby("context")] == ["idealised", "worse"]
    assert board.groupby("context")["floor"].first().isna().tolist() == [False, True]


def test_order_of_rows_does_not_matter(make_scores):
    scores = make_scores(LOWER)
    shuffled = scores.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(leaderboard(scores), leaderboard(shuffled))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fallback": "covered"}, ["cannot be ranked", "filled or common"]),
        ({"fallback": "mean"}, ["no fallback 'mean'", "filled or common"]),
        ({"metric": "R2"}, ["no metric 'R2'", "L2", "Pearson_centred"]),
        ({"metric": "MSE"}, ["no scores of metric 'MSE'", "'L2'"]),
        ({"probes": ["gpt"]}, ["no results for probe 'gpt'", "'knn'"]),
    ],
)
def test_what_cannot_be_done_is_said(make_scores, refuses, options, says):
    refuses(says, leaderboard, make_scores(LOWER), **options)


@pytest.mark.parametrize("column", NEEDED)
def test_missing_columns_are_named(make_scores, refuses, column):
    refuses([repr(column), "scores.parquet"], check_scores, make_scores(LOWER).drop(columns=column))


def test_an_empty_table_is_refused(make_scores):
    with pytest.raises(InputError, match="no rows"):
        leaderboard(make_scores(LOWER).iloc[:0])


def test_responses_without_a_metric_are_refused(make_scores):
    with pytest.raises(InputError, match="no metric for responses of kind 'images'"):
        leaderboard(make_scores(LOWER, response="images"))


# --- over tasks ------------------------------------------------------------------------------------------------------

BASE = {("none", "train mean", "baseline"): [10], ("idealised", "knn", "oracle"): [0]}


def methods(**means):
    return {(name, "knn"): [value] for name, value in means.items()} | BASE


def test_overall_averages_ranks_and_gaps(make_scores):
    scores = pd.concat([
        make_scores(methods(a=5, b=6, c=11), context="one", covered={"a": 5}),
        make_scores(methods(a=8, b=6, c=7), context="two"),
        make_scores(methods(b=4), context="three"),
    ])  # fmt: skip
    table = overall(leaderboard(scores)).set_index("embedding")
    assert table.index.tolist() == ["b", "a", "c"]
    assert table["tasks"].to_dict() == {"a": 2, "b": 3, "c": 2}
    assert table["wins"].to_dict() == {"a": 1, "b": 2, "c": 0}
    assert table["mean_rank"].to_dict() == pytest.approx({"a": 0.5, "b": 0.5 / 3, "c": 0.75})
    assert table["mean_gap_closed"].to_dict() == pytest.approx({"a": 0.35, "b": 1.4 / 3, "c": 0.1})
    assert table["tasks_above_floor"].to_dict() == {"a": 2, "b": 3, "c": 1}
    assert table["mean_coverage"].to_dict() == {"a": 0.75, "b": 1, "c": 1}


def test_overall_keeps_simulated_tasks_apart(make_scores):
    scores = pd.concat([make_scores(methods(a=5, b=6)), make_scores(methods(a=7, b=6), screen="sim", simulated=True)])
    table = overall(leaderboard(scores))
    assert table[["embedding", "simulated", "wins", "tasks"]].values.tolist() == [
        ["a", False, 1, 1], ["b", False, 0, 1], ["b", True, 1, 1], ["a", True, 0, 1]
    ]  # fmt: skip


@pytest.mark.parametrize("ceiling", [[0], [20]])
def test_tasks_above_the_floor_need_no_ceiling(make_scores, ceiling):
    """Where the oracle is no better than the floor there is no gap, but still a floor."""
    scores = make_scores(methods(a=5, b=11) | {("idealised", "knn", "oracle"): ceiling})
    assert overall(leaderboard(scores))["tasks_above_floor"].tolist() == [1, 0]


def test_overall_counts_only_tasks_with_a_score(make_scores):
    scores = pd.concat([make_scores(methods(a=5, b=np.nan)), make_scores(methods(a=5, b=6), context="two")])
    table = overall(leaderboard(scores)).set_index("embedding")
    assert table["tasks"].to_dict() == {"a": 2, "b": 1} and table["mean_rank"].to_dict() == {"a": 0, "b": 1}


def test_overall_of_a_board_without_embeddings_is_empty_with_the_same_columns(make_scores):
    empty = overall(leaderboard(make_scores(BASE)))
    assert empty.empty and list(empty) == list(overall(leaderboard(make_scores(methods(a=1)))))


# --- sentences -------------------------------------------------------------------------------------------------------


def say(make_scores, values, others=None, **labels):
    floor = {("none", "train mean", "baseline"): [10] * len(values)}
    oracle = {("idealised", "knn", "oracle"): [0] * len(values)}
    return summary(leaderboard(make_scores({("a", "knn"): values} | floor | oracle | (others or {}), **labels)))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([5] * 5, ["screen, ctx: a with knn comes first by L2 (5, floor 10 by train mean)", "in all 5 folds", "50 % of the gap"]),
        ([5, 5, 5, 5, 12], ["in 4 of 5 folds only, which is weak evidence", "36 % of the gap"]),
        ([12] * 5, ["in none of 5 folds: no embedding here is better than nothing", "-20 % of the gap", "1 of 1 methods"]),
    ],
)  # fmt: skip
def test_sentences_agree_with_the_numbers(make_scores, values, says):
    (sentence,) = say(make_scores, values)
    assert all(part in sentence for part in says), sentence
    assert ("no better than the floor" in sentence) == (np.mean(values) >= 10)


def test_a_second_embedding_that_beats_some_floor_is_not_called_nothing(make_scores):
    (sentence,) = say(make_scores, [10] * 3, {("b", "knn"): [9, 15, 15]})
    assert "none of 3 folds" in sentence and "better than nothing" not in sentence
    assert "2 of 2 methods are no better than the floor" in sentence


def test_no_claim_about_a_floor_where_there_is_none(make_scores):
    (sentence,) = summary(leaderboard(make_scores({("a", "knn"): [1, 2]})))
    assert sentence == "screen, ctx: a with knn comes first by L2 (1.5)."


def test_simulated_data_are_called_so(make_scores):
    assert "(simulated data)" in say(make_scores, [5], simulated=True)[0]
    assert "simulated" not in say(make_scores, [5])[0]


def test_one_sentence_for_each_task_with_embeddings(make_scores):
    scores = pd.concat([make_scores(methods(a=5), context=c) for c in "xyz"] + [make_scores(BASE, context="empty")])
    assert [s.split(":")[0] for s in summary(leaderboard(scores))] == ["screen, x", "screen, y", "screen, z"]


def test_summary_warns_when_a_control_beats_the_floor_in_every_fold(make_scores):
    methods = {
        ("none", "train mean", "baseline"): [0.0, 0.0, 0.0],
        ("mine", "lasso"): [0.09, 0.08, 0.1],
        ("mine (permuted)", "lasso", "control"): [0.07, 0.08, 0.06],
        ("random", "lasso", "control"): [0.01, -0.01, 0.0],
    }
    (said,) = summary(leaderboard(make_scores(methods, metric="Pearson_centred"), metric="Pearson_centred"))
    assert (
        "beware: mine (permuted) with lasso, a control without information, beats the floor too (0.07, in 3 of 3 folds)"
        in said
    )
    methods["mine (permuted)", "lasso", "control"] = [0.07, 0.08, -0.01]
    (said,) = summary(leaderboard(make_scores(methods, metric="Pearson_centred"), metric="Pearson_centred"))
    assert "beware" not in said


def test_summary_warns_of_few_perturbations(make_scores):
    scores = make_scores({("none", "train mean", "baseline"): [2.0, 2.0], ("mine", "knn"): [1.0, 1.0]})
    (said,) = summary(leaderboard(scores))
    assert "only" not in said and leaderboard(scores)["n_test"].tolist() == [200, 200]
    (said,) = summary(leaderboard(scores.assign(n_test=12, n_covered=12)))
    assert said.endswith(
        "; only 24 perturbations were tested, which cannot tell methods with overlapping intervals apart."
    )


def test_a_metric_that_was_not_computed_is_replaced_by_the_first_there_is(make_scores):
    scores = make_scores({("none", "train mean", "baseline"): [2.0], ("mine", "knn"): [1.0]}, metric="MAE")
    assert set(leaderboard(scores)["metric"]) == {"MAE"}
    with pytest.raises(InputError, match="no scores of metric 'L2'"):
        leaderboard(scores, metric="L2")

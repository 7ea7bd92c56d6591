"""From values per perturbation to the tidy table, on tables small enough to be worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.scores import COLUMNS, mark_common, tidy_scores

NAN = np.nan
IDS = ["A", "B", "C", "D"]


def label(trial, embedding, role="embedding", **other):
    task = {"screen": "s", "context": "c", "response": "lfc", "split": "u", "fold": 0, "seed": 42}
    about = {
        "trial": trial,
        "embedding": embedding,
        "probe": "knn",
        "role": role,
        "modality": "m",
        "simulated": False,
        "seen": "no",
    }
    return task | about | {"hyperparameters": "{}"} | other


def rows_of(trial, covered, ids=None, **metrics):
    values = {m: np.array(v, float) for m, v in metrics.items()}
    return pd.DataFrame(
        {"trial": trial, "pert_id": list(ids or IDS), "covered": np.array(covered, dtype=bool), **values}
    )


@pytest.fixture
def table():
    """Two embeddings of different coverage and a control that covers everything."""
    rows = pd.concat([
        rows_of("wide", [1, 1, 1, 0], L2=[1, 2, 3, 10], Pearson=[0.5, NAN, 0.1, NAN], Pearson_centred=[0.5, 0.3, 0.1, NAN]),
        rows_of("slim", [1, 0, 1, 0], L2=[2, 8, 4, 10], Pearson=[0.2, NAN, NAN, NAN], Pearson_centred=[0.2, NAN, 0.4, NAN]),
        rows_of("rand", [1, 1, 1, 1], L2=[5, 6, 7, 8], Pearson=[NAN] * 4, Pearson_centred=[NAN] * 4),
    ])  # fmt: skip
    trials = pd.DataFrame([label("wide", "wide"), label("slim", "slim"), label("rand", "random", "control")])
    return tidy_scores(rows, trials)


def pick(table, embedding, fallback, metric):
    chosen = table[(table["embedding"] == embedding) & (table["fallback"] == fallback) & (table["metric"] == metric)]
    assert len(chosen) == 1
    return chosen.iloc[0]


@pytest.mark.parametrize(
    ("embedding", "fallback", "expected"),
    [
        ("wide", "filled", 4.0),  # (1 + 2 + 3 + 10) / 4
        ("wide", "covered", 2.0),  # A, B, C
        ("wide", "common", 2.0),  # A, C are covered by both embeddings
        ("slim", "filled", 6.0),
        ("slim", "covered", 3.0),
        ("slim", "common", 3.0),
        ("random", "filled", 6.5),
        ("random", "covered", 6.5),
        ("random", "common", 6.0),  # controls are scored on the same A, C
    ],
)
def test_value_is_the_mean_over_the_rows_of_the_rule(table, embedding, fallback, expected):
    assert pick(table, embedding, fallback, "L2")["value"] == expected


@pytest.mark.parametrize(
    ("embedding", "fallback", "metric", "value", "n_scored", "n_undefined"),
    [
        ("wide", "filled", "Pearson", 0.3, 2, 2),  # undefined rows are left out and counted
        ("wide", "covered", "Pearson", 0.3, 2, 1),
        ("wide", "common", "Pearson", 0.3, 2, 0),
        ("slim", "common", "Pearson", 0.2, 1, 1),
        ("wide", "filled", "Pearson_centred", 0.9 / 4, 4, 1),  # undefined rows count as no skill
        ("slim", "filled", "Pearson_centred", 0.6 / 4, 4, 2),
        ("slim", "covered", "Pearson_centred", 0.3, 2, 0),
        ("random", "filled", "Pearson_centred", 0.0, 4, 4),
    ],
)
def test_undefined_rows(table, embedding, fallback, metric, value, n_scored, n_undefined):
    row = pick(table, embedding, fallback, metric)
    assert row["value"] == pytest.approx(value)
    assert (row["n_scored"], row["n_undefined"]) == (n_scored, n_undefined)


@pytest.mark.parametrize("fallback", ["filled", "covered", "common"])
def test_value_is_null_where_the_metric_is_defined_nowhere(table, fallback):
    row = pick(table, "random", fallback, "Pearson")
    assert pd.isna(row["value"]) and row["n_scored"] == 0 and row["n_undefined"] == (2 if fallback == "common" else 4)


@pytest.mark.parametrize(("embedding", "covered"), [("wide", 3), ("slim", 2), ("random", 4)])
def test_counts_do_not_depend_on_rule_or_metric(table, embedding, covered):
    mine = table[table["embedding"] == embedding]
    assert set(mine["n_test"]) == {4} and set(mine["n_covered"]) == {covered}


def test_shape_and_order(table):
    assert list(table.columns) == COLUMNS
    assert len(table) == 3 * 3 * 3 and not table.duplicated(["trial", "fallback", "metric"]).any()
    assert table["fallback"].tolist() == (["filled"] * 3 + ["covered"] * 3 + ["common"] * 3) * 3
    assert table["metric"].tolist() == ["L2", "Pearson", "Pearson_centred"] * 9
    assert all(table[c].dtype == np.int64 for c in ("n_test", "n_covered", "n_scored", "n_undefined", "fold", "seed"))


def test_same_content_under_two_names_is_one_trial_with_two_labels():
    rows = rows_of("same", [1, 1, 0, 1], L2=[1, 2, 3, 6])
    table = tidy_scores(rows, pd.DataFrame([label("same", "first"), label("same", "second")]))
    for name in ("first", "second"):
        mine = table[table["embedding"] == name]
        assert mine["value"].tolist() == [3.0, 3.0, 3.0] and mine["n_test"].tolist() == [4, 4, 4]
        assert mine["fallback"].tolist() == ["filled", "covered", "common"]
    assert len(table) == 6


def test_same_content_in_two_screens_takes_the_common_ids_of_each():
    """A trial is one file of rows; its labels may lie in tasks with other competitors."""
    rows = pd.concat([rows_of("same", [1, 1, 1, 1], L2=[1, 2, 3, 6]), rows_of("slim", [1, 0, 0, 0], L2=[1, 9, 9, 9])])
    trials = pd.DataFrame([label("same", "e"), label("slim", "slim"), label("same", "e", screen="copy")])
    table = tidy_scores(rows, trials)
    common = table[(table["fallback"] == "common") & (table["embedding"] == "e")].set_index("screen")["value"]
    assert common.to_dict() == {"s": 1.0, "copy": 3.0}


def test_metrics_may_be_missing_for_some_trials():
    rows = pd.concat([rows_of("a", [1] * 4, L2=[1, 1, 1, 1]), rows_of("b", [1] * 4, L2=[2, 2, 2, 2], MAE=[1, 2, 3, 4])])
    table = tidy_scores(rows, pd.DataFrame([label("a", "a"), label("b", "b")]))
    assert pick(table, "b", "filled", "MAE")["value"] == 2.5
    assert pd.isna(pick(table, "a", "filled", "MAE")["value"]) and pick(table, "a", "filled", "L2")["value"] == 1.0


def test_folds_and_contexts_have_their_own_common_ids():
    rows = pd.concat([
        rows_of("w0", [1, 1], ids="AB", L2=[1, 3]), rows_of("s0", [0, 1], ids="AB", L2=[1, 5]),
        rows_of("w1", [1, 1], ids="CD", L2=[2, 4]), rows_of("s1", [1, 1], ids="CD", L2=[3, 5]),
    ])  # fmt: skip
    trials = pd.DataFrame([label("w0", "w"), label("s0", "s"), label("w1", "w", fold=1), label("s1", "s", fold=1)])
    common = tidy_scores(rows, trials).query("fallback == 'common'").set_index(["embedding", "fold"])["value"]
    assert common.to_dict() == {("w", 0): 3.0, ("s", 0): 5.0, ("w", 1): 3.0, ("s", 1): 4.0}


def test_no_common_id_leaves_a_null_and_no_rows():
    rows = pd.concat([rows_of("a", [1, 1, 0, 0], L2=[1] * 4), rows_of("b", [0, 0, 1, 1], L2=[1] * 4)])
    table = tidy_scores(rows, pd.DataFrame([label("a", "a"), label("b", "b")]))
    row = pick(table, "a", "common", "L2")
    assert pd.isna(row["value"]) and row["n_scored"] == 0 and row["n_undefined"] == 0
    assert pick(table, "a", "filled", "L2")["value"] == 1.0


def test_all_ids_are_common_where_only_controls_were_run():
    rows = rows_of("rand", [1, 0, 1, 1], L2=[1, 2, 3, 4])
    assert mark_common(rows, pd.DataFrame([label("rand", "random", "control")])).tolist() == [True] * 4


@pytest.mark.parametrize("role", ["control", "oracle", "baseline"])
def test_coverage_of_controls_does_not_narrow_the_common_ids(role):
    rows = pd.concat([rows_of("e", [1, 1, 1, 0], L2=[1] * 4), rows_of("o", [1, 0, 0, 0], L2=[1] * 4)])
    trials = pd.DataFrame([label("e", "e"), label("o", "o", role)])
    assert mark_common(rows, trials).tolist() == [True, True, True, False] * 2


def test_order_of_rows_and_trials_does_not_matter(table):
    rows = pd.concat([rows_of("b", [1, 0, 1, 1], L2=[1, 2, 3, 4]), rows_of("a", [1, 1, 1, 0], L2=[4, 3, 2, 1])])
    trials = pd.DataFrame([label("a", "a"), label("b", "b")])
    expected = tidy_scores(rows, trials)
    shuffled = tidy_scores(rows.sample(frac=1, random_state=0), trials.iloc[::-1])
    pd.testing.assert_frame_equal(expected, shuffled)

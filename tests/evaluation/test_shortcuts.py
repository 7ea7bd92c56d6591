"""Predictors that cheat: what they predict, what they may look at, and that they are scored as everything else is."""

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.class_metrics import LabelComparison, totals
from panmodal.evaluation.metrics import METRICS, Comparison, metrics_for
from panmodal.evaluation.shortcuts import ANSWER, GUESS, SHORTCUTS, _Fold, shortcut_scores, targets

IDS = ["A", "B", "C", "A+B", "D", "E"]
READOUTS = ["A", "g1", "B", "g2"]
FOLDS = {(0, 42): ["A", "C", "A+B"], (1, 42): ["B", "D", "E"]}


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(-1, 2, (6, 4)).astype(np.float32)


def fold(response, values, key=(0, 42), seed=0):
    test = np.array([IDS.index(i) for i in FOLDS[key]])
    return _Fold(response, tuple(IDS), values, test, targets(IDS, READOUTS), seed)


def test_targets_are_read_outs_of_the_same_name_or_of_parts():
    assert targets(IDS, READOUTS) == [[0], [2], [], [0, 2], [], []]


def test_predictions_of_numbers(values):
    mean = values[[1, 4, 5]].mean(axis=0)
    own = fold("lfc", values)
    np.testing.assert_allclose(SHORTCUTS["train mean x 0.5"].function(own), np.tile(0.5 * mean, (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(SHORTCUTS["train mean x 1.5"].function(own), np.tile(1.5 * mean, (3, 1)), rtol=1e-6)
    expected = np.zeros((3, 4))
    expected[0, 0] = values[0, 0]
    expected[2, [0, 2]] = values[3, [0, 2]]
    np.testing.assert_array_equal(SHORTCUTS["target only"].function(own), expected.astype(np.float32))
    typical = np.tile(mean, (3, 1))
    typical[0, 0] = typical[2, 0] = typical[2, 2] = values[
        1, 2
    ]  # B is the one training perturbation that is a read-out
    np.testing.assert_allclose(SHORTCUTS["typical target"].function(own), typical, rtol=1e-6)


def test_predictions_of_labels(labels):
    own = fold("deg", labels)
    train = labels[[1, 4, 5]]
    prior = np.concatenate([(train == c).mean(axis=0) for c in (-1, 1)])
    np.testing.assert_array_equal(SHORTCUTS["all raised"].function(own), np.tile([0.0] * 4 + [1.0] * 4, (3, 1)))
    np.testing.assert_array_equal(SHORTCUTS["all lowered"].function(own), np.tile([1.0] * 4 + [0.0] * 4, (3, 1)))
    found = SHORTCUTS["target only"].function(own)
    expected = np.zeros((3, 8))
    for row, k, g in ((0, 0, 0), (2, 3, 0), (2, 3, 2)):
        expected[row, [g, 4 + g]] = labels[k, g] == -1, labels[k, g] == 1
    np.testing.assert_array_equal(found, expected)
    typical = np.tile(prior, (3, 1))
    for row, g in ((0, 0), (2, 0), (2, 2)):
        typical[row, [g, 4 + g]] = labels[1, 2] == -1, labels[1, 2] == 1
    np.testing.assert_allclose(SHORTCUTS["typical target"].function(own), typical, atol=1e-6)


def test_the_stratified_guess_has_the_training_shares_and_follows_its_seed():
    rng = np.random.default_rng(0)
    ids = tuple(f"P{k}" for k in range(6000))
    values = rng.choice([-1, 0, 1], size=(6000, 3), p=[0.1, 0.6, 0.3])
    own = _Fold("deg", ids, values, np.arange(4000), [[] for _ in ids], 0)
    guess = SHORTCUTS["stratified guess"].function
    found = guess(own)
    assert set(np.unique(found)) == {0.0, 1.0} and (found[:, :3] + found[:, 3:]).max() == 1
    np.testing.assert_allclose(found.mean(axis=0), own.filled, atol=0.03)
    np.testing.assert_array_equal(found, guess(own))
    assert (found != guess(_Fold("deg", ids, values, np.arange(4000), [[] for _ in ids], 1))).any()


@pytest.mark.parametrize("response", ["lfc", "deg"])
def test_guesses_never_see_the_test_responses(response, values, labels):
    truth = values if response == "lfc" else labels
    changed = truth.copy()
    changed[[0, 2, 3]] = -changed[[0, 2, 3]] if response == "deg" else changed[[0, 2, 3]] + 7
    for shortcut in SHORTCUTS.values():
        if response in shortcut.kinds:
            before, after = (shortcut.function(fold(response, v)) for v in (truth, changed))
            assert np.array_equal(before, after) == (shortcut.kind == GUESS), shortcut.name
    assert {s.kind for s in SHORTCUTS.values()} == {GUESS, ANSWER}


def test_scores_are_those_of_the_metrics(values):
    found = shortcut_scores("lfc", IDS, values, READOUTS, FOLDS)
    assert set(found["shortcut"]) == {s.name for s in SHORTCUTS.values() if "lfc" in s.kinds}
    for key, test in FOLDS.items():
        own = fold("lfc", values, key)
        for name in found["shortcut"].unique():
            mine = found[(found["shortcut"] == name) & (found["fold"] == key)]
            assert mine["pert_id"].tolist() == test and (mine["kind"] == SHORTCUTS[name].kind).all()
            comparison = Comparison(SHORTCUTS[name].function(own), own.true, own.filled)
            for metric in metrics_for("lfc"):
                np.testing.assert_allclose(mine[metric.name], metric.function(comparison), err_msg=metric.name)


def test_scaling_the_train_mean_changes_no_correlation(values):
    found = shortcut_scores("lfc", IDS, values, READOUTS, FOLDS, names=["train mean x 0.5", "train mean x 1.5"])
    half, more = (found[found["shortcut"] == f"train mean x {x}"].reset_index(drop=True) for x in ("0.5", "1.5"))
    for metric in ("Pearson", "Spearman", "cosine"):
        np.testing.assert_allclose(half[metric], more[metric], atol=1e-7)
    np.testing.assert_allclose(half["Pearson_centred"], -more["Pearson_centred"], atol=1e-6)
    assert (half["L2"] != more["L2"]).all()


def test_metrics_of_genes_stand_in_a_row_of_the_fold(labels):
    found = shortcut_scores("deg", IDS, labels, READOUTS, FOLDS, metrics=["F1", "MCC"])
    assert list(found.columns) == ["shortcut", "kind", "fold", "pert_id", "F1", "MCC"]
    whole = found[found["pert_id"] == ""]
    assert len(whole) == 2 * found["shortcut"].nunique() and whole["MCC"].isna().all()
    assert found.loc[found["pert_id"] != "", "F1"].isna().all()
    own = fold("deg", labels)
    comparison = LabelComparison(SHORTCUTS["all raised"].function(own), own.true)
    expected = totals(comparison, [METRICS["F1"]])["F1"].value
    row = whole[(whole["shortcut"] == "all raised") & (whole["fold"] == (0, 42))].iloc[0]
    assert row["F1"] == pytest.approx(expected)


def test_without_targets_among_the_read_outs_those_shortcuts_are_left_out(values):
    found = shortcut_scores("lfc", IDS, values, ["g1", "g2", "g3", "g4"], FOLDS)
    assert set(found["shortcut"]) == {"train mean x 0.5", "train mean x 1.5"}
    assert shortcut_scores("lfc", IDS, values, ["g1", "g2", "g3", "g4"], FOLDS, names=["target only"]).empty


def test_order_of_ids_does_not_matter(values):
    order = [3, 1, 5, 0, 2, 4]
    one = shortcut_scores("lfc", IDS, values, READOUTS, FOLDS)
    two = shortcut_scores("lfc", [IDS[k] for k in order], values[order], READOUTS, FOLDS)
    pd.testing.assert_frame_equal(one, two, rtol=1e-6)


def test_refusals(values, refuses):
    refuses(
        ["no shortcut 'magic'", "target only"], shortcut_scores, "lfc", IDS, values, READOUTS, FOLDS, names=["magic"]
    )
    refuses(["(6, 4)", "3 read-outs"], shortcut_scores, "lfc", IDS, values, READOUTS[:3], FOLDS)
    refuses(["fold 7", "'Z'", "no responses"], shortcut_scores, "lfc", IDS, values, READOUTS, {7: ["A", "Z"]})
    refuses(["fold 0", "6 of 6 ids"], shortcut_scores, "lfc", IDS, values, READOUTS, {0: IDS})
    refuses(["fold 0", "0 of 6 ids"], shortcut_scores, "lfc", IDS, values, READOUTS, {0: []})
    refuses(["no metric 'magic'"], shortcut_scores, "lfc", IDS, values, READOUTS, FOLDS, metrics=["magic"])

"""Metrics of labels against plain scikit-learn loops, what is known of constant predictions, and bootstrap samples."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from panmodal.errors import InputError
from panmodal.evaluation import class_metrics
from panmodal.evaluation.class_metrics import (
    RESAMPLINGS,
    LabelComparison,
    Total,
    bootstrap_weights,
    resample,
    totals,
)
from panmodal.evaluation.compare import CLASS_PRIOR, MOST_FREQUENT, NO_CHANGE, baseline_row, fill_row
from panmodal.evaluation.metrics import METRICS, metrics_for, score_rows

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "published_scores.csv.gz"
CLASSES = (-1, 0, 1)
OF_GENES = ["F1", "precision", "recall", "ROC_AUC", "average_precision", "F1_classwise", "F1_nans_are_zeros"]
COUNTED = ["F1", "precision", "recall", "F1_classwise", "F1_nans_are_zeros"]
OF_PERTURBATIONS = ["overlap_at_N", "precision_at_N", "direction_match", "MCC", "AUPRC"]


def draw(seed=0, m=23, t=31, *, levels=9):
    """Labels (float32, as stored) and probabilities m x 2t; some genes lack classes, are constant or are predicted constantly."""
    rng = np.random.default_rng(seed)
    true = rng.choice(CLASSES, p=[0.2, 0.6, 0.2], size=(m, t))
    true[:, ::4] = np.where(true[:, ::4] == 1, 0, true[:, ::4])
    true[:, 1::7] = 0
    true[:, 2::11] = np.abs(true[:, 2::11])
    true[:, 3::13] = 1
    parts = rng.multinomial(levels, [0.25, 0.5, 0.25], size=(m, t)) / levels
    parts[:, 5::9] = [0.0, 1.0, 0.0]
    return np.concatenate([parts[..., 0], parts[..., 2]], axis=1).astype(np.float32), true.astype(np.float32)


def hot(labels):
    """Certain predictions of labels."""
    labels = np.asarray(labels)
    return np.concatenate([labels == -1, labels == 1], axis=1).astype(np.float32)


def plain_genes(predicted, true):
    """Every metric of genes by scikit-learn, gene by gene: name -> values (classes x genes for F1_classwise)."""
    t = true.shape[1]
    out = {name: [] for name in OF_GENES}
    for gene in range(t):
        y = true[:, gene].astype(int)
        columns = predicted[:, [gene]], 1 - predicted[:, [gene]] - predicted[:, [t + gene]], predicted[:, [t + gene]]
        shares = np.concatenate(columns, axis=1)
        called = np.argmax(shares, axis=1) - 1
        present = np.unique(y)
        macro = {"labels": present, "average": "macro", "zero_division": 0}
        each = f1_score(y, called, labels=CLASSES, average=None, zero_division=0)
        out["F1"].append(f1_score(y, called, **macro))
        out["precision"].append(precision_score(y, called, **macro))
        out["recall"].append(recall_score(y, called, **macro))
        areas = [roc_auc_score(y == c, shares[:, c + 1]) for c in present] if len(present) > 1 else [np.nan]
        out["ROC_AUC"].append(np.mean(areas))
        out["average_precision"].append(np.mean([average_precision_score(y == c, shares[:, c + 1]) for c in present]))
        out["F1_classwise"].append(np.where(np.isin(CLASSES, present), each, np.nan))
        out["F1_nans_are_zeros"].append(np.where(np.isin(CLASSES, present), each, 0.0).mean())
    return {name: np.array(values).T for name, values in out.items()}


def plain_totals(predicted, true):
    """Mean over genes; of F1_classwise of each class first."""
    values = plain_genes(predicted, true)
    classwise = values["F1_classwise"]
    found = {name: mean_defined(own) for name, own in values.items() if name != "F1_classwise"}
    return found | {"F1_classwise": mean_defined(np.array([mean_defined(own) for own in classwise]))}


def mean_defined(values):
    known = values[~np.isnan(values)]
    return known.mean() if len(known) else np.nan


def totals_of(predicted, true, names=OF_GENES):
    return {n: t.value for n, t in totals(LabelComparison(predicted, true), [METRICS[n] for n in names]).items()}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "true"), [((5, 6), (5, 6)), ((5, 12), (4, 6)), ((5, 3), (5, 6)), ((12,), (1, 6)), ((5, 6, 2), (5, 6))]
)
def test_shapes_that_do_not_fit_are_refused(predicted, true, refuses):
    refuses(["do not fit", "m x 2t and m x t", str(predicted), str(true)], LabelComparison,
            np.zeros(predicted, np.float32), np.zeros(true))  # fmt: skip


def test_labels_without_a_second_axis_are_refused(refuses):
    refuses(["do not fit"], LabelComparison, np.zeros((5, 2), np.float32), np.zeros(5))


@pytest.mark.parametrize("label", [2.0, -2.0, 300.0, 0.5, -0.9, 256.0])
def test_what_is_no_label_is_refused(label):
    true = np.zeros((4, 3))
    true[2, 1] = label
    with pytest.raises(InputError):
        _ = LabelComparison(np.zeros((4, 6), np.float32), true).counts


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", OF_GENES + OF_PERTURBATIONS)
def test_probabilities_that_are_not_finite_are_refused(name, value, refuses):
    predicted, true = draw()
    predicted[3, 4] = value
    refuses(["lowered[3, 4]"], METRICS[name].function, LabelComparison(predicted, true))


def test_a_part_is_the_comparison_of_its_rows():
    predicted, true = draw()
    rows = np.arange(len(true)) % 3 > 0
    part = LabelComparison(predicted, true).part(rows)
    np.testing.assert_array_equal(part.predicted, predicted[rows])
    np.testing.assert_array_equal(part.true, true[rows])
    t = true.shape[1]
    np.testing.assert_array_equal(part.lowered, predicted[rows, :t])
    np.testing.assert_array_equal(part.raised, predicted[rows, t:])


# --- parity with scikit-learn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "m", "levels"), [(0, 23, 9), (1, 80, 5), (2, 6, 10**5), (3, 2, 3), (4, 1, 3)])
def test_totals_are_those_of_a_scikit_learn_loop(seed, m, levels):
    predicted, true = draw(seed, m, levels=levels)
    values, expected = plain_genes(predicted, true), plain_totals(predicted, true)
    found = totals(LabelComparison(predicted, true), [METRICS[n] for n in OF_GENES])
    assert list(found) == OF_GENES
    for name, total in found.items():
        defined = ~np.isnan(np.atleast_2d(values[name])).all(axis=0)
        assert (total.n_scored, total.n_undefined) == (defined.sum(), (~defined).sum())
        assert total.value == pytest.approx(expected[name], rel=1e-12, nan_ok=True), name
    assert found["ROC_AUC"].n_undefined == sum(len(np.unique(y)) == 1 for y in true.T) > 0
    assert all(found[n].n_undefined == 0 for n in OF_GENES if n != "ROC_AUC")


@pytest.mark.parametrize("name", OF_GENES)
def test_values_of_each_gene_are_those_of_a_scikit_learn_loop(name):
    predicted, true = draw()
    found = METRICS[name].function(LabelComparison(predicted, true))
    np.testing.assert_allclose(found, plain_genes(predicted, true)[name], rtol=1e-12, atol=1e-15)


def plain_rows(predicted, true):
    """Metrics of perturbations by scikit-learn, where it has them; with the conventions of this benchmark."""
    t = true.shape[1]
    out = {name: [] for name in ("precision_at_N", "direction_match", "MCC", "AUPRC")}
    for y, p in zip(true.astype(int), predicted, strict=True):
        shares = np.stack([p[:t], 1 - p[:t] - p[t:], p[t:]])
        called = np.argmax(shares, axis=0) - 1
        deg, said = y != 0, called != 0
        none = 0.0 if deg.any() else np.nan
        out["precision_at_N"].append(precision_score(deg, said) if said.any() else none)
        out["MCC"].append(matthews_corrcoef(y, called) if len(np.unique(y)) > 1 else np.nan)
        out["AUPRC"].append(average_precision_score(deg, p[:t] + p[t:]) if deg.any() else np.nan)
        right = [0.5 if p[g] == p[t + g] else float((p[t + g] > p[g]) == (y[g] > 0)) for g in np.flatnonzero(deg)]
        out["direction_match"].append(np.mean(right) if right else np.nan)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_perturbations_are_those_of_plain_loops(seed):
    predicted, true = draw(seed, levels=4)
    true[3] = 0
    true[4] = 1
    predicted[5:8] = 0
    predicted[3, :] = 0
    found = score_rows(LabelComparison(predicted, true), metrics_for("deg"))
    assert list(found) == OF_PERTURBATIONS  # those of genes are none of perturbations
    for name, expected in plain_rows(predicted, true).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-15, err_msg=name)
    assert np.isnan(found["MCC"][[3, 4]]).all() and (found["MCC"][5:8] == 0).all()


@pytest.mark.parametrize(
    ("true", "called", "precision", "mcc"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], np.nan, np.nan),  # nothing to find, nothing said
        ([0, 0, 0, 0], [0, 1, 0, 0], 0.0, np.nan),  # nothing to find, something said
        ([1, 0, -1, 0], [0, 0, 0, 0], 0.0, 0.0),  # something to find, nothing said
        ([1, 0, -1, 0], [1, 1, 1, 1], 0.5, 0.0),  # one class said
        ([1, 1, 1, 1], [1, 1, 1, 1], 1.0, np.nan),  # the truth has one class
        ([1, 1, 1, 1], [1, 0, 1, 1], 1.0, np.nan),
        ([1, 0, -1, 0], [1, 0, -1, 0], 1.0, 1.0),
        ([1, 0, -1, 0], [-1, 0, 1, 0], 1.0, 0.2),  # (4 x 2 - 6) / (16 - 6)
    ],
)
def test_conventions_where_a_side_has_one_class(true, called, precision, mcc):
    comparison = LabelComparison(hot([called]), np.array([true]))
    np.testing.assert_allclose(class_metrics.precision_at_n(comparison), [precision])
    np.testing.assert_allclose(class_metrics.mcc(comparison), [mcc])


# --- constant predictions --------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), m=st.integers(2, 30), t=st.integers(1, 25))
def test_identities_of_no_change(seed, m, t):
    """As in the published tables, where every gene has perturbations that do not change it and every class occurs."""
    _, true = draw(seed, m, t)
    true[0] = 0
    true[1, 0], true[-1, -1] = (1, -1) if t > 1 or m > 2 else (0, 0)
    comparison = LabelComparison(np.zeros((m, 2 * t), np.float32), true)
    found = {n: x.value for n, x in totals(comparison, [METRICS[n] for n in OF_GENES]).items()}
    k = np.array([len(np.unique(y)) for y in true.T])
    assert found["recall"] == pytest.approx(np.mean(1 / k), rel=1e-12)
    assert found["average_precision"] == pytest.approx(np.mean(1 / k), rel=1e-12)
    assert found["precision"] == pytest.approx(np.mean((true == 0).mean(axis=0) / k), rel=1e-12)
    assert found["F1"] >= found["F1_nans_are_zeros"]
    if (k > 1).any():
        assert found["ROC_AUC"] == 0.5
    else:
        assert np.isnan(found["ROC_AUC"])
    if set(np.unique(true)) == set(CLASSES):
        assert found["F1_classwise"] == pytest.approx(found["F1_nans_are_zeros"], rel=1e-12)


@pytest.mark.parametrize("lowered", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("raised", [0.0, 0.3])
def test_every_constant_ranks_by_chance(lowered, raised):
    _, true = draw()
    predicted = np.tile(np.repeat(np.float32([lowered, raised]), true.shape[1]), (len(true), 1))
    found = totals_of(predicted, true)
    k = np.array([len(np.unique(y)) for y in true.T])
    called = int(np.argmax(np.float32([lowered, np.float32(1) - np.float32(lowered) - np.float32(raised), raised]))) - 1
    has = (true == called).any(axis=0)
    assert found["ROC_AUC"] == 0.5
    assert found["average_precision"] == pytest.approx(np.mean(1 / k), rel=1e-12)
    assert found["recall"] == pytest.approx(np.mean(has / k), rel=1e-12)


def test_a_class_that_occurs_nowhere_is_not_averaged():
    true = np.array([[0, 1], [0, 0], [1, 0], [0, 0]])
    found = totals_of(np.zeros((4, 4), np.float32), true)
    assert found["F1_classwise"] == pytest.approx(np.mean([2 * 3 / 7, 0]))
    assert found["F1_nans_are_zeros"] == pytest.approx((2 * 3 / 7) / 3)
    assert found["F1"] == pytest.approx((2 * 3 / 7) / 2)


def test_a_perfect_prediction_scores_one_but_for_absent_classes():
    _, true = draw()
    found = totals_of(hot(true), true)
    share = np.mean([len(np.unique(y)) / 3 for y in true.T])
    assert found.pop("F1_nans_are_zeros") == pytest.approx(share)
    assert all(value == 1 for value in found.values()), found


@given(seed=st.integers(0, 10**6))
def test_f1_is_never_below_f1_with_zeros(seed):
    found = totals_of(*draw(seed, 9, 12))
    assert found["F1"] >= found["F1_nans_are_zeros"] - 1e-12


def test_order_of_genes_and_perturbations_does_not_matter():
    predicted, true = draw()
    m, t = true.shape
    rng = np.random.default_rng(0)
    rows, genes = rng.permutation(m), rng.permutation(t)
    shuffled = predicted[rows][:, np.concatenate([genes, t + genes])], true[rows][:, genes]
    for name, value in totals_of(*shuffled).items():
        assert value == pytest.approx(totals_of(predicted, true)[name], rel=1e-12)


def test_signs_swapped_in_both_sides_change_nothing():
    predicted, true = draw(levels=10**5)
    t = true.shape[1]
    swapped = totals_of(np.concatenate([predicted[:, t:], predicted[:, :t]], axis=1), -true)
    for name, value in totals_of(predicted, true).items():
        assert value == pytest.approx(swapped[name], rel=1e-6)


@pytest.mark.parametrize(
    "counts",
    [
        (3, 1, 6), (1, 6, 3), (6, 3, 1), (5, 5, 0), (0, 5, 5), (5, 0, 5),
        (4, 4, 2), (1, 5, 5),  # whose rounded shares differ
    ],
)  # fmt: skip
def test_the_most_frequent_class_is_the_first_of_those_that_tie(counts):
    labels = np.repeat(CLASSES, counts)[:, None].astype(np.float32)
    filled = fill_row("deg", labels, np.arange(len(labels)))
    row = baseline_row(MOST_FREQUENT, filled)
    assert row.dtype == np.float32 and row.tolist() == hot([[CLASSES[int(np.argmax(counts))]]])[0].tolist()
    np.testing.assert_array_equal(baseline_row(CLASS_PRIOR, filled), np.float32([counts[0], counts[2]]) / sum(counts))
    np.testing.assert_array_equal(baseline_row(NO_CHANGE, filled), [0, 0])


# --- totals ----------------------------------------------------------------------------------------------------------


def test_totals_without_perturbations_are_undefined():
    predicted, true = draw()
    empty = LabelComparison(predicted, true).part(np.zeros(len(true), bool))
    for total in totals(empty, [METRICS[n] for n in OF_GENES]).values():
        assert np.isnan(total.value) and (total.n_scored, total.n_undefined) == (0, true.shape[1])


def test_totals_of_no_metric_are_none():
    assert totals(LabelComparison(*draw()), []) == {}


def test_totals_count_genes():
    true = np.array([[0, 0, 1], [0, 1, -1]])
    found = totals(LabelComparison(hot(true), true), [METRICS["ROC_AUC"], METRICS["F1_classwise"]])
    assert found == {"ROC_AUC": Total(1.0, 2, 1), "F1_classwise": Total(1.0, 3, 0)}


# --- bootstrap samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "t"), [(12, 130), (2, 5), (1, 4)])
def test_resampling_is_explicit_repetition_of_rows(m, t):
    predicted, true = draw(3, m, t)
    comparison = LabelComparison(predicted, true)
    weights = bootstrap_weights([f"P{k}" for k in range(m)])[:, :15]
    chosen = [METRICS[n] for n in COUNTED]
    found = resample(comparison.true, comparison.labels, weights, chosen)
    assert list(found) == COUNTED and all(values.shape == (15,) for values in found.values())
    for b in range(15):
        rows = np.repeat(np.arange(m), weights[:, b].astype(int))
        assert len(rows) == m
        for name, value in totals_of(predicted[rows], true[rows], COUNTED).items():
            assert found[name][b] == pytest.approx(value, rel=1e-12, abs=1e-15), name


def test_resampling_every_perturbation_once_gives_the_totals():
    predicted, true = draw()
    comparison = LabelComparison(predicted, true)
    found = resample(
        comparison.true, comparison.labels, np.ones((len(true), 3), np.float32), [METRICS[n] for n in COUNTED]
    )
    for name, total in totals_of(predicted, true, COUNTED).items():
        np.testing.assert_allclose(found[name], total, rtol=1e-12)


def test_the_samples_are_multinomial():
    m = 40
    weights = bootstrap_weights([f"P{k}" for k in range(m)])
    assert weights.shape == (m, RESAMPLINGS) == (m, 200) and weights.dtype == np.float32
    assert (weights.sum(axis=0) == m).all() and (weights >= 0).all() and (weights == weights.round()).all()
    assert weights.mean() == 1 and weights.var() == pytest.approx(1 - 1 / m, rel=0.1)
    assert np.unique(weights, axis=1).shape[1] == RESAMPLINGS
    assert (weights == 0).mean() == pytest.approx((1 - 1 / m) ** m, rel=0.1)


def test_the_same_ids_have_the_same_samples_and_others_have_others():
    ids = [f"P{k}" for k in range(20)]
    own = bootstrap_weights(ids)
    np.testing.assert_array_equal(own, bootstrap_weights(tuple(ids)))
    for other in (ids[::-1], [*ids[:-1], "Q"], ["".join(ids[:2]), *ids[1:]]):
        assert not np.array_equal(own, bootstrap_weights(other))
    assert bootstrap_weights(["one"]).tolist() == [[1.0] * RESAMPLINGS]


# --- the table of metrics --------------------------------------------------------------------------------------------


def test_every_metric_of_labels_is_declared_in_full():
    serving = metrics_for("deg")
    assert [m.name for m in serving if m.axis == "gene"] == OF_GENES
    assert [m.name for m in serving if m.axis == "perturbation"] == OF_PERTURBATIONS
    assert [m.name for m in serving if m.from_counts] == COUNTED
    assert serving[0].name == "F1"  # the primary one
    formulas = [m.formula for m in serving]
    assert all(len(f) > 20 and "\n" not in f for f in formulas) and len(set(formulas)) == len(formulas)
    for metric in serving:
        assert metric.higher_is_better and metric.kinds == ("deg",) and metric.rule >= 1
        assert metric.no_skill is None and not metric.reliability and not metric.slow
    assert not {m.name for m in serving} & {m.name for m in metrics_for("lfc")}


@pytest.mark.parametrize("name", OF_GENES + OF_PERTURBATIONS)
def test_the_truth_is_better_than_its_opposite_and_than_nothing(name):
    """The declared direction holds."""
    _, true = draw()
    true[:, 0] = np.resize(CLASSES, len(true))

    def value(predicted):
        metric = METRICS[name]
        if metric.axis == "gene":
            return totals_of(predicted, true, [name])[name]
        return np.nanmean(score_rows(LabelComparison(predicted, true), [metric])[name])

    assert value(hot(true)) > value(np.zeros((len(true), 2 * true.shape[1]), np.float32))
    if name not in ("overlap_at_N", "precision_at_N", "AUPRC"):  # of being DE, in whichever direction
        assert value(hot(true)) > value(hot(-true))


# --- what was published ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.is_file():
        pytest.skip("the published scores (../shared/reference) are not here")
    table = pd.read_csv(PUBLISHED, low_memory=False)
    table = table[table["task"] == "deg"]
    assert len(table) > 8000 and table["source_table"].nunique() == 3
    return table


def test_identities_of_no_change_hold_in_the_published_tables(published):
    """So that names and formulae are understood as they were meant."""
    own = published[published["method"] == "no_change"]
    assert len(own) == 260 and own[["f1_classwise", "recall"]].notna().all(axis=None)
    np.testing.assert_allclose(own["f1_classwise"], own["f1_score_nans_are_zeros"], atol=2e-7)
    np.testing.assert_allclose(own["recall"], own["average_precision"], atol=2e-7)
    # recall is the mean of 1 / k over genes, k from 1 to 3
    assert own["recall"].between(1 / 3, 1).all() and (own["f1_classwise"] <= 1 / 3).all()


def test_constants_rank_by_chance_in_the_published_tables(published):
    own = published[published["method"].isin(["no_change", "prior", "most_frequent"])]
    table = own.pivot_table(index=["source_table", "cell_line", "fold_id"], columns="method", values=["average_precision", "roc_auc"])  # fmt: skip
    for metric in ("average_precision", "roc_auc"):
        for other in ("prior", "most_frequent"):
            np.testing.assert_allclose(table[metric, other], table[metric, "no_change"], atol=2e-7)
    assert (table["roc_auc"].to_numpy() <= 0.5).all()


def test_f1_is_never_below_f1_with_zeros_in_the_published_tables(published):
    own = published[["f1_score", "f1_score_nans_are_zeros"]].dropna()
    assert len(own) > 8000 and (own["f1_score"] >= own["f1_score_nans_are_zeros"]).all()

"""Predictability by perturbation and read-out on simulated results with planted structure."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from panmodal.errors import StoreError
from panmodal.insight import pattern_groups
from panmodal.insight.evidence import Evidence, Predicted, Truth
from panmodal.insight.pattern_associations import _ranks, _weights, across_tasks, correlations, spearman
from panmodal.insight.pattern_groups import enrichment, gene_terms
from panmodal.insight.pattern_readouts import by_variance, chosen_methods, readout_bins, readout_summary, readout_table
from panmodal.insight.predictability import best_for, facts, improvement, panel, perturbation_table

TASK = ("s", "c", "lfc", "u")
N, T, FOLDS = 60, 30, 5
IDS = [f"P{k:02d}" for k in range(N)]


class Simulated:
    """Results with predictions: responses grow with k; 'good' predicts a share of the deviation, 'blind' noise."""

    def __init__(self, seed=0, context="c", seeds=(42,), uncovered=(), metric="L2", values=None, baselines=True):
        rng = np.random.default_rng(seed)
        scale = np.linspace(0.2, 3.0, N)
        self.truth = (scale[:, None] * rng.standard_normal((N, T)) * np.linspace(0.1, 2.0, T)).astype(np.float32)
        self.context, self.predictions, scores, rows = context, {}, [], []
        methods = {("good", "ridge"): "embedding", ("good", "knn"): "embedding", ("blind", "ridge"): "embedding",
                   ("blind", "knn"): "embedding", ("good (permuted)", "ridge"): "control", ("random", "ridge"): "control"}  # fmt: skip
        if baselines:
            methods |= {("none", "no change"): "baseline", ("none", "train mean"): "baseline"}
        for seed_, (embedding, probe) in [(s, m) for s in seeds for m in methods]:
            place = (np.arange(N) + (0 if seed_ == 42 else 2)) % FOLDS
            for fold in range(FOLDS):
                test = np.flatnonzero(place == fold)
                m = self.truth[place != fold].mean(axis=0)
                y = self.truth[test]
                # What is known of a response grows with its effect.
                share = np.linspace(0.0, 0.9, N)[test, None]
                noise = 0.3 * rng.standard_normal(y.shape).astype(np.float32)
                p = {"good": m + share * (y - m), "none": np.zeros_like(y) if probe == "no change" else m + 0 * y}.get(
                    embedding, m + noise
                )
                covered = np.array([embedding not in ("good",) or IDS[k] not in uncovered for k in test])
                p = np.where(covered[:, None], p, m).astype(np.float32)
                trial = f"{context}-{embedding}-{probe}-{fold}-{seed_}"
                self.predictions[trial] = Predicted(tuple(IDS[k] for k in test), covered, p, m)
                error = np.linalg.norm(p.astype(float) - y, axis=1)
                own = dict(zip(("screen", "context", "response", "split"), ("s", context, "lfc", "u"), strict=True))
                own |= {"fold": fold, "embedding": embedding, "probe": probe, "seed": seed_, "role": methods[embedding, probe],
                        "metric": metric, "value": error.mean(), "n_test": len(test), "n_covered": int(covered.sum()),
                        "modality": "toy", "simulated": True, "trial": trial, "hyperparameters": "{}"}  # fmt: skip
                scores += [{**own, "fallback": f} for f in ("filled", "covered", "common")]
                rows += [
                    {"trial": trial, "pert_id": IDS[k], "covered": c, metric: e}
                    for k, c, e in zip(test, covered, error, strict=True)
                ]
        self.scores, self.rows = pd.DataFrame(scores), pd.DataFrame(rows)
        self.quality = pd.DataFrame({"screen": "s", "context": context, "pert_id": IDS, "n_cells": 100.0 - np.arange(N) % 7,
                                     "n_deg": np.r_[-1.0, np.arange(1, N)], "reliability": np.linspace(0, 1, N)})  # fmt: skip

    def evidence(self, **options):
        return Evidence(**{"scores": self.scores, "rows": self.rows, "quality": self.quality, "read_truth":
                           lambda task: Truth(tuple(IDS), self.truth, tuple(f"g{g}" for g in range(T))),
                           "read_predictions": self.predictions.__getitem__, **options})  # fmt: skip


@pytest.fixture(scope="module")
def simulated():
    return Simulated()


@pytest.fixture(scope="module")
def table(simulated):
    evidence = simulated.evidence()
    return perturbation_table(evidence, panel(evidence, TASK))[0]


# --- by perturbation -------------------------------------------------------------------------------------------------


def test_gains_are_floor_minus_value(simulated, table):
    rows = simulated.rows.merge(simulated.scores.drop_duplicates("trial")[["trial", "embedding", "probe", "role"]])
    wide = rows.pivot(index="pert_id", columns=["role", "embedding", "probe"], values="L2")
    found = panel(simulated.evidence(), TASK)
    assert found.name(found.need_floor()) in ("train mean", "no change")
    floor = wide["baseline", "none", found.name(found.need_floor())]
    own = table.set_index("pert_id")
    np.testing.assert_allclose(own["gain"].reindex(wide.index), (floor - wide["embedding"].mean(axis=1)))
    np.testing.assert_allclose(own["improvement"].reindex(wide.index), 1 - wide["embedding"].mean(axis=1) / floor)
    controls = wide["control"].mean(axis=1)
    np.testing.assert_allclose(own["control_improvement"].reindex(wide.index), 1 - controls / floor)
    np.testing.assert_allclose(own["added"].reindex(wide.index), 1 - wide["embedding"].mean(axis=1) / controls)
    np.testing.assert_allclose(own["share_better"].reindex(wide.index), (floor > wide["embedding"].T).mean())
    np.testing.assert_allclose(own["best_gain"].reindex(wide.index), floor - wide["embedding"].min(axis=1))
    assert table["added"].is_monotonic_decreasing and table["rank"].iloc[0] == 1
    assert (own["best_embedding"] == "none").eq(own["best_gain"] <= 0).all()
    assert set(own["n_methods"]) == {4} and len(own) == N


def test_floor_is_the_better_baseline_of_the_leaderboard(simulated):
    from panmodal.insight.leaderboard import leaderboard

    found = panel(simulated.evidence(), TASK)
    board = leaderboard(simulated.scores)
    assert board["floor_by"].iloc[0] == found.name(found.need_floor())
    first = board[board["rank"] == 1].iloc[0]
    assert found.name(found.best("embedding")) == f"{first['embedding']} with {first['probe']}"


def test_strong_responders_are_found_to_be_predicted_better(table):
    found = correlations(table, draws=300).set_index("covariate")
    row = found.loc["effect_size"]
    assert row["rho"] > 0.7 and 0 < row["low"] < row["rho"] < row["high"]
    assert not found.loc["n_cells", "low"] > 0 and not found.loc["n_cells", "high"] < 0
    # Reliability goes with the effect only because both grow with k: little is left with the effect held fixed.
    assert abs(found.loc["n_cells", "rho_given_effect"]) < 0.4 and np.isnan(row["rho_given_effect"])
    assert found.loc["n_deg", "n"] == N - 1  # the pair that was not tested has no number of DEGs


def test_partial_correlation_is_that_of_the_residuals_of_ranks(table):
    found = correlations(table, draws=10).set_index("covariate")
    known = table.dropna(subset=["n_deg"])
    x, y, z = (stats.rankdata(known[c]) for c in ("n_deg", "added", "effect_size"))
    rest = [a - np.polyval(np.polyfit(z, a, 1), z) for a in (x, y)]
    assert found.loc["n_deg", "rho_given_effect"] == pytest.approx(np.corrcoef(*rest)[0, 1])


def test_facts_are_those_of_the_responses(simulated):
    evidence = simulated.evidence()
    known, notes = facts(evidence, panel(evidence, TASK))
    assert notes == []
    np.testing.assert_allclose(known["effect_size"], np.linalg.norm(simulated.truth, axis=1), rtol=1e-5)
    deviation = simulated.truth - simulated.truth.mean(axis=0)
    np.testing.assert_allclose(known["distinctness"], np.linalg.norm(deviation, axis=1), rtol=1e-4)
    alike = np.corrcoef(deviation)
    alike[(np.arange(N) % FOLDS)[:, None] == np.arange(N) % FOLDS] = -np.inf
    np.testing.assert_allclose(known["nearest_training"], alike.max(axis=1), atol=1e-5)


def test_what_is_not_known_is_said(simulated):
    bare = Evidence(simulated.scores, simulated.rows)
    own, notes = perturbation_table(bare, panel(bare, TASK))
    assert "effect_size" not in own and "n_cells" not in own and len(own) == N
    assert any("effect sizes are not known" in n for n in notes) and any("quality.parquet" in n for n in notes)


def test_rounding_is_no_effect(simulated):
    values = simulated.truth / np.linalg.norm(simulated.truth, axis=1, keepdims=True)
    evidence = simulated.evidence(read_truth=lambda task: Truth(tuple(IDS), values, tuple(f"g{g}" for g in range(T))))
    assert facts(evidence, panel(evidence, TASK))[0]["effect_size"].nunique() == 1


def test_seeds_are_averaged(simulated):
    both = Simulated(seeds=(42, 7))
    found = panel(both.evidence(), TASK)
    assert len(found.units) == 2 * N and len(found.over_seeds()) == N
    wide = both.rows.assign(method=both.rows["trial"].str.replace(r"-\d-\d+$", "", regex=True))
    wide = wide.pivot_table(index="pert_id", columns="method", values="L2")
    names = [f"c-{e}-{p}" for e, p in zip(found.methods["embedding"], found.methods["probe"], strict=True)]
    np.testing.assert_allclose(found.over_seeds(), wide[names])


def test_common_keeps_ids_that_all_embeddings_cover():
    gone = ("P03", "P10")
    evidence = Simulated(uncovered=gone).evidence()
    assert not set(panel(evidence, TASK, fallback="common").ids) & set(gone)
    own = perturbation_table(evidence, panel(evidence, TASK))[0].set_index("pert_id")
    assert len(own) == N and own.loc["P03", "n_covering"] == 2 and own.loc["P04", "n_covering"] == 4


def test_best_counts_perturbations(table):
    wins = best_for(table)
    assert wins["n_best"].sum() == N and wins["share"].sum() == pytest.approx(1)
    assert wins["embedding"].iloc[0] == "good"


def test_undefined_centred_correlations_are_no_skill(simulated):
    rows = simulated.rows.assign(Pearson_centred=np.where(simulated.rows["trial"].str.contains("none"), np.nan, 0.5))
    found = panel(simulated.evidence(rows=rows), TASK, "Pearson_centred")
    own = perturbation_table(simulated.evidence(rows=rows), found)[0]
    assert (own["gain"] == 0.5).all() and (own["improvement"] == 0.5).all() and (own["added"] == 0).all()


def test_labels_are_compared_by_a_metric_of_perturbations(simulated):
    scores = simulated.scores.assign(response="deg", metric="F1")
    rows = simulated.rows.rename(columns={"L2": "MCC"}).assign(overlap_at_N=np.nan)
    evidence = Evidence(scores, rows)
    assert panel(evidence, ("s", "c", "deg", "u")).metric == "MCC"


@pytest.mark.parametrize(
    ("metric", "fallback", "says"),
    [
        (None, "covered", ["no fallback 'covered'"]),
        ("R2", "filled", ["no metric 'R2'", "L2"]),
        ("MAE", "filled", ["s · c · lfc · u", "MAE", "no values"]),
    ],
)
def test_what_cannot_be_compared_is_refused(simulated, refuses, metric, fallback, says):
    refuses(says, panel, simulated.evidence(), TASK, metric, fallback)


def test_tables_without_values_or_baseline_are_refused(simulated, refuses):
    refuses(["perturbations.parquet"], panel, simulated.evidence(rows=None), TASK)
    refuses(["no metric has values"], panel, simulated.evidence(rows=simulated.rows.assign(L2=np.nan)), TASK)
    evidence = Simulated(baselines=False).evidence()
    refuses(["no baseline"], perturbation_table, evidence, panel(evidence, TASK))
    only = simulated.scores[simulated.scores["role"] != "embedding"]
    evidence = simulated.evidence(scores=only)
    refuses(["only baselines or controls"], perturbation_table, evidence, panel(evidence, TASK))
    short = simulated.evidence(read_truth=lambda task: Truth(tuple(IDS[1:]), simulated.truth[1:], ("g",)))
    refuses(["no measured response", "P00"], facts, short, panel(short, TASK))
    nothing = simulated.rows.assign(covered=~simulated.rows["trial"].str.contains("good-"))
    refuses(["no id is covered"], panel, simulated.evidence(rows=nothing), TASK, None, "common")


def test_improvement_has_no_scale_where_the_floor_is_perfect():
    np.testing.assert_array_equal(improvement(np.array([1.0, 1.0]), np.array([2.0, 0.0]), False), [0.5, np.nan])
    np.testing.assert_array_equal(improvement(np.array([0.5]), np.array([0.2]), True), [0.3])


# --- correlations ----------------------------------------------------------------------------------------------------


@given(arrays(np.int64, st.integers(10, 30), elements=st.integers(0, 8)), st.integers(0, 99))
def test_ranks_of_a_sample_are_those_of_the_values_drawn(values, seed):
    weights = _weights(len(values), 5, seed)
    assert (weights.sum(axis=1) == len(values)).all()
    ranks = _ranks(values.astype(float), weights)
    for w, found in zip(weights.astype(int), ranks, strict=True):
        drawn = np.repeat(values, w)
        np.testing.assert_allclose(np.repeat(found, w), stats.rankdata(drawn))


def test_spearman_is_scipys_with_a_percentile_interval():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(80)
    y = (x + rng.standard_normal(80)).round(1)
    rho, low, high = spearman(x, y, draws=2000, seed=3)
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)
    drawn = [stats.spearmanr(x[k], y[k]).statistic for k in np.random.default_rng(0).integers(80, size=(800, 80))]
    np.testing.assert_allclose((low, high), np.quantile(drawn, [0.025, 0.975]), atol=0.04)
    assert spearman(x, y, draws=50, seed=3) == spearman(x, y, draws=50, seed=3)


def test_no_correlation_of_few_or_constant_values(refuses):
    assert np.isnan(spearman(np.arange(9.0), np.arange(9.0))).all()
    assert np.isnan(spearman(np.arange(12.0), np.ones(12))[0])
    x = np.r_[np.arange(12.0), np.nan]
    assert spearman(x, x, draws=20)[0] == 1.0
    refuses(["one length"], spearman, np.arange(3.0), np.arange(4.0))


def test_unknown_covariates_are_refused(table, refuses):
    refuses(["no column 'mass'"], correlations, table, ["mass"])
    assert "n_cells" not in set(correlations(table.drop(columns="n_cells"), draws=5)["covariate"])


def test_the_same_perturbations_are_predicted_in_two_tasks(table):
    other = table.assign(context="d")
    shuffled = table.assign(context="e", added=np.random.default_rng(0).permutation(table["added"]))
    pairs = across_tasks(pd.concat([table, other, shuffled]), draws=200)
    assert len(pairs) == 3 and (pairs["n"] == N).all()
    assert pairs["rho"].iloc[0] == pytest.approx(1) and abs(pairs["rho"].iloc[1]) < 0.4
    assert across_tasks(pd.concat([table, other.head(5)])).empty


# --- groups ----------------------------------------------------------------------------------------------------------


def test_a_planted_group_is_found_and_p_is_scipys():
    rng = np.random.default_rng(0)
    values = pd.Series(rng.standard_normal(200).round(1), index=[f"P{k}" for k in range(200)])
    values.iloc[:12] += 2
    values.iloc[12:20] -= 2
    sets = {"up": range(12), "down": range(12, 20), "same": range(12), "small": range(3), "half": range(150)}
    sets |= {f"null{k}": rng.choice(np.arange(20, 200), 15, replace=False) for k in range(30)}
    groups = pd.DataFrame([(f"P{k}", g) for g, members in sets.items() for k in members], columns=["pert_id", "group"])
    found = enrichment(
        values, pd.concat([groups, groups.head(3), pd.DataFrame({"pert_id": ["else"], "group": ["up"]})])
    )
    by = found.set_index("group")
    assert set(found["group"]) == set(sets) - {"small", "half", "up"} and by.loc["same", "same_as"] == "up"
    assert set(found[found["q"] <= 0.05]["group"]) == {"same", "down"}
    assert by.loc["same", "auc"] > 0.85 and by.loc["down", "auc"] < 0.15
    for name in ("same", "down", "null3"):
        own = values.index.isin([f"P{k}" for k in sets[name]])
        test = stats.mannwhitneyu(values[own], values[~own], method="asymptotic")
        assert by.loc[name, "p"] == pytest.approx(test.pvalue, rel=1e-9)
        assert by.loc[name, "auc"] == pytest.approx(test.statistic / (own.sum() * (~own).sum()))
        assert by.loc[name, "median"] == pytest.approx(values[own].median())
        assert by.loc[name, "median_others"] == pytest.approx(values[~own].median())
    np.testing.assert_allclose(found["q"], stats.false_discovery_control(found["p"]))
    assert by.loc["same", "members"].split(", ")[0] == values.iloc[:12].idxmax()


def test_values_that_are_all_alike_have_no_groups(refuses):
    values = pd.Series(1.0, index=[f"P{k}" for k in range(30)])
    groups = pd.DataFrame({"pert_id": values.index[:6], "group": "a"})
    assert enrichment(values, groups)["p"].tolist() == [1.0]
    assert enrichment(values, groups.head(2)).empty
    refuses(["no column 'group'"], enrichment, values, groups.drop(columns="group"))
    refuses(["twice"], enrichment, pd.concat([values, values]), groups)


def test_terms_are_those_of_the_shipped_table():
    terms = pattern_groups._terms()
    found = gene_terms(["RPL3", "RPL4+RPL5", "TP53", "nonsense"])
    assert set(found["pert_id"]) == {"RPL3", "RPL4+RPL5", "TP53"}
    expected = set(terms[terms["gene"].isin(["RPL4", "RPL5"])]["term"])
    assert set(found[found["pert_id"] == "RPL4+RPL5"]["group"]) == {f"GO BP no. {t}" for t in expected}
    assert gene_terms(["imatinib", "dasatinib", "TP53"]).empty and gene_terms([]).empty


# --- by read-out -----------------------------------------------------------------------------------------------------


def test_readouts_agree_with_plain_numpy(simulated, monkeypatch):
    monkeypatch.setattr("panmodal.insight.pattern_readouts.BLOCK", 7)
    own = readout_table(simulated.evidence(), TASK, [("good", "ridge"), ("none", "train mean"), ("none", "no change")])
    p, y, m = [], [], []
    for trial, found in simulated.predictions.items():
        if trial.startswith("c-good-ridge"):
            k = [IDS.index(i) for i in found.ids]
            p.append(found.values.astype(float)), y.append(simulated.truth[k].astype(float))
            m.append(np.tile(found.fallback.astype(float), (len(k), 1)))
    p, y, m = map(np.concatenate, (p, y, m))
    good = own[own["embedding"] == "good"].set_index("readout")
    r = [stats.pearsonr(p[:, g] - m[:, g], y[:, g] - m[:, g]) for g in range(T)]
    np.testing.assert_allclose(good["r"], [x.statistic for x in r], atol=1e-9)
    one_sided = [stats.pearsonr(p[:, g] - m[:, g], y[:, g] - m[:, g], alternative="greater").pvalue for g in range(T)]
    np.testing.assert_allclose(good["q"], stats.false_discovery_control(one_sided), rtol=1e-6)
    np.testing.assert_allclose(good["r2"], 1 - ((p - y) ** 2).sum(0) / ((m - y) ** 2).sum(0))
    np.testing.assert_allclose(good["variance"], (y - m).var(axis=0))
    np.testing.assert_allclose(good["r2_no_change"], 1 - (y**2).sum(0) / ((m - y) ** 2).sum(0))
    assert (good["n"] == N).all()
    mean = own[own["probe"] == "train mean"]
    assert mean["r"].isna().all() and np.allclose(mean["r2"], 0)
    np.testing.assert_allclose(own.loc[own["probe"] == "no change", "r2"], good["r2_no_change"], atol=1e-9)


def test_labels_are_read_as_numbers(simulated):
    labels = np.sign(simulated.truth).astype(np.float32)
    evidence = Evidence(
        simulated.scores.assign(response="deg"), simulated.rows, read_truth=lambda task: Truth(tuple(IDS), labels, tuple(f"g{g}" for g in range(T))),
        read_predictions=lambda trial: _as_labels(simulated.predictions[trial], labels),
    )  # fmt: skip
    own = readout_table(evidence, ("s", "c", "deg", "u"), [("good", "ridge")])
    assert (own["r"] > 0.999).all() and (own["r2"] > 0.9).all()


def _as_labels(found, labels):
    rows = labels[[IDS.index(i) for i in found.ids]]
    values = np.concatenate([rows == -1, rows == 1], axis=1).astype(np.float32)
    return Predicted(found.ids, found.covered, values, np.full(2 * T, 0.5, np.float32))


def test_summaries_of_readouts(simulated):
    evidence = simulated.evidence()
    found = panel(evidence, TASK)
    methods = [tuple(found.methods.loc[k, ["embedding", "probe"]]) for k in chosen_methods(found)]
    assert methods[0][0] == "good" and methods[1][0] == "blind" and len(methods) == 3
    assert methods[2] == ("good (permuted)", "ridge")
    own = readout_table(evidence, TASK, methods)
    total = readout_summary(own).set_index("embedding")
    assert total.loc["good", "share_predicted"] > 0.9 > total.loc["blind", "share_predicted"]
    assert total.loc["good", "median_r2"] > 0.2 and total.loc["blind", "median_r2"] < 0
    bins = by_variance(own, 5)
    assert bins.groupby("embedding")["n_readouts"].sum().eq(T).all() and len(bins) == 15
    assert bins.groupby("embedding")["variance"].apply(lambda v: v.is_monotonic_increasing).all()
    counted = readout_bins(own)
    assert counted.groupby("embedding")["n_readouts"].sum().eq(T).all()
    assert counted.groupby("embedding")["share"].sum().round(9).eq(1).all()


def test_random_stands_in_for_a_permuted_copy(simulated):
    scores = simulated.scores
    found = panel(simulated.evidence(scores=scores[scores["embedding"] != "good (permuted)"]), TASK)
    assert found.name(chosen_methods(found)[-1]) == "random with ridge"
    found = panel(simulated.evidence(scores=scores[scores["role"] != "control"]), TASK)
    assert [found.methods["role"][k] for k in chosen_methods(found)] == ["embedding", "embedding"]


def test_readouts_that_cannot_be_read_are_refused(simulated, refuses):
    refuses(["no trials of good with svm"], readout_table, simulated.evidence(), TASK, [("good", "svm")])
    refuses(
        ["need a results folder"],
        readout_table,
        Evidence(simulated.scores),
        TASK,
        [("good", "ridge")],
        error=StoreError,
    )
    short = simulated.evidence(read_truth=lambda task: Truth(tuple(IDS[1:]), simulated.truth[1:], ("g",) * T))
    refuses(["no measured response", "P00"], readout_table, short, TASK, [("good", "ridge")])
    narrow = simulated.evidence(read_truth=lambda task: Truth(tuple(IDS), simulated.truth[:, 1:], ("g",) * (T - 1)))
    refuses(["do not fit"], readout_table, narrow, TASK, [("good", "ridge")])

"""What results say about fusions: gains against simulated truth, weights, missing modalities, sentences against the tables."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import run
from panmodal.errors import InputError
from panmodal.evaluation.evidence import read_evidence
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES
from panmodal.insight.evidence import Evidence
from panmodal.insight.fusion import displays, fusion_gains
from panmodal.insight.fusion_parts import fusion_fits, fusion_weights, members, missing_modalities
from panmodal.insight.fusion_words import gain_sentences, missing_sentences, weight_sentences
from panmodal.insight.gaps import gap_closed

TASK = ["screen", "context", "response", "split"]
STRING, TEXT = ("string", "ridge"), ("text", "knn")
KERNELS, STACK = ("fusion", "kernels"), ("fusion", "stack")


def simulate(effects, *, n=60, folds=5, contexts=("A",), screen="s", response="lfc", metrics=("L2",), noise=1.0, seed=0,
             uncovered=None, simulated=False, seen="no", rows=True, beside=0.0, learned=None, of=None):  # fmt: skip
    """Tables of errors: difficulty of a perturbation (shared by methods) + effect of the method + noise; ``fusion*`` are fusions.

    ``effects``: {(embedding, probe): effect}; metrics where higher is better have the effects with the sign turned, after ``beside``
    (a number, or one for each method) is added to them.
    """
    rng = np.random.default_rng(seed)
    ids = [f"P{k:04d}" for k in range(n)]
    difficulty = 2 * rng.standard_normal(n)
    methods = {("none", "train mean"): 4.0, ("idealised", "ridge"): -8.0, **effects}
    tables, scores = [], []
    for context in contexts:
        for (embedding, probe), effect in methods.items():
            role = {"none": "baseline", "idealised": "oracle"}.get(embedding, "embedding")
            values = {}
            for k, metric in enumerate(metrics):
                more = beside.get((embedding, probe), 0.0) if isinstance(beside, dict) else beside
                own = 20 + difficulty + effect + more * (k > 0) + noise * rng.standard_normal(n)
                values[metric] = -own if METRICS[metric].higher_is_better else own
            gone = (uncovered or {}).get(embedding, set())
            for fold in range(folds):
                at = np.arange(fold, n, folds)
                trial = f"{screen}-{context}-{embedding}-{probe}-{fold}"
                covered = np.array([ids[k] not in gone for k in at])
                tables.append(pd.DataFrame({"trial": trial, "pert_id": [ids[k] for k in at], "covered": covered,
                                            **{m: v[at] for m, v in values.items()}}))  # fmt: skip
                for metric, own in values.items():
                    scores.append({
                        "screen": screen, "context": context, "response": response, "split": "u", "fold": fold, "seed": 42,
                        "embedding": embedding, "probe": probe, "role": role,
                        "modality": "fusion" if "fusion" in embedding else "toy", "simulated": simulated, "seen": seen,
                        "fallback": "filled", "metric": metric, "trial": trial, "value": own[at].mean(), "n_test": len(at),
                        "n_covered": int(covered.sum()), "n_undefined": 0, "hyperparameters": "{}",
                    })  # fmt: skip
    runs = [{"screen": {"name": screen}, "fusions": [{"name": e, "method": p, "of": list(o), "role": "embedding"}
                                                     for (e, p), o in (of or {}).items()]}]  # fmt: skip
    return Evidence(
        pd.DataFrame(scores), pd.concat(tables, ignore_index=True) if rows else None, runs=runs, fusions=learned
    )


def join(*parts):
    return Evidence(pd.concat([e.scores for e in parts]), pd.concat([e.rows for e in parts]))


def mean(evidence, method, metric="L2", context="A", ids=None):
    """Mean over folds of the mean over ids of a method's values."""
    own = evidence.scores
    own = own[
        (own["embedding"] == method[0])
        & (own["probe"] == method[1])
        & (own["context"] == context)
        & (own["metric"] == metric)
    ]
    folds = []
    for trial in own["trial"]:
        part = evidence.rows[evidence.rows["trial"] == trial]
        part = part if ids is None else part[part["pert_id"].isin(ids)]
        folds.append(part[metric].mean())
    return np.mean(folds)


LADDER = {STRING: 0.0, TEXT: 1.0, KERNELS: -1.0, STACK: 2.0}


# --- gains -----------------------------------------------------------------------------------------------------------


def test_gains_are_differences_of_means_over_folds():
    evidence = simulate(LADDER, metrics=("L2", "PDS_cosine", "Pearson"))
    table = fusion_gains(evidence, draws=300)
    assert list(table[["probe", "metric"]].itertuples(index=False, name=None)) == [
        (p, m) for p in ("kernels", "stack") for m in ("L2", "PDS_cosine")
    ]
    for row in table.itertuples():
        sign = 1 if METRICS[row.metric].higher_is_better else -1
        own, alone = mean(evidence, (row.embedding, row.probe), row.metric), mean(evidence, STRING, row.metric)
        assert (row.single, row.single_probe, row.by, row.n_folds, row.n_perturbations) == (
            *STRING,
            PERTURBATIONS,
            5,
            60,
        )
        np.testing.assert_allclose([row.value, row.single_value, row.gain], [own, alone, sign * (own - alone)])
        floor, ceiling = (
            mean(evidence, ("none", "train mean"), row.metric),
            mean(evidence, ("idealised", "ridge"), row.metric),
        )
        np.testing.assert_allclose(row.gap_closed, gap_closed(own, floor, ceiling, sign > 0))
        assert row.gain_low < row.gain < row.gain_high
        wide = evidence.rows.merge(evidence.trials[["trial", "embedding", "probe"]], on="trial")
        wide = wide.pivot_table(index="pert_id", columns=["embedding", "probe"], values=row.metric)
        better = sign * (wide[row.embedding, row.probe] - wide[STRING])
        assert row.improved == pytest.approx((better > 0).mean()) and row.worsened == pytest.approx((better < 0).mean())
    assert list(table["verdict"]) == ["better", "better", "worse", "worse"]


def test_the_single_embedding_is_the_best_by_the_primary_metric_and_the_best_by_the_other_is_told():
    evidence = simulate(LADDER, metrics=("L2", "PDS_cosine"), beside={TEXT: -6.0})
    table = fusion_gains(evidence, draws=100).set_index(["probe", "metric"])
    row = table.loc[("kernels", "PDS_cosine")]
    assert (row["single"], row["top"], row["top_probe"]) == ("string", "text", "knn")
    assert row["top_value"] == pytest.approx(mean(evidence, TEXT, "PDS_cosine"))
    assert not row["primary"] and table.loc[("kernels", "L2"), "primary"]
    assert list(fusion_gains(evidence, ["PDS_cosine"], draws=50)["metric"].unique()) == ["PDS_cosine"]


def test_intervals_hold_for_all_fusions_together_and_are_the_same_for_the_same_seed():
    one = simulate({STRING: 0.0, KERNELS: -0.2})
    many = simulate({STRING: 0.0, KERNELS: -0.2, **{("fusion", f"m{k}"): 3.0 for k in range(9)}})
    widths = []
    for evidence in (one, many):
        row = fusion_gains(evidence, draws=2000).set_index("probe").loc["kernels"]
        widths.append(row["gain_high"] - row["gain_low"])
    assert widths[1] > 1.2 * widths[0]
    pd.testing.assert_frame_equal(fusion_gains(one, draws=50), fusion_gains(one, draws=50))
    assert not fusion_gains(one, draws=50).equals(fusion_gains(one, draws=50, seed=1))


def test_equal_fusions_are_seldom_told_apart():
    wrong = 0
    for seed in range(25):
        table = fusion_gains(
            simulate({STRING: 0.0, **{("fusion", f"m{k}"): 0.0 for k in range(3)}}, seed=seed, n=80), draws=600
        )
        wrong += bool((table["verdict"] != "not told apart").any())
    assert wrong <= 4  # 1.25 expected at 5 %


def test_the_gain_in_common_is_on_ids_that_both_cover():
    gone = {f"P{k:04d}" for k in range(7)}
    evidence = simulate(LADDER, uncovered={"string": gone})
    table = fusion_gains(evidence, draws=100)
    kept = [f"P{k:04d}" for k in range(60) if f"P{k:04d}" not in gone]
    row = table.iloc[0]
    assert row["n_common"] == 53 and row["single_coverage"] == pytest.approx(53 / 60) and row["coverage"] == 1
    np.testing.assert_allclose(row["gain_common"], mean(evidence, STRING, ids=kept) - mean(evidence, KERNELS, ids=kept))
    assert row["common_low"] < row["gain_common"] < row["common_high"] and row["gain_common"] != row["gain"]


def test_a_fold_without_a_score_counts_for_neither():
    evidence = simulate({STRING: 0.0, KERNELS: -1.0})
    lost = "s-A-fusion-kernels-3"
    scores = evidence.scores[evidence.scores["trial"] != lost]
    table = fusion_gains(Evidence(scores, evidence.rows[evidence.rows["trial"] != lost]), draws=100)
    row = table.iloc[0]
    own = [k for k in range(60) if k % 5 != 3]
    assert row["n_folds"] == 4
    kept = [f"P{k:04d}" for k in own]
    means = [evidence.rows[(evidence.rows["trial"] == f"s-A-string-ridge-{f}")]["L2"].mean() for f in (0, 1, 2, 4)]
    assert row["single_value"] == pytest.approx(np.mean(means)) and row["n_common"] == len(kept)


def test_a_single_embedding_with_few_folds_is_not_the_best():
    evidence = simulate({STRING: 0.0, ("lucky", "knn"): -9.0, KERNELS: -1.0})
    few = evidence.scores["trial"].str.contains("lucky") & (evidence.scores["fold"] > 0)
    lost = set(evidence.scores.loc[few, "trial"])
    found = fusion_gains(Evidence(evidence.scores[~few], evidence.rows[~evidence.rows["trial"].isin(lost)]), draws=50)
    assert set(found["single"]) == {"string"}


@given(st.integers(0, 10**6), st.floats(-1.0, 1.0))
def test_where_only_folds_are_known_interval_and_corrected_test_agree(seed, effect):
    table = fusion_gains(simulate({STRING: 0.0, KERNELS: effect}, seed=seed, n=20, rows=False), draws=20)
    row = table.iloc[0]
    assert row["by"] == FOLDS and np.isnan(row["improved"]) and np.isnan(row["gain_common"]) and row["n_common"] == 0
    assert (row["p_folds"] < 0.05) == (row["verdict"] != "not told apart")


def test_one_fold_has_no_interval():
    row = fusion_gains(simulate({STRING: 0.0, KERNELS: -1.0}, folds=1, rows=False), draws=20).iloc[0]
    assert row["verdict"] == "no interval" and np.isnan(row["gain_low"]) and np.isnan(row["p_folds"])
    assert "not known how sure" in gain_sentences(pd.DataFrame([row]))[0]


def test_metrics_of_genes_take_stored_samples():
    evidence = simulate({STRING: 0.0, KERNELS: -1.0}, response="deg", metrics=("F1",), rows=False)
    rng = np.random.default_rng(0)
    trials = evidence.scores.drop_duplicates("trial")
    shared = rng.standard_normal((5, 200))
    samples = trials[[*TASK, "trial", "fold", "seed", "metric", "value", "embedding"]].assign(estimator="")
    samples["draws"] = [v + shared[f] + 0.1 * rng.standard_normal(200)
                        for v, f in zip(samples["value"], samples["fold"], strict=True)]  # fmt: skip
    own = Evidence(evidence.scores, None, resampled=samples.drop(columns=["embedding", "value"]))
    row = fusion_gains(own).iloc[0]
    assert row["by"] == SAMPLES and row["metric"] == "F1" and np.isnan(row["improved"])
    # Noise that both share is no uncertainty: five folds of a difference with standard deviation 0.1 sqrt 2.
    assert row["gain_high"] - row["gain_low"] == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2 / 5), rel=0.15)
    assert row["gain_low"] + row["gain_high"] == pytest.approx(2 * row["gain"])
    assert fusion_gains(evidence).iloc[0]["by"] == FOLDS


def test_one_method_over_one_embedding_tells_what_combining_gains():
    alone, other = ("fusion of text", "kernels"), ("fusion of string", "kernels")
    of = {KERNELS: ("string", "text"), alone: ("text",), other: ("string",), STACK: ("string", "text")}
    evidence = simulate({STRING: 0.0, TEXT: 1.0, KERNELS: -2.0, STACK: -0.5, alone: 0.8, other: -1.2}, of=of)
    table = fusion_gains(evidence, draws=400).set_index(["embedding", "probe"])
    row = table.loc[KERNELS]
    assert row["alone"] == "string" and row["alone_value"] == pytest.approx(mean(evidence, other))
    assert row["gain_alone"] == pytest.approx(mean(evidence, other) - mean(evidence, KERNELS))
    assert row["alone_low"] < row["gain_alone"] < row["alone_high"] < row["gain_high"]
    assert (table.drop(index=[KERNELS])["alone"] == "").all() and table["alone_value"].notna().sum() == 1
    said = gain_sentences(table.reset_index())[0]
    assert f"kernels over string alone has {row['alone_value']:.4g}, so that {row['gain_alone']:.3g} (" in said


def test_published_fusions_are_found_by_their_modality():
    evidence = simulate(LADDER)
    capital = evidence.scores.assign(modality=evidence.scores["modality"].replace("fusion", "Fusion"))
    pd.testing.assert_frame_equal(
        fusion_gains(Evidence(capital, evidence.rows), draws=50), fusion_gains(evidence, draws=50)
    )


def test_only_tasks_with_fusions_count(refuses):
    fused = simulate(LADDER, screen="one", contexts=("A", "B"))
    plain = simulate({STRING: 0.0, TEXT: 1.0}, screen="two")
    table = fusion_gains(join(plain, fused), draws=50)
    assert set(table["screen"]) == {"one"} and len(table) == 4
    refuses(["no fusion", "--fusion kernels"], fusion_gains, plain)
    refuses(["no fusion", "--fusion kernels"], displays, plain)
    refuses(["no single embedding"], fusion_gains, simulate({KERNELS: 0.0}))
    refuses(["no metric 'L7'"], fusion_gains, fused, ["L7"])


def test_permuted_fusions_are_controls_and_not_compared():
    evidence = simulate({**LADDER, ("fusion (permuted)", "kernels"): 3.0})
    control = evidence.scores["embedding"] == "fusion (permuted)"
    evidence = Evidence(evidence.scores.assign(role=evidence.scores["role"].mask(control, "control")), evidence.rows)
    assert set(fusion_gains(evidence, draws=20)["embedding"]) == {"fusion"}


def test_many_methods_are_quick():
    effects = {(f"e{k}", "ridge"): 0.1 * k for k in range(45)} | {("fusion", f"m{k}"): 0.0 for k in range(5)}
    evidence = simulate(effects, n=500, contexts=tuple("ABCDEFGHIJ"), metrics=("L2", "PDS_L2"))
    started = time.perf_counter()
    table = fusion_gains(evidence)
    assert len(table) == 100 and time.perf_counter() - started < 25


# --- what fits learned -----------------------------------------------------------------------------------------------


def told(values, *, what="weight", contexts=("A",), embedding="fusion", probe="kernels", of_context=None):
    """Rows of fusions.parquet: ``values`` are {(modality, part): one value for each fold, NaN for none}."""
    rows = [
        {"screen": "s", "context": c, "response": "lfc", "split": "u", "fold": f, "embedding": embedding, "probe": probe, "seed": 42,
         "trial": f"s-{c}-{embedding}-{probe}-{f}", "what": what, "of_context": c if of_context is None else of_context,
         "modality": m, "part": p, "value": v}
        for c in contexts for (m, p), own in values.items() for f, v in enumerate(own) if np.isfinite(v)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_weights_are_shares_of_a_fit_summed_over_parts():
    weights = told(
        {("string", "linear"): [2, 1, 1], ("string", "gaussian"): [4, 1, 1], ("text", "linear"): [2, 2, np.nan]}
    )
    evidence = simulate(LADDER, folds=3, learned=weights)
    fits = fusion_fits(evidence)
    assert np.allclose(fits.groupby("fold")["share"].sum(), 1) and len(fits) == 6
    table = fusion_weights(evidence).set_index("modality")
    assert list(table.index) == ["string", "text"] and (table["n_fits"] == 3).all()
    assert table.loc["string", ["share", "share_low", "share_high", "value"]].tolist() == pytest.approx(
        [(6 / 8 + 2 / 4 + 1) / 3, 0.5, 1.0, 10 / 3]
    )
    assert table.loc["text", "share_sd"] == pytest.approx(np.std([1 / 4, 1 / 2, 0], ddof=1))
    (said,) = weight_sentences(fusion_weights(evidence))
    assert (
        said == "s, A, kernels: string has 75 % of the weight (50 % to 100 % over 3 fits), text has the least (25 %)."
    )


def test_what_of_another_context_is_left_out_and_of_all_contexts_is_kept():
    own, other = told({("string", ""): [1, 1], ("text", ""): [3, 3]}), told({("string", ""): [9, 9]}, of_context="B")
    both = told({("string", ""): [2, 2], ("text", ""): [2, 2]}, what="attention", of_context="")
    table = fusion_weights(simulate(LADDER, folds=2, learned=pd.concat([own, other, both])))
    shares = table.set_index(["what", "modality"])["share"]
    assert shares["weight", "text"] == 0.75 and shares["attention", "text"] == 0.5
    assert weight_sentences(table)[-1] == "s, A: attention is the same for all modalities with kernels."


def test_importances_are_no_shares_and_controls_are_left_out():
    real = told({("string", ""): [0.5, 0.3], ("text", ""): [-0.1, 0.1]}, what="importance")
    permuted = told({("string (permuted)", ""): [1, 1]}, embedding="fusion (permuted)")
    negative = told({("string", ""): [2, 2], ("text", ""): [-1, 1]}, probe="stack")
    evidence = simulate(LADDER, folds=2, learned=pd.concat([real, permuted, negative]))
    table = fusion_weights(evidence).set_index(["what", "probe", "modality"])
    assert set(table["embedding"]) == {"fusion"}
    assert table.loc[("importance", "kernels", "string"), "value"] == pytest.approx(0.4)
    assert table.loc["importance", "share"].isna().all()
    assert table.loc[("weight", "stack", "text"), "share"] == pytest.approx(
        1 / 3
    )  # of the fit without a negative weight
    said = weight_sentences(fusion_weights(evidence)[lambda t: t["what"] == "importance"])
    assert said == [
        "s, A, kernels: the error grows most without string (by 0.4 in the mean over 2 fits) and least without text (0)."
    ]


def test_without_fits_there_are_no_weights():
    for evidence in (simulate(LADDER), simulate(LADDER, learned=told({("string", ""): [1]}).iloc[:0])):
        assert fusion_fits(evidence).empty and fusion_weights(evidence).empty
        assert [d.name for d in displays(evidence, draws=50)] == ["fusion-gains"]


def test_members_are_those_of_the_run_or_of_the_fits():
    learned = told({("string", ""): [1, 1], ("text", ""): [3, 3]})
    assert members(simulate(LADDER, learned=learned)) == {("s", "fusion", "kernels"): ("string", "text")}
    told_by_run = simulate(LADDER, learned=learned, of={KERNELS: ("text", "string", "go")})
    assert members(told_by_run) == {("s", "fusion", "kernels"): ("text", "string", "go")}
    assert fusion_gains(told_by_run, draws=20).iloc[0][["n_members", "members"]].tolist() == [3, "text, string, go"]


# --- missing modalities ----------------------------------------------------------------------------------------------


def test_gains_by_the_modalities_that_perturbations_have():
    gone = {"string": {"P0001", "P0002", "P0003"}, "text": {"P0003", "P0004"}}
    evidence = simulate(LADDER, uncovered=gone, of={KERNELS: ("string", "text")})
    table = missing_modalities(evidence).set_index("group")
    assert table["n_perturbations"].to_dict() == {
        "2 of 2": 56, "1 of 2": 3, "0 of 2": 1, "without string": 3, "without text": 2,
    }  # fmt: skip
    wide = evidence.rows.merge(evidence.trials[["trial", "embedding", "probe"]], on="trial")
    wide = wide.pivot_table(index="pert_id", columns=["embedding", "probe"], values="L2")
    for group, ids in (("without text", ["P0003", "P0004"]), ("1 of 2", ["P0001", "P0002", "P0004"])):
        own, row = wide.loc[ids], table.loc[group]
        np.testing.assert_allclose(row[["value", "single_value", "floor_value"]].astype(float),
                                   own[[KERNELS, STRING, ("none", "train mean")]].mean())  # fmt: skip
        gain = own[STRING] - own[KERNELS]
        assert row["gain"] == pytest.approx(gain.mean()) and row["gain_low"] < row["gain"] < row["gain_high"]
    assert table.loc["without string", "lacks"] == "string" and np.isnan(table.loc["without string", "n_modalities"])
    assert np.isnan(table.loc["0 of 2", "gain_low"])  # one perturbation
    (said,) = missing_sentences(missing_modalities(evidence))
    assert f"{table.loc['2 of 2', 'gain']:+.3g} on the 56 with 2 of 2" in said


def test_nothing_is_said_of_missing_modalities_where_all_are_there_or_unknown():
    of = {KERNELS: ("string", "text")}
    gone = {"string": {"P0001"}}
    assert missing_modalities(simulate(LADDER, of=of)).empty
    assert missing_modalities(simulate(LADDER, uncovered=gone)).empty
    assert missing_modalities(simulate(LADDER, uncovered=gone, of={KERNELS: ("string", "elsewhere")})).empty
    assert missing_modalities(simulate(LADDER, uncovered=gone, of=of, rows=False)).empty


# --- sentences and displays ------------------------------------------------------------------------------------------


def number_after(text, words):
    return float(re.search(re.escape(words) + r" (-?[\d.]+)", text).group(1))


def test_sentences_are_true_of_the_table():
    gone = {"string": {f"P{k:04d}" for k in range(9)}}
    evidence = simulate(
        LADDER, metrics=("L2", "PDS_cosine"), uncovered=gone, of={KERNELS: ("string", "text")}, contexts=("A", "B")
    )
    table = fusion_gains(evidence, draws=300)
    said = gain_sentences(table)
    assert said[0] == "On 2 of 2 tasks some fusion is better than the best single embedding by an interval above 0."
    for context, (text, rest) in zip("AB", (said[1:3], said[3:5]), strict=True):
        own = table[table["context"] == context].set_index(["probe", "metric"])
        row, beside = own.loc[("kernels", "L2")], own.loc[("kernels", "PDS_cosine")]
        assert text.startswith(
            f"s, {context}: kernels over 2 embeddings has L2 {row['value']:.4g} instead of {row['single_value']:.4g}"
        )
        assert "string with ridge (gain" in text and "for all 2 fusions together" in text
        assert number_after(text, "(gain") == pytest.approx(row["gain"], rel=0.01)
        assert number_after(text, "95 % interval") == pytest.approx(row["gain_low"], rel=0.01)
        assert f"; {100 * row['improved']:.0f} % of the perturbations improve" in text
        assert f"; PDS_cosine is {beside['value']:.3g} instead of {beside['single_value']:.3g}" in text
        assert f"covers 100 % of the test perturbations instead of {100 * row['single_coverage']:.0f} %" in text
        assert f"on the {row['n_common']} that both cover the gain is {row['gain_common']:.3g}" in text
        assert rest.endswith(f"worse than it: stack (gain {own.loc[('stack', 'L2'), 'gain']:.3g}).")
    assert "trained on" not in " ".join(said) and "simulated" not in " ".join(said)


def test_simulated_and_contaminated_results_are_marked():
    evidence = simulate({STRING: 0.0, KERNELS: 0.1}, simulated=True, seen="yes")
    table = fusion_gains(evidence, draws=300)
    (said,) = gain_sentences(table)
    assert (
        said.startswith("s, A (simulated data): kernels has L2")
        and "beware: string was trained on this data set" in said
    )
    assert table["verdict"].iloc[0] == "not told apart" and "cannot be told from no gain" in said
    assert "fusions together" not in said  # there is one


def test_a_method_over_one_embedding_is_no_fusion_to_boast_of():
    lone = ("fusion of string", "kernels")
    evidence = simulate(
        {STRING: 0.0, KERNELS: 1.0, lone: -1.0}, contexts=("A", "B"), of={lone: ("string",), KERNELS: ("string", "go")}
    )
    said = gain_sentences(fusion_gains(evidence, draws=200))
    assert said[0].startswith("On 0 of 2 tasks") and said[1].startswith("s, A: kernels over 2 embeddings has L2")
    assert "and so is worse" in said[1] and "better than it too: fusion of string (kernels)" in said[2]


def test_displays_have_figures():
    learned = pd.concat([told({("string", ""): [2, 1], ("text", ""): [1, 1]}), told({("string", ""): [1, 1], ("text", ""): [1, 1]}, probe="stack"),
                         told({("string", ""): [0.2, 0.1], ("text", ""): [0.1, 0.1]}, what="importance")])  # fmt: skip
    evidence = simulate(LADDER, folds=2, metrics=("L2", "PDS_L2"), learned=learned, uncovered={"text": {"P0005", "P0009"}},
                        of={KERNELS: ("string", "text")}, contexts=("A", "B"))  # fmt: skip
    found = displays(evidence, draws=50)
    assert [d.name for d in found] == ["fusion-gains", "fusion-weight", "fusion-importance", "fusion-missing"]
    for display in found:
        figure = display.plot()
        assert figure.axes and display.sentences and display.about and not display.frame().empty
        figure.canvas.draw_idle()
    bars = found[1].plot().axes[0]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["kernels"]  # equal weights are not drawn
    assert [t.get_text() for t in found[0].plot().axes[0].get_yticklabels()] == ["kernels", "stack"]


def test_results_of_a_run_are_read(toy, tmp_path):
    screen, embeddings = toy()
    run(
        screen,
        embeddings,
        tmp_path,
        fusions=["kernels", "late"],
        probes=["ridge"],
        n_jobs=1,
        metrics=["L2", "PDS_cosine"],
    )
    evidence = read_evidence(tmp_path)
    assert evidence.fusions is not None
    found = {d.name: d for d in displays(evidence, draws=100)}
    assert {"fusion-gains", "fusion-weight", "fusion-missing"} <= set(found)
    gains = found["fusion-gains"].frame()
    names = {e.name for e in embeddings}
    assert (
        (gains["n_members"] == 2).all() and set(gains["single"]) <= names and set(gains["probe"]) == {"kernels", "late"}
    )
    board = evidence.scores[(evidence.scores["fallback"] == "filled") & (evidence.scores["probe"] == "late")]
    means = board.groupby(["context", "metric"])["value"].mean()
    for row in gains[gains["probe"] == "late"].itertuples():
        assert row.value == pytest.approx(means[row.context, row.metric])
    weights = found["fusion-weight"].frame()
    assert np.allclose(weights.groupby(["context", "probe"])["share"].sum(), 1) and set(weights["modality"]) == names


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match="no metric 'nonsense'"):
        fusion_gains(simulate(LADDER), ["nonsense"])

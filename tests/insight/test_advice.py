"""Advice on boards of known truth: what is recommended and how surely, what fusion gains, and sentences that agree with the table."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from panmodal.errors import StoreError
from panmodal.evaluation.evidence import read_evidence
from panmodal.insight.advice import EVERY, advise, displays, members, sentences
from panmodal.insight.complement import fusion_plot, fusion_sentences, fusion_table
from panmodal.insight.evidence import Evidence, Predicted, Truth

FOLDS, SIZE = 3, 40
IDS = [[f"P{f}.{k:02d}" for k in range(SIZE)] for f in range(FOLDS)]


def board(
    methods,
    *,
    metric="L2",
    contexts=("A",),
    response="lfc",
    coverage=None,
    seen=None,
    common=None,
    rows=True,
    seed=0,
    noise=0.5,
):
    """Evidence from levels of methods, ``{(embedding, probe, role): mean error}``: a difficulty that all share, plus noise."""
    rng = np.random.default_rng(seed)
    scores, values = [], []
    for context in contexts:
        hard = rng.standard_normal((FOLDS, SIZE))
        for (embedding, probe, role), level in methods.items():
            share = (coverage or {}).get(embedding, 1.0)
            for fold in range(FOLDS):
                own = level + hard[fold] + noise * rng.standard_normal(SIZE)
                own += level - own.mean() + hard[fold].mean()
                trial = f"{context}-{embedding}-{probe}-{fold}"
                covered = np.arange(SIZE) < share * SIZE
                values += [{"trial": trial, "pert_id": i, "covered": c, metric: v}
                           for i, c, v in zip(IDS[fold], covered, own, strict=True)]  # fmt: skip
                for fallback in ("filled", "covered", "common"):
                    shift = (common or {}).get(embedding, 0.0) if fallback == "common" else 0.0
                    scores.append({
                        "screen": "s", "context": context, "response": response, "split": "u", "fold": fold, "seed": 42,
                        "embedding": embedding, "probe": probe, "role": role, "modality": "toy", "simulated": False,
                        "seen": (seen or {}).get(embedding, "no"), "fallback": fallback, "metric": metric, "value": own.mean() + shift,
                        "n_test": SIZE, "n_covered": int(share * SIZE), "hyperparameters": "{}", "trial": trial,
                        "n_scored": SIZE, "n_undefined": 0,
                    })  # fmt: skip
    return Evidence(pd.DataFrame(scores), pd.DataFrame(values) if rows else None)


BASE = {("none", "no change", "baseline"): 6.0, ("none", "train mean", "baseline"): 5.0, ("random", "ridge", "control"): 5.1,
        ("idealised", "ridge", "oracle"): 1.0}  # fmt: skip
CLEAR = {
    **BASE,
    ("good", "ridge", "embedding"): 4.0,
    ("good", "knn", "embedding"): 4.5,
    ("bad", "ridge", "embedding"): 4.9,
}


def only(table):
    assert len(table) == 1
    return table.iloc[0]


def test_a_clear_leader_is_advised():
    row = only(advise(board(CLEAR)))
    assert (row["verdict"], row["embedding"], row["probe"]) == ("use", "good", "ridge")
    assert row["reference"] == "train mean"
    assert row["margin"] == pytest.approx(1.0)
    assert 0.8 < row["margin_low"] < 1 < row["margin_high"] < 1.2
    assert row["p_best"] == 1.0
    assert row["n_methods"] == 3
    assert row["gap_closed"] == pytest.approx(0.25)
    assert row["not_worse"] == ""
    (text,) = sentences(advise(board(CLEAR)))
    assert "use good with ridge, the best by L2; it is better than train mean by 1 " in text
    assert f"{row['margin_low']:.3g} to {row['margin_high']:.3g}" in text
    assert "probability of being best is 1.00 among 3 methods" in text
    assert "closes 25 % of the gap to the idealised oracle" in text


def test_probability_of_being_best_is_that_of_the_normal_theory():
    """Two methods whose difference has a known standard error."""
    methods = {**BASE, ("a", "ridge", "embedding"): 4.0, ("b", "ridge", "embedding"): 4.05}
    evidence = board(methods, noise=0.4)
    row = only(advise(evidence, draws=4000))
    wide = evidence.rows.merge(evidence.scores[["trial", "embedding", "fold"]].drop_duplicates(), on="trial")
    wide = wide.pivot_table(index=["fold", "pert_id"], columns="embedding", values="L2")
    difference = (wide["b"] - wide["a"]).groupby("fold")
    error = np.sqrt((difference.var(ddof=0) / SIZE).sum()) / FOLDS
    assert row["p_best"] == pytest.approx(norm.cdf(difference.mean().mean() / error), abs=0.03)
    assert row["not_worse"] == "b"


def test_margin_interval_is_that_of_the_normal_theory():
    row = only(advise(board(CLEAR, noise=2.0), draws=4000))
    evidence = board(CLEAR, noise=2.0)
    wide = evidence.rows.merge(evidence.scores[["trial", "embedding", "probe", "fold"]].drop_duplicates(), on="trial")
    wide = wide.pivot_table(index=["fold", "pert_id"], columns=["embedding", "probe"], values="L2")
    difference = (wide["none", "train mean"] - wide["good", "ridge"]).groupby("fold")
    error = np.sqrt((difference.var(ddof=0) / SIZE).sum()) / FOLDS
    assert row["margin_low"] == pytest.approx(row["margin"] - 1.96 * error, abs=0.25 * error)
    assert row["margin_high"] == pytest.approx(row["margin"] + 1.96 * error, abs=0.25 * error)


def test_nothing_is_advised_below_the_floor():
    methods = {**BASE, ("bad", "ridge", "embedding"): 5.4}
    row = only(advise(board(methods)))
    assert row["verdict"] == "none"
    assert row["margin"] == pytest.approx(-0.4)
    (text,) = sentences(advise(board(methods)))
    assert (
        "no embedding can be advised; the best by L2, bad with ridge, is no better than train mean, difference -0.4"
        in text
    )


def test_nothing_is_advised_where_a_control_is_as_good():
    methods = {**CLEAR, ("good (permuted)", "ridge", "control"): 4.01}
    row = only(advise(board(methods)))
    assert row["verdict"] == "none"
    assert row["reference"] == "good (permuted) with ridge"
    assert row["margin"] > 0 > row["margin_low"]
    assert "cannot be told from good (permuted) with ridge" in sentences(advise(board(methods)))[0]


def test_contaminated_embeddings_are_not_advised():
    table = advise(board(CLEAR, seen={"good": "yes"}))
    row = only(table)
    assert row["embedding"] == "bad"
    assert row["contaminated"] == "good"
    assert "good score(s) better but was trained on this data set" in sentences(table)[0]
    table = advise(board(CLEAR, seen={"good": "yes", "bad": "yes"}))
    assert only(table)["verdict"] == "none"
    assert "all were trained on this data set (good, bad)" in sentences(table)[0]
    table = advise(board(CLEAR, seen={"good": "unknown"}))
    assert only(table)["unknown"]
    assert "not known whether good was trained" in sentences(table)[0]


def test_alternatives_cover_more_or_are_cheaper():
    near = {
        **BASE,
        ("a", "lasso", "embedding"): 4.0,
        ("a", "ridge", "embedding"): 4.02,
        ("b", "knn", "embedding"): 4.02,
    }
    row = only(advise(board(near)))
    assert (row["alternative"], row["alternative_probe"], row["why_alternative"]) == ("a", "ridge", "probe")
    table = advise(board(near, coverage={"a": 0.8}))
    row = only(table)
    assert (row["alternative"], row["why_alternative"], row["alternative_coverage"]) == ("b", "coverage", 1.0)
    assert (
        "b with knn is as good within the noise and covers 100.0 % of the ids instead of 80.0 %" in sentences(table)[0]
    )
    far = {**near, ("b", "knn", "embedding"): 4.8, ("a", "ridge", "embedding"): 4.8}
    assert only(advise(board(far, coverage={"a": 0.8})))["alternative"] == ""


def test_ids_in_common_may_tell_another_story():
    table = advise(board(CLEAR, common={"good": 2.0}))
    assert only(table)["best_common"] == "bad"
    assert "on the ids that all embeddings cover bad leads" in sentences(table)[0]


def test_contexts_are_summed_up():
    table = advise(board(CLEAR, contexts=("A", "B")))
    assert table["context"].tolist() == ["A", "B", EVERY]
    row = table.iloc[2]
    assert (row["verdict"], row["embedding"], row["n_tasks"]) == ("use", "good", 2)
    assert row["margin"] == pytest.approx(0.2, abs=0.01)  # 1 of about 5
    assert "over its 2 contexts" in sentences(table)[2]
    assert f"by {100 * row['margin']:.1f} %" in sentences(table)[2]


def test_higher_may_be_better():
    methods = {key: -level for key, level in CLEAR.items()}
    row = only(advise(board(methods, metric="Pearson"), metric="Pearson"))
    assert (row["verdict"], row["embedding"], row["probe"]) == ("use", "good", "ridge")
    assert row["margin"] == pytest.approx(1.0)
    assert row["margin_low"] > 0.8


def test_without_values_of_perturbations_the_folds_decide():
    row = only(advise(board(CLEAR, rows=False)))
    assert row["verdict"] == "use"
    assert np.isnan(row["margin_low"])
    assert np.isnan(row["p_best"])
    (text,) = sentences(advise(board(CLEAR, rows=False)))
    assert "interval" not in text


def test_members_are_the_best_probes_and_a_control():
    found = members(board(CLEAR, seen={"bad": "yes"}))
    assert found[["embedding", "probe", "role"]].to_numpy().tolist() == [
        ["good", "ridge", "embedding"],
        ["random", "ridge", "control"],
    ]


def fused(parts, *, genes=30, noise=1.0, seed=0, covered=None):
    """Evidence with predictions: truth is a sum of components, and each embedding predicts those it knows.

    ``parts``: embedding -> (components known, noise of its predictions); the control knows none.
    """
    rng = np.random.default_rng(seed)
    n = FOLDS * SIZE
    components = rng.standard_normal((3, n, genes))
    truth = components.sum(axis=0) + noise * rng.standard_normal((n, genes))
    ids = [i for fold in IDS for i in fold]
    made = {}
    for name, (which, wrong) in {**parts, "random": ((), 0.3)}.items():
        made[name] = components[list(which)].sum(axis=0) + wrong * rng.standard_normal((n, genes))
        if covered and name in covered:
            made[name][~covered[name]] = 0.0
    methods = {(name, "ridge", "control" if name == "random" else "embedding"): 0.0 for name in made}
    made["none"] = np.zeros((n, genes))
    base = board({**methods, ("none", "train mean", "baseline"): 0.0})
    error = {name: np.linalg.norm(p - truth, axis=1) for name, p in made.items()}
    at = {i: k for k, i in enumerate(ids)}
    rows = base.rows.assign(
        L2=[error[t.split("-")[1]][at[p]] for t, p in zip(base.rows["trial"], base.rows["pert_id"], strict=True)]
    )
    value = rows.groupby("trial")["L2"].mean()
    scores = base.scores.assign(value=base.scores["trial"].map(value))

    def predictions(trial):
        name, fold = trial.split("-")[1], int(trial.split("-")[-1])
        here = slice(fold * SIZE, (fold + 1) * SIZE)
        known = covered[name][here] if covered and name in covered else np.ones(SIZE, bool)
        return Predicted(tuple(IDS[fold]), known, made[name][here].astype(np.float32), np.zeros(genes, np.float32))

    evidence = Evidence(scores, rows, read_truth=lambda task: Truth(tuple(ids), truth.astype(np.float32), tuple(map(str, range(genes)))),
                        read_predictions=predictions)  # fmt: skip
    return evidence, truth, made


def test_average_is_the_average():
    evidence, truth, made = fused({"a": ((0,), 0.2), "b": ((1,), 0.5)})
    row = only(fusion_table(evidence, members(evidence)))
    expected = np.linalg.norm((made["a"] + made["b"]) / 2 - truth, axis=1).mean()
    assert row["error_average"] == pytest.approx(expected, rel=1e-5)
    single = min(np.linalg.norm(made[k] - truth, axis=1).mean() for k in "ab")
    assert row["gain"] == pytest.approx(single - expected, abs=1e-4)
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert row["gain_common"] == pytest.approx(row["gain"])
    both = np.minimum(*(np.linalg.norm(made[k] - truth, axis=1) for k in "ab")).mean()
    assert row["best_of_two"] == pytest.approx(single - both, abs=1e-4)
    shrunk = np.linalg.norm(made[row["first"]] / 2 - truth, axis=1).mean()
    assert row["shrink_gain"] >= max(0, single - shrunk) - 1e-4


def test_fusion_helps_two_that_know_the_same_with_noise_of_their_own():
    evidence, _, _ = fused({"a": ((0, 1), 1.0), "b": ((0, 1), 1.0), "c": ((0, 1, 2), 0.1)})
    table = fusion_table(evidence, members(evidence)).set_index(["first", "second"])
    pairs = {frozenset(k): v for k, v in table.to_dict("index").items()}
    assert pairs[frozenset("ab")]["helps"]
    assert pairs[frozenset("ab")]["beyond_low"] > 0
    assert not pairs[frozenset("ac")]["helps"]
    assert pairs[frozenset("ac")]["gain"] < 0
    table = table.reset_index()
    (text,) = fusion_sentences(table)
    assert "fusion could help: the average of" in text
    assert "but another embedding has" in text
    assert "1 of 3 pairs helps" in text


def test_shrinkage_alone_is_no_fusion():
    """Two overconfident embeddings that know nothing: averaging them lowers errors, and so does shrinking one."""
    evidence, _, _ = fused({"a": ((), 2.0), "b": ((), 2.0)})
    row = only(fusion_table(evidence, members(evidence)))
    assert row["gain_low"] > 0
    assert row["shrink_gain"] >= row["gain"] - 0.05
    assert not row["helps"]
    assert "no average of two embeddings" in fusion_sentences(fusion_table(evidence, members(evidence)))[0]


def test_equal_guesses_do_not_look_complementary():
    """Best of two equally bad embeddings: gains for the asking, hardly any once the choice is made on other read-outs."""
    evidence, _, _ = fused({"a": ((0,), 1.0), "b": ((0,), 1.0)}, genes=200)
    row = only(fusion_table(evidence, members(evidence)))
    assert row["best_of_two"] > 3 * abs(row["best_of_two_split"])


def test_embeddings_for_different_perturbations_are_complementary():
    """Each of the two covers the other half of the ids: the average with gaps filled is better than either."""
    half = np.arange(FOLDS * SIZE) % 2 == 0
    evidence, _, _ = fused({"a": ((0, 1), 0.3), "b": ((0, 1), 0.3)}, covered={"a": half, "b": ~half})
    row = only(fusion_table(evidence, members(evidence)))
    assert row["helps"]
    assert row["n_common"] == 0
    assert np.isnan(row["gain_common"])
    assert row["best_of_two_split"] > row["best_of_two_control"] - 0.05
    assert row["error_correlation"] < 0 < row["error_correlation_self"]


def test_displays_and_figure():
    evidence, _, _ = fused({"a": ((0, 1), 1.0), "b": ((0, 1), 1.0)})
    made = displays(evidence)
    assert [d.name for d in made] == ["advice", "advice-fusion"]
    assert all(d.sentences and d.about for d in made)
    figure = made[1].plot()
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        f"{made[1].table['first'][0]} + {made[1].table['second'][0]}"
    ]
    assert fusion_plot(made[1].table).axes[0].get_xlabel().startswith("L2 error saved")
    alone, _, _ = fused({"a": ((0,), 0.2)})
    assert [d.name for d in displays(alone)] == ["advice"]


def test_without_predictions_this_is_said(refuses):
    made = displays(board(CLEAR))
    assert [d.name for d in made] == ["advice", "advice-fusion"]
    assert "not looked at" in made[1].sentences[0]
    assert made[1].table.empty
    evidence = board(CLEAR)
    refuses(["results folder"], fusion_table, evidence, members(evidence), error=StoreError)
    refuses(["no metric"], advise, evidence, metric="nothing")


@pytest.mark.parametrize("response", ["lfc", "deg"])
def test_advice_of_a_run(toy, tmp_path, response):
    """From a run to advice: the board, its bootstrap samples of genes for labels, and stored predictions."""
    from panmodal import Screen, run

    screen, embeddings = toy(n=80, genes=15)
    if response == "deg":
        labels = np.vstack([screen.responses(c)[1] for c in screen.contexts])
        labels = (labels > 2).astype(int) - (labels < -1)
        screen = Screen.from_arrays(
            labels, screen.pert_ids * 2, ["A"] * 80 + ["B"] * 80, screen.readouts, name="toy", response="deg"
        )
    probes = ["ridge_classifier"] if response == "deg" else ["ridge"]
    results = run(screen, embeddings, tmp_path / "out", probes=probes, n_jobs=1, folds=2, permuted=True)
    evidence = read_evidence(results.path)
    table = advise(evidence)
    assert (table["embedding"] == "full").all()
    assert (table["verdict"] == "use").all()
    assert (table["margin_low"] <= table["margin"]).all()
    assert (table["p_best"] > 0.9).all()
    found = fusion_table(evidence, members(evidence))
    assert found["measure"].eq("Brier distance" if response == "deg" else "L2").all()
    if response == "lfc":
        per = evidence.per_perturbation(evidence.tasks[0], "L2")
        full = per[(per["embedding"] == "full")].groupby("fold")["value"].mean().mean()
        assert found["error_first"].iloc[0] == pytest.approx(full, rel=1e-6)
    assert len(displays(evidence)) == 2

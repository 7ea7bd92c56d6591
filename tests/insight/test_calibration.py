"""Metric calibration on simulated boards with known truth: controls, shortcuts, verdicts, what is said of them."""

import gc

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.metrics import METRICS, Comparison, metrics_for, score_rows
from panmodal.evaluation.scores import tidy_scores
from panmodal.insight import calibration as cal
from panmodal.insight.calibration_tables import COLUMNS, calibration, shortcut_table, whole_truth
from panmodal.insight.evidence import Evidence, Truth
from panmodal.insight.gaps import TASK
from panmodal.screens.ceilings import spearman_brown

CONTEXT = {"screen": "s", "context": "c", "response": "lfc", "split": "u"}
KEY = tuple(CONTEXT.values())
ALL = metrics_for("lfc")
ROLES = {"good": "embedding", "poor": "embedding", "random": "control", "idealised": "oracle"}


class Board:
    """A screen of common response + own response + noise, measured in two halves, and the evidence that a run would leave."""

    def __init__(
        self, *, n=90, t=60, common=0.3, own=1.0, noise=0.3, seed=0, ceilings=True, oracle=True, targets=False
    ):
        rng = np.random.default_rng(seed)
        self.ids = [f"P{k:03d}" for k in range(n)]
        self.readouts = self.ids[:t] if targets else [f"g{k}" for k in range(t)]
        self.clean = common * rng.standard_normal(t) + own * rng.standard_normal((n, t))
        half = [self.clean + np.sqrt(2) * noise * rng.standard_normal((n, t)) for _ in range(2)]
        self.truth = ((half[0] + half[1]) / 2).astype(np.float32)
        self.folds = np.arange(n) % 3
        trials, rows, bounds = [], [], []
        for fold in range(3):
            test, train = np.flatnonzero(self.folds == fold), np.flatnonzero(self.folds != fold)
            mean = self.truth[train].mean(axis=0)
            m = len(test)
            wobble = rng.standard_normal((m, t))
            own_part = self.clean[test] - mean
            predicted = {
                ("none", "no change"): np.zeros((m, t)), ("none", "train mean"): np.tile(mean, (m, 1)),
                ("random", "knn"): mean + 0.1 * wobble, ("good", "knn"): mean + 0.5 * own_part + 0.2 * wobble,
                ("poor", "knn"): mean + 0.15 * own_part + 0.2 * wobble, ("idealised", "knn"): mean + 0.95 * (self.truth[test] - mean),
            }  # fmt: skip
            for (name, probe), values in predicted.items():
                role = ROLES.get(name, "baseline")
                if role == "oracle" and not oracle:
                    continue
                trial = f"{name}-{probe}-{fold}"
                trials.append(CONTEXT | {"fold": fold, "embedding": name, "probe": probe, "seed": 42, "trial": trial, "role": role,
                                         "modality": "toy", "simulated": True, "seen": "no", "hyperparameters": "{}"})  # fmt: skip
                scored = score_rows(Comparison(values, self.truth[test], mean), ALL)
                rows.append(
                    pd.DataFrame({"trial": trial, "pert_id": [self.ids[k] for k in test], "covered": True, **scored})
                )
            # Weights of the interpolated duplicate: how far a read-out lies outside the noise.
            z = np.abs(half[1][test]) / (np.sqrt(2) * noise)
            weight = 1 - np.minimum(1, 2 * np.exp(-(z**2) / 2))
            pairs = {
                "disjoint_halves": half[1][test],
                "interpolated_duplicate": weight * half[1][test] + (1 - weight) * mean,
            }
            for name, values in pairs.items():
                scored = score_rows(Comparison(values, half[0][test], mean), ALL)
                if name == "disjoint_halves":
                    scored = {k: spearman_brown(v) if METRICS[k].reliability else v for k, v in scored.items()}
                labels = CONTEXT | {"fold": fold, "seed": 42, "estimator": name}
                bounds.append(pd.DataFrame({**labels, "pert_id": [self.ids[k] for k in test], "n_draws": 1, **scored}))
        self.rows = pd.concat(rows, ignore_index=True)
        self.scores = tidy_scores(self.rows, pd.DataFrame(trials))
        self.ceilings = pd.concat(bounds, ignore_index=True) if ceilings else None
        truth = Truth(tuple(self.ids), self.truth, tuple(self.readouts))
        self.evidence = Evidence(self.scores, self.rows, self.ceilings, read_truth=lambda task: truth)

    def verdicts(self):
        return cal.judge(self.evidence)[2].set_index("metric")


@pytest.fixture(scope="module")
def strong():
    return Board()


@pytest.fixture(scope="module")
def pure_noise():
    return Board(common=0.0, own=0.0, noise=0.3, n=120)


@pytest.fixture(scope="module")
def dominated():
    return Board(common=1.0, own=0.35, noise=0.1, n=120)


# --- verdicts on screens of known truth ---------------------------------------------------------------------------------


def test_metrics_pass_on_a_strong_screen(strong):
    found = strong.verdicts()
    assert set(found.index) == {m.name for m in ALL}
    for metric in ("L2", "MSE", "MAE", "Pearson_centred", "Spearman_centred", "PDS_L2"):
        assert found.loc[metric, "verdict"] == "pass", found.loc[metric, "why"]
    assert (found["positive"] == "interpolated_duplicate").all() and (found["positive_kind"] == "replicate").all()


def test_metrics_fail_on_pure_noise(pure_noise):
    found = pure_noise.verdicts()
    for metric in ("L2", "MSE", "Pearson", "Pearson_centred", "Spearman_centred", "PDS_L1", "PDS_L2", "cosine"):
        assert found.loc[metric, "verdict"] == "fail", found.loc[metric, "why"]
        assert "not shown to beat" in found.loc[metric, "why"]


def test_the_oracle_passes_on_pure_noise_and_this_is_said(strong):
    board = Board(common=0.0, own=0.0, ceilings=False, n=60, t=40)
    found = cal.judge(board.evidence)[2]
    assert (found["positive_kind"] == "oracle").all()
    assert found.set_index("metric").loc["L2", "verdict"] == "pass"  # it has seen the noise
    said = cal.sentences(found)
    assert cal.ORACLE_ONLY in said
    assert cal.ORACLE_ONLY not in cal.sentences(cal.judge(strong.evidence)[2])


def test_a_common_response_games_correlations_that_are_not_centred(dominated):
    found = dominated.verdicts()
    for metric in ("Pearson", "Spearman", "cosine"):
        row = found.loc[metric]
        assert row["verdict"] == "weak" and row["gamed_by"] == "train mean" and row["gamed_share"] > 0.8
        assert "shortcut 'train mean' reaches" in row["why"] and "from chance" in row["why"]
    for metric in ("L2", "MSE", "Pearson_centred", "PDS_cosine"):
        assert found.loc[metric, "verdict"] == "pass", found.loc[metric, "why"]


def test_a_target_that_gives_the_perturbation_away_games_discrimination():
    board = Board(n=60, t=60, common=0.2, own=0.4, noise=0.3, targets=True)
    values = board.truth.copy()
    np.fill_diagonal(values, -6.0)  # the knock-down itself
    truth = Truth(tuple(board.ids), values, tuple(board.readouts))
    evidence = Evidence(board.scores, board.rows, board.ceilings, read_truth=lambda task: truth)
    found = cal.judge(evidence)[2].set_index("metric")
    assert found.loc["PDS_cosine", "gamed_by"] in ("typical target", "target only")
    assert found.loc["PDS_cosine", "verdict"] != "pass"


# --- numbers --------------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_plain_numpy(strong):
    table = calibration(strong.evidence)
    assert list(table.columns) == COLUMNS
    whole = strong.ceilings.assign(**{m: whole_truth(strong.ceilings, m) for m in ("L2", "Pearson_centred")})
    for metric, best in (("L2", 0.0), ("Pearson_centred", 1.0)):
        row = table.query("metric == @metric and positive == 'interpolated_duplicate' and negative == 'train mean'")
        if metric == "Pearson_centred" and row.empty:
            row = table.query(
                "metric == @metric and positive == 'interpolated_duplicate' and negative_kind == 'baseline'"
            )
        row = row.iloc[0]
        own = whole[whole["estimator"] == "interpolated_duplicate"].set_index("pert_id")
        names = [f"none-{row['negative']}-{f}" for f in range(3)]
        other = strong.rows[strong.rows["trial"].isin(names)].set_index("pert_id")[metric].fillna(0.0)
        p, n = own[metric], other.reindex(own.index)
        by_fold = own["fold"].to_numpy()
        mean_p, mean_n = (np.mean([v.to_numpy()[by_fold == f].mean() for f in range(3)]) for v in (p, n))
        assert row["positive_mean"] == pytest.approx(mean_p) and row["negative_mean"] == pytest.approx(mean_n)
        assert row["drf"] == pytest.approx((mean_p - mean_n) / (best - mean_n))
        assert row["p_better"] == pytest.approx(np.mean(p > n if best else p < n))
        assert row["drf_median"] == pytest.approx(np.median(np.clip((p - n) / (best - n), -1, 1)))
        assert row["drf_low"] < row["drf"] < row["drf_high"] and row["p_low"] <= row["p_better"] <= row["p_high"]
        assert row["n"] == len(strong.ids) and row["unit"] == "perturbations"


def test_one_pair_is_judged_the_stronger_negative_of_the_first_positive(strong):
    table = calibration(strong.evidence)
    assert set(table["positive"]) == {"interpolated_duplicate", "disjoint_halves", "idealised"}
    assert set(table["negative_kind"]) == {"baseline", "control"}
    for metric, own in table.groupby("metric"):
        (judged,) = own[own["judged"]].itertuples()
        rivals = own[own["positive"] == "interpolated_duplicate"]["negative_mean"]
        assert judged.positive == "interpolated_duplicate"
        assert judged.negative_mean == (rivals.max() if METRICS[metric].higher_is_better else rivals.min())


def test_draws_follow_the_seed():
    board = Board(n=30, t=20, ceilings=False)
    one, two, other = (calibration(board.evidence, draws=50, seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert (one["drf"] == other["drf"]).all() and (one["drf_low"] != other["drf_low"]).any()


def test_halves_are_brought_to_the_truth_of_all_cells():
    rng = np.random.default_rng(1)
    n, t, noise = 60, 4000, 0.5
    clean = rng.standard_normal((n, t))
    half1, half2 = (clean + np.sqrt(2) * noise * rng.standard_normal((n, t)) for _ in range(2))
    another = clean + noise * rng.standard_normal((n, t))  # an independent measurement with all cells
    mean = np.zeros(t)
    frames = []
    predictions = {"interpolated_duplicate": 0.7 * half2, "disjoint_halves": half2}
    for name, predicted in predictions.items():
        scored = score_rows(Comparison(predicted, half1, mean), ALL)
        if name == "disjoint_halves":
            scored = {k: spearman_brown(v) if METRICS[k].reliability else v for k, v in scored.items()}
        frames.append(
            pd.DataFrame(
                {**CONTEXT, "fold": 0, "seed": 1, "estimator": name, "pert_id": [f"P{k}" for k in range(n)], **scored}
            )
        )
    bounds = pd.concat(frames, ignore_index=True)
    for name, predicted in predictions.items():
        expected = score_rows(Comparison(predicted, another, mean), ALL)
        mine = bounds["estimator"] == name
        for metric in ("L2", "MSE", "MAE", "Pearson", "Spearman", "cosine", "Pearson_centred", "Spearman_centred"):
            if name == "disjoint_halves" and METRICS[metric].reliability:
                assert whole_truth(bounds, metric)[mine].equals(bounds.loc[mine, metric])  # stepped up already
                continue
            found = whole_truth(bounds, metric)[mine]
            assert found.mean() == pytest.approx(np.mean(expected[metric]), rel=0.01), (name, metric)
            assert abs(bounds.loc[mine, metric].mean() / np.mean(expected[metric]) - 1) > 0.03  # it does something
    assert whole_truth(bounds, "PDS_L2").equals(bounds["PDS_L2"])


# --- metrics of genes, and tables alone -----------------------------------------------------------------------------------


def gene_board(positive=0.8, negative=0.4, oracle=0.9):
    rng = np.random.default_rng(0)
    task = CONTEXT | {"response": "deg"}
    methods = {("none", "class prior", "baseline"): negative, ("random", "knn", "control"): negative - 0.02,
               ("idealised", "knn", "oracle"): oracle, ("a", "knn", "embedding"): 0.6}  # fmt: skip
    scores, drawn, bounds = [], [], []
    for fold in range(3):
        for (name, probe, role), level in methods.items():
            trial = f"{name}-{probe}-{fold}"
            value = level + 0.01 * fold
            for fallback in ("filled", "covered", "common"):
                scores.append(task | {"fold": fold, "embedding": name, "probe": probe, "seed": 42, "trial": trial, "role": role,
                                      "modality": "toy", "simulated": False, "seen": "no", "hyperparameters": "{}", "fallback": fallback,
                                      "metric": "F1", "value": value, "n_test": 9, "n_covered": 9, "n_scored": 9, "n_undefined": 0})  # fmt: skip
            drawn.append(task | {"fold": fold, "seed": 42, "trial": trial, "estimator": "", "metric": "F1",
                                 "draws": value + 0.02 * rng.standard_normal(200)})  # fmt: skip
        bounds.append(
            task
            | {"fold": fold, "seed": 42, "estimator": "experimental_error", "pert_id": "", "n_draws": 5, "F1": positive}
        )
        drawn.append(task | {"fold": fold, "seed": 42, "trial": "", "estimator": "experimental_error", "metric": "F1",
                             "draws": positive + 0.02 * rng.standard_normal(200)})  # fmt: skip
    return pd.DataFrame(scores), pd.DataFrame(bounds), pd.DataFrame(drawn)


def test_metrics_of_genes_compare_folds_and_stored_samples():
    scores, bounds, drawn = gene_board()
    table = calibration(Evidence(scores, None, bounds, drawn))
    row = table[table["judged"]].iloc[0]
    assert (row["positive"], row["positive_kind"], row["negative"]) == (
        "experimental_error",
        "resampled cells",
        "class prior",
    )
    assert row["unit"] == "folds" and row["n"] == 3 and row["p_better"] == 1
    assert row["drf"] == pytest.approx((0.8 - 0.41) / (1 - 0.41))
    samples = {e: np.mean(np.stack(drawn[keep]["draws"].tolist()), axis=0) for e, keep in
               {"p": drawn["trial"] == "", "n": drawn["trial"].str.startswith("none")}.items()}  # fmt: skip
    expected = np.quantile((samples["p"] - samples["n"]) / (1 - samples["n"]), [0.025, 0.975])
    np.testing.assert_allclose([row["drf_low"], row["drf_high"]], expected)
    found = cal.judge(Evidence(scores, None, bounds, drawn))[2]
    assert found["verdict"].tolist() == ["pass"] and "in 100 % of folds" in found["why"].iloc[0]
    assert any("same cells as the truth" in s for s in cal.sentences(found))
    worse = cal.judge(Evidence(*[gene_board(positive=0.3)[0], None, *gene_board(positive=0.3)[1:]]))[2]
    assert worse["verdict"].tolist() == ["fail"]


def test_tables_alone_compare_folds(strong):
    table = calibration(Evidence(strong.scores))
    assert (
        (table["unit"] == "folds").all() and table["drf_low"].isna().all() and (table["positive"] == "idealised").all()
    )
    cheats = shortcut_table(Evidence(strong.scores), table[table["judged"]])
    assert set(cheats["kind"]) == {"baseline"}


def test_without_a_positive_control_nothing_is_judged():
    board = Board(ceilings=False, oracle=False)
    found = cal.judge(board.evidence)[2]
    assert (found["verdict"] == "unknown").all()
    assert cal.sentences(found) == ["s, c (lfc): no metric can be judged, because there is no positive control."]
    shown = {d.name: d for d in cal.displays(board.evidence)}
    assert "calibration-1" not in shown and shown["metric-verdicts"].plot() is not None


# --- shortcuts and rules ----------------------------------------------------------------------------------------------------


def test_shares_of_shortcuts(dominated):
    table, cheats, _ = cal.judge(dominated.evidence)
    judged = table[table["judged"]].set_index("metric")
    assert {"no change", "train mean", "train mean x 0.5", "train mean x 1.5"} == set(cheats["shortcut"])
    means = (
        dominated.scores.query("fallback == 'filled' and role == 'baseline'")
        .groupby(["metric", "probe"])["value"]
        .mean()
    )
    for row in cheats.itertuples():
        top = judged.loc[row.metric, "positive_mean"]
        assert row.positive_mean == top
        own = means[row.metric].dropna()
        floor = own.max() if METRICS[row.metric].higher_is_better else own.min()
        assert row.floor == pytest.approx(floor)
        if top != floor and (top > floor) == METRICS[row.metric].higher_is_better:
            assert row.share_of_gap == pytest.approx((row.mean - floor) / (top - floor), abs=1e-12)
        if np.isfinite(row.chance):
            assert row.share_of_range == pytest.approx((row.mean - row.chance) / (top - row.chance))
        assert not row.beats_embeddings or row.metric not in ("L2", "Pearson_centred")


def rule(**changes):
    pair = {**CONTEXT, "metric": "L2", "positive": "disjoint_halves", "positive_kind": "replicate", "negative": "train mean",
            "negative_kind": "baseline", "positive_mean": 1.0, "negative_mean": 2.0, "drf": 0.5, "drf_low": 0.4, "drf_high": 0.6,
            "drf_median": 0.5, "p_better": 0.9, "p_low": 0.8, "p_high": 0.95, "n": 50, "unit": "perturbations", "judged": True}  # fmt: skip
    cheat = {**CONTEXT, "metric": "L2", "shortcut": "x", "kind": "guess", "mean": 2.0, "positive": "disjoint_halves",
             "positive_mean": 1.0, "chance": np.nan, "floor": 2.0, "floor_by": "train mean", "share_of_range": np.nan, "share_of_gap": 0.0,
             "best_embedding": "a", "best_embedding_mean": 1.5, "beats_embeddings": False}  # fmt: skip
    pair |= {k: v for k, v in changes.items() if k in pair and k != "kind"}
    cheat |= {k: v for k, v in changes.items() if k in cheat}
    return cal.verdicts(pd.DataFrame([pair]), pd.DataFrame([cheat])).iloc[0]


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({}, "pass", "one half of the cells beats train mean (for 90 % of perturbations, dynamic range fraction 0.50)"),
        ({"drf_low": -0.01}, "fail", "not shown to beat"),
        ({"p_low": 0.5}, "fail", "not shown to beat"),
        ({"drf_low": np.nan, "p_low": np.nan, "drf": -0.1}, "fail", "not shown to beat"),
        ({"drf": 0.05, "drf_low": 0.01}, "weak", "hardly beats"),
        ({"p_better": 0.58, "p_low": 0.51}, "weak", "hardly beats"),
        ({"share_of_gap": 0.3}, "weak", "shortcut 'x' reaches 30 % of the way from the floor"),
        ({"share_of_gap": 1.2}, "fail", "120 %"),
        ({"share_of_gap": 1.2, "kind": "answer"}, "weak", "which copies the target's true response"),
        ({"share_of_range": 0.6}, "weak", "60 % of the way from chance"),
        ({"share_of_range": 0.6, "kind": "answer"}, "pass", "beats"),
        ({"beats_embeddings": True, "share_of_gap": 0.1}, "weak", "shortcut 'x' beats every embedding"),
        ({"beats_embeddings": True, "share_of_gap": -0.1}, "pass", "beats"),
        ({"beats_embeddings": True, "share_of_gap": 0.1, "kind": "baseline"}, "pass", "beats"),
    ],
)  # fmt: skip
def test_rules(changes, verdict, says):
    row = rule(**changes)
    assert row["verdict"] == verdict and says in row["why"]


# --- what is shown and said ---------------------------------------------------------------------------------------------------


def test_marks_are_the_verdicts_and_are_kept(strong):
    marks = cal.marks(strong.evidence)
    assert list(marks.columns) == [*TASK, "metric", "verdict", "why"]
    assert not marks.duplicated([*TASK, "metric"]).any() and marks["why"].str.len().gt(0).all()
    assert cal.judge(strong.evidence)[2] is cal.judge(strong.evidence)[2]
    other = Board(n=30, t=20)
    cal.marks(other.evidence)
    key = id(other.evidence)
    assert key in cal._known
    del other
    gc.collect()
    assert key not in cal._known


def test_sentences_are_true_of_the_table(strong, pure_noise, dominated):
    for board in (strong, pure_noise, dominated):
        found = cal.judge(board.evidence)[2]
        first, *rest = cal.sentences(found)
        by = {v: found.loc[found["verdict"] == v, "metric"].tolist() for v in ("pass", "weak", "fail")}
        assert first.startswith(f"s, c (lfc): {len(by['pass'])} of {len(found)} metrics")
        assert (f"weak: {', '.join(by['weak'])}" in first) == bool(by["weak"])
        assert (f"failing: {', '.join(by['fail'])}" in first) == bool(by["fail"])
        for metric in by["weak"]:
            assert any(s.startswith(f"{metric} is weak here: ") for s in rest)
        for metric in by["fail"]:
            assert any(s.startswith(f"{metric} is not to be trusted here: ") for s in rest)
        ranking = [s for s in rest if s.startswith("The ranking is by L2")]
        assert bool(ranking) == ("L2" not in by["pass"])
        if by["pass"]:
            best = found.loc[found.loc[found["verdict"] == "pass", "drf"].idxmax()]
            assert any(
                s.startswith(f"{best['metric']} has the widest range") and f" {round(100 * best['drf'])} % " in s
                for s in rest
            )


def test_sentences_on_shortcuts(strong, dominated):
    assert cal.shortcut_sentences(cal.judge(dominated.evidence)[1])[0].count("'train mean' games") == 1
    cheats = cal.judge(strong.evidence)[1]
    quiet = cheats.assign(share_of_gap=0.0, share_of_range=0.0, beats_embeddings=False)
    assert cal.shortcut_sentences(quiet) == ["s, c (lfc): none of 4 shortcuts games a metric."]


def test_displays_have_tables_sentences_and_figures(strong):
    shown = {d.name: d for d in cal.displays(strong.evidence)}
    assert list(shown) == [
        "metric-verdicts",
        "calibration-1",
        "shortcuts",
    ]  # two embeddings are too few to compare rankings
    for display in shown.values():
        assert len(display.table) and display.about and display.sentences and display.title
        figure = display.plot()
        figure.canvas.draw()
    labels = [t.get_text() for t in shown["metric-verdicts"].plot().axes[0].get_yticklabels()]
    assert labels == [m.name for m in ALL]


def test_a_real_run_is_judged(toy, tmp_path):
    from panmodal.evaluation.evidence import read_evidence
    from panmodal.evaluation.run import run

    screen, embeddings = toy(n=40, genes=12, contexts=("A",))
    run(screen, embeddings, tmp_path / "r", folds=3, probes=["knn", "ridge"], n_jobs=1)
    evidence = read_evidence(tmp_path / "r")
    names = [d.name for d in cal.displays(evidence)]
    assert names == ["metric-verdicts", "calibration-1", "shortcuts", "metric-agreement", "metric-leaders"]
    assert cal.marks(evidence).set_index("metric").loc["L2", "verdict"] == "pass"

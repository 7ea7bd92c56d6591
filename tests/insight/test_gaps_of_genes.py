"""Gap closed by metrics of genes, on tables made by hand: means and intervals against plain numpy, and what is shown of them."""

import numpy as np
import pandas as pd
import pytest

from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import COLUMNS, ORACLE, gap_table
from panmodal.insight.leaderboard import leaderboard, summary
from panmodal.insight.page import render_page
from panmodal.insight.terminal import task_tables

TASK = {"screen": "s", "context": "c", "response": "deg", "split": "u"}
KEYS = list(TASK)
ROLES = {
    ("a", "logistic"): "embedding",
    ("b", "ridge_classifier"): "embedding",
    ("none", "no change"): "baseline",
    ("none", "class prior"): "baseline",
    ("none", "most frequent"): "baseline",
    ("random", "logistic"): "control",
    ("idealised", "logistic"): "oracle",
    ("idealised", "ridge_classifier"): "oracle",
}
LEVELS = [0.6, 0.5, 0.36, 0.4, 0.38, 0.41, 0.7, 0.9]
CEILING, HALVES = "experimental_error", "disjoint_halves"


class Tables:
    """Tables of a results folder with one metric of genes: a score for each method and unit (fold, seed), and samples around it."""

    def __init__(self, *, metric="F1", units=((0, 42), (1, 42), (2, 42)), width=200, noise=0.03, ceilings=(0.8,), seed=0, sizes=(9, 14, 6),
                 levels=LEVELS, **task):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.metric, self.units, self.sizes = (
            metric,
            list(units),
            dict(zip(units, np.resize(sizes, len(units)), strict=True)),
        )
        self.task = TASK | task
        # Units differ in difficulty and in the noise that all methods and the ceiling share.
        shared = {u: 0.02 * rng.standard_normal(width) for u in self.units}
        hard = dict(zip(self.units, 0.05 * rng.standard_normal(len(self.units)), strict=True))
        self.values, self.draws = {}, {}
        names = [CEILING, HALVES][: len(ceilings)]
        for method, level in [*zip(ROLES, levels, strict=True), *zip(names, ceilings, strict=True)]:
            for unit in self.units:
                value = level + hard[unit] + 0.02 * rng.standard_normal()
                self.values[method, unit] = value
                self.draws[method, unit] = value + shared[unit] + noise * rng.standard_normal(width)
        self.estimators = names

    def trial(self, method, unit):
        return f"{self.task['context']}-{method[0]}-{method[1]}-{unit[0]}-{unit[1]}"

    @staticmethod
    def perts(unit, n):
        return [f"P{unit[1]}.{unit[0]}.{k}" for k in range(n)]

    @property
    def scores(self):
        records = []
        for method, role in ROLES.items():
            for unit in self.units:
                n = self.sizes[unit]
                for fallback, shift in (("filled", 0.0), ("covered", 9.0), ("common", 0.01)):
                    records.append({
                        **self.task, "fold": unit[0], "seed": unit[1], "embedding": method[0], "probe": method[1], "role": role,
                        "trial": self.trial(method, unit), "metric": self.metric, "fallback": fallback, "n_test": n,
                        "n_covered": n - 2 if method[0] == "b" else n, "modality": "m", "simulated": False, "n_scored": 30,
                        "n_undefined": 1, "hyperparameters": "{}",
                        "value": self.values[method, unit] + (shift * (1 + unit[0]) if method[0] != "random" else shift),
                    })  # fmt: skip
        return pd.DataFrame(records)

    @property
    def rows(self):
        """Perturbations of each trial; metrics of genes have no value there. Two of each fold are not covered by b."""
        records = [
            {"trial": self.trial(method, unit), "pert_id": pert, "covered": method[0] != "b" or k >= 2}
            for method in ROLES for unit in self.units for k, pert in enumerate(self.perts(unit, self.sizes[unit]))
        ]  # fmt: skip
        return pd.DataFrame(records)

    @property
    def ceilings(self):
        """One row for each fold with an empty pert_id, among those of the perturbations, where metrics of genes are null."""
        records = [
            {**self.task, "fold": unit[0], "seed": unit[1], "estimator": name, "pert_id": pert, "n_draws": 20,
             self.metric: self.values[name, unit] if pert == "" else np.nan, "MCC": np.nan if pert == "" else 0.5}
            for name in self.estimators for unit in self.units for pert in [*self.perts(unit, self.sizes[unit]), ""]
        ]  # fmt: skip
        return pd.DataFrame(records)

    @property
    def resampled(self):
        records = [
            {"trial": self.trial(method, unit) if method in ROLES else "", **self.task, "fold": unit[0], "seed": unit[1],
             "estimator": "" if method in ROLES else method, "metric": self.metric, "draws": draws.tolist()}
            for (method, unit), draws in self.draws.items()
        ]  # fmt: skip
        return pd.DataFrame(records).sample(frac=1, random_state=0)

    @property
    def all(self):
        return {"rows": self.rows, "ceilings": self.ceilings, "resampled": self.resampled}

    def gaps(self, **options):
        return gap_table(self.scores, **{**self.all, **options})

    def mean(self, method):
        return np.mean([self.values[method, u] for u in self.units])

    def mean_draws(self, method):
        return np.mean([self.draws[method, u] for u in self.units], axis=0)

    @property
    def floor_by(self):
        return max((m for m, role in ROLES.items() if role == "baseline"), key=self.mean)

    @property
    def oracle(self):
        return max((m for m, role in ROLES.items() if role == "oracle"), key=self.mean)


def pick(table, method, estimator):
    own = table[(table["embedding"] == method[0]) & (table["probe"] == method[1]) & (table["estimator"] == estimator)]
    assert len(own) == 1
    return own.iloc[0]


def plain_interval(tables, method, ceiling):
    """Percentiles of the gap in every sample, floor and ceiling taken from the same sample."""
    floor = tables.mean_draws(tables.floor_by)
    return np.quantile((tables.mean_draws(method) - floor) / (tables.mean_draws(ceiling) - floor), [0.025, 0.975])


def assert_is_plain(table, tables):
    names = {**{name: name for name in tables.estimators}, ORACLE: tables.oracle}
    assert len(table) == len(ROLES) * len(names) and list(dict.fromkeys(table["estimator"])) == list(names)
    floor = tables.mean(tables.floor_by)
    for method, role in ROLES.items():
        for estimator, ceiling in names.items():
            row, top = pick(table, method, estimator), tables.mean(ceiling)
            found = row[["mean", "floor", "ceiling", "gap_closed"]].astype(float)
            expected = [tables.mean(method), floor, top, (tables.mean(method) - floor) / (top - floor)]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                row[["gap_low", "gap_high"]].astype(float),
                plain_interval(tables, method, ceiling),
                rtol=1e-9,
                atol=1e-12,
            )
            assert row["role"] == role and row["metric"] == tables.metric and row["fallback"] == "filled"
            assert row["floor_by"] == tables.floor_by[1]
            assert row["ceiling_by"] == (f"{ceiling[0]}, {ceiling[1]}" if estimator == ORACLE else estimator)
            assert row["n_perturbations"] == sum(tables.sizes.values())


# --- points and intervals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["F1", "recall", "F1_classwise"])
@pytest.mark.parametrize("seed", [0, 1])
def test_means_over_folds_and_percentiles_of_the_samples_taken_together(metric, seed):
    tables = Tables(metric=metric, seed=seed, ceilings=(0.8, 0.75))
    table = tables.gaps()
    assert list(table.columns) == COLUMNS
    assert_is_plain(table, tables)


def test_samples_are_of_the_same_perturbations_for_all():
    """What method, floor and ceiling share cancels; resampled apart, the interval would be wide."""
    tables = Tables(noise=0.0)
    shared = {u: 0.3 * np.random.default_rng(u[0]).standard_normal(200) for u in tables.units}
    for key, value in tables.values.items():
        tables.draws[key] = value + shared[key[1]]
    row = pick(tables.gaps(), ("a", "logistic"), CEILING)
    assert row["gap_high"] - row["gap_low"] < 1e-9 and row["gap_low"] == pytest.approx(row["gap_closed"])


def test_the_floor_is_the_baseline_that_is_best_in_the_mean_and_stays_it_in_every_sample():
    tables = Tables(levels=[0.6, 0.5, 0.4, 0.401, 0.399, 0.41, 0.7, 0.9], noise=0.05)
    assert_is_plain(tables.gaps(), tables)
    own = pick(tables.gaps(), tables.floor_by, CEILING)
    assert own["gap_closed"] == own["gap_low"] == own["gap_high"] == 0


def test_gaps_are_never_clipped():
    tables = Tables(levels=[1.2, 0.2, 0.3, 0.4, 0.35, 0.41, 0.7, 0.9], noise=0)
    for method, low, high in ((("a", "logistic"), 1.2, 3), (("b", "ridge_classifier"), -1, -0.1)):
        row = pick(tables.gaps(), method, CEILING)
        assert low < row["gap_low"] <= row["gap_high"] < high


@pytest.mark.parametrize("ceiling", [0.3, np.nan])
def test_undefined_where_the_ceiling_is_not_better_than_the_floor(ceiling):
    table = Tables(ceilings=(ceiling,)).gaps()
    own = table[table["estimator"] == CEILING]
    assert own[["gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)
    assert table.loc[table["estimator"] == ORACLE, ["gap_closed", "gap_low", "gap_high"]].notna().all(axis=None)


@pytest.mark.parametrize(("n_bad", "defined"), [(10, True), (11, False)])
def test_the_interval_is_undefined_where_more_than_one_in_twenty_samples_is(n_bad, defined):
    tables = Tables()
    for unit in tables.units:
        tables.draws[CEILING, unit][:n_bad] = 0
    table = tables.gaps()
    own = table[table["estimator"] == CEILING]
    assert (own[["gap_low", "gap_high"]].notna().all(axis=None)) == defined
    assert own["gap_closed"].notna().all()
    if defined:
        floor, top, a = (tables.mean_draws(m)[n_bad:] for m in (tables.floor_by, CEILING, ("a", "logistic")))
        expected = np.quantile((a - floor) / (top - floor), [0.025, 0.975])
        row = pick(table, ("a", "logistic"), CEILING)
        np.testing.assert_allclose([row["gap_low"], row["gap_high"]], expected, rtol=1e-9)


def test_without_samples_there_is_no_interval():
    tables = Tables()
    whole, bare = tables.gaps(), tables.gaps(resampled=None)
    assert bare[["gap_low", "gap_high"]].isna().all(axis=None) and bare["gap_closed"].notna().all()
    columns = [c for c in COLUMNS if c not in ("gap_low", "gap_high")]
    pd.testing.assert_frame_equal(bare[columns], whole[columns])
    empty = tables.gaps(resampled=tables.resampled.iloc[:0])
    pd.testing.assert_frame_equal(empty, bare)


def test_methods_without_samples_have_no_interval():
    """As trials whose table of genes was made before samples were kept."""
    tables = Tables()
    resampled = tables.resampled
    some = resampled[~resampled["trial"].str.contains("-a-")]
    table = tables.gaps(resampled=some)
    row, other = (pick(table, m, CEILING) for m in (("a", "logistic"), ("b", "ridge_classifier")))
    assert np.isnan(row["gap_low"]) and np.isfinite(row["gap_closed"])
    np.testing.assert_allclose(
        [other["gap_low"], other["gap_high"]], plain_interval(tables, ("b", "ridge_classifier"), CEILING), rtol=1e-9
    )


def test_without_ceilings_the_oracle_is_the_ceiling():
    tables = Tables()
    table = tables.gaps(ceilings=None)
    assert set(table["estimator"]) == {ORACLE}
    whole = tables.gaps()
    pd.testing.assert_frame_equal(table, whole[whole["estimator"] == ORACLE].reset_index(drop=True))


def test_common_takes_its_own_scores_and_has_no_interval():
    tables = Tables()
    table = tables.gaps(fallback="common")
    assert table[["gap_low", "gap_high"]].isna().all(axis=None) and set(table["fallback"]) == {"common"}
    shift = 0.01 * np.mean([1 + u[0] for u in tables.units])
    for method in ROLES:
        row = pick(table, method, CEILING)
        own = tables.mean(method) + (shift if method[0] != "random" else 0.01)
        floor, top = tables.mean(tables.floor_by) + shift, tables.mean(CEILING)
        found = row[["mean", "floor", "ceiling", "gap_closed"]].astype(float)
        np.testing.assert_allclose(found, [own, floor, top, (own - floor) / (top - floor)], rtol=1e-12, atol=1e-12)


def test_common_counts_the_perturbations_in_common():
    tables = Tables()
    assert set(tables.gaps(fallback="common")["n_perturbations"]) == {sum(n - 2 for n in tables.sizes.values())}


def test_probes_may_be_chosen():
    tables = Tables()
    table = tables.gaps(probes=["ridge_classifier"])
    assert set(table["probe"]) == {"ridge_classifier", "no change", "class prior", "most frequent"}
    for row in table.itertuples():
        assert row.floor == pytest.approx(tables.mean(tables.floor_by))
        assert row.ceiling == pytest.approx(
            tables.mean(("idealised", "ridge_classifier") if row.estimator == ORACLE else CEILING)
        )


# --- folds, seeds, tasks ---------------------------------------------------------------------------------------------


def test_several_seeds_are_further_units():
    """Fold 0 of another seed holds other perturbations; its samples, scores and ceilings are its own."""
    tables = Tables(units=[(0, 1), (1, 1), (0, 2), (1, 2), (2, 2)], sizes=(9, 14, 6, 5, 5))
    assert_is_plain(tables.gaps(), tables)


def test_a_fold_without_ceiling_is_left_out_of_the_ceiling():
    tables = Tables()
    ceilings = tables.ceilings
    table = tables.gaps(ceilings=ceilings[ceilings["fold"] != 1], resampled=tables.resampled)
    expected = np.mean([tables.values[CEILING, u] for u in tables.units if u[0] != 1])
    np.testing.assert_allclose(table.loc[table["estimator"] == CEILING, "ceiling"], expected)


def test_an_undefined_score_of_a_fold_is_left_out():
    tables = Tables()
    unit = tables.units[1]
    tables.values[("a", "logistic"), unit] = np.nan
    row = pick(tables.gaps(), ("a", "logistic"), CEILING)
    assert row["mean"] == pytest.approx(
        np.mean([tables.values[("a", "logistic"), u] for u in tables.units if u != unit])
    )


def test_tasks_keep_apart():
    """Two contexts, and a task of fold changes, with the same folds, methods and estimators."""
    one, two = Tables(), Tables(context="d", seed=5, ceilings=(0.9,), levels=[0.5, 0.55, 0.3, 0.2, 0.25, 0.3, 0.8, 0.7])
    scores, rows, ceilings, resampled = (
        pd.concat([getattr(t, name) for t in (one, two)], ignore_index=True)
        for name in ("scores", "rows", "ceilings", "resampled")
    )
    table = gap_table(scores, rows, ceilings, resampled=resampled)
    for tables in (one, two):
        assert_is_plain(table[table["context"] == tables.task["context"]], tables)


def test_a_trial_that_lies_in_two_tasks_is_scored_in_each():
    """The same content under two names of a screen has one digest, one row of samples for each, and ceilings of its own."""
    tables = Tables()
    twin = Tables(ceilings=(0.95,))
    twin.task = TASK | {"screen": "twin"}
    twin.values |= {k: v for k, v in tables.values.items() if k[0] in ROLES}
    twin.draws |= {k: v for k, v in tables.draws.items() if k[0] in ROLES}
    merged = [pd.concat([getattr(t, name) for t in (tables, twin)], ignore_index=True)
              for name in ("scores", "ceilings", "resampled")]  # fmt: skip
    table = gap_table(merged[0], tables.rows, merged[1], resampled=merged[2])
    for each in (tables, twin):
        assert_is_plain(table[table["screen"] == each.task["screen"]], each)


def test_other_metrics_of_the_same_folder_keep_apart():
    """Two metrics of genes, one that is not resampled, and one of perturbations."""
    f1, auc = Tables(), Tables(metric="ROC_AUC", seed=3)
    rng = np.random.default_rng(0)
    mcc = f1.scores.assign(metric="MCC", value=0.0)
    rows = f1.rows.assign(MCC=rng.uniform(0, 0.4, len(f1.rows)))
    rows.loc[rows["trial"].str.contains("none"), "MCC"] = 0.0
    for part in mcc.index:
        own = rows[rows["trial"] == mcc.loc[part, "trial"]]
        mcc.loc[part, "value"] = own["MCC"].mean()
    ceilings = f1.ceilings.assign(ROC_AUC=auc.ceilings["ROC_AUC"])
    scores = pd.concat([f1.scores, auc.scores, mcc], ignore_index=True)
    table = gap_table(scores, rows, ceilings, resampled=f1.resampled)
    assert list(dict.fromkeys(table["metric"])) == ["F1", "ROC_AUC", "MCC"]  # in the order of the table of metrics
    assert_is_plain(table[table["metric"] == "F1"], f1)
    own = table[table["metric"] == "ROC_AUC"]
    assert own[["gap_low", "gap_high"]].isna().all(axis=None)
    assert pick(own, ("a", "logistic"), CEILING)["ceiling"] == pytest.approx(auc.mean(CEILING))
    own = table[table["metric"] == "MCC"]
    assert own["gap_low"].notna().all() and (own.loc[own["estimator"] == CEILING, "ceiling"] == 0.5).all()
    named = gap_table(scores, rows, ceilings, resampled=f1.resampled, metrics=["ROC_AUC"])
    pd.testing.assert_frame_equal(named, table[table["metric"] == "ROC_AUC"].reset_index(drop=True))


def test_order_of_rows_does_not_matter():
    tables = Tables(units=[(0, 1), (1, 1), (0, 2)])
    shuffled = gap_table(tables.scores, **{k: v.sample(frac=1, random_state=1) for k, v in tables.all.items()})
    keys = [*KEYS, "embedding", "probe", "estimator"]
    expected = tables.gaps().sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(shuffled.sort_values(keys, ignore_index=True), expected)


def test_a_metric_that_is_not_there_is_refused(refuses):
    tables = Tables()
    refuses(["no values of metric recall", "there are F1"], tables.gaps, metrics=["recall"])
    refuses(["no fallback 'covered'"], tables.gaps, fallback="covered")


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_the_leaderboard_takes_the_gaps(refuses):
    tables = Tables(ceilings=(0.8, 0.75))
    board, gaps = leaderboard(tables.scores, **tables.all), tables.gaps()
    assert board["metric"].unique().tolist() == ["F1"]
    assert board.query("role == 'embedding'")["embedding"].tolist() == ["a", "b"]
    for name in (CEILING, HALVES, ORACLE):
        board = leaderboard(tables.scores, ceiling=name, **tables.all)
        for row in board.itertuples():
            expected = pick(gaps, (row.embedding, row.probe), name)
            for column in ("mean", "floor", "ceiling", "ceiling_by", "floor_by", "gap_closed", "gap_low", "gap_high"):
                assert getattr(row, column) == pytest.approx(expected[column]), column
    assert set(leaderboard(tables.scores, **tables.all)["ceiling_by"]) == {CEILING}
    common = leaderboard(tables.scores, fallback="common", **tables.all)
    assert common["gap_low"].isna().all() and (common["mean"] == common["common"]).all()
    refuses(
        ["no ceiling 'replicate_batches'", CEILING],
        leaderboard,
        tables.scores,
        ceiling="replicate_batches",
        **tables.all,
    )


def test_the_summary_says_gap_and_interval():
    tables = Tables()
    (sentence,) = summary(leaderboard(tables.scores, **tables.all))
    row = pick(tables.gaps(), ("a", "logistic"), CEILING)
    assert "s, c: a with logistic comes first by F1" in sentence
    assert f"floor {row['floor']:.4g} by {tables.floor_by[1]}" in sentence
    assert f"{round(100 * row['gap_closed'])} % of the gap to the experimental error ceiling is closed" in sentence
    assert f"(95 % interval {round(100 * row['gap_low'])} to {round(100 * row['gap_high'])} %" in sentence


def printed(board):
    from rich.console import Console

    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        for table in task_tables(board):
            console.print(table)
    return captured.get()


def test_the_terminal_shows_metrics_of_genes():
    tables = Tables()
    text = printed(leaderboard(tables.scores, **tables.all))
    row = pick(tables.gaps(), ("a", "logistic"), CEILING)
    assert "s · c · deg · u — F1, higher is better" in text and "95 % interval" in text
    assert f"{row['mean']:.3f}" in text and f"{row['gap_low']:.2f} … {row['gap_high']:.2f}" in text
    assert f"ceiling: the experimental error ceiling, {row['ceiling']:.3f}; floor: {tables.floor_by[1]}" in text
    assert "95 % interval" not in printed(leaderboard(tables.scores, fallback="common", **tables.all))


@pytest.mark.parametrize("metric", ["F1", "F1_classwise", "ROC_AUC"])
@pytest.mark.parametrize("fallback", ["filled", "common"])
def test_the_page_shows_metrics_of_genes(metric, fallback):
    tables = Tables(metric=metric, ceilings=(0.8, 0.75))
    page = render_page(tables.scores, metric=metric, fallback=fallback, **tables.all)
    row = pick(tables.gaps(fallback=fallback), ("a", "logistic"), CEILING)
    assert page.startswith("<!doctype html>") and f"{metric}, higher is better" in page
    assert METRICS[metric].formula.split(",")[0].replace("'", "&#39;") in page
    assert f"{row['gap_closed']:.3f}" in page and "ceiling experimental_error" in page and "most frequent" in page
    assert (f"{row['gap_low']:.2f} … {row['gap_high']:.2f}" in page) == (fallback == "filled")
    assert "gaps.csv" in page


def test_the_page_shows_labels_beside_fold_changes(make_scores):
    tables = Tables()
    lfc = make_scores({("a", "ridge"): [5.0, 5.5], ("none", "train mean", "baseline"): [8.0, 8.5],
                       ("idealised", "ridge", "oracle"): [2.0, 2.5]})  # fmt: skip
    rows = [{"trial": t.trial, "pert_id": f"Q{t.fold}.{k}", "covered": True, "L2": t.value + k}
            for t in lfc.drop_duplicates("trial").itertuples() for k in range(4)]  # fmt: skip
    scores = pd.concat([lfc, tables.scores], ignore_index=True)
    evidence = tables.all | {"rows": pd.concat([pd.DataFrame(rows), tables.rows], ignore_index=True)}
    page = render_page(scores, **evidence)
    assert "F1, higher is better" in page and "L2, lower is better" in page
    board = leaderboard(scores, **evidence)
    assert board.groupby("response")["metric"].unique().map(list).to_dict() == {"lfc": ["L2"], "deg": ["F1"]}
    assert board["gap_low"].notna().all()

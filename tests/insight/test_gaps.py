"""Gap closed by every ceiling, on tables made by hand: points and intervals against plain numpy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.insight.gaps import COLUMNS, ORACLE, gap_table

TASK = {"screen": "s", "context": "c", "response": "lfc", "split": "u"}
METHODS = {
    ("a", "knn"): "embedding",
    ("b", "ridge"): "embedding",
    ("none", "no change"): "baseline",
    ("none", "train mean"): "baseline",
    ("random", "knn"): "control",
    ("idealised", "knn"): "oracle",
    ("idealised", "ridge"): "oracle",
}


class Tables:
    """Score, perturbation and ceiling tables from values: {method: one array per unit}, a unit being a (fold, seed)."""

    def __init__(self, values, ceilings=None, *, metric="L2", units=None, covered=None, roles=METHODS, **task):
        task = TASK | task
        n = len(next(iter(values.values())))
        units = units or [(f, 42) for f in range(n)]
        scores, rows, bounds = [], [], []
        for (embedding, probe), arrays in values.items():
            for (fold, seed), own in zip(units, arrays, strict=True):
                trial = f"{task['context']}-{embedding}-{probe}-{fold}-{seed}"
                scores.append({
                    **task, "fold": fold, "seed": seed, "embedding": embedding, "probe": probe, "trial": trial, "metric": metric,
                    "role": roles.get((embedding, probe), "embedding"),
                })  # fmt: skip
                gone = (covered or {}).get(embedding, ())
                for k, value in enumerate(own):
                    pert = self.pert(fold, seed, k)
                    rows.append({"trial": trial, "pert_id": pert, "covered": pert not in gone, metric: value})
        for name, arrays in (ceilings or {}).items():
            for (fold, seed), own in zip(units, arrays, strict=True):
                for k, value in enumerate(own):
                    bounds.append(
                        {
                            **task,
                            "fold": fold,
                            "seed": seed,
                            "estimator": name,
                            "pert_id": self.pert(fold, seed, k),
                            metric: value,
                        }
                    )
        self.scores, self.rows = pd.DataFrame(scores), pd.DataFrame(rows)
        self.ceilings = pd.DataFrame(bounds) if bounds else None

    @staticmethod
    def pert(fold, seed, k):
        return f"P{fold}.{k:03d}" if seed == 42 else f"Q{seed}.{fold}.{k:03d}"

    def gaps(self, **options):
        return gap_table(self.scores, self.rows, self.ceilings, **{"draws": 200, **options})


def pick(table, method, estimator):
    own = table[(table["embedding"] == method[0]) & (table["probe"] == method[1]) & (table["estimator"] == estimator)]
    assert len(own) == 1
    return own.iloc[0]


def unequal(seed=0, sizes=(9, 14, 6), noise=1.0, shift=0.0):
    """Errors with a difficulty of each perturbation that all methods share, in folds of different size and level."""
    rng = np.random.default_rng(seed)
    level = {("a", "knn"): 6.0, ("b", "ridge"): 9.0, ("none", "no change"): 10.0, ("none", "train mean"): 8.0,
             ("random", "knn"): 8.2, ("idealised", "knn"): 5.0, ("idealised", "ridge"): 3.0}  # fmt: skip
    hard = [2.0 * rng.standard_normal(n) + 3 * f + shift for f, n in enumerate(sizes)]
    values = {m: [h + v + noise * 0.5 * rng.standard_normal(len(h)) for h in hard] for m, v in level.items()}
    ceilings = {e: [h + v + noise * 0.3 * rng.standard_normal(len(h)) for h in hard]
                for e, v in {"experimental_error": 4.0, "disjoint_halves": 5.5}.items()}  # fmt: skip
    return values, ceilings


def mean_of_means(arrays):
    return np.mean([np.nanmean(a) for a in arrays])


# --- points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("higher", [False, True], ids=["error", "correlation"])
def test_points_are_means_over_folds_of_means_over_perturbations(higher):
    values, ceilings = unequal()
    sign = -1 if higher else 1
    signed = [{k: [sign * x for x in v] for k, v in each.items()} for each in (values, ceilings)]
    metric = "Pearson" if higher else "L2"
    table = Tables(*signed, metric=metric).gaps()
    assert list(table.columns) == COLUMNS and len(table) == len(METHODS) * 3
    floor = min(mean_of_means(values["none", p]) for p in ("no change", "train mean"))
    best = {e: mean_of_means(c) for e, c in ceilings.items()} | {ORACLE: mean_of_means(values["idealised", "ridge"])}
    pooled = np.mean(np.concatenate(values["a", "knn"]))
    assert abs(pooled - mean_of_means(values["a", "knn"])) > 0.1  # not the mean over all perturbations
    for method, arrays in values.items():
        for estimator, ceiling in best.items():
            row, mean = pick(table, method, estimator), mean_of_means(arrays)
            found = row[["mean", "floor", "ceiling", "gap_closed"]].astype(float)
            expected = [sign * mean, sign * floor, sign * ceiling, (floor - mean) / (floor - ceiling)]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            assert row["floor_by"] == "train mean" and row["role"] == METHODS[method] and row["metric"] == metric
            assert row["ceiling_by"] == ("idealised, ridge" if estimator == ORACLE else estimator)
            assert row["n_perturbations"] == 29 and row["fallback"] == "filled"
    assert list(dict.fromkeys(table["estimator"])) == ["experimental_error", "disjoint_halves", ORACLE]


def constant(**levels):
    return {m: [np.full(4, float(levels[m[0] if m[0] != "none" else m[1].replace(" ", "_")]))] * 2 for m in METHODS}


def test_gaps_are_never_clipped():
    table = Tables(
        constant(a=1, b=12, random=8, no_change=10, train_mean=8, idealised=4), {"experimental_error": [[4] * 4] * 2}
    ).gaps()
    for estimator in ("experimental_error", ORACLE):
        found = [pick(table, m, estimator)["gap_closed"] for m in METHODS]
        assert found == [1.75, -1, -0.5, 0, 0, 1, 1]


@pytest.mark.parametrize("ceiling", [8.0, 9.0, np.nan])
def test_undefined_where_the_ceiling_is_not_better_than_the_floor(ceiling):
    values = constant(a=5, b=6, random=8, no_change=10, train_mean=8, idealised=4)
    table = Tables(values, {"experimental_error": [[ceiling] * 4] * 2}).gaps()
    own = table[table["estimator"] == "experimental_error"]
    assert own[["gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)
    np.testing.assert_array_equal(own["ceiling"], ceiling)
    assert table.loc[table["estimator"] == ORACLE, ["gap_closed", "gap_low", "gap_high"]].notna().all(axis=None)


def test_interval_is_undefined_where_the_ceiling_is_often_no_better_than_the_floor():
    rng = np.random.default_rng(0)
    values, _ = unequal()
    base = values["none", "train mean"]
    ceiling = [b - 0.1 + 2 * (n - n.mean()) for b in base for n in [rng.standard_normal(len(b))]]
    table = Tables(values, {"disjoint_halves": ceiling}).gaps()
    row = pick(table, ("a", "knn"), "disjoint_halves")
    assert row["gap_closed"] == pytest.approx((mean_of_means(base) - mean_of_means(values["a", "knn"])) / 0.1)
    assert np.isnan(row["gap_low"]) and np.isnan(row["gap_high"])


def test_without_ceilings_the_oracle_and_without_oracle_nothing():
    values, ceilings = unequal()
    assert set(Tables(values).gaps()["estimator"]) == {ORACLE}
    bare = {m: v for m, v in values.items() if m[0] != "idealised"}
    table = Tables(bare).gaps()
    assert table[["ceiling", "gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)
    assert table["floor"].notna().all() and len(table) == len(bare) and (table["ceiling_by"] == "").all()
    table = Tables({m: v for m, v in values.items() if m[0] != "none"}, ceilings).gaps()
    assert table[["floor", "gap_closed", "gap_low"]].isna().all(axis=None) and (table["floor_by"] == "").all()
    assert table["ceiling"].notna().all()


def test_undefined_rows_are_left_out():
    values, ceilings = unequal()
    values["a", "knn"][0][:4] = np.nan
    values["a", "knn"][2][:] = np.nan  # a whole fold
    ceilings["experimental_error"][1][3:] = np.nan
    ceilings["disjoint_halves"][0][:] = np.nan
    table = Tables(values, ceilings).gaps()
    mean = np.mean([np.nanmean(values["a", "knn"][f]) for f in (0, 1)])
    ceiling = mean_of_means(ceilings["experimental_error"])
    assert pick(table, ("a", "knn"), "experimental_error")["mean"] == pytest.approx(mean)
    assert pick(table, ("a", "knn"), "experimental_error")["ceiling"] == pytest.approx(ceiling)
    halves = np.mean([np.mean(ceilings["disjoint_halves"][f]) for f in (1, 2)])
    assert pick(table, ("b", "ridge"), "disjoint_halves")["ceiling"] == pytest.approx(halves)
    assert pick(table, ("b", "ridge"), ORACLE)["mean"] == pytest.approx(mean_of_means(values["b", "ridge"]))


def test_undefined_rows_count_as_no_skill_in_centred_metrics():
    values = {
        ("a", "knn"): [[0.6, np.nan]],
        ("none", "train mean"): [[np.nan, np.nan]],
        ("idealised", "knn"): [[0.8, 0.4]],
    }
    table = Tables(values, metric="Pearson_centred").gaps()
    row = pick(table, ("a", "knn"), ORACLE)
    assert (row["mean"], row["floor"], row["ceiling"]) == pytest.approx((0.3, 0.0, 0.6))
    assert row["gap_closed"] == pytest.approx(0.5)
    table = Tables({**values, ("none", "train mean"): [[0.0, 0.0]]}, metric="Pearson").gaps()
    assert pick(table, ("a", "knn"), ORACLE)["mean"] == pytest.approx(0.6)


def test_common_uses_only_ids_that_all_embeddings_cover():
    values, ceilings = unequal()
    gone = {"a": ["P0.001", "P1.000"], "b": ["P1.000", "P2.005"], "random": ["P0.007"], "idealised": ["P0.008"]}
    table = Tables(values, ceilings, covered=gone).gaps(fallback="common")
    kept = [[k for k in range(9) if k != 1], list(range(1, 14)), list(range(5))]

    def mean(arrays):
        return np.mean([np.mean(a[k]) for a, k in zip(arrays, kept, strict=True)])

    assert (table["n_perturbations"] == 26).all() and set(table["fallback"]) == {"common"}
    floor, ceiling = mean(values["none", "train mean"]), mean(ceilings["disjoint_halves"])
    for method in METHODS:
        row = pick(table, method, "disjoint_halves")
        np.testing.assert_allclose(row["gap_closed"], (floor - mean(values[method])) / (floor - ceiling), rtol=1e-12)
    filled = Tables(values, ceilings, covered=gone).gaps()
    pd.testing.assert_frame_equal(filled, Tables(values, ceilings).gaps())
    assert (filled["gap_closed"] - table["gap_closed"]).abs().max() > 1e-3


def test_folds_of_several_seeds_are_folds_of_their_own():
    values, ceilings = unequal(sizes=(5, 8, 6, 9))
    units = [(0, 42), (1, 42), (0, 7), (1, 7)]
    both = Tables(values, units=units).gaps()
    row = pick(both, ("a", "knn"), ORACLE)
    floor, ceiling = (mean_of_means(values[m]) for m in (("none", "train mean"), ("idealised", "ridge")))
    assert row["mean"] == pytest.approx(mean_of_means(values["a", "knn"])) and row["n_perturbations"] == 28
    assert row["gap_closed"] == pytest.approx((floor - row["mean"]) / (floor - ceiling))
    assert row["gap_low"] < row["gap_closed"] < row["gap_high"]
    # Ceilings of each fold are those of its own perturbations.
    noisy = pick(Tables(values, ceilings, units=units).gaps(), ("a", "knn"), "experimental_error")
    assert noisy["ceiling"] == pytest.approx(mean_of_means(ceilings["experimental_error"]))


def test_tasks_and_metrics_are_taken_apart():
    values, ceilings = unequal()
    other = unequal(seed=1)
    one, two = Tables(values, ceilings), Tables(*other, context="d")
    joined = [pd.concat([getattr(t, n) for t in (one, two)]) for n in ("scores", "rows", "ceilings")]
    table = gap_table(*joined, draws=200)
    for context, alone in (("c", one), ("d", two)):
        own = table[table["context"] == context].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone.gaps())
    both = Tables(values, ceilings)
    both.rows["Pearson"], both.ceilings["Pearson"] = -both.rows["L2"], -both.ceilings["L2"]
    both.rows["MAE"] = both.rows["L2"] ** 2  # without ceilings
    table = both.gaps()
    assert list(dict.fromkeys(table["metric"])) == ["L2", "MAE", "Pearson"]
    by = table.groupby("metric")["estimator"].unique().map(list).to_dict()
    assert by == {"L2": ["experimental_error", "disjoint_halves", ORACLE], "MAE": [ORACLE],
                  "Pearson": ["experimental_error", "disjoint_halves", ORACLE]}  # fmt: skip
    gaps = table[table["metric"] != "MAE"].pivot_table(
        index=["embedding", "probe", "estimator"], columns="metric", values="gap_closed"
    )
    np.testing.assert_allclose(gaps["L2"], gaps["Pearson"], atol=1e-12)
    assert set(both.gaps(metrics=["MAE"])["metric"]) == {"MAE"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fallback": "covered"}, ["no fallback 'covered'", "filled or common"]),
        ({"fallback": ""}, ["no fallback ''"]),
        ({"metrics": ["R2"]}, ["R2", "there are L2"]),
        ({"metrics": ["Pearson"]}, ["Pearson", "there are L2"]),
    ],
)
def test_what_is_not_there_is_named(options, says, refuses):
    refuses(says, Tables(*unequal()).gaps, **options)


# --- intervals -------------------------------------------------------------------------------------------------------


def bootstrap(values, ceiling, method, floor, draws, rng, *, stratified=True, paired=True):
    """Percentile bootstrap of the gap closed, resampling perturbations within folds."""
    gaps = []
    sizes = [len(a) for a in ceiling]
    for _ in range(draws):
        if stratified:
            picks = [[rng.integers(n, size=n) for n in sizes] for _ in range(1 if paired else 3)] * (3 if paired else 1)
            a, b, c = (
                np.mean([x[k].mean() for x, k in zip(arrays, pick, strict=True)])
                for arrays, pick in zip((values[method], values[floor], ceiling), picks, strict=True)
            )  # fmt: skip
        else:
            k = rng.integers(sum(sizes), size=sum(sizes))
            a, b, c = (np.concatenate(arrays)[k].mean() for arrays in (values[method], values[floor], ceiling))
        gaps.append((b - a) / (b - c))
    return np.quantile(gaps, [0.025, 0.975])


@pytest.mark.parametrize("fallback", ["filled", "common"])
def test_intervals_are_those_of_a_stratified_paired_bootstrap(fallback):
    values, ceilings = unequal()
    values["a", "knn"] = [v + 0.6 * f for f, v in enumerate(values["a", "knn"])]
    gone = ["P0.000", "P1.003", "P1.004"]
    table = Tables(values, ceilings, covered={"a": gone}).gaps(draws=4000, fallback=fallback)
    if fallback == "common":
        keep = [np.setdiff1d(range(n), d) for n, d in zip((9, 14, 6), ([0], [3, 4], []), strict=True)]
        values, ceilings = (
            {m: [x[k] for x, k in zip(v, keep, strict=True)] for m, v in each.items()} for each in (values, ceilings)
        )
    for seed, (method, estimator) in enumerate(
        [(("a", "knn"), "disjoint_halves"), (("b", "ridge"), "experimental_error")]
    ):
        arguments = values, ceilings[estimator], method, ("none", "train mean"), 4000, np.random.default_rng(seed)
        expected = bootstrap(*arguments)
        row = pick(table, method, estimator)
        width = expected[1] - expected[0]
        found = row[["gap_low", "gap_high"]].to_numpy(float)
        np.testing.assert_allclose(found, expected, atol=0.06 * width)
        assert row["gap_low"] < row["gap_closed"] < row["gap_high"]
        for wrong in ({"paired": False}, {"stratified": False}):
            assert np.abs(bootstrap(*arguments, **wrong) - expected).max() > 0.12 * width, wrong


def test_floor_method_and_ceiling_share_the_draws():
    """Where all three differ by the same in every perturbation, however hard, there is nothing to be uncertain about."""
    hard = [10 * np.random.default_rng(f).random(7) for f in range(3)]
    level = {("a", "knn"): 6.0, ("none", "train mean"): 8.0, ("idealised", "knn"): 4.0}
    table = Tables(
        {m: [h + v for h in hard] for m, v in level.items()}, {"disjoint_halves": [h + 3 for h in hard]}
    ).gaps()
    for estimator, expected in ((ORACLE, 0.5), ("disjoint_halves", 0.4)):
        row = pick(table, ("a", "knn"), estimator)
        np.testing.assert_allclose(row[["gap_closed", "gap_low", "gap_high"]].to_numpy(float), expected, rtol=1e-12)


def test_floor_and_oracle_have_no_uncertainty_of_their_own_gap():
    table = Tables(*unequal()).gaps()
    row = pick(table, ("none", "train mean"), "experimental_error")
    assert (row["gap_low"], row["gap_closed"], row["gap_high"]) == (0, 0, 0)
    row = pick(table, ("idealised", "ridge"), ORACLE)
    assert (row["gap_low"], row["gap_closed"], row["gap_high"]) == (1, 1, 1)


def test_more_perturbations_make_the_interval_narrower():
    widths = []
    for sizes in ((10,) * 4, (40,) * 4, (160,) * 4):
        own = []
        for seed in range(3):
            row = pick(Tables(*unequal(seed, sizes)).gaps(draws=500), ("a", "knn"), "experimental_error")
            own.append(row["gap_high"] - row["gap_low"])
        widths.append(np.mean(own))
    for wide, narrow in itertools.pairwise(widths):
        assert 1.5 < wide / narrow < 2.7  # twice, as the root of the number


def test_the_same_tables_give_the_same_intervals_in_any_order_and_company():
    values, ceilings = unequal()
    tables = Tables(values, ceilings)
    first = tables.gaps()
    pd.testing.assert_frame_equal(first, tables.gaps())
    rng = np.random.default_rng(0)
    for name in ("scores", "rows", "ceilings"):
        frame = getattr(tables, name)
        setattr(tables, name, frame.iloc[rng.permutation(len(frame))])
    keys = ["embedding", "probe", "estimator"]
    pd.testing.assert_frame_equal(
        first.sort_values(keys, ignore_index=True), tables.gaps().sort_values(keys, ignore_index=True)
    )
    more = Tables({("new", "knn"): [np.full(n, 7.0) for n in (9, 14, 6)], **values}, ceilings).gaps()
    left = more[more["embedding"] != "new"]
    pd.testing.assert_frame_equal(first.sort_values(keys, ignore_index=True), left.sort_values(keys, ignore_index=True))
    assert len(more) == len(first) + 3
    fewer = Tables(values, {"disjoint_halves": ceilings["disjoint_halves"]}).gaps()
    same = first[first["estimator"] != "experimental_error"]
    pd.testing.assert_frame_equal(same.sort_values(keys, ignore_index=True), fewer.sort_values(keys, ignore_index=True))


numbers = st.floats(-50, 50).map(lambda x: round(x, 3))
small = st.integers(2, 3).flatmap(
    lambda folds: st.lists(st.integers(2, 5), min_size=folds, max_size=folds).flatmap(
        lambda sizes: st.tuples(
            *[st.tuples(*[st.lists(numbers, min_size=n, max_size=n) for n in sizes]) for _ in range(4)]
        )
    )
)


def four(drawn):
    """Tables of a method, a floor, an oracle and a ceiling."""
    names = [("a", "knn"), ("none", "train mean"), ("idealised", "knn")]
    arrays = [[np.array(x) for x in each] for each in drawn]
    return dict(zip(names, arrays, strict=False)), {"disjoint_halves": arrays[3]}


@settings(max_examples=25)
@given(small)
def test_point_law(drawn):
    values, ceilings = four(drawn)
    table = Tables(values, ceilings).gaps(draws=20)
    for estimator, bound in {**ceilings, ORACLE: values["idealised", "knn"]}.items():
        a, floor, ceiling = (mean_of_means(x) for x in (values["a", "knn"], values["none", "train mean"], bound))
        row = pick(table, ("a", "knn"), estimator)
        if abs(floor - ceiling) < 1e-6:
            continue
        if floor > ceiling:
            np.testing.assert_allclose(row["gap_closed"], (floor - a) / (floor - ceiling), rtol=1e-6, atol=1e-9)
        else:
            assert np.isnan(row["gap_closed"])
        assert np.isnan(row["gap_low"]) == np.isnan(row["gap_high"])
        assert not row["gap_low"] > row["gap_high"]


@settings(max_examples=25)
@given(small, st.floats(0.1, 10), st.integers(-20, 20))
def test_gaps_and_intervals_have_no_unit_and_no_origin(drawn, scale, shift):
    values, ceilings = four(drawn)
    lowered = {m: [x - 120 if m[0] == "idealised" else x for x in v] for m, v in values.items()}  # a gap in every draw
    ceilings = {e: [x - 150 for x in v] for e, v in ceilings.items()}
    moved = [{m: [scale * x + shift for x in v] for m, v in each.items()} for each in (lowered, ceilings)]
    columns = ["gap_closed", "gap_low", "gap_high"]
    first, second = Tables(lowered, ceilings).gaps(draws=50), Tables(*moved).gaps(draws=50)
    assert first[columns].notna().all(axis=None)
    np.testing.assert_allclose(first[columns], second[columns], rtol=1e-6, atol=1e-9)


def test_nominal_intervals_cover_the_truth():
    """Normal errors, 3 folds of 12 perturbations: the true share of the gap closed lies in 95 % of the intervals or nearly."""
    rng = np.random.default_rng(5)
    floor, method, ceiling = 10.0, 8.0, 6.0
    inside, n = 0, 150
    below = above = 0
    for _ in range(n):
        hard = 1.5 * rng.standard_normal((3, 12))
        own = [list(level + hard + rng.standard_normal((3, 12))) for level in (method, floor, ceiling)]
        values = {("a", "knn"): own[0], ("none", "train mean"): own[1]}
        row = pick(Tables(values, {"disjoint_halves": own[2]}).gaps(draws=250), ("a", "knn"), "disjoint_halves")
        inside += row["gap_low"] <= 0.5 <= row["gap_high"]
        below, above = below + (row["gap_high"] < 0.5), above + (row["gap_low"] > 0.5)
    assert 0.88 <= inside / n <= 0.99
    assert abs(below - above) <= 12

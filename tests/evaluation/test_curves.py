"""Learning curves: the whole run at the end, nested subsets, the same test ids, and fewer dimensions without looking at responses."""

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from panmodal import Card, Embedding, Screen, make_split, run
from panmodal.cli_curve import register
from panmodal.errors import InputError
from panmodal.evaluation.compare import compare
from panmodal.evaluation.curves import COLUMNS, learning_curves, subset, training_order, truncated
from panmodal.insight.curves import SUMMARY, curve_display, curve_sentences, curve_summary
from panmodal.probes import ProbeCV
from panmodal.probes.design import Design

KEYS = ["context", "fold", "embedding", "probe", "fallback", "metric"]
MANY = {"probes": ["knn", "ridge"], "metrics": ["L2", "Pearson_centred", "Spearman_centred"]}
FAST = {"n_jobs": 1, "probes": ["ridge"], "metrics": ["L2"]}


@pytest.fixture(scope="module")
def made(toy):
    return toy(n=60)


@pytest.fixture(scope="module")
def table(made):
    return learning_curves(*made, fractions=(0.3, 1, 0.5), dims=(2, 200), n_jobs=1, **MANY)


def scores_of(results):
    scores = results.scores
    return scores[(scores["role"] != "oracle") & (scores["fallback"] != "covered")].set_index(KEYS).sort_index()


def same_as_the_run(own, scores):
    own = own.set_index(KEYS).sort_index()
    assert own.index.equals(scores.index) and len(own)
    np.testing.assert_array_equal(own["value"], scores["value"])
    np.testing.assert_array_equal(own["n_test"], scores["n_test"])
    assert (
        (own["role"] == scores["role"]).all()
        and (own["modality"] == scores["modality"]).all()
        and (own["seen"] == scores["seen"]).all()
    )


def test_the_end_of_a_curve_is_the_run_exactly(made, table, tmp_path):
    results = run(*made, tmp_path / "r", n_jobs=1, **MANY)
    for sweep, column, last in (("fraction", "fraction", 1.0), ("dims", "dims", 200)):
        same_as_the_run(table[(table["sweep"] == sweep) & (table[column] == last)], scores_of(results))


def test_the_end_of_a_curve_of_labels_is_the_run_exactly(made, tmp_path):
    screen, embeddings = made
    ids, values = screen.responses("A")
    labels = np.where(np.abs(values - 0.5) > 2, np.sign(values - 0.5), 0)
    deg = Screen.from_arrays(labels, ids, ["A"] * len(ids), screen.readouts, name="toy", response="deg")
    options = {
        "folds": 3,
        "probes": ["ridge_classifier"],
        "n_jobs": 1,
        "metrics": ["F1", "ROC_AUC", "MCC", "F1_classwise"],
    }
    results = run(deg, embeddings, tmp_path / "r", **options)
    own = learning_curves(deg, embeddings, fractions=(0.5, 1), dims=(), **options)
    same_as_the_run(own[own["fraction"] == 1], scores_of(results))
    assert set(own.loc[own["role"] == "baseline", "probe"]) == {"no change", "class prior", "most frequent"}


def test_what_is_in_the_table(made, table):
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["sweep", *KEYS, "fraction", "dims"]).any()
    assert sorted(table.loc[table["sweep"] == "fraction", "fraction"].unique()) == [0.3, 0.5, 1.0]
    assert (
        table.loc[table["sweep"] == "fraction", "dims"].isna().all()
        and (table.loc[table["sweep"] == "dims", "fraction"] == 1).all()
    )
    assert set(table["embedding"]) == {"none", "random", "full", "part"} and "oracle" not in set(table["role"])
    split = make_split(made[0].pert_ids)
    train, test = split.sides(made[0].ids_in("A"), 0)
    own = table[
        (table["context"] == "A") & (table["fold"] == 0) & (table["fraction"] == 0.3) & (table["sweep"] == "fraction")
    ]
    assert set(own.loc[own["embedding"] == "full", "n_train"]) == {int(np.ceil(0.3 * len(train)))}
    assert (own["n_test"] == len(test)).all() and (own.loc[own["fallback"] == "filled", "n_scored"] == len(test)).all()
    chosen = subset(train, training_order(split, 0, 42), 0.3)
    assert set(own.loc[own["embedding"] == "part", "n_train"]) == {sum(int(i[1:]) % 5 > 0 for i in chosen)}
    common = sum(int(i[1:]) % 5 > 0 for i in test)
    assert set(own.loc[own["fallback"] == "common", "n_scored"]) == {common}


def test_a_point_is_a_probe_fitted_on_the_subset(made):
    screen, (full, part) = made
    own = learning_curves(screen, [full, part], fractions=(0.6,), dims=(), **FAST)
    split = make_split(screen.pert_ids)
    ids, values = screen.responses("B")
    train, test = split.sides(ids, 2)
    chosen = subset(train, training_order(split, 2, 42), 0.6)
    rows = {i: values[ids.index(i)].astype(float) for i in ids}
    covered = [i for i in chosen if i in part.ids]
    fitted = ProbeCV("ridge").fit(part.matrix(covered), [rows[i] for i in covered])
    mean = np.mean([rows[i] for i in chosen], axis=0)
    predicted = [fitted.predict(part.matrix([i]))[0] if i in part.ids else mean for i in test]
    expected = np.mean([np.linalg.norm(p - rows[i]) for p, i in zip(predicted, test, strict=True)])
    row = own[
        (own["context"] == "B") & (own["fold"] == 2) & (own["embedding"] == "part") & (own["fallback"] == "filled")
    ]
    assert row["value"].item() == pytest.approx(expected, rel=1e-5)
    floor = own[
        (own["context"] == "B") & (own["fold"] == 2) & (own["probe"] == "train mean") & (own["fallback"] == "filled")
    ]
    assert floor["value"].item() == pytest.approx(np.mean([np.linalg.norm(mean - rows[i]) for i in test]), rel=1e-5)


def test_fewer_dimensions_are_the_first_principal_components():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 9)) * np.arange(1, 10), rng.standard_normal((12, 9))
    whole = Design.build(x, y)
    cut = truncated(whole, 3)
    np.testing.assert_array_equal(cut.final.z_train, whole.final.z_train[:, :3])
    assert all(
        a.z_test.shape[1] == 3 and (a.z_test == b.z_test[:, :3]).all()
        for a, b in zip(cut.inner, whole.inner, strict=True)
    )
    np.testing.assert_allclose(cut.projection.transform(y), cut.final.z_test)
    assert truncated(whole, 9).final is whole.final and truncated(whole, 100) is whole


def test_dimensions_matter_where_knowledge_lies_in_later_components(made):
    screen, (full, _) = made
    noise = np.random.default_rng(1).standard_normal((len(full.ids), 1)) @ np.ones((1, 30))
    noise = noise + 0.1 * np.random.default_rng(2).standard_normal(
        noise.shape
    )  # thirty columns of one thing: the first component
    hidden = Embedding(full.ids, np.hstack([noise, full.vectors]), Card(name="hidden", modality="toy"))
    own = learning_curves(screen, [hidden], fractions=(), dims=(1, 100), **FAST)
    means = own[(own["embedding"] == "hidden") & (own["fallback"] == "filled")].groupby("dims")["value"].mean()
    floor = own[(own["probe"] == "train mean") & (own["fallback"] == "filled")]["value"].mean()
    assert means[100] < 0.9 * floor < means[1]


@given(st.integers(0, 100), st.lists(st.floats(0.01, 1), min_size=2, max_size=2), st.integers(11, 80))
def test_subsets_are_nested_and_of_the_right_size(seed, fractions, n):
    split = make_split([f"P{k}" for k in range(n)])
    train, _ = split.sides(sorted(split.folds), 0)
    order = training_order(split, 0, seed)
    small, large = (subset(train, order, f) for f in sorted(fractions))
    assert set(small) <= set(large) <= set(train) and subset(train, order, 1.0) == train
    assert [i for i in train if i in set(large)] == large and 1 <= len(small) <= np.ceil(
        min(fractions) * len(train)
    ) + 1e-9


def test_sizes_do_not_suffer_from_rounding():
    train = [f"P{k}" for k in range(10)]
    assert len(subset(train, {i: k for k, i in enumerate(train)}, 0.3)) == 3  # 0.3 * 10 is above 3 in binary


def test_points_with_too_few_training_ids_are_empty_and_said(made):
    own = learning_curves(*made, fractions=(0.1, 1), dims=(), **FAST)
    few = own[(own["fraction"] == 0.1) & own["role"].isin(["embedding", "control"])]
    assert len(few) and few["value"].isna().all() and (few["n_train"] < 10).all() and (few["n_scored"] == 0).all()
    assert own.loc[own["role"] == "baseline", "value"].notna().all()
    said = curve_sentences(curve_summary(own))
    assert "fewer than 10 training perturbations with a vector are left: full at 10 %, part at 10 %" in said[-1]


def test_processes_and_order_change_nothing(made):
    screen, embeddings = made[0].select(["A"]), made[1]
    own = learning_curves(screen, embeddings, fractions=(0.5,), dims=(3,), **{**FAST, "n_jobs": 2})
    pd.testing.assert_frame_equal(
        own, learning_curves(screen, embeddings[::-1], fractions=(0.5, 0.5), dims=(3,), **FAST)
    )
    done = []
    learning_curves(screen, embeddings[:1], fractions=(1,), dims=(), progress=lambda *a: done.append(a), **FAST)
    assert done[0] == (0, 15) and done[-1] == (15, 15)


def test_predictions_do_not_depend_on_the_responses_of_test_ids(made, monkeypatch):
    screen, embeddings = made[0].select(["A"]), made[1]
    split = make_split(screen.pert_ids)
    ids, values = screen.responses("A")
    changed = values.copy()
    test = [k for k, i in enumerate(ids) if split.folds[i] == 0]
    changed[test] = 1000 * np.random.default_rng(0).standard_normal(changed[test].shape)
    other = Screen.from_arrays(changed, ids, ["A"] * len(ids), screen.readouts, name="toy", response="lfc")
    predicted = []
    for own in (screen, other):
        seen = []

        def spy(response, values, *args, seen=seen, **known):
            seen.append(values)
            return compare(response, values, *args, **known)

        monkeypatch.setattr("panmodal.evaluation.curves.compare", spy)
        table = learning_curves(own, embeddings, fractions=(0.5, 1), dims=(3,), split=split, **FAST)
        predicted.append((seen, table))
    (one, table), (two, _) = predicted
    # Baselines and three embeddings, fold by fold; fold 0 is the first of each.
    points = 3
    first = [*range(2 * points), *(5 * 2 * points + k * 5 * points + j for k in range(3) for j in range(points))]
    assert len(one) == 5 * points * 5 and set(table["fold"]) == set(range(5))
    for k in first:
        np.testing.assert_array_equal(one[k], two[k])
    assert any((a != b).any() for a, b in zip(one, two, strict=True))  # the other folds train on them


def test_refusals(made, refuses):
    refuses(["fraction(s) '0', '1.5'", "above 0"], learning_curves, *made, fractions=(0, 0.5, 1.5))
    refuses(["dimension(s) '0'", "at least 1"], learning_curves, *made, dims=(0, 4))
    refuses(["neither fractions nor dims"], learning_curves, *made, fractions=(), dims=())
    refuses(["no embedding"], learning_curves, made[0], [])
    refuses(["n_jobs is 0"], learning_curves, *made, n_jobs=0)
    refuses(["'F1'", "'lfc'"], learning_curves, *made, metrics=["F1"])
    refuses(["no probe 'magic'"], learning_curves, *made, probes=["magic"])


# --- what they say ---------------------------------------------------------------------------------------------------


def test_summary_and_sentences(table):
    summary = curve_summary(table)
    assert list(summary.columns) == SUMMARY and set(summary["metric"]) == {"L2"}
    own = table[(table["metric"] == "L2") & (table["fallback"] == "filled") & (table["context"] == "A")]
    floor = (
        own[(own["role"] == "baseline") & (own["fraction"] == 1) & (own["sweep"] == "fraction")]
        .groupby("probe")["value"]
        .mean()
        .min()
    )
    points = (
        own[(own["embedding"] == "full") & (own["probe"] == "ridge") & (own["sweep"] == "fraction")]
        .groupby("fraction")["value"]
        .mean()
    )
    row = summary[
        (summary["context"] == "A")
        & (summary["embedding"] == "full")
        & (summary["probe"] == "ridge")
        & (summary["fraction"] == 0.5)
    ]
    row = row[row["sweep"] == "fraction"].iloc[0]
    assert (
        row["mean"] == pytest.approx(points[0.5])
        and row["gain"] == pytest.approx(floor - points[0.5])
        and row["n_folds"] == 5
    )
    assert row["share"] == pytest.approx((floor - points[0.5]) / (floor - points[1.0]))
    said = curve_sentences(summary)
    ends = summary[
        (summary["context"] == "A")
        & (summary["sweep"] == "fraction")
        & (summary["fraction"] == 1)
        & (summary["role"] == "embedding")
    ]
    best = ends.loc[ends["gain"].idxmax()]
    line = summary[
        (summary["context"] == "A") & (summary["sweep"] == "fraction") & (summary["embedding"] == best["embedding"])
    ]
    share = line[(line["probe"] == best["probe"]) & (line["fraction"] == 0.5)]["share"].item()
    assert said[0].startswith(f"toy, A (lfc): of the gain of {best['embedding']}, {best['probe']} over the floor (L2)")
    assert f"50 % of the training perturbations give {100 * share:.0f} %" in said[0]
    assert any("with 200 of 200 dimensions" in s or "with 2 of 200 dimensions" in s for s in said)
    higher = curve_summary(table, metric="Pearson_centred", fallback="common")
    whole = higher[(higher["embedding"] == "full") & (higher["fraction"] == 1)]
    assert (whole["gain"] > 0).all() and set(higher["fallback"]) == {"common"}


def test_no_gain_is_said(table):
    worse = table.assign(value=table["value"].where(table["role"] == "baseline", 1000.0))
    assert curve_sentences(curve_summary(worse)) == [
        f"toy, {c} (lfc): no embedding beats the floor in L2 with all training perturbations." for c in "AB"
    ]


def test_display_and_figure(table):
    display = curve_display(table)
    assert display.name == "learning-curves" and "train mean where not covered" in display.about
    figure = display.plot()
    assert len(figure.axes) == 4 and figure.axes[0].get_ylabel() == "L2"
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["2", "200"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["full", "part", "random", "best baseline"]
    only = curve_display(table[table["sweep"] == "fraction"], fallback="common")
    assert len(only.plot().axes) == 2 and "all embeddings cover" in only.about


def test_summary_refuses(table, refuses):
    refuses(["no column(s) 'dims'", "panmodal curve"], curve_summary, table.drop(columns="dims"))
    refuses(["no values of metric MAE", "'L2'"], curve_summary, table, metric="MAE")
    refuses(["fallback 'covered'"], curve_summary, table, fallback="covered")


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def curve(made, tmp_path):
    screen, embeddings = made
    screen.select(["A"]).write(tmp_path / "screen.h5ad")
    for embedding in embeddings:
        embedding.write(tmp_path / f"{embedding.name}.parquet")
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def call(*args, error=None):
        base = ["curve", "--screen", tmp_path / "screen.h5ad", "--embedding", tmp_path / "full.parquet", "--probe", "ridge", "--metric", "L2",
                "--jobs", "1"]  # fmt: skip
        result = CliRunner().invoke(app, [*map(str, base), *map(str, args)])
        if error is None:
            assert result.exit_code == 0, (result.output, result.exception)
            return result.output
        assert isinstance(result.exception, InputError), (result.output, result.exception)
        assert error in str(result.exception)
        return str(result.exception)

    return call


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_command(curve, made, tmp_path, suffix):
    out = tmp_path / f"c{suffix}"
    said = curve("--out", out, "--fractions", "0.5 1", "--dims", "3,200", "--figure", tmp_path / "c.svg")
    assert (
        "50 % of the training perturbations give" in said
        and f"Wrote {out}" in said
        and (tmp_path / "c.svg").stat().st_size
    )
    read = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    expected = learning_curves(made[0].select(["A"]), made[1][:1], fractions=(0.5, 1), dims=(3, 200), **FAST)
    np.testing.assert_allclose(read["value"], expected["value"])
    assert curve_summary(read)["share"].notna().any()


def test_command_without_a_sweep_and_with_given_folds(curve, made, tmp_path):
    make_split(made[0].pert_ids, n_folds=3, seed=1).write(tmp_path / "folds.csv")
    curve("--out", tmp_path / "c.csv", "--fractions", "none", "--dims", "2", "--splits", tmp_path / "folds.csv")
    read = pd.read_csv(tmp_path / "c.csv")
    assert set(read["sweep"]) == {"dims"} and set(read["fold"]) == {0, 1, 2}


def test_command_refuses(curve, tmp_path):
    curve("--out", tmp_path / "c.txt", error=".csv or .parquet")
    curve("--out", tmp_path / "c.csv", "--figure", tmp_path / "c.gif", error=".svg or .png or .pdf")
    curve("--out", tmp_path / "c.csv", "--fractions", "half", error="--fractions is 'half'")
    curve("--out", tmp_path / "c.csv", "--dims", "2.5", error="--dims is '2.5'")
    curve("--out", tmp_path / "c.csv", "--fractions", "2", error="above 0")

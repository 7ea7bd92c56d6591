"""What embeddings share, on boards made by hand: tables, sentences true of them, figures that hold them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, Screen, run
from panmodal.errors import StoreError
from panmodal.evaluation.evidence import read_evidence
from panmodal.insight import similarity_plots as plots
from panmodal.insight.evidence import Predicted, Vectors
from panmodal.insight.gaps import TASK
from panmodal.insight.representation import MEASURES, as_probes_see, compare
from panmodal.insight.similarity import (
    ALIKE,
    discoveries,
    displays,
    enrichment_sentences,
    enrichment_table,
    likeness,
    likeness_sentences,
    prediction_sentences,
    read_all,
    slug,
)
from panmodal.insight.similarity_predictions import (
    COLUMNS,
    best_probes,
    error_metric,
    prediction_pairs,
    row_correlation,
)


@pytest.fixture(scope="module")
def world():
    """A screen in two contexts; good and near share latents, half knows part of the ids, other knows nothing."""
    rng = np.random.default_rng(0)
    n, ids = 80, [f"P{k:02d}" for k in range(80)]
    latents = rng.standard_normal((n, 4))
    blocks = [latents @ rng.standard_normal((4, 20)) + 0.7 * rng.standard_normal((n, 20)) for _ in "AB"]
    screen = Screen.from_arrays(
        np.vstack(blocks), ids * 2, ["A"] * n + ["B"] * n, [f"g{g}" for g in range(20)], name="Toy X", response="lfc"
    )
    good = latents @ rng.standard_normal((4, 12)) + 0.1 * rng.standard_normal((n, 12))
    near = good @ rng.standard_normal((12, 12)) + 0.3 * rng.standard_normal((n, 12))

    def made(name, vectors, rows=None):
        rows = range(n) if rows is None else rows
        return Embedding(tuple(ids[k] for k in rows), vectors[list(rows)], Card(name=name, modality="toy"))

    part = list(range(0, n, 2))
    return screen, [
        made("good", good),
        made("near", near),
        made("half", latents + 0.5, part),
        made("other", rng.standard_normal((n, 7))),
    ]


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("similarity") / "r"
    run(*world, path, n_jobs=1, probes=["knn", "ridge"], metrics=["L2", "Pearson_centred"])
    return path


@pytest.fixture(scope="module")
def evidence(folder):
    return read_evidence(folder)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_every_pair_on_its_common_ids(evidence):
    vectors, absent = read_all(evidence, "Toy X")
    assert list(vectors) == ["good", "half", "near", "other", "random"] and absent == []
    table = likeness(vectors, "Toy X", permutations=9)
    assert list(table.columns) == ALIKE and len(table) == 10 * len(MEASURES)
    assert set(table.loc[(table["a"] == "half") | (table["b"] == "half"), "n"]) == {40}
    assert set(table.loc[(table["a"] == "good") & (table["b"] == "near"), "n"]) == {80}
    seen = [as_probes_see(vectors[k].values) for k in ("good", "near")]
    for measure, own in compare(*seen, permutations=9).items():
        row = table[(table["a"] == "good") & (table["b"] == "near") & (table["measure"] == measure)].iloc[0]
        assert (row["value"], row["expected"], row["corrected"], row["p"]) == (
            own.value,
            own.expected,
            own.corrected,
            own.p,
        )
    wide = table[table["measure"] == "cka"].set_index(["a", "b"])["corrected"]
    assert wide["good", "near"] > 0.8 and abs(wide["good", "other"]) < 0.15 and abs(wide["near", "random"]) < 0.15


def test_likeness_sentences_are_those_of_the_table(evidence):
    table = likeness(read_all(evidence, "Toy X")[0], "Toy X")
    said = likeness_sentences(table)
    real = table[(table["measure"] == "cka") & (table["b"] != "random")]
    top = real.loc[real["corrected"].idxmax()]
    assert f"most alike embeddings are {top['a']} and {top['b']}: unbiased CKA {top['corrected']:.2f}" in said[0]
    assert f"on {top['n']} ids" in said[0] and "random" not in " ".join(said)
    assert f"{int(discoveries(real['p']).sum())} of 6 pair(s) share more than chance" in said[1]
    assert said[2].startswith("other is the least like the others") and len(said) == 3


def test_few_common_ids_are_said_and_not_compared():
    rng = np.random.default_rng(0)
    names = [f"i{k}" for k in range(60)]

    def made(part):
        return Vectors(tuple(part), rng.standard_normal((len(part), 5)))

    table = likeness({"a": made(names[:40]), "b": made(names[30:]), "c": made(names)}, permutations=9)
    few = table[(table["a"] == "a") & (table["b"] == "b")]
    assert set(few["n"]) == {10} and few[["value", "corrected", "p"]].isna().all().all()
    assert (
        "1 pair(s) have fewer than 20 ids in common, or vectors that do not differ, and are not compared."
        in likeness_sentences(table)
    )
    assert len(plots.likeness_plot(table).axes) == 7  # four maps, two trees, the scale
    only = likeness_sentences(table[(table["a"] == "a") & (table["b"] == "c")])
    assert only[0].startswith("The two embeddings are a and c")


def test_discoveries_are_those_of_benjamini_and_hochberg():
    assert discoveries([0.01, 0.04, 0.03, np.nan, 0.5]).tolist() == [True, False, False, False, False]
    assert discoveries([0.04, 0.05]).tolist() == [True, True] and discoveries([]).tolist() == []


# --- neighbours ------------------------------------------------------------------------------------------------------


def test_enrichment_of_every_task_and_embedding(evidence):
    table = enrichment_table(evidence, {"Toy X": read_all(evidence, "Toy X")[0]})
    assert set(table.groupby(TASK).ngroup()) == {0, 1} and set(table["embedding"]) == {"good", "near", "half", "other"}
    assert set(table.loc[table["embedding"] == "half", "n_ids"]) == {40}
    summary = table.drop_duplicates([*TASK, "embedding"]).set_index(["context", "embedding"])
    for context in "AB":
        assert summary.loc[(context, "good"), "area_low"] > 0 and summary.loc[(context, "good"), "area_p"] == 0.01
        assert summary.loc[(context, "good"), "auroc"] > 0.7 > summary.loc[(context, "other"), "auroc"]
    said = enrichment_sentences(table)
    assert len(said) == 2
    for context, sentence in zip("AB", said, strict=True):
        own = summary.loc[context]
        best = own["area"].idxmax()
        first = table[(table["context"] == context) & (table["embedding"] == best)].iloc[0]
        assert sentence.startswith(f"Toy X, {context} (lfc): neighbours in {best} share responses the most")
        assert (
            f"by {own.loc[best, 'area']:.2f} in the mean over ranks" in sentence
            and f"{first['enrichment']:.2f} for nearest" in sentence
        )
        assert f"AUROC {own.loc[best, 'auroc']:.2f}" in sentence


def test_no_enrichment_is_said(evidence):
    vectors = {"other": read_all(evidence, "Toy X")[0]["other"]}
    table = enrichment_table(evidence, {"Toy X": vectors}).assign(area_p=0.4)
    assert all("in no embedding do neighbours share responses" in s for s in enrichment_sentences(table))


# --- predictions -----------------------------------------------------------------------------------------------------


def test_pairs_of_predictions_by_hand(evidence):
    task = evidence.tasks[0]
    table = prediction_pairs(evidence, task)
    assert list(table.columns) == COLUMNS and len(table) == 8 * 7 / 2
    row = table[
        (table["embedding_a"] == "half")
        & (table["probe_a"] == "ridge")
        & (table["embedding_b"] == "near")
        & (table["probe_b"] == "knn")
    ]
    row = row.iloc[0]
    trials = evidence.of(task, evidence.trials)

    def held(embedding, probe):
        found = {}
        for digest in trials[(trials["embedding"] == embedding) & (trials["probe"] == probe)]["trial"]:
            own = evidence.read_predictions(digest)
            found |= {i: own.values[k].astype(float) - own.fallback for k, i in enumerate(own.ids) if own.covered[k]}
        return found

    one, two = held("half", "ridge"), held("near", "knn")
    common = sorted(one.keys() & two.keys())
    assert row["n"] == len(common) == 40
    assert row["predictions"] == pytest.approx(np.mean([np.corrcoef(one[i], two[i])[0, 1] for i in common]), abs=1e-5)
    values = evidence.per_perturbation(task, "L2").set_index(["embedding", "probe", "pert_id"])["value"]
    values = values.sort_index()
    better = min(("no change", "train mean"), key=lambda name: values["none", name].mean())
    a, b, floor = (values[key].loc[common] for key in (("half", "ridge"), ("near", "knn"), ("none", better)))
    assert row["errors"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert row["gains"] == pytest.approx(np.corrcoef(a - floor, b - floor)[0, 1])
    assert row["gain_a"] == pytest.approx((floor - a).mean()) and row["gain_b"] == pytest.approx((floor - b).mean())


def test_prediction_sentences_are_those_of_the_table(evidence):
    table = pd.concat([prediction_pairs(evidence, task) for task in evidence.tasks])
    said = prediction_sentences(table)
    same, probe = table["embedding_a"] == table["embedding_b"], table["probe_a"] == table["probe_b"]
    assert f"correlate {table[~same & probe]['predictions'].mean():.2f} in the mean" in said[0]
    assert f"different probes {table[same]['predictions'].mean():.2f}" in said[0]
    assert (
        f"correlates {table[~same]['errors'].mean():.2f} in the mean; relative to the floor, {table[~same]['gains'].mean():.2f}"
        in said[1]
    )
    both = table[~same & (table["gain_a"] > 0) & (table["gain_b"] > 0)]
    least = both.sort_values("gains", kind="stable").iloc[0]
    assert f"Of {len(both)} pairs" in said[2] and f"{least['embedding_a']} ({least['probe_a']})" in said[2]
    assert prediction_sentences(table.assign(gain_a=-1.0, gains=np.nan, errors=np.nan))[1:] == []


def test_no_prediction_of_a_deviation_is_undefined():
    centre = np.arange(5.0)
    found = row_correlation(np.array([centre, centre + np.eye(5)[0], centre + 3.0]), centre)
    assert np.isnan(found[0]).all() and np.isnan(found[2]).all() and found[1, 1] == pytest.approx(1)


def test_probes_chosen_and_refused(evidence, refuses):
    task = evidence.tasks[0]
    assert set(prediction_pairs(evidence, task, probes=["knn"])["probe_a"]) == {"knn"}
    refuses(["no results for probe 'lasso'", "knn, ridge"], prediction_pairs, evidence, task, probes=["lasso"])
    scores = evidence.of(task)
    own = scores[(scores["metric"] == "L2") & (scores["fallback"] == "filled") & (scores["embedding"] == "good")]
    assert best_probes(evidence, [task])["good"] == own.groupby("probe")["value"].mean().idxmin()
    assert best_probes(evidence, []) == {}
    assert error_metric(task, ["pert_id", "Pearson_centred", "L2"]) == "L2"
    assert error_metric(("s", "c", "deg", "x"), ["F1", "MCC"]) == "MCC" and error_metric(task, ["MCC"]) is None


def test_other_test_ids_in_a_fold_are_refused(evidence, refuses):
    first = evidence.trials[evidence.trials["role"] == "embedding"]["trial"].iloc[0]

    def read(trial):
        own = evidence.read_predictions(trial)
        return Predicted(own.ids[::-1], own.covered, own.values, own.fallback) if trial == first else own

    refuses(
        ["different test ids"],
        prediction_pairs,
        replace(evidence, read_predictions=read),
        evidence.tasks[0],
        error=StoreError,
    )


# --- together --------------------------------------------------------------------------------------------------------


def test_displays(evidence):
    made = displays(evidence)
    assert [d.name for d in made] == ["similarity-toy-x", "neighbour-enrichment", "predictions-toy-x-lfc"]
    for display in made:
        assert len(display.frame()) and display.sentences and display.about
        assert display.plot().axes
    assert slug("A/B c_1") == "a-b-c-1" and slug("…") == "x"


def test_vectors_not_kept_are_said_where_they_are_missing(evidence):
    def none(name, screen):
        raise StoreError("not kept")

    made = displays(replace(evidence, read_vectors=none))
    assert [d.name for d in made] == ["predictions-toy-x-lfc"]
    assert "'good', 'half', 'near', 'other' were not kept" in made[0].sentences[-1]

    def some(name, screen):
        if name == "near":
            raise StoreError("not kept")
        return evidence.read_vectors(name, screen)

    made = displays(replace(evidence, read_vectors=some))
    assert len(made) == 3 and "near" not in set(made[0].table["a"]) | set(made[0].table["b"])
    assert sum("'near' were not kept" in s for s in made[0].sentences) == 1 and not any(
        "kept" in s for s in made[2].sentences
    )


def test_predictions_not_kept_leave_the_rest(evidence, refuses):
    def none(*_):
        raise StoreError("no predictions here")

    assert [d.name for d in displays(replace(evidence, read_predictions=none))] == [
        "similarity-toy-x",
        "neighbour-enrichment",
    ]
    assert len(displays(replace(evidence, read_truth=none))) == 2  # predictions need no truth
    refuses(
        ["no predictions here", "were not kept"],
        displays,
        replace(evidence, read_predictions=none, read_vectors=none),
        error=StoreError,
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def test_clusters_put_the_alike_side_by_side():
    similarity = np.eye(4)
    for a, b, value in ((0, 2, 0.9), (1, 3, 0.8), (0, 1, 0.2), (0, 3, 0.1), (2, 1, 0.1), (2, 3, np.nan)):
        similarity[a, b] = similarity[b, a] = value
    tree, order = plots.cluster(similarity)
    place = [order.index(k) for k in range(4)]
    assert abs(place[0] - place[2]) == 1 and abs(place[1] - place[3]) == 1
    np.testing.assert_allclose(sorted(tree[:, 2]), [0.1, 0.2, 1 - (0.2 + 0.1 + 0.1 + 0) / 4])
    assert plots.cluster(np.eye(1))[1] == [0]


def test_heat_map_holds_the_numbers_of_the_table(evidence):
    table = likeness(read_all(evidence, "Toy X")[0], "Toy X", permutations=0)
    axes = plots.likeness_plot(table).axes[1]
    names = [t.get_text() for t in axes.get_yticklabels()]
    shown = axes.images[0].get_array()
    for row in table[table["measure"] == "cca"].itertuples():
        assert (
            shown[names.index(row.a), names.index(row.b)]
            == shown[names.index(row.b), names.index(row.a)]
            == row.corrected
        )
    assert len(axes.texts) == 20


def test_many_methods_show_the_best_probe_of_each(evidence):
    base = prediction_pairs(evidence, evidence.tasks[0])
    copies = [
        base.assign(embedding_a=base["embedding_a"] + str(k), embedding_b=base["embedding_b"] + str(k))
        for k in range(3)
    ]
    best = {f"{name}{k}": "knn" for name in ("good", "near", "half", "other") for k in range(3)}
    labels = [t.get_text() for t in plots.predictions_plot(pd.concat(copies), best).axes[1].get_yticklabels()]
    assert len(labels) == 12 and all(label.endswith(", knn") for label in labels)


def test_enrichment_figure_has_a_panel_for_each_task_and_a_line_for_each_embedding(evidence):
    table = enrichment_table(evidence, {"Toy X": read_all(evidence, "Toy X")[0]}, draws=10, permutations=5)
    figure = plots.enrichment_plot(table)
    assert len(figure.axes) == 2
    own = table[(table["context"] == "A") & (table["embedding"] == "half")]
    assert any(np.array_equal(line.get_ydata(), own["enrichment"]) for line in figure.axes[0].lines)
    many = pd.concat([table.assign(screen=f"s{k}") for k in range(8)])
    assert "The first 12 of 16 tasks" in plots.enrichment_plot(many).get_suptitle()

"""Ranks with intervals on simulated boards whose truth is known; sentences against the tables."""

import io
import itertools
import re
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.insight.boards import FOLDS, PERTURBATIONS, SAMPLES, Block, Board, read_boards, task_name
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence
from panmodal.insight.leaderboard import leaderboard, overall
from panmodal.insight.ranking import compare, over_tasks, pair_table, rank_table
from panmodal.insight.ranks import coverage_table, critical_table, displays
from panmodal.insight.resample import sample

TASK = ["screen", "context", "response", "split"]


def simulate(effects, *, n=60, folds=5, contexts=("A",), screen="s", response="lfc", metric="L2", noise=1.0, hard=2.0, seed=0,
             uncovered=None, modality=None, base=20.0, rows=True, unlike=0.0):  # fmt: skip
    """Tables of errors: difficulty of a perturbation (shared by methods and contexts) + effect of the method + noise.

    ``effects``: {embedding or (embedding, probe): effect, or one for each context}.
    """
    rng = np.random.default_rng(seed)
    ids = [f"P{k:04d}" for k in range(n)]
    difficulty = hard * rng.standard_normal(n)
    methods = {("none", "train mean"): 4.0, ("idealised", "ridge"): -8.0}
    methods |= {(k if isinstance(k, tuple) else (k, "knn")): v for k, v in effects.items()}
    tables, scores = [], []
    for c, context in enumerate(contexts):
        for (embedding, probe), effect in methods.items():
            role = {"none": "baseline", "idealised": "oracle"}.get(embedding, "embedding")
            own = effect[c] if np.ndim(effect) else effect
            values = base + difficulty + own + noise * rng.standard_normal(n) + unlike * rng.standard_normal(n)
            gone = (uncovered or {}).get(embedding, set())
            for fold in range(folds):
                at = np.arange(fold, n, folds)
                trial = f"{screen}-{context}-{embedding}-{probe}-{fold}"
                covered = np.array([ids[k] not in gone for k in at])
                tables.append(
                    pd.DataFrame(
                        {"trial": trial, "pert_id": [ids[k] for k in at], "covered": covered, metric: values[at]}
                    )
                )
                everywhere = np.array([all(ids[k] not in g for g in (uncovered or {}).values()) for k in at])
                for fallback, mask in (
                    ("filled", np.ones(len(at), bool)),
                    ("covered", covered),
                    ("common", everywhere),
                ):
                    scores.append({
                        "screen": screen, "context": context, "response": response, "split": "u", "fold": fold, "seed": 42,
                        "embedding": embedding, "probe": probe, "role": role, "modality": (modality or {}).get(embedding, "toy"),
                        "simulated": True, "seen": "no", "fallback": fallback, "metric": metric, "trial": trial,
                        "value": values[at][mask].mean() if mask.any() else np.nan, "n_test": len(at), "n_covered": int(covered.sum()),
                        "n_undefined": 0, "hyperparameters": "{}",
                    })  # fmt: skip
    return Evidence(pd.DataFrame(scores), pd.concat(tables, ignore_index=True) if rows else None)


def join(*parts):
    rows = [e.rows for e in parts if e.rows is not None]
    return Evidence(pd.concat([e.scores for e in parts]), pd.concat(rows) if rows else None)


def one(evidence, draws=400, **options):
    board = read_boards(evidence, **options)[0]
    drawn = sample([board], draws=draws)[0]
    comparison = compare(board, drawn)
    return board, drawn, comparison, rank_table(board, drawn, comparison)


def drawn_boards(effects, *, n=60, folds=5, contexts=("A",), noise=1.0, hard=2.0, seed=0, unlike=0.0):
    """As :func:`simulate`, without tables: quick enough for many boards."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"P{k:04d}" for k in range(n)], dtype=object)
    methods = pd.DataFrame({"embedding": list(effects), "probe": "knn", "role": "embedding", "modality": "toy", "seen": "no",
                            "simulated": True, "coverage": 1.0})  # fmt: skip
    difficulty = hard * rng.standard_normal((n, 1))
    found = []
    for context in contexts:
        spread = np.array([noise, *[np.hypot(noise, unlike)] * (len(effects) - 1)])
        values = 20 + difficulty + np.array(list(effects.values())) + spread * rng.standard_normal((n, len(effects)))
        values = np.hstack([values, values[:, :1] + 4, values[:, :1] - 8])
        blocks = tuple(Block(f, 42, ids[f::folds], values[f::folds]) for f in range(folds))
        board = Board(
            ("s", context, "lfc", "u"), "L2", "filled", PERTURBATIONS, methods, blocks, "train mean", "idealised, ridge"
        )
        found.append(board.pick(np.argsort(board.scores[:-2]).tolist()))
    return found


def one_drawn(effects, draws, **options):
    board = drawn_boards(effects, **options)[0]
    drawn = sample([board], draws=draws)[0]
    return rank_table(board, drawn, compare(board, drawn))


LADDER = {"a": 0.0, "b": 0.1, "c": 3.0}


# --- boards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", ["filled", "common"])
@pytest.mark.parametrize("metric", ["L2", "Pearson"])
def test_scores_and_ranks_are_those_of_the_leaderboard(metric, fallback):
    evidence = simulate(LADDER, metric=metric, contexts=("A", "B"), uncovered={"b": {"P0001", "P0007"}})
    found = leaderboard(evidence.scores, metric=metric, fallback=fallback, rows=evidence.rows)
    for board in read_boards(evidence, metric=metric, fallback=fallback):
        drawn = sample([board], draws=20)[0]
        table = rank_table(board, drawn, compare(board, drawn))
        own = found[(found["context"] == board.task[1]) & (found["role"] == "embedding")]
        assert list(table["embedding"]) == list(own["embedding"]) and list(table["rank"]) == list(own["rank"])
        np.testing.assert_allclose(table["score"], own["mean"])
        np.testing.assert_allclose(board.scores[-2:], own.iloc[0][["floor", "ceiling"]].astype(float))
        np.testing.assert_allclose(table["coverage"], own["coverage"])
        assert board.n_ids == (60 if fallback == "filled" else 58)


def test_undefined_values_count_as_no_skill_or_are_left_out():
    for metric, value in (("Pearson_centred", 0.0), ("Pearson", np.nan)):
        evidence = simulate(LADDER, metric=metric)
        evidence.rows.loc[
            evidence.rows["trial"].str.contains("-b-") & (evidence.rows["pert_id"] == "P0000"), metric
        ] = np.nan
        board = read_boards(evidence, metric=metric)[0]
        k = list(board.methods["embedding"]).index("b")
        np.testing.assert_equal(board.blocks[0].values[0, k], value)
        assert np.isfinite(sample([board], draws=50)[0]).all()


def test_a_method_without_scores_is_named_and_not_ranked():
    evidence = simulate(LADDER)
    evidence.rows.loc[evidence.rows["trial"].str.contains("-b-"), "L2"] = np.nan
    board = read_boards(evidence)[0]
    assert list(board.methods["embedding"]) == ["a", "c"] and board.left_out == ("b with knn",)
    assert any("b with knn" in s for d in displays(evidence, draws=50) for s in d.sentences)


def test_the_probe_of_an_embedding_is_chosen_on_the_other_folds():
    evidence = simulate({("a", "knn"): -2.0, ("a", "ridge"): 0.0, ("b", "knn"): 1.0}, n=20, hard=0.0)
    at = evidence.rows["trial"].str.contains("-a-ridge-0")
    evidence.rows.loc[at, "L2"] = -100.0  # ridge shines in fold 0 only
    whole = read_boards(evidence)[0]
    methods = {key: k for k, key in enumerate(whole.keys)}
    board = read_boards(evidence, unit="embedding")[0]
    k = board.keys.index(("a",))
    folds = whole.fold_scores[:, [methods["a", "knn"], methods["a", "ridge"]]]
    for f in range(5):
        others = np.delete(folds, f, axis=0).mean(axis=0)
        assert board.fold_scores[f, k] == folds[f, np.argmin(others)]
    assert board.unit == "embedding" and board.methods["probe"][k] == "knn in 1, ridge in 4"
    assert board.scores[k] > whole.scores[methods["a", "ridge"]]


def test_choosing_the_probe_does_not_flatter():
    """Ten equal probes: the best on the same data looks better than one probe; the choice on other folds does not."""
    same, other = [], []
    for seed in range(15):
        evidence = simulate({("a", f"p{k}"): 0.0 for k in range(10)} | {("b", "p0"): 0.0}, n=30, hard=0.0, seed=seed)
        board = read_boards(evidence, unit="embedding")[0]
        truth = board.scores[board.keys.index(("b",))]
        other.append(board.scores[board.keys.index(("a",))] - truth)
        methods = read_boards(evidence)[0]
        same.append(min(s for s, key in zip(methods.scores, methods.keys, strict=False) if key[0] == "a") - truth)
    assert abs(np.mean(other)) < 0.1 < -np.mean(same)


def test_refusals(refuses):
    evidence = simulate(LADDER)
    refuses(["no metric 'x'"], read_boards, evidence, metric="x")
    refuses(["covered"], read_boards, evidence, fallback="covered")
    refuses(["no unit 'x'"], read_boards, evidence, unit="x")
    refuses(["no results for probe", "'x'", "knn"], read_boards, evidence, probes=["x"])
    refuses(["no scores of metric MSE"], read_boards, evidence, metric="MSE")
    refuses(["no scores", "control"], read_boards, evidence, roles=["control"])
    refuses(["0 bootstrap draws"], sample, read_boards(evidence), draws=0)
    refuses(["no ceiling 'x'", "idealised"], read_boards, evidence, ceiling="x")
    single = simulate({("a", "knn"): 0.0, ("a", "ridge"): 0.0}, folds=1)
    refuses(["one fold", "'a'", "unit='method'"], read_boards, single, unit="embedding")
    board, _, comparison, _ = one(evidence)
    refuses(["do not fit"], pair_table, board.methods.head(2), comparison, error=InputError)


# --- resampling ------------------------------------------------------------------------------------------------------


def test_samples_are_weighted_means_and_the_same_for_all_methods_and_contexts():
    evidence = simulate({"a": 0.0, "twin": 0.0}, contexts=("A", "B"), noise=0.0)
    boards = read_boards(evidence)
    one, other = sample(boards, draws=900)
    np.testing.assert_allclose(one[:, 0], one[:, 1])  # no noise: methods are the same on the same perturbations
    np.testing.assert_allclose(one[:, 0], other[:, 0])  # and so are contexts
    values = np.concatenate([b.values[:, 0] for b in boards[0].blocks])
    within = np.mean([b.values[:, 0].var(ddof=1) / len(b.values) for b in boards[0].blocks]) / 5
    assert one[:, 0].std() == pytest.approx(np.sqrt(within), rel=0.1) and len(values) == 60
    np.testing.assert_array_equal(one, sample(boards, draws=900)[0])
    assert not np.array_equal(one, sample(boards, draws=300, seed=1)[0])
    assert not np.allclose(
        one[:, 0], sample(read_boards(simulate({"a": 0.0}, screen="t", noise=0.0)), draws=900)[0][:, 0]
    )


def test_weights_by_hand():
    from panmodal.insight.resample import weighted_mean

    values = np.array([[1.0, np.nan], [3.0, 5.0]])
    found = weighted_mean(np.array([[1.0, 1.0], [2.0, 0.0]]), values)
    np.testing.assert_array_equal(found, [[2.0, 5.0], [1.0, np.nan]])


def test_score_intervals_cover_the_truth_nearly_as_often_as_they_say():
    hits = total = 0
    for seed in range(120):
        table = one_drawn({"a": 0.0, "b": 1.0}, n=100, seed=seed, hard=0.0, draws=300)
        truth = table["embedding"].map({"a": 20.0, "b": 21.0})
        hits += ((table["score_low"] <= truth) & (truth <= table["score_high"])).sum()
        total += 2
    assert 0.91 <= hits / total <= 0.98


def test_rank_intervals_hold_the_true_rank():
    effects = {f"e{k}": 0.25 * k for k in range(6)}
    hits = total = 0
    for seed in range(60):
        table = one_drawn(effects, n=60, seed=seed, draws=200)
        truth = table["embedding"].str[1:].astype(int) + 1
        hits += ((table["rank_low"] <= truth) & (truth <= table["rank_high"])).sum()
        total += len(truth)
        # what the tests leave open is wider, and never excludes the rank of the scores
        assert ((table["at_best"] <= table["rank"]) & (table["rank"] <= table["at_worst"])).all()
    assert hits / total >= 0.9


def test_chance_of_best_is_about_right():
    """Effects drawn anew each time, as wide as twice the error of a score: the leader is the best about as often as it says."""
    said, held = [], []
    rng = np.random.default_rng(1)
    for seed in range(120):
        effects = dict(zip("abcd", rng.normal(0, 2 / np.sqrt(40), 4), strict=True))
        table = one_drawn(effects, n=40, seed=seed, hard=0.0, draws=200)
        said.append(table["p_best"].iloc[0])
        held.append(min(effects, key=effects.get) == table["embedding"].iloc[0])
        assert table["p_best"].sum() == pytest.approx(1)
    assert abs(np.mean(said) - np.mean(held)) < 0.12
    sure = np.array(said) > 0.9
    assert np.mean(np.array(held)[sure]) > 0.8


@pytest.mark.parametrize("unlike", [0.0, 3.0])
def test_equal_methods_are_told_apart_in_fewer_than_alpha_of_the_boards(unlike):
    found = over = 0
    for seed in range(120):
        boards = drawn_boards(dict.fromkeys("abcde", 0.0), contexts=("A", "B"), n=50, seed=seed, unlike=unlike)
        drawn = sample(boards, draws=20)
        found += compare(boards[0], drawn[0]).distinguishable.any()
        over += over_tasks(boards, drawn)[0].comparison.distinguishable.any()
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / 120)
    assert found / 120 <= limit and over / 120 <= limit


def test_a_clear_order_is_found():
    board, _, comparison, table = one(simulate(LADDER))
    assert list(table["embedding"])[-1] == "c" and table["p_best"].iloc[-1] == 0 and table["rank_low"].iloc[-1] == 3
    assert (
        list(table["groups"]) == ["a", "a", "b"]
        and list(table["at_worst"]) == [2, 2, 3]
        and list(table["at_best"]) == [1, 1, 3]
    )
    assert comparison.test == "Wilcoxon over perturbations" and comparison.n_blocks == 60 and board.by == PERTURBATIONS
    pairs = pair_table(board.methods, comparison)
    assert len(pairs) == 3 and pairs["distinguishable"].sum() == 2
    assert (pairs.loc[pairs["distinguishable"], "p_beats"] == 1).all()


def test_typical_and_mean_values_that_disagree_are_not_distinguishable():
    evidence = simulate({"a": 0.0, "b": -0.5}, noise=0.0, hard=0.0)
    at = evidence.rows["trial"].str.contains("-b-") & evidence.rows["pert_id"].isin(["P0003", "P0004"])
    evidence.rows.loc[at, "L2"] += 100.0  # b is better on 58 perturbations and far worse on 2
    _, _, comparison, table = one(evidence)
    assert table["embedding"].iloc[0] == "a" and comparison.contradictory == 1 and not comparison.distinguishable.any()
    assert any("typical and mean values disagree" in s for d in displays(evidence, draws=50) for s in d.sentences)


@given(st.permutations("abcd"))
@settings(max_examples=8)
def test_the_order_of_methods_does_not_matter(names):
    effects = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 0.9}
    evidence = simulate(effects, n=30)
    order = {n: k for k, n in enumerate(names)}
    shuffled = Evidence(
        evidence.scores.sort_values("embedding", key=lambda s: s.map(order).fillna(9), kind="stable"), evidence.rows
    )
    pd.testing.assert_frame_equal(one(shuffled)[3], one(evidence)[3])


# --- scores without values of perturbations ---------------------------------------------------------------------------


def test_scores_of_folds_alone_are_resampled_by_fold_and_say_so():
    board, drawn, comparison, table = one(simulate(LADDER, rows=False))
    assert board.by == FOLDS and board.n_ids == 0 and comparison.test == "Wilcoxon over folds"
    assert comparison.least_p == pytest.approx(3 / 16) and not comparison.distinguishable.any()
    folds = board.fold_scores[:, 0]
    assert drawn[:, 0].std() == pytest.approx(folds.std(ddof=1) / np.sqrt(5), rel=0.1)
    assert table["score_low"].notna().all()
    said = " ".join(s for d in displays(simulate(LADDER, rows=False), draws=100) for s in d.sentences)
    assert "too narrow with few folds (5 here)" in said and "cannot tell any of 3 methods apart" in said


def test_one_fold_has_no_interval():
    table = one(simulate(LADDER, rows=False, folds=1))[3]
    assert table[["rank_low", "score_low", "p_best"]].isna().all(axis=None) and list(table["rank"]) == [1, 2, 3]
    assert displays(simulate(LADDER, rows=False, folds=1), draws=50)


def of_genes(seed=0, bias=0.05):
    evidence = simulate(
        {"a": -0.3, "b": -0.28, "c": 0.2}, metric="F1", response="deg", base=0.5, noise=0.01, hard=0.0, rows=False
    )
    rng = np.random.default_rng(seed)
    own = evidence.scores[evidence.scores["fallback"] == "filled"]
    shared = {f: 0.05 * rng.standard_normal(200) for f in range(5)}
    records = [{**{c: getattr(r, c) for c in [*TASK, "fold", "seed", "trial", "metric"]}, "estimator": "",
                "draws": list(r.value - bias + shared[r.fold] + 0.01 * rng.standard_normal(200))} for r in own.itertuples()]  # fmt: skip
    return Evidence(evidence.scores, None, resampled=pd.DataFrame(records))


def test_metrics_of_genes_take_their_stored_samples_about_the_score():
    board, drawn, comparison, table = one(of_genes(), draws=400)
    assert (
        board.by == SAMPLES
        and comparison.test == "bootstrap of the difference"
        and list(table["embedding"]) == ["c", "b", "a"]
    )
    np.testing.assert_allclose(drawn.mean(axis=0)[:3], table["score"])  # the shift of the samples is taken out
    assert drawn[:, 0].std() == pytest.approx(np.sqrt(0.05**2 + 0.01**2) / np.sqrt(5), rel=0.2)
    assert comparison.distinguishable[0, 1:].all() and table["p_best"].iloc[0] == 1
    assert read_boards(of_genes(), fallback="common")[0].by == FOLDS


# --- over tasks ------------------------------------------------------------------------------------------------------


def test_over_tasks_agrees_with_the_leaderboard_and_with_itself():
    evidence = join(simulate(LADDER, contexts=("A", "B")), simulate({"a": 1.0, "b": 0.0, "c": 3.0}, screen="t", seed=1))
    boards = read_boards(evidence)
    panel = over_tasks(boards, sample(boards, draws=900))[0]
    table = panel.table.set_index("embedding")
    known = overall(leaderboard(evidence.scores, rows=evidence.rows)).set_index("embedding").loc[table.index]
    np.testing.assert_allclose(table["mean_rank"], known["mean_rank"])
    np.testing.assert_allclose(table["mean_gap_closed"], known["mean_gap_closed"])
    np.testing.assert_array_equal(table["wins"], known["wins"])
    assert (table["tasks"] == 3).all() and table["p_best"].sum() == pytest.approx(1) and (table["gap_tasks"] == 3).all()
    for name in ("mean_rank", "wins", "mean_gap_closed"):
        assert ((table[f"{name}_low"] <= table[name] + 1e-9) & (table[name] <= table[f"{name}_high"] + 1e-9)).all()
    assert panel.comparison.n_blocks == 15 and panel.where == "3 tasks of s, t" and panel.apart == ()
    assert table.loc["c", "mean_rank"] == 1 and table.loc["c", "p_best"] == 0


def test_only_methods_of_the_same_tasks_are_compared():
    evidence = join(simulate(LADDER | {"alone": -9.0}, contexts=("A",)), simulate(LADDER, screen="t", seed=1),
                    simulate({"x": 0.0, "y": 1.0}, screen="u", contexts=("A", "B"), seed=2))  # fmt: skip
    boards = read_boards(evidence)
    panels = over_tasks(boards, sample(boards, draws=50))
    assert [sorted(p.table["embedding"]) for p in panels] == [["a", "b", "c"], ["x", "y"]]
    assert "alone with knn" in panels[0].apart and panels[0].table["mean_rank"].min() < 0.5
    names = [d.name for d in displays(evidence, draws=50)]
    assert {"ranks-methods", "ranks-methods-2", "critical-difference", "critical-difference-2"} <= set(names)


def test_tasks_of_one_unit_do_not_outweigh_others():
    """A task of large numbers and noise, and one of small ones: the pair test looks at both alike."""
    loud = simulate({"a": 0.0, "b": 0.0}, noise=1000.0, base=1e4)
    quiet = simulate({"a": 0.0, "b": 0.5}, screen="t", noise=0.05, contexts=tuple("ABCDEF"))
    boards = read_boards(join(loud, quiet))
    panel = over_tasks(boards, sample(boards, draws=50))[0]
    assert panel.comparison.distinguishable[0, 1] and panel.table["embedding"].iloc[0] == "a"


def test_critical_table_orders_by_average_rank():
    board, _, comparison, _ = one(simulate({"c": 3.0, "a": 0.0, "b": 0.1}))
    table = critical_table(board.methods, comparison)
    assert table["average_rank"].is_monotonic_increasing and table["embedding"].iloc[-1] == "c"
    assert table["average_rank"].mean() == pytest.approx(2)


# --- displays --------------------------------------------------------------------------------------------------------


def rich():
    return simulate(
        {(e, p): v + d for e, v in {"a": 0.0, "b": 0.2, "c": 2.0}.items() for p, d in (("knn", 0.0), ("ridge", 0.1))},
        contexts=("A", "B"), uncovered={"c": {f"P{k:04d}" for k in range(20)}}, modality={"a": "text", "b": "network", "c": "network"},
    )  # fmt: skip


def test_displays_have_names_tables_sentences_and_figures():
    from matplotlib.figure import Figure

    found = displays(rich(), draws=200)
    names = [d.name for d in found]
    assert len(set(names)) == len(names) and all(re.fullmatch("[a-z0-9-]+", n) for n in names)
    assert names == ["ranks-methods", "ranks-embeddings", "critical-difference", "pairs", "chance-of-best", "ranks-s-a", "ranks-s-b",
                     "coverage", "families", "families-by-task"]  # fmt: skip
    for display in found:
        assert isinstance(display, Display) and len(display.table) and display.about and display.sentences
        assert all(s.endswith(".") and "nan" not in s for s in display.sentences)
        if display.draw is not None:
            figure = display.plot()
            assert isinstance(figure, Figure)
            figure.savefig(io.BytesIO())


def by_name(found):
    return {d.name: d for d in found}


def test_sentences_say_what_the_tables_hold():
    found = by_name(displays(rich(), draws=200))
    table, said = found["ranks-s-a"].table, found["ranks-s-a"].sentences
    first = table.iloc[0]
    assert said[0].startswith(
        f"s, A: {first['embedding']} with {first['probe']} comes first; its chance of being the best of 6 is"
    )
    share = first["p_best"]
    assert ("above 99 %" if share >= 0.995 else f"{100 * share:.0f} %") in said[0]
    same = set(first["groups"].split())
    alike = next(s for s in said if "distinguishable from" in s)
    for row in table.iloc[1:].itertuples():
        if same & set(row.groups.split()):
            assert f"{row.embedding} with {row.probe}" in alike
        if row.p_leader < 0.05 and row.at_best > 1:
            assert f" {row.embedding} with {row.probe}" not in alike.partition(":")[2].partition(":")[2]
    assert any("coverage differs, from 67 % (c) to 100 %" in s for s in said)
    over = found["ranks-embeddings"]
    lead = over.table.iloc[0]
    assert f"ranks first on {lead['wins']:.3g} of 2" in over.sentences[1]
    assert f"{100 * lead['mean_gap_closed']:.0f} % of the gap" in over.sentences[1]
    pairs = found["pairs"].table
    assert found["pairs"].sentences[0].startswith(f"{pairs['distinguishable'].sum()} of {len(pairs)} pairs")
    chance = found["chance-of-best"].table
    sure = chance.loc[chance["p_best"] >= 0.95, "task"].nunique()
    assert found["chance-of-best"].sentences[0].startswith(f"On {sure} of 2 tasks")
    assert (
        found["chance-of-best"]
        .sentences[1]
        .startswith(f"{chance.loc[chance['rank'] == 1, 'embedding'].nunique()} embedding(s)")
    )


def test_coverage_is_told_where_the_leader_changes():
    hard = {f"P{k:04d}" for k in range(0, 60, 2)}
    evidence = simulate({"broad": 0.0, "narrow": 0.0}, noise=0.0, hard=0.0, uncovered={"narrow": hard})
    at = evidence.rows["trial"].str.contains("-narrow-")
    evidence.rows.loc[at, "L2"] += np.where(evidence.rows[at]["pert_id"].isin(hard), 4.0, -2.0)
    display = by_name(displays(evidence, draws=100))["coverage"]
    rows = display.table.set_index("embedding")
    assert rows["rank_filled"].to_dict() == {"broad": 1, "narrow": 2} and rows["rank_common"].to_dict() == {
        "broad": 2,
        "narrow": 1,
    }
    assert (rows["n_filled"] == 60).all() and (rows["n_common"] == 30).all()
    assert display.sentences == ("s, A: broad leads on all ids, narrow on 30 of 60 perturbations, so that the first place is a matter of "
                                 "coverage; 2 of 2 ranks change (coverage 50 to 100 %).",)  # fmt: skip


def test_coverage_without_any_common_id_and_without_gaps():
    half = [{f"P{k:04d}" for k in range(60) if k % 2 == j} for j in (0, 1)]
    display = by_name(displays(simulate({"a": 0.0, "b": 1.0}, uncovered={"a": half[0], "b": half[1]}), draws=50))[
        "coverage"
    ]
    assert (
        "no perturbation is covered by all embeddings (coverage 50 to 50 %)" in display.sentences[0]
        and display.draw is None
    )
    assert "coverage" not in by_name(displays(simulate({"a": 0.0, "b": 1.0}), draws=50))
    board = read_boards(simulate(LADDER))[0]
    assert coverage_table(board, None)["rank_common"].isna().all()


def test_one_method_and_many_tasks():
    found = by_name(displays(simulate({"a": 0.0}), draws=50))
    assert list(found) == ["ranks-s-a"]
    assert any("one method only" in s for s in found["ranks-s-a"].sentences)
    many = displays(simulate({"a": 0.0, "b": 0.2}, contexts=tuple("ABCDEFGHIJ"), n=20), draws=50)
    assert sum(d.name.startswith("ranks-s-") for d in many) == 8
    assert any("The other 2 tasks have no figure of their own." in d.sentences for d in many)


def test_tasks_are_named_by_what_tells_them_apart():
    tasks = [("s", "A", "lfc", "u"), ("s", "A", "deg", "u")]
    assert task_name(tasks[1], tasks) == "s, A, deg" and task_name(tasks[0], tasks[:1]) == "s, A"


def test_data_seen_in_training_are_told():
    evidence = simulate(LADDER, contexts=("A", "B"))
    scores = evidence.scores.assign(seen=np.where(evidence.scores["embedding"] == "b", "yes", "no"))
    found = by_name(displays(Evidence(scores, evidence.rows), draws=50))
    assert any("trained on data ranked here, beware: b." in s for s in found["ranks-methods"].sentences)
    assert found["ranks-methods"].table.set_index("embedding")["seen_on"].to_dict() == {"a": 0, "b": 2, "c": 0}


def test_large_results_are_quick():
    effects = {(f"e{k}", p): 0.05 * k for k, p in itertools.product(range(15), ("knn", "ridge"))}
    evidence = simulate(effects, n=500, contexts=tuple("ABCD"))
    start = time.perf_counter()
    displays(evidence)
    assert time.perf_counter() - start < 15


def test_coverage_that_is_not_known_is_said_to_be():
    from panmodal.insight.rank_words import uneven

    table = pd.DataFrame({"embedding": ["a", "b"], "coverage": [float("nan"), 1.0]})
    assert uneven(table["coverage"], table, "here") == "here: the coverage of 1 of 2 methods is not known."
    assert uneven(pd.Series([0.99, 1.0]), table, "here") == ""

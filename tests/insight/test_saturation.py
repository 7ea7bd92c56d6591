"""What is solved, by whom, and who leads on the rest, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from panmodal.insight.evidence import Evidence
from panmodal.insight.leaderboard import leaderboard
from panmodal.insight.predictability import panel
from panmodal.insight.saturation import CLASSES, boards, curve, representatives, saturation, solved, subsets

TASK = ("s", "c", "lfc", "u")
ROLES = {"none": "baseline", "random": "control", "idealised": "oracle"}


def make(values, ceilings=None, metric="L2", folds=2, seeds=(42,), uncovered=(), estimators=("experimental_error",)):
    """{(embedding, probe): value of each perturbation}; perturbation k lies in fold k % folds."""
    scores, rows, bounds = [], [], []
    task = dict(zip(("screen", "context", "response", "split"), TASK, strict=True))
    n = len(next(iter(values.values())))
    for seed in seeds:
        for (embedding, probe), own in values.items():
            for fold in range(folds):
                trial = f"{embedding}-{probe}-{fold}-{seed}"
                test = range(fold, n, folds)
                labels = {**task, "fold": fold, "seed": seed, "embedding": embedding, "probe": probe, "trial": trial, "metric": metric,
                          "role": ROLES.get(embedding, "embedding"), "modality": "toy", "simulated": True, "n_test": len(test),
                          "n_covered": len(test), "hyperparameters": "{}", "value": np.mean([own[k] for k in test])}  # fmt: skip
                scores += [{**labels, "fallback": f} for f in ("filled", "covered", "common")]
                for k in test:
                    covered = not (embedding == "a" and f"P{k}" in uncovered)
                    rows.append({"trial": trial, "pert_id": f"P{k}", "covered": covered, metric: float(own[k])})
        for estimator in estimators:
            for k, value in enumerate(ceilings if ceilings is not None else ()):
                bounds.append(
                    {
                        **task,
                        "fold": k % folds,
                        "seed": seed,
                        "estimator": estimator,
                        "pert_id": f"P{k}",
                        metric: float(value),
                    }
                )
    return Evidence(pd.DataFrame(scores), pd.DataFrame(rows), pd.DataFrame(bounds) if bounds else None)


VALUES = {
    ("none", "no change"): [10] * 12,
    ("none", "train mean"): [1, 2, 3, 6, 6, 6, 7, 7, 7, 9, 9, 9],
    ("a", "knn"): [4, 4, 4, 4, 4, 4, 6, 6, 6, 8, 8, 8],
    ("a", "ridge"): [9] * 12,
    ("b", "knn"): [1, 1, 1, 3, 6, 6, 7, 7, 7, 4, 4, 7],
    ("random", "knn"): [2, 2, 2, 6, 6, 6, 7, 7, 7, 9, 9, 9],
    ("idealised", "knn"): [0] * 12,
}


def both(evidence, **options):
    found = panel(evidence, TASK)
    return found, solved(evidence, found, **options)


def test_classes_without_a_ceiling():
    found, status = both(make(VALUES))
    row = saturation(found, status).iloc[0]
    # Solved at 5 or less: floor P0-2; a P0-5; b P0-3, P9, P10.
    assert row[list(CLASSES)].tolist() == pytest.approx([3 / 12, 1 / 12, 4 / 12, 4 / 12])
    assert row["floor_by"] == "train mean" and row["n"] == 12 and row["n_embeddings"] == 2 and row["n_unknown"] == 0
    assert row["best"] == "b with knn" and row["best_share"] == pytest.approx(6 / 12)
    assert row["control_share"] == pytest.approx(3 / 12) and row["oracle_share"] == 1
    assert "50 % of the way from 'no change'" in row["rule"]
    assert [found.name(k) for k in representatives(found)] == ["a with knn", "b with knn"]


def test_the_threshold_is_a_share_of_the_way():
    found, status = both(make(VALUES), threshold=0.8)
    np.testing.assert_allclose(status.way[:, list(found.methods["probe"]).index("train mean")][0], 0.9)
    assert saturation(found, status)["solved by the floor"].iloc[0] == pytest.approx(2 / 12)


def test_a_ceiling_decides_where_there_is_one():
    bounds = [0.5, 2, 2, 5, 5, 5, 6, 6, 6, np.nan, 4, 4]
    evidence = make(VALUES, bounds, estimators=("disjoint_halves", "experimental_error"))
    found, status = both(evidence)
    row = saturation(found, status).iloc[0]
    assert row["n"] == 11 and row["n_unknown"] == 1 and "disjoint halves ceiling" in row["rule"]
    # Floor: P1 (by place in sorted ids); a: P3-P8; b: P1, P2, P3, P10.
    assert row[list(CLASSES)].tolist() == pytest.approx([1 / 11, 1 / 11, 7 / 11, 2 / 11])
    assert solved(evidence, found, estimator="experimental_error").estimator == "experimental_error"


def test_metrics_where_higher_is_better_turn_round():
    turned = {m: [1 - v / 10 for v in own] for m, own in VALUES.items()}
    turned["none", "no change"] = [np.nan] * 12
    found, status = both(make(turned, metric="Pearson"))
    plain = saturation(*both(make(VALUES))).iloc[0]
    row = saturation(found, status).iloc[0]
    np.testing.assert_allclose(row[list(CLASSES)].astype(float), plain[list(CLASSES)].astype(float))


def test_zero_responses_are_solved_by_what_is_as_good():
    values = {m: [0.0 if m[1] == "no change" else 1.0, *own[1:]] for m, own in VALUES.items()}
    found, status = both(make(values))
    first = dict(
        zip(zip(found.methods["embedding"], found.methods["probe"], strict=True), status.solved[0], strict=True)
    )
    assert first["none", "no change"] and not first["b", "knn"]


def test_subsets_are_chosen_by_the_floor_alone():
    found, status = both(make(VALUES))
    chosen = subsets(found, status)
    assert set(chosen["resistant"]) == {f"P{k}" for k in range(3, 12)} and len(chosen["all"]) == 12
    assert set(chosen["hardest half"]) == {f"P{k}" for k in range(6, 12)}
    # Other embeddings, the same subsets.
    rng = np.random.default_rng(0)
    other = {m: own if m[0] == "none" else list(rng.uniform(0, 10, 12)) for m, own in VALUES.items()}
    assert subsets(*both(make(other))) == chosen


def test_no_hardest_half_where_the_floor_scores_all_alike():
    values = VALUES | {("none", "train mean"): [6.0] * 12}
    assert set(subsets(*both(make(values)))) == {"all", "resistant"}


@pytest.mark.parametrize("seeds", [(42,), (42, 7)])
def test_boards_are_means_over_folds_of_what_is_left(seeds):
    evidence = make(VALUES, seeds=seeds, uncovered=("P9",))
    found, status = both(evidence)
    chosen = subsets(found, status)
    table = boards(evidence, found, chosen)
    for name, ids in chosen.items():
        own = table[table["subset"] == name].set_index(["embedding", "probe"])
        kept = sorted(int(i[1:]) for i in ids)
        for method, values in VALUES.items():
            per_fold = [np.mean([values[k] for k in kept if k % 2 == f]) for f in (0, 1)]
            assert own.loc[method, "mean"] == pytest.approx(np.mean(per_fold))
            common = [np.mean([values[k] for k in kept if k % 2 == f and k != 9]) for f in (0, 1)]
            assert own.loc[method, "common"] == pytest.approx(np.mean(common))
        assert (own["n_perturbations"] == len(ids)).all()
    whole = table[table["subset"] == "all"].set_index(["embedding", "probe"])
    plain = leaderboard(evidence.scores).set_index(["embedding", "probe"])
    assert whole["mean"].to_dict() == pytest.approx(plain["mean"].to_dict())
    assert whole["rank"].dropna().to_dict() == plain["rank"].dropna().to_dict()
    hard = table[table["subset"] == "hardest half"].set_index(["embedding", "probe"])
    assert hard["rank_all"].dropna().to_dict() == whole["rank"].dropna().to_dict()


def test_small_subsets_have_no_board(refuses):
    evidence = make(VALUES)
    found, _ = both(evidence)
    ids = [f"P{k}" for k in range(12)]
    assert set(boards(evidence, found, {"all": ids, "few": ids[:4]})["subset"]) == {"all"}
    refuses(["no subset has 5"], boards, evidence, found, {"few": ids[:4]})
    refuses(["perturbations.parquet"], boards, Evidence(evidence.scores), found, {"all": ids})


def test_curves_fall_and_meet_the_shares():
    found, status = both(make(VALUES))
    table = curve(found, status)
    assert (table[["floor", "best", "any", "all"]].diff().dropna() <= 0).all(axis=None)
    half = table[table["threshold"] == 0.5].iloc[0]
    assert half["floor"] == pytest.approx(3 / 12) and half["best"] == pytest.approx(6 / 12)
    assert half["any"] == pytest.approx(8 / 12) and half["all"] == pytest.approx(4 / 12)


def test_what_cannot_be_told_is_refused(refuses):
    evidence = make(VALUES)
    found = panel(evidence, TASK)
    for threshold in (0, 1.5, -1):
        refuses(["threshold", "at most 1"], solved, evidence, found, threshold=threshold)
    refuses(["no ceiling 'halves' of L2", "there is none"], solved, evidence, found, estimator="halves")
    bounded = make(VALUES, [1.0] * 12)
    refuses(["there are experimental_error"], solved, bounded, panel(bounded, TASK), estimator="halves")
    bare = make({m: v for m, v in VALUES.items() if m[1] != "no change"})
    refuses(["neither a ceiling nor"], solved, bare, panel(bare, TASK))
    empty = make({m: v for m, v in VALUES.items() if m[0] in ROLES})
    refuses(["no embedding"], saturation, *both(empty))
    refuses(["no embedding"], curve, *both(empty))

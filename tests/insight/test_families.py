"""Modalities: expected best by brute force, known winners, fairness to size, sentences against tables."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.insight.boards import PERTURBATIONS, Block, Board
from panmodal.insight.families import (
    GAP,
    RANK,
    expected_best,
    families,
    families_over_tasks,
    family_sentences,
    task_families,
)
from panmodal.insight.rank_plots import family_plot
from panmodal.insight.ranking import over_tasks
from panmodal.insight.resample import sample


def board(errors, modality, *, context="A", seed=0, n=60, noise=1.0, floor=10.0, ceiling=2.0, unit="embedding"):
    """Errors of embeddings about their level; floor and ceiling are levels, too."""
    rng = np.random.default_rng(seed)
    levels = np.array([*errors.values(), floor, ceiling])
    values = (
        levels
        + rng.standard_normal((n, 1))
        + np.where(np.isfinite(levels), noise, 0) * rng.standard_normal((n, len(levels)))
    )
    methods = pd.DataFrame({"embedding": list(errors), "probe": "knn", "role": "embedding", "modality": [modality[e] for e in errors],
                            "seen": "no", "simulated": True, "coverage": 1.0})  # fmt: skip
    ids = np.array([f"P{k:03d}" for k in range(n)], dtype=object)
    blocks = tuple(Block(f, 1, ids[f::5], values[f::5]) for f in range(5))
    return Board(
        ("s", context, "lfc", "u"), "L2", "filled", PERTURBATIONS, methods, blocks, "train mean", "idealised", (), unit
    )


MODALITY = {"a": "text", "b": "network", "c": "network", "d": "network"}
ERRORS = {"a": 6.0, "b": 5.0, "c": 9.0, "d": 9.0}


def table_of(made, draws=300):
    return task_families(made, sample([made], draws=draws)[0])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.data())
def test_expected_best_is_the_mean_over_all_subsets(values, data):
    size = data.draw(st.integers(1, len(values)))
    brute = np.mean([max(s) for s in itertools.combinations(values, size)])
    assert expected_best(np.array(values), size) == pytest.approx(brute, abs=1e-9)


def test_expected_best_of_rows_and_refusals(refuses):
    values = np.array([[1.0, 3.0], [4.0, 2.0]])
    np.testing.assert_array_equal(expected_best(values, 1), [2, 3])
    np.testing.assert_array_equal(expected_best(values, 2), [3, 4])
    for size in (0, 3):
        refuses(["best of", "2 members"], expected_best, values, size)


def test_best_and_mean_member_can_name_different_modalities():
    table = table_of(board(ERRORS, MODALITY)).set_index("modality")
    assert table.index[0] == "network" and table.loc["network", "best_embedding"] == "b"
    assert (
        table.loc["network", "p_best"] == 1
        and table.loc["text", "p_best_mean"] == 1
        and table.loc["text", "p_best_of"] == 1
    )
    assert dict(table["embeddings"]) == {"network": 3, "text": 1} and table["share"].sum() == 1
    assert (table["scale"] == GAP).all() and (table["best_of_size"] == 1).all()
    np.testing.assert_allclose(table["best_of"], table["mean"])
    assert table.loc["text", "best"] == pytest.approx((10 - 6) / (10 - 2), abs=0.1)
    assert table.loc["network", "rank_best"] == 1 and table.loc["network", "rank_mean"] == pytest.approx(
        (1 + 3 + 4) / 3
    )
    for name in ("best", "mean"):
        assert ((table[f"{name}_low"] <= table[name]) & (table[name] <= table[f"{name}_high"])).all()


def test_without_floor_or_ceiling_the_scale_is_the_rank():
    table = table_of(board(ERRORS, MODALITY, ceiling=np.nan)).set_index("modality")
    assert (table["scale"] == RANK).all() and table.loc["network", "best"] == 1
    assert table.loc["text", "mean"] == pytest.approx(2 / 3)


def test_a_large_family_of_equals_wins_by_its_share_and_not_by_its_mean():
    """All embeddings are equal: the family of nine holds the best nine times in ten, no more often than its share says."""
    errors = {f"e{k}": 6.0 for k in range(10)}
    modality = {f"e{k}": "one" if k == 0 else "many" for k in range(10)}
    held, ahead, chance = [], [], []
    for seed in range(120):
        table = table_of(board(errors, modality, seed=seed, noise=2.0), draws=60).set_index("modality")
        held.append(table.index[0] == "many")
        ahead.append(table.loc["many", "mean"] > table.loc["one", "mean"])
        chance.append(table.loc["many", "p_best"])
    assert abs(np.mean(held) - 0.9) < 0.09 and abs(np.mean(chance) - 0.9) < 0.09
    assert abs(np.mean(ahead) - 0.5) < 0.15


def panel(**options):
    boards = [board(ERRORS, MODALITY, **options), board(ERRORS | {"a": 3.0}, MODALITY, context="B", seed=1, **options)]
    return over_tasks(boards, sample(boards, draws=300))[0]


def test_over_tasks():
    found = panel()
    table = families_over_tasks(found).set_index("modality")
    tasks = [task_families(b, s).set_index("modality") for b, s in zip(found.boards, found.samples, strict=True)]
    for name in ("best", "mean", "best_of", "rank_best", "rank_mean"):
        np.testing.assert_allclose(table[name], (tasks[0][name] + tasks[1][name]).loc[table.index] / 2)
    assert dict(table["wins"]) == {"text": 1, "network": 1} and (table["tasks"] == 2).all()
    assert (table["wins_low"] <= 1).all() and (table["wins_high"] >= 1).all()
    assert table["p_best"].sum() == pytest.approx(1)


def test_tasks_of_two_scales_are_put_on_ranks():
    boards = [board(ERRORS, MODALITY), board(ERRORS, MODALITY, context="B", ceiling=np.nan)]
    table = families_over_tasks(over_tasks(boards, sample(boards, draws=100))[0])
    assert (table["scale"] == RANK).all() and table["best"].max() == 1


def test_refusals(refuses):
    probes = board(ERRORS, MODALITY, unit="method")
    doubled = Board(*[getattr(probes, f) for f in probes.__dataclass_fields__])
    object.__setattr__(doubled, "methods", probes.methods.assign(embedding="a"))
    refuses(["unit='embedding'"], task_families, doubled, sample([probes], draws=20)[0])
    alone = board(ERRORS, dict.fromkeys(ERRORS, "text"))
    refuses(["two modalities"], families, [alone], sample([alone], draws=20), error=InputError)


def test_stacked_tasks():
    boards = [board(ERRORS, MODALITY), board(ERRORS, MODALITY, context="B")]
    table = families(boards, sample(boards, draws=50))
    assert len(table) == 4 and list(dict.fromkeys(table["context"])) == ["A", "B"] and (table["metric"] == "L2").all()


@pytest.mark.parametrize("over", [False, True])
def test_sentences_are_true_of_the_table(over):
    table = families_over_tasks(panel()) if over else table_of(board(ERRORS, MODALITY))
    said = family_sentences(table, "here")
    first = table.iloc[0]
    mean = table.sort_values("mean", ascending=False).iloc[0]
    assert (
        first["modality"] in said[0]
        and first["best_embedding"] in said[0]
        and f"gap closed {first['best']:.2f}" in said[0]
    )
    assert f"it has {first['embeddings']} of 4 embeddings" in said[0]
    assert ("its mean member is ahead too" in said[1]) == (mean["modality"] == first["modality"])
    assert (
        f"gap closed {mean['mean']:.2f}" in said[1] and f"{mean['mean_low']:.2f} to {mean['mean_high']:.2f}" in said[1]
    )
    assert re.search("text has one embedding", said[2])


def test_one_modality_says_so():
    assert (
        "all embeddings are of one modality (text)"
        in family_sentences(table_of(board(ERRORS, dict.fromkeys(ERRORS, "text"))), "x")[0]
    )


def test_figure_holds_the_table():
    table = families_over_tasks(panel())
    left, right = family_plot(table).axes[:2]
    drawn = {line.get_label(): list(line.get_xdata()) for line in left.lines}
    assert drawn["best member"] == list(table["best"]) and drawn["mean member"] == list(table["mean"])
    assert [bar.get_width() for bar in right.patches] == list(table["p_best"])
    names = [t.get_text() for t in left.get_yticklabels()]
    assert names == [f"{m} ({n})" for m, n in zip(table["modality"], table["embeddings"], strict=True)]

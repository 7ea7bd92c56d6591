"""The choice of the next experiments: against brute force, and against random choice on simulated screens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import Card, Embedding, Screen
from panmodal.evaluation.next_experiments import (
    STRATEGIES,
    choose_next,
    compare_designs,
    default_alpha,
    next_experiments,
    projected,
    rehearse_design,
    simulate_design,
)
from panmodal.screens.simulate import simulate_responses


def simulated(seed, name="sim-full", genes=60):
    screen, embeddings = simulate_responses(seed=seed, n_genes=genes, contexts=("A",))
    ids, vectors = embeddings[name]
    return screen, Embedding(tuple(ids), vectors, Card(name=name, modality="toy"))


def posterior(z, alpha):
    return np.linalg.inv(z.T @ z + alpha * np.eye(z.shape[1]))


@given(st.integers(0, 5000), st.integers(0, 6), st.floats(0.1, 20))
def test_greedy_choices_are_the_best_single_steps(seed, m, alpha):
    """Brute force: invert the whole matrix with every candidate added in turn."""
    rng = np.random.default_rng(seed)
    new, old = rng.standard_normal((12, 4)), rng.standard_normal((m, 4))
    z = projected(np.vstack([old, new]))
    z = np.column_stack([z, np.full(len(z), np.sqrt(alpha))])
    have, left = list(range(m)), list(range(m, m + 12))

    def total(rows):
        s = posterior(z[rows], alpha)
        return np.einsum("ij,jk,ik->", z[m:], s, z[m:])

    start = total(have)
    info = choose_next(new, old, 4, alpha=alpha)
    for row in info.itertuples():
        values = {c: total([*have, c]) for c in left}
        best = min(values.values())
        picked = m + row.candidate
        assert values[picked] == pytest.approx(best, rel=1e-8)
        assert row.remaining == pytest.approx(best / start, rel=1e-8)
        assert row.variance == pytest.approx(z[picked] @ posterior(z[have], alpha) @ z[picked], rel=1e-8)
        have.append(picked)
        left.remove(picked)
    have, left = list(range(m)), list(range(m, m + 12))
    for row in choose_next(new, old, 4, alpha=alpha, strategy="variance").itertuples():
        s = posterior(z[have], alpha)
        values = {c: z[c] @ s @ z[c] for c in left}
        assert values[m + row.candidate] == pytest.approx(max(values.values()), rel=1e-8)
        # The same as the largest gain of the log determinant.
        gains = {c: np.linalg.slogdet(posterior(z[[*have, c]], alpha))[1] for c in left}
        assert gains[m + row.candidate] == pytest.approx(min(gains.values()), rel=1e-8)
        have.append(m + row.candidate)
        left.remove(m + row.candidate)


@given(st.integers(0, 5000), st.integers(1, 6))
def test_diversity_is_farthest_first(seed, m):
    rng = np.random.default_rng(seed)
    new, old = rng.standard_normal((15, 3)), rng.standard_normal((m, 3))
    z = projected(np.vstack([old, new]))
    have = list(range(m))
    for row in choose_next(new, old, 5, strategy="diversity").itertuples():
        nearest = np.linalg.norm(z[m:, None] - z[have], axis=2).min(axis=1)
        assert row.distance == pytest.approx(nearest.max())
        assert nearest[row.candidate] == pytest.approx(nearest.max())
        have.append(m + row.candidate)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_laws_of_every_strategy(strategy):
    rng = np.random.default_rng(1)
    new, old = rng.standard_normal((30, 8)), rng.standard_normal((20, 8))
    table = choose_next(new, old, 30, strategy=strategy, seed=3)
    assert sorted(table["candidate"]) == list(range(30))
    assert (np.diff(table["remaining"]) <= 1e-12).all()
    assert ((table["remaining"] > 0) & (table["remaining"] < 1)).all()
    again = choose_next(new, old, 12, strategy=strategy, seed=3)
    assert again["candidate"].tolist() == table["candidate"].tolist()[:12]
    empty = choose_next(new, old[:0], 3, strategy=strategy)
    assert np.isinf(empty["distance"].iloc[0])
    scaled = choose_next(5 * new + 2, 5 * old + 2, 12, strategy=strategy, seed=3)  # standardised: no unit, no origin
    assert scaled["candidate"].tolist() == again["candidate"].tolist()


def test_expected_information_leaves_least_variance():
    rng = np.random.default_rng(2)
    new, old = rng.standard_normal((80, 10)) * np.linspace(1, 3, 80)[:, None], rng.standard_normal((5, 10))
    left = {s: choose_next(new, old, 8, strategy=s)["remaining"].iloc[-1] for s in STRATEGIES}
    assert left["expected-information"] == min(left.values())


def test_measured_twins_are_not_chosen_first():
    rng = np.random.default_rng(3)
    old = rng.standard_normal((30, 3))
    new = np.vstack([old[:5], 4 + rng.standard_normal((5, 3))])
    for strategy in ("variance", "diversity"):
        assert (choose_next(new, old, 2, strategy=strategy)["candidate"] >= 5).all()


def test_choosing_beats_random_on_the_simulator():
    """Five simulated screens, eight starts each: the error saved on held-out perturbations, interval over screens and starts."""
    saved = []
    for seed in range(5):
        table = simulate_design(
            *simulated(seed), ("expected-information", "random"), start=15, batch=10, steps=3, seeds=range(8)
        )
        assert (table.groupby(["seed", "step"])["n_measured"].nunique() == 1).all()
        at_start = table[table["step"] == 0].pivot_table(index="seed", columns="strategy", values="error")
        np.testing.assert_allclose(at_start["random"], at_start["expected-information"])
        later = table[table["step"] > 0].groupby(["seed", "strategy"])["error"].mean().unstack()
        saved.extend(later["random"] - later["expected-information"])
    drawn = np.random.default_rng(0).choice(saved, (4000, len(saved))).mean(axis=1)
    assert np.quantile(drawn, 0.025) > 0


def test_simulated_errors_are_those_of_the_probe():
    """The last row of the table, computed again from predictions."""
    from panmodal import ProbeCV

    screen, embedding = simulated(0)
    table = simulate_design(screen, embedding, ("random",), start=20, batch=10, steps=1, seeds=[4])
    ids, y = screen.responses("A")
    order = np.random.default_rng([4, 7]).permutation(len(ids))
    test, first, x = order[:90], np.sort(order[90:110]), embedding.matrix(ids)
    fitted = ProbeCV("ridge").fit(x[first], y[first])
    error = np.linalg.norm(fitted.predict(x[test]) - y[test], axis=1).mean()
    assert table["error"].iloc[0] == pytest.approx(error, rel=1e-6)
    floor = np.linalg.norm(y[first].mean(axis=0) - y[test], axis=1).mean()
    assert table["floor"].iloc[0] == pytest.approx(floor, rel=1e-5)


def test_comparison_is_paired_by_seed():
    screen, embedding = simulated(1)
    table = simulate_design(screen, embedding, start=15, batch=10, steps=2, seeds=range(5))
    found = compare_designs(table).set_index(["strategy", "step"])
    assert set(found.index.get_level_values(0)) == set(STRATEGIES) - {"random"}
    wide = table.query("step == 2").pivot_table(index="seed", columns="strategy", values="error")
    row = found.loc[("variance", 2)]
    assert row["saved"] == pytest.approx((wide["random"] - wide["variance"]).mean())
    assert row["wins"] == (wide["random"] > wide["variance"]).sum()
    assert row["saved_low"] <= row["saved"] <= row["saved_high"]


def test_choice_for_a_screen():
    screen, embedding = simulated(2)
    ids = screen.pert_ids
    rows = np.isin(screen.adata.obs["pert_id"], ids[:200])
    part = Screen(screen.adata[rows].copy(), "part", "lfc", simulated=True)
    table, notes = next_experiments(part, embedding, 7)
    assert table["pert_id"].is_unique
    assert set(table["pert_id"]) <= set(ids[200:])
    assert any("penalty" in note for note in notes)
    table, notes = next_experiments(part, embedding, 2, [ids[0], ids[250], ids[251], "NEW"])
    assert set(table["pert_id"]) == {ids[250], ids[251]}
    assert any("cannot be chosen" in note and "NEW" in note for note in notes)
    assert any("measured" in note and ids[0] in note for note in notes)


def test_rehearsal_says_what_the_simulation_found():
    screen, embedding = simulated(0)
    (text,) = rehearse_design(screen, embedding, "expected-information", repeats=4, batch=10)
    table = simulate_design(
        screen, embedding, ("expected-information", "random"), start=105, steps=2, batch=10, seeds=range(4)
    )
    row = compare_designs(table).query("step == -1").iloc[0]
    assert f"{row['error']:.4g} by expected-information" in text
    assert f"saved {row['saved']:.3g}" in text
    verdict = (
        "beats random"
        if row["saved_low"] > 0
        else "worse than random here"
        if row["saved_high"] < 0
        else "as far as can be told"
    )
    assert verdict in text
    assert "nothing to be compared" in rehearse_design(screen, embedding, "random")[0]


def test_wrong_input_is_refused(refuses):
    rng = np.random.default_rng(0)
    new, old = rng.standard_normal((10, 3)), rng.standard_normal((5, 3))
    refuses(["no strategy 'best'", "random"], choose_next, new, old, 2, strategy="best")
    refuses(["cannot choose 11 of 10"], choose_next, new, old, 11)
    refuses(["cannot choose 0"], choose_next, new, old, 0)
    refuses(["3 dimensions", "2"], choose_next, new, old[:, :2], 2)
    refuses(["above 0"], choose_next, new, old, 2, alpha=0)
    refuses(["candidates must be a finite matrix"], choose_next, new[0], old, 2)
    refuses(["measured must be a finite matrix"], choose_next, new, old * np.nan, 2)
    screen, embedding = simulated(0)
    refuses(["no strategy 'best'"], simulate_design, screen, embedding, ("best",))
    refuses(["10 or more"], simulate_design, screen, embedding, start=5)
    refuses(["need 440", "210 of 300"], simulate_design, screen, embedding, start=40, batch=100, steps=4)
    labels = Screen.from_arrays(
        np.zeros((20, 2)), [f"P{k}" for k in range(20)], ["A"] * 20, ["a", "b"], name="d", response="deg"
    )
    refuses(["deg labels"], simulate_design, labels, embedding)
    refuses(["nothing is left"], next_experiments, screen, embedding, 2)
    refuses(["no vector for any"], next_experiments, screen, embedding, 1, ["X1", "X2"])
    refuses(
        ["no strategy 'random'"], compare_designs, simulate_design(screen, embedding, ("variance",), steps=1, seeds=[0])
    )
    assert default_alpha(np.zeros((3, 2))) > 0

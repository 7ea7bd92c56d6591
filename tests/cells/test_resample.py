from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from panmodal.cells import controls as controls_module
from panmodal.cells.controls import ControlDraws
from panmodal.cells.gather import Group
from panmodal.cells.resample import Scheme, draw_weights, generator, halves, mean_weights, replicate_sides

WIDTH = 6
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**40)


def cells_of(sizes, seed=0, shift=0.0):
    """Cells x genes, with the batches far apart, and the batch of each cell."""
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(len(sizes)), sizes)
    values = rng.gamma(1.0, 1.0, (len(batch), WIDTH)) * (rng.random((len(batch), WIDTH)) < 0.7)
    return (values + shift + 0.3 * batch[:, None]).astype(np.float32), batch


def group_of(values, batch):
    """The same cells as a group; batches are numbered with gaps."""
    stored = values != 0
    indptr = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    batches, counts = np.unique(batch, return_counts=True)
    return Group(indptr.astype(np.int64), np.nonzero(stored)[1].astype(np.int32), values[stored], (3 * batches + 1).astype(np.int32),
                 np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))  # fmt: skip


def sums(values, batch):
    """Sum of the values of each batch."""
    return np.stack([values[batch == b].sum(axis=0) for b in range(batch.max() + 1)])


# --- means ----------------------------------------------------------------------------------------------------------------


@given(SIZES, st.data())
def test_mean_weights_are_the_mean_over_batches_of_the_mean_over_cells(sizes, data):
    values, batch = cells_of(sizes)
    used = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=len(batch), max_size=len(batch)))
    )
    weights, shares = mean_weights(group_of(values, batch), used)
    for k in range(3):
        present = sorted(set(batch[used[:, k]]))
        if not present:
            assert not weights[:, k].any() and np.isnan(shares[:, k]).all()
            continue
        assert weights[:, k].sum() == pytest.approx(1, abs=1e-6) and shares[:, k].sum() == pytest.approx(1)
        assert not weights[~used[:, k], k].any()
        plain = np.mean([values[used[:, k] & (batch == b)].mean(axis=0) for b in present], axis=0)
        np.testing.assert_allclose(weights[:, k] @ values, plain, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(shares[:, k], np.isin(range(len(sizes)), present) / len(present))


# --- the two-stage bootstrap ----------------------------------------------------------------------------------------------


@given(SIZES, SEEDS)
def test_bootstrap_weights_are_whole_cells_of_whole_batches(sizes, seed):
    values, batch = cells_of(sizes)
    scheme = Scheme(4, 3, 0)
    drawn = draw_weights(group_of(values, batch), scheme, np.random.default_rng(seed))
    at = scheme.columns
    assert drawn.cells.shape == (len(batch), 13)
    np.testing.assert_allclose(drawn.cells.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(drawn.shares.sum(axis=0), 1)
    np.testing.assert_allclose(sums(drawn.cells, batch), drawn.shares, atol=1e-5)
    np.testing.assert_allclose(drawn.cells[:, at["point"]][:, 0], 1 / (len(sizes) * np.array(sizes)[batch]), rtol=1e-6)
    times = drawn.shares[:, at["bootstrap"]] * len(sizes)
    np.testing.assert_allclose(times, np.round(times), atol=1e-9)
    # The batches of an outer resampling stay while its cells are resampled.
    for outer in range(4):
        assert (times[:, 3 * outer : 3 * outer + 3] == times[:, [3 * outer]]).all()
    often = drawn.cells[:, at["bootstrap"]] * len(sizes) * np.array(sizes)[batch][:, None]
    np.testing.assert_allclose(often, np.round(often), atol=1e-3)
    assert (sums(np.round(often), batch) == np.round(times) * np.array(sizes)[:, None]).all()


def respond(group, controls, scheme, rng, *, seed=0, matched=False, separate=False):
    """Draws of the response of a group."""
    shared = ControlDraws(controls, scheme, WIDTH, matched=matched, separate=separate, seed=seed, name="ctx")
    return shared.response(group, draw_weights(group, scheme, rng), "p")


@given(SIZES, SEEDS)
def test_a_draw_is_the_mean_of_the_cells_drawn(sizes, seed):
    values, batch = cells_of(sizes, 1)
    base, base_batch = cells_of([4, *sizes[1:]], 2)
    groups = [group_of(values, batch), group_of(base, base_batch)]
    scheme = Scheme(2, 2, 0)
    controls = generator(seed, "ctx", "control", "-1")
    drawn = [
        draw_weights(g, scheme, rng) for g, rng in zip(groups, (np.random.default_rng(seed), controls), strict=True)
    ]
    with mock.patch.object(controls_module, "POOL", 1):
        out = respond(groups[0], groups[1], scheme, np.random.default_rng(seed), seed=seed)
    assert out.shape == (WIDTH, 5)

    def gathered(cells, of, weights, times):
        n = np.bincount(of)
        # Each cell as often as it was drawn; each batch as often, with as many cells each time as it has.
        often = np.round(weights * len(n) * n[of]).astype(int)
        again = np.repeat(np.arange(len(cells)), often)
        assert (np.bincount(of[again], minlength=len(n)) == times * n).all()
        return sum(cells[again][of[again] == b].mean(axis=0) * times[b] for b in np.flatnonzero(times)) / times.sum()

    for d in range(1, 5):
        parts = [
            gathered(c, b, w.cells[:, d], np.round(w.shares[:, d] * len(w.shares)).astype(int))
            for c, b, w in zip((values, base), (batch, base_batch), drawn, strict=True)
        ]
        np.testing.assert_allclose(out[:, d], parts[0] - parts[1], rtol=1e-4, atol=1e-4)


def test_expected_weights_are_those_of_the_mean():
    sizes = np.array([2, 7, 1, 4])
    values, batch = cells_of(sizes)
    n = 40_000
    weights = draw_weights(group_of(values, batch), Scheme(n, 1, 0), np.random.default_rng(0)).cells[:, 1:]
    plain = 1 / (4 * sizes[batch])
    np.testing.assert_array_less(np.abs(weights.mean(axis=1) - plain), 4.5 * weights.std(axis=1) / np.sqrt(n))
    # The law of the whole numbers: a batch is drawn Binomial(4, 1/4) times, a cell Binomial(times x cells, 1 / cells) times.
    often = np.round(weights * 4 * sizes[batch][:, None])
    np.testing.assert_allclose(often.var(axis=1), (1 - 1 / sizes[batch]) + 3 / 4, rtol=0.06)
    times = np.round(sums(often, batch) / sizes[:, None])
    seen = np.bincount(times[1].astype(int), minlength=5)
    assert stats.chisquare(seen, n * stats.binom.pmf(range(5), 4, 0.25)).pvalue > 1e-3


def naive_mean(rng, values, batch, order=None):
    """Mean over batches drawn with replacement of the mean over cells drawn with replacement."""
    n = batch.max() + 1
    drawn = rng.integers(0, n, n) if order is None else order
    return np.mean(
        [values[rng.choice(np.flatnonzero(batch == b), (batch == b).sum())].mean(axis=0) for b in drawn], axis=0
    )


def agree(ours, naive):
    """Two samples of norms have one law."""
    assert ours.mean() == pytest.approx(naive.mean(), rel=0.03)
    assert np.quantile(ours, 0.9) == pytest.approx(np.quantile(naive, 0.9), rel=0.05)
    assert stats.ks_2samp(ours, naive).pvalue > 0.005


def test_pooled_bootstrap_has_the_law_of_gathering_cells_again():
    values, batch = cells_of([3, 8, 5], 1, shift=0.5)
    base, base_batch = cells_of([6, 9, 4], 2)
    rng, n = np.random.default_rng(5), 2500
    scheme = Scheme(n, 1, 0)
    out = respond(group_of(values, batch), group_of(base, base_batch), scheme, rng)
    point = sums(values, batch) / [[3], [8], [5]] - sums(base, base_batch) / [[6], [9], [4]]
    np.testing.assert_allclose(out[:, 0], point.mean(axis=0), rtol=1e-4)
    naive = [naive_mean(rng, values, batch) - naive_mean(rng, base, base_batch) - out[:, 0] for _ in range(n)]
    agree(np.linalg.norm(out[:, 1:] - out[:, :1], axis=0), np.linalg.norm(naive, axis=1))


def matched_draws(values, batch, base, base_batch, rng, n):
    scheme = Scheme(n, 1, 0)
    return respond(group_of(values, batch), group_of(base, base_batch), scheme, rng, matched=True)


def naive_matched(rng, values, batch, base, base_batch):
    """Difference within each batch drawn, whose perturbed and control cells are both drawn again."""
    order = rng.integers(0, batch.max() + 1, batch.max() + 1)
    return naive_mean(rng, values, batch, order) - naive_mean(rng, base, base_batch, order)


def test_matched_bootstrap_has_the_law_of_gathering_cells_again():
    values, batch = cells_of([3, 8, 5], 1, shift=0.5)
    base, base_batch = cells_of([80, 60, 70], 2)
    base[base_batch == 1] += 0.6
    rng, n = np.random.default_rng(6), 2500
    out = matched_draws(values, batch, base, base_batch, rng, n)
    point = sums(values, batch) / [[3], [8], [5]] - sums(base, base_batch) / [[80], [60], [70]]
    np.testing.assert_allclose(out[:, 0], point.mean(axis=0), rtol=1e-4)
    naive = [naive_matched(rng, values, batch, base, base_batch) - out[:, 0] for _ in range(n)]
    agree(np.linalg.norm(out[:, 1:] - out[:, :1], axis=0), np.linalg.norm(naive, axis=1))
    # Not that of batches drawn for the two sides apart.
    apart = [naive_mean(rng, values, batch) - naive_mean(rng, base, base_batch) - out[:, 0] for _ in range(500)]
    assert np.linalg.norm(apart, axis=1).mean() > 1.05 * np.linalg.norm(naive, axis=1).mean()


def test_matched_bootstrap_draws_the_controls_of_a_batch_each_time():
    values, batch = cells_of([60, 60], 1)
    base, base_batch = cells_of([6, 6], 2)
    base[base_batch == 1] -= 0.3
    values[batch == 1] -= 0.3
    rng, n = np.random.default_rng(7), 2500
    out = matched_draws(values, batch, base, base_batch, rng, n)
    naive = [naive_matched(rng, values, batch, base, base_batch) - out[:, 0] for _ in range(n)]
    agree(np.linalg.norm(out[:, 1:] - out[:, :1], axis=0), np.linalg.norm(naive, axis=1))


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), SEEDS)
def test_truth_and_draws_share_no_control_cell(sizes, seed):
    group = group_of(*cells_of(sizes))
    drawn = draw_weights(group, Scheme(3, 4, 2), np.random.default_rng(seed), only_second=True)
    point, draws = drawn.cells[:, 0] > 0, (drawn.cells[:, 1:13] > 0).any(axis=1)
    assert not (point & draws).any()
    assert (point == ~drawn.second[:, 0]).all() and not (draws & ~drawn.second[:, 0]).any()
    np.testing.assert_allclose(drawn.cells.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(drawn.shares.sum(axis=0), 1)


def test_separate_controls_have_the_law_of_two_halves():
    values, batch = cells_of([3, 6], 1, shift=0.5)
    base, base_batch = cells_of([6, 4], 2)
    (perturbed, controls), scheme = (group_of(values, batch), group_of(base, base_batch)), Scheme(1, 1, 0)
    plain = sums(values, batch) / [[3], [6]]
    ours, naive = [], []
    rng = np.random.default_rng(8)
    for k in range(3000):
        out = respond(perturbed, controls, scheme, rng, seed=k, separate=True)
        ours.append(np.linalg.norm(out[:, 1] - out[:, 0]))
        order = np.concatenate([rng.permutation(6), 6 + rng.permutation(4)])
        first, second = order[[0, 1, 2, 6, 7]], order[[3, 4, 5, 8, 9]]
        truth = plain.mean(axis=0) - (base[first[:3]].mean(axis=0) + base[first[3:]].mean(axis=0)) / 2
        draw = naive_mean(rng, values, batch) - naive_mean(rng, base[second], base_batch[second])
        naive.append(np.linalg.norm(draw - truth))
    agree(np.array(ours), np.array(naive))


# --- halves and sides -----------------------------------------------------------------------------------------------------


@given(SIZES, st.integers(1, 4), SEEDS)
def test_halves_split_every_batch(sizes, n, seed):
    values, batch = cells_of(sizes)
    group = group_of(values, batch)
    second = halves(group, n, np.random.default_rng(seed))
    assert second.shape == (len(batch), n) and second.dtype == bool
    assert (np.abs(2 * sums(second, batch) - np.array(sizes)[:, None]) <= 1).all()
    scheme = Scheme(0, 1, n)
    drawn = draw_weights(group, scheme, np.random.default_rng(seed))
    one, two = (drawn.cells[:, scheme.columns[k]] > 0 for k in ("half1", "half2"))
    assert (one ^ two).all()
    assert (two == drawn.second).all()
    for name, used in (("half1", one), ("half2", two)):
        for k in range(n):
            weights, shares = drawn.cells[:, scheme.columns[name]][:, k], drawn.shares[:, scheme.columns[name]][:, k]
            if not used[:, k].any():
                assert np.isnan(shares).all()
                continue
            plain = np.mean([values[used[:, k] & (batch == b)].mean(axis=0) for b in set(batch[used[:, k]])], axis=0)
            np.testing.assert_allclose(weights @ values, plain, rtol=1e-4, atol=1e-5)


def test_halves_are_random():
    values, batch = cells_of([1, 4, 5])
    second = halves(group_of(values, batch), 4000, np.random.default_rng(0))
    np.testing.assert_allclose(second.mean(axis=1), 0.5, atol=0.04)
    # Six ways to take two of four, the odd cell of a batch on either side.
    ways, counts = np.unique(second[1:5], axis=1, return_counts=True)
    assert ways.shape[1] == 6 and stats.chisquare(counts).pvalue > 1e-3
    assert np.bincount(second[5:].sum(axis=0).astype(int)).tolist()[:2] == [0, 0]
    assert (second[5:].sum(axis=0) == 3).mean() == pytest.approx(0.5, abs=0.04)
    assert np.abs(np.corrcoef(second[[0, 1, 5]])[np.triu_indices(3, 1)]).max() < 0.07


@given(st.integers(2, 7), st.integers(1, 40), SEEDS)
def test_sides_are_different_splits_of_the_batches(n_batches, n, seed):
    sides = replicate_sides(n_batches, n, np.random.default_rng(seed))
    half = n_batches // 2
    ways = int(stats.binom.pmf(half, n_batches, 0.5) * 2**n_batches + 0.5) // (1 if n_batches % 2 else 2)
    assert 1 <= len(sides) <= min(n, ways)
    for one, two in sides:
        assert sorted(one + two) == list(range(n_batches))
        assert abs(len(one) - len(two)) == n_batches % 2
    assert len({frozenset([frozenset(one), frozenset(two)]) for one, two in sides}) == len(sides)


def test_sides_find_what_there_is():
    assert replicate_sides(1, 10, np.random.default_rng(0)) == ()
    assert len(replicate_sides(2, 10, np.random.default_rng(0))) == 1
    assert len(replicate_sides(3, 10, np.random.default_rng(0))) == 3
    assert len(replicate_sides(5, 10, np.random.default_rng(0))) == 10
    assert len(replicate_sides(8, 10, np.random.default_rng(0))) == 10


def test_a_side_is_the_mean_of_its_batches():
    values, batch = cells_of([2, 5, 3])
    group = group_of(values, batch)
    # Batches go by their own numbers; a perturbation need not have them all.
    scheme = Scheme(0, 1, 0, (((1, 4), (7, 10)), ((10,), (1, 4, 7))))
    drawn = draw_weights(group, scheme, np.random.default_rng(0))
    one, two = (drawn.cells[:, scheme.columns[k]].T @ values for k in ("side1", "side2"))
    means = sums(values, batch) / [[2], [5], [3]]
    np.testing.assert_allclose(one[0], means[:2].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(two, [means[2], means.mean(axis=0)], rtol=1e-5)
    assert not one[1].any() and np.isnan(drawn.shares[:, scheme.columns["side1"]][:, 1]).all()
    out = respond(group, group_of(0 * values, batch), scheme, np.random.default_rng(0))
    assert np.isnan(out).any(axis=0).tolist() == [False, False, True, False, False]


@given(st.integers(0, 4), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3))
def test_columns_of_a_scheme(outer, inner, n, sides):
    scheme = Scheme(outer, inner, n, (((0,), (1,)),) * sides)
    stops = list(scheme.columns.values())
    assert list(scheme.columns) == ["point", "bootstrap", "half1", "half2", "side1", "side2"]
    assert [s.stop - s.start for s in stops] == [1, outer * inner, n, n, sides, sides]
    assert stops[0].start == 0 and all(a.stop == b.start for a, b in pairwise(stops))
    assert scheme.width == stops[-1].stop


# --- random numbers -------------------------------------------------------------------------------------------------------


def test_random_numbers_depend_on_seed_and_names_only():
    def first(*given):
        return generator(*given).integers(0, 2**62, 3).tolist()

    known = first(3, "line", "perturbed", "TP53")
    generator(3, "line").random(7)
    np.random.default_rng(0).random(5)
    assert first(3, "line", "perturbed", "TP53") == known
    others = [(4, "line", "perturbed", "TP53"), (3, "line", "perturbed", "TP5"), (3, "line", "perturbed"), (3, "line"),
              (3, "line", "TP53", "perturbed"), (3, "lineperturbed", "TP53"), (3,), (2**40 + 3, "line", "perturbed", "TP53"),
              (3, "line", "perturbed", "TP53", "")]  # fmt: skip
    assert len({tuple(known), *(tuple(first(*o)) for o in others)}) == len(others) + 1


@given(SIZES, SEEDS)
def test_draws_of_one_generator_are_the_same(sizes, seed):
    group, scheme = group_of(*cells_of(sizes)), Scheme(2, 3, 2, (((1,), (4, 7)),))
    one, two = (draw_weights(group, scheme, generator(seed, "a")) for _ in range(2))
    np.testing.assert_array_equal(one.cells, two.cells)
    np.testing.assert_array_equal(one.shares, two.shares)
    np.testing.assert_array_equal(one.second, two.second)
    if len(one.second) > 6:
        assert not np.array_equal(one.cells, draw_weights(group, scheme, generator(seed, "b")).cells)

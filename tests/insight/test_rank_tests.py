"""Tests of differences between methods: parity with scipy, level on boards without differences, groups by brute force."""

import itertools
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import InputError
from panmodal.insight import rank_tests as rt


def boards(n, k, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, 1)) + rng.standard_normal((n, k))
    return np.round(values * 2) + 10 if ties else values


def every_sign(d):
    """Two-sided p of the signed-rank test by all assignments of signs."""
    d = d[d != 0]
    ranks = scipy.stats.rankdata(np.abs(d))
    sums = np.array([ranks[list(s)].sum() for s in map(np.array, itertools.product([False, True], repeat=len(d)))])
    found = ranks[d > 0].sum()
    return min(1.0, 2 * min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean()))


@pytest.mark.parametrize("n", [3, 5, 20, 50, 51, 200])
def test_signed_ranks_are_those_of_scipy(n):
    values = boards(n, 5)
    p, larger = rt.wilcoxon_pairs(values)
    for a, b in itertools.combinations(range(5), 2):
        found = scipy.stats.wilcoxon(
            values[:, a], values[:, b], method="exact" if n <= 50 else "asymptotic", correction=False
        )
        assert p[a, b] == p[b, a] == pytest.approx(found.pvalue, rel=1e-10)
        signed = np.sign(values[:, a] - values[:, b]) * scipy.stats.rankdata(np.abs(values[:, a] - values[:, b]))
        assert larger[a, b] == -larger[b, a] == np.sign(signed.sum())
    np.testing.assert_array_equal(np.diag(p), 1)


def test_signed_ranks_with_ties_and_zeros_are_those_of_scipy():
    values = boards(120, 5, ties=True)
    p, _ = rt.wilcoxon_pairs(values)
    for a, b in itertools.combinations(range(5), 2):
        found = scipy.stats.wilcoxon(values[:, a], values[:, b], method="asymptotic", correction=False)
        assert p[a, b] == pytest.approx(found.pvalue, rel=1e-10)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_few_signed_ranks_are_exact_with_ties_and_zeros(d):
    d = np.array(d, dtype=float)
    assert rt.signed_rank_p(d[:, None])[0] == pytest.approx(every_sign(d) if d.any() else 1.0)


def test_undefined_rows_and_rows_equal_within_single_precision_do_not_count():
    values = boards(30, 2)
    padded = np.vstack([values, [[np.nan, 1.0]], [[3.0, np.nan]], [[2.0, 2.0 + 1e-7]], [[0.0, 0.0]]])
    assert rt.wilcoxon_pairs(padded)[0][0, 1] == rt.wilcoxon_pairs(values)[0][0, 1]
    assert rt.wilcoxon_pairs(np.ones((9, 2)))[0][0, 1] == 1


@pytest.mark.parametrize(("n", "k", "ties"), [(10, 3, False), (50, 8, False), (40, 6, True), (2, 3, False)])
def test_friedman_is_that_of_scipy(n, k, ties):
    values = boards(n, k, ties=ties)
    found = rt.friedman(values)
    expected = scipy.stats.friedmanchisquare(*values.T)
    assert found.statistic == pytest.approx(expected.statistic) and found.p_chi2 == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(found.average_ranks, scipy.stats.rankdata(-values, axis=1).mean(axis=0))
    assert found.n_blocks == n and (found.f > 0) == (found.statistic > 0)


def test_friedman_turns_round_and_leaves_out_undefined_blocks():
    values = boards(20, 4)
    one, other = rt.friedman(values), rt.friedman(-np.vstack([values, [[np.nan, 1, 2, 3]]]), higher=False)
    assert one.statistic == pytest.approx(other.statistic) and other.n_blocks == 20
    np.testing.assert_allclose(one.average_ranks, other.average_ranks)


def test_friedman_of_nothing():
    assert rt.friedman(np.full((3, 2), np.nan)).n_blocks == 0
    assert np.isnan(rt.friedman(np.ones((1, 3))).p) and np.isnan(rt.friedman(np.ones((5, 1))).p)
    assert rt.friedman(np.ones((5, 3))).p == 1
    assert rt.friedman(np.tile([1.0, 2, 3], (5, 1))).p == 0  # all blocks agree


def test_ranks_share_ties_of_rounding():
    np.testing.assert_array_equal(rt.ranks(np.array([[5.0, 5.0 + 1e-12, 4.0]]), False), [[2.5, 2.5, 1]])
    np.testing.assert_array_equal(rt.ranks(np.array([[0.0, 0.0]]), True), [[1.5, 1.5]])


def test_holm_by_hand():
    p = np.ones((4, 4))
    raw = {(0, 1): 0.01, (0, 2): 0.02, (0, 3): 0.03, (1, 2): 0.04, (1, 3): 0.005, (2, 3): np.nan}
    for (a, b), value in raw.items():
        p[a, b] = p[b, a] = value
    found = rt.holm(p)
    expected = {(1, 3): 0.025, (0, 1): 0.04, (0, 2): 0.06, (0, 3): 0.06, (1, 2): 0.06}
    for (a, b), value in expected.items():
        assert found[a, b] == found[b, a] == pytest.approx(value)
    assert np.isnan(found[2, 3]) and found[0, 0] == 1


def test_corrected_t_is_the_formula_and_the_plain_t_without_shared_data():
    folds = boards(5, 3)
    plain = rt.corrected_t_pairs(folds, 0.0)
    assert plain[0, 1] == pytest.approx(scipy.stats.ttest_rel(folds[:, 0], folds[:, 1]).pvalue)
    d = folds[:, 0] - folds[:, 2]
    t = d.mean() / np.sqrt((1 / 5 + 1 / 4) * d.var(ddof=1))
    found = rt.corrected_t_pairs(folds, 1 / 4)
    assert found[2, 0] == pytest.approx(2 * scipy.stats.t.sf(abs(t), 4)) and (found >= plain).all()
    assert np.isnan(rt.corrected_t_pairs(folds[:1], 0.25)[0, 1])
    assert rt.corrected_t_pairs(np.ones((5, 2)), 0.25)[0, 1] == 1


def test_bootstrap_pairs():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((4000, 1))
    samples = shared * 5 + rng.standard_normal((4000, 3)) + [0, 3, 0]
    p = rt.bootstrap_pairs(np.array([0.0, 3.0, 0.0]), samples)
    assert p[0, 1] == p[1, 0] == pytest.approx(2 * scipy.stats.norm.sf(3 / np.sqrt(2)), rel=0.2) and p[0, 2] == 1
    assert (rt.bootstrap_pairs(np.array([0.0, 1.0]), np.full((9, 2), np.nan)) == 1).all()


@pytest.mark.parametrize("n", [5, 8])
def test_least_p_is_attained_by_the_clearest_pairs(n):
    raw, _ = rt.wilcoxon_pairs(
        np.arange(n)[:, None] + 1.0 + np.array([0.0, 100.0, 300.0]) * (1 + 0.01 * np.arange(n)[:, None])
    )
    assert rt.holm(raw).min() == pytest.approx(rt.least_p(n, 3))
    assert rt.least_p(3, 10) == 1


@given(st.integers(1, 7), st.integers(0, 2**21 - 1), st.randoms())
def test_groups_are_the_maximal_runs(k, bits, random):
    pairs = np.zeros((k, k), dtype=bool)
    for i, (a, b) in enumerate(itertools.combinations(range(k), 2)):
        pairs[a, b] = pairs[b, a] = bits >> i & 1
    order = list(range(k))
    random.shuffle(order)
    runs = [tuple(order[i:j]) for i in range(k) for j in range(i + 1, k + 1)]
    alike = [r for r in runs if not any(pairs[a, b] for a, b in itertools.combinations(r, 2))]
    maximal = [r for r in alike if not any(set(r) < set(other) for other in alike)]
    found = rt.groups(pairs, np.array(order))
    assert found == maximal
    letters = rt.letters(found, k)
    for a, b in itertools.combinations(range(k), 2):
        assert not (set(letters[a].split()) & set(letters[b].split()) and pairs[a, b])
    assert all(letters)


def test_groups_refuse_what_does_not_fit(refuses):
    refuses(["do not fit"], rt.groups, np.zeros((2, 2), bool), np.array([0, 0]), error=InputError)


def test_letters_go_on_after_z():
    found = rt.letters([(k,) for k in range(30)], 30)
    assert found[25:28] == ["z", "aa", "ab"]


@pytest.mark.parametrize(("n", "k"), [(30, 6), (300, 4)])
def test_without_differences_a_pair_is_found_in_fewer_than_alpha_of_the_boards(n, k):
    found, first = 0, 0
    for seed in range(250):
        values = boards(n, k, seed)
        first += rt.friedman(values).p < 0.05
        found += (rt.holm(rt.wilcoxon_pairs(values)[0]) < 0.05).any()
    assert found / 250 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 250)
    assert 0.01 <= first / 250 <= 0.09  # its level is near nominal


def test_many_methods_are_quick():
    values = boards(500, 120)
    start = time.perf_counter()
    rt.groups(rt.holm(rt.wilcoxon_pairs(values)[0]) < 0.05)
    assert time.perf_counter() - start < 8

"""Neighbour enrichment: exact on small cases, found where planted, absent where vectors are dealt to the wrong ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from panmodal.insight.enrichment import CURVE, neighbour_enrichment, response_likeness


def planted(n=120, genes=30, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n, 3))
    return latents, latents @ rng.standard_normal((3, genes)) + noise * rng.standard_normal((n, genes)) + 2.0


def by_hand(z, responses, start, end):
    y = responses - responses.mean(axis=0)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    cosine, distances = y @ y.T, cdist(z, z)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)[:, start - 1 : end]
    base = (cosine.sum() - np.trace(cosine)) / (len(z) * (len(z) - 1))
    return np.take_along_axis(cosine, order, axis=1).mean() - base


def test_bands_are_their_definition():
    z, y = planted()
    found = neighbour_enrichment(z, y, draws=0, permutations=0)
    assert list(found.curve.columns) == CURVE
    assert list(zip(found.curve["rank_from"], found.curve["rank"], strict=True)) == [
        (1, 1),
        (2, 2),
        (3, 5),
        (6, 10),
        (11, 20),
        (21, 50),
    ]
    for row in found.curve.itertuples():
        assert row.enrichment == pytest.approx(by_hand(z, y, row.rank_from, row.rank))
    assert found.summary["area"] == pytest.approx(found.curve["enrichment"].mean())
    assert found.curve[["low", "high", "permuted_low", "permuted_high"]].isna().all().all() and np.isnan(
        found.summary["area_p"]
    )


def test_auroc_is_that_of_scikit_learn():
    z, y = planted(n=61)
    likeness, _ = response_likeness(y)
    distances, values = cdist(z, z), []
    for k in range(61):
        others = np.delete(np.arange(61), k)
        top = np.isin(np.arange(60), np.argsort(-likeness[k, others])[:6])
        values.append(roc_auc_score(top, -distances[k, others]))
    assert neighbour_enrichment(z, y, top=0.1, draws=0, permutations=0).summary["auroc"] == pytest.approx(
        np.mean(values)
    )


def test_planted_neighbours_are_found_and_dealt_out_ones_not():
    z, y = planted()
    there = neighbour_enrichment(z, y)
    assert (there.curve["enrichment"] > there.curve["permuted_high"]).all() and (there.curve["low"] > 0).all()
    assert there.curve["enrichment"].is_monotonic_decreasing
    assert there.summary["area_p"] == 0.01 and there.summary["auroc_low"] > 0.6
    wrong = [
        neighbour_enrichment(z[np.random.default_rng(k).permutation(len(z))], y, draws=20, seed=k).summary
        for k in range(20)
    ]
    assert np.mean([w["area_p"] <= 0.05 for w in wrong]) <= 0.2
    assert np.mean([w["auroc"] for w in wrong]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([w["area"] for w in wrong]) == pytest.approx(0, abs=0.02)


def test_intervals_hold_the_estimate_and_shrink_with_ids():
    widths = []
    for n in (60, 240):
        found = neighbour_enrichment(*planted(n=n), ranks=(1, 2, 5, 10))
        s = found.summary
        assert s["area_low"] < s["area"] < s["area_high"] and s["auroc_low"] < s["auroc"] < s["auroc_high"]
        assert (
            (found.curve["low"] < found.curve["enrichment"]) & (found.curve["enrichment"] < found.curve["high"])
        ).all()
        widths.append(s["area_high"] - s["area_low"])
    assert widths[1] < 0.7 * widths[0]


@given(st.integers(0, 20))
def test_same_seed_same_numbers_and_no_unit_matters(seed):
    z, y = planted(n=30, seed=seed)
    one, two = (
        neighbour_enrichment(z, y, draws=10, permutations=5),
        neighbour_enrichment(5 * z + 1, 3 * y + 4, draws=10, permutations=5),
    )
    np.testing.assert_allclose(one.curve, two.curve, atol=1e-7)
    assert one.summary == pytest.approx(two.summary, abs=1e-7)


def test_ranks_beyond_half_of_the_ids_are_left_out():
    assert list(neighbour_enrichment(*planted(n=25), draws=2, permutations=2).curve["rank"]) == [1, 2, 5, 10]


def test_responses_that_equal_the_mean_are_left_out_and_counted():
    z, y = planted(n=40)
    y = np.vstack([y, np.tile(y.mean(axis=0), (3, 1))])
    z = np.vstack([z, z[:3]])
    found = neighbour_enrichment(z, y, draws=2, permutations=2)
    assert found.summary["n_undefined"] == 3 and found.summary["n_ids"] == 40
    expected = neighbour_enrichment(z[:40], y[:40], draws=2, permutations=2)
    np.testing.assert_allclose(found.curve["enrichment"], expected.curve["enrichment"], atol=1e-7)


def test_refusals(refuses):
    z, y = planted(n=30)
    refuses(["30 vectors and 29 responses"], neighbour_enrichment, z, y[1:])
    refuses(["19 ids", "at least 20"], neighbour_enrichment, z[:19], y[:19])
    refuses(["ranks [2, 1]", "grow"], neighbour_enrichment, z, y, ranks=(2, 1))
    refuses(["ranks []"], neighbour_enrichment, z, y, ranks=())
    refuses(["top is 1"], neighbour_enrichment, z, y, top=1)
    refuses(["0 ids have a response of their own"], neighbour_enrichment, z, np.ones((30, 4)))

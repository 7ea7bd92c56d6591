import itertools
import warnings
from collections import Counter

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from panmodal.cells.deg import adjust, deg_labels, deg_of_groups, labels, vote, welch
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.errors import InputError


def sums(values):
    return len(values), values.sum(axis=0), (values * values).sum(axis=0)


def scipy_welch(one, other):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of genes that do not vary
        return stats.ttest_ind(one, other, axis=0, equal_var=False)


# Quarters add up without rounding, so that a gene that does not vary has no variance at all.
quarters = st.integers(0, 24).map(lambda k: k / 4)


@st.composite
def two_groups(draw, genes=5):
    groups = [draw(arrays(np.float64, (draw(st.integers(2, 25)), genes), elements=quarters)) for _ in range(2)]
    for group in groups:
        for gene in draw(st.sets(st.integers(0, genes - 1), max_size=3)):
            group[:, gene] = draw(quarters)
    return groups


@given(two_groups())
def test_welch_is_that_of_scipy(groups):
    one, other = groups
    t, p = welch(*sums(one), *sums(other))
    expected = scipy_welch(one, other)
    vary = (np.ptp(one, axis=0) > 0) | (np.ptp(other, axis=0) > 0)
    np.testing.assert_allclose(t[vary], expected.statistic[vary], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(p[vary], expected.pvalue[vary], rtol=1e-8, atol=1e-300)
    np.testing.assert_array_equal(t[~vary], 0)
    np.testing.assert_array_equal(p[~vary], 1)


@given(two_groups())
def test_welch_of_swapped_groups_has_the_other_sign(groups):
    one, other = (sums(group) for group in groups)
    (t, p), (back, same) = welch(*one, *other), welch(*other, *one)
    np.testing.assert_array_equal(t, -back)
    np.testing.assert_array_equal(p, same)


def test_welch_takes_several_rows_at_once():
    rng = np.random.default_rng(0)
    groups, control = [rng.gamma(1.0, size=(n, 6)) for n in (3, 40, 200)], rng.gamma(1.0, size=(50, 6))
    n = np.array([[len(g)] for g in groups])
    t, p = welch(n, *(np.stack(x) for x in zip(*(sums(g)[1:] for g in groups), strict=True)), *sums(control))
    for k, group in enumerate(groups):
        expected = scipy_welch(group, control)
        np.testing.assert_allclose(t[k], expected.statistic, rtol=1e-9)
        np.testing.assert_allclose(p[k], expected.pvalue, rtol=1e-8)


@pytest.mark.parametrize("n", [(1, 1), (1, 30), (30, 1)])
def test_welch_of_a_single_cell_finds_nothing(n):
    rng = np.random.default_rng(0)
    one, other = (rng.gamma(1.0, size=(k, 4)) + shift for k, shift in zip(n, (0, 50), strict=True))
    t, p = welch(*sums(one), *sums(other))
    assert (t.tolist(), p.tolist()) == ([0] * 4, [1] * 4)


def test_welch_stays_exact_far_in_the_tail():
    rng = np.random.default_rng(0)
    one, other = rng.normal(3, 0.1, (60, 3)), rng.normal(0, 0.1, (60, 3))
    p = welch(*sums(one), *sums(other))[1]
    assert (p > 0).all()
    np.testing.assert_allclose(np.log(p), np.log(scipy_welch(one, other).pvalue), rtol=1e-6)


@pytest.mark.parametrize("value", [0.1, 0.7, 1.1, 3.3])
@pytest.mark.parametrize("n", [35, 333])
def test_a_gene_equal_in_all_cells_is_no_deg_for_rounding(value, n):
    # The sums are added up one by one, as they are over cells; 0.1 is not a binary fraction.
    def one_by_one(count):
        return count, np.array([sum([value] * count)]), np.array([sum([value * value] * count)])

    t, p = welch(*one_by_one(n), *one_by_one(500))
    assert labels(t, p).tolist() == [0]
    assert p[0] > 0.9


p_values = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.5, 1.0]))


@given(p_values)
def test_adjusted_values_are_those_of_scipy(p):
    np.testing.assert_allclose(adjust(p), stats.false_discovery_control(p, method="bh"), rtol=1e-12, atol=0)


@given(p_values, st.randoms(use_true_random=False))
def test_adjusted_values_keep_order_and_follow_permutations(p, random):
    adjusted = adjust(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert all(len(set(adjusted[p == value])) == 1 for value in p)
    shuffled = random.sample(range(len(p)), len(p))
    np.testing.assert_array_equal(adjust(p[shuffled]), adjusted[shuffled])


@given(arrays(np.float64, (4, 7), elements=st.floats(0, 1)))
def test_rows_are_adjusted_apart(p):
    np.testing.assert_allclose(adjust(p), stats.false_discovery_control(p, axis=1), rtol=1e-12)


def test_adjusted_by_hand():
    # 4 p-values: 0.01 * 4/1, 0.02 * 4/2, 0.03 * 4/3, 0.9 * 4/4
    np.testing.assert_allclose(adjust(np.array([0.9, 0.01, 0.03, 0.02])), [0.9, 0.04, 0.04, 0.04])


def test_labels_are_signs_of_what_is_significant():
    t, adjusted = np.array([2.0, -2, 2, -2, 0]), np.array([0.05, 0.049, 0.0500001, 1, 0.01])
    found = labels(t, adjusted)
    assert (found.tolist(), found.dtype) == ([1, -1, 0, 0, 0], np.int8)
    assert labels(t, adjusted, alpha=0.049).tolist() == [0, -1, 0, 0, 0]


def plain_vote(votes):
    """Majority; ties (0, 1) -> 1, (0, -1) -> -1, (1, -1) -> 0, all three -> 0."""
    counted = Counter(votes)
    most = {label for label, n in counted.items() if n == max(counted.values())}
    if len(most) == 1:
        return most.pop()
    return {frozenset({0, 1}): 1, frozenset({0, -1}): -1}.get(frozenset(most), 0)


@pytest.mark.parametrize("plates", [1, 2, 3, 4, 5, 6])
def test_votes_of_plates(plates):
    every = np.array([*itertools.product([-1, 0, 1], repeat=plates)], dtype=np.int8)
    found = vote(every.T)
    assert found.dtype == np.int8
    assert found.tolist() == [plain_vote(v) for v in every.tolist()]


def test_votes_by_hand():
    cases = {
        (0, 1): 1,
        (0, -1): -1,
        (1, -1): 0,
        (1, 0, -1): 0,
        (0, 0, 1): 0,
        (1, 1, 0, 0, -1): 1,
        (1, 1, -1, -1, 0): 0,
        (-1,): -1,
    }
    assert [vote(np.array(v, dtype=np.int8)[:, None])[0] for v in cases] == list(cases.values())


def planted(perturbations, plates=("",), genes=40, seed=0, controls=60):
    """Counts with planted effects: {perturbation: cells on each plate}; the last two genes do not vary."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.0, 2.0, genes)
    blocks, obs = [], []
    for pert, cells in {"control": [controls] * len(plates), **perturbations}.items():
        effect = np.exp(rng.normal(0, 0.6, genes) * (rng.random(genes) < 0.4)) if pert != "control" else np.ones(genes)
        for plate, n in zip(plates, cells, strict=True):
            drift = np.exp(rng.normal(0, 0.3, genes))
            blocks.append(rng.poisson(base * effect * drift * rng.gamma(5, 0.2, (n, 1))))
            obs += [(pert, plate)] * n
    x = np.vstack(blocks)
    x[:, -2], x[:, -1] = 0, 0
    order = rng.permutation(len(x))
    table = pd.DataFrame(obs, columns=["perturbation", "plate"]).iloc[order].set_axis([f"c{k}" for k in range(len(x))])
    var = pd.DataFrame(index=[f"g{k}" for k in range(genes)])
    return anndata.AnnData(sp.csr_matrix(x[order].astype(np.float64)), obs=table, var=var)


def logs_of(adata):
    x = adata.X.toarray()
    total = x.sum(axis=1, keepdims=True)
    return np.log1p(x * 1e4 / np.where(total == 0, 1, total))


def labels_of(screen):
    return pd.DataFrame(screen.adata.layers["deg"], index=screen.adata.obs["pert_id"], columns=screen.readouts)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("batch_col", ["none", "plate"])
def test_pooled_labels_are_those_of_scanpy(tmp_path, seed, batch_col):
    import scanpy as sc

    sizes = {"A": [20, 25], "B": [15, 16], "C": [15, 15], "D": [90, 60], "E": [2, 40]}
    adata = planted(sizes, ("p", "q"), seed=seed)
    adata.write_h5ad(tmp_path / "s.h5ad")
    options = PrepareOptions(deg="pooled", rule="pooled", batch_col=batch_col)
    screen = prepare(open_cells([tmp_path / "s.h5ad"], options), n_jobs=1)
    found = labels_of(screen)
    assert screen.adata.layers["deg"].dtype == np.int8
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.obs["perturbation"] = adata.obs["perturbation"].astype("category")
    sc.tl.rank_genes_groups(adata, "perturbation", method="t-test", reference="control")
    tested = screen.adata.obs.set_index("pert_id")["deg_tested"]
    assert tested.to_dict() == {"A": True, "B": True, "C": False, "D": True, "E": True}  # C has 30 cells
    for pert in "ABDE":
        table = sc.get.rank_genes_groups_df(adata, pert).set_index("names").loc[screen.readouts]
        expected = np.sign(table["scores"]).where(table["pvals_adj"] <= 0.05, 0)
        assert found.loc[pert].tolist() == expected.tolist()
    assert (found.loc["C"] == 0).all()
    n_deg = screen.adata.obs.set_index("pert_id")["n_deg"]
    assert n_deg.to_dict() == {p: -1 if p == "C" else int((found.loc[p] != 0).sum()) for p in "ABCDE"}
    assert set(np.unique(found)) == {-1, 0, 1}


@pytest.mark.parametrize("rule", ["matched", "pooled"])
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_of_plates_are_the_vote_of_their_tests(tmp_path, seed, rule):
    plates = ("p", "q", "r", "s")
    sizes = {
        "A": [21, 25, 40, 30],
        "B": [20, 30, 0, 60],
        "C": [20, 20, 20, 20],
        "D": [0, 0, 21, 0],
        "E": [30, 31, 5, 20],
    }
    adata = planted(sizes, plates, seed=seed, controls=40)
    adata.write_h5ad(tmp_path / "s.h5ad")
    screen = prepare(open_cells([tmp_path / "s.h5ad"], PrepareOptions(rule=rule, deg="vote")), n_jobs=2)
    found, logs = labels_of(screen), logs_of(adata)
    disagree = 0
    for pert, cells in sizes.items():
        votes = []
        for plate, n in zip(plates, cells, strict=True):
            here = (adata.obs["plate"] == plate).to_numpy()
            if n > 20:
                one, other = (logs[here & (adata.obs["perturbation"] == name).to_numpy()] for name in (pert, "control"))
                t, p = scipy_welch(one, other)
                p = stats.false_discovery_control(np.where(np.isnan(p), 1, p))
                votes.append(np.where(p <= 0.05, np.sign(t), 0).astype(int))
        expected = [plain_vote(v) for v in zip(*votes, strict=True)] if votes else [0] * adata.n_vars
        disagree += sum(len(set(v)) > 1 for v in zip(*votes, strict=True))
        assert found.loc[pert].tolist() == expected, pert
    tested = screen.adata.obs.set_index("pert_id")["deg_tested"]
    assert tested.to_dict() == {"A": True, "B": True, "C": False, "D": True, "E": True}
    assert disagree > 20
    assert set(np.unique(found)) == {-1, 0, 1}


def test_the_test_is_chosen_by_rule_and_plates(tmp_path):
    adata = planted({"A": [40, 40]}, ("p", "q"))
    adata.write_h5ad(tmp_path / "s.h5ad")
    path = [tmp_path / "s.h5ad"]
    assert open_cells(path).test == "vote"
    assert open_cells(path, PrepareOptions(rule="pooled")).test == "pooled"
    assert open_cells(path, PrepareOptions(deg="pooled")).test == "pooled"
    adata[adata.obs["plate"] == "p"].write_h5ad(tmp_path / "s.h5ad")
    assert open_cells(path).test == "pooled"
    without = prepare(open_cells(path, PrepareOptions(deg="none")), n_jobs=1)
    assert "deg" not in without.adata.layers
    assert "deg_tested" not in without.adata.obs


def test_controls_of_another_context_take_no_part(tmp_path):
    one, two = planted({"A": [40, 40]}, ("p", "q"), seed=1), planted({"A": [40, 40]}, ("p", "q"), seed=2)
    adata = anndata.concat({"x": one, "y": two}, label="cell_line", index_unique="-")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    adata.write_h5ad(tmp_path / "s.h5ad")
    screen = prepare(open_cells([tmp_path / "s.h5ad"], PrepareOptions(deg="pooled")), n_jobs=1)
    logs = logs_of(adata)
    for row, context in enumerate(screen.adata.obs["cell_line"]):
        here = (adata.obs["cell_line"] == context).to_numpy()
        t, p = scipy_welch(*(logs[here & (adata.obs["perturbation"] == name).to_numpy()] for name in ("A", "control")))
        significant = stats.false_discovery_control(np.where(np.isnan(p), 1, p)) <= 0.05
        np.testing.assert_array_equal(screen.adata.layers["deg"][row], np.where(significant, np.sign(t), 0))
        assert significant.sum() > 3


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_groups_of_cells_in_memory_get_the_labels_of_welch_and_bh(form):
    rng = np.random.default_rng(0)
    groups = rng.choice(["ctrl", "a", "b", "few"], p=[0.4, 0.3, 0.25, 0.05], size=300)
    cells = np.log1p(rng.poisson(1.0 + (groups == "a")[:, None] * rng.random(40), size=(300, 40)))
    found = deg_of_groups(form(cells), groups, "ctrl")
    assert list(found.index) == ["a", "b"] and found.to_numpy().any()
    for name in found.index:
        t, p = stats.ttest_ind(cells[groups == name], cells[groups == "ctrl"], equal_var=False)
        expected = np.where(stats.false_discovery_control(p) <= 0.05, np.sign(t), 0)
        np.testing.assert_array_equal(found.loc[name], expected)


def test_groups_of_cells_in_memory_are_refused_without_controls():
    with pytest.raises(InputError, match="control group 'none'"):
        deg_of_groups(np.ones((4, 2)), ["a", "a", "b", "b"], "none")
    with pytest.raises(InputError, match="4 cells but 3"):
        deg_of_groups(np.ones((4, 2)), ["a", "a", "b", None], "a")


@given(
    st.integers(2, 40),
    st.integers(2, 60),
    st.integers(1, 50),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 0.05, 0.5]),
)
def test_the_short_way_to_labels_is_the_long_way(n1, n0, genes, seed, alpha):
    rng = np.random.default_rng(seed)
    level = 3 * rng.random(genes)
    one, other = (
        rng.poisson(level, (3, n1, genes)) * 1.0,
        rng.poisson(level * rng.choice([0.4, 1, 2.5], genes), (n0, genes)) * 1.0,
    )
    moments = n1, one.sum(axis=1), (one**2).sum(axis=1), n0, other.sum(axis=0), (other**2).sum(axis=0)
    t, p = welch(*moments)
    np.testing.assert_array_equal(deg_labels(*moments, alpha), labels(t, adjust(p), alpha))

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from panmodal import Card, Embedding
from panmodal.embeddings.builders.combine import BUILDERS, build_concat, build_mean, build_pca_concat
from panmodal.embeddings.combine import concat, mean, pca_concat
from panmodal.embeddings.embed import make_embedding, regenerate

SIZES = st.tuples(st.integers(6, 14), st.integers(1, 6), st.integers(2, 6), st.integers(0, 3), st.integers(0, 50))


def make(name, ids, vectors, **card):
    return Embedding(tuple(ids), np.asarray(vectors, dtype=float), Card(name=name, **card))


def some(sizes, count=2):
    """Random embeddings of partly the same ids, rows in random order."""
    n, a, b, shift, seed = sizes
    rng = np.random.default_rng(seed)
    made = []
    for k, dims in zip(range(count), itertools.cycle((a, b))):
        ids = [f"G{i:02d}" for i in range(k * shift, n + k * shift)]
        order = rng.permutation(n)
        made.append(
            make(f"e{k}", [ids[i] for i in order], rng.standard_normal((n, dims)) * rng.uniform(0.1, 9, dims) + 5)
        )
    return made


def scaled(embedding, ids):
    """Z-scored over all rows, total variance 1; written with scikit-learn."""
    order = np.argsort(embedding.ids)
    z = StandardScaler().fit_transform(embedding.vectors[order])
    row = {embedding.ids[i]: k for k, i in enumerate(order)}
    return z[[row[i] for i in ids]] / np.sqrt(embedding.dims)


# Concat


@given(SIZES)
def test_concat_is_the_formula(sizes):
    one, two = some(sizes)
    made = concat([one, two])
    assert list(made.ids) == sorted(set(one.ids) & set(two.ids))
    np.testing.assert_allclose(made.vectors, np.hstack([scaled(one, made.ids), scaled(two, made.ids)]), atol=1e-12)
    assert set(made.left_out) == set(one.ids) ^ set(two.ids)


@given(SIZES)
def test_the_order_of_embeddings_only_orders_the_columns(sizes):
    embeddings = some(sizes)
    made, swapped = concat(embeddings), concat(embeddings[::-1])
    assert made.ids == swapped.ids
    assert made.left_out == swapped.left_out
    first = embeddings[0].dims
    np.testing.assert_array_equal(made.vectors, np.roll(swapped.vectors, first, axis=1))


@given(SIZES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(sizes, random):
    embeddings = some(sizes)
    order = random.sample(range(len(embeddings[0].ids)), len(embeddings[0].ids))
    shuffled = make("e0", [embeddings[0].ids[i] for i in order], embeddings[0].vectors[order])
    for how in (concat, pca_concat, mean):
        np.testing.assert_array_equal(how([shuffled, embeddings[1]]).vectors, how(embeddings).vectors)


def test_all_blocks_weigh_the_same():
    rng = np.random.default_rng(0)
    ids = [f"G{k}" for k in range(50)]
    made = concat(
        [make("wide", ids, 9 * rng.standard_normal((50, 40))), make("slim", ids, rng.standard_normal((50, 3)))]
    )
    variance = made.vectors.var(axis=0)
    np.testing.assert_allclose([variance[:40].sum(), variance[40:].sum()], 1)
    plain = concat(
        [make("wide", ids, np.eye(50)), make("slim", ids, rng.standard_normal((50, 3)))],
        standardise=False,
        equal_weight=False,
    )
    assert plain.vectors[:, :50].sum() == 50
    assert plain.notes == ("columns: wide: 50, slim: 3",)


def test_columns_that_do_not_vary_are_left_out_and_noted():
    x = np.random.default_rng(0).standard_normal((6, 3))
    x[:, 1] = 0.1
    made = concat([make("a", "ABCDEF", x), make("b", "ABCDEF", x[:, [0, 2]])])
    assert made.vectors.shape == (6, 4)
    assert made.notes[0] == "a: 1 of 3 columns do not vary and are left out"


# Missing ids


def test_missing_ids_are_left_out_or_filled():
    rng = np.random.default_rng(1)
    one, two = (
        make("one", "ABCD", rng.standard_normal((4, 2)) + 3),
        make("two", "BCDE", rng.standard_normal((4, 2)) - 2),
    )
    cut = concat([one, two])
    assert cut.ids == ("B", "C", "D")
    assert cut.left_out == {"A": "no vector in two", "E": "no vector in one"}
    for rule, word in (("zero", "zeros"), ("mean", "the mean")):
        made = concat([one, two], missing=rule)
        assert made.ids == tuple("ABCDE")
        assert made.left_out == {}
        assert made.notes[:2] == (
            f"one: 1 of 5 ids have no vector and count as {word} ('E')",
            f"two: 1 of 5 ids have no vector and count as {word} ('A')",
        )
        np.testing.assert_allclose(made.vectors[0, 2:], 0, atol=1e-15)
        np.testing.assert_array_equal(made.vectors[1:4], cut.vectors)
    raw = concat([one, two], missing="mean", standardise=False, equal_weight=False)
    np.testing.assert_allclose(raw.vectors[0, 2:], two.vectors.mean(axis=0))


def test_names_may_differ_from_ids():
    rng = np.random.default_rng(1)
    one, two = make("one", "ABC", rng.standard_normal((3, 2))), make("two", "XYZ", rng.standard_normal((3, 2)))
    made = concat([one, two], names=[{"A": "A", "B": "B"}, {"A": "X", "B": "Y", "B2": "Y"}])
    assert made.ids == ("A", "B")
    assert made.left_out == {"B2": "no vector in one", "C": "no vector in two", "Z": "no vector in one"}
    same = concat([one, make("two", "ABC", two.vectors)])
    np.testing.assert_array_equal(made.vectors, same.vectors[:2])


# PCA


@given(SIZES)
def test_pca_concat_is_the_formula(sizes):
    one, two = some(sizes)
    made = pca_concat([one, two], each=3)
    blocks = []
    for e in (one, two):
        z = scaled(e, sorted(e.ids))
        scores = PCA(min(3, e.dims), svd_solver="full").fit_transform(z)
        scores /= np.sqrt(scores.var(axis=0).sum())
        blocks.append(scores[[sorted(e.ids).index(i) for i in made.ids]])
    expected = np.hstack(blocks)
    flip = np.sign((made.vectors * expected).sum(axis=0))
    np.testing.assert_allclose(made.vectors * flip, expected, atol=1e-7)


def test_final_pca_of_the_result():
    one, two = some((14, 5, 4, 1, 0))
    made = pca_concat([one, two], each=4, final=3)
    whole = pca_concat([one, two], each=4)
    assert whole.vectors.shape == (13, 8)
    expected = PCA(3, svd_solver="full").fit_transform(whole.vectors)
    flip = np.sign((made.vectors * expected).sum(axis=0))
    np.testing.assert_allclose(made.vectors * flip, expected, atol=1e-9)
    assert made.notes[-1] == "3 components of the 8 columns, fitted on the 13 rows of the result"


# Mean


def consensus_mean(embeddings, dims):
    """The formula, written with scikit-learn and SciPy."""
    common = sorted(set.intersection(*(set(e.ids) for e in embeddings)))
    blocks = []
    for e in embeddings:
        ids = sorted(e.ids)
        scores = PCA(min(dims, e.dims), svd_solver="full").fit_transform(scaled(e, ids))
        scores = np.pad(scores / np.sqrt(scores.var(axis=0).sum()), ((0, 0), (0, max(0, dims - e.dims))))
        blocks.append(scores[[ids.index(i) for i in common]])
    u, s, _ = np.linalg.svd(np.hstack(blocks), full_matrices=False)
    consensus = u[:, :dims] * s[:dims]
    return np.mean([b @ orthogonal_procrustes(b, consensus)[0] for b in blocks], axis=0)


@pytest.mark.parametrize("count", [2, 3])
def test_mean_is_the_formula(count):
    embeddings = some((14, 5, 4, 1, 3), count)
    made = mean(embeddings)
    expected = consensus_mean(embeddings, 4)
    assert made.vectors.shape == expected.shape
    flip = np.sign((made.vectors * expected).sum(axis=0))
    np.testing.assert_allclose(made.vectors * flip, expected, atol=1e-8)
    assert made.notes[-1] == f"4 dimensions, rotations fitted on {len(made.ids)} ids in common"


@given(SIZES.filter(lambda s: s[0] > s[1] + s[2] + 6), st.permutations(range(3)))
def test_mean_is_commutative(sizes, order):
    embeddings = some(sizes, 3)
    made, other = mean(embeddings), mean([embeddings[k] for k in order])
    assert made.ids == other.ids
    np.testing.assert_allclose(made.vectors @ made.vectors.T, other.vectors @ other.vectors.T, atol=1e-7)
    plain = [make(f"e{k}", e.ids, e.vectors[:, :1]) for k, e in enumerate(embeddings)]
    np.testing.assert_allclose(
        mean(plain, align=False).vectors, mean([plain[k] for k in order], align=False).vectors, atol=1e-12
    )


@given(st.integers(0, 30))
def test_mean_of_rotated_copies_is_the_copy(seed):
    rng = np.random.default_rng(seed)
    ids = [f"G{k:02d}" for k in range(20)]
    x = rng.standard_normal((20, 4)) * [5, 3, 2, 1]
    turned = [make(f"e{k}", ids, x @ np.linalg.qr(rng.standard_normal((4, 4)))[0] + k) for k in range(3)]
    made = mean(turned, standardise=False)
    centred = x - x.mean(axis=0)
    expected = centred @ centred.T / centred.var(axis=0).sum()
    np.testing.assert_allclose(made.vectors @ made.vectors.T, expected, atol=1e-9)


def test_a_plain_mean_would_lose_what_rotation_keeps():
    rng = np.random.default_rng(0)
    ids = [f"G{k:02d}" for k in range(20)]
    x = rng.standard_normal((20, 4))
    one, two = make("a", ids, x), make("b", ids, -x)
    assert np.abs(mean([one, two], align=False).vectors).max() < 1e-12
    assert np.abs(mean([one, two]).vectors).max() > 0.1


def test_mean_over_those_that_have_the_id():
    x = np.random.default_rng(2).standard_normal((6, 3))
    one, two = make("one", "ABCDEF", x), make("two", "ABCDE", x[:5])
    have = mean([one, two], missing="mean")
    zero = mean([one, two], missing="zero")
    assert have.ids == zero.ids == tuple("ABCDEF")
    np.testing.assert_array_equal(have.vectors[:5], zero.vectors[:5])
    np.testing.assert_allclose(have.vectors[5], 2 * zero.vectors[5])
    assert mean([one, two]).left_out == {"F": "no vector in two"}


def test_more_dimensions_than_one_embedding_has():
    embeddings = some((14, 2, 5, 0, 3))
    made = mean(embeddings, dims=4)
    expected = consensus_mean(embeddings, 4)
    np.testing.assert_allclose(made.vectors @ made.vectors.T, expected @ expected.T, atol=1e-8)


# What is refused


@pytest.mark.parametrize(
    ("how", "options", "says"),
    [
        (concat, {"missing": "drop"}, ["no rule 'drop' for missing ids", "intersect, zero, mean"]),
        (pca_concat, {"each": 0}, ["--each must be at least 1"]),
        (pca_concat, {"final": 0}, ["--final must be at least 1"]),
        (mean, {"dims": -1}, ["--dims must be at least 1"]),
        (mean, {"align": False}, ["must have the same dimensions", "e0: 5", "e1: 4"]),
    ],
)
def test_bad_options_are_refused(how, options, says, refuses):
    refuses(says, how, some((14, 5, 4, 1, 0)), **options)


@pytest.mark.parametrize("how", [concat, pca_concat, mean])
def test_bad_embeddings_are_refused(how, refuses):
    one, two = some((8, 3, 3, 0, 0))
    refuses(["1 embedding(s) given", "at least two"], how, [one])
    still = make("still", one.ids, np.ones((8, 2)))
    for standardise in (True, False):
        refuses(["'still': all 8 vectors are the same"], how, [two, still], standardise=standardise)
    apart = make("apart", [f"ENSG{k}" for k in range(8)], two.vectors)
    refuses(["0 id(s) in common", "e0 has 'G00'", "apart has 'ENSG0'", "--ids"], how, [one, apart])


def test_mean_needs_two_common_ids(refuses):
    one, two = make("a", "ABC", np.eye(3)), make("b", "CDE", np.eye(3))
    refuses(["1 id(s) in common"], mean, [one, two])


def test_two_embeddings_of_one_name_are_told_apart():
    one, _ = some((8, 3, 3, 0, 0))
    assert concat([one, one]).notes == ("columns: e0 (1): 3, e0 (2): 3",)


# Builders


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    genes = ["TP53", "MYC", "KRAS", "EGFR", "BRCA1", "PTEN"]
    ensembl = [
        "ENSG00000141510",
        "ENSG00000136997",
        "ENSG00000133703",
        "ENSG00000146648",
        "ENSG00000012048",
        "ENSG00000171862",
    ]
    left = make(
        "left",
        genes,
        rng.standard_normal((6, 4)),
        modality="text",
        trained_on=("a", "b"),
        licence="CC0",
        id_namespace="hgnc_symbol",
    )
    right = make(
        "right",
        ensembl,
        rng.standard_normal((6, 3)),
        modality="network",
        trained_on=("b", "c"),
        licence="MIT",
        simulated=True,
    )
    paths = tmp_path / "left.h5ad", tmp_path / "right.npz"
    left.write(paths[0])
    right.write(paths[1])
    return paths


@pytest.mark.parametrize("builder", [b.name for b in BUILDERS])
def test_ids_of_a_screen_join_embeddings_of_different_names(files, builder):
    ids = ["MYC", "TP53", "EGFR+PTEN", "KRAS", "BRCA1"]
    made = make_embedding(builder, ids=ids, embeddings=[str(f) for f in files])
    assert set(made.embedding.ids) == {"MYC", "TP53", "EGFR", "PTEN", "KRAS", "BRCA1"}
    assert made.embedding.coverage(ids).missing == ()
    card = made.embedding.card
    assert (card.modality, card.trained_on, card.licence, card.simulated) == (
        "text+network",
        ("a", "b", "c"),
        "CC0; MIT",
        True,
    )
    assert "left, right" in card.description
    assert regenerate(made.embedding).embedding.digest == made.embedding.digest


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (("none",), ("none",), ("none",)),
        (("none",), (), ()),
        (("none",), ("depmap",), ("depmap",)),
        (("depmap",), (), ("depmap",)),
    ],
)
def test_no_screen_was_seen_only_if_no_part_saw_one(tmp_path, left, right, both):
    x = np.random.default_rng(0).standard_normal((4, 2))
    make("left", "ABCD", x, trained_on=left).write(tmp_path / "left.npz")
    make("right", "ABCD", x, trained_on=right).write(tmp_path / "right.npz")
    built = build_concat(embeddings=(tmp_path / "left.npz", tmp_path / "right.npz"))
    assert built.card["trained_on"] == both
    assert ("not said what it was trained on: 'right'" in built.notes) == (not right)


def test_the_wanted_ids_do_not_change_the_vectors(files):
    ids = ["MYC", "TP53", "KRAS", "EGFR", "PTEN", "BRCA1"]
    few = build_concat(embeddings=files, ids=ids[:3])
    every = build_concat(embeddings=files, ids=ids)
    rows = [every.ids.index(i) for i in few.ids]
    np.testing.assert_array_equal(few.vectors, every.vectors[rows])
    assert few.left_out["PTEN"] == "no vector in right"


def test_without_ids_names_must_agree(files, refuses):
    refuses(["0 id(s) in common", "--ids"], build_pca_concat, embeddings=files)


def test_a_key_of_an_h5ad_file_is_an_embedding(tmp_path):
    import anndata
    import pandas as pd

    rng = np.random.default_rng(0)
    names = pd.DataFrame(index=[f"G{k}" for k in range(9)])
    both = {"one": rng.standard_normal((9, 3)), "two": rng.standard_normal((9, 2))}
    anndata.AnnData(obs=names, obsm=both).write_h5ad(tmp_path / "e.h5ad")
    made = make_embedding("concat", embeddings=[f"{tmp_path}/e.h5ad#one", f"{tmp_path}/e.h5ad#two"])
    assert made.embedding.vectors.shape == (9, 5)
    expected = concat([make("one", names.index, both["one"]), make("two", names.index, both["two"])])
    np.testing.assert_allclose(made.embedding.vectors, expected.vectors, atol=1e-6)


def test_one_file_given_twice_is_refused(files, refuses):
    refuses(["is given twice"], build_mean, embeddings=(files[0], files[0]))

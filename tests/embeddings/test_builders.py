import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from panmodal.embeddings.annotation import annotation_svd
from panmodal.embeddings.card import Card
from panmodal.embeddings.embedded import EMBEDDED, embedded_embedding
from panmodal.embeddings.factorise import truncated_svd
from panmodal.embeddings.homology import homology_svd
from panmodal.embeddings.network import adjacency, netmf
from panmodal.screens.embedded import embedded_screen

CARD = Card(name="e")


def random_edges(n=30, p=0.2, seed=0):
    """Edge list with repeated, reversed and looped edges, and its dense adjacency and weights."""
    rng = np.random.default_rng(seed)
    dense = np.triu(rng.random((n, n)) < p, 1)
    dense[np.arange(n - 1), np.arange(1, n)] = True  # no node without edges
    names = np.array([f"G{k:02d}" for k in rng.permutation(n)])
    i, j = np.nonzero(dense)
    edges = pd.DataFrame({"a": names[i], "b": names[j], "w": rng.uniform(0.1, 1, len(i))})
    extra = edges.iloc[:5].rename(columns={"a": "b", "b": "a"}).assign(w=0.05)
    loops = pd.DataFrame({"a": names[:3], "b": names[:3], "w": 1.0})
    order = np.argsort(names)
    weights = np.zeros((n, n))
    weights[i, j] = weights[j, i] = edges["w"]
    listed = pd.concat([edges, extra, loops, edges.iloc[5:9]]).sample(frac=1, random_state=seed)
    return listed, sorted(names), weights[np.ix_(order, order)]


def dense_factors(matrix, dims):
    u, s, _ = np.linalg.svd(matrix)
    return u[:, :dims] * np.sqrt(s[:dims])


def assert_same_up_to_sign(vectors, expected, atol=1e-5):
    signs = np.sign((vectors * expected).sum(axis=0))
    np.testing.assert_allclose(vectors, expected * signs, atol=atol)


# Networks


@pytest.mark.parametrize("weight", [None, "w"])
def test_adjacency_is_symmetric_without_loops_or_repeats(weight):
    edges, names, weights = random_edges()
    found, graph = adjacency(edges, weight=weight)
    assert found == names
    np.testing.assert_allclose(graph.toarray(), weights if weight else weights > 0)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("weight", [None, "w"])
def test_netmf_is_the_dense_formula(window, weight):
    edges, names, weights = random_edges()
    dense = weights if weight else (weights > 0).astype(float)
    degree = dense.sum(axis=1)
    walk = np.diag(1 / degree) @ dense
    powers = sum(np.linalg.matrix_power(walk, r) for r in range(1, window + 1))
    matrix = np.log(np.maximum(1, degree.sum() / window * powers @ np.diag(1 / degree)))
    embedding = netmf(edges, CARD, dims=6, window=window, weight=weight)
    assert list(embedding.ids) == names
    assert_same_up_to_sign(embedding.vectors, dense_factors(matrix, 6))


def test_netmf_does_not_depend_on_the_order_of_edges():
    edges, _, _ = random_edges()
    turned = edges.iloc[::-1].rename(columns={"a": "b", "b": "a"})
    assert netmf(turned, CARD, dims=4).digest == netmf(edges, CARD, dims=4).digest


def test_names_may_be_numbers():
    names, _ = adjacency(pd.DataFrame({"a": [1, 10, 2], "b": [2, 2, 1]}))
    assert names == ["1", "10", "2"]


@pytest.mark.parametrize(
    ("edges", "options", "says"),
    [
        ({"a": ["A"], "c": ["B"]}, {}, ["no column(s) ['b']", "['a', 'c']"]),
        ({"a": ["A"], "b": ["B"]}, {"weight": "w"}, ["no column(s) ['w']"]),
        ({"a": ["A", None], "b": ["B", "C"]}, {}, ["1 row(s) have an empty 'a' or 'b'"]),
        ({"a": ["A", "B"], "b": ["A", "B"]}, {}, ["no edges"]),
        ({"a": [], "b": []}, {}, ["no edges"]),
        ({"a": ["A"], "b": ["B"], "w": [0.0]}, {"weight": "w"}, ["weights 'w' must be positive"]),
        ({"a": ["A"], "b": ["B"], "w": [-1.0]}, {"weight": "w"}, ["weights 'w' must be positive"]),
        ({"a": ["A"], "b": ["B"], "w": [np.nan]}, {"weight": "w"}, ["weights 'w' must be positive"]),
        ({"a": ["A"], "b": ["B"], "w": ["high"]}, {"weight": "w"}, ["weights 'w' must be positive"]),
        ({"a": ["A", "B"], "b": ["B", "C"]}, {}, ["shape (3, 3) has no 128 dimensions", "ask for fewer"]),
    ],
)
def test_a_bad_edge_list_is_refused(edges, options, says, refuses):
    refuses(says, netmf, pd.DataFrame(edges), CARD, **options)


# Annotation


def random_pairs(seed=0, genes=40, terms=25):
    rng = np.random.default_rng(seed)
    table = rng.random((genes, terms)) < 0.15
    table[:, 0] = True
    table[:, 1] = np.arange(genes) == 3  # a term of a single gene
    g, t = np.nonzero(table)
    pairs = pd.DataFrame({"gene": [f"G{k:02d}" for k in g], "term": [f"T{k:02d}" for k in t]})
    return pd.concat([pairs, pairs.iloc[::7]]).sample(frac=1, random_state=seed), table


def test_annotation_weights_are_those_of_scikit_learn():
    pairs, table = random_pairs()
    counts = table[:, table.sum(axis=0) > 1].astype(float)
    weighted = TfidfTransformer(norm="l2", use_idf=True, smooth_idf=True).fit_transform(counts).toarray()
    embedding = annotation_svd(pairs, CARD, dims=5)
    assert list(embedding.ids) == [f"G{k:02d}" for k in range(40)]
    assert_same_up_to_sign(embedding.vectors, dense_factors(weighted, 5))


def test_genes_without_a_shared_term_are_left_out():
    pairs, _ = random_pairs()
    lonely = pd.DataFrame({"gene": ["X", "X", "X"], "term": ["only", "only", "mine"]})
    assert annotation_svd(pd.concat([pairs, lonely]), CARD, dims=5).digest == annotation_svd(pairs, CARD, dims=5).digest


def test_columns_may_have_other_names():
    pairs, _ = random_pairs()
    renamed = pairs.rename(columns={"gene": "symbol", "term": "pathway"})
    built = annotation_svd(renamed, CARD, dims=3, gene="symbol", term="pathway")
    assert built.digest == annotation_svd(pairs, CARD, dims=3).digest


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ({"gene": ["A"], "go": ["x"]}, ["no column(s) ['term']", "['gene', 'go']"]),
        ({"gene": ["A", None], "term": ["x", "x"]}, ["1 row(s) have an empty 'gene' or 'term'"]),
        ({"gene": ["A", "B"], "term": ["x", np.nan]}, ["1 row(s) have an empty 'gene' or 'term'"]),
        ({"gene": ["A", "B"], "term": ["x", "y"]}, ["shape (0, 0) has no 128 dimensions"]),
    ],
)
def test_bad_annotation_is_refused(pairs, says, refuses):
    refuses(says, annotation_svd, pd.DataFrame(pairs), CARD)


# Homology


def test_homology_is_the_dense_formula():
    edges, names, weights = random_edges()
    embedding = homology_svd(edges.rename(columns={"w": "id"}), CARD, dims=6)
    assert list(embedding.ids) == names
    assert_same_up_to_sign(embedding.vectors, dense_factors(weights + np.eye(len(names)), 6))


# Factorisation


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (15, 15)])
def test_truncated_svd_is_numpys(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    scores = truncated_svd(matrix, 5)
    assert_same_up_to_sign(scores, dense_factors(matrix, 5), atol=1e-9)
    assert (scores[np.abs(scores).argmax(axis=0), range(5)] > 0).all()
    np.testing.assert_array_equal(scores, truncated_svd(matrix, 5))


def test_a_dimension_of_another_component_is_zero():
    blocks = np.kron(np.diag([3.0, 1.0]), np.ones((4, 4)))
    scores = truncated_svd(blocks, 2)
    np.testing.assert_allclose(scores, np.kron(np.diag(np.sqrt([3.0, 1.0])), np.ones((4, 1))))
    assert (scores[:4, 1] == 0).all()


def test_too_many_dimensions_are_refused(refuses):
    refuses(["shape (3, 9) has no 3 dimensions to keep"], truncated_svd, np.ones((3, 9)), 3)


# Shipped


@pytest.fixture
def fewer_genes(monkeypatch):
    """Shipped tables of every eighth gene, so that building from them is quick."""
    read = pd.read_parquet

    def read_part(stream):
        frame = read(stream)
        columns = [c for c in ("gene", "a", "b") if c in frame]
        if not columns:
            return frame
        kept = sorted(set(frame[columns[0]]))[::8]
        return frame[frame[columns].isin(kept).all(axis=1)]

    monkeypatch.setattr(pd, "read_parquet", read_part)


@pytest.mark.usefixtures("fewer_genes")
@pytest.mark.parametrize("name", list(EMBEDDED))
def test_shipped_embeddings_are_what_they_say(name):
    embedding = embedded_embedding(name)
    assert (embedding.name, embedding.dims) == (name, 128)
    assert embedding.card.licence
    assert embedding.card.source
    assert embedding.card.id_namespace == "hgnc_symbol"
    assert len(set(embedding.ids) & set(embedded_screen("depmap-fitness").pert_ids)) > 10


def test_an_unknown_embedding_lists_the_shipped(refuses):
    refuses(["no shipped embedding 'x'", "string-netmf, go-svd"], embedded_embedding, "x")

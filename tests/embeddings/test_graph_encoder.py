import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from panmodal.embeddings.builders.graph_encoder import BUILDERS, build_graph_encoder
from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.graph_model import Training, auc, train_encoder
from panmodal.embeddings.network import adjacency

GROUPS = 4


def planted(n=120, inside=0.3, outside=0.02, seed=0):
    """Edges of a network of four groups, and the group of each node."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % GROUPS
    share = np.where(group[:, None] == group[None, :], inside, outside)
    i, j = np.nonzero(np.triu(rng.random((n, n)) < share, 1))
    edges = pd.DataFrame(
        {"a": [f"G{k:03d}" for k in i], "b": [f"G{k:03d}" for k in j], "w": rng.uniform(0.5, 1, len(i))}
    )
    return edges, group


@pytest.fixture(scope="module")
def graph():
    edges, group = planted()
    names, matrix = adjacency(edges)
    return matrix, group[[int(name[1:]) for name in names]]


@pytest.mark.parametrize(
    ("encoder", "negatives", "inputs"),
    [("gcn", "uniform", None), ("gcn", "degree", None), ("gin", "uniform", None), ("gcn", "uniform", "random")],
)
def test_links_are_predicted_and_groups_found(graph, encoder, negatives, inputs):
    matrix, group = graph
    given = np.random.default_rng(1).standard_normal((len(group), 32)).astype(np.float32) if inputs else None
    how = Training(encoder, dims=16, hidden=32, epochs=200, patience=20, negatives=negatives)
    trained = train_encoder(matrix, given, how)
    assert trained.vectors.shape == (len(group), 16)
    assert trained.auc[trained.best - 1] == max(trained.auc) > 0.7
    unit = trained.vectors / np.linalg.norm(trained.vectors, axis=1, keepdims=True)
    found = KMeans(GROUPS, n_init=5, random_state=0).fit_predict(unit)
    assert adjusted_rand_score(group, found) > 0.3
    assert trained.stopped
    assert len(trained.auc) == trained.best + 20


def test_training_ends_with_the_epochs(graph):
    trained = train_encoder(graph[0], None, Training(dims=8, hidden=16, epochs=3, patience=5))
    assert (len(trained.auc), trained.stopped) == (3, False)


def test_seeds_and_batches_matter_and_repeat(graph):
    how = {"dims": 8, "hidden": 16, "epochs": 4}
    one, again, other, parts = (
        train_encoder(graph[0], None, Training(**how, **more)).vectors for more in ({}, {}, {"seed": 1}, {"batch": 100})
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, parts)


def test_the_generator_of_others_is_left_as_it_was(graph):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_encoder(graph[0], None, Training(dims=4, hidden=4, epochs=1))
    assert torch.rand(1) == expected


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    right, wrong = rng.integers(0, 9, 50), rng.integers(0, 7, 80)
    labels = np.repeat([1, 0], [50, 80])
    assert auc(right, wrong) == pytest.approx(roc_auc_score(labels, np.concatenate([right, wrong])))


@pytest.mark.parametrize("inputs", ["learned", "random", "degree"])
@pytest.mark.parametrize("encoder", ["gcn", "gin"])
def test_the_builder_says_how_training_went(tmp_path, encoder, inputs):
    options = BUILDERS[0].example(tmp_path) | {"encoder": encoder, "inputs": inputs, "weighted": True}
    built = build_graph_encoder(**options)
    assert built.vectors.shape == (36, 8)
    assert np.isfinite(built.vectors).all()
    assert built.left_out == {"G36": "no edge with combined_score >= 400"}
    assert built.card == {"trained_on": ()}
    assert any(re.match(r"validation AUC 0\.\d+ at epoch \d of [45] \(", note) for note in built.notes)


def test_nodes_may_enter_with_an_embedding(tmp_path, refuses):
    options = BUILDERS[0].example(tmp_path)
    ids = tuple(f"G{k:02d}" for k in range(30))
    vectors = np.random.default_rng(0).standard_normal((30, 5))
    Embedding(ids, vectors, Card(name="text")).write(tmp_path / "e.csv")
    built = build_graph_encoder(**options, features=tmp_path / "e.csv")
    assert len(built.ids) == 36
    assert any("6 of 36 are not in it" in note for note in built.notes)
    Embedding(tuple("XY"), vectors[:2], Card(name="other")).write(tmp_path / "o.csv")
    refuses(["o.csv: has none of the nodes ('G00'"], build_graph_encoder, **options, features=tmp_path / "o.csv")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, ["epochs must be above 0"]),
        ({"dims": -1, "layers": 0}, ["dims, layers must be above 0"]),
        ({"validation": 1.0}, ["validation must be between 0 and 1"]),
        ({"dropout": 1.0}, ["dropout from 0 to below 1"]),
        ({"batch": -1}, ["batch 0 or more"]),
        ({"device": "abacus"}, ["device 'abacus' cannot be used"]),
        ({"learning_rate": 1e30}, ["training diverged", "lower learning_rate"]),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_options_are_refused(graph, options, says, refuses):
    refuses(says, train_encoder, graph[0], None, Training(**({"dims": 4, "hidden": 4, "epochs": 3} | options)))


def test_networks_that_cannot_be_learned_are_refused(refuses):
    few = adjacency(pd.DataFrame({"a": ["A", "B"], "b": ["B", "C"]}))[1]
    refuses(["2 links are too few"], train_encoder, few, None, Training())
    full = pd.DataFrame([(f"{i:02d}", f"{j:02d}") for i in range(12) for j in range(i)], columns=["a", "b"])
    refuses(["66 of 66 pairs are linked", "higher min_score"], train_encoder, adjacency(full)[1], None, Training())
    star = pd.DataFrame({"a": ["hub"] * 30, "b": [f"n{k}" for k in range(30)]})
    both = pd.concat(
        [star, pd.DataFrame({"a": ["hub2"] * 30, "b": star["b"]}), pd.DataFrame({"a": ["hub"], "b": ["hub2"]})]
    )
    assert train_encoder(adjacency(both)[1], None, Training(epochs=1, dims=4, hidden=4, negatives="degree")).auc

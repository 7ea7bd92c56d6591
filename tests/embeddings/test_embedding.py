import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Coverage, Embedding

GENES = ["A", "B", "C", "D", "E"]
VECTORS = arrays(np.float64, (5, 3), elements=st.floats(-1e3, 1e3))


def make(vectors=None, ids=("A", "B", "A+C"), **options):
    vectors = np.arange(6.0).reshape(3, 2) if vectors is None else vectors
    return Embedding(ids, vectors, Card(name="e"), **options)


@given(VECTORS, st.lists(st.lists(st.sampled_from(GENES), min_size=1, max_size=3, unique=True), max_size=6))
def test_a_combination_is_the_sum_or_mean_of_its_parts(vectors, combinations):
    ids = ["+".join(c) for c in combinations]
    rows = [[GENES.index(g) for g in c] for c in combinations]
    added = np.array([vectors[r].sum(axis=0) for r in rows]).reshape(-1, 3)
    averaged = np.array([vectors[r].mean(axis=0) for r in rows]).reshape(-1, 3)
    np.testing.assert_allclose(make(vectors, GENES).matrix(ids), added, atol=1e-9)
    np.testing.assert_allclose(make(vectors, GENES, combine="mean").matrix(ids), averaged, atol=1e-9)


@given(VECTORS, st.permutations(range(5)))
def test_the_digest_does_not_depend_on_the_order_of_rows(vectors, order):
    assert make(vectors[order], [GENES[k] for k in order]).digest == make(vectors, GENES).digest


@given(VECTORS, st.integers(0, 4), st.integers(0, 2))
def test_the_digest_changes_with_any_value(vectors, row, column):
    changed = vectors.copy()
    changed[row, column] = np.nextafter(changed[row, column] + 1.0, np.inf)
    assert make(changed, GENES).digest != make(vectors, GENES).digest


def test_the_digest_knows_the_rule_of_composition_but_not_the_card():
    assert make(combine="mean").digest != make().digest
    assert Embedding(make().ids, make().vectors, Card(name="x", source="y")).digest == make().digest


def test_a_vector_of_its_own_goes_before_the_sum():
    embedding = make(ids=("A", "B", "B+A"))
    for name in ("A+B", "B+A", "B + A"):
        np.testing.assert_array_equal(embedding.matrix([name]), [[4, 5]])
        assert embedding.coverage([name]) == Coverage((name,), (), ())


def test_control_parts_count_for_nothing():
    np.testing.assert_array_equal(make().matrix(["A+ctrl", "ctrl+B"]), [[0, 1], [2, 3]])


def test_coverage_tells_own_composed_and_missing():
    coverage = make().coverage(["A", "B+A", "A+C", "C", "B+C", "A"])
    assert coverage == Coverage(("A", "B+A", "A+C"), ("B+A",), ("C", "B+C"))
    assert coverage.fraction == 0.6
    assert str(coverage) == "3 of 5 ids (60.0 %), 1 of them composed from their parts; missing 'C', 'B+C'"
    assert make(combine="none").coverage(["A+B", "A+C"]).missing == ("A+B",)
    assert make().coverage([]).fraction == 0.0


@pytest.mark.parametrize(("missing", "options"), [("C", {}), ("B+C", {}), ("A+B", {"combine": "none"})])
def test_an_uncovered_id_is_named(missing, options, refuses):
    refuses([f"embedding 'e' has no vector for '{missing}'"], make(**options).matrix, ["A", missing])


def test_matrix_is_float64_in_the_order_asked_for():
    matrix = make(np.eye(3, dtype=np.float16)).matrix(["B", "A", "B"])
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, np.eye(3)[[1, 0, 1]])
    assert make().matrix([]).shape == (0, 2)


def test_restricted_writes_compositions_out():
    kept = make().restricted(["A+B", "A"])
    assert (kept.ids, kept.combine) == (("A+B", "A"), "none")
    np.testing.assert_array_equal(kept.vectors, [[2, 4], [0, 1]])


def test_the_card_learns_the_dimensions():
    embedding = make()
    assert (embedding.card.dims, embedding.dims, embedding.name) == (2, 2, "e")
    assert repr(embedding) == "Embedding('e', unknown: 3 ids x 2 dims)"


@pytest.mark.parametrize("dtype", ["int8", "bool", "float16", "float32", "uint64"])
def test_numbers_of_any_type_are_taken(dtype):
    assert make(np.ones((3, 2), dtype)).digest == make(np.ones((3, 2))).digest


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ids": ("A", "B")}, ["2 ids but vectors of shape (3, 2)", "(ids, dims)"]),
        ({"vectors": np.ones(3)}, ["3 ids but vectors of shape (3,)"]),
        ({"vectors": np.ones((0, 2)), "ids": ()}, ["empty (0 ids, 2 dimensions)"]),
        ({"vectors": np.ones((3, 0))}, ["empty (3 ids, 0 dimensions)"]),
        ({"vectors": np.full((3, 2), "x")}, ["vectors hold <U1, not numbers"]),
        ({"vectors": np.full((3, 2), None)}, ["vectors hold object, not numbers"]),
        ({"vectors": np.ones((3, 2), complex)}, ["vectors hold complex128"]),
        ({"combine": "max"}, ["combine is 'max'", "sum, mean, none"]),
        ({"ids": ("A", "B", "A")}, ["id 'A' appear(s) more than once", "one vector for each id"]),
        ({"ids": ("A+B", "C", "B+A")}, ["id 'A+B' appear(s) more than once"]),
        ({"ids": ("A", "C", "A+ctrl")}, ["id 'A' appear(s) more than once"]),
        ({"ids": ("A", "", "B")}, ["the id is empty in row(s) '2'"]),
        ({"ids": ("A", None, np.nan)}, ["the id is empty in row(s) '2', '3'"]),
        (
            {"vectors": np.array([[1, 2], [np.nan, 1], [1, 1]])},
            ["1 embedding value(s)", "first nan at id 'B', column '0'"],
        ),
        ({"vectors": np.array([[1, np.inf], [np.nan, 1], [1, 1]])}, ["2 embedding value(s)", "rows 'A', 'B'"]),
    ],
)
def test_a_bad_embedding_is_refused(options, says, refuses):
    refuses(["embedding 'e': ", *says], make, **options)


def test_a_card_of_other_dimensions_is_refused(refuses):
    refuses(
        ["the card says 3 dimensions, the vectors have 2"], Embedding, ("A",), np.ones((1, 2)), Card(name="e", dims=3)
    )


def test_from_dict():
    embedding = Embedding.from_dict({46912230: [1, 2], "007": [3, 4]}, "mine", modality="text", trained_on=["x"])
    assert embedding.ids == ("46912230", "007")
    assert (embedding.name, embedding.card.modality, embedding.card.trained_on) == ("mine", "text", ("x",))


@pytest.mark.parametrize(
    ("vectors", "card", "says"),
    [
        ({"A": [1], "B": [1, 2]}, {}, ["vectors of different lengths [1, 2]"]),
        ({}, {}, ["0 ids"]),
        ({"A": [1]}, {"colour": "red"}, ["the card is not valid (colour: ", "Fields are name"]),
    ],
)
def test_a_bad_dictionary_is_refused(vectors, card, says, refuses):
    refuses(["embedding 'e'", *says], Embedding.from_dict, vectors, "e", **card)

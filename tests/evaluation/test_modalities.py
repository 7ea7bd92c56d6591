"""Vectors of several embeddings side by side: what is there, what is not, and what is said of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal import Card, Embedding
from panmodal.evaluation.modalities import coverage_words, modalities_of


def embedding(name, ids, dims=3, combine="sum", seed=0):
    vectors = np.random.default_rng([seed, dims]).standard_normal((len(ids), dims)).astype(np.float32)
    return Embedding(tuple(ids), vectors, Card(name=name, modality="toy"), combine=combine)


def test_rows_are_vectors_or_absent():
    first, second = embedding("first", "ABC"), embedding("second", "BD", dims=5)
    made = modalities_of([first, second], ["D", "B", "A", "X"])
    assert made.names == ("first", "second")
    assert [v.shape for v in made.values] == [(4, 3), (4, 5)]
    assert all(v.dtype == np.float64 for v in made.values)
    np.testing.assert_array_equal(made.present, [[False, True], [True, True], [True, False], [False, False]])
    np.testing.assert_array_equal(made.values[0][1:3], first.matrix(["B", "A"]))
    np.testing.assert_array_equal(made.values[1][:2], second.matrix(["D", "B"]))
    for own, values in zip(made.present.T, made.values, strict=True):
        assert np.isnan(values[~own]).all()
        assert np.isfinite(values[own]).all()
    np.testing.assert_array_equal(made.covered, [True, True, True, False])


@pytest.mark.parametrize(("combine", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_combinations_are_composed_as_the_embedding_says(combine, factor):
    parts, whole = embedding("parts", "AB", combine=combine), embedding("whole", ["A", "B", "B+A"], combine="none")
    made = modalities_of([parts, whole, embedding("alone", "AB", combine="none")], ["A+B", "A"])
    np.testing.assert_allclose(made.values[0][0], factor * parts.vectors.sum(axis=0, dtype=float))
    np.testing.assert_array_equal(made.values[1][0], whole.vectors[2])
    np.testing.assert_array_equal(made.present, [[True, True, False], [True, True, True]])


@given(st.lists(st.sets(st.sampled_from("ABCDEFGH"), min_size=1), min_size=1, max_size=4), st.permutations("ABCDEFGHI"))
def test_a_row_depends_on_its_id_alone(known, ids):
    given_ = [embedding(f"e{k}", sorted(own), dims=k + 1) for k, own in enumerate(known)]
    made, swapped = modalities_of(given_, ids), modalities_of(given_, ids[::-1])
    np.testing.assert_array_equal(made.present, swapped.present[::-1])
    for a, b in zip(made.values, swapped.values, strict=True):
        np.testing.assert_array_equal(a, b[::-1])
    np.testing.assert_array_equal(made.present, [[i in own for own in known] for i in ids])
    said = coverage_words(made, ids)
    assert said[0].startswith("9 perturbations with a vector: ")
    assert sum("lacks" in line for line in said) == len(known)


def test_no_ids_are_no_rows():
    made = modalities_of([embedding("e", "AB")], [])
    assert len(made) == 0
    assert made.values[0].shape == (0, 3)
    assert coverage_words(made, [], "wanted ids") == ["There are no wanted ids."]


def test_words():
    made = modalities_of([embedding("e", "ABC"), embedding("f", "AD")], list("ABCDX"))
    assert coverage_words(made, list("ABCDX"), "measured") == [
        "5 measured with a vector: 1 in all 2 modalities, 3 in 1, 1 in none.",
        "'e' lacks 2 of 5: 'D', 'X'.",
        "'f' lacks 3 of 5: 'B', 'C', 'X'.",
    ]
    assert coverage_words(made.part([0]), ["A"]) == ["1 perturbations with a vector: 1 in all 2 modalities."]
    assert coverage_words(made.only(["e"]).part([0, 4]), ["A", "X"]) == [
        "2 perturbations with a vector: 1 in the one modality, 1 in none.",
        "'e' lacks 1 of 2: 'X'.",
    ]


def test_wrong_input_is_refused(refuses):
    one = embedding("e", "AB")
    refuses(["no embedding", "at least one"], modalities_of, [], ["A"])
    refuses(["two embeddings are named 'e'", "NAME=FILE"], modalities_of, [one, one], ["A"])
    refuses(["two ids are 'A'"], modalities_of, [one], ["A", "B", "A"])
    refuses(["2 ids for 1 rows"], coverage_words, modalities_of([one], ["A"]), ["A", "B"])

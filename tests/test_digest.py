import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from panmodal._digest import LENGTH, digest_json, digest_table

FINITE = st.floats(-1e6, 1e6, width=32)
TABLES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE)


def table(values, ids=None, columns=None, dtype="<f4"):
    ids = [f"P{k}" for k in range(len(values))] if ids is None else ids
    columns = [f"g{k}" for k in range(values.shape[1])] if columns is None else columns
    return digest_table(ids, columns, values, dtype)


def test_json_digest_does_not_depend_on_the_order_of_keys():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json({"a": [1, 2]}) != digest_json({"a": [2, 1]})
    assert len(digest_json(None)) == LENGTH


def test_json_digest_is_stable_across_versions():
    text = '{"fold":1,"gene":"µ"}'
    assert digest_json({"gene": "µ", "fold": 1}) == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_json_digest_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        digest_json([float("nan")])


@given(TABLES, st.randoms(use_true_random=False))
def test_table_digest_does_not_depend_on_the_order_of_rows(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert table(values[order], ids=[f"P{k}" for k in order]) == table(values)


@given(TABLES, st.data())
def test_table_digest_changes_with_any_value(values, data):
    row = data.draw(st.integers(0, values.shape[0] - 1))
    column = data.draw(st.integers(0, values.shape[1] - 1))
    changed = values.copy()
    changed[row, column] = np.nextafter(changed[row, column], np.float32(np.inf), dtype=np.float32)
    assert table(changed) != table(values)


@given(TABLES)
def test_table_digest_is_of_the_numbers_not_of_their_layout(values):
    assert table(np.asfortranarray(values.astype(np.float64))) == table(values)


def test_zero_has_no_sign():
    assert table(np.array([[0.0, -0.0]])) == table(np.array([[-0.0, 0.0]]))


@pytest.mark.parametrize(
    "other",
    [
        {"ids": ["P0", "Px"]},
        {"ids": ["P1", "P0"]},
        {"columns": ["g1", "g0"]},
        {"columns": ["g0", "gx"]},
        {"dtype": "<f8"},
    ],
)
def test_table_digest_changes_with_its_labels(other):
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert table(values, **other) != table(values)


def test_shape_is_part_of_the_digest():
    assert digest_table(["A", "B"], ["x"], np.ones((2, 1)), "<f4") != digest_table(
        ["A"], ["x", "y"], np.ones((1, 2)), "<f4"
    )

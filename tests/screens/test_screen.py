import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from panmodal.screens.screen import RESPONSE_KINDS, Screen, response_kind


def make(values=None, ids=("B", "A", "A"), contexts=("x", "x", "y"), readouts=("g1", "g2"), response="lfc", **options):
    values = np.arange(6.0).reshape(3, 2) - 2 if values is None else values
    return Screen.from_arrays(values, ids, contexts, readouts, name="s", response=response, **options)


@pytest.mark.parametrize("name", [*RESPONSE_KINDS, "LFC", " rank-score "])
def test_response_kinds_are_found(name):
    assert response_kind(name, "here").name in RESPONSE_KINDS


def test_an_unknown_kind_lists_the_known(refuses):
    refuses(["here: unknown kind of response 'log2fc'", "lfc, deg"], response_kind, "log2fc", "here")


def test_a_screen_is_sorted_and_complete():
    screen = make()
    assert (screen.contexts, screen.pert_ids, screen.readouts) == (["x", "y"], ["A", "B"], ["g1", "g2"])
    ids, values = screen.responses("x")
    assert ids == screen.ids_in("x") == ["A", "B"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [[0, 1], [-2, -1]])
    assert screen.ids_in("y") == ["A"]


def test_responses_do_not_depend_on_the_order_of_rows():
    a, b = make(), make(np.array([[2, 3], [0, 1], [-2, -1.0]]), ("A", "A", "B"), ("y", "x", "x"))
    np.testing.assert_array_equal(a.responses("x")[1], b.responses("x")[1])
    assert [a.digest(c) for c in "xy"] == [b.digest(c) for c in "xy"]


def test_the_digest_knows_values_kind_and_readouts():
    screen = make(np.ones((3, 2)))
    others = [
        make(np.ones((3, 2)), response="deg"),
        make(np.ones((3, 2)), readouts=("g1", "gx")),
        make(np.ones((3, 2)), ids=("C", "A", "A")),
        make(np.array([[1, 1], [1, 0], [1, 1]])),
    ]
    assert screen.digest("x").startswith("lfc-")
    assert len({screen.digest("x"), *(o.digest("x") for o in others)}) == 5


def test_combinations_are_canonical():
    assert make(ids=("B+A", "A+ctrl", "Ca2+")).pert_ids == ["A", "A+B", "Ca2+"]


@pytest.mark.parametrize("dtype", ["int8", "bool", "float64", "float16"])
def test_any_number_becomes_float32(dtype):
    assert make(np.ones((3, 2), dtype)).responses("x")[1].dtype == np.float32


def test_sparse_values_are_densified():
    dense = make().adata
    sparse = anndata.AnnData(csr_matrix(dense.X), obs=dense.obs, var=dense.var)
    assert Screen(sparse, "s", "lfc").digest("x") == make().digest("x")


NAN, INF = np.full((3, 2), np.nan), np.zeros((3, 2))
INF[1, 1] = np.inf


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": ("A", "A", "A")}, ["'A in x' appear(s) more than once", "Average replicates first"]),
        ({"ids": ("A+B", "B+A", "A")}, ["'A+B in x' appear(s) more than once"]),
        ({"ids": ("A", "A+ctrl", "B")}, ["'A in x' appear(s) more than once"]),
        ({"ids": ("A", "DMSO", "non-targeting")}, ["'DMSO', 'non-targeting' name control cells", "--drop-controls"]),
        ({"ids": ("A", "ctrl+ctrl", "B")}, ["'ctrl' name control cells"]),
        ({"ids": ("A", None, "B")}, ["pert_id is empty in row(s) '2'"]),
        ({"ids": ("A", "B", "")}, ["pert_id is empty in row(s) '3'"]),
        ({"contexts": ("x", np.nan, "y")}, ["cell_line is empty in row(s) '2'"]),
        ({"readouts": ("g1", "g1")}, ["read-out 'g1' appear(s) more than once", "Make them unique"]),
        ({"values": NAN}, ["6 response value(s) are NaN or infinite", "id 'B (x)', column 'g1'"]),
        ({"values": INF}, ["first inf at id 'A (x)', column 'g2'"]),
        ({"values": np.full((3, 2), 1e300)}, ["6 response value(s) are NaN or infinite"]),
        ({"response": "deg"}, ["a deg screen holds labels (-1, 0, 1) only, but -2 was found"]),
        ({"response": "deg", "values": np.full((3, 2), 0.5)}, ["(-1, 0, 1) only, but 0.5"]),
        ({"response": "counts"}, ["unknown kind of response 'counts'"]),
        ({"values": np.zeros((0, 2)), "ids": (), "contexts": ()}, ["empty (0 rows, 2 read-outs)"]),
        ({"values": np.zeros((3, 0)), "readouts": ()}, ["empty (3 rows, 0 read-outs)"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_bad_screen_is_refused(change, says, refuses):
    refuses(["screen 's'", *says], make, **change)


@pytest.mark.parametrize("column", ["pert_id", "cell_line"])
def test_a_missing_column_is_named(column, refuses):
    adata = make().adata
    adata.obs = adata.obs.rename(columns={column: "other"})
    refuses([f"obs has no column '{column}'", "'other'"], Screen, adata, "s", "lfc")


@pytest.mark.parametrize(("values", "says"), [(None, "X is empty"), (np.ones((3, 2), complex), "X holds complex128")])
def test_values_that_are_no_numbers(values, says, refuses):
    dense = make().adata
    refuses([says], Screen, anndata.AnnData(values, obs=dense.obs, var=dense.var), "s", "lfc")


def test_categories_with_a_gap_are_refused(refuses):
    adata = make().adata
    adata.obs["pert_id"] = pd.Categorical(["A", None, "B"])
    refuses(["pert_id is empty in row(s) '2'"], Screen, adata, "s", "lfc")


def test_deg_labels_are_kept():
    labels = np.array([[-1, 0], [1, 1], [0, 0]], np.int8)
    np.testing.assert_array_equal(make(labels, response="deg").responses("x")[1], [[1, 1], [-1, 0]])


def test_select_keeps_contexts_and_everything_else():
    screen = make(simulated=True, description="d")
    screen.notes.append("n")
    kept = screen.select(["y"])
    assert (kept.contexts, kept.pert_ids) == (["y"], ["A"])
    assert (kept.simulated, kept.description, kept.notes) == (True, "d", ["n"])
    assert kept.digest("y") == screen.digest("y")
    assert screen.contexts == ["x", "y"]


def test_an_unknown_context_lists_the_known(refuses):
    refuses(["screen 's' has no context 'z'", "'x', 'y'"], make().select, ["z", "x"])
    refuses(["screen 's' has no context 'z'", "'x', 'y'"], make().responses, "z")


def test_repr_marks_simulated_data():
    assert (
        repr(make(simulated=True))
        == "Screen('s', lfc, simulated: 2 perturbations x 2 context(s), 3 rows x 2 read-outs)"
    )

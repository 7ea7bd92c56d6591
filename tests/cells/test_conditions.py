import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal.cells.columns import FILE, Columns, choose_rule, find_columns, texts
from panmodal.cells.conditions import lay_out, restrict
from panmodal.perturbation_ids import control_family

W = "cells.h5ad"


def table(perturbation=("ctrl", "ctrl", "A", "A", "B", "B"), **columns):
    frame = pd.DataFrame({"perturbation": list(perturbation), **{k: list(v) for k, v in columns.items()}})
    return frame.set_axis([f"c{k}" for k in range(len(frame))], axis=0)


def layout_of(obs, columns=None, **options):
    return lay_out(obs, columns or find_columns(obs, W), W, **options)


def rows(layout):
    """Say of each cell the (context, perturbation) row or (context, batch) control group that it is in."""

    def name(r):
        if r < 0:
            return None
        if r < layout.n_rows:
            return layout.contexts[r], layout.pert_ids[r]
        k = r - layout.n_rows
        return layout.control_contexts[k], "control", layout.batch_names[layout.control_batches[k]]

    return [name(r) for r in layout.row]


@pytest.mark.parametrize(
    "label",
    ["non-targeting", "control", "ctrl", "DMSO_TF", "DMSO", "Vehicle", "NT", "NTC", "untreated", "unperturbed", "mock"],
)
def test_a_usual_control_label_is_found(label):
    obs = table([label, "A", label, "B"])
    assert find_columns(obs, W).controls == (label,)
    layout = layout_of(obs)
    assert (layout.pert_ids, layout.control_cells.tolist()) == (("A", "B"), [2])


@pytest.mark.parametrize(
    "labels",
    [
        ["non-targeting_001", "non-targeting_002", "non-targeting_117"],
        ["non-targeting", "non-targeting_1"],
        ["safe-targeting", "safe-targeting-1"],
        ["non-targeting_1", "non-targeting_g2"],
        ["NTC1", "NTC-2", "ntc_3"],
        ["ctrl_1", "ctrl_2", "CTRL"],
        ["NegCtrl0", "NegCtrl10"],
        ["sgNonTargeting_1", "sgNonTargeting_2"],
        ["safe-targeting-1", "safe-targeting-2"],
        ["DMSO_TF", "DMSO_TF_1"],
    ],
)
def test_guides_of_one_control_are_taken_together(labels):
    obs = table([*labels, "A", "A"])
    assert set(find_columns(obs, W).controls) == set(labels)
    assert len({control_family(label) for label in labels}) == 1
    layout = layout_of(obs)
    assert (layout.pert_ids, layout.control_cells.tolist(), layout.dropped) == (("A",), [len(labels)], {})


@pytest.mark.parametrize("label", ["NTRK1", "CTRL+A", "DMSOX", "CONTROLLED", "NT5E", "MOCK1", "non", "Ctrl9a", "A+B"])
def test_a_gene_that_looks_like_a_control_is_none(label, refuses):
    assert control_family(label) is None
    refuses(["no control cells found", f"'{label}'", "--control LABEL"], find_columns, table([label, "A"]), W)


def test_controls_of_two_kinds_are_refused_with_their_numbers(refuses):
    obs = table(["DMSO"] * 3 + ["untreated"] * 2 + ["A"])
    says = [W, "several kinds of control", "'DMSO' (3 cells)", "'untreated' (2 cells)", "--control"]
    refuses(says, find_columns, obs, W)
    guides = table(["non-targeting_1", "non-targeting_2", "safe-targeting-1", "A"])
    refuses(["'non-targeting_1', 'non-targeting_2' (2 cells)", "'safe-targeting-1' (1 cells)"], find_columns, guides, W)


def test_a_category_without_cells_is_no_kind_of_control():
    obs = table(["ctrl", "A"])
    obs["perturbation"] = pd.Categorical(obs["perturbation"], categories=["A", "DMSO", "ctrl"])
    assert find_columns(obs, W).controls == ("ctrl",)


def test_given_controls_are_taken_and_others_left_out_with_a_count():
    obs = table(["DMSO"] * 3 + ["untreated"] * 2 + ["A"] * 4)
    layout = layout_of(obs, find_columns(obs, W, controls=["DMSO"]))
    assert layout.dropped == {"other control 'untreated'": 2}
    assert layout.pert_ids == ("A",)
    assert layout.row.tolist() == [1] * 3 + [-1] * 2 + [0] * 4
    both = layout_of(obs, find_columns(obs, W, controls=["DMSO", "untreated"]))
    assert (both.control_cells.tolist(), both.dropped) == ([5], {})


def test_a_gene_may_be_given_as_the_control():
    obs = table(["AAVS1", "AAVS1", "A", "ctrl"])
    layout = layout_of(obs, find_columns(obs, W, controls=["AAVS1"]))
    assert rows(layout) == [("all", "control", "")] * 2 + [("all", "A"), None]
    assert layout.dropped == {"other control 'ctrl'": 1}


@pytest.mark.parametrize("other", ["non-targeting_2", "safe-targeting-1", "DMSO_3"])
def test_numbered_controls_that_are_not_given_are_left_out(other):
    obs = table(["non-targeting_1", other, other, "A"])
    layout = layout_of(obs, find_columns(obs, W, controls=["non-targeting_1"]))
    assert layout.pert_ids == ("A",)
    assert layout.dropped == {f"other control {other!r}": 2}


def test_a_given_control_that_is_not_there_is_refused(refuses):
    refuses(
        ["no label 'dmso' for --control", "it has 'A', 'DMSO'"],
        find_columns,
        table(["DMSO", "A"]),
        W,
        controls=["dmso"],
    )


def test_columns_are_found_by_name():
    obs = table(batch=[1] * 6, cell_type=["x"] * 6)
    assert find_columns(obs, W) == Columns("perturbation", ("ctrl",), "batch", ("cell_type",), ())
    upper = obs.rename(columns=str.upper)
    assert find_columns(upper, W) == Columns("PERTURBATION", ("ctrl",), "BATCH", ("CELL_TYPE",), ())
    bare = find_columns(table(), W)
    assert (bare.batch, bare.context) == (None, ())


def test_of_several_columns_one_is_taken_and_the_others_told():
    obs = table(gene=["x"] * 6, plate=["p"] * 6, batch=["b"] * 6, cell_line=["c"] * 6, cell_type=["t"] * 6)
    found = find_columns(obs, W)
    assert (found.perturbation, found.batch, found.context) == ("perturbation", "batch", ("cell_line",))
    notes = "\n".join(found.notes)
    for part in (
        "'perturbation'; also present: gene (",
        "'batch'; also present: plate (",
        "'cell_line'; also present: cell_type (",
    ):
        assert part in notes
    given_ = find_columns(
        obs.assign(gene=["ctrl", *"ABCDE"]), W, pert_col="gene", batch_col="plate", context_col=["cell_type"]
    )
    assert (given_.perturbation, given_.batch, given_.context, given_.notes) == ("gene", "plate", ("cell_type",), ())


def test_no_batches_on_request():
    assert find_columns(table(batch=range(6)), W, batch_col="none").batch is None


def test_a_varying_dose_is_told():
    notes = find_columns(table(dose=[1, 1, 1, 1, 1, 10], time=[24] * 6), W).notes
    assert len(notes) == 1
    assert "'dose' varies; its values are averaged (--context-col dose" in notes[0]
    assert find_columns(table(dose=range(6)), W, context_col=["dose"]).notes == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pert_col": "zz"}, ["no column 'zz' for the perturbation", "--pert-col"]),
        ({"batch_col": "zz"}, ["no column 'zz' for the batch", "--batch-col"]),
        ({"context_col": ["plate", "zz"]}, ["no column 'zz' for the context", "--context-col"]),
        ({"batch_col": "plate", "context_col": ["plate"]}, ["'plate' is both batch and context"]),
    ],
)
def test_a_given_column_is_checked(options, says, refuses):
    refuses([W, *says], find_columns, table(plate=["p"] * 6), W, **options)


def test_no_perturbation_column_is_refused(refuses):
    obs = table().rename(columns={"perturbation": "what"})
    refuses(["no perturbation column found among 'what'", "--pert-col"], find_columns, obs, W)


def test_several_files_are_contexts_or_else_batches():
    obs = table(file=["f", "g"] * 3)
    assert find_columns(obs, W, several_files=True).context == (FILE,)
    found = find_columns(obs.assign(cell_line="x"), W, several_files=True)
    assert (found.batch, found.context) == (FILE, ("cell_line",))
    assert "the files are the batches" in found.notes[-1]
    assert find_columns(obs.assign(cell_line="x"), W, several_files=True, batch_col="none").batch is None
    assert find_columns(obs.assign(cell_line="x", plate=1), W, several_files=True).batch == "plate"


def test_several_files_can_be_the_batches_of_one_context():
    found = find_columns(table(file=["f", "g"] * 3), W, several_files=True, batch_col=FILE)
    assert (found.batch, found.context) == (FILE, ())


@pytest.mark.parametrize(
    ("given_", "batch", "expected"),
    [("auto", "plate", "matched"), ("auto", "Plate_ID", "matched"), ("auto", "batch", "pooled"), ("auto", None, "pooled"),
     ("pooled", "plate", "pooled"), ("matched", "batch", "matched")],
)  # fmt: skip
def test_the_rule_is_matched_where_batches_are_plates(given_, batch, expected):
    assert choose_rule(given_, Columns("p", ("c",), batch)) == expected


def test_an_unknown_rule_is_refused(refuses):
    refuses(["no control rule 'nearest'", "pooled, matched or auto"], choose_rule, "nearest", Columns("p", ("c",)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, np.nan, 10.0], ["1", "2", None, "10"]),
        ([1, 2, 10, 1], ["1", "2", "10", "1"]),
        ([0.5, 1.0, np.nan, 0.5], ["0.5", "1", None, "0.5"]),
        (["a ", " a", "", "b"], ["a", "a", None, "b"]),
        (["nan", "NA", None, "x"], [None, None, None, "x"]),
        (["unassigned", "Unknown", "n/a", "None"], [None, None, None, None]),
        ([7.0, "7", 7, "007"], ["7", "7", "7", "007"]),
        ([True, False, True, True], ["True", "False", "True", "True"]),
        (pd.array([1, 2, None, 1], dtype="Int64"), ["1", "2", None, "1"]),
        (pd.array(["a", None, "b", "a"], dtype="string"), ["a", None, "b", "a"]),
        (pd.Categorical(["b", "a", None, "b"], categories=["b", "z", "a"]), ["b", "a", None, "b"]),
        (pd.Categorical([2.0, 1.0, None, 2.0]), ["2", "1", None, "2"]),
    ],
)
def test_labels_of_a_column_are_text(values, expected):
    labels, codes = texts(pd.Series(values))
    assert labels == sorted(set(labels))
    assert [None if k < 0 else labels[k] for k in codes] == expected


@given(
    st.lists(st.sampled_from(["a", "b", " b", "10", 10, 10.0, 2.5, None, "", "NaN", "nan "]), min_size=1, max_size=12)
)
def test_labels_of_any_column_follow_the_plain_rule(values):
    def plain(value):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        return None if value is None or text.lower() in ("", "nan") else text

    labels, codes = texts(pd.Series(values, dtype=object))
    assert [None if k < 0 else labels[k] for k in codes] == [plain(v) for v in values]


def test_rows_are_sorted_and_controls_grouped_by_context_and_batch():
    obs = table(["B", "A", "ctrl", "A", "ctrl", "ctrl", "B", "A"], batch=list("11121211"), cell_line=list("yyyyyxxx"))
    layout = layout_of(obs)
    assert list(zip(layout.contexts, layout.pert_ids, strict=True)) == [("x", "A"), ("x", "B"), ("y", "A"), ("y", "B")]
    assert layout.batch_names == ("1", "2")
    assert rows(layout) == [
        ("y", "B"), ("y", "A"), ("y", "control", "1"), ("y", "A"), ("y", "control", "1"), ("x", "control", "2"), ("x", "B"),
        ("x", "A"),
    ]  # fmt: skip
    assert (layout.n_rows, layout.n_groups, layout.dropped, layout.left_out) == (4, 6, {}, {})
    assert layout.counts().tolist() == [1, 1, 2, 1, 1, 2]
    assert [layout.controls_of(c).tolist() for c in "xyz"] == [[0], [1], []]


def test_without_columns_there_is_one_context_and_one_batch():
    layout = layout_of(table(), context_name="K-562")
    assert (set(layout.contexts), layout.batch_names) == ({"K-562"}, ("",))
    assert layout.batch.tolist() == [0] * 6


def test_contexts_may_be_joined_of_two_columns():
    obs = table(["ctrl", "ctrl", "A", "A", "ctrl", "A"], line=list("xyxyxx"), day=[1, 2, 1, 2, 2, 2])
    columns = find_columns(obs, W, context_col=["line", "day"])
    layout = layout_of(obs, columns)
    assert layout.contexts == ("x | 1", "x | 2", "y | 2")
    assert [r[0] for r in rows(layout)] == ["x | 1", "y | 2", "x | 1", "y | 2", "x | 2", "x | 2"]
    missing = obs.assign(day=[1, None, 1, 2, 2, 2])
    layout = layout_of(
        missing.assign(perturbation=["ctrl", "ctrl", "A", "ctrl", "ctrl", "A"]), columns, drop_unassigned=True
    )
    assert layout.contexts == ("x | 1", "x | 2")
    assert layout.dropped == {"no context (day)": 1, "control cells of contexts without perturbations": 1}


def test_combinations_are_one_perturbation_however_written():
    layout = layout_of(table(["ctrl", "A+B", "B+A", "A", "A+ctrl", "ctrl+A", "B + A", "B"]))
    assert layout.pert_ids == ("A", "A+B", "B")
    assert layout.row.tolist() == [3, 1, 1, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("column", "what"), [("perturbation", "perturbation"), ("batch", "batch"), ("cell_line", "context")]
)
@pytest.mark.parametrize("empty", [None, "", "nan", "unassigned", np.nan])
def test_missing_labels_are_refused_and_dropped_on_request(column, what, empty, refuses):
    obs = table(batch=["1"] * 6, cell_line=["x"] * 6).astype(object)
    obs.iloc[[3, 4], obs.columns.get_loc(column)] = empty
    columns = find_columns(obs, W)
    says = [f"{W}: column {column!r} ({what}) is empty for 2 of 6 cells, first 'c3'", "--drop-unassigned"]
    refuses(says, lay_out, obs, columns, W)
    layout = layout_of(obs, columns, drop_unassigned=True)
    assert layout.dropped == {f"no {what} ({column})": 2}
    assert layout.row.tolist() == [2, 2, 0, -1, -1, 1]


def test_numeric_batches_with_gaps_are_named_like_whole_ones(refuses):
    obs = table(["ctrl", "ctrl", "A", "A", "A", "A"], batch=[1, 2, 1.0, 2.0, 10, np.nan])
    refuses(["column 'batch' (batch) is empty for 1 of 6 cells, first 'c5'"], lay_out, obs, find_columns(obs, W), W)
    layout = layout_of(obs, drop_unassigned=True)
    assert set(layout.batch_names) == {"1", "2", "10"}
    assert [layout.batch_names[b] for b in layout.batch[:5]] == ["1", "2", "1", "2", "10"]


def test_rare_perturbations_are_left_out_with_counts(refuses):
    obs = table(["ctrl"] * 3 + ["A"] * 4 + ["B"] * 2 + ["C"], cell_line=list("xxyxxxyxxx"))
    layout = layout_of(obs, min_cells=3)
    assert list(zip(layout.contexts, layout.pert_ids, strict=True)) == [("x", "A")]
    assert layout.left_out == {"B (x)": 2, "C (x)": 1, "A (y)": 1}
    assert layout.dropped == {
        "fewer than 3 cells of a perturbation": 4,
        "control cells of contexts without perturbations": 1,
    }
    assert layout.row.tolist() == [1, 1, -1, 0, 0, 0, -1, -1, -1, -1]
    assert layout_of(obs, min_cells=2).left_out == {"C (x)": 1, "A (y)": 1}
    refuses(["no perturbation is left", "7 cells: fewer than 4"], lay_out, obs, find_columns(obs, W), W, min_cells=4)


def test_conditions_keep_cells_and_count_the_others(refuses):
    obs = table(dose=[1.0, 10, 1, 10, 1, 1], well=list("aabbab"))
    layout = layout_of(obs, keep=["dose=1"])
    assert (layout.row.tolist(), layout.dropped) == ([2, -1, 0, -1, 1, 1], {"not dose=1": 2})
    layout = layout_of(obs, keep=["dose=1", "well=a"])
    assert (layout.row.tolist(), layout.dropped) == ([1, -1, -1, -1, 0, -1], {"not dose=1": 2, "not well=a": 2})
    columns = find_columns(obs, W)
    for condition, says in [
        ("dose", ["--keep 'dose' must be COLUMN=VALUE", "'perturbation', 'dose', 'well'"]),
        ("zz=1", ["--keep 'zz=1' must be COLUMN=VALUE"]),
        ("dose=3", ["column 'dose' has no value '3'; it has '1', '10'"]),
    ]:
        refuses([W, *says], lay_out, obs, columns, W, keep=[condition])


def test_dropped_cells_do_not_decide_what_is_missing():
    obs = table(batch=[1, 1, 1, None, 1, 1], dose=[1, 1, 1, 2, 1, 1])
    assert layout_of(obs, keep=["dose=1"]).dropped == {"not dose=1": 1}


def test_contexts_may_be_chosen(refuses):
    obs = table(["ctrl", "ctrl", "A", "A", "B", "B"], cell_line=list("xyxyxy"))
    layout = layout_of(obs, contexts=["y"])
    assert (set(layout.contexts), layout.control_contexts, layout.dropped) == ({"y"}, ("y",), {"other contexts": 3})
    assert layout.row.tolist() == [-1, 2, -1, 0, -1, 1]
    refuses(["no context 'z'; there are 'x', 'y'"], lay_out, obs, find_columns(obs, W), W, contexts=["x", "z"])


def test_a_context_without_controls_is_refused(refuses):
    obs = table(["ctrl", "ctrl", "A", "A", "B", "B"], cell_line=list("xxxyxx"))
    says = ["context 'y' has no control cells ('ctrl')", "--contexts", "--control"]
    refuses([W, *says], lay_out, obs, find_columns(obs, W), W)
    assert set(layout_of(obs, contexts=["x"]).contexts) == {"x"}


def test_no_control_cells_at_all_is_refused(refuses):
    refuses(["no control cells found", "it has 'A', 'B'", "--control"], find_columns, table(["A", "B"]), W)
    obs = table(dose=[2, 2, 1, 1, 1, 1])
    refuses(["context 'all' has no control cells"], lay_out, obs, find_columns(obs, W), W, keep=["dose=1"])


def test_only_control_cells_is_refused(refuses):
    obs = table(["ctrl", "ctrl"])
    refuses([f"{W}: no perturbation is left (no perturbed cells)"], lay_out, obs, find_columns(obs, W), W)


def test_the_matched_rule_needs_controls_in_each_plate(refuses):
    obs = table(["ctrl", "A", "A", "B", "ctrl", "A"], plate=list("ppqqrr"), cell_line=list("xxxxyy"))
    columns = find_columns(obs, W)
    says = [
        "2 perturbed cells, such as those of 'A'",
        "without control cells: 'q (x)'",
        "--drop-unmatched",
        "--rule pooled",
    ]
    refuses([W, *says], lay_out, obs, columns, W, rule="matched")
    layout = layout_of(obs, columns, rule="matched", drop_unmatched=True)
    assert layout.dropped == {"batch without control cells": 2}
    assert rows(layout) == [("x", "control", "p"), ("x", "A"), None, None, ("y", "control", "r"), ("y", "A")]
    assert layout.matched
    pooled = layout_of(obs, columns, rule="pooled")
    assert (pooled.dropped, pooled.matched, pooled.n_rows) == ({}, False, 3)


def test_controls_of_the_same_plate_in_another_context_do_not_match(refuses):
    obs = table(["ctrl", "A", "ctrl", "A"], plate=list("ppqp"), cell_line=list("xxyy"))
    refuses(["'p (y)'"], lay_out, obs, find_columns(obs, W), W, rule="matched")


def test_nothing_left_says_why(refuses):
    obs = table(["ctrl", "A", "A"], plate=list("pqq"))
    options = {"rule": "matched", "drop_unmatched": True}
    refuses(
        ["no perturbation is left (2 cells: batch without control cells)"],
        lay_out,
        obs,
        find_columns(obs, W),
        W,
        **options,
    )


@st.composite
def screens_of_cells(draw):
    n = draw(st.integers(1, 40))
    perts = draw(st.lists(st.sampled_from(["ctrl", "A", "B", "A+B", "B+A"]), min_size=n, max_size=n))
    batches = draw(st.lists(st.sampled_from(["1", "2", "10"]), min_size=n, max_size=n))
    lines = draw(st.lists(st.sampled_from(["x", "y"]), min_size=n, max_size=n))
    # Each context and batch has a control cell, and one cell is perturbed.
    full = [("ctrl", b, c) for b in ("1", "2", "10") for c in ("x", "y")] + [("A", "1", "x")]
    cells = draw(st.permutations([*zip(perts, batches, lines, strict=True), *full]))
    return pd.DataFrame(cells, columns=["perturbation", "batch", "cell_line"])


@given(screens_of_cells(), st.sampled_from(["pooled", "matched"]))
def test_weights_give_each_batch_of_a_row_an_equal_share(obs, rule):
    layout = layout_of(obs, rule=rule)
    frame = pd.DataFrame({"row": layout.row, "batch": obs["batch"], "weight": layout.weights()})
    assert (frame.loc[frame["row"] < 0, "weight"] == 0).all()
    used = frame[frame["row"] >= 0]
    np.testing.assert_allclose(used.groupby("row")["weight"].sum(), 1, rtol=1e-12)
    shares = used.groupby(["row", "batch"])["weight"].agg(["sum", "nunique"])
    assert (shares["nunique"] == 1).all()
    number = shares.groupby("row")["sum"].transform("size")
    np.testing.assert_allclose(shares["sum"], 1 / number, rtol=1e-12)


@given(screens_of_cells(), st.integers(1, 4))
def test_every_cell_is_in_its_row_or_counted_as_left_out(obs, min_cells):
    ids = obs["perturbation"].replace({"B+A": "A+B"})
    sizes = obs.assign(id=ids)[ids != "ctrl"].groupby(["cell_line", "id"]).size()
    if (sizes < min_cells).all():
        return
    layout = layout_of(obs, min_cells=min_cells)
    kept = sizes[sizes >= min_cells]
    assert list(zip(layout.contexts, layout.pert_ids, strict=True)) == list(kept.index)
    assert layout.counts()[: layout.n_rows].tolist() == kept.tolist()
    assert layout.left_out == {f"{p} ({c})": n for (c, p), n in sizes[sizes < min_cells].items()}
    assert sum(layout.dropped.values()) == (layout.row < 0).sum()
    for cell, place in enumerate(rows(layout)):
        line, batch = obs["cell_line"][cell], obs["batch"][cell]
        if ids[cell] == "ctrl":
            assert place == ((line, "control", batch) if line in layout.contexts else None)
        else:
            assert place == ((line, ids[cell]) if (line, ids[cell]) in kept.index else None)
    groups = layout.groups.set_index(["row", "batch"])["n"].to_dict()
    codes = zip(layout.row.tolist(), layout.batch.tolist(), strict=True)
    counted = pd.Series([c for c in codes if c[0] >= 0]).value_counts().to_dict()
    assert groups == counted


def test_restricted_rows_keep_their_numbers_and_the_controls():
    layout = layout_of(table(["ctrl", "A", "B", "C", "ctrl", "B"]))
    assert layout.row.tolist() == [3, 0, 1, 2, 3, 1]
    assert restrict(layout, [1]).row.tolist() == [3, -1, 1, -1, 3, 1]
    few = layout_of(table(["ctrl", "A", "B", "B"]), min_cells=2)
    assert few.row.tolist() == [1, -1, 0, 0]
    assert restrict(few, [0]).row.tolist() == [1, -1, 0, 0]

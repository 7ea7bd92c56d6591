from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from panmodal.errors import LeakError
from panmodal.perturbation_ids import parts
from panmodal.screens.splits import Split, audit, make_split, read_groups, read_split

ODD = ["007", "1-Mar", "NA", "(+)-JQ1", "Ca2+", "A+B", 'a "b", c', "1,2"]
NAMES = st.lists(st.sampled_from([f"G{k}" for k in range(200)]), unique=True, min_size=4, max_size=40)
PAIRS = st.lists(
    st.lists(st.sampled_from([f"G{k}" for k in range(40)]), unique=True, min_size=1, max_size=2).map("+".join),
    min_size=6, max_size=25,
)  # fmt: skip


def sizes(split):
    return sorted(Counter(split.folds.values()).values())


@pytest.fixture
def csv(tmp_path):
    def write(text, side=None, name="s.csv"):
        (tmp_path / name).write_text(text)
        if side is not None:
            (tmp_path / "s.split.yaml").write_bytes(side)
        return tmp_path / name

    return write


# The laws of make_split


@given(NAMES, st.integers(2, 4), st.integers(0, 5))
def test_folds_differ_by_at_most_one(ids, n_folds, seed):
    split = make_split(ids, n_folds=n_folds, seed=seed)
    assert set(split.folds) == set(ids)
    assert split.numbers == list(range(n_folds))
    assert sizes(split)[-1] - sizes(split)[0] <= 1


@given(NAMES, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_ids(ids, random):
    shuffled = random.sample(ids, len(ids))
    assert make_split(shuffled, n_folds=3) == make_split(ids, n_folds=3)


@given(st.permutations(["A", "A+B", "C", "C+D", "E", "F", "G+H", "H"]))
def test_folds_by_part_do_not_depend_on_the_order_of_ids(ids):
    assert make_split(ids, n_folds=3, unseen="part") == make_split(sorted(ids), n_folds=3, unseen="part")


def test_folds_are_deterministic_and_follow_the_seed():
    ids = [f"G{k}" for k in range(50)]
    assert make_split(ids, seed=1).digest == make_split(ids, seed=1).digest
    assert make_split(ids, seed=1).digest != make_split(ids, seed=2).digest


@given(PAIRS, st.integers(0, 3))
def test_parts_never_straddle_folds(ids, seed):
    try:
        split = make_split(ids, n_folds=2, seed=seed, unseen="part")
    except ValueError as error:
        assert "hang together" in str(error) or "cannot be dealt" in str(error)
        return
    folds = {}
    for i, fold in split.folds.items():
        for part in parts(i):
            assert folds.setdefault(part, fold) == fold
    assert audit(split, split.folds, "here") == []


def test_groups_stay_together():
    groups = {f"G{k}": str(k // 3) for k in range(30)}
    split = make_split(groups, groups=groups)
    for group in set(groups.values()):
        assert len({split.folds[i] for i in groups if groups[i] == group}) == 1
    assert (split.name, sizes(split)) == ("unseen-perturbation-grouped", [6] * 5)


def test_groups_and_parts_hold_together():
    groups = {"A": "1", "B": "1", "C+A": "2", "C": "3", "D": "4", "E": "5", "F": "6", "G": "7", "H": "8"}
    split = make_split(groups, n_folds=2, unseen="part", groups=groups)
    assert len({split.folds[i] for i in ("A", "B", "A+C", "C")}) == 1


def test_parts_that_differ_in_case_only_stay_together():
    split = make_split(["Aa+B", "AA", "C", "D", "E", "F"], n_folds=2, unseen="part")
    assert split.folds["Aa+B"] == split.folds["AA"]


def test_repeated_and_reordered_ids_count_once():
    assert set(make_split(["A", "B+A", "A+B", "C", "A+ctrl"], n_folds=2).folds) == {"A", "A+B", "C"}


@pytest.mark.parametrize(
    ("ids", "options", "says"),
    [
        ("ABC", {}, ["3 perturbations cannot be dealt into 5 folds"]),
        ("", {}, ["0 perturbations cannot be dealt into 5 folds"]),
        ("ABC", {"n_folds": 1}, ["into 1 folds", "at least 2"]),
        ("ABCDE", {"groups": dict.fromkeys("ABCDE", "x")}, ["1 independent groups", "5 folds"]),
        ("ABCDE", {"groups": {"A": "x"}}, ["no group for perturbation(s) 'B', 'C', 'D', 'E'"]),
        (["A+B", "B+C", "C+D", "E"], {"n_folds": 2, "unseen": "part"}, ["3 of 4 perturbations hang together", "'A+B'"]),
        ("ABCDE", {"unseen": "gene"}, ["unseen is 'gene'", "perturbation, part"]),
    ],
)
def test_make_split_refuses(ids, options, says, refuses):
    refuses(says, make_split, ids, **options)


# The Split itself


def test_sides_keep_the_order_and_partition():
    split = Split({"A": 0, "B": 1, "C": 0})
    assert split.sides(["C", "B", "A"], 0) == (["B"], ["C", "A"])


def test_the_digest_is_of_folds_and_promise_only():
    split = Split({"A": 0, "B": 1})
    assert Split({"B": 1, "A": 0}, name="other", seed=7).digest == split.digest
    assert Split({"A": 1, "B": 0}).digest != split.digest
    assert Split({"A": 0, "B": 1}, unseen="part").digest != split.digest


def test_folds_of_any_whole_number_and_ids_of_any_form():
    split = Split({"B+A": np.int64(0), "C": 1.0})
    assert split.folds == {"A+B": 0, "C": 1}
    assert split.digest == Split({"A+B": 0, "C": 1}).digest


@pytest.mark.parametrize(
    ("folds", "options", "says"),
    [
        ({"A": 0, "B": 0}, {}, ["needs at least two folds, has [0]"]),
        ({}, {}, ["needs at least two folds"]),
        ({"A": 0, "B": 0.5}, {}, ["fold of 'B' is 0.5"]),
        ({"A": 0, "B": -1}, {}, ["fold of 'B' is -1"]),
        ({"A": 0, "B": None}, {}, ["fold of 'B' is None"]),
        ({"A+B": 0, "B+A": 1}, {}, ["pert_id 'A+B' appear(s) more than once"]),
        ({"A": 0, "B": 1}, {"unseen": "x"}, ["unseen is 'x'"]),
    ],
)
def test_a_bad_split_is_refused(folds, options, says, refuses):
    refuses(["split 's'", *says], Split, folds, name="s", **options)


# Files


def test_round_trip(tmp_path):
    split = Split({i: k % 2 for k, i in enumerate(ODD)}, name="odd", unseen="part", seed=7)
    split.write(tmp_path / "s.csv")
    assert read_split(tmp_path / "s.csv") == split
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s.split.yaml"]


def test_a_split_is_written_as_csv_only(tmp_path, refuses):
    refuses(["s.tsv: a split is written as .csv"], Split({"A": 0, "B": 1}).write, tmp_path / "s.tsv")
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_side_car(csv):
    split = read_split(csv("pert_id\tfold\tnote\n007\t0\tx\nNA\t1.0\ty\nB+A\t1\tz\n", name="mine.tsv"), unseen="part")
    assert split == Split({"007": 0, "NA": 1, "A+B": 1}, name="mine.tsv", unseen="part")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,fold\nA,0\n", ["no column 'pert_id'", "has pert_id and fold"]),
        ("pert_id,split\nA,0\n", ["no column 'fold'"]),
        ("pert_id,fold\nA,0\nA,1\n", ["pert_id 'A' appear(s) more than once", "one fold"]),
        ("pert_id,fold\nA+B,0\nB+A,1\n", ["pert_id 'A+B' appear(s) more than once"]),
        ("pert_id,fold\nA,0\n,1\n", ["pert_id is empty in row(s) '2'"]),
        ("pert_id,fold\nA,0\nB,\n", ["fold of 'B' is nan", "0, 1, 2"]),
        ("pert_id,fold\nA,0\nB,train\n", ["fold of 'B' is 'train'"]),
        ("pert_id,fold\nA,0\nB,1.5\n", ["fold of 'B' is 1.5"]),
        ("pert_id,fold\nA,0\nB,-1\n", ["fold of 'B' is -1"]),
        ("pert_id,fold\nA,0\nB,inf\n", ["fold of 'B' is inf"]),
        ("pert_id,fold\nA,0\nB,0\n", ["needs at least two folds"]),
        ("pert_id,fold\n", ["the table is empty"]),
        ("", ["cannot be read as csv"]),
    ],
)
def test_a_bad_file_is_refused(csv, text, says, refuses):
    refuses(["s.csv: ", *says], read_split, csv(text))


@pytest.mark.parametrize(
    ("side", "says"),
    [
        (b"a: [1", ["s.split.yaml: not valid YAML"]),
        (b"name: \xff", ["s.split.yaml: not valid YAML"]),
        (b"- a", ["s.split.yaml: must be a mapping"]),
        (b"unseen: gene", ["s.csv: split 's': unseen is 'gene'"]),
    ],
)
def test_a_bad_side_car_is_refused(csv, side, says, refuses):
    refuses(says, read_split, csv("pert_id,fold\nA,0\nB,1\n", side))


@pytest.mark.parametrize("unseen", [None, "perturbation", "part"])
def test_folds_edited_after_saving_are_refused(tmp_path, unseen, refuses):
    path = tmp_path / "s.csv"
    Split({"A": 0, "B": 1, "C": 1}).write(path)
    path.write_text(path.read_text().replace("C,1", "C,0"))
    refuses(["s.csv: the folds were changed since", "s.split.yaml says"], read_split, path, unseen=unseen)


def test_a_promise_edited_after_saving_is_refused(tmp_path, refuses):
    Split({"A": 0, "B": 1}).write(tmp_path / "s.csv")
    side = tmp_path / "s.split.yaml"
    side.write_text(yaml.safe_dump(yaml.safe_load(side.read_text()) | {"unseen": "part"}))
    refuses(["were changed since"], read_split, tmp_path / "s.csv")


def test_another_promise_may_be_asked_for(tmp_path):
    split = Split({"A": 0, "B": 1}, seed=3)
    split.write(tmp_path / "s.csv")
    read = read_split(tmp_path / "s.csv", unseen="part")
    assert (read.unseen, read.seed, read.folds) == ("part", 3, split.folds)


def test_a_missing_split_is_refused(tmp_path, refuses):
    refuses(["none.csv: no such file"], read_split, tmp_path / "none.csv")


def test_groups_are_read_as_text(csv):
    assert read_groups(csv("pert_id,group\n007,01\nB+A,NA\n")) == {"007": "01", "A+B": "NA"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pert_id,family\nA,x\n", ["no column 'group'"]),
        ("pert_id,group\nA,x\nA,y\n", ["'A' appear(s) more than once", "one group"]),
        ("pert_id,group\nA,\n", ["the group is empty in row(s) '1'"]),
    ],
)
def test_bad_groups_are_refused(csv, text, says, refuses):
    refuses(["s.csv: ", *says], read_groups, csv(text))


# The audit


def test_an_id_without_fold_is_refused(refuses):
    split = Split({"A": 0, "B": 1}, name="s")
    refuses(["here: split 's' has no fold for 'C', 'D'", "remove them"], audit, split, list("ABCD"), "here")


def test_unused_ids_are_noted():
    notes = audit(Split({"A": 0, "B": 1, "C": 1}, name="s"), ["A", "B"], "here")
    assert notes == ["split 's': 1 of its ids are not in the screen ('C')"]


@pytest.mark.parametrize(
    "folds", [{"A": 0, "A+B": 1}, {"A+B": 0, "A+C": 1}, {"a": 0, "A+B": 1}, {"A+C": 0, "D+a": 1}, {"A+B+C": 0, "C": 1}]
)
def test_a_part_on_both_sides_leaks(folds, refuses):
    ids = [*folds, "X", "Y"]
    split = Split(folds | {"X": 0, "Y": 1}, name="s", unseen="part")
    refuses(
        ["here: split 's' promises", "are on both sides", "unseen='part'"], audit, split, ids, "here", error=LeakError
    )
    assert audit(Split(split.folds), ids, "here") == []


def test_the_leaking_parts_are_named(refuses):
    split = Split({"A": 0, "A+B": 1, "C": 0, "D": 1}, unseen="part")
    refuses(["but 'A' are on both sides"], audit, split, split.folds, "here", error=LeakError)


@pytest.mark.parametrize("unseen", ["perturbation", "part"])
def test_ids_that_differ_in_case_only_leak_across_folds(unseen, refuses):
    split = Split({"Abc": 0, "ABC": 1}, unseen=unseen)
    refuses(
        ["here: 'Abc', 'ABC' differ in upper and lower case only"], audit, split, split.folds, "here", error=LeakError
    )
    assert audit(Split({"Abc": 0, "ABC": 0, "B": 1}, unseen=unseen), ["Abc", "ABC", "B"], "here") == []


@pytest.mark.parametrize("name", ["op3_lfc", "replogle2022_uprank"])
def test_real_splits_are_read(shared, name):
    split = read_split(shared / f"{name}.splits.csv")
    assert split.numbers == [0, 1, 2, 3, 4]
    assert sizes(split)[-1] - sizes(split)[0] <= 1

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal.screens.reading import read_screen
from panmodal.screens.screen import Screen

ODD = ["007", "1-Mar", "NA", "(+)-JQ1", "Ca2+", "A+B"]


@pytest.fixture
def table(tmp_path):
    def write(text, name="s.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def h5ad(tmp_path):
    def write(obs, uns=None, name="s.h5ad", values=None, index=None):
        obs = pd.DataFrame(obs, index=index or [f"r{k}" for k in range(len(next(iter(obs.values()))))])
        values = np.arange(len(obs) * 2.0).reshape(-1, 2) if values is None else values
        adata = anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=["g1", "g2"]))
        adata.uns.update({"response": "lfc"} if uns is None else uns)
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


def odd_screen():
    values = np.random.default_rng(0).standard_normal((12, 3))
    return Screen.from_arrays(
        values, ODD * 2, ["x"] * 6 + ["y"] * 6, ["g1", "007", "NA"], name="odd", response="rank_score",
        description="made up", simulated=True,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("name", ["s.h5ad", "s.zarr"])
def test_round_trip(tmp_path, name):
    screen = odd_screen()
    screen.write(tmp_path / name)
    read = Screen.read(tmp_path / name)
    for what in ("name", "response", "description", "simulated", "pert_ids", "contexts", "readouts"):
        assert getattr(read, what) == getattr(screen, what), what
    assert [read.digest(c) for c in read.contexts] == [screen.digest(c) for c in screen.contexts]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_a_round_trip_without_description(tmp_path):
    Screen.from_arrays(np.eye(2), "AB", "xx", "gh", name="s", response="lfc").write(tmp_path / "other.h5ad")
    read = Screen.read(tmp_path / "other.h5ad")
    assert (read.name, read.description, read.simulated, read.notes) == ("s", "", False, [])


@pytest.mark.parametrize("name", ["s.csv", "s.h5", "s"])
def test_a_screen_is_not_written_as_a_table(tmp_path, name, refuses):
    refuses([f"{name}: a screen is written as .h5ad or .zarr"], odd_screen().write, tmp_path / name)


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_a_zarr_store_is_not_overwritten(tmp_path, refuses):
    odd_screen().write(tmp_path / "s.zarr")
    refuses(["s.zarr: exists already"], odd_screen().write, tmp_path / "s.zarr")


@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.csv.gz", "s.parquet"])
def test_tables_hold_the_same_screen(tmp_path, name):
    screen = odd_screen()
    frame = pd.DataFrame(screen.adata.X.astype(float), columns=screen.readouts)
    frame.insert(0, "condition", ODD * 2)
    frame.insert(1, "cell_type", ["x"] * 6 + ["y"] * 6)
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
    read = read_screen(tmp_path / name, response="rank_score")
    assert read.name == "s"
    assert [read.digest(c) for c in read.contexts] == [screen.digest(c) for c in screen.contexts]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("pert_id,g1\nA,1\n", {}, ["does not say what its values are", "--response with one of lfc, deg"]),
        ("pert_id,g1\nA,1\n", {"response": "x"}, ["unknown kind of response 'x'"]),
        ("pert_id,g1,g2\nA,1,2\nB,3,high\n", {}, ["column 'g2' holds text: 'high' in row 2 (id 'B')"]),
        ("pert_id,g1,g2\nA,1,2\nB,3,nan\n", {}, ["column 'g2' holds text: 'nan' in row 2 (id 'B')"]),
        ("pert_id,g1,g2\nA,1,2\nB,3,\n", {}, ["1 response value(s)", "nan at id 'B (all)', column 'g2'"]),
        ("pert_id,g1,g2\nA,1,2\nB,inf,1\n", {}, ["1 response value(s)", "inf at id 'B (all)', column 'g1'"]),
        ("pert_id,g1\nA,1\nA,2\n", {}, ["'A in all' appear(s) more than once"]),
        ("pert_id,g1\nA+B,1\nB+A,2\n", {}, ["'A+B in all' appear(s) more than once"]),
        ("pert_id,g1,g1\nA,1,2\n", {}, ["columns 'g1' appear more than once"]),
        ("pert_id,g1\nA,1\n,2\n", {}, ["the perturbation is empty in row(s) '2'"]),
        ("pert_id,cell_line,g1\nA,x,1\nB,,2\n", {}, ["the context (cell_line) is empty in row(s) '2'"]),
        ("pert_id,g1\nA,1\nDMSO,2\n", {}, ["'DMSO' name control cells", "--drop-controls"]),
        ("pert_id,g1\nA,1\nctrl+ctrl,2\n", {}, ["'ctrl' name control cells"]),
        ("pert_id,g1\nDMSO,2\n", {"drop_controls": True}, ["empty (0 rows"]),
        ("pert_id,g1\nA,2\n", {"response": "deg"}, ["labels (-1, 0, 1) only, but 2 was found"]),
        ("what,g1\nA,1\n", {}, ["no perturbation column found among 'what', 'g1'", "--pert-col"]),
        ("pert_id,g1\nA,1\n", {"pert_col": "zz"}, ["no column 'zz' for the perturbation", "'pert_id', 'g1'"]),
        ("pert_id,g1\nA,1\n", {"context_col": "zz"}, ["no column 'zz' for the context", "--context-col"]),
        (
            "pert_id,cells,g1\nA,x,1\n",
            {"context_col": "cells", "context": "x"},
            ["a context column or one context name"],
        ),
        ("pert_id,cell_line,g1\nA,x,1\n", {"contexts": ["y"]}, ["no context 'y'", "it has 'x'"]),
        ("pert_id,smiles\nA,CC\n", {}, ["no numeric column is left"]),
        ("pert_id,g1\n", {}, ["the table is empty (0 rows"]),
        ("", {}, ["cannot be read as csv"]),
    ],
)
def test_a_bad_table_is_refused(table, text, options, says, refuses):
    given = options if "does not say what its values are" in says else {"response": "lfc"} | options
    refuses(["s.csv: ", *says], read_screen, table(text), **given)


@pytest.mark.parametrize(
    ("obs", "uns", "says"),
    [
        ({"what": ["A", "B"]}, None, ["no perturbation column found among 'what'", "--pert-col index", "'r0', 'r1'"]),
        ({"pert_id": ["A", None]}, None, ["the perturbation is empty in row(s) '2'"]),
        ({"pert_id": ["A", "A"]}, None, ["'A in all' appear(s) more than once"]),
        ({"pert_id": ["A", "ctrl"]}, None, ["'ctrl' name control cells"]),
        ({"pert_id": ["A", "B"], "cell_line": ["x", None]}, None, ["the context (cell_line) is empty in row(s) '2'"]),
        ({"pert_id": ["A", "B"]}, {}, ["does not say what its values are"]),
        ({"pert_id": ["A", "B"]}, {"response": np.array([1, 2])}, ["does not say what its values are"]),
        ({"pert_id": ["A", "B"]}, {"response": "deg"}, ["labels (-1, 0, 1) only, but 2 was found"]),
    ],
)
def test_a_bad_h5ad_is_refused(h5ad, obs, uns, says, refuses):
    refuses(["s.h5ad: ", *says], read_screen, h5ad(obs, uns))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_h5ad_that_is_not_finite_is_refused(h5ad, bad, refuses):
    path = h5ad({"pert_id": ["A", "B"]}, values=np.array([[1, 2], [bad, 1]]))
    refuses(["s.h5ad: ", f"first {bad} at id 'B (all)', column 'g1'"], read_screen, path)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_h5ad_is_refused(h5ad, share, refuses):
    path = h5ad({"pert_id": ["A", "B"]})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuses(["s.h5ad: cannot be read as h5ad", "Is it complete?"], read_screen, path)


@pytest.mark.parametrize("name", ["s.h5ad", "s.parquet", "s.csv.gz", "s.xlsx", "s"])
def test_a_foreign_file_is_refused(table, name, refuses):
    says = "cannot be read as" if "." in name and "xlsx" not in name else "is not a table format"
    refuses([f"{name}: ", says], read_screen, table("something else", name), response="lfc")


def test_an_empty_zarr_store_is_refused(tmp_path, refuses):
    (tmp_path / "s.zarr").mkdir()
    refuses(["s.zarr: cannot be read as zarr"], read_screen, tmp_path / "s.zarr")


def test_a_missing_file_is_refused(h5ad, refuses):
    path = h5ad({"pert_id": ["A", "B"]}, name="screen_one.h5ad")
    refuses(["no such file", "Did you mean 'screen_one.h5ad'"], read_screen, path.with_name("screen_two.h5ad"))


@pytest.mark.parametrize(
    ("text", "kind", "description"),
    [
        ("lfc", "lfc", ""),
        ("LFC: mean log1p against DMSO", "lfc", "LFC: mean log1p against DMSO"),
        ("rank-score of the 1000 genes", "rank_score", "rank-score of the 1000 genes"),
        ("z score of growth", "continuous", "z score of growth"),
    ],
)
def test_the_file_says_what_its_values_are(h5ad, text, kind, description):
    screen = read_screen(h5ad({"pert_id": ["A", "B"]}, {"response": text}))
    assert (screen.response, screen.description) == (kind, description)


def test_the_user_overrides_the_file(h5ad):
    path = h5ad({"pert_id": ["A", "B"], "gene": ["C", "D"], "donor": ["1", "2"], "plate": ["p", "q"]})
    screen = read_screen(
        path, response="continuous", pert_col="gene", context_col=["donor", "plate"], contexts=["2 | q"], name="mine"
    )
    assert (screen.response, screen.name, screen.pert_ids, screen.contexts) == ("continuous", "mine", ["D"], ["2 | q"])


def test_what_was_guessed_is_noted(h5ad):
    screen = read_screen(
        h5ad({"pert_id": ["B+A", "C"], "Gene": ["x", "y"], "cell_type": ["a", "b"], "cells": ["1", "2"]})
    )
    notes = "\n".join(screen.notes)
    assert "perturbations from column 'pert_id'; also present: Gene (choose with --pert-col)" in notes
    assert "1 perturbation id(s) written in canonical form (B+A -> A+B)" in notes
    assert "contexts from column 'cell_type'; also present: cells" in notes


def test_no_context_is_one_context_and_noted(table):
    screen = read_screen(table("gene,g1\nA,1\n"), response="lfc")
    assert screen.contexts == ["all"]
    assert "no context column found" in screen.notes[-1]
    assert read_screen(table("gene,g1\nA,1\n"), response="lfc", context="K-562").contexts == ["K-562"]


def test_controls_are_dropped_on_request_and_counted(table):
    screen = read_screen(table("pert_id,g1\nA,1\nDMSO,2\nctrl,3\n"), response="lfc", drop_controls=True)
    assert screen.pert_ids == ["A"]
    assert "2 control row(s) removed ('DMSO', 'ctrl')" in screen.notes


def test_row_names_can_be_the_perturbations(table, h5ad):
    text = table("anything,g1\n007,1\nNA,2\n")
    assert read_screen(text, response="lfc", pert_col="index").pert_ids == ["007", "NA"]
    assert read_screen(h5ad({"n": [1, 2]}, index=["A", "B"]), pert_col="index").pert_ids == ["A", "B"]


def test_annotation_is_not_taken_as_readouts(table):
    screen = read_screen(table("drug,dose,moa,note,g1\nA,0.5,x,y,1\nB,1,x,z,2\n"), response="lfc")
    assert screen.readouts == ["g1"]
    assert "columns taken as annotation, not as read-outs: dose, moa, note" in screen.notes


def test_numeric_ids_stay_text(tmp_path, table):
    pd.DataFrame({"pubchem_cid": [46912230.0, 7.0], "g1": [1, 2]}).to_parquet(tmp_path / "s.parquet")
    assert read_screen(tmp_path / "s.parquet", response="lfc").pert_ids == ["46912230", "7"]
    assert read_screen(table("pubchem_cid,g1\n007,1\n7,2\n"), response="lfc").pert_ids == ["007", "7"]


def test_the_name_is_the_files_whole_stem(table):
    assert read_screen(table("pert_id,g1\nA,1\n", "essential.v2.csv"), response="lfc").name == "essential.v2"


def test_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.h5ad"
    odd_screen().write(path)

    def fails(self, target, **_):
        target.write_bytes(b"half")
        raise ValueError("broken")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", fails)
    with pytest.raises(ValueError, match="broken"):
        odd_screen().write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5ad"]
    assert read_screen(path).name == "odd"


@pytest.mark.parametrize(
    ("name", "response", "contexts", "ids"),
    [("op3_lfc.h5ad", "lfc", 4, 141), ("replogle2022_uprank.h5ad", "rank_score", 2, 585)],
)
def test_real_screens_are_read(shared, name, response, contexts, ids):
    options = {} if name.startswith("op3") else {"response": response}
    screen = read_screen(shared / name, **options)
    assert (screen.response, len(screen.contexts), len(screen.pert_ids)) == (response, contexts, ids)


def test_raw_counts_are_no_screen(shared, refuses):
    path = shared / "papalexi2021_counts.h5ad"
    refuses([str(path), "'non-targeting' name control cells"], read_screen, path, response="lfc")

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.inspect import describe, describe_embedding, describe_screen
from panmodal.screens.screen import Screen


@pytest.fixture
def screen():
    return Screen.from_arrays(
        np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]]), ["A", "A+B", "A"], ["x", "x", "y"], ["g1", "g2"],
        name="s", response="lfc", simulated=True,
    )  # fmt: skip


@pytest.fixture
def embedding():
    card = Card(name="e", modality="text", source="src", simulated=True)
    return Embedding(("A", "B", "C"), np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 0.0]]), card)


def notes(facts):
    return [value for what, value in facts if what == "note"]


def test_facts_of_a_screen(screen):
    screen.notes.append("seen")
    facts = dict(describe_screen(screen))
    assert facts["what"] == "screen (perturbation responses), SIMULATED"
    assert facts["perturbations"] == "2 ('A', 'A+B')"
    assert facts["read-outs"] == "2 ('g1', 'g2')"
    assert facts["combinations"] == "1 ids with '+', e.g. 'A+B'"
    assert facts["context x"].startswith("2 perturbations, response norm median 3 (range 1 to 5), digest ")
    assert screen.digest("x").removeprefix("lfc-")[:12] in facts["context x"]
    assert facts["note"] == "seen"


def test_facts_of_an_embedding(embedding, screen):
    facts = describe_embedding(embedding, screen)
    about = dict(facts)
    assert about["what"] == "embedding, SIMULATED"
    assert (about["modality"], about["source"], about["dimensions"]) == ("text", "src", "2")
    assert about["digest"] == embedding.digest[:12]
    assert about["coverage of x"] == "2 of 2 ids (100.0 %), 1 of them composed from their parts"
    assert about["coverage of y"] == "1 of 1 ids (100.0 %)"
    assert notes(facts) == [
        "1 id(s) have the same vector as another; nearest neighbours tie there",
        "1 dimension(s) are constant and carry nothing",
    ]


def test_a_plain_embedding_has_no_notes():
    facts = describe_embedding(Embedding.from_dict({"A": [1, 2], "B": [2, 1]}, "e"))
    assert notes(facts) == []
    assert dict(facts)["what"] == "embedding"


@pytest.mark.parametrize("name", ["f.h5ad", "f.npz", "f.parquet", "f.csv"])
def test_an_embedding_is_known_by_its_content(tmp_path, embedding, name):
    embedding.write(tmp_path / name)
    (facts,) = describe(str(tmp_path / name))
    assert ("name", "e") in facts


@pytest.mark.parametrize("name", ["f.h5ad", "f.zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_a_screen_is_known_by_its_content(tmp_path, screen, name):
    screen.write(tmp_path / name)
    (facts,) = describe(str(tmp_path / name))
    assert ("response", "lfc") in facts


def test_a_table_is_a_screen_once_its_response_is_given(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("pert_id,g1\nA,1\nB,2\n")
    assert dict(describe(str(path), response="lfc")[0])["what"].startswith("screen")
    assert dict(describe(str(path))[0])["what"].startswith("embedding")


def test_a_screen_to_compare_with_makes_the_file_an_embedding(tmp_path, screen):
    path = tmp_path / "f.csv"
    path.write_text("pert_id,g1\nA,1\n")
    (facts,) = describe(str(path), screen)
    assert dict(facts)["coverage of x"] == "1 of 2 ids (50.0 %); missing 'A+B'"


def test_all_embeddings_of_a_file_are_told(tmp_path):
    path = tmp_path / "f.h5ad"
    obs = pd.DataFrame(index=["A", "B"])
    anndata.AnnData(obs=obs, obsm={"net": np.eye(2), "text": np.ones((2, 3))}).write_h5ad(path)
    assert [dict(facts)["name"] for facts in describe(str(path))] == ["f#net", "f#text"]
    assert [dict(facts)["name"] for facts in describe(f"{path}#text")] == ["f#text"]
    anndata.AnnData(np.eye(2), obs=obs, obsm={"net": np.eye(2)}).write_h5ad(path)
    assert [dict(facts)["name"] for facts in describe(str(path))] == ["f", "f#net"]


def test_shipped_names_are_described():
    assert dict(describe("simulated-perturbseq")[0])["what"].endswith("SIMULATED")
    assert dict(describe("gene-name-minilm")[0])["dimensions"] == "128"


def test_both_reasons_are_given(tmp_path, refuses):
    (tmp_path / "f.csv").write_text("note,x\nA,high\n")
    refuses(
        ["as a screen: ", "no perturbation column found", "as an embedding: ", "column 'x' holds text"],
        describe, str(tmp_path / "f.csv"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f.h5ad", ["as a screen: ", "as an embedding: ", "f.h5ad: cannot be read as h5ad"]),
        ("f.npz", ["f.npz: cannot be read as npz"]),
        ("f.pkl", ["f.pkl: a .pkl file can run code"]),
        ("f.h5ad#net", ["f.h5ad: cannot be read as h5ad"]),
        ("g.csv", ["g.csv: no such file"]),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, says, refuses):
    for broken in ("f.h5ad", "f.npz", "f.pkl"):
        (tmp_path / broken).write_bytes(b"broken")
    refuses(says, describe, str(tmp_path / name))


def test_a_results_folder_is_described(tmp_path, screen, embedding):
    import panmodal

    values = np.random.default_rng(0).standard_normal((30, 3))
    ids = [f"G{k}" for k in range(30)]
    small = Screen.from_arrays(values, ids, ["x"] * 30, ["g1", "g2", "g3"], name="s", response="lfc")
    mine = Embedding(tuple(ids), values, Card(name="mine"))
    panmodal.run(small, [mine], tmp_path / "r", split=panmodal.make_split(ids, n_folds=2), probes=["ridge"])
    facts = dict(describe(str(tmp_path / "r"))[0])
    assert facts["what"] == "results folder"
    done, _, total = facts["trials"].removesuffix(" done").partition(" of ")
    assert done == total != "0"
    assert "'mine'" in facts["embeddings"]
    assert facts["screens"] == "'s'"
    assert facts["scores"].endswith("rows")


def test_raw_cells_screens_made_of_them_and_ceilings_are_told_apart(tmp_path):
    from panmodal.cells.ceiling import CeilingOptions, make_ceilings
    from panmodal.cells.prepare import open_cells, prepare
    from panmodal.cells.simulate import simulate_cells
    from panmodal.inspect import describe

    simulate_cells(tmp_path / "cells.h5ad", n_cells=600, n_perturbations=4, n_genes=20, n_batches=2)
    cells = open_cells([tmp_path / "cells.h5ad"])
    screen = prepare(cells, n_jobs=1)
    screen.write(tmp_path / "screen.h5ad")
    make_ceilings(cells, screen, tmp_path / "screen.ceilings.h5", CeilingOptions(null_draws=3), n_jobs=1)
    found = {
        name: dict(describe(str(tmp_path / name))[0]) for name in ("cells.h5ad", "screen.h5ad", "screen.ceilings.h5")
    }
    assert "raw counts" in found["cells.h5ad"]["what"] and "'non-targeting'" in found["cells.h5ad"]["controls"]
    assert "screen" in found["screen.h5ad"]["what"] and "cells.h5ad" in found["screen.h5ad"]["made by"]
    assert "ceilings" in found["screen.ceilings.h5"]["what"]
    assert "experimental_error" in found["screen.ceilings.h5"]["context sim-line-A"]

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import panmodal
from panmodal.cli import app
from panmodal.embeddings import Embedding, read_embedding
from panmodal.embeddings.align import align
from panmodal.embeddings.builders import Builder, Built, get_builder, registry
from panmodal.embeddings.builders.base import select
from panmodal.embeddings.embed import make_embedding, regenerate
from panmodal.embeddings.recipe import Recipe, digest_of, locate

GENES = ["TP53", "MYC", "BRCA1", "EGFR", "KRAS", "PTEN", "CDK4", "CDK6", "MTOR", "AKT1", "STAT3", "JAK2", "MARCHF1"]


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    made = Embedding.from_dict({g: rng.normal(size=4) for g in GENES}, name="mine", trained_on=("norman2019",))
    made.write(tmp_path / "mine.csv")
    return tmp_path / "mine.csv"


def test_embed_is_public_and_restricts_to_the_wanted_ids(vectors):
    made = panmodal.embed("table", vectors=vectors, ids=["MYC", "TP53"], card={"name": "mine-too"})
    assert made.ids == ("MYC", "TP53") and made.name == "mine-too"
    assert made.card.trained_on == ("norman2019",)
    np.testing.assert_array_equal(made.vectors, read_embedding(vectors).matrix(["MYC", "TP53"]))


def test_parts_of_wanted_combinations_are_served(vectors):
    made = panmodal.embed("table", vectors=vectors, ids=["MYC+TP53", "EGFR"])
    assert set(made.ids) == {"MYC", "TP53", "EGFR"}
    assert made.coverage(["MYC+TP53"]).composed == ("MYC+TP53",)


def test_other_names_of_the_same_gene_are_found_and_reported(vectors):
    wanted = ["MARCH1", "ENSG00000141510.17", "MYC", "NOSUCHGENE", "KRAS"]
    made = make_embedding("table", vectors=vectors, ids=wanted)
    old = read_embedding(vectors)
    np.testing.assert_array_equal(made.embedding.matrix(["MARCH1"]), old.matrix(["MARCHF1"]))
    np.testing.assert_array_equal(made.embedding.matrix(["ENSG00000141510.17"]), old.matrix(["TP53"]))
    assert "NOSUCHGENE" in made.match.missing and len(made.frame()) == len(wanted)
    assert any("NOSUCHGENE" in note for note in made.embedding.card.notes)
    exact = make_embedding("table", vectors=vectors, ids=wanted, match_as="exact")
    assert set(exact.embedding.ids) == {"MYC", "KRAS"}


def test_align_keeps_all_rows_and_adds_the_names_of_the_screen(vectors):
    embedding = read_embedding(vectors)
    aligned, found = align(embedding, ["MARCH1", "TP53", "MYC"])
    assert aligned.ids == (*embedding.ids, "MARCH1")
    assert "MARCH1" in found.resolved
    same, _ = align(embedding, ["TP53"])
    assert same is embedding


def test_select_serves_ids_and_parts():
    assert select(["A", "B", "C"], None) == ["A", "B", "C"]
    assert select(["A", "B", "C"], ["C+B"], kind="exact") == ["B", "C"]


def test_wrong_options_are_named(vectors, refuses):
    refuses(["no builder 'tabel'", "table"], make_embedding, "tabel")
    refuses(["no option 'vektors'", "Did you mean vectors"], make_embedding, "table", vektors=vectors)
    refuses(["'vectors'", "are needed"], make_embedding, "table")
    refuses(["no such file"], make_embedding, "table", vectors="nowhere.csv")
    refuses(["allow_pickle = 'perhaps'"], make_embedding, "table", vectors=vectors, allow_pickle="perhaps")
    refuses(["none of the 1 wanted ids"], make_embedding, "table", vectors=vectors, ids=["XYZ_1"])
    refuses(["the card is not valid"], make_embedding, "table", vectors=vectors, card={"colour": "red"})
    refuses(["the wanted id is empty"], make_embedding, "table", vectors=vectors, ids=["TP53", ""])


def test_a_missing_package_is_named_with_its_extra(refuses):
    record = get_builder("table")
    other = Builder(**{**record.__dict__, "name": "other", "extra": "chem", "needs": ("no_such_module", "numpy")})
    assert other.missing() == ["no_such_module"]
    refuses(["no_such_module", "panmodal[chem]"], other.require)


def test_the_recipe_says_everything_and_regenerates(vectors, tmp_path, refuses):
    made = panmodal.embed("table", vectors=str(vectors), ids=["MYC", "TP53", "KRAS"])
    recipe = made.card.recipe
    assert isinstance(recipe, Recipe) and recipe.selected
    assert recipe.options == {"column": None, "allow_pickle": False}
    assert [(s.option, s.sha256) for s in recipe.sources] == [("vectors", digest_of(vectors)[0])]
    for suffix in (".h5ad", ".parquet", ".npz", ".csv"):
        made.write(tmp_path / f"made{suffix}")
        read = read_embedding(tmp_path / f"made{suffix}")
        assert read.card.recipe == recipe
        assert regenerate(read).embedding.digest == made.digest
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    vectors.rename(moved / "mine.csv")
    (tmp_path / "mine.csv.card.yaml").rename(moved / "mine.csv.card.yaml")
    refuses(["no such file"], regenerate, made)
    assert regenerate(made, folder=moved).embedding.digest == made.digest
    assert regenerate(made, sources={"vectors": moved / "mine.csv"}).embedding.digest == made.digest
    changed = (moved / "mine.csv").read_text() + "XYZ,1,2,3,4\n"
    (moved / "mine.csv").write_text(changed)
    refuses(["not the file that", "--source vectors=FILE"], regenerate, made, sources={"vectors": moved / "mine.csv"})


def test_regenerating_needs_a_recipe_and_its_rule(vectors, refuses):
    refuses(["no recipe"], regenerate, read_embedding(vectors))
    made = panmodal.embed("table", vectors=vectors)
    card = made.card.model_copy(update={"recipe": made.card.recipe.model_copy(update={"rule": 99})})
    refuses(["rule 99"], regenerate, Embedding(made.ids, made.vectors, card))


def test_sources_may_be_shipped_tables_keys_and_folders(tmp_path, refuses):
    path, key = locate("panmodal:go_bp_gene_terms.parquet")
    assert path.is_file() and key == ""
    refuses(["no such table", "go_bp_gene_terms.parquet"], locate, "panmodal:nothing.parquet")
    (tmp_path / "f.h5ad").write_bytes(b"1")
    assert locate(f"{tmp_path}/f.h5ad#ecfp:2") == (tmp_path / "f.h5ad", "#ecfp:2")
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "x").write_bytes(b"abc")
    before = digest_of(tmp_path / "d")
    assert before[1] == 3
    (tmp_path / "d" / "e" / "x").rename(tmp_path / "d" / "x")
    assert digest_of(tmp_path / "d") != before


def test_a_builder_of_another_package_is_found_and_a_clash_refused(monkeypatch, refuses):
    record = get_builder("table")
    other = Builder(**{**record.__dict__, "name": "theirs"})

    class Point:
        value = "their.module:BUILDER"

        def __init__(self, named):
            self.named = named

        def load(self):
            return self.named

    def found(*named):
        monkeypatch.setattr(registry, "entry_points", lambda group: [Point(n) for n in named])
        return registry.builders.__wrapped__()

    assert found(other)["theirs"] is other
    assert found([other])["theirs"] is other
    refuses(["two builders are named 'theirs'"], found, other, other)
    refuses(["is no panmodal.embeddings.builders.Builder"], found, ["text"])


def test_what_a_builder_leaves_out_is_told(monkeypatch):
    def build() -> Built:
        return Built(["A", "B"], np.eye(2), left_out={"C": "no sequence"}, notes=("seen",), card={"licence": "CC0"})

    record = Builder("toy", "toy", "toy vectors", build, lambda folder: {})
    monkeypatch.setattr("panmodal.embeddings.embed.get_builder", lambda name: record)
    made = make_embedding("toy")
    assert made.embedding.card.licence == "CC0"
    assert made.embedding.card.notes[0] == "seen" and "'C'" in made.embedding.card.notes[1]
    frame = made.frame()
    assert frame[frame["available"] == "C"][["status", "hint"]].to_numpy().tolist() == [["left out", "no sequence"]]


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)


def test_the_command_line_makes_and_regenerates(vectors, tmp_path):
    (tmp_path / "ids.txt").write_text("TP53\nMYC\nnon-targeting\nMARCH1\nNOPE1\n")
    ran = invoke("embed", "table", "--vectors", vectors, "--ids", tmp_path / "ids.txt", "--out", tmp_path / "e.h5ad",
                 "--name", "mine", "--modality", "protein", "--licence", "MIT", "--trained-on", "sciplex3",
                 "--report", tmp_path / "report.csv")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "NOPE1" in ran.output and "digest" in ran.output
    made = read_embedding(tmp_path / "e.h5ad")
    assert set(made.ids) == {"TP53", "MYC", "MARCH1"}
    assert (made.card.name, made.card.modality, made.card.licence) == ("mine", "protein", "MIT")
    assert made.card.trained_on == ("sciplex3",)
    report = pd.read_csv(tmp_path / "report.csv")
    assert set(report["wanted"].dropna()) == {"TP53", "MYC", "MARCH1", "NOPE1"}
    ran = invoke("regenerate", tmp_path / "e.h5ad", "--out", tmp_path / "again.parquet")
    assert ran.exit_code == 0 and "to the last bit" in ran.output, ran.output
    assert read_embedding(tmp_path / "again.parquet").digest == made.digest
    vectors.rename(tmp_path / "moved.csv")
    ran = invoke("regenerate", tmp_path / "e.h5ad", "--source", f"vectors={tmp_path / 'moved.csv'}")
    assert ran.exit_code == 0, ran.output


def test_every_builder_has_a_command_with_help():
    listed = invoke("embed", "--help")
    assert listed.exit_code == 0
    for name in registry.builders():
        assert name in listed.output
        told = invoke("embed", name, "--help")
        assert told.exit_code == 0 and "--out" in told.output, name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["embed", "tabel"], "no builder 'tabel'"),
        (["embed", "table", "--out", "e.txt", "--vectors", "x"], "is written as"),
        (["embed", "table", "--out", "e.h5ad", "--vectors", "x.csv", "--report", "r.txt"], "written as csv"),
        (["regenerate", "nowhere.h5ad"], "no such file"),
    ],
)
def test_mistakes_are_named(arguments, says):
    ran = invoke(*arguments)
    assert ran.exit_code != 0
    assert says in f"{ran.output}{ran.exception}"


def test_the_command_line_resolves(tmp_path):
    (tmp_path / "ids.txt").write_text("TP53\nMARCH1\n1-Mar\nTrp53\nENSG00000141510.17+MYC\nNOPE1\n")
    ran = invoke("resolve", tmp_path / "ids.txt", "--out", tmp_path / "r.csv")
    assert ran.exit_code == 0, ran.output
    told = pd.read_csv(tmp_path / "r.csv").set_index("id")
    assert told["status"].to_dict() == {
        "TP53": "mapped", "MARCH1": "mapped", "1-Mar": "ambiguous", "Trp53": "refused", "ENSG00000141510.17": "mapped",
        "MYC": "mapped", "NOPE1": "not found",
    }  # fmt: skip
    assert "are the same" in ran.output
    for words, says in (
        (["resolve", tmp_path / "ids.txt", "--kind", "cells"], "want genes or compounds"),
        (["resolve", tmp_path / "ids.txt", "--out", "r.xlsx"], "written as csv"),
    ):
        assert says in str(invoke(*words).exception)

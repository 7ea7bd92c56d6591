from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from panmodal import Embedding, InputError
from panmodal.evaluation.config import EmbeddingInput, RunConfig, load_screen, make_config, read_config
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split

LEAST = {"screen": "s.h5ad", "embeddings": ["e.csv"], "out": "results"}


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("e.csv", None, "e.csv"), ("mine=e.csv", "mine", "e.csv"), ("mine=e.h5ad#net", "mine", "e.h5ad#net"),
        ("=e.csv", None, "=e.csv"), ("a=b=c.csv", "a", "b=c.csv"), ("e.h5ad#net", None, "e.h5ad#net"),
    ],
)  # fmt: skip
def test_an_embedding_may_be_named(text, name, path):
    assert EmbeddingInput.parse(text) == EmbeddingInput(path=path, name=name)


def test_an_existing_file_with_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dims=2.csv").write_text("id,x,y\nA,1,2\n")
    assert EmbeddingInput.parse("dims=2.csv") == EmbeddingInput(path="dims=2.csv")
    assert EmbeddingInput.parse("dims=2.csv").load().name == "dims=2"
    assert EmbeddingInput.parse("mine=dims=2.csv").load().name == "mine"


def test_options_of_an_embedding_are_passed_on(tmp_path):
    (tmp_path / "e.csv").write_text("x,Mine\n1,A\n2,B\n")
    given = EmbeddingInput(path=str(tmp_path / "e.csv"), name="n", id_col="Mine", combine="mean")
    loaded = given.load()
    assert (loaded.ids, loaded.name, loaded.combine) == (("A", "B"), "n", "mean")


def test_a_pickle_needs_leave(tmp_path, refuses):
    (tmp_path / "e.pkl").write_bytes(b"")
    given = EmbeddingInput(path=str(tmp_path / "e.pkl"))
    refuses(["can run code"], given.load)
    refuses(["cannot be unpickled"], given.load, allow_pickle=True)


def test_a_shipped_embedding_goes_by_name():
    loaded = EmbeddingInput.parse("mine=gene-name-minilm").load()
    assert (loaded.name, loaded.card.modality) == ("mine", "text")


def test_one_text_may_stand_for_a_list():
    config = make_config(LEAST | {"embeddings": "a=e.csv", "context_col": "line", "probes": "knn"}, "here")
    assert config.embeddings == (EmbeddingInput(path="e.csv", name="a"),)
    assert (config.context_col, config.probes) == (("line",), ("knn",))


@pytest.mark.parametrize(
    "fields",
    [
        LEAST,
        LEAST | {"embeddings": ["a=e.csv", {"path": "f.csv", "combine": "none"}], "seed": 0, "unseen": "part"},
        LEAST | {"name": "µ", "contexts": ["a", "b"], "drop_controls": True, "n_jobs": 2, "overwrite": "always"},
    ],
)
def test_yaml_round_trip(fields):
    config = make_config(fields, "here")
    assert make_config(yaml.safe_load(config.to_yaml()), "there") == config


def test_defaults_are_not_written():
    assert set(yaml.safe_load(make_config(LEAST, "here").to_yaml())) == {"screen", "embeddings", "out"}


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        make_config(LEAST, "here").seed = 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ["screen: Field required", "embeddings: Field required", "out: Field required"]),
        (LEAST | {"embedings": 1}, ["embedings: Extra inputs are not permitted (got 1)"]),
        (LEAST | {"embeddings": []}, ["embeddings: ", "at least 1"]),
        (LEAST | {"embeddings": None}, ["embeddings: "]),
        (LEAST | {"embeddings": [{"path": "e.csv", "nme": "x"}]}, ["embeddings.0.nme: Extra inputs"]),
        (LEAST | {"embeddings": ["e.csv", 3]}, ["embeddings.1: ", "(got 3)"]),
        (LEAST | {"folds": 1}, ["folds: ", "greater than or equal to 2 (got 1)"]),
        (LEAST | {"seed": -1}, ["seed: ", "(got -1)"]),
        (LEAST | {"seed": "x"}, ["seed: ", "(got 'x')"]),
        (LEAST | {"n_jobs": 0}, ["n_jobs: "]),
        (LEAST | {"unseen": "gene"}, ["unseen: ", "'perturbation' or 'part' (got 'gene')"]),
        (LEAST | {"overwrite": "maybe"}, ["overwrite: ", "'never', 'missing' or 'always'"]),
        (LEAST | {1: 2}, ["'1' cannot name a field"]),
    ],
)
def test_a_bad_config_is_refused(fields, says, refuses):
    refuses(["run.yaml: ", "Fields are screen, embeddings, out", *says], make_config, fields, "run.yaml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"screen: [1", ["not valid YAML"]),
        (b"screen: \xe9", ["not valid YAML", "utf-8"]),
        (b"- screen", ["must be a mapping of run options"]),
        (b"", ["must be a mapping of run options"]),
        (b"a: !!python/object/apply:os.getcwd []", ["not valid YAML", "python/object"]),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, says, refuses):
    (tmp_path / "run.yaml").write_bytes(content)
    refuses(["run.yaml: ", *says], read_config, tmp_path / "run.yaml")


def test_a_missing_file_is_refused(tmp_path, refuses):
    refuses(["none.yaml: cannot be read (No such file"], read_config, tmp_path / "none.yaml")
    refuses(["cannot be read (Is a directory)"], read_config, tmp_path)


def test_a_file_is_read(tmp_path):
    (tmp_path / "run.yaml").write_text("screen: µ.h5ad\nseed: 3\n", encoding="utf-8")
    assert read_config(tmp_path / "run.yaml") == {"screen": "µ.h5ad", "seed": 3}


@pytest.fixture
def files(tmp_path):
    values = np.arange(24.0).reshape(12, 2)
    screen = Screen.from_arrays(
        values, [f"G{k}" for k in range(6)] * 2, ["x"] * 6 + ["y"] * 6, "gh", name="s", response="lfc"
    )
    screen.write(tmp_path / "s.h5ad")
    Split({f"G{k}": k % 3 for k in range(6)}, name="mine").write(tmp_path / "s.csv")
    return tmp_path


def test_the_screen_and_its_options(files):
    config = make_config(
        LEAST | {"screen": str(files / "s.h5ad"), "contexts": "y", "name": "n", "response": "fitness"}, "here"
    )
    screen = config.load_screen()
    assert (screen.contexts, screen.name, screen.response) == (["y"], "n", "fitness")


def test_the_split_is_read_or_made(files):
    screen = load_screen(str(files / "s.h5ad"))
    given = RunConfig(**LEAST, splits=str(files / "s.csv"))
    made = RunConfig(**LEAST, folds=2, seed=1, unseen="part")
    assert given.load_split(screen).name == "mine"
    assert (made.load_split(screen).numbers, made.load_split(screen).unseen) == ([0, 1], "part")
    assert made.load_split(screen).seed == 1


def test_a_shipped_screen_goes_by_name(refuses):
    assert load_screen("simulated-perturbseq", contexts=["sim-line-B"]).contexts == ["sim-line-B"]
    refuses(["no context 'x'"], load_screen, "simulated-perturbseq", contexts=["x"])
    refuses(["simulated: no such file"], load_screen, "simulated")


def test_all_embeddings_of_a_file_and_a_shared_id_column(tmp_path):
    import anndata
    import numpy as np
    import pandas as pd

    obs = pd.DataFrame({"cid": ["11", "12", "13"]}, index=["a", "b", "c"])
    adata = anndata.AnnData(np.zeros((3, 0)), obs=obs, obsm={"maccs": np.eye(3), "ecfp:2": np.ones((3, 5))})
    adata.write_h5ad(tmp_path / "drugs.h5ad")
    fields = {"screen": "s", "out": "o", "embeddings": [f"{tmp_path}/drugs.h5ad#*"], "id_col": "cid"}
    read = make_config(fields, "here").load_embeddings()
    assert {(e.name, e.dims, e.ids) for e in read} == {
        ("drugs#ecfp:2", 5, ("11", "12", "13")),
        ("drugs#maccs", 3, ("11", "12", "13")),
    }
    named = make_config({**fields, "embeddings": [f"d={tmp_path}/drugs.h5ad#*"]}, "here").load_embeddings()
    assert [e.name for e in named] == ["d:ecfp:2", "d:maccs"]


def test_a_star_on_a_file_without_obsm_says_so(tmp_path):
    Embedding.from_dict({"a": [1.0, 2.0]}, name="e").write(tmp_path / "e.h5ad")
    with pytest.raises(InputError, match="obsm is empty"):
        make_config({"screen": "s", "out": "o", "embeddings": [f"{tmp_path}/e.h5ad#*"]}, "here").load_embeddings()

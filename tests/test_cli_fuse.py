"""The command fuse, through an application of its own."""

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import Screen, cli_fuse
from panmodal.errors import InputError

app = typer.Typer()
cli_fuse.register(app)


@pytest.fixture(scope="module")
def files(toy, tmp_path_factory):
    """A screen without its last ten perturbations (B without eight more), as numbers and as labels, and two embeddings."""
    folder = tmp_path_factory.mktemp("fuse")
    screen, embeddings = toy(n=60)
    obs = screen.adata.obs
    kept = np.isin(obs["pert_id"], screen.pert_ids[:50]) & ~(
        (obs["cell_line"] == "B") & np.isin(obs["pert_id"], screen.pert_ids[:8])
    )
    part = screen.adata[kept].copy()
    Screen(part, "part", "lfc").write(folder / "screen.h5ad")
    labels = part.copy()
    labels.X = np.where(abs(part.X - 0.5) > 2, np.sign(part.X - 0.5), 0).astype(np.float32)
    Screen(labels, "labels", "deg").write(folder / "labels.h5ad")
    for embedding in embeddings:
        embedding.write(folder / f"{embedding.name}.csv")
    return folder


@pytest.fixture
def inputs(files):
    return ["--screen", files / "screen.h5ad", "--embedding", files / "full.csv", "--embedding", files / "part.csv"]


def call(*args, error=None):
    done = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=error is not None)
    if error is not None:
        assert isinstance(done.exception, error), done.output
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_predictions_and_weights(files, inputs, tmp_path):
    said = call(*inputs, "--out", tmp_path / "f.h5ad", "--weights", tmp_path / "w.csv")
    assert "A: 10 perturbations predicted, 10 of them from a vector, by kernels fitted on 50." in said
    assert "B: 18 perturbations predicted" in said
    assert "50 measured perturbations with a vector: 40 in all 2 modalities, 10 in 1." in said
    assert "'part' lacks 10 of 50" in said
    assert "weight of each modality, share" in said
    assert anndata.read_h5ad(tmp_path / "f.h5ad").shape == (28, 25)
    assert "sd" in anndata.read_h5ad(tmp_path / "f.h5ad").layers
    table = pd.read_csv(tmp_path / "w.csv")
    assert set(table["modality"]) == {"full", "part"}
    assert set(table["context"]) == {"A", "B"}
    said = call(
        *inputs, "--weights", tmp_path / "w2.csv", "--fusion", "concat", "--option", "unit=false", "--context", "B"
    )
    assert "predicted" not in said
    assert set(pd.read_csv(tmp_path / "w2.csv")["context"]) == {"B"}


def test_ids_and_formats(files, inputs, tmp_path):
    (tmp_path / "ids.csv").write_text("pert_id,note\nP055,x\nP056,y\n")
    for name in ("f.csv", "f.parquet"):
        call(
            *inputs,
            "--out",
            tmp_path / name,
            "--ids",
            tmp_path / "ids.csv",
            "--ids",
            "NEW",
            "--context",
            "B",
            "--seed",
            1,
        )
    frame = pd.read_csv(tmp_path / "f.csv")
    assert list(dict.fromkeys(frame["pert_id"])) == ["P055", "P056", "NEW"]
    assert frame.columns.tolist() == ["context", "pert_id", "readout", "prediction", "sd"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f.parquet"), frame, check_dtype=False, rtol=1e-5)
    said = call(*inputs, "--out", tmp_path / "s.csv", "--ids", "screen")
    assert set(pd.read_csv(tmp_path / "s.csv")["context"]) == {"B"}
    assert "nothing is left to predict in 'A'" in said


def test_rehearsal(files, inputs, tmp_path):
    said = call(*inputs, "--rehearse", "--folds", 3, "--rehearsal", tmp_path / "r.csv", "--match", "exact")
    assert "A — L2, lower is better, mean over 50 perturbations" in said
    assert "the best embedding alone; gain" in said
    assert "(best alone)" in said
    assert "rank correlation" in said
    assert "predicted" not in said
    table = pd.read_csv(tmp_path / "r.csv")
    assert set(table["method"]) == {"kernels", "full", "part", "train mean"}
    assert len(table) == (50 + 42) * 4
    pd.DataFrame({"pert_id": [f"P{k:03d}" for k in range(50)], "fold": np.arange(50) % 2}).to_csv(
        tmp_path / "folds.csv", index=False
    )
    said = call(*inputs, "--rehearse", "--splits", tmp_path / "folds.csv", "--context", "A", "--out", tmp_path / "f.csv",
                "--fusion", "concat")  # fmt: skip
    assert "A — L2" in said
    assert "B — L2" not in said
    assert "10 perturbations predicted" in said
    assert (tmp_path / "f.csv").exists()


def test_labels(files, tmp_path):
    inputs = [
        "--screen",
        files / "labels.h5ad",
        "--embedding",
        f"f={files / 'full.csv'}",
        "--embedding",
        files / "part.csv",
    ]
    said = call(*inputs, "--out", tmp_path / "l.h5ad", "--rehearse", "--context", "A")
    assert "A — F1, higher is better, mean over 5 folds" in said
    assert set(anndata.read_h5ad(tmp_path / "l.h5ad").layers) == {"p_down", "p_up"}
    assert "intervals" not in said


def test_options_are_yaml():
    given = ["kinds=[cosine, linear]", "width=0.25", "unit=true", "name=x=y", "none=", "steps=3"]
    assert cli_fuse.parse_options(given) == {
        "kinds": ["cosine", "linear"], "width": 0.25, "unit": True, "name": "x=y", "none": None, "steps": 3,
    }  # fmt: skip


def test_a_table_for_each_kind_of_number():
    rows = [("weight", "A", "e", "x", 1.0), ("weight", "A", "e", "y", 2.0), ("weight", "A", "f", "x", 1.0), ("weight", "B", "f", "x", 5.0),
            ("importance", "A", "e", "", -0.5), ("coefficient", "", "e", "head", 3.25)]  # fmt: skip
    tables = cli_fuse.weight_tables(pd.DataFrame(rows, columns=["what", "context", "modality", "part", "value"]))
    cells = [[list(c.cells) for c in t.columns] for t in tables]
    assert cells[0] == [["e", "f"], ["75 %", "25 %"], ["–", "100 %"]]
    assert cells[1] == [["e"], ["-0.500"]]
    assert cells[2] == [["e, head"], ["3.250"]]
    assert [c.header for c in tables[2].columns] == ["modality", "all contexts"]
    assert cli_fuse.weight_tables(pd.DataFrame(columns=["what", "context", "modality", "part", "value"])) == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.3, "beats e"), (-0.3, -0.1, "is beaten by e"), (-0.1, 0.3, "cannot be told from e")],
)
def test_sentences(low, high, verdict):
    fused = {
        "context": "A",
        "method": "kernels",
        "role": "fusion",
        "metric": "L2",
        "best": False,
        "sd_correlation": 0.5,
        "n": 9,
    }
    best = {
        **fused,
        "method": "e",
        "role": "embedding",
        "best": True,
        "gain": (low + high) / 2,
        "low": low,
        "high": high,
    }
    said = cli_fuse.rehearsal_sentences(pd.DataFrame([fused, best]))
    assert verdict in said[0]
    assert "0.50" in said[1]
    said = cli_fuse.rehearsal_sentences(pd.DataFrame([fused, {**best, "low": np.nan, "high": np.nan}]))
    assert "cannot be told" in said[0]
    said = cli_fuse.rehearsal_sentences(pd.DataFrame([fused, {**best, "best": False}]))
    assert "no embedding covers enough" in said[0]


def test_wrong_input_is_refused(files, inputs, tmp_path):
    out = ["--out", tmp_path / "f.csv"]
    for args, says in (
        ((), "nothing to do"),
        (("--out", tmp_path / "f.xlsx"), ".h5ad, .csv or .parquet"),
        ((*out, "--weights", tmp_path / "w.h5ad"), "written as .csv"),
        (("--rehearsal", tmp_path / "w.h5ad"), "written as .csv"),
        ((*out, "--fusion", "tree"), "no fusion 'tree'"),
        ((*out, "--option", "width"), "KEY=VALUE"),
        ((*out, "--option", "=3"), "KEY=VALUE"),
        ((*out, "--option", "width=1", "--option", "width=2"), "given twice"),
        ((*out, "--option", "kinds=[a"), "cannot be read"),
        ((*out, "--option", "depth=3"), "Its options are: kinds"),
        ((*out, "--option", "width=-1"), "greater than 0"),
        ((*out, "--members", 0), "at least one member"),
        ((*out, "--context", "C"), "no context 'C'"),
        ((*out, "--ids", "P020"), "nothing is left to predict"),
        ((*out, "--ids", tmp_path / "gone.txt"), "no such file"),
        ((*out, "--device", "abacus"), "abacus"),
        ((*out, "--rehearse", "--ids", "DMSO"), "control cells"),
        ((*out, "--rehearse", "--folds", 1), "folds"),
        ((*out, "--rehearse", "--splits", "published"), "is no named data set"),
        ((*out, "--embedding", files / "part.csv"), "two embeddings are named 'part'"),
    ):
        assert says in call(*inputs, *args, error=InputError), args
    assert not (tmp_path / "f.csv").exists()


def test_folders_of_checkpoints_and_help(inputs, tmp_path):
    call(*inputs, "--out", tmp_path / "f.csv", "--checkpoints", tmp_path / "kept", "--context", "A")
    assert (tmp_path / "f.csv").exists()
    assert "rehearse" in call("--help")

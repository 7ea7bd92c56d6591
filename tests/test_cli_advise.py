"""The commands advise, predict and next, through an application of their own."""

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import cli_advise, run
from panmodal.errors import InputError

app = typer.Typer()
cli_advise.register(app)


@pytest.fixture(scope="module")
def files(toy, tmp_path_factory):
    """A results folder, the screen without its last ten perturbations, and an embedding of all."""
    folder = tmp_path_factory.mktemp("advise")
    screen, embeddings = toy(n=60)
    results = run(screen, embeddings, folder / "results", probes=["ridge"], n_jobs=1, folds=3)
    kept = np.isin(screen.adata.obs["pert_id"], screen.pert_ids[:50])
    from panmodal import Screen

    Screen(screen.adata[kept].copy(), "part", "lfc").write(folder / "screen.h5ad")
    embeddings[0].write(folder / "full.csv")
    return folder, results.path, screen


def call(*args, error=None):
    done = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=error is not None)
    if error is not None:
        assert isinstance(done.exception, error), done.output
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_advise(files):
    folder, results, _ = files
    said = call("advise", results, "--csv", folder / "advice.csv", "--fusion-csv", folder / "fusion.csv")
    assert "use full with ridge" in said
    table = pd.read_csv(folder / "advice.csv")
    assert table["context"].tolist() == ["A", "B", "all contexts"]
    assert len(pd.read_csv(folder / "fusion.csv")) == 2
    assert ".csv" in call("advise", results, "--csv", folder / "advice.html", error=InputError)
    assert "no metric" in call("advise", results, "--metric", "none", error=InputError)


def test_predict(files):
    import anndata

    folder, _, _ = files
    inputs = ["--screen", folder / "screen.h5ad", "--embedding", folder / "full.csv"]
    said = call("predict", *inputs, "--out", folder / "p.h5ad")
    assert "A: 10 perturbations predicted, 10 of them from a vector" in said
    assert anndata.read_h5ad(folder / "p.h5ad").shape == (20, 25)
    (folder / "ids.csv").write_text("pert_id,note\nP055,x\nP056,y\n")
    (folder / "ids.txt").write_text("P057\n\nNEW\n")
    said = call("predict", *inputs, "--out", folder / "p.csv", "--ids", folder / "ids.csv", "--ids", folder / "ids.txt", "--ids", "P058",
                "--context", "B", "--probe", "knn", "--alpha", 0.2)  # fmt: skip
    assert "5 perturbations predicted, 4 of them" in said
    assert "'NEW'" in said
    assert "80 % intervals" in said
    frame = pd.read_csv(folder / "p.csv")
    assert list(dict.fromkeys(frame["pert_id"])) == ["P055", "P056", "P057", "NEW", "P058"]
    assert set(frame["context"]) == {"B"}
    assert ".h5ad, .csv or .parquet" in call("predict", *inputs, "--out", folder / "p.xlsx", error=InputError)
    (folder / "two.csv").write_text("a,b\n1,2\n")
    assert "no column pert_id" in call(
        "predict", *inputs, "--out", folder / "p.csv", "--ids", folder / "two.csv", error=InputError
    )
    assert "no such file" in call(
        "predict", *inputs, "--out", folder / "p.csv", "--ids", folder / "gone.txt", error=InputError
    )


def test_next(files):
    folder, _, screen = files
    inputs = ["--screen", folder / "screen.h5ad", "--embedding", folder / "full.csv", "--context", "A"]
    said = call("next", *inputs, "-n", 4, "--rehearse", "--out", folder / "next.csv")
    assert "rehearsal on 50 measured perturbations" in said
    assert "4 chosen by expected-information" in said
    table = pd.read_csv(folder / "next.csv")
    assert len(table) == 4
    assert set(table["pert_id"]) <= set(screen.pert_ids[50:])
    said = call("next", *inputs, "-n", 1, "--candidates", "P055", "--strategy", "diversity")
    assert said.endswith("P055")
    assert ".csv" in call("next", *inputs, "--out", folder / "next.txt", error=InputError)
    assert "cannot choose 11 of 10" in call("next", *inputs, "-n", 11, error=InputError)
    assert "no strategy" in call("next", *inputs, "-n", 2, "--strategy", "best", error=InputError)

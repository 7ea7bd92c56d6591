"""``panmodal store``."""

import shutil

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import Card, Embedding, Store, run
from panmodal.cli_store import _rename, _size, register
from panmodal.errors import InputError, StoreError

CHEAP = {"folds": 2, "n_jobs": 1, "probes": ["ridge"], "metrics": ["L2"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy):
    out = tmp_path_factory.mktemp("cli")
    screen, embeddings = toy(n=30, genes=8, contexts=("A",))
    run(screen, embeddings[:1], out / "a", **CHEAP)
    run(screen, [Embedding(embeddings[1].ids, embeddings[1].vectors, Card(name="full"))], out / "b", **CHEAP)
    return out


@pytest.fixture
def folders(made, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def call(monkeypatch):
    app = typer.Typer()
    register(app)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*args, code=0, error=None):
        done = CliRunner().invoke(app, ["store", *map(str, args)])
        if error is not None:
            assert isinstance(done.exception, (InputError, StoreError)), done.exception
            assert error in str(done.exception)
        else:
            assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return invoke


def test_verify(call, folders, tmp_path):
    a, _ = folders
    assert "No problem" in call("verify", a, "--full")
    (a / "scores.parquet").write_bytes(b"damaged")
    out = call("verify", a, "--csv", tmp_path / "v.csv", code=1)
    assert "problem scores.parquet: damaged" in out and "1 problem(s), 0 removed." in out
    assert len(pd.read_csv(tmp_path / "v.csv")) == 1
    assert "Removed." in call("verify", a, "--repair", code=1) and not (a / "scores.parquet").exists()
    call("verify", a, "--force", error="--repair")
    call("verify", tmp_path, error="not a results folder")


def test_gc(call, folders, tmp_path):
    a, _ = folders
    assert "Nothing to remove" in call("gc", a, "--hours", 0)
    next((a / "runs").iterdir()).unlink()
    n = len(list((a / "trials").glob("*/*")))
    out = call("gc", a, "--hours", 0, "--csv", tmp_path / "g.csv")
    assert f"{n} predictions, " in out and "no recorded plan mentions it" in out and "give --yes" in out
    assert len(list((a / "trials").glob("*/*"))) == n and len(pd.read_csv(tmp_path / "g.csv")) > n
    assert "Nothing to remove" in call("gc", a, "--yes")  # all is young
    assert "Removed" in call("gc", a, "--hours", 0, "--yes") and not list((a / "trials").glob("*/*"))


def test_merge(call, folders, tmp_path):
    a, b = folders
    call("merge", a, b, "--into", tmp_path / "c", error="the embedding 'full' differ")
    rename = ["--rename", f"{b}:full=theirs"]
    assert "can be copied" in call("merge", a, b, "--into", tmp_path / "c", "--dry-run", *rename)
    assert not (tmp_path / "c").exists()
    out = call("merge", a, b, "--into", tmp_path / "c", *rename)
    assert "trials copied" in out and "files written" in out
    assert {"full", "theirs"} <= set(Store(tmp_path / "c").scores()["embedding"])
    call("merge", a, b, "--into", tmp_path / "d", "--rename", "full=x", error="FOLDER:OLD=NEW")
    assert _rename(f"{a}/:o:d=n=w", [b, a]) == (str(a), "o:d", "n=w")


def test_export(call, folders, tmp_path):
    a, _ = folders
    assert "rows" in call("export", a, "--out", tmp_path / "s.csv", "--wide", "--fallback", "filled")
    assert "L2" in pd.read_csv(tmp_path / "s.csv")
    assert "rows" in call("export", a, "--out", tmp_path / "p.csv", "--what", "perturbations", "--embedding", "full")
    assert "8 read-outs" in call("export", a, "--out", tmp_path / "p.h5ad", "--what", "predictions", "--fold", 0)
    call("export", a, "--out", tmp_path / "x.csv", "--what", "all", error="scores, perturbations, predictions")
    call("export", a, "--out", tmp_path / "x.h5ad", "--what", "predictions", "--metric", "L2", error="--metric")
    call(
        "export", a, "--out", tmp_path / "x.csv", "--what", "perturbations", "--fallback", "filled", error="--fallback"
    )


def test_sizes():
    for number, text in ((5, "5 B"), (5e3, "5.0 kB"), (5e6, "5.0 MB"), (5e10, "50.0 GB")):
        assert _size(pd.DataFrame({"bytes": [number]})) == text

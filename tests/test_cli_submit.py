"""panmodal bundle and panmodal validate."""

import json

import pytest
import typer
from typer.testing import CliRunner

from panmodal import cli_submit, run
from panmodal.errors import InputError


@pytest.fixture(scope="module")
def results(toy, tmp_path_factory):
    screen, embeddings = toy(n=40, genes=6, contexts=("A",))
    folder = tmp_path_factory.mktemp("submit") / "results"
    run(screen, embeddings, folder, folds=2, probes=["ridge"], metrics=["L2", "Pearson"], n_jobs=1)
    return folder


@pytest.fixture
def call():
    app = typer.Typer()
    cli_submit.register(app)

    def invoke(*args, code=0):
        found = CliRunner().invoke(app, [str(a) for a in args])
        assert found.exit_code == code, (found.output, found.exception)
        return found

    return invoke


def test_bundle_and_validate(results, tmp_path, call):
    out = tmp_path / "toy.panmodal.zip"
    told = call("bundle", results, "--out", out, "--title", "toys", "--embedding", "full", "--with-predictions", "--contact", "me",
                "--notes", "none", "--date", "2026-01-02").output  # fmt: skip
    assert "Wrote" in told and "digest" in told and "does not say licence" in told
    told = call("validate", out, "--against", results, "--json", tmp_path / "r.json").output
    assert "toys" in told and "V072" in told and told.rstrip().endswith("valid") and "not valid" not in told
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["valid"] and report["facts"]["embeddings"] == ["full"] and report["facts"]["predictions"]
    assert "not valid" in call("validate", out, "--strict", code=1).output


def test_an_invalid_file(tmp_path, call):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    told = call("validate", tmp_path / "a.zip", "--json", tmp_path / "r.json", code=1).output
    assert "V001" in told and "not valid" in told
    assert json.loads((tmp_path / "r.json").read_text())["findings"][0]["code"] == "V001"


def test_what_a_stranger_writes_does_not_steer_the_terminal(results, tmp_path, call):
    import zipfile

    made = zipfile.ZipInfo("x\x1b[2J.json")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(made, b"x")
    assert "\x1b[2J" not in call("validate", tmp_path / "a.zip", code=1).output


def test_errors_are_those_of_the_package(results, tmp_path, call):
    assert isinstance(call("validate", tmp_path / "none.zip", code=1).exception, InputError)
    assert isinstance(call("bundle", results, "--out", tmp_path / "a.tar", code=1).exception, InputError)

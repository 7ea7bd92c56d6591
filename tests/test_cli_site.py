"""``panmodal site``."""

import json

import pytest
import typer
from typer.testing import CliRunner

from panmodal import run
from panmodal.cli_site import register
from panmodal.errors import InputError


@pytest.fixture(scope="module")
def results(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("cli-site") / "results"
    screen, embeddings = toy(n=30, genes=12)
    run(screen, embeddings, probes=["knn"], out=folder, n_jobs=1)
    return folder


@pytest.fixture
def call(monkeypatch):
    app = typer.Typer()
    register(app)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*args, error=None):
        done = CliRunner().invoke(app, list(map(str, args)))
        if error is None:
            assert done.exit_code == 0, (done.output, done.exception)
            return done.output
        assert isinstance(done.exception, InputError), done.exception
        assert error in str(done.exception)
        return ""

    return invoke


def test_a_site_is_written(call, results, tmp_path):
    out = call(results, "--out", tmp_path / "site", "--title", "Mine", "--date", "2026-01-31", "--base-url", "https://example.org",
               "--metric", "Pearson")  # fmt: skip
    assert "2 embeddings, 2 tasks" in out
    index = json.loads((tmp_path / "site" / "index.json").read_text())
    assert (index["title"], index["date"], index["url"]) == ("Mine", "2026-01-31", "https://example.org/")
    assert {t["metric"] for t in index["tasks"]} == {"Pearson"}
    call(results, "--out", tmp_path / "site", "--previous", tmp_path / "site")
    assert len(json.loads((tmp_path / "site" / "changes.json").read_text())["entries"]) == 1


def test_options_come_before_the_config(call, results, tmp_path):
    (tmp_path / "site.yaml").write_text(f"title: T\nintro: I\nsources: ['{results}']\n")
    call("--config", tmp_path / "site.yaml", "--out", tmp_path / "site", "--title", "Given")
    text = (tmp_path / "site" / "index.html").read_text()
    assert "<title>Given</title>" in text and ">I<" in text


def test_what_is_wrong_is_said(call, results, tmp_path):
    call("--out", tmp_path / "s", error="no source")
    call(results, "--date", "31.1.2026", "--out", tmp_path / "s", error="no date")
    call(tmp_path / "none", "--out", tmp_path / "s", error="no such folder")
    call(results, "--config", tmp_path / "none.yaml", error="cannot be read")

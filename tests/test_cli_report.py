"""``panmodal report`` and ``panmodal figures``."""

import pytest
import typer
from typer.testing import CliRunner

from panmodal import run
from panmodal.cli_report import register
from panmodal.errors import InputError


@pytest.fixture(scope="module")
def results(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("cli") / "results"
    screen, embeddings = toy()
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


def test_a_page_is_written(call, results, tmp_path):
    out = call("report", results, "--out", tmp_path / "r.html", "--section", "ranks", "--title", "Mine & yours")
    assert "2 embeddings with 1 probe were tested on 2 tasks" in out and "Wrote" in out and "MB)" in out
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (
        "<title>Mine &amp; yours</title>" in text
        and "How sure is the ranking?" in text
        and "What do the embeddings share?" not in text
    )
    assert " UTC" in text  # when the run was recorded


def test_a_folder_is_written(call, results, tmp_path):
    out = call(
        "report",
        results,
        "--out",
        tmp_path / "folder",
        "--section",
        "ranks",
        "--metric",
        "Pearson",
        "--fallback",
        "common",
    )
    assert "more files" in out
    names = {p.name for p in (tmp_path / "folder").iterdir()}
    assert names == {"index.html", "assets", "tables", "figures"}
    assert "Pearson, higher is better" in (tmp_path / "folder" / "index.html").read_text(encoding="utf-8")


def test_figures_are_written(call, results, tmp_path):
    out = call(
        "figures", results, "--out", tmp_path / "f", "--format", "svg", "--format", "png", "--section", "leaderboard"
    )
    written = sorted(p.name for p in (tmp_path / "f").iterdir())
    assert "leaderboard-gap-closed.svg" in written and "leaderboard-folds-2.png" in written
    assert len(written) % 2 == 0 and not any(n.endswith("pdf") for n in written)
    assert all(n in out for n in written)
    assert (tmp_path / "f" / "leaderboard-gap-closed.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_is_refused(call, results, tmp_path):
    call("report", results, "--out", tmp_path / "r.pdf", error="ends in .html, or a folder")
    call("report", results, "--out", tmp_path / "r.html", "--section", "nope", error="no section 'nope'")
    call("figures", results, "--out", tmp_path / "f", "--format", "gif", error="no format 'gif'")
    call("figures", results, "--out", tmp_path / "f", "--section", "checks", error="no figures")
    (tmp_path / "file").write_text("mine")
    call("figures", results, "--out", tmp_path / "file", error="is a file")

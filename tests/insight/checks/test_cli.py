"""The command: what it prints and writes, and how it ends."""

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import cli_check
from panmodal.errors import InputError, PanmodalError
from panmodal.evaluation.run import run


@pytest.fixture(scope="module")
def results(toy, tmp_path_factory):
    screen, embeddings = toy(40)
    return run(
        screen,
        embeddings,
        tmp_path_factory.mktemp("checks") / "results",
        folds=4,
        n_jobs=1,
        probes=["ridge"],
        permuted=True,
    ).path


@pytest.fixture
def check():
    app = typer.Typer()
    cli_check.register(app)

    def call(*args, code=0):
        found = CliRunner().invoke(app, [*map(str, args)])
        if isinstance(found.exception, PanmodalError):
            raise found.exception
        assert found.exit_code == code, found.output
        return found.output

    return call


def test_it_says_what_why_and_what_to_do(check, results):
    text = check(results)
    assert "warning PM012 few-perturbations" in text and "40 perturbations were tested, fewer than 50" in text
    assert "why: The score of a method" in text and "do:  Do not rank" in text and "docs/checks/PM012.md" in text
    assert "passed PM002 shared-parts" in text and "PM022 confounding: batches: results do not say" in text
    assert text.strip().splitlines()[-1].startswith("24 checks: ")


def test_ignored_checks_are_not_made(check, results):
    text = check(results, "--ignore", "PM012", "--ignore", "one-seed")
    assert "40 perturbations" not in text and "ignored PM012 few-perturbations, PM020 one-seed" in text


def test_files(check, results, tmp_path):
    text = check(results, "--json", tmp_path / "f.json", "--csv", tmp_path / "f.csv", "--verbose")
    assert f"Wrote {tmp_path / 'f.json'}" in text
    told, frame = json.loads((tmp_path / "f.json").read_text()), pd.read_csv(tmp_path / "f.csv")
    assert [f["code"] for f in told["findings"]] == frame["code"].tolist() and "PM012" in set(frame["code"])
    with pytest.raises(InputError, match="must end in"):
        check(results, "--json", tmp_path / "f.txt")


def test_strict_ends_with_1_where_an_error_remains(check, results, tmp_path):
    check(results, "--strict")
    from panmodal.evaluation.store import Store

    store = Store(results)
    kept = store.scores()
    try:
        store.write_table("scores", kept.assign(seen=kept["seen"].where(kept["role"] != "embedding", "yes")))
        assert "error PM006 contamination" in check(results, "--strict", code=1)
        check(results)
        check(results, "--strict", "--ignore", "PM006")
    finally:
        store.write_table("scores", kept)


def test_thresholds_and_batches(check, results, tmp_path):
    table = tmp_path / "batches.csv"
    ids = [f"P{k:03d}" for k in range(40)]
    pd.DataFrame({"pert_id": ids, "batch": [k % 4 for k in range(40)]}).to_csv(table, index=False)
    text = check(results, "--set", "min_tested=10", "--batches", table)
    assert "few-perturbations" in text.split("passed")[1] and "results do not say in which batch" not in text
    for wrong in ("min_tested", "min_tested=many"):
        with pytest.raises(InputError, match="must be NAME=NUMBER"):
            check(results, "--set", wrong)
    pd.DataFrame({"pert_id": ids}).to_csv(table, index=False)
    with pytest.raises(InputError, match="no column 'batch'"):
        check(results, "--batches", table)


def test_structures_of_compounds(check, results, tmp_path):
    pytest.importorskip("rdkit")
    table = tmp_path / "compounds.csv"
    pd.DataFrame(
        {"name": ["P000", "P001"], "smiles": ["CC(=O)Oc1ccccc1C(=O)O", "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"]}
    ).to_csv(table, index=False)
    text = check(results, "--compounds", table)
    assert "38 of 40 compounds, of which no structure is known" in text


def test_no_results_folder(check, tmp_path):
    with pytest.raises(PanmodalError, match="not a results folder"):
        check(tmp_path)

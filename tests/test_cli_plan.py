import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from panmodal import cli_plan, make_split, run
from panmodal.cli_plan import duration, size
from panmodal.evaluation.cost import CostModel
from panmodal.evaluation.estimate import BUILT_IN, read_plan


@pytest.fixture
def inputs(toy, tmp_path):
    screen, embeddings = toy()
    screen.write(tmp_path / "screen.h5ad")
    for embedding in embeddings:
        frame = pd.DataFrame(np.asarray(embedding.vectors), index=list(embedding.ids)).rename(columns=str)
        frame.rename_axis("pert_id").reset_index().to_csv(tmp_path / f"{embedding.name}.csv", index=False)
    names = [f"--embedding={tmp_path / e.name}.csv" for e in embeddings]
    return (
        [f"--screen={tmp_path / 'screen.h5ad'}", *names, "--folds=3", "--probe=knn", "--probe=lasso"],
        screen,
        embeddings,
    )


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command; return what it printed, or the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANMODAL_CACHE", str(tmp_path / "cache"))
    app = typer.Typer()
    app.command()(lambda: None)
    cli_plan.register(app)

    def run_it(*args, calibrate=False):
        found = CliRunner().invoke(app, ["plan", *map(str, args), *([] if calibrate else ["--no-calibration"])])
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            return found.exception
        assert found.exit_code == 0, found.output
        return found.output

    return run_it


def test_a_plan_is_told_and_written(call, inputs, tmp_path):
    said = call(*inputs[0], "--jobs=2", "--out=plan.csv")
    for part in (
        "core-hours",
        "On 2 worker(s)",
        "Memory",
        "Disk",
        "Shared work",
        "built-in prices",
        "oracle",
        "bound by",
        "groups",
    ):
        assert part in said, said
    table = pd.read_csv(tmp_path / "plan.csv")
    assert len(table) == len(read_plan(tmp_path / "plan.csv"))
    assert table["seconds"].gt(0).all()
    assert not table["done"].any()
    assert "lite" not in table


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_lite_plan_is_written(call, inputs, tmp_path, suffix):
    said = call(*inputs[0], "--lite=30%", f"--out=plan.{suffix}")
    assert "Kendall's tau" in said
    assert "Parts within the budget" in said
    path = tmp_path / f"plan.{suffix}"
    table = pd.read_parquet(path) if suffix == "parquet" else pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    assert 0 < table["lite"].sum() < len(table)
    assert read_plan(path) == frozenset(table.loc[table["lite"].astype(bool), "trial"])


def test_what_is_done_is_not_counted_and_times_are_learned(call, inputs, tmp_path):
    arguments, screen, embeddings = inputs
    run(
        screen,
        embeddings[:1],
        tmp_path / "results",
        split=make_split(screen.pert_ids, n_folds=3),
        probes=["knn", "lasso"],
        n_jobs=1,
    )
    said = call(*arguments, "--out=plan.csv", "--timings=results")
    assert "recorded trials" in said
    # The folder of the config is looked into where it is there.
    assert pd.read_csv(tmp_path / "plan.csv")["done"].sum() > 0
    (tmp_path / "run.yaml").write_text(
        f"screen: {tmp_path / 'screen.h5ad'}\nembeddings: [full.csv]\nout: elsewhere\nfolds: 3\n", encoding="utf-8"
    )
    call("--config=run.yaml", "--results=results", "--probe=knn", "--probe=lasso", "--out=plan.csv")
    assert pd.read_csv(tmp_path / "plan.csv")["done"].all()
    assert "nothing to choose" in str(
        call("--config=run.yaml", "--results=results", "--probe=knn", "--probe=lasso", "--lite=0.5")
    )
    assert "not a results folder" in str(call(*arguments, "--results=nowhere"))


def test_the_machine_is_measured_once(call, inputs, monkeypatch):
    made = []
    monkeypatch.setattr(
        "panmodal.evaluation.estimate_calibrate.calibrate",
        lambda: made.append(1) or CostModel(BUILT_IN.prices, source="measured now"),
    )
    assert "Measuring this machine" in call(*inputs[0], calibrate=True)
    said = call(*inputs[0], calibrate=True)
    assert "Measuring" not in said
    assert "measured now" in said
    call(*inputs[0], "--calibrate", calibrate=True)
    assert len(made) == 2
    assert "exclude each other" in str(call(*inputs[0], "--calibrate"))


def test_bad_options(call, inputs):
    assert "missing --screen, --embedding" in str(call())
    assert "--lite" in str(call(*inputs[0], "--like=results"))
    assert "plan.txt" in str(call(*inputs[0], "--out=plan.txt"))
    assert "--lite 'much'" in str(call(*inputs[0], "--lite=much"))
    assert "not enough" in str(call(*inputs[0], "--lite=0.0001%"))


def test_words():
    assert [duration(s) for s in (1.234, 600, 36000)] == ["1.23 s", "10 min", "10 h"]
    assert [size(b) for b in (2.5e6, 3e9)] == ["2.5 MB", "3 GB"]

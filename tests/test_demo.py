"""The demonstration, smaller: planted embeddings, and that the benchmark finds what was planted."""

import sys

import numpy as np
import pytest

import panmodal
from panmodal import demo
from panmodal.cells.simulate import planted_embeddings, simulate_cells
from panmodal.cli import main
from panmodal.embeddings.card import Card
from panmodal.screens.simulate import PLANTED, simulate_responses

SMALL = {
    "n_cells": 4000,
    "n_perturbations": 40,
    "n_genes": 60,
    "contexts": ("one", "two"),
    "umis": 2000.0,
    "effect": 1.5,
}


@pytest.fixture(scope="module")
def small():
    """A smaller screen with planted responses, and embeddings of it."""
    screen, vectors = simulate_responses(n_perturbations=120, n_genes=80, contexts=("one", "two"), seed=1)
    return screen, [panmodal.Embedding(tuple(ids), v, Card(name=n, simulated=True)) for n, (ids, v) in vectors.items()]


def test_planted_embeddings_are_said_to_be_simulated(tmp_path):
    planted = {e.name: e for e in planted_embeddings(simulate_cells(tmp_path / "cells.h5ad", **SMALL))}
    assert list(planted) == list(PLANTED)
    for name, embedding in planted.items():
        assert embedding.card.simulated and embedding.card.description == f"SIMULATED: {PLANTED[name]}"
        assert embedding.dims == 64 and np.isfinite(embedding.vectors).all()


def test_the_planted_order_is_recovered(small, tmp_path):
    screen, embeddings = small
    results = panmodal.run(screen, embeddings, tmp_path / "r", probes=["knn", "ridge"], metrics=["L2"], n_jobs=1)
    board = results.leaderboard()
    assert set(board["simulated"]) == {True} and len(board) == 2 * (2 * 7 + 2)
    for (context, probe), rows in board[board["role"] == "embedding"].groupby(["context", "probe"]):
        by = rows.set_index("embedding")
        order = by.loc[["sim-full", "sim-half", "sim-unrelated"], "mean"]
        assert order.is_monotonic_increasing, (context, probe, order)
        assert by.loc["sim-full", "folds_above_floor"] == 5
        assert by.loc["sim-full", "gap_closed"] > 0.1 and by.loc["sim-unrelated", "gap_closed"] < 0.01
        assert by.loc["sim-noisy", "mean"] > by.loc["sim-full", "mean"]


def test_simulated_experiment_goes_the_whole_road(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "CELLS", SMALL)
    said = []
    screen, ceilings, embeddings = demo.simulated_experiment(tmp_path / "sim", n_jobs=1, say=said.append)
    assert screen.simulated and screen.contexts == ["one", "two"] == ceilings.contexts
    assert {e.name for e in ceilings.estimators("one")} >= {"experimental_error", "disjoint_halves"}
    assert {e.name for e in embeddings} == set(PLANTED) and "4000 x 60 genes" in said[0]
    assert {p.name for p in (tmp_path / "sim").iterdir()} == {"cells.h5ad", "screen.h5ad", "screen.ceilings.h5"}
    again, _, _ = demo.simulated_experiment(tmp_path / "again", n_jobs=2, say=said.append)
    assert [screen.digest(c) for c in screen.contexts] == [again.digest(c) for c in again.contexts]


def test_demo_runs_both_screens_and_writes_the_report(small, tmp_path, monkeypatch, capsys):
    screen, embeddings = small
    kept = {e.name: e for e in embeddings[:2]}
    one = screen.select(["one"])
    monkeypatch.setattr(demo, "EMBEDDED", dict.fromkeys(kept))
    monkeypatch.setattr(demo, "embedded_embedding", kept.__getitem__)
    monkeypatch.setattr(demo, "embedded_screen", lambda name: panmodal.Screen(one.adata, name, "lfc"))
    monkeypatch.setattr(demo, "CELLS", SMALL)
    monkeypatch.setattr(sys, "argv", ["panmodal", "demo", "--out", str(tmp_path / "d"), "--jobs", "1"])
    main()
    out = capsys.readouterr().out
    assert "Building embeddings from the shipped tables: sim-full, sim-half" in out
    assert str((tmp_path / "d" / "leaderboard.html").resolve()) in out
    assert "depmap-fitness, one: sim-full" in out and "simulated-cells, one (simulated data): sim-" in out
    page = (tmp_path / "d" / "leaderboard.html").read_text(encoding="utf-8")
    assert "depmap-fitness" in page and "simulated-cells" in page and "experimental error ceiling" in page
    assert (tmp_path / "d" / "leaderboard.csv").exists()

"""The demonstration, smaller: planted embeddings, and that the benchmark finds what was planted."""

import sys

import numpy as np
import pytest

import panmodal
from panmodal import demo
from panmodal.cli import main
from panmodal.embeddings.card import Card
from panmodal.screens.simulate import simulate_responses


@pytest.fixture(scope="module")
def planted():
    return {e.name: e for e in demo.planted_embeddings()}


@pytest.fixture(scope="module")
def small():
    """A smaller screen of the same make, with embeddings of it."""
    screen, vectors = simulate_responses(n_perturbations=120, n_genes=80, contexts=("one", "two"), seed=1)
    return screen, [panmodal.Embedding(tuple(ids), v, Card(name=n, simulated=True)) for n, (ids, v) in vectors.items()]


def test_planted_embeddings_are_said_to_be_simulated(planted):
    assert list(planted) == list(demo.PLANTED)
    for name, embedding in planted.items():
        assert embedding.card.simulated and embedding.card.description == f"SIMULATED: {demo.PLANTED[name]}"
        assert embedding.dims == 64 and np.isfinite(embedding.vectors).all()


def test_planted_embeddings_cover_the_shipped_simulated_screen_as_they_say(planted):
    ids = panmodal.screens.embedded.embedded_screen("simulated-perturbseq").pert_ids
    share = {name: e.coverage(ids).fraction for name, e in planted.items()}
    assert share.pop("sim-partial") == 0.6 and set(share.values()) == {1.0}


def test_planted_embeddings_are_the_same_each_time_and_depend_on_the_seed(planted):
    again, other = demo.planted_embeddings(), demo.planted_embeddings(seed=1)
    assert [e.digest for e in again] == [e.digest for e in planted.values()]
    assert not {e.digest for e in other} & {e.digest for e in again}


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


def test_demo_runs_both_screens_and_writes_the_report(small, tmp_path, monkeypatch, capsys):
    screen, embeddings = small
    kept = {e.name: e for e in embeddings[:2]}
    one = screen.select(["one"])
    monkeypatch.setattr(demo, "EMBEDDED", dict.fromkeys(kept))
    monkeypatch.setattr(demo, "embedded_embedding", kept.__getitem__)
    monkeypatch.setattr(
        demo, "embedded_screen", lambda name: panmodal.Screen(one.adata, name, "lfc", simulated="sim" in name)
    )
    monkeypatch.setattr(demo, "planted_embeddings", lambda: list(kept.values()))
    monkeypatch.setattr(sys, "argv", ["panmodal", "demo", "--out", str(tmp_path / "d"), "--jobs", "1"])
    main()
    out = capsys.readouterr().out
    assert "Building embeddings from the shipped tables: sim-full, sim-half" in out
    assert str((tmp_path / "d" / "leaderboard.html").resolve()) in out
    assert "depmap-fitness, one: sim-full" in out and "simulated-perturbseq, one (simulated data): sim-full" in out
    page = (tmp_path / "d" / "leaderboard.html").read_text(encoding="utf-8")
    assert "depmap-fitness" in page and "simulated-perturbseq" in page
    assert (tmp_path / "d" / "leaderboard.csv").exists()

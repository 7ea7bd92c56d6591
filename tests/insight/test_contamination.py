"""An embedding that was trained on the data set it is tested on is marked wherever it appears."""

import numpy as np
import pandas as pd
import pytest

from panmodal import Embedding, Screen, run
from panmodal.insight.leaderboard import leaderboard, overall, summary
from panmodal.insight.page import render_page
from panmodal.insight.terminal import note_for, task_tables

MARK = "trained on this data set"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    rng = np.random.default_rng(0)
    ids = [f"G{k:03d}" for k in range(60)]
    latent = rng.normal(size=(60, 4))
    screen = Screen.from_arrays(latent @ rng.normal(size=(4, 20)) + 0.1 * rng.normal(size=(60, 20)), ids, ["line"] * 60,
                                [f"R{k}" for k in range(20)], name="mine", response="lfc", datasets=("replogle2022",))  # fmt: skip
    made = [
        Embedding.from_dict(dict(zip(ids, latent + scale * rng.normal(size=(60, 4)), strict=True)), name=name, **card)
        for name, scale, card in (
            ("cheat", 0.0, {"trained_on": ("essential",)}),
            ("clean", 0.3, {"trained_on": ("none",)}),
            ("silent", 0.6, {}),
        )
    ]
    out = tmp_path_factory.mktemp("seen") / "results"
    return run(screen, made, out, probes=["ridge"], permuted=True, n_jobs=1)


def board(results, **options):
    return results.leaderboard(**options)


def test_the_table_tells_who_has_seen_the_screen(results):
    told = board(results).set_index("embedding")["seen"]
    assert told[["cheat", "clean", "silent"]].tolist() == ["yes", "no", "unknown"]
    assert (told.drop(["cheat", "clean", "silent"]) == "no").all()  # controls and baselines
    assert overall(board(results)).set_index("embedding")["tasks_seen"].to_dict() == {
        "cheat": 1,
        "clean": 0,
        "silent": 0,
    }


def test_sentences_name_it_and_the_first_of_the_others(results):
    (text,) = summary(board(results))
    assert "beware: cheat was trained on this data set; of the others clean with ridge comes first" in text
    scores = results.scores
    (text,) = summary(leaderboard(scores.assign(seen=scores["seen"].where(scores["embedding"] != "cheat", "no"))))
    assert "trained on" not in text
    second = scores["seen"].where(scores["embedding"] != "cheat", "no").where(scores["embedding"] != "clean", "yes")
    (text,) = summary(leaderboard(scores.assign(seen=second)))
    assert "beware: 'clean' was trained on this data set" in text


def test_tables_and_page_mark_it(results):
    from rich.console import Console

    console = Console(record=True, width=200)
    for table in task_tables(board(results)):
        console.print(table)
    text = console.export_text()
    assert text.count(MARK) == 1 and next(line for line in text.splitlines() if MARK in line).count("cheat") == 1
    assert "Of 1 embedding(s) it is not known" in note_for(board(results))
    scores = pd.read_parquet(results.path / "scores.parquet")
    page = render_page(scores)
    assert page.count(f'class="mark" title="Its card says that it has seen the responses of this data set">{MARK}') == 1
    assert "trained on 1 of the tasks" in page


def test_tables_from_before_say_nothing(results):
    scores = results.scores.drop(columns="seen")
    assert (leaderboard(scores)["seen"] == "unknown").all()


def test_a_screen_keeps_its_data_sets_in_files(tmp_path, results):
    screen = results.plan.screen
    screen.write(tmp_path / "s.h5ad")
    assert Screen.read(tmp_path / "s.h5ad").datasets == ("replogle2022",)
    assert Screen.read(tmp_path / "s.h5ad", datasets=["norman2019"]).datasets == ("norman2019",)
    assert screen.select(["line"]).datasets == ("replogle2022",)

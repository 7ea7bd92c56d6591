"""What may stand on one board: the same responses and split, each trial once, nothing contradictory."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from panmodal import run
from panmodal._digest import digest_json
from panmodal.evaluation.store import Store
from panmodal.insight.leaderboard import leaderboard
from panmodal.site.merge import merge
from panmodal.site.pool import Pool
from panmodal.site.sources import Source, of_bundle, open_source
from panmodal.site.tables import cells, make_tables, standings


@pytest.fixture
def source(folders):
    return lambda folder, **options: open_source(folders[folder], **options)


def edited(folder, target, change):
    """Copy a results folder with other scores."""
    shutil.copytree(folder, target)
    store = Store(target)
    store.write_table("scores", change(store.scores()))
    return target


def test_one_source_has_the_numbers_of_the_leaderboard(source, folders):
    tables = make_tables(merge([source("first")]))
    store = Store(folders["first"])
    expected = leaderboard(store.scores(), **store.evidence())
    found = pd.concat([p.board for p in tables.pages], ignore_index=True)
    columns = ["screen", "context", "embedding", "probe", "rank", "mean", "gap_closed", "gap_low", "gap_high", "common"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False)


def test_two_sources_stand_on_one_board_and_trials_of_both_once(source, folders, tmp_path, screen_and):
    screen, (full, part), make = screen_and
    noise = make("noise", 1, licence="MIT", url="https://example.org/a?b=1&c=2")
    run(screen, [full, part, noise], probes=["knn"], out=tmp_path / "all", n_jobs=1)
    both, whole = (
        make_tables(merge(s)) for s in ([source("first"), source("second")], [open_source(tmp_path / "all")])
    )
    assert len(both.pages) == len(whole.pages) == 2
    columns = [
        "embedding",
        "probe",
        "rank",
        "mean",
        "gap_closed",
        "folds_above_floor",
        "coverage",
        "filled",
        "covered",
        "common",
    ]
    for one, other in zip(
        both.pages, whole.pages, strict=True
    ):  # as if they had been run together, also over the ids in common
        order = ["embedding", "probe"]
        a, b = (
            t.board[t.board["role"] != "control"].sort_values(order)[columns].reset_index(drop=True)
            for t in (one, other)
        )
        pd.testing.assert_frame_equal(a, b, check_dtype=False)
        assert one.trials["trial"].is_unique
    a, b = (standings(t).drop(columns=["low", "high"]) for t in (both, whole))
    pd.testing.assert_frame_equal(a, b)
    assert (both.pages[0].board["embedding"] == "full").sum() == 1


def test_the_common_ids_are_those_of_all_sources(source):
    merged = merge([source("second"), source("first")])
    table = Pool(merged).scores(("toy", "A", "lfc", "unseen-perturbation"))
    own = table[(table["embedding"] == "noise") & (table["metric"] == "L2")].pivot_table(
        index="fold", columns="fallback", values="value"
    )
    assert not np.allclose(own["common"], own["filled"])  # "part" covers four fifths


def test_an_embedding_of_the_same_name_is_not_mixed(source):
    merged = merge([source("first"), source("clash")])
    assert {e.name for e in merged.entries if e.role == "embedding"} == {"full", "part", "full [clash]"}
    assert any("another one than full of source first" in n for n in merged.notes)
    board = make_tables(merged).pages[0].board
    assert {"full", "full [clash]"} <= set(board["embedding"])


def test_the_same_vectors_under_another_name_stand_once(source, tmp_path, screen_and):
    screen, (full, _), _ = screen_and
    again = replace(full, card=full.card.model_copy(update={"name": "mine"}))
    run(screen, [again], probes=["knn"], out=tmp_path / "r", n_jobs=1)
    merged = merge([source("first"), open_source(tmp_path / "r", name="r")])
    board = make_tables(merged).pages[0].board
    assert "mine" not in set(board["embedding"]) and any(
        "mine of source r has the vectors of full" in n for n in merged.notes
    )


def test_other_responses_under_the_same_name_are_refused(source, tmp_path, toy, refuses):
    screen, embeddings = toy(n=30, genes=12, seed=1)
    run(screen, embeddings, probes=["knn"], out=tmp_path / "other", n_jobs=1)
    refuses(
        ["'first'", "'other'", "toy · A", "other responses", "do not compare"],
        merge,
        [source("first"), open_source(tmp_path / "other")],
    )


def test_another_split_under_the_same_name_is_refused(source, tmp_path, screen_and, refuses):
    screen, embeddings, _ = screen_and
    run(screen, embeddings, probes=["knn"], out=tmp_path / "other", n_jobs=1, seed=7)
    refuses(["'first'", "'other'", "other split"], merge, [source("first"), open_source(tmp_path / "other")])


def test_the_same_task_under_another_name_is_one_task(source, tmp_path, screen_and):
    screen, _, make = screen_and
    renamed = copy.copy(screen)
    renamed.name = "toy2"
    run(renamed, [make("late", 9)], probes=["knn"], out=tmp_path / "r", n_jobs=1)
    merged = merge([source("first"), open_source(tmp_path / "r")])
    assert {t[0] for t in merged.places} == {"toy"} and any("the same responses and split" in n for n in merged.notes)
    assert "late" in set(make_tables(merged).pages[0].board["embedding"])


@pytest.mark.parametrize("column", ["value", "n_covered"])
def test_the_same_trial_with_other_scores_is_refused(column, folders, tmp_path, refuses):
    def change(scores):
        at = (scores["embedding"] == "full") & (scores["fallback"] == "filled")
        return scores.assign(**{column: scores[column].where(~at, scores[column] * 0.5)})

    other = edited(folders["second"], tmp_path / "changed", change)
    refuses(
        ["'first'", "'changed'", "contradict", "full"],
        lambda: make_tables(merge([open_source(folders["first"]), open_source(other)])),
    )


def test_differences_of_rounding_are_none(folders, tmp_path):
    other = edited(folders["second"], tmp_path / "r", lambda s: s.assign(value=s["value"] * (1 + 1e-7)))
    make_tables(merge([open_source(folders["first"]), open_source(other)]))


def test_a_probe_that_was_run_otherwise_is_refused(source, refuses):
    first, second = source("first"), source("second")
    other = {t: f"{t}x" for t in second.identities if second.identities[t].embedding}
    scores = second.scores.assign(
        trial=second.scores["trial"].astype(str).map(lambda t: other.get(t, t)).astype("category")
    )
    identities = {other.get(t, t): i._replace(probe="{}") for t, i in second.identities.items()}
    changed = Source("second", "submission", "x", scores, identities, embeddings=second.embeddings)
    refuses(["computed otherwise", "'first'", "'second'", "probe"], lambda: make_tables(merge([first, changed])))


def test_sources_must_have_names_of_their_own(source, refuses):
    refuses(["two sources", "site.yaml"], merge, [source("first"), source("second", name="first")])
    refuses(["no source"], merge, [])


def test_a_trial_whose_digest_is_not_its_own_is_refused(folders, tmp_path, refuses):
    shutil.copytree(folders["first"], tmp_path / "r")
    path = next((tmp_path / "r" / "runs").glob("*.json"))
    record = json.loads(path.read_text())
    record["trials"][0]["depends"]["split"] = digest_json("another")
    path.write_text(json.dumps(record))
    refuses(["digest of something else", record["trials"][0]["trial"]], open_source, tmp_path / "r")


def test_trials_without_a_record_are_refused(source, refuses):
    first = source("first")
    refuses(["no record of trial"], merge, [Source("x", "submission", "d", first.scores, {})])


@pytest.mark.parametrize(
    ("column", "value"), [("metric", "Score"), ("role", "winner"), ("fallback", "best"), ("seen", "perhaps")]
)
def test_unknown_words_in_a_submission_are_refused(column, value, folders, refuses):
    scores = Store(folders["first"]).scores()

    class Fake:
        cards, trials, runs, digest = {}, [], [], "d"

        def perturbations(self):
            return pd.DataFrame()

    Fake.scores = scores.assign(**{column: value})
    refuses([column, value, "'x'"], of_bundle, Fake(), "x")
    Fake.scores = scores.drop(columns="trial")
    refuses(["no column", "trial"], of_bundle, Fake(), "x")


def test_folders_without_results_are_refused(tmp_path, refuses):
    refuses(["no such folder"], open_source, tmp_path / "none")
    refuses(["is empty"], open_source, tmp_path)
    Store(tmp_path / "s", create=True)
    refuses(["no scores yet"], open_source, tmp_path / "s")


def test_places_are_given_among_methods_of_the_same_tasks(source):
    tables = make_tables(merge([source("first"), source("second")]))
    found = cells(tables)
    only = found[~((found["embedding"] == "noise") & (found["task"] == 1))]
    placed = standings(tables, only)
    assert placed.groupby("group")["tasks"].nunique().eq(1).all() and placed["group"].nunique() == 2
    assert list(placed[placed["embedding"] == "noise"]["place"]) == [1]


def test_a_submission_is_a_source(folders, tmp_path):
    submissions = pytest.importorskip("panmodal.submissions")
    target = tmp_path / "mine.zip"
    submissions.bundle(folders["second"], target, date="2026-01-05")
    found = open_source(target)
    assert (found.name, found.kind, found.date) == ("mine", "submission", "2026-01-05")
    tables = make_tables(merge([open_source(folders["first"]), found]))
    expected = make_tables(merge([open_source(folders["first"]), open_source(folders["second"])]))
    pd.testing.assert_frame_equal(standings(tables), standings(expected))
    entry = next(e for e in tables.merged.entries if e.name == "noise")
    assert entry.card["licence"] == "MIT" and entry.made[0][1].covered == 30

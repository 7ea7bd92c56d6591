"""What goes into a bundle, and what comes out of it again."""

import io
import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, Screen, Store, StoreError, make_split, rescore, run
from panmodal.submissions import bundle, open_bundle, validate
from panmodal.submissions.schema import DRAWS, RESAMPLED, SCORES
from panmodal.submissions.tables import write_frame


@pytest.fixture
def copied(results, tmp_path):
    return shutil.copytree(results, tmp_path / "r")


def test_the_same_results_are_the_same_bytes(results, copied, tmp_path, bundled):
    for folder, name in ((results, "a"), (copied, "b")):
        bundle(folder, tmp_path / f"{name}.zip", title="toys", contact="a@example.org")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes() == bundled.read_bytes()
    assert bundle(results, tmp_path / "c.zip", title="toys", date="2026-01-02").digest != open_bundle(bundled).digest


def test_what_was_bundled_is_what_is_read(results, predicted):
    store, found = Store(results), open_bundle(predicted)
    order = ["embedding", "probe", "fold", "fallback", "metric"]
    pd.testing.assert_frame_equal(
        found.scores.sort_values(order, ignore_index=True),
        store.scores().sort_values(order, ignore_index=True),
        check_dtype=False,
    )
    rows = store.perturbations().set_index(["trial", "pert_id"]).sort_index()
    pd.testing.assert_frame_equal(
        found.perturbations().set_index(["trial", "pert_id"]).sort_index()[rows.columns], rows
    )
    assert {t.digest for t in found.planned()} == {t.digest for t in store.trials()}
    for trial in found.planned():
        ours, theirs = found.predictions(trial.digest), store.read_trial(trial.digest)
        assert ours.content == theirs.content and ours.pert_ids == theirs.pert_ids
        np.testing.assert_array_equal(ours.values, theirs.values)
    assert found.has_predictions and found.ceilings is None and found.resampled is None
    assert set(found.environments) == {t["provenance"].get("environment") for t in found.trials} - {None}
    assert set(found.cards) == {"full", "part"} and found.cards["full"]["licence"] == "MIT"
    (split,) = found.splits.values()
    assert split.digest == found.tasks[0]["split_digest"] and found.manifest["embeddings"] == ["full", "part"]
    assert found.version and found.date == ""


def test_a_bundle_makes_the_leaderboard_of_the_results(results, bundled):
    from panmodal.insight.leaderboard import leaderboard

    store, found = Store(results), open_bundle(bundled)
    pd.testing.assert_frame_equal(
        leaderboard(found.scores, rows=found.perturbations()),
        leaderboard(store.scores(), rows=store.rows()),
        check_like=True,
    )


def test_what_is_read_can_be_stored_again(predicted, tmp_path):
    found, store = open_bundle(predicted), Store(tmp_path / "new", create=True)
    for about in found.runs:
        store.save_run(found.planned(), about)
    for trial in found.planned():
        store.write_trial(trial.digest, found.predictions(trial.digest))
    assert {t.digest for t in store.trials()} == {t.digest for t in found.planned()}
    assert all(store.has_trial(t.digest) for t in store.trials())
    with pytest.raises(StoreError):
        rescore(store.path)  # the responses do not come with a bundle


def test_one_embedding_with_its_floor(results, tmp_path):
    made = bundle(results, tmp_path / "a.zip", embeddings=["part"])
    found = open_bundle(made.path)
    assert set(found.scores["embedding"]) == {"part", "part (permuted)", "none", "random", "idealised"}
    assert set(found.cards) == {"part"}
    common = found.scores[found.scores["fallback"] == "common"]["value"].to_numpy()
    covered = found.scores[found.scores["fallback"] == "covered"]["value"].to_numpy()
    own = (found.scores["embedding"][found.scores["fallback"] == "common"] == "part").to_numpy()
    np.testing.assert_allclose(common[own], covered[own])


def test_unfinished_and_damaged_trials(copied, tmp_path, refuses):
    store = Store(copied)
    trial = next(t for t in store.trials() if t.role == "embedding")
    path = store._trial_path(trial.digest)
    raw = path.read_bytes()
    path.write_bytes(raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
    refuses(["not finished, or damaged", trial.digest], bundle, copied, tmp_path / "a.zip", error=StoreError)
    path.unlink()
    refuses(["not finished, or damaged", trial.embedding], bundle, copied, tmp_path / "a.zip", error=StoreError)
    path.write_bytes(raw)
    store._rows_path(trial.digest).unlink()
    refuses(["rescore"], bundle, copied, tmp_path / "a.zip", error=StoreError)
    rows, rules = Store(copied).read_rows(next(t for t in store.trials() if t.digest != trial.digest).digest)
    store.write_rows(trial.digest, rows, {**rules, "L2": 0})
    refuses(["another version"], bundle, copied, tmp_path / "a.zip", error=StoreError)
    assert not (tmp_path / "a.zip").exists()


def test_splits_that_are_gone(copied, tmp_path, refuses):
    shutil.rmtree(copied / "splits")
    refuses(["folds of split"], bundle, copied, tmp_path / "a.zip", error=StoreError)


def test_predictions_that_were_not_kept(toy, tmp_path, refuses):
    screen, embeddings = toy(n=40, genes=6, contexts=("A",))
    run(screen, embeddings, tmp_path / "r", folds=2, probes=["ridge"], metrics=["L2"], n_jobs=1, keep_predictions=False)
    assert bundle(tmp_path / "r", tmp_path / "a.zip").report.valid
    refuses(["not kept", "--with-predictions"], bundle, tmp_path / "r", tmp_path / "a.zip", with_predictions=True)


def test_imported_scores_are_nobodys_to_submit(copied, tmp_path, make_scores, refuses):
    from panmodal.evaluation.imported import write_imported
    from panmodal.evaluation.published import import_scores

    table = make_scores({("theirs", "ridge"): [1.0, 2.0]}, screen="elsewhere")
    table.drop(columns="trial").to_csv(tmp_path / "t.csv", index=False)
    imported = import_scores(tmp_path / "t.csv")
    write_imported(imported, copied)
    refuses(["'theirs' were imported"], bundle, copied, tmp_path / "a.zip", embeddings=["theirs"])
    made = bundle(copied, tmp_path / "a.zip")
    assert "theirs" not in set(open_bundle(made.path).scores["embedding"]) and any("imported" in n for n in made.notes)
    write_imported(imported, tmp_path / "only")
    refuses(["imported"], bundle, tmp_path / "only", tmp_path / "b.zip")


def test_paths_of_the_sender_stay_at_home(toy, tmp_path):
    screen, (full, _) = toy(n=40, genes=6, contexts=("A",))
    recipe = {
        "builder": "network",
        "rule": 1,
        "sources": [{"option": "edges", "path": "/home/me/secret/edges.csv", "sha256": "0", "bytes": 1}],
    }
    run(screen, [Embedding(full.ids, full.vectors, Card(name="full", recipe=recipe))], tmp_path / "r", folds=2, probes=["ridge"],
        metrics=["L2"], n_jobs=1, about={"config": {"screen": "/home/me/secret/screen.h5ad"}})  # fmt: skip
    found = open_bundle(bundle(tmp_path / "r", tmp_path / "a.zip").path)
    assert "secret" not in json.dumps([found.runs, found.cards, found.manifest])
    assert found.cards["full"]["recipe"]["sources"][0]["path"] == "edges.csv"


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A run on labels, with embeddings of different gaps, and its bundles."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    latents, ids = rng.standard_normal((50, 4)), [f"P{k:03d}" for k in range(50)]
    shift = latents @ rng.standard_normal((4, 15)) + 0.5 * rng.standard_normal((50, 15))
    values = (shift > 1.5).astype(int) - (shift < -1.8)
    screen = Screen.from_arrays(values, ids, ["A"] * 50, [f"g{g}" for g in range(15)], name="toy", response="deg")
    embeddings = [
        Embedding(
            tuple(ids[k] for k in range(50) if k % gap),
            latents[[k for k in range(50) if k % gap]],
            Card(name=f"gap{gap}"),
        )
        for gap in (5, 7)
    ]
    run(screen, embeddings, folder / "r", folds=2, probes=["ridge_classifier"], n_jobs=1)
    bundle(folder / "r", folder / "a.zip", with_predictions=True)
    return folder


def test_labels(labels):
    report = validate(labels / "a.zip", against=labels / "r")
    assert report.valid and report.codes == {"V072"}
    found = open_bundle(labels / "a.zip")
    assert found.resampled.columns[-1] == "draws" and len(found.resampled["draws"][0]) == len(DRAWS)
    theirs = Store(labels / "r").resampled()
    assert len(found.resampled) == len(theirs)
    one = bundle(labels / "r", labels / "b.zip", embeddings=["gap5"])  # other ids in common, computed from predictions
    assert validate(one.path, against=labels / "r").valid


def test_metrics_of_genes_that_were_changed(labels, codes, opened):
    def changed(name, columns, change):
        files = opened(labels / "a.zip")
        table = pd.read_parquet(io.BytesIO(files[name]))
        change(table)
        files[name] = write_frame(table, columns)
        return files

    def of(table, fallback="filled", metric="F1"):
        return table.index[
            (table["metric"] == metric) & (table["fallback"] == fallback) & (table["embedding"] == "gap5")
        ][0]

    def better(table):
        table.loc[of(table), "value"] += 0.01

    def beyond(table):
        table.loc[of(table), "value"] = 1.01

    def counted(table):
        table.loc[of(table), "n_scored"] += 1

    def undefined(table):
        table.loc[of(table), "value"] = np.nan

    def covers(table):
        table.loc[of(table), "n_covered"] += 1

    def gone(table):
        table.drop(index=of(table), inplace=True)

    def unknown(table):
        table.loc[of(table), "seen"] = "yes"

    assert codes(changed("scores.parquet", SCORES, better)) == {"V072"}  # only predictions and responses tell
    assert codes(changed("scores.parquet", SCORES, better), against=labels / "r") >= {"V083"}
    for change, code in (
        (beyond, "V062"),
        (counted, "V065"),
        (undefined, "V065"),
        (covers, "V065"),
        (gone, "V064"),
        (unknown, "V064"),
    ):
        assert codes(changed("scores.parquet", SCORES, change)) - {"V072", "V063"} == {code}, change

    def lifted(table):
        table.loc[0, list(DRAWS)] = 2.0

    def stranger(table):
        table.loc[0, "trial"] = "0" * 32

    def both(table):
        table.loc[0, "estimator"] = "experimental_error"

    def of_what(table):
        table.loc[0, "metric"] = "ROC_AUC"

    def twice(table):
        table.loc[len(table)] = table.loc[0]

    for change, code in ((lifted, "V062"), (stranger, "V068"), (both, "V068"), (of_what, "V060"), (twice, "V068")):
        assert code in codes(changed("resampled.parquet", {**RESAMPLED, **DRAWS}, change)), change


def test_fusions_come_with_the_cards_of_their_members(toy, tmp_path, codes):
    screen, embeddings = toy(n=40, genes=6, contexts=("A", "B"))
    run(
        screen,
        embeddings,
        tmp_path / "r",
        folds=2,
        probes=["ridge"],
        metrics=["L2"],
        n_jobs=1,
        fusions=["both=kernels"],
    )
    made = bundle(tmp_path / "r", tmp_path / "a.zip", embeddings=["both"])
    found = open_bundle(made.path)
    assert found.cards["both"]["modality"] == "fusion" and set(found.cards) == {"both", "full", "part"}
    assert set(found.scores["embedding"]) == {"both", "none", "random", "idealised"}
    assert validate(made.path, against=tmp_path / "r").valid


def test_combinations_and_several_splits(tmp_path):
    rng = np.random.default_rng(0)
    singles = [f"G{k}" for k in range(14)]
    ids = singles + [f"{a}+{b}" for a, b in itertools.pairwise(singles)]
    screen = Screen.from_arrays(rng.standard_normal((len(ids), 5)), ids, ["A"] * len(ids), [f"g{g}" for g in range(5)], name="pairs",
                                response="lfc")  # fmt: skip
    embedding = Embedding(tuple(singles), rng.standard_normal((14, 4)), Card(name="e", modality="toy"))
    for seed in (1, 2):
        split = make_split(screen.pert_ids, n_folds=2, seed=seed, name=f"s{seed}")
        run(
            screen,
            [embedding],
            tmp_path / "r",
            split=split,
            seed=seed,
            probes=["ridge"],
            metrics=["L2", "cosine"],
            n_jobs=1,
        )
    made = bundle(tmp_path / "r", tmp_path / "a.zip", with_predictions=True)
    assert len(open_bundle(made.path).splits) == 2 and validate(made.path, against=tmp_path / "r").valid

"""The main job: what is planned, what is reused, what is refused, and what survives a kill."""

import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, InputError, LeakError, Screen, Split, Store, StoreError, make_split, rescore, run
from panmodal.evaluation.plan import make_plan

CHEAP = {"probes": ["ridge"], "metrics": ["L2", "Pearson"], "n_jobs": 1}


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_every_control_is_run_and_every_column_is_there(toy, tmp_path) -> None:
    screen, embeddings = toy()
    results = run(screen, embeddings, tmp_path / "r", permuted=True, n_jobs=1)
    scores = results.scores
    expected = [
        "screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "fallback", "metric", "value", "n_test",
        "n_covered", "hyperparameters", "trial",
    ]  # fmt: skip
    assert list(scores.columns[: len(expected)]) == expected
    roles = scores.groupby("embedding")["role"].unique().map(list).to_dict()
    assert roles == {
        "none": ["baseline"], "full": ["embedding"], "part": ["embedding"], "full (permuted)": ["control"],
        "part (permuted)": ["control"], "random": ["control"], "idealised": ["oracle"],
    }  # fmt: skip
    assert set(scores.loc[scores["role"] == "baseline", "probe"]) == {"no change", "train mean"}
    assert set(scores.loc[scores["role"] == "embedding", "probe"]) == {"knn", "lasso", "ridge"}
    assert set(scores["fallback"]) == {"filled", "covered", "common"}
    assert not scores.duplicated([*expected[:10]]).any()
    trials = scores["trial"].nunique()
    assert trials == len({t.digest for t in results.plan.trials}) == results.computed
    part = scores[(scores["embedding"] == "part") & (scores["fallback"] == "filled")]
    assert (part["n_covered"] < part["n_test"]).all()


def test_predictions_follow_the_protocol(toy, tmp_path) -> None:
    screen, embeddings = toy()
    results = run(screen, embeddings, tmp_path / "r", n_jobs=1)
    store, split = Store(tmp_path / "r"), results.plan.split
    for trial in results.plan.trials:
        found = store.read_trial(trial.digest)
        ids, values = screen.responses(trial.context)
        train, test = split.sides(ids, trial.fold)
        mean = values[[ids.index(i) for i in train]].mean(axis=0, dtype=float)
        assert found.pert_ids == test
        np.testing.assert_allclose(found.train_mean, mean, rtol=1e-6)
        if trial.probe == "no change":
            assert (found.values == 0).all()
        elif trial.probe == "train mean":
            np.testing.assert_array_equal(found.values, np.tile(found.train_mean, (len(test), 1)))
        elif trial.embedding == "part":
            assert list(found.covered) == [int(i[1:]) % 5 > 0 for i in test]
            np.testing.assert_array_equal(
                found.values[~found.covered], np.tile(found.train_mean, (int((~found.covered).sum()), 1))
            )
        truth = values[[ids.index(i) for i in test]]
        row = results.perturbations.query("trial == @trial.digest").set_index("pert_id").loc[test]
        np.testing.assert_allclose(row["L2"], np.linalg.norm(found.values - truth, axis=1), rtol=1e-5)


def test_predictions_do_not_depend_on_the_responses_of_test_ids(toy, tmp_path) -> None:
    screen, embeddings = toy(contexts=("A",))
    split = make_split(screen.pert_ids)
    ids, values = screen.responses("A")
    changed = values.copy()
    test = [k for k, i in enumerate(ids) if split.folds[i] == 0]
    changed[test] = 1000 * np.random.default_rng(0).standard_normal(changed[test].shape)
    other = Screen.from_arrays(changed, ids, ["A"] * len(ids), screen.readouts, name="toy", response="lfc")
    predictions = []
    for k, each in enumerate((screen, other)):
        results = run(each, embeddings, tmp_path / str(k), split=split, n_jobs=1)
        store = Store(tmp_path / str(k))
        predictions.append({
            t.key: store.read_trial(t.digest).values for t in results.plan.trials if t.fold == 0 and t.role != "oracle"
        })  # fmt: skip
    assert len(predictions[0]) > 5
    for key, value in predictions[0].items():
        np.testing.assert_array_equal(value, predictions[1][key], err_msg=str(key))


def test_results_are_the_same_bits_for_any_number_of_processes_and_any_order_of_rows(toy, tmp_path) -> None:
    screen, embeddings = toy()
    one = run(screen, embeddings, tmp_path / "one", n_jobs=1).scores
    same(one, run(screen, embeddings, tmp_path / "two", n_jobs=2).scores)
    order = np.random.default_rng(1).permutation(screen.adata.n_obs)
    shuffled = Screen(screen.adata[order].copy(), "toy", "lfc")
    back = [Embedding(e.ids[::-1], e.vectors[::-1], e.card) for e in embeddings]
    other = run(shuffled, back, tmp_path / "three", n_jobs=1).scores
    keys = ["context", "fold", "embedding", "probe", "fallback", "metric"]
    same(one.sort_values(keys, ignore_index=True), other.sort_values(keys, ignore_index=True))


def test_only_what_is_missing_is_computed(toy, tmp_path) -> None:
    screen, embeddings = toy()
    first = run(screen, embeddings[:1], tmp_path / "r", **CHEAP)
    again = run(screen, embeddings[:1], tmp_path / "r", **CHEAP)
    assert again.computed == 0 and again.reused == first.computed
    same(first.scores, again.scores)
    more = run(screen, embeddings, tmp_path / "r", **CHEAP)
    assert more.computed == 10
    assert set(more.scores["embedding"]) == {"none", "random", "idealised", "full", "part"}
    everything = run(screen, embeddings, tmp_path / "r", overwrite="always", **CHEAP)
    assert everything.computed == len(everything.plan.trials)
    same(more.scores, everything.scores)
    with pytest.raises(StoreError, match="holds trials already and --overwrite is never"):
        run(screen, embeddings, tmp_path / "r", overwrite="never", **CHEAP)


def test_the_same_content_under_two_names_is_computed_once(toy, tmp_path) -> None:
    screen, embeddings = toy()
    twin = Embedding(embeddings[0].ids, embeddings[0].vectors, Card(name="twin"))
    results = run(screen, [embeddings[0], twin], tmp_path / "r", **CHEAP)
    assert results.computed == len(results.plan.trials) - 10
    values = results.scores.pivot_table(
        index=["context", "fold", "fallback", "metric"], columns="embedding", values="value"
    )
    assert (values["full"] == values["twin"]).all()


@pytest.mark.parametrize("what", ["responses", "embedding", "split"])
def test_other_content_under_the_same_name_is_refused_until_asked_for(what, toy, tmp_path) -> None:
    screen, embeddings = toy()
    run(screen, embeddings, tmp_path / "r", **CHEAP)
    split = None
    if what == "responses":
        screen = toy(seed=1)[0]
    elif what == "embedding":
        embeddings = [Embedding(embeddings[0].ids, embeddings[0].vectors + 1e-3, embeddings[0].card), embeddings[1]]
    else:
        made = make_split(screen.pert_ids)
        split = Split({i: (f + 1) % 5 for i, f in made.folds.items()}, name=made.name)
    word = {"responses": "screen 'toy'", "embedding": "embedding 'full'", "split": "split 'unseen-perturbation'"}[what]
    with pytest.raises(StoreError, match=f"not the same: .*{word} changed"):
        run(screen, embeddings, tmp_path / "r", split=split, **CHEAP)
    replaced = run(screen, embeddings, tmp_path / "r", split=split, overwrite="always", **CHEAP)
    fresh = run(screen, embeddings, tmp_path / "fresh", split=split, **CHEAP)
    same(replaced.scores, fresh.scores)
    assert len(list((tmp_path / "r" / "trials").rglob("*.parquet"))) == fresh.scores["trial"].nunique()


def test_rescoring_from_predictions_gives_the_same_scores_and_new_metrics(toy, tmp_path) -> None:
    screen, embeddings = toy()
    full = run(screen, embeddings, tmp_path / "full", n_jobs=1).scores
    lean = run(screen, embeddings, tmp_path / "lean", n_jobs=1, metrics=["L2"]).scores
    assert set(lean["metric"]) == {"L2"}
    again = rescore(tmp_path / "lean")
    assert set(again["metric"]) == set(full["metric"])
    pd.testing.assert_frame_equal(full, again, rtol=1e-12)
    run(screen, embeddings, tmp_path / "none", keep_predictions=False, **CHEAP)
    with pytest.raises(StoreError, match="without keeping predictions"):
        rescore(tmp_path / "none")


def test_damaged_files_are_computed_or_scored_again(toy, tmp_path) -> None:
    screen, embeddings = toy()
    before = run(screen, embeddings, tmp_path / "r", **CHEAP).scores
    files = sorted((tmp_path / "r" / "trials").rglob("*.parquet"))
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(b"")
    rows = sorted((tmp_path / "r" / "scores").rglob("*.parquet"))
    rows[5].write_bytes(rows[5].read_bytes()[:100])
    rows[6].unlink()
    (files[2].parent / ".partial-abc.parquet").write_bytes(b"half")
    after = run(screen, embeddings, tmp_path / "r", **CHEAP)
    assert after.computed == 2
    pd.testing.assert_frame_equal(before, after.scores, rtol=1e-12)


def test_a_flipped_byte_in_stored_predictions_is_noticed_or_harmless(toy, tmp_path) -> None:
    screen, embeddings = toy()
    run(screen, embeddings, tmp_path / "r", **CHEAP)
    store = Store(tmp_path / "r")
    trial = next(t for t in store.trials() if t.embedding == "full")
    file = next((tmp_path / "r" / "trials").rglob(f"{trial.digest}.parquet"))
    whole, intact = file.read_bytes(), store.read_trial(trial.digest)
    start, end = 4, len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    noticed = 0
    for place in range(start, end, 97):
        raw = bytearray(whole)
        raw[place] ^= 0xFF
        file.write_bytes(bytes(raw))
        try:
            found = store.read_trial(trial.digest)
        except StoreError as error:
            assert "damaged" in str(error)
            noticed += 1
            continue
        # A byte that nothing is read from, such as a page's statistics.
        assert found.pert_ids == intact.pert_ids
        np.testing.assert_array_equal(found.values, intact.values)
    assert noticed > 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda p: (p / "panmodal.json").write_text('{"format": 99, "version": "9.0"}'),
            "written in format 99 by panmodal 9.0",
        ),
        (lambda p: (p / "panmodal.json").write_text("{"), "damaged"),
        (lambda p: (p / "panmodal.json").unlink(), "is not a results folder"),
    ],
)
def test_a_foreign_results_folder_is_refused(change, says, toy, tmp_path) -> None:
    screen, embeddings = toy()
    run(screen, embeddings[:1], tmp_path / "r", **CHEAP)
    change(tmp_path / "r")
    with pytest.raises(StoreError, match=says):
        run(screen, embeddings[:1], tmp_path / "r", **CHEAP)


def test_an_embedding_that_fits_nothing_is_refused_before_anything_is_written(toy, tmp_path) -> None:
    screen, embeddings = toy()
    stranger = Embedding(("ENSG00000141510", "ENSG00000012048"), np.eye(2), Card(name="ensembl"))
    with pytest.raises(InputError, match=r"shares no id with screen 'toy'.*ENSG00000141510.*P000"):
        run(screen, [stranger], tmp_path / "r", **CHEAP)
    few = Embedding(embeddings[0].ids[:12], embeddings[0].vectors[:12], Card(name="few"))
    with pytest.raises(InputError, match=r"'few' covers .* training perturbations in context 'A', fold"):
        run(screen, [few], tmp_path / "r", **CHEAP)
    with pytest.raises(InputError, match="two embeddings are named 'full'"):
        run(screen, [embeddings[0], embeddings[0]], tmp_path / "r", **CHEAP)
    with pytest.raises(InputError, match="'random' is the name of a control"):
        run(screen, [Embedding(embeddings[0].ids, embeddings[0].vectors, Card(name="random"))], tmp_path / "r", **CHEAP)
    with pytest.raises(InputError, match="no embedding to benchmark"):
        run(screen, [], tmp_path / "r", **CHEAP)
    assert not (tmp_path / "r").exists()


def test_a_leaking_split_is_refused_before_anything_is_fitted(tmp_path) -> None:
    singles = [f"G{k:02d}" for k in range(40)]
    pairs = [f"G{k:02d}+G{k + 1:02d}" for k in range(0, 40, 2)]
    ids = singles + pairs
    rng = np.random.default_rng(0)
    screen = Screen.from_arrays(
        rng.standard_normal((60, 6)), ids, ["c"] * 60, list("abcdef"), name="pairs", response="lfc"
    )
    embedding = Embedding(tuple(singles), rng.standard_normal((40, 4)), Card(name="e"))
    leaking = Split({i: k % 5 for k, i in enumerate(ids)}, unseen="part")
    with pytest.raises(LeakError, match="no part of a test combination is trained on, but 'G0"):
        run(screen, [embedding], tmp_path / "r", split=leaking, **CHEAP)
    assert not (tmp_path / "r").exists()
    clean = run(screen, [embedding], tmp_path / "r", split=make_split(ids, unseen="part"), **CHEAP)
    assert (
        clean.scores.query("embedding == 'e'")["n_covered"] == clean.scores.query("embedding == 'e'")["n_test"]
    ).all()


def test_an_incomplete_split_and_a_starved_context_are_refused(toy) -> None:
    screen, embeddings = toy()
    made = make_split(screen.pert_ids)
    with pytest.raises(InputError, match="has no fold for 'P007'"):
        make_plan(screen, embeddings, Split({i: f for i, f in made.folds.items() if i != "P007"}))
    small = Screen.from_arrays(
        np.eye(11), [f"P{k:03d}" for k in range(11)], ["A"] * 11, [f"g{k}" for k in range(11)], name="s", response="lfc"
    )
    with pytest.raises(InputError, match=r"context 'A', fold \d: \d+ training and \d+ test"):
        make_plan(small, embeddings, made)


def test_probes_of_other_kinds_of_response_are_refused(toy) -> None:
    screen, embeddings = toy()
    labels = Screen.from_arrays(
        np.sign(screen.responses("A")[1]), screen.ids_in("A"), ["A"] * 60, screen.readouts, name="d", response="deg"
    )
    with pytest.raises(InputError, match=r"no probe 'lasso' for responses of kind 'deg'.*logistic"):
        make_plan(labels, embeddings, make_split(labels.pert_ids), probe_names=["lasso"])
    with pytest.raises(InputError, match="no probe 'logistic' for responses of kind 'lfc'"):
        make_plan(screen, embeddings, make_split(screen.pert_ids), probe_names=["logistic"])

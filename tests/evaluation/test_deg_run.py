"""Runs on DEG labels: what is predicted, stored, scored again and shown, against plain numpy on the stored predictions."""

import io
import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from panmodal import METRICS, Card, Embedding, Screen, Store, StoreError, rescore, run
from panmodal.evaluation.evidence import read_marks
from panmodal.evaluation.metrics import metrics_for
from panmodal.insight.gaps import gap_table
from panmodal.probes.base import probes

OF_GENES = ["F1", "precision", "recall", "ROC_AUC", "average_precision", "F1_classwise", "F1_nans_are_zeros"]
COUNTED = ["F1", "precision", "recall", "F1_classwise", "F1_nans_are_zeros"]
OF_PERTURBATIONS = ["overlap_at_N", "precision_at_N", "direction_match", "MCC", "AUPRC"]
FALLBACKS = ("filled", "covered", "common")
KEYS = ["context", "fold", "embedding", "probe", "fallback", "metric"]
FEW = {"folds": 2, "probes": ["ridge_classifier"], "n_jobs": 1}


def planted(n=60, genes=40, contexts=("A", "B"), seed=0, name="toy"):
    """Labels by thresholds from latents; embeddings of the latents, of noise, and two of the latents with other gaps.

    The first gene is never changed, the second never lowered, the third changed once.
    """
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n, 4))
    ids = [f"P{k:03d}" for k in range(n)]
    blocks = []
    for _ in contexts:
        shift = latents @ rng.standard_normal((4, genes)) + 0.5 * rng.standard_normal((n, genes))
        labels = (shift > 1.5).astype(int) - (shift < -1.8)
        labels[:, 0] = 0
        labels[:, 1] = np.abs(labels[:, 1])
        labels[:, 2] = np.arange(n) == 7
        blocks.append(labels)
    readouts = [f"g{g}" for g in range(genes)]
    screen = Screen.from_arrays(
        np.vstack(blocks), ids * len(contexts), [c for c in contexts for _ in ids], readouts, name=name, response="deg"
    )
    good = latents @ rng.standard_normal((4, 8))

    def embedding(name, vectors, left_out=0):
        kept = [k for k in range(n) if not left_out or k % left_out]
        return Embedding(tuple(ids[k] for k in kept), vectors[kept], Card(name=name, modality="toy"))

    noise = rng.standard_normal((n, 8))
    return screen, [embedding("planted", good), embedding("unrelated", noise), embedding("fifths", good, 5),
                    embedding("sevenths", good + noise, 7)]  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    return planted()


@pytest.fixture(scope="module")
def done(toy, tmp_path_factory):
    """A finished run (not to be changed)."""
    return run(toy[0], toy[1], tmp_path_factory.mktemp("deg") / "r", permuted=True, **FEW)


@pytest.fixture(scope="module")
def small():
    """A smaller screen, the planted embedding, and the two that leave out ids."""
    screen, (good, _, *parts) = planted(n=40, genes=15, contexts=("A",))
    return screen, [good, *parts]


@pytest.fixture(scope="module")
def lean(small, tmp_path_factory):
    """A small run (not to be changed)."""
    return run(*small, tmp_path_factory.mktemp("lean") / "r", **FEW)


@pytest.fixture
def copy(lean, tmp_path):
    return shutil.copytree(lean.path, tmp_path / "copy")


@pytest.fixture(scope="module")
def every(small, tmp_path_factory):
    """Every probe, on less."""
    return run(small[0], small[1][:2], tmp_path_factory.mktemp("every") / "r", folds=2, n_jobs=1)


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


# --- plain numpy -----------------------------------------------------------------------------------------------------


def plain_genes(predicted, true):
    """Every metric of genes by its definition: name -> values of genes (F1_classwise: classes x genes)."""
    m, t = true.shape
    down, up = predicted[:, :t], predicted[:, t:]
    shares = np.stack([down, 1 - down - up, up])
    called = np.argmax(shares, axis=0) - 1
    is_true, is_called = (np.stack([x == c for c in (-1, 0, 1)]) for x in (true, called))
    n_true, n_called, hits = is_true.sum(1), is_called.sum(1), (is_true & is_called).sum(1)
    present = n_true > 0

    def ratio(a, b):
        return np.where(b > 0, a / np.maximum(b, 1), 0.0)

    def macro(values):
        return np.where(present, values, 0).sum(0) / present.sum(0)

    each = ratio(2 * hits, n_true + n_called)
    above = (shares[:, :, None] > shares[:, None]) + 0.5 * (shares[:, :, None] == shares[:, None])
    area = np.einsum("cijg,cig,cjg->cg", above, is_true * 1.0, ~is_true * 1.0) / np.maximum(n_true * (m - n_true), 1)
    # Mean over the perturbations of the class of the precision among those at or above them.
    reached = shares[:, None] >= shares[:, :, None]
    precision = np.einsum("cijg,cjg->cig", reached, is_true * 1.0) / reached.sum(axis=2)
    found = {
        "F1": macro(each), "precision": macro(ratio(hits, n_called)), "recall": macro(ratio(hits, n_true)),
        "ROC_AUC": np.where(present.sum(0) > 1, macro(area), np.nan),
        "average_precision": macro((precision * is_true).sum(1) / np.maximum(n_true, 1)),
        "F1_classwise": np.where(present, each, np.nan), "F1_nans_are_zeros": np.where(present, each, 0).mean(0),
    }  # fmt: skip
    assert list(found) == OF_GENES
    return found


def mean_defined(values, axis=None):
    known = np.isfinite(values)
    n = known.sum(axis=axis)
    return np.where(n > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(n, 1), np.nan)


def plain_totals(predicted, true):
    """Name -> (value, genes scored, genes undefined)."""
    if not len(true):
        return dict.fromkeys(OF_GENES, (np.nan, 0, true.shape[1]))
    out = {}
    for name, values in plain_genes(predicted, true).items():
        values = np.atleast_2d(values)
        scored = np.isfinite(values).any(axis=0).sum()
        out[name] = (float(mean_defined(mean_defined(values, axis=1))), scored, true.shape[1] - scored)
    return out


def truth_of(screen, trial, found):
    ids, values = screen.responses(trial.context)
    return values[[ids.index(i) for i in found.pert_ids]].astype(int)


def common_ids(embeddings, ids):
    return np.array([all(i in e.ids for e in embeddings) for i in ids])


def assert_is_plain(path, screen, embeddings, metrics=OF_GENES, lost=()):
    """Every stored score of a metric of genes is the one computed here; trials ``lost`` have no score for common ids."""
    store = Store(path)
    scores = store.scores().query("response == 'deg'").set_index(KEYS)
    assert not scores.index.duplicated().any()
    n = 0
    for trial in (t for t in store.trials() if t.response == "deg"):
        found = store.read_trial(trial.digest)
        true = truth_of(screen, trial, found)
        masks = {"filled": np.ones(len(true), bool), "covered": found.covered,
                 "common": common_ids(embeddings, found.pert_ids)}  # fmt: skip
        for fallback in FALLBACKS:
            expected = plain_totals(found.values[masks[fallback]], true[masks[fallback]])
            for metric in metrics:
                row = scores.loc[(trial.context, trial.fold, trial.embedding, trial.probe, fallback, metric)]
                np.testing.assert_allclose(row["value"], expected[metric][0], rtol=1e-12, err_msg=f"{trial}, {metric}")
                assert (row["n_scored"], row["n_undefined"]) == expected[metric][1:]
                assert (row["n_test"], row["n_covered"]) == (len(true), found.covered.sum())
                n += 1
    assert n == scores.index.get_level_values("metric").isin(metrics).sum()


# --- what is planned and predicted -----------------------------------------------------------------------------------


def test_every_control_is_run(done):
    scores = done.scores
    roles = scores.groupby("embedding")["role"].unique().map(list).to_dict()
    names = ["planted", "unrelated", "fifths", "sevenths"]
    assert roles == {"none": ["baseline"], "random": ["control"], "idealised": ["oracle"], **{n: ["embedding"] for n in names},
                     **{f"{n} (permuted)": ["control"] for n in names}}  # fmt: skip
    assert set(scores.loc[scores["role"] == "baseline", "probe"]) == {"no change", "class prior", "most frequent"}
    assert set(scores["metric"]) == {*OF_GENES, *OF_PERTURBATIONS} == {m.name for m in metrics_for("deg")}
    assert set(scores["fallback"]) == set(FALLBACKS) and set(scores["response"]) == {"deg"}
    assert not scores.duplicated(KEYS).any()
    assert done.computed == len(done.plan.trials) == 2 * 2 * (3 + 10)
    order = {name: k for k, name in enumerate(METRICS)}
    assert (
        scores["metric"]
        .map(order)
        .groupby([scores[k] for k in KEYS[:-1]])
        .apply(lambda s: s.is_monotonic_increasing)
        .all()
    )


def test_every_probe_of_labels_is_run_unless_named(every):
    of_labels = {p.name for p in probes().values() if "deg" in p.kinds}
    assert of_labels == {"logistic", "knn_classifier", "ridge_classifier"}
    for role in ("embedding", "control", "oracle"):
        assert set(every.scores.loc[every.scores["role"] == role, "probe"]) == of_labels
    chosen = every.scores.query("role == 'embedding'").groupby("probe")["hyperparameters"].first().map(json.loads)
    assert {p: next(iter(h)) for p, h in chosen.items()} == {
        "logistic": "C",
        "knn_classifier": "k",
        "ridge_classifier": "alpha",
    }
    for probe, own in every.scores.query("role == 'embedding'").groupby("probe"):
        values = own["hyperparameters"].map(lambda text: next(iter(json.loads(text).values())))
        grid = probes()[probe].candidates(probes()[probe].grid, 16)
        assert set(values) <= {*grid, *probes()[probe].candidates(probes()[probe].grid, 20)}


def test_baselines_are_predicted_exactly(done, toy):
    store, split = Store(done.path), done.plan.split
    seen = set()
    for trial in (t for t in store.trials() if t.role == "baseline"):
        found = store.read_trial(trial.digest)
        ids, values = toy[0].responses(trial.context)
        train, test = split.sides(ids, trial.fold)
        labels = values[[ids.index(i) for i in train]]
        prior = np.concatenate([(labels == c).sum(axis=0) for c in (-1, 1)]) / len(train)
        t = labels.shape[1]
        most = np.argmax(np.stack([(labels == c).sum(axis=0) for c in (-1, 0, 1)]), axis=0) - 1
        expected = {"no change": np.zeros(2 * t), "class prior": prior,
                    "most frequent": np.concatenate([most == -1, most == 1])}[trial.probe]  # fmt: skip
        assert found.pert_ids == test and found.covered.all()
        assert found.values.dtype == np.float32 and found.values.shape == (len(test), 2 * t)
        np.testing.assert_array_equal(found.values, np.tile(expected.astype(np.float32), (len(test), 1)))
        np.testing.assert_array_equal(found.train_mean, prior.astype(np.float32))
        seen.add(trial.probe)
    assert seen == {"no change", "class prior", "most frequent"}


def test_uncovered_ids_hold_the_prior_of_all_training_ids(done, toy):
    store, split = Store(done.path), done.plan.split
    gone = 0
    for trial in (t for t in store.trials() if t.embedding.startswith(("fifths", "sevenths"))):
        found = store.read_trial(trial.digest)
        ids, values = toy[0].responses(trial.context)
        train, test = split.sides(ids, trial.fold)
        step = 5 if trial.embedding.startswith("fifths") else 7
        assert list(found.covered) == [int(i[1:]) % step > 0 for i in test]
        labels = values[[ids.index(i) for i in train]]  # covered or not
        prior = np.concatenate([(labels == c).mean(axis=0, dtype=float) for c in (-1, 1)]).astype(np.float32)
        own = found.values[~found.covered]
        np.testing.assert_array_equal(own, np.tile(prior, (len(own), 1)))
        gone += len(own)
        assert not (found.values[found.covered] == prior).all(axis=1).any()
    assert gone == 2 * 2 * (12 + 9)


@pytest.mark.parametrize("which", ["done", "every"])
def test_predictions_are_probabilities(which, request):
    """Classes that do not occur in training, of genes that hardly respond, are all but excluded."""
    results = request.getfixturevalue(which)
    store, screen = Store(results.path), results.plan.screen
    t = len(screen.readouts)
    for trial in store.trials():
        found = store.read_trial(trial.digest)
        down, up = found.values[:, :t], found.values[:, t:]
        assert np.isfinite(found.values).all() and (found.values >= 0).all() and (down + up <= 1 + 1e-6).all()
        ids, values = screen.responses(trial.context)
        train, _ = results.plan.split.sides(ids, trial.fold)
        if trial.embedding in ("fifths", "sevenths"):
            continue  # they do not cover all training ids
        labels = values[[ids.index(i) for i in train]]
        for c, share in ((-1, down), (1, up), (0, 1 - down - up)):
            absent = (labels != c).all(axis=0)
            assert np.abs(share[:, absent]).max(initial=0) < 1e-6, trial
        assert (labels != 1).all(axis=0)[0] and (labels != -1).all(axis=0)[1]


def test_predictions_do_not_depend_on_the_labels_of_test_ids(small, every, tmp_path):
    screen, embeddings = small
    ids, values = screen.responses("A")
    changed = values.copy()
    test = [k for k, i in enumerate(ids) if every.plan.split.folds[i] == 0]
    changed[test] = np.random.default_rng(0).integers(-1, 2, changed[test].shape)
    other = Screen.from_arrays(changed, ids, ["A"] * len(ids), screen.readouts, name="toy", response="deg")
    second = run(other, embeddings[:1], tmp_path / "r", folds=2, n_jobs=1, split=every.plan.split)
    read = [{t.key: Store(r.path).read_trial(t.digest).values for t in r.plan.trials if t.fold == 0 and t.role != "oracle"}
            for r in (second, every)]  # fmt: skip
    assert len(read[0]) == 9
    for key, value in read[0].items():
        np.testing.assert_array_equal(value, read[1][key], err_msg=str(key))


# --- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_stored_predictions(done, toy):
    assert_is_plain(done.path, *toy)


def test_scores_of_every_probe_are_those_of_the_stored_predictions(every, small):
    assert_is_plain(every.path, small[0], small[1][:2])


def test_scores_of_perturbations_are_means_of_the_stored_values(done, toy):
    rows = done.perturbations.set_index("trial")
    assert set(rows.columns) == {"pert_id", "covered", *OF_PERTURBATIONS}
    scores = done.scores.set_index(["trial", "fallback", "metric"])["value"]
    for trial in rows.index.unique()[::5]:
        own = rows.loc[trial]
        masks = {"filled": np.ones(len(own), bool), "covered": own["covered"].to_numpy(),
                 "common": common_ids(toy[1], own["pert_id"])}  # fmt: skip
        for (fallback, mask), metric in itertools.product(masks.items(), OF_PERTURBATIONS):
            assert scores[trial, fallback, metric] == pytest.approx(own.loc[mask, metric].mean(), rel=1e-12)


def test_planted_structure_is_found(done):
    board = done.leaderboard().set_index(["context", "embedding", "probe"])
    assert set(board["metric"]) == {"F1"}
    for context in ("A", "B"):
        own = board.loc[context]
        f1 = own["mean"].xs("ridge_classifier", level="probe")
        assert own["floor"].nunique() == 1
        floor = own["floor"].iloc[0]
        assert floor == own.loc["none", "mean"].max()
        assert f1["planted"] > floor + 0.2 and f1["planted"] > f1["unrelated"] + 0.2
        assert f1["planted"] > f1["fifths"] > f1["unrelated"] and f1["idealised"] > floor
        assert own.loc[("planted", "ridge_classifier"), "rank"] == 1
        assert own.loc[("planted", "ridge_classifier"), "folds_above_floor"] == 2
        gap = own.loc[("planted", "ridge_classifier"), ["gap_low", "gap_closed", "gap_high"]].astype(float)
        assert 0.5 < gap.iloc[0] < gap.iloc[2]
    for metric in ("MCC", "direction_match", "ROC_AUC", "average_precision", "recall"):
        other = done.leaderboard(metric=metric).set_index(["embedding", "probe"])["mean"]
        assert (other["planted"] > other["unrelated"].to_numpy()).all(), metric


def test_resampled_scores_are_of_the_stored_predictions(done, toy):
    """One row per trial and count metric; the first samples against rows repeated by hand."""
    from panmodal.evaluation.class_metrics import bootstrap_weights

    table = pd.read_parquet(done.path / "resampled.parquet")
    assert set(table["metric"]) == set(COUNTED) and (table["estimator"] == "").all()
    assert table["draws"].map(len).eq(200).all()
    assert not table.duplicated(["trial", "metric"]).any() and set(table["trial"]) == {
        t.digest for t in done.plan.trials
    }
    drawn = table.set_index(["trial", "metric"])["draws"]
    store = Store(done.path)
    for trial in store.trials()[::11]:
        found = store.read_trial(trial.digest)
        true, weights = truth_of(toy[0], trial, found), bootstrap_weights(found.pert_ids)
        for b in (0, 3, 199):
            rows = np.repeat(np.arange(len(true)), weights[:, b].astype(int))
            expected = plain_totals(found.values[rows], true[rows])
            for metric in COUNTED:
                assert drawn[trial.digest, metric][b] == pytest.approx(expected[metric][0], rel=1e-12)


# --- the table of genes ----------------------------------------------------------------------------------------------


def test_the_table_of_genes_and_its_means(done, toy):
    scores = done.scores.query("fallback == 'filled'").set_index(["trial", "metric"])
    store = Store(done.path)
    for trial in store.trials()[::7]:
        table = done.genes(trial.digest)
        assert list(table.index) == toy[0].readouts and table.index.name == "readout"
        assert list(table.columns) == OF_GENES
        found = store.read_trial(trial.digest)
        expected = plain_genes(found.values, truth_of(toy[0], trial, found))
        for metric, values in expected.items():
            own = values if values.ndim == 1 else mean_defined(values, axis=0)
            np.testing.assert_allclose(table[metric], own, rtol=1e-12, atol=1e-15)
            row = scores.loc[(trial.digest, metric)]
            assert row["n_scored"] == table[metric].notna().sum()
            if metric != "F1_classwise":  # of each class first
                assert row["value"] == pytest.approx(table[metric].mean(), rel=1e-12)
        assert np.isnan(table["ROC_AUC"].iloc[0]) and table["F1"].notna().all()


def test_genes_of_no_such_trial_are_refused(done, mixed, refuses):
    refuses(["no values of genes for trial 'abc'", "deg"], done.genes, "abc", error=StoreError)
    results = mixed[0]
    refuses(["no values of genes"], results.genes, results.plan.trials[0].digest, error=StoreError)


# --- resume and rescore ----------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(copy, small, lean):
    again = run(*small, copy, **FEW)
    assert (again.computed, again.reused) == (0, lean.computed)
    same(again.scores, lean.scores)
    same(Store(copy).perturbations(), lean.perturbations)
    same(pd.read_parquet(copy / "resampled.parquet"), pd.read_parquet(lean.path / "resampled.parquet"))


def test_everything_computed_again_is_the_same(copy, small, lean):
    again = run(*small, copy, overwrite="always", **FEW)
    assert again.computed == lean.computed
    same(again.scores, lean.scores)


@pytest.mark.parametrize("gone", [[], ["scores", "scores.parquet", "perturbations.parquet", "resampled.parquet"]])
def test_rescoring_gives_the_same_bits(gone, copy, lean):
    for name in gone:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    same(rescore(copy), lean.scores)
    same(Store(copy).perturbations(), lean.perturbations)
    same(pd.read_parquet(copy / "resampled.parquet"), pd.read_parquet(lean.path / "resampled.parquet"))


@pytest.mark.parametrize("metrics", [["F1", "MCC"], ["ROC_AUC"], ["AUPRC"], ["recall", "F1_classwise"]])
def test_rescoring_some_metrics_and_all_again(metrics, copy, lean):
    some = rescore(copy, metrics)
    before = lean.scores
    same(some, before[before["metric"].isin(metrics)].reset_index(drop=True))
    resampled = Store(copy).resampled()
    counted = {m for m in metrics if m in COUNTED}
    assert (set() if resampled is None else set(resampled["metric"])) == counted
    assert set(Store(copy).perturbations().columns) == {
        "trial", "pert_id", "covered", *(m for m in metrics if m in OF_PERTURBATIONS)
    }  # fmt: skip
    same(rescore(copy), before)


def files_of(path, suffix):
    return sorted((path / "scores").rglob(f"*{suffix}"))


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "no parquet", "flipped"])
@pytest.mark.parametrize("by", [rescore, "run"])
def test_lost_tables_of_genes_are_scored_again(how, by, copy, small, lean):
    files = files_of(copy, ".genes.parquet")
    assert len(files) == lean.computed
    before = files[4].read_bytes()
    for file in files[4:7]:
        whole = file.read_bytes()
        if how == "gone":
            file.unlink()
        else:
            flipped = bytearray(whole)
            flipped[200] ^= 0xFF
            file.write_bytes(
                {"empty": b"", "cut": whole[:-30], "no parquet": b"PAR1" * 20, "flipped": bytes(flipped)}[how]
            )
    if by == "run":
        again = run(*small, copy, **FEW)
        assert again.computed == 0
        scores = again.scores
    else:
        scores = rescore(copy)
    same(scores, lean.scores)
    assert files[4].read_bytes() == before
    assert lean.genes(files[5].name.split(".")[0]).equals(
        Store(copy).read_genes(files[5].name.split(".")[0])[0].set_axis(small[0].readouts)
    )


def test_a_flipped_bit_in_a_table_of_genes_is_noticed_or_harmless(copy):
    """Scores come from these files: what is not noticed must not change them."""
    store, file = Store(copy), files_of(copy, ".genes.parquet")[4]
    digest, whole = file.name.split(".")[0], file.read_bytes()
    values, about = store.read_genes(digest)
    for place in range(4, len(whole) - 8, 499):
        raw = bytearray(whole)
        raw[place] ^= 1
        file.write_bytes(bytes(raw))
        found = store.read_genes(digest)
        if found is not None:
            same(found[0], values)
            assert found[1] == about, place


def test_a_lost_table_of_genes_is_scored_by_the_metrics_of_the_others(small, tmp_path):
    screen, embeddings = small
    options = {**FEW, "metrics": ["recall", "F1", "AUPRC"]}
    before = run(screen, embeddings[:1], tmp_path / "r", **options).scores
    assert set(before["metric"]) == {"recall", "F1", "AUPRC"}
    files_of(tmp_path / "r", ".genes.parquet")[2].unlink()
    same(run(screen, embeddings[:1], tmp_path / "r", **options).scores, before)


def test_without_predictions_a_lost_table_says_what_to_do(small, tmp_path, refuses):
    screen, embeddings = small
    options = {**FEW, "keep_predictions": False}
    run(screen, embeddings[:1], tmp_path / "r", **options)
    files_of(tmp_path / "r", ".genes.parquet")[2].unlink()
    refuses(["without keeping predictions", "--overwrite always"], run, screen, embeddings[:1], tmp_path / "r",
            error=StoreError, **options)  # fmt: skip


# --- ids in common ---------------------------------------------------------------------------------------------------


def test_common_ids_narrow_when_an_embedding_is_added(copy, small):
    screen, embeddings = small
    vectors = embeddings[0].vectors
    more = Embedding(tuple(i for i in embeddings[0].ids if int(i[1:]) % 3), np.delete(vectors, np.s_[::3], axis=0),
                     Card(name="thirds", modality="small"))  # fmt: skip
    before = Store(copy).scores()
    finished = run(screen, [*embeddings, more], copy, **FEW)
    assert finished.computed == 2
    assert_is_plain(copy, screen, [*embeddings, more])
    after = finished.scores.set_index(KEYS)["value"]
    before = before.set_index(KEYS)["value"]
    changed = after.loc[before.index] != before
    assert set(
        changed.index[changed & (after.loc[before.index].notna() | before.notna())].get_level_values("fallback")
    ) == {"common"}


def test_common_ids_widen_when_embeddings_are_all_whole(small, tmp_path):
    screen, embeddings = small
    options = {**FEW, "metrics": ["F1", "ROC_AUC"]}
    results = run(screen, embeddings[:1], tmp_path / "r", **options)
    scores = results.scores.pivot_table(index=[*KEYS[:4], "metric"], columns="fallback", values="value")
    assert (scores["common"] == scores["filled"]).all() and not list((tmp_path / "r").rglob("*.common.json"))
    run(screen, embeddings[:2], tmp_path / "r", **options)
    assert_is_plain(tmp_path / "r", screen, embeddings[:2], ["F1", "ROC_AUC"])


def test_totals_of_common_ids_are_remembered(copy, small, lean, monkeypatch):
    files = files_of(copy, ".common.json")
    assert len(files) == lean.computed

    def burst(*_):
        raise AssertionError("predictions were read")

    monkeypatch.setattr(Store, "read_trial", burst)
    same(run(*small, copy, **FEW).scores, lean.scores)
    files[3].unlink()
    with pytest.raises(AssertionError, match="predictions were read"):
        run(*small, copy, **FEW)


def test_the_same_labels_in_two_screens_take_the_common_ids_of_each(small, tmp_path):
    """A trial is stored once; its totals over common ids depend on the other embeddings of the screen."""
    screen, (good, fifths, sevenths) = small
    given = {"toy": [good, fifths], "twin": [good, sevenths]}
    for name, embeddings in given.items():
        both = run(Screen(screen.adata, name, "deg"), embeddings, tmp_path / "both", **FEW)
    assert both.computed == 2  # one of two embeddings; all else is the same content
    for name, embeddings in given.items():
        alone = run(Screen(screen.adata, name, "deg"), embeddings, tmp_path / name, **FEW).scores
        scores = both.scores
        same(scores[scores["screen"] == name].reset_index(drop=True), alone)
    own = scores.query("embedding == 'planted' and fallback == 'common' and metric == 'F1'")
    wide = own.pivot_table(index="fold", columns="screen", values="value")
    assert (wide["toy"] != wide["twin"]).all()


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}", '{"key": "x", "totals": {}}'])
def test_damaged_memories_of_common_ids_are_made_again(text, copy, small, lean):
    file = files_of(copy, ".common.json")[5]
    before = file.read_text()
    file.write_text(text)
    same(run(*small, copy, **FEW).scores, lean.scores)
    assert file.read_text() == before


def test_without_predictions_common_is_null_and_filled_stays(small, lean, tmp_path):
    screen, embeddings = small
    results = run(screen, embeddings, tmp_path / "r", keep_predictions=False, **FEW)
    assert Store(results.path).read_trial(results.plan.trials[0].digest).values is None
    keys = ["trial", *KEYS]
    ours, theirs = (s.sort_values(keys, ignore_index=True) for s in (results.scores, lean.scores))
    lost = (ours["fallback"] == "common") & ours["metric"].isin(OF_GENES)
    assert ours.loc[lost, "value"].isna().all() and (ours.loc[lost, ["n_scored", "n_undefined"]] == 0).all(axis=None)
    same(ours[~lost], theirs[~lost])
    same(pd.read_parquet(results.path / "resampled.parquet"), pd.read_parquet(lean.path / "resampled.parquet"))
    assert results.leaderboard(fallback="common", metric="MCC")["mean"].notna().any()
    board = results.leaderboard()
    assert board["mean"].notna().all() and board["common"].isna().all() and board["gap_low"].notna().any()


def test_where_covered_and_common_are_the_same_no_predictions_are_needed(small, tmp_path):
    screen, embeddings = small
    results = run(screen, embeddings[1:2], tmp_path / "r", keep_predictions=False, **FEW)
    f1 = results.scores.query("metric == 'F1'").set_index(["fallback", "embedding"])["value"].sort_index()
    np.testing.assert_array_equal(f1["common", "fifths"], f1["covered", "fifths"])
    assert f1["common", "fifths"].notna().all() and f1["common", "none"].isna().all()


# --- other runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metrics", [["F1"], ["MCC"], ["ROC_AUC"]])
def test_one_metric_only(metrics, small, lean, tmp_path):
    screen, embeddings = small
    results = run(screen, embeddings, tmp_path / "r", metrics=metrics, **FEW)
    scores = results.scores
    assert set(scores["metric"]) == set(metrics) and scores.groupby("fallback").size().nunique() == 1
    assert_is_plain(results.path, screen, embeddings, [m for m in metrics if m in OF_GENES])
    board = results.leaderboard(metric=metrics[0])
    assert board.query("embedding == 'planted'")["rank"].tolist() == [1]
    assert board["gap_low"].notna().any() == (metrics != ["ROC_AUC"])
    table = results.genes(results.plan.trials[0].digest)
    assert list(table.columns) == [m for m in metrics if m in OF_GENES] and list(table.index) == screen.readouts
    whole = lean.scores
    same(scores, whole[whole["metric"].isin(metrics)].reset_index(drop=True))


def test_results_are_the_same_bits_for_any_number_of_processes_and_any_order_of_rows(small, every, lean, tmp_path):
    screen, embeddings = small
    same(every.scores, run(screen, embeddings[:2], tmp_path / "two", folds=2, n_jobs=2).scores)
    order = np.random.default_rng(1).permutation(screen.adata.n_obs)
    shuffled = Screen(screen.adata[order].copy(), "toy", "deg")
    back = [Embedding(e.ids[::-1], e.vectors[::-1], e.card) for e in embeddings]
    same(lean.scores, run(shuffled, back, tmp_path / "three", **FEW).scores)


def test_probes_may_be_added_later(small, every, lean, tmp_path):
    screen, embeddings = small[0], small[1][:2]
    one = run(screen, embeddings, tmp_path / "r", folds=2, n_jobs=1, probes=["knn_classifier"])
    assert set(one.scores["probe"]) == {"knn_classifier", "no change", "class prior", "most frequent"}
    assert one.computed == 2 * (3 + 4)
    two = run(screen, embeddings, tmp_path / "r", folds=2, n_jobs=1, probes=["ridge_classifier", "knn_classifier"])
    assert two.computed == 2 * 4
    whole = every.scores
    same(two.scores, whole[whole["probe"] != "logistic"].reset_index(drop=True))


def test_labels_changed_under_the_same_name_are_refused_and_replaced_when_asked(small, copy, tmp_path, refuses):
    other = planted(n=40, genes=15, contexts=("A",), seed=1)[0]
    refuses(["screen 'toy' changed"], run, other, small[1], copy, error=StoreError, **FEW)
    replaced = run(other, small[1], copy, overwrite="always", **FEW)
    same(replaced.scores, run(other, small[1], tmp_path / "fresh", **FEW).scores)
    for kind in ("*.genes.parquet", "*.common.json"):
        assert {p.name for p in copy.rglob(kind)} == {p.name for p in (tmp_path / "fresh").rglob(kind)}


@pytest.fixture(scope="module")
def mixed(small, lean, tmp_path_factory):
    """Fold changes and labels of one screen in one folder, and each in a folder of its own."""
    labels, embeddings = small
    rng = np.random.default_rng(5)
    ids, values = labels.responses("A")
    changes = Screen.from_arrays(values + 0.3 * rng.standard_normal(values.shape), ids, ["A"] * len(ids), labels.readouts,
                                 name="toy", response="lfc")  # fmt: skip
    folder = tmp_path_factory.mktemp("mixed")
    lfc = run(changes, embeddings, folder / "lfc", **FEW | {"probes": ["ridge"]})
    both = run(labels, embeddings, shutil.copytree(lfc.path, folder / "both"), **FEW)
    return lfc, lean, both


def parts_of(scores):
    return [scores[scores["response"] == r].reset_index(drop=True) for r in ("lfc", "deg")]


def test_fold_changes_and_labels_in_one_folder_keep_apart(mixed, small):
    lfc, deg, both = mixed
    for part, alone in zip(parts_of(both.scores), (lfc.scores, deg.scores), strict=True):
        pd.testing.assert_frame_equal(part, alone, rtol=1e-12)
    assert_is_plain(both.path, *small)
    same(Store(both.path).resampled(), Store(deg.path).resampled())
    boards = both.leaderboard()
    assert boards.groupby("response")["metric"].unique().map(list).to_dict() == {"lfc": ["L2"], "deg": ["F1"]}
    for response, own in (("lfc", lfc), ("deg", deg)):
        part = boards[boards["response"] == response].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, own.leaderboard(), rtol=1e-9)
    assert set(both.leaderboard(metric="MCC")["response"]) == {"deg"}
    assert set(both.leaderboard(metric="Pearson")["response"]) == {"lfc"}


def test_fold_changes_and_labels_in_one_folder_are_rescored(mixed, tmp_path):
    copy = shutil.copytree(mixed[2].path, tmp_path / "r")
    before = mixed[2].scores
    pd.testing.assert_frame_equal(rescore(copy), before, rtol=1e-12)
    some = rescore(copy, ["F1", "L2", "MCC"])
    kept = before[before["metric"].isin(["F1", "L2", "MCC"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, kept, rtol=1e-12)
    assert some.groupby("response")["metric"].unique().map(sorted).to_dict() == {"deg": ["F1", "MCC"], "lfc": ["L2"]}


def test_gaps_of_a_task_are_of_its_own_metrics(mixed):
    store = Store(mixed[2].path)
    gaps = gap_table(store.scores(), **store.evidence())
    found = {(r, m) for r, m in zip(gaps["response"], gaps["metric"], strict=True)}
    assert found == {(r, m.name) for r in ("lfc", "deg") for m in metrics_for(r)}


SPARSE = {
    "nothing happens": lambda n: np.zeros((n, 5)),
    "everything is raised": lambda n: np.ones((n, 5)),
    "one label in all": lambda n: np.eye(1, n * 5, 17).reshape(n, 5),
    "classes in one fold only": lambda n: (
        np.stack([np.arange(n) < 3, -1 * (np.arange(n) > n - 4), np.arange(n) % 2], axis=1) * 1
    ),
    "one gene": lambda n: (np.arange(n) % 3 - 1)[:, None],
}


@pytest.mark.parametrize("case", SPARSE)
def test_screens_that_hardly_respond(case, tmp_path):
    n = 24
    ids = [f"P{k:02d}" for k in range(n)]
    values = SPARSE[case](n)
    screen = Screen.from_arrays(
        values, ids, ["A"] * n, [f"g{k}" for k in range(values.shape[1])], name="s", response="deg"
    )
    vectors = np.random.default_rng(0).standard_normal((n, 4))
    embeddings = [Embedding(tuple(ids[2:]), vectors[2:], Card(name="e"))]
    results = run(screen, embeddings, tmp_path / "r", folds=2, n_jobs=1)
    assert_is_plain(results.path, screen, embeddings)
    board = results.leaderboard()
    assert board["mean"].between(0, 1).all()
    if case in ("nothing happens", "everything is raised"):
        assert (board.query("role == 'embedding'")["mean"] == 1).all() and board["gap_closed"].isna().all()
        assert results.scores.query("metric == 'ROC_AUC'")["value"].isna().all()
        assert results.scores.query("metric == 'MCC'")["value"].isna().all()


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A screen as ``panmodal prepare`` leaves it, the tests of its labels as a table, and two embeddings."""
    folder = tmp_path_factory.mktemp("data")
    labels, embeddings = planted(n=40, genes=15)
    rng = np.random.default_rng(3)
    adata = labels.adata.copy()
    adata.layers["deg"] = adata.X.astype(np.int8)
    tested = np.arange(adata.n_obs) % 16 != 0
    adata.layers["deg"][~tested] = 0
    adata.obs["deg_tested"] = tested
    adata.X = (adata.X + 0.2 * rng.standard_normal(adata.shape)).astype(np.float32)
    Screen(adata, "toy", "lfc").write(folder / "prepared.h5ad")
    for embedding in embeddings[:3]:
        embedding.write(folder / f"{embedding.name}.h5ad")
    pairs = labels.adata.obs[["pert_id", "cell_line"]].to_numpy()
    size = len(labels.readouts)
    called = labels.adata.X.ravel()
    table = pd.DataFrame({
        "target": np.repeat(pairs[:, 0], size), "cell_line": np.repeat(pairs[:, 1], size),
        "feature": np.tile(labels.readouts, len(pairs)),
        "log2_fold_change": np.where(called != 0, called, np.sign(rng.standard_normal(called.size))) * rng.uniform(0.1, 2, called.size),
        "p_value": np.where(called != 0, 10.0 ** -rng.uniform(1.2, 8, called.size), rng.uniform(0.05, 1, called.size)),
    })  # fmt: skip
    table.sample(frac=1, random_state=0).to_csv(folder / "tests.csv", index=False)
    return folder


def arguments(data, out, screen, *more):
    return ["run", "--screen", data / screen, "--out", out, "--folds", 2, "--jobs", 1, "--embedding", data / "fifths.h5ad",
            "--probe", "ridge_classifier", *more]  # fmt: skip


def stored(out):
    """Labels that a results folder holds: context -> (ids, labels)."""
    store = Store(out)
    return {t.context: store.read_responses(t.depends["responses"]) for t in store.trials()}


def test_cli_runs_on_the_labels_of_a_prepared_screen(cli, data, tmp_path):
    printed = cli(*arguments(data, tmp_path / "r", "prepared.h5ad", "--response", "deg"))
    assert "deg" in printed and "5 pair(s) have too few cells for DEG labels and are left out" in printed
    assert f"{2 * 2 * (3 + 3)} trials computed" in printed and "F1, higher is better" in printed
    expected = Screen.read(data / "prepared.h5ad").labelled()
    for context, (ids, values, readouts) in stored(tmp_path / "r").items():
        assert len(ids) == {"A": 37, "B": 38}[context] and readouts == expected.readouts
        np.testing.assert_array_equal(values, expected.responses(context)[1])
    again = cli(*arguments(data, tmp_path / "r", "prepared.h5ad", "--response", "deg"))
    assert "0 trials computed, 24 found done." in again
    assert "for responses of kind 'lfc'" in cli(*arguments(data, tmp_path / "r", "prepared.h5ad"), code=2)


@pytest.mark.parametrize(
    ("options", "alpha", "least"),
    [([], 0.05, 0), (["--alpha", 0.001], 0.001, 0), (["--min-effect", 0.8], 0.05, 0.8),
     (["--alpha", 0.2, "--min-effect", 0.5, "--response", "deg"], 0.2, 0.5)],
)  # fmt: skip
def test_cli_runs_on_a_table_of_tests(cli, data, tmp_path, options, alpha, least):
    printed = cli(*arguments(data, tmp_path / "r", "tests.csv", *options, "--metric", "F1"))
    assert "a table of tests: perturbations from column 'target'" in " ".join(printed.split())
    table = pd.read_csv(data / "tests.csv")
    adjusted = table.groupby(["target", "cell_line"])["p_value"].transform(false_discovery_control)
    yes = (adjusted <= alpha) & (table["log2_fold_change"].abs() >= least)
    table["label"] = np.where(yes, np.sign(table["log2_fold_change"]), 0)
    assert 30 < yes.sum() < 500
    found = stored(tmp_path / "r")
    assert set(found) == {"A", "B"}
    for context, (ids, values, readouts) in found.items():
        wide = table[table["cell_line"] == context].pivot_table(index="target", columns="feature", values="label")
        np.testing.assert_array_equal(values, wide.loc[ids, readouts])
    assert set(Store(tmp_path / "r").scores()["response"]) == {"deg"}


def test_cli_takes_absent_tests_for_zeros_when_asked(cli, data, tmp_path):
    table = pd.read_csv(data / "tests.csv")
    table[table.index % 4 > 0].to_csv(tmp_path / "some.csv", index=False)
    arguments_of = arguments(data, tmp_path / "r", tmp_path / "some.csv", "--metric", "F1")
    assert "--missing zero" in " ".join(cli(*arguments_of, code=2).split())
    assert not (tmp_path / "r").exists()
    cli(*arguments_of, "--missing", "zero")
    found = stored(tmp_path / "r")
    gone = set(table[table.index % 4 == 0][["cell_line", "target", "feature"]].itertuples(index=False, name=None))
    n = 0
    for context, (ids, values, readouts) in found.items():
        assert values.shape == (40, 15)
        absent = np.array([[(context, i, g) in gone for g in readouts] for i in ids])
        assert (values[absent] == 0).all() and (values[~absent] != 0).any()
        n += absent.sum()
    assert n == len(gone)


@pytest.fixture(scope="module")
def table_options(data):
    return ["--screen", data / "tests.csv", "--embedding", data / "planted.h5ad"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--alpha", 0], "alpha"), (["--alpha", 2], "alpha"), (["--min-effect", -1], "min_effect"),
        (["--missing", "nan"], "missing"), (["--response", "lfc"], "DEG labels"),
        (["--device", "nonsense"], "device 'nonsense'"), (["--metric", "F2"], "no metric 'F2'"),
        (["--probe", "knn"], "no probe 'knn' for responses of kind 'deg'"),
    ],
)  # fmt: skip
def test_cli_errors(cli, table_options, tmp_path, options, says):
    assert says in cli("run", *table_options, "--out", tmp_path / "r", *options, code=2)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("MCC", "tests.csv"), ("recall", "tests.csv")],
)
def test_cli_run_by_another_metric_than_the_primary_one(cli, data, tmp_path, metric, kind):
    printed = cli(*arguments(data, tmp_path / "r", kind, "--metric", metric))
    assert f"{metric}, higher is better" in printed


def test_cli_leaderboard(cli, lean, tmp_path):
    page, gaps, csv = tmp_path / "board.html", tmp_path / "gaps.csv", tmp_path / "board.csv"
    printed = cli("leaderboard", lean.path, "--html", page, "--gaps", gaps)
    assert "F1, higher is better" in printed and "most frequent" in printed and "95 % interval" in printed
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "F1, higher is better" in text and METRICS["F1"].formula[:40] in text
    table = pd.read_csv(gaps)
    assert set(table["metric"]) == {*OF_GENES, *OF_PERTURBATIONS}
    has = table.groupby("metric")["gap_low"].apply(lambda s: s.notna().any())
    assert has[[*COUNTED, "MCC"]].all() and not has[["ROC_AUC", "average_precision"]].any()  # these are not resampled
    cli("leaderboard", lean.path, "--metric", "MCC", "--csv", csv)
    assert set(pd.read_csv(csv)["metric"]) == {"MCC"}
    cli("leaderboard", lean.path, "--fallback", "common", "--csv", csv)
    board, expected = pd.read_csv(csv), lean.leaderboard(fallback="common", marks=read_marks(lean.path))
    pd.testing.assert_frame_equal(board, pd.read_csv(io.StringIO(expected.to_csv(index=False))))
    np.testing.assert_array_equal(board["mean"], board["common"])
    assert board["gap_low"].isna().all() and board["gap_closed"].notna().all()


def test_cli_rescore(cli, copy, lean):
    before = lean.scores
    assert f"{before['trial'].nunique()} trials, {len(before)} scores" in cli("rescore", copy)
    same(Store(copy).scores(), before)
    cli("rescore", copy, "--metric", "F1")
    assert set(Store(copy).scores()["metric"]) == {"F1"}


def test_cli_lists_what_serves_labels(cli):
    metrics, probed = cli("list", "metrics"), cli("list", "probes")
    for name in OF_GENES + OF_PERTURBATIONS:
        row = next(line for line in metrics.splitlines() if f" {name} " in line)
        assert "deg" in row and ("gene" if name in OF_GENES else "perturbation") in row and "higher" in row
    for name in ("logistic", "knn_classifier", "ridge_classifier"):
        assert "deg" in next(line for line in probed.splitlines() if f" {name} " in line)


def test_cli_inspects_results_of_labels(cli, lean):
    printed = " ".join(cli("inspect", lean.path).split())
    assert "results folder" in printed and "16 of 16 done" in printed and "ridge_classifier" in printed

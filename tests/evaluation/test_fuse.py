"""A fusion fitted on a screen: what it is given, what becomes of ids, files, and the rehearsal beside single embeddings."""

import json
from dataclasses import dataclass, field

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal import Card, Embedding, ProbeCV, Screen
from panmodal.errors import PanmodalError
from panmodal.evaluation.fuse import FusedPrediction, fuse, write_fused
from panmodal.evaluation.fuse_rehearsal import rehearse, summarise
from panmodal.evaluation.predict import predict_responses
from panmodal.fusion import base
from panmodal.fusion.base import Fused, Fusion, Options
from panmodal.probes.design import LabelTargets
from panmodal.screens.simulate import simulate_responses
from panmodal.screens.splits import Split, make_split


class FakeOptions(Options):
    step: float = 1.0
    spread: bool = True
    fail: bool = False


@dataclass
class FakeFit:
    """Predicts the mean of a context, moved by a step for each modality that an id has."""

    means: dict
    names: tuple
    options: FakeOptions
    hyperparameters: dict = field(default_factory=lambda: {"chosen": 3})

    def tables(self):
        return [
            {"what": "weight", "context": "", "modality": n, "part": "", "value": k}
            for k, n in enumerate(self.names, 1)
        ]

    def predict(self, test, context):
        assert test.covered.all()
        own = self.options.step * test.present.sum(axis=1)[:, None]
        values = self.means[context] + own
        if self.options.fail:
            values = values * np.nan
        return Fused(values, np.broadcast_to(own**2, values.shape) if self.options.spread else None)


@pytest.fixture
def fake(monkeypatch):
    """Register two fusions, one joint, that remember what they were fitted on."""
    calls = []

    def fit(train, contexts, options, setting):
        calls.append((train, dict(contexts), options, setting))
        labels = isinstance(next(iter(contexts.values())).targets, LabelTargets)
        means = {c: own.targets.prior if labels else own.targets.mean for c, own in contexts.items()}
        return FakeFit(means, train.names, options)

    kinds = ("lfc", "deg")
    made = {
        name: Fusion(name, "for tests", kinds, fit, FakeOptions, joint=joint)
        for name, joint in (("fake", False), ("joint", True))
    }
    made["absent"] = Fusion("absent", "for tests", kinds, fit, extra="deep", module="no_such_module")
    made["numbers"] = Fusion("numbers", "for tests", ("lfc",), fit)
    real = base.fusions()
    monkeypatch.setattr(base, "fusions", lambda: {**real, **made})
    return calls


@pytest.fixture(scope="module")
def known():
    """50 of 70 perturbations in A and 60 in B; an embedding of all but the last four, and one of all but every fifth."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 6))
    y = x @ np.ones((6, 12)) / np.sqrt(6) + 0.5 * rng.standard_normal((70, 12))
    ids = [f"P{k:02d}" for k in range(70)]
    screen = Screen.from_arrays(
        np.vstack([y[:50], y[:60] + 1]), ids[:50] + ids[:60], ["A"] * 50 + ["B"] * 60, [f"g{k}" for k in range(12)],
        name="known", response="lfc",
    )  # fmt: skip
    some = [k for k in range(66) if k % 5]
    return (
        screen,
        [
            Embedding(tuple(ids[:66]), x[:66, :3], Card(name="full", modality="toy")),
            Embedding(tuple(ids[k] for k in some), x[some, 3:], Card(name="part", modality="toy")),
        ],
        ids,
    )


@pytest.fixture(scope="module")
def labels(known):
    screen, embeddings, ids = known
    values = np.where(abs(screen.adata.X - 0.5) > 0.9, np.sign(screen.adata.X - 0.5), 0)
    rows = screen.adata.obs
    made = Screen.from_arrays(values, rows["pert_id"], rows["cell_line"], screen.readouts, name="degs", response="deg")
    return made, embeddings, ids


def test_it_is_fitted_on_each_context_alone_or_on_all_at_once(known, fake):
    screen, embeddings, ids = known
    alone = fuse(screen, embeddings, "fake", seed=7, threads=2)
    assert [p.context for p in alone] == ["A", "B"]
    assert [len(train) for train, *_ in fake] == [50, 60]
    train, contexts, options, setting = fake[0]
    assert train.names == ("full", "part")
    np.testing.assert_array_equal(train.values[0], embeddings[0].matrix(ids[:50]))
    np.testing.assert_array_equal(train.present[:, 1], [k % 5 > 0 for k in range(50)])
    np.testing.assert_array_equal(contexts["A"].rows, np.arange(50))
    np.testing.assert_allclose(contexts["A"].targets.values, screen.responses("A")[1])
    assert options == FakeOptions()
    assert (setting.seed, setting.threads, setting.folder) == (7, 2, None)
    fake.clear()
    joint = fuse(screen, embeddings, "joint", contexts="A")
    assert [p.context for p in joint] == ["A"]
    ((train, contexts, *_),) = fake
    assert len(train) == 60
    assert list(contexts) == ["A", "B"]
    np.testing.assert_array_equal(contexts["A"].rows, np.arange(50))
    assert joint[0].weights["context"].unique().tolist() == [""]
    assert alone[0].weights["context"].unique().tolist() == ["A"]
    assert joint[0].settings["joint"]


def test_values_and_what_is_said_of_ids(known, fake):
    screen, embeddings, ids = known
    (found,) = fuse(screen, embeddings, "fake", ids=[ids[55], ids[51], "NEW", ids[3]], contexts=["A"])
    mean = screen.responses("A")[1].mean(axis=0)
    np.testing.assert_allclose(found.values, mean + np.array([1, 2, 0])[:, None], rtol=1e-5)
    assert found.values.dtype == found.variance.dtype == np.float32
    np.testing.assert_array_equal(found.variance[:2], np.repeat([[1.0], [4.0]], 12, axis=1))
    assert np.isnan(found.variance[2]).all()
    assert found.ids == (ids[55], ids[51], "NEW")
    assert found.about["covered"].tolist() == [True, True, False]
    assert found.about["n_modalities"].tolist() == [1, 2, 0]
    assert found.about["modalities"].tolist() == ["full", "full; part", ""]
    np.testing.assert_allclose(found.about["sd"], [np.sqrt(12), 2 * np.sqrt(12), np.nan])
    assert any("1 id(s) were measured in 'A'" in note and ids[3] in note for note in found.notes)
    assert any("'NEW'" in note and "train mean" in note for note in found.notes)
    assert found.settings["coverage"] == [
        "50 measured perturbations with a vector: 40 in all 2 modalities, 10 in 1.",
        "'part' lacks 10 of 50: 'P00', 'P05', 'P10', 'P15', ... (10 in all).",
        "3 perturbations to predict with a vector: 1 in all 2 modalities, 1 in 1, 1 in none.",
        "'full' lacks 1 of 3: 'NEW'.",
        "'part' lacks 2 of 3: 'P55', 'NEW'.",
    ]
    assert found.settings["hyperparameters"] == {"chosen": 3}
    assert found.settings["n_trained_on"] == 50
    assert [e["name"] for e in found.settings["embeddings"]] == ["full", "part"]


def test_without_variance(known, fake):
    screen, embeddings, ids = known
    (found,) = fuse(screen, embeddings, "fake", options={"spread": False, "step": 2}, ids=ids[60:], contexts="A")
    assert found.variance is None
    assert "sd" not in found.about
    assert list(found.frame()) == ["context", "pert_id", "readout", "prediction"]
    assert found.settings["options"] == {"step": 2.0, "spread": False, "fail": False}


def test_measured_ids_without_any_vector_are_named(known, fake):
    screen, embeddings, _ = known
    few = [e.restricted([i for i in e.ids if i > "P07"]) for e in embeddings]
    found = fuse(screen, few, "fake", contexts="A")[0]
    assert any("8 of 50 measured perturbations have no vector" in n and "'P00'" in n for n in found.notes)
    assert found.settings["n_trained_on"] == 42
    assert len(fake[0][0]) == 42


def test_ids_are_all_of_the_embeddings_unless_given(known, fake):
    screen, embeddings, ids = known
    other = Embedding(("P64", "Z1", "P01", *ids[10:30]), np.ones((23, 2)), Card(name="other", modality="toy"))
    a, b = fuse(screen, [*embeddings, other], "fake")
    assert a.ids == (*ids[50:66], "Z1")
    assert b.ids == (*ids[60:66], "Z1")
    assert a.about["modalities"].tolist()[-1] == "other"
    (here,) = fuse(screen, embeddings, "fake", ids="screen")
    assert (here.context, here.ids) == ("A", tuple(ids[50:60]))
    assert any("nothing is left to predict in 'B'" in note for note in here.notes)
    none = fuse(screen, embeddings, "fake", ids=[])
    assert [p.values.shape for p in none] == [(0, 12), (0, 12)]
    assert [len(p.weights) for p in none] == [2, 2]


def test_other_names_are_the_same_perturbation(fake):
    genes = [
        "TP53",
        "BRCA1",
        "MYC",
        "EGFR",
        "KRAS",
        "PTEN",
        "RB1",
        "ATM",
        "CHEK2",
        "CDK4",
        "CDK6",
        "MDM2",
        "BRCA2",
        "PALB2",
        "NF1",
    ]
    rng = np.random.default_rng(0)
    screen = Screen.from_arrays(
        rng.standard_normal((13, 3)), [*genes[:12], "PALB2+TP53"], ["A"] * 13, list("abc"), name="g", response="lfc"
    )
    symbols = Embedding(tuple(genes), rng.standard_normal((15, 4)), Card(name="symbols", modality="toy"))
    names = {"TP53": "ENSG00000141510", "NF1": "ENSG00000196712", "BRCA2": "ENSG00000139618", "VHL": "ENSG00000134086"}
    ensembl = Embedding(
        (*(names[g] for g in names), *genes[1:12]), rng.standard_normal((15, 2)), Card(name="ensembl", modality="toy")
    )
    (found,) = fuse(screen, [symbols, ensembl], "fake")
    assert found.ids == ("BRCA2", "PALB2", "NF1", names["VHL"])
    table = found.about.set_index("pert_id")["modalities"]
    assert table["NF1"] == table["BRCA2"] == "symbols; ensembl"
    assert table["PALB2"] == "symbols"
    assert table[names["VHL"]] == "ensembl"
    assert any("'ensembl': 1 measured id(s)" in n and "TP53 as ENSG00000141510" in n for n in found.notes)
    assert any("'ensembl': 2 id(s)" in n for n in found.notes)
    np.testing.assert_array_equal(fake[0][0].present.sum(axis=0), [13, 12])
    (asked,) = fuse(screen, [symbols, ensembl], "fake", ids=["P53", "NF1+VHL", "VHL"])
    assert asked.ids == ("NF1+VHL", "VHL")
    assert asked.about["modalities"].tolist() == ["ensembl", "ensembl"]
    assert any("P53" in note and "measured" in note for note in asked.notes)
    (exact,) = fuse(screen, [symbols, ensembl], "fake", match="exact", ids=["NF1"])
    assert exact.about["modalities"].tolist() == ["symbols"]


def test_labels(labels, fake, tmp_path):
    screen, embeddings, ids = labels
    (found,) = fuse(screen, embeddings, "fake", options={"step": 0.01}, ids=[ids[55], "NEW"], contexts="A")
    truth = screen.responses("A")[1]
    down, up = (truth == -1).mean(axis=0), (truth == 1).mean(axis=0)
    np.testing.assert_allclose(found.values[1], np.concatenate([down, up]), rtol=1e-6)
    np.testing.assert_allclose(found.values[0], np.concatenate([down, up]) + 0.01, rtol=1e-5)
    assert isinstance(fake[0][1]["A"].targets, LabelTargets)
    assert any("class prior" in note for note in found.notes)
    layers = found.layers()
    assert list(layers) == ["prediction", "p_down", "p_up", "p_down_sd", "p_up_sd"]
    shares = np.stack([down, 1 - down - up, up])
    np.testing.assert_array_equal(layers["prediction"][1], np.argmax(shares, axis=0) - 1)
    write_fused([found], tmp_path / "l.h5ad")
    adata = anndata.read_h5ad(tmp_path / "l.h5ad")
    assert set(np.unique(adata.X)) <= {-1, 0, 1}
    np.testing.assert_array_equal(adata.layers["p_up"], found.values[:, 12:])
    write_fused([found], tmp_path / "l.parquet")
    frame = pd.read_parquet(tmp_path / "l.parquet")
    assert frame["prediction"].isin([-1, 0, 1]).all()
    np.testing.assert_array_equal(frame["p_down"], found.values[:, :12].ravel())


def test_files(known, fake, tmp_path, refuses):
    screen, embeddings, ids = known
    made = fuse(screen, embeddings, "fake", ids=[*ids[60:64], "NEW"])
    write_fused(made, tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert adata.shape == (10, 12)
    assert adata.var_names.tolist() == screen.readouts
    np.testing.assert_array_equal(adata.X[:5], made[0].values)
    np.testing.assert_array_equal(adata.layers["sd"][5:], np.sqrt(made[1].variance))
    assert adata.obs["cell_line"].tolist() == ["A"] * 5 + ["B"] * 5
    assert adata.obs["pert_id"].tolist() == [*ids[60:64], "NEW"] * 2
    assert adata.obs["n_modalities"].tolist() == [1, 2, 2, 2, 0] * 2
    record = json.loads(adata.uns["panmodal_fusion"])
    assert [r["context"] for r in record] == ["A", "B"]
    assert record[0]["weights"][1] == {"what": "weight", "context": "A", "modality": "part", "part": "", "value": 2}
    write_fused(made, tmp_path / "p.csv")
    write_fused(made, tmp_path / "p.parquet")
    frame = pd.read_csv(tmp_path / "p.csv")
    assert frame.columns.tolist() == ["context", "pert_id", "readout", "prediction", "sd"]
    assert len(frame) == 120
    row = frame.query("context == 'B' and pert_id == @ids[61] and readout == 'g3'").iloc[0]
    assert row["prediction"] == pytest.approx(made[1].values[1, 3], rel=1e-5)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), frame, check_dtype=False, rtol=1e-5)
    refuses([".h5ad, .csv or .parquet"], write_fused, made, tmp_path / "p.txt")
    refuses(["at least one"], write_fused, [], tmp_path / "p.csv")
    mixed = [made[0], FusedPrediction("B", ("other",), "lfc", made[1].values, None, made[1].about, made[1].weights)]
    refuses(["same read-outs"], write_fused, mixed, tmp_path / "p.csv")


def test_what_is_undefined_can_be_written(known, fake, tmp_path):
    """A context in which nothing is covered has no variance; a weight that is not known is null."""
    screen, embeddings, ids = known
    a, b = fuse(screen, embeddings, "fake", ids=[ids[60]])[0], fuse(screen, embeddings, "fake", ids=["NEW"])[1]
    assert b.variance is None
    b.weights.loc[0, "value"] = np.nan
    write_fused([a, b], tmp_path / "p.h5ad")
    adata = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(np.isnan(adata.layers["sd"]).all(axis=1), [False, True])
    assert json.loads(adata.uns["panmodal_fusion"])[1]["weights"][0]["value"] is None


def test_checkpoints_of_different_fits_lie_apart(known, fake, tmp_path):
    screen, embeddings, _ = known
    for seed in (1, 1, 2):
        fuse(screen, embeddings, "fake", folder=tmp_path, seed=seed)
    folders = [setting.folder for *_, setting in fake]
    assert folders[:2] == folders[2:4]
    assert len(set(folders)) == 4
    assert all(f.parent == tmp_path for f in folders)


def test_many_ids_are_predicted_as_few_are(known, monkeypatch):
    screen, embeddings, ids = known
    one = fuse(screen, embeddings, "kernels", ids=ids[50:], contexts="A")[0]
    monkeypatch.setattr("panmodal.evaluation.fuse.CHUNK", 3)
    few = fuse(screen, embeddings, "kernels", ids=ids[50:], contexts="A")[0]
    np.testing.assert_allclose(few.values, one.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(few.variance, one.variance, rtol=1e-5)
    again = fuse(screen, embeddings, "kernels", ids=ids[50:], contexts="A")[0]
    np.testing.assert_array_equal(again.values, few.values)
    pd.testing.assert_frame_equal(again.weights, few.weights)


@pytest.mark.parametrize("fusion", sorted(base.fusions()))
def test_every_fusion_predicts_and_repeats_itself(known, labels, fusion):
    if base.get_fusion(fusion).missing():
        pytest.skip("what it needs is not installed")
    if "deep" in base.get_fusion(fusion).extra:
        pytest.skip("networks have tests of their own")
    for screen, embeddings, ids in (known, labels):
        if screen.response not in base.get_fusion(fusion).kinds:
            continue
        first, again = (fuse(screen, embeddings, fusion, ids=ids[60:], contexts="A")[0] for _ in range(2))
        assert np.isfinite(first.values).all()
        np.testing.assert_array_equal(first.values, again.values)
        assert set(first.weights["modality"]) <= {"full", "part", ""}
        json.dumps(first.settings, allow_nan=False)


def test_an_ensemble_is_a_fusion(known):
    pytest.importorskip("panmodal.fusion.ensemble")
    screen, embeddings, ids = known
    (found,) = fuse(screen, embeddings, "kernels", ids=ids[60:], contexts="A", members=2)
    (one,) = fuse(screen, embeddings, "kernels", ids=ids[60:], contexts="A")
    assert found.settings["members"] == 2 and found.variance is not None
    # Each member sees 80 % of the training ids, and so says much the same.
    assert np.corrcoef(found.values.ravel(), one.values.ravel())[0, 1] > 0.9


def test_wrong_input_is_refused(known, labels, fake, refuses):
    screen, embeddings, ids = known
    refuses(["no fusion 'tree'", "kernels"], fuse, screen, embeddings, "tree")
    refuses(["no_such_module", "panmodal[deep]"], fuse, screen, embeddings, "absent")
    refuses(["Its options are: step", "steps"], fuse, screen, embeddings, "fake", options={"steps": 1})
    refuses(["'numbers' does not predict deg", "kernels"], fuse, labels[0], embeddings, "numbers")
    refuses(["at least one member, not 0"], fuse, screen, embeddings, "fake", members=0)
    refuses(["no context 'C'", "'A', 'B'"], fuse, screen, embeddings, "fake", contexts=["A", "C"])
    refuses(["none was chosen"], fuse, screen, embeddings, "fake", contexts=[])
    refuses(["device 'abacus'"], fuse, screen, embeddings, "fake", device="abacus")
    refuses(["no embedding"], fuse, screen, [], "fake")
    refuses(["two embeddings are named 'full'"], fuse, screen, [embeddings[0], embeddings[0]], "fake")
    stranger = Embedding(("X", "Y"), np.ones((2, 2)), Card(name="stranger", modality="toy"))
    refuses(["'stranger' shares no id", "'X'", "'P00'"], fuse, screen, [*embeddings, stranger], "fake")
    elsewhere = Embedding(tuple(ids[52:60]), np.ones((8, 2)), Card(name="elsewhere", modality="toy"))
    refuses(
        ["context 'A'", "'elsewhere' has no vector for any training id"],
        fuse, screen, [*embeddings, elsewhere], "fake", contexts="A",
    )  # fmt: skip
    tiny = embeddings[0].restricted(ids[:9])
    refuses(["context 'A'", "9 of 50", "at least 10"], fuse, screen, [tiny], "fake", ids=ids[60:])
    refuses(["control cells"], fuse, screen, embeddings, "fake", ids=["DMSO", ids[60]])
    refuses(["number 2 is empty"], fuse, screen, embeddings, "fake", ids=[ids[60], " "])
    refuses(["list of ids"], fuse, screen, embeddings, "fake", ids=ids[60])
    refuses(["nothing is left", "all 2 ids"], fuse, screen, embeddings, "fake", ids=ids[:2])
    refuses(["NaN or infinite", "'A'"], fuse, screen, embeddings, "fake", options={"fail": True}, error=PanmodalError)


def test_a_rehearsal_holds_out_what_it_scores(known, fake):
    screen, embeddings, ids = known
    split = make_split(ids, n_folds=4, seed=1)
    steps = []
    table = rehearse(screen, embeddings, split, "joint", contexts="A", progress=lambda *a: steps.append(a))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert table["method"].unique().tolist() == ["joint", "full", "part", "train mean"]
    assert (table.groupby("method")["pert_id"].agg(sorted).map(tuple) == tuple(ids[:50])).all()
    for fold, (_, contexts, *_) in zip(split.numbers, fake, strict=True):
        assert list(contexts) == ["A", "B"]
        train = [i for i in ids[:60] if split.folds[i] != fold]
        assert len(contexts["A"].rows) == sum(i < "P50" for i in train)
        assert len(contexts["B"].rows) == len(train)
    own = table.query("method == 'joint' and pert_id == 'P06'").iloc[0]
    ids_a, truth = screen.responses("A")
    mean = truth[[split.folds[i] != split.folds["P06"] for i in ids_a]].mean(axis=0)
    assert own["value"] == pytest.approx(np.linalg.norm(truth[6] - mean - 2), rel=1e-5)
    assert own["n_modalities"] == 2
    assert own["sd"] == pytest.approx(2 * np.sqrt(12))
    assert table.loc[table["method"] != "joint", "sd"].isna().all()


def test_single_embeddings_are_probed_as_in_a_run(known, labels, fake):
    screen, embeddings, ids = known
    split = make_split(ids, n_folds=4, seed=1)
    ids_a, truth = screen.responses("A")
    train = np.array([split.folds[i] != 0 for i in ids_a])
    for embedding in embeddings:
        has = np.array([i in embedding.ids for i in ids_a])
        predicted = np.tile(truth[train].mean(axis=0), (50, 1))
        fitted = ProbeCV("ridge").fit(embedding.matrix(np.array(ids_a)[train & has]), truth[train & has])
        predicted[has] = fitted.predict(embedding.matrix(np.array(ids_a)[has]))
        error = np.linalg.norm(truth - predicted, axis=1)[~train]
        table = rehearse(screen, embeddings, split, "fake", contexts="A")
        own = table[(table["method"] == embedding.name) & (table["fold"] == 0)]
        assert own["pert_id"].tolist() == [i for i, kept in zip(ids_a, train, strict=True) if not kept]
        np.testing.assert_allclose(own["value"], error, rtol=1e-4)
    table = rehearse(labels[0], embeddings, split, "fake", options={"step": 0.0})
    assert len(table) == 2 * 4 * 4
    assert set(table["metric"]) == {"F1"}
    assert table["value"].between(0, 1).all()
    same = table.pivot(index=["context", "fold"], columns="method", values="value")
    np.testing.assert_allclose(same["fake"], same["class prior"])
    assert (same["full"] > same["class prior"]).mean() > 0.8


def test_summary_by_hand(known):
    rows = []
    rng = np.random.default_rng(0)
    for k in range(40):
        own = rng.standard_normal()
        for method, role, shift in (("f", "fusion", 0.0), ("worse", "embedding", 2.0), ("best", "embedding", 1.0),
                                    ("train mean", "baseline", 3.0), ("small", "embedding", np.nan)):  # fmt: skip
            rows.append({"context": "A", "fold": k % 4, "pert_id": f"P{k}", "method": method, "role": role, "metric": "L2",
                         "value": 5 + own + shift + 0.1 * (k % 2) * (role != "fusion"), "n_modalities": 2,
                         "sd": 5 + own if role == "fusion" else np.nan})  # fmt: skip
    table = pd.DataFrame(rows)
    found = summarise(table).set_index("method")
    assert found.index.tolist() == ["f", "best", "worse", "small", "train mean"]
    assert found["best"].tolist() == [False, True, False, False, False]
    assert found.loc["best", "gain"] == pytest.approx(1.05)
    difference = np.where(np.arange(40) % 2, 1.1, 1.0)
    from scipy.stats import ttest_1samp

    interval = ttest_1samp(difference, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.loc["best", ["low", "high"]].astype(float), interval)
    assert found.loc["f", "sd_correlation"] == pytest.approx(1)
    assert np.isnan(found.loc["small", "gain"])
    assert np.isnan(found.loc["f", "gain"])
    # Labels: higher is better, and folds share their training data.
    few = table[table["pert_id"].isin(["P0", "P1", "P2", "P3"])].assign(metric="F1", pert_id="")
    found = summarise(few).set_index("method")
    assert found.index.tolist()[:2] == ["f", "worse"]
    assert found.loc["best", "gain"] == pytest.approx(-1.05)
    d = np.array([1.0, 1.1, 1.0, 1.1])
    from scipy.stats import t

    half = t.ppf(0.975, 3) * d.std(ddof=1) * np.sqrt(1 / 4 + 1 / 3)
    assert found.loc["best", "high"] == pytest.approx(-1.05 + half)


def test_fusion_beats_each_of_two_halves():
    """Planted latents of which each embedding knows half."""
    screen, planted = simulate_responses(n_perturbations=120, n_genes=60, contexts=("one",), seed=1, noise=0.05)
    ids, vectors = planted["sim-full"]
    latents = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[0][:, :12]
    halves = [
        Embedding(tuple(ids), latents[:, k::2], Card(name=f"half-{k}", modality="toy")) for k in range(2)
    ]  # fmt: skip
    table = rehearse(screen, halves, make_split(screen.pert_ids, seed=0), "kernels")
    found = summarise(table).set_index("method")
    assert (found.loc[["half-0", "half-1", "train mean"], "low"] > 0).all()
    again = rehearse(screen, halves, make_split(screen.pert_ids, seed=0), "kernels")
    pd.testing.assert_frame_equal(table, again)


def test_wrong_rehearsals_are_refused(known, fake, refuses):
    screen, embeddings, ids = known
    refuses(["no fold for 'P40'"], rehearse, screen, embeddings, make_split(ids[:40], seed=0), "fake")
    lopsided = Split({i: int(i >= "P50") for i in ids})
    refuses(["fold '1' holds no perturbation of context 'A'"], rehearse, screen, embeddings, lopsided, "fake")
    late = Split({i: int(i < "P41") for i in ids})
    refuses(
        ["fold 1 held out", "context 'A'", "at least 10"], rehearse, screen, embeddings, late, "fake", contexts=["A"]
    )
    refuses(
        ["fold 0 held out", "NaN"],
        rehearse, screen, embeddings, make_split(ids, seed=0), "fake", options={"fail": True}, error=PanmodalError,
    )  # fmt: skip


def test_an_embedding_of_few_ids_is_not_probed_alone(known, fake):
    screen, embeddings, ids = known
    small = embeddings[0].restricted(ids[:11])
    small = Embedding(small.ids, small.vectors, small.card.model_copy(update={"name": "small"}))
    table = rehearse(screen, [*embeddings, small], make_split(ids, seed=0), "fake", contexts="A")
    assert table.loc[table["method"] == "small", "value"].isna().any()
    found = summarise(table).set_index("method")
    assert np.isnan(found.loc["small", "mean"])
    assert not found.loc["small", "best"]


def test_real_knockdowns(shared):
    """Kernels over two networks and a text on every fortieth gene: at least as good as the best alone, and an honest sd."""
    from panmodal.screens.splits import read_split

    screen = Screen.read(shared / "replogle2022_uprank.h5ad", response="rank_score")
    screen = Screen(screen.adata[:, ::40].copy(), screen.name, "rank_score").select(["K-562"])
    files = ("network_string_netmf128", "network_humap_netmf128", "text_ncbi_lsa128")
    embeddings = [Embedding.read(shared / "embeddings" / f"{name}.h5ad") for name in files]
    split = read_split(shared / "replogle2022_uprank.splits.csv")
    folds = {i: int(f > 2) for i, f in split.folds.items()}
    found = summarise(rehearse(screen, embeddings, Split(folds), "kernels")).set_index("method")
    best = found.index[found["best"]][0]
    assert best == "network_string_netmf128"
    assert found.loc[best, "low"] > 0
    assert found.loc["kernels", "sd_correlation"] > 0.2
    (made,) = fuse(screen, embeddings, "kernels", ids=["TP53", "AAMP"])
    assert made.about["n_modalities"].tolist()[1] >= 2
    one = predict_responses(screen, embeddings[0], ["AAMP"])
    assert np.corrcoef(one.values[0], made.values[1])[0, 1] > 0.5

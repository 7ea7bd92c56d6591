"""The parts of the attention fusion: options, scaling, goals, losses, rollout."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panmodal._digest import digest_json
from panmodal.fusion.attention_data import Goal, Rows, Scaler, class_weights, hold_out
from panmodal.fusion.attention_options import PRESETS, AttentionOptions
from panmodal.fusion.base import ContextTargets, get_fusion
from panmodal.probes.design import LabelTargets, Targets

FUSION = get_fusion("attention")
HYPER = PRESETS["regression"]["small"]


def rows_of(n=30, t=9, contexts=2, seed=0):
    rng = np.random.default_rng(seed)
    own = {f"c{k}": ContextTargets(np.arange(n), Targets.of(rng.standard_normal((n, t)) + k)) for k in range(contexts)}
    return Rows.of(own)


def test_the_module_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import panmodal.fusion.base as b; assert 'attention' in b.fusions()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_presets_are_the_published_ones():
    simple, full = (FUSION.settings({"preset": p}).of(classes=False) for p in ("simple", "full"))
    assert (simple.d_model, simple.layers, simple.heads, simple.head_layers, simple.batch) == (100, 4, 5, 0, 64)
    assert (simple.learning_rate, simple.dropout, simple.context, simple.gate) == (
        0.0009931092550184934,
        0.0,
        "added",
        False,
    )
    assert (full.layers, full.heads, full.head_layers, full.head_width, full.batch) == (8, 10, 2, 400, 32)
    assert (full.gate, full.reconstruction, full.context, full.inputs) == (True, 9.411605826543548, "head", "zscore")
    classes = FUSION.settings({"preset": "simple"}).of(classes=True)
    assert (classes.layers, classes.learning_rate, classes.epochs, classes.token_norm) == (
        7,
        4.586815929703627e-05,
        200,
        True,
    )
    for hyper in (simple, full, classes):
        assert (hyper.warmup, hyper.patience, hyper.clip, hyper.validation) == (5, 25, 1.0, 0.2)
        assert not hyper.centre and not hyper.rank and not hyper.average and not hyper.refit


def test_options_tell_all_and_survive_a_dump():
    given_ = FUSION.settings({"preset": "full", "layers": 3})
    dump = given_.model_dump(mode="json")
    assert dump["regression"]["layers"] == dump["classification"]["layers"] == 3
    assert dump["regression"]["heads"] == 10
    again = AttentionOptions(**dump)
    assert again == given_ and again.model_dump(mode="json") == dump
    one, other = (digest_json(FUSION.identity(FUSION.settings(o))) for o in ({}, {"epochs": 74}))
    assert one != other and one == digest_json(FUSION.identity(AttentionOptions()))
    with pytest.raises(ValueError, match="frozen"):
        given_.layers = 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"d_model": 10, "heads": 3}, ["d_model 10 is not divisible by heads 3"]),
        ({"dropout": 1.0}, ["dropout", "less than 1"]),
        ({"preset": "huge"}, ["preset", "'small', 'simple' or 'full'"]),
        ({"epochs": 0}, ["epochs", "greater than 0"]),
        ({"learning_rate": float("nan")}, ["learning_rate"]),
        ({"depth": 3}, ["depth", "Its options are: preset"]),
    ],
)
def test_options_are_checked(options, says, refuses):
    refuses(["fusion 'attention'", *says], FUSION.settings, options)


@given(st.sampled_from(["raw", "l2", "zscore", "pca"]), st.integers(1, 8), st.integers(2, 20), st.integers(0, 10**6))
def test_scaled_rows_are_bounded_and_fitted_on_training_rows_only(how, dims, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + 3, dims)) * 10.0 ** rng.integers(-3, 4, dims)
    x[:, 0] = np.where(rng.random() < 0.3, 4.0, x[:, 0])
    x[-1] = np.nan
    scaler = Scaler.fit(x[:n], how, 5)
    found = scaler(x)
    assert np.isfinite(found).all() and (found[-1] == 0).all() and found.dtype == np.float32
    assert (found[:n] == scaler(x[:n])).all() or np.allclose(found[:n], scaler(x[:n]), atol=1e-5)
    if how == "l2":
        np.testing.assert_allclose(np.linalg.norm(found[:-1], axis=1), 1.0, rtol=1e-4)
    if how == "zscore":
        assert np.abs(found).max() <= 10
    if how == "pca":
        assert np.sqrt((found[:-1] ** 2).mean(axis=1)).max() <= np.sqrt(10.1)


def test_standardised_rows_match_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).standard_normal((30, 6)) * 3 + 1
    np.testing.assert_allclose(Scaler.fit(x[:20], "zscore", 9)(x), StandardScaler().fit(x[:20]).transform(x), atol=1e-5)


@given(st.integers(0, 1000), st.floats(0.05, 0.5))
def test_held_out_ids_go_with_all_their_contexts(seed, share):
    rows = rows_of(n=40, contexts=3)
    held = hold_out(rows, share, seed)
    own = set(rows.ids[held])
    assert len(own) == round(share * 40) and not own & set(rows.ids[~held])
    assert held.sum() == 3 * len(own)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("rank", [0, 3, 1000])
def test_a_goal_measures_true_distances_and_comes_back(centre, rank):
    rows = rows_of()
    hyper = HYPER.model_copy(update={"centre": centre, "rank": rank})
    use = rows.ids < 20
    goal = Goal.fit(rows, use, hyper)
    wanted, rest = goal.targets(rows)
    out = np.random.default_rng(1).standard_normal((len(rows.ids), goal.width))
    back = np.stack([goal.response(o[None], c)[0] for o, c in zip(out, rows.context, strict=True)])
    true = np.linalg.norm(back - rows.values, axis=1)
    np.testing.assert_allclose(goal.scale * np.sqrt(((out - wanted) ** 2).sum(axis=1) + rest), true, rtol=1e-5)
    # Rows that were not used leave no trace.
    rows.values[~use] = 1e3
    again = Goal.fit(rows, use, hyper)
    assert again.scale == goal.scale and (again.mean == goal.mean).all()


def test_responses_that_never_vary_have_a_goal():
    rows = Rows.of({"A": ContextTargets(np.arange(12), Targets.of(np.ones((12, 4))))})
    goal = Goal.fit(rows, np.ones(12, bool), HYPER)
    np.testing.assert_allclose(goal.response(np.zeros((1, goal.width)), 0), 1.0)
    assert np.isfinite(goal.targets(rows)[0]).all()


def test_class_weights_are_n_over_three_n_c():
    labels = np.array([[-1, 0], [0, 0], [0, 1], [1, 0]], dtype=np.int8)
    np.testing.assert_allclose(class_weights(labels), [[4 / 3, 2 / 3, 4 / 3], [0, 4 / 9, 4 / 3]], rtol=1e-6)


def test_classes_start_from_their_shares():
    labels = np.repeat(np.array([-1, 0, 0, 0, 0, 0, 1, 1], dtype=np.int8), 5)[:, None].repeat(3, axis=1)
    rows = Rows.of({"A": ContextTargets(np.arange(40), LabelTargets(labels))})
    use = np.ones(40, bool)
    plain = Goal.fit(rows, use, HYPER.model_copy(update={"weighting": 0.0}))
    shares = np.exp(plain.response(np.zeros((1, plain.width)), 0)).reshape(3, 3)
    np.testing.assert_allclose(shares, [[1 / 8, 5 / 8, 2 / 8]] * 3, atol=0.02)
    np.testing.assert_allclose(plain.basis @ plain.basis.T, np.eye(plain.width), atol=1e-12)
    level = Goal.fit(rows, use, HYPER.model_copy(update={"weighting": 1.0}))
    np.testing.assert_allclose(np.exp(level.mean), 1 / 3, atol=0.02)


def test_class_loss_is_torch_cross_entropy_gene_by_gene():
    torch = pytest.importorskip("torch")
    from panmodal.fusion.deep.train import ClassLoss

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (20, 5))
    labels[:, 0] = 1
    labels[-1] = 2
    weights = torch.from_numpy(class_weights((labels[:-1] - 1).astype(np.int8)))
    out = torch.from_numpy(rng.standard_normal((4, 15)).astype(np.float32))
    rows = torch.tensor([3, 7, 1, 19])
    where = torch.zeros(20, dtype=torch.int64)
    found = ClassLoss(torch.from_numpy(labels.astype(np.uint8)), weights, where, torch.zeros(1, 15))(out, rows)
    true = torch.from_numpy(labels)[rows]
    wanted = [torch.nn.functional.cross_entropy(out.view(4, 5, 3)[:, g], true[:, g], weights[g]) for g in range(5)]
    np.testing.assert_allclose(float(found), float(torch.stack(wanted).mean()), rtol=1e-5)
    nothing = ClassLoss(torch.full((6, 5), 2, dtype=torch.uint8), weights, where, torch.zeros(1, 15))(
        out[:2], rows[:2] - 2
    )
    assert float(nothing) == 0.0


@pytest.mark.parametrize("gate", [False, True])
def test_an_encoder_layer_is_that_of_torch(gate):
    torch = pytest.importorskip("torch")
    from panmodal.fusion.deep.model import Block, Dropper

    for norm in ("post", "pre"):
        hyper = HYPER.model_copy(update={"norm": norm, "d_model": 12, "heads": 3, "gate": gate, "dropout": 0.4})
        own = Block(hyper)
        theirs = torch.nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=norm == "pre")
        theirs.load_state_dict({
            "self_attn.in_proj_weight": own.mix.weight, "self_attn.in_proj_bias": own.mix.bias,
            "self_attn.out_proj.weight": own.out.weight, "self_attn.out_proj.bias": own.out.bias,
            "linear1.weight": own.wide.weight, "linear1.bias": own.wide.bias, "linear2.weight": own.narrow.weight,
            "linear2.bias": own.narrow.bias, "norm1.weight": own.norm_attention.weight, "norm1.bias": own.norm_attention.bias,
            "norm2.weight": own.norm_mlp.weight, "norm2.bias": own.norm_mlp.bias,
        })  # fmt: skip
        if gate:
            torch.nn.init.zeros_(own.gate.weight)
            torch.nn.init.constant_(own.gate.bias, 30.0)
        x = torch.randn(5, 4, 12)
        blocked = torch.zeros(5, 4, dtype=torch.bool)
        blocked[:, 2] = True
        found, weights = own(x, blocked, Dropper(None))
        np.testing.assert_allclose(found.detach(), theirs(x, src_key_padding_mask=blocked).detach(), atol=1e-5)
        assert (weights[..., 2] == 0).all() and torch.allclose(weights.sum(-1), torch.ones(5, 3, 4))


def test_rollout_by_hand():
    torch = pytest.importorskip("torch")
    from panmodal.fusion.deep.explain import rollout

    a = torch.tensor([[[0.2, 0.8], [0.0, 1.0]]])
    b = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    eye = torch.eye(2)
    np.testing.assert_allclose(rollout([a, b])[0], ((b[0] + eye) / 2) @ ((a[0] + eye) / 2))


def test_dropped_modalities_never_take_all():
    torch = pytest.importorskip("torch")
    from panmodal.fusion.deep.model import Dropper

    present = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    present[:, 0] |= ~present.any(dim=1)
    kept = Dropper(torch.Generator().manual_seed(1)).modalities(present, 0.8)
    assert kept.any(dim=1).all() and not (kept & ~present).any() and kept.sum() < present.sum()
    assert (Dropper(None).modalities(present, 0.8) == present).all()
    x = torch.ones(100, 100)
    dropped = Dropper(torch.Generator().manual_seed(1))(x, 0.25)
    assert abs(float(dropped.mean()) - 1) < 0.05 and dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_rows_of_labels_stay_labels():
    rows = Rows.of({"A": ContextTargets(np.arange(3), LabelTargets(np.zeros((3, 2), np.int8)))})
    assert rows.classes and not rows_of().classes

import importlib.util
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panmodal.embeddings import encoder_loading
from panmodal.embeddings.builders import _tiny_models as tiny
from panmodal.embeddings.encoder import DEFAULT_LENGTH, Encoder
from panmodal.embeddings.encoder_loading import choose_device, find_model, load_sentence_model
from panmodal.embeddings.encoder_pooling import Pool, take, windows
from panmodal.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

KINDS = ("esm", "bert", "roberta", "t5")
RNG = np.random.default_rng(3)


def draw(letters, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return {f"id{k}": "".join(rng.choice(list(letters), n)) for k, n in enumerate(lengths)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "esm": tiny.tiny_esm(root / "esm"),
        "bert": tiny.tiny_bert(root / "bert"),
        "roberta": tiny.tiny_roberta(root / "roberta"),
        "t5": tiny.tiny_t5(root / "t5"),
    }


@pytest.fixture(scope="module")
def encoders(folders):
    return {kind: Encoder.load(str(folder)) for kind, folder in folders.items()}


def texts_for(kind, lengths=(1, 7, 30, 3, 30, 12), seed=0):
    letters = {"esm": "ACDEFGHIKLMNPQRSTVWY", "bert": "abcdefgh ", "roberta": "CNO()=1", "t5": "CNO()=1"}[kind]
    return {name: text.replace("  ", "a ").strip() or "a" for name, text in draw(letters, lengths, seed).items()}


def alone(encoder, text, layer=-1):
    """States of the tokens of one text, and which of them are special: transformers as its manual uses it."""
    full = encoder.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    plain = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = encoder.model(**full, output_hidden_states=True)
    states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    ids = full["input_ids"][0].tolist()
    start = next(k for k in range(len(ids)) if ids[k : k + len(plain)] == plain)
    return states[0].numpy(), slice(start, start + len(plain))


# Pooling, against one call of transformers for each text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, 0, 1, -2])
def test_mean_is_that_of_the_tokens_of_each_text_alone(encoders, kind, layer):
    encoder, texts = encoders[kind], texts_for(kind)
    vectors, notes = encoder.encode(texts, layer=layer, batch_tokens=64)
    expected = []
    for text in texts.values():
        states, plain = alone(encoder, text, layer)
        expected.append(states[plain].mean(axis=0))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors.dtype == np.float32 and notes == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [False, True])
def test_other_poolings(encoders, kind, special):
    encoder, texts = encoders[kind], texts_for(kind)
    made = {
        p: encoder.encode(texts, pooling=p, special_tokens=special, batch_tokens=64).vectors
        for p in ("mean", "first", "last", "max")
    }
    for k, text in enumerate(texts.values()):
        states, plain = alone(encoder, text)
        used = states if special else states[plain]
        for pooling, expected in {
            "mean": used.mean(axis=0), "first": states[0], "last": states[-1], "max": used.max(axis=0)
        }.items():  # fmt: skip
            np.testing.assert_allclose(made[pooling][k], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batches_nor_order_matter(encoders, kind):
    encoder, texts = encoders[kind], texts_for(kind, range(1, 40))
    once = encoder.encode(texts).vectors
    turned = dict(reversed(texts.items()))
    np.testing.assert_array_equal(encoder.encode(turned).vectors[::-1], once)
    for budget in (1, 50, 333):
        np.testing.assert_allclose(encoder.encode(texts, batch_tokens=budget).vectors, once, atol=1e-5)
    few = {name: texts[name] for name in list(texts)[3:9]}
    np.testing.assert_allclose(encoder.encode(few).vectors, once[3:9], atol=1e-5)


def test_equal_texts_are_encoded_once(encoders):
    calls = []
    encoders["esm"].encode(
        {"a": "MKV", "b": "MKV", "c": "MKVA"}, progress=lambda done, all_: calls.append((done, all_))
    )
    assert calls == [(2, 2)]


# Windows


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_windows_cover_each_token_with_the_fewest_windows(size, room, data):
    overlap = data.draw(st.integers(0, room - 1))
    made = list(windows(0, size, room, overlap))
    assert made[0].start == 0 and made[-1].stop == size and {w.of for w in made} == {len(made)}
    assert all(w.stop - w.start == min(room, size) for w in made)
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(made))
    if len(made) > 1:  # one window fewer could not do it
        assert (len(made) - 1) * (room - overlap) + overlap < size


@settings(deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(2, 20), st.booleans(), st.integers(0, 2))
def test_weights_of_a_text_add_up_to_one(sizes, room, special, extra):
    tokens = [np.arange(n) for n in sizes]
    plan = [w for k, n in enumerate(sizes) for w in windows(k, n, room, room // 2)]
    pool = Pool("mean", special, [0] * extra, [1], tokens, plan)
    totals = np.zeros(len(sizes))
    each = [np.zeros(n) for n in sizes]
    for window in plan:
        weights = pool.weights(window)
        totals[window.owner] += weights.sum()
        each[window.owner][window.start : window.stop] += weights[extra:-1]
    np.testing.assert_allclose(totals, 1.0)
    for row in each:
        np.testing.assert_allclose(row, row[0])


def test_windows_change_nothing_where_tokens_do_not_see_each_other(encoders):
    texts = texts_for("esm", (200, 33, 5))
    whole = encoders["esm"].encode(texts, layer=0).vectors
    for window, overlap in ((20, 0), (20, 7), (9, 6), (202, None)):
        parts = encoders["esm"].encode(texts, layer=0, window=window, overlap=overlap).vectors
        np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "max"])
def test_windows_are_the_formula(encoders, pooling):
    encoder, text = encoders["esm"], texts_for("esm", (61,))["id0"]
    made, notes = encoder.encode({"x": text}, pooling=pooling, window=22, overlap=5)
    assert "1 of 1 texts ('x') are longer than 20 tokens" in notes[0] and "share 5" in notes[0]
    sums, counts, firsts, lasts, tops = np.zeros((61, 16)), np.zeros(61), [], [], []
    for start in (0, 13, 27, 41):
        states, plain = alone(encoder, text[start : start + 20])
        sums[start : start + 20] += states[plain]
        counts[start : start + 20] += 1
        firsts.append(states[0])
        lasts.append(states[-1])
        tops.append(states[plain].max(axis=0))
    expected = {
        "mean": (sums / counts[:, None]).mean(axis=0), "first": np.mean(firsts, axis=0), "last": np.mean(lasts, axis=0),
        "max": np.max(tops, axis=0),
    }  # fmt: skip
    np.testing.assert_allclose(made[0], expected[pooling], atol=1e-5)


def test_long_texts_are_cut_or_refused_when_asked(encoders):
    text = texts_for("esm", (61,))["id0"]
    made, notes = encoders["esm"].encode({"x": text}, window=22, long="cut")
    np.testing.assert_allclose(made, encoders["esm"].encode({"x": text[:20]}).vectors, atol=1e-6)
    assert "cut" in notes[0]
    with pytest.raises(InputError, match="'x' exceed the window of 20 tokens"):
        encoders["esm"].encode({"x": text}, window=22, long="refuse")


def test_longest_inputs(folders, encoders):
    # RoBERTa and ESM count positions from padding_idx + 1 = 2.
    assert {kind: e.max_length for kind, e in encoders.items()} == {"esm": 1024, "bert": 512, "roberta": 512, "t5": 512}
    assert {kind: e.positions for kind, e in encoders.items()} == {"esm": None, "bert": 512, "roberta": 512, "t5": None}
    for kind in ("bert", "roberta"):
        text = {"x": "C " * 510 if kind == "bert" else "C" * 510}
        encoders[kind].encode(text, window=512)
        with pytest.raises(InputError, match="inputs of 513 tokens are not possible; it has positions for 512"):
            encoders[kind].encode(text, window=513)
        with pytest.raises(InputError, match="positions for 512"):
            Encoder.load(str(folders[kind]), max_length=600)
    encoders["esm"].encode({"x": "M" * 1500}, window=1502)
    assert Encoder.load(str(folders["t5"]), max_length=64).max_length == 64


def test_a_model_that_names_no_limit(tmp_path):
    assert Encoder.load(str(tiny.tiny_t5(tmp_path / "t5", model_max_length=10**30))).max_length == DEFAULT_LENGTH
    assert Encoder.load(str(tiny.tiny_bert(tmp_path / "bert", model_max_length=100))).max_length == 100


# What is refused


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        ({}, {}, "no texts"),
        ({"a": "MK", "b": "  "}, {}, "texts of 'b' are empty"),
        ({"a": "MK"}, {"pooling": "median"}, "median"),
        ({"a": "MK"}, {"long": "wide"}, "wide"),
        ({"a": "MK"}, {"batch_tokens": 0}, "batch_tokens"),
        ({"a": "MK"}, {"layer": 3}, "no layer 3; it has layers 0 .* to 2"),
        ({"a": "MK"}, {"layer": -4}, "no layer -4"),
        ({"a": "MK"}, {"window": 2}, "windows of 2 tokens, 2 of them special"),
        ({"a": "MK"}, {"window": 10, "overlap": 8}, "cannot overlap by 8"),
        ({"a": "MK"}, {"window": 10, "overlap": -1}, "overlap by -1"),
        ({"a": "MK"}, {"window": 0}, "0 tokens"),
        ({"a": "123456"}, {}, "does not know 100% of the tokens"),
    ],
)
def test_what_cannot_be_encoded(encoders, texts, options, match):
    with pytest.raises(InputError, match=match):
        encoders["esm"].encode(texts, **options)


def test_unknown_tokens_are_noted(encoders):
    _, notes = encoders["esm"].encode({"a": "MKV1AAAA"})
    assert notes == ("12.5% of the tokens are unknown to the tokenizer",)


def test_texts_without_tokens_are_named(tmp_path):
    folder = tiny.tiny_bert(tmp_path / "bert")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": "zz"}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match="no tokens in the texts of 'b'"):
        Encoder.load(str(folder)).encode({"a": "cell", "b": "zz"})


def test_tokenizer_of_another_model(folders, tmp_path):
    mixed = shutil.copytree(folders["esm"], tmp_path / "mixed")
    (mixed / "vocab.txt").write_text("\n".join([*(mixed / "vocab.txt").read_text().splitlines(), "1"]))
    with pytest.raises(InputError, match="do not belong together"):
        Encoder.load(str(mixed)).encode({"a": "M11"})


# Loading


def test_loading_is_quiet_in_evaluation_mode_and_leaves_random_numbers_alone(folders, capfd):
    before = torch.random.get_rng_state()
    level = transformers.utils.logging.get_verbosity()
    encoder = Encoder.load(str(folders["t5"]))
    encoder.encode({"a": "CCO" * 300})
    assert capfd.readouterr() == ("", "")
    assert not encoder.model.training and not any("decoder" in name for name, _ in encoder.model.named_parameters())
    assert transformers.utils.logging.get_verbosity() == level
    assert torch.equal(before, torch.random.get_rng_state())


def test_digest_is_of_the_content(folders, tmp_path):
    one = find_model(str(folders["bert"]))
    copy = shutil.copytree(folders["bert"], tmp_path / "elsewhere")
    (copy / "README.md").write_text("notes")
    assert find_model(str(copy)).digest == one.digest and one.digest.startswith("sha256:") and one.commit == ""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert find_model(str(copy)).digest != one.digest
    assert find_model(str(tiny.tiny_bert(tmp_path / "other", seed=1))).digest != one.digest
    assert find_model(str(tiny.tiny_bert(tmp_path / "same"))).digest == one.digest


def test_pickled_weights_only_when_allowed(folders, tmp_path):
    folder = shutil.copytree(folders["esm"], tmp_path / "pickled")
    plain = Encoder.load(str(folder))
    torch.save(plain.model.state_dict(), folder / "pytorch_model.bin")
    assert not find_model(str(folder), allow_pickle=True).pickled  # safetensors go first
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights in the safetensors format.*allow_pickle"):
        Encoder.load(str(folder))
    texts = texts_for("esm")
    loaded = Encoder.load(str(folder), allow_pickle=True)
    np.testing.assert_array_equal(loaded.encode(texts).vectors, plain.encode(texts).vectors)
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(InputError, match="transformers cannot load it"):
        Encoder.load(str(folder), allow_pickle=True)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_harmful_pickle_does_not_run(folders, tmp_path):
    folder = shutil.copytree(folders["esm"], tmp_path / "harmful")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Harmful(str(tmp_path / "harm"))}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load it"):
        Encoder.load(str(folder), allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_without_some_weights_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["bert"], tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, folder / "model.safetensors", {"format": "pt"})
    Encoder.load(str(folder))  # no state of a token depends on the pooler
    save_file(
        {k: v for k, v in weights.items() if "layer.1.output" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"lacks weights of BertModel \('encoder.layer.1.output.*would be random"):
        Encoder.load(str(folder))


CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own_type"

class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_only_when_asked(folders, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(folders["bert"], tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_type", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    with pytest.raises(InputError, match="code of its own, which is not run unless"):
        Encoder.load(str(folder))
    texts = texts_for("bert")
    own = Encoder.load(str(folder), trust_remote_code=True)
    assert type(own.model).__name__ == "OwnModel"
    assert own.folder.digest != find_model(str(folder)).digest  # the code counts
    np.testing.assert_array_equal(own.encode(texts).vectors, Encoder.load(str(folders["bert"])).encode(texts).vectors)


def hub_cache(tmp_path, monkeypatch, folder, name="someone/tiny", commit="c0ffee" + "0" * 34):
    """A cache of the hub as huggingface_hub writes it, and no connection."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    place = root / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return commit


def test_a_name_of_the_hub_goes_the_same_way(folders, encoders, tmp_path, monkeypatch):
    commit = hub_cache(tmp_path, monkeypatch, folders["roberta"])
    texts = texts_for("roberta")
    for revision in (None, "main", commit):
        loaded = Encoder.load("someone/tiny", revision=revision)
        assert loaded.folder.commit == commit and loaded.folder.digest == encoders["roberta"].folder.digest
    np.testing.assert_array_equal(loaded.encode(texts).vectors, encoders["roberta"].encode(texts).vectors)
    with pytest.raises(InputError, match=r"'someone/other' cannot be had.*hf download someone/other.*HF_HOME"):
        Encoder.load("someone/other")


@pytest.mark.parametrize(
    ("kind", "match"),
    [("GatedRepoError", "Accept its terms"), ("RepositoryNotFoundError", "check the spelling"),
     ("RevisionNotFoundError", "no revision 'v9'"), ("ConnectTimeout", "hf download")],
)  # fmt: skip
def test_errors_of_the_hub(monkeypatch, kind, match):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise type(kind, (Exception,), {})("no\nway")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=match):
        find_model("someone/tiny", revision="v9")


def test_pickled_weights_of_the_hub_are_fetched_only_when_allowed(folders, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, revision, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        return str(empty)

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    for allow, count in ((False, 1), (True, 2)):
        asked.clear()
        with pytest.raises(InputError, match="safetensors"):
            find_model("someone/tiny", allow_pickle=allow)
        assert len(asked) == count
        assert [any("bin" in p for p in patterns) for patterns in asked] == [False, True][:count]
        assert not any("py" in p.split(".")[-1] for patterns in asked for p in patterns)


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "~/there", "a/b/c", " "])
def test_folders_that_are_not_there(name):
    with pytest.raises(InputError, match="no such folder"):
        find_model(name)


def test_folders_that_are_no_model(folders, tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        find_model(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        find_model(str(folders["bert"] / "config.json"))
    with pytest.raises(InputError, match="no revisions"):
        find_model(str(folders["bert"]), revision="main")
    broken = shutil.copytree(folders["bert"], tmp_path / "broken")
    (broken / "config.json").write_text("{")
    with pytest.raises(InputError, match="transformers cannot load it"):
        Encoder.load(str(broken))


def test_tokenizers_of_sentencepiece_name_what_reads_them(folders, tmp_path):
    folder = shutil.copytree(folders["t5"], tmp_path / "pieces")
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"no such model")
    with pytest.raises(InputError, match="pip install sentencepiece protobuf"):
        Encoder.load(str(folder))


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(InputError, match=r"'transformers', which is not installed: pip install 'panmodal\[models\]'"):
        find_model("someone/tiny")


# Devices and memory


def test_devices(folders, monkeypatch):
    assert str(choose_device("cpu")) == "cpu"
    assert str(choose_device("auto")) in ("cpu", "cuda", "mps")
    for device, dtype, match in (
        ("gpu", "float32", "cannot be used here"), ("cpu", "float16", "for GPUs"), ("cpu", "int8", "must be float32"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            choose_device(device, dtype)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' cannot be used here"):
            choose_device("cuda")


def test_half_precision_is_close(folders, encoders):
    texts = texts_for("esm")
    half = Encoder.load(str(folders["esm"]), dtype="bfloat16").encode(texts).vectors
    full = encoders["esm"].encode(texts).vectors
    assert half.dtype == np.float32 and 0 < np.abs(half - full).max() < 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_gives_the_same(folders, encoders, kind):
    texts = texts_for(kind, range(1, 40))
    found = Encoder.load(str(folders[kind]), device="cuda").encode(texts, window=20).vectors
    np.testing.assert_allclose(found, encoders[kind].encode(texts, window=20).vectors, atol=1e-3)


class Small(torch.nn.Module):
    """A model on a device with room for so many tokens."""

    def __init__(self, model, room):
        super().__init__()
        self.inner, self.room, self.config, self.sizes = model, room, model.config, []

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        self.sizes.append(input_ids.numel())
        if input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def with_model(encoder, model):
    return Encoder(encoder.folder, encoder.tokenizer, model, encoder.device, encoder.max_length, encoder.positions)


def test_smaller_batches_when_memory_runs_out(encoders):
    texts = texts_for("esm", [30] * 20 + [10] * 20)
    small = Small(encoders["esm"].model, 100)
    calls = []
    made = with_model(encoders["esm"], small).encode(texts, progress=lambda *now: calls.append(now)).vectors
    np.testing.assert_allclose(made, encoders["esm"].encode(texts).vectors, atol=1e-5)
    assert sum(size > 100 for size in small.sizes) <= 5 and calls[-1] == (40, 40)
    with pytest.raises(InputError, match="not enough memory on cpu for one input of 32 tokens"):
        with_model(encoders["esm"], Small(encoders["esm"].model, 20)).encode(texts)


def test_other_errors_of_the_model_are_not_hidden(encoders):
    def fail(**kwargs):
        raise RuntimeError("a bug")

    model = SimpleNamespace(config=encoders["esm"].model.config, forward=fail, get_input_embeddings=encoders["esm"].model.get_input_embeddings)  # fmt: skip

    class Failing(SimpleNamespace):
        def __call__(self, **kwargs):
            return self.forward(**kwargs)

    with pytest.raises(RuntimeError, match="a bug"):
        with_model(encoders["esm"], Failing(**vars(model))).encode({"a": "MK"})


# Models of other shapes


class Unmasked(torch.nn.Module):
    """Takes no mask, gives a tuple, and would mix padding in."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, input_ids):
        return (self.inner(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state,)


def test_models_without_a_mask_see_no_padding(encoders):
    texts = texts_for("esm", [3, 9, 3, 17, 9, 3])
    made = with_model(encoders["esm"], Unmasked(encoders["esm"].model)).encode(texts).vectors
    np.testing.assert_allclose(made, encoders["esm"].encode(texts).vectors, atol=1e-5)
    with pytest.raises((InputError, TypeError)):
        with_model(encoders["esm"], Unmasked(encoders["esm"].model)).encode(texts, layer=1)


def test_states_of_another_shape_are_refused(encoders):
    class Flat(Unmasked):
        def forward(self, input_ids):
            return (torch.zeros(len(input_ids), 4),)

    with pytest.raises(InputError, match="does not return one state for each token"):
        with_model(encoders["esm"], Flat(encoders["esm"].model)).encode({"a": "MK"})


def test_take_never_takes_nothing():
    plan = sorted((w for k, n in enumerate([5, 5, 3]) for w in windows(k, n, 10, 0)), key=lambda w: w.start - w.stop)
    assert len(take(plan, 0, 1, 2, same_length=False)) == 1
    assert len(take(plan, 0, 14, 2, same_length=False)) == 2
    assert len(take(plan, 0, 100, 2, same_length=False)) == 3
    assert len(take(plan, 0, 100, 2, same_length=True)) == 2


def test_a_causal_model_without_padding_token(tmp_path, folders):
    from transformers import AutoTokenizer, GPT2Config, GPT2Model, PreTrainedTokenizerFast

    base = AutoTokenizer.from_pretrained(folders["roberta"])
    folder = tmp_path / "gpt"
    backend = base.backend_tokenizer
    from tokenizers import processors

    backend.post_processor = processors.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(base), n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    GPT2Model(config).save_pretrained(folder)
    encoder = Encoder.load(str(folder))
    assert encoder.max_length == encoder.positions == 40 and encoder.tokenizer.pad_token_id is None
    texts = texts_for("roberta")
    made = encoder.encode(texts, pooling="last", batch_tokens=100).vectors
    for k, text in enumerate(texts.values()):
        np.testing.assert_allclose(made[k], alone(encoder, text)[0][-1], atol=1e-5)


def test_sentence_models(tmp_path, folders, monkeypatch):
    pytest.importorskip("sentence_transformers")
    folder = tiny.tiny_sentence_model(tmp_path / "sentences")
    model = load_sentence_model(find_model(str(folder)), "cpu", None)
    texts = texts_for("bert", [3, 20, 11])
    found = Encoder.load(str(folder)).encode(texts, special_tokens=True).vectors
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, model.encode(list(texts.values())), atol=1e-5)
    with pytest.raises(InputError, match=r"no modules\.json.*text-model"):
        load_sentence_model(find_model(str(folders["bert"])), "cpu", None)
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(InputError, match="sentence-transformers cannot load it"):
        load_sentence_model(find_model(str(folder)), "cpu", None)


def test_encoder_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; import panmodal.embeddings.encoder, panmodal.embeddings.endpoint;"
        "from panmodal.embeddings.builders import builders; builders();"
        "bad = {'torch', 'transformers', 'sentence_transformers', 'tokenizers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert encoder_loading.SPARE_WEIGHTS

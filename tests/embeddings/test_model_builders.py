import json
import shutil
from itertools import product

import numpy as np
import pytest

from panmodal.embeddings.builders import _tiny_models as tiny
from panmodal.embeddings.builders import dna_model, get_builder, protein_model
from panmodal.embeddings.encoder import Encoder
from panmodal.errors import InputError

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = ("text-model", "sentence-model", "text-endpoint", "protein-model", "dna-model", "smiles-model")
MODELS = tuple(name for name in NAMES if name != "text-endpoint")


def build(name, options, **more):
    return get_builder(name).function(**{**options, **more})


def skip_if_missing(name):
    missing = get_builder(name).missing()
    if missing:
        pytest.skip(f"{name} needs {missing}")


def fasta(path, records):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_examples(name, tmp_path):
    skip_if_missing(name)
    record = get_builder(name)
    assert all(option.help for option in record.options.values())
    options = record.example(tmp_path)
    calls = []
    made = build(name, options, progress=lambda *now: calls.append(now))
    assert calls and calls[-1][0] == calls[-1][1]
    assert made.vectors.dtype == np.float32 and len(made.ids) == len(set(made.ids)) == len(made.vectors) >= 12
    assert np.ptp(made.vectors, axis=0).min() > 1e-3 and made.left_out
    (digest,) = made.models.values()
    assert digest.startswith("sha256:") or name == "text-endpoint"
    again = build(name, options)
    np.testing.assert_array_equal(again.vectors, made.vectors)
    assert again.models == made.models
    # A model is the same when it is made again elsewhere.
    other = tmp_path / "other"
    other.mkdir()
    moved = build(name, record.example(other))
    np.testing.assert_array_equal(moved.vectors, made.vectors)


@pytest.mark.parametrize("name", NAMES)
def test_only_wanted_ids_are_encoded(name, tmp_path):
    skip_if_missing(name)
    options = get_builder(name).example(tmp_path)
    everything = build(name, options)
    wanted = list(everything.ids)[3:9]
    calls = []
    some = build(name, options, ids=[*wanted, "nothing"], progress=lambda *now: calls.append(now))
    assert set(some.ids) == set(wanted)
    rows = [list(everything.ids).index(i) for i in some.ids]
    np.testing.assert_allclose(some.vectors, everything.vectors[rows], atol=1e-5)
    with pytest.raises(InputError, match="wanted"):
        build(name, options, ids=["nothing at all"])


@pytest.mark.parametrize("name", [n for n in MODELS if n != "sentence-model"])
def test_options_reach_the_encoder(name, tmp_path):
    options = get_builder(name).example(tmp_path)
    base = build(name, options).vectors
    for change in ({"pooling": "first"}, {"layer": 1}, {"window": 20, "overlap": 2}, {"dtype": "bfloat16"}):
        assert not np.array_equal(build(name, options, **change).vectors, base), change
    np.testing.assert_allclose(build(name, options, batch_tokens=40).vectors, base, atol=1e-5)
    for change, match in (
        ({"device": "abacus"}, "abacus"), ({"layer": 9}, "no layer 9"), ({"revision": "v1"}, "no revisions"),
        ({"model": "/no/such"}, "no such folder"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            build(name, options, **change)


@pytest.mark.parametrize("name", MODELS)
def test_pickled_weights_are_an_option(name, tmp_path):
    import torch
    from safetensors.torch import load_file

    skip_if_missing(name)
    options = get_builder(name).example(tmp_path)
    base = build(name, options).vectors
    weights = next(tmp_path.rglob("model.safetensors"))
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(InputError, match="allow_pickle"):
        build(name, options)
    np.testing.assert_array_equal(build(name, options, allow_pickle=True).vectors, base)


# Proteins


def protein_tokenizers(root):
    """One tokenizer of each kind, and whether it wants spaces between residues."""
    bert = tiny.tiny_bert(root / "protbert", words=tiny.RESIDUES)
    t5 = tiny.tiny_t5(root / "prott5", letters=tiny.RESIDUES, spaced=True)
    return {"esm": (tiny.tiny_esm(root / "esm"), False), "protbert": (bert, True), "prott5": (t5, True)}


def test_spelling_of_proteins(tmp_path):
    path = fasta(tmp_path / "p.fa", {"A": "MKVLAAGGWY", "B": "MUKVZ", "C": "MKJV"})
    for name, (folder, spaced) in protein_tokenizers(tmp_path).items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        assert protein_model.wants_spaces(tokenizer) is spaced, name
        made = build("protein-model", {"fasta": path, "model": str(folder)})
        assert any("with spaces" in note for note in made.notes) is spaced
        letters = "U, Z, O, B, J" if spaced else "J"
        assert any(
            f"rare residues ({letters}) were read as X in {2 if spaced else 1} of 3" in note for note in made.notes
        )
        x = {"A": "MKVLAAGGWY", "B": "MXKVX" if spaced else "MUKVZ", "C": "MKXV"}
        texts = {k: " ".join(v) if spaced else v for k, v in x.items()}
        np.testing.assert_array_equal(made.vectors, Encoder.load(str(folder)).encode(texts).vectors)
        if name == "esm":
            np.testing.assert_array_equal(
                build("protein-model", {"fasta": path, "model": str(folder)}, rare="X").vectors,
                Encoder.load(str(folder)).encode({"A": "MKVLAAGGWY", "B": "MXKVX", "C": "MKXV"}).vectors,
            )
            kept = build("protein-model", {"fasta": path, "model": str(folder)}, rare="keep")
            assert not any("rare" in note for note in kept.notes) and any("unknown" in note for note in kept.notes)
        if name == "protbert":
            with pytest.raises(InputError, match="does not know 100% of the tokens"):
                build("protein-model", {"fasta": path, "model": str(folder)}, spelling="plain")


def test_stop_codons(tmp_path):
    folder = str(tiny.tiny_esm(tmp_path / "esm"))
    path = fasta(tmp_path / "p.fa", {"A": "MKV*", "B": "MK*V"})
    made = build("protein-model", {"fasta": path, "model": folder})
    assert list(made.ids) == ["A"] and "stop codon" in made.left_out["B"]
    np.testing.assert_array_equal(made.vectors, Encoder.load(folder).encode({"A": "MKV"}).vectors)
    with pytest.raises(InputError, match="without stop codon"):
        build("protein-model", {"fasta": fasta(tmp_path / "q.fa", {"B": "MK*V"}), "model": folder})


def test_proteins_given_to_a_model_of_dna(tmp_path):
    folder = tiny.tiny_esm(tmp_path / "dna", letters=["".join(w) for w in product("ACGT", repeat=3)])
    path = fasta(tmp_path / "p.fa", {"A": "MKVLAWWYRHE"})
    with pytest.raises(InputError, match="Is it a model of such input"):
        build("protein-model", {"fasta": path, "model": str(folder)})


# DNA


@pytest.fixture
def promoters(tmp_path):
    rng = np.random.default_rng(5)
    made = {f"G{k}": "".join(rng.choice(list("ACGT"), 40 + k)) for k in range(4)}
    return made | {"low": made["G0"].lower(), "codes": "ACGTRYACGTACGT", "vague": "ACGT" + "N" * 20, "tiny": "AC"}


def test_tokens_of_dna(tmp_path, promoters):
    path = fasta(tmp_path / "d.fa", promoters)
    words = ["".join(w) for w in product("ACGT", repeat=3)]
    plain = tiny.tiny_esm(tmp_path / "nt", letters=[*words, *"ACGTN"])
    kmers = tiny.tiny_bert(tmp_path / "dnabert", words=words)
    sizes = {f: dna_model.kmer_size(transformers.AutoTokenizer.from_pretrained(f)) for f in (plain, kmers)}
    assert list(sizes.values()) == [0, 3]
    made = build("dna-model", {"fasta": path, "model": str(plain)})
    assert set(made.left_out) == {"vague"} and "more than 50% of its sequence is N" in made.left_out["vague"]
    row = dict(zip(made.ids, made.vectors, strict=True))
    np.testing.assert_array_equal(row["low"], row["G0"])
    expected = Encoder.load(str(plain)).encode({"c": "ACGTNNACGTACGT"}).vectors[0]
    np.testing.assert_allclose(row["codes"], expected, atol=1e-5)
    assert any("read as N in 1 of 8" in note for note in made.notes)
    made = build("dna-model", {"fasta": path, "model": str(kmers)})
    assert set(made.left_out) == {"vague", "tiny"} and any("overlapping words of 3" in note for note in made.notes)
    expected = Encoder.load(str(kmers)).encode({"c": dna_model.words(promoters["G1"], 3)}).vectors[0]
    np.testing.assert_allclose(dict(zip(made.ids, made.vectors, strict=True))["G1"], expected, atol=1e-5)
    with pytest.raises(InputError, match="does not know 100%"):
        build("dna-model", {"fasta": path, "model": str(kmers)}, kmer=0)


def test_both_strands(tmp_path, promoters):
    assert dna_model.reverse_complement("AACGTN") == "NACGTT"
    folder = str(tiny.tiny_esm(tmp_path / "dna", letters="ACGTN"))
    chosen = {name: promoters[name] for name in ("G0", "G1")}
    options = {"fasta": fasta(tmp_path / "d.fa", chosen), "model": folder}
    turned = {name: dna_model.reverse_complement(s) for name, s in chosen.items()}
    one = build("dna-model", options).vectors
    other = build("dna-model", options, fasta=fasta(tmp_path / "r.fa", turned)).vectors
    both = build("dna-model", options, strands="both")
    np.testing.assert_allclose(both.vectors, (one + other) / 2, atol=1e-6)
    assert any("both strands" in note for note in both.notes)


@pytest.mark.parametrize("change", [{"kmer": -1}, {"max_unknown": 1.0}, {"max_unknown": -0.1}])
def test_options_of_dna(tmp_path, promoters, change):
    options = {"fasta": fasta(tmp_path / "d.fa", promoters), "model": "none/none"}
    with pytest.raises(InputError, match=next(iter(change))):
        build("dna-model", options, **change)


# SMILES


def test_spelling_of_smiles(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "c.csv"
    path.write_text("compound,smiles\na,OCC\nb,CCO\nsalt,[Na+].CCC(=O)[O-]\nacid,CCC(=O)O\nbad,C1CC\n")
    options = {"compounds": path, "model": str(tiny.tiny_t5(tmp_path / "molt5"))}
    rows = {}
    for spelling in ("canonical", "parent", "written"):
        made = build("smiles-model", options, spelling=spelling)
        rows[spelling] = dict(zip(made.ids, made.vectors, strict=True))
        assert ("bad" in made.left_out) is (spelling != "written")
    assert np.array_equal(rows["canonical"]["a"], rows["canonical"]["b"])
    assert not np.array_equal(rows["written"]["a"], rows["written"]["b"])
    assert np.array_equal(rows["parent"]["salt"], rows["parent"]["acid"])
    assert not np.array_equal(rows["canonical"]["salt"], rows["canonical"]["acid"])


def test_canonical_smiles_need_rdkit(tmp_path, monkeypatch):
    from panmodal.identifiers import structures

    options = get_builder("smiles-model").example(tmp_path)
    monkeypatch.setattr(structures, "has_rdkit", lambda: False)
    with pytest.raises(InputError, match="spelling written"):
        build("smiles-model", options, spelling="canonical")


# Texts


def test_prefix_and_columns(tmp_path):
    folder = str(tiny.tiny_bert(tmp_path / "bert"))
    table = tmp_path / "t.csv"
    table.write_text("gene,about\nA,a kinase\nB,a pump\n")
    options = {"texts": table, "model": folder, "id_col": "gene", "text_col": "about"}
    made = build("text-model", options, prefix="passage: ")
    expected = (
        Encoder.load(folder).encode({"A": "passage: a kinase", "B": "passage: a pump"}, special_tokens=True).vectors
    )
    np.testing.assert_array_equal(made.vectors, expected)
    assert made.card["description"] == "texts read by a transformer, model bert"


def test_sentence_models_are_those_of_the_package(tmp_path):
    package = pytest.importorskip("sentence_transformers")
    options = get_builder("sentence-model").example(tmp_path)
    texts = {k: v for k, v in json.loads(options["texts"].read_text()).items() if v}
    made = build("sentence-model", options)
    model = package.SentenceTransformer(options["model"], device="cpu")
    np.testing.assert_allclose(made.vectors, model.encode([texts[i] for i in made.ids]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(build("sentence-model", options, batch=3).vectors, made.vectors, atol=1e-5)
    assert build("sentence-model", options, dims=4).vectors.shape[1] == 4
    assert made.notes == ()
    short = tiny.tiny_sentence_model(tmp_path / "short", length=20)
    cut = build("sentence-model", options, model=str(short))
    assert "were cut after 20 tokens" in cut.notes[0]


def test_prompts_of_sentence_models(tmp_path):
    pytest.importorskip("sentence_transformers")
    options = get_builder("sentence-model").example(tmp_path)
    folder = tmp_path / "prompts"
    shutil.copytree(options["model"], folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"passage": "passage: "}}))
    made = build("sentence-model", options, model=str(folder), prompt_name="passage")
    np.testing.assert_allclose(made.vectors, build("sentence-model", options, prefix="passage: ").vectors, atol=1e-5)
    with pytest.raises(InputError, match=r"no prompt 'question'; it names .*passage"):
        build("sentence-model", options, model=str(folder), prompt_name="question")
    with pytest.raises(InputError, match="batch is 0"):
        build("sentence-model", options, batch=0)


def test_endpoint_says_where_the_texts_went(tmp_path):
    options = get_builder("text-endpoint").example(tmp_path)
    made = build("text-endpoint", options)
    assert (
        "names its model 'letters' (3 requests, 20 tokens)" in made.notes[0]
        and "need not answer twice" in made.notes[1]
    )
    assert made.card["url"].endswith("/v1/embeddings") and "sent" in get_builder("text-endpoint").options["url"].help

"""Tiny transformers with random weights, saved to disk: for the examples of builders, which load them like any other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from panmodal.embeddings.encoder_loading import quiet

RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO"
SMILES_LETTERS = "CNOPSFIBrclnosp()[]=#@+-/\\123456789H."
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-.,;:()'/"

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def _save(make: Any, folder: Path, seed: int) -> Path:
    """Make a model under a seed, without touching the generator of others, and save it."""
    import torch

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make().eval().save_pretrained(folder)
    return folder


def tiny_esm(folder: Path, *, letters: Iterable[str] = RESIDUES, seed: int = 0, **config: Any) -> Path:
    """Save an ESM-2 (rotary positions) whose tokens are the ``letters``: residues, or k-mers of DNA."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *letters, "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    # vocab_file is named as the files on the hub do.
    length = config.pop("model_max_length", 10**30)
    with quiet():
        tokenizer = transformers.EsmTokenizer(str(folder / "vocab.txt"), model_max_length=length)
        tokenizer.save_pretrained(folder)
    given = {
        **_SIZES, "vocab_size": len(tokens), "pad_token_id": 1, "mask_token_id": len(tokens) - 1, "token_dropout": True,
        "max_position_embeddings": 1026, "position_embedding_type": "rotary", "initializer_range": 0.5, **config,
    }  # fmt: skip
    return _save(lambda: transformers.EsmModel(transformers.EsmConfig(**given)), folder, seed)


def tiny_bert(folder: Path, *, words: Iterable[str] | None = None, seed: int = 0, **config: Any) -> Path:
    """Save a BERT; tokens are letters, or the given whole words."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    plain = [*LETTERS, *(f"##{letter}" for letter in LETTERS)] if words is None else list(words)
    tokens = {token: k for k, token in enumerate([*special, *plain])}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=words is None)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit() if words is not None else pre_tokenizers.BertPreTokenizer()
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    _save_tokenizer(tokenizer, folder, names, config.pop("model_max_length", 512))
    given = {**_SIZES, "vocab_size": len(tokens), "max_position_embeddings": 512, "initializer_range": 0.5, **config}
    return _save(lambda: transformers.BertModel(transformers.BertConfig(**given)), folder, seed)


def tiny_roberta(folder: Path, *, letters: str = SMILES_LETTERS, seed: int = 0, **config: Any) -> Path:
    """Save a RoBERTa whose tokens are bytes, as in ChemBERTa."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = {token: k for k, token in enumerate(dict.fromkeys([*special, *letters]))}
    tokenizer = Tokenizer(models.BPE(tokens, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    _save_tokenizer(
        tokenizer, folder, {**names, "cls_token": "<s>", "sep_token": "</s>"}, config.pop("model_max_length", 512)
    )
    given = {
        **_SIZES, "vocab_size": len(tokens), "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.5, **config,
    }  # fmt: skip
    return _save(lambda: transformers.RobertaModel(transformers.RobertaConfig(**given)), folder, seed)


def tiny_t5(folder: Path, *, letters: str = SMILES_LETTERS, spaced: bool = False, seed: int = 0, **config: Any) -> Path:
    """Save a T5 (encoder and decoder) with unigram tokens: letters as in MolT5, or ``spaced`` residues as in ProtT5."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<unk>"]
    pieces = dict.fromkeys([*special, "▁", *(f"▁{a}" if spaced else a for a in letters)])
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    _save_tokenizer(tokenizer, folder, names, config.pop("model_max_length", 512))
    given = {
        "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": len(pieces), "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0, **config,
    }  # fmt: skip
    return _save(lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**given)), folder, seed)


def tiny_sentence_model(folder: Path, *, pooling: str = "mean", length: int = 64, seed: int = 0) -> Path:
    """Save a BERT with the files of sentence-transformers: pooling and normalisation to length one."""
    tiny_bert(folder, seed=seed)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    listed = [
        {"idx": int(k), "name": k, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for k, path, kind in modules
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length, "do_lower_case": False}))
    for _, path, _kind in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    chosen = {"word_embedding_dimension": 16} | {
        f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens", "max_tokens")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(chosen))
    return folder


def _save_tokenizer(tokenizer: Any, folder: Path, names: dict[str, str], length: int) -> None:
    import transformers

    with quiet():
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=length, **names
        ).save_pretrained(folder)

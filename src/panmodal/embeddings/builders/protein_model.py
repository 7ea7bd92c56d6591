"""Protein language models: a vector for each protein sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from panmodal.embeddings.builders._model_options import (
    NEEDS,
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    Layer,
    LongTexts,
    Model,
    Overlap,
    Pool,
    Revision,
    TrustRemoteCode,
    WindowLength,
    encode_texts,
    load,
)
from panmodal.embeddings.builders.base import Builder, Built, Progress, select
from panmodal.embeddings.encoder import BATCH_TOKENS
from panmodal.embeddings.fasta import sequences_by_id
from panmodal.errors import InputError

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 standard amino acids."""

Spelling = Literal["auto", "spaced", "plain"]


def protein_model(
    *,
    fasta: Annotated[Path, "FASTA of proteins, such as a UniProt or Ensembl proteome"],
    model: Model,
    pooling: Pool = "mean",
    layer: Layer = -1,
    id_field: Annotated[
        Literal["auto", "gene", "accession", "first-word"],
        "what of the header is the id; auto: the gene it names, else the accession",
    ] = "auto",
    pick: Annotated[Literal["longest", "first"], "which of several sequences of an id stands for it"] = "longest",
    spelling: Annotated[
        Spelling, "residues with spaces between them (ProtBERT, ProtT5) or without; auto: as the tokenizer knows them"
    ] = "auto",
    rare: Annotated[
        Literal["auto", "keep", "X"],
        "whether rare residues (U, Z, O, B, J) become X; auto: for spaced models and where the tokenizer does not know them",
    ] = "auto",
    long: LongTexts = "windows",
    window: WindowLength = None,
    overlap: Overlap = None,
    batch_tokens: BatchTokens = BATCH_TOKENS,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Encode proteins with a language model (ESM-2, ProtT5, ...); the mean is over residues, without special tokens."""
    found, left_out, notes = sequences_by_id(fasta, alphabet="protein", id_field=id_field, pick=pick)
    stopped = [name for name, sequence in found.items() if "*" in sequence]
    left_out |= dict.fromkeys(stopped, "a stop codon (*) stands within its sequence")
    chosen = {name: found[name] for name in select(found, ids) if "*" not in found[name]}
    if not chosen:
        raise InputError(f"{fasta}: none of its {len(found)} ids is wanted and has a sequence without stop codon.")
    encoder = load(model, device, dtype, revision, trust_remote_code, allow_pickle)
    texts, told = spell(chosen, encoder.tokenizer, spelling, rare)
    return encode_texts(
        texts, left_out=left_out, notes=[*notes, *told], what="proteins read by a language model", model=encoder,
        pooling=pooling, layer=layer, long=long, window=window, overlap=overlap, batch_tokens=batch_tokens, device=device,
        dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, progress=progress,
    )  # fmt: skip


def spell(sequences: Mapping[str, str], tokenizer: Any, spelling: str, rare: str) -> tuple[dict[str, str], list[str]]:
    """Write sequences as a tokenizer wants them; return them and notes."""
    spaced = wants_spaces(tokenizer) if spelling == "auto" else spelling == "spaced"
    replaced = [
        letter for letter in "UZOBJ"
        if rare == "X" or (rare == "auto" and (spaced or not _known(tokenizer, letter)))
    ]  # fmt: skip
    table = str.maketrans(dict.fromkeys(replaced, "X"))
    notes = ["residues are given to the tokenizer with spaces between them"] if spaced else []
    changed = sum(bool(set(sequence) & set(replaced)) for sequence in sequences.values())
    if changed:
        notes.append(f"rare residues ({', '.join(replaced)}) were read as X in {changed} of {len(sequences)} sequences")
    plain = {name: sequence.translate(table) for name, sequence in sequences.items()}
    return {name: " ".join(text) if spaced else text for name, text in plain.items()}, notes


def wants_spaces(tokenizer: Any) -> bool:
    """Tell whether a tokenizer knows the 20 residues one by one only with spaces between them."""
    return not _one_each(tokenizer, STANDARD, 20) and _one_each(tokenizer, " ".join(STANDARD), 20)


def _one_each(tokenizer: Any, text: str, count: int) -> bool:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(tokens) == len(set(tokens)) == count and tokenizer.unk_token_id not in tokens


def _known(tokenizer: Any, letter: str) -> bool:
    return tokenizer.unk_token_id not in tokenizer(f"A{letter}A", add_special_tokens=False)["input_ids"]


def _example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.builders._tiny_models import tiny_esm

    rng = np.random.default_rng(0)
    lines = []
    for k in range(20):
        sequence = "M" + "".join(rng.choice(list(STANDARD), int(rng.integers(5, 60))))
        lines += [f">sp|P{k:05d}|GENE{k}_HUMAN Protein {k} OS=Homo sapiens OX=9606 GN=GENE{k} PE=1 SV=1", sequence]
    path = folder / "proteins.fasta"
    path.write_text("\n".join([*lines, ">sp|P99999|GENE99_HUMAN OS=Homo sapiens GN=GENE99", "MA*CD"]) + "\n")
    return {"fasta": path, "model": str(tiny_esm(folder / "esm")), "window": 32}


BUILDERS = (
    Builder(
        name="protein-model",
        modality="protein",
        description="protein sequences read by a language model of the user's choice (ESM-2, ProtT5, ...)",
        function=protein_model,
        example=_example,
        citation="Lin et al., Science 2023 (ESM-2); Elnaggar et al., IEEE TPAMI 2022 (ProtTrans)",
        url="https://huggingface.co/facebook/esm2_t33_650M_UR50D",
        extra="models",
        needs=NEEDS,
    ),
)
"""Records of this module."""

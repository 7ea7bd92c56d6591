"""DNA language models: a vector for the promoter (or any other window) of each gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
TO_N = str.maketrans(dict.fromkeys("RYSWKMBDHV", "N"))
PROBE = "ACGTTGCAAGGCTTACGATC"
KMERS = range(3, 9)
"""Lengths of overlapping words that are tried."""


def dna_model(
    *,
    fasta: Annotated[
        Path,
        "FASTA with one window of DNA for each gene, such as 1000 bases around its start of transcription (bedtools "
        "getfasta -s -name cuts them from a genome: strand of the gene, id in the header)",
    ],
    model: Model,
    pooling: Pool = "mean",
    layer: Layer = -1,
    id_field: Annotated[
        Literal["auto", "gene", "accession", "first-word"],
        "what of the header is the id; auto: the gene it names, else the accession",
    ] = "auto",
    pick: Annotated[Literal["longest", "first"], "which of several sequences of an id stands for it"] = "longest",
    strands: Annotated[
        Literal["given", "both"], "the strand as given, or the mean of it and its reverse complement"
    ] = "given",
    kmer: Annotated[
        int | None,
        "write DNA as overlapping words of this length with spaces between (DNABERT); 0: never (default: as needed)",
    ] = None,
    max_unknown: Annotated[float, "sequences with more than this share of N (0 to 1) get no vector"] = 0.5,
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
    """Encode windows of DNA with a language model (Nucleotide Transformer, DNABERT, HyenaDNA, ...)."""
    if not 0 <= max_unknown < 1:
        raise InputError(f"max_unknown is {max_unknown:g}; it must be at least 0 and below 1.")
    if kmer is not None and kmer < 0:
        raise InputError(f"kmer is {kmer}; it must be 0 or more.")
    found, left_out, told = sequences_by_id(fasta, alphabet="dna", id_field=id_field, pick=pick)
    notes = list(told)
    ambiguous = sum(bool(set(sequence) - set("ACGTN")) for sequence in found.values())
    if ambiguous:
        notes.append(f"letters other than A, C, G, T were read as N in {ambiguous} of {len(found)} sequences")
    found = {name: sequence.translate(TO_N) for name, sequence in found.items()}
    vague = {name for name, sequence in found.items() if sequence.count("N") > max_unknown * len(sequence)}
    left_out |= {name: f"more than {max_unknown:.0%} of its sequence is N" for name in found if name in vague}
    encoder = load(model, device, dtype, revision, trust_remote_code, allow_pickle)
    size = kmer_size(encoder.tokenizer) if kmer is None else kmer
    if size:
        notes.append(f"DNA is given to the tokenizer as overlapping words of {size} bases")
    short = {name for name, sequence in found.items() if len(sequence) < size}
    left_out |= dict.fromkeys(sorted(short), f"its sequence is shorter than {size} bases")
    chosen = {name: found[name] for name in select(found, ids) if name not in vague | short}
    if not chosen:
        raise InputError(f"{fasta}: none of its {len(found)} ids is wanted and has a sequence that can be read.")

    def encode(turned: bool) -> Built:
        texts = {name: words(reverse_complement(s) if turned else s, size) for name, s in chosen.items()}
        return encode_texts(
            texts, left_out=left_out, notes=notes, what="DNA read by a language model", model=encoder, pooling=pooling,
            layer=layer, long=long, window=window, overlap=overlap, batch_tokens=batch_tokens, device=device, dtype=dtype,
            revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, progress=progress,
        )  # fmt: skip

    built = encode(False)
    if strands == "given":
        return built
    other = encode(True)
    every = tuple(dict.fromkeys([*built.notes, *other.notes, "vectors are means over both strands"]))
    return replace(built, vectors=(built.vectors + other.vectors) / np.float32(2), notes=every)


def reverse_complement(sequence: str) -> str:
    """Return the other strand of a sequence of A, C, G, T and N, read in its own direction."""
    return sequence.translate(COMPLEMENT)[::-1]


def words(sequence: str, size: int) -> str:
    """Write a sequence as overlapping words with spaces between them; as it is with size 0."""
    return " ".join(sequence[k : k + size] for k in range(len(sequence) - size + 1)) if size else sequence


def kmer_size(tokenizer: Any) -> int:
    """Return the length of the overlapping words that a tokenizer wants; 0 if it reads plain DNA."""

    def unknown(text: str) -> bool:
        return tokenizer.unk_token_id in tokenizer(text, add_special_tokens=False)["input_ids"]

    def whole(size: int) -> bool:
        text = words(PROBE, size)
        return (
            not unknown(text) and len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(PROBE) - size + 1
        )

    if tokenizer.unk_token_id is None or not unknown(PROBE):
        return 0
    return next((size for size in KMERS if whole(size)), 0)


def _example(folder: Path) -> dict[str, Any]:
    from itertools import product

    from panmodal.embeddings.builders._tiny_models import tiny_esm

    rng = np.random.default_rng(0)
    lines = []
    for k in range(20):
        lines += [f">GENE{k}", "".join(rng.choice(list("ACGT"), 240 if k else 245))]
    path = folder / "promoters.fa"
    path.write_text("\n".join([*lines, ">GENE99", "N" * 120]) + "\n")
    letters = [*("".join(word) for word in product("ACGT", repeat=3)), *"ACGTN"]
    made = tiny_esm(folder / "dna", letters=letters, position_embedding_type="absolute", max_position_embeddings=66)
    return {"fasta": path, "model": str(made), "strands": "both"}


BUILDERS = (
    Builder(
        name="dna-model",
        modality="DNA",
        description="promoters (or other DNA) read by a language model of the user's choice",
        function=dna_model,
        example=_example,
        citation="Dalla-Torre et al., Nature Methods 2025 (Nucleotide Transformer); Ji et al., Bioinformatics 2021 (DNABERT)",
        url="https://huggingface.co/InstaDeepAI/nucleotide-transformer-500m-human-ref",
        extra="models",
        needs=NEEDS,
    ),
)
"""Records of this module."""

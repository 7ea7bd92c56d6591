"""Options that the builders with transformers share, and the one way from texts to what a builder returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from panmodal.embeddings.builders.base import Built, Progress
from panmodal.embeddings.encoder import Encoder, Long, Pooling

NEEDS = ("torch", "transformers")

Model = Annotated[
    str, "folder of the model (as save_pretrained writes it), or its name on the Hugging Face Hub (OWNER/NAME)"
]
Pool = Annotated[
    Pooling, "mean or max of the tokens; first (class token of BERT, ESM, RoBERTa) or last token (causal models)"
]
Layer = Annotated[int, "which layer: -1 what the model returns, -2 before its last block, 0 the embeddings of tokens"]
LongTexts = Annotated[Long, "what becomes of longer inputs: read in overlapping windows, cut, or refuse"]
WindowLength = Annotated[
    int | None, "tokens of a window, special ones included (default: the longest that the model takes)"
]
Overlap = Annotated[int | None, "tokens that neighbouring windows share at least (default: a quarter of the window)"]
BatchTokens = Annotated[int, "tokens of a batch, padding included; halved by itself when memory runs out"]
Device = Annotated[str, "cpu, cuda, cuda:1, mps, or auto (the first accelerator, else the CPU)"]
Dtype = Annotated[str, "float32, bfloat16, or on a GPU float16"]
Revision = Annotated[str | None, "branch, tag or commit of the hub"]
TrustRemoteCode = Annotated[bool, "run the code that the model's repository brings; read it first"]
AllowPickle = Annotated[
    bool, "accept pickled weights (pytorch_model.bin) where the model has none in the safetensors format"
]


def encode_texts(
    texts: Mapping[str, str],
    *,
    left_out: Mapping[str, str],
    notes: Sequence[str] = (),
    what: str,
    model: str | Encoder,
    pooling: Pooling,
    layer: int,
    long: Long,
    window: int | None,
    overlap: int | None,
    batch_tokens: int,
    device: str,
    dtype: str,
    revision: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    progress: Progress | None,
    special_tokens: bool = False,
) -> Built:
    """Encode texts (id -> text) with a model; ``what`` names them in the description."""
    encoder = (
        model if isinstance(model, Encoder) else load(model, device, dtype, revision, trust_remote_code, allow_pickle)
    )
    vectors, told = encoder.encode(
        texts, pooling=pooling, layer=layer, special_tokens=special_tokens, long=long, window=window, overlap=overlap,
        batch_tokens=batch_tokens, progress=progress,
    )  # fmt: skip
    return Built(
        list(texts),
        vectors,
        left_out,
        (*notes, *told),
        card=model_card(encoder, what),
        models={encoder.folder.name: encoder.folder.digest},
    )


def load(
    model: str, device: str, dtype: str, revision: str | None, trust_remote_code: bool, allow_pickle: bool
) -> Encoder:
    """Load the encoder of these options."""
    return Encoder.load(
        model,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def model_card(encoder: Encoder, what: str) -> dict[str, Any]:
    """Return the card fields that name a model."""
    return folder_card(encoder.folder.name, encoder.folder.commit, what)


def folder_card(name: str, commit: str, what: str) -> dict[str, Any]:
    """Return the card fields that name a model of the hub or in a folder."""
    if not commit:
        return {"description": f"{what}, model {name.rstrip('/').rsplit('/', 1)[-1]}"}
    return {"description": f"{what}, model {name}", "url": f"https://huggingface.co/{name}/tree/{commit}"}

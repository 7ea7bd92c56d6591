"""Text encoders: local transformers, sentence-transformers, and services with the embeddings endpoint of OpenAI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

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
    folder_card,
)
from panmodal.embeddings.builders.base import Builder, Built, Progress, select
from panmodal.embeddings.encoder import BATCH_TOKENS
from panmodal.embeddings.texts import read_texts
from panmodal.errors import InputError, some

Texts = Annotated[Path, "json {id: text}, jsonl, csv, tsv or parquet with a text for each id"]
IdColumn = Annotated[str | None, "column or field of the ids"]
TextColumn = Annotated[str | None, "column or field of the texts"]
Prefix = Annotated[str, "text put before each text, where a model was trained with one ('passage: ' of E5)"]


def _wanted(
    path: Path, id_col: str | None, text_col: str | None, ids: Sequence[str] | None, prefix: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return id -> text of the ids that are wanted, and id -> why it has none."""
    found, left_out = read_texts(path, id_col=id_col, text_col=text_col)
    chosen = {name: prefix + found[name] for name in select(found, ids)}
    if not chosen:
        raise InputError(f"{path}: none of its {len(found)} ids is wanted.")
    return chosen, left_out


def text_model(
    *,
    texts: Texts,
    model: Model,
    pooling: Pool = "mean",
    layer: Layer = -1,
    special_tokens: Annotated[bool, "whether special tokens count in mean and max, as in sentence-transformers"] = True,
    prefix: Prefix = "",
    id_col: IdColumn = None,
    text_col: TextColumn = None,
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
    """Encode texts with a transformer."""
    chosen, left_out = _wanted(texts, id_col, text_col, ids, prefix)
    return encode_texts(
        chosen, left_out=left_out, what="texts read by a transformer", model=model, pooling=pooling, layer=layer,
        special_tokens=special_tokens, long=long, window=window, overlap=overlap, batch_tokens=batch_tokens, device=device,
        dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, progress=progress,
    )  # fmt: skip


def sentence_model(
    *,
    texts: Texts,
    model: Annotated[
        str, "folder of the model, or its name on the Hugging Face Hub (sentence-transformers/all-MiniLM-L6-v2)"
    ],
    prompt_name: Annotated[str | None, "one of the prompts that the model names (query, passage, ...)"] = None,
    prefix: Prefix = "",
    dims: Annotated[int | None, "keep the first dimensions only, for models trained so (Matryoshka)"] = None,
    id_col: IdColumn = None,
    text_col: TextColumn = None,
    batch: Annotated[int, "texts of a batch"] = 32,
    device: Device = "cpu",
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Encode texts with sentence-transformers, with the pooling, projection, scaling and prompts that the model brings.

    Texts beyond the model's length are cut, as that library does; a note counts them. ``text-model`` reads them in windows.
    """
    from panmodal.embeddings.encoder_loading import choose_device, find_model, load_sentence_model, quiet

    if batch < 1:
        raise InputError(f"batch is {batch}; it must be at least 1.")
    chosen, left_out = _wanted(texts, id_col, text_col, ids, prefix)
    place = choose_device(device)
    folder = find_model(model, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    encoder = load_sentence_model(folder, place, dims, trust_remote_code=trust_remote_code)
    if prompt_name is not None and prompt_name not in encoder.prompts:
        raise InputError(f"{model}: has no prompt {prompt_name!r}; it names {', '.join(encoder.prompts) or 'none'}.")
    distinct = sorted(set(chosen.values()), key=lambda text: (-len(text), text))
    vectors = []
    with quiet():
        for start in range(0, len(distinct), batch):
            part = distinct[start : start + batch]
            # Models without a default prompt read the texts as they are.
            made = encoder.encode(
                part, batch_size=batch, prompt_name=prompt_name, convert_to_numpy=True, show_progress_bar=False
            )
            vectors.append(np.asarray(made, dtype=np.float32))
            if progress is not None:
                progress(start + len(part), len(distinct))
    row = {text: k for k, text in enumerate(distinct)}
    matrix = np.concatenate(vectors)[[row[text] for text in chosen.values()]]
    notes = []
    longest = encoder.get_max_seq_length()
    with quiet():
        cut = {text for text in distinct if longest and _tokens(encoder.tokenizer, text) > longest}
    if cut:
        names = [name for name, text in chosen.items() if text in cut]
        notes.append(
            f"{len(names)} of {len(chosen)} texts ({some(names, 3)}) were cut after {longest} tokens; text-model reads all"
        )
    card = folder_card(folder.name, folder.commit, "texts read by sentence-transformers")
    return Built(list(chosen), matrix, left_out, tuple(notes), card=card, models={model: folder.digest})


def _tokens(tokenizer: Any, text: str) -> int:
    try:
        return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    except TypeError:  # tokenizers of static models have no such call, and no limit
        return 0


def text_endpoint(
    *,
    texts: Texts,
    url: Annotated[
        str, "base address of the service (https://api.openai.com/v1, http://localhost:11434): the texts are sent there"
    ],
    model: Annotated[str, "name of the model at the service"],
    key_env: Annotated[
        str | None,
        "environment variable that holds the key, which is stored nowhere (default: OPENAI_API_KEY for api.openai.com, else no key)",
    ] = None,
    dims: Annotated[int | None, "ask the service for so many dimensions"] = None,
    prefix: Prefix = "",
    id_col: IdColumn = None,
    text_col: TextColumn = None,
    batch: Annotated[int, "texts of a request at most"] = 64,
    retries: Annotated[int, "how often a request is sent again when the service is busy or does not answer"] = 5,
    timeout: Annotated[float, "seconds to wait for an answer"] = 60.0,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Ask a service with an embeddings endpoint like OpenAI's. The texts go to whoever runs it."""
    from panmodal.embeddings.endpoint import Endpoint

    endpoint = Endpoint.at(url, model, key_env=key_env, dims=dims, batch=batch, retries=retries, timeout=timeout)
    chosen, left_out = _wanted(texts, id_col, text_col, ids, prefix)
    answer = endpoint.embed(chosen, progress=progress)
    used = f", {answer.tokens} tokens" if answer.tokens else ""
    notes = (
        f"from a service at {endpoint.host}, which names its model {answer.model!r} ({answer.requests} requests{used})",
        "a service may change its model, and need not answer twice with the same bits: keep the file",
    )
    card = {"description": f"texts read by a service, model {model}", "url": endpoint.address}
    return Built(
        list(chosen), answer.vectors, left_out, notes, card=card, models={model: f"{answer.model} at {endpoint.host}"}
    )


TOPICS = (
    "a kinase of the cell cycle",
    "ribosomal protein",
    "splicing factor",
    "membrane transporter",
    "subunit of polymerase ii",
)


def _example_texts(folder: Path) -> Path:
    made = {f"GENE{k}": f"{TOPICS[k % 5]}, number {k}; it " + "binds and " * (k % 4) + "acts" for k in range(20)}
    path = folder / "summaries.json"
    path.write_text(json.dumps({**made, "GENE99": ""}), encoding="utf-8")
    return path


def _example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.builders._tiny_models import tiny_bert

    return {"texts": _example_texts(folder), "model": str(tiny_bert(folder / "bert")), "window": 40}


def _sentence_example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.builders._tiny_models import tiny_sentence_model

    return {"texts": _example_texts(folder), "model": str(tiny_sentence_model(folder / "sentences"))}


def _endpoint_example(folder: Path) -> dict[str, Any]:
    from panmodal.embeddings.endpoint import serve

    return {"texts": _example_texts(folder), "url": serve(), "model": "letters", "batch": 8}


BUILDERS = (
    Builder(
        name="text-model",
        modality="text",
        description="texts read by a transformer of the user's choice, long ones in windows",
        function=text_model,
        example=_example,
        citation="Devlin et al., NAACL 2019 (BERT)",
        url="https://huggingface.co/docs/transformers",
        extra="models",
        needs=NEEDS,
    ),
    Builder(
        name="sentence-model",
        modality="text",
        description="texts read by a sentence-transformers model, with its own pooling, scaling and prompts",
        function=sentence_model,
        example=_sentence_example,
        citation="Reimers and Gurevych, EMNLP 2019",
        url="https://sbert.net",
        extra="models",
        needs=(*NEEDS, "sentence_transformers"),
    ),
    Builder(
        name="text-endpoint",
        modality="text",
        description="texts sent to a service with an embeddings endpoint like OpenAI's (also Ollama, vLLM, ...)",
        function=text_endpoint,
        example=_endpoint_example,
        url="https://platform.openai.com/docs/api-reference/embeddings",
    ),
)
"""Records of this module."""

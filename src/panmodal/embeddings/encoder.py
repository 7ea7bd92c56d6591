"""Encoding sequences with a transformer: tokens, windows over long ones, batches by length, one vector for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from panmodal.embeddings.encoder_loading import ModelFolder, choose_device, find_model, load_model, quiet
from panmodal.embeddings.encoder_pooling import Pool, Window, take, windows
from panmodal.errors import InputError, some

Pooling = Literal["mean", "first", "last", "max"]
Long = Literal["windows", "cut", "refuse"]

DEFAULT_LENGTH = 1024
"""Longest window, in tokens, of a model that names no limit (T5 has relative positions)."""

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included."""

UNKNOWN_REFUSED, UNKNOWN_NOTED = 0.5, 0.01
"""Share of tokens that the tokenizer does not know above which the input is refused, or a note is made."""


class Encoded(NamedTuple):
    """Vectors (n x dims, float32) in the order of the texts, and what a reader should know of them."""

    vectors: NDArray[np.float32]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and a model that gives one state to each token.

    Attributes
    ----------
    folder
        Where the model is from, and the digest of its files.
    max_length
        Tokens of the longest input, special ones included.
    positions
        Length of the table of positions, beyond which the model has none; None if it has no table.
    """

    folder: ModelFolder
    tokenizer: Any
    model: Any
    device: Any
    max_length: int
    positions: int | None

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        max_length: int | None = None,
    ) -> Encoder:
        """Load a model from a folder (as ``save_pretrained`` writes it) or from the Hugging Face Hub.

        Parameters
        ----------
        model
            Folder, or name of the hub (OWNER/NAME). Of an encoder-decoder, such as T5, the encoder is taken.
        device
            ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``.
        dtype
            ``float32``, ``bfloat16``, or (GPU) ``float16``. Vectors are pooled in float32 in any case.
        revision
            Branch, tag or commit of the hub.
        trust_remote_code
            Run the code that the repository brings. Read it first.
        allow_pickle
            Accept pickled weights (``pytorch_model.bin``) where there are none in the safetensors format.
        max_length
            Tokens of the longest input, special ones included; what the model allows unless given.

        Raises
        ------
        InputError
            A package is missing, or the model cannot be had, loaded, or used on the device.
        """
        chosen = choose_device(device, dtype)
        import torch

        folder = find_model(model, revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        tokenizer, loaded = load_model(folder, trust_remote_code=trust_remote_code)
        limit, positions = length_limit(tokenizer, loaded)
        _check_length(model, max_length, positions)
        loaded = loaded.to(device=chosen, dtype=getattr(torch, dtype))
        return cls(folder, tokenizer, loaded, chosen, max_length or limit, positions)

    def encode(
        self,
        texts: Mapping[str, str],
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        special_tokens: bool = False,
        long: Long = "windows",
        window: int | None = None,
        overlap: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int, int], None] | None = None,
    ) -> Encoded:
        """Encode texts: one vector each, whatever their order and whatever else is encoded with them.

        A text longer than the window is read in as few windows of that length as overlap by at least ``overlap`` tokens, spread
        evenly. With states h[w, t] of token t in window w, and c[t] windows over token t of T,

            mean = 1/T sum_t 1/c[t] sum_w h[w, t]

        so that each token counts once. ``first`` and ``last`` are averaged over the windows, ``max`` is taken over all of them.

        Parameters
        ----------
        texts
            Id -> text, none empty.
        pooling
            ``mean`` or ``max`` of the tokens; ``first`` (the class token of BERT, ESM, ...) or ``last`` token of the input.
        layer
            -1: the states that the model returns; 0: the embeddings of tokens; k: the states after block k; -2: those before the
            last block, ...
        special_tokens
            Whether special tokens (start, end) count in ``mean`` and ``max``, as they do in sentence-transformers.
        long
            What becomes of texts longer than the window: read in ``windows``, ``cut`` at its end, or ``refuse``.
        window
            Tokens of a window, special ones included; ``max_length`` unless given.
        overlap
            Tokens that neighbouring windows share at least; a quarter of the window unless given.
        batch_tokens
            Tokens of a batch, padding included; halved whenever memory runs out.
        progress
            Called with the number of windows that are done and that there are.

        Raises
        ------
        InputError
            A text is empty or has no tokens, more than half of the tokens are unknown, a layer does not exist, the window does
            not fit the model, or memory does not suffice for a single window.
        """
        if not texts:
            raise InputError("no texts to encode.")
        if pooling not in ("mean", "first", "last", "max") or long not in ("windows", "cut", "refuse"):
            raise InputError(
                f"pooling {pooling!r} or long {long!r} is not known: mean, first, last, max; windows, cut, refuse."
            )
        if batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}; it must be at least 1.")
        _check_length(self.folder.name, window, self.positions)
        empty = [name for name, text in texts.items() if not text.strip()]
        if empty:
            raise InputError(f"the texts of {some(empty)} are empty. Remove them.")
        # Equal texts are encoded once; their order decides nothing but that of the rows.
        distinct = sorted(set(texts.values()))
        before, after, tokens = self._tokenise(distinct, texts)
        notes = self._unknown(tokens)
        room = (window or self.max_length) - len(before) - len(after)
        shared = room // 4 if overlap is None else overlap
        if room < 1 or not 0 <= shared < room:
            raise InputError(
                f"windows of {window or self.max_length} tokens, {len(before) + len(after)} of them special, cannot overlap by "
                f"{shared}. Choose a longer window or a smaller overlap."
            )
        exceeding = {distinct[k] for k, row in enumerate(tokens) if len(row) > room}
        if exceeding:
            names = [name for name, text in texts.items() if text in exceeding]
            fate = {"windows": f"read in windows that share {shared} or more", "cut": "cut there"}.get(long)
            if fate is None:
                raise InputError(f"{some(names)} exceed the window of {room} tokens. Choose long: windows or cut.")
            notes.append(f"{len(names)} of {len(texts)} texts ({some(names, 3)}) are longer than {room} tokens: {fate}")
        if long == "cut":
            tokens = [row[:room] for row in tokens]
        plan = [place for k, row in enumerate(tokens) for place in windows(k, len(row), room, shared)]
        pool = Pool(pooling, special_tokens, before, after, tokens, plan)
        self._run(plan, pool, layer, batch_tokens, progress)
        vectors = pool.result()
        row_of = {text: k for k, text in enumerate(distinct)}
        return Encoded(vectors[[row_of[text] for text in texts.values()]], tuple(notes))

    def _tokenise(
        self, distinct: list[str], texts: Mapping[str, str]
    ) -> tuple[list[int], list[int], list[NDArray[np.int64]]]:
        """Return special tokens before and after an input, and the tokens of each text between them."""
        rows: list[NDArray[np.int64]] = []
        with quiet():
            for start in range(0, len(distinct), 1000):
                rows += _ids(self.tokenizer, distinct[start : start + 1000], special=False)
            full = _ids(self.tokenizer, distinct[:1], special=True)[0]
        none = {distinct[k] for k, row in enumerate(rows) if not len(row)}
        if none:
            names = [name for name, text in texts.items() if text in none]
            raise InputError(f"{self.folder.name}: its tokenizer finds no tokens in the texts of {some(names)}.")
        size = _vocabulary(self.model)
        largest = max(int(row.max()) for row in rows)
        if size is not None and largest >= size:
            raise InputError(
                f"{self.folder.name}: its tokenizer gives token {largest}, its model knows {size}: they do not belong together."
            )
        plain = rows[0]
        for start in range(len(full) - len(plain) + 1):
            if np.array_equal(full[start : start + len(plain)], plain):
                return full[:start].tolist(), full[start + len(plain) :].tolist(), rows
        raise InputError(f"{self.folder.name}: its special tokens do not stand before and after the others.")

    def _unknown(self, tokens: list[NDArray[np.int64]]) -> list[str]:
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return []
        share = sum(int((row == unknown).sum()) for row in tokens) / sum(map(len, tokens))
        if share > UNKNOWN_REFUSED:
            raise InputError(
                f"{self.folder.name}: its tokenizer does not know {share:.0%} of the tokens. Is it a model of such input "
                "(protein, DNA, SMILES, text), in the spelling that it wants?"
            )
        return [f"{share:.1%} of the tokens are unknown to the tokenizer"] if share > UNKNOWN_NOTED else []

    def _run(
        self,
        plan: list[Window],
        pool: Pool,
        layer: int,
        budget: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Run the model over the windows, the longest first: what needs most memory fails at once."""
        import torch

        masked = {"attention_mask", "kwargs"} & set(signature(self.model.forward).parameters)
        order = sorted(plan, key=lambda w: (w.start - w.stop, w.owner, w.start))
        done = 0
        while done < len(order):
            batch = take(order, done, budget, pool.extra, same_length=not masked)
            try:
                with torch.inference_mode():
                    pool.add(batch, self._states(pool.inputs(batch), layer))
            except RuntimeError as error:
                if "out of memory" not in str(error).lower() and "allocate memory" not in str(error).lower():
                    raise
                if len(batch) == 1:
                    raise InputError(
                        f"not enough memory on {self.device} for one input of {batch[0].stop - batch[0].start + pool.extra} tokens. "
                        "Choose a smaller window, dtype float16 or bfloat16, or device cpu."
                    ) from None
                budget = len(batch) // 2 * (batch[0].stop - batch[0].start + pool.extra)
            else:
                done += len(batch)
                if progress is not None:
                    progress(done, len(order))
                continue
            if self.device.type == "cuda":  # outside of the handler, which holds the tensors
                torch.cuda.empty_cache()

    def _states(self, rows: list[list[int]], layer: int) -> Any:
        """Return states of tokens, batch x tokens x dims, float32; inputs are padded at their end."""
        import torch

        length = max(map(len, rows))
        config = self.model.config
        pad = next(
            (p for p in (self.tokenizer.pad_token_id, getattr(config, "pad_token_id", None)) if p is not None), 0
        )
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.device)
        arguments = {"input_ids": ids}
        known = signature(self.model.forward).parameters
        if {"attention_mask", "kwargs"} & set(known):
            arguments["attention_mask"] = mask
        if layer != -1 or "ForMaskedLM" in type(self.model).__name__:
            arguments["output_hidden_states"] = True
        out = self.model(**arguments)
        states = getattr(out, "last_hidden_state", out[0] if isinstance(out, tuple) else None)
        if "output_hidden_states" in arguments:
            layers = getattr(out, "hidden_states", None)
            if not layers:
                raise InputError(f"{self.folder.name}: gives no states of its layers. Choose layer -1.")
            if not -len(layers) <= layer < len(layers):
                raise InputError(
                    f"{self.folder.name}: no layer {layer}; it has layers 0 (embeddings) to {len(layers) - 1}."
                )
            states = layers[layer]
        if states is None or states.ndim != 3 or states.shape[:2] != ids.shape:
            raise InputError(
                f"{self.folder.name}: {type(self.model).__name__} does not return one state for each token."
            )
        return states.float()


def length_limit(tokenizer: Any, model: Any) -> tuple[int, int | None]:
    """Return how many tokens an input should have at most, special ones included, and how many positions the model has.

    The least of what the tokenizer, the configuration and the table of positions say; :data:`DEFAULT_LENGTH` if none does.
    RoBERTa, ESM and their kin count positions from ``padding_idx + 1``.
    """
    config = model.config
    ends = ("position_embeddings", "wpe")
    table = next((m for n, m in model.named_modules() if n.endswith(ends) and hasattr(m, "num_embeddings")), None)
    positions = None
    if table is not None:
        positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    keys = ("max_position_embeddings", "max_seq_len", "max_sequence_length")
    named = next((n for key in keys if isinstance(n := getattr(config, key, None), int)), None)
    if named is not None and config.model_type == "esm":
        named -= (config.pad_token_id or 0) + 1
    told = tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else None
    limits = [n for n in (positions, told, named) if n is not None and n > 0]
    return min(limits, default=DEFAULT_LENGTH), positions


def _check_length(model: str, length: int | None, positions: int | None) -> None:
    if length is not None and (length < 1 or (positions is not None and length > positions)):
        raise InputError(
            f"{model}: inputs of {length} tokens are not possible; it has positions for {positions or 'any number'}."
        )


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[NDArray[np.int64]]:
    found = tokenizer(
        texts, add_special_tokens=special, padding=False, truncation=False, return_attention_mask=False, verbose=False
    )
    return [np.asarray(row, dtype=np.int64) for row in found["input_ids"]]


def _vocabulary(model: Any) -> int | None:
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):  # code of others need not say
        return None

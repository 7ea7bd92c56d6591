"""Text embeddings that need no model: the words of a gene's summary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from panmodal.embeddings.annotation import scaled_svd
from panmodal.embeddings.builders.base import Builder, Built
from panmodal.embeddings.texts import read_texts
from panmodal.errors import InputError


def text_tfidf(
    *,
    texts: Annotated[Path, "json {id: text}, jsonl, csv, tsv or parquet with a text for each id"],
    id_col: Annotated[str | None, "column or field of the ids"] = None,
    text_col: Annotated[str | None, "column or field of the texts"] = None,
    dims: Annotated[int, "dimensions kept"] = 128,
    min_df: Annotated[int, "words of fewer texts are left out"] = 3,
    max_df: Annotated[float, "words of more than this share of the texts (0 to 1) are left out"] = 1.0,
    ngrams: Annotated[int, "longest sequence of words that counts as one (1: single words; 2: pairs, too)"] = 2,
    stop_words: Annotated[Literal["english", "none"], "whether common English words are left out"] = "english",
    sublinear: Annotated[bool, "count a word repeated n times as 1 + ln(n)"] = True,
    mask_ids: Annotated[bool, "leave the id's own name out of its text"] = False,
    scale: Annotated[Literal["full", "sqrt", "none"], "vectors are U S, U sqrt(S) or U"] = "full",
    normalise: Annotated[bool, "scale vectors to unit norm"] = False,
) -> Built:
    """Weigh words by TF-IDF and factorise by truncated SVD (latent semantic analysis)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if min_df < 1 or not 0 < max_df <= 1 or ngrams < 1:
        raise InputError(
            f"min_df is {min_df}, max_df {max_df:g}, ngrams {ngrams}; want at least 1, above 0 up to 1, at least 1."
        )
    found, left_out = read_texts(texts, id_col=id_col, text_col=text_col)
    ids = sorted(found)
    masked = 0
    for name in ids if mask_ids else ():
        found[name], times = _without(found[name], name)
        masked += times > 0
    words = TfidfVectorizer(
        sublinear_tf=sublinear, min_df=min_df, max_df=max_df, ngram_range=(1, ngrams),
        stop_words=None if stop_words == "none" else stop_words,
    )  # fmt: skip
    try:
        matrix = words.fit_transform([found[name] for name in ids])
    except ValueError as error:
        raise InputError(
            f"{texts}: no word is in {min_df} or more and {100 * max_df:g} % or fewer of the {len(ids)} texts. "
            "Lower min_df, or raise max_df."
        ) from error
    filled = np.diff(matrix.indptr) > 0
    left_out.update(
        {name: "no word of its text is used" for name, some_word in zip(ids, filled, strict=True) if not some_word}
    )
    kept = [name for name, some_word in zip(ids, filled, strict=True) if some_word]
    vectors = scaled_svd(matrix[filled], dims, scale)
    if normalise:
        lengths = np.linalg.norm(vectors, axis=1)
        flat = {name: "its vector is zero: none of the dimensions kept is about its words"
                for name, length in zip(kept, lengths, strict=True) if length == 0}  # fmt: skip
        left_out.update(flat)
        kept = [name for name in kept if name not in flat]
        vectors = vectors[lengths > 0] / lengths[lengths > 0, None]
    notes = [f"{matrix.shape[1]} words of {len(ids)} texts"]
    if mask_ids:
        notes.append(f"the id was masked in {masked} of {len(ids)} texts")
    return Built(kept, vectors.astype(np.float32), left_out=left_out, notes=tuple(notes))


def _without(text: str, name: str) -> tuple[str, int]:
    """Return the text without the name as a whole word (in any case), and how often it was there."""
    return re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", " ", text, flags=re.IGNORECASE)


def _example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    words = ["kinase", "ribosome", "splicing", "membrane", "nucleus", "polymerase", "transport", "channel", "repair"]
    made = {f"GENE{k}": " ".join([words[k % 9], *rng.choice(words, 4)]) for k in range(24)}
    path = folder / "toy.json"
    path.write_text(json.dumps({**made, "GENE99": ""}), encoding="utf-8")
    return {"texts": path, "dims": 4}


BUILDERS = (
    Builder(
        name="text-tfidf",
        modality="text",
        description="TF-IDF of a text for each id (summaries, descriptions), truncated SVD",
        function=text_tfidf,
        example=_example,
        citation="Deerwester et al., J. Am. Soc. Inf. Sci. 1990",
    ),
)
"""Records of this module."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from panmodal.embeddings.builders.text import text_tfidf

WORDS = ["kinase", "ribosome", "splicing", "membrane", "nucleus", "polymerase", "transport", "channel", "repair", "the"]


@pytest.fixture
def texts(tmp_path):
    def write(made):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(made))
        return path

    return write


def made_texts(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return {f"GENE{k:02d}": " ".join(rng.choice(WORDS, 8)) for k in range(n)}


@pytest.mark.parametrize("scale", ["full", "sqrt"])
@pytest.mark.parametrize(
    ("options", "sklearn_options"),
    [
        ({}, {"min_df": 3, "stop_words": "english", "sublinear_tf": True, "ngram_range": (1, 2)}),
        ({"ngrams": 1}, {"min_df": 3, "stop_words": "english", "sublinear_tf": True}),
        ({"stop_words": "none", "min_df": 1, "sublinear": False, "ngrams": 1}, {}),
        ({"max_df": 0.8}, {"min_df": 3, "max_df": 0.8, "stop_words": "english", "sublinear_tf": True, "ngram_range": (1, 2)}),
    ],
)  # fmt: skip
def test_vectors_are_those_of_scikit_learn(texts, options, sklearn_options, scale):
    made = made_texts()
    built = text_tfidf(texts=texts(made), dims=4, scale=scale, **options)
    svd = TruncatedSVD(4, algorithm="arpack", random_state=0)
    expected = svd.fit_transform(TfidfVectorizer(**sklearn_options).fit_transform(made.values()))
    if scale == "sqrt":
        expected /= np.sqrt(svd.singular_values_)
    np.testing.assert_allclose(built.vectors, expected * np.sign((expected * built.vectors).sum(axis=0)), atol=1e-6)
    assert list(built.ids) == list(made)
    assert built.vectors.dtype == np.float32


def test_the_order_of_texts_makes_no_difference(texts):
    made = made_texts()
    built = text_tfidf(texts=texts(made), dims=4)
    again = text_tfidf(texts=texts(dict(reversed(made.items()))), dims=4)
    assert list(built.ids) == list(again.ids)
    np.testing.assert_array_equal(built.vectors, again.vectors)


def test_texts_without_a_used_word_are_told(texts):
    built = text_tfidf(texts=texts({**made_texts(), "EMPTY": "", "ODD": "unique words only", "THE": "the the"}), dims=4)
    assert built.left_out == {
        "EMPTY": "its text is empty", "ODD": "no word of its text is used", "THE": "no word of its text is used",
    }  # fmt: skip
    assert not set(built.left_out) & set(built.ids)


def test_unit_norm(texts):
    built = text_tfidf(texts=texts(made_texts()), dims=4, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(built.vectors, axis=1), 1, rtol=1e-6)


def test_a_zero_vector_cannot_have_unit_norm(texts):
    made = {f"A{k}": "kinase ribosome" for k in range(6)} | {f"B{k}": "membrane channel" for k in range(3)}
    built = text_tfidf(texts=texts(made), dims=1, normalise=True)
    assert list(built.ids) == [f"A{k}" for k in range(6)]
    assert all("its vector is zero" in why for why in built.left_out.values())
    assert len(built.left_out) == 3
    assert len(text_tfidf(texts=texts(made), dims=1).ids) == 9


def test_the_own_name_may_be_masked(texts):
    own = {name: f"Gene {name} ({name.lower()}) of {text}, not {name}B" for name, text in made_texts().items()}
    other = {name: f"Gene   ( ) of {text}, not {name}B" for name, text in made_texts().items()}
    masked = text_tfidf(texts=texts(own), dims=4, mask_ids=True, min_df=1)
    plain = text_tfidf(texts=texts(other), dims=4, min_df=1)
    np.testing.assert_array_equal(masked.vectors, plain.vectors)
    assert masked.notes[1] == "the id was masked in 30 of 30 texts"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_df": 0}, ["min_df is 0"]),
        ({"max_df": 0.0}, ["max_df 0"]),
        ({"ngrams": 0}, ["ngrams 0"]),
        ({"min_df": 31}, ["t.json", "no word is in 31 or more", "30 texts", "Lower min_df"]),
        ({"dims": 9, "ngrams": 1}, ["shape (30, 9) has no 9 dimensions"]),
    ],
)
def test_bad_options_are_refused(texts, options, says, refuses):
    refuses(says, text_tfidf, texts=texts(made_texts()), **options)


def test_the_builder_gives_the_golden_vectors(shared):
    anndata = pytest.importorskip("anndata")
    built = text_tfidf(texts=shared / "knowledge" / "ncbi_gene_summaries.json.gz", dims=16, ngrams=1)
    golden = anndata.read_h5ad(shared / "embeddings" / "text_ncbi_lsa128.h5ad")
    ours = pd.DataFrame(built.vectors, list(built.ids)).loc[list(golden.obs_names)].to_numpy()
    theirs = golden.X[:, :16]
    np.testing.assert_allclose(ours, theirs * np.sign((ours * theirs).sum(axis=0)), atol=1e-3)

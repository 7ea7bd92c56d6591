"""Embeddings that panmodal builds from the real tables score at least as well as the golden ones made from the same tables."""

from pathlib import Path

import pandas as pd
import pytest

from panmodal import Screen, make_embedding, read_split, run
from panmodal.embeddings.builders import get_builder
from panmodal.wanted import read_ids

SHARED = Path(__file__).parents[3] / "shared"
DATA, KNOWLEDGE = SHARED / "data", SHARED / "data" / "knowledge"
pytestmark = [
    pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden table is not beside this checkout"),
    pytest.mark.xdist_group("golden-builders"),
]

GENES = {
    "network_string_netmf128": ("netmf", {"edges": KNOWLEDGE / "string_high_confidence_pairs.csv.gz"}),
    "annotation_go_svd128": ("annotation", {"terms": KNOWLEDGE / "go_direct_experimental.tsv.gz"}),
    "text_ncbi_lsa128": ("text-tfidf", {"texts": KNOWLEDGE / "ncbi_gene_summaries.json.gz"}),
}
COMPOUNDS = {"compound_ecfp2000": ("fingerprint", {"compounds": DATA / "op3_lfc.h5ad"})}


SCREENS = {"genes": DATA / "replogle2022_uprank.h5ad", "compounds": DATA / "op3_lfc.h5ad"}
REAL = [
    ("netmf", "genes", 430, {"edges": KNOWLEDGE / "humap_pairs.csv.gz", "dims": 256}),
    ("spectral", "genes", 500, {"edges": KNOWLEDGE / "string_high_confidence_pairs.csv.gz", "dims": 32}),
    ("node2vec", "genes", 120, {"edges": KNOWLEDGE / "reactome_pairs.csv.gz", "dims": 32, "walks": 4}),
    ("degree", "genes", 500, {"edges": KNOWLEDGE / "string_high_confidence_pairs.csv.gz"}),
    ("annotation", "genes", 500, {"terms": KNOWLEDGE / "reactome_2024.gmt"}),
    ("annotation", "genes", 300, {"terms": KNOWLEDGE / "go_direct_experimental.tsv.gz", "aspect": "BP"}),
    ("dependency", "genes", 390, {"effects": "panmodal:depmap_fitness_3465x121.parquet", "dims": 32}),
    ("text-tfidf", "genes", 560, {"texts": KNOWLEDGE / "ncbi_gene_summaries.json.gz", "mask_ids": True}),
    ("homology", "genes", 90, {"edges": "panmodal:protein_homology_edges.parquet"}),
    ("table", "genes", 550, {"vectors": DATA / "embeddings" / "annotation_go_svd128.h5ad"}),
    ("permuted", "genes", 550, {"embedding": DATA / "embeddings" / "annotation_go_svd128.h5ad"}),
    ("noise", "genes", 550, {"embedding": DATA / "embeddings" / "annotation_go_svd128.h5ad"}),
    ("random", "compounds", 141, {}),
    ("pca-concat", "genes", 480, {"embeddings": [DATA / "embeddings" / f"{name}.h5ad" for name in GENES]}),
    ("mean", "genes", 480, {"embeddings": [DATA / "embeddings" / f"{name}.h5ad" for name in GENES], "dims": 64}),
    ("expression-loadings", None, 299, {"cells": DATA / "papalexi2021_counts.h5ad", "dims": 32}),
    ("expression-coexpression", None, 299, {"cells": DATA / "papalexi2021_counts.h5ad", "dims": 32}),
    ("fingerprint", "compounds", 138, {"compounds": KNOWLEDGE / "compounds.csv", "kind": "maccs"}),
    ("descriptors", "compounds", 130, {"compounds": KNOWLEDGE / "compounds.csv"}),
    ("targets", None, 260, {"targets": KNOWLEDGE / "tahoe_drugs.parquet"}),
]
"""Builder, whose ids, fewest vectors, options."""


@pytest.mark.parametrize(
    ("builder", "screen", "fewest", "options"), REAL, ids=[f"{r[0]}-{k}" for k, r in enumerate(REAL)]
)
def test_builders_take_the_real_tables(builder, screen, fewest, options):
    if get_builder(builder).missing():
        pytest.skip("an optional package is not installed")
    ids = read_ids(SCREENS[screen]) if screen else None
    made = make_embedding(builder, ids=ids, **options)
    assert len(made.embedding.ids) >= fewest
    told = made.frame()
    assert ids is None or set(told["wanted"]) >= set(ids)


@pytest.mark.parametrize(("dataset", "recipes"), [("replogle2022_uprank", GENES), ("op3_lfc", COMPOUNDS)])
def test_built_embeddings_reach_the_golden_ones(dataset, recipes, tmp_path):
    if dataset == "op3_lfc":
        pytest.importorskip("rdkit")
    screen = Screen.read(DATA / f"{dataset}.h5ad")
    built = [
        make_embedding(builder, ids=screen.pert_ids, card={"name": name}, **options).embedding
        for name, (builder, options) in recipes.items()
    ]
    split = read_split(DATA / f"{dataset}.splits.csv")
    scores = run(screen, built, tmp_path, split=split, probes=["knn", "lasso"], metrics=["L2"], n_jobs=1).scores
    ours = scores[(scores["fallback"] == "filled") & (scores["role"] == "embedding")]
    golden = pd.read_csv(SHARED / "golden" / "lfc_scores.csv").query("dataset == @dataset").dropna(subset="embedding")
    both = pd.DataFrame({
        "ours": ours.groupby(["embedding", "probe"])["value"].mean(),
        "golden": golden.groupby(["embedding", "probe"])["L2"].mean(),
    }).loc[list(recipes)]  # fmt: skip
    assert len(both) == 2 * len(recipes) and both.notna().all().all()
    assert (both["ours"] <= both["golden"]).all(), both

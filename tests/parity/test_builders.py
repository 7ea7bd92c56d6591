"""Embeddings that panmodal builds from the real tables score at least as well as the golden ones made from the same tables."""

from pathlib import Path

import pandas as pd
import pytest

from panmodal import Screen, make_embedding, read_split, run

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

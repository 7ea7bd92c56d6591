"""Every number of the golden table (a plain scikit-learn run of the protocol), reproduced through the public API."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from panmodal import Embedding, Screen, read_split, run

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = [
    pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden table is not beside this checkout"),
    pytest.mark.xdist_group("golden"),
]

RELATIVE = {"L2": 1e-5, "MSE": 1e-4, "MAE": 1e-4, "Pearson": 1e-4, "Spearman": 1e-3}
TIED = {"L2": 3e-3, "MSE": 6e-3, "MAE": 6e-3, "Pearson": 1.5e-2, "Spearman": 1.5e-2}
"""Where neighbours tie at the k-th place scikit-learn takes some of them, by the order of rows; the protocol takes all in equal
shares. Shuffling the rows moves scikit-learn's own L2 by up to 3e-3 (K-562, fold 2, annotation: 16.048 to 16.096)."""


@pytest.fixture(scope="module")
def golden() -> pd.DataFrame:
    table = pd.read_csv(SHARED / "golden" / "lfc_scores.csv")
    return (
        table.fillna({"embedding": "none"})
        .set_index(["dataset", "cell_line", "fold", "embedding", "probe"])
        .sort_index()
    )


@pytest.fixture(scope="module")
def replogle(golden: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_golden("replogle2022_uprank", golden, tmp_path_factory.mktemp("golden") / "r")


def run_golden(dataset: str, golden: pd.DataFrame, out: Path) -> pd.DataFrame:
    names = sorted(set(golden.loc[dataset].index.get_level_values("embedding")) - {"none"})
    screen = Screen.read(SHARED / "data" / f"{dataset}.h5ad")
    split = read_split(SHARED / "data" / f"{dataset}.splits.csv")
    embeddings = [Embedding.read(SHARED / "data" / "embeddings" / f"{name}.h5ad") for name in names]
    options = {"probes": ["knn", "lasso"], "metrics": [*RELATIVE, "PDS_cosine"], "n_jobs": 1}
    # The plain run joined ids by name alone.
    return run(screen, embeddings, out, split=split, match="exact", **options).scores


def truly_tied(dataset: str, fold: int, cell_line: str, embedding: str, k: int) -> int:
    """Count test ids whose k-th and next neighbour are equally far, with scikit-learn's own projection."""
    screen = Screen.read(SHARED / "data" / f"{dataset}.h5ad")
    table = Embedding.read(SHARED / "data" / "embeddings" / f"{embedding}.h5ad")
    train, test = read_split(SHARED / "data" / f"{dataset}.splits.csv").sides(screen.ids_in(cell_line), fold)
    x, x_test = (table.matrix(table.coverage(ids).covered) for ids in (train, test))
    keep = min(100, x.shape[1], int(0.8 * len(x)) - 1)
    project = make_pipeline(StandardScaler(), PCA(keep, svd_solver="full")).fit(x)
    near = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(project.transform(x))
    distances, _ = near.kneighbors(project.transform(x_test))
    return int(np.isclose(distances[:, k], distances[:, k - 1], rtol=1e-10, atol=1e-10).sum())


@pytest.mark.parametrize("dataset", ["replogle2022_uprank", "op3_lfc"])
def test_every_golden_number_is_reproduced(dataset: str, golden: pd.DataFrame, request, tmp_path: Path) -> None:
    shared = dataset.startswith("replogle")
    scores = request.getfixturevalue("replogle") if shared else run_golden(dataset, golden, tmp_path / "results")
    filled = scores[scores["fallback"] == "filled"]
    ours = filled.set_index(["context", "fold", "embedding", "probe", "metric"]).sort_index()
    expected = golden.loc[[dataset]]
    tied_elsewhere = []
    for (_, context, fold, embedding, probe), row in expected.iterrows():
        mine = ours.loc[(context, fold, embedding, probe)]
        where = f"{dataset}, {context}, fold {fold}, {embedding}, {probe}"
        assert (mine["n_test"] == row["n_test"]).all(), where
        assert (mine["n_covered"] == row["n_covered"]).all(), where
        tied = row["ties"] == 1
        if not tied and probe == "knn" and abs(mine.loc["L2", "value"] / row["L2"] - 1) > RELATIVE["L2"]:
            # The table's own flag misses ties that rounding splits; accept only those that scikit-learn's projection shows.
            tied = truly_tied(dataset, fold, context, embedding, int(row["best"])) > 0
            tied_elsewhere.append(where)
            assert tied, f"{where}: L2 {mine.loc['L2', 'value']} against {row['L2']} without a tie"
        if probe in ("knn", "lasso"):
            chosen = json.loads(mine["hyperparameters"].iloc[0])["k" if probe == "knn" else "alpha"]
            assert chosen == row["best"], f"{where}: chose {chosen}, not {row['best']}"
        for metric, relative in RELATIVE.items():
            value = mine.loc[metric, "value"]
            if np.isnan(row[metric]):
                assert pd.isna(value), f"{where}: {metric}"
                assert mine.loc[metric, "n_undefined"] == row["n_undefined"], f"{where}: {metric}"
                continue
            allowed = TIED[metric] if tied else relative
            assert value == pytest.approx(row[metric], rel=allowed), f"{where}: {metric}"
            if metric in ("Pearson", "Spearman"):
                assert mine.loc[metric, "n_undefined"] == row["n_undefined"], f"{where}: {metric}"
    assert len(tied_elsewhere) <= 3, tied_elsewhere


def test_networks_and_text_lead_on_replogle_and_random_is_at_the_floor(replogle: pd.DataFrame) -> None:
    from panmodal import leaderboard

    scores = replogle[(replogle["probe"] == "lasso") | (replogle["role"] == "baseline")]
    board = leaderboard(scores).set_index(["context", "embedding"])
    for context in ("K-562", "hTERT-RPE1"):
        rows = board.loc[context]
        for name in ("network_string_netmf128", "text_ncbi_lsa128"):
            assert rows.loc[name, "folds_above_floor"] == 5
            assert rows.loc[name, "mean"] < rows.loc["random", "mean"] - 0.5
        assert rows.loc["random", "gap_closed"] == pytest.approx(0, abs=0.01)
    centred = leaderboard(scores, metric="PDS_cosine").set_index("embedding")
    assert centred.loc["network_string_netmf128", "mean"].min() > 0.65
    assert centred.loc["random", "mean"].to_numpy() == pytest.approx(0.5, abs=0.02)

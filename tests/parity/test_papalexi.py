"""Fold changes and labels of a real screen from its raw counts, as a plain scanpy run of the protocol gives them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from panmodal.cells.prepare import open_cells, prepare

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = pytest.mark.skipif(
    not (SHARED / "golden" / "papalexi_lfc.csv.gz").is_file(), reason="the golden table is not beside this checkout"
)


@pytest.fixture(scope="module")
def screen():
    cells = open_cells([SHARED / "data" / "papalexi2021_counts.h5ad"])
    assert (cells.columns.perturbation, cells.columns.batch, cells.columns.context) == ("target", "bio_rep", ())
    assert (cells.columns.controls, cells.rule, cells.test) == (("non-targeting",), "pooled", "pooled")
    return prepare(cells, n_jobs=1)


def golden(name: str) -> pd.DataFrame:
    table = pd.read_csv(SHARED / "golden" / name, index_col="pert_id")
    assert table.shape == (25, 299)
    return table


def test_every_fold_change_is_reproduced(screen) -> None:
    expected = golden("papalexi_lfc.csv.gz")
    ids, values = screen.responses("all")
    assert ids == sorted(expected.index)
    assert screen.readouts == list(expected.columns)
    difference = np.abs(values - expected.loc[ids].to_numpy())
    assert difference.max() < 1e-5
    assert np.abs(values).max() > 0.5


def test_every_label_is_reproduced(screen) -> None:
    expected = golden("papalexi_deg.csv.gz")
    found = pd.DataFrame(screen.adata.layers["deg"], index=screen.adata.obs["pert_id"], columns=screen.readouts)
    assert screen.adata.obs["deg_tested"].all()
    assert (expected != 0).to_numpy().sum() == 665
    pd.testing.assert_frame_equal(
        found.loc[expected.index, expected.columns], expected, check_dtype=False, check_names=False
    )


def test_the_record_counts_the_cells(screen) -> None:
    counts = screen.provenance["counts"]
    assert (counts["cells"], counts["cells_used"], counts["genes"]) == (20729, 20729, 299)
    assert counts["control_cells"] + screen.adata.obs["n_cells"].sum() == 20729
    assert screen.adata.obs["n_batches"].eq(3).all()

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from panmodal.embeddings.builders.dependency import dependency

GENES = [f"GENE{k}" for k in range(15)]
LINES = [f"ACH-{k:06d}" for k in range(8)]


@pytest.fixture
def effects(tmp_path):
    def write(gaps=(), *, genes=None, lines=LINES, rows=False, name="e.csv", fill=None):
        values = np.random.default_rng(0).standard_normal((15, 8)).round(6)
        for gene, line in gaps:
            values[gene, line] = np.nan if fill is None else fill
        frame = pd.DataFrame(values, genes or [f"{g} ({100 + k})" for k, g in enumerate(GENES)], lines)
        frame = frame if rows else frame.T
        path = tmp_path / name
        if name.endswith("parquet"):
            frame.rename_axis("ModelID").to_parquet(path)
        else:
            frame.to_csv(path)
        return path, values

    return write


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.parquet"])
@pytest.mark.parametrize("rows", [False, True])
def test_genes_are_found_by_their_names(effects, name, rows):
    path, values = effects(rows=rows, name=name)
    built = dependency(effects=path)
    assert list(built.ids) == GENES
    np.testing.assert_array_equal(built.vectors, values.astype(np.float32))
    assert built.card["trained_on"] == ("depmap",)
    assert built.notes == ("15 genes x 8 cell lines",)
    assert list(dependency(effects=path, gene_id="entrez").ids) == [str(100 + k) for k in range(15)]


@pytest.mark.parametrize(
    ("rows", "genes", "lines"),
    [(True, GENES, LINES), (False, GENES, LINES), (True, None, list("abcdefgh")), (False, None, list("abcdefgh"))],
)
def test_names_of_one_kind_are_enough(effects, rows, genes, lines):
    path, values = effects(rows=rows, genes=genes, lines=lines)
    built = dependency(effects=path)
    assert list(built.ids) == GENES
    np.testing.assert_array_equal(built.vectors, values.astype(np.float32))


def test_plain_names_need_to_be_told(effects, refuses):
    path, values = effects(rows=True, genes=GENES, lines=list("abcdefgh"))
    refuses(["cannot tell whether genes are rows ('GENE0'", "columns ('a'", "Give genes"], dependency, effects=path)
    np.testing.assert_array_equal(dependency(effects=path, genes="rows").vectors, values.astype(np.float32))
    np.testing.assert_array_equal(dependency(effects=path, genes="columns").vectors, values.T.astype(np.float32))
    refuses(["'GENE0'", "no Entrez id"], dependency, effects=path, genes="rows", gene_id="entrez")


# Missing values

GAPS = [(2, 1), (2, 3), (7, 3)]


def test_missing_values_are_refused_with_what_to_choose(effects, refuses):
    path, _ = effects(GAPS)
    says = ["e.csv", "3 values (2.5 %) are missing", "genes 'GENE2', 'GENE7'", "'ACH-000001', 'ACH-000003'",
            "leaves 6 of 8 lines", "leaves 13 of 15 genes"]  # fmt: skip
    refuses(says, dependency, effects=path)


def test_missing_values_are_filled_with_the_mean_of_the_gene(effects):
    path, values = effects([*GAPS, *[(4, k) for k in range(8)]])
    built = dependency(effects=path, missing="mean")
    expected = np.where(np.isnan(values), pd.DataFrame(values).mean(axis=1).to_numpy()[:, None], values)
    np.testing.assert_allclose(built.vectors, np.delete(expected, 4, axis=0), rtol=1e-6)
    assert built.left_out == {"GENE4": "no cell line has a value"}
    assert "11 values (9.2 %) are missing; 3 were filled" in built.notes[1]


def test_cell_lines_or_genes_with_gaps_may_go(effects):
    path, values = effects(GAPS)
    built = dependency(effects=path, missing="drop-lines")
    np.testing.assert_array_equal(built.vectors, np.delete(values, [1, 3], axis=1).astype(np.float32))
    assert "2 of 8 cell lines are left out" in built.notes[1]
    built = dependency(effects=path, missing="drop-genes")
    np.testing.assert_array_equal(built.vectors, np.delete(values, [2, 7], axis=0).astype(np.float32))
    assert built.left_out == {"GENE2": "2 values are missing", "GENE7": "1 values are missing"}


def test_nothing_left_is_refused(effects, refuses):
    path, _ = effects([(k, k % 8) for k in range(15)])
    for missing in ("drop-lines", "drop-genes"):
        refuses(["nothing is left"], dependency, effects=path, missing=missing)


# Scaling and components


def test_cell_lines_and_genes_may_be_standardised(effects):
    path, values = effects()
    built = dependency(effects=path, standardise="lines")
    np.testing.assert_allclose(built.vectors, (values - values.mean(0)) / values.std(0), rtol=1e-4, atol=1e-6)
    built = dependency(effects=path, standardise="genes")
    np.testing.assert_allclose(built.vectors.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(built.vectors.std(axis=1), 1, rtol=1e-5)


def test_principal_components_are_those_of_scikit_learn(effects):
    path, values = effects()
    built = dependency(effects=path, dims=3)
    expected = PCA(3, svd_solver="full").fit_transform(values)
    np.testing.assert_allclose(built.vectors, expected * np.sign((expected * built.vectors).sum(axis=0)), atol=1e-6)
    assert "3 principal components hold" in built.notes[-1]


@pytest.mark.parametrize(
    ("made", "options", "says"),
    [
        ({}, {"dims": 9}, ["15 genes x 8 lines have no 9 principal components"]),
        ({}, {"dims": 0}, ["no 0 principal components"]),
        ({"gaps": [(3, 2)], "fill": np.inf}, {}, ["e.csv", "'GENE3' in 'ACH-000002' is infinite"]),
        ({"gaps": [(3, k) for k in range(8)], "fill": 1}, {"standardise": "genes"}, ["gene(s) 'GENE3' have one value only"]),
        ({"gaps": [(k, 2) for k in range(15)], "fill": 1}, {"standardise": "lines"}, ["cell line(s) 'ACH-000002' have one"]),
        ({"genes": ["A (1)", "A (2)", *[f"G{k} ({k})" for k in range(13)]]}, {}, ["gene symbol 'A' appear(s) more than once"]),
        ({"lines": ["ACH-000001"] * 2 + LINES[2:]}, {}, ["cell line 'ACH-000001' appear(s) more than once"]),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(effects, made, options, says, refuses):
    refuses(says, dependency, effects=effects(**made)[0], **options)


def test_text_cells_and_single_columns_are_refused(tmp_path, refuses):
    path = tmp_path / "e.csv"
    path.write_text("ModelID,A (1),B (2)\nACH-000001,0.5,NA\nACH-000002,0.1,0.2\n")
    refuses(["column 'B (2)' holds text: 'NA' in row 1 (id 'ACH-000001')"], dependency, effects=path)
    path.write_text("ModelID\nACH-000001\n")
    refuses(["only one column, 'ModelID'"], dependency, effects=path)


def test_the_shipped_table_is_read(shared):
    path = shared / "embedded" / "depmap_fitness_3465x121.parquet"
    built = dependency(effects=path)
    assert built.vectors.shape == (3465, 121)
    np.testing.assert_array_equal(built.vectors, pd.read_parquet(path).to_numpy(np.float32))

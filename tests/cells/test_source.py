import gzip
import shutil
import threading
import time

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.source import open_counts, prefetched
from panmodal.errors import InputError

CELLS, GENES = 31, 17
CHUNKS = [1, 7, 50, 10**6]
KINDS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
FORMATS = [
    "csr.h5ad", "csc.h5ad", "dense.h5ad", "dense.zarr", "csr.zarr",
    "csc.zarr", "10x.h5", "mtx",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2")


def counts(seed=0, n=CELLS, genes=GENES):
    """Counts whose first, 11th and last two cells and whose first and last gene are empty."""
    out = np.random.default_rng(seed).poisson(0.7, (n, genes)) * np.random.default_rng(seed + 1).integers(1, 60, genes)
    out[[0, 10, -2, -1]] = 0
    out[:, [0, -1]] = 0
    return out


def obs_of(n=CELLS):
    perts = np.array(["non-targeting", "A", "B"])[np.arange(n) % 3]
    return pd.DataFrame({"perturbation": perts}, index=[f"cell{k}" for k in range(n)])


def var_of(n=GENES):
    index = [f"ENSG{k}" for k in range(n)]
    return pd.DataFrame({"symbol": [f"G{k}" for k in range(n)], "same": "G"}, index=index)


def to_adata(matrix, kind="csr", dtype=np.float32):
    return anndata.AnnData(KINDS[kind](matrix.astype(dtype)), obs=obs_of(len(matrix)), var=var_of(matrix.shape[1]))


def write_adata(adata, path):
    adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)
    return path


def write_h5ad(path, matrix, kind="csr", dtype=np.float32):
    return write_adata(to_adata(matrix, kind, dtype), path)


def write_tenx(path, matrix, antibodies=None):
    """Write a matrix as Cell Ranger 3 does, each gene followed by an antibody where some are given."""
    n, genes = matrix.shape
    kinds, names = ["Gene Expression"] * genes, [(f"ENSG{k}", f"G{k}") for k in range(genes)]
    if antibodies is not None:
        matrix = np.insert(matrix, np.arange(1, antibodies.shape[1] + 1), antibodies, axis=1)
        for k in range(antibodies.shape[1]):
            kinds.insert(2 * k + 1, "Antibody Capture")
            names.insert(2 * k + 1, (f"AB{k}", f"CD{k}"))
    stored = sp.csr_matrix(matrix.astype(np.int32))
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = stored.data, stored.indices.astype(np.int64), stored.indptr
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        group["barcodes"] = np.array([f"cell{k}" for k in range(n)], dtype="S18")
        features = group.create_group("features")
        features["id"] = np.array([i for i, _ in names], dtype="S15")
        features["name"] = np.array([s for _, s in names], dtype="S15")
        features["feature_type"] = np.array(kinds, dtype="S20")
        features["genome"] = np.array(["GRCh38"] * len(kinds), dtype="S6")
    return path


def write_mtx(folder, matrix, *, gz=False, features="features.tsv", kinds=None, order=None):
    folder.mkdir()
    cells, genes = np.nonzero(matrix)
    entries = [f"{g + 1} {c + 1} {matrix[c, g]:g}\n" for c, g in zip(cells, genes, strict=True)]
    entries = entries if order is None else [entries[k] for k in order(len(entries))]
    names = [[f"ENSG{k}", f"G{k}"] for k in range(matrix.shape[1])]
    if features == "features.tsv":
        names = [[*row, kind] for row, kind in zip(names, kinds or ["Gene Expression"] * len(names), strict=True)]
    text = {
        "matrix.mtx": "%%MatrixMarket matrix coordinate integer general\n"
        '%metadata_json: {"software_version": "x"}\n'
        f"{matrix.shape[1]} {len(matrix)} {len(entries)}\n" + "".join(entries),
        "barcodes.tsv": "".join(f"cell{k}\n" for k in range(len(matrix))),
        features: "".join("\t".join(row) + "\n" for row in names),
    }
    for name, content in text.items():
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (folder / name).write_text(content)
    return folder


def write(folder, name, matrix):
    kind = name.partition(".")[0]
    if kind == "mtx":
        return write_mtx(folder / name, matrix)
    return write_tenx(folder / name, matrix) if kind == "10x" else write_h5ad(folder / name, matrix, kind)


def reassembled(source, max_values):
    """Put the chunks of a source together again; a value given twice would count twice."""
    out, expected = np.zeros((source.n_cells, len(source.genes))), 0
    for chunk in source.chunks(max_values):
        assert chunk.start == expected
        assert chunk.n_cells >= 1
        assert chunk.values.dtype in (np.float32, np.int32)
        assert (chunk.genes.dtype, chunk.indptr.dtype) == (np.int32, np.int64)
        assert chunk.indptr[0] == 0
        assert chunk.indptr[-1] == len(chunk.values) == len(chunk.genes)
        cells = np.repeat(np.arange(chunk.n_cells), np.diff(chunk.indptr))
        np.add.at(out, (chunk.start + cells, chunk.genes), chunk.values)
        expected += chunk.n_cells
    assert expected == source.n_cells
    return out


@pytest.mark.parametrize("max_values", CHUNKS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_cells(tmp_path, name, max_values):
    source = open_counts(write(tmp_path, name, counts()))
    np.testing.assert_array_equal(reassembled(source, max_values), counts())
    np.testing.assert_array_equal(reassembled(source, max_values), counts(), err_msg="the second pass")
    assert source.genes == list(var_of().index)
    assert list(source.obs.index) == list(obs_of().index)
    assert source.n_cells == CELLS
    if source.row_nnz is not None:
        np.testing.assert_array_equal(source.row_nnz, (counts() > 0).sum(axis=1))
    source.close()


@pytest.mark.parametrize("name", ["csr.h5ad", "csc.h5ad", "dense.h5ad", "10x.h5", "mtx"])
def test_chunks_hold_no_more_than_asked_or_one_cell(tmp_path, name):
    matrix = counts(n=200)
    source, largest = open_counts(write(tmp_path, name, matrix)), (matrix > 0).sum(axis=1).max()
    for max_values in (1, 40, 300):
        sizes = [(c.n_cells, len(c.values)) for c in source.chunks(max_values)]
        slack = largest if name == "mtx" else 0
        assert all(values <= max_values + slack or cells == 1 for cells, values in sizes)
        assert len(sizes) > (matrix > 0).sum() / (max_values + largest) / 2
    assert len([*source.chunks(10**9)]) <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint16", "uint8"])
def test_every_type_of_number(tmp_path, kind, dtype):
    matrix = np.minimum(counts(), 255)
    source = open_counts(write_h5ad(tmp_path / "s.h5ad", matrix, kind, dtype))
    np.testing.assert_array_equal(reassembled(source, 20), matrix)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".h5ad", "dense"),
        (".h5ad", "csr"),
        (".h5ad", "csc"),
        (".zarr", "dense"),
        (".zarr", "csr"),
    ],
)
def test_layers_and_raw(tmp_path, suffix, kind):
    x, layer, raw = counts(1), counts(2), counts(3, genes=GENES + 4)
    adata = to_adata(raw, kind)
    adata.raw = adata
    adata = adata[:, :GENES].copy()
    adata.X, adata.layers["counts"] = KINDS[kind](x.astype(np.float32)), KINDS[kind](layer.astype(np.float32))
    path = write_adata(adata, tmp_path / f"s{suffix}")
    for name, expected in ((None, x), ("X", x), ("counts", layer), ("raw", raw)):
        source = open_counts(path, layer=name)
        np.testing.assert_array_equal(reassembled(source, 30), expected)
        assert source.genes == [f"ENSG{k}" for k in range(expected.shape[1])]
    assert open_counts(path, layer="raw", gene_col="symbol").genes[-1] == f"G{GENES + 3}"


def test_an_unknown_layer_is_refused_with_those_there(tmp_path, refuses):
    adata = to_adata(counts())
    adata.layers["counts"] = adata.X
    path = write_adata(adata, tmp_path / "s.h5ad")
    refuses(["s.h5ad: no matrix 'spliced'", "'X', 'counts'", "--layer"], open_counts, path, layer="spliced")
    refuses(["no matrix 'raw'; there are 'X', 'counts'"], open_counts, path, layer="raw")
    adata.X = None
    path = write_adata(adata, tmp_path / "without.h5ad")
    refuses(["no matrix 'X'; there are 'counts'", "--layer"], open_counts, path)
    np.testing.assert_array_equal(reassembled(open_counts(path, layer="counts"), 30), counts())


def test_a_layer_that_is_called_raw_is_found_or_not_announced(tmp_path):
    adata = to_adata(counts())
    adata.layers["raw"] = adata.X
    source = open_counts(write_adata(adata, tmp_path / "s.h5ad"), layer="raw")
    np.testing.assert_array_equal(reassembled(source, 30), counts())


@pytest.mark.parametrize("name", ["10x.h5", "mtx"])
def test_a_tenx_file_has_one_matrix(tmp_path, name, refuses):
    refuses([f"{name}: --layer is for h5ad and zarr"], open_counts, write(tmp_path, name, counts()), layer="counts")


def test_genes_are_named_by_a_column(tmp_path, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts())
    assert open_counts(path, gene_col="symbol").genes == [f"G{k}" for k in range(GENES)]
    refuses(["s.h5ad: var has no column 'name'", "'symbol', 'same'", "--gene-col"], open_counts, path, gene_col="name")
    refuses(["s.h5ad: gene names 'G' appear more than once", "--gene-col"], open_counts, path, gene_col="same")


def test_a_gene_without_a_name_is_refused(tmp_path, refuses):
    adata = to_adata(counts())
    adata.var.loc["ENSG4", "symbol"] = None
    path = write_adata(adata, tmp_path / "s.h5ad")
    refuses(["column 'symbol' of var is empty for 1 gene(s), first 'ENSG4'"], open_counts, path, gene_col="symbol")


@pytest.mark.parametrize("name", ["10x.h5", "mtx"])
def test_tenx_genes_are_named_by_id_or_symbol(tmp_path, name, refuses):
    path = write(tmp_path, name, counts())
    assert open_counts(path).genes[:2] == ["ENSG0", "ENSG1"]
    assert open_counts(path, gene_col="gene_symbols").genes[:2] == ["G0", "G1"]
    assert open_counts(path, gene_col="gene_ids").genes[:2] == ["ENSG0", "ENSG1"]
    refuses(["no column 'symbol'", "'gene_symbols'"], open_counts, path, gene_col="symbol")


@pytest.mark.parametrize("max_values", CHUNKS)
def test_antibodies_in_a_tenx_h5_are_no_genes(tmp_path, max_values):
    antibodies = counts(5, genes=6) + 1000
    source = open_counts(write_tenx(tmp_path / "s.h5", counts(), antibodies))
    assert source.genes == list(var_of().index)
    np.testing.assert_array_equal(reassembled(source, max_values), counts())
    assert source.notes == ("s.h5: features that are not genes left out: 6 'Antibody Capture'",)


@pytest.mark.parametrize("max_values", CHUNKS)
def test_antibodies_in_a_tenx_folder_are_no_genes(tmp_path, max_values):
    kinds = ["Gene Expression"] * GENES
    kinds[3], kinds[8], kinds[-1] = "Antibody Capture", "CRISPR Guide Capture", "Antibody Capture"
    source = open_counts(write_mtx(tmp_path / "s", counts(), kinds=kinds))
    kept = [k for k, kind in enumerate(kinds) if kind == "Gene Expression"]
    assert source.genes == [f"ENSG{k}" for k in kept]
    np.testing.assert_array_equal(reassembled(source, max_values), counts()[:, kept])
    assert "2 'Antibody Capture', 1 'CRISPR Guide Capture'" in source.notes[0]


@pytest.mark.parametrize("max_values", CHUNKS)
@pytest.mark.parametrize(("gz", "features"), [(False, "genes.tsv"), (True, "features.tsv"), (True, "genes.tsv")])
def test_tenx_folders_old_and_new_plain_and_gzipped(tmp_path, gz, features, max_values):
    source = open_counts(write_mtx(tmp_path / "s", counts(), gz=gz, features=features))
    np.testing.assert_array_equal(reassembled(source, max_values), counts())
    assert source.genes == list(var_of().index)
    assert open_counts(tmp_path / "s", gene_col="gene_symbols").genes[-1] == f"G{GENES - 1}"


@pytest.mark.parametrize("empty", [slice(0, 25), slice(5, None), slice(1, -1)])
@pytest.mark.parametrize("name", ["csr.h5ad", "csc.h5ad", "dense.h5ad", "10x.h5", "mtx"])
def test_runs_of_empty_cells_stay_in_place(tmp_path, name, empty):
    matrix = counts() + 1
    matrix[empty] = 0
    source = open_counts(write(tmp_path, name, matrix))
    for max_values in (1, 9, 10**6):
        np.testing.assert_array_equal(reassembled(source, max_values), matrix)


@pytest.mark.parametrize(
    "name",
    ["csr.h5ad", "csc.h5ad", "dense.h5ad", "10x.h5",
     "mtx"],
)  # fmt: skip
def test_a_matrix_of_zeros_is_read(tmp_path, name):
    source = open_counts(write(tmp_path, name, np.zeros((4, 3), dtype=int)))
    np.testing.assert_array_equal(reassembled(source, 10), np.zeros((4, 3)))


def test_a_gene_may_be_called_na(tmp_path):
    folder = write_mtx(tmp_path / "s", counts())
    (folder / "features.tsv").write_text("".join(f"{k}\t{k}\tGene Expression\n" for k in ["NA", *range(1, GENES)]))
    assert open_counts(folder).genes[:2] == ["NA", "1"]


def test_a_cell_may_be_called_na(tmp_path):
    folder = write_mtx(tmp_path / "s", counts())
    (folder / "barcodes.tsv").write_text("".join(f"{k}\n" for k in ["NA", *range(1, CELLS)]))
    assert list(open_counts(folder).obs.index[:2]) == ["NA", "1"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_a_table_annotates_the_cells_in_any_order(tmp_path, suffix):
    path, names = write_mtx(tmp_path / "s", counts()), list(obs_of().index)
    order = np.random.default_rng(0).permutation(CELLS)
    table = pd.DataFrame({"cell": names, "guide": [f"g{k}" for k in range(CELLS)], "n": range(CELLS)}).iloc[order]
    extra = pd.DataFrame({"cell": ["of another file"], "guide": ["g"], "n": [1]})
    file, table = tmp_path / f"obs{suffix}", pd.concat([table, extra])
    if suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        table.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    obs = open_counts(path, table=file).obs
    assert list(obs.index) == names
    assert list(obs["guide"]) == [f"g{k}" for k in range(CELLS)]
    assert list(obs["n"]) == list(range(CELLS))


def test_a_table_adds_to_and_overrules_the_files_own_annotation(tmp_path):
    path = write_h5ad(tmp_path / "s.h5ad", counts())
    obs_of().assign(perturbation="C", batch="b").to_csv(tmp_path / "obs.csv", index_label="cell")
    obs = open_counts(path, table=tmp_path / "obs.csv").obs
    assert set(obs["perturbation"]) == {"C"}
    assert set(obs["batch"]) == {"b"}


def test_a_table_without_some_cells_or_with_one_twice_is_refused(tmp_path, refuses):
    path, table = write_mtx(tmp_path / "s", counts()), tmp_path / "obs.csv"
    obs_of().iloc[3:].to_csv(table, index_label="barcode")
    says = ["obs.csv: 3 of 31 cells of", "are not in column 'barcode'", "'cell0', 'cell1', 'cell2'", "has 'cell3'"]
    refuses(says, open_counts, path, table=table)
    pd.concat([obs_of(), obs_of().iloc[:1]]).to_csv(table, index_label="barcode")
    refuses(["obs.csv: cell names (column 'barcode') 'cell0' appear(s) more than once"], open_counts, path, table=table)
    refuses(["nothing.csv: no such file"], open_counts, path, table=tmp_path / "nothing.csv")


def test_a_missing_file_is_refused(tmp_path, refuses):
    write_h5ad(tmp_path / "screen_one.h5ad", counts())
    refuses(["no such file", "Did you mean 'screen_one.h5ad'"], open_counts, tmp_path / "screen_two.h5ad")


@pytest.mark.parametrize("name", ["s.csv", "s.loom", "s"])
def test_another_suffix_is_refused(tmp_path, name, refuses):
    (tmp_path / name).write_text("x")
    refuses([f"{name}: counts are read from .h5ad, .zarr, a 10x .h5 or a folder"], open_counts, tmp_path / name)


def test_a_folder_without_a_matrix_is_refused(tmp_path, refuses):
    refuses(["no matrix.mtx (also .gz)", "barcodes.tsv"], open_counts, tmp_path)
    for name in ("barcodes.tsv", "features.tsv"):
        folder = write_mtx(tmp_path / name, counts())
        (folder / name).unlink()
        refuses([f"{name}: no {name}"], open_counts, folder)


@pytest.mark.parametrize("name", ["csr.h5ad", "csc.h5ad", "dense.h5ad", "10x.h5"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_hdf5_file_is_refused(tmp_path, name, share, refuses):
    path = write(tmp_path, name, counts())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuses([f"{name}: cannot be read as", "Is it complete?"], open_counts, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_part_of_an_hdf5_file_is_refused(tmp_path, kind, refuses):
    path, matrix = tmp_path / "s.h5ad", np.random.default_rng(0).poisson(5, (300, GENES))
    to_adata(matrix, kind).write_h5ad(path, compression="gzip")
    with h5py.File(path, "r") as handle:
        place = handle["X" if kind == "dense" else "X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 50 : place.byte_offset + place.size] = b"\xff" * (place.size - 50)
    path.write_bytes(bytes(content))
    refuses(["s.h5ad: ", "cannot be read", "Is it complete?"], lambda: [*open_counts(path).chunks(10**6)])


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_a_truncated_zarr_chunk_is_refused(tmp_path, kind, refuses):
    path = write_h5ad(tmp_path / "s.zarr", counts(), kind)
    place = path / "X" / ("" if kind == "dense" else "data")
    # Not the metadata, which may be kept a second time at the top.
    files = [p for p in place.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr"))]
    chunk = max(files, key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    refuses(["s.zarr: ", "cannot be read"], lambda: [*open_counts(path).chunks(10**6)])


def test_a_foreign_file_is_refused(tmp_path, refuses):
    for name in ("s.h5ad", "s.h5"):
        (tmp_path / name).write_text("something else")
        refuses([f"{name}: cannot be read as"], open_counts, tmp_path / name)
    (tmp_path / "s.zarr").mkdir()
    refuses(["s.zarr: cannot be read as zarr"], open_counts, tmp_path / "s.zarr")
    path = write_h5ad(tmp_path / "t.h5ad", counts()).rename(tmp_path / "t.h5")
    refuses(["t.h5: no group 'matrix'", "'X'", "version 3 or later"], open_counts, path)


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_an_h5ad_of_old_anndata_is_refused_with_advice(tmp_path, refuses):
    path, matrix = write_h5ad(tmp_path / "s.h5ad", counts()), counts()
    with h5py.File(path, "r+") as handle:
        for name, table in (("obs", obs_of()), ("var", var_of())):
            del handle[name]
            kinds = [(c, "S20") for c in ("index", *table.columns)]
            handle[name] = np.array([tuple(row) for row in table.astype("S20").to_records()], dtype=kinds)
        for key in [*handle["X"].attrs]:
            del handle["X"].attrs[key]
        handle["X"].attrs["h5sparse_format"], handle["X"].attrs["h5sparse_shape"] = "csr", matrix.shape
    np.testing.assert_array_equal(anndata.read_h5ad(path).X.toarray(), matrix)
    refuses(["s.h5ad", "before 0.7", "Write it again"], open_counts, path)


def damage(path, **parts):
    """Replace arrays of the sparse matrix of an h5ad file; None removes one."""
    with h5py.File(path, "r+") as handle:
        for name, change in parts.items():
            old = handle["X"][name][:]
            del handle["X"][name]
            if change is not None:
                handle["X"][name] = change(old)


def put(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


DAMAGES = {
    "data short": ({"data": lambda a: a[:-1]}, ["damaged"]),
    "indices short": ({"indices": lambda a: a[:-1]}, ["damaged"]),
    "index too large": ({"indices": put(3, 10**6)}, ["a value is stored for", "1000001"]),
    "index negative": ({"indices": put(3, -1)}, ["a value is stored for"]),
}


@pytest.mark.parametrize("max_values", [1, 10**6])
@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_a_sparse_matrix_that_contradicts_itself_is_refused(tmp_path, kind, what, max_values, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts(), kind)
    parts, says = DAMAGES[what]
    damage(path, **parts)
    refuses(["s.h5ad: ", *says], lambda: [*open_counts(path).chunks(max_values)])


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: np.append(a, a[-1]), lambda a: a[:0]])
@pytest.mark.parametrize(
    ("kind", "says"), [("csr", "cells but there are 31 annotated cells"), ("csc", "but 17 are named")]
)
def test_more_or_fewer_rows_than_annotated_are_refused(tmp_path, kind, says, change, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts(), kind)
    damage(path, indptr=change)
    refuses(["s.h5ad: the matrix has", says], open_counts, path)


@pytest.mark.parametrize(
    "kind",
    ["csr", "csc"],
)
def test_descending_row_bounds_are_refused(tmp_path, kind, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts() + 1, kind)
    damage(path, indptr=put(5, 0))
    refuses(["s.h5ad: the matrix is damaged"], lambda: [*open_counts(path).chunks(50)])


@pytest.mark.parametrize(
    "kind",
    ["csr", "dense", "csc"],
)
def test_a_matrix_of_text_is_refused(tmp_path, kind, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts(), kind)
    with h5py.File(path, "r+") as handle:
        name = "X" if kind == "dense" else "X/data"
        values, attributes = handle[name][:].astype("S4"), dict(handle[name].attrs)
        del handle[name]
        handle[name] = values
        handle[name].attrs.update(attributes)
    refuses(["s.h5ad: the matrix holds |S4, not numbers"], open_counts, path)


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_sparse_matrix_without_one_of_its_arrays_is_refused(tmp_path, kind, part, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts(), kind)
    damage(path, **{part: None})
    refuses(["s.h5ad: ", part], lambda: [*open_counts(path).chunks(50)])


@pytest.mark.parametrize(
    "kind",
    ["csr", "dense",
     "csc"],
)  # fmt: skip
def test_more_annotated_cells_than_the_matrix_has_are_refused(tmp_path, kind, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", counts(), kind)
    with h5py.File(path, "r+") as handle:
        del handle["obs"]
        anndata.io.write_elem(handle, "obs", obs_of(CELLS + 5))
    refuses(["s.h5ad: "], lambda: [*open_counts(path).chunks(50)])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_file_is_refused(tmp_path, shape, refuses):
    path = write_h5ad(tmp_path / "s.h5ad", np.zeros(shape, dtype=int))
    refuses([f"s.h5ad: empty ({shape[0]} cells, {shape[1]} genes)"], open_counts, path)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, dtype) for kind in KINDS for dtype in ("int64", "uint32")), ("csr", "int32"), ("dense", "int32"),
        ("csc", "int32"),
    ],
)  # fmt: skip
def test_a_large_count_is_given_as_it_is_or_refused(tmp_path, kind, dtype):
    matrix = counts()
    matrix[4, 4] = 2**24 + 1
    path = write_h5ad(tmp_path / "s.h5ad", matrix, kind, dtype)
    try:
        read = reassembled(open_counts(path), 50)
    except InputError as error:
        assert "s.h5ad: a count of 16777217 is not a UMI" in str(error)
    else:
        np.testing.assert_array_equal(read, matrix)


def last_line(text, new):
    return text[: text.rstrip("\n").rfind("\n") + 1] + new


MTX_DAMAGES = {
    "without the last entry": (lambda t: last_line(t, ""), "entries announced"),
    "last entry cut at the cell": (lambda t: last_line(t, "16 "), "Is it complete?"),
    "half": (lambda t: t[: t.find("\n", len(t) // 2) + 1], "entries announced"),
    "one entry too many": (lambda t: t + f"2 {CELLS} 1\n", "entries announced"),
    "not a number": (lambda t: last_line(t, f"16 {CELLS} x\n"), "Is it complete?"),
    "gene number 0": (lambda t: last_line(t, f"0 {CELLS} 1\n"), "lies outside the matrix"),
    "gene number too large": (lambda t: last_line(t, f"18 {CELLS} 1\n"), "lies outside the matrix"),
    "cell number too large": (lambda t: last_line(t, f"1 {CELLS + 1} 1\n"), "lies outside the matrix"),
    "an earlier cell at the end": (lambda t: last_line(t, "1 1 1\n"), "not sorted by cell"),
    "size line missing": (lambda t: t[: t.rfind("%") + 2], "Is it complete?"),
    "empty": (lambda t: "", "no size line"),
    "size line in words": (lambda t: t.replace(f"{GENES} {CELLS} ", "many few "), "cannot be read"),
    "fewer cells": (lambda t: t.replace(f"{GENES} {CELLS} ", f"{GENES} 30 "), "17 features x 30 barcodes, but 17 features and 31"),
    "fewer genes": (lambda t: t.replace(f"{GENES} {CELLS} ", f"16 {CELLS} "), "16 features x 31 barcodes, but 17 features and 31"),
    "dense": (lambda t: t.replace("coordinate", "array"), "not a MatrixMarket coordinate file"),
}  # fmt: skip


@pytest.mark.parametrize(("gz", "max_values"), [(False, 1), (False, 10**6), (True, 50)])
@pytest.mark.parametrize("what", MTX_DAMAGES)
def test_a_damaged_mtx_is_refused(tmp_path, what, gz, max_values, refuses):
    change, says = MTX_DAMAGES[what]
    folder = write_mtx(tmp_path / "s", counts() + np.eye(CELLS, GENES, dtype=int), gz=False)
    text = change((folder / "matrix.mtx").read_text())
    if gz:
        (folder / "matrix.mtx").unlink()
        (folder / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "matrix.mtx").write_text(text)
    refuses(["matrix.mtx", says], lambda: [*open_counts(folder).chunks(max_values)])


def test_an_mtx_cut_before_the_last_value_is_refused(tmp_path, refuses):
    folder = write_mtx(tmp_path / "s", counts() + 1)
    text = (folder / "matrix.mtx").read_text().rstrip()
    (folder / "matrix.mtx").write_text(text[: text.rfind(" ") + 1])
    refuses(["matrix.mtx", "omplete?"], lambda: [*open_counts(folder).chunks(50)])


@pytest.mark.parametrize("text", ["", "%%MatrixMarket matrix array integer general\n3 3\n"])
def test_a_bad_mtx_header_is_told_once(tmp_path, text):
    folder = write_mtx(tmp_path / "s", counts())
    (folder / "matrix.mtx").write_text(text)
    with pytest.raises(ValueError) as caught:
        open_counts(folder)
    assert str(caught.value).count(str(folder)) == 1


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_a_truncated_gz_is_refused(tmp_path, name, refuses):
    folder = write_mtx(tmp_path / "s", np.random.default_rng(0).poisson(2, (400, GENES)), gz=True)
    whole = (folder / name).read_bytes()
    for end in (5, len(whole) // 2, -4):
        (folder / name).write_bytes(whole[:end])
        refuses(["cannot be read", "Is it complete?"], lambda: [*open_counts(folder).chunks(10**6)])


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
def test_a_damaged_gz_is_refused(tmp_path, name, refuses):
    folder = write_mtx(tmp_path / "s", np.random.default_rng(0).poisson(2, (400, GENES)), gz=True)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:10] + b"\xff" * (len(whole) - 10))
    refuses(["cannot be read", "Is it complete?"], lambda: [*open_counts(folder).chunks(10**6)])


@pytest.mark.parametrize("max_values", [1, 5, 10**6])
def test_an_unsorted_mtx_is_refused(tmp_path, max_values, refuses):
    def by_gene(n):
        return np.random.default_rng(0).permutation(n)

    folder = write_mtx(tmp_path / "s", counts(), order=by_gene)
    refuses(
        ["matrix.mtx: entries are not sorted by cell near entry", "h5ad"],
        lambda: [*open_counts(folder).chunks(max_values)],
    )


def test_within_a_cell_of_an_mtx_any_order_will_do(tmp_path):
    def backwards(n):
        cells = np.nonzero(counts())[0]
        return sorted(range(n), key=lambda k: (cells[k], -k))

    folder = write_mtx(tmp_path / "s", counts(), order=backwards)
    np.testing.assert_array_equal(reassembled(open_counts(folder), 11), counts())


def with_value(tmp_path, kind, value, cell=5, gene=7, matrix=None):
    matrix = counts().astype(np.float64) if matrix is None else matrix
    matrix[cell, gene] = value
    return write(tmp_path, f"{kind}.h5ad", matrix)


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "already", "says"),
    [
        (-1, False, ["has -1: counts cannot be negative", "Was the matrix scaled?", "--layer NAME or raw"]),
        (0.5, False, ["has 0.5, which is not a whole number", "--layer NAME or raw", "--already-normalised"]),
        (np.nan, False, ["has nan: NaN or infinite values"]),
        (np.inf, False, ["has inf: NaN or infinite values"]),
        (-0.25, True, ["has -0.25: counts cannot be negative, nor normalised logarithms"]),
        (np.nan, True, ["has nan: NaN or infinite values"]),
    ],
)
def test_values_that_are_no_counts_are_refused(tmp_path, kind, value, already, says, n_jobs, refuses):
    path = with_value(tmp_path, kind, value, matrix=np.minimum(counts(), 8).astype(np.float64))
    cells = open_cells([path], PrepareOptions(min_cells=1, already_normalised=already))
    refuses([f"{path}: cell 'cell5', gene 'ENSG7'", *says], prepare, cells, n_jobs=n_jobs, chunk_values=20)


def test_an_odd_value_in_the_second_file_is_named_there(tmp_path, refuses):
    first = write(tmp_path, "csr.h5ad", counts())
    second = with_value(tmp_path, "dense", 1.5)
    cells = open_cells([first, second], PrepareOptions(min_cells=1))
    refuses([f"{second}: cell 'cell5', gene 'ENSG7' has 1.5"], prepare, cells, n_jobs=2)


def test_scaled_data_are_refused(tmp_path, refuses):
    logs = np.log1p(counts().astype(np.float64))
    scaled = (logs - logs.mean(axis=0)) / (logs.std(axis=0) + 1)
    path = write(tmp_path, "dense.h5ad", scaled)
    for already in (False, True):
        cells = open_cells([path], PrepareOptions(min_cells=1, already_normalised=already))
        refuses(["counts cannot be negative", "Was the matrix scaled?"], prepare, cells, n_jobs=1)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [(0.5, np.nan, "NaN or infinite"), (0.5, -2.0, "cannot be negative"), (-2.0, np.nan, "NaN or infinite")],
)
def test_the_complaint_is_about_the_value_that_is_named(tmp_path, first, second, says):
    matrix = counts().astype(np.float64)
    matrix[5, 7], matrix[8, 3] = first, second
    cells = open_cells([write(tmp_path, "csr.h5ad", matrix)], PrepareOptions(min_cells=1))
    with pytest.raises(ValueError) as caught:
        prepare(cells, n_jobs=1)
    assert (says in str(caught.value)) == (f"has {second:g}" in str(caught.value)), str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_said_to_be_logarithms_are_refused(tmp_path, kind, refuses):
    cells = open_cells(
        [write(tmp_path, f"{kind}.h5ad", counts())], PrepareOptions(min_cells=1, already_normalised=True)
    )
    largest = f"values up to {counts().max():g} cannot be log1p"
    refuses([largest, "Leave out --already-normalised"], prepare, cells, n_jobs=1)


def test_logarithms_said_to_be_counts_are_refused(tmp_path, refuses):
    cells = open_cells([write(tmp_path, "csr.h5ad", np.log1p(counts()))], PrepareOptions(min_cells=1))
    refuses(["which is not a whole number", "--already-normalised"], prepare, cells, n_jobs=1)


def fetchers():
    return [t for t in threading.enumerate() if t is not threading.main_thread()]


@pytest.mark.parametrize("ahead", [1, 3])
def test_prefetched_gives_the_same_items(ahead):
    assert [*prefetched(range(100), ahead)] == [*range(100)]
    assert [*prefetched([], ahead)] == []
    assert [*prefetched([None, 0, False], ahead)] == [None, 0, False]


def test_prefetched_fetches_while_the_item_is_used():
    fetched = threading.Event()

    def items():
        yield 1
        fetched.set()
        yield 2

    taken = prefetched(items())
    assert next(taken) == 1
    assert fetched.wait(5)
    assert [*taken] == [2]


@pytest.mark.parametrize("error", [ValueError("damaged"), KeyboardInterrupt()])
def test_prefetched_hands_on_errors_after_the_items_before(error):
    def items():
        yield 1
        yield 2
        raise error

    before, taken = fetchers(), []
    with pytest.raises(type(error)) as caught:
        for item in prefetched(items()):
            taken.append(item)
    assert caught.value is error
    assert taken == [1, 2]
    assert fetchers() == before


def test_prefetched_stops_its_thread_when_no_more_is_wanted():
    drawn = []

    def items():
        for k in range(10**9):
            drawn.append(k)
            yield k

    before, taken = fetchers(), prefetched(items(), ahead=2)
    assert [next(taken), next(taken)] == [0, 1]
    assert len(fetchers()) == len(before) + 1
    taken.close()
    assert fetchers() == before
    number = len(drawn)
    assert number <= 6
    time.sleep(0.15)
    assert len(drawn) == number


def test_closing_lets_go_of_the_file(tmp_path):
    for name in ("csr.h5ad", "csc.h5ad", "dense.h5ad", "10x.h5"):
        source = open_counts(write(tmp_path, name, counts()))
        source.close()
        with h5py.File(tmp_path / name, "r+") as handle:
            handle.attrs["changed"] = 1
    folder = write(tmp_path, "mtx", counts())
    open_counts(folder).close()
    shutil.rmtree(folder)

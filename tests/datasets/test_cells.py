"""Original deposits in their real layout of columns, through panmodal prepare."""

import gzip
import shlex

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from panmodal.cells.prepare import open_cells, prepare
from panmodal.datasets.cache import cache_folder
from panmodal.datasets.cells import cell_files, keeps, make_ready, prepare_command, prepare_options, table_path
from panmodal.datasets.convert import convert_sciplex3
from panmodal.datasets.record import Keep
from panmodal.datasets.registry import dataset
from panmodal.screens.screen import Screen

GENES = [f"ENSG{k:011d}" for k in range(12)]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PANMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PANMODAL_DATASETS", raising=False)
    return tmp_path / "cache"


def place(name, k=0):
    path = cache_folder() / name / dataset(name).files[k].path
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def make(name):
    return prepare(open_cells(cell_files(name), prepare_options(name)), name=name, n_jobs=1)


def log_normalised(counts):
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def write_legacy(path, counts, obs, var):
    """Write an h5ad as anndata did in 2021: dense X, categories in a group of their own."""
    with h5py.File(path, "w") as handle:
        handle["X"] = counts.astype(np.float32)
        for name, frame in (("obs", obs), ("var", var)):
            group = handle.create_group(name)
            group.attrs.update({"_index": frame.index.name, "encoding-type": "dataframe", "encoding-version": "0.1.0"})
            group.attrs.create("column-order", list(frame.columns), dtype=h5py.string_dtype())
            group.create_dataset(frame.index.name, data=list(frame.index), dtype=h5py.string_dtype())
            sets = group.create_group("__categories")
            for column in frame.columns:
                if frame[column].dtype.kind in "if":
                    group[column] = frame[column].to_numpy()
                    continue
                coded = pd.Categorical(frame[column])
                sets.create_dataset(column, data=list(coded.categories), dtype=h5py.string_dtype())
                group[column] = coded.codes
                group[column].attrs["categories"] = sets[column].ref


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_essential(cli, home):
    rng = np.random.default_rng(0)
    kept = {}
    for k, context in enumerate(("K-562", "hTERT-RPE1", "Hep-G2", "Jurkat")):
        targets = np.array(["non-targeting", *GENES[:3]])[rng.integers(0, 4, 120)]
        counts = rng.poisson(5.0, (120, 12))
        obs = pd.DataFrame({
            "gem_group": rng.integers(1, 4, 120), "gene": [f"S{t[-1]}" if t != "non-targeting" else t for t in targets], "gene_id": targets,
            "transcript": "P1P2", "gene_transcript": targets, "sgID_AB": targets, "mitopercent": 0.1, "UMI_count": counts.sum(1).astype(float),
            "z_gemgroup_UMI": 0.0, "core_scale_factor": 1.0, "core_adjusted_UMI_count": 1.0,
        }, index=pd.Index([f"{context}-{i}" for i in range(120)], name="cell_barcode"))  # fmt: skip
        var = pd.DataFrame({"gene_name": [f"S{g}" for g in range(12)]}, index=pd.Index(GENES, name="gene_id"))
        write_legacy(place("essential-cells", k), counts, obs, var)
        kept[context] = (counts, obs)
    assert make_ready("essential-cells") == []
    screen = make("essential-cells")
    assert screen.contexts == sorted(kept) and screen.pert_ids == GENES[:3] and screen.readouts == GENES
    counts, obs = kept["Jurkat"]
    values = pd.DataFrame(log_normalised(counts), index=obs.index)
    means = values.groupby([obs["gene_id"], obs["gem_group"]]).mean().groupby(level=0).mean()
    ids, found = screen.responses("Jurkat")
    expected = means.loc[ids] - means.loc["non-targeting"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    out = home.parent / "essential.h5ad"
    cli(*shlex.split(prepare_command("essential-cells", out=str(out)))[1:])
    np.testing.assert_array_equal(Screen.read(out).responses("Jurkat")[1], found)


def test_norman_pairs(home):
    rng = np.random.default_rng(1)
    labels = np.array(["control", "AHR", "KLF1", "AHR_KLF1"])[rng.integers(0, 4, 160)]
    obs = pd.DataFrame({
        "guide_id": labels, "gemgroup": rng.integers(1, 3, 160), "tissue_type": "cell_line", "cell_line": "K562", "perturbation": labels,
        "perturbation_type": "CRISPR", "nperts": [0 if x == "control" else x.count("_") + 1 for x in labels],
    }, index=[f"c{i}" for i in range(160)])  # fmt: skip
    path = place("norman-cells")
    anndata.AnnData(csr_matrix(rng.poisson(4.0, (160, 12)).astype(np.float32)), obs=obs,
                    var=pd.DataFrame({"ensemble_id": GENES}, index=[f"S{k}" for k in range(12)])).write_h5ad(path)  # fmt: skip
    table = table_path("norman-cells")
    assert make_ready("norman-cells") == [table] and make_ready("norman-cells") == []
    screen = make("norman-cells")
    assert screen.pert_ids == ["AHR", "AHR+KLF1", "KLF1"] and screen.contexts == ["K-562"]
    assert "--rule matched" in prepare_command("norman-cells") and f"--obs {table}" in prepare_command("norman-cells")


def sciplex_files(rng, n=240, genes=12, shuffle=True):
    drugs = np.array(["Vehicle", "Trametinib", "Pracinostat (SB939)"])[rng.integers(0, 3, n)]
    counts = rng.poisson(2.0, (n, genes))
    dose = np.where(drugs == "Vehicle", 0.0, rng.choice([10.0, 10000.0], n))
    obs = pd.DataFrame({
        "cell": [f"A01_{i}" for i in range(n)], "Size_Factor": 1.0, "n.umi": counts.sum(1), "cell_type": rng.choice(["A549", "MCF7"], n),
        "dose": dose, "product_name": drugs, "plate_oligo": rng.choice(["plate1", "plate2"], n), "replicate": "rep1",
    }, index=[f"A01_{i}" for i in range(n)])  # fmt: skip
    obs.loc[obs.index[:5], ["cell_type", "dose", "product_name", "plate_oligo"]] = np.nan
    matrix, cells, names = (place("sciplex3-cells", k) for k in range(3))
    at = np.argwhere(counts > 0)
    if shuffle:
        rng.shuffle(at)
    with gzip.open(matrix, "wt") as stream:
        stream.writelines(f"{g + 1}\t{c + 1}\t{counts[c, g]}\n" for c, g in at)
    obs.to_csv(cells, sep=" ", compression="gzip")
    pd.DataFrame({"id": GENES, "gene_short_name": [f"S{k}" for k in range(12)]}).to_csv(
        names, sep=" ", index=False, compression="gzip"
    )
    return counts, obs


def test_sciplex3(home):
    counts, obs = sciplex_files(np.random.default_rng(2))
    written = make_ready("sciplex3-cells")
    assert [p.name for p in written] == ["sciplex3-cells.h5ad", "sciplex3-cells.cells.parquet"]
    made = anndata.read_h5ad(written[0])
    np.testing.assert_array_equal(made.X.toarray(), counts)
    assert (
        list(made.obs_names) == list(obs["cell"])
        and list(made.var_names) == GENES
        and made.var["gene_name"].iloc[3] == "S3"
    )
    assert not [p for p in written[0].parent.iterdir() if p.name.startswith(".convert")]
    screen = make("sciplex3-cells")
    assert screen.contexts == ["A549", "MCF7"] and screen.pert_ids == ["Pracinostat (SB939)", "Trametinib"]
    values = log_normalised(counts[:, :].astype(float))
    rows = (obs["cell_type"] == "A549").to_numpy()
    both = []
    for plate in ("plate1", "plate2"):
        here = rows & (obs["plate_oligo"] == plate).to_numpy()
        drug = here & (obs["product_name"] == "Trametinib").to_numpy() & (obs["dose"] == 10000).to_numpy()
        both.append(values[drug].mean(0) - values[here & (obs["product_name"] == "Vehicle").to_numpy()].mean(0))
    ids, found = screen.responses("A549")
    np.testing.assert_allclose(found[ids.index("Trametinib")], np.mean(both, axis=0), atol=1e-5)


@pytest.mark.parametrize("lines", [7, 10**6])
def test_conversion_does_not_depend_on_how_it_is_read(home, tmp_path, lines):
    counts, _ = sciplex_files(np.random.default_rng(3), n=40)
    paths = [place("sciplex3-cells", k) for k in range(3)]
    convert_sciplex3(*paths, tmp_path / "a.h5ad", lines=lines)
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "a.h5ad").X.toarray(), counts)


def test_conversion_refuses(home, tmp_path, refuses):
    sciplex_files(np.random.default_rng(3), n=40)
    matrix, cells, genes = (place("sciplex3-cells", k) for k in range(3))
    good = matrix.read_bytes()
    for text, says in (
        ("1\t41\t2\n", "holds cell 41"),
        ("0\t1\t2\n", "gene"),
        ("a\tb\tc\n", "lines of gene, cell and count"),
        ("", "gene, cell"),
    ):
        matrix.write_bytes(gzip.compress(text.encode()))
        refuses([matrix.name, says], convert_sciplex3, matrix, cells, genes, tmp_path / "a.h5ad")
    matrix.write_bytes(good[: len(good) // 2])
    refuses([matrix.name, "complete"], convert_sciplex3, matrix, cells, genes, tmp_path / "a.h5ad")
    matrix.write_bytes(good)
    cells.write_bytes(gzip.compress(b"cell n.umi\na 1\n"))
    refuses([cells.name, "product_name"], convert_sciplex3, matrix, cells, genes, tmp_path / "a.h5ad")
    sciplex_files(np.random.default_rng(3), n=40)
    genes.unlink()
    refuses(["no such file"], convert_sciplex3, matrix, cells, genes, tmp_path / "a.h5ad")
    assert not (tmp_path / "a.h5ad").exists()


def test_tahoe(home):
    rng = np.random.default_rng(4)
    drugs = ["DMSO_TF", "Trametinib", "Verteporfin", "Sacubitril/Valsartan", "Afatinib "]
    for k in range(14):
        chosen = rng.integers(0, 5, 200)
        dose = np.where(chosen == 0, 0.0, rng.choice([0.05, 5.0], 200))
        text = [f"[('{drugs[c]}', {d}, 'uM')]" if drugs[c] != "Sacubitril/Valsartan" else f"[('Sacubitril', {d}, 'uM'), ('Valsartan', {d}, 'uM')]"
                for c, d in zip(chosen, dose, strict=True)]  # fmt: skip
        obs = pd.DataFrame({
            "sample": "smp", "gene_count": 1, "tscp_count": 1, "drugname_drugconc": text, "drug": [drugs[c] for c in chosen],
            "cell_line": rng.choice(["CVCL_0023", "CVCL_1571"], 200), "pass_filter": rng.choice(["full", "minimal"], 200), "plate": f"plate{k + 1}",
        }, index=pd.Index([f"{k}_{i}" for i in range(200)], name="BARCODE_SUB_LIB_ID"))  # fmt: skip
        for column in ("drugname_drugconc", "drug", "cell_line", "pass_filter", "plate"):
            obs[column] = obs[column].astype("category")
        anndata.AnnData(csr_matrix(rng.poisson(3.0, (200, 12)).astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(
            place("tahoe-cells", k))  # fmt: skip
    assert len(make_ready("tahoe-cells")) == 1
    screen = make("tahoe-cells")
    assert screen.pert_ids == ["Afatinib", "Trametinib"] and screen.contexts == ["CVCL_0023"]
    table = pd.read_parquet(table_path("tahoe-cells"))
    assert len(table) == 14 * 200 and set(table["panmodal_keep"]) == {"yes", "no"}


def test_conditions(refuses):
    obs = pd.DataFrame(
        {"d": ["0.0", "10000.0", None, "10"], "n": [0.0, 10000.0, np.nan, 10.0], "t": ["[('A', 5.0, 'uM')]"] * 4}
    )
    for column in ("d", "n"):
        assert keeps(obs, Keep(column=column, values=(0, 10000)), "x").tolist() == [True, True, False, False]
    assert keeps(obs, Keep(column="d", without=("10",)), "x").tolist() == [True, True, True, False]
    assert keeps(obs, Keep(column="t", values=(5,), dose=True), "x").all()
    refuses(["x", "nix"], keeps, obs, Keep(column="nix", values=(1,)), "x")
    refuses(["x", "no cell", "'d'"], keeps, obs, Keep(column="d", values=(3,)), "x")
    refuses(["x", "no dose"], keeps, obs, Keep(column="d", values=(3,), dose=True), "x")


def test_not_raw_cells(refuses):
    refuses(["essential-lfc", "not raw cells"], prepare_command, "essential-lfc")


@pytest.mark.parametrize("name", ["essential-cells", "norman-cells", "sciplex3-cells", "tahoe-cells"])
def test_command_names_only_options_that_there_are(name):
    words = shlex.split(prepare_command(name))
    flags = {w for w in words if w.startswith("--")}
    import inspect

    from panmodal.cli_cells import prepare as command

    known = {"--" + p.replace("_", "-") for p in inspect.signature(command).parameters}
    assert flags <= known

"""The adapter to helical, against a small stand-in with the same interface.

The stand-in follows the source of helical 2.2: the classes and their config arguments, what process_data accepts and writes into the
AnnData, and what get_embeddings returns in gene mode. It is not helical: no weights, no transformer.
"""

import importlib
import sys
import textwrap

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal.cells.simulate import simulate_cells
from panmodal.embeddings.builders import get_builder
from panmodal.embeddings.builders.helical import CELLS_AT_ONCE, FAMILIES, MODELS, GeneMeans, build_cell_model
from panmodal.embeddings.embed import make_embedding, regenerate

pytest.importorskip("torch")

COMMON = '''
import numpy as np
import pandas as pd
from pathlib import Path
from scipy.sparse import csr_matrix
from helical.constants.paths import CACHE_DIR_HELICAL

CALLS = []


def vector(gene, count, width=4):
    """What the "model" makes of a gene in a cell."""
    base = np.random.default_rng(abs(hash_of(gene)) % 2**32).standard_normal(width)
    return (base * np.log1p(count)).astype(np.float32)


def hash_of(text):
    return sum((k + 1) * ord(c) for k, c in enumerate(text))


def download(files):
    for name in files:
        path = Path(CACHE_DIR_HELICAL) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights of " + name)


class Rna:
    def ensure_rna_data_validity(self, adata, gene_names, use_raw_counts=True):
        if gene_names == "index":
            adata.var["index"] = adata.var.index
        if gene_names not in adata.var:
            raise KeyError("Data must have the provided key")
        assert isinstance(adata.X, csr_matrix)
        adata.obs["total_counts"] = adata.X.sum(axis=1)
        if not (adata.obs["total_counts"] % 1 == 0).all():
            raise ValueError("The data in X must be integers.")

    def to_ensembl(self, adata, gene_names):
        """Symbols SIMG0001 -> ENSG...; the last of them is not known; two share an id."""
        if gene_names == "ensembl_id":
            return adata
        if adata.var[gene_names].str.startswith("ENS").all():
            raise ValueError("Please set gene_names='ensembl_id'")
        known = [f"ENSG{g[-4:]}" for g in adata.var[gene_names]]
        known[-1] = None
        known[1] = known[0]
        adata.var["ensembl_id"] = known
        return adata


def series(adata, names, limit=None, pad=None):
    """For each cell the vectors of its expressed genes, padded as the tokenisers pad."""
    out = []
    for row in adata.X.toarray():
        seen = {n: vector(n, c) for n, c in zip(names, row) if c > 0 and isinstance(n, str)}
        if pad:
            seen[pad] = np.full(4, 99.0, dtype=np.float32)
        out.append(pd.Series(seen))
    return out
'''

GENEFORMER = """
from helical._common import *


class GeneformerConfig:
    def __init__(self, model_name="gf-12L-38M-i4096", batch_size=24, emb_layer=-1, emb_mode="cell", device="cpu", nproc=1,
                 output_attentions=False, custom_attr_name_dict=None):
        if not model_name.startswith("gf-"):
            raise ValueError(f"Model name {model_name} not found in available models")
        self.list_of_files_to_download = [f"geneformer/{model_name}/model.safetensors"]
        self.config = {"model_name": model_name, "emb_mode": emb_mode, "device": device, "batch_size": batch_size}


class Geneformer(Rna):
    def __init__(self, configurer):
        assert configurer.config["emb_mode"] == "gene"
        download(configurer.list_of_files_to_download)

    def process_data(self, adata, gene_names="index", output_path=None, use_raw_counts=True):
        CALLS.append((adata.n_obs, gene_names))
        self.ensure_rna_data_validity(adata, gene_names, use_raw_counts)
        return self.to_ensembl(adata, gene_names)

    def get_embeddings(self, dataset, output_attentions=False, output_genes=False):
        return series(dataset, list(dataset.var["ensembl_id"]), pad="<pad>")
"""

SCGPT = """
from helical._common import *


class scGPTConfig:
    def __init__(self, pad_token="<pad>", batch_size=24, emb_mode="cell", accelerator=False, device="cpu", binning_seed=123):
        self.config = {"list_of_files_to_download": ["scgpt/best_model.pt"], "emb_mode": emb_mode}


class scGPT(Rna):
    def __init__(self, configurer):
        assert configurer.config["emb_mode"] == "gene"
        download(configurer.config["list_of_files_to_download"])

    def process_data(self, adata, gene_names="index", fine_tuning=False, n_top_genes=1800, flavor="seurat_v3",
                     use_batch_labels=False, use_raw_counts=True):
        CALLS.append((adata.n_obs, gene_names))
        self.ensure_rna_data_validity(adata, gene_names, use_raw_counts)
        adata.var["id_in_vocab"] = [-1 if g == "SIMG0005" else 7 for g in adata.var[gene_names]]
        if not (adata.var["id_in_vocab"] >= 0).any():
            raise ValueError("No matching genes found between input data and scGPT gene vocabulary.")
        return adata[:, adata.var["id_in_vocab"] >= 0]

    def get_embeddings(self, dataset, output_attentions=False, output_genes=False, attn_layer=-1):
        return series(dataset, list(dataset.var_names))
"""

TRANSCRIPTFORMER = """
from types import SimpleNamespace
from helical._common import *


class TranscriptFormerConfig:
    def __init__(self, model_name="tf_sapiens", batch_size=8, emb_mode="cell", output_keys=["llh"], obs_keys=["all"],
                 gene_col_name="index", clip_counts=30):
        inference = SimpleNamespace(device="cuda", emb_mode=emb_mode, batch_size=batch_size)
        data = SimpleNamespace(gene_col_name=gene_col_name)
        self.config = SimpleNamespace(model=SimpleNamespace(inference_config=inference, data_config=data))
        self.list_of_files_to_download = [f"transcriptformer/{model_name}/model_weights.pt"]


class TranscriptFormer(Rna):
    def __init__(self, configurer):
        self.config = configurer.config
        assert self.config.model.inference_config.emb_mode == "gene"
        assert self.config.model.inference_config.device == "cpu"
        assert self.config.model.data_config.gene_col_name == "index"
        download(configurer.list_of_files_to_download)

    def process_data(self, data_files):
        adata, = data_files
        CALLS.append((adata.n_obs, "index"))
        adata.obs["assay"] = "unknown"
        adata.var["index"] = adata.var_names
        if adata.var["index"].str.contains("ENS").mean() <= 0.5:
            return self.to_ensembl(adata, "index")
        adata.var["ensembl_id"] = adata.var["index"]
        return adata

    def get_embeddings(self, dataset):
        return series(dataset, list(dataset.var["ensembl_id"]), pad="[PAD]")
"""

TAHOE = """
from helical._common import *


class TahoeConfig:
    def __init__(self, model_size="70m", batch_size=8, emb_mode="cell", device="cpu", attn_impl="flash", max_length=2048,
                 num_workers=8, prefetch_factor=48, hf_repo_id="tahoebio/Tahoe-x1"):
        assert attn_impl == "torch" or device != "cpu"
        self.config = {"model_size": model_size, "emb_mode": emb_mode}


class Tahoe(Rna):
    def __init__(self, configurer):
        assert configurer.config["emb_mode"] == "gene"

    def process_data(self, adata, gene_names="index", use_raw_counts=True):
        CALLS.append((adata.n_obs, gene_names))
        self.ensure_rna_data_validity(adata, gene_names, use_raw_counts)
        return self.to_ensembl(adata, gene_names)

    def get_embeddings(self, dataloader, return_gene_embeddings=False, output_attentions=False, attn_layer=-1):
        cells = np.zeros((dataloader.n_obs, 4))
        genes = series(dataloader, list(dataloader.var["ensembl_id"]), pad="<cls>")
        return (cells, genes) if return_gene_embeddings else cells
"""


@pytest.fixture
def helical(tmp_path, monkeypatch):
    """Put the stand-in in the place of helical; return its common module."""
    site = tmp_path / "site"
    modules = {
        "__init__": "", "_common": COMMON, "models/__init__": "", "models/geneformer/__init__": GENEFORMER,
        "models/scgpt/__init__": SCGPT, "models/transcriptformer/__init__": TRANSCRIPTFORMER, "models/tahoe/__init__": TAHOE,
        "constants/__init__": "",
        "constants/paths": f"from pathlib import Path\nCACHE_DIR_HELICAL = Path({str(tmp_path / 'cache')!r})\n",
    }  # fmt: skip
    for name, text in modules.items():
        path = site / "helical" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    info = site / "helical-2.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: helical\nVersion: 2.2.0\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "helical"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield importlib.import_module("helical._common")
    for name in [n for n in sys.modules if n.partition(".")[0] == "helical"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    simulate_cells(path, n_cells=400, n_perturbations=6, n_genes=25, n_batches=2, control_share=0.5, umis=60.0, seed=5)
    return path


def expected(common, path, name=str, skip=()):
    """Mean over control cells, written plainly: gene -> (vector, number of cells)."""
    adata = anndata.read_h5ad(path)
    adata = adata[(adata.obs["perturbation"] == "non-targeting").to_numpy()]
    out = {}
    for k, gene in enumerate(adata.var_names):
        counts = adata.X[:, [k]].toarray().ravel()
        seen = [common.vector(name(gene), c) for c in counts if c > 0]
        if seen and gene not in skip:
            out[gene] = np.mean(seen, axis=0), len(seen)
    return out


def check(built, wanted, least):
    assert set(built.ids) == {g for g, (_, n) in wanted.items() if n >= least}
    assert list(built.ids) == sorted(built.ids)
    for gene, row in zip(built.ids, built.vectors, strict=True):
        np.testing.assert_allclose(row, wanted[gene][0], rtol=1e-5)


def test_scgpt_takes_symbols(helical, cells):
    wanted = expected(helical, cells, skip={"SIMG0005"})
    least = sorted(k for _, k in wanted.values())[8]
    built = build_cell_model(cells=(cells,), model="scgpt", n_cells=10_000, min_cells=least, device="cpu")
    check(built, wanted, least)
    n = sum(anndata.read_h5ad(cells).obs["perturbation"] == "non-targeting")
    assert built.left_out["SIMG0005"].startswith(f"not read by scgpt in any of {n} cells")
    rare = next(g for g, (_, k) in wanted.items() if k < least)
    assert built.left_out[rare] == f"read by scgpt in {wanted[rare][1]} of {n} cells, fewer than {least}"
    assert set(built.left_out) | set(built.ids) == set(anndata.read_h5ad(cells).var_names)
    assert {name for _, name in helical.CALLS} == {"index"}
    assert max(n for n, _ in helical.CALLS) == CELLS_AT_ONCE
    assert sum(n for n, _ in helical.CALLS) == n
    assert built.models["scgpt"].startswith("sha256:")
    assert built.card["trained_on"] == ("CELLxGENE",)
    assert built.card["simulated"] is True
    assert "scgpt on cpu, helical 2.2.0" in built.notes


@pytest.mark.parametrize("model", ["geneformer-gf-12L-38M-i4096", "transcriptformer-sapiens", "tahoe-x1-70m"])
def test_symbols_are_mapped_by_helical_and_come_back(helical, cells, model):
    built = build_cell_model(cells=(cells,), model=model, n_cells=10_000, min_cells=3, device="cpu")
    names = list(anndata.read_h5ad(cells).var_names)
    wanted = expected(helical, cells, lambda g: f"ENSG{g[-4:]}", skip={*names[:2], names[-1]})
    # The first two symbols share an id: its vectors count for the first.
    assert set(built.ids) - {names[0]} == {g for g, (_, n) in wanted.items() if n >= 3}
    rows = [list(built.ids).index(g) for g in wanted if wanted[g][1] >= 3]
    np.testing.assert_allclose(built.vectors[rows], [v for v, n in wanted.values() if n >= 3], rtol=1e-5)
    assert built.left_out[names[-1]].endswith("(unmapped, or another gene's id)")
    assert built.left_out[names[1]].endswith("(unmapped, or another gene's id)")
    assert not any(i.startswith(("<", "[")) for i in built.ids)


@pytest.mark.parametrize("model", ["geneformer-gf-18L-316M-i4096", "transcriptformer-metazoa", "tahoe-x1-3b"])
def test_ensembl_ids_are_handed_over_without_version(helical, cells, tmp_path, model):
    adata = anndata.read_h5ad(cells)
    adata.var["ensembl"] = [f"ENSG000{k:03d}.{k % 3 + 1}" for k in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    built = build_cell_model(
        cells=(tmp_path / "cells.h5ad",), model=model, gene_col="ensembl", n_cells=10_000, min_cells=3, device="cpu"
    )
    plain = dict(zip(adata.var_names, adata.var["ensembl"], strict=True))
    wanted = {plain[g]: v for g, v in expected(helical, cells, lambda g: plain[g].split(".")[0]).items()}
    check(built, wanted, 3)
    if not model.startswith("transcriptformer"):
        assert {name for _, name in helical.CALLS} == {"ensembl_id"}


def test_tahoe_says_that_it_has_seen_tahoe(helical, cells):
    built = build_cell_model(cells=(cells,), model="tahoe-x1-70m", n_cells=20, min_cells=1, device="cpu")
    assert "tahoe100m" in built.card["trained_on"]
    assert built.models == {"tahoe-x1-70m": "helical 2.2.0"}


def test_cells_are_drawn_by_the_seed(helical, cells):
    draws = [
        build_cell_model(cells=(cells,), model="scgpt", n_cells=20, min_cells=1, seed=s, device="cpu")
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0].vectors, draws[1].vectors)
    assert draws[0].ids != draws[2].ids or (draws[0].vectors != draws[2].vectors).any()
    assert "20 of them drawn with seed 0" in draws[0].notes


def test_the_recipe_makes_it_again(helical, cells):
    made = make_embedding(
        "cell-model", cells=cells, model="scgpt", n_cells=30, min_cells=2, device="cpu", ids=["SIMG0001", "SIMG0002"]
    )
    assert made.embedding.ids == ("SIMG0001", "SIMG0002")
    recipe = made.embedding.card.recipe
    assert recipe.packages["helical"] == "2.2.0"
    assert recipe.models["scgpt"].startswith("sha256:")
    assert regenerate(made.embedding).embedding.digest == made.embedding.digest


def test_progress_counts_cells(helical, cells):
    seen = []
    build_cell_model(
        cells=(cells,), model="scgpt", n_cells=100, device="cpu", progress=lambda a, b: seen.append((a, b))
    )
    assert seen == [(64, 100), (100, 100)]


# What is refused


def test_without_helical_it_says_what_to_install(monkeypatch, refuses):
    monkeypatch.setattr("panmodal.embeddings.builders.base._installed", lambda module: module != "helical")
    refuses(["'cell-model' needs 'helical'", "panmodal[cells]"], get_builder("cell-model").require)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "uce"}, ["uce gives vectors of cells, none of genes", "scgpt"]),
        ({"model": "geneformer"}, ["no model 'geneformer'", "There are geneformer-gf-6L-10M-i2048"]),
        ({"n_cells": 0}, ["--n-cells must be at least 1"]),
        ({"min_cells": 0}, ["--min-cells must be at least 1"]),
        ({"batch_size": 0}, ["--batch-size must be at least 1"]),
        ({"min_cells": 300, "n_cells": 10}, ["scgpt read no gene in at least 300 of 10 cells", "--gene-col"]),
    ],
)
def test_bad_options_are_refused(helical, cells, options, says, refuses):
    refuses(says, build_cell_model, **({"cells": (cells,), "model": "scgpt", "device": "cpu"} | options))


def test_a_gpu_that_is_not_there_is_refused(helical, cells, monkeypatch, refuses):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refuses(["torch sees no GPU"], build_cell_model, cells=(cells,), model="scgpt", device="cuda:1")


def test_scgpt_needs_symbols(helical, tmp_path, refuses):
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(rng.poisson(3, (20, 6)).astype(np.float32), obs=pd.DataFrame({"gene": ["control"] * 20}).set_index(
        pd.Index([f"c{k}" for k in range(20)])), var=pd.DataFrame(index=[f"ENSG{k}" for k in range(6)]))  # fmt: skip
    adata.write_h5ad(tmp_path / "c.h5ad")
    refuses(
        ["knows genes by symbol", "'ENSG0'", "--gene-col"],
        build_cell_model,
        cells=(tmp_path / "c.h5ad",),
        model="scgpt",
    )


def test_offline_it_says_where_the_weights_belong(helical, cells, monkeypatch, refuses, tmp_path):
    def broken(files):
        raise ConnectionError("Max retries exceeded\nwith url")

    monkeypatch.setattr(importlib.import_module("helical.models.scgpt"), "download", broken)
    refuses(
        ["helical 2.2.0 cannot load scgpt (Max retries exceeded)", str(tmp_path / "cache"), "connect once"],
        build_cell_model, cells=(cells,), model="scgpt", device="cpu",
    )  # fmt: skip


def test_what_helical_refuses_is_told(helical, cells, monkeypatch, refuses):
    def broken(self, dataset, **_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(importlib.import_module("helical.models.scgpt").scGPT, "get_embeddings", broken)
    refuses(
        ["scgpt: helical 2.2.0 failed on the cells (out of memory)"],
        build_cell_model,
        cells=(cells,),
        model="scgpt",
        device="cpu",
    )


def test_means_are_kept_per_gene(refuses):
    means = GeneMeans()
    means.add([pd.Series({"A": np.ones(2), "<cls>": np.ones(7)}), pd.Series(dtype=object)], "m")
    means.add([{"A": np.array([3.0, 5.0]), "B": np.zeros(2)}], "m")
    assert list(means.row) == ["A", "B"]
    np.testing.assert_array_equal(means.total, [[4, 6], [0, 0]])
    np.testing.assert_array_equal(means.count, [2, 1])
    refuses(["m: the vector of gene 'C' has 3 values, not 2"], means.add, [{"C": np.zeros(3)}], "m")
    refuses(["gene 'A'", "not finite"], means.add, [{"A": np.array([np.nan, 1])}], "m")


def test_the_table_of_models_is_consistent():
    assert {m.family for m in MODELS.values()} == set(FAMILIES)
    assert all(m.trained_on for m in MODELS.values())
    for name, model in MODELS.items():
        arguments = FAMILIES[model.family].configure(model.name, "cpu", 2)
        assert arguments["emb_mode"] == "gene", name

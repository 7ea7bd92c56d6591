"""From the published layout to Screen, Split and Embedding."""

import anndata
import numpy as np
import pandas as pd
import pytest

from panmodal.datasets.cache import cache_folder
from panmodal.datasets.load import load_embedding, load_screen, published_folds, split_file
from panmodal.datasets.record import Dataset
from panmodal.screens.splits import audit, read_split

ESSENTIAL = "essential/essential_pseudobulk_deltas_all_perts.h5ad"


def test_essential(site, hub, published):
    site.put(hub + ESSENTIAL, published["essential"]())
    screen = load_screen("essential-lfc")
    assert (screen.name, screen.response, screen.contexts) == ("essential-lfc", "lfc", ["K-562", "Hep-G2"])
    assert screen.pert_ids[3] == "ENSG00000000003" and screen.datasets == ("replogle2022", "nadig2024")
    folds = split_file("essential-lfc")
    assert folds.path == cache_folder() / "essential-lfc" / "essential" / "essential-lfc.splits.csv"
    assert read_split(folds.path).digest == folds.split.digest and not folds.never_tested and not folds.notes
    assert folds.split.folds["ENSG00000000003"] == 3 and folds.split.numbers == [0, 1, 2, 3, 4]
    audit(folds.split, screen.pert_ids, "here")
    before = folds.path.stat().st_mtime_ns
    assert split_file("essential-lfc").path.stat().st_mtime_ns == before
    assert len(site.asked) == 1


def test_essential_deg(site, hub, published):
    site.put(
        hub + "essential/essential_deg_with_split.h5ad",
        published["essential"]("deg", test_split=[str(float(k % 5)) for k in range(10)]),
    )
    assert load_screen("essential-deg").response == "deg"
    assert split_file("essential-deg").split.folds["ENSG00000000007"] == 2


def test_norman_has_one_context(site, hub, published):
    site.put(hub + "norman/norman_pseudobulk_deltas.h5ad", published["essential"]().replace(b"cell_line", b"some_line"))
    data = anndata.AnnData(
        np.ones((3, 2)), obs=pd.DataFrame({"gene_id": list("abc"), "test_split": list("012")}, index=list("abc"))
    )
    data.write_h5ad(cache_folder().parent / "norman.h5ad")
    site.put(hub + "norman/norman_pseudobulk_deltas.h5ad", (cache_folder().parent / "norman.h5ad").read_bytes())
    assert load_screen("norman-lfc").contexts == ["K-562"]
    assert split_file("norman-lfc").split.folds == {"a": 0, "b": 1, "c": 2}


def test_sciplex(site, hub, published):
    site.put(hub + "sciplex/sciplex3_pseudobulk_filtered.h5ad", published["sciplex"]())
    screen, folds = load_screen("sciplex3-lfc"), split_file("sciplex3-lfc")
    assert screen.contexts == ["A549", "K562", "MCF7"] and len(folds.split.folds) == 10
    assert folds.split.folds["drug 7"] == 2 and folds.split.name == "sciplex3-lfc-published"


def test_tahoe_ids_are_text_of_whole_numbers(site, hub, tmp_path):
    obs = pd.DataFrame({"pubchem_cid": [11.0, 22.0, 33.0], "drug": list("abc"), "cell_line": "CVCL_0023",
                        "fold_0": ["test", "train", "train"], "fold_1": ["train", "test", "test"]}, index=list("xyz"))  # fmt: skip
    anndata.AnnData(np.eye(3), obs=obs).write_h5ad(tmp_path / "t.h5ad")
    site.put(hub + "tahoe/tahoe_pseudobulk_pert_platematched_withsplits.h5ad", (tmp_path / "t.h5ad").read_bytes())
    assert load_screen("tahoe-lfc").pert_ids == ["11", "22", "33"]
    assert split_file("tahoe-lfc").split.folds == {"11": 0, "22": 1, "33": 1}
    assert load_screen("tahoe-lfc", pert_col="drug", context="all").pert_ids == ["a", "b", "c"]


def test_ids_in_no_test_fold(site, hub, published):
    train, test = ["train"] * 10, ["test"] + ["train"] * 9
    shifted = [[*train[:k], "test", *train[k + 1 :]] for k in range(5)]
    assert shifted[0] == test
    site.put(hub + "sciplex/sciplex3_pseudobulk_filtered.h5ad", published["sciplex"](shifted))
    folds = split_file("sciplex3-lfc")
    assert folds.never_tested == tuple(f"drug {k}" for k in range(5, 10))
    assert "5 of 10 perturbations are in no test fold" in folds.notes[0]
    screen = load_screen("sciplex3-lfc", tested_only=True)
    assert (
        screen.datasets == ("sciplex3",)
        and len(screen.pert_ids) == 5
        and any("5 perturbations in no published test fold" in n for n in screen.notes)
    )
    audit(folds.split, screen.pert_ids, "here")


def test_folds_that_overlap(site, hub, published, refuses):
    site.put(hub + "sciplex/sciplex3_pseudobulk_filtered.h5ad", published["sciplex"]([["test"] + ["train"] * 9] * 5))
    refuses(["drug 0", "fold_0", "fold_1", "overlap"], split_file, "sciplex3-lfc")


def test_folds_of_other_words(site, hub, published, refuses):
    site.put(hub + "sciplex/sciplex3_pseudobulk_filtered.h5ad", published["sciplex"]([["maybe"] * 10] * 5))
    refuses(["fold_0", "maybe", "drug 0"], split_file, "sciplex3-lfc")


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ([0] * 10 + [1] * 10, ["ENSG00000000000", "K-562", "Hep-G2", "fold 0", "fold 1"]),
        ([0.5] * 10, ["test_split", "0.5"]), (["a"] * 10, ["test_split", "'a'"]), ([-1] * 10, ["-1"]),
    ],
)  # fmt: skip
def test_wrong_fold_numbers(site, hub, published, refuses, folds, says):
    site.put(hub + ESSENTIAL, published["essential"](test_split=folds))
    refuses(says, split_file, "essential-lfc")


def test_folds_missing_here_and_there(site, hub, published):
    folds = [k % 5 for k in range(10)] + [None if k < 3 else k % 5 for k in range(10)]
    folds[9] = folds[19] = None
    site.put(hub + ESSENTIAL, published["essential"](test_split=folds))
    found = split_file("essential-lfc")
    assert found.never_tested == ("ENSG00000000009",) and found.split.folds["ENSG00000000001"] == 1
    assert any("3 perturbations have a fold in some contexts only" in n for n in found.notes)


def test_split_elsewhere(site, hub, published, tmp_path, refuses):
    site.put(hub + ESSENTIAL, published["essential"]())
    out = tmp_path / "mine.csv"
    assert split_file("essential-lfc", out=out).path == out == split_file("essential-lfc", out=out).path
    out.write_text("pert_id,fold\na,0\nb,1\n")
    (tmp_path / "mine.split.yaml").unlink()
    refuses(["mine.csv", "another split"], split_file, "essential-lfc", out=out)


def test_not_a_screen(refuses, site):
    refuses(["essential-cells", "cells", "panmodal data info essential-cells"], load_screen, "essential-cells")
    refuses(["hgnc", "annotation"], split_file, "hgnc")


def test_files_that_are_not_as_the_record_says(site, hub, published, refuses, tmp_path):
    site.put(hub + ESSENTIAL, b"no h5ad")
    refuses([ESSENTIAL, "complete"], load_screen, "essential-lfc")
    refuses([ESSENTIAL, "obs cannot be read"], split_file, "essential-lfc")
    site.put(hub + "sciplex/sciplex3_deg_filtered.h5ad", published["essential"]("deg"))
    refuses(["'drug'"], load_screen, "sciplex3-deg")
    refuses(["'drug'"], split_file, "sciplex3-deg")
    (tmp_path / "e.h5ad").write_bytes(published["essential"]())
    fields = {"name": "x", "title": "x", "kind": "screen", "description": "x", "licence": "x", "citation": "x", "url": "https://x.org",
              "base_url": "https://x.org/", "files": [{"path": "e.h5ad"}]}  # fmt: skip
    how = {"file": "e.h5ad", "response": "lfc", "pert_col": "gene_id", "context_col": "cell_line"}
    for folds, says in ((None, "without folds"), ({"column": "nix"}, "nix"), ({"prefix": "fold_"}, "fold_0")):
        refuses([says], published_folds, Dataset(**fields, screen={**how, "folds": folds}), tmp_path / "e.h5ad")


def test_gene_embedding(site, hub, published, refuses):
    site.put(hub + "gene_embeddings/ESM2_(D=1280).h5ad", published["gene_embedding"](1280))
    made = load_embedding("genbio-gene-embeddings/esm2")
    assert made.dims == 1280 and len(made.ids) == 8
    card = made.card
    assert (card.name, card.modality, card.id_namespace, card.dims) == ("esm2", "protein", "ensembl_gene", 1280)
    assert (
        card.trained_on == ("UniRef50",)
        and card.licence
        and "Cole" in card.citation
        and card.url.startswith("https://")
    )
    assert load_embedding("esm2").digest == made.digest
    site.put(hub + "gene_embeddings/STRING_network_(D=512).h5ad", published["gene_embedding"](4))
    refuses(["string-network", "4 dimensions", "512"], load_embedding, "string-network")


def test_drug_embeddings(site, hub, published, refuses):
    site.put(hub + "tahoe/tahoe_drug_embeddings.h5ad", published["drug_embeddings"]())
    maccs = load_embedding("tahoe-drug-embeddings/maccs")
    assert maccs.dims == 167 and maccs.ids[0] == "1000" and maccs.card.id_namespace == "pubchem_cid"
    assert load_embedding("tahoe-drug-embeddings#ecfp:2").card.name == "ecfp:2"
    own = load_embedding("tahoe-drug-embeddings#own")
    assert own.dims == 3 and own.card.name == "own" and "obsm['own']" in own.card.description
    refuses(["nix", "own"], load_embedding, "tahoe-drug-embeddings#nix")
    refuses(["several", "sciplex3-drug-embeddings/maccs"], load_embedding, "maccs")
    refuses(["nothing", "genbio-gene-embeddings"], load_embedding, "nothing")
    refuses(["genbio-gene-embeddings", "nothing", "esm2"], load_embedding, "genbio-gene-embeddings/nothing")

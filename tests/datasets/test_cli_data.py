"""The command line of named data sets."""

import json
import shlex

import pytest
import typer
import yaml
from typer.testing import CliRunner

from panmodal.cli_data import register
from panmodal.datasets.cache import cache_folder
from panmodal.datasets.registry import datasets
from panmodal.errors import PanmodalError

ESSENTIAL = "essential/essential_pseudobulk_deltas_all_perts.h5ad"


@pytest.fixture
def data(site):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def call(*args, error=None):
        result = CliRunner().invoke(app, ["data", *map(str, args)])
        if error is None:
            assert result.exit_code == 0, (result.output, result.exception)
            return result.output
        assert isinstance(result.exception, PanmodalError), (result.output, result.exception)
        assert error in str(result.exception)
        return str(result.exception)

    return call


def test_list(data):
    out = data("list")
    assert all(name in out for name in datasets()) and str(cache_folder()) in out
    only = data("list", "--kind", "cells")
    assert "tahoe-cells" in only and "hgnc" not in only
    data("list", "--kind", "films", error="screen, cells, embeddings, annotation")


@pytest.mark.parametrize("name", list(datasets()))
def test_info(data, name):
    out = data("info", name)
    assert name in out and "licence" in out and f"panmodal data fetch {name}" in out and "By hand" in out


def test_info_before_and_after(data, site, hub, published):
    digest = site.put(hub + ESSENTIAL, published["essential"]())
    before = data("info", "essential-lfc")
    assert "recorded at the first download" in before and "--splits published" in before
    data("fetch", "essential-lfc")
    after = data("info", "essential-lfc")
    assert digest[:16] in after and "(first download)" in after
    assert "yes" in data("list", "--kind", "screen")


def test_fetch_path_verify(data, site, hub, published):
    site.put(hub + ESSENTIAL, published["essential"]())
    data("path", "essential-lfc", error="panmodal data fetch essential-lfc")
    out = data("fetch", "essential-lfc")
    path = cache_folder() / "essential-lfc" / ESSENTIAL
    assert str(path) in out and "published folds of [2, 2, 2, 2, 2]" in out and "Cite: Replogle" in out
    assert data("path", "essential-lfc").strip() == str(path)
    split = data("path", "essential-lfc", "--split").strip()
    assert split.endswith("essential-lfc.splits.csv")
    assert "ok" in data("verify", "essential-lfc")
    path.write_bytes(b"other")
    data("verify", "essential-lfc", error="--force")
    data("fetch", "essential-lfc", error="is not the file")
    data("fetch", "essential-lfc", "--force")
    assert "ok" in data("verify", "essential-lfc")


def test_fetch_some(data, site, hub, published):
    site.put(hub + "gene_embeddings/ESM2_(D=1280).h5ad", published["gene_embedding"](1280))
    out = data("fetch", "genbio-gene-embeddings", "--file", "esm2")
    assert "ESM2_(D=1280).h5ad" in out
    assert data("path", "genbio-gene-embeddings").strip().endswith("ESM2_(D=1280).h5ad")
    assert "1 of 55" in data("list", "--kind", "embeddings")
    data("path", "genbio-gene-embeddings", "--file", "string-network", error="not there yet")
    data("fetch", "genbio-gene-embeddings", "--file", "nix", error="no file 'nix'")


def test_new_digest(data, site, hub, published):
    site.put(hub + ESSENTIAL, published["essential"]())
    data("fetch", "essential-lfc")
    new = site.put(hub + ESSENTIAL, published["essential"](n=15, test_split=[k % 5 for k in range(15)]))
    data("fetch", "essential-lfc", "--force", error="--accept-new-digest")
    out = data("fetch", "essential-lfc", "--accept-new-digest")
    assert "[3, 3, 3, 3, 3]" in out, "the folds follow the file"
    assert new[:16] in data("info", "essential-lfc") and "(accepted)" in data("info", "essential-lfc")


def test_folds_that_cannot_be_used_do_not_lose_the_file(data, site, hub, published):
    site.put(hub + "sciplex/sciplex3_pseudobulk_filtered.h5ad", published["sciplex"]([["test"] * 10] * 5))
    out = data("fetch", "sciplex3-lfc")
    assert "the files are there, but" in out and "overlap" in out
    data("path", "sciplex3-lfc", "--split", error="not there yet")


def test_unfinished_downloads_are_shown(data, site, hub):
    site.put("/download/protein.info.v12.0/9606.protein.info.v12.0.txt.gz", bytes(2_000_000))
    site.then(("cut", 1_000_000))
    data("fetch", "string-info", "--retries", "0", error="By hand")
    assert " of it)" in data("info", "string-info")
    data("fetch", "string-info")
    assert site.sent_ranges[1].startswith("bytes=")


def test_another_cache(data, site, hub, published, tmp_path):
    site.put(hub + ESSENTIAL, published["essential"]())
    out = data("fetch", "essential-lfc", "--cache", tmp_path / "there")
    assert str(tmp_path / "there" / "essential-lfc") in out and not cache_folder().exists()


def test_screens_without_folds(data, monkeypatch, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "{name: own, title: Own, kind: screen, description: d, licence: l, citation: c, url: 'https://e.org', base_url: 'https://e.org', "
        "files: [{path: a.h5ad}], screen: {file: a.h5ad, response: lfc, pert_col: gene}}"
    )
    monkeypatch.setenv("PANMODAL_DATASETS", str(tmp_path))
    assert "own" in data("list", "--kind", "screen")
    data("path", "own", "--split", error="without folds")
    data("path", "hgnc", "--split", error="not a screen")


def test_what_info_says_can_be_run(data, cli, site, hub, published, tmp_path):
    site.put(hub + ESSENTIAL, published["essential"](n=60, test_split=[k % 5 for k in range(60)]))
    site.put(hub + "gene_embeddings/STRING_network_(D=512).h5ad", published["gene_embedding"](512, n=60))
    data("fetch", "essential-lfc")
    data("fetch", "genbio-gene-embeddings", "--file", "string-network")
    line = next(x for x in data("info", "essential-lfc").splitlines() if x.startswith("panmodal run"))
    words = [w.replace("EMBEDDING.h5ad", "net=genbio-gene-embeddings/string-network") for w in shlex.split(line)[1:-1]]
    assert "net" in cli(*words, tmp_path / "results", "--probe", "ridge", "-j", 1)
    config = yaml.safe_load((tmp_path / "results" / "config.yaml").read_text())
    assert config["splits"] == "published"
    (record,) = (json.loads(p.read_text()) for p in (tmp_path / "results" / "runs").glob("*.json"))
    assert record["screen"]["datasets"] == ["replogle2022", "nadig2024"]
    (card,) = (e["card"] for e in record["embeddings"] if e["role"] == "embedding")
    assert card["name"] == "net" and card["trained_on"] == ["STRING"] and card["licence"]


def test_names_that_are_not_fetched_say_how(data, site, hub, published, tmp_path):
    from panmodal.cli import app

    def refused(says, *words):
        result = CliRunner().invoke(app, list(map(str, words)))
        assert isinstance(result.exception, PanmodalError) and says in str(result.exception), result.exception

    words = ["run", "--screen", "essential-lfc", "--out", tmp_path / "r", "--embedding"]
    refused("panmodal data fetch essential-lfc", *words, "go-svd")
    site.put(hub + ESSENTIAL, published["essential"](n=60, test_split=[k % 5 for k in range(60)]))
    data("fetch", "essential-lfc")
    refused("panmodal data fetch genbio-gene-embeddings", *words, "genbio-gene-embeddings/esm2")
    refused("no embedding 'nix'", *words, "genbio-gene-embeddings/nix")
    refused("no named data set", "run", "--screen", "depmap-fitness", "--splits", "published", *words[3:], "go-svd")
    refused(
        "panmodal data fetch string-links",
        "embed",
        "netmf",
        "--edges",
        "data:string-links",
        "--out",
        tmp_path / "e.h5ad",
    )


def test_commands_of_records_name_options_that_there_are(data):
    from panmodal.datasets import datasets
    from panmodal.embeddings.builders import builders

    lines = [shlex.split(line) for record in datasets().values() for line in record.use]
    assert len(lines) > 5
    for words in lines:
        if words[1] == "embed":
            known = {f"--{o.replace('_', '-')}" for o in builders()[words[2]].options} | {"--ids", "--out"}
            assert {w for w in words if w.startswith("--")} <= known, words


def test_unknown(data):
    data("info", "nix", error="no data set 'nix'")
    data("verify", "hgnc", error="none of its files")

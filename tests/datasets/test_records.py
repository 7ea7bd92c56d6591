"""Records: every shipped one is valid and complete; wrong ones are refused; own ones are found."""

import re
from urllib.parse import urlsplit

import pytest
import yaml

from panmodal.datasets.record import KINDS, make_dataset
from panmodal.datasets.registry import dataset, datasets, read_record, shipped_records
from panmodal.screens.screen import RESPONSE_KINDS
from panmodal.studies import STUDIES

RECORDS = sorted(shipped_records().glob("*.yaml"))
GOOD = {
    "name": "toy", "title": "Toy", "kind": "annotation", "description": "made up", "licence": "CC0", "citation": "nobody",
    "url": "https://example.org", "base_url": "https://example.org/x", "files": [{"path": "a.txt"}],
}  # fmt: skip


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_shipped_record(path):
    record = read_record(path)
    assert record.name == path.stem, "a record has the name of its file"
    assert record.kind in KINDS and len(record.licence) > 2 and len(record.citation) > 10
    assert set(record.contains) <= set(STUDIES)
    assert record.contains or record.kind in ("embeddings", "annotation")
    for file in record.files:
        parts = urlsplit(record.address(file))
        assert parts.scheme == "https" and "." in parts.netloc and parts.path.startswith("/")
        assert re.fullmatch(r"[A-Za-z0-9._~:/?#@!$&'*+,;=%-]+", record.address(file)), "percent-encoded"
    if record.screen:
        assert record.screen.response in RESPONSE_KINDS and record.screen.folds and record.perturbation
    if record.cells:
        assert record.cells.control and record.cells.batch_col and record.perturbation
    for entry in record.embeddings.entries if record.embeddings else ():
        stated = re.search(r"\(D=(\d+)\)", entry.file)
        assert entry.modality and (not stated or entry.dims == int(stated[1]))


def test_what_is_there():
    assert len(RECORDS) == len(datasets()) and len({r.name for r in datasets().values()}) == len(RECORDS)
    names = set(datasets())
    assert {
        "essential-lfc",
        "essential-deg",
        "norman-lfc",
        "sciplex3-lfc",
        "sciplex3-deg",
        "tahoe-lfc",
        "tahoe-deg",
    } <= names
    assert {"essential-cells", "norman-cells", "sciplex3-cells", "tahoe-cells", "genbio-gene-embeddings"} <= names
    esm2 = dataset("genbio-gene-embeddings").file("esm2")
    assert (
        dataset("genbio-gene-embeddings")
        .address(esm2)
        .endswith("/resolve/main/gene_embeddings/ESM2_%28D%3D1280%29.h5ad")
    )
    plus = dataset("genbio-gene-embeddings").file("aido-protein-seq-struct")
    assert "%2B" in dataset("genbio-gene-embeddings").address(plus), "a + in a path is not a space"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"odd": 1}, "odd"), ({"name": "Not Plain"}, "name"), ({"kind": "film"}, "kind"), ({"files": []}, "files"),
        ({"licence": ""}, "licence"), ({"citation": ""}, "citation"), ({"doi": "https://doi.org/10.1/x"}, "doi"),
        ({"url": "example.org"}, "url"), ({"url": "ftp://example.org"}, "http"), ({"base_url": None}, "base_url"),
        ({"files": [{"path": "../a"}]}, "within the folder"), ({"files": [{"path": "/a"}]}, "within the folder"),
        ({"files": [{"path": "a\\b"}]}, "within"), ({"files": [{"path": "a.part"}]}, ".part"),
        ({"files": [{"path": "a", "url": "https://e.org/a (D=1)"}]}, "percent-encoded"),
        ({"files": [{"path": "a", "sha256": "12"}]}, "sha256"), ({"files": [{"path": "a"}, {"path": "a"}]}, "same path"),
        ({"kind": "screen"}, "needs 'screen:'"), ({"screen": {"file": "a.txt", "response": "lfc", "pert_col": "p"}}, "cannot have"),
        ({"kind": "screen", "screen": {"file": "b", "response": "lfc", "pert_col": "p"}}, "not among the files"),
        ({"kind": "screen", "screen": {"file": "a.txt", "response": "lfc", "pert_col": "p", "folds": {}}}, "folds"),
        ({"kind": "cells", "cells": {"pert_col": "p", "keep": [{"column": "a"}]}}, "values or without"),
        ({"kind": "embeddings", "embeddings": {"id_namespace": "x", "entries": [{"name": "e", "file": "a.txt", "modality": "m"}] * 2}},
         "more than once"),
    ],
)  # fmt: skip
def test_refused(refuses, changes, says):
    make_dataset(GOOD, "here")
    refuses(["here", says], make_dataset, {**GOOD, **changes}, "here")


def test_keys_that_are_no_text(refuses):
    refuses(["here", "1"], make_dataset, {1: 2}, "here")


def test_own_records(tmp_path, monkeypatch, refuses):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(GOOD))
    monkeypatch.setenv("PANMODAL_DATASETS", str(tmp_path))
    assert dataset("toy").title == "Toy" and len(datasets()) == len(RECORDS) + 1
    monkeypatch.setenv("PANMODAL_DATASETS", f"{tmp_path / 'toy.yaml'}")
    assert "toy" in datasets()
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(GOOD))
    monkeypatch.setenv("PANMODAL_DATASETS", str(tmp_path))
    refuses(["again.yaml", "toy.yaml", "toy"], datasets)
    monkeypatch.setenv("PANMODAL_DATASETS", str(tmp_path / "nowhere"))
    refuses(["nowhere", "PANMODAL_DATASETS"], datasets)


def test_a_record_cannot_take_a_shipped_name(tmp_path, monkeypatch, refuses):
    (tmp_path / "hgnc.yaml").write_text(yaml.safe_dump({**GOOD, "name": "hgnc"}))
    monkeypatch.setenv("PANMODAL_DATASETS", str(tmp_path))
    refuses(["hgnc", "Rename"], datasets)


def test_unknown_name(refuses):
    refuses(["essential-lfc", "panmodal data list"], dataset, "essentials-lfc")
    refuses(["There are", "hgnc"], dataset, "zzz")

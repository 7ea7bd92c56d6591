import json

import pytest
import yaml
from pydantic import ValidationError

from panmodal.embeddings.card import CARD_KEY, Card, make_card, read_card, sidecar_paths

FULL = Card(
    name="µ-net", modality="network", description="a: b", source="s", licence="CC0", citation="c", url="u",
    id_namespace="hgnc_symbol", dims=3, trained_on=("a", "b"), recipe="r", simulated=True,
)  # fmt: skip


def test_yaml_round_trip():
    assert Card(**yaml.safe_load(FULL.to_yaml())) == FULL
    assert "µ-net" in FULL.to_yaml()


def test_a_card_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        FULL.name = "other"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ["name: Field required"]),
        ({"name": ""}, ["name: String should have at least 1 character"]),
        ({"name": 3}, ["name: Input should be a valid string"]),
        ({"name": "x", "dims": 0}, ["dims: Input should be greater than or equal to 1"]),
        ({"name": "x", "trained_on": "a"}, ["trained_on: Input should be a valid tuple"]),
        ({"name": "x", "colour": "red"}, ["colour: Extra inputs are not permitted"]),
        ({"name": "x", "dims": "many", "colour": 1}, ["dims: ", "colour: "]),
    ],
)
def test_a_bad_card_is_refused(fields, says, refuses):
    refuses(["here: the card is not valid", "Fields are name, modality,", *says], make_card, fields, "here")


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("e.h5ad", ["e.h5ad.card.yaml", "e.card.yaml"]),
        ("e.v2.csv", ["e.v2.csv.card.yaml", "e.v2.card.yaml"]),
        ("e.v2.csv.gz", ["e.v2.csv.gz.card.yaml", "e.v2.card.yaml"]),
    ],
)
def test_where_a_card_may_lie(tmp_path, name, sides):
    assert sidecar_paths(tmp_path / name) == [tmp_path / side for side in sides]


def test_the_nearest_card_wins(tmp_path):
    embedded = {CARD_KEY: json.dumps({"name": "inside"})}
    assert read_card(tmp_path / "e.csv", embedded) == {"name": "inside"}
    (tmp_path / "e.card.yaml").write_text("name: stem")
    assert read_card(tmp_path / "e.csv", embedded) == {"name": "stem"}
    (tmp_path / "e.csv.card.yaml").write_text("name: beside")
    assert read_card(tmp_path / "e.csv", embedded) == {"name": "beside"}


def test_loose_keys_of_other_files_are_taken_as_text_only(tmp_path):
    embedded = {"modality": "text", "source": 3, "name": "x", "dims": 9, "simulated": True, "neighbors": {}}
    assert read_card(tmp_path / "e.h5ad", embedded) == {"modality": "text"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: [1", ["not valid YAML", "line 1"]),
        (b"source: \xe9t\xe9", ["not valid YAML", "utf-8"]),
        (b"- name", ["must be a mapping of card fields (name, "]),
        (b"", ["must be a mapping of card fields"]),
        (b"nme: x\n1: y", ["unknown field(s) ['1', 'nme']; fields are name, "]),
    ],
)
def test_a_bad_side_car_is_refused(tmp_path, content, says, refuses):
    (tmp_path / "e.csv.card.yaml").write_bytes(content)
    refuses(["e.csv.card.yaml: ", *says], read_card, tmp_path / "e.csv", {})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("{bad", "is not valid JSON"),
        ("[1]", "must be a mapping"),
        ('"abc"', "must be a mapping"),
        (3, "is not valid JSON"),
    ],
)
def test_a_bad_card_inside_a_file_is_refused(tmp_path, raw, says, refuses):
    refuses(["e.h5ad: its panmodal_card", says], read_card, tmp_path / "e.h5ad", {CARD_KEY: raw})

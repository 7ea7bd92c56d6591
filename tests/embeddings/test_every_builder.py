"""What every builder must do; a new one is covered without a change here."""

import inspect
import json
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from panmodal.embeddings import read_embedding
from panmodal.embeddings.builders import builders
from panmodal.embeddings.embed import make_embedding, regenerate
from panmodal.embeddings.recipe import Recipe

EVERY = [pytest.param(record, id=name) for name, record in builders().items()]
SIMPLE = (int, float, bool, str, Path)


def needed(record):
    if record.missing():
        pytest.skip(f"{', '.join(record.missing())} is not installed")
    return record


def atoms(kind):
    """The plain types that an annotation is made of."""
    if get_origin(kind) is Literal:
        return {type(value) for value in get_args(kind)}
    parts = [p for p in get_args(kind) if p not in (type(None), Ellipsis)]
    return {atom for part in parts for atom in atoms(part)} if parts else {kind}


@pytest.fixture
def example(tmp_path):
    """Makes the example of a builder in a folder of its own; ``ids`` among its options are the wanted ids."""

    def make(record):
        options = record.example(tmp_path)
        return options.pop("ids", None), options

    return make


@pytest.mark.parametrize("record", EVERY)
def test_the_record_says_what_it_is(record):
    assert record.name == record.name.lower() and " " not in record.name
    assert record.modality and record.description and not record.description.removesuffix("...").endswith(".")
    assert bool(record.extra) == bool(record.needs)
    for option in record.options.values():
        assert option.help, f"{option.name} has no help"
        assert atoms(option.kind) <= set(SIMPLE), f"{option.name} is of a type that the command line cannot take"
    for parameter in inspect.signature(record.function).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
    json.dumps([o.default for o in record.options.values() if not o.required and not o.is_file])


@pytest.mark.parametrize("record", EVERY)
def test_its_example_gives_the_same_embedding_twice_and_from_its_recipe(record, example, tmp_path):
    needed(record)
    ids, options = example(record)
    made = make_embedding(record.name, ids=ids, **options)
    again = make_embedding(record.name, ids=ids, **options)
    assert made.embedding.digest == again.embedding.digest
    assert np.isfinite(made.embedding.vectors).all() and len(made.embedding.ids) > 1
    card = made.embedding.card
    assert card.modality and card.description and card.dims == made.embedding.dims
    assert isinstance(card.recipe, Recipe) and card.recipe.builder == record.name
    assert card.recipe.result == made.embedding.digest and card.recipe.packages["panmodal"]
    made.embedding.write(tmp_path / "written.h5ad")
    read = read_embedding(tmp_path / "written.h5ad")
    assert read.digest == made.embedding.digest and read.card == card
    assert regenerate(read).embedding.digest == made.embedding.digest


@pytest.mark.parametrize("record", EVERY)
def test_wanted_ids_are_served_and_the_others_reported(record, example):
    needed(record)
    if record.modality == "control":
        pytest.skip("controls are made for whatever ids are asked for")
    ids, options = example(record)
    everything = make_embedding(record.name, ids=ids, **options).embedding
    wanted = [*list(everything.ids)[:9], "no such perturbation"]
    made = make_embedding(record.name, ids=wanted, match_as="exact", **options)
    assert set(made.embedding.ids) == set(wanted[:-1])
    assert "no such perturbation" in made.match.missing
    assert set(made.frame()["wanted"]) >= set(wanted)
    assert any("no such perturbation" in note for note in made.embedding.card.notes)

"""The card of an embedding: what it is, where it is from, what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from panmodal._files import read_yaml
from panmodal._tables import stem
from panmodal.embeddings.recipe import Recipe
from panmodal.errors import InputError

CARD_KEY = "panmodal_card"
"""Key of the card in ``uns`` of h5ad and in the metadata of Parquet files."""


class Card(BaseModel):
    """What a reader of a leaderboard must know of an embedding. Unknown fields are refused.

    ``trained_on`` names the data sets whose responses the embedding has seen (``replogle2022``, ...): on screens from them
    the leaderboard marks it. ``recipe`` is a :class:`~panmodal.embeddings.recipe.Recipe` for what panmodal made, or text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    modality: str = "unknown"
    description: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    url: str = ""
    id_namespace: str = "unknown"
    dims: int | None = Field(default=None, ge=1)
    trained_on: tuple[str, ...] = ()
    recipe: Recipe | str = ""
    notes: tuple[str, ...] = ()
    simulated: bool = False

    def to_yaml(self) -> str:
        """Return the card as YAML, as in a side-car file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def make_card(fields: Mapping[str, Any], where: str) -> Card:
    """Build a card from fields; say which are wrong."""
    try:
        return Card(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(
            f"{where}: the card is not valid ({problems}). Fields are {', '.join(Card.model_fields)}."
        ) from None


def sidecar_paths(path: Path) -> list[Path]:
    """Where the card of ``path`` may lie: ``FILE.card.yaml`` or ``STEM.card.yaml`` beside it."""
    return [path.with_name(path.name + ".card.yaml"), path.with_name(stem(path) + ".card.yaml")]


def read_card(path: Path, embedded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the card: those of the side-car if there is one, else those in the file."""
    for side in sidecar_paths(path):
        if side.exists():
            loaded = read_yaml(side, f"card fields ({', '.join(Card.model_fields)})")
            unknown = sorted(set(map(str, loaded)) - set(Card.model_fields))
            if unknown:
                raise InputError(f"{side}: unknown field(s) {unknown}; fields are {', '.join(Card.model_fields)}.")
            return dict(loaded)
    if CARD_KEY in embedded:
        raw = embedded[CARD_KEY]
        try:
            loaded = json.loads(raw) if isinstance(raw, str | bytes) else dict(raw)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: its {CARD_KEY} is not valid JSON ({error}).") from error
        if not isinstance(loaded, dict):
            raise InputError(
                f"{path}: its {CARD_KEY} must be a mapping of card fields ({', '.join(Card.model_fields)})."
            )
        return loaded
    # Loose keys of other people's files: only those that a card knows, as text.
    known = set(Card.model_fields) - {"name", "dims", "simulated", "trained_on", "notes"}
    return {k: str(embedded[k]) for k in known if isinstance(embedded.get(k), str)}

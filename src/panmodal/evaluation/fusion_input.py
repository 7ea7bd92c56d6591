"""Which fusion is to be run of which embeddings, as data: ``[NAME=]METHOD[(KEY=VALUE, ...)][:EMBEDDING,EMBEDDING]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from panmodal.errors import InputError, some
from panmodal.fusion.base import Fusion, Options, get_fusion

FUSION = "fusion"
"""Name in the embedding column of a fusion that is given none, and modality of all."""
FORM = "[NAME=]METHOD[(KEY=VALUE, ...)][:EMBEDDING,EMBEDDING]"
_TEXT = re.compile(
    r"(?:(?P<name>[^=(:]+)=)?(?P<method>[^=(:]+?)\s*(?:\((?P<options>.*)\))?\s*(?::(?P<of>.+))?", re.DOTALL
)


class FusionInput(BaseModel):
    """A fusion to be run.

    Attributes
    ----------
    method
        Name of the fusion (``panmodal list fusions``); the probe column of tables.
    name
        Name of what is fused, in the embedding column.
    options
        Options of the method.
    of
        Names of the embeddings to fuse; all of the run unless given.
    members
        How many are fitted that differ in their seed, and averaged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    name: str = FUSION
    options: dict[str, Any] = Field(default_factory=dict)
    of: tuple[str, ...] | None = None
    members: int = Field(default=1, ge=1)

    @field_validator("of", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @classmethod
    def parse(cls, text: str) -> FusionInput:
        """Read the short form; ``members`` is given among the options.

        Raises
        ------
        InputError
            The text has another form.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise InputError(f"--fusion {text}: want {FORM}, such as kernels, or best=stack:string,text.")
        options: dict[str, Any] = {}
        for part in _pieces(found["options"] or ""):
            key, equals, value = part.partition("=")
            if not (equals and key.strip() and value.strip()):
                raise InputError(f"--fusion {text}: {part!r} is no KEY=VALUE.")
            try:
                options[key.strip()] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise InputError(f"--fusion {text}: {value!r} of {key} cannot be read.") from None
        of = tuple(o.strip() for o in found["of"].split(",") if o.strip()) if found["of"] else None
        members = options.pop("members", 1)
        if not isinstance(members, int) or isinstance(members, bool) or members < 1:
            raise InputError(f"--fusion {text}: members is {members!r}; want a number from 1.")
        return cls(
            method=found["method"].strip(),
            name=(found["name"] or FUSION).strip(),
            options=options,
            of=of,
            members=members,
        )

    def resolve(self) -> tuple[Fusion, Options]:
        """Return the fusion, an ensemble where there are several members, and its options.

        Raises
        ------
        InputError
            No such fusion or option, or what it needs is not installed.
        """
        fusion = get_fusion(self.method)
        fusion.require()
        options = fusion.settings(self.options)
        if self.members > 1:
            from panmodal.fusion.ensemble import ensemble

            fusion = ensemble(fusion, self.members)
        return fusion, options

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the names of the embeddings to fuse.

        Raises
        ------
        InputError
            A name that no embedding of the run has, one twice, or none.
        """
        if self.of is None:
            if not names:
                raise InputError(f"fusion {self.name!r}: there is no embedding to fuse.")
            return list(names)
        unknown = [n for n in self.of if n not in names]
        if unknown or len(set(self.of)) < len(self.of) or not self.of:
            what = f"no embedding is named {some(unknown)}" if unknown else "an embedding is named twice, or none"
            raise InputError(f"fusion {self.name!r}: {what}; there are {', '.join(names)}.")
        return list(self.of)


def _pieces(text: str) -> list[str]:
    """Split at commas that stand in no bracket."""
    out, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            out.append("")
        else:
            out[-1] += letter
    return [o for o in map(str.strip, out) if o]

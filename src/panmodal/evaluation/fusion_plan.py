"""A fusion as part of a plan: its members, what it depends on, and which ids it covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from panmodal._digest import digest_json
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.fusion.base import Fusion, Options, fusions


@dataclass(frozen=True)
class FusionPlan:
    """A fusion of some of a plan's sources.

    Attributes
    ----------
    asked
        What the user asked for.
    fusion, options
        The method and its options, resolved.
    members
        Positions of the members among the sources of the plan.
    embeddings
        Their embeddings, in the same order.
    suffix
        What is added to the name: that of permuted embeddings, or nothing.
    """

    asked: FusionInput
    fusion: Fusion
    options: Options
    members: tuple[int, ...]
    embeddings: tuple[Embedding, ...]
    suffix: str = ""

    @property
    def name(self) -> str:
        """Name in the embedding column."""
        return self.asked.name + self.suffix

    @property
    def label(self) -> str:
        """Name in the probe column."""
        return self.fusion.name

    @property
    def joint(self) -> bool:
        """Whether it is fitted on all contexts at once."""
        return self.fusion.joint

    @cached_property
    def digest(self) -> str:
        """Digest of the vectors that are fused."""
        return digest_json({"fused": [e.digest for e in self.embeddings]})

    @cached_property
    def covered(self) -> set[str]:
        """Ids that at least one member has."""
        return {i for e in self.embeddings for i in e.ids}

    @property
    def dims(self) -> int:
        """Dimensions of all members together."""
        return sum(e.dims for e in self.embeddings)

    def identity(self, responses: Mapping[str, str]) -> dict[str, Any]:
        """Return what a trial's digest holds of the method; a joint fit depends on the responses of all its contexts."""
        own = self.fusion.identity(self.options)
        return own | {"contexts": dict(sorted(responses.items()))} if self.joint else own

    def record(self) -> dict[str, Any]:
        """Return what the record of a run says of it."""
        return {
            "name": self.name, "method": self.label, "options": self.options.model_dump(mode="json"), "digest": self.digest,
            "of": [e.name for e in self.embeddings], "members": [e.digest for e in self.embeddings],
            "covered": len(self.covered),
        }  # fmt: skip


def plan_fusion(
    asked: FusionInput, members: Sequence[int], embeddings: Sequence[Embedding], response: str, suffix: str = ""
) -> FusionPlan:
    """Resolve a fusion.

    Raises
    ------
    InputError
        No such fusion or option, one that does not serve this kind of response, or something it needs is missing.
    """
    fusion, options = asked.resolve()
    if response not in fusion.kinds:
        able = [f.name for f in fusions().values() if response in f.kinds]
        raise InputError(f"fusion {asked.method!r} does not predict {response}; use {', '.join(able)}.")
    return FusionPlan(asked, fusion, options, tuple(members), tuple(embeddings), suffix)

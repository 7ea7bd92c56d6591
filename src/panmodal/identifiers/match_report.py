"""How wanted ids were found among available ones: the report of a join."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from panmodal.perturbation_ids import parts

MATCH_STATUSES = ("same", "matched", "by parts", "ambiguous", "not found", "refused", "control")
"""What may become of a wanted id."""


@dataclass(frozen=True, slots=True)
class MatchRow:
    """What became of one wanted id.

    Attributes
    ----------
    wanted
        The id as it was asked for.
    status
        One of :data:`MATCH_STATUSES`.
    available
        The id that it is matched with; of a combination ``by parts`` those of its parts, joined by ``+``; else empty.
    how
        Why they are the same.
    candidates
        Available ids or genes or compounds that it may mean, where ambiguous.
    hint
        What to know or do.
    part
        Only asked for as a part of combinations.
    """

    wanted: str
    status: str
    available: str = ""
    how: str = ""
    candidates: tuple[str, ...] = ()
    hint: str = ""
    part: bool = False


@dataclass(frozen=True)
class Match:
    """How wanted ids were found among available ones; every wanted id has a row.

    Attributes
    ----------
    rows
        First the wanted ids in their order, then the parts of combinations that were looked up for them.
    kind
        How the ids were read: ``genes``, ``compounds`` or ``exact``.
    duplicates
        What shares a gene or compound: ``X`` -> ids, for available ids that several wanted ids share, and for wanted ids for which
        there were several available ones.
    """

    rows: tuple[MatchRow, ...]
    kind: str
    duplicates: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def _of(self, *statuses: str) -> list[MatchRow]:
        return [row for row in self.rows if row.status in statuses]

    @cached_property
    def pairs(self) -> dict[str, str]:
        """Wanted id -> available id, of all that were found (parts of combinations too; not the combinations made of them)."""
        return {row.wanted: row.available for row in self.rows if row.available and row.status != "by parts"}

    @cached_property
    def exact(self) -> tuple[str, ...]:
        """Wanted ids that are available as they are, or with the parts of the combination in another order."""
        return tuple(row.wanted for row in self._of("same"))

    @cached_property
    def resolved(self) -> dict[str, tuple[str, str]]:
        """Wanted id -> (available id, why they are the same), where the identifiers differ."""
        return {row.wanted: (row.available, row.how) for row in self._of("matched")}

    @cached_property
    def composed(self) -> dict[str, tuple[str, ...]]:
        """Wanted combination that is not available -> available ids of all its parts."""
        return {row.wanted: tuple(self.pairs[p] for p in parts(row.wanted)) for row in self._of("by parts")}

    @cached_property
    def ambiguous(self) -> dict[str, tuple[str, ...]]:
        """Wanted id -> what it may mean."""
        return {row.wanted: row.candidates for row in self._of("ambiguous")}

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Wanted ids that were not found or refused; :meth:`frame` says why."""
        return tuple(row.wanted for row in self._of("not found", "refused"))

    def frame(self) -> pd.DataFrame:
        """Return a table with a row for each wanted id and each part: ``wanted, status, available, how, candidates, hint, part``."""
        rows = [(r.wanted, r.status, r.available, r.how, " | ".join(r.candidates), r.hint, r.part) for r in self.rows]
        frame = pd.DataFrame(rows, columns=["wanted", "status", "available", "how", "candidates", "hint", "part"])
        return frame.astype({"part": bool})

    def summary(self, limit: int = 3) -> str:
        """Say in one line what became of the wanted ids, naming the first ``limit`` of those that differ."""

        def head(items: list[str]) -> str:
            return f" ({', '.join(items[:limit])}{', ...' if len(items) > limit else ''})" if items else ""

        whole = [row for row in self.rows if not row.part]
        counts = Counter(row.status for row in whole)
        matched = [f"{r.wanted} = {r.available} ({r.how})" for r in self._of("matched")]
        said = {
            "same": "the same",
            "matched": "matched by identifier"
            + head([t for t, r in zip(matched, self._of("matched"), strict=True) if not r.part]),
            "by parts": "by their parts",
            "ambiguous": "ambiguous"
            + head([f"{r.wanted}: {' or '.join(r.candidates)}" for r in whole if r.status == "ambiguous"]),
            "not found": "not found" + head([r.wanted for r in whole if r.status == "not found"]),
            "refused": "refused" + head([f"{r.wanted}: {r.hint.rstrip('.')}" for r in whole if r.status == "refused"]),
            "control": "control",
        }
        text = f"{len(whole)} ids: " + ", ".join(f"{counts[s]} {said[s]}" for s in MATCH_STATUSES if counts[s])
        looked = [row for row in self.rows if row.part]
        if looked:
            found = [t for t, r in zip(matched, self._of("matched"), strict=True) if r.part]
            text += f"; parts of combinations: {sum(bool(r.available) for r in looked)} of {len(looked)} found"
            text += f", {len(found)} by identifier{head(found)}" if found else ""
        if self.duplicates:
            shared = [f"{what}: {', '.join(ids)}" for what, ids in self.duplicates.items()]
            text += f"; the same {'compound' if self.kind == 'compounds' else 'gene'} more than once{head(shared)}"
        return text if whole else "0 ids"

    def __str__(self) -> str:
        return self.summary()

"""What became of every identifier: mapped, ambiguous, not found, refused or a control; nothing is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from panmodal.errors import InputError, some

STATUSES = ("mapped", "ambiguous", "not found", "refused", "control")
"""What may become of an identifier."""

MISSING_TEXTS = frozenset({"nan", "na", "n/a", "none", "null", "<na>", "nat", "-", "unknown"})
MISSING = "A missing value written as text? Remove the row or fill it."


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of one identifier.

    Attributes
    ----------
    id
        The identifier as it was given.
    kind
        What it looks like: symbol, Ensembl, Entrez, UniProt, HGNC, date, name, PubChem CID, InChIKey, SMILES, control ...
    status
        One of :data:`STATUSES`. ``refused``: understood, but of another species or spelt so that mapping would be a guess.
    key
        HGNC id of the gene or InChIKey of the compound; empty unless mapped.
    label
        Current HGNC symbol, or name of the compound; empty unless mapped.
    how
        How it was mapped (``previous symbol``, ``Ensembl gene id`` ...).
    candidates
        Labels of what it may mean; more than one where ambiguous.
    hint
        What to know or do about it.
    level
        How sure the mapping is: 0 current names and accessions, 1 previous symbols, 2 aliases, 3 spelt a little differently.
    """

    id: str
    kind: str
    status: str
    key: str = ""
    label: str = ""
    how: str = ""
    candidates: tuple[str, ...] = ()
    hint: str = ""
    level: int = 0


@dataclass(frozen=True)
class Resolution:
    """What became of a list of identifiers, in its order; repeated ids have repeated rows.

    Parameters
    ----------
    rows
        One for each identifier given.
    what
        What is being named, for messages (``gene`` or ``compound``).
    label
        Column of :meth:`frame` that holds the label (``symbol`` or ``name``).
    """

    rows: tuple[Resolved, ...]
    what: str = "gene"
    label: str = "symbol"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Resolved]:
        return iter(self.rows)

    def __getitem__(self, given: str) -> Resolved:
        if given not in self._by_id:
            raise InputError(f"{given!r} is not among the {len(self)} ids that were resolved.")
        return self._by_id[given]

    @cached_property
    def _by_id(self) -> dict[str, Resolved]:
        return {row.id: row for row in self.rows}

    def frame(self) -> pd.DataFrame:
        """Return a table with one row for each identifier given, in its order.

        Columns: ``id, status, key, symbol`` (compounds: ``name``), ``how, kind, candidates`` (joined by `` | ``), ``hint``.
        """
        columns = ["id", "status", "key", self.label, "how", "kind", "candidates", "hint"]
        rows = [(r.id, r.status, r.key, r.label, r.how, r.kind, " | ".join(r.candidates), r.hint) for r in self.rows]
        return pd.DataFrame(rows, columns=columns, dtype=object)

    def with_status(self, *statuses: str) -> tuple[Resolved, ...]:
        """Return the rows of these statuses."""
        unknown = [s for s in statuses if s not in STATUSES]
        if unknown:
            raise InputError(f"no status {some(unknown)}; there are {', '.join(STATUSES)}.")
        return tuple(row for row in self.rows if row.status in statuses)

    @cached_property
    def keys(self) -> dict[str, str]:
        """HGNC id or InChIKey of each mapped identifier."""
        return {row.id: row.key for row in self.rows if row.status == "mapped"}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Current symbol or name of each mapped identifier."""
        return {row.id: row.label for row in self.rows if row.status == "mapped"}

    def duplicates(self) -> dict[str, tuple[str, ...]]:
        """Return the different identifiers that map to one gene or compound: label -> ids, where there are several."""
        groups: dict[str, dict[str, None]] = {}
        label: dict[str, str] = {}
        for row in self.rows:
            if row.status == "mapped":
                groups.setdefault(row.key, {})[row.id] = None
                label.setdefault(row.key, row.label or row.key)
        shared = {key: tuple(ids) for key, ids in groups.items() if len(ids) > 1}
        names = Counter(label[key] for key in shared)  # two compounds may have one name
        return {label[k] if names[label[k]] == 1 else f"{label[k]} ({k})": ids for k, ids in shared.items()}

    def require(self) -> dict[str, str]:
        """Return id -> key if every identifier is mapped or a control.

        Raises
        ------
        InputError
            Some are ambiguous, not found or refused: they are named, with what to do.
        """
        lines = [line for line in self._lines() if not line.startswith("controls")]
        if lines:
            raise InputError(
                f"{len(self.with_status('ambiguous', 'not found', 'refused'))} of {len(self)} {self.what} ids cannot be used. "
                + " ".join(f"{line}." for line in lines)
                + " Correct them, give a table that has them, or leave them out."
            )
        return dict(self.keys)

    def _lines(self, limit: int = 5) -> list[str]:
        def head(rows: Sequence[Resolved], text: list[str]) -> str:
            extra = len(rows) - limit
            return ", ".join(text[:limit]) + (f", ... and {extra} more" if extra > 0 else "")

        lines = []
        for status in ("ambiguous", "refused", "not found"):
            rows = list({row.id: row for row in self.with_status(status)}.values())
            if not rows:
                continue
            if status == "ambiguous":
                text = [f"{row.id!r} ({' or '.join(row.candidates)})" for row in rows]
            else:
                text = [f"{row.id!r}" + (f" ({row.hint.rstrip('.')})" if row.hint else "") for row in rows]
            lines.append(f"{status}: {head(rows, text)}")
        controls = list(dict.fromkeys(row.id for row in self.with_status("control")))
        if controls:
            lines.append(f"controls: {some(controls)}")
        return lines

    def summary(self) -> str:
        """Say in a few lines what became of the identifiers."""
        counts = Counter(row.status for row in self.rows)
        hows = Counter(row.how for row in self.rows if row.status == "mapped")
        detail = ", ".join(f"{n} by {how}" for how, n in hows.most_common())
        first = f"{len(self)} {self.what} ids: " + ", ".join(
            f"{counts[s]} {s}" + (f" ({detail})" if s == "mapped" and detail else "") for s in STATUSES if counts[s]
        )
        lines = [first if self.rows else f"0 {self.what} ids", *self._lines()]
        shared = self.duplicates()
        if shared:
            text = [f"{label} = {', '.join(ids)}" for label, ids in shared.items()]
            more = f"; ... and {len(text) - 3} more" if len(text) > 3 else ""
            lines.append(f"the same {self.what}: {'; '.join(text[:3])}{more}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

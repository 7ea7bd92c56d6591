"""The Embedding: a table from perturbation id to vector, with its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._digest import digest_table
from panmodal._tables import require_finite, text_ids, unique_ids
from panmodal.embeddings.card import Card, make_card
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, parts

COMBINE = ("sum", "mean", "none")
"""How a combination without a vector of its own gets one from its parts."""


@dataclass(frozen=True)
class Coverage:
    """Which ids an embedding has a vector for.

    Attributes
    ----------
    covered, composed, missing
        Ids with a vector; those of them whose vector is composed from their parts; ids without.
    """

    covered: tuple[str, ...]
    composed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def fraction(self) -> float:
        """Covered share of the ids asked for (0 to 1; 0 if none were)."""
        total = len(self.covered) + len(self.missing)
        return len(self.covered) / total if total else 0.0

    def __str__(self) -> str:
        total = len(self.covered) + len(self.missing)
        text = f"{len(self.covered)} of {total} ids ({100 * self.fraction:.1f} %)"
        if self.composed:
            text += f", {len(self.composed)} of them composed from their parts"
        if self.missing:
            text += f"; missing {some(self.missing)}"
        return text


@dataclass(eq=False, frozen=True)
class Embedding:
    """Vectors of perturbations.

    Parameters
    ----------
    ids
        Perturbation ids, unique.
    vectors
        Matrix ids x dims of finite numbers.
    card
        What it is; ``dims`` is set from the matrix.
    combine
        ``sum`` (default), ``mean`` or ``none``: how ``A+B`` is composed from ``A`` and ``B`` when the table has both but
        not the combination itself. With ``sum`` a linear probe is the additive model of combinations.

    Raises
    ------
    InputError
        No ids, no dimensions, empty or repeated ids, or NaN or infinite values.
    """

    ids: tuple[str, ...]
    vectors: NDArray[Any]
    card: Card
    combine: str = "sum"

    def __post_init__(self) -> None:
        where = f"embedding {self.card.name!r}"
        vectors = np.asarray(self.vectors)
        if vectors.ndim != 2 or vectors.shape[0] != len(self.ids):
            raise InputError(f"{where}: {len(self.ids)} ids but vectors of shape {vectors.shape}; want (ids, dims).")
        if 0 in vectors.shape:
            raise InputError(f"{where}: empty ({vectors.shape[0]} ids, {vectors.shape[1]} dimensions).")
        if vectors.dtype.kind not in "fiub":
            raise InputError(f"{where}: vectors hold {vectors.dtype}, not numbers.")
        if self.combine not in COMBINE:
            raise InputError(f"{where}: combine is {self.combine!r}; it must be one of {', '.join(COMBINE)}.")
        ids = tuple(canonical(i) for i in text_ids(self.ids, "the id", where))
        unique_ids(ids, "id", where, "Keep one vector for each id.")
        require_finite(vectors, ids, [str(d) for d in range(vectors.shape[1])], where, "embedding")
        if self.card.dims not in (None, vectors.shape[1]):
            raise InputError(
                f"{where}: the card says {self.card.dims} dimensions, the vectors have {vectors.shape[1]}."
            )
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "card", self.card.model_copy(update={"dims": vectors.shape[1]}))

    @classmethod
    def from_dict(cls, vectors: Mapping[str, Sequence[float]], name: str, **card: Any) -> Embedding:
        """Build an embedding from a mapping id -> vector."""
        lengths = {len(v) for v in vectors.values()}
        if len(lengths) > 1:
            raise InputError(f"embedding {name!r}: vectors of different lengths {sorted(lengths)}.")
        where = f"embedding {name!r}"
        return cls(tuple(vectors), np.array(list(vectors.values())), make_card({"name": name, **card}, where))

    @classmethod
    def read(cls, path: str | Path, **options: Any) -> Embedding:
        """Read an embedding from a file; see :func:`panmodal.embeddings.reading.read_embedding`."""
        from panmodal.embeddings.reading import read_embedding

        return read_embedding(path, **options)

    @property
    def name(self) -> str:
        """Name used in tables."""
        return self.card.name

    @property
    def dims(self) -> int:
        """Number of dimensions."""
        return int(self.vectors.shape[1])

    @cached_property
    def _row(self) -> dict[str, int]:
        return {i: k for k, i in enumerate(self.ids)}

    def coverage(self, ids: Iterable[str]) -> Coverage:
        """Tell which of ``ids`` have a vector, of their own or composed from their parts."""
        covered, composed, missing = [], [], []
        for i in dict.fromkeys(ids):
            if canonical(i) in self._row:
                covered.append(i)
            elif self.combine != "none" and len(parts(i)) > 1 and all(p in self._row for p in parts(i)):
                covered.append(i)
                composed.append(i)
            else:
                missing.append(i)
        return Coverage(tuple(covered), tuple(composed), tuple(missing))

    def matrix(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the vectors of ``ids`` (len(ids) x dims, float64); every id must be covered."""
        out = np.empty((len(ids), self.dims))
        for k, i in enumerate(ids):
            row = self._row.get(canonical(i))
            if row is not None:
                out[k] = self.vectors[row]
                continue
            pieces = [self._row[p] for p in parts(i) if p in self._row]
            if self.combine == "none" or len(pieces) < max(2, len(parts(i))):
                raise InputError(f"embedding {self.name!r} has no vector for {i!r}.")
            total = self.vectors[pieces].sum(axis=0, dtype=np.float64)
            out[k] = total / len(pieces) if self.combine == "mean" else total
        return out

    def restricted(self, ids: Sequence[str]) -> Embedding:
        """Return the embedding of exactly these covered ids, compositions written out."""
        return Embedding(tuple(ids), self.matrix(ids), self.card, combine="none")

    @cached_property
    def digest(self) -> str:
        """Digest of ids, values and rule of composition; not of the order of rows nor of the card."""
        columns = [str(self.dims), self.combine]
        return digest_table(self.ids, columns, self.vectors, "<f8")

    def write(self, path: str | Path) -> None:
        """Write as h5ad, Parquet, csv, tsv or npz with the card inside, or beside it where the format has no room."""
        from panmodal.embeddings.reading import write_embedding

        write_embedding(self, path)

    def __repr__(self) -> str:
        return f"Embedding({self.name!r}, {self.card.modality}: {len(self.ids)} ids x {self.dims} dims)"

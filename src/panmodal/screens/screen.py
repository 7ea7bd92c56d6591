"""The Screen: what perturbations did to cells, one row per (perturbation, context)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from panmodal._digest import digest_table
from panmodal._tables import require_finite, text_ids, unique_ids
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, is_control

if TYPE_CHECKING:
    from anndata import AnnData

UNS_KEY = "panmodal"


@dataclass(frozen=True)
class ResponseKind:
    """What the values of a screen mean.

    ``labels`` are the only values allowed, for kinds that are classes; None for numbers.
    """

    name: str
    description: str
    labels: tuple[int, ...] | None = None


RESPONSE_KINDS = {
    kind.name: kind
    for kind in (
        ResponseKind("lfc", "log fold change of expression against control cells"),
        ResponseKind("deg", "differential expression: lowered, unchanged, raised", labels=(-1, 0, 1)),
        ResponseKind("rank_score", "score from the rank of a gene among the responding genes; not a fold change"),
        ResponseKind("fitness", "effect on growth; not expression"),
        ResponseKind("continuous", "another continuous response"),
    )
}
"""The kinds of response a screen can hold; a screen always says which."""


def response_kind(name: str, where: str) -> ResponseKind:
    """Look up a response kind by name."""
    key = name.strip().lower().replace("-", "_")
    if key not in RESPONSE_KINDS:
        raise InputError(f"{where}: unknown kind of response {name!r}; known are {', '.join(RESPONSE_KINDS)}.")
    return RESPONSE_KINDS[key]


@dataclass(eq=False)
class Screen:
    """Perturbation responses with their meaning, validated.

    Parameters
    ----------
    adata
        Rows are (perturbation, context) pairs; ``obs`` has ``pert_id`` and ``cell_line`` (text), ``var_names`` are the
        read-outs (genes, cell lines of a fitness screen, ...), ``X`` the responses.
    name
        Short name used in tables.
    response
        One of :data:`RESPONSE_KINDS`.
    description
        One line on what was measured.
    simulated
        True for made-up data; it is then marked so wherever it appears.
    notes
        What was noticed or changed while reading; shown to the user, never silent.
    provenance
        How it was made from raw cells (inputs with digests, options, counts kept and left out); empty if it was not.
    datasets
        Names of the studies that it is from (``replogle2022``, ...; see :mod:`panmodal.studies`): embeddings trained on them
        are marked in the leaderboard. Empty if not known.

    Raises
    ------
    InputError
        Missing columns, empty screen, missing ids or contexts, repeated (perturbation, context), NaN or infinite
        values, DEG labels other than -1, 0, 1, control cells among the rows, repeated read-outs.
    """

    adata: AnnData
    name: str
    response: str
    description: str = ""
    simulated: bool = False
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"screen {self.name!r}"
        kind = response_kind(self.response, where)
        self.response = kind.name
        for column in ("pert_id", "cell_line"):
            if column not in self.adata.obs:
                raise InputError(f"{where}: obs has no column {column!r}; it has {some(self.adata.obs.columns, 12)}.")
        if self.adata.n_obs == 0 or self.adata.n_vars == 0:
            raise InputError(f"{where}: empty ({self.adata.n_obs} rows, {self.adata.n_vars} read-outs).")
        unique_ids(list(self.adata.var_names), "read-out", where, "Make them unique, or merge the repeated ones.")
        ids = [canonical(i) for i in text_ids(self.adata.obs["pert_id"].tolist(), "pert_id", where)]
        contexts = text_ids(self.adata.obs["cell_line"].tolist(), "cell_line", where)
        self._digests: dict[str, str] = {}
        self._ids = np.array(ids, dtype=object)
        self._contexts = np.array(contexts, dtype=object)
        controls = [i for i in dict.fromkeys(ids) if is_control(i)]
        if controls:
            raise InputError(
                f"{where}: {some(controls)} name control cells, but a response is measured against them. Remove these "
                "rows, or let them be removed with --drop-controls."
            )
        unique_ids([f"{i} in {c}" for i, c in zip(ids, contexts, strict=True)], "(perturbation, context)", where,
                   "Average replicates first (a combination A+B is the same as B+A).")  # fmt: skip
        self._values = _dense32(self.adata.X, where)
        require_finite(self._values, [f"{i} ({c})" for i, c in zip(ids, contexts, strict=True)],
                       list(self.adata.var_names), where, "response")  # fmt: skip
        if kind.labels is not None and not np.isin(self._values, kind.labels).all():
            odd = self._values[~np.isin(self._values, kind.labels)][0]
            raise InputError(f"{where}: a {kind.name} screen holds labels {kind.labels} only, but {odd:g} was found.")

    @classmethod
    def read(cls, path: str | Path, **options: Any) -> Screen:
        """Read a screen from h5ad, zarr, csv, tsv or Parquet; see :func:`panmodal.screens.reading.read_screen`."""
        from panmodal.screens.reading import read_screen

        return read_screen(path, **options)

    @classmethod
    def from_arrays(
        cls,
        values: NDArray[Any],
        pert_ids: Sequence[str],
        contexts: Sequence[str],
        readouts: Sequence[str],
        *,
        name: str,
        response: str,
        description: str = "",
        simulated: bool = False,
        datasets: Sequence[str] = (),
    ) -> Screen:
        """Build a screen from a matrix (rows x read-outs) and its labels."""
        import anndata
        import pandas as pd

        obs = pd.DataFrame(
            {"pert_id": list(pert_ids), "cell_line": list(contexts)},
            index=[f"{c}|{p}" for c, p in zip(contexts, pert_ids, strict=True)],
        )
        adata = anndata.AnnData(
            np.asarray(values, dtype=np.float32), obs=obs, var=pd.DataFrame(index=[str(r) for r in readouts])
        )
        return cls(
            adata, name=name, response=response, description=description, simulated=simulated, datasets=tuple(datasets)
        )

    @property
    def contexts(self) -> list[str]:
        """Contexts in the order of their first row."""
        return list(dict.fromkeys(self._contexts.tolist()))

    @property
    def pert_ids(self) -> list[str]:
        """All perturbation ids, sorted, each once."""
        return sorted(set(self._ids.tolist()))

    @property
    def readouts(self) -> list[str]:
        """Names of the read-outs (columns)."""
        return [str(v) for v in self.adata.var_names]

    def ids_in(self, context: str) -> list[str]:
        """Perturbation ids measured in a context, sorted."""
        return sorted(self._ids[self._contexts == context].tolist())

    def responses(self, context: str) -> tuple[list[str], NDArray[np.float32]]:
        """Return the ids of a context, sorted, and their responses (ids x read-outs, float32)."""
        rows = np.flatnonzero(self._contexts == context)
        if len(rows) == 0:
            raise InputError(f"screen {self.name!r} has no context {context!r}; it has {some(self.contexts, 12)}.")
        rows = rows[np.argsort(self._ids[rows], kind="stable")]
        return self._ids[rows].tolist(), np.ascontiguousarray(self._values[rows])

    def digest(self, context: str) -> str:
        """Digest of the responses of one context: ids, read-outs, values and kind; not of the order of rows."""
        if context not in self._digests:
            ids, values = self.responses(context)
            self._digests[context] = f"{self.response}-{digest_table(ids, self.readouts, values, '<f4')}"
        return self._digests[context]

    def select(self, contexts: Sequence[str]) -> Screen:
        """Return the screen restricted to some contexts."""
        unknown = [c for c in contexts if c not in self.contexts]
        if unknown:
            raise InputError(f"screen {self.name!r} has no context {some(unknown)}; it has {some(self.contexts, 12)}.")
        kept = self.adata[np.isin(self._contexts, list(contexts))].copy()
        return self._like(kept, self.response)

    def labelled(self) -> Screen:
        """Return the DEG labels that ``panmodal prepare`` keeps beside the fold changes, as a screen of kind ``deg``.

        Raises
        ------
        InputError
            There are none.
        """
        adata, _ = take_labels(self.adata, f"screen {self.name!r}")
        return self._like(adata, "deg")

    def _like(self, adata: AnnData, response: str) -> Screen:
        """Return other responses with the same description."""
        return Screen(
            adata,
            self.name,
            response,
            self.description,
            self.simulated,
            list(self.notes),
            self.provenance,
            self.datasets,
        )

    def write(self, path: str | Path) -> None:
        """Write the screen as h5ad or zarr, with its kind and description, atomically for h5ad."""
        from panmodal.screens.reading import write_screen

        write_screen(self, path)

    def __repr__(self) -> str:
        marked = ", simulated" if self.simulated else ""
        return (
            f"Screen({self.name!r}, {self.response}{marked}: {len(self.pert_ids)} perturbations x {len(self.contexts)} "
            f"context(s), {self.adata.n_obs} rows x {self.adata.n_vars} read-outs)"
        )


def take_labels(adata: AnnData, where: str) -> tuple[AnnData, int]:
    """Take the DEG labels kept beside fold changes; return them and the number of pairs left out, which were not tested."""
    if "deg" not in adata.layers or "deg_tested" not in adata.obs:
        raise InputError(f"{where}: holds log fold changes without DEG labels; prepare it with --deg pooled or vote.")
    tested = adata.obs["deg_tested"].to_numpy(dtype=bool)
    kept = adata[tested].copy()
    kept.X = kept.layers["deg"].astype(np.float32)
    return kept, int((~tested).sum())


def _dense32(values: Any, where: str) -> NDArray[np.float32]:
    if values is None:
        raise InputError(f"{where}: X is empty; the responses must be in X.")
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if dense.dtype.kind not in "fiub":
        raise InputError(f"{where}: X holds {dense.dtype}, not numbers.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(dense, dtype=np.float32)

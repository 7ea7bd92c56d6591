"""Named data sets as Screens, Splits and Embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panmodal._tables import plain_text, text_ids
from panmodal.datasets.fetch import FileProgress, fetch
from panmodal.datasets.record import Dataset, EmbeddingEntry, Folds
from panmodal.datasets.registry import dataset, datasets
from panmodal.embeddings.card import Card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.reading import read_embedding
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical
from panmodal.screens.reading import read_screen
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, read_split

if TYPE_CHECKING:
    import pandas as pd

NO_FOLD = frozenset({"", "nan", "none", "na", "<na>"})


@dataclass(frozen=True)
class PublishedFolds:
    """The folds that were published with a data set.

    Attributes
    ----------
    split
        Perturbation id -> fold.
    never_tested
        Ids that are in no test fold; ``panmodal run`` refuses a screen that holds them (``load_screen(..., tested_only=True)``).
    notes
        What was noticed.
    path
        The csv file, once written.
    """

    split: Split
    never_tested: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    path: Path | None = None


def screen_set(name: str | Dataset) -> Dataset:
    """Return a data set of responses; refuse those of another kind."""
    data = name if isinstance(name, Dataset) else dataset(name)
    if data.screen is None:
        more = f" `panmodal data info {data.name}` shows how to make a screen of it." if data.kind == "cells" else ""
        raise InputError(f"data set {data.name!r} holds {data.kind}, not a screen.{more}")
    return data


def load_screen(
    name: str | Dataset,
    *,
    cache: str | Path | None = None,
    progress: FileProgress | None = None,
    tested_only: bool = False,
    **options: Any,
) -> Screen:
    """Read a named data set of responses, fetched if need be.

    Parameters
    ----------
    name
        Name of the data set.
    cache, progress
        As in :func:`panmodal.datasets.fetch.fetch`.
    tested_only
        Leave out the perturbations that are in no published test fold; they are counted in the notes.
    options
        Of :func:`panmodal.screens.reading.read_screen`; they stand above the record.

    Raises
    ------
    InputError
        Not a data set of responses, or its file is not what the record says.
    """
    data = screen_set(name)
    how = data.screen
    assert how is not None
    path = fetch(data, files=[how.file], cache=cache, progress=progress)[0]
    chosen: dict[str, Any] = {
        "name": data.name,
        "response": how.response,
        "pert_col": how.pert_col,
        "datasets": data.contains,
    }
    if not {"context", "context_col"} & set(options):
        chosen |= {"context_col": how.context_col, "context": how.context}
    screen = read_screen(path, **{**chosen, **options})
    if tested_only:
        folds = published_folds(data, path, pert_col=options.get("pert_col"))
        kept = np.isin([canonical(str(i)) for i in screen.adata.obs["pert_id"]], list(folds.split.folds))
        if not kept.all():
            left = len(screen.pert_ids)
            screen = replace(screen, adata=screen.adata[kept].copy(), notes=list(screen.notes))
            screen.notes.append(f"{left - len(screen.pert_ids)} perturbations in no published test fold are left out")
    holds = f"; holds measurements of {', '.join(data.contains)}" if data.contains else ""
    screen.notes.append(f"data set {data.name}: {data.licence}{holds}")
    return screen


def published_folds(name: str | Dataset, path: str | Path, *, pert_col: str | None = None) -> PublishedFolds:
    """Read the folds that stand in ``obs`` of a fetched file.

    Raises
    ------
    InputError
        The record names no folds, their columns are missing, an id has several folds (in several contexts, say), or a value is none.
    """
    data = screen_set(name)
    how = data.screen
    assert how is not None
    if how.folds is None:
        raise InputError(f"data set {data.name!r} was published without folds; make some with `panmodal split`.")
    obs = read_obs(Path(path))
    column = pert_col or how.pert_col
    if column not in obs:
        raise InputError(f"{path}: obs has no column {column!r} for the perturbation; it has {some(obs.columns, 12)}.")
    ids = [canonical(i) for i in text_ids(obs[column].tolist(), "the perturbation", str(path))]
    rows = _numbers(obs, how.folds, ids, str(path)) if how.folds.column else _tests(obs, how.folds, ids, str(path))
    contexts = (
        [plain_text(c) for c in obs[how.context_col]] if how.context_col in obs else [how.context or ""] * len(ids)
    )
    folds: dict[str, int] = {}
    seen: dict[str, str] = {}
    for i, fold, context in zip(ids, rows, contexts, strict=True):
        if fold is None:
            continue
        if folds.setdefault(i, fold) != fold:
            raise InputError(
                f"{path}: perturbation {i!r} is in fold {folds[i]} in {seen[i]} and in fold {fold} in {context}; it must be in one, "
                "so that no context leaks into another. Make folds of your own with `panmodal split`."
            )
        seen.setdefault(i, context)
    never = tuple(sorted(set(ids) - set(folds)))
    partly = {i for i, fold in zip(ids, rows, strict=True) if fold is None} & set(folds)
    notes = []
    if never:
        notes.append(f"{len(never)} of {len(set(ids))} perturbations are in no test fold ({some(never, 3)})")
    if partly:
        notes.append(
            f"{len(partly)} perturbations have a fold in some contexts only and keep it ({some(sorted(partly), 3)})"
        )
    return PublishedFolds(Split(folds, name=f"{data.name}-published"), never, tuple(notes))


def split_file(
    name: str | Dataset,
    *,
    cache: str | Path | None = None,
    out: str | Path | None = None,
    progress: FileProgress | None = None,
) -> PublishedFolds:
    """Write the published folds as a split file: ``NAME.splits.csv`` beside the file in the cache, or ``out``.

    A file that is there with the same folds is left alone.

    Raises
    ------
    InputError
        See :func:`published_folds`; or another split stands in ``out``.
    """
    data = screen_set(name)
    assert data.screen is not None
    source = fetch(data, files=[data.screen.file], cache=cache, progress=progress)[0]
    path = Path(out) if out is not None else source.with_name(f"{data.name}.splits.csv")
    folds = published_folds(data, source)
    if path.exists():
        if read_split(path).digest == folds.split.digest:
            return replace(folds, path=path)
        if out is not None:
            raise InputError(f"{path}: holds another split; remove it or choose another name.")
    folds.split.write(path)
    return replace(folds, path=path)


def _numbers(obs: pd.DataFrame, folds: Folds, ids: list[str], where: str) -> list[int | None]:
    """Return the fold number of each row."""
    column = str(folds.column)
    if column not in obs:
        raise InputError(f"{where}: obs has no column {column!r} with the folds; it has {some(obs.columns, 12)}.")
    out: list[int | None] = []
    for i, value in zip(ids, obs[column].tolist(), strict=True):
        text = plain_text(value).strip() if value is not None else ""
        if text.lower() in NO_FOLD:
            out.append(None)
            continue
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if number < 0 or not number.is_integer():
            raise InputError(f"{where}: column {column!r} holds {text!r} for {i!r}; folds are 0, 1, 2, ...")
        out.append(int(number))
    return out


def _tests(obs: pd.DataFrame, folds: Folds, ids: list[str], where: str) -> list[int | None]:
    """Return for each row the one fold whose column says test; the columns must partition the perturbations."""
    prefix = str(folds.prefix)
    columns = {
        int(c[len(prefix) :]): c for c in map(str, obs.columns) if c.startswith(prefix) and c[len(prefix) :].isdigit()
    }
    if len(columns) < 2:
        raise InputError(
            f"{where}: obs has no columns {prefix}0, {prefix}1, ... with train and test; it has {some(obs.columns, 12)}."
        )
    out: list[int | None] = [None] * len(ids)
    for fold, column in sorted(columns.items()):
        for k, (i, value) in enumerate(zip(ids, obs[column].tolist(), strict=True)):
            text = "" if value is None else plain_text(value).strip().lower()
            if text == "test":
                if out[k] is not None:
                    raise InputError(
                        f"{where}: perturbation {i!r} is tested in {prefix}{out[k]} and in {column}; folds must not overlap. Make "
                        "folds of your own with `panmodal split`."
                    )
                out[k] = fold
            elif text != "train" and text not in NO_FOLD:
                raise InputError(f"{where}: column {column!r} holds {text!r} for {i!r}; it should hold train and test.")
    return out


def read_obs(path: Path) -> pd.DataFrame:
    """Read the annotation of an h5ad without its matrix."""
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as handle:
            return read_elem(handle["obs"])
    except Exception as error:
        raise InputError(f"{path}: its obs cannot be read ({error}). Is it a complete h5ad file?") from error


def find_embedding(name: str) -> tuple[Dataset, EmbeddingEntry | None, str | None]:
    """Find an embedding by ``DATASET/NAME``, by ``NAME`` where only one data set has it, or by ``DATASET#KEY``.

    Returns
    -------
    tuple
        Data set, entry, and key of ``obsm`` (for a data set that holds more than it lists).

    Raises
    ------
    InputError
        There is none, or several.
    """
    records = {n: d for n, d in datasets().items() if d.embeddings is not None}
    folder, slash, rest = name.partition("/")
    if not slash:
        folder, _, rest = name.partition("#")
    if folder in records:
        data = records[folder]
        how = data.embeddings
        assert how is not None
        for entry in how.entries:
            if rest in (entry.name, entry.key or "") or (not rest and len(how.entries) == 1):
                return data, entry, entry.key
        if rest and how.open_keys:
            return data, None, rest
        raise InputError(
            f"data set {folder!r} has no embedding {rest!r}; it has {some([e.name for e in how.entries], 60)}."
        )
    hits = [(d, e) for d in records.values() if d.embeddings for e in d.embeddings.entries if e.name == name]
    if len(hits) == 1:
        return hits[0][0], hits[0][1], hits[0][1].key
    if hits:
        raise InputError(
            f"embedding {name!r} is in several data sets: {', '.join(f'{d.name}/{name}' for d, _ in hits)}. Name one."
        )
    raise InputError(f"no published embedding {name!r}; `panmodal data info` of {', '.join(records)} lists them.")


def load_embedding(
    name: str, *, cache: str | Path | None = None, progress: FileProgress | None = None, combine: str = "sum"
) -> Embedding:
    """Read a published embedding by name, fetched if need be, with its card filled in.

    Parameters
    ----------
    name
        ``DATASET/NAME``, ``NAME``, or ``DATASET#KEY`` (see :func:`find_embedding`).
    cache, progress
        As in :func:`panmodal.datasets.fetch.fetch`.
    combine
        As in :class:`panmodal.embeddings.embedding.Embedding`.

    Raises
    ------
    InputError
        No such embedding, or its file has other dimensions than its record says.
    """
    data, entry, key = find_embedding(name)
    how = data.embeddings
    assert how is not None
    file = entry.file if entry else how.entries[0].file
    path = fetch(data, files=[file], cache=cache, progress=progress)[0]
    read = read_embedding(f"{path}#{key}" if key else path, combine=combine)
    if entry and entry.dims is not None and entry.dims != read.dims:
        raise InputError(
            f"{path}: {entry.name} has {read.dims} dimensions, but the record of {data.name} says {entry.dims}."
        )
    return Embedding(read.ids, read.vectors, Card(**_card(data, entry, key, read)), combine=combine)


def _card(data: Dataset, entry: EmbeddingEntry | None, key: str | None, read: Embedding) -> Mapping[str, Any]:
    how = data.embeddings
    assert how is not None
    file = data.file(entry.file if entry else how.entries[0].file)
    return {
        "name": entry.name if entry else str(key),
        "modality": entry.modality if entry else "unknown",
        "description": entry.description if entry else f"obsm[{key!r}] of {file.path}",
        "source": (entry.source if entry else "") or data.title,
        "licence": file.licence or data.licence,
        "citation": data.citation,
        "url": data.address(file),
        "id_namespace": how.id_namespace,
        "dims": read.dims,
        "trained_on": entry.trained_on if entry else (),
        "recipe": f"panmodal data fetch {data.name}",
    }

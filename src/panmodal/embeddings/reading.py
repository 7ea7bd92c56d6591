"""Reading and writing embeddings in any common format."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panmodal._anndata import read_anndata
from panmodal._files import atomic_path, write_text
from panmodal._tables import (
    TEXT_SUFFIXES,
    number_columns,
    read_frame,
    require_exists,
    require_finite,
    stem,
    suffix,
    text_ids,
)
from panmodal.embeddings.card import CARD_KEY, make_card, read_card, sidecar_paths
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some

ID_COLUMNS = (
    "id", "ids", "pert_id", "perturbation", "gene", "gene_id", "gene_symbol", "symbol", "gene_name", "index",
    "compound", "drug", "name", "target_gene", "__index_level_0__", "unnamed: 0",
)  # fmt: skip
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle")
NPZ_IDS = ("ids", "id", "names", "genes", "index")
NPZ_VECTORS = ("vectors", "embeddings", "embedding", "X", "x", "values", "arr_0")


def read_embedding(
    path: str | Path,
    *,
    name: str | None = None,
    id_col: str | None = None,
    allow_pickle: bool = False,
    combine: str = "sum",
) -> Embedding:
    """Read an embedding.

    Parameters
    ----------
    path
        - ``.h5ad``/``.zarr``: ids in ``obs_names``, vectors in ``X``; ``FILE.h5ad#KEY`` takes ``obsm[KEY]`` instead;
        - ``.parquet``, ``.csv``, ``.tsv`` (``.gz``): one row for each id, all other columns numbers;
        - ``.npz``: arrays ``ids`` and ``vectors``, or one vector for each id under its name;
        - ``.pt``, ``.pkl``: a dictionary id -> vector, only with ``allow_pickle``.
    name
        Name in tables; the card's, else the file's stem (with ``KEY``), unless given.
    id_col
        Column of the ids in a table, or of ``obs`` in an h5ad; detected unless given.
    allow_pickle
        Unpickling a file runs whatever code its author put there. Allow it for files that you trust.
    combine
        See :class:`~panmodal.embeddings.embedding.Embedding`.

    Raises
    ------
    InputError
        The file cannot be read, or does not hold unique ids with finite vectors of one length.
    """
    text, _, key = (str(path), "", "") if Path(path).exists() else str(path).partition("#")
    path = require_exists(text)
    kind = suffix(path)
    ids: list[str]
    vectors: NDArray[Any]
    embedded: dict[str, Any] = {}
    if key and kind not in (".h5ad", ".zarr"):
        raise InputError(f"{path}#{key}: only h5ad and zarr files hold several embeddings (obsm keys).")
    if kind in (".h5ad", ".zarr"):
        ids, vectors, embedded = _from_anndata(path, key, id_col)
    elif kind == ".npz":
        ids, vectors, embedded = _from_npz(path)
    elif kind in PICKLE_SUFFIXES:
        if not allow_pickle:
            raise InputError(
                f"{path}: a {kind} file can run code when it is opened. If you trust its author give --allow-pickle; "
                "better, save the dictionary as npz: numpy.savez('E.npz', ids=list(d), vectors=numpy.array(list(d.values())))."
            )
        ids, vectors = _from_pickle(path, kind)
    elif kind not in (*TEXT_SUFFIXES, ".parquet"):
        raise InputError(
            f"{path}: {kind or 'no suffix'} is no format of embeddings (h5ad, zarr, parquet, csv, tsv, txt, npz, pt, pkl)."
        )
    else:
        ids, vectors, embedded = _from_table(path, kind, id_col)
    fields = read_card(path, embedded)
    given = stem(path) + f"#{key}" if key else fields.get("name")
    fields["name"] = name or given or stem(path)
    if key:
        fields.pop("dims", None)
    card = make_card(fields, str(path))
    try:
        return Embedding(tuple(ids), vectors, card, combine=combine)
    except InputError as error:
        raise InputError(f"{text}: {error}") from None


def obsm_keys(path: str | Path) -> list[str]:
    """List the embeddings that an h5ad or zarr file holds in ``obsm``."""
    return sorted(map(str, read_anndata(require_exists(path)).obsm.keys()))


def _from_anndata(path: Path, key: str, id_col: str | None) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    adata = read_anndata(path)
    if id_col is not None and id_col not in adata.obs:
        raise InputError(f"{path}: obs has no column {id_col!r} for the ids; it has {some(adata.obs.columns, 12)}.")
    ids = text_ids(list(adata.obs_names) if id_col is None else adata.obs[id_col].tolist(), "the id", str(path))
    if key:
        if key not in adata.obsm:
            raise InputError(f"{path}: obsm has no {key!r}; it has {some(adata.obsm.keys(), 12) or 'nothing'}.")
        values = adata.obsm[key]
    elif adata.X is None or adata.n_vars == 0:
        held = ", ".join(f"{path.name}#{k}" for k in adata.obsm)
        raise InputError(f"{path}: X is empty." + (f" Its obsm holds embeddings: give {held}." if held else ""))
    else:
        values = adata.X
    if hasattr(values, "toarray"):
        values = values.toarray()
    return ids, np.asarray(values), dict(adata.uns)


def _from_npz(path: Path) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path}: cannot be read as npz (it is no zip archive). Is it complete? Save ids and vectors together: "
            "numpy.savez(..., ids=ids, vectors=vectors)."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(
                f"{path}: holds Python objects, which would have to be unpickled. Save ids as text: "
                "numpy.savez(..., ids=numpy.array(ids, dtype=str), vectors=vectors)."
            ) from None
        raise InputError(f"{path}: cannot be read as npz ({error}).") from error
    except Exception as error:
        raise InputError(f"{path}: cannot be read as npz ({error}). Is it complete?") from error
    embedded = {CARD_KEY: str(arrays.pop(CARD_KEY))} if CARD_KEY in arrays else {}
    ids_key = next((k for k in NPZ_IDS if k in arrays and arrays[k].dtype.kind in "US"), None)
    vectors_key = next((k for k in NPZ_VECTORS if k in arrays and arrays[k].ndim == 2), None)
    if ids_key and vectors_key:
        ids = text_ids([_text(v) for v in arrays[ids_key].ravel().tolist()], "the id", str(path))
        return ids, arrays[vectors_key], embedded
    if ids_key or vectors_key or not arrays:
        raise InputError(
            f"{path}: needs arrays 'ids' (text) and 'vectors' (ids x dims), or one vector for each id; holds {some(arrays)}."
        )
    ids, stacked = _stack(arrays, str(path))
    return ids, stacked, embedded


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _from_pickle(path: Path, kind: str) -> tuple[list[str], NDArray[Any]]:
    try:
        if kind in (".pt", ".pth"):
            try:
                import torch
            except ImportError:
                raise InputError(f"{path}: reading {kind} needs PyTorch: pip install 'panmodal[deep]'.") from None
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:  # e.g. NumPy arrays inside; the user said that the file is trusted
                loaded = torch.load(path, map_location="cpu", weights_only=False)
        else:
            with path.open("rb") as stream:
                loaded = pickle.load(stream)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be unpickled ({type(error).__name__}: {error}).") from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"{path}: holds a {type(loaded).__name__}; want a dictionary from id to vector.")
    as_arrays = {}
    for k, v in loaded.items():
        if str(k) in as_arrays:
            raise InputError(
                f"{path}: id {str(k)!r} appears more than once (as text and as a number). Keep one vector."
            )
        try:
            as_arrays[str(k)] = np.asarray(v.detach().float().numpy() if hasattr(v, "detach") else v)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{path}: the value of id {str(k)!r} is no vector ({error}).") from error
    return _stack(as_arrays, str(path))


def _stack(vectors: Mapping[str, NDArray[Any]], where: str) -> tuple[list[str], NDArray[Any]]:
    flat = {k: v.reshape(-1) for k, v in vectors.items()}
    lengths: dict[int, list[str]] = {}
    for k, v in flat.items():
        lengths.setdefault(v.size, []).append(k)
    if len(lengths) > 1:
        shown = "; ".join(f"{n}: {some(ks, 2)}" for n, ks in sorted(lengths.items()))
        raise InputError(f"{where}: vectors of different lengths ({shown}).")
    return list(flat), np.stack(list(flat.values()))


def _from_table(path: Path, kind: str, id_col: str | None) -> tuple[list[str], NDArray[Any], dict[str, Any]]:
    embedded: dict[str, Any] = {}
    if kind == ".parquet":
        import pyarrow.parquet as pq

        try:
            raw = pq.read_schema(path).metadata or {}
        except Exception as error:
            raise InputError(f"{path}: cannot be read as parquet ({error}). Is it complete?") from error
        if CARD_KEY.encode() in raw:
            embedded[CARD_KEY] = raw[CARD_KEY.encode()].decode()
    frame = read_frame(path, {*ID_COLUMNS, *([id_col.lower()] if id_col else [])})
    if id_col is not None:
        if id_col not in frame:
            raise InputError(f"{path}: no column {id_col!r} for the ids; there are {some(frame.columns, 12)}.")
        column = id_col
    else:
        text = [
            c
            for c in frame.columns
            if frame[c].dtype.kind in "OUS" or str(frame[c].dtype) in ("string", "str", "category")
        ]
        named = [c for c in frame.columns if c.lower() in ID_COLUMNS]
        first = named or [c for c in text if c == frame.columns[0]] or text
        if not first:
            raise InputError(f"{path}: no column of ids found among {some(frame.columns, 12)}. Name it with --id-col.")
        column = first[0]
        if kind != ".parquet" and not named and _are_values([c for c in frame.columns if c != column]):
            raise InputError(
                f"{path}: the first line ({some(frame.columns, 3)}) looks like a vector, not like names of columns. Add a "
                "header, such as id,0,1,2."
            )
    ids = text_ids(frame[column].tolist(), f"the id ({column})", str(path))
    others = [c for c in frame.columns if c != column]
    if not others:
        raise InputError(f"{path}: no column but {column!r}: there are no vectors.")
    vectors = number_columns(frame, others, str(path), ids)
    require_finite(vectors, ids, others, str(path), "embedding")
    return ids, vectors, embedded


def _are_values(names: list[str]) -> bool:
    """Whether names of columns are numbers with a fraction: whole numbers count dimensions, fractions are data."""
    try:
        return bool(names) and not all(float(n).is_integer() for n in names)
    except ValueError:
        return False


def write_embedding(embedding: Embedding, path: str | Path) -> None:
    """Write an embedding with its card; csv and tsv get the card as side-car ``FILE.card.yaml``."""
    import pandas as pd

    path = Path(path)
    kind = suffix(path)
    card = embedding.card.model_dump_json()
    columns = [str(d) for d in range(embedding.dims)]
    with atomic_path(path) as partial:
        if kind == ".h5ad":
            import anndata

            adata = anndata.AnnData(
                embedding.vectors, obs=pd.DataFrame(index=list(embedding.ids)), var=pd.DataFrame(index=columns)
            )
            adata.uns[CARD_KEY] = card
            adata.write_h5ad(partial, compression="gzip")
        elif kind == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table({"id": pa.array(embedding.ids, pa.string())} | {
                c: embedding.vectors[:, k] for k, c in enumerate(columns)
            })  # fmt: skip
            pq.write_table(table.replace_schema_metadata({CARD_KEY: card}), partial)
        elif kind == ".npz":
            arrays: dict[str, Any] = {"ids": np.array(embedding.ids, dtype=str), "vectors": embedding.vectors}
            arrays[CARD_KEY] = np.array(card)
            with partial.open("wb") as stream:
                np.savez_compressed(stream, **arrays)
        elif kind in (".csv", ".tsv"):
            # As float64, so that the text gives back the very numbers that the digest is of.
            frame = pd.DataFrame(
                np.asarray(embedding.vectors, float), index=pd.Index(embedding.ids, name="id"), columns=columns
            )
            frame.to_csv(
                partial, sep="," if kind == ".csv" else "\t", compression="infer" if path.suffix != ".gz" else "gzip"
            )
        else:
            raise InputError(f"{path}: an embedding is written as h5ad, parquet, csv, tsv or npz.")
    if kind in (".csv", ".tsv"):
        write_text(sidecar_paths(path)[0], embedding.card.to_yaml())

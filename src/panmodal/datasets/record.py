"""What is known of a data set: where it lies, what may be done with it, how its files become a Screen or an Embedding."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from panmodal.errors import InputError

KINDS = ("screen", "cells", "embeddings", "annotation")
"""What a data set is: responses, raw counts of cells, embeddings, or knowledge that embeddings are built from."""
NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*$")


class Model(BaseModel):
    """Unknown fields are refused; values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(Model):
    """One file of a data set.

    Attributes
    ----------
    path
        Name in the folder of the data set in the cache (``/`` between folders).
    url
        Address as it is requested; ``base_url/path``, percent-encoded, unless given.
    sha256, md5
        Hexadecimal digests as the publisher states them; None where it states none. What is not stated is recorded at the first
        download.
    size
        Exact number of bytes; None if not known.
    about
        What it is, or its rough size.
    licence
        Of this file, where it differs from the data set's.
    """

    path: str
    url: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    size: int | None = Field(default=None, ge=1)
    about: str = ""
    licence: str | None = None

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not parts or value.startswith("/") or ".." in parts or "\\" in value or value.endswith("/"):
            raise ValueError("must be the name of a file within the folder of the data set")
        if parts[-1].endswith((".part", ".part.json")):
            raise ValueError("must not end in .part: unfinished downloads do")
        return value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            web_address(value)
        return value


def web_address(value: str) -> str:
    """Return an address that a program can request: http(s), with a host, percent-encoded."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{value!r} is no http(s) address")
    if re.search(r"[\s()<>\"{}|\\^`]", value):
        raise ValueError(f"{value!r} holds characters that must be percent-encoded")
    return value


class Folds(Model):
    """Where the published folds stand in ``obs``: a column of fold numbers, or columns ``PREFIXk`` of train and test."""

    column: str | None = None
    prefix: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Folds:
        if (self.column is None) == (self.prefix is None):
            raise ValueError("give column (fold numbers) or prefix (columns of train and test)")
        return self


class ScreenHow(Model):
    """How a file becomes a Screen.

    Attributes
    ----------
    file
        Path of the file.
    response
        Kind of response.
    pert_col, context_col, context
        As in :func:`panmodal.screens.reading.read_screen`.
    id_namespace
        What the perturbation ids are.
    folds
        The published folds.
    """

    file: str
    response: str
    pert_col: str
    context_col: str | None = None
    context: str | None = None
    id_namespace: str = "unknown"
    folds: Folds | None = None


class Keep(Model):
    """Cells to keep: those whose ``column`` has one of ``values``, or none of ``without``; ``dose`` reads Tahoe's column.

    With ``dose`` the column holds text such as ``[('Trametinib', 5.0, 'uM')]``, of which the number counts.
    """

    column: str
    values: tuple[str | float, ...] = ()
    without: tuple[str, ...] = ()
    dose: bool = False

    @model_validator(mode="after")
    def _one(self) -> Keep:
        if bool(self.values) == bool(self.without):
            raise ValueError("give values or without")
        return self


class CellsHow(Model):
    """How raw counts become a Screen: the options of ``panmodal prepare``.

    Attributes
    ----------
    contexts
        Context -> path of its file, where each file is one context; otherwise all files are read as one table of cells.
    files
        Paths of the files to prepare; all of ``contexts``, or all files, unless given.
    convert
        Name of the conversion that makes an h5ad of the files first (see :mod:`panmodal.datasets.convert`).
    keep
        Conditions that ``--keep`` cannot express; a table of cells is written for them.
    joined_by
        What stands between the parts of a combination, if not ``+``.
    pert_col, control, batch_col, context_col, context, rule, deg, min_cells, gene_col, drop_unassigned
        As in :class:`panmodal.cells.prepare.PrepareOptions`.
    """

    contexts: dict[str, str] = {}
    files: tuple[str, ...] = ()
    convert: Literal["sciplex3"] | None = None
    keep: tuple[Keep, ...] = ()
    joined_by: str | None = None
    pert_col: str
    control: tuple[str, ...] = ()
    batch_col: str | None = None
    context_col: tuple[str, ...] = ()
    context: str | None = None
    rule: Literal["pooled", "matched"] = "pooled"
    deg: Literal["pooled", "vote", "none"] = "pooled"
    min_cells: int = 1
    gene_col: str | None = None
    drop_unassigned: bool = False


class EmbeddingEntry(Model):
    """One embedding of a data set: its file (and ``obsm`` key) and what its card says.

    ``trained_on`` names published studies by the ids of ``Dataset.contains`` where they are known, else the corpus.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$")
    file: str
    key: str | None = None
    modality: str
    dims: int | None = Field(default=None, ge=1)
    description: str = ""
    source: str = ""
    trained_on: tuple[str, ...] = ()


class EmbeddingsHow(Model):
    """How files become Embeddings; ``open_keys``: ``obsm`` may hold more than is listed."""

    id_namespace: str
    entries: tuple[EmbeddingEntry, ...]
    open_keys: bool = False

    @model_validator(mode="after")
    def _unique(self) -> EmbeddingsHow:
        names = [e.name for e in self.entries]
        if len(set(names)) < len(names):
            raise ValueError(f"names appear more than once: {sorted({n for n in names if names.count(n) > 1})}")
        return self


class Dataset(Model):
    """A data set by name.

    Attributes
    ----------
    name
        Lower-case name, which is also its folder in the cache.
    title, description
        What it is.
    kind
        One of :data:`KINDS`.
    licence, citation, doi, url
        Terms of use, whom to cite, and the page to look at.
    organism, perturbation
        Of screens and cells.
    contains
        Ids of the published studies whose measurements are in it (``replogle2022``, ``depmap``, ...): an embedding trained on one
        of them has seen the answers.
    base_url
        Folder that files without an own ``url`` lie in.
    files
        The files.
    screen, cells, embeddings
        How to use them; the one that fits ``kind``.
    manual
        How to get the files by hand, beyond opening their addresses.
    notes
        What a user should know.
    use
        Command lines that use it, for knowledge that embeddings are built from.
    """

    name: str
    title: str = Field(min_length=1)
    kind: Literal["screen", "cells", "embeddings", "annotation"]
    description: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    doi: str | None = Field(default=None, pattern=r"^10\.\d{4,}/\S+$")
    url: str
    organism: str = "human"
    perturbation: Literal["crispri", "crispra", "crispr-ko", "compound"] | None = None
    contains: tuple[str, ...] = ()
    base_url: str | None = None
    files: tuple[DataFile, ...] = Field(min_length=1)
    screen: ScreenHow | None = None
    cells: CellsHow | None = None
    embeddings: EmbeddingsHow | None = None
    manual: str = ""
    notes: tuple[str, ...] = ()
    use: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("must be of lower-case letters, digits, '.', '_' and '-'")
        return value

    @field_validator("url", "base_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value)

    @model_validator(mode="after")
    def _consistent(self) -> Dataset:
        paths = [f.path for f in self.files]
        if len(set(paths)) < len(paths):
            raise ValueError("two files have the same path")
        missing = [f.path for f in self.files if f.url is None and self.base_url is None]
        if missing:
            raise ValueError(f"neither base_url nor a url for {missing[0]}")
        given = {"screen": self.screen, "cells": self.cells, "embeddings": self.embeddings}
        for kind, how in given.items():
            if (how is not None) != (kind == self.kind):
                raise ValueError(
                    f"a data set of kind {self.kind} {'needs' if how is None else 'cannot have'} '{kind}:'"
                )
        used: list[str] = []
        if self.screen:
            used = [self.screen.file]
        elif self.cells:
            used = [*self.cells.contexts.values(), *self.cells.files]
        elif self.embeddings:
            used = [e.file for e in self.embeddings.entries]
        absent = [u for u in used if u not in paths]
        if absent:
            raise ValueError(f"{absent[0]!r} is not among the files")
        return self

    def address(self, file: DataFile) -> str:
        """Return the address of a file."""
        return file.url or f"{str(self.base_url).rstrip('/')}/{quote(file.path, safe='/')}"

    def file(self, path: str) -> DataFile:
        """Return a file by its path, or by the short name of an embedding that lies in it.

        Raises
        ------
        InputError
            There is none of that name.
        """
        for file in self.files:
            if path in (file.path, PurePosixPath(file.path).name):
                return file
        for entry in self.embeddings.entries if self.embeddings else ():
            if entry.name == path:
                return self.file(entry.file)
        known = [e.name for e in self.embeddings.entries] if self.embeddings else [f.path for f in self.files]
        raise InputError(f"data set {self.name!r} has no file {path!r}; it has {', '.join(known)}.")


def make_dataset(fields: dict[str, Any], where: str) -> Dataset:
    """Build a record from fields; say which are wrong."""
    odd = [f for f in fields if not isinstance(f, str)]
    if odd:
        raise InputError(f"{where}: {odd[0]!r} cannot name a field. Fields are {', '.join(Dataset.model_fields)}.")
    try:
        return Dataset(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        raise InputError(
            f"{where}: the record of a data set is not valid ({problems}). Fields are {', '.join(Dataset.model_fields)}."
        ) from None

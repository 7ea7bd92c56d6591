"""What a run is made from, as data: the flags of the command line and the YAML file are the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from panmodal._files import read_yaml
from panmodal.embeddings.embedded import EMBEDDED, embedded_embedding
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.reading import obsm_keys, read_embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.ceilings import find_ceilings
from panmodal.evaluation.fusion_input import FusionInput
from panmodal.screens.ceilings import Ceilings
from panmodal.screens.embedded import EMBEDDED_SCREENS, embedded_screen
from panmodal.screens.reading import read_screen
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, make_split, read_split

if TYPE_CHECKING:
    from panmodal.datasets import Dataset


class EmbeddingInput(BaseModel):
    """What to compare: a file (``FILE``, ``FILE.h5ad#KEY``, ``FILE.h5ad#*`` for all) or the name of a shipped one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    name: str | None = None
    id_col: str | None = None
    combine: Literal["sum", "mean", "none"] = "sum"

    @classmethod
    def parse(cls, text: str) -> EmbeddingInput:
        """Read ``FILE`` or ``NAME=FILE`` (an existing file whose name holds ``=`` is taken as it is)."""
        name, equals, path = text.partition("=")
        if equals and name and not Path(text.partition("#")[0]).exists():
            return cls(path=path, name=name)
        return cls(path=text)

    def load_all(self, allow_pickle: bool = False) -> list[Embedding]:
        """Read the one embedding, or with ``FILE.h5ad#*`` every one that the file holds in ``obsm``."""
        file, star, rest = self.path.partition("#*")
        if not star or rest or Path(self.path).exists():
            return [self.load(allow_pickle)]
        keys = obsm_keys(file)
        if not keys:
            raise InputError(f"{file}: obsm is empty; give the file without #* to take X.")
        prefix = f"{self.name}:" if self.name else ""
        return [
            self.model_copy(update={"path": f"{file}#{key}", "name": f"{prefix}{key}" if prefix else None}).load()
            for key in keys
        ]

    def load(self, allow_pickle: bool = False) -> Embedding:
        """Read the file, or take the shipped or published embedding of that name."""
        if is_dataset(self.path):
            from panmodal.datasets import load_embedding
            from panmodal.datasets.load import find_embedding

            data, entry, _ = find_embedding(self.path)
            _require_fetched(data, entry.file if entry else data.files[0].path)
            read = load_embedding(self.path, combine=self.combine)
            return Embedding(
                read.ids,
                read.vectors,
                read.card.model_copy(update={"name": self.name or read.name}),
                combine=self.combine,
            )
        if self.path in EMBEDDED and not Path(self.path).exists():
            built = embedded_embedding(self.path)
            card = built.card.model_copy(update={"name": self.name or built.name})
            return Embedding(built.ids, built.vectors, card, combine=self.combine)
        return read_embedding(
            self.path, name=self.name, id_col=self.id_col, allow_pickle=allow_pickle, combine=self.combine
        )


class RunConfig(BaseModel):
    """Everything ``panmodal run`` needs. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    screen: str
    embeddings: tuple[EmbeddingInput, ...] = Field(min_length=1)
    out: str
    fusions: tuple[FusionInput, ...] = ()
    id_col: str | None = None
    name: str | None = None
    response: str | None = None
    pert_col: str | None = None
    context_col: tuple[str, ...] | None = None
    context: str | None = None
    contexts: tuple[str, ...] | None = None
    drop_controls: bool = False
    datasets: tuple[str, ...] | None = None
    match: Literal["auto", "genes", "compounds", "exact"] = "auto"
    splits: str | None = None
    folds: int = Field(default=5, ge=2)
    seed: int = Field(default=42, ge=0)
    unseen: Literal["perturbation", "part"] | None = None
    probes: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    permuted: bool = False
    n_jobs: int | None = Field(default=None, ge=1)
    overwrite: Literal["never", "missing", "always"] = "missing"
    keep_predictions: bool = True
    allow_pickle: bool = False
    ceilings: str | bool | None = None
    device: str = "cpu"
    dask: str | None = None
    plan: str | None = None
    retries: int = Field(default=2, ge=0)
    fail_fast: bool = False
    alpha: float = Field(default=0.05, gt=0, le=1)
    min_effect: float = Field(default=0.0, ge=0)
    missing: Literal["error", "zero"] = "error"

    @field_validator("embeddings", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(EmbeddingInput.parse(v) if isinstance(v, str) else v for v in value)
        return value

    @field_validator("fusions", mode="before")
    @classmethod
    def _fusions(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(FusionInput.parse(v) if isinstance(v, str) else v for v in value)
        return value

    @field_validator("context_col", "contexts", "datasets", "probes", "metrics", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    def to_yaml(self) -> str:
        """Return the config as YAML, without the fields left at their defaults."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)

    def load_screen(self) -> Screen:
        """Read the screen, or take the shipped one of that name."""
        return load_screen(
            self.screen, name=self.name, response=self.response, pert_col=self.pert_col,
            context_col=list(self.context_col) if self.context_col else None, context=self.context,
            contexts=list(self.contexts) if self.contexts else None, drop_controls=self.drop_controls,
            datasets=self.datasets, alpha=self.alpha, min_effect=self.min_effect, missing=self.missing,
            tested_only=self.splits == PUBLISHED,
        )  # fmt: skip

    def load_ceilings(self, screen: Screen) -> Ceilings | None:
        """Read the ceilings named, or those beside the screen's file (``ceilings: false`` for none)."""
        if self.ceilings is False:
            return None
        return find_ceilings(self.ceilings if isinstance(self.ceilings, str) else None, self.screen, screen)

    def load_embeddings(self) -> list[Embedding]:
        """Read all embeddings; ``id_col`` holds for those that do not name their own."""
        read = []
        for given in self.embeddings:
            chosen = given if given.id_col or not self.id_col else given.model_copy(update={"id_col": self.id_col})
            read += chosen.load_all(self.allow_pickle)
        return read

    def load_split(self, screen: Screen) -> Split:
        """Read the given folds, or make them."""
        if self.splits == PUBLISHED and not Path(PUBLISHED).exists():
            if not is_dataset(self.screen):
                raise InputError(
                    f"--splits {PUBLISHED}: screen {self.screen!r} is no named data set (panmodal data list)."
                )
            from panmodal.datasets import split_file

            return split_file(self.screen).split
        if self.splits:
            return read_split(self.splits, unseen=self.unseen)
        return make_split(screen.pert_ids, n_folds=self.folds, seed=self.seed, unseen=self.unseen or "perturbation")


PUBLISHED = "published"
"""In place of a split file: the folds published with a named data set."""


def is_dataset(text: str) -> bool:
    """Tell whether a text that is no file begins with the name of a data set: ``NAME``, ``NAME/ENTRY``, ``NAME#KEY``."""
    if Path(text.partition("#")[0]).exists():
        return False
    from panmodal.datasets import datasets

    return text.partition("#")[0].partition("/")[0] in datasets()


def _require_fetched(data: Dataset, file: str) -> None:
    """Refuse to start a download of gigabytes that nobody asked for."""
    from panmodal.datasets import cached_file

    cached_file(f"{data.name}/{file}")


def load_screen(path: str, *, tested_only: bool = False, **options: Any) -> Screen:
    """Read a screen from a file, or take the shipped one of that name (options then do not apply, but ``contexts``).

    The name of a data set that has been fetched reads its screen; ``tested_only`` then leaves out what is in no published fold.
    """
    if is_dataset(path):
        from panmodal.datasets import load_screen as load_named
        from panmodal.datasets.load import screen_set

        data = screen_set(path)
        assert data.screen is not None
        _require_fetched(data, data.screen.file)
        given = {k: v for k, v in options.items() if v not in (None, False)}
        return load_named(path, tested_only=tested_only, **given)
    if path in EMBEDDED_SCREENS and not Path(path).exists():
        screen = embedded_screen(path)
        screen.datasets = tuple(options.get("datasets") or screen.datasets)
        return screen.select(options["contexts"]) if options.get("contexts") else screen
    return read_screen(path, **options)


def make_config(fields: dict[str, Any], where: str) -> RunConfig:
    """Build a config from fields; say which are wrong or missing."""
    odd = [f for f in fields if not isinstance(f, str)]
    if odd:
        raise InputError(f"{where}: {some(odd)} cannot name a field. Fields are {', '.join(RunConfig.model_fields)}.")
    try:
        return RunConfig(**fields)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            field = ".".join(map(str, e["loc"])) or "config"
            problems.append(f"{field}: {e['msg']}" + (f" (got {e['input']!r})" if e["type"] != "missing" else ""))
        raise InputError(f"{where}: {'; '.join(problems)}. Fields are {', '.join(RunConfig.model_fields)}.") from None


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the fields of a YAML config."""
    return read_yaml(Path(path), "run options (screen, embeddings, out, ...)")

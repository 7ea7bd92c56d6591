"""What a site is called and made from: ``site.yaml``."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from panmodal._files import read_yaml
from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.site.safe import link


def _day(text: str) -> str:
    if text:
        try:
            datetime.date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is no date; write it as 2026-01-31") from None
    return text


class SourceConfig(BaseModel):
    """A results folder or submission: where it is, what it is called on the site, and when it was submitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    path: str = Field(min_length=1)
    name: str = Field(default="", max_length=60)
    date: str = ""

    _dated = field_validator("date", mode="before")(lambda v: _day(str(v)))


class SiteConfig(BaseModel):
    """What ``site.yaml`` may say; unknown fields are refused.

    ``sources`` come before those of the command line; ``path`` is relative to the file. ``submit`` is where to send a bundle.
    ``date`` is the only date that pages show; no clock is read. ``metric`` replaces the primary metric where a task has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(default="Perturbation embeddings: leaderboard", min_length=1, max_length=200)
    intro: str = Field(
        default="Which representation best predicts the response to perturbations not seen in training?",
        max_length=4000,
    )
    base_url: str = ""
    submit: str = ""
    date: str = ""
    metric: str | None = None
    sources: tuple[SourceConfig, ...] = ()

    _dated = field_validator("date", mode="before")(lambda v: _day(str(v)))

    @field_validator("base_url", "submit")
    @classmethod
    def _linked(cls, value: str) -> str:
        if value and not link(value):
            raise ValueError(f"{value!r} is no address that begins with https:// or http://")
        return value

    @field_validator("base_url")
    @classmethod
    def _folder(cls, value: str) -> str:
        return value.rstrip("/") + "/" if value else ""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in METRICS:
            raise ValueError(f"no metric {value!r}; there are {', '.join(METRICS)}")
        return value


def make_config(fields: Mapping[str, Any], where: str) -> SiteConfig:
    """Build a config; say which fields are wrong."""
    try:
        return SiteConfig(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{where}: {problems}. Fields are {', '.join(SiteConfig.model_fields)}.") from None


def read_config(path: str | Path) -> SiteConfig:
    """Read ``site.yaml``; paths of sources become relative to where it lies.

    Raises
    ------
    InputError
        Not readable, or a field is wrong.
    """
    path = Path(path)
    fields = read_yaml(path, f"fields of a site ({', '.join(SiteConfig.model_fields)})")
    sources = fields.get("sources")
    if isinstance(sources, list):
        fields["sources"] = [{"path": s} if isinstance(s, str) else s for s in sources]
    config = make_config(fields, str(path))
    placed = tuple(s.model_copy(update={"path": str(path.parent / s.path)}) for s in config.sources)
    return config.model_copy(update={"sources": placed})

"""What a check is: a declarative record next to the one function that looks; and what it may find."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.insight.checks.case import Case

SEVERITIES = ("error", "warning", "info")
"""``error``: a conclusion cannot stand; ``warning``: it may be wrong or weak; ``info``: a reader should know."""


@dataclass(frozen=True)
class Finding:
    """What a check has found at one place.

    Attributes
    ----------
    where
        Screen, context, response, split, embedding, ... of the place, as far as they apply.
    what
        What was found, in sentences with numbers.
    numbers
        The table behind it.
    severity
        One of :data:`SEVERITIES`; that of the check unless the function says otherwise.
    code
        Code of the check; put in by the runner.
    """

    where: Mapping[str, str]
    what: str
    numbers: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    severity: str = ""
    code: str = ""

    @property
    def place(self) -> str:
        """The place as text."""
        return " · ".join(self.where.values())


@dataclass(frozen=True)
class Unchecked:
    """What a check could not look at, and why."""

    where: Mapping[str, str]
    reason: str
    code: str = ""

    @property
    def place(self) -> str:
        """The place as text; empty for all of the results."""
        return " · ".join(self.where.values())


@dataclass(frozen=True)
class Option:
    """A threshold of a check."""

    default: float
    help: str


Look = Callable[["Case"], Iterable[Finding | Unchecked]]


@dataclass(frozen=True)
class Check:
    """A check. Adding one is adding a record to ``CHECKS`` of a module of this folder.

    Parameters
    ----------
    code, name
        ``PM001`` and a short name (lower case, hyphens); either is taken by ``--ignore``.
    title
        The question it answers.
    severity
        Of its findings, unless the function says otherwise.
    why
        Why it matters.
    advice
        What to do about a finding.
    function
        Takes the case and yields findings, and whatever it could not look at; its docstring says how it is computed.
    options
        Thresholds by name; a name belongs to one check.
    """

    code: str
    name: str
    title: str
    severity: str
    why: str
    advice: str
    function: Look = field(repr=False)
    options: Mapping[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"PM\d{3}", self.code):
            raise InputError(f"check {self.code!r}: a code is PM and three digits.")
        if self.severity not in SEVERITIES:
            raise InputError(f"check {self.code}: severity is {self.severity!r}; it is one of {', '.join(SEVERITIES)}.")

    @property
    def how(self) -> str:
        """How it is computed: the docstring of the function."""
        return inspect.getdoc(self.function) or ""

    @property
    def page(self) -> str:
        """Its page, within ``docs``."""
        return f"checks/{self.code}.md"

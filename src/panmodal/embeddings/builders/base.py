"""What a builder is: a declarative record next to the one function that does the work."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from numpy.typing import NDArray

from panmodal.errors import InputError, some

GIVEN = ("ids", "match_as", "progress")
"""Parameters that a builder may declare and that are handed to it; they are no options of the user."""

Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True)
class Built:
    """What the function of a builder returns.

    Attributes
    ----------
    ids
        Ids as the sources write them, unique.
    vectors
        Finite numbers, len(ids) x dims.
    left_out
        Id -> why it has no vector: whatever the sources name and the result lacks.
    notes
        What a reader should know, one line each.
    card
        Fields of the card that are known only after reading (``trained_on``, ``id_namespace``, ...).
    models
        Model -> digest of its weights, or its revision.
    """

    ids: Sequence[str]
    vectors: NDArray[Any]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """One option of a builder, read from the signature of its function.

    ``kind`` is the annotated type; ``is_file`` tells a source, which is digested into the recipe.
    """

    name: str
    kind: Any
    help: str
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def is_file(self) -> bool:
        """Whether the value is a file, or several."""
        return Path in _atoms(self.kind)


@dataclass(frozen=True)
class Builder:
    """A way of making embeddings. Adding one is adding one file to this folder, or one entry point.

    Parameters
    ----------
    name
        Name on the command line: ``panmodal embed NAME``.
    modality
        Modality of what it makes: network, annotation, dependency, text, protein, DNA, expression, chemistry, ...
    description
        One line: what the vectors are.
    function
        Takes keyword options annotated ``Annotated[type, "help"]`` and returns :class:`Built`. An option of type ``Path``
        (or a tuple of them) is a source. ``ids`` (a sequence of the wanted ids, or None for all), ``match_as`` (how they are matched)
        and ``progress`` are handed to it if it declares them.
    example
        Writes a tiny input into a folder and returns the options: the parametrised test of all builders runs it.
    id_namespace
        What its ids are: ``hgnc_symbol``, ``compound name``, ``as in the source``, ...
    trained_on
        Studies whose responses every result of it has seen; ``("none",)`` if it cannot have seen any, as structures have not.
    citation, url
        Of the method.
    extra
        Extra of the package that it needs (``chem``: ``pip install 'panmodal[chem]'``).
    needs
        Modules that the extra brings; looked for before anything is read.
    version
        Raised whenever the same options and sources give another result.
    """

    name: str
    modality: str
    description: str
    function: Callable[..., Built]
    example: Callable[[Path], dict[str, Any]]
    id_namespace: str = "as in the source"
    trained_on: tuple[str, ...] = ()
    citation: str = ""
    url: str = ""
    extra: str = ""
    needs: tuple[str, ...] = ()
    version: int = 1

    @property
    def options(self) -> dict[str, Option]:
        """The options of the function, by name."""
        hints = get_type_hints(self.function, include_extras=True)
        made = {}
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.name in GIVEN:
                continue
            kind, text = hints[parameter.name], ""
            if get_origin(kind) is Annotated:
                kind, text = get_args(kind)[0], str(get_args(kind)[1])
            made[parameter.name] = Option(parameter.name, kind, text, parameter.default)
        return made

    @property
    def takes(self) -> frozenset[str]:
        """Which of the handed parameters the function declares."""
        return frozenset(inspect.signature(self.function).parameters) & frozenset(GIVEN)

    def missing(self) -> list[str]:
        """Modules of the extra that are not installed."""
        return [module for module in self.needs if not _installed(module)]

    def require(self) -> None:
        """Raise InputError that says what to install, if something is missing."""
        absent = self.missing()
        if absent:
            raise InputError(
                f"builder {self.name!r} needs {some(absent)}, which is not installed: pip install 'panmodal[{self.extra}]'."
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _atoms(kind: Any) -> set[Any]:
    """Types inside unions and tuples: ``tuple[Path, ...] | None`` holds Path."""
    if get_origin(kind) in (Union, UnionType, tuple, list):
        return {atom for part in get_args(kind) if part not in (NoneType, Ellipsis) for atom in _atoms(part)}
    return {kind}


def select(available: Iterable[str], ids: Sequence[str] | None, kind: str = "auto") -> list[str]:
    """Return which of the ``available`` ids are needed to serve the wanted ``ids`` (all if those are None).

    Parts of wanted combinations are served too. For builders whose work grows with the number of ids; the others build
    everything and leave the choice to :func:`panmodal.embed`.
    """
    have = list(available)
    if ids is None:
        return have
    from panmodal.identifiers import match_ids

    needed = set(match_ids(ids, have, kind=kind).pairs.values())
    return [i for i in have if i in needed]

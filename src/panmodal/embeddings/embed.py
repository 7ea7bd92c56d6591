"""Making an embedding with a builder: options checked, sources digested, ids matched, the recipe kept."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from panmodal._tables import text_ids
from panmodal.embeddings.builders import Builder, Built, Progress, get_builder
from panmodal.embeddings.card import make_card
from panmodal.embeddings.embedding import Embedding
from panmodal.embeddings.recipe import SHIPPED, Recipe, Source, digest_of, locate, packages
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    from panmodal.identifiers import Match


@dataclass(frozen=True)
class Made:
    """An embedding just made, and what became of every id.

    Attributes
    ----------
    embedding
        The vectors, with card and recipe.
    match
        How the wanted ids were found among those of the sources; None if no ids were given.
    left_out
        Id of the sources -> why it has no vector.
    notes
        What the builder wants known.
    """

    embedding: Embedding
    match: Match | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> list[str]:
        """Say in a few lines what was made and what was not."""
        lines = [repr(self.embedding), *self.notes]
        if self.match is not None:
            lines.append(self.match.summary())
        return lines + _left_out(self.left_out)

    def frame(self) -> pd.DataFrame:
        """Return a table with a row for each wanted id (each id, if none were given) and each one left out.

        Columns ``wanted``, ``status``, ``available`` (the id of the sources) and, where there is something to say, ``how``,
        ``candidates``, ``hint`` (why).
        """
        if self.match is not None:
            table = self.match.frame()
        else:
            table = pd.DataFrame({"wanted": self.embedding.ids, "status": "made", "available": self.embedding.ids})
        lost = {
            "wanted": "",
            "status": "left out",
            "available": list(self.left_out),
            "hint": list(self.left_out.values()),
        }
        return pd.concat([table, pd.DataFrame(lost)], ignore_index=True) if self.left_out else table


def embed(
    builder: str, *, ids: Sequence[str] | None = None, card: Mapping[str, Any] | None = None, **options: Any
) -> Embedding:
    """Make an embedding; :func:`make_embedding` also tells what became of every id.

    >>> import panmodal
    >>> panmodal.embed("netmf", edges="9606.protein.links.v12.0.txt.gz", min_score=400)  # doctest: +SKIP
    """
    return make_embedding(builder, ids=ids, card=card, **options).embedding


def make_embedding(
    builder: str,
    *,
    ids: Sequence[str] | None = None,
    match_as: str = "auto",
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Made:
    """Make an embedding with a builder.

    Parameters
    ----------
    builder
        Name; see ``panmodal list builders``.
    ids
        Perturbation ids that need a vector, such as ``screen.pert_ids``; the result has them under these names. Everything
        that the sources hold unless given.
    match_as
        How ids are matched to those of the sources: ``auto``, ``genes``, ``compounds`` or ``exact``.
    card
        Fields of the card to set (``name``, ``licence``, ``trained_on``, ...).
    progress
        Called with (done, to do) by builders that take long.
    **options
        Options of the builder; files are paths, ``panmodal:TABLE`` for a shipped table, or ``data:NAME/FILE``.

    Raises
    ------
    InputError
        Unknown builder or option, a wrong value, a missing package or file; none of the ids has a vector.
    """
    record = get_builder(builder)
    record.require()
    if ids is not None:
        ids = text_ids(ids, "the wanted id", f"panmodal embed {builder}")
    values, sources = _resolve(record, _check(record, options))
    given: dict[str, Any] = {"ids": ids, "match_as": match_as, "progress": progress}
    built = record.function(**values, **{name: given[name] for name in record.takes})
    names, vectors, found = _choose(built, ids, match_as, builder)
    fields: dict[str, Any] = {
        "name": builder, "modality": record.modality, "description": record.description,
        "citation": record.citation, "source": ", ".join(dict.fromkeys(_file_name(s.path) for s in sources)), "url": record.url,
        "id_namespace": record.id_namespace, "trained_on": record.trained_on, **built.card,
    }  # fmt: skip
    if found is not None and found.resolved:
        fields["id_namespace"] = "as asked for"
    fields |= card or {}
    notes = [*built.notes, *_left_out(built.left_out)]
    if found is not None and len(found.missing) + len(found.ambiguous):
        notes.append(found.summary())
    made = Embedding(names, vectors, make_card(fields, f"panmodal embed {builder}"), combine="sum")
    recipe = Recipe(
        builder=record.name, rule=record.version, options=_plain(record, values), sources=sources,
        models=dict(built.models), selected=found is not None, match=match_as, packages=packages(record.needs), result=made.digest,
    )  # fmt: skip
    update = {"recipe": recipe, "notes": (*made.card.notes, *notes)}
    made = Embedding(made.ids, made.vectors, made.card.model_copy(update=update))
    return Made(made, found, dict(built.left_out), built.notes)


def _check(record: Builder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options with their defaults, converted to their types."""
    known = record.options
    where = f"panmodal embed {record.name}"
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 2, 0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"{where}: no option {name!r}.{hint} Options are {', '.join(known) or 'none'}.")
    absent = [o.name for o in known.values() if o.required and o.name not in options]
    if absent:
        told = "; ".join(f"{name}: {known[name].help}" for name in absent)
        raise InputError(f"{where}: option(s) {some(absent)} are needed ({told}).")
    values = {}
    for name, option in known.items():
        value = options.get(name, option.default)
        if isinstance(value, list):
            value = tuple(value)
        if option.is_file and isinstance(value, str | Path) and "tuple" in str(option.kind):
            value = (value,)
        try:
            values[name] = TypeAdapter(option.kind, config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise InputError(f"{where}: {name} = {value!r} cannot be used ({problem}); {option.help}.") from None
    return values


def _resolve(record: Builder, values: dict[str, Any]) -> tuple[dict[str, Any], tuple[Source, ...]]:
    """Find and digest the files among the options."""
    resolved, sources = dict(values), []
    for name, option in record.options.items():
        value = values[name]
        if not option.is_file or value is None:
            continue
        files = value if isinstance(value, tuple) else (value,)
        places = []
        for text in map(str, files):
            path, key = locate(text)
            sha256, size = digest_of(path)
            sources.append(Source(option=name, path=text, sha256=sha256, bytes=size))
            places.append(Path(f"{path}{key}"))
        resolved[name] = tuple(places) if isinstance(value, tuple) else places[0]
    return resolved, tuple(sources)


def _plain(record: Builder, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are no files, as JSON holds them."""
    return {
        name: list(values[name]) if isinstance(values[name], tuple) else values[name]
        for name, option in record.options.items()
        if not option.is_file
    }


def _choose(
    built: Built, ids: Sequence[str] | None, match_as: str, builder: str
) -> tuple[tuple[str, ...], np.ndarray, Match | None]:
    from panmodal.identifiers import match_ids

    vectors = np.asarray(built.vectors)
    if ids is None:
        return tuple(built.ids), vectors, None
    available = list(map(str, built.ids))
    found = match_ids(ids, available, kind=match_as)
    if not found.pairs:
        raise InputError(
            f"panmodal embed {builder}: none of the {len(ids)} wanted ids has a vector. Wanted are {some(ids, 4)}; the sources "
            f"have {some(available, 4)}. {found.summary()}"
        )
    row = {name: k for k, name in enumerate(available)}
    return tuple(found.pairs), vectors[[row[there] for there in found.pairs.values()]], found


def _file_name(path: str) -> str:
    """Return the name of a file without its folder, or the whole name of a shipped or fetched one."""
    return path if path.startswith((SHIPPED, "data:")) else Path(path).name


def _left_out(left_out: Mapping[str, str]) -> list[str]:
    if not left_out:
        return []
    first, why = next(iter(left_out.items()))
    return [f"{len(left_out)} id(s) of the sources have no vector: {some(left_out, 3)} ({first}: {why})"]


def regenerate(
    embedding: Embedding,
    *,
    sources: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
    folder: str | Path = ".",
    progress: Progress | None = None,
) -> Made:
    """Make an embedding again from the recipe in its card, from the very same sources.

    Parameters
    ----------
    embedding
        An embedding that panmodal made.
    sources
        Option -> file (or several), for sources that now lie elsewhere.
    folder
        Where relative paths of the recipe start, and where a source is looked for by its name.

    Raises
    ------
    InputError
        The card has no recipe; a source is missing or its content has changed; the rule of the builder is another one.
    """
    recipe = embedding.card.recipe
    where = f"embedding {embedding.name!r}"
    if not isinstance(recipe, Recipe):
        raise InputError(f"{where}: its card has no recipe of panmodal" + (f", only {recipe!r}." if recipe else "."))
    record = get_builder(recipe.builder)
    if record.version != recipe.rule:
        raise InputError(
            f"{where}: made by rule {recipe.rule} of {recipe.builder!r}; this panmodal has rule {record.version}. Install "
            f"panmodal {recipe.packages.get('panmodal', 'of that time')}."
        )
    moved = {name: [value] if isinstance(value, str | Path) else list(value) for name, value in (sources or {}).items()}
    options = dict(recipe.options)
    for name, option in record.options.items():
        if not option.is_file:
            continue
        made_from = [s for s in recipe.sources if s.option == name]
        if name in moved and len(moved[name]) != len(made_from):
            raise InputError(f"{where}: {name} was made from {len(made_from)} file(s); {len(moved[name])} are given.")
        files = moved.get(name) or [_find(s.path, Path(folder)) for s in made_from]
        for source, file in zip(made_from, files, strict=True):
            sha256, _ = digest_of(locate(str(file))[0])
            if sha256 != source.sha256:
                raise InputError(
                    f"{file}: not the file that {where} was made from (sha256 {sha256[:12]}, the recipe says "
                    f"{source.sha256[:12]}). Give the original with --source {name}=FILE."
                )
        if files:
            options[name] = tuple(files) if "tuple" in str(option.kind) else files[0]
    fields = embedding.card.model_dump(exclude={"recipe", "notes", "dims"})
    ids = list(embedding.ids) if recipe.selected else None
    made = make_embedding(recipe.builder, ids=ids, match_as=recipe.match, card=fields, progress=progress, **options)
    again = made.embedding.card.recipe
    assert isinstance(again, Recipe)
    other = [name for name, digest in recipe.models.items() if again.models.get(name) != digest]
    if other:
        raise InputError(
            f"{where}: model {some(other)} is no longer what it was (another digest). Give its revision of that time; a card's url "
            "names it."
        )
    return made


def _find(path: str, folder: Path) -> str:
    if path.startswith((SHIPPED, "data:")):
        return path
    for place in (folder / path, folder / Path(path).name):  # an absolute path stays what it is
        if Path(str(place).partition("#")[0]).exists():
            return str(place)
    return path

"""The command line of builders: embed NAME (one command for each builder), regenerate, and resolve."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
import typer.core
import typer.main

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.embeddings.builders import Builder, Option
    from panmodal.embeddings.embed import Made

CARD_FLAGS = {
    "name": "Name in tables; the stem of --out unless given.",
    "modality": "Modality, such as protein or text; the builder's unless given.",
    "description": "One line on what it is.",
    "licence": "Licence of the vectors.",
    "citation": "What to cite.",
    "url": "Where it is from.",
    "trained_on": "Data set whose responses it has seen, such as replogle2022 (repeat): the leaderboard marks it there.",
}
"""Fields of the card that every builder's command sets, with their help."""


class BuilderCommands(typer.core.TyperGroup):
    """Commands made from the records of the builders, when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all builders."""
        from panmodal.embeddings.builders import builders

        return list(builders())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of one builder; an unknown name is an InputError that names those near it."""
        from panmodal.embeddings.builders import get_builder

        return _command(get_builder(cmd_name))


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    embed = typer.Typer(
        cls=BuilderCommands, no_args_is_help=True, rich_markup_mode="markdown",
        help="Make an embedding: `panmodal embed netmf --edges links.txt.gz --ids screen.h5ad --out string.h5ad`. "
        "`panmodal embed NAME --help` tells the options of a builder.",
    )  # fmt: skip

    @embed.callback()
    def _embed() -> None:
        """Keep the group a group."""

    app.add_typer(embed, name="embed")
    app.command()(regenerate)
    app.command()(resolve)


def _command(builder: Builder) -> Any:
    """Make the command of a builder from its record."""
    options = builder.options

    def run(**given: Any) -> None:
        out, report = given.pop("out"), given.pop("report")
        wanted, id_col, match_as = given.pop("ids"), given.pop("ids_col"), given.pop("match")
        card = {field: given.pop(f"card_{field}") for field in CARD_FLAGS}
        _embed(builder, {k: v for k, v in given.items() if v not in (None, [])}, out=Path(out), report=report,
               wanted=wanted, id_col=id_col, match_as=match_as, card={k: v for k, v in card.items() if v})  # fmt: skip

    parameters = [_parameter(option) for option in options.values()]
    parameters += [
        _flag("ids", str, "Which ids: a screen, an embedding, a table, or a .txt with one in a line; all unless given."),
        _flag("ids_col", str, "Column of the ids in that file; detected unless given."),
        _flag("match", str, "How ids are matched: auto (default), genes, compounds or exact."),
        *(_flag(f"card_{name}", list[str] if name == "trained_on" else str, text, "--" + name.replace("_", "-"))
          for name, text in CARD_FLAGS.items()),
        _flag("report", Path, "Write what became of every id (csv)."),
        _flag("out", str, "File to write: h5ad, parquet, npz, csv or tsv.", required=True),
    ]  # fmt: skip
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    needs = f"\n\nNeeds `pip install 'panmodal[{builder.extra}]'`." if builder.missing() else ""
    cite = f"\n\n{builder.citation}" if builder.citation else ""
    run.__doc__ = f"{builder.description[0].upper()}{builder.description[1:]} ({builder.modality}).{cite}{needs}"
    single = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    single.command(name=builder.name)(run)
    return typer.main.get_command(single)


def _parameter(option: Option) -> inspect.Parameter:
    kinds = [k for k in (get_args(option.kind) or (option.kind,)) if k is not NoneType]
    kind, text = (kinds[0] if get_origin(option.kind) is not Literal else option.kind), option.help
    if get_origin(option.kind) is tuple or get_origin(kind) is tuple:
        kind, text = list[str], f"{text} (repeat)"
    elif get_origin(kind) is Literal:
        kind, text = str, f"{text}: {', '.join(map(str, get_args(kind)))}"
    elif kind not in (int, float, bool):
        kind = str
    if not option.required and option.default not in (None, ()):
        text += f" [default: {option.default}]"
    return _flag(option.name, kind, text, required=option.required)


def _flag(name: str, kind: Any, text: str, flag: str = "", *, required: bool = False) -> inspect.Parameter:
    option = typer.Option(flag, help=text) if flag else typer.Option(help=text)
    if kind is bool:  # so that both --flag and --no-flag can be told from no flag
        kind = bool | None
    elif not required:
        kind = kind | None
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _embed(
    builder: Builder, options: dict[str, Any], *, out: Path, report: Path | None, wanted: str | None, id_col: str | None,
    match_as: str | None, card: dict[str, Any],
) -> None:  # fmt: skip
    from panmodal._tables import stem, suffix
    from panmodal.embeddings.embed import make_embedding
    from panmodal.wanted import read_ids

    if suffix(out) not in (".h5ad", ".parquet", ".npz", ".csv", ".tsv"):
        raise InputError(f"{out}: an embedding is written as h5ad, parquet, npz, csv or tsv.")
    if report is not None and suffix(report) != ".csv":
        raise InputError(f"{report}: the report is written as csv.")
    ids = read_ids(wanted, id_col) if wanted else None
    with trial_progress(builder.name) as progress:
        made = make_embedding(
            builder.name,
            ids=ids,
            match_as=match_as or "auto",
            card={"name": stem(out), **card},
            progress=progress,
            **options,
        )
    _write(made, out, report)


def _write(made: Made, out: Path, report: Path | None) -> None:
    from panmodal._files import write_text

    made.embedding.write(out)
    console = console_for()
    for line in made.summary():
        console.print(plain(line), highlight=False, soft_wrap=True)
    if report is not None:
        write_text(report, made.frame().to_csv(index=False))
        console.print(f"Wrote {report}: what became of every id", highlight=False, soft_wrap=True)
    console.print(f"Wrote {out}, digest {made.embedding.digest[:12]}", highlight=False, soft_wrap=True)


def regenerate(
    file: Annotated[Path, typer.Argument(help="Embedding that panmodal embed wrote.")],
    source: Annotated[
        list[str] | None, typer.Option(help="OPTION=FILE for a source that lies elsewhere (repeat).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the embedding made again.")] = None,
) -> None:
    """Make an embedding again from the recipe in its card, and compare.

    Example: `panmodal regenerate string.h5ad --source edges=9606.protein.links.v12.0.txt.gz`
    """
    import numpy as np

    from panmodal.embeddings.embed import regenerate as again
    from panmodal.embeddings.reading import read_embedding

    old = read_embedding(file)
    moved: dict[str, list[str]] = {}
    for text in source or []:
        option, equals, path = text.partition("=")
        if not (equals and option and path):
            raise InputError(f"--source {text}: want OPTION=FILE, such as edges=links.txt.gz.")
        moved.setdefault(option, []).append(path)
    with trial_progress("regenerate") as progress:
        made = again(old, sources=moved, folder=file.parent, progress=progress)
    console = console_for()
    new = made.embedding
    if new.digest == old.digest:
        console.print(f"The same, to the last bit: digest {new.digest[:12]}", highlight=False)
    elif new.vectors.shape == old.vectors.shape and set(new.ids) == set(old.ids):
        gap = np.abs(new.matrix(old.ids) - old.matrix(old.ids)).max()
        scale = np.abs(np.asarray(old.vectors)).max()
        console.print(
            f"The same ids; values differ by up to {gap:.3g} where the largest is {scale:.3g}", highlight=False
        )
    else:
        console.print(f"[bold]Another embedding:[/] {len(new.ids)} ids x {new.dims} dims, the file has {len(old.ids)} x "
                      f"{old.dims}", highlight=False)  # fmt: skip
    if out is not None:
        new.write(out)
        console.print(f"Wrote {out}", highlight=False, soft_wrap=True)


def resolve(
    file: Annotated[Path, typer.Argument(help="Ids: a screen, an embedding, a table, or a .txt with one in a line.")],
    ids_col: Annotated[str | None, typer.Option(help="Column of the ids; detected unless given.")] = None,
    kind: Annotated[str, typer.Option(help="genes or compounds.")] = "genes",
    table: Annotated[
        Path | None,
        typer.Option(
            help="Table to look ids up in (hgnc_complete_set.txt, compounds.csv); the shipped one unless given."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write what became of every id (csv).")] = None,
) -> None:
    """Tell which gene or compound each id means: mapped, ambiguous, not found or refused, and why.

    Example: `panmodal resolve screen.h5ad --out ids.csv`
    """
    from panmodal._files import write_text
    from panmodal._tables import suffix
    from panmodal.identifiers import CompoundResolver, GeneResolver
    from panmodal.perturbation_ids import parts
    from panmodal.wanted import read_ids

    if kind not in ("genes", "compounds"):
        raise InputError(f"--kind {kind}: want genes or compounds.")
    if out is not None and suffix(out) != ".csv":
        raise InputError(f"{out}: the report is written as csv.")
    resolver = GeneResolver(table) if kind == "genes" else CompoundResolver(table)
    found = resolver.resolve(list(dict.fromkeys(p for i in read_ids(file, ids_col) for p in parts(i))))
    console = console_for()
    console.print(plain(found.summary()), highlight=False, soft_wrap=True)
    for what, ids in list(found.duplicates().items())[:10]:
        console.print(plain(f"  {what}: {', '.join(ids)} are the same"), highlight=False, soft_wrap=True)
    if out is not None:
        write_text(out, found.frame().to_csv(index=False))
        console.print(f"Wrote {out}: what became of every id", highlight=False, soft_wrap=True)

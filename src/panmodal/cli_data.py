"""The command line for named data sets: list, info, fetch, path, verify."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panmodal._console import console_for, plain
from panmodal.cli_cells import show_facts
from panmodal.errors import InputError, PanmodalError, StoreError

if TYPE_CHECKING:
    from panmodal.datasets.cache import Cache
    from panmodal.datasets.fetch import FileProgress
    from panmodal.datasets.record import DataFile, Dataset

data_app = typer.Typer(
    name="data", no_args_is_help=True, rich_markup_mode="markdown",
    help="Named data sets: published screens, original deposits, embeddings and knowledge, downloaded once and checked ever after.",
)  # fmt: skip

Name = Annotated[str, typer.Argument(help="Name of a data set; see panmodal data list.")]
Files = Annotated[
    list[str] | None, typer.Option("--file", help="Only this file (repeat): path, file name, or name of an embedding.")
]
Folder = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder; the variable PANMODAL_CACHE, else the system's.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(data_app)


@data_app.command(name="list")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only this kind: screen, cells, embeddings or annotation.")] = None,
    cache: Folder = None,
) -> None:
    """List the data sets.

    Example: `panmodal data list --kind screen`
    """
    from rich.table import Table

    from panmodal.datasets.cache import Cache
    from panmodal.datasets.record import KINDS
    from panmodal.datasets.registry import datasets

    if kind is not None and kind not in KINDS:
        raise InputError(f"no data sets of kind {kind!r}; give one of {', '.join(KINDS)}.")
    store = Cache(cache)
    table = Table(title="data sets", title_justify="left", title_style="bold")
    for column in ("name", "kind", "what", "studies", "in the cache"):
        table.add_column(column, overflow="fold")
    for data in datasets().values():
        if kind in (None, data.kind):
            there = sum(store.path(data, f).is_file() for f in data.files)
            have = "" if not there else "yes" if there == len(data.files) else f"{there} of {len(data.files)}"
            table.add_row(*map(plain, (data.name, data.kind, data.title, ", ".join(data.contains), have)))
    console = console_for()
    console.print(table)
    console.print(plain(f"Cache: {store.folder}"), highlight=False, soft_wrap=True)


@data_app.command()
def info(name: Name, cache: Folder = None) -> None:
    """Tell what a data set is, where it comes from, under which terms, and how to use it.

    Example: `panmodal data info essential-lfc`
    """
    from rich.table import Table

    from panmodal.datasets.cache import Cache
    from panmodal.datasets.fetch import by_hand
    from panmodal.datasets.registry import dataset

    data, store = dataset(name), Cache(cache)
    console = console_for()
    facts = [("what", data.title), ("kind", data.kind), ("", data.description), ("licence", data.licence), ("cite", data.citation),
             ("doi", data.doi or ""), ("page", data.url), ("organism", data.organism), ("perturbation", data.perturbation or ""),
             ("studies", ", ".join(data.contains)), ("folder", str(store.folder / data.name)),
             *(("note", n) for n in data.notes)]  # fmt: skip
    show_facts(console, data.name, [(what, value) for what, value in facts if value])
    table = Table(title="files", title_justify="left", title_style="bold")
    for column in ("file", "size", "in the cache", "digest"):
        table.add_column(column, overflow="fold")
    for file in data.files:
        table.add_row(*map(plain, _file_row(store, data, file)))
    console.print(table)
    if data.embeddings:
        table = Table(title="embeddings", title_justify="left", title_style="bold")
        for column in ("name", "modality", "dims", "source", "what", "trained on"):
            table.add_column(column, overflow="fold")
        for e in data.embeddings.entries:
            row = (e.name, e.modality, str(e.dims or ""), e.source, e.description, ", ".join(e.trained_on))
            table.add_row(*map(plain, row))
        console.print(table)
    console.print("[bold]how to use it[/]")
    for line in usage(data, cache):
        console.print(plain(line), highlight=False, soft_wrap=True)
    first = data.files[0]
    console.print(plain(by_hand(data, first, store.path(data, first))), highlight=False, soft_wrap=True)


def _file_row(store: Cache, data: Dataset, file: DataFile) -> tuple[str, str, str, str]:
    from panmodal.datasets.download import in_bytes, part_path

    path, entry = store.path(data, file), store.entry(data, file)
    part = part_path(path)
    if path.is_file():
        size, have = in_bytes(path.stat().st_size), f"yes, {entry.date[:10]}" if entry else "yes, not checked yet"
    else:
        size = in_bytes(file.size) if file.size else file.about or "not known"
        have = f"no ({in_bytes(part.stat().st_size)} of it)" if part.is_file() else "no"
    if entry is not None and entry.accepted:
        digest, said = entry.sha256, "accepted"
    elif file.sha256 or file.md5:
        digest, said = file.sha256 or f"MD5 {file.md5}", "record"
    else:
        digest, said = (entry.sha256, "first download") if entry else ("", "")
    # A table is read by people; verify prints the whole.
    shown = f"{digest[:20]}... ({said})" if digest else "recorded at the first download"
    return file.path, size, have, shown


def usage(data: Dataset, cache: Path | None = None) -> list[str]:
    """Return the commands that use a data set."""
    lines = [f"panmodal data fetch {data.name}"]
    if data.screen:
        folds = ["--splits", "published"] if data.screen.folds else []
        words = ["panmodal", "run", "--screen", data.name, *folds, "--embedding", "EMBEDDING.h5ad", "--out", "results"]
        lines.append(shlex.join(words))
        lines.append(f"from Python: panmodal.datasets.load_screen({data.name!r}), split_file({data.name!r}).split")
    elif data.cells:
        from panmodal.datasets.cells import prepare_command

        lines.append(prepare_command(data, cache=cache, out=f"{data.name.removesuffix('-cells')}.h5ad"))
    elif data.embeddings:
        entry = data.embeddings.entries[0]
        if len(data.files) > 1:
            lines.append(f"panmodal data fetch {data.name} --file {shlex.quote(entry.name)}")
        full = f"{data.name}/{entry.name}"
        lines.append(
            shlex.join(["panmodal", "run", "--screen", "SCREEN.h5ad", "--embedding", full, "--out", "results"])
        )
        lines.append(f"from Python: panmodal.datasets.load_embedding({full!r})")
    return [*lines, *data.use]


@data_app.command()
def fetch(
    name: Name,
    file: Files = None,
    force: Annotated[bool, typer.Option(help="Download again what is in the cache.")] = False,
    accept_new_digest: Annotated[
        bool, typer.Option(help="Download again and take what comes, whatever digest was known.")
    ] = False,
    retries: Annotated[int, typer.Option(help="Tries after a failure without progress.", min=0)] = 3,
    cache: Folder = None,
) -> None:
    """Download a data set, or go on where a download was cut; write the published folds beside it.

    Example: `panmodal data fetch essential-lfc`
    """
    from panmodal.datasets.fetch import fetch as get
    from panmodal.datasets.registry import dataset

    data = dataset(name)
    console = console_for()
    # File by file, so that what came before a failure is shown.
    for each in [data.file(f) for f in file] if file else data.files:
        with file_progress() as report:
            path = get(data, files=[each.path], cache=cache, progress=report, retries=retries, force=force,
                       accept_new_digest=accept_new_digest)[0]  # fmt: skip
        console.print(plain(str(path)), highlight=False, soft_wrap=True)
    for line in _after(data, cache):
        console.print(f"[dim]· {plain(line)}[/]", highlight=False, soft_wrap=True)
    console.print(plain(f"Terms: {data.licence}. Cite: {data.citation}."), highlight=False, soft_wrap=True)


def _after(data: Dataset, cache: Path | None) -> Iterator[str]:
    """Write what follows from the files, once all are there; the files stay whatever comes of it."""
    from panmodal.datasets.fetch import cached_paths

    if len(cached_paths(data, cache=cache)) < len(data.files):
        return
    try:
        if data.screen and data.screen.folds:
            from panmodal.datasets.load import split_file

            folds = split_file(data, cache=cache)
            sizes = [sum(f == k for f in folds.split.folds.values()) for k in folds.split.numbers]
            yield f"published folds of {sizes} perturbations: {folds.path}"
            yield from folds.notes
        elif data.cells:
            from panmodal.datasets.cells import make_ready

            for path in make_ready(data, cache=cache):
                yield f"made from it: {path}"
    except PanmodalError as error:
        yield f"the files are there, but: {error}"


@contextmanager
def file_progress() -> Iterator[FileProgress]:
    """Show a bar for each file, with speed and time left, where there is a terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = console_for(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(file: DataFile, done: int, total: int | None) -> None:
            if file.path not in tasks:
                tasks[file.path] = bar.add_task(plain(Path(file.path).name), total=total)
            bar.update(tasks[file.path], completed=done, total=total)

        yield report


@data_app.command()
def path(
    name: Name,
    file: Files = None,
    split: Annotated[bool, typer.Option("--split", help="The split file with the published folds.")] = False,
    cache: Folder = None,
) -> None:
    """Print where the files of a data set lie, one on a line; nothing is downloaded.

    Example: `panmodal run --screen $(panmodal data path essential-lfc) ...`
    """
    from panmodal.datasets.cache import Cache
    from panmodal.datasets.registry import dataset

    data, store = dataset(name), Cache(cache)
    wanted = [data.file(f) for f in file] if file else data.files
    paths = [store.path(data, f) for f in wanted]
    if split:
        from panmodal.datasets.load import screen_set

        how = screen_set(data).screen
        assert how is not None
        if how.folds is None:
            raise InputError(f"data set {data.name!r} was published without folds; make some with `panmodal split`.")
        paths = [store.path(data, data.file(how.file)).with_name(f"{data.name}.splits.csv")]
    there = [p for p in paths if p.is_file()]
    missing = [p for p in paths if not p.is_file()]
    if missing and (file or split or not there):
        raise StoreError(f"{missing[0]}: not there yet. Fetch it with `panmodal data fetch {data.name}`.")
    for each in there:
        typer.echo(str(each))


@data_app.command()
def verify(name: Name, file: Files = None, cache: Folder = None) -> None:
    """Compute the digests of the files in the cache again and compare; files put there by hand are recorded.

    Example: `panmodal data verify essential-lfc`
    """
    from rich.table import Table

    from panmodal.datasets.fetch import verify as check

    found = check(name, files=file, cache=cache)
    table = Table(title=plain(name), title_justify="left", title_style="bold")
    for column in ("file", "state", "sha256"):
        table.add_column(column, overflow="fold")
    for status in found:
        table.add_row(plain(status.file.path), status.state, status.sha256 or "")
    console_for().print(table)
    changed = [s for s in found if s.state == "changed"]
    if changed:
        first = changed[0]
        raise StoreError(
            f"{first.path}: changed: its SHA-256 is {first.sha256}, but {first.known}. Download it again with `panmodal data fetch "
            f"{name} --file {shlex.quote(first.file.path)} --force`."
        )

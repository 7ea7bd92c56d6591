"""Many files of cells, each a screen of its own: the same work as for one file, given to an executor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from panmodal._console import Progress
from panmodal._version import __version__
from panmodal.cells.prepare import PrepareOptions, asked_for, open_cells, prepare
from panmodal.cells.stream import file_digest, named_path
from panmodal.errors import InputError
from panmodal.execution.faults import Fault, StopAll

FOUND_DONE = "found done: made from the same cells in the same way"


@dataclass(frozen=True)
class PrepareFile:
    """Prepare one file as a screen of its own; callable, so that an executor can map it over files.

    Attributes
    ----------
    options
        The same for all files.
    folder
        Where the screens go, which exists; a screen is named after its file.
    datasets
        As in :func:`panmodal.cells.prepare.prepare`.
    memory
        Bound on the memory of this one file, GiB.
    names
        Name of each file's screen; its stem unless given.
    dry_run
        Only open the file and tell what is found.
    """

    options: PrepareOptions
    folder: Path
    datasets: tuple[str, ...] = ()
    memory: float = 4.0
    names: Mapping[Path, str] = field(default_factory=dict)
    dry_run: bool = False

    def __call__(self, path: Path, attempt: int = 0) -> str:
        """Return what was found and made, a line each. A screen made from the same file in the same way is left as it is.

        ``attempt`` makes no difference: the screen is written whole or not at all.

        Raises
        ------
        InputError
            As :func:`panmodal.cells.prepare.open_cells` and :func:`panmodal.cells.prepare.prepare`.
        StopAll
            This process does not see the folder.
        """
        name = self.names.get(path) or named_path(path)[0]
        out = self.folder / f"{name}.h5ad"
        if not self.dry_run:
            if not self.folder.is_dir():
                raise StopAll(
                    f"{self.folder}: is not seen by a worker. Give an --out on a file system that all workers share."
                )
            if self._is_done(name, path, out):
                return FOUND_DONE
        opened = open_cells([(name, path)], self.options)
        with opened.stream:
            lines = [f"{what}: {value}" for what, value in opened.facts()]
            if self.dry_run:
                return "\n".join(lines)
            screen = prepare(opened, name=name, datasets=self.datasets, memory=self.memory, n_jobs=1, say=lines.append)
        screen.write(out)
        return "\n".join([repr(screen), *lines])

    def _is_done(self, name: str, path: Path, out: Path) -> bool:
        """Tell whether the screen is there, by what is recorded in it; a table may have changed since, as only its path is."""
        record = read_record(out) if out.exists() and path.exists() and self.options.table is None else None
        if record is None:
            return False
        wanted = {"made_by": f"panmodal {__version__} prepare", "options": asked_for(self.options), "name": name,
                  "datasets": list(self.datasets)}  # fmt: skip
        if any(record.get(key) != value for key, value in wanted.items()):
            return False
        return bool(record.get("inputs") == [{"name": name, "path": str(path.resolve()), "sha256": file_digest(path)}])


def read_record(path: Path) -> dict[str, Any] | None:
    """Read how a screen was prepared, with its ``name`` and ``datasets``; None if the file is no such screen."""
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            own = handle["uns/panmodal"]
            texts = {key: own[key].asstr()[()] for key in ("name", "provenance", "datasets") if key in own}
        record = {**json.loads(texts["provenance"]), "name": texts["name"]}
        return {**record, "datasets": json.loads(texts.get("datasets", "[]"))}
    except (OSError, KeyError, AttributeError, TypeError, ValueError):
        return None


def plan_files(given: Sequence[str], folder: Path) -> dict[Path, str]:
    """Return the absolute path of each file and the name of its screen; nothing that lies in the folder is lost by it.

    Parameters
    ----------
    given
        Files; ``NAME=FILE`` names the screen, otherwise the file's stem does.
    folder
        Where ``NAME.h5ad`` will be written.

    Raises
    ------
    InputError
        The folder is none; two screens would have one name; a screen would be written over (or into) cells, or over a file that
        ``panmodal prepare`` has not made.
    """
    if folder.suffix.lower() in (".h5ad", ".zarr") or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: with --each, --out is a folder; each screen is written there under the name of its file."
        )
    folder = folder.absolute()
    names: dict[Path, str] = {}
    taken: dict[str, str] = {}
    for each in given:
        name, path = named_path(each)
        if Path(name).name != name:
            raise InputError(f"{each}: no such file, and {name!r} cannot be the name of a screen in NAME=FILE.")
        path = path.absolute()  # workers may run in another folder
        if path in names:
            raise InputError(f"{path}: is given twice.")
        if (key := name.casefold()) in taken:  # some file systems do not tell a from A
            raise InputError(
                f"{taken[key]} and {each} would both be written to {folder / name}.h5ad. Name them apart: NAME=FILE."
            )
        names[path], taken[key] = name, each
    for name in names.values():
        target = folder / f"{name}.h5ad"
        for path in names:
            if target.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{target}: is, or lies in, the cells {path} themselves; give another --out.")
        if target.exists() and read_record(target) is None:
            raise InputError(
                f"{target}: exists and was not made by panmodal prepare; move it away, or give another --out."
            )
    return names


def prepare_each(
    given: Sequence[str], options: PrepareOptions, folder: str | Path, *, datasets: Sequence[str] = (), memory: float = 4.0,
    jobs: int | None = None, dask: str | None = None, dry_run: bool = False, progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[dict[Path, str], dict[Path, Fault]]:  # fmt: skip
    """Prepare each of many files as a screen of its own, several at once.

    Parameters
    ----------
    given, folder
        As in :func:`plan_files`; the folder is made.
    options, datasets, dry_run
        As in :class:`PrepareFile`.
    memory
        Bound on memory, GiB, of all files that are prepared at once on this machine; on a cluster that runs already, of each worker.
    jobs
        How many files are prepared at once; as many as this process may use cores unless given. Each is computed by one thread,
        so that the responses are those of the file alone, to the last bit.
    dask
        As in ``panmodal run``: ``local``, an address or a scheduler file.
    progress
        Called with (files done, files to do).
    say
        Called with what is worth telling.

    Returns
    -------
    facts, faults
        What was found and made, and why files failed, by absolute path in the given order.

    Raises
    ------
    InputError
        Before any work: see :func:`plan_files`.
    StopAll, ClusterError
        As in :meth:`panmodal.execution.base.Executor.map`; screens that are finished are kept.
    """
    import loky

    from panmodal.execution.base import make_executor
    from panmodal.execution.many import map_files

    target = Path(folder)
    names = plan_files(given, target)
    if options.table is not None:
        options = replace(options, table=str(Path(options.table).absolute()))
    if not dry_run:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target}: cannot be made ({error.strerror or error}).") from error
    workers = min(jobs or loky.cpu_count(), max(len(names), 1))
    here = dask in (None, "local")
    asked = f"dask:{dask}" if dask else "local" if workers > 1 else "serial"
    share = memory / workers if here else memory
    if say and here and workers > 1:
        say(f"{workers} files at once, with {share:.3g} GiB of memory each")
    task = PrepareFile(options, target.absolute(), tuple(datasets), share, names, dry_run)
    with make_executor(asked, workers=workers if here else jobs, say=say) as executor:
        return map_files(task, list(names), executor, progress=progress, refuse=False)

"""Writing a site: pages, tables to download, what programs read; the same sources give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._files import atomic_path
from panmodal.errors import InputError
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.report_methods import _without_folders
from panmodal.site import changes, pages, safe
from panmodal.site.config import SiteConfig
from panmodal.site.merge import merge
from panmodal.site.sources import Source, open_source
from panmodal.site.tables import Progress, long_board, make_tables
from panmodal.site.views import FORMAT, Site, base, index_json, make_site, view, view_name

LISTED = "files.txt"
"""Names of the files of a site, so that a later one can remove what it no longer has."""
_OURS = re.compile(r"(?:[a-z0-9-]+/){0,2}[A-Za-z0-9_-]+\.(?:html|csv|parquet|json|js|css)")
ASSETS = ("site.css", "site.js")


def build_site(
    sources: Sequence[str | Path | Source], out: str | Path, *, config: SiteConfig | None = None, previous: str | Path | None = None,
    progress: Progress | None = None,
) -> Site:  # fmt: skip
    """Make a public leaderboard from results folders and submissions.

    Parameters
    ----------
    sources
        Folders, files, or sources that are read already; those of the config come before them.
    out
        Folder to write: a new or empty one, or a site that is replaced.
    config
        Title, date and so on.
    previous
        The site before, or its ``index.json``: ``changes.json`` tells what is new. It may be ``out`` itself.
    progress
        Called with (tasks done, tasks).

    Raises
    ------
    InputError
        A source cannot be read, sources do not go together, or ``out`` holds other files.
    """
    config, folder = config or SiteConfig(), Path(out)
    old = _files_of(folder)
    before = None if previous is None else changes.read_previous(previous)
    opened = [open_source(s.path, name=s.name, date=s.date) for s in config.sources]
    opened += [s if isinstance(s, Source) else open_source(s) for s in sources]
    site = make_site(make_tables(merge(opened), metric=config.metric, progress=progress), config)
    index = index_json(site)
    entries: list[Any] = []
    if before is not None:
        entry = changes.compare(before[0], index)
        entries = [*([entry] if entry else []), *before[1]][: changes.ENTRIES]
    writer = _Writer(folder)
    _tables(writer, site)
    for name in ASSETS:
        writer.text(f"assets/{name}", pages.asset(name))
    writer.text("data/base.js", f"panmodalSite.base({safe.for_script(base(site))});\n")
    for metric, fallback in site.views:
        writer.text(
            f"data/views/{view_name(metric, fallback)}.js",
            f"panmodalSite.view({safe.for_script(view(site, metric, fallback))});\n",
        )
    for page in site.tables.pages:
        writer.text(f"tasks/{site.tasks[page.task]}.html", pages.task_page(site, page))
    gathered = pages.by_embedding(site)
    for (name, published), (slug, _) in site.entries.items():
        writer.text(f"data/embeddings/{slug}.csv", safe.to_csv(gathered.trials[name, published]))
        writer.text(f"embeddings/{slug}.html", pages.embedding_page(site, name, published, gathered))
    if before is not None:
        writer.text("changes.json", safe.for_file({"format": f"{FORMAT}-changes", "schema": 1, "entries": entries}))
    writer.text("about.html", pages.about_page(site))
    writer.text(
        "index.html", pages.index_page(site, entries[:1] if before is not None and changes_now(entries, index) else [])
    )
    writer.text("index.json", safe.for_file(index))
    writer.done(old)
    return site


def changes_now(entries: list[Any], index: dict[str, Any]) -> bool:
    """Whether the newest entry tells how this site came about."""
    return (
        bool(entries) and isinstance(entries[0], dict) and (entries[0].get("to") or {}).get("digest") == index["digest"]
    )


def _tables(writer: _Writer, site: Site) -> None:
    board = long_board(site.tables)
    writer.table("data/leaderboard", board)
    placed = site.standings.assign(
        tasks=[";".join(site.tasks[site.tables.pages[t].task] for t in tasks) for tasks in site.standings["tasks"]]
    )
    writer.table("data/standings", placed)
    parts = []
    for page in site.tables.pages:
        labels = dict(zip(TASK, page.task, strict=True))
        writer.text(f"data/tasks/{site.tasks[page.task]}.csv", safe.to_csv(_wide(page)))
        long = page.means.melt([*METHOD, "role"], var_name="metric", value_name="mean").dropna(subset="mean")
        what = long["metric"].str.split("|", expand=True)
        parts.append(
            long.assign(**labels, metric=what[0], fallback=what[1]).astype(
                dict.fromkeys([*METHOD, "role", "metric", "fallback"], "category")
            )
        )
    every = pd.concat(
        [p.astype(dict.fromkeys([*METHOD, "role", "metric", "fallback"], object)) for p in parts], ignore_index=True
    )
    writer.parquet("data/metrics.parquet", every[[*TASK, *METHOD, "role", "metric", "fallback", "mean"]])
    cards = {
        slug: {"name": e.name, "published": e.published, "card": _without_folders(dict(e.card))}
        for slug, e in site.entries.values()
    }
    writer.text("data/cards.json", safe.for_file(cards))


def _wide(page: Any) -> pd.DataFrame:
    """Return a task's board with the means of every metric and fallback beside it."""
    table = page.board.merge(page.means, on=[*METHOD, "role"], how="left")
    return table.rename(columns={c: c.replace("|", " ") for c in table.columns})


class _Writer:
    """Writes the files of a site and remembers their names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, [LISTED]

    def text(self, name: str, text: str) -> None:
        with self._path(name) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n", errors="replace")

    def _path(self, name: str) -> Any:
        assert _OURS.fullmatch(name) or name == LISTED, name
        if name not in self.names:
            self.names.append(name)
        return atomic_path(self.folder / name, durable=False)

    def table(self, stem: str, table: pd.DataFrame) -> None:
        self.text(f"{stem}.csv", safe.to_csv(table))
        self.parquet(f"{stem}.parquet", table)

    def parquet(self, name: str, table: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
        with self._path(name) as partial:
            pq.write_table(found, partial, compression="zstd")

    def done(self, old: list[str]) -> None:
        """Write the list of files, and remove those of the site before that are no more."""
        self.text(LISTED, "".join(f"{n}\n" for n in sorted(self.names)))
        for name in set(old) - set(self.names):
            (self.folder / name).unlink(missing_ok=True)


def _files_of(folder: Path) -> list[str]:
    """Return the files of a site that is to be replaced; refuse a folder of anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    listed = folder / LISTED
    if not (folder.is_dir() and listed.is_file() and (folder / "index.html").is_file()):
        raise InputError(f"{folder}: exists and is no site made by panmodal site; give a new folder (--out).")
    names = listed.read_text(encoding="utf-8").splitlines()
    return [n for n in names if _OURS.fullmatch(n) and not (folder / n).is_symlink()]

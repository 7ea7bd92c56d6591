"""What the pages' script works with, and the machine-readable leaderboard: the same tables, laid out as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from panmodal._digest import digest_json
from panmodal._version import __version__
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import FALLBACKS
from panmodal.insight.evidence import Task
from panmodal.insight.gaps import METHOD, TASK
from panmodal.site import safe
from panmodal.site.config import SiteConfig
from panmodal.site.merge import Entry
from panmodal.site.tables import KINDS, PRIMARY, Tables, cells, standings

FORMAT, SCHEMA = "panmodal-site", 1
"""What ``index.json`` says it is, and the version of its fields; it grows when fields change their meaning or go."""


@dataclass
class Site:
    """Everything that pages and files are made of.

    ``tasks`` and ``entries`` give the names of pages; ``views`` are the (metric, fallback) that the front page can show.
    """

    config: SiteConfig
    tables: Tables
    tasks: dict[Task, str]
    entries: dict[tuple[str, bool], tuple[str, Entry]]
    standings: pd.DataFrame
    cells: pd.DataFrame
    views: list[tuple[str, str]]

    def entry(self, embedding: str, kind: str) -> tuple[str, Entry]:
        """Return the page's name and the entry of an embedding on tasks of a kind."""
        return self.entries[embedding, kind == "published"]


def make_site(tables: Tables, config: SiteConfig) -> Site:
    """Name the pages and choose what the front page can show."""
    tasks = safe.slugs(p.task for p in tables.pages)
    listed = [e for e in tables.merged.entries if e.role == "embedding"]
    of_entries = safe.slugs((e.name, "published") if e.published else (e.name,) for e in listed)
    entries = {
        (e.name, e.published): (of_entries[(e.name, "published") if e.published else (e.name,)], e) for e in listed
    }
    found = cells(tables)
    there = {c for p in tables.pages for c in p.means.columns if "|" in c}
    views = [(PRIMARY, f) for f in FALLBACKS] + [(m, f) for m in METRICS for f in FALLBACKS if f"{m}|{f}" in there]
    return Site(
        config, tables, {p.task: tasks[p.task] for p in tables.pages}, entries, standings(tables, found), found, views
    )


def number(value: Any, digits: int = 9) -> float | None:
    """Return a number for JSON, shortened; None where it is undefined."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits}g}")


def base(site: Site) -> dict[str, Any]:
    """Return what all views share: tasks, methods with their embeddings, intervals. Text is cut to what pages show."""
    tasks = [
        {
            "screen": safe.name(p.task[0]),
            "context": safe.name(p.task[1]),
            "response": safe.name(p.task[2]),
            "split": safe.name(p.task[3]),
            "kind": p.kind,
            "page": f"tasks/{site.tasks[p.task]}.html",
        }
        for p in site.tables.pages
    ]
    screens = ["", *dict.fromkeys(p.task[0] for p in site.tables.pages)]
    methods = []
    for row in site.standings.itertuples():
        page, entry = site.entry(row.embedding, row.kind)
        key = (row.embedding, row.probe, row.kind)
        bounds = {
            w: [number(b, 4) for b in site.tables.intervals[key, w]]
            for w in screens
            if (key, w) in site.tables.intervals
        }
        methods.append(
            {
                "name": safe.name(row.embedding),
                "probe": safe.name(row.probe),
                "kind": row.kind,
                "modality": safe.name(row.modality),
                "page": f"embeddings/{page}.html",
                "licence": licence(entry.card),
                "date": submitted(site, entry),
                "gap": {w and safe.name(w): b for w, b in bounds.items()},
            }
        )
    return {
        "tasks": tasks,
        "methods": methods,
        "kinds": list(KINDS),
        "views": [[m, f, f"data/views/{view_name(m, f)}.js"] for m, f in site.views],
    }


def view_name(metric: str, fallback: str) -> str:
    """Return the name of a view's file."""
    return f"{metric}-{fallback}"


def view(site: Site, metric: str, fallback: str) -> dict[str, Any]:
    """Return the scores by a metric and fallback: for every method a list of what it has on each task.

    ``scores``: task, mean, gap closed with its interval, coverage, whether it was trained on the data set, whether it is above the
    floor. ``metrics``: task -> metric and whether higher is better.
    """
    found = site.cells if (metric, fallback) == (PRIMARY, "filled") else cells(site.tables, metric, fallback)
    place = {key: k for k, key in enumerate(site.standings[[*METHOD, "kind"]].itertuples(index=False, name=None))}
    scores: list[list[Any]] = [[] for _ in place]
    at = [place[key] for key in found[[*METHOD, "kind"]].itertuples(index=False, name=None)]
    means = [float(f"{x:.9g}") for x in found["mean"].tolist()]
    rounded = [_short(found[c]) for c in ("gap", "low", "high", "coverage")]
    flags = [(found["seen"] == "yes").astype(int).tolist(), found["above"].astype(bool).astype(int).tolist()]
    for k, *cell in zip(at, found["task"].tolist(), means, *rounded, *flags, strict=True):
        scores[k].append(cell)
    used = {p: page.metric if metric == PRIMARY else metric for p, page in enumerate(site.tables.pages)}
    named = {str(p): [m, METRICS[m].higher_is_better] for p, m in used.items()}
    return {"metric": metric, "fallback": fallback, "metrics": named, "scores": scores}


def _short(values: pd.Series) -> list[float | None]:
    """Return numbers of five decimals; None where undefined."""
    return [None if x != x else x for x in values.astype(float).round(5).tolist()]


def licence(card: Mapping[str, Any]) -> str:
    """Return what a card says of its licence."""
    return " ".join(safe.shown(card.get("licence"), 60).split()) or "not said"


def submitted(site: Site, entry: Entry) -> str:
    """Return the first date on which an embedding was submitted; empty where that is not said."""
    dates = [site.tables.merged.sources[k].date for k, _ in entry.given]
    return min((d for d in dates if d), default="")


# --- the machine-readable leaderboard ---------------------------------------------------------------------------------


def index_json(site: Site) -> dict[str, Any]:
    """Return ``index.json``: what the site shows, for programs. Names are whole, numbers have nine digits."""
    tables = site.tables
    tasks, rankings = [], {}
    for page in tables.pages:
        slug, first = site.tasks[page.task], page.board.iloc[0]
        place = tables.merged.places[page.task][0]
        ranked = page.board[(page.board["role"] == "embedding") & page.board["mean"].notna()]
        tasks.append(
            {
                "id": slug,
                **dict(zip(TASK, page.task, strict=True)),
                "kind": page.kind,
                "metric": page.metric,
                "higher_is_better": METRICS[page.metric].higher_is_better,
                "responses_digest": place.digests[0] or None,
                "split_digest": place.digests[1] or None,
                "methods": len(ranked),
                "floor": number(first["floor"]),
                "floor_by": first["floor_by"] or None,
                "ceiling": number(first["ceiling"]),
                "ceiling_by": first["ceiling_by"] or None,
                "verdict": first["verdict"],
                "sources": [tables.merged.sources[k].name for k in page.sources],
                "page": f"tasks/{slug}.html",
                "data": f"data/tasks/{slug}.csv",
            }
        )
        rankings[slug] = [
            [site.entry(r.embedding, page.kind)[0], r.probe, None if pd.isna(r.rank) else int(r.rank), number(r.mean)]
            for r in ranked.sort_values(["rank", *METHOD], kind="stable").itertuples()
        ]
    embeddings = [
        {
            "id": slug,
            "name": e.name,
            "published": e.published,
            "modality": str(e.card.get("modality") or "unknown"),
            "licence": str(e.card.get("licence") or "") or None,
            "trained_on": list(e.card.get("trained_on") or ()),
            "submitted": submitted(site, e) or None,
            "digests": sorted({d for found in e.digests.values() for d in found if d}),
            "sources": list(dict.fromkeys(tables.merged.sources[k].name for k, _ in e.given)),
            "page": f"embeddings/{slug}.html",
            "data": f"data/embeddings/{slug}.csv",
        }
        for slug, e in site.entries.values()
    ]
    placed = [
        {
            "group": int(r.group),
            "place": int(r.place),
            "embedding": site.entry(r.embedding, r.kind)[0],
            "probe": r.probe,
            "kind": r.kind,
            "tasks": [site.tasks[tables.pages[t].task] for t in r.tasks],
            "mean_rank": number(r.mean_rank),
            "mean_gap_closed": number(r.mean_gap),
            "gap_low": number(r.low),
            "gap_high": number(r.high),
            "wins": int(r.wins),
            "tasks_above_floor": int(r.above),
            "tasks_seen": int(r.seen),
            "mean_coverage": number(r.coverage),
        }
        for r in site.standings.itertuples()
    ]
    content: dict[str, Any] = {
        "tasks": tasks,
        "embeddings": embeddings,
        "standings": placed,
        "rankings": rankings,
        "sources": [
            {
                "name": s.name,
                "kind": s.kind,
                "digest": s.digest,
                "submitted": s.date or None,
                "panmodal": list(s.versions),
            }
            for s in tables.merged.sources
        ],
    }
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "title": site.config.title,
        "date": site.config.date or None,
        "url": site.config.base_url or None,
        "panmodal": __version__,
        "digest": digest_json(content),
        **content,
        "notes": tables.merged.notes,
        "files": {
            "leaderboard": "data/leaderboard.parquet",
            "standings": "data/standings.parquet",
            "metrics": "data/metrics.parquet",
            "cards": "data/cards.json",
        },
    }

"""The pages of a site: what each shows, laid out by the templates beside this module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from panmodal._version import __version__
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.gaps import METHOD, TASK
from panmodal.insight.leaderboard import ceiling_name, summary
from panmodal.insight.report_methods import KINDS as RESPONSES
from panmodal.insight.report_methods import PAPER, short_path
from panmodal.insight.terminal import interval, number, share, silent_note
from panmodal.screens.ceilings import ESTIMATORS
from panmodal.site import safe
from panmodal.site.tables import TaskPage, is_oracle
from panmodal.site.views import Site, licence, submitted

POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'"
)
"""What a page may load: its own files. ``file:`` is for pages opened from a disk, where 'self' is nothing in some browsers."""
BARS = 30
"""Methods in the figure of a task."""
DIGESTS = 200
"""Trial digests that a page lists; the table to download has all."""
CHANGES = 25
"""Changes of ranks that the front page tells."""


@cache
def _environment() -> Any:
    import jinja2

    def load(name: str) -> str | None:
        file = files("panmodal.site").joinpath("templates", name)
        return file.read_text(encoding="utf-8") if file.is_file() else None

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "interval": interval,
        "name": safe.name,
        "shown": safe.shown,
        "link": safe.link,
        "percent": _percent,
    }
    environment.globals |= {"version": __version__, "policy": POLICY, "bar": _bar}
    return environment


def _percent(value: Any) -> str:
    """Say a share in percent, with a decimal where it is small."""
    return "–" if pd.isna(value) else f"{number(100 * value, 0 if abs(value) >= 0.095 else 1)} %"


def _bar(gap: Any, low: Any = None, high: Any = None) -> Any:
    """Draw a gap closed with its interval, 0 to 1, as attributes only: the pages allow no styles within them."""
    from markupsafe import Markup

    if gap is None or not math.isfinite(gap):
        return ""

    def at(x: float) -> str:
        return f"{100 * min(1.0, max(0.0, x)):.1f}"

    line = ""
    if low is not None and math.isfinite(low):
        line = f'<line x1="{at(low)}" x2="{at(high)}" y1="5" y2="5"></line>'
    return Markup(
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="10"></rect>'
        f'<rect class="full" width="{at(gap)}" height="10"></rect>{line}</svg>'
    )


def _render(template: str, site: Site, root: str, path: str, **parts: Any) -> str:
    url = site.config.base_url + ("" if path == "index.html" else path) if site.config.base_url else ""
    return _environment().get_template(template).render(config=site.config, root=root, canonical=url, **parts)


def asset(name: str) -> str:
    """Return a stylesheet or script of the site."""
    return files("panmodal.site").joinpath("templates", name).read_text(encoding="utf-8")


# --- the front page ---------------------------------------------------------------------------------------------------


def index_page(site: Site, entries: list[Any]) -> str:
    """Return ``index.html``: standings over tasks, the tasks, and what changed."""
    rows = []
    for r in site.standings.to_dict("records"):
        page, entry = site.entry(r["embedding"], r["kind"])
        rows.append(
            {**r, "page": f"embeddings/{page}.html", "licence": licence(entry.card), "date": submitted(site, entry)}
        )
    groups = [
        {"kind": own[0]["kind"], "rows": own, "tasks": own[0]["tasks"], "said": run_on(site, own[0]["tasks"])}
        for number_ in sorted({r["group"] for r in rows})
        if (own := [r for r in rows if r["group"] == number_])
    ]
    kinds = {k: len({r["embedding"] for r in rows if r["kind"] == k}) for k in ("measured", "published", "simulated")}
    return _render(
        "index.html.j2",
        site,
        "",
        "index.html",
        groups=groups,
        tasks=[_line(site, p) for p in site.tables.pages],
        counts=kinds,
        n_methods=len(rows),
        change=_change(site, entries[0]) if entries else None,
    )


def run_on(site: Site, tasks: tuple[int, ...]) -> str:
    """Say which screens some tasks are of."""
    screens = list(dict.fromkeys(safe.name(site.tables.pages[t].task[0]) for t in tasks))
    what = f"{len(tasks)} task" + ("s" if len(tasks) > 1 else "")
    return f"{what} of {', '.join(screens[:4])}" + (f" and {len(screens) - 4} more screens" if len(screens) > 4 else "")


def _line(site: Site, page: TaskPage) -> dict[str, Any]:
    """Return what the list of tasks says of one."""
    first = page.board.iloc[0]
    ranked = page.board[(page.board["role"] == "embedding") & page.board["mean"].notna()]
    leader = ranked.sort_values("rank", kind="stable").iloc[0].to_dict() if len(ranked) else None
    return {
        "page": f"tasks/{site.tasks[page.task]}.html",
        "task": page.task,
        "kind": page.kind,
        "metric": page.metric,
        "methods": len(ranked),
        "leader": leader,
        "link": f"embeddings/{site.entry(leader['embedding'], page.kind)[0]}.html" if leader else "",
        "verdict": str(first["verdict"]),
        "floor": first["floor"],
        "n_test": first["n_test"],
    }


def _change(site: Site, entry: Mapping[str, Any]) -> dict[str, Any]:
    tasks = {slug: task for task, slug in site.tasks.items()}
    names = {slug: e.name for slug, e in site.entries.values()}
    ranks = [
        {**r, "task": " · ".join(tasks[r["task"]][:2]), "embedding": names.get(r["embedding"], r["embedding"])}
        for r in entry["ranks"][:CHANGES]
        if r["task"] in tasks
    ]
    return {**entry, "shown": ranks, "more": entry["n_ranks"] - len(ranks)}


# --- a task ----------------------------------------------------------------------------------------------------------


def task_page(site: Site, page: TaskPage) -> str:
    """Return the page of a task: its board with floor, ceiling, controls, and every metric."""
    first, slug = page.board.iloc[0], site.tasks[page.task]
    links = {
        e: f"../embeddings/{site.entry(e, page.kind)[0]}.html"
        for e in page.board.loc[page.board["role"] == "embedding", "embedding"].unique()
    }
    place = site.tables.merged.places[page.task][0]
    record: Mapping[str, Any] = {}
    for k in page.sources:
        own = next((p for p in site.tables.merged.places[page.task] if p.source == k), place)
        record = record or site.tables.merged.sources[k].screens.get(own.labels[0], {})
    metrics = [m for m in METRICS if f"{m}|filled" in page.means]
    wide = page.board[[*METHOD, "role"]].merge(page.means, on=[*METHOD, "role"], how="left")
    return _render(
        "task.html.j2",
        site,
        "../",
        f"tasks/{slug}.html",
        page=page,
        slug=slug,
        first=first.to_dict(),
        rows=page.board.to_dict("records"),
        links=links,
        metric=METRICS[page.metric],
        sentences=[safe.shown(s) for s in summary(page.board)],
        digests=place.digests,
        common=page.common is not None,
        record=record,
        response=RESPONSES.get(page.task[2], page.task[2]),
        datasets=[safe.name(d) for d in record.get("datasets") or ()],
        bars=_bars(page),
        ceiling=ceiling_name(str(first["ceiling_by"])) if first["ceiling_by"] else "",
        oracle=is_oracle(first["ceiling_by"]),
        sources=[site.tables.merged.sources[k] for k in page.sources],
        metrics=[METRICS[m] for m in metrics],
        wide=wide.to_dict("records"),
        silent=silent_note(page.board).strip(),
    )


def _bars(page: TaskPage) -> list[dict[str, Any]]:
    """Lay the best methods' gaps closed out on one axis of width 100."""
    own = page.board[(page.board["role"].isin(["embedding", "control"])) & page.board["gap_closed"].notna()]
    kept = pd.concat([own[own["role"] == "embedding"].head(BARS), own[own["role"] == "control"].head(3)]).sort_index()
    if kept.empty:
        return []
    ends = pd.concat([kept["gap_closed"], kept["gap_low"], kept["gap_high"]]).dropna()
    left, right = min(0.0, float(ends.min())), max(float(ends.max()), 0.05)
    right = 1.0 if right > 0.5 and right <= 1 else right * 1.02

    def at(x: float) -> str:
        return f"{100 * (x - left) / (right - left):.2f}"

    return [
        {
            "name": r.embedding,
            "probe": r.probe,
            "role": r.role,
            "gap": r.gap_closed,
            "zero": at(0.0),
            "x": at(r.gap_closed),
            "low": at(r.gap_low) if pd.notna(r.gap_low) else "",
            "high": at(r.gap_high) if pd.notna(r.gap_high) else "",
            "said": f"{_percent(r.gap_closed)}"
            + (f" ({_percent(r.gap_low)[:-2]} to {_percent(r.gap_high)})" if pd.notna(r.gap_low) else ""),
        }
        for r in kept.itertuples()
    ]


# --- an embedding ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByEmbedding:
    """Trials and lines of the boards of each embedding (name, published), gathered in one pass over the tasks."""

    trials: dict[tuple[str, bool], pd.DataFrame]
    lines: dict[tuple[str, bool], list[dict[str, Any]]]


def by_embedding(site: Site) -> ByEmbedding:
    """Gather what the pages of embeddings show: every trial (task, probe, fold, seed, digest, source), every line of a board."""
    lines: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    parts = []
    names = [s.name for s in site.tables.merged.sources]
    for page in site.tables.pages:
        published = page.kind == "published"
        own = page.board[page.board["role"] == "embedding"]
        about = {
            "task": page.task,
            "page": f"../tasks/{site.tasks[page.task]}.html",
            "kind": page.kind,
            "ranked": int(own["mean"].notna().sum()),
        }
        for r in own.to_dict("records"):
            lines.setdefault((str(r["embedding"]), published), []).append({**r, **about})
        trials = page.trials[page.trials["role"] == "embedding"]
        labels = dict(zip(TASK, page.task, strict=True))
        parts.append(trials.assign(**labels, published=published, source=[names[int(k)] for k in trials["source"]]))
    columns = [*TASK, *METHOD, "fold", "seed", "trial", "source"]
    found = {
        (str(e), bool(p)): own[columns]
        for (e, p), own in pd.concat(parts, ignore_index=True).groupby(["embedding", "published"], sort=False)
    }
    return ByEmbedding(found, lines)


def embedding_page(site: Site, name: str, published: bool, gathered: ByEmbedding) -> str:
    """Return the page of an embedding: its card, its scores on every task, where they are from."""
    slug, entry = site.entries[name, published]
    card, lines, trials = entry.card, gathered.lines.get((name, published), []), gathered.trials[name, published]
    made = [
        {
            "source": site.tables.merged.sources[k].name,
            "screen": m.screen,
            "digest": m.digest,
            "covered": m.covered,
            "asked": m.asked,
        }
        for k, m in entry.made
    ]
    own = site.standings[(site.standings["embedding"] == name) & ((site.standings["kind"] == "published") == published)]
    return _render(
        "embedding.html.j2",
        site,
        "../",
        f"embeddings/{slug}.html",
        name=name,
        slug=slug,
        published=published,
        lines=lines,
        made=made,
        facts=_facts(card),
        notes=[safe.shown(n, 1000) for n in card.get("notes") or ()],
        url=safe.link(card.get("url")),
        address=safe.shown(card.get("url"), 300),
        date=submitted(site, entry),
        aliases=_aliases(entry),
        placed=[{**r, "said": run_on(site, r["tasks"])} for r in own.to_dict("records")],
        trials=trials.head(DIGESTS).to_dict("records"),
        n_trials=len(trials),
        sources=[site.tables.merged.sources[k] for k in dict.fromkeys(k for k, _ in entry.given)],
    )


def _aliases(entry: Any) -> list[str]:
    return list(dict.fromkeys(given for _, given in entry.given if given != entry.name))


def _facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a card says, as text; its link and notes are shown apart."""
    recipe = card.get("recipe")
    made = ""
    if isinstance(recipe, Mapping):
        sources = [
            f"{short_path(s.get('path', ''))} (sha256 {str(s.get('sha256', ''))[:12]}…)"
            for s in recipe.get("sources") or ()
            if isinstance(s, Mapping)
        ]
        made = f"panmodal embed {recipe.get('builder')}, rule {recipe.get('rule')}" + (
            f", from {', '.join(sources)}" if sources else ""
        )
    elif recipe:
        made = short_path(recipe)
    trained = card.get("trained_on") or ()
    told = ", ".join(map(str, trained)) if isinstance(trained, list | tuple) else str(trained)
    fields = [
        ("description", card.get("description")),
        ("modality", card.get("modality")),
        ("source", short_path(card.get("source") or "")),
        ("made by", made),
        ("licence", card.get("licence") or "not said"),
        ("citation", card.get("citation")),
        ("trained on", told or "not said"),
        ("ids", card.get("id_namespace")),
        ("dimensions", card.get("dims")),
        ("simulated", "yes" if card.get("simulated") else ""),
    ]
    return [(label, safe.shown(value)) for label, value in fields if value not in (None, "")]


# --- about ------------------------------------------------------------------------------------------------------------


def about_page(site: Site) -> str:
    """Return ``about.html``: how scores are made, how to submit, sources and versions."""
    used = list(dict.fromkeys(p.metric for p in site.tables.pages))
    estimators = list(dict.fromkeys(str(p.board.iloc[0]["ceiling_by"]) for p in site.tables.pages))
    return _render(
        "about.html.j2",
        site,
        "",
        "about.html",
        metrics=[METRICS[m] for m in used],
        sources=site.tables.merged.sources,
        estimators=[ESTIMATORS[e] for e in estimators if e in ESTIMATORS],
        notes=[safe.shown(n, 1000) for n in site.tables.merged.notes],
        oracle=any(is_oracle(e) for e in estimators),
        paper=PAPER,
        published=any(p.kind == "published" for p in site.tables.pages),
    )

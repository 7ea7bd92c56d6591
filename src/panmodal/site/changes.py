"""What a new site has that the one before had not: ``changes.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panmodal.errors import InputError
from panmodal.site.views import FORMAT, SCHEMA

MOST = 5000
"""Changes of ranks that an entry lists; it says how many there are."""
ENTRIES = 50
"""Entries kept, the newest first."""
LARGEST = 200 * 2**20
"""Bytes of a previous index.json that are read at most."""


def read_previous(path: str | Path) -> tuple[dict[str, Any], list[Any]]:
    """Read a previous site's ``index.json`` and the entries of its ``changes.json``, if it has one.

    Parameters
    ----------
    path
        The folder of the site, or its ``index.json``.

    Raises
    ------
    InputError
        Not there, not JSON, or not of a site of this schema.
    """
    path = Path(path)
    index = path / "index.json" if path.is_dir() else path
    previous = _read(index)
    if previous.get("format") != FORMAT:
        raise InputError(f"{index}: is not the index.json of a site made by panmodal site.")
    if previous.get("schema") != SCHEMA:
        raise InputError(
            f"{index}: has schema {previous.get('schema')!r}; this version compares schema {SCHEMA}. Leave --previous out once."
        )
    for part, kind in (("tasks", list), ("embeddings", list), ("rankings", dict)):
        if not isinstance(previous.get(part), kind):
            raise InputError(f"{index}: damaged; it has no {part}.")
    older = index.with_name("changes.json")
    entries = _read(older).get("entries", []) if older.exists() else []
    return previous, entries if isinstance(entries, list) else []


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: is larger than {LARGEST // 2**20} MiB, which no index of a site is.")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not valid JSON.") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: is not valid: it should be an object.")
    return found


def compare(previous: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what changed from one ``index.json`` to the next; None if nothing did.

    Returns
    -------
    dict
        ``from`` and ``to`` (date and digest), ``new_tasks, gone_tasks, new_embeddings, gone_embeddings`` (ids and names), ``ranks``:
        task, embedding, probe, rank ``before`` and ``after`` (None: not ranked) of methods ranked otherwise than before; ``n_ranks``
        counts them.
    """
    if previous.get("digest") == index["digest"]:
        return None
    try:
        entry: dict[str, Any] = {
            "from": {k: previous.get(k) for k in ("date", "digest")},
            "to": {k: index[k] for k in ("date", "digest")},
        }
        for what in ("tasks", "embeddings"):
            before, after = ({str(e["id"]): _label(e) for e in side[what]} for side in (previous, index))
            entry[f"new_{what}"] = [{"id": k, "name": v} for k, v in after.items() if k not in before]
            entry[f"gone_{what}"] = [{"id": k, "name": v} for k, v in before.items() if k not in after]
        ranks = []
        for task, rows in index["rankings"].items():
            old = {(str(e), str(p)): (r, m) for e, p, r, m in previous["rankings"].get(task, ())}
            for embedding, probe, rank, _ in rows:
                if (embedding, probe) in old and old[embedding, probe][0] != rank:
                    ranks.append(
                        {
                            "task": task,
                            "embedding": embedding,
                            "probe": probe,
                            "before": old[embedding, probe][0],
                            "after": rank,
                        }
                    )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "the previous index.json is damaged: its tasks, embeddings or rankings are not as this version writes them."
        ) from None
    return {**entry, "ranks": ranks[:MOST], "n_ranks": len(ranks)}


def _label(thing: Mapping[str, Any]) -> str:
    return (
        str(thing["name"])
        if "name" in thing
        else " · ".join(str(thing[k]) for k in ("screen", "context", "response", "split"))
    )

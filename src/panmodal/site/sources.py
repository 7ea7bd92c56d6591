"""What a site is made from: results folders and submissions, in one form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from panmodal._digest import digest_json
from panmodal.errors import InputError, some
from panmodal.evaluation.imported import PREFIX
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import FALLBACKS
from panmodal.evaluation.store import MANIFEST, Store
from panmodal.insight.gaps import TASK
from panmodal.insight.leaderboard import NEEDED
from panmodal.insight.rows import Rows, as_rows

ROLES = ("embedding", "baseline", "control", "oracle")
TEXTS = [*TASK, "embedding", "probe", "role", "modality", "seen", "fallback", "metric", "trial"]
"""Columns of text of a score table, kept as categories: a large table has few different ones."""
NUMBERS = ["value", "n_test", "n_covered", "n_undefined"]
COLUMNS = [*TEXTS, "fold", "seed", "simulated", *NUMBERS]


class Identity(NamedTuple):
    """What a trial depends on: digests of responses, split and embedding; probe and rules as JSON."""

    responses: str
    split: str
    embedding: str
    probe: str
    rules: str


class Made(NamedTuple):
    """An embedding as it was used: its card, digest of its vectors and the screen, if known; versions are panmodal's."""

    card: Mapping[str, Any]
    digest: str = ""
    screen: str = ""
    covered: int | None = None
    asked: int | None = None


class BundleLike(Protocol):
    """What is needed of a submission (:func:`panmodal.submissions.open_bundle`)."""

    @property
    def scores(self) -> pd.DataFrame:
        """The tidy score table."""

    @property
    def cards(self) -> Mapping[str, Mapping[str, Any]]:
        """Cards by name."""

    @property
    def trials(self) -> Iterable[Mapping[str, Any]]:
        """Records of trials."""

    @property
    def runs(self) -> Iterable[Mapping[str, Any]]:
        """Records of runs, with the cards of their embeddings."""

    @property
    def digest(self) -> str:
        """Of its content."""

    def perturbations(self) -> pd.DataFrame:
        """Values of perturbations."""


@dataclass(frozen=True)
class Source:
    """One results folder or submission.

    Attributes
    ----------
    name
        What it is called on the site; never a path.
    kind
        ``results folder`` or ``submission``.
    digest
        Of its content.
    scores
        Columns :data:`COLUMNS`, text as categories.
    identities
        Trial -> what it depends on; imported trials have none.
    rows, ceilings, resampled, marks
        As in :func:`panmodal.insight.leaderboard.leaderboard`; None where there are none.
    embeddings
        Those that were run, with their cards.
    screens
        Name -> record of the screen (description, data sets).
    versions
        Of panmodal.
    date
        When it was submitted, if that was said.
    """

    name: str
    kind: str
    digest: str
    scores: pd.DataFrame
    identities: Mapping[str, Identity]
    rows: Rows | None = None
    ceilings: pd.DataFrame | None = None
    resampled: pd.DataFrame | None = None
    marks: Callable[[], pd.DataFrame | None] = field(default=lambda: None, repr=False)
    embeddings: tuple[Made, ...] = ()
    screens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    date: str = ""


def open_source(path: str | Path, *, name: str = "", date: str = "") -> Source:
    """Read a results folder or a submission.

    Parameters
    ----------
    path
        A folder with ``panmodal.json``, or what :func:`panmodal.submissions.open_bundle` reads.
    name
        What the site calls it; the name of the folder or file unless given.
    date
        When it was submitted.

    Raises
    ------
    InputError
        Neither of them, or it holds what this version cannot read.
    """
    path = Path(path)
    called = name or path.resolve().name.removesuffix(".zip") or "source"
    if (path / MANIFEST).is_file():
        return of_folder(path, called, date)
    if not path.exists():
        raise InputError(
            f"{path}: no such folder or file; give a results folder or a submission made by panmodal bundle."
        )
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{path}: is empty; give a results folder or a submission made by panmodal bundle.")
    try:
        from panmodal.submissions import open_bundle
    except ImportError:
        raise InputError(
            f"{path}: no results folder (it has no {MANIFEST}), and this version reads no submissions."
        ) from None
    return of_bundle(open_bundle(path), called, date)


def of_folder(path: Path, name: str, date: str = "") -> Source:
    """Read a results folder."""
    from panmodal.evaluation.evidence import read_marks
    from panmodal.evaluation.parquet import read_parquet

    store = Store(path)
    where = store.path / "scores.parquet"
    if not where.exists():
        raise InputError(f"{path}: no scores yet (no scores.parquet). Finish the run, or use panmodal rescore.")
    with where.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    table, _ = read_parquet(where)
    kept = table.select([c for c in COLUMNS if c in table.column_names])
    scores = _scores(kept.to_pandas(strings_to_categorical=True), str(path))
    del table, kept
    identities: dict[str, Identity] = {}
    runs: dict[str, dict[str, Any]] = {}
    for where, run in store.runs():
        identities.update(_identities(run.pop("trials", ()), str(path)))
        runs[where.name] = run
    made, screens, versions = _of_runs(runs[name_] for name_ in sorted(runs))  # times of files must not matter
    rows = store.rows() if (store.path / "perturbations.parquet").exists() else None
    return Source(
        name, "results folder", digest, scores, identities, rows, store.ceilings(), store.resampled(), lambda: read_marks(path),
        tuple(made), screens, versions, date,
    )  # fmt: skip


def of_bundle(bundle: BundleLike, name: str, date: str = "") -> Source:
    """Put a submission into the form of a source. ``ceilings``, ``resampled`` and ``date`` of it are used where it has them."""
    where = f"submission {name!r}"

    def table(what: str) -> pd.DataFrame | None:
        found = getattr(bundle, what, None)
        found = found() if callable(found) else found
        return found if isinstance(found, pd.DataFrame) and len(found) else None

    rows = bundle.perturbations()
    made, screens, versions = _of_runs(bundle.runs)
    known = {m.card.get("name") for m in made}
    made += [Made(card) for name_, card in sorted(bundle.cards.items()) if name_ not in known]
    return Source(
        name, "submission", str(bundle.digest), _scores(bundle.scores, where), _identities(bundle.trials, where),
        None if rows is None or rows.empty else as_rows(rows), table("ceilings"), table("resampled"), embeddings=tuple(made),
        screens=screens, versions=versions, date=date or str(getattr(bundle, "date", "")),
    )  # fmt: skip


def _of_runs(runs: Iterable[Mapping[str, Any]]) -> tuple[list[Made], dict[str, Mapping[str, Any]], tuple[str, ...]]:
    """Return the embeddings of runs with their cards (a fusion's names its members), their screens, and versions of panmodal."""
    made: list[Made] = []
    screens: dict[str, Mapping[str, Any]] = {}
    versions: set[str] = set()
    for run in runs:
        screen = run.get("screen") or {}
        name = str(screen.get("name", ""))
        if name:
            screens.setdefault(name, screen)
        made += [Made(e["card"], str(e["digest"]), name, e.get("covered"), e.get("asked"))
                 for e in run.get("embeddings", ()) if e.get("role") == "embedding"]  # fmt: skip
        for fusion in run.get("fusions") or ():
            if fusion.get("role", "embedding") == "embedding":
                told = f"{fusion.get('method')} of {', '.join(map(str, fusion.get('of') or ()))}"
                made.append(
                    Made(
                        {"name": fusion.get("name"), "modality": "fusion", "description": told},
                        str(fusion.get("digest", "")),
                        name,
                    )
                )
        versions.add(str(run.get("version", "not known")))
    return made, screens, tuple(sorted(versions))


def _scores(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a score table and keep what a site needs, text as categories."""
    missing = [c for c in [*NEEDED, "trial"] if c not in table]
    if missing:
        raise InputError(f"{where}: its score table has no column(s) {some(missing, 12)}.")
    if table.empty:
        raise InputError(f"{where}: its score table has no rows.")
    columns: dict[str, Any] = {}
    for column in TEXTS:
        given = table[column] if column in table else pd.Series("unknown", index=table.index)
        if given.isna().any():
            if column not in ("seen", "modality"):
                raise InputError(f"{where}: its score table has an empty {column}.")
            given = given.astype(object).fillna("unknown")
        columns[column] = (
            given if isinstance(given.dtype, pd.CategoricalDtype) else given.astype(str).astype("category")
        )
    for column, known in (
        ("metric", tuple(METRICS)),
        ("fallback", FALLBACKS),
        ("role", ROLES),
        ("seen", ("yes", "no", "unknown")),
    ):
        unknown = set(map(str, columns[column].unique())) - set(known)
        if unknown:
            raise InputError(
                f"{where}: its score table has {column} {some(sorted(unknown))}; this version knows {', '.join(known)}."
            )
    try:
        for column in ("fold", "seed"):
            columns[column] = table[column].astype(np.int64)
        for column in NUMBERS:
            columns[column] = table[column].astype(np.float64) if column in table else np.nan
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: column {column} of its score table is not of numbers ({error}).") from None
    columns["simulated"] = table["simulated"].astype(bool)
    if np.isinf(columns["value"]).any():
        raise InputError(f"{where}: its score table has infinite scores.")
    return pd.DataFrame(columns)[COLUMNS].reset_index(drop=True)


def _identities(records: Iterable[Mapping[str, Any]], where: str) -> dict[str, Identity]:
    """Return what trials depend on; refuse a digest that is not of what stands beside it."""
    found: dict[str, Identity] = {}
    words: dict[str, str] = {}
    for record in records:
        depends, trial = record.get("depends"), str(record.get("trial", ""))
        if trial in found:
            continue
        if not isinstance(depends, Mapping) or not isinstance(depends.get("responses"), str) or "split" not in depends:
            raise InputError(f"{where}: trial {trial!r} does not say which responses and split it depends on.")
        if digest_json(depends) != trial:
            raise InputError(f"{where}: trial {trial!r} has the digest of something else than it says to depend on.")
        probe, rules = (json.dumps(depends.get(k), sort_keys=True) for k in ("probe", "rules"))
        identity = Identity(
            str(depends["responses"]), str(depends["split"]), str(depends.get("embedding") or ""), probe, rules
        )
        found[trial] = Identity(*(words.setdefault(part, part) for part in identity))
    return found


def is_imported(trial: str) -> bool:
    """Whether a trial is of published scores, without predictions behind it."""
    return trial.startswith(PREFIX)

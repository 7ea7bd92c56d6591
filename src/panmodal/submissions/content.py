"""A bundle that was read: its tables, records and predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.scores import COLUMNS
from panmodal.evaluation.trials import Predictions, Trial
from panmodal.screens.splits import Split
from panmodal.submissions.archive import Archive
from panmodal.submissions.findings import Report, refuse
from panmodal.submissions.limits import LIMITS, Limits
from panmodal.submissions.schema import (
    CEILINGS,
    DRAWS,
    FORMAT,
    KIND,
    OF_METRICS,
    RESAMPLED,
    ROWS,
    SCORES,
    CardRecord,
    Manifest,
    RunRecord,
    TrialRecord,
    record,
    task_of,
)
from panmodal.submissions.strict import read_folds, read_json
from panmodal.submissions.tables import read_frame

LABELS = ("screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "role", "modality", "simulated",
          "depends", "seen")  # fmt: skip
NEEDED = ("manifest.json", "trials.json", "cards.json", "scores.parquet", "perturbations.parquet")


@dataclass(eq=False)
class Content:
    """All of a bundle but its predictions, as it was read; nothing is checked but its form."""

    archive: Archive
    manifest: Manifest
    digest: str
    records: list[TrialRecord]
    card_records: list[CardRecord]
    run_records: dict[str, RunRecord]
    splits: dict[str, Split]
    scores: pd.DataFrame
    rows: pd.DataFrame
    ceilings: pd.DataFrame
    resampled: pd.DataFrame
    environments: dict[str, Any]

    @cached_property
    def by_digest(self) -> dict[str, TrialRecord]:
        """One record of each trial; two names of the same content share it."""
        return {t.trial: t for t in self.records}

    @cached_property
    def rows_of(self) -> dict[str, NDArray[np.intp]]:
        """Positions of a trial's rows."""
        return self.rows.groupby("trial", sort=False).indices

    @cached_property
    def widths(self) -> dict[str, int]:
        """Numbers predicted for each id, by the digest of the responses."""
        return {t.responses: t.n_readouts * (2 if has_classes(t.response) else 1) for t in self.manifest.tasks}

    @property
    def predicted(self) -> list[str]:
        """Digests of the trials whose predictions are there."""
        return [n[len("predictions/") : -len(".f32")] for n in self.archive.members if n.startswith("predictions/")]

    def predictions(self, digest: str) -> Predictions:
        """Read the predictions of a trial: train mean, then one row for each id, then where there is one the expected error.

        Raises
        ------
        Refused
            V080.
        """
        name = f"predictions/{digest}.f32"
        found = self.by_digest.get(digest)
        if found is None or name not in self.archive.members or digest not in self.rows_of:
            refuse("V080", "no predictions of such a trial, or no trial of such predictions", name)
        rows = self.rows.iloc[self.rows_of[digest]]
        width, m = self.widths.get(str(found.depends.get("responses")), 0), len(rows)
        raw = self.archive.read(name)
        if not width or len(raw) != 4 * (width * (m + 1) + m * found.expected_error):
            refuse("V080", f"{len(raw)} bytes for {m} ids and {width} numbers each", name)
        numbers = np.frombuffer(raw, dtype="<f4")
        values = numbers[width : width * (m + 1)].reshape(m, width)
        expected = numbers[width * (m + 1) :] if found.expected_error else None
        about = {
            **found.provenance,
            **{k: getattr(found, k) for k in (*LABELS, "hyperparameters", "seconds", "version")},
        }
        return Predictions(
            rows["pert_id"].tolist(), rows["covered"].to_numpy(), values, numbers[:width], about, expected
        )


def packed_predictions(found: Predictions) -> bytes:
    """Lay predictions out as :meth:`Content.predictions` reads them."""
    parts = [found.train_mean, found.values, found.expected_error]
    return b"".join(np.ascontiguousarray(p, dtype="<f4").tobytes() for p in parts if p is not None)


def read_content(path: Path, report: Report, limits: Limits = LIMITS) -> Content:
    """Read a bundle in the order in which it can be trusted: archive, manifest, digests, records, tables.

    Raises
    ------
    Refused
        Codes V001 to V034, V022 and V080.
    """
    archive = Archive(path, limits)
    if missing := [n for n in NEEDED if n not in archive.members]:
        refuse("V023", "is missing", missing[0])
    raw = archive.read("manifest.json")
    digest = hashlib.sha256(raw).hexdigest()[:32]
    plain = read_json(raw, "manifest.json", limits)
    if not isinstance(plain, dict) or plain.get("kind") != KIND or plain.get("format") != FORMAT:
        refuse("V021", f"this version reads format {FORMAT} of {KIND}", "manifest.json")
    manifest = record(Manifest, plain, "manifest.json")
    report.digest = digest
    held = _check_files(archive, manifest)

    def parsed(name: str) -> Any:
        return read_json(held.pop(name), name, limits)

    def entries(name: str, model: type[Any]) -> list[Any]:
        found = parsed(name)
        if not isinstance(found, list):
            refuse("V022", "must be a list", name)
        return [record(model, item, f"{name}, entry {k}") for k, item in enumerate(found)]

    def table(name: str, required: Mapping[str, str], optional: Mapping[str, str]) -> pd.DataFrame:
        if name not in held:
            return pd.DataFrame(columns=[*required])
        return read_frame(held.pop(name), name, required, optional, limits)

    records, cards = entries("trials.json", TrialRecord), entries("cards.json", CardRecord)
    runs = {n: record(RunRecord, parsed(n), n) for n in sorted(held) if n.startswith("runs/")}
    environments = parsed("environments.json") if "environments.json" in held else {}
    if not isinstance(environments, dict):
        refuse("V022", "must be a mapping", "environments.json")
    promises = {r.split.digest: r.split for r in runs.values()}
    splits = {}
    for name in [n for n in sorted(held) if n.startswith("splits/")]:
        own = name[len("splits/") : -len(".csv")]
        folds = read_folds(held.pop(name), name, limits)
        about = promises.get(own)
        if about is None:
            refuse("V075", "no run has this split", name)
        try:
            splits[own] = Split(folds, name=about.name, unseen=about.unseen, seed=about.seed)
        except ValueError as error:
            refuse("V022", str(error)[:200], name)
    return Content(
        archive, manifest, digest, records, cards, runs, splits, table("scores.parquet", SCORES, {})[COLUMNS],
        table("perturbations.parquet", ROWS, OF_METRICS), table("ceilings.parquet", CEILINGS, OF_METRICS),
        table("resampled.parquet", {**RESAMPLED, **DRAWS}, {}), environments,
    )  # fmt: skip


def _check_files(archive: Archive, manifest: Manifest) -> dict[str, bytes]:
    """Compare every member with the manifest; return those that are not predictions."""
    named = [f.name for f in manifest.files]
    there = [n for n in archive.members if n != "manifest.json"]
    if sorted(named) != sorted(there):
        odd = sorted(set(named) ^ set(there)) or [n for n in named if named.count(n) > 1]
        refuse("V023", "is in the manifest or in the archive, but not once in both", odd[0][:80])
    held = {}
    for file in manifest.files:
        content = archive.read(file.name)
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            refuse("V024", "is not the file that the manifest names (size or SHA-256)", file.name)
        if not file.name.startswith("predictions/"):
            held[file.name] = content
    return held


@dataclass(frozen=True, eq=False)
class Bundle:
    """A validated submission, for sites and for merging. All text in it is a stranger's: escape it wherever it is shown.

    Attributes
    ----------
    path, digest
        The file, and the digest of its contents.
    report
        What validation found (no error).
    manifest
        ``title``, ``contact``, ``notes``, ``date``, ``embeddings``, ``tasks``, ``simulated``, ... as plain values.
    """

    path: Path
    digest: str
    report: Report
    content: Content = field(repr=False)

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest without the list of files."""
        return self.content.manifest.model_dump(exclude={"files"})

    @property
    def date(self) -> str:
        """When it was made, if the sender says (``YYYY-MM-DD``), else empty."""
        return self.content.manifest.date

    @property
    def version(self) -> str:
        """Version of panmodal that made it."""
        return self.content.manifest.panmodal

    @property
    def scores(self) -> pd.DataFrame:
        """The tidy score table, as ``scores.parquet`` of a results folder."""
        return self.content.scores

    def perturbations(self) -> pd.DataFrame:
        """Return one row per trial and test perturbation, as ``perturbations.parquet`` of a results folder."""
        return self.content.rows

    @property
    def ceilings(self) -> pd.DataFrame | None:
        """Ceilings as in a results folder; None if there are none."""
        return self.content.ceilings if len(self.content.ceilings) else None

    @cached_property
    def resampled(self) -> pd.DataFrame | None:
        """Bootstrap samples as in a results folder (``draws`` is a list); None if there are none."""
        found = self.content.resampled
        if found.empty:
            return None
        return found[[*RESAMPLED]].assign(draws=found[[*DRAWS]].to_numpy().tolist())

    @property
    def cards(self) -> dict[str, dict[str, Any]]:
        """Card of each embedding and member of a fusion by name; a fusion has one that names its members."""
        found = {c.name: c.card for c in self.content.card_records}
        for run in self.content.run_records.values():
            for fusion in (f for f in run.fusions if f.role == "embedding"):
                seen = sorted({s for n in fusion.of if n in found for s in found[n].get("trained_on", ())})
                what = f"{fusion.method} of {', '.join(fusion.of)}"
                found.setdefault(
                    fusion.name, {"name": fusion.name, "modality": "fusion", "description": what, "trained_on": seen}
                )
        return found

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Records of the trials: labels, ``depends``, ``trial`` (digest), ``content``, ``hyperparameters``, ``seconds``, ``rules``."""
        return [t.model_dump() for t in self.content.records]

    def planned(self) -> list[Trial]:
        """Return the trials as those of a results folder."""
        return [Trial(**{k: getattr(t, k) for k in LABELS}) for t in self.content.records]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Records of the runs, with the cards of their embeddings, as :meth:`panmodal.evaluation.store.Store.save_run` takes them."""
        used = {t.depends.get("embedding"): t.role for t in self.content.records}
        out = []
        for run in self.content.run_records.values():
            entries = [
                {"card": c.card, "digest": c.digest, "role": used.get(c.digest, "embedding"), "covered": c.covered, "asked": c.asked}
                for c in self.content.card_records if c.screen == run.screen.name and c.name in run.embeddings
            ]  # fmt: skip
            out.append({**run.model_dump(exclude_none=True), "embeddings": entries})
        return out

    @property
    def environments(self) -> dict[str, Any]:
        """Environments that trials were computed in (``provenance`` of a trial names one), by digest, where that is recorded."""
        return self.content.environments

    @property
    def splits(self) -> dict[str, Split]:
        """Splits by digest."""
        return self.content.splits

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """Tasks with the digests of their responses and split."""
        return [t.model_dump() | {"task": task_of(t)} for t in self.content.manifest.tasks]

    @property
    def has_predictions(self) -> bool:
        """Whether predictions of all trials are there."""
        return self.content.manifest.predictions

    def predictions(self, digest: str) -> Predictions:
        """Read the predictions of a trial by its digest; ``has_predictions`` tells whether there are any."""
        return self.content.predictions(digest)

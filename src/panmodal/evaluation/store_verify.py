"""Checking every file of a results folder, and removing what is damaged and can be computed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._console import Progress
from panmodal._digest import digest_json, digest_table
from panmodal.errors import InputError, PanmodalError, StoreError
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.parquet import read_parquet
from panmodal.evaluation.segments import ROWS, TRIALS, read_segment
from panmodal.evaluation.store import MANIFEST, Store
from panmodal.evaluation.store_files import DERIVED, StoreFile, file_time, files_of, labels_of_ceilings
from panmodal.evaluation.trials import Predictions, Trial
from panmodal.screens.splits import Split, read_split

COLUMNS = ["level", "problem", "place", "todo", "repaired"]
OLD = 3600.0
"""Seconds after which a temporary file was left by a killed process; a younger one may be in use."""
AGAIN = "Remove it, or give --repair; panmodal rescore computes it again."
COMPUTED = "Remove it, or give --repair --force; the same panmodal run computes it again."


def verify_store(path: str | Path, *, full: bool = False, repair: bool = False, force: bool = False,
                 progress: Progress | None = None) -> pd.DataFrame:  # fmt: skip
    """Check every file of a results folder.

    Checked are: the manifest; the recorded plans, and the digest of each trial against what it depends on; predictions against the
    digest they were written with, the folds, the responses and the scores; the digests of responses, folds and segments; that
    everything else can be read; the compiled tables against the files of the trials; what should not be there.

    Parameters
    ----------
    path
        Results folder.
    full
        Compare the compiled tables for all tasks, and not for a few.
    repair
        Remove damaged files that are computed from others (scores, segments, compiled tables), and temporary files that killed
        processes left.
    force
        With ``repair``: remove damaged predictions, responses, vectors, folds, ceilings and tables of fusions too. The same run
        computes them again where it still has its inputs.
    progress
        Called with (files checked, files).

    Returns
    -------
    pandas.DataFrame
        One row per finding: ``level`` (``problem``, or ``note`` where nothing is wrong), ``problem``, ``place`` (within the folder),
        ``todo`` and ``repaired``. Without problems the folder is whole.

    Raises
    ------
    StoreError
        Not a results folder, or one of another format.
    InputError
        ``force`` without ``repair``.
    """
    if force and not repair:
        raise InputError("--force says what --repair may remove; give both.")
    checker = _Checker(Store(path))
    checker.plans()
    # Predictions first: scores are compared with them.
    files = sorted(files_of(checker.store.path), key=lambda f: f.kind != "predictions")
    for k, file in enumerate(files):
        if progress:
            progress(k, len(files))
        checker.check(file)
    checker.absent(files)
    if not checker.unreadable_plan:
        from panmodal.evaluation.store_verify_tables import compare_tables

        for place, problem in compare_tables(checker.store, full=full):
            checker.add("problem", problem, place, AGAIN, "table")
    if progress:
        progress(len(files), len(files))
    if repair:
        checker.repair(force)
    return pd.DataFrame([(f.level, f.problem, f.place, f.todo, f.repaired) for f in checker.found], columns=COLUMNS)


@dataclass
class _Finding:
    level: str
    problem: str
    place: str
    todo: str
    kind: str
    repaired: bool = False


@dataclass
class _Checker:
    """Findings so far, and what the recorded plans say."""

    store: Store
    found: list[_Finding] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    unreadable_plan: bool = False

    def __post_init__(self) -> None:
        self._now = file_time(self.store.path)
        self._splits: dict[str, Split] = {}
        self._responses: dict[str, tuple[list[str], int] | None] = {}
        self._ids: dict[str, str] = {}
        self._tests: dict[str, Callable[[StoreFile], Iterator[str]]] = {
            "predictions": self._predictions, "rows": self._rows, "genes": self._genes, "common": self._json,
            "fusion": self._fusion, "responses": self._response_file, "vectors": self._vectors, "split": self._split,
            "ceilings": self._ceilings, "environment": self._environment, "failure": self._json, "invocation": self._json,
            "imported": self._parquet, "table": self._parquet, "segment": self._segment,
        }  # fmt: skip

    def add(self, level: str, problem: str, place: str, todo: str, kind: str) -> None:
        """Note a finding."""
        self.found.append(_Finding(level, problem, place, todo, kind))

    # --- plans -------------------------------------------------------------------------------------------------------

    def plans(self) -> None:
        """Check the recorded plans, and take down their trials."""
        by_key: dict[Any, str] = {}
        for path in sorted((self.store.path / "runs").glob("*.json")):
            place = f"runs/{path.name}"
            try:
                records = json.loads(path.read_text(encoding="utf-8"))["trials"]
                trials = [(Trial.from_record(r), str(r["trial"])) for r in records]
            except (ValueError, KeyError, TypeError, OSError) as error:
                self.unreadable_plan = True
                self.add("problem", f"the recorded plan is damaged ({error})", place,
                         "Restore it, or remove it and give its panmodal run again: what is finished is kept.", "run")  # fmt: skip
                continue
            wrong = sum(t.digest != digest for t, digest in trials)
            if wrong:
                self.add("problem", f"{wrong} trial(s) have another digest than what they depend on gives", place,
                         "The plan was changed by hand. Remove it and give its panmodal run again.", "run")  # fmt: skip
            clash = sum(by_key.setdefault(t.key, digest) != digest for t, digest in trials)
            if clash:
                self.add("problem", f"{clash} trial(s) go by the names of other trials in another plan", place,
                         "Give the panmodal run that is meant with --overwrite always.", "run")  # fmt: skip
            self.trials |= {digest: t for t, digest in trials}

    def absent(self, files: list[StoreFile]) -> None:
        """Note what is planned and not there."""
        there = {(f.kind, f.digest) for f in files}
        missing = [d for d in self.trials if ("predictions", d) not in there]
        if missing:
            self.add("note", f"{len(missing)} of {len(self.trials)} planned trials are not finished", "trials",
                     "Give the same panmodal run again to finish them.", "")  # fmt: skip
        for digest in sorted({t.depends["responses"] for t in self.trials.values()}):
            if ("responses", digest) not in there:
                self.add("problem", "the responses of planned trials are not there", f"responses/{digest}.parquet",
                         "Give the same panmodal run again; without them nothing can be scored again.", "")  # fmt: skip
        failed = [d for d in self.trials if ("failure", d) in there and ("predictions", d) not in there]
        if failed:
            self.add(
                "note", f"{len(failed)} of them raised an error", "failures", "Give the same panmodal run again.", ""
            )
        scored = [d for d in sorted(self._ids) if ("rows", d) not in there]
        if scored:
            self.add("problem", f"{len(scored)} finished trial(s) have no scores, e.g. {scored[0]}", "scores",
                     "panmodal rescore computes them.", "")  # fmt: skip

    # --- files -------------------------------------------------------------------------------------------------------

    def check(self, file: StoreFile) -> None:
        """Check one file."""
        if file.kind == "leftover":
            try:
                old = self._now - file.path.stat().st_mtime > OLD
            except FileNotFoundError:
                return
            if old:
                self.add("problem", "left by a process that was killed", file.place,
                         "Remove it, or give --repair, or panmodal store gc --yes.", file.kind)  # fmt: skip
            return
        if file.kind == "unknown":
            self.add("note", "not a file of a results folder", file.place, "Nothing, if you put it there.", file.kind)
            return
        test = self._tests.get(file.kind)
        if test is None or not file.path.exists():
            return
        try:
            problems = list(test(file))
        except (PanmodalError, ValueError, KeyError, TypeError, OSError, IndexError, AttributeError) as error:
            problems = [str(error).removeprefix(f"{file.path}: ")]
        todo = "Import it again." if file.kind == "imported" else AGAIN if file.kind in DERIVED else COMPUTED
        for problem in problems:
            self.add("problem", problem, file.place, todo, file.kind)

    def _predictions(self, file: StoreFile) -> Iterator[str]:
        if file.path.parent.name != file.digest[:2]:
            yield f"lies in the wrong folder; it belongs into trials/{file.digest[:2]}"
            return
        found = self.store.read_trial(file.digest)
        self._ids[file.digest] = _rows_digest(found.pert_ids, found.covered)
        if len(set(found.pert_ids)) < len(found.pert_ids):
            yield "has a perturbation twice"
        if found.values is not None and not np.isfinite(found.values).all():
            yield "has predictions that are not finite"
        if not np.isfinite(found.train_mean).all():
            yield "has a train mean that is not finite"
        trial = self.trials.get(file.digest)
        if trial is None:
            self.add("note", "no recorded plan needs it", file.place, "panmodal store gc removes it.", file.kind)
            return
        yield from self._against_inputs(trial, found)

    def _against_inputs(self, trial: Trial, found: Predictions) -> Iterator[str]:
        """Compare predictions with the responses and folds that their trial names."""
        responses = self._response(trial.depends["responses"])
        if responses is None:
            return  # said of that file
        ids, readouts = responses
        wide = readouts * (2 if has_classes(trial.response) else 1)
        if found.train_mean.shape != (wide,) or (found.values is not None and found.values.shape[1] != wide):
            yield f"has {found.train_mean.size} numbers for each perturbation and its responses need {wide}"
        split = self._folds(trial)
        if split is not None:
            try:
                expected = split.sides(ids, trial.fold)[1]
            except KeyError:
                return  # a split of other ids has another digest, and is found there
            if set(expected) != set(found.pert_ids):
                yield f"has {len(found.pert_ids)} test perturbations that are not the {len(expected)} of fold {trial.fold}"

    def _folds(self, trial: Trial) -> Split | None:
        digest = trial.depends["split"]
        if digest not in self._splits:
            for path in sorted((self.store.path / "splits").glob(f"*-{digest[:8]}.csv")):
                try:
                    split = read_split(path)
                except PanmodalError:
                    continue
                if split.digest == digest:
                    self._splits[digest] = split
        return self._splits.get(digest)

    def _response(self, digest: str) -> tuple[list[str], int] | None:
        """Ids and number of read-outs of stored responses."""
        if digest not in self._responses:
            try:
                ids, _, readouts = self.store.read_responses(digest)
                self._responses[digest] = (ids, len(readouts))
            except (StoreError, KeyError, ValueError):
                self._responses[digest] = None
        return self._responses[digest]

    def _rows(self, file: StoreFile) -> Iterator[str]:
        table, record = read_parquet(file.path)
        if record.get("trial") != file.digest:
            yield f"holds the scores of trial {record.get('trial')}"
            return
        rows = table.to_pandas()
        rules = record["rules"]
        numbers = rows.drop(columns=["pert_id", "covered", "trial"], errors="ignore")
        if np.isinf(numbers.to_numpy(np.float64)).any():
            yield "has values that are not finite"
        unknown = sorted(set(numbers) - set(rules))
        if unknown:
            yield f"does not say the version of {', '.join(unknown)}"
        known = self._ids.get(file.digest)
        if known is None:
            self.add("note", "scores of predictions that are absent or damaged", file.place, "Nothing.", file.kind)
        elif known != _rows_digest(rows["pert_id"].tolist(), rows["covered"].to_numpy()):
            yield "has other perturbations or coverage than the predictions"

    def _genes(self, file: StoreFile) -> Iterator[str]:
        table, record = read_parquet(file.path)
        if record.get("trial") != file.digest:
            yield f"holds the scores of trial {record.get('trial')}"
        elif file.digest in self.trials:
            responses = self._response(self.trials[file.digest].depends["responses"])
            if responses and table.num_rows != responses[1]:
                yield f"has {table.num_rows} genes and the responses {responses[1]}"

    def _json(self, file: StoreFile) -> Iterator[str]:
        dict(json.loads(file.path.read_text(encoding="utf-8")))
        yield from ()

    def _fusion(self, file: StoreFile) -> Iterator[str]:
        found = json.loads(file.path.read_text(encoding="utf-8"))
        if found["trial"] != file.digest or not isinstance(found["rows"], list):
            yield f"holds what a fusion learned in trial {found['trial']}"

    def _environment(self, file: StoreFile) -> Iterator[str]:
        if digest_json(json.loads(file.path.read_text(encoding="utf-8"))) != file.digest:
            yield "its content has another digest"

    def _response_file(self, file: StoreFile) -> Iterator[str]:
        ids, values, readouts = self.store.read_responses(file.digest)
        own = digest_table(ids, readouts, values, "<f4")
        if own != file.digest.rpartition("-")[2]:
            yield f"its content has the digest {own}"

    def _vectors(self, file: StoreFile) -> Iterator[str]:
        # Kept in single precision, so that the digest, which is of double, cannot be taken again.
        ids, values = self.store.read_vectors(file.digest)
        if len(set(ids)) < len(ids) or not np.isfinite(values).all():
            yield "has an id twice, or vectors that are not finite"

    def _split(self, file: StoreFile) -> Iterator[str]:
        if file.path.suffix != ".csv":
            if not file.path.with_name(file.path.name.removesuffix(".split.yaml") + ".csv").exists():
                yield "its folds (.csv) are not there"
            return
        split = read_split(file.path)
        if not split.digest.startswith(file.digest):
            yield f"its folds have the digest {split.digest}"

    def _ceilings(self, file: StoreFile) -> Iterator[str]:
        table, about = read_parquet(file.path)
        frame = table.to_pandas()
        if digest_json(labels_of_ceilings(frame)) != file.digest or not {"key", "metrics", "responses", "split"} <= set(
            about
        ):
            yield "holds the ceilings of something else"

    def _parquet(self, file: StoreFile) -> Iterator[str]:
        read_parquet(file.path)
        yield from ()

    def _segment(self, file: StoreFile) -> Iterator[str]:
        if file.path.name.endswith(ROWS):
            if not file.path.with_name(file.path.name.removesuffix(ROWS) + TRIALS).exists():
                self.add(
                    "note", "rows of a segment that was not finished", file.place, "panmodal store gc removes it.", ""
                )
            return
        try:
            read_segment(file.path)
        except StoreError as error:
            yield str(error)

    # --- repair ------------------------------------------------------------------------------------------------------

    def repair(self, force: bool) -> None:
        """Remove files of findings that can be computed again."""
        allowed = {
            *DERIVED,
            *(("predictions", "responses", "vectors", "split", "ceilings", "fusion", "environment") if force else ()),
        }
        for finding in self.found:
            if finding.level != "problem" or finding.kind not in allowed or finding.place == MANIFEST:
                continue
            target = self.store.path / finding.place
            for path in _with_it(target, finding.kind):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise StoreError(f"{path}: cannot be removed ({error.strerror or error}).") from error
            finding.repaired = True


def _rows_digest(ids: list[str], covered: NDArray[np.bool_]) -> str:
    return digest_json([ids, np.asarray(covered, dtype=bool).tolist()])


def _with_it(path: Path, kind: str) -> list[Path]:
    """Return a file and what means nothing without it."""
    if kind == "segment":
        stem = path.name.split(".")[0]
        return [path.with_name(stem + TRIALS), path.with_name(stem + ROWS)]
    if kind == "split":
        stem = path.name.removesuffix(".csv").removesuffix(".split.yaml")
        return [path.with_name(f"{stem}.csv"), path.with_name(f"{stem}.split.yaml")]
    return [path]

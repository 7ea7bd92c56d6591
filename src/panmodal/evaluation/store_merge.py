"""Merging results folders: what is the same is kept once, what only seems to be is refused and explained."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal._console import Progress
from panmodal._digest import digest_json
from panmodal._files import atomic_path, write_text
from panmodal.errors import InputError, StoreError
from panmodal.evaluation.compaction import compile_tables
from panmodal.evaluation.parquet import read_parquet
from panmodal.evaluation.store import MANIFEST, Store
from panmodal.evaluation.store_conflicts import Folder, open_folder, outdated_rules, reasons_against
from panmodal.evaluation.store_files import StoreFile, files_of
from panmodal.evaluation.trials import Predictions

TOLERANCE = 1e-5
"""Largest difference between predictions of one trial, in units of the largest of them (but at least 1), that other
libraries or processors may make."""
SHARED = ("responses", "vectors", "split", "ceilings", "imported", "environment", "invocation")
"""Kinds of files that are copied beside those of trials."""


@dataclass
class Merged:
    """What a merge did, or would do.

    Attributes
    ----------
    copied, same
        Trials that came from a folder, and those that were found again in another one.
    files
        Files copied into the target.
    notes
        What a user should know: trials whose predictions differ within the tolerance, damaged files left out, ...
    """

    copied: int = 0
    same: int = 0
    files: int = 0
    notes: list[str] = field(default_factory=list)


def merge_stores(folders: Sequence[str | Path], into: str | Path, *, rename: Mapping[str, Mapping[str, str]] | None = None,
                 dry_run: bool = False, progress: Progress | None = None) -> Merged:  # fmt: skip
    """Merge results folders into one.

    Trials with the same digest and the same predictions are kept once. Under the same labels other responses, folds, embeddings,
    probes or rules are refused, with what differs. Where predictions of the same trial differ by no more than
    :data:`TOLERANCE`, those of the folder named first are kept and noted; more is refused. Nothing is written before everything was
    checked. A merge that was interrupted is finished by the same command, and one that is done changes nothing.

    Parameters
    ----------
    folders
        Results folders; earlier ones win where two differ within the tolerance.
    into
        The target: a new folder, or a results folder whose contents come first.
    rename
        Folder as given -> old name of an embedding -> new name.
    dry_run
        Check only.
    progress
        Called with (files copied, files).

    Raises
    ------
    InputError
        Nothing to merge, or a name that cannot be given.
    StoreError
        The folders do not fit together: all reasons, each with what to do.
    """
    rename = {str(Path(k)): dict(v) for k, v in (rename or {}).items()}
    paths = [Path(p) for p in folders]
    unknown = sorted(set(rename) - {str(p) for p in paths})
    if unknown or len(paths) < 1:
        raise InputError(
            f"--rename: {unknown[0]} is not among the folders to merge." if unknown else "no folder to merge."
        )
    into = Path(into)
    target = into / MANIFEST
    if not target.exists() and into.is_dir() and any(into.iterdir()):
        raise StoreError(f"{into}: exists, is not empty and is not a results folder; give another --into.")
    others = [p for p in paths if not (into.exists() and p.exists() and os.path.samefile(p, into))]  # noqa: PTH121
    opened = [open_folder(into)] if target.exists() else []
    n_there = len(opened)
    opened += [open_folder(p, rename.get(str(p))) for p in others]
    reasons = reasons_against(opened)
    if reasons:
        raise StoreError(_refusal(reasons))
    merge = _Merge(opened, into, n_there)
    reasons = merge.collect()
    if reasons:
        raise StoreError(_refusal(reasons))
    if not dry_run:
        merge.apply(progress)
    return merge.found


def _refusal(reasons: Sequence[str]) -> str:
    shown = "".join(f"\n  {k}. {reason}" for k, reason in enumerate(reasons[:10], 1))
    rest = f"\n  and {len(reasons) - 10} more" if len(reasons) > 10 else ""
    return f"the folders cannot be merged; nothing was written.{shown}{rest}"


@dataclass(frozen=True)
class _Source:
    folder: Folder
    path: Path


class _Merge:
    """Which files come from which folder, and the copying."""

    def __init__(self, folders: Sequence[Folder], into: Path, n_there: int) -> None:
        self.folders, self.into, self.n_there = folders, into, n_there
        self.found = Merged()
        self.files: dict[str, Path] = {}
        self.quality: list[pd.DataFrame] = []

    def collect(self) -> list[str]:
        """Choose the files; return reasons against merging."""
        trials: dict[str, list[_Source]] = {}
        shared: dict[str, list[_Source]] = {}
        failures: dict[str, list[_Source]] = {}
        kinds: dict[str, StoreFile] = {}
        for folder in self.folders:
            planned = {t.digest for t in folder.trials}
            for file in files_of(folder.store.path):
                if file.kind == "predictions" and file.digest in planned:
                    trials.setdefault(file.digest, []).append(_Source(folder, file.path))
                elif file.kind == "failure" and file.digest in planned:
                    failures.setdefault(file.digest, []).append(_Source(folder, file.path))
                elif file.kind in SHARED:
                    shared.setdefault(file.place, []).append(_Source(folder, file.path))
                    kinds[file.place] = file
        reasons: list[str] = []
        for place, sources in shared.items():
            reasons += self._shared(place, kinds[place].kind, sources)
        for digest, sources in trials.items():
            reasons += self._trial(digest, [s.folder for s in sources])
        for digest in failures.keys() - trials.keys():
            self._take(failures[digest][0].folder, failures[digest][0].path)
        self._quality()
        return reasons

    def _note(self, text: str) -> None:
        if text not in self.found.notes:
            self.found.notes.append(text)

    def _take(self, folder: Folder, path: Path) -> None:
        if folder not in self.folders[: self.n_there]:
            self.files[path.relative_to(folder.store.path).as_posix()] = path

    # --- what is not of one trial --------------------------------------------------------------------------------------

    def _shared(self, place: str, kind: str, sources: Sequence[_Source]) -> Iterator[str]:
        """Files of one name: content-addressed ones are the same if they can be read; the rest must be equal."""
        whole = [s for s in sources if self._readable(s, kind)]
        if not whole:
            return
        first = whole[0]
        for other in whole[1:]:
            problem = _SAME[kind](first.path, other.path)
            if problem:
                yield f"{place} of {first.folder.name} and {other.folder.name}: {problem}"
        self._take(first.folder, first.path)

    def _readable(self, source: _Source, kind: str) -> bool:
        try:
            if source.path.suffix == ".parquet":
                read_parquet(source.path)
        except StoreError:
            self._note(
                f"{source.path}: damaged, and left out; panmodal store verify {source.folder.name} says what to do"
            )
            return False
        return True

    def _quality(self) -> None:
        """Facts of perturbations: of each screen and context those of the first folder that has them."""
        known: set[tuple[str, str]] = set()
        for folder in self.folders:
            try:
                frame = folder.store.quality()
            except StoreError:
                continue
            if frame is not None:
                new = [k not in known for k in zip(frame["screen"], frame["context"], strict=True)]
                self.quality.append(frame[new])
                known |= set(zip(frame["screen"], frame["context"], strict=True))

    # --- trials ----------------------------------------------------------------------------------------------------------

    def _trial(self, digest: str, folders: Sequence[Folder]) -> Iterator[str]:
        """Choose whose files of a trial are kept."""
        records = [(f, f.store.trial_record(digest)) for f in folders]
        for folder, record in records:
            if record is None:
                self._note(f"{folder.name}: the predictions of trial {digest} are damaged, and left out; "
                           "the same run computes them again")  # fmt: skip
        whole = [(f, record) for f, record in records if record is not None]
        if not whole:
            return
        chosen, first = whole[0]
        differ = [(f, r) for f, r in whole[1:] if r["content"] != first["content"]]
        for folder, record in differ:
            try:
                a, b = chosen.store.read_trial(digest), folder.store.read_trial(digest)
            except StoreError as error:
                yield str(error)
                return
            problem, gap = _predictions_differ(a, b)
            if problem:
                yield (f"trial {_called(first)} ({digest}) of {chosen.name} and {folder.name}: {problem}. The same inputs must give "
                       "the same results: give one of the runs again with --overwrite always, or leave one folder out.")  # fmt: skip
                return
            if a.values is None and b.values is not None:
                chosen, first = folder, record
            elif gap:
                self._note(f"trial {_called(first)} ({digest}): predictions of {chosen.name} and {folder.name} differ by up to "
                           f"{gap:.2g}; those of {chosen.name} are kept")  # fmt: skip
        self.found.same += len(whole) - 1
        self.found.copied += chosen not in self.folders[: self.n_there]
        yield from self._scores(digest, chosen, [f for f, _ in whole])

    def _scores(self, digest: str, chosen: Folder, folders: Sequence[Folder]) -> Iterator[str]:
        """Take a trial's predictions, what a fusion learned and the scores; of the scores those with most metrics."""
        store = chosen.store
        at = f"{digest[:2]}/{digest}"
        self._take(chosen, store.path / "trials" / f"{at}.parquet")
        fusion = store.path / "fusions" / f"{at}.json"
        if fusion.exists():
            self._take(chosen, fusion)
        found = [(f, rows) for f in (chosen, *(f for f in folders if f is not chosen))
                 if (rows := f.store.read_rows(digest)) is not None and not outdated_rules(rows[1])]  # fmt: skip
        if not found:
            if store.read_trial(digest).values is None:
                yield (f"{chosen.name}: trial {digest} has no scores of this version and its predictions were not kept. Give its "
                       "run again with --overwrite always.")  # fmt: skip
            return
        # Scores belong to the predictions that are kept; those of others only if these are the same.
        content = (store.trial_record(digest) or {}).get("content")
        same = [
            (f, rows)
            for f, rows in found
            if f is chosen or (f.store.trial_record(digest) or {}).get("content") == content
        ]
        if not same:
            return
        best, rows = max(same, key=lambda item: len(item[1][1]))
        if any(set(own[1]) - set(rows[1]) for _, own in same):
            self._note(
                "some trials have other metrics in one folder than in another; panmodal rescore computes all for all"
            )
        for name in (f"{at}.parquet", f"{at}.genes.parquet", f"{at}.common.json"):
            path = best.store.path / "scores" / name
            if path.exists():
                self._take(best, path)

    # --- writing ---------------------------------------------------------------------------------------------------------

    def apply(self, progress: Progress | None) -> None:
        """Copy the files, plans last, so that whatever a plan names is there; compile."""
        store = Store(self.into, create=True)
        # Predictions after the scores: where they are, the trial is done.
        order = sorted(self.files, key=lambda place: (place.startswith("trials/"), place))
        for k, place in enumerate(order):
            if progress:
                progress(k, len(order))
            self.found.files += _copy(self.files[place], store.path / place)
        for folder in self.folders[self.n_there :]:
            for name, changed, run in folder.plans:
                own = name
                if folder.renamed:
                    about = {key: value for key, value in run.items() if key not in ("trials", "version")}
                    own = f"{digest_json([about, sorted(r['trial'] for r in run['trials'])])}.json"
                goal = store.path / "runs" / own
                text = json.dumps(run, indent=1, ensure_ascii=False)
                if not goal.exists() or not _holds(goal, run):
                    write_text(goal, text)
                    os.utime(goal, ns=(changed, changed))  # plans are read oldest first
                    self.found.files += 1
        if self.quality:
            store.write_table("quality", pd.concat(self.quality, ignore_index=True))
        if any(store.trials()):
            compile_tables(store)
        elif (store.path / "imported").is_dir():
            from panmodal.evaluation.imported import keep_imported

            keep_imported(store)
        if progress:
            progress(len(order), len(order))


def _holds(path: Path, run: dict[str, Any]) -> bool:
    """Whether a recorded plan has all trials of another one of the same name (one is less where trials were replaced)."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {r["trial"] for r in run["trials"]} <= {r["trial"] for r in known["trials"]}
    except (ValueError, KeyError):
        return False


def _called(record: Mapping[str, Any]) -> str:
    return (
        " · ".join(str(record.get(k, "?")) for k in ("screen", "context", "embedding", "probe"))
        + f" · fold {record.get('fold')}"
    )


def _predictions_differ(a: Predictions, b: Predictions) -> tuple[str, float]:
    """Say what is wrong between two predictions of one trial (empty within the tolerance), and their largest difference."""
    if a.pert_ids != b.pert_ids or not np.array_equal(a.covered, b.covered):
        return "other test perturbations, or other coverage", 0.0
    parts = [(a.train_mean, b.train_mean)]
    if a.values is not None and b.values is not None:
        parts.append((a.values, b.values))
    largest = 0.0
    for x, y in parts:
        if x.shape != y.shape:
            return f"predictions of {x.shape[-1]} and {y.shape[-1]} numbers", 0.0
        gap = float(np.abs(x.astype(np.float64) - y).max(initial=0.0))
        scale = max(1.0, float(np.abs(x).max(initial=0.0)))
        largest = max(largest, gap)
        if not gap <= TOLERANCE * scale:
            return f"predictions differ by up to {gap:.3g}, more than {TOLERANCE * scale:.1g}", gap
    return "", largest


def _equal_tables(a: Path, b: Path) -> bool:
    (left, one), (right, other) = read_parquet(a), read_parquet(b)
    return bool(left.equals(right)) and one == other


def _same_content(a: Path, b: Path) -> str:
    return (
        "" if _equal_tables(a, b) else "the same digest and other content; panmodal store verify tells which is damaged"
    )


def _same_split(a: Path, b: Path) -> str:
    return "" if a.read_bytes() == b.read_bytes() or a.suffix != ".csv" else "the folds differ"


def _same_ceilings(a: Path, b: Path) -> str:
    one, other = read_parquet(a)[1], read_parquet(b)[1]
    if one.get("key") == other.get("key"):
        return ""
    return "the ceilings were drawn from other cells or with other options. Use one ceilings file (--ceilings) for both"


def _same_imported(a: Path, b: Path) -> str:
    return (
        ""
        if _equal_tables(a, b)
        else "other imported scores under the same name. Import one of them under another name"
    )


_SAME: dict[str, Callable[[Path, Path], str]] = {
    "responses": _same_content, "vectors": _same_content, "split": _same_split, "ceilings": _same_ceilings,
    "imported": _same_imported, "environment": lambda _a, _b: "", "invocation": lambda _a, _b: "",
}  # fmt: skip


def _copy(source: Path, target: Path) -> int:
    """Copy a file atomically unless it is there already; return the number of files written."""
    if target.exists() and target.read_bytes() == source.read_bytes():
        return 0
    with atomic_path(target, durable=False) as partial:
        shutil.copyfile(source, partial)
    return 1

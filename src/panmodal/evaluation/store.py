"""The results folder: predictions and scores of trials, content-addressed, each file whole or absent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal._digest import digest_json
from panmodal._files import PARTIAL, write_text
from panmodal._version import __version__
from panmodal.errors import StoreError
from panmodal.evaluation.parquet import META, packed, read_parquet, read_rows_of, unpacked, write_parquet, write_rows_of
from panmodal.evaluation.store_tables import StoredTables
from panmodal.evaluation.trials import Predictions, Trial

FORMAT = 2
"""Version of the layout of a results folder."""
MANIFEST = "panmodal.json"


class Store(StoredTables):
    """A results folder.

    Parameters
    ----------
    path
        The folder.
    create
        Make it if it is not there; otherwise its absence is an error.

    Raises
    ------
    StoreError
        Not a results folder, or one of another format version.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        # Looked at before the manifest: a process that makes the folder at this moment writes the manifest before all else.
        occupied = self.path.is_dir() and any(not p.name.startswith(PARTIAL) for p in self.path.iterdir())
        if manifest.exists():
            try:
                found = json.loads(manifest.read_text(encoding="utf-8"))
                version = int(found["format"])
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f'{manifest}: damaged ({error}); it should say {{"format": {FORMAT}}}.') from error
            if version != FORMAT:
                raise StoreError(
                    f"{self.path}: written in format {version} by panmodal {found.get('version', '?')}; this is panmodal "
                    f"{__version__} with format {FORMAT}. Give another --out, or use the version that wrote it."
                )
        elif not create:
            raise StoreError(
                f"{self.path}: not a results folder (it has no {MANIFEST}). Make one with panmodal run --out."
            )
        elif occupied:
            raise StoreError(f"{self.path}: exists, is not empty and is not a results folder; give another --out.")
        else:
            write_text(manifest, json.dumps({"format": FORMAT, "version": __version__}) + "\n")

    # --- plans -------------------------------------------------------------------------------------------------------

    def save_run(self, trials: Sequence[Trial], about: dict[str, Any]) -> Path:
        """Record a plan: its trials with their labels, and what it was made from. The same plan is the same file."""
        records = [t.to_record() for t in trials]
        name = digest_json([about, sorted(r["trial"] for r in records)])
        target = self.path / "runs" / f"{name}.json"
        write_text(
            target, json.dumps({**about, "version": __version__, "trials": records}, indent=1, ensure_ascii=False)
        )
        return target

    def runs(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """All recorded plans, oldest first."""
        for path in sorted((self.path / "runs").glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
            try:
                yield path, json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise StoreError(f"{path}: damaged ({error}). Remove it and run its command again.") from error

    def trials(self) -> list[Trial]:
        """All planned trials, each label once."""
        found: dict[tuple[Any, ...], Trial] = {}
        for _, run in self.runs():
            for record in run["trials"]:
                trial = Trial.from_record(record)
                found[trial.key] = trial
        return list(found.values())

    def conflicts(self, trials: Iterable[Trial]) -> list[tuple[Trial, Trial]]:
        """Pairs (planned before, planned now) that go by the same labels but are not the same trial."""
        before = {t.key: t for t in self.trials()}
        return [(before[t.key], t) for t in trials if t.key in before and before[t.key].digest != t.digest]

    def forget(self, trials: Iterable[Trial]) -> None:
        """Remove trials from the recorded plans, and their files unless another plan needs them."""
        gone = {(t.key, t.digest) for t in trials}
        for path, run in list(self.runs()):
            kept = [r for r in run["trials"] if (Trial.from_record(r).key, r["trial"]) not in gone]
            if len(kept) < len(run["trials"]):
                if kept:
                    write_text(path, json.dumps({**run, "trials": kept}, indent=1, ensure_ascii=False))
                else:
                    path.unlink()
        needed = {t.digest for t in self.trials()}
        for digest in {d for _, d in gone} - needed:
            for path in (
                self._trial_path(digest),
                self._rows_path(digest),
                self._genes_path(digest),
                self._common_path(digest),
                self._fusion_path(digest),
                self._failure_path(digest),
            ):
                path.unlink(missing_ok=True)

    # --- trials ------------------------------------------------------------------------------------------------------

    def _trial_path(self, digest: str) -> Path:
        return self.path / "trials" / digest[:2] / f"{digest}.parquet"

    def _rows_path(self, digest: str) -> Path:
        return self.path / "scores" / digest[:2] / f"{digest}.parquet"

    def _genes_path(self, digest: str) -> Path:
        return self.path / "scores" / digest[:2] / f"{digest}.genes.parquet"

    def _common_path(self, digest: str) -> Path:
        return self.path / "scores" / digest[:2] / f"{digest}.common.json"

    # --- provenance and failures -------------------------------------------------------------------------------------

    def write_environment(self, digest: str, record: dict[str, Any]) -> None:
        """Keep the description of an environment that trials name by its digest."""
        path = self.path / "environments" / f"{digest}.json"
        if not path.exists():
            write_text(path, json.dumps(record, indent=1, ensure_ascii=False))

    def read_environment(self, digest: str) -> dict[str, Any] | None:
        """Return the description of an environment; None if absent or damaged."""
        return _read_json(self.path / "environments" / f"{digest}.json")

    def write_invocation(self, name: str, record: dict[str, Any]) -> Path:
        """Keep the record of one call of the program: command, environment, machine, begin, end and what came of it."""
        path = self.path / "invocations" / f"{name}.json"
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False))
        return path

    def invocations(self) -> list[dict[str, Any]]:
        """All records of calls of the program, oldest first; damaged ones are left out."""
        found = (_read_json(p) for p in sorted((self.path / "invocations").glob("*.json")))
        return sorted((r for r in found if r is not None), key=lambda r: str(r.get("started", "")))

    def _failure_path(self, digest: str) -> Path:
        return self.path / "failures" / digest[:2] / f"{digest}.json"

    def write_failure(self, digest: str, record: dict[str, Any]) -> None:
        """Keep why a trial has no result; its result, once there is one, takes the record away."""
        write_text(self._failure_path(digest), json.dumps(record, indent=1, ensure_ascii=False))

    def failures(self) -> list[dict[str, Any]]:
        """Return the records of the trials that failed and have no result yet."""
        found = (_read_json(p) for p in sorted((self.path / "failures").glob("*/*.json")))
        return [r for r in found if r is not None and not self._trial_path(str(r.get("trial"))).exists()]

    # --- what fusions learn -------------------------------------------------------------------------------------------

    def _fusion_path(self, digest: str) -> Path:
        return self.path / "fusions" / digest[:2] / f"{digest}.json"

    def write_fusion(self, digest: str, rows: list[dict[str, Any]]) -> None:
        """Store what a fusion learned of its members in a trial (:meth:`panmodal.fusion.base.Fitted.tables`)."""
        write_text(self._fusion_path(digest), json.dumps({"trial": digest, "rows": rows}))

    def read_fusion(self, digest: str) -> list[dict[str, Any]]:
        """Return what :meth:`write_fusion` stored; empty if absent or damaged."""
        try:
            return list(json.loads(self._fusion_path(digest).read_text(encoding="utf-8"))["rows"])
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def write_trial(self, digest: str, predictions: Predictions) -> None:
        """Store the predictions of a trial, atomically; the file's presence means that the trial is done."""
        import pyarrow as pa

        columns: dict[str, Any] = {"pert_id": pa.array(predictions.pert_ids, pa.string()),
                                   "covered": pa.array(predictions.covered)}  # fmt: skip
        if predictions.values is not None:
            columns["prediction"] = packed(predictions.values)
        if predictions.expected_error is not None:
            columns["expected_error"] = pa.array(predictions.expected_error.astype(np.float32))
        record = {**predictions.record, "trial": digest, "content": predictions.content}
        meta = {META: json.dumps(record, ensure_ascii=False).encode(),
                b"train_mean": np.asarray(predictions.train_mean, dtype="<f4").tobytes().hex().encode()}  # fmt: skip
        write_parquet(pa.table(columns).replace_schema_metadata(meta), self._trial_path(digest))
        if (self.path / "failures").exists():
            self._failure_path(digest).unlink(missing_ok=True)

    def read_trial(self, digest: str) -> Predictions:
        """Read the predictions of a trial.

        Raises
        ------
        StoreError
            Not there, or damaged.
        """
        table, record = read_parquet(self._trial_path(digest))
        if record.get("trial") != digest:
            raise StoreError(f"{self._trial_path(digest)}: holds trial {record.get('trial')}; the file was renamed.")
        values = unpacked(table, "prediction") if "prediction" in table.column_names else None
        mean = np.frombuffer(bytes.fromhex(table.schema.metadata[b"train_mean"].decode()), dtype="<f4")
        expected = table["expected_error"].to_numpy() if "expected_error" in table.column_names else None
        found = Predictions(table["pert_id"].to_pylist(), table["covered"].to_numpy(), values, mean, record, expected)
        if found.content != record.get("content"):
            raise StoreError(
                f"{self._trial_path(digest)}: damaged (its content has another digest than when it was written)."
            )
        return found

    def trial_record(self, digest: str) -> dict[str, Any] | None:
        """Read the record of a trial without its predictions; None if it is absent or damaged."""
        path = self._trial_path(digest)
        if not path.exists():
            return None
        try:
            record = read_parquet(path, columns=["pert_id"])[1]
        except StoreError:
            return None
        return record if record.get("trial") == digest else None

    def has_trial(self, digest: str) -> bool:
        """Whether a trial is done: its file is there and can be read (a damaged one counts as absent)."""
        return self.trial_record(digest) is not None

    # --- values per perturbation --------------------------------------------------------------------------------------

    def write_rows(self, digest: str, rows: pd.DataFrame | Mapping[str, NDArray[Any]], rules: dict[str, int]) -> None:
        """Store the metrics of each test perturbation of a trial; ``rules`` are the versions of their formulae."""
        import pyarrow as pa

        # Column by column: a table from pandas takes longer to make than to write.
        table = pa.table({n: pa.array(np.asarray(rows[n]), from_pandas=True) for n in rows if n != "trial"})
        meta = {META: json.dumps({"trial": digest, "rules": rules}).encode()}
        write_parquet(table.replace_schema_metadata(meta), self._rows_path(digest))

    def read_rows(self, digest: str) -> tuple[pd.DataFrame, dict[str, int]] | None:
        """Return the stored metrics of a trial and the versions of their formulae; None if absent or damaged."""
        found = self.read_row_columns(digest)
        return None if found is None else (pd.DataFrame(found[0]), found[1])

    def read_row_columns(self, digest: str) -> tuple[dict[str, NDArray[Any]], dict[str, int]] | None:
        """Return what :meth:`read_rows` does, column by column."""
        path = self._rows_path(digest)
        if not path.exists():
            return None
        try:
            table, record = read_parquet(path)
        except StoreError:
            return None
        columns = {n: table[n].to_numpy() for n in table.column_names}
        return {**columns, "trial": np.full(table.num_rows, digest, object)}, dict(record["rules"])

    # --- values per gene -----------------------------------------------------------------------------------------------

    def write_genes(self, digest: str, table: pd.DataFrame, about: dict[str, Any]) -> None:
        """Store the metrics of each gene of a trial, in the order of the read-outs, and what belongs to all genes together."""
        import pyarrow as pa

        meta = {META: json.dumps({"trial": digest, **about}).encode()}
        found = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(meta)
        write_parquet(found, self._genes_path(digest))

    def read_genes(self, digest: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Return the stored metrics of each gene of a trial and their record; None if absent or damaged."""
        try:
            table, record = read_parquet(self._genes_path(digest))
        except StoreError:
            return None
        return table.to_pandas(), record

    def write_common(self, digest: str, record: dict[str, Any]) -> None:
        """Remember the totals of a trial over the ids in common."""
        write_text(self._common_path(digest), json.dumps(record))

    def read_common(self, digest: str) -> dict[str, Any]:
        """Return what :meth:`write_common` stored; empty if absent or damaged."""
        try:
            return dict(json.loads(self._common_path(digest).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    # --- responses ---------------------------------------------------------------------------------------------------

    def write_responses(
        self, digest: str, ids: Sequence[str], values: NDArray[np.float32], readouts: Sequence[str]
    ) -> None:
        """Keep the true responses of a context, so that the folder can be rescored without the screen's file."""
        path = self.path / "responses" / f"{digest}.parquet"
        write_rows_of(path, ids, "response", values, {"readouts": list(readouts)})

    def read_responses(self, digest: str) -> tuple[list[str], NDArray[np.float32], list[str]]:
        """Return ids, responses (ids x read-outs) and read-outs of a context."""
        ids, values, record = read_rows_of(self.path / "responses" / f"{digest}.parquet", "response")
        return ids, values, list(record["readouts"])

    def write_vectors(self, digest: str, ids: Sequence[str], values: NDArray[Any]) -> None:
        """Keep the vectors of an embedding for the ids of a screen, so that what was compared can be looked at later."""
        write_rows_of(self.path / "embeddings" / f"{digest}.parquet", ids, "vector", values, {}, exact=True)

    def read_vectors(self, digest: str) -> tuple[list[str], NDArray[Any]]:
        """Return ids and vectors (ids x dims, in single precision if that is all they have) of an embedding, by its digest."""
        path = self.path / "embeddings" / f"{digest}.parquet"
        if not path.exists():
            raise StoreError(
                f"{self.path}: the vectors of embedding {digest} are not there; give the run again to keep them."
            )
        return read_rows_of(path, "vector")[:2]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def safe_name(text: str) -> str:
    """Make a label usable as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"

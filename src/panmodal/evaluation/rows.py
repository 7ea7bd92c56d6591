"""Values of perturbations on disk, the rows of a task together, so that one task is read at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from panmodal._files import atomic_path
from panmodal.errors import StoreError
from panmodal.evaluation.parquet import CHECK, META, read_parquet

TASK = ["screen", "context", "response", "split"]


def task_groups(trials: pd.DataFrame) -> tuple[pd.Series, list[dict[str, Any]]]:
    """Deal trials to groups of rows, one for each task; a trial of two tasks lies in the first and is found from both.

    Parameters
    ----------
    trials
        Columns :data:`TASK` and ``trial``.

    Returns
    -------
    Number of the group of each trial, and for each task ``{"task": [...], "groups": [...]}``.
    """
    keys = trials[[*TASK, "trial"]].drop_duplicates()
    number, tasks = pd.factorize(pd.MultiIndex.from_frame(keys[TASK]))
    keys = keys.assign(group=number)
    home = keys.drop_duplicates("trial").set_index("trial")["group"]
    needed = keys.assign(home=keys["trial"].map(home)).groupby("group")["home"].unique()
    return home, [{"task": list(map(str, t)), "groups": sorted(map(int, needed[k]))} for k, t in enumerate(tasks)]


def write_rows(path: Path, groups: Iterable[pd.DataFrame], tasks: Sequence[dict[str, Any]]) -> None:
    """Write rows, group after group, atomically; each group is in memory alone.

    Parameters
    ----------
    groups
        Tables of the same columns: ``trial``, ``pert_id``, ``covered`` and metrics.
    tasks
        From :func:`task_groups`: which groups a task is read from.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    record = json.dumps({"tasks": list(tasks)}).encode()
    with atomic_path(path) as partial:
        writer: Any = None
        schema: Any = None
        try:
            for frame in groups:
                table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
                if writer is None:
                    meta = {
                        **(table.schema.metadata or {}),
                        META: record,
                        CHECK: hashlib.sha256(record).hexdigest().encode(),
                    }
                    schema = table.schema.with_metadata(meta)
                    writer = pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True)
                writer.write_table(
                    table.replace_schema_metadata(schema.metadata), row_group_size=max(1, table.num_rows)
                )
        except pa.ArrowException as error:
            raise OSError(getattr(error, "errno", None) or 5, str(error)) from error
        finally:
            if writer is not None:
                writer.close()


class StoredRows:
    """``perturbations.parquet`` of a results folder, read a task at a time.

    Raises
    ------
    StoreError
        Damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path, read_dictionary=["trial", "pert_id"], page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path}: damaged ({error}). Remove it, and give panmodal rescore.")

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], list[int]] | None:
        meta = self._file.schema_arrow.metadata or {}
        raw = meta.get(META, b"{}")
        if META in meta and meta.get(CHECK) != hashlib.sha256(raw).hexdigest().encode():
            raise self._damaged(ValueError("its record has another digest than when it was written"))
        tasks = json.loads(raw).get("tasks")
        return {tuple(t["task"]): t["groups"] for t in tasks} if tasks else None

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    def whole(self) -> pd.DataFrame:
        """Return all rows and columns, in the order of the file."""
        return read_parquet(self.path)[0].to_pandas()

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that there are."""
        return [c for c in self._file.schema_arrow.names if c not in ("trial", "pert_id", "covered")]

    def of(self, task: Sequence[str], trials: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the rows of some trials of a task, ``trial`` and ``pert_id`` as categories."""
        import pyarrow as pa

        columns = ["trial", "pert_id", "covered", *(m for m in metrics if m in self.metrics)]
        groups = self._groups
        try:
            if groups is None:  # written before groups were
                table = self._file.read(columns=columns)
            else:
                table = self._file.read_row_groups(groups.get(tuple(map(str, task)), []), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        frame = table.unify_dictionaries().to_pandas()
        wanted = frame["trial"].isin(set(trials))
        return frame if wanted.all() else frame[wanted.to_numpy()]

"""The tables at the top of a results folder, gathered from its trials, and the ceilings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from panmodal._digest import digest_json
from panmodal.errors import StoreError
from panmodal.evaluation.parquet import META, read_parquet, write_parquet
from panmodal.evaluation.rows import StoredRows

if TYPE_CHECKING:
    from panmodal.evaluation.trials import Trial


class StoredTables:
    """Tables of a results folder; :class:`~panmodal.evaluation.store.Store` adds the trials."""

    path: Path

    def trials(self) -> list[Trial]:
        """All planned trials, each label once."""
        raise NotImplementedError

    def read_fusion(self, digest: str) -> list[dict[str, Any]]:
        """Return what a fusion learned in a trial."""
        raise NotImplementedError

    # --- ceilings ----------------------------------------------------------------------------------------------------

    def _ceilings_path(self, labels: Sequence[Any]) -> Path:
        return self.path / "ceilings" / f"{digest_json(list(labels))}.parquet"

    def ceiling_metrics(self, labels: Sequence[Any], key: str) -> dict[str, int]:
        """Metrics (and versions of their formulae) of the stored ceilings of a task's fold; none if they depend on something else.

        ``labels`` are its screen, context, response, split, fold and seed.
        """
        try:
            _, about = read_parquet(self._ceilings_path(labels))  # all of it: a damaged file counts as absent
        except StoreError:
            return {}
        return dict(about["metrics"]) if about.get("key") == key else {}

    def write_ceilings(self, labels: Sequence[Any], about: dict[str, Any], frame: pd.DataFrame) -> None:
        """Store the ceilings of a task's fold.

        ``about`` has ``key`` and ``metrics``, and the digests of the responses and of the split, by which ceilings of replaced
        trials are told.
        """
        import pyarrow as pa

        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_parquet(table.replace_schema_metadata({META: json.dumps(about).encode()}), self._ceilings_path(labels))

    def _write_or_remove(self, name: str, frame: pd.DataFrame) -> None:
        if len(frame):
            self.write_table(name, frame)
        else:
            (self.path / f"{name}.parquet").unlink(missing_ok=True)

    def ceilings(self) -> pd.DataFrame | None:
        """Read ``ceilings.parquet``: one row per fold, estimator and test perturbation; None if the run had no ceilings.

        Metrics of genes stand in a row of each fold whose ``pert_id`` is empty.
        """
        return self._read_or_none("ceilings")

    def resampled(self) -> pd.DataFrame | None:
        """Read ``resampled.parquet``: bootstrap samples of metrics of genes, of trials and ceilings; None if there are none."""
        return self._read_or_none("resampled")

    def _read_or_none(self, name: str) -> pd.DataFrame | None:
        path = self.path / f"{name}.parquet"
        return read_parquet(path)[0].to_pandas() if path.exists() else None

    def evidence(self) -> dict[str, Any]:
        """Return what the leaderboard takes beside the scores: ``rows`` (read a task at a time), ``ceilings`` and ``resampled``."""
        return {"rows": self.rows(), "ceilings": self.ceilings(), "resampled": self.resampled()}

    def write_quality(self, screen: str, frame: pd.DataFrame) -> None:
        """Put the facts of a screen's perturbations into ``quality.parquet``, in place of older ones of its contexts."""
        path = self.path / "quality.parquet"
        others = read_parquet(path)[0].to_pandas() if path.exists() else frame.assign(screen=screen).iloc[:0]
        others = others[(others["screen"] != screen) | ~others["context"].isin(frame["context"])]
        self.write_table(
            "quality", pd.concat([o for o in (others, frame.assign(screen=screen)) if len(o)], ignore_index=True)
        )

    def compile_fusions(self, trials: pd.DataFrame) -> None:
        """Gather what fusions learned into ``fusions.parquet``, with the labels of their trials; remove it if there is nothing."""
        labels = ["screen", "context", "response", "split", "fold", "embedding", "probe", "seed", "trial"]
        own = trials.loc[trials["modality"] == "fusion", labels].to_dict("records")
        rows = [{**trial, **row, "context": trial["context"], "of_context": row["context"]}
                for trial in own for row in self.read_fusion(str(trial["trial"]))]  # fmt: skip
        self._write_or_remove("fusions", pd.DataFrame(rows))

    def fusions(self) -> pd.DataFrame | None:
        """Read ``fusions.parquet``: one row per trial of a fusion and number that it learned; None if there are none."""
        return self._read_or_none("fusions")

    # --- tables ------------------------------------------------------------------------------------------------------

    def quality(self) -> pd.DataFrame | None:
        """Return facts of each perturbation that come with ceilings (``quality.parquet``), if there are any."""
        return self._read_or_none("quality")

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write ``name.parquet`` at the top of the folder."""
        import pyarrow as pa

        target = self.path / f"{name}.parquet"
        write_parquet(pa.Table.from_pandas(frame, preserve_index=False), target)
        return target

    def scores(self) -> pd.DataFrame:
        """Read ``scores.parquet``."""
        path = self.path / "scores.parquet"
        if not path.exists():
            raise StoreError(
                f"{self.path}: no scores yet (no scores.parquet). Finish the run, or use panmodal rescore."
            )
        return read_parquet(path)[0].to_pandas()

    def rows(self) -> StoredRows:
        """Return ``perturbations.parquet`` as rows that are read a task at a time."""
        path = self.path / "perturbations.parquet"
        if not path.exists():
            raise StoreError(f"{self.path}: no perturbations.parquet. Finish the run, or use panmodal rescore.")
        return StoredRows(path)

    def perturbations(self) -> pd.DataFrame:
        """Read ``perturbations.parquet``: one row per trial and test perturbation, one column per metric."""
        return self.rows().whole()

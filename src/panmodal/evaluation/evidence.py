"""The evidence in a results folder, for the functions of insight."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd

from panmodal.errors import PanmodalError, StoreError
from panmodal.evaluation.parquet import META, read_parquet, write_parquet
from panmodal.evaluation.store import Store
from panmodal.insight.evidence import Evidence, Predicted, Task, Truth, Vectors

MOST_ROWS = 20_000_000
"""Values of perturbations up to which metrics are calibrated whenever a leaderboard is shown."""


def read_marks(path: str | Path) -> pd.DataFrame | None:
    """Return which metrics can be trusted on which task (:func:`panmodal.insight.calibration.marks`).

    Computed once for a state of the results folder and kept in ``marks.parquet``. None where it cannot be told: no predictions or
    controls, or more than :data:`MOST_ROWS` values of perturbations.
    """
    from panmodal.insight.calibration import marks

    store = Store(path)
    with (store.path / "scores.parquet").open("rb") as stream:
        state = hashlib.file_digest(stream, "sha256").hexdigest()
    kept = store.path / "marks.parquet"
    if kept.exists():
        try:
            table, record = read_parquet(kept)
            if record.get("scores") == state:
                return table.to_pandas()
        except StoreError:
            pass  # damaged: computed again
    if store.rows().size > MOST_ROWS:
        return None
    try:
        found = marks(read_evidence(path))
    except PanmodalError:
        return None
    import pyarrow as pa

    table = pa.Table.from_pandas(found, preserve_index=False)
    about = json.dumps({"scores": state}).encode()
    write_parquet(table.replace_schema_metadata({**(table.schema.metadata or {}), META: about}), kept)
    return found


def read_evidence(path: str | Path) -> Evidence:
    """Return the tables of a results folder, and readers of its arrays.

    Raises
    ------
    StoreError
        No results folder, or no scores in it.
    """
    store = Store(path)
    runs = [record for _, record in store.runs()]
    responses: dict[Task, str] = {}
    for trial in store.trials():
        responses[trial.screen, trial.context, trial.response, trial.split] = trial.depends["responses"]
    vectors = {
        (entry["card"]["name"], run["screen"]["name"]): entry
        for run in runs
        for entry in run.get("embeddings", ())
        if "screen" in run
    }

    def truth(task: Task) -> Truth:
        if task not in responses:
            raise StoreError(f"{path}: no trial of task {' · '.join(task)}.")
        ids, values, readouts = store.read_responses(responses[task])
        return Truth(tuple(ids), values, tuple(readouts))

    def predictions(trial: str) -> Predicted:
        found = store.read_trial(trial)
        if found.values is None:
            raise StoreError(f"{path}: the predictions of trial {trial} were not kept (keep_predictions).")
        return Predicted(tuple(found.pert_ids), found.covered, found.values, found.train_mean)

    def embedding(name: str, screen: str) -> Vectors:
        entry = vectors.get((name, screen))
        if entry is None:
            raise StoreError(f"{path}: no run of embedding {name!r} on screen {screen!r}.")
        ids, values = store.read_vectors(entry["digest"])
        return Vectors(tuple(ids), values, entry["card"])

    return Evidence(
        store.scores(), store.rows(), store.ceilings(), store.resampled(), store.quality(), runs, truth, predictions,
        embedding, store.fusions(),
    )  # fmt: skip

"""The evidence in a results folder, for the functions of insight."""

from __future__ import annotations

from pathlib import Path

from panmodal.errors import StoreError
from panmodal.evaluation.store import Store
from panmodal.insight.evidence import Evidence, Predicted, Task, Truth, Vectors


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
        embedding,
    )  # fmt: skip

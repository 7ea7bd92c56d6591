"""Handing out what is in a results folder: scores, values of perturbations, predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal._files import atomic_path
from panmodal._tables import suffix
from panmodal.errors import InputError, StoreError, some
from panmodal.evaluation.compare import has_classes
from panmodal.evaluation.scores import LABELS
from panmodal.evaluation.store import Store
from panmodal.evaluation.trials import Predictions, Trial

FILTERS = ("screen", "context", "response", "split", "embedding", "probe", "fallback", "metric", "fold", "seed")
"""Columns that rows can be chosen by."""
WHATS = ("scores", "perturbations", "predictions")
Filters = Mapping[str, Sequence[Any] | None]
"""Column -> values that are wanted; a column that is absent or None takes all."""


def export_scores(
    path: str | Path, out: str | Path, *, wide: bool = False, where: Filters | None = None
) -> pd.DataFrame:
    """Write scores as csv or Parquet.

    Parameters
    ----------
    path
        Results folder.
    out
        ``.csv`` or ``.parquet``.
    wide
        One column for each metric instead of one row.
    where
        Which rows, by :data:`FILTERS`.

    Returns
    -------
    pandas.DataFrame
        What was written.

    Raises
    ------
    InputError
        A filter that nothing meets, or another kind of file.
    """
    _check_table(out)
    table = choose(Store(path).scores(), where)
    if wide:
        own = [c for c in table.columns if c not in ("metric", "value", "n_scored", "n_undefined")]
        order = list(dict.fromkeys(table["metric"]))
        places = table[own].astype(object).where(table[own].notna(), None)
        key = pd.MultiIndex.from_frame(places).factorize()[0]
        spread = table.assign(_row=key).pivot(index="_row", columns="metric", values="value")[order]
        table = pd.concat([table[own].iloc[np.unique(key, return_index=True)[1]].reset_index(drop=True),
                           spread.reset_index(drop=True)], axis=1)  # fmt: skip
    _write_table(table, Path(out))
    return table


def export_perturbations(path: str | Path, out: str | Path, *, wide: bool = False, where: Filters | None = None) -> int:
    """Write the values of perturbations with the labels of their trials as csv or Parquet, a task at a time.

    Parameters
    ----------
    path, out, where
        As for :func:`export_scores`; ``fallback`` does not apply.
    wide
        One column for each metric; otherwise one row (``metric``, ``value``), without those that a trial does not have.

    Returns
    -------
    Number of rows written.

    Raises
    ------
    InputError
        As for :func:`export_scores`.
    """
    from panmodal.evaluation.compaction import TableWriter

    out = Path(out)
    _check_table(out)
    store = Store(path)
    scores = choose(store.scores(), {k: v for k, v in (where or {}).items() if k != "fallback"})
    labels = scores[[*LABELS, "role", "modality", "trial"]].drop_duplicates()
    rows = store.rows()
    metrics = [m for m in rows.metrics if m in set(scores["metric"])]
    if not metrics:
        raise InputError(
            f"{path}: the metrics chosen ({some(set(scores['metric']))}) have no values of perturbations, only of genes."
        )
    written = 0
    with atomic_path(out) as partial:
        writer = TableWriter(partial)
        with partial.open("w", encoding="utf-8", newline="") as text:
            for task, own in labels.groupby(["screen", "context", "response", "split"], sort=False):
                found = rows.of(list(map(str, task)), own["trial"].tolist(), metrics)
                found = found.astype({"trial": object, "pert_id": object})
                table = own.merge(found, on="trial")[
                    [*LABELS, "role", "modality", "pert_id", "covered", *metrics, "trial"]
                ]
                if not wide:
                    there = scores[["trial", "metric"]].drop_duplicates()
                    table = table.melt([c for c in table.columns if c not in metrics], var_name="metric").merge(
                        there, on=["trial", "metric"]
                    )
                if out.suffix == ".csv":
                    table.to_csv(text, index=False, header=not written)
                else:
                    writer.append(table)
                written += len(table)
        writer.close()
    return written


def export_predictions(path: str | Path, out: str | Path, *, where: Filters | None = None) -> tuple[int, int]:
    """Write the predictions of the chosen trials as AnnData: one row for each trial and test perturbation.

    ``X`` holds the predicted responses and ``layers['truth']`` the measured ones; of DEG labels ``X`` is the expected label, the
    probability of +1 less that of -1, which are ``layers['up']`` and ``layers['down']``. ``obs`` has the labels of the trial,
    ``pert_id`` and ``covered``, ``var`` the read-outs, ``uns['panmodal']`` (JSON) where it is from.

    Parameters
    ----------
    path
        Results folder.
    out
        ``.h5ad``.
    where
        Which trials; ``fallback`` and ``metric`` do not apply.

    Returns
    -------
    Rows and read-outs.

    Raises
    ------
    InputError
        No trial is chosen, or trials with different read-outs or kinds of response; another kind of file.
    StoreError
        Predictions were not kept, or are damaged.
    """
    import anndata

    out = Path(out)
    if suffix(out) != ".h5ad":
        raise InputError(f"{out}: predictions are written as .h5ad.")
    store = Store(path)
    own = [t for t in store.trials() if store.has_trial(t.digest)]
    if not own:
        raise InputError(f"{path}: no finished trial.")
    columns = [c for c in FILTERS if c not in ("fallback", "metric")]
    table = pd.DataFrame([{c: getattr(t, c) for c in columns} for t in own]).assign(_k=range(len(own)))
    chosen = [own[k] for k in choose(table, {k: v for k, v in (where or {}).items() if k in columns})["_k"]]
    kinds = {has_classes(t.response) for t in chosen}
    truths = {d: store.read_responses(d) for d in {t.depends["responses"] for t in chosen}}
    if len(kinds) > 1 or len({tuple(readouts) for _, _, readouts in truths.values()}) > 1:
        tasks = sorted({f"{t.screen} · {t.context} · {t.response}" for t in chosen})
        raise InputError(
            f"{path}: the trials chosen have other read-outs or kinds of response ({some(tasks)}); choose with --screen, "
            "--context or --response."
        )
    layers: dict[str, list[np.ndarray]] = {}
    obs = []
    for trial in chosen:
        found = store.read_trial(trial.digest)
        if found.values is None:
            raise StoreError(f"{path}: the predictions of trial {trial.digest} were not kept (keep_predictions).")
        for name, values in _arrays(trial, found, truths[trial.depends["responses"]]).items():
            layers.setdefault(name, []).append(values)
        labels = {c: getattr(trial, c) for c in (*LABELS, "role", "modality")}
        obs.append(pd.DataFrame({**labels, "trial": trial.digest, "pert_id": found.pert_ids, "covered": found.covered}))
    table = pd.concat(obs, ignore_index=True)
    table.index = pd.Index([f"{t[:8]}-{i}" for t, i in zip(table["trial"], table["pert_id"], strict=True)])
    if not table.index.is_unique:  # the same content under two names
        table.index = pd.Index([f"{k}-{i}" for k, i in enumerate(table.index)])
    data = anndata.AnnData(np.vstack(layers.pop("X")), obs=table,
                           var=pd.DataFrame(index=pd.Index(next(iter(truths.values()))[2])),
                           layers={name: np.vstack(parts) for name, parts in layers.items()})  # fmt: skip
    data.uns["panmodal"] = json.dumps({"made_by": "panmodal store export", "results": store.path.name})
    with atomic_path(out) as partial:
        data.write_h5ad(partial, compression="gzip")
    return data.shape


def _arrays(trial: Trial, found: Predictions, truth: tuple[list[str], np.ndarray, list[str]]) -> dict[str, np.ndarray]:
    assert found.values is not None
    ids, values, readouts = truth
    where = {i: k for k, i in enumerate(ids)}
    known = values[[where[i] for i in found.pert_ids]]
    if not has_classes(trial.response):
        return {"X": found.values, "truth": known}
    down, up = found.values[:, : len(readouts)], found.values[:, len(readouts) :]
    return {"X": up - down, "truth": known, "down": down, "up": up}


def choose(table: pd.DataFrame, where: Filters | None) -> pd.DataFrame:
    """Return the rows that meet all filters.

    Raises
    ------
    InputError
        No such column, or a filter that nothing meets.
    """
    chosen = table
    for column, wanted in (where or {}).items():
        if not wanted:
            continue
        if column not in FILTERS or column not in table:
            raise InputError(f"cannot choose by {column!r}; by {', '.join(c for c in FILTERS if c in table)}.")
        text = {str(w) for w in wanted}
        own = chosen[column].astype(str)
        missing = sorted(text - set(table[column].astype(str)))
        if missing:
            raise InputError(
                f"no {column} {some(missing)}; there are {some(sorted(set(table[column].astype(str))), 12)}."
            )
        chosen = chosen[own.isin(text).to_numpy()]
        if chosen.empty:
            raise InputError(
                f"nothing is left after choosing {column} {some(sorted(text))}; no row meets all that was asked for."
            )
    return chosen.reset_index(drop=True)


def _check_table(out: str | Path) -> None:
    if Path(out).suffix not in (".csv", ".parquet"):
        raise InputError(f"{out}: tables are written as .csv or .parquet.")


def _write_table(table: pd.DataFrame, out: Path) -> None:
    with atomic_path(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)

"""Imported scores in a results folder: beside what was run there, and kept when that is compiled again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panmodal._digest import digest_json
from panmodal._files import atomic_path, write_text
from panmodal._tables import suffix
from panmodal.errors import InputError, some
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.parquet import read_parquet, write_parquet
from panmodal.evaluation.scores import COLUMNS
from panmodal.evaluation.store import MANIFEST, Store

UNSTATED = "not stated"
"""Modality of methods whose table does not tell it."""
PREFIX = "imported-"
"""Begins the ``trial`` of imported rows: there are no predictions behind them."""
FOLDER = "imported"
"""Folder of imported tables in a results folder."""
TASK = ["screen", "context", "response", "split"]
LABELS = [*TASK, "fold", "embedding", "probe", "seed", "fallback", "metric"]
"""What tells the rows of a score table apart."""


@dataclass(frozen=True)
class Imported:
    """Imported scores and ceilings in the columns of ``scores.parquet`` and ``ceilings.parquet``, and what was done to them.

    ``n_test``, ``n_covered``, ``n_scored``, ``n_undefined`` and the ceilings' ``n_draws`` are null where they are not known.
    """

    scores: pd.DataFrame
    ceilings: pd.DataFrame | None
    notes: tuple[str, ...]


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of a score table that are not there, as unknown, and the identity of each imported trial."""
    unknown: dict[str, Any] = {
        "split": "not stated", "seed": 0, "fallback": "filled", "modality": UNSTATED, "simulated": False, "seen": "unknown",
        "hyperparameters": "{}", "n_test": np.nan, "n_covered": np.nan, "n_scored": np.nan, "n_undefined": np.nan,
    }  # fmt: skip
    rows = rows.assign(**{c: v for c, v in unknown.items() if c not in rows})
    rows = rows.fillna({c: v for c, v in unknown.items() if isinstance(v, str)})
    rows = rows.astype({"fold": np.int64, "seed": np.int64, "simulated": bool})
    key = [*TASK, "fold", "embedding", "probe", "seed"]
    labels = rows[key].drop_duplicates()
    digests = [PREFIX + digest_json([str(v) for v in row]) for row in labels.itertuples(index=False)]
    rows = rows.drop(columns="trial", errors="ignore").merge(labels.assign(trial=digests), on=key)
    order = {m: k for k, m in enumerate(METRICS)}
    rows = rows.assign(_order=rows["metric"].map(order)).sort_values([*key, "fallback", "_order"], kind="stable")
    return rows[COLUMNS].reset_index(drop=True)


def write_imported(imported: Imported, out: str | Path, name: str = "imported") -> list[Path]:
    """Write imported scores as a table (``.csv``, ``.parquet``) or into a results folder, a new one or one with results.

    Parameters
    ----------
    imported
        What was read.
    out
        The table (ceilings stand beside it in ``STEM.ceilings.SUFFIX``) or the folder.
    name
        Name of what is imported within a folder; the same name again replaces it.

    Raises
    ------
    InputError
        The folder has results of a screen of the same name that were not imported under ``name``.
    StoreError
        The folder is not a results folder.
    """
    out = Path(out)
    if suffix(out) in (".csv", ".parquet"):
        return _write_tables(imported, out)
    if suffix(out) and not out.is_dir():
        raise InputError(f"{out}: imported scores are written as .csv or .parquet, or into a results folder.")
    others: set[str] = set()
    if (out / "scores.parquet").exists() and (out / MANIFEST).exists():
        store = Store(out)
        scores = store.scores()
        others = set(scores.loc[~_is_imported(scores), "screen"])
    for path in sorted((out / FOLDER).glob("*.scores.parquet")):
        if path.name != f"{name}.scores.parquet":
            others |= set(read_parquet(path)[0].to_pandas()["screen"])
    clash = sorted(others & set(imported.scores["screen"]))
    if clash:
        raise InputError(
            f"{out}: has results of screen {some(clash)} already. Import with another mark (--mark), or into another folder."
        )
    store = Store(out, create=True)
    import pyarrow as pa

    written = []
    for what, frame in (("scores", imported.scores), ("ceilings", imported.ceilings)):
        target = store.path / FOLDER / f"{name}.{what}.parquet"
        if frame is None:
            target.unlink(missing_ok=True)
        else:
            write_parquet(pa.Table.from_pandas(frame, preserve_index=False), target)
            written.append(target)
    keep_imported(store)
    return written


def keep_imported(store: Store) -> None:
    """Put the imported tables of a folder into its ``scores.parquet`` and ``ceilings.parquet``, in place of what they held of them.

    To be called whenever these are compiled from trials. Without imported tables it does nothing.
    """
    if not (store.path / FOLDER).is_dir():
        return
    tables = {what: [read_parquet(p)[0].to_pandas() for p in sorted((store.path / FOLDER).glob(f"*.{what}.parquet"))]
              for what in ("scores", "ceilings")}  # fmt: skip
    if (store.path / "scores.parquet").exists():
        own = store.scores()
        tables["scores"].insert(0, own[~_is_imported(own)])
    limits = store.ceilings()
    if limits is not None:
        tables["ceilings"].insert(0, limits[limits["n_draws"].notna()])  # imported ones do not know theirs
    if not (store.path / "perturbations.parquet").exists():
        nothing = pd.DataFrame(
            {"trial": pd.Series(dtype=str), "pert_id": pd.Series(dtype=str), "covered": pd.Series(dtype=bool)}
        )
        store.write_table("perturbations", nothing)
    for what, parts in tables.items():
        parts = [p for p in parts if len(p)]
        if parts:
            store.write_table(what, _stack(parts))


def _stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables below each other; numbers that one does not know are null."""
    columns = list(dict.fromkeys(c for p in parts for c in p))
    return pd.DataFrame({c: np.concatenate([_column(p, c) for p in parts]) for c in columns})


def _column(part: pd.DataFrame, name: str) -> Any:
    return part[name].to_numpy() if name in part else np.full(len(part), np.nan)


def _is_imported(scores: pd.DataFrame) -> pd.Series:
    return scores["trial"].astype(str).str.startswith(PREFIX)


def _write_tables(imported: Imported, out: Path) -> list[Path]:
    written = []
    for what, frame in (("scores", imported.scores), ("ceilings", imported.ceilings)):
        target = out if what == "scores" else out.with_name(f"{out.stem}.ceilings{out.suffix}")
        if frame is None:
            continue
        if out.suffix == ".csv":
            write_text(target, frame.to_csv(index=False))
        else:
            with atomic_path(target) as partial:
                frame.to_parquet(partial, index=False)
        written.append(target)
    return written

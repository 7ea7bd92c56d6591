"""The tables of merged sources, read a task at a time: scores, values of perturbations, ceilings, bootstrap samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from panmodal.errors import InputError
from panmodal.evaluation.metrics import METRICS
from panmodal.evaluation.scores import LABELS as SCORE_LABELS
from panmodal.evaluation.scores import tidy_scores
from panmodal.insight.evidence import Task
from panmodal.insight.gaps import TASK
from panmodal.site.merge import KEY, Merged, Place, differs, told
from panmodal.site.sources import TEXTS, Source, is_imported

RELATIVE, ABSOLUTE = 1e-5, 1e-7
"""Within these two computations of a score are the same: predictions are kept in single precision."""


class Pool:
    """Tables of merged sources. It is also :class:`~panmodal.insight.rows.Rows`; the rows of the last task read are kept."""

    def __init__(self, merged: Merged) -> None:
        self.merged = merged
        self._kept: tuple[Any, pd.DataFrame] | None = None
        self._scores: tuple[Task, pd.DataFrame] | None = None

    # --- scores ------------------------------------------------------------------------------------------------------

    def scores(self, task: Task) -> pd.DataFrame:
        """Return the scores of a task, each trial once, under the names of the site; column ``source`` tells whose.

        Where embeddings of several sources meet, ``common`` is computed again over the ids that all of them cover; it is left out
        where that cannot be (metrics of genes, and sources without values of perturbations).

        Raises
        ------
        InputError
            Sources that contradict each other.
        """
        if self._scores and self._scores[0] == task:
            return self._scores[1]
        table: pd.DataFrame | None = None
        met = False
        for place in self.merged.places[task]:
            own = self._read(task, place)
            if table is None:
                table = own
                continue
            fresh = own[~self._known(task, table, own)]
            met = met or bool((fresh["role"] == "embedding").any())
            table = pd.concat([table, fresh], ignore_index=True)
        assert table is not None
        if met:
            table = self._common_again(task, table)
        self._scores = (task, table)
        return table

    def _read(self, task: Task, place: Place) -> pd.DataFrame:
        source = self.merged.sources[place.source]
        own = source.scores.iloc[place.rows]
        names = {str(e): self.merged.names[place.source, str(e)] for e in own["embedding"].unique()}
        own = own.assign(**{c: own[c].astype(object) for c in TEXTS}, source=place.source)
        return own.assign(**dict(zip(TASK, task, strict=True)), embedding=own["embedding"].map(names)).reset_index(
            drop=True
        )

    def _known(self, task: Task, table: pd.DataFrame, own: pd.DataFrame) -> Any:
        """Tell which rows are of trials that are there already; refuse the same trial with other scores."""
        before = table.drop_duplicates([*KEY])[[*KEY, "trial", "source"]]
        both = own.drop_duplicates(KEY)[[*KEY, "trial", "role", "source"]].merge(
            before, on=KEY, suffixes=("", "_before")
        )
        for row in both[(both["trial"] != both["trial_before"]) & (both["role"] != "baseline")].itertuples():
            one, other = (self.merged.sources[int(s)] for s in (row.source_before, row.source))
            what = differs(one.identities.get(row.trial_before), other.identities.get(row.trial))
            raise InputError(
                f"{told(task)}: {row.embedding} with {row.probe} of source {other.name!r} was computed otherwise than in "
                f"source {one.name!r} (fold {row.fold}, seed {row.seed}: other {what}). One label must mean one "
                "computation: run both with the same probes and version, or rename the embedding."
            )
        cells = ["fallback", "metric"]
        kept = [*KEY, *cells, "value", "n_test", "n_covered", "source", "trial"]
        mine, theirs = own.loc[own["fallback"] != "common", kept], table.loc[table["fallback"] != "common", kept]
        pairs = pd.concat(
            [
                mine.merge(theirs.drop_duplicates(["trial", *cells]), on=["trial", *cells], suffixes=("", "_before")),
                mine.merge(
                    theirs, on=[*KEY, *cells], suffixes=("", "_before")
                ),  # baselines standardised otherwise are the same
            ],
            ignore_index=True,
        )
        close = np.isclose(pairs["value"], pairs["value_before"], rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
        for count in ("n_test", "n_covered"):
            close &= (pairs[count] == pairs[f"{count}_before"]) | pairs[count].isna() | pairs[f"{count}_before"].isna()
        if not close.all():
            row = next(pairs[~close].itertuples())
            one, other = (self.merged.sources[int(s)] for s in (row.source_before, row.source))
            labels = own[own["trial"] == row.trial].iloc[0]
            raise InputError(
                f"{told(task)}: sources {one.name!r} and {other.name!r} contradict each other about one trial "
                f"({labels['embedding']}, {labels['probe']}, fold {labels['fold']}, digest {row.trial}): "
                f"{row.metric} ({row.fallback}) is {row.value_before:.6g} in the one and "
                f"{row.value:.6g} in the other. One of them is damaged or was changed; panmodal rescore both."
            )
        keys, trials = set(before[KEY].itertuples(index=False, name=None)), set(table["trial"])
        # A baseline of another seed stays: the folds of that seed need their floor.
        again = own["trial"].isin(trials) & (own["role"] != "baseline")
        return pd.Series([k in keys for k in own[KEY].itertuples(index=False, name=None)], index=own.index) | again

    def _common_again(self, task: Task, table: pd.DataFrame) -> pd.DataFrame:
        kept = table[table["fallback"] != "common"]
        metrics = [m for m in METRICS if METRICS[m].axis != "gene" and m in set(table["metric"])]
        trials = table.drop_duplicates("trial")
        missing = set(map(str, trials["trial"])) - self._with_rows(task)
        if missing or not metrics:
            self._say(
                f"{told(task)}: no scores over the perturbations that all embeddings cover, as not all values of perturbations "
                "are there."
            )
            return kept
        if len(metrics) < table["metric"].nunique():
            self._say(
                f"{told(task)}: metrics of genes have no scores over the perturbations that all embeddings cover; for sources put "
                "together they are not known."
            )
        rows = self.of(task, trials["trial"].tolist(), metrics).astype({"trial": object, "pert_id": object})
        labels = [*SCORE_LABELS, "trial", "role", "modality", "simulated", "seen"]
        made = tidy_scores(rows, table[labels].drop_duplicates([*KEY]).assign(hyperparameters=""))
        made = made[made["fallback"] == "common"].merge(table[[*KEY, "source"]].drop_duplicates(KEY), on=KEY)
        return pd.concat([kept, made[[c for c in kept.columns if c in made]]], ignore_index=True)

    def _with_rows(self, task: Task) -> set[str]:
        found: set[str] = set()
        for place in self.merged.places[task]:
            source = self.merged.sources[place.source]
            if source.rows is not None:
                found |= set(map(str, source.scores["trial"].iloc[place.rows].unique()))
        return {t for t in found if not is_imported(t)}

    def _say(self, note: str) -> None:
        if note not in self.merged.notes:
            self.merged.notes.append(note)

    # --- values of perturbations -----------------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that there are values of perturbations of."""
        there = {m for s in self.merged.sources if s.rows is not None for m in s.rows.metrics}
        return [m for m in METRICS if m in there]

    def of(self, task: Sequence[str], trials: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the rows of some trials of a task, those of a trial from the first source that has it."""
        key = (tuple(task), tuple(sorted(set(trials))), tuple(metrics))
        if self._kept and self._kept[0] == key:
            return self._kept[1]
        parts: list[pd.DataFrame] = []
        wanted = set(map(str, trials))
        for place in self.merged.places[tuple(task)]:  # type: ignore[index]
            source = self.merged.sources[place.source]
            if source.rows is None or not wanted:
                continue
            own = wanted & set(map(str, source.scores["trial"].iloc[place.rows].unique()))
            if own:
                part = source.rows.of(place.labels, sorted(own), [m for m in metrics if m in source.rows.metrics])
                parts.append(part if not parts and own == wanted else part.astype({"trial": object, "pert_id": object}))
                wanted -= own
        found = (
            pd.concat(parts, ignore_index=True)
            if parts
            else pd.DataFrame({"trial": [], "pert_id": [], "covered": []}, dtype=object)
        )
        self._kept = (key, found)
        return found

    def whole(self) -> pd.DataFrame:
        """Return all rows; not for large sites."""
        parts = [self.of(t, self.scores(t)["trial"].unique().tolist(), self.metrics) for t in self.merged.places]
        return pd.concat(parts, ignore_index=True)

    # --- ceilings and samples ----------------------------------------------------------------------------------------------

    def ceilings(self, task: Task) -> pd.DataFrame | None:
        """Return the ceilings of a task, those of an estimator from the first source that has it."""
        parts: list[pd.DataFrame] = []
        for place in self.merged.places[task]:
            own = _of(place, self.merged.sources[place.source].ceilings)
            there = {e for p in parts for e in p["estimator"]}
            if own is not None:
                parts.append(
                    own[~own["estimator"].isin(there)].assign(**dict(zip(TASK, task, strict=True)), source=place.source)
                )
        parts = [p for p in parts if len(p)]
        return pd.concat(parts, ignore_index=True) if parts else None

    def resampled(self, task: Task) -> pd.DataFrame | None:
        """Return bootstrap samples of metrics of genes: those of trials, and those of the ceilings that are used."""
        ceilings = self.ceilings(task)
        source_of = {} if ceilings is None else dict(zip(ceilings["estimator"], ceilings["source"], strict=True))
        parts: list[pd.DataFrame] = []
        for place in self.merged.places[task]:
            own = _of(place, self.merged.sources[place.source].resampled)
            if own is None:
                continue
            own = own.assign(**dict(zip(TASK, task, strict=True)))
            there = {t for p in parts for t in p["trial"]} - {""}
            limits = (own["trial"] == "") & (own["estimator"].map(source_of) == place.source)
            parts.append(own[(own["trial"] != "") & ~own["trial"].isin(there) | limits])
        parts = [p for p in parts if len(p)]
        return pd.concat(parts, ignore_index=True) if parts else None

    def marks(self, task: Task, made: dict[int, pd.DataFrame | None]) -> pd.DataFrame | None:
        """Return the verdicts on the metrics of a task, the worst where sources differ; ``made`` keeps those of each source."""
        order = {"fail": 0, "weak": 1, "pass": 2, "unknown": 3}
        parts = []
        for place in self.merged.places[task]:
            if place.source not in made:
                made[place.source] = self.merged.sources[place.source].marks()
            own = _of(place, made[place.source])
            if own is not None:
                parts.append(own.assign(**dict(zip(TASK, task, strict=True))))
        if not parts:
            return None
        found = pd.concat(parts, ignore_index=True)
        found = found.assign(_at=found["verdict"].map(order)).sort_values("_at", kind="stable")
        return found.drop_duplicates([*TASK, "metric"]).drop(columns="_at")


def _of(place: Place, table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Rows of a task in a table of its source."""
    if table is None or table.empty or not set(TASK) <= set(table.columns):
        return None
    own = table[(table[TASK].astype(str) == list(place.labels)).all(axis=1)]
    return own if len(own) else None


def source_names(sources: Sequence[Source], numbers: Any) -> str:
    """Name sources by their numbers."""
    return ", ".join(sources[int(n)].name for n in sorted(set(numbers)))

"""Which test perturbations have a relative among the training ones, and what is left of the scores without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from panmodal.insight.checks.case import Case, Group, named, percent
from panmodal.insight.checks.record import Finding, Unchecked
from panmodal.insight.gaps import METHOD
from panmodal.perturbation_ids import parts

NO_ROWS = "the values of perturbations are not kept, so that it is not known which ids were tested in which fold"


def every_group(case: Case) -> Iterator[tuple[Group, pd.DataFrame | Unchecked]]:
    """Yield groups of tasks with their folds, or with why they cannot be looked at."""
    for group in case.groups:
        folds = case.group_folds(group)
        yield group, Unchecked(case.at_group(group), NO_ROWS) if folds.empty else folds


def relate_ids(ids: Sequence[str], pairs: pd.DataFrame) -> pd.DataFrame:
    """Turn related parts (``a, b`` and perhaps a column of strength) into related ids: ``one, other, a, b, ...``.

    Ids are related if a part of one is related to a part of the other, both ways round; a part that both share does not
    relate them. The strongest relation of a pair comes first.
    """
    of = pd.DataFrame([(i, p) for i in ids for p in parts(i)], columns=["id", "part"])
    strength = [c for c in pairs.columns if c not in ("a", "b")]
    both = pd.concat([pairs, pairs.rename(columns={"a": "b", "b": "a"})])[["a", "b", *strength]]
    if strength:
        both = both.sort_values(strength[0], ascending=False, kind="stable")
    both = both.drop_duplicates(["a", "b"])
    found = both.merge(of.rename(columns={"id": "one", "part": "a"}), on="a").merge(
        of.rename(columns={"id": "other", "part": "b"}), on="b"
    )
    return found[found["one"] != found["other"]].reset_index(drop=True)


def across_folds(folds: pd.DataFrame, related: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of which ``one`` is tested in a fold in which ``other`` is trained on: ``seed, pert_id, relative, ...``."""
    tested = folds.drop_duplicates(["seed", "pert_id"])
    found = tested.merge(related.rename(columns={"one": "pert_id", "other": "relative"}), on="pert_id").merge(
        tested.rename(columns={"pert_id": "relative", "fold": "other_fold"}), on=["seed", "relative"]
    )
    return found[found["fold"] != found["other_fold"]].drop(columns="other_fold").reset_index(drop=True)


def report_leak(
    case: Case, group: Group, folds: pd.DataFrame, leaks: pd.DataFrame, what: str, severity: str, strength: str = ""
) -> Finding | None:
    """Say how many test ids have a relative in training, and how every method does on the clean remainder.

    Parameters
    ----------
    leaks
        From :func:`across_folds`.
    what
        "have a homolog of ... in training".
    severity
        Severity; lowered to ``info`` where less than ``min_leaky`` of the ids are concerned and no verdict changes.
    strength
        Column that tells the closest relatives, named as examples.

    Returns
    -------
    Finding or None
        None where nothing leaks. ``numbers`` are the scores of every method and context with and without the leaky ids.
    """
    if leaks.empty:
        return None
    leaky = leaks[["seed", "pert_id"]].drop_duplicates()
    n = len(folds[["seed", "pert_id"]].drop_duplicates())
    closest = leaks.sort_values(strength, ascending=False, kind="stable") if strength else leaks
    pair = closest.iloc[0]
    shown = f" ({pair[strength]:.2f})" if strength else ""
    tests = "test perturbations" if folds["seed"].nunique() == 1 else "tests (perturbations and seeds)"
    text = f"{len(leaky)} of {n} {tests} ({percent(len(leaky), n)}) {what}, e.g. {pair['pert_id']} and "
    text += f"{pair['relative']}{shown}."
    tables, sentences, changed = [], [], False
    for task in case.groups[group]:
        table = case.remainder(task, leaky)
        if table is not None:
            tables.append(table)
            sentence, change = _verdict(case, task[1], table, case.sign(str(table["metric"].iloc[0])))
            sentences.append(sentence)
            changed |= change
    text = " ".join([text, *dict.fromkeys(s for s in sentences if s)])
    if not changed and len(leaky) < case.option("min_leaky") * n:
        severity = "info"
    return Finding(case.at_group(group), text, pd.concat(tables, ignore_index=True) if tables else leaks, severity)


def _verdict(case: Case, context: str, table: pd.DataFrame, sign: float) -> tuple[str, bool]:
    """Say who leads on the clean remainder of a context and whether the floor is still beaten; and whether either changes."""
    metric, n = table["metric"].iloc[0], int(table["n_clean"].iloc[0])
    ranked = table[table["role"] == "embedding"]
    if not n or ranked["clean"].notna().sum() == 0:
        return f"{context}: nothing is left without them.", True
    if ranked["all"].notna().sum() == 0:
        return "", False
    first, clean = (ranked.loc[ranked[f"rank_{side}"] == 1].iloc[0] for side in ("all", "clean"))
    text = f"{context}: on the clean remainder ({n}) "
    same = first[METHOD].tolist() == clean[METHOD].tolist()
    if same:
        text += f"{named(first[METHOD])} still leads by {metric} ({clean['clean']:.4g}, all {first['all']:.4g})"
    else:
        text += (
            f"the lead by {metric} passes from {named(first[METHOD])} to {named(clean[METHOD])} ({clean['clean']:.4g})"
        )
    lost = False
    base = table[table["role"] == "baseline"]
    if len(base):
        floor = {side: float((sign * base[side]).max()) for side in ("all", "clean", "leaky")}
        best = {side: float((sign * ranked[side]).max()) for side in ("all", "clean")}
        lost = best["all"] > floor["all"] and best["clean"] <= floor["clean"]
        if lost:
            text += ", and no embedding beats the floor any more"
        ahead = {side: sign * float(first[side]) - floor[side] for side in ("clean", "leaky")}
        if np.isfinite(list(ahead.values())).all():
            text += f"; {'it' if same else named(first[METHOD])} is {_ahead(ahead['clean'])} there and {_ahead(ahead['leaky'])} "
            text += "on the leaky ids"
    if n < case.option("min_clean"):
        text += f", which so few ({n}) cannot tell"
    return text + ".", (not same) or lost


def _ahead(difference: float) -> str:
    """Say how far a method is from the floor; positive is better."""
    return f"{abs(difference):.3g} {'better' if difference > 0 else 'worse'} than the floor"


def fold_of(folds: pd.DataFrame, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the fold of each id in the first seed; -1 where it is not tested."""
    first = folds[folds["seed"] == folds["seed"].min()].drop_duplicates("pert_id").set_index("pert_id")["fold"]
    return first.reindex(list(ids)).fillna(-1).to_numpy(np.int64)

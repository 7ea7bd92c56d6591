"""Checks that the test is a test: the same perturbation, or a part of it, on both sides; answers seen before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from panmodal.errors import some
from panmodal.insight.checks.case import Case, Group, named, percent
from panmodal.insight.checks.record import Check, Finding, Unchecked
from panmodal.insight.checks.relations import across_folds, every_group, report_leak
from panmodal.insight.gaps import METHOD
from panmodal.perturbation_ids import canonical, parts

SURE = 1
"""Up to this level of the resolver (current names and accessions, previous symbols) two names are one gene for certain."""


def same_id(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for a perturbation that is tested in one fold and trained on in the same fold.

    The training ids of a fold are the ids tested in its other folds. Two ids are the same if they are equal but for
    letter case, order of parts and control names (`A+ctrl`), or if the shipped tables resolve all their parts to the
    same genes (HGNC) or compounds (InChIKey). Names that are the same only by an alias are reported as a warning.
    """
    for group, folds in every_group(case):
        if isinstance(folds, Unchecked):
            yield folds
            continue
        ids = sorted(folds["pert_id"].unique())
        meaning = case.knowledge.meaning(ids)
        rows: list[dict[str, Any]] = []
        for seed, own in folds.groupby("seed"):
            for how, keys in (
                ("the same id", {i: canonical(i).casefold() for i in ids}),
                ("the same meaning", _keys(ids, meaning)),
            ):
                marked = own.assign(key=own["pert_id"].map(keys)).dropna(subset="key")
                for key, same in marked.groupby("key"):
                    if same["fold"].nunique() > 1:
                        names = list(dict.fromkeys(same["pert_id"]))
                        level = max((meaning[p].level for i in names for p in parts(i) if p in meaning), default=0)
                        rows.append({"seed": seed, "ids": ", ".join(names), "folds": ", ".join(map(str, sorted(set(same["fold"])))),
                                     "how": how, "key": key, "level": 0 if how == "the same id" else level})  # fmt: skip
        table = pd.DataFrame(rows, columns=["seed", "ids", "folds", "how", "key", "level"])
        table = table.drop_duplicates(["seed", "ids"], ignore_index=True)
        for severity, part in (("error", table[table["level"] <= SURE]), ("warning", table[table["level"] > SURE])):
            if len(part):
                doubt = "" if severity == "error" else " if an alias is right"
                examples = "; ".join(f"{r.ids} in folds {r.folds}" for r in part.head(3).itertuples())
                yield Finding(
                    case.at_group(group),
                    f"{part['ids'].nunique()} perturbation(s) are in several folds{doubt}, so that they are trained on where they are "
                    f"tested: {examples}.",
                    part.reset_index(drop=True),
                    severity,
                )
        if not case.knowledge.kind(ids):
            reason = (
                "other names of the same perturbation: most ids are neither genes nor compounds that the tables know; "
            )
            yield Unchecked(case.at_group(group), reason + "only equal ids were looked for")


def _keys(ids: list[str], meaning: dict[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for i in ids:
        rows = [meaning.get(p) for p in parts(i)]
        found[i] = "+".join(sorted(r.key for r in rows if r)) if all(rows) else None
    return found


def shared_parts(case: Case) -> Iterator[Finding | Unchecked]:
    """Look for test combinations of which a part is trained on, alone or in another combination.

    An error where the split promises that no part is (`unseen: part` in the record of the run), else an info: whether
    the effect of a pair can be told from its parts is a fair question, but not the same as predicting an unseen
    perturbation. The table has the scores of all methods with and without these test ids.
    """
    for group, folds in every_group(case):
        if isinstance(folds, Unchecked):
            yield folds
            continue
        ids = sorted(folds["pert_id"].unique())
        if not any(len(parts(i)) > 1 for i in ids):
            continue
        of = pd.DataFrame([(i, p.casefold()) for i in ids for p in parts(i)], columns=["one", "part"]).drop_duplicates()
        related = of.merge(of.rename(columns={"one": "other"}), on="part")
        related = related[related["one"] != related["other"]]
        leaks = across_folds(folds, related)
        promised = _promises(case, group) == "part"
        # Single perturbations whose combination is trained on leak as much as the other way round.
        found = report_leak(
            case, group, folds, leaks, "share a part with a perturbation in training", "error" if promised else "info"
        )
        if found is not None:
            end = " The split promises that no part is trained on." if promised else ""
            yield Finding(found.where, found.what + end, found.numbers, "error" if promised else "info")


def _promises(case: Case, group: Group) -> str:
    """Return what the split of a group promises to be unseen, as the runs say; empty if they do not."""
    for run in case.evidence.runs:
        if run.get("split", {}).get("name") == group[2] and run.get("screen", {}).get("name") == group[0]:
            return str(run["split"].get("unseen", ""))
    return ""


def contamination(case: Case) -> Iterator[Finding | Unchecked]:
    """Compare what each embedding was trained on (its card) with the data sets of the screen.

    Both are declared, not measured. An error where an embedding that has seen the data set comes first, else a
    warning. Embeddings or screens that do not say are listed as not checked.
    """
    for task in case.evidence.tasks:
        ranked = case.ranked(task)
        seen = ranked[ranked["seen"] == "yes"]
        if len(seen):
            names = list(dict.fromkeys(seen["embedding"]))
            text = f"{some(names)} {'was' if len(names) == 1 else 'were'} trained on the data set of this screen"
            first = ranked.iloc[0]
            leads = first["seen"] == "yes"
            others = ranked[ranked["seen"] != "yes"]
            if leads:
                text += f", and {named(first[METHOD])} comes first ({first['metric']} {first['mean']:.4g})"
                text += (
                    f"; of the others {named(others.iloc[0][METHOD])} does ({others.iloc[0]['mean']:.4g})"
                    if len(others)
                    else "; there are no others"
                )
            else:
                text += f"; {named(first[METHOD])}, which is not known to be, comes first nevertheless"
            numbers = ranked[["context", *METHOD, "seen", "rank", "metric", "mean"]].reset_index(drop=True)
            yield Finding(case.at(task), text + ".", numbers, "error" if leads else "warning")
        silent = sorted(set(ranked.loc[ranked["seen"] == "unknown", "embedding"]))
        if silent:
            share = percent(len(silent), ranked["embedding"].nunique())
            reason = f"{len(silent)} embedding(s) ({share}): the cards of {some(silent, 3)} (trained_on), or the screen (--dataset), "
            yield Unchecked(case.at(task), reason + "do not say what was seen")


CHECKS = (
    Check(
        code="PM001",
        name="id-leakage",
        title="Is a test perturbation trained on under the same or another name?",
        severity="error",
        why="A probe that was fitted on the response it has to predict measures memory, not knowledge. It happens when "
        "a data set names one gene or compound in two ways, or when folds were made by hand.",
        advice="Give one name to each perturbation (panmodal resolve shows which ids mean the same), or put its names into "
        "one fold (panmodal split --groups FILE), and run again.",
        function=same_id,
    ),
    Check(
        code="PM002",
        name="shared-parts",
        title="Are parts of test combinations trained on?",
        severity="info",
        why="Where A alone, or A+C, is trained on, A+B can be predicted from A's effect: the additive model does well "
        "without any knowledge of genes. Scores of such ids say little about unseen genes.",
        advice="Report them apart: the table has the scores without them. For unseen genes make the folds with panmodal "
        "split --unseen part.",
        function=shared_parts,
    ),
    Check(
        code="PM006",
        name="contamination",
        title="Has an embedding seen the responses that it is tested on?",
        severity="error",
        why="An embedding trained on the screen, or on the same study, knows the answers; its rank says nothing of new "
        "perturbations.",
        advice="Leave it out of the ranking or test it on another data set; complete the cards (trained_on) and name the "
        "data sets of the screen (--dataset) where these do not say.",
        function=contamination,
    ),
)
"""Records of this module."""

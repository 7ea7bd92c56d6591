"""Cards and runs: do they say what a leaderboard must know, and do they go with the trials."""

from __future__ import annotations

from pydantic import ValidationError

from panmodal._digest import digest_json
from panmodal.embeddings.card import Card
from panmodal.studies import seen
from panmodal.submissions.check_trials import FUSION, name_of
from panmodal.submissions.content import Content
from panmodal.submissions.findings import Report, first
from panmodal.submissions.schema import FusionRecord, TrialRecord
from panmodal.submissions.strict import label_problem, link_problem, name_problem


def check_cards(content: Content, report: Report) -> None:
    """Check every card, and the trials against them: V025, V026, V070 to V074."""
    cards: dict[tuple[str, str, str], Card] = {}
    alike: dict[str, set[str]] = {}
    for k, entry in enumerate(content.card_records):
        where = f"cards.json, entry {k} ({entry.name[:60]})"
        try:
            card = Card.model_validate(entry.card)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            report.add("V070", f"{'.'.join(map(str, problem['loc']))[:80]}: {problem['msg'][:200]}", where)
            continue
        key = (entry.name, entry.screen, entry.digest)
        if key in cards:
            report.add("V071", "the same embedding twice", where)
        cards[key] = card
        if card.name != entry.name or entry.covered > entry.asked:
            report.add("V071", "its name or coverage is not that of its entry", where)
        for what, text in (("name", card.name), ("modality", card.modality)):
            if problem_ := name_problem(text):
                report.add("V025", f"{what} {problem_}", where)
        for what, text in (
            ("licence", card.licence),
            ("id_namespace", card.id_namespace),
            *(("trained_on", t) for t in card.trained_on),
        ):
            if text and (problem_ := label_problem(text)):
                report.add("V025", f"{what} {problem_}", where)
        if problem_ := link_problem(card.url):
            report.add("V026", f"url {card.url[:80]!r} {problem_}", where)
        unsaid = [w for w, there in (("licence", card.licence), ("modality", card.modality != "unknown"),
                                     ("trained_on", card.trained_on)) if not there]  # fmt: skip
        if unsaid:
            report.add("V072", f"does not say {', '.join(unsaid)}", where)
        alike.setdefault(card.name, set()).add(
            digest_json([card.modality, card.licence, sorted(card.trained_on), card.url])
        )
    for name, found in alike.items():
        if len(found) > 1:
            report.add("V048", "cards of one name that differ in modality, licence, url or trained_on", name[:80])
    datasets = {r.screen.name: r.screen.datasets for r in content.run_records.values()}
    for trial in (t for t in content.records if t.role == "embedding"):
        if trial.modality == FUSION:
            _check_fusion(trial, content, cards, datasets.get(trial.screen, []), report)
            continue
        own = cards.get((trial.embedding, trial.screen, str(trial.depends.get("embedding"))))
        if own is None:
            report.add("V070", "its embedding has no card, or one of other vectors", name_of(trial))
            continue
        if own.modality != trial.modality:
            report.add(
                "V071", f"modality {trial.modality[:40]!r}, and {own.modality[:40]!r} in its card", name_of(trial)
            )
        if (right := seen(own.trained_on, datasets.get(trial.screen, []))) != trial.seen:
            report.add("V073", f"{trial.seen!r}, and {right!r} by its card", name_of(trial))
    if simulated := sorted({t.screen for t in content.records if t.simulated}):
        report.add("V074", f"screen {first(simulated)} is simulated", "trials.json")
    if made := sorted({e.name for e in content.card_records if e.card.get("simulated") is True}):
        report.add("V074", f"embedding {first(made)} is simulated", "cards.json")


def _check_fusion(
    trial: TrialRecord, content: Content, cards: dict[tuple[str, str, str], Card], datasets: list[str], report: Report
) -> None:
    """Check that members of a fusion have cards, that their vectors make its digest, and what they have seen."""
    records: list[FusionRecord] = [
        f for r in content.run_records.values() if r.screen.name == trial.screen for f in r.fusions
        if f.name == trial.embedding and f.method == trial.probe and f.digest == trial.depends.get("embedding")
    ]  # fmt: skip
    if not records:
        report.add("V075", "no run has this fusion", name_of(trial))
        return
    by_name: dict[str, list[tuple[str, Card]]] = {}
    for (name, screen, digest), card in cards.items():
        if screen == trial.screen:
            by_name.setdefault(name, []).append((digest, card))
    members = [by_name.get(n, []) for n in records[-1].of]
    if not all(members) or not any(
        digest_json({"fused": [d for d, _ in chosen]}) == records[-1].digest for chosen in _combinations(members)
    ):
        report.add("V071", "the vectors of its members' cards do not make its digest", name_of(trial))
        return
    own = {seen(m[0][1].trained_on, datasets) for m in members}
    right = "yes" if "yes" in own else "unknown" if "unknown" in own else "no"
    if right != trial.seen:
        report.add("V073", f"{trial.seen!r}, and {right!r} by the cards of its members", name_of(trial))


def _combinations(members: list[list[tuple[str, Card]]], most: int = 256) -> list[list[tuple[str, Card]]]:
    """Every way to take one of each; an embedding rarely has two versions of its vectors."""
    out: list[list[tuple[str, Card]]] = [[]]
    for choice in members:
        out = [[*head, one] for head in out for one in choice][:most]
    return out


def check_runs(content: Content, report: Report) -> None:
    """Check that the runs name the screens and splits of the trials, and trials the environments: V025, V075, V076."""
    known: set[tuple[str, str, str, str, str, str]] = set()
    for name, run in content.run_records.items():
        own = digest_json(run.model_dump(exclude_none=False) if run.provenance is not None else _bare(run))
        if name != f"runs/{own}.json":
            report.add("V075", "its name is not the digest of its contents", name)
        for what, text in (
            ("screen", run.screen.name),
            ("split", run.split.name),
            *(("context", c) for c in run.screen.digests),
        ):
            if problem := name_problem(text):
                report.add("V025", f"{what} {problem}", name)
        for context, digest in run.screen.digests.items():
            known.add((run.screen.name, context, run.screen.response, digest, run.split.name, run.split.digest))
        if run.split.digest not in content.splits:
            report.add("V075", "its split is not there", name)
    for trial in content.records:
        depends = trial.depends
        key = (
            trial.screen,
            trial.context,
            trial.response,
            str(depends.get("responses")),
            trial.split,
            str(depends.get("split")),
        )
        if key not in known:
            report.add("V075", "no run has its screen, context and split", name_of(trial))
    named = {str(t.provenance["environment"]) for t in content.records if t.provenance.get("environment")}
    for digest in sorted(set(content.environments) - named):
        report.add("V076", "no trial was computed in this environment", digest[:80])
    for digest, environment in content.environments.items():
        if digest_json(environment) != digest:
            report.add("V076", "its digest is not that of its contents", digest[:80])
    simulated = {(r.screen.name, r.screen.simulated) for r in content.run_records.values()}
    for screen, claimed in sorted({(t.screen, t.simulated) for t in content.records} - simulated):
        report.add("V075", f"simulated: {claimed}, and its runs say otherwise", screen[:80])


def _bare(run: object) -> dict[str, object]:
    dumped = run.model_dump()  # type: ignore[attr-defined]
    dumped.pop("provenance")
    return dict(dumped)

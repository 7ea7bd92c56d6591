"""Running checks over the evidence, and the report: found, passed, not checked, ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from panmodal.errors import PanmodalError
from panmodal.insight.checks.case import Case
from panmodal.insight.checks.knowledge import Knowledge
from panmodal.insight.checks.record import SEVERITIES, Check, Finding, Unchecked
from panmodal.insight.checks.registry import checks, get_check, settings
from panmodal.insight.display import Display
from panmodal.insight.evidence import Evidence

COLUMNS = [
    "code",
    "name",
    "severity",
    "screen",
    "context",
    "response",
    "split",
    "embedding",
    "what",
    "why",
    "advice",
    "page",
]
STATUSES = ("found", "passed", "not checked", "ignored")


@dataclass(frozen=True)
class CheckReport:
    """What the checks of some results have said.

    Attributes
    ----------
    findings
        What was found, errors first.
    passed
        Codes of checks that looked at everything and found nothing.
    not_checked
        What could not be looked at, and why; a check may be here and in ``findings``.
    ignored
        Codes of checks that were not run because they were told to be ignored.
    records
        The checks by code.
    """

    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    not_checked: tuple[Unchecked, ...]
    ignored: tuple[str, ...]
    records: Mapping[str, Check]

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Return the findings of a severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    def frame(self) -> pd.DataFrame:
        """Return one row for each finding, errors first: code, name, severity, place, what, why, advice and page of the docs."""
        rows = []
        for f in self.findings:
            check = self.records[f.code]
            about = {
                "code": f.code,
                "name": check.name,
                "severity": f.severity,
                "what": f.what,
                "why": check.why,
                "advice": check.advice,
            }
            rows.append({**about, "page": check.page, **f.where})
        frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
        return frame.fillna("")

    def status(self) -> pd.DataFrame:
        """Return one row for each check: code, name, title, severity, status, numbers of findings and places not checked.

        A check with findings is ``found`` even where it could not look everywhere; one that could not look somewhere is
        never ``passed``.
        """
        rows = []
        for code, check in self.records.items():
            found = [f for f in self.findings if f.code == code]
            not_checked = sum(u.code == code for u in self.not_checked)
            status = (
                "ignored" if code in self.ignored else "found" if found else "not checked" if not_checked else "passed"
            )
            severity = min((f.severity for f in found), key=SEVERITIES.index, default=check.severity)
            rows.append({"code": code, "name": check.name, "title": check.title, "severity": severity, "status": status,
                         "findings": len(found), "not_checked": not_checked})  # fmt: skip
        return pd.DataFrame(rows)

    def skipped(self) -> pd.DataFrame:
        """Return one row for each place that was not checked, alike reasons of one check together: code, name, where, reason."""
        rows: dict[tuple[str, str], list[str]] = {}
        for u in self.not_checked:
            rows.setdefault((u.code, u.reason), []).append(u.place)
        columns = ["code", "name", "where", "reason"]
        return pd.DataFrame([(c, self.records[c].name, "; ".join(p), r) for (c, r), p in rows.items()], columns=columns)

    def summary(self) -> list[str]:
        """Say in sentences what was found, errors first."""
        status = self.status()["status"].value_counts()
        counts = {s: len(self.of(s)) for s in SEVERITIES}
        partly = len({u.code for u in self.not_checked} & {f.code for f in self.findings})
        head = f"{len(self.records)} checks: {status.get('found', 0)} found something ({counts['error']} error(s), "
        head += f"{counts['warning']} warning(s), {counts['info']} info), {status.get('passed', 0)} passed, "
        head += f"{status.get('not checked', 0)} could not be made everywhere"
        head += f" (nor could {partly} of those that found something)" if partly else ""
        head += f", {len(self.ignored)} ignored." if self.ignored else "."
        return [
            head,
            *(f"{f.code} {self.records[f.code].name} ({f.severity}), {f.place}: {f.what}" for f in self.findings),
        ]

    def failed(self) -> bool:
        """Whether a finding is an error."""
        return bool(self.of("error"))

    def to_json(self) -> str:
        """Return everything but the tables of numbers as JSON."""
        found = [{"code": f.code, "name": self.records[f.code].name, "severity": f.severity, "where": dict(f.where), "what": f.what,
                  "why": self.records[f.code].why, "advice": self.records[f.code].advice, "page": self.records[f.code].page}
                 for f in self.findings]  # fmt: skip
        skipped = [{"code": u.code, "where": dict(u.where), "reason": u.reason} for u in self.not_checked]
        whole: dict[str, Any] = {
            "findings": found,
            "passed": self.passed,
            "not_checked": skipped,
            "ignored": self.ignored,
        }
        return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def run_checks(
    evidence: Evidence,
    ignore: Sequence[str] = (),
    options: Mapping[str, float] | None = None,
    *,
    knowledge: Knowledge | None = None,
) -> CheckReport:
    """Make all checks of some results.

    Parameters
    ----------
    evidence
        Tables and readers of a results folder (:func:`panmodal.evaluation.evidence.read_evidence`), or tables alone: checks that
        need more then say that they were not made.
    ignore
        Codes or names of checks to leave out.
    options
        Thresholds in place of the defaults of the records.
    knowledge
        What is known of the ids; the shipped tables unless given.

    Returns
    -------
    CheckReport

    Raises
    ------
    InputError
        Unknown code or option.
    """
    records = checks()
    ignored = {get_check(name).code for name in ignore}
    case = Case(evidence, knowledge or Knowledge(), settings(dict(options or {})))
    findings: list[Finding] = []
    not_checked: list[Unchecked] = []
    passed = []
    for code, check in records.items():
        if code in ignored:
            continue
        before = len(findings), len(not_checked)
        try:
            for said in check.function(case):
                if isinstance(said, Finding):
                    findings.append(replace(said, code=code, severity=said.severity or check.severity))
                else:
                    not_checked.append(replace(said, code=code))
        except PanmodalError as error:  # what lacks in these results is no fault of the check
            not_checked.append(Unchecked({}, str(error), code))
        if before == (len(findings), len(not_checked)):
            passed.append(code)
    findings.sort(key=lambda f: SEVERITIES.index(f.severity))
    ordered = tuple(sorted(ignored))
    return CheckReport(tuple(findings), tuple(passed), tuple(not_checked), ordered, records)


def displays(evidence: Evidence) -> list[Display]:
    """Draw the conclusions of the checks for a report: what was found, and what was looked at."""
    report = run_checks(evidence)
    found = Display(
        "checks", "What was found", report.frame().drop(columns=["why", "page"]),
        "One row for each finding, errors first. error: a conclusion cannot stand; warning: it may be wrong or weak; info: a reader "
        "should know.",
        tuple(report.summary()),
    )  # fmt: skip
    status = Display(
        "checks-made", "What was checked", report.status(),
        "One row for each check. A check that could not look everywhere is never counted as passed.",
        tuple(f"{r.code} {r.name} was not made{f' for {r.where}' if r.where else ''}: {r.reason}."
              for r in report.skipped().itertuples()),
    )  # fmt: skip
    return [found, status]

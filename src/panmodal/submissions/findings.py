"""What a validation finds: coded, so that a sender can look it up and a maintainer's script can tell it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from panmodal.submissions.limits import LIMITS

ERROR, WARNING, NOTE = "error", "warning", "note"

CODES = {
    "V001": (ERROR, "not a zip file that panmodal bundle wrote, or a damaged one"),
    "V002": (ERROR, "more bytes or members than are read"),
    "V003": (ERROR, "a member unpacks to far more than it takes up"),
    "V004": (ERROR, "an encrypted member, or one packed otherwise than by deflate"),
    "V005": (ERROR, "a member that is no plain file (symbolic link, device, folder)"),
    "V006": (ERROR, "the name of a member could lead out of a folder"),
    "V007": (ERROR, "two members of one name, capitals aside"),
    "V008": (ERROR, "an archive within the archive"),
    "V009": (ERROR, "a member that a bundle does not have"),
    "V010": (ERROR, "members overlap, leave gaps, or are called otherwise where they lie"),
    "V011": (ERROR, "a member's size or checksum is not what is said of it"),
    "V012": (ERROR, "not laid out as panmodal bundle does (times, order, comments, extra fields)"),
    "V020": (ERROR, "JSON that is not strict: twice the same key, NaN, too deep, too long, not UTF-8"),
    "V021": (ERROR, "a format that this version does not know"),
    "V022": (ERROR, "a record without a field it needs, or with one that it does not have"),
    "V023": (ERROR, "files and manifest do not name the same"),
    "V024": (ERROR, "size or SHA-256 of a file is not what the manifest says"),
    "V025": (ERROR, "text with control characters or markup, or too long"),
    "V026": (ERROR, "a link that is not http or https"),
    "V027": (ERROR, "the manifest says another thing of the contents than they do"),
    "V030": (ERROR, "a table that cannot be read"),
    "V031": (ERROR, "a table with metadata, in which objects could hide"),
    "V032": (ERROR, "a table with other columns or types"),
    "V033": (ERROR, "a table that is too large, or written in a way in which a small file fills the memory"),
    "V034": (ERROR, "a value that is missing, infinite or NaN"),
    "V041": (ERROR, "a trial's digest is not that of what it depends on"),
    "V042": (ERROR, "the labels of a trial are not those of what it depends on"),
    "V043": (ERROR, "two trials of one name"),
    "V044": (ERROR, "a probe or a rule of another version, or one that is not known"),
    "V045": (ERROR, "a role that does not go with the name"),
    "V046": (ERROR, "a time that cannot be"),
    "V047": (ERROR, "hyper-parameters that the probe does not have"),
    "V048": (ERROR, "one name for two things: responses, split or embedding"),
    "V050": (ERROR, "a fold without trials"),
    "V051": (ERROR, "trials of one fold with other test ids"),
    "V052": (ERROR, "test ids that are not those of the split"),
    "V053": (ERROR, "a baseline, control or oracle is missing"),
    "V054": (ERROR, "the digest of a split is not that of its folds"),
    "V055": (ERROR, "what is said to be covered cannot be"),
    "V056": (ERROR, "values of perturbations without their trial, a trial without values, or values twice"),
    "V060": (ERROR, "a metric that is not known, or not one of this kind of response"),
    "V061": (ERROR, "a metric computed by another version of its formula"),
    "V062": (ERROR, "a value outside the range of its metric"),
    "V063": (ERROR, "a score is not the mean of the values of perturbations"),
    "V064": (ERROR, "scores without a trial, a trial without scores, or labels that differ"),
    "V065": (ERROR, "numbers of perturbations that do not agree"),
    "V066": (ERROR, "metrics that contradict each other"),
    "V067": (ERROR, "an id that the embedding does not cover has other values than the fill"),
    "V068": (ERROR, "ceilings or bootstrap samples that do not go with the trials"),
    "V070": (ERROR, "an embedding without a valid card"),
    "V071": (ERROR, "card and trials do not agree"),
    "V072": (WARNING, "a card that does not say licence, modality or what the embedding was trained on"),
    "V073": (ERROR, "whether the embedding has seen the screen is not what its card says"),
    "V074": (WARNING, "simulated data"),
    "V075": (ERROR, "runs that do not go with the trials"),
    "V076": (ERROR, "an environment with another digest, or that no trial was computed in"),
    "V080": (ERROR, "predictions that are missing, or not as long as they must be"),
    "V081": (ERROR, "predictions with another digest than the trial says"),
    "V082": (ERROR, "predictions that cannot be: not finite, or no probabilities"),
    "V083": (ERROR, "a metric computed again from predictions and responses has another value"),
    "V084": (ERROR, "a baseline or an id not covered is predicted otherwise than it must be"),
    "V085": (NOTE, "no predictions: metrics were not computed again"),
    "V090": (ERROR, "a task whose responses are not those at hand"),
    "V091": (ERROR, "a split other than the one at hand"),
    "V092": (ERROR, "test ids or read-outs that are not those of the responses at hand"),
    "V093": (ERROR, "a baseline whose values are not those of the responses at hand"),
    "V094": (WARNING, "a task that goes by another name here"),
    "V095": (WARNING, "the same trial has another score here"),
    "V096": (NOTE, "not compared with any screen or results at hand"),
}  # fmt: skip
"""Every code: how grave, and what it means."""


@dataclass(frozen=True)
class Finding:
    """One thing found: code, how grave, what, and where (member, trial, row)."""

    code: str
    severity: str
    what: str
    where: str


class Refused(Exception):
    """So wrong that nothing after it can be checked."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


@dataclass
class Report:
    """All findings on a bundle.

    Attributes
    ----------
    path
        The file.
    digest
        Digest of its contents; empty where the manifest could not be read.
    facts
        What it holds, in plain values.
    findings
        In the order of the checks.
    more
        Findings of a code beyond those told one by one.
    """

    path: Path
    digest: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)
    limit: int = LIMITS.findings

    def add(self, code: str, what: str, where: str) -> None:
        """Note a finding."""
        if sum(f.code == code for f in self.findings) >= self.limit:
            self.more[code] = self.more.get(code, 0) + 1
        else:
            self.findings.append(Finding(code, CODES[code][0], what, where))

    @property
    def errors(self) -> list[Finding]:
        """Findings that make the bundle invalid."""
        return [f for f in self.findings if f.severity == ERROR]

    @property
    def valid(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def codes(self) -> set[str]:
        """Codes of all findings."""
        return {f.code for f in self.findings}

    def to_json(self) -> str:
        """Return the report as JSON."""
        record = {
            "file": self.path.name, "digest": self.digest, "valid": self.valid, "facts": self.facts,
            "findings": [asdict(f) for f in self.findings], "more": self.more,
        }  # fmt: skip
        return json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def refuse(code: str, what: str, where: str) -> NoReturn:
    """Stop the validation: what follows cannot be read safely."""
    raise Refused(Finding(code, CODES[code][0], what, where))


def first(items: Iterable[Any], limit: int = 3) -> str:
    """Name the first few of ``items``, shortened: they are a stranger's."""
    listed = [repr(str(item)[:80]) for item in items]
    return ", ".join(listed[:limit]) + (f", ... ({len(listed)} in all)" if len(listed) > limit else "")

"""Validation: everything that can be told of a submission without trusting its sender, and without running anything of it."""

from __future__ import annotations

from pathlib import Path

from panmodal.errors import InputError
from panmodal.submissions.check_cards import check_cards, check_runs
from panmodal.submissions.check_scores import check_limits, check_means, check_values
from panmodal.submissions.check_trials import check_choices, check_completeness, check_trials
from panmodal.submissions.check_truth import Reference, check_against, check_predictions, open_reference
from panmodal.submissions.content import Bundle, Content, read_content
from panmodal.submissions.findings import Refused, Report
from panmodal.submissions.limits import LIMITS, Limits

CHECKS = (
    check_trials,
    check_completeness,
    check_choices,
    check_cards,
    check_runs,
    check_values,
    check_means,
    check_limits,
    check_predictions,
)
"""After the form is known to be right; each adds what it finds."""


def validate(
    path: str | Path,
    *,
    against: str | Path | Reference | None = None,
    response: str | None = None,
    limits: Limits = LIMITS,
) -> Report:
    """Validate a submission.

    The file is opened by its central directory within ``limits``, nothing is written to disk, unpickled or run, and every number is
    compared with what it should follow from: digests with what they are of, means with the values of perturbations, cards and splits
    with the trials. With ``against`` the tasks are compared with responses at hand, from which baselines are scored again, and
    predictions where there are any.

    Parameters
    ----------
    path
        The file.
    against
        Results folder, or a screen (file or name).
    response
        Kind of response of the screen, where its file does not say.
    limits
        How much is read at most.

    Returns
    -------
    Report
        Findings, each with a code of :data:`panmodal.submissions.findings.CODES`; valid if none is an error.

    Raises
    ------
    InputError
        There is no such file, or ``against`` cannot be read.
    """
    report, _ = _validated(Path(path), against, response, limits)
    return report


def open_bundle(path: str | Path, *, limits: Limits = LIMITS) -> Bundle:
    """Validate a submission and read it.

    Raises
    ------
    InputError
        It is not valid; the message names the first findings.
    """
    report, content = _validated(Path(path), None, None, limits)
    if content is None or not report.valid:
        problems = "; ".join(f"{f.code} {f.what} ({f.where})" for f in report.errors[:5])
        more = f", and {len(report.errors) - 5} more" if len(report.errors) > 5 else ""
        raise InputError(f"{path}: not a valid submission: {problems}{more}. See panmodal validate {path}.")
    return Bundle(Path(path), report.digest, report, content)


def _validated(
    path: Path, against: str | Path | Reference | None, response: str | None, limits: Limits
) -> tuple[Report, Content | None]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a submission that panmodal bundle wrote.")
    reference = against if isinstance(against, Reference) or against is None else open_reference(against, response)
    report = Report(path, limit=limits.findings)
    content = None
    try:
        content = read_content(path, report, limits)
        report.facts = _facts(content)
        for check in CHECKS:
            check(content, report)
        check_against(content, reference, report)
    except Refused as stop:
        report.findings.append(stop.finding)
    return report, content


def _facts(content: Content) -> dict[str, object]:
    manifest = content.manifest
    return {
        "format": manifest.format, "panmodal": manifest.panmodal, "title": manifest.title, "contact": manifest.contact,
        "date": manifest.date, "embeddings": manifest.embeddings, "trials": len(content.records), "scores": len(content.scores),
        "tasks": [f"{t.screen} · {t.context} · {t.response} · {t.split}" for t in manifest.tasks],
        "simulated": manifest.simulated, "predictions": manifest.predictions,
    }  # fmt: skip

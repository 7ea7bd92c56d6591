"""Pages of the docs, written from the records so that they cannot differ from what is computed."""

from __future__ import annotations

import textwrap
from pathlib import Path

from panmodal.insight.checks.record import Check
from panmodal.insight.checks.registry import checks

README = """# Checks

`panmodal check results/` looks at finished results for reasons to doubt them. Each check has a code, a severity and a page that says
why it matters, what to do and how it is computed.

- **error**: a conclusion cannot stand. `--strict` ends with exit code 1 where one remains.
- **warning**: a conclusion may be wrong or weak.
- **info**: a reader should know.

What a check cannot look at (predictions, vectors, raw cells or structures are not there) is listed as *not checked* with the reason;
such a check never counts as passed. `--ignore PM003` (or `--ignore homologs`) leaves one out, `--set min_identity=0.4` changes a
threshold, `--compounds FILE` gives structures of compounds (names and SMILES, or a screen with them), `--batches FILE` the
batch of each perturbation (`pert_id, batch`, perhaps `context`). `--csv FILE` and `--json FILE` write what was found.

```python
from panmodal.evaluation.evidence import read_evidence
from panmodal.insight.checks import run_checks

report = run_checks(read_evidence("results/"), ignore=["PM020"])
report.status()  # one row for each check
report.frame()  # one row for each finding
report.findings[0].numbers  # the table behind a finding
```

"""


def page(check: Check) -> str:
    """Return the page of a check in Markdown."""
    lines = [
        f"# {check.code} {check.name}",
        "",
        f"**{check.title}** Severity: {check.severity}, unless the finding says otherwise.",
        "",
    ]
    lines += [
        "## Why it matters",
        "",
        _wrapped(check.why),
        "",
        "## What to do",
        "",
        _wrapped(check.advice),
        "",
        "## How it is computed",
        "",
        check.how,
        "",
    ]
    if check.options:
        lines += ["## Thresholds", "", "| option | default | |", "|---|---|---|"]
        lines += [f"| `{name}` | {option.default:g} | {option.help} |" for name, option in check.options.items()]
        lines += [""]
    lines += [f"Leave it out: `panmodal check results/ --ignore {check.code}`. All checks: [README.md](README.md)."]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def overview() -> str:
    """Return the page that lists all checks."""
    rows = [f"| [{c.code}]({c.code}.md) | {c.name} | {c.severity} | {c.title} |" for c in checks().values()]
    return README + "\n".join(["| code | name | severity | question |", "|---|---|---|---|", *rows]) + "\n"


def pages() -> dict[str, str]:
    """Return all pages: name of the file -> text."""
    return {"README.md": overview(), **{f"{c.code}.md": page(c) for c in checks().values()}}


def write_pages(folder: str | Path) -> None:
    """Write all pages into a folder (``docs/checks``)."""
    from panmodal._files import write_text

    for name, text in pages().items():
        write_text(Path(folder) / name, text)

"""Submissions: results of one sender in one file, which a maintainer can check without trusting the sender."""

from panmodal.submissions.bundle import Bundled, bundle
from panmodal.submissions.content import Bundle
from panmodal.submissions.findings import CODES, Finding, Report
from panmodal.submissions.limits import LIMITS, Limits
from panmodal.submissions.validate import open_bundle, validate

__all__ = ["CODES", "LIMITS", "Bundle", "Bundled", "Finding", "Limits", "Report", "bundle", "open_bundle", "validate"]

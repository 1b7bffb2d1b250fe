"""GitLab's code quality report: what a merge request shows as new or mended. The worst first.

Source: docs.gitlab.com, Code Quality, the report's format.
"""

from collections.abc import Iterator

from qdqcli.report.escape import json_text, shorten, visible
from qdqcli.report.findings import Finding, findings
from qdqcli.report.options import ReportOptions
from qdqcli.report.sarif import fingerprint
from qdqcli.result.result import RunResult

MAX_ISSUES = 5000
_MAX_TEXT = 1000


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """A list of issues."""
    issues = []
    used: dict[str, int] = {}
    for finding in findings(run):
        key = fingerprint(finding)
        number = used[key] = used.get(key, 0) + 1
        issues.append(_issue(finding, key if number == 1 else f"{key}-{number}"))
    yield json_text(issues[:MAX_ISSUES], indent=1) + "\n"


def _issue(finding: Finding, key: str) -> dict[str, object]:
    return {
        "description": shorten(finding.message, _MAX_TEXT),
        "check_name": finding.rule,
        "fingerprint": key,
        "severity": "major" if finding.is_error else "minor",
        "location": {"path": shorten(visible(finding.file or "budget"), _MAX_TEXT), "lines": {"begin": 1}},
    }

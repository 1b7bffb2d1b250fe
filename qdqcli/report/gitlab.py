"""Code quality report of GitLab: shows new and fixed findings in a merge request, worst first.

Source: docs.gitlab.com, Code Quality, the report's format.
"""

from collections.abc import Iterator

from qdqcli.report.escape import json_pieces, shorten, visible
from qdqcli.report.findings import Finding, findings, fingerprints
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult

MAX_ISSUES = 5000
_MAX_TEXT = 1000


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield a list of issues."""
    found = list(findings(run))
    keys = list(fingerprints(found))
    fallback = next(iter(run.inputs), "budget")
    issues = [_issue(finding, key, fallback) for finding, key in zip(found[:MAX_ISSUES], keys, strict=False)]
    yield from json_pieces(issues, indent=1)
    yield "\n"


def _issue(finding: Finding, key: str, fallback: str) -> dict[str, object]:
    file, line = finding.location
    return {
        "description": shorten(finding.message, _MAX_TEXT),
        "check_name": finding.rule,
        "fingerprint": key,
        "severity": "major" if finding.is_error else "minor",
        "location": {"path": shorten(visible(file or fallback), _MAX_TEXT), "lines": {"begin": line}},
    }

"""Workflow commands of GitHub Actions: annotations on the run, worst first.

GitHub shows ten errors and ten warnings of a step; the tenth summarizes any others. The whole table belongs in the
job's summary, which `cli/deliver.py` writes. Source: docs.github.com, Workflow commands for GitHub Actions.
"""

from collections.abc import Iterator, Sequence

from qdqcli.report.escape import shorten, visible
from qdqcli.report.findings import Finding, findings
from qdqcli.report.number import counted
from qdqcli.report.options import ReportOptions
from qdqcli.report.verdict import headline
from qdqcli.result.result import RunResult

SHOWN = 10
"""Annotations of each kind that GitHub shows for a step."""
_MAX_TEXT = 1000


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Yield a line for each annotation; one notice where there are no findings."""
    found = list(findings(run))
    for kind, part in (
        ("error", [finding for finding in found if finding.is_error]),
        ("warning", [finding for finding in found if not finding.is_error]),
    ):
        yield from _annotations(kind, part, options)
    if not found:
        total = counted(sum(1 for _ in run.quantized), "tensor")
        what = f"{total}: measured" if run.verdict is None else headline(run, visible)
        yield _command("notice", "qdq", what, options)


def _annotations(kind: str, found: Sequence[Finding], options: ReportOptions) -> Iterator[str]:
    shown = found if len(found) <= SHOWN else found[: SHOWN - 1]
    for finding in shown:
        yield _command(kind, finding.title, finding.message, options, _location(finding))
    if len(shown) < len(found):
        yield _command(kind, "qdq", f"and {counted(len(found) - len(shown), f'more {kind}')} of this run", options)


def _command(
    kind: str, title: str, message: str, options: ReportOptions, location: tuple[str, int] | None = None
) -> str:
    where = "" if location is None else f"file={_property(location[0], options)},line={location[1]},"
    return f"::{kind} {where}title={_property(title, options)}::{_data(message, options)}\n"


def _location(finding: Finding) -> tuple[str, int] | None:
    """Return file and line for GitHub to link, None for an absolute path, which it cannot link."""
    file, line = finding.location
    return None if file is None or file.startswith("/") else (visible(file), line)


def _data(text: str, options: ReportOptions) -> str:
    """Escape the text of a command; its line feeds are visible escapes already."""
    text = shorten(text, _MAX_TEXT)
    if options.ascii_only:
        text = text.encode("ascii", "backslashreplace").decode("ascii")
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace("##", "#%23")


def _property(text: str, options: ReportOptions) -> str:
    return _data(text, options).replace(":", "%3A").replace(",", "%2C")

"""JUnit XML report for CI servers: a test case per tensor, or per group where there are very many.

Violations are failures; warnings go to `system-out`. It has no time stamps: reports repeat byte for byte.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from qdqcli.escape import without_commands
from qdqcli.report.escape import shorten, visible
from qdqcli.report.findings import short_message
from qdqcli.report.number import counted, metric_title, metric_unit, row_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import note_text
from qdqcli.report.table import spec_text
from qdqcli.report.verdict import sentence, subject
from qdqcli.result.result import Row, RunResult, TensorResult
from qdqcli.result.verdict import Severity, Violation

MAX_CASES = 2000
"""Maximum number of individual test cases; CI servers become slow beyond. More tensors are grouped by the first three
dotted parts of the name; those with violations keep their own case.
"""
_MAX_NAME = 300

Complaints = dict[tuple[str, str | None], list[Violation]]


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Yield the document."""
    for line in _lines(run):
        yield (line.encode("ascii", "xmlcharrefreplace").decode("ascii") if options.ascii_only else line) + "\n"


def _lines(run: RunResult) -> Iterator[str]:
    complaints: Complaints = defaultdict(list)
    waived: Complaints = defaultdict(list)
    for violation in () if run.verdict is None else run.verdict.violations:
        complaints[_case_of(violation)].append(violation)
    for violation in () if run.verdict is None else run.verdict.waived:
        waived[_case_of(violation)].append(violation)
    cases = list(_cases(run, complaints, waived))
    failures = sum("<failure" in case for case in cases)
    skipped = sum("<skipped" in case for case in cases)
    counts = f'tests="{len(cases)}" failures="{failures}" errors="0"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<testsuites name="qdq" {counts}>'
    yield f'  <testsuite name={_attribute(f"qdq {run.command}")} {counts} skipped="{skipped}">'
    if run.notes:  # the schema that servers use wants them before the cases
        yield "    <properties>"
        for note in run.notes:
            name = "warning" if note.is_warning else "note"
            yield f'      <property name="{name}" value={_attribute(note_text(note, visible))}/>'
        yield "    </properties>"
    yield from cases
    yield "  </testsuite>"
    yield "</testsuites>"


def _case_of(violation: Violation) -> tuple[str, str | None]:
    """Return name and class of the test case: a tensor and its file, or the subject of a limit on several tensors."""
    if violation.tensor is not None:
        return violation.tensor, violation.file
    return subject(violation, visible), violation.origin


def _cases(run: RunResult, complaints: Complaints, waived: Complaints) -> Iterator[str]:
    known = set()
    quiet: dict[str, list[Row]] = defaultdict(list)
    is_grouped = len(run.rows) > MAX_CASES
    for row in run.rows:
        key = row.source.name, row.source.file
        known.add(key)
        if is_grouped and not complaints.get(key) and not waived.get(key):
            quiet[".".join(row.source.name.split(".")[:3])].append(row)
        else:
            content = _waived(waived[key]) if key in waived else _content(row)
            yield _case(row.source.name, row.source.file, complaints.get(key, []), content)
    for group, rows in quiet.items():
        measured = [row for row in rows if isinstance(row, TensorResult)]
        text = f"{counted(len(measured), 'tensor')} measured, {len(rows) - len(measured):,} skipped"
        yield _case(f"{group}.*", "groups of tensors", [], f"<system-out>{escape(text)}</system-out>")
    for (name, file), violations in complaints.items():
        if (name, file) not in known:
            yield _case(name, file or "", violations, "")
    for (name, file), violations in waived.items():
        if (name, file) not in known and (name, file) not in complaints:
            yield _case(name, file or "", [], _waived(violations))
    if run.verdict is not None and all(violation.tensor is not None for violation in run.verdict.violations):
        yield _case("the whole run", "summary", [], "")


def _case(name: str, file: str, violations: Sequence[Violation], content: str) -> str:
    """Return a test case; the schema of CI servers allows one failure, whose text Jenkins shows as a trace."""
    errors = [violation for violation in violations if violation.severity is Severity.ERROR]
    warnings = [violation for violation in violations if violation.severity is Severity.WARN]
    body = ""
    if errors:
        message = short_message(errors[0])
        if len(errors) > 1:
            message += f"; and {counted(len(errors) - 1, 'more limit')}"
        text = "\n".join(line for violation in errors for line in (_told(violation), *map(visible, violation.tensors)))
        body = f"<failure type={_attribute(errors[0].metric)} message={_attribute(message)}>{_text(text)}</failure>"
    if warnings:
        body += f"<system-out>{_text(chr(10).join('warning: ' + short_message(v) for v in warnings))}</system-out>"
    elif not errors:
        body += content
    title = _attribute(name or "(no name)")
    return f"    <testcase name={title} classname={_attribute(file)}>{body}</testcase>"


def _told(violation: Violation) -> str:
    """Return the whole message with the place of the limit."""
    where = "" if violation.budget is None else f" ({visible(violation.budget)}:{violation.line})"
    return sentence(violation, visible) + where


def _waived(violations: Sequence[Violation]) -> str:
    reasons = ", ".join(f'"{reason}"' for reason in dict.fromkeys(v.waiver or "" for v in violations))
    what = "; ".join(short_message(violation) for violation in violations)
    return f"<skipped message={_attribute(f'waived, {reasons}: {what}')}/>"


def _content(row: Row) -> str:
    if not isinstance(row, TensorResult):
        return f"<skipped message={_attribute(row.reason)}/>"
    figures = ", ".join(
        f"{metric_title(name)} {row_text(name, row)}{metric_unit(name)}"
        for name in ("sqnr_db", "max_abs_error", "rmse")
    )
    return f"<system-out>{_text(f'{spec_text(row.spec, visible, row.source.shape)}: {figures}')}</system-out>"


def _attribute(text: str) -> str:
    return quoteattr(_clean(shorten(text, _MAX_NAME)))


def _text(text: str) -> str:
    return escape("\n".join(map(_clean, text.split("\n"))))


def _clean(text: str) -> str:
    """Replace characters that XML 1.0 forbids, and text that a CI log takes for a command."""
    return without_commands(visible(text))

"""JUnit XML, as CI servers read it: a test case for each tensor, or for groups of them where there are very many.

Violations are failures; warnings are told in `system-out`. There is no time in it: reports repeat byte for byte.
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
from qdqcli.result.result import Row, RunResult, TensorResult
from qdqcli.result.verdict import Severity, Violation

MAX_CASES = 2000
"""Test cases of their own; CI servers become slow beyond. More tensors are grouped by the part of the name that the
first dots separate, and those with violations still have their own."""
_MAX_NAME = 300

Complaints = dict[tuple[str, str | None], list[Violation]]


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """The document."""
    for line in _lines(run):
        yield (line.encode("ascii", "xmlcharrefreplace").decode("ascii") if options.ascii_only else line) + "\n"


def _lines(run: RunResult) -> Iterator[str]:
    complaints: Complaints = defaultdict(list)
    for violation in () if run.verdict is None else run.verdict.violations:
        complaints[violation.tensor or "", violation.file].append(violation)
    cases = list(_cases(run, complaints))
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


def _cases(run: RunResult, complaints: Complaints) -> Iterator[str]:
    known = set()
    quiet: dict[str, list[Row]] = defaultdict(list)
    is_grouped = len(run.rows) > MAX_CASES
    for row in run.rows:
        key = row.source.name, row.source.file
        known.add(key)
        if is_grouped and not complaints.get(key):
            quiet[".".join(row.source.name.split(".")[:3])].append(row)
        else:
            yield _case(row.source.name, row.source.file, complaints.get(key, []), _content(row))
    for group, rows in quiet.items():
        measured = [row for row in rows if isinstance(row, TensorResult)]
        text = f"{counted(len(measured), 'tensor')} measured, {len(rows) - len(measured):,} skipped"
        yield _case(f"{group}.*", "groups of tensors", [], f"<system-out>{escape(text)}</system-out>")
    for (name, file), violations in complaints.items():
        if (name, file) not in known:
            yield _case(name or "the whole run", file or "summary", violations, "")
    if run.verdict is not None and not complaints.get(("", None)):
        yield _case("the whole run", "summary", [], "")


def _case(name: str, file: str, violations: Sequence[Violation], content: str) -> str:
    errors = [violation for violation in violations if violation.severity is Severity.ERROR]
    warnings = [violation for violation in violations if violation.severity is Severity.WARN]
    body = "".join(
        f"<failure type={_attribute(violation.metric)} message={_attribute(short_message(violation))}/>"
        for violation in errors[:1]
    )
    if len(errors) > 1:  # the schema that servers use allows a case one failure
        text = "\n".join(short_message(violation) for violation in errors)
        message = f"{short_message(errors[0])}; and {counted(len(errors) - 1, 'more limit')}"
        body = f"<failure type={_attribute(errors[0].metric)} message={_attribute(message)}>{_text(text)}</failure>"
    if warnings:
        body += f"<system-out>{_text(chr(10).join('warning: ' + short_message(v) for v in warnings))}</system-out>"
    elif not errors:
        body += content
    title = _attribute(name or "(no name)")
    return f"    <testcase name={title} classname={_attribute(file)}>{body}</testcase>"


def _content(row: Row) -> str:
    if not isinstance(row, TensorResult):
        return f"<skipped message={_attribute(row.reason)}/>"
    figures = ", ".join(
        f"{metric_title(name)} {row_text(name, row)}{metric_unit(name)}"
        for name in ("sqnr_db", "max_abs_error", "rmse")
    )
    return f"<system-out>{_text(f'{spec_text(row.spec, visible)}: {figures}')}</system-out>"


def _attribute(text: str) -> str:
    return quoteattr(_clean(shorten(text, _MAX_NAME)))


def _text(text: str) -> str:
    return escape("\n".join(map(_clean, text.split("\n"))))


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold, and without what a CI log takes for a command."""
    return without_commands(visible(text))

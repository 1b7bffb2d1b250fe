"""GitHub-flavoured Markdown report, for pull requests and job summaries: table, summary, warnings.

Worst tensor first, at most `options.top` rows. Text from the input is in code spans.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from qdqcli.report import escape
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import Fact, facts, few, hidden, input_notes, notes, warnings
from qdqcli.report.table import MAX_NAME, Column, Quote, channel_tables, columns_of, inputs_table
from qdqcli.report.verdict import headline, sentence, waived_line, with_files
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Verdict


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Return heading, table, summary and warnings."""
    return escape.finished(_lines(run, options), ascii_only=options.ascii_only)


def _lines(run: RunResult, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    yield "## Quantization error"
    yield ""
    yield f"{quote(f'qdq {run.command}')} on {few(run.inputs, quote)}"
    yield ""
    if run.verdict is not None:
        yield from verdict_lines(run, run.verdict, quote, options)
    columns, num_hidden = columns_of(run, options, quote)
    if columns:
        yield from table_lines(columns)
        yield from (text for line in hidden(num_hidden) for text in ("", line))
        yield ""
    inputs = inputs_table(run, options, quote)
    if inputs:
        yield from table_lines(inputs)
        yield ""
    for heading, channels in channel_tables(run, quote):
        yield f"{heading[0].upper()}{heading[1:]}:"
        yield ""
        yield from table_lines(channels)
        yield ""
    yield from summary_lines(facts(run, options.sort, quote))
    advice = [f"**Warning:** {text}." for text in warnings(run, quote)]
    advice += [f"**Note:** {text}." for text in (*input_notes(run, quote), *notes(run, quote))]
    yield from (text for line in advice for text in ("", line))


def table_lines(columns: Sequence[Column]) -> Iterator[str]:
    """Yield a Markdown table."""
    yield _row([column.title for column in columns])
    yield _row(["--:" if column.is_number else ":--" for column in columns])
    yield from (_row(cells) for cells in zip(*(column.cells for column in columns), strict=True))


def summary_lines(found: Iterable[Fact]) -> Iterator[str]:
    """Yield a Markdown table of labels and values."""
    yield _row(["summary", ""])
    yield _row([":--", ":--"])
    yield from (_row(fact) for fact in found)


def verdict_lines(run: RunResult, verdict: Verdict, quote: Quote, options: ReportOptions) -> Iterator[str]:
    """Yield the verdict and the first violations."""
    yield f"**{headline(run, quote)}**"
    yield ""
    for violation in with_files(run, verdict.violations[: options.top or None]):
        yield f"- **{violation.severity}:** {sentence(violation, quote)}"
    if options.top and len(verdict.violations) > options.top:
        yield f"- … and {len(verdict.violations) - options.top:,} more"
    yield from (f"- waived: {waived_line(violation, quote)}" for violation in with_files(run, verdict.waived))
    if verdict.violations or verdict.waived:
        yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape.markdown_cell, cells))} |"


def quoted(text: str, options: ReportOptions) -> str:
    """Escape and shorten untrusted text for Markdown."""
    shown = escape.visible(text, ascii_only=options.ascii_only)
    return escape.markdown(escape.shorten(shown, MAX_NAME, ellipsis=options.ellipsis))

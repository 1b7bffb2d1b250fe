"""Text report: a table, worst tensor first, then a summary and warnings.

Nothing from the input is ever parsed as markup: rich renders styles and measures text here, and lays nothing out (its
tables take 0.7 ms per row, 15 s for a checkpoint of 20,000 tensors).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from textwrap import wrap

from rich.color import ColorSystem
from rich.style import Style

from qdqcli.report.escape import finished, shorten, terminal
from qdqcli.report.layout import GAP, FittedTable, cell_len, fit
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import facts, hidden, input_notes, notes, warnings
from qdqcli.report.table import MAX_NAME, Quote, channel_tables, columns_of, inputs_table
from qdqcli.report.verdict import headline, sentence, waived_line, with_files
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Verdict
from qdqcli.tensors.note import NoteKind

_HEAD = Style(bold=True)
_QUIET = Style(dim=True)
_WARNING = Style(color="yellow", bold=True)
_NOTE = Style(color="cyan", bold=True)
_FAILURE = Style(color="red", bold=True)
_SUCCESS = Style(color="green", bold=True)
_COLUMNS = {
    "shape": _QUIET,
    "dtype": _QUIET,
    "bits": _QUIET,
    "file": _QUIET,
    "num_nonfinite": _WARNING,
    "num_nonfinite_output": _WARNING,
    "num_degenerate": _WARNING,
}
_SECOND_CELL = "\0"
_MAX_LINE = 120
"""Maximum cells of a line of prose where no width is given."""


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Return the quantized tensors, ranked and cut to `options.top`, then the summary of the whole run."""
    return finished(_lines(run, options), ascii_only=options.ascii_only)


def _lines(run: RunResult, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    if run.verdict is not None:
        yield from _verdict(run, run.verdict, quote, options)
        if run.verdict.passed and options.is_brief:
            yield from _advice(run, quote, options)
            return
        yield ""
    columns, num_hidden = columns_of(run, options, quote)
    if columns:
        layout = fit(columns, options.sort, options.width, options.ellipsis)
        yield from table_lines(layout, options)
        for remark in (*hidden(num_hidden), *layout.remarks):
            yield from (_styled(line, _QUIET, options) for line in wrap(remark, options.width or _MAX_LINE))
        yield ""
    inputs = inputs_table(run, options, quote)
    if inputs:
        yield from table_lines(fit(inputs, "name", options.width, options.ellipsis), options)
        yield ""
    for heading, channels in channel_tables(run, quote):
        yield from (_styled(line, _HEAD, options) for line in wrap(heading, options.width or _MAX_LINE))
        yield from table_lines(fit(channels, "sqnr_db", options.width, options.ellipsis), options)
        yield ""
    for label, value in facts(run, options.sort, quote):
        yield from _paragraph(label.ljust(14), _HEAD, value, options)
    yield from _advice(run, quote, options)


def _verdict(run: RunResult, verdict: Verdict, quote: Quote, options: ReportOptions) -> Iterator[str]:
    """Yield the verdict: violations first; for a kept budget, its margin."""
    style = _SUCCESS if verdict.passed else _FAILURE
    label, _, rest = headline(run, quote).partition(": ")
    yield f"{_styled(label, style, options)}: {rest}"
    for violation in with_files(run, verdict.violations[: options.top or None]):
        is_error = violation.severity is Severity.ERROR
        label, style = ("  error ", _FAILURE) if is_error else ("  warn  ", _WARNING)
        yield from _paragraph(label, style, sentence(violation, quote), options)
    if options.top and len(verdict.violations) > options.top:
        yield _styled(f"  … and {len(verdict.violations) - options.top:,} more (--top 0 shows all)", _QUIET, options)
    for violation in with_files(run, verdict.waived):
        yield from _paragraph("  waived ", _QUIET, waived_line(violation, quote), options)


def _advice(run: RunResult, quote: Quote, options: ReportOptions) -> Iterator[str]:
    is_terminal = options.width is not None  # which has shown notes on inputs before the table
    shown = replace(run, notes=[note for note in run.notes if note.kind is not NoteKind.FAILED]) if is_terminal else run
    advice = [("warning: ", _WARNING, text) for text in warnings(shown, quote)]
    if not is_terminal:
        advice += [("note: ", _NOTE, text) for text in input_notes(run, quote)]
    advice += [("note: ", _NOTE, text) for text in notes(run, quote)]
    for index, (label, style, text) in enumerate(advice):
        yield from () if index else ("",)
        yield from _paragraph(label, style, text, options)


def table_lines(layout: FittedTable, options: ReportOptions) -> Iterator[str]:
    """Yield the titles, a rule and the rows."""
    titles = [[column.title] for column in layout.columns]
    yield from _rows(layout, titles, options, is_head=True)
    yield _styled("─" * layout.width, _QUIET, options)
    yield from _rows(layout, [column.cells for column in layout.columns], options)


def _rows(
    layout: FittedTable, cells: Sequence[Sequence[str]], options: ReportOptions, *, is_head: bool = False
) -> Iterator[str]:
    """Yield a line for each row; more where a name continues on the next line."""
    names = [cell.split("\n") for cell in cells[0]]
    columns = [[name for name, *_ in names], *cells[1:]]
    padded = []
    for column, width, texts in zip(layout.columns, layout.widths, columns, strict=True):
        style = _HEAD if is_head or column.name == options.sort else _COLUMNS.get(column.name)
        shown = {text: _cell(text, width, style, options, is_number=column.is_number) for text in set(texts)}
        padded.append([shown[text] for text in texts])
    for (_, *more), *row in zip(names, *padded, strict=True):
        yield GAP.join(row).rstrip()
        yield from more


def _cell(text: str, width: int, style: Style | None, options: ReportOptions, *, is_number: bool) -> str:
    padding = " " * (width - cell_len(text))
    padded = padding + text if is_number else text + padding
    return _styled(padded, style, options) if style and text != "0" else padded


def _paragraph(label: str, style: Style, text: str, options: ReportOptions) -> Iterator[str]:
    """Yield `text` beside a label, with a hanging indent."""
    available = max((options.width or _MAX_LINE) - len(label), 20)
    # `wrap` counts characters: two-cell characters get a temporary second one.
    filled = text if text.isascii() else "".join(char + _SECOND_CELL * (cell_len(char) - 1) for char in text)
    lines = wrap(filled, available, break_on_hyphens=False) or [""]
    first, *more = (line.replace(_SECOND_CELL, "") for line in lines)
    yield _styled(label, style, options) + first
    yield from (" " * len(label) + line for line in more)


def quoted(text: str, options: ReportOptions) -> str:
    """Escape and shorten untrusted text for a terminal."""
    return shorten(terminal(text, ascii_only=options.ascii_only), MAX_NAME, ellipsis=options.ellipsis)


def _styled(text: str, style: Style, options: ReportOptions) -> str:
    if not options.color:
        return text
    return style.render(text, color_system=ColorSystem.STANDARD, legacy_windows=False)

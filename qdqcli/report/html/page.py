"""HTML report, one file without network access: summary, verdict, SQNR by layer, a table, histograms.

Content that is readable without a script (and printed) is HTML and SVG made here; `page.js` sorts, filters and, when a
tensor is opened, draws its pictures from the data at the page's end; `page.css` has a light and a dark theme.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape as html_escape
from importlib.resources import files
from math import isfinite
from typing import Any

from qdqcli.report.channel import error_by_channel
from qdqcli.report.escape import NO_NAME, json_text, shorten, visible
from qdqcli.report.layers import layers_svg
from qdqcli.report.number import metric_title, metric_unit, row_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import ranked
from qdqcli.report.summary import LARGEST, LOWEST, WORST, facts, few, input_notes, notes, warnings
from qdqcli.report.table import MAX_NAME, headings
from qdqcli.report.verdict import headline, sentence, waived_line, with_files
from qdqcli.result.result import ROW_STATS, RunResult, TensorResult
from qdqcli.result.verdict import Severity, Verdict, Violation
from qdqcli.stats.metrics import METRICS, Better

_OPEN_VIOLATIONS, _MAX_VIOLATIONS = 10, 200
_CSP = "default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: the browser runs only scripts and styles with these digests."""


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Yield the page: all tensors, sorted by `options.sort`; `--top` is for tables that cannot be filtered."""
    for line in _lines(run, options):
        yield (line.encode("ascii", "xmlcharrefreplace").decode("ascii") if options.ascii_only else line) + "\n"


def _lines(run: RunResult, options: ReportOptions) -> Iterator[str]:
    rows = ranked(run, options.sort)
    style, script = f"\n{_asset('page.css')}", f"\n{_asset('page.js')}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    policy = _CSP.format(style=_digest(style), script=_digest(script))
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>Quantization error: {quote(run.inputs[0]) if run.inputs else ''}</title>"
    yield f"<style>{style}</style>\n</head>\n<body>"
    yield f"<header><h1>Quantization error</h1>\n<div class=quiet><code>qdq {quote(run.command)}</code> on "
    yield f"{few(run.inputs, quote)}</div></header>\n<main>"
    if run.verdict is not None:
        yield from _verdict(run, run.verdict)
    yield from _cards(run, options.sort)
    yield from (f'<p class="warn">Warning: {text}.</p>' for text in warnings(run, quote))
    yield from (f"<p class=quiet>Note: {text}.</p>" for text in (*input_notes(run, quote), *notes(run, quote)))
    in_order = list(run.quantized)
    if in_order:
        number_of = {id(row): index for index, row in enumerate(in_order)}
        yield "<h2>SQNR by layer, in the order of the checkpoint</h2>"
        yield from layers_svg(in_order, quote)
        yield from _table(run, rows, number_of, options.sort)
    yield f"</main>\n<footer>qdq {quote(run.version)}. e = y - x, in the tensor's own unit.</footer>"
    titles = _script_text([metric_title(name) for name in ROW_STATS])
    yield f'<script type="application/json" id="data">{{"metrics":{titles},"tensors":['
    for index, row in enumerate(in_order):
        yield ("," if index else "") + _script_text(_data(row))
    yield "]}</script>"
    yield f"<script>{script}</script>\n</body>\n</html>"


def quote(text: str) -> str:
    """Shorten and escape untrusted text for content and for quoted attributes."""
    return html_escape(shorten(visible(text), MAX_NAME).replace("##", "#\\x23")) or NO_NAME


def _verdict(run: RunResult, verdict: Verdict) -> Iterator[str]:
    kind = "kept" if verdict.passed else "exceeded"
    yield f'<section class="verdict {kind}"><strong>{headline(run, quote)}</strong>'
    shown = with_files(run, verdict.violations[:_MAX_VIOLATIONS])
    first, more = shown[:_OPEN_VIOLATIONS], shown[_OPEN_VIOLATIONS:]
    if first:
        yield from _list_of(first, start=1)
    if more:
        yield f"<details><summary>{len(verdict.violations) - len(first):,} more</summary>"
        yield from _list_of(more, start=len(first) + 1)
        if len(verdict.violations) > _MAX_VIOLATIONS:
            yield "<p class=quiet>The table below marks the tensors of all the others.</p>"
        yield "</details>"
    if verdict.waived:
        yield f"<details><summary>{len(verdict.waived):,} waived</summary><ul>"
        yield from (f"<li>{waived_line(violation, quote)}</li>" for violation in with_files(run, verdict.waived))
        yield "</ul></details>"
    yield "</section>"


def _list_of(violations: Sequence[Violation], *, start: int) -> Iterator[str]:
    yield f'<ol start="{start}">'
    for violation in violations:
        kind = "error" if violation.severity is Severity.ERROR else "warn"
        yield f'<li><span class="{kind}">{kind}</span> {sentence(violation, quote)}</li>'
    yield "</ol>"


def _cards(run: RunResult, sort: str) -> Iterator[str]:
    yield '<dl class="cards">'
    remarks = []
    for label, value in facts(run, sort, quote):
        if label in ("skipped", "", LOWEST, LARGEST, WORST):
            remarks.append(f"{label or 'skipped'}: {value}")
        else:
            yield f"<div><dt>{label}</dt><dd>{value}</dd></div>"
    yield "</dl>"
    yield from (f'<div class="quiet">{remark[0].upper()}{remark[1:]}</div>' for remark in remarks)


def _table(run: RunResult, rows: Sequence[TensorResult], number_of: dict[int, int], sort: str) -> Iterator[str]:
    columns = headings(rows, sort, quote)
    yield '<h2 id="all">Tensors</h2>\n<div class="tools" hidden>'
    yield '<input id="filter" type="search" placeholder="Filter: words of name, shape, dtype, settings" '
    yield 'aria-label="Filter tensors">'
    if run.verdict is not None and run.verdict.violations:
        yield '<label><input id="failing" type="checkbox"> with violations only</label>'
    yield '<span id="shown" class="quiet" aria-live="polite"></span></div>\n<div class="scroll"><table id="tensors">'
    heads = []
    for column in columns:
        kind = "number" if column.is_number else "text"
        better = METRICS[column.name].better if column.name in METRICS else Better.LOWER
        worst = "ascending" if better is Better.HIGHER else "descending"
        now = f' aria-sort="{worst}"' if column.name == sort else ""
        heads.append(
            f'<th scope="col" class="{kind}" data-kind="{kind}" data-worst="{worst}"{now}>'
            f"<button>{html_escape(column.title)}</button></th>"
        )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>"
    complaints = _complaints(run.verdict)
    for row in rows:
        index = number_of[id(row)]
        cells = []
        for column in columns:
            text = column.cell(row)
            if column.name == "tensor":
                cells.append(
                    f'<td class="name" data-value="{quote(row.source.name)}">'
                    f'<button aria-expanded="false">{text}</button></td>'
                )
            else:
                value = _sort_value(column.name, row, text)
                cells.append(f'<td{" class=number" if column.is_number else ""} data-value="{value}">{text}</td>')
        name = row.source.name
        kind = complaints.get((name, row.source.file), complaints.get((name, None), ""))
        yield f'<tr id="t{index}" data-index="{index}"{kind}>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _complaints(verdict: Verdict | None) -> dict[tuple[str | None, str | None], str]:
    found: dict[tuple[str | None, str | None], str] = {}
    for violation in () if verdict is None else reversed(verdict.violations):
        kind = ' class="violated"' if violation.severity is Severity.ERROR else ' class="warned"'
        for name in violation.tensors or (violation.tensor,):
            found[name, violation.file] = kind
    return found


def _sort_value(name: str, row: TensorResult, text: str) -> str:
    if name == "shape":
        return str(row.num_elements)
    if name not in ROW_STATS:
        return text
    value = row.stats[name]
    return "" if value is None else repr(value)


def _data(row: TensorResult) -> dict[str, Any]:
    """Return the data of a tensor's pictures."""
    data: dict[str, Any] = {
        "stats": [
            row_text(name, row) + (metric_unit(name) if row.stats[name] is not None else "") for name in ROW_STATS
        ],
        "range": _range(row),
        "ranges": row.num_slices,
    }
    if row.histograms is not None:
        for name, part in (("values", row.histograms.values), ("errors", row.histograms.errors)):
            data[name] = [part.low, part.high, list(part.counts)]
    if row.channels is not None and "rmse" in row.channels:
        data["channels"] = error_by_channel(row.channels)
    return data


def _range(row: TensorResult) -> list[float]:
    """Return the finite bounds of the range, which can be drawn."""
    ends = [end for end in (row.input_min, row.input_max) if end is not None and isfinite(end)]
    return ends if row.spec is not None and len(ends) == 2 else []


def _script_text(value: Any) -> str:
    """Return JSON without sequences that HTML parsers take for an end tag or a comment."""
    return json_text(value).replace("<", "\\u003c").replace(", ", ",").replace('": ', '":')


def _digest(text: str) -> str:
    """Return the Content-Security-Policy source of a script or style with this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("qdqcli.report.html").joinpath(name).read_text(encoding="ascii")

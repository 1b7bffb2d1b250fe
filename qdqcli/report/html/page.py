"""HTML report of a run: verdict, what to do, sizes, SQNR by layer, all tensors with their pictures, how it was made.

What is readable without a script (and printed) is HTML and SVG made here; `page.js` makes the rows of the table from
the data at the page's end, sorts, filters and draws an opened tensor; `page.css` has a light and a dark theme.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby

from qdqcli.report.escape import visible
from qdqcli.report.html.advice import advice
from qdqcli.report.html.document import document
from qdqcli.report.html.grid import Field, Form, Grid, grid_html, shared
from qdqcli.report.html.layers import chart_by_layer, matrix
from qdqcli.report.html.made import bytes_of, made, packed_bytes_of
from qdqcli.report.html.markup import cards_html, plain, quote, static_table
from qdqcli.report.html.pictures import pictures
from qdqcli.report.number import EXACT, NO_NUMBER, metric_text, metric_title, metric_unit, percent, row_text, size_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import BY_SHARE, DEFAULT_SORT, ranked, worst
from qdqcli.report.summary import LARGEST, LOWEST, facts, input_notes, notes, warnings
from qdqcli.report.table import dtype_text, group_text, inputs_table, shape_text, share_names, spec_text, troubles
from qdqcli.report.verdict import headline, sentence, waived_line, with_files
from qdqcli.result.group import naming
from qdqcli.result.packing import Packing
from qdqcli.result.result import ROW_STATS, RunResult, TensorResult
from qdqcli.result.verdict import Severity, Verdict, Violation
from qdqcli.stats.metrics import METRICS, Better

_OPEN_VIOLATIONS, _MAX_VIOLATIONS = 10, 200
_OPEN_INPUTS = 3
"""Number of inputs whose charts are open at first."""
_LARGEST = "largest share of the error"
_SHOWN = ("share", "max_abs_error", "rmse", "clipped_fraction", "zeroed_fraction")
"""Metrics in the table beside the SQNR; the others are shown for an opened tensor."""
_FORMS: Mapping[str, Form] = {
    "sqnr_db": "db",
    "cosine_similarity": "fixed6",
    "bits_per_weight": "fixed3",
    **dict.fromkeys(("share", "clipped_fraction", "zeroed_fraction"), "percent"),
    **dict.fromkeys(("num_elements", "num_nonfinite", "num_nonfinite_output", "num_degenerate"), "count"),
}  # fmt: skip


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Yield the page: all tensors, sorted by `options.sort`; `--top` is for tables that cannot be filtered."""
    rows = list(run.quantized)
    states = _states(run, rows)
    grid = _grid(run, rows, states, options.sort)
    main = _main(run, grid, states, options)
    for piece in document("Quantization error", run.command, run.inputs, run.version, main, grid):
        yield piece.encode("ascii", "xmlcharrefreplace").decode("ascii") if options.ascii_only else piece


def _main(run: RunResult, grid: Grid[TensorResult], states: Sequence[str], options: ReportOptions) -> Iterator[str]:
    if run.verdict is not None:
        yield from _verdict(run, run.verdict)
    yield from _cards(run, states)
    yield from advice(run, states)
    yield from (f'<p class="warn">Warning: {text}.</p>' for text in warnings(run, quote))
    yield from (f"<p class=quiet>Note: {text}.</p>" for text in (*input_notes(run, quote), *notes(run, quote)))
    if inputs := inputs_table(run, options, quote):
        yield "<h2>Inputs</h2>"
        yield from static_table(inputs)
    if grid.rows:
        yield from _by_input(run, grid.rows, states)
        yield '<h2 id="all">Tensors</h2>'
        yield from grid_html(grid)
    yield from made(run)


def _by_input(run: RunResult, rows: Sequence[TensorResult], states: Sequence[str]) -> Iterator[str]:
    """Yield chart and matrix of each input."""
    yield "<h2>SQNR by layer</h2>"
    if len(run.inputs) < 2:
        yield from _by_layer(rows, states, 0)
        return
    input_of = naming("input", run.inputs)
    first = 0
    for number, (name, own) in enumerate(groupby(rows, key=lambda row: input_of(row.source))):
        part = list(own)
        yield f"<details{' open' if number < _OPEN_INPUTS else ''}><summary><h3>{quote(name)}</h3></summary>"
        yield from _by_layer(part, states[first : first + len(part)], first)
        yield "</details>"
        first += len(part)


def _by_layer(rows: Sequence[TensorResult], states: Sequence[str], first: int) -> Iterator[str]:
    yield '<div class="beside">'
    yield from chart_by_layer(rows, states, first)
    yield from matrix(rows, states)
    yield "</div>"


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


def _cards(run: RunResult, states: Sequence[str]) -> Iterator[str]:
    """Yield the figures of the whole run, each with a remark."""
    found = list(facts(run, DEFAULT_SORT, quote))
    known = dict(found)
    cards = []
    if "SQNR" in known:
        cards.append(("SQNR of all elements", known["SQNR"], ""))
    if run.verdict is not None and states:
        passed = sum(state not in ("error", "warn") for state in states)
        cards.append(("tensors that pass", percent(passed / len(states)), f"{passed:,} of {len(states):,}"))
    for label, title, metric, unit in ((LOWEST, LOWEST, DEFAULT_SORT, " dB"), (LARGEST, _LARGEST, BY_SHARE, "")):
        if label in known:
            row = worst(run, metric)
            cards.append((title, row_text(metric, row) + unit, quote(row.source.name)))
    cards += _sizes(run)
    for label in ("quantized", "compared"):
        if label in known:
            elements = f"{known['elements']} elements" if "elements" in known else ""
            cards.append((label, known[label], elements))
    yield from cards_html(cards)
    label = ""
    for key, value in found:
        label = key or label
        if label in ("skipped", "verified"):
            yield f"<div class=quiet>{label.capitalize()}: {value}</div>"


def _sizes(run: RunResult) -> Iterator[tuple[str, str, str]]:
    bits = run.summary["bits_per_weight"]
    if bits is None:
        return
    before, after = sum(map(bytes_of, run.rows)), sum(map(packed_bytes_of, run.rows))
    if before and after:
        yield "size, packed", size_text(after), f"before: {size_text(before)}, {before / after:.2f} times as much"
    yield "bits/weight", metric_text("bits_per_weight", bits), "scales included"


def _states(run: RunResult, rows: Sequence[TensorResult]) -> list[str]:
    """Return the verdict on each row: the worst of its violations, `waived`, or nothing."""
    if run.verdict is None:
        return [""] * len(rows)
    found: dict[tuple[str | None, str | None], str] = {}
    errors, warned = run.verdict.errors, run.verdict.warnings
    for state, violations in (("waived", run.verdict.waived), ("warn", warned), ("error", errors)):
        for violation in violations:
            for name in violation.tensors or (violation.tensor,):
                found[name, violation.file] = state
    names = [(row.source.name, row.source.file) for row in rows]
    return [found.get((name, file), found.get((name, None), "")) for name, file in names]


def _grid(run: RunResult, rows: Sequence[TensorResult], states: Sequence[str], sort: str) -> Grid[TensorResult]:
    number_of = {id(row): index for index, row in enumerate(rows)}
    state_of = {id(row): state for row, state in zip(rows, states, strict=True)}
    fields, in_every_row = shared(_fields(run, rows, state_of, sort), rows, ["tensor", "sqnr_db", "verdict", sort])
    return Grid(
        noun="tensors",
        rows=rows,
        order=[number_of[id(row)] for row in ranked(run, sort)],
        fields=fields,
        in_every_row=in_every_row,
        sort="tensor" if sort == "name" else sort,
        details=lambda index: pictures(rows[index]),
    )


def _fields(
    run: RunResult, rows: Sequence[TensorResult], state_of: Mapping[int, str], sort: str
) -> Iterator[Field[TensorResult]]:
    """Yield the columns; the SQNR is beside the name, where a phone shows it."""
    text = partial(Field[TensorResult], form="text", worst="ascending")
    yield text(name="tensor", title="tensor", value=lambda row: plain(row.source.name))
    yield _metric("sqnr_db")
    if run.verdict is not None:
        yield text(name="verdict", title="verdict", value=lambda row: state_of[id(row)])
    if any(row.bound is not None for row in rows):
        yield from _of_limits(rows)
    if any(row.packing is not None for row in rows):
        yield from _of_packing()
    if any(row.baseline_db is not None for row in rows):
        yield Field(name="before", title="before dB", form="db", worst="ascending", value=lambda row: row.baseline_db)
        yield Field(name="change", title="change dB", form="signed", worst="ascending", value=_change)
    if len(run.inputs) > 1:
        input_of = naming("input", run.inputs)
        yield text(name="input", title="input", value=lambda row: plain(input_of(row.source)))
    shown = [name for name in _SHOWN if any(row.stats[name] is not None for row in rows)]
    yield from map(_metric, shown)
    if share_names(rows):
        yield text(name="file", title="file", value=lambda row: plain(row.source.file))
    if any(row.spec is not None for row in rows):
        yield text(name="bits", title="bits", value=lambda row: spec_text(row.spec, visible, row.source.shape))
    yield text(name="shape", title="shape", value=lambda row: shape_text(row.source.shape))
    yield text(name="dtype", title="dtype", value=lambda row: dtype_text(row, visible))
    special = [*troubles(rows), *([sort] if sort in ROW_STATS else [])]
    for name in ROW_STATS:
        if name != "sqnr_db" and name not in shown:
            yield _metric(name, is_shown=name in special)


def _metric(name: str, *, is_shown: bool = True) -> Field[TensorResult]:
    better = METRICS[name].better if name in METRICS else Better.LOWER
    return Field(
        name=name,
        title=metric_title(name) + metric_unit(name),
        form=_FORMS.get(name, "digits"),
        value=lambda row: EXACT if name == "sqnr_db" and row.is_unchanged else row.stats[name],
        worst="ascending" if better is Better.HIGHER else "descending",
        is_shown=is_shown,
    )


def _of_limits(rows: Sequence[TensorResult]) -> Iterator[Field[TensorResult]]:
    """Yield limit and margin of each tensor's nearest limit; the limit names its metric unless all are of the SQNR."""
    metrics = {row.bound.metric for row in rows if row.bound is not None}
    if metrics == {"sqnr_db"}:
        yield Field(name="limit", title="limit dB", form="db", value=lambda row: row.bound and row.bound.limit)
    else:
        yield Field(name="limit", title="limit", form="text", worst="ascending", value=_limit_text)
    yield Field(name="margin", title="margin dB", form="signed", worst="ascending",
                value=lambda row: row.bound and row.bound.margin_db)  # fmt: skip


def _of_packing() -> Iterator[Field[TensorResult]]:
    """Yield how packed weights are stored, and the SQNR that plain rounding would give."""
    texts: dict[str, Callable[[Packing, TensorResult], str]] = {
        "format": lambda packing, _: plain(packing.storage.format),
        "bits": lambda packing, _: str(packing.storage.grid.bits),
        "group": lambda packing, row: group_text(packing, row.source.shape),
    }

    def value_of(text: Callable[[Packing, TensorResult], str]) -> Callable[[TensorResult], str]:
        return lambda row: NO_NUMBER if row.packing is None else text(row.packing, row)

    yield Field(name="expected", title="expected dB", form="db", worst="ascending",
                value=lambda row: row.packing and row.packing.expected_sqnr_db)  # fmt: skip
    for name, text in texts.items():
        yield Field(name=name, title=name, form="text", worst="ascending", value=value_of(text))


def _limit_text(row: TensorResult) -> str:
    if row.bound is None:
        return NO_NUMBER
    value = metric_text(row.bound.metric, row.bound.limit)
    return f"{visible(metric_title(row.bound.metric))} {value}{metric_unit(row.bound.metric)}"


def _change(row: TensorResult) -> float | None:
    value = row.stats["sqnr_db"]
    return None if value is None or row.baseline_db is None else value - row.baseline_db

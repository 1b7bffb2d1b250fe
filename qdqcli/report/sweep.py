"""Report of a sweep in each format: settings side by side, or tensors by settings."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from qdqcli.plain import JsonObject
from qdqcli.recipe.sweep import Sweep
from qdqcli.report import escape, markdown
from qdqcli.report.csv import csv_line
from qdqcli.report.forms import Forms, json_lines
from qdqcli.report.layout import fit
from qdqcli.report.number import EXACT, NO_NUMBER, metric_text, size_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import BY_SHARE, DEFAULT_SORT, worst
from qdqcli.report.table import Column, Quote, column
from qdqcli.report.text import quoted, table_lines
from qdqcli.result.result import RunResult, TensorResult, header_to_json, row_to_json, summary_to_json
from qdqcli.study.saved import sums_to_json

DOMINATED = "dominated"
BY_TENSOR = "tensor"


class SweepView(NamedTuple):
    """A sweep, and what a row of its tables is."""

    sweep: Sweep
    by: str | None = None
    """`tensor`: a row per tensor; None: a row per setting."""


def columns(sweep: Sweep, quote: Quote) -> list[Column]:
    """Return one row per setting: size, loss and outstanding tensors."""
    marks = [DOMINATED if is_dominated else "" for is_dominated in sweep.dominated()]
    texts, numbers = partial(column, rows=sweep.results), partial(column, rows=sweep.results, is_number=True)
    return [
        column("setting", "setting", sweep.settings, lambda setting: setting.name),
        numbers("bits", "bits/weight", cell=lambda r: metric_text("bits_per_weight", r.summary["bits_per_weight"])),
        numbers("size", "size", cell=lambda r: size_text(stored_bytes(r))),
        numbers("sqnr", "SQNR dB", cell=_sqnr),
        texts("lowest", "lowest tensor", cell=lambda r: _standing_out(r, DEFAULT_SORT, quote)),
        texts("share", "largest share", cell=lambda r: _standing_out(r, BY_SHARE, quote)),
        *([column("mark", "", marks, str)] if any(marks) else []),
    ]


def stored_bytes(result: RunResult) -> int:
    """Return the bytes of all codes and scales, rounded up."""
    return -(-sum(row.stored_bits or 0 for row in result.quantized) // 8)


def columns_by_tensor(sweep: Sweep, quote: Quote) -> list[Column]:
    """Return one row per tensor that some setting measured: its SQNR under each setting."""
    kept = [number for number, rows in enumerate(zip(*(r.rows for r in sweep.results), strict=True))
            if any(isinstance(row, TensorResult) for row in rows)]  # fmt: skip
    return [
        column("tensor", "tensor", kept, lambda number: quote(sweep.results[0].rows[number].source.name)),
        *(
            column(setting.name, setting.name, kept, partial(_cell, result), is_number=True)
            for setting, result in zip(sweep.settings, sweep.results, strict=True)
        ),
    ]


def _cell(result: RunResult, number: int) -> str:
    row = result.rows[number]
    if not isinstance(row, TensorResult):
        return NO_NUMBER
    return EXACT if row.is_exact else metric_text("sqnr_db", row.stats["sqnr_db"])


def _sqnr(result: RunResult) -> str:
    return EXACT if result.is_exact else metric_text("sqnr_db", result.summary["sqnr_db"])


def _standing_out(result: RunResult, metric: str, quote: Quote) -> str:
    """Return the worst tensor by a metric, with its value."""
    if not any(result.quantized):
        return NO_NUMBER
    found = worst(result, metric)
    value = metric_text(metric, found.stats[metric])
    return f"{value} {quote(found.source.name)}"


def _chosen(view: SweepView, quote: Quote) -> list[Column]:
    return columns_by_tensor(view.sweep, quote) if view.by == BY_TENSOR else columns(view.sweep, quote)


def _table(view: SweepView, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    shown = _chosen(view, quote)
    layout = fit(shown, "setting", options.width, options.ellipsis, dropped=("share", "lowest", "size"))
    yield from table_lines(layout, options)
    yield from layout.remarks
    yield ""
    yield from _notes(*view)


def _notes(sweep: Sweep, by: str | None) -> Iterator[str]:
    skipped = [sum(1 for row in result.rows if not isinstance(row, TensorResult)) for result in sweep.results]
    measured = [len(result.rows) - count for result, count in zip(sweep.results, skipped, strict=True)]
    if len(set(measured)) > 1:
        yield "Settings were not measured on the same tensors: a shape forbids some; compare only equal counts."
        for setting, count in zip(sweep.settings, measured, strict=True):
            yield f"  {setting.name}: {count:,} tensors"
    else:
        yield f"{measured[0]:,} tensors measured under {len(measured):,} settings"
    if by is None and any(sweep.dominated()):
        yield f"{DOMINATED}: another setting needs no more bits and loses no more"


def _markdown(view: SweepView, options: ReportOptions) -> Iterator[str]:
    yield from markdown.table_lines(_chosen(view, partial(markdown.quoted, options=options)))
    yield ""
    yield from _notes(*view)


def common_settings(sweep: Sweep) -> JsonObject:
    """Return the settings that do not differ between the columns of a sweep."""
    return {
        k: v for k, v in header_to_json(sweep.results[0])["settings"].items() if k not in sweep.settings[0].to_json()
    }


def sweep_to_json(sweep: Sweep) -> JsonObject:
    """Return the JSON report: `results` has one entry per setting, with `sums` for `plan --from`."""
    head = header_to_json(sweep.results[0])
    head["settings"] = common_settings(sweep)
    head["results"] = [
        {
            "setting": {"name": setting.name, **setting.to_json()},
            "dominated": is_dominated,
            "stored_bytes": stored_bytes(result),
            "summary": summary_to_json(result),
            "tensors": [row_to_json(row) for row in result.rows],
            "sums": sums_to_json(result),
        }
        for setting, result, is_dominated in zip(sweep.settings, sweep.results, sweep.dominated(), strict=True)
    ]
    return head


def _jsonl(view: SweepView, _options: ReportOptions) -> Iterator[str]:
    data = sweep_to_json(view.sweep)
    results = data.pop("results")
    yield escape.json_text(data)
    yield from map(escape.json_text, results)


_CSV = ("setting", "num_bits", "signed_input", "axis", "group_size", "estimator", "percentile",
        "name", "file", "status", "reason")  # fmt: skip
_CSV_STATS = ("num_elements", "bits_per_weight", "sqnr_db", "relative_l2", "mse", "max_abs_error", "share")


def _csv(view: SweepView, options: ReportOptions) -> Iterator[str]:
    text = partial(escape.csv_cell, ascii_only=options.ascii_only)
    yield ",".join((*_CSV, *_CSV_STATS))
    for setting, result in zip(view.sweep.settings, view.sweep.results, strict=True):
        for row in result.rows:
            if isinstance(row, TensorResult):
                found = "quantized", None, *(row.stats[name] for name in _CSV_STATS)
            else:
                found = "skipped", text(row.reason), *[None] * len(_CSV_STATS)
            names = text(row.source.name), text(row.source.file)
            yield csv_line((setting.name, *setting.to_json().values(), *names, *found))


SWEEP = Forms[SweepView](
    what="a sweep",
    lines={
        "table": _table,
        "json": json_lines(lambda view: sweep_to_json(view.sweep)),
        "jsonl": _jsonl,
        "csv": _csv,
        "markdown": _markdown,
    },
    page="qdqcli.report.html.sweep_page:page",
)

"""Report of the convention lab: conventions side by side under each setting."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from qdqcli.plain import JsonObject
from qdqcli.report import escape, markdown
from qdqcli.report.forms import Forms, json_lines
from qdqcli.report.layout import fit
from qdqcli.report.number import EXACT, NO_NUMBER, counted, metric_text, percent
from qdqcli.report.options import ReportOptions
from qdqcli.report.table import Column, column
from qdqcli.report.text import table_lines
from qdqcli.result.result import finite, header_to_json
from qdqcli.study.conventions import Comparison, Lab, Loss, Measured, Skipped

_DROPPED_FIRST = ("library", "range", "scale")


def columns_of(lab: Lab, number: int) -> list[Column]:
    """Return one row per convention under setting `number`."""
    found = lab.comparisons(number)
    bits = lab.columns[number].num_bits
    texts, numbers = partial(column, rows=found), partial(column, rows=found, is_number=True)
    return [
        texts("convention", lab.columns[number].name, cell=lambda c: c.convention.name),
        texts("scale", "scale", cell=lambda c: c.convention.formula(bits)),
        texts("library", "arithmetic of", cell=lambda c: c.convention.library),
        numbers("sqnr", "SQNR dB", cell=lambda c: _sqnr(c.total)),
        numbers("gain", "mean dB", cell=lambda c: _gain(c.mean_gain)),
        numbers("range", "lowest to highest", cell=_range),
        numbers("differ", "differ", cell=lambda c: percent(c.total.share_different)),
    ]


def _sqnr(loss: Loss) -> str:
    return EXACT if loss.errors == 0 else metric_text("sqnr_db", finite(loss.sqnr_db))


def _gain(gain: float | None) -> str:
    return NO_NUMBER if gain is None else f"{gain:+.2f}"


def _range(comparison: Comparison) -> str:
    gains = comparison.gains
    return f"{_gain(min(gains))} to {_gain(max(gains))}" if gains else NO_NUMBER


def _table(lab: Lab, options: ReportOptions) -> Iterator[str]:
    for number in _measured(lab):
        layout = fit(columns_of(lab, number), "gain", options.width, options.ellipsis, _DROPPED_FIRST)
        yield from table_lines(layout, options)
        yield from layout.remarks
        yield ""
    yield from _notes(lab)


def _markdown(lab: Lab, _options: ReportOptions) -> Iterator[str]:
    for number in _measured(lab):
        yield from markdown.table_lines(columns_of(lab, number))
        yield ""
    yield from _notes(lab)


def _measured(lab: Lab) -> list[int]:
    """Return the settings under which some tensor was measured."""
    return [number for number, rows in enumerate(lab.rows) if any(isinstance(row, Measured) for row in rows)]


def _notes(lab: Lab) -> Iterator[str]:
    counts = [sum(isinstance(row, Measured) for row in rows) for rows in lab.rows]
    told = ", ".join(f"{setting.name}: {count:,}" for setting, count in zip(lab.columns, counts, strict=True))
    yield counted(counts[0], "tensor") if len(set(counts)) == 1 else f"tensors: {told}"
    reasons = [Counter(row.reason for row in rows if isinstance(row, Skipped)) for rows in lab.rows]
    for reason in dict.fromkeys(reason for found in reasons for reason in found):
        yield f"skipped: {counted(max(found[reason] for found in reasons), 'tensor')}: {escape.terminal(reason)}"
    yield "mean dB: SQNR less that of this op, mean over the tensors; differ: share of elements with another value"


def _to_json(lab: Lab) -> JsonObject:
    results: list[JsonObject] = [
        {
            "setting": {"name": setting.name, **setting.to_json()},
            "conventions": [_comparison_to_json(c, setting.num_bits) for c in lab.comparisons(number)],
            "tensors": [
                {"name": row.source.name, "file": row.source.file, **_row_to_json(row)} for row in lab.rows[number]
            ],
        }
        for number, setting in enumerate(lab.columns)
    ]
    return {**header_to_json(lab), "results": results}


def _comparison_to_json(comparison: Comparison, num_bits: int) -> JsonObject:
    gains = comparison.gains
    return {
        "name": comparison.convention.name,
        "scale": comparison.convention.formula(num_bits),
        "library": comparison.convention.library,
        **_loss_to_json(comparison.total),
        "mean_gain_db": comparison.mean_gain,
        "lowest_gain_db": min(gains, default=None),
        "highest_gain_db": max(gains, default=None),
    }


def _row_to_json(row: Measured | Skipped) -> JsonObject:
    if isinstance(row, Skipped):
        return {"status": "skipped", "reason": row.reason}
    losses = {convention.name: _loss_to_json(loss) for convention, loss in row.losses}
    return {"status": "measured", "num_elements": row.losses[0][1].count, "conventions": losses}


def _loss_to_json(loss: Loss) -> JsonObject:
    exact = {"exact": True} if loss.errors == 0 else {}
    return {"sqnr_db": finite(loss.sqnr_db), **exact, "share_different": loss.share_different}


LAB = Forms[Lab](
    what="a comparison of conventions",
    lines={
        "table": _table,
        "json": json_lines(_to_json),
        "markdown": _markdown,
    },
)

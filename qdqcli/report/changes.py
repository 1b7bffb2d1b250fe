"""Report of two earlier reports side by side: how the SQNR of each tensor changed, the largest loss first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite

from qdqcli import __version__
from qdqcli.plain import JsonObject
from qdqcli.recipe.pairing import counterparts, located
from qdqcli.report import escape, markdown
from qdqcli.report.csv import csv_line
from qdqcli.report.forms import Forms, json_lines
from qdqcli.report.layout import fit
from qdqcli.report.number import NO_NUMBER, metric_text, row_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import hidden
from qdqcli.report.table import Column, Quote, column, spec_text
from qdqcli.report.text import quoted, table_lines
from qdqcli.result.result import SCHEMA_VERSION, RunResult, Source, TensorResult, finite, row_to_json

SQNR, BITS = "sqnr_db", "bits_per_weight"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One tensor in two reports; None where one did not measure it."""

    before: TensorResult | None
    after: TensorResult | None

    @property
    def source(self) -> Source:
        row = self.after or self.before
        assert row is not None
        return row.source

    @property
    def db(self) -> float | None:
        """Gain in dB, negative for a loss; infinite from or to a lossless tensor; None where it is not in both."""
        was, now = _sqnr(self.before), _sqnr(self.after)
        if was is None or now is None:
            return None
        return 0.0 if was == now else now - was


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Two reports, with their tensors paired."""

    before: RunResult
    after: RunResult
    names: tuple[str, str]
    """The two files, as the user gave them."""
    settings: Sequence[tuple[str, str, str]]
    """Name, old and new value of each setting that differs."""
    rows: Sequence[Change]

    @classmethod
    def of(
        cls, before: RunResult, after: RunResult, names: tuple[str, str], settings: Sequence[tuple[str, str, str]]
    ) -> "Changes":
        """Pair the measured tensors, the largest loss first."""
        old, new = list(before.quantized), list(after.quantized)
        numbers = counterparts(list(located(after, new)), list(located(before, old)))
        rows = [
            Change(before=None if number is None else old[number], after=row)
            for row, number in zip(new, numbers, strict=True)
        ]
        rows += [Change(before=row, after=None) for number, row in enumerate(old) if number not in set(numbers)]
        rows.sort(key=lambda change: (change.db is None, change.db or 0.0, change.source.name))
        return cls(before=before, after=after, names=names, settings=settings, rows=rows)


def _sqnr(row: TensorResult | None) -> float | None:
    if row is None:
        return None
    value = row.stats[SQNR]
    return float(value) if value is not None else inf if row.is_unchanged else None


def _columns(rows: Sequence[Change], quote: Quote) -> list[Column]:
    before, after = [change.before for change in rows], [change.after for change in rows]

    def known(text: Callable[[TensorResult], str]) -> Callable[[TensorResult | None], str]:
        return lambda row: NO_NUMBER if row is None else text(row)

    bits = known(lambda row: spec_text(row.spec, quote, row.source.shape))
    sqnr, share = known(partial(row_text, SQNR)), known(partial(row_text, "share"))
    are_equal = list(map(bits, before)) == list(map(bits, after))
    return [
        column("tensor", "tensor", rows, lambda change: quote(change.source.name)),
        *([] if are_equal else [column("bits", "bits before", before, bits)]),
        column("bits after", "bits" if are_equal else "bits after", after, bits),
        column("before", "SQNR dB before", before, sqnr, is_number=True),
        column(SQNR, "after", after, sqnr, is_number=True),
        column("change", "change", rows, lambda change: _signed(change.db), is_number=True),
        column("share", "share", after, share, is_number=True),
    ]


def _signed(db: float | None) -> str:
    if db is None or not isfinite(db):
        return NO_NUMBER
    return f"{db:+.2f}" if round(db, 2) else "0"


def _facts(changes: Changes, quote: Quote) -> Iterator[tuple[str, str]]:
    before, after = changes.before.summary, changes.after.summary
    both = sum(change.before is not None and change.after is not None for change in changes.rows)
    only = [sum(change.after is None for change in changes.rows), sum(change.before is None for change in changes.rows)]
    equal = sum(change.db == 0 for change in changes.rows)
    parts = [f"{both:,} in both, {equal:,} of them with the same SQNR"]
    parts += [f"{number:,} only {side}" for number, side in zip(only, ("before", "after"), strict=True) if number]
    yield "tensors", ", ".join(parts)
    for title, metric, unit in (("bits/weight", BITS, ""), ("SQNR", SQNR, " dB")):
        was, now = before[metric], after[metric]
        change = "" if was is None or now is None else f" ({now - was:+.2f}{unit})"
        yield title, f"{metric_text(metric, was)} before, {metric_text(metric, now)}{unit} after{change}"
    for name, old, new in changes.settings:
        yield quote(name), f"{quote(old)} before, {quote(new)} after"


def _shown(changes: Changes, options: ReportOptions) -> tuple[Sequence[Change], int]:
    """Return the rows that changed, at most `top`, and the number of those left out."""
    changed = [change for change in changes.rows if change.db != 0]
    top = changed[: options.top or None]
    return top, len(changed) - len(top)


def _table(changes: Changes, options: ReportOptions) -> Iterator[str]:
    quote = partial(quoted, options=options)
    rows, num_hidden = _shown(changes, options)
    if rows:
        layout = fit(_columns(rows, quote), "change", options.width, options.ellipsis)
        yield from table_lines(layout, options)
        yield from (*hidden(num_hidden), *layout.remarks, "")
    yield from (f"{title:<14} {text}" for title, text in _facts(changes, quote))


def _markdown(changes: Changes, options: ReportOptions) -> Iterator[str]:
    quote = partial(markdown.quoted, options=options)
    rows, num_hidden = _shown(changes, options)
    if rows:
        yield from markdown.table_lines(_columns(rows, quote))
        yield from ("", *(line for remark in hidden(num_hidden) for line in (remark, "")))
    yield from (f"- {title}: {text}" for title, text in _facts(changes, quote))


def _to_json(changes: Changes) -> JsonObject:
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "qdq", "version": __version__},
        "command": "compare",
        "inputs": list(changes.names),
        "settings": [{"name": name, "before": old, "after": new} for name, old, new in changes.settings],
        "summary": {"before": dict(changes.before.summary), "after": dict(changes.after.summary)},
        "tensors": [
            {"name": change.source.name, "file": change.source.file, "change_db": finite(change.db),
             "before": _side(change.before), "after": _side(change.after)}
            for change in changes.rows
        ],
    }  # fmt: skip


def _side(row: TensorResult | None) -> Mapping[str, object] | None:
    if row is None:
        return None
    data = row_to_json(row)
    return {"spec": data["spec"], "stats": data["stats"]}


def _csv(changes: Changes, options: ReportOptions) -> Iterator[str]:
    text = partial(escape.csv_cell, ascii_only=options.ascii_only)
    yield "name,file,sqnr_db_before,sqnr_db_after,change_db,bits_per_weight_before,bits_per_weight_after"
    for change in changes.rows:
        sides = (change.before, change.after)
        figures = [None if row is None else row.stats[metric] for metric in (SQNR, BITS) for row in sides]
        names = text(change.source.name), text(change.source.file)
        yield csv_line((*names, *figures[:2], finite(change.db), *figures[2:]))


CHANGES = Forms[Changes](
    what="a comparison of reports",
    lines={
        "table": _table,
        "json": json_lines(_to_json),
        "csv": _csv,
        "markdown": _markdown,
    },
)

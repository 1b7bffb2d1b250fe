"""A list of tensors and what would happen to each, in every format that a report has."""

from collections.abc import Iterator, Sequence
from csv import writer
from functools import partial
from io import StringIO

from qdqcli.errors import UsageError
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.listing import ListedTensor, Listing, listing_to_json
from qdqcli.report import escape
from qdqcli.report.explanation import decided_text, ranked_places
from qdqcli.report.layout import fit
from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import note_text
from qdqcli.report.table import MAX_NAME, Column, Quote, shape_text, spec_text
from qdqcli.report.text import table_lines
from qdqcli.result.result import range_to_json

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


LISTING_FORMATS = ("table", "json", "jsonl", "csv", "markdown")
"""The others are of findings, which a listing has none of."""


def render(listing: Listing, format_name: str, options: ReportOptions) -> str:
    """The listing in one of `LISTING_FORMATS`, tensors in the checkpoint's order.

    Raises:
        UsageError: another format.
    """
    if format_name not in LISTING_FORMATS:
        raise UsageError(f"a list of tensors has no {format_name} form; choose one of {', '.join(LISTING_FORMATS)}")
    pieces = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv, "markdown": _markdown}[format_name]
    text = "".join(line + "\n" for line in pieces(listing, options))
    return escape.ascii_symbols(text) if options.ascii_only and format_name in ("table", "markdown") else text


def size_text(num_bytes: int) -> str:
    """Bytes with a decimal unit and three digits: `90.9 MB`."""
    size, unit = float(num_bytes), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{num_bytes} B" if not unit else f"{size:.3g} {_UNITS[unit]}"


def _table(listing: Listing, options: ReportOptions) -> Iterator[str]:
    def quote(text: str) -> str:
        shown = escape.terminal(text, ascii_only=options.ascii_only)
        return escape.shorten(shown, MAX_NAME, ellipsis=options.ellipsis)

    if listing.tensors:
        layout = fit(_columns(listing.tensors, quote), "name", options.width, options.ellipsis)
        yield from table_lines(layout, options)
        yield from layout.remarks
        yield ""
    yield from _totals(listing)
    if options.width is None:  # a terminal has them already
        yield from _notes(listing, quote)


def _markdown(listing: Listing, options: ReportOptions) -> Iterator[str]:
    def quote(text: str) -> str:
        shown = escape.visible(text, ascii_only=options.ascii_only)
        return escape.markdown(escape.shorten(shown, MAX_NAME, ellipsis=options.ellipsis))

    columns = _columns(listing.tensors, quote)
    yield f"| {' | '.join(column.title for column in columns)} |"
    yield f"| {' | '.join('--:' if column.is_number else ':--' for column in columns)} |"
    for cells in zip(*(column.cells for column in columns), strict=True):
        yield f"| {' | '.join(map(escape.markdown_cell, cells))} |"
    yield ""
    yield from _totals(listing)
    yield from _notes(listing, quote)


def _notes(listing: Listing, quote: Quote) -> Iterator[str]:
    for note in listing.notes:
        yield ""
        yield f"{'warning' if note.is_warning else 'note'}: {note_text(note, quote)}"


def _columns(tensors: Sequence[ListedTensor], quote: Quote) -> list[Column]:
    def column(name: str, title: str, cells: Sequence[str], *, is_number: bool = False) -> Column:
        return Column(name=name, title=title, cells=cells, is_number=is_number)

    has_recipe = any(t.decided_by is not None for t in tensors)
    ranges = [name for name in ("input_min", "input_max", "num_nonfinite") if any(name in t.ranges for t in tensors)]
    ends = ("lowest min", "highest max") if any(t.estimated for t in tensors) else ()
    return [
        column("tensor", "tensor", [quote(t.source.name) for t in tensors]),
        column("dtype", "dtype", [escape.word(t.source.dtype, quote) for t in tensors]),
        column("shape", "shape", [shape_text(t.source.shape) for t in tensors], is_number=True),
        column("size", "size", [size_text(t.num_bytes) for t in tensors], is_number=True),
        column("packed", "packed", [size_text(t.num_quantized_bytes) for t in tensors], is_number=True),
        column("becomes", "becomes", [_becomes(t, quote) for t in tensors]),
        column(
            "bits", "bits/weight", [metric_text("bits_per_weight", t.bits_per_weight) for t in tensors], is_number=True
        ),
        *([column("decided", "decided by", [_decided_by(t, quote) for t in tensors])] if has_recipe else []),
        *(
            column(name, metric_title(name), [metric_text(name, t.ranges.get(name)) for t in tensors], is_number=True)
            for name in ranges
        ),
        *(
            column(
                title,
                title,
                [metric_text("input_min", t.estimated and t.estimated[k]) for t in tensors],
                is_number=True,
            )
            for k, title in enumerate(ends)
        ),
    ]


def _becomes(tensor: ListedTensor, quote: Quote) -> str:
    if isinstance(tensor.decision, Skip):
        return f"as it is: {quote(tensor.decision.reason)}"
    ranges = f" ({tensor.num_slices:,} ranges)" if tensor.num_slices > 1 else ""
    return spec_text(tensor.decision, quote) + ranges


def _decided_by(tensor: ListedTensor, quote: Quote) -> str:
    return ", ".join(map(quote, ranked_places(tensor.decided_by or {}))) or NO_NUMBER


def _totals(listing: Listing) -> Iterator[str]:
    s = listing.summary
    yield (
        f"{counted(len(listing.tensors), 'tensor')}, {size_text(int(s['num_bytes'] or 0))}; to quantize: "
        f"{counted(int(s['num_quantized'] or 0), 'tensor')} with {counted(int(s['num_elements'] or 0), 'element')}"
    )
    if s["bits_per_weight"] is not None:
        yield (
            f"packed, codes and scales included: {size_text(int(s['num_quantized_bytes'] or 0))} in all, "
            f"{s['bits_per_weight']:.3f} bits per quantized weight"
        )


def _json(listing: Listing, _options: ReportOptions) -> Iterator[str]:
    yield escape.json_text(listing_to_json(listing), indent=2)


def _jsonl(listing: Listing, _options: ReportOptions) -> Iterator[str]:
    data = listing_to_json(listing)
    tensors, summary = data.pop("tensors"), data.pop("summary")
    yield escape.json_text(data)
    yield from map(escape.json_text, tensors)
    yield escape.json_text({"summary": summary})


def _csv(listing: Listing, options: ReportOptions) -> Iterator[str]:
    columns = (*("name", "file", "dtype", "shape", "num_bytes", "num_elements", "status", "reason", "settings"),
               *("num_ranges", "bits_per_weight", "num_quantized_bytes", "decided_by"),
               *("input_min", "input_max", "num_nonfinite", "range_min", "range_max"))  # fmt: skip
    text = partial(escape.csv_cell, ascii_only=options.ascii_only)
    yield ",".join(columns)
    for tensor in listing.tensors:
        is_quantized = isinstance(tensor.decision, QuantSpec)
        buffer = StringIO()
        writer(buffer, lineterminator="").writerow(
            [
                text(tensor.source.name),
                text(tensor.source.file),
                text(tensor.source.dtype),
                "x".join(map(str, tensor.source.shape)) or "scalar",
                tensor.num_bytes,
                tensor.num_elements,
                "quantized" if is_quantized else "skipped",
                text(tensor.decision.reason) if isinstance(tensor.decision, Skip) else None,
                spec_text(tensor.decision, text) if isinstance(tensor.decision, QuantSpec) else None,
                tensor.num_slices if is_quantized else None,
                tensor.bits_per_weight,
                tensor.num_quantized_bytes,
                decided_text(tensor.decided_by or {}, text),
                *(tensor.ranges.get(name) for name in ("input_min", "input_max", "num_nonfinite")),
                *(range_to_json(*(tensor.estimated or (None, None))).values()),
            ]
        )
        yield buffer.getvalue()

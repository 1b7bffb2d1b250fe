"""Report of a listing: every tensor with the decision on it, in each format."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap

from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import TOO_FEW, Skip
from qdqcli.recipe.listing import ListedTensor, Listing, listed_to_json
from qdqcli.recipe.recipe import NO_FLOAT
from qdqcli.report import escape, markdown
from qdqcli.report.csv import csv_line
from qdqcli.report.explanation import decided_text, ranked_places
from qdqcli.report.forms import LISTING_FORMATS, check_forms
from qdqcli.report.json import document
from qdqcli.report.layout import fit
from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title, size_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.summary import hidden, note_text, short_groups
from qdqcli.report.table import Column, Quote, column, shape_text, spec_text
from qdqcli.report.text import quoted, table_lines
from qdqcli.result.group import naming
from qdqcli.result.result import header_to_json, range_to_json
from qdqcli.tensors.tensor import plain_shape

ORDER = "order"
_DROPPED_FIRST = ("bits", "ranges", "packed", "decided", "num_nonfinite", "input_min", "input_max")
"""Columns that a narrow terminal drops first; dtype, shape and size stay."""
_NARROW, _NARROW_REASON = 100, 22
_NUM_KINDS = 5


@dataclass(frozen=True, kw_only=True)
class ListingView:
    """Rows and order of a listing's table."""

    sort: str = ORDER
    top: int | None = None
    """Rows to show; None or 0 shows all."""
    by: str | None = None
    """One row for each kind of tensor, layer or input (`BY`) instead of each tensor."""
    selected_only: bool = False
    """Leave out skipped tensors."""


def render(
    listing: Listing, format_name: str, options: ReportOptions, view: ListingView | None = None
) -> Iterator[str]:
    """Return the listing in one of `LISTING_FORMATS`; the data formats have all tensors, in the checkpoint's order.

    Raises:
        UsageError: another format.
    """
    check_forms("a list of tensors", LISTING_FORMATS, [format_name])
    if format_name == "json":
        return _json(listing)
    lines = {"jsonl": _jsonl, "csv": _csv}.get(format_name)
    if lines is not None:
        return (line + "\n" for line in lines(listing, options))
    shown = {"table": _table, "markdown": _markdown}[format_name](listing, options, view or ListingView())
    return escape.finished(shown, ascii_only=options.ascii_only)


def _table(listing: Listing, options: ReportOptions, view: ListingView) -> Iterator[str]:
    quote = partial(quoted, options=options)

    is_narrow = options.width is not None and options.width <= _NARROW
    columns, num_hidden = _shown(listing, view, quote, is_narrow=is_narrow)
    if columns:
        yield from _fitted(columns, options, hidden(num_hidden))
    kinds, num_more = _kinds(listing, view, quote, is_narrow=is_narrow)
    if kinds:
        more = [f"… and {counted(num_more, 'more kind')} (--by kind shows all)"] if num_more else []
        yield from _fitted(kinds, options, more)
    for line in (*_totals(listing), *_short_groups(listing, quote)):
        yield from wrap(line, options.width or len(line) + 1) or [""]
    if options.width is None:  # a terminal has them already
        yield from _notes(listing, quote)


def _fitted(columns: Sequence[Column], options: ReportOptions, more: Iterable[str]) -> Iterator[str]:
    layout = fit(columns, "name", options.width, options.ellipsis, _DROPPED_FIRST)
    yield from table_lines(layout, options)
    for remark in (*more, *layout.remarks):
        yield from wrap(remark, options.width or len(remark))
    yield ""


def _markdown(listing: Listing, options: ReportOptions, view: ListingView) -> Iterator[str]:
    quote = partial(markdown.quoted, options=options)

    columns, num_hidden = _shown(listing, view, quote)
    if columns:
        yield from markdown.table_lines(columns)
        yield from (text for line in hidden(num_hidden) for text in ("", line))
        yield ""
    yield from _totals(listing)
    yield from _short_groups(listing, quote)
    yield from _notes(listing, quote)


def _shown(listing: Listing, view: ListingView, quote: Quote, *, is_narrow: bool = False) -> tuple[list[Column], int]:
    """Return the columns of the table and the number of rows that `top` left out; no columns without rows."""
    tensors = _listed(listing, view)
    if view.by is not None:
        groups = _groups(tensors, view.by, listing.inputs, view.sort)
        top = groups[: view.top or None]
        return _group_columns(top, view.by, quote, is_narrow=is_narrow) if top else [], len(groups) - len(top)
    if view.sort != ORDER:
        tensors.sort(key=lambda t: _rank(view.sort, t.source.name, t.num_bytes, t.num_quantized_bytes))
    shown = tensors[: view.top or None]
    return _columns(shown, quote, is_narrow=is_narrow) if shown else [], len(tensors) - len(shown)


def _listed(listing: Listing, view: ListingView) -> list[ListedTensor]:
    """Return the tensors to show: those to quantize first."""
    tensors = [t for t in listing.tensors if isinstance(t.decision, QuantSpec)]
    if not view.selected_only or not tensors:
        tensors += [t for t in listing.tensors if isinstance(t.decision, Skip)]
    return tensors


def _rank(sort: str, name: str, size: int, packed: int) -> tuple[int, str]:
    return {"size": -size, "packed": -packed}.get(sort, 0), name


_Group = tuple[str, Sequence[ListedTensor]]


def _groups(tensors: Sequence[ListedTensor], by: str, inputs: Sequence[str], sort: str) -> list[_Group]:
    group_of = naming(by, inputs)
    found: dict[str, list[ListedTensor]] = {}
    for tensor in tensors:
        found.setdefault(group_of(tensor.source), []).append(tensor)
    groups: list[_Group] = list(found.items())
    if sort == ORDER:
        return groups

    def rank(group: _Group) -> tuple[int, str]:
        name, members = group
        return _rank(sort, name, sum(t.num_bytes for t in members), sum(t.num_quantized_bytes for t in members))

    return sorted(groups, key=rank)


def _group_columns(groups: Sequence[_Group], by: str, quote: Quote, *, is_narrow: bool) -> list[Column]:
    def becomes(members: Sequence[ListedTensor]) -> str:
        found = dict.fromkeys(_becomes(t, quote, is_narrow=is_narrow) for t in members)
        if len(found) == 1:
            return next(iter(found))
        specs = dict.fromkeys(
            spec_text(t.decision, quote, t.source.shape) for t in members if isinstance(t.decision, QuantSpec)
        )
        kept = sum(isinstance(t.decision, Skip) for t in members)
        said = [f"{len(specs)} settings" if len(specs) > 1 else next(iter(specs), ""), f"{kept:,} kept" if kept else ""]
        return ", ".join(filter(None, said))

    members = [tensors for _, tensors in groups]
    numbers = partial(column, rows=members, is_number=True)
    return [
        column("tensor", by, groups, lambda group: quote(group[0])),
        numbers("count", "tensors", cell=lambda m: f"{len(m):,}"),
        numbers("size", "size", cell=lambda m: size_text(sum(t.num_bytes for t in m))),
        numbers("packed", "packed", cell=lambda m: size_text(sum(t.num_quantized_bytes for t in m))),
        column("becomes", "becomes", members, becomes),
    ]


def _kinds(listing: Listing, view: ListingView, quote: Quote, *, is_narrow: bool) -> tuple[list[Column], int]:
    """Return the kinds with the most bytes, where they summarize the tensors, and the number of the others."""
    if view.by is not None or listing.command != "inspect":
        return [], 0
    tensors = _listed(listing, view)
    groups = _groups(tensors, "kind", listing.inputs, "size")
    if len(groups) == len(tensors) or len(tensors) <= _NUM_KINDS:
        return [], 0
    columns = _group_columns(groups[:_NUM_KINDS], "kind", quote, is_narrow=is_narrow)
    return columns, max(len(groups) - _NUM_KINDS, 0)


def _short_groups(listing: Listing, quote: Quote) -> Iterator[str]:
    decided = [(t.source, t.decision) for t in listing.tensors if isinstance(t.decision, QuantSpec)]
    for text in short_groups(decided, quote):
        yield ""
        yield f"note: {text}"


def _notes(listing: Listing, quote: Quote) -> Iterator[str]:
    for note in listing.notes:
        yield ""
        yield f"{'warning' if note.is_warning else 'note'}: {note_text(note, quote)}"


def _columns(tensors: Sequence[ListedTensor], quote: Quote, *, is_narrow: bool = False) -> list[Column]:
    numbers = partial(column, is_number=True)
    has_slices = any(t.num_slices > 1 for t in tensors)
    has_recipe = any(t.decided_by is not None for t in tensors)
    ranges = [name for name in ("input_min", "input_max", "num_nonfinite") if any(name in t.ranges for t in tensors)]
    ends = ("lowest min", "highest max") if any(t.estimated for t in tensors) else ()
    return [
        column("tensor", "tensor", tensors, lambda t: quote(t.source.name)),
        column("dtype", "dtype", tensors, lambda t: escape.word(t.source.dtype, quote)),
        numbers("shape", "shape", tensors, lambda t: shape_text(t.source.shape)),
        numbers("size", "size", tensors, lambda t: size_text(t.num_bytes)),
        numbers("packed", "packed", tensors, lambda t: size_text(t.num_quantized_bytes)),
        column("becomes", "becomes", tensors, lambda t: _becomes(t, quote, is_narrow=is_narrow)),
        *([numbers("ranges", "ranges", tensors, lambda t: f"{t.num_slices:,}" if t.num_slices else NO_NUMBER)]
          if has_slices else []),
        numbers("bits", "bits/weight", tensors, lambda t: metric_text("bits_per_weight", t.bits_per_weight)),
        *([column("decided", "decided by", tensors, partial(_decided_by, quote=quote))] if has_recipe else []),
        *(numbers(name, metric_title(name), [t.ranges.get(name) for t in tensors], partial(metric_text, name))
          for name in ranges),
        *(numbers(title, title, [t.estimated and t.estimated[k] for t in tensors], partial(metric_text, "input_min"))
          for k, title in enumerate(ends)),
    ]  # fmt: skip


def _becomes(tensor: ListedTensor, quote: Quote, *, is_narrow: bool = False) -> str:
    """Return bits and granularity, or `keep:` and the reason; abbreviated at a narrow width."""
    if isinstance(tensor.decision, QuantSpec):
        return spec_text(tensor.decision, quote, tensor.source.shape)
    reason = tensor.decision.reason
    if is_narrow and reason.startswith(TOO_FEW):
        return f"keep: {len(tensor.source.shape)}-D"
    if is_narrow and reason.endswith(NO_FLOAT):
        return "keep: no float"
    return f"keep: {escape.shorten(quote(reason), _NARROW_REASON) if is_narrow else quote(reason)}"


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


def _json(listing: Listing) -> Iterator[str]:
    rows = ((escape.json_text(listed_to_json(tensor)),) for tensor in listing.tensors)
    return document(header_to_json(listing) | {"summary": listing.summary}, rows, {})


def _jsonl(listing: Listing, _options: ReportOptions) -> Iterator[str]:
    yield escape.json_text(header_to_json(listing))
    yield from (escape.json_text(listed_to_json(tensor)) for tensor in listing.tensors)
    yield escape.json_text({"summary": listing.summary})


def _csv(listing: Listing, options: ReportOptions) -> Iterator[str]:
    columns = (*("name", "file", "dtype", "shape", "num_bytes", "num_elements", "status", "reason", "settings"),
               *("num_ranges", "bits_per_weight", "num_quantized_bytes", "decided_by"),
               *("input_min", "input_max", "num_nonfinite", "range_min", "range_max"))  # fmt: skip
    text = partial(escape.csv_cell, ascii_only=options.ascii_only)
    yield ",".join(columns)
    for tensor in listing.tensors:
        is_quantized = isinstance(tensor.decision, QuantSpec)
        yield csv_line(
            [
                text(tensor.source.name),
                text(tensor.source.file),
                text(tensor.source.dtype),
                plain_shape(tensor.source.shape),
                tensor.num_bytes,
                tensor.num_elements,
                "quantized" if is_quantized else "skipped",
                text(tensor.decision.reason) if isinstance(tensor.decision, Skip) else None,
                spec_text(tensor.decision, text, tensor.source.shape)
                if isinstance(tensor.decision, QuantSpec)
                else None,
                tensor.num_slices if is_quantized else None,
                tensor.bits_per_weight,
                tensor.num_quantized_bytes,
                decided_text(tensor.decided_by or {}, text),
                *(tensor.ranges.get(name) for name in ("input_min", "input_max", "num_nonfinite")),
                *(range_to_json(*(tensor.estimated or (None, None))).values()),
            ]
        )

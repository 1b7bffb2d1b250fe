"""Table shared by text and Markdown: its columns, and their cells as strings."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TypeVar

from qdqcli.op.spec import DEFAULT_ESTIMATOR, WHOLE_TENSOR, QuantSpec, axis_text
from qdqcli.report.escape import ARROW, TIMES, shorten, word
from qdqcli.report.number import NO_NUMBER, metric_text, metric_title, metric_unit, row_text, size_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import BY_NAME, BY_SHARE, BY_SIZE, DEFAULT_SORT, ranked, ranked_groups
from qdqcli.result.group import Group, groups_by
from qdqcli.result.packing import Packing
from qdqcli.result.result import InputRun, RunResult, TensorResult

T = TypeVar("T")
Quote = Callable[[str], str]
"""Function that escapes untrusted text for a format."""

MAX_NAME = 120
"""Maximum characters of a name; the middle of a longer one is cut out."""

_MAX_CHANNEL_TABLES, _NUM_CHANNELS = 3, 10
_METRICS = ("sqnr_db", "share", "max_abs_error", "rmse", "clipped_fraction", "zeroed_fraction")
_TROUBLES = ("num_nonfinite", "num_nonfinite_output", "num_degenerate")
"""Columns shown only where a row has a nonzero value."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A title and one cell per row, ready to print."""

    name: str
    """A metric's name, or the word for another column."""
    title: str
    cells: Sequence[str]
    is_number: bool = False


def columns_of(run: RunResult, options: ReportOptions, quote: Quote) -> tuple[list[Column], int]:
    """Return the columns of the table that the options select, and the number of rows left out; none without rows."""
    if options.by is not None:
        groups = ranked_groups(run, options.by, options.sort)
        shown = groups[: options.top or None]
        return group_table(shown, options.by, options.sort, quote) if shown else [], len(groups) - len(shown)
    rows = ranked(run, options.sort)
    top = rows[: options.top or None]
    return table(top, options.sort, quote) if top else [], len(rows) - len(top)


def inputs_table(run: RunResult, options: ReportOptions, quote: Quote) -> list[Column]:
    """Return a row for each input of a batch, in order; nothing for a single input, or where the table has them.

    Inputs that were worked on one by one have size, time and state.
    """
    if run.input_runs:
        return _input_runs_table(run, quote)
    is_asked = options.by != "input" and len(run.inputs) > 1
    groups = groups_by(run, "input") if is_asked else []
    if run.reported is not None and any(group.reported is None for group in groups):
        return []  # an earlier report need not have the metrics
    return group_table(groups, "input", DEFAULT_SORT, quote) if len(groups) > 1 else []


def _input_runs_table(run: RunResult, quote: Quote) -> list[Column]:
    groups = {group.name: group for group in groups_by(run, "input")}
    if run.reported is not None and any(group.reported is None for group in groups.values()) and len(groups) > 1:
        return []

    def of_group(name: str, title: str, text: Callable[[Group], str]) -> Column:
        def cell(own: InputRun) -> str:
            return text(groups[own.name]) if own.name in groups else NO_NUMBER

        return column(name, title, run.input_runs, cell, is_number=True)

    def size(own: InputRun) -> str:
        return NO_NUMBER if own.num_bytes is None else size_text(own.num_bytes)

    figures = ("bits_per_weight", "sqnr_db")
    return [
        column("tensor", "input", run.input_runs, lambda own: quote(own.name)),
        of_group("count", "tensors", lambda group: f"{len(group.rows):,}"),
        *(of_group(name, metric_title(name) + metric_unit(name), partial(row_text, name)) for name in figures),
        of_group("lowest", "lowest", _lowest),
        column("size", "size", run.input_runs, size, is_number=True),
        column("time", "time", run.input_runs, lambda own: f"{own.seconds:.1f} s", is_number=True),
        column("state", "state", run.input_runs, lambda own: word(own.state, quote)),
    ]


def _lowest(group: Group) -> str:
    """Return the lowest SQNR of a group's tensors."""
    known = [value for row in group.rows if (value := row.stats["sqnr_db"]) is not None]
    return metric_text("sqnr_db", min(known, default=None))


def channel_tables(run: RunResult, quote: Quote) -> Iterator[tuple[str, list[Column]]]:
    """Yield a heading and the columns of the worst channels, or groups, for the worst tensors measured by channel."""
    rows = [row for row in ranked(run) if row.channels and row.channels.get("sqnr_db")]
    for row in rows[:_MAX_CHANNEL_TABLES]:
        channels = row.channels or {}
        sqnr = channels["sqnr_db"]
        worst = sorted(range(len(sqnr)), key=lambda k: (sqnr[k] is None, sqnr[k], k))[:_NUM_CHANNELS]
        noun = "group" if row.spec is not None and row.spec.group_size is not None else "channel"
        columns = [
            column(name, metric_title(name) + metric_unit(name), [channels[name][k] for k in worst],
                   partial(metric_text, name), is_number=True)
            for name in ("sqnr_db", "max_abs_error", "rmse", "input_min", "input_max", "zeroed_fraction")
            if len(channels.get(name, ())) == len(sqnr)  # a stored report may have fewer
        ]  # fmt: skip
        numbers = column("tensor", noun, worst, "{:,}".format)
        heading = f"worst {len(worst)} of {len(sqnr):,} {noun}s of {quote(row.source.name)}"
        yield heading, [numbers, *columns]


def table(rows: Sequence[TensorResult], sort: str, quote: Quote) -> list[Column]:
    """Return the columns for `rows`, the tensor's name first; the metric of `sort` is included."""
    is_quantized = any(row.spec is not None for row in rows)
    unknown = set() if is_quantized else {"clipped_fraction"}
    if all(row.stats[BY_SHARE] is None for row in rows):
        unknown.add(BY_SHARE)
    metrics = [name for name in (*_METRICS, *troubles(rows)) if name not in unknown]
    if sort not in (*metrics, BY_NAME):
        metrics.append(sort)
    columns = [column("tensor", "tensor", rows, lambda row: quote(row.source.name))]
    if share_names(rows):
        columns.append(column("file", "file", rows, lambda row: quote(row.source.file)))
    columns.append(column("shape", "shape", rows, lambda row: shape_text(row.source.shape), is_number=True))
    columns.append(column("dtype", "dtype", rows, lambda row: dtype_text(row, quote)))
    if is_quantized:
        columns.append(column("bits", "bits", rows, lambda row: spec_text(row.spec, quote, row.source.shape)))
    columns += (_metric_column(name, rows) for name in metrics)
    return _with_packing(columns, rows, quote) if any(row.packing is not None for row in rows) else columns


def column(name: str, title: str, rows: Iterable[T], cell: Callable[[T], str], *, is_number: bool = False) -> Column:
    """Return the column with this cell of each row."""
    return Column(name=name, title=title, cells=list(map(cell, rows)), is_number=is_number)


def _with_packing(columns: Sequence[Column], rows: Sequence[TensorResult], quote: Quote) -> list[Column]:
    """Add how packed weights are stored, before the metrics, and the expected SQNR beside the measured one."""

    def packed(name: str, title: str, text: Callable[[Packing, TensorResult], str], *, is_number: bool) -> Column:
        def cell(row: TensorResult) -> str:
            return NO_NUMBER if row.packing is None else text(row.packing, row)

        return column(name, title, rows, cell, is_number=is_number)

    after = next(index for index, found in enumerate(columns) if found.name == "sqnr_db")
    expected = packed("expected", "expected dB", lambda found, _: metric_text("sqnr_db", found.expected_sqnr_db),
                      is_number=True)  # fmt: skip
    has_expected = any(row.packing is not None and row.packing.expected_sqnr_db is not None for row in rows)
    return [
        *columns[:after],
        packed("format", "format", lambda found, _: quote(found.storage.format), is_number=False),
        packed("bits", "bits", lambda found, _: str(found.storage.grid.bits), is_number=True),
        packed("group", "group", lambda found, row: group_text(found, row.source.shape), is_number=True),
        columns[after],
        *([expected] if has_expected else []),
        *columns[after + 1 :],
    ]


def group_text(packing: Packing, shape: Sequence[int]) -> str:
    """Return what shares a scale: `tensor`, `row`, `128` columns, or a block of `128x128`."""
    height, width = packing.storage.grid.block
    if width == (shape[-1] if shape else 1):
        return "row" if height == 1 else "tensor" if height == prod(shape[:-1]) else f"{height} rows"
    return f"{width}" if height == 1 else f"{height}{TIMES}{width}"


def group_table(groups: Sequence[Group], by: str, sort: str, quote: Quote) -> list[Column]:
    """Return the columns for groups of tensors: the shared properties first, then the metrics over the group."""
    metrics = ["sqnr_db", "share", "max_abs_error", "rmse", *troubles(groups)]
    if any(group.stats["bits_per_weight"] is not None for group in groups):
        metrics.insert(0, "bits_per_weight")
    if sort not in (*metrics, BY_NAME, BY_SIZE):
        metrics.append(sort)
    columns = [_metric_column(name, groups) for name in metrics]
    after = next(index for index, found in enumerate(columns) if found.name == "sqnr_db") + 1
    columns.insert(after, column("lowest", "lowest", groups, _lowest, is_number=True))
    return [
        column("tensor", by, groups, lambda group: quote(group.name)),
        column("count", "tensors", groups, lambda group: f"{len(group.rows):,}", is_number=True),
        _metric_column("num_elements", groups),
        *columns,
    ]


def shape_text(shape: Sequence[int]) -> str:
    """Return `1536x384`, with `TIMES` between; the middle of a shape with very many dimensions is cut out."""
    return shorten(TIMES.join(map(str, shape)), 24) if shape else "scalar"


def dtype_text(row: TensorResult, quote: Quote) -> str:
    """Return the dtype; in a comparison both, where they differ."""
    dtype = word(row.source.dtype, quote)
    other = row.source.dtype if row.candidate is None else row.candidate.dtype
    return dtype if other == row.source.dtype else f"{dtype}{ARROW}{word(other, quote)}"


def spec_text(spec: QuantSpec | None, quote: Quote, shape: Sequence[int] | None = None) -> str:
    """Return bits, granularity and estimator: `int8`, `uint4 g128`, `int8 axis 0 mse`.

    With `shape`: shows the actual group size where the last dimension is shorter than a group.
    """
    if spec is None:
        return NO_NUMBER
    words = [f"{'int' if spec.signed_input else 'uint'}{spec.num_bits}"]
    if spec.narrow_range:
        words.append("narrow")
    if spec.group_size is not None:
        words.append(f"g{spec.group_size if shape is None else group_size_in(shape, spec.group_size)}")
    elif spec.axis != WHOLE_TENSOR:
        words.append(f"axis {axis_text(spec.axis)}")
    if spec.estimator != DEFAULT_ESTIMATOR:
        words.append(f"p{spec.percentile:g}" if spec.estimator == "percentile" else word(spec.estimator, quote))
    return " ".join(words)


def group_size_in(shape: Sequence[int], group_size: int) -> int:
    """Return the elements of the largest group in a tensor of that shape: groups end where a row ends."""
    return min(group_size, shape[-1] or group_size) if shape else 1


def troubles(rows: Sequence[TensorResult | Group]) -> list[str]:
    """Return the columns of `_TROUBLES` with a nonzero value in some row."""
    return [
        name
        for name in _TROUBLES
        if any(row.num_spoilt_slices if name == "num_degenerate" else row.stats[name] for row in rows)
    ]


def share_names(rows: Sequence[TensorResult]) -> bool:
    """Tell whether several tensors share a name."""
    names = {row.source.name for row in rows}
    return len(names) < len(rows) or "" in names


def _metric_column(name: str, rows: Sequence[TensorResult | Group]) -> Column:
    return column(name, metric_title(name) + metric_unit(name), rows, partial(row_text, name), is_number=True)

"""CSV report, one row per tensor in the checkpoint's order, for spreadsheets and data frames.

UTF-8, lines end with a line feed, an empty cell is `null`. Names are made harmless to spreadsheets (`escape.csv_cell`);
the JSON report has the exact bytes of a hostile name. `--sort` and `--top` do not apply.
"""

from collections.abc import Iterable, Iterator
from csv import writer
from io import StringIO

from qdqcli.op.spec import QuantSpec
from qdqcli.report.escape import csv_cell
from qdqcli.report.explanation import decided_text
from qdqcli.report.options import ReportOptions
from qdqcli.result.group import BY, Group, groups_by
from qdqcli.result.packing import PACKING_KEYS
from qdqcli.result.result import ROW_STATS, Row, RunResult, SkippedTensor, row_to_json, spec_to_json
from qdqcli.tensors.tensor import plain_shape

_SPEC = tuple(spec_to_json(QuantSpec()))
_PACKED = tuple(f"packed_{name}" for name in PACKING_KEYS)
COLUMNS = (
    *("name", "file", "dtype", "shape", "status", "reason"),
    *_SPEC,
    *("range_input_min", "range_input_max"),
    *ROW_STATS,
    "exact",
    "decided_by",
    *_PACKED,
)
"""`range_*` is the range that sets the qparams; `input_min` and `input_max` are those of the data."""


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """Yield a header line, then the tensors; with `options.by`, groups of quantized tensors."""
    if options.by is not None:
        columns = (options.by, "num_tensors", *ROW_STATS, "exact")
        rows = map(_group_cells, groups_by(run, options.by))
    else:
        columns, rows = COLUMNS, map(_cells, run.rows)
    yield _line(columns, options)
    for cells in rows:
        yield _line([cells.get(column) for column in columns], options)


def _group_cells(group: Group) -> dict[str, object]:
    names = dict.fromkeys(BY, group.name)
    return {**names, "num_tensors": len(group.rows), **group.stats, "exact": group.is_unchanged}


def _cells(row: Row) -> dict[str, object]:
    """Return column -> value; a missing column is an empty cell."""
    data = row_to_json(row)
    head: dict[str, object] = {key: data.get(key) for key in ("name", "file", "dtype", "status", "reason")}
    head["shape"] = plain_shape(row.source.shape)
    head["decided_by"] = decided_text(row.decided_by, str) if row.decided_by else None
    if isinstance(row, SkippedTensor):
        return head | {"num_elements": row.num_elements}
    ranges = {f"range_{key}": value for key, value in data["range"].items()}
    packed = {f"packed_{key}": value for key, value in data.get("packed", {}).items()}
    return {**head, **(data["spec"] or {}), **ranges, "exact": False, **data["stats"], **packed}


def csv_line(cells: Iterable[str | int | float | None]) -> str:
    """Return a line of CSV, without its end; None is an empty cell."""
    buffer = StringIO()
    writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _line(cells: Iterable[object], options: ReportOptions) -> str:
    return csv_line(_cell(cell, options) for cell in cells) + "\n"


def _cell(value: object, options: ReportOptions) -> str | int | float | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return csv_cell(value, ascii_only=options.ascii_only)
        case int() | float() | None:
            return value
        case list():  # a pair of axes, as --axis takes it
            return ",".join(map(str, value))
    raise TypeError(f"no CSV cell for {value!r}")

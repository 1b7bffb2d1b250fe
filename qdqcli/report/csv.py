"""The report as CSV, one row per tensor in the checkpoint's order, for spreadsheets and data frames.

UTF-8, lines end with a line feed, an empty cell is `null`. Names are made harmless to spreadsheets (`escape.csv_cell`):
who must have the exact bytes of a hostile name reads the JSON report. `--sort` and `--top` do not apply.
"""

from collections.abc import Iterator, Mapping
from csv import writer
from io import StringIO
from typing import Any

from qdqcli.op.spec import QuantSpec
from qdqcli.report.escape import csv_cell
from qdqcli.report.explanation import decided_text
from qdqcli.report.formatter import ReportOptions
from qdqcli.result.result import STATS, Row, RunResult, SkippedTensor, row_to_json, spec_to_json

_SPEC = tuple(spec_to_json(QuantSpec()))
COLUMNS = (
    *("name", "file", "dtype", "shape", "status", "reason"),
    *_SPEC,
    *("range_input_min", "range_input_max"),
    *STATS,
    "exact",
    "decided_by",
)
"""`range_*` is the range that set the grid; `input_min` and `input_max` are the data's."""


def render(run: RunResult, options: ReportOptions) -> Iterator[str]:
    """A line of titles, then the tensors."""
    yield _line(dict(zip(COLUMNS, COLUMNS, strict=True)), options)
    for row in run.rows:
        yield _line(_cells(row), options)


def _cells(row: Row) -> dict[str, Any]:
    """Column -> value; a column that is missing is empty."""
    data = row_to_json(row)
    head: dict[str, Any] = {key: data.get(key) for key in ("name", "file", "dtype", "status", "reason")}
    head["shape"] = "x".join(map(str, row.source.shape)) or "scalar"
    head["decided_by"] = decided_text(row.decided_by, str) if row.decided_by else None
    if isinstance(row, SkippedTensor):
        return head | {"num_elements": row.num_elements}
    ranges = {f"range_{key}": value for key, value in data["range"].items()}
    return {**head, **(data["spec"] or {}), **ranges, "exact": False, **data["stats"]}


def _line(cells: Mapping[str, Any], options: ReportOptions) -> str:
    buffer = StringIO()
    writer(buffer, lineterminator="\n").writerow([_cell(cells.get(column), options) for column in COLUMNS])
    return buffer.getvalue()


def _cell(value: Any, options: ReportOptions) -> str | int | float | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return csv_cell(value, ascii_only=options.ascii_only)
        case int() | float() | None:
            return value
    raise TypeError(f"no CSV cell for {value!r}")

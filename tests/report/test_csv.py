"""CSV as a spreadsheet and a data frame see it."""

import csv
from dataclasses import replace
from io import StringIO

import pytest

from qdqcli.op.spec import QuantSpec
from qdqcli.report.csv import COLUMNS
from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import ROW_STATS, RunResult, TensorResult, row_to_json
from tests.report.samples import EVERY_KIND, LONG, hostile_run


def table(run: RunResult) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO("".join(formatter("csv")(run, ReportOptions())), newline=""), strict=True))


def test_there_is_one_full_row_per_tensor_in_the_order_of_the_checkpoint() -> None:
    rows = table(EVERY_KIND)
    assert [row["name"] for row in rows] == [row.source.name for row in EVERY_KIND.rows]
    assert all(list(row) == list(COLUMNS) for row in rows)


def test_every_field_of_the_json_report_has_a_column() -> None:
    for cells, row in zip(table(EVERY_KIND), EVERY_KIND.rows, strict=True):
        if isinstance(row, TensorResult):
            data = row_to_json(row)
            flat = data["spec"] | data["stats"] | {f"range_{key}": value for key, value in data["range"].items()}
            for name, value in flat.items():
                expected = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                assert cells[name] == expected, name


def test_a_pair_of_axes_is_spelled_as_the_option_takes_it() -> None:
    row = next(row for row in EVERY_KIND.rows if isinstance(row, TensorResult) and len(row.source.shape) > 1)
    stacked = replace(EVERY_KIND, rows=[row._replace(spec=QuantSpec(axis=(0, 1)))])
    assert [cells["axis"] for cells in table(stacked)] == ["0,1"]


def test_numbers_are_read_back_to_the_last_bit() -> None:
    for cells, row in zip(table(EVERY_KIND), EVERY_KIND.rows, strict=True):
        if isinstance(row, TensorResult):
            assert {name: float(cells[name]) if cells[name] else None for name in ROW_STATS} == row.stats


def test_a_skipped_tensor_says_why_and_how_many_elements_and_no_more() -> None:
    row = table(EVERY_KIND)[1]
    assert {name: cell for name, cell in row.items() if cell} == {
        "name": "ids",
        "file": "m.safetensors",
        "dtype": "I64",
        "shape": "36",
        "status": "skipped",
        "reason": "I64 is not a floating-point dtype",
        "num_elements": "36",
    }


def test_exact_tensors_are_marked() -> None:
    assert [row["name"] for row in table(EVERY_KIND) if row["exact"] == "true"] == ["model.exact.weight"]


@pytest.mark.parametrize("column", ["name", "file", "reason"])
def test_no_cell_of_foreign_text_starts_a_formula_or_holds_control_characters(column: str) -> None:
    cells = [row[column] for row in table(hostile_run())]
    assert all(cell.isprintable() for cell in cells)
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))] == []


def test_long_names_are_kept() -> None:
    assert LONG in [row["name"] for row in table(hostile_run())]


def test_lines_end_with_line_feeds() -> None:
    assert "\r" not in "".join(formatter("csv")(EVERY_KIND, ReportOptions()))

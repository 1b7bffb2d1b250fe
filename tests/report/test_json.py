"""JSON and JSON lines: strict, lossless, in the checkpoint's order."""

import json
from typing import Any

import pytest

from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult, to_json
from tests.report.samples import EVERY_KIND, hostile_run, run_of

RUNS = {"every kind": EVERY_KIND, "hostile": hostile_run(), "no rows": run_of()}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def loads(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


def render(name: str, run: RunResult, options: ReportOptions | None = None) -> str:
    return "".join(formatter(name)(run, options or ReportOptions()))


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_document_is_that_of_the_run(run: RunResult) -> None:
    document = loads(render("json", run))
    assert document == to_json(run)
    assert list(document) == list(to_json(run))


def test_each_tensor_is_a_line() -> None:
    lines = render("json", EVERY_KIND).split("\n")
    assert [loads(line.strip().rstrip(","))["name"] for line in lines if line.startswith('    {"name"')] == [
        row.source.name for row in EVERY_KIND.rows
    ]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_lines_are_head_tensors_and_summary(run: RunResult) -> None:
    head, *tensors, last = map(loads, render("jsonl", run).splitlines())
    document = to_json(run)
    assert list(head) == ["schema_version", "tool", "command", "inputs", "settings", "notes"]
    assert head | last | {"tensors": tensors} == document
    assert list(last) == ["summary", *(["by_input"] if len(run.inputs) > 1 else [])]


@pytest.mark.parametrize("name", ["json", "jsonl", "csv"])
def test_sort_and_top_do_not_touch_data(name: str) -> None:
    assert render(name, EVERY_KIND, ReportOptions(sort="name", top=1, width=20)) == render(name, EVERY_KIND)

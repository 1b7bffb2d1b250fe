"""A report in JSON comes back as the run that it tells of."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from qdqcli.errors import InputError
from qdqcli.report.formatter import FORMATTERS, formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.histogram import Histogram, Histograms
from qdqcli.result.read import from_json, read_report
from qdqcli.result.result import RunResult, TensorResult, to_json
from qdqcli.result.verdict import Severity, Verdict, Violation
from tests.conftest import Qdq
from tests.report.samples import BAD, EVERY_KIND, GOOD, hostile_run, run_of

VIOLATION = Violation(tensor="a", metric="sqnr_db", limit=3.0, actual=None, severity=Severity.WARN, origin="limits")
HISTOGRAM = Histogram(low=-1.0, high=2.0, counts=[1, 0, 5])
JUDGED = replace(
    run_of(
        BAD._replace(spec=None, sums=BAD.sums, channels={"mse": [1.0, None]}),
        GOOD._replace(histograms=Histograms(values=HISTOGRAM, errors=HISTOGRAM)),
    ),
    verdict=Verdict(violations=[VIOLATION], waived=[replace(VIOLATION, waiver="because")]),
)


def consistent(run: RunResult) -> RunResult:
    """The run with the ranges and scales that follow from shapes and settings: a report does not count them."""
    rows = [
        row._replace(num_slices=1 if row.spec is None else row.source.shape[0])
        if isinstance(row, TensorResult)
        else row
        for row in run.rows
    ]
    return replace(run, rows=rows, settings={**run.settings, "scale_bits": 16})


ON_DEVICE = replace(run_of(GOOD), device="NVIDIA H100 80GB HBM3")
RUNS = {
    "every kind": EVERY_KIND, "hostile": hostile_run(), "no rows": run_of(), "judged": JUDGED, "on a device": ON_DEVICE,
}  # fmt: skip


@pytest.fixture(params=map(consistent, RUNS.values()), ids=list(RUNS))
def run(request: pytest.FixtureRequest) -> RunResult:
    assert isinstance(request.param, RunResult)
    return request.param


def test_every_report_of_what_came_back_is_the_same_text(run: RunResult) -> None:
    data = json.loads(json.dumps(to_json(run)))
    again = from_json(data)
    assert to_json(again) == to_json(run)
    for name in FORMATTERS:
        render = formatter(name)
        assert "".join(render(again, ReportOptions())) == "".join(render(run, ReportOptions())), name


def test_the_version_is_that_of_the_program_that_measured(run: RunResult) -> None:
    data = to_json(run) | {"tool": {"name": "qdq", "version": "9.9"}}
    assert to_json(from_json(data))["tool"]["version"] == "9.9"


def test_a_report_of_a_real_run_comes_back(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    for options in (["--per-channel", "--min-ndim", "2", "--axis", "last"], ["--group-size", "4", "--ragged-groups"]):
        assert qdq("stats", tiny, *options, "--report", report, "--format", "none").code == 0
        text = report.read_text()
        assert "".join(formatter("json")(read_report(report), ReportOptions())) == text


def test_members_that_no_schema_names_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    strange = "".join(f'"{number}": "{number}", ' for number in range(200_000))
    path.write_text("{" + strange + json.dumps(to_json(EVERY_KIND))[1:])
    tracemalloc.start()
    try:
        assert to_json(read_report(path)) == to_json(EVERY_KIND)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": None},
        {"tensors": [{}]},
        {"tensors": 3},
        {"summary": {}},
        {"settings": 1},
        {"tool": {}},
        {"verdict": {"violations": [{}]}},
        {"inputs": [1]},
    ],
)
def test_what_is_no_report_is_an_input_error(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(to_json(EVERY_KIND) | change))
    with pytest.raises(InputError, match=r"r\.json"):
        read_report(path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for bad in ("true", '"3"', "[]", "1e999"):
        text = json.dumps(to_json(run_of(GOOD)))
        path.write_text(text.replace('"mse": ' + json.dumps(GOOD.stats["mse"]), f'"mse": {bad}'))
        assert path.read_text() != text
        with pytest.raises(InputError):
            read_report(path)
    for text in ("", "[]", "{", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError):
            read_report(path)

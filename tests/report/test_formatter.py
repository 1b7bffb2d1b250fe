"""What every formatter of the registry keeps, over every kind of row and hostile names."""

from dataclasses import fields
from pathlib import PurePath

import pytest

from qdqcli.errors import UsageError
from qdqcli.report.formatter import FORMATTERS, REPORT_SUFFIXES, formatter, formatter_for
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from tests.report.samples import EVERY_KIND, SKIPPED, hostile_run, run_of

DEFAULTS = ReportOptions()
RUNS = {"every kind": EVERY_KIND, "hostile": hostile_run(), "nothing quantized": run_of(SKIPPED), "no rows": run_of()}


def text(name: str, run: RunResult, options: ReportOptions = DEFAULTS) -> str:
    return "".join(formatter(name)(run, options))


@pytest.fixture(params=FORMATTERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=RUNS.values(), ids=list(RUNS))
def run(request: pytest.FixtureRequest) -> RunResult:
    assert isinstance(request.param, RunResult)
    return request.param


def test_the_same_run_gives_the_same_bytes(name: str, run: RunResult) -> None:
    again = RunResult(**{field.name: getattr(run, field.name) for field in fields(run)})
    assert text(name, run) == text(name, again)


def test_a_report_ends_with_one_line_feed(name: str, run: RunResult) -> None:
    report = text(name, run)
    assert report.endswith("\n")
    assert not report.endswith("\n\n")


def test_a_report_holds_printable_text_and_line_feeds_only(name: str, run: RunResult) -> None:
    assert [line for line in text(name, run).split("\n") if not line.isprintable()] == []


def test_a_report_can_be_written_in_ascii(name: str, run: RunResult) -> None:
    assert text(name, run, ReportOptions(ascii_only=True)).isascii()


def test_no_line_is_a_command_to_a_ci_system(name: str) -> None:
    if name == "github":
        pytest.skip("its lines are commands: see test_ci_formats.py")
    for options in (DEFAULTS, ReportOptions(width=20), ReportOptions(width=80)):
        lines = text(name, hostile_run(), options).split("\n")
        assert [line for line in lines if line.strip().startswith("::")] == []
        assert [line for line in lines if "##vso[" in line or "##[" in line or "##teamcity[" in line] == []


def test_every_formatter_has_a_suffix_or_is_for_eyes() -> None:
    assert set(REPORT_SUFFIXES.values()) == set(FORMATTERS) - {"table", "github"}


@pytest.mark.parametrize(("suffix", "name"), REPORT_SUFFIXES.items())
def test_a_suffix_chooses_its_formatter(suffix: str, name: str) -> None:
    assert formatter_for(PurePath(f"a.b/report{suffix}")) is formatter(name)
    assert formatter_for(PurePath(f"REPORT{suffix.upper()}")) is formatter(name)


@pytest.mark.parametrize("path", ["report.txt", "report", ".json"])
def test_another_suffix_is_an_error_that_lists_them(path: str) -> None:
    with pytest.raises(UsageError, match=r"\.json, \.jsonl, \.csv, \.md"):
        formatter_for(PurePath(path))


def test_an_unknown_format_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'jsn'; try json$"):
        formatter("jsn")


def test_an_unknown_sort_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match="cannot sort by 'sqnr'; try sqnr_db"):
        ReportOptions(sort="sqnr")


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="top is -1"):
        ReportOptions(top=-1)

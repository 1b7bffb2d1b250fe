"""`qdq render`, and what GitHub's job summary gets."""

import os
from pathlib import Path

import pytest

from qdqcli.report.formatter import REPORT_SUFFIXES
from tests.conftest import Qdq


@pytest.fixture
def report(qdq: Qdq, tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    budget = tmp_path / "b.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 200\n")
    assert qdq("check", tiny, "--budget", budget, "--histograms", "--report", path).code == 1
    return path


def test_every_format_is_made_from_a_stored_report(qdq: Qdq, tiny: Path, report: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    for suffix in REPORT_SUFFIXES:
        here, there = tmp_path / f"here{suffix}", tmp_path / f"there{suffix}"
        arguments = ("--budget", budget, "--histograms", "--report", here, "--format", "none")
        assert qdq("check", tiny, *arguments).code == 1
        assert qdq("render", report, "--report", there, "--format", "none").code == 0
        assert there.read_bytes() == here.read_bytes(), suffix


def test_a_table_of_a_stored_report(qdq: Qdq, report: Path) -> None:
    shown = qdq("render", report, "--top", "1", "--sort", "rmse")
    assert shown.code == 0
    assert shown.out.startswith("budget exceeded")


def test_groups_of_a_stored_report(qdq: Qdq, tiny: Path, report: Path, tmp_path: Path) -> None:
    for by in ("kind", "layer", "input"):
        budget = ("--budget", tmp_path / "b.toml", "--by", by, "--format", "csv")
        assert qdq("check", "--report-in", report, *budget).out.startswith(f"{by},")
        assert qdq("render", report, "--by", by, "--format", "markdown").code == 0
    measured = qdq("stats", tiny, "--by", "layer", "--format", "markdown").out
    rows = [line for line in measured.splitlines() if line.startswith(("| `layer", "| `wide"))]
    assert len(rows) == 3
    assert set(rows) <= set(qdq("render", report, "--by", "layer", "--format", "markdown").out.splitlines())


@pytest.mark.parametrize(("content", "code"), [(None, 3), ("{}", 3), ("[1]", 3), ('{"schema_version": 7}', 3)])
def test_what_is_no_report(qdq: Qdq, tmp_path: Path, content: str | None, code: int) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    outcome = qdq("render", path)
    assert outcome.code == code
    assert str(path) in outcome.error


def test_the_report_that_is_read_is_not_written_over(qdq: Qdq, report: Path) -> None:
    before = report.read_bytes()
    assert qdq("render", report, "--report", report).code == 2
    assert report.read_bytes() == before


def test_the_job_summary_is_added_to(qdq: Qdq, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert qdq("render", report).code == 0
    assert summary.read_text() == "before\n", "for the format github alone"
    shown = qdq("render", report, "--format", "github")
    assert shown.out.startswith("::error title=")
    assert summary.read_text().startswith("before\n## Quantization error")
    assert "budget exceeded" in summary.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    assert qdq("render", report, "--format", "github").code == 4


@pytest.mark.parametrize(("option", "code"), [("render", 3), ("--report-in", 3), ("--baseline", 3), ("--ranges", 3)])
def test_a_pipe_is_refused_without_waiting_for_a_writer(
    qdq: Qdq, tiny: Path, tmp_path: Path, option: str, code: int
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    budget = tmp_path / "b.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 1\n")
    arguments: list[object] = ["stats", tiny, option, pipe]
    if option == "render":
        arguments = ["render", pipe]
    elif option == "--report-in":
        arguments = ["check", option, pipe, "--budget", budget]
    elif option == "--baseline":
        arguments = ["check", tiny, option, pipe]
    outcome = qdq(*arguments)
    assert outcome.code == code
    assert f"{pipe}: is not a regular file" in outcome.error

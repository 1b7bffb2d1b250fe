"""A stored report is data: each of its values replaced by any other is refused with its place, or harms no format."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError
from qdqcli.report.formatter import FORMATTERS, formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.histogram import Histogram, Histograms
from qdqcli.result.packing import Packing
from qdqcli.result.read import from_json, read_report
from qdqcli.result.result import ROW_STATS, Bound, InputRun, to_json
from qdqcli.result.schema import report_schema
from qdqcli.result.schema_check import MismatchError, check_of, step_to
from qdqcli.result.verdict import Margin, Severity, Verdict, Violation
from qdqcli.result.verification import Verification
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.packed.storage import CodeGrid, Storage
from tests.conftest import Qdq
from tests.report.harmless import harm
from tests.report.samples import BAD, EXACT, NOTES, SKIPPED, run_of, skipped

Way = tuple[str | int, ...]

VIOLATIONS = [
    Violation(tensor="model.bad.weight", file="m.safetensors", metric="sqnr_db", limit=9.0, actual=3.0, excess_db=6.0,
              origin="limits"),
    Violation(tensor=None, metric="rmse", limit=1.0, actual=None, origin="summary", severity=Severity.WARN),
    Violation(tensor="model.exact.weight", file="m.safetensors", metric="mean_error", limit="exact", actual=0.5,
              origin="baseline"),
    Violation(tensor=None, metric="waiver", limit="2027-01-31", actual="*.weight", origin="waivers"),
    Violation(tensor="ids", file="m.safetensors", metric="settings", limit="axis 0", actual="axis 1",
              origin="baseline", budget="b.toml", line=7, tensors=["ids", "x"]),
]  # fmt: skip
HISTOGRAM = Histogram(low=-1.0, high=2.0, counts=[1, 0, 5])
RUN = replace(
    run_of(
        BAD._replace(
            channels={"num_elements": [1, 2], "rmse": [1.0, None]},
            histograms=Histograms(values=HISTOGRAM, errors=HISTOGRAM),
            decided_by={"num_bits": "rule 1 (line 2)"},
            candidate=BAD.source._replace(dtype="F16"),
            num_zero_slices=1,
            bound=Bound(metric="sqnr_db", limit=30.0, margin_db=-1.5),
            baseline_db=31.25,
            packing=Packing(Storage("GPTQ", CodeGrid(4, (1, 128)), 600), 18.5, True, "transposed", 20.0),
            share=0.5,
        ),
        EXACT._replace(spec=None),
        SKIPPED._replace(is_selected=True),
        skipped("model.lost.weight", "the disk failed")._replace(is_failure=True),
    ),
    settings={
        "num_bits": 8, "signed_input": True, "narrow_range": False, "round_mode": "HALF_TO_EVEN", "axis": 0,
        "group_size": None, "ragged_groups": False, "input_min": None, "input_max": 1.5, "ranges": "r.json",
        "compute_dtype": "float32", "estimator": "minmax", "percentile": None, "min_ndim": 2, "scale_bits": 16,
        "include": ["*"], "exclude": ["x"], "map": ["a=b"], "presets": ["linear-only"], "recipe": "r.toml",
        "rules": [{"match": ["*"], "num_bits": 4}],
    },
    notes=NOTES[:2],
    verdict=Verdict(
        violations=[replace(violation, waiver="because") for violation in VIOLATIONS],
        waived=[replace(VIOLATIONS[0], waiver="on purpose", tensors=["a", "b"])],
        nearest=Margin(tensor="a", file="m", metric="sqnr_db", limit=30.0, actual=31.0, margin_db=1.0, origin="limits"),
    ),
    verification=Verification(num_bytes=9, digests={"m.safetensors": "0" * 64}),
    device="NVIDIA H100",
    input_runs=[InputRun(name="m", num_bytes=9, seconds=1.5, state="done")],
)  # fmt: skip
REPORT: dict[str, Any] = json.loads(json.dumps(to_json(RUN)))
"""Every key that a report can have."""
_STATS = next(row["stats"] for row in REPORT["tensors"] if row["status"] == "quantized")
REPORT["by_input"] = [{"input": "m", "stats": {name: _STATS[name] for name in ROW_STATS}}]

OF_EVERY_TYPE = [
    *(None, True, False, 0, -1, 7, 1.5, -1e308, 1e308, 10**400, -(10**400), 1 << 63, [], [[]], {}, {"x": 1}),
    *("", "nan", "F32", "minmax", "exact", "1"),
]
HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "</script><svg onload=alert(1)>&quot;\"'",
    "]]><!-- \x1b[31m\x00\u202e\ud800 <b>",
    "\n::error::x\r\n##vso[task.complete]##[error]x",
    "=1+1|`*_[a](http://b)![c](d)",
    "x" * 70_000,
]


def ways(value: Any, way: Way = ()) -> Iterator[Way]:
    """The way to each value in a report, and to each key of an object."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*way, key)
            yield from ways(inner, (*way, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*way, index)
            yield from ways(inner, (*way, index))


def changed(way: Way, value: object) -> dict[str, Any]:
    data = deepcopy(REPORT)
    inner: Any = data
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    return data


def refusal(data: dict[str, Any]) -> str | None:
    """The message with which a report is refused; None if it is not."""
    try:
        from_json(data)
    except MalformedError as error:
        return str(error)
    return None


def shown(way: Way) -> str:
    """As a message writes it."""
    return "".join(f"[{step}]" if isinstance(step, int) else step_to(step) for step in way).removeprefix(".")


WAYS = list(ways(REPORT))
PARTS = sorted({str(way[0]) for way in WAYS})


def changes(part: str | None, *, is_every: bool) -> Iterator[tuple[Way, object]]:
    """Each value of a part of the report with what takes its place: everything, or of every six things one."""
    values = [*OF_EVERY_TYPE, *HOSTILE]
    for number, way in enumerate(WAYS):
        if part in (None, way[0]):
            yield from ((way, value) for value in (values if is_every else values[number % 6 :: 6]))


@pytest.mark.parametrize("part", PARTS)
def test_no_value_of_a_report_does_harm(part: str, every_fault: bool) -> None:
    refused = rendered = 0
    for way, value in changes(part, is_every=every_fault):
        data = changed(way, value)
        message = refusal(data)
        if message is not None:
            refused += 1
            assert message.isprintable()
            assert len(message) < 400
            continue
        rendered += 1
        run = from_json(data)
        for name in FORMATTERS:
            text = "".join(formatter(name)(run, ReportOptions()))
            found = [what for what in harm(name, text) if "not shown as text" not in what]
            assert found == [], (way, value, name)
    assert refused + rendered


def test_a_message_says_where() -> None:
    for way in WAYS:
        inner: Any = REPORT
        for step in way:
            inner = inner[step]
        message = refusal(changed(way, [[[[]]]] if isinstance(inner, dict) else {"x": {"x": {}}}))
        assert message is not None, way
        assert message.startswith(shown(way)) or way == ("schema_version",), way


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (
            ("tensors", 0, "spec", "num_bits"),
            99,
            "tensors[0].spec.num_bits: found 99, expected an integer from 1 to 62",
        ),
        (("tensors", 0, "spec", "num_bits"), 62, "tensors[0].spec: num_bits is 62; signed input takes 1 to 61"),
        (("tensors", 0, "spec", "axis"), 5, "tensors[0].spec: "),
        (("tensors", 0, "shape"), [1 << 62, 4], "tensors[0].shape: the number of elements does not fit in 63 bits"),
        (("tensors", 0, "shape"), [1] * 65, "tensors[0].shape: found 65 items, expected at most 64"),
        (("tensors", 0, "stats", "mse"), 10**400, "tensors[0].stats.mse: found 1000000000"),
        (("tensors", 0, "stats", "mse"), "nan", "tensors[0].stats.mse: found 'nan', expected a number or null"),
        (("tensors", 0, "dtype"), "<b>", "tensors[0].dtype: found '<b>', expected one of BOOL, "),
        (("tensors", 0, "spec", "estimator"), "best", 'expected "minmax" or "percentile" or "mse"'),
        (("verdict", "violations", 1, "severity"), "fatal", "verdict.violations[1].severity: found 'fatal'"),
        (("tensors",), {}, "tensors: found an object, expected a list"),
        (("inputs", 0), 1, "inputs[0]: found 1, expected a text"),
        (("tool",), {}, "tool: has no 'version'"),
        (("schema_version",), 2, "has schema_version 2; this version reads reports with 1"),
        (("schema_version",), None, "is not a report of qdq: it has no schema_version"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, way: Way, value: object, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(changed(way, value)))
    with pytest.raises(InputError) as caught:
        read_report(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_command_line_refuses_or_renders_too(qdq: Qdq, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for way in WAYS[:: len(WAYS) // 20]:
        for value in ([], HOSTILE[0], 10**400, '"\x1b[31m'):
            path.write_text(json.dumps(changed(way, value)))
            assert qdq("render", path).code in (0, 3)


# The schema


def described(schema: dict[str, Any], way: str = "") -> Iterator[str]:
    """Every key that the schema names."""
    for part in (schema, schema.get("then", {}), schema.get("else", {})):
        for key, of_key in part.get("properties", {}).items():
            yield f"{way}.{key}"
            yield from described(of_key, f"{way}.{key}")
    if "items" in schema:
        yield from described(schema["items"], f"{way}[]")


def test_the_report_above_has_every_key_that_the_schema_names() -> None:
    present = {"".join("[]" if isinstance(step, int) else f".{step}" for step in way) for way in WAYS}
    alike = {f".tensors[].channels.{name}" for name in METRICS} | {".summary.exact"}
    assert set(described(report_schema())) - present - alike == set()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


def test_the_check_says_what_jsonschema_says(every_fault: bool) -> None:
    validator = jsonschema.Draft202012Validator(report_schema())
    check = check_of(report_schema())
    for way, value in changes(None, is_every=every_fault):
        data = changed(way, value)
        try:
            check(data)
            is_valid = True
        except MismatchError:
            is_valid = False
        assert is_valid == validator.is_valid(data), (way, value)


def undescribed(value: Any, schema: dict[str, Any], way: str = "") -> Iterator[str]:
    """Keys of a report that its schema does not name."""
    branch = schema.get("then" if isinstance(value, dict) and value.get("status") == "quantized" else "else", {})
    properties = schema.get("properties", {}) | branch.get("properties", {})
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in properties:
            yield from undescribed(inner, properties[key], f"{way}.{key}")
        elif "additionalProperties" not in schema:
            yield f"{way}.{key}"
    for inner in value if isinstance(value, list) else ():
        yield from undescribed(inner, schema.get("items", {}), f"{way}[]")


def test_our_own_reports_keep_the_schema_and_it_names_all_their_keys(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget, recipe = tmp_path / "b.toml", tmp_path / "r.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 200\n[summary.p05]\nmin_sqnr_db = 100\n")
    recipe.write_text("schema = 1\n[[rules]]\nmatch = 'layer.0.*'\nnum_bits = 4\n")
    calls: list[tuple[object, ...]] = [
        ("stats", tiny, "--per-channel", "--axis", "last", "--recipe", recipe, "--histograms"),
        ("check", tiny, "--budget", budget, "--group-size", 4, "--ragged-groups", "--estimator", "percentile"),
        ("compare", tiny, tiny),
        ("run", tiny, "-o", tmp_path / "out.safetensors", "--verify", "--input-min", -1, "--input-max", 1),
    ]
    validator = jsonschema.Draft202012Validator(report_schema())
    reports = [REPORT]
    for call in calls:
        path = tmp_path / f"{call[0]}.json"
        assert qdq(*call, "--format", "none", "--report", path).code in (0, 1)
        reports.append(json.loads(path.read_text()))
    for report in reports:
        validator.validate(report)
        assert list(undescribed(report, report_schema())) == []


def test_render_prints_the_schema(qdq: Qdq) -> None:
    shown = qdq("render", "--schema")
    assert (shown.code, shown.err) == (0, "")
    assert json.loads(shown.out) == report_schema()
    assert qdq("render").code == 2

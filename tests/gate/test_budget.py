"""A budget is read whole and strictly: what could silently do nothing is an error with the nearest name."""

import os
import tomllib
from pathlib import Path

import jsonschema
import pytest

from qdqcli.errors import UsageError
from qdqcli.gate.budget import parse_budget
from qdqcli.gate.keys import LIMIT_KEYS, RUN_SETTINGS, STRUCTURE, json_schema
from qdqcli.gate.project import read_budget
from qdqcli.recipe.request import SETTINGS
from qdqcli.recipe.schema import tables_of
from qdqcli.stats.metrics import METRICS
from tests.gate.samples import budget


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[limits]\nmin_sqnr = 3", 3, r"unknown key 'min_sqnr' in \[limits\]; the nearest is min_sqnr_db"),
        ("min_sqnr = 3", 2, r"the nearest is min_sqnr_db, which stands in \[limits\] or \[\[tensors\]\]"),
        ("[limits]\nmax_sqnr_db = 3", 3, "sqnr_db is better when higher; limit it with min_sqnr_db"),
        ("[limits]\nmin_rmse = 3", 3, "rmse is better when lower; limit it with max_rmse"),
        ("[limits]\nmin_max_abs_error = 3", 3, "limit it with max_abs_error"),
        ("[limits]\nmin_sqnr_db = nan", 3, 'min_sqnr_db is nan; it must be "none" or a number'),
        ("[limits]\nmin_sqnr_db = inf", 3, "must be .* a number"),
        ("[limits]\nmin_sqnr_db = true", 3, "is true; it must be .* a number"),
        ("[limits]\nmin_sqnr_db = '30'", 3, "must be .* a number"),
        (f"[limits]\nmin_sqnr_db = 0x{'f' * 5000}", 3, "a number of very many digits"),
        (f"[limits]\nmin_sqnr_db = 1{'0' * 400}", 3, "must be .* a number"),
        ("[limits]\n\nseverity = 'fatal'", 4, '"error" or "warn"'),
        ("limits = 3", 2, r"limits must be a table, \[limits\]"),
        ("[[tensors]]\nmin_sqnr_db = 3", 2, r"\[\[tensors\]\] 1 has no match"),
        ("[[tensors]]\nmatch = []\nmin_sqnr_db = 3", 3, "a list of them"),
        ("[[tensors]]\nmatch = 're:('\nmin_sqnr_db = 3", 3, "not a regular expression"),
        ("[tensors]\nmatch = 'x'", 2, r"tensors must be tables, \[\[tensors\]\]"),
        ("[summary.medain]\nmin_sqnr_db = 3", 2, "the nearest is median"),
        ("[summary]\np05 = {min_rmse = 3}", 3, r"min_rmse in \[summary.p05\]: rmse is better when lower"),
        ("[baseline]\nsqnr_db_drop = 1", 2, "has no file"),
        ("[baseline]\nfile = 'x'\nsqnr_db_rise = 1", 4, "unknown key 'sqnr_db_rise'.*sqnr_db_drop"),
        ("[baseline]\nfile = 'x'\nsqnr_db_drop = -1", 4, "a number from 0 on"),
        ("[structure]\nmin_quantized = 95", 3, "a number from 0 to 1"),
        ("[structure]\nforbid = ['a',\n're:(']", 4, "not a regular expression"),
        ("[settings]\nnumbits = 4", 3, "the nearest is num_bits"),
        ("[baseline]\nsqnr_db_drop = 1", 2, r"\[baseline\] has no file; one such as qdq-baseline\.json is needed"),
        ("[[waivers]]\nmatch = 'x'\nreason = 'r'", 2, "has no until; a date such as 2027-01-31 is needed"),
        ("[[waivers]]\nmatch = 'x'\nuntil = 2027-01-31", 2, "has no reason"),
        ("[[waivers]]\nmatch = 'x'\nreason = ' '\nuntil = 2027-01-31", 4, "reason is ' '; it must be a reason"),
        ("[[waivers]]\nmatch = 'x'\nreason = 'r'\nuntil = 2027-01-31T00:00:00", 5, "is 2027-01-31T00:00:00; it must"),
        ("[[waivers]]\nmatch = 'x'\nreason = 'r'\nuntil = 'never'", 5, "must be a date"),
        ("allow_nonfinite = 1", 2, "allow_nonfinite is 1; it must be true or false"),
        ("[limit]\nmin_sqnr_db = 3", 2, "unknown key 'limit'; the nearest is limits"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        budget(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'budget.toml'}:{line}: ")


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"budget.toml:2: not TOML: Expected '=' after a key"):
        budget(tmp_path, "x\ny = 1")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("b.toml", "pyproject.toml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UsageError, match="is not a regular file"):
            read_budget(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[tool.qdq]\nbudgte = 1", 2, r"unknown key 'budgte' in \[tool.qdq\]; the nearest is budget"),
        ("[tool.qdq.limits]\nmin_sqnr_db = 3", 1, r"unknown key 'limits' in \[tool.qdq\]"),
        ("tool.qdq.budget.limits.min_snqr_db = 3", 1, r"in \[tool.qdq.budget.limits\]; the nearest is min_sqnr_db"),
        ("[tool]\nqdq = 3", 2, r"qdq must be a table"),
        ("[tool.qdq]\nbudget = 3", 2, r"\[tool.qdq\]: budget is 3; it must be a text or a table"),
        ("[tool.qdq.budget]\n[[tool.qdq.budget.tensors]]\nmax_mse = 3", 2, r"\[\[tool.qdq.budget.tensors\]\] 1"),
    ],
)
def test_the_settings_of_a_project_are_as_strict(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_budget(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_limits_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.qdq.budget]\nlimits.min_sqnr_db = 3\n[tool.qdq.budget.summary]\np05 = {max_rmse = 4}\n")
    found = read_budget(path)
    assert [limit.line for limit in found.rules[0].limits] == [2]
    assert [limit.line for limit in found.summary["summary.p05"]] == [4]


@pytest.mark.parametrize(
    "text",
    [
        "", "schema = 1", "allow_nonfinite = true", "[limits]\nseverity = 'warn'", "[structure]\nseverity = 'warn'",
        "[[tensors]]\nmatch = '*'\nmin_sqnr_db = 'none'", "[summary]\n[summary.p05]", "[settings]\nnum_bits = 4",
        "[[waivers]]\nmatch = '*'\nreason = 'r'\nuntil = '2027-01-31'",
    ],
)  # fmt: skip
def test_a_budget_that_limits_nothing_is_idle(text: str) -> None:
    assert parse_budget(text, Path("b.toml")).is_idle


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nmin_sqnr_db = 3", "[[tensors]]\nmatch = '*'\nmax_rmse = 1", "[summary.p05]\nmax_rmse = 1",
        "[baseline]\nfile = 'x'", "[structure]\nforbid = 'x'", "[structure]\nmin_quantized = 0.5",
    ],
)  # fmt: skip
def test_a_budget_that_limits_something_is_not(text: str) -> None:
    assert not parse_budget(text, Path("b.toml")).is_idle


def test_the_schema_is_one_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for _, table in tables_of(schema):
        assert all(entry["description"].endswith(".") for entry in table["properties"].values() if "not" not in entry)
    assert set(STRUCTURE) < set(schema["properties"]["structure"]["properties"])


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("", True), ("schema = 1", True), ("schema = 2", False), ("[limits]\nmin_sqnr_db = 3", True),
        ("[limits]\nmax_sqnr_db = 3", False), ("[limits]\nmin_snqr = 3", False), ("[summary.p05]\nmax_mse = 1", True),
        ("[summary.p06]\nmax_mse = 1", False), ("[[tensors]]\nmatch = ['a']\nmax_mse = 'none'", True),
        ("[[tensors]]\nmax_mse = 1", False), ("[[waivers]]\nmatch = 'a'\nreason = 'b'\nuntil = '2027-01-31'", True),
        ("[[waivers]]\nmatch = 'a'\nreason = 'b'", False), ("[structure]\nmin_quantized = 2", False),
        ("[settings]\naxis = 'last'\ngroup_size = 'none'\ninclude = ['a']\nrules = 'none'", True),
        ("[settings]\naxis = -2", False), ("[baseline]\nfile = ''", False),
    ],
)  # fmt: skip
def test_the_schema_and_the_reader_say_the_same(text: str, is_good: bool) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(), format_checker=jsonschema.FormatChecker())
    try:
        parse_budget(text, Path("b.toml"))
        accepted = True
    except UsageError:
        accepted = False
    assert bool(validator.is_valid(tomllib.loads(text))) is accepted is is_good


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text("schema = 2")
    with pytest.raises(UsageError, match="schema is 2; it must be 1"):
        read_budget(path)


def test_a_file_that_is_missing_or_has_no_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_budget(tmp_path / "b.toml")
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    with pytest.raises(UsageError, match=r"has no \[tool.qdq\]"):
        read_budget(tmp_path / "pyproject.toml")


def test_every_metric_has_a_limit() -> None:
    assert {metric for metric, _ in LIMIT_KEYS.values()} == {*METRICS, "bits_per_weight"}
    assert LIMIT_KEYS["max_abs_error"] == ("max_abs_error", False)
    assert "min_sqnr_db" in LIMIT_KEYS
    assert "max_sqnr_db" not in LIMIT_KEYS


def test_a_budget_can_hold_every_setting_that_a_report_names() -> None:
    assert {name.removesuffix("_file") for name in SETTINGS} <= set(RUN_SETTINGS)

"""A budget is read whole and strictly: what could silently do nothing is an error with the nearest name."""

from pathlib import Path

import pytest

from qdqcli.errors import UsageError
from qdqcli.gate.budget import LIMIT_KEYS, read_budget
from qdqcli.stats.metrics import METRICS
from tests.gate.samples import budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nmin_sqnr = 3", r"unknown key 'min_sqnr' in \[limits\]; the nearest.* min_sqnr_db"),
        ("[limits]\nmax_sqnr_db = 3", "sqnr_db is better when higher; limit it with min_sqnr_db"),
        ("[limits]\nmin_rmse = 3", "rmse is better when lower; limit it with max_rmse"),
        ("[limits]\nmin_max_abs_error = 3", "limit it with max_abs_error"),
        ("[limits]\nmin_sqnr_db = nan", "must be a finite number"),
        ("[limits]\nmin_sqnr_db = true", "must be a finite number"),
        ("[limits]\nmin_sqnr_db = '30'", "must be a finite number"),
        ("[limits]\nseverity = 'fatal'", "one of error, warn"),
        ("limits = 3", "limits must be a table"),
        ("[[tensors]]\nmin_sqnr_db = 3", r"\[\[tensors\]\] 1: needs match"),
        ("[[tensors]]\nmatch = 're:('\nmin_sqnr_db = 3", "not a regular expression"),
        ("[tensors]\nmatch = 'x'", r"tensors must be tables, \[\[tensors\]\]"),
        ("[summary.medain]\nmin_sqnr_db = 3", "the nearest is median"),
        ("[baseline]\nsqnr_db_drop = 1", "needs file"),
        ("[baseline]\nfile = 'x'\nsqnr_db_rise = 1", "unknown key 'sqnr_db_rise'.*sqnr_db_drop"),
        ("[baseline]\nfile = 'x'\nsqnr_db_drop = -1", "0 or more"),
        ("[[waivers]]\nmatch = 'x'\nreason = 'r'", "needs until"),
        ("[[waivers]]\nmatch = 'x'\nuntil = 2027-01-31", "needs reason"),
        ("[[waivers]]\nmatch = 'x'\nreason = ' '\nuntil = 2027-01-31", "needs a reason"),
        ("[[waivers]]\nmatch = 'x'\nreason = 'r'\nuntil = 2027-01-31T00:00:00", "needs until"),
        ("allow_nonfinite = 1", "allow_nonfinite must be true or false"),
        ("[limit]\nmin_sqnr_db = 3", "unknown key 'limit'; the nearest is limits"),
        ("x", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        budget(tmp_path, text)
    assert str(tmp_path / "budget.toml") in str(caught.value)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    for text in ("", "schema = 2"):
        path.write_text(text)
        with pytest.raises(UsageError, match="reads schema = 1"):
            read_budget(path)


def test_a_file_that_is_missing_or_has_no_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_budget(tmp_path / "b.toml")
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    with pytest.raises(UsageError, match=r"has no \[tool.qdq.budget\]"):
        read_budget(tmp_path / "pyproject.toml")


def test_every_metric_has_a_limit() -> None:
    assert {metric for metric, _ in LIMIT_KEYS.values()} == {*METRICS, "bits_per_weight"}
    assert LIMIT_KEYS["max_abs_error"] == ("max_abs_error", False)
    assert "min_sqnr_db" in LIMIT_KEYS
    assert "max_sqnr_db" not in LIMIT_KEYS

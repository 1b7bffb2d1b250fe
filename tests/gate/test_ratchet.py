"""Budgets that are written: kept by the run that they come from, and only ever tighter."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qdqcli.gate.generate import budget_text, glob_of
from qdqcli.gate.judge import judge
from qdqcli.gate.project import read_budget
from qdqcli.gate.ratchet import Headroom, ratchet
from qdqcli.recipe.patterns import compile_pattern
from tests.gate.samples import TODAY, budget
from tests.report.samples import BAD, EVERY_KIND, EXACT, GOOD, HOSTILE, NONFINITE, UNMEASURED, quantized, run_of

NAMES = [name for name in HOSTILE if "\ud800" not in name and "\udcff" not in name]


def ratcheted(folder: Path, text: str, run: object, db: float = 0.5) -> str:
    return ratchet(budget(folder, text), run, Headroom(db=db), TODAY)  # type: ignore[arg-type]


@pytest.mark.parametrize("db", [0.0, 0.5])
def test_a_written_budget_is_kept_by_its_own_run_with_the_headroom_and_no_more(tmp_path: Path, db: float) -> None:
    path = tmp_path / "b.toml"
    for run in (run_of(GOOD, BAD, EXACT), replace(EVERY_KIND, notes=()), run_of(EXACT)):
        path.write_text(budget_text(run, Headroom(db=db)))
        verdict, warnings = judge(run, read_budget(path), None, TODAY)
        assert verdict.passed
        assert warnings == []
    path.write_text(budget_text(run_of(BAD), Headroom(db=db)))
    worse = quantized(BAD.source.name, [1.0, -2.0, 3.0], [0.5 - 0.08, -2.0, 3.0])
    assert judge(run_of(worse), read_budget(path), None, TODAY)[0].passed is False


@pytest.mark.parametrize("name", NAMES)
def test_a_written_pattern_matches_its_name_and_no_other(name: str) -> None:
    matches = compile_pattern(glob_of(name))
    assert [other for other in NAMES if matches(other)] == [name]


def test_a_written_budget_takes_hostile_names(tmp_path: Path) -> None:
    run = run_of(*(quantized(name, [1.0, 2.0], [1.0, 2.5]) for name in NAMES))
    path = tmp_path / "b.toml"
    path.write_text(budget_text(run, Headroom(db=0.1)), encoding="utf-8", newline="")
    assert judge(run, read_budget(path), None, TODAY)[0].passed


def test_a_written_budget_allows_as_much_that_is_not_finite_as_there_is(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(budget_text(run_of(GOOD, NONFINITE), Headroom(db=0.5)), encoding="utf-8")
    kept = judge(run_of(GOOD, NONFINITE), read_budget(path), None, TODAY)[0]
    assert kept.passed
    assert kept.nearest is not None
    assert kept.nearest.metric == "sqnr_db", "counts are at their limits"
    more = NONFINITE._replace(sums=NONFINITE.sums._replace(num_nonfinite=2))
    spoilt = UNMEASURED._replace(source=GOOD.source)
    for run in (run_of(GOOD, more), run_of(spoilt, NONFINITE)):
        errors = judge(run, read_budget(path), None, TODAY)[0].errors
        assert "num_nonfinite" in [violation.metric for violation in errors]


def test_limits_become_tighter_and_the_rest_of_the_text_stays(tmp_path: Path) -> None:
    text = "[limits] # all\nmin_sqnr_db = 10 # a reason\nmax_rmse=1.5\n\n"
    text += '[[tensors]]\nmatch = "*good*"\nmin_sqnr_db = 20\n'
    after = ratcheted(tmp_path, text, run_of(GOOD, BAD))
    bad, good = (row.stats["sqnr_db"] for row in (BAD, GOOD))
    lines = after.splitlines()
    low, rmse, high = (float(lines[i].split("=")[1].split("#")[0]) for i in (2, 3, 7))
    assert bad - 0.51 <= low <= bad - 0.5
    assert good - 0.51 <= high <= good - 0.5
    assert BAD.stats["rmse"] < rmse < BAD.stats["rmse"] * 1.07
    assert lines[2].endswith(" # a reason")
    assert [line.split("=")[0] for line in lines] == [
        line.split("=")[0] for line in ("schema = 1\n" + text).splitlines()
    ]
    assert ratcheted(tmp_path, after.removeprefix("schema = 1\n"), run_of(GOOD, BAD)) == after, "again changes nothing"


def test_limits_never_become_looser(tmp_path: Path) -> None:
    text = "[limits]\nmin_sqnr_db = 60\nmax_abs_error = 0.0001\n[summary.median]\nmin_sqnr_db = 90\n"
    assert ratcheted(tmp_path, text, run_of(GOOD, BAD)) == "schema = 1\n" + text


def test_the_summary_and_aggregates_are_tightened_too(tmp_path: Path) -> None:
    after = ratcheted(tmp_path, "[summary]\nmin_sqnr_db = 1\n[summary.worst]\nmin_sqnr_db = 2\n", run_of(GOOD, BAD))
    assert "db = 1\n" not in after
    assert "db = 2\n" not in after


def test_waived_tensors_set_no_limit(tmp_path: Path) -> None:
    waiver = '[[waivers]]\nmatch = "*bad*"\nreason = "r"\nuntil = 2027-01-31\n'
    after = ratcheted(tmp_path, "[limits]\nmin_sqnr_db = 10\n" + waiver, run_of(GOOD, BAD))
    assert float(after.splitlines()[2].split("=")[1]) > 70


WAIVER = """
[[waivers]]
match = 'x'
reason = '''
min_sqnr_db = 10
'''
until = 2027-01-31
"""


@pytest.mark.parametrize(
    "text",
    [
        "limits = {min_sqnr_db = 10} # why\n",
        "limits = { min_sqnr_db = 10, max_rmse = 0 } # why\n",
        "limits.min_sqnr_db = 10 # why\n[summary]\nmax_rmse = 0\n",
        "[limits]\n'min_sqnr_db'   =   10 # why\n",
        "[ limits ]\n\"min_sqnr_db\"=10#why\n[settings]\nnum_bits = 8\n",
        "# min_sqnr_db = 10\n[[tensors]]\nmatch = '*'\nmin_sqnr_db = 10 # why\n[[tensors]]\nmatch = 'b'\nmax_mse = 0\n",
        "tensors = [{match = '*', min_sqnr_db = 10}] # why\n",
        "[summary.p05] # why\nmin_sqnr_db = 10\n[summary]\nmin_sqnr_db = 10\n",
        f"[limits] # why\nmin_sqnr_db = 10\n{WAIVER}",
        "[summary] # why\nmin_sqnr_db = 10\n[settings]\nnum_bits = 8\n[summary.p05]\nmin_sqnr_db = 10",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_limits_in_every_spelling_become_tighter_and_nothing_else_changes(tmp_path: Path, text: str, end: str) -> None:
    (tmp_path / "budget.toml").write_bytes(text.replace("\n", end).encode())
    before = read_budget(tmp_path / "budget.toml")
    run = run_of(GOOD._replace(source=GOOD.source._replace(name="b")))
    after = ratchet(before, run, Headroom(db=0.5), TODAY)
    assert re.sub(r"[\d.]+", "N", after) == re.sub(r"[\d.]+", "N", text.replace("\n", end))
    (tmp_path / "budget.toml").write_bytes(after.encode())
    limits = [limit for rule in read_budget(tmp_path / "budget.toml").rules for limit in rule.limits]
    limits += [limit for found in read_budget(tmp_path / "budget.toml").summary.values() for limit in found]
    values = {limit.key: limit.value for limit in limits}
    assert values.pop("min_sqnr_db") == pytest.approx(GOOD.stats["sqnr_db"] - 0.5, abs=0.01)
    assert set(values.values()) <= {0}, "what the run does not keep stays"


def test_headroom_is_in_decibels() -> None:
    assert Headroom.parse("0.5dB") == Headroom.parse("0.5 DB") == Headroom.parse(".5") == Headroom(db=0.5)
    for text in ("", "x", "-1dB", "nan", "5%"):
        with pytest.raises(ValueError, match=r"convert|-1dB|nan"):
            Headroom.parse(text)
    assert replace(Headroom(db=0.0)).limit("rmse", 0.0, is_minimum=False) == 0.0


@pytest.mark.parametrize("inputs", [["pipe"], ["pipe/a", "pipe/b"]])
def test_a_written_budget_has_a_limit_for_each_tensor_of_a_name(tmp_path: Path, inputs: list[str]) -> None:
    rows = [row._replace(source=row.source._replace(name="w[0]", file=f"pipe/{folder}/m.safetensors"))
            for row, folder in ((GOOD, "a"), (BAD, "b"))]  # fmt: skip
    run = replace(run_of(*rows), inputs=inputs)
    path = tmp_path / "b.toml"
    path.write_text(budget_text(run, Headroom(db=0.0)))
    assert 'match = "a/m.safetensors#w[[]0]"\nmin_sqnr_db = 71.' in path.read_text()
    assert 'match = "b/m.safetensors#w[[]0]"\nmin_sqnr_db = 17.' in path.read_text()
    assert judge(run, read_budget(path), None, TODAY)[0].passed

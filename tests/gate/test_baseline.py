"""A run against an earlier one: worse fails, better never does, and what is not comparable is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdqcli.result.result import RunResult, TensorResult
from tests.gate.samples import verdict
from tests.report.samples import BAD, EXACT, GOOD, KEPT, quantized, run_of, skipped

NAME = GOOD.source.name
WORSE = GOOD._replace(sums=BAD.sums)


def found(folder: Path, run: RunResult, baseline: RunResult, settings: str = "") -> list[tuple[str | None, str]]:
    result = verdict(folder, run, f"[baseline]\nfile = 'x.json'\n{settings}", baseline=baseline)
    assert {violation.origin for violation in result.violations} <= {"baseline"}
    return [(violation.tensor, violation.metric) for violation in result.violations]


def test_the_same_run_passes_and_a_better_one_too(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(GOOD, KEPT), run_of(GOOD, KEPT)) == []
    assert found(tmp_path, run_of(GOOD), run_of(WORSE)) == []


def test_a_worse_one_fails_by_more_than_the_tolerance_only(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(WORSE), run_of(GOOD)) == [(NAME, "sqnr_db")]
    drop = GOOD.stats["sqnr_db"] - BAD.stats["sqnr_db"]
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), f"sqnr_db_drop = {drop + 0.01}") == []
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), f"sqnr_db_drop = {drop - 0.01}") == [(NAME, "sqnr_db")]


@pytest.mark.parametrize(
    ("settings", "fails"),
    [
        ("rmse_rise = 1.0", False),
        ("rmse_rise = 0.1", True),
        ("rmse_rise_percent = 10", True),
        ("rmse_rise_percent = 1e6", False),
    ],
)
def test_tolerances_of_errors_are_rises(tmp_path: Path, settings: str, fails: bool) -> None:
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), settings) == ([(NAME, "rmse")] if fails else [])


def test_what_lost_nothing_must_go_on_to_lose_nothing(tmp_path: Path) -> None:
    now = GOOD._replace(source=EXACT.source)
    assert found(tmp_path, run_of(now), run_of(EXACT)) == [
        (EXACT.source.name, "settings"),
        (EXACT.source.name, "sqnr_db"),
    ] or found(tmp_path, run_of(now), run_of(EXACT)) == [(EXACT.source.name, "sqnr_db")]
    assert found(tmp_path, run_of(EXACT), run_of(GOOD._replace(source=EXACT.source))) == []


def test_tensors_that_came_and_went_are_named(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(GOOD, BAD), run_of(GOOD, EXACT)) == [
        (BAD.source.name, "unexpected"),
        (EXACT.source.name, "missing"),
    ]
    assert found(tmp_path, run_of(GOOD, GOOD), run_of(GOOD)) == [(NAME, "unexpected")], "of two files, one name"


def test_changed_settings_and_rules_are_named_with_both_values(tmp_path: Path) -> None:
    now = quantized(NAME, [1.0, -2.0, 3.0], [1.001, -2.0, 3.0], spec=BAD.spec)
    result = verdict(tmp_path, run_of(now), "[baseline]\nfile = 'x.json'", baseline=run_of(GOOD))
    (only,) = result.violations
    assert only.metric == "settings"
    assert only.limit == "num_bits 8, axis 0, group_size None"
    assert only.actual == "num_bits 4, axis -1, group_size 128"
    assert found(tmp_path, run_of(skipped("a", "one")), run_of(skipped("a", "other"))) == [("a", "settings")]
    assert found(tmp_path, run_of(skipped(NAME, "kept")), run_of(GOOD)) == [(NAME, "settings")]


def test_tensors_of_one_name_are_held_against_those_of_the_same_file(tmp_path: Path) -> None:
    def run(*rows: tuple[str, TensorResult], root: str = "pipe") -> RunResult:
        placed = [row._replace(source=row.source._replace(name="w", file=f"{root}/{file}")) for file, row in rows]
        return replace(run_of(*placed), inputs=[root])

    before = run(("a/m.safetensors", GOOD), ("b/m.safetensors", BAD))
    after = run(("b/m.safetensors", BAD), ("a/m.safetensors", GOOD), root="elsewhere/pipe")
    assert found(tmp_path, after, before) == []
    assert found(tmp_path, run(("a/m.safetensors", GOOD)), before) == [("w", "missing")]
    worse = run(("a/m.safetensors", BAD), ("b/m.safetensors", BAD))
    assert found(tmp_path, worse, before)

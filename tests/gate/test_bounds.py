"""Each tensor's nearest limit, with its margin, and its figure in the baseline."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdqcli.gate.baseline import BaselineComparison
from qdqcli.gate.bounds import unjudged, with_bounds
from qdqcli.result.read import from_json
from qdqcli.result.result import Bound, Row, RunResult, TensorResult, to_json
from tests.gate.samples import budget
from tests.report.samples import BAD, EXACT, GOOD, KEPT, run_of

SQNR = {row: row.stats["sqnr_db"] for row in (GOOD, BAD)}


def bounded(folder: Path, text: str, *rows: Row, baseline: RunResult | None = None) -> RunResult:
    run = run_of(*rows)
    beside = None if baseline is None else BaselineComparison(run=run, baseline=baseline)
    return with_bounds(run, budget(folder, text), beside)


def bounds(run: RunResult) -> list[Bound | None]:
    return [row.bound for row in run.rows if isinstance(row, TensorResult)]


def test_a_margin_is_negative_beyond_the_limit(tmp_path: Path) -> None:
    run = bounded(tmp_path, "[limits]\nmin_sqnr_db = 30", GOOD, BAD, EXACT, KEPT)
    good, bad, exact = bounds(run)
    assert good == Bound("sqnr_db", 30.0, pytest.approx(SQNR[GOOD] - 30))
    assert bad == Bound("sqnr_db", 30.0, pytest.approx(SQNR[BAD] - 30))
    assert SQNR[BAD] < 30 < SQNR[GOOD]
    assert exact is None, "nothing was lost"
    assert run.rows[3] is KEPT


def test_of_several_limits_the_smallest_margin_counts(tmp_path: Path) -> None:
    text = "[limits]\nmin_sqnr_db = 0\nmax_rmse = 0.3"  # of BAD, with an RMSE of 0.29
    (found,) = bounds(bounded(tmp_path, text, BAD))
    assert found is not None
    assert (found.metric, found.limit) == ("rmse", 0.3)
    assert 0 < (found.margin_db or 0) < 1


def test_a_value_at_its_limit_has_no_margin(tmp_path: Path) -> None:
    assert bounds(bounded(tmp_path, f"[limits]\nmin_sqnr_db = {SQNR[BAD]!r}", BAD)) == [
        Bound("sqnr_db", SQNR[BAD], 0.0)
    ]


def test_the_baseline_is_a_limit_less_its_tolerance_and_shown_beside(tmp_path: Path) -> None:
    text = "[baseline]\nfile = 'x.json'\nsqnr_db_drop = 0.5"
    run = bounded(tmp_path, text, BAD, baseline=run_of(BAD, GOOD))
    assert [row.baseline_db for row in run.quantized] == [SQNR[BAD]]
    assert bounds(run) == [Bound("sqnr_db", pytest.approx(SQNR[BAD] - 0.5), pytest.approx(0.5))]


def test_a_baseline_of_other_settings_is_not_compared_with(tmp_path: Path) -> None:
    other = replace(run_of(BAD), settings={"num_bits": 4})
    run = bounded(tmp_path, "[baseline]\nfile = 'x.json'", BAD, baseline=other)
    assert [(row.bound, row.baseline_db) for row in run.quantized] == [(None, None)]


def test_bounds_are_kept_in_a_report_and_taken_off(tmp_path: Path) -> None:
    run = bounded(tmp_path, "[limits]\nmin_sqnr_db = 30\n[baseline]\nfile = 'x'", GOOD, BAD, baseline=run_of(GOOD, BAD))
    again = from_json(to_json(run))
    assert bounds(again) == bounds(run)
    assert [row.baseline_db for row in again.quantized] == [SQNR[GOOD], SQNR[BAD]]
    assert to_json(unjudged(run)) == to_json(run_of(GOOD, BAD))

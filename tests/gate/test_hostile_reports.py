"""A stored report that was let in can be judged, be a baseline and make a budget, whatever its values."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from qdqcli.errors import UsageError
from qdqcli.gate.baseline import BaselineComparison
from qdqcli.gate.budget import parse_budget
from qdqcli.gate.generate import budget_text
from qdqcli.gate.judge import judge
from qdqcli.gate.ratchet import Headroom
from qdqcli.result.read import from_json
from qdqcli.result.result import RunResult
from tests.result.test_hostile_reports import PARTS, RUN, changed, changes, refusal

BUDGET = """
[limits]
min_sqnr_db = 30
max_abs_error = 0.5
max_rmse = 0.1
[summary]
min_sqnr_db = 33
[summary.median]
min_sqnr_db = 3
[structure]
min_quantized = 0.5
max_bits_per_weight = 4.6
forbid = ["*lm*"]
[settings]
num_bits = 8
axis = 0
[baseline]
file = "before.json"
sqnr_db_drop = 0.1
[[waivers]]
match = "ids"
reason = "known"
until = 2027-01-31
"""
DAY = date(2027, 1, 1)


def uses(run: RunResult) -> Iterator[Callable[[], object]]:
    budget = parse_budget(BUDGET, Path("b.toml"))
    yield lambda: judge(run, budget, BaselineComparison(run=run, baseline=RUN), DAY, allow_unmatched=True)
    yield lambda: judge(RUN, budget, BaselineComparison(run=RUN, baseline=run), DAY, allow_unmatched=True)
    yield lambda: parse_budget(budget_text(run, Headroom(db=0.5)), Path("made.toml"))


@pytest.mark.parametrize("part", PARTS)
def test_no_value_of_a_report_is_a_bug_of_the_gate(part: str, every_fault: bool) -> None:
    for way, value in changes(part, is_every=every_fault):
        data = changed(way, value)
        if refusal(data) is None:
            for use in uses(from_json(data)):
                with suppress(UsageError):
                    use()

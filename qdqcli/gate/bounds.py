"""Bounds of a judged run: each tensor's nearest limit with its margin, and its SQNR in the baseline."""

from collections.abc import Iterator
from dataclasses import replace

from qdqcli.gate.baseline import BaselineComparison, allowed, tolerances_of
from qdqcli.gate.budget import BaselineRule, Budget
from qdqcli.gate.judge import limits_of
from qdqcli.gate.margin import margin_db
from qdqcli.recipe.patterns import Tables
from qdqcli.result.result import Bound, Row, RunResult, TensorResult
from qdqcli.stats.metrics import METRICS, Better

_Limit = tuple[str, float | None, bool]
"""Metric, limit, and whether it is a minimum."""


def with_bounds(run: RunResult, budget: Budget, beside: BaselineComparison | None) -> RunResult:
    """Return the run with the bound of each tensor, and with its SQNR in the baseline if the settings are the same."""
    rules = Tables(budget.rules, {row.source.name for row in run.rows})

    def bounded(number: int, row: Row) -> Row:
        if not isinstance(row, TensorResult):
            return row
        before = None if beside is None or beside.changed else beside.before(number)
        old = before if isinstance(before, TensorResult) else None
        limits = limits_of(row.source, run, rules)[0].values()
        given = ((limit.metric, limit.value, limit.is_minimum) for limit in limits)
        found = (_bound(row, *limit) for limit in (*given, *_tolerated(old, budget.baseline)))
        known = [bound for bound in found if bound is not None]
        nearest = min(known, key=lambda bound: (bound.margin_db is None, bound.margin_db), default=None)
        return row._replace(bound=nearest, baseline_db=None if old is None else old.stats["sqnr_db"])

    return replace(run, rows=[bounded(number, row) for number, row in enumerate(run.rows)])


def unjudged(run: RunResult) -> RunResult:
    """Return the run without verdict and bounds."""
    rows = [row._replace(bound=None, baseline_db=None) if isinstance(row, TensorResult) else row for row in run.rows]
    return replace(run, rows=rows, verdict=None)


def _tolerated(old: TensorResult | None, rule: BaselineRule | None) -> Iterator[_Limit]:
    if old is None or rule is None:
        return
    for tolerance in tolerances_of(rule):
        was = old.stats[tolerance.metric]
        if was is not None:
            yield tolerance.metric, allowed(was, tolerance), METRICS[tolerance.metric].better is Better.HIGHER


def _bound(row: TensorResult, metric: str, limit: float | None, is_minimum: bool) -> Bound | None:
    value = row.stats[metric]
    if value is None or limit is None:
        return None
    if value == limit:
        return Bound(metric, limit, 0.0)
    distance = margin_db(metric, limit, value)
    is_kept = value > limit if is_minimum else value < limit
    return Bound(metric, limit, distance if distance is None or is_kept else -distance)

"""Baseline: a run held against an earlier one. One-sided: getting better never fails."""

from collections.abc import Iterator

from qdqcli.gate.budget import BaselineRule, Tolerance
from qdqcli.gate.excess import excess_db
from qdqcli.recipe.pairing import counterparts, located
from qdqcli.result.result import Row, RunResult, SkippedTensor, TensorResult, spec_to_json
from qdqcli.result.verdict import Violation
from qdqcli.stats.metrics import METRICS, Better

DEFAULT_TOLERANCES = (Tolerance(metric="sqnr_db", amount=0.0, is_percent=False),)
"""Where a budget names none: reports repeat bit for bit, so no worse at all can be asked for."""
ORIGIN = "baseline"


def compare_with_baseline(run: RunResult, baseline: RunResult, rule: BaselineRule) -> Iterator[Violation]:
    """What became worse by more than the tolerances, and tensors that came, went or changed their settings."""
    numbers = counterparts(list(located(run, run.rows)), list(located(baseline, baseline.rows)))
    known = set(numbers)
    for number, old in enumerate(baseline.rows):
        if number not in known:
            yield _violation(old, "missing", "in the baseline", "not in this run", rule)
    for row, before in zip(run.rows, numbers, strict=True):
        if before is None:
            yield _violation(row, "unexpected", "not in the baseline", "in this run", rule)
        else:
            yield from _compare(baseline.rows[before], row, rule)


def _compare(old: Row, new: Row, rule: BaselineRule) -> Iterator[Violation]:
    was, now = _settings(old), _settings(new)
    if was != now:
        keys = [key for key in (was | now) if was.get(key) != now.get(key)]
        limit, actual = (", ".join(f"{key} {part[key]}" for key in keys if key in part) for part in (was, now))
        yield _violation(new, "settings", limit, actual, rule)
    if isinstance(old, TensorResult) and isinstance(new, TensorResult):
        yield from _worse(old, new, rule)


def _settings(row: Row) -> dict[str, object]:
    """What decides how a tensor is measured."""
    fixed: dict[str, object] = {
        "dtype": row.source.dtype,
        "shape": "x".join(map(str, row.source.shape)) or "scalar",
    }
    if isinstance(row, SkippedTensor):
        return fixed | {"skipped:": row.reason}
    return fixed | ({} if row.spec is None else spec_to_json(row.spec))


def _worse(old: TensorResult, new: TensorResult, rule: BaselineRule) -> Iterator[Violation]:
    for tolerance in rule.tolerances or DEFAULT_TOLERANCES:
        was, now = old.stats[tolerance.metric], new.stats[tolerance.metric]
        if (now is None and (new.is_exact or not new.num_elements)) or (was is None and not old.is_exact):
            continue  # nothing was lost, or there is nothing to hold it against
        is_higher_better = METRICS[tolerance.metric].better is Better.HIGHER
        if was is None or now is None:  # lost something where nothing was lost, or cannot be measured any more
            yield _violation(new, tolerance.metric, "exact" if was is None else was, now, rule)
            continue
        amount = abs(was) * tolerance.amount / 100.0 if tolerance.is_percent else tolerance.amount
        limit = was - amount if is_higher_better else was + amount
        if now < limit if is_higher_better else now > limit:
            yield _violation(new, tolerance.metric, limit, now, rule)


def _violation(
    row: Row, metric: str, limit: float | str | None, actual: float | str | None, rule: BaselineRule
) -> Violation:
    over = None
    if isinstance(limit, int | float) and isinstance(actual, int | float):
        over = excess_db(metric, limit, actual)
    return Violation(
        tensor=row.source.name,
        file=row.source.file,
        metric=metric,
        limit=limit,
        actual=actual,
        severity=rule.severity,
        excess_db=over,
        origin=ORIGIN,
    )

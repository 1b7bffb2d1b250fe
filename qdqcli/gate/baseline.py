"""Comparison of a run with a baseline report. One-sided: an improvement never fails."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from qdqcli.gate.budget import BaselineRule, Tolerance
from qdqcli.gate.margin import margin_db
from qdqcli.gate.settings import comparable, differences, shown
from qdqcli.recipe.axis import word_of
from qdqcli.recipe.pairing import counterparts, located
from qdqcli.result.result import Row, RunResult, SkippedTensor, TensorResult, spec_to_json
from qdqcli.result.verdict import Violation
from qdqcli.stats.metrics import METRICS, Better
from qdqcli.tensors.tensor import plain_shape

DEFAULT_TOLERANCE = Tolerance(metric="sqnr_db", amount=0.0, is_percent=False)
"""Default of a budget: reports are bit-exact, so any degradation can be refused."""
ORIGIN = "baseline"


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """A run beside a baseline report."""

    run: RunResult
    baseline: RunResult

    @cached_property
    def changed(self) -> Sequence[tuple[str, str, str]]:
        """Name, old and new value of each setting of the run that differs: then no figures can be compared."""
        return list(differences(comparable(self.baseline.settings), comparable(self.run.settings)))

    @cached_property
    def numbers(self) -> Sequence[int | None]:
        """Index in the baseline of each row's counterpart, or None."""
        run, baseline = self.run, self.baseline
        return counterparts(list(located(run, run.rows)), list(located(baseline, baseline.rows)))

    def before(self, row: int) -> Row | None:
        """Return the counterpart of a row, by its index."""
        number = self.numbers[row]
        return None if number is None else self.baseline.rows[number]


def compare_with_baseline(beside: BaselineComparison, rule: BaselineRule, source: str) -> Iterator[Violation]:
    """Yield metrics that degraded beyond the tolerances, and tensors that appeared, vanished or changed settings.

    If the settings of the whole run differ, yield only that: the figures are not comparable. `source` is the budget.
    """
    if beside.changed:
        was, now = (", ".join(f"{change[0]} {change[side]}" for change in beside.changed) for side in (1, 2))
        yield Violation(
            tensor=None, metric="settings", limit=was, actual=now, severity=rule.severity, origin=ORIGIN,
            budget=source, line=rule.line,
        )  # fmt: skip
        return
    known = set(beside.numbers)
    for number, old in enumerate(beside.baseline.rows):
        if number not in known:
            yield _violation(old, "missing", "in the baseline", "not in this run", rule, source)
    for number, row in enumerate(beside.run.rows):
        before = beside.before(number)
        if before is None:
            yield _violation(row, "unexpected", "not in the baseline", "in this run", rule, source)
        else:
            yield from _compare(before, row, rule, source)


def _compare(old: Row, new: Row, rule: BaselineRule, source: str) -> Iterator[Violation]:
    was, now = _settings(old), _settings(new)
    if was != now:
        keys = [key for key in (was | now) if was.get(key) != now.get(key)]
        limit, actual = (", ".join(f"{key} {shown(part[key])}" for key in keys if key in part) for part in (was, now))
        yield _violation(new, "settings", limit, actual, rule, source)
    elif isinstance(old, TensorResult) and isinstance(new, TensorResult):
        yield from _worse(old, new, rule, source)


def _settings(row: Row) -> dict[str, object]:
    """Return the settings that determine how a tensor is measured, or how a compared one is stored."""
    fixed: dict[str, object] = {
        "dtype": row.source.dtype,
        "shape": plain_shape(row.source.shape),
    }
    if isinstance(row, SkippedTensor):
        return fixed | {"skipped:": row.reason}
    if row.spec is None:
        return fixed | _storage(row)
    spec = spec_to_json(row.spec)
    return fixed | spec | {"axis": word_of(row.spec.axis)}


def _storage(row: TensorResult) -> dict[str, object]:
    if row.packing is None:
        return {"stored": "in float"}
    storage = row.packing.storage
    block = "x".join(map(str, storage.grid.block))
    side = "" if row.packing.is_candidate else " in the reference"
    return {"stored": f"as {storage.format}{side}", "bits": storage.grid.bits, "block": block}


def _worse(old: TensorResult, new: TensorResult, rule: BaselineRule, source: str) -> Iterator[Violation]:
    for tolerance in tolerances_of(rule):
        was, now = old.stats[tolerance.metric], new.stats[tolerance.metric]
        if (now is None and (new.is_exact or not new.num_elements)) or (was is None and not old.is_exact):
            continue  # nothing was lost, or there is nothing to compare with
        if was is None or now is None:  # the loss is new, or the metric can no longer be measured
            limit = "exact" if was is None else was
            yield _violation(new, tolerance.metric, limit, now, rule, source, tolerance.line)
            continue
        limit = allowed(was, tolerance)
        if now < limit if METRICS[tolerance.metric].better is Better.HIGHER else now > limit:
            yield _violation(new, tolerance.metric, limit, now, rule, source, tolerance.line)


def tolerances_of(rule: BaselineRule) -> Sequence[Tolerance]:
    """Return the tolerances of a budget; the default where it has none."""
    return rule.tolerances or [replace(DEFAULT_TOLERANCE, line=rule.line)]


def allowed(was: float, tolerance: Tolerance) -> float:
    """Return the limit that a tolerance sets, from the value in the baseline."""
    amount = abs(was) * tolerance.amount / 100.0 if tolerance.is_percent else tolerance.amount
    return was - amount if METRICS[tolerance.metric].better is Better.HIGHER else was + amount


def _violation(
    row: Row,
    metric: str,
    limit: float | str | None,
    actual: float | str | None,
    rule: BaselineRule,
    source: str,
    line: int | None = None,
) -> Violation:
    over = None
    if isinstance(limit, int | float) and isinstance(actual, int | float):
        over = margin_db(metric, limit, actual)
    return Violation(
        tensor=row.source.name,
        file=row.source.file,
        metric=metric,
        limit=limit,
        actual=actual,
        severity=rule.severity,
        excess_db=over,
        origin=ORIGIN,
        budget=source,
        line=rule.line if line is None else line,
    )

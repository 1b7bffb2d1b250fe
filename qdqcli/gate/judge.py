"""Judge: a run and a budget become a verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain
from math import inf, isfinite

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.gate.aggregate import aggregate
from qdqcli.gate.baseline import compare_with_baseline
from qdqcli.gate.budget import Budget, Limit, TensorRule, Waiver
from qdqcli.gate.excess import excess_db
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import Tables, holders_of, matches_any, nearest_names
from qdqcli.result.result import RunResult, Source, TensorResult
from qdqcli.result.verdict import Severity, Verdict, Violation

NONFINITE = ("num_nonfinite", "num_nonfinite_output")


def judge(
    run: RunResult, budget: Budget, baseline: RunResult | None, today: date, *, allow_unmatched: bool = False
) -> tuple[Verdict, list[str]]:
    """The verdict, and warnings of patterns that matched nothing.

    Raises:
        UsageError: a pattern matches no measured tensor (a warning with `allow_unmatched`).
    """
    warnings = _unmatched(run, budget, baseline)
    if warnings and not allow_unmatched:
        raise UsageError(f"{warnings[0]}; --allow-unmatched makes this a warning")
    rules = Tables(budget.rules, {row.source.name for row in run.rows})
    found = [violation for row in run.quantized for violation in _judge_tensor(row, run, rules)]
    found += [
        Violation(
            tensor=row.source.name, file=row.source.file, metric="failed", limit=None, actual=row.reason,
            origin="limits",
        )
        for row in run.skipped
        if row.is_failure
    ]  # fmt: skip
    found += _judge_summary(run, budget)
    if budget.baseline is not None and baseline is not None:
        found += compare_with_baseline(run, baseline, budget.baseline)
    counted, waived = _waive(found, run, budget, today)
    return Verdict(violations=sorted(counted, key=_rank), waived=sorted(waived, key=_rank)), warnings


def limits_of(source: Source, run: RunResult, rules: Tables[TensorRule]) -> tuple[dict[str, Limit], bool]:
    """By key, the limits that hold for a tensor, and whether elements that are not finite are allowed."""
    limits: dict[str, Limit] = {}
    allow_nonfinite = False
    for rule in rules.of(source.name, FileRef.within(source.file, run.inputs)):
        if rule.severity is not None and not rule.limits:
            limits = {key: replace(limit, severity=rule.severity) for key, limit in limits.items()}
        limits |= {limit.key: limit for limit in rule.limits}
        if rule.allow_nonfinite is not None:
            allow_nonfinite = rule.allow_nonfinite
    return {key: limit for key, limit in limits.items() if limit.value is not None}, allow_nonfinite


def _judge_tensor(row: TensorResult, run: RunResult, rules: Tables[TensorRule]) -> Iterator[Violation]:
    limits, allow_nonfinite = limits_of(row.source, run, rules)
    if not allow_nonfinite:
        for metric in NONFINITE:
            count = row.stats[metric]
            if count and _is_unlimited(limits, metric):
                yield Violation(
                    tensor=row.source.name, file=row.source.file, metric=metric, limit=0, actual=count, origin="limits"
                )  # fmt: skip
    for limit in limits.values():
        value = row.stats[limit.metric]
        if value is None and (row.is_exact or not row.num_elements):
            continue
        if value is None and allow_nonfinite and not row.sums.num_measured:
            continue
        violation = _check(limit, value, "limits")
        if violation is not None:
            yield replace(violation, tensor=row.source.name, file=row.source.file)


def _is_unlimited(limits: Mapping[str, Limit], metric: str) -> bool:
    """Whether no limit speaks of the metric."""
    return f"max_{metric}" not in limits


def _judge_summary(run: RunResult, budget: Budget) -> Iterator[Violation]:
    rows = list(run.quantized)
    for place, limits in budget.summary.items():
        for limit in limits:
            if limit.value is None:
                continue
            if place == "summary":
                value = run.summary[limit.metric]
                if value is None and run.is_exact:
                    continue
            else:
                value = aggregate(place.removeprefix("summary."), limit.metric, rows)
                if value is not None and not isfinite(value):  # nothing was lost
                    continue
            violation = _check(limit, value, place)
            if violation is not None:
                yield violation


def _check(limit: Limit, value: float | None, origin: str) -> Violation | None:
    """The violation, without its tensor; a metric without a number is beyond every limit."""
    bound = limit.value
    assert bound is not None
    if value is not None and (value >= bound if limit.is_minimum else value <= bound):
        return None
    return Violation(
        tensor=None,
        metric=limit.metric,
        limit=bound,
        actual=value,
        severity=limit.severity,
        excess_db=None if value is None else excess_db(limit.metric, bound, value),
        origin=origin,
    )


def _waive(
    found: Sequence[Violation], run: RunResult, budget: Budget, today: date
) -> tuple[list[Violation], list[Violation]]:
    counted, waived = [], []
    waivers = Tables(budget.waivers, {violation.tensor for violation in found if violation.tensor is not None})
    for violation in found:
        waiver = (
            None
            if violation.tensor is None
            else waiver_for(violation.tensor, violation.file or "", run, waivers, today)
        )
        if waiver is None:
            counted.append(violation)
        else:
            waived.append(replace(violation, waiver=waiver.reason))
    counted += [
        Violation(
            tensor=None, metric="waiver", limit=waiver.until.isoformat(), origin="waivers",
            actual=f"{', '.join(waiver.patterns)}: {waiver.reason}",
        )
        for waiver in budget.waivers
        if today > waiver.until
    ]  # fmt: skip
    return counted, waived


def waiver_for(name: str, file: str, run: RunResult, waivers: Tables[Waiver], today: date) -> Waiver | None:
    """The first waiver that holds for the tensor on that day."""
    found = waivers.of(name, FileRef.within(file, run.inputs))
    return next((waiver for waiver in found if today <= waiver.until), None)


def _rank(violation: Violation) -> tuple[bool, float, str, str, str]:
    over = inf if violation.excess_db is None else violation.excess_db
    place = violation.tensor or "", violation.file or "", violation.metric
    return violation.severity is not Severity.ERROR, -over, *place


def _unmatched(run: RunResult, budget: Budget, baseline: RunResult | None) -> list[str]:
    """Patterns of limits must match what was measured; those of waivers may also name what is missing."""
    measured, skipped = holders_of(located(run, run.quantized)), holders_of(located(run, run.skipped))
    before = located(baseline, baseline.rows) if baseline is not None else ()
    everything = holders_of(chain(located(run, run.rows), before))
    warnings = []
    for kind, tables, names in (("[[tensors]]", budget.rules, measured), ("[[waivers]]", budget.waivers, everything)):
        for pattern in (pattern for table in tables for pattern in table.patterns):
            if matches_any(pattern, names):
                continue
            offer = nearest_names(pattern, names)
            if names is measured and matches_any(pattern, skipped):
                offer = "; it matches tensors that were not quantized, which no limit holds for"
            what = f"{kind} pattern '{escape_name(pattern)}'"
            warnings.append(f"budget: {what} matches none of {len(names)} tensors{offer}")
    return warnings

"""Judgement of a run by a budget."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from math import inf, isfinite

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.gate.aggregate import aggregate, best_of
from qdqcli.gate.baseline import BaselineComparison, compare_with_baseline
from qdqcli.gate.budget import Budget, Limit, TensorRule, Waiver
from qdqcli.gate.margin import margin_db
from qdqcli.gate.settings import check_settings
from qdqcli.gate.structure import Member, judge_structure, members_of
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import Tables, holders_of, matches_any, nearest_names
from qdqcli.result.result import RunResult, Source, TensorResult
from qdqcli.result.verdict import Margin, Severity, Verdict, Violation

NONFINITE = ("num_nonfinite", "num_nonfinite_output")
_SHARED = ("settings", "missing", "unexpected", "failed")
"""Kinds of violations that are merged if limit and actual value are equal: they have one cause."""


def judge(
    run: RunResult, budget: Budget, beside: BaselineComparison | None, today: date, *, allow_unmatched: bool = False
) -> tuple[Verdict, list[str]]:
    """Return the verdict, and warnings about patterns that matched nothing; `beside`: the run and its baseline, if any.

    Raises:
        UsageError: nothing was measured, or no limit holds for what was; the settings differ from those of the budget;
            a pattern matches no measured tensor (a warning with `allow_unmatched`).
    """
    check_settings(budget, run.settings)
    if not run.sums.num_elements:
        raise UsageError(f"{', '.join(run.inputs)}: nothing was measured, so there is nothing to judge")
    members = list(members_of(run))
    baseline = None if beside is None else beside.baseline
    warnings = check_patterns(members, budget, baseline, allow_unmatched=allow_unmatched)
    found = [*judge_structure(members, run.notes, budget)]
    limits = _Limits(run=run, budget=budget)
    limits.judge()
    found += limits.violations
    if budget.baseline is not None and beside is not None:
        found += compare_with_baseline(beside, budget.baseline, budget.source)
    elif not found and not limits.are_any and budget.has_limits_of_tensors_only:
        raise UsageError(
            f"{budget.source}: none of its limits holds for a tensor that was measured, so the run would pass whatever "
            "it lost; add [limits], or correct [[tensors]]"
        )
    return verdict_of(found, run, budget, today, limits.nearest), warnings


def verdict_of(
    found: Sequence[Violation], run: RunResult, budget: Budget, today: date, nearest: Margin | None = None
) -> Verdict:
    """Build the verdict: merge violations with a common cause and set waived ones apart."""
    counted, waived = _waive(found, run, budget, today)
    return Verdict(
        violations=sorted(_by_cause(counted), key=_rank), waived=sorted(waived, key=_rank), nearest=nearest
    )  # fmt: skip


def limits_of(source: Source, run: RunResult, rules: Tables[TensorRule]) -> tuple[dict[str, Limit], bool]:
    """Return the limits on a tensor, by key, and whether non-finite elements are allowed."""
    limits: dict[str, Limit] = {}
    allow_nonfinite = False
    for rule in rules.of(source.name, FileRef.within(source.file, run.inputs)):
        if rule.severity is not None and not rule.limits:
            limits = {key: replace(limit, severity=rule.severity) for key, limit in limits.items()}
        limits |= {limit.key: limit for limit in rule.limits}
        if rule.allow_nonfinite is not None:
            allow_nonfinite = rule.allow_nonfinite
    return {key: limit for key, limit in limits.items() if limit.value is not None}, allow_nonfinite


@dataclass(kw_only=True)
class _Limits:
    """Checks a run against the limits of a budget."""

    run: RunResult
    budget: Budget
    violations: list[Violation] = field(default_factory=list)
    nearest: Margin | None = None
    """Smallest margin among the limits that are kept."""
    are_any: bool = False
    """Whether a tensor has a limit."""

    def judge(self) -> None:
        rules = Tables(self.budget.rules, {row.source.name for row in self.run.rows})
        for row in self.run.quantized:
            self._judge_tensor(row, *limits_of(row.source, self.run, rules))
        for skipped in self.run.skipped:
            if skipped.is_failure:
                self._add(skipped.source, "failed", None, skipped.reason)
        for origin, limits in self.budget.summary.items():
            for limit in limits:
                if limit.value is not None:
                    self._judge_summary(limit, origin)

    def _judge_tensor(self, row: TensorResult, limits: Mapping[str, Limit], allow_nonfinite: bool) -> None:
        self.are_any |= bool(limits)
        if not allow_nonfinite:
            for metric in NONFINITE:
                if row.stats[metric] and f"max_{metric}" not in limits:  # a limit on the metric replaces this check
                    self._add(row.source, metric, 0, row.stats[metric])
        for limit in limits.values():
            value = row.stats[limit.metric]
            if value is None and (row.is_exact or not row.num_elements):
                continue
            if value is None and not row.sums.num_measured:  # allowed, or already a violation
                continue
            self._check(limit, value, row.source, "limits")

    def _judge_summary(self, limit: Limit, origin: str) -> None:
        if origin == "summary":
            value = self.run.summary[limit.metric]
            if value is None and self.run.is_exact:
                return
        else:
            value = aggregate(origin.removeprefix("summary."), limit.metric, list(self.run.quantized))
            if value == best_of(limit.metric):  # nothing was lost
                return
            value = value if value is None or isfinite(value) else None
        self._check(limit, value, None, origin)

    def _check(self, limit: Limit, value: float | None, source: Source | None, origin: str) -> None:
        """Record a violation or a margin; an undefined metric violates every limit."""
        bound = limit.value
        assert bound is not None
        distance = None if value is None else margin_db(limit.metric, bound, value)
        name, file = (None, None) if source is None else (source.name, source.file)
        if value is None or (value < bound if limit.is_minimum else value > bound):
            self.violations.append(
                Violation(
                    tensor=name, file=file, metric=limit.metric, limit=bound, actual=value, severity=limit.severity,
                    excess_db=distance, origin=origin, budget=self.budget.source, line=limit.line,
                )
            )  # fmt: skip
        elif distance is not None:
            margin = Margin(
                tensor=name, file=file, metric=limit.metric, limit=bound, actual=value,
                margin_db=0.0 if value == bound else distance, origin=origin,
            )  # fmt: skip
            if self.nearest is None or _nearness(margin) < _nearness(self.nearest):
                self.nearest = margin

    def _add(self, source: Source, metric: str, limit: float | None, actual: float | str | None) -> None:
        self.violations.append(
            Violation(
                tensor=source.name, file=source.file, metric=metric, limit=limit, actual=actual, origin="limits",
                budget=self.budget.source,
            )
        )  # fmt: skip


def _nearness(margin: Margin) -> tuple[bool, bool, float, str, str, str]:
    """Return the sort key of a margin: counts, often at their limit, last; tensors before the run; by distance."""
    is_count = margin.metric.startswith("num_")
    return is_count, margin.tensor is None, margin.margin_db, margin.tensor or "", margin.file or "", margin.metric


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
            tensor=None, metric="waiver", limit=waiver.until.isoformat(), actual=", ".join(waiver.patterns),
            origin="waivers", budget=budget.source, line=waiver.line, waiver=waiver.reason,
        )
        for waiver in budget.waivers
        if today > waiver.until
    ]  # fmt: skip
    return counted, waived


def waiver_for(name: str, file: str, run: RunResult, waivers: Tables[Waiver], today: date) -> Waiver | None:
    """Return the first waiver for the tensor that is valid on that day."""
    found = waivers.of(name, FileRef.within(file, run.inputs))
    return next((waiver for waiver in found if today <= waiver.until), None)


def _by_cause(found: Sequence[Violation]) -> Iterator[Violation]:
    """Yield the violations, merging those with a common cause."""
    causes: dict[object, list[Violation]] = defaultdict(list)
    for number, violation in enumerate(found):
        is_shared = violation.metric in _SHARED and violation.tensor is not None
        cause = violation.metric, violation.limit, violation.actual, violation.severity, violation.origin
        causes[cause if is_shared else number].append(violation)
    for first, *others in causes.values():
        if not others:
            yield first
            continue
        names = (first.tensor, *(other.tensor for other in others))
        yield replace(first, tensor=None, file=None, tensors=tuple(name for name in names if name is not None))


def _rank(violation: Violation) -> tuple[bool, bool, float, str, str, str]:
    """Return the sort key: errors, merged violations, then by excess; an undefined excess counts as infinite."""
    over = inf if violation.excess_db is None else violation.excess_db
    tie_break = violation.tensor or "", violation.file or "", violation.metric
    return violation.severity is not Severity.ERROR, not violation.tensors, -over, *tie_break


def check_patterns(
    members: Sequence[Member], budget: Budget, baseline: RunResult | None, *, allow_unmatched: bool
) -> list[str]:
    """Return warnings about unmatched patterns: limits must match measured tensors, others any tensor.

    Raises:
        UsageError: a pattern is unmatched and `allow_unmatched` is false.
    """
    measured = holders_of((member.name, member.file) for member in members if member.is_measured)
    skipped = holders_of((member.name, member.file) for member in members if not member.is_measured)
    before = located(baseline, baseline.rows) if baseline is not None else ()
    everything = holders_of(chain(((member.name, member.file) for member in members), before))
    found = [(f"[[tensors]] {number}", rule.line, pattern, measured) for number, rule in enumerate(budget.rules)
             for pattern in rule.patterns]  # fmt: skip
    found += [(f"[[waivers]] {number}", waiver.line, pattern, everything)
              for number, waiver in enumerate(budget.waivers, 1) for pattern in waiver.patterns]  # fmt: skip
    if budget.structure is not None:
        lines = budget.structure.lines
        found += [("[structure] forbid", lines[pattern], pattern, everything) for pattern in budget.structure.patterns]
    warnings = []
    for table, line, pattern, holders in found:
        if matches_any(pattern, holders):
            continue
        offer = nearest_names(pattern, holders)
        if holders is measured and matches_any(pattern, skipped):
            offer = "; it matches tensors that were not quantized, which no limit holds for"
        where = f"{budget.source}:{line}: {table}: pattern '{escape_name(pattern)}'"
        warnings.append(f"{where} matches none of {len(holders)} tensors{offer}")
        if not allow_unmatched:
            raise UsageError(f"{warnings[0]}; --allow-unmatched makes this a warning")
    return warnings

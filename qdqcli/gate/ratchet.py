"""Ratchet: tightens the limits of a budget file where a run allows it; never loosens one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from math import ceil, floor, isfinite, log10
from typing import Any, Self

from qdqcli.gate.aggregate import aggregate
from qdqcli.gate.budget import Budget, Limit
from qdqcli.gate.judge import limits_of, waiver_for
from qdqcli.recipe.lines import KeyPath
from qdqcli.recipe.patterns import Tables
from qdqcli.result.result import RunResult
from qdqcli.stats.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """Slack in dB between a measured value and its limit; as an amplitude ratio for metrics not in dB."""

    db: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `0.5dB` or `0.5`; raises ValueError for anything else."""
        db = float(text.lower().removesuffix("db"))
        if not isfinite(db) or db < 0:
            raise ValueError(text)
        return cls(db=db)

    def limit(self, metric: str, value: float, *, is_minimum: bool) -> float:
        """Return a limit that `value` keeps: two decimals for dB, else four digits, rounded to the lenient side."""
        if metric.startswith("num_"):
            return value
        if metric in METRICS and METRICS[metric].unit == "dB":
            return floor((value - self.db) * 100) / 100 if is_minimum else ceil((value + self.db) * 100) / 100
        loose = value - abs(value) * self._part if is_minimum else value + abs(value) * self._part
        return _rounded(loose, is_minimum=is_minimum)

    @property
    def _part(self) -> float:
        return float(10.0 ** (self.db / 20.0)) - 1.0


def _rounded(value: float, *, is_minimum: bool) -> float:
    """Round to four digits, down for a minimum; return `value` itself if rounding would pass it."""
    if not value:
        return value
    digits = 3 - floor(log10(abs(value)))
    step = 10.0**-digits
    rounded = round((floor if is_minimum else ceil)(value / step) * step, max(digits, 0) + 1)
    return rounded if (rounded <= value if is_minimum else rounded >= value) else value


def ratchet(budget: Budget, run: RunResult, headroom: Headroom, today: date) -> str:
    """Return the budget's text with every limit tightened that the run keeps with slack; the rest is unchanged."""
    tighter = dict(_tighter(budget, run, headroom, today))
    if not tighter:
        return budget.text
    # Lazy import: 40 ms, needed for this option only.
    import tomlkit

    document = tomlkit.parse(budget.text)
    for (*tables, key), value in tighter.items():
        table: Any = document
        for part in tables:
            table = table[part]
        table[key] = value
    return tomlkit.dumps(document)


def _tighter(budget: Budget, run: RunResult, headroom: Headroom, today: date) -> Iterator[tuple[KeyPath, float]]:
    """Yield path and new value of each limit that can be tightened."""
    for limit, values in _held(budget, run, today):
        if limit.value is None or not values:
            continue
        worst = min(values) if limit.is_minimum else max(values)
        new = headroom.limit(limit.metric, worst, is_minimum=limit.is_minimum)
        if new > limit.value if limit.is_minimum else new < limit.value:
            yield limit.key_path, new


def _held(budget: Budget, run: RunResult, today: date) -> Iterator[tuple[Limit, list[float]]]:
    """Return each limit with the values that it applies to."""
    by_key_path: dict[KeyPath, tuple[Limit, list[float]]] = {}
    names = {row.source.name for row in run.rows}
    rules, waivers = Tables(budget.rules, names), Tables(budget.waivers, names)
    for row in run.quantized:
        if waiver_for(row.source.name, row.source.file, run, waivers, today) is not None:
            continue
        for limit in limits_of(row.source, run, rules)[0].values():
            value = row.stats[limit.metric]
            _, values = by_key_path.setdefault(limit.key_path, (limit, []))
            if value is not None:
                values.append(value)
    yield from by_key_path.values()
    rows = list(run.quantized)
    for table, limits in budget.summary.items():
        for limit in limits:
            value = (
                run.summary[limit.metric]
                if table == "summary"
                else aggregate(table.removeprefix("summary."), limit.metric, rows)
            )
            yield limit, [] if value is None or not isfinite(value) else [value]

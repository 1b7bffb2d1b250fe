"""Budget: what a run may lose, read from TOML and checked whole before any work (INTERFACE section 6).

It says nothing of any run yet: `judge.py` applies it, `ratchet.py` tightens it.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.gate.aggregate import AGGREGATES
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.result.result import STATS
from qdqcli.result.verdict import Severity
from qdqcli.stats.metrics import METRICS, Better

SCHEMA = 1
NO_LIMIT = "none"
"""The value that lifts a limit for the tensors of a later table."""
PYPROJECT = "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound on one metric."""

    metric: str
    is_minimum: bool
    value: float | None
    """None lifts the limit."""
    severity: Severity = Severity.ERROR
    place: str
    """The table and key that say so, as `[limits] min_sqnr_db`."""

    @property
    def key(self) -> str:
        """The key that sets it."""
        return limit_key(self.metric, is_minimum=self.is_minimum)


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Limits for the tensors that match, over those that came before."""

    patterns: Sequence[str]
    """None: every tensor."""
    limits: Sequence[Limit]
    severity: Severity | None = None
    """For the limits of this table; of a table without limits: for all that the tensor has."""
    allow_nonfinite: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How much worse than the baseline a metric may be."""

    metric: str
    amount: float
    is_percent: bool
    """Of the baseline's value."""


@dataclass(frozen=True, kw_only=True)
class BaselineRule:
    """An earlier report that the run is held against."""

    path: Path
    tolerances: Sequence[Tolerance]
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """Violations that do not count until a day has passed."""

    patterns: Sequence[str]
    reason: str
    until: date
    """The last day."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may lose."""

    rules: Sequence[TensorRule]
    """In order; the first is for every tensor."""
    summary: Mapping[str, Sequence[Limit]]
    """By what the limit is on: `summary` for all elements together, or an aggregate over tensors."""
    baseline: BaselineRule | None = None
    waivers: Sequence[Waiver] = ()


def read_budget(path: Path) -> Budget:
    """The budget in a TOML file, or under `[tool.qdq.budget]` of a pyproject.toml.

    Raises:
        UsageError: no such file, not TOML, an unknown key or metric (offers the nearest), a value of the wrong kind.
    """
    shown = show_path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}; --budget takes a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown}: not TOML: {escape_name(str(error))}") from None
    if path.name == PYPROJECT:
        if not has_budget(data):
            raise UsageError(f"{shown}: has no [tool.qdq.budget]; add it, or name another file")
        data = data["tool"]["qdq"]["budget"]
    return _Reader(shown=shown, folder=path.parent).budget(data)


def has_budget(pyproject: Mapping[str, Any]) -> bool:
    """Whether the content of a pyproject.toml has `[tool.qdq.budget]`."""
    table: Any = pyproject
    for key in ("tool", "qdq", "budget"):
        table = table.get(key) if isinstance(table, Mapping) else None
    return isinstance(table, Mapping)


def limit_key(metric: str, *, is_minimum: bool) -> str:
    """`min_sqnr_db`; `max_abs_error`, which bears its `max_` already, is its own upper limit."""
    return metric if metric == "max_abs_error" else f"{'min' if is_minimum else 'max'}_{metric}"


def _limit_keys() -> dict[str, tuple[str, bool]]:
    keys = {}
    for metric in STATS:
        better = METRICS[metric].better if metric in METRICS else Better.NEITHER
        for is_minimum in (True, False):
            if better is not (Better.LOWER if is_minimum else Better.HIGHER):
                keys[limit_key(metric, is_minimum=is_minimum)] = metric, is_minimum
    return keys


LIMIT_KEYS = _limit_keys()
"""Key of a limit -> its metric, and whether it is a minimum. A limit on the better side is none."""

_TOLERANCE_KEYS = {
    f"{metric.name}_{'drop' if metric.better is Better.HIGHER else 'rise'}{unit}": (metric.name, bool(unit))
    for metric in METRICS.values()
    if metric.better is not Better.NEITHER
    for unit in ("", "_percent")
}


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """The walk through the TOML; every message names the file and the table."""

    shown: str
    folder: Path

    def budget(self, data: Mapping[str, Any]) -> Budget:
        self.check_keys(data, "", ("schema", "allow_nonfinite", "limits", "tensors", "summary", "baseline", "waivers"))
        if data.get("schema") != SCHEMA:
            found = f"schema is {data['schema']!r}" if "schema" in data else "no schema is named; add a first line"
            self.fail(f"{found}: this version reads schema = {SCHEMA}")
        general = self.rule(self.table(data, "limits"), "[limits]", ())
        if "allow_nonfinite" in data:
            general = TensorRule(
                patterns=(),
                limits=general.limits,
                severity=general.severity,
                allow_nonfinite=self.typed(data, "allow_nonfinite", bool, "the file"),
            )
        rules = [general]
        for number, table in enumerate(self.tables(data, "tensors"), 1):
            place = f"[[tensors]] {number}"
            rules.append(self.rule(table, place, self.patterns(table, place), ("match",)))
        return Budget(
            rules=rules,
            summary=self.summary(self.table(data, "summary")),
            baseline=self.baseline(self.table(data, "baseline")) if "baseline" in data else None,
            waivers=[self.waiver(table, number) for number, table in enumerate(self.tables(data, "waivers"), 1)],
        )

    def rule(
        self, table: Mapping[str, Any], place: str, patterns: Sequence[str], more_keys: Sequence[str] = ()
    ) -> TensorRule:
        self.check_keys(table, place, (*more_keys, "severity", "allow_nonfinite", *LIMIT_KEYS))
        allow = self.typed(table, "allow_nonfinite", bool, place) if "allow_nonfinite" in table else None
        return TensorRule(
            patterns=patterns,
            limits=self.limits(table, place),
            severity=self.severity(table, place) if "severity" in table else None,
            allow_nonfinite=allow,
        )

    def summary(self, table: Mapping[str, Any]) -> dict[str, Sequence[Limit]]:
        self.check_keys(table, "[summary]", ("severity", *AGGREGATES, *LIMIT_KEYS))
        found: dict[str, Sequence[Limit]] = {"summary": self.limits(table, "[summary]")}
        for name in AGGREGATES:
            place = f"[summary.{name}]"
            part = self.table(table, name)
            self.check_keys(part, place, ("severity", *LIMIT_KEYS))
            found[f"summary.{name}"] = self.limits(part, place)
        return found

    def baseline(self, table: Mapping[str, Any]) -> BaselineRule:
        self.check_keys(table, "[baseline]", ("file", "severity", *_TOLERANCE_KEYS))
        file = self.typed(table, "file", str, "[baseline]")
        tolerances = []
        for key, (metric, is_percent) in _TOLERANCE_KEYS.items():
            if key in table:
                amount = self.number(table[key], key, "[baseline]")
                if amount < 0:
                    self.fail(f"[baseline] {key} is {amount}; how much worse it may be is 0 or more")
                tolerances.append(Tolerance(metric=metric, amount=amount, is_percent=is_percent))
        return BaselineRule(path=self.folder / file, tolerances=tolerances, severity=self.severity(table, "[baseline]"))

    def waiver(self, table: Mapping[str, Any], number: int) -> Waiver:
        place = f"[[waivers]] {number}"
        self.check_keys(table, place, ("match", "reason", "until"))
        until = table.get("until")
        if not isinstance(until, date) or isinstance(until, datetime):
            self.fail(f"{place}: needs until, the last day that it holds, as until = 2027-01-31")
        reason = self.typed(table, "reason", str, place)
        if not reason.strip():
            self.fail(f"{place}: needs a reason")
        return Waiver(patterns=self.patterns(table, place), reason=reason, until=until)

    def limits(self, table: Mapping[str, Any], place: str) -> list[Limit]:
        severity = self.severity(table, place)
        limits = []
        for key, (metric, is_minimum) in LIMIT_KEYS.items():
            if key in table:
                value = None if table[key] == NO_LIMIT else self.number(table[key], key, place)
                limits.append(
                    Limit(
                        metric=metric,
                        is_minimum=is_minimum,
                        value=value,
                        severity=severity,
                        place=place,
                    )
                )
        return limits

    def patterns(self, table: Mapping[str, Any], place: str) -> tuple[str, ...]:
        value = table.get("match")
        patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
        if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
            self.fail(f"{place}: needs match, a pattern or a list of them")
        try:
            for pattern in patterns:
                compile_pattern(pattern)
        except UsageError as error:
            self.fail(f"{place}: {error}")
        return patterns

    def severity(self, table: Mapping[str, Any], place: str) -> Severity:
        value = table.get("severity", "error")
        if value not in tuple(Severity):
            self.fail(f"{place} severity is {value!r}; it is one of {', '.join(Severity)}")
        return Severity(value)

    def number(self, value: Any, key: str, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            self.fail(f"{place} {key} is {value!r}; it must be a finite number")
        return float(value) if isinstance(value, float) else value

    def typed(self, table: Mapping[str, Any], key: str, kind: type[bool] | type[str], place: str) -> Any:
        value = table.get(key)
        if type(value) is not kind:
            word = "true or false" if kind is bool else "a text"
            self.fail(f"{place}: {key} must be {word}" if key in table else f"{place}: needs {key}, {word}")
        return value

    def table(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = data.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"{key} must be a table, [{key}]")
        table: dict[str, Any] = value
        return table

    def tables(self, data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            self.fail(f"{key} must be tables, [[{key}]]")
        tables: list[Mapping[str, Any]] = value
        return tables

    def check_keys(self, table: Mapping[str, Any], place: str, known: Sequence[str]) -> None:
        for key in table:
            if key in known:
                continue
            prefix, _, metric = key.partition("_")
            if metric in METRICS and limit_key(metric, is_minimum=prefix == "max") in known:
                self.fail(f"{place} {key}: {metric} is better when {METRICS[metric].better}; "
                          f"limit it with {limit_key(metric, is_minimum=prefix == 'max')}")  # fmt: skip
            nearest = get_close_matches(key, known, n=3, cutoff=0.5)
            offer = f"; the nearest are {', '.join(nearest)}" if len(nearest) > 1 else ""
            offer = f"; the nearest is {nearest[0]}" if len(nearest) == 1 else offer
            where = f" in {place}" if place else ""
            self.fail(f"unknown key '{escape_name(key)}'{where}{offer}")

    def fail(self, message: str) -> NoReturn:
        raise UsageError(f"{self.shown}: {message}")

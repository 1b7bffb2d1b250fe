"""Budget: limits on a run's loss, read from TOML and validated before any work (INTERFACE section 6).

Independent of any run: `judge.py` applies a budget, `ratchet.py` tightens it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from qdqcli.escape import show_path
from qdqcli.gate.aggregate import AGGREGATES
from qdqcli.gate.keys import BUDGET, NO_LIMIT, TOLERANCE_KEYS, limit_key, limits_in
from qdqcli.plain import Parsed
from qdqcli.recipe.document import Document
from qdqcli.recipe.lines import KeyPath
from qdqcli.result.verdict import Severity


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound on one metric."""

    metric: str
    is_minimum: bool
    value: float | None
    """Bound; None lifts the limit."""
    severity: Severity = Severity.ERROR
    key_path: KeyPath = ()
    """Path of keys to the limit in the file."""
    line: int = 1

    @property
    def key(self) -> str:
        """Key that sets the limit."""
        return limit_key(self.metric, is_minimum=self.is_minimum)


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Limits for the matching tensors; later rules override earlier ones."""

    patterns: Sequence[str]
    """Name patterns; an empty sequence matches every tensor."""
    limits: Sequence[Limit]
    severity: Severity | None = None
    """Severity of this table's limits; without limits, of all limits of the matching tensors."""
    allow_nonfinite: bool | None = None
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Requirements on which tensors are quantized, regardless of their data."""

    min_quantized: float | None = None
    """Minimum share of the selected elements that are measured."""
    min_packed: float | None = None
    """Minimum share of the elements of compared weights that are packed."""
    max_bits_per_weight: float | None = None
    patterns: Sequence[str] = ()
    """Patterns of tensors that must not be quantized."""
    severity: Severity = Severity.ERROR
    lines: Mapping[str, int]
    """Line of each key; a pattern has its own line, under the pattern."""
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of the run that the limits were derived from."""

    values: Mapping[str, object]
    """Values by key, as returned by `settings.comparable`."""
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Allowed degradation of a metric relative to the baseline."""

    metric: str
    amount: float
    is_percent: bool
    """True if `amount` is a percentage of the baseline's value."""
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class BaselineRule:
    """The earlier report that the run is compared with."""

    path: Path
    tolerances: Sequence[Tolerance]
    severity: Severity = Severity.ERROR
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """Violations that are ignored until an expiry date."""

    patterns: Sequence[str]
    reason: str
    until: date
    """Last day on which the waiver is valid."""
    line: int = 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on a run's loss."""

    source: str
    """Budget file, as the user gave it."""
    text: str = ""
    """Text of the file without a byte order mark."""
    rules: Sequence[TensorRule] = ()
    """Rules in file order; the first applies to every tensor."""
    summary: Mapping[str, Sequence[Limit]]
    """Limits by scope: `summary` for all elements together, or an aggregate over tensors."""
    structure: Structure | None = None
    settings: RunSettings | None = None
    baseline: BaselineRule | None = None
    waivers: Sequence[Waiver] = ()

    @property
    def is_idle(self) -> bool:
        """Tell whether the budget has neither limits nor a baseline: every run would pass."""
        limits = [limit for rule in self.rules for limit in rule.limits]
        limits += [limit for of_path in self.summary.values() for limit in of_path]
        structure = self.structure
        return (
            all(limit.value is None for limit in limits)
            and self.baseline is None
            and (structure is None or not structure.lines)
        )

    @property
    def has_limits_of_tensors_only(self) -> bool:
        """Tell whether the budget has limits and all of them are on tensors: whether one holds depends on the run."""
        return not self.is_idle and replace(self, rules=()).is_idle


def parse_budget(text: str, path: Path) -> Budget:
    """Parse the whole text of a budget file.

    Raises:
        UsageError: not TOML, an unknown key (suggests the nearest), a value of the wrong type; names the line.
    """
    document = Document(show_path(path), text)
    return budget_in(document, document.check(BUDGET), path.parent)


def budget_in(document: Document, table: Parsed, folder: Path, base: KeyPath = ()) -> Budget:
    """Convert the valid table at `base` to a budget; its files are relative to `folder`."""
    return _Reader(document=document, folder=folder, base=base).budget(table)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Converts validated data to a budget."""

    document: Document
    folder: Path
    base: KeyPath = ()
    """Path of keys to the budget's table."""

    def budget(self, data: Parsed) -> Budget:
        general = TensorRule(
            patterns=(),
            limits=self.limits(data.get("limits", {}), "limits"),
            allow_nonfinite=data.get("allow_nonfinite", data.get("limits", {}).get("allow_nonfinite")),
        )
        return Budget(
            source=self.document.source,
            text=self.document.text,
            rules=[general, *(self.rule(table, number) for number, table in enumerate(data.get("tensors", [])))],
            summary=self.summary(data.get("summary", {})),
            structure=self.structure(data["structure"]) if "structure" in data else None,
            settings=RunSettings(values=data["settings"], line=self.line("settings")) if "settings" in data else None,
            baseline=self.baseline(data["baseline"]) if "baseline" in data else None,
            waivers=[self.waiver(table, number) for number, table in enumerate(data.get("waivers", []))],
        )

    def rule(self, table: Parsed, number: int) -> TensorRule:
        return TensorRule(
            patterns=self.patterns(table, "tensors", number, "match"),
            limits=self.limits(table, "tensors", number),
            severity=_severity(table) if "severity" in table else None,
            allow_nonfinite=table.get("allow_nonfinite"),
            line=self.line("tensors", number),
        )

    def summary(self, table: Parsed) -> dict[str, Sequence[Limit]]:
        found: dict[str, Sequence[Limit]] = {"summary": self.limits(table, "summary")}
        for name in AGGREGATES:
            found[f"summary.{name}"] = self.limits(table.get(name, {}), "summary", name)
        return found

    def structure(self, table: Parsed) -> Structure:
        patterns = self.patterns(table, "structure", "forbid") if "forbid" in table else ()
        lines = {key: self.line("structure", key) for key in table if key != "severity"}
        lines |= {pattern: self.line("structure", "forbid", index) for index, pattern in enumerate(patterns)}
        return Structure(
            min_quantized=table.get("min_quantized"),
            min_packed=table.get("min_packed"),
            max_bits_per_weight=table.get("max_bits_per_weight"),
            patterns=patterns,
            severity=_severity(table),
            lines=lines,
            line=self.line("structure"),
        )

    def baseline(self, table: Parsed) -> BaselineRule:
        return BaselineRule(
            path=self.folder / table["file"],
            tolerances=[
                Tolerance(metric=metric, amount=table[key], is_percent=is_percent, line=self.line("baseline", key))
                for key, (metric, is_percent) in TOLERANCE_KEYS.items()
                if key in table
            ],
            severity=_severity(table),
            line=self.line("baseline"),
        )

    def waiver(self, table: Parsed, number: int) -> Waiver:
        until = table["until"]
        return Waiver(
            patterns=self.patterns(table, "waivers", number, "match"),
            reason=table["reason"],
            until=date.fromisoformat(until) if isinstance(until, str) else until,
            line=self.line("waivers", number),
        )

    def limits(self, table: Parsed, *key_path: str | int) -> list[Limit]:
        severity = _severity(table)
        return [
            Limit(
                metric=metric,
                is_minimum=is_minimum,
                value=None if table[key] == NO_LIMIT else table[key],
                severity=severity,
                key_path=(*self.base, *key_path, key),
                line=self.line(*key_path, key),
            )
            for key, metric, is_minimum in limits_in(table)
        ]

    def patterns(self, table: Parsed, *key_path: str | int) -> tuple[str, ...]:
        *of_table, _ = key_path
        return self.document.patterns(table, (*self.base, *key_path), self.document.name((*self.base, *of_table)))

    def line(self, *key_path: str | int) -> int:
        return self.document.line((*self.base, *key_path))


def _severity(table: Parsed) -> Severity:
    return Severity(table.get("severity", Severity.ERROR))

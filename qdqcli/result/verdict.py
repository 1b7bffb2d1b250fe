"""Verdict: what a budget says of a run. Plain data that a report carries; `gate/judge.py` makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

WORDS = ("missing", "unexpected", "settings", "failed", "incomplete", "forbid", "min_quantized", "max_bits_per_weight",
         "waiver")  # fmt: skip
"""What a violation may be about, beside metrics."""


class Severity(StrEnum):
    """What a violation does to the verdict."""

    ERROR = "error"
    WARN = "warn"
    """It is shown, and the run passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One limit that was exceeded, or one tensor that is not as the baseline has it."""

    tensor: str | None
    """None: the limit is on the whole run."""
    file: str | None = None
    metric: str
    """A metric's name, a key of `[structure]`, or a word for what is no number: see `WORDS`."""
    limit: float | str | None
    actual: float | str | None
    severity: Severity = Severity.ERROR
    excess_db: float | None = None
    """How far over, in dB for every metric: 20 log10(actual / limit) for those that are not in dB. None: no number."""
    origin: str
    """The part of the budget that says so: `limits`, `summary`, `summary.median`, `baseline`, `waivers`, ..."""
    budget: str | None = None
    """The file that says so, as the user gave it."""
    line: int = 1
    """Where it does."""
    tensors: Sequence[str] = ()
    """All that it is about, where several tensors have one cause; `tensor` is None then."""
    waiver: str | None = None
    """The reason for which it does not count; of a `waiver`, the reason that it has."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """How near a run is to a limit that it keeps."""

    tensor: str | None
    """None: the limit is on the whole run."""
    file: str | None = None
    metric: str
    limit: float
    actual: float
    margin_db: float
    """How far within, as `Violation.excess_db` is how far over."""
    origin: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement on a run."""

    violations: Sequence[Violation]
    """Those that count: errors first, then by how far over."""
    waived: Sequence[Violation] = ()
    nearest: Margin | None = None
    """Of the tensors that keep their limits the one that is nearest to it; None where no limit is of that kind."""

    @property
    def passed(self) -> bool:
        return not self.errors

    @property
    def errors(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity is Severity.ERROR]

    @property
    def warnings(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity is Severity.WARN]


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """The key `verdict` of a report."""
    return {
        "passed": verdict.passed,
        "violations": [violation_to_json(violation) for violation in verdict.violations],
        "waived": [violation_to_json(violation) for violation in verdict.waived],
        "nearest": None if verdict.nearest is None else asdict(verdict.nearest),
    }


def violation_to_json(violation: Violation) -> dict[str, Any]:
    """One entry of `violations` or `waived`."""
    entry: dict[str, Any] = {
        "tensor": violation.tensor,
        "file": violation.file,
        "metric": violation.metric,
        "limit": violation.limit,
        "actual": violation.actual,
        "severity": str(violation.severity),
        "excess_db": violation.excess_db,
        "origin": violation.origin,
        "budget": violation.budget,
        "line": violation.line,
    }
    entry |= {"tensors": list(violation.tensors)} if violation.tensors else {}
    return entry | ({} if violation.waiver is None else {"reason": violation.waiver})


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """The inverse of `verdict_to_json`; `KeyError`, `TypeError` or `ValueError` where the data is something else."""
    return Verdict(
        violations=[_violation(entry) for entry in data["violations"]],
        waived=[_violation(entry) for entry in data.get("waived", [])],
        nearest=None if data.get("nearest") is None else _margin(data["nearest"]),
    )


def _margin(entry: Mapping[str, Any]) -> Margin:
    return Margin(
        tensor=entry["tensor"],
        file=entry.get("file"),
        metric=entry["metric"],
        limit=entry["limit"],
        actual=entry["actual"],
        margin_db=entry["margin_db"],
        origin=entry["origin"],
    )


def _violation(entry: Mapping[str, Any]) -> Violation:
    return Violation(
        tensor=entry["tensor"],
        file=entry.get("file"),
        metric=entry["metric"],
        limit=entry["limit"],
        actual=entry["actual"],
        severity=Severity(entry["severity"]),
        excess_db=entry.get("excess_db"),
        origin=entry.get("origin", "limits"),
        budget=entry.get("budget"),
        line=entry.get("line", 1),
        tensors=tuple(entry.get("tensors", ())),
        waiver=entry.get("reason"),
    )

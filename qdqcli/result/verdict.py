"""Verdict of a budget on a run, as plain data in a report; `gate/judge.py` creates it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from qdqcli.plain import JsonObject, Parsed


class Severity(StrEnum):
    """Effect of a violation on the verdict."""

    ERROR = "error"
    WARN = "warn"
    """Shown, but the run passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """An exceeded limit, or a tensor that differs from the baseline."""

    tensor: str | None
    """Tensor name; None if the limit is on the whole run."""
    file: str | None = None
    metric: str
    """A metric, a key of `[structure]`, or another word: missing, unexpected, settings, failed, incomplete, waiver."""
    limit: float | str | None
    actual: float | str | None
    severity: Severity = Severity.ERROR
    excess_db: float | None = None
    """Excess in dB for every metric: 20 log10(actual / limit) for those not in dB. None if not a number."""
    origin: str
    """Budget section of the limit: `limits`, `summary`, `summary.median`, `baseline`, `waivers`, ..."""
    budget: str | None = None
    """Budget file, as the user gave it."""
    line: int = 1
    """Line in that file."""
    tensors: Sequence[str] = ()
    """All tensors concerned, if several share one cause; `tensor` is None then."""
    waiver: str | None = None
    """Reason of the waiver that covers it; of a `waiver`, its own reason."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Distance between a run and a limit that it keeps."""

    tensor: str | None
    """Tensor name; None if the limit is on the whole run."""
    file: str | None = None
    metric: str
    limit: float
    actual: float
    margin_db: float
    """Distance to the limit in dB, measured like `Violation.excess_db`."""
    origin: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement on a run."""

    violations: Sequence[Violation]
    """Violations not covered by a waiver: errors first, then by excess."""
    waived: Sequence[Violation] = ()
    nearest: Margin | None = None
    """The tensor closest to a limit that it keeps; None if there is no such limit."""

    @property
    def passed(self) -> bool:
        return not self.errors

    @property
    def errors(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity is Severity.ERROR]

    @property
    def warnings(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity is Severity.WARN]


def verdict_to_json(verdict: Verdict) -> dict[str, object]:
    """Return the key `verdict` of a report."""
    return {
        "passed": verdict.passed,
        "violations": [violation_to_json(violation) for violation in verdict.violations],
        "waived": [violation_to_json(violation) for violation in verdict.waived],
        "nearest": None if verdict.nearest is None else asdict(verdict.nearest),
    }


def violation_to_json(violation: Violation) -> dict[str, object]:
    """Return one entry of `violations` or `waived`."""
    entry = asdict(violation) | {"severity": str(violation.severity)}
    tensors, waiver = entry.pop("tensors"), entry.pop("waiver")
    return entry | ({"tensors": list(tensors)} if tensors else {}) | ({} if waiver is None else {"reason": waiver})


def verdict_from_json(data: Parsed) -> Verdict:
    """Parse the output of `verdict_to_json`; raises `KeyError`, `TypeError` or `ValueError` for other data."""
    return Verdict(
        violations=[_violation(entry) for entry in data["violations"]],
        waived=[_violation(entry) for entry in data.get("waived", [])],
        nearest=None if data.get("nearest") is None else _margin(data["nearest"]),
    )


def _margin(entry: Parsed) -> Margin:
    known: JsonObject = {field.name: entry.get(field.name) for field in fields(Margin)}
    return Margin(**known)


def _violation(entry: Parsed) -> Violation:
    known = {field.name: entry[field.name] for field in fields(Violation) if field.name in entry}
    known |= {"severity": Severity(entry["severity"]), "tensors": tuple(entry.get("tensors", ()))}
    return Violation(**{"origin": "limits", **known}, waiver=entry.get("reason"))

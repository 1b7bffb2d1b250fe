"""Findings for the CI formats: the violations of a run or, without a budget, its warnings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from json import dumps

from qdqcli.report.escape import NO_NAME, visible
from qdqcli.report.summary import note_text
from qdqcli.report.verdict import predicate, sentence, subject, with_files
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Violation
from qdqcli.tensors.note import NoteKind

TROUBLES = {
    "num_nonfinite": "elements of the input that are NaN or infinite",
    "num_nonfinite_output": "finite elements that quantization made NaN or infinite",
    "num_degenerate": "ranges whose scale is 0, infinite or out of range",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding in plain words; names are visible text that each format escapes in its own way."""

    rule: str
    """A metric's name, another word of `Violation.metric`, or a `NoteKind`."""
    is_error: bool
    title: str
    message: str
    tensor: str | None
    file: str | None
    """Input file."""
    tensors: Sequence[str] = ()
    """Names, where the finding is about several tensors."""
    budget: str | None = None
    """File of the limit."""
    line: int = 1
    """Line of the limit in that file."""
    cause: tuple[object, ...] = ()
    """Identity among findings on the same tensor, independent of the values."""
    justification: str | None = None
    """Reason of the waiver; None where the finding counts."""

    @property
    def location(self) -> tuple[str | None, int]:
        """File and line to fix: of the limit, else of the input."""
        return (self.budget, self.line) if self.budget is not None else (self.file, 1)


def findings(run: RunResult, *, with_waived: bool = False) -> Iterator[Finding]:
    """Yield findings, worst first; waived ones last, where requested."""
    if run.verdict is not None:
        found = [*run.verdict.violations, *(run.verdict.waived if with_waived else ())]
        yield from map(_finding, found, with_files(run, found))
        return
    for note in run.notes:
        if note.is_warning:
            yield Finding(
                rule=note.kind,
                is_error=note.kind is NoteKind.FAILED,
                title=f"{_name(note.file)}: {note.kind}",
                message=note_text(note, _name),
                tensor=None,
                file=note.file,
            )
    for row in run.quantized:
        for metric, what in TROUBLES.items():
            number = row.num_spoilt_slices if metric == "num_degenerate" else row.stats[metric]
            if number:
                yield Finding(
                    rule=metric,
                    is_error=False,
                    title=f"{_name(row.source.name)}: {metric}",
                    message=f"{_name(row.source.name)}: {number:,} {what}",
                    tensor=row.source.name,
                    file=row.source.file,
                )
    for skipped in run.skipped:
        if skipped.is_failure:
            yield Finding(
                rule="failed",
                is_error=True,
                title=f"{_name(skipped.source.name)}: not measured",
                message=f"{_name(skipped.source.name)}: {visible(skipped.reason)}",
                tensor=skipped.source.name,
                file=skipped.source.file,
            )


def fingerprints(found: Iterable[Finding]) -> Iterator[str]:
    """Yield a unique fingerprint per finding: stable for the same problem of the same tensor, whatever its value."""
    used: dict[str, int] = {}
    for finding in found:
        parts = [finding.rule, finding.tensor, finding.file, *finding.tensors[:1], *finding.cause]
        key = sha256(dumps(parts).encode("ascii")).hexdigest()
        number = used[key] = used.get(key, 0) + 1
        yield key if number == 1 else f"{key}-{number}"


def _finding(violation: Violation, shown: Violation) -> Finding:
    """Return the finding; `shown` has the tensor's name as messages give it."""
    cause = {"forbid": violation.limit, "waiver": violation.actual, "failed": violation.actual}.get(violation.metric)
    return Finding(
        rule=violation.metric,
        is_error=violation.severity is Severity.ERROR,
        title=f"{subject(shown, _name)}: {violation.metric}",
        message=sentence(shown, _name),
        tensor=violation.tensor,
        file=violation.file,
        tensors=violation.tensors,
        budget=violation.budget,
        line=violation.line,
        cause=(violation.origin, cause),
        justification=None if violation.metric == "waiver" else violation.waiver,
    )


def _name(text: str) -> str:
    return visible(text) or NO_NAME


def short_message(violation: Violation) -> str:
    """Return the problem without the tensor's name."""
    return predicate(violation, visible)

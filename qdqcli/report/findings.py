"""What the CI formats have to say of a run: its violations, or, without a budget, what its warnings are about."""

from collections.abc import Iterator
from dataclasses import dataclass

from qdqcli.report.escape import NO_NAME, visible
from qdqcli.report.summary import note_text
from qdqcli.report.verdict import predicate, sentence
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Violation

TROUBLES = {
    "num_nonfinite": "elements of the input that are NaN or infinite",
    "num_nonfinite_output": "finite elements that quantization made NaN or infinite",
    "num_degenerate": "ranges whose scale is 0, infinite or out of range",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to look into, in plain words: names are visible text that each format escapes in its own way."""

    rule: str
    """A metric's name, another word of `Violation.metric`, or a `NoteKind`."""
    is_error: bool
    title: str
    message: str
    tensor: str | None
    file: str | None


def findings(run: RunResult) -> Iterator[Finding]:
    """The worst first."""
    if run.verdict is not None:
        yield from map(_finding, run.verdict.violations)
        return
    for note in run.notes:
        if note.is_warning:
            yield Finding(
                rule=note.kind,
                is_error=False,
                title=f"{_name(note.file)}: {note.kind}",
                message=note_text(note, _name),
                tensor=None,
                file=note.file,
            )
    for row in run.quantized:
        for metric, what in TROUBLES.items():
            if row.stats[metric]:
                yield Finding(
                    rule=metric,
                    is_error=False,
                    title=f"{_name(row.source.name)}: {metric}",
                    message=f"{_name(row.source.name)}: {row.stats[metric]:,} {what}",
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


def _finding(violation: Violation) -> Finding:
    where = _name(violation.tensor) if violation.tensor is not None else violation.origin
    return Finding(
        rule=violation.metric,
        is_error=violation.severity is Severity.ERROR,
        title=f"{where}: {violation.metric}",
        message=sentence(violation, _name),
        tensor=violation.tensor,
        file=violation.file,
    )


def _name(text: str) -> str:
    return visible(text) or NO_NAME


def short_message(violation: Violation) -> str:
    """What is wrong, for a place that names the tensor already."""
    return predicate(violation, visible)

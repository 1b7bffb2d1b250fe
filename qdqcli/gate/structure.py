"""Structure rules of a budget: which tensors are quantized, regardless of their data."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qdqcli.errors import UsageError
from qdqcli.gate.budget import Budget, Structure
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.listing import Listing
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import compile_pattern, holders_of, listed
from qdqcli.result.result import RunResult, SkippedTensor, TensorResult
from qdqcli.result.verdict import Violation
from qdqcli.tensors.note import Note, NoteKind

ORIGIN = "structure"
NOT_MEASURED = "not measured: the headers violate the budget already"


class Member(NamedTuple):
    """A tensor of a run, quantized or not."""

    name: str
    file: FileRef
    num_elements: int
    is_selected: bool
    """True if it is to be measured."""
    is_quantized: bool
    is_measured: bool
    """True if selected and of a measurable kind."""
    stored_bits: int | None
    """Storage bits of its codes and scales; None if unknown."""
    is_packed: bool | None = None
    """True for a compared weight that is stored as codes, False in float or lost; None for what is no such weight."""


def members_of(run: RunResult) -> Iterator[Member]:
    """Yield the tensors of a run. A compared tensor counts as quantized if it is packed, or an element changed.

    What is packed in the reference alone is in float in the candidate, which is judged.
    """
    for row, (name, file) in zip(run.rows, located(run, run.rows), strict=True):
        is_vector = len(row.source.shape) < 2
        if isinstance(row, TensorResult):
            is_here = row.packing is not None and row.packing.is_candidate
            is_quantized = row.spec is not None or is_here or not row.is_exact
            is_packed = is_here or (None if row.spec is not None or is_vector else False)
            bits = row.stored_bits if row.packing is None or is_here else None
            yield Member(name, file, row.num_elements, True, is_quantized, True, bits, is_packed)
        else:
            is_packed = False if row.is_failure and not is_vector else None
            is_selected = row.is_selected or row.is_failure
            yield Member(name, file, row.num_elements, is_selected, False, False, None, is_packed)


def planned_members(listing: Listing) -> Iterator[Member]:
    """Yield the tensors of a planned run, from headers only."""
    locations = located(listing, listing.tensors)
    for tensor, (name, file) in zip(listing.tensors, locations, strict=True):
        is_quantized = isinstance(tensor.decision, QuantSpec)
        is_selected = not isinstance(tensor.decision, Skip) or tensor.decision.is_selected
        bits = tensor.quantized_bits if is_quantized else None
        yield Member(name, file, tensor.num_elements, is_selected, is_quantized, is_quantized, bits)


def unmeasured(listing: Listing) -> RunResult:
    """Return the run's state before anything is measured."""
    return RunResult(
        command=listing.command,
        inputs=listing.inputs,
        settings=listing.settings,
        notes=listing.notes,
        rows=[
            SkippedTensor(
                source=tensor.source,
                num_elements=tensor.num_elements,
                reason=tensor.decision.reason if isinstance(tensor.decision, Skip) else NOT_MEASURED,
            )
            for tensor in listing.tensors
        ],
    )


def judge_structure(members: Sequence[Member], notes: Iterable[Note], budget: Budget) -> Iterator[Violation]:
    """Yield violations of the structure rules, and missing parts of the inputs.

    Raises:
        UsageError: a rule on compared weights where none was compared.
    """
    for note in notes:
        if note.kind is NoteKind.INCOMPLETE:
            yield Violation(
                tensor=None, file=note.file, metric=str(note.kind), limit=None, actual=listed(note.names),
                origin=ORIGIN, budget=budget.source,
            )  # fmt: skip
        elif note.kind is NoteKind.FAILED:
            yield Violation(
                tensor=None, file=note.file, metric=str(note.kind), limit=None, actual=note.other, origin=ORIGIN,
            )  # fmt: skip
    if budget.structure is not None:
        yield from _judge(members, budget.structure, budget.source)


def _judge(members: Sequence[Member], rule: Structure, source: str) -> Iterator[Violation]:
    def violation(metric: str, limit: float | str, actual: float | str | None, line: int) -> Violation:
        return Violation(
            tensor=None, metric=metric, limit=limit, actual=actual, severity=rule.severity, origin=ORIGIN,
            budget=source, line=line,
        )  # fmt: skip

    measured = [member for member in members if member.is_measured]
    elements = sum(member.num_elements for member in measured)
    if rule.min_quantized is not None:
        selected = sum(member.num_elements for member in members if member.is_selected)
        share = elements / selected if selected else 0.0
        if share < rule.min_quantized:
            yield violation("min_quantized", rule.min_quantized, share, rule.lines["min_quantized"])
    if rule.min_packed is not None:
        weights = [member for member in members if member.is_packed is not None]
        if not weights:
            raise UsageError(
                f"{source}:{rule.lines['min_packed']}: min_packed is for 'qdq compare' alone, and no weight was "
                "compared; take it out"
            )
        packed = sum(member.num_elements for member in weights if member.is_packed)
        share = packed / max(sum(member.num_elements for member in weights), 1)
        if share < rule.min_packed:
            yield violation("min_packed", rule.min_packed, share, rule.lines["min_packed"])
    if rule.max_bits_per_weight is not None:
        known = [(member.stored_bits, member.num_elements) for member in measured if member.stored_bits is not None]
        stored, counted = (sum(column) for column in zip(*known, strict=True)) if known else (0, 0)
        mean = stored / counted if counted else None
        if mean is None or mean > rule.max_bits_per_weight:
            yield violation("max_bits_per_weight", rule.max_bits_per_weight, mean, rule.lines["max_bits_per_weight"])
    names = holders_of((member.name, member.file) for member in members)
    for pattern in rule.patterns:
        matches = compile_pattern(pattern, names)
        found = [member.name for member in members if member.is_quantized and matches(member.name, member.file)]
        if found:
            yield violation("forbid", pattern, listed(found), rule.lines[pattern])

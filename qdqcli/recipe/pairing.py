"""Pairing of the tensors of two checkpoints or reports: by name, and by file where names are ambiguous."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from qdqcli.recipe.decision import Decision
from qdqcli.recipe.file_ref import FileRef, key_among
from qdqcli.recipe.patterns import holders_of
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Headed, Row, RunResult, Source
from qdqcli.tensors.packed.recognise import key_of
from qdqcli.tensors.packed.storage import Storage
from qdqcli.tensors.tensor import TensorInfo

Located = tuple[str, FileRef]
"""A tensor's name and its file."""


class OfTensor(Protocol):
    """A row of a report."""

    @property
    def source(self) -> Source: ...


def located(report: Headed, rows: Iterable[OfTensor]) -> Iterator[Located]:
    """Yield the names of a report's rows with their files, as patterns see them."""
    return ((row.source.name, FileRef.within(row.source.file, report.inputs)) for row in rows)


def labels(run: RunResult, rows: Sequence[Row]) -> list[str]:
    """Return the names of a run's rows for messages, with the file where several tensors share the name."""
    holders = holders_of(located(run, run.rows))
    return [key_among(name, file, holders[name]) for name, file in located(run, rows)]


def counterparts(ours: Sequence[Located], theirs: Sequence[Located]) -> list[int | None]:
    """Return for each of `ours` the index of its counterpart in `theirs`, or None; each is used at most once.

    A name that occurs once on each side is one tensor, whatever the files are called. Others need a file of the same
    path within INPUT, or a folder of the same path in which the name occurs once on each side.
    """
    found: list[int | None] = [None] * len(ours)
    open_ours, open_theirs = list(range(len(ours))), list(range(len(theirs)))

    def take(key: Callable[[Located], Hashable], *, in_order: bool) -> None:
        """Pair entries whose key is unique on both sides; with `in_order` also repeated keys, in their order."""
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, (numbers, located) in enumerate(((open_ours, ours), (open_theirs, theirs))):
            for number in numbers:
                groups[key(located[number])][side].append(number)
        for one, other in groups.values():
            if in_order or len(one) == len(other) == 1:
                for mine, yours in zip(one, other, strict=False):
                    found[mine] = yours
        taken = set(found)
        open_ours[:] = [number for number in open_ours if found[number] is None]
        open_theirs[:] = [number for number in open_theirs if number not in taken]

    names = _shared_names(ours, theirs)
    take(lambda located: located[0] if located[0] in names else (located[0], located[1].relative), in_order=True)
    take(lambda located: (located[0], located[1].relative.rpartition("/")[0]), in_order=False)
    return found


def _shared_names(ours: Sequence[Located], theirs: Sequence[Located]) -> set[str]:
    """Return the names that occur once on each side."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for side, located in enumerate((ours, theirs)):
        for name, _ in located:
            counts[name][side] += 1
    return {name for name, count in counts.items() if count == [1, 1]}


class Entry(NamedTuple):
    """A tensor of a checkpoint, to be paired with one of another."""

    name: str
    plan: Plan
    tensor: TensorInfo
    decision: Decision
    storage: Storage | None = None
    """Storage of a packed weight that appears decoded."""

    @property
    def located(self) -> Located:
        return self.name, self.plan.file


def entries_of(plans: Sequence[Plan]) -> list[Entry]:
    """Return the tensors of checkpoints, except those that an index supersedes."""
    return [
        Entry(tensor.name, plan, tensor, decision, plan.checkpoint.storage.get(key_of(tensor)))
        for plan in plans
        for tensor, decision in plan.tensors
        if key_of(tensor) not in plan.checkpoint.superseded
    ]

"""Ties: tensors that share one choice, because inference engines fuse or stack them, or a file says so."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qdqcli.recipe.fused import fused_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Tie:
    """Tensors that share one choice."""

    name: str
    """Display name: the parent and the fused modules, or the only member."""
    members: tuple[int, ...]
    """Indices of tensors, ascending."""


def make_ties(
    names: Sequence[str],
    *,
    automatic: bool = True,
    groups: Mapping[str, Callable[[str], bool]] | None = None,
    apart: Iterable[Callable[[str], bool]] = (),
    duplicates: Iterable[Sequence[int]] = (),
) -> list[Tie]:
    """Group tensors that share one choice.

    Args:
        names: names of the tensors to decide on; a tie refers to them by index.
        automatic: tie what engines fuse, by name.
        groups: name of a group -> predicate on tensor names, in addition to the automatic groups.
        apart: predicates on tensor names that are never tied by name.
        duplicates: indices of tensors with equal bytes, always tied.

    Returns:
        ties by their first member; every tensor is in exactly one.

    Raises:
        ValueError: a group of `groups` holds fewer than two tensors; names the group.
    """
    union = list(range(len(names)))

    def root(number: int) -> int:
        while union[number] != number:
            union[number] = union[union[number]]
            number = union[number]
        return number

    def tie(numbers: Sequence[int]) -> None:
        for number in numbers[1:]:
            first, second = sorted((root(numbers[0]), root(number)))
            union[second] = first

    free = [not any(is_apart(name) for is_apart in apart) for name in names]
    labels: dict[int, str] = {}
    if automatic:
        by_key: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            key = fused_key(name) if free[number] else None
            if key is not None:
                by_key[key].append(number)
        for key, numbers in by_key.items():
            tie(numbers)
            labels[numbers[0]] = key
    for group, holds in (groups or {}).items():
        numbers = [number for number, name in enumerate(names) if holds(name)]
        if len(numbers) < 2:
            raise ValueError(group)
        tie(numbers)
        labels[numbers[0]] = group
    for equal in duplicates:
        tie(equal)
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(names)):
        members[root(number)].append(number)
    return [
        Tie(name=labels.get(first, names[first]) if len(numbers) > 1 else names[first], members=tuple(numbers))
        for first, numbers in members.items()
    ]

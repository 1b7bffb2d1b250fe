"""Which tables of a budget speak of a tensor: fast where a budget has one for each of many thousand tensors."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache
from typing import Generic, Protocol, TypeVar

from qdqcli.run.recipe import Matcher, compile_pattern

_WILD = frozenset("*?[")


class Matching(Protocol):
    """A table with patterns; without any it is for every tensor."""

    @property
    def patterns(self) -> Sequence[str]: ...


Table = TypeVar("Table", bound=Matching)

compiled = cache(compile_pattern)
"""`compile_pattern`, each pattern once."""


class Tables(Generic[Table]):
    """Tables in their order, found by name: plain names by a look-up, the other patterns one by one."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._plain: dict[str, list[int]] = defaultdict(list)
        self._wild: list[tuple[int, Matcher | None]] = []
        for number, table in enumerate(tables):
            if not table.patterns:
                self._wild.append((number, None))
            for pattern in table.patterns:
                if is_plain(pattern):
                    self._plain[pattern].append(number)
                else:
                    self._wild.append((number, compiled(pattern)))

    def of(self, name: str) -> list[Table]:
        """Those that match, in order, each once."""
        numbers = {number for number, matches in self._wild if matches is None or matches(name)}
        return [self._tables[number] for number in sorted(numbers.union(self._plain.get(name, ())))]


def is_plain(pattern: str) -> bool:
    """Whether the pattern is a name and nothing else."""
    return not pattern.startswith("re:") and not _WILD & set(pattern)


def matches_any(pattern: str, names: Collection[str]) -> bool:
    """Whether the pattern matches one of the names, a set at best."""
    return pattern in names if is_plain(pattern) else any(map(compiled(pattern), names))

"""Patterns on tensor names: a glob, or a regular expression behind `re:`, always on the whole name."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from difflib import SequenceMatcher
from fnmatch import translate
from functools import cache
from typing import Generic, Protocol, TypeVar

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name

NAMES_IN_A_MESSAGE = 5
NAMES_OFFERED = 3
_WILD = frozenset("*?[")
_REGEX = "re:"
_WORD = re.compile(r"[^\W_]+")
_LIKE = 0.6
"""The least likeness of two words that makes one a misspelling of the other."""

Matcher = Callable[[str], bool]


def compile_pattern(pattern: str) -> Matcher:
    """A test on the whole tensor name: a glob, or a regular expression behind `re:`.

    Raises:
        UsageError: the regular expression is malformed.
    """
    if is_plain(pattern):
        return pattern.__eq__
    if _has_only_stars(pattern) and pattern.count("*") <= 2:
        return _few_stars(*pattern.split("*"))
    try:
        expression = re.compile(pattern.removeprefix(_REGEX) if pattern.startswith(_REGEX) else translate(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"pattern '{escape_name(pattern)}' is not a regular expression: {error}") from None
    return lambda name: expression.fullmatch(name) is not None


def _few_stars(first: str, *others: str) -> Matcher:
    """A glob of these parts with a star between each two: most are so simple, and ten times as fast as expressions."""
    *middle, last = others
    length = len(first) + len(last)
    if not middle:
        return lambda name: len(name) >= length and name.startswith(first) and name.endswith(last)
    (inside,) = middle
    if not length:
        return lambda name: inside in name
    return lambda name: (
        len(name) >= length
        and name.startswith(first)
        and name.endswith(last)
        and name.find(inside, len(first), len(name) - len(last)) >= 0
    )


compiled = cache(compile_pattern)
"""`compile_pattern`, each pattern once."""


class Matching(Protocol):
    """A table with patterns; without any it is for every tensor."""

    @property
    def patterns(self) -> Sequence[str]: ...


Table = TypeVar("Table", bound=Matching)


class Tables(Generic[Table]):
    """Tables in their order, found by name: plain names by a look-up, the other patterns one by one.

    Fast where there is a table for each of many thousand tensors.
    """

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

    def numbers(self, name: str) -> tuple[int, ...]:
        """The places of those that match, in order, each once."""
        found = [number for number, matches in self._wild if matches is None or matches(name)]
        found += self._plain.get(name, ())
        return tuple(sorted(set(found))) if len(found) > 1 else tuple(found)

    def of(self, name: str) -> list[Table]:
        """Those that match, in order, each once."""
        return [self._tables[number] for number in self.numbers(name)]


class Covering:
    """Tables in their order, found by a pattern: those that match whatever the pattern matches, as far as that shows.

    It shows of the same pattern and of a glob with no wildcard but `*`, which matches the other one letter by letter.
    """

    def __init__(self, tables: Sequence[Matching]) -> None:
        self._same: dict[str, list[int]] = defaultdict(list)
        self._globs: list[tuple[int, Matcher]] = []
        for number, table in enumerate(tables):
            for pattern in table.patterns:
                self._same[pattern].append(number)
                if _has_only_stars(pattern) and not is_plain(pattern):
                    self._globs.append((number, compiled(pattern)))

    def numbers(self, pattern: str) -> tuple[int, ...]:
        """The places of those that match, in order, each once."""
        found = set(self._same.get(pattern, ()))
        if not pattern.startswith(_REGEX) and "[" not in pattern:
            found.update(number for number, matches in self._globs if matches(pattern))
        return tuple(sorted(found))


def _has_only_stars(pattern: str) -> bool:
    return not pattern.startswith(_REGEX) and not set(pattern) & set("?[]")


def is_plain(pattern: str) -> bool:
    """Whether the pattern is a name and nothing else."""
    return not pattern.startswith(_REGEX) and not _WILD & set(pattern)


def matches_any(pattern: str, names: Collection[str]) -> bool:
    """Whether the pattern matches one of the names, a set at best."""
    return pattern in names if is_plain(pattern) else any(map(compiled(pattern), names))


def unmatched(pattern: str, names: Collection[str]) -> str:
    """What to say of a pattern that matches none of the names."""
    return f"pattern '{escape_name(pattern)}' matches none of {len(names)} tensors{nearest_names(pattern, names)}"


def nearest_names(pattern: str, names: Collection[str]) -> str:
    """What a message about a pattern or a name that fits nothing may offer: names with its words, or words like them.

    Nothing where no name is like it.
    """
    words = _words(pattern.removeprefix(_REGEX))
    if not words:
        return ""
    likeness = cache(lambda part: [_likeness(word, part) for word in words])
    scores = {name: sum(map(max, zip(*map(likeness, _words(name)), strict=True))) for name in names}
    best = max(scores.values(), default=0.0)
    if not best:
        return ""
    nearest = sorted((name for name, score in scores.items() if score == best), key=lambda name: (len(name), name))
    return f"; nearest names: {listed(nearest[:NAMES_OFFERED])}"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _likeness(word: str, part: str) -> float:
    """1 of equal words, 0 of words that are not alike."""
    if word == part:
        return 1.0
    if word.isdigit():
        return 0.0
    if word in part:
        return 0.9
    ratio = SequenceMatcher(None, word, part).ratio()
    return ratio * 0.9 if ratio >= _LIKE else 0.0


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many more."""
    more = f" and {len(names) - NAMES_IN_A_MESSAGE} more" if len(names) > NAMES_IN_A_MESSAGE else ""
    return ", ".join(f"'{escape_name(name)}'" for name in names[:NAMES_IN_A_MESSAGE]) + more

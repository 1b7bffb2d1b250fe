"""Patterns on tensors: a glob, or a regular expression after `re:`, matched against the whole name.

A prefix `FILE#` also matches the file, for tensors of one name in several files. An existing tensor name matches
itself, whatever characters it contains.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from fnmatch import translate
from functools import cache
from heapq import nsmallest
from itertools import islice
from typing import Generic, Protocol, TypeVar

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.file_ref import FileRef, matches_file, split_pattern

NAMES_IN_A_MESSAGE = 5
NAMES_OFFERED = 3
_WILD = frozenset("*?[")
_REGEX = "re:"
_WORD = re.compile(r"[^\W_]+")
_LIKE = 0.6
"""Minimum similarity ratio of a misspelled word."""
_COMPARED_NAMES = 1000
_COMPARED_CHARACTERS = 200
"""Limits of the search for the nearest name: 300 names of 20,000 characters took 83 s."""


class Matcher(Protocol):
    """Predicate on a tensor's name, and on its file where that is known."""

    def __call__(self, name: str, file: FileRef | None = None, /) -> bool: ...


Holders = Mapping[str, Sequence[FileRef]]
"""Tensor name -> the files that hold a tensor of that name."""


def holders_of(tensors: Iterable[tuple[str, FileRef]]) -> Holders:
    """Return the names of the tensors, each with its files."""
    found: dict[str, tuple[FileRef, ...]] = {}
    alone: dict[FileRef, tuple[FileRef, ...]] = {}  # one tuple shared by all names of a file
    for name, file in tensors:
        before = found.get(name)
        found[name] = alone.setdefault(file, (file,)) if before is None else (*before, file)
    return found


def compile_pattern(pattern: str, names: Container[str] = ()) -> Matcher:
    """Return a predicate on a tensor's name and, where the pattern has a FILE, its `FileRef`.

    A pattern that is one of `names` matches that name; without `*` and `?` it matches nothing else.

    Raises:
        UsageError: the regular expression is malformed.
    """
    if pattern not in names:
        return compiled(pattern)
    if _means_itself(pattern):
        return _equal_to(pattern)
    test = compiled(pattern)
    return lambda name, file=None, /: name == pattern or test(name, file)


def _means_itself(name: str) -> bool:
    """Tell whether a tensor name, used as a pattern, matches that tensor alone.

    False with `*` or `?`: a checkpoint must not turn the `*` of a budget into a name.
    """
    if not name.startswith(_REGEX):
        return "*" not in name and "?" not in name
    try:
        compiled(name)
    except UsageError:
        return True
    return False


@cache
def compiled(pattern: str) -> Matcher:
    """Compile a pattern without known names; cached."""
    glob, on_name = split_pattern(pattern)
    test = _name_test(on_name)
    if glob is None:
        return test
    return lambda name, file=None, /: file is not None and test(name) and matches_file(glob, file)


def _equal_to(text: str) -> Matcher:
    return lambda name, _file=None, /: name == text


def _name_test(pattern: str) -> Matcher:
    if is_plain(pattern):
        return _equal_to(pattern)
    if _has_only_stars(pattern) and pattern.count("*") <= 2:
        return _few_stars(*pattern.split("*"))
    try:
        expression = re.compile(pattern.removeprefix(_REGEX) if pattern.startswith(_REGEX) else translate(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"pattern '{escape_name(pattern)}' is not a regular expression: {error}") from None
    return lambda name, _file=None, /: expression.fullmatch(name) is not None


def _few_stars(first: str, *others: str) -> Matcher:
    """Match a glob of these parts joined by `*`: most globs are that simple, and this is ten times as fast as `re`."""
    *middle, last = others
    length = len(first) + len(last)
    if not middle:
        return lambda name, _file=None, /: len(name) >= length and name.startswith(first) and name.endswith(last)
    (inside,) = middle
    if not length:
        return lambda name, _file=None, /: inside in name
    return lambda name, _file=None, /: (
        len(name) >= length
        and name.startswith(first)
        and name.endswith(last)
        and name.find(inside, len(first), len(name) - len(last)) >= 0
    )


class Matching(Protocol):
    """A table with patterns; without any it applies to every tensor."""

    @property
    def patterns(self) -> Sequence[str]: ...


Table = TypeVar("Table", bound=Matching)


class Tables(Generic[Table]):
    """Ordered tables, looked up by tensor: plain names by hash, other patterns one by one.

    Fast with one table for each of many thousand tensors. A pattern that is one of `names`, the names of all tensors,
    is read as by `compile_pattern`.
    """

    def __init__(self, tables: Sequence[Table], names: Container[str] = ()) -> None:
        self._tables = tables
        self._plain: dict[str, list[tuple[int, str | None]]] = defaultdict(list)  # name -> (table index, FILE)
        self._wild: list[tuple[int, Matcher | None]] = []
        for number, table in enumerate(tables):
            if not table.patterns:
                self._wild.append((number, None))
            for pattern in table.patterns:
                self._add(number, pattern, is_name=pattern in names)

    def _add(self, number: int, pattern: str, *, is_name: bool) -> None:
        glob, on_name = split_pattern(pattern)
        if is_name:
            self._plain[pattern].append((number, None))
            if _means_itself(pattern):
                return
        if is_plain(on_name):
            self._plain[on_name].append((number, glob))
        else:
            self._wild.append((number, compiled(pattern)))

    def numbers(self, name: str, file: FileRef | None = None) -> tuple[int, ...]:
        """Return the indices of the matching tables, ascending and unique."""
        found = [number for number, matches in self._wild if matches is None or matches(name, file)]
        found += [
            number
            for number, glob in self._plain.get(name, ())
            if glob is None or (file is not None and matches_file(glob, file))
        ]
        return tuple(sorted(set(found))) if len(found) > 1 else tuple(found)

    def of(self, name: str, file: FileRef | None = None) -> list[Table]:
        """Return the matching tables, in order."""
        return [self._tables[number] for number in self.numbers(name, file)]


class Covering:
    """Ordered tables, looked up by pattern: finds tables that provably match every name that the pattern matches.

    Proven for an equal pattern, and for a glob whose only wildcard is `*` that matches the pattern as a string.
    """

    def __init__(self, tables: Sequence[Matching]) -> None:
        self._same: dict[str, list[int]] = defaultdict(list)
        self._globs: list[tuple[int, str | None, Matcher]] = []
        for number, table in enumerate(tables):
            for pattern in table.patterns:
                self._same[pattern].append(number)
                glob, on_name = split_pattern(pattern)
                if _has_only_stars(pattern) and (glob is not None or not is_plain(on_name)):
                    self._globs.append((number, glob, compiled(on_name)))

    def numbers(self, pattern: str, _file: FileRef | None = None) -> tuple[int, ...]:
        """Return the indices of the matching tables, ascending and unique."""
        found = set(self._same.get(pattern, ()))
        if not pattern.startswith(_REGEX) and "[" not in pattern:
            file, on_name = split_pattern(pattern)
            found.update(
                number
                for number, glob, matches in self._globs
                if matches(on_name) and (glob is None or (file is not None and compiled(glob)(file)))
            )
        return tuple(sorted(found))


def _has_only_stars(pattern: str) -> bool:
    return not pattern.startswith(_REGEX) and not set(pattern) & set("?[]")


def is_plain(pattern: str) -> bool:
    """Tell whether the pattern, which has no FILE, is a name without wildcards."""
    return not pattern.startswith(_REGEX) and not _WILD & set(pattern)


def matches_any(pattern: str, holders: Holders) -> bool:
    """Tell whether the pattern matches one of the tensors."""
    if pattern in holders:
        return True
    glob, on_name = split_pattern(pattern)
    if glob is None:
        return not is_plain(pattern) and any(map(compiled(pattern), holders))
    matches = compiled(pattern)
    names = holders if not is_plain(on_name) else [on_name] if on_name in holders else []
    return any(matches(name, file) for name in names for file in holders[name])


def unmatched(pattern: str, holders: Holders) -> str:
    """Return the message for a pattern that matches none of the tensors, with a suggestion."""
    glob, on_name = split_pattern(pattern)
    files = dict.fromkeys(file for found in holders.values() for file in found) if glob is not None else {}
    if glob is not None and not any(matches_file(glob, file) for file in files):
        offer = f"; no file matches '{escape_name(glob)}'; files: {listed([file.relative for file in files])}"
    else:
        offer = _matching_glob(on_name, holders) or nearest_names(on_name, holders)
    count = sum(map(len, holders.values()))
    return f"pattern '{escape_name(pattern)}' matches none of {count} tensors{offer}"


def _matching_glob(name: str, names: Collection[str]) -> str:
    """Suggest a glob for an unknown name: a module or a part of names; empty where none matches."""
    if not name or not is_plain(name):
        return ""
    for glob in (f"{name}.*", f"*.{name}", f"*.{name}.*", f"*{name}*"):
        if found := list(filter(compile_pattern(glob), names)):
            meant, which = (found[0], "") if len(found) == 1 else (glob, f", which matches {len(found):,}")
            return f"; did you mean '{escape_name(meant)}'{which}"
    return ""


def nearest_names(pattern: str, names: Collection[str]) -> str:
    """Suggest names for a pattern or name that matches nothing: names with its words, or with similar words.

    Empty where no name is similar. The search is limited in the number and the length of names.
    """
    words = _words(pattern.removeprefix(_REGEX))
    if not words:
        return ""
    likeness = cache(lambda part: [_likeness(word, part) for word in words])
    scores = {name: sum(map(max, zip(*map(likeness, _words(name)), strict=True))) for name in _compared(words, names)}
    best = max(scores.values(), default=0.0)
    if not best:
        return ""
    nearest = nsmallest(
        NAMES_OFFERED, (name for name, score in scores.items() if score == best), key=lambda name: (len(name), name)
    )
    return f"; nearest names: {listed(nearest)}"


def _compared(words: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the names to compare: those with one of the words, else any."""
    if len(names) <= _COMPARED_NAMES:
        return list(names)
    letters = [word for word in words if not word.isdigit()]
    alike = (name for name in names if any(word in name[:_COMPARED_CHARACTERS].lower() for word in letters))
    return list(islice(alike, _COMPARED_NAMES)) or list(islice(names, _COMPARED_NAMES))


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:_COMPARED_CHARACTERS].lower())


def _likeness(word: str, part: str) -> float:
    """Return the similarity of two words: 1 where equal, 0 where dissimilar."""
    if word == part:
        return 1.0
    if word.isdigit():
        return 0.0
    if word in part:
        return 0.9
    matcher = SequenceMatcher(None, word, part)
    if matcher.real_quick_ratio() < _LIKE or matcher.quick_ratio() < _LIKE:
        return 0.0
    ratio = matcher.ratio()
    return ratio * 0.9 if ratio >= _LIKE else 0.0


def listed(names: Sequence[str], count: int = NAMES_IN_A_MESSAGE) -> str:
    """Return names for a message: the first few, and the number of the rest."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(f"'{escape_name(name)}'" for name in names[:count]) + more

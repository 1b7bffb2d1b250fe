"""Renaming of tensors by patterns OLD=NEW, to pair checkpoints whose names differ."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.patterns import nearest_names

_PREFIXES = 3
"""Components of a name that a suggested renaming may exchange."""
_AMBIGUOUS = 16
"""Prefixes of one rest from which on it tells nothing: pairs of names that end alike are quadratic in their number."""


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """One OLD=NEW."""

    text: str
    expression: re.Pattern[str]
    """Regular expression on the whole old name, with a group for each wildcard."""
    replacement: Sequence[str] | str
    """The new name split at its wildcards; for a regular expression, its template."""

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Parse a glob whose `*` and `?` the new name repeats in order, or `re:REGEX=TEMPLATE` with `\1`.

        Raises:
            UsageError: there is no `=`, the wildcards do not fit, or the regular expression is malformed.
        """
        old, equals, new = text.partition("=")
        if not equals or not old or not new:
            raise UsageError(f"--map '{escape_name(text)}' is not OLD=NEW")
        if old.startswith("re:"):
            return cls(text=text, expression=_compiled(old.removeprefix("re:"), text), replacement=new)
        parts = re.split(r"([*?])", old)
        pattern = "".join({"*": "(.*)", "?": "(.)"}.get(part, re.escape(part)) for part in parts)
        pieces = re.split(r"[*?]", new)
        if re.findall(r"[*?]", new) != parts[1::2]:
            raise UsageError(f"--map '{escape_name(text)}': NEW needs the wildcards of OLD, in the same order")
        return cls(text=text, expression=_compiled(pattern, text), replacement=pieces)

    def new_name(self, name: str) -> str | None:
        """Return the new name; None where the pattern does not match."""
        match = self.expression.fullmatch(name)
        if match is None:
            return None
        if isinstance(self.replacement, str):
            try:
                return match.expand(self.replacement)
            except (re.error, IndexError) as error:
                raise UsageError(f"--map '{escape_name(self.text)}': {error}") from None
        first, *others = self.replacement
        return first + "".join(found + piece for found, piece in zip(match.groups(), others, strict=True))


def new_names(
    names: Sequence[str], renamings: Sequence[Renaming], *, allow_unmatched: bool
) -> tuple[Mapping[str, str], list[str]]:
    """Return old name -> new name by the first matching pattern, and warnings.

    Raises:
        UsageError: a pattern matches no name (a warning with `allow_unmatched`), or two names become one.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        found[name] = name
        for renaming in renamings:
            new = renaming.new_name(name)
            if new is not None:
                found[name] = new
                used.add(renaming.text)
                break
    warnings = [
        f"--map '{escape_name(renaming.text)}' matches none of {len(names)} tensors"
        f"{nearest_names(renaming.text.partition('=')[0], names)}"
        for renaming in renamings
        if renaming.text not in used
    ]
    if warnings and not allow_unmatched:
        raise UsageError(f"{warnings[0]}; --allow-unmatched makes this a warning")
    owners: dict[str, str] = {}
    for name, new in found.items():
        if new in owners:
            raise UsageError(
                f"'{escape_name(owners[new])}' and '{escape_name(name)}' both become '{escape_name(new)}'; "
                "make the --map patterns narrower"
            )
        owners[new] = name
    return found, warnings


def suggestion(ours: Collection[str], theirs: Collection[str]) -> str | None:
    """Return the renaming of a prefix (`bert.*=*`) that pairs most of the names; None if none pairs half of them."""
    prefixes: dict[str, list[str]] = defaultdict(list)
    for name in theirs:
        for prefix, rest in _split(name):
            prefixes[rest].append(prefix)
    telling = {rest: found for rest, found in prefixes.items() if len(found) < _AMBIGUOUS}
    pairs = Counter((old, new) for name in ours for old, rest in _split(name) for new in telling.get(rest, ()))
    if not pairs:
        return None
    (old, new), count = min(pairs.items(), key=lambda item: (-item[1], len("".join(item[0])), item[0]))
    return f"{old}*={new}*" if 2 * count >= len(ours) else None


def _split(name: str) -> Iterator[tuple[str, str]]:
    """Yield a name's first components, none to three of them, and the rest."""
    parts = name.split(".", _PREFIXES)
    for count in range(len(parts)):
        yield "".join(f"{part}." for part in parts[:count]), ".".join(parts[count:])


def _compiled(pattern: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UsageError(f"--map '{escape_name(text)}' is not a regular expression: {error}") from None

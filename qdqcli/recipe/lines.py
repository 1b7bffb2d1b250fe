"""Line numbers of the keys and elements of a TOML or JSON text, for messages.

The text must be well-formed: the parser has reported errors before.
"""

import re
from json import loads

KeyPath = tuple[str | int, ...]
"""Keys and indices from the top: `("rules", 0, "match")`."""

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[][{},=:\n]"
    r"""|[^][{},=:"'#\s]+""",
    re.DOTALL,
)
_KEY_PART = re.compile(r'"(?:[^"\\]|\\.)*"' r"|'[^']*'" r"""|[^.\s"']+""")
_ENDS = frozenset("],}\n")


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of each key, table and array element."""
    return _Walk(text, "=").toml()


def json_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of each key and array element."""
    walk = _Walk(text, ":")
    walk.value(())
    return walk.lines


class _Walk:
    def __init__(self, text: str, separator: str) -> None:
        self._separator = separator
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        self.lines: dict[KeyPath, int] = {}
        line = 1
        for match in _TOKEN.finditer(text):
            token = match[0]
            if not token.startswith("#"):
                self._tokens.append((token, line))
            line += token.count("\n")

    def toml(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        lengths: dict[KeyPath, int] = {}
        """Length so far of each array of tables."""
        while self._skip("\n"):
            line = self._tokens[self._at][1]
            if self._peek() != "[":
                self._pair(table)
                continue
            self._at += 1
            is_array = self._peek() == "["
            *parents, last = self._key("]")
            table = _inside((), parents, lengths)
            if is_array:
                self._at += 1
                array = (*table, last)
                lengths[array] = lengths.get(array, 0) + 1
            table = _inside(table, [last], lengths)
            self.lines[table] = line
        return self.lines

    def value(self, path: KeyPath) -> None:
        self._skip("\n")
        opening = self._peek()
        if opening not in ("[", "{"):
            while self._at < len(self._tokens) and self._peek() not in _ENDS:
                self._at += 1
            return
        self._at += 1
        number = 0
        while self._skip(",\n") and self._peek() not in ("]", "}"):
            if opening == "{":
                self._pair(path)
            else:
                self.lines[(*path, number)] = self._tokens[self._at][1]
                self.value((*path, number))
            number += 1
        self._at += 1

    def _pair(self, table: KeyPath) -> None:
        line = self._tokens[self._at][1]
        path = table
        for part in self._key(self._separator):
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.value(path)

    def _key(self, end: str) -> list[str]:
        """Consume a key with its terminator `end`; returns its parts."""
        text = ""
        while (token := self._peek()) != end:
            text += token.removeprefix("[")
            self._at += 1
        self._at += 1
        return [_unquoted(part) for part in _KEY_PART.findall(text)]

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _skip(self, what: str) -> bool:
        """Skip tokens of these kinds; returns True where text is left."""
        while self._at < len(self._tokens) and self._tokens[self._at][0] in what:
            self._at += 1
        return self._at < len(self._tokens)


def _inside(table: KeyPath, keys: list[str], lengths: dict[KeyPath, int]) -> KeyPath:
    """Return the path of the named table; for an array of tables, of its last element so far."""
    for key in keys:
        table = (*table, key)
        if table in lengths:
            table = (*table, lengths[table] - 1)
    return table


def _unquoted(part: str) -> str:
    if part.startswith('"'):
        try:
            return str(loads(part))
        except ValueError:  # an escape unknown to JSON
            return part[1:-1]
    return part[1:-1] if part.startswith("'") else part

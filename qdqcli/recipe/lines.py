"""Where in a TOML or JSON text each key and each element stands: the lines that messages about it name.

The text was parsed before: what is not well-formed is for the parser to say.
"""

import re
from json import loads

Path = tuple[str | int, ...]
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


def toml_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each key, table and element of an array."""
    return _Walk(text, "=").toml()


def json_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each key and element of an array."""
    walk = _Walk(text, ":")
    walk.value(())
    return walk.lines


class _Walk:
    def __init__(self, text: str, separator: str) -> None:
        self._separator = separator
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        self.lines: dict[Path, int] = {}
        line = 1
        for match in _TOKEN.finditer(text):
            token = match[0]
            if not token.startswith("#"):
                self._tokens.append((token, line))
            line += token.count("\n")

    def toml(self) -> dict[Path, int]:
        table: Path = ()
        lengths: dict[Path, int] = {}
        """Of arrays of tables, so far."""
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

    def value(self, path: Path) -> None:
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

    def _pair(self, table: Path) -> None:
        line = self._tokens[self._at][1]
        path = table
        for part in self._key(self._separator):
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.value(path)

    def _key(self, end: str) -> list[str]:
        """The parts of a key up to its end, which is taken too."""
        text = ""
        while (token := self._peek()) != end:
            text += token.removeprefix("[")
            self._at += 1
        self._at += 1
        return [_unquoted(part) for part in _KEY_PART.findall(text)]

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _skip(self, what: str) -> bool:
        """Pass over these tokens; whether anything is left."""
        while self._at < len(self._tokens) and self._tokens[self._at][0] in what:
            self._at += 1
        return self._at < len(self._tokens)


def _inside(table: Path, keys: list[str], lengths: dict[Path, int]) -> Path:
    """The table of that name; of an array of tables, its last one so far."""
    for key in keys:
        table = (*table, key)
        if table in lengths:
            table = (*table, lengths[table] - 1)
    return table


def _unquoted(part: str) -> str:
    if part.startswith('"'):
        try:
            return str(loads(part))
        except ValueError:  # an escape that JSON does not know
            return part[1:-1]
    return part[1:-1] if part.startswith("'") else part

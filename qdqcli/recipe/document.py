"""Document: a TOML or JSON file of the user, validated against its schema; every error names the line."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.plain import Parsed
from qdqcli.recipe.lines import KeyPath, json_lines, toml_lines
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.schema import known_keys, of_table, tables_of
from qdqcli.result.schema_check import Schema, expected, is_valid
from qdqcli.tensors.input_file import MAX_TEXT_BYTES, read_file, read_pipe
from qdqcli.tensors.path import is_pipe
from qdqcli.tensors.strict_json import parse_object

_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
"""Suffix of tomllib's messages."""
Tables = Mapping[str, Schema]
"""Tables of a file by name, to suggest where an unknown key belongs."""


def read_text(path: Path, what: str, *, may_be_pipe: bool = False) -> str:
    """Return the text of a file, or of a pipe where that may be, with its line endings, without a byte order mark.

    `what` tells the user in errors what the file should be.

    Raises:
        UsageError: no such file, not a regular file, too large, not UTF-8.
    """
    try:
        read = read_pipe if may_be_pipe and is_pipe(path) else read_file
        return read(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except InputError as error:
        raise UsageError(f"{error}; {what}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{show_path(path)}: not UTF-8 at byte {error.start}; {what}") from None


@dataclass(frozen=True)
class Document:
    """Parsed data of a text with the line of each key."""

    source: str
    """The file as the user gave it, or another name for messages."""
    text: str
    is_json: bool = False

    @cached_property
    def data(self) -> Parsed:
        """The top-level table.

        Raises:
            UsageError: malformed.
        """
        try:
            return parse_object(self.text.encode()) if self.is_json else tomllib.loads(self.text)
        except MalformedError as error:
            raise UsageError(f"{self.source}: {error}") from None
        except ValueError as error:  # a TOMLDecodeError, or an integer of more digits than Python converts
            line = _LINE.search(str(error))
            where = f"{self.source}:{line[1]}" if line else self.source
            raise UsageError(f"{where}: not TOML: {escape_name(_LINE.sub('', str(error)))}") from None
        except RecursionError:
            raise UsageError(f"{self.source}: nested too deeply") from None

    @cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        return json_lines(self.text) if self.is_json else toml_lines(self.text)

    def line(self, key_path: KeyPath) -> int:
        """Return the line of a key, else the first line inside it, else the line of its table."""
        while key_path:
            if key_path in self._lines:
                return self._lines[key_path]
            inside = [line for path, line in self._lines.items() if path[: len(key_path)] == key_path]
            if inside:
                return min(inside)
            key_path = key_path[:-1]
        return 1

    def fail(self, key_path: KeyPath, message: str) -> NoReturn:
        """Raise a UsageError that names the line of `key_path`."""
        raise UsageError(f"{self.source}:{self.line(key_path)}: {message}")

    def check(self, schema: Schema, key_path: KeyPath = ()) -> Parsed:
        """Return the table at `key_path`, validated against its schema.

        Raises:
            UsageError: an unknown key (offers the nearest), a value of the wrong kind, a missing key.
        """
        value: Any = self.data
        for key in key_path:
            value = value[key]
        tables = dict(tables_of(schema, "".join(f"{part}." for part in key_path)))
        self._check_table(value, schema, key_path, self.name(key_path) if key_path else "", tables)
        found: Parsed = value
        return found

    def name(self, key_path: KeyPath) -> str:
        """Return the name of a table for messages: `[limits]`, `[[tensors]] 2`."""
        dotted = ".".join(part for part in key_path if isinstance(part, str))
        return f"[[{dotted}]] {key_path[-1] + 1}" if isinstance(key_path[-1], int) else f"[{dotted}]"

    def patterns(self, table: Parsed, key_path: KeyPath, name: str) -> tuple[str, ...]:
        """Return the patterns at `key_path`, one or a list; each one compiles."""
        value = table[str(key_path[-1])]
        patterns = (value,) if isinstance(value, str) else tuple(value)
        for index, pattern in enumerate(patterns):
            try:
                compile_pattern(pattern)
            except UsageError as error:
                self.fail((*key_path, index) if (*key_path, index) in self._lines else key_path, f"{name}: {error}")
        return patterns

    def _check_table(self, value: Parsed, schema: Schema, key_path: KeyPath, name: str, tables: Tables) -> None:
        known = known_keys(schema)
        properties = schema["properties"]
        for key in value:
            of_key = properties.get(key)
            where = f" in {name}" if name else ""
            if of_key is None:
                self.fail((*key_path, key), f"unknown key '{escape_name(key)}'{where}; {_offer(key, known, tables)}")
            if "not" in of_key:
                self.fail((*key_path, key), f"{key}{where}: {of_key['description']}")
            self._check(value[key], of_key, (*key_path, key), name, tables)
        for key in schema.get("required", ()):
            if key not in value:
                needed = properties[key]
                self.fail(key_path, f"{name or 'the file'} has no {key}; {expected(needed)} is needed")

    def _check(self, value: object, schema: Schema, key_path: KeyPath, table: str, tables: Tables) -> None:
        if isinstance(value, dict):
            schema = of_table(schema)
        if schema.get("type") == "object":
            if not isinstance(value, dict):
                self.fail(key_path, f"{key_path[-1]} must be a table, {self.name(key_path)}")
            self._check_table(value, schema, key_path, self.name(key_path), tables)
        elif "properties" in schema.get("items", {}):
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                self.fail(key_path, f"{key_path[-1]} must be tables, [{self.name(key_path)}]")
            for index, item in enumerate(value):
                name = self.name((*key_path, index))
                if "title" in schema["items"]:
                    name = f"{schema['items']['title']} {index + 1}"
                self._check_table(item, schema["items"], (*key_path, index), name, tables)
        elif not is_valid(value, schema):
            prefix = f"{table}: " if table else ""
            self.fail(key_path, f"{prefix}{key_path[-1]} is {_shown(value)}; it must be {expected(schema)}")


def _shown(value: object) -> str:
    """Return a value as the file spells it."""
    if isinstance(value, date | time):
        return value.isoformat()
    try:
        return escape_name(str(value).lower() if isinstance(value, bool) else repr(value))
    except ValueError:  # an integer of more digits than Python converts
        return "a number of very many digits"


def _offer(key: str, known: Sequence[str], tables: Tables) -> str:
    """Suggest a key for an unknown one: from its table, or from another."""
    word = key.lower().replace("-", "_")[:100]
    elsewhere: dict[str, list[str]] = {}
    for name, table in tables.items():
        for other in known_keys(table):
            elsewhere.setdefault(other, []).append(name)
    nearest = get_close_matches(word, known, n=1, cutoff=0.5)
    if nearest and word not in elsewhere:
        return f"the nearest is {nearest[0]}"
    if nearest := get_close_matches(word, elsewhere, n=1):
        return f"the nearest is {nearest[0]}, which stands in {' or '.join(elsewhere[nearest[0]][:3])}"
    return f"known are {', '.join(known)}"

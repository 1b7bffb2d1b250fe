"""Table: typed access to a file of another tool; unknown keys are left alone, values of a wrong kind are errors."""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.plain import Parsed

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Table:
    """An object of a JSON or YAML file."""

    data: Parsed
    where: str
    """The file, and the path of keys to this object, for messages."""

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise a UsageError on the value of a key."""
        # bounded: aliases of YAML make a small file a huge object
        found = f"is {escape_name(reprlib.repr(self.data[key]), 60)}" if key in self.data else "is missing"
        raise UsageError(f"{self.where}{escape_name(key)} {found}; expected {expected}")

    def _value(self, keys: Sequence[str], kind: type[Kind], default: Kind | None, expected: str) -> Kind:
        for key in keys:
            value = self.data.get(key)
            if value is not None:
                if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
                    self.fail(key, expected)
                return value
        if default is None:
            self.fail(keys[0], expected)
        return default

    def integer(self, *keys: str, default: int | None = None) -> int:
        """Return the integer under the first of the keys that is there; without a default there must be one."""
        return self._value(keys, int, default, "an integer")

    def bits(self, *keys: str, default: int | None = None) -> int:
        """Return a number of bits: 1 to 61, or 16 and more for float."""
        found = self.integer(*keys, default=default)
        if not 1 <= found <= 61:
            self.fail(next((key for key in keys if key in self), keys[0]), "a number of bits")
        return found

    def text(self, *keys: str, default: str | None = None) -> str:
        """Return the text under the first of the keys that is there."""
        return self._value(keys, str, default, "a text")

    def flag(self, *keys: str, default: bool | None = None) -> bool:
        """Return the boolean under the first of the keys that is there."""
        return self._value(keys, bool, default, "true or false")

    def texts(self, *keys: str) -> list[str]:
        """Return the texts in a list, in lists of one, or alone, under the first of the keys; empty without one."""
        key = next((key for key in keys if key in self), keys[0])
        value = self.data.get(key, ())
        items = value if isinstance(value, list | tuple) else [] if value is None else [value]
        found = [text for item in items for text in (item if isinstance(item, list) else [item])]
        if not all(isinstance(item, str) and item for item in found):
            self.fail(key, "a list of texts")
        return found

    def table(self, key: str) -> "Table":
        """Return the object under a key; an empty one without it."""
        return Table(self._value([key], dict, {}, "an object"), f"{self.where}{escape_name(key)}.")

    def tables(self, key: str) -> "list[Table]":
        """Return the list of objects under a key; empty without it."""
        found = self._value([key], list, [], "a list of objects")
        if not all(isinstance(item, dict) for item in found):
            self.fail(key, "a list of objects")
        return [Table(item, f"{self.where}{escape_name(key)}[{number}].") for number, item in enumerate(found)]

    def items(self) -> "Iterator[tuple[str, Table]]":
        """Yield the values that are objects, by key."""
        for key, value in self.data.items():
            if isinstance(key, str) and isinstance(value, dict):
                yield key, self.table(key)

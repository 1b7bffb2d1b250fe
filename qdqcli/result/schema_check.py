"""Validation of JSON values against the JSON schema keywords that `schema.py` uses.

One deviation from JSON schema: an integer is written without a decimal point, so 8.0 is not one.
"""

from collections.abc import Callable, Iterable, Mapping
from re import compile as compile_regex
from types import NoneType
from typing import Any

from qdqcli.escape import escape_name

Schema = Mapping[str, Any]
Check = Callable[[Any], None]
"""Validator that returns, or raises `MismatchError`."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (NoneType,),
    "integer": (int,),
    "number": (int, float),
}
_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
    "integer": "an integer",
    "number": "a number",
}
_SHOWN = 40
"""Maximum number of characters of a value shown in a message."""


class MismatchError(Exception):
    """A mismatch and the path to it: `tensors[3].spec.num_bits: found 99, expected ...`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self._way: list[str] = []

    def __str__(self) -> str:
        way = "".join(reversed(self._way)).removeprefix(".")
        return f"{way}: {self.args[0]}" if way else str(self.args[0])

    def inside(self, step: str) -> "MismatchError":
        """Prepend a step to the path: the object or list that holds the value."""
        self._way.append(step)
        return self


def step_to(key: str) -> str:
    """Return the path step from an object to its member."""
    return f".{key}" if key.isidentifier() and key.isascii() else f"['{escape_name(key, _SHOWN)}']"


def check_of(schema: Schema) -> Check:
    """Compile a schema to a validator: one function per allowed Python type."""
    kinds = schema.get("type", list(_NAMES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    checks: dict[type, Check | None] = {kind: _check_of_type(kind, schema) for name in kinds for kind in _TYPES[name]}

    def refuse(value: Any) -> None:
        raise _mismatch(value, schema)

    def check(value: Any) -> None:
        of_type = checks.get(type(value), refuse)
        if of_type is not None:
            of_type(value)

    return check


def expected(schema: Schema) -> str:
    """Describe the expected value: `an integer from 1 to 62`."""
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"])) if len(schema["enum"]) > 1 else str(schema["enum"][0])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join(_NAMES[kind] for kind in kinds)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    if "pattern" in schema:
        words += f" that matches {schema['pattern']}"
    return words


def _mismatch(value: Any, schema: Schema) -> MismatchError:
    found = type(value).__name__ if isinstance(value, dict | list) else _shown(value)
    found = {"dict": "an object", "list": "a list", "None": "null", "True": "true", "False": "false"}.get(found, found)
    return MismatchError(f"found {found}, expected {expected(schema)}")


def _shown(value: Any) -> str:
    try:
        return escape_name(repr(value[: 2 * _SHOWN] if isinstance(value, str) else value), _SHOWN)
    except ValueError:  # more digits than Python formats
        return "an integer of thousands of digits"


def _check_of_type(kind: type, schema: Schema) -> Check | None:
    """Return the validator of a value of an allowed type; None if the type suffices."""
    if "enum" in schema and kind in (str, int, bool):
        return _check_of_words([word for word in schema["enum"] if type(word) is kind], schema)
    if kind in (int, float) and "minimum" in schema:
        return _check_of_number(schema)
    if kind is str and schema.keys() & {"maxLength", "pattern"}:
        return _check_of_text(schema)
    if kind is list and schema.keys() & {"items", "maxItems"}:
        return _check_of_list(schema)
    if kind is dict:
        return _check_of_object(schema)
    return None


def _check_of_words(words: Iterable[object], schema: Schema) -> Check:
    allowed = frozenset(words)

    def check(value: Any) -> None:
        if value not in allowed:
            raise _mismatch(value, schema)

    return check


def _check_of_number(schema: Schema) -> Check:
    low, high = schema["minimum"], schema["maximum"]

    def check(value: Any) -> None:
        if not low <= value <= high:
            raise _mismatch(value, schema)

    return check


def _check_of_text(schema: Schema) -> Check:
    longest = schema["maxLength"]
    matches = compile_regex(schema.get("pattern", "")).search

    def check(value: Any) -> None:
        if len(value) > longest:
            raise MismatchError(f"found {len(value)} characters, expected at most {longest}")
        if not matches(value):
            raise _mismatch(value, schema)

    return check


def _check_of_list(schema: Schema) -> Check:
    most = schema.get("maxItems")
    check_item = check_of(schema.get("items", {}))

    def check(value: Any) -> None:
        if most is not None and len(value) > most:
            raise MismatchError(f"found {len(value)} items, expected at most {most}")
        for index, item in enumerate(value):
            try:
                check_item(item)
            except MismatchError as error:
                raise error.inside(f"[{index}]") from None

    return check


def _check_of_object(schema: Schema) -> Check:
    required = schema.get("required", ())
    members = {key: check_of(of_key) for key, of_key in schema.get("properties", {}).items()}
    check_other = check_of(schema["additionalProperties"]) if "additionalProperties" in schema else None
    check_key = check_of(schema["propertyNames"]) if "propertyNames" in schema else None
    branches = [check_of(schema[word]) for word in ("if", "then", "else")] if "if" in schema else None

    def check(value: Any) -> None:
        for key in required:
            if key not in value:
                raise MismatchError(f"has no '{key}'")
        for key, member in value.items():
            check_member = members.get(key, check_other)
            try:
                if check_key is not None:
                    check_key(key)
                if check_member is not None:
                    check_member(member)
            except MismatchError as error:
                raise error.inside(step_to(key)) from None
        if branches is not None:
            condition, then, otherwise = branches
            try:
                condition(value)
            except MismatchError:
                then = otherwise
            then(value)

    return check

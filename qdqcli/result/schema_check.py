"""Validation of values from JSON and TOML against JSON schema: the keywords that the schemas of our files use.

Reports deviate in one point: an integer is written without a decimal point, so 8.0 is not one. Numbers are finite.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import partial
from re import compile as compile_regex
from sys import float_info
from types import NoneType
from typing import Any

from qdqcli.escape import escape_name
from qdqcli.plain import Parsed

Schema = Parsed
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
_FEW = 3
"""Maximum number of words of a closed set that are shown with `or`."""
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


def check_of(schema: Schema, *, whole_floats: bool = False) -> Check:
    """Compile a schema to a validator: one function per allowed Python type; with `whole_floats`, 8.0 is an integer."""
    if "anyOf" in schema:
        return partial(_check_any, [check_of(part, whole_floats=whole_floats) for part in schema["anyOf"]], schema)
    checks = {kind: _check_of_type(kind, schema) for kind in _types_of(schema, whole_floats)}

    def refuse(value: object) -> None:
        raise _mismatch(value, schema)

    def check(value: object) -> None:
        of_type = checks.get(type(value), refuse)
        if of_type is not None:
            of_type(value)

    return check


_COMPILED: dict[int, tuple[Schema, Check]] = {}
"""Identity of a schema, which is kept with it -> its validator: a recipe may have thousands of rules."""


def is_valid(value: object, schema: Schema) -> bool:
    """Tell whether a value of a TOML or JSON file is valid: 8.0 is an integer, a date may be a text."""
    if id(schema) not in _COMPILED:
        _COMPILED[id(schema)] = schema, check_of(schema, whole_floats=True)
    try:
        _COMPILED[id(schema)][1](value)
    except MismatchError:
        return False
    return True


def expected(schema: Schema) -> str:
    """Describe the expected value: `an integer from 1 to 62`."""
    if "anyOf" in schema:
        return " or ".join(map(expected, schema["anyOf"])).replace(" or a list", " or a list of them")
    if "enum" in schema:
        shown = [f'"{word}"' if isinstance(word, str) else str(word).lower() for word in schema["enum"]]
        return f"one of {', '.join(map(str, schema['enum']))}" if len(shown) > _FEW else " or ".join(shown)
    if "examples" in schema:
        return f"one such as {', '.join(schema['examples'])}"
    if schema.get("additionalProperties") is False:
        return "a table"
    if schema.get("format") == "date":
        return "a date such as 2027-01-31"
    words = schema.get("title") or " or ".join(_NAMES[kind] for kind in _kinds_of(schema))
    if "pattern" in schema and "title" not in schema:
        words += f" that matches {schema['pattern']}"
    more_than, low, high = (schema.get(word) for word in ("exclusiveMinimum", "minimum", "maximum"))
    if more_than is not None:
        return f"{words} above {more_than} and up to {high}"
    if low is None or low == -float_info.max:
        return words
    return f"{words} from {low} on" if high is None else f"{words} from {low} to {high}"


def _kinds_of(schema: Schema) -> list[str]:
    kinds = schema.get("type", list(_NAMES))
    return [kinds] if isinstance(kinds, str) else kinds


def _types_of(schema: Schema, whole_floats: bool) -> Iterable[type]:
    """Yield the Python types of allowed values."""
    if "enum" in schema and "type" not in schema:
        yield from map(type, schema["enum"])
        return
    for kind in _kinds_of(schema):
        yield from _TYPES[kind]
        if kind == "integer" and whole_floats:
            yield float
        if kind == "string" and schema.get("format") == "date":
            yield date


def _check_any(checks: Iterable[Check], schema: Schema, value: object) -> None:
    for check in checks:
        try:
            return check(value)
        except MismatchError:
            continue
    raise _mismatch(value, schema)


def _mismatch(value: object, schema: Schema) -> MismatchError:
    found = type(value).__name__ if isinstance(value, dict | list) else _shown(value)
    found = {"dict": "an object", "list": "a list", "None": "null", "True": "true", "False": "false"}.get(found, found)
    return MismatchError(f"found {found}, expected {expected(schema)}")


def _shown(value: object) -> str:
    try:
        return escape_name(repr(value[: 2 * _SHOWN] if isinstance(value, str) else value), _SHOWN)
    except ValueError:  # more digits than Python formats
        return "an integer of thousands of digits"


def _check_of_type(kind: type, schema: Schema) -> Check | None:
    """Return the validator of a value of an allowed type; None if the type suffices."""
    if "enum" in schema and kind in (str, int, bool):
        return _check_of_words([word for word in schema["enum"] if type(word) is kind], schema)
    if kind in (int, float):
        return _check_of_number(schema)
    if kind is str and schema.get("format") == "date":
        return partial(_check_date, schema)
    if kind is str and schema.keys() & {"minLength", "maxLength", "pattern"}:
        return _check_of_text(schema)
    if kind is list and schema.keys() & {"items", "minItems", "maxItems"}:
        return _check_of_list(schema)
    if kind is dict:
        return _check_of_object(schema)
    return None


def _check_of_words(words: Iterable[object], schema: Schema) -> Check:
    allowed = frozenset(words)

    def check(value: object) -> None:
        if value not in allowed:
            raise _mismatch(value, schema)

    return check


def _check_of_number(schema: Schema) -> Check:
    low, high = schema.get("minimum", -float_info.max), schema.get("maximum", float_info.max)
    more_than = schema.get("exclusiveMinimum")
    is_whole = _kinds_of(schema) == ["integer"]

    def check(value: float) -> None:
        if not low <= value <= high or (more_than is not None and value <= more_than) or (is_whole and value % 1):
            raise _mismatch(value, schema)

    return check


def _check_date(schema: Schema, value: str) -> None:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise _mismatch(value, schema) from None


def _check_of_text(schema: Schema) -> Check:
    least, longest = schema.get("minLength", 0), schema.get("maxLength")
    matches = compile_regex(schema.get("pattern", "")).search

    def check(value: str) -> None:
        if longest is not None and len(value) > longest:
            raise MismatchError(f"found {len(value)} characters, expected at most {longest}")
        if len(value) < least or not matches(value):
            raise _mismatch(value, schema)

    return check


def _check_of_list(schema: Schema) -> Check:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    check_item = check_of(schema.get("items", {}))

    def check(value: list[object]) -> None:
        if most is not None and len(value) > most:
            raise MismatchError(f"found {len(value)} items, expected at most {most}")
        if len(value) < least:
            raise MismatchError(f"found {len(value)} items, expected at least {least}")
        for index, item in enumerate(value):
            try:
                check_item(item)
            except MismatchError as error:
                raise error.inside(f"[{index}]") from None

    return check


def _check_of_object(schema: Schema) -> Check:
    required = schema.get("required", ())
    members = {key: check_of(of_key) for key, of_key in schema.get("properties", {}).items()}
    others = schema.get("additionalProperties", {})  # False: none
    check_other = check_of(others or {"enum": []}) if "additionalProperties" in schema else None
    check_key = check_of(schema["propertyNames"]) if "propertyNames" in schema else None
    branches = [check_of(schema[word]) for word in ("if", "then", "else")] if "if" in schema else None

    def check(value: dict[str, object]) -> None:
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
